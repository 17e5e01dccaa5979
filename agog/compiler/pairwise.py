"""Sums of few floats in NumPy's order, for `folds`: bit for bit what eager code has where no kernel is at hand.

Along an axis whose elements are neighbours, NumPy adds fewer than eight numbers one after another, up to 128 in eight
sums, and more in halves (`pairwise_sum` in its `loops_utils.h`); along any other, one after another.
"""

from __future__ import annotations

from typing import Any

from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel

__all__ = ["FEW", "emit_few"]

FEW = 1 << 9
"""Elements of an array that are few."""

_SUMS, _WHOLE = 8, 128


def emit_few(module: Module, kind: Any, dtype: str) -> None:
    """`few(out, x, outer, n, inner)`: the results of `folds`, added up like that."""
    _emit_pairwise(module, dtype)
    arguments = [("out", "ptr"), ("x", "ptr"), ("outer", "int64"), ("n", "int64"), ("inner", "int64")]
    k = Kernel(module, "few", arguments, internal=True)
    out, x, outer, n, inner = k.arguments

    def row(number: Value) -> None:
        total = k.call_known("pairwise", dtype, k.at(x, number * n, dtype), n)
        k.store(kind.finish(k, total + 0.0, n), k.at(out, number, dtype))

    def columns(number: Value) -> None:
        def column(c: Value) -> None:
            at = k.at(x, number * n * inner + c, dtype)
            (total,) = k.loop(0, n, 1, lambda i, s: [s + k.load(k.at(at, i * inner, dtype), dtype)],
                              [k.const(0.0, dtype)])
            k.store(kind.finish(k, total, n), k.at(out, number * inner + c, dtype))

        k.loop(0, inner, 1, column)

    k.if_(k.eq(inner, 1), lambda: k.loop(0, outer, 1, row) and None, lambda: k.loop(0, outer, 1, columns) and None)
    k.ret()
    k.finish()


def _emit_pairwise(module: Module, dtype: str) -> None:
    """`pairwise(x, n)`: the sum of n neighbours."""
    k = Kernel(module, "pairwise", [("x", "ptr"), ("n", "int64")], dtype, internal=True)
    x, n = k.arguments

    def added(first: Any, total: Value) -> Value:
        return k.loop(first, n, 1, lambda i, s: [s + k.load(k.at(x, i, dtype), dtype)], [total])[0]

    def eight() -> tuple[Value]:
        whole = k.bitwise_and(n, -_SUMS)
        (sums,) = k.loop(_SUMS, whole, _SUMS, lambda i, s: [s + k.load(k.at(x, i, dtype), dtype, _SUMS)],
                         [k.load(x, dtype, _SUMS)])
        parts = [k.extract(sums, lane) for lane in range(_SUMS)]
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return (added(whole, parts[0]),)

    def halves() -> tuple[Value]:
        half = k.bitwise_and(k.op(f"lshr i64 {n.text}, 1", "int64"), -_SUMS)
        first = k.call_known("pairwise", dtype, x, half)
        return (first + k.call_known("pairwise", dtype, k.at(x, half, dtype), n - half),)

    (total,) = k.if_(
        n < _SUMS,
        lambda: (added(0, k.const(-0.0, dtype)),),
        lambda: k.if_(n <= _WHOLE, eight, halves),
    )
    k.ret(total)
    k.finish()
