"""The random bits of `agog.ops.random` as native code: Philox-4x64-10 (Salmon et al. 2011) under a key.

A block of the stream is four words of 64 bits, made from its number alone, so threads share a stream out by blocks.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from agog.compiler import jit, pool
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import Target

__all__ = ["Philox", "philox"]

_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10
_COST = 120  # instructions of a block
_PARALLEL, _GRAIN = 1 << 13, 1 << 11  # blocks


class Philox(NamedTuple):
    """A function to call with (out, key, number or null, null, table), as `natives.Native` has them."""

    symbol: str
    table: np.ndarray
    work: int
    recipe: tuple[str, ...]


def philox(target: Target, blocks: int, purpose: int, number: int) -> Philox:
    """Native code that fills `blocks` blocks of the stream with that purpose and number (see `agog.ops.random`)."""
    table = np.array([blocks, purpose, number], np.int64)
    return Philox("agog_philox", table, _COST * blocks, ("philox", "philox", ""))


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """The function "philox"; it is the same for every dtype."""
    return jit.load(jit.Later("philox", target, lambda: build(target)), ["philox"], pool.imports)


def build(target: Target) -> Module:
    """The module."""
    module = Module(target)
    _chunk(module)
    k = Kernel(module, "philox", [(name, "ptr") for name in ("out", "key", "number", "none", "table")])
    out, key, number, _, table = k.arguments
    blocks, purpose, given = (k.load(k.at(table, i, "int64"), "int64") for i in range(3))
    (number,) = k.if_(k.ne_null(number), lambda: [k.load(number, "int64")], lambda: [given])
    job = k.alloca(32, 64)
    k.store(out, job)
    for i, value in enumerate([k.load(key, "int64", align=4), number, purpose], 1):
        k.store(value, k.at(job, i, "int64"))
    task, zero = k.symbol("@chunk"), k.const(0, "int64")
    k.if_(
        blocks >= _PARALLEL,
        lambda: k.call(pool.SYMBOL, None, task, job, blocks, k.const(_GRAIN, "int64")),
        lambda: k.call_known("chunk", None, job, zero, blocks, k.const(0, "int32")),
    )
    k.ret()
    k.finish()
    return module


def _chunk(module: Module) -> None:
    """`chunk(job, begin, end, thread)`: the blocks begin, ..., end - 1."""
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, "chunk", arguments, internal=True)
    job, begin, end, _ = k.arguments
    out = k.load(job, "ptr")
    first, number, purpose = (k.load(k.at(job, i, "int64"), "int64") for i in (1, 2, 3))

    def block(i: Value) -> None:
        place = k.at(out, i * 4, "int64")
        for j, word in enumerate(rounds(k, first, [i, k.const(0, "int64"), number, purpose])):
            k.store(word, k.at(place, j, "int64"))

    k.loop(begin, end, 1, block)
    k.ret()
    k.finish()


def rounds(k: Kernel, key: Value, counter: list[Value]) -> list[Value]:
    """The four words of a block: of the counter, which is its number, 0, what numbers the stream, and its purpose."""
    c = counter
    keys = [key, k.const(0, "int64")]
    for turn in range(_ROUNDS):
        if turn:
            keys = [key + k.const(weyl, "int64") for key, weyl in zip(keys, _WEYL, strict=True)]
        (high0, low0), (high1, low1) = _product(k, c[0], _MULTIPLIERS[0]), _product(k, c[2], _MULTIPLIERS[1])
        c = [high1 ^ c[1] ^ keys[0], low1, high0 ^ c[3] ^ keys[1], low0]
    return c


def _product(k: Kernel, a: Value, factor: int) -> tuple[Value, Value]:
    """The high and low words of an unsigned product."""
    wide = k.op(f"zext i64 {a.text} to i128", "int64")
    wide = k.op(f"mul i128 {wide.text}, {factor}", "int64")
    high = k.op(f"lshr i128 {wide.text}, 64", "int64")
    return k.op(f"trunc i128 {high.text} to i64", "int64"), k.op(f"trunc i128 {wide.text} to i64", "int64")
