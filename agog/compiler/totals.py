"""Kernels for the sum or the mean of an elementwise expression, such as the terms of a loss: one pass, nothing stored.

The elements are divided into blocks, always the same ones. A block is added up in vectors, in the arrays' dtype; what
blocks give is added in their order, in float64. So the result is the same for any number of threads.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Sequence

import numpy as np

from agog.compiler import call, pool, targets
from agog.compiler.elementwise import AWAKE, CHUNK, LINE, WAKE
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["TotalKernel", "compile_total"]

BLOCK = 4096
"""Elements of a block."""

_UNROLL = 4  # vectors in the loop, with a sum each


class TotalKernel:
    """`kernel(divisor, *inputs)`: the sum of the expression over `divisor`, as an array of no axes."""

    __slots__ = ("dtype", "first", "native")

    def __init__(self, native: Callable[..., None], dtype: np.dtype, first: int) -> None:
        self.native, self.dtype, self.first = native, dtype, first

    def __call__(self, divisor: int, *inputs: Any) -> Any:
        pool.refresh()
        out = np.empty((), self.dtype)
        self.native(out, np.empty(-(-inputs[self.first].size // BLOCK)), *inputs, divisor)
        return out


def compile_total(
    name: str, fn: Callable[..., Any], dtype: str, kinds: Sequence[str], target: Target | None = None
) -> TotalKernel:
    """Compile `fn(k, *inputs)`, of vector Values as in `compile_elementwise`, with one result; all of one dtype.

    kinds : "contiguous" or "scalar" for each input; those of the first kind have one size, which is not 0
    """
    module = Module(target or targets.host())
    writer = _Writer(module, fn, dtype, list(kinds))
    writer.blocks()
    writer.check()
    writer.run()
    parameters = call.OUT * 2 + call.IN * len(kinds) + call.INT
    return TotalKernel(call.bind(module, name, parameters, imports=pool.imports), np.dtype(dtype), kinds.index(
        "contiguous"))


class _Writer:
    """Emits the functions of one kernel. Slots: out, what the blocks give, the inputs; the divisor; the elements."""

    def __init__(self, module: Module, fn: Callable[..., Any], dtype: str, kinds: list[str]) -> None:
        self.module, self.fn, self.dtype, self.kinds = module, fn, dtype, kinds
        self.lanes = module.target.lanes(dtype)
        self.first, self.cost = kinds.index("contiguous"), 1

    def blocks(self) -> None:
        """`blocks(slots, begin, end, thread)`: the sums of the blocks begin, ..., end - 1."""
        arguments = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, "blocks", arguments, lanes=self.lanes, internal=True)
        slots, begin, end, _ = k.arguments
        dtype, lanes = self.dtype, self.lanes
        notes = k.load(k.at(slots, 1, "ptr"), "ptr")
        ins = [k.load(k.at(slots, 2 + i, "ptr"), "ptr") for i in range(len(self.kinds))]
        ins = [k.splat(k.load(p, dtype)) if kind == "scalar" else p for p, kind in zip(ins, self.kinds, strict=True)]
        n = k.load(k.at(slots, 3 + len(ins), "int64"), "int64")

        def terms(load: Callable[[Value], Value]) -> Value:
            values = [p if kind == "scalar" else load(p) for p, kind in zip(ins, self.kinds, strict=True)]
            before = k.size
            result = k.splat(self.fn(k, *values))
            self.cost = max(self.cost, k.size - before + 1)
            return result

        def block(number: Value) -> None:
            start = number * BLOCK
            stop = start + BLOCK
            stop = k.where(stop < n, stop, n)
            wide = start + k.bitwise_and(stop - start, -lanes * _UNROLL)
            whole = start + k.bitwise_and(stop - start, -lanes)
            zero = k.const(0, dtype, lanes)

            def loaded(at: Value, p: Value) -> Value:
                return k.load(k.at(p, at, dtype), dtype, lanes)

            def vectors(i: Value, *sums: Value) -> list[Value]:
                places = [i + u * lanes if u else i for u in range(len(sums))]
                found = [terms(partial(loaded, at)) for at in places]
                return [s + t for s, t in zip(sums, found, strict=True)]

            sums = k.loop(start, wide, lanes * _UNROLL, vectors, [zero] * _UNROLL)
            while len(sums) > 1:
                sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
            (total,) = k.loop(wide, whole, lanes, vectors, sums)
            left = stop - whole

            def rest() -> tuple[Value]:
                first = k.partial(left)
                value = terms(lambda p: first.load(k.at(p, whole, dtype), dtype))
                inside = k.iota("int32") < k.splat(k.cast(left, "int32"))
                return (total + k.where(inside, value, zero),)

            (total,) = k.if_(left > 0, rest, lambda: (total,))
            k.store(k.cast(k.reduce_sum(total), "float64"), k.at(notes, number, "float64"))

        k.loop(begin, end, 1, block)
        k.ret()
        k.finish()

    def _elements(self, k: Kernel, sizes: Value) -> Value:
        size = k.load(k.at(sizes, 2 + self.first, "int64"), "int64")
        return k.op(f"lshr {size.typed}, {ITEMSIZE[self.dtype].bit_length() - 1}", "int64")

    @staticmethod
    def _count(k: Kernel, n: Value) -> Value:
        return k.op(f"lshr {(n + (BLOCK - 1)).typed}, {BLOCK.bit_length() - 1}", "int64")

    def check(self) -> None:
        """`check(slots, sizes)`: do the arrays fit each other?"""
        k = Kernel(self.module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
        _, sizes = k.arguments
        n = self._elements(k, sizes)
        one = k.const(1, "int64")
        expected = [one * ITEMSIZE[self.dtype], self._count(k, n) * 8]
        expected += [(one if kind == "scalar" else n) * ITEMSIZE[self.dtype] for kind in self.kinds]
        good = n > 0
        for i, size in enumerate(expected):
            good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), size)
        message = self.module.string(f"the arrays of this kernel must be {self.dtype}, of one size, and not empty")
        k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
        k.finish()

    def run(self) -> None:
        """`run(slots, sizes)`: all blocks, on the pool when that pays, and the sum of what they give."""
        k = Kernel(self.module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
        slots, sizes = k.arguments
        n = self._elements(k, sizes)
        count = self._count(k, n)
        out, notes = (k.load(k.at(slots, i, "ptr"), "ptr") for i in range(2))
        divisor = k.load(k.at(slots, 2 + len(self.kinds), "int64"), "int64")
        k.store(n, k.at(slots, 3 + len(self.kinds), "int64"))  # (in the word that slots have to spare)
        cost = max(self.cost, sum(LINE * self.lanes * ITEMSIZE[self.dtype] // 64 for kind in self.kinds
                                  if kind == "contiguous"))
        elements = lambda work: work * self.lanes // cost
        eighth = k.op(f"lshr {count.typed}, 3", "int64") + 1
        most = max(1, elements(CHUNK) // BLOCK)
        grain = k.where(eighth < most, eighth, most)
        task = k.symbol("@blocks")

        def share(symbol: str) -> Callable[[], None]:
            return lambda: k.call(symbol, None, task, slots, count, grain)

        def alone() -> None:
            k.call_known("blocks", None, slots, k.const(0, "int64"), count, k.const(0, "int32"))

        k.if_(n < elements(AWAKE), alone, lambda: k.if_(n < elements(WAKE), share(pool.AWAKE), share(pool.SYMBOL)))
        (total,) = k.loop(0, count, 1, lambda i, s: [s + k.load(k.at(notes, i, "float64"), "float64")],
                          [k.const(0.0, "float64")])
        k.store(k.cast(total / k.cast(divisor, "float64"), self.dtype), out)
        k.ret()
        k.finish()
