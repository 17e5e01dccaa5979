"""Convolutions of which each channel has a kernel of its own, and their gradients: plans and native code.

The plane of a channel is copied with its padding, in phases where there is a stride, to where it stays in the cache.
Then a tap is a shift of the address, and results are made in tiles of rows by vectors of a row, from any kernel size:

    y[row, v] = sum over taps of w[tap] * x[offset[tap] + row, v]

The last vector of a row begins where it ends with the row. Gradients of weights are the same sums over rows and
vectors instead, a few taps at a time, one channel after another over all samples.
"""

from __future__ import annotations

import functools
from math import prod
from typing import Any, Sequence

import numpy as np

from agog.compiler import call, jit, pool
from agog.compiler.conv_gradients import PARAMETERS, Gradients
from agog.compiler.conv_kernels import LINE, Tiles, Words
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import Target

__all__ = ["NAMES", "code", "forward_table", "gradient_table", "later"]

NAMES = ("depthwise", "depthwise_gradient")  # of the functions
_COPY = "planes channels x_plane x_h x_w y_plane row columns held plane area phases phase_at h_step w_step"
HEAD = f"out_size x_size w_size bias_size {_COPY} scratch_size temp_at subs grain alone".split()
SUB = "taps off_at w_at h_n w_n y_start y_h y_w x_row dense".split()
GRADIENT = f"out_size x_size w_size bias_size {_COPY} scratch_size sums_at h_n w_n taps off_at x_row alone".split()

_ROWS, _VECTORS, _TAPS = 4, 3, 8  # of a tile; taps of a gradient at once
_LARGEST = 1 << 20  # bytes of a copied plane
_PARALLEL, _GRAIN = 1 << 15, 1 << 13  # multiplications, results


# -------------------------------------------------------------------------------------------------------------- plans
def _copied(case: Any, subs: Sequence[Any]) -> Any:
    """How planes are copied: (fields, offsets of every sub's taps), or None for what is not done here."""
    size, places = case.size, case.x[2:]
    if places[0] != 1 or any(s.count[0] != 1 or any(at[0] for _, at in s.taps) for s in subs):
        return None
    move = subs[0].move
    keys: dict[tuple[int, int], list[int]] = {}
    for s in subs:
        for _, at in s.taps:
            low = keys.setdefault((at[1] % move[1], at[2] % move[2]), [at[1], at[2]])
            low[0], low[1] = min(low[0], at[1]), min(low[1], at[2])
    if not keys:
        return None
    order = list(keys)
    held = columns = 1
    shifts = []
    for s in subs:
        mine = []
        for _, at in s.taps:
            key = at[1] % move[1], at[2] % move[2]
            h, w = ((a - b) // m for a, b, m in zip(at[1:], keys[key], move[1:]))
            mine.append((order.index(key), h, w))
            held, columns = max(held, s.count[1] + h), max(columns, s.count[2] + w)
        shifts.append(mine)
    row = columns * size
    plane = (-(-held * row // LINE) | 1) * LINE
    fields = {
        "channels": case.groups, "x_h": places[1], "x_w": places[2], "row": row, "columns": columns, "held": held,
        "plane": plane, "area": plane * len(order) + case.lanes * size, "phases": len(order), "h_step": move[1],
        "w_step": move[2], "x_plane": prod(places) * size, "planes": case.x[0] * case.groups,
    }
    if plane * len(order) > _LARGEST:
        return None
    return fields, [[p * plane + h * row + w * size for p, h, w in mine] for mine in shifts], list(keys.values())


def forward_table(case: Any, subs: Sequence[Any], shape: Any, bias: bool) -> np.ndarray | None:
    """The table of `depthwise` for a convolution, or the gradient of its input; None for what is not done here."""
    copied = _copied(case, subs)
    if copied is None:
        return None
    fields, offsets, origins = copied
    size, lanes = case.size, case.lanes
    base, numbers = len(HEAD) + len(SUB) * len(subs), []

    def array(values: Any) -> int:
        numbers.extend(values)
        return base + len(numbers) - len(values)

    y_row, results = shape[4] * size, prod(shape[3:])
    words = []
    for s, off in zip(subs, offsets):
        dense = s.step[2] == 1 and s.step[1] * y_row == s.count[2] * size
        words += _words(
            SUB, taps=len(off), off_at=array(off), w_at=array([i * size for i, _ in s.taps]), h_n=s.count[1],
            w_n=s.count[2], y_start=s.start[1] * y_row + s.start[2] * size, y_h=s.step[1] * y_row,
            y_w=s.step[2] * size, x_row=fields["row"], dense=dense,
        )
    temp_at = -(-fields["area"] // LINE) * LINE + lanes * size
    head = _words(
        HEAD, out_size=prod(shape) * size, x_size=prod(case.x) * size, w_size=prod(case.w) * size,
        bias_size=case.groups * size if bias else 0, y_plane=results * size,
        phase_at=array([n for origin in origins for n in origin]), temp_at=temp_at,
        scratch_size=temp_at + (_ROWS * _VECTORS + 2) * lanes * size, subs=len(subs),
        grain=max(1, _GRAIN // (results * prod(case.w[2:]))),
        alone=prod(shape) * prod(case.w[2:]) < _PARALLEL, **fields,
    )
    return np.array([*head, *words, *numbers], np.int64)


def gradient_table(case: Any, sub: Any) -> np.ndarray | None:
    """The table of `depthwise_gradient`; `case.w` is the shape of g, and `sub` the convolution."""
    copied = _copied(case, [sub])
    if copied is None:
        return None
    fields, (off,), origins = copied
    size, base = case.size, len(GRADIENT)
    sums_at = -(-fields["area"] // LINE) * LINE
    head = _words(
        GRADIENT, out_size=case.groups * len(off) * size, x_size=prod(case.x) * size, w_size=prod(case.w) * size,
        bias_size=0, y_plane=prod(sub.count) * size, phase_at=base + len(off), sums_at=sums_at,
        scratch_size=sums_at + len(off) * case.lanes * size, h_n=sub.count[1], w_n=sub.count[2], taps=len(off),
        off_at=base, x_row=fields["row"], alone=prod(case.w) * len(off) < _PARALLEL, **fields,
    )
    return np.array([*head, *off, *(n for origin in origins for n in origin)], np.int64)


def _words(names: Sequence[str], **values: int) -> list[int]:
    assert len(values) == len(names), set(names) ^ set(values)
    return [int(values[name]) for name in names]


# -------------------------------------------------------------------------------------------------------- native code
def later(dtype: str, target: Target, what: str) -> jit.Later:
    """The one object of "depthwise" or "depthwise_gradient", for eager work and for programs."""
    module = jit.Later(f"{what} {dtype}", target, lambda: build(dtype, target, what))
    return call.with_builtin(module, PARAMETERS)


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """The function "depthwise" of (out, x, w, bias or null, table), for other native code."""
    return jit.load(later(dtype, target, "depthwise"), ["depthwise"], pool.imports)


def build(dtype: str, target: Target, what: str) -> Module:
    """The module of one dtype."""
    module = Module(target)
    writer = _Writer(module, dtype)
    writer.pad()
    writer.scratch()
    if what == "depthwise":
        writer.kernels()
        writer.planes()
        writer.depthwise()
    else:
        writer.sums()
        writer.channels()
        writer.depthwise_gradient()
    writer.interface(what)
    return module


class _Writer(Gradients):
    def _sizes(self) -> list[tuple[int, int]]:
        most = self._most()
        return [(r, v) for r, v in Tiles.upto((_ROWS, _VECTORS)) if r * v <= most]

    def _most(self) -> int:
        """Vectors of a tile."""
        return 16 if self.target.registers >= 32 else 8

    def kernels(self) -> None:
        """`taps_R_V(x, w, b, y, off, at, taps, x_row, y_row, last, count, room)`: R rows of V vectors of results.

        The last vector is `last` bytes after the first. Of a single one, `count` elements are results; as long as there
        are `room` bytes of results from here on, the others may be overwritten: they are made later.
        """
        dtype, lanes, size = self.dtype, self.lanes, self.size
        for rows, vectors in self._sizes():
            k, (x, w, b, y, off, at, taps, x_row, y_row, last, count, room) = self.function(
                f"taps_{rows}_{vectors}", "x w b y off at", "taps x_row y_row last count room"
            )
            place = lambda p, v: k.offset(p, last if v == vectors - 1 else v * self.vector_bytes)
            start = k.splat(k.load(b, dtype))
            lines = [k.offset(x, x_row * r) for r in range(rows)]

            def tap(t: Value, *tile: Value) -> list[Value]:
                shift = k.load(k.at(off, t, "int64"), "int64")
                weight = k.splat(k.load(k.offset(w, k.load(k.at(at, t, "int64"), "int64")), dtype))
                out: list[Value] = []
                for r in range(rows):
                    line = k.offset(lines[r], shift)
                    for v in range(vectors):
                        out.append(k.fma(weight, k.load(place(line, v), dtype, lanes), tile[len(out)]))
                return out

            tile = k.loop(0, taps, 1, tap, [start] * (rows * vectors))
            partial = k.partial(count) if vectors == 1 else None
            for i, value in enumerate(tile):
                r, v = divmod(i, vectors)
                to = place(k.offset(y, y_row * r), v)
                if partial is None:
                    k.store(value, to)
                else:
                    k.if_(
                        room - y_row * r >= lanes * size,
                        lambda: k.store(value, to), lambda: partial.store(value, to),
                    )
            k.ret()
            k.finish()
        self._table("taps", self._sizes(), "taps")

    def _copy(self, k: Kernel, f: Any, table: Value, source: Value, scratch: Value) -> None:
        """A plane with its padding, in phases."""
        one, zero = k.const(1, "int64"), k.const(0, "int64")

        def phase(p: Value) -> None:
            at = k.at(table, f.phase_at + p * 2, "int64")
            h, w = k.load(at, "int64"), k.load(k.at(at, 1, "int64"), "int64")
            k.call_known(
                "pad", None, source, k.offset(scratch, p * f.plane), one, zero, zero, f.held, f.row, f.columns, h, w,
                f.h_step, f.w_step, f.x_h, f.x_w,
            )

        k.loop(0, f.phases, 1, phase)

    def _clear(self, k: Kernel, memory: Value, size: Value) -> None:
        k.call("llvm.memset.p0.i64", None, memory, k.const(0, "uint8"), size, k.const(False, "bool"))

    def planes(self) -> None:
        """Some planes of results."""
        k, job, begin, end, thread = self._task("planes")
        table = job["table"]
        f = Words(k, table, HEAD)
        dtype, lanes, size = self.dtype, self.lanes, self.size
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        scratch = self._aligned(k, memory)
        temp = k.offset(scratch, f.temp_at)
        nothing = k.alloca(size)
        k.store(k.const(0.0, dtype), nothing)
        self._clear(k, scratch, f.area)

        def divided(a: Value, b: Value | int) -> Value:
            return k.op(f"udiv i64 {a.text}, {b.text if isinstance(b, Value) else b}", "int64")

        def plane(p: Value) -> None:
            channel = p - divided(p, f.channels) * f.channels
            self._copy(k, f, table, k.offset(job["x"], p * f.x_plane), scratch)
            (b,) = k.if_(k.ne_null(job["bias"]), lambda: [k.at(job["bias"], channel, dtype)], lambda: [nothing])
            weights = divided(f.w_size, f.channels)
            w = k.offset(job["w"], channel * weights)

            def sub(i: Value) -> None:
                s = Words(k, k.at(table, i * len(SUB) + len(HEAD), "int64"), SUB)
                y = k.offset(job["out"], p * f.y_plane + s.y_start)
                off, at = k.at(table, s.off_at, "int64"), k.at(table, s.w_at, "int64")
                all_vectors = divided(s.w_n + (lanes - 1), lanes)
                tiles = divided(all_vectors + (_VECTORS - 1), _VECTORS)
                low = divided(all_vectors, tiles)
                longer = all_vectors - tiles * low
                narrow = s.w_n < lanes
                near = k.eq(s.y_w, size)

                def tile(j: Value) -> None:
                    vectors = low + k.cast(j < longer, "int64")
                    first = (j * low + k.where(j < longer, j, longer)) * lanes
                    last, edge = (vectors - 1) * lanes, s.w_n - lanes - first
                    last = k.where(narrow, 0, k.where(last < edge, last, edge)) * size
                    most = divided(k.const(self._most(), "int64"), vectors)
                    most = k.where(most < _ROWS, most, _ROWS)

                    def rows(r: Value) -> None:
                        left = s.h_n - r
                        some = k.where(left < most, left, most)
                        kernel = k.load(k.at(k.symbol("@taps"), some * 4 + vectors, "ptr"), "ptr")
                        line, to = k.at(k.offset(scratch, r * s.x_row), first, dtype), k.offset(y, r * s.y_h)
                        room = f.y_plane - (r * s.y_h + first * size)
                        room = k.where(narrow & k.eq(s.dense, 0), 0, k.where(narrow, room, 1 << 60))

                        def straight() -> None:
                            k.call_address(
                                kernel, line, w, b, k.at(to, first, dtype), off, at, s.taps, s.x_row, s.y_h, last,
                                s.w_n, room,
                            )

                        def apart() -> None:
                            temp_row = k.const(_VECTORS * self.vector_bytes, "int64")
                            k.call_address(
                                kernel, line, w, b, temp, off, at, s.taps, s.x_row, temp_row, last, s.w_n,
                                k.const(1 << 60, "int64"),
                            )
                            count = s.w_n - first
                            count = k.where(count < vectors * lanes, count, vectors * lanes)

                            def one_row(i: Value) -> None:
                                source = k.offset(temp, i * temp_row)
                                target = k.offset(to, i * s.y_h + first * s.y_w)
                                one = lambda c: k.store(
                                    k.load(k.at(source, c, dtype), dtype), k.offset(target, c * s.y_w)
                                )
                                k.loop(0, count, 1, one)

                            k.loop(0, some, 1, one_row)

                        k.if_(near, straight, apart)

                    k.loop(0, s.h_n, most, rows)

                k.loop(0, tiles, 1, tile)

            k.loop(0, f.subs, 1, sub)

        k.loop(begin, end, 1, plane)
        k.call_known("give", None, memory, thread)
        k.ret()
        k.finish()

    def _start(self, what: str, task: str, names: Sequence[str], count: Any, grain: Any) -> None:
        """The exported function: a task over all that there are."""
        k, arguments = self._entry(what)
        f = Words(k, arguments[-1], names)
        job = k.alloca(64, 64)
        for i, value in enumerate([*arguments, arguments[-1], arguments[-1]]):
            k.store(value, k.at(job, i, "ptr"))
        k.if_(
            k.ne(f.alone, 0),
            lambda: k.call_known(task, None, job, k.const(0, "int64"), count(f), k.const(0, "int32")),
            lambda: k.call(pool.SYMBOL, None, k.symbol(f"@{task}"), job, count(f), grain(k, f)),
        )
        k.ret()
        k.finish()

    def depthwise(self) -> None:
        """`depthwise(out, x, w, bias, table)`."""
        self._start("depthwise", "planes", HEAD, lambda f: f.planes, lambda k, f: f.grain)

    def sums(self) -> None:
        """`sums_T(x, g, sums, off, rows, columns, x_row)`: sums[t] += x[off[t] + p] g[p] by lanes, for T taps."""
        dtype, lanes = self.dtype, self.lanes
        for taps in range(1, _TAPS + 1):
            k, (x, g, sums, off, rows, columns, x_row) = self.function(
                f"sums_{taps}_1", "x g sums off", "rows columns x_row"
            )
            starts = [k.offset(x, k.load(k.at(off, t, "int64"), "int64")) for t in range(taps)]
            places = [k.offset(sums, t * self.vector_bytes) for t in range(taps)]
            whole = k.bitwise_and(columns, -lanes)
            left = columns - whole
            partial = k.partial(left)
            mask = k.iota("int32") < k.splat(k.cast(left, "int32"))

            def row(r: Value, *sums: Value) -> list[Value]:
                line = k.at(g, r * columns, dtype)

                def vector(j: Value, *sums: Value) -> list[Value]:
                    at, value = r * x_row + j * self.size, k.load(k.at(line, j, dtype), dtype, lanes)
                    return [k.fma(value, k.load(k.offset(p, at), dtype, lanes), s) for p, s in zip(starts, sums)]

                done = k.loop(0, whole, lanes, vector, sums)

                def rest() -> list[Value]:
                    at, value = r * x_row + whole * self.size, partial.load(k.at(line, whole, dtype), dtype)
                    return [
                        k.where(mask, k.fma(value, k.load(k.offset(p, at), dtype, lanes), s), s)
                        for p, s in zip(starts, done)
                    ]

                return list(k.if_(left > 0, rest, lambda: done))

            tile = k.loop(0, rows, 1, row, [k.load(p, dtype, lanes) for p in places])
            for value, place in zip(tile, places, strict=True):
                k.store(value, place)
            k.ret()
            k.finish()
        self._table("sums", [(t, 1) for t in range(1, _TAPS + 1)], "sums")

    def channels(self) -> None:
        """The gradients of some channels' weights."""
        k, job, begin, end, thread = self._task("channels")
        table = job["table"]
        f = Words(k, table, GRADIENT)
        dtype, lanes = self.dtype, self.lanes
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        scratch = self._aligned(k, memory)
        sums = k.offset(scratch, f.sums_at)
        self._clear(k, scratch, f.area)
        parts = k.op(f"udiv i64 {(f.taps + (_TAPS - 1)).text}, {_TAPS}", "int64")
        low = k.op(f"udiv i64 {f.taps.text}, {parts.text}", "int64")
        longer = f.taps - parts * low

        def channel(c: Value) -> None:
            self._clear(k, sums, f.taps * self.vector_bytes)

            def plane(p: Value) -> None:
                self._copy(k, f, table, k.offset(job["x"], p * f.x_plane), scratch)
                g = k.offset(job["w"], p * f.y_plane)

                def part(i: Value) -> None:
                    taps, first = low + k.cast(i < longer, "int64"), i * low + k.where(i < longer, i, longer)
                    kernel = k.load(k.at(k.symbol("@sums"), taps * 4 + 1, "ptr"), "ptr")
                    k.call_address(
                        kernel, scratch, g, k.offset(sums, first * self.vector_bytes),
                        k.at(table, f.off_at + first, "int64"), f.h_n, f.w_n, f.x_row,
                    )

                k.loop(0, parts, 1, part)

            k.loop(c, f.planes, f.channels, plane)

            def tap(t: Value) -> None:
                at = k.offset(sums, t * self.vector_bytes)
                add = lambda i, total: [total + k.load(k.at(at, i, dtype), dtype)]
                (total,) = k.loop(0, lanes, 1, add, [k.const(0.0, dtype)])
                k.store(total, k.at(job["out"], c * f.taps + t, dtype))

            k.loop(0, f.taps, 1, tap)

        k.loop(begin, end, 1, channel)
        k.call_known("give", None, memory, thread)
        k.ret()
        k.finish()

    def depthwise_gradient(self) -> None:
        """`depthwise_gradient(out, x, g, bias, table)`; there is no bias."""
        self._start(
            "depthwise_gradient", "channels", GRADIENT, lambda f: f.channels, lambda k, f: k.const(1, "int64")
        )
