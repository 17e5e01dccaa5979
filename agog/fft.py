"""Fourier transforms: the Array API's `fft` extension. See `agog.ops.fourier`."""

from __future__ import annotations

from typing import Any

from agog import hints
from agog.dispatch import tensors
from agog.tensor import Tensor, public

_NAMES = "fft fftfreq fftn fftshift hfft ifft ifftn ifftshift ihfft irfft irfftn rfft rfftfreq rfftn"
__all__ = _NAMES.split()  # noqa: PLE0605 - those that are not below come from the op table


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of the result of fft for `n` samples at distance `d`: cycles per unit of d."""
    return _placed(tensors.fftfreq(n, d, dtype), device)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The n // 2 + 1 frequencies of the result of rfft for `n` samples at distance `d`: cycles per unit of d."""
    return _placed(tensors.rfftfreq(n, d, dtype), device)


def _placed(x: Tensor, device: Any) -> Tensor:
    return x if device is None else x.to_device(device)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise hints.missing("agog.fft", name, __all__)
    value = public(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
