"""Activation functions as modules."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.hints import wrong_keywords
from agog.nn import init
from agog.nn._module import Module
from agog.nn._parameter import Parameter


def _layer(name: str, op: str, **defaults: Any) -> type[Module]:
    """A module that calls the operation `op` with its settings as keyword arguments."""
    names = tuple(defaults)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("inplace", None)  # values are never changed in place
        if len(args) > len(names) or kwargs.keys() - set(names):
            if "dim" in kwargs and "axis" in names:
                raise wrong_keywords(name, {"dim": kwargs["dim"]})
            known = ", ".join(f"{k}={v!r}" for k, v in defaults.items())
            raise ag.errors.ArgumentTypeError(f"{name}: takes {known or 'no arguments'}, not {args or kwargs}")
        self.__dict__.update({**defaults, **dict(zip(names, args)), **kwargs})

    if names:
        def forward(self: Any, x: Any) -> Any:
            return getattr(ag, op)(x, **{k: self.__dict__[k] for k in names})
    else:
        def forward(self: Any, x: Any) -> Any:
            return getattr(ag, op)(x)

    def extra_repr(self: Any) -> str:
        return ", ".join(f"{k}={getattr(self, k)!r}" for k in names)

    settings = "; settings and defaults: " + ", ".join(f"{k}={v!r}" for k, v in defaults.items()) if defaults else ""
    return type(name, (Module,),
                {"__init__": __init__, "forward": forward, "extra_repr": extra_repr, "__module__": __name__,
                                  "__doc__": f"`agog.{op}` as a module{settings}.", "__qualname__": name})


ReLU = _layer("ReLU", "relu")
ReLU6 = _layer("ReLU6", "relu6")
LeakyReLU = _layer("LeakyReLU", "leaky_relu", negative_slope=0.01)
ELU = _layer("ELU", "elu", alpha=1.0)
CELU = _layer("CELU", "celu", alpha=1.0)
SELU = _layer("SELU", "selu")
GELU = _layer("GELU", "gelu", approximate="none")
SiLU = _layer("SiLU", "silu")
Mish = _layer("Mish", "mish")
Sigmoid = _layer("Sigmoid", "sigmoid")
LogSigmoid = _layer("LogSigmoid", "log_sigmoid")
Hardsigmoid = _layer("Hardsigmoid", "hard_sigmoid")
Hardswish = _layer("Hardswish", "hard_swish")
Hardtanh = _layer("Hardtanh", "hardtanh", min_val=-1.0, max_val=1.0)
Hardshrink = _layer("Hardshrink", "hardshrink", lambd=0.5)
Softshrink = _layer("Softshrink", "softshrink", lambd=0.5)
Tanh = _layer("Tanh", "tanh")
Tanhshrink = _layer("Tanhshrink", "tanhshrink")
Softplus = _layer("Softplus", "softplus", beta=1.0)
Softsign = _layer("Softsign", "softsign")
Softmax = _layer("Softmax", "softmax", axis=-1)
LogSoftmax = _layer("LogSoftmax", "log_softmax", axis=-1)
Softmin = _layer("Softmin", "softmin", axis=-1)
GLU = _layer("GLU", "glu", axis=-1)


class PReLU(Module):
    """`leaky_relu` with a learned slope: one, or one for each channel (axis 1)."""

    def __init__(self, num_parameters: int = 1, init_value: float = 0.25, *, dtype: Any = None, device: Any = None):
        self.weight = Parameter(ag.empty(num_parameters, dtype=dtype, device=device))
        init.constant_(self.weight, init_value)

    def forward(self, x: Any) -> Any:
        return ag.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.weight.size}"
