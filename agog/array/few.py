"""Kernels for few numbers, entered in as few steps as Python takes.

A call of NumPy's takes half a microsecond however few the numbers are, and a softmax is five of them. A native kernel
of the whole row takes a fifth of one, so the Python around it is what counts: what is here does no more than it must.

The first calls get None, and NumPy does the work; when there were enough of them, the compiler is loaded in the
background, and the kernels come from disk, or are compiled (see `large`).
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable

import numpy as np

from agog.array import large

__all__ = ["BELOW", "MIDDLE", "Kernels", "along", "along_both", "each", "kernels", "over"]

BELOW, MIDDLE = large.MIDDLE, large.THRESHOLD
"""Elements that are no longer few; elements up to which a kernel of rows is entered like this, too."""

_CALL, _CALLS = 1 << 11, 1 << 13
"""Steps (see `large.native`) that one call of NumPy's, or several, take more than a kernel."""

_ndarray, _empty, _whole = np.ndarray, np.empty, np.ascontiguousarray


class Kernels(dict[Any, Any]):
    """The builtins of a kernel by dtype, called with results, inputs and three sizes; False where there is none.

    `name` is the compiler's for it. Of a row program (`rows`), which takes the last axis, `down` are those for others.
    """

    __slots__ = ("down", "name", "rows")

    def __init__(self, name: str, down: Kernels | None = None) -> None:
        super().__init__()
        self.name, self.down, self.rows = name, down, not name.endswith((" fold", " each"))

    def wanted(self, dtype: Any) -> Any:
        """The builtin of a dtype that was not known to be there; None where there is none, or none yet."""
        if ask is None:
            large._count(_CALLS if self.rows else _CALL)
            return None
        found = ask(self.name, dtype)
        if found is not None:
            self[dtype] = found
        return found or None


ask: Callable[[str, Any], Any] | None = None
"""Set by the compiler when it is loaded: `ask(name, dtype)` is a builtin of `kernels(name)`: at once where it lies on
disk, else None until it is compiled; False where there is none."""

def _nothing() -> None:
    """There are no threads."""


refresh: Callable[[], None] = _nothing
"""Set by the compiler: called before a kernel that may ask for threads, which is one for `BELOW` elements or more."""

_known: dict[str, Kernels] = {}


def kernels(name: str, columns: bool = False) -> Kernels:
    """The kernels of a name, those that come later too; with `columns`, their `down` is `<name> down`."""
    found = _known.get(name)
    if found is None:
        found = _known[name] = Kernels(name, kernels(f"{name} down") if columns else None)
    return found


def along(of: Kernels, x: Any, axis: int) -> Any:
    """An array like x of what is computed along an axis; None without a kernel, or elements."""
    run, size = of.get(x.dtype), x.size
    if run is None and size:
        run = of.wanted(x.dtype)
    if not run or not size:
        return None
    if size >= BELOW:
        refresh()
    shape = x.shape
    n = shape[axis]  # an IndexError where there is no such axis
    if axis != -1 and axis != len(shape) - 1:
        return _down(of, shape, axis, x)
    out = _empty(shape, x.dtype)
    try:
        run(out, x, size // n, n, 1)
    except ValueError:  # it is not contiguous
        run(out, _whole(x), size // n, n, 1)
    return out


def along_both(of: Kernels, x: Any, y: Any, axis: int) -> Any:
    """The same for two arrays of one shape; None if they are not."""
    dtype = x.dtype
    run, size = of.get(dtype), x.size
    if run is None and size:
        run = of.wanted(dtype)
    if not run or not size:
        return None
    shape = x.shape
    if y.shape != shape or y.dtype is not dtype:
        return None
    if size >= BELOW:
        refresh()
    if axis != -1 and axis != len(shape) - 1:
        return _down(of, shape, axis, x, y)
    n = shape[-1]
    out = _empty(shape, dtype)
    try:
        run(out, x, y, size // n, n, 1)
    except ValueError:  # they are not contiguous
        run(out, _whole(x), _whole(y), size // n, n, 1)
    return out


def _down(of: Kernels, shape: tuple[int, ...], axis: int, *arrays: Any) -> Any:
    """The same along an axis that is not the last."""
    down, dtype = of.down, arrays[0].dtype
    if down is None:
        return None
    run = down.get(dtype)
    if not run and (run is False or not (run := down.wanted(dtype))):
        return None
    out = _empty(shape, dtype)
    run(out, *[_whole(a) for a in arrays], *_seen(shape, axis))
    return out


@functools.lru_cache(1024)
def _seen(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """The sizes before an axis, along it, and behind it."""
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1:])


def over(of: Kernels, x: Any, axis: Any, keepdims: Any) -> Any:
    """One number for each row of x, or for all of it: what is computed over an axis, or (None) over all.

    None without a kernel, or elements, or where there is no such axis.
    """
    dtype = x.dtype
    run, size = of.get(dtype), x.size
    if run is None and size:
        run = of.wanted(dtype)
    if not run or not size:
        return None
    inner = 1
    if axis is None:
        n, result = size, (1,) * x.ndim if keepdims else ()
    else:
        if type(axis) is tuple and len(axis) == 1:
            axis = axis[0]
        if type(axis) is not int:
            return None
        shape = x.shape
        if axis == -1 or axis == len(shape) - 1:
            n, result = shape[-1], (*shape[:-1], 1) if keepdims else shape[:-1]
        elif of.rows:
            return None
        else:
            n = shape[axis]  # an IndexError where there is no such axis
            inner = _seen(shape, axis)[2]
            result = (*shape[:axis], 1, *shape[axis + 1:]) if keepdims else (*shape[:axis], *shape[axis + 1:])
    out = _empty(result, dtype)
    try:
        run(out, x, size // (n * inner), n, inner)
    except ValueError:  # it is not contiguous
        if not of.rows:
            return None  # NumPy adds in the order of the memory
        run(out, _whole(x), size // (n * inner), n, inner)
    return out


def each(name: str, row: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`row`, which works element by element, by a kernel where there is one: the result lies in memory as its does."""
    of = kernels(f"{name} each")

    def compute(x: Any) -> Any:
        if type(x) is not _ndarray or x.size >= BELOW:
            return row(x)
        dtype = x.dtype
        run = of.get(dtype)
        if not run and (run is False or not (run := of.wanted(dtype))):
            return row(x)
        if x.base is None or x.flags.c_contiguous:
            out = _empty(x.shape, dtype)
            try:
                run(out, x)
                return out
            except ValueError:  # it is in another order
                pass
        out = x.copy("K")
        flat = out.ravel("K")
        run(flat, flat)
        return out

    return compute
