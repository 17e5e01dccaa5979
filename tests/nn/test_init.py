"""First values: their distributions, and reproducibility."""

import math

import numpy as np
import pytest

import agog as ag
from agog import errors, nn
from agog.nn import init


def empty(*shape, dtype="float32"):
    return nn.Parameter(ag.empty(shape, dtype=dtype))


@pytest.mark.parametrize(("fill", "low", "high", "std"), [
    (lambda t: init.uniform_(t, -1.0, 3.0), -1, 3, 4 / math.sqrt(12)),
    (lambda t: init.normal_(t, 1.0, 2.0), -20, 20, 2.0),
    (lambda t: init.trunc_normal_(t, 0.0, 1.0, -1.0, 1.0), -1, 1, 0.5396),
    (lambda t: init.xavier_uniform_(t, 2.0), -2 * math.sqrt(6 / 500), 2 * math.sqrt(6 / 500), 2 * math.sqrt(2 / 500)),
    (init.xavier_normal_, -1, 1, math.sqrt(2 / 500)),
    (lambda t: init.kaiming_uniform_(t, a=1.0), -math.sqrt(3 / 300), math.sqrt(3 / 300), math.sqrt(1 / 300)),
    (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"), -1, 1, math.sqrt(2 / 200)),
])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_distributions(fill, low, high, std, dtype):
    ag.random.seed(1)
    t = empty(200, 300, dtype=dtype)
    assert fill(t) is t and t.requires_grad and t.dtype == getattr(ag, dtype)
    x = t.detach().numpy().astype(float)
    assert low - 1e-3 * abs(low) <= x.min() and x.max() <= high + 1e-3 * abs(high)
    assert x.std() == pytest.approx(std, rel=0.02)
    assert x.mean() == pytest.approx((low + high) / 2 if high != 20 else 1.0, abs=0.02)


def test_fans_of_kernels():
    t = empty(40, 30, 5, 5)
    init.kaiming_normal_(t)
    assert t.detach().numpy().std() == pytest.approx(math.sqrt(2 / (1 + 1e-4) / 750) * math.sqrt(1 + 1e-4), rel=0.02)


def test_constants():
    assert init.zeros_(empty(2)).tolist() == [0, 0] and init.ones_(empty(2)).tolist() == [1, 1]
    assert init.constant_(empty(2), 0.5).tolist() == [0.5, 0.5]
    assert init.eye_(empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    w = init.dirac_(empty(4, 2, 3), groups=2)
    x = ag.random.normal((1, 4, 5))
    np.testing.assert_array_equal(ag.conv1d(x, w, padding=1, groups=2).detach().numpy(), x.numpy())


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 2, 3)])
def test_orthogonal(shape):
    w = init.orthogonal_(empty(*shape, dtype="float64"), gain=2.0).detach().numpy().reshape(shape[0], -1)
    small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)


def test_the_seed_decides():
    def make():
        return nn.Sequential(nn.Linear(4, 3), nn.Conv2d(1, 2, 3), nn.LSTM(2, 3)).state_dict()

    ag.random.seed(5)
    first = make()
    ag.random.seed(5)
    second = make()
    for name, t in first.items():
        np.testing.assert_array_equal(t.numpy(), second[name].numpy())
    g = ag.random.Generator(3)
    a = init.normal_(empty(3), generator=g)
    b, c = init.normal_(empty(3), generator=ag.random.Generator(3)), init.normal_(empty(3))
    assert a.tolist() == b.tolist() != c.tolist()


@pytest.mark.parametrize(("module", "name", "bound"), [
    (lambda: nn.Linear(100, 400), "weight", 0.1), (lambda: nn.Linear(100, 4000), "bias", 0.1),
    (lambda: nn.Conv2d(4, 400, 5), "weight", 0.1), (lambda: nn.Conv2d(8, 400, 5, groups=2), "weight", 0.1),
    (lambda: nn.LSTM(30, 100), "weight_hh_l0", 0.1), (lambda: nn.Bilinear(100, 30, 20), "weight", 0.1),
    (lambda: nn.ConvTranspose2d(400, 4, 5), "weight", 0.1),
])
def test_default_bounds_are_pytorchs(module, name, bound):
    x = getattr(module(), name).detach().numpy()
    assert 0.98 * bound < abs(x).max() <= bound * (1 + 1e-6)
    assert x.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_gains():
    assert init.calculate_gain("tanh") == 5 / 3 and init.calculate_gain("leaky_relu", 1.0) == 1.0
    assert init.calculate_gain("relu") == math.sqrt(2)


@pytest.mark.parametrize(("act", "error", "text"), [
    (lambda: init.uniform_(3), errors.ArgumentTypeError, "give a Tensor"),
    (lambda: init.zeros_([1.0]), errors.ArgumentTypeError, "give a Tensor, not a list"),
    (lambda: init.uniform_(empty(1), 2.0, 1.0), errors.ArgumentError, "larger than"),
    (lambda: init.normal_(empty(1), 0.0, -1.0), errors.ArgumentError, "negative"),
    (lambda: init.trunc_normal_(empty(1), a=1.0, b=0.0), errors.ArgumentError, "a < b"),
    (lambda: init.xavier_uniform_(empty(3)), errors.ShapeError, "at least 2 axes"),
    (lambda: init.orthogonal_(empty(3)), errors.ShapeError, "at least 2 axes"),
    (lambda: init.eye_(empty(3)), errors.ShapeError, "a matrix"),
    (lambda: init.dirac_(empty(3, 3)), errors.ShapeError, "kernel"),
    (lambda: init.kaiming_normal_(empty(3, 3), mode="fan"), errors.ArgumentError, "'fan_in' or 'fan_out'"),
    (lambda: init.kaiming_normal_(empty(3, 3), nonlinearity="sin"), errors.ArgumentError, "'leaky_relu'"),
])
def test_bad_input(act, error, text):
    with pytest.raises(error, match=text):
        act()
