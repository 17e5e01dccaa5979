"""Micro-kernels of matrix products: a tile of C from a packed panel of A and a panel of B, in registers."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterator, Sequence

from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import Packing
from agog.compiler.targets import Target

__all__ = ["ACCUMULATE", "BIAS", "PACKS", "RELU", "VARIANTS", "TileKernels", "Tiles"]

# Flags of a call.
ACCUMULATE, BIAS, RELU = 1, 2, 4

#: Entries of the table of micro-kernels per number of rows: by log2 of the vectors, then the one that packs.
VARIANTS, PACKS = 4, 3

_ARGUMENTS = "a b c steps b_k c_row out out_row add packed".split()
_POINTERS = ("a", "b", "c", "out", "packed")
_AHEAD = 12  # steps of k before it is used, a row of B comes closer that is read where it is


class Tiles:
    """The register tiles of a machine: (most rows, vectors) for tall products, and for those with few rows.

    MR * NV accumulators, NV vectors of B and a broadcast element must fit the registers.
    """

    def __init__(self, target: Target) -> None:
        self.tall, self.flat = ((14, 2), (6, 4)) if target.registers >= 32 else ((6, 2), (2, 4))

    def kernels(self) -> Iterator[tuple[int, int]]:
        """Every (rows, vectors) there is a micro-kernel for: all rows, and the powers of two up to the width."""
        for (most, vectors), least in ((self.flat, 1), (self.tall, self.flat[0] + 1)):
            for rows in range(least, most + 1):
                for v in (1, 2, 4):
                    if v <= vectors:
                        yield rows, v


class TileKernels(Packing):
    """Writes the micro-kernels of one dtype. Strides are in bytes, and int64, like all numbers."""

    def __init__(self, module: Module, dtype: str) -> None:
        super().__init__(module, dtype)
        self.tiles = Tiles(module.target)

    # -- tiles of C

    def epilogue(
        self, k: Kernel, flags: Value, values: Sequence[Value], old: Callable[[], Sequence[Value]], bias: Any
    ) -> list[Value]:
        """Add what was in C, add the bias, clip at zero, as the flags say; `old` and `bias` load what is added."""

        def on(bit: int, fn: Callable[[], Sequence[Value]]) -> list[Value]:
            (*out,) = k.if_(k.ne(flags & bit, 0), fn, lambda: values)
            return out

        values = on(ACCUMULATE, lambda: [v + o for v, o in zip(values, old(), strict=True)])
        values = on(BIAS, lambda: [v + o for v, o in zip(values, bias(), strict=True)])
        return on(RELU, lambda: [k.max(v, 0.0) for v in values])

    def complete(self) -> None:
        """Move a tile that was computed beside C: `complete(tile, c, bias, c_row, rows, columns, flags, stride)`."""
        k, (tile, c, bias, c_row, rows, columns, flags, stride) = self.function(
            "complete", "tile c bias", "c_row rows columns flags stride"
        )
        dtype, lanes = self.dtype, self.lanes
        whole = k.bitwise_and(columns, -lanes)
        left = k.partial(columns - whole)

        adds, has_bias = k.ne(flags & ACCUMULATE, 0), k.ne(flags & BIAS, 0)
        least = k.where(k.ne(flags & RELU, 0), k.const(0.0, dtype), k.const(-math.inf, dtype))
        nothing = k.const(-0.0, dtype, lanes)  # which added to any number leaves it as it is

        def vectors(load: Callable[[Value], Value], store: Callable[[Value, Value], None]) -> Callable[[Value], None]:
            def column(j: Value) -> None:
                (biases,) = k.if_(has_bias, lambda: [load(k.at(bias, j, dtype))], lambda: [nothing])

                def row(_: Value, tile: Value, place: Value) -> list[Value]:
                    value = k.load(tile, dtype, lanes)
                    (value,) = k.if_(adds, lambda: [value + load(place)], lambda: [value])
                    store(k.max(value + biases, least), place)
                    return [k.offset(tile, stride), k.offset(place, c_row)]

                k.loop(0, rows, 1, row, [k.at(tile, j, dtype), k.at(c, j, dtype)])

            return column

        k.loop(0, whole, lanes, vectors(lambda p: k.load(p, dtype, lanes), k.store))
        k.if_(whole < columns, lambda: vectors(lambda p: left.load(p, dtype), left.store)(whole))
        k.ret()
        k.finish()

    def micro_kernels(self) -> None:
        """All of them, and a table of their addresses: `VARIANTS` for each number of rows."""
        tall, vectors = self.tiles.tall
        made = dict.fromkeys((*tile, False) for tile in self.tiles.kernels())
        made |= dict.fromkeys((rows, vectors, True) for rows in range(self.tiles.flat[0] + 1, tall + 1))
        names = {tile: self.micro_kernel(*tile) for tile in made}
        table = []
        for rows in range(tall + 1):
            for variant in ((1, False), (2, False), (4, False), (vectors, True)):
                name = names.get((rows, *variant))
                table.append(f"ptr @{name}" if name else "ptr null")
        self.module.globals["tiles"] = f"@tiles = internal constant [{len(table)} x ptr] [{', '.join(table)}]"

    def micro_kernel(self, rows: int, vectors: int, packs: bool) -> str:
        """`tile(a, b, c, steps, b_k, c_row, out, out_row, add, packed)`: a tile of C from A [k][rows] and B [k][...].

        It is stored, or added to what is there, at `out`. One that packs reads B where it is, for the first time, and
        leaves it in `packed`: there are registers that hold it, and stores cost nothing beside so many sums. Each of
        these functions is kept short, for there are many to compile. Returns its name.
        """
        arguments = [(n, "ptr" if n in _POINTERS else "int64") for n in _ARGUMENTS]
        name = f"tile_{rows}_{vectors}{'_packs' * packs}"
        k = Kernel(self.module, name, arguments, None, self.lanes, internal=True)
        a, b, c, steps, b_k, c_row, out, out_row, add, packed = k.arguments
        dtype, lanes = self.dtype, self.lanes
        at = [v * self.vector_bytes for v in range(vectors)]

        def closer(place: Value) -> None:
            for offset in at:
                k.prefetch(k.offset(place, offset))

        # C comes from further away than A and B: it is there when the sums are. With many sums in a step, a row of C is
        # asked for in each of them: all rows at once would hold up A and B.
        spread = rows > self.tiles.flat[0]
        last = k.offset(c, c_row * (rows - 1))

        def step(_: Value, a: Any, b: Any, *state: Value) -> list[Value]:
            moving, tile = list(state[:-sums]), state[-sums:]
            bs = [k.load(k.offset(b, offset), dtype, lanes) for offset in at]
            if spread:
                closer(moving[0])
                row = k.offset(moving[0], c_row)
                moving[0] = k.where(row < last, row, last)
            if packs:
                closer(moving[1])
                for offset, value in zip(at, bs, strict=True):
                    k.store(value, k.offset(moving[2], offset))
                moving[1:] = k.offset(moving[1], b_k), k.offset(moving[2], vectors * self.vector_bytes)
            out = []
            for r in range(rows):
                element = k.splat(k.load(k.offset(a, r * self.size), dtype))
                out += [k.fma(element, bs[v], tile[r * vectors + v]) for v in range(vectors)]
            return [k.offset(a, rows * self.size), k.offset(b, b_k), *moving, *out]

        if not spread:
            place = c
            for _ in range(rows):
                closer(place)
                place = k.offset(place, c_row)
        moving = [c] * spread + [k.offset(b, b_k * _AHEAD), packed] * packs
        sums = rows * vectors
        tile = k.loop(0, steps, 1, step, [a, b, *moving, *[k.const(0.0, dtype, lanes)] * sums])[-sums:]

        places = []
        for _ in range(rows):
            places += [k.offset(out, offset) for offset in at]
            out = k.offset(out, out_row)
        # All loads come before the stores: one that is whole pages away from a store before it, as the rows of many
        # matrices are, waits for it.
        added = lambda: [value + k.load(place, dtype, lanes) for value, place in zip(tile, places, strict=True)]
        for value, place in zip(k.if_(k.ne(add, 0), added, lambda: tile), places, strict=True):
            k.store(value, place)
        k.ret()
        k.finish()
        return name
