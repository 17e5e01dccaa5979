"""Dropout."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.errors import ArgumentError
from agog.nn._check import bad_input
from agog.nn._module import Module


class Dropout(Module):
    """In training, each element becomes zero with probability p, and the others are divided by 1 - p."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        if not 0.0 <= p <= 1.0:
            raise ArgumentError(f"{type(self).__name__}(p={p}): a probability lies between 0 and 1")
        self.p = p

    def forward(self, x: Any) -> Any:
        return ag.dropout(x, self.p, training=True) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _ChannelDropout(Dropout):
    _n = 0

    def forward(self, x: Any) -> Any:
        if x.ndim not in (self._n + 1, self._n + 2):
            raise bad_input(self, x, f"{self._n + 2} axes (N, C, ...), or {self._n + 1} without N")
        if not self.training or not self.p:
            return x
        lead = x.shape[:x.ndim - self._n]
        return x * ag.dropout(ag.ones((*lead, *(1,) * self._n), dtype=x.dtype), self.p, training=True)


class Dropout1d(_ChannelDropout):
    """Dropout of whole channels of x (N, C, L)."""

    _n = 1


class Dropout2d(_ChannelDropout):
    """Dropout of whole channels of x (N, C, H, W)."""

    _n = 2


class Dropout3d(_ChannelDropout):
    """Dropout of whole channels of x (N, C, D, H, W)."""

    _n = 3


class AlphaDropout(Dropout):
    """Dropout that keeps mean and variance, for networks of SELU; see `agog.alpha_dropout`."""

    def forward(self, x: Any) -> Any:
        return ag.alpha_dropout(x, self.p, self.training)
