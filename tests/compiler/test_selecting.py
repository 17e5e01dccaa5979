"""Order statistics natively: the elements of sorted rows."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import jit, targets
from agog.compiler import selecting as compiled
from agog.compiler.searching import DTYPES


def some(rng, dtype, *shape):
    info = np.iinfo(dtype) if dtype in ("int32", "int64") else None
    if info:
        x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    else:
        x = rng.normal(size=shape).astype(dtype) * np.array(10, dtype) ** rng.integers(-9, 9, shape).astype(dtype)
    few = rng.integers(-2, 3, shape)
    return np.where(rng.random(shape) < 0.5, few, x).astype(dtype)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 65, 300])
def test_select(n, dtype, at_end, target, guarded, rng):
    x = some(rng, dtype, 5, n)
    if dtype.startswith("float"):
        x[1, :n // 3] = np.nan
        x[2] = np.inf
        x[3, ::2], x[3, 1::2] = -np.inf, -0.0
    ordered = np.sort(x, -1)
    for place in {0, n // 2, n // 3, n - 1}:
        out = guarded.array(np.zeros((5, 2), dtype), at_end)
        compiled.select(dtype, target)(out, guarded.array(x, at_end), place)
        np.testing.assert_array_equal(out[:, 0], ordered[:, place])
        if place + 1 < n:
            np.testing.assert_array_equal(out[:, 1], ordered[:, place + 1])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    x = rng.normal(size=(300, 700))
    out = np.empty((300, 2))
    compiled.select("float64")(out, x, 349)
    np.testing.assert_array_equal(out, np.sort(x, -1)[:, 349:351])


def test_what_does_not_fit_changes_nothing():
    out, x = np.zeros((2, 2), np.float32), np.ones((2, 5), np.float32)
    native = compiled.select("float32")
    for arguments in ((out, x, -1), (out, x, 5), (out[:1].copy(), x, 0), (out, x[:, :0].copy(), 0)):
        with pytest.raises(ValueError, match="select takes"):
            native(*arguments)
    assert not out.any()


CALLS = {
    "median": lambda x: ag.median(x),
    "median of rows": lambda x: ag.median(x, axis=1, keepdims=True),
    "of an even number": lambda x: ag.median(x[:, :600], axis=1),
    "first axis": lambda x: ag.quantile(x, 0.3, axis=0),
    "quantiles": lambda x: ag.quantile(x, (0.9, 0.25, 0.0, 1.0), axis=1),
    "many quantiles": lambda x: ag.quantile(x, tuple(i / 20 for i in range(21)), axis=1),
    "halves": lambda x: ag.median(x.astype("bfloat16"), axis=1),
    "integers": lambda x: ag.median((x * 10).astype("int32")),
}


@pytest.mark.parametrize("name", CALLS)
def test_eager_code_gets_the_same(name, rng, monkeypatch):
    data = some(rng, "float32", 400, 601)
    data[7, 5] = np.nan if name != "median" else 0
    got = []
    for kernels in ({}, compiled.Selecting(lambda make, *key: make(*key)).table()):
        monkeypatch.setattr(large, "kernels", kernels)
        monkeypatch.setattr(large, "_count", lambda work: None)
        x = ag.asarray(data, requires_grad=True)
        y = CALLS[name](x)
        got.append([y.detach().numpy()])
        if y.requires_grad:
            ag.where(ag.isnan(y), 0.0, y).sum().backward()
            got[-1].append(x.grad.numpy())
    for one, two in zip(*got, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one.astype("float64"), two.astype("float64"))


def test_eager_code_takes_the_kernel(monkeypatch):
    asked = []
    monkeypatch.setattr(large, "kernels", {"ranked": lambda x, places: asked.append(places)})
    ag.median(ag.arange(1000, dtype="float32"))
    ag.quantile(ag.ones(3, 1001), (0.5, 0.25), axis=1)
    assert asked == [(499, 500), (250, 500)]


@pytest.mark.parametrize("target", [targets.SSE2, targets.AVX2, targets.NEON], ids=lambda t: t.machine)
def test_other_machines_assemble(target):
    for dtype in ("float32", "int64"):
        assert jit.object_code(str(compiled.build(dtype, target)), target)[:4] == b"\x7fELF"
