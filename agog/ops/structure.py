"""How rows are computed in loops, for the compiler: which are made of others, and the loop nests of the rest.

A rule of `NEST` is `nest(b, inputs, node)`: `b` has reduce, gather, assemble, coordinate, point, cast, view, matmul and
scatter_add (see `compiler.lowering.Lowering`), `inputs` have shape and dtype. A rule of `DECOMPOSE` is written in other
rows. Both give None where they do not fit. Only the compiler imports this.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from agog.array import dtypes
from agog.ops import draws
from agog.ops.attention import attention_slopes
from agog.ops.blocks import BLOCK
from agog.ops.elementwise import PRODUCTS, power_by_products
from agog.ops.pooling import windows_scale
from agog.ops.resizing import linear_sources, nearest_sources
from agog.ops.row import TABLE


# ----------------------------------------------------------------------------------------------------- reductions
def _reduction(kind: str) -> Any:
    def nest(b: Any, inputs: Any, node: Any) -> Any:
        x, out = inputs[0], str(node.outputs[0].dtype)
        if kind in ("any", "all"):
            x = b.cast(x, "bool")
        return b.reduce(kind, b.cast(x, out), node.static["axis"], node.static["keepdims"])

    return nest


def _count(shape: tuple, axis: Any) -> int:
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
    return math.prod(shape[a] for a in axes)


def _mean(xp: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    n = _count(x.shape, axis)
    if dtypes.is_half(x.dtype):
        return xp.astype(xp.sum(xp.astype(x, "float32"), axis=axis, keepdims=keepdims) / float(n), x.dtype)
    return xp.sum(x, axis=axis, keepdims=keepdims) / float(n)


def _count_nonzero(xp: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    return xp.sum(xp.astype(x != 0, "int64"), axis=axis, keepdims=keepdims)


def _var(xp: Any, x: Any, axis: Any, correction: float, keepdims: bool) -> Any:
    n = _count(x.shape, axis)
    d = x - xp.sum(x, axis=axis, keepdims=True) / float(n)
    free = n - correction
    return xp.sum(d * d, axis=axis, keepdims=keepdims) / float(free if free > 0 else 0)


def _logsumexp(xp: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if not x.shape or not _count(x.shape, axis):
        return None
    top = xp.max(x, axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)
    s = xp.log(xp.sum(xp.exp(x - top), axis=axis, keepdims=keepdims))
    return s + xp.reshape(top, s.shape)


def _vector_norm(xp: Any, x: Any, ord: float, axis: Any, keepdims: bool) -> Any:
    over = {"axis": axis, "keepdims": keepdims}
    if ord == 2:
        return xp.sqrt(xp.sum(x * x, **over))
    a = xp.abs(x)
    if ord == 1:
        return xp.sum(a, **over)
    if ord == 0:
        return xp.sum(xp.astype(a != 0, a.dtype), **over)
    if not _count(x.shape, axis):
        return None
    if ord == math.inf:
        return xp.max(a, **over)
    if ord == -math.inf:
        return xp.min(a, **over)
    return xp.sum(a**ord, **over) ** (1 / ord)


def _arg(largest: bool) -> Any:
    """The first place of the extreme: the smallest index where x is it (or is nan, if there is one)."""

    def nest(b: Any, inputs: Any, node: Any) -> Any:
        x, axis = inputs[0], node.statics[0]
        shape = node.outputs[0].shape
        if axis is None:
            x, axis = b.reshape(x, (math.prod(x.shape),)), 0
        if not x.size:
            return b.const(0, "int64", shape)
        top = b.broadcast(b.reduce("max" if largest else "min", x, axis, True), x.shape)
        is_it = b.point(
            "_is_extreme",
            lambda k, v, t: (
                k.bitwise_or(k.eq(v, t), k.bitwise_and(k.isnan(v), k.isnan(t)))
                if v.dtype in ("float32", "float64")
                else k.eq(v, t)
            ),
            (x, top),
            x.shape,
            "bool",
        )
        index = "int32" if x.shape[axis] < 1 << 31 else "int64"  # (as many lanes as numbers have)
        place = b.point(
            "where",
            lambda k, c, p, n: k.where(c, p, n),
            (is_it, b.coordinate(x.shape, axis, index), b.const(x.shape[axis], index)),
            x.shape,
            index,
        )
        return b.reshape(b.cast(b.reduce("min", place, axis), "int64"), shape)

    return nest


# ------------------------------------------------------------------------------------ softmax, losses, normalisation
def _softmax(xp: Any, x: Any, axis: int) -> Any:
    if not math.prod(x.shape):
        return None
    y = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return y * (1 / xp.sum(y, axis=axis, keepdims=True))  # the sum is at least 1, or NaN


def _log_softmax(xp: Any, x: Any, axis: int) -> Any:
    if not math.prod(x.shape):
        return None
    y = x - xp.max(x, axis=axis, keepdims=True)
    return y - xp.log(xp.sum(xp.exp(y), axis=axis, keepdims=True))


def _fused_norm(xp: Any, *args: Any) -> Any:
    *xs, n, eps, centered = args
    x = xs[0]
    if not math.prod(x.shape):
        return None
    axes = tuple(range(len(x.shape) - n, len(x.shape)))
    xc = x - xp.mean(x, axis=axes, keepdims=True) if centered else x
    y = xc * (1.0 / xp.sqrt(xp.mean(xc * xc, axis=axes, keepdims=True) + eps))
    y = y * xs[1] if len(xs) > 1 else y
    return y + xs[2] if len(xs) > 2 else y


def _batch_norm(xp: Any, x: Any, weight: Any, bias: Any, eps: float, axis: int) -> Any:
    if not math.prod(x.shape):
        return None
    others = tuple(i for i in range(len(x.shape)) if i != axis)

    def along(p: Any) -> Any:
        return xp.reshape(p, tuple(n if i == axis else 1 for i, n in enumerate(x.shape)))

    mean = xp.mean(x, axis=others)
    xc = x - along(mean)
    var = xp.mean(xc * xc, axis=others)
    scale = 1.0 / xp.sqrt(var + eps)
    y = xc * along(scale if weight is None else scale * weight)
    return (y if bias is None else y + along(bias)), mean, var


def _cross_entropy(xp: Any, x: Any, target: Any, ignore_index: int, reduction: str) -> Any:
    if not math.prod(x.shape):
        return None
    valid = target != ignore_index
    index = xp.where(valid, xp.astype(target, "int64"), 0)
    # An index that is negative counts from the end for take_along_axis, but is an error here.
    index = xp.where(index < 0, x.shape[1], index)
    lse = xp.logsumexp(x, axis=1)
    picked = xp.reshape(xp.take_along_axis(x, xp.expand_dims(index, axis=1), axis=1), target.shape)
    loss = xp.where(valid, lse - picked, 0)
    if reduction == "none":
        return loss, lse
    total = xp.sum(loss)
    if reduction == "mean":
        total = total / xp.sum(xp.astype(valid, x.dtype))
    return total, lse


def _class_index(b: Any, inputs: Any, node: Any) -> Any:
    target, (classes, ignore) = inputs[0], node.statics
    n, skipped = b.const(classes, "int64"), b.const(0 if ignore is None else ignore, "int64")
    t = b.cast(target, "int64")
    valid = (
        b.point("not_equal", lambda k, x, y: k.ne(x, y), (t, skipped), t.shape, "bool")
        if ignore is not None
        else b.const(True, "bool", t.shape)
    )
    right = b.point(
        "_class_in_range",
        lambda k, x, n, v: k.bitwise_or(k.bitwise_and(k.ge(x, 0), k.lt(x, n)), k.bitwise_not(v)),
        (t, n, valid),
        t.shape,
        "bool",
    )
    b.require(right)
    return b.point(
        "where", lambda k, c, x, y: k.where(c, x, y), (valid, t, b.const(0, "int64")), t.shape, "int64"
    ), valid


def _attention(xp: Any, *args: Any) -> Any:
    *xs, is_causal, scale = args
    q, k, v, *mask = xs
    if not math.prod(q.shape) or not math.prod(k.shape) or not math.prod(v.shape):
        return None
    s = xp.matmul(q * scale, xp.matrix_transpose(k))
    if mask:
        s = s + mask[0]
    elif is_causal:
        s = xp.where(xp.expand_dims(xp.arange(q.shape[-2]), axis=1) >= xp.arange(k.shape[-2]), s, -math.inf)
    if not mask and not is_causal:
        return xp.matmul(xp.softmax(s, axis=-1), v)
    top = xp.max(s, axis=-1, keepdims=True)
    p = xp.exp(s - xp.where(top > -math.inf, top, 0.0))
    total = xp.sum(p, axis=-1, keepdims=True)
    return xp.matmul(p / xp.where(total == 0, 1.0, total), v)


_HEADS = 1 << 8  # scores of a head from which code of its own pays
_WIDE, _KEYS = 1024, 8192  # the largest sizes that it is made for


def _whole_heads(q: Any, k: Any, v: Any) -> bool:
    """Sizes of attention without a mask that the compiler has code for."""
    rows, keys = q.shape[-2], k.shape[-2]
    return (
        str(q.dtype) in ("float32", "float64")
        and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        and math.prod(q.shape) > 0
        and rows * keys >= _HEADS
        and keys <= _KEYS
        and 0 < max(q.shape[-1], v.shape[-1]) <= _WIDE
    )


# ------------------------------------------------------------------------------------------- creation, movement
def _filled(value: Any) -> Any:
    def nest(b: Any, inputs: Any, node: Any) -> Any:
        out = node.outputs[0]
        return b.const(value if value is not None else node.static["fill_value"], str(out.dtype), out.shape)

    return nest


def _arange(b: Any, inputs: Any, node: Any) -> Any:
    start, stop, step, dtype = node.statics
    if stop is None:
        start = 0
    out = node.outputs[0]
    if not (type(start) is int and type(step) is int and out.shape[0] * abs(step) + abs(start) < 1 << 24):
        return None
    x = b.coordinate(out.shape, 0)
    x = b.point("multiply", lambda k, a, c: k.mul(a, c), (x, b.const(step, "int64")), out.shape)
    return b.cast(b.point("add", lambda k, a, c: k.add(a, c), (x, b.const(start, "int64")), out.shape), str(out.dtype))


def _triangle(lower: bool) -> Any:
    def nest(b: Any, inputs: Any, node: Any) -> Any:
        x, k0 = inputs[0], node.statics[0]
        r, c = b.coordinate(x.shape, -2), b.coordinate(x.shape, -1)
        # tril keeps c - r <= k, triu c - r >= k
        keep = b.point(
            "_tril" if lower else "_triu",
            (lambda k, r, c, d: k.le(c, k.add(r, d))) if lower else (lambda k, r, c, d: k.ge(c, k.add(r, d))),
            (r, c, b.const(k0, "int64")),
            x.shape,
            "bool",
        )
        return b.point("where", lambda k, c, p, n: k.where(c, p, n), (keep, x, b.const(0, x.dtype)), x.shape, x.dtype)

    return nest


def _eye(b: Any, inputs: Any, node: Any) -> Any:
    out, k0 = node.outputs[0], node.static["k"]
    r, c = b.coordinate(out.shape, 0), b.coordinate(out.shape, 1)
    on = b.point("_diagonal", lambda k, r, c, d: k.eq(c, k.add(r, d)), (r, c, b.const(k0, "int64")), out.shape, "bool")
    return b.cast(on, str(out.dtype))


def _concatenated(b: Any, inputs: Any, node: Any) -> Any:
    out, axis, at, parts = node.outputs[0], node.static["axis"] % node.outputs[0].ndim, 0, []
    for x in inputs:
        n = x.shape[axis]
        key = (slice(None),) * axis + (slice(at, at + n),)
        parts.append((b.cast(x, str(out.dtype)), lambda a, key=key: a[key]))
        at += n
    return b.assemble(out.shape, str(out.dtype), parts)


def _stacked(b: Any, inputs: Any, node: Any) -> Any:
    out = node.outputs[0]
    axis = node.static["axis"] % out.ndim
    return b.assemble(
        out.shape,
        str(out.dtype),
        [
            (b.cast(x, str(out.dtype)), lambda a, key=(slice(None),) * axis + (i, Ellipsis): a[key])
            for i, x in enumerate(inputs)
        ],
    )


def _split(xp: Any, x: Any, points: tuple, axis: int) -> Any:
    head = (slice(None),) * (axis % len(x.shape))
    return tuple([xp._getitem(x, index=(*head, slice(a, b))) for a, b in zip((None, *points), (*points, None))])


def _pad_constant(b: Any, inputs: Any, node: Any) -> Any:
    out, x, widths = node.outputs[0], inputs[0], node.static["widths"]
    if not out.shape:
        return None
    key = tuple(slice(lo, n - hi) for (lo, hi), n in zip(widths, out.shape))
    value = np.asarray(node.static["value"]).astype(out.dtype).item()
    return b.assemble(out.shape, str(out.dtype), [(x, lambda a: a[key])], fill=value)


def _getitem_adjoint(b: Any, inputs: Any, node: Any) -> Any:
    out, index = node.outputs[0], node.static["index"]
    return b.assemble(out.shape, str(out.dtype), [(inputs[0], lambda a: a[_open(index)])], fill=0)


def _getitem_adjoints(xp: Any, *args: Any) -> Any:
    *gs, shape, indices = args
    total = None
    for g, index in zip(gs, indices):
        part = xp._getitem_adjoint(g, shape=shape, index=index)
        total = part if total is None else total + part
    return total


def _setitem(b: Any, inputs: Any, node: Any) -> Any:
    (x, value), out, index = inputs, node.outputs[0], node.static["index"]
    while len(value.shape) and value.shape[0] == 1 and len(value.shape) > _rank(out.shape, index):
        value = b.reshape(value, value.shape[1:])
    return b.assemble(out.shape, str(out.dtype), [(b.cast(value, str(out.dtype)), lambda a: a[_open(index)])], fill=x)


def _open(index: Any) -> tuple:
    """The index with an Ellipsis, so that it always gives an array."""
    index = index if isinstance(index, tuple) else (index,)
    return index if Ellipsis in index else (*index, Ellipsis)


def _rank(shape: tuple, index: tuple) -> int:
    return np.broadcast_to(np.zeros((), bool), shape)[index].ndim


def _roll(b: Any, inputs: Any, node: Any) -> Any:
    x, (shift, axis) = inputs[0], node.statics
    if axis is None:
        flat = b.reshape(x, (math.prod(x.shape),))
        return b.reshape(_roll_one(b, flat, shift, 0), x.shape)
    shifts, axes = (shift, axis) if isinstance(axis, tuple | list) else ((shift,), (axis,))
    for s, a in zip(shifts if isinstance(shifts, tuple | list) else (shifts,) * len(axes), axes):
        x = _roll_one(b, x, s, a % len(x.shape))
    return b.copy(x) if x is inputs[0] else x


def _roll_one(b: Any, x: Any, shift: int, axis: int) -> Any:
    n = x.shape[axis]
    s = shift % n if n else 0
    if not s:
        return x
    head = (slice(None),) * axis
    first, last = (*head, slice(s, None)), (*head, slice(None, s))
    return b.assemble(
        x.shape,
        x.dtype,
        [
            (b.view(x, lambda a: a[(*head, slice(None, n - s))]), lambda a: a[first]),
            (b.view(x, lambda a: a[(*head, slice(n - s, None))]), lambda a: a[last]),
        ],
    )


# ------------------------------------------------------------------------------------------ gathering, scattering
def _take(b: Any, inputs: Any, node: Any) -> Any:
    x, index = inputs
    axis, out = node.statics[0] % len(x.shape), node.outputs[0].shape
    m = len(index.shape)
    spread = b.reshape(index, (*index.shape, *(1,) * (len(x.shape) - axis - 1)))
    where = [a if a < axis else spread if a == axis else a - 1 + m for a in range(len(x.shape))]
    return b.gather(x, where, out)


def _along(b: Any, shape: tuple, index: Any, axis: int, out: tuple) -> list:
    return [index if a == axis else a if shape[a] != 1 else None for a in range(len(shape))]


def _take_along(b: Any, inputs: Any, node: Any) -> Any:
    x, index = inputs
    axis, out = node.statics[0] % len(x.shape), node.outputs[0].shape
    return b.gather(x, _along(b, x.shape, index, axis, out), out)


def _take_along_adjoint(b: Any, inputs: Any, node: Any) -> Any:
    g, index = inputs
    shape, axis = node.static["shape"], node.static["axis"] % len(node.static["shape"])
    return b.scatter_add(g, _along(b, shape, index, axis, g.shape), shape)


def _take_adjoint(b: Any, inputs: Any, node: Any) -> Any:
    g, index = inputs
    shape, axis = node.static["shape"], node.static["axis"] % len(node.static["shape"])
    m = len(index.shape)
    spread = b.reshape(index, (*index.shape, *(1,) * (len(shape) - axis - 1)))
    return b.scatter_add(g, [a if a < axis else spread if a == axis else a - 1 + m for a in range(len(shape))], shape)


def _getitem_array(xp: Any, x: Any, key: Any, template: tuple) -> Any:
    if dtypes.kind(key.dtype) not in "iu" or any(type(k) is int for k in template):
        return None
    named = sum(k is not None and k is not Ellipsis for k in template)
    full = [slice(None)] * (len(x.shape) - named)
    spread: list = []
    for k in template:
        spread += full if k is Ellipsis else [k]
    index = tuple(slice(None) if type(k) is str else k for k in spread)
    return xp.take(xp._getitem(x, index=index), key, axis=next(i for i, k in enumerate(spread) if type(k) is str))


def _one_hot(b: Any, inputs: Any, node: Any) -> Any:
    out, n = node.outputs[0], node.static["classes"]
    index = b.cast(inputs[0], "int64")
    b.require(
        b.point(
            "_is_class",
            lambda k, x, n: k.bitwise_and(k.ge(x, 0), k.lt(x, n)),
            (index, b.const(n, "int64")),
            index.shape,
            "bool",
        )
    )
    on = b.point(
        "equal",
        lambda k, x, y: k.eq(x, y),
        (b.reshape(index, (*index.shape, 1)), b.coordinate(out.shape, -1)),
        out.shape,
        "bool",
    )
    return b.cast(on, str(out.dtype))


def _embedding(xp: Any, indices: Any, weight: Any, padding_idx: Any) -> Any:
    index = xp.where(indices < 0, weight.shape[0], xp.astype(indices, "int64"))  # negative ones are errors here
    return xp.take(weight, index, axis=0)


def _embedding_adjoint(xp: Any, indices: Any, g: Any, rows: int, padding_idx: Any) -> Any:
    if padding_idx is not None:
        g = xp.where(xp.expand_dims(indices == padding_idx, axis=-1), 0, g)
    return xp._take_adjoint(g, indices, shape=(rows, g.shape[-1]), axis=0)


# ------------------------------------------------------------------------------------------------------- pooling
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


# -------------------------------------------------------------------------------------------------- contractions
def _matmul(b: Any, inputs: Any, node: Any) -> Any:
    x, y = inputs
    out = node.outputs[0]
    if dtypes.kind(out.dtype) != "f" or x.dtype != y.dtype:
        return None
    if len(x.shape) == 1:
        x = b.reshape(x, (1, *x.shape))
    if len(y.shape) == 1:
        y = b.reshape(y, (*y.shape, 1))
    lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    shape, dtype = (*lead, x.shape[-2], y.shape[-1]), str(out.dtype)
    if x.shape[-1] == 1:
        z = b.point("multiply", _multiply, (x, y), shape, dtype)
    elif 1 in shape[-2:] and math.prod(shape) * x.shape[-1] <= _FEW_PRODUCTS:
        z = _times_vector(b, x, y, dtype)
    else:
        z = b.matmul(x, y, shape, dtype)
    return b.reshape(z, out.shape)


_FEW_PRODUCTS = 1 << 17
"""Products up to which a matrix times a vector is a loop like any other, into which its neighbours are fused."""


def _times_vector(b: Any, x: Any, y: Any, dtype: str) -> Any:
    """x @ y where x is rows of one, or y columns of one: nothing is used twice."""
    if y.shape[-1] == 1:
        axis, y = -1, b.view(y, lambda a: a.swapaxes(-1, -2))
    else:
        axis, x = -2, b.view(x, lambda a: a.swapaxes(-1, -2))
    return b.reduce("sum", b.point("multiply", _multiply, (x, y), dtype=dtype), axis)


def _multiply(k: Any, x: Any, y: Any) -> Any:
    return k.mul(x, y)


def _linear(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    lead = x.shape[:-1]
    flat = xp.reshape(x, (math.prod(lead), x.shape[-1])) if len(lead) > 1 else x
    y = xp.matmul(flat, xp.permute_dims(weight, (1, 0)))
    y = xp.reshape(y, (*lead, weight.shape[0])) if len(lead) > 1 else y
    return y if bias is None else y + bias  # in the result's shape, so that what follows joins


def _affine(xp: Any, x: Any, w: Any, bias: Any) -> Any:
    lead = x.shape[:-1]
    flat = xp.reshape(x, (math.prod(lead), x.shape[-1])) if len(lead) > 1 else x
    y = xp.matmul(flat, w)
    y = xp.reshape(y, (*lead, w.shape[1])) if len(lead) > 1 else y
    return y if bias is None else y + bias


def _vecdot(xp: Any, x: Any, y: Any, axis: int) -> Any:
    return xp.sum(x * y, axis=axis)


def _astype(b: Any, inputs: Any, node: Any) -> Any:
    return (
        b.copy(inputs[0])
        if inputs[0].dtype == str(node.outputs[0].dtype)
        else b.cast(inputs[0], str(node.outputs[0].dtype))
    )


# ------------------------------------------------------------------------------------------------ random numbers
# The bits are those of `ops.draws`, and so are uniform numbers and masks. Normal and exponential ones go through
# functions that differ from NumPy's by an ulp or two.
def _random_bits(b: Any, inputs: Any, node: Any) -> Any:
    out = node.outputs[0]
    return b.reshape(b.random_words(inputs[0], math.prod(out.shape), str(out.dtype), draws.DRAW), out.shape)


def _random_split(b: Any, inputs: Any, node: Any) -> Any:
    shape = node.outputs[0].shape
    return b.reshape(b.random_words(inputs[0], math.prod(shape), "uint32", draws.SPLIT), shape)


def _random_fold_in(b: Any, inputs: Any, node: Any) -> Any:
    key, data = inputs
    return b.random_words(key, 2, "uint32", draws.FOLD, b.cast(data, "int64"))


def _uniform(k: Any, bits: Any) -> Any:
    """In [0, 1): 24 of 32 bits, or 53 of 64."""
    if bits.dtype == "uint32":
        return k.mul(k.cast(k.cast(k.shift_right(bits, 8), "int32"), "float32"), 2.0**-24)
    return k.mul(k.cast(k.cast(k.shift_right(bits, 11), "int64"), "float64"), 2.0**-53)


def _open_uniform(k: Any, bits: Any) -> Any:
    """In (0, 1], fine near 0."""
    if bits.dtype == "uint32":
        return k.add(k.mul(k.cast(bits, "float32"), 2.0**-32), 2.0**-33)
    return k.mul(k.add(k.cast(k.cast(k.shift_right(bits, 12), "int64"), "float64"), 0.5), 2.0**-52)


def _scan(kind: str) -> Any:
    """What runs along an axis, or along all elements."""

    def nest(b: Any, inputs: Any, node: Any) -> Any:
        (x,), axis, out = inputs, node.statics[0], node.outputs[0]
        if kind == "logcumsumexp" or x.dtype in ("float16", "bfloat16"):  # (places of these remain the same)
            x = b.cast(x, str(out.dtype) if kind == "logcumsumexp" else "float32")
        if axis is None or not x.shape:
            x, axis = b.reshape(x, out.shape or (1,)), 0
        if not x.size:
            return b.const(0, str(out.dtype), out.shape)
        made = b.scan(kind, x, axis)
        return None if made is None else b.reshape(made, out.shape)

    return nest


def _floating(make: Any) -> Any:
    """A row that makes floats: `make(b, key, n, word, dtype)` gives n of them from words of 32 or 64 bits."""

    def nest(b: Any, inputs: Any, node: Any) -> Any:
        out = node.outputs[0]
        word, dtype = ("uint64", "float64") if out.dtype == np.float64 else ("uint32", "float32")
        return b.cast(b.reshape(make(b, inputs[0], math.prod(out.shape), word, dtype), out.shape), str(out.dtype))

    return nest


def _uniforms(b: Any, key: Any, n: int, word: str, dtype: str) -> Any:
    return b.point("_uniform", _uniform, (b.random_words(key, n, word, draws.DRAW),), (n,), dtype)


def _exponentials(b: Any, key: Any, n: int, word: str, dtype: str) -> Any:
    bits = b.random_words(key, n, word, draws.DRAW)
    return b.point("_exponential", lambda k, x: k.neg(k.log(_open_uniform(k, x))), (bits,), (n,), dtype)


def _normals(b: Any, key: Any, n: int, word: str, dtype: str) -> Any:
    """Box and Muller's pairs: of each block of the stream the first half are radii, the second angles."""
    block = BLOCK * (2 if word == "uint32" else 1)
    whole, rest = divmod(n, block)
    half = -(-rest // 2)
    bits = b.random_words(key, whole * block + 2 * half, word, draws.DRAW)
    parts = []

    def pair(radius: Any, angle: Any, first: Any, second: Any, odd: bool) -> None:
        radius, angle = b.view(bits, radius), b.view(bits, angle)
        radius = b.point(
            "_radius", lambda k, x: k.sqrt(k.mul(k.log(_open_uniform(k, x)), -2.0)), (radius,), radius.shape, dtype
        )
        turn = _uniform if word == "uint32" else _open_uniform
        angle = b.point("_angle", lambda k, x: k.mul(turn(k, x), 2 * math.pi), (angle,), angle.shape, dtype)
        for name, place in (("cos", first), ("sin", second)):
            y = b.point(name, TABLE[name].lower, (angle,), angle.shape, dtype)
            y = b.point("multiply", lambda k, u, v: k.mul(u, v), (radius, y), angle.shape, dtype)
            if name == "sin" and odd:
                y = b.view(y, lambda a: a[:-1])
            parts.append((y, place))

    if whole:
        blocks = lambda a: a[: whole * block].reshape(whole, 2, block // 2)
        one, two = (lambda a: blocks(a)[:, 0]), (lambda a: blocks(a)[:, 1])
        pair(one, two, one, two, False)
    if rest:
        start = whole * block
        first = lambda a: a[start : start + half]
        pair(first, lambda a: a[start + half : start + 2 * half], first, lambda a: a[start + half :], rest % 2 == 1)
    return b.assemble((n,), dtype, parts)


def _dropout_mask(b: Any, inputs: Any, node: Any) -> Any:
    out = node.outputs[0]
    limit, scale = draws.kept(node.static["p"], out.dtype)
    bits = b.random_words(inputs[0], math.prod(out.shape), "uint16", draws.DRAW)
    return b.point(
        "_dropped",
        lambda k, x, limit, scale: k.where(k.ge(k.cast(x, "int32"), limit), scale, 0),
        (b.reshape(bits, out.shape), b.const(limit, "int32"), b.const(scale.item(), str(out.dtype))),
        out.shape,
        str(out.dtype),
    )


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


def _pow(xp: Any, x: Any, y: Any) -> Any:
    n = y.item() if isinstance(y, np.ndarray) and y.size == 1 else getattr(y, "number", None)
    if n == 1 or n == -1 and x.dtype.char in "fd":
        return x if n == 1 else xp.reciprocal(x)
    exact = n == 2 and dtypes.kind(x.dtype) in "iuf"
    return power_by_products(xp.multiply, x, n) if n in PRODUCTS and (exact or x.dtype.char in "fd") else None


DECOMPOSE: dict[str, Any] = {
    "pow": _pow,
    "_axis_map": _axis_map,
    "_avg_pool": _averages,
    "_avg_pool_adjoint": _averages_adjoint,
    "mean": _mean,
    "count_nonzero": _count_nonzero,
    "var": _var,
    "std": lambda xp, *args: xp.sqrt(_var(xp, *args)),
    "logsumexp": _logsumexp,
    "vector_norm": _vector_norm,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "_fused_norm": _fused_norm,
    "batch_norm_train": _batch_norm,
    "_cross_entropy_index": _cross_entropy,
    "_attention": _attention,
    "_attention_grad": attention_slopes,
    **{f"_split{n}": _split for n in (2, 3, 4)},
    "embedding": _embedding,
    "_embedding_adjoint": _embedding_adjoint,
    "linear": _linear,
    "affine": _affine,
    "vecdot": _vecdot,
    "_getitem_array": _getitem_array,
    "_getitem_adjoints": _getitem_adjoints,
}

NEST: dict[str, Any] = {
    "astype": _astype,
    **{name: _reduction(name) for name in ("sum", "prod", "max", "min", "any", "all")},
    "argmax": _arg(True),
    "argmin": _arg(False),
    "zeros": _filled(0),
    "ones": _filled(1),
    "_full": _filled(None),
    "empty": _filled(0),
    "arange": _arange,
    "tril": _triangle(True),
    "triu": _triangle(False),
    "eye": _eye,
    "_concatenated": _concatenated,
    "_stacked": _stacked,
    "_pad_constant": _pad_constant,
    "_getitem_adjoint": _getitem_adjoint,
    "_setitem": _setitem,
    "roll": _roll,
    "take": _take,
    "take_along_axis": _take_along,
    "_take_along_axis_adjoint": _take_along_adjoint,
    "_take_adjoint": _take_adjoint,
    "matmul": _matmul,
    "_class_index": _class_index,
    "_one_hot": _one_hot,
    "imag": _filled(0),
    "_max_pool": _max_pool,
    "_max_pool_scatter": _max_scatter,
    "_avg_pool": _native("avg_pool"),
    "_avg_pool_adjoint": _native("avg_spread"),
    "_attention": lambda b, inputs, node: b.attention(inputs, node),
    "_attention_grad": lambda b, inputs, node: b.attention(inputs, node, gradient=True),
    **{name: _native(name) for name in ("conv", "conv_input_grad", "conv_weight_grad")},
    **{name: _scan(name) for name in ("cumsum", "cumprod", "logcumsumexp")},
    "_argcummax": _scan("argcummax"),
    "_argcummin": _scan("argcummin"),
    "random_bits": _random_bits,
    "random_split": _random_split,
    "random_fold_in": _random_fold_in,
    "random_uniform": _floating(_uniforms),
    "random_exponential": _floating(_exponentials),
    "random_normal": _floating(_normals),
    "_dropout_mask": _dropout_mask,
}

#: The rows of `x + y` and `x @ y`: a sum of products is a product of longer matrices.
SUM, PRODUCT = TABLE["add"], TABLE["matmul"]
#: The rows of a convolution and of what is clipped at zero: one kernel does both.
CONVOLUTION, RELU = TABLE["conv"], TABLE["relu"]


INTACT: dict[str, Any] = {
    "_attention": lambda *args: len(args) == 5 and _whole_heads(*args[:3]),
    "_attention_grad": lambda *args: _whole_heads(*args[1:4]),
}


def _state() -> None:
    for name, rule in INTACT.items():
        if name in TABLE:
            TABLE[name].intact = rule
    for name, rule in DECOMPOSE.items():
        if name in TABLE and TABLE[name].decompose is None:
            TABLE[name].decompose = rule
    for name, rule in NEST.items():
        if name in TABLE and TABLE[name].nest is None:
            TABLE[name].nest = rule
    TABLE["_getitem"].view = lambda np, x, index: x[_open(index)]


_state()
