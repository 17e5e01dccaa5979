"""Reductions and running sums."""

from __future__ import annotations

import math
from typing import Any

from agog.array import dtypes


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


DECOMPOSE: dict[str, Any] = {
    "mean": _mean,
    "count_nonzero": _count_nonzero,
    "var": _var,
    "std": lambda xp, *args: xp.sqrt(_var(xp, *args)),
    "logsumexp": _logsumexp,
    "vector_norm": _vector_norm,
}

NEST: dict[str, Any] = {
    **{name: _reduction(name) for name in ("sum", "prod", "max", "min", "any", "all")},
    "argmax": _arg(True),
    "argmin": _arg(False),
    **{name: _scan(name) for name in ("cumsum", "cumprod", "logcumsumexp")},
    "_argcummax": _scan("argcummax"),
    "_argcummin": _scan("argcummin"),
}
