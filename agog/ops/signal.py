"""Windows, and the Fourier transform of short pieces of a signal."""

from __future__ import annotations

import math
from typing import Any

from agog.array import dtypes
from agog.errors import ArgumentError, DTypeError, ShapeError
from agog.ops.explain import describe
from agog.ops.row import composite


def _window(xp, name, length, periodic, dtype, *parts):
    """The sum of a_k (-1)^k cos(2 pi k n / N), with N the length, or one less for a symmetric window."""
    if not isinstance(length, int) or length < 0:
        raise ArgumentError(f"{name}: window_length={length!r}; give a whole number of at least 0")
    dtype = dtypes.default_float() if dtype is None else dtypes.dtype(dtype)
    if length < 2:
        return xp.ones((length,), dtype=dtype)
    turn = xp.arange(length, dtype=dtypes.float64) * (2 * math.pi / (length if periodic else length - 1))
    total: Any = parts[0]
    for k, a in enumerate(parts[1:], 1):
        total = total + (-1) ** k * a * xp.cos(k * turn)
    return xp.astype(total, dtype)


@composite(samples=lambda s: [((5,), {}), ((6,), {"periodic": False})])
def hann_window(xp, window_length, periodic=True, dtype=None):
    """(1 - cos(2 pi n / N)) / 2 for n below `window_length`: N is that, or one less for a symmetric window."""
    return _window(xp, "hann_window", window_length, periodic, dtype, 0.5, 0.5)


@composite(samples=lambda s: [((5,), {}), ((6,), {"periodic": False})])
def hamming_window(xp, window_length, periodic=True, alpha=0.54, beta=0.46, dtype=None):
    """alpha - beta cos(2 pi n / N) for n below `window_length`; see `hann_window`."""
    return _window(xp, "hamming_window", window_length, periodic, dtype, alpha, beta)


@composite(samples=lambda s: [((5,), {}), ((6,), {"periodic": False})])
def blackman_window(xp, window_length, periodic=True, dtype=None):
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N) for n below `window_length`; see `hann_window`."""
    return _window(xp, "blackman_window", window_length, periodic, dtype, 0.42, 0.5, 0.08)


def _settings(xp, name, x, n_fft, hop_length, win_length, window):
    """(hop, the window as long as a piece, or None)."""
    hop = n_fft // 4 if hop_length is None else hop_length
    size = n_fft if win_length is None else win_length
    if not (isinstance(n_fft, int) and n_fft > 0 and isinstance(hop, int) and hop > 0 and 0 < size <= n_fft):
        raise ArgumentError(f"{name}(n_fft={n_fft}, hop_length={hop}, win_length={size}): positive whole numbers, with "
                            "win_length at most n_fft")
    if window is None:
        if size == n_fft:
            return hop, None
        window = xp.ones((size,), dtype=dtypes.real_of(x.dtype))
    if tuple(window.shape) != (size,):
        raise ShapeError(f"{name}: the window is {describe(window)}; it has win_length = {size} elements")
    left = (n_fft - size) // 2
    return hop, xp.pad(window, ((left, n_fft - size - left),))


def _places(xp, frames, n_fft, hop):
    """(frames, n_fft): where the elements of each piece are in the signal."""
    return xp.expand_dims(xp.arange(frames) * hop, axis=1) + xp.arange(n_fft)


@composite
def stft(xp, x, n_fft, hop_length=None, win_length=None, window=None, center=True, pad_mode="reflect",
         normalized=False, onesided=True):
    """The short-time Fourier transform of x (L,) or (N, L): complex (..., F, T), the spectra of T pieces.

    n_fft       length of a piece
    hop_length  from the beginning of one piece to that of the next; n_fft // 4 by default
    win_length  length of the window, which stands in the middle of a piece; n_fft by default
    window      (win_length,), ones by default; see `hann_window`
    center      pieces are centred at multiples of hop_length: x is padded by n_fft // 2 on both sides (`pad_mode`)
    normalized  divided by sqrt(n_fft)
    onesided    F = n_fft // 2 + 1 frequencies of real x, which say all; else n_fft

    Raises ShapeError, DTypeError and ArgumentError. `torch.stft` with return_complex=True.
    """
    if len(x.shape) not in (1, 2):
        raise ShapeError(f"stft: x is {describe(x)}; it has shape (L,) or (N, L)")
    kind = dtypes.kind(x.dtype)
    if kind not in "fc" or kind == "c" and onesided:
        raise DTypeError(f"stft: x is {describe(x)}; it holds floats, or complex numbers with onesided=False")
    hop, window = _settings(xp, "stft", x, n_fft, hop_length, win_length, window)
    if center:
        x = xp.pad(x, {-1: (n_fft // 2, n_fft // 2)}, mode=pad_mode)
    if x.shape[-1] < n_fft:
        raise ShapeError(f"stft: a signal of {x.shape[-1]} elements has no piece of n_fft = {n_fft}")
    frames = 1 + (x.shape[-1] - n_fft) // hop
    pieces = xp.take(x, _places(xp, frames, n_fft, hop), axis=-1)
    if window is not None:
        pieces = pieces * window
    norm = "ortho" if normalized else None
    spectra = xp.rfft(pieces, norm=norm) if onesided else xp.fft(pieces, norm=norm)
    return xp.swapaxes(spectra, -1, -2)


@composite
def istft(xp, x, n_fft, hop_length=None, win_length=None, window=None, center=True, normalized=False, onesided=True,
          length=None):
    """The signal (..., L) of which x (..., F, T) is the short-time Fourier transform, by least squares.

    length  of the result; by default as much as the pieces say of it. The other arguments are those of `stft`. Where
            windows and hops leave gaps, what is between them cannot be known, and is infinite or NaN.

    Raises ShapeError, DTypeError and ArgumentError. Griffin and Lim, 1984.
    """
    bins = n_fft // 2 + 1 if onesided else n_fft
    if len(x.shape) not in (2, 3) or x.shape[-2] != bins or not x.shape[-1]:
        raise ShapeError(f"istft: x is {describe(x)}; with n_fft={n_fft} and onesided={onesided} it has shape "
                         f"(..., {bins}, T)")
    if dtypes.kind(x.dtype) != "c":
        raise DTypeError(f"istft: x is {describe(x)}; it holds complex numbers")
    hop, window = _settings(xp, "istft", x, n_fft, hop_length, win_length, window)
    spectra, norm = xp.swapaxes(x, -1, -2), "ortho" if normalized else None
    pieces = xp.irfft(spectra, n=n_fft, norm=norm) if onesided else xp.ifft(spectra, norm=norm)
    window = xp.ones((n_fft,), dtype=dtypes.real_of(x.dtype)) if window is None else window
    frames, lead = x.shape[-1], tuple(x.shape[:-2])
    total = n_fft + hop * (frames - 1)
    places = _places(xp, frames, n_fft, hop)
    y = xp._take_adjoint(pieces * window, places, shape=(*lead, total), axis=len(lead))
    weight = xp._take_adjoint(xp.broadcast_to(window * window, (frames, n_fft)), places, shape=(total,), axis=0)
    start = n_fft // 2 if center else 0
    stop = total - start if length is None else min(start + length, total)
    y = y[..., start:stop] / weight[start:stop]
    if length is not None and length > stop - start:
        y = xp.pad(y, {-1: (0, length - (stop - start))})
    return y
