"""C-contiguous copies of arrays whose axes lie in another order, for code that takes no strides: `whole(x)`.

NumPy goes through such an array element by element, each from another line of the caches. Here squares of as many rows
as a vector has lanes are loaded, transposed in registers and stored, and threads share out rows of squares.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import transpose
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["turn", "whole"]

_LEAST = 64  # bytes of a row and of a column: fewer make no squares
_GRAIN, _AWAKE, _WAKE = 1 << 14, 1 << 15, 1 << 18  # elements of a task; from which threads take part, or are woken
_PARAMETERS = call.OUT + call.IN + call.INT * 3


def whole(x: np.ndarray) -> np.ndarray:
    """`np.ascontiguousarray(x)`, by the kernel where it has two groups of axes whose places are exchanged."""
    found = _exchanged(x.shape, x.strides, x.itemsize) if x.size else None
    if found is None:
        return np.ascontiguousarray(x)
    order, sizes = found
    out = np.empty(x.shape, x.dtype)
    pool.refresh()
    turn(x.itemsize)(out, x.transpose(order), *sizes)
    return out


@functools.lru_cache(1024)
def _exchanged(shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> Any:
    """(the order of axes in memory, (outer, rows, columns)) of an array that is C-contiguous in that order.

    In it, rows are what comes behind columns in the shape; None for other arrays.
    """
    order = sorted(range(len(shape)), key=lambda a: -strides[a])
    kept = next((i for i, a in enumerate(order) if a != i), len(order))
    middle = next((i for i in range(kept, len(order)) if order[i] == kept), kept)
    turned = [*range(kept), *order[middle:], *order[kept:middle]]
    if size not in (4, 8) or middle == kept or turned != sorted(order):
        return None
    step = size
    for a in reversed(order):
        if shape[a] != 1 and strides[a] != step:
            return None
        step *= shape[a]
    parts = order[:kept], order[kept:middle], order[middle:]
    outer, rows, columns = (math.prod(shape[a] for a in part) for part in parts)
    return (tuple(order), (outer, rows, columns)) if min(rows, columns) * size >= _LEAST else None


@functools.cache
def turn(size: int, target: Target | None = None) -> Callable[..., None]:
    """`turn(size)(out, x, outer, rows, columns)`: out[o, j, i] = x[o, i, j] for elements of so many bytes."""
    target = target or targets.host()
    later = jit.Later(f"turning of {size} bytes", target, lambda: build(size, target))
    return call.bind(call.with_builtin(later, _PARAMETERS), f"turn_{size}", _PARAMETERS, imports=pool.imports)


def build(size: int, target: Target) -> Module:
    """The module for elements of 4 or 8 bytes."""
    module, dtype = Module(target), f"int{8 * size}"
    lanes = target.lanes(dtype)
    numbers = lambda k, slots: [k.load(k.at(slots, 2 + i, "int64"), "int64") for i in range(3)]

    k = Kernel(module, "chunk", [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")],
               lanes=lanes, internal=True)
    slots, begin, end, _ = k.arguments
    out, x = (k.load(k.at(slots, i, "ptr"), "ptr") for i in range(2))
    _, rows, columns = numbers(k, slots)
    bands = _bands(k, rows, lanes)
    fits = k.bitwise_and(columns, -lanes)

    def band(number: Value) -> None:
        """As many rows as there are lanes, or what is left of them."""
        o = k.op(f"udiv i64 {number.text}, {bands.text}", "int64")
        first = (number - o * bands) * lanes
        left = rows - first
        source, place = o * rows * columns, o * rows * columns + first

        def elements(begin: Value, count: Value) -> None:
            def row(i: Value) -> None:
                def element(j: Value) -> None:
                    value = k.load(k.at(x, source + (first + i) * columns + j, dtype), dtype)
                    k.store(value, k.at(out, place + j * rows + i, dtype))

                k.loop(begin, columns, 1, element)

            k.loop(0, count, 1, row)

        def squares() -> None:
            def square(j: Value) -> None:
                values = []
                at = k.at(x, source + first * columns + j, dtype)
                for _ in range(lanes):
                    values.append(k.load(at, dtype, lanes))
                    at = k.at(at, columns, dtype)
                to = k.at(out, place + j * rows, dtype)
                for value in transpose(k, values):
                    k.store(value, to)
                    to = k.at(to, rows, dtype)

            k.loop(0, fits, lanes, square)
            elements(fits, k.const(lanes, "int64"))

        k.if_(left >= lanes, squares, lambda: elements(k.const(0, "int64"), left))

    k.loop(begin, end, 1, band)
    k.ret()
    k.finish()

    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    outer, rows, columns = numbers(k, slots)
    good = (outer > 0) & (rows > 0) & (columns > 0)
    for i in range(2):
        good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), outer * rows * columns * ITEMSIZE[dtype])
    message = module.string("turning takes two arrays of outer * rows * columns elements")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()

    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, _ = k.arguments
    outer, rows, columns = numbers(k, slots)
    tasks, work = outer * _bands(k, rows, lanes), outer * rows * columns
    grain = k.op(f"udiv i64 {_GRAIN}, {(columns * lanes).text}", "int64") + 1
    function = k.symbol("@chunk")
    share: Any = lambda symbol: lambda: k.call(symbol, None, function, slots, tasks, grain)
    k.if_(
        work < _AWAKE,
        lambda: k.call_known("chunk", None, slots, k.const(0, "int64"), tasks, k.const(0, "int32")),
        lambda: k.if_(work < _WAKE, share(pool.AWAKE), share(pool.SYMBOL)),
    )
    k.ret()
    k.finish()
    return module


def _bands(k: Kernel, rows: Value, lanes: int) -> Value:
    return k.op(f"udiv i64 {(rows + (lanes - 1)).text}, {lanes}", "int64")
