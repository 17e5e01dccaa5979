"""One unit of the gradient of a convolution's weights: the code around its register tiles.

A unit sums over some samples, for some channels of one group. It goes through bands of rows of results. Of each, x is
read in place or copied with its zeros, g is transposed for one block of outputs after the other, and tiles of channels
(of channels times taps) take that block. What they need next comes near meanwhile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agog.compiler.conv_tables import LINE, Words
from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel

__all__ = ["GRADIENT", "TAP", "Unit"]

#: Words of a table, as in `conv_tables`.
GRADIENT = (
    "out_size x_size w_size bias_size samples groups channels outputs x_plane x_slice x_h x_w g_plane g_slice "
    "t_n h_n w_n taps taps_d d_at t_step d_n h_start w_start h_step w_step row plane off_at kept chunks chunk "
    "cuts parts part band wide packed_size scratch_size gt_at by_tap taps_at alone"
).split()
#: Words of a tap in the table: where it reads x for the first result (the depth is counted from that of the slab), and
#: the rows and columns of results for which there is something to read.
TAP = "depth h w h0 h1 w0 w1".split()


class _Sums(NamedTuple):
    """What a unit adds up, and in what tiles: samples n0 ... n1, rows h0 ... h1 of each, some channels."""

    group: Value
    c0: Value
    channels: Value
    sums: Value
    h0: Value
    h1: Value
    n0: Value
    n1: Value
    panels: Value
    low: Value
    longer: Value
    times: Value
    between: Value  # from one row of a tile's sums to the next


class _Band(NamedTuple):
    """Rows of results of one slab of a sample, which begin at `row`."""

    n: Value
    t: Value
    row: Value
    rows: Value
    first: Value  # whether it is the unit's first one
    below: Value  # whether another one follows
    x: Value
    g: Value
    line: Value


class Unit:
    """Emits the code of one unit into the task `k`; `writer` has the sizes of the machine's tiles."""

    def __init__(self, writer: Any, k: Kernel, f: Words, job: dict[str, Value], scratch: Value) -> None:
        self.k, self.f, self.job, self.table, self.scratch = k, f, job, job["table"], scratch
        self.dtype, self.size, self.lanes = writer.dtype, writer.size, writer.lanes
        self.vector_bytes = writer.vector_bytes
        self.most, self.widest = writer.tiles.gradient
        self.gt = k.offset(scratch, f.gt_at)
        self.by_tap = k.ne(f.by_tap, 0)
        self.state, self.x_state = k.alloca(48), k.alloca(48)

    def _up(self, a: Value, by: Value | int) -> Value:
        return self.k.op(f"udiv i64 {(a + (by - 1)).text}, {by if isinstance(by, int) else by.text}", "int64")

    def _split(self, value: Value, by: Value) -> tuple[Value, Value]:
        quotient = self.k.op(f"udiv i64 {value.text}, {by.text}", "int64")
        return quotient, value - quotient * by

    def _expect(self, state: Value, start: Value, planes: Value, plane: Value, lines: Value, calls: Value) -> None:
        """Some cache lines of planes shall come near during so many calls of `ahead`."""
        k, some = self.k, lines * planes
        k.store(start, state)
        for i, value in enumerate((lines, some, plane - (lines - 1) * LINE, lines, self._up(some, calls))):
            k.store(value, k.at(state, i + 1, "int64"))

    def all(self, u: Value) -> None:
        """All of unit u."""
        k, f = self.k, self.f
        rest, part = self._split(u, f.parts)
        chunk, group = self._split(rest, f.groups)
        c0 = part * f.part
        left = f.channels - c0
        channels = k.where(left < f.part, left, f.part)
        sums = k.offset(self.job["packed"], ((chunk * f.groups + group) * f.channels + c0) * f.taps * f.wide)
        clear = channels * f.taps_d * f.plane
        piece, cut = self._split(chunk, f.cuts)  # some samples, and some of their rows
        h0, h1 = (k.op(f"udiv i64 {(c * f.h_n).text}, {f.cuts.text}", "int64") for c in (cut, cut + 1))
        n0 = piece * f.chunk
        n1 = n0 + f.chunk
        n1 = k.where(n1 < f.samples, n1, f.samples)
        # Tiles of about equal heights: of channels, for every tap anew, or of channels times taps.
        rows_all = k.where(self.by_tap, channels, channels * f.taps)
        panels = self._up(rows_all, self.most)
        low = k.op(f"udiv i64 {rows_all.text}, {panels.text}", "int64")
        longer = rows_all - panels * low
        times = k.where(self.by_tap, f.taps, 1)
        s = _Sums(group, c0, channels, sums, h0, h1, n0, n1, panels, low, longer, times, times * f.wide)

        def sample(n: Value) -> None:
            x = k.offset(self.job["x"], ((n * f.groups + group) * f.channels + c0) * f.x_plane)
            g = k.offset(self.job["w"], (n * f.groups + group) * f.outputs * f.g_plane)
            slab = lambda t: k.loop(h0, h1, f.band, lambda row: self._band(s, n, t, row, x, g, clear)) and None
            k.loop(0, f.t_n, 1, slab)

        k.loop(n0, n1, 1, sample)

    def _band(self, s: _Sums, n: Value, t: Value, row: Value, x: Value, g: Value, clear: Value) -> None:
        k, f = self.k, self.f
        left = s.h1 - row
        rows = k.where(left < f.band, left, f.band)
        first = k.cast(k.eq(n, s.n0) & k.eq(t, 0) & k.eq(row, s.h0), "int64")
        columns = k.op(f"udiv i64 {f.row.text}, {self.size}", "int64")
        line = f.x_w * self.size
        below = row + f.band < s.h1
        b = _Band(n, t, row, rows, first, below, x, g, line)
        k.if_(self.by_tap, lambda: self._come_x(s, b), lambda: self._copy(s, b, columns, clear))
        points = rows * f.w_n
        source = k.offset(g, t * f.g_slice + row * f.w_n * self.size)
        k.loop(0, f.outputs, self.widest * self.lanes, lambda o: self._outputs(s, b, points, source, o))

    def _copy(self, s: _Sums, b: _Band, columns: Value, clear: Value) -> None:
        """x of a band with the zeros around it."""
        k, f = self.k, self.f
        no, step = k.const(False, "bool"), k.const(1, "int64")
        k.call("llvm.memset.p0.i64", None, self.scratch, k.const(0, "uint8"), clear, no)
        held = (b.rows - 1) * f.h_step + f.kept

        def tap(d: Value) -> None:
            depth = b.t * f.t_step + k.load(k.at(self.table, f.d_at + d, "int64"), "int64")
            within = lambda: k.call_known(
                "pad", None, k.offset(b.x, depth * f.x_slice), k.offset(self.scratch, d * f.plane),
                s.channels, f.x_plane, f.taps_d * f.plane, held, f.row, columns,
                f.h_start + b.row * f.h_step, f.w_start, step, step, f.x_h, f.x_w,
            )
            k.if_((depth >= 0) & (depth < f.d_n), within)

        k.loop(0, f.taps_d, 1, tap)

    def _come_x(self, s: _Sums, b: _Band) -> None:
        """What is read next of x comes near."""
        k, f = self.k, self.f
        down = f.band * f.h_step * b.line
        beyond = f.groups * f.channels * f.x_plane + s.h0 * f.h_step * b.line
        on = k.where(b.below, b.row * f.h_step * b.line + down, beyond)
        lines = k.where(b.below | (b.n + 1 < s.n1), self._up(down, LINE), 0)
        blocks = self._up(f.outputs, self.widest * self.lanes)
        self._expect(self.x_state, k.offset(b.x, on), s.channels, f.x_plane, lines, blocks * s.times * s.panels)

    def _come(self, s: _Sums, b: _Band, points: Value, source: Value, o: Value) -> None:
        """What is transposed next comes near during the products."""
        k, f, wide = self.k, self.f, self.widest * self.lanes
        o = o + wide
        down, right = f.band * f.w_n * self.size, k.where(o < f.outputs, o, 0) * f.g_plane
        beyond = f.groups * f.outputs * f.g_plane - (b.row - s.h0) * f.w_n * self.size
        on = k.where(b.below, down, beyond)
        on = k.where(o < f.outputs, 0, on)
        left = f.outputs - k.where(o < f.outputs, o, 0)
        planes = k.where(left < wide, left, wide)
        planes = k.where((o < f.outputs) | b.below | (b.n + 1 < s.n1), planes, 0)
        start, lines = k.offset(source, on + right), self._up(points * self.size, LINE)
        self._expect(self.state, start, planes, f.g_plane, lines, s.times * s.panels)

    def _outputs(self, s: _Sums, b: _Band, points: Value, source: Value, o: Value) -> None:
        """The block of outputs from o on."""
        k, f, lanes = self.k, self.f, self.lanes
        self._come(s, b, points, source, o)
        left = f.outputs - o
        count = k.where(left < self.widest * lanes, left, self.widest * lanes)
        vectors = self._up(count, lanes)
        width = k.where(count > lanes // 2, vectors, 0) if lanes >= 8 else vectors
        g_point = vectors * self.vector_bytes
        k.call_known("turn", None, k.offset(source, o * f.g_plane), self.gt, f.g_plane, count, points, g_point)
        to = k.at(s.sums, o, self.dtype)

        def tap(i: Value) -> None:
            place = k.at(self.table, f.taps_at + i * len(TAP), "int64")
            at = dict(zip(TAP, (k.load(k.at(place, j, "int64"), "int64") for j in range(len(TAP)))))
            depth = b.t * f.t_step + at["depth"]
            r0 = k.where(at["h0"] > b.row, at["h0"], b.row)
            r1 = k.where(at["h1"] < b.row + b.rows, at["h1"], b.row + b.rows)
            some = (r0 < r1) & (at["w0"] < at["w1"]) & (depth >= 0) & (depth < f.d_n)
            lines, columns = k.where(some, r1 - r0, 0), at["w1"] - at["w0"]
            start = depth * f.x_slice + (r0 * f.h_step + at["h"]) * b.line
            start += (at["w0"] * f.w_step + at["w"]) * self.size
            before = ((r0 - b.row) * f.w_n + at["w0"]) * g_point
            call = lambda: self._tiles(
                s, k.offset(b.x, start), k.offset(self.gt, before), k.offset(to, i * f.wide), width, lines,
                columns, b.line, (f.w_n - columns) * g_point, b.first,
            )
            k.if_(some | k.ne(b.first, 0), call)

        zero = k.const(0, "int64")
        k.if_(
            self.by_tap,
            lambda: k.loop(0, f.taps, 1, tap) and None,
            lambda: self._tiles(s, self.scratch, self.gt, to, width, b.rows, f.w_n, f.row, zero, b.first),
        )

    def _tiles(
        self, s: _Sums, x: Value, g: Value, to: Value, width: Value, lines: Value, columns: Value, line: Value,
        skip: Value, first: Value,
    ) -> None:
        """All rows for one block of outputs."""
        k, f = self.k, self.f

        def panel(p: Value) -> None:
            height = s.low + k.cast(p < s.longer, "int64")
            above = p * s.low + k.where(p < s.longer, p, s.longer)
            kernel = k.load(k.at(k.symbol("@grads"), height * 4 + width, "ptr"), "ptr")
            k.call_address(
                kernel, x, k.at(self.table, f.off_at + above, "int64"), g, k.offset(to, above * s.between), lines,
                columns, line * f.h_step, f.w_step * self.size, s.between, skip, first,
            )
            k.call_known("ahead", None, self.state)
            k.if_(self.by_tap, lambda: k.call_known("ahead", None, self.x_state))

        k.loop(0, s.panels, 1, panel)
