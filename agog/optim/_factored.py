"""Optimizers whose state or step knows that a parameter is a matrix: Adafactor and Muon. And Rprop, which only knows
signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError
from agog.optim._group import Group, number
from agog.optim._optimizer import Optimizer
from agog.tensor import Tensor


class Rprop(Optimizer):
    """Steps of a size for each element, which grows while the gradient keeps its sign (Riedmiller and Braun, 1993).

    lr          the size of the first steps
    etas        factors by which a step becomes shorter and longer
    step_sizes  the shortest and the longest step
    """

    def __init__(self, params: Any, lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
                 step_sizes: tuple[float, float] = (1e-6, 50.0), *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "etas": etas, "step_sizes": step_sizes, "maximize": maximize})

    def _check(self, key: str, value: Any) -> Any:
        if key in ("etas", "step_sizes"):
            if not isinstance(value, tuple | list) or len(value) != 2:
                raise ArgumentTypeError(f"{key} must be two numbers, not {value!r}")
            low, high = (float(v) for v in value)
            if not (0 < low < 1 < high if key == "etas" else 0 < low <= high):
                raise ArgumentError(f"{key}={value}: give " + ("numbers below and above 1" if key == "etas" else
                                                                "two positive numbers in order"))
            return low, high
        return super()._check(key, value)

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        return {"prev": ag.zeros(p.shape, dtype=p.dtype), "step_size": ag.full(p.shape, group["lr"], dtype=p.dtype)}

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        (less, more), (least, most) = group["etas"], group["step_sizes"]
        g = -g if group["maximize"] else g
        turn = g * state["prev"]
        size = state["step_size"]
        size = xp.clip(xp.where(turn > 0, size * more, xp.where(turn < 0, size * less, size)), least, most)
        g = xp.where(turn < 0, 0.0, g)  # after a turn nothing moves, and the next step is no turn
        return p - xp.sign(g) * size, {"prev": g, "step_size": size}


class Adafactor(Optimizer):
    """Adam without a mean, whose squared gradients of a matrix are kept as the means of its rows and columns.

    lr           the largest relative step; at step n the relative step is min(lr, 1 / sqrt(n))
    beta2_decay  the mean at step n forgets with 1 - n ** beta2_decay
    eps          the smallest divisor (None: that of the dtype), and the smallest size of a parameter
    d            the largest root mean square of an update, before its step

    Shazeer and Stern, 2018, arXiv:1804.04235, as PyTorch defines it.
    """

    def __init__(self, params: Any, lr: float = 1e-2, beta2_decay: float = -0.8,
                 eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, *,
                 maximize: bool = False):
        super().__init__(params, {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d,
                                  "weight_decay": weight_decay, "maximize": maximize})

    def _check(self, key: str, value: Any) -> Any:
        if key == "eps":
            if not isinstance(value, tuple | list) or len(value) != 2:
                raise ArgumentTypeError(f"eps must be two numbers, the first of which may be None, not {value!r}")
            return None if value[0] is None else number("eps", value[0]), number("eps", value[1])
        if key == "beta2_decay":
            if not isinstance(value, int | float) or value > 0:
                raise ArgumentError(f"beta2_decay={value!r}: give a number of at most 0")
            return float(value)
        if key == "d":
            if not isinstance(value, int | float) or value < 1:
                raise ArgumentError(f"d={value!r}: give a number of at least 1")
            return float(value)
        return super()._check(key, value)

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        state = {"step": Tensor(np.array(0.0))}
        if p.ndim > 1:
            state["row_var"] = ag.zeros((*p.shape[:-1], 1), dtype=p.dtype)
            state["col_var"] = ag.zeros((*p.shape[:-2], 1, p.shape[-1]), dtype=p.dtype)
        else:
            state["variance"] = ag.zeros(p.shape, dtype=p.dtype)
        return state

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        eps = float(np.finfo(p.dtype).eps) if group["eps"][0] is None else group["eps"][0]
        g = -g if group["maximize"] else g
        step = state["step"] + 1.0
        new = {"step": step}
        keep = step ** group["beta2_decay"]  # what a new square counts
        rho = xp.minimum(xp.astype(group.rate, step.dtype), 1.0 / xp.sqrt(step))
        size = xp.sqrt(xp.mean(p * p))
        alpha = xp.maximum(size, group["eps"][1]) * xp.astype(rho, p.dtype)
        if group["weight_decay"]:
            p = p * xp.astype(1.0 - group.rate * group["weight_decay"], p.dtype)
        keep = xp.astype(keep, p.dtype)
        if len(p.shape) > 1:
            square = g * g
            row = new["row_var"] = _mixed(state["row_var"], xp.mean(square, axis=-1, keepdims=True), keep)
            column = new["col_var"] = _mixed(state["col_var"], xp.mean(square, axis=-2, keepdims=True), keep)
            mean = xp.maximum(xp.mean(row, axis=-2, keepdims=True), eps)
            variance = row * column / mean
        else:
            variance = new["variance"] = _mixed(state["variance"], g * g, keep)
        update = g / xp.sqrt(xp.maximum(variance, eps * eps))
        much = xp.maximum(xp.sqrt(xp.mean(update * update)) / group["d"], 1.0)
        return p - update * (alpha / much), new


def _mixed(old: Any, new: Any, share: Any) -> Any:
    return old + (new - old) * share


class Muon(Optimizer):
    """Momentum whose steps are made orthogonal, for the matrices of a network (Jordan et al., 2024).

    momentum, nesterov  as in SGD; the mean is of the gradients themselves
    ns_coefficients     of the polynomial a x + b x³ + c x⁵ that brings singular values near 1, ns_steps times
    adjust_lr_fn        how steps of matrices of different shapes compare: "original" (the default, a factor
                        sqrt(max(1, rows/columns))) or "match_rms_adamw" (0.2 sqrt(max(rows, columns)))

    Every parameter is a matrix: biases, norms and embeddings are for AdamW. Raises ArgumentError for others.
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95,
                 nesterov: bool = True, ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
                 eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
                                  "ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps,
                                  "adjust_lr_fn": adjust_lr_fn})

    def _check(self, key: str, value: Any) -> Any:
        if key == "ns_coefficients":
            if not isinstance(value, tuple | list) or len(value) != 3:
                raise ArgumentTypeError(f"ns_coefficients must be three numbers, not {value!r}")
            return tuple(float(v) for v in value)
        if key == "ns_steps" and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 100):
            raise ArgumentError(f"ns_steps={value!r}: give a whole number from 1 to 99")
        if key == "adjust_lr_fn" and value not in (None, "original", "match_rms_adamw"):
            raise ArgumentError(f"adjust_lr_fn={value!r}: use 'original' or 'match_rms_adamw'")
        return super()._check(key, value)

    def _check_group(self, group: Group) -> None:
        for p in group["params"]:
            if p.ndim != 2:
                raise ArgumentError(f"Muon is for matrices; a parameter has shape {p.shape}: give it to AdamW")

    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        return {"momentum_buffer": ag.zeros(p.shape, dtype=p.dtype)}

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        share = 1 - group["momentum"]
        mean = _mixed(state["momentum_buffer"], g, share)
        step = g * share + mean * group["momentum"] if group["nesterov"] else mean
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            factor = 0.2 * math.sqrt(max(rows, columns))
        else:
            factor = math.sqrt(max(1.0, rows / max(columns, 1)))
        if group["weight_decay"]:
            p = p * xp.astype(1.0 - group.rate * group["weight_decay"], p.dtype)
        step = _orthogonal(xp, step, group["ns_coefficients"], group["ns_steps"], group["eps"])
        return p - step * xp.astype(group.rate * factor, p.dtype), {"momentum_buffer": mean}


def _orthogonal(xp: Any, x: Any, coefficients: tuple, steps: int, eps: float) -> Any:
    """About U Vᵀ of x = U S Vᵀ, by steps of Newton and Schulz, in the precision of x."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = xp.swapaxes(x, 0, 1) if tall else x
    x = x / xp.maximum(xp.sqrt(xp.sum(x * x)), eps)
    for _ in range(steps):
        gram = xp.matmul(x, xp.swapaxes(x, 0, 1))
        x = a * x + xp.matmul(b * gram + c * xp.matmul(gram, gram), x)
    return xp.swapaxes(x, 0, 1) if tall else x
