"""Running sums, products, extremes along an axis, and differences.

The rules of products and of logcumsumexp solve a linear recurrence by doubling: log2(n) steps of products and sums,
which need no division, so that zeros are right in derivatives of any order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from agog.array import dtypes, large
from agog.errors import ArgumentError, AxisError
from agog.ops import axes as ax
from agog.ops.blocks import native
from agog.ops.explain import describe
from agog.ops.row import Op, composite


def _widest(x: Any, *_: Any) -> Any:
    k = dtypes.kind(x)
    return dtypes.uint64 if k == "u" else dtypes.int64 if k in "bi" else x


def _checked(name: str) -> Any:
    def check(x: Any, axis: Any) -> tuple:
        return (None if axis is None else ax.axis(name, x, axis),)
    return check


def _batch(name: str) -> Any:
    def batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
        (x,), (axis,) = inputs, statics
        if axis is None:
            x, axis = xp.reshape(x, (x.shape[0], math.prod(x.shape[1:]))), 0
        return getattr(xp, name)(x, axis + 1)
    return batch


def _samples(s: Any) -> list:
    return [((s(5),), {}), ((s(3, 4),), {"axis": 0}), ((s(2, 3, 4),), {"axis": -1}), ((s(2, 3),), {}),
            ((s(0, 3),), {"axis": 0}),
            ((s(2, 1),), {"axis": 1})]


def _flat(np: Any, x: Any, axis: Any) -> tuple:
    return (x.reshape(-1), 0) if axis is None else (x, axis)


def _last(xp: Any, v: Any, axis: Any) -> Any:
    return xp.reshape(v, (math.prod(v.shape),)) if axis is None else xp.moveaxis(v, axis, -1)


def _unlast(xp: Any, v: Any, axis: Any, shape: tuple) -> Any:
    return xp.reshape(v, shape) if axis is None else xp.moveaxis(v, -1, axis)


def _shift(xp: Any, v: Any, d: int) -> Any:
    """`v[..., i + d]`, zeros past the end."""
    return xp.concat([v[..., d:], xp.zeros((*v.shape[:-1], min(d, v.shape[-1])), dtype=v.dtype)], axis=-1)


def _recurrence(xp: Any, a: Any, b: Any) -> Any:
    """r with `r[..., i] = b[..., i] + a[..., i] * r[..., i + 1]`."""
    d, n = 1, b.shape[-1]
    while d < n:
        b, a, d = b + a * _shift(xp, b, d), a * _shift(xp, a, d), 2 * d
    return b


# ------------------------------------------------------------------------------------------------------------- rows
_TURN = 64  # elements beside an axis from which a call for each of its places beats NumPy's loops, at 10 ns an element


def _accumulated(np: Any, ufunc: Any, x: Any, axis: int) -> Any:
    """`ufunc.accumulate(x, axis)`, as one call for each place on an axis that is not the last."""
    if x.size < large.THRESHOLD or np is not numpy or type(x) is not numpy.ndarray or x.dtype.char not in "fdFDqQlL":
        return ufunc.accumulate(x, axis)
    inner = math.prod(x.shape[axis % x.ndim + 1:])
    if inner < _TURN or not x.flags.c_contiguous:
        return ufunc.accumulate(x, axis)
    y = large.empty(x.shape, x.dtype, x)
    here, there = np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0)
    before = there[0]
    before[...] = here[0]
    for a, b in zip(here[1:], there[1:]):
        ufunc(before, a, b)
        before = b
    return y


_LONG = 1 << 9  # elements from which a native kernel is worth its call


def _cumsum(np: Any, x: Any, axis: Any) -> Any:
    if x.size < _LONG and axis is not None:
        return np.add.accumulate(x, axis)
    x, axis = _flat(np, x, axis)
    x.shape[axis]  # an IndexError where there is no such axis
    done = native(np, "cumsum", 32 * x.size, x, axis) if x.size >= _LONG else None
    return _accumulated(np, np.add, x, axis) if done is None else done


def _cumsum_vjp(xp: Any, g: Any, axis: Any, x_shape: tuple) -> Any:
    over = 0 if axis is None else axis
    return xp.reshape(xp.flip(xp.cumsum(xp.flip(g, axis=over), axis=over), axis=over), x_shape)


cumsum = Op("cumsum(x; axis=None) -> y", _cumsum, linear_in="all", widen=True, result=_widest, vjp={"x": _cumsum_vjp},
            check=_checked("cumsum"), sure="type(axis) is int", batch=_batch("cumsum"), samples=_samples, kind="scan",
            doc="Running sums along `axis`; of the flattened `x` for None. Integers are added up in 64 bits.")


def _cumprod(np: Any, x: Any, axis: Any) -> Any:
    x, axis = _flat(np, x, axis)
    done = native(np, "cumprod", 32 * x.size, x, axis) if x.size >= _LONG else None
    return _accumulated(np, np.multiply, x, axis) if done is None else done


def _cumprod_vjp(xp: Any, g: Any, x: Any, y: Any, axis: Any) -> Any:
    shape = x.shape
    g, x, y = (_last(xp, v, axis) for v in (g, x, y))
    before = xp.concat([xp.full((*y.shape[:-1], min(1, y.shape[-1])), 1, dtype=y.dtype), y[..., :-1]], axis=-1)
    return _unlast(xp, before * _recurrence(xp, _shift(xp, x, 1), g), axis, shape)


cumprod = Op("cumprod(x; axis=None) -> y", _cumprod, widen=True, result=_widest, vjp={"x": _cumprod_vjp}, error=16,
             check=_checked("cumprod"), batch=_batch("cumprod"), samples=_samples, kind="scan",
             doc="Running products along `axis`; of the flattened `x` for None. Its gradient is right where factors "
                 "are zero. Integers are multiplied in 64 bits.")


def _logcumsumexp_vjp(xp: Any, g: Any, x: Any, y: Any, axis: Any) -> Any:
    shape = x.shape
    g, x, y = (_last(xp, v, axis) for v in (g, x, y))
    empty, full = y == -math.inf, y == math.inf
    y = xp.where(empty, 0, y)
    later = xp.concat([y[..., 1:], y[..., -1:]], axis=-1)  # the last one is never used
    carry = xp.where(empty, 0, xp.exp(xp.where(full, 0, y - later)))
    share = xp.where(full & (x < math.inf), 0, xp.exp(xp.where(full, 0, x - y)))
    return _unlast(xp, share * _recurrence(xp, carry, g), axis, shape)


def _logcumsumexp_reference(np: Any, x: Any, axis: Any) -> Any:
    return np.log(np.cumsum(np.exp(x), axis))


def _logcumsumexp(np: Any, x: Any, axis: Any) -> Any:
    x, axis = _flat(np, x, axis)
    done = native(np, "logcumsumexp", 32 * x.size, x, axis) if x.size >= _LONG else None
    return np.logaddexp.accumulate(x, axis) if done is None else done


logcumsumexp = Op("logcumsumexp(x; axis=None) -> y", _logcumsumexp, to_float=True, takes="f", widen=True,
                  vjp={"x": _logcumsumexp_vjp}, check=_checked("logcumsumexp"), batch=_batch("logcumsumexp"),
                  samples=_samples, reference=_logcumsumexp_reference, kind="scan", error=16,
                  doc="Running `logsumexp` along `axis`; of the flattened `x` for None.")


def _arg_running(larger: bool) -> Any:
    def compute(np: Any, x: Any, axis: int) -> Any:
        kind = "argcummax" if larger else "argcummin"
        done = native(np, kind, 32 * x.size, x, axis) if x.size >= _LONG else None
        if done is not None:
            return done
        axis %= x.ndim
        best = (np.maximum if larger else np.minimum).accumulate(x, axis)
        place = np.arange(x.shape[axis]).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
        hit = (x == best) | (x != x)  # the latest of equal ones, and the latest nan once there is one
        return np.maximum.accumulate(np.where(hit, place, 0), axis)
    return compute


def _arg_check(name: str) -> Any:
    return lambda x, axis: (ax.axis(name, x, axis),)


def _arg_samples(s: Any) -> list:
    return [((s(5),), {"axis": 0}), ((s(3, 4),), {"axis": 1}), ((s(3, 4),), {"axis": -2}), ((s(3, 0),), {"axis": 1})]


Op("_argcummax(x; axis) -> y", _arg_running(True), result="int64", kind="scan", check=_arg_check("cummax"),
   batch=_batch("_argcummax"), samples=_arg_samples, doc="Where the running maximum along `axis` is: int64.")
Op("_argcummin(x; axis) -> y", _arg_running(False), result="int64", kind="scan", check=_arg_check("cummin"),
   batch=_batch("_argcummin"), samples=_arg_samples, doc="Where the running minimum along `axis` is: int64.")


# ------------------------------------------------------------------------------------------------------- composites
@composite(samples=_arg_samples)
def cummax(xp, x, axis):
    """Running maxima along `axis` and where they are: a pair of values and int64 indices, as in PyTorch."""
    places = xp._argcummax(x, axis=axis)
    return xp.take_along_axis(x, places, axis=axis), places


@composite(samples=_arg_samples)
def cummin(xp, x, axis):
    """Running minima along `axis` and where they are: a pair of values and int64 indices, as in PyTorch."""
    places = xp._argcummin(x, axis=axis)
    return xp.take_along_axis(x, places, axis=axis), places


def _the_axis(name: str, x: Any, axis: Any) -> int:
    if axis is None:
        if len(x.shape) != 1:
            raise AxisError(f"{name}: {describe(x)} has {len(x.shape)} axes; say along which with axis=")
        return 0
    return ax.axis(name, x, axis)


def _with_initial(xp: Any, name: str, x: Any, axis: Any, include_initial: bool, initial: int) -> Any:
    axis = _the_axis(name, x, axis)
    y = xp.cumsum(x, axis) if initial == 0 else xp.cumprod(x, axis)
    if not include_initial:
        return y
    shape = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
    return xp.concat([xp.full(shape, initial, dtype=y.dtype), y], axis=axis)


def _initial_samples(s: Any) -> list:
    return [((s(5),), {}), ((s(3, 4),), {"axis": -1, "include_initial": True})]


@composite(samples=_initial_samples)
def cumulative_sum(xp, x, axis=None, include_initial=False):
    """Running sums along `axis` (which only a 1-d array can do without), after a leading 0 if asked for."""
    if type(axis) is int and not include_initial and -(n := len(x.shape)) <= axis < n:
        return xp.cumsum(x, axis)
    return _with_initial(xp, "cumulative_sum", x, axis, include_initial, 0)


@composite(samples=_initial_samples)
def cumulative_prod(xp, x, axis=None, include_initial=False):
    """Running products along `axis` (which only a 1-d array can do without), after a leading 1 if asked for."""
    return _with_initial(xp, "cumulative_prod", x, axis, include_initial, 1)


@composite(samples=lambda s: [((s(5),), {}), ((s(3, 4),), {"axis": 0, "n": 2}), ((s(3, 4),), {"prepend": s(3, 1)})])
def diff(xp, x, n=1, axis=-1, prepend=None, append=None):
    """The `n`-th differences of neighbours along `axis`, after joining `prepend` and `append` to the ends.

    Of bools: where neighbours differ. Raises ArgumentError for negative `n`.
    """
    n, axis = ax.integer("diff", "n", n), ax.axis("diff", x, axis)
    if n < 0:
        raise ArgumentError(f"diff: n={n} must be 0 or more")
    parts = [v for v in (prepend, x, append) if v is not None]
    if len(parts) > 1:
        x = xp.concat(parts, axis=axis)
    before = (slice(None),) * axis
    for _ in range(n):
        late, early = x[(*before, slice(1, None))], x[(*before, slice(None, -1))]
        x = xp.not_equal(late, early) if x.dtype == numpy.bool_ else late - early
    return x
