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
from agog.compiler.conv_gradient_units import GRADIENT, Unit
from agog.compiler.conv_kernels import Writer
from agog.compiler.conv_tables import JOB, Tiles, Words
from agog.compiler.ir import Module, Value
from agog.compiler.packing import transpose
from agog.compiler.targets import Target

__all__ = ["PARAMETERS", "Gradients", "build", "code", "later"]

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
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        unit = Unit(self, k, f, job, self._aligned(k, memory))
        k.loop(begin, end, 1, unit.all)
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
