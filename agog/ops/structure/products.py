"""Products: of matrices and vectors, and powers; casts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agog.array import dtypes
from agog.ops.elementwise import PRODUCTS, power_by_products


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


def _pow(xp: Any, x: Any, y: Any) -> Any:
    n = y.item() if isinstance(y, np.ndarray) and y.size == 1 else getattr(y, "number", None)
    if n == 1 or n == -1 and x.dtype.char in "fd":
        return x if n == 1 else xp.reciprocal(x)
    exact = n == 2 and dtypes.kind(x.dtype) in "iuf"
    return power_by_products(xp.multiply, x, n) if n in PRODUCTS and (exact or x.dtype.char in "fd") else None


DECOMPOSE: dict[str, Any] = {
    "pow": _pow,
    "linear": _linear,
    "affine": _affine,
    "vecdot": _vecdot,
}

NEST: dict[str, Any] = {
    "astype": _astype,
    "matmul": _matmul,
}
