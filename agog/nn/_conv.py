"""Convolutions and their transposes."""

from __future__ import annotations

import math
from typing import Any

import agog as ag
from agog.errors import ArgumentError
from agog.nn import init
from agog.nn._check import bad_input, each, whole
from agog.nn._module import Module
from agog.nn._parameter import Parameter

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class _Conv(Module):
    _n = 0
    _transposed = False

    def _set(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
             groups: int, bias: bool, padding_mode: str, dtype: Any, device: Any) -> None:
        who, n = type(self).__name__, self._n
        self.in_channels = whole(who, "in_channels", in_channels)
        self.out_channels = whole(who, "out_channels", out_channels)
        self.kernel_size, self.stride = each(who, "kernel_size", kernel_size, n), each(who, "stride", stride, n)
        if isinstance(padding, str):
            if padding not in ("same", "valid") or self._transposed:
                raise ArgumentError(f"{who}(padding={padding!r}): give whole numbers"
                                    + ("" if self._transposed else ", 'same' or 'valid'"))
            self.padding: Any = padding
        else:
            self.padding = each(who, "padding", padding, n, 0)
        self.dilation, self.groups = each(who, "dilation", dilation, n), whole(who, "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(f"{who}: groups={groups} must divide in_channels={in_channels} and "
                                f"out_channels={out_channels}")
        if padding_mode not in _MODES:
            raise ArgumentError(f"{who}(padding_mode={padding_mode!r}): use one of {', '.join(map(repr, _MODES))}")
        self.padding_mode = padding_mode
        pair = (in_channels, out_channels // groups) if self._transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(ag.empty(*pair, *self.kernel_size, dtype=dtype, device=device))
        self.bias = Parameter(ag.empty(out_channels, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New random values, uniform in +-1/sqrt(fan_in), where fan_in counts the weights behind one output."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]) or 1)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def _check(self, x: Any) -> None:
        channel = x.ndim - self._n - 1
        if channel not in (0, 1) or x.shape[channel] != self.in_channels:
            axes = _AXES[self._n]
            raise bad_input(self, x, f"(N, {self.in_channels}, {axes}) or ({self.in_channels}, {axes})")

    def extra_repr(self) -> str:
        def short(v: Any) -> Any:
            return v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v

        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={short(self.kernel_size)}"]
        for name, usual in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1), ("groups", 1)):
            value = short(getattr(self, name, usual))
            if value != usual:
                parts.append(f"{name}={value!r}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)


class _Forward(_Conv):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", *,
                 dtype: Any = None,
                 device: Any = None):
        self._set(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype,
                  device)
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ArgumentError(f"{type(self).__name__}: padding='same' needs stride 1, not {self.stride}")

    def forward(self, x: Any) -> Any:
        self._check(x)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = self._padded(x), 0
        return getattr(ag, f"conv{self._n}d")(x, self.weight, self.bias, self.stride, padding, self.dilation,
                                              self.groups)

    def _padded(self, x: Any) -> Any:
        if self.padding == "valid":
            return x
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
            widths = [(t // 2, t - t // 2) for t in total]
        else:
            widths = [(p, p) for p in self.padding]
        return ag.pad(x, [(0, 0)] * (x.ndim - self._n) + widths, mode=_MODES[self.padding_mode])


class Conv1d(_Forward):
    """Cross-correlation of x (N, in_channels, L) with `weight` (out_channels, in_channels / groups, k), plus `bias`.

    stride, padding, dilation  whole numbers; padding may be "same" or "valid"
    padding_mode               what to pad with: "zeros", "reflect", "replicate" or "circular"
    """

    _n = 1


class Conv2d(_Forward):
    """Cross-correlation of x (N, in_channels, H, W); see Conv1d. A number stands for both axes, or give a pair."""

    _n = 2


class Conv3d(_Forward):
    """Cross-correlation of x (N, in_channels, D, H, W); see Conv1d. A number stands for all axes, or give three."""

    _n = 3


class _Transposed(_Conv):
    _transposed = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1, *, dtype: Any = None,
                 device: Any = None):
        self.output_padding = each(type(self).__name__, "output_padding", output_padding, self._n, 0)
        self._set(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", dtype,
                  device)

    def forward(self, x: Any) -> Any:
        self._check(x)
        return getattr(ag, f"conv_transpose{self._n}d")(x, self.weight, self.bias, self.stride, self.padding,
                                                        self.output_padding, self.groups, self.dilation)


class ConvTranspose1d(_Transposed):
    """The transpose of Conv1d as a layer: x (N, in_channels, L), weight (in_channels, out_channels / groups, k).

    The result is (L - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1 long.
    """

    _n = 1


class ConvTranspose2d(_Transposed):
    """The transpose of Conv2d as a layer; see ConvTranspose1d for the sizes."""

    _n = 2


class ConvTranspose3d(_Transposed):
    """The transpose of Conv3d as a layer; see ConvTranspose1d for the sizes."""

    _n = 3
