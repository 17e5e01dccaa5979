"""Windows and short-time Fourier transforms, and functions that a few others express."""

import numpy as np
import pytest

import agog as ag
from agog.errors import ArgumentError, DTypeError, ShapeError


def close(got, want, tol=1e-6):
    got = got.detach().numpy() if isinstance(got, ag.Tensor) else np.asarray(got)
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_short_time_transforms_by_their_formula(rng):
    x, window = rng.standard_normal(40), np.hanning(9)[:8]
    y = ag.stft(ag.asarray(x), 8, 3, window=ag.hann_window(8, dtype="float64"))
    padded = np.pad(x, 4, mode="reflect")
    want = np.stack([np.fft.rfft(padded[i:i + 8] * window) for i in range(0, 41, 3)], axis=1)
    close(y, want)
    assert y.dtype == "complex128" and ag.stft(ag.zeros(20), 8).dtype == "complex64"
    close(ag.hamming_window(6, periodic=False), np.hamming(6))
    close(ag.blackman_window(6, periodic=False), np.blackman(6))
    assert ag.hann_window(1).tolist() == [1] and ag.hann_window(0).shape == (0,)


@pytest.mark.parametrize("settings", [
    {}, {"win_length": 6}, {"normalized": True}, {"onesided": False}, {"center": False}, {"length": 37},
    {"length": 60}])
def test_the_inverse_gives_the_signal_back(rng, settings):
    x = rng.standard_normal((2, 40))
    window = ag.hamming_window(settings.get("win_length", 8), dtype="float64")
    forward = {k: v for k, v in settings.items() if k != "length"}
    back = ag.istft(ag.stft(ag.asarray(x), 8, 2, window=window, **forward), 8, 2, window=window, **settings)
    if settings.get("onesided") is False:
        back = ag.real(back)
    n = back.shape[-1]
    close(back[:, :min(n, 40)], x[:, :min(n, 40)])
    assert n == settings.get("length", 40) and not back[:, 44:].numpy().any()  # (up to there the padding)


def test_short_time_transforms_staged_and_their_gradients(rng):
    x, window = ag.asarray(rng.standard_normal(24)), ag.hann_window(8, dtype="float64")

    def loss(x):
        y = ag.stft(x, 8, 2, window=window)
        return (ag.abs(y) ** 2).sum() + (ag.istft(y * 2, 8, 2, window=window) ** 3).sum()

    g, h = ag.grad(loss)(x), 1e-5
    for i in (0, 7, 23):
        step = ag.asarray(np.eye(24)[i] * h)
        close(g[i], (loss(x + step) - loss(x - step)).item() / (2 * h), 1e-4)
    staged = ag.function(ag.grad(loss), strict=True)
    for _ in range(3):
        close(staged(x), g.numpy())


def test_short_time_transforms_of_what_makes_no_sense():
    for args, error in (((ag.zeros(2, 2, 20), 8), ShapeError), ((ag.arange(20), 8), DTypeError),
                        ((ag.zeros(20), 0), ArgumentError), ((ag.zeros(3), 8, 2, None, None, False), ShapeError),
                        ((ag.zeros(20), 8, 2, 9), ArgumentError), ((ag.zeros(20), 8, 2, 4, ag.ones(8)), ShapeError)):
        with pytest.raises(error, match="stft"):
            ag.stft(*args)
    with pytest.raises(ShapeError, match="istft"):
        ag.istft(ag.zeros(4, 3) * 1j, 8)
    with pytest.raises(ArgumentError, match="window_length"):
        ag.hann_window(-1)


def test_numbers_in_place_of_what_is_none():
    x = ag.asarray([np.nan, np.inf, -np.inf, 1.0])
    top = np.finfo("f4").max
    close(ag.nan_to_num(x), [0, top, -top, 1])
    close(ag.nan_to_num(x, 7.0, 8.0, 9.0), [7, 8, 9, 1])
    assert ag.isposinf(x).tolist() == [False, True, False, False] and ag.isneginf(x).tolist()[2]
    assert ag.nan_to_num(ag.asarray([1, 2])).dtype == "int64"
    z = ag.nan_to_num(ag.asarray([complex(np.nan, np.inf)]), posinf=5.0)
    assert z.tolist() == [5j]
    for name in ("float16", "bfloat16"):
        assert np.isfinite(ag.nan_to_num(x.astype(name)).astype("float32").numpy()).all()


def test_statistics_of_several_variables(rng):
    x, f, a = rng.standard_normal((3, 6)), np.array([1, 2, 1, 0, 3, 1]), rng.random(6)
    close(ag.cov(ag.asarray(x)), np.cov(x))
    close(ag.cov(ag.asarray(x), correction=0, fweights=ag.asarray(f), aweights=ag.asarray(a)),
          np.cov(x, ddof=0, fweights=f, aweights=a))
    close(ag.cov(ag.asarray(x), aweights=ag.asarray(a)), np.cov(x, aweights=a))
    close(ag.cov(ag.asarray(x[0])), np.cov(x[0]))
    close(ag.corrcoef(ag.asarray(x)), np.corrcoef(x))
    with pytest.raises(ShapeError, match="fweights"):
        ag.cov(ag.asarray(x), fweights=ag.asarray(f[:3]))


def test_integrals_by_trapezoids(rng):
    y, x = rng.standard_normal((3, 5)), np.sort(rng.standard_normal(5))
    close(ag.trapezoid(ag.asarray(y), ag.asarray(x)), np.trapezoid(y, x))
    close(ag.trapezoid(ag.asarray(y), dx=0.5, axis=0), np.trapezoid(y, dx=0.5, axis=0))
    close(ag.cumulative_trapezoid(ag.asarray(y), ag.asarray(x))[:, -1], np.trapezoid(y, x))
    small = np.array([200, 250, 100], np.uint8)  # sums of two do not fit, nor do differences below 0
    close(ag.trapezoid(ag.asarray(small), ag.asarray(small)), np.trapezoid(small.astype(float), small.astype(float)))
    with pytest.raises(ShapeError, match="trapezoid"):
        ag.trapezoid(ag.asarray(y), ag.asarray(x[:3]))


def test_matrices_of_parts(rng):
    a, b, c = rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal(2)
    close(ag.linalg.multi_dot([ag.asarray(v) for v in (a, b, c)]), a @ b @ c)
    with pytest.raises(ShapeError, match="no product"):
        ag.linalg.multi_dot([ag.asarray(a), ag.asarray(a)])
    spd = a @ a.T + np.eye(3)
    right = rng.standard_normal((3, 2))
    for upper in (False, True):
        factor = ag.linalg.cholesky(ag.asarray(spd), upper=upper)
        close(ag.linalg.cholesky_solve(ag.asarray(right), factor, upper=upper), np.linalg.solve(spd, right))
    close(ag.linalg.logdet(ag.asarray(spd)), np.log(np.linalg.det(spd)))
    assert np.isnan(ag.linalg.logdet(ag.asarray([[-1.0]])).item())
    assert ag.linalg.logdet(ag.asarray([[0.0]])).item() == -np.inf
    close(ag.linalg.vander(ag.asarray(c), 4), np.vander(c, 4))
    assert ag.block_diag([ag.ones(1, 2), ag.ones(2, 1), ag.asarray(3.0)]).tolist() == [
        [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 3]]
    assert ag.cartesian_prod([ag.arange(2), ag.arange(2)]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert ag.gcd(ag.asarray([12, -18]), 8).tolist() == [4, 2] and ag.lcm(ag.asarray([4]), 6).tolist() == [12]
    i, j = ag.triu_indices(3, k=1)
    assert ag.arange(9).reshape(3, 3)[i, j].tolist() == [1, 2, 5]
    assert ag.arange(9).reshape(3, 3)[ag.tril_indices(3)].tolist() == [0, 3, 4, 6, 7, 8]
