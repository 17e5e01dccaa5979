"""The gradients of maxima, one axis after the other.

The first of the largest elements of a window is the first in the first of those lines whose own maximum is that of the
window. So g goes through the axes from the outside in: to the first of the lines (or slices) of a window that holds its
maximum, then along the line. Lines, their maxima, and what of g is theirs, are held in a ring, of as many as windows
cover at a time. Windows of large strides are few: each is searched for its maximum.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple

from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel
from agog.compiler.pooling_gradients import Axis, Gradients
from agog.compiler.pooling_windows import Fields

__all__ = ["Maxima"]


class _Ring(NamedTuple):
    """Lines of maxima and of parts of g, `stride` elements apart, of which there are `mask` + 1."""

    maxima: Value
    grads: Value
    stride: Value
    mask: Value

    def place(self, i: Value) -> Value:
        """Which of them line i is."""
        return i & self.mask


class Maxima(Gradients):
    """Writes the functions of maxima."""

    def gradient(self) -> None:
        """What the task below calls."""
        if not self.step:
            return
        self.fold()
        self.pad_lines()
        self.line_maxima()
        self.grad_lines()
        self.grad_slice()
        self.grad_volume()

    def back(
        self, k: Kernel, f: Any, begin: Value, end: Value, table: Value, scratch: Value, out: Value, g: Value, x: Value,
        y: Value,
    ) -> None:
        """The body of the task that puts g (like y) where x has the maxima y of its windows."""
        x_plane, y_plane = self._planes(f)
        dtype, lanes = self.dtype, self.lanes
        padded, part = (k.offset(scratch, at) for at in (f.nan_at, f.part_at))
        self._fill(k, scratch, f.batch * f.held, k.const(self.lowest, dtype, lanes))
        self._fill(k, padded, f.nan_size, k.const(float("nan"), dtype, lanes))
        self._fill(k, k.offset(scratch, f.index_at), f.index_size, k.const(-1, self._number, lanes))

        def lines(x: Value, y: Value, g: Value, to: Value, rows: Value) -> None:
            def batch(i: Value) -> None:
                left = rows - i
                count = k.where(left < f.batch, left, f.batch)
                x_at, y_at, at = (k.at(a, i * n, dtype) for a, n in ((x, f.x_w), (y, f.y_w), (to, f.x_w)))
                k.call_known("pad_lines", None, table, x_at, padded, count)

                def copy(row: Value) -> None:
                    """g, where more can be read around it."""
                    source, target = k.at(g, (i + row) * f.y_w, dtype), k.at(part, row * f.held + f.margin, dtype)
                    self._vectors(k, f.y_w, lambda j, load, *_: k.store(
                        load(k.at(source, j, dtype)), k.at(target, j, dtype)))

                k.loop(0, count, 1, copy)
                first = k.at(part, f.margin, dtype)
                k.call_known("grad_lines", None, table, scratch, padded, y_at, first, at, count, f.y_w, f.held)

            k.loop(0, rows, f.batch, batch)

        def at(general: Callable[..., None]) -> Callable[..., None]:
            sizes = (x, x_plane), (y, y_plane), (g, y_plane), (out, x_plane)
            return lambda first, rows: general(*(k.at(a, first * n, dtype) for a, n in sizes), rows)

        def plane(*places: Value) -> None:
            call = lambda name: lambda: k.call_known(name, None, table, scratch, *places[:4])
            k.if_(k.eq(f.rank, 2), call("grad_slice"), call("grad_volume"))

        if self.step:
            self._some_planes(k, f, begin, end, at(lines), at(plane))
        else:
            def search(x: Value, y: Value, g: Value, to: Value, _: Value) -> None:
                def add(at: Value, found: Value) -> None:
                    place = k.at(to, found, dtype)
                    sum_ = lambda: k.store(k.load(place, dtype) + k.load(k.at(g, at, dtype), dtype), place)
                    k.if_(found >= 0, sum_)

                self._clear(k, to, x_plane)
                self._search(k, f, x, y, add)

            k.loop(begin, end, 1, lambda p: at(search)(p, k.const(1, "int64")))

    def indices(
        self, k: Kernel, f: Any, begin: Value, end: Value, table: Value, scratch: Value, out: Value, x: Value, y: Value,
        _: Value,
    ) -> None:
        """The body of the task that says where in its plane each window has its maximum y; 0 where nowhere."""
        x_plane, y_plane = self._planes(f)

        def plane(p: Value) -> None:
            x_at, y_at = (k.at(a, p * n, self.dtype) for a, n in ((x, x_plane), (y, y_plane)))
            to = k.at(out, p * y_plane, "int64")
            keep = lambda at, found: k.store(k.where(found < 0, 0, found), k.at(to, at, "int64"))
            self._search(k, f, x_at, y_at, keep)

        k.loop(begin, end, 1, plane)

    def _search(self, k: Kernel, f: Any, x: Value, y: Value, done: Callable[[Value, Value], None]) -> None:
        """Each window of a plane by itself: `done(number of the window, place of its maximum or -1)`."""
        dtype, lanes = self.dtype, self.lanes
        d, h, w = (self._axis(f, axis) for axis in "dhw")
        plane = d.x * h.x * w.x
        none = k.const(-1, "int64")

        def row(i: Value, j: Value) -> None:
            top, above = i * d.s - d.p, j * h.s - h.p
            a0, a1 = self._range(k, top, d.d, d.k, d.x)
            b0, b1 = self._range(k, above, h.d, h.k, h.x)

            def window(n: Value) -> None:
                left = n * w.s - w.p
                c0, c1 = self._range(k, left, w.d, w.k, w.x)
                at = (i * h.y + j) * w.y + n
                best = k.load(k.at(y, at, dtype), dtype)

                def together(line: Value, found: Value) -> list[Value]:
                    """Elements side by side."""

                    def some(c: Value, found: Value) -> list[Value]:
                        def look() -> list[Value]:
                            place, count = line + c, c1 - c
                            part = k.partial(k.where(count < lanes, count, lanes))
                            source = k.at(x, place, dtype)
                            (value,) = k.if_(
                                place + lanes <= plane,
                                lambda: [k.load(source, dtype, lanes)],
                                lambda: [part.load(source, dtype)],
                            )
                            hits = k.eq(value, best) & (k.iota("int32") < k.splat(k.cast(count, "int32")))
                            bits = k.op(f"bitcast {hits.typed} to i{lanes}", "int64")
                            bits = k.op(f"zext i{lanes} {bits.text} to i64", "int64")
                            first = k.call("llvm.cttz.i64", "int64", bits, k.const(False, "bool"))
                            return [k.where(k.ne(bits, 0), place + first, none)]

                        return list(k.if_(found < 0, look, lambda: [found]))

                    return k.loop(c0, c1, lanes, some, [found])

                def apart(line: Value, found: Value) -> list[Value]:
                    def one(c: Value, found: Value) -> list[Value]:
                        place = line + c * w.d
                        hit = k.eq(k.load(k.at(x, place, dtype), dtype), best) & (found < 0)
                        return [k.where(hit, place, found)]

                    return k.loop(c0, c1, 1, one, [found])

                def lines(a: Value, found: Value) -> list[Value]:
                    def line(b: Value, found: Value) -> list[Value]:
                        at = ((top + a * d.d) * h.x + above + b * h.d) * w.x + left
                        return list(k.if_(k.eq(w.d, 1), lambda: together(at, found), lambda: apart(at, found)))

                    return k.loop(b0, b1, 1, line, [found])

                done(at, k.loop(a0, a1, 1, lines, [none])[0])

            k.loop(0, w.y, 1, window)

        k.loop(0, d.y, 1, lambda i: k.loop(0, h.y, 1, lambda j: row(i, j)) and None)

    def grad_slice(self) -> None:
        """`grad_slice(table, scratch, x, y, g, to)`: g of one slice of the windows' maxima y."""
        k, (table, scratch, x, y, g, to) = self.function("grad_slice", "table scratch x y g to", "")
        f: Any = Fields(k, table)
        ring = _Ring(k.offset(scratch, f.rows_at), k.offset(scratch, f.grads_at), f.line, f.mask)
        at = lambda a, i: k.at(a, i * f.x_w, self.dtype)
        padded = lambda i: k.at(k.offset(scratch, f.nan_at), ring.place(i) * f.held, self.dtype)

        def bring(i: Value, count: Value, maxima: Value) -> None:
            k.call_known("line_maxima", None, table, at(x, i), padded(i), maxima, count)

        def retire(i: Value, count: Value, maxima: Value, grads: Value) -> None:
            k.call_known("grad_lines", None, table, scratch, padded(i), maxima, grads, at(to, i), count, f.line, f.line)

        clear = lambda i, count: self._clear(k, at(to, i), count * f.x_w)
        room = k.offset(scratch, f.taps_at)
        self._along(k, self._axis(f, "h"), ring, room, f.batch, y, g, f.y_w, bring, retire, clear)
        k.ret()
        k.finish()

    def grad_volume(self) -> None:
        """`grad_volume(table, scratch, x, y, g, to)`: the same of a volume."""
        k, (table, scratch, x, y, g, to) = self.function("grad_volume", "table scratch x y g to", "")
        f: Any = Fields(k, table)
        at_ring = k.offset(scratch, f.slices_at), k.offset(scratch, f.slice_grads_at)
        ring = _Ring(*at_ring, f.slice, f.slice_mask)
        size, one = f.x_h * f.x_w, k.const(1, "int64")
        at = lambda a, i: k.at(a, i * size, self.dtype)

        def bring(i: Value, count: Value, maxima: Value) -> None:
            k.call_known("fold", None, table, scratch, at(x, i), maxima, k.const(2, "int64"), one, f.y_w)

        def retire(i: Value, count: Value, maxima: Value, grads: Value) -> None:
            k.call_known("grad_slice", None, table, scratch, at(x, i), maxima, grads, at(to, i))

        clear = lambda i, count: self._clear(k, at(to, i), count * size)
        room = k.offset(scratch, f.taps_at)
        self._along(k, self._axis(f, "d"), ring, room, one, y, g, f.y_h * f.y_w, bring, retire, clear)
        k.ret()
        k.finish()

    def _along(
        self, k: Kernel, axis: Axis, ring: _Ring, lines: Value, batch: Value, y: Value, g: Value, inner: Value,
        bring: Callable[..., None], retire: Callable[..., None], clear: Callable[..., None],
    ) -> None:
        """Through the windows along an outer axis, of whose results each has `inner` elements.

        bring(i, count, maxima) makes the maxima of lines from i on, retire(i, count, maxima, grads) passes on what
        these got, and clear(i, count) fills with zeros what no window covers. Up to `batch` lines come and go at a
        time. `lines` is room for the addresses of those of a window.
        """
        dtype, lanes = self.dtype, self.lanes
        slot = lambda a, i: k.at(a, ring.place(i) * ring.stride, dtype)
        least = lambda *values: functools.reduce(lambda a, b: k.where(a < b, a, b), values)
        room = lambda i: ring.mask + 1 - ring.place(i)
        zero = k.const(0, "int64")
        inside = lambda i: k.where(i < 0, zero, k.where(i < axis.x, i, axis.x))

        def retired(first: Value, last: Value) -> None:
            def some(i: Value) -> list[Value]:
                count = least(last - i, batch, room(i))
                retire(i, count, slot(ring.maxima, i), slot(ring.grads, i))
                return [i + count]

            k.loop(first, last, None, some)

        def window(i: Value, came: Value, gone: Value) -> list[Value]:
            top = i * axis.s - axis.p
            low, high = inside(top), inside(top + (axis.k - 1) * axis.d + 1)

            def skip() -> list[Value]:
                """Lines between windows."""
                retired(gone, came)
                clear(came, low - came)
                return [low, low]

            def finish() -> list[Value]:
                retired(gone, low)
                return [came, low]

            came, gone = k.if_(
                came < low,
                skip,
                lambda: list(k.if_(low - gone >= batch, finish, lambda: [came, gone])),
            )

            def some(i: Value) -> list[Value]:
                count = least(axis.x - i, batch, room(i))
                bring(i, count, slot(ring.maxima, i))
                self._clear(k, slot(ring.grads, i), count * ring.stride)
                return [i + count]

            (came,) = k.loop(came, high, None, some)
            a0, a1 = self._range(k, top, axis.d, axis.k, axis.x)

            def find(a: Value) -> None:
                place = k.at(lines, (a - a0) * 2, "ptr")
                k.store(slot(ring.maxima, top + a * axis.d), place)
                k.store(slot(ring.grads, top + a * axis.d), k.at(place, 1, "ptr"))

            k.loop(a0, a1, 1, find)

            def vector(j: Value, load: Any, *_: Any) -> None:
                at = i * inner + j
                best = load(k.at(y, at, dtype))

                def line(n: Value, rest: Value) -> list[Value]:
                    maxima, grads = (k.at(k.load(k.at(lines, 2 * n + e, "ptr"), "ptr"), j, dtype) for e in range(2))
                    hit = k.eq(k.load(maxima, dtype, lanes), best)
                    k.store(k.load(grads, dtype, lanes) + k.where(hit, rest, 0.0), grads)
                    return [k.where(hit, 0.0, rest)]  # for the first alone

                self._taps(k, a1 - a0, line, [load(k.at(g, at, dtype))])

            self._vectors(k, inner, vector)
            return [came, gone]

        came, gone = k.loop(0, axis.y, 1, window, [zero, zero])
        retired(gone, came)
        clear(came, axis.x - came)

    @property
    def _number(self) -> str:
        return "int32" if self.size == 4 else "int64"

    def pad_lines(self) -> None:
        """`pad_lines(table, x, padded, rows)`: lines in NaN, which equals no maximum."""
        k, (table, x, padded, rows) = self.function("pad_lines", "table x padded", "rows")
        f: Any = Fields(k, table)
        dtype, first = self.dtype, f.lead + f.p_w

        def copy(row: Value) -> None:
            source, target = k.at(x, row * f.x_w, dtype), k.at(padded, row * f.held + first, dtype)
            self._vectors(k, f.x_w, lambda i, load, _, only: k.store(
                only(load(k.at(source, i, dtype)), float("nan")), k.at(target, i, dtype)))

        k.loop(0, rows, 1, copy)
        k.ret()
        k.finish()

    def line_maxima(self) -> None:
        """`line_maxima(table, x, padded, maxima, rows)`: the same, and the maxima of their windows but for NaN."""
        k, (table, x, padded, maxima, rows) = self.function("line_maxima", "table x padded maxima", "rows")
        f: Any = Fields(k, table)
        dtype, lanes, step = self.dtype, self.lanes, self.step
        k.call_known("pad_lines", None, table, x, padded, rows)

        def line(row: Value) -> None:
            source, target = k.at(padded, row * f.held + f.lead, dtype), k.at(maxima, row * f.line, dtype)

            def vector(j: Value) -> None:
                def tap(a: Value, best: Value) -> list[Value]:
                    value = self._every(k, k.at(source, j * step + a * f.d_w, dtype), step)
                    return [k.where(value > best, value, best)]

                (best,) = self._taps(k, f.k_w, tap, [k.const(float("-inf"), dtype, lanes)])
                k.store(best, k.at(target, j, dtype))

            k.loop(0, f.y_w, lanes, vector)

        k.loop(0, rows, 1, line)
        k.ret()
        k.finish()

    def grad_lines(self) -> None:
        """`grad_lines(table, scratch, padded, y, g, to, rows, y_line, g_line)`: of lines with the maxima y of windows.

        y_line, g_line : elements from one of y, and of g, to the next; around g more can be read, whatever it is
        """
        k, (table, scratch, padded, y, g, to, rows, y_line, g_line) = self.function(
            "grad_lines", "table scratch padded y g to", "rows y_line g_line"
        )
        f: Any = Fields(k, table)
        w, dtype, lanes, number = self._axis(f, "w"), self.dtype, self.lanes, self._number
        index_of = lambda row: k.at(k.offset(scratch, f.index_at), row * f.held + f.margin, dtype)

        def windows(row: Value) -> None:
            """For each window where its first maximum is."""
            source, index = k.at(padded, row * f.held + f.lead, dtype), index_of(row)
            bests, never = k.at(y, row * y_line, dtype), k.const(-1, number, lanes)

            def vector(j: Value, load: Any, _: Any, only: Any) -> None:
                best = load(k.at(bests, j, dtype))

                def tap(n: Value, first: Value) -> list[Value]:
                    a = w.k - 1 - n
                    hit = k.eq(self._every(k, k.at(source, j * self.step + a * w.d, dtype), self.step), best)
                    return [k.where(hit, k.splat(k.cast(a, number)), first)]

                (first,) = self._taps(k, w.k, tap, [never])
                k.store(only(first, -1), k.at(index, j, dtype))

            self._vectors(k, w.y, vector)

        def places(row: Value) -> None:
            index, part, target = index_of(row), k.at(g, row * g_line, dtype), k.at(to, row * w.x, dtype)

            def tap(a: Value, at: Value, total: Value) -> Value:
                hit = k.eq(k.load(k.at(index, at, dtype), number, lanes), k.splat(k.cast(a, number)))
                return total + k.where(hit, k.load(k.at(part, at, dtype), dtype, lanes), 0.0)

            self._collect(k, f, table, target, tap)

        k.loop(0, rows, 1, windows)
        k.loop(0, rows, 1, places)
        k.ret()
        k.finish()
