"""Schedules of the learning rate.

    schedule = ag.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=100)
    for epoch in range(100):
        ...
        schedule.step()

A schedule is a function of the number of steps taken, so one that was loaded goes on exactly where it was saved.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any, Callable, Sequence

from agog import config, hints
from agog.errors import ArgumentError, ArgumentTypeError, CheckpointError
from agog.optim._group import named, number
from agog.optim._optimizer import Optimizer

__all__ = ["ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LRScheduler",
           "LambdaLR", "LinearLR", "LinearWarmup", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
           "ReduceLROnPlateau", "SequentialLR", "StepLR"]


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ArgumentError(f"{name}={value}: give a whole number of at least {least}")
    return value


class _Stateful:
    """What staging is told of a schedule: its attributes are watched where code names them."""

    optimizer: Optimizer
    __agog_own__: frozenset[str] = frozenset()

    def __agog_watch__(self) -> tuple[Any, Any]:
        return None, named(self)

    def _seen(self, changed: bool = False) -> None:
        """All that there is to a schedule is read, or it is stepped."""
        if config.special and (recorder := config.modes.recorder) is not None:
            made = min(g._made for g in self.optimizer.param_groups)
            for key in self.__dict__:
                recorder.on_setting(self.__dict__, key, made, changed)


class LRScheduler(_Stateful):
    """The base class: a subclass defines `rate(base, n)`, the learning rate after `n` calls of `step`.

    base  the learning rate that the group had when the first schedule was made (`group["initial_lr"]`)
    """

    def __init__(self, optimizer: Optimizer):
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"{type(self).__name__}: the first argument must be an optimizer, not a "
                                    f"{type(optimizer).__name__}")
        self.optimizer = optimizer
        self.last_epoch = 0
        self.base_lrs = [g.setdefault("initial_lr", g["lr"]) for g in optimizer.param_groups]
        self._set()

    def rate(self, base: float, n: int) -> float:
        """The learning rate after `n` steps, for a group that started with `base`."""
        return base

    def _set(self) -> None:
        for i, (group, base) in enumerate(zip(self.optimizer.param_groups, self.base_lrs)):
            group["lr"] = self._rate(i, base, self.last_epoch)

    def _rate(self, index: int, base: float, n: int) -> float:
        return self.rate(base, n)

    def step(self) -> None:
        """Go on to the next learning rate: call it once after each epoch (or each batch, as you planned it)."""
        self._seen(changed=True)
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The learning rates of the groups now."""
        return [g["lr"] for g in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on from here, besides how the schedule was made."""
        self._seen()
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the schedule that was saved stood. Raises CheckpointError for the state of another kind."""
        mine = self.state_dict()
        if not isinstance(state_dict, dict) or state_dict.keys() != mine.keys():
            raise CheckpointError(f"{type(self).__name__}.load_state_dict: expected the keys {sorted(mine)}")
        if len(state_dict["base_lrs"]) != len(self.base_lrs):
            raise CheckpointError(f"{type(self).__name__}.load_state_dict: {len(state_dict['base_lrs'])} groups were "
                                  f"saved, this optimizer has {len(self.base_lrs)}")
        for key, value in state_dict.items():
            setattr(self, key, list(value) if isinstance(value, list | tuple) else value)
        self._set()


def _set_momentum(schedule: LRScheduler, group: Any, momentum: float) -> None:
    """Give a group the momentum, or the first beta, that the schedule has come to."""
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    elif "momentum" in group:
        group["momentum"] = momentum
    else:
        raise ArgumentError(f"{type(schedule).__name__}: {type(schedule.optimizer).__name__} has no momentum to cycle; "
                            "pass cycle_momentum=False")


class LambdaLR(LRScheduler):
    """base * factor(n); `factor` is a function of the number of steps, or a list with one for each group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]):
        groups = len(getattr(optimizer, "param_groups", ()))
        self.factors = list(lr_lambda) if not callable(lr_lambda) else [lr_lambda] * groups
        if len(self.factors) != groups:
            raise ArgumentError(f"LambdaLR: {len(self.factors)} functions for {groups} parameter groups")
        super().__init__(optimizer)

    def _rate(self, index: int, base: float, n: int) -> float:
        return base * self.factors[index](n)


class MultiplicativeLR(LRScheduler):
    """base times factor(1) * ... * factor(n); `factor` is a function of the number of a step, or one for each group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]):
        groups = len(getattr(optimizer, "param_groups", ()))
        self.factors = list(lr_lambda) if not callable(lr_lambda) else [lr_lambda] * groups
        if len(self.factors) != groups:
            raise ArgumentError(f"MultiplicativeLR: {len(self.factors)} functions for {groups} parameter groups")
        super().__init__(optimizer)

    def _rate(self, index: int, base: float, n: int) -> float:
        for i in range(1, n + 1):
            base *= self.factors[index](i)
        return base


class CyclicLR(LRScheduler):
    """Up and down between base_lr and max_lr, again and again (Smith, 2017). Step it after each batch.

    step_size_up, step_size_down  steps of the way up, and down (None: as many)
    mode                          "triangular"; "triangular2" halves the height with each cycle; "exp_range" multiplies
                                  it with gamma at each step
    cycle_momentum                move the momentum (or the first beta) from max_momentum to base_momentum and back
    """

    def __init__(self, optimizer: Optimizer, base_lr: float | Sequence[float], max_lr: float | Sequence[float],
                 step_size_up: int = 2000, step_size_down: int | None = None, mode: str = "triangular",
                 gamma: float = 1.0, *, cycle_momentum: bool = False, base_momentum: float = 0.8,
                 max_momentum: float = 0.9):
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise ArgumentError(f"CyclicLR: mode={mode!r}; use 'triangular', 'triangular2' or 'exp_range'")
        groups = len(getattr(optimizer, "param_groups", ()))
        ends = []
        for name, value in (("base_lr", base_lr), ("max_lr", max_lr)):
            values = list(value) if isinstance(value, list | tuple) else [value] * groups
            if len(values) != groups:
                raise ArgumentError(f"CyclicLR: {len(values)} values of {name} for {groups} parameter groups")
            ends.append([number(name, v) for v in values])
        self.base_lr, self.max_lrs = ends
        self.up = _whole("step_size_up", step_size_up, 1)
        self.down = self.up if step_size_down is None else _whole("step_size_down", step_size_down, 1)
        self.mode, self.gamma = mode, number("gamma", gamma)
        self.cycle_momentum, self.base_momentum, self.max_momentum = cycle_momentum, base_momentum, max_momentum
        super().__init__(optimizer)

    def _rate(self, index: int, base: float, n: int) -> float:
        cycle, at = divmod(n, self.up + self.down)
        part = at / self.up if at <= self.up else 1.0 - (at - self.up) / self.down
        if self.mode == "triangular2":
            part /= 2.0 ** cycle
        elif self.mode == "exp_range":
            part *= self.gamma ** n
        if self.cycle_momentum:
            momentum = self.max_momentum - (self.max_momentum - self.base_momentum) * part
            _set_momentum(self, self.optimizer.param_groups[index], momentum)
        low = self.base_lr[index]
        return low + (self.max_lrs[index] - low) * part


class ConstantLR(LRScheduler):
    """base * factor for the first `total_iters` steps, then base."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5):
        self.factor, self.total_iters = number("factor", factor), _whole("total_iters", total_iters, 0)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * self.factor if n < self.total_iters else base


class StepLR(LRScheduler):
    """base * gamma ** (n // step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        self.step_size, self.gamma = _whole("step_size", step_size, 1), number("gamma", gamma)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * self.gamma ** (n // self.step_size)


class MultiStepLR(LRScheduler):
    """base * gamma ** (how many of the milestones have been reached)."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1):
        self.milestones = sorted(_whole("milestones", m, 0) for m in milestones)
        self.gamma = number("gamma", gamma)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * self.gamma ** bisect_right(self.milestones, n)


class ExponentialLR(LRScheduler):
    """base * gamma ** n."""

    def __init__(self, optimizer: Optimizer, gamma: float):
        self.gamma = number("gamma", gamma)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * self.gamma ** n


class LinearLR(LRScheduler):
    """base times a factor that goes evenly from start_factor to end_factor over `total_iters` steps."""

    def __init__(self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0,
                 total_iters: int = 5):
        self.start_factor, self.end_factor = number("start_factor", start_factor), number("end_factor", end_factor)
        self.total_iters = _whole("total_iters", total_iters, 1)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        part = min(n, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * part)


class LinearWarmup(LinearLR):
    """From start_factor * base (a small part of it) evenly up to base over `warmup_steps` steps."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int, start_factor: float = 0.01):
        super().__init__(optimizer, start_factor, 1.0, _whole("warmup_steps", warmup_steps, 1))


class PolynomialLR(LRScheduler):
    """base * (1 - n / total_iters) ** power, 0 from total_iters on."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0):
        self.total_iters, self.power = _whole("total_iters", total_iters, 1), number("power", power)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * (1 - min(n, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingLR(LRScheduler):
    """Down half a cosine from base to eta_min over `T_max` steps, and up again (Loshchilov and Hutter, 2017)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        self.T_max, self.eta_min = _whole("T_max", T_max, 1), number("eta_min", eta_min)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * n / self.T_max)) / 2


class CosineAnnealingWarmRestarts(LRScheduler):
    """Down half a cosine from base to eta_min over `T_0` steps, and again from base (Loshchilov and Hutter, 2017).

    T_mult  each run down is that many times as long as the one before
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0):
        self.T_0, self.T_mult = _whole("T_0", T_0, 1), _whole("T_mult", T_mult, 1)
        self.eta_min = number("eta_min", eta_min)
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        length = self.T_0
        if self.T_mult == 1:
            n %= length
        while n >= length:
            n, length = n - length, length * self.T_mult
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * n / length)) / 2


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to far below where it started (Smith and Topin, 2018).

    Step it after each batch. The rate follows cosines, or straight lines with anneal_strategy="linear".

    total_steps       number of batches of the whole cycle, also as epochs * steps_per_epoch; more steps than that raise
                      ArgumentError
    pct_start         part of the cycle that goes up
    final_div_factor  the end is max_lr / div_factor / final_div_factor
    cycle_momentum    move the momentum (or the first beta) from max_momentum to base_momentum and back
    """

    def __init__(self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int | None = None,
                 epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
                 anneal_strategy: str = "cos", cycle_momentum: bool = False, base_momentum: float = 0.85,
                 max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ArgumentError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            total_steps = _whole("epochs", epochs, 1) * _whole("steps_per_epoch", steps_per_epoch, 1)
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(f"OneCycleLR: anneal_strategy={anneal_strategy!r}; use 'cos' or 'linear'")
        self.total_steps, self.anneal_strategy = _whole("total_steps", total_steps, 1), anneal_strategy
        self.pct_start = number("pct_start", pct_start, high=1.0)
        self.div_factor = number("div_factor", div_factor)
        self.final_div_factor = number("final_div_factor", final_div_factor)
        groups = len(getattr(optimizer, "param_groups", ()))
        highs = list(max_lr) if isinstance(max_lr, list | tuple) else [max_lr] * groups
        self.max_lrs = [number("max_lr", m) for m in highs]
        if len(self.max_lrs) != groups:
            raise ArgumentError(f"OneCycleLR: {len(self.max_lrs)} values of max_lr for {groups} parameter groups")
        self.cycle_momentum, self.base_momentum, self.max_momentum = cycle_momentum, base_momentum, max_momentum
        super().__init__(optimizer)

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * part
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    def _phase(self, n: int) -> tuple[bool, float]:
        """(going up, how far)."""
        top, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if n <= top:
            return True, n / top if top > 0 else 1.0
        return False, min((n - top) / (end - top), 1.0) if end > top else 1.0

    def _rate(self, index: int, base: float, n: int) -> float:
        if n > self.total_steps:  # the step after the last batch is harmless
            raise ArgumentError(f"OneCycleLR: step {n} of a cycle of total_steps={self.total_steps}; the cycle is over")
        high = self.max_lrs[index]
        low = high / self.div_factor
        up, part = self._phase(n)
        if self.cycle_momentum:
            group = self.optimizer.param_groups[index]
            momentum = self._between(self.max_momentum, self.base_momentum, part) if up else \
                self._between(self.base_momentum, self.max_momentum, part)
            _set_momentum(self, group, momentum)
        return self._between(low, high, part) if up else self._between(high, low / self.final_div_factor, part)


class SequentialLR(LRScheduler):
    """One schedule after another: schedule i + 1 takes over, from its own beginning, at milestones[i]."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]):
        self.schedulers, self.milestones = list(schedulers), [_whole("milestones", m, 1) for m in milestones]
        if len(self.milestones) != len(self.schedulers) - 1 or self.milestones != sorted(set(self.milestones)):
            raise ArgumentError(f"SequentialLR: {len(self.schedulers)} schedules need {len(self.schedulers) - 1} "
                                f"rising milestones, not {self.milestones}")
        for s in self.schedulers:
            if not isinstance(s, LRScheduler) or s.optimizer is not optimizer:
                raise ArgumentError("SequentialLR: each schedule must be one by the number of steps, of this same "
                                    "optimizer")
        super().__init__(optimizer)

    def _set(self) -> None:
        index = bisect_right(self.milestones, self.last_epoch)
        current = self.schedulers[index]
        current.last_epoch = self.last_epoch - (self.milestones[index - 1] if index else 0)
        current._set()


class ReduceLROnPlateau(_Stateful):
    """Multiply the learning rate by `factor` when a number (`step(metric)`) has not improved for `patience` steps.

    mode       "min": smaller is better; "max": larger is better
    threshold  how much better counts: a part of the best value (threshold_mode="rel") or an amount ("abs")
    cooldown   steps to wait after a reduction
    min_lr     the rate goes no lower
    """

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
                 threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0,
                 eps: float = 1e-8):
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"ReduceLROnPlateau: the first argument must be an optimizer, not a "
                                    f"{type(optimizer).__name__}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ArgumentError(f"ReduceLROnPlateau: mode={mode!r}, threshold_mode={threshold_mode!r}; use 'min' or "
                                "'max', and 'rel' or 'abs'")
        self.optimizer, self.mode, self.threshold_mode = optimizer, mode, threshold_mode
        self.factor = number("factor", factor, high=1.0, open_high=True)
        self.patience, self.cooldown = _whole("patience", patience, 0), _whole("cooldown", cooldown, 0)
        self.threshold, self.min_lr, self.eps = number("threshold", threshold), number("min_lr", min_lr), eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def _better(self, value: float) -> bool:
        margin = abs(self.best) * self.threshold if self.threshold_mode == "rel" else self.threshold
        if math.isinf(self.best):
            return not math.isnan(value) and value != self.best
        return value < self.best - margin if self.mode == "min" else value > self.best + margin

    def step(self, metrics: Any) -> None:
        """Note the newest value (a number, or a Tensor with one element) and reduce the rate if it is time to."""
        self._seen(changed=True)
        value = float(metrics)
        self.last_epoch += 1
        if self._better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group in self.optimizer.param_groups:
                new = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - new > self.eps:
                    group["lr"] = new
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def get_last_lr(self) -> list[float]:
        """The learning rates of the groups now."""
        return [g["lr"] for g in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on from here, besides how the schedule was made."""
        self._seen()
        return {k: getattr(self, k) for k in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the schedule that was saved stood. The rate itself is part of the optimizer's state."""
        if not isinstance(state_dict, dict) or state_dict.keys() != self.state_dict().keys():
            raise CheckpointError("ReduceLROnPlateau.load_state_dict: expected the keys "
                                  f"{sorted(self.state_dict())}")
        for key, value in state_dict.items():
            setattr(self, key, value)


def __getattr__(name: str) -> Any:
    raise hints.missing("agog.optim.lr_scheduler", name, __all__)
