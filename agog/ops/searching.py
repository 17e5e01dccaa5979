"""Searching, sorting, sets, order statistics and counting.

What gives positions or counts is a row without rules; values at those positions are taken with `take_along_axis`,
which carries their gradient.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy

from agog.array import dtypes, large
from agog.errors import ArgumentError, ArgumentTypeError, AxisError, ShapeError
from agog.ops import axes as ax
from agog.ops.blocks import native
from agog.ops.explain import describe
from agog.ops.row import Op, composite


# -------------------------------------------------------------------------------------------------- argmax, argmin
def _check_arg(name: str) -> Any:
    def check(x: Any, axis: Any, keepdims: Any) -> tuple:
        if axis in (0, -1) and not x.shape:
            axis = None  # as NumPy has it
        if axis is not None:
            axis = ax.axis(name, x, axis)
        if 0 in (x.shape if axis is None else (x.shape[axis],)):
            raise ShapeError(f"{name}: {describe(x)} has no elements along axis={axis}; test x.size first")
        return (axis, ax.flag(name, "keepdims", keepdims))
    return check


def _batch_arg(name: str) -> Any:
    def batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
        (x,), (axis, keepdims) = inputs, statics
        if axis is not None:
            return getattr(xp, name)(x, axis + 1, keepdims)
        y = getattr(xp, name)(xp.reshape(x, (x.shape[0], math.prod(x.shape[1:]))), 1)
        return xp.reshape(y, (x.shape[0],) + (1,) * (len(x.shape) - 1)) if keepdims else y
    return batch


def _arg_samples(s: Any) -> list:
    return [((s(3, 4),), {}), ((s(3, 4),), {"axis": 0}), ((s(2, 3, 4),), {"axis": -2, "keepdims": True}), ((s(),), {}),
            ((s(2, 3),), {"keepdims": True}), ((s(0, 3),), {"axis": 1})]


argmax = Op("argmax(x; axis=None, keepdims=False) -> y",
            lambda np, x, axis, keepdims: x.argmax(axis, None, keepdims=keepdims if type(keepdims) is bool else ax.flag(
                "argmax", "keepdims", keepdims)),
            kind="reduction", result="int64", check=_check_arg("argmax"), batch=_batch_arg("argmax"),
            samples=_arg_samples,
            doc="Where the (first) largest element along `axis` is (None: of all): int64. nan is the largest.")
argmin = Op("argmin(x; axis=None, keepdims=False) -> y",
            lambda np, x, axis, keepdims: x.argmin(axis, None, keepdims=keepdims if type(keepdims) is bool else ax.flag(
                "argmin", "keepdims", keepdims)),
            kind="reduction", result="int64", check=_check_arg("argmin"), batch=_batch_arg("argmin"),
            samples=_arg_samples,
            doc="Where the (first) smallest element along `axis` is (None: of all): int64. nan is the smallest.")


# ---------------------------------------------------------------------------------------------------------- sorting
def _check_sort(name: str) -> Any:
    def check(x: Any, axis: Any, descending: Any, stable: Any) -> tuple:
        return (ax.axis(name, x, axis), ax.flag(name, "descending", descending), ax.flag(name, "stable", stable))
    return check


def _batch_sort(name: str) -> Any:
    return lambda xp, batched, inputs, statics: getattr(xp, name)(inputs[0], statics[0] + 1, *statics[1:])


def comparable(x: Any) -> Any:
    """`x` in a dtype that NumPy sorts with nan last: in bfloat16 it leaves an order without sense."""
    return x.astype(numpy.float32) if x.dtype.kind == "V" else x


_MANY = 1 << 9  # elements from which kernels are worth asking for


def _wide(x: Any) -> Any:
    """`x` with 16-bit floats as float32, in which they have the same order."""
    return large.astype(x, dtypes.float32) if dtypes.is_half(x.dtype) else x


def _sort(np: Any, x: Any, axis: int, descending: bool, stable: bool) -> Any:
    y = np.sort(comparable(x), axis)  # equal values cannot be told apart: the fastest way will do
    y = y.astype(x.dtype, copy=False)
    return np.flip(y, axis) if descending else y


def _argsort(np: Any, x: Any, axis: int, descending: bool, stable: bool) -> Any:
    x = comparable(x)
    if not descending:
        return np.argsort(x, axis, kind="stable" if stable else None)
    backwards = np.argsort(np.flip(x, axis), axis, kind="stable" if stable else None)
    return x.shape[axis] - 1 - np.flip(backwards, axis)


def _sort_vjp(xp: Any, g: Any, x: Any, axis: int, descending: bool) -> Any:
    order = xp.argsort(x, axis=axis, descending=descending)
    return xp.take_along_axis(g, xp.argsort(order, axis=axis), axis=axis)


def _sort_samples(s: Any) -> list:
    return [((s(6),), {}), ((s(3, 4),), {"axis": 0, "descending": True}), ((s(2, 3, 4),), {"axis": 1, "stable": False}),
            ((s(0, 3),), {"axis": 0}), ((s(1),), {})]


sort = Op("sort(x; axis=-1, descending=False, stable=True) -> y", _sort, vjp={"x": _sort_vjp}, kind="sorting",
          check=_check_sort("sort"), batch=_batch_sort("sort"), samples=_sort_samples,
          doc="The elements of `x` in order along `axis`; nan is the largest.")
argsort = Op("argsort(x; axis=-1, descending=False, stable=True) -> y", _argsort, result="int64", kind="sorting",
             check=_check_sort("argsort"), batch=_batch_sort("argsort"), samples=_sort_samples,
             doc="The indices (int64) that put `x` in order along `axis`; stable keeps equal elements in their order.")


def _topk_indices(np: Any, x: Any, k: int, axis: int, largest: bool) -> Any:
    x = np.moveaxis(x, axis, -1)
    done = native(np, "topk", 32 * x.size, _wide(x), k, largest) if x.size > _MANY else None
    if done is not None:
        return done if axis in (-1, x.ndim - 1) else np.ascontiguousarray(np.moveaxis(done, -1, axis))
    n = x.shape[-1]
    if 0 < k and 8 * k < n and x.dtype.kind in "iuf":  # few of many: find the last that counts, then sort the chosen
        edge = np.partition(x, n - k if largest else k - 1, -1)[..., n - k if largest else k - 1, None]
        if (edge == edge).all():
            chosen = ~(x < edge) if largest else x <= edge  # nan is the largest
            if np.count_nonzero(chosen) > x.size // n * k:  # more are equal to the last: the first of them
                ahead = (x > edge) | (x != x) if largest else x < edge
                equal = x == edge
                room = k - np.add.reduce(ahead, -1, np.int64, None, True)
                chosen = ahead | (equal & (np.add.accumulate(equal, -1, np.int64) <= room))
            part = (np.flatnonzero(chosen) % n).reshape(*x.shape[:-1], k)
            order = _argsort(np, np.take_along_axis(x, part, -1), x.ndim - 1, largest, True)
            return np.ascontiguousarray(np.moveaxis(np.take_along_axis(part, order, -1), -1, axis))
    return np.ascontiguousarray(np.moveaxis(_argsort(np, x, x.ndim - 1, largest, True)[..., :k], -1, axis))


def _check_topk(x: Any, k: Any, axis: Any, largest: Any) -> tuple:
    axis, k = ax.axis("topk", x, axis), ax.integer("topk", "k", k)
    if not 0 <= k <= x.shape[axis]:
        raise ArgumentError(f"topk: k={k}, but {describe(x)} has {x.shape[axis]} elements along axis {axis}")
    return (k, axis, ax.flag("topk", "largest", largest))


def _topk_samples(s: Any) -> list:
    return [((s(6),), {"k": 2}), ((s(30, 2),), {"k": 3, "axis": 0}),
            ((s(3, 4),), {"k": 4, "axis": 1, "largest": False}),
            ((s(40),), {"k": 2, "largest": False}), ((s(3),), {"k": 0})]


Op("_topk_indices(x; k, axis=-1, largest=True) -> indices", _topk_indices, result="int64", kind="sorting",
   check=_check_topk, samples=_topk_samples,
   batch=lambda xp, batched, inputs, statics: xp._topk_indices(inputs[0], statics[0], statics[1] + 1, statics[2]),
   doc="The indices of the `k` largest (or smallest) elements along `axis`, best first.")


@composite(samples=_topk_samples)
def topk(xp, x, k, axis=-1, largest=True):
    """The `k` largest (or smallest) elements along `axis`, best first, and their int64 indices: a pair."""
    places = xp._topk_indices(x, k=k, axis=axis, largest=largest)
    return xp.take_along_axis(x, places, axis=axis), places


# -------------------------------------------------------------------------------------------------------- searching
def _check_searchsorted(x1: Any, x2: Any, sorter: Any, side: str) -> tuple:
    if len(x1.shape) != 1:
        raise ShapeError(f"searchsorted: x1={describe(x1)} must have one axis, in ascending order")
    if side not in ("left", "right"):
        raise ArgumentError(f"searchsorted: side={side!r} must be 'left' or 'right'")
    return (side,)


def _searchsorted(np: Any, x1: Any, x2: Any, sorter: Any, side: str) -> Any:
    if x2.size > 64 and sorter is None and x1.size <= 16 * x2.size:
        done = native(np, "searchsorted", 256 * x2.size, _wide(x1), _wide(x2), side == "right")
        if done is not None:
            return done
    return np.asarray(np.searchsorted(comparable(x1), comparable(x2), side, sorter), np.int64)


def _sorted_samples(s: Any) -> list:
    x = s(6)
    return [((numpy.sort(x), s(3, 4), None), {}), ((x, s(4), numpy.argsort(x)), {"side": "right"}),
            ((numpy.sort(x), s(), None), {})]


searchsorted = Op("searchsorted(x1, x2, sorter=None; side='left') -> y", _searchsorted, promotes=("x1", "x2"),
                  result="int64",
                  check=_check_searchsorted, samples=_sorted_samples, kind="sorting",
                  doc="Where in the ascending `x1` the elements of `x2` belong, before equal ones (side='left') or "
                      "after: int64. `sorter` puts `x1` in order.")

def _nonzero(np: Any, x: Any) -> Any:
    if x.ndim < 2 or not x.size:
        return np.stack(np.nonzero(x)).astype(np.int64, copy=False)
    # NumPy looks for places on several axes ten times as slowly as on one, and divides places again and again.
    left = np.flatnonzero(x).astype(np.int64, copy=False)
    out = np.empty((x.ndim, left.size), np.int64)
    for axis in range(x.ndim - 1, 0, -1):
        n = x.shape[axis]
        if n & n - 1:
            above = np.floor_divide(left, n, out[axis - 1])
            np.subtract(left, above * n, out[axis])
        else:
            above = np.right_shift(left, n.bit_length() - 1, out[axis - 1])
            np.bitwise_and(left, n - 1, out[axis])
        left = above
    return out


Op("_nonzero(x) -> indices", _nonzero, result="int64", kind="dynamic",
   check=lambda x: _check_nonzero(x), samples=lambda s: [((s.ints(2, 3, 4).astype(s.dtype),), {}), ((s(0),), {})],
   doc="The indices of what is not zero, one row for each axis.")


def _check_nonzero(x: Any) -> tuple:
    if len(x.shape) == 0:
        raise AxisError("nonzero: a 0-d array has no axes; reshape it to (1,) first")
    return ()


@composite(samples=lambda s: [((s.ints(2, 3, 4).astype(s.dtype),), {})])
def nonzero(xp, x):
    """The indices of the elements that are not zero: a tuple with an int64 array for each axis."""
    found = xp._nonzero(x)
    return tuple(found[i] for i in range(found.shape[0]))


@composite(samples=lambda s: [((s.ints(2, 3, 4).astype(s.dtype),), {})])
def argwhere(xp, x):
    """The indices of the elements that are not zero, one row for each: int64 of shape (number, axes)."""
    return xp.permute_dims(xp._nonzero(x), (1, 0))


# ------------------------------------------------------------------------------------------------------------- sets
UniqueAll = namedtuple("UniqueAll", ["values", "indices", "inverse_indices", "counts"])
UniqueCounts = namedtuple("UniqueCounts", ["values", "counts"])
UniqueInverse = namedtuple("UniqueInverse", ["values", "inverse_indices"])


_CLOSE = 1 << 8  # whole numbers that are so many may be looked up in a table of four times as many


def _close(np: Any, x: Any) -> Any:
    """(x - low, low, n) where x are many whole numbers from `low` to low + n - 1, not many more than x has; else None.
    """
    if x.dtype.kind not in "iu" or x.size < _CLOSE:
        return None
    low, high = int(x.min()), int(x.max())
    if high - low >= 4 * x.size or high >= 1 << 63:
        return None
    return x.reshape(-1).astype(np.int64, copy=False) - low, low, high - low + 1


def _unique_values(np: Any, x: Any) -> Any:
    close = _close(np, x)
    if close is None:
        return np.unique(comparable(x), equal_nan=False).astype(x.dtype, copy=False)
    shifted, low, n = close
    there = np.zeros(n, np.bool_)
    there[shifted] = True
    return (np.flatnonzero(there) + low).astype(x.dtype)


def _unique_close(np: Any, x: Any, shifted: Any, low: int, n: int) -> tuple:
    counts = np.bincount(shifted, None, n)
    there = np.flatnonzero(counts)
    table = np.empty(n, np.int64)
    table[shifted[::-1]] = np.arange(x.size - 1, -1, -1)  # of several for one place, the last stays
    first = table[there]
    table[there] = np.arange(there.size)
    return ((there + low).astype(x.dtype), first, table[shifted].reshape(x.shape),
            counts[there].astype(np.int64, copy=False))


def _unique(np: Any, x: Any) -> tuple:
    close = _close(np, x)
    if close is not None:
        return _unique_close(np, x, *close)
    values, indices, inverse, counts = np.unique(comparable(x), True, True, True, equal_nan=False)
    return (values.astype(x.dtype, copy=False), indices.astype(np.int64), inverse.reshape(x.shape).astype(np.int64),
            counts.astype(np.int64))


def _unique_samples(s: Any) -> list:
    return [((s.ints(3, 3, 4).astype(s.dtype),), {}), ((s(0),), {}), ((s(),), {})]


Op("_unique(x) -> values, indices, inverse_indices, counts", _unique, kind="dynamic", samples=_unique_samples,
   doc="The different elements in order, their first places, the place of each element of `x`, their counts.")
Op("_unique_values(x) -> values", _unique_values, kind="dynamic", samples=_unique_samples,
   doc="The different elements in order.")


@composite(samples=_unique_samples)
def unique_all(xp, x):
    """The different elements in order, first places, places of all, counts. Each nan counts as different."""
    return UniqueAll(*xp._unique(x))


@composite(samples=_unique_samples)
def unique_counts(xp, x):
    """The different elements in order, and how often each occurs."""
    values, _, _, counts = xp._unique(x)
    return UniqueCounts(values, counts)


@composite(samples=_unique_samples)
def unique_inverse(xp, x):
    """The different elements in order, and for each element of `x` its place among them."""
    values, _, inverse, _ = xp._unique(x)
    return UniqueInverse(values, inverse)


@composite(samples=_unique_samples)
def unique_values(xp, x):
    """The different elements in order."""
    return xp._unique_values(x)


isin = Op("isin(x1, x2; invert=False) -> y", lambda np, x1, x2, invert: np.isin(x1, x2, invert=invert), result="bool",
          samples=lambda s: [((s.ints(4, 3, 4).astype(s.dtype), s.ints(4, 3).astype(s.dtype)), {}),
                             ((s.ints(4, 5).astype(s.dtype), s.ints(4, 2).astype(s.dtype)), {"invert": True}),
                             ((s(), s(0)), {})], kind="sets",
          doc="For each element of `x1`, whether it is among those of `x2` (or is not, with `invert`).")


# --------------------------------------------------------------------------------------------------------- counting
def _check_bincount(x: Any, weights: Any, minlength: int) -> tuple:
    if len(x.shape) != 1 or x.dtype.kind not in "iu":
        raise ArgumentError(f"bincount: x={describe(x)} must be a one-dimensional array of integers")
    if weights is not None and weights.shape != x.shape:
        raise ShapeError(f"bincount: weights={describe(weights)} must have the shape of x={describe(x)}")
    return (ax.integer("bincount", "minlength", minlength),)


def _bincount(np: Any, x: Any, weights: Any, minlength: int) -> Any:
    try:
        return _counted(np, x.astype(np.int64, copy=False), weights, minlength)
    except ValueError:
        if (x < 0).any():
            raise ArgumentError("bincount: x holds negative numbers; shift them with x - x.min()") from None
        raise


def _counted(np: Any, x: Any, weights: Any, minlength: int) -> Any:
    if weights is None:
        return np.bincount(x, None, minlength).astype(np.int64, copy=False)
    if weights.dtype.kind == "c":
        return (np.bincount(x, weights.real, minlength) + 1j * np.bincount(x, weights.imag,
                                                                           minlength)).astype(weights.dtype)
    return np.bincount(x, weights.astype(np.float64), minlength).astype(weights.dtype)


bincount = Op("bincount(x, weights=None; minlength=0) -> y", _bincount, promotes=("weights",), to_float=True,
              takes="fc",
              linear_in=("weights",), vjp={"weights": lambda xp, g, x: xp.take(g, x, axis=0)}, check=_check_bincount,
              result=lambda x, weights=None, *_: dtypes.int64 if weights is None else weights, kind="dynamic", error=8,
              samples=lambda s: [((s.ints(4, 7), s(7)), {}), ((s.ints(4, 7), None), {"minlength": 6}),
                                 ((s.ints(4, 0), s(0)), {})],
              doc="How often each number from 0 to `x.max()` occurs in `x`, or the sum of `weights` over its places; "
                  "at least `minlength` of them.")


def _check_histogram(x: Any, bins: Any, range: Any) -> tuple:
    if not isinstance(bins, int | tuple | list) or isinstance(bins, int) and bins < 1:
        raise ArgumentTypeError(f"histogram: bins={bins!r} must be a number of at least 1, or a tuple of edges")
    if range is not None and (len(range) != 2 or not range[0] <= range[1]):
        raise ArgumentError(f"histogram: range={range!r} must be (lowest, highest)")
    return (bins if isinstance(bins, int) else tuple(bins), None if range is None else tuple(range))


def _histogram(np: Any, x: Any, bins: Any, range: Any) -> tuple:
    counts, edges = np.histogram(x, bins, range)
    return counts.astype(np.int64), edges.astype(x.dtype)


histogram = Op("histogram(x; bins=10, range=None) -> counts, edges", _histogram, to_float=True, takes="f", widen=True,
               check=_check_histogram, kind="dynamic",
               samples=lambda s: [((s(20),), {"bins": 4, "range": (-1, 1)}),
                                  ((s(3, 4),), {"bins": (-2.0, -0.3, 0.4, 2.0)})],
               doc="How many elements of `x` lie in each bin (int64), and the edges of the bins.")


# -------------------------------------------------------------------------------------------------- order statistics
_SORTED = 1 << 8  # elements up to which sorting all of a row is the quickest way to one of them
_FEW = 6  # places beyond which it is for any row


def _ranked(np: Any, x: Any, places: tuple) -> Any:
    if len(places) <= _FEW:
        done = native(np, "ranked", 64 * x.size, _wide(x), places)
        if done is not None:
            return done.astype(x.dtype, copy=False)
        y = np.partition(comparable(x), places, -1)
    else:
        y = np.sort(comparable(x), -1)
    return y[..., list(places)].astype(x.dtype, copy=False)


def _ranked_vjp(xp: Any, g: Any, x: Any, places: tuple) -> Any:
    order = xp.take(xp.argsort(x, axis=-1), numpy.array(places), axis=-1)
    return xp._take_along_axis_adjoint(g, order, shape=tuple(x.shape), axis=-1)


Op("_ranked(x; places) -> y", _ranked, vjp={"x": _ranked_vjp}, kind="sorting",
   batch=lambda xp, batched, inputs, statics: xp._ranked(inputs[0], *statics),
   samples=lambda s: [((s(6),), {"places": (2, 3)}), ((s(2, 7),), {"places": (0,)})],
   doc="The elements of sorted rows at some places, in ascending order, along the last axis.")


def _quantile_at(xp: Any, name: str, x: Any, fractions: list, axis: Any, keepdims: bool, scale: float) -> list:
    """The quantiles at Python numbers, by linear interpolation between the sorted elements."""
    if not dtypes.is_floating(x.dtype):
        x = xp.astype(x, dtypes.default_float())
    over = ax.axes(name, x, axis)
    kept = tuple(1 if i in over else n for i, n in enumerate(x.shape))
    if axis is None or len(over) != 1:
        rest = tuple(i for i in range(len(x.shape)) if i not in over)
        x = xp.permute_dims(x, rest + over)
        x = xp.reshape(x, (*x.shape[:len(rest)], math.prod(x.shape[len(rest):])))
    else:
        x = xp.moveaxis(x, over[0], -1)
    n = x.shape[-1]
    if n == 0:
        raise ShapeError(f"{name}: there are no elements along axis={axis}")
    bad = xp.any(xp.isnan(x), axis=-1)
    for q in fractions:
        if not 0 <= q <= scale:
            raise ArgumentError(f"{name}: q={q} must lie in [0, {scale:g}]")
    places = [q / scale * (n - 1) for q in fractions]
    if n > _SORTED:
        order = sorted({k for place in places for k in (int(place), math.ceil(place))})
        x = xp._ranked(x, places=tuple(order))
    else:
        x = xp.sort(x, axis=-1)
    out = []
    for place in places:
        low = int(place)
        at = order.index(low) if n > _SORTED else low
        y = x[..., at]
        if place > low:
            y = y + (x[..., at + 1] - y) * (place - low)
        y = xp.where(bad, math.nan, y)
        out.append(xp.reshape(y, kept) if keepdims else y)
    return out


def _quantile(xp: Any, name: str, x: Any, q: Any, axis: Any, keepdims: bool, scale: float) -> Any:
    if hasattr(q, "shape"):
        q = q.tolist()
    if isinstance(q, tuple | list):
        return xp.stack(_quantile_at(xp, name, x, list(q), axis, keepdims, scale), axis=0)
    return _quantile_at(xp, name, x, [q], axis, keepdims, scale)[0]


@composite(samples=lambda s: [((s(3, 5), 0.3), {}), ((s(3, 5), (0.25, 0.5)), {"axis": 1, "keepdims": True})])
def quantile(xp, x, q, axis=None, keepdims=False):
    """The value below which the fraction `q` of `x` over `axis` lies, interpolated linearly; nan where `x` has one.

    Several `q` (a sequence) give a new first axis. `q` is data of the program: it has no gradient.
    """
    return _quantile(xp, "quantile", x, q, axis, keepdims, 1.0)


@composite(samples=lambda s: [((s(3, 5), 30), {"axis": 0})])
def percentile(xp, x, q, axis=None, keepdims=False):
    """`quantile` with `q` from 0 to 100."""
    return _quantile(xp, "percentile", x, q, axis, keepdims, 100.0)


@composite(samples=lambda s: [((s(3, 5),), {}), ((s(3, 4),), {"axis": 1, "keepdims": True})])
def median(xp, x, axis=None, keepdims=False):
    """The middle element over `axis`, or the mean of the two in the middle (as NumPy; PyTorch takes the lower)."""
    return _quantile(xp, "median", x, 0.5, axis, keepdims, 1.0)
