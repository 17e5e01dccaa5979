"""Running sums, products and places of extremes along one axis of a C-contiguous array seen as (outer, n, inner).

    scan("float32")(out, x, outer, n, inner, KINDS.index("cumsum"))

One object has all kinds for a dtype, for eager code and for programs. Where inner is 1, some rows are walked side by
side, each of them in order: a step need not wait for the one before it. Only sums of longer rows are made by vectors,
in which they grow by doubling. Otherwise lanes are columns, which go down row by row, each in order as well.
"""

from __future__ import annotations

import functools
from typing import Callable, Sequence

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import FLOATS, UNSIGNED, Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.natives import Native
from agog.compiler.nests import identity
from agog.compiler.targets import HALVES, ITEMSIZE, Target

__all__ = ["KINDS", "code", "out_dtype", "plan", "scan"]

KINDS = ("cumsum", "cumprod", "argcummax", "argcummin", "logcumsumexp")

_PARAMETERS = call.OUT + call.IN + call.INT * 4
_SIDE_BY_SIDE = 8  # rows
_SHORT = 6  # elements of a row, up to which sums are added up one by one, too
_TILE = 1024  # columns
_UNIT = 1 << 13  # elements of a chunk
_AWAKE, _WOKEN = 1 << 15, 1 << 18  # elements from which threads take part that are awake, or are woken


def takes(kind: str, dtype: str) -> bool:
    """Whether there is a scan of that kind for the dtype; 16-bit floats are float32 to whoever asks."""
    return dtype in FLOATS if kind == "logcumsumexp" else dtype in ITEMSIZE and dtype not in HALVES and not (
        kind.startswith("arg") and dtype == "bool")


def out_dtype(kind: str, dtype: str) -> str:
    """The dtype of the results: int64 for places, and integers are added up and multiplied in 64 bits."""
    if kind.startswith("arg"):
        return "int64"
    if dtype in FLOATS:
        return dtype
    return "uint64" if dtype in UNSIGNED and dtype != "bool" else "int64"


def plan(kind: str, dtype: str, shape: Sequence[int], axis: int) -> Native:
    """The function of programs, of (out, x, null, null, table)."""
    outer, n, inner = seen(shape, axis)
    table = np.array([outer, n, inner], np.int64)
    return Native(f"agog_{kind}_{dtype}", table, 4 * outer * n * inner, ("scans", kind, dtype))


def seen(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """A shape as (outer, n, inner)."""
    axis %= len(shape)
    outer = inner = 1
    for a, size in enumerate(shape):
        outer, inner = outer * (size if a < axis else 1), inner * (size if a > axis else 1)
    return outer, shape[axis], inner


def _module(dtype: str, target: Target) -> jit.Later:
    """The one object for eager work and for programs."""
    return call.with_builtin(jit.Later(f"scans {dtype}", target, lambda: build(dtype, target)), _PARAMETERS)


def scan(dtype: str, target: Target | None = None) -> Callable[..., None]:
    """A builtin `(out, x, outer, n, inner, kind)`, `kind` a place in KINDS. `out` and `x` may not overlap."""
    target = target or targets.host()
    return call.bind(_module(dtype, target), f"scan_{dtype}", _PARAMETERS, imports=pool.imports)


@functools.cache
def code(dtype: str, target: Target | None = None) -> jit.Code:
    """The same as functions for other native code, by kind: of (out, x, null, null, table)."""
    kinds = [kind for kind in KINDS if takes(kind, dtype)]
    return jit.load(_module(dtype, target or targets.host()), kinds, pool.imports)


def build(dtype: str, target: Target) -> Module:
    """The module of one dtype."""
    module = Module(target)
    kinds = [kind for kind in KINDS if takes(kind, dtype)]
    for kind in kinds:
        writer = _Scan(module, kind, dtype)
        writer.chunk()
        writer.share()
        writer.entry()
    _check(module, kinds, dtype)
    _run(module, kinds)
    return module


class _Scan:
    """Writes one kind for one dtype. A job: out, x, n, inner, tiles."""

    def __init__(self, module: Module, kind: str, dtype: str) -> None:
        self.module, self.kind, self.dtype = module, kind, dtype
        self.read, self.out = "uint8" if dtype == "bool" else dtype, out_dtype(kind, dtype)
        self.place = kind.startswith("arg")
        self.lanes = min(module.target.lanes(d) for d in (self.read, self.out))

    def start(self, k: Kernel, lanes: int) -> list[Value]:
        """What there is before the first element: what the elements add up to; of places, the best and where it is."""
        if self.place:
            best = identity(self.kind[-3:], self.dtype)
            return [k.const(best, self.dtype, lanes), k.const(0, "int64", lanes)]
        nothing = {"cumsum": -0.0 if self.out in FLOATS else 0, "cumprod": 1, "logcumsumexp": float("-inf")}[self.kind]
        return [k.const(nothing, self.out, lanes)]

    def value(self, k: Kernel, v: Value) -> Value:
        """An element as it is used."""
        if self.dtype == "bool":
            v = k.ne(v, 0)
        return v if self.place else k.cast(v, self.out)

    def step(self, k: Kernel, state: Sequence[Value], v: Value, i: Value) -> list[Value]:
        """The state after the element at place i; the last of it is the result."""
        if self.place:  # the latest of equal ones, and the latest NaN once there is one
            best, where = state
            hit = k.ge(v, best) if self.kind == "argcummax" else k.le(v, best)
            if self.dtype in FLOATS:
                hit = hit | k.isnan(v)
            return [k.where(hit, v, best), k.where(hit, i, where)]
        (sofar,) = state
        if self.kind == "logcumsumexp":
            further = k.max(sofar, v) + k.log1p(k.exp(k.neg(k.abs(sofar - v))))
            # Equal infinities have no difference.
            return [k.where(k.eq(sofar, v), sofar + 0.6931471805599453, further)]
        return [sofar + v if self.kind == "cumsum" else sofar * v]

    def chunk(self) -> None:
        """`kind_chunk(job, begin, end, thread)`: some units, which are rows, or tiles of columns."""
        arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, f"{self.kind}_chunk", arguments, lanes=self.lanes, internal=True)
        job, begin, end, _ = k.arguments
        out, x = (k.load(k.at(job, i, "ptr"), "ptr") for i in (0, 1))
        n, inner, tiles = (k.load(k.at(job, i, "int64"), "int64") for i in (2, 3, 4))

        def rows() -> None:
            one_by_one = functools.partial(self._rows, k, out, x, n, begin, end, _SIDE_BY_SIDE, False)
            if self.kind == "cumsum":
                by_vectors = functools.partial(self._summed_rows, k, out, x, n, begin, end)
                k.if_(n <= _SHORT, one_by_one, by_vectors)
            elif self.kind == "logcumsumexp":
                self._rows(k, out, x, n, begin, end, self.lanes, True)
            else:
                self._rows(k, out, x, n, begin, end, 4 if self.place else _SIDE_BY_SIDE, False)

        k.if_(k.eq(inner, 1), rows, lambda: self._columns(k, out, x, n, inner, tiles, begin, end))
        k.ret()
        k.finish()

    def _rows(
        self, k: Kernel, out: Value, x: Value, n: Value, begin: Value, end: Value, together: int, as_vector: bool
    ) -> None:
        """Rows side by side; what is left of them one by one.

        as_vector: they are the lanes of vectors, which the last row fills up where there are no more.
        """

        def row(first: Value, u: int) -> Value:
            number = first + u if u else first
            return k.where(number < end, number, end - 1) if as_vector else number

        def group(first: Value, rows: int) -> None:
            starts = [row(first, u) * n for u in range(rows)]
            ins = [k.at(x, s, self.read) for s in starts]
            outs = [k.at(out, s, self.out) for s in starts]
            lanes = rows if as_vector else 1
            size = len(self.start(k, lanes))

            def turn(i: Value, *states: Value) -> list[Value]:
                elements = [k.load(k.at(p, i, self.read), self.read) for p in ins]
                if lanes > 1:
                    elements = [_packed(k, elements)]
                found: list[Value] = []
                for u, v in enumerate(elements):
                    found += self.step(k, states[u * size : (u + 1) * size], self.value(k, v), i)
                results = found[size - 1 :: size]
                if lanes > 1:
                    results = [k.extract(results[0], j) for j in range(lanes)]
                for p, result in zip(outs, results, strict=True):
                    k.store(result, k.at(p, i, self.out))
                return found

            k.loop(0, n, 1, turn, self.start(k, lanes) * (rows // lanes))

        if as_vector:
            k.loop(begin, end, together, lambda first: group(first, together))
            return
        whole = end - k.op(f"urem i64 {(end - begin).text}, {together}", "int64")
        k.loop(begin, whole, together, lambda first: group(first, together))
        k.loop(whole, end, 1, lambda first: group(first, 1))

    def _summed_rows(self, k: Kernel, out: Value, x: Value, n: Value, begin: Value, end: Value) -> None:
        """Sums: inside of a vector by doubling; from one vector to the next goes only its last one."""
        lanes, dtype = self.lanes, self.out
        (nothing,) = self.start(k, lanes)
        whole = k.bitwise_and(n, -lanes)
        partial = k.partial(n - whole)

        def sums(v: Value) -> Value:
            reach = 1
            while reach < lanes:
                order = ", ".join(f"i32 {lanes + j - reach if j >= reach else 0}" for j in range(lanes))
                text = f"shufflevector {nothing.typed}, {v.typed}, <{lanes} x i32> <{order}>"
                v, reach = v + k.op(text, dtype, lanes), 2 * reach
            return v

        def row(number: Value) -> None:
            source, to = k.at(x, number * n, self.read), k.at(out, number * n, dtype)

            def vector(i: Value, before: Value) -> list[Value]:
                v = sums(self.value(k, k.load(k.at(source, i, self.read), self.read, lanes)))
                k.store(v + before, k.at(to, i, dtype))
                return [before + k.splat(k.extract(v, lanes - 1))]

            (before,) = k.loop(0, whole, lanes, vector, [nothing])

            def rest() -> None:
                v = sums(self.value(k, partial.load(k.at(source, whole, self.read), self.read)))
                partial.store(v + before, k.at(to, whole, dtype))

            k.if_(whole < n, rest)

        k.loop(begin, end, 1, row)

    def _columns(
        self, k: Kernel, out: Value, x: Value, n: Value, inner: Value, tiles: Value, begin: Value, end: Value
    ) -> None:
        """Tiles of columns. What a column has come to is its last result, or of places is kept beside."""
        lanes = self.lanes
        best = k.alloca((_TILE + lanes) * ITEMSIZE[self.read]) if self.place else None

        def unit(number: Value) -> None:
            o = k.op(f"udiv i64 {number.text}, {tiles.text}", "int64")
            column = (number - o * tiles) * _TILE
            count = inner - column
            count = k.where(count < _TILE, count, _TILE)
            source = k.at(x, o * n * inner + column, self.read)
            to = k.at(out, o * n * inner + column, self.out)
            whole = k.bitwise_and(count, -lanes)
            partial = k.partial(count - whole)

            def load(address: Value, dtype: str, part: bool) -> Value:
                return partial.load(address, dtype) if part else k.load(address, dtype, lanes)

            def store(value: Value, address: Value, part: bool) -> None:
                if part:
                    partial.store(value, address)
                else:
                    k.store(value, address)

            def row(i: Value) -> None:
                at = i * inner

                def vector(c: Value, part: bool = False) -> None:
                    state = [load(k.at(to, at - inner + c, self.out), self.out, part)]
                    if best is not None:
                        state.insert(0, k.load(k.at(best, c, self.read), self.read, lanes))
                    v = self.value(k, load(k.at(source, at + c, self.read), self.read, part))
                    keep(self.step(k, state, v, i), c, at + c, part)

                k.loop(0, whole, lanes, vector)
                k.if_(whole < count, lambda: vector(whole, True))

            def keep(state: Sequence[Value], c: Value, at: Value, part: bool) -> None:
                store(state[-1], k.at(to, at, self.out), part)
                if best is not None:
                    k.store(state[0], k.at(best, c, self.read))

            def first(c: Value, part: bool = False) -> None:
                v = self.value(k, load(k.at(source, c, self.read), self.read, part))
                keep(self.step(k, self.start(k, lanes), v, k.const(0, "int64")), c, c, part)

            def tile() -> None:
                k.loop(0, whole, lanes, first)
                k.if_(whole < count, lambda: first(whole, True))
                k.loop(1, n, 1, row)

            def few() -> None:
                """Fewer columns than lanes: their state stays in registers."""

                def turn(i: Value, *state: Value) -> list[Value]:
                    v = self.value(k, load(k.at(source, i * inner, self.read), self.read, True))
                    found = self.step(k, state, v, i)
                    store(found[-1], k.at(to, i * inner, self.out), True)
                    return found

                k.loop(0, n, 1, turn, self.start(k, lanes))

            k.if_(count < lanes, few, tile)

        k.loop(begin, end, 1, unit)

    def share(self) -> None:
        """`kind_all(out, x, outer, n, inner)`: all of it, on the pool when that pays."""
        arguments = [("out", "ptr"), ("x", "ptr"), *((name, "int64") for name in ("outer", "n", "inner"))]
        k = Kernel(self.module, f"{self.kind}_all", arguments, internal=True)
        out, x, outer, n, inner = k.arguments
        one = k.const(1, "int64")
        tiles = k.where(k.eq(inner, 1), one, k.op(f"udiv i64 {(inner + _TILE - 1).text}, {_TILE}", "int64"))
        job = k.alloca(64, 8)
        for i, v in enumerate((out, x, n, inner, tiles)):
            k.store(v, k.at(job, i, v.dtype))
        units, elements = outer * tiles, outer * n * inner
        size = n * k.where(inner < _TILE, inner, _TILE) + 1
        grain = k.op(f"udiv i64 {_UNIT}, {size.text}", "int64")
        grain = k.bitwise_and(grain + _SIDE_BY_SIDE, -_SIDE_BY_SIDE)
        grain = k.where(k.eq(inner, 1), grain, k.where(size < _UNIT, grain, one))
        chunk = f"{self.kind}_chunk"

        def with_pool(symbol: str) -> Callable[[], None]:
            return lambda: k.call(symbol, None, k.symbol(f"@{chunk}"), job, units, grain)

        def alone() -> None:
            k.call_known(chunk, None, job, k.const(0, "int64"), units, k.const(0, "int32"))

        def some() -> None:
            shared = lambda: k.if_(elements < _WOKEN, with_pool(pool.AWAKE), with_pool(pool.SYMBOL))
            k.if_(elements < _AWAKE, alone, shared)

        k.if_(elements > 0, some)
        k.ret()
        k.finish()

    def entry(self) -> None:
        """`kind(out, x, null, null, table)` for programs."""
        k = Kernel(self.module, self.kind, [(name, "ptr") for name in ("out", "x", "b", "c", "table")])
        out, x, _, _, table = k.arguments
        sizes = [k.load(k.at(table, i, "int64"), "int64") for i in range(3)]
        k.call_known(f"{self.kind}_all", None, out, x, *sizes)
        k.ret()
        k.finish()


def _packed(k: Kernel, scalars: Sequence[Value]) -> Value:
    """Scalars as the lanes of a vector."""
    lanes, dtype = len(scalars), scalars[0].dtype
    vector = k.const(0, dtype, lanes)
    for i, s in enumerate(scalars):
        vector = k.op(f"insertelement {vector.typed}, {s.typed}, i64 {i}", dtype, lanes)
    return vector


def _check(module: Module, kinds: Sequence[str], dtype: str) -> None:
    """`check(slots, sizes)`: do the arrays fit the sizes, and is there such a kind?"""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    outer, n, inner, kind = (k.load(k.at(slots, i, "int64"), "int64") for i in (2, 3, 4, 5))
    size = k.const(0, "int64")
    for name in kinds:
        size = k.where(k.eq(kind, KINDS.index(name)), k.const(ITEMSIZE[out_dtype(name, dtype)], "int64"), size)
    elements = outer * n * inner
    good = (outer >= 0) & (n >= 0) & (inner >= 0) & (size > 0)
    for i, each in enumerate((size, k.const(ITEMSIZE[dtype], "int64"))):
        good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), elements * each)
    message = module.string(f"the arrays do not fit this scan of {dtype}")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _run(module: Module, kinds: Sequence[str]) -> None:
    """`run(slots, sizes)`."""
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, _ = k.arguments
    arguments = [k.load(k.at(slots, i, "ptr" if i < 2 else "int64"), "ptr" if i < 2 else "int64") for i in range(5)]
    kind = k.load(k.at(slots, 5, "int64"), "int64")
    for name in kinds:
        all_of_it = functools.partial(k.call_known, f"{name}_all", None, *arguments)
        k.if_(k.eq(kind, KINDS.index(name)), all_of_it)
    k.ret()
    k.finish()
