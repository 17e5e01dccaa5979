"""Pooling."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.errors import ArgumentError
from agog.nn._activation import calling
from agog.nn._check import bad_input, each
from agog.nn._module import Module

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}


class _Pool(Module):
    _n = 0

    def _window(self, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
        who, n = type(self).__name__, self._n
        self.kernel_size = each(who, "kernel_size", kernel_size, n)
        self.stride = self.kernel_size if stride is None else each(who, "stride", stride, n)
        self.padding, self.ceil_mode = each(who, "padding", padding, n, 0), ceil_mode

    def _check(self, x: Any) -> None:
        if x.ndim not in (self._n + 1, self._n + 2):
            raise bad_input(self, x, f"(N, C, {_AXES[self._n]}) or (C, {_AXES[self._n]})")


class _MaxPool(_Pool):
    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
                 return_indices: bool = False, ceil_mode: bool = False):
        self._window(kernel_size, stride, padding, ceil_mode)
        self.dilation = each(type(self).__name__, "dilation", dilation, self._n)
        self.return_indices = return_indices

    def forward(self, x: Any) -> Any:
        self._check(x)
        return getattr(ag, f"max_pool{self._n}d")(x, self.kernel_size, self.stride, self.padding, self.dilation,
                                                  self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


class MaxPool1d(_MaxPool):
    """The largest value of each window of x (N, C, L); see `agog.max_pool1d`. stride defaults to kernel_size."""

    _n = 1


class MaxPool2d(_MaxPool):
    """The largest value of each window of x (N, C, H, W); see `agog.max_pool2d`. stride defaults to kernel_size."""

    _n = 2


class MaxPool3d(_MaxPool):
    """The largest value of each window of x (N, C, D, H, W); see `agog.max_pool3d`. stride defaults to kernel_size."""

    _n = 3


class _MaxUnpool(_Pool):
    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        self._window(kernel_size, stride, padding, False)

    def forward(self, x: Any, indices: Any, output_size: Any = None) -> Any:
        self._check(x)
        return getattr(ag, f"max_unpool{self._n}d")(x, indices, self.kernel_size, self.stride, self.padding,
                                                    output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Maxima (N, C, L) back at the places that MaxPool1d(return_indices=True) gave, zeros elsewhere."""

    _n = 1


class MaxUnpool2d(_MaxUnpool):
    """Maxima (N, C, H, W) back at the places that MaxPool2d(return_indices=True) gave, zeros elsewhere."""

    _n = 2


class MaxUnpool3d(_MaxUnpool):
    """Maxima (N, C, D, H, W) back at the places that MaxPool3d(return_indices=True) gave, zeros elsewhere."""

    _n = 3


class _AvgPool(_Pool):
    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
                 count_include_pad: bool = True):
        self._window(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Any:
        self._check(x)
        return getattr(ag, f"avg_pool{self._n}d")(x, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                                                  self.count_include_pad)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window of x (N, C, L). stride defaults to kernel_size."""

    _n = 1


class AvgPool2d(_AvgPool):
    """The mean of each window of x (N, C, H, W). stride defaults to kernel_size."""

    _n = 2


class AvgPool3d(_AvgPool):
    """The mean of each window of x (N, C, D, H, W). stride defaults to kernel_size."""

    _n = 3


class _Adaptive(_Pool):
    _what = ""

    def __init__(self, output_size: Any):
        n = self._n
        sizes = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size,) * n
        if len(sizes) != n:
            raise ArgumentError(f"{type(self).__name__}(output_size={output_size!r}): give one number, or {n}")
        self.output_size = tuple(None if s is None else each(type(self).__name__, "output_size", s,
                                                             1)[0] for s in sizes)

    def forward(self, x: Any) -> Any:
        self._check(x)
        return getattr(ag, f"adaptive_{self._what}_pool{self._n}d")(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """The mean of windows chosen so that the result has `output_size` positions."""

    _n, _what = 1, "avg"


class AdaptiveAvgPool2d(_Adaptive):
    """The mean of windows chosen so that the result has `output_size` positions; None keeps the size of an axis."""

    _n, _what = 2, "avg"


class AdaptiveAvgPool3d(_Adaptive):
    """The mean of windows chosen so that the result has `output_size` positions; None keeps the size of an axis."""

    _n, _what = 3, "avg"


class AdaptiveMaxPool1d(_Adaptive):
    """The largest value of windows chosen so that the result has `output_size` positions."""

    _n, _what = 1, "max"


class AdaptiveMaxPool2d(_Adaptive):
    """The largest value of windows chosen so that the result has `output_size` positions."""

    _n, _what = 2, "max"


class AdaptiveMaxPool3d(_Adaptive):
    """The largest value of windows chosen so that the result has `output_size` positions."""

    _n, _what = 3, "max"


LPPool1d = calling("LPPool1d", "lp_pool1d", norm_type=..., kernel_size=..., stride=None, ceil_mode=False)
LPPool2d = calling("LPPool2d", "lp_pool2d", norm_type=..., kernel_size=..., stride=None, ceil_mode=False)
Unfold = calling("Unfold", "unfold", kernel_size=..., dilation=1, padding=0, stride=1)
Fold = calling("Fold", "fold", output_size=..., kernel_size=..., dilation=1, padding=0, stride=1)
