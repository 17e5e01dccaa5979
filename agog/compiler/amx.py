"""Tiles of Intel's AMX: 16 rows of 64 bytes, of which one instruction multiplies two into a third. See `narrow`."""

from __future__ import annotations

from typing import Callable

from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel
from agog.compiler.narrow import PANEL, ROWS, TILE

__all__ = ["FEATURES", "begin", "end"]

FEATURES = "+amx-tile,+amx-bf16"


def _emit(k: Kernel, name: str, *arguments: str) -> None:
    types = {"tileloadd64": "i8, ptr, i64", "tilestored64": "i8, ptr, i64", "tdpbf16ps": "i8, i8, i8",
             "tilezero": "i8", "ldtilecfg": "ptr", "tilerelease": ""}[name]
    k.module.declare(f"llvm.x86.{name}", "void", types)
    k.emit(f"call void @llvm.x86.{name}({', '.join(arguments)})")


def begin(k: Kernel) -> Callable[..., None]:
    """Set the tiles up; returns `multiply(blocks, a, b, c, c_row, rows, width)`: 2 x 2 tiles of C, for all of k."""
    config = bytearray(64)
    config[0] = 1
    for tile in range(8):
        config[16 + 2 * tile], config[48 + tile] = 64, ROWS  # bytes of a row, rows
    text = "".join(f"\\{byte:02X}" for byte in config)
    k.module.globals["config"] = f'@config = internal constant [64 x i8] c"{text}", align 64'
    edge = k.alloca(PANEL * PANEL * 4)
    _emit(k, "ldtilecfg", "ptr @config")

    def store(place: Value, stride: Value) -> None:
        for t in range(4):
            at = k.offset(place, stride * (t // 2 * ROWS) + t % 2 * 64)
            _emit(k, "tilestored64", f"i8 {t}", at.typed, stride.typed)

    def multiply(blocks: Value, a: Value, b: Value, c: Value, c_row: Value, rows: Value, width: Value) -> None:
        for t in range(4):
            _emit(k, "tilezero", f"i8 {t}")

        def step(_: Value, a: Value, b: Value) -> list[Value]:
            for t, source in ((4, a), (6, b), (7, k.offset(b, TILE)), (5, k.offset(a, TILE))):
                _emit(k, "tileloadd64", f"i8 {t}", source.typed, "i64 64")
            for t in range(4):
                _emit(k, "tdpbf16ps", f"i8 {t}", f"i8 {4 + t // 2}", f"i8 {6 + t % 2}")
            return [k.offset(a, 2 * TILE), k.offset(b, 2 * TILE)]

        k.loop(0, blocks, 1, step, [a, b])

        def part() -> None:
            store(edge, k.const(PANEL * 4, "int64"))

            def line(r: Value) -> None:
                for half in range(2):
                    left = width - half * 16
                    inside = k.iota("int32", 16) < k.splat(k.cast(k.where(left < 16, left, 16), "int32"), 16)
                    value = k.load(k.offset(edge, r * (PANEL * 4) + half * 64), "float32", 16)
                    k.masked_store(value, k.offset(c, r * c_row + half * 64), inside)

            k.loop(0, k.where(rows < PANEL, rows, PANEL), 1, line)

        k.if_((rows >= PANEL) & (width >= PANEL), lambda: store(c, c_row), part)

    return multiply


def end(k: Kernel) -> None:
    """The tiles are no longer used."""
    _emit(k, "tilerelease")
