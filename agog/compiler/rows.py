"""Kernels along the last axis of a C-contiguous array: softmax, layer norm, sums, and whatever is written like them.

A row program is a Python function that makes passes over one row; a row stays in the first or second level cache
between its passes. Softmax:

    def softmax(row, out, x):
        largest = row.max(lambda v: v[x])
        total = row.sum(lambda v: v.put(out, row.k.exp(v.soon(x)[x] - largest)))
        row.each(lambda v: v.put(out, v[out] / total))

`v` is a place in the row: `v[x]` loads a vector there, `v.put(out, value)` stores one and gives it back. The results of
reductions are scalars. Rows are shared out among the threads.

What is summed over the rows themselves, such as the gradient of a bias, has an output of kind "sums": one row for each
block of rows, so that a result does not depend on the number of threads; the caller adds these few up.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any, Callable, Sequence

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import FLOATS, UNSIGNED, Module, Value
from agog.compiler.kernel import Kernel, Partial
from agog.compiler.targets import HALVES, ITEMSIZE, Target
from agog.errors import ArgumentError, DTypeError

__all__ = ["SCRATCH", "Array", "Place", "Row", "RowKernel", "compile_rows", "sum_blocks"]

_CHUNK = 1 << 19  # cost times elements in a chunk of rows
_AWAKE, _PARALLEL = 1 << 18, 1 << 21  # from which threads take part that are awake, or are woken
_UNROLL = ((24, 4), (60, 2))  # up to this cost, so many vectors in a pass's loop
_STREAM_BYTES = 32 << 20  # of rows from which they are stored around the caches, where the last one is not known
_LINE = 64
SCRATCH = 4096  # elements of a row that a program may keep on the stack
_BLOCK = 64  # turns of the loop whose sums are added up in the array's precision
_SUMMED = 32  # blocks of rows, at most, that have sums of their own
_NEAR = 16 << 10  # bytes of such sums up to which they are kept on the stack


def block_rows(rows: int) -> int:
    """How many of so many rows a block has whose sums stay apart."""
    return max(8, -(-rows // _SUMMED))


def sum_blocks(rows: int) -> int:
    """How many rows an output of kind "sums" has."""
    return -(-rows // block_rows(rows))


class RowKernel:
    """A compiled row program.

    `kernel(outs, ins)` runs it on C-contiguous arrays: kind "row" has shape (..., d), "column" has one element per row,
    "vector" has shape (d,), "scalar" one element, "sums" (sum_blocks(rows), d). An output of kind "row" may be the same
    array as an input. `kernel.native(*outs, *ins, rows, d, block_rows)` is the builtin itself.
    """

    __slots__ = ("_first_row", "_sums", "name", "native")

    def __init__(self, name: str, native: Callable[..., None], first_row: int, sums: bool) -> None:
        self.name, self.native, self._first_row, self._sums = name, native, first_row, sums

    def __call__(self, outs: Sequence[Any], ins: Sequence[Any]) -> None:
        pool.refresh()
        arrays = (*outs, *ins)
        shape = arrays[self._first_row].shape
        if len(shape) == 2:
            rows, length = shape
        else:
            *kept, length = shape
            rows = prod(kept)
        self.native(*arrays, rows, length, block_rows(rows) if self._sums else 1)

    def __repr__(self) -> str:
        return f"<row kernel {self.name}>"


def compile_rows(
    name: str,
    fn: Callable[..., Any],
    out_dtypes: Sequence[str],
    out_kinds: Sequence[str],
    in_dtypes: Sequence[str],
    in_kinds: Sequence[str],
    target: Target | None = None,
    recipe: str | None = None,
) -> RowKernel:
    """Compile a row program.

    Parameters
    ----------
    name : for people
    fn : `fn(row, *outs, *ins)`, see the module's docstring. "row" and "vector" arrays are what `v[...]` and `v.put`
        take; "column" and "scalar" inputs are scalar Values; a "column" output is set by `row.result(out, value)`, and
        `v.add(out, value)` adds to one of kind "sums"
    out_dtypes, in_dtypes : names such as "float32"
    out_kinds : "row", "column" or "sums" each
    in_kinds : "row", "column", "vector" or "scalar" each; one array at least must be a "row"
    target : the machine; this one by default
    recipe : what says which `fn` of agog's own it is: then the program is written only where its object is not on disk

    Returns
    -------
    RowKernel
    """
    target = target or targets.host()
    kinds, dtypes = [*out_kinds, *in_kinds], [*out_dtypes, *in_dtypes]
    for dtype in dtypes:
        if dtype not in ITEMSIZE:
            raise DTypeError(f"kernels do not have the dtype {dtype!r}; they have {', '.join(ITEMSIZE)}")
    if "row" not in kinds or not set(out_kinds) <= {"row", "column", "sums"} or len(kinds) != len(dtypes):
        raise ArgumentError(f"a row kernel needs a 'row', and outputs that are 'row', 'column' or 'sums', got {kinds}")

    def write() -> Module:
        module = Module(target)
        builder = _RowModule(module, fn, len(out_kinds), kinds, dtypes)
        builder.chunk()
        builder.check()
        builder.run()
        return module

    parameters = call.OUT * len(out_kinds) + call.IN * len(in_kinds) + call.INT * 3
    module = write() if recipe is None else jit.Later(f"{recipe}, {len(out_kinds)} {kinds} {dtypes}", target, write)
    native = call.bind(module, name, parameters, imports=pool.imports)
    return RowKernel(name, native, kinds.index("row"), "sums" in kinds)


class Array:
    """An array that a row program reads or writes: its base for the current row."""

    def __init__(self, base: Value, dtype: str) -> None:
        self.base, self.dtype = base, dtype


class Place:
    """A vector's place in the row: `partial` gives access to the last, incomplete one."""

    def __init__(
        self, k: Kernel, index: Value, length: Value, partial: Partial | None = None, streaming: bool = False
    ) -> None:
        self._k, self._index, self._length, self._partial, self._streaming = k, index, length, partial, streaming

    def __getitem__(self, array: Array) -> Value:
        k = self._k
        address = k.at(array.base, self._index, array.dtype)
        if self._partial:
            return k.widen(self._partial.load(address, array.dtype))
        return k.widen(k.load(address, array.dtype, k.lanes))

    def soon(self, *arrays: Array) -> Place:
        """This place; and the next row's elements of these inputs are brought near: the machine looks no page ahead.

        One pass of a program does that for an input.
        """
        k = self._k
        for array in arrays:
            k.prefetch(k.at(array.base, self._index + self._length, array.dtype))
        return self

    def put(self, array: Array, value: Value) -> Value:
        """Store a vector of the array's dtype (float32 for a 16-bit float, which is rounded), and return it."""
        k = self._k
        value = k.splat(value)
        address = k.at(array.base, self._index, array.dtype)
        stored = k.cast(value, array.dtype) if array.dtype in HALVES else value
        if self._partial:
            self._partial.store(stored, address)
        else:
            k.store(stored, address)
        return value

    def write(self, array: Array, value: Value) -> Value:
        """`put` of what the program does not look at again: where arrays are large it goes around the caches."""
        k = self._k
        if not self._streaming or self._partial:
            return self.put(array, value)
        stored = k.cast(k.splat(value), array.dtype) if array.dtype in HALVES else k.splat(value)
        address = k.at(array.base, self._index, array.dtype)
        k.store(stored, address, k.lanes * ITEMSIZE[array.dtype], nontemporal=True)
        return value

    def add(self, array: Array, value: Value) -> None:
        """Add a vector to what the array has here."""
        self.put(array, self[array] + value)


class Row:
    """What a row program is written with: passes over one row. `k` is the Kernel, `length` the number of elements,
    `streaming` whether what `Place.write` stores goes around the caches.
    """

    def __init__(self, k: Kernel, number: Value, length: Value, unroll: int | None, streaming: bool = False) -> None:
        self.k, self.length, self.cost, self.streaming = k, length, 0, streaming
        self._number, self._unroll = number, unroll

    def length_as(self, dtype: str) -> Value:
        """The length as a scalar of a float dtype (float32 for a 16-bit one)."""
        return self.k.cast(self.length, "float32" if dtype in HALVES else dtype)

    def scratch(self, dtype: str) -> Array:
        """Memory for a row of at most `SCRATCH` elements."""
        return Array(self.k.alloca(SCRATCH * ITEMSIZE[dtype]), dtype)

    def result(self, out: Array, value: Value) -> None:
        """Set this row's element of a "column" output."""
        stored = self.k.cast(value, out.dtype) if out.dtype in HALVES else value
        self.k.store(stored, self.k.at(out.base, self._number, out.dtype))

    def each(self, body: Callable[[Place], Any]) -> None:
        """Run `body(v)` at every place."""
        self.reduce([], lambda v: (body(v), ())[1])

    def sum(self, body: Callable[[Place], Any]) -> Value:
        """The sum of the vectors that `body(v)` returns."""
        return self.reduce(["sum"], lambda v: (body(v),))[0]

    def max(self, body: Callable[[Place], Any]) -> Value:
        """Their largest element, NaN if there is a NaN; the dtype's lowest value for an empty row."""
        return self.reduce(["max"], lambda v: (body(v),))[0]

    def min(self, body: Callable[[Place], Any]) -> Value:
        """Their smallest element, NaN if there is a NaN."""
        return self.reduce(["min"], lambda v: (body(v),))[0]

    def reduce(self, kinds: Sequence[str], body: Callable[[Place], Any]) -> list[Value]:
        """Several reductions in one pass: `body(v)` returns one vector per kind ("sum", "max", "min").

        float32 sums are kept in float32 over blocks of some thousand elements, and the blocks are added in float64.
        """
        k, lanes = self.k, self.k.lanes
        dtypes = self._dtypes(kinds, body)
        unroll = (
            next((u for cost, u in _UNROLL if self._pass_cost <= cost), 1) if self._unroll is None else self._unroll
        )
        step = unroll * lanes
        starts = [k.const(_identity(kind, dtype), dtype) for kind, dtype in zip(kinds, dtypes, strict=True)]
        wide = [
            k.cast(start, "float64") if kind == "sum" and dtype == "float32" else start
            for kind, dtype, start in zip(kinds, dtypes, starts, strict=True)
        ]
        # With one accumulator per unrolled vector, an addition need not wait for the one before.
        fresh = [k.splat(start) for start in starts for _ in range(unroll)]

        def vectors(i: Value, *carried: Value) -> list[Value]:
            places = [i + u * lanes if u else i for u in range(unroll)]
            values = [body(Place(k, at, self.length, None, self.streaming)) for at in places]
            at = iter(carried)
            # The value first: in this order a maximum looks for NaN in the value, not in what it waits for.
            return [self._combine(kind, values[u][j], next(at)) for j, kind in enumerate(kinds) for u in range(unroll)]

        def leftover(i: Value, *carried: Value) -> list[Value]:
            left = self.length - i
            count = k.where(left < lanes, left, lanes)
            values = body(Place(k, i, self.length, k.partial(count)))
            mask = k.iota("int32") < k.splat(k.cast(count, "int32"))
            inside = [
                k.where(mask, value, start) for value, start in zip(values, starts, strict=True)
            ]  # what lies beyond the row must not count
            return [self._combine(kind, c, v) for kind, c, v in zip(kinds, carried, inside, strict=True)]

        def fold(totals: Sequence[Value], accumulators: Sequence[Value]) -> list[Value]:
            """Add the lanes of the accumulators to the scalar totals."""
            result = []
            for j, (kind, total) in enumerate(zip(kinds, totals, strict=True)):
                parts = list(accumulators[j * unroll : (j + 1) * unroll])
                while len(parts) > 1:
                    parts = [self._combine(kind, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
                scalar = {"sum": k.reduce_sum, "max": k.reduce_max, "min": k.reduce_min}[kind](parts[0])
                result.append(self._combine(kind, total, k.cast(scalar, total.dtype)))
            return result

        whole = k.bitwise_and(self.length, -step)
        if not kinds:
            k.loop(0, whole, step, vectors)
            k.loop(whole, self.length, lanes, leftover)
            return []

        def block(start: Value, *totals: Value) -> list[Value]:
            end = start + step * _BLOCK
            end = k.where(end < whole, end, whole)
            return fold(totals, k.loop(start, end, step, vectors, fresh))

        totals = k.loop(0, whole, step * _BLOCK, block, wide)

        def with_rest() -> list[Value]:
            rest = k.loop(whole, self.length, lanes, leftover, [k.splat(start) for start in starts])
            padded = [v for r, start in zip(rest, starts, strict=True) for v in [r] + [k.splat(start)] * (unroll - 1)]
            return fold(totals, padded)

        totals = list(k.if_(whole < self.length, with_rest, lambda: totals))
        return [k.cast(total, dtype) for total, dtype in zip(totals, dtypes, strict=True)]

    def _dtypes(self, kinds: Sequence[str], body: Callable[[Place], Any]) -> list[str]:
        """The dtypes that `body` returns, and its cost, from a trial whose text is thrown away."""
        k = self.k
        mark, count = k.size, k._count
        values = body(Place(k, k.const(0, "int64"), self.length))
        self._pass_cost = k.size - mark + 2 * len(kinds)
        self.cost += self._pass_cost
        del k._lines[mark:]
        k._count = count
        return [v.dtype for v in values]

    def _combine(self, kind: str, a: Value, b: Value) -> Value:
        return {"sum": self.k.add, "max": self.k.max, "min": self.k.min}[kind](a, b)


def _identity(kind: str, dtype: str) -> float:
    """The value that changes nothing."""
    if kind == "sum":
        return 0
    if dtype in FLOATS:
        return float("-inf") if kind == "max" else float("inf")
    if dtype in UNSIGNED:
        return 0 if kind == "max" else 1 if dtype == "bool" else (1 << 8 * ITEMSIZE[dtype]) - 1
    lowest = -(1 << (8 * ITEMSIZE[dtype] - 1))
    return lowest if kind == "max" else -lowest - 1


class _RowModule:
    """Emits the functions of a row kernel. Slots: the arrays, then rows, d and the rows of a block."""

    def __init__(
        self, module: Module, fn: Callable[..., Any], n_outs: int, kinds: Sequence[str], dtypes: Sequence[str]
    ) -> None:
        self.module, self.fn, self.n_outs, self.kinds, self.dtypes = module, fn, n_outs, kinds, dtypes
        widths = [d for d, kind in zip(dtypes, kinds, strict=True) if kind in ("row", "vector", "sums")]
        self.lanes = min(module.target.lanes(d) for d in widths)
        self.cost = 1

    def chunk(self) -> None:
        """`chunk(slots, begin, end, thread)`: the rows begin, ..., end - 1."""
        k = Kernel(
            self.module,
            "chunk",
            [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")],
            lanes=self.lanes,
            internal=True,
        )
        slots, begin, end, _ = k.arguments
        addresses = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(len(self.kinds))]
        length, block = (k.load(k.at(slots, len(self.kinds) + i, "int64"), "int64") for i in (1, 2))
        sums = [i for i, kind in enumerate(self.kinds) if kind == "sums"]

        def row(number: Value, *bases: Value, streaming: bool = False) -> None:
            start = number * length
            base = iter(bases)
            arguments: list[Array | Value] = []
            for i, (address, kind, dtype) in enumerate(zip(addresses, self.kinds, self.dtypes, strict=True)):
                if kind == "row":
                    arguments.append(Array(k.at(address, start, dtype), dtype))
                elif kind == "sums":
                    arguments.append(Array(next(base), dtype))
                elif kind == "vector" or i < self.n_outs:
                    arguments.append(Array(address, dtype))
                else:
                    place = k.at(address, number, dtype) if kind == "column" else address
                    arguments.append(k.widen(k.load(place, dtype)))
            program = Row(k, number, length, None, streaming)
            self.fn(program, *arguments)
            self.cost = max(1, program.cost)

        # Short sums are kept on the stack: threads must not write to one cache line by turns.
        buffers = [k.alloca(_NEAR, 64) for _ in sums]

        def rows_of_block(first: Value) -> None:
            """The rows from `first`, where a block begins, to the end of the block or of all."""
            number = k.op(f"udiv i64 {first.text}, {block.text}", "int64")
            places = [k.at(addresses[i], number * length, self.dtypes[i]) for i in sums]
            sizes = [length * ITEMSIZE[self.dtypes[i]] for i in sums]
            near = [size <= _NEAR for size in sizes]
            bases = [
                k.op(f"select i1 {on_stack.text}, {buffer.typed}, {place.typed}", "ptr")
                for on_stack, buffer, place in zip(near, buffers, places, strict=True)
            ]
            for base, size in zip(bases, sizes, strict=True):
                k.call("llvm.memset.p0.i64", None, base, k.const(0, "int8"), size, k.const(False, "bool"))
            last = first + block
            k.loop(first, k.where(last < end, last, end), 1, lambda number: row(number, *bases))
            for on_stack, base, place, size in zip(near, bases, places, sizes, strict=True):
                k.if_(on_stack, partial(k.copy, place, base, size))

        if sums:
            k.loop(begin, end, block, rows_of_block)
        elif outs := self._streams:

            def stream() -> None:
                k.loop(begin, end, 1, partial(row, streaming=True))
                k.stores_seen()  # the pool's release of the chunk does not order them

            rows = k.load(k.at(slots, len(self.kinds), "int64"), "int64")
            walked = sum(ITEMSIZE[d] for d, kind in zip(self.dtypes, self.kinds, strict=True) if kind == "row")
            large = rows * length * walked >= (targets.last_cache() or _STREAM_BYTES)
            within = length * min(ITEMSIZE[self.dtypes[i]] for i in outs)  # and where rows begin: whole lines?
            for i in outs:
                within = within | k.op(f"ptrtoint ptr {addresses[i].text} to i64", "int64")
            k.if_(large & k.eq(k.bitwise_and(within, _LINE - 1), 0), stream, lambda: k.loop(begin, end, 1, row))
        else:
            k.loop(begin, end, 1, row)
        k.ret()
        k.finish()

    @property
    def _streams(self) -> list[int]:
        """The outputs that can be stored around the caches: rows, of a kernel that does not add rows up meanwhile."""
        if "sums" in self.kinds or self.module.target.machine != "x86_64":
            return []
        found = [i for i in range(self.n_outs) if self.kinds[i] == "row"]
        return found if all(self.lanes * ITEMSIZE[self.dtypes[i]] >= 16 for i in found) else []

    def check(self) -> None:
        """`check(slots, sizes)`: do the arrays fit rows and d?"""
        k = Kernel(self.module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
        slots, sizes = k.arguments
        rows, length, block = (k.load(k.at(slots, len(self.kinds) + i, "int64"), "int64") for i in (0, 1, 2))
        good = (rows >= 0) & (length >= 0) & (block > 0)
        divisor = k.where(block > 0, block, k.const(1, "int64"))
        blocks = k.op(f"udiv i64 {(rows + divisor - 1).text}, {divisor.text}", "int64")
        counts = {"row": rows * length, "column": rows, "vector": length, "scalar": k.const(1, "int64"),
                  "sums": blocks * length}
        for i, (kind, dtype) in enumerate(zip(self.kinds, self.dtypes, strict=True)):
            good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), counts[kind] * ITEMSIZE[dtype])
        wanted = ", ".join(f"{kind} of {dtype}" for kind, dtype in zip(self.kinds, self.dtypes, strict=True))
        message = self.module.string(f"the arrays do not fit this row kernel, which takes: {wanted}")
        k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
        k.finish()

    def run(self) -> None:
        """`run(slots, sizes)`: all rows, on the pool when that pays."""
        k = Kernel(self.module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
        slots, _ = k.arguments
        rows, length, block = (k.load(k.at(slots, len(self.kinds) + i, "int64"), "int64") for i in (0, 1, 2))
        work = (length + 16) * self.cost
        chunk = k.symbol("@chunk")

        def share(symbol: str, size: int) -> Callable[[], None]:
            def shared() -> None:
                grain = block if "sums" in self.kinds else k.op(f"sdiv i64 {size}, {work.text}", "int64") + 1
                k.call(symbol, None, chunk, slots, rows, grain)

            return shared

        def alone() -> None:
            k.call_known("chunk", None, slots, k.const(0, "int64"), rows, k.const(0, "int32"))

        awake, woken = share(pool.AWAKE, _CHUNK // 8), share(pool.SYMBOL, _CHUNK)
        k.if_(work * rows > _AWAKE, lambda: k.if_(work * rows > _PARALLEL, woken, awake), alone)
        k.ret()
        k.finish()
