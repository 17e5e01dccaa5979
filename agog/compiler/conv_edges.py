"""The native code at the edges of convolutions: input is copied with its padding, weights are packed, and results are
laid out as an image."""

from __future__ import annotations

from typing import Any

from agog.compiler.conv_tables import HEAD, JOB, Tiles, Words
from agog.compiler.ir import Module, Value, mangled
from agog.compiler.kernel import Kernel
from agog.compiler.packing import Packing, shuffle, transpose

__all__ = ["Edges"]


_GATHERED = 4  # weights side by side up to which outputs are gathered one by one: a transpose takes as long for all
_RUNS_AHEAD = 6  # runs of weights that are on their way while one is packed


class Edges(Packing):
    """Writes these functions for one dtype."""

    def __init__(self, module: Module, dtype: str) -> None:
        super().__init__(module, dtype)
        self.tiles = Tiles(module.target)

    def pad(self) -> None:
        """`pad(source, destination, planes, from, to, rows, row, columns, h, w, h_step, w_step, x_h, x_w)`.

        For some planes, `from` and `to` bytes apart: destination[r][s] = source[h + r h_step][w + s w_step] where there
        is such an element; the rest is left alone.
        """
        k, (source, destination, planes, x_plane, plane, rows, row, columns, h, w, h_step, w_step, x_h, x_w) = (
            self.function(
                "pad", "source destination", "planes from to rows row columns h w h_step w_step x_h x_w"
            )
        )
        zero, one = k.const(0, "int64"), k.const(1, "int64")

        def inside(start: Value, step: Value, count: Value, size: Value) -> tuple[Value, Value]:
            """The indices i in range(count) with 0 <= start + i step < size."""
            low = k.where(start < 0, k.op(f"sdiv i64 {(step - 1 - start).text}, {step.text}", "int64"), zero)
            high = k.op(f"sdiv i64 {(size - 1 - start + step).text}, {step.text}", "int64")
            high = k.where(start >= size, zero, k.where(high < count, high, count))
            return low, high

        r0, r1 = inside(h, h_step, rows, x_h)
        s0, s1 = inside(w, w_step, columns, x_w)
        some = (r0 < r1) & (s0 < s1)
        r1 = k.where(some, r1, r0)
        last = s1 - self.lanes
        partial = k.partial(k.where(some & (last < s0), s1 - s0, zero))
        begin, line = ((h + r0 * h_step) * x_w + w) * self.size, h_step * x_w * self.size

        def dense(at: Value, to: Value) -> None:
            def one_row(_: Value, at: Any, to: Any) -> list[Value]:
                def copy(s: Value) -> None:
                    s = k.hidden(s)
                    k.prefetch(k.offset(k.at(at, s, self.dtype), x_plane), 2)  # the same place of the next plane
                    k.store(k.load(k.at(at, s, self.dtype), self.dtype, self.lanes), k.at(to, s, self.dtype))

                def few() -> None:
                    partial.store(partial.load(k.at(at, s0, self.dtype), self.dtype), k.at(to, s0, self.dtype))

                k.loop(s0, last, self.lanes, copy)
                k.if_(last >= s0, lambda: copy(last), few)  # the last vector copies some elements again
                return [k.offset(at, line), k.offset(to, row)]

            k.loop(r0, r1, 1, one_row, [at, to])

        def sparse(at: Value, to: Value) -> None:
            def one_row(_: Value, at: Any, to: Any) -> list[Value]:
                copy = lambda s: k.store(k.load(k.at(at, s * w_step, self.dtype), self.dtype), k.at(to, s, self.dtype))
                k.loop(s0, s1, 1, copy)
                return [k.offset(at, line), k.offset(to, row)]

            k.loop(r0, r1, 1, one_row, [at, to])

        def every_other(at: Value, to: Value) -> None:
            def one_row(_: Value, at: Any, to: Any) -> list[Value]:
                def copy(s: Value) -> None:
                    s = k.hidden(s)
                    place = k.at(at, s * 2, self.dtype)
                    parts = (k.load(k.at(place, n, self.dtype), self.dtype, self.lanes) for n in (0, self.lanes - 1))
                    k.store(self._every_other(k, *parts), k.at(to, s, self.dtype))

                def few() -> None:
                    place = k.at(at, s0 * 2, self.dtype)
                    parts = (p.load(k.at(place, n, self.dtype), self.dtype) for p, n in zip(two, (0, self.lanes - 1)))
                    partial.store(self._every_other(k, *parts), k.at(to, s0, self.dtype))

                k.loop(s0, last, self.lanes, copy)
                k.if_(last >= s0, lambda: copy(last), few)
                return [k.offset(at, line), k.offset(to, row)]

            k.loop(r0, r1, 1, one_row, [at, to])

        vectors = k.eq(w_step, 2) & (k.const(self.target.masked, "bool") | (last >= s0))
        reach = k.where(some & (last < s0), (s1 - s0) * 2 - 1, zero)
        beyond = k.where(reach > self.lanes - 1, reach - (self.lanes - 1), zero)
        two = [k.partial(k.where(reach < self.lanes, reach, self.lanes)), k.partial(beyond)]

        def one_plane(_: Value, at: Any, to: Any) -> list[Value]:
            others = lambda: k.if_(vectors, lambda: every_other(at, to), lambda: sparse(at, to)) and None
            k.if_(k.eq(w_step, one), lambda: dense(at, to), others)
            return [k.offset(at, x_plane), k.offset(to, plane)]

        k.loop(0, planes, 1, one_plane, [k.offset(source, begin), k.offset(destination, r0 * row)])
        k.ret()
        k.finish()

    def _every_other(self, k: Kernel, a: Value, b: Value) -> Value:
        """Every other element of those that two vectors hold, of which the second begins with the last of the first."""
        lanes = self.lanes
        return shuffle(k, a, b, [*range(0, lanes, 2), *range(lanes + 1, 2 * lanes, 2)])

    def _spread(self, k: Kernel, value: Value, to: Value, count: Value) -> None:
        """Store the first `count` lanes, one element left alone after each; for machines with masks."""
        lane = k.iota("int32")
        for half in range(2):
            here = [half * (self.lanes // 2) + e // 2 for e in range(self.lanes)]
            left = k.splat(k.cast(count * 2 - half * self.lanes, "int32"))
            mask = (lane < left) & k.eq(k.bitwise_and(lane, 1), 0)
            k.masked_store(shuffle(k, value, value, here), k.at(to, half * self.lanes, self.dtype), mask)

    def flush(self) -> None:
        """`flush(temp, y, bias, rows, temp_row, start, count, row, w_n, y_h, y_w, y_plane, relu)`.

        temp holds results [rows][start ... start + count) of the long run; those that exist go to y, an image a row.
        """
        k, (temp, y, bias, rows, temp_row, start, count, row, w_n, y_h, y_w, y_plane, relu) = self.function(
            "flush", "temp y bias", "rows temp_row start count row w_n y_h y_w y_plane relu"
        )
        dtype, lanes, size = self.dtype, self.lanes, self.size
        has_bias, clips = k.ne_null(bias), k.ne(relu, 0)
        end = start + count
        first = k.op(f"udiv i64 {start.text}, {row.text}", "int64")
        last = k.op(f"udiv i64 {(end - 1).text}, {row.text}", "int64")

        def finished(value: Value, o: Value) -> Value:
            splat = (lambda v: k.splat(v)) if value.lanes > 1 else (lambda v: v)
            (value,) = k.if_(has_bias, lambda: [value + splat(k.load(k.at(bias, o, dtype), dtype))], lambda: [value])
            (value,) = k.if_(clips, lambda: [k.max(value, 0.0)], lambda: [value])
            return value

        def segment(r: Value) -> None:
            base = r * row
            begin = k.where(start > base, start - base, 0)
            stop = k.where(end - base < w_n, end - base, w_n)
            line, source = k.offset(y, r * y_h), k.at(temp, base - start, dtype)

            def dense() -> None:
                def chunk(s: Value) -> None:
                    left = stop - s
                    partial = k.partial(k.where(left < lanes, left, lanes))

                    def each(store: Any) -> None:
                        def channel(o: Value, at: Any, to: Any) -> list[Value]:
                            store(finished(k.load(at, dtype, lanes), o), to)
                            return [k.offset(at, temp_row), k.offset(to, y_plane)]

                        k.loop(0, rows, 1, channel, [k.at(source, s, dtype), k.at(line, s, dtype)])

                    k.if_(left >= lanes, lambda: each(k.store), lambda: each(partial.store))

                k.loop(begin, stop, lanes, chunk)

            def sparse() -> None:
                def channel(o: Value) -> None:
                    at, to = k.offset(source, o * temp_row), k.offset(line, o * y_plane)
                    k.loop(
                        begin, stop, 1,
                        lambda s: k.store(finished(k.load(k.at(at, s, dtype), dtype), o), k.offset(to, s * y_w)),
                    )

                k.loop(0, rows, 1, channel)

            def spread() -> None:
                def channel(o: Value) -> None:
                    at, to = k.offset(source, o * temp_row), k.offset(line, o * y_plane)

                    def chunk(s: Value) -> None:
                        left = stop - s
                        value = finished(k.load(k.at(at, s, dtype), dtype, lanes), o)
                        self._spread(k, value, k.at(to, s * 2, dtype), k.where(left < lanes, left, lanes))

                    k.loop(begin, stop, lanes, chunk)

                k.loop(0, rows, 1, channel)

            others: Any = sparse
            if self.target.masked:
                others = lambda: k.if_(k.eq(y_w, 2 * size), spread, sparse) and None
            k.if_(k.eq(y_w, size), dense, others)

        k.loop(first, last + 1, 1, segment)
        k.ret()
        k.finish()

    def flush_pixels(self) -> None:
        """`flush_pixels(temp, y, bias, count, outputs, wide, y_w, y_plane, relu)`: temp [count][outputs] to y."""
        k, (temp, y, bias, count, outputs, wide, y_w, y_plane, relu) = self.function(
            "flush_pixels", "temp y bias", "count outputs wide y_w y_plane relu"
        )
        dtype, lanes = self.dtype, self.lanes
        has_bias, clips, dense = k.ne_null(bias), k.ne(relu, 0), k.eq(y_w, self.size)
        buffer = k.alloca(lanes * self.vector_bytes)

        def pixels(start: Value) -> None:
            # The last vector begins earlier, if it can, and stores some results again.
            short = count - start < lanes
            start = k.where(short & (count >= lanes), count - lanes, start)
            left = count - start
            left = k.where(left < lanes, left, lanes)
            partial = k.partial(left)
            source, target = k.offset(temp, start * wide), k.offset(y, start * y_w)
            whole_rows = lambda at: [k.load(k.offset(at, wide * i), dtype, lanes) for i in range(lanes)]

            def channels(o: Value) -> None:
                o = k.hidden(o)
                rest = outputs - o
                rest = k.where(rest < lanes, rest, lanes)
                place = k.at(source, o, dtype)
                to = k.offset(target, o * y_plane)

                def some() -> list[Value]:
                    at, rows = place, []
                    for i in range(lanes):
                        rows.append(k.load(at, dtype, lanes))
                        at = k.offset(at, k.where(left > i + 1, wide, 0))  # the last pixel again
                    return rows

                rows: Any = k.if_(left >= lanes, lambda: whole_rows(place), some)

                def biased() -> list[Value]:
                    at = k.at(bias, o, dtype)
                    (b,) = k.if_(
                        rest >= lanes, lambda: [k.load(at, dtype, lanes)], lambda: [k.partial(rest).load(at, dtype)]
                    )
                    return [row + b for row in rows]

                rows = k.if_(has_bias, biased, lambda: rows)
                rows = k.if_(clips, lambda: [k.max(row, 0.0) for row in rows], lambda: rows)
                columns = transpose(k, rows)

                def whole() -> None:
                    for e, value in enumerate(columns):
                        k.store(value, k.offset(to, y_plane * e))

                def parts() -> None:
                    for e, value in enumerate(columns):
                        k.store(value, k.offset(buffer, e * self.vector_bytes))

                    def channel(e: Value) -> None:
                        line, at = k.offset(buffer, e * self.vector_bytes), k.offset(to, e * y_plane)
                        one = lambda j: k.store(k.load(k.at(line, j, dtype), dtype), k.offset(at, j * y_w))
                        scattered = lambda: k.loop(0, left, 1, one) and None
                        others: Any = scattered
                        if self.target.masked:
                            spread = lambda: self._spread(k, k.load(line, dtype, lanes), at, left)
                            others = lambda: k.if_(k.eq(y_w, 2 * self.size), spread, scattered) and None
                        k.if_(dense, lambda: partial.store(k.load(line, dtype, lanes), at), others)

                    k.loop(0, rest, 1, channel)

                k.if_(dense & (left >= lanes) & (rest >= lanes), whole, parts)

            k.loop(0, outputs, lanes, channels)

        k.loop(0, count, lanes, pixels)
        k.ret()
        k.finish()

    # -- weights

    def _pixels(self, k: Kernel, f: Words, b: Value) -> tuple[Value, Value, Value]:
        """(outputs, first one, vectors) of a block of outputs in tiles by pixel."""
        width = self.tiles.pixel[1] * self.lanes
        first = b * width
        left = f.outputs - first
        count = k.where(left < width, left, width)
        return count, first, k.op(f"udiv i64 {(count + (self.lanes - 1)).text}, {self.lanes}", "int64")

    def _block(self, k: Kernel, f: Words, b: Value) -> tuple[Value, Value]:
        """(rows, first row) of a block of output channels."""
        return f.low + k.cast(b < f.longer, "int64"), b * f.low + k.where(b < f.longer, b, f.longer)

    def _task(self, name: str) -> tuple[Kernel, dict[str, Value], Value, Value, Value]:
        arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, name, arguments, None, self.lanes, internal=True)
        job, begin, end, thread = k.arguments
        fields = {name: k.load(k.at(job, i, "ptr"), "ptr") for i, name in enumerate(JOB)}
        return k, fields, begin, end, k.bitwise_and(k.cast(thread, "int64"), 1023)

    def pack_weights(self) -> None:
        """The weights of groups and blocks in the order in which tiles read them: [k][rows]."""
        k, job, begin, end, _ = self._task("pack_weights")
        f = Words(k, job["table"], HEAD)
        dtype, lanes = self.dtype, self.lanes
        places, destinations = (k.at(job["table"], at, "int64") for at in (f.w_at, f.to_at))
        buffer = k.alloca(lanes * self.vector_bytes)

        def block(i: Value) -> None:
            group = k.op(f"udiv i64 {i.text}, {f.blocks.text}", "int64")
            number = i - group * f.blocks
            by_pixel = k.ne(f.by_pixel, 0)
            rows, row = self._block(k, f, number)
            count, first, vectors = self._pixels(k, f, number)
            rows, row = k.where(by_pixel, count, rows), k.where(by_pixel, first, row)
            stride = k.where(by_pixel, vectors * self.lanes, rows)
            source = k.offset(job["w"], group * f.w_group + row * f.w_row)
            wide = k.op(f"udiv i64 {f.wide.text}, {self.size}", "int64")
            target = k.offset(job["packed"], (group * wide + row) * f.steps * self.size)

            def stores(r: Value) -> Any:
                """Stores the weights of the outputs from r on of one step; beyond the outputs anything may lie."""
                left = stride - r
                some = k.partial(k.where(left < lanes, left, lanes))

                def store(value: Value, step: Value) -> None:
                    place = k.at(target, step * stride + r, dtype)
                    k.if_(left >= lanes, lambda: k.store(value, place), lambda: some.store(value, place))

                return store

            def run(i: Value) -> None:
                """Up to as many steps as a vector has lanes, whose weights of an output lie side by side."""
                j, steps = (k.load(k.at(job["table"], f.runs_at + i * 2 + n, "int64"), "int64") for n in range(2))
                at = k.offset(source, k.load(k.at(places, j, "int64"), "int64"))
                to = k.at(destinations, j, "int64")
                # Rows are far apart, and more than the processor looks ahead in.
                later = k.where(i + _RUNS_AHEAD < f.runs, i + _RUNS_AHEAD, f.runs - 1)
                later = k.load(k.at(job["table"], f.runs_at + later * 2, "int64"), "int64")
                later = k.load(k.at(places, later, "int64"), "int64") - k.load(k.at(places, j, "int64"), "int64")

                def square(r: Value) -> None:
                    r = k.hidden(r)
                    left = rows - r
                    line, partial, store = k.offset(at, r * f.w_row), k.partial(steps), stores(r)

                    def loaded(load: Any) -> list[Value]:
                        at, values = line, []
                        for n in range(lanes):
                            k.prefetch(k.offset(at, later), 2)
                            values.append(load(at))
                            at = k.offset(at, k.where(left > n + 1, f.w_row, 0))  # the last output again
                        return values

                    def step(n: Value) -> None:
                        value = k.load(k.offset(buffer, n * self.vector_bytes), dtype, lanes)
                        store(value, k.load(k.at(to, n, "int64"), "int64"))

                    values: Any = k.if_(
                        steps >= lanes,
                        lambda: loaded(lambda at: k.load(at, dtype, lanes)),
                        lambda: loaded(lambda at: partial.load(at, dtype)),
                    )
                    for n, value in enumerate(transpose(k, values)):
                        k.store(value, k.offset(buffer, n * self.vector_bytes))
                    k.loop(0, steps, 1, step)

                def lines(r: Value) -> None:
                    """The same for few steps, each of which is gathered."""
                    r = k.hidden(r)
                    left, line, store = rows - r, k.offset(at, r * f.w_row), stores(r)
                    lane = k.iota("int64")
                    apart = k.where(lane < left, lane, left - 1) * f.w_row  # the last output again
                    for n in range(0, lanes, 2):
                        k.prefetch(k.offset(line, later + f.w_row * n), 2)

                    def step(n: Value) -> None:
                        here = k.at(line, n, dtype)
                        places = k.op(f"getelementptr i8, ptr {here.text}, {apart.typed}", "ptr", lanes)
                        value = k.call(
                            f"llvm.masked.gather.{mangled(dtype, lanes)}.v{lanes}p0", (dtype, lanes), places,
                            k.const(self.size, "int32"), k.const(True, "bool", lanes), k.const(0, dtype, lanes),
                        )
                        store(value, k.load(k.at(to, n, "int64"), "int64"))

                    k.loop(0, steps, 1, step)

                k.if_(
                    steps <= _GATHERED,
                    lambda: k.loop(0, rows, lanes, lines) and None,
                    lambda: k.loop(0, rows, lanes, square) and None,
                )

            def beside(j: Value) -> None:
                """A step whose weights of all outputs lie side by side."""
                at = k.offset(source, k.load(k.at(places, j, "int64"), "int64"))
                to = k.load(k.at(destinations, j, "int64"), "int64")

                def vector(r: Value) -> None:
                    left, place = rows - r, k.at(at, r, dtype)
                    few = lambda: [k.partial(left).load(place, dtype)]
                    (value,) = k.if_(left >= lanes, lambda: [k.load(place, dtype, lanes)], few)
                    stores(r)(value, to)

                k.loop(0, rows, lanes, vector)

            k.if_(
                k.eq(f.w_row, self.size),
                lambda: k.loop(0, f.steps, 1, beside) and None,
                lambda: k.loop(0, f.runs, 1, run) and None,
            )

        k.loop(begin, end, 1, block)
        k.ret()
        k.finish()
