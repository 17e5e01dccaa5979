"""Movement: the same elements in another shape, order or number. All of it is linear."""

from __future__ import annotations

import functools
from math import prod
from typing import Any

import numpy

from agog.array import large
from agog.errors import ArgumentError, AxisError, ShapeError
from agog.ops import axes as ax
from agog.ops.creation import allocatable
from agog.ops.explain import describe
from agog.ops.row import Op, composite

_INTS, _ORDERED = {int}, list(range(64))
_SMALL = 2048  # elements up to which a copy is cheaper than np.broadcast_to's view


# ------------------------------------------------------------------------------------------------ reshape, broadcast
def _check_reshape(x: Any, shape: Any) -> tuple:
    if type(shape) is tuple and _INTS.issuperset(map(type, shape)) and min(shape, default=0) >= 0 and prod(
            shape) == prod(x.shape):
        return (shape,)
    sizes, total = ax.sizes_of("reshape", shape), ax.size(x.shape)
    if -1 in sizes:
        known = -ax.size(sizes)
        if sizes.count(-1) > 1:
            raise ShapeError(f"reshape: only one size can be -1, not {sizes.count(-1)} of shape={sizes}")
        if min((n for n in sizes if n != -1), default=0) >= 0:
            if known == 0:
                if total == 0 or 0 in sizes:
                    raise ShapeError(f"reshape: -1 in shape={sizes} could be any size, {describe(x)} has {total} "
                                     "elements "
                                     "and the other sizes hold a 0; write the size out")
            elif total % known == 0:
                return (tuple(total // known if n == -1 else n for n in sizes),)
            raise ShapeError(f"reshape: {describe(x)} has {total} elements, which is no multiple of {known}, the "
                             "product "
                             f"of the known sizes of shape={sizes}")
    if min(sizes, default=0) < 0:
        raise ShapeError(f"reshape: shape={sizes} has a negative size; only one -1 is allowed, for the size to work "
                         "out")
    if ax.size(sizes) != total:
        raise ShapeError(f"reshape: {describe(x)} has {total} elements, but shape={sizes} needs {ax.size(sizes)}; "
                         "use -1 for one size to have it worked out")
    return (sizes,)


reshape = Op("reshape(x; shape) -> y", lambda np, x, shape: x.reshape(shape), check=_check_reshape,
             sure="type(shape) is tuple and min(shape) > -2",
             vjp={"x": lambda xp, g, x_shape: xp.reshape(g, x_shape)}, linear_in="all", promotes=(), kind="movement",
             batch=lambda xp, batched, inputs, statics: xp.reshape(inputs[0], (inputs[0].shape[0], *statics[0])),
             samples=lambda s: [((s(3, 4),), {"shape": (2, -1)}), ((s(6),), {"shape": (1, 6, 1)}),
                                ((s(1),), {"shape": ()}), ((s(0, 2),), {"shape": (4, 0)})],
             doc="`x` with another shape of as many elements, in row-major order; one size may be -1 and is worked "
                 "out. "
                 "Raises ShapeError when the sizes do not fit.")


def _broadcast(np: Any, x: Any, shape: tuple) -> Any:
    if ax.size(shape) > _SMALL:
        return np.broadcast_to(x, shape)
    out = np.empty(shape, x.dtype)
    if out.ndim < x.ndim:
        return np.broadcast_to(x, shape)  # raises
    out[...] = x
    return out


def _check_broadcast(x: Any, shape: Any) -> tuple:
    sizes = ax.shape("broadcast_to", shape)
    extra = len(sizes) - len(x.shape)
    if extra < 0 or sizes[extra:] != x.shape and any(n not in (1, sizes[extra + i]) for i, n in enumerate(x.shape)):
        raise ShapeError(f"broadcast_to: {describe(x)} does not broadcast to shape={sizes}; aligned at the right, "
                         "every "
                         "size of x must be 1 or equal to the size of shape")
    return (sizes,)


def _batch_broadcast(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    (x,), (shape,) = inputs, statics
    n = x.shape[0]
    x = xp.reshape(x, (n,) + (1,) * (len(shape) + 1 - len(x.shape)) + tuple(x.shape[1:]))
    return xp.broadcast_to(x, (n, *shape))


broadcast_to = Op("broadcast_to(x; shape) -> y", _broadcast, check=_check_broadcast,
                  sure="type(shape) is tuple",
                  vjp={"x": lambda xp, g, x_shape: xp.sum_to(g, x_shape)}, linear_in="all", promotes=(),
                  kind="movement", batch=_batch_broadcast,
                  samples=lambda s: [((s(3, 1),), {"shape": (2, 3, 4)}), ((s(),), {"shape": (2, 2)}),
                                     ((s(4),), {"shape": (4,)}), ((s(1, 2),), {"shape": (0, 2)})],
                  doc="`x` stretched to `shape` by NumPy's broadcasting rules. Raises ShapeError.")


@composite
def sum_to(xp, x, shape):
    """`x` summed over the axes along which a value of `shape` would be stretched to x's shape."""
    if x.shape == shape:
        return x
    extra = len(x.shape) - len(shape)
    over = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and x.shape[extra + i] != 1)
    if over:
        x = xp.sum(x, axis=over)
    return x if x.shape == tuple(shape) else xp.reshape(x, tuple(shape))


@composite
def broadcast_arrays(xp, *arrays):
    """The arrays stretched to their common shape: a tuple. Raises ShapeError."""
    shape = ax.broadcast("broadcast_arrays", *[x.shape for x in arrays])
    return tuple(x if x.shape == shape else xp.broadcast_to(x, shape) for x in arrays)


# ------------------------------------------------------------------------------------------------------ order of axes
def _check_permute(x: Any, axes: Any) -> tuple:
    if type(axes) is tuple and _INTS.issuperset(map(type, axes)):
        n = len(x.shape)
        if len(axes) == n and _ORDERED[:n] == sorted(axes):
            return (axes,)
    out = ax.axes("permute_dims", x, tuple(ax.sizes_of("permute_dims", axes, "axes")), "axes")
    if len(out) != len(x.shape):
        raise AxisError(f"permute_dims: axes={axes} names {len(out)} axes, but {describe(x)} has "
                        f"{len(x.shape)}; "
                        "name every axis once")
    return (out,)


def _inverse(axes: tuple) -> tuple:
    out = [0] * len(axes)
    for i, a in enumerate(axes):
        out[a] = i
    return tuple(out)


permute_dims = Op("permute_dims(x; axes) -> y", lambda np, x, axes: x.transpose(axes), check=_check_permute,
                  sure="type(axes) is tuple",
                  vjp={"x": lambda xp, g, axes: xp.permute_dims(g, _inverse(axes))}, linear_in="all", promotes=(),
                  kind="movement",
                  batch=lambda xp, batched, inputs, statics: xp.permute_dims(
                      inputs[0], (0, *[a % len(statics[0]) + 1 for a in statics[0]])),
                  samples=lambda s: [((s(2, 3, 4),), {"axes": (2, 0, 1)}), ((s(2, 3),), {"axes": (-1, 0)}),
                                     ((s(),), {"axes": ()})],
                  doc="`x` with its axes in the order `axes`: axis i of the result is axis `axes[i]` of `x`.")


@composite(samples=lambda s: [((s(2, 3, 4),), {}), ((s(1, 3),), {})])
def matrix_transpose(xp, x):
    """The last two axes exchanged. Raises ShapeError for arrays with fewer than two axes."""
    n = len(x.shape)
    if n == 2:
        return xp.permute_dims(x, (1, 0))
    if n < 2:
        raise ShapeError(f"matrix_transpose: {describe(x)} has fewer than two axes; use x[None, :] or x[:, None] to "
                         "make "
                         "a row or a column of it")
    return xp.permute_dims(x, (*range(n - 2), n - 1, n - 2))


@composite(samples=lambda s: [((s(2, 3, 4),), {"axis1": 0, "axis2": -1})])
def swapaxes(xp, x, axis1, axis2):
    """`x` with two axes exchanged."""
    a, b = ax.axis("swapaxes", x, axis1, "axis1"), ax.axis("swapaxes", x, axis2, "axis2")
    order = list(range(len(x.shape)))
    order[a], order[b] = b, a
    return xp.permute_dims(x, tuple(order))


@composite(samples=lambda s: [((s(2, 3, 4),), {"source": 0, "destination": -1}),
                              ((s(2, 3, 4),), {"source": (0, 1), "destination": (2, 0)})])
def moveaxis(xp, x, source, destination):
    """`x` with the axes `source` moved to the places `destination`; the others keep their order."""
    src = ax.axes("moveaxis", x, source, "source")
    dst = ax.axes("moveaxis", x, destination, "destination")
    if len(src) != len(dst):
        raise ArgumentError(f"moveaxis: source={source} and destination={destination} name different numbers of axes")
    order = [a for a in range(len(x.shape)) if a not in src]
    for d, a in sorted(zip(dst, src)):
        order.insert(d, a)
    return xp.permute_dims(x, tuple(order))


# --------------------------------------------------------------------------------------------------- axes of size one
@composite(samples=lambda s: [((s(2, 3),), {"axis": (0, -1)}), ((s(2),), {"axis": 1})])
def expand_dims(xp, x, axis=0):
    """`x` with an axis of size 1 at each place `axis` (int or tuple) of the result."""
    if type(axis) is int and 0 <= axis <= len(x.shape):
        shape = x.shape
        return xp.reshape(x, (*shape[:axis], 1, *shape[axis:]))
    n = len(x.shape) + (len(axis) if isinstance(axis, tuple | list) else 1)
    places = ax.axes("expand_dims", x, axis, "axis", n)
    sizes = iter(x.shape)
    return xp.reshape(x, tuple(1 if i in places else next(sizes) for i in range(n)))


@composite(samples=lambda s: [((s(2, 1, 3, 1),), {"axis": -1}), ((s(2, 1, 3, 1),), {"axis": (1, 3)})])
def squeeze(xp, x, axis=None):
    """`x` without the axes `axis` (int or tuple), which must be of size 1; None drops every axis of size 1."""
    if axis is None:
        return xp.reshape(x, tuple(n for n in x.shape if n != 1))
    shape = x.shape
    if type(axis) is int and -len(shape) <= axis < len(shape) and shape[axis] == 1:
        axis %= len(shape)
        return xp.reshape(x, shape[:axis] + shape[axis + 1:])
    places = ax.axes("squeeze", x, axis)
    for a in places:
        if x.shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of {describe(x)} has size {x.shape[a]}; only axes of size 1 can be "
                             "dropped")
    return xp.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in places))


@composite(samples=lambda s: [((s(2, 3, 4),), {"start_axis": 1}), ((s(),), {})])
def flatten(xp, x, start_axis=0, end_axis=-1):
    """`x` with the axes from `start_axis` to `end_axis` (inclusive) made one."""
    if not x.shape:
        return xp.reshape(x, (1,))
    a, b = ax.axis("flatten", x, start_axis, "start_axis"), ax.axis("flatten", x, end_axis, "end_axis")
    if a > b:
        raise AxisError(f"flatten: start_axis={start_axis} comes after end_axis={end_axis} of {describe(x)}")
    return xp.reshape(x, (*x.shape[:a], ax.size(x.shape[a:b + 1]), *x.shape[b + 1:]))


@composite(samples=lambda s: [((s(2, 3),), {})])
def ravel(xp, x):
    """All elements of `x` in row-major order, as one axis."""
    return xp.reshape(x, (ax.size(x.shape),))


@composite(samples=lambda s: [((s(3),), {"ndim": 3})])
def atleast_nd(xp, x, ndim):
    """`x` with axes of size 1 in front until it has `ndim` of them."""
    short = ndim - len(x.shape)
    return xp.reshape(x, (1,) * short + tuple(x.shape)) if short > 0 else x


@composite
def atleast_1d(xp, x):
    """`x` with at least one axis."""
    return xp.atleast_nd(x, 1)


@composite
def atleast_2d(xp, x):
    """`x` with at least two axes; new ones come first."""
    return xp.atleast_nd(x, 2)


@composite
def atleast_3d(xp, x):
    """`x` with at least three axes; as in NumPy, a vector becomes (1, n, 1) and a matrix (m, n, 1)."""
    n = len(x.shape)
    return x if n > 2 else xp.reshape(x, ((1, 1, 1), (1, *x.shape, 1), (*x.shape, 1))[n])


# ---------------------------------------------------------------------------------------------- order along the axes
def _flip(np: Any, x: Any, axis: Any) -> Any:
    if axis is None:
        axis = tuple(range(x.ndim))
    key = [slice(None)] * x.ndim
    for a in (axis,) if isinstance(axis, int) else axis:
        key[a] = slice(None, None, -1)
    return x[tuple(key)]


flip = Op("flip(x; axis=None) -> y", _flip, check=lambda x, axis: (ax.axes("flip", x, axis),),
          vjp={"x": lambda xp, g, axis: xp.flip(g, axis=axis)}, linear_in="all", promotes=(), kind="movement",
          batch=lambda xp, batched, inputs, statics: xp.flip(inputs[0], axis=tuple(a + 1 for a in statics[0])),
          samples=lambda s: [((s(2, 3),), {}), ((s(2, 3),), {"axis": 1}), ((s(2, 3, 2),), {"axis": (0, -1)})],
          doc="`x` with the order of its elements reversed along `axis` (int, tuple, or None for every axis).")


def _check_roll(x: Any, shift: Any, axis: Any) -> tuple:
    shifts = ax.sizes_of("roll", shift, "shift")
    if axis is None:
        if len(shifts) != 1:
            raise ArgumentError(f"roll: {len(shifts)} shifts need as many axes; give axis=")
        return shifts[0], None
    places = tuple(ax.axis("roll", x, a) for a in (axis if isinstance(axis, tuple | list) else (axis,)))
    if len(shifts) == 1:
        shifts *= len(places)
    if len(shifts) != len(places):
        raise ArgumentError(f"roll: {len(shifts)} shifts for {len(places)} axes; give one shift, or one for each axis")
    return shifts, places


def _rolled(x: Any, k: int, axis: int) -> Any:
    """A C-contiguous x moved by k: as a whole, by so many elements, and what came from over the edge in its place."""
    head, by = (slice(None),) * axis, k * prod(x.shape[axis + 1:])
    out = large.empty(x.shape, x.dtype, x)
    flat, given = out.reshape(-1), x.reshape(-1)
    if k > 0:
        large.copy(flat[by:], given[:-by])
        out[(*head, slice(None, k))] = x[(*head, slice(-k, None))]
    else:
        large.copy(flat[:by], given[-by:])
        out[(*head, slice(k, None))] = x[(*head, slice(None, -k))]
    return out


def _roll(np: Any, x: Any, shift: Any, axis: Any) -> Any:
    if axis is None:
        return _roll(np, x.reshape(-1), shift, 0).reshape(x.shape)
    if isinstance(axis, int):
        shift, axis = (shift,), (axis,)
    for k, a in zip((shift,) * len(axis) if isinstance(shift, int) else shift, axis):
        n = x.shape[a]
        k = k % n if n else 0
        if k and np is numpy and x.size >= large.THRESHOLD and x.flags.c_contiguous:
            x = _rolled(x, k if 2 * k <= n else k - n, a % x.ndim)
        elif k:
            head = (slice(None),) * (a % x.ndim)
            out = np.empty(x.shape, x.dtype)
            out[(*head, slice(k, None))] = x[(*head, slice(None, n - k))]
            out[(*head, slice(None, k))] = x[(*head, slice(n - k, None))]
            x = out
    return x


def _batch_roll(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    (x,), (shift, axis) = inputs, statics
    if axis is not None:
        return xp.roll(x, shift, axis=tuple(a + 1 for a in axis))
    return xp.reshape(xp.roll(xp.reshape(x, (x.shape[0], ax.size(x.shape[1:]))), shift, axis=1), x.shape)


roll = Op("roll(x; shift, axis=None) -> y", _roll, check=_check_roll,
          vjp={"x": lambda xp, g, shift, axis:
               xp.roll(g, -shift if isinstance(shift, int) else tuple(-k for k in shift), axis=axis)},
          linear_in="all", promotes=(), kind="movement", batch=_batch_roll,
          samples=lambda s: [((s(2, 3),), {"shift": 1}), ((s(2, 5),), {"shift": -7, "axis": 1}),
                             ((s(2, 3),), {"shift": (1, 2), "axis": (0, 1)}), ((s(0),), {"shift": 1})],
          doc="`x` with its elements moved by `shift` places along `axis`, those pushed out at the end coming in at "
              "the "
              "front. Without an axis, the elements are moved in row-major order.")


@composite(samples=lambda s: [((s(2, 3),), {"k": k}) for k in range(4)])
def rot90(xp, x, k=1, axes=(0, 1)):
    """`x` turned by `k` times 90 degrees in the plane of two axes, from the first towards the second."""
    a, b = ax.axes("rot90", x, tuple(axes), "axes")
    k %= 4
    if k == 0:
        return x
    if k == 2:
        return xp.flip(x, axis=(a, b))
    return xp.swapaxes(xp.flip(x, axis=b), a, b) if k == 1 else xp.flip(xp.swapaxes(x, a, b), axis=b)


# ---------------------------------------------------------------------------------------------------- repeat and tile
@composite(samples=lambda s: [((s(2, 3),), {"repetitions": (2, 1, 2)}), ((s(2),), {"repetitions": 3}),
                              ((s(2, 3),), {"repetitions": 0})])
def tile(xp, x, repetitions):
    """`x` repeated `repetitions[i]` times along axis i; fewer axes on either side are filled up in front."""
    reps = ax.shape("tile", repetitions, "repetitions")
    n = max(len(reps), len(x.shape))
    reps = (1,) * (n - len(reps)) + reps
    shape = (1,) * (n - len(x.shape)) + tuple(x.shape)
    if all(r == 1 for r in reps):
        return xp.reshape(x, shape)
    split = tuple(m for size in shape for m in (1, size))
    wide = tuple(m for r, size in zip(reps, shape) for m in (r, size))
    out = tuple(r * size for r, size in zip(reps, shape))
    allocatable("tile", out, x.dtype)
    return xp.reshape(xp.broadcast_to(xp.reshape(x, split), wide), out)


@composite(samples=lambda s: [((s(2, 3),), {"repeats": 2, "axis": 1}), ((s(2, 3),), {"repeats": (2, 0, 1), "axis": -1}),
                              ((s(2, 2),), {"repeats": 2})])
def repeat(xp, x, repeats, axis=None):
    """Each element along `axis` repeated `repeats` times (an int, or one for each element); None flattens first.

    A Tensor or array of repeats is read: the shape of the result depends on its values.
    """
    if axis is None:
        x, axis = xp.ravel(x), 0
    a = ax.axis("repeat", x, axis)
    n = x.shape[a]
    if hasattr(repeats, "shape") and repeats.shape and hasattr(repeats, "tolist"):
        repeats = repeats.tolist()
    if isinstance(repeats, tuple | list):
        if len(repeats) not in (1, n):
            raise ShapeError(f"repeat: {len(repeats)} repeats for axis {a} of {describe(x)}; give an int, or {n} of "
                             "them")
        counts = ax.shape("repeat", repeats, "repeats")
        counts = counts * n if len(counts) == 1 else counts
        import numpy as np

        return xp.take(x, np.repeat(np.arange(n), counts), axis=a)
    r, = ax.shape("repeat", ax.integer("repeat", "repeats", repeats), "repeats")
    allocatable("repeat", (*x.shape, r), x.dtype)
    head, tail = tuple(x.shape[:a + 1]), tuple(x.shape[a + 1:])
    return xp.reshape(xp.broadcast_to(xp.reshape(x, (*head, 1, *tail)), (*head, r, *tail)), (*head[:-1], n * r, *tail))


@composite
def meshgrid(xp, *arrays, indexing="xy"):
    """The coordinates of a grid: a tuple with one array for each of the 1-d `arrays`.

    indexing: "ij" for shapes (n0, n1, ...), "xy" for (n1, n0, ...).
    """
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f"meshgrid: indexing={indexing!r}; use 'xy' or 'ij'")
    n = len(arrays)
    for i, x in enumerate(arrays):
        if len(x.shape) > 1:
            raise ShapeError(f"meshgrid: arrays[{i}] is {describe(x)}; give 1-d arrays")
    order = list(range(n))
    if indexing == "xy" and n > 1:
        order[:2] = 1, 0
    sizes = [x.shape[0] if x.shape else 1 for x in arrays]
    shape = tuple(sizes[i] for i in order)
    out = []
    for i, x in enumerate(arrays):
        line = tuple(sizes[i] if j == order.index(i) else 1 for j in range(n))
        out.append(xp.broadcast_to(xp.reshape(x, line), shape))
    return tuple(out)


# --------------------------------------------------------------------------------------------------------- diagonals
def _two_axes(op: str, x: Any, axis1: Any, axis2: Any) -> tuple[int, int]:
    if len(x.shape) < 2:
        raise ShapeError(f"{op}: {describe(x)} has fewer than two axes")
    a, b = ax.axis(op, x, axis1, "axis1"), ax.axis(op, x, axis2, "axis2")
    if a == b:
        raise AxisError(f"{op}: axis1={axis1} and axis2={axis2} are the same axis of {describe(x)}")
    return a, b


diagonal = Op("diagonal(x; offset=0, axis1=-2, axis2=-1) -> y",
              lambda np, x, offset, axis1, axis2: x.diagonal(offset, axis1, axis2),
              check=lambda x, offset, axis1, axis2: (ax.integer("diagonal", "offset", offset),
                                                     *_two_axes("diagonal", x, axis1, axis2)),
              vjp={"x": lambda xp, g, x_shape, offset, axis1, axis2:
                   xp._diagonal_adjoint(g, shape=x_shape, offset=offset, axis1=axis1, axis2=axis2)},
              linear_in="all", promotes=(), kind="movement",
              batch=lambda xp, batched, inputs, statics: xp.diagonal(
                  inputs[0], statics[0], *map(ax.shifted, statics[1:])),
              samples=lambda s: [((s(3, 4),), {}), ((s(3, 4),), {"offset": 2}), ((s(3, 4),), {"offset": -9}),
                                 ((s(3, 2, 4),), {"offset": -1, "axis1": 0, "axis2": 2})],
              doc="The diagonals of `x` in the plane of two axes (default: the last two), as the last axis of the "
                  "result; "
                  "`offset` counts upwards from the main diagonal.")


def _diagonal_adjoint(np: Any, g: Any, shape: tuple, offset: int, axis1: int, axis2: int) -> Any:
    out = np.zeros(shape, g.dtype)
    view = out.diagonal(offset, axis1, axis2)
    view.flags.writeable = True
    view[...] = g
    return out


Op("_diagonal_adjoint(g; shape, offset=0, axis1=-2, axis2=-1) -> x", _diagonal_adjoint,
   vjp={"g": lambda xp, g, offset, axis1, axis2: xp.diagonal(g, offset=offset, axis1=axis1, axis2=axis2)},
   linear_in="all", promotes=(), kind="movement",
   batch=lambda xp, batched, inputs, statics: xp._diagonal_adjoint(
       inputs[0], (inputs[0].shape[0], *statics[0]), statics[1], *map(ax.shifted, statics[2:])),
   samples=lambda s: [((s(2, 3),), {"shape": (3, 2, 4), "offset": 1, "axis1": 0, "axis2": 2}),
                      ((s(3),), {"shape": (4, 3), "offset": -1})],
   doc="Zeros of `shape` with `g` on the diagonals that `diagonal` would read.")


@composite(samples=lambda s: [((s(3),), {"k": 1}), ((s(3, 4),), {"k": -1})])
def diag(xp, x, k=0):
    """The matrix with the vector `x` on its k-th diagonal, or the k-th diagonal of the matrix `x`."""
    if len(x.shape) == 1:
        n = x.shape[0] + abs(k)
        return xp._diagonal_adjoint(x, shape=(n, n), offset=k)
    if len(x.shape) != 2:
        raise ShapeError(f"diag: {describe(x)} is neither a vector nor a matrix; use diagonal(x) for stacks of "
                         "matrices")
    return xp.diagonal(x, offset=k)


@composite(samples=lambda s: [((s(2, 3),), {})])
def diag_embed(xp, x, offset=0):
    """Matrices (..., m, m) with the last axis (..., n) of `x` on the diagonal `offset`, m = n + |offset|."""
    n = x.shape[-1] + abs(offset)
    return xp._diagonal_adjoint(x, shape=(*x.shape[:-1], n, n), offset=offset)


_MASKED = 1 << 14  # elements of matrices whose masks are remembered
_BAND = 64  # rows of a larger matrix that are masked at a time, where they cross the diagonal
_WORDS = {1: numpy.int8, 2: numpy.int16, 4: numpy.int32, 8: numpy.int64}


@functools.lru_cache(16)
def _mask(rows: int, columns: int, k: int, lower: bool, size: int) -> Any:
    """Words of so many bytes, all bits of which are set in the lower or upper triangle."""
    inside = numpy.tri(rows, columns, k if lower else k - 1, dtype=bool)
    mask = -(inside if lower else ~inside).astype(_WORDS[size])
    mask.flags.writeable = False
    return mask


def _kept(x: Any, k: int, lower: bool) -> Any:
    """NumPy's tril (or triu), without its comparisons and choices for each element: words and masks of bits."""
    rows, columns = x.shape[-2:]
    size = x.itemsize
    if size not in _WORDS or x.dtype.kind not in "biufcV":
        return numpy.tril(x, k) if lower else numpy.triu(x, k)
    words = x.view(_WORDS[size])
    k = max(-rows, min(k, columns))
    if rows * columns <= _MASKED:
        return numpy.bitwise_and(words, _mask(rows, columns, k, lower, size)).view(x.dtype)
    if not x.flags.c_contiguous:
        return numpy.tril(x, k) if lower else numpy.triu(x, k)
    out = large.empty(x.shape, words.dtype, x)
    # Rows before `first` have nothing left of the diagonal, rows from `last` on everything.
    first, last = max(0, -k), max(0, min(rows, columns - k))
    first = min(first, last)
    for i, j, whole in ((0, first, not lower), (last, rows, lower)):
        if i < j and whole:
            large.copy(out[..., i:j, :], words[..., i:j, :])
        elif i < j:
            out[..., i:j, :] = 0
    for i in range(first, last, _BAND):
        j = min(i + _BAND, last)
        a, b = i + k, min(columns, j + k)  # the columns in which the diagonal passes these rows
        left, middle, right = (out[..., i:j, p:q] for p, q in ((0, a), (a, b), (b, columns)))
        if lower:
            left[...] = words[..., i:j, :a]
            right[...] = 0
        else:
            left[...] = 0
            right[...] = words[..., i:j, b:]
        numpy.bitwise_and(words[..., i:j, a:b], _mask(j - i, b - a, 0, lower, size), middle)
    return out.view(x.dtype)


def _triangle(name: str, what: str) -> Op:
    def check(x: Any, k: Any) -> tuple:
        if len(x.shape) < 2:
            raise ShapeError(f"{name}: {describe(x)} has fewer than two axes; give a matrix or a stack of them")
        return (ax.integer(name, "k", k),)

    lower = name == "tril"
    return Op(f"{name}(x; k=0) -> y", lambda np, x, k: (
                  _kept(x, k, lower) if np is numpy else getattr(np, name)(x, k)), check=check,
              vjp={"x": lambda xp, g, k: getattr(xp, name)(g, k=k)}, linear_in="all", promotes=(), kind="movement",
              batch=lambda xp, batched, inputs, statics: getattr(xp, name)(inputs[0], *statics),
              samples=lambda s: [((s(3, 4),), {}), ((s(2, 4, 3),), {"k": -1}), ((s(3, 3),), {"k": 1})],
              doc=f"The {what} triangle of the matrices in the last two axes: what lies "
                  f"{'above' if name == 'tril' else 'below'} "
                  "the k-th diagonal is 0.")


tril = _triangle("tril", "lower")
triu = _triangle("triu", "upper")
