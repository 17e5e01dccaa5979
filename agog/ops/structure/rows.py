"""Softmax, losses, normalisation and attention: what is computed row by row."""

from __future__ import annotations

import math
from typing import Any

from agog.ops.attention import attention_slopes


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


DECOMPOSE: dict[str, Any] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "_fused_norm": _fused_norm,
    "batch_norm_train": _batch_norm,
    "_cross_entropy_index": _cross_entropy,
    "_attention": _attention,
    "_attention_grad": attention_slopes,
}

NEST: dict[str, Any] = {
    "_class_index": _class_index,
    "_attention": lambda b, inputs, node: b.attention(inputs, node),
    "_attention_grad": lambda b, inputs, node: b.attention(inputs, node, gradient=True),
}

INTACT: dict[str, Any] = {
    "_attention": lambda *args: len(args) == 5 and _whole_heads(*args[:3]),
    "_attention_grad": lambda *args: _whole_heads(*args[1:4]),
}
