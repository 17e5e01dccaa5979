"""Elementwise rows: gradients at kinks, promotion, the corners of integer arithmetic, and the errors."""

import math

import numpy as np
import pytest

import agog as ag
from agog.errors import ArgumentError, DTypeError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # agog's own filter, which pytest undoes
inf, nan = math.inf, math.nan


def gradient(fn, *xs, dtype="float64"):
    """The gradients of fn(*xs).sum() by each of xs, as lists."""
    ts = [ag.asarray(x, dtype=dtype).requires_grad_() for x in xs]
    fn(*ts).sum().backward()
    return [t.grad.tolist() for t in ts]


KINKS = [  # what torch 2.13 gives
    ("abs", lambda x: ag.abs(x), [-1., 0., 1.], [-1., 0., 1.]),
    ("relu", lambda x: ag.relu(x), [-1., 0., 1.], [0., 0., 1.]),
    ("relu6", lambda x: ag.relu6(x), [0., 3., 6., 7.], [0., 1., 0., 0.]),
    ("sqrt", lambda x: ag.sqrt(x), [0., 4.], [inf, 0.25]),
    ("clip", lambda x: ag.clip(x, -1, 1), [-2., -1., 0., 1., 2.], [0., 1., 1., 1., 0.]),
    ("clip below", lambda x: ag.clip(x, 0), [-1., 0., 1.], [0., 1., 1.]),
    ("hardtanh", lambda x: ag.hardtanh(x), [-1., 0., 1.], [0., 1., 0.]),
    ("hard_swish", lambda x: ag.hard_swish(x), [-3., 0., 3.], [0., 0.5, 1.]),
    ("hardshrink", lambda x: ag.hardshrink(x), [-0.5, 0.5, 0.6], [0., 0., 1.]),
    ("leaky_relu", lambda x: ag.leaky_relu(x, 0.1), [-1., 0., 1.], [0.1, 0.1, 1.]),
    ("elu", lambda x: ag.elu(x), [0., 1.], [1., 1.]),
    ("sign", lambda x: ag.sign(x), [-1., 0., 1.], [0., 0., 0.]),
    ("floor", lambda x: ag.floor(x), [0.5, 1.], [0., 0.]),
    ("round", lambda x: ag.round(x), [0.5, 1.], [0., 0.]),
    ("x ** 0", lambda x: x ** 0, [-1., 0., 2.], [0., 0., 0.]),
    ("x ** 1", lambda x: x ** 1, [-1., 0., 2.], [1., 1., 1.]),
    ("x ** 2", lambda x: x ** 2, [-1., 0., 2.], [-2., 0., 4.]),
    ("x ** 3.0", lambda x: x ** 3.0, [-2., 0., 2.], [12., 0., 12.]),
    ("0 ** y", lambda y: 0.0 ** y, [0., 1., 2., -1.], [0., 0., 0., -np.inf]),
    ("2 ** y", lambda y: 2 ** y, [0., 1.], [math.log(2), 2 * math.log(2)]),
    ("sinc", lambda x: ag.sinc(x), [0.], [0.]),
    ("entr", lambda x: ag.entr(x), [0., 1.], [inf, -1.]),
]


@pytest.mark.parametrize("fn, x, want", [k[1:] for k in KINKS], ids=[k[0] for k in KINKS])
def test_gradients_at_kinks(fn, x, want):
    assert gradient(fn, x)[0] == pytest.approx(want, rel=1e-15)


@pytest.mark.parametrize("fn, want", [
    (ag.maximum, [[0.5, 1., 0.], [0.5, 0., 1.]]), (ag.minimum, [[0.5, 0., 1.], [0.5, 1., 0.]]),
    (ag.fmax, [[1., 1., 0.], [0., 0., 1.]]), (ag.fmin, [[1., 0., 1.], [0., 1., 0.]])],
                         ids=lambda f: getattr(f, "__name__", ""))
def test_ties(fn, want):
    assert gradient(fn, [1., 2., 3.], [1., 1., 4.]) == want


def test_gradients_at_infinity():
    assert gradient(ag.logaddexp, [inf, -inf, -inf], [1., 1., -inf]) == [[1., 0., 0.], [0., 1., 0.]]
    assert gradient(ag.hypot, [0., 3.], [0., 4.]) == [[0., 0.6], [0., 0.8]]
    assert gradient(ag.atan2, [0., 1.], [0., 0.]) == [[0., 0.], [0., -1.]]
    assert gradient(ag.fmax, [nan, 1.], [2., nan]) == [[0., 1.], [1., 0.]]


def test_where_keeps_what_was_not_chosen_out():
    x = ag.asarray([-1., 0., 4.], requires_grad=True)
    bad = ag.log(x)  # nan, -inf
    y = ag.where(x > 0, bad, 0.)
    (g,) = ag.gradients(y, [bad], ag.ones(3))
    assert g.tolist() == [0., 0., 1.]
    a = ag.asarray([nan, inf], requires_grad=True)
    ag.where(ag.asarray([False, False]), a, ag.asarray([1., 2.])).sum().backward()
    assert a.grad.tolist() == [0., 0.]


def test_where_dtypes():
    c = ag.asarray([True, False])
    assert ag.where(c, 1, 2.5).dtype == ag.float32
    assert ag.where(c, ag.asarray([1, 2]), 7).dtype == ag.int64
    assert ag.where(c, ag.asarray([1., 2.], dtype="float64"), ag.asarray(1, dtype="int32")).dtype == ag.float64
    assert ag.where(c, ag.asarray([[1.], [2.]]), 0).shape == (2, 2)


# ------------------------------------------------------------------------------------------------------------ powers
def test_powers_are_exact():
    x = np.array([-3., -1., 0., 2., 5.], np.float32)
    for n in range(6):
        assert (ag.asarray(x) ** n).tolist() == [float(v) ** n for v in x]
    assert (ag.asarray([2, 3]) ** 3).tolist() == [8, 27]
    assert (ag.asarray([2., 4.]) ** -1).tolist() == [0.5, 0.25]
    assert (2 ** ag.asarray([3, 4])).tolist() == [8, 16]


def test_powers_need_no_logarithm():
    """The base may be negative as long as the exponent needs no gradient."""
    x = ag.asarray([-2., -0.5], requires_grad=True)
    y = x ** ag.asarray([3., 2.])
    y.sum().backward()
    assert x.grad.tolist() == [12., -1.]


def test_second_derivatives_of_powers_at_zero():
    for n, want in ((0, 0.), (1, 0.), (2, 2.), (3, 0.)):
        for exponent in (n, float(n), ag.asarray(float(n))):
            x = ag.asarray([0.], requires_grad=True)
            (g,) = ag.gradients(x ** exponent, [x], ag.ones(1), create_graph=True)
            if g.requires_grad:
                (h,) = ag.gradients(g, [x], ag.ones(1), allow_unused=True)
                assert h is None or h.tolist() == [want], (n, exponent)
            else:
                assert want == 0


def test_negative_powers_of_integers():
    with pytest.raises(ArgumentError, match="negative power"):
        ag.pow(ag.asarray([2, 3]), -1)
    with pytest.raises(ArgumentError, match=r"astype\('float32'\)"):
        ag.asarray([2, 3]) ** ag.asarray([1, -1])


# ----------------------------------------------------------------------------------------------------------- integers
def test_integers_divided_by_zero():
    x, zero = ag.asarray([-3, 0, 3]), ag.asarray([0, 0, 0])
    assert (x // zero).tolist() == [0, 0, 0] and (x % zero).tolist() == [0, 0, 0]
    assert ag.fmod(x, zero).tolist() == [0, 0, 0]
    assert (x / zero).tolist()[::2] == [-inf, inf] and (x / zero).dtype == ag.float32
    lowest = ag.asarray([-2**31], dtype="int32")
    assert (lowest // ag.asarray([-1], dtype="int32")).dtype == ag.int32
    assert ag.abs(lowest).tolist() == [-2**31]


def test_floor_division_and_remainder_agree_with_python():
    for a in (-7, 7):
        for b in (-3, 3):
            assert (ag.asarray(a) // b).item() == a // b and (ag.asarray(a) % b).item() == a % b
            assert (ag.asarray(float(a)) % b).item() == float(a) % b
            assert ag.fmod(ag.asarray(float(a)), b).item() == math.fmod(a, b)


@pytest.mark.parametrize("fn", [ag.floor, ag.ceil, ag.trunc, ag.round])
def test_rounding_leaves_integers(fn):
    x = ag.asarray([2**53 + 1, -5])  # would not survive a trip through float64
    assert fn(x).tolist() == [2**53 + 1, -5] and fn(x).dtype == ag.int64
    assert fn(ag.asarray([2], dtype="uint8")).dtype == ag.uint8


def test_round_goes_to_even():
    assert ag.round(ag.asarray([0.5, 1.5, 2.5, -0.5])).tolist() == [0., 2., 2., -0.]


# ---------------------------------------------------------------------------------------------------------- promotion
def test_scalars_are_weak():
    x = ag.asarray([1, 2], dtype="int8")
    assert (x + 1).dtype == ag.int8 and (x * 2.5).dtype == ag.float32 and (x / 2).dtype == ag.float32
    h = ag.asarray([1., 2.], dtype="float16")
    assert (h * 2.5).dtype == ag.float16 and ag.maximum(h, 0.1).dtype == ag.float16
    b = ag.asarray([1., 2.], dtype="bfloat16")
    assert (b * 2.5).dtype == b.dtype and ag.clip(b, 0.5, 1.5).dtype == b.dtype and ag.relu(b).dtype == b.dtype
    assert (ag.asarray([1., 2.]) * 1j).dtype == ag.complex64
    with pytest.raises(DTypeError, match="does not fit"):
        ag.asarray([1], dtype="uint8") + 300


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "int64", "int8", "bool"])
def test_numbers_beside_small_arrays(dtype):
    """Numbers of Python's are handed to NumPy as arrays: that changes nothing, also not the sign of zero."""
    x = np.array([0, 1, 2, 3, 100]).astype(dtype)
    t = ag.asarray(x)
    for number in (0, 0.0, -0.0, 1, 1.0, 3, 2.5, -2, 1e-50, 1e20, 1e35, 2**40, inf, -inf, nan, 3, 0.0):
        for name in ("add", "multiply", "subtract", "maximum", "greater", "equal", "divide"):
            for swap in (False, True):
                f, g = getattr(ag, name), getattr(np, name)
                with np.errstate(all="ignore"):
                    try:
                        want = g(number, x) if swap else g(x, number)
                    except OverflowError:
                        continue
                    if want.dtype not in (x.dtype, np.bool_) or (x.dtype.kind != "f" and type(number) is float):
                        continue  # (where agog promotes in its own way)
                got = (f(number, t) if swap else f(t, number)).numpy()
                assert got.dtype == want.dtype
                assert got.tobytes() == want.tobytes(), (name, number, swap)


def test_integers_become_the_default_float():
    for fn in (ag.exp, ag.sin, ag.sqrt, ag.reciprocal, ag.sigmoid, ag.erf, ag.mean, ag.gelu):
        assert fn(ag.asarray([1, 2])).dtype == ag.float32, fn
        assert fn(ag.asarray([True, False])).dtype == ag.float32, fn


def test_mixed_dtypes():
    i, f, d, c = (ag.asarray([1], dtype=t) for t in ("int64", "float32", "float64", "complex64"))
    assert (i + f).dtype == ag.float32 and (f + d).dtype == ag.float64
    assert (f + c).dtype == ag.complex64 and (d + c).dtype == ag.complex128
    with pytest.raises(DTypeError, match="no common"):
        ag.asarray([1], dtype="uint64") + ag.asarray([1], dtype="int8")


# -------------------------------------------------------------------------------------------------------------- clip
def test_clip_bounds():
    x = ag.asarray([1., 5., 9.])
    assert ag.clip(x).tolist() == [1., 5., 9.]
    assert ag.clip(x, 2).tolist() == [2., 5., 9.] and ag.clip(x, max=6).tolist() == [1., 5., 6.]
    assert ag.clip(x, min=ag.asarray([0., 6., 0.]), max=8.).tolist() == [1., 6., 8.]
    assert ag.clip(x, 7, 3).tolist() == [3., 3., 3.]
    assert ag.clip(ag.asarray([1, 300]), 0, 255).dtype == ag.int64
    assert ag.clip(ag.asarray([nan, 1.]), 0, 1).tolist()[1] == 1.
    low = ag.asarray([2., 2., 2.], requires_grad=True)
    ag.clip(x, low, 6.).sum().backward()
    assert low.grad.tolist() == [1., 0., 0.]


# ------------------------------------------------------------------------------------------------------------ complex
def test_complex_gradients_point_uphill():
    z = ag.asarray([3 + 4j], requires_grad=True)
    ag.abs(z).sum().backward()
    assert z.grad.tolist() == pytest.approx([0.6 + 0.8j], rel=1e-6)
    z.grad = None
    (ag.real(z) ** 2 + ag.imag(z) ** 2).sum().backward()
    assert z.grad.tolist() == pytest.approx([6 + 8j])
    z = ag.asarray([0j], requires_grad=True)
    ag.abs(z).sum().backward()
    assert z.grad.tolist() == [0j]
    x = ag.asarray([2.], requires_grad=True)  # a real Tensor keeps a real gradient
    ag.real(x * (1 + 2j)).sum().backward()
    assert x.grad.dtype == ag.float32 and x.grad.tolist() == [1.]


def test_complex_parts():
    z = ag.asarray([1 + 2j, -1j])
    assert ag.real(z).dtype == ag.imag(z).dtype == ag.abs(z).dtype == ag.angle(z).dtype == ag.float32
    assert ag.conj(z).tolist() == [1 - 2j, 1j]
    assert ag.imag(ag.asarray([1., 2.])).tolist() == [0., 0.]
    assert ag.angle(ag.asarray([-2., 2.])).tolist() == pytest.approx([math.pi, 0.])
    assert ag.sign(ag.asarray([3 + 4j, 0j])).tolist() == pytest.approx([0.6 + 0.8j, 0j])


def test_casts():
    x = ag.asarray([1.9, -1.9, 0.])
    assert x.astype("int32").tolist() == [1, -1, 0] and x.astype("bool").tolist() == [True, True, False]
    assert ag.asarray([1 + 2j, 2j]).astype("float32").tolist() == [1., 0.]
    assert ag.asarray([1 + 2j, 2j, 0j]).astype("bool").tolist() == [True, True, False]
    x = ag.asarray([1., 2.], requires_grad=True)
    (x.astype("float64") * 3).sum().backward()
    assert x.grad.dtype == ag.float32
    assert not x.astype("int64").requires_grad
    with pytest.raises((DTypeError, TypeError)):
        x.astype("string")


# ------------------------------------------------------------------------------------------------------------- errors
def test_errors_teach():
    with pytest.raises(ShapeError, match=r"x=float32\[2\], y=float32\[3\].*broadcast"):
        ag.ones(2) + ag.ones(3)
    with pytest.raises(DTypeError, match="bitwise_and takes bool or integer dtypes, not float32"):
        ag.ones(2) & ag.ones(2)
    with pytest.raises(DTypeError, match="negative takes"):
        -ag.asarray([True])
    with pytest.raises(DTypeError, match="floor_divide takes"):
        ag.asarray([True]) // ag.asarray([True])
    with pytest.raises(DTypeError, match="erf takes"):
        ag.erf(ag.asarray([1j]))
    with pytest.raises(ShapeError, match="where"):
        ag.where(ag.asarray([True, False]), ag.ones(3), 0.)


def test_warnings_as_errors_change_nothing():
    with np.errstate(all="raise"):
        assert ag.log(ag.asarray([0.])).tolist() == [-inf]
        assert (ag.asarray([1.]) / 0.).tolist() == [inf]
        assert (ag.asarray([1]) // 0).tolist() == [0]
        assert ag.exp(ag.asarray([1000.])).tolist() == [inf]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("n", [1, 100_000])
def test_the_square_root_as_a_power_is_the_same_everywhere(dtype, n):
    x = ag.asarray(np.tile(np.array([-np.inf, -0.0, 4.0, np.inf, -1.0], dtype), n))
    with np.errstate(invalid="ignore"):
        expected = np.power(x.numpy(), np.asarray(0.5, dtype))
    root = ag.function(lambda x: x ** 0.5)
    for got in (x ** 0.5, root(x), root(x)):
        np.testing.assert_array_equal(got.numpy(), expected)
        np.testing.assert_array_equal(np.signbit(got.numpy()[1]), np.signbit(expected[1]))


def second(fn, *xs):
    """The gradient of the sum of the gradients of fn(*xs).sum() by each of the inputs."""
    ts = [ag.asarray(x, dtype="float64", requires_grad=True) for x in xs]
    first = ag.gradients(fn(*ts).sum(), ts, create_graph=True)
    return [g.tolist() for g in ag.gradients(sum(g.sum() for g in first), ts)]


def test_mixed_derivatives_at_zero():
    """d2/dxdy of x**y at y = 0 is 1/x, that of x log y at x = 0 is 1/y."""
    by_x, by_y = second(ag.pow, [2.0], [0.0])
    assert by_x == pytest.approx([0.5]) and by_y == pytest.approx([0.5 + math.log(2) ** 2])
    assert second(ag.xlogy, [0.0], [4.0]) == [[0.25], [0.25]]
    assert second(ag.xlog1py, [0.0], [3.0]) == [[0.25], [0.25]]


def test_powers_of_extremes_have_gradients():
    tiny = float(np.finfo(np.float64).smallest_subnormal)
    assert gradient(ag.pow, [tiny, 0.0, nan], [0.0, 0.0, 0.0])[0] == [0.0, 0.0, 0.0]
    assert gradient(ag.pow, [-0.0, 3.0], [1e308, 2.0])[0] == [0.0, 6.0]


def test_logaddexp_shares_the_gradient_of_large_numbers():
    """The sum rounds to the larger one, so that exp(x - sum) would give each the whole gradient."""
    for fn in (ag.logaddexp, ag.logaddexp2):
        x = ag.asarray([1e8, -1e8], requires_grad=True)
        fn(x, ag.asarray([1e8, -1e8])).sum().backward()
        assert x.grad.tolist() == [0.5, 0.5]


def test_nextafter_moves_with_its_first_argument():
    assert gradient(ag.nextafter, [1.0, 2.0], [5.0, 2.0]) == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("fn", [ag.elu, ag.selu, ag.celu])
def test_second_derivatives_at_the_kink_are_zero(fn):
    assert second(fn, [0.0]) == [[0.0]]


def test_complex_tanh_far_out():
    """The zero of tanh(inf + bj) has the sign of b, as in the standard; C99 and NumPy take that of sin(2b)."""
    b = np.array([0.5, 2.0, 3.0, 0.0, -0.0, -2.0])
    for size in (inf, -inf):
        z = ag.asarray(np.array([complex(size, v) for v in b]))
        for y in (ag.tanh(z).numpy(), np.array([ag.tanh(v).item() for v in z])):
            assert (y.real == np.sign(size)).all() and (y.imag == 0).all()
            assert np.signbit(y.imag).tolist() == np.signbit(b).tolist()
    assert ag.tanh(ag.asarray(complex(inf, nan))).item() == 1
