"""First values for parameters. Each function gives its Tensor a new value (`assign`) and returns it.

generator: where the random numbers come from; default the global one of `agog.random`.
fan_in and fan_out of a weight (out, in, *kernel) are in * prod(kernel) and out * prod(kernel).
"""

from __future__ import annotations

import math
from typing import Any

import agog as ag
from agog import hints
from agog.array import dtypes
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.tensor import Tensor

__all__ = ["calculate_gain", "constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_",
           "orthogonal_", "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_"]


def _set(t: Any, value: Any) -> Tensor:
    return t.assign(value if value.device == t.device else value.to_device(t.device))


def _wide(t: Any) -> Any:
    """The dtype in which values for `t` are drawn."""
    if not isinstance(t, Tensor):
        raise ArgumentTypeError(f"nn.init: give a Tensor, not a {type(t).__name__}")
    return dtypes.float64 if t.dtype == dtypes.float64 else dtypes.float32


def uniform_(t: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform between a and b."""
    dtype = _wide(t)
    if not a <= b:
        raise ArgumentError(f"uniform_: a={a} is larger than b={b}")
    return _set(t, ag.random.uniform(t.shape, dtype=dtype, generator=generator) * (b - a) + a)


def normal_(t: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with this mean and standard deviation."""
    dtype = _wide(t)
    if std < 0:
        raise ArgumentError(f"normal_: std={std} is negative")
    return _set(t, ag.random.normal(t.shape, dtype=dtype, generator=generator) * std + mean)


def trunc_normal_(t: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
                  generator: Any = None) -> Tensor:
    """Normal, but only values between a and b (by the inverse of the distribution function)."""
    if not a < b or std <= 0:
        raise ArgumentError(f"trunc_normal_: needs a < b and std > 0, not a={a}, b={b}, std={std}")
    low, high = (math.erf((x - mean) / (std * math.sqrt(2))) for x in (a, b))
    u = ag.random.uniform(t.shape, dtype="float64", generator=generator) * (high - low) + low
    return _set(t, ag.clip(ag.erfinv(u) * (std * math.sqrt(2)) + mean, a, b))


def constant_(t: Tensor, value: float) -> Tensor:
    """All elements `value`."""
    _wide(t)
    return _set(t, ag.full(t.shape, value, dtype=t.dtype, device=t.device))


def zeros_(t: Tensor) -> Tensor:
    """Zeros."""
    return constant_(t, 0)


def ones_(t: Tensor) -> Tensor:
    """Ones."""
    return constant_(t, 1)


def eye_(t: Tensor) -> Tensor:
    """The identity matrix, of any two sizes."""
    if t.ndim != 2:
        raise ShapeError(f"eye_: a matrix is needed, not shape {t.shape}")
    return _set(t, ag.eye(*t.shape, dtype=t.dtype))


def dirac_(t: Tensor, groups: int = 1) -> Tensor:
    """Convolution weights (out, in, *kernel) that pass each channel on unchanged, as far as there are channels."""
    if t.ndim not in (3, 4, 5) or t.shape[0] % groups:
        raise ShapeError(f"dirac_: a weight (out, in, *kernel) is needed with out divisible by groups={groups}, "
                         f"not shape {t.shape}")
    out = t.shape[0] // groups
    value = ag.zeros(t.shape, dtype=t.dtype)
    middle = tuple(k // 2 for k in t.shape[2:])
    for g in range(groups):
        for i in range(min(out, t.shape[1])):
            value[(g * out + i, i, *middle)] = 1.0
    return _set(t, value)


def _fans(t: Tensor) -> tuple[int, int]:
    if t.ndim < 2:
        raise ShapeError(f"fan_in and fan_out need at least 2 axes (out, in, *kernel), not shape {t.shape}")
    kernel = math.prod(t.shape[2:])
    return t.shape[1] * kernel, t.shape[0] * kernel


_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4,
          **{f"conv{t}{n}d": 1.0 for n in (1, 2, 3) for t in ("", "_transpose")}}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights before this nonlinearity are scaled; param: the slope of "leaky_relu" (0.01)."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ArgumentError(f"calculate_gain({nonlinearity!r}): use one of 'leaky_relu', "
                            f"{', '.join(map(repr, _GAINS))}")
    return _GAINS[nonlinearity]


def xavier_uniform_(t: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6 / (sum(_fans(t)) or 1))
    return uniform_(t, -bound, bound, generator)


def xavier_normal_(t: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return normal_(t, 0.0, gain * math.sqrt(2 / (sum(_fans(t)) or 1)), generator)


def _kaiming(t: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"mode={mode!r}: use 'fan_in' or 'fan_out'")
    return calculate_gain(nonlinearity, a) / math.sqrt(_fans(t)[mode == "fan_out"] or 1)


def kaiming_uniform_(t: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                     generator: Any = None) -> Tensor:
    """Uniform in +-gain * sqrt(3 / fan) (He et al., 2015); a: the slope of the leaky relu that follows."""
    bound = math.sqrt(3.0) * _kaiming(t, a, mode, nonlinearity)
    return uniform_(t, -bound, bound, generator)


def kaiming_normal_(t: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                    generator: Any = None) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al., 2015)."""
    return normal_(t, 0.0, _kaiming(t, a, mode, nonlinearity), generator)


def orthogonal_(t: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer, of the weight as a matrix (out, rest) (Saxe et al., 2013)."""
    if t.ndim < 2:
        raise ShapeError(f"orthogonal_: at least 2 axes are needed, not shape {t.shape}")
    rows, columns = t.shape[0], math.prod(t.shape[1:])
    if not t.size:
        return t
    q, r = ag.linalg.qr(ag.random.normal((max(rows, columns), min(rows, columns)), dtype=_wide(t), generator=generator))
    d = ag.diagonal(r)
    q = q * ag.where(d < 0, ag.full((), -1.0, dtype=d.dtype), 1.0)  # without this, q would not be uniformly distributed
    return _set(t, ag.reshape((q.mT if rows < columns else q) * gain, t.shape))


def __getattr__(name: str) -> Any:
    raise hints.missing("agog.nn.init", name, __all__)
