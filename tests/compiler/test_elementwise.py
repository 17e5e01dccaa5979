"""Elementwise kernels: any size, dtypes, kinds of inputs, threads, and never a byte beyond the arrays."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agog import config
from agog.compiler import elementwise, targets
from agog.compiler.elementwise import compile_elementwise
from agog.errors import AgogError, DTypeError

SIZES = [0, 1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 31, 33, 63, 64, 65, 127, 131, 255, 256, 257, 521, 1009]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64"]


def values(rng, n, dtype):
    if dtype == "bool":
        return rng.random(n) < 0.5
    if dtype.startswith("float"):
        return (rng.standard_normal(n) * 10).astype(dtype)
    return rng.integers(0 if dtype.startswith("u") else -100, 100, n).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_with_guard_pages(target, guarded, rng, dtype):
    kernel = compile_elementwise(
        "where", lambda k, c, x, y: k.where(c, x, y), ["bool", dtype, dtype], [dtype], None, target
    )
    for n in SIZES:
        c, x, y = values(rng, n, "bool"), values(rng, n, dtype), values(rng, n, dtype)
        for at_end in (True, False):
            out = guarded.array(np.zeros(n, dtype), at_end)
            kernel([out], [guarded.array(a, at_end) for a in (c, x, y)])
            np.testing.assert_array_equal(out, np.where(c, x, y))


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    n=st.integers(0, 3000), offset=st.integers(0, 15), name=st.sampled_from([t.name for t in targets.TARGETS.values()])
)
def test_poisoned_borders(n, offset, name):
    target = targets.TARGETS[name]
    if not targets.supported(target):
        return
    kernel = compile_elementwise("mul", lambda k, a, b: a * b + 1.0, ["float32"] * 2, ["float32"], None, target)
    rng = np.random.default_rng(n)
    a, b = rng.random(n, np.float32), rng.random(n, np.float32)
    poisoned = np.full(n + 64, -7, np.float32)
    out = poisoned[offset : offset + n]
    kernel([out], [a, b])
    np.testing.assert_allclose(out, a * b + 1, 1e-6)
    assert (poisoned[:offset] == -7).all() and (poisoned[offset + n :] == -7).all()


def test_arrays_that_do_not_fit_into_the_last_cache(rng, monkeypatch):
    """Stored around the caches, on the shares of several threads."""
    monkeypatch.setattr(targets, "last_cache", lambda: 4 << 20)
    kernel = compile_elementwise("axpy", lambda k, a, x, y: a * x + y + 0.25, ["float32"] * 3, ["float32"],
                                 ["scalar", "contiguous", "contiguous"])
    assert "!nontemporal" in str(elementwise.build(lambda k, x: k.neg(x), ["float32"], ["float32"], None,
                                                   targets.host())[0])
    for n in (300_000, 400_000, 2_000_003):
        x, y = values(rng, n + 3, "float32"), values(rng, n + 3, "float32")
        out = np.full(n + 3, 7, np.float32)
        kernel([out[1:-2]], [np.array(3, np.float32), x[2:-1], y[3:]])
        np.testing.assert_array_equal(out[1:-2], 3 * x[2:-1] + y[3:] + np.float32(0.25))
        assert out[0] == 7 and (out[-2:] == 7).all()


@pytest.mark.parametrize("dtype", ["int8", "int32", "float32", "float64"])
def test_scalar_inputs_and_aliases(target, rng, dtype):
    kernel = compile_elementwise(
        "axpy", lambda k, a, x, y: a * x + y, [dtype] * 3, [dtype], ["scalar", "contiguous", "contiguous"], target
    )
    for n in (1, 100, 1001):
        x, y, a = values(rng, n, dtype), values(rng, n, dtype), np.array(3, dtype)
        expected = (a * x + y).astype(dtype)
        kernel([y], [a, x, y])
        np.testing.assert_allclose(y, expected, 1e-5, 1e-4)


def test_several_outputs_of_several_dtypes(target, rng):
    def fn(k, x, n):
        return k.exp(x), x > 0.0, k.cast(n, "float64") * 0.5, k.const(3, "int32")

    kernel = compile_elementwise(
        "many", fn, ["float32", "int32"], ["float32", "bool", "float64", "int32"], None, target
    )
    for n in (5, 64, 333):
        x, m = values(rng, n, "float32"), values(rng, n, "int32")
        outs = [np.empty(n, d) for d in ("float32", "bool", "float64", "int32")]
        kernel(outs, [x, m])
        np.testing.assert_allclose(outs[0], np.exp(x), 1e-6)
        np.testing.assert_array_equal(outs[1], x > 0)
        np.testing.assert_array_equal(outs[2], m * 0.5)
        assert (outs[3] == 3).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_arrays(threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    monkeypatch.setattr(elementwise, "STREAM_BYTES", 1 << 20)  # non-temporal stores too
    add = compile_elementwise("add", lambda k, a, b: a + b, ["float32"] * 2, ["float32"])
    exp = compile_elementwise("exp", lambda k, a: k.exp(a), ["float32"], ["float32"])
    for n in (100_003, 1_000_003):
        a, b = rng.random(n, np.float32), rng.random(n, np.float32)
        poisoned = np.full(n + 7, -7, np.float32)
        out = poisoned[3 : 3 + n]
        add([out], [a, b])
        np.testing.assert_array_equal(out, a + b)
        exp([out], [a])
        np.testing.assert_allclose(out, np.exp(a), 1e-6)
        assert (poisoned[:3] == -7).all() and (poisoned[3 + n :] == -7).all()


BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "eq": np.equal,
    "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor,
    "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor,
    "floor_divide": np.floor_divide, "remainder": np.remainder, "shift_left": np.left_shift,
    "shift_right": np.right_shift, "div": np.divide, "copysign": np.copysign,
}  # fmt: skip
UNARY = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "bitwise_not": np.invert, "logical_not": np.logical_not,
    "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint, "isnan": np.isnan,
    "isinf": np.isinf, "isfinite": np.isfinite,
}  # fmt: skip
EDGES = {
    "float32": [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        1e9,
        -8388607.5,
        4503599627370497.5,
        1e-40,
    ],
    "int32": [0, 1, -1, 2**31 - 1, -(2**31), 31, 32, 33],
    "int64": [0, 1, -1, 2**63 - 1, -(2**63), 63, 64],
    "int8": [0, 1, -1, 127, -128],
    "uint8": [0, 1, 255, 128],
    "int16": [0, 1, -1, 2**15 - 1, -(2**15), 15, 16],
    "uint16": [0, 1, 2**16 - 1, 2**15, 15, 16],
    "uint32": [0, 1, 2**32 - 1, 2**31, 31, 32],
    "uint64": [0, 1, 2**64 - 1, 2**63, 63, 64],
    "bool": [True, False],
}
EDGES["float64"] = EDGES["float32"]
EDGES["float16"] = [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 1.5, 2.5, -2.5, 65504.0, -1023.5, 6e-8, 6e-5]


@pytest.mark.parametrize("name", [*BINARY, *UNARY])
@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_mean_what_they_mean_in_numpy(name, dtype, target):
    edges = np.array(EDGES[dtype], dtype)
    a, b = (v.ravel() for v in np.meshgrid(edges, edges))
    arguments, reference = ([a, b], BINARY[name]) if name in BINARY else ([a], UNARY[name])
    try:
        with np.errstate(all="ignore"):
            expected = reference(*arguments)
    except TypeError:
        return  # NumPy does not have it either
    if expected.dtype not in (np.dtype(dtype), np.dtype(bool)):
        return  # NumPy widens here (5 / 2, sqrt of an int): the caller casts
    kernel = compile_elementwise(
        name, lambda k, *v: getattr(k, name)(*v), [dtype] * len(arguments), [expected.dtype.name], None, target
    )
    out = np.empty_like(expected)
    kernel([out], arguments)
    np.testing.assert_array_equal(out, expected)
    if expected.dtype.kind == "f" and name not in ("max", "min", "remainder"):
        signed = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(out)[signed], np.signbit(expected)[signed])


@pytest.mark.parametrize("source", DTYPES)
def test_casts(source, target):
    edges = np.array(
        [x for x in EDGES[source] if x == x and abs(x) < 100 or not source.startswith("float")], source
    )
    for dtype in DTYPES:
        kernel = compile_elementwise(
            "cast", lambda k, x, dtype=dtype: k.cast(x, dtype), [source], [dtype], None, target
        )
        out = np.empty(edges.shape, dtype)
        kernel([out], [edges])
        with np.errstate(all="ignore"):
            unsigned = dtype.startswith("u") and source.startswith("float")
            keep = edges >= 0 if unsigned else np.ones(edges.shape, bool)
            np.testing.assert_array_equal(out[keep], edges.astype(dtype)[keep])


def test_mistakes_are_explained():
    with pytest.raises(DTypeError, match="complex64"):
        compile_elementwise("f", lambda k, x: x, ["complex64"], ["complex64"])
    with pytest.raises(DTypeError, match="stated"):
        compile_elementwise("f", lambda k, x: x, ["float32"], ["float64"])
    with pytest.raises(DTypeError, match="cast"):
        compile_elementwise("f", lambda k, x, y: x + y, ["float32", "float64"], ["float64"])
    with pytest.raises(DTypeError, match="cast first"):
        compile_elementwise("f", lambda k, x: k.exp(x), ["int32"], ["int32"])
    with pytest.raises(TypeError, match="truth value"):
        compile_elementwise("f", lambda k, x: x if x > 0.0 else -x, ["float32"], ["float32"])
    with pytest.raises(AgogError, match="contiguous"):
        compile_elementwise("f", lambda k, x: x, ["float32"], ["float32"], ["strided"])
    kernel = compile_elementwise("f", lambda k, x: x + 1.0, ["float32"], ["float32"])
    with pytest.raises(ValueError, match="float32"):
        kernel([np.empty(3, np.float32)], [np.empty(4, np.float32)])
