"""Elementwise rows of arrays of one shape and numbers, for eager work: kernels with one pass over memory.

Each function takes arrays as the row's own computation has them, and gives its result, or None where there is no
kernel for these arguments, or none yet.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np

from agog.array import large
from agog.compiler.elementwise import ElementwiseKernel, compile_elementwise
from agog.compiler.stretched import StretchedKernel, arranged, compile_stretched
from agog.compiler.targets import HALVES, ITEMSIZE
from agog.compiler.totals import TotalKernel, compile_total
from agog.ops.row import TABLE

__all__ = ["Mixed", "compile_cast", "compile_mixed", "compile_row", "compile_terms"]

_DTYPES = {"float32", "float64", "float16", "bfloat16", "int32", "int64", "bool"}
_CASTS = {"float32", "float64", "int32", "int64", "bool"}
_bool = np.dtype(np.bool_)


def compile_mixed(name: str, dtype: np.dtype, kinds: str) -> ElementwiseKernel:
    """The kernel of a row. kinds: a letter for each input, of an array, a number, a bool (array) or nothing."""
    if dtype.name not in _DTYPES:
        raise TypeError
    lower: Any = TABLE[name].lower

    def row(k: Any, *values: Any) -> Any:
        given = iter(values)
        return lower(k, *[None if kind == "-" else next(given) for kind in kinds])

    there = kinds.replace("-", "")
    dtypes = ["bool" if kind == "b" else dtype.name for kind in there]
    return compile_elementwise(name, row, dtypes, [dtype.name], ["scalar" if k == "n" else "contiguous" for k in there])


def compile_row(name: str, dtypes: tuple[str, ...], along: tuple[bool, ...], strided: bool) -> StretchedKernel:
    """The kernel of a row whose result has the last of the dtypes."""
    if dtypes[-1] not in _DTYPES:
        raise TypeError
    lower: Any = TABLE[name].lower
    return compile_stretched(name, lower, dtypes, dtypes[-1], along, strided=strided)


def compile_copy(size: int, along: tuple[bool, ...]) -> StretchedKernel:
    """The kernel that copies elements of so many bytes from a slice, or into one."""
    dtype = f"int{8 * size}"
    if dtype not in ITEMSIZE:
        raise TypeError
    return compile_stretched("copy", lambda k, x: x, [dtype], dtype, along, strided=True)


def compile_cast(given: np.dtype, wanted: np.dtype) -> ElementwiseKernel:
    """The kernel that makes arrays of one dtype those of another, as NumPy does."""
    names = {given.name, wanted.name}
    if not (names <= _CASTS or names <= ITEMSIZE.keys() and not names.isdisjoint(HALVES)):
        raise TypeError
    return compile_elementwise("astype", lambda k, x: k.cast(x, wanted.name), [given.name], [wanted.name])


def compile_terms(name: str, dtype: np.dtype, kinds: str) -> TotalKernel:
    """The kernel of the sum of a row of arrays ("a") and numbers ("n")."""
    lower: Any = TABLE[name].lower
    return compile_total(name, lower, dtype.name, ["scalar" if kind == "n" else "contiguous" for kind in kinds])


class Mixed:
    """`ready(make, *key)` gives what `make(*key)` makes, or None as long as that is not made."""

    def __init__(self, ready: Callable[..., Any]) -> None:
        self.ready = ready

    def table(self) -> dict[str, Callable[..., Any]]:
        """The functions under the names by which `large.native` knows them."""
        rows = {op.name: self.beside_numbers(op.name) for op in TABLE.values() if hasattr(op.impl, "mixed")}
        own = (self.where, self.clip, self.astype, self.copy, self.total)
        return rows | {f.__name__: f for f in own}

    def _run(self, name: str, shape: tuple[int, ...], dtype: Any, values: tuple[Any, ...], kinds: str = "") -> Any:
        """The row of C-contiguous arrays of one shape and numbers, which are of `dtype`. kinds: those of the first."""
        given = list(values[:len(kinds)])
        for v in values[len(kinds):]:
            if type(v) is np.ndarray:
                if v.dtype is not dtype and v.dtype != dtype or v.ndim and v.shape != shape:
                    return None
                kinds += "a" if v.ndim else "n"
                given.append(v)
            elif v is None:
                kinds += "-"
            elif type(v) in (int, float):  # only a Python number is weak
                kinds += "n"
                given.append(np.array(v, dtype))
            else:
                return None
        kernel = self.ready(compile_mixed, name, dtype, kinds)
        if kernel is None:
            return None
        out = large.empty(shape, dtype, *given)
        try:
            kernel.run(out, *given)
        except ValueError:  # they do not lie as the kernel wants them
            return None
        return out

    def beside_numbers(self, name: str) -> Callable[..., Any]:
        """A row whose first array says the shape and the dtype."""
        return lambda x, *others: self._run(name, x.shape, x.dtype, (x, *others))

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """The row `where` of arrays of one dtype and numbers."""
        whole = x if type(x) is np.ndarray and x.ndim else y
        if type(whole) is not np.ndarray or condition.dtype is not _bool:
            return None
        arrays = [v for v in (condition, x, y) if type(v) is np.ndarray and v.ndim]
        if all(v.shape == whole.shape and v.flags.c_contiguous for v in arrays):
            return self._run("where", whole.shape, whole.dtype, (condition, x, y), "b")
        return self._stretched("where", whole.dtype, [condition], (x, y))

    def _stretched(self, name: str, dtype: Any, arrays: list[Any], values: tuple[Any, ...]) -> Any:
        """The row of bool arrays, and arrays and numbers of `dtype`, which are stretched or slices."""
        dtypes = tuple(["bool"] * len(arrays) + [dtype.name] * len(values))
        for v in values:
            if type(v) in (int, float):
                v = np.array(v, dtype)
            elif type(v) is not np.ndarray or v.dtype != dtype:
                return None
            arrays.append(v)
        shape = large.broadcast_shapes(*[v.shape for v in arrays])
        found = arranged(shape, arrays) if math.prod(shape) >= large.THRESHOLD else None
        if found is None:
            return None
        strided, along, numbers = found
        kernel = self.ready(compile_row, name, dtypes, along, strided)
        if kernel is None:
            return None
        out = large.empty(shape, dtype, *arrays)
        kernel.run(out, *arrays, *numbers)
        return out

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        """The row `clip` of arrays of one shape and numbers."""
        return None if low is None and high is None else self._run("clip", x.shape, x.dtype, (x, low, high))

    def total(self, name: str, mean: bool, values: Any) -> Any:
        """The sum or mean of what an elementwise row gives for float arrays of one shape and dtype, and numbers."""
        kinds = "".join(["a" if v.ndim else "n" for v in values])
        first = values[kinds.index("a")]
        kernel = self.ready(compile_terms, name, first.dtype, kinds)
        if kernel is None:
            return None
        try:
            return kernel(first.size if mean else 1, *values)
        except ValueError:  # they do not lie as the kernel wants them
            return None

    def astype(self, x: Any, dtype: Any) -> Any:
        """An array in another dtype."""
        if type(x) is not np.ndarray or not x.flags.c_contiguous:
            return None
        kernel = self.ready(compile_cast, x.dtype, dtype)
        if kernel is None:
            return None
        large.ready["astype", x.dtype, dtype] = kernel.run, dtype
        out = large.empty(x.shape, dtype, x)
        kernel.run(out, x)
        return out

    def copy(self, out: Any, x: Any) -> Any:
        """`out`, into which `x` is copied, of the same shape and dtype. Either may be a slice."""
        found = arranged(out.shape, (x,), out)
        if found is None:
            return None
        strided, along, numbers = found
        if strided:
            kernel = self.ready(compile_copy, x.itemsize, along)
        else:
            kernel = self.ready(compile_cast, x.dtype, x.dtype)
        if kernel is None:
            return None
        kernel.run(out, x, *numbers) if strided else kernel.run(out, x)
        return out
