"""Random numbers as pure functions of a key: the same key gives the same numbers, on any number of threads.

A key is an array of two uint32 words. The bits are those of Philox-4x64-10 (Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", 2011) under that key, in streams for different purposes (see `draws`), which keeps the keys made by
`random_split` and `random_fold_in` apart from the numbers drawn.

Only bits come from NumPy's generator (whose Philox is specified and stable); every distribution is made here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agog.array import dtypes, large
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from agog.ops import axes as ax
from agog.ops.draws import (
    EXPONENTIAL,
    FOLD,
    NORMAL,
    NOTHING,
    SPLIT,
    UNIFORM,
    array_of,
    exponential64,
    fill,
    integers_drawn,
    native,
    normal64,
    uniform64,
)
from agog.ops.draws import mask as dropout_mask
from agog.ops.draws import words as _words
from agog.ops.row import Op, composite


# ------------------------------------------------------------------------------------------------------------- checks
def check_key(name, key):
    if type(key) is np.ndarray and key.dtype is dtypes.uint32 and key.shape == _KEY_SHAPE:
        return
    dtype = getattr(key, "dtype", None)
    if dtype is not dtypes.uint32 and dtype != np.uint32 or key.shape != (2,):
        given = f"{key.dtype}{list(key.shape)}" if hasattr(key, "shape") else repr(key)
        raise ArgumentTypeError(f"{name}: key={given}; a key is a uint32 array of shape (2,): make one with "
                                "random_key(seed), random_split or random_fold_in")


_KEY_SHAPE = (2,)


def _float_dtype(name, dtype):
    if dtype is dtypes.float32:
        return dtype
    dtype = dtypes.default_float() if dtype is None else dtypes.dtype(dtype)
    if not dtypes.is_floating(dtype):
        raise DTypeError(f"{name}: dtype={dtype}; give a floating dtype")
    return dtype


def _check(name):
    def check(key, shape, dtype):
        check_key(name, key)
        return ax.shape(name, shape), _float_dtype(name, dtype)
    return check


def _one_key(s):
    return s.rng.integers(0, 2 ** 32, 2).astype(np.uint32)


def _samples(statics, *makers):
    return lambda s: [((_one_key(s), *(m(s) for m in makers)), dict(statics))]


# --------------------------------------------------------------------------------------------------------------- keys
random_split = Op(
    "random_split(key; n=2) -> keys", lambda np, key, n: _words(key, 0, n, SPLIT).view(np.uint32).reshape(n, 2),
    promotes=(), result=lambda *a: np.dtype("uint32"), kind="random", smooth=False, samples=_samples({"n": 3}),
    check=lambda key, n: (check_key("random_split", key), _count(n))[1:],
    doc="`n` new keys (n, 2), independent of each other and of what the old one gives, which should not be used again.")


def _count(n):
    if not isinstance(n, int) or n < 0:
        raise ArgumentError(f"random_split: n={n!r}; give a whole number of at least 0")
    return n


def _fold_in(np, key, data):
    return _words(key, 0, 1, FOLD, int(data) & (1 << 64) - 1).view(np.uint32)


def _check_fold(key, data):
    check_key("random_fold_in", key)
    if data.shape != () or data.dtype.kind not in "iu":
        raise ArgumentTypeError(f"random_fold_in: data={data.dtype}{list(data.shape)}; give one whole number")
    return ()


random_fold_in = Op(
    "random_fold_in(key, data) -> key2", _fold_in, promotes=(), result=lambda *a: np.dtype("uint32"), kind="random",
    smooth=False, samples=lambda s: [((_one_key(s), np.array(3)), {})], check=_check_fold,
    doc="A new key from a key and a whole number (a step, a layer, a rank).")


@composite
def random_key(xp, seed):
    """The key of a seed: a whole number from 0 to 2**64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ArgumentError(f"random_key: seed={seed!r}; give a whole number from 0 to 2**64 - 1")
    return xp._random_key(seed=seed)


Op("_random_key(; seed) -> key", lambda np, seed: np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32),
   result=lambda *a: np.dtype("uint32"), kind="random", smooth=False, samples=lambda s: [((), {"seed": 5})],
   doc="The two words of a seed.")


# ------------------------------------------------------------------------------------------------------------ the rows
def _bits(np, key, shape, dtype):
    dtype = dtypes.dtype(dtype)
    out = np.empty(shape, dtype)

    def copy(words, part):
        np.copyto(part, words.view(dtype)[:part.size])

    return fill(key, out, 8 // dtype.itemsize, copy)


def _check_bits(key, shape, dtype):
    check_key("random_bits", key)
    dtype = dtypes.dtype(dtype)
    if dtype.kind != "u":
        raise DTypeError(f"random_bits: dtype={dtype}; give an unsigned integer dtype")
    return ax.shape("random_bits", shape), dtype


_FLOAT32 = {"shape": (3, 4), "dtype": np.dtype("float32")}
_KEYED: dict[str, Any] = {"promotes": (), "kind": "random", "smooth": False, "result": lambda *a: a[-1]}

random_bits = Op("random_bits(key; shape=(), dtype=uint32) -> x", _bits, check=_check_bits, **_KEYED,
                 samples=_samples({"shape": (3, 4)}), doc="Uniform bits: unsigned integers over their whole range.")
random_uniform = Op(
    "random_uniform(key; shape=(), dtype=None) -> x",
    lambda np, key, shape, dtype: UNIFORM(key, shape, _default(dtype)),
    reference=lambda np, key, shape, dtype: UNIFORM(key, shape, dtypes.float32), **_KEYED,
    check=_check("random_uniform"), samples=_samples(_FLOAT32),
    doc="Uniform in [0, 1): multiples of 2**-24 (float32) or 2**-53 (float64).")
random_normal = Op(
    "random_normal(key; shape=(), dtype=None) -> x",
    lambda np, key, shape, dtype: NORMAL(key, shape, _default(dtype)),
    reference=lambda np, key, shape, dtype: NORMAL(key, shape, dtypes.float32), **_KEYED,
    check=_check("random_normal"), samples=_samples(_FLOAT32),
    doc="The standard normal distribution, by Box and Muller's transform. Scale and shift it: loc + scale * x.")
random_exponential = Op(
    "random_exponential(key; shape=(), dtype=None) -> x",
    lambda np, key, shape, dtype: EXPONENTIAL(key, shape, _default(dtype)),
    reference=lambda np, key, shape, dtype: EXPONENTIAL(key, shape, dtypes.float32), **_KEYED,
    check=_check("random_exponential"), samples=_samples(_FLOAT32),
    doc="The exponential distribution of rate 1.")


def _default(dtype):
    return dtypes.default_float() if dtype is None else dtypes.dtype(dtype)


@composite(samples=_samples(_FLOAT32))
def random_gumbel(xp, key, shape=(), dtype=None):
    """The standard Gumbel distribution: -log of an exponential variable."""
    return -xp.log(xp.random_exponential(key, shape=shape, dtype=dtype))


# ----------------------------------------------------------------------------------------------------------- integers
def _bounded(key, n, span, number=0):
    """n unbiased numbers from 0 to span - 1 (uint64): Lemire's method, "Fast random integer generation", 2019."""
    out = np.empty(n, np.uint64)
    if span == 1 << 64:
        return fill(key, out, 1, lambda words, part: np.copyto(part, words[:part.size]), number)
    rejected = []
    if span <= 1 << 32:
        limit, factor = (1 << 32) % span, np.uint64(span)

        def work(words, part):
            wide = words.view(np.uint32)[:part.size].astype(np.uint64)
            wide *= factor
            np.right_shift(wide, np.uint64(32), out=part)
            if limit:
                bad = np.flatnonzero(wide & np.uint64(0xFFFFFFFF) < limit)
                if bad.size:
                    rejected.append((part, bad))
        fill(key, out, 2, work, number)
    else:
        limit, factor = (1 << 64) - (1 << 64) % span, np.uint64(span)

        def work(words, part):
            words = words[:part.size]
            np.remainder(words, factor, out=part)
            if limit < 1 << 64:
                bad = np.flatnonzero(words >= np.uint64(limit))
                if bad.size:
                    rejected.append((part, bad))
        fill(key, out, 1, work, number)
    if rejected:
        base = out.__array_interface__["data"][0]
        rejected.sort(key=lambda pb: pb[0].__array_interface__["data"][0] - base)
        more = _bounded(key, sum(b.size for _, b in rejected), span, number + 1)
        at = 0
        for part, bad in rejected:
            part[bad], at = more[at:at + bad.size], at + bad.size
    return out


def _integers(np, key, low, high, shape, dtype):
    dtype = dtypes.dtype(dtype)
    draws = native(math.prod(shape))
    if draws is not None:
        done = integers_drawn(draws, NOTHING, array_of(key), shape, dtype, low, high)
        if done is not None:
            return done
    found = _bounded(key, math.prod(shape), high - low)
    if low:
        found += np.uint64(low & (1 << 64) - 1)
    return found.astype(dtype, copy=False).reshape(shape) if dtype != np.int64 else found.view(np.int64).reshape(shape)


def _check_integers(key, low, high, shape, dtype):
    check_key("random_integers", key)
    dtype = dtypes.dtype(dtype)
    if dtype.kind not in "iu":
        raise DTypeError(f"random_integers: dtype={dtype}; give an integer dtype")
    low, high = ax.integer("random_integers", "low", low), ax.integer("random_integers", "high", high)
    info = np.iinfo(dtype)
    if low >= high:
        raise ArgumentError(f"random_integers(low={low}, high={high}): low must be below high, which is excluded")
    if low < info.min or high > info.max + 1:
        raise ArgumentError(f"random_integers(low={low}, high={high}): {dtype} holds {info.min} to {info.max}")
    return low, high, ax.shape("random_integers", shape), dtype


random_integers = Op(
    "random_integers(key; low, high, shape=(), dtype=int64) -> x", _integers, check=_check_integers, **_KEYED,
    samples=_samples({"low": -3, "high": 10, "shape": (3, 4)}),
    doc="Whole numbers from low to high - 1, each equally likely (exactly: no modulo bias).")


def _permutation(np, key, n):
    done = large.native("permutation", (1 << 16) + 512 * n, array_of(key), n)
    if done is not None:
        return done
    return np.argsort(_words(key, 0, n), kind="stable")


def _check_permutation(key, n):
    check_key("random_permutation", key)
    n = ax.integer("random_permutation", "n", n)
    if n < 0:
        raise ArgumentError(f"random_permutation: n={n}; it must not be negative")
    return (n,)


Op("_random_permutation(key; n) -> order", _permutation, promotes=(), kind="random", smooth=False, result="int64",
   samples=_samples({"n": 7}), check=_check_permutation, doc="The numbers 0 to n - 1 in random order.")


@composite
def random_permutation(xp, key, x, axis=0):
    """The numbers 0 to x - 1 in random order (int64), or the array x with its slices along `axis` shuffled."""
    if isinstance(x, int):
        return xp._random_permutation(key, n=x)
    if not len(x.shape):
        raise ShapeError("random_permutation: x is a single number in an array; give a Python int or an array with "
                         "axes")
    return xp.take(x, xp._random_permutation(key, n=x.shape[axis]), axis=axis)


# ------------------------------------------------------------------------------------------------------- composites
@composite
def random_bernoulli(xp, key, p=0.5, shape=None):
    """True with probability p (a number or an array that broadcasts to shape): bool of `shape`, default p's shape."""
    if isinstance(p, (int, float)) and not 0 <= p <= 1:
        raise ArgumentError(f"random_bernoulli: p={p}; a probability lies between 0 and 1")
    shape = getattr(p, "shape", ()) if shape is None else shape
    dtype = np.float64 if getattr(p, "dtype", None) == np.float64 else np.float32
    return xp.random_uniform(key, shape=shape, dtype=dtype) < p


@composite
def random_categorical(xp, key, logits, axis=-1, shape=None):
    """Indices (int64) along `axis` with probability softmax(logits): argmax of logits plus Gumbel noise.

    The result has the logits' shape without `axis`; `shape` puts more axes before these (one draw for each).
    """
    if not len(logits.shape):
        raise ShapeError("random_categorical: the logits need an axis of categories")
    axis = axis if axis < 0 else axis - len(logits.shape)
    full = tuple(logits.shape)
    if shape is not None:
        full = (shape if isinstance(shape, tuple) else (shape,)) + full
    dtype = logits.dtype if logits.dtype.kind == "f" and logits.dtype.itemsize > 2 else np.dtype(np.float32)
    return xp.argmax(logits + xp.random_gumbel(key, shape=full, dtype=dtype), axis=axis)


@composite
def random_choice(xp, key, x, shape=(), replace=True, p=None, axis=0):
    """Slices of x along `axis`, or numbers from 0 to x - 1 for a whole number x, drawn at random.

    p holds their probabilities (or weights); replace=False draws each at most once.
    """
    n = x if isinstance(x, int) else x.shape[axis]
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = math.prod(shape)
    if n < 1 and count:
        raise ArgumentError("random_choice: there is nothing to choose from")
    if p is not None and tuple(p.shape) != (n,):
        raise ShapeError(f"random_choice: p has shape {tuple(p.shape)}; it holds one probability for each of {n}")
    if replace:
        index = (xp.random_integers(key, low=0, high=max(n, 1), shape=shape) if p is None
                 else xp.random_categorical(key, xp.log(p), shape=shape))
    elif count > n:
        raise ArgumentError(f"random_choice: {count} of {n} cannot be drawn without replacement; use replace=True")
    elif p is None:
        index = xp.reshape(xp._random_permutation(key, n=n)[:count], shape)
    else:  # the largest of logits plus Gumbel noise are a draw without replacement
        noisy = xp.log(p) + xp.random_gumbel(key, shape=(n,), dtype=p.dtype)
        index = xp.reshape(xp.argsort(-noisy)[:count], shape)
    return index if isinstance(x, int) else xp.take(x, index, axis=axis)


def _truncated(np, key, lower, upper, shape, dtype):
    from scipy.special import ndtr, ndtri

    flip = lower > 0  # work in the left tail, where the distribution function is precise
    low, high = (-upper, -lower) if flip else (lower, upper)
    u = fill(key, np.empty(shape, np.float64), 1, uniform64)
    a, b = ndtr(low), ndtr(high)
    x = np.clip(ndtri(a + (b - a) * u), low, high)
    return (-x if flip else x).astype(dtypes.dtype(_default(dtype)), copy=False)


def _check_truncated(key, lower, upper, shape, dtype):
    check_key("random_truncated_normal", key)
    if not lower < upper:
        raise ArgumentError(f"random_truncated_normal(lower={lower}, upper={upper}): lower must be below upper")
    return (float(lower), float(upper), ax.shape("random_truncated_normal", shape),
            _float_dtype("random_truncated_normal", dtype))


random_truncated_normal = Op(
    "random_truncated_normal(key; lower=-2.0, upper=2.0, shape=(), dtype=None) -> x", _truncated, **_KEYED,
    check=_check_truncated, samples=_samples(_FLOAT32),
    doc="The standard normal distribution within [lower, upper], by inversion.")


# -------------------------------------------------------------------------------------------------- gamma and its kin
def _draw(key, number, n, wide):
    return fill(key, np.empty(n, np.float64), 1, wide, number)


def _log_gamma_variate(np, key, alpha, shape):
    """log of a Gamma(alpha, 1) variable: Marsaglia and Tsang, "A simple method for generating gamma variables", 2000.

    alpha < 1 by Gamma(alpha + 1) U**(1/alpha), in logarithms, because for small alpha the value itself underflows.
    """
    alpha = np.broadcast_to(alpha.astype(np.float64), shape).reshape(-1)
    n = alpha.size
    boost = alpha < 1
    d = np.where(boost, alpha + 1, alpha) - 1 / 3
    c = 1 / np.sqrt(9 * d)
    found = np.full(n, -np.inf)
    todo = np.flatnonzero(alpha > 0)
    number = 1
    while todo.size:
        x, u = _draw(key, number, todo.size, normal64), _draw(key, number + 1, todo.size, exponential64)
        number += 2
        v = 1 + c[todo] * x
        good = v > 0
        v = np.where(good, v, 1) ** 3
        dd = d[todo]
        good &= -u < 0.5 * x * x + dd - dd * v + dd * np.log(v)
        done = todo[good]
        found[done] = np.log(dd[good] * v[good])
        todo = todo[~good]
    if boost.any():
        e = _draw(key, 0, n, exponential64)
        with np.errstate(all="ignore"):
            found = np.where(boost, found - e / alpha, found)
    return found.reshape(shape)


def _param_shape(name, shape, *params):
    wanted = ax.broadcast(name, *(p.shape for p in params))
    if shape is None:
        return wanted
    shape = ax.shape(name, shape)
    try:
        fits = np.broadcast_shapes(wanted, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"{name}: parameters of shape {wanted} do not broadcast to the result's shape {shape}")
    return shape


def _check_param(name, what):
    def check(key, param, shape, dtype):
        check_key(name, key)
        if isinstance(param, np.ndarray):  # inside vmap and jvp the values come to be checked in their turn
            good = (param >= 0) & np.isfinite(param)
            if not good.all():
                raise ArgumentError(f"{name}: {what} must be finite and not negative, but holds "
                                    f"{param[~good].ravel()[0]}")
        return _param_shape(name, shape, param), dtypes.dtype(dtype) if what == "rate" else _float_dtype(name, dtype)
    return check


random_log_gamma = Op(
    "random_log_gamma(key, alpha; shape=None, dtype=None) -> x",
    lambda np, key, alpha, shape, dtype: _log_gamma_variate(
        np, key, alpha, alpha.shape if shape is None else shape).astype(dtypes.dtype(_default(dtype))),
    **_KEYED, check=_check_param("random_log_gamma", "alpha"),
    samples=_samples({"dtype": np.dtype("float32")}, lambda s: s(3, 4, lo=0.2, hi=3)),
    doc="The logarithm of a Gamma(alpha, 1) variable, precise where the variable underflows. Not differentiable.")


@composite
def random_gamma(xp, key, alpha, shape=None, dtype=None):
    """The gamma distribution of shape parameter alpha (an array) and scale 1; `shape` defaults to alpha's."""
    return xp.exp(xp.random_log_gamma(key, alpha, shape=shape, dtype=dtype))


@composite
def random_beta(xp, key, a, b, shape=None, dtype=None):
    """The beta distribution of parameters a and b (arrays that broadcast)."""
    keys = xp.random_split(key, n=2)
    if shape is None:
        shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
    x = xp.random_log_gamma(keys[0], a, shape=shape, dtype=dtype)
    y = xp.random_log_gamma(keys[1], b, shape=shape, dtype=dtype)
    return xp.sigmoid(x - y)


@composite
def random_dirichlet(xp, key, alpha, shape=(), dtype=None):
    """The Dirichlet distribution of alpha (..., K): arrays of shape + alpha's shape whose last axis sums to 1."""
    full = (shape if isinstance(shape, tuple) else (shape,)) + tuple(alpha.shape)
    return xp.softmax(xp.random_log_gamma(key, alpha, shape=full, dtype=dtype), axis=-1)


def _poisson(np, key, rate, shape, dtype):
    shape = rate.shape if shape is None else shape
    lam = np.broadcast_to(rate.astype(np.float64), shape).reshape(-1)
    out = np.zeros(lam.size, np.int64)
    small = np.flatnonzero((lam > 0) & (lam < 10))
    number = 1
    if small.size:  # count the exponential waiting times that fit
        left, todo = lam[small].copy(), np.arange(small.size)
        while todo.size:
            left[todo] -= _draw(key, number, todo.size, exponential64)
            number += 1
            todo = todo[left[todo] > 0]
            out[small[todo]] += 1
    todo = np.flatnonzero(lam >= 10)
    if todo.size:
        _poisson_large(np, key, lam, out, todo, 1 << 20)
    return out.astype(dtypes.dtype(dtype), copy=False).reshape(shape)


def _log_factorial(np, k):
    """log(k!) for k >= 0: Stirling's series, exact terms below 8."""
    table = np.array([math.lgamma(i + 1) for i in range(8)])
    z = np.maximum(k, 8) + 1.0
    series = (z - 0.5) * np.log(z) - z + 0.5 * math.log(2 * math.pi)
    series += 1 / (12 * z) - 1 / (360 * z ** 3) + 1 / (1260 * z ** 5)
    return np.where(k < 8, table[np.clip(k, 0, 7).astype(np.int64)], series)


def _poisson_large(np, key, lam, out, todo, number):
    """Hörmann's PTRS: "The transformed rejection method for generating Poisson random variables", 1993."""
    while todo.size:
        rate = lam[todo]
        b = 0.931 + 2.53 * np.sqrt(rate)
        a = -0.059 + 0.02483 * b
        u = _draw(key, number, todo.size, uniform64) - 0.5
        v = _draw(key, number + 1, todo.size, uniform64)
        number += 2
        us = 0.5 - np.abs(u)
        with np.errstate(all="ignore"):
            k = np.floor((2 * a / us + b) * u + rate + 0.43)
            quick = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
            fits = (k >= 0) & ~((us < 0.013) & (v > us))
            inverse = 1.1239 + 1.1328 / (b - 3.4)
            slow = (np.log(v * inverse / (a / (us * us) + b))
                    <= k * np.log(rate) - rate - _log_factorial(np, np.where(fits, k, 0)))
        good = quick | fits & slow
        out[todo[good]] = k[good].astype(np.int64)
        todo = todo[~good]


random_poisson = Op(
    "random_poisson(key, rate; shape=None, dtype=int64) -> x", _poisson, **_KEYED,
    check=_check_param("random_poisson", "rate"), samples=_samples({}, lambda s: s(3, 4, lo=0.2, hi=30)),
    doc="The Poisson distribution of `rate` (an array, finite and not negative); `shape` defaults to rate's.")


# ------------------------------------------------------------------------------------------------------------ dropout
Op("_dropout_mask(key; shape, p, dtype) -> mask",
   lambda np, key, shape, p, dtype: dropout_mask(key, shape, p, dtypes.dtype(dtype)), **_KEYED,
   check=lambda key, shape, p, dtype: (check_key("dropout", key), shape, p, dtype)[1:],
   samples=_samples({"shape": (3, 4), "p": 0.5, "dtype": np.dtype("float32")}),
   doc="0 with probability p (to 16 bits), else 1 / (1 - p).")


@composite
def dropout(xp, x, p=0.5, key=None, training=True, noise_shape=None):
    """x with each element zeroed with probability p, and the others divided by 1 - p. Srivastava et al. 2014.

    key          the randomness: see `random_key`
    noise_shape  shape of the mask, which broadcasts to x's: (N, C, 1, 1) drops whole channels
    """
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: p={p}; a probability lies between 0 and 1")
    if not training or p == 0:
        return x
    if key is None:
        raise ArgumentError("dropout: needs a key; make one with random_key(seed), or use nn.Dropout, which keeps one")
    shape = tuple(x.shape) if noise_shape is None else tuple(noise_shape)
    if noise_shape is not None and (len(shape) != len(x.shape) or any(m not in (1, n) for m, n in zip(shape, x.shape))):
        raise ShapeError(f"dropout: noise_shape={shape} must hold x's sizes {tuple(x.shape)} or 1, axis by axis")
    return x * xp._dropout_mask(key, shape=shape, p=p, dtype=x.dtype)
