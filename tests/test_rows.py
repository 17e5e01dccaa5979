"""Every row of the op table, and every composite with samples, checked by what it declares about itself.

For each row: every dtype it takes, in every namespace (dtype and shape exactly, values against the same computation in
float64 or against the row's `reference`), layouts in memory, refusal of the dtypes it does not take, first and second
derivatives and forward mode against differences, `linear_in`, and batching against a loop.

Adding an operation needs nothing here: a row with `samples` or `domain` is found in the table.
"""

import pickle

import ml_dtypes
import numpy as np
import pytest
from sampling import (
    BFLOAT16,
    KINDS,
    LAYOUTS,
    ROWS,
    Sampler,
    accepted,
    as_tensors,
    cases,
    dtype_of,
    flat,
    is_array,
    is_inexact,
    listed,
    promoted,
    rows_and_dtypes,
    tensor,
    tensors_in,
)

import agog as ag
from agog.array import dtypes
from agog.autodiff.engine import gradients
from agog.autodiff.forward import jvp
from agog.dispatch import apply, tensors, wrap
from agog.errors import AgogError, DTypeError
from agog.ops.namespaces import raw
from agog.ops.row import COMPOSITES, TABLE
from agog.tape import Leaf, pullback

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # agog's own filter, which pytest undoes
NATURE = {"c": np.complex128, "f": np.float64}


def checked(op, inputs, statics):
    return op.check(*inputs, *statics) if op.check is not None else statics


def close(got, want, unit, scale, what):
    """|got - want| <= unit * scale, infinities and nans in the same places."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape} and {want.shape}"
    wide = np.complex128 if got.dtype.kind == "c" or want.dtype.kind == "c" else np.float64
    got, want = got.astype(wide), want.astype(wide)
    with np.errstate(all="ignore"):
        ok = (np.abs(got - want) <= unit * scale) | (got == want) | (np.isnan(got) & np.isnan(want))
    assert ok.all(), f"{what}: {got[~ok][:3]} should be {want[~ok][:3]}"


def same(a, b, what):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape, f"{what}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
    assert np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") or dtypes.is_inexact(a.dtype) and np.array_equal(
        a.astype(np.complex128), b.astype(np.complex128), equal_nan=True), f"{what}: {a} and {b}"


# --------------------------------------------------------------------------------------------------------- values
def wide(x):
    """The value that a reference computes with."""
    if not is_array(x):
        return x
    kind = dtypes.kind(x.dtype)
    if kind in NATURE:
        return x.astype(NATURE[kind])
    return x.astype(np.int64) if kind in "iu" and x.dtype != np.uint64 else x


def reference(op, inputs, statics):
    args = [wide(x) for x in inputs]
    return listed(op.reference(np, *args, *statics) if op.reference is not None else op.raw(*args, *statics))


def scales(op, wants, inputs):
    """What an error is measured against: the value itself and its neighbours; for reductions also what went in."""
    sizes = [np.abs(x.astype(np.complex128)).max(initial=0) for x in inputs if is_inexact(x)]
    for want in wants:
        size = np.abs(want.astype(np.complex128)) if want.dtype.kind in "fcV" else np.zeros(want.shape)
        finite = size[np.isfinite(size)].max(initial=0)
        yield size + 0.1 * finite if op.elementwise else max([finite, *sizes])


def values_test(op, inputs, statics, what=""):
    """One call in every namespace, and against the reference."""
    given = promoted(op, inputs)
    normal = checked(op, given, statics)
    with np.errstate(all="ignore"):
        base = listed(op.raw(*given, *normal))
    ts = tuple(tensor(x) for x in inputs)
    general = listed(apply(op, ts, statics))
    public = listed(getattr(tensors, op.name)(*ts, *statics) if not op.variadic
                    else getattr(tensors, op.name)(*ts, **dict(zip(op.static_names, statics))))
    with np.errstate(all="ignore"):
        named = listed(getattr(raw, op.name)(*given, **dict(zip(op.static_names, normal))))
    assert len(base) == len(op.outputs) or len(op.outputs) == 1
    for r, g, p, n in zip(base, general, public, named, strict=True):
        same(g._data, r, f"{op.name}{what}: the Tensor namespace and the raw one")
        same(p._data, g._data, f"{op.name}{what}: the fast path and the general path")
        same(n, r, f"{op.name}{what}: the raw namespace and the row")
    if isinstance(op.result, str) and len(op.outputs) == 1 and given:
        common = next((x.dtype for n, x in zip(op.inputs * len(given), given) if x is not None and n in op.promotes),
                      None)
        expected = {"same": common, "bool": np.bool_, "int64": np.int64,
                    "real": None if common is None else dtypes.real_of(common)}[op.result]
        assert expected is None or base[0].dtype == expected, f"{op.name}: {base[0].dtype}, the row says {op.result}"
    with np.errstate(all="ignore"):
        wants = reference(op, given, normal)
    for r, want, scale in zip(base, wants, scales(op, [np.asarray(w) for w in wants], given), strict=True):
        r, want = np.asarray(r), np.asarray(want)
        if dtypes.is_inexact(r.dtype):
            close(r, want, op.error * float(ml_dtypes.finfo(r.dtype).eps), scale + 1e-300, f"{op.name}{what}")
        else:
            assert np.array_equal(r, want.astype(r.dtype)), f"{op.name}{what}: {r} should be {want}"


@pytest.mark.parametrize("name, dtype", list(rows_and_dtypes()))
def test_values(name, dtype):
    op = TABLE[name]
    for inputs, statics in cases(op, dtype_of(dtype)):
        try:
            values_test(op, inputs, statics)
        except np.linalg.LinAlgError:  # bools and small integers at random: the matrix may well be singular
            assert np.dtype(dtype_of(dtype)).kind in "biu"


@pytest.mark.parametrize("name", [n for n in ROWS if TABLE[n].inputs])
def test_layouts(name):
    """Results do not depend on how the inputs lie in memory, and inputs are left as they were."""
    op = TABLE[name]
    dtype = next(np.dtype(d) for k, d in (("f", "float32"), ("i", "int32"), ("b", "bool"), ("c", "complex64"))
                 if k in accepted(op))
    for inputs, statics in cases(op, dtype):
        for what, layout in LAYOUTS.items():
            moved = tuple(layout(x) for x in inputs)
            values_test(op, moved, statics, f" ({what})")
            for before, after in zip(inputs, moved):
                if is_array(before):
                    same(before, after, f"{name} changed its input")


@pytest.mark.parametrize("name", [n for n in ROWS if TABLE[n].elementwise and TABLE[n].domain])
def test_refuses(name):
    """Dtypes that the row does not take raise DTypeError on every way in."""
    op = TABLE[name]
    for kind in "bifc":
        if kind in accepted(op):
            continue
        inputs, statics = cases(op, np.dtype(KINDS[kind][-1]))[0]
        ts = tuple(tensor(x) for x in inputs)
        with pytest.raises(DTypeError, match=name.lstrip("_")):
            apply(op, ts, statics)
        with pytest.raises(DTypeError, match=name.lstrip("_")):
            getattr(tensors, name)(*ts, *statics)


# ---------------------------------------------------------------------------------------------------- derivatives
STEP = 1e-5


def derivative_cases():
    for name in ROWS:
        op = TABLE[name]
        for kind, dtype in (("f", np.float64), ("c", np.complex128)):
            if op.vjp and op.smooth and kind in op.takes:
                yield pytest.param(name, np.dtype(dtype), id=f"{name}-{np.dtype(dtype)}")


DIFFERENTIABLE = list(derivative_cases())


def differentiable(op, inputs):
    names = op.inputs * len(inputs) if op.variadic else op.inputs
    return [i for i, x in enumerate(inputs) if is_array(x) and names[i] in op.vjp and dtypes.is_inexact(x.dtype)]


def pairing(us, ys):
    """The real inner product that gradients are taken in."""
    return sum(float(np.sum(np.conj(u) * y).real) for u, y in zip(us, ys))


class Probe:
    """L(x) = <w, f(x)> for random weights w, its gradient, and the derivative of <u, gradient> for random u."""

    def __init__(self, call, inputs, active, rng):
        self.call, self.active, self.rng = call, active, rng
        self.x = [np.asarray(x) if is_array(x) else x for x in inputs]
        outs = self.outputs(self.x)
        self.w = [self.random(o) for o in outs]
        self.u = [self.random(self.x[i]) for i in active]
        self.v = [self.random(self.x[i]) for i in active]

    def random(self, like):
        z = self.rng.standard_normal(like.shape)
        return np.asarray(z + 1j * self.rng.standard_normal(like.shape) if like.dtype.kind == "c" else z, like.dtype)

    def moved(self, t):
        x = list(self.x)
        for i, v in zip(self.active, self.v):
            x[i] = x[i] + t * v
        return x

    def run(self, x, grad):
        ts = [wrap(v, Leaf(v.shape, v.dtype)) if grad and i in self.active else tensor(v) for i, v in enumerate(x)]
        return ts, [t for t in tensors_in(self.call(ts)) if dtypes.is_inexact(t.dtype)]

    def outputs(self, x):
        return [t._data for t in self.run(x, False)[1]]

    def gradient(self, x, create=False):
        ts, outs = self.run(x, True)
        linked = [(o, w) for o, w in zip(outs, self.w) if o._node is not None]
        assert linked or not outs, "no output remembers how it was made"
        ins = [ts[i] for i in self.active]
        if not linked:
            return ins, [None] * len(ins)
        return ins, gradients([o for o, _ in linked], ins, [wrap(w) for _, w in linked], create_graph=create,
                              allow_unused=True)

    def values(self, gs):
        return [np.zeros_like(self.x[i]) if g is None else g._data for i, g in zip(self.active, gs)]

    def slope(self):
        """The derivative of L along v, by differences."""
        ahead, behind = (pairing(self.w, self.outputs(self.moved(t))) for t in (STEP, -STEP))
        return (ahead - behind) / (2 * STEP)

    def check(self, what):
        _, gs = self.gradient(self.x)
        plain = self.values(gs)
        for i, g in zip(self.active, plain):
            assert (g.shape, g.dtype) == (self.x[i].shape,
                                          self.x[i].dtype), f"{what}: gradient {g.dtype}{g.shape} of input {i}"
        agree(pairing(plain, self.v), self.slope(), f"{what}: first derivative")
        ins, linked = self.gradient(self.x, create=True)
        for a, b in zip(self.values(linked), plain):
            close(a, b, 1e-12, 1 + np.abs(b), f"{what}: gradient in the Tensor namespace")
        live = [(g, u) for g, u in zip(linked, self.u) if g is not None and g._node is not None]
        found = gradients([g for g, _ in live], ins, [wrap(u) for _, u in live],
                          allow_unused=True) if live else [None] * len(ins)
        slope = (pairing(self.u, self.values(self.gradient(self.moved(STEP))[1]))
                 - pairing(self.u, self.values(self.gradient(self.moved(-STEP))[1]))) / (2 * STEP)
        agree(pairing(self.values(found), self.v), slope, f"{what}: second derivative")


def agree(got, want, what):
    assert abs(got - want) <= 2e-5 * (1 + abs(want)), f"{what}: {got}, differences give {want}"


def subsets(active):
    return [active] if len(active) < 2 else [active, *([i] for i in active[:4])]


@pytest.mark.parametrize("name, dtype", DIFFERENTIABLE)
def test_derivatives(name, dtype):
    op = TABLE[name]
    rng = np.random.default_rng(7)
    for inputs, statics in cases(op, dtype):
        inputs = promoted(op, inputs)
        for active in subsets(differentiable(op, inputs)):
            if active and sum(inputs[i].size for i in active):
                probe = Probe(lambda x, s=statics: apply(op, tuple(x), s), inputs, active, rng)
                probe.check(f"{name} by input {active}, {describe(inputs, statics)}")


def describe(inputs, statics):
    return f"{[x.shape if is_array(x) else x for x in inputs]} {statics}"


@pytest.mark.parametrize("name", [n for n in ROWS if TABLE[n].vjp and "f" in TABLE[n].takes])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_gradients_keep_the_dtype(name, dtype):
    op, dt = TABLE[name], dtype_of(dtype)
    rng = np.random.default_rng(7)
    for inputs, statics in cases(op, dt):
        inputs = promoted(op, inputs)
        active = differentiable(op, inputs)
        if not active or any(inputs[i].dtype != dt for i in active):
            continue
        probe = Probe(lambda x, s=statics: apply(op, tuple(x), s), inputs, active, rng)
        for create in (False, True):
            for i, g in zip(active, probe.gradient(probe.x, create)[1]):
                assert g is None or (g.dtype, g.shape) == (dt, inputs[i].shape), f"{name}: gradient {g.dtype}{g.shape}"
        if dtype == "float32":
            strict_dtype(op, probe, inputs, active)


def strict_dtype(op, probe, inputs, active):
    """On raw arrays float32 stays float32 inside of the rules: a float64 that slips in costs twice the time."""
    ts, outs = probe.run(probe.x, True)
    pairs = [(o._node, w) for o, w in zip(outs, probe.w) if o._node is not None]
    with np.errstate(all="ignore"):
        found = pullback(raw, [n for n, _ in pairs], [w for _, w in pairs])
    for i in active:
        g = found.get(ts[i]._node)
        assert g is None or g.dtype == inputs[i].dtype, f"{op.name}: its rule makes {g.dtype} of {inputs[i].dtype}"


@pytest.mark.parametrize("name, dtype", DIFFERENTIABLE)
def test_forward_mode(name, dtype):
    op = TABLE[name]
    rng = np.random.default_rng(7)
    for inputs, statics in cases(op, dtype):
        inputs = promoted(op, inputs)
        active = differentiable(op, inputs)
        if not active or not sum(inputs[i].size for i in active):
            continue
        probe = Probe(lambda x, s=statics: apply(op, tuple(x), s), inputs, active, rng)

        def call(*xs, probe=probe):
            full = [tensor(x) for x in probe.x]
            for i, x in zip(probe.active, xs):
                full[i] = x
            return [t for t in tensors_in(probe.call(full)) if dtypes.is_inexact(t.dtype)]

        values, tangents = jvp(call, tuple(tensor(probe.x[i]) for i in active), tuple(wrap(v) for v in probe.v))
        agree(pairing(probe.w, [t._data for t in tangents]), probe.slope(), f"{name}, {describe(inputs, statics)}")
        for v, t in zip(values, tangents):
            assert (v.shape, v.dtype) == (t.shape, t.dtype)


@pytest.mark.parametrize("name", [n for n in ROWS if TABLE[n].linear_in and set("fc") & set(TABLE[n].takes)])
def test_linear_in(name):
    """f(a + b) = f(a) + f(b) in the inputs that `linear_in` names, jointly, and f(-3 a) = -3 f(a)."""
    op = TABLE[name]
    rng = np.random.default_rng(7)
    for inputs, statics in cases(op, np.dtype("float64" if "f" in op.takes else "complex128")):
        inputs = promoted(op, inputs)
        names = op.inputs * len(inputs) if op.variadic else op.inputs
        linear = [i for i, x in enumerate(inputs) if names[i] in op.linear_in and is_inexact(x)]
        statics = checked(op, inputs, statics)

        def f(xs, inputs=inputs, linear=linear, statics=statics):
            full = list(inputs)
            for i, x in zip(linear, xs):
                full[i] = np.asarray(x, inputs[i].dtype)
            return listed(op.raw(*full, *statics))

        a = [inputs[i] for i in linear]
        b = [rng.standard_normal(x.shape) for x in a]
        for fa, fb, fab, fs in zip(f(a), f(b), f([x + y for x, y in zip(a, b)]), f([-3 * x for x in a]), strict=True):
            if dtypes.is_inexact(np.asarray(fa).dtype):
                size = 1 + np.abs(fa) + np.abs(fb)
                close(fab, fa + fb, 1e-6 if fa.dtype.itemsize < 8 else 1e-12, size, f"{name}: additive")
                close(fs, -3 * fa, 1e-6 if fa.dtype.itemsize < 8 else 1e-12, 3 * size, f"{name}: homogeneous")


# -------------------------------------------------------------------------------------------------------- batching
@pytest.mark.parametrize("name", [n for n in ROWS if TABLE[n].inputs and (TABLE[n].batch or TABLE[n].elementwise)])
def test_batching(name):
    """vmap of the row gives what a loop over the batch gives, whichever inputs carry the batch."""
    op = TABLE[name]
    dtype = next(np.dtype(d) for k, d in (("f", "float64"), ("i", "int64"), ("b", "bool"), ("c", "complex128"))
                 if k in accepted(op))
    for examples in zip(*(cases(op, dtype, seed) for seed in range(3)), strict=True):
        statics = examples[0][1]
        rows = [promoted(op, inputs) for inputs, _ in examples]
        arrays = [i for i, x in enumerate(rows[0]) if is_array(x)]
        for mask in [set(arrays)] if len(arrays) < 2 else [set(arrays), *({i} for i in arrays[:3])]:
            def call(*xs, mask=mask, rows=rows, statics=statics):
                it = iter(xs)
                return apply(op, tuple(next(it) if i in mask else tensor(x) for i, x in enumerate(rows[0])), statics)

            stacked = [wrap(np.stack([row[i] for row in rows])) for i in sorted(mask)]
            try:
                got = listed(ag.vmap(call)(*stacked))
            except AgogError:  # a mask gives each example a shape of its own: there is no batch of such results
                assert any(x.dtype == bool for x in rows[0] if is_array(x)) and not op.elementwise
                continue
            loop = [listed(call(*(wrap(row[i]) for i in sorted(mask)))) for row in rows]
            for g, *singles in zip(got, *loop, strict=True):
                want = np.stack([o._data for o in singles])
                what = f"{name} batched in {sorted(mask)}, {describe(rows[0], statics)}"
                assert (g.dtype, g.shape) == (want.dtype,
                                              want.shape), f"{what}: {g.dtype}{g.shape}, not {want.dtype}{want.shape}"
                close(g._data, want, 1e-12, 1 + np.abs(np.where(np.isfinite(want), want, 0)), what)


# ------------------------------------------------------------------------------------------------------- composites
SAMPLED = sorted(n for n, f in COMPOSITES.items() if f.samples is not None)


def composite_cases(name, dtype):
    return COMPOSITES[name].samples(Sampler(dtype, name))


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_composite_values(name, dtype):
    """Shape, dtype and values are the same on raw arrays and on Tensors."""
    if dtype == "bfloat16":
        for inputs, statics in composite_cases(name, BFLOAT16):
            for a in flat(getattr(tensors, name)(*as_tensors(inputs), **statics)):
                assert a.dtype in (BFLOAT16, np.int64, np.bool_,
                                   np.float32) or a.dtype.kind in "iu", f"{name}: {a.dtype}"
        return
    for inputs, statics in composite_cases(name, np.dtype(dtype)):
        with np.errstate(all="ignore"):
            plain = flat(getattr(raw, name)(*inputs, **statics))
        full = flat(getattr(tensors, name)(*as_tensors(inputs), **{k: as_tensors(v) for k, v in statics.items()}))
        for a, b in zip(plain, full, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{name}: {a.dtype}{a.shape} raw, {b.dtype}{b.shape} not"
            if dtypes.is_inexact(a.dtype):
                close(a, b, 16 * np.finfo(dtype).eps, 1 + np.abs(b), name)
            else:
                assert np.array_equal(a, b), name


@pytest.mark.parametrize("name", [n for n in SAMPLED if getattr(COMPOSITES[n], "smooth", True)])
def test_composite_derivatives(name):
    rng = np.random.default_rng(7)
    fn = getattr(tensors, name)
    for inputs, statics in composite_cases(name, np.dtype("float64")):
        active = [i for i, x in enumerate(inputs) if is_array(x) and x.dtype.kind == "f" and x.size]
        if not active:
            continue
        call = lambda x, statics=statics: fn(*as_tensors(x), **{k: as_tensors(v) for k, v in statics.items()})
        probe = Probe(call, inputs, active, rng)
        if any(t._node is not None for t in probe.run(probe.x, True)[1]):
            probe.check(f"{name}, {describe(inputs, statics)}")


# --------------------------------------------------------------------------------------------------- completeness
@pytest.mark.parametrize("name", ROWS)
def test_row_is_complete(name):
    """A row says what it does, can be tested, and its rules belong to inputs that it has."""
    op = TABLE[name]
    assert op.doc, "no doc"
    assert op.samples is not None or op.domain is not None, "no samples and no domain: nothing would test it"
    assert set(op.vjp) | set(op.jvp) | set(op.linear_in) | set(op.promotes) <= set(op.inputs)
    assert set(op.linear_in) <= set(op.vjp), "linear in an input that has no rule"
    assert op.raw is not None and repr(op)
    assert pickle.loads(pickle.dumps(op)) is op
