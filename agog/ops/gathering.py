"""Gathering and scattering along an axis, at places that integer arrays name."""

from __future__ import annotations

import sys
from typing import Any

import numpy

from agog.array import dtypes, large
from agog.errors import IndexingError, ShapeError
from agog.ops import axes as ax
from agog.ops.explain import describe
from agog.ops.row import Op, composite

_SPARSE = 1 << 20  # elements from which a sparse product is worth loading SciPy
_FULL = slice(None)


def outside(call: str, x: Any, axis: int, index: Any) -> IndexingError:
    """The error for an index that the axis of `x` does not have."""
    n = x.shape[axis]
    hint = f"use {-n} to {n - 1}" if n else "the axis is empty"
    return IndexingError(f"{call}: index {index} is outside axis {axis} of {describe(x)}, which has size {n}: {hint}")


# ------------------------------------------------------------------------------------- rows by an array of integers
def _check_indices(op: str, indices: Any) -> None:
    if dtypes.kind(indices.dtype) not in "iu":
        bools = dtypes.kind(indices.dtype) == "b"
        hint = " (x[mask] reads by a mask)" if bools else "; cast with indices.astype('int64')"
        raise IndexingError(f"{op}: the indices are {describe(indices)}, but must be integers{hint}")


def _check_take(x: Any, indices: Any, axis: Any) -> tuple:
    _check_indices("take", indices)
    return (ax.axis("take", x, axis),)


def _take(np: Any, x: Any, indices: Any, axis: int) -> Any:
    try:
        if x.flags.c_contiguous:
            return x.take(indices, axis)
        return x[(_FULL,) * axis + (indices,)]  # take would copy all of x first
    except IndexError:
        raise _first_outside("take", x, indices, axis) from None


def _first_outside(op: str, x: Any, indices: Any, axis: int) -> IndexingError:
    n = x.shape[axis]
    bad = indices[(indices < -n) | (indices >= n)]
    hint = f"use {-n} to {n - 1}" if n else "the axis is empty"
    return IndexingError(f"{op}: index {int(bad.flat[0]) if bad.size else '?'} is outside axis {axis} of "
                         f"{describe(x)}, "
                         f"which has size {n}: {hint}")


def _batch_take(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    x, indices = inputs
    axis, = statics
    if not batched[1]:
        return xp.take(x, indices, axis=ax.shifted(axis))
    if not batched[0]:  # the batch axis comes out where `axis` was
        axis %= len(x.shape)
        y = xp.take(x, indices, axis=axis)
        return xp.moveaxis(y, axis, 0)
    # both: rows of the two axes made one, at places moved on by a whole example each
    b, axis = x.shape[0], axis % (len(x.shape) - 1) + 1
    x = xp.moveaxis(x, axis, 1)
    n = x.shape[1]
    first = xp.reshape(xp.arange(b) * n, (b,) + (1,) * (len(indices.shape) - 1))
    flat = xp.reshape(x, (b * n, *x.shape[2:]))
    y = xp.take(flat, xp.remainder(indices, n) + first, axis=0)
    m = len(indices.shape)
    order = (0, *range(m, m + axis - 1), *range(1, m), *range(m + axis - 1, len(y.shape)))
    return xp.permute_dims(y, order)


take = Op("take(x, indices; axis=0) -> y", _take, check=_check_take,
          vjp={"x": lambda xp, g, indices, x_shape, axis: xp._take_adjoint(g, indices, shape=x_shape, axis=axis)},
          linear_in=("x",), promotes=(), kind="indexing", batch=_batch_take,
          samples=lambda s: [((s(5, 3), s.ints(5, 4)), {}), ((s(2, 5), s.ints(5, 2, 3)), {"axis": -1}),
                             ((s(2, 3, 2), s.ints(3)), {"axis": 1}), ((s(3), s.ints(3, 0)), {})],
          doc="The slices of `x` along `axis` that `indices` (integers of any shape) name; negative ones count from "
              "the "
              "end. The shape of the result has the shape of `indices` in place of the axis. Raises IndexingError.")


def add_rows(np: Any, n: int, indices: Any, g: Any) -> Any:
    """Zeros (n, d) to which the rows of g (m, d) are added at `indices` (m,): repeated ones add up.

    `np.add.at` is fast for flat arrays only. The product with a sparse matrix of ones is faster still and gives the
    same bits, but loading SciPy for it costs as much as a hundred calls on arrays that are not large.
    """
    m, d = g.shape
    if np is numpy and d > 1 and g.size > 4096:
        if (done := large.native("add_rows", 4 * g.size, n, indices, g)) is not None:
            return done
    if m and (indices.min() < -n or indices.max() >= n):
        raise _first_outside("take_adjoint", np.empty((n, d), g.dtype), indices, 0)
    if g.size <= 4096 or g.dtype.kind not in "fc" or g.dtype.itemsize == 2:
        out = np.zeros((n, d), g.dtype)
        np.add.at(out, indices, g)
        return out
    if m and indices.min() < 0:
        indices = np.where(indices < 0, indices + n, indices)
    if d == 1:
        return add_at(np, n, indices, g[:, 0]).reshape(n, 1)
    if g.size < _SPARSE and "scipy.sparse" not in sys.modules:
        out = np.zeros(n * d, g.dtype)
        np.add.at(out, (indices.astype(np.intp)[:, None] * d + np.arange(d)).reshape(-1), g.reshape(-1))
        return out.reshape(n, d)
    from scipy.sparse import csc_array

    return csc_array((np.ones(m, g.dtype), indices, np.arange(m + 1)), shape=(n, m)) @ np.ascontiguousarray(g)


def _take_adjoint(np: Any, g: Any, indices: Any, shape: tuple, axis: int) -> Any:
    axis %= len(shape)
    n, head, tail = shape[axis], shape[:axis], shape[axis + 1:]
    if indices.ndim == 0:
        out = np.zeros(shape, g.dtype)
        out[(_FULL,) * axis + (indices,)] = g
        return out
    m = indices.size
    if not axis:
        return add_rows(np, n, indices.reshape(-1), g.reshape((m, ax.size(tail)))).reshape(shape)
    g = g.reshape((ax.size(head), m, ax.size(tail))).transpose((1, 0, 2)).reshape((m, ax.size(head) * ax.size(tail)))
    out = add_rows(np, n, indices.reshape(-1), g).reshape((n, ax.size(head), ax.size(tail)))
    return np.ascontiguousarray(out.transpose((1, 0, 2))).reshape(shape)


def _batch_take_adjoint(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    g, indices = inputs
    shape, axis = statics
    axis %= len(shape)
    if not batched[1]:
        return xp._take_adjoint(g, indices, shape=(g.shape[0], *shape), axis=axis + 1)
    b, n, m = indices.shape[0], shape[axis], len(indices.shape) - 1
    if not batched[0]:
        g = xp.broadcast_to(g, (b, *g.shape))
    g = xp.permute_dims(g, (0, *range(axis + 1, axis + m + 1), *range(1, axis + 1), *range(axis + m + 1, len(g.shape))))
    rest = shape[:axis] + shape[axis + 1:]
    first = xp.reshape(xp.arange(b) * n, (b,) + (1,) * m)
    out = xp._take_adjoint(g, xp.remainder(indices, n) + first, shape=(b * n, *rest), axis=0)
    return xp.moveaxis(xp.reshape(out, (b, n, *rest)), 1, axis + 1)


Op("_take_adjoint(g, indices; shape, axis=0) -> x", _take_adjoint,
   vjp={"g": lambda xp, g, indices, axis: xp.take(g, indices, axis=axis)}, linear_in=("g",), promotes=(), widen=True,
   kind="indexing", batch=_batch_take_adjoint,
   samples=lambda s: [((s(4, 3), s.ints(5, 4)), {"shape": (5, 3)}),
                      ((s(2, 2, 3), s.ints(5, 2, 3)), {"shape": (2, 5), "axis": -1})],
   doc="Zeros of `shape` to which the slices of `g` along `axis` are added at `indices`; repeated ones add up.")


def add_at(np: Any, n: int, places: Any, g: Any) -> Any:
    """Zeros (n,) to which the elements of g (m,) are added at `places` (m,), which are not negative."""
    if g.size >= _MANY and np is numpy:
        if (done := added_along(places, g, (n,), (1, n, g.size, 1))) is not None:
            return done
    if _summed_wide(n, g):
        return np.bincount(places, g, n).astype(g.dtype, copy=False)
    out = np.zeros(n, g.dtype)
    np.add.at(out, places, g)
    return out


def _summed_wide(n: int, g: Any) -> bool:
    """Whether what is added to n elements is summed in float64, by bincount: that is 2n large."""
    return g.dtype.kind == "f" and g.size > 256 and g.size > n // 4 and g.dtype.itemsize != 2


def added_along(indices: Any, g: Any, shape: tuple[int, ...], sizes: tuple[int, int, int, int]) -> Any:
    """Natively, zeros of `shape`, (outer, n, inner), to which g (outer, m, inner) is added at indices, which may be
    negative; None where no kernel is ready for that, or one of them is outside.
    """
    if indices.dtype.kind != "i" or not _summed_wide(ax.size(shape), g):
        return None
    return large.native("add_along", 16 * g.size, g, indices, shape, sizes)


_MANY = 1 << 10  # elements that are taken or added along an axis from which a kernel is worth asking for


def _lines(shape: tuple[int, ...], other: tuple[int, ...], axis: int) -> bool:
    """Whether these are equal but for an axis."""
    axis %= len(shape)
    return shape[:axis] == other[:axis] and shape[axis + 1:] == other[axis + 1:]


def _line_sizes(shape: tuple[int, ...], other: tuple[int, ...], axis: int) -> tuple[int, int, int, int]:
    """(outer, n, m, inner): `shape` is (outer, n, inner), and the other (outer, m, inner)."""
    axis %= len(shape)
    return ax.size(shape[:axis]), shape[axis], other[axis], ax.size(shape[axis + 1:])


# ------------------------------------------------------------------------------------------- element by element
def _check_along(op: str, x: Any, indices: Any, axis: Any) -> int:
    _check_indices(op, indices)
    axis = ax.axis(op, x, axis)
    if len(indices.shape) != len(x.shape):
        raise ShapeError(f"{op}: the indices {describe(indices)} must have as many axes as {describe(x)}; for the same "
                         "indices everywhere, use take")
    for i, (m, n) in enumerate(zip(indices.shape, x.shape)):
        if i != axis and m != n and m != 1 and n != 1:
            raise ShapeError(f"{op}: the indices {describe(indices)} and {describe(x)} must have equal sizes (or 1) "
                             "on every "
                             f"axis but {axis}; on axis {i} they have {m} and {n}")
    return axis


def _along_key(np: Any, shape: tuple, indices: Any, axis: int) -> tuple:
    """The fancy index that takes an element for each index along `axis` of an array of `shape`."""
    n = len(shape)
    axis %= n
    return tuple(indices if i == axis else np.arange(shape[i]).reshape((-1,) + (1,) * (n - 1 - i)) if shape[i] != 1
                 else np.zeros((1,) * n, np.intp) for i in range(n))


def _take_along(np: Any, x: Any, indices: Any, axis: int) -> Any:
    if indices.size >= _MANY and np is numpy and indices.dtype.kind == "i" and _lines(x.shape, indices.shape, axis):
        sizes = _line_sizes(x.shape, indices.shape, axis)
        if (done := large.native("take_along", 16 * indices.size, x, indices, sizes)) is not None:
            return done
    try:
        return x[_along_key(np, x.shape, indices, axis)]
    except IndexError:
        raise _first_outside("take_along_axis", x, indices, axis % x.ndim) from None


def _batch_along(name: str, stretch: bool = True) -> Any:
    def batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
        rank = max(len(v.shape) - b for v, b in zip(inputs, batched))
        n = next(v.shape[0] for v, b in zip(inputs, batched) if b)
        aligned = []
        for v, b in zip(inputs, batched):
            shape = tuple(v.shape[b:])
            v = xp.reshape(v, (n if b else 1, *(1,) * (rank - len(shape)), *shape))
            aligned.append(xp.broadcast_to(v, (n, *v.shape[1:])) if stretch and not b else v)
        if len(statics) == 2:
            return getattr(xp, name)(*aligned, (n, *statics[0]), ax.shifted(statics[1]))
        return getattr(xp, name)(*aligned, ax.shifted(statics[0]))

    return batch


take_along_axis = Op(
    "take_along_axis(x, indices; axis=-1) -> y", _take_along,
    check=lambda x, indices, axis: (_check_along("take_along_axis", x, indices, axis),),
    vjp={"x": lambda xp, g, indices, x_shape, axis: xp._take_along_axis_adjoint(g, indices, shape=x_shape, axis=axis)},
    linear_in=("x",), promotes=(), kind="indexing", batch=_batch_along("take_along_axis", stretch=False),
    samples=lambda s: [((s(3, 4), s.ints(4, 3, 2)), {}), ((s(3, 4), s.ints(3, 5, 4)), {"axis": 0}),
                       ((s(3, 1), s.ints(3, 2, 4)), {"axis": 0}), ((s(2, 3, 4), s.ints(3, 1, 3, 1)), {"axis": 1})],
    doc="y[i, j, k] = x[i, indices[i, j, k], k] for axis=1: one element for each index. `indices` has as many axes "
        "as `x`, "
        "and sizes that broadcast with x's on all axes but `axis`. Raises IndexingError.")


def _take_along_adjoint(np: Any, g: Any, indices: Any, shape: tuple, axis: int) -> Any:
    axis %= len(shape)
    n = shape[axis]
    if g.size >= _MANY and np is numpy and g.shape == indices.shape and g.shape[axis] > 1 and _lines(
            shape, g.shape, axis):
        if (done := added_along(indices, g, shape, _line_sizes(shape, g.shape, axis))) is not None:
            return done
    if indices.size and (indices.min() < -n or indices.max() >= n):
        raise _first_outside("scatter_add", np.empty(shape, bool), indices, axis)
    key = _along_key(np, shape, indices, axis)
    if g.shape[axis] == 1 and all(m == k for i, (m, k) in enumerate(zip(g.shape, shape)) if i != axis):
        out = np.zeros(shape, g.dtype)
        out[key] = g  # one index for each line: no place twice
        return out
    strides, step = [0] * len(shape), 1
    for i in reversed(range(len(shape))):
        strides[i], step = step, step * shape[i]
    places = np.where(indices < 0, indices + n, indices) * strides[axis]
    for i, k in enumerate(key):
        if i != axis:
            places = places + k * strides[i]
    return add_at(np, step, np.broadcast_to(places, g.shape).reshape(-1), g.reshape(-1)).reshape(shape)


Op("_take_along_axis_adjoint(g, indices; shape, axis=-1) -> x", _take_along_adjoint,
   vjp={"g": lambda xp, g, indices, g_shape, axis: xp.sum_to(xp.take_along_axis(g, indices, axis=axis), g_shape)},
   linear_in=("g",), promotes=(), widen=True, kind="indexing", batch=_batch_along("_take_along_axis_adjoint"),
   samples=lambda s: [((s(3, 2), s.ints(4, 3, 2)), {"shape": (3, 4)}),
                      ((s(3, 4), s.ints(2, 3, 4)), {"shape": (2, 4), "axis": 0})],
   doc="Zeros of `shape` to which each element of `g` is added where its index along `axis` says.")


def _check_put(x: Any, indices: Any, values: Any, axis: Any) -> tuple:
    axis = _check_along("put_along_axis", x, indices, axis)
    ax.broadcast("put_along_axis (values to indices)", values.shape, indices.shape)
    return (axis,)


def _put_along(np: Any, x: Any, indices: Any, values: Any, axis: int) -> Any:
    out = x.copy()
    try:
        out[_along_key(np, x.shape, indices, axis)] = values
    except IndexError:
        raise _first_outside("put_along_axis", x, indices, axis % x.ndim) from None
    return out


def still_written(np: Any, g: Any, key: Any) -> Any:
    """`g[key]` where something written at `key` would still be there, 0 where a later write replaced it."""
    y = g[key]
    order = np.arange(y.size).reshape(y.shape)
    writer = np.empty(g.shape, order.dtype)
    writer[key] = order
    return np.where(writer[key] == order, y, np.zeros((), y.dtype))


def _written_along(np: Any, g: Any, indices: Any, axis: int) -> Any:
    return still_written(np, g, _along_key(np, g.shape, indices, axis))


Op("_take_along_written(g, indices; axis=-1) -> y", _written_along,
   vjp={"g": lambda xp, g, indices, g_shape, axis:
        xp.put_along_axis(xp.zeros(g_shape, dtype=g.dtype), indices, g, axis=axis)},
   linear_in=("g",), promotes=(), kind="indexing", batch=_batch_along("_take_along_written"),
   samples=lambda s: [((s(3, 4), s.ints(4, 3, 2)), {})],
   doc="As take_along_axis, but 0 where a later index names the same place.")
put_along_axis = Op(
    "put_along_axis(x, indices, values; axis=-1) -> y", _put_along, check=_check_put,
    vjp={"x": lambda xp, g, indices, axis: xp.put_along_axis(g, indices, 0, axis=axis),
         "values": lambda xp, g, indices, values_shape, values_dtype, axis:
             xp.astype(xp.sum_to(xp._take_along_written(g, indices, axis=axis), values_shape), values_dtype)},
    linear_in=("x", "values"), promotes=(), kind="indexing", batch=_batch_along("put_along_axis"),
    samples=lambda s: [((s(3, 4), s.ints(4, 3, 2), s(3, 2)), {}), ((s(3, 4), s.ints(3, 1, 4), s(1, 4)), {"axis": 0}),
                       ((s(3, 4), s.ints(3, 2, 4), s()), {"axis": 0})],
    doc="A copy of `x` in which the elements that `take_along_axis` would read are `values` (cast, broadcast to the "
        "shape of "
        "`indices`). Of several values for one place, the last stays.")


@composite(samples=lambda s: [((s(3, 4), s.ints(3, 5, 4), s(5, 4)), {"axis": 0}),
                              ((s(3, 4), s.ints(4, 3, 2), s(3, 1)), {})])
def add_along_axis(xp, x, indices, values, axis=-1):
    """A copy of `x` with `values` added at the places that `take_along_axis` would read; repeated indices add up."""
    axis = _check_along("add_along_axis", x, indices, axis)
    if not hasattr(values, "shape"):
        values = xp.full((), values, dtype=x.dtype)
    shape = list(ax.broadcast("add_along_axis", *(tuple(m for i, m in enumerate(v.shape) if i != axis)
                                                  for v in (x, indices))))
    shape.insert(axis, indices.shape[axis])
    if values.dtype != x.dtype:
        values = xp.astype(values, x.dtype)
    if tuple(values.shape) != tuple(shape):
        values = xp.broadcast_to(values, tuple(shape))
    return x + xp._take_along_axis_adjoint(values, indices, shape=tuple(x.shape), axis=axis)


# --------------------------------------------------------------------------------------- PyTorch's names for these
def _corner(xp: Any, x: Any, shape: tuple, axis: int) -> Any:
    """The part of `x` from the first element on that has the sizes of `shape`, whole along `axis`."""
    if all(i == axis or m == n for i, (m, n) in enumerate(zip(x.shape, shape))):
        return x
    return xp._getitem(x, index=tuple(_FULL if i == axis else slice(0, n) for i, n in enumerate(shape)))


def _torch_along(op: str, x: Any, axis: Any, indices: Any) -> int:
    _check_indices(op, indices)
    axis = ax.axis(op, x, axis)
    if len(indices.shape) != len(x.shape) or any(
            m > n for i, (m, n) in enumerate(zip(indices.shape, x.shape)) if i != axis):
        raise ShapeError(f"{op}: the indices {describe(indices)} must have as many axes as {describe(x)} and be no "
                         "larger "
                         f"than it on every axis but {axis}; take_along_axis broadcasts")
    return axis


@composite(samples=lambda s: [((s(3, 4), 1, s.ints(4, 2, 5)), {})])
def gather(xp, x, axis, indices):
    """One element of `x` along `axis` for each index, as `torch.gather`: y[i, j] = x[i, indices[i, j]] for axis=1.

    `indices` may be smaller than `x` on other axes. Raises ShapeError, IndexingError.
    """
    axis = _torch_along("gather", x, axis, indices)
    return xp.take_along_axis(_corner(xp, x, tuple(indices.shape), axis), indices, axis=axis)


def _values_like(xp: Any, op: str, values: Any, indices: Any, dtype: Any) -> Any:
    if not hasattr(values, "shape"):
        return xp.full(tuple(indices.shape), values, dtype=dtype)
    if values.shape == indices.shape:
        return values
    if len(values.shape) != len(indices.shape) or any(m > n for m, n in zip(indices.shape, values.shape)):
        raise ShapeError(f"{op}: values {describe(values)} must be at least as large as the indices, "
                         f"{describe(indices)}, on "
                         "every axis")
    return _corner(xp, values, tuple(indices.shape), -1)


@composite(samples=lambda s: [((s(3, 4), 0, s.ints(3, 2, 2), s(2, 2)), {})])
def scatter(xp, x, axis, indices, values):
    """A copy of `x` in which element indices[i, j] of line (i, j) along `axis` is values[i, j], as `torch.scatter`."""
    axis = _torch_along("scatter", x, axis, indices)
    values = _values_like(xp, "scatter", values, indices, x.dtype)
    part = _corner(xp, x, tuple(indices.shape), axis)
    new = xp.put_along_axis(part, indices, values, axis=axis)
    return new if part is x else xp._setitem(x, new, index=tuple(slice(0, n) for n in part.shape))


@composite(samples=lambda s: [((s(3, 4), 0, s.ints(3, 5, 2), s(5, 2)), {})])
def scatter_add(xp, x, axis, indices, values):
    """A copy of `x` to which values[i, j] is added at indices[i, j] along `axis`, as `torch.scatter_add`."""
    axis = _torch_along("scatter_add", x, axis, indices)
    values = _values_like(xp, "scatter_add", values, indices, x.dtype)
    if all(i == axis or m == n for i, (m, n) in enumerate(zip(indices.shape, x.shape))):
        return xp.add_along_axis(x, indices, values, axis=axis)
    shape = tuple(x.shape[axis] if i == axis else m for i, m in enumerate(indices.shape))
    grown = xp._take_along_axis_adjoint(xp.astype(values, x.dtype), indices, shape=shape, axis=axis)
    return x + xp._getitem_adjoint(grown, shape=tuple(x.shape), index=tuple(slice(0, n) for n in shape))


# ---------------------------------------------------------------------------------------------------------- classes
def _one_hot(np: Any, indices: Any, classes: int, dtype: Any) -> Any:
    if indices.size and (indices.min() < 0 or indices.max() >= classes):
        bad = indices[(indices < 0) | (indices >= classes)].flat[0]
        raise IndexingError(f"one_hot: the class {int(bad)} is outside 0 to {classes - 1}")
    out = np.zeros((*indices.shape, classes), dtype)
    out.reshape(-1)[np.arange(0, out.size, classes or 1) + indices.reshape(-1)] = 1
    return out


Op("_one_hot(indices; classes, dtype) -> y", _one_hot, promotes=(), result=lambda *a: a[-1], kind="indexing",
   batch=lambda xp, batched, inputs, statics: xp._one_hot(inputs[0], *statics), smooth=False,
   samples=lambda s: [((s.ints(5, 2, 3),), {"classes": 5, "dtype": dtypes.float32})],
   doc="1 of `dtype` where the last axis, of size `classes`, is at the index, 0 elsewhere; see one_hot.")


@composite
def one_hot(xp, indices, num_classes=None, dtype=None):
    """1 where the new last axis, of size `num_classes`, is at the index, 0 elsewhere.

    dtype: the default float. Without num_classes it is the largest index plus one, read from the values.
    """
    _check_indices("one_hot", indices)
    if num_classes is None:  # a look at the values: staged code cannot know it otherwise
        num_classes = int(xp.max(indices)) + 1 if ax.size(indices.shape) else 0
    return xp._one_hot(indices, classes=ax.integer("one_hot", "num_classes", num_classes),
                       dtype=dtypes.default_float() if dtype is None else dtypes.dtype(dtype))
