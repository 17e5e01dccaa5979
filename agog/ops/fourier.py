"""Discrete Fourier transforms, as in NumPy, in single precision for single precision input.

SciPy computes them (on arrays of NumPy), whose library is the same, but works on several elements at a time also in
single precision, on the half of the result that counts where the input is real, and shares transforms out to threads.

The matrix of a transform is symmetric, so a complex transform is its own transpose. Those between real and complex
follow from it: rfft keeps half of the result, irfft reads each of its inner frequencies twice.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy

from agog import config
from agog.array import dtypes
from agog.errors import ArgumentError
from agog.ops import axes as ax
from agog.ops.explain import describe
from agog.ops.row import Op, composite

_NORMS = {None: "backward", "backward": "backward", "ortho": "ortho", "forward": "forward"}
_SWAPPED = {None: "forward", "backward": "forward", "ortho": "ortho", "forward": "backward"}


def _checked(name: str, length: Any) -> Any:
    """The check of a transform; `length(m)` is the default of n for m elements."""
    def check(x: Any, n: Any, axis: Any, norm: Any) -> tuple:
        axis = ax.axis(name, x, axis)
        if norm not in _NORMS:
            raise ArgumentError(f"{name}: norm={norm!r}; use 'backward', 'ortho' or 'forward'")
        size = length(x.shape[axis]) if n is None else ax.integer(name, "n", n)
        if size < 1:
            what = f"n={n}" if n is not None else f"axis {axis} of {describe(x)} gives n={size}"
            raise ArgumentError(f"{name}: {what}, but a transform needs n of 1 or more")
        return size, axis, _NORMS[norm]

    return check


def _fitted(xp: Any, x: Any, n: int, axis: int) -> Any:
    """`x` cut off or filled up with zeros to `n` elements along `axis`."""
    m = x.shape[axis]
    if m > n:
        return xp._getitem(x, index=(slice(None),) * axis + (slice(0, n),))
    if m < n:
        return xp._pad_constant(x, widths=tuple((0, n - m) if i == axis else (0, 0) for i in range(len(x.shape))))
    return x


def _something(np: Any, x: Any, axis: int) -> Any:
    """`x`, or one 0 along an `axis` that has nothing: NumPy's irfft reads memory of others there."""
    return x if x.shape[axis] else np.zeros(x.shape[:axis] + (1,) + x.shape[axis + 1:], x.dtype)


_THREADS_FROM = 1 << 15
"""Elements from which threads share transforms out; the results do not depend on it."""


def _computed(name: str) -> Any:
    """The computation of a row: `f(np, x, n, axis, norm)`."""
    def compute(np: Any, x: Any, n: int, axis: int, norm: str) -> Any:
        x = _something(np, x, axis)
        if np is not numpy:
            return getattr(np.fft, name)(x, n, axis, norm)
        threads = config.num_threads if x.size >= _THREADS_FROM and x.ndim > 1 else 1
        return _scipy(name)(x, n, axis, norm, False, threads)

    return compute


@functools.cache
def _scipy(name: str) -> Any:
    import scipy.fft

    return getattr(scipy.fft, name)


def _like(xp: Any, g: Any, shape: tuple, dtype: Any, axis: int) -> Any:
    """A cotangent for an input of `shape` and `dtype` from one for the n elements that were transformed."""
    g = _fitted(xp, g, shape[axis], axis)
    return g if dtypes.kind(dtype) == "c" else xp.real(g)


def _transform(name: str, rule: Any, length: Any, samples: Any, doc: str, **kw: Any) -> Op:
    return Op(f"{name}(x; n=None, axis=-1, norm=None) -> y",
              _computed(name), check=_checked(name, length), vjp={"x": rule}, linear_in="all", to_float=True,
              widen=True, kind="fourier",
              error=32, samples=samples, doc=doc,
              batch=lambda xp, batched, inputs, statics: getattr(xp, name)(
                  inputs[0], statics[0], ax.shifted(statics[1]), statics[2]), **kw)


def _cases(s: Any) -> list:
    return [((s(6),), {}), ((s(5, 2),), {"axis": 0, "norm": "ortho"}), ((s(2, 5),), {"n": 3, "norm": "forward"}),
            ((s(2, 3),), {"n": 6}), ((s(1),), {})]


def _real_cases(s: Any) -> list:
    return [((s(4),), {}), ((s(5, 2),), {"axis": 0, "norm": "ortho"}), ((s(2, 5),), {"n": 4, "norm": "forward"}),
            ((s(2, 3),), {"n": 9})]


def _wide(make: Any) -> Any:
    """No samples for 16-bit floats: they have no complex dtype of their own, complex64 comes out."""
    return lambda s: [] if s.dtype.itemsize == 2 else make(s)


_PARAMETERS = ("n: elements transformed, x is cut off or filled up with zeros to that (default: {}). norm: "
               "'backward' scales "
               "the inverse by 1/n, 'forward' the transform, 'ortho' both by 1/sqrt(n).")
fft = _transform(
    "fft", lambda xp, g, x_shape, x_dtype, n, axis, norm:
        _like(xp, xp.fft(g, n=n, axis=axis, norm=norm), x_shape, x_dtype, axis),
    lambda m: m, _cases, "The discrete Fourier transform along `axis`, complex. " + _PARAMETERS.format("all"),
    takes="fc", result=lambda x: dtypes.complex_of(x))
ifft = _transform(
    "ifft", lambda xp, g, x_shape, x_dtype, n, axis, norm:
        _like(xp, xp.ifft(g, n=n, axis=axis, norm=norm), x_shape, x_dtype, axis),
    lambda m: m, _cases, "The inverse of fft, complex. " + _PARAMETERS.format("all"),
    takes="fc", result=lambda x: dtypes.complex_of(x))
rfft = _transform(
    "rfft", lambda xp, g, x_shape, x_dtype, n, axis, norm:
        _like(xp, xp.fft(g, n=n, axis=axis, norm=norm), x_shape, x_dtype, axis),
    lambda m: m, _cases,
    "The first n // 2 + 1 frequencies of fft of real `x`; the others follow from them. " + _PARAMETERS.format("all"),
    takes="f", result=lambda x: dtypes.complex_of(x))


def _irfft_rule(xp: Any, g: Any, x_shape: tuple, x_dtype: Any, n: int, axis: int, norm: Any) -> Any:
    y = xp.conj(xp.rfft(g, n=n, axis=axis, norm=_SWAPPED[norm]))
    k = xp.arange(n // 2 + 1)
    twice = xp.astype(xp.where((k == 0) | (2 * k == n), 1, 2), g.dtype)  # those whose conjugates are left out
    y = y * xp.reshape(twice, (n // 2 + 1,) + (1,) * (len(x_shape) - 1 - axis))
    return _like(xp, y, x_shape, x_dtype, axis)


irfft = _transform(
    "irfft", _irfft_rule, lambda m: 2 * (m - 1), _real_cases,
    "The inverse of rfft, real: `x` holds the first n // 2 + 1 frequencies. " + _PARAMETERS.format("2 * (m - 1)"),
    takes="fc", result="real")


@composite(samples=lambda s: [((s(2, 4),), {"n": 5})])
def hfft(xp, x, n=None, axis=-1, norm=None):
    """The real spectrum of a signal that is Hermitian in time, of which `x` holds the first n // 2 + 1 elements."""
    if norm not in _NORMS:
        raise ArgumentError(f"hfft: norm={norm!r}; use 'backward', 'ortho' or 'forward'")
    return xp.irfft(xp.conj(x), n=n, axis=axis, norm=_SWAPPED[norm])


@composite(samples=_wide(lambda s: [((s(2, 4),), {"n": 5})]))
def ihfft(xp, x, n=None, axis=-1, norm=None):
    """The inverse of hfft: the first n // 2 + 1 elements of the Hermitian signal whose spectrum is the real `x`."""
    if norm not in _NORMS:
        raise ArgumentError(f"ihfft: norm={norm!r}; use 'backward', 'ortho' or 'forward'")
    return xp.conj(xp.rfft(x, n=n, axis=axis, norm=_SWAPPED[norm]))


# ------------------------------------------------------------------------------------------------------- several axes
def _sizes(name: str, x: Any, s: Any, axes: Any) -> tuple[list, tuple]:
    """The number of elements (or None) and the axis of each one-dimensional transform."""
    if axes is None:
        axes = tuple(range(len(x.shape))) if s is None else tuple(range(-len(s), 0))
        if len(axes) > len(x.shape):
            raise ArgumentError(f"{name}: s={tuple(s)} has {len(axes)} sizes for {describe(x)}, which has "
                                f"{len(x.shape)} "
                                "axes")
    axes = tuple(ax.axis(name, x, a, "axes") for a in ax.sizes_of(name, axes, "axes"))
    sizes: list = [None] * len(axes) if s is None else list(s)
    if len(sizes) != len(axes):
        raise ArgumentError(f"{name}: s={tuple(s)} and axes={axes} have different lengths; give one size for each axis")
    if not axes:
        raise ArgumentError(f"{name}: no axes to transform {describe(x)} along")
    return sizes, axes


@composite(samples=_wide(lambda s: [((s(2, 3),), {}), ((s(2, 3, 2),), {"s": (3, 2), "axes": (0, 1)})]))
def fftn(xp, x, s=None, axes=None, norm=None):
    """fft along each of `axes` (default: all, or the last len(s)), with `s[i]` elements along axes[i]."""
    for n, axis in reversed(list(zip(*_sizes("fftn", x, s, axes)))):
        x = xp.fft(x, n=n, axis=axis, norm=norm)
    return x


@composite(samples=_wide(lambda s: [((s(2, 3),), {})]))
def ifftn(xp, x, s=None, axes=None, norm=None):
    """The inverse of fftn: ifft along each of `axes`."""
    for n, axis in reversed(list(zip(*_sizes("ifftn", x, s, axes)))):
        x = xp.ifft(x, n=n, axis=axis, norm=norm)
    return x


@composite(samples=_wide(lambda s: [((s(2, 3),), {})]))
def rfftn(xp, x, s=None, axes=None, norm=None):
    """fftn of real `x`: rfft along the last of `axes`, then fft along the others."""
    sizes, axes = _sizes("rfftn", x, s, axes)
    x = xp.rfft(x, n=sizes[-1], axis=axes[-1], norm=norm)
    for n, axis in zip(sizes[-2::-1], axes[-2::-1]):
        x = xp.fft(x, n=n, axis=axis, norm=norm)
    return x


@composite(samples=lambda s: [((s(2, 3),), {})])
def irfftn(xp, x, s=None, axes=None, norm=None):
    """The inverse of rfftn, real: ifft along all but the last of `axes`, then irfft along that."""
    sizes, axes = _sizes("irfftn", x, s, axes)
    for n, axis in zip(sizes[:-1], axes[:-1]):
        x = xp.ifft(x, n=n, axis=axis, norm=norm)
    return xp.irfft(x, n=sizes[-1], axis=axes[-1], norm=norm)


# ------------------------------------------------------------------------------------------------- frequencies, shifts
def _frequencies(name: str, doc: str) -> Op:
    def check(n: Any, d: Any, dtype: Any) -> tuple:
        if ax.integer(name, "n", n) < 1:
            raise ArgumentError(f"{name}: n={n}; give the number of elements, 1 or more")
        if not isinstance(d, int | float) or d == 0:
            raise ArgumentError(f"{name}: d={d!r}; give the distance of two samples, a number that is not 0")
        return int(n), float(d), dtypes.default_float() if dtype is None else dtypes.dtype(dtype)

    return Op(f"{name}(; n, d=1.0, dtype=None) -> y",
              lambda np, n, d, dtype:
                  getattr(np.fft, name)(n, d).astype(dtypes.default_float() if dtype is None else dtype),
              check=check, result=lambda *a: a[-1], kind="creation",
              samples=lambda s: [((), {"n": 5}), ((), {"n": 4, "d": 0.5})], doc=doc)


fftfreq = _frequencies("fftfreq", "The frequencies of the result of fft for `n` samples at distance `d`: cycles per "
                                  "unit of d.")
rfftfreq = _frequencies("rfftfreq", "The n // 2 + 1 frequencies of the result of rfft for `n` samples at distance `d`.")


def _rolled(xp: Any, name: str, x: Any, axes: Any, sign: int) -> Any:
    places = ax.axes(name, x, axes, "axes")
    if not places:
        return x
    return xp.roll(x, tuple(x.shape[a] // 2 if sign > 0 else -(x.shape[a] // 2) for a in places), axis=places)


@composite(samples=lambda s: [((s(5, 2),), {}), ((s(4, 3),), {"axes": 1})])
def fftshift(xp, x, axes=None):
    """`x` with frequency 0 moved to the middle of `axes` (default: all)."""
    return _rolled(xp, "fftshift", x, axes, 1)


@composite(samples=lambda s: [((s(5, 2),), {})])
def ifftshift(xp, x, axes=None):
    """The inverse of fftshift."""
    return _rolled(xp, "ifftshift", x, axes, -1)
