"""Pooling, patches and resizing against plain loops; derivatives, dtypes and batching are checked by test_rows."""

import itertools
import math

import numpy as np
import pytest

import agog as ag
from agog.dispatch import tensors as xp
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def close(got, want, tol=1e-12):
    got = got.detach().numpy()
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol)


def out_size(n, k, s, p, d, ceil):
    """PyTorch's rule."""
    rest = n + 2 * p - d * (k - 1) - 1
    out = (math.ceil if ceil else math.floor)(rest / s) + 1
    return out - 1 if ceil and (out - 1) * s >= n + p else out


def plain(x, k, s, p, d, ceil, of):
    """of(elements of the window, how many count with padding) for every window of x (N, C, H, W)."""
    sizes = [out_size(n, *g, ceil) for n, *g in zip(x.shape[2:], k, s, p, d)]
    y = np.zeros(x.shape[:2] + tuple(sizes))
    for i, j in itertools.product(*map(range, sizes)):
        at = [[a * st - pa + t * di for t in range(ke)] for a, st, pa, ke, di in zip((i, j), s, p, k, d)]
        inside = [[t for t in ts if 0 <= t < n] for ts, n in zip(at, x.shape[2:])]
        padded = math.prod(sum(-pa <= t < n + pa for t in ts) for ts, n, pa in zip(at, x.shape[2:], p))
        y[:, :, i, j] = of(x[:, :, inside[0]][..., inside[1]].reshape(*x.shape[:2], -1), padded)
    return y


GEOMETRIES = [  # kernel, stride, padding, dilation
    ((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)), ((2, 3), (3, 1), (1, 1), (1, 1)),
    ((3, 2), (1, 2), (1, 0), (2, 1)), ((1, 4), (1, 3), (0, 2), (1, 1)), ((2, 2), (3, 3), (0, 0), (1, 1))]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (1, 1, 9, 6)])
def test_windows(rng, geometry, ceil, shape):
    x = rng.standard_normal(shape)
    k, s, p, d = geometry
    t = ag.asarray(x)
    close(xp.max_pool2d(t, k, s, p, d, ceil), plain(x, *geometry, ceil, lambda e, n: e.max(-1)))
    if d == (1, 1):
        close(xp.avg_pool2d(t, k, s, p, ceil), plain(x, *geometry, ceil, lambda e, n: e.sum(-1) / n))
        close(xp.avg_pool2d(t, k, s, p, ceil, False), plain(x, *geometry, ceil, lambda e, n: e.mean(-1)))
        close(xp.avg_pool2d(t, k, s, p, ceil, divisor_override=7),
              plain(x, *geometry, ceil, lambda e, n: e.sum(-1) / 7))


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bool", "float16"])
def test_max_dtypes(dtype):
    x = np.arange(16).reshape(1, 1, 4, 4).astype(dtype)
    y = xp.max_pool2d(ag.asarray(x), 2, padding=1)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.numpy()[0, 0], np.array([[0, 2, 3], [8, 10, 11], [12, 14, 15]]).astype(dtype))


def test_ties_go_to_the_first():
    x = ag.asarray(np.ones((1, 1, 3, 3)), requires_grad=True)
    y, where = xp.max_pool2d(x, 2, 1, return_indices=True)
    np.testing.assert_array_equal(where.numpy()[0, 0], [[0, 1], [3, 4]])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy()[0, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_indices(rng):
    x = rng.standard_normal((2, 3, 7, 8))
    y, where = xp.max_pool2d(ag.asarray(x), 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(np.take_along_axis(x.reshape(2, 3, -1), where.numpy().reshape(2, 3, -1), 2),
                                  y.numpy().reshape(2, 3, -1))


def test_nan_wins_and_padding_does_not():
    x = np.full((1, 1, 4), -5.0, np.float32)
    assert (xp.max_pool1d(ag.asarray(x), 3, 1, 1).numpy() == -5).all()
    x[0, 0, 1] = np.nan
    assert np.isnan(xp.max_pool1d(ag.asarray(x), 2).numpy()[0, 0, 0])


def test_windows_of_minus_infinity_reach_no_padding():
    x = ag.asarray(np.full((1, 1, 5), -np.inf, np.float32)).requires_grad_()
    xp.max_pool1d(x, 3, 1, 1).sum().backward()
    assert x.grad.numpy().tolist() == [[[2, 1, 1, 1, 0]]]
    assert xp.max_pool1d(x, 3, 2, 1, return_indices=True)[1].numpy().tolist() == [[[0, 1, 3]]]


@pytest.mark.parametrize("stride", [1, 2])
def test_an_infinite_gradient_stays_at_its_maximum(stride):
    x = ag.asarray(np.array([[[1, 2, 4, 3]]], np.float32)).requires_grad_()
    y = xp.max_pool1d(x, 2, stride)
    y.backward(ag.asarray(np.array([[[np.inf, 1, 2][:y.shape[2]]]], np.float32)))
    assert x.grad.numpy().tolist() == [[[0, np.inf, 3 if stride == 1 else 1, 0]]]


def test_one_and_three_dimensions_and_single_samples(rng):
    x = rng.standard_normal((2, 3, 8))
    close(xp.max_pool1d(ag.asarray(x), 2), x.reshape(2, 3, 4, 2).max(-1))
    close(xp.avg_pool1d(ag.asarray(x[0]), 4, 4), x[0].reshape(3, 2, 4).mean(-1))
    v = rng.standard_normal((2, 3, 4, 4, 4))
    parts = v.reshape(2, 3, 2, 2, 2, 2, 2, 2)
    close(xp.max_pool3d(ag.asarray(v), 2), parts.max((3, 5, 7)))
    close(xp.avg_pool3d(ag.asarray(v), 2), parts.mean((3, 5, 7)))
    close(xp.lp_pool2d(ag.asarray(v[0]), 2, 2), np.sqrt((v[0].reshape(3, 4, 2, 2, 2, 2) ** 2).sum((3, 5))))
    close(xp.lp_pool1d(ag.asarray(x), 3, 2), (abs(x.reshape(2, 3, 4, 2)) ** 3).sum(-1) ** (1 / 3))
    close(xp.global_avg_pool(ag.asarray(v)), v.mean((2, 3, 4)))
    close(xp.global_max_pool(ag.asarray(v), keepdims=True), v.max((2, 3, 4), keepdims=True))


@pytest.mark.parametrize("size", [1, 3, (4, 5), (7, 8), (2, None), (9, 10)])
def test_adaptive(rng, size):
    x = rng.standard_normal((2, 3, 7, 8))
    out = [n if s is None else s for s, n in zip((size, size) if isinstance(size, int) else size, (7, 8))]
    bins = [[slice(i * n // o, -(-(i + 1) * n // o)) for i in range(o)] for o, n in zip(out, (7, 8))]
    for fn, of in ((xp.adaptive_avg_pool2d, np.mean), (xp.adaptive_max_pool2d, np.max)):
        want = np.array([[of(x[:, :, a, b], (2, 3)) for b in bins[1]] for a in bins[0]]).transpose(2, 3, 0, 1)
        close(fn(ag.asarray(x), size), want)


@pytest.mark.parametrize("k, d, p, s", [(2, 1, 0, 1), ((2, 3), 1, (1, 0), 2), (3, 2, 2, (1, 3))])
def test_unfold_and_fold(rng, k, d, p, s):
    x = rng.standard_normal((2, 3, 7, 8))
    k2, d2, p2, s2 = ((v, v) if isinstance(v, int) else v for v in (k, d, p, s))
    y = xp.unfold(ag.asarray(x), k, d, p, s)
    padded = np.pad(x, ((0, 0), (0, 0), *((v, v) for v in p2)))
    sizes = [out_size(n, *g, False) for n, *g in zip((7, 8), k2, s2, p2, d2)]
    want = np.stack([padded[:, :, i * s2[0]:i * s2[0] + d2[0] * (k2[0] - 1) + 1:d2[0],
                            j * s2[1]:j * s2[1] + d2[1] * (k2[1] - 1) + 1:d2[1]].reshape(2, -1)
                     for i in range(sizes[0]) for j in range(sizes[1])], -1)
    close(y, want)
    g = rng.standard_normal(want.shape)
    back = xp.fold(ag.asarray(g), (7, 8), k, d, p, s)
    np.testing.assert_allclose((back.numpy() * x).sum(), (g * want).sum())
    close(xp.fold(ag.asarray(g[0]), (7, 8), k, d, p, s), back.numpy()[0])


def test_nearest():
    x = ag.asarray(np.arange(4.0).reshape(1, 1, 4))
    np.testing.assert_array_equal(xp.interpolate(x, scale_factor=2).numpy()[0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(xp.interpolate(x, 6).numpy()[0, 0], [0, 0, 1, 2, 2, 3])
    np.testing.assert_array_equal(xp.interpolate(x, 2).numpy()[0, 0], [0, 2])
    np.testing.assert_array_equal(xp.interpolate(x, 2, mode="nearest-exact").numpy()[0, 0], [1, 3])
    np.testing.assert_array_equal(xp.interpolate(x, scale_factor=0.5, mode="area").numpy()[0, 0], [0.5, 2.5])
    np.testing.assert_array_equal(xp.upsample(x, 8).numpy()[0, 0], [0, 0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("n, out", [(4, 8), (5, 3), (3, 10), (1, 4), (6, 1)])
def test_linear(rng, n, out):
    x = rng.standard_normal((2, 3, n))
    source = np.clip((np.arange(out) + 0.5) * n / out - 0.5, 0, n - 1)
    want = np.array([[np.interp(source, np.arange(n), row) for row in s] for s in x])
    close(xp.interpolate(ag.asarray(x), out, mode="linear"), want)
    corners = np.linspace(0, n - 1, out) if out > 1 else np.zeros(1)
    want = np.array([[np.interp(corners, np.arange(n), row) for row in s] for s in x])
    close(xp.interpolate(ag.asarray(x), out, mode="linear", align_corners=True), want)


def test_two_axes_are_one_after_the_other(rng):
    x = rng.standard_normal((1, 2, 5, 4))
    for mode, line in (("bilinear", "linear"),):
        rows = xp.interpolate(ag.asarray(x.reshape(1, 10, 4)), 7, mode=line).numpy().reshape(1, 2, 5, 7)
        both = xp.interpolate(ag.asarray(rows.swapaxes(2, 3).reshape(1, 14, 5)), 3, mode=line)
        close(xp.interpolate(ag.asarray(x), (3, 7), mode=mode), both.numpy().reshape(1, 2, 7, 3).swapaxes(2, 3))


def test_cubic_reproduces_lines_and_keeps_the_mean():
    x = np.arange(10.0)
    y = xp.interpolate(ag.asarray(np.tile(x, (1, 1, 10, 1))), scale_factor=2, mode="bicubic").numpy()[0, 0, 9]
    np.testing.assert_allclose(y[4:-4], (np.arange(20) * 0.5 - 0.25)[4:-4], atol=0.05)
    ones = xp.interpolate(ag.asarray(np.ones((1, 1, 5, 5))), (7, 9), mode="bicubic")
    np.testing.assert_allclose(ones.numpy(), 1)


def test_shuffles(rng):
    x = rng.standard_normal((2, 8, 3, 4))
    y = xp.pixel_shuffle(ag.asarray(x), 2)
    want = np.zeros((2, 2, 6, 8))
    for c, i, j in itertools.product(range(2), range(2), range(2)):
        want[:, c, i::2, j::2] = x[:, c * 4 + i * 2 + j]
    close(y, want)
    close(xp.pixel_unshuffle(y, 2), x)
    close(xp.channel_shuffle(ag.asarray(x), 2), x[:, [0, 4, 1, 5, 2, 6, 3, 7]])


def test_empty_batches():
    x = ag.asarray(np.zeros((0, 3, 4, 4), np.float32), requires_grad=True)
    for y in (xp.max_pool2d(x, 2), xp.avg_pool2d(x, 2), xp.adaptive_avg_pool2d(x, 3), xp.unfold(x, 2),
              xp.interpolate(x, scale_factor=2, mode="bilinear"), xp.interpolate(x, scale_factor=2)):
        assert y.shape[0] == 0
        y.sum().backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("call, error, text", [
    (lambda x: xp.max_pool2d(x[0, 0], 2), ShapeError, "without N"),
    (lambda x: xp.max_pool2d(x, 2, padding=2), ArgumentError, "more than half"),
    (lambda x: xp.max_pool2d(x, 9), ShapeError, "covers 9 positions"),
    (lambda x: xp.max_pool2d(x, (2, 2, 2)), ArgumentError, "tuple of 2"),
    (lambda x: xp.max_pool2d(x, "2"), ArgumentTypeError, "kernel_size"),
    (lambda x: xp.max_pool2d(x, 2, stride=0), ArgumentError, "at least 1"),
    (lambda x: xp.avg_pool2d(x, 2, divisor_override=0), ArgumentError, "divisor_override"),
    (lambda x: xp.lp_pool2d(x, 0, 2), ArgumentError, "positive"),
    (lambda x: xp.adaptive_avg_pool2d(x, 0), ArgumentError, "output_size"),
    (lambda x: xp.adaptive_max_pool2d(x, (1, 2, 3)), ArgumentError, "tuple of 2"),
    (lambda x: xp.unfold(x, 7), ShapeError, "larger than the padded image"),
    (lambda x: xp.fold(x[0], (4, 4), 2), ShapeError, "one column for each"),
    (lambda x: xp.interpolate(x), ArgumentError, "either size or scale_factor"),
    (lambda x: xp.interpolate(x, 3, 2), ArgumentError, "either size or scale_factor"),
    (lambda x: xp.interpolate(x, 3, mode="cubic"), ArgumentError, "'bicubic'"),
    (lambda x: xp.interpolate(x, 3, mode="linear"), ArgumentError, "1 spatial axes"),
    (lambda x: xp.interpolate(x, 3, align_corners=True), ArgumentError, "no meaning"),
    (lambda x: xp.interpolate(x, scale_factor=-1), ArgumentError, "positive"),
    (lambda x: xp.interpolate(x[0, 0], 3), ShapeError, "spatial axis"),
    (lambda x: xp.pixel_shuffle(x, 3), ShapeError, "C \\* 9"),
    (lambda x: xp.pixel_unshuffle(x, 3), ShapeError, "multiples of 3"),
    (lambda x: xp.channel_shuffle(x, 3), ShapeError, "divide the channels"),
])
def test_errors_teach(call, error, text):
    with pytest.raises(error, match=text):
        call(ag.asarray(np.ones((2, 4, 4, 4))))


def test_infinity_stays_in_its_window():
    """Resizing is a product with a matrix: where its weight is 0, infinity must not become nan."""
    x = np.zeros((1, 1, 7))
    x[0, 0, 3] = np.inf
    assert np.isfinite(ag.adaptive_avg_pool1d(ag.asarray(x), 3).numpy()).tolist() == [[[True, False, True]]]
    y = ag.interpolate(ag.asarray(x), size=14, mode="linear").numpy()
    assert not np.isnan(y).any() and 0 < np.isinf(y).sum() < 6
    close(ag.interpolate(ag.asarray(np.where(np.isinf(x), 2., x)), size=14, mode="linear"),
          np.where(np.isinf(y), ag.interpolate(ag.asarray(np.where(np.isinf(x), 2., x)), size=14, mode="linear"), y))


def test_the_first_of_equal_ones_gets_the_gradient_of_adaptive_pools():
    x = ag.asarray(np.ones((1, 1, 5, 5)), requires_grad=True)
    ag.adaptive_max_pool2d(x, 3).sum().backward()
    want = np.zeros((5, 5))
    np.add.at(want, tuple(np.meshgrid([0, 1, 3], [0, 1, 3], indexing="ij")), 1)  # where the bins begin
    close(x.grad, want[None, None])


def test_lp_pools_of_zeros_have_the_gradient_zero():
    for p in (2.0, 3.0):
        x = ag.asarray([[[0.0, 0.0, 3.0, 4.0]]], requires_grad=True)
        ag.lp_pool1d(x, p, 2).sum().backward()
        assert x.grad.numpy()[0, 0, :2].tolist() == [0.0, 0.0] and (x.grad.numpy()[0, 0, 2:] > 0).all()
