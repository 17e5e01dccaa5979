"""Running sums, products and places of extremes along one axis of (outer, n, inner), against NumPy; and in programs."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.compiler import pool, scans
from agog.compiler.scans import KINDS, scan
from agog.compiler.targets import ITEMSIZE
from agog.errors import AgogError

SHAPES = [(1, 1, 1), (3, 5, 1), (17, 64, 1), (9, 63, 1), (1, 1000, 1), (5, 257, 1), (1, 9, 5), (4, 16, 64), (3, 17, 13),
          (2, 100, 3), (1, 30, 1500), (1, 7, 2049), (70, 3, 2), (0, 4, 1), (4, 0, 2), (1, 1, 40),
          (37, 1, 1), (37, 3, 1), (37, 6, 1), (37, 7, 1)]
DTYPES = [d for d in ITEMSIZE if d not in ("float16", "bfloat16")]


def places(larger):
    def compute(x, axis):
        best = (np.maximum if larger else np.minimum).accumulate(x, axis)
        place = np.arange(x.shape[axis]).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
        return np.maximum.accumulate(np.where((x == best) | (x != x), place, 0), axis)
    return compute


REFERENCE = {"cumsum": np.cumsum, "cumprod": np.cumprod, "argcummax": places(True), "argcummin": places(False),
             "logcumsumexp": np.logaddexp.accumulate}
CASES = [(kind, dtype) for kind in KINDS for dtype in DTYPES if scans.takes(kind, dtype)]


def numbers(kind, dtype, shape, rng):
    if dtype == "bool":
        return rng.random(shape) < 0.6
    if np.dtype(dtype).kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    x = rng.normal(size=shape)
    if kind == "cumprod":
        x = np.exp(x / 10)
    if kind.startswith("arg"):
        x = np.round(x * 2)
        x[rng.random(shape) < 0.003] = np.nan
    return x.astype(dtype)


def check(kind, x, y):
    """In order everything is bit for bit as in NumPy, but for sums along rows and functions."""
    exact = kind in ("cumprod", "argcummax", "argcummin") or x.dtype.kind != "f" or kind == "cumsum" and x.shape[2] > 1
    with np.errstate(all="ignore"):
        want = REFERENCE[kind](x if exact else x.astype(np.float64), 1)
    if exact:
        assert y.dtype == want.dtype
        np.testing.assert_array_equal(y, want)
    else:
        scale = np.maximum(1, np.cumsum(abs(x.astype(np.float64)), 1) if kind == "cumsum" else abs(want))
        assert (abs(y - want) <= 8 * np.finfo(x.dtype).eps * scale).all()


@pytest.mark.parametrize("kind, dtype", CASES)
def test_kernels(kind, dtype, target, rng, guarded):
    kernel = scan(dtype, target)
    for shape in SHAPES:
        x = numbers(kind, dtype, shape, rng)
        y = guarded.array(np.full(shape, 7, scans.out_dtype(kind, dtype)))
        kernel(y, guarded.array(x), *shape, KINDS.index(kind))
        if x.size:
            check(kind, x, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_large_ones(kind, threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    pool.refresh()
    for shape in ((3000, 100, 1), (3, 100, 1000), (70, 130, 33), (1, 300_007, 1)):
        x, y = numbers(kind, "float32", shape, rng), np.empty(shape, scans.out_dtype(kind, "float32"))
        scan("float32")(y, x, *shape, KINDS.index(kind))
        if kind == "logcumsumexp" and shape[1] > 1000:  # rounding adds up
            np.testing.assert_allclose(y, REFERENCE[kind](x.astype("d"), 1), rtol=1e-4)
        else:
            check(kind, x, y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(kind, dtype, target, rng):
    for shape in ((9, 40, 1), (2, 40, 20), (1, 40, 3)):
        x = rng.integers(0, 3, shape).astype(dtype)
        hit = rng.random(shape) < 0.05
        x[hit] = rng.choice([np.nan, np.inf, -np.inf, -0.0], hit.sum())
        y = np.empty(shape, scans.out_dtype(kind, dtype))
        scan(dtype, target)(y, x, *shape, KINDS.index(kind))
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(y, REFERENCE[kind](x, 1), rtol=1e-6)


def test_arrays_that_do_not_fit():
    x, y = np.ones((3, 4)), np.empty((3, 4))
    for rest in ((3, 5, 1, 0), (2, 4, 1, 0), (-3, -4, 1, 0), (3, 4, 1, 99), (3, 4, 1, -1)):
        with pytest.raises((AgogError, ValueError)):
            scan("float64")(y, x, *rest)
    with pytest.raises((AgogError, ValueError)):
        scan("int64")(y, np.ones((3, 4), np.int64), 3, 4, 1, KINDS.index("logcumsumexp"))


RUNNING = {"cumsum": ag.cumsum, "cumprod": ag.cumprod, "logcumsumexp": ag.logcumsumexp,
           "cummax": lambda x, axis: ag.cummax(x, axis=0 if axis is None else axis)[0],
           "cummin": lambda x, axis: ag.cummin(x, axis=0 if axis is None else axis)[1]}


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_programs(name, dtype, rng):
    """Scans are no islands, and give what eager code gives, in its dtype."""
    run = RUNNING[name]
    for shape in ((7, 33), (3, 4, 5), (40,), (), (0, 3), (2, 0), (1, 9), (9, 1), (1, 1), (9, 5)):
        x = ag.asarray(rng.uniform(0.4, 2.4, shape)).astype(dtype)
        for axis in (None, *range(-len(shape), len(shape))):
            if name.startswith("cum") and name[3:] in ("max", "min") and (not shape or dtype == "bool"):
                continue
            staged = ag.function(lambda x, axis=axis: run(x, axis=axis))
            want, *got = run(x, axis=axis), *[staged(x) for _ in range(3)]
            assert " 0 islands" in str(staged.explain(x))
            for y in got:
                assert y.dtype == want.dtype and y.shape == want.shape
                tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float64": 1e-13}.get(dtype, 1e-6)
                np.testing.assert_allclose(y.astype("float64").numpy(), want.astype("float64").numpy(), tolerance)


def test_along_an_axis_of_one_there_is_nothing_to_do(rng):
    x = ag.asarray(rng.standard_normal((300, 1)).astype("float32"))
    staged = ag.function(lambda x: ag.cumsum(x, axis=1))
    for _ in range(3):
        y = staged(x)
    assert "agog_cumsum" not in str(staged.explain(x))
    y += 1
    np.testing.assert_array_equal(staged(x).numpy(), x.numpy())  # not the array itself


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "logcumsumexp", "cummax"])
def test_gradients_in_programs(name, rng):
    def loss(x):
        return (RUNNING[name](x, axis=1) * weight).sum()

    weight = ag.asarray(rng.normal(size=(5, 13)))
    x = ag.asarray(rng.uniform(0.4, 2.4, (5, 13)))
    want, staged = ag.grad(loss)(x), ag.function(ag.grad(loss))
    for _ in range(3):
        np.testing.assert_allclose(staged(x).numpy(), want.numpy(), 1e-10)
    assert " 0 islands" in str(staged.explain(x))


@pytest.mark.parametrize("kind, dtype", [(k, dtype) for k, dtype in CASES if dtype in ("float32", "int32", "bool")])
def test_eager_code(kind, dtype, rng, monkeypatch):
    from agog.array import large
    from agog.compiler import eager

    monkeypatch.setattr(eager, "_request", lambda make, *key: make(*key))
    eager.enable()
    done, native = [], large.native

    def watched(name, *rest):
        found = native(name, *rest)
        done.append(found is not None and name == kind)
        return found

    monkeypatch.setattr(large, "native", watched)
    row = getattr(ag, kind, None) or (lambda x, axis: getattr(ag, kind[3:])(x, axis=axis)[1])
    for shape in ((70, 33), (11, 7, 9), (700,)):
        x = numbers(kind, dtype, shape, rng)
        for axis in range(len(shape)):
            first, *later = [row(ag.asarray(x), axis=axis).numpy() for _ in range(3)]
            for y in later:
                assert y.dtype == first.dtype and y.shape == first.shape
                np.testing.assert_allclose(y, REFERENCE[kind](x, axis), 1e-4, 1e-5)
            turned = row(ag.asarray(x[::-1]), axis=axis).numpy()
            np.testing.assert_allclose(turned, REFERENCE[kind](x[::-1], axis), 1e-4, 1e-5)
    assert sum(done) >= 12
