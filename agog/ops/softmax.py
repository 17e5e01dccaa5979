"""Softmax and its logarithm. Large ones go block by block along their rows, on several threads."""

from __future__ import annotations

import numpy

from agog.array import few, large
from agog.errors import AxisError
from agog.ops.blocks import fresh, native, over_rows, reduced
from agog.ops.namespaces import raw
from agog.ops.row import Op, composite

_LARGE = few.BELOW  # elements that are no longer few
_MANY = 1 << 13  # from which that is so for exp alone


def _check_axis(name):
    def check(x, axis):
        if type(axis) is not int or not -x.ndim <= axis < x.ndim:
            raise AxisError(f"{name}(x={x.dtype}{list(x.shape)}, axis={axis!r}): the axis is a whole number from "
                            f"{-x.ndim} to {x.ndim - 1}" if x.ndim else
                            f"{name}: x is a single number (shape ()), which has no axis; give an array")
        return (axis,)
    return check


_softmaxes, _log_softmaxes = few.kernels("softmax", True), few.kernels("log_softmax", True)
_softmax_grads, _log_softmax_grads = few.kernels("softmax_backward", True), few.kernels("log_softmax_backward", True)


def _softmax(np, x, axis):
    if x.size < few.MIDDLE and np is numpy and (done := few.along(_softmaxes, x, axis)) is not None:
        return done
    if x.size >= _LARGE:
        x.shape[axis]  # an IndexError where there is no such axis
        done = native(np, "softmax", 32 * x.size, x, axis)
        if done is not None:
            return done
        return (_by_rows if x.size >= large.THRESHOLD else _by_steps)(np, _softmax, x, axis)
    if not x.size:
        return _nothing(x, axis)
    y = np.subtract(x, np.maximum.reduce(x, axis, None, None, True))
    np.exp(y, y)
    y /= np.add.reduce(y, axis, None, None, True)
    return y


def _log_softmax(np, x, axis):
    if x.size < few.MIDDLE and np is numpy and (done := few.along(_log_softmaxes, x, axis)) is not None:
        return done
    if x.size >= _LARGE:
        x.shape[axis]
        done = native(np, "log_softmax", 32 * x.size, x, axis)
        if done is not None:
            return done
        return (_by_rows if x.size >= large.THRESHOLD else _by_steps)(np, _log_softmax, x, axis)
    if not x.size:
        return _nothing(x, axis)
    y = np.subtract(x, np.maximum.reduce(x, axis, None, None, True))
    s = np.add.reduce(np.exp(y), axis, None, None, True)
    y -= np.log(s, s)
    return y


def _nothing(x, axis):
    """The result for an x without elements, which has such an axis."""
    x.shape[axis]
    return x.copy()


def _softmax_into(np, x, y):
    np.subtract(x, np.maximum.reduce(x, 1, None, None, True), y)
    np.exp(y, y)
    y /= np.add.reduce(y, 1, None, None, True)


def _log_softmax_into(np, x, y):
    np.subtract(x, np.maximum.reduce(x, 1, None, None, True), y)
    s = np.add.reduce(np.exp(y), 1, None, None, True)
    y -= np.log(s, s)


def _by_steps(np, compute, x, axis):
    """The same for some thousand elements: what kernels there are take their steps."""
    y = np.subtract(x, reduced(np, "max", np.maximum, x, axis, True))
    e = large.unary(np.exp, y) if np is numpy and y.size >= _MANY else np.exp(y)
    s = reduced(np, "sum", np.add, e, axis, True)
    if compute is _softmax:
        e /= s
        return e
    y -= np.log(s, s)
    return y


_WIDE = 64  # elements that lie side by side, for which NumPy is quick along another axis


def _by_rows(np, compute, x, axis):
    """A large softmax, block by block along its rows, on several threads."""
    if np is numpy and axis % x.ndim < x.ndim - 1 and x.flags.c_contiguous and x.shape[-1] >= _WIDE:
        # whole rows at a time
        y = large.binary(np.subtract, x, reduced(np, "max", np.maximum, x, axis, True))
        e = large.unary(np.exp, y)
        s = reduced(np, "sum", np.add, e, axis, True)
        return large.binary(np.divide, e, s) if compute is _softmax else large.binary(np.subtract, y, np.log(s, s))
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    y = fresh(np, rows.shape, x.dtype)
    into = _softmax_into if compute is _softmax else _log_softmax_into
    rows, out = rows.reshape(-1, rows.shape[-1]), y.reshape(-1, rows.shape[-1])
    over_rows(*rows.shape, lambda i, j: into(np, rows[i:j], out[i:j]))
    return np.moveaxis(y, -1, axis)


def _softmax_rule(xp, g, y, axis):
    if xp is raw:
        done = few.along_both(_softmax_grads, y, g, axis) if y.size < few.MIDDLE else None
        if done is None and y.size >= _LARGE:
            done = large.native("softmax_grad", 32 * y.size, g, y, axis)
        if done is not None:
            return done
    return (g - xp.sum(g * y, axis=axis, keepdims=True)) * y


def _log_softmax_rule(xp, g, y, axis):
    if xp is raw:
        done = few.along_both(_log_softmax_grads, y, g, axis) if y.size < few.MIDDLE else None
        if done is None and y.size >= _LARGE:
            done = large.native("log_softmax_grad", 32 * y.size, g, y, axis)
        if done is not None:
            return done
    return g - xp.exp(y) * xp.sum(g, axis=axis, keepdims=True)


def _batch_axis(name):
    return lambda xp, batched, inputs, statics: getattr(xp, name)(
        inputs[0], axis=statics[0] + 1 if statics[0] >= 0 else statics[0])


softmax = Op(
    "softmax(x; axis=-1) -> y", _softmax, vjp={"x": _softmax_rule},
    jvp={"x": lambda xp, t, y, axis: (t - xp.sum(t * y, axis=axis, keepdims=True)) * y},
    to_float=True, takes="f", widen=True, kind="softmax", check=_check_axis("softmax"), sure="type(axis) is int",
    batch=_batch_axis("softmax"),
    samples=lambda s: [((s(3, 4),), {}), ((s(2, 3, 4),), {"axis": 1}), ((s(5, lo=80, hi=100),), {"axis": 0})],
    doc="exp(x) / sum(exp(x)) along `axis` (default: the last), computed without overflow. A slice that is all -inf "
        "gives NaN.")
log_softmax = Op(
    "log_softmax(x; axis=-1) -> y", _log_softmax, vjp={"x": _log_softmax_rule},
    jvp={"x": lambda xp, t, y, axis: t - xp.sum(xp.exp(y) * t, axis=axis, keepdims=True)},
    to_float=True, takes="f", widen=True, kind="softmax", check=_check_axis("log_softmax"), sure="type(axis) is int",
    batch=_batch_axis("log_softmax"),
    samples=lambda s: [((s(3, 4),), {}), ((s(2, 3, 4),), {"axis": 1}), ((s(5, lo=80, hi=100),), {"axis": 0})],
    doc="log(softmax(x)) along `axis`, computed as x - logsumexp(x): exact where softmax underflows.")


@composite(samples=lambda s: [((s(3, 4),), {})])
def softmin(xp, x, axis=-1):
    """softmax(-x) along `axis`."""
    return xp.softmax(-x, axis=axis)
