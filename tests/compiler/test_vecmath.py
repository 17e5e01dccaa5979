"""Every function of the vector mathematics, against float64 (for float32) and 80-bit arithmetic (for float64)."""

import numpy as np
import pytest
from scipy import special

from agog.compiler.elementwise import compile_elementwise
from agog.ops.row import TABLE

LONG = np.longdouble
needs_long = pytest.mark.skipif(np.finfo(LONG).nmant < 63, reason="float64 needs a longer float to be measured with")

#: Error allowed, in units in the last place of the normal result. The first block is what the design promises.
LIMITS = {
    "exp": 2, "log": 2, "tanh": 2, "sigmoid": 2, "erf": 2, "sin": 2, "cos": 2, "log1p": 2, "expm1": 2, "rsqrt": 2,
    "pow": 2,
    "exp2": 2, "log2": 2.1, "log10": 2.1, "sinh": 2.5, "cosh": 2, "tan": 4, "asin": 2.5, "acos": 2, "atan": 2,
    "asinh": 2, "acosh": 2.5, "atanh": 2.5, "erfc": 6, "softplus": 2, "gelu": 7, "ndtr": 7, "silu": 3,
    "atan2": 2, "hypot": 2,
}  # fmt: skip

#: Ranges where there is something to see, besides random bit patterns.
RANGES = {
    "exp": [(-104, 89), (-1, 1), (-746, 710)], "exp2": [(-150, 129), (-1075, 1025)],
    "expm1": [(-40, 90), (-1, 1), (-1e-3, 1e-3)], "log": [(0, 3), (0.5, 1.5), (0, 1e-37)],
    "log2": [(0, 3), (0.5, 1.5)], "log10": [(0, 3), (0.5, 1.5)], "log1p": [(-1, 1), (-1e-3, 1e-3), (0, 100)],
    "tanh": [(-10, 10), (-1, 1)], "sinh": [(-10, 10), (-2, 2), (80, 90), (700, 711)],
    "cosh": [(-10, 10), (80, 90), (700, 711)], "sigmoid": [(-100, 100), (-5, 5)], "erf": [(-5, 5), (-1, 1)],
    "erfc": [(-5, 5), (0, 10), (0, 27)], "sin": [(-10, 10), (-1e5, 1e5), (-1e9, 1e9)],
    "cos": [(-10, 10), (-1e5, 1e5), (-1e9, 1e9)], "tan": [(-10, 10), (-1e5, 1e5)], "asin": [(-1, 1)],
    "acos": [(-1, 1)], "atan": [(-10, 10), (-1, 1)], "asinh": [(-10, 10), (-1, 1)], "acosh": [(1, 2), (1, 100)],
    "atanh": [(-1, 1)], "rsqrt": [(0, 4)], "softplus": [(-20, 20)], "gelu": [(-12, 10), (-3, 3)],
    "ndtr": [(-14, 6), (-3, 3), (-38, -30)], "silu": [(-50, 50)],
}  # fmt: skip

SPECIAL = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1,
    -1,
    2,
    -2,
    0.5,
    -0.5,
    3,
    1e-30,
    -1e-30,
    1e5,
    1e10,
    -1e10,
    1e30,
    100,
    -100,
]
SPECIAL += [709, 710, -745, -708, 88.7, 88.73, -103.9, -104, -87.5, np.pi, np.pi / 2, 0.9999999, 1.0000001]


def long_erfc(x):
    """erfc in 80-bit arithmetic: the series of erf up to 1, a continued fraction beyond (Abramowitz and Stegun 7.1)."""
    pi = LONG(np.pi) + LONG(1.2246467991473532e-16)
    a = np.abs(x)
    t = np.where(a < 1.5, a, 0)
    term = total = t
    for i in range(1, 60):
        term = term * (2 * t * t / (2 * i + 1))
        total = total + term
    near = 1 - total * np.exp(-t * t) * 2 / np.sqrt(pi)
    t = np.where((a >= 1.5) & np.isfinite(a), a, 1.5)
    f = np.zeros_like(t)
    for i in range(400, 0, -1):
        f = (LONG(i) / 2) / (t + f)
    far = np.where(np.isinf(a), 0, np.exp(-t * t) / np.sqrt(pi) / (t + f))
    positive = np.where(a < 1.5, near, np.where(np.isnan(a), a, far))
    return np.where(x < 0, 2 - positive, positive)


def long_erf(x):
    """erf in 80-bit arithmetic, without cancellation near zero."""
    pi = LONG(np.pi) + LONG(1.2246467991473532e-16)
    t = np.where(np.abs(x) < 1.5, x, 0)
    term = total = t
    for i in range(1, 60):
        term = term * (2 * t * t / (2 * i + 1))
        total = total + term
    return np.where(np.abs(x) < 1.5, total * np.exp(-t * t) * 2 / np.sqrt(pi), 1 - long_erfc(x))


def reference(name, *xs):
    """The value in a longer format."""
    long = xs[0].dtype == np.float32
    xs = [x.astype(np.float64 if long else LONG) for x in xs]
    x = xs[0]
    erfc, erf = (special.erfc, special.erf) if long else (long_erfc, long_erf)
    formulas = {
        "erf": erf,
        "erfc": erfc,
        "gelu": lambda x: np.where(np.isinf(x), np.maximum(x, -0.0), x * (erfc(-x * np.sqrt(x.dtype.type(0.5))) / 2)),
        "ndtr": lambda x: erfc(-x * np.sqrt(x.dtype.type(0.5))) / 2,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "rsqrt": lambda x: 1 / np.sqrt(x),
        "softplus": lambda x: np.logaddexp(x, 0),
        "silu": lambda x: x * (1 / (1 + np.exp(-x))),
    }
    inverse = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "pow": "power"}
    inverse |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
    if name in formulas:
        return formulas[name](x)
    return getattr(np, inverse.get(name, name))(*xs)


def ulps(result, exact):
    """Errors in units in the last place; infinite where one is NaN or infinite and the other not."""
    info = np.finfo(result.dtype)
    nearest = exact.astype(result.dtype)
    same = (result == nearest) | (np.isnan(result) & np.isnan(nearest))
    unit = np.spacing(np.minimum(np.abs(nearest), info.max)).astype(exact.dtype)
    error = np.abs(result.astype(exact.dtype) - exact) / unit
    error = np.where(np.isnan(error) | np.isinf(result) | np.isinf(nearest), np.inf, error)
    return np.where(same & ~np.isfinite(nearest), 0, np.where(same, np.minimum(error, 0.5), error))


def samples(dtype, ranges, count, rng):
    info = np.finfo(dtype)
    bits = np.uint32 if dtype == "float32" else np.uint64
    extreme = [info.tiny, info.max, -info.max, info.smallest_subnormal, -info.smallest_subnormal, info.tiny / 4]
    parts = [
        np.array(SPECIAL + extreme).astype(dtype),
        rng.integers(0, np.iinfo(bits).max, count, bits, endpoint=True).view(dtype),
    ]
    return np.concatenate(parts + [rng.uniform(low, high, count).astype(dtype) for low, high in ranges])


def evaluate(name, target, *xs):
    dtype = xs[0].dtype.name
    kernel = compile_elementwise(name, lambda k, *v: getattr(k, name)(*v), [dtype] * len(xs), [dtype], target=target)
    out = np.empty_like(xs[0])
    kernel([out], list(xs))
    return out


def worst(name, xs, result):
    """The largest error, at normal results (at subnormal ones a formula may lose what its factors lost), and where."""
    with np.errstate(all="ignore"):
        exact = reference(name, *xs)
        error = ulps(result, exact)
        subnormal = np.abs(exact) < np.finfo(result.dtype).tiny
        absolute = np.abs(result.astype(exact.dtype) - exact) <= 16 * np.finfo(result.dtype).smallest_subnormal
    error = np.where(subnormal & (absolute | (name == "silu")), 0, error)
    i = np.argmax(error)
    wrong_sign = (np.signbit(result) != np.signbit(exact)) & ~np.isnan(result) & ~(subnormal & (result != 0))
    assert not wrong_sign.any(), f"sign of {name}({[x[wrong_sign][:3] for x in xs]})"
    return error[i], [x[i] for x in xs], result[i], exact[i]


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=needs_long)])
def test_error_of_functions_of_one_argument(name, dtype, target, rng):
    with np.errstate(all="ignore"):
        x = samples(dtype, RANGES[name], 5000, rng)
    error, *where = worst(name, [x], evaluate(name, target, x))
    assert error <= LIMITS[name], where


@pytest.mark.parametrize("name", ["pow", "atan2", "hypot"])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=needs_long)])
def test_error_of_functions_of_two_arguments(name, dtype, target, rng):
    info = np.finfo(dtype)
    special_values = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1,
        -1,
        2,
        -2,
        0.5,
        -0.5,
        3,
        -3,
        1e-30,
        1e30,
        info.max,
        info.tiny / 8,
    ]
    a, b = (v.ravel() for v in np.meshgrid(special_values, special_values))
    n = 5000
    with np.errstate(all="ignore"):
        a = np.concatenate(
            [
                a,
                rng.uniform(1e-3, 10, n),
                rng.uniform(-10, 10, n),
                np.exp(rng.uniform(-80, 80, n)),
                rng.uniform(0.9, 1.1, n),
            ]
        )
        b = np.concatenate(
            [
                b,
                rng.uniform(-30, 30, n),
                np.round(rng.uniform(-20, 20, n)),
                rng.uniform(-8, 8, n),
                rng.uniform(-3000, 3000, n),
            ]
        )
        a, b = a.astype(dtype), b.astype(dtype)
    error, *where = worst(name, [a, b], evaluate(name, target, a, b))
    assert error <= LIMITS[name], where


@pytest.mark.parametrize("row", ["_gelu", "ndtr"])
def test_rows_of_the_normal_distribution_keep_their_digits_far_to_the_left(row, target):
    """x / sqrt(2), rounded, would cost erfc a relative error of x^2 roundings: 180 units at -12.5."""
    x = np.linspace(-13, 6, 20001).astype(np.float32)
    kernel = compile_elementwise(row, TABLE[row].lower, ["float32"], ["float32"], target=target)
    out = np.empty_like(x)
    kernel([out], [x])
    name = row.strip("_")
    error, *where = worst(name, [x], out)
    assert error <= LIMITS[name], where


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sin", "cos", "erf", "sigmoid", "log1p", "expm1", "rsqrt"])
def test_every_256th_float32(name, target):
    x = np.arange(0, 1 << 32, 256, dtype=np.uint64).astype(np.uint32).view(np.float32)
    error, *where = worst(name, [x], evaluate(name, target, x))
    assert error <= LIMITS[name], where


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logaddexp(dtype, target, rng):
    values = np.array([0.0, -1, 3, np.inf, -np.inf, np.nan, 1000, -1000], dtype)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    a = np.concatenate([a, rng.standard_normal(1000).astype(dtype)])
    b = np.concatenate([b, rng.standard_normal(1000).astype(dtype)])
    with np.errstate(all="ignore"):
        exact = np.logaddexp(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(
        evaluate("logaddexp", target, a, b), exact, 4 * np.finfo(dtype).eps, 16 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name, numpy_name", [("fmod", "fmod"), ("remainder", "remainder"), ("floor_divide", "floor_divide")]
)
def test_division_with_remainder(name, numpy_name, dtype, target, rng):
    values = np.array([0.0, -0.0, 1, -1, 2.5, -2.5, 7, np.inf, -np.inf, np.nan, 1e-3], dtype)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    a = np.concatenate([a, rng.uniform(-100, 100, 500).astype(dtype)])
    b = np.concatenate([b, rng.uniform(-10, 10, 500).astype(dtype)])
    with np.errstate(all="ignore"):
        expected = getattr(np, numpy_name)(a, b)
    got = evaluate(name, target, a, b)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["fmod", "remainder", "floor_divide"])
def test_division_with_remainder_is_exact_everywhere(name, dtype, target, rng):
    """Random bits, quotients that are whole or just below, that are as large as they may be, and subnormal numbers."""
    n, bits = 20_000, np.uint32 if dtype == "float32" else np.uint64
    any_bits = lambda: rng.integers(0, np.iinfo(bits).max, n, bits, endpoint=True).view(dtype)
    normal = lambda scale=1.0: (rng.standard_normal(n) * scale).astype(dtype)
    a, b = normal(50), normal()
    whole = (np.trunc(a / b) * b).astype(dtype)
    most, least = 2.0 ** (np.finfo(dtype).nmant - 2), float(np.finfo(dtype).tiny)
    cases = [(any_bits(), any_bits()), (a, b), (whole, b), (np.nextafter(whole, np.array(0, dtype)), b),
             (normal(most), b), (normal(8 * most), b), (normal(least), normal(least / 100)),
             (rng.integers(-(10**6), 10**6, n).astype(dtype), rng.integers(-1000, 1000, n).astype(dtype)),
             (any_bits(), np.full(n, 1, dtype)), (a, np.full(n, np.inf, dtype))]
    for a, b in cases:
        with np.errstate(all="ignore"):
            expected = getattr(np, name)(a, b)
        got = evaluate(name, target, a, b)
        np.testing.assert_array_equal(got, expected)
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(expected[number]))


def test_huge_angles_go_to_the_library(target):
    x = np.array([1e22, 3e38, -1e30, 2.0**31, 1.5, np.inf, np.nan], np.float32)
    with np.errstate(all="ignore"):
        exact = np.sin(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(evaluate("sin", target, x), exact, 1e-6)


def test_powers_of_two_are_exact(target):
    n = np.arange(-149, 128).astype(np.float32)
    np.testing.assert_array_equal(evaluate("exp2", target, n), np.exp2(n.astype(np.float64)).astype(np.float32))
    np.testing.assert_array_equal(evaluate("log2", target, np.exp2(n[23:])), n[23:])
