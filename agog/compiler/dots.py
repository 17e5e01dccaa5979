"""The dot products of AVX-512 BF16: pairs of bfloat16 numbers multiplied and added to float32 sums. See `narrow`."""

from __future__ import annotations

from typing import Callable

from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel
from agog.compiler.narrow import PANEL, ROWS, TILE

__all__ = ["FEATURES", "begin", "end"]

FEATURES = "+avx512bf16"

_HEIGHT = 8  # rows of C whose sums are in registers, for two vectors of columns
_DOT = "llvm.x86.avx512bf16.dpbf16ps.512"


def begin(k: Kernel) -> Callable[..., None]:
    """`multiply(blocks, a, b, c, c_row, rows, width)`: 2 x 2 tiles of C, for all of k."""
    k.module.declare(_DOT, "<16 x float>", "<16 x float>, <32 x bfloat>, <32 x bfloat>")

    def pairs(x: Value) -> str:
        return k.op(f"bitcast {x.typed} to <32 x bfloat>", "uint16", 32).text

    def dot(total: Value, x: str, y: str) -> Value:
        text = f"call <16 x float> @{_DOT}({total.typed}, <32 x bfloat> {x}, <32 x bfloat> {y})"
        return k.op(text, "float32", 16)

    def multiply(blocks: Value, a: Value, b: Value, c: Value, c_row: Value, rows: Value, width: Value) -> None:
        zero = k.const(0.0, "float32", 16)

        def step(_: Value, a: Value, b: Value, *sums: Value) -> list[Value]:
            new = list(sums)
            for pair in range(ROWS):
                columns = [pairs(k.load(k.offset(b, half * TILE + 64 * pair), "int32", 16)) for half in range(2)]
                for r in range(_HEIGHT):
                    row = pairs(k.splat(k.load(k.offset(a, 64 * r + 4 * pair), "int32"), 16))
                    for half in range(2):
                        new[2 * r + half] = dot(new[2 * r + half], row, columns[half])
            return [k.offset(a, 2 * TILE), k.offset(b, 2 * TILE), *new]

        def group(first: Value) -> None:
            tile = k.op(f"udiv i64 {first.text}, {ROWS}", "int64")
            start = k.offset(a, tile * TILE + (first - tile * ROWS) * 64)
            _, _, *sums = k.loop(0, blocks, 1, step, [start, b, *[zero] * (2 * _HEIGHT)])
            left, place = rows - first, k.offset(c, first * c_row)

            def whole() -> None:
                for i, total in enumerate(sums):
                    k.store(total, k.offset(place, i // 2 * c_row + i % 2 * 64))

            def part() -> None:
                for i, total in enumerate(sums):
                    inside = k.where(left > i // 2, width - i % 2 * 16, k.const(0, "int64"))
                    mask = k.iota("int64", 16) < k.splat(inside, 16)
                    k.masked_store(total, k.offset(place, i // 2 * c_row + i % 2 * 64), mask)

            k.if_((left >= _HEIGHT) & (width >= PANEL), whole, part)

        k.loop(0, k.where(rows < PANEL, rows, PANEL), _HEIGHT, group)

    return multiply


def end(k: Kernel) -> None:
    """Nothing was set up."""
