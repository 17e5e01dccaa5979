"""Kernels of reductions over one axis of (outer, n, inner), against NumPy in float64 and in Python's integers."""

import ml_dtypes
import numpy as np
import pytest

from agog import config
from agog.compiler import folds, pool
from agog.compiler.folds import KINDS, fold, out_dtype
from agog.compiler.targets import HALVES, ITEMSIZE
from agog.errors import AgogError

REFERENCE = {
    "sum": lambda x: x.sum(1), "prod": lambda x: x.prod(1), "max": lambda x: x.max(1), "min": lambda x: x.min(1),
    "any": lambda x: x.any(1), "all": lambda x: x.all(1), "mean": lambda x: x.mean(1),
    "norm": lambda x: np.sqrt((x * x).sum(1)), "abs_sum": lambda x: abs(x).sum(1), "abs_max": lambda x: abs(x).max(1),
}
#: Rows: of one vector and less, whole vectors, blocks. Columns: few (rows are joined), tiles, tails, blocks of rows.
SHAPES = [(1, 1, 1), (3, 5, 1), (7, 64, 1), (2, 63, 1), (5, 257, 1), (2, 4099, 1), (1, 40_009, 1), (601, 3, 1),
          (1, 1, 33), (1, 9, 5), (4, 16, 64), (3, 17, 13), (2, 1009, 3), (1, 300, 1500), (1, 7, 2049), (2, 241, 70),
          (1, 250, 7), (601, 3, 2), (2, 479, 130)]
LONG = [(1, 200_003, 1), (3, 70_001, 1), (1, 70_001, 2), (1, 5003, 70), (2, 300, 1100)]  # which are divided


CASES = [(kind, dtype) for kind in KINDS for dtype in ITEMSIZE if ("f" if dtype == "bfloat16" else {"u": "i"}.get(
    dtype[0], dtype[0])) in KINDS[kind]]


def numbers(kind, dtype, shape, rng):
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    if dtype == "bool":
        return rng.random(shape) < (0.02 if kind == "any" else 0.98 if kind == "all" else 0.6)
    if numpy_dtype.kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    x = rng.normal(size=shape) + 0.1
    return (np.exp(x / 100) if kind == "prod" else x).astype(numpy_dtype)


def check(kind, dtype, kernel, x, wrap=lambda a: a):
    result = out_dtype(kind, dtype)
    out = wrap(np.ones((x.shape[0], x.shape[2]), getattr(ml_dtypes, result) if result == "bfloat16" else result))
    kernel(out, wrap(x), *x.shape)
    if x.dtype.kind in "biu":
        with np.errstate(all="ignore"):
            want = REFERENCE[kind](x)
        assert out.dtype == want.dtype
        np.testing.assert_array_equal(out, want)
        return out
    exact = np.swapaxes(np.ascontiguousarray(np.swapaxes(x.astype(np.float64), 1, 2)), 1, 2)  # NumPy sums it pairwise
    want = REFERENCE[kind](exact)
    eps = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    scale = abs(want)
    if kind in ("sum", "mean"):
        scale = abs(exact).sum(1) / (x.shape[1] if kind == "mean" else 1)
    steps = x.shape[1] if kind == "prod" else 8  # a block's, of which the errors are as often up as down
    finite = abs(want) < float(ml_dtypes.finfo(out.dtype).max)
    error = abs(out.astype(np.float64) - want)
    assert (error <= scale * eps * steps)[finite].all()
    return out


@pytest.mark.parametrize("kind, dtype", CASES)
def test_kernels(kind, dtype, target, rng, guarded):
    kernel = fold(kind, dtype, target)
    for shape in SHAPES:
        check(kind, dtype, kernel, numbers(kind, dtype, shape, rng), guarded.array)


@pytest.mark.parametrize("kind, dtype", CASES)
def test_what_is_divided_does_not_depend_on_the_threads(kind, dtype, rng, monkeypatch):
    kernel = fold(kind, dtype)
    for shape in LONG:
        x, found = numbers(kind, dtype, shape, rng), []
        for threads in (1, 3):
            monkeypatch.setattr(config, "num_threads", threads)
            pool.refresh()
            found.append(check(kind, dtype, kernel, x).tobytes())
        assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["float32", "float64", *HALVES])
def test_random_shapes(dtype, rng):
    kernels = {kind: fold(kind, dtype) for kind in ("sum", "max", "norm")}
    for _ in range(100):
        shape = tuple(int(n) for n in 2 ** rng.uniform(0, [4, 10, 8]))
        if rng.random() < 0.4:
            shape = (*shape[:2], 1)
        for kind, kernel in kernels.items():
            check(kind, dtype, kernel, numbers(kind, dtype, shape, rng))


def test_sums_are_as_exact_as_pairwise_ones(target, rng):
    for dtype in ("float32", "float64"):
        kernel, eps = fold("sum", dtype, target), np.finfo(dtype).eps
        for shape in ((1, 1 << 21, 1), (1, 1 << 19, 4), (1, 1 << 13, 256)):
            x = rng.random(shape).astype(dtype)
            out = np.empty((1, shape[2]), dtype)
            kernel(out, x, *shape)
            exact = x.astype(np.longdouble).sum(1)
            pairwise = np.ascontiguousarray(np.swapaxes(x, 1, 2)).sum(2)
            mine, theirs = (float(abs(v - exact).max() / exact.max()) for v in (out, pairwise))
            assert mine <= max(theirs, 2 * eps)


@pytest.mark.parametrize("dtype", ["float32", "float64", *HALVES])
@pytest.mark.parametrize("shape", [(9, 70, 1), (1, 70, 9), (2, 250, 130)], ids=str)
def test_special_values(dtype, shape, target, rng):
    kinds = ("sum", "max", "min", "mean", "abs_max", "prod")
    np_dtype = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    specials = np.array([np.nan, np.inf, -np.inf, 0.0])
    for kind in kinds:
        kernel = fold(kind, dtype, target)
        for _ in range(20):
            x = rng.integers(1, 3, shape).astype(np.float64) if kind != "prod" else np.ones(shape)
            places = rng.random(shape) < 0.01
            x[places] = rng.choice(specials, places.sum())
            out = np.empty((shape[0], shape[2]), np_dtype)
            kernel(out, x.astype(np_dtype), *shape)
            with np.errstate(all="ignore"):
                want = REFERENCE[kind](x)
            np.testing.assert_allclose(out.astype(np.float64), want, rtol=1e-2 if dtype in HALVES else 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_negative_zeros_are_negative(dtype, target):
    for shape in ((3, 70, 1), (1, 70, 3), (1, 9, 130), (2, 1, 1)):
        for kind in ("sum", "mean"):
            out = np.ones((shape[0], shape[2]), dtype)
            fold(kind, dtype, target)(out, np.full(shape, -0.0, dtype), *shape)
            assert (out == 0).all() and np.signbit(out).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_that_overflow_in_another_order(dtype, target):
    """Lanes hold every 8th factor: alone they are infinite or zero, and together NaN."""
    big, kernel = {"float32": 1e30, "float64": 1e200}[dtype], fold("prod", dtype, target)
    x = np.tile(np.array([big, 1 / big], dtype), (3, 480))
    x[1, 700], x[2, ::2], x[2, 1::2] = 0, big, big
    out = np.empty(3, dtype)
    kernel(out, x, 3, 960, 1)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(out, np.multiply.reduce(x, 1), rtol=1e-3)
    y = np.ascontiguousarray(x.T)
    kernel(out, y, 1, 960, 3)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out, np.multiply.reduce(y, 0))  # in order: bit for bit


def test_arrays_that_do_not_fit():
    kernel = fold("sum", "float32")
    x, out = np.ones((3, 4), np.float32), np.empty(3, np.float32)
    for sizes in ((3, 5, 1), (2, 4, 1), (1, 3, 4), (-3, -4, 1), (3, 0, 1)):
        with pytest.raises((AgogError, ValueError)):
            kernel(out, x, *sizes)


def test_bools_that_are_not_one(target):
    """A view of bytes as bools can hold any of them."""
    x = np.array([0, 2, 255, 1, 0, 7] * 50, np.uint8).view(bool)
    out = np.empty(1, np.int64)
    fold("sum", "bool", target)(out, x, 1, 300, 1)
    assert out[0] == 200
    found = np.empty(50, bool)
    fold("all", "bool", target)(found, x, 50, 6, 1)
    assert not found.any() and set(found.view(np.uint8)) == {0}
    fold("any", "bool", target)(found, x, 50, 6, 1)
    assert found.all() and set(found.view(np.uint8)) == {1}


def test_kinds_say_what_they_take():
    assert {kind for kind, _ in CASES} == {*KINDS} == {*REFERENCE}
    assert folds.out_dtype("sum", "bool") == "int64" and folds.out_dtype("prod", "uint8") == "uint64"
