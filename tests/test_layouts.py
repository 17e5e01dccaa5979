"""Large arrays whose axes lie in another order, windows as large as the image, and what is counted: against NumPy."""

import numpy as np
import pytest

import agog as ag
import agog.nn.functional as f
from agog import nn
from agog.array import large


@pytest.fixture(params=["NumPy", "native"], autouse=True)
def kernels(request, monkeypatch):
    if request.param == "native":
        from agog.compiler import eager

        def at_once(make, *key):
            try:
                make(*key)
            except Exception:
                pass

        monkeypatch.setattr(eager, "_request", at_once)
        eager.enable()
    else:
        for name in ("accelerate", "stretched"):
            monkeypatch.setattr(large, name, None)
        for name in ("ready", "kernels"):
            monkeypatch.setattr(large, name, {})


@pytest.mark.parametrize("shape, axes", [((300, 400), (1, 0)), ((20, 60, 100), (2, 0, 1)), ((20, 60, 100), (0, 2, 1))])
def test_arithmetic_of_permuted_arrays_keeps_their_layout(shape, axes, rng):
    x, y = (rng.standard_normal(shape).astype(np.float32) + 3 for _ in range(2))
    a, b = (ag.permute_dims(ag.asarray(v), axes) for v in (x, y))
    u, v = x.transpose(axes), y.transpose(axes)
    for _ in range(2):
        pairs = (a + 0.5, u + np.float32(0.5)), (2 - a, 2 - u), (a / b, u / v), (a * a, u * u), (a > b, u > v)
        for got, want in pairs:
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)
            assert got.numpy().strides == want.strides
        whole = ag.asarray(np.ascontiguousarray(v))  # beside one that lies in the order of its axes
        np.testing.assert_allclose((a - whole).numpy(), u - v, rtol=1e-6, atol=1e-6)


SLICES = [np.s_[:, 1:], np.s_[::2], np.s_[1:, :-3], np.s_[::-1], np.s_[:, ::2], np.s_[:, 5:6], np.s_[3:4]]


@pytest.mark.parametrize("index", SLICES)
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_arithmetic_of_slices(index, dtype, rng):
    x = rng.integers(-99, 99, (901, 322)).astype(dtype)
    a, u = ag.asarray(x)[index], x[index]
    for _ in range(2):
        if dtype == "bool":
            pairs = [(a & a, u & u), (a ^ ag.asarray(x[:1, :1]), u ^ x[:1, :1])]
        else:
            number, one, row = u.dtype.type(2), x[:1, :1], x[7][index[1:]] if type(index) is tuple else x[7]
            pairs = [(a + a, u + u), (a - 2, u - number), (2 - a, number - u), (-a, -u), (abs(a), abs(u)),
                     (a > 1, u > 1), (a * ag.asarray(one), u * one), (a + ag.asarray(row), u + row)]
        for got, want in pairs:
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("first, second", [
    ((1000, 1), (1, 1000)), ((900,), (900, 1)), ((300, 1, 16), (1, 310, 16)), ((700,), (200, 700)),
])
def test_large_results_of_small_arrays_are_one_loop(first, second, rng, monkeypatch):
    x, y = (rng.standard_normal(s).astype(np.float32) for s in (first, second))
    seen, before = [], large.stretched
    if before is not None:
        monkeypatch.setattr(large, "stretched", lambda *args: seen.append(before(*args)) or seen[-1])
    for a, b in ((x, y), (y, x)):
        np.testing.assert_array_equal((ag.asarray(a) - ag.asarray(b)).numpy(), a - b)
        np.testing.assert_array_equal((ag.asarray(a) > ag.asarray(b)).numpy(), a > b)
    ag.asarray(x) - ag.asarray(y)
    assert before is None or seen[-1] is not None, "NumPy did it"


@pytest.mark.parametrize("lead", [(5,), (2, 3), (7, 2), (1, 4), (3, 1), (2, 1, 3)])
@pytest.mark.parametrize("sizes", [(40, 33, 64), (1, 200, 300), (300, 200, 1), (70, 1, 90), (8, 8, 8)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_many_matrices(lead, sizes, dtype, rng):
    """Whole ones, transposed, heads of attention, slices, and one for all."""
    m, k, n = sizes
    x, y = rng.standard_normal((*lead, m, k)), rng.standard_normal((*lead, k, n))
    ways = [lambda v: v, lambda v: v.swapaxes(-1, -2).copy().swapaxes(-1, -2), lambda v: np.concatenate([v, v], -1)[
        ..., 1:1 + v.shape[-1]], lambda v: v.swapaxes(0, -2).copy().swapaxes(0, -2), lambda v: v[:1]]
    for _ in range(2):
        for way in ways:
            for a, b in ((way(x), way(y)), (way(x), y), (x, way(y))):
                got = ag.matmul(*[ag.from_numpy(v.astype(dtype)) for v in (a, b)])
                assert got.dtype == dtype
                np.testing.assert_allclose(got.numpy(), a @ b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_joining_along_any_axis(axis, dtype, rng):
    lengths = [40, 1, 0, 33]
    shapes = [(60, 30, 50)[:axis % 3] + (n,) + (60, 30, 50)[axis % 3 + 1:] for n in lengths]
    arrays = [rng.integers(-9, 9, s).astype(ag.asarray(0, dtype=dtype).dtype) for s in shapes]
    whole = np.concatenate(arrays, axis)
    for _ in range(2):
        got = ag.concat([ag.asarray(a) for a in arrays], axis=axis)
        assert got.dtype == whole.dtype
        np.testing.assert_array_equal(got.numpy(), whole)
        stacked = ag.stack([ag.asarray(arrays[0])] * 3, axis=axis)
        np.testing.assert_array_equal(stacked.numpy(), np.stack([arrays[0]] * 3, axis))


def test_joining_what_does_not_fit(rng):
    x, y = ag.zeros((300, 200)), ag.zeros((300, 201))
    for axis in (0, -2):
        with pytest.raises(ag.errors.ShapeError, match="all sizes but that of axis 0"):
            ag.concat([x, y], axis=axis)
    with pytest.raises(ag.errors.AxisError):
        ag.concat([x, y], axis=2)
    np.testing.assert_array_equal(ag.concat([x.T, y.T], axis=0).numpy(), np.zeros((401, 300)))


@pytest.mark.parametrize("mask", [(90, 130), (1, 130), (90, 1), (7, 1, 130), (7, 90, 130)])
@pytest.mark.parametrize("other", ["number", "column", "slice"])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_where_with_a_mask_that_is_stretched(mask, other, dtype, rng):
    c, x = rng.random(mask) > 0.5, rng.integers(-9, 9, (7, 90, 130)).astype(dtype)
    y = {"number": 3, "column": x[:, :, :1], "slice": np.concatenate([x, x], axis=2)[:, :, 5:135]}[other]
    z = y if other == "number" else ag.asarray(np.concatenate([x, x], axis=2))[:, :, 5:135] if other == "slice" else (
        ag.asarray(y))
    for _ in range(2):
        for a, b, u, v in ((ag.asarray(x), z, x, y), (z, ag.asarray(x), y, x)):
            got, want = ag.where(ag.asarray(c), a, b), np.where(c, u, v)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (0, 2, 1), (2, 1, 0)])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (2, 0), (-1, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_of_permuted_arrays(axes, axis, keepdims, rng):
    x = rng.standard_normal((30, 21, 34)).astype(np.float32)
    a, u = ag.permute_dims(ag.asarray(x), axes), x.transpose(axes).astype(np.float64)
    for _ in range(2):
        for name in ("sum", "mean", "max", "min"):
            got = getattr(ag, name)(a, axis=axis, keepdims=keepdims)
            want = getattr(u, name)(axis=axis, keepdims=keepdims)
            assert got.shape == want.shape and got.dtype == np.float32
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape", [(200, 131), (4097, 1), (3, 5)])
def test_how_many_are_true(axis, keepdims, shape, rng):
    x = rng.standard_normal(shape) > 0.3
    for y, z in ((ag.asarray(x), x), (ag.asarray(x).T, x.T)):
        got, want = ag.sum(y, axis=axis, keepdims=keepdims), z.sum(axis=axis, keepdims=keepdims)
        assert got.dtype == np.int64 and got.shape == want.shape
        np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("shape, axis", [((300, 300), 0), ((300, 300), 1), ((10, 70, 100), 1), ((90, 30, 40), 0)])
def test_softmax_along_any_axis(shape, axis, rng):
    x = rng.standard_normal(shape).astype(np.float32) * 9
    e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    want = e / e.sum(axis, keepdims=True)
    for _ in range(2):
        np.testing.assert_allclose(f.softmax(ag.asarray(x), axis=axis).numpy(), want, rtol=2e-5, atol=1e-12)
        np.testing.assert_allclose(f.log_softmax(ag.asarray(x), axis=axis).numpy(), np.log(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", [
    lambda x: f.adaptive_avg_pool2d(x, 1), lambda x: f.adaptive_avg_pool2d(x, (2, 1)),
    lambda x: f.avg_pool2d(x, (8, 6)),
    lambda x: f.avg_pool2d(x, 3, stride=2, padding=1), lambda x: f.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    lambda x: f.avg_pool2d(x, 3, ceil_mode=True), lambda x: f.avg_pool2d(x, 7, 1), lambda x: f.avg_pool2d(x, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_averages_of_windows_in_programs(call, dtype, rng):
    x = ag.asarray(rng.standard_normal((2, 3, 16, 12)), dtype=dtype)
    loss = lambda x: (call(x) * call(x)).sum()
    staged, slope = ag.function(call), ag.function(ag.grad(loss))
    tol = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 3e-2, "atol": 3e-2}
    as64 = lambda t: t.numpy().astype(np.float64)
    for _ in range(3):
        np.testing.assert_allclose(as64(staged(x)), as64(call(x)), **tol)
        np.testing.assert_allclose(as64(slope(x)), as64(ag.grad(loss)(x)), **tol)


def test_the_mean_of_an_image_is_in_the_program():
    staged = ag.function(lambda x: ag.relu(f.adaptive_avg_pool2d(ag.relu(x), 1)))
    x = ag.ones((2, 3, 16, 16))
    for _ in range(3):
        staged(x)
    assert "1 native calls, 0 islands" in staged.explain(x)


def test_group_norm_is_one_nest(rng):
    norm = nn.GroupNorm(2, 4)
    norm.weight.assign(rng.standard_normal(4).astype(np.float32))
    norm.bias.assign(rng.standard_normal(4).astype(np.float32))
    x = rng.standard_normal((3, 4, 5, 7)).astype(np.float32)
    rows = x.reshape(3, 2, -1).astype(np.float64)
    want = ((rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + 1e-5)).reshape(x.shape)
    want = want * norm.weight.detach().numpy()[:, None, None] + norm.bias.detach().numpy()[:, None, None]
    staged = ag.function(lambda x: norm(x))
    for _ in range(3):
        np.testing.assert_allclose(staged(ag.asarray(x)).detach().numpy(), want, rtol=1e-4, atol=1e-5)
    assert "nest1" not in staged.explain(ag.asarray(x))


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (1, 2, 7, 5)])
@pytest.mark.parametrize("options", [
    {"scale_factor": 2}, {"scale_factor": 3}, {"size": (5, 13)}, {"scale_factor": 1.7}, {"size": (4, 5)},
    {"scale_factor": 2, "mode": "bilinear"}, {"size": (20, 7), "mode": "bilinear"}, {"size": 1, "mode": "bilinear"},
    {"size": (20, 7), "mode": "bilinear", "align_corners": True}, {"scale_factor": 2, "mode": "nearest-exact"}])
def test_resizing_in_programs(shape, options, rng):
    x = ag.asarray(rng.standard_normal(shape).astype(np.float32))
    call = lambda x: ag.relu(f.interpolate(ag.tanh(x), **options))
    loss = lambda x: (call(x) * call(x)).sum()
    staged, slope = ag.function(call), ag.function(ag.grad(loss))
    for _ in range(3):
        np.testing.assert_allclose(staged(x).numpy(), call(x).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(slope(x).numpy(), ag.grad(loss)(x).numpy(), rtol=1e-4, atol=1e-5)
    assert "0 islands" in staged.explain(x)


def test_resizing_in_programs_keeps_infinity_where_it_is():
    x = np.ones((1, 1, 4, 4), np.float32)
    x[0, 0, 1, 1], x[0, 0, 3, 3] = np.inf, np.nan
    for options in ({"scale_factor": 2}, {"size": (7, 7), "align_corners": True}, {"size": (4, 4)}):
        staged = ag.function(lambda x, options=options: f.interpolate(x, mode="bilinear", **options))
        for _ in range(3):
            np.testing.assert_array_equal(np.isfinite(staged(ag.asarray(x)).numpy()),
                                          np.isfinite(f.interpolate(ag.asarray(x), mode="bilinear", **options).numpy()))
