"""Rows added to the rows of a table that integers name: the gradient of an embedding.

    add_rows("float32")(out, indices, g)        out[indices[i]] += g[i], for i = 0, 1, ...

Threads share out columns, so that each element of the result is a sum in the order of the rows of g, whatever their
number: the same bits as NumPy's `add.at`.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["AddRows", "add_rows"]

_VECTORS = 4  # columns that one pass over the rows adds, in vectors
_AWAKE, _WAKE = 1 << 15, 1 << 19  # elements of g from which threads take part that are awake, or are woken
_PARAMETERS = call.OUT + call.IN * 2 + call.INT


class AddRows:
    """The kernel of one dtype."""

    __slots__ = ("native",)

    def __init__(self, native: Callable[..., None]) -> None:
        self.native = native

    def __call__(self, out: np.ndarray, indices: np.ndarray, g: np.ndarray) -> None:
        """Add g (m, d) to out (n, d) at indices (m,) of dtype int64, of which negative ones count from the end.

        All are C-contiguous, and `out` does not overlap g. Raises ValueError, and leaves `out` as it is, where an index
        is outside of [-n, n), or the sizes do not fit.
        """
        pool.refresh()
        self.native(out, indices, g, out.shape[1])


@functools.cache
def add_rows(dtype: str, target: Target | None = None) -> AddRows:
    """The `AddRows` of "float32" or "float64"; compiled at the first call on a machine, then read from disk."""
    target = target or targets.host()
    module = call.with_builtin(jit.Later(f"scatter {dtype}", target, lambda: build(dtype, target)), _PARAMETERS)
    return AddRows(call.bind(module, f"add_rows_{dtype}", _PARAMETERS, imports=pool.imports))


def build(dtype: str, target: Target) -> Module:
    """The module of one dtype."""
    module = Module(target)
    lanes = target.lanes(dtype)
    _chunk(module, dtype, lanes)
    _check(module, dtype)
    _run(module, dtype, lanes)
    return module


def _sizes(k: Kernel, slots: Value, sizes: Value, dtype: str) -> tuple[Value, Value, Value]:
    """Rows of the table, rows to be added, columns; at least one column."""
    columns = k.load(k.at(slots, 3, "int64"), "int64")
    columns = k.where(columns > 0, columns, k.const(1, "int64"))
    row = columns * ITEMSIZE[dtype]
    rows = k.op(f"udiv i64 {k.load(sizes, 'int64').text}, {row.text}", "int64")
    count = k.op(f"lshr i64 {k.load(k.at(sizes, 1, 'int64'), 'int64').text}, 3", "int64")
    return rows, count, columns


def _chunk(module: Module, dtype: str, lanes: int) -> None:
    """`chunk(job, begin, end, thread)`: groups of columns. The job: out, indices, g; rows, count, columns."""
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, "chunk", arguments, lanes=lanes, internal=True)
    job, begin, end, _ = k.arguments
    out, indices, g = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(3))
    rows, count, columns = (k.load(k.at(job, i, "int64"), "int64") for i in range(3, 6))
    zero = k.const(0, "int64")

    def over_rows(first: Value, add: Callable[[Value, Value], None]) -> None:
        """add(place in out, place in g) for all rows, from the column `first` on."""
        def row(i: Value) -> None:
            index = k.load(k.at(indices, i, "int64"), "int64")
            index = k.where(index < 0, index + rows, index)
            # `check` saw them in range; another thread may have written since.
            k.if_((index >= zero) & (index < rows), lambda: add(
                k.at(out, index * columns + first, dtype), k.at(g, i * columns + first, dtype)))

        k.loop(0, count, 1, row)

    def whole(width: int) -> Callable[[Value, Value], None]:
        def add(target: Value, source: Value) -> None:
            for at in range(0, width, lanes):
                place = k.at(target, at, dtype)
                k.store(k.load(place, dtype, lanes) + k.load(k.at(source, at, dtype), dtype, lanes), place)

        return add

    width = _VECTORS * lanes

    def group(number: Value) -> None:
        first = number * width
        left = columns - first

        def narrow(first: Value) -> None:
            last = columns - first
            partial = k.partial(k.where(last < lanes, last, k.const(lanes, "int64")))
            over_rows(first, lambda target, source: partial.store(
                partial.load(target, dtype) + partial.load(source, dtype), target))

        k.if_(left >= width, lambda: over_rows(first, whole(width)),
              lambda: k.loop(first, columns, lanes, narrow) and None)

    k.loop(begin, end, 1, group)
    k.ret()
    k.finish()


def _check(module: Module, dtype: str) -> None:
    """`check(slots, sizes)`: do the sizes fit, are the indices in range?"""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    rows, count, columns = _sizes(k, slots, sizes, dtype)
    given = [k.load(k.at(sizes, i, "int64"), "int64") for i in range(3)]
    row = columns * ITEMSIZE[dtype]
    fits = k.eq(given[0], rows * row) & k.eq(given[1], count * 8) & k.eq(given[2], count * row)
    indices = k.load(k.at(slots, 1, "ptr"), "ptr")

    def step(i: Value, good: Value) -> list[Value]:
        index = k.load(k.at(indices, i, "int64"), "int64")
        return [good & (index < rows) & (index + rows >= 0)]

    (inside,) = k.loop(0, count, 1, step, [k.const(True, "bool")])
    sizes_differ = k.symbol(module.string("add_rows takes out (n, d), indices (m,) of int64 and g (m, d)"))
    outside = k.symbol(module.string("an index is outside of the table"))
    k.ret(k.where(fits, k.where(inside, k.const(0, "ptr"), outside), sizes_differ))
    k.finish()


def _run(module: Module, dtype: str, lanes: int) -> None:
    """`run(slots, sizes)`: all columns, on the pool when that pays."""
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, sizes = k.arguments
    rows, count, columns = _sizes(k, slots, sizes, dtype)
    job = k.alloca(6 * 8)
    for i in range(3):
        k.store(k.load(k.at(slots, i, "ptr"), "ptr"), k.at(job, i, "ptr"))
    for i, value in enumerate((rows, count, columns), 3):
        k.store(value, k.at(job, i, "int64"))
    width = _VECTORS * lanes
    groups = k.op(f"udiv i64 {(columns + (width - 1)).text}, {width}", "int64")
    work, chunk, one = count * columns, k.symbol("@chunk"), k.const(1, "int64")

    def share(symbol: str) -> Callable[[], Any]:
        return lambda: k.call(symbol, None, chunk, job, groups, one)

    k.if_(
        work < _AWAKE,
        lambda: k.call_known("chunk", None, job, k.const(0, "int64"), groups, k.const(0, "int32")),
        lambda: k.if_(work < _WAKE, share(pool.AWAKE), share(pool.SYMBOL)),
    )
    k.ret()
    k.finish()
