"""Normalisation: layer, RMS, batch, group and instance norm, and what is like them.

Two rows do the work, `fused_norm` (over trailing axes) and `batch_norm_train` (over all axes but one). On raw arrays
their rules work block by block in the cache; in every other world the same formula is spelt out in operations, which
is what derivatives of derivatives and the compiler see.
"""

from __future__ import annotations

import math

import numpy
import numpy as np

from agog.array import few
from agog.array.numbers import weak
from agog.errors import ArgumentError, AxisError, ShapeError
from agog.ops.blocks import fresh, in_float32, native, over_rows
from agog.ops.namespaces import raw
from agog.ops.row import Op, composite

LARGE = few.BELOW
"""Elements from which a native kernel may be one for threads."""

_NORMS = tuple(tuple(few.kernels(f"{kind}{n}") for n in range(3)) for kind in ("rms_norm", "norm"))
_GRADS = tuple(tuple(few.kernels(f"{kind}{n}_backward") for n in range(3)) for kind in ("rms_norm", "norm"))


def _describe(x):
    return f"{x.dtype}{list(x.shape)}"


# --------------------------------------------------------------------------------------- over the trailing axes
def _flat(x, n):
    if n == 1 and x.ndim == 2 and x.flags.c_contiguous:
        return x
    size = math.prod(x.shape[x.ndim - n:])
    return np.ascontiguousarray(x).reshape(-1 if size else math.prod(x.shape[:x.ndim - n]), size)


def _standardize(np, x, out, eps, centered):
    """out = x (less its mean) / standard deviation, row by row; returns 1 / deviation as a column."""
    size = weak(x.shape[1], x.dtype)
    if centered:
        mean = np.add.reduce(x, 1, None, None, True)
        np.subtract(x, np.divide(mean, size, mean), out)
        r = np.vecdot(out, out)
    else:
        r = np.vecdot(x, x)
    np.divide(r, size, r)
    np.add(r, weak(eps, x.dtype), r)
    np.sqrt(r, r)
    r = np.reciprocal(r, r)[:, None]
    np.multiply(out if centered else x, r, out)
    return r


def _few_norms(args):
    """The norm of few numbers by a kernel, or None."""
    x, n, centered = args[0], args[-3], args[-1]
    of = _NORMS[1 if centered else 0][len(args) - 4]
    dtype = x.dtype
    run = of.get(dtype)
    if not run and (run is False or not (run := of.wanted(dtype))):
        return None
    shape = x.shape
    size = shape[-1] if n == 1 else math.prod(shape[len(shape) - n:])
    if not size:
        return None
    eps = weak(args[-2], dtype)
    if type(eps) is not np.ndarray:
        eps = np.array(eps, dtype)
    if x.size >= LARGE:
        few.refresh()
    y, ins = np.empty(shape, dtype), args[:-3]
    try:
        run(y, *ins, eps, x.size // size, size, 1)
    except ValueError:  # they are not contiguous
        run(y, *[np.ascontiguousarray(a) for a in ins], eps, x.size // size, size, 1)
    return y


def _fused_norm(np, *args):
    x = args[0]
    if x.size < few.MIDDLE and np is numpy and (done := _few_norms(args)) is not None:
        return done
    *xs, n, eps, centered = args
    if x.size >= LARGE:
        affine = xs[1:] if n == 1 else [p.reshape(-1) for p in xs[1:]]
        done = native(np, "norm", 32 * x.size, _flat(x, n), affine, eps, centered)
        if done is not None:
            return done if done.shape == x.shape else done.reshape(x.shape)
    y = fresh(np, x.shape, x.dtype)
    if not x.size:
        return y
    rows, out = _flat(x, n), _flat(y, n)
    affine = [p.reshape(-1) for p in xs[1:]]

    def work(i, j):
        part = out[i:j]
        _standardize(np, rows[i:j], part, eps, centered)
        if affine:
            part *= affine[0]
            if len(affine) > 1:
                part += affine[1]

    over_rows(rows.shape[0], rows.shape[1], work)
    return y


def _few_norm_grads(g, xs, n, eps, centered):
    """The cotangents of few numbers by a kernel, or None."""
    of = _GRADS[1 if centered else 0][len(xs) - 1]
    x = xs[0]
    dtype, shape = x.dtype, x.shape
    run = of.get(dtype)
    if not run and (run is False or not (run := of.wanted(dtype))) or g.dtype is not dtype:
        return None
    size = math.prod(shape[len(shape) - n:])
    rows = x.size // size
    found = [np.empty(a.shape, dtype) for a in xs]
    ins = [g, *xs[:2], np.array(eps, dtype)]
    try:
        run(*found, *ins, rows, size, rows)  # all rows are one block: its sums are those of all
    except ValueError:
        run(*found, *[np.ascontiguousarray(a) for a in ins], rows, size, rows)
    return found


@in_float32
def _fused_norm_grad(g, xs, n, eps, centered):
    """Cotangents of (x, weight, bias) in one pass over blocks of rows."""
    x = xs[0]
    if not x.size:
        return [np.zeros(p.shape, p.dtype) for p in xs]
    if x.size < LARGE and (done := _few_norm_grads(g, xs, n, eps, centered)) is not None:
        return done
    rows, gs = _flat(x, n), _flat(g, n)
    size = rows.shape[1]
    if x.size >= LARGE:
        done = native(np, "norm_grad", 32 * x.size, gs, rows, [p.reshape(-1) for p in xs[1:]], eps, centered)
        if done is not None:
            return [d.reshape(p.shape) for d, p in zip(done, xs)]
    dx = fresh(np, rows.shape, x.dtype)
    weight = xs[1].reshape(-1) if len(xs) > 1 else None
    sums = {}

    def work(i, j):
        hat = np.empty((j - i, size), x.dtype)
        r = _standardize(np, rows[i:j], hat, eps, centered)
        part, out = gs[i:j], dx[i:j]
        if weight is not None:
            ones = np.ones(j - i, x.dtype)
            sums[i] = (ones @ np.multiply(part, hat, out), ones @ part if len(xs) > 2 else None)
            part = np.multiply(part, weight, out)
        slope = np.vecdot(part, hat)[:, None]
        slope /= size
        mean = np.add.reduce(part, 1, None, None, True) / size if centered else None
        hat *= slope
        np.subtract(part, hat, out)
        if centered:
            out -= mean
        out *= r

    over_rows(rows.shape[0], size, work)
    found = [dx.reshape(x.shape)]
    for p, parts in zip(xs[1:], zip(*(sums[i] for i in sorted(sums))) if sums else ()):
        found.append(np.add.reduce(np.stack(parts), 0).reshape(p.shape))
    return found


def _fused_norm_rule(xp, g, xs, n, eps, centered):
    if xp is raw:
        return _fused_norm_grad(g, xs, n, eps, centered)
    x = xs[0]
    axes, lead = tuple(range(-n, 0)), tuple(range(len(x.shape) - n))
    xc = x - xp.mean(x, axis=axes, keepdims=True) if centered else x
    r = 1.0 / xp.sqrt(xp.mean(xc * xc, axis=axes, keepdims=True) + eps)
    hat = xc * r
    gw = g * xs[1] if len(xs) > 1 else g
    dx = gw - hat * xp.mean(gw * hat, axis=axes, keepdims=True)
    if centered:
        dx = dx - xp.mean(gw, axis=axes, keepdims=True)
    found = [dx * r]
    if len(xs) > 1:
        found.append(xp.sum(g * hat, axis=lead) if lead else g * hat)
    if len(xs) > 2:
        found.append(xp.sum(g, axis=lead) if lead else g)
    return found


def _fused_norm_batch(xp, batched, inputs, statics):
    n = statics[0]
    x, *affine = inputs
    if not any(batched[1:]):
        return xp._fused_norm(x, *affine, n=n, eps=statics[1], centered=statics[2])
    y = xp._fused_norm(x, n=n, eps=statics[1], centered=statics[2])
    rank = len(x.shape) - n - (1 if batched[0] else 0)
    y = y if batched[0] else xp.expand_dims(y, axis=0)
    for i, (p, b) in enumerate(zip(affine, batched[1:])):
        if b:
            p = xp.reshape(p, (p.shape[0],) + (1,) * rank + tuple(p.shape[1:]))
        y = y * p if i == 0 else y + p
    return y


Op(
    "_fused_norm(*xs; n=1, eps=1e-5, centered=True) -> y", _fused_norm, vjp={"xs": _fused_norm_rule}, to_float=True,
    takes="f", widen=True, kind="normalization", batch=_fused_norm_batch, error=16.0,
    samples=lambda s: [((s(3, 5),), {}), ((s(2, 3, 4), s(3, 4), s(3, 4)), {"n": 2}),
                       ((s(2, 3, 4), s(4)), {"centered": False})],
    doc="x divided by its standard deviation (or, not centered, by its root mean square) over the last `n` axes, then "
        "times a weight and plus a bias of these axes' shape: xs = (x,), (x, weight) or (x, weight, bias).")


def _trailing(name, x, normalized_shape, *params):
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    n, given = len(shape), x.shape
    if n and given[-n:] == shape and 0 not in shape:
        for _, p in params:
            if p is not None and p.shape != shape:
                break
        else:
            return n
    if not n or tuple(x.shape[len(x.shape) - n:]) != shape or len(x.shape) < n:
        raise ShapeError(f"{name}(x={_describe(x)}, normalized_shape={shape}): x must end with exactly these sizes; "
                         f"its shape ends with {tuple(x.shape[-n:]) if n else '()'}")
    for what, p in params:
        if p is not None and tuple(p.shape) != shape:
            raise ShapeError(f"{name}: {what} has shape {tuple(p.shape)}; it has the normalized_shape {shape}")
    if math.prod(shape) == 0 and math.prod(x.shape[:-n]):
        raise ShapeError(f"{name}(x={_describe(x)}): the mean over no elements does not exist")
    return n


@composite(samples=lambda s: [((s(4, 6),), {"normalized_shape": 6}),
                              ((s(2, 3, 4),), {"normalized_shape": (3, 4), "weight": s(3, 4), "bias": s(3, 4)})])
def layer_norm(xp, x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(var + eps) over the last axes, of shape `normalized_shape`, times weight, plus bias.

    var is the biased variance. weight and bias have shape `normalized_shape`. Ba et al. 2016, arXiv:1607.06450.
    """
    n = len(normalized_shape) if type(normalized_shape) is tuple else 0
    if not n or weight is None or bias is None or 0 in normalized_shape or not (
            x.shape[-n:] == normalized_shape == weight.shape == bias.shape):
        n = _trailing("layer_norm", x, normalized_shape, ("weight", weight), ("bias", bias))
    if weight is None:
        y = xp._fused_norm(x, n=n, eps=eps)
        return y if bias is None else y + bias
    return xp._fused_norm(x, weight, n=n, eps=eps) if bias is None else xp._fused_norm(x, weight, bias, n=n, eps=eps)


@composite(samples=lambda s: [((s(4, 6),), {"normalized_shape": (6,)}),
                              ((s(2, 6),), {"normalized_shape": 6, "weight": s(6)})])
def rms_norm(xp, x, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x²) + eps) over the last axes, of shape `normalized_shape`, times weight.

    eps defaults to the machine epsilon of x's dtype, as in torch. Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    n = _trailing("rms_norm", x, normalized_shape, ("weight", weight))
    if eps is None:
        eps = 2.0 ** -52 if x.dtype == np.float64 else 2.0 ** -23
    xs = (x,) if weight is None else (x, weight)
    return xp._fused_norm(*xs, n=n, eps=eps, centered=False)


# ------------------------------------------------------------------------------------------------------ batch norm
def _as_blocks(x, axis):
    """x as (outer, channels, inner)."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1:]))


def _sums(np, x):
    """Sum of (outer, channels, inner) for each channel."""
    return np.add.reduce(x[:, :, 0], 0) if x.shape[2] == 1 else np.add.reduce(np.add.reduce(x, 2), 0)


def _dots(np, x, y):
    """Sum of x * y for each channel."""
    if x.shape[2] == 1:
        return np.einsum("nc,nc->c", x[:, :, 0], y[:, :, 0])
    return np.add.reduce(np.vecdot(x, y), 0)


_BLOCKS, _INNER = 1 << 13, 16
"""Elements, and elements side by side of one channel, from which a native kernel of batch norm is worth its calls."""


def _by_kernel(np, name, x, *arguments):
    """A native computation on blocks (outer, channels, inner), or None."""
    if x.size >= _BLOCKS and x.shape[2] >= _INNER:
        return native(np, name, 32 * x.size, *arguments)
    return None


_batch_norms = few.kernels("batch_norm down")


def _few_batch_norms(x, weight, bias, eps):
    """The batch norm of the columns of few numbers by a kernel, or None."""
    dtype = x.dtype
    run = _batch_norms.get(dtype)
    if not run and (run is False or not (run := _batch_norms.wanted(dtype))):
        return None
    (n, channels), eps = x.shape, weak(eps, dtype)
    if type(eps) is not np.ndarray:
        eps = np.array(eps, dtype)
    y, mean, var = np.empty((n, channels), dtype), np.empty(channels, dtype), np.empty(channels, dtype)
    try:
        run(y, mean, var, x, weight, bias, eps, 1, n, channels)
    except ValueError:  # they are not contiguous
        run(y, mean, var, *map(np.ascontiguousarray, (x, weight, bias)), eps, 1, n, channels)
    return y, mean, var


def _batch_norm(np, x, weight, bias, eps, axis):
    if x.size < LARGE and x.ndim == 2 and axis == 1 and x.size and weight is not None and bias is not None and (
            np is numpy and (done := _few_batch_norms(x, weight, bias, eps)) is not None):
        return done
    blocks = _as_blocks(x, axis)
    done = _by_kernel(np, "batch_norm", blocks, blocks, weight, bias, eps)
    if done is not None:
        return done[0].reshape(x.shape), *done[1:]
    count = blocks.shape[0] * blocks.shape[2]
    mean = _sums(np, blocks) / count
    y = np.subtract(blocks, mean[:, None], fresh(np, blocks.shape, x.dtype))
    var = _dots(np, y, y) / count
    scale = 1.0 / np.sqrt(var + eps)
    y *= (scale if weight is None else scale * weight)[:, None]
    if bias is not None:
        y += bias[:, None]
    return y.reshape(x.shape), mean, var


def _along(xp, p, ndim, axis):
    return xp.reshape(p, (1,) * axis + (-1,) + (1,) * (ndim - axis - 1))


def _batch_norm_x(xp, g, x, weight, mean, var, eps, axis):
    gy, gm, gv = g
    if xp is raw:
        return _batch_norm_x_raw(gy, gm, gv, x, weight, mean, var, eps, axis)
    ndim = len(x.shape)
    others = tuple(i for i in range(ndim) if i != axis)
    count = math.prod(x.shape[i] for i in others)
    xc = x - _along(xp, mean, ndim, axis)
    r = 1.0 / xp.sqrt(var + eps)
    wr = r if weight is None else r * weight
    line = (2.0 * gv - wr * r * r * xp.sum(gy * xc, axis=others)) / count
    level = (gm - wr * xp.sum(gy, axis=others)) / count
    return gy * _along(xp, wr, ndim, axis) + xc * _along(xp, line, ndim, axis) + _along(xp, level, ndim, axis)


@in_float32
def _batch_norm_x_raw(gy, gm, gv, x, weight, mean, var, eps, axis):
    """The same, in two arrays."""
    blocks, gs = _as_blocks(x, axis), _as_blocks(gy, axis)
    done = _by_kernel(np, "batch_norm_x", blocks, gs, gm, gv, blocks, weight, mean, var, eps)
    if done is not None:
        return done.reshape(x.shape)
    count = blocks.shape[0] * blocks.shape[2]
    dx = np.subtract(blocks, mean[:, None], fresh(np, blocks.shape, x.dtype))
    r = 1.0 / np.sqrt(var + eps)
    wr = r if weight is None else r * weight
    line = (2.0 * gv - wr * r * r * _dots(np, gs, dx)) / count
    level = (gm - wr * _sums(np, gs)) / count
    dx *= line[:, None]
    dx += level[:, None]
    dx += np.multiply(gs, wr[:, None], fresh(np, gs.shape, gs.dtype))
    return dx.reshape(x.shape)


def _batch_norm_weight(xp, g, x, mean, var, eps, axis):
    gy = g[0]
    r = 1.0 / xp.sqrt(var + eps)
    if xp is raw:
        return _batch_norm_weight_raw(gy, x, mean, r, axis)
    ndim = len(x.shape)
    xc = x - _along(xp, mean, ndim, axis)
    return xp.sum(gy * xc, axis=tuple(i for i in range(ndim) if i != axis)) * r


@in_float32
def _batch_norm_weight_raw(gy, x, mean, r, axis):
    x, g = _as_blocks(x, axis), _as_blocks(gy, axis)
    done = _by_kernel(np, "batch_norm_weight", x, g, x, mean, r)
    return _dots(np, np.subtract(x, mean[:, None], fresh(np, x.shape, x.dtype)), g) * r if done is None else done


def _batch_norm_bias(xp, g, axis):
    gy = g[0]
    return xp.sum(gy, axis=tuple(i for i in range(len(gy.shape)) if i != axis))


def _batch_norm_check(x, weight, bias, eps, axis):
    if type(axis) is not int or not -x.ndim <= axis < x.ndim:
        raise AxisError(f"batch_norm_train(x={_describe(x)}, axis={axis!r}): x has no such axis")
    axis %= x.ndim
    for what, p in (("weight", weight), ("bias", bias)):
        if p is not None and p.shape != (x.shape[axis],):
            raise ShapeError(f"batch_norm(x={_describe(x)}): {what} has shape {p.shape}; it holds one number for "
                             f"each of the {x.shape[axis]} channels (axis {axis})")
    if x.shape[axis] and not x.size:
        raise ShapeError(f"batch_norm(x={_describe(x)}): no mean exists, because there are no elements; use the "
                         "running statistics (training=False)")
    return eps, axis


def _batch_norm_batch(xp, batched, inputs, statics):
    """A batch of batch norms is one with more channels."""
    x, weight, bias = inputs
    eps, axis = statics
    size = next(a.shape[0] for a, b in zip(inputs, batched) if b)
    x = x if batched[0] else xp.broadcast_to(x, (size, *x.shape))
    x = xp.moveaxis(x, 0, axis)
    shape = x.shape
    merged = shape[:axis] + (shape[axis] * shape[axis + 1],) + shape[axis + 2:]
    flat = [None if p is None else xp.reshape(p if b else xp.broadcast_to(p, (size, *p.shape)), (-1,))
            for p, b in zip((weight, bias), batched[1:])]
    y, mean, var = xp.batch_norm_train(xp.reshape(x, merged), *flat, eps=eps, axis=axis)
    return xp.moveaxis(xp.reshape(y, shape), axis, 0), xp.reshape(mean, (size, -1)), xp.reshape(var, (size, -1))


batch_norm_train = Op(
    "batch_norm_train(x, weight, bias; eps=1e-5, axis=1) -> y, mean, var", _batch_norm, to_float=True, takes="f",
    vjp={"x": _batch_norm_x, "weight": _batch_norm_weight, "bias": _batch_norm_bias}, widen=True, error=16.0,
    kind="normalization", check=_batch_norm_check, batch=_batch_norm_batch,
    samples=lambda s: [((s(4, 3), s(3), s(3)), {}), ((s(2, 3, 4), s(3), s(3)), {}),
                       ((s(2, 3, 4), s(4), s(4)), {"axis": -1})],
    doc="x normalised over all axes but `axis` by the batch's own mean and biased variance, which are the second and "
        "third result (shape (channels,)); weight and bias (channels,) or None.")


@composite(samples=lambda s: [((s(4, 3), s(3), s(3, lo=0.5, hi=2)), {"training": True}),
                              ((s(2, 3, 4), s(3), s(3, lo=0.5, hi=2), s(3), s(3)), {})])
def batch_norm(xp, x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1,
               eps=1e-5):
    """Batch normalisation over all axes but axis 1: returns (y, running_mean, running_var), changing nothing in place.

    training=True normalises by the statistics of x and returns the running ones moved by `momentum` towards them
    (with the unbiased variance); training=False normalises by the running ones and returns them as they are.
    Shapes: x (N, C, ...), everything else (C,). Ioffe and Szegedy 2015, arXiv:1502.03167.
    """
    ndim = len(x.shape)
    if ndim < 2:
        raise ShapeError(f"batch_norm(x={_describe(x)}): x has shape (N, C) or (N, C, ...)")
    for what, p in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if p is not None and tuple(p.shape) != (x.shape[1],):
            raise ShapeError(f"batch_norm(x={_describe(x)}): {what} has shape {tuple(p.shape)}; it holds one number "
                             f"for each of the {x.shape[1]} channels (axis 1)")
    if training:
        count = math.prod(x.shape) // x.shape[1] if x.shape[1] else 0
        if count == 1:
            raise ShapeError(f"batch_norm(x={_describe(x)}): one value per channel has no variance to train with; "
                             "use a larger batch, or training=False")
        y, mean, var = xp.batch_norm_train(x, weight, bias, eps=eps)
        if running_mean is not None:
            running_mean = running_mean * (1.0 - momentum) + mean * momentum
        if running_var is not None:
            running_var = running_var * (1.0 - momentum) + var * (momentum * count / (count - 1))
        return y, running_mean, running_var
    if running_mean is None or running_var is None:
        raise ArgumentError("batch_norm: without training=True it needs running_mean and running_var")
    scale = 1.0 / xp.sqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    return x * _along(xp, scale, ndim, 1) + _along(xp, shift, ndim, 1), running_mean, running_var


# ---------------------------------------------------------------------------------------------------------- the others
@composite(samples=lambda s: [((s(2, 6, 3),), {"num_groups": 3}),
                              ((s(2, 4, 2, 2),), {"num_groups": 2, "weight": s(4), "bias": s(4)})])
def group_norm(xp, x, num_groups, weight=None, bias=None, eps=1e-5):
    """Layer norm over each of `num_groups` groups of channels of x (N, C, ...), times weight (C,), plus bias (C,).

    Wu and He 2018, arXiv:1803.08494.
    """
    shape = x.shape
    if len(shape) < 2:
        raise ShapeError(f"group_norm(x={_describe(x)}): x has shape (N, C, ...)")
    if num_groups < 1 or shape[1] % num_groups:
        raise ArgumentError(f"group_norm(x={_describe(x)}, num_groups={num_groups}): the {shape[1]} channels (axis "
                            f"1) do not divide into {num_groups} groups")
    groups = (num_groups, shape[1] // num_groups)
    y = xp._fused_norm(xp.reshape(x, (shape[0], *groups, math.prod(shape[2:]))), n=2, eps=eps)
    for what, p in (("weight", weight), ("bias", bias)):
        if p is not None:
            if tuple(p.shape) != (shape[1],):
                raise ShapeError(f"group_norm: {what} has shape {tuple(p.shape)}; it holds one number for each of the "
                                 f"{shape[1]} channels")
            p = xp.reshape(p, (*groups, 1))
            y = y * p if what == "weight" else y + p
    return xp.reshape(y, shape)


@composite(samples=lambda s: [((s(2, 3, 4),), {}), ((s(2, 3, 4),), {"weight": s(3), "bias": s(3)})])
def instance_norm(xp, x, weight=None, bias=None, eps=1e-5):
    """Normalise each channel of each sample of x (N, C, ...) over the other axes. Ulyanov 2016, arXiv:1607.08022."""
    if len(x.shape) < 3:
        raise ShapeError(f"instance_norm(x={_describe(x)}): x has shape (N, C, ...) with at least one axis to "
                         "normalise")
    return xp.group_norm(x, x.shape[1], weight, bias, eps) if x.shape[1] else x


@composite(samples=lambda s: [((s(2, 5, 3),), {"size": 3}), ((s(2, 4),), {"size": 2, "alpha": 0.1})])
def local_response_norm(xp, x, size, alpha=1e-4, beta=0.75, k=1.0):
    """x / (k + alpha mean(x² over `size` neighbouring channels))^beta for x (N, C, ...). Krizhevsky et al. 2012."""
    if len(x.shape) < 2:
        raise ShapeError(f"local_response_norm(x={_describe(x)}): x has shape (N, C, ...)")
    if not isinstance(size, int) or size < 1:
        raise ArgumentError(f"local_response_norm: size={size!r}; give a whole number of at least 1")
    square = xp.pad(x * x, ((0, 0), (size // 2, (size - 1) // 2)) + ((0, 0),) * (len(x.shape) - 2))
    total = square[:, :x.shape[1]]
    for i in range(1, size):
        total = total + square[:, i:i + x.shape[1]]
    return x / (k + (alpha / size) * total) ** beta


@composite(samples=lambda s: [((s(3, 4),), {}), ((s(3, 4),), {"p": 1.0, "axis": 0}), ((s(3, 4),), {"p": 3.0})])
def normalize(xp, x, p=2.0, axis=1, eps=1e-12):
    """x / max(|x|_p, eps) along `axis`."""
    if p <= 0:
        raise ArgumentError(f"normalize: p={p}; it must be positive")
    half, least = x.dtype == np.float16, 2.0 ** -12
    if p == 2:
        tiny = max(eps * eps, least ** 2 if half else 1e-37)  # a square that the dtype can hold
        return x / xp.sqrt(xp.maximum(xp.sum(x * x, axis=axis, keepdims=True), tiny))
    size = xp.abs(x)
    if p == math.inf:
        norm = xp.max(size, axis=axis, keepdims=True)
    elif p == 1:
        norm = xp.sum(size, axis=axis, keepdims=True)
    else:
        norm = xp.sum(size ** p, axis=axis, keepdims=True) ** (1.0 / p)
    return x / xp.maximum(norm, max(eps, least) if half else eps)
