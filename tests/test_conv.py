"""Convolution against a plain loop, and the three rows against each other: transposes are checked by inner products."""

import itertools

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.errors import ArgumentError, ShapeError
from agog.ops import conv as module
from agog.ops.namespaces import raw
from agog.ops.row import TABLE

CASES = [  # x, w, stride, padding, dilation, groups
    ((2, 3, 7, 6), (4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((2, 3, 7, 6), (4, 3, 3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2), 1),
    ((3, 4, 9), (6, 2, 3), (3,), ((2, 2),), (2,), 2),
    ((2, 4, 8, 8), (4, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    ((2, 4, 8, 8), (8, 1, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4),
    ((2, 4, 5, 5), (3, 4, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((2, 4, 6, 5), (6, 2, 1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1), 2),
    ((2, 2, 4, 5, 3), (3, 2, 2, 2, 2), (1, 2, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 2), 1),
    ((1, 2, 12, 11), (5, 2, 2, 2), (1, 1), ((3, 3), (2, 4)), (1, 1), 1),  # padding beyond the kernel
    ((2, 3, 20, 20), (9, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),  # more outputs than inputs: scatter
    ((0, 3, 4, 4), (2, 3, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((2, 0, 4, 4), (2, 0, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
]


def plain(x, w, b, stride, padding, dilation, groups):
    """Convolution as its formula, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *padding))
    k = w.shape[2:]
    out = tuple((n - d * (m - 1) - 1) // s + 1 for n, m, s, d in zip(x.shape[2:], k, stride, dilation))
    cg, og = w.shape[1], w.shape[0] // groups
    y = np.zeros((x.shape[0], w.shape[0], *out))
    for o in range(w.shape[0]):
        part = x[:, o // og * cg:(o // og + 1) * cg]
        for p in itertools.product(*map(range, out)):
            where = tuple(slice(i * s, i * s + d * (m - 1) + 1, d) for i, s, d, m in zip(p, stride, dilation, k))
            y[(slice(None), o, *p)] = (part[(slice(None), slice(None), *where)] * w[o]).sum(tuple(range(1, x.ndim)))
    return y if b is None else y + b.reshape(-1, *[1] * len(k))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_rows(rng, case, dtype):
    xs, ws, *statics = case
    draw = (lambda s: (rng.standard_normal(s) + (1j * rng.standard_normal(s) if dtype[0] == "c" else 0)).astype(dtype))
    x, w, b = draw(xs), draw(ws), draw(ws[0])
    y = raw.conv(x, w, b, *statics)
    assert y.dtype == dtype
    tol = 1e-5 if dtype == "float32" else 1e-12
    if dtype != "complex128":
        np.testing.assert_allclose(y, plain(x, w, b, *statics), rtol=tol, atol=tol * 10)
    y = raw.conv(x, w, None, *statics)
    g = draw(y.shape)
    dx = raw.conv_input_grad(g, w, xs[2:], *statics)
    dw = raw.conv_weight_grad(x, g, ws[2:], *statics)
    assert dx.shape == xs and dw.shape == ws and dx.dtype == dw.dtype == dtype
    want = (y * g).sum()
    np.testing.assert_allclose((dx * x).sum(), want, rtol=tol * 100, atol=tol * 100)
    np.testing.assert_allclose((dw * w).sum(), want, rtol=tol * 100, atol=tol * 100)


@pytest.mark.parametrize("case", CASES[:10], ids=str)
def test_block_sizes_do_not_matter(rng, case, monkeypatch):
    xs, ws, *statics = case
    x, w = rng.standard_normal(xs), rng.standard_normal(ws)
    y = raw.conv(x, w, None, *statics)
    g = rng.standard_normal(y.shape)
    rows = (lambda: (raw.conv(x, w, None, *statics), raw.conv_input_grad(g, w, xs[2:], *statics),
                     raw.conv_weight_grad(x, g, ws[2:], *statics)))
    want = rows()
    million = 10 ** 6
    for size, few, small in ((1, 64, 1), (1000, 0, million), (3000, million, million), (million, 0, 1),
                             (million, 0, 3000)):
        monkeypatch.setattr(module, "_BLOCK_BYTES", size)
        monkeypatch.setattr(module, "_FEW", few)
        monkeypatch.setattr(module, "small_product", lambda small=small: small)
        for a, b in zip(want, rows()):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", [((9, 8, 33, 31), (16, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
                                  ((5, 4, 41, 37), (64, 4, 5, 5), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
                                  ((3, 8, 300), (40, 4, 9), (1,), ((4, 4),), (1,), 2),
                                  ((2, 3, 150, 160), (8, 3, 7, 7), (1, 1), ((3, 3), (3, 3)), (1, 1), 1)], ids=str)
def test_large_ones_go_by_pieces(rng, case, threads):
    """Sizes at which products are cut and shared out, with something left over; 2 MiB of patches for one sample."""
    xs, ws, *statics = case
    x, w = rng.standard_normal(xs), rng.standard_normal(ws)
    old = config.num_threads
    try:
        config.set_num_threads(threads)
        y = raw.conv(x, w, None, *statics)
        g = rng.standard_normal(y.shape)
        dx, dw = raw.conv_input_grad(g, w, xs[2:], *statics), raw.conv_weight_grad(x, g, ws[2:], *statics)
    finally:
        config.set_num_threads(old)
    at = (1, 5, *(n // 2 for n in y.shape[2:]))
    np.testing.assert_allclose(y[at], plain_point(x, w, at, statics[1]), rtol=1e-11)
    np.testing.assert_allclose(y[(-1, -1) + (-1,) * (len(xs) - 2)], plain_point(
        x, w, (xs[0] - 1, ws[0] - 1, *(n - 1 for n in y.shape[2:])), statics[1]), rtol=1e-11)
    want = (y * g).sum()
    np.testing.assert_allclose((dx * x).sum(), want, rtol=1e-9)
    np.testing.assert_allclose((dw * w).sum(), want, rtol=1e-9)


def plain_point(x, w, at, padding):
    """One element of a convolution of stride 1 without dilation, whose groups follow from the shapes."""
    n, o, *p = at
    cg = w.shape[1]
    group = o // (w.shape[0] // (x.shape[1] // cg))
    part = np.pad(x[n, group * cg:(group + 1) * cg], ((0, 0), *padding))
    return (part[(slice(None), *(slice(i, i + k) for i, k in zip(p, w.shape[2:])))] * w[o]).sum()


def test_noncontiguous_inputs(rng):
    x = rng.standard_normal((6, 5, 3, 2)).transpose(3, 2, 1, 0)
    w = rng.standard_normal((3, 3, 3, 4)).transpose(3, 0, 1, 2)
    same = raw.conv(x.copy(), w.copy(), None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    np.testing.assert_allclose(raw.conv(x, w, None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1), same)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_public_functions(rng, rank):
    size, kernel = (7, 6, 5)[:rank], (3, 2, 3)[:rank]
    x, w, b = rng.standard_normal((2, 4, *size)), rng.standard_normal((6, 2, *kernel)), rng.standard_normal(6)
    conv = getattr(raw, f"conv{rank}d")
    y = conv(x, w, b, stride=2, padding=1, groups=2)
    np.testing.assert_allclose(y, plain(x, w, b, (2,) * rank, ((1, 1),) * rank, (1,) * rank, 2), atol=1e-12)
    np.testing.assert_allclose(conv(x[0], w, b, stride=2, padding=1, groups=2), y[0], atol=1e-12)
    assert conv(x, w, padding="same", groups=2).shape == (2, 6, *size)
    np.testing.assert_allclose(conv(x, w, padding="valid", groups=2), conv(x, w, groups=2))
    back = getattr(raw, f"conv_transpose{rank}d")
    g = rng.standard_normal(y.shape)
    extra = tuple((n + 2 - k) % 2 for n, k in zip(size, kernel))
    z = back(g, w, stride=2, padding=1, output_padding=extra, groups=2)
    assert z.shape == x.shape
    y0 = conv(x, w, stride=2, padding=1, groups=2)
    np.testing.assert_allclose((z * x).sum(), (y0 * g).sum())
    bias = rng.standard_normal(4)
    np.testing.assert_allclose(back(g[0], w, bias, 2, 1, extra, 2), z[0] + bias.reshape(-1, *[1] * rank))


def test_known_values():
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    w = np.array([[[[1, 0], [0, -1]]]], np.float32)
    np.testing.assert_array_equal(raw.conv2d(x, w)[0, 0], np.full((3, 3), -5))
    np.testing.assert_array_equal(raw.conv_transpose1d(np.array([[[1.0, 2]]]), np.array([[[1.0, 10, 100]]]), stride=2),
                                  [[[1, 10, 102, 20, 200]]])


@pytest.mark.parametrize("call, error, text", [
    (lambda x, w: raw.conv2d(x[..., 0, 0], w), ShapeError, "without N"),
    (lambda x, w: raw.conv2d(x, w[0]), ShapeError, "kH, kW"),
    (lambda x, w: raw.conv2d(x, w, stride=0), ArgumentError, "at least 1"),
    (lambda x, w: raw.conv2d(x, w, stride=(1, 2, 3)), ArgumentError, "tuple of 2"),
    (lambda x, w: raw.conv2d(x, w, padding="full"), ArgumentError, "'same'"),
    (lambda x, w: raw.conv2d(x, w, padding="same", stride=2), ArgumentError, "stride 1"),
    (lambda x, w: raw.conv2d(x, w, groups=0), ArgumentError, "groups"),
    (lambda x, w: raw.conv_transpose2d(x, w, output_padding=1), ArgumentError, "output_padding"),
    (lambda x, w: raw.conv_transpose2d(x, w[:2]), ShapeError, "axis 0 of the weight"),
    (lambda x, w: raw.conv_transpose2d(x, w, padding=9), ShapeError, "less padding"),
    (lambda x, w: TABLE["conv"].check(x, w[:, :2], None, (1, 1), ((0, 0),) * 2, (1, 1), 1), ShapeError, "channels"),
    (lambda x, w: TABLE["conv"].check(x, w, None, (1, 1), ((0, 0),) * 2, (9, 1), 1), ShapeError, "covers 19"),
    (lambda x, w: TABLE["conv"].check(x, w, np.ones(9), (1, 1), ((0, 0),) * 2, (1, 1), 1), ShapeError, "bias"),
])
def test_errors_teach(call, error, text):
    with pytest.raises(error, match=text):
        call(np.ones((2, 3, 6, 6)), np.ones((3, 3, 3, 3)))


def test_rows_are_there():
    assert {"conv", "conv_input_grad", "conv_weight_grad"} <= set(TABLE)


def test_rows_take_lists():
    x, w = ag.asarray(np.arange(16.0).reshape(1, 1, 4, 4)), ag.ones((2, 1, 2, 2), dtype="float64")
    want = ag.conv2d(x, w, padding=((0, 0), (1, 0)))
    for padding in ([[0, 0], [1, 0]], ([0, 0], [1, 0])):
        got = ag.dispatch.tensors.conv(x, w, None, [1, 1], padding, [1, 1], 1)
        np.testing.assert_array_equal(got.numpy(), want.numpy())
