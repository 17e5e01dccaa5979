"""A staged training step: the same losses as eagerly, also when the learning rate changes between calls."""

import numpy as np
import pytest

import agog as ag
from agog import nn, optim

pytestmark = pytest.mark.skipif(not hasattr(ag, "function"), reason="this build has no staging")


def losses(cls, kw, staged):
    ag.random.seed(0)
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
    opt = cls(net.parameters(), **kw)
    schedule = optim.lr_scheduler.StepLR(opt, 3, 0.1)

    def step(x, t):
        opt.zero_grad()
        loss = ag.cross_entropy(net(x), t)
        loss.backward()
        opt.step()
        return loss.detach()

    run, out = ag.function(step) if staged else step, []
    for _ in range(7):
        x, t = rng.standard_normal((10, 6)).astype("f4"), rng.integers(0, 3, 10)
        out.append(run(ag.asarray(x), ag.asarray(t)).item())
        schedule.step()
    return out, [t.numpy() for t in net.state_dict().values()]


@pytest.mark.parametrize(("cls", "kw"), [
    (optim.SGD, {"lr": 0.5}), (optim.SGD, {"lr": 0.5, "momentum": 0.9, "nesterov": True}),
    (optim.SGD, {"lr": 0.5, "momentum": 0.9, "dampening": 0.5}), (optim.Adam, {"lr": 0.05}),
    (optim.AdamW, {"lr": 0.05, "amsgrad": True}), (optim.RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1}), (optim.Lion, {"lr": 0.01}), (optim.NAdam, {"lr": 0.05}),
    (optim.RAdam, {"lr": 0.05, "betas": (0.8, 0.85), "eps": 1e-3}), (optim.Adamax, {"lr": 0.05}), (optim.Adadelta, {}),
    (optim.Rprop, {"lr": 0.01}), (optim.Adafactor, {"lr": 0.1}),
], ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_staged_step_is_the_eager_step(cls, kw):
    eager, state = losses(cls, kw, False)
    staged, other = losses(cls, kw, True)
    np.testing.assert_allclose(staged, eager, rtol=1e-5)
    for a, b in zip(state, other):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
