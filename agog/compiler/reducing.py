"""Reductions and scans of eager code by the kernels of `folds` and `scans`: how axes become (outer, n, inner)."""

from __future__ import annotations

import functools
import math
from typing import Any, Callable

import numpy as np

from agog.array import large
from agog.array.large import order_in_memory
from agog.compiler import pool, scans
from agog.compiler.folds import KINDS, out_dtype
from agog.compiler.targets import HALVES, ITEMSIZE

__all__ = ["Reductions", "Scans", "plan", "seen"]

_empty = np.empty
_ALONE = 1 << 15  # elements of 8 bytes up to which no kernel asks for threads
_PERMUTED = 1 << 13  # elements from which it pays to put axes into the order in which they lie
_STEPS = ("sum", "prod", "max", "min", "any", "all")
"""Kinds of which axes that are apart can be reduced one after another."""


class Reductions:
    """`kernel(kind, dtype)` gives one of `folds`, or None as long as there is none."""

    def __init__(self, kernel: Callable[[str, str], Any]) -> None:
        self.kernel = kernel
        self.ready: dict[tuple[str, Any], tuple[Any, Any] | None] = {}

    def reduce(self, kind: str, x: Any, axis: Any, keepdims: Any) -> Any:
        """The reduction of an array over `axis`, as `large.reduced` has it."""
        if axis is not None and type(axis) is not int:
            if type(axis) is not tuple:
                return None
            for a in axis:
                if type(a) is not int:
                    return None
        found = self.ready.get((kind, x.dtype)) or self._wanted(kind, x.dtype)
        if not found:
            return None
        made = plan(x.shape, axis, keepdims)
        if made is None or not x.flags.c_contiguous:
            return None if made is None else self._as_it_lies(kind, x, axis, keepdims)
        shape, first, more = made
        run, dtype = found
        if x.size >= _ALONE:
            pool.refresh()
        if more:
            return self._further(kind, x, made, found)
        out = _empty(shape, dtype)
        run(out, x, *first)
        return out

    def _as_it_lies(self, kind: str, x: Any, axis: Any, keepdims: Any) -> Any:
        """The reduction of an array whose axes lie in another order than theirs, as those of a transpose; else None."""
        found = order_in_memory(x) if x.size >= _PERMUTED else None
        if found is None:
            return None
        order, back = found
        axes = range(x.ndim) if axis is None else (axis,) if type(axis) is int else axis
        over = tuple([a % x.ndim for a in axes])
        y = self.reduce(kind, x.transpose(order), tuple([order.index(a) for a in over]), True)
        if y is None:
            return None
        y = y.transpose(back)
        return y if keepdims else y.squeeze(over)

    def _wanted(self, kind: str, dtype: Any) -> Any:
        """A kernel, when it is ready, and the dtype of its results."""
        if (kind, dtype) in self.ready:
            return None
        name = dtype.name
        takes = KINDS[kind]
        if name not in ITEMSIZE or ("f" if name in HALVES else dtype.kind.replace("u", "i")) not in takes:
            self.ready[kind, dtype] = None
            return None
        run = self.kernel(kind, name)
        if run is None:
            return None
        result = out_dtype(kind, name)
        found = self.ready[kind, dtype] = run, dtype if result == name else np.dtype(result)
        return found

    def _further(self, kind: str, x: Any, made: Any, found: Any) -> Any:
        """A reduction over axes that are apart: over the last of them, then over those before."""
        shape, first, more = made
        run, dtype = found
        if kind not in _STEPS or dtype.itemsize == 2 and kind in ("sum", "prod"):  # (16 bits are rounded once)
            return None
        after = self.ready.get((kind, dtype)) or self._wanted(kind, dtype)
        if not after:
            return None
        for step in (first, *more):
            outer, n, inner = step
            y = np.empty(outer * inner, dtype)
            run(y, x, outer, n, inner)
            x, (run, dtype) = y, after
        return x.reshape(shape)


seen = functools.lru_cache(4096)(scans.seen)


@functools.lru_cache(4096)
def plan(shape: tuple[int, ...], axis: Any, keepdims: Any) -> Any:
    """(shape of the result, (outer, n, inner), the same of further steps) of a reduction over `axis`: an int, a tuple
    of ints, or None for all. None where there is nothing to reduce, or no such axis.
    """
    rank = len(shape)
    axes = range(rank) if axis is None else (axis,) if type(axis) is int else axis
    over = {a % rank for a in axes if -rank <= a < rank} if rank else set()
    if len(over) != len(axes) or 0 in shape:
        return None
    result = [1 if a in over else n for a, n in enumerate(shape) if keepdims or a not in over]
    groups: list[list[int]] = []  # sizes of neighbours that are reduced (1) or not (0)
    for a, n in enumerate(shape):
        if n > 1:
            if groups and groups[-1][0] == (a in over):
                groups[-1][1] *= n
            else:
                groups.append([a in over, n])
    steps = []
    while any(reduced for reduced, _ in groups):
        last = max(i for i, (reduced, _) in enumerate(groups) if reduced)
        outer, inner = (math.prod(n for _, n in part) for part in (groups[:last], groups[last + 1:]))
        steps.append((outer, groups[last][1], inner))
        del groups[last]
        if 0 < last < len(groups):
            groups[last - 1][1] *= groups.pop(last)[1]
    return (tuple(result), steps[0], tuple(steps[1:])) if steps else None


class Scans:
    """`kernel(dtype)` gives the object of `scans` of a dtype, or None as long as there is none."""

    def __init__(self, kernel: Callable[[str], Any]) -> None:
        self.kernel = kernel
        self.ready: dict[tuple[str, Any], tuple[Any, Any] | None] = {}

    def table(self) -> dict[str, Callable[..., Any]]:
        """Functions of (x, axis) under the names by which `large.native` knows them."""
        return {kind: functools.partial(self.run, kind, number) for number, kind in enumerate(scans.KINDS)}

    def run(self, kind: str, number: int, x: Any, axis: int) -> Any:
        """A running sum, product, ... of x along an axis."""
        if type(x) is not np.ndarray:
            return None
        found = self.ready.get((kind, x.dtype)) or self._wanted(kind, x.dtype)
        if not found or not x.ndim or not x.flags.c_contiguous:
            return None
        kernel, dtype = found
        pool.refresh()
        out = large.empty(x.shape, dtype, x)
        kernel(out, x, *seen(x.shape, axis), number)
        return out

    def _wanted(self, kind: str, dtype: Any) -> Any:
        """A kernel, when it is ready, and the dtype of its results."""
        if (kind, dtype) in self.ready:
            return None
        if not scans.takes(kind, dtype.name):
            self.ready[kind, dtype] = None
            return None
        kernel = self.kernel(dtype.name)
        if kernel is None:
            return None
        result = scans.out_dtype(kind, dtype.name)
        found = self.ready[kind, dtype] = kernel, dtype if result == dtype.name else np.dtype(result)
        return found
