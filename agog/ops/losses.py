"""Losses. Names and semantics are those of `torch.nn.functional`.

`reduction` is 'mean', 'sum' or 'none'. Predictions and targets must have equal shapes: silent broadcasting of an
(N, 1) prediction against an (N,) target is the classic bug of regression code, and is an error here.
"""

from __future__ import annotations

import functools
import math

import numpy
import numpy as np

from agog.array import dtypes, few, large
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, IndexingError, ShapeError
from agog.ops.activations import _softplus
from agog.ops.blocks import fresh, in_float32, native, over_rows
from agog.ops.explain import describe
from agog.ops.few_logits import few_loss_grads, few_losses
from agog.ops.namespaces import raw
from agog.ops.row import Op, composite, elementwise

_LARGE = few.BELOW  # logits from which a native kernel may be one for threads


# ------------------------------------------------------------------------------------------------ class indices
def _class_index(np, target, classes, ignore_index):
    valid = target != ignore_index
    wrong = valid & ((target < 0) | (target >= classes))
    if wrong.any():
        raise IndexingError(
            f"target holds {target[wrong].ravel()[0]}, but there are {classes} classes: every target must be from 0 to "
            f"{classes - 1}" + (f" (or {ignore_index}, which is ignored)" if ignore_index is not None else "")
            + "; labels that start at 1 need `target - 1`, other labels need more logits")
    return np.where(valid, target, 0).astype(np.int64, copy=False), valid


Op(
    "_class_index(target; classes, ignore_index=-100) -> index, valid", _class_index, takes="i", promotes=("target",),
    kind="other", smooth=False, samples=lambda s: [((s.ints(5, 4),), {"classes": 5})],
    batch=lambda xp, batched, inputs, statics: xp._class_index(inputs[0], *statics),
    doc="Targets checked against the number of classes: (int64 indices with 0 in place of `ignore_index`, bool mask of "
        "the others). Raises IndexingError for any other value outside 0..classes-1.")


def _targets(np, target, classes, ignore_index):
    """(indices, None or mask of those not ignored); one reduction when all are in range."""
    if target.dtype != np.int64:
        target = target.astype(np.int64)
    if not target.size or np.maximum.reduce(target.view(np.uint64), None) < classes and not 0 <= ignore_index < classes:
        return target, None
    return _class_index(np, target, classes, ignore_index)


@functools.lru_cache(64)
def _starts(rows, classes):
    """Where each row of (rows, classes) begins, counting elements."""
    return np.arange(0, rows * classes, classes)


def _row_losses(np, x, index):
    """(logsumexp, loss) of each row of logits."""
    top = np.maximum.reduce(x, 1, None, None, True)
    z = x - top
    picked = z.take(index + _starts(*x.shape))
    np.exp(z, z)
    lse = np.add.reduce(z, 1)
    np.log(lse, lse)
    loss = lse - picked
    lse += top[:, 0]
    return lse, loss


def _cross_entropy(np, x, target, ignore_index, reduction):
    n, classes = x.shape
    if x.size < _LARGE and np is numpy and (done := few_losses(x, target, ignore_index, reduction)) is not None:
        return done
    index, valid = _targets(np, target, classes, ignore_index)
    done = None if x.size < _LARGE else native(np, "cross_entropy", 32 * x.size, x, index)
    if done is not None:
        lse, loss = done
    elif x.size < large.THRESHOLD:
        lse, loss = _row_losses(np, x, index)
    else:
        lse, loss = np.empty(n, x.dtype), np.empty(n, x.dtype)

        def work(i, j):
            lse[i:j], loss[i:j] = _row_losses(np, x[i:j], index[i:j])

        over_rows(n, classes, work)
    if valid is not None:
        loss[~valid] = 0
        n = int(np.count_nonzero(valid))
    if reduction == "none":
        return loss, lse
    total = np.add.reduce(loss)
    if reduction == "mean":
        total = total / n if n else total * float("nan")
    return total, lse


def _cross_entropy_rule(xp, g, x, target, lse, ignore_index, reduction):
    """softmax(x) * (a + h) - onehot(target) * a, with `a` the weight of each row and `h` the cotangent of lse."""
    a, h = g
    if xp is raw:
        grad = _cross_entropy_grad if x.itemsize > 2 else _cross_entropy_grad_wide
        return grad(a, h, x, target, lse, ignore_index, reduction)
    index, valid = xp._class_index(target, classes=x.shape[1], ignore_index=ignore_index)
    valid = xp.astype(valid, x.dtype)
    a = a * valid / xp.sum(valid) if reduction == "mean" else a * valid
    p = xp.exp(x - xp.expand_dims(lse, axis=1))
    onehot = xp.astype(xp.one_hot(index, x.shape[1]), x.dtype)
    return p * xp.expand_dims(a + h, axis=1) - onehot * xp.expand_dims(a, axis=1)


def _cross_entropy_grad(a, h, x, target, lse, ignore_index, reduction):
    """The same, in one array."""
    n = x.shape[0]
    if x.size < _LARGE and (done := few_loss_grads(a, h, x, target, lse, ignore_index, reduction)) is not None:
        return done
    index, valid = _targets(np, target, x.shape[1], ignore_index)
    if reduction == "mean":
        a = a / (n if valid is None else int(np.count_nonzero(valid))) if n else a
    if valid is not None:
        a = a * valid.astype(x.dtype)
    scale = a + h
    if x.size >= _LARGE:
        done = large.native("cross_entropy_grad", 32 * x.size, x, lse, index, a, scale)
        if done is not None:
            return done
    if x.size < large.THRESHOLD:
        p = x - lse[:, None]
        np.exp(p, p)
        p *= scale[:, None]
        if p.flags.c_contiguous:
            p.reshape(-1)[index + _starts(*p.shape)] -= a
        else:
            p[np.arange(n), index] -= a
        return p
    p = fresh(np, x.shape, x.dtype)

    def work(i, j):
        part = p[i:j]
        np.subtract(x[i:j], lse[i:j, None], part)
        np.exp(part, part)
        part *= scale[i:j, None]
        part[np.arange(j - i), index[i:j]] -= a[i:j] if a.ndim else a

    over_rows(n, x.shape[1], work)
    return p


_cross_entropy_grad_wide = in_float32(_cross_entropy_grad)


def _cross_entropy_check(x, target, ignore_index, reduction):
    if x.ndim != 2 or target.shape != x.shape[:1]:
        raise ShapeError(f"cross_entropy(x={x.dtype}{list(x.shape)}, target={target.dtype}{list(target.shape)}): "
                         "x has shape (N, classes) and target (N,)")
    if x.shape[1] == 0:
        raise ShapeError(f"cross_entropy: the logits have shape {x.shape}: no classes at all")
    return ignore_index, _reduction("cross_entropy", reduction)


def _cross_entropy_batch(xp, batched, inputs, statics):
    x, target = inputs
    ignore_index, reduction = statics
    b = x.shape[0] if batched[0] else target.shape[0]
    x = x if batched[0] else xp.broadcast_to(x, (b, *x.shape))
    target = target if batched[1] else xp.broadcast_to(target, (b, *target.shape))
    _, n, classes = x.shape
    loss, lse = xp._cross_entropy_index(xp.reshape(x, (b * n, classes)), xp.reshape(target, (b * n,)),
                                       ignore_index=ignore_index, reduction="none")
    loss, lse = xp.reshape(loss, (b, n)), xp.reshape(lse, (b, n))
    if reduction == "none":
        return loss, lse
    total = xp.sum(loss, axis=1)
    if reduction == "mean":
        total = total / xp.sum(xp.astype(target != ignore_index, x.dtype), axis=1)
    return total, lse


Op(
    "_cross_entropy_index(x, target; ignore_index=-100, reduction=mean) -> loss, lse", _cross_entropy,
    vjp={"x": _cross_entropy_rule}, to_float=True, takes="f", promotes=("x",), widen=True, kind="loss",
    check=_cross_entropy_check, batch=_cross_entropy_batch,
    samples=lambda s: [((s(5, 7), s.ints(7, 5)), {}), ((s(5, 3), s.ints(3, 5)), {"ignore_index": 1}),
                       ((s(4, 3), s.ints(3, 4)), {"reduction": "none"}),
                       ((s(4, 3), s.ints(3, 4)), {"reduction": "sum"})],
    doc="Cross entropy of logits x (N, C) with integer targets (N,): (loss, logsumexp of each row). What "
        "`cross_entropy` runs in its common case; saves x, target and one number per row.")


# ------------------------------------------------------------------------------------------------------ helpers
def _reduction(name, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"{name}: reduction={reduction!r}; use 'mean', 'sum' or 'none'")
    return reduction


def _numbers(name, *given):
    """Raise ArgumentTypeError for a bool or a string where a number or a Tensor belongs: PyTorch's size_average, or the
    reduction, by position."""
    for value in given:
        if type(value) is bool or type(value) is str:
            raise ArgumentTypeError(f"{name}: {value!r} stands where a number or a Tensor belongs; say "
                                    "reduction='mean', 'sum' or 'none' by name")


def _reduce(xp, name, loss, reduction):
    if reduction == "mean":
        return xp.mean(loss)
    if reduction == "sum":
        return xp.sum(loss)
    _reduction(name, reduction)
    return loss


@composite(totals=True)
def _total_terms(xp, terms, inputs, mean):
    """The sum or the mean of what the row `terms` gives for inputs of one shape (or numbers)."""
    loss = getattr(xp, terms)(*inputs)
    return xp.mean(loss) if mean else xp.sum(loss)


def _loss(xp, name, reduction, terms, *inputs):
    """The loss whose terms are the row `terms`, reduced."""
    if reduction == "mean" or reduction == "sum":
        return xp._total_terms(terms, inputs, reduction == "mean")
    _reduction(name, reduction)
    return getattr(xp, terms)(*inputs)


def _shape(x):
    return getattr(x, "shape", ())


def _describe(x):
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else repr(x)


def _same_shape(name, x, target, xname="input", tname="target"):
    a, b = _shape(x), _shape(target)
    if a != b and b != ():
        hint = ""
        if math.prod(a) == math.prod(b):
            hint = f"; write {tname}.reshape{a} if the values are in the same order"
        raise ShapeError(f"{name}({xname}={_describe(x)}, {tname}={_describe(target)}): the shapes must be equal: "
                         f"broadcasting one against the other would compare every pair{hint}")


# --------------------------------------------------------------------------------------------- classification
@composite(samples=lambda s: [
    ((s(5, 4), s.ints(4, 5)), {}), ((s(2, 4, 3), s.ints(4, 2, 3)), {"label_smoothing": 0.1, "reduction": "sum"}),
    ((s(5, 4), s.ints(4, 5), s(4, lo=0.5, hi=2)), {}), ((s(4, 3), s(4, 3, lo=0.1, hi=0.9)), {"reduction": "none"})])
def cross_entropy(xp, logits, target, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """Cross entropy of unnormalised `logits` (N, C) or (N, C, d1, ...) or (C,) with class indices or probabilities.

    target           integers (N,), (N, d1, ...) or (): the class; or floats of the logits' shape: probabilities
    weight           (C,): weight of each class; 'mean' then divides by the sum of the weights of the targets
    ignore_index     target value that contributes nothing, neither to the sum nor to the mean's count
    label_smoothing  mixes the target with the uniform distribution over the classes
    """
    _numbers("cross_entropy", weight, ignore_index, label_smoothing)
    shape = logits.shape
    if weight is None and label_smoothing == 0 and len(shape) == 2 and _shape(target) == shape[:1] and shape[1] and (
            target.dtype.kind in "iu"):  # the common case
        return xp._cross_entropy_index(logits, target, ignore_index, reduction)[0]
    if not shape:
        raise ShapeError("cross_entropy: the logits are a single number; they need shape (N, classes) or (classes,)")
    axis = 0 if len(shape) == 1 else 1
    classes = shape[axis]
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"cross_entropy: label_smoothing={label_smoothing}; it lies between 0 and 1")
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(f"cross_entropy: weight has shape {weight.shape}; it holds one number for each of the "
                         f"{classes} classes (axis {axis} of the logits' shape {shape})")
    kind = target.dtype.kind if hasattr(target, "dtype") else "i"
    if kind not in "iu":
        if target.shape != shape:
            raise (ShapeError if kind != "b" else DTypeError)(
                f"cross_entropy(logits={_describe(logits)}, target={_describe(target)}): a floating target holds class "
                f"probabilities and has the logits' shape; for class indices write target.astype('int64')")
        return _cross_entropy_probabilities(xp, logits, target, weight, label_smoothing, reduction, axis)
    rest = shape[:axis] + shape[axis + 1:]
    if _shape(target) != rest:
        raise ShapeError(f"cross_entropy(logits={_describe(logits)}, target={_describe(target)}): the logits have "
                         f"{classes} classes on axis {axis}, so integer targets have shape {rest}")
    if weight is not None or label_smoothing:
        return _cross_entropy_weighted(xp, logits, target, weight, ignore_index, label_smoothing, reduction, axis)
    if len(shape) != 2:
        if len(shape) > 2:
            logits = xp.moveaxis(logits, 1, -1)
        logits = xp.reshape(logits, (-1 if classes else 0, classes))
        target = xp.reshape(target, (-1,)) if hasattr(target, "shape") else target
        loss, _ = xp._cross_entropy_index(logits, target, ignore_index=ignore_index, reduction=reduction)
        return xp.reshape(loss, rest) if reduction == "none" else loss
    return xp._cross_entropy_index(logits, target, ignore_index=ignore_index, reduction=reduction)[0]


def _weights_along(xp, weight, ndim, axis):
    return xp.reshape(weight, (1,) * axis + (-1,) + (1,) * (ndim - axis - 1))


def _cross_entropy_probabilities(xp, logits, target, weight, label_smoothing, reduction, axis):
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + label_smoothing / logits.shape[axis]
    terms = xp.log_softmax(logits, axis=axis) * target
    if weight is not None:
        terms = terms * _weights_along(xp, weight, len(logits.shape), axis)
    return _reduce(xp, "cross_entropy", -xp.sum(terms, axis=axis), reduction)


def _picked(xp, name, x, target, axis, ignore_index):
    """(x at the target along axis, mask of targets not ignored, indices)"""
    if hasattr(target, "dtype") and dtypes.kind(target.dtype) not in "iu":
        raise DTypeError(f"{name}: the target holds class numbers, but is {describe(target)}; "
                         "write target.astype('int64')")
    index, valid = xp._class_index(target, classes=x.shape[axis], ignore_index=ignore_index)
    found = xp.take_along_axis(x, xp.expand_dims(index, axis=axis), axis=axis)
    return xp.squeeze(found, axis=axis), valid, index


def _cross_entropy_weighted(xp, logits, target, weight, ignore_index, smoothing, reduction, axis):
    _reduction("cross_entropy", reduction)
    logp = xp.log_softmax(logits, axis=axis)
    picked, valid, index = _picked(xp, "cross_entropy", logp, target, axis, ignore_index)
    share = xp.astype(valid, logp.dtype)
    if weight is not None:
        share = share * xp.reshape(xp.take(weight, xp.reshape(index, (-1,)), axis=0), index.shape)
    loss = -picked * share
    if smoothing:
        w = logp if weight is None else logp * _weights_along(xp, weight, len(logits.shape), axis)
        uniform = -xp.sum(w, axis=axis) * xp.astype(valid, logp.dtype)
        loss = loss * (1.0 - smoothing) + uniform * (smoothing / logits.shape[axis])
    if reduction == "none":
        return loss
    total = xp.sum(loss)
    return total / xp.sum(share) if reduction == "mean" else total


@composite(samples=lambda s: [((s(5, 4), s.ints(4, 5)), {}), ((s(2, 4, 3), s.ints(4, 2, 3), s(4, lo=0.5, hi=2)), {})])
def nll_loss(xp, log_probs, target, weight=None, ignore_index=-100, reduction="mean"):
    """Negative log likelihood: -log_probs[target] for log-probabilities (N, C), (N, C, d1, ...) or (C,).

    `weight` (C,) weighs the classes; 'mean' divides by the sum of the weights of the targets.
    """
    _numbers("nll_loss", weight, ignore_index)
    shape = log_probs.shape
    _reduction("nll_loss", reduction)
    axis = 0 if len(shape) == 1 else 1
    if not shape or _shape(target) != shape[:axis] + shape[axis + 1:]:
        raise ShapeError(f"nll_loss(log_probs={_describe(log_probs)}, target={_describe(target)}): log_probs has shape "
                         "(N, classes, ...) and target the same shape without the axis of classes")
    picked, valid, index = _picked(xp, "nll_loss", log_probs, target, axis, ignore_index)
    share = xp.astype(valid, log_probs.dtype)
    if weight is not None:
        if weight.shape != (shape[axis],):
            raise ShapeError(f"nll_loss: weight has shape {weight.shape}; it holds one number for each of the "
                             f"{shape[axis]} classes")
        share = share * xp.reshape(xp.take(weight, xp.reshape(index, (-1,)), axis=0), index.shape)
    loss = -picked * share
    if reduction == "none":
        return loss
    total = xp.sum(loss)
    return total / xp.sum(share) if reduction == "mean" else total


def _bce_terms(np, p, t):
    return (t - 1) * np.maximum(np.log1p(-p), -100) - t * np.maximum(np.log(p), -100)


elementwise(
    "_binary_cross_entropy_terms(p, t) -> y", _bce_terms, to_float=True, takes="f", widen=True,
    vjp={"p": lambda xp, g, p, t: g * (p - t) / xp.maximum(p * (1.0 - p), 1e-12),
         "t": lambda xp, g, p: g * (xp.maximum(xp.log1p(-p), -100.0) - xp.maximum(xp.log(p), -100.0))},
    lower=lambda k, p, t: k.sub(
        k.mul(k.sub(t, 1.0), k.max(k.log1p(k.neg(p)), -100.0)),
        k.mul(t, k.max(k.log(p), -100.0))),
    domain=(0.05, 0.95), doc="-(t log p + (1 - t) log(1 - p)), logarithms cut off at -100.")


@composite(samples=lambda s: [((s(4, 3, lo=0.1, hi=0.9), s(4, 3, lo=0.1, hi=0.9)), {})])
def binary_cross_entropy(xp, probs, target, weight=None, reduction="mean"):
    """-(t log p + (1 - t) log(1 - p)) for probabilities in [0, 1]; logarithms are cut off at -100, as in torch.

    Prefer `binary_cross_entropy_with_logits`, which loses no precision.
    """
    _numbers("binary_cross_entropy", weight)
    _same_shape("binary_cross_entropy", probs, target, "probs")
    if weight is None:
        return _loss(xp, "binary_cross_entropy", reduction, "_binary_cross_entropy_terms", probs, target)
    return _reduce(xp, "binary_cross_entropy", xp._binary_cross_entropy_terms(probs, target) * weight, reduction)


elementwise(
    "_logits_terms(x, t) -> y", lambda np, x, t: _softplus(np, x) - x * t, to_float=True, takes="f", widen=True,
    vjp={"x": lambda xp, g, x, t: g * (xp.sigmoid(x) - t), "t": lambda xp, g, x: g * -x}, error=16,
    lower=lambda k, x, t: k.sub(k.softplus(x), k.mul(x, t)), domain=((-4, 4), (0, 1)), doc="softplus(x) - x t.")


@composite(samples=lambda s: [((s(4, 3), s(4, 3, lo=0.1, hi=0.9)), {}),
                              ((s(4, 3), s(4, 3, lo=0.1, hi=0.9), s(3), s(3, lo=0.5)), {"reduction": "none"})])
def binary_cross_entropy_with_logits(xp, logits, target, weight=None, pos_weight=None, reduction="mean"):
    """Binary cross entropy of sigmoid(logits), as softplus(x) - x t: no overflow and no loss of precision.

    weight      broadcasts against the loss
    pos_weight  factor of the positive term (one per class, broadcasts)
    """
    _numbers("binary_cross_entropy_with_logits", weight, pos_weight)
    _same_shape("binary_cross_entropy_with_logits", logits, target, "logits")
    if pos_weight is None and weight is None:
        return _loss(xp, "binary_cross_entropy_with_logits", reduction, "_logits_terms", logits, target)
    if pos_weight is None:
        loss = xp._logits_terms(logits, target)
    else:
        loss = (1.0 - target) * logits + (1.0 + (pos_weight - 1.0) * target) * xp.softplus(-logits)
    if weight is not None:
        loss = loss * weight
    return _reduce(xp, "binary_cross_entropy_with_logits", loss, reduction)


def _kl_terms(np, p, t):
    return t * (np.log(np.where(t > 0, t, np.ones((), t.dtype))) - p)


elementwise(
    "_kl_terms(p, t) -> y", _kl_terms, to_float=True, takes="f", widen=True, error=16,
    vjp={"p": lambda xp, g, t: g * -t,
         "t": lambda xp, g, p, t: g * (xp.where(t > 0, xp.log(xp.where(t > 0, t, 1)) + 1, 0) - p)},
    lower=lambda k, p, t: k.mul(t, k.sub(k.log(k.where(k.gt(t, 0), t, 1.0)), p)),
    domain=((-3, 0), (0.1, 0.9)), doc="t (log t - p), with 0 where t = 0.")
elementwise(
    "_kl_log_terms(p, t) -> y", lambda np, p, t: np.exp(t) * (t - p), to_float=True, takes="f", widen=True, error=16,
    vjp={"p": lambda xp, g, t: g * -xp.exp(t), "t": lambda xp, g, p, t: g * xp.exp(t) * (t - p + 1)},
    lower=lambda k, p, t: k.mul(k.exp(t), k.sub(t, p)), domain=((-3, 0), (-3, 0)), doc="e^t (t - p).")


@composite(samples=lambda s: [((s(4, 3), s(4, 3, lo=0.1, hi=0.9)), {}), ((s(4, 3), s(4, 3)), {"log_target": True})])
def kl_div(xp, log_probs, target, reduction="mean", log_target=False):
    """t (log t - log_probs), elementwise, with 0 where t = 0; 'batchmean' divides the sum by the size of axis 0.

    `target` holds probabilities, or log-probabilities with log_target=True.
    """
    _same_shape("kl_div", log_probs, target, "log_probs")
    terms = "_kl_log_terms" if log_target else "_kl_terms"
    if reduction == "batchmean":
        return _loss(xp, "kl_div", "sum", terms, log_probs, target) / log_probs.shape[0]
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"kl_div: reduction={reduction!r}; use 'batchmean' (the mathematical mean over samples), "
                            "'mean', 'sum' or 'none'")
    return _loss(xp, "kl_div", reduction, terms, log_probs, target)


# --------------------------------------------------------------------------------------------------- regression
def _squared_error(np, x, y):
    d = x - y
    d *= d
    return d


elementwise("_squared_error(x, y) -> z", _squared_error, takes="ifc", widen=True, domain=(-3, 3),
            vjp={"x": lambda xp, g, x, y: (x - y) * (g * 2), "y": lambda xp, g, x, y: (y - x) * (g * 2)},
            lower=lambda k, x, y: k.mul(k.sub(x, y), k.sub(x, y)), doc="(x - y)².")


@composite(samples=lambda s: [((s(4, 3), s(4, 3)), {}), ((s(2, 3), s(2, 3)), {"reduction": "sum"})])
def mse_loss(xp, input, target, weight=None, reduction="mean"):
    """(input - target)², of equal shapes (or a single number as target)."""
    _numbers("mse_loss", weight)
    _same_shape("mse_loss", input, target)
    if weight is None:
        return _loss(xp, "mse_loss", reduction, "_squared_error", input, target)
    return _reduce(xp, "mse_loss", xp._squared_error(input, target) * weight, reduction)


elementwise("_absolute_error(x, y) -> z", lambda np, x, y: np.absolute(x - y), takes="if", widen=True,
            vjp={"x": lambda xp, g, x, y: g * xp.sign(x - y), "y": lambda xp, g, x, y: g * xp.sign(y - x)},
            lower=lambda k, x, y: k.abs(k.sub(x, y)), domain=((0.5, 3), (-3, 0.2)), doc="|x - y| of real numbers.")


def _is_complex(x):
    return x.dtype.kind == "c" if hasattr(x, "dtype") else isinstance(x, complex)


@composite(samples=lambda s: [((s(4, 3, lo=1, hi=2), s(4, 3, lo=-2, hi=0.5)), {})])
def l1_loss(xp, input, target, weight=None, reduction="mean"):
    """|input - target|, of equal shapes."""
    _numbers("l1_loss", weight)
    _same_shape("l1_loss", input, target)
    if weight is None and not _is_complex(input) and not _is_complex(target):
        return _loss(xp, "l1_loss", reduction, "_absolute_error", input, target)
    loss = xp.abs(input - target)
    return _reduce(xp, "l1_loss", loss if weight is None else loss * weight, reduction)


def _huber(np, x, y, delta):
    size = np.absolute(np.subtract(x, y))
    inner = np.minimum(size, delta)
    size = size - inner * 0.5
    size *= inner
    return size


def _huber_lower(k, x, y, delta):
    size = k.abs(k.sub(x, y))
    inner = k.min(size, delta)
    return k.mul(inner, k.sub(size, k.mul(0.5, inner)))


elementwise("_huber(x, y, delta) -> z", _huber, takes="f", to_float=True, widen=True,
            lower=_huber_lower,
            samples=lambda s: [((s(3, 4, lo=0.5, hi=1.5), s(3, 4, lo=-0.5, hi=0.3), s(4, lo=0.2, hi=0.9)), {})],
            vjp={"x": lambda xp, g, x, y, delta: g * xp.maximum(xp.minimum(x - y, delta), -delta),
                 "y": lambda xp, g, x, y, delta: g * xp.maximum(xp.minimum(y - x, delta), -delta),
                 "delta": lambda xp, g, x, y, delta: g * xp.maximum(xp.abs(x - y) - delta, 0.0)},
            doc="d²/2 where |d| <= delta, else delta (|d| - delta/2), with d = x - y.")


@composite(samples=lambda s: [((s(4, 3), s(4, 3)), {"delta": 0.8})])
def huber_loss(xp, input, target, delta=1.0, reduction="mean"):
    """d²/2 for |d| <= delta, else delta (|d| - delta/2), with d = input - target."""
    _numbers("huber_loss", delta)
    if delta <= 0:
        raise ArgumentError(f"huber_loss: delta={delta}; it must be positive")
    _same_shape("huber_loss", input, target)
    return _loss(xp, "huber_loss", reduction, "_huber", input, target, delta)


@composite(samples=lambda s: [((s(4, 3), s(4, 3)), {"beta": 0.8})])
def smooth_l1_loss(xp, input, target, beta=1.0, reduction="mean"):
    """Huber loss divided by beta: d²/(2 beta) for |d| < beta, else |d| - beta/2. beta=0 is the L1 loss."""
    _numbers("smooth_l1_loss", beta)
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss: beta={beta}; it must not be negative")
    _same_shape("smooth_l1_loss", input, target)
    if not beta:
        return xp.l1_loss(input, target, reduction=reduction)
    loss = _loss(xp, "smooth_l1_loss", reduction, "_huber", input, target, beta)
    return loss if beta == 1 else loss / beta


@composite(samples=lambda s: [((s(4, 3), s(4, 3), s(4, 3, lo=0.5)), {"full": True})])
def gaussian_nll_loss(xp, input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Negative log likelihood of `target` under Normal(input, var): (log v + (input - target)² / v) / 2.

    v is max(var, eps); full=True adds the constant log(2 pi)/2. `var` has the input's shape, or 1 on its last axis, or
    lacks it.
    """
    _same_shape("gaussian_nll_loss", input, target)
    if _shape(var) == input.shape[:-1] and len(input.shape) and _shape(var) != input.shape:
        var = xp.expand_dims(var, axis=-1)
    v = xp.maximum(var, eps)
    loss = 0.5 * (xp.log(v) + xp.square(input - target) / v)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduce(xp, "gaussian_nll_loss", loss, reduction)


@composite(samples=lambda s: [((s(4, 3), s(4, 3, lo=1.1, hi=4)), {"full": True})])
def poisson_nll_loss(xp, input, target, log_input=True, full=False, eps=1e-8, reduction="mean"):
    """Negative log likelihood of counts `target` under Poisson(rate): rate - target log(rate).

    log_input  `input` is log(rate), else the rate itself
    full       adds Stirling's approximation of log(target!) where target > 1
    """
    _same_shape("poisson_nll_loss", input, target)
    loss = xp.exp(input) - target * input if log_input else input - target * xp.log(input + eps)
    if full:
        big = target > 1
        t = xp.where(big, target, 1.0)
        loss = loss + xp.where(big, t * xp.log(t) - t + 0.5 * xp.log(2 * math.pi * t), 0.0)
    return _reduce(xp, "poisson_nll_loss", loss, reduction)


# ------------------------------------------------------------------------------------------- margins, distances
@composite(samples=lambda s: [((s(4, 3), s(4, 3)), {}), ((s(2, 3), s(2, 3)), {"reduction": "sum"})])
def hinge_loss(xp, input, target, margin=1.0, reduction="mean"):
    """max(0, margin - target * input) with targets -1 and 1: the loss of support vector machines."""
    _numbers("hinge_loss", margin)
    _same_shape("hinge_loss", input, target)
    return _reduce(xp, "hinge_loss", xp.clip(margin - input * target, 0.0), reduction)


@composite(samples=lambda s: [((s(4, 3, lo=-1, hi=0.9), s(4, 3, lo=0.5)), {})])
def hinge_embedding_loss(xp, input, target, margin=1.0, reduction="mean"):
    """`input` where target is 1, max(0, margin - input) where it is -1."""
    _numbers("hinge_embedding_loss", margin)
    _same_shape("hinge_embedding_loss", input, target)
    return _reduce(xp, "hinge_embedding_loss", xp.where(target > 0, input, xp.clip(margin - input, 0.0)), reduction)


@composite(samples=lambda s: [((s(5), s(5), s(5)), {"margin": 0.3})])
def margin_ranking_loss(xp, x1, x2, target, margin=0.0, reduction="mean"):
    """max(0, -target (x1 - x2) + margin): target 1 asks for x1 > x2, target -1 for x1 < x2."""
    _numbers("margin_ranking_loss", margin)
    _same_shape("margin_ranking_loss", x1, x2, "x1", "x2")
    return _reduce(xp, "margin_ranking_loss", xp.clip((x2 - x1) * target + margin, 0.0), reduction)


@composite(samples=lambda s: [((s(4, 3), s(4, 3)), {}), ((s(2, 3), s(2, 3)), {"reduction": "sum"})])
def soft_margin_loss(xp, input, target, reduction="mean"):
    """log(1 + exp(-target * input)) with targets -1 and 1."""
    _same_shape("soft_margin_loss", input, target)
    return _reduce(xp, "soft_margin_loss", xp.softplus(-input * target), reduction)


def _norm(xp, x, axis, eps, keepdims=False):
    """Euclidean norm, at least eps, whose gradient is 0 and not NaN below eps."""
    return xp.sqrt(xp.maximum(xp.sum(x * x, axis=axis, keepdims=keepdims), eps * eps))


@composite(samples=lambda s: [((s(4, 3), s(4, 3)), {}), ((s(4, 3, 2), s(3, 2)), {"axis": -1})])
def cosine_similarity(xp, x1, x2, axis=1, eps=1e-8):
    """x1 · x2 / (|x1| |x2|) along `axis`; norms below eps count as eps. x1 and x2 broadcast."""
    eps = max(eps, 2.0 ** -12 if x1.dtype == np.float16 else 1e-18)  # the dtype has to hold its square
    return xp.sum(x1 * x2, axis=axis) / (_norm(xp, x1, axis, eps) * _norm(xp, x2, axis, eps))


@composite
def cosine_embedding_loss(xp, x1, x2, target, margin=0.0, reduction="mean"):
    """1 - cos(x1, x2) where target is 1, max(0, cos(x1, x2) - margin) where it is -1. x1, x2: (N, D) or (D,)."""
    _numbers("cosine_embedding_loss", margin)
    _same_shape("cosine_embedding_loss", x1, x2, "x1", "x2")
    if len(x1.shape) not in (1, 2) or _shape(target) != x1.shape[:-1]:
        raise ShapeError(f"cosine_embedding_loss(x1={_describe(x1)}, x2={_describe(x2)}, target={_describe(target)}): "
                         "x1 and x2 have shape (N, D) and target (N,), or (D,) and ()")
    cos = xp.cosine_similarity(x1, x2, axis=-1)
    loss = xp.where(target > 0, 1.0 - cos, xp.clip(cos - margin, 0.0))
    return _reduce(xp, "cosine_embedding_loss", loss, reduction)


@composite(samples=lambda s: [((s(4, 3), s(4, 3)), {}), ((s(4, 3), s(4, 3)), {"p": 3.0})])
def pairwise_distance(xp, x1, x2, p=2.0, eps=1e-6, keepdims=False):
    """The p-norm of x1 - x2 + eps along the last axis (as torch defines it)."""
    if p <= 0:
        raise ArgumentError(f"pairwise_distance: p={p}; it must be positive")
    d = x1 - x2 + eps
    if p == 2:
        return xp.sqrt(xp.sum(d * d, axis=-1, keepdims=keepdims))
    size = xp.abs(d)
    if p == math.inf:
        return xp.max(size, axis=-1, keepdims=keepdims)
    if p == 1:
        return xp.sum(size, axis=-1, keepdims=keepdims)
    return xp.sum(size ** p, axis=-1, keepdims=keepdims) ** (1.0 / p)


@composite(samples=lambda s: [((s(5, 3), s(5, 3), s(5, 3)), {}),
                              ((s(5, 3), s(5, 3), s(5, 3)), {"swap": True, "p": 3.0})])
def triplet_margin_loss(xp, anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) over rows, with the p-norm distance.

    swap=True takes the smaller of d(anchor, negative) and d(positive, negative).
    """
    _numbers("triplet_margin_loss", margin, p, eps)
    _same_shape("triplet_margin_loss", anchor, positive, "anchor", "positive")
    _same_shape("triplet_margin_loss", anchor, negative, "anchor", "negative")
    if margin <= 0:
        raise ArgumentError(f"triplet_margin_loss: margin={margin}; it must be positive")
    near = xp.pairwise_distance(anchor, positive, p=p, eps=eps)
    far = xp.pairwise_distance(anchor, negative, p=p, eps=eps)
    if swap:
        far = xp.minimum(far, xp.pairwise_distance(positive, negative, p=p, eps=eps))
    return _reduce(xp, "triplet_margin_loss", xp.clip(near - far + margin, 0.0), reduction)
