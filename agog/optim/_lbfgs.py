"""L-BFGS: a quasi-Newton method for exact gradients, with a line search by the strong Wolfe conditions.

The notation is that of Nocedal and Wright, Numerical Optimization (2nd edition), algorithms 7.4, 7.5, 3.5 and 3.6.
"""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

import numpy as np

import agog as ag
from agog import config
from agog.autodiff.engine import enable_grad, no_grad
from agog.errors import ArgumentError, ArgumentTypeError
from agog.optim._group import Group, number
from agog.optim._optimizer import Optimizer
from agog.tensor import Tensor

_LEAST_CURVATURE = 1e-10
_SUFFICIENT, _FLAT = 1e-4, 0.9  # c1 and c2 of the Wolfe conditions
_TRIALS = 25


class _Point(NamedTuple):
    """A step length, the loss and the gradient there, and the slope along the direction."""

    t: float
    loss: float
    gradient: Any
    slope: float


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal, 1989) for all parameters together: `step(closure)` goes up to `max_iter` iterations.

        def closure():
            opt.zero_grad()
            loss = ...
            loss.backward()
            return loss

        loss = opt.step(closure)

    The closure is called many times; stage it, not the step. One group of parameters only.

    lr                the length of a step, or with a line search of the first one that it tries
    max_iter          iterations in one call of `step`
    max_eval          calls of the closure in one call of `step` (None: max_iter * 5 / 4)
    tolerance_grad    done when no gradient is larger
    tolerance_change  done when neither parameters nor loss change more
    history_size      how many steps the approximation of the curvature remembers
    line_search_fn    "strong_wolfe", or None for steps of length `lr`
    """

    def __init__(self, params: Any, lr: float = 1.0, max_iter: int = 20, max_eval: int | None = None,
                 tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
                 line_search_fn: str | None = None):
        super().__init__(params, {"lr": lr, "max_iter": max_iter,
                                  "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                                  "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
                                  "history_size": history_size, "line_search_fn": line_search_fn})

    def _check(self, key: str, value: Any) -> Any:
        if key in ("max_iter", "max_eval", "history_size"):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ArgumentTypeError(f"{key} must be a whole number, not {value!r}")
            if value < 1:
                raise ArgumentError(f"{key}={value}: give a whole number of at least 1")
        if key in ("tolerance_grad", "tolerance_change"):
            return number(key, value)
        if key == "line_search_fn" and value not in (None, "strong_wolfe"):
            raise ArgumentError(f"LBFGS: line_search_fn={value!r}; use 'strong_wolfe' or None")
        return super()._check(key, value)

    def _check_group(self, group: Group) -> None:
        if len(self.param_groups) > 1:
            raise ArgumentError("LBFGS optimizes one group of parameters; use an optimizer for each")
        if any(p.dtype.kind == "c" for p in group["params"]):
            raise ArgumentError("LBFGS: complex parameters are not supported; optimize real and imaginary parts")

    # -------------------------------------------------------------------------------------------- one flat vector
    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Kept with the first parameter, for all."""
        params = self.param_groups[0]["params"]
        n, kept = sum(q.size for q in params), group["history_size"]
        dtype = ag.result_type(*[q.dtype for q in params])
        zeros = {"direction": (n,), "gradient": (n,), "steps": (kept, n), "changes": (kept, n)}
        numbers = {"iterations": 0.0, "evaluations": 0.0, "length": 0.0, "remembered": 0.0, "scale": 1.0}
        return {**{k: ag.zeros(shape, dtype=dtype) for k, shape in zeros.items()},
                **{k: Tensor(np.array(v)) for k, v in numbers.items()}}

    @staticmethod
    def _flat(parts: list[Any]) -> Any:
        return ag.concat([x.detach().reshape(-1) for x in parts])

    def _gradient(self, params: list[Tensor]) -> Any:
        return self._flat([ag.zeros_like(p.detach()) if p.grad is None else p.grad for p in params])

    @staticmethod
    def _place(params: list[Tensor], values: Any) -> None:
        at = 0
        for p in params:
            p.assign(values[at:at + p.size].reshape(p.shape).astype(p.dtype, copy=False))
            at += p.size

    # ------------------------------------------------------------------------------------------------ a step
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Iterate. `closure` clears the gradients, computes the loss and its gradients, and returns the loss.

        Returns the loss of its first call.
        """
        if closure is None:
            raise ArgumentTypeError("LBFGS.step(closure): give a function that clears the gradients, computes the "
                                    "loss, calls backward() and returns the loss; it is called many times")
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.refuse("LBFGS decides by values how often it calls its closure; stage the closure, "
                                         "and take the step outside")
        with no_grad():
            return self._steps(closure)

    def _steps(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        params = list(group["params"])
        first = params[0]
        state = self._kept.get(first) or self._start(first, group)

        def evaluate() -> tuple[Any, float, Any]:
            with enable_grad():
                loss = closure()
            return loss, float(loss), self._gradient(params)

        answer, loss, g = evaluate()
        evaluations = 1
        n = int(state["iterations"].item())
        d, t = state["direction"], state["length"].item()
        before = state["gradient"]
        done = self._largest(g) <= group["tolerance_grad"]
        turn = 0
        while not done and turn < group["max_iter"]:
            turn, n = turn + 1, n + 1
            if n > 1:
                self._remember(state, d * t, g - before)
            d = self._direction(state, g)
            before, last = g, loss
            t = group["lr"] * (min(1.0, 1.0 / abs(g).sum().item()) if n == 1 else 1.0)
            slope = (g @ d).item()
            if slope > -group["tolerance_change"]:
                break
            x = self._flat(params)
            if group["line_search_fn"] is not None:
                def at(t: float, x: Any = x, d: Any = d) -> _Point:
                    self._place(params, x + d * t)
                    _, f, there = evaluate()
                    return _Point(t, f, there, (there @ d).item())

                found, tried = _strong_wolfe(at, _Point(0.0, loss, g, slope), t, self._largest(d),
                                             group["tolerance_change"])
                t, loss, g = found.t, found.loss, found.gradient
                self._place(params, x + d * t)
            else:
                self._place(params, x + d * t)
                tried = int(turn < group["max_iter"])
                if tried:
                    _, loss, g = evaluate()
            evaluations += tried
            done = (evaluations >= group["max_eval"] or self._largest(g) <= group["tolerance_grad"]
                    or self._largest(d * t) <= group["tolerance_change"]
                    or abs(loss - last) < group["tolerance_change"])
        state["direction"].assign(d)
        state["gradient"].assign(before)
        evaluations += int(state["evaluations"].item())
        for key, count in (("length", t), ("iterations", n), ("evaluations", evaluations)):
            state[key].assign(np.array(float(count)))
        return answer

    @staticmethod
    def _largest(x: Any) -> float:
        return abs(x).max().item() if x.size else 0.0

    @staticmethod
    def _remember(state: dict[str, Any], s: Any, y: Any) -> None:
        """A step and how the gradient changed along it, where the loss curves upwards."""
        curvature = (y @ s).item()
        if not curvature > _LEAST_CURVATURE:
            return
        k, kept = int(state["remembered"].item()), state["steps"].shape[0]
        for key, value in (("steps", s), ("changes", y)):
            rows = state[key]
            state[key].assign(ag.concat([rows[1:], value[None]]) if k == kept else rows.at[k].set(value))
        state["remembered"].assign(np.array(float(min(k + 1, kept))))
        state["scale"].assign(np.array(curvature / (y @ y).item()))

    @staticmethod
    def _direction(state: dict[str, Any], g: Any) -> Any:
        """Minus the inverse Hessian, as remembered, times the gradient: the recursion with two loops."""
        k = int(state["remembered"].item())
        pairs = [(state["steps"][i], state["changes"][i]) for i in range(k)]
        rho = [1.0 / (y @ s).item() for s, y in pairs]
        q, parts = -g, [0.0] * k
        for i in reversed(range(k)):
            parts[i] = (pairs[i][0] @ q).item() * rho[i]
            q = q - pairs[i][1] * parts[i]
        r = q * state["scale"].item()
        for i in range(k):
            r = r + pairs[i][0] * (parts[i] - (pairs[i][1] @ r).item() * rho[i])
        return r


# ------------------------------------------------------------------------------------------------------ line search
def _cubic(a: _Point, b: _Point, low: float, high: float) -> float:
    """Where the cubic through two points, with their slopes, is least between `low` and `high` (equation 3.59)."""
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2
    d2 = math.sqrt(square)
    if a.t > b.t:
        a, b = b, a
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(t, low), high)


def _strong_wolfe(at: Callable[[float], _Point], start: _Point, t: float, size: float,
                  least: float) -> tuple[_Point, int]:
    """A point along the direction that satisfies the strong Wolfe conditions, or the best there was; and the tries.

    size   the largest element of the direction; least: changes smaller than this do not matter
    """
    def too_high(p: _Point) -> bool:
        return p.loss > start.loss + _SUFFICIENT * p.t * start.slope

    def flat(p: _Point) -> bool:
        return abs(p.slope) <= -_FLAT * start.slope

    previous, now, tries = start, at(t), 0
    while True:  # forward, until there is a minimum in between
        if tries == _TRIALS:
            low, high = start, now
            break
        if too_high(now) or tries > 1 and now.loss >= previous.loss:
            low, high = previous, now
            break
        if flat(now):
            return now, tries + 1
        if now.slope >= 0:
            low, high = previous, now
            break
        following = _cubic(previous, now, now.t + 0.01 * (now.t - previous.t), 10 * now.t)
        previous, now = now, at(following)
        tries += 1
    if low.loss > high.loss:
        low, high = high, low
    slow = False
    while tries < _TRIALS and abs(high.t - low.t) * size >= least:  # into it
        left, right = min(low.t, high.t), max(low.t, high.t)
        t, margin = _cubic(low, high, left, right), 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            if slow or t >= right or t <= left:
                t, slow = right - margin if abs(t - right) < abs(t - left) else left + margin, False
            else:
                slow = True
        else:
            slow = False
        now = at(t)
        tries += 1
        if too_high(now) or now.loss >= low.loss:
            high = now
            if low.loss > high.loss:
                low, high = high, low
            continue
        if flat(now):
            return now, tries + 1
        if now.slope * (high.t - low.t) >= 0:
            high = low
        low = now
    return low, tries + 1
