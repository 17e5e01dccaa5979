"""Large 16-bit arrays eagerly: native kernels that give what NumPy gives."""

import time

import ml_dtypes
import numpy as np
import pytest

import agog as ag
from agog.compiler import eager

half = pytest.mark.parametrize("half", [np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)], ids=str)
wide = np.float32


@pytest.fixture(autouse=True)
def enabled():
    eager.enable()


def settled(fn):
    """What `fn` gives once the kernels that it asks for are there."""
    for _ in range(200):
        fn()
        families = (*eager._families, *eager._halves)
        if None not in eager._kernels.values() and not any(None in f.ready.values() for f in families):
            return np.asarray(fn())
        time.sleep(0.02)
    raise AssertionError("the kernels are never ready")


def softmax(x, y):
    e = np.exp(x.astype(np.float64))
    return (e / e.sum(-1, keepdims=True)).astype(x.dtype)


def silu(x, y):
    v = x.astype(wide)
    return (v / (1 + np.exp(-v))).astype(x.dtype)


def steps(a, b):
    i, j = (x.view(np.int16).astype(np.int32) for x in (a, b))
    return np.abs(np.where(i < 0, -(i & 0x7FFF), i) - np.where(j < 0, -(j & 0x7FFF), j)).max(initial=0)


CASES = {
    "x + y": (lambda x, y: x + y, lambda x, y: x + y),
    "x * 0.3": (lambda x, y: x * 0.3, lambda x, y: x * np.array(0.3, x.dtype)),
    "2 - x": (lambda x, y: 2 - x, lambda x, y: np.array(2, x.dtype) - x),
    "x < y": (lambda x, y: x < y, lambda x, y: x < y),
    "exp": (lambda x, y: ag.exp(x), lambda x, y: np.exp(x)),
    "where": (lambda x, y: ag.where(x > 0, x, y), lambda x, y: np.where(x > 0, x, y)),
    "silu": (lambda x, y: ag.nn.functional.silu(x), silu),
    "astype": (lambda x, y: x.astype("float32"), lambda x, y: x.astype(wide)),
    "sum": (lambda x, y: ag.sum(x), lambda x, y: x.astype(np.float64).sum().astype(wide).astype(x.dtype)),
    "sum of rows": (lambda x, y: ag.sum(x, axis=-1, keepdims=True),
                    lambda x, y: x.astype(np.float64).sum(-1, keepdims=True).astype(wide).astype(x.dtype)),
    "sum of columns": (lambda x, y: ag.sum(x, axis=0), lambda x, y: x.astype(np.float64).sum(0).astype(x.dtype)),
    "mean": (lambda x, y: ag.mean(x, axis=1), lambda x, y: x.astype(np.float64).mean(1).astype(x.dtype)),
    "max": (lambda x, y: ag.max(x, axis=(0, 1)), lambda x, y: x.astype(wide).max().astype(x.dtype)),
    "min": (lambda x, y: ag.min(x, axis=1), lambda x, y: x.astype(wide).min(1).astype(x.dtype)),
    "softmax": (lambda x, y: ag.softmax(x, axis=-1), softmax),
    "matmul": (lambda x, y: x @ y.mT, lambda x, y: (x.astype(wide) @ y.astype(wide).T).astype(x.dtype)),
}  # fmt: skip


@half
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(256, 259), (3, 29989), (131, 5003)], ids=str)
def test_eager(name, half, shape, rng):
    fn, reference = CASES[name]
    x, y = (rng.standard_normal(shape).astype(half) for _ in range(2))
    a, b = ag.asarray(x), ag.asarray(y)
    got = settled(lambda: fn(a, b).numpy())
    with np.errstate(all="ignore"):
        want = np.asarray(reference(x, y))
    assert got.dtype == want.dtype and got.shape == want.shape
    if got.dtype != half:
        np.testing.assert_array_equal(got, want)
    elif name == "matmul":  # summed in another order, in float32
        scale = np.abs(x.astype(wide)) @ np.abs(y.astype(wide)).T
        digit = 2.0**-10 if half == np.float16 else 2.0**-7
        apart = np.abs(got.astype(wide) - want.astype(wide))
        assert (apart <= digit * np.abs(want.astype(wide)) + 1e-5 * scale).all()
    else:
        assert steps(got, want) <= 1
        exact = name in ("x + y", "x * 0.3", "2 - x", "where", "max", "min")
        assert not exact or steps(got, want) == 0


@half
def test_layer_norm(half, rng):
    x, weight, bias = rng.standard_normal((300, 301)), rng.random(301), rng.random(301)
    x, weight, bias = (v.astype(half) for v in (x, weight, bias))
    tensors = [ag.asarray(v) for v in (x, weight, bias)]
    got = settled(lambda: ag.nn.functional.layer_norm(tensors[0], (301,), *tensors[1:]).numpy())
    v = x.astype(np.float64)
    v = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
    assert steps(got, (v * weight.astype(np.float64) + bias.astype(np.float64)).astype(half)) <= 1


@half
def test_special_values_and_other_memory(half, rng):
    every = np.tile(np.arange(1 << 16, dtype=np.uint16).view(half), 2).reshape(2, 1 << 16)
    with np.errstate(all="ignore"):
        got = settled(lambda: ag.negative(ag.asarray(every)).numpy())
        numbers = ~np.isnan(every)
        np.testing.assert_array_equal(got.view(np.uint16)[numbers] ^ 0x8000, every.view(np.uint16)[numbers])
        assert np.isnan(got[~numbers]).all()
        sums = settled(lambda: ag.sum(ag.asarray(every), axis=1).numpy())
        assert np.isnan(sums).all()
        t = ag.asarray(every.T)  # not contiguous
        np.testing.assert_array_equal(settled(lambda: (t + t).numpy()).astype(wide), (every + every).T.astype(wide))
