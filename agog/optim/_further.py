"""Relatives of Adam that are written in Tensor operations alone: a large model's eager step is faster with AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np

import agog as ag
from agog.optim._group import Group
from agog.optim._optimizer import Optimizer
from agog.tensor import Tensor


def _decayed(xp: Any, p: Any, g: Any, group: Any) -> tuple[Any, Any]:
    """The parameter and its gradient after weight decay: of the gradient, or of the parameter itself."""
    if group["maximize"]:
        g = -g
    decay = group["weight_decay"]
    if decay and group.get("decoupled_weight_decay"):
        return p * xp.astype(1.0 - group.rate * decay, p.dtype), g
    return p, p * decay + g if decay else g


class _Moments(Optimizer):
    """What two running means, or one and something else of the parameter's shape, have in common."""

    _names = ("exp_avg", "exp_avg_sq")
    _numbers: tuple[tuple[str, float], ...] = (("step", 0.0),)

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        numbers = {name: Tensor(np.array(value)) for name, value in self._numbers}
        return {**numbers, **{name: ag.zeros(p.shape, dtype=p.dtype) for name in self._names}}

    @staticmethod
    def _means(g: Any, state: dict[str, Any], betas: tuple[float, float]) -> tuple[Any, Any]:
        m, v = state["exp_avg"], state["exp_avg_sq"]
        return m + (g - m) * (1 - betas[0]), v * betas[1] + (g * g) * (1 - betas[1])


class NAdam(_Moments):
    """Adam with Nesterov's momentum (Dozat, 2016).

    momentum_decay          how fast beta1 grows to its value: at step n it is beta1 * (1 - 0.96 ** (n * decay) / 2)
    decoupled_weight_decay  decay the parameter itself, as AdamW
    """

    _numbers = (("step", 0.0), ("mu_product", 1.0))

    def __init__(self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
                 maximize: bool = False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay,
                                  "maximize": maximize})

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        betas, step = group["betas"], state["step"] + 1.0
        p, g = _decayed(xp, p, g, group)
        mu = betas[0] * (1.0 - 0.5 * 0.96 ** (step * group["momentum_decay"]))
        after = betas[0] * (1.0 - 0.5 * 0.96 ** ((step + 1.0) * group["momentum_decay"]))
        product = state["mu_product"] * mu
        m, v = self._means(g, state, betas)
        root = xp.sqrt(v / xp.astype(1.0 - betas[1] ** step, p.dtype)) + group["eps"]
        now = xp.astype(group.rate * (1.0 - mu) / (1.0 - product), p.dtype)
        ahead = xp.astype(group.rate * after / (1.0 - product * after), p.dtype)
        return (p - (g * now + m * ahead) / root,
                {"step": step, "mu_product": product, "exp_avg": m, "exp_avg_sq": v})


class RAdam(_Moments):
    """Adam whose first steps, while the variance of their sizes is unknown, are those of momentum (Liu et al., 2020).

    decoupled_weight_decay  decay the parameter itself, as AdamW
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, decoupled_weight_decay: bool = False, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize})

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        (beta1, beta2), step = group["betas"], state["step"] + 1.0
        p, g = _decayed(xp, p, g, group)
        m, v = self._means(g, state, (beta1, beta2))
        left = 1.0 - beta2 ** step
        most = 2.0 / (1.0 - beta2) - 1.0  # the length of the average in the end, and now
        length = most - 2.0 * step * beta2 ** step / left
        known = length > 5.0
        size = (length - 4.0) * (length - 2.0) * most / ((most - 4.0) * (most - 2.0) * length)
        size = xp.sqrt(xp.where(known, size, 1.0) * left)
        rate = group.rate / (1.0 - beta1 ** step)
        adaptive = xp.astype(rate * size, p.dtype) / (xp.sqrt(v) + group["eps"])
        return (p - m * xp.where(known, adaptive, xp.astype(rate, p.dtype)),
                {"step": step, "exp_avg": m, "exp_avg_sq": v})


class Adamax(_Moments):
    """Adam with the largest gradient so far, decaying, in place of the second mean (Kingma and Ba, 2015, section 7)."""

    _names = ("exp_avg", "exp_inf")

    def __init__(self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "maximize": maximize})

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        (beta1, beta2), step = group["betas"], state["step"] + 1.0
        p, g = _decayed(xp, p, g, group)
        m = state["exp_avg"] + (g - state["exp_avg"]) * (1 - beta1)
        top = xp.maximum(state["exp_inf"] * beta2, xp.abs(g) + group["eps"])
        rate = xp.astype(group.rate / (1.0 - beta1 ** step), p.dtype)
        return p - m / top * rate, {"step": step, "exp_avg": m, "exp_inf": top}


class Adadelta(_Moments):
    """Steps in proportion to those before, so that they have the parameter's unit (Zeiler, 2012).

    rho  decay of the running means of squared gradients and of squared steps
    """

    _names, _numbers = ("square_avg", "acc_delta"), ()

    def __init__(self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, *,
                 maximize: bool = False):
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay,
                                  "maximize": maximize})

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        rho, eps = group["rho"], group["eps"]
        p, g = _decayed(xp, p, g, group)
        mean = state["square_avg"] * rho + (g * g) * (1 - rho)
        step = xp.sqrt(state["acc_delta"] + eps) / xp.sqrt(mean + eps) * g
        return (p - step * xp.astype(group.rate, p.dtype),
                {"square_avg": mean, "acc_delta": state["acc_delta"] * rho + (step * step) * (1 - rho)})
