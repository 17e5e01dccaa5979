"""Searching natively: places in a sorted array, and the few largest elements of each row.

    search(dtype)(out, sorted, values, right)     `numpy.searchsorted(sorted, values, "right" if right else "left")`
    best(dtype)(out, x, largest)                  the places of the k largest (smallest) of each row, best first

As in NumPy, nan counts as larger than any number, and -0.0 as 0.0. Of equal elements the first is the best.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import FLOATS, Module, Value, llvm_type, mangled
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["Searching", "best", "search", "share"]

DTYPES = ("float32", "float64", "int32", "int64")
MOST = 64  # of the best
_AWAKE, _WAKE = 1 << 14, 1 << 18  # steps from which threads take part that are awake, or are woken
_GRAIN = 1 << 12  # steps of a task, about
_VECTORS = 4  # vectors of values that are searched for at a time
_SEARCH = call.OUT + call.IN * 2 + call.INT * 2
_BEST = call.OUT + call.IN + call.INT * 3


@functools.cache
def search(dtype: str, target: Target | None = None) -> Callable[..., None]:
    """The function for a dtype of `DTYPES`; arrays of it are C-contiguous, `sorted` has elements, `out` is int64."""
    native = _bound(f"search {dtype}", _SEARCH, lambda: build_search(dtype, target or targets.host()), target)

    def run(out: np.ndarray, ordered: np.ndarray, values: np.ndarray, right: bool) -> None:
        pool.refresh()
        native(out, ordered, values, right, ordered.size.bit_length())

    return run


@functools.cache
def best(dtype: str, target: Target | None = None) -> Callable[..., None]:
    """The function for a dtype of `DTYPES`: x is (rows, n), `out` (rows, k) of int64, 0 < k <= min(n, `MOST`)."""
    native = _bound(f"best {dtype}", _BEST, lambda: build_best(dtype, target or targets.host()), target)

    def run(out: np.ndarray, x: np.ndarray, largest: bool) -> None:
        pool.refresh()
        native(out, x, x.shape[1], out.shape[1], largest)

    return run


def _bound(name: str, parameters: str, write: Callable[[], Module], target: Target | None) -> Callable[..., None]:
    later = jit.Later(name, target or targets.host(), write)
    return call.bind(call.with_builtin(later, parameters), name.replace(" ", "_"), parameters, imports=pool.imports)


class Searching:
    """The kernels for eager code. `ready(make, dtype)` is `make(dtype)`, or None before it is made."""

    def __init__(self, ready: Callable[..., Any]) -> None:
        self.ready = ready

    def table(self) -> dict[str, Callable[..., Any]]:
        """For `large.kernels`."""
        return {"searchsorted": self.search, "topk": self.best}

    def search(self, ordered: Any, values: Any, right: bool) -> Any:
        """The row `searchsorted` of arrays of one dtype."""
        if not ordered.size or ordered.dtype != values.dtype:
            return None
        kernel = self._kernel(search, ordered)
        if kernel is None:
            return None
        out = np.empty(values.shape, np.int64)
        kernel(out, np.ascontiguousarray(ordered), np.ascontiguousarray(values), right)
        return out

    def best(self, x: Any, k: int, largest: bool) -> Any:
        """The row `_topk_indices` over the last axis."""
        if not 0 < k <= MOST:
            return None
        kernel = self._kernel(best, x)
        if kernel is None:
            return None
        out = np.empty((*x.shape[:-1], k), np.int64)
        kernel(out.reshape(-1, k), np.ascontiguousarray(x).reshape(-1, x.shape[-1]), largest)
        return out

    def _kernel(self, make: Callable[..., Any], x: Any) -> Any:
        return self.ready(make, x.dtype.name) if x.dtype.name in DTYPES else None


def row_functions(
    module: Module, dtype: str, sane: Callable[[Value, Value], Value], given: Callable[[Value], Value | int],
    each: Callable[[Value], Value], message: str,
) -> None:
    """`check` and `run` of a task over the rows of x; the slots are out, x (rows, n), n, a number, and others.

    sane : what holds for n and the number; given : the bytes of out for a row; each : what a row costs
    """
    size = ITEMSIZE[dtype]
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    n, number = (k.load(k.at(slots, i, "int64"), "int64") for i in (2, 3))
    out_bytes, x_bytes = (k.load(k.at(sizes, i, "int64"), "int64") for i in range(2))

    def fit() -> tuple[Value]:
        rows = k.op(f"udiv i64 {x_bytes.text}, {(n * size).text}", "int64")
        return (k.eq(rows * n * size, x_bytes) & k.eq(rows * given(number), out_bytes),)

    in_range = (n > 0) & (n < 1 << 56) & sane(n, number)
    (good,) = k.if_(in_range, fit, lambda: (k.const(False, "bool"),))
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(module.string(message))))
    k.finish()

    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, sizes = k.arguments
    n = k.load(k.at(slots, 2, "int64"), "int64")
    rows = k.op(f"udiv i64 {k.load(k.at(sizes, 1, 'int64'), 'int64').text}, {(n * size).text}", "int64")
    share(k, slots, rows, each(n))


def share(k: Kernel, job: Value, tasks: Value, each: Value) -> None:
    """`chunk` for all tasks of so many steps, on the pool when that pays."""
    zero, one, function = k.const(0, "int64"), k.const(1, "int64"), k.symbol("@chunk")
    work = tasks * each
    grain = k.max(k.op(f"udiv i64 {_GRAIN}, {each.text}", "int64"), one)
    by = lambda symbol: lambda: k.call(symbol, None, function, job, tasks, grain)
    k.if_(
        (work < _AWAKE) | (tasks <= grain),
        lambda: k.call_known("chunk", None, job, zero, tasks, k.const(0, "int32")),
        lambda: k.if_(work < _WAKE, by(pool.AWAKE), by(pool.SYMBOL)),
    )
    k.ret()
    k.finish()


_TASK = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]


# ------------------------------------------------------------------------------------------- places in a sorted array
def build_search(dtype: str, target: Target) -> Module:
    """The module of `search`."""
    module = Module(target)
    k = Kernel(module, "chunk", _TASK, internal=True)
    job, begin, end, _ = k.arguments
    out, ordered, values = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(3))
    right, steps, n = (k.load(k.at(job, i, "int64"), "int64") for i in range(3, 6))
    top = k.op(f"shl i64 1, {(steps - 1).text}", "int64")

    def some(i: Value, lanes: int, count: int, left: bool) -> None:
        """The values i, ..., in `count` vectors: how many elements come before each, found bit by bit."""
        wanted = [k.load(k.at(values, i + j * lanes, dtype), dtype, lanes) for j in range(count)]
        size = k.splat(n, lanes) if lanes > 1 else n

        def step(_: Value, bit: Value, *found: Value) -> list[Value]:
            results = []
            for v, at in zip(wanted, found, strict=True):
                further = at + bit
                inside = further <= size
                if lanes > 1:
                    places = k.op(f"getelementptr {llvm_type(dtype)}, ptr {ordered.text}, {(further - 1).typed}", "ptr",
                                  lanes)
                    element = k.call(f"llvm.masked.gather.{mangled(dtype, lanes)}.v{lanes}p0", (dtype, lanes), places,
                                     k.const(ITEMSIZE[dtype], "int32"), inside, k.const(0, dtype, lanes))
                else:
                    place = k.where(inside, further, k.const(1, "int64"))
                    element = k.load(k.at(ordered, place - 1, dtype), dtype)
                before = less(element, v) if left else ~less(v, element)
                results.append(k.where(inside & before, further, at))
            return [k.op(f"lshr i64 {bit.text}, 1", "int64"), *results]

        def less(a: Value, b: Value) -> Value:
            return k.lt(a, b) | (k.isnan(b) & ~k.isnan(a)) if dtype in FLOATS else k.lt(a, b)

        zeros = [k.const(0, "int64", lanes)] * count
        for j, at in enumerate(k.loop(0, steps, 1, step, [top, *zeros])[1:]):
            k.store(at, k.at(out, i + j * lanes, "int64"))

    def side(left: bool) -> None:
        lanes = max(2, target.lanes("int64"))
        width = lanes * _VECTORS
        whole = end - k.op(f"urem i64 {(end - begin).text}, {width}", "int64")
        k.loop(begin, whole, width, lambda i: some(i, lanes, _VECTORS, left))
        k.loop(whole, end, 1, lambda i: some(i, 1, 1, left))

    k.if_(k.eq(right, 0), lambda: side(True), lambda: side(False))
    k.ret()
    k.finish()

    size = ITEMSIZE[dtype]
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    places, some_bytes, wanted_bytes = (k.load(k.at(sizes, i, "int64"), "int64") for i in range(3))
    steps = k.load(k.at(slots, 4, "int64"), "int64")
    count = k.op(f"lshr i64 {places.text}, 3", "int64")
    good = k.eq(count * size, wanted_bytes) & k.eq(count * 8, places) & (some_bytes >= size)
    good = good & k.eq(k.op(f"urem i64 {some_bytes.text}, {size}", "int64"), 0) & (steps > 0) & (steps < 62)
    message = module.string("search takes out, elements in order, values, a side and how many bits their number has")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()

    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, sizes = k.arguments
    job = k.alloca(6 * 8)
    for i in range(5):
        k.store(k.load(k.at(slots, i, "int64"), "int64"), k.at(job, i, "int64"))
    n = k.op(f"udiv i64 {k.load(k.at(sizes, 1, 'int64'), 'int64').text}, {size}", "int64")
    k.store(n, k.at(job, 5, "int64"))
    count = k.op(f"lshr i64 {k.load(sizes, 'int64').text}, 3", "int64")
    share(k, job, count, k.load(k.at(slots, 4, "int64"), "int64"))
    return module


# ----------------------------------------------------------------------------------------------------- the best of rows
def _insert(module: Module, word: str) -> None:
    """`insert(keys, places, at, key, place)`: among `at` keys in descending order, after equal ones."""
    k = Kernel(module, "insert", [("keys", "ptr"), ("places", "ptr"), ("at", "int64"), ("key", word),
                                  ("place", "int64")], internal=True)
    keys, places, _, key, place = k.arguments
    head, inside, move, end = (k.label() for _ in range(4))
    k.emit(f"br label %{head}")
    k.begin(head)
    at = k.op(f"phi i64 [%at, %entry], [%before, %{move}]", "int64")
    k.emit(f"%before = sub i64 {at.text}, 1")
    before = Value(k, "%before", "int64", 1)
    k.emit(f"br i1 {(at > 0).text}, label %{inside}, label %{end}")
    k.begin(inside)
    other = k.load(k.at(keys, before, word), word)
    k.emit(f"br i1 {(other < key).text}, label %{move}, label %{end}")
    k.begin(move)
    k.store(other, k.at(keys, at, word))
    k.store(k.load(k.at(places, before, "int64"), "int64"), k.at(places, at, "int64"))
    k.emit(f"br label %{head}")
    k.begin(end)
    k.store(key, k.at(keys, at, word))
    k.store(place, k.at(places, at, "int64"))
    k.ret()
    k.finish()


def build_best(dtype: str, target: Target) -> Module:
    """The module of `best`. Elements become integers in their order; the best so far are kept in order."""
    module = Module(target)
    word = f"int{8 * ITEMSIZE[dtype]}"
    _insert(module, word)
    lanes = target.lanes(dtype)
    k = Kernel(module, "chunk", _TASK, lanes=lanes, internal=True)
    job, begin, end, _ = k.arguments
    out, x = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(2))
    n, count, largest = (k.load(k.at(job, i, "int64"), "int64") for i in range(2, 5))
    keys, places = k.alloca(8 * (MOST + 1)), k.alloca(8 * (MOST + 1))
    bits = 8 * ITEMSIZE[dtype]
    flip = k.where(k.eq(largest, 0), k.const(-1, word), k.const(0, word))

    def key(pointer: Value, lanes: int) -> Value:
        v = k.load(pointer, dtype, lanes)
        if dtype in FLOATS:
            raw = k.cast(k.bits(v + 0.0), word)  # (-0.0 becomes 0.0)
            made = raw ^ (k.shift_right(raw, bits - 1) & ((1 << bits - 1) - 1))
            made = k.where(k.isnan(v), k.const((1 << bits - 1) - 1, word), made)
        else:
            made = v
        return made ^ (k.splat(flip, lanes) if lanes > 1 else flip)

    def row(r: Value) -> None:
        source = k.at(x, r * n, dtype)

        def first(j: Value) -> None:
            k.call_known("insert", None, keys, places, j, key(k.at(source, j, dtype), 1), j)

        k.loop(0, count, 1, first)
        last = k.at(keys, count - 1, word)

        def one(j: Value) -> None:
            mine = key(k.at(source, j, dtype), 1)
            k.if_(mine > k.load(last, word),
                  lambda: k.call_known("insert", None, keys, places, count - 1, mine, j))

        def several(j: Value) -> None:
            better = key(k.at(source, j, dtype), lanes) > k.splat(k.load(last, word), lanes)
            k.if_(k.any(better), lambda: k.loop(j, j + lanes, 1, one) and None)

        whole = n - k.op(f"urem i64 {(n - count).text}, {lanes}", "int64")
        k.loop(count, whole, lanes, several if lanes > 1 else one)
        k.loop(whole, n, 1, one)
        k.copy(k.at(out, r * count, "int64"), places, count * 8)

    k.loop(begin, end, 1, row)
    k.ret()
    k.finish()

    row_functions(
        module, dtype, lambda n, count: (count > 0) & (count <= n) & (count <= MOST), lambda count: count * 8,
        lambda n: n, "best takes out (rows, k), x (rows, n), n, k and a side, with few k",
    )
    return module
