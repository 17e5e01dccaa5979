"""Special functions and activations: extremes, accuracy far out, arguments, and that SciPy is loaded late."""

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.special

import agog as ag
from agog.errors import ArgumentError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # agog's own filter, which pytest undoes
inf = math.inf
FAR = [-1e4, -200., -88., -30., -5., -1e-4, 0., 1e-4, 5., 30., 88., 200., 1e4]


def test_scipy_is_not_imported_with_agog():
    code = "import sys, agog; agog.exp(agog.ones(3)); print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def wide(fn, xs):
    return np.array([fn(np.longdouble(x)) for x in xs], np.longdouble)


def relative(got, want, error, dtype):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    tiny = float(np.finfo(dtype).tiny)
    ok = (got == want) | (np.abs(got - want) <= error * np.finfo(dtype).eps * np.abs(want) + tiny)
    assert ok.all(), (got[~ok], want[~ok])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fn, exact, error", [
    (ag.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 8),
    (ag.softplus, lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), 8),
    (ag.log_sigmoid, lambda x: np.minimum(x, 0) - np.log1p(np.exp(-abs(x))), 8),
    (ag.tanh, np.tanh, 8), (ag.expm1, np.expm1, 8),
    (ag.silu, lambda x: x / (1 + np.exp(-x)), 200),
], ids=["sigmoid", "softplus", "log_sigmoid", "tanh", "expm1", "silu"])
def test_accurate_far_out(fn, exact, error, dtype):
    xs = np.array(FAR, dtype)
    with np.errstate(all="ignore"):
        want = wide(exact, xs).astype(dtype)
    relative(fn(ag.asarray(xs)).numpy(), want, error, dtype)


def test_gelu_keeps_its_left_tail():
    """1 + erf(x / sqrt(2)) would be 0 from -6 on in float32."""
    x = np.array([-8., -6., -4.], np.float32)
    want = x.astype(np.float64) * scipy.special.ndtr(x.astype(np.float64))
    assert np.allclose(ag.gelu(ag.asarray(x)).numpy(), want, rtol=1e-5, atol=0)


def test_many_float32_numbers_take_a_path_of_their_own():
    x = np.r_[np.linspace(-12, 12, 9999), np.nan, np.inf, -np.inf].astype(np.float32).reshape(-1, 2)
    for layout in (x, np.asfortranarray(x), x[::-1]):
        got = ag.ndtr(ag.asarray(layout)).numpy()
        want = scipy.special.ndtr(layout.astype(np.float64))
        assert got.dtype == np.float32 and np.allclose(got, want, rtol=1e-5, atol=1e-38, equal_nan=True)
        assert np.allclose(got, want, rtol=0, atol=3e-7, equal_nan=True)
        finite = np.where(np.isfinite(layout), layout, 0)
        assert np.allclose(ag.gelu(ag.asarray(finite)).numpy(), finite * scipy.special.ndtr(finite.astype(np.float64)),
                           rtol=1e-5, atol=1e-38)


@pytest.mark.parametrize("fn", [ag.sigmoid, ag.softplus, ag.log_sigmoid, ag.tanh, ag.gelu, ag.mish, ag.silu, ag.elu,
                                ag.selu,
                                ag.celu, ag.softsign, ag.erf, ag.erfc, ag.log_ndtr, ag.i0e])
def test_gradients_are_finite_far_out(fn):
    for dtype in ("float32", "float64"):
        x = ag.asarray(FAR, dtype=dtype).requires_grad_()
        y = fn(x)
        assert np.isfinite(y.detach().numpy()).all()
        y.sum().backward()
        assert np.isfinite(x.grad.numpy()).all(), fn


@pytest.mark.parametrize("fn, name",
                         [(ag.erf, "erf"), (ag.erfc, "erfc"), (ag.lgamma, "gammaln"), (ag.digamma, "digamma"),
                                      (ag.gamma, "gamma"), (ag.i0, "i0"), (ag.i1, "i1"), (ag.ndtr, "ndtr"),
                          (ag.sinc, None)])
def test_against_scipy(fn, name):
    x = np.linspace(-4.3, 6.1, 57)
    want = getattr(scipy.special, name)(x) if name else np.sinc(x)
    assert np.allclose(fn(ag.asarray(x)).numpy(), want, rtol=1e-12, atol=1e-14, equal_nan=True)


def test_polygamma():
    x = np.array([0.5, 1., 3.7])
    for n in range(4):
        assert np.allclose(ag.polygamma(n, ag.asarray(x)).numpy(), scipy.special.polygamma(n, x), rtol=1e-12)
    t = ag.asarray(x).requires_grad_()
    ag.polygamma(2, t).sum().backward()
    assert np.allclose(t.grad.numpy(), scipy.special.polygamma(3, x), rtol=1e-12)
    with pytest.raises(ArgumentError, match="n=-1"):
        ag.polygamma(-1, t)


def test_sinc_near_zero():
    x = ag.asarray([0., 1e-8, 1e-4, 0.09, 0.1], dtype="float64").requires_grad_()
    (g,) = ag.gradients(ag.sinc(x), [x], ag.ones(5, dtype="float64"), create_graph=True)
    u = x.detach().numpy()
    assert np.allclose(g.detach().numpy(),
                       -math.pi**2 * u / 3 * (1 - (math.pi * u)**2 / 10 * (1 - (math.pi * u)**2 / 28)),
                       rtol=1e-5, atol=0)
    (h,) = ag.gradients(g, [x], ag.ones(5, dtype="float64"))
    assert h.tolist()[0] == pytest.approx(-math.pi**2 / 3)
    assert ag.sinc(ag.asarray([1., 2., -3.])).tolist() == [0., 0., 0.]


def test_nothing_times_a_logarithm_is_nothing():
    zero = ag.asarray([0., 0., 0.]).requires_grad_()
    y = ag.asarray([0., inf, -1.]).requires_grad_()
    z = ag.xlogy(zero, y)
    assert z.tolist() == [0., 0., 0.]
    z.sum().backward()
    assert y.grad.tolist() == [0., 0., 0.]
    assert math.isnan(ag.xlogy(0., ag.asarray(math.nan)).item())
    assert ag.xlog1py(ag.asarray([0., 2.]), ag.asarray([-1., 0.])).tolist() == [0., 0.]


def test_logit():
    p = ag.asarray([0., 0.25, 1.])
    assert ag.logit(p).tolist()[::2] == [-inf, inf]
    assert np.isfinite(ag.logit(p, eps=1e-6).numpy()).all()
    assert ag.sigmoid(ag.logit(p)).tolist() == pytest.approx([0., 0.25, 1.])


def test_parametrised_activations():
    x = ag.asarray([-2., 0., 2.])
    assert ag.elu(x, 2.).tolist() == pytest.approx([2 * math.expm1(-2), 0., 2.])
    assert ag.celu(x, 0.5).tolist() == pytest.approx([0.5 * math.expm1(-4), 0., 2.])
    assert ag.softplus(x, 2.).tolist() == pytest.approx([math.log1p(math.exp(2 * v)) / 2 for v in (-2, 0, 2)])
    assert ag.hardtanh(x, -1.5, 1.).tolist() == [-1.5, 0., 1.]
    assert ag.softshrink(x, 0.5).tolist() == [-1.5, 0., 1.5] and ag.hardshrink(x, 2.).tolist() == [0., 0., 0.]
    assert ag.hard_sigmoid(ag.asarray([-4., 0., 4.])).tolist() == [0., 0.5, 1.]
    assert ag.gelu(x, approximate="tanh").tolist() == pytest.approx(ag.gelu(x).tolist(), abs=1e-3)
    with pytest.raises(ArgumentError, match="approximate='fast'"):
        ag.gelu(x, approximate="fast")


def test_prelu_slopes():
    x = ag.asarray(np.full((2, 3, 2), -1., np.float32))
    w = ag.asarray([0.1, 0.2, 0.3]).requires_grad_()
    y = ag.prelu(x, w)
    assert y.detach().numpy()[0, :, 0].tolist() == pytest.approx([-0.1, -0.2, -0.3])
    y.sum().backward()
    assert w.grad.tolist() == [-4., -4., -4.]
    assert ag.prelu(x, ag.asarray([0.5])).tolist() == ag.prelu(x, ag.asarray(0.5)).tolist()
    with pytest.raises(ArgumentError, match="channel"):
        ag.prelu(x, ag.ones(4))


def test_glu():
    x = ag.asarray([[1., 2., 0., 0.]])
    assert ag.glu(x).tolist() == [[0.5, 1.]]
    with pytest.raises(ArgumentError, match="odd size 3"):
        ag.glu(ag.ones(3))


def test_lgamma_where_scipy_has_other_limits():
    tiny = float(np.finfo(np.float64).smallest_subnormal)
    assert ag.lgamma(ag.asarray([-inf, inf, 0.0, -1.0], dtype="float64")).tolist() == [inf] * 4
    assert ag.lgamma(ag.asarray([tiny, -tiny], dtype="float64")).tolist() == pytest.approx([-math.log(tiny)] * 2)


def test_bessel_derivatives_next_to_zero_and_at_infinity():
    tiny = float(np.finfo(np.float64).tiny)
    for fn, at, want in ((ag.i1, tiny, 0.5), (ag.i1e, inf, 0.0), (ag.i0e, inf, 0.0)):
        x = ag.asarray(at, dtype="float64", requires_grad=True)
        (g,) = ag.gradients(fn(x), [x], create_graph=True)
        assert g.item() == want
        assert not math.isnan(ag.gradients(g, [x])[0].item())
