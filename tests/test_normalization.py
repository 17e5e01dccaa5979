"""Normalisations against their formulas in float64; derivatives, dtypes and batching are checked by test_rows."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.dispatch import tensors as xp
from agog.errors import AgogError, ArgumentError, AxisError, ShapeError
from agog.ops import blocks


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def close(got, want, tol=1e-12):
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=tol, atol=tol)


def standardized(x, axes, eps=1e-5, centered=True):
    xc = x - x.mean(axes, keepdims=True) if centered else x
    return xc / np.sqrt((xc * xc).mean(axes, keepdims=True) + eps)


@pytest.mark.parametrize("shape, normal", [((4, 6), 6), ((2, 3, 4), (3, 4)), ((5,), 5), ((2, 3, 1), (1,))])
def test_layer_norm(rng, shape, normal):
    x = rng.standard_normal(shape) * 3 + 2
    n = 1 if isinstance(normal, int) else len(normal)
    w, b = rng.standard_normal((2, *shape[-n:]))
    axes = tuple(range(-n, 0))
    a = [ag.asarray(v) for v in (x, w, b)]
    close(xp.layer_norm(*a[:1], normal), standardized(x, axes))
    close(xp.layer_norm(a[0], normal, a[1], eps=0.1), standardized(x, axes, 0.1) * w)
    close(xp.layer_norm(a[0], normal, a[1], a[2]), standardized(x, axes) * w + b)
    close(xp.layer_norm(a[0], normal, None, a[2]), standardized(x, axes) + b)
    close(xp.rms_norm(a[0], normal, a[1], 1e-3), standardized(x, axes, 1e-3, False) * w)
    assert xp.layer_norm(ag.asarray(x.astype("f4")), normal).dtype == "float32"


def test_a_constant_row_and_a_large_mean():
    x = ag.asarray(np.full((2, 8), 3.0, np.float32), requires_grad=True)
    y = xp.layer_norm(x, 8)
    y.sum().backward()
    assert not y.detach().numpy().any() and np.isfinite(x.grad.numpy()).all()
    big = np.random.default_rng(0).standard_normal((4, 1000)) + 1000
    got = xp.layer_norm(ag.asarray(big.astype("f4")), 1000).numpy()
    np.testing.assert_allclose(got, standardized(big.astype("f4").astype("f8"), (-1,)), atol=2e-3)


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_do_not_matter(rng, monkeypatch, block, threads):
    x, w, b = (ag.asarray(v, requires_grad=True) for v in (
        rng.standard_normal((40, 5)), rng.standard_normal(5), rng.standard_normal(5)))
    g = ag.asarray(rng.standard_normal((40, 5)))

    def run():
        for t in (x, w, b):
            t.grad = None
        y = xp.layer_norm(x, 5, w, b)
        (y * g).sum().backward()
        return [v.detach().numpy().copy() for v in (y, x.grad, w.grad, b.grad)]
    want = run()
    old = config.num_threads
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(blocks.large, "THRESHOLD", 1)
    try:
        config.set_num_threads(threads)
        for a, e in zip(run(), want):
            np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)
    finally:
        config.set_num_threads(old)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 2)])
def test_batch_norm(rng, shape):
    x, w, b, m, v = rng.standard_normal(shape) * 2 + 1, *rng.standard_normal((3, 3)), rng.uniform(0.5, 2, 3)
    axes, tail = (0, *range(2, len(shape))), (3, *[1] * (len(shape) - 2))
    a = [ag.asarray(t) for t in (x, m, v, w, b)]
    y, m1, v1 = xp.batch_norm(*a, training=True, momentum=0.3)
    close(y, standardized(x, axes) * w.reshape(tail) + b.reshape(tail))
    close(m1, 0.7 * m + 0.3 * x.mean(axes))
    close(v1, 0.7 * v + 0.3 * x.var(axes, ddof=1))
    y, m2, v2 = xp.batch_norm(*a)
    close(y, (x - m.reshape(tail)) / np.sqrt(v.reshape(tail) + 1e-5) * w.reshape(tail) + b.reshape(tail))
    assert m2 is a[1] and v2 is a[2]
    y, none, _ = xp.batch_norm(a[0], training=True)
    close(y, standardized(x, axes))
    assert none is None
    last, mean, var = xp.batch_norm_train(ag.asarray(np.moveaxis(x, 1, -1)), a[3], a[4], axis=-1)
    close(last, np.moveaxis(standardized(x, axes) * w.reshape(tail) + b.reshape(tail), 1, -1))
    close(mean, x.mean(axes))
    close(var, x.var(axes))


def test_group_and_instance_norm(rng):
    x, w, b = rng.standard_normal((2, 6, 4, 3)), *rng.standard_normal((2, 6))
    a = [ag.asarray(v) for v in (x, w, b)]
    groups = standardized(x.reshape(2, 3, -1), (-1,)).reshape(x.shape)
    close(xp.group_norm(a[0], 3, a[1], a[2]), groups * w[:, None, None] + b[:, None, None])
    close(xp.instance_norm(a[0], a[1]), standardized(x, (2, 3)) * w[:, None, None])


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_local_response_norm(rng, size):
    x = rng.standard_normal((2, 5, 3))
    want = np.empty_like(x)
    for c in range(5):
        near = x[:, max(0, c - size // 2):c + (size - 1) // 2 + 1]
        want[:, c] = x[:, c] / (2 + 0.5 / size * (near ** 2).sum(1)) ** 0.75
    close(xp.local_response_norm(ag.asarray(x), size, 0.5, 0.75, 2), want)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, np.inf])
def test_normalize(rng, p):
    x = rng.standard_normal((3, 4))
    close(xp.normalize(ag.asarray(x), p), x / np.linalg.norm(x, p, axis=1, keepdims=True))
    zero = ag.asarray(np.zeros((1, 3), np.float32), requires_grad=True)
    y = xp.normalize(zero, p)
    assert not y.detach().numpy().any()
    if p == 2:
        y.sum().backward()
        assert np.isfinite(zero.grad.numpy()).all()


def test_nothing_to_normalise():
    assert xp.layer_norm(ag.asarray(np.zeros((0, 3))), 3).shape == (0, 3)
    x = ag.asarray(np.zeros((0, 3)), requires_grad=True)
    w = ag.asarray(np.ones(3), requires_grad=True)
    xp.layer_norm(x, 3, w).sum().backward()
    assert x.grad.shape == (0, 3) and not w.grad.numpy().any()
    assert xp.instance_norm(ag.asarray(np.zeros((2, 0, 3)))).shape == (2, 0, 3)


@pytest.mark.parametrize("call, error, text", [
    (lambda x: xp.layer_norm(x, 5), ShapeError, "must end with exactly these sizes"),
    (lambda x: xp.layer_norm(x, ()), ShapeError, "normalized_shape"),
    (lambda x: xp.layer_norm(x, 4, x[0, 0, :2]), ShapeError, "weight has shape"),
    (lambda x: xp.layer_norm(ag.asarray(np.ones((2, 0))), 0), ShapeError, "no elements"),
    (lambda x: xp.batch_norm(x[0, 0]), ShapeError, r"\(N, C\)"),
    (lambda x: xp.batch_norm(x), ArgumentError, "running_mean"),
    (lambda x: xp.batch_norm(x, x[0, 0], x[0, 0]), ShapeError, "running_mean has shape"),
    (lambda x: xp.batch_norm(x[:1, :, 0], training=True), ShapeError, "one value per channel"),
    (lambda x: xp.batch_norm_train(x, x[0, 0], None), ShapeError, "weight has shape"),
    (lambda x: xp.batch_norm_train(x, None, None, axis=7), AxisError, "no such axis"),
    (lambda x: xp.batch_norm_train(x[:0], None, None), ShapeError, "training=False"),
    (lambda x: xp.group_norm(x, 2), ArgumentError, "do not divide into 2 groups"),
    (lambda x: xp.group_norm(x, 3, x[0, 0]), ShapeError, "each of the 3 channels"),
    (lambda x: xp.instance_norm(x[0]), ShapeError, "at least one axis"),
    (lambda x: xp.local_response_norm(x, 0), ArgumentError, "at least 1"),
    (lambda x: xp.normalize(x, 0), ArgumentError, "positive"),
])
def test_errors_teach(call, error, text):
    with pytest.raises(error, match=text) as info:
        call(ag.asarray(np.ones((2, 3, 4))))
    assert isinstance(info.value, AgogError)
