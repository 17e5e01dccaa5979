"""The row programs that eager code and benchmarks use by name; `rows` says how they are written."""

from __future__ import annotations

from typing import Any, Callable

from agog.compiler.ir import Value
from agog.compiler.rows import SCRATCH, Array, Place, Row, RowKernel, compile_rows
from agog.compiler.targets import HALVES, Target

__all__ = ["DOWN", "PROGRAMS", "compile_row_program"]


def softmax(row: Row, out: Array, x: Array) -> None:
    """e^(x - max) / sum."""
    largest = row.max(lambda v: v[x])
    if out.dtype in HALVES or row.streaming:  # what is kept in between must not be rounded, or comes to memory once
        scratch = row.scratch("float32" if out.dtype in HALVES else out.dtype)

        def kept() -> None:
            inverse = 1.0 / row.sum(lambda v: v.put(scratch, row.k.exp(v.soon(x)[x] - largest)))
            row.each(lambda v: v.write(out, v[scratch] * inverse))

        def computed_again() -> None:
            inverse = 1.0 / row.sum(lambda v: row.k.exp(v.soon(x)[x] - largest))
            row.each(lambda v: v.write(out, row.k.exp(v[x] - largest) * inverse))

        row.k.if_(row.length <= SCRATCH, kept, computed_again)
        return
    total = row.sum(lambda v: v.put(out, row.k.exp(v.soon(x)[x] - largest)))
    inverse = 1.0 / total
    row.each(lambda v: v.put(out, v[out] * inverse))


def log_softmax(row: Row, out: Array, x: Array) -> None:
    """x - max - log(sum of e^(x - max))."""
    k = row.k
    largest = row.max(lambda v: v[x])
    total = row.sum(lambda v: k.exp(v.soon(x)[x] - largest))
    shift = k.log(total)
    row.each(lambda v: v.write(out, (v[x] - largest) - shift))


def logsumexp(row: Row, out: Array, x: Array) -> None:
    """log(sum of e^x), without overflow; infinite rows give their infinity."""
    k = row.k
    largest = row.max(lambda v: v[x])
    # A maximum of -inf (or inf) less itself is NaN: such a row is shifted by nothing.
    shift = k.where(k.isfinite(largest), largest, 0.0)
    total = row.sum(lambda v: k.exp(v.soon(x)[x] - shift))
    row.result(out, k.log(total) + shift)


def softmax_backward(row: Row, out: Array, y: Array, g: Array) -> None:
    """The gradient at softmax's input, from its result y and the gradient g of that: y (g - sum(g y))."""
    dot = row.sum(lambda v: v.soon(y, g)[y] * v[g])
    row.each(lambda v: v.write(out, v[y] * (v[g] - dot)))


def log_softmax_backward(row: Row, out: Array, y: Array, g: Array) -> None:
    """The gradient at log_softmax's input: g - e^y sum(g)."""
    total = row.sum(lambda v: v.soon(g)[g])
    row.each(lambda v: v.write(out, v[g] - row.k.exp(v.soon(y)[y]) * total))


def norm(centered: bool, affine: int) -> Callable[..., None]:
    """(x - mean) / sqrt(var + epsilon), or x / sqrt(mean(x²) + epsilon); times a weight; plus a bias.

    affine  0, 1 or 2: without both, with a weight, with a weight and a bias
    """

    def program(row: Row, out: Array, x: Array, *rest: Any) -> None:
        *vectors, epsilon = rest
        m, r = _moments(row, x, epsilon, centered)

        def normalised(v: Place) -> Value:
            value = (v[x] - m if centered else v[x]) * r
            if affine == 2:
                return row.k.fma(value, v[vectors[0]], v[vectors[1]])
            return value * v[vectors[0]] if affine else value

        row.each(lambda v: v.write(out, normalised(v)))

    return program


def norm_backward(centered: bool, affine: int) -> Callable[..., None]:
    """The gradients of `norm`: at x, r (h - mean(h) - n mean(h n)) with h = g weight and n what was normalised.

    With a weight, its gradient is the sum of g n over the rows; with a bias, that of g.
    """

    def program(row: Row, out: Array, *rest: Any) -> None:
        *sums, g, x, epsilon = rest[:affine] + rest[affine : affine + 2] + rest[-1:]
        weight = rest[affine + 2] if affine else None
        m, r = _moments(row, x, epsilon, centered)

        def parts(v: Place) -> tuple[Value, Value]:
            n = (v[x] - m if centered else v[x]) * r
            return (v[g] * v[weight] if weight else v[g]), n

        def passed(v: Place) -> tuple[Value, ...]:
            h, n = parts(v.soon(g))
            if affine:
                v.add(sums[0], v[g] * n)
            if affine == 2:
                v.add(sums[1], v[g])
            return (h * n, h) if centered else (h * n,)

        length = row.length_as(out.dtype)
        slope, *level = (t / length for t in row.reduce(["sum", "sum"] if centered else ["sum"], passed))

        def gradient(v: Place) -> Value:
            h, n = parts(v)
            return ((h - level[0] if centered else h) - n * slope) * r

        row.each(lambda v: v.write(out, gradient(v)))

    return program


def _moments(row: Row, x: Array, epsilon: Value, centered: bool) -> tuple[Any, Value]:
    """The mean of the row, or None, and 1 / (its deviation)."""
    length = row.length_as(x.dtype)
    m: Any = row.sum(lambda v: v.soon(x)[x]) / length if centered else None

    def squared(v: Place) -> Value:
        d = v[x] - m if centered else v.soon(x)[x]
        return d * d

    return m, row.k.rsqrt(row.sum(squared) / length + epsilon)


def moments(row: Row, mean: Array, deviation: Array, x: Array) -> None:
    """The mean of each row, and the sum of the squared distances to it."""
    wide = _summed(mean)
    m = row.sum(lambda v: row.k.cast(v.soon(x)[x], wide)) / row.length_as(x.dtype)

    def squared(v: Place) -> Value:
        d = row.k.cast(v[x], wide) - m
        return d * d

    row.result(mean, m)
    row.result(deviation, row.sum(squared))


def batch_norm(
    row: Row, out: Array, mean: Array, variance: Array, x: Array, weight: Value, bias: Value, epsilon: Value
) -> None:
    """(x - mean) / sqrt(variance + epsilon), times a weight, plus a bias; and the mean and the variance."""
    length = row.length_as(x.dtype)
    m = row.sum(lambda v: v.soon(x)[x]) / length

    def squared(v: Place) -> Value:
        d = v[x] - m
        return d * d

    spread = row.sum(squared) / length
    row.result(mean, m)
    row.result(variance, spread)
    scale = row.k.rsqrt(spread + epsilon) * weight
    row.each(lambda v: v.put(out, row.k.fma(v[x] - m, scale, bias)))


def rescaled(row: Row, out: Array, x: Array, mean: Value, scale: Value, shift: Value) -> None:
    """(x - mean) scale + shift."""
    row.each(lambda v: v.write(out, row.k.fma(v.soon(x)[x] - mean, scale, shift)))


def rescaled_sums(row: Row, total: Array, dot: Array, g: Array, x: Array, mean: Value) -> None:
    """What gradients of `rescaled` add up: the sum of g, and of g (x - mean)."""
    passed = lambda v: (v.soon(g, x)[g], v[g] * (v[x] - mean))
    for out, value in zip((total, dot), row.reduce(["sum", "sum"], passed)):
        row.result(out, value)


def rescaled_backward(
    row: Row, out: Array, g: Array, x: Array, mean: Value, scale: Value, slope: Value, level: Value
) -> None:
    """g scale + (x - mean) slope + level."""
    k = row.k
    row.each(lambda v: v.write(out, k.fma(v.soon(g, x)[g], scale, k.fma(v[x] - mean, slope, level))))


def column_sum(row: Row, out: Array, x: Array) -> None:
    """The sum of all rows."""
    row.each(lambda v: v.add(out, v[x]))


def cross_entropy(row: Row, loss: Array, lse: Array, x: Array, index: Value) -> None:
    """log(sum of e^x) - x[index], and that logarithm."""
    k = row.k
    largest = row.max(lambda v: v[x])
    total = k.log(row.sum(lambda v: k.exp(v.soon(x)[x] - largest)))
    row.result(lse, total + largest)
    row.result(loss, total - (k.load(k.at(x.base, index, x.dtype), x.dtype) - largest))


def cross_entropy_backward(
    row: Row, out: Array, x: Array, lse: Value, index: Value, weight: Value, scale: Value
) -> None:
    """e^(x - lse) scale, less weight at the index."""
    k = row.k
    row.each(lambda v: v.put(out, k.exp(v.soon(x)[x] - lse) * scale))
    place = k.at(out.base, index, out.dtype)
    k.store(k.load(place, out.dtype) - weight, place)


def _summed(out: Array) -> str:
    """The dtype in which a result is added up."""
    return "float32" if out.dtype in HALVES else out.dtype


def row_sum(row: Row, out: Array, x: Array) -> None:
    """The sum of each row."""
    row.result(out, row.sum(lambda v: row.k.cast(v[x], _summed(out))))


def row_mean(row: Row, out: Array, x: Array) -> None:
    """The mean of each row."""
    row.result(out, row.sum(lambda v: row.k.cast(v[x], _summed(out))) / row.length_as(out.dtype))


def row_deviation(row: Row, out: Array, x: Array) -> None:
    """The sum of the squared distances to the mean of each row."""
    wide = _summed(out)
    m = row.sum(lambda v: row.k.cast(v.soon(x)[x], wide)) / row.length_as(out.dtype)

    def squared(v: Place) -> Value:
        d = row.k.cast(v[x], wide) - m
        return d * d

    row.result(out, row.sum(squared))


def row_max(row: Row, out: Array, x: Array) -> None:
    """The largest element of each row."""
    row.result(out, row.max(lambda v: v[x]))


def row_min(row: Row, out: Array, x: Array) -> None:
    """The smallest element of each row."""
    row.result(out, row.min(lambda v: v[x]))


#: name: (program, kinds of the outputs, kinds of the inputs)
PROGRAMS: dict[str, tuple[Callable[..., None], list[str], list[str]]] = {
    "softmax": (softmax, ["row"], ["row"]),
    "log_softmax": (log_softmax, ["row"], ["row"]),
    "logsumexp": (logsumexp, ["column"], ["row"]),
    "softmax_backward": (softmax_backward, ["row"], ["row", "row"]),
    "log_softmax_backward": (log_softmax_backward, ["row"], ["row", "row"]),
    "column_sum": (column_sum, ["sums"], ["row"]),
    "cross_entropy": (cross_entropy, ["column", "column"], ["row", "column"]),
    "cross_entropy_backward": (cross_entropy_backward, ["row"], ["row", "column", "column", "column", "column"]),
    "sum": (row_sum, ["column"], ["row"]),
    "mean": (row_mean, ["column"], ["row"]),
    "moments": (moments, ["column", "column"], ["row"]),
    "rescaled": (rescaled, ["row"], ["row", "column", "column", "column"]),
    "rescaled_sums_backward": (rescaled_sums, ["column", "column"], ["row", "row", "column"]),
    "rescaled_backward": (rescaled_backward, ["row"], ["row", "row", "column", "column", "column", "column"]),
    "deviation": (row_deviation, ["column"], ["row"]),
    "max": (row_max, ["column"], ["row"]),
    "min": (row_min, ["column"], ["row"]),
}
for _centered, _what in ((True, "norm"), (False, "rms_norm")):
    for _affine in (0, 1, 2):
        PROGRAMS[f"{_what}{_affine}"] = (
            norm(_centered, _affine), ["row"], ["row", *["vector"] * _affine, "scalar"])
        PROGRAMS[f"{_what}{_affine}_backward"] = (
            norm_backward(_centered, _affine), ["row", *["sums"] * _affine],
            ["row", "row", *["vector"] * min(_affine, 1), "scalar"])

#: The same for programs that `columns` alone compiles.
DOWN: dict[str, tuple[Callable[..., None], list[str], list[str]]] = {
    "batch_norm": (batch_norm, ["row", "column", "column"], ["row", "column", "column", "scalar"]),
}

#: Inputs that are not of the program's dtype: {name: {position: dtype}}.
_OTHER = {"cross_entropy": {1: "int64"}, "cross_entropy_backward": {2: "int64"}}


def compile_row_program(name: str, dtype: str, target: Target | None = None) -> RowKernel:
    """One of `PROGRAMS` with all arrays of one dtype, but for indices, which are int64, and norms of 16-bit floats,
    whose numbers are float32.
    """
    fn, out_kinds, in_kinds = PROGRAMS[name]
    wide = "float32" if dtype in HALVES and "norm" in name else dtype
    others = _OTHER.get(name, {})
    ins = [others.get(i, wide if kind == "scalar" else dtype) for i, kind in enumerate(in_kinds)]
    return compile_rows(name, fn, [dtype] * len(out_kinds), out_kinds, ins, in_kinds, target, f"row program {name}")
