"""Linear algebra against NumPy and SciPy: values, gradients to second order, degenerate and wrong arguments."""

import numpy as np
import pytest
import scipy.linalg

import agog as ag
from agog import config
from agog.errors import ArgumentError, ArgumentTypeError, AxisError, DTypeError, GradientError, ShapeError


def data(*shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x).astype(dtype)


def regular(*shape, dtype=np.float64, seed=0):
    return (data(*shape, dtype=dtype, seed=seed) + 3 * np.eye(shape[-1])).astype(dtype)


def definite(*shape, dtype=np.float64):
    x = regular(*shape, dtype=dtype)
    return (x @ x.conj().mT).astype(dtype)


def close(got, want, tol=1e-10):
    got, want = got.detach().numpy(), np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol)


def real_inner(a, b):
    """Re sum(conj(a) b): how a gradient and a direction give a slope."""
    return float(np.sum(np.conj(a) * b).real)


def slope(fn, *arrays, order=2, tol=1e-5):
    """The first (and second) derivative of a weighted sum of fn agrees with differences, for real and complex x."""
    weights = {}

    def value(*xs):
        ys = fn(*xs)
        total = 0.0
        for i, y in enumerate(ys if isinstance(ys, tuple | list) else (ys,)):
            w = weights.setdefault(i, data(*y.shape, dtype=y.dtype, seed=20 + i))
            total = total + ag.sum(ag.real(y * w))
        return total

    directions = [data(*x.shape, dtype=x.dtype, seed=40 + i) for i, x in enumerate(arrays)]

    def at(e):
        return [ag.asarray(x + e * d, requires_grad=True) for x, d in zip(arrays, directions)]

    def along(gradients):
        return sum(ag.sum(ag.real(ag.conj(g) * d)) for g, d in zip(gradients, directions) if g is not None)

    h = 1e-5
    xs = at(0)
    gradients = ag.gradients(value(*xs), xs, create_graph=order > 1)
    for g, x in zip(gradients, xs):
        assert g.shape == x.shape and g.dtype == x.dtype
    first = along(gradients)
    numeric = (value(*at(h)).item() - value(*at(-h)).item()) / (2 * h)
    np.testing.assert_allclose(first.item(), numeric, rtol=tol, atol=tol)
    if order > 1:
        second = along(ag.gradients(first, xs, allow_unused=True)).item() if first.requires_grad else 0.0
        up, down = (along(ag.gradients(value(*ys), ys)).item() for ys in (at(h), at(-h)))
        np.testing.assert_allclose(second, (up - down) / (2 * h), rtol=tol * 10, atol=tol * 10)


DTYPES = [np.float64, np.complex128]


# ------------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (0, 3, 3), (1, 1)])
def test_values_as_numpy(shape, dtype):
    tol = 1e-4 if np.dtype(dtype).itemsize == (8 if np.dtype(dtype).kind == "c" else 4) else 1e-9
    x, p, b = regular(*shape, dtype=dtype), definite(*shape, dtype=dtype), data(shape[-1], 2, dtype=dtype)
    t = ag.asarray(x)
    close(ag.linalg.inv(t), np.linalg.inv(x), tol)
    close(ag.linalg.det(t), np.linalg.det(x), tol)
    for got, want in zip(ag.linalg.slogdet(t), np.linalg.slogdet(x)):
        close(got, want, tol)
    close(ag.linalg.solve(t, ag.asarray(b)), np.linalg.solve(x, b), tol)
    close(ag.linalg.cholesky(ag.asarray(p)), np.linalg.cholesky(p), tol)
    close(ag.linalg.cholesky(ag.asarray(p), upper=True), np.linalg.cholesky(p).conj().mT, tol)
    close(ag.linalg.eigvalsh(ag.asarray(p)), np.linalg.eigvalsh(p), tol)
    w, v = ag.linalg.eigh(ag.asarray(p))
    close(v @ (w[..., None] * ag.conj(v).mT), p, tol * 10)
    close(ag.linalg.svdvals(t), np.linalg.svd(x, compute_uv=False), tol)
    u, s, vh = ag.linalg.svd(t, full_matrices=False)
    close(u @ (s[..., None] * vh), x, tol)
    q, r = ag.linalg.qr(t)
    close(q @ r, x, tol)
    close(ag.linalg.pinv(t), np.linalg.pinv(x), tol)
    close(ag.linalg.expm(t * 0.1), scipy.linalg.expm(x * x.dtype.type(0.1)), tol)
    close(ag.linalg.matrix_power(t, -3), np.linalg.matrix_power(x, -3), tol)
    close(ag.linalg.trace(t, offset=1), np.trace(x, 1, -2, -1), tol)
    assert np.array_equal(ag.linalg.matrix_rank(t).numpy(), np.linalg.matrix_rank(x))
    if x.size:
        for order in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf):
            close(ag.linalg.matrix_norm(t, ord=order), np.linalg.norm(x, order, (-2, -1)), tol)
            close(ag.linalg.cond(t, order), np.linalg.cond(x, order), tol * 10)
        w, v = ag.linalg.eig(t)
        close(t @ v, (v * w[..., None, :]).numpy(), tol * 10)
        assert w.dtype.kind == "c"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_computed_in_float32(dtype):
    x = ag.asarray(regular(3, 3)).astype(dtype)
    for y in (ag.linalg.inv(x), *ag.linalg.svd(x), *ag.linalg.eigh(x), *ag.linalg.qr(x), ag.linalg.det(x)):
        assert y.dtype == x.dtype
    want = np.linalg.inv(x.numpy().astype(np.float64))
    assert np.abs(ag.linalg.inv(x).numpy().astype(np.float64) - want).max() < 2e-3


def test_integers_become_floats():
    assert ag.linalg.inv(ag.asarray([[2, 0], [0, 4]])).tolist() == [[0.5, 0], [0, 0.25]]
    assert ag.linalg.det(ag.asarray([[2, 0], [0, 4]])).dtype == np.float32


def test_results_have_the_standards_names():
    x = ag.asarray(regular(3, 3))
    assert ag.linalg.svd(x).Vh.shape == (3, 3)
    assert ag.linalg.eigh(x).eigenvalues.shape == (3,)
    assert ag.linalg.qr(x).R.shape == (3, 3)
    assert ag.linalg.slogdet(x).logabsdet.shape == ()


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("shapes", [((3, 3), (3, 2)), ((3, 3), (3,)), ((2, 3, 3), (3, 2)), ((2, 3, 3), (3,))])
def test_triangular_solve(shapes, lower, unit):
    a, b = regular(*shapes[0]), data(*shapes[1])
    t = np.tril(a) if lower else np.triu(a)
    if unit:
        t[..., range(3), range(3)] = 1

    def fn(a, b):
        return ag.linalg.triangular_solve(a, b, lower=lower, unit_diagonal=unit)

    close(fn(ag.asarray(a), ag.asarray(b)), np.linalg.solve(t, b))
    slope(fn, a, b)


def test_least_squares():
    a, b = data(6, 3), data(6, 2)
    x, residuals, rank, s = ag.linalg.lstsq(ag.asarray(a), ag.asarray(b))
    want = np.linalg.lstsq(a, b)
    close(x, want[0])
    close(residuals, want[1])
    close(s, want[3])
    assert rank.item() == 3
    close(ag.linalg.lstsq(ag.asarray(a), ag.asarray(b[:, 0]))[0], np.linalg.lstsq(a, b[:, 0])[0])
    slope(lambda a, b: ag.linalg.lstsq(a, b)[:2], a, b)


# ---------------------------------------------------------------------------------------------------------- gradients
FUNCTIONS = {
    "inv": ag.linalg.inv, "det": ag.linalg.det, "slogdet": ag.linalg.slogdet, "expm": ag.linalg.expm,
    "solve": lambda x: ag.linalg.solve(x, x[..., ::-1, :2]), "solve vector": lambda x: ag.linalg.solve(x, x[0, 0]),
    "cholesky": lambda x: ag.linalg.cholesky(x @ ag.conj(x).mT), "pinv": ag.linalg.pinv,
    "cholesky upper": lambda x: ag.linalg.cholesky(x @ ag.conj(x).mT, upper=True),
    "power": lambda x: ag.linalg.matrix_power(x, 3), "negative power": lambda x: ag.linalg.matrix_power(x, -2),
    "eigvalsh": ag.linalg.eigvalsh, "svdvals": ag.linalg.svdvals, "qr": ag.linalg.qr,
    "nuclear": lambda x: ag.linalg.matrix_norm(x, ord="nuc"), "trace": ag.linalg.trace,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name, dtype):
    slope(FUNCTIONS[name], regular(2, 3, 3, dtype=dtype))


def rebuilt(vectors, values, others):
    """A function of a decomposition that does not depend on the phases of its vectors."""
    return vectors @ ((values * values + 1 / (1 + values * values))[..., None] * others)


@pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])
def test_gradients_of_decompositions(dtype):
    def with_eigh(x):
        w, v = ag.linalg.eigh(x)
        return rebuilt(v, w, ag.conj(v).mT), w

    def with_svd(x):
        u, s, vh = ag.linalg.svd(x, full_matrices=False)
        return rebuilt(u, s, vh), s

    def with_eig(x):
        w, v = ag.linalg.eig(x)
        return rebuilt(v, w, ag.linalg.inv(v))

    def lengths(x):
        w, v = ag.linalg.eig(x)
        return ag.abs(v) * ag.real(w) ** 2  # the vectors keep length 1

    slope(with_eigh, data(2, 3, 3, dtype=dtype))
    slope(with_eig, data(2, 3, 3, dtype=dtype))
    slope(lengths, data(3, 3, dtype=dtype), order=1)
    slope(ag.linalg.eigvals, data(3, 3, dtype=dtype))
    for shape in ((3, 3), (4, 2), (2, 4), (2, 3, 2)):
        slope(with_svd, data(*shape, dtype=dtype))
        slope(ag.linalg.qr, data(*shape, dtype=dtype))
        slope(ag.linalg.pinv, data(*shape, dtype=dtype))

    def polar(x):
        u, _, vh = ag.linalg.svd(x, full_matrices=False)
        return u @ vh

    slope(polar, data(4, 2, dtype=dtype))


def test_eigenvectors_of_real_matrices_up_to_sign():
    slope(lambda x: ag.linalg.eigh(x).eigenvectors, data(3, 3))
    slope(lambda x: ag.linalg.svd(x).U, data(3, 3))


def test_gradient_of_solve_with_broadcasting():
    slope(ag.linalg.solve, regular(2, 1, 3, 3), data(4, 3, 2))
    slope(ag.linalg.solve, regular(2, 3, 3), data(3))
    slope(ag.linalg.solve, regular(3, 3), data(2, 3, 1))


# --------------------------------------------------------------------------------------------------------- degenerate
def test_det_of_singular_matrices_has_a_gradient():
    x = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
    slope(ag.linalg.det, x, order=1)
    slope(ag.linalg.det, np.zeros((2, 2)), order=1)


def test_equal_values_give_finite_gradients():
    x = ag.asarray(np.eye(3) * 2, requires_grad=True)
    w, v = ag.linalg.eigh(x)
    (ag.sum(w**3) + ag.sum(v)).backward()
    np.testing.assert_allclose(x.grad.numpy(), 12 * np.eye(3), atol=1e-12)
    x = ag.asarray(np.zeros((2, 2)), requires_grad=True)
    ag.sum(ag.linalg.svd(x).U).backward()
    assert np.all(np.isfinite(x.grad.numpy()))


def test_slogdet_of_a_singular_matrix():
    sign, logabsdet = ag.linalg.slogdet(ag.zeros((2, 2)))
    assert sign.item() == 0 and logabsdet.item() == -np.inf


@pytest.mark.parametrize("call, error, words", [
    (lambda x: ag.linalg.inv(ag.zeros((2, 2))), ArgumentError, ["inv", "Singular"]),
    (lambda x: ag.linalg.inv(x[:2]), ShapeError, ["square", "2 and 3"]),
    (lambda x: ag.linalg.det(x[0]), ShapeError, ["matrix"]),
    (lambda x: ag.linalg.solve(x, ag.zeros((2, 2))), ShapeError, ["float32[2, 2]", "(..., 3, k)"]),
    (lambda x: ag.linalg.solve(x, ag.zeros(())), ShapeError, ["vector of 3"]),
    (lambda x: ag.linalg.cholesky(-x @ x.mT), ArgumentError, ["positive definite"]),
    (lambda x: ag.linalg.qr(x, mode="full"), ArgumentError, ["'reduced'"]),
    (lambda x: ag.linalg.matrix_norm(x, ord="max"), ArgumentError, ["'fro'"]),
    (lambda x: ag.linalg.pinv(x, rtol="no"), ArgumentError, ["rtol"]),
    (lambda x: ag.linalg.lstsq(x, ag.zeros(4)), ShapeError, ["vector of 3"]),
    (lambda x: ag.linalg.matrix_power(x[:2], 2), ShapeError, ["square"]),
    (lambda x: ag.linalg.eigh(x[:, :2]), ShapeError, ["eigh", "square"]),
    (lambda x: ag.linalg.triangular_solve(ag.zeros((2, 2)), ag.ones(2)), ArgumentError, ["ingular"]),
    (lambda x: ag.linalg.trace(x[0]), ShapeError, ["matrix"]),
    (lambda x: ag.linalg.svdvals(x[0]), ShapeError, ["matrix"]),
])
def test_errors_teach(call, error, words):
    with pytest.raises(error) as caught:
        call(ag.asarray(regular(3, 3, dtype=np.float32)))
    for word in words:
        assert word in str(caught.value)
    assert "test_linalg.py" in str(caught.value)


def test_vectors_without_a_gradient_say_so():
    x = ag.asarray(data(4, 2), requires_grad=True)
    with pytest.raises(GradientError, match="full_matrices=False"):
        ag.sum(ag.linalg.svd(x).U).backward()
    with pytest.raises(GradientError, match="reduced"):
        ag.sum(ag.linalg.qr(x, mode="complete").Q).backward()


# ------------------------------------------------------------------------------------------------------------ Fourier
FFT = ["fft", "ifft", "rfft", "irfft", "hfft", "ihfft"]


@pytest.mark.parametrize("name", ["fft", "ifft", "rfft", "irfft"])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.float64])
def test_large_transforms_use_scipy_and_threads_change_no_bit(name, dtype, monkeypatch):
    if name == "rfft" and dtype == np.complex64:
        return
    x = data(300, 256, dtype=dtype)
    want = getattr(np.fft, name)(x.astype(np.complex128 if dtype == np.complex64 else np.float64))
    monkeypatch.setattr(np.fft, name, None)  # whose transforms of float32 are several times slower
    got = []
    for threads in (1, 3):
        monkeypatch.setattr(config, "num_threads", threads)
        got.append(getattr(ag.fft, name)(ag.asarray(x)).numpy())
    np.testing.assert_array_equal(*got)
    narrow = {"c": np.complex64, "f": np.float32}[want.dtype.kind]
    assert got[0].dtype == (want.dtype if dtype == np.float64 else narrow)
    np.testing.assert_allclose(got[0], want, atol=1e-4 if dtype != np.float64 else 1e-12)


@pytest.mark.parametrize("name", FFT)
@pytest.mark.parametrize("n", [None, 4, 5, 9])
@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
def test_transforms(name, n, norm):
    if name in ("rfft", "ihfft"):
        kinds = [np.float64]
    elif name in ("fft", "ifft"):
        kinds = DTYPES
    else:
        kinds = [np.complex128]
    for dtype in kinds:
        for shape, axis in (((6,), -1), ((3, 5), 0), ((2, 5, 2), 1)):
            x = data(*shape, dtype=dtype)
            fn = getattr(ag.fft, name)
            close(fn(ag.asarray(x), n=n, axis=axis, norm=norm), getattr(np.fft, name)(x, n, axis, norm))
            slope(lambda t, axis=axis, fn=fn: fn(t, n=n, axis=axis, norm=norm), x)


@pytest.mark.parametrize("name", ["fftn", "ifftn", "rfftn", "irfftn"])
@pytest.mark.parametrize("s, axes", [(None, None), (None, (0, 2)), ((4, 3), (1, 2)), ((3, 6), (2, 0))])
def test_transforms_over_several_axes(name, s, axes):
    x = data(3, 4, 5, dtype=np.float64 if name.startswith("rfft") else np.complex128)
    fn = getattr(ag.fft, name)
    close(fn(ag.asarray(x), s=s, axes=axes), getattr(np.fft, name)(x, s, axes))
    slope(lambda t: fn(t, s=s, axes=axes), x)


def test_single_precision_stays_single():
    x = ag.asarray(data(2, 6, dtype=np.float32))
    z = ag.fft.rfft(x)
    assert z.dtype == np.complex64 and ag.fft.irfft(z).dtype == np.float32
    assert ag.fft.fft(x).dtype == ag.fft.fftn(x).dtype == np.complex64
    assert ag.fft.hfft(z).dtype == np.float32 and ag.fft.ihfft(x).dtype == np.complex64
    assert ag.fft.fft(ag.asarray([1, 2])).dtype == np.complex64
    assert ag.fft.rfft(x.astype("float16")).dtype == np.complex64
    close(ag.fft.irfft(z), x.numpy(), 1e-5)


def test_frequencies_and_shifts():
    for n in (5, 6):
        close(ag.fft.fftfreq(n, d=0.5), np.fft.fftfreq(n, 0.5).astype(np.float32))
        close(ag.fft.rfftfreq(n, d=0.5), np.fft.rfftfreq(n, 0.5).astype(np.float32))
        x = data(n, 3)
        close(ag.fft.fftshift(ag.asarray(x)), np.fft.fftshift(x))
        close(ag.fft.ifftshift(ag.asarray(x), axes=0), np.fft.ifftshift(x, 0))
        slope(ag.fft.fftshift, x)


@pytest.mark.parametrize("call, error, words", [
    (lambda x: ag.fft.fft(x, n=0), ArgumentError, ["n=0"]),
    (lambda x: ag.fft.fft(x, axis=2), AxisError, ["axis=2"]),
    (lambda x: ag.fft.fft(x, norm="unit"), ArgumentError, ["'ortho'"]),
    (lambda x: ag.fft.rfft(x * 1j), DTypeError, ["complex"]),
    (lambda x: ag.fft.fftn(x, s=(2,), axes=(0, 1)), ArgumentError, ["s=", "axes="]),
    (lambda x: ag.fft.fftn(x, s=(2, 2, 2)), ArgumentError, ["s="]),
    (lambda x: ag.fft.fft(ag.zeros((0,))), ArgumentError, ["0"]),
    (lambda x: ag.fft.fftfreq(0), ArgumentError, ["n=0"]),
])
def test_transform_errors_teach(call, error, words):
    with pytest.raises(error) as caught:
        call(ag.asarray(data(3, 3, dtype=np.float32)))
    for word in words:
        assert word in str(caught.value)


def test_transforms_of_nothing_are_zeros():
    """NumPy's irfft returns what the memory held."""
    for fn in (ag.fft.fft, ag.fft.ifft, ag.fft.irfft):
        x = ag.zeros((3, 0), dtype="complex128", requires_grad=True)
        y = fn(x, n=6)
        assert y.shape == (3, 6) and not y.detach().numpy().any()
        ag.real(y).sum().backward()
        assert x.grad.shape == (3, 0)


def test_gradients_of_empty_matrices():
    x = ag.zeros((0, 0), requires_grad=True)
    ag.real(ag.linalg.eigvals(x)).sum().backward()
    assert x.grad.shape == (0, 0)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_norm_is_numpys(rng, shape):
    a, inf, done = rng.standard_normal(shape), float("inf"), 0
    for order in (None, 0, 1, -1, 2, -2, 3, inf, -inf, "fro", "nuc"):
        for axis in (None, 0, -1, (0, 1), (1, 0), (-1, 0)):
            for keep in (False, True):
                try:
                    want = np.linalg.norm(a, order, axis, keep)
                except ValueError:  # (AxisError is one)
                    for norm in (ag.linalg.norm, np.linalg.norm):
                        with pytest.raises(ValueError):
                            norm(ag.asarray(a), order, axis, keep)
                    continue
                for norm in (ag.linalg.norm, np.linalg.norm):
                    got = norm(ag.asarray(a), order, axis, keep)
                    assert got.shape == want.shape
                    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-12, err_msg=str((order, axis, keep)))
                done += 1
    assert done > 20


def test_second_arguments_of_norms_are_orders(rng):
    a = rng.standard_normal((3, 4))
    x = ag.asarray(a)
    assert ag.linalg.norm(x, 1).item() == pytest.approx(abs(a).sum(axis=0).max())
    assert ag.linalg.norm(x, 2).item() == pytest.approx(np.linalg.svd(a, compute_uv=False)[0])
    assert ag.linalg.vector_norm(x, 1).item() == ag.vector_norm(x, 1).item() == pytest.approx(abs(a).sum())
    np.testing.assert_allclose(ag.vmap(lambda r: ag.vector_norm(r, 1))(x).numpy(), abs(a).sum(axis=1))
    np.testing.assert_allclose(ag.linalg.matrix_norm(x, "nuc", (1, 0), True).numpy(), [[np.linalg.norm(a, "nuc")]])
    with pytest.raises(ArgumentTypeError, match="dim= is axis= here"):
        ag.linalg.norm(x, dim=1)
    with pytest.raises(ArgumentTypeError, match="keepdims by name"):
        ag.linalg.matrix_norm(x, "fro", True)
    with pytest.raises(ArgumentError, match="name them with axis="):
        ag.linalg.norm(ag.ones(2, 3, 4), 1)
