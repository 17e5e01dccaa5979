"""Matrix products C = A B, with a bias and relu, of any shape and strides, in float32 and float64.

The structure is Goto's (ACM TOMS 34, 2008). A micro-kernel keeps a tile of C, up to MR rows by NV vectors, in
registers; per step of k it loads NV vectors of B and broadcasts one element of A per row. A is packed in panels of MR
rows that stay in the first level cache, B in panels of one tile's width of which a block stays in the second. B is
packed by the tiles that use it first, which have loaded it anyway. Each thread packs for itself the part that it
computes, so that threads never wait for each other.

All sizes and strides are run-time numbers: one object per dtype and machine serves every shape. The rows are split into
panels that differ by at most one row, and there is a micro-kernel for every number of rows, so no row is computed in
vain. Transposes are strides: packing reads along whichever axis is contiguous, with shuffles where that is k.

Where k is much longer than rows and columns (the gradient of a weight, over a batch), threads share out k: each makes a
whole matrix of a part, and these are added in order. How many parts there are follows from the sizes alone, so that
the result is the same for any number of threads. Up to four rows or columns are vectors (`gemm_vectors`), if k is
contiguous in both matrices: packing would cost more than their dot products.

A job may name a function that is to go on with the rows of C, some at a time: what a program does with a product runs
while its rows are in the caches.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from agog.compiler import targets
from agog.compiler.gemm_tiles import ACCUMULATE, BIAS, PACKS, RELU, VARIANTS
from agog.compiler.gemm_vectors import Vectors
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel

__all__ = ["ACCUMULATE", "BIAS", "FIELDS", "RELU", "Job", "Products", "ceil_div"]

_LINE = 64  # bytes of a line of the caches
_RUN = 512  # bytes of packed panels that come closer at once
_STEPS = 384 * 4  # bytes of a column of A in a block: longer blocks gain nothing more
_KEPT = 1 << 21  # bytes of packed panels of A, at most, that are kept for the next block of B
_NEAR = 1 << 22  # bytes of B up to which it is read where it is for a second panel of A: it stays in a cache
_GROUP = 8  # panels of A that are packed together where rows are contiguous, so that memory is read in longer runs
_FEW = 4  # rows or columns of a product that are taken as vectors, one by one
_LINES = 1 << 14  # bytes of lines that each of these is multiplied by at a time


class Products(Vectors):
    """Writes the functions of one dtype. Strides are in bytes, and int64, like all numbers."""

    def __init__(self, module: Module, dtype: str) -> None:
        super().__init__(module, dtype)
        first, second = targets.caches()
        #: Steps of k in a block: the panel of A takes up to two thirds of the first level cache.
        self.depth = max(64, min(first * 2 // 3 // (self.tiles.tall[0] * self.size), _STEPS // self.size) // 64 * 64)
        #: Bytes of packed B, which share the second level cache with A and C.
        self.b_block = min(second * 5 // 8, 1 << 20)

    def everything(self) -> None:
        """What `task(job, begin, end, thread)` and `sum_parts(job)` are made of, and these."""
        self.complete()
        self.micro_kernels()
        self.packing()
        self.pack_rows()
        self.fetch()
        self.block()
        self.dots()
        self.columns()
        self.task()
        self.sum_parts()

    # -- the loops

    def pack_rows(self) -> None:
        """`pack_rows(source, destination, k_stride, height, panels, steps, panel_bytes)`: A's panels, side by side.

        Rows are contiguous. Whole vectors are read and stored: over what the next step of k will hold.
        """
        k, (source, destination, k_stride, height, panels, steps, panel_bytes) = self.function(
            "pack_rows", "source destination", "k_stride height panels steps panel_bytes"
        )
        line = height * self.size

        def step(_: Value, source: Value, destination: Value) -> Any:
            def panel(_: Value, there: Value, place: Value) -> Any:
                def vector(r: Value) -> None:
                    k.store(k.load(k.at(there, r, self.dtype), self.dtype, self.lanes), k.at(place, r, self.dtype))

                if self.lanes >= self.tiles.tall[0]:
                    vector(k.const(0, "int64"))
                else:
                    k.loop(0, height, self.lanes, vector)
                return k.offset(there, line), k.offset(place, panel_bytes)

            k.loop(0, panels, 1, panel, [source, destination])
            return k.offset(source, k_stride), k.offset(destination, line)

        k.loop(0, steps, 1, step, [source, destination])
        k.ret()
        k.finish()

    def fetch(self) -> None:
        """`fetch(start, stride, length, first, stop)`: bring some of the runs of `length` bytes closer."""
        k, (start, stride, length, first, stop) = self.function("fetch", "start", "stride length first stop")

        def run(i: Value) -> None:
            k.loop(0, length, _LINE, lambda at: k.prefetch(k.offset(start, i * stride + at), 2))

        k.loop(first, stop, 1, run)
        k.ret()
        k.finish()

    def block(self) -> None:
        """`block(job, scratch, c, batch, row, rows, column, columns, start, end, c_row, flags)`.

        A part of one matrix, stored from `c` on: some rows and columns, and of k the steps from `start` to `end`.
        """
        k, (job, scratch, c, batch, row, rows, column, columns, start, end, c_row, flags) = self.function(
            "block", "job scratch c", "batch row rows column columns start end c_row flags"
        )
        f = Job(k, job)
        lanes, size = self.lanes, self.size
        a = k.offset(f.a, batch * f.a_batch + row * f.a_row)
        b = k.offset(f.b, batch * f.b_batch + column * f.b_column)
        bias = k.at(f.bias, column, self.dtype)

        flat = rows <= self.tiles.flat[0]
        most = k.where(flat, self.tiles.flat[0], k.const(self.tiles.tall[0], "int64"))
        width = k.where(flat, self.tiles.flat[1] * lanes, k.const(self.tiles.tall[1] * lanes, "int64"))
        panels = ceil_div(k, rows, most)
        divisor = k.where(panels > 0, panels, 1)  # there may be no rows
        panel_rows = k.op(f"udiv i64 {rows.text}, {divisor.text}", "int64")
        longer = rows - panels * panel_rows  # so many panels have one row more

        span, one = end - start, k.const(1, "int64")
        blocks = ceil_div(k, span, k.const(self.depth, "int64"))
        blocks = k.where(blocks > 0, blocks, one)  # without any k there are still zeros (and biases) to store
        depth = k.bitwise_and(ceil_div(k, span, blocks) + (lanes - 1), -lanes)  # packing transposes whole squares
        depth = k.where(depth > 0, depth, one)
        wide = k.op(f"udiv i64 {self.b_block // size}, {(depth * width).text}", "int64")
        wide = k.where(wide > 0, wide, one) * width
        # Where B takes several blocks, the panels of A are kept for all of them, if there is room. The blocks are
        # smaller then, so that the next one comes closer beside the one in use.
        kept = (wide < columns) & (rows * depth * size + panels * self.vector_bytes <= _KEPT)
        narrow = k.op(f"udiv i64 {self.b_block // 2 // size}, {(depth * width).text}", "int64")
        narrow = k.where(narrow > 0, narrow, one) * width
        wide = k.where(kept, narrow, wide)

        b_pack = k.offset(scratch, self.a_bytes)
        # A product with few rows uses each element of B once or twice: then it is read where it is.
        near = f.k * f.n * size <= _NEAR
        direct = ((panels <= 1) | (panels <= 2) & near) & k.eq(f.b_column, size)
        copied = k.eq(f.a_row, size)
        together = k.where(copied, k.const(_GROUP, "int64"), one)
        far = rows * span * size > targets.caches()[0]  # what is in the first level cache need not come closer
        beside_c = k.alloca(max(r * v for r, v in (self.tiles.tall, self.tiles.flat)) * self.vector_bytes)

        def go_on(above: Value, count: Value) -> None:
            """Rows of C are finished, all of them that are shared out by rows."""
            first = batch * f.m + row + above
            places = (i * f.then_scale for i in (first, first + count))
            k.call_address(f.then, f.then_argument, *places, k.const(0, "int32"))

        follows = k.ne_null(f.then)

        def depth_block(at: Value) -> None:
            left = end - at
            steps = k.where(left < depth, left, depth)
            first, final = k.eq(at, start), at + depth >= end
            now = k.where(first, flags & ACCUMULATE, one) | k.where(final, flags & (BIAS | RELU), 0)

            def column_block(j: Value) -> None:
                left = columns - j
                block_columns = k.where(left < wide, left, wide)
                b_block = k.offset(b, at * f.b_k + j * f.b_column)

                # Whole panels whose columns are adjacent are packed as they are first used, by the tiles of A's first
                # panel. A panel that is not whole is packed before: a vector may not be read beyond the array.
                whole = k.op(f"udiv i64 {block_columns.text}, {width.text}", "int64") * width
                adjacent = k.eq(f.b_column, size)
                tiles = ceil_div(k, block_columns, width)

                # The next block of B comes closer as this one is used, when there is room for both.
                beside = j + wide < columns
                b_following = k.where(beside, at * f.b_k + (j + wide) * f.b_column, (at + depth) * f.b_k)
                b_following = k.offset(b, b_following)
                b_runs, b_stride = k.where(adjacent, steps, block_columns), k.where(adjacent, f.b_k, f.b_column)
                b_length = k.where(adjacent, block_columns, steps) * size
                wanted = (beside | ~final) & ~direct & (block_columns * steps * size <= self.b_block // 2)
                b_runs = k.where(wanted, b_runs, 0)
                b_share = ceil_div(k, b_runs, divisor * tiles)

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

                k.loop(k.where(adjacent, whole, 0), block_columns, width, pack_panel)

                def panel(above: Value, height: Value, a_panel: Value, ahead: Callable[[Value], None]) -> None:
                    c_panel = k.at(k.offset(c, above * c_row), j, self.dtype)

                    def tile(jr: Value) -> None:
                        ahead(jr)
                        left = block_columns - jr
                        count = k.where(left < width, left, width)
                        in_place = adjacent & k.eq(count, width) & (direct | k.eq(above, 0))
                        packs = in_place & ~direct
                        b_packed = k.offset(b_pack, jr * steps * size)
                        b_panel = k.where(in_place, k.offset(b_block, jr * f.b_column), b_packed)
                        step = k.where(in_place, f.b_k, width * size)
                        log_vectors = k.cast(count > lanes, "int64") + k.cast(count > 2 * lanes, "int64")
                        variant = height * VARIANTS + k.where(packs, PACKS, log_vectors)
                        kernel = k.load(k.at(k.symbol("@tiles"), variant, "ptr"), "ptr")
                        place = k.at(c_panel, jr, self.dtype)
                        operands = (a_panel, b_panel, place, steps, step, c_row)

                        def simple() -> None:
                            k.call_address(kernel, *operands, place, c_row, now, b_packed)

                        def aside() -> None:  # C is too narrow, or gets its bias and relu
                            biases, none = k.at(k.at(bias, j, self.dtype), jr, self.dtype), k.const(0, "int64")
                            k.call_address(kernel, *operands, beside_c, line, none, b_packed)
                            k.call_known("complete", None, beside_c, place, biases, c_row, height, count, now, line)

                        line = k.op(f"shl i64 {self.vector_bytes}, {log_vectors.text}", "int64")
                        k.if_(k.eq(count * size, line) & (now <= ACCUMULATE), simple, aside)

                    k.loop(0, block_columns, width, tile)

                def group(p: Value, height: Value, last: Value) -> None:
                    left = last - p
                    count = k.where(left < together, left, together)
                    above = p * panel_rows + k.where(p < longer, p, longer)
                    a_pack = k.offset(scratch, k.where(kept, above * steps * size + p * self.vector_bytes, 0))
                    there = kept & (j > 0)
                    a_block = k.offset(a, above * f.a_row + at * f.a_k)
                    panel_bytes = height * steps * size + self.vector_bytes
                    # Those in which a vector may be read to its end, which is not the array's last panel.
                    read = k.bitwise_and(height + (lanes - 1), -lanes)
                    room = rows - above - read
                    inside = k.where(copied & (room >= 0), k.op(f"sdiv i64 {room.text}, {height.text}", "int64") + 1, 0)
                    inside = k.where(inside < count, inside, count)
                    several = (a_block, a_pack, f.a_k, height, inside, steps, panel_bytes)
                    k.if_((inside > 0) & ~there, lambda: k.call_known("pack_rows", None, *several))

                    def pack_one(i: Value) -> None:
                        first = k.offset(a_block, i * height * f.a_row)
                        place, room = k.offset(a_pack, i * panel_bytes), rows - above - i * height
                        k.call_known("pack", None, first, place, f.a_row, f.a_k, height, room, steps, height * size)

                    k.loop(k.where(there, count, inside), count, 1, pack_one)

                    # With each tile some of what is used next comes closer: panels as many as these, of this block of B
                    # or the next one, which are to be packed or are kept.
                    done = p + count >= panels
                    following = k.where(done, 0, (above + count * height) * f.a_row) + at * f.a_k
                    following = k.offset(a, k.where(done, depth * f.a_k, 0) + following)
                    runs, stride = k.where(copied, steps, height), k.where(copied, f.a_k, f.a_row)
                    length = k.where(copied, count * height, steps) * size
                    again = kept & k.where(done, beside, j > 0)
                    following = k.where(again, k.where(done, scratch, k.offset(a_pack, count * panel_bytes)), following)
                    runs = k.where(again, ceil_div(k, count * panel_bytes, k.const(_RUN, "int64")), runs)
                    stride, length = k.where(again, _RUN, stride), k.where(again, _RUN, length)
                    runs = k.where(far & (again | ~(done & final)), runs, 0)
                    share = ceil_div(k, runs, count * tiles)

                    def closer(number: Value, each: Value, most: Value, *where: Value) -> None:
                        first, stop = number * each, number * each + each
                        some = (*where, first, k.where(stop < most, stop, most))
                        k.if_(first < most, lambda: k.call_known("fetch", None, *some))

                    def ahead(i: Value, jr: Value) -> None:
                        tile = i * tiles + k.op(f"udiv i64 {jr.text}, {width.text}", "int64")
                        closer(tile, share, runs, following, stride, length)
                        closer(p * tiles + tile, b_share, b_runs, b_following, b_stride, b_length)

                    def one_panel(i: Value) -> None:
                        a_panel = k.offset(a_pack, i * panel_bytes)
                        panel(above + i * height, height, a_panel, lambda jr: ahead(i, jr))

                    k.loop(0, count, 1, one_panel)
                    k.if_(follows & final & ~beside, lambda: go_on(above, count * height))

                def groups(i: Value) -> None:
                    """The panels that are longer, then the others."""
                    more = k.eq(i, 0)
                    height, last = panel_rows + k.cast(more, "int64"), k.where(more, longer, panels)
                    k.loop(k.where(more, 0, longer), last, together, lambda p: group(p, height, last))

                k.loop(0, 2, 1, groups)

            k.loop(0, columns, wide, column_block)

        k.loop(start, k.where(span > 0, end, start + 1), depth, depth_block)
        k.ret()
        k.finish()

    @property
    def a_bytes(self) -> int:
        """Room for packed panels of A, each with a vector beyond it: a group of them, or those that are kept."""
        return _round_up(max(_KEPT, _GROUP * (self.tiles.tall[0] * self.depth * self.size + self.vector_bytes)), 64)

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
        f = Job(k, job)
        place = k.at(k.symbol("@kept"), k.cast(thread, "int64") & 1023, "ptr")
        taken = k.op(f"atomicrmw xchg ptr {place.text}, ptr null acquire", "ptr")
        fresh = lambda: [k.allocate(k.const(self.scratch_bytes, "int64"))]
        (memory,) = k.if_(k.ne_null(taken), lambda: [taken], fresh)
        address = k.op(f"ptrtoint ptr {memory.text} to i64", "int64")
        scratch = k.op(f"inttoptr i64 {k.bitwise_and(address + 63, -64).text} to ptr", "ptr")

        def one(i: Value) -> None:
            number = k.op(f"udiv i64 {i.text}, {f.tasks.text}", "int64")
            first = (i - number * f.tasks) * f.per_task
            by_rows = k.ne(f.by_rows, 0)
            length = k.where(by_rows, f.m, f.n)
            left = length - first
            count = k.where(left < f.per_task, left, f.per_task)
            row, rows = k.where(by_rows, first, 0), k.where(by_rows, count, f.m)
            column, columns = k.where(by_rows, 0, first), k.where(by_rows, f.n, count)
            # What is numbered are the matrices of a batch or the parts of k, of which the first is made in C.
            parted = f.parts > 1
            batch, start = k.where(parted, 0, number), k.where(parted, number * f.part, 0)
            left = f.k - start
            end = start + k.where(parted & (f.part < left), f.part, left)
            later = parted & (number > 0)
            line = k.where(later, f.n * self.size, f.c_row)
            flags = k.where(parted, k.where(later, 0, f.flags & ACCUMULATE), f.flags)
            whole, beside = k.offset(f.c, batch * f.c_batch), k.offset(f.partial, (number - 1) * f.m * f.n * self.size)
            c = k.op(f"select i1 {later.text}, {beside.typed}, {whole.typed}", "ptr")
            c = k.at(k.offset(c, row * line), column, self.dtype)
            # A matrix times a vector, either way round, where k is contiguous in both: packing would cost more than it.
            along_k = k.eq(f.a_k, self.size) & k.eq(f.b_k, self.size)
            a = k.offset(f.a, batch * f.a_batch + row * f.a_row)
            b = k.offset(f.b, batch * f.b_batch + column * f.b_column)
            zero, size = k.const(0, "int64"), k.const(self.size, "int64")
            times_column = lambda: k.call_known(
                "dots", None, a, b, c, f.bias, f.a_row, rows, f.k, f.c_row, zero, f.flags
            )
            times_row = lambda: k.call_known(
                "dots", None, b, a, c, k.at(f.bias, column, self.dtype), f.b_column, columns, f.k, size, size, f.flags
            )
            # And where the other axis is contiguous in the matrix, and in C.
            column_of_lines = lambda: k.call_known(
                "columns", None, a, b, c, f.bias, f.a_k, f.b_k, f.k, rows, f.flags
            )
            row_of_lines = lambda: k.call_known(
                "columns", None, b, a, c, k.at(f.bias, column, self.dtype), f.b_k, f.a_k, f.k, columns, f.flags
            )
            # Few vectors are multiplied one by one by some lines at a time, which stay in the first level cache.
            lines = k.bitwise_and(k.op(f"udiv i64 {_LINES}, {(f.k * self.size + 1).text}", "int64"), -4) + 4

            def some(length: Value, count: Value, dots: Callable[[Value, Value, Value], None]) -> None:
                def group(r: Value) -> None:
                    left = length - r
                    k.loop(0, count, 1, lambda j: dots(r, k.where(left < lines, left, lines), j))

                k.loop(0, length, lines, group)

            times_columns = lambda: some(rows, columns, lambda r, number, j: k.call_known(
                "dots", None, k.offset(a, r * f.a_row), k.offset(b, j * f.b_column),
                k.at(k.offset(c, r * f.c_row), j, self.dtype), k.at(f.bias, column + j, self.dtype),
                f.a_row, number, f.k, f.c_row, zero, f.flags))
            times_rows = lambda: some(columns, rows, lambda r, number, j: k.call_known(
                "dots", None, k.offset(b, r * f.b_column), k.offset(a, j * f.a_row),
                k.at(k.offset(c, j * f.c_row), r, self.dtype), k.at(f.bias, column + r, self.dtype),
                f.b_column, number, f.k, size, size, f.flags))
            few = along_k & (f.k >= 2 * self.lanes) & ~k.ne_null(f.then) & ~parted
            part = (batch, row, rows, column, columns, start, end, line, flags)
            ways = [
                (few & (f.n > 1) & (f.n <= _FEW), times_columns),
                (few & (f.m > 1) & (f.m <= _FEW), times_rows),
                (along_k & k.eq(f.n, 1), times_column),
                (along_k & k.eq(f.m, 1), times_row),
                (k.eq(f.m, 1) & k.eq(f.b_column, size), row_of_lines),
                # (a bias belongs to columns, and is one number here)
                (k.eq(f.n, 1) & k.eq(f.a_row, size) & k.eq(f.c_row, size) & k.eq(f.flags & BIAS, 0), column_of_lines),
            ]
            way = lambda: k.call_known("block", None, job, scratch, c, *part)
            for fits, special in reversed(ways):
                way = functools.partial(k.if_, fits, special, way)
            way()

        k.loop(begin, end, 1, one)
        back = k.op(f"atomicrmw xchg ptr {place.text}, {memory.typed} release", "ptr")
        k.if_(k.ne_null(back), lambda: k.call("free", None, back, external=True))
        k.ret()
        k.finish()

    def sum_parts(self) -> None:
        """`sum_parts(job)`: add what was made of the other parts of k to the first, in order; then bias and relu."""
        k, (job,) = self.function("sum_parts", "job", "")
        f = Job(k, job)
        flags, bytes_ = k.bitwise_and(f.flags, BIAS | RELU), f.m * f.n * self.size

        def row(i: Value) -> None:
            c, partial = k.offset(f.c, i * f.c_row), k.offset(f.partial, i * f.n * self.size)

            def vectors(j: Value, load: Callable[[Value], Value], store: Callable[[Value, Value], None]) -> None:
                place = k.at(c, j, self.dtype)
                add = lambda p, total: [total + load(k.at(k.offset(partial, (p - 1) * bytes_), j, self.dtype))]
                values = k.loop(1, f.parts, 1, add, [load(place)])
                bias = lambda: [load(k.at(f.bias, j, self.dtype))]
                (value,) = self.epilogue(k, flags, values, lambda: values, bias)
                store(value, place)

            whole = k.bitwise_and(f.n, -self.lanes)
            left = k.partial(f.n - whole)
            k.loop(0, whole, self.lanes, lambda j: vectors(j, lambda p: k.load(p, self.dtype, self.lanes), k.store))
            k.if_(whole < f.n, lambda: vectors(whole, lambda p: left.load(p, self.dtype), left.store))

        k.loop(0, f.m, 1, row)
        k.ret()
        k.finish()


class Job:
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
    parts: Value
    part: Value
    partial: Value
    then: Value  # a chunk function, as the pool has them, or null: only of a job that is shared out by rows, undivided
    then_argument: Value
    then_scale: Value  # of its indices there are so many for each row

    def __init__(self, k: Kernel, job: Value):
        for i, name in enumerate(FIELDS):
            setattr(self, name, k.load(k.at(job, i, "int64"), "ptr" if name in _POINTERS else "int64"))


_POINTERS = ("a", "b", "c", "bias", "partial", "then", "then_argument")

#: The order of the fields in memory.
FIELDS = tuple(Job.__annotations__)


def ceil_div(k: Kernel, a: Value, b: Value) -> Value:
    """a / b rounded up, of non-negative numbers."""
    b = b if isinstance(b, Value) else k.const(b, "int64")
    return k.op(f"udiv i64 {(a + b - 1).text}, {b.text}", "int64")


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
