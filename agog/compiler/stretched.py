"""Kernels for elementwise expressions of arrays that are stretched against each other, as NumPy broadcasts them.

The result has the shape (a, b, c) after adjacent axes along which all arrays lie alike have become one. Every input has
a stride along a and b (0 where it is stretched); along c it is contiguous or one number for the row. There are kernels
for C-contiguous arrays, and those for slices, into a slice too. A row of c elements is done at a time, or a piece of it
where rows are few, and threads share these out.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable, Sequence

from agog.compiler import call, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import HALVES, ITEMSIZE, Target

__all__ = ["StretchedKernel", "arranged", "compile_stretched", "layout"]

_UNROLL = 4  # vectors in the loop over a long row
# In instructions of one vector, as in `elementwise`: in a chunk of rows, from which threads that are awake take part,
# and from which waking one pays for a single call.
_CHUNK, _AWAKE, _WAKE = 1 << 15, 1 << 15, 1 << 19
_FEW, _PIECE = 64, 1 << 13  # rows that are divided into pieces; least elements of a piece
_LINE = 7  # what 64 bytes of an array cost that is not in the first cache


def layout(
    shape: Sequence[int], inputs: Sequence[Sequence[int]], given: Sequence[Sequence[int]] | None = None
) -> tuple[list[int], list[list[int]]] | None:
    """Lengths (a, b, c), and strides in elements of each of the inputs' shapes, which broadcast to `shape`.

    given : the inputs' own strides, in elements; without, they are C-contiguous

    None where three axes do not do, a stride is negative, or the last axis has another than 1, or nothing but numbers.
    """
    lengths: list[int] = []  # from the last axis to the first
    strides: list[list[int]] = []
    steps = [1] * len(inputs)
    for back in range(1, len(shape) + 1):
        n = shape[-back]
        sizes = [s[-back] if back <= len(s) else 1 for s in inputs]
        if given is not None:
            steps = [s[-back] if back <= len(s) else 0 for s in given]
        here = [step if size != 1 else 0 for step, size in zip(steps, sizes)]
        steps = [step * size for step, size in zip(steps, sizes)]
        if n == 1:
            continue
        if lengths and here == [s * lengths[-1] for s in strides[-1]]:
            lengths[-1] *= n
        else:
            lengths.append(n)
            strides.append(here)
    if not 1 <= len(lengths) <= 3 or not set(strides[0]) <= {0, 1} or 1 not in strides[0] or min(map(min, strides)) < 0:
        return None
    while len(lengths) < 3:
        lengths.append(1)
        strides.append([0] * len(inputs))
    return lengths[::-1], [list(s) for s in zip(*strides[::-1])]


def arranged(shape: tuple[int, ...], arrays: Sequence[Any], out: Any = None) -> Any:
    """(whether there are slices, which inputs are contiguous along the last axis, what a kernel is called with).

    out : the array of that shape for the result, if it is no new one

    None where `layout` has none.
    """
    strided = not all(x.flags.c_contiguous for x in (arrays if out is None else (out, *arrays)))
    strides = None
    if strided:
        strides = tuple([(x.itemsize, x.strides) for x in arrays])
        if out is not None:
            strides = ((out.itemsize, out.strides), *strides)
    found = _arranged(shape, tuple([x.shape for x in arrays]), strides)
    return found and (strided, *found)


@functools.lru_cache(1024)
def _arranged(shape: tuple[int, ...], inputs: tuple[tuple[int, ...], ...], strides: Any) -> Any:
    if strides is None:
        found = layout(shape, inputs)
        return None if found is None else (tuple([s[2] != 0 for s in found[1]]), numbers(*found))
    if any(n % size for size, steps in strides for n in steps):
        return None
    given = [[n // size for n in steps] for size, steps in strides]
    if len(given) == len(inputs):  # the result is a new array
        steps = [math.prod(shape[i:]) for i in range(1, len(shape) + 1)]
        given = [steps, *given]
    found = layout(shape, (shape, *inputs), given)
    if found is None or not found[1][0][2]:
        return None
    return tuple([s[2] != 0 for s in found[1][1:]]), numbers(*found)


def numbers(lengths: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """What `layout` gives as a kernel takes it; one of slices has the result among the arrays, as the first."""
    a, b, c = lengths
    return (a * b, b, c, *[n for s in strides for n in s[:2]])


class StretchedKernel:
    """A compiled expression: `kernel(out, ins, lengths, strides)`, with what `layout` gives."""

    __slots__ = ("native",)

    def __init__(self, native: Callable[..., None]) -> None:
        self.native = native

    def __call__(self, out: Any, ins: Sequence[Any], lengths: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
        self.run(out, *ins, *numbers(lengths, strides))

    def run(self, *arguments: Any) -> None:
        """The result, the inputs, and what `numbers` gives."""
        pool.refresh()
        self.native(*arguments)


def compile_stretched(
    name: str,
    fn: Callable[..., Any],
    in_dtypes: Sequence[str],
    out_dtype: str,
    rows: Sequence[bool],
    target: Target | None = None,
    strided: bool = False,
) -> StretchedKernel:
    """Compile `fn(k, *inputs)`, of vector Values as in `compile_elementwise`, with one result.

    rows : for each input whether it is contiguous along the last axis; else it is one number there
    strided : the arrays may be slices; else they are C-contiguous
    """
    module = Module(target or targets.host())
    writer = _Writer(module, fn, list(in_dtypes), out_dtype, list(rows), strided)
    writer.chunk()
    writer.check()
    writer.run()
    out, one = (call.STRIDED_OUT, call.STRIDED_IN) if strided else (call.OUT, call.IN)
    parameters = out + one * len(in_dtypes) + call.INT * (3 + 2 * writer.walked)
    return StretchedKernel(call.bind(module, name, parameters, imports=pool.imports))


class _Writer:
    """Emits the functions of one kernel. Slots: out, the inputs; rows, b, c; two strides of each input.

    Of slices, those of out come before them.
    """

    def __init__(
        self, module: Module, fn: Callable[..., Any], ins: list[str], out: str, rows: list[bool], strided: bool
    ) -> None:
        self.module, self.fn, self.ins, self.out, self.rows, self.strided = module, fn, ins, out, rows, strided
        self.lanes = min(module.target.lanes(dtype) for dtype in (*ins, out))
        self.cost, self.walked = 1, len(ins) + strided

    def _numbers(self, k: Kernel, slots: Value) -> tuple[list[Value], list[tuple[Value, Value]]]:
        first = 1 + len(self.ins)
        numbers = [k.load(k.at(slots, first + i, "int64"), "int64") for i in range(3 + 2 * self.walked)]
        rows, inner, length = numbers[:3]
        strides = list(zip(numbers[3::2], numbers[4::2], strict=True))
        return [rows, inner, length], strides if self.strided else [(inner * length, length), *strides]

    def chunk(self) -> None:
        """`chunk(slots, begin, end, thread)`: the rows begin, ..., end - 1."""
        arguments = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, "chunk", arguments, lanes=self.lanes, internal=True)
        slots, begin, end, _ = k.arguments
        out, *ins = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(1 + len(self.ins))]
        (_, inner, length), strides = self._numbers(k, slots)
        per = k.load(k.at(slots, self._spare, "int64"), "int64")
        pieces = k.op(f"udiv i64 {(length + per - 1).text}, {per.text}", "int64")
        lanes = self.lanes
        zero, whole = k.const(0, "int64"), k.bitwise_and(length, -lanes)
        left = length - whole
        partial = k.partial(left)

        def evaluate(inputs: Sequence[Value]) -> Value:
            result = self.fn(k, *[k.widen(v) for v in inputs])
            return k.splat(k.cast(result, self.out) if self.out in HALVES and result.dtype == "float32" else result)

        def piece(number: Value, a: Value, b: Value, first: Value, wide: Value, last: Value, ends: Value) -> None:
            """Of a row, from `first`, several vectors at a time to `wide`, one to `last`; the rest where it `ends`."""
            s, t = strides[0]
            target = k.at(out, a * s + b * t if self.strided else number * length, self.out)
            bases = [k.at(p, a * s + b * t, dtype) for p, (s, t), dtype in zip(ins, strides[1:], self.ins, strict=True)]
            ready = [p if along else k.splat(k.load(p, dtype))
                     for p, along, dtype in zip(bases, self.rows, self.ins, strict=True)]

            def vectors(i: Value, count: int) -> None:
                places = [i + u * lanes if u else i for u in range(count)]
                loaded = [[k.load(k.at(p, at, dtype), dtype, lanes) if along else p
                           for p, along, dtype in zip(ready, self.rows, self.ins, strict=True)] for at in places]
                before = k.size
                results = [evaluate(values) for values in loaded]
                self.cost = max(self.cost, (k.size - before) // count + 2)
                for at, value in zip(places, results, strict=True):
                    k.store(value, k.at(target, at, self.out))

            def rest() -> None:
                loaded = [partial.load(k.at(p, whole, dtype), dtype) if along else p
                          for p, along, dtype in zip(ready, self.rows, self.ins, strict=True)]
                partial.store(evaluate(loaded), k.at(target, whole, self.out))

            k.loop(first, wide, lanes * _UNROLL, lambda i: vectors(i, _UNROLL))
            k.loop(wide, last, lanes, lambda i: vectors(i, 1))
            k.if_(ends, rest)

        def after(a: Value, b: Value, row_ends: Any = None) -> list[Value]:
            """The next row, if this one ends."""
            following = b + 1 if row_ends is None else k.where(row_ends, b + 1, b)
            over = following >= inner
            return [k.where(over, a + 1, a), k.where(over, zero, following)]

        def rows() -> None:
            wide = k.bitwise_and(length, -lanes * _UNROLL)

            def row(number: Value, a: Value, b: Value) -> list[Value]:
                piece(number, a, b, zero, wide, whole, left > 0)
                return after(a, b)

            a = k.op(f"udiv i64 {begin.text}, {inner.text}", "int64")
            k.loop(begin, end, 1, row, [a, begin - a * inner])

        def parts() -> None:
            def part(_: Value, a: Value, b: Value, c: Value) -> list[Value]:
                first, beyond = c * per, c * per + per
                last, row_ends = k.where(beyond < whole, beyond, whole), beyond >= length
                wide = first + k.bitwise_and(last - first, -lanes * _UNROLL)
                piece(a * inner + b, a, b, first, wide, last, row_ends & (left > 0))
                return [*after(a, b, row_ends), k.where(row_ends, zero, c + 1)]

            number = k.op(f"udiv i64 {begin.text}, {pieces.text}", "int64")
            a = k.op(f"udiv i64 {number.text}, {inner.text}", "int64")
            k.loop(begin, end, 1, part, [a, number - a * inner, begin - number * pieces])

        k.if_(k.eq(pieces, 1), rows, parts)
        k.ret()
        k.finish()

    @property
    def _spare(self) -> int:
        """The word after those of the arguments: elements of a piece, as many as some turns of the loop do."""
        return 1 + len(self.ins) + 3 + 2 * self.walked

    def check(self) -> None:
        """`check(slots, sizes)`: does what is read and written lie within the arrays?"""
        k = Kernel(self.module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
        slots, sizes = k.arguments
        (rows, inner, length), strides = self._numbers(k, slots)
        good = (rows > 0) & (inner > 0) & (length > 0)
        divisor = k.where(inner > 0, inner, k.const(1, "int64"))
        outer = k.op(f"udiv i64 {rows.text}, {divisor.text}", "int64")
        good = good & k.eq(outer * inner, rows)
        arrays = zip(strides, (True, *self.rows), (self.out, *self.ins), strict=True)
        for i, ((s, t), along, dtype) in enumerate(arrays):
            last = (outer - 1) * s + (inner - 1) * t + (length if along else 1)
            good = good & (s >= 0) & (t >= 0) & (last * ITEMSIZE[dtype] <= self._reach(k, sizes, i, dtype))
        if not self.strided:  # all of the result is written
            good = good & k.eq(k.load(sizes, "int64"), rows * length * ITEMSIZE[self.out])
        message = self.module.string("the arrays of this kernel do not broadcast as stated")
        k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
        k.finish()

    def _reach(self, k: Kernel, sizes: Value, i: int, dtype: str) -> Value:
        """Bytes from the first element of an array to the end of its last one."""
        if not self.strided:
            return k.load(k.at(sizes, i, "int64"), "int64")
        buffer = k.load(k.at(sizes, i, "ptr"), "ptr")
        ndim = k.cast(k.load(k.offset(buffer, call.NDIM), "int32"), "int64")
        shape, strides = (k.load(k.offset(buffer, at), "ptr") for at in (call.SHAPE, call.STRIDES))

        def axis(a: Value, reach: Value) -> list[Value]:
            n, step = (k.load(k.at(p, a, "int64"), "int64") for p in (shape, strides))
            none = (n < 1) | (step < 0)  # nothing can be read there
            return [k.where(none, k.const(-(1 << 62), "int64"), reach + (n - 1) * step)]

        (reach,) = k.loop(0, ndim, 1, axis, [k.const(ITEMSIZE[dtype], "int64")])
        return reach

    def run(self) -> None:
        """`run(slots, sizes)`: all rows, on the pool when that pays."""
        k = Kernel(self.module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
        slots, _ = k.arguments
        (rows, _, length), _ = self._numbers(k, slots)
        moved = [self.out, *(dtype for dtype, along in zip(self.ins, self.rows, strict=True) if along)]
        cost = max(self.cost, sum(_LINE * self.lanes * ITEMSIZE[dtype] // 64 for dtype in moved))
        turn = self.lanes * _UNROLL
        some = k.op(f"udiv i64 {length.text}, {_FEW}", "int64")
        some = k.where(rows < _FEW, k.where(some > _PIECE, some, _PIECE), length)
        per = k.bitwise_and(some + (turn - 1), -turn)
        k.store(per, k.at(slots, self._spare, "int64"))
        tasks = rows * k.op(f"udiv i64 {(length + per - 1).text}, {per.text}", "int64")
        each = k.where(per < length, per, length)
        work = (each + 2 * self.lanes) * cost  # of a task, and by so many lanes too much
        grain = k.op(f"sdiv i64 {_CHUNK * self.lanes}, {work.text}", "int64") + 1
        chunk = k.symbol("@chunk")

        def share(symbol: str) -> Callable[[], Any]:
            return lambda: k.call(symbol, None, chunk, slots, tasks, grain)

        k.if_(
            work * tasks < _AWAKE * self.lanes,
            lambda: k.call_known("chunk", None, slots, k.const(0, "int64"), tasks, k.const(0, "int32")),
            lambda: k.if_(work * tasks < _WAKE * self.lanes, share(pool.AWAKE), share(pool.SYMBOL)),
        )
        k.ret()
        k.finish()
