"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

import agog as ag
from agog.array import dtypes, large
from agog.errors import ArgumentError
from agog.optim._group import Group
from agog.optim._optimizer import BLOCK, Optimizer, own, scalars
from agog.tape import Leaf
from agog.tensor import Tensor

_ndarray, _f32, _f64 = np.ndarray, dtypes.float32, dtypes.float64
_add, _multiply, _subtract, _negative = np.add, np.multiply, np.subtract, np.negative


class SGD(Optimizer):
    """Stochastic gradient descent, p -= lr * g, with momentum as PyTorch defines it.

    lr            learning rate
    momentum      b = momentum * b + (1 - dampening) * g; b starts as the first gradient; then p -= lr * b
    nesterov      p -= lr * (g + momentum * b) instead
    weight_decay  adds weight_decay * p to the gradient
    maximize      go uphill
    """

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
                 weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
                                  "nesterov": nesterov, "maximize": maximize})

    def _check_group(self, group: Group) -> None:
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError("SGD: nesterov=True needs momentum > 0 and dampening=0")

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        state = {}
        if group["momentum"]:
            state["momentum_buffer"] = ag.zeros(p.shape, dtype=p.dtype)
            if group["dampening"]:  # the first gradient is not dampened
                state["step"] = Tensor(np.zeros(()))
        return state

    def _later(self, state: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
        new = super()._later(state, fresh)
        if "step" in new and "momentum_buffer" in state:  # it has had its first gradient
            new["step"] = Tensor(np.ones(()))
        return new

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        new = {}
        if group["maximize"]:
            g = -g
        if group["weight_decay"]:
            g = p * group["weight_decay"] + g
        if group["momentum"]:
            b = state["momentum_buffer"] * group["momentum"]
            if group["dampening"]:
                b = xp.where(state["step"] == 0, g, b + g * (1 - group["dampening"]))
                new["step"] = state["step"] + 1.0
            else:
                b = b + g
            new["momentum_buffer"] = b
            g = b * group["momentum"] + g if group["nesterov"] else b
        return p - g * xp.astype(group.rate, p.dtype), new

    def _step_group(self, group: Group, params: list[Tensor]) -> None:
        if not (group["momentum"] or group["weight_decay"] or group["maximize"]):
            params = [p for p in params if not self._step_small(p, group)]
        super()._step_group(group, params)

    def _step_small(self, p: Tensor, group: Group) -> bool:
        """p -= lr * g in two operations; False where that is not all, or is better done in blocks."""
        node = p._node
        if type(node) is not Leaf or node.grad is None or p not in self._kept:
            return False
        g = node.grad._data
        dtype = g.dtype
        constants = group.cache.get(dtype)
        if constants is None or (dtype is not _f32 and dtype is not _f64) or type(g) is not _ndarray or g.size > BLOCK \
                or type(p._data) is not _ndarray or p._data.dtype is not dtype:
            return False
        data = own(p)
        _subtract(data, _multiply(g, constants[0]), data)
        return True

    def _moments(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _constants(self, group: Group, state: dict[str, Tensor], dtype: Any) -> tuple:
        first = False
        if "step" in state:
            n = state["step"]._data.item()
            state["step"]._data = np.array(n + 1.0)
            first = n == 0
        c = group.cache.get(dtype)
        if c is None:
            c = group.cache[dtype] = (
                *scalars(dtype, group["lr"], group["momentum"], 1 - group["dampening"], group["weight_decay"]),
                bool(group["momentum"]), bool(group["dampening"]), bool(group["weight_decay"]), group["nesterov"],
                group["maximize"])
        return (*c, first) if first else c

    def _native(self, c: tuple, arrays: list[np.ndarray]) -> bool:
        lr, momentum, _, decay, with_momentum, dampened, decays, nesterov, maximize, *_ = c
        if maximize or dampened:
            return False
        p, g, *moments = arrays
        numbers = lr, *([momentum] if with_momentum else []), *([decay] if decays else [])
        b = moments[0] if moments else None
        return bool(large.native("sgd", 16 * p.size, p, g, b, numbers, decays, nesterov))

    def _kernel(self, c: tuple, s: np.ndarray, t: np.ndarray, p: np.ndarray, g: np.ndarray,
                *moments: np.ndarray) -> None:
        lr, momentum, keep, decay, with_momentum, dampened, decays, nesterov, maximize, *first = c
        if maximize:
            g = _negative(g, t)
        if decays:
            _multiply(p, decay, s)
            g = _add(s, g, t)
        if with_momentum:
            b = moments[0]
            if first:
                b[...] = g
            else:
                _multiply(b, momentum, b)
                if dampened:
                    _add(b, _multiply(g, keep, s), b)
                else:
                    _add(b, g, b)
            if nesterov:
                _multiply(b, momentum, s)
                g = _add(s, g, s)
            else:
                g = b
        _multiply(g, lr, s)
        _subtract(p, s, p)
