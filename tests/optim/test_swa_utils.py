"""Averages of a model's weights: against their formulas, staged, saved, and with batch norms."""

import numpy as np
import pytest

import agog as ag
from agog import nn, optim
from agog.errors import ArgumentError, ArgumentTypeError
from agog.optim import swa_utils


def draws(*shape, seed=0):
    return ag.asarray(np.random.default_rng(seed).standard_normal(shape).astype("f4"))


def model():
    ag.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


AVERAGES = {
    "mean": (dict, lambda all_: np.mean(all_, axis=0)),
    "multi mean": (lambda: {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()}, lambda all_: np.mean(all_, axis=0)),
    "ema": (lambda: {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.7)}, None),
    "own": (lambda: {"avg_fn": lambda averaged, now, n: 0.7 * averaged + 0.3 * now}, None),
}


def decayed(values):
    out = values[0]
    for v in values[1:]:
        out = 0.7 * out + 0.3 * v
    return out


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("which", AVERAGES)
def test_averages(which, staged):
    make, formula = AVERAGES[which]
    net = model()
    averaged = swa_utils.AveragedModel(net, **make())
    opt = optim.SGD(net.parameters(), lr=0.5)

    def step(x):
        net(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
        averaged.update_parameters(net)

    run, seen = ag.function(step, strict=True) if staged else step, []
    for i in range(5):
        run(draws(6, 3, seed=i))
        seen.append(net[0].weight.detach().numpy())
    np.testing.assert_allclose(averaged.module[0].weight.detach().numpy(), (formula or decayed)(seen), rtol=1e-5,
                               atol=1e-6)
    assert averaged.n_averaged.item() == 5 and averaged.module[1].num_batches_tracked.item() == 5
    np.testing.assert_allclose(averaged.module[1].running_var.numpy(), net[1].running_var.numpy())
    assert "module.0.weight" in averaged.state_dict() and "n_averaged" in averaged.state_dict()
    other = swa_utils.AveragedModel(model(), **make())
    other.load_state_dict(averaged.state_dict())
    x = draws(4, 3, seed=9)
    np.testing.assert_allclose(other.eval()(x).detach().numpy(), averaged.eval()(x).detach().numpy())


def test_buffers_are_averaged_when_asked():
    net = model()
    averaged = swa_utils.AveragedModel(net, use_buffers=True)
    values = []
    for i in range(3):
        net(draws(6, 3, seed=i))
        averaged.update_parameters(net)
        values.append(net[1].running_mean.numpy())
    np.testing.assert_allclose(averaged.module[1].running_mean.numpy(), np.mean(values, axis=0), rtol=1e-5, atol=1e-7)
    assert averaged.module[1].num_batches_tracked.item() == 3


def test_statistics_of_batch_norms_are_made_anew():
    net = model()
    net(draws(50, 3) * 9)
    net.eval()
    batches = [(draws(8, 3, seed=i), None) for i in range(4)]
    swa_utils.update_bn(batches, net)
    hidden = [net[0](x).detach().numpy() for x, _ in batches]
    np.testing.assert_allclose(net[1].running_mean.numpy(), np.mean([h.mean(0) for h in hidden], axis=0), rtol=1e-4,
                               atol=1e-5)
    spread = np.mean([h.var(0, ddof=1) for h in hidden], axis=0)
    np.testing.assert_allclose(net[1].running_var.numpy(), spread, rtol=1e-4)
    assert net[1].momentum == 0.1 and not net.training and net[1].num_batches_tracked.item() == 4


def test_rates_go_from_where_they_are():
    opt = optim.SGD([ag.zeros(1, requires_grad=True)], lr=1.0)
    first = optim.lr_scheduler.ExponentialLR(opt, 0.5)
    then = swa_utils.SWALR(opt, 0.05, 4, "linear")
    first.step()
    seen = []
    for _ in range(6):
        then.step()
        seen.append(opt.lr)
    np.testing.assert_allclose(seen, [0.3875, 0.275, 0.1625, 0.05, 0.05, 0.05])
    again = swa_utils.SWALR(opt, 0.05, 4, "linear")
    again.load_state_dict({"last_epoch": 2, "base_lrs": [0.5]})
    assert abs(opt.lr - 0.275) < 1e-12
    cosine = swa_utils.SWALR(opt, [0.0], 2)
    opt.lr = 1.0
    cosine.step()
    assert abs(opt.lr - 0.5) < 1e-12


def test_what_makes_no_sense():
    with pytest.raises(ArgumentTypeError, match="nn.Module"):
        swa_utils.AveragedModel([1])
    with pytest.raises(ArgumentError, match="not both"):
        swa_utils.AveragedModel(model(), swa_utils.get_swa_avg_fn(), swa_utils.get_swa_multi_avg_fn())
    with pytest.raises(ArgumentError, match="decay"):
        swa_utils.get_ema_avg_fn(1.5)
    with pytest.raises(ArgumentError, match="other parameters"):
        swa_utils.AveragedModel(model()).update_parameters(nn.Linear(2, 2))
    opt = optim.SGD([ag.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ArgumentError, match="anneal_strategy"):
        swa_utils.SWALR(opt, 0.1, anneal_strategy="other")
    with pytest.raises(ArgumentError, match="1 groups"):
        swa_utils.SWALR(opt, [0.1, 0.2])
