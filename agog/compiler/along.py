"""Elements taken along an axis at places that integers name, and added there: `take_along_axis` and its adjoint.

Arrays are (outer, n, inner) and (outer, m, inner), the indices as the latter:

    take(out, x, indices, status, sizes)    out[o, j, i] = x[o, indices[o, j, i], i]
    add(out, g, indices, status, sizes)     out[o, indices[o, j, i], i] = sum of g[o, j, i] over j, in their order

Negative indices count from the end. An index outside of the axis sets `status` to 1; the rest of `out` is as it should
be. Threads share out what no two of them write, so each sum is one in the order of j, whatever their number.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from agog.array import large
from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import FLOATS, Module, Value, llvm_type, mangled
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["Along", "Lines", "along"]

_AWAKE, _WAKE = 1 << 14, 1 << 17  # elements from which threads take part that are awake, or are woken
_GRAIN = 1 << 12  # elements of a task, about
_COLUMNS = 32  # at least, of a task
_PARAMETERS = call.OUT + call.IN * 2 + call.OUT + call.IN


class Along:
    """The function of a kind, "take", "add" or "sum": as "add", with the sums of float32 in float64."""

    def __init__(self, native: Callable[..., None]) -> None:
        self.native = native

    def __call__(self, out: np.ndarray, x: np.ndarray, indices: np.ndarray, sizes: tuple[int, int, int, int]) -> bool:
        """Whether all indices were inside. sizes: outer, n, m and inner; indices are int64, all are C-contiguous."""
        pool.refresh()
        status = np.zeros(1, np.int64)
        self.native(out, x, indices, status, np.array(sizes))
        return not status[0]


@functools.cache
def along(kind: str, dtype: str, target: Target | None = None) -> Along:
    """The `Along` of a kind and a dtype; for "take" an integer of the size of the elements."""
    target = target or targets.host()
    later = jit.Later(f"{kind} along {dtype}", target, lambda: build(kind, dtype, target))
    return Along(call.bind(call.with_builtin(later, _PARAMETERS), f"{kind}_along_{dtype}", _PARAMETERS,
                           imports=pool.imports))


class Lines:
    """The kernels for eager code. `ready(along, kind, dtype)` is the function, or None before there is one."""

    def __init__(self, ready: Callable[..., Any]) -> None:
        self.ready = ready

    def table(self) -> dict[str, Callable[..., Any]]:
        """For `large.kernels`."""
        return {"take_along": self.take, "add_along": self.add}

    def take(self, x: Any, indices: Any, sizes: tuple[int, int, int, int]) -> Any:
        """`x` (outer, n, inner) at indices (outer, m, inner); None where one of them is outside, too."""
        if x.itemsize not in (4, 8) or not x.flags.c_contiguous:
            return None
        kernel = self.ready(along, "take", f"int{8 * x.itemsize}")
        if kernel is None:
            return None
        out = large.empty(indices.shape, x.dtype, x, indices)
        return out if kernel(out, x, np.ascontiguousarray(indices, np.int64), sizes) else None

    def add(self, g: Any, indices: Any, shape: tuple[int, ...], sizes: tuple[int, int, int, int]) -> Any:
        """Zeros of `shape` to which g is added at indices, summed in float64; None as above."""
        if g.dtype.name not in FLOATS:
            return None
        kernel = self.ready(along, "sum" if g.itemsize == 4 else "add", g.dtype.name)
        if kernel is None:
            return None
        out = large.empty(shape, g.dtype, g, indices)
        good = kernel(out, np.ascontiguousarray(g), np.ascontiguousarray(indices, np.int64), sizes)
        return out if good else None


def build(kind: str, dtype: str, target: Target) -> Module:
    """The module of a kind and a dtype."""
    module = Module(target)
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, "chunk", arguments, lanes=target.lanes(dtype), internal=True)
    (_take if kind == "take" else _add)(k, _Job(k, k.arguments[0]), dtype, "float64" if kind == "sum" else dtype)
    _check(module, kind, dtype)
    _run(module, kind)
    return module


class _Job:
    """What tasks are told: out, x, indices, status, (outer, n, m, inner)."""

    def __init__(self, k: Kernel, job: Value) -> None:
        self.out, self.x, self.indices, self.status, sizes = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(5))
        self.outer, self.n, self.m, self.inner = (k.load(k.at(sizes, i, "int64"), "int64") for i in range(4))
        self.single = k.eq(self.outer, 1)

    def index(self, k: Kernel, at: Value, lanes: int = 1) -> tuple[Value, Value]:
        """An index, or a vector of them, and whether it is inside."""
        index = k.load(k.at(self.indices, at, "int64"), "int64", lanes)
        n = k.splat(self.n, lanes) if lanes > 1 else self.n
        index = index + (k.shift_right(index, 63) & n)
        return index, k.op(f"icmp ult {index.typed}, {n.text}", "bool", lanes)

    def spans(self, k: Kernel, whole: Value) -> list[Value]:
        """What a task goes over, first and end: of outer, and where that is 1, of an axis of size `whole` instead."""
        _, begin, end, _ = k.arguments
        zero, one = k.const(0, "int64"), k.const(1, "int64")
        return [k.where(self.single, a, b) for a, b in ((zero, begin), (one, end), (begin, zero), (end, whole))]


def _report(k: Kernel, job: _Job, good: Value) -> None:
    k.if_(good, None, lambda: k.store(k.const(1, "int64"), job.status))
    k.ret()
    k.finish()


def _take(k: Kernel, job: _Job, dtype: str, _: str) -> None:
    lanes = max(2, k.target.lanes("int64"))
    first, last, begin, end = job.spans(k, job.m)

    def outer(o: Value, good: Value) -> list[Value]:
        source = k.at(job.x, o * job.n * job.inner, dtype)

        def rows() -> tuple[Value]:
            def row(j: Value, good: Value) -> list[Value]:
                start = (o * job.m + j) * job.inner

                def element(i: Value, good: Value) -> list[Value]:
                    index, inside = job.index(k, start + i)
                    index = k.where(inside, index, k.const(0, "int64"))
                    k.store(k.load(k.at(source, index * job.inner + i, dtype), dtype), k.at(job.out, start + i, dtype))
                    return [good & inside]

                return k.loop(0, job.inner, 1, element, [good])

            return (k.loop(begin, end, 1, row, [good])[0],)

        def line() -> tuple[Value]:
            start = o * job.m

            def several(j: Value, good: Value) -> list[Value]:
                index, inside = job.index(k, start + j, lanes)
                places = k.op(f"getelementptr {llvm_type(dtype)}, ptr {source.text}, {index.typed}", "ptr", lanes)
                value = k.call(f"llvm.masked.gather.{mangled(dtype, lanes)}.v{lanes}p0", (dtype, lanes), places,
                               k.const(ITEMSIZE[dtype], "int32"), inside, k.const(0, dtype, lanes))
                k.store(value, k.at(job.out, start + j, dtype))
                return [good & inside]

            def element(j: Value, good: Value) -> list[Value]:
                index, inside = job.index(k, start + j)
                index = k.where(inside, index, k.const(0, "int64"))
                k.store(k.load(k.at(source, index, dtype), dtype), k.at(job.out, start + j, dtype))
                return [good & inside]

            whole = end - k.op(f"urem i64 {(end - begin).text}, {lanes}", "int64")
            (all_good,) = k.loop(begin, whole, lanes, several, [k.const(True, "bool", lanes)])
            all_so_far = good & ~k.any(~all_good)
            return (k.loop(whole, end, 1, element, [all_so_far])[0],)

        return [*k.if_(k.eq(job.inner, 1), line, rows)]

    (good,) = k.loop(first, last, 1, outer, [k.const(True, "bool")])
    _report(k, job, good)


def _add(k: Kernel, job: _Job, dtype: str, wide: str) -> None:
    first, last, begin, end = job.spans(k, job.inner)
    width = end - begin
    sums = k.allocate(job.n * width * ITEMSIZE[wide]) if wide != dtype else None

    def outer(o: Value, good: Value) -> list[Value]:
        out = k.at(job.out, o * job.n * job.inner + begin, dtype)
        target, step = (out, job.inner) if sums is None else (sums, width)

        def clear(r: Value) -> None:
            size = width * ITEMSIZE[wide]
            k.call("llvm.memset.p0.i64", None, k.at(target, r * step, wide), k.const(0, "uint8"), size,
                   k.const(False, "bool"))

        def clear_all() -> None:
            k.call("llvm.memset.p0.i64", None, target, k.const(0, "uint8"), job.n * width * ITEMSIZE[wide],
                   k.const(False, "bool"))

        k.if_(k.eq(step, width), clear_all, lambda: k.loop(0, job.n, 1, clear) and None)

        def add(at: Value, place: Callable[[Value], Value], good: Value) -> list[Value]:
            index, inside = job.index(k, at)

            def one() -> None:
                mine = k.at(target, place(index), wide)
                k.store(k.load(mine, wide) + k.cast(k.load(k.at(job.x, at, dtype), dtype), wide), mine)

            k.if_(inside, one)
            return [good & inside]

        def line() -> tuple[Value]:
            return (k.loop(0, job.m, 1, lambda j, good: add(o * job.m + j, lambda index: index, good), [good])[0],)

        def rows() -> tuple[Value]:
            def row(j: Value, good: Value) -> list[Value]:
                start = (o * job.m + j) * job.inner + begin
                return k.loop(0, width, 1, lambda i, good: add(start + i, lambda index: index * step + i, good), [good])

            return (k.loop(0, job.m, 1, row, [good])[0],)

        (good,) = k.if_(k.eq(job.inner, 1), line, rows)
        if sums is not None:
            def narrow(source: Value, place: Value, count: Value) -> None:
                rest = count - k.op(f"urem i64 {count.text}, {k.lanes}", "int64")
                k.loop(0, rest, k.lanes, lambda i: k.store(
                    k.cast(k.load(k.at(source, i, wide), wide, k.lanes), dtype), k.at(place, i, dtype)))
                k.loop(rest, count, 1, lambda i: k.store(
                    k.cast(k.load(k.at(source, i, wide), wide), dtype), k.at(place, i, dtype)))

            k.if_(k.eq(width, job.inner), lambda: narrow(sums, out, job.n * width), lambda: k.loop(
                0, job.n, 1, lambda r: narrow(k.at(sums, r * width, wide), k.at(out, r * job.inner, dtype), width)
            ) and None)
        return [good]

    (good,) = k.loop(first, last, 1, outer, [k.const(True, "bool")])
    if sums is not None:
        k.call("free", None, sums, external=True)
    _report(k, job, good)


def _check(module: Module, kind: str, dtype: str) -> None:
    """`check(slots, sizes)`: do the sizes fit?"""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    out, x, indices, status, table = (k.load(k.at(sizes, i, "int64"), "int64") for i in range(5))

    def told() -> tuple[Value]:
        numbers = k.load(k.at(slots, 4, "ptr"), "ptr")
        outer, n, m, inner = (k.load(k.at(numbers, i, "int64"), "int64") for i in range(4))
        good = (outer > 0) & (n > 0) & (m > 0) & (inner > 0)
        for v in (outer, n, m, inner):
            good = good & (v < 1 << 40)
        size = ITEMSIZE[dtype]
        full, part = (x, out) if kind == "take" else (out, x)
        some = outer * m * inner
        return (good & k.eq(full, outer * n * inner * size) & k.eq(part, some * size) & k.eq(indices, some * 8),)

    (good,) = k.if_(k.eq(status, 8) & k.eq(table, 32), told, lambda: (k.const(False, "bool"),))
    message = module.string(f"{kind} takes arrays (outer, n, inner) and (outer, m, inner), a status and their sizes")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _run(module: Module, kind: str) -> None:
    """`run(slots, sizes)`: all of it, on the pool when that pays."""
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, _ = k.arguments
    job = _Job(k, slots)
    zero, one = k.const(0, "int64"), k.const(1, "int64")
    axis, across = (job.m, job.inner) if kind == "take" else (job.inner, job.m)
    tasks = k.where(job.single, axis, job.outer)
    each = across * k.where(job.single, one, axis)  # elements of a task
    work = tasks * each
    grain = k.max(k.op(f"udiv i64 {k.const(_GRAIN, 'int64').text}, {each.text}", "int64"), one)
    if kind != "take":  # columns next to each other lie in one line of the caches
        grain = k.where(job.single, k.max(grain, k.const(_COLUMNS, "int64")), grain)
    function = k.symbol("@chunk")

    def share(symbol: str) -> Callable[[], Any]:
        return lambda: k.call(symbol, None, function, slots, tasks, grain)

    k.if_(
        (work < _AWAKE) | (tasks <= grain),
        lambda: k.call_known("chunk", None, slots, zero, tasks, k.const(0, "int32")),
        lambda: k.if_(work < _WAKE, share(pool.AWAKE), share(pool.SYMBOL)),
    )
    k.ret()
    k.finish()
