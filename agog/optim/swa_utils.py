"""Averages of a model's weights over training.

    ema = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.999))
    ...                              # after each step
    ema.update_parameters(model)
    ema(x)                           # the model with the averaged weights
"""

from __future__ import annotations

import copy
import math
from typing import Any, Callable, Iterable

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError
from agog.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, Buffer, Module
from agog.optim._optimizer import Optimizer
from agog.optim.lr_scheduler import LRScheduler

__all__ = ["AveragedModel", "SWALR", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn",
           "get_swa_multi_avg_fn", "update_bn"]

Average = Callable[[Any, Any, Any], Any]


def get_swa_avg_fn() -> Average:
    """`avg_fn` of an AveragedModel: the mean of all weights so far (Izmailov et al., 2018, arXiv:1803.05407)."""
    def average(averaged: Any, now: Any, n: Any) -> Any:
        return averaged + (now - averaged) / ag.astype(n + 1, averaged.dtype)

    return average


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """`avg_fn` of an AveragedModel: decay * average + (1 - decay) * weights (Polyak and Juditsky, 1992)."""
    if not 0.0 <= decay <= 1.0:
        raise ArgumentError(f"decay={decay}: give a number from 0 to 1")

    def average(averaged: Any, now: Any, n: Any) -> Any:
        return averaged * decay + now * (1 - decay)

    return average


def _of_lists(average: Average) -> Callable[[list, list, Any], None]:
    def update(averaged: list, now: list, n: Any) -> None:
        for a, p in zip(averaged, now):
            a.assign(average(a, p, n))

    return update


def get_swa_multi_avg_fn() -> Callable[[list, list, Any], None]:
    """`multi_avg_fn` of an AveragedModel: as `get_swa_avg_fn`, for all weights at once."""
    return _of_lists(get_swa_avg_fn())


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[[list, list, Any], None]:
    """`multi_avg_fn` of an AveragedModel: as `get_ema_avg_fn`, for all weights at once."""
    return _of_lists(get_ema_avg_fn(decay))


class AveragedModel(Module):
    """A copy of a model, `module`, whose parameters are the average of those of the model over training.

    avg_fn        `avg_fn(averaged, now, n)` gives the next average of a Tensor, n the number of models averaged so far;
                  by default their mean
    multi_avg_fn  `multi_avg_fn(averaged, now, n)` assigns the next averages of a list of Tensors
    use_buffers   average floating buffers as well, such as running statistics; else they are those of the latest model

    The first update takes the model as it is.
    """

    def __init__(self, model: Module, avg_fn: Average | None = None,
                 multi_avg_fn: Callable[[list, list, Any], None] | None = None, use_buffers: bool = False):
        if not isinstance(model, Module):
            raise ArgumentTypeError(f"AveragedModel: give an nn.Module, not a {type(model).__name__}")
        if avg_fn is not None and multi_avg_fn is not None:
            raise ArgumentError("AveragedModel: give avg_fn or multi_avg_fn, not both")
        self.module = copy.deepcopy(model)
        self.n_averaged = Buffer(ag.asarray(0))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the weights of `model` into the average; also inside of a staged step."""
        mine: list[Any] = list(self.module.parameters())
        theirs: list[Any] = list(model.parameters())
        own, other = list(self.module.buffers()), list(model.buffers())
        if [p.shape for p in (*mine, *own)] != [p.shape for p in (*theirs, *other)]:
            raise ArgumentError("update_parameters: the model has other parameters than the one that is averaged")
        if self.use_buffers:
            mine, theirs = mine + own, theirs + other
        floats = [ag.isdtype(a.dtype, ("real floating", "complex floating")) for a in mine]
        update = self.multi_avg_fn or _of_lists(self.avg_fn or get_swa_avg_fn())
        with ag.no_grad():
            averaged = [a for a, f in zip(mine, floats) if f]
            now = [p.detach().astype(a.dtype, copy=False) for a, p, f in zip(mine, theirs, floats) if f]
            update(averaged, now, self.n_averaged.detach())
            for a, p in zip(averaged, now):
                a.assign(ag.where(self.n_averaged > 0, a.detach(), p))
            latest = [(a, p) for a, p, f in zip(mine, theirs, floats) if not f]
            for a, p in [*latest, *([] if self.use_buffers else zip(own, other))]:
                a.assign(p.detach())
            self.n_averaged.assign(self.n_averaged + 1)


class SWALR(LRScheduler):
    """From its first step on, the rates go from what they are to `swa_lr` in `anneal_epochs` steps, and stay there.

    swa_lr           a number, or one for each group of the optimizer
    anneal_strategy  "cos" or "linear"
    """

    def __init__(self, optimizer: Any, swa_lr: Any, anneal_epochs: int = 10, anneal_strategy: str = "cos"):
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(f"SWALR(anneal_strategy={anneal_strategy!r}): use 'cos' or 'linear'")
        if isinstance(anneal_epochs, bool) or not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ArgumentError(f"SWALR(anneal_epochs={anneal_epochs!r}): give a whole number of at least 0")
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"SWALR: the first argument must be an optimizer, not a {type(optimizer).__name__}")
        now = [g["lr"] for g in optimizer.param_groups]
        self.swa_lrs = [float(v) for v in swa_lr] if isinstance(swa_lr, list | tuple) else [float(swa_lr)] * len(now)
        if len(self.swa_lrs) != len(now):
            raise ArgumentError(f"SWALR(swa_lr={swa_lr!r}): the optimizer has {len(now)} groups")
        self.anneal_epochs, self.anneal_strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer)
        self.base_lrs = now
        self._set()

    def step(self) -> None:
        """Go on to the next learning rate; the first step starts from the rates that there are then."""
        if self.last_epoch == 0:
            self.base_lrs = self.get_last_lr()
        super().step()

    def _rate(self, index: int, base: float, n: int) -> float:
        t = min(1.0, n / self.anneal_epochs) if self.anneal_epochs else float(n > 0)
        share = t if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2
        return base + (self.swa_lrs[index] - base) * share


def update_bn(loader: Iterable[Any], model: Module) -> None:
    """Compute the statistics of the batch norms in `model` anew, from a pass over the batches of `loader`.

    A batch is what the model is called with, or a tuple or list that begins with it.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm1d | BatchNorm2d | BatchNorm3d)
             and m.running_mean is not None]
    if not norms:
        return
    momenta, modes = [m.momentum for m in norms], [(m, m.training) for m in model.modules()]
    model.train()
    try:
        for m in norms:
            m.running_mean.assign(ag.zeros_like(m.running_mean))
            m.running_var.assign(ag.ones_like(m.running_var))
            m.num_batches_tracked.assign(ag.zeros_like(m.num_batches_tracked))
            m.momentum = None
        with ag.no_grad():
            for batch in loader:
                model(batch[0] if isinstance(batch, tuple | list) else batch)
    finally:
        for m, momentum in zip(norms, momenta):
            m.momentum = momentum
        for module, training in modes:
            module.training = training
