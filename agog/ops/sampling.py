"""Images read at places between their pixels: the sampler of spatial transformers (Jaderberg et al., 2015)."""

from __future__ import annotations

import itertools
import math

from agog.array import dtypes
from agog.errors import ArgumentError, DTypeError, ShapeError
from agog.ops.row import composite


def _describe(x):
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else repr(x)


@composite(samples=lambda s: [((s(2, 2, 3), (2, 1, 3, 4)), {}), ((s(1, 2, 3), (1, 2, 2, 1)), {"align_corners": True}),
                              ((s(1, 3, 4), (1, 1, 2, 3, 2)), {})])
def affine_grid(xp, theta, size, align_corners=False):
    """The places that affine maps `theta` send the pixels of an image to: a grid for `grid_sample`.

    theta (N, 2, 3) and size (N, C, H, W) give (N, H, W, 2); theta (N, 3, 4) and (N, C, D, H, W) give (N, D, H, W, 3).
    Places are (x, y) or (x, y, z) from -1 to 1: the centres of the first and last pixel with align_corners=True, else
    their outer edges. Raises ShapeError.
    """
    size = tuple(int(n) for n in size)
    rank = len(size) - 2
    if rank not in (2, 3) or tuple(theta.shape) != (size[0], rank, rank + 1):
        raise ShapeError(f"affine_grid(theta={_describe(theta)}, size={size}): with a size (N, C, H, W) theta has "
                         "shape (N, 2, 3), with (N, C, D, H, W) it has (N, 3, 4)")
    if min(size) < 1:
        raise ArgumentError(f"affine_grid(size={size}): every size is at least 1")
    axes = []
    for i, n in enumerate(size[2:]):
        edge = 1.0 if align_corners else (n - 1) / n
        at = xp.linspace(-edge, edge, n, dtype=theta.dtype) if n > 1 else xp.zeros(1, dtype=theta.dtype)
        axes.append(xp.broadcast_to(xp.reshape(at, (n,) + (1,) * (rank - 1 - i)), size[2:]))
    base = xp.stack([*reversed(axes), xp.ones(size[2:], dtype=theta.dtype)], axis=-1)
    flat = xp.reshape(base, (math.prod(size[2:]), rank + 1))
    return xp.reshape(xp.matmul(flat, xp.swapaxes(theta, 1, 2)), (size[0], *size[2:], rank))


def _reflected(xp, at, n, align):
    """Places folded back at the borders of n pixels."""
    low, span = (0.0, n - 1.0) if align else (-0.5, float(n))
    if not span:
        return at * 0.0
    turn = xp.remainder(at - low, 2 * span)
    return xp.clip(span - xp.abs(turn - span) + low, 0.0, n - 1.0)


def _bounded(xp, at, n, padding, align):
    if padding == "border":
        return xp.clip(at, 0.0, n - 1.0)
    return _reflected(xp, at, n, align) if padding == "reflection" else at


def _cubic(xp, part):
    """Weights of the four pixels around a place: Keys' kernel with a = -0.75, as for `interpolate`."""
    a = -0.75
    near = [((a + 2) * t - (a + 3)) * t * t + 1 for t in (part, 1 - part)]
    far = [((a * t - 5 * a) * t + 8 * a) * t - 4 * a for t in (part + 1, 2 - part)]
    return [far[0], near[0], near[1], far[1]]


def _taps(xp, at, n, mode, padding, align):
    """[(pixel as a float, its weight or None for 1)] along one axis."""
    if mode == "bicubic":
        low = xp.floor(at)
        return [(_bounded(xp, low + k, n, padding, align), w) for k, w in zip((-1, 0, 1, 2), _cubic(xp, at - low))]
    at = _bounded(xp, at, n, padding, align)
    if mode == "nearest":
        return [(xp.round(at), None)]
    low = xp.floor(at)
    part = at - low
    return [(low, 1 - part), (low + 1, part)]


@composite(samples=lambda s: [
    ((s(2, 3, 4, 5), s(2, 3, 2, 2, lo=-1.3, hi=1.3)), {"padding_mode": p, "align_corners": a})
    for p, a in (("zeros", False), ("border", True), ("reflection", False))] + [
    ((s(1, 2, 4, 5), s(1, 2, 3, 2, lo=-1.1, hi=1.1)), {"mode": "bicubic"}),
    ((s(1, 2, 3, 4, 2), s(1, 2, 2, 3, 3, lo=-1.2, hi=1.2)), {})])
def grid_sample(xp, x, grid, mode="bilinear", padding_mode="zeros", align_corners=False):
    """x (N, C, H, W) read at the places `grid` (N, H', W', 2): (N, C, H', W'). Also (N, C, D, H, W) with (..., 3).

    grid           places (x, y) or (x, y, z), from -1 at the left or top to 1 at the right or bottom of the image
    mode           'bilinear' (of volumes: trilinear), 'nearest', or 'bicubic' (of images)
    padding_mode   what there is outside: 'zeros', 'border' (the nearest pixel), or 'reflection' at the borders
    align_corners  -1 and 1 are the centres of the outermost pixels, else their outer edges

    Differentiable in x and in grid (mode 'nearest': in x). Raises ShapeError, DTypeError, and ArgumentError for an
    unknown mode. Jaderberg et al., 2015.
    """
    rank = len(x.shape) - 2
    if rank not in (2, 3) or len(grid.shape) != rank + 2 or grid.shape[0] != x.shape[0] or grid.shape[-1] != rank:
        raise ShapeError(f"grid_sample(x={_describe(x)}, grid={_describe(grid)}): x has shape (N, C, H, W) and grid "
                         "(N, H', W', 2), or x (N, C, D, H, W) and grid (N, D', H', W', 3)")
    if mode not in ("bilinear", "nearest", "bicubic") or mode == "bicubic" and rank == 3:
        raise ArgumentError(f"grid_sample: mode={mode!r} of {rank} spatial axes; use 'bilinear' or 'nearest'"
                            + (", or 'bicubic'" if rank == 2 else ""))
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ArgumentError(f"grid_sample: padding_mode={padding_mode!r}; use 'zeros', 'border' or 'reflection'")
    if dtypes.kind(x.dtype) not in "fc" or dtypes.kind(grid.dtype) != "f":
        raise DTypeError(f"grid_sample(x={_describe(x)}, grid={_describe(grid)}): both hold floats")
    sizes = tuple(x.shape[2:])
    if not math.prod(sizes):
        raise ShapeError(f"grid_sample(x={_describe(x)}): x has no elements along a spatial axis")
    half = dtypes.is_half(grid.dtype)
    places = xp.astype(grid, dtypes.float32) if half else grid  # 16 bits do not tell one pixel from the next
    taps = []
    for i, n in enumerate(sizes):
        at = places[..., rank - 1 - i]
        at = (at + 1) * ((n - 1) / 2) if align_corners else (at + 1) * (n / 2) - 0.5
        taps.append(_taps(xp, at, n, mode, padding_mode, align_corners))
    return _gathered(xp, x, sizes, taps, padding_mode == "zeros" or mode == "bilinear")


def _gathered(xp, x, sizes, taps, zeros):
    """The sum over all combinations of taps of weight times pixel; pixels are rows (C,) of one matrix."""
    batch, channels = x.shape[:2]
    area = math.prod(sizes)
    rows = xp.reshape(xp.moveaxis(x, 1, -1), (batch * area, channels))
    if zeros:  # one more row, for every place outside: a weight of 0 there would not keep infinity out
        rows = xp.concat([rows, xp.zeros((1, channels), dtype=x.dtype)], axis=0)
    rank = len(sizes)
    first = xp.reshape(xp.arange(batch) * area, (batch,) + (1,) * rank)
    along = []
    for n, axis in zip(sizes, taps):
        inside = [(at >= 0) & (at <= n - 1) for at, _ in axis] if zeros else [None] * len(axis)
        along.append([(xp.astype(xp.clip(at, 0.0, n - 1.0), dtypes.int64), w, ok) for (at, w), ok in zip(axis, inside)])
    total = None
    for corner in itertools.product(*along):
        index, weight, within = first, None, None
        step = area
        for n, (at, w, ok) in zip(sizes, corner):
            step //= n
            index = index + at * step
            weight = w if weight is None else weight if w is None else weight * w
            within = ok if within is None else within & ok
        if zeros:
            index = xp.where(within, index, batch * area)
        part = xp.take(rows, index, axis=0)
        if weight is not None:
            weight = xp.astype(weight, dtypes.real_of(x.dtype)) if weight.dtype != dtypes.real_of(x.dtype) else weight
            part = part * xp.expand_dims(weight, axis=-1)
        total = part if total is None else total + part
    return xp.moveaxis(total, -1, 1)
