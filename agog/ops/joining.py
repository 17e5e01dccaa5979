"""Joining, splitting and padding: arrays put next to each other along an axis, and taken apart again."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from agog import config
from agog.array import large
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.ops import axes as ax
from agog.ops.explain import describe
from agog.ops.row import Op, composite


def _cut(axis: int, start: Any, stop: Any) -> tuple:
    """The index that takes `start:stop` along `axis`."""
    return (slice(None),) * axis + (slice(start, stop),)


def _arrays(op: str, arrays: Any) -> tuple:
    """`arrays` as a tuple. Raises ArgumentTypeError when it is one array instead of several."""
    if type(arrays) is list and arrays:
        return tuple(arrays)
    if hasattr(arrays, "dtype") and hasattr(arrays, "shape"):
        raise ArgumentTypeError(f"{op}: give a list or tuple of arrays, not one {describe(arrays)}; "
                                f"{op}(list(x)) joins its rows")
    try:
        arrays = tuple(arrays)
    except TypeError:
        raise ArgumentTypeError(f"{op}: give a list or tuple of arrays, not {arrays!r}") from None
    if not arrays:
        raise ArgumentError(f"{op}: needs at least one array, the list is empty")
    return arrays


# --------------------------------------------------------------------------------------------------------------- join
def _check_concat(*args: Any) -> tuple:
    *xs, axis = args
    first = xs[0]
    n = len(first.shape)
    if not n:
        raise ShapeError("concat: 0-d arrays have no axis to be joined along; use stack")
    if type(axis) is not int or not 0 <= axis < n:
        axis = ax.axis("concat", first, axis)
    if n == 1:
        if [len(x.shape) for x in xs].count(1) == len(xs):
            return (axis,)
    elif [x.shape for x in xs].count(first.shape) == len(xs):
        return (axis,)
    for i, x in enumerate(xs):
        if len(x.shape) != len(first.shape) or any(
                m != n for j, (m, n) in enumerate(zip(x.shape, first.shape)) if j != axis):
            raise ShapeError(f"concat: arrays[{i}] is {describe(x)}, but arrays[0] is {describe(first)}; all sizes but "
                             f"that of axis {axis} must be equal")
    return (axis,)


def _concat_rule(xp: Any, g: Any, axis: int, xs_shape: tuple) -> list:
    out, at = [], 0
    axis %= len(g.shape)
    for shape in xs_shape:
        out.append(xp._getitem(g, index=_cut(axis, at, at + shape[axis])))
        at += shape[axis]
    return out


def batched_all(xp: Any, batched: tuple, inputs: tuple) -> list:
    """All inputs with the batch axis in front."""
    n = next(x.shape[0] for x, b in zip(inputs, batched) if b)
    return [x if b else xp.broadcast_to(x, (n, *x.shape)) for x, b in zip(inputs, batched)]


_LARGE = 1 << 15  # elements from which copying is shared out


def _concatenate(arrays: Any, axis: int) -> Any:
    """`np.concatenate`. Large arrays are copied over all threads."""
    first = arrays[0]
    axis += first.ndim if axis < 0 else 0
    if not 0 <= axis < first.ndim or sum([x.size for x in arrays]) < _LARGE:
        return np.concatenate(arrays, axis)
    dtype, shape, n = first.dtype, list(first.shape), 0
    for x in arrays:
        if type(x) is not np.ndarray or x.dtype is not dtype or x.ndim != first.ndim or not x.flags.c_contiguous:
            return np.concatenate(arrays, axis)
        shape[axis] = x.shape[axis]
        if list(x.shape) != shape:
            return np.concatenate(arrays, axis)
        n += x.shape[axis]
    shape[axis] = n
    out = large.empty(tuple(shape), dtype, *arrays)
    before, n = (slice(None),) * axis, 0
    for x in arrays:
        large.copy(out[(*before, slice(n, n + x.shape[axis]))], x)
        n += x.shape[axis]
    return out


Op("_concatenated(*xs; axis=0) -> y", lambda xp, *args: (
       _concatenate if xp is np else xp.concatenate)(args[:-1], args[-1]), check=_check_concat,
   vjp={"xs": _concat_rule}, linear_in="all", kind="movement",
   batch=lambda xp, batched, inputs, statics: xp._concatenated(*batched_all(xp, batched, inputs),
                                                              axis=ax.shifted(statics[0])),
   samples=lambda s: [((s(2, 3), s(1, 3)), {}), ((s(2, 3), s(2, 0), s(2, 1)), {"axis": -1})],
   doc="The arrays one after another along an existing axis; `concat` takes them as a list.")


def _check_stack(*args: Any) -> tuple:
    *xs, axis = args
    first = xs[0]
    alike = [x.shape for x in xs].count(first.shape) == len(xs)
    if alike and type(axis) is int and 0 <= axis <= len(first.shape):
        return (axis,)
    for i, x in enumerate(() if alike else xs):
        if x.shape != first.shape:
            raise ShapeError(f"stack: arrays[{i}] is {describe(x)}, but arrays[0] is {describe(first)}; all shapes "
                             "must be "
                             "equal (concat joins along an axis that is there)")
    return (ax.axis("stack", first, axis, ndim=len(first.shape) + 1),)


def _stack(np_like: Any, *args: Any) -> Any:
    *xs, axis = args
    first = xs[0]
    axis %= first.ndim + 1
    shape = list(first.shape)
    shape.insert(axis, len(xs))
    dtype, alike = first.dtype, True
    for x in xs:
        if x.dtype is not dtype:
            dtype, alike = np_like.result_type(*xs), False
            break
    if alike and np_like is np and not axis and first.size >= _LARGE:
        out = _stacked(xs, 0)
        if out is not None:
            return out
    out = np_like.empty(shape, dtype)
    if axis:
        head = (slice(None),) * axis
        for i, x in enumerate(xs):
            if alike and np_like is np:
                large.copy(out[(*head, i)], x)
            else:
                out[(*head, i)] = x
    else:
        for i, x in enumerate(xs):
            out[i] = x
    return out


def _stacked(arrays: Any, axis: Any) -> Any:
    """`stack` of NumPy arrays of one dtype; None where it needs a second look."""
    first = arrays[0]
    shape, dtype = first.shape, first.dtype
    if axis != 0:
        return None
    if first.size < _LARGE:
        out = np.empty((len(arrays), *shape), dtype)
        i = 0
        for x in arrays:
            if x is not first and x.shape != shape:
                return None
            out[i] = x
            i += 1
        return out
    for x in arrays:
        if x.shape != shape:
            return None
    out = large.empty((len(arrays), *shape), dtype, *arrays)
    for i, x in enumerate(arrays):
        large.copy(out[i], x)
    return out


def _concatenated(arrays: Any, axis: Any) -> Any:
    """`concat` of NumPy arrays of one dtype; None where it needs a second look."""
    if type(axis) is not int:
        return None
    return np.concatenate(arrays, axis) if arrays[0].size < _LARGE else _concatenate(arrays, axis)


Op("_stacked(*xs; axis=0) -> y", _stack, check=_check_stack,
   vjp={"xs": lambda xp, g, axis, xs_shape: [
       xp._getitem(g, index=(slice(None),) * (axis % len(g.shape)) + (i,)) for i in range(len(xs_shape))]},
   linear_in="all", kind="movement",
   batch=lambda xp, batched, inputs, statics: xp._stacked(*batched_all(xp, batched, inputs),
                                                         axis=ax.shifted(statics[0])),
   samples=lambda s: [((s(2, 3), s(2, 3)), {}), ((s(2), s(2), s(2)), {"axis": -1}), ((s(),), {})],
   doc="The arrays one after another along a new axis; `stack` takes them as a list.")


@composite(samples=lambda s: [(([s(2, 3), s(1, 3)],), {})], joins=_concatenated)
def concat(xp, arrays, axis=0):
    """The arrays (a list or tuple) one after another along `axis`; None flattens them first.

    All other sizes must be equal. Raises ShapeError.
    """
    arrays = _arrays("concat", arrays)
    if axis is None:
        return xp._concatenated(*[xp.ravel(x) for x in arrays], axis=0)
    return xp._concatenated(*arrays, axis=axis)


@composite(samples=lambda s: [(([s(2, 3), s(2, 3)],), {"axis": 1})], joins=_stacked)
def stack(xp, arrays, axis=0):
    """The arrays (a list or tuple), all of one shape, one after another along a new axis. Raises ShapeError."""
    return xp._stacked(*_arrays("stack", arrays), axis=axis)


# -------------------------------------------------------------------------------------------------------------- split
_MOST = 4
"""Parts that one row makes: the gates of a recurrent layer, or queries, keys and values, are one node of the tape."""


@functools.lru_cache(256)
def _cuts(points: tuple, axis: int) -> list:
    return [_cut(axis, a, b) for a, b in zip((None, *points), (*points, None))]


def _split(np: Any, x: Any, points: tuple, axis: int) -> tuple:
    return tuple([x[cut] for cut in _cuts(points, axis % x.ndim)])


def _check_split(x: Any, points: tuple, axis: Any) -> tuple:
    return points, axis if type(axis) is int and 0 <= axis < len(x.shape) else ax.axis("split", x, axis)


def _split_row(parts: int) -> None:
    name = f"_split{parts}"
    Op(f"{name}(x; points, axis=0) -> {', '.join('abcd'[:parts])}", _split, check=_check_split,
       vjp={"x": lambda xp, g, axis: xp._concatenated(*g, axis=axis)}, linear_in="all", promotes=(), kind="movement",
       batch=lambda xp, batched, inputs, statics: getattr(xp, name)(inputs[0], statics[0], axis=ax.shifted(statics[1])),
       samples=lambda s: [((s(2, 5),), {"points": (1, 2, 4)[:parts - 1], "axis": -1}),
                          ((s(3),), {"points": (3,) * (parts - 1)})],
       doc=f"The {parts} parts of `x` along `axis` between `points`, which ascend.")


for _parts in range(2, _MOST + 1):
    _split_row(_parts)


_SPLITS = [f"_split{parts}" for parts in range(_MOST + 1)]


def _pieces(xp: Any, x: Any, points: Any, axis: int, at: int = 0) -> list:
    """`x`, which begins at `at`, cut at `points`: in parts that are cut again, so that a gradient costs n log n."""
    n = len(points) + 1
    if n == 1:
        return [x]
    if n <= _MOST:
        points = tuple([p - at for p in points]) if at else tuple(points)
        return list(getattr(xp, _SPLITS[n])(x, points, axis=axis))
    firsts = [n * i // _MOST for i in range(_MOST + 1)]  # pieces with which the parts begin
    borders = tuple([points[i - 1] - at for i in firsts[1:-1]])
    out = []
    for part, first, last in zip(getattr(xp, f"_split{_MOST}")(x, borders, axis=axis), firsts, firsts[1:]):
        out += _pieces(xp, part, points[first:last - 1], axis, points[first - 1] if first else at)
    return out


@composite(samples=lambda s: [((s(6, 2), 3), {}), ((s(2, 5), [1, 3]), {"axis": 1})])
def split(xp, x, indices_or_sections, axis=0):
    """The list of the parts of `x` along `axis`: n equal ones for an int n, or cut at each of a list of indices.

    As `numpy.split`. Raises ShapeError when n does not divide the axis (array_split and chunk allow that).
    """
    shape = x.shape
    if type(axis) is not int or not 0 <= axis < len(shape):
        axis = ax.axis("split", x, axis)
    n = shape[axis]
    if isinstance(indices_or_sections, tuple | list):
        points = [p + n if p < 0 else p for p in ax.sizes_of("split", indices_or_sections, "indices")]
        points = [min(max(p, 0), n) for p in points]
        if points == sorted(points):
            return _pieces(xp, x, points, axis)
        return [xp._getitem(x, index=_cut(axis, a, b)) for a, b in zip([0, *points], [*points, n])]
    parts = ax.integer("split", "indices_or_sections", indices_or_sections)
    if parts < 1 or n % parts:
        raise ShapeError(f"split: axis {axis} of {describe(x)} has size {n}, which {parts} equal parts do not divide; "
                         "use array_split, chunk, or a list of indices")
    return _pieces(xp, x, range(n // parts, n, n // parts) if n else [0] * (parts - 1), axis)


@composite(samples=lambda s: [((s(7), 3), {})])
def array_split(xp, x, sections, axis=0):
    """`x` in `sections` parts along `axis`, sizes differ by at most one, larger ones first (`numpy.array_split`)."""
    axis = ax.axis("array_split", x, axis)
    sections = ax.integer("array_split", "sections", sections)
    if sections < 1:
        raise ArgumentError(f"array_split: sections={sections}; give 1 or more")
    size, more = divmod(x.shape[axis], sections)
    return _pieces(xp, x, [size * i + min(i, more) for i in range(1, sections)], axis)


@composite(samples=lambda s: [((s(7), 3), {})])
def chunk(xp, x, chunks, axis=0):
    """`x` in at most `chunks` parts of ceil(n / chunks) along `axis`, the last one smaller (`torch.chunk`).

    Nothing is divided into `chunks` parts that are empty.
    """
    axis = ax.axis("chunk", x, axis)
    chunks = ax.integer("chunk", "chunks", chunks)
    if chunks < 1:
        raise ArgumentError(f"chunk: chunks={chunks}; give 1 or more")
    n = x.shape[axis]
    size = -(-n // chunks)
    return _pieces(xp, x, list(range(size, n, size)) if n else [0] * (chunks - 1), axis)


def _slices(x: Any, axis: Any) -> Any:
    """`unstack` of a NumPy array along its first axis."""
    return list(x) if type(axis) is int and axis == 0 and x.ndim > 1 else None


@composite(samples=lambda s: [((s(7, 2),), {}), ((s(2, 3),), {"axis": -1})], splits=_slices)
def unstack(xp, x, axis=0):
    """The slices of `x` along `axis`, without that axis: a tuple."""
    axis = ax.axis("unstack", x, axis)
    n, out = x.shape[axis], []
    head = (slice(None),) * axis
    if config.modes.recorder is None and not axis:
        return tuple([xp._getitem(x, i) for i in range(n)])
    if config.modes.recorder is None:  # the cotangent is put together of all pieces at once (`Pieces`)
        return tuple([xp._getitem(x, index=(*head, i)) for i in range(n)])
    for block in _pieces(xp, x, list(range(4, n, 4)), axis):
        out += [xp._getitem(block, index=(*head, i)) for i in range(block.shape[axis])]
    return tuple(out)


# ---------------------------------------------------------------------------------------------------------------- pad
_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "replicate": "edge", "wrap": "wrap",
          "circular": "wrap", "symmetric": "symmetric"}


def _widths(x: Any, pad_width: Any) -> tuple:
    """`pad_width` as NumPy takes it, as a (before, after) pair for every axis."""
    n = len(x.shape)
    if isinstance(pad_width, dict):
        pairs: list[Any] = [(0, 0)] * n
        for a, w in pad_width.items():
            pairs[ax.axis("pad", x, a, "pad_width axis")] = w
        pad_width = pairs
    if not isinstance(pad_width, tuple | list):
        pad_width = (pad_width,)
    if not any(isinstance(w, tuple | list) for w in pad_width):
        if len(pad_width) not in (1, 2):
            raise ArgumentError(f"pad: pad_width={tuple(pad_width)}; give one number, one (before, after) pair, or a "
                                f"list of {n} pairs, or {{axis: pair}} for some axes (PyTorch's flat list starts with "
                                "the last axis: {-1: (left, right), -2: (top, bottom)})")
        pad_width = [tuple(pad_width) * (2 if len(pad_width) == 1 else 1)] * n
    pairs = [ax.shape("pad", w, "pad_width") for w in pad_width]
    pairs = [w * 2 if len(w) == 1 else w for w in pairs]
    if len(pairs) == 1:
        pairs *= n
    if len(pairs) != n or any(len(w) != 2 for w in pairs):
        raise ArgumentError(f"pad: {len(pairs)} (before, after) pairs for {describe(x)}, which has {n} axes")
    return tuple(pairs)


@composite(samples=lambda s: [((s(2, 3), ((1, 0), (0, 2))), {}), ((s(3), 2), {"mode": "wrap"})])
def pad(xp, x, pad_width, mode="constant", constant_values=0):
    """`x` with `pad_width` more elements on each side: an int, a (before, after) pair, or one such pair for each axis.

    mode: "constant" (of value `constant_values`), "reflect" (without the edge), "symmetric" (with it), "edge" or
    "replicate", "wrap" or "circular". As `numpy.pad`. Raises ArgumentError.
    """
    if mode not in _MODES:
        raise ArgumentError(f"pad: mode={mode!r}; use one of {', '.join(_MODES)}")
    widths, mode = _widths(x, pad_width), _MODES[mode]
    if mode == "constant":
        if isinstance(constant_values, tuple | list):
            raise ArgumentError("pad: give one number as constant_values")
        return xp._pad_constant(x, widths=widths, value=constant_values)
    for n, w in zip(x.shape, widths):
        if n == 0 and w != (0, 0):
            raise ShapeError(f"pad: {describe(x)} has an axis of size 0, there is nothing to {mode}; use "
                             "mode='constant'")
    return xp._pad_periodic(x, widths=widths, mode=mode)


def _inner(widths: tuple, shape: tuple) -> tuple:
    """The index of what was padded, in the result of `shape`."""
    return tuple(slice(b, n - a) for (b, a), n in zip(widths, shape))


def _pad_constant(np: Any, x: Any, widths: tuple, value: Any) -> Any:
    shape = tuple(n + b + a for n, (b, a) in zip(x.shape, widths))
    out = np.zeros(shape, x.dtype) if type(value) is int and value == 0 else np.full(shape, value, x.dtype)
    out[_inner(widths, shape)] = x
    return out


Op("_pad_constant(x; widths, value=0) -> y", _pad_constant,
   vjp={"x": lambda xp, g, widths: xp._getitem(g, index=_inner(widths, g.shape))},
   jvp={"x": lambda xp, t, widths: xp._pad_constant(t, widths=widths)}, promotes=(), kind="movement",
   batch=lambda xp, batched, inputs, statics: xp._pad_constant(inputs[0], ((0, 0), *statics[0]), statics[1]),
   samples=lambda s: [((s(2, 3),), {"widths": ((1, 0), (0, 2))}), ((s(2),), {"widths": ((2, 1),), "value": 1}),
                      ((s(0),), {"widths": ((2, 1),)})],
   doc="`x` with a (before, after) pair of `widths` for each axis, filled with `value`; see `pad`.")


def _pad_index(np: Any, n: int, width: tuple, mode: str) -> Any:
    """Which element of an axis of `n` each element of the padded axis is."""
    return np.pad(np.arange(n), width, mode)


def _pad_periodic(np: Any, x: Any, widths: tuple, mode: str) -> Any:
    for axis, width in enumerate(widths):
        if width != (0, 0):
            x = x.take(_pad_index(np, x.shape[axis], width, mode), axis)
    return x


def _pad_periodic_adjoint(np: Any, g: Any, widths: tuple, mode: str) -> Any:
    for axis, (b, a) in enumerate(widths):
        if b or a:
            n = g.shape[axis] - b - a
            index = _pad_index(np, n, (b, a), mode)
            head = (slice(None),) * axis
            out = g[(*head, slice(b, b + n))].copy()
            for j in (*range(b), *range(b + n, b + n + a)):
                out[(*head, index[j])] += g[(*head, j)]
            g = out
    return g


def _batch_periodic(name: str) -> Any:
    return lambda xp, batched, inputs, statics: getattr(xp, name)(inputs[0], ((0, 0), *statics[0]), statics[1])


Op("_pad_periodic(x; widths, mode) -> y", _pad_periodic,
   vjp={"x": lambda xp, g, widths, mode: xp._pad_periodic_adjoint(g, widths=widths, mode=mode)},
   linear_in="all", promotes=(), kind="movement", batch=_batch_periodic("_pad_periodic"),
   samples=lambda s: [((s(3, 4),), {"widths": ((1, 0), (0, 2)), "mode": m}) for m in ("reflect", "edge", "wrap")]
   + [((s(2),), {"widths": ((5, 3),), "mode": m}) for m in ("reflect", "symmetric", "wrap")],
   doc="`x` with a (before, after) pair of `widths` for each axis, filled with its own elements as `mode` says; see "
       "`pad`.")
Op("_pad_periodic_adjoint(g; widths, mode) -> x", _pad_periodic_adjoint,
   vjp={"g": lambda xp, g, widths, mode: xp._pad_periodic(g, widths=widths, mode=mode)},
   linear_in="all", promotes=(), kind="movement", batch=_batch_periodic("_pad_periodic_adjoint"), widen=True,
   samples=lambda s: [((s(4, 6),), {"widths": ((1, 0), (0, 2)), "mode": "reflect"})],
   doc="What padding copied is added up again: the adjoint of `pad_periodic`.")
