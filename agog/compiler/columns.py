"""The row programs of `rows`, down the columns of (outer, n, inner): softmax over an axis that is not the last.

A program is the same function. Lanes are columns: what a reduction gives is a vector, with a number for each of them,
and a pass walks down the rows of some columns, which stay in the caches until the next.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel, Partial
from agog.compiler.rowprograms import DOWN, PROGRAMS
from agog.compiler.rows import Array, Row, _identity
from agog.compiler.targets import ITEMSIZE, Target
from agog.errors import ArgumentError

__all__ = ["compile_column_program"]

_UNROLL = ((24, 4), (60, 2))  # up to this cost, so many rows in a pass's loop
_BLOCK = 64  # turns of the loop whose sums are added up in the array's precision
_CHUNK = 1 << 19  # cost times elements in a chunk
_AWAKE, _WOKEN = 1 << 18, 1 << 21  # the same from which threads take part that are awake, or are woken


class _Place:
    """A vector's place: a row of some columns."""

    def __init__(self, column: _Column, index: Value) -> None:
        self._column, self._index = column, index

    def __getitem__(self, array: Array) -> Value:
        k, partial = self._column.k, self._column.partial
        address = k.at(array.base, self._index, array.dtype)
        return partial.load(address, array.dtype) if partial else k.load(address, array.dtype, k.lanes)

    def soon(self, *arrays: Array) -> _Place:
        """This place: columns are walked in lines of their own."""
        return self

    def put(self, array: Array, value: Value) -> Value:
        """Store a vector of the array's dtype, and return it."""
        k, partial = self._column.k, self._column.partial
        value, address = k.splat(value), k.at(array.base, self._index, array.dtype)
        if partial:
            partial.store(value, address)
        else:
            k.store(value, address)
        return value

    write = put


class _Column(Row):
    """What a program is written with, for as many columns as there are lanes: see `rows.Row`."""

    def __init__(
        self, k: Kernel, offset: Value, length: Value, stride: Value, unroll: int | None, partial: Partial | None
    ) -> None:
        super().__init__(k, offset, length, unroll)
        self.stride, self.partial = stride, partial

    def result(self, out: Array, value: Value) -> None:
        """Set these columns' elements of an output without rows."""
        k = self.k
        value, address = k.splat(value), k.at(out.base, self._number, out.dtype)
        if self.partial:
            self.partial.store(value, address)
        else:
            k.store(value, address)

    def reduce(self, kinds: Sequence[str], body: Callable[[Any], Any]) -> list[Value]:
        """Several reductions in one pass, as `Row.reduce` has them; what they give are vectors."""
        k, lanes = self.k, self.k.lanes
        dtypes = self._dtypes(kinds, body)
        unroll = (
            next((u for cost, u in _UNROLL if self._pass_cost <= cost), 1) if self._unroll is None else self._unroll
        )
        fresh = [k.const(_identity(kind, d), d, lanes) for kind, d in zip(kinds, dtypes, strict=True)]
        wide = [k.cast(v, "float64") if kind == "sum" else v for kind, v in zip(kinds, fresh, strict=True)]

        def values(i: Value, count: int) -> list[Any]:
            return [body(_Place(self, (i + u if u else i) * self.stride)) for u in range(count)]

        def rows(count: int) -> Callable[..., list[Value]]:
            def turn(i: Value, *carried: Value) -> list[Value]:
                found, at = values(i, count), iter(carried)
                # The value first: in this order a maximum looks for NaN in the value, not in what it waits for.
                return [self._combine(kind, k.splat(v[j]), next(at)) for j, kind in enumerate(kinds) for v in found]

            return turn

        def fold(totals: Sequence[Value], accumulators: Sequence[Value], count: int) -> list[Value]:
            result = []
            for j, (kind, total) in enumerate(zip(kinds, totals, strict=True)):
                parts = list(accumulators[j * count : (j + 1) * count])
                while len(parts) > 1:
                    parts = [self._combine(kind, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
                result.append(self._combine(kind, k.cast(parts[0], total.dtype), total))
            return result

        whole = k.bitwise_and(self.length, -unroll)
        if not kinds:
            k.loop(0, whole, unroll, lambda i: values(i, unroll) and None)
            k.loop(whole, self.length, 1, lambda i: values(i, 1) and None)
            return []

        def block(start: Value, *totals: Value) -> list[Value]:
            stop = start + unroll * _BLOCK
            stop = k.where(stop < whole, stop, whole)
            begun = [v for v in fresh for _ in range(unroll)]
            return fold(totals, k.loop(start, stop, unroll, rows(unroll), begun), unroll)

        totals = k.loop(0, whole, unroll * _BLOCK, block, wide)
        totals = fold(totals, k.loop(whole, self.length, 1, rows(1), fresh), 1)
        return [k.cast(total, dtype) for total, dtype in zip(totals, dtypes, strict=True)]


def compile_column_program(name: str, dtype: str, target: Target | None = None) -> Callable[..., None]:
    """One of `rowprograms.PROGRAMS` that has no vectors, no indices and no sums over rows; or one of `DOWN`.

    Returns a builtin `(*outs, *ins, outer, n, inner)`: arrays of kind "row" have outer * n * inner elements, those of
    kind "column" outer * inner, one of kind "scalar" one. No output may overlap an input. `dtype` is "float32" or
    "float64".
    """
    if name in DOWN:
        fn, outs, ins = DOWN[name]
    else:
        fn, outs, ins = PROGRAMS[name]
        if not {*outs, *ins} <= {"row", "column"} or "column" in ins:
            raise ArgumentError(f"the program {name} does not go down columns")
    target, kinds = target or targets.host(), [*outs, *ins]

    def write() -> Module:
        module = Module(target)
        cost = _chunk(module, fn, kinds, len(outs), dtype)
        _check(module, kinds, dtype)
        _run(module, len(kinds), cost, target.lanes(dtype))
        return module

    parameters = call.OUT * len(outs) + call.IN * len(ins) + call.INT * 3
    later = jit.Later(f"column program {name} {dtype}", target, write)
    return call.bind(later, name, parameters, imports=pool.imports)


def _chunk(module: Module, fn: Callable[..., None], kinds: Sequence[str], outs: int, dtype: str) -> int:
    """`chunk(slots, begin, end, thread)`: some units, which are as many columns as a vector has lanes. Its cost."""
    arguments = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, "chunk", arguments, lanes=module.target.lanes(dtype), internal=True)
    slots, begin, end, _ = k.arguments
    addresses = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(len(kinds))]
    n, inner = (k.load(k.at(slots, len(kinds) + i, "int64"), "int64") for i in (1, 2))
    units = k.op(f"udiv i64 {(inner + k.lanes - 1).text}, {k.lanes}", "int64")
    rest = k.bitwise_and(inner, k.lanes - 1)
    partial = k.partial(rest)
    costs = []

    def unit(number: Value) -> None:
        o = k.op(f"udiv i64 {number.text}, {units.text}", "int64")
        column = (number - o * units) * k.lanes
        start = o * n * inner + column

        def program(part: Partial | None) -> Callable[[], None]:
            def written() -> None:
                place = o * inner + column
                row = _Column(k, place, n, inner, None, part)

                def given(i: int, kind: str, base: Value) -> Any:
                    if kind == "row":
                        return Array(k.at(base, start, dtype), dtype)
                    if i < outs:
                        return Array(base, dtype)
                    if kind == "scalar":
                        return k.load(base, dtype)
                    at = k.at(base, place, dtype)
                    return part.load(at, dtype) if part else k.load(at, dtype, k.lanes)

                fn(row, *[given(i, kind, a) for i, (kind, a) in enumerate(zip(kinds, addresses, strict=True))])
                costs.append(row.cost)
            return written

        k.if_(column + k.lanes <= inner, program(None), program(partial))

    k.loop(begin, end, 1, unit)
    k.ret()
    k.finish()
    return max(1, *costs)


def _check(module: Module, kinds: Sequence[str], dtype: str) -> None:
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    outer, n, inner = (k.load(k.at(slots, len(kinds) + i, "int64"), "int64") for i in range(3))
    good = (outer >= 0) & (n >= 0) & (inner > 0)
    for i, kind in enumerate(kinds):
        count = k.const(1, "int64") if kind == "scalar" else outer * inner * (n if kind == "row" else 1)
        good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), count * ITEMSIZE[dtype])
    message = module.string(f"the arrays do not fit this kernel, which takes: {', '.join(kinds)} of {dtype}")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _run(module: Module, arrays: int, cost: int, lanes: int) -> None:
    """`run(slots, sizes)`: all of it, on the pool when that pays."""
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, _ = k.arguments
    outer, n, inner = (k.load(k.at(slots, arrays + i, "int64"), "int64") for i in range(3))
    units = outer * k.op(f"udiv i64 {(inner + lanes - 1).text}, {lanes}", "int64")
    work = (n + 4) * lanes * cost
    chunk = k.symbol("@chunk")

    def share(symbol: str, size: int) -> Callable[[], None]:
        def shared() -> None:
            k.call(symbol, None, chunk, slots, units, k.op(f"sdiv i64 {size}, {work.text}", "int64") + 1)

        return shared

    def alone() -> None:
        k.call_known("chunk", None, slots, k.const(0, "int64"), units, k.const(0, "int32"))

    awake, woken = share(pool.AWAKE, _CHUNK // 8), share(pool.SYMBOL, _CHUNK)
    k.if_(work * units > _AWAKE, lambda: k.if_(work * units > _WOKEN, woken, awake), alone)
    k.ret()
    k.finish()
