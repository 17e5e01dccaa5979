"""RMSprop and Adagrad."""

from __future__ import annotations

from typing import Any

import numpy as np

import agog as ag
from agog.optim._group import Group
from agog.optim._optimizer import Optimizer, scalars
from agog.tensor import Tensor

_add, _multiply, _subtract, _divide, _sqrt, _negative = (np.add, np.multiply, np.subtract, np.divide, np.sqrt,
                                                         np.negative)


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture 6a; Graves 2013 with centered=True), as PyTorch defines it.

    alpha     decay of the running mean of the squared gradient
    centered  divide by the root of the variance instead of that mean
    momentum  b = momentum * b + g / root; p -= lr * b
    """

    def __init__(self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
                 momentum: float = 0.0, centered: bool = False, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
                                  "momentum": momentum,
                                  "centered": centered, "maximize": maximize})

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        return {name: ag.zeros(p.shape, dtype=p.dtype) for name in self._moments(group)}

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        alpha = group["alpha"]
        if group["maximize"]:
            g = -g
        if group["weight_decay"]:
            g = p * group["weight_decay"] + g
        new = {"square_avg": state["square_avg"] * alpha + (g * g) * (1 - alpha)}
        spread = new["square_avg"]
        if group["centered"]:
            mean = new["grad_avg"] = state["grad_avg"] + (g - state["grad_avg"]) * (1 - alpha)
            spread = xp.maximum(spread - mean * mean, 0.0)  # rounding may make it negative
        step = g / (xp.sqrt(spread) + group["eps"])
        if group["momentum"]:
            step = new["momentum_buffer"] = state["momentum_buffer"] * group["momentum"] + step
        return p - step * xp.astype(group.rate, p.dtype), new

    def _moments(self, group: Group) -> tuple[str, ...]:
        return ("square_avg", *(("grad_avg",) if group["centered"] else ()),
                *(("momentum_buffer",) if group["momentum"] else ()))

    def _constants(self, group: Group, state: dict[str, Tensor], dtype: Any) -> tuple:
        c = group.cache.get(dtype)
        if c is None:
            c = group.cache[dtype] = (
                *scalars(dtype, group["lr"], group["alpha"], 1 - group["alpha"], group["eps"], group["weight_decay"],
                         group["momentum"], 0.0),
                bool(group["weight_decay"]), group["centered"], bool(group["momentum"]), group["maximize"])
        return c

    def _kernel(self, c: tuple, s: np.ndarray, t: np.ndarray, p: np.ndarray, g: np.ndarray,
                *moments: np.ndarray) -> None:
        lr, alpha, left, eps, decay, momentum, zero, decays, centered, with_momentum, maximize = c
        v = moments[0]
        if maximize:
            g = _negative(g, t)
        if decays:
            g = _add(_multiply(p, decay, s), g, t)
        _multiply(g, g, s)
        _multiply(s, left, s)
        _multiply(v, alpha, v)
        _add(v, s, v)
        if centered:
            mean = moments[1]
            _subtract(g, mean, s)
            _multiply(s, left, s)
            _add(mean, s, mean)
            _multiply(mean, mean, s)
            _subtract(v, s, s)
            np.maximum(s, zero, out=s)
            _sqrt(s, s)
        else:
            _sqrt(v, s)
        _add(s, eps, s)
        _divide(g, s, s)
        if with_momentum:
            b = moments[-1]
            _multiply(b, momentum, b)
            _add(b, s, b)
            _multiply(b, lr, s)
        else:
            _multiply(s, lr, s)
        _subtract(p, s, p)


class Adagrad(Optimizer):
    """Adagrad (Duchi et al., 2011): steps divided by the root of the sum of all squared gradients.

    lr_decay                   the rate at step n is lr / (1 + (n - 1) * lr_decay)
    initial_accumulator_value  where the sum starts
    """

    def __init__(self, params: Any, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
                 initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
                                  "initial_accumulator_value": initial_accumulator_value, "eps": eps,
                                  "maximize": maximize})

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        return {"step": Tensor(np.zeros(())),
                "sum": ag.full(p.shape, group["initial_accumulator_value"], dtype=p.dtype)}

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        rate = xp.astype(group.rate / (1.0 + state["step"] * group["lr_decay"]), p.dtype)
        if group["maximize"]:
            g = -g
        if group["weight_decay"]:
            g = p * group["weight_decay"] + g
        total = state["sum"] + g * g
        return p - g / (xp.sqrt(total) + group["eps"]) * rate, {"step": state["step"] + 1.0, "sum": total}

    def _moments(self, group: Group) -> tuple[str, ...]:
        return ("sum",)

    def _constants(self, group: Group, state: dict[str, Tensor], dtype: Any) -> tuple:
        counter = state["step"]
        n = counter._data.item()
        counter._data = np.array(n + 1.0)
        c = group.cache.get((dtype, n))
        if c is None:
            group.cache.clear()
            c = group.cache[dtype, n] = (*scalars(dtype, group["lr"] / (1.0 + n * group["lr_decay"]), group["eps"],
                                                  group["weight_decay"]), bool(group["weight_decay"]),
                                                  group["maximize"])
        return c

    def _kernel(self, c: tuple, s: np.ndarray, t: np.ndarray, p: np.ndarray, g: np.ndarray,
                *moments: np.ndarray) -> None:
        rate, eps, decay, decays, maximize = c
        total = moments[0]
        if maximize:
            g = _negative(g, t)
        if decays:
            g = _add(_multiply(p, decay, s), g, t)
        _multiply(g, g, s)
        _add(total, s, total)
        _sqrt(total, s)
        _add(s, eps, s)
        _divide(g, s, s)
        _multiply(s, rate, s)
        _subtract(p, s, p)
