"""What the gradients of maxima and of means share, and those of means.

g goes through the axes from the outside in: to each of the slices that a window covers, of these to each of the lines,
then along the line. There nothing is scattered: each place collects from the windows that cover it. Windows of large
strides are few, and each is spread.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel
from agog.compiler.pooling_windows import AXES, Fields, Windows

__all__ = ["Axis", "Gradients", "Means"]


class Axis(NamedTuple):
    """What is known of an axis."""

    x: Value
    y: Value
    k: Value
    s: Value
    p: Value
    d: Value
    low: Value
    high: Value


class Gradients(Windows):
    """What both write."""

    def _axis(self, f: Any, axis: str) -> Axis:
        return Axis(*(getattr(f, f"{name}_{axis}") for name in AXES.split()))

    def _vectors(self, k: Kernel, count: Value, body: Callable[..., None]) -> None:
        """`body(i, load, store, only)` for each vector of `count` elements; the last one's accesses are partial.

        only(value, other) is the value in the lanes that there are.
        """
        dtype, lanes = self.dtype, self.lanes
        whole = k.bitwise_and(count, -lanes)
        part = k.partial(count - whole)
        inside = k.iota("int32") < k.splat(k.cast(count - whole, "int32"))
        only = lambda value, other: k.where(inside, value, other)
        k.loop(0, whole, lanes, lambda i: body(i, lambda p: k.load(p, dtype, lanes), k.store, lambda v, _: v))
        k.if_(whole < count, lambda: body(whole, lambda p: part.load(p, dtype), part.store, only))

    def _collect(
        self, k: Kernel, f: Any, table: Value, target: Value, tap: Callable[[Value, Value, Value], Value]
    ) -> None:
        """A line of places, each of which collects from the windows that cover it.

        tap(a, at, total) adds to a vector what the windows from `at` on give to tap a.
        """
        dtype, lanes, step = self.dtype, self.lanes, self.step
        zero = k.const(0.0, dtype, lanes)
        word = lambda at: k.load(k.at(table, at, "int64"), "int64")

        def sums(m: Value, e: int) -> Value:
            """The places m step + e, of as many m as a vector has lanes."""
            first, count = word(f.places_at + 2 * e), word(f.places_at + (2 * e + 1))

            def one(i: Value, total: Value) -> list[Value]:
                at = first + 2 * i
                return [tap(word(at), m + word(at + 1), total)]

            return self._taps(k, count, one, [zero], (1, 2, 3)[: 4 - min(step, 3)])[0]

        def store(value: Value, left: Value, place: Value) -> None:
            few = lambda: k.if_(left > 0, lambda: k.partial(left).store(value, place)) and None
            k.if_(left >= lanes, lambda: k.store(value, place), few)

        def vector(i: Value) -> None:
            m = k.op(f"udiv i64 {i.text}, {step}", "int64") if step > 1 else i
            for v, value in enumerate(self._mixed(k, [sums(m, e) for e in range(step)])):
                store(value, f.x_w - i - v * lanes, k.at(target, i + v * lanes, dtype))

        k.loop(0, f.x_w, step * lanes, vector)


class Means(Gradients):
    """Writes the functions of means."""

    def gradient(self) -> None:
        """What the task below calls."""
        self.spread_lines()
        self.spread_slice()

    def back(
        self, k: Kernel, f: Any, begin: Value, end: Value, table: Value, scratch: Value, out: Value, g: Value, *_: Value
    ) -> None:
        """The body of the task that spreads g over the windows, of each element a part."""
        dtype = self.dtype
        self._counts(k, f, scratch)
        self._fill(k, k.offset(scratch, f.part_at), f.part_size, k.const(0.0, dtype, self.lanes))
        x_plane, y_plane = self._planes(f)
        scaled = k.offset(scratch, f.scaled_at)

        def shares(source: Value, target: Value, rows: Value, deep: Value) -> None:
            """g divided by the counts."""

            def row(r: Value) -> None:
                divide = lambda: [k.op(f"udiv i64 {r.text}, {f.y_h.text}", "int64")]
                (i,) = k.if_(deep, divide, lambda: [k.const(0, "int64")])
                # (Rows of rank 1 are those of many planes, with one height each.)
                j = k.where(k.eq(f.rank, 1), 0, r - i * f.y_h)
                count = k.cast(self._count(k, f, "d", i) * self._count(k, f, "h", j), dtype)

                def vector(j: Value, load: Any, store: Any, _: Any) -> None:
                    at = r * f.y_w + j
                    store(self._scaled(k, f, scratch, load(k.at(source, at, dtype)), count, j), k.at(target, at, dtype))

                self._vectors(k, f.y_w, vector)

            k.loop(0, rows, 1, row)

        def lines(source: Value, target: Value, rows: Value) -> None:
            def batch(i: Value) -> None:
                left = rows - i
                count = k.where(left < f.batch, left, f.batch)
                shares(k.at(source, i * f.y_w, dtype), scaled, count, k.const(False, "bool"))
                k.call_known("spread_lines", None, table, scratch, scaled, k.at(target, i * f.x_w, dtype),
                             k.const(0, "int64"), count, k.const(0, "int64"))

            k.loop(0, rows, f.batch, batch)

        def plane(source: Value, target: Value, _: Value) -> None:
            deep = k.eq(f.rank, 3)
            shares(source, scaled, f.y_d * f.y_h, deep)
            flat = lambda: k.call_known("spread_slice", None, table, scratch, scaled, target)

            def volume() -> None:
                sums = k.offset(scratch, f.slice_grads_at)

                def slice_(i: Value) -> None:
                    self._sum_of(k, self._axis(f, "d"), i, scaled, sums, f.y_h * f.y_w)
                    k.call_known("spread_slice", None, table, scratch, sums, k.at(target, i * f.x_h * f.x_w, dtype))

                k.loop(0, f.x_d, 1, slice_)

            k.if_(deep, volume, flat)

        def at(general: Callable[..., None]) -> Callable[..., None]:
            places = lambda first: (k.at(a, first * n, dtype) for a, n in ((g, y_plane), (out, x_plane)))
            return lambda first, rows: general(*places(first), rows)

        self._some_planes(k, f, begin, end, at(lines), at(plane))

    def _sum_of(self, k: Kernel, axis: Axis, i: Value, source: Value, target: Value, inner: Value) -> None:
        """The sum of the windows that cover line i, of which each has `inner` elements, from the last to the first.

        Whole vectors are read and stored, with zeros beyond the end.
        """
        dtype, lanes = self.dtype, self.lanes
        at = i + axis.p
        div = lambda a: k.op(f"udiv i64 {a.text}, {axis.s.text}", "int64")
        last = div(at)
        last = k.where(last < axis.y, last, axis.y - 1)
        before = at - axis.k
        first = k.where(before < 0, 0, div(k.where(before < 0, 0, before)) + 1)

        def vector(j: Value, load: Any, _: Any, only: Any) -> None:
            add = lambda n, total: [total + k.load(k.at(source, (last - n) * inner + j, dtype), dtype, lanes)]
            (total,) = self._taps(k, last - first + 1, add, [k.const(0.0, dtype, lanes)])
            k.store(only(total, 0.0), k.at(target, j, dtype))

        self._vectors(k, inner, vector)

    def spread_slice(self) -> None:
        """`spread_slice(table, scratch, g, to)`: g, already divided, of one slice."""
        k, (table, scratch, g, to) = self.function("spread_slice", "table scratch g to", "")
        f: Any = Fields(k, table)

        def batch(i: Value) -> None:
            left = f.x_h - i
            count = k.where(left < f.batch, left, f.batch)
            k.call_known("spread_lines", None, table, scratch, g, k.at(to, i * f.x_w, self.dtype), i, count,
                         k.const(1, "int64"))

        k.loop(0, f.x_h, f.batch, batch)
        k.ret()
        k.finish()

    def spread_lines(self) -> None:
        """`spread_lines(table, scratch, g, to, first, rows, slice)`: lines of a slice from the first on, or rows."""
        k, (table, scratch, g, to, first, rows, of_slice) = self.function(
            "spread_lines", "table scratch g to", "first rows slice"
        )
        f: Any = Fields(k, table)
        w, dtype, lanes = self._axis(f, "w"), self.dtype, self.lanes
        part_of = lambda row: k.at(k.offset(scratch, f.part_at), row * f.held, dtype)

        def windows(row: Value) -> None:
            """What the windows along a line give, between zeros."""
            inner = k.at(part_of(row), f.margin, dtype)
            source = k.at(g, row * w.y, dtype)
            copy = lambda j, load, _, only: k.store(only(load(k.at(source, j, dtype)), 0.0), k.at(inner, j, dtype))
            k.if_(
                k.ne(of_slice, 0),
                lambda: self._sum_of(k, self._axis(f, "h"), first + row, g, inner, w.y),
                lambda: self._vectors(k, w.y, copy),
            )

        def collected(row: Value) -> None:
            part = k.at(part_of(row), f.margin, dtype)
            tap = lambda a, at, total: total + k.load(k.at(part, at, dtype), dtype, lanes)
            self._collect(k, f, table, k.at(to, row * w.x, dtype), tap)

        def scattered(row: Value) -> None:
            """Window by window, from the last to the first."""
            target, part = k.at(to, row * w.x, dtype), k.at(part_of(row), f.margin, dtype)
            self._clear(k, target, w.x)

            def window(n: Value) -> None:
                j = w.y - 1 - n
                value = k.load(k.at(part, j, dtype), dtype)
                start = j * w.s - w.p
                end = start + w.k
                start, end = k.where(start < 0, 0, start), k.where(end < w.x, end, w.x)

                def some(i: Value) -> None:
                    left, place = end - i, k.at(target, i, dtype)
                    few = k.partial(k.where(left < lanes, left, lanes))
                    few.store(few.load(place, dtype) + k.splat(value), place)

                def one(i: Value) -> None:
                    place = k.at(target, i, dtype)
                    k.store(k.load(place, dtype) + value, place)

                k.loop(start, end, lanes if self.target.masked else 1, some if self.target.masked else one)

            k.loop(0, w.y, 1, window)

        k.loop(0, rows, 1, windows)
        k.loop(0, rows, 1, collected if self.step else scattered)
        k.ret()
        k.finish()
