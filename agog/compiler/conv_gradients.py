"""The native code of the gradient of a convolution's weights, and the module of all that convolutions need.

    dw[k, o] = sum over p of x[offset[k] + p] g[p, o]

with g transposed, and x read one number after another. k are channels times taps. Where there are several channels,
those of one tap make a tile together. Then x needs no copy, and p are the points for which the tap reads a number and
not one of the zeros around x, as it does for a fifth of the points of 7 x 7 images. Tiles of few channels hold several
taps, and read a copy with the zeros. Samples are divided into as many sums as the sizes say, whatever the number of
threads.
"""

from __future__ import annotations

import functools
from typing import Any

from agog.compiler import call, jit, pool
from agog.compiler.conv_kernels import Writer
from agog.compiler.conv_tables import JOB, LINE, Tiles, Words
from agog.compiler.ir import Module, Value
from agog.compiler.packing import transpose
from agog.compiler.targets import Target

__all__ = ["GRADIENT", "PARAMETERS", "Gradients", "build", "code", "later"]

#: Words of a table, as in `conv_tables`.
GRADIENT = (
    "out_size x_size w_size bias_size samples groups channels outputs x_plane x_slice x_h x_w g_plane g_slice "
    "t_n h_n w_n taps taps_d d_at t_step d_n h_start w_start h_step w_step row plane off_at kept chunks chunk "
    "cuts parts part band wide packed_size scratch_size gt_at by_tap taps_at alone"
).split()
#: Words of a tap in the table: where it reads x for the first result (the depth is counted from that of the slab), and
#: the rows and columns of results for which there is something to read.
TAP = "depth h w h0 h1 w0 w1".split()


#: Of the callables over arrays: out, x, w, bias, table, and whether there is a bias.
PARAMETERS = call.OUT + call.IN * 4 + call.INT


def later(dtype: str, target: Target, what: str) -> jit.Later:
    """The one object of "conv" or of "gradient", for eager work and for programs."""
    module = jit.Later(f"{what} {dtype}", target, lambda: build(dtype, target, what))
    return call.with_builtin(module, PARAMETERS)


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """The function "gradient" of (out, x, g, null, table), for other native code."""
    return jit.load(later(dtype, target, "gradient"), ["gradient"], pool.imports)


def build(dtype: str, target: Target, what: str) -> Module:
    """The module of one dtype with `conv(out, x, w, bias, table)` or `gradient(out, x, g, bias, table)`."""
    module = Module(target)
    writer = Gradients(module, dtype)
    writer.pad()
    writer.scratch()
    writer.ahead()
    if what == "conv":
        writer.tile_kernels()
        writer.flush()
        writer.pixel_kernels()
        writer.flush_pixels()
        writer.pack_weights()
        writer.copy()
        writer.unit()
        writer.conv()
    else:
        writer.gradient_kernels()
        writer.pack_transposed()
        writer.turn()
        writer.gradient_unit()
        writer.gradient_sum()
        writer.gradient()
    writer.interface(what)
    return module


class Gradients(Writer):
    """Writes all functions."""

    def gradient_kernels(self) -> None:
        """`grad_R_V(x, off, g, c, lines, columns, x_row, x_column, c_row, skip, first)`: C[R][V] += x[off[r] + p] g[p].

        The points p are lines of columns, after each of which `skip` bytes of g are left out. V of 0 is the first half
        of a vector.
        """
        dtype = self.dtype
        kernels = Tiles.upto(self.tiles.gradient)
        if self.lanes >= 8:
            kernels += [(r, 0) for r in range(1, self.tiles.gradient[0] + 1)]
        for rows, vectors in kernels:
            lanes, count = (self.lanes, vectors) if vectors else (self.lanes // 2, 1)
            k, (x, off, g, c, lines, columns, x_row, x_column, c_row, skip, first) = self.function(
                f"grad_{rows}_{vectors}", "x off g c", "lines columns x_row x_column c_row skip first"
            )
            k.lanes = lanes
            starts = [k.offset(x, k.load(k.at(off, r, "int64"), "int64")) for r in range(rows)]
            places = self._places(k, c, c_row, rows, count)
            zero = k.const(0.0, dtype, lanes)
            tile: Any = k.if_(
                k.ne(first, 0), lambda: [zero] * len(places), lambda: [k.load(p, dtype, lanes) for p in places]
            )

            def line(i: Value, g: Any, *tile: Value) -> list[Value]:
                def point(j: Value, g: Any, at: Any, *tile: Value) -> list[Value]:
                    bs = [k.load(k.offset(g, v * self.vector_bytes), dtype, lanes) for v in range(count)]
                    out, here = [], k.hidden(at)  # see `Packing.pack_transposed`
                    for r in range(rows):
                        element = k.splat(k.load(k.offset(starts[r], here), dtype))
                        out += [k.fma(element, bs[v], tile[r * count + v]) for v in range(count)]
                    return [k.offset(g, count * self.vector_bytes), at + x_column, *out]

                g, _, *sums = k.loop(0, columns, 1, point, [g, i * x_row, *tile])
                return [k.offset(g, skip), *sums]

            _, *tile = k.loop(0, lines, 1, line, [g, *tile])
            for value, place in zip(tile, places, strict=True):
                k.store(value, place)
            k.ret()
            k.finish()
        self._table("grads", kernels, "grad")

    def turn(self) -> None:
        """`turn(g, gt, g_plane, rows, steps, stride)`: the transpose of some images of g."""
        k, (g, gt, g_plane, rows, steps, stride) = self.function("turn", "g gt", "g_plane rows steps stride")
        lanes, dtype = self.lanes, self.dtype
        last = steps - lanes

        def square(i: Value) -> None:
            i = k.where(i < last, i, last)  # the last one begins earlier

            def group(o: Value) -> None:
                o = k.hidden(o)
                place = k.at(k.offset(g, o * g_plane), i, dtype)
                loaded = []
                for r in range(lanes):
                    loaded.append(k.load(place, dtype, lanes))
                    place = k.offset(place, k.where(o + (r + 1) < rows, g_plane, 0))  # the last image again
                target = k.at(k.offset(gt, i * stride), o, dtype)
                for value in transpose(k, loaded):
                    k.store(value, target)
                    target = k.offset(target, stride)

            k.loop(0, rows, lanes, group)

        def few() -> None:
            k.call_known(
                "pack_transposed", None, g, gt, g_plane, k.const(self.size, "int64"), rows, rows, steps, stride
            )

        k.if_(last >= 0, lambda: k.loop(0, steps, lanes, square) and None, few)
        k.ret()
        k.finish()

    def gradient_unit(self) -> None:
        """The sums over some samples for some channels of one group: [taps][outputs] in packed memory."""
        k, job, begin, end, thread = self._task("gradient_units")
        f = Words(k, job["table"], GRADIENT)
        size, lanes, table = self.size, self.lanes, job["table"]
        most, widest = self.tiles.gradient
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        scratch = self._aligned(k, memory)
        gt = k.offset(scratch, f.gt_at)
        by_tap = k.ne(f.by_tap, 0)
        state, x_state = k.alloca(48), k.alloca(48)
        up = lambda a, by: k.op(f"udiv i64 {(a + (by - 1)).text}, {by if isinstance(by, int) else by.text}", "int64")

        def split(value: Value, by: Value) -> tuple[Value, Value]:
            quotient = k.op(f"udiv i64 {value.text}, {by.text}", "int64")
            return quotient, value - quotient * by

        def expect(state: Value, start: Value, planes: Value, plane: Value, lines: Value, calls: Value) -> None:
            """Some cache lines of planes shall come near during so many calls of `ahead`."""
            some = lines * planes
            k.store(start, state)
            for i, value in enumerate((lines, some, plane - (lines - 1) * LINE, lines, up(some, calls))):
                k.store(value, k.at(state, i + 1, "int64"))

        def one(u: Value) -> None:
            rest, part = split(u, f.parts)
            chunk, group = split(rest, f.groups)
            c0 = part * f.part
            left = f.channels - c0
            channels = k.where(left < f.part, left, f.part)
            sums = k.offset(job["packed"], ((chunk * f.groups + group) * f.channels + c0) * f.taps * f.wide)
            clear = channels * f.taps_d * f.plane
            piece, cut = split(chunk, f.cuts)  # some samples, and some of their rows
            h0, h1 = (k.op(f"udiv i64 {(c * f.h_n).text}, {f.cuts.text}", "int64") for c in (cut, cut + 1))
            n0 = piece * f.chunk
            n1 = n0 + f.chunk
            n1 = k.where(n1 < f.samples, n1, f.samples)
            # Tiles of about equal heights: of channels, for every tap anew, or of channels times taps.
            rows_all = k.where(by_tap, channels, channels * f.taps)
            panels = up(rows_all, most)
            low = k.op(f"udiv i64 {rows_all.text}, {panels.text}", "int64")
            longer = rows_all - panels * low
            times = k.where(by_tap, f.taps, 1)
            between = times * f.wide  # from one row of a tile's sums to the next

            def tiles(
                x: Value, g: Value, to: Value, width: Value, lines: Value, columns: Value, line: Value, skip: Value,
                first: Value,
            ) -> None:
                """All rows for one block of outputs."""

                def panel(p: Value) -> None:
                    height = low + k.cast(p < longer, "int64")
                    above = p * low + k.where(p < longer, p, longer)
                    kernel = k.load(k.at(k.symbol("@grads"), height * 4 + width, "ptr"), "ptr")
                    k.call_address(
                        kernel, x, k.at(table, f.off_at + above, "int64"), g, k.offset(to, above * between), lines,
                        columns, line * f.h_step, f.w_step * size, between, skip, first,
                    )
                    k.call_known("ahead", None, state)
                    k.if_(by_tap, lambda: k.call_known("ahead", None, x_state))

                k.loop(0, panels, 1, panel)

            def sample(n: Value) -> None:
                x = k.offset(job["x"], ((n * f.groups + group) * f.channels + c0) * f.x_plane)
                g = k.offset(job["w"], (n * f.groups + group) * f.outputs * f.g_plane)

                def slab(t: Value) -> None:
                    def band(row: Value) -> None:
                        left = h1 - row
                        rows = k.where(left < f.band, left, f.band)
                        first = k.cast(k.eq(n, n0) & k.eq(t, 0) & k.eq(row, h0), "int64")
                        columns = k.op(f"udiv i64 {f.row.text}, {size}", "int64")
                        line = f.x_w * size
                        below = row + f.band < h1

                        def copy() -> None:
                            no, step = k.const(False, "bool"), k.const(1, "int64")
                            k.call("llvm.memset.p0.i64", None, scratch, k.const(0, "uint8"), clear, no)
                            held = (rows - 1) * f.h_step + f.kept

                            def tap(d: Value) -> None:
                                depth = t * f.t_step + k.load(k.at(table, f.d_at + d, "int64"), "int64")
                                within = lambda: k.call_known(
                                    "pad", None, k.offset(x, depth * f.x_slice), k.offset(scratch, d * f.plane),
                                    channels, f.x_plane, f.taps_d * f.plane, held, f.row, columns,
                                    f.h_start + row * f.h_step, f.w_start, step, step, f.x_h, f.x_w,
                                )
                                k.if_((depth >= 0) & (depth < f.d_n), within)

                            k.loop(0, f.taps_d, 1, tap)

                        def come_x() -> None:
                            """What is read next of x comes near."""
                            down = f.band * f.h_step * line
                            beyond = f.groups * f.channels * f.x_plane + h0 * f.h_step * line
                            on = k.where(below, row * f.h_step * line + down, beyond)
                            lines = k.where(below | (n + 1 < n1), up(down, LINE), 0)
                            blocks = up(f.outputs, widest * lanes)
                            expect(x_state, k.offset(x, on), channels, f.x_plane, lines, blocks * times * panels)

                        k.if_(by_tap, come_x, copy)
                        points = rows * f.w_n
                        source = k.offset(g, t * f.g_slice + row * f.w_n * size)

                        def come(o: Value) -> None:
                            """What is transposed next comes near during the products."""
                            o = o + widest * lanes
                            down, right = f.band * f.w_n * size, k.where(o < f.outputs, o, 0) * f.g_plane
                            beyond = f.groups * f.outputs * f.g_plane - (row - h0) * f.w_n * size
                            on = k.where(below, down, beyond)
                            on = k.where(o < f.outputs, 0, on)
                            left = f.outputs - k.where(o < f.outputs, o, 0)
                            planes = k.where(left < widest * lanes, left, widest * lanes)
                            planes = k.where((o < f.outputs) | below | (n + 1 < n1), planes, 0)
                            expect(
                                state, k.offset(source, on + right), planes, f.g_plane, up(points * size, LINE),
                                times * panels,
                            )

                        def outputs(o: Value) -> None:
                            come(o)
                            left = f.outputs - o
                            count = k.where(left < widest * lanes, left, widest * lanes)
                            vectors = up(count, lanes)
                            width = k.where(count > lanes // 2, vectors, 0) if lanes >= 8 else vectors
                            g_point = vectors * self.vector_bytes
                            k.call_known(
                                "turn", None, k.offset(source, o * f.g_plane), gt, f.g_plane, count, points, g_point
                            )
                            to = k.at(sums, o, self.dtype)

                            def tap(i: Value) -> None:
                                place = k.at(table, f.taps_at + i * len(TAP), "int64")
                                at = dict(zip(TAP, (k.load(k.at(place, j, "int64"), "int64") for j in range(len(TAP)))))
                                depth = t * f.t_step + at["depth"]
                                r0 = k.where(at["h0"] > row, at["h0"], row)
                                r1 = k.where(at["h1"] < row + rows, at["h1"], row + rows)
                                some = (r0 < r1) & (at["w0"] < at["w1"]) & (depth >= 0) & (depth < f.d_n)
                                lines, columns = k.where(some, r1 - r0, 0), at["w1"] - at["w0"]
                                start = depth * f.x_slice + (r0 * f.h_step + at["h"]) * line
                                start += (at["w0"] * f.w_step + at["w"]) * size
                                before = ((r0 - row) * f.w_n + at["w0"]) * g_point
                                call = lambda: tiles(
                                    k.offset(x, start), k.offset(gt, before), k.offset(to, i * f.wide), width, lines,
                                    columns, line, (f.w_n - columns) * g_point, first,
                                )
                                k.if_(some | k.ne(first, 0), call)

                            zero = k.const(0, "int64")
                            k.if_(
                                by_tap,
                                lambda: k.loop(0, f.taps, 1, tap) and None,
                                lambda: tiles(scratch, gt, to, width, rows, f.w_n, f.row, zero, first),
                            )

                        k.loop(0, f.outputs, widest * lanes, outputs)

                    k.loop(h0, h1, f.band, band)

                k.loop(0, f.t_n, 1, slab)

            k.loop(n0, n1, 1, sample)

        k.loop(begin, end, 1, one)
        k.call_known("give", None, memory, thread)
        k.ret()
        k.finish()

    def gradient_sum(self) -> None:
        """The sums of all chunks, for as many taps of a group as a vector has lanes, to dw [outputs][taps]."""
        k, job, begin, end, _ = self._task("gradient_sum")
        f = Words(k, job["table"], GRADIENT)
        lanes, dtype = self.lanes, self.dtype
        steps = f.channels * f.taps
        between = f.groups * steps * f.wide
        blocks = k.op(f"udiv i64 {(steps + (lanes - 1)).text}, {lanes}", "int64")
        buffer = k.alloca(lanes * self.vector_bytes)

        def block(i: Value) -> None:
            group = k.op(f"udiv i64 {i.text}, {blocks.text}", "int64")
            first = (i - group * blocks) * lanes
            left = steps - first
            left = k.where(left < lanes, left, lanes)
            partial = k.partial(left)
            source = k.offset(job["packed"], (group * steps + first) * f.wide)
            target = k.at(job["out"], group * f.outputs * steps + first, dtype)

            def outputs(o: Value) -> None:
                rows, o = [], k.hidden(o)
                place = k.at(source, o, dtype)
                for r in range(lanes):
                    total = k.loop(
                        1, f.chunks, 1,
                        lambda c, s, at=place: [s + k.load(k.offset(at, c * between), dtype, lanes)],
                        [k.load(place, dtype, lanes)],
                    )
                    rows += total
                    place = k.offset(place, k.where(left > r + 1, f.wide, 0))  # the last tap again
                for e, value in enumerate(transpose(k, rows)):
                    k.store(value, k.offset(buffer, e * self.vector_bytes))
                rest = f.outputs - o

                def row(e: Value) -> None:
                    value = k.load(k.offset(buffer, e * self.vector_bytes), dtype, lanes)
                    to = k.at(target, (o + e) * steps, dtype)
                    k.if_(left >= lanes, lambda: k.store(value, to), lambda: partial.store(value, to))

                k.loop(0, k.where(rest < lanes, rest, lanes), 1, row)

            k.loop(0, f.outputs, lanes, outputs)

        k.loop(begin, end, 1, block)
        k.ret()
        k.finish()

    def gradient(self) -> None:
        """`gradient(out, x, g, bias, table)`; there is no bias."""
        k, arguments = self._entry("gradient")
        f = Words(k, arguments[-1], GRADIENT)
        slot = k.const(1024, "int64")
        memory = k.call_known("take", "ptr", slot, f.packed_size)
        job = k.alloca(8 * len(JOB), 64)
        for i, value in enumerate([*arguments, self._aligned(k, memory)]):
            k.store(value, k.at(job, i, "ptr"))

        def work() -> None:
            self._share(k, "gradient_units", job, f.chunks * f.groups * f.parts, f.alone)
            blocks = k.op(f"udiv i64 {(f.channels * f.taps + (self.lanes - 1)).text}, {self.lanes}", "int64")
            self._share(k, "gradient_sum", job, f.groups * blocks, f.alone)

        work()
        k.call_known("give", None, memory, slot)
        k.ret()
        k.finish()

    # -- the interface: (out, x, w, bias, table, whether there is a bias)

    def interface(self, what: str) -> None:
        """`check` and `run` for `call.bind`."""
        call.emit_sizes_check(self.module, "convolution")
        k, (slots, sizes) = self.function("run", "slots sizes", "", call.native_calls)
        out, x, w, bias, table = (k.load(k.at(slots, i, "ptr"), "ptr") for i in range(5))
        has_bias = k.ne(k.load(k.at(slots, 5, "int64"), "int64"), 0)
        (bias,) = k.if_(has_bias, lambda: [bias], lambda: [k.const(0, "ptr")])
        k.call_known(what, None, out, x, w, bias, table)
        k.ret()
        k.finish()
