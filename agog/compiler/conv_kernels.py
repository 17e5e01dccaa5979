"""The native code of convolutions and of the gradient of their input; it follows a table that `conv` makes.

The input of some rows of one sample is copied, with its padding, to where it stays in the cache; rows there are as long
as a row of results and its margin. Then a shift of the kernel is a shift of the address: the results of all rows are
one long run q, and

    y[o, q] = sum over k of w[o, k] x[offset[k] + q]

which is a matrix product whose right operand is read in place, by tiles of outputs by vectors of q. What it computes
between the rows is dropped. Where there are enough outputs, tiles are pixels by vectors of outputs instead: nothing is
computed in vain, but results have to be transposed. The plan takes what has less to do.

k goes in parts, so that operands stay in the first level cache. With tiles of pixels, taps are in the order of their
rows, and a row of results skips those that lie in the padding; where all taps of a part are of one column, pixels for
which that is in the padding are skipped as well. So padding is not multiplied by zero but left out, mostly.

A kernel of one tap that moves by one, without padding, reads the input where it is: there is nothing to copy. While a
unit is computed, the next one's input comes near, a few lines of the cache at each product.

A stride is a copy of the input in phases (every other row, say), so that taps of one phase are adjacent again; in the
gradient of the input it is several convolutions, one for every phase of the result.
"""

from __future__ import annotations

from typing import Any, Sequence

from agog.compiler import pool
from agog.compiler.conv_edges import Edges
from agog.compiler.conv_tables import HEAD, JOB, LINE, SUB, Tiles, Words
from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel

__all__ = ["Writer"]

class Writer(Edges):
    """Writes the functions of one dtype."""

    def _table(self, name: str, kernels: Sequence[tuple[int, int]], prefix: str) -> None:
        """A table of addresses by rows * 4 + vectors."""
        most = max(r for r, _ in kernels)
        cells = [(r, v) for r in range(most + 1) for v in range(4)]
        words = [f"ptr @{prefix}_{r}_{v}" if (r, v) in kernels else "ptr null" for r, v in cells]
        self.module.globals[name] = f"@{name} = internal constant [{len(words)} x ptr] [{', '.join(words)}]"

    # -- memory

    def scratch(self) -> None:
        """`take(slot, size)` and `give(slot, memory)`: memory kept between calls, one piece for every number.

        A piece is taken by an atomic exchange, so that two callers cannot both have it; its size is in front of it.
        """
        self.module.globals["kept"] = "@kept = internal global [1025 x ptr] zeroinitializer"
        k, (slot, size) = self.function("take", "", "slot size", result="ptr")
        place = k.at(k.symbol("@kept"), slot, "ptr")
        old = k.op(f"atomicrmw xchg ptr {place.text}, ptr null acquire", "ptr")

        def fresh() -> list[Value]:
            k.call("free", None, old, external=True)
            made = k.allocate(size + 192)
            k.store(size, made)
            return [made]

        def look() -> list[Value]:
            return list(k.if_(k.load(old, "int64") >= size, lambda: [old], fresh))

        k.ret(k.if_(k.ne_null(old), look, fresh)[0])
        k.finish()
        k, (memory, slot) = self.function("give", "memory", "slot")
        place = k.at(k.symbol("@kept"), slot, "ptr")
        back = k.op(f"atomicrmw xchg ptr {place.text}, {memory.typed} release", "ptr")
        k.if_(k.ne_null(back), lambda: k.call("free", None, back, external=True))
        k.ret()
        k.finish()

    def _aligned(self, k: Kernel, memory: Value) -> Value:
        address = k.op(f"ptrtoint ptr {memory.text} to i64", "int64")
        return k.op(f"inttoptr i64 {k.bitwise_and(address + 127, -64).text} to ptr", "ptr")

    # -- forward

    def tile_kernels(self) -> None:
        """`tile_R_V(a, b, off, c, steps, c_row, first)`: C [R][V vectors] (+)= A [k][R] times b[off[k] ...]."""
        self._products("tile", "tiles", self.tiles.flat, gathered="vectors")

    def _products(self, prefix: str, table: str, sizes: Any, gathered: str) -> None:
        """Kernels `prefix_R_V(elements, vectors, off, c, steps, c_row, first)` and their table.

        Each step multiplies R elements by V vectors. Those that `gathered` names are read off[k] bytes further on, the
        others are packed: each step's follow the last's.
        """
        dtype, lanes = self.dtype, self.lanes
        vectors_move = gathered == "vectors"
        names = "a b off c" if vectors_move else "x w off c"
        for rows, vectors in Tiles.upto(sizes):
            k, (elements, wide, off, c, steps, c_row, first) = self.function(
                f"{prefix}_{rows}_{vectors}", names, "steps c_row first"
            )
            places = self._places(k, c, c_row, rows, vectors)
            zero = k.const(0.0, dtype, lanes)
            start = k.if_(
                k.ne(first, 0), lambda: [zero] * len(places), lambda: [k.load(p, dtype, lanes) for p in places]
            )
            packed, moving = (elements, wide) if vectors_move else (wide, elements)
            stride = rows * self.size if vectors_move else vectors * self.vector_bytes

            def step(i: Value, at_packed: Any, *tile: Value) -> list[Value]:
                at = k.offset(moving, k.load(k.at(off, i, "int64"), "int64"))
                scalars, loads = (at_packed, at) if vectors_move else (at, at_packed)
                loaded = [k.load(k.offset(loads, v * self.vector_bytes), dtype, lanes) for v in range(vectors)]
                out = []
                for r in range(rows):
                    element = k.splat(k.load(k.offset(scalars, r * self.size), dtype))
                    out += [k.fma(element, loaded[v], tile[r * vectors + v]) for v in range(vectors)]
                return [k.offset(at_packed, stride), *out]

            _, *tile = k.loop(0, steps, 1, step, [packed, *start])
            for value, place in zip(tile, places, strict=True):
                k.store(value, place)
            k.ret()
            k.finish()
        self._table(table, Tiles.upto(sizes), prefix)

    def _places(self, k: Kernel, c: Value, c_row: Value, rows: int, vectors: int) -> list[Value]:
        """Where the vectors of a tile are."""
        return [k.offset(k.offset(c, c_row * r), v * self.vector_bytes) for r in range(rows) for v in range(vectors)]

    def pixel_kernels(self) -> None:
        """`pixel_R_V(x, w, off, c, steps, c_row, first)`: C [R][V vectors] (+)= x[off[k] + r] times w [k][V]."""
        self._products("pixel", "pixels", self.tiles.pixel, gathered="elements")

    def ahead(self) -> None:
        """`ahead(state)`: a few cache lines more of the next unit's input come near while this one is computed.

        state : the next line, lines left of its plane, lines left of all planes, bytes to the next plane, lines of a
        plane, lines at once
        """
        k, (state,) = self.function("ahead", "state", "")
        word = lambda i: k.at(state, i, "int64")
        left, all_left, apart, lines, some = (k.load(word(i), "int64") for i in range(1, 6))
        some = k.where(some < all_left, some, all_left)

        def line(_: Value, at: Any, left: Any) -> list[Value]:
            k.prefetch(at, 2)
            last = k.eq(left, 1)
            return [k.offset(at, k.where(last, apart, LINE)), k.where(last, lines, left - 1)]

        at, left = k.loop(0, some, 1, line, [k.load(state, "ptr"), left])
        for i, value in enumerate((at, left, all_left - some)):
            k.store(value, word(i))
        k.ret()
        k.finish()

    def unit(self) -> None:
        """Some rows of one sample's results, of all subs; or, where there are few, all results of one block of outputs.

        A block's weights are packed just before: weights that are many for few results come from memory once, and what
        is packed of them never leaves the cache.
        """
        k, job, begin, end, thread = self._task("units")
        f, s = Words(k, job["table"], HEAD), Words(k, job["sub"], SUB)
        size, lanes = self.size, self.lanes
        table = job["table"]
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        scratch = self._aligned(k, memory)
        temp = k.offset(scratch, f.temp_at)
        width = f.vectors * lanes
        temp_row = width * size
        state, own = k.alloca(48), k.alloca(8 * len(JOB), 64)

        def one_block(b: Value) -> None:
            _, o, _ = self._pixels(k, f, b)
            packed = k.offset(scratch, f.own_at - (s.packed_at + o * s.steps * size))
            for i, name in enumerate(JOB):
                k.store(packed if name == "packed" else job[name], k.at(own, i, "ptr"))
            k.call_known("pack_weights", None, own, b, b + 1, k.cast(thread, "int32"))
            k.loop(0, s.units, 1, lambda u: one(u, b, b + 1, packed))

        def one(u: Value, first_block: Value, last_block: Value, packed: Value) -> None:
            def split(value: Value, by: Value) -> tuple[Value, Value]:
                quotient = k.op(f"udiv i64 {value.text}, {by.text}", "int64")
                return quotient, value - quotient * by

            def place(u: Value) -> tuple[Value, Value, Value, Value]:
                """The group, image (one group of a sample), slice and first row of a unit."""
                rest, band = split(u, s.bands)
                rest, t = split(rest, s.t_n)
                group, sample = split(rest, f.samples)  # so that the weights of a group stay near
                return group, sample * f.groups + group, t, band * s.band

            group, image, t, row = place(u)
            x = k.offset(job["x"], image * f.channels * f.x_plane)
            bias = job["bias"]
            (bias,) = k.if_(k.ne_null(bias), lambda: [k.at(bias, group * f.outputs, self.dtype)], lambda: [bias])
            area = s.plane * s.phases
            clear = f.channels * s.taps_d * area
            # The last vector of a run may reach beyond it: of the last unit, beyond the array.
            in_place = k.ne(s.in_place, 0) & (k.ne(f.by_pixel, 0) | (u < s.units - 1))
            k.if_(
                k.ne(s.clear, 0),
                lambda: k.call("llvm.memset.p0.i64", None, scratch, k.const(0, "uint8"), clear, k.const(False, "bool")),
            )
            columns = k.op(f"udiv i64 {s.row.text}, {size}", "int64")
            last = s.h_n - row  # no row of the copy beyond what this band needs
            held = k.where(last < s.band, s.held - (s.band - last), s.held)

            def tap(d: Value) -> None:
                depth = t * s.t_step + k.load(k.at(table, s.d_at + d, "int64"), "int64")

                def copy() -> None:
                    source, target = k.offset(x, depth * f.x_slice), k.offset(scratch, d * area)

                    def phase(p: Value) -> None:
                        at = k.at(table, s.phase_at + p * 2, "int64")
                        h = k.load(at, "int64") + row * s.h_step
                        w = k.load(k.at(at, 1, "int64"), "int64")
                        k.call_known(
                            "pad", None, source, k.offset(target, p * s.plane), f.channels, f.x_plane,
                            s.taps_d * area, held, s.row, columns, h, w, s.h_step, s.w_step, f.x_h, f.x_w,
                        )

                    k.loop(0, s.phases, 1, phase)

                k.if_((depth >= 0) & (depth < s.d_n), copy)

            k.loop(0, k.where(in_place, 0, s.taps_d), 1, tap)
            held_at = k.where(in_place, k.offset(x, t * f.x_slice + row * f.x_w * size), scratch)
            next_u = u + 1
            _, next_image, next_t, next_row = place(next_u)
            first = next_row * s.h_step + k.load(k.at(table, s.phase_at, "int64"), "int64")
            first = k.where(first < 0, 0, first) * f.x_w * size + next_t * s.t_step * f.x_slice
            some = k.where(next_u < s.units, s.ahead, 0)
            words = (s.ahead_lines, s.ahead_lines * f.channels, f.x_plane - s.ahead_row, s.ahead_lines, some)
            k.store(k.offset(job["x"], next_image * f.channels * f.x_plane + first), state)
            for i, value in enumerate(words):
                k.store(value, k.at(state, i + 1, "int64"))
            fetch = lambda: k.if_(some > 0, lambda: k.call_known("ahead", None, state))
            here = group, image, t, row, bias, in_place, held_at, columns, fetch, first_block, last_block, packed

            def sub(i: Value) -> None:
                s = Words(k, k.at(table, i * len(SUB) + len(HEAD), "int64"), SUB)
                k.if_((row < s.h_n) & (t < s.t_n), lambda: results(s, *here))

            k.loop(0, f.subs, 1, sub)

        def results(
            s: Words, group: Value, image: Value, t: Value, row: Value, bias: Value, in_place: Value, held_at: Value,
            columns: Value, fetch: Any, first_block: Value, last_block: Value, packed: Value,
        ) -> None:
            """The rows of one sub."""
            left = s.h_n - row
            rows = k.where(left < s.band, left, s.band)
            y = k.offset(job["out"], image * f.outputs * f.y_plane + s.y_start + t * s.y_t + row * s.y_h)
            off_at = k.where(in_place, s.place_at, s.off_at)
            total = (rows - 1) * columns + s.w_n
            weights = k.offset(packed, s.packed_at + group * f.wide * s.steps)

            def part(i: Value) -> list[Value]:
                """(first step, steps, first column, last column + 1) of a part."""
                place = k.at(table, s.parts_at + i * 4, "int64")
                return [k.load(k.at(place, j, "int64"), "int64") for j in range(4)]

            def by_pixel() -> None:
                tiles = k.op(f"udiv i64 {(s.w_n + (self.tiles.pixel[0] - 1)).text}, {self.tiles.pixel[0]}", "int64")
                low = k.op(f"udiv i64 {s.w_n.text}, {tiles.text}", "int64")
                longer = s.w_n - tiles * low

                def depth(i: Value) -> None:
                    first, _, low_column, high_column = part(i)
                    begins, ends = k.eq(i, 0), k.eq(i, s.parts - 1)
                    classes = k.at(table, s.classes_at + row, "int64")

                    def block(b: Value) -> None:
                        count, o, vectors = self._pixels(k, f, b)
                        right = k.at(weights, o * s.steps + first * vectors * lanes, self.dtype)
                        biases = k.if_(k.ne_null(bias), lambda: [k.at(bias, o, self.dtype)], lambda: [bias])

                        def lines(start: Value) -> None:
                            left = rows - start
                            end = start + k.where(left < s.run, left, s.run)

                            def line(r: Value) -> None:
                                place = k.load(k.at(classes, r, "int64"), "int64") * s.parts + i
                                place = k.at(table, s.ranges_at + place * 2, "int64")
                                skipped, steps = (k.load(k.at(place, j, "int64"), "int64") for j in range(2))
                                weight = k.at(right, skipped * vectors * lanes, self.dtype)
                                offsets = k.at(table, off_at + first + skipped, "int64")

                                def tile(i: Value) -> None:
                                    p = i * low + k.where(i < longer, i, longer)
                                    end = p + low + k.cast(i < longer, "int64")
                                    p = k.where(p < low_column, low_column, p)
                                    end = k.where(end < high_column, end, high_column)
                                    height = end - p

                                    def product() -> None:
                                        kernel = k.load(k.at(k.symbol("@pixels"), height * 4 + vectors, "ptr"), "ptr")
                                        c = k.at(k.offset(temp, (r * s.w_n + p) * f.wide), o, self.dtype)
                                        left = k.at(k.offset(held_at, r * s.row), p, self.dtype)
                                        fresh = k.cast(begins, "int64")
                                        k.call_address(kernel, left, weight, offsets, c, steps, f.wide, fresh)

                                    k.if_(height > 0, product)
                                    fetch()

                                k.if_(begins | (steps > 0), lambda: k.loop(0, tiles, 1, tile) and None)

                            def fetch_results() -> None:
                                to = k.offset(y, start * s.y_h + o * f.y_plane)
                                size = (end - start) * s.y_h
                                one = lambda c: k.loop(
                                    0, size, 64, lambda j: k.prefetch(k.offset(to, c * f.y_plane + j), 2)
                                )
                                k.loop(0, count, 1, lambda c: one(c) and None)

                            # Where results go comes near while they are made. They leave a few at a time: the next are
                            # computed while they are on their way.
                            k.if_(ends & k.ne(s.near, 0), fetch_results)
                            k.loop(start, end, 1, line)
                            done = lambda: k.call_known(
                                "flush_pixels", None, k.at(k.offset(temp, start * s.w_n * f.wide), o, self.dtype),
                                k.offset(y, start * s.y_h + o * f.y_plane), *biases, (end - start) * s.w_n, count,
                                f.wide, s.y_w, f.y_plane, f.relu,
                            )
                            k.if_(ends, done)

                        k.loop(0, rows, s.run, lines)

                    k.loop(first_block, last_block, 1, block)

                k.loop(0, s.parts, 1, depth)

            # The weights of some steps stay in the second level cache while they serve a group of panels.
            wide = width * s.group
            panel_size = f.outputs * temp_row

            def panel_group(start: Value) -> None:
                left = total - start
                end = start + k.where(left < wide, left, wide)

                all_vectors = k.op(f"udiv i64 {(end - start + (lanes - 1)).text}, {lanes}", "int64")
                count = k.op(f"udiv i64 {(all_vectors + (f.vectors - 1)).text}, {f.vectors.text}", "int64")
                low = k.op(f"udiv i64 {all_vectors.text}, {count.text}", "int64")
                longer = all_vectors - count * low

                def panels(body: Any) -> None:
                    def panel(i: Value, first: Value, place: Any) -> list[Value]:
                        after = first + (low + k.cast(i < longer, "int64")) * lanes
                        body(first, k.where(after < end, after, end) - first, place)
                        return [after, k.offset(place, panel_size)]

                    k.loop(0, count, 1, panel, [start, temp])

                def depth(i: Value) -> None:
                    first, steps, *_ = part(i)
                    offsets = k.at(table, off_at + first, "int64")
                    begins = k.cast(k.eq(i, 0), "int64")

                    def panel(start: Value, count: Value, place: Value) -> None:
                        vectors = k.op(f"udiv i64 {(count + (lanes - 1)).text}, {lanes}", "int64")
                        right = k.at(held_at, start, self.dtype)

                        def block(b: Value) -> None:
                            rows, row = self._block(k, f, b)
                            kernel = k.load(k.at(k.symbol("@tiles"), rows * 4 + vectors, "ptr"), "ptr")
                            a = k.at(weights, row * s.steps + first * rows, self.dtype)
                            c = k.offset(place, row * temp_row)
                            k.call_address(kernel, a, right, offsets, c, steps, temp_row, begins)
                            fetch()

                        k.loop(0, f.blocks, 1, block)

                    panels(panel)

                k.loop(0, s.parts, 1, depth)
                panels(
                    lambda start, count, place: k.call_known(
                        "flush", None, place, y, bias, f.outputs, temp_row, start, count, columns, s.w_n, s.y_h, s.y_w,
                        f.y_plane, f.relu,
                    )
                )

            k.if_(k.ne(f.by_pixel, 0), by_pixel, lambda: k.loop(0, total, wide, panel_group) and None)

        zero = k.const(0, "int64")
        k.if_(
            k.ne(f.by_block, 0),
            lambda: k.loop(begin, end, 1, one_block) and None,
            lambda: k.loop(begin, end, 1, lambda u: one(u, zero, f.blocks, job["packed"])) and None,
        )
        k.call_known("give", None, memory, thread)
        k.ret()
        k.finish()

    def _share(self, k: Kernel, task: str, job: Value, count: Value, alone: Value) -> None:
        """Run a task over range(count), on the pool unless there is little to do."""
        zero, one = k.const(0, "int64"), k.const(1, "int64")
        k.if_(
            k.ne(alone, 0),
            lambda: k.call_known(task, None, job, zero, count, k.const(0, "int32")),
            lambda: k.call(pool.SYMBOL, None, k.symbol(f"@{task}"), job, count, one),
        )

    def _entry(self, name: str) -> tuple[Kernel, Any]:
        """An exported function of (out, x, w, bias, table)."""
        arguments = [(n, "ptr") for n in JOB[:5]]
        k = Kernel(self.module, name, arguments, None, self.lanes)
        return k, k.arguments

    def conv(self) -> None:
        """`conv(out, x, w, bias, table)`: pack the weights of every sub-convolution, then make all units."""
        k, arguments = self._entry("conv")
        table = arguments[-1]
        f = Words(k, table, HEAD)
        slot = k.const(1024, "int64")
        memory = k.call_known("take", "ptr", slot, f.packed_size)
        job = k.alloca(8 * len(JOB), 64)
        for i, value in enumerate([*arguments, self._aligned(k, memory)]):
            k.store(value, k.at(job, i, "ptr"))

        def sub(i: Value) -> None:
            k.store(k.at(table, i * len(SUB) + len(HEAD), "int64"), k.at(job, 6, "ptr"))
            self._share(k, "pack_weights", job, f.groups * f.blocks, f.alone)

        k.loop(0, k.where(k.ne(f.by_block, 0), 0, f.subs), 1, sub)
        first = k.at(table, len(HEAD), "int64")
        k.store(first, k.at(job, 6, "ptr"))
        units = k.load(k.at(first, SUB.index("units"), "int64"), "int64")
        units = k.where(k.ne(f.by_block, 0), f.blocks, units)
        self._share(k, "units", job, units, f.alone)
        k.call_known("give", None, memory, slot)
        k.ret()
        k.finish()
