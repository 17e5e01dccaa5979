"""Matrix products with a vector: every element of the matrix is read once, and tiles would gain nothing."""

from __future__ import annotations

from typing import Callable

from agog.compiler.gemm_tiles import ACCUMULATE, BIAS, RELU, TileKernels
from agog.compiler.ir import Value

__all__ = ["Vectors"]

_LINES = 8  # of a matrix that are multiplied by numbers of a vector and added at once
_PIECE = 1 << 13  # bytes of a result that they are added to


class Vectors(TileKernels):
    """Writes the functions of one dtype. Strides are in bytes, and int64, like all numbers."""

    def dots(self) -> None:
        """`dots(...)`: the dot product of each row of a matrix with a vector, both contiguous along k."""
        k, (matrix, vector, c, bias, row_stride, rows, steps, c_stride, bias_stride, flags) = self.function(
            "dots", "matrix vector c bias", "row_stride rows steps c_stride bias_stride flags"
        )
        dtype, lanes, most = self.dtype, self.lanes, 4
        whole = k.bitwise_and(steps, -lanes)
        zero, results = k.const(0.0, dtype, lanes), k.alloca(most * self.size)

        def several(count: int) -> Callable[[Value], None]:
            """The dot products of `count` rows at once: one load of the vector serves them all."""

            def group(r: Value) -> None:
                starts = [k.offset(matrix, (r + i) * row_stride) for i in range(count)]

                def multiply(load: Callable[[Value, Value], Value]) -> Callable[..., list[Value]]:
                    def step(j: Value, *sums: Value) -> list[Value]:
                        v = load(vector, j)
                        return [k.fma(load(p, j), v, total) for p, total in zip(starts, sums, strict=True)]

                    return step

                sums = k.loop(
                    0, whole, lanes, multiply(lambda p, j: k.load(k.at(p, j, dtype), dtype, lanes)), [zero] * count
                )
                partial = k.partial(steps - whole)
                last = multiply(lambda p, j: partial.load(k.at(p, j, dtype), dtype))
                totals = k.if_(whole < steps, lambda: last(whole, *sums), lambda: sums)
                for i, total in enumerate(totals):
                    k.store(k.reduce_sum(total), k.at(results, i, dtype))

                def result(i: Value) -> None:
                    place, added = k.offset(c, (r + i) * c_stride), k.offset(bias, (r + i) * bias_stride)
                    load = lambda p: lambda: [k.load(p, dtype)]
                    value = k.load(k.at(results, i, dtype), dtype)
                    (value,) = self.epilogue(k, flags, [value], load(place), load(added))
                    k.store(value, place)

                k.loop(0, count, 1, result)

            return group

        grouped = k.bitwise_and(rows, -most)
        k.loop(0, grouped, most, several(most))
        k.loop(grouped, rows, 1, several(1))
        k.ret()
        k.finish()

    def columns(self) -> None:
        """`columns(matrix, vector, c, bias, line_stride, vector_stride, lines, width, flags)`.

        A vector times a matrix whose lines along k are contiguous: some lines at a time, multiplied by their numbers,
        are added to a piece of the result that stays in the first level cache. Memory is read in as many streams.
        """
        k, (matrix, vector, c, bias, line_stride, vector_stride, lines, width, flags) = self.function(
            "columns", "matrix vector c bias", "line_stride vector_stride lines width flags"
        )
        dtype, lanes = self.dtype, self.lanes
        whole = k.bitwise_and(width, -lanes)
        left = k.partial(width - whole)
        keeps = k.ne(flags & ACCUMULATE, 0)

        def add(first: Value, count: int, begin: Value, end: Value, fresh: Value) -> None:
            """To the columns from `begin` to `end` add `count` lines; to nothing, if `fresh`."""
            starts = [k.offset(matrix, (first + i) * line_stride) for i in range(count)]
            numbers = [k.splat(k.load(k.offset(vector, (first + i) * vector_stride), dtype)) for i in range(count)]

            def vectors(load: Callable[[Value], Value], store: Callable[[Value, Value], None]) -> Callable[..., None]:
                def at(j: Value) -> None:
                    place = k.at(c, j, dtype)
                    (total,) = k.if_(fresh, lambda: [k.const(0.0, dtype, lanes)], lambda: [load(place)])
                    for start, number in zip(starts, numbers, strict=True):
                        total = k.fma(number, load(k.at(start, j, dtype)), total)
                    store(total, place)

                return at

            k.loop(begin, k.where(end < whole, end, whole), lanes, vectors(lambda p: k.load(p, dtype, lanes), k.store))
            k.if_(end > whole, lambda: vectors(lambda p: left.load(p, dtype), left.store)(whole))

        def piece(begin: Value) -> None:
            end = k.where(begin + _PIECE // self.size < width, begin + _PIECE // self.size, width)
            grouped = k.bitwise_and(lines, -_LINES)
            fresh = lambda p: k.eq(p, 0) & ~keeps
            k.loop(0, grouped, _LINES, lambda p: add(p, _LINES, begin, end, fresh(p)))
            k.loop(grouped, lines, 1, lambda p: add(p, 1, begin, end, fresh(p)))

        k.loop(0, width, _PIECE // self.size, piece)

        def finish(load: Callable[[Value], Value], store: Callable[[Value, Value], None]) -> Callable[[Value], None]:
            def at(j: Value) -> None:
                place = k.at(c, j, dtype)
                zero = (lines < 1) & ~keeps
                found = k.if_(zero, lambda: [k.const(0.0, dtype, lanes)], lambda: [load(place)])
                biases = lambda: [load(k.at(bias, j, dtype))]
                (value,) = self.epilogue(k, flags & (BIAS | RELU), found, lambda: found, biases)
                store(value, place)

            return at

        def complete() -> None:
            k.loop(0, whole, lanes, finish(lambda p: k.load(p, dtype, lanes), k.store))
            k.if_(whole < width, lambda: finish(lambda p: left.load(p, dtype), left.store)(whole))

        k.if_(k.ne(flags & (BIAS | RELU), 0) | (lines < 1), complete)
        k.ret()
        k.finish()
