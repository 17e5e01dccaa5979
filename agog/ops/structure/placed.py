"""Arrays that are made, and elements that are put elsewhere: joining, slices, gathering and scattering."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agog.array import dtypes


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


def opened(np: Any, x: Any, index: Any) -> Any:
    """The row `_getitem` of slices, as a view."""
    return x[_open(index)]


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


DECOMPOSE: dict[str, Any] = {
    **{f"_split{n}": _split for n in (2, 3, 4)},
    "embedding": _embedding,
    "_embedding_adjoint": _embedding_adjoint,
    "_getitem_array": _getitem_array,
    "_getitem_adjoints": _getitem_adjoints,
}

NEST: dict[str, Any] = {
    "zeros": _filled(0),
    "ones": _filled(1),
    "_full": _filled(None),
    "empty": _filled(0),
    "imag": _filled(0),
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
    "_one_hot": _one_hot,
}
