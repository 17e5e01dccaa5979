"""Fourier transforms: the Array API's `fft` extension. See `agog.ops.fourier`."""

from __future__ import annotations

from typing import Any

from agog.tensor import public

__all__ = ["fft", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifftn", "ifftshift", "ihfft", "irfft", "irfftn", "rfft",
           "rfftfreq", "rfftn"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'agog.fft' has no attribute {name!r}")
    value = public(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
