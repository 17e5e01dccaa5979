"""Random numbers.

The bits are those of `ops.draws`, and so are uniform numbers and masks. Normal and exponential ones go through
functions that differ from NumPy's by an ulp or two.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agog.ops import draws
from agog.ops.blocks import BLOCK
from agog.ops.row import TABLE


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


DECOMPOSE: dict[str, Any] = {}

NEST: dict[str, Any] = {
    "random_bits": _random_bits,
    "random_split": _random_split,
    "random_fold_in": _random_fold_in,
    "random_uniform": _floating(_uniforms),
    "random_exponential": _floating(_exponentials),
    "random_normal": _floating(_normals),
    "_dropout_mask": _dropout_mask,
}
