"""Reductions: sums, products, extremes, moments, norms over axes.

The computations call the ufuncs' own `reduce`; NumPy's wrappers would cost more than the work on a small array.
16-bit floats are accumulated in float32. Rules return the cotangent in `keepdims` form: it broadcasts to x's shape,
so no copy is made until a rule needs it whole.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy

from agog.array import dtypes, few, large
from agog.array.numbers import weak
from agog.errors import ArgumentError, ShapeError
from agog.ops import axes as ax
from agog.ops.blocks import reduced
from agog.ops.explain import describe
from agog.ops.row import Op, composite

_f32 = numpy.dtype("float32")
_FROM = large.REDUCE_FROM


def _half(x: Any) -> bool:
    return x.itemsize == 2 and dtypes.is_half(x.dtype)


def _widest(x: Any, *_: Any) -> Any:
    """The dtype of sums and products: integers are added up in 64 bits."""
    k = dtypes.kind(x)
    return dtypes.uint64 if k == "u" else dtypes.int64 if k in "bi" else x


def _scalar(shape: tuple, axis: Any) -> bool:
    """NumPy and PyTorch let the axes 0 and -1 of a 0-d array pass, which has none."""
    return len(shape) == 0 and axis in (0, -1)


def _checked(name: str, nonempty: bool = False) -> Any:
    def check(x: Any, axis: Any, *rest: Any) -> tuple:
        if axis is not None:
            axis = () if not x.shape and _scalar(x.shape, axis) else ax.axes(name, x, axis)
        if nonempty:
            over = range(len(x.shape)) if axis is None else axis
            if 0 in [x.shape[a] for a in over] and 0 not in [n for i, n in enumerate(x.shape) if i not in over]:
                raise ShapeError(f"{name}: {describe(x)} has no elements along axis={axis}, and nothing has no {name}"
                                 "; test x.size first")
        return (axis, *rest[:-1], ax.flag(name, "keepdims", rest[-1]))
    return check


def _over(x: Any, axis: Any) -> tuple[int, ...]:
    """The axes of the batched `x` that `axis` of one example means."""
    return tuple(range(1, len(x.shape))) if axis is None else tuple(a + 1 for a in axis)


def _batch(name: str) -> Any:
    def batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
        x, (axis, *rest) = inputs[0], statics
        return getattr(xp, name)(x, _over(x, axis), *rest)
    return batch


def _samples(s: Any) -> list:
    return [((s(3, 4),), {}), ((s(3, 4),), {"axis": 0}), ((s(2, 3, 4),), {"axis": (0, -1), "keepdims": True}),
            ((s(),), {}), ((s(2, 3),), {"axis": ()}), ((s(2, 0),), {"axis": 0}),
            ((s(3, 1),), {"axis": 1, "keepdims": True})]


def _with_empty(s: Any) -> list:
    return [*_samples(s), ((s(2, 0),), {"axis": 1}), ((s(0),), {})]


def _kept(shape: tuple, axis: Any) -> tuple:
    """`shape` with size 1 along `axis`."""
    n = len(shape)
    if not n:
        return ()
    if type(axis) is int:
        axis %= n
        return (*shape[:axis], 1, *shape[axis + 1:])
    over = range(n) if axis is None else [a % n for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    return tuple(1 if i in over else size for i, size in enumerate(shape))


def _keep(xp: Any, v: Any, axis: Any, keepdims: bool, shape: tuple) -> Any:
    """The reduced `v` in a shape that broadcasts to `shape`, the shape before the reduction."""
    return v if keepdims or axis is None else xp.reshape(v, _kept(shape, axis))


def _keep_rule(xp: Any, g: Any, axis: Any, keepdims: bool, x_shape: tuple) -> Any:
    return g if keepdims or axis is None else xp.reshape(g, _kept(x_shape, axis))


def _count(shape: tuple, axis: Any) -> int:
    if axis is None or _scalar(shape, axis):
        return math.prod(shape)
    return math.prod([shape[a] for a in (axis if isinstance(axis, tuple | list) else (axis,))])


# ------------------------------------------------------------------------------------------------ sums and products
def _native(np: Any, kind: str, x: Any, axis: Any, keepdims: Any) -> Any:
    """The reduction by a native kernel, or None: see `large.reduced`."""
    return large.reduced(kind, x, axis, keepdims) if x.size >= _FROM and np is numpy else None


def _in_float32(ufunc: Any, kind: str, x: Any, axis: Any, keepdims: bool) -> Any:
    """A reduction of 16-bit floats: in float32, and rounded once."""
    done = _native(numpy, kind, x, axis, keepdims)
    if done is not None:
        return done
    return large.astype(reduced(numpy, kind, ufunc, large.astype(x, _f32), axis, keepdims), x.dtype)


_SHORT = 1 << 12  # elements from which sums over short axes are products
_CALL = 1 << 13  # elements of a product with a vector up to which OpenBLAS wakes no thread


def _without(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """A sum without a kernel. Those over short axes are products with ones: NumPy's take 20 ns for each turn of a loop.
    """
    done = None
    if x.size >= _SHORT:
        if x.dtype.kind == "b":
            done = _counted(x, axis, keepdims)
        elif axis is not None and x.flags.c_contiguous and (
                x.dtype is dtypes.float32 or x.dtype is dtypes.float64):
            done = _by_products(x, axis if type(axis) is tuple else (axis,), keepdims)
    return np.add.reduce(x, axis, None, None, keepdims) if done is None else done


def _counted(x: Any, axis: Any, keepdims: bool) -> Any:
    """How many are True, over all axes or the last one; None for others. NumPy would cast each to 64 bits first."""
    n = x.ndim
    axes = [a % n for a in (range(n) if axis is None else axis if type(axis) is tuple else (axis,))]
    if len(axes) == n:
        return numpy.full((1,) * n if keepdims else (), numpy.count_nonzero(x), numpy.int64)
    if axes == [n - 1]:
        eights = numpy.bitwise_count(numpy.packbits(x, -1))
        return eights.sum(axis=-1, dtype=numpy.int64, keepdims=bool(keepdims))
    return None


def _by_products(x: Any, axes: Any, keepdims: bool) -> Any:
    """The sum of a C-contiguous x over adjacent axes of few elements, or None where NumPy is as fast."""
    n, shape = x.ndim, x.shape
    for a in axes:
        if type(a) is not int or not -n <= a < n:
            return None
    if not axes:
        return None
    first, last = axes[0] % n, axes[-1] % n
    if tuple([a % n for a in axes]) != tuple(range(first, last + 1)):
        return None
    turns, outer, inner = math.prod(shape[first:last + 1]), math.prod(shape[:first]), math.prod(shape[last + 1:])
    if not 2 <= turns <= (256 if inner == 1 else 2048) or outer < 16 or turns * inner > _CALL:
        return None
    ones = _ones(turns, x.dtype)
    if inner == 1:
        rows = _CALL // turns
        whole = outer - outer % rows
        x, y = x.reshape(outer, turns), numpy.empty(outer, x.dtype)
        numpy.matmul(x[:whole].reshape(-1, rows, turns), ones, y[:whole].reshape(-1, rows))
        numpy.matmul(x[whole:], ones, y[whole:])
    else:
        y = numpy.matmul(ones, x.reshape(outer, turns, inner))
    return y.reshape((*shape[:first], *((1,) * len(axes) if keepdims else ()), *shape[last + 1:]))


@functools.lru_cache(64)
def _ones(n: int, dtype: Any) -> Any:
    return numpy.ones(n, dtype)


def _sum(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if x.itemsize == 2 and _half(x):
        return _in_float32(np.add, "sum", x, axis, keepdims)
    if x.size >= _FROM and np is numpy:
        done = large.reduced("sum", x, axis, keepdims)
        return _without(np, x, axis, keepdims) if done is None else done
    return np.add.reduce(x, axis, None, None, keepdims)


sum = Op("sum(x; axis=None, keepdims=False) -> y", _sum, kind="reduction", reduce="add", linear_in="all",
         result=_widest, vjp={"x": _keep_rule}, check=_checked("sum"),
         batch=_batch("sum"), samples=_with_empty,
         doc="The sum over `axis` (an axis, several, or None for all). Integers and bools are added up as int64, "
             "unsigned ones as uint64.")


_means, _deviations = few.kernels("mean fold"), few.kernels("deviation")


def _mean(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if x.itemsize == 2 and _half(x):
        done = _native(np, "mean", x, axis, keepdims)
        return _mean(np, large.astype(x, _f32), axis, keepdims).astype(x.dtype) if done is None else done
    if np is numpy:
        done = None
        if x.size < few.BELOW:
            done = few.over(_means, x, axis, keepdims)
        elif x.dtype.kind == "f":
            done = large.reduced("mean", x, axis, keepdims)
        if done is not None:
            return done
    s = _sum(np, x, axis, keepdims)
    return s / (x.size // (s.size or 1))


def _mean_vjp(xp: Any, g: Any, axis: Any, keepdims: bool, x_shape: tuple) -> Any:
    return _keep(xp, g, axis, keepdims, x_shape) / _count(x_shape, axis)


mean = Op("mean(x; axis=None, keepdims=False) -> y", _mean, kind="reduction", linear_in="all", to_float=True,
          takes="fc",
          vjp={"x": _mean_vjp}, check=_checked("mean"), batch=_batch("mean"), samples=_samples,
          doc="The arithmetic mean over `axis`; nan of nothing. Integers are averaged as floats.")


def _prod(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if x.itemsize == 2 and _half(x):
        return _in_float32(np.multiply, "prod", x, axis, keepdims)
    if x.size >= _FROM:
        return reduced(np, "prod", np.multiply, x, axis, keepdims)
    return np.multiply.reduce(x, axis, None, None, keepdims)


def _others(xp: Any, x: Any) -> Any:
    """The product of all other elements along the last axis.

    Found pairwise, up a tree and down again, with products alone: zeros need no care, in derivatives of any order.
    """
    *lead, n = x.shape
    if n < 2:
        return xp.full(x.shape, 1, dtype=x.dtype)
    if n == 2:
        return xp.flip(x, axis=-1)
    if n % 2:
        x = xp.concat([x, xp.full((*lead, 1), 1, dtype=x.dtype)], axis=-1)
    half = (n + 1) // 2
    pairs = xp.reshape(x, (*lead, half, 2))
    others = _others(xp, xp.prod(pairs, axis=-1))
    out = xp.reshape(xp.reshape(others, (*lead, half, 1)) * xp.flip(pairs, axis=-1), (*lead, 2 * half))
    return out[..., :n] if n % 2 else out


def _prod_vjp(xp: Any, g: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    shape = x.shape
    over = () if _scalar(shape, axis) else ax.axes("prod", x, axis)
    order = tuple(i for i in range(len(shape)) if i not in over) + over
    moved = xp.permute_dims(x, order)
    others = _others(xp, xp.reshape(moved, (*moved.shape[:len(shape) - len(over)], _count(shape, over))))
    back = tuple(sorted(range(len(order)), key=order.__getitem__))
    return _keep(xp, g, axis, keepdims, shape) * xp.permute_dims(xp.reshape(others, moved.shape), back)


prod = Op("prod(x; axis=None, keepdims=False) -> y", _prod, kind="reduction", reduce="multiply", result=_widest,
          vjp={"x": _prod_vjp}, check=_checked("prod"), batch=_batch("prod"), samples=_with_empty, error=16,
          doc="The product over `axis`; 1 of nothing. Its gradient is right where factors are zero. Integers are "
              "multiplied as int64, unsigned ones as uint64.")


@composite(samples=lambda s: [((s(3, 4),), {"axis": 0})])
def nansum(xp, x, axis=None, keepdims=False):
    """The sum over `axis` of what is not nan."""
    return xp.sum(xp.where(xp.isnan(x), 0, x), axis=axis, keepdims=keepdims)


@composite(samples=lambda s: [((s(3, 4),), {"axis": 0})])
def nanmean(xp, x, axis=None, keepdims=False):
    """The mean over `axis` of what is not nan; nan where nothing is left."""
    absent = xp.isnan(x)
    total = xp.sum(xp.where(absent, 0, x), axis=axis, keepdims=keepdims)
    return total / xp.astype(xp.sum(xp.logical_not(absent), axis=axis, keepdims=keepdims), total.dtype)


# --------------------------------------------------------------------------------------------------------- extremes
def _extreme_vjp(xp: Any, g: Any, x: Any, y: Any, axis: Any, keepdims: bool) -> Any:
    chosen = xp.astype(x == _keep(xp, y, axis, keepdims, x.shape), x.dtype)
    return chosen * (_keep(xp, g, axis, keepdims, x.shape) / xp.sum(chosen, axis=axis, keepdims=True))


def _max(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if x.itemsize == 2 and x.size and _half(x):
        return _in_float32(np.maximum, "max", x, axis, keepdims)
    return reduced(np, "max", np.maximum, x, axis, keepdims)


def _min(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if x.itemsize == 2 and x.size and _half(x):
        return _in_float32(np.minimum, "min", x, axis, keepdims)
    return reduced(np, "min", np.minimum, x, axis, keepdims)


max = Op("max(x; axis=None, keepdims=False) -> y", _max, reduce="maximum",
         kind="reduction", vjp={"x": _extreme_vjp}, check=_checked("max", True), batch=_batch("max"),
         samples=lambda s: _samples(s)[:5],
         doc="The largest element over `axis`, nan if any is. Equal ones share the gradient. Raises ShapeError where "
             "there is none.")
min = Op("min(x; axis=None, keepdims=False) -> y", _min, reduce="minimum",
         kind="reduction", vjp={"x": _extreme_vjp}, check=_checked("min", True), batch=_batch("min"),
         samples=lambda s: _samples(s)[:5],
         doc="The smallest element over `axis`, nan if any is. Equal ones share the gradient. Raises ShapeError where "
             "there is none.")


def _truth(x: Any) -> Any:
    return x if x.dtype.kind in "biufc" else x != 0


def _logical(kind: str, name: str) -> Any:
    """Over all axes NumPy looks no further than the first that decides."""
    def compute(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
        ufunc = getattr(np, name)
        if axis is not None and x.dtype.kind == "b":
            return reduced(np, kind, ufunc, x, axis, keepdims)
        return ufunc.reduce(_truth(x), axis, None, None, keepdims)
    return compute


any = Op("any(x; axis=None, keepdims=False) -> y", _logical("any", "logical_or"), kind="reduction",
         reduce="logical_or", result="bool", check=_checked("any"), batch=_batch("any"), samples=_with_empty,
         doc="True where any element over `axis` is true (not zero); False of nothing.")
all = Op("all(x; axis=None, keepdims=False) -> y", _logical("all", "logical_and"), kind="reduction",
         reduce="logical_and", result="bool", check=_checked("all"), batch=_batch("all"), samples=_with_empty,
         doc="True where all elements over `axis` are true (not zero); True of nothing.")
def _nonzeros(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    x = x if x.dtype.kind == "b" else x != 0
    done = _native(np, "sum", x, axis, keepdims)
    return np.add.reduce(x, axis, np.int64, None, keepdims) if done is None else done


count_nonzero = Op("count_nonzero(x; axis=None, keepdims=False) -> y", _nonzeros, kind="reduction",
                   result="int64", check=_checked("count_nonzero"), batch=_batch("count_nonzero"), samples=_with_empty,
                   reference=lambda np, x, axis, keepdims: np.sum(np.not_equal(x, 0), axis=axis, keepdims=keepdims),
                   doc="How many elements over `axis` are not zero: int64.")


# ---------------------------------------------------------------------------------------------------------- moments
def _var(np: Any, x: Any, axis: Any, correction: float, keepdims: bool) -> Any:
    if x.size >= _FROM and np is numpy and (x.dtype is dtypes.float32 or x.dtype is dtypes.float64):
        done = large.native("deviation", 32 * x.size, x, axis, keepdims)
        if done is not None:
            free = x.size // (done.size or 1) - correction
            return done / (free if free > 0 else 0)
    many = x.size >= _FROM
    if not many and np is numpy and (done := few.over(_deviations, x, axis, keepdims)) is not None:
        free = x.size // done.size - correction
        return np.divide(done, weak(free if free > 0 else 0, x.dtype))
    total = reduced(np, "sum", np.add, x, axis, True) if many else np.add.reduce(x, axis, None, None, True)
    n = x.size // (total.size or 1)
    d = x - total / n
    d = d.real * d.real + d.imag * d.imag if x.dtype.kind == "c" else d * d
    free = n - correction
    squares = reduced(np, "sum", np.add, d, axis, keepdims) if many else np.add.reduce(d, axis, None, None, keepdims)
    return squares / (free if free > 0 else 0)


def _var_vjp(xp: Any, g: Any, x: Any, axis: Any, correction: float, keepdims: bool) -> Any:
    free = _count(x.shape, axis) - correction
    d = x - xp.mean(x, axis=axis, keepdims=True)
    return _keep(xp, g, axis, keepdims, x.shape) * (d if x.dtype.kind != "c" else xp.conj(d)) * (
        2 / free if free > 0 else math.nan)


def _moment_samples(s: Any) -> list:
    return [((s(3, 4),), {}), ((s(3, 4),), {"axis": 0, "correction": 1}),
            ((s(2, 3, 4),), {"axis": (0, 2), "keepdims": True})]


var = Op("var(x; axis=None, correction=0.0, keepdims=False) -> y", _var, kind="reduction", to_float=True, takes="fc",
         widen=True, result="real", vjp={"x": _var_vjp}, check=_checked("var"), batch=_batch("var"), error=16,
         samples=lambda s: [*_moment_samples(s), ((s(),), {}), ((s(2, 0),), {"axis": 0})],
         doc="The variance over `axis`: squared distances to the mean, summed, divided by `n - correction` "
             "(1 for the unbiased estimate from a sample). Real also for complex `x`.")


def _std_vjp(xp: Any, g: Any, x: Any, y: Any, axis: Any, correction: float, keepdims: bool) -> Any:
    return _var_vjp(xp, xp.where(y == 0, 0, g / (2 * xp.where(y == 0, 1, y))), x, axis, correction, keepdims)


std = Op("std(x; axis=None, correction=0.0, keepdims=False) -> y", lambda np, *a: np.sqrt(_var(np, *a)),
         kind="reduction",
         to_float=True, takes="fc", widen=True, result="real", vjp={"x": _std_vjp}, check=_checked("std"),
         batch=_batch("std"), samples=_moment_samples, error=16,
         doc="The standard deviation over `axis`, the square root of `var`. Its gradient is 0 where it is 0.")


# --------------------------------------------------------------------------------------------- logsumexp and norms
_logsumexps = few.kernels("logsumexp")


def _logsumexp(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if np is numpy:
        done = (few.over(_logsumexps, x, axis, keepdims) if x.size < few.BELOW else
                large.native("logsumexp", 32 * x.size, x, axis, keepdims))
        if done is not None:
            return done
    top = np.maximum.reduce(x, axis, None, None, True, -math.inf)
    infinite = ~np.isfinite(top)
    if top.ndim:
        top[infinite] = 0
    elif infinite:
        top = np.zeros_like(top)
    s = np.log(np.add.reduce(np.exp(x - top), axis, None, None, keepdims))
    return s + top.reshape(s.shape)


def _logsumexp_vjp(xp: Any, g: Any, x: Any, y: Any, axis: Any, keepdims: bool) -> Any:
    y = xp.where(y == -math.inf, 0, y)
    return _keep(xp, g, axis, keepdims, x.shape) * xp.exp(x - _keep(xp, y, axis, keepdims, x.shape))


def _logsumexp_jvp(xp: Any, t: Any, x: Any, y: Any, axis: Any, keepdims: bool) -> Any:
    y = xp.where(y == -math.inf, 0, y)
    return xp.sum(t * xp.exp(x - _keep(xp, y, axis, keepdims, x.shape)), axis=axis, keepdims=keepdims)


def _plain_logsumexp(np: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


logsumexp = Op("logsumexp(x; axis=None, keepdims=False) -> y", _logsumexp, kind="reduction", to_float=True, takes="f",
               widen=True, vjp={"x": _logsumexp_vjp}, jvp={"x": _logsumexp_jvp},
               check=_checked("logsumexp"), batch=_batch("logsumexp"), error=16, samples=_with_empty,
               reference=_plain_logsumexp,
               doc="`log(sum(exp(x)))` over `axis` without overflow; -inf of nothing.")


_NORMS = {1.0: "abs_sum", 2.0: "norm", math.inf: "abs_max"}


def _norm(np: Any, x: Any, ord: float, axis: Any, keepdims: bool) -> Any:
    if x.size >= _FROM and x.dtype.kind == "f" and ord in _NORMS:
        done = _native(np, _NORMS[ord], x, axis, keepdims)
        if done is not None:
            return done
    elif ord == 2 and x.ndim == 1 and not keepdims and axis != () and x.dtype.kind != "c":
        return np.sqrt(x.dot(x))
    if ord == 2:
        if x.dtype.kind == "c":
            squares = x.real * x.real + x.imag * x.imag
        elif axis == (x.ndim - 1,) and x.ndim > 1:
            squares = np.vecdot(x, x)
            return np.sqrt(squares[..., None] if keepdims else squares)
        else:
            squares = x * x
        return np.sqrt(np.add.reduce(squares, axis, None, None, keepdims))
    a = np.absolute(x)
    if ord == 1:
        return np.add.reduce(a, axis, None, None, keepdims)
    if ord == 0:
        return np.add.reduce(a != 0, axis, a.dtype, None, keepdims)
    if ord == math.inf:
        return np.maximum.reduce(a, axis, None, None, keepdims, 0)
    if ord == -math.inf:
        return np.minimum.reduce(a, axis, None, None, keepdims, math.inf)
    return np.add.reduce(a ** ord, axis, None, None, keepdims) ** (1 / ord)


def _norm_vjp(xp: Any, g: Any, x: Any, y: Any, axis: Any, keepdims: bool, ord: float) -> Any:
    g, y = _keep(xp, g, axis, keepdims, x.shape), _keep(xp, y, axis, keepdims, x.shape)
    if ord == 0:
        return xp.zeros(x.shape, dtype=x.dtype)
    if ord == 2:
        return (xp.conj(x) if x.dtype.kind == "c" else x) * xp.where(y == 0, 0, g / xp.where(y == 0, 1, y))
    direction = xp.conj(xp.sign(x)) if x.dtype.kind == "c" else xp.sign(x)
    if ord == 1:
        return g * direction
    a = xp.abs(x)
    if ord in (math.inf, -math.inf):
        chosen = xp.astype(a == y, a.dtype)
        return g / xp.sum(chosen, axis=axis, keepdims=True) * chosen * direction
    ratio = xp.where((a == 0) | (y == 0), 1, a) / xp.where(y == 0, 1, y)
    return g * direction * ratio ** (ord - 1)


_check_axes = _checked("vector_norm")


def _check_norm(x: Any, ord: Any, axis: Any, keepdims: Any) -> tuple:
    try:
        ord = float(ord)
    except (TypeError, ValueError):
        raise ArgumentError(f"vector_norm: ord={ord!r} is not a number; give 0, 1, 2, inf, -inf or another power "
                            "(matrix_norm takes 'fro' and 'nuc')") from None
    return (ord, *_check_axes(x, axis, keepdims))


def _batch_norms(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    x, (ord, axis, keepdims) = inputs[0], statics
    return xp.vector_norm(x, ord, _over(x, axis), keepdims)


def _norm_samples(s: Any) -> list:
    x = s(3, 4, lo=0.3, hi=2)
    return [((x,), {"ord": o, "axis": a}) for o, a in ((2, None), (2, 0), (1, 1), (3, 0), (2.5, (0, 1)), (math.inf, 1),
                                                       (-math.inf, 0), (0, 1))] + [((x,), {"keepdims": True})]


vector_norm = Op("vector_norm(x; ord=2, axis=None, keepdims=False) -> y", _norm, kind="reduction", to_float=True,
                 takes="fc", widen=True, result="real", vjp={"x": _norm_vjp}, check=_check_norm,
                 sure="axis is None and type(ord) is int and keepdims is False",
                 batch=_batch_norms, samples=_norm_samples, error=16,
                 doc="The vector norm over `axis`: `sum(abs(x)**ord)**(1/ord)`; the largest modulus for inf, the "
                     "smallest for -inf, the number of non-zeros for 0. Its gradient is 0 at the origin.")


# ------------------------------------------------------------------------------------------------------- closeness
@composite(samples=lambda s: [((s(2, 3), s(3)), {}), ((s(3), s(3)), {"rtol": 0.5, "equal_nan": True})])
def isclose(xp, x, y, rtol=1e-05, atol=1e-08, equal_nan=False):
    """Where `abs(x - y) <= atol + rtol * abs(y)`, or both are the same infinity: bool. As `numpy.isclose`."""
    near = (xp.abs(x - y) <= atol + rtol * xp.abs(y)) & xp.isfinite(y) | (x == y)
    return near | xp.isnan(x) & xp.isnan(y) if equal_nan else near


@composite(samples=lambda s: [((s(2, 3), s(3)), {})])
def allclose(xp, x, y, rtol=1e-05, atol=1e-08, equal_nan=False):
    """Whether all elements are close, a bool of no axes; see `isclose`."""
    return xp.all(xp.isclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan))
