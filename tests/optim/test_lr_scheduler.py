"""Schedules against their formulas, and going on after loading."""

import math
import pickle

import numpy as np
import pytest

import agog as ag
from agog import errors, optim
from agog.optim import lr_scheduler as schedules


def optimizer(lr=0.1, **kw):
    return optim.SGD([ag.zeros(1, requires_grad=True)], lr=lr, **kw)


def rates(make, n=10, **kw):
    opt = optimizer(**kw)
    schedule, out = make(opt), []
    for _ in range(n):
        out.append(opt.lr)
        schedule.step()
    return out


SIMPLE = {
    "StepLR": (lambda o: schedules.StepLR(o, 3, 0.5), lambda n: 0.1 * 0.5 ** (n // 3)),
    "MultiStepLR": (lambda o: schedules.MultiStepLR(o, [5, 2, 5], 0.5),
                    lambda n: 0.1 * [1, 1, .5, .5, .5, .125][min(n, 5)]),
    "ExponentialLR": (lambda o: schedules.ExponentialLR(o, 0.9), lambda n: 0.1 * 0.9 ** n),
    "CosineAnnealingLR": (lambda o: schedules.CosineAnnealingLR(o, 5, 0.01),
                          lambda n: 0.01 + 0.09 * (1 + math.cos(math.pi * n / 5)) / 2),
    "CosineAnnealingWarmRestarts": (lambda o: schedules.CosineAnnealingWarmRestarts(o, 2, 2, 0.01),
                                    lambda n: 0.01 + 0.09 * (1 + math.cos(math.pi * (
                                        n / 2 if n < 2 else (n - 2) / 4 if n < 6 else (n - 6) / 8))) / 2),
    "LinearLR": (lambda o: schedules.LinearLR(o, 0.2, 1.0, 4), lambda n: 0.1 * min(0.2 + 0.2 * n, 1.0)),
    "LinearWarmup": (lambda o: schedules.LinearWarmup(o, 5, 0.0), lambda n: 0.1 * min(n / 5, 1.0)),
    "ConstantLR": (lambda o: schedules.ConstantLR(o, 0.25, 3), lambda n: 0.1 * (0.25 if n < 3 else 1)),
    "PolynomialLR": (lambda o: schedules.PolynomialLR(o, 8, 2.0), lambda n: 0.1 * (1 - min(n, 8) / 8) ** 2),
    "MultiplicativeLR": (lambda o: schedules.MultiplicativeLR(o, lambda n: n / (n + 1)), lambda n: 0.1 / (n + 1)),
    "CyclicLR": (lambda o: schedules.CyclicLR(o, 0.1, 0.5, 2), lambda n: [0.1, 0.3, 0.5, 0.3][n % 4]),
    "CyclicLR triangular2": (lambda o: schedules.CyclicLR(o, 0.1, 0.5, 1, 3, "triangular2"),
                             lambda n: 0.1 + 0.4 * [0, 1, 2 / 3, 1 / 3][n % 4] / 2 ** (n // 4)),
    "CyclicLR exp_range": (lambda o: schedules.CyclicLR(o, 0.1, 0.5, 2, mode="exp_range", gamma=0.9),
                           lambda n: 0.1 + 0.4 * [0, 0.5, 1, 0.5][n % 4] * 0.9 ** n),
    "LambdaLR": (lambda o: schedules.LambdaLR(o, lambda n: 1 / (n + 1)), lambda n: 0.1 / (n + 1)),
    "SequentialLR": (lambda o: schedules.SequentialLR(o, [schedules.LinearWarmup(o, 4, 0.0),
                                                          schedules.ExponentialLR(o, 0.8)],
                                                      [4]),
                     lambda n: 0.1 * n / 4 if n < 4 else 0.1 * 0.8 ** (n - 4)),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_formula(name):
    make, formula = SIMPLE[name]
    np.testing.assert_allclose(rates(make), [formula(n) for n in range(10)], rtol=1e-12, atol=1e-17)


def test_one_cycle():
    """Numbers of PyTorch 2.13 for max_lr=1, total_steps=13 with a cycled momentum."""
    opt = optimizer(momentum=0.9)
    schedule = schedules.OneCycleLR(opt, 1.0, 13, cycle_momentum=True)
    found = []
    for _ in range(12):
        found.append((opt.lr, opt.param_groups[0]["momentum"]))
        schedule.step()
    expected = [
        (0.04, 0.95), (0.29516394846410077, 0.9234204220349895), (0.7893697913739435, 0.8719406467318809),
        (0.9997020714672542, 0.8500297929724464), (0.9643782625501709, 0.8535621879937348),
        (0.8742558770640542, 0.8625744625914449), (0.7399697791049373, 0.8760031261020107),
        (0.5773663579364711, 0.8922635332604859), (0.4056335797487326, 0.9094368797726458),
        (0.24503671767014096, 0.9254966302195068), (0.11452695450885979, 0.938547658739749),
        (0.029505054314122554, 0.9470498827681187)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert opt.lr == pytest.approx(0.04 / 1e4)
    schedule.step()
    assert opt.lr == pytest.approx(0.04 / 1e4)
    with pytest.raises(errors.ArgumentError, match="the cycle is over"):
        schedule.step()


def test_one_cycle_in_straight_lines():
    found = rates(lambda o: schedules.OneCycleLR(o, 1.0, 9, pct_start=5 / 9, anneal_strategy="linear", div_factor=10,
                                                 final_div_factor=100), 9)
    np.testing.assert_allclose(found, [*np.linspace(0.1, 1.0, 5), *np.linspace(1.0, 0.001, 5)[1:]], rtol=1e-12)


def test_one_cycle_of_adam_moves_the_first_beta():
    opt = optim.Adam([ag.zeros(1, requires_grad=True)])
    schedules.OneCycleLR(opt, 1.0, 10, cycle_momentum=True)
    assert opt.param_groups[0]["betas"] == (0.95, 0.999)
    with pytest.raises(errors.ArgumentError, match="no momentum"):
        schedules.OneCycleLR(optim.Adagrad([ag.zeros(1, requires_grad=True)]), 1.0, 10, cycle_momentum=True)


@pytest.mark.parametrize(("settings", "expected"), [
    ({"factor": 0.5, "patience": 2},
     [.1] * 4 + [.05] * 4 + [.025] * 3 + [.0125] * 3 + [.00625] * 5 + [.003125] * 3 + [.0015625]),
    ({"mode": "max", "factor": 0.5, "patience": 1, "cooldown": 2, "threshold": 0.1, "threshold_mode": "abs",
      "min_lr": 0.02},
     [.1] * 2 + [.05] * 4 + [.025] * 4 + [.02] * 13),
])
def test_plateau(settings, expected):
    opt = optimizer()
    schedule, found = schedules.ReduceLROnPlateau(opt, **settings), []
    for value in [5, 4, 4, 4, 4, 3.9, 3.8999, 3.8998, 3.8997, 3.9, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7]:
        schedule.step(ag.asarray(float(value)))
        found.append(opt.lr)
    np.testing.assert_allclose(found, expected)
    assert schedule.get_last_lr() == [opt.lr]


def test_plateau_is_not_fooled_by_nan():
    opt = optimizer()
    schedule = schedules.ReduceLROnPlateau(opt, patience=0, factor=0.5)
    schedule.step(math.nan)
    assert opt.lr == 0.05 and schedule.best == math.inf


def test_each_group_from_its_own_rate():
    p, q = ag.zeros(1, requires_grad=True), ag.zeros(1, requires_grad=True)
    opt = optim.SGD([{"params": p, "lr": 1.0}, {"params": q, "lr": 2.0}])
    schedule = schedules.LambdaLR(opt, [lambda n: n, lambda n: 10 * n])
    schedule.step()
    assert schedule.get_last_lr() == [1.0, 20.0]
    schedules.OneCycleLR(opt, [0.5, 1.0], 10)
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([0.5 / 25, 1.0 / 25])


@pytest.mark.parametrize("name", [n for n in SIMPLE if n != "LambdaLR"])
def test_loading_goes_on(name):
    make, formula = SIMPLE[name]
    opt = optimizer()
    schedule = make(opt)
    for _ in range(6):
        schedule.step()
    again = optimizer()
    other = make(again)
    other.load_state_dict(schedule.state_dict())
    assert again.lr == opt.lr
    schedule.step()
    other.step()
    assert again.lr == opt.lr == pytest.approx(formula(7))


def test_loading_a_plateau():
    schedule = schedules.ReduceLROnPlateau(optimizer(), patience=1)
    schedule.step(1.0)
    schedule.step(2.0)
    other = schedules.ReduceLROnPlateau(optimizer(), patience=1)
    other.load_state_dict(schedule.state_dict())
    other.step(2.0)
    assert other.optimizer.lr == pytest.approx(0.01)


def test_pickle():
    schedule = schedules.ExponentialLR(optimizer(), 0.5)
    schedule.step()
    other = pickle.loads(pickle.dumps(schedule))
    other.step()
    assert other.optimizer.lr == 0.025 and schedule.optimizer.lr == 0.05


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda o: schedules.StepLR(o, 0), errors.ArgumentError, "step_size=0"),
    (lambda o: schedules.StepLR(o, 1.5), errors.ArgumentTypeError, "whole number"),
    (lambda o: schedules.StepLR(3, 1), errors.ArgumentTypeError, "must be an optimizer"),
    (lambda o: schedules.ReduceLROnPlateau(3), errors.ArgumentTypeError, "must be an optimizer"),
    (lambda o: schedules.ReduceLROnPlateau(o, factor=1.0), errors.ArgumentError, "factor"),
    (lambda o: schedules.ReduceLROnPlateau(o, mode="best"), errors.ArgumentError, "'min' or 'max'"),
    (lambda o: schedules.ExponentialLR(o, -1.0), errors.ArgumentError, "gamma"),
    (lambda o: schedules.LambdaLR(o, [abs, abs]), errors.ArgumentError, "2 functions for 1"),
    (lambda o: schedules.OneCycleLR(o, [1.0, 2.0], 3), errors.ArgumentError, "2 values"),
    (lambda o: schedules.OneCycleLR(o, 1.0, 3, anneal_strategy="exp"), errors.ArgumentError, "'cos' or 'linear'"),
    (lambda o: schedules.SequentialLR(o, [schedules.ExponentialLR(o, 1.0)], [1]), errors.ArgumentError, "0 rising"),
    (lambda o: schedules.SequentialLR(o, [schedules.ExponentialLR(optimizer(), 1.0)], []), errors.ArgumentError,
     "same optimizer"),
    (lambda o: schedules.ExponentialLR(o, 1.0).load_state_dict({}), errors.CheckpointError, "expected the keys"),
    (lambda o: schedules.ExponentialLR(o, 1.0).load_state_dict({"last_epoch": 1, "base_lrs": [1, 2]}),
     errors.CheckpointError,
     "2 groups"),
    (lambda o: schedules.ReduceLROnPlateau(o).load_state_dict({"a": 1}), errors.CheckpointError, "expected the keys"),
])
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make(optimizer())


def test_cyclic_momentum_and_what_cyclic_refuses():
    for opt, read in ((optimizer(momentum=0.9), lambda o: o.param_groups[0]["momentum"]),
                      (optim.Adam([ag.zeros(1, requires_grad=True)]), lambda o: o.param_groups[0]["betas"][0])):
        schedule, found = schedules.CyclicLR(opt, 0.1, 0.5, 2, cycle_momentum=True), []
        for _ in range(5):
            found.append(read(opt))
            schedule.step()
        np.testing.assert_allclose(found, [0.9, 0.85, 0.8, 0.85, 0.9])
    with pytest.raises(errors.ArgumentError, match="Adagrad has no momentum"):
        schedules.CyclicLR(optim.Adagrad([ag.zeros(1, requires_grad=True)]), 0.1, 0.5, cycle_momentum=True)
    with pytest.raises(errors.ArgumentError, match="triangular2"):
        schedules.CyclicLR(optimizer(), 0.1, 0.5, mode="square")
    with pytest.raises(errors.ArgumentError, match="2 values of max_lr for 1"):
        schedules.CyclicLR(optimizer(), 0.1, [0.5, 0.6])
    with pytest.raises(errors.ArgumentError, match="2 functions for 1"):
        schedules.MultiplicativeLR(optimizer(), [lambda n: 1.0] * 2)


def test_one_cycle_of_epochs():
    whole = rates(lambda o: schedules.OneCycleLR(o, 1.0, 12), 12)
    assert rates(lambda o: schedules.OneCycleLR(o, 1.0, epochs=4, steps_per_epoch=3), 12) == whole
    assert rates(lambda o: schedules.OneCycleLR(o, 1.0, None, 4, 3), 12) == whole  # PyTorch's places
    for given in ({}, {"epochs": 4}, {"steps_per_epoch": 3}):
        with pytest.raises(errors.ArgumentError, match="total_steps, or epochs and steps_per_epoch"):
            rates(lambda o: schedules.OneCycleLR(o, 1.0, **given), 1)  # noqa: B023
