"""The native code of convolutions and of the gradient of their input; it follows a table that `conv_plans` makes.

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

Where results are few and weights are many, blocks of outputs are shared out instead of images. The input of all images
is copied first; then a block's weights are packed and serve every image, a part of the steps after the other. Rows of
small images are short for a tile: two images share one.

A stride is a copy of the input in phases (every other row, say), so that taps of one phase are adjacent again; in the
gradient of the input it is several convolutions, one for every phase of the result.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

from agog.compiler import pool
from agog.compiler.conv_edges import Edges
from agog.compiler.conv_tables import HEAD, JOB, LINE, SUB, Tiles, Words
from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel

__all__ = ["Writer"]


class _Rows(NamedTuple):
    """Rows of results of one sub, and what they are made of; of two images, if `pair`, whose x are `apart`."""

    sub: Words
    table: Value
    held_at: Value
    off_at: Value
    weights: Value
    bias: Value
    temp: Value
    y: Value
    first: Value
    number: Value
    columns: Value
    parts: tuple[Value, Value]
    blocks: tuple[Value, Value]
    pair: Value
    apart: Value
    fetch: Callable[[], Any]


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
        sizes = Tiles.upto(self.tiles.flat)
        for rows, vectors in sizes:
            k, (a, b, off, c, steps, c_row, first) = self.function(
                f"tile_{rows}_{vectors}", "a b off c", "steps c_row first"
            )
            places = self._places(k, c, c_row, rows, vectors)

            def step(i: Value, a: Any, k: Kernel = k, b: Value = b, off: Value = off, rows: int = rows) -> Any:
                at = k.offset(b, k.load(k.at(off, i, "int64"), "int64"))
                return [k.offset(a, r * self.size) for r in range(rows)], at, k.offset(a, rows * self.size)

            self._products(k, a, steps, first, places, step)
        self._table("tiles", sizes, "tile")

    def pixel_kernels(self) -> None:
        """`pixel_R_V(x, x2, w, off, c, c2, steps, c_row, first)`: C [R][V vectors] (+)= x[off[k] + r] times w [k][V].

        The second half of the rows is that of x2 and c2: another image, or what follows the first half.
        """
        sizes = Tiles.upto(self.tiles.pixel)
        for rows, vectors in sizes:
            k, (x, x2, w, off, c, c2, steps, c_row, first) = self.function(
                f"pixel_{rows}_{vectors}", "x x2 w off c c2", "steps c_row first"
            )
            half = (rows + 1) // 2
            places = self._places(k, c, c_row, half, vectors) + self._places(k, c2, c_row, rows - half, vectors)

            def step(
                i: Value, w: Any, k: Kernel = k, both: Any = (x, x2), off: Value = off, vectors: int = vectors,
                counts: Any = (half, rows - half),
            ) -> Any:
                at = k.load(k.at(off, i, "int64"), "int64")
                starts = [k.offset(x, at) for x, n in zip(both, counts) if n]
                elements = [k.offset(start, r * self.size) for start, n in zip(starts, counts) for r in range(n)]
                return elements, w, k.offset(w, vectors * self.vector_bytes)

            self._products(k, w, steps, first, places, step)
        self._table("pixels", sizes, "pixel")

    def _products(
        self, k: Kernel, packed: Value, steps: Value, first: Value, places: Sequence[Value], step: Callable[..., Any]
    ) -> None:
        """The body of a kernel, each step of which multiplies elements by vectors.

        step(i, packed) says where the elements are, and the first vector, and what is packed of the next step.
        """
        dtype, lanes = self.dtype, self.lanes
        zero = k.const(0.0, dtype, lanes)
        start = k.if_(
            k.ne(first, 0), lambda: [zero] * len(places), lambda: [k.load(p, dtype, lanes) for p in places]
        )

        def one(i: Value, packed: Any, *tile: Value) -> list[Value]:
            elements, wide, following = step(i, packed)
            vectors = len(tile) // len(elements)
            loaded = [k.load(k.offset(wide, v * self.vector_bytes), dtype, lanes) for v in range(vectors)]
            out = []
            for r, at in enumerate(elements):
                element = k.splat(k.load(at, dtype))
                out += [k.fma(element, loaded[v], tile[r * vectors + v]) for v in range(vectors)]
            return [following, *out]

        _, *tile = k.loop(0, steps, 1, one, [packed, *start])
        for value, place in zip(tile, places, strict=True):
            k.store(value, place)
        k.ret()
        k.finish()

    def _places(self, k: Kernel, c: Value, c_row: Value, rows: int, vectors: int) -> list[Value]:
        """Where the vectors of a tile are."""
        return [k.offset(k.offset(c, c_row * r), v * self.vector_bytes) for r in range(rows) for v in range(vectors)]

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

    def _split(self, k: Kernel, value: Value, by: Value) -> tuple[Value, Value]:
        quotient = k.op(f"udiv i64 {value.text}, {by.text}", "int64")
        return quotient, value - quotient * by

    def _place(self, k: Kernel, f: Words, s: Words, u: Value) -> tuple[Value, Value, Value, Value]:
        """The group, image (one group of a sample), slice and first row of a unit."""
        rest, band = self._split(k, u, s.bands)
        rest, t = self._split(k, rest, s.t_n)
        group, sample = self._split(k, rest, f.samples)  # so that the weights of a group stay near
        return group, sample * f.groups + group, t, band * s.band

    def copy(self) -> None:
        """`copy(table, x, to, unit)`: the input of a unit with its padding, in phases."""
        k, (table, x, to, u) = self.function("copy", "table x to", "unit")
        f, s = Words(k, table, HEAD), Words(k, k.at(table, len(HEAD), "int64"), SUB)
        _, image, t, row = self._place(k, f, s, u)
        x = k.offset(x, image * f.channels * f.x_plane)
        area = s.plane * s.phases
        clear = f.channels * s.taps_d * area
        k.if_(
            k.ne(s.clear, 0),
            lambda: k.call("llvm.memset.p0.i64", None, to, k.const(0, "uint8"), clear, k.const(False, "bool")),
        )
        columns = k.op(f"udiv i64 {s.row.text}, {self.size}", "int64")
        last = s.h_n - row  # no row of the copy beyond what this band needs
        held = k.where(last < s.band, s.held - (s.band - last), s.held)

        def tap(d: Value) -> None:
            depth = t * s.t_step + k.load(k.at(table, s.d_at + d, "int64"), "int64")

            def copy() -> None:
                source, target = k.offset(x, depth * f.x_slice), k.offset(to, d * area)

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

        k.loop(0, s.taps_d, 1, tap)
        k.ret()
        k.finish()
        k, job, begin, end, _ = self._task("copies")
        f = Words(k, job["table"], HEAD)
        one = lambda u: k.call_known("copy", None, job["table"], job["x"], k.offset(job["packed"], u * f.copied), u)
        k.loop(begin, end, 1, one)
        k.ret()
        k.finish()

    def unit(self) -> None:
        """Some rows of one sample's results, of all subs; or, where there are few, all results of one block of outputs.

        A block's weights are packed just before: weights that are many for few results come from memory once, and what
        is packed of them never leaves the cache. A part of them serves all units, whose input was copied before.
        """
        k, job, begin, end, thread = self._task("units")
        f, s = Words(k, job["table"], HEAD), Words(k, job["sub"], SUB)
        size, table = self.size, job["table"]
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        scratch = self._aligned(k, memory)
        temp = k.offset(scratch, f.temp_at)
        state, own = k.alloca(48), k.alloca(8 * len(JOB), 64)
        by_block = k.ne(f.by_block, 0)

        def one_block(b: Value) -> None:
            _, o, _ = self._pixels(k, f, b)
            packed = k.offset(scratch, f.own_at - o * f.steps * size)
            for i, name in enumerate(JOB):
                k.store(packed if name == "packed" else job[name], k.at(own, i, "ptr"))
            k.call_known("pack_weights", None, own, b, b + 1, k.cast(thread, "int32"))

            def sub(i: Value) -> None:
                def part(p: Value) -> None:
                    def each(u: Value, pair: Value) -> None:
                        results = k.offset(temp, u * f.temp_unit - o * size)
                        one(u, (i, i + 1), lambda _: (p, p + 1), (b, b + 1), packed, results, pair)

                    single, pairs = (k.const(b, "bool") for b in (False, True))
                    paired = k.where(k.ne(f.paired, 0), k.bitwise_and(s.units, -2), 0)
                    k.loop(0, paired, 2, lambda u: each(u, pairs))
                    k.loop(paired, s.units, 1, lambda u: each(u, single))

                k.loop(0, Words(k, k.at(table, i * len(SUB) + len(HEAD), "int64"), SUB).parts, 1, part)

            k.loop(0, f.subs, 1, sub)

        def one(u: Value, subs: Any, parts: Any, blocks: Any, packed: Value, temp: Value, pair: Value) -> None:
            """The results of one unit, or their part of some steps for a block of outputs."""
            group, image, t, row = self._place(k, f, s, u)
            (bias,) = k.if_(
                k.ne_null(job["bias"]),
                lambda: [k.at(job["bias"], group * f.outputs, self.dtype)],
                lambda: [job["bias"]],
            )
            # The last vector of a run may reach beyond it: of the last unit, beyond the array.
            in_place = k.ne(s.in_place, 0) & (k.ne(f.by_pixel, 0) | (u < s.units - 1))
            columns = k.op(f"udiv i64 {s.row.text}, {size}", "int64")
            copied = k.where(by_block, k.offset(job["packed"], u * f.copied), scratch)
            k.if_(in_place | by_block, None, lambda: k.call_known("copy", None, table, job["x"], scratch, u))
            x = k.offset(job["x"], image * f.channels * f.x_plane)
            held_at = k.where(in_place, k.offset(x, t * f.x_slice + row * f.x_w * size), copied)
            some = self._expect(k, f, s, job, u + 1, state)
            fetch = lambda: k.if_(some > 0, lambda: k.call_known("ahead", None, state)) and None

            def sub(i: Value) -> None:
                s = Words(k, k.at(table, i * len(SUB) + len(HEAD), "int64"), SUB)
                left = s.h_n - row
                y = k.offset(job["out"], image * f.outputs * f.y_plane + s.y_start + t * s.y_t + row * s.y_h)
                what = _Rows(
                    s, table, held_at, k.where(in_place, s.place_at, s.off_at),
                    k.offset(packed, group * f.wide * f.steps), bias, temp, y, row,
                    k.where(left < s.band, left, s.band), columns, parts(s), blocks, pair,
                    k.where(in_place, f.channels * f.x_plane, f.copied), fetch,
                )
                by_pixel, by_output = lambda: self._by_pixel(k, f, what), lambda: self._by_output(k, f, what)
                within = lambda: k.if_(k.ne(f.by_pixel, 0), by_pixel, by_output) and None
                k.if_((row < s.h_n) & (t < s.t_n), within)

            k.loop(subs[0], subs[1], 1, sub)

        zero = k.const(0, "int64")
        no = k.const(False, "bool")
        whole = lambda u: one(u, (zero, f.subs), lambda s: (zero, s.parts), (zero, f.blocks), job["packed"], temp, no)
        k.if_(
            by_block,
            lambda: k.loop(begin, end, 1, one_block) and None,
            lambda: k.loop(begin, end, 1, whole) and None,
        )
        k.call_known("give", None, memory, thread)
        k.ret()
        k.finish()

    def _expect(self, k: Kernel, f: Words, s: Words, job: Any, u: Value, state: Value) -> Value:
        """What unit u reads shall come near by calls of `ahead`: how many lines at each."""
        _, image, t, row = self._place(k, f, s, u)
        first = row * s.h_step + k.load(k.at(job["table"], s.phase_at, "int64"), "int64")
        first = k.where(first < 0, 0, first) * f.x_w * self.size + t * s.t_step * f.x_slice
        some = k.where(u < s.units, s.ahead, 0)
        words = (s.ahead_lines, s.ahead_lines * f.channels, f.x_plane - s.ahead_row, s.ahead_lines, some)
        k.store(k.offset(job["x"], image * f.channels * f.x_plane + first), state)
        for i, value in enumerate(words):
            k.store(value, k.at(state, i + 1, "int64"))
        return some

    def _part(self, k: Kernel, r: _Rows, i: Value) -> list[Value]:
        """(first step, steps, first column, last column + 1) of a part."""
        place = k.at(r.table, r.sub.parts_at + i * 4, "int64")
        return [k.load(k.at(place, j, "int64"), "int64") for j in range(4)]

    def _by_pixel(self, k: Kernel, f: Words, what: _Rows) -> None:
        """By tiles of pixels by outputs."""
        s, table, held_at, off_at, weights, bias, temp, y, row, rows, _, parts, blocks, pair, apart, fetch = what
        lanes = self.lanes
        tiles = k.op(f"udiv i64 {(s.w_n + (self.tiles.pixel[0] - 1)).text}, {self.tiles.pixel[0]}", "int64")
        low = k.op(f"udiv i64 {s.w_n.text}, {tiles.text}", "int64")
        longer = s.w_n - tiles * low

        def depth(i: Value) -> None:
            first, _, low_column, high_column = self._part(k, what, i)
            begins, ends = k.eq(i, 0), k.eq(i, s.parts - 1)
            classes = k.at(table, s.classes_at + row, "int64")

            def block(b: Value) -> None:
                count, o, vectors = self._pixels(k, f, b)
                right = k.at(weights, o * f.steps + (s.first_step + first) * vectors * lanes, self.dtype)
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
                                all_rows = k.where(pair, 2 * height, height)
                                half = k.op(f"lshr i64 {(height + 1).text}, 1", "int64")
                                kernel = k.load(k.at(k.symbol("@pixels"), all_rows * 4 + vectors, "ptr"), "ptr")
                                c = k.at(k.offset(temp, (r * s.w_n + p) * f.wide), o, self.dtype)
                                c2 = k.offset(c, k.where(pair, f.temp_unit, half * f.wide))
                                left = k.at(k.offset(held_at, r * s.row), p, self.dtype)
                                right = k.offset(left, k.where(pair, apart, half * self.size))
                                fresh = k.cast(begins, "int64")
                                k.call_address(kernel, left, right, weight, offsets, c, c2, steps, f.wide, fresh)

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
                    done = lambda more, on: k.call_known(
                        "flush_pixels", None, k.at(k.offset(temp, start * s.w_n * f.wide + more), o, self.dtype),
                        k.offset(y, start * s.y_h + o * f.y_plane + on), *biases, (end - start) * s.w_n, count,
                        f.wide, s.y_w, f.y_plane, f.relu,
                    )
                    k.if_(ends, lambda: done(k.const(0, "int64"), k.const(0, "int64")))
                    k.if_(ends & pair, lambda: done(f.temp_unit, f.outputs * f.y_plane))

                k.loop(0, rows, s.run, lines)

            k.loop(blocks[0], blocks[1], 1, block)

        k.loop(parts[0], parts[1], 1, depth)

    def _by_output(self, k: Kernel, f: Words, what: _Rows) -> None:
        """By tiles of outputs by pixels."""
        s, table, held_at, off_at, weights, bias, temp, y, _, rows, columns, *_, fetch = what
        lanes = self.lanes
        width = f.vectors * lanes
        temp_row = width * self.size
        total = (rows - 1) * columns + s.w_n
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
                first, steps, *_ = self._part(k, what, i)
                offsets = k.at(table, off_at + first, "int64")
                begins = k.cast(k.eq(i, 0), "int64")

                def panel(start: Value, count: Value, place: Value) -> None:
                    vectors = k.op(f"udiv i64 {(count + (lanes - 1)).text}, {lanes}", "int64")
                    right = k.at(held_at, start, self.dtype)

                    def block(b: Value) -> None:
                        rows, row = self._block(k, f, b)
                        kernel = k.load(k.at(k.symbol("@tiles"), rows * 4 + vectors, "ptr"), "ptr")
                        a = k.at(weights, row * f.steps + (s.first_step + first) * rows, self.dtype)
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

        k.loop(0, total, wide, panel_group)

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
        """`conv(out, x, w, bias, table)`: pack the weights, or copy the input, then make all units."""
        k, arguments = self._entry("conv")
        table = arguments[-1]
        f = Words(k, table, HEAD)
        slot = k.const(1024, "int64")
        memory = k.call_known("take", "ptr", slot, f.packed_size)
        job = k.alloca(8 * len(JOB), 64)
        for i, value in enumerate([*arguments, self._aligned(k, memory)]):
            k.store(value, k.at(job, i, "ptr"))
        first = k.at(table, len(HEAD), "int64")
        k.store(first, k.at(job, 6, "ptr"))
        units, in_place = (k.load(k.at(first, SUB.index(name), "int64"), "int64") for name in ("units", "in_place"))
        copies = lambda: k.if_(k.eq(in_place, 0), lambda: self._share(k, "copies", job, units, f.alone)) and None
        k.if_(
            k.ne(f.by_block, 0), copies, lambda: self._share(k, "pack_weights", job, f.groups * f.blocks, f.alone)
        )
        units = k.where(k.ne(f.by_block, 0), f.blocks, units)
        self._share(k, "units", job, units, f.alone)
        k.call_known("give", None, memory, slot)
        k.ret()
        k.finish()
