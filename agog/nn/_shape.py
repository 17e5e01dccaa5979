"""Modules without parameters that pad, and that move channels and pixels."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog import hints
from agog.nn._activation import calling
from agog.nn._check import bad_input, whole
from agog.nn._module import Module


class _Pad(Module):
    """Padding of the last `_n` axes; one number, or pairs from the last axis on: (left, right, top, ...)."""

    _n, _mode = 1, "constant"

    def __init__(self, padding: Any):
        name = type(self).__name__
        given = tuple(padding) if isinstance(padding, tuple | list) else (padding,) * (2 * self._n)
        if len(given) != 2 * self._n:
            raise ag.errors.ArgumentError(f"{name}(padding={padding!r}): give one number, or {2 * self._n}: two for "
                                          "each axis, from the last one on")
        self.padding = tuple(whole(name, "padding", p, 0) for p in given)
        self.value: Any = 0.0

    def forward(self, x: Any) -> Any:
        if x.ndim not in (self._n + 1, self._n + 2):
            raise bad_input(self, x, f"{self._n + 2} axes (N, C, ...), or {self._n + 1} without N")
        widths = {-1 - i: self.padding[2 * i:2 * i + 2] for i in range(self._n)}
        return ag.pad(x, widths, mode=self._mode, constant_values=self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}" + (f", value={self.value}" if self.value else "")


class _ConstantPad(_Pad):
    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value


def _pads(name: str, mode: str, base: type = _Pad) -> list[Any]:
    doc = (f"x (N, C, ...) with {{}} spatial axes, padded (mode {mode!r} of `agog.pad`): one number for all sides, "
           "or two for each axis from the last one on: (left, right, top, bottom, ...).")
    return [type(f"{name}{n}d", (base,), {"_n": n, "_mode": mode, "__doc__": doc.format(n), "__module__": __name__})
            for n in (1, 2, 3)]


ZeroPad1d, ZeroPad2d, ZeroPad3d = _pads("ZeroPad", "constant")
ConstantPad1d, ConstantPad2d, ConstantPad3d = _pads("ConstantPad", "constant", _ConstantPad)
ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = _pads("ReflectionPad", "reflect")
ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = _pads("ReplicationPad", "edge")
CircularPad1d, CircularPad2d, CircularPad3d = _pads("CircularPad", "wrap")


class PixelShuffle(Module):
    """(..., C r², H, W) to (..., C, H r, W r); see `agog.pixel_shuffle`."""

    def __init__(self, upscale_factor: int):
        self.upscale_factor = whole("PixelShuffle", "upscale_factor", upscale_factor)

    def forward(self, x: Any) -> Any:
        return ag.pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(..., C, H r, W r) to (..., C r², H, W): the inverse of PixelShuffle."""

    def __init__(self, downscale_factor: int):
        self.downscale_factor = whole("PixelUnshuffle", "downscale_factor", downscale_factor)

    def forward(self, x: Any) -> Any:
        return ag.pixel_unshuffle(x, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class CosineSimilarity(Module):
    """The cosine of the angle between two inputs along `axis`; see `agog.cosine_similarity`."""

    def __init__(self, axis: int = 1, eps: float = 1e-8, *, dim: Any = None):
        if dim is not None:
            raise hints.wrong_keywords("CosineSimilarity", {"dim": dim})
        self.axis, self.eps = axis, eps

    def forward(self, x1: Any, x2: Any) -> Any:
        return ag.cosine_similarity(x1, x2, axis=self.axis, eps=self.eps)

    def extra_repr(self) -> str:
        return f"axis={self.axis}, eps={self.eps}"


ChannelShuffle = calling("ChannelShuffle", "channel_shuffle", groups=...)


class PairwiseDistance(Module):
    """The p-norm of the differences of two inputs along the last axis; see `agog.pairwise_distance`."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False):
        self.p, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Any, x2: Any) -> Any:
        return ag.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)

    def extra_repr(self) -> str:
        return f"p={self.p}, eps={self.eps}, keepdim={self.keepdim}"
