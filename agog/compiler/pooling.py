"""Maximum over windows of images, and its gradient, which goes to the first of equal ones.

    max_pool("float32").forward(x, kernel, stride, padding, dilation)         -> y
    max_pool("float32").scatter(g, x, y, kernel, stride, padding, dilation)   -> dx

The arguments are those of the rows `_max_pool` and `_max_pool_scatter`, for one or two spatial axes. A window of 2 x 2
that moves by 2 is computed in registers; any other by columns first, then along the row. No indices are kept: the
gradient compares x with y again, which costs less than reading them.
"""

from __future__ import annotations

import functools
from math import prod
from typing import Any, Callable

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import Packing
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["MaxPool", "max_pool", "plan"]

#: Words of a table.
HEAD = (
    "out_size a_size b_size c_size planes x_h x_w y_h y_w k_h k_w s_h s_w p_h p_w d_h d_w wide grain alone two"
).split()

_WIDEST = 4096  # elements of a padded row: the buffer for one is on the stack
_PARALLEL, _GRAIN = 1 << 15, 1 << 13  # elements
FORWARD, SCATTER = 0, 1


class MaxPool:
    """Max pooling of one dtype. Methods return None for what `plan` has no kernel for."""

    __slots__ = ("dtype", "native", "nothing", "target")

    def __init__(self, dtype: str, target: Target, native: Callable[..., None]) -> None:
        self.dtype, self.target, self.native = np.dtype(dtype), target, native
        self.nothing = np.empty(0, dtype)

    def forward(self, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, empty: Any = np.empty) -> Any:
        """The row `_max_pool`."""
        p = plan(self.dtype.name, FORWARD, x.shape, kernel, stride, padding, dilation)
        return self._run(p, x, self.nothing, self.nothing, empty)

    def scatter(
        self, g: Any, x: Any, y: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, empty: Any = np.empty
    ) -> Any:
        """The row `_max_pool_scatter`."""
        p = plan(self.dtype.name, SCATTER, x.shape, kernel, stride, padding, dilation)
        return self._run(p, g, x, y, empty)

    def _run(self, p: Any, a: Any, b: Any, c: Any, empty: Any) -> Any:
        if p is None:
            return None
        pool.refresh()
        kind, table, shape = p
        out = empty(shape, self.dtype)
        self.native(out, *map(np.ascontiguousarray, (a, b, c)), table, kind)
        return out


@functools.lru_cache(maxsize=1024)
def plan(
    dtype: str, kind: int, x: tuple[int, ...], kernel: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[int, np.ndarray, tuple[int, ...]] | None:
    """(kind, table, shape of the result), or None."""
    if len(x) not in (3, 4) or not prod(x):
        return None
    given = zip(x[2:], kernel, stride, padding, dilation)
    axes = [(n, (n + lo + hi - d * (k - 1) - 1) // s + 1, k, s, lo, hi, d) for n, k, s, (lo, hi), d in given]
    y = (*x[:2], *(a[1] for a in axes))
    if not prod(y):
        return None
    if len(axes) == 1:
        axes.insert(0, (1, 1, 1, 1, 0, 0, 1))
    (x_h, y_h, k_h, s_h, p_h, _, d_h), (x_w, y_w, k_w, s_w, p_w, _, d_w) = axes
    wide = max(p_w + x_w, (y_w - 1) * s_w + d_w * (k_w - 1) + 1)
    if wide > _WIDEST:
        return None
    two = all(a[2:] == (2, 2, 0, a[5], 1) and 2 * a[1] <= a[0] for a in axes)
    size, planes = ITEMSIZE[dtype], x[0] * x[1]
    xs, ys = prod(x) * size, prod(y) * size
    sizes = (ys, xs, 0, 0) if kind == FORWARD else (xs, ys, xs, ys)
    grain = max(1, _GRAIN // (x_h * x_w))
    table = [*sizes, planes, x_h, x_w, y_h, y_w, k_h, k_w, s_h, s_w, p_h, p_w, d_h, d_w, wide, grain,
             prod(x) < _PARALLEL, two]
    return kind, np.array(table, np.int64), y if kind == FORWARD else x


_PARAMETERS = call.OUT + call.IN * 4 + call.INT


def _module(dtype: str, target: Target) -> jit.Later:
    """The one object for eager work and for programs."""
    return call.with_builtin(jit.Later(f"pooling {dtype}", target, lambda: build(dtype, target)), _PARAMETERS)


@functools.cache
def max_pool(dtype: str, target: Target | None = None) -> MaxPool:
    """The `MaxPool` of "float32" or "float64"; compiled at the first call on a machine, then read from disk."""
    target = target or targets.host()
    native = call.bind(_module(dtype, target), f"max_pool_{dtype}", _PARAMETERS, imports=pool.imports)
    return MaxPool(dtype, target, native)


@functools.cache
def code(dtype: str, target: Target | None = None) -> jit.Code:
    """The same as functions for other native code: "max_pool" and "max_scatter", of (out, a, b, c, table)."""
    return jit.load(_module(dtype, target or targets.host()), ["max_pool", "max_scatter"], pool.imports)


def build(dtype: str, target: Target) -> Module:
    """The module of one dtype."""
    module = Module(target)
    writer = _Writer(module, dtype)
    writer.task("max_pool", writer.forward)
    writer.task("max_scatter", writer.scatter)
    writer.interface()
    return module


class _Fields:
    def __init__(self, k: Kernel, table: Value) -> None:
        for i, name in enumerate(HEAD):
            setattr(self, name, k.load(k.at(table, i, "int64"), "int64"))


class _Writer(Packing):
    def task(self, name: str, body: Callable[..., None]) -> None:
        """`name(out, a, b, c, table)`, which shares out the planes: `body(k, fields, plane, out, a, b, c)` does one."""
        arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, f"{name}_task", arguments, None, self.lanes, internal=True)
        job, begin, end, _ = k.arguments
        out, a, b, c, table = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(5))
        f: Any = _Fields(k, table)
        body(k, f, begin, end, out, a, b, c)
        k.ret()
        k.finish()
        k = Kernel(self.module, name, [(n, "ptr") for n in ("out", "a", "b", "c", "table")], None, self.lanes)
        job = k.alloca(64, 64)
        for i, value in enumerate(k.arguments):
            k.store(value, k.at(job, i, "ptr"))
        f = _Fields(k, k.arguments[4])
        zero, task = k.const(0, "int64"), f"{name}_task"
        k.if_(
            k.ne(f.alone, 0),
            lambda: k.call_known(task, None, job, zero, f.planes, k.const(0, "int32")),
            lambda: k.call(pool.SYMBOL, None, k.symbol(f"@{task}"), job, f.planes, f.grain),
        )
        k.ret()
        k.finish()

    # -- forward

    def forward(self, k: Kernel, f: Any, begin: Value, end: Value, out: Value, x: Value, *_: Value) -> None:
        dtype, lanes = self.dtype, self.lanes
        buffer = k.alloca((_WIDEST + 4 * lanes) * self.size)
        low = k.const(float("-inf"), dtype, lanes)
        two = k.ne(f.two, 0)

        def margins() -> None:
            k.loop(0, f.p_w, 1, lambda i: k.store(k.const(float("-inf"), dtype), k.at(buffer, i, dtype)))

        k.if_(two, None, margins)

        def plane(p: Value) -> None:
            source, target = k.at(x, p * f.x_h * f.x_w, dtype), k.at(out, p * f.y_h * f.y_w, dtype)
            k.if_(two, lambda: self._two(k, f, source, target), lambda: general(source, target))

        def general(source: Value, target: Value) -> None:
            def row(i: Value) -> None:
                top = i * f.s_h - f.p_h
                first, last = self._range(k, top, f.d_h, f.k_h, f.x_h)
                whole = k.bitwise_and(f.x_w, -lanes)
                partial = k.partial(f.x_w - whole)

                def column(w: Value, load: Callable[[Value], Value]) -> None:
                    def tap(a: Value, best: Value) -> list[Value]:
                        return [k.max(best, load(k.at(source, (top + a * f.d_h) * f.x_w + w, dtype)))]

                    (best,) = k.loop(first, last, 1, tap, [low])
                    k.store(best, k.at(buffer, f.p_w + w, dtype))

                k.loop(0, whole, lanes, lambda w: column(w, lambda p: k.load(p, dtype, lanes)))
                k.if_(whole < f.x_w, lambda: column(whole, lambda p: partial.load(p, dtype)))
                k.loop(f.p_w + f.x_w, f.wide, lanes, lambda w: k.store(low, k.at(buffer, w, dtype)))
                line = k.at(target, i * f.y_w, dtype)

                def along(step: int) -> None:
                    def vector(j: Value) -> None:
                        left = f.y_w - j
                        part = k.partial(k.where(left < lanes, left, lanes))

                        def tap(b: Value, best: Value) -> list[Value]:
                            at = k.at(buffer, j * step + b * f.d_w, dtype)
                            value = k.load(at, dtype, lanes)
                            if step == 2:
                                value = self._pick(k, value, k.load(k.at(at, lanes, dtype), dtype, lanes), 0)
                            return [k.max(best, value)]

                        (best,) = k.loop(0, f.k_w, 1, tap, [low])
                        place = k.at(line, j, dtype)
                        k.if_(left >= lanes, lambda: k.store(best, place), lambda: part.store(best, place))

                    k.loop(0, f.y_w, lanes, vector)

                def each() -> None:
                    def element(j: Value) -> None:
                        def tap(b: Value, best: Value) -> list[Value]:
                            return [k.max(best, k.load(k.at(buffer, j * f.s_w + b * f.d_w, dtype), dtype))]

                        (best,) = k.loop(0, f.k_w, 1, tap, [k.const(float("-inf"), dtype)])
                        k.store(best, k.at(line, j, dtype))

                    k.loop(0, f.y_w, 1, element)

                k.if_(k.eq(f.s_w, 1), lambda: along(1), lambda: k.if_(k.eq(f.s_w, 2), lambda: along(2), each) and None)

            k.loop(0, f.y_h, 1, row)

        k.loop(begin, end, 1, plane)

    def _range(self, k: Kernel, start: Value, step: Value, count: Value, size: Value) -> tuple[Value, Value]:
        """The indices i in range(count) with 0 <= start + i step < size."""
        zero = k.const(0, "int64")
        low = k.where(start < 0, k.op(f"sdiv i64 {(step - 1 - start).text}, {step.text}", "int64"), zero)
        high = k.op(f"sdiv i64 {(size - 1 - start + step).text}, {step.text}", "int64")
        return low, k.where(start >= size, zero, k.where(high < count, high, count))

    def _pick(self, k: Kernel, a: Value, b: Value, odd: int) -> Value:
        """Every other element of a and b: the even ones, or the odd ones."""
        return self._shuffle(k, a, b, [2 * i + odd for i in range(self.lanes)])

    def _shuffle(self, k: Kernel, a: Value, b: Value, picks: list[int]) -> Value:
        lanes = ", ".join(f"i32 {p}" for p in picks)
        return k.op(f"shufflevector {a.typed}, {b.typed}, <{len(picks)} x i32> <{lanes}>", self.dtype, len(picks))

    def _pairs(self, k: Kernel, f: Any, body: Callable[..., None]) -> None:
        """`body(row, column, halves, whole)` for every vector of results of windows of 2 x 2.

        halves: two accesses `(load, store)` for the vectors of x that belong to it; whole: one for the results.
        """
        dtype, lanes = self.dtype, self.lanes
        full = (lambda p: k.load(p, dtype, lanes), lambda v, p: k.store(v, p))
        whole = k.bitwise_and(f.y_w, -lanes)
        left = f.y_w - whole
        zero = k.const(0, "int64")
        part = k.partial(left)
        first = k.partial(k.where(2 * left < lanes, 2 * left, lanes))
        second = k.partial(k.where(2 * left > lanes, 2 * left - lanes, zero))
        access = lambda p: (lambda at: p.load(at, dtype), lambda v, at: p.store(v, at))

        def row(i: Value) -> None:
            k.loop(0, whole, lanes, lambda j: body(i, j, (full, full), full))
            k.if_(left > 0, lambda: body(i, whole, (access(first), access(second)), access(part)))

        k.loop(0, f.y_h, 1, row)

    def _quads(self, k: Kernel, f: Any, x: Value, i: Value, j: Value, halves: Any) -> list[Value]:
        """The four elements of each window, in order."""
        out = []
        for r in range(2):
            at = k.at(x, (2 * i + r) * f.x_w + 2 * j, self.dtype)
            a, b = halves[0][0](at), halves[1][0](k.at(at, self.lanes, self.dtype))
            out += [self._pick(k, a, b, 0), self._pick(k, a, b, 1)]
        return out

    def _two(self, k: Kernel, f: Any, x: Value, y: Value) -> None:
        def body(i: Value, j: Value, halves: Any, whole: Any) -> None:
            a, b, c, d = self._quads(k, f, x, i, j, halves)
            whole[1](k.max(k.max(a, b), k.max(c, d)), k.at(y, i * f.y_w + j, self.dtype))

        self._pairs(k, f, body)

    # -- backward

    def scatter(self, k: Kernel, f: Any, begin: Value, end: Value, out: Value, g: Value, x: Value, y: Value) -> None:
        dtype = self.dtype
        two = k.ne(f.two, 0)
        covered = k.eq(2 * f.y_h, f.x_h) & k.eq(2 * f.y_w, f.x_w)

        def plane(p: Value) -> None:
            big, small = p * f.x_h * f.x_w, p * f.y_h * f.y_w
            target, source = k.at(out, big, dtype), k.at(x, big, dtype)
            gs, ys = k.at(g, small, dtype), k.at(y, small, dtype)

            def clear() -> None:
                size = f.x_h * f.x_w * self.size
                k.call("llvm.memset.p0.i64", None, target, k.const(0, "uint8"), size, k.const(False, "bool"))

            k.if_(two & covered, None, clear)
            k.if_(two, lambda: pairs(target, gs, source, ys), lambda: general(target, gs, source, ys))

        def pairs(target: Value, g: Value, x: Value, y: Value) -> None:
            def body(i: Value, j: Value, halves: Any, whole: Any) -> None:
                at = i * f.y_w + j
                best, part = whole[0](k.at(y, at, dtype)), whole[0](k.at(g, at, dtype))
                taken, parts = None, []
                for value in self._quads(k, f, x, i, j, halves):
                    hit = k.eq(value, best)
                    free = hit if taken is None else hit & k.bitwise_not(taken)
                    taken = hit if taken is None else taken | hit
                    parts.append(k.where(free, part, 0.0))
                n = self.lanes
                for r in range(2):
                    a, b = parts[2 * r : 2 * r + 2]
                    mixed = [v for e in range(n) for v in (e, n + e)]
                    place = k.at(target, (2 * i + r) * f.x_w + 2 * j, dtype)
                    halves[0][1](self._shuffle(k, a, b, mixed[:n]), place)
                    halves[1][1](self._shuffle(k, a, b, mixed[n:]), k.at(place, n, dtype))

            self._pairs(k, f, body)

        def general(target: Value, g: Value, x: Value, y: Value) -> None:
            def row(i: Value) -> None:
                top = i * f.s_h - f.p_h
                a0, a1 = self._range(k, top, f.d_h, f.k_h, f.x_h)

                def window(j: Value) -> None:
                    left = j * f.s_w - f.p_w
                    b0, b1 = self._range(k, left, f.d_w, f.k_w, f.x_w)
                    at = i * f.y_w + j
                    best = k.load(k.at(y, at, dtype), dtype)

                    def line(a: Value, found: Value) -> list[Value]:
                        def tap(b: Value, found: Value) -> list[Value]:
                            place = (top + a * f.d_h) * f.x_w + left + b * f.d_w
                            hit = k.eq(k.load(k.at(x, place, dtype), dtype), best) & (found < 0)
                            return [k.where(hit, place, found)]

                        return k.loop(b0, b1, 1, tap, [found])

                    (found,) = k.loop(a0, a1, 1, line, [k.const(-1, "int64")])

                    def add() -> None:
                        place = k.at(target, found, dtype)
                        k.store(k.load(place, dtype) + k.load(k.at(g, at, dtype), dtype), place)

                    k.if_(found >= 0, add)

                k.loop(0, f.y_w, 1, window)

            k.loop(0, f.y_h, 1, row)

        k.loop(begin, end, 1, plane)

    # -- the interface: (out, a, b, c, table, kind)

    def interface(self) -> None:
        """`check` and `run` for `call.bind`."""
        call.emit_sizes_check(self.module, "pooling")
        k, (slots, sizes) = self.function("run", "slots sizes", "", call.native_calls)
        arguments = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(5)]
        kind = k.load(k.at(slots, 5, "int64"), "int64")
        k.if_(
            k.eq(kind, SCATTER),
            lambda: k.call_known("max_scatter", None, *arguments),
            lambda: k.call_known("max_pool", None, *arguments),
        )
        k.ret()
        k.finish()
