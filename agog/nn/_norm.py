"""Normalisation."""

from __future__ import annotations

import math
from typing import Any

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError
from agog.nn import init
from agog.nn._activation import calling
from agog.nn._check import bad_input, whole
from agog.nn._module import Module
from agog.nn._parameter import Buffer, Parameter


class _Channels(Module):
    """A norm of channels: a weight, a bias, and the statistics that it tracks."""

    affine: bool
    track_running_stats: bool
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def _begin(self, n: int, dtype: Any, device: Any) -> None:
        self.weight = Parameter(ag.ones(n, dtype=dtype, device=device)) if self.affine else None
        self.bias = Parameter(ag.zeros(n, dtype=dtype, device=device)) if self.affine else None
        tracks = self.track_running_stats
        self.running_mean = Buffer(ag.zeros(n, dtype=dtype, device=device)) if tracks else None
        self.running_var = Buffer(ag.ones(n, dtype=dtype, device=device)) if tracks else None
        self.num_batches_tracked = Buffer(ag.zeros((), dtype="int64", device=device)) if tracks else None


class _BatchNorm(_Channels):
    _ranks: tuple[int, ...] = ()
    _shapes = ""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, *, dtype: Any = None, device: Any = None):
        n = self.num_features = whole(type(self).__name__, "num_features", num_features)
        self.eps, self.momentum, self.affine, self.track_running_stats = eps, momentum, affine, track_running_stats
        self._begin(n, dtype, device)

    def reset_parameters(self) -> None:
        """Weights of one, biases of zero, and no statistics."""
        if self.weight is not None and self.bias is not None:
            init.ones_(self.weight)
            init.zeros_(self.bias)
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def forward(self, x: Any) -> Any:
        if x.ndim not in self._ranks or x.shape[1] != self.num_features:
            raise bad_input(self, x, self._shapes.replace("C", str(self.num_features)))
        mean, var = self.running_mean, self.running_var
        if not self.training and mean is not None:
            return ag.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)[0]
        if mean is None or not self.training:
            return ag.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)[0]
        self.num_batches_tracked.assign(self.num_batches_tracked + 1)
        # momentum None: the plain average of all batches
        momentum: Any = 1.0 / self.num_batches_tracked.astype(mean.dtype) if self.momentum is None else self.momentum
        y, new_mean, new_var = ag.batch_norm(x, mean, var, self.weight, self.bias, True, momentum, self.eps)
        mean.assign(new_mean)
        var.assign(new_var)
        return y

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}")


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of x (N, C) or (N, C, L): by the statistics of the batch in training, else by running ones.

    momentum             how far the running statistics move to the batch's; None averages all batches alike
    affine               learn a scale and a shift for each channel
    track_running_stats  False always normalises by the batch
    """

    _ranks, _shapes = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of x (N, C, H, W); see BatchNorm1d."""

    _ranks, _shapes = (4,), "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of x (N, C, D, H, W); see BatchNorm1d."""

    _ranks, _shapes = (5,), "(N, C, D, H, W)"


def _shape(who: str, given: Any) -> tuple[int, ...]:
    shape = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not shape:
        raise ArgumentError(f"{who}(normalized_shape={given!r}): give at least one size")
    return tuple(whole(who, "normalized_shape", s) for s in shape)


class LayerNorm(Module):
    """Normalise over the last axes, of sizes `normalized_shape`; then times weight, plus bias (both of that shape)."""

    def __init__(self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True, *,
                 dtype: Any = None, device: Any = None):
        shape = self.normalized_shape = _shape("LayerNorm", normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(ag.ones(shape, dtype=dtype, device=device)) if elementwise_affine else None
        self.bias = Parameter(ag.zeros(shape, dtype=dtype, device=device)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Any:
        shape = self.normalized_shape
        if x.shape[-len(shape):] != shape:
            raise bad_input(self, x, f"(..., {', '.join(map(str, shape))})")
        return ag.layer_norm(x, shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """Divide by the root mean square over the last axes, of sizes `normalized_shape`; then times weight."""

    def __init__(self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True, *,
                 dtype: Any = None, device: Any = None):
        shape = self.normalized_shape = _shape("RMSNorm", normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(ag.ones(shape, dtype=dtype, device=device)) if elementwise_affine else None

    def forward(self, x: Any) -> Any:
        shape = self.normalized_shape
        if x.shape[-len(shape):] != shape:
            raise bad_input(self, x, f"(..., {', '.join(map(str, shape))})")
        return ag.rms_norm(x, shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalise each of `num_groups` groups of channels of each sample of x (N, C, ...)."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: Any = None,
                 device: Any = None):
        self.num_groups = whole("GroupNorm", "num_groups", num_groups)
        n = self.num_channels = whole("GroupNorm", "num_channels", num_channels)
        if n % num_groups:
            raise ArgumentError(f"GroupNorm: num_groups={num_groups} must divide num_channels={n}")
        self.eps, self.affine = eps, affine
        self.weight = Parameter(ag.ones(n, dtype=dtype, device=device)) if affine else None
        self.bias = Parameter(ag.zeros(n, dtype=dtype, device=device)) if affine else None

    def forward(self, x: Any) -> Any:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise bad_input(self, x, f"(N, {self.num_channels}, ...)")
        return ag.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class _InstanceNorm(_Channels):
    _n = 0
    _axes = ""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
                 track_running_stats: bool = False, *, dtype: Any = None, device: Any = None):
        n = self.num_features = whole(type(self).__name__, "num_features", num_features)
        if isinstance(momentum, bool) or not isinstance(momentum, int | float):
            raise ArgumentTypeError(f"{type(self).__name__}(momentum={momentum!r}): give a number; write affine= and "
                                    "track_running_stats= with their names")
        self.eps, self.momentum, self.affine, self.track_running_stats = eps, momentum, affine, track_running_stats
        self._begin(n, dtype, device)

    def forward(self, x: Any) -> Any:
        if x.ndim != self._n + 2 or x.shape[1] != self.num_features:
            raise bad_input(self, x, f"(N, {self.num_features}, {self._axes})")
        mean, var = self.running_mean, self.running_var
        if mean is not None and not self.training:
            return ag.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)[0]
        if math.prod(x.shape[2:]) == 1 and self.training:
            raise bad_input(self, x, "more than one value per channel when training")
        if mean is not None:
            seen, axes = x.detach().astype(mean.dtype), tuple(range(2, x.ndim))
            mean.assign(mean + (seen.mean(axis=axes).mean(axis=0) - mean) * self.momentum)
            var.assign(var + (ag.var(seen, axis=axes, correction=1.0).mean(axis=0) - var) * self.momentum)
        return ag.instance_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        tracked = f", momentum={self.momentum}, track_running_stats=True" if self.track_running_stats else ""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}{tracked}"


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, L).

    affine               learn a scale and a shift for each channel
    track_running_stats  keep running statistics, which `momentum` moves, and normalise by them in evaluation mode
    """

    _n, _axes = 1, "L"


class InstanceNorm2d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, H, W); see InstanceNorm1d."""

    _n, _axes = 2, "H, W"


class InstanceNorm3d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, D, H, W); see InstanceNorm1d."""

    _n, _axes = 3, "D, H, W"


LocalResponseNorm = calling("LocalResponseNorm", "local_response_norm", size=..., alpha=1e-4, beta=0.75, k=1.0)
