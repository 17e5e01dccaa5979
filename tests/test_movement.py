"""Movement, joining, padding and creation against NumPy, their gradients against what was put in, and their errors."""

import numpy as np
import pytest

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError, AxisError, OutOfMemoryError, ShapeError


def data(*shape):
    return np.arange(1.0, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def same(got, want):
    want = np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert np.array_equal(got.numpy(), want)


def adjoint(fn, x):
    """<fn(x), w> = <x, fnᵀ(w)>: the gradient of a linear function is its transpose."""
    t = ag.asarray(x, requires_grad=True)
    y = fn(t)
    w = np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    ag.sum(y * w).backward()
    assert t.grad.shape == x.shape and t.grad.dtype == x.dtype
    np.testing.assert_allclose(np.sum(y.detach().numpy() * w), np.sum(x * t.grad.numpy()), rtol=1e-4, atol=1e-4)


CASES = [
    (lambda x: ag.reshape(x, (2, -1)), lambda x: x.reshape(2, -1), (3, 4)),
    (lambda x: ag.reshape(x, ()), lambda x: x.reshape(()), (1, 1)),
    (lambda x: ag.broadcast_to(x, (2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)), (3, 1)),
    (lambda x: ag.broadcast_to(x, (100, 90)), lambda x: np.broadcast_to(x, (100, 90)), (90,)),
    (lambda x: ag.permute_dims(x, (2, 0, -2)), lambda x: x.transpose(2, 0, 1), (2, 3, 4)),
    (ag.matrix_transpose, lambda x: x.swapaxes(-1, -2), (2, 3, 4)),
    (lambda x: ag.swapaxes(x, 0, -1), lambda x: x.swapaxes(0, -1), (2, 3, 4)),
    (lambda x: ag.moveaxis(x, (0, 1), (-1, 0)), lambda x: np.moveaxis(x, (0, 1), (-1, 0)), (2, 3, 4)),
    (lambda x: ag.expand_dims(x, axis=(0, -1)), lambda x: np.expand_dims(x, (0, -1)), (2, 3)),
    (lambda x: ag.squeeze(x), np.squeeze, (1, 2, 1)),
    (lambda x: ag.squeeze(x, axis=-1), lambda x: np.squeeze(x, -1), (1, 2, 1)),
    (lambda x: ag.flatten(x, 1), lambda x: x.reshape(2, 12), (2, 3, 4)),
    (ag.ravel, np.ravel, (2, 3)),
    (ag.flip, np.flip, (2, 3)),
    (lambda x: ag.flip(x, axis=(0, -1)), lambda x: np.flip(x, (0, -1)), (2, 3, 4)),
    (lambda x: ag.roll(x, 2), lambda x: np.roll(x, 2), (2, 3)),
    (lambda x: ag.roll(x, (-1, 5), axis=(0, 1)), lambda x: np.roll(x, (-1, 5), (0, 1)), (2, 3)),
    (lambda x: ag.roll(x, 1, axis=(0, 1)), lambda x: np.roll(x, 1, (0, 1)), (2, 3)),
    *[(lambda x, k=k: ag.rot90(x, k), lambda x, k=k: np.rot90(x, k), (2, 3)) for k in range(-1, 5)],
    (lambda x: ag.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3)), (2, 3)),
    (lambda x: ag.tile(x, 2), lambda x: np.tile(x, 2), (2, 3)),
    (lambda x: ag.repeat(x, 3, axis=0), lambda x: np.repeat(x, 3, 0), (2, 3)),
    (lambda x: ag.repeat(x, [1, 0, 2], axis=1), lambda x: np.repeat(x, [1, 0, 2], 1), (2, 3)),
    (lambda x: ag.repeat(x, 2), lambda x: np.repeat(x, 2), (2, 3)),
    (lambda x: ag.diagonal(x, offset=-1), lambda x: np.diagonal(x, -1, -2, -1), (2, 4, 3)),
    (lambda x: ag.diag(x, 2), lambda x: np.diag(x, 2), (3,)),
    (lambda x: ag.diag(x, -1), lambda x: np.diag(x, -1), (3, 4)),
    (lambda x: ag.diag_embed(x), lambda x: x[..., None] * np.eye(3, dtype=x.dtype), (2, 3)),
    (lambda x: ag.tril(x, -1), lambda x: np.tril(x, -1), (2, 3, 4)),
    (lambda x: ag.triu(x, 1), lambda x: np.triu(x, 1), (3, 4)),
    (lambda x: ag.atleast_3d(x), np.atleast_3d, (3, 4)),
    (lambda x: ag.atleast_2d(x), np.atleast_2d, (3,)),
    (lambda x: ag.concat([x, x[:, :1]], axis=-1), lambda x: np.concatenate([x, x[:, :1]], -1), (2, 3)),
    (lambda x: ag.concat([x, x], axis=None), lambda x: np.concatenate([x, x], None), (2, 3)),
    (lambda x: ag.stack([x, x, x], axis=-1), lambda x: np.stack([x, x, x], -1), (2, 3)),
    (lambda x: ag.stack(ag.unstack(x, axis=1)), lambda x: x.T.copy(), (3, 11)),
    (lambda x: ag.split(x, [1, 1, 4], axis=1)[2], lambda x: np.split(x, [1, 1, 4], 1)[2], (2, 5)),
    *[(lambda x, m=m: ag.pad(x, ((1, 2), (0, 3)), mode=m), lambda x, m=m: np.pad(x, ((1, 2), (0, 3)), m), (3, 4))
      for m in ("constant", "reflect", "symmetric", "edge", "wrap")],
    (lambda x: ag.pad(x, 5, mode="reflect"), lambda x: np.pad(x, 5, "reflect"), (3,)),
]


@pytest.mark.parametrize("fn, reference, shape", CASES)
def test_values_as_numpy_and_gradient_as_transpose(fn, reference, shape):
    x = data(*shape)
    same(fn(ag.asarray(x)), reference(x))
    adjoint(fn, x)


def test_pad_forms():
    x = data(2, 3)
    same(ag.pad(ag.asarray(x), (1, 2), constant_values=7), np.pad(x, (1, 2), constant_values=7))
    same(ag.pad(ag.asarray(x), {-1: (1, 0)}), np.pad(x, ((0, 0), (1, 0))))
    same(ag.pad(ag.asarray(x), 1, mode="replicate"), np.pad(x, 1, "edge"))
    same(ag.pad(ag.asarray(x), 1, mode="circular"), np.pad(x, 1, "wrap"))
    assert np.isneginf(ag.pad(ag.asarray(x), 1, constant_values=-np.inf).numpy()[0, 0])


def test_splitting():
    x = data(7, 2)
    t = ag.asarray(x)
    for got, want in ((ag.array_split(t, 3), np.array_split(x, 3)), (ag.split(t, [2, 5]), np.split(x, [2, 5])),
                      (ag.split(t, [5, 2]), np.split(x, [5, 2])), (ag.split(t, [-2, 90]), np.split(x, [-2, 90])),
                      (ag.split(t, 7), np.split(x, 7)), (ag.chunk(t, 3), [x[:3], x[3:6], x[6:]]),
                      (ag.chunk(t, 5), [x[:2], x[2:4], x[4:6], x[6:]]), (ag.unstack(t), list(x))):
        assert len(got) == len(want)
        for g, w in zip(got, want):
            same(g, w)
    assert ag.unstack(ag.zeros((0, 3))) == ()


def test_gradient_through_some_of_the_parts():
    x = ag.asarray(data(9, 2), requires_grad=True)
    rows = ag.unstack(x)
    (ag.sum(rows[2]) + 3 * ag.sum(rows[8] * rows[8])).backward()
    want = np.zeros((9, 2), np.float32)
    want[2] = 1
    want[8] = 6 * x.detach().numpy()[8]
    assert np.allclose(x.grad.numpy(), want)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 11, 21, 70])
def test_pieces_and_their_gradients(n):
    x = data(2, 2 * n)
    t = ag.asarray(x, requires_grad=True)
    parts = ag.split(t, n, axis=1)
    for got, want in zip(parts, np.split(x, n, 1), strict=True):
        same(got.detach(), want)
    sum((i + 1) * p for i, p in enumerate(parts)).sum().backward()
    same(t.grad, np.repeat(np.arange(1, n + 1, dtype=np.float32), 2) * np.ones((2, 1), np.float32))
    t.grad = None
    uneven = ag.split(t, sorted({0, 1, n, 2 * n - 1}), axis=1)  # some are empty, and one of them is not used
    sum((i + 1) * (p * p).sum() for i, p in enumerate(uneven[:-1])).backward()
    scale = np.concatenate([np.full(p.shape, i + 1.0, np.float32) for i, p in enumerate(uneven)], 1)
    scale[:, 2 * n - 1:] = 0
    assert np.allclose(t.grad.numpy(), 2 * scale * x)


def test_the_gates_of_a_layer_are_one_node():
    gates = ag.split(ag.ones(2, 8, requires_grad=True) * 1, 4, axis=1)
    assert len({g._node.source for g in gates}) == 1


def test_joining_promotes_and_keeps_dtypes():
    assert ag.concat([ag.zeros(2, dtype="int32"), ag.zeros(1)]).dtype == np.float32
    assert ag.stack([ag.zeros(2, dtype="float64"), ag.zeros(2)]).dtype == np.float64
    assert ag.concat([ag.zeros(2, dtype="bfloat16"), ag.zeros(1, dtype="bfloat16")]).dtype == ag.bfloat16
    same(ag.stack([ag.asarray(1.0), 2.0]), np.float32([1, 2]))


def test_meshgrid_and_broadcast_arrays():
    a, b, c = data(2), data(3), data(4)
    for indexing in ("xy", "ij"):
        got = ag.meshgrid(*map(ag.asarray, (a, b, c)), indexing=indexing)
        for g, w in zip(got, np.meshgrid(a, b, c, indexing=indexing)):
            same(g, w)
    for g, w in zip(ag.broadcast_arrays(ag.asarray(a), ag.asarray(data(3, 1))), np.broadcast_arrays(a, data(3, 1))):
        same(g, w)


def test_values_do_not_change_under_a_view():
    x = ag.asarray(data(2, 3))
    y = ag.reshape(x, (3, 2))
    x += 1
    same(y, data(3, 2))


@pytest.mark.parametrize("call, error, words", [
    (lambda x: ag.reshape(x, (5, 3)), ShapeError, ["float32[3, 4]", "12", "15"]),
    (lambda x: ag.reshape(x, (-1, -1)), ShapeError, ["only one"]),
    (lambda x: ag.reshape(x, (-1, 5)), ShapeError, ["12", "5"]),
    (lambda x: ag.reshape(x, (-2, 6)), ShapeError, ["negative"]),
    (lambda x: ag.reshape(x, (0, -1)), ShapeError, ["0"]),
    (lambda x: ag.reshape(x, (3.5, 2)), ArgumentTypeError, ["3.5"]),
    (lambda x: ag.broadcast_to(x, (4, 3)), ShapeError, ["float32[3, 4]", "(4, 3)"]),
    (lambda x: ag.broadcast_to(x, (4,)), ShapeError, ["float32[3, 4]"]),
    (lambda x: ag.permute_dims(x, (0, 0)), AxisError, ["twice"]),
    (lambda x: ag.permute_dims(x, (0,)), AxisError, ["every axis"]),
    (lambda x: ag.permute_dims(x, (0, 2)), AxisError, ["2", "-2 to 1"]),
    (lambda x: ag.matrix_transpose(x[0]), ShapeError, ["None"]),
    (lambda x: ag.squeeze(x, axis=1), ShapeError, ["size 4"]),
    (lambda x: ag.squeeze(x, axis=5), AxisError, ["axis=5"]),
    (lambda x: ag.expand_dims(x, axis=4), AxisError, ["axis=4"]),
    (lambda x: ag.flip(x, axis=2), AxisError, ["axis=2"]),
    (lambda x: ag.roll(x, (1, 2, 3), axis=(0, 1)), ArgumentError, ["3 shifts"]),
    (lambda x: ag.repeat(x, [1, 2], axis=0), ShapeError, ["3"]),
    (lambda x: ag.repeat(x, -1, axis=0), ShapeError, ["-1"]),
    (lambda x: ag.concat([x, x[:, :2]]), ShapeError, ["arrays[1]", "axis 0"]),
    (lambda x: ag.concat([]), ArgumentError, ["empty"]),
    (lambda x: ag.concat(x), ArgumentTypeError, ["list"]),
    (lambda x: ag.concat([x[0, 0], x[0, 0]]), ShapeError, ["stack"]),
    (lambda x: ag.stack([x, x[0]]), ShapeError, ["arrays[1]"]),
    (lambda x: ag.stack([x], axis=3), AxisError, ["axis=3"]),
    (lambda x: ag.split(x, 2), ShapeError, ["array_split"]),
    (lambda x: ag.split(x, 0), ShapeError, ["0 equal parts"]),
    (lambda x: ag.chunk(x, 0), ArgumentError, ["chunks=0"]),
    (lambda x: ag.pad(x, 1, mode="mirror"), ArgumentError, ["reflect"]),
    (lambda x: ag.pad(x, ((1, 1),) * 3), ArgumentError, ["3", "2 axes"]),
    (lambda x: ag.pad(x, -1), ShapeError, ["-1"]),
    (lambda x: ag.pad(x[:0], 1, mode="edge"), ShapeError, ["constant"]),
    (lambda x: ag.diagonal(x, axis1=0, axis2=0), AxisError, ["same axis"]),
    (lambda x: ag.diagonal(x[0]), ShapeError, ["two axes"]),
    (lambda x: ag.diag(x[None]), ShapeError, ["diagonal"]),
    (lambda x: ag.tril(x[0]), ShapeError, ["two axes"]),
    (lambda x: ag.tile(x, (-1,)), ShapeError, ["-1"]),
    (lambda x: ag.meshgrid(x), ShapeError, ["1-d"]),
    (lambda x: ag.meshgrid(x[0], indexing="ab"), ArgumentError, ["'ij'"]),
    (lambda x: ag.moveaxis(x, 0, (0, 1)), ArgumentError, ["source"]),
    (lambda x: ag.flatten(x, 1, 0), AxisError, ["after"]),
])
def test_errors_teach(call, error, words):
    with pytest.raises(error) as caught:
        call(ag.asarray(data(3, 4)))
    for word in words:
        assert word in str(caught.value)
    assert "test_movement.py" in str(caught.value)


# --------------------------------------------------------------------------------------------------------- creation
def test_creation_as_numpy():
    same(ag.zeros((2, 3)), np.zeros((2, 3), np.float32))
    same(ag.ones(3, dtype="int16"), np.ones(3, np.int16))
    same(ag.full((2,), 3), np.full(2, 3))
    same(ag.full((2,), 1.5), np.full(2, 1.5, np.float32))
    same(ag.full((2,), True), np.full(2, True))
    same(ag.eye(3, 4, k=1), np.eye(3, 4, 1, dtype=np.float32))
    same(ag.arange(5), np.arange(5))
    same(ag.arange(1, 2, 0.1), np.arange(1, 2, 0.1).astype(np.float32))
    same(ag.arange(5, 0, -2), np.arange(5, 0, -2))
    same(ag.arange(3, 1), np.arange(3, 1))
    same(ag.arange(3, dtype="float32"), np.arange(3, dtype=np.float32))
    same(ag.linspace(0, 1, 7), np.linspace(0, 1, 7).astype(np.float32))
    same(ag.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False).astype(np.float32))
    same(ag.tri(3, 4, 1), np.tri(3, 4, 1, dtype=np.float32))
    x = ag.zeros((2, 0), dtype="int8")
    same(ag.ones_like(x), np.ones((2, 0), np.int8))
    same(ag.zeros_like(x, dtype="float64"), np.zeros((2, 0)))
    assert ag.empty((2, 3)).shape == (2, 3)


@pytest.mark.parametrize("call, error, words", [
    (lambda: ag.zeros((2, -3)), ShapeError, ["-3"]),
    (lambda: ag.zeros((10**6, 10**6)), OutOfMemoryError, ["GB"]),
    (lambda: ag.full((10**30,), 1.0), OutOfMemoryError, ["GB"]),
    (lambda: ag.tile(ag.ones(3), (10**9, 10**9)), OutOfMemoryError, ["tile", "GB"]),
    (lambda: ag.repeat(ag.ones(3), 10**15), OutOfMemoryError, ["repeat", "GB"]),
    (lambda: ag.eye(10**7), OutOfMemoryError, ["GB"]),
    (lambda: ag.arange(10**15), OutOfMemoryError, ["GB"]),
    (lambda: ag.zeros(("a",)), ArgumentTypeError, ["'a'"]),
    (lambda: ag.zeros((2,), dtype="float12"), ArgumentTypeError, ["float12"]),
    (lambda: ag.arange(0, 1, 0), ArgumentError, ["step"]),
    (lambda: ag.arange(float("inf")), ArgumentError, ["finite"]),
    (lambda: ag.linspace(0, 1, -1), ShapeError, ["-1"]),
])
def test_creation_errors_teach(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_nothing_in_chunks():
    assert [c.shape for c in ag.chunk(ag.zeros((0, 2)), 3)] == [(0, 2)] * 3
    assert [c.shape for c in ag.chunk(ag.zeros(7), 3)] == [(3,), (3,), (1,)]
