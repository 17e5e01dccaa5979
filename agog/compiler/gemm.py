"""Matrix products C = A B, with a bias and relu, of any shape and strides, in float32 and float64.

The structure is Goto's (ACM TOMS 34, 2008). A micro-kernel keeps a tile of C, up to MR rows by NV vectors, in
registers; per step of k it loads NV vectors of B and broadcasts one element of A per row. A is packed in panels of MR
rows that stay in the first level cache, B in panels of one tile's width of which a block stays in the second. Each
thread packs for itself the part that it computes, so that threads never wait for each other.

All sizes and strides are run-time numbers: one object per dtype and machine serves every shape. The rows are split into
panels that differ by at most one row, and there is a micro-kernel for every number of rows, so no row is computed in
vain. Transposes are strides: packing reads along whichever axis is contiguous, with shuffles where that is k.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Iterator, Sequence

import numpy as np

from agog import config
from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import Packing
from agog.compiler.targets import Target
from agog.errors import DTypeError

__all__ = ["Gemm", "gemm"]

# Flags of a call.
ACCUMULATE, BIAS, RELU = 1, 2, 4

_TOGETHER = 1 << 10  # bytes of a row of B that are packed at once, into several panels
_PARALLEL = 1 << 18  # multiplications below which one thread does all
_WAKE = 1 << 22  # multiplications below which no thread is woken for them
_LONG = 512  # rows or columns of a task that pay for packing the other matrix once more, against uneven threads


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
"""With the dtype's name, what compiled programs call."""

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
    native = call.bind(module, f"matmul_{dtype}", _PARAMETERS, imports=pool.imports())
    return Gemm(dtype, native, np.empty(0, np.uint8))


def build(dtype: str, target: Target) -> Module:
    """The module of one dtype's product."""
    module = Module(target)
    writer = _Writer(module, dtype)
    writer.parts()
    writer.check()
    writer.run()
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, SYMBOL + dtype, arguments)
    k.call_known("task", None, *k.arguments)
    k.ret()
    k.finish()
    return module


class Tiles:
    """The register tiles of a machine: (most rows, vectors) for tall products, and for those with few rows.

    MR * NV accumulators, NV vectors of B and a broadcast element must fit the registers.
    """

    def __init__(self, target: Target) -> None:
        self.tall, self.flat = ((14, 2), (6, 4)) if target.registers >= 32 else ((6, 2), (2, 4))

    def kernels(self) -> Iterator[tuple[int, int]]:
        """Every (rows, vectors) there is a micro-kernel for: all rows, and the powers of two up to the width."""
        for (most, vectors), least in ((self.flat, 1), (self.tall, self.flat[0] + 1)):
            for rows in range(least, most + 1):
                for v in (1, 2, 4):
                    if v <= vectors:
                        yield rows, v


class _Writer(Packing):
    """Writes the functions. Strides are in bytes, and int64, like all numbers."""

    def __init__(self, module: Module, dtype: str) -> None:
        super().__init__(module, dtype)
        self.tiles = Tiles(module.target)
        first, second = targets.caches()
        #: Steps of k in a block: the panel of A takes about a third of the first level cache.
        self.depth = max(64, first * 3 // 8 // (self.tiles.tall[0] * self.size) // 64 * 64)
        #: Bytes of packed B, which share the second level cache with A and C.
        self.b_block = min(second * 5 // 8, 1 << 20)

    def parts(self) -> None:
        """Everything down to `task`."""
        self.edge()
        self.micro_kernels()
        self.packing()
        self.pack_panels()
        self.block()
        self.dots()
        self.task()

    # -- tiles of C

    def epilogue(
        self, k: Kernel, flags: Value, values: Sequence[Value], old: Callable[[], Sequence[Value]], bias: Any
    ) -> list[Value]:
        """Add what was in C, add the bias, clip at zero, as the flags say; `old` and `bias` load what is added."""

        def on(bit: int, fn: Callable[[], Sequence[Value]]) -> list[Value]:
            (*out,) = k.if_(k.ne(flags & bit, 0), fn, lambda: values)
            return out

        values = on(ACCUMULATE, lambda: [v + o for v, o in zip(values, old(), strict=True)])
        values = on(BIAS, lambda: [v + o for v, o in zip(values, bias(), strict=True)])
        return on(RELU, lambda: [k.max(v, 0.0) for v in values])

    def edge(self) -> None:
        """Move a computed tile that C is too narrow for: `edge(tile, c, bias, c_row, rows, columns, flags, stride)`."""
        k, (tile, c, bias, c_row, rows, columns, flags, stride) = self.function(
            "edge", "tile c bias", "c_row rows columns flags stride"
        )

        def row(i: Value) -> None:
            def vector(j: Value) -> None:
                left = columns - j
                partial = k.partial(k.where(left < self.lanes, left, self.lanes))
                place = k.at(k.offset(c, i * c_row), j, self.dtype)
                value = k.load(k.at(k.offset(tile, i * stride), j, self.dtype), self.dtype, self.lanes)
                (value,) = self.epilogue(
                    k,
                    flags,
                    [value],
                    lambda: [partial.load(place, self.dtype)],
                    lambda: [partial.load(k.at(bias, j, self.dtype), self.dtype)],
                )
                partial.store(value, place)

            k.loop(0, columns, self.lanes, vector)

        k.loop(0, rows, 1, row)
        k.ret()
        k.finish()

    def micro_kernels(self) -> None:
        """All of them, and a table of their addresses by rows and log2 of the vectors."""
        made = dict.fromkeys(self.tiles.kernels())
        for rows, vectors in made:
            self.micro_kernel(rows, vectors)
        table = []
        for rows in range(self.tiles.tall[0] + 1):
            for v in (1, 2, 4):
                table.append(f"ptr @tile_{rows}_{v}" if (rows, v) in made else "ptr null")
        self.module.globals["tiles"] = f"@tiles = internal constant [{len(table)} x ptr] [{', '.join(table)}]"

    def micro_kernel(self, rows: int, vectors: int) -> None:
        """`tile_R_V(a, b, c, bias, steps, b_k, c_row, columns, flags)`: a tile of C from A [k][rows] and B [k][...]."""
        k, (a, b, c, bias, steps, b_k, c_row, columns, flags) = self.function(
            f"tile_{rows}_{vectors}", "a b c bias", "steps b_k c_row columns flags"
        )
        dtype, lanes = self.dtype, self.lanes

        def step(_: Value, a: Any, b: Any, *tile: Value) -> list[Value]:
            bs = [k.load(k.offset(b, v * self.vector_bytes), dtype, lanes) for v in range(vectors)]
            out = []
            for r in range(rows):
                element = k.splat(k.load(k.offset(a, r * self.size), dtype))
                out += [k.fma(element, bs[v], tile[r * vectors + v]) for v in range(vectors)]
            return [k.offset(a, rows * self.size), k.offset(b, b_k), *out]

        place = c
        for _ in range(rows):  # C comes from further away than A and B: it is there when the sums are
            for v in range(vectors):
                k.prefetch(k.offset(place, v * self.vector_bytes))
            place = k.offset(place, c_row)
        zero = k.const(0.0, dtype, lanes)
        _, _, *tile = k.loop(0, steps, 1, step, [a, b, *[zero] * (rows * vectors)])

        def whole() -> None:
            row_pointers = [c]
            for _ in range(rows - 1):
                row_pointers.append(k.offset(row_pointers[-1], c_row))
            places = [k.offset(p, v * self.vector_bytes) for p in row_pointers for v in range(vectors)]

            def biases() -> list[Value]:
                loaded = [k.load(k.offset(bias, v * self.vector_bytes), dtype, lanes) for v in range(vectors)]
                return loaded * rows

            values = self.epilogue(k, flags, tile, lambda: [k.load(p, dtype, lanes) for p in places], biases)
            for value, place in zip(values, places, strict=True):
                k.store(value, place)

        def part() -> None:
            buffer = k.alloca(rows * vectors * self.vector_bytes)
            for i, value in enumerate(tile):
                k.store(value, k.offset(buffer, i * self.vector_bytes))
            numbers = [c_row, k.const(rows, "int64"), columns, flags, k.const(vectors * self.vector_bytes, "int64")]
            k.call_known("edge", None, buffer, c, bias, *numbers)

        k.if_(k.eq(columns, vectors * lanes), whole, part)
        k.ret()
        k.finish()

    # -- the loops

    def pack_panels(self) -> None:
        """`pack_panels(source, destination, k_stride, columns, steps, width)`: whole panels of B, side by side."""
        k, (source, destination, k_stride, columns, steps, width) = self.function(
            "pack_panels", "source destination", "k_stride columns steps width"
        )
        most = _TOGETHER // self.size

        def some(vectors: int) -> Callable[[], Any]:
            def group(first: Value) -> None:
                left = columns - first
                end = first + k.where(left < most, left, most)

                def step(i: Value, source: Value, destination: Value) -> Any:
                    def panel(j: Value) -> None:
                        there, place = k.at(source, j, self.dtype), k.offset(destination, j * steps * self.size)
                        for at in range(0, vectors * self.vector_bytes, self.vector_bytes):
                            k.store(k.load(k.offset(there, at), self.dtype, self.lanes), k.offset(place, at))

                    k.loop(first, end, vectors * self.lanes, panel)
                    return k.offset(source, k_stride), k.offset(destination, vectors * self.vector_bytes)

                k.loop(0, steps, 1, step, [source, destination])

            return lambda: k.loop(0, columns, most, group)

        (_, tall), (_, flat) = self.tiles.tall, self.tiles.flat
        k.if_(k.eq(width, tall * self.lanes), some(tall), some(flat))
        k.ret()
        k.finish()

    def block(self) -> None:
        """`block(job, scratch, batch, row, rows, column, columns)`: one thread's part of one matrix."""
        k, (job, scratch, batch, row, rows, column, columns) = self.function(
            "block", "job scratch", "batch row rows column columns"
        )
        f = _Job(k, job)
        lanes, size = self.lanes, self.size
        a = k.offset(f.a, batch * f.a_batch + row * f.a_row)
        b = k.offset(f.b, batch * f.b_batch + column * f.b_column)
        c = k.at(k.offset(f.c, batch * f.c_batch + row * f.c_row), column, self.dtype)
        bias = k.at(f.bias, column, self.dtype)

        flat = rows <= self.tiles.flat[0]
        most = k.where(flat, self.tiles.flat[0], k.const(self.tiles.tall[0], "int64"))
        width = k.where(flat, self.tiles.flat[1] * lanes, k.const(self.tiles.tall[1] * lanes, "int64"))
        panels = _ceil_div(k, rows, most)
        divisor = k.where(panels > 0, panels, 1)  # there may be no rows
        panel_rows = k.op(f"udiv i64 {rows.text}, {divisor.text}", "int64")
        longer = rows - panels * panel_rows  # so many panels have one row more

        blocks = _ceil_div(k, f.k, k.const(self.depth, "int64"))
        one = k.const(1, "int64")
        blocks = k.where(blocks > 0, blocks, one)  # without any k there are still zeros (and biases) to store
        depth = _ceil_div(k, f.k, blocks)
        depth = k.where(depth > 0, depth, one)
        wide = k.op(f"udiv i64 {self.b_block // size}, {(depth * width).text}", "int64")
        wide = k.where(wide > 0, wide, one) * width

        a_pack = scratch
        b_pack = k.offset(scratch, self.a_bytes)
        # A product with few rows uses each element of B once or twice: then it is read where it is.
        direct = (panels <= 1) & k.eq(f.b_column, size)

        def depth_block(start: Value) -> None:
            left = f.k - start
            steps = k.where(left < depth, left, depth)
            first, final = k.eq(start, 0), start + depth >= f.k
            flags = k.where(first, f.flags & ACCUMULATE, one) | k.where(final, f.flags & (BIAS | RELU), 0)

            def column_block(j: Value) -> None:
                left = columns - j
                block_columns = k.where(left < wide, left, wide)
                b_block = k.offset(b, start * f.b_k + j * f.b_column)

                # Whole panels whose columns are adjacent are packed together, so that memory is read in long runs.
                # A panel that is not whole is always packed: a vector may not be read beyond the array.
                whole = k.op(f"udiv i64 {block_columns.text}, {width.text}", "int64") * width
                together = k.eq(f.b_column, size)

                def pack_panel(jr: Value) -> None:
                    left = block_columns - jr
                    count = k.where(left < width, left, width)
                    k.call_known(
                        "pack",
                        None,
                        k.offset(b_block, jr * f.b_column),
                        k.offset(b_pack, jr * steps * size),
                        f.b_column,
                        f.b_k,
                        count,
                        columns - j - jr,
                        steps,
                        width * size,
                    )

                panels_together = lambda: k.call_known("pack_panels", None, b_block, b_pack, f.b_k, whole, steps, width)
                k.if_(together & ~direct, panels_together)
                k.loop(k.where(together, whole, 0), block_columns, width, pack_panel)

                def panel(p: Value) -> None:
                    height = panel_rows + k.cast(p < longer, "int64")
                    above = p * panel_rows + k.where(p < longer, p, longer)
                    a_panel = k.offset(a, above * f.a_row + start * f.a_k)
                    k.call_known(
                        "pack", None, a_panel, a_pack, f.a_row, f.a_k, height, rows - above, steps, height * size
                    )
                    c_panel = k.at(k.offset(c, above * f.c_row), j, self.dtype)

                    def tile(jr: Value) -> None:
                        left = block_columns - jr
                        count = k.where(left < width, left, width)
                        in_place = direct & k.eq(count, width)
                        b_panel = k.offset(b_pack, jr * steps * size)
                        b_panel = k.op(
                            f"select i1 {in_place.text}, {k.offset(b_block, jr * f.b_column).typed}, {b_panel.typed}",
                            "ptr",
                        )
                        step = k.where(in_place, f.b_k, width * size)
                        log_vectors = k.cast(count > lanes, "int64") + k.cast(count > 2 * lanes, "int64")
                        kernel = k.load(k.at(k.symbol("@tiles"), height * 3 + log_vectors, "ptr"), "ptr")
                        k.call_address(
                            kernel,
                            a_pack,
                            b_panel,
                            k.at(c_panel, jr, self.dtype),
                            k.at(k.at(bias, j, self.dtype), jr, self.dtype),
                            steps,
                            step,
                            f.c_row,
                            count,
                            flags,
                        )

                    k.loop(0, block_columns, width, tile)

                k.loop(0, panels, 1, panel)

            k.loop(0, columns, wide, column_block)

        k.loop(0, k.where(f.k > 0, f.k, one), depth, depth_block)
        k.ret()
        k.finish()

    def dots(self) -> None:
        """`dots(...)`: the dot product of each row of a matrix with a vector, both contiguous along k."""
        k, (matrix, vector, c, bias, row_stride, rows, steps, c_stride, bias_stride, flags) = self.function(
            "dots", "matrix vector c bias", "row_stride rows steps c_stride bias_stride flags"
        )
        dtype, lanes, most = self.dtype, self.lanes, 4
        whole = k.bitwise_and(steps, -lanes)
        zero = k.const(0.0, dtype, lanes)

        def several(count: int) -> Callable[[Value], None]:
            """The dot products of `count` rows at once: one load of the vector serves them all."""

            def group(r: Value) -> None:
                starts = [k.offset(matrix, (r + i) * row_stride) for i in range(count)]

                def multiply(load: Callable[[Value, Value], Value]) -> Callable[..., list[Value]]:
                    def step(j: Value, *sums: Value) -> list[Value]:
                        v = load(vector, j)
                        return [k.fma(load(p, j), v, total) for p, total in zip(starts, sums, strict=True)]

                    return step

                sums = k.loop(
                    0, whole, lanes, multiply(lambda p, j: k.load(k.at(p, j, dtype), dtype, lanes)), [zero] * count
                )
                partial = k.partial(steps - whole)
                last = multiply(lambda p, j: partial.load(k.at(p, j, dtype), dtype))
                totals = k.if_(whole < steps, lambda: last(whole, *sums), lambda: sums)
                for i, total in enumerate(totals):
                    place, added = k.offset(c, (r + i) * c_stride), k.offset(bias, (r + i) * bias_stride)
                    load = lambda p: lambda: [k.load(p, dtype)]
                    (value,) = self.epilogue(k, flags, [k.reduce_sum(total)], load(place), load(added))
                    k.store(value, place)

            return group

        grouped = k.bitwise_and(rows, -most)
        k.loop(0, grouped, most, several(most))
        k.loop(grouped, rows, 1, several(1))
        k.ret()
        k.finish()

    @property
    def a_bytes(self) -> int:
        """Room for a packed panel of A and the vector beyond it."""
        return _round_up(self.tiles.tall[0] * self.depth * self.size + self.vector_bytes, 64)

    @property
    def scratch_bytes(self) -> int:
        """Room for all that one thread packs; a single panel of B may exceed the block it should fit in."""
        panel = max(v for _, v in (self.tiles.tall, self.tiles.flat)) * self.vector_bytes * self.depth
        return self.a_bytes + max(self.b_block, panel) + 2 * self.vector_bytes + 64

    def task(self) -> None:
        """`task(job, begin, end, thread)`: what the pool calls, for tasks numbered over batches and parts.

        Scratch memory is kept between calls, one piece per thread number: it is taken by an atomic exchange, so that
        two callers with the same number cannot both have it.
        """
        self.module.globals["kept"] = "@kept = internal global [1024 x ptr] zeroinitializer"
        arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, "task", arguments, None, self.lanes, internal=True)
        job, begin, end, thread = k.arguments
        f = _Job(k, job)
        place = k.at(k.symbol("@kept"), k.cast(thread, "int64") & 1023, "ptr")
        taken = k.op(f"atomicrmw xchg ptr {place.text}, ptr null acquire", "ptr")
        fresh = lambda: [k.call("malloc", "ptr", k.const(self.scratch_bytes, "int64"), external=True)]
        (memory,) = k.if_(k.ne_null(taken), lambda: [taken], fresh)
        address = k.op(f"ptrtoint ptr {memory.text} to i64", "int64")
        scratch = k.op(f"inttoptr i64 {k.bitwise_and(address + 63, -64).text} to ptr", "ptr")

        def one(i: Value) -> None:
            batch = k.op(f"udiv i64 {i.text}, {f.tasks.text}", "int64")
            start = (i - batch * f.tasks) * f.per_task
            by_rows = k.ne(f.by_rows, 0)
            length = k.where(by_rows, f.m, f.n)
            left = length - start
            count = k.where(left < f.per_task, left, f.per_task)
            row, rows = k.where(by_rows, start, 0), k.where(by_rows, count, f.m)
            column, columns = k.where(by_rows, 0, start), k.where(by_rows, f.n, count)
            # A matrix times a vector, either way round, where k is contiguous in both: packing would cost more than it.
            along_k = k.eq(f.a_k, self.size) & k.eq(f.b_k, self.size)
            a, b, c = (
                k.offset(f.a, batch * f.a_batch + row * f.a_row),
                k.offset(f.b, batch * f.b_batch + column * f.b_column),
                k.offset(f.c, batch * f.c_batch + row * f.c_row + column * self.size),
            )
            zero, size = k.const(0, "int64"), k.const(self.size, "int64")
            times_column = lambda: k.call_known(
                "dots", None, a, b, c, f.bias, f.a_row, rows, f.k, f.c_row, zero, f.flags
            )
            times_row = lambda: k.call_known(
                "dots", None, b, a, c, k.at(f.bias, column, self.dtype), f.b_column, columns, f.k, size, size, f.flags
            )
            general = lambda: k.call_known("block", None, job, scratch, batch, row, rows, column, columns)
            k.if_(
                along_k & k.eq(f.n, 1),
                times_column,
                lambda: k.if_(along_k & k.eq(f.m, 1), times_row, general),
            )

        k.if_(k.ne_null(memory), lambda: k.loop(begin, end, 1, one) and None)
        back = k.op(f"atomicrmw xchg ptr {place.text}, {memory.typed} release", "ptr")
        k.if_(k.ne_null(back), lambda: k.call("free", None, back, external=True))
        k.ret()
        k.finish()

    # -- the interface

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
        alone = (threads <= 1) | (work * batch < _PARALLEL)
        # Enough tasks for the threads; with several each for large products. Each task packs what it needs of the
        # other matrix again, so the longer side of C is the one that is divided (of equal ones the rows: packing
        # A, mostly a transpose, is the dearer).
        by_rows = m >= n
        unit = k.where(by_rows, self.tiles.tall[0], k.const(self.tiles.tall[1] * self.lanes, "int64"))
        length = k.where(by_rows, m, n)
        tasks = k.where(length >= threads * (2 * _LONG), threads * 2, threads)
        wanted = k.where(alone, one, _ceil_div(k, tasks, k.where(batch > 0, batch, one)))
        units = _ceil_div(k, length, unit)
        per_task = _ceil_div(k, units, wanted) * unit
        per_task = k.where(per_task > 0, per_task, unit)
        count = _ceil_div(k, length, per_task)

        values = [a_p, a[1], a[2], a[0], b_p, b[1], b[2], b[0], c_p, c_row, c_batch]
        values += [m, n, depth, batch, flags, bias, k.cast(by_rows, "int64"), per_task, count]
        job = k.alloca(8 * len(_FIELDS), 64)
        for i, value in enumerate(values):
            k.store(value, k.at(job, i, "int64"))
        total, task = batch * count, k.symbol("@task")
        k.if_(
            alone,
            lambda: k.call_known("task", None, job, k.const(0, "int64"), total, k.const(0, "int32")),
            lambda: k.if_(
                work * batch < _WAKE,
                lambda: k.call(pool.AWAKE, None, task, job, total, one),
                lambda: k.call(pool.SYMBOL, None, task, job, total, one),
            ),
        )
        k.ret()
        k.finish()


class _Job:
    """The fields of a job, loaded once at the start of a function."""

    a: Value
    a_row: Value
    a_k: Value
    a_batch: Value
    b: Value
    b_k: Value
    b_column: Value
    b_batch: Value
    c: Value
    c_row: Value
    c_batch: Value
    m: Value
    n: Value
    k: Value
    batch: Value
    flags: Value
    bias: Value
    by_rows: Value
    per_task: Value
    tasks: Value

    def __init__(self, k: Kernel, job: Value):
        for i, name in enumerate(_FIELDS):
            setattr(self, name, k.load(k.at(job, i, "int64"), "ptr" if name in ("a", "b", "c", "bias") else "int64"))


#: The order of the fields in memory.
_FIELDS = tuple(_Job.__annotations__)


def _ceil_div(k: Kernel, a: Value, b: Value) -> Value:
    """a / b rounded up, of non-negative numbers."""
    b = b if isinstance(b, Value) else k.const(b, "int64")
    return k.op(f"udiv i64 {(a + b - 1).text}, {b.text}", "int64")


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
