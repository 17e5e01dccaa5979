"""Sums and means of few floats in NumPy's order: bit for bit what eager code has where no kernel is at hand.

    pairwise("sum", "float32")(out, x, outer, n, inner)

is what `folds` has under that name, but for the order, and without threads. Along an axis whose elements are
neighbours, NumPy adds fewer than eight numbers one after another, up to 128 in eight sums, and more in halves
(`pairwise_sum` in its `loops_utils.h`); along any other, one after another.
"""

from __future__ import annotations

from typing import Any, Callable

from agog.compiler import call, jit, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["IN_ORDER", "pairwise"]

IN_ORDER = ("sum", "mean")
"""The kinds that there are."""

_SUMS, _WHOLE = 8, 128
_PARAMETERS = call.OUT + call.IN + call.INT * 3


def pairwise(kind: str, dtype: str, target: Target | None = None) -> Callable[..., None]:
    """The reduction of an array (outer, n, inner) of float32 or float64 over n as a builtin, see above."""
    target = target or targets.host()
    later = jit.Later(f"pairwise {kind} {dtype}", target, lambda: _build(kind, dtype, target))
    return call.bind(later, f"{kind}_{dtype}", _PARAMETERS)


def _build(kind: str, dtype: str, target: Target) -> Module:
    module = Module(target)
    _emit_pairwise(module, dtype)
    _emit_check(module, dtype)
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, _ = k.arguments
    out, x = (k.load(k.at(slots, i, "ptr"), "ptr") for i in (0, 1))
    outer, n, inner = (k.load(k.at(slots, i, "int64"), "int64") for i in (2, 3, 4))

    def store(total: Value, place: Value) -> None:
        total = total + 0.0  # as NumPy begins
        k.store(total / k.cast(n, dtype) if kind == "mean" else total, k.at(out, place, dtype))

    def row(number: Value) -> None:
        store(k.call_known("pairwise", dtype, k.at(x, number * n, dtype), n), number)

    def columns(number: Value) -> None:
        def column(c: Value) -> None:
            first = k.at(x, number * n * inner + c, dtype)
            turn = lambda i, total: [total + k.load(k.at(first, i * inner, dtype), dtype)]
            store(k.loop(0, n, 1, turn, [k.const(0.0, dtype)])[0], number * inner + c)

        k.loop(0, inner, 1, column)

    k.if_(k.eq(inner, 1), lambda: k.loop(0, outer, 1, row) and None, lambda: k.loop(0, outer, 1, columns) and None)
    k.ret()
    k.finish()
    return module


def _emit_check(module: Module, dtype: str) -> None:
    """`check(slots, sizes)`: do the arrays fit the sizes?"""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    outer, n, inner = (k.load(k.at(slots, i, "int64"), "int64") for i in (2, 3, 4))
    good = (outer >= 0) & (n > 0) & (inner >= 0)
    for i, count in enumerate((outer * inner, outer * n * inner)):
        good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), count * ITEMSIZE[dtype])
    message = module.string(f"the arrays do not fit this reduction of {dtype}")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _emit_pairwise(module: Module, dtype: str) -> None:
    """`pairwise(x, n)`: the sum of n neighbours."""
    k = Kernel(module, "pairwise", [("x", "ptr"), ("n", "int64")], dtype, internal=True)
    x, n = k.arguments

    def added(first: Any, total: Value) -> Value:
        return k.loop(first, n, 1, lambda i, s: [s + k.load(k.at(x, i, dtype), dtype)], [total])[0]

    def eight() -> tuple[Value]:
        whole = k.bitwise_and(n, -_SUMS)
        turn = lambda i, s: [s + k.load(k.at(x, i, dtype), dtype, _SUMS)]
        (sums,) = k.loop(_SUMS, whole, _SUMS, turn, [k.load(x, dtype, _SUMS)])
        parts = [k.extract(sums, lane) for lane in range(_SUMS)]
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return (added(whole, parts[0]),)

    def halves() -> tuple[Value]:
        half = k.bitwise_and(k.op(f"lshr i64 {n.text}, 1", "int64"), -_SUMS)
        first = k.call_known("pairwise", dtype, x, half)
        return (first + k.call_known("pairwise", dtype, k.at(x, half, dtype), n - half),)

    def more() -> tuple[Value]:
        return k.if_(n <= _WHOLE, eight, halves)  # type: ignore[return-value]

    (total,) = k.if_(n < _SUMS, lambda: (added(0, k.const(-0.0, dtype)),), more)
    k.ret(total)
    k.finish()
