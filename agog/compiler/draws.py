"""Random numbers for eager code: the bits of a key, and what is made of them exactly, in one pass.

    draws().fill(out, following, key, table)

fills `out` with what the table of a kind says, from the stream of `key` (see `agog.ops.draws`). With an array of two
uint32 as `following`, `key` is the state of a generator: the numbers come from the fresh key that it gives, and its
next state is written there. Without one (`following` is empty) they come from `key` itself.

Everything here is integers, or arithmetic that is exact or rounds in one way only, so the numbers are NumPy's to the
bit, whatever the number of threads. Logarithms, sines and cosines are left to NumPy.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple

import numpy as np

from agog.compiler import call, jit, philox, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE, Target
from agog.ops.blocks import BLOCK
from agog.ops.draws import KINDS, SPLIT, TURN32, TURN64

__all__ = ["Draws", "draws"]

_TILE = 32  # blocks of the stream that are made at a time
_AWAKE, _WAKE = 1 << 11, 1 << 13  # blocks from which threads take part that are awake, or are woken
_FILL = call.OUT * 2 + call.IN * 2
_FINISH = call.OUT + call.IN
_TABLE = 3  # kind; limit and scale of a mask, or span and what is rejected of whole numbers


class Draws(NamedTuple):
    """The native functions."""

    fill: Callable[..., None]
    """`fill(out, following, key, table)`, see above. `table` is what `ops.draws.table` makes."""
    normal: dict[np.dtype, Callable[..., None]]
    """`normal[dtype](out, pairs)`: of the n logarithms and n sines in `pairs`, and the n cosines with which `out`
    begins, n or n - 1 of each kind of normal numbers: those of the cosines, then those of the sines."""

    def refresh(self) -> None:
        """Call this before a job of more than some hundred numbers."""
        pool.refresh()


@functools.cache
def draws(target: Target | None = None) -> Draws:
    """The functions, compiled at the first call on a machine, then read from disk."""
    target = target or targets.host()

    def bound(name: str, parameters: str, write: Callable[[], Module]) -> Callable[..., None]:
        return call.bind(call.with_builtin(jit.Later(name, target, write), parameters), name, parameters,
                         imports=pool.imports)

    return Draws(
        bound("draws", _FILL, lambda: build(target)),
        {np.dtype(d): bound(f"normal {d}", _FINISH, functools.partial(build_normal, d, target))
         for d in ("float32", "float64")},
    )


def build(target: Target) -> Module:
    """The module of `fill`."""
    module = Module(target)
    _chunk(module)
    _check(module)
    _run(module)
    return module


def _uniform32(k: Kernel, bits: Value) -> Value:
    return _top24(k, bits) * 2.0**-24


def _top24(k: Kernel, bits: Value) -> Value:
    return k.cast(k.cast(k.shift_right(bits, 8), "int32"), "float32")


def _uniform64(k: Kernel, bits: Value) -> Value:
    return k.cast(k.cast(k.shift_right(bits, 11), "int64"), "float64") * 2.0**-53


def _open32(k: Kernel, bits: Value) -> Value:
    return k.cast(bits, "float32") * 2.0**-32 + 2.0**-33


def _open64(k: Kernel, bits: Value) -> Value:
    return (k.cast(k.cast(k.shift_right(bits, 12), "int64"), "float64") + 0.5) * 2.0**-52


def _mask(dtype: str) -> Callable[..., Value]:
    def mask(k: Kernel, bits: Value, limit: Value, scale: Value) -> Value:
        keep = k.ge(k.cast(bits, "int32"), k.cast(limit, "int32"))
        return k.where(keep, k.cast(scale, dtype), 0)

    return mask


def _bounded(k: Kernel, bits: Value, span: Value, rejected: Value) -> Value:
    """From 0 to span - 1, by Lemire's method; -1 where another number has to be drawn."""
    span, rejected = (k.splat(v, bits.lanes) for v in (span, rejected))
    wide = k.cast(k.cast(bits, "uint64"), "int64") * span
    low = wide & 0xFFFFFFFF
    return k.where(low < rejected, k.const(-1, "int64"), k.op(f"lshr {wide.type} {wide.text}, "
                   f"{k.const(32, 'int64', bits.lanes).text}", "int64", bits.lanes))


class _Kind(NamedTuple):
    """What becomes of the bits: numbers of `dtype`, each of one `word`, by `make`; `second` makes those of the second
    half of each of `ops.draws.BLOCK` words where it is something else."""

    word: str
    dtype: str
    make: Callable[..., Value]
    second: Callable[..., Value] | None = None


_KINDS = {
    "bits": _Kind("uint64", "uint64", lambda k, bits: bits),
    "uniform32": _Kind("uint32", "float32", _uniform32),
    "uniform64": _Kind("uint64", "float64", _uniform64),
    "open32": _Kind("uint32", "float32", _open32),
    "open64": _Kind("uint64", "float64", _open64),
    "pairs32": _Kind("uint32", "float32", _open32, lambda k, bits: _top24(k, bits) * float(TURN32)),
    "pairs64": _Kind("uint64", "float64", _open64, lambda k, bits: _open64(k, bits) * float(TURN64)),
    "mask32": _Kind("uint16", "float32", _mask("float32")),
    "mask64": _Kind("uint16", "float64", _mask("float64")),
    "bounded": _Kind("uint32", "int64", _bounded),
}


def _chosen(k: Kernel, kind: Value, fn: Callable[[_Kind], Any]) -> None:
    """Code that does `fn` of the kind that the number says."""
    def rest(i: int) -> None:
        if i == len(KINDS) - 1:
            fn(_KINDS[KINDS[i]])
        else:
            k.if_(k.eq(kind, i), lambda: fn(_KINDS[KINDS[i]]) and None, lambda: rest(i + 1))

    rest(0)


def _chunk(module: Module) -> None:
    """`chunk(job, begin, end, thread)`: tiles. The job: out, table; key, blocks, bytes of out."""
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, "chunk", arguments, internal=True)
    job, begin, end, _ = k.arguments
    out, table = k.load(job, "ptr"), k.load(k.at(job, 1, "ptr"), "ptr")
    key, blocks, size = (k.load(k.at(job, i, "int64"), "int64") for i in (2, 3, 4))
    kind, limit = (k.load(k.at(table, i, "int64"), "int64") for i in range(2))
    scale, zero = k.load(k.at(table, 2, "float64"), "float64"), k.const(0, "int64")
    rejected = k.load(k.at(table, 2, "int64"), "int64")
    words = k.alloca((_TILE * 4 + 64) * 8)

    def tile(t: Value) -> None:
        start = t * _TILE
        stop = k.min(start + _TILE, blocks)

        def block(i: Value) -> None:
            c = philox.rounds(k, key, [i, zero, zero, zero])
            place = k.at(words, (i - start) * 4, "int64")
            for j, word in enumerate(c):
                k.store(word, k.at(place, j, "int64"))

        k.loop(start, stop, 1, block)
        _chosen(k, kind, lambda made: numbers(made, start, stop))

    def numbers(kind: _Kind, start: Value, stop: Value) -> None:
        per_block = 32 // ITEMSIZE[kind.word]
        lanes = module.target.lanes(kind.dtype)
        count = k.op(f"udiv i64 {size.text}, {ITEMSIZE[kind.dtype]}", "int64")
        begin, end = start * per_block, k.min(stop * per_block, count)
        extra = {_bounded: (limit, rejected)}.get(kind.make, (limit, scale) if kind.word == "uint16" else ())

        def span(a: Value, b: Value, make: Callable[..., Value]) -> None:
            def vector(i: Value) -> Value:
                bits = k.load(k.at(words, i - begin, kind.word), kind.word, lanes)
                return make(k, bits, *extra)

            whole = b - k.op(f"urem i64 {(b - a).text}, {lanes}", "int64")
            k.loop(a, whole, lanes, lambda i: k.store(vector(i), k.at(out, i, kind.dtype)))
            k.lanes = lanes
            k.if_(whole < b, lambda: k.partial(b - whole).store(vector(whole), k.at(out, whole, kind.dtype)))
            k.lanes = 1

        if kind.second is None:
            span(begin, end, kind.make)
        else:
            period = BLOCK * 8 // ITEMSIZE[kind.word]  # pairs begin anew with each block of these (see `Law`)
            first = k.op(f"udiv i64 {begin.text}, {period}", "int64") * period
            here = k.min(count - first, k.const(period, "int64"))
            middle = k.max(begin, k.min(first + k.op(f"lshr i64 {here.text}, 1", "int64"), end))
            span(begin, middle, kind.make)
            span(middle, end, kind.second)

    k.loop(begin, end, 1, tile)
    k.ret()
    k.finish()


def _check(module: Module) -> None:
    """`check(slots, sizes)`: are state, key and table there, and is the result of whole numbers?"""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    out, following, key, table = (k.load(k.at(sizes, i, "int64"), "int64") for i in range(4))
    good = (k.eq(following, 0) | k.eq(following, 8)) & k.eq(key, 8) & k.eq(table, 8 * _TABLE)

    def whole() -> tuple[Value]:
        kind = k.load(k.load(k.at(slots, 3, "ptr"), "ptr"), "int64")
        good = (kind >= 0) & (kind < len(KINDS))
        for i, name in enumerate(KINDS):
            itemsize = ITEMSIZE[_KINDS[name].dtype] * (1 if _KINDS[name].second is None else 2)
            good = good & (k.ne(kind, i) | k.eq(k.op(f"urem i64 {out.text}, {itemsize}", "int64"), 0))
        return (good,)

    (good,) = k.if_(good, whole, lambda: (k.const(False, "bool"),))
    message = module.string("fill takes out, a state or nothing, a key and a table, of the sizes of these")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _run(module: Module) -> None:
    """`run(slots, sizes)`: all of it, on the pool when that pays."""
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, sizes = k.arguments
    out, following, key, table = (k.load(k.at(slots, i, "ptr"), "ptr") for i in range(4))
    size = k.load(sizes, "int64")
    zero, one = k.const(0, "int64"), k.const(1, "int64")
    key = k.load(key, "int64", align=4)

    def advance() -> tuple[Value]:
        state, fresh, *_ = philox.rounds(k, key, [zero, zero, zero, k.const(SPLIT, "int64")])
        k.store(state, following, align=4)
        return (fresh,)

    (key,) = k.if_(k.ne(k.load(k.at(sizes, 1, "int64"), "int64"), 0), advance, lambda: (key,))
    # A number takes as many bytes as its bits, or twice or four times as many.
    kind = k.load(table, "int64")
    ratio = one
    for i, name in enumerate(KINDS):
        made = _KINDS[name]
        ratio = k.where(k.eq(kind, i), k.const(ITEMSIZE[made.dtype] // ITEMSIZE[made.word], "int64"), ratio)
    bits = k.op(f"udiv i64 {size.text}, {ratio.text}", "int64")
    blocks = k.op(f"lshr i64 {(bits + 31).text}, 5", "int64")
    tiles = k.op(f"udiv i64 {(blocks + (_TILE - 1)).text}, {_TILE}", "int64")
    job = k.alloca(5 * 8)
    k.store(out, job)
    k.store(table, k.at(job, 1, "ptr"))
    for i, value in enumerate((key, blocks, size), 2):
        k.store(value, k.at(job, i, "int64"))
    task, grain = k.symbol("@chunk"), k.const(8, "int64")

    def share(symbol: str) -> Callable[[], Any]:
        return lambda: k.call(symbol, None, task, job, tiles, grain)

    k.if_(
        blocks < _AWAKE,
        lambda: k.call_known("chunk", None, job, zero, tiles, k.const(0, "int32")),
        lambda: k.if_(blocks < _WAKE, share(pool.AWAKE), share(pool.SYMBOL)),
    )
    k.ret()
    k.finish()


def build_normal(dtype: str, target: Target) -> Module:
    """The module of `normal` of one dtype."""
    module = Module(target)
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    _, sizes = k.arguments
    out, pairs = k.load(sizes, "int64"), k.load(k.at(sizes, 1, "int64"), "int64")
    size = ITEMSIZE[dtype]
    good = k.eq(k.op(f"urem i64 {pairs.text}, {2 * size}", "int64"), 0) & (
        k.eq(out, pairs) | k.eq(out + size, pairs))
    message = module.string("normal takes n pairs and 2n or 2n - 1 numbers")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()

    lanes = target.lanes(dtype)
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], lanes=lanes, internal=call.native_calls)
    slots, sizes = k.arguments
    out, pairs = k.load(slots, "ptr"), k.load(k.at(slots, 1, "ptr"), "ptr")
    total = k.op(f"udiv i64 {k.load(sizes, 'int64').text}, {size}", "int64")
    n = k.op(f"udiv i64 {k.load(k.at(sizes, 1, 'int64'), 'int64').text}, {2 * size}", "int64")

    def some(i: Value, load: Callable[..., Value], store: Callable[..., Any], last: Callable[..., Any]) -> None:
        radius = k.sqrt(load(k.at(pairs, i, dtype)) * -2.0)
        first = k.at(out, i, dtype)
        store(load(first) * radius, first)
        last(load(k.at(pairs, n + i, dtype)) * radius, k.at(out, n + i, dtype))

    whole = n - k.op(f"urem i64 {n.text}, {lanes}", "int64")
    rest = total - n

    def part(i: Value, count: Value, second: Value) -> None:
        one, two = k.partial(count), k.partial(second)
        some(i, lambda p: one.load(p, dtype), one.store, two.store)

    def vector(i: Value) -> None:
        load = lambda p: k.load(p, dtype, lanes)
        k.if_(i + lanes <= rest, lambda: some(i, load, k.store, k.store),
              lambda: part(i, k.const(lanes, "int64"), rest - i))

    k.loop(0, whole, lanes, vector)
    k.if_(whole < n, lambda: part(whole, n - whole, rest - whole))
    k.ret()
    k.finish()
    return module
