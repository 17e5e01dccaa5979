"""Matrix products, linear maps and einsum against NumPy: values, dtypes, gradients, errors."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError, AxisError, DTypeError, ShapeError


def data(*shape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x * 3).astype(dtype)


def close(got, want, tol=1e-5):
    got = got.detach().numpy()
    want = np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got.astype(np.complex128), want.astype(np.complex128), rtol=tol, atol=tol * 20)


def slope(fn, *arrays):
    """The gradients of sum(fn * w) agree with differences, in float64."""
    w = None

    def value(*xs):
        nonlocal w
        y = fn(*xs)
        w = data(*y.shape, dtype=np.float64, seed=9) if w is None else w
        return ag.sum(y * w)

    ts = [ag.asarray(x, requires_grad=True) for x in arrays]
    value(*ts).backward()
    for i, (t, x) in enumerate(zip(ts, arrays)):
        d = data(*x.shape, dtype=np.float64, seed=i + 1)
        h = 1e-5

        def at(e, i=i, d=d):
            return value(*[ag.asarray(a + e * d if j == i else a) for j, a in enumerate(arrays)]).item()

        numeric = (at(h) - at(-h)) / (2 * h)
        assert t.grad.shape == x.shape
        np.testing.assert_allclose(np.sum(t.grad.numpy() * d), numeric, rtol=1e-5, atol=1e-5)


SHAPES = [((3, 4), (4, 2)), ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 2)), ((2, 3, 4), (4, 2)), ((2, 3, 4), (2, 4, 2)),
          ((2, 1, 3, 4), (5, 4, 2)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((3, 4), (2, 4, 2)), ((0, 4), (4, 2)),
          ((3, 0), (0, 2)), ((2, 0, 4), (4, 3)), ((1, 1), (1, 1))]


@pytest.mark.parametrize("a, b", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64", "bool"])
def test_matmul_as_numpy(a, b, dtype):
    x, y = data(*a, dtype=dtype), data(*b, dtype=dtype, seed=1)
    close(ag.asarray(x) @ ag.asarray(y), x @ y)
    close(ag.matmul(ag.asarray(x), ag.asarray(y)), x @ y)
    if dtype == "float64":
        slope(ag.matmul, x, y)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matmul_of_halves_is_summed_in_float32(dtype):
    x = ag.asarray(data(20, 3000)).astype(dtype)
    y = ag.asarray(data(3000, 20)).astype(dtype)
    z = x @ y
    assert z.dtype == x.dtype
    want = x.numpy().astype(np.float64) @ y.numpy().astype(np.float64)
    rounding = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    assert np.all(np.abs(z.numpy().astype(np.float64) - want) <= rounding * np.abs(want) + 1e-2)


def test_matmul_of_large_square_matrices_is_not_split():
    x, y = data(400, 400), data(400, 400, seed=1)
    close(ag.asarray(x) @ ag.asarray(y), x @ y, 1e-3)


@pytest.mark.parametrize("n", [1, 2, 100])
def test_zero_times_nan_in_a_product_with_one_number(n):
    zero, row = ag.zeros((1, 1)), ag.full((1, n), math.nan)
    for product in (zero @ row, row.T @ zero, ag.linear(zero, row.T)):
        assert ag.isnan(product).all()


def test_transposed_operands():
    x, y = data(2, 5, 3), data(4, 5)
    close(ag.asarray(x).mT @ ag.asarray(y).mT, x.mT @ y.T)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_and_affine(shape, with_bias):
    x, w, b = data(*shape), data(2, 4, seed=1), data(2, seed=2)
    want = x @ w.T + (b if with_bias else np.float32(0))
    extra = (b,) if with_bias else ()
    close(ag.linear(*map(ag.asarray, (x, w, *extra))), want)
    close(ag.affine(*map(ag.asarray, (x, w.T.copy(), *extra))), want)
    doubles = [a.astype(np.float64) for a in (x, w, *extra)]
    slope(ag.linear, *doubles)
    slope(ag.affine, doubles[0], doubles[1].T.copy(), *doubles[2:])


def test_linear_promotes_and_leaves_its_arguments_alone():
    x, w, b = ag.ones((2, 3), dtype="float32"), ag.ones((4, 3), dtype="float64"), ag.ones(4, dtype="bfloat16")
    y = ag.linear(x, w, b)
    assert y.dtype == np.float64
    assert np.all(y.numpy() == 4) and np.all(b.astype("float32").numpy() == 1) and np.all(x.numpy() == 1)
    assert ag.linear(x.astype("bfloat16"), w.astype("bfloat16"), b).dtype == ag.bfloat16


def test_bilinear():
    a, b, w, c = data(3, 4), data(3, 5), data(2, 4, 5), data(2)
    close(ag.bilinear(*map(ag.asarray, (a, b, w, c))), np.einsum("ni,oij,nj->no", a, w, b) + c, 1e-4)


@pytest.mark.parametrize("shapes, axes", [(((2, 3, 4), (4, 3, 5)), ([2, 1], [0, 1])), (((2, 3), (3, 4)), 1),
                                          (((2,), (3,)), 0), (((2, 3), (2, 3)), 2),
                                          (((2, 3, 4), (2, 4)), ((0, -1), (0, 1)))])
def test_tensordot(shapes, axes):
    x, y = (data(*s, dtype=np.float64) for s in shapes)
    close(ag.tensordot(ag.asarray(x), ag.asarray(y), axes=axes), np.tensordot(x, y, axes))
    slope(lambda a, b: ag.tensordot(a, b, axes=axes), x, y)


def test_other_products():
    x, y = data(2, 4), data(3, 4, seed=1)
    a, b = ag.asarray(x), ag.asarray(y)
    close(ag.outer(a[0], b[0]), np.outer(x[0], y[0]))
    close(ag.inner(a, b), np.inner(x, y))
    close(ag.kron(a, b), np.kron(x, y))
    close(ag.kron(a[0], b), np.kron(x[0], y))
    close(ag.vecdot(a[:, None], b), np.vecdot(x[:, None], y))
    close(ag.vecdot(a, a, axis=0), np.vecdot(x, x, axis=0))
    z = data(2, 4, dtype=np.complex64)
    close(ag.vecdot(ag.asarray(z), ag.asarray(z[::-1].copy())), np.vecdot(z, z[::-1]))
    for axis in (-1, 1, 0):
        u, v = np.moveaxis(data(2, 5, 3), -1, axis), np.moveaxis(data(2, 5, 3, seed=1), -1, axis)
        close(ag.cross(ag.asarray(u), ag.asarray(v), axis=axis), np.cross(u, v, axis=axis), 1e-4)


EXPRESSIONS = [
    "ij,jk->ik", "ij,jk", "ij,kj->ki", "ij->ji", "ij->", "ij->j", "ii->i", "ii", "iij->ij", "iij->j", "iii->i",
    "bij,bjk->bik", "bhqd,bhkd->bhqk", "i,j->ij", "i,i->", "i,i->i", "ij,ij->ij", "ij,i->ij", "ij,jk,kl->il",
    "i,ij,j->", "ab,bc,cd,de->ae", "...ij,...jk->...ik", "...i,...i", "i...,i...->...", "...ii->...i",
    "...,...->...", "b...d,dk->b...k", "ijk,kji->", "ij,jk->k", "ij,kl->ijkl", "ab,ac,bc->abc", "i j , j k -> i k",
    "ijkl,ij->kl", "a,a,a->a", "aab,bc->ac", "ij,jj->i", "->", "i,->i",
]
SIZES = dict(zip("abcdehijklqb", [2, 3, 4, 2, 3, 2, 2, 3, 4, 2, 3, 2])) | {"b": 3}


def shapes_of(expression):
    out = []
    for n, term in enumerate(expression.replace(" ", "").split("->")[0].split(",")):
        before, dots, after = term.partition("...")
        hidden = ((2, 3), (1, 3), (3,))[n % 3] if dots else ()
        out.append((*[SIZES[c] for c in before], *hidden, *[SIZES[c] for c in after]))
    return out


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_einsum_as_numpy(expression):
    arrays = [data(*s, dtype=np.float64, seed=i) for i, s in enumerate(shapes_of(expression))]
    close(ag.einsum(expression, *map(ag.asarray, arrays)), np.einsum(expression, *arrays))
    slope(lambda *xs: ag.einsum(expression, *xs), *arrays)


@st.composite
def expressions(draw):
    """A random expression and the shapes of its arrays."""
    letters = "abcd"
    terms = draw(st.lists(st.text(letters, max_size=4), min_size=1, max_size=4))
    used = sorted(set("".join(terms)))
    out = draw(st.permutations(used))[:draw(st.integers(0, len(used)))] if used else []
    sizes = {c: draw(st.integers(1, 3)) for c in letters}
    stretch = draw(st.booleans())
    shapes = [tuple(1 if stretch and draw(st.integers(0, 5)) == 0 else sizes[c] for c in t) for t in terms]
    return ",".join(terms) + "->" + "".join(out), shapes


@hypothesis.given(expressions())
@hypothesis.settings(max_examples=300)
def test_any_einsum(case):
    expression, shapes = case
    arrays = [data(*s, dtype=np.float64, seed=i) for i, s in enumerate(shapes)]
    try:
        want = np.einsum(expression, *arrays)
    except ValueError:
        return  # NumPy does not stretch the axes of a diagonal
    close(ag.einsum(expression, *map(ag.asarray, arrays)), want, 1e-9)


def test_second_derivatives():
    x, y = data(3, 4, dtype=np.float64), data(4, 3, dtype=np.float64)

    def first(a):
        a = ag.asarray(a) if not isinstance(a, ag.Tensor) else a
        g, = ag.gradients(ag.sum((a @ ag.asarray(y)) ** 2), [a], create_graph=True)
        return g

    a = ag.asarray(x, requires_grad=True)
    ag.sum(first(a) * ag.asarray(x)).backward()  # H x, where H = 2 (. y yT)
    np.testing.assert_allclose(a.grad.numpy(), 2 * x @ y @ y.T, rtol=1e-10)


@pytest.mark.parametrize("call, error, words", [
    (lambda x: x @ x, ShapeError, ["float32[3, 4]", "(4)", "(3)", "x @ y.mT"]),
    (lambda x: x @ 2.0, ShapeError, ["0-d", "*"]),
    (lambda x: ag.matmul(x, x[0, 0]), ShapeError, ["0-d"]),
    (lambda x: ag.zeros((2, 3, 4)) @ ag.zeros((3, 4, 5)), ShapeError, ["broadcast"]),
    (lambda x: x.mT @ ag.zeros(4), ShapeError, ["only axis"]),
    (lambda x: ag.linear(x, ag.zeros((4, 2))), ShapeError, ["weight", "(outputs, inputs)"]),
    (lambda x: ag.linear(x, ag.zeros((2, 4)), ag.zeros(3)), ShapeError, ["bias", "(2,)"]),
    (lambda x: ag.linear(x, ag.zeros(4)), ShapeError, ["matrix"]),
    (lambda x: ag.affine(x, ag.zeros((2, 4))), ShapeError, ["(inputs, outputs)"]),
    (lambda x: ag.vecdot(x, ag.zeros(3)), ShapeError, ["4", "3"]),
    (lambda x: ag.vecdot(x, x, axis=2), AxisError, ["axis=2"]),
    (lambda x: ag.vecdot(x > 0, x > 0), DTypeError, ["bool"]),
    (lambda x: ag.tensordot(x, x, axes=([0], [1])), ShapeError, ["pair by pair"]),
    (lambda x: ag.tensordot(x, x, axes=3), ArgumentError, ["axes=3"]),
    (lambda x: ag.inner(x, ag.zeros(3)), ShapeError, ["last axes"]),
    (lambda x: ag.cross(x, x), ShapeError, ["size 3"]),
    (lambda x: ag.bilinear(x, x, ag.zeros((2, 4, 5))), ShapeError, ["(o, i, j)"]),
    (lambda x: ag.einsum("ij,jk", x), ArgumentError, ["2 terms for 1"]),
    (lambda x: ag.einsum("ijk->i", x), ShapeError, ["3 axes", "2"]),
    (lambda x: ag.einsum("i->i", x), ShapeError, ["..."]),
    (lambda x: ag.einsum("ij->k", x), ArgumentError, ["'k'"]),
    (lambda x: ag.einsum("ij->ii", x), ArgumentError, ["twice"]),
    (lambda x: ag.einsum("i3->i", x), ArgumentError, ["'3'"]),
    (lambda x: ag.einsum("ij,ij->i", x, x.mT), ShapeError, ["'ij,ij->i'", "arrays[1]"]),
    (lambda x: ag.einsum("ii->i", x), ShapeError, ["3", "4"]),
    (lambda x: ag.einsum(x, "ij"), ArgumentTypeError, ["expression"]),
    (lambda x: ag.einsum("ij"), ArgumentError, ["no arrays"]),
])
def test_errors_teach(call, error, words):
    with pytest.raises(error) as caught:
        call(ag.asarray(data(3, 4)))
    for word in words:
        assert word in str(caught.value)
    assert "test_contraction.py" in str(caught.value)


@pytest.mark.parametrize("n, m", [(3, 5), (5, 3), (40, 100), (100, 40), (0, 2)])
@pytest.mark.parametrize("dtype", ["float32", "complex64", "int64", "bool"])
def test_products_of_columns_and_rows(dtype, n, m):
    """Nothing is summed, so they are computed another way."""
    rng = np.random.default_rng(0)
    x, y = ((rng.standard_normal(s) * 4).astype(dtype) for s in ((2, 9, n, 1), (9, 1, m)))
    got = ag.matmul(ag.asarray(x), ag.asarray(y))
    assert got.shape == (2, 9, n, m) and got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got.numpy(), np.matmul(x, y))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_many_small_products(dtype, rng):
    """Threads share them out."""
    x, y, a = (rng.integers(-4, 5, s).astype(dtype) for s in ((900, 20, 24), (900, 24, 20), (33, 24)))
    wide = rng.integers(-4, 5, (900, 40, 48)).astype(dtype)
    for p, q in ((x, y), (a, y), (x[::-1], y.transpose(0, 2, 1).copy().transpose(0, 2, 1)), (wide[:, ::2, ::2], y),
                 (x, y[::-1])):
        for _ in range(2):
            got = ag.matmul(ag.asarray(p), ag.asarray(q)).numpy()
            assert got.dtype == dtype and got.flags.c_contiguous
            np.testing.assert_array_equal(got, np.einsum("...ij,...jk->...ik", p, q))
    for q in (y[:, :-1], y[:-1], y[:2]):
        with pytest.raises(ShapeError):
            ag.matmul(ag.asarray(x), ag.asarray(q))
    np.testing.assert_array_equal(ag.matmul(ag.asarray(x[:1]), ag.asarray(y)).numpy(), np.matmul(x[:1], y))
