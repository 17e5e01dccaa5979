"""Indexing, reading and writing, against NumPy for keys of every kind; gradients against NumPy's own scatter."""

import collections
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import agog as ag
from agog.errors import ArgumentError, DTypeError, IndexingError, ShapeError

SHAPE = (3, 4, 5)
Pair = collections.namedtuple("Pair", "row column")


class One:
    def __index__(self):
        return 1

    def __repr__(self):  # (the names of tests are the same in every process)
        return "One()"


KEYS = [
    0, -1, slice(None), slice(1, None), slice(None, None, -1), slice(5, 1), None, ..., (), (0, 1), (..., 0), (None,
    ..., None), (1, ..., -1), (slice(None), 2, slice(0, 5, 2)), (..., slice(None, None, -2), None), [0, 2, 0], [[0,
    1], [2, 2]], np.array([1, -1]), (slice(None), [0, 3]), (..., [1, 1]), ([0, 1], [1, 2]), ([0, 1], ..., [1, 2]),
    ([0], slice(None), [1, 2, 0]), (0, [1, 2], 0), (slice(1, 3), [0, 1], None, [2, 2]), ([[0], [1]], [1, 2, 3]),
    np.array(2), (np.array(1), slice(None), np.array(2)), (np.int64(1), np.int8(2)), [], (slice(None), []),
    np.zeros(0, np.int64), np.arange(60).reshape(SHAPE) % 3 == 0, (np.array([True, False, True]), 1), (slice(None),
    np.arange(20).reshape(4, 5) % 2 == 0), (..., np.array([True, False, True, False, False])), (np.array([True,
    False, True]), [1, 2]), True, False, (None, True), np.array([1, 2], np.uint8), np.array([1, 2], np.uint64), (0,
    slice(None), [4, 0]), ([True, False, True],), np.zeros(SHAPE, bool), Pair(0, 1), Pair(slice(None), [0, 3]), One(),
    (One(), slice(One(), None)),
]


def data(shape=SHAPE, dtype=np.float32):
    return (np.random.default_rng(0).standard_normal(shape) * 10).astype(dtype)


def tensors_in(key):
    """The key with its arrays as Tensors."""
    if isinstance(key, tuple):
        return tuple(tensors_in(k) for k in key)
    return ag.asarray(key) if isinstance(key, np.ndarray) else key


@pytest.mark.parametrize("key", KEYS, ids=lambda k: str(k)[:40].replace("\n", ""))
@pytest.mark.parametrize("convert", [tensors_in, lambda key: key], ids=["tensors", "arrays"])
def test_reading(key, convert):
    x = data()
    t = ag.asarray(x, requires_grad=True)
    y = t[convert(key)]
    want = x[key]
    assert y.shape == want.shape and y.dtype == want.dtype
    assert np.array_equal(y.detach().numpy(), want)
    w = data(want.shape)
    ag.sum(y * w).backward()
    g = np.zeros_like(x)
    np.add.at(g, key, w)
    np.testing.assert_allclose(t.grad.numpy(), g, rtol=1e-6)


@pytest.mark.parametrize("key", KEYS, ids=lambda k: str(k)[:40].replace("\n", ""))
@pytest.mark.parametrize("form", ["full", "scalar", "last axis"])
def test_writing(key, form):
    x = data()
    part = x[key].shape
    shape = part if form == "full" else () if form == "scalar" else part[-1:]
    v = data(shape)
    t, u = ag.asarray(x, requires_grad=True), ag.asarray(v, requires_grad=True)
    y = t.at[tensors_in(key)].set(u)
    want = x.copy()
    want[key] = v
    assert np.array_equal(y.detach().numpy(), want)
    w = data(seed_shape := x.shape) + np.float32(0.5)
    assert seed_shape == y.shape
    ag.sum(y * w).backward()
    # which written element is still there: write their numbers
    mark = np.full(x.shape, -1)
    mark[key] = np.arange(np.prod(part, dtype=int)).reshape(part)
    np.testing.assert_allclose(t.grad.numpy(), np.where(mark < 0, w, 0))
    full = np.zeros(np.prod(part, dtype=int), np.float64)
    full[mark[mark >= 0]] = w[mark >= 0]
    full = full.reshape(part)
    for axis in range(len(part)):
        if len(part) - axis > len(shape):
            full = full.sum(0)
    np.testing.assert_allclose(u.grad.numpy(), full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", KEYS, ids=lambda k: str(k)[:40].replace("\n", ""))
def test_adding(key):
    x = data()
    v = data(x[key].shape)
    t, u = ag.asarray(x, requires_grad=True), ag.asarray(v, requires_grad=True)
    y = t.at[key].add(u)
    want = x.copy()
    np.add.at(want, key, v)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-5)
    w = data()
    ag.sum(y * w).backward()
    assert np.array_equal(t.grad.numpy(), w)
    np.testing.assert_allclose(u.grad.numpy(), w[key], rtol=1e-6)


@st.composite
def keys(draw):
    """(shape, key): a random mixture of everything that indexes."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    broadcast = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    items, axis, dots = [], 0, False
    while axis < len(shape):
        n = shape[axis]
        kind = draw(st.sampled_from(["int", "slice", "none", "array", "mask", "dots", "stop"]))
        if kind == "stop":
            break
        if kind == "none":
            items.append(None)
        elif kind == "dots" and not dots:
            dots = True
            items.append(...)
            axis += draw(st.integers(0, len(shape) - axis))
        elif kind == "int":
            items.append(draw(st.integers(-n, n - 1)))
            axis += 1
        elif kind == "slice":
            bound = st.none() | st.integers(-n - 1, n + 1)
            items.append(slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, -1, -2]))))
            axis += 1
        elif kind == "array":
            size = int(np.prod(broadcast))
            flat = draw(st.lists(st.integers(-n, n - 1), min_size=size, max_size=size))
            items.append(np.array(flat, int).reshape(broadcast))
            axis += 1
        elif kind == "mask":
            picked = draw(st.integers(0, n - 1))
            items.append(np.arange(n) == picked)
            axis += 1
    return shape, tuple(items)


@hypothesis.given(keys())
@hypothesis.settings(max_examples=200)
def test_any_key(case):
    shape, key = case
    x = data(shape)
    try:
        want = x[key]
    except IndexError:
        with pytest.raises(IndexingError):
            ag.asarray(x)[key]
        return
    t = ag.asarray(x, requires_grad=True)
    y = t[tensors_in(key)]
    assert y.shape == want.shape
    assert np.array_equal(y.detach().numpy(), want)
    w = data(want.shape)
    ag.sum(y * w).backward()
    g = np.zeros_like(x)
    np.add.at(g, key, w)
    np.testing.assert_allclose(t.grad.numpy(), g, rtol=1e-5, atol=1e-5)
    written = x.copy()
    written[key] = w
    assert np.array_equal(ag.asarray(x).at[key].set(w).numpy(), written)


def test_assignment_gives_the_name_a_new_value():
    x = ag.asarray(data())
    y = x[0]
    x[0] = 7
    assert np.array_equal(y.numpy(), data()[0])
    assert np.all(x[0].numpy() == 7)
    x[x > 0] = 0.5
    assert x.dtype == np.float32 and float(ag.max(x)) == 0.5
    i = ag.asarray([1, 2, 3], dtype="int64")
    i[1] = 9.7  # cast, as in NumPy
    assert i.dtype == np.int64 and i.tolist() == [1, 9, 3]


def test_mask_over_leading_axes_with_a_number():
    x = data()
    mask = np.arange(12).reshape(3, 4) % 3 == 0
    t = ag.asarray(x, requires_grad=True)
    y = t.at[mask].set(2)
    want = x.copy()
    want[mask] = 2
    assert np.array_equal(y.detach().numpy(), want)
    ag.sum(y).backward()
    assert np.array_equal(t.grad.numpy(), np.where(mask[..., None], 0, np.ones_like(x)))


@pytest.mark.parametrize("n, m, d", [(50, 4000, 8), (7, 900, 64), (1000, 3000, 1), (5, 3, 2), (300, 0, 4),
                                     (4, 5000, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64"])
def test_gradient_of_rows_with_duplicates(n, m, d, dtype):
    rng = np.random.default_rng(0)
    i = rng.integers(-n, n, m)
    w = rng.standard_normal((m, d)).astype(dtype)
    table = ag.zeros((n, d), dtype=dtype, requires_grad=True)
    ag.sum(ag.real(table[i] * w)).backward()
    want = np.zeros((n, d), np.complex128 if dtype == "complex64" else np.float64)
    np.add.at(want, i, w.conj())
    assert table.grad.dtype == table.dtype
    np.testing.assert_allclose(table.grad.numpy(), want, rtol=2e-2 if dtype == "float16" else 1e-4,
                               atol=2e-1 if dtype == "float16" else 1e-4)


def test_take_and_its_relatives():
    x = data()
    t = ag.asarray(x)
    i = np.array([[0, 2], [1, -1]])
    assert np.array_equal(ag.take(t, ag.asarray(i), axis=1).numpy(), np.take(x, i, 1))
    j = np.argsort(x, axis=1)
    assert np.array_equal(ag.take_along_axis(t, j, axis=1).numpy(), np.take_along_axis(x, j, 1))
    y = x.copy()
    np.put_along_axis(y, j[:, :1], 3.0, 1)
    assert np.array_equal(ag.put_along_axis(t, j[:, :1], 3.0, axis=1).numpy(), y)
    assert np.array_equal(ag.one_hot(ag.asarray([0, 2]), 3).numpy(), np.eye(3, dtype=np.float32)[[0, 2]])
    assert ag.one_hot(ag.asarray([0, 2]), dtype="int64").dtype == np.int64
    assert ag.one_hot(ag.asarray([[0, 2]]), 4).shape == (1, 2, 4)


def test_torch_style_scatter_and_gather():
    x = np.zeros((3, 5), np.float32)
    src = data((2, 5))
    i = np.array([[0, 1, 2, 0, 0], [2, 0, 0, 1, 2]])
    want = x.copy()
    for r in range(2):
        for c in range(5):
            want[i[r, c], c] = src[r, c]
    assert np.array_equal(ag.scatter(ag.asarray(x), 0, i, ag.asarray(src)).numpy(), want)
    want = x.copy()
    for r in range(2):
        for c in range(5):
            want[i[r, c], c] += src[r, c]
    np.testing.assert_allclose(ag.scatter_add(ag.asarray(x), 0, i, ag.asarray(src)).numpy(), want)
    small = i[:, :3]
    assert np.array_equal(ag.scatter(ag.asarray(x), 0, small, 1.0).numpy()[:, 3:], x[:, 3:])
    got = ag.gather(ag.asarray(data((3, 5))), 0, small).numpy()
    assert np.array_equal(got, np.take_along_axis(data((3, 5))[:, :3], small, 0))


@pytest.mark.parametrize("call, error, words", [
    (lambda x: x[3], IndexingError, ["index 3", "axis 0", "size 3", "-3 to 2"]),
    (lambda x: x[0, 0, -6], IndexingError, ["index -6", "axis 2", "size 5"]),
    (lambda x: x[..., 5], IndexingError, ["index 5", "axis 2"]),
    (lambda x: x[0, 0, 0, 0], IndexingError, ["4 indices", "3 axes"]),
    (lambda x: x[..., ...], IndexingError, ["only one ..."]),
    (lambda x: x[::0], IndexingError, ["step"]),
    (lambda x: x[[0, 3]], IndexingError, ["index 3", "axis 0", "size 3"]),
    (lambda x: x[:, [0, -5]], IndexingError, ["index -5", "axis 1", "size 4"]),
    (lambda x: x[[0, 1], [1, 9]], IndexingError, ["index 9", "axis 1", "size 4"]),
    (lambda x: x[1.5], IndexingError, ["float"]),
    (lambda x: x["a"], IndexingError, ["str"]),
    (lambda x: x[[0.5]], IndexingError, ["float64"]),
    (lambda x: x[ag.asarray([1.0])], IndexingError, ["float32", "astype"]),
    (lambda x: x[1.0:2], IndexingError, ["slice"]),
    (lambda x: x[[[1], [1, 2]]], IndexingError, ["ragged"]),
    (lambda x: x[np.array([True, False])], IndexingError, ["mask", "(3,)"]),
    (lambda x: x[[0, 1], [0, 1, 2]], IndexingError, ["float32[3, 4, 5]"]),
    (lambda x: x.at[0].set(ag.zeros(3)), ShapeError, ["float32[3]", "(4, 5)"]),
    (lambda x: x.at[[0, 1]].set(ag.zeros(3)), ShapeError, ["float32[3]", "(2, 4, 5)"]),
    (lambda x: x.at[[0, 1]].add(ag.zeros(3)), ShapeError, ["float32[3]", "(2, 4, 5)"]),
    (lambda x: x.at[[0, 7]].set(1.0), IndexingError, ["index 7", "axis 0"]),
    (lambda x: x.at[0].set(1j), DTypeError, ["complex"]),
    (lambda x: ag.take(x, ag.asarray([4]), axis=0), IndexingError, ["index 4", "axis 0"]),
    (lambda x: ag.take(x, ag.asarray([0.0])), IndexingError, ["integers"]),
    (lambda x: ag.take_along_axis(x, ag.asarray([0]), axis=0), ShapeError, ["take"]),
    (lambda x: ag.take_along_axis(x, ag.full((1, 4, 5), 3), axis=0), IndexingError, ["index 3"]),
    (lambda x: ag.put_along_axis(x, ag.full((1, 4, 5), 3), 1.0, axis=0), IndexingError, ["index 3"]),
    (lambda x: ag.gather(x, 0, ag.zeros((1, 9, 5), dtype="int64")), ShapeError, ["no larger"]),
    (lambda x: ag.one_hot(ag.asarray([3]), 3), IndexingError, ["class 3"]),
    (lambda x: ag.one_hot(ag.asarray([-1]), 3), IndexingError, ["class -1"]),
    (lambda x: ag.take_along_axis(x, x, axis=0), IndexingError, ["integers"]),
    (lambda x: ag.dispatch.tensors.index_update(x, 0, 1, mode="mul"), ArgumentError, ["'mul'"]),
])
def test_errors_teach(call, error, words):
    with pytest.raises(error) as caught:
        call(ag.asarray(data()))
    for word in words:
        assert word in str(caught.value)
    assert "test_indexing.py" in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "bool", "float16", "complex64"])
def test_items_written_where_nobody_sees_it(dtype):
    """Assignment reuses the memory when nothing else has it; the values, and the errors, are those of a copy."""
    values = [0, 3, -2, 2.5, -0.0, 1e35, 2**40, True, math.nan, 1 + 2j, [1, 2], ag.asarray([2.0, 5.0]),
              ag.asarray(7), ag.asarray([1, 2, 3]), np.array([4.0, 1.0]), "no"]
    keys = [0, -1, 9, slice(1, 3), slice(3, 0, -2), (slice(None), 1), (..., 2), (None, 1), (1, 1),
            (slice(0, 2), slice(0, 2)), True, [0, 1], 1.5, slice(None, None, 0), (0, 0, 0)]
    start = np.arange(16).reshape(4, 4).astype(dtype)
    for key in keys:
        for value in values:
            results = []
            for seen in (False, True):
                t = ag.asarray(start)
                view = t[:] if seen else None
                try:
                    t[key] = value
                    results.append((t.dtype, t.numpy().tobytes()))
                except Exception as error:
                    results.append((type(error), str(error).splitlines()[0]))
                assert view is None or view.numpy().tobytes() == start.tobytes()
            assert results[0] == results[1], (key, value)


def test_items_are_written_without_a_copy():
    for t in (ag.zeros(4), ag.asarray([1, 2, 3, 4])):
        where = id(t._data)
        t[1], t[2:] = 3, t[0].clone()
        assert id(t._data) == where and t[1] == 3


def test_items_written_are_not_seen_through_other_names():
    x = ag.zeros(4)
    views = [x.numpy(), x.detach(), x[1:], x.reshape(2, 2), np.asarray(x), np.from_dlpack(x), memoryview(x.numpy())]
    x[1] = 5.0
    x[2:] = 6.0
    assert all((np.asarray(v) == 0).all() for v in views) and x.tolist() == [0, 5, 6, 6]
    w = ag.ones(3, requires_grad=True)
    y = w * 2
    z = (y * y).sum()
    kept = y.detach()
    kept[0] = 100.0  # what the product needs stays as it was
    z.backward()
    assert w.grad.tolist() == [8, 8, 8]


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "complex64"])
@pytest.mark.parametrize("shape, axes", [
    ((2000,), 1), ((40, 50), 2), ((40, 50), 1), ((10, 11, 12), 2), ((1, 3, 500), 3), ((2000, 1), 1)])
def test_masks_of_many_elements(shape, axes, dtype):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * 9).astype(dtype)
    for mask in (rng.random(shape[:axes]) < 0.3, np.zeros(shape[:axes], bool), np.ones(shape[:axes], bool)):
        got = ag.asarray(x)[ag.asarray(mask)]
        assert got.dtype == x.dtype and got.shape == x[mask].shape
        np.testing.assert_array_equal(got.numpy(), x[mask])
        if axes > 1:
            np.testing.assert_array_equal(ag.asarray(x).swapaxes(0, 1)[ag.asarray(mask).swapaxes(0, 1)].numpy(),
                                          x.swapaxes(0, 1)[mask.swapaxes(0, 1)])
    with pytest.raises(ag.errors.IndexingError, match="mask"):
        ag.asarray(x)[ag.ones(*shape[:axes - 1], shape[axes - 1] + 1, dtype="bool")]


def test_masks_of_many_elements_become_places(monkeypatch):
    asked, flatnonzero = [], np.flatnonzero
    monkeypatch.setattr(np, "flatnonzero", lambda x: asked.append(x.shape) or flatnonzero(x))  # several times as quick
    x, mask = ag.ones(5000, 2), ag.ones(5000, 2, dtype="bool")
    assert x[mask].shape == (10_000,) and x[mask[:, 0]].shape == (5000, 2) and asked == [(5000, 2), (5000,)]
