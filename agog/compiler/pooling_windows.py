"""What the native code of pooling follows, and its way forward: maxima or means of windows.

Each row of results is made in two steps: the lines of x that its windows cover become one line, which is padded as far
as windows reach, and windows of that line are taken side by side. A block of rows takes the first step before any takes
the second, which then finds all that was stored in the first level cache.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from agog.compiler import pool
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import Packing, shuffle

__all__ = ["AXES", "HEAD", "STEPS", "Fields", "Tasks", "Windows"]

STEPS = (1, 2, 3, 4)  # strides along a line for which windows are computed side by side

#: What is known of every axis: elements, results, the window, its stride, padding and dilation, and how far from the
#: ends elements of the padding count for a mean.
AXES = "x y k s p d low high"
#: Words of a table. `rank` is how many axes are pooled. Places and sizes in the scratch memory are bytes. In elements
#: are `held`, the room of a line in there; `lead`, where it begins with its padding; and `margin`, where it does if it
#: has windows. What is around is filled once: windows reach into it.
HEAD = (
    "out_size a_size b_size c_size planes rank grain alone even scale scratch taps_at counts_at nan_at "
    "nan_size index_at index_size part_at part_size held lead line margin batch rows_at grads_at mask slices_at "
    "slice_grads_at slice slice_mask scaled_at places_at "
    + " ".join(f"{name}_{axis}" for axis in "dhw" for name in AXES.split())
).split()


class Fields:
    """The words of a table, each loaded where the function begins: what is not used costs nothing."""

    def __init__(self, k: Kernel, table: Value) -> None:
        for i, name in enumerate(HEAD):
            setattr(self, name, k.load(k.at(table, i, "int64"), "int64"))


class Tasks(Packing):
    """Writes what all kinds need: of maxima, or of means."""

    def __init__(self, module: Module, dtype: str, mean: bool) -> None:
        super().__init__(module, dtype)
        self.mean = mean

    def task(self, name: str, body: Callable[..., None]) -> None:
        """`name(out, a, b, c, table)`, which shares out the planes: `body(k, fields, begin, end, ...)` does some."""
        arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, f"{name}_task", arguments, None, self.lanes, internal=True)
        job, begin, end, _ = k.arguments
        out, a, b, c, table = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(5))
        f: Any = Fields(k, table)
        memory = k.allocate(f.scratch + 64)
        address = k.op(f"ptrtoint ptr {memory.text} to i64", "int64")
        scratch = k.offset(memory, k.bitwise_and(k.neg(address), 63))
        body(k, f, begin, end, table, scratch, out, a, b, c)
        k.call("free", None, memory, external=True)
        k.ret()
        k.finish()
        k = Kernel(self.module, name, [(n, "ptr") for n in ("out", "a", "b", "c", "table")], None, self.lanes)
        job = k.alloca(64, 64)
        for i, value in enumerate(k.arguments):
            k.store(value, k.at(job, i, "ptr"))
        f = Fields(k, k.arguments[4])
        zero, task = k.const(0, "int64"), f"{name}_task"
        k.if_(
            k.ne(f.alone, 0),
            lambda: k.call_known(task, None, job, zero, f.planes, k.const(0, "int32")),
            lambda: k.call(pool.SYMBOL, None, k.symbol(f"@{task}"), job, f.planes, f.grain),
        )
        k.ret()
        k.finish()

    @staticmethod
    def _planes(f: Any) -> tuple[Value, Value]:
        """Elements and results of a plane."""
        return f.x_d * f.x_h * f.x_w, f.y_d * f.y_h * f.y_w

    def _some_planes(
        self, k: Kernel, f: Any, begin: Value, end: Value, some: Callable[..., None], other: Any = None
    ) -> None:
        """`some(first, rows)` for all planes if they are rows, else `other` (or `some`) for one after the other."""
        one = k.const(1, "int64")
        each = lambda p: (other or some)(p, one)
        k.if_(
            k.eq(f.rank, 1), lambda: some(begin, end - begin), lambda: k.loop(begin, end, 1, each) and None
        )

    def _scale(self, k: Kernel, f: Any) -> Value:
        """1 / count, where it is one for all windows."""
        return k.cast(k.from_bits(f.scale), self.dtype)

    def _joined(self, k: Kernel, a: Value, b: Value) -> Value:
        return a + b if self.mean else k.max(a, b)

    def _clear(self, k: Kernel, at: Value, elements: Value) -> None:
        k.call("llvm.memset.p0.i64", None, at, k.const(0, "uint8"), elements * self.size, k.const(False, "bool"))

    def _mixed(self, k: Kernel, values: Sequence[Value]) -> list[Value]:
        """The vectors of the first elements of all of these, the second ones, and so on."""
        n, step, out = self.lanes, len(values), []
        for v in range(step):
            sources = [divmod(v * n + i, step) for i in range(n)]  # (lane, which)
            value = values[0]
            for e in range(1, step):
                kept = [lane if not which else 0 for lane, which in sources] if e == 1 else range(n)
                value = shuffle(k, value, values[e], [n + s[0] if s[1] == e else q for s, q in zip(sources, kept)])
            out.append(value)
        return out


class Windows(Tasks):
    """Writes the way forward for windows that move by `step` along a row; by any number, where it is 0."""

    def __init__(self, module: Module, dtype: str, mean: bool, step: int) -> None:
        super().__init__(module, dtype, mean)
        self.step, self.lowest = step, 0.0 if mean else float("-inf")

    def forward(
        self, k: Kernel, f: Any, begin: Value, end: Value, table: Value, scratch: Value, out: Value, x: Value, *_: Value
    ) -> None:
        """The body of the task that pools planes of x."""
        if self.mean:
            self._counts(k, f, scratch)
        self._fill(k, scratch, f.batch * f.held, k.const(self.lowest, self.dtype, self.lanes))

        def some(first: Value, rows: Value) -> None:
            source, target = (k.at(a, first * n, self.dtype) for a, n in zip((x, out), self._planes(f)))
            k.call_known("fold", None, table, scratch, source, target, f.rank, rows, f.y_w)

        self._some_planes(k, f, begin, end, some)

    def _fill(self, k: Kernel, at: Value, count: Value, value: Value) -> None:
        """`count` elements, a number of whole vectors."""
        k.loop(0, count, self.lanes, lambda i: k.store(value, k.at(at, i, self.dtype)))

    # -- what windows cover

    def _range(self, k: Kernel, start: Value, step: Value, count: Value, size: Value) -> tuple[Value, ...]:
        """The indices i in range(count) with 0 <= start + i step < size."""
        zero = k.const(0, "int64")

        def some() -> list[Value]:
            low = k.where(start < 0, k.op(f"sdiv i64 {(step - 1 - start).text}, {step.text}", "int64"), zero)
            high = k.op(f"sdiv i64 {(size - 1 - start + step).text}, {step.text}", "int64")
            return [low, k.where(start >= size, zero, k.where(high < count, high, count))]

        return k.if_((start >= 0) & (start + (count - 1) * step < size), lambda: [zero, count], some)

    def _count(self, k: Kernel, f: Any, axis: str, i: Value) -> Value:
        """How many elements count along an axis for the mean of window i."""
        n, size, stride, padding, low, high = (getattr(f, f"{name}_{axis}") for name in "x k s p low high".split())
        first = i * stride - padding
        last = first + size
        count = k.where(last < n + high, last, n + high) - k.where(first < -low, -low, first)
        return k.where(count < 1, 1, count)

    def _counts(self, k: Kernel, f: Any, scratch: Value) -> None:
        """The counts along a row, as floats."""
        place = k.offset(scratch, f.counts_at)
        one = lambda j: k.store(k.cast(self._count(k, f, "w", j), self.dtype), k.at(place, j, self.dtype))
        k.if_(k.eq(f.even, 0), lambda: k.loop(0, f.y_w, 1, one) and None)

    def _scaled(self, k: Kernel, f: Any, scratch: Value, value: Value, rows: Value, j: Value) -> Value:
        """Sums of the windows from j on of a row divided by their counts, of which the other axes give `rows`."""

        def uneven() -> list[Value]:
            counts = k.load(k.at(k.offset(scratch, f.counts_at), j, self.dtype), self.dtype, value.lanes)
            return [value * (1.0 / (counts * rows))]

        return k.if_(k.ne(f.even, 0), lambda: [value * self._scale(k, f)], uneven)[0]

    # -- any windows

    def fold(self) -> None:
        """`fold(table, scratch, x, y, rank, rows, line)`: a volume (rank 3), a slice of it (2), or rows (1).

        line : elements from one row of results to the next
        """
        k, (table, scratch, x, y, rank, rows, line) = self.function("fold", "table scratch x y", "rank rows line")
        f: Any = Fields(k, table)
        dtype, lanes = self.dtype, self.lanes
        low = k.const(self.lowest, dtype, lanes)
        deep, flat = rank >= 3, rank < 2
        depth = {n: k.where(deep, getattr(f, f"{n}_d"), int(n != "p")) for n in "xyksp"}
        height = {n: k.where(flat, rows if n in "xy" else int(n != "p"), getattr(f, f"{n}_h")) for n in "xyksp"}
        taps, lines = k.offset(scratch, f.taps_at), scratch
        whole = k.bitwise_and(f.x_w, -lanes)
        partial = k.partial(f.x_w - whole)
        total = depth["y"] * height["y"]

        def place(row: Value) -> tuple[Value, Value]:
            """Its place in depth and in height."""
            divide = lambda: [k.op(f"udiv i64 {row.text}, {height['y'].text}", "int64")]
            (i,) = k.if_(depth["y"] > 1, divide, lambda: [k.const(0, "int64")])
            return i, row - i * height["y"]

        def lines_of(row: Value, buffer: Value) -> None:
            i, j = place(row)
            top, above = i * depth["s"] - depth["p"], j * height["s"] - height["p"]
            a0, a1 = self._range(k, top, f.d_d, depth["k"], depth["x"])
            b0, b1 = self._range(k, above, f.d_h, height["k"], height["x"])

            def tap(a: Value, n: Value) -> list[Value]:
                def one(b: Value, n: Value) -> list[Value]:
                    at = ((top + a * f.d_d) * height["x"] + above + b * f.d_h) * f.x_w
                    k.store(k.at(x, at, dtype), k.at(taps, n, "ptr"))
                    return [n + 1]

                return k.loop(b0, b1, 1, one, [n])

            (count,) = k.loop(a0, a1, 1, tap, [k.const(0, "int64")])

            def columns(w: Value, load: Callable[[Value], Value], vectors: int = 1) -> None:
                def tap(t: Value, *best: Value) -> list[Value]:
                    line = k.load(k.at(taps, t, "ptr"), "ptr")
                    return [self._joined(k, b, load(k.at(line, w + v * lanes, dtype))) for v, b in enumerate(best)]

                best = self._taps(k, count, tap, [low] * vectors)
                for v, value in enumerate(best):
                    k.store(value, k.at(buffer, f.lead + f.p_w + w + v * lanes, dtype))

            full = lambda p: k.load(p, dtype, lanes)
            twice = k.bitwise_and(f.x_w, -2 * lanes)
            k.loop(0, twice, 2 * lanes, lambda w: columns(w, full, 2))
            k.loop(twice, whole, lanes, lambda w: columns(w, full))
            inside = k.iota("int32") < k.splat(k.cast(f.x_w - whole, "int32"))
            few = lambda p: k.where(inside, partial.load(p, dtype), self.lowest)
            k.if_(whole < f.x_w, lambda: columns(whole, few))

        def windows_of(row: Value, buffer: Value) -> None:
            buffer = k.at(buffer, f.lead, dtype)
            to, count = k.at(y, row * line, dtype), k.const(1.0, dtype)
            if self.mean:
                i, j = place(row)
                count = k.cast(self._count(k, f, "d", i) * self._count(k, f, "h", j), dtype)
            finish = lambda v, j: self._scaled(k, f, scratch, v, count, j) if self.mean else v

            def along(step: int) -> None:
                def vector(j: Value) -> None:
                    left = f.y_w - j

                    def tap(b: Value, best: Value) -> list[Value]:
                        return [self._joined(k, best, self._every(k, k.at(buffer, j * step + b * f.d_w, dtype), step))]

                    (best,) = self._taps(k, f.k_w, tap, [low])
                    best, at = finish(best, j), k.at(to, j, dtype)
                    k.if_(left >= lanes, lambda: k.store(best, at), lambda: k.partial(left).store(best, at))

                k.loop(0, f.y_w, lanes, vector)

            def each() -> None:
                """A window at a time; its elements side by side, if they are."""

                def window(j: Value) -> None:
                    first = k.at(buffer, j * f.s_w, dtype)

                    def together() -> list[Value]:
                        def some(b: Value, best: Value) -> list[Value]:
                            inside = k.iota() < k.splat(f.k_w - b)
                            value = k.where(inside, k.load(k.at(first, b, dtype), dtype, lanes), self.lowest)
                            return [self._joined(k, best, value)]

                        (best,) = k.loop(0, f.k_w, lanes, some, [low])
                        return [k.reduce_sum(best) if self.mean else k.reduce_max(best)]

                    def apart() -> list[Value]:
                        one = lambda b, best: [self._joined(k, best, k.load(k.at(first, b * f.d_w, dtype), dtype))]
                        return k.loop(0, f.k_w, 1, one, [k.const(self.lowest, dtype)])

                    (best,) = k.if_(k.eq(f.d_w, 1), together, apart)
                    k.store(finish(best, j), k.at(to, j, dtype))

                k.loop(0, f.y_w, 1, window)

            if self.step:
                along(self.step)
            else:
                each()

        def block(first: Value) -> None:
            left = total - first
            last = first + k.where(left < f.batch, left, f.batch)
            buffer = lambda row: k.at(lines, (row - first) * f.held, dtype)
            k.loop(first, last, 1, lambda row: lines_of(row, buffer(row)))
            k.loop(first, last, 1, lambda row: windows_of(row, buffer(row)))

        k.loop(0, total, f.batch, block)
        k.ret()
        k.finish()

    def _taps(
        self, k: Kernel, count: Value, body: Callable[..., Any], carry: Sequence[Value], known: Sequence[int] = (2, 3)
    ) -> list[Value]:
        """`k.loop` over range(count), written out for some counts."""
        if not known:
            return k.loop(0, count, 1, body, carry)

        def written() -> Sequence[Value]:
            values = carry
            for i in range(known[0]):
                values = body(k.const(i, "int64"), *values)
            return values

        others = lambda: self._taps(k, count, body, carry, known[1:])
        return list(k.if_(k.eq(count, known[0]), written, others))

    def _every(self, k: Kernel, at: Value, step: int) -> Value:
        """A vector of every `step`-th element from an address on; whole vectors are read."""
        n = self.lanes
        value = k.load(at, self.dtype, n)
        for v in range(1, step):
            following = k.load(k.at(at, v * n, self.dtype), self.dtype, n)
            places = [r * step - v * n for r in range(n)]
            first = [r * step for r in range(n)] if v == 1 else list(range(n))
            picks = [n + p if 0 <= p < n else q if p < 0 else 0 for p, q in zip(places, first)]
            value = shuffle(k, value, following, picks)
        return value
