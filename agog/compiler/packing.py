"""Packing: source[row, k] goes to destination[k][row], so that a micro-kernel reads memory in order.

Whichever of the two axes is contiguous is read with vectors: rows are copied, k is transposed by shuffles in squares of
as many rows as a vector has lanes. Vectors may be stored beyond the rows there are, over what the next step of k will
hold: the order of the stores puts that right, and a destination has room for a vector beyond its end.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE

__all__ = ["Packing", "shuffle", "transpose"]

#: The arguments of each: addresses, then numbers. `room` counts the rows that the array has from the first one on.
_PACK = ("source destination", "row_stride k_stride rows room steps stride")


class Packing:
    """Writes the packing functions of one dtype into a module. Strides are in bytes."""

    def __init__(self, module: Module, dtype: str) -> None:
        self.module, self.target, self.dtype = module, module.target, dtype
        self.size, self.lanes = ITEMSIZE[dtype], module.target.lanes(dtype)
        self.vector_bytes = self.size * self.lanes

    def function(
        self, name: str, pointers: str, numbers: str, internal: bool = True, result: str | None = None
    ) -> tuple[Kernel, list[Value]]:
        """A Kernel for a function of some pointers, then some numbers; and its arguments."""
        arguments = [(n, "ptr") for n in pointers.split()] + [(n, "int64") for n in numbers.split()]
        k = Kernel(self.module, name, arguments, result, self.lanes, internal)
        return k, k.arguments

    def packing(self) -> None:
        """`pack(...)` and what it chooses from, by which stride is one element."""
        self.pack_scalar()
        self.pack_copied()
        self.pack_transposed()
        k, arguments = self.function("pack", *_PACK)
        _, _, row_stride, k_stride, *_ = arguments
        known = lambda name: lambda: k.call_known(name, None, *arguments)
        k.if_(
            k.eq(row_stride, self.size),
            known("pack_copied"),
            lambda: k.if_(k.eq(k_stride, self.size), known("pack_transposed"), known("pack_scalar")),
        )
        k.ret()
        k.finish()

    def pack_scalar(self) -> None:
        """Element by element, for what is contiguous nowhere."""
        k, (source, destination, row_stride, k_stride, rows, _, steps, stride) = self.function("pack_scalar", *_PACK)
        self._copy_elements(k, source, destination, row_stride, k_stride, rows, k.const(0, "int64"), steps, stride)
        k.ret()
        k.finish()

    def _copy_elements(
        self,
        k: Kernel,
        source: Value,
        destination: Value,
        row_stride: Value,
        k_stride: Value,
        rows: Value,
        first: Value,
        steps: Value,
        stride: Value,
    ) -> None:
        def step(i: Value) -> None:
            def row(r: Value) -> None:
                value = k.load(k.offset(source, r * row_stride + i * k_stride), self.dtype)
                k.store(value, k.at(k.offset(destination, i * stride), r, self.dtype))

            k.loop(0, rows, 1, row)

        k.loop(first, steps, 1, step)

    def pack_copied(self) -> None:
        """Rows are contiguous: copy vectors. `room` elements may be read there; beyond them, vectors are partial."""
        k, (source, destination, _, k_stride, rows, room, steps, stride) = self.function("pack_copied", *_PACK)

        def group(first: Value) -> None:
            left, inside = rows - first, room - first
            count = k.where(left < self.lanes, left, self.lanes)

            def copy(load: Callable[[Value], Value]) -> None:
                def step(i: Value, source: Value, destination: Value) -> Any:
                    k.store(load(k.at(source, first, self.dtype)), k.at(destination, first, self.dtype))
                    return k.offset(source, k_stride), k.offset(destination, stride)

                k.loop(0, steps, 1, step, [source, destination])

            partial = k.partial(count)
            k.if_(
                inside >= self.lanes,
                lambda: copy(lambda p: k.load(p, self.dtype, self.lanes)),
                lambda: copy(lambda p: partial.load(p, self.dtype)),
            )

        # Vectors may run over into the next step's elements: a later group's must come first, and are made right after.
        self._groups_downward(k, rows, group)
        k.ret()
        k.finish()

    def _groups_downward(self, k: Kernel, rows: Value, group: Callable[[Value], None]) -> None:
        """`group(first row)` for each vector of rows, the last one first."""
        groups = k.op(f"udiv i64 {(rows + (self.lanes - 1)).text}, {self.lanes}", "int64")
        k.loop(0, groups, 1, lambda i: group((groups - 1 - i) * self.lanes))

    def pack_transposed(self) -> None:
        """k is contiguous: load as many rows as a vector has lanes, and transpose them by shuffles."""
        k, (source, destination, row_stride, k_stride, rows, _, steps, stride) = self.function(
            "pack_transposed", *_PACK
        )
        lanes = self.lanes
        part = min(lanes, 16 // self.size)
        whole = k.bitwise_and(steps, -part)
        last = rows - 1

        # A group of rows runs along all of k, so that every cache line of them is read once.
        def group(first: Value) -> None:
            starts = []
            for r in range(lanes):
                row = first + r
                row = k.where(row < last, row, last)  # the last row again where there is none
                starts.append(k.offset(source, row * row_stride))

            def some(i: Value) -> None:
                i = k.hidden(i)  # LLVM would take its time over as many addresses that follow from it
                target = k.at(k.offset(destination, i * stride), first, self.dtype)
                for value in transposed(k, [k.at(start, i, self.dtype) for start in starts], self.dtype, part):
                    k.store(value, target)
                    target = k.offset(target, stride)

            k.loop(0, whole, part, some)

        self._groups_downward(k, rows, group)
        self._copy_elements(k, source, destination, row_stride, k_stride, rows, whole, steps, stride)
        k.ret()
        k.finish()


def transposed(k: Kernel, rows: Sequence[Value], dtype: str, part: int) -> list[Value]:
    """The first `part` columns of rows at these addresses, as many as a vector has lanes, as vectors.

    Quarters of vectors (16 bytes) are put where they belong as they are loaded; only within them there is to shuffle.
    """
    pieces = []
    for r in range(part):
        loaded = [k.load(at, dtype, part) for at in rows[r::part]]
        while len(loaded) > 1:
            loaded = [_joined(k, a, b) for a, b in zip(loaded[::2], loaded[1::2])]
        pieces += loaded
    return transpose(k, pieces)


def _joined(k: Kernel, a: Value, b: Value) -> Value:
    return shuffle(k, a, b, range(a.lanes + b.lanes))


def transpose(k: Kernel, rows: Sequence[Value]) -> list[Value]:
    """The transposes of squares side by side: vectors are as long, or longer by a power of two, as there are rows.

    log2(rows) rounds each swap one bit of the row with that of the lane.
    """
    lanes, rows, bit = rows[0].lanes, list(rows), len(rows) // 2
    while bit:
        for r in range(len(rows)):
            if r & bit:
                continue
            a, b = rows[r], rows[r | bit]
            low = [e if not e & bit else lanes + (e ^ bit) for e in range(lanes)]
            high = [e | bit if not e & bit else lanes + e for e in range(lanes)]
            rows[r], rows[r | bit] = shuffle(k, a, b, low), shuffle(k, a, b, high)
        bit //= 2
    return rows


def shuffle(k: Kernel, a: Value, b: Value, picks: Sequence[int]) -> Value:
    """Some lanes of a and b, those of b numbered after those of a."""
    lanes = ", ".join(f"i32 {p}" for p in picks)
    return k.op(f"shufflevector {a.typed}, {b.typed}, <{len(picks)} x i32> <{lanes}>", a.dtype, len(picks))
