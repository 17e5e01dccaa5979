"""Rows of the op table that work along an axis, for eager work on large arrays: how they call row kernels.

Each method takes arrays as the row's own computation has them, and gives its result, or None where there is no kernel
for these arrays, or none yet.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np

from agog.array import large
from agog.array.numbers import weak
from agog.compiler import pool
from agog.compiler.ir import FLOATS
from agog.compiler.reducing import plan, seen
from agog.compiler.rows import sum_blocks
from agog.compiler.targets import HALVES

__all__ = ["Rowwise"]

_F32 = np.dtype(np.float32)
_NORMS, _RMS_NORMS = ("norm0", "norm1", "norm2"), ("rms_norm0", "rms_norm1", "rms_norm2")
_NEAR = 1 << 19  # bytes of some columns' rows up to which they are walked: beyond, whole rows at a time are better
_FORWARD = ("softmax", "log_softmax", "norm", "rms_norm")  # programs that take 16-bit floats too


class Rowwise:
    """`program(name, dtype)` gives the kernel of one of `rowprograms.PROGRAMS`, or None as long as there is none.

    `column(name, dtype)` gives the same program for an axis that is not the last (see `columns`); by default, none.
    """

    def __init__(
        self, program: Callable[[str, str], Any], column: Callable[[str, str], Any] = lambda name, dtype: None
    ) -> None:
        self.program, self.column = program, column

    def table(self) -> dict[str, Callable[..., Any]]:
        """The methods under the names by which `large.native` knows them."""
        return {name: getattr(self, name) for name in (
            "softmax", "log_softmax", "logsumexp", "deviation", "softmax_grad", "log_softmax_grad", "norm", "norm_grad",
            "cross_entropy", "cross_entropy_grad", "batch_norm", "batch_norm_x", "batch_norm_weight")}

    def halves(self) -> dict[str, Callable[..., Any]]:
        """The rows among them that take 16-bit floats, as `large.halves` has them."""
        return {"softmax": self.softmax, "log_softmax": self.log_softmax, "_fused_norm": self.fused_norm}

    def _kernel(self, name: str, x: Any, *others: Any, down: bool = False) -> Any:
        """The kernel of a program for arrays of one dtype; `down` the columns."""
        if type(x) is not np.ndarray or not x.flags.c_contiguous:
            return None
        dtype = x.dtype
        for a in others:
            if type(a) is not np.ndarray or a.dtype is not dtype and a.dtype != dtype or not a.flags.c_contiguous:
                return None
        kind = "float32" if dtype is _F32 else dtype.name  # (the name of a dtype is made each time)
        if kind not in FLOATS and (down or not (kind in HALVES and name.rstrip("012") in _FORWARD)):
            return None
        return (self.column if down else self.program)(name, kind)

    def _map(self, name: str, axis: int, *arrays: Any) -> Any:
        x = arrays[0]
        outer, n, inner = seen(x.shape, axis)
        down = inner > 1
        if down and n * inner * x.itemsize > _NEAR or not x.size:
            return None
        for a in arrays[1:]:
            if a.shape != x.shape:
                return None
        kernel = self._kernel(name, *arrays, down=down)
        if kernel is None:
            return None
        out = large.empty(x.shape, x.dtype, *arrays)
        if down:
            pool.refresh()
            kernel(out, *arrays, outer, n, inner)
        elif n == x.shape[-1]:
            kernel([out], arrays)
        else:
            kernel([out.reshape(outer, n)], [a.reshape(outer, n) for a in arrays])
        return out

    def softmax(self, x: Any, axis: int) -> Any:
        """The row `softmax`."""
        return self._map("softmax", axis, x)

    def log_softmax(self, x: Any, axis: int) -> Any:
        """The row `log_softmax`."""
        return self._map("log_softmax", axis, x)

    def logsumexp(self, x: Any, axis: Any, keepdims: bool) -> Any:
        """The row `logsumexp`."""
        return self._column("logsumexp", x, axis, keepdims)

    def deviation(self, x: Any, axis: Any, keepdims: bool) -> Any:
        """Sums of squared distances to the mean, for the row `var`."""
        return self._column("deviation", x, axis, keepdims)

    def _column(self, name: str, x: Any, axis: Any, keepdims: bool) -> Any:
        """A program that gives a number for each row, or column."""
        made = plan(x.shape, axis if axis is None or type(axis) is int else tuple(axis), bool(keepdims))
        if made is None or made[2]:
            return None
        shape, (outer, n, inner), _ = made
        kernel = self._kernel(name, x, down=inner > 1)
        if kernel is None:
            return None
        out = np.empty(shape, x.dtype)
        if inner > 1:
            pool.refresh()
            kernel(out, x, outer, n, inner)
        else:
            kernel([out], [x.reshape(outer, n)])
        return out

    def softmax_grad(self, g: Any, y: Any, axis: int) -> Any:
        """Softmax's gradient, from its result y."""
        return self._map("softmax_backward", axis, y, g)

    def log_softmax_grad(self, g: Any, y: Any, axis: int) -> Any:
        """The gradient of `log_softmax`, from its result y."""
        return self._map("log_softmax_backward", axis, y, g)

    def norm(self, x: Any, affine: list[Any], eps: float, centered: bool) -> Any:
        """Rows of x (rows, d) normalised, times a weight (d,), plus a bias (d,)."""
        kernel = self._kernel((_NORMS if centered else _RMS_NORMS)[len(affine)], x, *affine)
        if kernel is None:
            return None
        out = large.empty(x.shape, x.dtype, x, *affine)
        dtype = _F32 if x.dtype.itemsize == 2 else x.dtype
        number = weak(eps, dtype)  # (kept, where it is an ordinary one)
        kernel([out], [x, *affine, number if type(number) is np.ndarray else np.array(eps, dtype)])
        return out

    def fused_norm(self, x: Any, *rest: Any) -> Any:
        """The row `_fused_norm`."""
        *affine, n, eps, centered = rest
        size = math.prod(x.shape[x.ndim - n:])
        if not size:
            return None
        done = self.norm(x.reshape(-1, size), [p.reshape(-1) for p in affine], eps, centered)
        return None if done is None else done.reshape(x.shape)

    def norm_grad(self, g: Any, x: Any, affine: list[Any], eps: float, centered: bool) -> Any:
        """The cotangents of x, the weight and the bias."""
        kernel = self._kernel(f"{'' if centered else 'rms_'}norm{len(affine)}_backward", x, g, *affine)
        if kernel is None:
            return None
        out = large.empty(x.shape, x.dtype, g, x, *affine)
        sums = [np.empty((sum_blocks(x.shape[0]), x.shape[1]), x.dtype) for _ in affine]
        kernel([out, *sums], [g, x, *affine[:1], np.array(eps, x.dtype)])
        return [out, *[np.add.reduce(s, 0) for s in sums]]

    def cross_entropy(self, x: Any, index: Any) -> Any:
        """(logsumexp, loss) of each row of logits, for indices that are in range."""
        kernel = self._kernel("cross_entropy", x)
        if kernel is None:
            return None
        loss, lse = np.empty(len(x), x.dtype), np.empty(len(x), x.dtype)
        kernel([loss, lse], [x, np.ascontiguousarray(index)])
        return lse, loss

    def cross_entropy_grad(self, x: Any, lse: Any, index: Any, weight: Any, scale: Any) -> Any:
        """softmax(x) * scale - onehot(index) * weight; both are one number, or one for each row."""
        kernel = self._kernel("cross_entropy_backward", x, lse)
        if kernel is None:
            return None
        out, n = large.empty(x.shape, x.dtype, x), x.shape[0]
        columns = [np.ascontiguousarray(np.broadcast_to(np.asarray(v, x.dtype), n)) for v in (weight, scale)]
        kernel([out], [x, lse, np.ascontiguousarray(index), *columns])
        return out

    def batch_norm(self, x: Any, weight: Any, bias: Any, eps: float) -> Any:
        """(y, mean, variance) of the row `batch_norm_train` for x (outer, channels, inner)."""
        moments, rescaled = self._kernel("moments", x), self._kernel("rescaled", x)
        if moments is None or rescaled is None:
            return None
        outer, channels, inner = x.shape
        rows = x.reshape(-1, inner)
        means, deviations = np.empty((2, outer * channels), x.dtype)
        moments([means, deviations], [rows])
        means, deviations = means.reshape(outer, channels), deviations.reshape(outer, channels)
        mean = np.add.reduce(means, 0) / outer
        apart = means - mean
        var = (np.add.reduce(deviations, 0) + inner * np.add.reduce(apart * apart, 0)) / (outer * inner)
        scale = 1.0 / np.sqrt(var + eps)
        y = large.empty(x.shape, x.dtype, x)
        rescaled([y.reshape(-1, inner)], [rows, *_repeated(
            outer, mean, scale if weight is None else scale * weight, np.zeros_like(mean) if bias is None else bias)])
        return y, mean, var

    def _batch_sums(self, g: Any, x: Any, mean: Any) -> Any:
        """The sums over each channel of g, and of g (x - mean)."""
        kernel = self._kernel("rescaled_sums_backward", g, x) if g.shape == x.shape else None
        if kernel is None:
            return None
        outer, channels, inner = x.shape
        sums = np.empty((2, outer * channels), x.dtype)
        kernel([*sums], [g.reshape(-1, inner), x.reshape(-1, inner), *_repeated(outer, mean)])
        return np.add.reduce(sums.reshape(2, outer, channels), 1)

    def batch_norm_x(self, g: Any, gm: Any, gv: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float) -> Any:
        """The cotangent of x (outer, channels, inner) from those of the result, the mean and the variance."""
        kernel, sums = self._kernel("rescaled_backward", x), self._batch_sums(g, x, mean)
        if kernel is None or sums is None:
            return None
        outer, channels, inner = x.shape
        total, dot = sums
        r = 1.0 / np.sqrt(var + eps)
        scale = r if weight is None else r * weight
        slope = (2.0 * gv - scale * r * r * dot) / (outer * inner)
        level = (gm - scale * total) / (outer * inner)
        dx = large.empty(x.shape, x.dtype, g, x)
        kernel([dx.reshape(-1, inner)],
               [g.reshape(-1, inner), x.reshape(-1, inner), *_repeated(outer, mean, scale, slope, level)])
        return dx

    def batch_norm_weight(self, g: Any, x: Any, mean: Any, r: Any) -> Any:
        """The cotangent of the weight; r is 1 / deviation."""
        sums = self._batch_sums(g, x, mean)
        return None if sums is None else sums[1] * r


def _repeated(outer: int, *columns: Any) -> list[Any]:
    """Numbers for each channel (channels,) as numbers for each row (outer * channels,)."""
    return [np.concatenate([c] * outer) if outer > 1 else np.ascontiguousarray(c) for c in columns]
