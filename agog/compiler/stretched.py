"""Kernels for elementwise expressions of arrays that are stretched against each other, as NumPy broadcasts them.

The result is C-contiguous, of shape (a, b, c) after adjacent axes along which all inputs lie alike have become one.
Every input has a stride along a and b (0 where it is stretched); along c it is contiguous or one number for the row. So
inputs may be slices, too. A row of c elements is done at a time, rows are shared out among the threads.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from agog.compiler import call, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import HALVES, ITEMSIZE, Target

__all__ = ["StretchedKernel", "compile_stretched", "layout", "numbers"]

_UNROLL = 4  # vectors in the loop over a long row
# In instructions of one vector, as in `elementwise`: in a chunk of rows, from which threads that are awake take part,
# and from which waking one pays for a single call.
_CHUNK, _AWAKE, _WAKE = 1 << 15, 1 << 15, 1 << 19
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


def numbers(lengths: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """What `layout` gives as a kernel takes it."""
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
    strided : the inputs may be slices; else they are C-contiguous
    """
    module = Module(target or targets.host())
    writer = _Writer(module, fn, list(in_dtypes), out_dtype, list(rows), strided)
    writer.chunk()
    writer.check()
    writer.run()
    count, kind = len(in_dtypes), call.STRIDED_IN if strided else call.IN
    parameters = call.OUT + kind * count + call.INT * (3 + 2 * count)
    return StretchedKernel(call.bind(module, name, parameters, imports=pool.imports))


class _Writer:
    """Emits the functions of one kernel. Slots: out, the inputs; rows, b, c; two strides of each input."""

    def __init__(
        self, module: Module, fn: Callable[..., Any], ins: list[str], out: str, rows: list[bool], strided: bool
    ) -> None:
        self.module, self.fn, self.ins, self.out, self.rows, self.strided = module, fn, ins, out, rows, strided
        self.lanes = min(module.target.lanes(dtype) for dtype in (*ins, out))
        self.cost = 1

    def _numbers(self, k: Kernel, slots: Value) -> tuple[list[Value], list[tuple[Value, Value]]]:
        first = 1 + len(self.ins)
        numbers = [k.load(k.at(slots, first + i, "int64"), "int64") for i in range(3 + 2 * len(self.ins))]
        return numbers[:3], list(zip(numbers[3::2], numbers[4::2], strict=True))

    def chunk(self) -> None:
        """`chunk(slots, begin, end, thread)`: the rows begin, ..., end - 1."""
        arguments = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, "chunk", arguments, lanes=self.lanes, internal=True)
        slots, begin, end, _ = k.arguments
        out, *ins = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(1 + len(self.ins))]
        (_, inner, length), strides = self._numbers(k, slots)
        lanes = self.lanes
        whole, wide = k.bitwise_and(length, -lanes), k.bitwise_and(length, -lanes * _UNROLL)
        left = length - whole
        partial = k.partial(left)

        def evaluate(inputs: Sequence[Value]) -> Value:
            result = self.fn(k, *[k.widen(v) for v in inputs])
            return k.splat(k.cast(result, self.out) if self.out in HALVES and result.dtype == "float32" else result)

        def row(number: Value, a: Value, b: Value) -> list[Value]:
            target = k.at(out, number * length, self.out)
            bases = [k.at(p, a * s + b * t, dtype) for p, (s, t), dtype in zip(ins, strides, self.ins, strict=True)]
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

            k.loop(0, wide, lanes * _UNROLL, lambda i: vectors(i, _UNROLL))
            k.loop(wide, whole, lanes, lambda i: vectors(i, 1))
            k.if_(left > 0, rest)
            following = b + 1
            over = following >= inner
            return [k.where(over, a + 1, a), k.where(over, k.const(0, "int64"), following)]

        a = k.op(f"udiv i64 {begin.text}, {inner.text}", "int64")
        k.loop(begin, end, 1, row, [a, begin - a * inner])
        k.ret()
        k.finish()

    def check(self) -> None:
        """`check(slots, sizes)`: does what is read and written lie within the arrays?"""
        k = Kernel(self.module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
        slots, sizes = k.arguments
        (rows, inner, length), strides = self._numbers(k, slots)
        size = lambda i: k.load(k.at(sizes, i, "int64"), "int64")
        good = (rows > 0) & (inner > 0) & (length > 0) & k.eq(size(0), rows * length * ITEMSIZE[self.out])
        divisor = k.where(inner > 0, inner, k.const(1, "int64"))
        outer = k.op(f"udiv i64 {rows.text}, {divisor.text}", "int64")
        good = good & k.eq(outer * inner, rows)
        for i, ((s, t), along, dtype) in enumerate(zip(strides, self.rows, self.ins, strict=True), 1):
            last = (outer - 1) * s + (inner - 1) * t + (length if along else 1)
            good = good & (s >= 0) & (t >= 0) & (last * ITEMSIZE[dtype] <= self._reach(k, sizes, i))
        message = self.module.string("the arrays of this kernel do not broadcast as stated")
        k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
        k.finish()

    def _reach(self, k: Kernel, sizes: Value, i: int) -> Value:
        """Bytes from the first element of an input to the end of its last one."""
        if not self.strided:
            return k.load(k.at(sizes, i, "int64"), "int64")
        buffer = k.load(k.at(sizes, i, "ptr"), "ptr")
        ndim = k.cast(k.load(k.offset(buffer, call.NDIM), "int32"), "int64")
        shape, strides = (k.load(k.offset(buffer, at), "ptr") for at in (call.SHAPE, call.STRIDES))

        def axis(a: Value, reach: Value) -> list[Value]:
            n, step = (k.load(k.at(p, a, "int64"), "int64") for p in (shape, strides))
            none = (n < 1) | (step < 0)  # nothing can be read there
            return [k.where(none, k.const(-(1 << 62), "int64"), reach + (n - 1) * step)]

        (reach,) = k.loop(0, ndim, 1, axis, [k.const(ITEMSIZE[self.ins[i - 1]], "int64")])
        return reach

    def run(self) -> None:
        """`run(slots, sizes)`: all rows, on the pool when that pays."""
        k = Kernel(self.module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
        slots, _ = k.arguments
        (rows, _, length), _ = self._numbers(k, slots)
        moved = [self.out, *(dtype for dtype, along in zip(self.ins, self.rows, strict=True) if along)]
        cost = max(self.cost, sum(_LINE * self.lanes * ITEMSIZE[dtype] // 64 for dtype in moved))
        work = (length + 2 * self.lanes) * cost  # of a row, and by so many lanes too much
        grain = k.op(f"sdiv i64 {_CHUNK * self.lanes}, {work.text}", "int64") + 1
        chunk = k.symbol("@chunk")

        def share(symbol: str) -> Callable[[], Any]:
            return lambda: k.call(symbol, None, chunk, slots, rows, grain)

        k.if_(
            work * rows < _AWAKE * self.lanes,
            lambda: k.call_known("chunk", None, slots, k.const(0, "int64"), rows, k.const(0, "int32")),
            lambda: k.if_(work * rows < _WAKE * self.lanes, share(pool.AWAKE), share(pool.SYMBOL)),
        )
        k.ret()
        k.finish()
