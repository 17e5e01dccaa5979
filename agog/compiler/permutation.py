"""The order that sorts the random words of a key: a permutation, made where the words are made.

    permutation()(key, n)

The words are uniform, so their leading bits tell nearly all of them apart. Each goes through memory as one word: its
own leading bits, then its index. First they are put into 2**bits buckets by their first bits, then each bucket, which
fits into a cache, is sorted by the 22 bits that follow, in two passes; the few that are out of order after that are
moved by insertion, and where the bits that were kept are equal, the words are made again and compared whole. So the
order is that of a stable sort of the words, on any number of threads.
"""

from __future__ import annotations

import functools
from typing import Callable

import numpy as np

from agog.array import large
from agog.compiler import call, jit, philox, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import Target

__all__ = ["Permutation", "permutation"]

_PIECES = 8  # of the stream, that threads make and share out to the buckets
_BUCKET, _MOST = 13, 10  # the bits of the size of a bucket, if there are not more than so many bits of buckets
_DIGIT = 11  # bits that one pass sorts by
_FEW = 48  # elements up to which insertion alone sorts a bucket
_AWAKE, _WAKE = 1 << 14, 1 << 17  # elements from which threads take part that are awake, or are woken
_PARAMETERS = call.OUT * 3 + call.IN + call.INT * 2
_INT64, _UINT64 = np.dtype(np.int64), np.dtype(np.uint64)
_MOST_MASKED = 48  # bits of an index


class Permutation:
    """The native function."""

    def __init__(self, native: Callable[..., None]) -> None:
        self.native = native

    def __call__(self, key: np.ndarray, n: int, bits: int | None = None, index: int = 0) -> np.ndarray:
        """`argsort(words(key, 0, n), kind="stable")`, of int64, for n below 2**31.

        For tests: `bits` of the number of a bucket, and of an `index`, which leaves fewer for the words.
        """
        pool.refresh()
        length = max(0, n - 1).bit_length()
        if bits is None:
            bits = min(max(0, length - _BUCKET), _MOST)
        out, work = large.empty((n,), _INT64), large.empty((n,), _UINT64)
        self.native(out, work, np.zeros(_PIECES << bits, np.int64), key, bits, (1 << max(length, index)) - 1)
        return out


@functools.cache
def permutation(target: Target | None = None) -> Permutation:
    """The function, compiled at the first call on a machine, then read from disk."""
    target = target or targets.host()
    module = call.with_builtin(jit.Later("permutation", target, lambda: build(target)), _PARAMETERS)
    return Permutation(call.bind(module, "permutation", _PARAMETERS, imports=pool.imports))


def build(target: Target) -> Module:
    """The module."""
    module = Module(target)
    _word(module)
    _insert(module)
    for make in (_generate, _share_out, _sort):
        _task(module, make)
    _check(module)
    _run(module)
    return module


class _Job:
    """What tasks are told: out, work, counts; key, n, bits of buckets, mask of the index."""

    def __init__(self, k: Kernel, job: Value) -> None:
        self.out, self.work, self.counts = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(3))
        self.key, self.n, self.bits, mask = (k.load(k.at(job, i, "int64"), "int64") for i in range(3, 7))
        self.mask = Value(k, mask.text, "uint64", 1)
        self.buckets = k.op(f"shl i64 1, {self.bits.text}", "int64")

    def bucket(self, k: Kernel, word: Value) -> Value:
        """The bucket of a word, when there are two or more."""
        amount = k.op(f"sub i64 64, {self.bits.text}", "int64")
        return k.op(f"lshr i64 {word.text}, {amount.text}", "int64")

    def piece(self, k: Kernel, number: Value) -> tuple[Value, Value]:
        """The blocks of the stream that are one piece: the first, and the first that is not."""
        blocks = k.op(f"lshr i64 {(self.n + 3).text}, 2", "int64")
        each = k.op(f"udiv i64 {(blocks + (_PIECES - 1)).text}, {_PIECES}", "int64")
        return k.min(number * each, blocks), k.min((number + 1) * each, blocks)


def _task(module: Module, make: Callable[[Kernel, _Job], Callable[[Value], None]]) -> None:
    """`generate`, ... `(job, begin, end, thread)`: `make` for each number from begin to end."""
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, make.__name__[1:], arguments, internal=True)
    job, begin, end, _ = k.arguments
    told = _Job(k, job)
    body = make(k, told)
    k.loop(begin, end, 1, body)
    k.ret()
    k.finish()


def _generate(k: Kernel, job: _Job) -> Callable[[Value], None]:
    """A piece of the stream; how many of its words belong into each bucket."""
    zero = k.const(0, "int64")
    keep = k.bitwise_not(job.mask)

    def piece(number: Value) -> None:
        first, last = job.piece(k, number)
        several = k.ne(job.bits, 0)
        target = k.where(several, job.out, job.work)

        def block(i: Value) -> None:
            words = philox.rounds(k, job.key, [i, zero, zero, zero])
            index = i * 4
            for j, word in enumerate(words):
                at = index + j
                packed = (Value(k, word.text, "uint64", 1) & keep) | Value(k, at.text, "uint64", 1)
                store = functools.partial(k.store, packed, k.at(target, at, "uint64"))
                if j:
                    k.if_(at < job.n, store)
                else:
                    store()

        k.loop(first, last, 1, block)

        def count() -> None:
            mine = k.at(job.counts, number * job.buckets, "int64")

            def one(i: Value) -> None:
                place = k.at(mine, job.bucket(k, k.load(k.at(job.out, i, "int64"), "int64")), "int64")
                k.store(k.load(place, "int64") + 1, place)

            k.loop(first * 4, k.min(last * 4, job.n), 1, one)

        k.if_(several, count)

    return piece


def _share_out(k: Kernel, job: _Job) -> Callable[[Value], None]:
    """The words of a piece go to their buckets, to places that `counts` says by now."""
    def piece(number: Value) -> None:
        first, last = job.piece(k, number)
        mine = k.at(job.counts, number * job.buckets, "int64")

        def one(i: Value) -> None:
            word = k.load(k.at(job.out, i, "int64"), "int64")
            place = k.at(mine, job.bucket(k, word), "int64")
            to = k.load(place, "int64")
            k.store(word, k.at(job.work, to, "int64"))
            k.store(to + 1, place)

        k.loop(first * 4, k.min(last * 4, job.n), 1, one)

    return piece


def _sort(k: Kernel, job: _Job) -> Callable[[Value], None]:
    """A bucket: its words in order, and their indices as the result."""
    size = 1 << _DIGIT
    low, high = k.alloca(4 * size), k.alloca(4 * size)
    lanes = k.target.lanes("int64")
    shift = k.op(f"sub i64 {64 - 2 * _DIGIT}, {job.bits.text}", "int64")
    ends = k.at(job.counts, job.buckets * (_PIECES - 1), "int64")

    def digits(word: Value) -> list[Value]:
        word = k.op(f"lshr i64 {word.text}, {shift.text}", "int64")
        return [word & (size - 1), k.op(f"lshr i64 {word.text}, {_DIGIT}", "int64") & (size - 1)]

    def bucket(number: Value) -> None:
        whole = k.eq(job.bits, 0)
        last = k.where(whole, job.n, k.load(k.at(ends, number, "int64"), "int64"))
        (first,) = k.if_(k.eq(number, 0), lambda: (k.const(0, "int64"),),
                         lambda: (k.load(k.at(ends, number - 1, "int64"), "int64"),))
        words, other, count = k.at(job.work, first, "int64"), k.at(job.out, first, "int64"), last - first

        def passes() -> None:
            for table in (low, high):
                k.call("llvm.memset.p0.i64", None, table, k.const(0, "uint8"), k.const(4 * size, "int64"),
                       k.const(False, "bool"))

            def number_of(i: Value) -> None:
                for table, digit in zip((low, high), digits(k.load(k.at(words, i, "int64"), "int64")), strict=True):
                    place = k.at(table, digit, "int32")
                    k.store(k.load(place, "int32") + 1, place)

            k.loop(0, count, 1, number_of)

            def begin(i: Value, a: Value, b: Value) -> list[Value]:
                sums = []
                for table, total in ((low, a), (high, b)):
                    place = k.at(table, i, "int32")
                    mine = k.load(place, "int32")
                    k.store(total, place)
                    sums.append(total + mine)
                return sums

            k.loop(0, size, 1, begin, [k.const(0, "int32"), k.const(0, "int32")])
            for turn, (source, target, table) in enumerate(((words, other, low), (other, words, high))):
                def move(i: Value) -> None:
                    word = k.load(k.at(source, i, "int64"), "int64")
                    place = k.at(table, digits(word)[turn], "int32")
                    to = k.load(place, "int32")
                    k.store(to + 1, place)
                    k.store(word, k.at(target, k.cast(to, "int64"), "int64"))

                k.loop(0, count, 1, move)

        k.if_(count > _FEW, passes)

        def ordered(i: Value) -> None:
            one, two = (k.load(k.at(words, i - j, "uint64"), "uint64") for j in (1, 0))
            k.if_(two <= (one | job.mask), lambda: k.call_known("insert", None, words, i, job.key, job.mask))

        k.loop(1, count, 1, ordered)

        def indices(i: Value, width: int) -> None:
            mask = k.splat(job.mask, width) if width > 1 else job.mask
            k.store(k.load(k.at(words, i, "uint64"), "uint64", width) & mask, k.at(other, i, "uint64"))

        rest = count - k.op(f"urem i64 {count.text}, {lanes}", "int64")
        k.loop(0, rest, lanes, lambda i: indices(i, lanes))
        k.loop(rest, count, 1, lambda i: indices(i, 1))

    return bucket


def _word(module: Module) -> None:
    """`word(key, i)`: word i of the stream."""
    k = Kernel(module, "word", [("key", "int64"), ("i", "int64")], "uint64", internal=True)
    key, i = k.arguments
    zero = k.const(0, "int64")
    words = philox.rounds(k, key, [k.op(f"lshr i64 {i.text}, 2", "int64"), zero, zero, zero])
    found = words[3]
    for j in range(3):
        found = k.where(k.eq(i & 3, j), words[j], found)
    k.ret(Value(k, found.text, "uint64", 1))
    k.finish()


def _insert(module: Module) -> None:
    """`insert(words, i, key, mask)`: word i moves to its place among those before it, which are in order."""
    arguments = [("words", "ptr"), ("i", "int64"), ("key", "int64"), ("mask", "uint64")]
    k = Kernel(module, "insert", arguments, internal=True)
    words, i, key, mask = k.arguments
    mine = k.load(k.at(words, i, "uint64"), "uint64")
    place = k.alloca(8, 8)
    k.store(i, place)
    keep = k.bitwise_not(mask)

    def before(other: Value) -> Value:
        """Whether `mine` comes before another."""
        def whole() -> tuple[Value]:
            a, b = (k.call_known("word", "uint64", key, Value(k, (v & mask).text, "int64", 1)) for v in (mine, other))
            return ((a < b) | (k.eq(a, b) & (mine < other)),)

        (first,) = k.if_(k.eq((mine ^ other) & keep, 0), whole, lambda: (mine < other,))
        return first

    head, inside, move, end = (k.label() for _ in range(4))
    k.emit(f"br label %{head}")
    k.begin(head)
    j = k.load(place, "int64")
    k.emit(f"br i1 {(j > 0).text}, label %{inside}, label %{end}")
    k.begin(inside)
    other = k.load(k.at(words, j - 1, "uint64"), "uint64")
    k.emit(f"br i1 {before(other).text}, label %{move}, label %{end}")
    k.begin(move)
    k.store(other, k.at(words, j, "uint64"))
    k.store(j - 1, place)
    k.emit(f"br label %{head}")
    k.begin(end)
    k.store(mine, k.at(words, k.load(place, "int64"), "uint64"))
    k.ret()
    k.finish()


def _check(module: Module) -> None:
    """`check(slots, sizes)`: do the sizes fit?"""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    out, work, counts, key = (k.load(k.at(sizes, i, "int64"), "int64") for i in range(4))
    bits = k.load(k.at(slots, 4, "int64"), "int64")
    sane = (bits >= 0) & (bits <= 16)
    wanted = k.op(f"shl i64 {8 * _PIECES}, {k.where(sane, bits, k.const(0, 'int64')).text}", "int64")
    good = sane & k.eq(out, work) & k.eq(k.op(f"and i64 {out.text}, 7", "int64"), 0) & k.eq(counts, wanted)
    mask = k.load(k.at(slots, 5, "int64"), "int64")
    good = good & k.eq(key, 8) & (out < 8 << 31) & (mask >= 0) & (mask < 1 << _MOST_MASKED)
    good = good & k.eq(mask & (mask + 1), 0) & ((mask + 1) * 8 >= out)
    message = module.string("permutation takes out, work, counts, key, bits and a mask, of sizes that fit")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _run(module: Module) -> None:
    """`run(slots, sizes)`: all of it, on the pool where that pays."""
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, sizes = k.arguments
    n = k.op(f"lshr i64 {k.load(sizes, 'int64').text}, 3", "int64")
    counts = k.load(k.at(slots, 2, "ptr"), "ptr")
    bits = k.load(k.at(slots, 4, "int64"), "int64")
    one, zero = k.const(1, "int64"), k.const(0, "int64")
    mask = k.load(k.at(slots, 5, "int64"), "int64")
    job = k.alloca(7 * 8)
    for i in range(3):
        k.store(k.load(k.at(slots, i, "ptr"), "ptr"), k.at(job, i, "ptr"))
    key = k.load(k.load(k.at(slots, 3, "ptr"), "ptr"), "int64", align=4)
    for i, value in enumerate((key, n, bits, mask), 3):
        k.store(value, k.at(job, i, "int64"))
    buckets = k.op(f"shl i64 1, {bits.text}", "int64")

    def share(name: str, tasks: Value) -> None:
        function = k.symbol(f"@{name}")
        alone = lambda: k.call_known(name, None, job, zero, tasks, k.const(0, "int32"))
        by = lambda symbol: lambda: k.call(symbol, None, function, job, tasks, one)
        k.if_(n < _AWAKE, alone, lambda: k.if_(n < _WAKE, by(pool.AWAKE), by(pool.SYMBOL)))

    def all_steps() -> None:
        pieces = k.const(_PIECES, "int64")
        share("generate", pieces)

        def divide() -> None:
            def of_bucket(b: Value, total: Value) -> list[Value]:
                for p in range(_PIECES):
                    place = k.at(counts, buckets * p + b, "int64")
                    mine = k.load(place, "int64")
                    k.store(total, place)
                    total = total + mine
                return [total]

            k.loop(0, buckets, 1, of_bucket, [zero])
            share("share_out", pieces)

        k.if_(k.ne(bits, 0), divide)
        share("sort", buckets)

    k.if_(n > 0, all_steps)
    k.ret()
    k.finish()
