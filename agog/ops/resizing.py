"""Resizing of x (N, C, ...): interpolation, and pixels that become channels.

Every way of resizing is a fixed matrix for each axis, `_axis_map`, whose transpose is its derivative. The bins of
adaptive average pooling are one more such matrix.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from agog.array import dtypes
from agog.errors import ArgumentError, ShapeError
from agog.ops.conv import each_axis
from agog.ops.row import Op, composite


def _describe(x):
    return f"{x.dtype}{list(x.shape)}"


def _at(axis, where):
    return (slice(None),) * axis + (where,)


# ------------------------------------------------------------------------------------- one matrix for each axis
@lru_cache(maxsize=256)
def _matrix(kind):
    """The matrix (out, n) of a map of one axis. kind: (name, n, out, scale or None, align_corners)."""
    name, n, out, scale, align = kind
    m = np.zeros((out, n))
    if name == "adaptive":
        for i in range(out):
            a, b = i * n // out, -(-(i + 1) * n // out)
            m[i, a:b] = 1 / (b - a)
        return m
    rows = np.arange(out)
    if name == "linear":
        low, high, part = linear_sources(kind)
        np.add.at(m, (rows, low), 1 - part)
        np.add.at(m, (rows, high), part)
        return m
    source = _centres(kind)
    low = np.floor(source).astype(int)  # cubic: Keys' kernel with a = -0.75, as in torch
    t, a = source - low, -0.75
    for k, d in ((-1, t + 1), (0, t), (1, 1 - t), (2, 2 - t)):
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        np.add.at(m, (rows, np.clip(low + k, 0, n - 1)), np.where(d <= 1, near, far))
    return m


def _centres(kind):
    """Where the elements of the result lie between those of the source."""
    _, n, out, scale, align = kind
    if align:
        return np.arange(out) * ((n - 1) / (out - 1) if out > 1 else 0.0)
    return (np.arange(out) + 0.5) * (n / out if scale is None else 1 / scale) - 0.5


def linear_sources(kind):
    """The elements between which those of the result lie, and the weight of the second ones."""
    n, source = kind[1], np.maximum(_centres(kind), 0)
    low = np.minimum(np.floor(source).astype(np.int64), n - 1)
    return low, np.minimum(low + 1, n - 1), np.minimum(source - low, 1)


@lru_cache(maxsize=256)
def nearest_sources(kind):
    """Source index of each output position of nearest-neighbour resizing."""
    name, n, out, scale, _ = kind
    step = n / out if scale is None else 1 / scale
    shift = 0.5 if name == "nearest-exact" else 0.0
    source = (np.arange(out, dtype=np.float32) + np.float32(shift)) * np.float32(step)  # in float32, as torch does
    return np.minimum(np.floor(source).astype(np.int64), n - 1)


def _axis_map(np, x, axis, kind, transpose):
    if kind[0].startswith("nearest"):
        index = nearest_sources(kind)
        if not transpose:
            return np.take(x, index, axis)
        out = np.zeros(x.shape[:axis] + (kind[1],) + x.shape[axis + 1:], x.dtype)
        if index.size:
            starts = np.flatnonzero(np.concatenate(([True], index[1:] != index[:-1])))
            out[_at(axis, index[starts])] = np.add.reduceat(x, starts, axis)
        return out
    m = _matrix(kind).astype(x.dtype if x.dtype.kind == "f" else dtypes.real_of(x.dtype))
    m = m.T if transpose else m
    shape = x.shape
    result = shape[:axis] + (m.shape[0],) + shape[axis + 1:]
    rest = math.prod(shape[axis + 1:])
    if rest == 1:
        y = np.matmul(np.ascontiguousarray(x).reshape(-1, shape[axis]), m.T).reshape(result)
    else:
        y = np.matmul(m, np.ascontiguousarray(x).reshape(math.prod(shape[:axis]), shape[axis], rest)).reshape(result)
    if np.isfinite(np.add.reduce(y, None)):
        return y
    for i, row in enumerate(m):  # a weight of 0 keeps infinity and nan out
        used = np.flatnonzero(row)
        weights = row[used].reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        y[_at(axis, i)] = np.add.reduce(np.take(x, used, axis) * weights, axis)
    return y


def _axis_map_samples(s):
    kinds = [("linear", 4, 7, None, False), ("linear", 5, 3, None, True), ("cubic", 5, 8, None, False),
             ("adaptive", 7, 3, None, False), ("nearest", 3, 6, None, False), ("nearest", 7, 3, None, False)]
    return [((s(2, 2, k[2] if t else k[1], 3),), {"axis": 2, "kind": k, "transpose": t})
            for k in kinds for t in (False, True)]


Op("_axis_map(x; axis, kind, transpose=False) -> y", _axis_map, takes="fc", to_float=True, widen=True, kind="linear",
   linear_in="all", samples=_axis_map_samples,
   vjp={"x": lambda xp, g, axis, kind, transpose: xp._axis_map(g, axis, kind, not transpose)},
   batch=lambda xp, batched, inputs, statics: xp._axis_map(inputs[0], statics[0] + 1, *statics[1:]),
   doc="A fixed matrix applied to one axis: `kind` names it (resizing, adaptive averages).")


# ------------------------------------------------------------------------------------------------------------ resizing
_MODES = {"nearest": ("nearest", None), "nearest-exact": ("nearest-exact", None), "linear": ("linear", 1),
          "bilinear": ("linear", 2), "trilinear": ("linear", 3), "bicubic": ("cubic", 2), "area": ("adaptive", None)}


@composite(samples=lambda s: [((s(1, 2, 3, 4),), {"scale_factor": 2}),
                              ((s(1, 2, 3, 4),), {"size": (5, 6), "mode": "bilinear"}),
                              ((s(1, 2, 4),), {"size": 7, "mode": "linear", "align_corners": True})])
def interpolate(xp, x, size=None, scale_factor=None, mode="nearest", align_corners=False):
    """x (N, C, ...) resized to `size` (a number or one for each spatial axis) or by `scale_factor`.

    mode  'nearest', 'nearest-exact', 'linear' (N, C, L), 'bilinear' or 'bicubic' (N, C, H, W), 'trilinear', 'area'
    align_corners  the corner elements keep their places, else the corners of the corner elements do
    """
    rank = len(x.shape) - 2
    if rank < 1:
        raise ShapeError(f"interpolate(x={_describe(x)}): x has shape (N, C, ...) with at least one spatial axis")
    if mode not in _MODES:
        raise ArgumentError(f"interpolate: mode={mode!r}; use one of {', '.join(map(repr, _MODES))}")
    kind, wanted = _MODES[mode]
    if wanted not in (None, rank):
        raise ArgumentError(f"interpolate(x={_describe(x)}, mode={mode!r}): this mode is for {wanted} spatial axes, "
                            "x has "
                            f"{rank}")
    if align_corners and kind not in ("linear", "cubic"):
        raise ArgumentError(f"interpolate: align_corners has no meaning for mode={mode!r}")
    if (size is None) == (scale_factor is None):
        raise ArgumentError("interpolate: give either size or scale_factor")
    scales = [None] * rank
    if size is None:
        factors = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * rank
        if len(factors) != rank or min(factors) <= 0:
            raise ArgumentError(f"interpolate: scale_factor={scale_factor!r}; give a positive number or a tuple of "
                                f"{rank}")
        size = tuple(int(math.floor(n * f)) for n, f in zip(x.shape[2:], factors))
        scales = [float(f) for f in factors]
    size = each_axis("interpolate", "size", size, rank, 1)
    if not math.prod(x.shape[2:]):
        raise ShapeError(f"interpolate(x={_describe(x)}): x has no elements along a spatial axis")
    for i, (n, out, scale) in enumerate(zip(tuple(x.shape[2:]), size, scales)):
        if n != out or scale not in (None, 1.0):
            x = xp._axis_map(x, 2 + i, (kind, n, out, scale if kind != "adaptive" else None, bool(align_corners)))
    return x


@composite
def upsample(xp, x, size=None, scale_factor=None, mode="nearest", align_corners=False):
    """The same as `interpolate`."""
    return xp.interpolate(x, size, scale_factor, mode, align_corners)


@composite(samples=lambda s: [((s(2, 8, 3, 2), 2), {})])
def pixel_shuffle(xp, x, upscale_factor):
    """(..., C r², H, W) -> (..., C, H r, W r): channels become pixels. Shi et al. 2016, arXiv:1609.05158."""
    r = upscale_factor
    if len(x.shape) < 3 or r < 1 or x.shape[-3] % (r * r):
        raise ShapeError(f"pixel_shuffle(x={_describe(x)}, upscale_factor={r}): x has shape (..., C * {r * r}, H, W)")
    *lead, c, h, w = x.shape
    n = len(lead)
    x = xp.reshape(x, (*lead, c // (r * r), r, r, h, w))
    x = xp.permute_dims(x, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return xp.reshape(x, (*lead, c // (r * r), h * r, w * r))


@composite(samples=lambda s: [((s(2, 2, 4, 6), 2), {})])
def pixel_unshuffle(xp, x, downscale_factor):
    """(..., C, H r, W r) -> (..., C r², H, W): the inverse of pixel_shuffle."""
    r = downscale_factor
    if len(x.shape) < 3 or r < 1 or x.shape[-2] % r or x.shape[-1] % r:
        raise ShapeError(f"pixel_unshuffle(x={_describe(x)}, downscale_factor={r}): height and width must be "
                         f"multiples of {r}")
    *lead, c, h, w = x.shape
    n = len(lead)
    x = xp.reshape(x, (*lead, c, h // r, r, w // r, r))
    x = xp.permute_dims(x, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return xp.reshape(x, (*lead, c * r * r, h // r, w // r))


@composite(samples=lambda s: [((s(2, 6, 2), 3), {})])
def channel_shuffle(xp, x, groups):
    """The channels of x (N, C, ...) dealt out: (groups, C / groups) transposed. Zhang et al. 2018, arXiv:1707.01083."""
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        raise ShapeError(f"channel_shuffle(x={_describe(x)}, groups={groups}): groups must divide the channels (axis "
                         "1)")
    shape = tuple(x.shape)
    x = xp.reshape(x, (shape[0], groups, shape[1] // groups, *shape[2:]))
    return xp.reshape(xp.swapaxes(x, 1, 2), shape)


def _unpooled(xp, rank, x, indices, kernel_size, stride, padding, output_size):
    name = f"max_unpool{rank}d"
    kernel = each_axis(name, "kernel_size", kernel_size, rank, 1)
    stride = kernel if stride is None else each_axis(name, "stride", stride, rank, 1)
    padding = each_axis(name, "padding", padding, rank, 0)
    shape = tuple(x.shape)
    if len(shape) not in (rank + 1, rank + 2) or tuple(indices.shape) != shape:
        raise ShapeError(f"{name}(x={_describe(x)}, indices={_describe(indices)}): both have one shape, with {rank} "
                         "spatial axes")
    lead, inner = shape[:-rank], shape[-rank:]
    sizes = tuple((n - 1) * s - 2 * p + k for n, k, s, p in zip(inner, kernel, stride, padding))
    if output_size is not None:
        given = each_axis(name, "output_size", tuple(output_size)[-rank:], rank, 1)
        if any(abs(a - b) >= s for a, b, s in zip(given, sizes, stride)):
            raise ArgumentError(f"{name}: output_size={tuple(output_size)}; no max_pool{rank}d with these settings "
                                f"takes that to {inner}: {sizes} or less than a stride from it")
        sizes = given
    zeros = xp.zeros((*lead, math.prod(sizes)), dtype=x.dtype)
    flat = (*lead, math.prod(inner))
    return xp.reshape(xp.put_along_axis(zeros, xp.reshape(indices, flat), xp.reshape(x, flat)), (*lead, *sizes))


@composite
def max_unpool1d(xp, x, indices, kernel_size, stride=None, padding=0, output_size=None):
    """x (N, C, L) at the places `indices` that max_pool1d(return_indices=True) gave; see max_unpool2d."""
    return _unpooled(xp, 1, x, indices, kernel_size, stride, padding, output_size)


@composite
def max_unpool2d(xp, x, indices, kernel_size, stride=None, padding=0, output_size=None):
    """The maxima x (N, C, H, W) at the places `indices` that max_pool2d(return_indices=True) gave, zeros elsewhere.

    kernel_size, stride, padding  those of the pooling
    output_size                   the size before the pooling, where several lead to H x W; (H', W') or the whole shape

    Raises ShapeError, ArgumentError, and IndexingError for an index outside of the result. Of several maxima at one
    place the last stays. Zeiler and Fergus, 2014.
    """
    return _unpooled(xp, 2, x, indices, kernel_size, stride, padding, output_size)


@composite
def max_unpool3d(xp, x, indices, kernel_size, stride=None, padding=0, output_size=None):
    """x (N, C, D, H, W) at the places `indices` that max_pool3d(return_indices=True) gave; see max_unpool2d."""
    return _unpooled(xp, 3, x, indices, kernel_size, stride, padding, output_size)
