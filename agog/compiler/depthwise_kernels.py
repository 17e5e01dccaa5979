"""The native code of convolutions of which each channel has a kernel of its own; it follows tables of `depthwise`.

A tile is up to fourteen rows of results by one vector of a row, in registers. A *strip* is those taps of one column of
the kernel that read adjacent rows: each row of the input is loaded once for all rows of results that it has a part in.

    y[r, v] = sum over strips s, rows i = r + a of w[s, a] x[s][i, v]

Where the machine masks memory accesses, the input is read where it is: rows that do not exist are skipped, columns that
do not exist are zeros of a masked load, and with a stride of two columns are picked from two vectors. Elsewhere a plane
is copied with its padding, in phases where there is a stride, to where it stays in the cache.

In the gradient of the input with a stride of two, a tile is of two vectors a row, whose results take turns in memory.
Gradients of weights go the same way, with rows of g in registers, and a vector of sums for every tap.

A single row is walked as if its vectors were rows: a strip is of taps side by side. A tile is made for some planes at
once, where they are small.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Sequence

from agog.compiler import pool
from agog.compiler.conv_gradients import Gradients
from agog.compiler.conv_tables import Words
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import shuffle
from agog.compiler.targets import Target

__all__ = ["GRADIENT", "HEAD", "STRIP", "SUB", "TILE", "Shapes", "Writer"]

#: Words of tables, as in `conv_tables`.
_COPY = (
    "samples channels together x_plane x_h x_w y_plane copied row columns held plane area phases phase_at h_step w_step"
)
HEAD = f"out_size x_size w_size bias_size {_COPY} scratch_size temp_at subs grain alone".split()
SUB = "strips strips_at tiles tiles_at pitch across x_step y_start y_h y_w w_n how dense ahead".split()
GRADIENT = (
    f"out_size x_size w_size bias_size {_COPY} scratch_size sums_at strips strips_at tiles tiles_at pitch across "
    "x_step g_row w_n ahead taps taps_at alone"
).split()
#: Of a strip: where x begins, the first row and how many the input has, the first column; where its weights are, how
#: far one lies from the next, and those of the next column from these; its kind; the number of its first sum.
STRIP = "x row rows column w w_step w_next kind first".split()
#: Of a tile: its first row and column, its kernel, its rows, and how many lanes an earlier tile has had.
TILE = "row column kernel rows had".split()
#: How results of a row follow each other: as columns of x do, as every other does, or two for each column; or there is
#: but one row, whose vectors are what rows are elsewhere. And of which columns of taps there are strips of each height.
#: Of three, x and its column are those of the second; in one row, taps of a strip are `w_next` of x apart.
EACH, OTHER, TURNS, LONG = "each", "other", "turns", "long"
COLUMNS: dict[str, list[tuple[int, ...]]] = {
    EACH: [(0,)], OTHER: [(0,), (0, 1), (0, 1, 2)], TURNS: [(0,), (1,), (0, 1)], LONG: [(0,)],
}
#: Where results of a sub go: side by side, two columns in turns, or one by one.
STRAIGHT, IN_TURNS, APART = range(3)
_EVER = 1 << 60


class Shapes:
    """Which kernels there are for a machine: (how, lanes), each for some numbers of rows."""

    def __init__(self, target: Target, dtype: str) -> None:
        lanes = target.lanes(dtype)
        self.in_place = target.masked
        lengths = [lanes, lanes // 2] if self.in_place else [lanes]
        # Those that gradients of weights have come first, so that a kernel's number is the same there.
        ways = {EACH: lengths, OTHER: lengths if self.in_place else [], LONG: [lanes], TURNS: lengths}
        self.kinds = [(how, n) for how, some in ways.items() for n in some]
        self._few = target.registers < 32

    def rows(self, how: str, lanes: int) -> tuple[int, ...]:
        """How many rows tiles may have, the most first."""
        if how == LONG:
            return (8, 4, 2, 1) if self._few else (16, 8, 4, 2, 1)
        if how != EACH:
            return (4, 2, 1) if how == TURNS and self._few else (7, 4, 2, 1)
        return (14, 8, 7, 4, 2, 1) if lanes == self.kinds[0][1] and not self._few else (8, 7, 4, 2, 1)

    @staticmethod
    def heights(how: str) -> tuple[int, ...]:
        """How high strips may be, the highest first: kernels of odd sizes, and every other of their rows."""
        return {EACH: (7, 5, 3, 2, 1), LONG: (4, 3, 2, 1)}.get(how, (3, 2, 1))

    def lanes(self, width: int) -> int:
        """The lanes of tiles of rows that are as long as this."""
        return min((n for _, n in self.kinds if n >= width), default=self.kinds[0][1])

    def kernels(self, ways: Sequence[str]) -> list[tuple[str, int, int]]:
        """(how, lanes, rows) of all kernels, in the order of their table."""
        return [(how, n, rows) for how, n in self.kinds if how in ways for rows in self.rows(how, n)]


class Writer(Gradients):
    """Writes the functions of one dtype."""

    def __init__(self, module: Module, dtype: str) -> None:
        super().__init__(module, dtype)
        self.shapes = Shapes(module.target, dtype)

    # -- tiles

    def _kernels(
        self, name: str, ways: Sequence[str], pointers: str, numbers: str, write: Callable[[Kernel, str, int], None]
    ) -> None:
        """A function for each kernel there is, and the table of them."""
        arguments = [(n, "ptr") for n in pointers.split()] + [(n, "int64") for n in numbers.split()]
        words = []
        for how, lanes, rows in self.shapes.kernels(ways):
            k = Kernel(self.module, f"{name}_{how}_{lanes}_{rows}", arguments, None, lanes, internal=True)
            write(k, how, rows)
            k.ret()
            k.finish()
            words.append(f"ptr @{k.name}")
        self.module.globals[name] = f"@{name} = internal constant [{len(words)} x ptr] [{', '.join(words)}]"

    def _strip(
        self, k: Kernel, how: str, rows: int, place: Value, arguments: Sequence[Value], case: Any, wanted: Any = None
    ) -> Any:
        """A strip of a tile, whatever its kind; the result is that of `case`.

        arguments : x where the tile begins; the tile's first row and column; from one row of x to the next; columns
        case : for the strip's words, its height and columns: (sums, terms, finish). terms(a, r, c) are the number of
            a sum and what x is multiplied by for it; finish(sums) makes the result.
        wanted : lanes; the others of x are zero
        """
        x, row, column, pitch, across = arguments
        f = Words(k, place, STRIP)
        source, first, limit = k.offset(x, f.x), f.row + row, k.cast(f.rows, "uint64")
        parts = 2 if how == OTHER else 1
        masks: list[Value] = []
        if self.shapes.in_place and how != LONG:
            start, end = (k.splat(k.cast(v, "uint32")) for v in (f.column + column * parts, across))
            masks = [k.iota("uint32") + (start + p * k.lanes) < end for p in range(parts)]
            if wanted is not None and parts == 1:
                masks, wanted = [masks[0] & wanted], None
            # LLVM would compare again at every use.
            masks = [k.op(f"freeze {mask.typed}", "bool", k.lanes) for mask in masks]
        if how == OTHER:
            exists = k.cast(f.column + column * 2 - 1, "uint64") < k.cast(across, "uint64")
            before = k.iota("uint32", 4) < k.splat(k.cast(exists, "uint32"), 4)

        def load(i: int, columns: Sequence[int], tap: int) -> list[Value]:
            """A row of x, for each column of taps."""
            at = k.offset(source, pitch * i + f.w_next * tap if how == LONG else pitch * i)
            if not masks:
                values = [k.load(at, self.dtype, k.lanes)]
            else:
                values = [k.masked_load(k.at(at, p * k.lanes, self.dtype), m, self.dtype) for p, m in enumerate(masks)]
            if how == OTHER:
                a, b = values
                values = [shuffle(k, a, b, range(c, 2 * k.lanes, 2)) for c in range(min(2, len(columns)))]
            if len(columns) == 3:
                few = k.masked_load(k.at(at, -1, self.dtype), before, self.dtype)
                few = shuffle(k, few, few, [*range(4)] + [0] * (k.lanes - 4)) if k.lanes > 4 else few
                values.insert(0, shuffle(k, few, values[1], [0, *range(k.lanes, 2 * k.lanes - 1)]))
            values = values if wanted is None else [k.where(wanted, value, 0.0) for value in values]
            return values if how == OTHER else values * 2  # results that take turns are made of the same

        def one(i: int, pairs: Sequence[tuple[int, int, int]], sums: list[Value], terms: Any, columns: Any) -> None:
            """Multiply a row of x, if it exists, and add to the sums, for some (tap, row of the tile, column)."""
            touched = sorted({terms(*pair)[0] for pair in pairs})
            kept = [sums[j] for j in touched]

            def multiplied() -> list[Value]:
                loaded, made = load(i, columns, pairs[0][0]), dict(zip(touched, kept))
                for pair in pairs:
                    j, factor = terms(*pair)
                    made[j] = k.fma(factor, loaded[pair[2]], made[j])
                return [made[j] for j in touched]

            # A copy holds all rows.
            exists = k.cast(first + i, "uint64") < limit
            values = k.if_(exists, multiplied, lambda: kept) if self.shapes.in_place and how != LONG else multiplied()
            for j, value in zip(touched, values):
                sums[j] = value

        def whole(height: int, columns: Sequence[int]) -> Any:
            sums, terms, finish = case(f, height, columns)
            if how == LONG:
                for r, a in itertools.product(range(rows), range(height)):
                    one(r, [(a, r, 0)], sums, terms, columns)
                return finish(sums)
            for i in range(rows + height - 1):
                pairs = [(a, i - a, c) for c in columns for a in range(height) if 0 <= i - a < rows]
                one(i, pairs, sums, terms, columns)
            return finish(sums)

        kinds = [(h, c) for h in reversed(Shapes.heights(how)) for c in COLUMNS[how]]

        def choose(low: int, high: int) -> Any:
            if high - low == 1:
                return whole(*kinds[low])
            middle = (low + high) // 2
            return k.if_(f.kind < middle, lambda: choose(low, middle), lambda: choose(middle, high))

        return choose(0, len(kinds))

    def _come(
        self, k: Kernel, how: str, rows: int, x: Value, pitch: Value, ahead: Value, y: Value, y_row: Value, vectors: int
    ) -> None:
        """What the second tile below reads, and the next one's rows of y, come to the second level cache."""
        parts = 2 if how == OTHER else 1
        at, apart = k.offset(x, ahead + pitch * (2 * rows)), k.shift_right(pitch, parts - 1)
        for i in range(rows * parts):
            for p in range(parts):
                k.prefetch(k.at(k.offset(at, apart * i), p * k.lanes, self.dtype), 2)
        for r in range(rows):
            for v in range(vectors):
                k.prefetch(k.at(k.offset(y, y_row * (rows + r)), v * k.lanes, self.dtype), 2)

    def rows(self) -> None:
        """`rows(x, w, b, y, strips, count, row, column, pitch, across, y_row, left, room, planes, ...)`: a tile.

        It is made for as many planes; the last numbers are from one to the next of x, y, w and b. `left` results of a
        row are wanted. As long as there are `room` bytes of results from here on, what comes after them may be
        overwritten: what belongs there is made later.
        """

        def write(k: Kernel, how: str, rows: int) -> None:
            strips, count, row, column, pitch, across, y_row, left, room, ahead, planes, *steps = k.arguments[4:]
            dtype, lanes = self.dtype, k.lanes
            vectors = 2 if how == TURNS else 1
            ends = []
            for v in range(vectors):
                rest = left - v * lanes
                some = k.where(rest < 0, 0, k.where(rest < lanes, rest, lanes))
                ends.append((k.eq(some, lanes), k.partial(some)))

            def plane(_: Value, x: Any, w: Any, b: Any, y: Any) -> list[Value]:
                def strip(_: Value, place: Any, *tile: Value) -> Any:
                    def case(f: Words, height: int, columns: Sequence[int]) -> Any:
                        weights = {}
                        for i, c in enumerate(columns):
                            at = k.offset(w, f.w + f.w_next * i)
                            for a in range(height):
                                weights[a, c] = k.splat(k.load(k.offset(at, f.w_step * a), dtype))
                        number = lambda r, c: r * vectors + (c if how == TURNS else 0)
                        return list(tile), lambda a, r, c: (number(r, c), weights[a, c]), lambda sums: sums

                    made = self._strip(k, how, rows, place, (x, row, column, pitch, across), case)
                    return [k.at(place, len(STRIP), "int64"), *made]

                k.if_(k.ne(ahead, 0), lambda: self._come(k, how, rows, x, pitch, ahead, y, y_row, vectors))
                start = k.splat(k.load(b, dtype))
                _, *tile = k.loop(0, count, 1, strip, [strips, *[start] * (rows * vectors)])
                for r in range(rows):
                    store(k.offset(y, y_row * r), tile[r * vectors : r * vectors + vectors], room - y_row * r)
                return [k.offset(p, step) for p, step in zip((x, w, b, y), steps, strict=True)]

            def store(to: Value, values: Sequence[Value], room: Value) -> None:
                if how == TURNS:
                    turns = [n for e in range(lanes) for n in (e, lanes + e)]
                    values = [shuffle(k, values[0], values[1], half) for half in (turns[:lanes], turns[lanes:])]
                for v, (value, (full, partial)) in enumerate(zip(values, ends)):
                    at = k.at(to, v * lanes, dtype)
                    k.if_(
                        full | (room >= (v + 1) * lanes * self.size),
                        lambda: k.store(value, at), lambda: partial.store(value, at),
                    )

            k.loop(0, planes, 1, plane, k.arguments[:4])

        self._kernels(
            "rows", (EACH, OTHER, TURNS, LONG), "x w b y strips",
            "count row column pitch across y_row left room ahead planes x_plane w_plane b_plane y_plane", write,
        )

    def sums(self) -> None:
        """`sums(x, g, sums, strips, count, row, column, pitch, across, g_row, left, had, planes, ...)`: a tile's part.

        It is that of as many planes; the last numbers are from one to the next of x and g. Of the tile's lanes, those
        from `had` on that are among the `left` ones of the row count.
        """

        def write(k: Kernel, how: str, rows: int) -> None:
            x, g, sums, strips, count, row, column, pitch, across, g_row, left, had, ahead, planes, *steps = k.arguments
            dtype, lanes = self.dtype, k.lanes
            left = k.where(left < lanes, left, lanes)
            low, some = k.cast(had, "uint32"), k.cast(left - had, "uint32")
            wanted = k.iota("uint32") - k.splat(low) < k.splat(some)
            partial = None if self.target.masked else k.partial(left)

            def plane(_: Value, x: Any, g: Any) -> list[Value]:
                k.if_(k.ne(ahead, 0), lambda: self._come(k, how, rows, x, pitch, ahead, g, g_row, 1))
                places = [k.offset(g, g_row * r) for r in range(rows)]
                if partial is None:
                    lines: Any = [k.masked_load(at, wanted, dtype) for at in places]
                else:
                    lines = k.if_(
                        left >= lanes,
                        lambda: [k.load(at, dtype, lanes) for at in places],
                        lambda: [partial.load(at, dtype) for at in places],
                    )
                    lines = [k.where(wanted, line, 0.0) for line in lines]

                def strip(_: Value, place: Any) -> list[Value]:
                    def case(f: Words, height: int, columns: Sequence[int]) -> Any:
                        at = [k.offset(sums, (f.first + j) * self.vector_bytes) for j in range(height * len(columns))]

                        def finish(sums: list[Value]) -> None:
                            for value, to in zip(sums, at, strict=True):
                                k.store(value, to)

                        old = [k.load(p, dtype, lanes) for p in at]
                        return old, lambda a, r, c: (c * height + a, lines[r]), finish

                    self._strip(k, how, rows, place, (x, row, column, pitch, across), case, wanted)
                    return [k.at(place, len(STRIP), "int64")]

                k.loop(0, count, 1, strip, [strips])
                return [k.offset(p, step) for p, step in zip((x, g), steps, strict=True)]

            k.loop(0, planes, 1, plane, [x, g])

        self._kernels(
            "sums", (EACH, OTHER, LONG), "x g sums strips",
            "count row column pitch across g_row left had ahead planes x_plane g_plane", write,
        )

    # -- whole planes

    def _divided(self, k: Kernel, a: Value, b: Value) -> Value:
        return k.op(f"udiv i64 {a.text}, {b.text}", "int64")

    def _clear(self, k: Kernel, memory: Value, size: Value) -> None:
        k.call("llvm.memset.p0.i64", None, memory, k.const(0, "uint8"), size, k.const(False, "bool"))

    def _read(self, k: Kernel, f: Words, table: Value, source: Value, scratch: Value) -> Value:
        """Where a plane is read: where it is, or its copy with its padding, in phases."""
        one, zero = k.const(1, "int64"), k.const(0, "int64")

        def phase(p: Value) -> None:
            at = k.at(table, f.phase_at + p * 2, "int64")
            h, w = k.load(at, "int64"), k.load(k.at(at, 1, "int64"), "int64")
            k.call_known(
                "pad", None, source, k.offset(scratch, p * f.plane), one, zero, zero, f.held, f.row, f.columns, h, w,
                f.h_step, f.w_step, f.x_h, f.x_w,
            )

        k.if_(k.ne(f.copied, 0), lambda: k.loop(0, f.phases, 1, phase) and None)
        return k.where(k.ne(f.copied, 0), scratch, source)

    def _tile(self, k: Kernel, table: Value, s: Words, i: Value, name: str) -> tuple[Value, ...]:
        """(first row, first column, kernel, rows, lanes that an earlier one has had) of a tile."""
        place = k.at(table, s.tiles_at + i * len(TILE), "int64")
        row, column, cell, rows, had = (k.load(k.at(place, j, "int64"), "int64") for j in range(len(TILE)))
        return row, column, k.load(k.at(k.symbol(f"@{name}"), cell, "ptr"), "ptr"), rows, had

    def planes(self) -> None:
        """Some blocks of planes of results."""
        k, job, begin, end, thread = self._task("planes")
        table = job["table"]
        f = Words(k, table, HEAD)
        dtype, size = self.dtype, self.size
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        scratch = self._aligned(k, memory)
        temp = k.offset(scratch, f.temp_at)
        nothing = k.alloca(size)
        k.store(k.const(0.0, dtype), nothing)
        self._clear(k, scratch, f.area)
        w_plane = self._divided(k, f.w_size, f.channels)
        bias, b_plane = k.if_(
            k.ne_null(job["bias"]),
            lambda: [job["bias"], k.const(size, "int64")], lambda: [nothing, k.const(0, "int64")],
        )
        temp_row, ever, one = (k.const(n, "int64") for n in (self.vector_bytes, _EVER, 1))
        blocks = self._blocks(k, f)

        def block(i: Value) -> None:
            sample = self._divided(k, i, blocks)
            first = (i - sample * blocks) * f.together
            left = f.channels - first
            count = k.where(left < f.together, left, f.together)
            plane = sample * f.channels + first
            x = self._read(k, f, table, k.offset(job["x"], plane * f.x_plane), scratch)
            w, b, out = k.offset(job["w"], first * w_plane), k.offset(bias, first * b_plane), job["out"]
            out = k.offset(out, plane * f.y_plane)

            def sub(i: Value) -> None:
                s = Words(k, k.at(table, i * len(SUB) + len(HEAD), "int64"), SUB)
                strips = k.at(table, s.strips_at, "int64")

                def tile(j: Value) -> None:
                    row, column, kernel, rows, _ = self._tile(k, table, s, j, "rows")
                    at = k.offset(x, row * s.pitch + column * s.x_step)
                    here = row * s.y_h + column * s.y_w
                    to = k.offset(out, s.y_start + here)
                    known = (strips, s.strips, row, column, s.pitch, s.across)

                    def straight() -> None:
                        taken = k.cast(k.eq(s.how, IN_TURNS), "int64") + 1
                        room = k.where(k.eq(s.dense, 0), 0, f.y_plane - s.y_start - here)
                        k.call_address(
                            kernel, at, w, b, to, *known, s.y_h, s.w_n - column * taken, room, s.ahead, count,
                            f.x_plane, w_plane, b_plane, f.y_plane,
                        )

                    def apart() -> None:
                        def plane(p: Value, x: Any, w: Any, b: Any, y: Any) -> list[Value]:
                            k.call_address(
                                kernel, x, w, b, temp, *known, temp_row, ever, ever, s.ahead, one, f.x_plane, w_plane,
                                b_plane, f.y_plane,
                            )
                            self._scatter(k, temp, y, rows, s, s.w_n - column)
                            steps = f.x_plane, w_plane, b_plane, f.y_plane
                            return [k.offset(p, step) for p, step in zip((x, w, b, y), steps)]

                        k.loop(0, count, 1, plane, [at, w, b, to])

                    k.if_(k.eq(s.how, APART), apart, straight)

                k.loop(0, s.tiles, 1, tile)

            k.loop(0, f.subs, 1, sub)

        k.loop(begin, end, 1, block)
        k.call_known("give", None, memory, thread)
        k.ret()
        k.finish()

    def _blocks(self, k: Kernel, f: Words) -> Value:
        """How many blocks of planes a sample has."""
        return self._divided(k, f.channels + (f.together - 1), f.together)

    def _scatter(self, k: Kernel, temp: Value, y: Value, rows: Value, s: Words, left: Value) -> None:
        """Rows of results, at most `left` of each, go where they belong one by one."""
        left = k.where(left < self.lanes, left, self.lanes)

        def row(r: Value) -> None:
            at, place = k.offset(temp, r * self.vector_bytes), k.offset(y, r * s.y_h)
            one = lambda c: k.store(k.load(k.at(at, c, self.dtype), self.dtype), k.offset(place, c * s.y_w))
            k.loop(0, left, 1, one)

        k.loop(0, rows, 1, row)

    def channels(self) -> None:
        """The gradients of some channels' weights, over all samples."""
        k, job, begin, end, thread = self._task("channels")
        table = job["table"]
        f = Words(k, table, GRADIENT)
        dtype, lanes = self.dtype, self.lanes
        memory = k.call_known("take", "ptr", thread, f.scratch_size)
        scratch = self._aligned(k, memory)
        sums = k.offset(scratch, f.sums_at)
        self._clear(k, scratch, f.area)
        strips = k.at(table, f.strips_at, "int64")
        x_plane, g_plane = f.x_plane * f.channels, f.y_plane * f.channels

        def channel(c: Value) -> None:
            self._clear(k, sums, f.taps * self.vector_bytes)

            def some(n: Value) -> None:
                left = f.samples - n
                count = k.where(left < f.together, left, f.together)
                x = self._read(k, f, table, k.offset(job["x"], n * x_plane + c * f.x_plane), scratch)
                g = k.offset(job["w"], n * g_plane + c * f.y_plane)

                def tile(j: Value) -> None:
                    row, column, kernel, _, had = self._tile(k, table, f, j, "sums")
                    k.call_address(
                        kernel, k.offset(x, row * f.pitch + column * f.x_step),
                        k.at(k.offset(g, row * f.g_row), column, dtype), sums, strips, f.strips, row, column, f.pitch,
                        f.across, f.g_row, f.w_n - column, had, f.ahead, count, x_plane, g_plane,
                    )

                k.loop(0, f.tiles, 1, tile)

            k.loop(0, f.samples, f.together, some)

            def tap(t: Value) -> None:
                total = k.reduce_sum(k.load(k.offset(sums, t * self.vector_bytes), dtype, lanes))
                number = k.load(k.at(table, f.taps_at + t, "int64"), "int64")
                k.store(total, k.at(job["out"], c * f.taps + number, dtype))

            k.loop(0, f.taps, 1, tap)

        k.loop(begin, end, 1, channel)
        k.call_known("give", None, memory, thread)
        k.ret()
        k.finish()

    # -- the exported functions

    def _start(self, what: str, task: str, names: Sequence[str], count: Any, grain: Any) -> None:
        """The exported function: a task over all that there are."""
        k, arguments = self._entry(what)
        f = Words(k, arguments[-1], names)
        job = k.alloca(64, 64)
        for i, value in enumerate([*arguments, arguments[-1], arguments[-1]]):
            k.store(value, k.at(job, i, "ptr"))
        k.if_(
            k.ne(f.alone, 0),
            lambda: k.call_known(task, None, job, k.const(0, "int64"), count(k, f), k.const(0, "int32")),
            lambda: k.call(pool.SYMBOL, None, k.symbol(f"@{task}"), job, count(k, f), grain(k, f)),
        )
        k.ret()
        k.finish()

    def depthwise(self) -> None:
        """`depthwise(out, x, w, bias, table)`."""
        self._start("depthwise", "planes", HEAD, lambda k, f: f.samples * self._blocks(k, f), lambda k, f: f.grain)

    def depthwise_gradient(self) -> None:
        """`depthwise_gradient(out, x, g, bias, table)`; there is no bias."""
        self._start(
            "depthwise_gradient", "channels", GRADIENT, lambda k, f: f.channels, lambda k, f: k.const(1, "int64")
        )
