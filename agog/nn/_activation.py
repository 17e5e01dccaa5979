"""Activation functions as modules."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.hints import wrong_keywords
from agog.nn._check import bad_input
from agog.nn._module import Module
from agog.nn._parameter import Parameter


def calling(name: str, op: str, **defaults: Any) -> type[Module]:
    """A module that calls the operation `op` with its settings as keyword arguments; what is `...` must be given."""
    names = tuple(defaults)
    said = ", ".join(k if v is ... else f"{k}={v!r}" for k, v in defaults.items())

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("inplace", None)  # values are never changed in place
        if len(args) > len(names) or kwargs.keys() - set(names):
            if "dim" in kwargs and "axis" in names:
                raise wrong_keywords(name, {"dim": kwargs["dim"]})
            raise ag.errors.ArgumentTypeError(f"{name}: takes {said or 'no arguments'}, not {args or kwargs}")
        given = {**defaults, **dict(zip(names, args)), **kwargs}
        if missing := [k for k, v in given.items() if v is ...]:
            raise ag.errors.ArgumentTypeError(f"{name}: takes {said}; {', '.join(missing)} must be given")
        self.__dict__.update(given)

    if names:
        def forward(self: Any, x: Any) -> Any:
            return getattr(ag, op)(x, **{k: self.__dict__[k] for k in names})
    else:
        def forward(self: Any, x: Any) -> Any:
            return getattr(ag, op)(x)

    def extra_repr(self: Any) -> str:
        return ", ".join(f"{k}={getattr(self, k)!r}" for k in names)

    settings = f"; settings and defaults: {said}" if defaults else ""
    return type(name, (Module,),
                {"__init__": __init__, "forward": forward, "extra_repr": extra_repr, "__module__": __name__,
                                  "__doc__": f"`agog.{op}` as a module{settings}.", "__qualname__": name})


ReLU = calling("ReLU", "relu")
ReLU6 = calling("ReLU6", "relu6")
LeakyReLU = calling("LeakyReLU", "leaky_relu", negative_slope=0.01)
ELU = calling("ELU", "elu", alpha=1.0)
CELU = calling("CELU", "celu", alpha=1.0)
SELU = calling("SELU", "selu")
GELU = calling("GELU", "gelu", approximate="none")
SiLU = calling("SiLU", "silu")
Mish = calling("Mish", "mish")
Sigmoid = calling("Sigmoid", "sigmoid")
LogSigmoid = calling("LogSigmoid", "log_sigmoid")
Hardsigmoid = calling("Hardsigmoid", "hard_sigmoid")
Hardswish = calling("Hardswish", "hard_swish")
Hardtanh = calling("Hardtanh", "hardtanh", min_val=-1.0, max_val=1.0)
Hardshrink = calling("Hardshrink", "hardshrink", lambd=0.5)
Softshrink = calling("Softshrink", "softshrink", lambd=0.5)
Tanh = calling("Tanh", "tanh")
Tanhshrink = calling("Tanhshrink", "tanhshrink")
Softplus = calling("Softplus", "softplus", beta=1.0)
Softsign = calling("Softsign", "softsign")
Softmax = calling("Softmax", "softmax", axis=-1)
LogSoftmax = calling("LogSoftmax", "log_softmax", axis=-1)
Softmin = calling("Softmin", "softmin", axis=-1)
GLU = calling("GLU", "glu", axis=-1)
Threshold = calling("Threshold", "threshold", threshold=..., value=...)


class Softmax2d(Module):
    """`softmax` over the channels of x (N, C, H, W) or (C, H, W)."""

    def forward(self, x: Any) -> Any:
        if x.ndim not in (3, 4):
            raise bad_input(self, x, "4 axes (N, C, H, W), or 3 without N")
        return ag.softmax(x, axis=-3)


class PReLU(Module):
    """`leaky_relu` with a learned slope: one, or one for each channel (axis 1)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: Any = None, device: Any = None):
        self.weight = Parameter(ag.full(num_parameters, init, dtype=dtype, device=device))

    def forward(self, x: Any) -> Any:
        return ag.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.weight.size}"
