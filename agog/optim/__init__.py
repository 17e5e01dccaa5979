"""Optimizers, and schedules of their learning rates.

    opt = ag.optim.AdamW(model.parameters(), lr=1e-3)
    loss.backward()
    opt.step()
    opt.zero_grad()
"""

from agog.optim import lr_scheduler
from agog.optim._adam import Adam, AdamW, Lion
from agog.optim._adaptive import Adagrad, RMSprop
from agog.optim._further import Adadelta, Adamax, NAdam, RAdam
from agog.optim._lbfgs import LBFGS
from agog.optim._optimizer import Optimizer
from agog.optim._sgd import SGD

__all__ = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Lion", "NAdam", "Optimizer", "RAdam", "RMSprop",
           "SGD", "lr_scheduler"]
