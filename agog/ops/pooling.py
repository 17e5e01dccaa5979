"""Pooling and patches of x (N, C, ...), in one to three dimensions.

Maximum and sum over a window are taken axis by axis, so that a window of k x k costs 2k steps and not k².
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from agog.array import large
from agog.errors import ArgumentError, ShapeError
from agog.ops.blocks import native, reduced
from agog.ops.conv import batched_form, each_axis, windows
from agog.ops.row import Op, composite


def _describe(x):
    return f"{x.dtype}{list(x.shape)}"


def _at(axis, where):
    return (slice(None),) * axis + (where,)


# ------------------------------------------------------------------------------------------------------- window sizes
def _geometry(name, x, rank, *given):
    """`_normalised`, which is worked out once for what is given as whole numbers."""
    if not _WHOLE.issuperset(map(type, given)):
        return _normalised(name, x, rank, *given)
    key = name, x.shape, given
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST:
            _known.clear()
        found = _known[key] = _normalised(name, x, rank, *given)
    return found


_WHOLE = {int, bool, type(None)}
_MOST = 256
_known: dict[Any, Any] = {}


def _normalised(name, x, rank, kernel, stride, padding, dilation, ceil_mode):
    """Normalised (kernel, stride, padding pairs with room for the last window, dilation, given padding)."""
    kernel = each_axis(name, "kernel_size", kernel, rank, 1)
    stride = kernel if stride is None else each_axis(name, "stride", stride, rank, 1)
    padding = each_axis(name, "padding", padding, rank, 0)
    dilation = each_axis(name, "dilation", dilation, rank, 1)
    pairs = []
    for i, (n, k, s, p, d) in enumerate(zip(x.shape[2:], kernel, stride, padding, dilation)):
        if 2 * p > k:
            raise ArgumentError(f"{name}: padding {p} is more than half of the kernel size {k} (spatial axis {i}): "
                                "some "
                                "windows would hold nothing but padding")
        reach = d * (k - 1) + 1
        if n + 2 * p < reach and not (ceil_mode and n + 2 * p > 0):
            raise ShapeError(f"{name}(x={_describe(x)}): the window covers {reach} positions of spatial axis {i}, "
                             "which "
                             f"has only {n + 2 * p} with padding")
        high = p
        if ceil_mode:
            out = -(-(n + 2 * p - reach) // s) + 1
            if (out - 1) * s >= n + p:
                out -= 1
            high = max(p, (out - 1) * s + reach - n - p)
        pairs.append((p, high))
    return kernel, stride, tuple(pairs), dilation, padding


def _out_sizes(sizes, kernel, stride, padding, dilation):
    return tuple((n + lo + hi - d * (k - 1) - 1) // s + 1
                 for n, k, s, (lo, hi), d in zip(sizes, kernel, stride, padding, dilation))


def _padded(np, x, padding, value):
    if not any(lo or hi for lo, hi in padding):
        return x
    out = np.full(x.shape[:2] + tuple(n + lo + hi for n, (lo, hi) in zip(x.shape[2:], padding)), value, x.dtype)
    out[_inner(x.shape[2:], padding)] = x
    return out


def _inner(sizes, padding):
    return (slice(None), slice(None)) + tuple(slice(lo, lo + n) for n, (lo, _) in zip(sizes, padding))


def _whole(x, kernel, stride, padding):
    """Whether one window is all of the image."""
    return stride == kernel and x.shape[2:] == kernel and not any(lo or hi for lo, hi in padding)


def _along_windows(x, ufunc, kernel, stride, dilation):
    """ufunc over each window, axis by axis."""
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation)):
        axis = 2 + i
        out = (x.shape[axis] - d * (k - 1) - 1) // s + 1
        taps = [x[_at(axis, slice(a * d, a * d + (out - 1) * s + 1, s))] for a in range(k)]
        if k == 1:
            x = taps[0]
            continue
        x = ufunc(taps[0], taps[1])
        for tap in taps[2:]:
            ufunc(x, tap, out=x)
    return x


def _fold_batch(name):
    """The batching rule of rows whose arrays all have a leading axis of samples."""
    def rule(xp, batched, arrays, statics):
        size = next(a.shape[0] for a, b in zip(arrays, batched) if b)
        flat = []
        for a, b in zip(arrays, batched):
            a = a if b else xp.broadcast_to(a, (size, *a.shape))
            flat.append(xp.reshape(a, (a.shape[0] * a.shape[1], *a.shape[2:])))
        y = getattr(xp, name)(*flat, *statics)
        return xp.reshape(y, (size, y.shape[0] // size, *y.shape[1:]))
    return rule


# ------------------------------------------------------------------------------------------------------------- maximum
def _lowest(np, dtype):
    if dtype.kind in "iu":
        return np.iinfo(dtype).min
    return False if dtype.kind == "b" else -np.inf


def _nothing(np, dtype):
    """Padding that equals no maximum, not even that of a window of -inf."""
    return np.nan if dtype.kind == "f" else _lowest(np, dtype)


def _max_pool(np, x, kernel, stride, padding, dilation):
    if not x.size:
        return np.zeros(x.shape[:2] + _out_sizes(x.shape[2:], kernel, stride, padding, dilation), x.dtype)
    if _whole(x, kernel, stride, padding):
        return reduced(np, "max", np.maximum, x, tuple(range(2, x.ndim)), True)
    done = native(np, "_max_pool", max(x.size, large.CALLS), x, kernel, stride, padding, dilation)
    if done is not None:
        return done
    y = _along_windows(_padded(np, x, padding, _lowest(np, x.dtype)), np.maximum, kernel, stride, dilation)
    return y.copy() if y.base is not None else y


def _taps(np, x, y, kernel, stride, dilation):
    """For each tap: where it is the first of its window to hold the maximum, and its place in the padded input."""
    taken = None
    for at in product(*map(range, kernel)):
        where = (slice(None), slice(None)) + tuple(
            slice(a * d, a * d + (n - 1) * s + 1, s) for a, d, s, n in zip(at, dilation, stride, y.shape[2:]))
        hit = x[where] == y
        if taken is None:
            taken = hit.copy()
        else:
            np.greater(hit, taken, out=hit)
            taken |= hit
        yield hit, where


def _max_scatter(np, g, x, y, kernel, stride, padding, dilation):
    done = native(np, "_max_pool_scatter", max(2 * x.size, large.CALLS), g, x, y, kernel, stride, padding, dilation)
    if done is not None:
        return done
    padded = _padded(np, x, padding, _nothing(np, x.dtype))
    out = np.zeros(padded.shape, g.dtype)
    apart = all(s >= d * (k - 1) + 1 for k, s, d in zip(kernel, stride, dilation))
    if y.size:
        for hit, where in _taps(np, padded, y, kernel, stride, dilation):
            if apart:
                np.copyto(out[where], g, where=hit)
            else:
                out[where] += np.where(hit, g, g.dtype.type(0))  # not g * hit: inf * 0 is nan
    return out if out.shape == x.shape else out[_inner(x.shape[2:], padding)]


def _max_gather(np, u, x, y, kernel, stride, padding, dilation):
    padded, u = _padded(np, x, padding, _nothing(np, x.dtype)), _padded(np, u, padding, 0)
    out = np.zeros(y.shape, u.dtype)
    if y.size:
        for hit, where in _taps(np, padded, y, kernel, stride, dilation):
            np.copyto(out, u[where], where=hit)
    return out


def _max_indices(np, x, y, kernel, stride, padding, dilation):
    done = native(np, "_max_pool_indices", 2 * x.size, x, y, kernel, stride, padding, dilation)
    if done is not None:
        return done
    places = np.arange(math.prod(x.shape[2:]), dtype=np.int64).reshape((1, 1) + x.shape[2:])
    return _max_gather(np, np.broadcast_to(places, x.shape), x, y, kernel, stride, padding, dilation)


_WINDOW = "kernel, stride, padding, dilation"
_WINDOWS = [((2, 3, 6, 4), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
            ((1, 2, 7, 5), (3, 2), (2, 1), ((1, 1), (1, 0)), (1, 2)),
            ((2, 1, 7), (3,), (2,), ((1, 1),), (1,))]


def _window_samples(arrays):
    def make(s):
        out = []
        for shape, kernel, stride, padding, dilation in _WINDOWS:
            st = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
            out.append((arrays(s, shape, st), st))
        return out
    return make


def _distinct(s, shape):
    """An array without ties, whose elements lie further apart than any step of finite differences."""
    n = math.prod(shape)
    return ((s.rng.permutation(n) - n / 2) / 8).reshape(shape).astype(s.dtype)


def _pooled(s, shape, st):
    x = _distinct(s, shape)
    return x, _max_pool(np, x, *st.values())


def _scatter_rule(xp, u, x, y, kernel, stride, padding, dilation):
    return xp._max_pool_gather(u, x, y, kernel, stride, padding, dilation)


def _gather_rule(xp, g, x, y, kernel, stride, padding, dilation):
    return xp._max_pool_scatter(g, x, y, kernel, stride, padding, dilation)


max_pool = Op(
    f"_max_pool(x; {_WINDOW}) -> y", _max_pool, takes="bif", widen=True, kind="pooling",
    batch=_fold_batch("_max_pool"),
    vjp={"x": _gather_rule},
    jvp={"x": lambda xp, t, x, y, kernel, stride, padding, dilation: xp._max_pool_gather(
        t, x, y, kernel, stride, padding, dilation)},
    samples=_window_samples(lambda s, shape, st: (_distinct(s, shape),)),
    doc="The largest element of each window of x (N, C, ...). The gradient goes to the first of equal ones.")
Op(f"_max_pool_scatter(g, x, y; {_WINDOW}) -> dx", _max_scatter, takes="fc", widen=True, kind="pooling",
   linear_in=("g",),
   promotes=("g",), vjp={"g": _scatter_rule}, batch=_fold_batch("_max_pool_scatter"),
   samples=_window_samples(lambda s, shape, st: (lambda x, y: (s(*y.shape), x, y))(*_pooled(s, shape, st))),
   smooth=False, doc="g put where x (N, C, ...) had the maximum y of each window; zero elsewhere.")
Op(f"_max_pool_gather(u, x, y; {_WINDOW}) -> z", _max_gather, takes="fc", kind="pooling", linear_in=("u",),
   promotes=("u",), vjp={"u": _gather_rule}, batch=_fold_batch("_max_pool_gather"),
   samples=_window_samples(lambda s, shape, st: (s(*shape), *_pooled(s, shape, st))),
   smooth=False, doc="The elements of u where x (N, C, ...) had the maximum y of each window.")
Op(f"_max_pool_indices(x, y; {_WINDOW}) -> indices", _max_indices, takes="bif", result="int64", kind="pooling",
   batch=_fold_batch("_max_pool_indices"), samples=_window_samples(lambda s, shape, st: _pooled(s, shape, st)),
   doc="Where x had the maximum y of each window: places in the flattened spatial axes (int64).")


def _max(xp, rank, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    name = f"max_pool{rank}d"
    x, single = batched_form(xp, name, x, rank)
    geometry = _geometry(name, x, rank, kernel_size, stride, padding, dilation, ceil_mode)[:4]
    y = xp._max_pool(x, *geometry)
    found = (y, xp._max_pool_indices(x, y, *geometry)) if return_indices else (y,)
    found = tuple(xp.squeeze(f, axis=0) for f in found) if single else found
    return found if return_indices else found[0]


@composite(samples=lambda s: [((_distinct(s, (2, 3, 8)),), {"kernel_size": 2}),
                              ((_distinct(s, (3, 7)),), {"kernel_size": 3, "stride": 2, "ceil_mode": True})])
def max_pool1d(xp, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Maximum over windows of x (N, C, L) or (C, L); see max_pool2d."""
    return _max(xp, 1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(samples=lambda s: [((_distinct(s, (2, 3, 6, 4)),), {"kernel_size": 2}),
                              ((_distinct(s, (1, 2, 5, 6)),), {"kernel_size": 3, "stride": (2, 1), "padding": 1})])
def max_pool2d(xp, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Maximum over windows of x (N, C, H, W) or (C, H, W).

    stride          default: the kernel size
    padding         on both sides, at most half of the kernel; it never wins
    ceil_mode       also windows that begin inside and reach beyond the end
    return_indices  (maxima, their places in the flattened H x W)
    The gradient goes to the first of equal maxima.
    """
    return _max(xp, 2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(samples=lambda s: [((_distinct(s, (1, 2, 4, 4, 4)),), {"kernel_size": 2})])
def max_pool3d(xp, x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Maximum over windows of x (N, C, D, H, W) or (C, D, H, W); see max_pool2d."""
    return _max(xp, 3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


# ------------------------------------------------------------------------------------------------------------- average
@lru_cache(maxsize=256)
def windows_scale(sizes, kernel, stride, padding, bounds, dtype):
    """1 / number of elements that count, for each window: an array (*out,), or one number if all are equal."""
    shares = np.ones(())
    for n, k, s, (lo, hi), (blo, bhi) in zip(sizes, kernel, stride, padding, bounds):
        out = (n + lo + hi - k) // s + 1
        start = np.arange(out) * s - lo
        count = np.minimum(start + k, n + bhi) - np.maximum(start, -blo)
        shares = shares[..., None] / np.maximum(count, 1)
    if shares.size and (shares == shares.flat[0]).all():
        return float(shares.flat[0])
    return shares.astype(dtype)




def _avg_pool(np, x, kernel, stride, padding, bounds):
    ones = (1,) * len(kernel)
    if not x.size:
        return np.zeros(x.shape[:2] + _out_sizes(x.shape[2:], kernel, stride, padding, ones), x.dtype)
    scale = windows_scale(x.shape[2:], kernel, stride, padding, bounds, x.dtype)
    if _whole(x, kernel, stride, padding):
        return reduced(np, "sum", np.add, x, tuple(range(2, x.ndim)), True) * scale
    done = native(np, "_avg_pool", max(x.size, large.CALLS), x, kernel, stride, padding, bounds)
    if done is not None:
        return done
    return _along_windows(_padded(np, x, padding, 0), np.add, kernel, stride, ones) * scale


def _avg_pool_adjoint(np, g, size, kernel, stride, padding, bounds):
    work = max(g.shape[0] * g.shape[1] * math.prod(size), large.CALLS)
    done = native(np, "_avg_pool_adjoint", work, g, size, kernel, stride, padding, bounds)
    if done is not None:
        return done
    g = g * windows_scale(size, kernel, stride, padding, bounds, g.dtype)
    for i, (k, s, (lo, hi), n) in enumerate(zip(kernel, stride, padding, size)):
        axis, out = 2 + i, g.shape[2 + i]
        if k == s and not lo:
            g = np.repeat(g, k, axis)
            short = n - g.shape[axis]
            if short > 0:
                g = np.concatenate([g, np.zeros_like(g, shape=g.shape[:axis] + (short,) + g.shape[axis + 1:])], axis)
            g = g[_at(axis, slice(0, n))]
            continue
        full = np.zeros(g.shape[:axis] + (n + lo + hi,) + g.shape[axis + 1:], g.dtype)
        if out > 0:
            for a in range(k):
                full[_at(axis, slice(a, a + (out - 1) * s + 1, s))] += g
        g = full[_at(axis, slice(lo, lo + n))]
    return g


_AVERAGES = [((2, 3, 6, 4), (2, 2), (2, 2), ((0, 0), (0, 0)), ((0, 0), (0, 0))),
             ((1, 2, 7, 5), (3, 2), (2, 1), ((1, 1), (1, 1)), ((1, 1), (0, 0))),
             ((1, 2, 7), (3,), (3,), ((0, 2),), ((0, 0),))]


def _average_samples(adjoint):
    def make(s):
        out = []
        for shape, kernel, stride, padding, bounds in _AVERAGES:
            st = {"kernel": kernel, "stride": stride, "padding": padding, "bounds": bounds}
            g = shape[:2] + _out_sizes(shape[2:], kernel, stride, padding, (1,) * len(kernel))
            out.append(((s(*g),), {"size": shape[2:]} | st) if adjoint else ((s(*shape),), st))
        return out
    return make


_BOUNDED = "kernel, stride, padding, bounds"
Op(f"_avg_pool(x; {_BOUNDED}) -> y", _avg_pool, takes="fc", to_float=True, widen=True, kind="pooling", linear_in="all",
   vjp={"x": lambda xp, g, x_shape, kernel, stride, padding, bounds: xp._avg_pool_adjoint(
       g, x_shape[2:], kernel, stride, padding, bounds)},
   batch=_fold_batch("_avg_pool"), samples=_average_samples(False),
   doc="The mean of each window of x (N, C, ...); `bounds` says how much of the padding counts as elements.")
Op(f"_avg_pool_adjoint(g; size, {_BOUNDED}) -> x", _avg_pool_adjoint, takes="fc", widen=True, kind="pooling",
   linear_in="all", vjp={"g": lambda xp, u, kernel, stride, padding, bounds: xp._avg_pool(
       u, kernel, stride, padding, bounds)},
   batch=_fold_batch("_avg_pool_adjoint"), samples=_average_samples(True),
   doc="The transpose of `_avg_pool`: g / count spread over each window.")


def _avg(xp, rank, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None,
         name="avg_pool"):
    name = f"{name}{rank}d"
    x, single = batched_form(xp, name, x, rank)
    kernel, stride, pairs, _, given = _geometry(name, x, rank, kernel_size, stride, padding, 1, ceil_mode)
    bounds = tuple((p, p) if count_include_pad else (0, 0) for p in given)
    if divisor_override is not None:
        if divisor_override == 0:
            raise ArgumentError(f"{name}: divisor_override must not be 0")
        bounds = pairs
    y = xp._avg_pool(x, kernel, stride, pairs, bounds)
    if divisor_override is not None:
        y = y * (math.prod(kernel) / divisor_override)
    return xp.squeeze(y, axis=0) if single else y


@composite(samples=lambda s: [((s(2, 3, 8),), {"kernel_size": 2}), ((s(3, 7),), {"kernel_size": 3, "stride": 2})])
def avg_pool1d(xp, x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Mean over windows of x (N, C, L) or (C, L); see avg_pool2d."""
    return _avg(xp, 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


@composite(samples=lambda s: [((s(2, 3, 6, 4),), {"kernel_size": 2}),
                              ((s(1, 2, 5, 6),), {"kernel_size": 3, "stride": (2, 1), "padding": 1,
                                                  "count_include_pad": False})])
def avg_pool2d(xp, x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
               divisor_override=None):
    """Mean over windows of x (N, C, H, W) or (C, H, W).

    stride             default: the kernel size
    ceil_mode          also windows that begin inside and reach beyond the end
    count_include_pad  zeros of the padding count as elements
    divisor_override   divide the sums by this number instead
    """
    return _avg(xp, 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@composite(samples=lambda s: [((s(1, 2, 4, 4, 4),), {"kernel_size": 2})])
def avg_pool3d(xp, x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
               divisor_override=None):
    """Mean over windows of x (N, C, D, H, W) or (C, D, H, W); see avg_pool2d."""
    return _avg(xp, 3, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _lp(xp, rank, x, norm_type, kernel_size, stride, ceil_mode):
    if norm_type <= 0:
        raise ArgumentError(f"lp_pool{rank}d: norm_type={norm_type}; it must be positive")
    power = x * x if norm_type == 2 else xp.abs(x) ** norm_type
    total = _avg(xp, rank, power, kernel_size, stride, 0, ceil_mode, True, 1, name="lp_pool")
    empty = total == 0
    total = xp.where(empty, 1, total)  # the gradient of windows of zeros is 0
    return xp.where(empty, 0, xp.sqrt(total) if norm_type == 2 else total ** (1.0 / norm_type))


@composite(samples=lambda s: [((s(2, 3, 8, lo=0.5), 2.0), {"kernel_size": 2})])
def lp_pool1d(xp, x, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(sum of |x|^p)^(1/p) over windows of x (N, C, L), with p = norm_type."""
    return _lp(xp, 1, x, norm_type, kernel_size, stride, ceil_mode)


@composite(samples=lambda s: [((s(2, 3, 4, 4, lo=0.5), 3.0), {"kernel_size": 2})])
def lp_pool2d(xp, x, norm_type, kernel_size, stride=None, ceil_mode=False):
    """(sum of |x|^p)^(1/p) over windows of x (N, C, H, W), with p = norm_type."""
    return _lp(xp, 2, x, norm_type, kernel_size, stride, ceil_mode)


# ------------------------------------------------------------------------------------------------ adaptive and global
def _output_sizes(name, x, rank, size):
    if isinstance(size, int):
        size = (size,) * rank
    sizes = tuple(n if s is None else s for s, n in zip(size, x.shape[2:]))
    if len(size) != rank or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise ArgumentError(f"{name}: output_size={size!r}; give a whole number of at least 1, or a tuple of {rank} "
                            "(None "
                            "keeps the size)")
    if not math.prod(x.shape[2:]):
        raise ShapeError(f"{name}(x={_describe(x)}): x has no elements along a spatial axis")
    return sizes


def _adaptive(xp, rank, x, output_size, largest):
    name = f"adaptive_{'max' if largest else 'avg'}_pool{rank}d"
    x, single = batched_form(xp, name, x, rank)
    out = _output_sizes(name, x, rank, output_size)
    sizes = tuple(x.shape[2:])
    if not largest and out == (1,) * rank:
        y = xp.mean(x, axis=tuple(range(2, 2 + rank)), keepdims=True)
    elif all(n % o == 0 for n, o in zip(sizes, out)):
        kernel, none = tuple(n // o for n, o in zip(sizes, out)), ((0, 0),) * rank
        y = (xp._max_pool(x, kernel, kernel, none, (1,) * rank) if largest
             else xp._avg_pool(x, kernel, kernel, none, none))
    elif not largest:
        y = x
        for i, (n, o) in enumerate(zip(sizes, out)):
            if n != o:
                y = xp._axis_map(y, 2 + i, ("adaptive", n, o, None, False))
    else:
        y = x
        for i, (n, o) in reversed(list(enumerate(zip(sizes, out)))):  # of equal ones, the first in the order of memory
            bins = [y[_at(2 + i, slice(j * n // o, -(-(j + 1) * n // o)))] for j in range(o)]
            y = xp.concat([xp.take_along_axis(b, xp.argmax(b, axis=2 + i, keepdims=True), axis=2 + i) for b in bins],
                          axis=2 + i)
    return xp.squeeze(y, axis=0) if single else y


@composite(samples=lambda s: [((s(2, 3, 7), 3), {})])
def adaptive_avg_pool1d(xp, x, output_size):
    """Mean of x (N, C, L) over `output_size` bins, as even as they can be."""
    return _adaptive(xp, 1, x, output_size, False)


@composite(samples=lambda s: [((s(2, 3, 6, 4), (3, 2)), {}), ((s(2, 3, 5, 4), 3), {})])
def adaptive_avg_pool2d(xp, x, output_size):
    """Mean of x (N, C, H, W) over bins, as even as they can be; `output_size` is a number or (H, W), None keeps a "
      "size."""
    return _adaptive(xp, 2, x, output_size, False)


@composite(samples=lambda s: [((s(1, 2, 4, 3, 2), 2), {})])
def adaptive_avg_pool3d(xp, x, output_size):
    """Mean of x (N, C, D, H, W) over bins; see adaptive_avg_pool2d."""
    return _adaptive(xp, 3, x, output_size, False)


@composite(samples=lambda s: [((_distinct(s, (2, 3, 7)), 3), {})])
def adaptive_max_pool1d(xp, x, output_size):
    """Maximum of x (N, C, L) over `output_size` bins, as even as they can be."""
    return _adaptive(xp, 1, x, output_size, True)


@composite(samples=lambda s: [((_distinct(s, (2, 3, 6, 4)), (3, 2)), {}), ((_distinct(s, (2, 3, 5, 4)), 3), {})])
def adaptive_max_pool2d(xp, x, output_size):
    """Maximum of x (N, C, H, W) over bins; see adaptive_avg_pool2d."""
    return _adaptive(xp, 2, x, output_size, True)


@composite(samples=lambda s: [((_distinct(s, (1, 2, 4, 3, 2)), 2), {})])
def adaptive_max_pool3d(xp, x, output_size):
    """Maximum of x (N, C, D, H, W) over bins; see adaptive_avg_pool2d."""
    return _adaptive(xp, 3, x, output_size, True)


@composite(samples=lambda s: [((s(2, 3, 4, 2),), {}), ((s(2, 3, 4),), {"keepdims": True})])
def global_avg_pool(xp, x, keepdims=False):
    """Mean over all axes of x (N, C, ...) but the first two."""
    return xp.mean(x, axis=tuple(range(2, len(x.shape))), keepdims=keepdims)


@composite(samples=lambda s: [((_distinct(s, (2, 3, 4, 2)),), {})])
def global_max_pool(xp, x, keepdims=False):
    """Maximum over all axes of x (N, C, ...) but the first two."""
    return xp.max(x, axis=tuple(range(2, len(x.shape))), keepdims=keepdims)


# ------------------------------------------------------------------------------------------------------------- patches
def _patches(np, x, kernel, stride, padding, dilation):
    out = _out_sizes(x.shape[2:], kernel, stride, padding, dilation)
    if not x.size:
        return np.zeros((x.shape[0], x.shape[1] * math.prod(kernel), math.prod(out)), x.dtype)
    view = windows(np, _padded(np, x, padding, 0), kernel, stride, dilation, out)
    return view.reshape(x.shape[0], x.shape[1] * math.prod(kernel), math.prod(out))


def _patches_adjoint(np, g, size, kernel, stride, padding, dilation):
    out = _out_sizes(size, kernel, stride, padding, dilation)
    c = g.shape[1] // math.prod(kernel)
    full = np.zeros((g.shape[0], c) + tuple(n + lo + hi for n, (lo, hi) in zip(size, padding)), g.dtype)
    parts = g.reshape((g.shape[0], c) + tuple(kernel) + out)
    both = (slice(None), slice(None))
    for at in product(*map(range, kernel)):
        where = tuple(slice(a * d, a * d + (n - 1) * s + 1, s) for a, d, s, n in zip(at, dilation, stride, out))
        full[both + where] += parts[both + at]
    return full[_inner(size, padding)]


Op(f"_patches(x; {_WINDOW}) -> y", _patches, kind="movement", linear_in="all", batch=_fold_batch("_patches"),
   vjp={"x": lambda xp, g, x_shape, kernel, stride, padding, dilation: xp._patches_adjoint(
       g, x_shape[2:], kernel, stride, padding, dilation)},
   samples=_window_samples(lambda s, shape, st: (s(*shape),)),
   doc="Windows of x (N, C, ...) as columns: (N, C * taps, windows).")
Op(f"_patches_adjoint(g; size, {_WINDOW}) -> x", _patches_adjoint, takes="ifc", kind="movement", linear_in="all",
   batch=_fold_batch("_patches_adjoint"), widen=True,
   vjp={"g": lambda xp, u, kernel, stride, padding, dilation: xp._patches(u, kernel, stride, padding, dilation)},
   samples=lambda s: [((s(2, 3 * 4, 6),), {"size": (6, 4), "kernel": (2, 2), "stride": (2, 2),
                                           "padding": ((0, 0), (0, 0)), "dilation": (1, 1)})],
   doc="The transpose of `_patches`: columns added up where they came from.")


@composite(samples=lambda s: [((s(2, 3, 4, 5), 2), {}), ((s(1, 2, 5, 5), 3), {"stride": 2, "padding": 1})])
def unfold(xp, x, kernel_size, dilation=1, padding=0, stride=1):
    """The windows of x (N, C, H, W) as columns (N, C * kH * kW, number of windows): "im2col", as torch's unfold."""
    kernel = each_axis("unfold", "kernel_size", kernel_size, 2, 1)
    x, single = batched_form(xp, "unfold", x, 2)
    stride, dilation = each_axis("unfold", "stride", stride, 2, 1), each_axis("unfold", "dilation", dilation, 2, 1)
    padding = tuple((p, p) for p in each_axis("unfold", "padding", padding, 2, 0))
    if min(_out_sizes(x.shape[2:], kernel, stride, padding, dilation)) < 1:
        raise ShapeError(f"unfold(x={_describe(x)}, kernel_size={kernel}): the window is larger than the padded image")
    y = xp._patches(x, kernel, stride, padding, dilation)
    return xp.squeeze(y, axis=0) if single else y


@composite(samples=lambda s: [((s(2, 12, 12), (4, 5), 2), {}), ((s(1, 18, 9), 5, 3), {"stride": 2, "padding": 1})])
def fold(xp, x, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Columns (N, C * kH * kW, windows) added up to images (N, C, H, W) of output_size (H, W): the transpose of "
      "unfold."""
    size = each_axis("fold", "output_size", output_size, 2, 1)
    kernel = each_axis("fold", "kernel_size", kernel_size, 2, 1)
    stride, dilation = each_axis("fold", "stride", stride, 2, 1), each_axis("fold", "dilation", dilation, 2, 1)
    padding = tuple((p, p) for p in each_axis("fold", "padding", padding, 2, 0))
    single = len(x.shape) == 2
    x = xp.expand_dims(x, axis=0) if single else x
    count, taps = math.prod(_out_sizes(size, kernel, stride, padding, dilation)), math.prod(kernel)
    if len(x.shape) != 3 or x.shape[2] != count or x.shape[1] % taps:
        raise ShapeError(f"fold(x={_describe(x)}, output_size={size}, kernel_size={kernel}): x has shape (N, C * "
                         f"{taps}, "
                         f"{count}): one column for each of the {count} windows")
    y = xp._patches_adjoint(x, size, kernel, stride, padding, dilation)
    return xp.squeeze(y, axis=0) if single else y
