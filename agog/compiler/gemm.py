"""Matrix products of arrays, in float32 and float64: `gemm(dtype)(out, a, b)`. How is said in `gemm_kernels`."""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from agog import config
from agog.compiler import call, jit, pool, targets
from agog.compiler.gemm_kernels import ACCUMULATE, BIAS, FIELDS, RELU, Products, ceil_div
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import Target
from agog.errors import DTypeError

__all__ = ["Gemm", "gemm"]

PARALLEL = 1 << 18  # multiplications below which one thread does all
_WAKE = 1 << 22  # multiplications below which no thread is woken for them
LONG = 512  # rows or columns of a task that pay for packing the other matrix once more, against uneven threads
THIN = 3  # times rows and columns from which k is what is shared out
NARROW = 8  # rows and columns from which that pays
PART = 512  # steps of k in a part
MORE_PARTS = (4, 8)  # than two
SUMMED = 1 << 17  # bytes of C up to which there are parts

class Gemm:
    """The matrix product of one dtype.

    `product(out, a, b, bias=None, relu=False, accumulate=False)` computes out = a @ b (+ out) (+ bias), then relu.

    Shapes: out (m, n), a (m, k), b (k, n), or each with one batch axis in front, of equal lengths; a and b may lack it.
    `bias` has shape (n,). a and b may have any strides (a transpose costs little), out must be contiguous along its
    last axis. `out` must not overlap the others. Raises ValueError when the shapes do not fit.
    """

    __slots__ = ("_no_bias", "dtype", "native")

    def __init__(self, dtype: str, native: Callable[..., None], no_bias: Any) -> None:
        self.dtype, self.native, self._no_bias = dtype, native, no_bias

    def __call__(
        self, out: Any, a: Any, b: Any, bias: Any = None, relu: bool = False, accumulate: bool = False
    ) -> None:
        pool.refresh()
        flags = (ACCUMULATE if accumulate else 0) | (0 if bias is None else BIAS) | (RELU if relu else 0)
        self.native(out, a, b, self._no_bias if bias is None else bias, flags, config.num_threads)

    def __repr__(self) -> str:
        return f"<matrix product of {self.dtype}>"


SYMBOL = "agog_product_"
"""With the dtype's name, what compiled programs call: `void (ptr job, i64 begin, i64 end, i32 thread)`."""

SUM = "agog_product_sum_"
"""The same: `void (ptr job)`, which adds up the parts of a job that has several."""

_PARAMETERS = call.STRIDED_OUT + call.STRIDED_IN * 2 + call.IN + call.INT * 2


def later(dtype: str, target: Target) -> jit.Later:
    """The one object for eager work and for programs."""
    return call.with_builtin(jit.Later(f"gemm {dtype}", target, lambda: build(dtype, target)), _PARAMETERS)


@functools.cache
def gemm(dtype: str, target: Target | None = None) -> Gemm:
    """The `Gemm` of a dtype, "float32" or "float64"; compiled at the first call on a machine, then read from disk."""
    if dtype not in ("float32", "float64"):
        raise DTypeError(f"the matrix product takes float32 and float64, not {dtype}")
    module = later(dtype, target or targets.host())
    native = call.bind(module, f"matmul_{dtype}", _PARAMETERS, imports=pool.imports)
    return Gemm(dtype, native, np.empty(0, np.uint8))


def build(dtype: str, target: Target) -> Module:
    """The module of one dtype's product."""
    module = Module(target)
    writer = _Writer(module, dtype)
    writer.everything()
    writer.check()
    writer.run()
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, SYMBOL + dtype, arguments)
    k.call_known("task", None, *k.arguments)
    k.ret()
    k.finish()
    k = Kernel(module, SUM + dtype, [("job", "ptr")])
    k.call_known("sum_parts", None, *k.arguments)
    k.ret()
    k.finish()
    return module


class _Writer(Products):
    """Writes what arrays are given to."""

    def _matrix(self, k: Kernel, sizes: Value, number: int) -> tuple[Value, list[Value], list[Value]]:
        """ndim, and lengths and strides (batch, rows, columns) of an array; without a batch axis 1 and stride 0."""
        buffer = k.load(k.at(sizes, number, "ptr"), "ptr")
        ndim = k.cast(k.load(k.offset(buffer, call.NDIM), "int32"), "int64")
        lengths, strides = (k.load(k.offset(buffer, at), "ptr") for at in (call.SHAPE, call.STRIDES))
        one, zero = k.const(1, "int64"), k.const(0, "int64")

        def item(block: Value, back: int, default: Value) -> Value:
            (value,) = k.if_(
                ndim >= back, lambda: [k.load(k.at(block, ndim - back, "int64"), "int64")], lambda: [default]
            )
            return value

        return ndim, [item(lengths, i, one) for i in (3, 2, 1)], [item(strides, i, zero) for i in (3, 2, 1)]

    def check(self) -> None:
        """`check(slots, sizes)`: do the shapes fit, is out contiguous along its last axis?"""
        k, (slots, sizes) = self.function("check", "slots sizes", "", call.native_calls, "ptr")
        (cn, (cb, m, n), (_, c_row, c_column)), (an, (ab, am, ak), _), (bn, (bb, bk, bn_), _) = (
            self._matrix(k, sizes, i) for i in range(3)
        )
        flags = k.load(k.at(slots, 4, "int64"), "int64")
        bias = k.load(k.at(sizes, 3, "int64"), "int64")
        good = k.eq(am, m) & k.eq(bn_, n) & k.eq(ak, bk)
        for ndim in (cn, an, bn):
            good = good & (ndim >= 2) & (ndim <= 3)
        good = good & (k.eq(an, 2) | k.eq(ab, cb)) & (k.eq(bn, 2) | k.eq(bb, cb))
        good = good & (k.eq(flags & BIAS, 0) | k.eq(bias, n * self.size))
        contiguous = (k.eq(c_column, self.size) & (c_row >= n * self.size)) | (n <= 1) | (m <= 0)
        message = self.module.string(
            "matmul takes out (m, n), a (m, k), b (k, n) or these with one equal batch axis, and bias (n,)"
        )
        strided = self.module.string("matmul needs an out array that is contiguous along its last axis")
        null = k.const(0, "ptr")
        k.ret(k.where(good, k.where(contiguous, null, k.symbol(strided)), k.symbol(message)))
        k.finish()

    def run(self) -> None:
        """`run(slots, sizes)`: describe the job, divide it, hand it to the pool."""
        k, (slots, sizes) = self.function("run", "slots sizes", "", call.native_calls)
        (_, (batch, m, n), (c_batch, c_row, _)), (_, (_, _, depth), a), (_, _, b) = (
            self._matrix(k, sizes, i) for i in range(3)
        )
        c_p, a_p, b_p, bias = (k.load(k.at(slots, i, "ptr"), "ptr") for i in range(4))
        flags, threads = (k.load(k.at(slots, i, "int64"), "int64") for i in (4, 5))
        one = k.const(1, "int64")

        work = m * n * depth
        alone = (threads <= 1) | (work * batch < PARALLEL)
        longest = k.where(m > n, m, n)
        thin = (m >= NARROW) & (n >= NARROW) & (longest * THIN <= depth) & (m * n * self.size <= SUMMED)
        thin = thin & (work >= PARALLEL) & k.eq(batch, 1)
        parts = k.const(2, "int64")
        for n_parts in MORE_PARTS:
            parts = k.where(depth >= n_parts * PART, n_parts, parts)
        parts = k.where(thin & (depth >= PART), parts, one)
        # Enough tasks for the threads; with several each for large products. Each task packs what it needs of the
        # other matrix again, so the longer side of C is the one that is divided (of equal ones the rows: packing
        # A, mostly a transpose, is the dearer).
        by_rows = m >= n
        unit = k.where(by_rows, self.tiles.tall[0], k.const(self.tiles.tall[1] * self.lanes, "int64"))
        length = k.where(by_rows, m, n)
        tasks = k.where(length >= threads * (2 * LONG), threads * 2, threads)
        pieces = k.where(parts > 1, parts, batch)
        wanted = k.where(alone, one, ceil_div(k, tasks, k.where(pieces > 0, pieces, one)))
        units = ceil_div(k, length, unit)
        per_task = ceil_div(k, units, wanted) * unit
        per_task = k.where(per_task > 0, per_task, unit)
        count = ceil_div(k, length, per_task)
        part = k.bitwise_and(ceil_div(k, depth, parts) + (self.lanes - 1), -self.lanes)

        values = [a_p, a[1], a[2], a[0], b_p, b[1], b[2], b[0], c_p, c_row, c_batch]
        values += [m, n, depth, batch, flags, bias, k.cast(by_rows, "int64"), per_task, count]
        job = k.alloca(8 * len(FIELDS), 64)
        # Memory for the parts is kept between calls. Without any the product is not divided.
        self.module.globals["partial"] = "@partial = internal global ptr null"
        place = k.symbol("@partial")
        room = k.const((MORE_PARTS[-1] - 1) * SUMMED, "int64")
        take = lambda: [k.op(f"atomicrmw xchg ptr {place.text}, ptr null acquire", "ptr")]
        (kept,) = k.if_(parts > 1, take, lambda: [k.const(0, "ptr")])
        fresh = (parts > 1) & ~k.ne_null(kept)
        (partial,) = k.if_(fresh, lambda: [k.call("malloc", "ptr", room, external=True)], lambda: [kept])
        parts = k.where(k.ne_null(partial), parts, one)
        nothing_then = [k.const(0, "ptr"), k.const(0, "ptr"), k.const(0, "int64")]
        for i, value in enumerate([*values, parts, part, partial, *nothing_then]):
            k.store(value, k.at(job, i, "int64"))
        total, task = k.where(parts > 1, parts, batch) * count, k.symbol("@task")
        k.if_(
            alone,
            lambda: k.call_known("task", None, job, k.const(0, "int64"), total, k.const(0, "int32")),
            lambda: k.if_(
                work * batch < _WAKE,
                lambda: k.call(pool.AWAKE, None, task, job, total, one),
                lambda: k.call(pool.SYMBOL, None, task, job, total, one),
            ),
        )

        def sum_and_keep() -> None:
            k.call_known("sum_parts", None, job)
            back = k.op(f"atomicrmw xchg ptr {place.text}, {partial.typed} release", "ptr")
            k.if_(k.ne_null(back), lambda: k.call("free", None, back, external=True))

        k.if_(parts > 1, sum_and_keep)
        k.ret()
        k.finish()
