"""Order statistics natively: the element of each row that would be at a place if the row were sorted, and the next one.

    select(dtype)(out, x, place)        out (rows, 2) of x (rows, n); the last one has no next, and out[:, 1] no sense

Elements become words in their order, nan the largest. Beginning with the first bits, the words are counted by their
next digit, and those are kept that have the digit that the place falls on: after one or two digits these are few.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import FLOATS, Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.searching import DTYPES, row_functions
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["Selecting", "select"]

_DIGIT = 11
_PARAMETERS = call.OUT + call.IN + call.INT * 2


@functools.cache
def select(dtype: str, target: Target | None = None) -> Callable[..., None]:
    """The function for a dtype of `searching.DTYPES`; arrays are C-contiguous, and n is below 2**31."""
    target = target or targets.host()
    later = jit.Later(f"select {dtype}", target, lambda: build(dtype, target))
    native = call.bind(call.with_builtin(later, _PARAMETERS), f"select_{dtype}", _PARAMETERS, imports=pool.imports)

    def run(out: np.ndarray, x: np.ndarray, place: int) -> None:
        pool.refresh()
        native(out, x, x.shape[1], place)

    return run


class Selecting:
    """The kernel for eager code. `ready(make, dtype)` is `make(dtype)`, or None before it is made."""

    def __init__(self, ready: Callable[..., Any]) -> None:
        self.ready = ready

    def table(self) -> dict[str, Callable[..., Any]]:
        """For `large.kernels`."""
        return {"ranked": self.ranked}

    def ranked(self, x: Any, places: tuple[int, ...]) -> Any:
        """The row `_ranked`."""
        if x.dtype.name not in DTYPES or x.shape[-1] >= 1 << 31:
            return None
        kernel = self.ready(select, x.dtype.name)
        if kernel is None:
            return None
        flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out, pair, known = np.empty((len(flat), len(places)), x.dtype), np.empty((len(flat), 2), x.dtype), -2
        for i, place in enumerate(places):
            if place != known + 1:
                kernel(pair, flat, place)
                known = place
            out[:, i] = pair[:, place - known]
        return out.reshape(*x.shape[:-1], len(places))


def build(dtype: str, target: Target) -> Module:
    """The module of one dtype."""
    module = Module(target)
    size = ITEMSIZE[dtype]
    bits, word, lanes = 8 * size, f"int{8 * size}", target.lanes(dtype)
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, "chunk", arguments, lanes=lanes, internal=True)
    job, begin, end, _ = k.arguments
    out, x = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(2))
    n, place = (k.load(k.at(job, i, "int64"), "int64") for i in (2, 3))
    words, counts = k.allocate(n * size), k.alloca(4 << _DIGIT)
    most = (1 << bits - 1) - 1

    def key(i: Value, source: Value, lanes: int) -> Value:
        v = k.load(k.at(source, i, dtype), dtype, lanes)
        if dtype not in FLOATS:
            return v
        raw = k.cast(k.bits(v), word)
        return k.where(k.isnan(v), k.const(most, word), raw ^ (k.shift_right(raw, bits - 1) & most))

    def element(key: Value) -> Value:
        if dtype not in FLOATS:
            return key
        return k.from_bits(key ^ (k.shift_right(key, bits - 1) & most))

    def row(r: Value) -> None:
        source = k.at(x, r * n, dtype)
        sign = k.const(-1 << bits - 1, word)

        def store(i: Value, lanes: int) -> None:
            flip = k.splat(sign, lanes) if lanes > 1 else sign
            k.store(key(i, source, lanes) ^ flip, k.at(words, i, word))

        whole = n - k.op(f"urem i64 {n.text}, {lanes}", "int64")
        k.loop(0, whole, lanes, lambda i: store(i, lanes))
        k.loop(whole, n, 1, lambda i: store(i, 1))
        left, rank = n, place
        for first in range(0, bits, _DIGIT):
            width = min(_DIGIT, bits - first)
            shift = bits - first - width

            def digit(i: Value) -> tuple[Value, Value]:
                w = k.load(k.at(words, i, word), word)
                d = k.op(f"lshr {w.type} {w.text}, {shift}", word) & ((1 << width) - 1)
                return w, k.cast(d, "int64")

            def number(i: Value) -> None:
                mine = k.at(counts, digit(i)[1], "int32")
                k.store(k.load(mine, "int32") + 1, mine)

            def find(d: Value, total: Value, found: Value, before: Value) -> list[Value]:
                here = total <= rank
                after = total + k.cast(k.load(k.at(counts, d, "int32"), "int32"), "int64")
                return [after, k.where(here, d, found), k.where(here, total, before)]

            def keep(i: Value, kept: Value) -> list[Value]:
                w, d = digit(i)
                k.store(w, k.at(words, kept, word))
                return [kept + k.cast(k.eq(d, found), "int64")]

            k.call("llvm.memset.p0.i64", None, counts, k.const(0, "uint8"), k.const(4 << _DIGIT, "int64"),
                   k.const(False, "bool"))
            k.loop(0, left, 1, number)
            zero = k.const(0, "int64")
            _, found, before = k.loop(0, 1 << width, 1, find, [zero, zero, zero])
            (left,) = k.loop(0, left, 1, keep, [zero])
            rank = rank - before
        mine = k.load(words, word) ^ sign

        def further(i: Value, least: Value, count: Value, lanes: int) -> list[Value]:
            v = key(i, source, lanes)
            after = v > (k.splat(mine, lanes) if lanes > 1 else mine)
            least = k.where(after & (v < least), v, least)
            return [least, count + k.where(after, k.const(0, word), 1)]

        start = [k.const(v, word, lanes) for v in (most, 0)]
        leasts, several = k.loop(0, whole, lanes, lambda i, a, b: further(i, a, b, lanes), start)
        least, count = k.const(most, word), k.const(0, word)
        for lane in range(lanes):
            one = k.extract(leasts, lane)
            least, count = k.where(one < least, one, least), count + k.extract(several, lane)
        least, count = k.loop(whole, n, 1, lambda i, a, b: further(i, a, b, 1), [least, count])
        k.store(element(mine), k.at(out, r * 2, dtype))
        k.store(element(k.where(k.cast(count, "int64") > place + 1, mine, least)), k.at(out, r * 2 + 1, dtype))

    k.loop(begin, end, 1, row)
    k.call("free", None, words, external=True)
    k.ret()
    k.finish()

    row_functions(
        module, dtype, lambda n, place: (n < 1 << 31) & (place >= 0) & (place < n), lambda _: 2 * size,
        lambda n: n * 4 + (1 << _DIGIT), "select takes out (rows, 2), x (rows, n), n and a place below it",
    )
    return module
