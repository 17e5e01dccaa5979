"""Convolutions, pooling and resizing."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from agog.array import dtypes
from agog.ops.pooling import windows_scale
from agog.ops.resizing import linear_sources, nearest_sources


def _taps(x_shape: tuple, out: tuple, kernel: tuple, stride: tuple, dilation: tuple) -> Any:
    """The index that takes, for each place in a window, that element of every window."""
    for at in product(*map(range, kernel)):
        yield (
            slice(None),
            slice(None),
            *[slice(a * d, a * d + (n - 1) * s + 1, s) for a, d, s, n in zip(at, dilation, stride, out[2:])],
        )


def _padded(b: Any, x: Any, padding: tuple, value: Any) -> Any:
    if not any(lo or hi for lo, hi in padding):
        return x
    shape = x.shape[:2] + tuple(n + lo + hi for n, (lo, hi) in zip(x.shape[2:], padding))
    inner = (slice(None), slice(None), *[slice(lo, lo + n) for n, (lo, _) in zip(x.shape[2:], padding)])
    return b.assemble(shape, x.dtype, [(x, lambda a: a[inner])], fill=value)


def _lowest(dtype: str) -> Any:
    d = dtypes.dtype(dtype)
    return -math.inf if dtypes.is_floating(d) else False if d.kind == "b" else int(np.iinfo(d).min)


def _max_pool(b: Any, inputs: Any, node: Any) -> Any:
    kernel, stride, padding, dilation = node.statics
    out, x = node.outputs[0].shape, inputs[0]
    made = b.native("max_pool", inputs, node)
    if made is not None:
        return made
    if not x.size or math.prod(kernel) > 32:
        return None
    x, y = _padded(b, x, padding, _lowest(x.dtype)), None
    for at in _taps(x.shape, out, kernel, stride, dilation):
        tap = b.view(x, lambda a, at=at: a[at])
        y = tap if y is None else b.point("maximum", lambda k, u, v: k.max(u, v), (y, tap), out, x.dtype)
    return b.copy(y) if math.prod(kernel) == 1 else y


def _max_scatter(b: Any, inputs: Any, node: Any) -> Any:
    (g, x, y), (kernel, stride, padding, dilation) = inputs, node.statics
    made = b.native("max_scatter", inputs, node)
    if made is not None:
        return made
    apart = all(s >= d * (k - 1) + 1 for k, s, d in zip(kernel, stride, dilation))
    if not y.size or math.prod(kernel) > 16 or not apart or any(lo or hi for lo, hi in padding):
        return None
    taken, parts = None, []
    for at in _taps(x.shape, y.shape, kernel, stride, dilation):
        tap = b.view(x, lambda a, at=at: a[at])
        hit = b.point("equal", lambda k, u, v: k.eq(u, v), (tap, y), y.shape, "bool")
        first = (
            hit
            if taken is None
            else b.point("_first", lambda k, h, t: k.bitwise_and(h, k.bitwise_not(t)), (hit, taken), y.shape, "bool")
        )
        taken = (
            hit
            if taken is None
            else b.point("logical_or", lambda k, h, t: k.bitwise_or(h, t), (hit, taken), y.shape, "bool")
        )
        value = b.point("where", lambda k, c, u, v: k.where(c, u, v), (first, g, b.const(0, g.dtype)), y.shape, g.dtype)
        parts.append((value, lambda a, at=at: a[at]))
    tiled = math.prod(y.shape) * math.prod(kernel) == math.prod(x.shape)
    return b.assemble(x.shape, g.dtype, parts, fill=None if tiled else 0)


def _native(name: str) -> Any:
    """A row that has native code of its own, or none that fits."""
    return lambda b, inputs, node: b.native(name, inputs, node)


def _tiled(sizes: tuple, kernel: tuple, stride: tuple, padding: tuple) -> bool:
    """Whether large windows lie side by side, such as one that is the whole image."""
    whole = all(n % k == 0 for n, k in zip(sizes, kernel)) and not any(map(any, padding))
    return stride == kernel and whole and math.prod(kernel) > _LARGE


_LARGE = 32  # elements of a window


def _averages(xp: Any, x: Any, kernel: tuple, stride: tuple, padding: tuple, bounds: tuple) -> Any:
    """`_avg_pool` of large windows side by side, a sum that joins with what is around it."""
    lead, sizes = x.shape[:2], x.shape[2:]
    if not x.size or not _tiled(sizes, kernel, stride, padding):
        return None
    pairs = [n for n, k in zip(sizes, kernel) for n in (n // k, k)]
    total = xp.sum(xp.reshape(x, (*lead, *pairs)), axis=tuple(range(3, 3 + 2 * len(kernel), 2)))
    return total * windows_scale(sizes, kernel, stride, padding, bounds, x.dtype)


def _averages_adjoint(
    xp: Any, g: Any, size: tuple, kernel: tuple, stride: tuple, padding: tuple, bounds: tuple
) -> Any:
    """`_avg_pool_adjoint` of large windows side by side."""
    if not _tiled(size, kernel, stride, padding):
        return None
    g = g * windows_scale(size, kernel, stride, padding, bounds, g.dtype)
    lead, out = g.shape[:2], g.shape[2:]
    thin, wide = [n for m in out for n in (m, 1)], [n for pair in zip(out, kernel) for n in pair]
    return xp.reshape(xp.broadcast_to(xp.reshape(g, (*lead, *thin)), (*lead, *wide)), (*lead, *size))


def _axis_map(xp: Any, x: Any, axis: int, kind: tuple, transpose: bool) -> Any:
    """Resizing an axis to the nearest elements, or linearly; None for other matrices."""
    name, n, out, *_ = kind
    shape = tuple(x.shape)
    before, after = shape[:axis], shape[axis + 1 :]
    if name.startswith("nearest"):
        index = nearest_sources(kind)
        if not transpose:
            return xp.take(x, index, axis=axis)
        times = out // n if n else 0
        if not times or out != n * times or (index != np.arange(out) // times).any():
            return None
        return xp.sum(xp.reshape(x, (*before, n, times, *after)), axis=axis + 1)
    if name != "linear" or transpose or not n:
        return None
    low, high, part = linear_sources(kind)
    part = part.astype(x.dtype).reshape((-1,) + (1,) * len(after))
    first, second = xp.take(x, low, axis=axis), xp.take(x, high, axis=axis)
    return xp.where(part == 0, first, first * (1 - part) + second * part)  # a weight of 0 keeps infinity and nan out


DECOMPOSE: dict[str, Any] = {
    "_axis_map": _axis_map,
    "_avg_pool": _averages,
    "_avg_pool_adjoint": _averages_adjoint,
}

NEST: dict[str, Any] = {
    "_max_pool": _max_pool,
    "_max_pool_scatter": _max_scatter,
    "_avg_pool": _native("avg_pool"),
    "_avg_pool_adjoint": _native("avg_spread"),
    **{name: _native(name) for name in ("conv", "conv_input_grad", "conv_weight_grad")},
}
