"""Attention for eager work: the native code of `attention`, called on arrays as they lie in memory."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from agog.compiler import attention, pool, targets

__all__ = ["Attention"]


class Attention:
    """Softmax(scale q kᵀ) v and its gradients, of arrays (..., L, E), (..., S, E) and (..., S, V) of one dtype.

    Results stand in memory like q: where heads lie within rows there, so do they here.
    """

    def __init__(self, dtype: str) -> None:
        code = attention.code(dtype, targets.host())
        self.code, self.dtype = code, np.dtype(dtype)
        pointers = lambda n: ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n)
        self.run, self.run_back = pointers(5)(code["attention"]), pointers(8)(code["attention_grad"])

    def forward(self, q: Any, k: Any, v: Any, is_causal: bool, scale: float, empty: Any) -> Any:
        """y, or None where there is no code for these sizes."""
        given = _given(q, k, v)
        if given is None:
            return None
        y, out = _result(given[0], v.shape[-1], q.shape[:-1] + v.shape[-1:], empty)
        numbers = _table(self.dtype.name, tuple(a.shape for a in given), tuple(a.strides for a in (y, *given)),
                         bool(is_causal), float(scale), False)
        if numbers is None:
            return None
        pool.refresh()
        self.run(*[a.ctypes.data for a in (y, *given, numbers)])
        return out

    def backward(self, q: Any, k: Any, v: Any, g: Any, is_causal: bool, scale: float, empty: Any) -> Any:
        """[dq, dk, dv], or None."""
        given = _given(q, k, v, g)
        if given is None:
            return None
        *given, slope = given
        results = [_result(given[0], a.shape[-1], a.shape, empty) for a in (q, k, v)]
        arrays = [*[y for y, _ in results], slope, *given]
        numbers = _table(self.dtype.name, tuple(a.shape for a in given), tuple(a.strides for a in arrays),
                         bool(is_causal), float(scale), True)
        if numbers is None:
            return None
        pool.refresh()
        self.run_back(*[a.ctypes.data for a in (*arrays, numbers)])
        return [out for _, out in results]


def _given(*arrays: Any) -> list[np.ndarray] | None:
    """The arrays with four axes, the last contiguous; None where heads have more than two axes or differ."""
    lead, dtype = arrays[0].shape[:-2], arrays[0].dtype
    out = []
    for a in arrays:
        if type(a) is not np.ndarray or a.dtype != dtype or a.shape[:-2] != lead or a.ndim > 4 or not a.size:
            return None
        size = a.itemsize
        if a.strides[-1] != size or any(s % size for s in a.strides):
            a = np.ascontiguousarray(a)
        out.append(a.reshape((1,) * (4 - a.ndim) + a.shape) if a.ndim < 4 else a)
    return out


def _result(like: np.ndarray, columns: int, shape: tuple[int, ...], empty: Any) -> tuple[np.ndarray, np.ndarray]:
    """An array for a result of `shape`, with four axes and in that shape."""
    rows = shape[-2]
    outer, inner = like.shape[:2]
    if len(shape) == 4 and like.strides[1] < like.strides[2]:
        y = empty((outer, rows, inner, columns), like.dtype).transpose(0, 2, 1, 3)
        return y, y
    out = empty(shape, like.dtype)
    return out.reshape(outer, inner, rows, columns), out


@functools.lru_cache(maxsize=256)
def _table(dtype: str, shapes: Any, strides: Any, causal: bool, scale: float, gradient: bool) -> np.ndarray | None:
    size = np.dtype(dtype).itemsize
    layouts = [attention.Layout(0, *[n // size for n in s[:3]]) for s in strides]
    return attention.table(dtype, targets.host(), shapes, layouts, causal, scale, gradient)
