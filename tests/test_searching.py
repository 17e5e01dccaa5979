"""Sorting, searching, sets, order statistics and counting, against NumPy."""

import math

import numpy as np
import pytest

import agog as ag
from agog.errors import ArgumentError, AxisError, ShapeError

nan = math.nan


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "bool", "bfloat16", "complex64"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("axis", [0, -1])
def test_sort_and_argsort(axis, descending, dtype):
    x = ag.asarray(data(5, 4) * 3).astype(dtype)
    places = ag.argsort(x, axis=axis, descending=descending)
    values = ag.sort(x, axis=axis, descending=descending)
    assert places.dtype == ag.int64 and values.dtype == x.dtype
    want = np.sort(x.numpy(), axis)
    want = np.flip(want, axis) if descending else want
    assert np.array_equal(values.numpy(), want)
    assert np.array_equal(np.take_along_axis(x.numpy(), places.numpy(), axis), want)


def test_stable_orders_keep_equal_elements_in_place():
    x = ag.asarray([1, 0, 1, 0, 1])
    assert ag.argsort(x).tolist() == [1, 3, 0, 2, 4]
    assert ag.argsort(x, descending=True).tolist() == [0, 2, 4, 1, 3]


def test_nan_is_the_largest():
    x = ag.asarray([nan, 1., 3., 2.])
    assert ag.argsort(x).tolist() == [1, 3, 2, 0] and ag.argsort(x, descending=True).tolist() == [0, 2, 3, 1]
    assert ag.argmax(x).item() == 0
    big = np.r_[data(100), nan].astype(np.float32)
    assert ag.topk(ag.asarray(big), 2)[1].tolist()[0] == 100
    assert not np.isnan(ag.topk(ag.asarray(big), 2, largest=False)[0].numpy()).any()


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("n, k", [(6, 3), (100, 3), (100, 0), (100, 100), (1, 1)])
def test_topk(n, k, largest, dtype):
    x = np.random.default_rng(n).integers(0, 50, (n, 2)).astype(dtype)  # with ties
    values, places = ag.topk(ag.asarray(x), k, axis=0, largest=largest)
    order = np.argsort(x.astype(np.float64) * (-1 if largest else 1), axis=0, kind="stable")[:k]
    assert np.array_equal(places.numpy(), order)
    assert np.array_equal(values.numpy(), np.take_along_axis(x, order, 0)) and values.dtype == x.dtype


def test_gradients_go_where_values_came_from():
    x = ag.asarray([3., 1., 2.], requires_grad=True)
    (ag.sort(x) * ag.asarray([10., 20., 30.])).sum().backward()
    assert x.grad.tolist() == [30., 10., 20.]
    x.grad = None
    (ag.topk(x, 2)[0] * ag.asarray([5., 7.])).sum().backward()
    assert x.grad.tolist() == [5., 0., 7.]
    x.grad = None
    ag.median(x).backward()
    assert x.grad.tolist() == [0., 0., 1.]
    x.grad = None
    ag.quantile(x, 0.25).backward()
    assert x.grad.tolist() == [0., 0.5, 0.5]


def test_argmax():
    x = data(3, 4, 5)
    for axis in (None, 0, -1):
        for keepdims in (False, True):
            for name in ("argmax", "argmin"):
                ours = getattr(ag, name)(ag.asarray(x), axis=axis, keepdims=keepdims)
                assert ours.dtype == ag.int64
                assert np.array_equal(ours.numpy(), getattr(np, name)(x, axis=axis, keepdims=keepdims))
    assert ag.argmax(ag.asarray([1, 3, 3])).item() == 1


def test_searchsorted():
    x = np.array([1., 2., 2., 4.], np.float32)
    v = np.array([[0., 2.], [3., 5.]], np.float32)
    for side in ("left", "right"):
        found = ag.searchsorted(ag.asarray(x), ag.asarray(v), side=side)
        assert found.dtype == ag.int64 and np.array_equal(found.numpy(), np.searchsorted(x, v, side))
    order = np.array([3, 1, 0, 2])
    assert ag.searchsorted(ag.asarray(x[np.argsort(order)]), ag.asarray(v), sorter=ag.asarray(order)).shape == (2, 2)
    assert ag.searchsorted(ag.asarray(x), 2.5).item() == 3
    with pytest.raises(ShapeError, match="one axis"):
        ag.searchsorted(ag.ones((2, 2)), ag.ones(2))
    with pytest.raises(ArgumentError, match="side='middle'"):
        ag.searchsorted(ag.asarray(x), ag.asarray(v), side="middle")


def test_nonzero():
    x = np.array([[0, 1, 0], [2, 0, 3]])
    found = ag.nonzero(ag.asarray(x))
    assert isinstance(found, tuple) and [f.tolist() for f in found] == [w.tolist() for w in np.nonzero(x)]
    assert all(f.dtype == ag.int64 for f in found)
    assert ag.argwhere(ag.asarray(x)).tolist() == np.argwhere(x).tolist()
    with pytest.raises(AxisError, match="0-d"):
        ag.nonzero(ag.asarray(1))


def test_unique():
    x = np.array([[3, 1, 3], [1, 2, 3]])
    t = ag.asarray(x)
    values, first, inverse, counts = ag.unique_all(t)
    assert values.tolist() == [1, 2, 3] and counts.tolist() == [2, 1, 3] and first.tolist() == [1, 4, 0]
    assert inverse.shape == x.shape and np.array_equal(values.numpy()[inverse.numpy()], x)
    assert ag.unique_all(t).inverse_indices.tolist() == ag.unique_inverse(t).inverse_indices.tolist()
    assert ag.unique_counts(t).counts.tolist() == [2, 1, 3] and ag.unique_values(t).tolist() == [1, 2, 3]
    assert ag.unique_values(ag.asarray([nan, nan, 1.])).shape == (3,)


def test_isin():
    x = ag.asarray([[1, 2], [3, 4]])
    assert ag.isin(x, ag.asarray([2, 4])).tolist() == [[False, True], [False, True]]
    assert ag.isin(x, 2, invert=True).tolist() == [[True, False], [True, True]]
    assert ag.isin(x, ag.asarray([], dtype="int64")).tolist() == [[False, False], [False, False]]


@pytest.mark.parametrize("shape", [(7, 8), (8, 7), (1, 5), (5, 1), (3, 4, 5), (2, 1, 16, 3), (4, 8, 16), (3, 0, 2)])
def test_nonzero_on_several_axes(shape, monkeypatch):
    x = np.random.default_rng(5).integers(-1, 2, shape)
    want = np.nonzero(x)
    monkeypatch.setattr(np, "unravel_index", None)  # which takes several times as long
    got = ag.nonzero(ag.asarray(x))
    assert len(got) == len(shape) and all(v.dtype == ag.int64 for v in got)
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(a.numpy(), b)
    assert np.array_equal(ag.argwhere(ag.asarray(x)).numpy(), np.stack(want, 1))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64"])
@pytest.mark.parametrize("low, high", [
    (-100, 28), (0, 100), (7, 8), (-128, 127), (1 << 40, (1 << 40) + 900), (0, 1 << 50),
    (-(1 << 63), -(1 << 63) + 99), ((1 << 63) - 99, 1 << 63)])
@pytest.mark.parametrize("shape", [(255,), (256,), (20, 50)])
def test_unique_of_whole_numbers_close_to_each_other(shape, low, high, dtype):
    """These are looked up in a table."""
    info = np.iinfo(dtype)
    if low < info.min or high > info.max + 1:
        return
    x = np.random.default_rng(3).integers(low, high, shape, dtype=dtype)
    want = np.unique(x, return_index=True, return_inverse=True, return_counts=True)
    got = ag.unique_all(ag.asarray(x))
    for a, b in zip((*got, ag.unique_values(ag.asarray(x))), (*want, want[0]), strict=True):
        assert np.array_equal(a.numpy(), b.reshape(a.shape))
    assert got.values.dtype == x.dtype and {v.dtype for v in got[1:]} == {ag.int64}
    assert got.inverse_indices.shape == shape


def test_many_whole_numbers_are_not_sorted(monkeypatch):
    monkeypatch.setattr(np, "unique", None)  # which takes ten times as long
    x = ag.asarray(np.random.default_rng(3).integers(-500, 500, 2000))
    assert np.array_equal(ag.unique_values(x).numpy(), np.flatnonzero(np.bincount(x.numpy() + 500)) - 500)
    assert ag.unique_counts(x).counts.sum().item() == 2000


def test_bincount():
    x = ag.asarray([0, 2, 2, 5])
    assert ag.bincount(x).tolist() == [1, 0, 2, 0, 0, 1] and ag.bincount(x).dtype == ag.int64
    assert ag.bincount(x, minlength=8).shape == (8,)
    w = ag.asarray([1., 2., 3., 4.], requires_grad=True)
    y = ag.bincount(x, w)
    assert y.tolist() == [1., 0., 5., 0., 0., 4.] and y.dtype == ag.float32
    (y * ag.arange(6).astype("float32")).sum().backward()
    assert w.grad.tolist() == [0., 2., 2., 5.]
    with pytest.raises(ArgumentError, match="negative"):
        ag.bincount(ag.asarray([1, -1, 0]), ag.ones(3))
    with pytest.raises(ArgumentError, match="negative"):
        ag.bincount(ag.asarray([-1]))
    with pytest.raises(ArgumentError, match="one-dimensional array of integers"):
        ag.bincount(ag.ones(3))


def test_histogram():
    x = data(100).astype(np.float32)
    for kw in ({}, {"bins": 4}, {"bins": 5, "range": (-1., 1.)}, {"bins": [-1., 0., 2.]}):
        counts, edges = ag.histogram(ag.asarray(x), **kw)
        want, borders = np.histogram(x, **kw)
        assert counts.tolist() == want.tolist() and np.allclose(edges.numpy(), borders) and edges.dtype == ag.float32
    with pytest.raises(ArgumentError, match="range"):
        ag.histogram(ag.asarray(x), range=(2, 1))


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1, 2, 0)], ids=str)
def test_quantiles_against_numpy(axis, keepdims):
    x = data(3, 4, 5)
    t = ag.asarray(x)
    for q in (0, 0.1, 0.5, 0.73, 1.):
        assert np.allclose(ag.quantile(t, q, axis=axis, keepdims=keepdims).numpy(),
                           np.quantile(x, q, axis=axis, keepdims=keepdims))
    several = ag.quantile(t, [0.2, 0.9], axis=axis, keepdims=keepdims).numpy()
    assert np.allclose(several, np.quantile(x, [0.2, 0.9], axis=axis, keepdims=keepdims))
    assert np.allclose(ag.percentile(t, 30, axis=axis).numpy(), np.percentile(x, 30, axis=axis))
    assert np.allclose(ag.median(t, axis=axis, keepdims=keepdims).numpy(), np.median(x, axis=axis, keepdims=keepdims))


def test_quantiles_of_odd_inputs():
    assert math.isnan(ag.median(ag.asarray([1., nan, 2.])).item())
    assert ag.median(ag.asarray([1, 2])).item() == 1.5 and ag.median(ag.asarray([1, 2])).dtype == ag.float32
    assert ag.quantile(ag.asarray([1., 2.]), ag.asarray([0., 1.])).tolist() == [1., 2.]
    with pytest.raises(ArgumentError, match="q=1.5 must lie in"):
        ag.quantile(ag.ones(3), 1.5)
    with pytest.raises(ShapeError, match="no elements"):
        ag.median(ag.zeros(0))


def test_errors_teach():
    with pytest.raises(ArgumentError, match=r"topk: k=5, but float32\[3\] has 3 elements along axis 0"):
        ag.topk(ag.ones(3), 5)
    with pytest.raises(AxisError, match="sort: axis=1"):
        ag.sort(ag.ones(3), axis=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_nan_comes_last_in_every_dtype(dtype):
    x = ag.asarray([nan, 1, nan, -2, 3]).astype(dtype)
    assert ag.sort(x).tolist()[:3] == [-2, 1, 3] and ag.argsort(x).tolist() == [3, 1, 4, 0, 2]
    assert ag.argsort(x, descending=True).tolist() == [0, 2, 4, 1, 3] and ag.sort(x).dtype == x.dtype
    assert ag.topk(x, 1, largest=False)[0].tolist() == [-2]
    values, counts = ag.unique_counts(x)
    assert values.dtype == x.dtype and values.tolist()[:3] == [-2, 1, 3] and counts.tolist() == [1] * 5
    assert ag.searchsorted(ag.sort(x), x[3:]).tolist() == [0, 2]
