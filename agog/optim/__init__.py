"""Optimizers, and schedules of their learning rates.

    opt = ag.optim.AdamW(model.parameters(), lr=1e-3)
    loss.backward()
    opt.step()
    opt.zero_grad()
"""

from typing import Any

from agog import hints
from agog.optim import lr_scheduler, swa_utils
from agog.optim._adam import Adam, AdamW, Lion
from agog.optim._adaptive import Adagrad, RMSprop
from agog.optim._factored import Adafactor, Muon, Rprop
from agog.optim._further import Adadelta, Adamax, NAdam, RAdam
from agog.optim._lbfgs import LBFGS
from agog.optim._optimizer import Optimizer
from agog.optim._sgd import SGD

__all__ = ["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Lion", "Muon", "NAdam", "Optimizer",
           "RAdam", "RMSprop", "Rprop", "SGD", "lr_scheduler", "swa_utils"]


def __getattr__(name: str) -> Any:
    raise hints.missing("agog.optim", name, __all__)
