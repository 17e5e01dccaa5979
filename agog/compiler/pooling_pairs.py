"""Pooling by windows of 2 in every axis, which move by 2: they are computed in registers, and so are the gradients."""

from __future__ import annotations

from typing import Any, Callable, Sequence

from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import shuffle
from agog.compiler.pooling_windows import Tasks

__all__ = ["Pairs"]


class Pairs(Tasks):
    """Writes the functions of windows of 2, of which so many lines of x make a row of results."""

    def __init__(self, module: Module, dtype: str, mean: bool, lines: int) -> None:
        super().__init__(module, dtype, mean)
        self.lines = lines

    def _pairs(self, k: Kernel, f: Any, rows: Value, body: Callable[..., None]) -> None:
        """`body(lines, place, halves, whole)` for every vector of results of a plane, or of some rows of rank 1.

        lines: where the lines of x begin for the vector, in order; place: the vector's in the results; halves: two
        accesses `(load, store)` for the vectors of x that belong to it; whole: one for the results.
        """
        dtype, lanes = self.dtype, self.lanes
        full = (lambda p: k.load(p, dtype, lanes), lambda v, p: k.store(v, p))
        whole = k.bitwise_and(f.y_w, -lanes)
        left = f.y_w - whole
        zero = k.const(0, "int64")
        part = k.partial(left)
        first = k.partial(k.where(2 * left < lanes, 2 * left, lanes))
        second = k.partial(k.where(2 * left > lanes, 2 * left - lanes, zero))
        access = lambda p: (lambda at: p.load(at, dtype), lambda v, at: p.store(v, at))

        def row(number: Value, lines: Sequence[Value]) -> None:
            def vector(j: Value, halves: Any, whole: Any) -> None:
                body([n * f.x_w + 2 * j for n in lines], number * f.y_w + j, halves, whole)

            k.loop(0, whole, lanes, lambda j: vector(j, (full, full), full))
            k.if_(left > 0, lambda: vector(whole, (access(first), access(second)), access(part)))

        def of_slice(d: Value) -> None:
            lines = lambda i: [(2 * d + r // 2) * f.x_h + 2 * i + r % 2 for r in range(self.lines)]
            k.loop(0, f.y_h, 1, lambda i: row(d * f.y_h + i, lines(i)))

        if self.lines == 1:
            k.loop(0, rows, 1, lambda i: row(i, [i]))
        else:
            k.loop(0, f.y_d, 1, of_slice)

    def _parts(self, k: Kernel, x: Value, lines: Sequence[Value], halves: Any) -> list[Value]:
        """The elements of each window, in order."""
        out = []
        for line in lines:
            at = k.at(x, line, self.dtype)
            a, b = halves[0][0](at), halves[1][0](k.at(at, self.lanes, self.dtype))
            out += [shuffle(k, a, b, [2 * i + odd for i in range(self.lanes)]) for odd in range(2)]
        return out

    def forward(
        self, k: Kernel, f: Any, begin: Value, end: Value, table: Value, scratch: Value, out: Value, x: Value, *_: Value
    ) -> None:
        """The body of the task that pools planes of x."""

        def some(first: Value, rows: Value) -> None:
            x_at, y_at = (k.at(a, first * n, self.dtype) for a, n in zip((x, out), self._planes(f)))

            def vector(lines: Sequence[Value], place: Value, halves: Any, whole: Any) -> None:
                parts = self._parts(k, x_at, lines, halves)
                while len(parts) > 1:  # depth, then height, then width
                    half = len(parts) // 2
                    parts = [self._joined(k, a, b) for a, b in zip(parts[:half], parts[half:])]
                whole[1](parts[0] * self._scale(k, f) if self.mean else parts[0], k.at(y_at, place, self.dtype))

            self._pairs(k, f, rows, vector)

        self._some_planes(k, f, begin, end, some)

    def back(
        self, k: Kernel, f: Any, begin: Value, end: Value, table: Value, scratch: Value, out: Value, g: Value, x: Value,
        y: Value,
    ) -> None:
        """The body of the task for g, the gradient of the results y."""

        def some(first: Value, rows: Value) -> None:
            x_plane, y_plane = self._planes(f)
            x_at, out_at = (k.at(a, first * x_plane, self.dtype) for a in (x, out))
            y_at, g_at = (k.at(a, first * y_plane, self.dtype) for a in (y, g))
            self._clear_uncovered(k, f, out_at, rows * x_plane)

            def spread(lines: Sequence[Value], place: Value, halves: Any, whole: Any) -> None:
                part = whole[0](k.at(g_at, place, self.dtype)) * self._scale(k, f)
                self._stored_parts(k, out_at, lines, [part] * (2 * len(lines)), halves)

            def scatter(lines: Sequence[Value], place: Value, halves: Any, whole: Any) -> None:
                best, part = (whole[0](k.at(a, place, self.dtype)) for a in (y_at, g_at))
                taken, parts = None, []
                for value in self._parts(k, x_at, lines, halves):
                    hit = k.eq(value, best)
                    free = hit if taken is None else hit & k.bitwise_not(taken)
                    taken = hit if taken is None else taken | hit
                    parts.append(k.where(free, part, 0.0))
                self._stored_parts(k, out_at, lines, parts, halves)

            self._pairs(k, f, rows, spread if self.mean else scatter)

        self._some_planes(k, f, begin, end, some)

    def _clear_uncovered(self, k: Kernel, f: Any, to: Value, elements: Value) -> None:
        """Zeros, if windows of 2 do not cover all."""
        covered = k.eq(2 * f.y_w, f.x_w)
        for axis, rank in (("h", 2), ("d", 3)):
            covered &= k.eq(2 * getattr(f, f"y_{axis}"), getattr(f, f"x_{axis}")) | (f.rank < rank)
        k.if_(covered, None, lambda: self._clear(k, to, elements))

    def _stored_parts(self, k: Kernel, to: Value, lines: Any, parts: Any, halves: Any) -> None:
        """The reverse of `_parts`."""
        for i, line in enumerate(lines):
            a, b = self._mixed(k, parts[2 * i : 2 * i + 2])
            place = k.at(to, line, self.dtype)
            halves[0][1](a, place)
            halves[1][1](b, k.at(place, self.lanes, self.dtype))
