"""Runs one call in agog and in PyTorch: values, first and second derivatives; and says where they differ."""

import ml_dtypes
import numpy as np
from agreement.peer import torch
from sampling import as_tensors, is_array, is_inexact, tensors_in

import agog as ag
from agog.array import dtypes
from agog.autodiff.engine import gradients
from agog.dispatch import tensors, wrap
from agog.tape import Leaf

UNSUPPORTED = (
    "not implemented for",
    "not implemented for '",
    "is not currently implemented",
    "not supported",
    "does not support",
    "unsupported",
    "is not implemented",
    "expected scalar type",
    "only supports",
    "expected a floating",
    "Expected a floating",
    "must be floating",
    "floating-point",
    "Unsupported dtype",
    "twice",
    "Low precision",
    "non-complex",
    "is undefined for",
    "Unsupported input type",
    "could not infer output dtype",
    "must be either float or double",
    "not yet implemented",
    "only support floating",
)


class Missing(Exception):
    """PyTorch does not have this for this dtype, or not this derivative."""


# ----------------------------------------------------------------------------------------------- from one to the other
def to_torch(x):
    """A contiguous torch copy of an array: PyTorch knows no negative strides."""
    if isinstance(x, tuple | list):
        return type(x)(to_torch(v) for v in x)
    if not is_array(x):
        return x
    x = np.array(x, copy=True, order="C")
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def to_numpy(t):
    t = t.detach().resolve_conj().resolve_neg()
    return (
        t.view(torch.int16).numpy(force=True).view(ml_dtypes.bfloat16)
        if t.dtype == torch.bfloat16
        else t.numpy(force=True)
    )


def arrays_in(x):
    """The arrays among the inputs, also those inside of lists."""
    if isinstance(x, tuple | list):
        return [a for v in x for a in arrays_in(v)]
    return [x] if is_array(x) else []


def replaced(x, new):
    """`x` with its arrays replaced, in order, by the items of the iterator `new`."""
    if isinstance(x, tuple | list):
        return type(x)(replaced(v, new) for v in x)
    return next(new) if is_array(x) else x


# ------------------------------------------------------------------------------------------------------------ a call
class Call:
    """`f(*inputs, **statics)` in both frameworks, with the same random weights for both."""

    def __init__(self, entry, inputs, statics):
        self.entry, self.inputs, self.statics = entry, tuple(inputs), statics
        self.arrays = arrays_in(self.inputs)
        self.rng = np.random.default_rng(3)

    def own(self, ts, statics):
        if self.entry.own is not None:
            return self.entry.own(tensors, *ts, **statics)
        homes = (ag.linalg, ag.fft, ag, tensors) if self.arrays else (tensors,)  # ag.cond and ag.trace are others
        return next(f for home in homes if callable(f := getattr(home, self.entry.name, None)))(*ts, **statics)

    def ours(self, active=()):
        """(leaves, results) in agog."""
        xs = [
            wrap(np.asarray(a), Leaf(a.shape, a.dtype)) if i in active else wrap(np.asarray(a))
            for i, a in enumerate(self.arrays)
        ]
        statics = {k: as_tensors(v) for k, v in self.statics.items()}
        return xs, tensors_in(self.own(replaced(self.inputs, iter(xs)), statics))

    def theirs(self, active=()):
        xs = [to_torch(a).requires_grad_(i in active) for i, a in enumerate(self.arrays)]
        statics = {k: to_torch(v) for k, v in self.statics.items()}
        try:
            out = self.entry.peer(*replaced(self.inputs, iter(xs)), **statics)
        except (NotImplementedError, RuntimeError, TypeError) as e:
            if isinstance(e, NotImplementedError) or any(u in str(e) for u in UNSUPPORTED):
                raise Missing(str(e)) from None
            raise
        return xs, torch_tensors(out)

    def random(self, shape, dtype):
        z = self.rng.standard_normal(shape)
        return np.asarray(z + 1j * self.rng.standard_normal(shape) if dtypes.kind(dtype) == "c" else z, dtype)

    def describe(self):
        return f"{[(str(a.dtype), a.shape) for a in self.arrays]} {self.statics or ''}"

    def derivatives(self, order):
        """[[gradients of the arrays], [second derivatives]] in PyTorch (see `_theirs`), and a function for agog's."""
        active = [i for i, a in enumerate(self.arrays) if is_inexact(a) and i not in self.entry.constant]
        xs, ys = self.theirs(active)
        ys = [y for y in ys if y.is_floating_point() or y.is_complex()]
        ws = [self.random(tuple(y.shape), to_numpy(y).dtype) for y in ys]
        us = [self.random(a.shape, a.dtype) for i, a in enumerate(self.arrays) if i in active]
        leaves = [xs[i] for i in active]
        theirs = _theirs(ys, leaves, ws, us, order)

        def ours():
            own, mine = self.ours(active)
            return _ours([y for y in mine if dtypes.is_inexact(y.dtype)], [own[i] for i in active], ws, us, len(theirs))

        return theirs, ours, [self.arrays[i] for i in active]

    def values(self):
        """The results in PyTorch, as arrays, and a function for agog's."""
        return [to_numpy(y) for y in self.theirs()[1]], lambda: [y._data for y in self.ours()[1]]


def torch_tensors(out):
    if isinstance(out, torch.Tensor):
        return [out]
    if isinstance(out, bool):
        return [torch.tensor(out)]
    return [t for o in out for t in torch_tensors(o)] if isinstance(out, tuple | list) else []


def _theirs(ys, xs, ws, us, order):
    """g = the gradient of sum(re(conj(w) y)), and the gradient of sum(re(conj(u) g)), where PyTorch has them."""

    def pull(ys, ws, create):
        live = [(y, to_torch(w)) for y, w in zip(ys, ws) if y.requires_grad]
        if not live:
            return [None] * len(xs)
        try:
            found = torch.autograd.grad(
                [y for y, _ in live], xs, [w for _, w in live], create_graph=create, allow_unused=True
            )
        except (NotImplementedError, RuntimeError) as e:
            if any(u in str(e) for u in UNSUPPORTED):
                return None
            raise
        return found

    out = []
    for k in range(order):
        found = pull(ys, ws, k + 1 < order)
        if found is None:
            break
        out.append(
            [np.zeros(tuple(x.shape), to_numpy(x).dtype) if g is None else to_numpy(g) for x, g in zip(xs, found)]
        )
        pairs = [(g, u) for g, u in zip(found, us) if g is not None]
        ys, ws = [g for g, _ in pairs], [u for _, u in pairs]
    return out


def _ours(ys, xs, ws, us, order):
    out = []
    for k in range(order):
        live = [(y, wrap(w)) for y, w in zip(ys, ws, strict=True) if y._node is not None]
        found = (
            gradients([y for y, _ in live], xs, [w for _, w in live], create_graph=k + 1 < order, allow_unused=True)
            if live
            else [None] * len(xs)
        )
        out.append([np.zeros(x.shape, x.dtype) if g is None else g._data for x, g in zip(xs, found)])
        pairs = [(g, u) for g, u in zip(found, us) if g is not None]
        ys, ws = [g for g, _ in pairs], [u for _, u in pairs]
    return out


# ---------------------------------------------------------------------------------------------------- where they differ
def wide(x):
    kind = dtypes.kind(x.dtype)
    return x.astype(np.complex128 if kind == "c" else np.float64) if kind in "fc" else x


def different(got, want, error, what, excused=False, times=1, local=False, zeros=False, floor=0.0):
    """What is wrong with `got`, in words, or None.

    error    in units in the last place of the coarser dtype, or {dtype: such units}; `times` as much is allowed
    excused  True for the elements that may differ
    local    an error counts against the element, not against the largest one
    floor    the least size that an error is measured against
    zeros    zeros must have the same sign
    """
    if got.shape != want.shape:
        return f"{what}: shape {got.shape}, PyTorch has {want.shape}"
    coarse = max(
        (x.dtype for x in (got, want)), key=lambda d: float(ml_dtypes.finfo(d).eps) if dtypes.is_inexact(d) else 0
    )
    a, b = wide(got), wide(want)
    if a.dtype.kind in "biu" and b.dtype.kind in "biu":
        ok = a == b
    else:
        with np.errstate(all="ignore"):
            size = np.maximum(np.abs(a), np.abs(b))
            scale = np.where(np.isfinite(size), size, 0)
            scale = np.maximum(scale, floor) if local else scale.max(initial=floor)
            error = error.get(coarse.name, 64) if isinstance(error, dict) else error
            unit = times * error * float(ml_dtypes.finfo(coarse).eps) if dtypes.is_inexact(coarse) else 0
            ok = (np.abs(a - b) <= unit * scale + float(ml_dtypes.finfo(coarse).tiny)) | (a == b)
            if a.dtype.kind == "c" or b.dtype.kind == "c":
                ok |= (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & np.isinf(b))
            else:
                ok |= np.isnan(a) & np.isnan(b)
                if zeros:
                    ok &= (a != 0) | (b != 0) | (np.signbit(a) == np.signbit(b))
    ok = ok | excused
    if ok.all():
        return None
    bad = np.argwhere(~ok)[:4]
    return (
        f"{what}: "
        + "; ".join(f"{tuple(map(int, i))}: {got[tuple(i)]!s}, PyTorch has {want[tuple(i)]!s}" for i in bad)
        + f" ({int((~ok).sum())} of {ok.size})"
    )
