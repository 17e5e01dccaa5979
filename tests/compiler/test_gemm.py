"""The matrix product against float64 NumPy: any shape, strides, batches, epilogues, and nothing beyond the arrays."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agog import config
from agog.compiler import call, jit, targets
from agog.compiler.gemm import build, gemm
from agog.errors import DTypeError

EDGES = [1, 2, 3, 5, 6, 7, 8, 13, 14, 15, 16, 17, 28, 29, 31, 32, 33, 47, 64, 65]


def check(out, a, b, bias=None, relu=False, before=None):
    """`out` is the product, with an error that k roundings explain."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    exact = a @ b
    size = np.abs(a) @ np.abs(b)
    if before is not None:
        exact, size = exact + before, size + np.abs(before)
    if bias is not None:
        exact, size = exact + bias, size + np.abs(bias)
    if relu:
        exact = np.maximum(exact, 0)
    bound = (np.sqrt(a.shape[-1]) + 4) * np.finfo(out.dtype).eps * size + np.finfo(out.dtype).tiny
    assert (np.abs(out - exact) <= bound).all()


def layout(x, kind):
    """The same matrix with another memory layout."""
    if kind == "transposed":
        return np.ascontiguousarray(np.swapaxes(x, -1, -2)).swapaxes(-1, -2)
    if kind == "strided":
        wide = np.full((*x.shape[:-2], 2 * x.shape[-2], 3 * x.shape[-1]), np.nan, x.dtype)
        wide[..., ::2, ::3] = x
        return wide[..., ::2, ::3]
    if kind == "reversed":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    return np.ascontiguousarray(x)


KINDS = ["contiguous", "transposed", "strided", "reversed"]


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    name=st.sampled_from([t.name for t in targets.TARGETS.values()]),
    dtype=st.sampled_from(["float32", "float64"]),
    m=st.one_of(st.sampled_from(EDGES), st.integers(0, 300)),
    n=st.one_of(st.sampled_from(EDGES), st.integers(0, 150)),
    k=st.one_of(st.sampled_from(EDGES), st.integers(0, 700), st.integers(700, 5000)),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    bias=st.booleans(),
    relu=st.booleans(),
    accumulate=st.booleans(),
)
def test_products(name, dtype, m, n, k, kinds, bias, relu, accumulate):
    target = targets.TARGETS[name]
    if not targets.supported(target):
        return
    rng = np.random.default_rng([m, n, k])
    a = layout(rng.standard_normal((m, k)).astype(dtype), kinds[0])
    b = layout(rng.standard_normal((k, n)).astype(dtype), kinds[1])
    bias = rng.standard_normal(n).astype(dtype) if bias else None
    poisoned = np.full((m + 2, n + 5), -7, dtype)
    out = poisoned[1:-1, 2:-3]
    before = out.copy() if accumulate else None
    gemm(dtype, target)(out, a, b, bias, relu, accumulate)
    check(out, a, b, bias, relu, before)
    poisoned[1:-1, 2:-3] = -7
    assert (poisoned == -7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("at_end", [True, False])
def test_nothing_beyond_the_arrays_is_touched(dtype, at_end, target, rng, guarded):
    product = gemm(dtype, target)
    for m, k, n in [
        (1, 1, 1),
        (3, 17, 5),
        (14, 31, 33),
        (15, 64, 31),
        (29, 5, 65),
        (1, 33, 50),
        (50, 33, 1),
        (1, 9, 2100),
        (4200, 17, 1),
        (1, 3, 7),
        (7, 350, 40),
        (150, 20, 33),
        (20, 690, 37),
        (31, 400, 1001),
    ]:
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        bias = rng.standard_normal(n).astype(dtype)
        for ta in (False, True):
            for tb in (False, True):
                x = guarded.array(a.T, at_end).T if ta else guarded.array(a, at_end)
                y = guarded.array(b.T, at_end).T if tb else guarded.array(b, at_end)
                out = guarded.array(np.full((m, n), np.nan, dtype), at_end)
                product(out, x, y, guarded.array(bias, at_end))
                check(out, a, b, bias)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m, k, n", [(45, 800, 1203), (130, 390, 700), (1400, 500, 650), (20, 1700, 5000)])
def test_several_blocks(m, k, n, dtype, target, rng, monkeypatch):
    """Blocks of B in turn, with the panels of A kept for all of them, or too many to be kept, in every layout."""
    monkeypatch.setattr(config, "num_threads", 1)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    bias, before = rng.standard_normal(n).astype(dtype), rng.standard_normal((m, n)).astype(dtype)
    for kinds in [("contiguous", "contiguous"), ("transposed", "contiguous"), ("strided", "transposed")]:
        for accumulate in (False, True):
            out = before.copy()
            gemm(dtype, target)(out, layout(a, kinds[0]), layout(b, kinds[1]), bias, True, accumulate)
            check(out, a, b, bias, True, before if accumulate else None)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(300, 700, 500), (1000, 64, 70), (33, 900, 1100), (513, 3, 2), (2, 500, 3000)])
def test_threads(threads, shape, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    m, k, n = shape
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    out = np.empty((m, n), np.float32)
    gemm("float32")(out, a, b)
    check(out, a, b)


def test_the_number_of_threads_does_not_change_the_result(rng, monkeypatch):
    a, b = rng.standard_normal((200, 700)).astype(np.float32), rng.standard_normal((700, 300)).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(config, "num_threads", threads)
        out = np.empty((200, 300), np.float32)
        gemm("float32")(out, a, b)
        results.append(out)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m, n", [(1, 3000), (3000, 1), (1, 17), (40, 1), (1, 1), (2, 1500), (1501, 3), (38, 4)])
@pytest.mark.parametrize("k", [0, 1, 8, 640 + 13])
def test_times_few_vectors(m, k, n, dtype, target, rng, monkeypatch):
    """Either way round, in every layout: the same for any number of threads."""
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    bias, before = rng.standard_normal(n).astype(dtype), rng.standard_normal((m, n)).astype(dtype)
    for kind in KINDS:
        x, y = layout(a, kind), layout(b, kind)
        for more in ({}, {"bias": bias}, {"relu": True, "accumulate": True}):
            results = []
            for threads in (1, 2, 3):
                monkeypatch.setattr(config, "num_threads", threads)
                results.append(before.copy())
                gemm(dtype, target)(results[-1], x, y, **more)
            check(results[0], a, b, more.get("bias"), "relu" in more, before if "accumulate" in more else None)
            np.testing.assert_array_equal(results[0], results[1])
            np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m, k, n", [(8, 4100, 8), (33, 1000, 70), (100, 2049, 65), (8, 32768, 8), (120, 512, 128)])
def test_long_products(m, k, n, dtype, target, rng, monkeypatch):
    """Parts of k are added in one order, whoever computes them, also to what is in a result with strides."""
    bias = rng.standard_normal(n).astype(dtype)
    for kinds in [("contiguous", "contiguous"), ("transposed", "contiguous"), ("strided", "transposed")]:
        a, b = (layout(rng.standard_normal(s).astype(dtype), t) for s, t in zip(((m, k), (k, n)), kinds))
        results = []
        for threads in (1, 2, 3, 7):
            monkeypatch.setattr(config, "num_threads", threads)
            poisoned = np.full((m + 2, n + 5), -7, dtype)
            out = poisoned[1:-1, 2:-3]
            gemm(dtype, target)(out, a, b, bias, True, True)
            results.append(out.copy())
            np.testing.assert_array_equal(out, results[0])
            out[...] = -7
            assert (poisoned == -7).all()
        check(results[0], a, b, bias, True, np.full((m, n), -7.0))


def test_nan_in_one_part_of_a_long_product(rng):
    a, b = np.ones((10, 2000), np.float32), np.ones((2000, 12), np.float32)
    a[3, 1999], b[0, 5] = np.nan, np.inf
    out = np.empty((10, 12), np.float32)
    gemm("float32")(out, a, b)
    np.testing.assert_array_equal(out, a @ b)


def test_batches(rng):
    product = gemm("float32")
    a, b = rng.standard_normal((9, 20, 30)).astype(np.float32), rng.standard_normal((9, 30, 40)).astype(np.float32)
    out = np.empty((9, 20, 40), np.float32)
    product(out, a, b)
    check(out, a, b)
    product(out, a, b[0])
    check(out, a, b[0])
    product(out, a[3], b)
    check(out, a[3], b)
    product(out[:0], a[:0], b[:0])
    spread = np.broadcast_to(a[:1], a.shape)
    product(out, spread, b)
    check(out, spread, b)
    swapped = np.ascontiguousarray(a.transpose(1, 0, 2)).transpose(1, 0, 2)
    product(out, swapped, b)
    check(out, a, b)


def test_nan_and_infinity_come_through(target):
    a, b = np.ones((3, 5), np.float32), np.ones((5, 4), np.float32)
    a[1, 2], b[3, 2] = np.nan, np.inf
    out = np.empty((3, 4), np.float32)
    gemm("float32", target)(out, a, b, relu=True)
    np.testing.assert_array_equal(out, np.maximum(a @ b, 0))


@pytest.mark.parametrize("n", [32, 37, 64, 300])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_nan_and_infinity_come_through_what_is_added(n, relu, with_bias, target):
    a, b = np.ones((20, 4), np.float32), np.ones((4, n), np.float32)
    a[2, 0], b[1, n - 1], b[1, 3] = np.nan, -np.inf, np.inf
    bias = np.arange(n, dtype=np.float32) - 5 if with_bias else None
    out = np.full((20, n), 1, np.float32)
    before = out.copy()
    before[5, n - 1] = out[5, n - 1] = np.inf  # and minus infinity
    gemm("float32", target)(out, a, b, bias, relu, accumulate=True)
    with np.errstate(invalid="ignore"):
        want = a @ b + before + (0 if bias is None else bias)
        np.testing.assert_array_equal(out, np.maximum(want, 0) if relu else want)


def test_mistakes_are_explained():
    product, x = gemm("float32"), np.ones((4, 4), np.float32)
    for out, a, b in [
        (x, x, x[:3]),
        (x, x[:3], x),
        (x, x, x[:, :2]),
        (x, x[0], x),
        (x, np.stack([x, x]), x),
        (x, x, x[None, None]),
    ]:
        with pytest.raises(ValueError, match="matmul takes"):
            product(out, a, b)
    with pytest.raises(ValueError, match="contiguous"):
        product(np.ones((4, 4), np.float32).T, x, x)
    with pytest.raises(ValueError, match="bias"):
        product(x.copy(), x, x, np.ones(3, np.float32))
    with pytest.raises(DTypeError, match="int32"):
        gemm("int32")


def test_through_ctypes(monkeypatch, rng):
    monkeypatch.setattr(call, "native_calls", False)
    gemm.cache_clear()
    try:
        a, b = rng.standard_normal((20, 30)).astype(np.float32), rng.standard_normal((40, 30)).astype(np.float32).T
        out = np.empty((20, 40), np.float32)
        gemm("float32")(out, a, b)
        check(out, a, b)
    finally:
        gemm.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_aarch64_makes_an_object(dtype):
    assert jit.object_code(str(build(dtype, targets.NEON)), targets.NEON)[:4] == b"\x7fELF"
