"""Searching natively: NumPy's places, whatever is equal, nan or a zero with a sign."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import jit, targets
from agog.compiler import searching as compiled

DTYPES = compiled.DTYPES


def some(rng, dtype, *shape):
    """Few different elements, and all kinds of them."""
    x = rng.integers(-9, 9, shape)
    if dtype in ("int32", "int64"):
        info = np.iinfo(dtype)
        return np.where(x == 3, info.max, np.where(x == -3, info.min, x)).astype(dtype)
    x = np.where(rng.random(shape) < 0.2, np.nan, x).astype(dtype)
    x = np.where(x == 3, np.inf, np.where(x == -3, -np.inf, np.where(x == 1, -0.0, x))).astype(dtype)
    return np.where(rng.random(shape) < 0.1, -np.array(np.nan, dtype), x)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_search(dtype, right, at_end, target, guarded, rng):
    for n in (1, 2, 3, 7, 8, 9, 100, 1025):
        for m in (0, 1, 2, 31, 32, 33, 200):
            ordered, values = np.sort(some(rng, dtype, n)), some(rng, dtype, m)
            out = guarded.array(np.full(m, -1), at_end)
            compiled.search(dtype, target)(out, guarded.array(ordered, at_end), guarded.array(values, at_end), right)
            np.testing.assert_array_equal(out, np.searchsorted(ordered, values, "right" if right else "left"))


def order(x, k, largest):
    """The places of the best by a stable sort, in which nan is the largest."""
    ranks = np.searchsorted(np.unique(x, equal_nan=True), x)
    return np.argsort(-ranks if largest else ranks, -1, kind="stable")[:, :k]


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_best(dtype, largest, at_end, target, guarded, rng):
    for n, k in ((1, 1), (2, 1), (5, 5), (17, 3), (64, 5), (64, 64), (100, 64), (333, 7), (1000, 1)):
        x = some(rng, dtype, 6, n)
        x[1], x[2] = np.sort(x[1]), np.sort(x[2])[::-1]
        out = guarded.array(np.full((6, k), -1), at_end)
        compiled.best(dtype, target)(out, guarded.array(x, at_end), largest)
        np.testing.assert_array_equal(out, order(x, k, largest))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    x, values = rng.normal(size=(5000, 60)).astype("float32"), rng.normal(size=100_000)
    out, places = np.empty((5000, 4), np.int64), np.empty(100_000, np.int64)
    compiled.best("float32")(out, x, True)
    np.testing.assert_array_equal(out, order(x, 4, True))
    ordered = np.sort(values[:3000])
    compiled.search("float64")(places, ordered, values, False)
    np.testing.assert_array_equal(places, np.searchsorted(ordered, values))


def test_what_does_not_fit_changes_nothing():
    out, x = np.zeros((2, 3), np.int64), np.ones((2, 4), np.float32)
    native = compiled.best("float32")
    for o, v in ((out, x[:, :2].copy()), (out[:1].copy(), x), (np.zeros((1, 65), np.int64), np.ones((1, 70), "f")),
                 (out[:, :0].copy(), x)):
        with pytest.raises(ValueError, match="takes"):
            native(o, v, True)
    native = compiled.search("float32")
    for o, a, v in ((out, x, x), (out, x[:0], np.ones(6, "f")), (out, x, np.ones(6))):
        with pytest.raises(ValueError, match="takes"):
            native(o, a, v, True)
    assert not out.any()


def calls(rng):
    x, half = some(rng, "float32", 30, 50), some(rng, "float32", 40, 30).astype("float16")
    whole, flat = some(rng, "int64", 5, 6, 70), np.sort(rng.normal(size=300).astype("float32"))
    A = ag.asarray
    return {
        "topk": lambda: ag.topk(A(x), 5),
        "topk, first axis": lambda: ag.topk(A(x), 3, axis=0, largest=False),
        "topk, middle axis": lambda: ag.topk(A(whole), 2, axis=1),
        "topk of halves": lambda: ag.topk(A(half), 4),
        "topk of bytes": lambda: ag.topk(A((whole % 100).astype("uint8")), 4),
        "topk of a transpose": lambda: ag.topk(A(x).T, 4, axis=0),
        "many": lambda: ag.topk(A(whole), 65),
        "none": lambda: ag.topk(A(whole), 0),
        "places": lambda: [ag.searchsorted(A(flat), A(x))],
        "places, right": lambda: [ag.searchsorted(A(flat), A(x), side="right")],
        "places of halves": lambda: [ag.searchsorted(A(np.sort(half[0])), A(half))],
        "places, promoted": lambda: [ag.searchsorted(A(flat), A(x.astype("float64")))],
        "places, sorter": lambda: [ag.searchsorted(A(flat[::-1].copy()), A(x), sorter=A(np.arange(300)[::-1].copy()))],
        "places in nothing": lambda: [ag.searchsorted(A(flat[:0]), A(x))],
    }


KERNELS = compiled.Searching(lambda make, *key: make(*key)).table()
CALLS = list(calls(np.random.default_rng(0)))


@pytest.mark.parametrize("name", CALLS)
def test_eager_code_gets_the_same(name, monkeypatch):
    got = []
    for kernels in ({}, KERNELS):
        monkeypatch.setattr(large, "kernels", kernels)
        monkeypatch.setattr(large, "_count", lambda work: None)
        got.append([v.numpy() for v in calls(np.random.default_rng(1))[name]()])
    for one, two in zip(*got, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def test_eager_code_takes_the_kernels(monkeypatch):
    asked = []
    monkeypatch.setattr(large, "kernels", {name: lambda *a, name=name: asked.append(name) for name in KERNELS})
    for name in ("topk", "topk, first axis", "topk of halves", "places", "places, right"):
        asked.clear()
        calls(np.random.default_rng(1))[name]()
        assert asked, name


@pytest.mark.parametrize("target", [targets.SSE2, targets.AVX2, targets.NEON], ids=lambda t: t.machine)
def test_other_machines_assemble(target):
    for module in (compiled.build_search("float32", target), compiled.build_best("float64", target)):
        assert jit.object_code(str(module), target)[:4] == b"\x7fELF"
