"""Reductions and scans against NumPy, their accumulation, empty axes, gradients at ties and zeros, and errors."""

import math

import numpy as np
import pytest
import scipy.special

import agog as ag
from agog.errors import ArgumentError, AxisError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # agog's own filter, which pytest undoes
inf, nan = math.inf, math.nan
AXES = [None, 0, 1, -1, (0, 2), (2, 0, 1), [1], ()]


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", ["sum", "prod", "mean", "max", "min", "any", "all", "var", "std", "count_nonzero",
                                  "logsumexp"])
def test_against_numpy(name, axis, keepdims):
    x = data(2, 3, 4)
    ours = getattr(ag, name)(ag.asarray(x), axis=axis, keepdims=keepdims).numpy()
    axis = tuple(axis) if isinstance(axis, list) else axis
    if name == "logsumexp":
        want = scipy.special.logsumexp(x, axis=axis, keepdims=keepdims) if axis != () else x
    elif name == "count_nonzero":
        want = np.sum(x != 0, axis=axis, keepdims=keepdims)
    else:
        want = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert ours.shape == np.shape(want) and np.allclose(ours, want)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("shape, axis", [
    ((5000,), 0), ((700, 10), 1), ((700, 10), -1), ((700, 10), 0), ((100, 7, 9), 1), ((100, 7, 9), (1, 2)),
    ((100, 7, 9), (0, 1)), ((100, 7, 9), (0, 2)), ((100, 7, 9), (2, 1)), ((33, 4, 5, 11), (1, 2)),
    ((33, 4, 5, 11), (-1, -2)), ((1000, 8), [1]), ((9001, 3), 1), ((20, 400), 1), ((20, 300, 3), 1)], ids=str)
def test_sums_over_short_axes_of_many(shape, axis, dtype):
    """They are products with ones where that is faster."""
    value = (data(*shape) * 10).astype(dtype)
    over = tuple(axis) if isinstance(axis, list) else axis
    for x in (value, value[::-1]):
        for keepdims in (False, True):
            for name in ("sum", "mean"):
                got = getattr(ag, name)(ag.asarray(x), axis=axis, keepdims=keepdims).numpy()
                want = getattr(x.astype("float64"), name)(axis=over, keepdims=keepdims)
                assert got.shape == want.shape and got.dtype == getattr(ag, name)(ag.asarray(x[:1])).dtype
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_sums_of_special_values_over_short_axes():
    x = np.tile([[1.0, inf, 2.0], [nan, 1.0, 1.0], [inf, -inf, 0.0], [1.0, -inf, -1e308]], (1000, 1))
    np.testing.assert_array_equal(ag.sum(ag.asarray(x), axis=1).numpy(), np.tile([inf, nan, nan, -inf], 1000))
    for bad in (2, -3, (0, 0)):
        with pytest.raises(AxisError):
            ag.sum(ag.asarray(x), axis=bad)


def test_integers_add_up_in_64_bits():
    x = ag.asarray([100, 100, 100], dtype="int8")
    assert ag.sum(x).item() == 300 and ag.sum(x).dtype == ag.int64 and ag.prod(x).item() == 10**6
    assert ag.sum(ag.asarray([200, 200], dtype="uint8")).dtype == ag.uint64
    assert ag.sum(ag.asarray([True, True])).dtype == ag.int64
    assert ag.cumsum(x, 0).tolist() == [100, 200, 300]
    assert ag.sum(x, dtype="float64").dtype == ag.float64 and ag.mean(x).dtype == ag.float32
    assert ag.sum(ag.asarray([1.5, 1.5]), dtype="int32").dtype in (ag.int32, ag.int64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_accumulate_in_float32(dtype):
    x = ag.ones((5000, 2), dtype=dtype)
    for axis, want in ((0, 5000.), (None, 10000.)):
        total = ag.sum(x, axis=axis)
        assert total.dtype == x.dtype
        assert np.allclose(total.astype("float32").numpy(), want, rtol=1e-2)
        assert np.all(ag.mean(x, axis=axis).astype("float32").numpy() == 1.)
    assert np.all(ag.var(x, axis=0).astype("float32").numpy() == 0.)
    assert ag.mean(ag.full((3,), 60000., dtype=dtype)).astype("float32").item() == pytest.approx(60000., rel=1e-2)
    assert ag.cumsum(x, 0)[-1, 0].astype("float32").item() == pytest.approx(5000., rel=1e-2)


def test_nothing_reduced():
    x = ag.zeros((0, 3))
    assert ag.sum(x, axis=0).tolist() == [0., 0., 0.] and ag.prod(x, axis=0).tolist() == [1., 1., 1.]
    assert ag.any(x).item() is False and ag.all(x).item() is True
    assert math.isnan(ag.mean(x).item()) and ag.logsumexp(x).item() == -inf
    assert ag.max(x, axis=1).shape == (0,) and ag.sum(x, axis=1).shape == (0,)
    for fn in (ag.max, ag.min, ag.argmax, ag.argmin):
        with pytest.raises(ShapeError, match=r"float32\[0, 3\] has no elements"):
            fn(x)


def test_errors_teach():
    x = ag.ones((2, 3))
    with pytest.raises(AxisError, match=r"sum: axis=2 is not an axis of float32\[2, 3\].*-2 to 1"):
        ag.sum(x, axis=2)
    with pytest.raises(AxisError, match="names an axis twice"):
        ag.max(x, axis=(0, -2))
    with pytest.raises(AxisError, match="0-d"):
        ag.mean(ag.asarray(1.), axis=1)
    with pytest.raises(ArgumentError, match="ord='fro'"):
        ag.vector_norm(x, ord="fro")
    with pytest.raises(AxisError, match="say along which"):
        ag.cumulative_sum(x)


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "max", "logsumexp", "vector_norm", "std"])
def test_the_first_axis_of_a_number(name):
    """NumPy and PyTorch let it pass."""
    x = ag.asarray(2.).requires_grad_()
    y = getattr(ag, name)(x, axis=0)
    y.backward()
    assert y.item() == (0. if name == "std" else 2.) and x.grad.item() == (0. if name == "std" else 1.)


# ---------------------------------------------------------------------------------------------------------- gradients
def gradient(fn, x):
    t = ag.asarray(x, dtype="float64").requires_grad_()
    fn(t).sum().backward()
    return t.grad.tolist()


def test_gradients_of_ties_are_shared():
    m = [[1., 1., 3.], [0., 3., 3.]]
    assert gradient(lambda x: ag.max(x, axis=1), m) == [[0., 0., 1.], [0., 0.5, 0.5]]
    assert gradient(lambda x: ag.min(x, axis=1), m) == [[0.5, 0.5, 0.], [1., 0., 0.]]
    assert gradient(ag.max, [2., 2., 2., 2.]) == [0.25] * 4


@pytest.mark.parametrize("x", [[2., 3., 4.], [0., 3., 4.], [0., 0., 4.], [5.], [1., 2., 0., 4., 5., 6., 7.]], ids=str)
def test_gradients_of_products_with_zeros(x):
    others = [math.prod(x[:i] + x[i + 1:]) for i in range(len(x))]
    assert gradient(ag.prod, x) == pytest.approx(others)
    t = ag.asarray(x, dtype="float64").requires_grad_()
    (g,) = ag.gradients(ag.prod(t), [t], create_graph=True)
    pairs = [[0. if i == j else math.prod(v for k, v in enumerate(x) if k not in (i, j)) for j in range(len(x))]
             for i in range(len(x))]
    for i in range(len(x)):
        if g.requires_grad:
            (row,) = ag.gradients(g[i], [t], retain_graph=True, allow_unused=True)
            assert (row.tolist() if row is not None else [0.]) == pytest.approx(pairs[i])


def test_gradients_of_running_products_with_zeros():
    assert gradient(lambda x: ag.cumprod(x, 0), [2., 0., 3.]) == [1., 8., 0.]
    assert gradient(lambda x: ag.cumprod(x, 0), [0., 0., 3.]) == [1., 0., 0.]
    assert gradient(lambda x: ag.cumprod(x), [[1., 2.], [3., 4.]]) == [[33., 16.], [10., 6.]]


def test_gradients_of_statistics_of_constants():
    assert gradient(ag.std, [1., 1., 1.]) == [0., 0., 0.]
    assert gradient(ag.vector_norm, [0., 0.]) == [0., 0.]
    for order in (1, 3, inf, 0.5):
        assert gradient(lambda x, o=order: ag.vector_norm(x, ord=o), [0., 0.]) == [0., 0.], order
    assert gradient(lambda x: ag.var(x, correction=1), [1., 4., 2.]) == pytest.approx([-4 / 3, 5 / 3, -1 / 3])


# ------------------------------------------------------------------------------------------------------- far out
def test_logsumexp_far_out():
    assert ag.logsumexp(ag.asarray([1000., 1000.])).item() == pytest.approx(1000 + math.log(2))
    assert ag.logsumexp(ag.asarray([-1000., -1001.])).item() == pytest.approx(-1000 + math.log1p(math.exp(-1)))
    assert ag.logsumexp(ag.asarray([inf, 1.])).item() == inf and ag.logsumexp(ag.asarray([-inf, -inf])).item() == -inf
    assert gradient(ag.logsumexp, [-inf, 1.]) == [0., 1.] and gradient(ag.logsumexp, [-inf, -inf]) == [0., 0.]
    assert gradient(lambda x: ag.logcumsumexp(x, 0)[-1], [-inf, -inf, 1., 1.]) == pytest.approx([0., 0., 0.5, 0.5])
    assert ag.logcumsumexp(ag.asarray([1000., 1000.]), 0).tolist() == pytest.approx([1000., 1000 + math.log(2)])


def test_var_of_large_numbers():
    x = ag.asarray([1e8 + 1, 1e8 + 2, 1e8 + 3], dtype="float64")
    assert ag.var(x).item() == pytest.approx(2 / 3) and ag.var(x, correction=1).item() == pytest.approx(1.)
    assert ag.var(ag.asarray([1.]), correction=1).numpy().shape == ()
    assert ag.std(ag.asarray([1 + 1j, 1 - 1j])).item() == 1. and ag.std(ag.asarray([1j])).dtype == ag.float32


@pytest.mark.parametrize("order", [0, 1, 2, 3, 0.5, -1, inf, -inf])
def test_vector_norm(order):
    x = data(3, 4)
    assert np.allclose(ag.vector_norm(ag.asarray(x), axis=1, ord=order).numpy(), np.linalg.norm(x, order, axis=1))
    assert ag.vector_norm(ag.asarray([3 + 4j]), ord=order or 1).item() == pytest.approx(5.)


def test_nan_reductions():
    x = [[1., nan, 3.], [nan, nan, nan]]
    assert ag.nansum(ag.asarray(x), axis=1).tolist() == [4., 0.]
    means = ag.nanmean(ag.asarray(x), axis=1).tolist()
    assert means[0] == 2. and math.isnan(means[1])
    assert gradient(lambda v: ag.nansum(v), x) == [[1., 0., 1.], [0., 0., 0.]]
    assert math.isnan(ag.max(ag.asarray([1., nan])).item())


# -------------------------------------------------------------------------------------------------------------- scans
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_scans_against_numpy(axis):
    x = data(3, 4)
    assert np.allclose(ag.cumsum(ag.asarray(x), axis).numpy(), np.cumsum(x, axis))
    assert np.allclose(ag.cumprod(ag.asarray(x), axis).numpy(), np.cumprod(x, axis))
    if axis is not None:
        values, places = ag.cummax(ag.asarray(x), axis)
        assert np.array_equal(values.numpy(), np.maximum.accumulate(x, axis)) and places.dtype == ag.int64
        assert np.array_equal(np.take_along_axis(x, places.numpy(), axis), values.numpy())


def test_cummax_of_ties_and_nans():
    values, places = ag.cummax(ag.asarray([1., 1., 0., nan, 5.]), 0)
    assert places.tolist() == [0, 1, 1, 3, 3] and np.isnan(values.numpy()[3:]).all()
    values, places = ag.cummin(ag.asarray([2, 3, 2, 1]), 0)
    assert (values.tolist(), places.tolist()) == ([2, 2, 2, 1], [0, 0, 2, 3])


def test_cumulative_sums_of_the_standard():
    x = ag.asarray([1, 2, 3], dtype="int32")
    assert ag.cumulative_sum(x, include_initial=True).tolist() == [0, 1, 3, 6]
    assert ag.cumulative_prod(x, include_initial=True).tolist() == [1, 1, 2, 6]
    assert ag.cumulative_sum(x).dtype == ag.int64
    assert ag.cumulative_sum(ag.zeros((2, 0)), axis=1, include_initial=True).tolist() == [[0.], [0.]]
    assert ag.cumulative_sum(x, dtype="float32").dtype == ag.float32


def test_diff():
    x = data(3, 5)
    for axis, n in ((-1, 1), (0, 2), (1, 3), (1, 0)):
        assert np.allclose(ag.diff(ag.asarray(x), axis=axis, n=n).numpy(), np.diff(x, n, axis))
    t = ag.asarray([1., 4.])
    assert ag.diff(t, prepend=ag.asarray([0.]), append=ag.asarray([9.])).tolist() == [1., 3., 5.]
    assert ag.diff(ag.asarray([True, False, False])).tolist() == [True, False]
    with pytest.raises(ArgumentError, match="n=-1"):
        ag.diff(t, n=-1)


def test_gradient_of_logcumsumexp_with_infinity():
    x = ag.asarray([1.0, 2.0, np.inf, 3.0], dtype="float64", requires_grad=True)
    ag.logcumsumexp(x)[:2].sum().backward()
    share = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(x.grad.numpy(), [1 + share, 1 - share, 0, 0])
