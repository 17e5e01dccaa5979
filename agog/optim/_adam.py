"""Adam and its relatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import agog as ag
from agog.array import large
from agog.optim._group import Group
from agog.optim._optimizer import Optimizer, scalars
from agog.tensor import Tensor

_add, _multiply, _subtract, _divide, _sqrt, _negative = (np.add, np.multiply, np.subtract, np.divide, np.sqrt,
                                                         np.negative)
_maximum, _minimum = np.maximum, np.minimum


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, with the efficient order of computation of their section 2).

    lr            step size
    betas         decay of the running means of the gradient and of its square
    eps           added to the root of the second mean
    weight_decay  adds weight_decay * p to the gradient (AdamW decays apart from it, and is usually better)
    amsgrad       divide by the root of the largest second mean so far (Reddi et al., 2018)
    maximize      go uphill
    """

    _decoupled = False

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "amsgrad": amsgrad,
                                  "maximize": maximize})

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        state = {"step": Tensor(np.zeros(())), "exp_avg": ag.zeros(p.shape, dtype=p.dtype),
                 "exp_avg_sq": ag.zeros(p.shape, dtype=p.dtype)}
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = ag.zeros(p.shape, dtype=p.dtype)
        return state

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        beta1, beta2 = group["betas"]
        step, rate, decay = state["step"] + 1.0, group.rate, group["weight_decay"]
        root = xp.sqrt(1.0 - beta2 ** step)
        size = xp.astype(rate * root / (1.0 - beta1 ** step), p.dtype)
        eps = xp.astype(root * group["eps"], p.dtype)
        if group["maximize"]:
            g = -g
        if decay and self._decoupled:
            p = p * xp.astype(1.0 - rate * decay, p.dtype)
        elif decay:
            g = p * decay + g
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m = m + (g - m) * (1 - beta1)
        v = v * beta2 + (g * g) * (1 - beta2)
        new = {"step": step, "exp_avg": m, "exp_avg_sq": v}
        if group["amsgrad"]:
            v = new["max_exp_avg_sq"] = xp.maximum(state["max_exp_avg_sq"], v)
        return p - m / (xp.sqrt(v) + eps) * size, new

    def _moments(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _constants(self, group: Group, state: dict[str, Tensor], dtype: Any) -> tuple:
        counter = state["step"]
        n = counter._data.item() + 1.0
        counter._data = np.array(n)
        c = group.cache.get((dtype, n))
        if c is None:
            group.cache.clear()
            (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
            root = math.sqrt(1.0 - beta2 ** n)
            c = group.cache[dtype, n] = (
                *scalars(dtype, lr * root / (1.0 - beta1 ** n), root * group["eps"], 1 - beta1, beta2, 1 - beta2,
                         1.0 - lr * decay if self._decoupled else decay), bool(decay), group["maximize"])
        return c

    def _native(self, c: tuple, arrays: list[np.ndarray]) -> bool:
        size, eps, left1, beta2, left2, decay, decays, maximize = c
        if maximize or len(arrays) > 4 or (decays and not self._decoupled):
            return False
        keep = decay if decays else np.ones((), decay.dtype)
        return bool(large.native("adam", 16 * arrays[0].size, *arrays, (size, eps, left1, beta2, left2, keep)))

    def _kernel(self, c: tuple, s: np.ndarray, t: np.ndarray, p: np.ndarray, g: np.ndarray,
                *moments: np.ndarray) -> None:
        size, eps, left1, beta2, left2, decay, decays, maximize = c
        m, v = moments[0], moments[1]
        if maximize:
            g = _negative(g, t)
        if decays:
            if self._decoupled:
                _multiply(p, decay, p)
            else:
                g = _add(_multiply(p, decay, s), g, t)
        _subtract(g, m, s)
        _multiply(s, left1, s)
        _add(m, s, m)
        _multiply(g, g, s)
        _multiply(s, left2, s)
        _multiply(v, beta2, v)
        _add(v, s, v)
        if len(moments) == 3:
            v = _maximum(moments[2], v, out=moments[2])
        _sqrt(v, s)
        _add(s, eps, s)
        _divide(m, s, s)
        _multiply(s, size, s)
        _subtract(p, s, p)


class AdamW(Adam):
    """Adam with decoupled weight decay, p *= 1 - lr * weight_decay (Loshchilov and Hutter, 2019)."""

    _decoupled = True

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class Lion(Optimizer):
    """Lion (Chen et al., 2023): steps of the sign of a blend of gradient and momentum.

    betas         blend for the step, and decay of the momentum
    weight_decay  decoupled, as in AdamW
    """

    def __init__(self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99),
                 weight_decay: float = 0.0,
                 *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        return {"exp_avg": ag.zeros(p.shape, dtype=p.dtype)}

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        beta1, beta2 = group["betas"]
        if group["maximize"]:
            g = -g
        if group["weight_decay"]:
            p = p * xp.astype(1.0 - group.rate * group["weight_decay"], p.dtype)
        m = state["exp_avg"]
        direction = xp.sign(m * beta1 + g * (1 - beta1))
        return (p - direction * xp.astype(group.rate, p.dtype), {"exp_avg": m * beta2 + g * (1 - beta2)})

    def _moments(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg",)

    def _constants(self, group: Group, state: dict[str, Tensor], dtype: Any) -> tuple:
        c = group.cache.get(dtype)
        if c is None:
            beta1, beta2 = group["betas"]
            c = group.cache[dtype] = (
                *scalars(dtype, group["lr"], beta1, 1 - beta1, beta2, 1 - beta2,
                         1.0 - group["lr"] * group["weight_decay"], 1.0, 1e38 if dtype.itemsize == 4 else 1e307),
                bool(group["weight_decay"]), group["maximize"])
        return c

    def _kernel(self, c: tuple, s: np.ndarray, t: np.ndarray, p: np.ndarray, g: np.ndarray,
                *moments: np.ndarray) -> None:
        lr, beta1, left1, beta2, left2, decay, one, huge, decays, maximize = c
        m = moments[0]
        if maximize:
            g = _negative(g)
        if decays:
            _multiply(p, decay, p)
        _multiply(m, beta1, s)
        _multiply(g, left1, t)
        _add(s, t, s)
        _multiply(s, huge, s)  # twice, clipped: the sign, of which NumPy's own function is slow
        _multiply(s, huge, s)
        _maximum(s, -one, out=s)
        _minimum(s, one, out=s)
        _multiply(s, lr, s)
        _subtract(p, s, p)
        _multiply(m, beta2, m)
        _multiply(g, left2, t)
        _add(m, t, m)
