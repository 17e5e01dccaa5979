"""The quick ways of eager code, where nothing needs a gradient: they give and refuse what the general ways do."""

import numpy as np
import pytest

import agog as ag
from agog.errors import AgogError

BAD = [
    lambda x: ag.reshape(x, (2, -3)),
    lambda x: ag.reshape(x, (-1, -1)),
    lambda x: ag.reshape(x, (5,)),
    lambda x: ag.reshape(x, (2.0, 6)),
    lambda x: ag.reshape(x, None),
    lambda x: x.reshape(7, -1),
    lambda x: ag.reshape(x, ()),
    lambda x: ag.permute_dims(x, (0, 0)),
    lambda x: ag.permute_dims(x, (0,)),
    lambda x: ag.permute_dims(x, (0, 2)),
    lambda x: ag.permute_dims(x, None),
    lambda x: ag.permute_dims(x, (1.0, 0)),
    lambda x: ag.permute_dims(x, 1),
    lambda x: x[0].T,
    lambda x: ag.broadcast_to(x, (3, 5)),
    lambda x: ag.broadcast_to(x, (4,)),
    lambda x: ag.broadcast_to(x, (-1, 3, 4)),
    lambda x: ag.broadcast_to(x[0, 0], (-1,)),
    lambda x: ag.broadcast_to(x, (3.0, 4)),
    lambda x: x[3],
    lambda x: x[0, 0, 0],
    lambda x: x[..., ..., 0],
    lambda x: x[::0],
    lambda x: x["a"],
    lambda x: x[1.0],
    lambda x: x[ag.asarray([0.5])],
    lambda x: x[ag.asarray([0, 3])],
    lambda x: x[ag.asarray([True, False])],
    lambda x: x[1.0:2],
    lambda x: ag.stack([x, x[:2]]),
    lambda x: ag.stack([x, x], axis=3),
    lambda x: ag.stack([]),
    lambda x: ag.stack(x[0, 0]),
    lambda x: ag.concat([x, x[:, :2]]),
    lambda x: ag.concat([x, x[0]]),
    lambda x: ag.concat([x[0, 0], x[0, 0]]),
    lambda x: ag.concat([x, x], axis=2),
    lambda x: ag.concat([]),
    lambda x: ag.concat([x, "a"]),
    lambda x: float(x),
    lambda x: bool(x),
    lambda x: x.item(),
    lambda x: ag.arange(1, 5, 0),
    lambda x: ag.max_pool2d(x[None], 5),
    lambda x: ag.max_pool2d(x[None], 2, padding=2),
    lambda x: ag.max_pool2d(x[None], 0),
    lambda x: ag.embedding(ag.asarray([0, 3]), x),
    lambda x: ag.embedding(ag.asarray([-1]), x),
    lambda x: x[0] @ x[0, :2],
    lambda x: x @ x[0, :2],
    lambda x: ag.cumsum(x, axis=2),
    lambda x: ag.cumulative_sum(x, axis=-3),
    lambda x: ag.cumulative_sum(x),
    lambda x: ag.cumsum(ag.broadcast_to(x, (99, 3, 4)), axis=3),
    lambda x: ag.softmax(x, axis=2),
    lambda x: ag.softmax(ag.broadcast_to(x, (99, 3, 4)), axis=3),
    lambda x: ag.log_softmax(ag.broadcast_to(x, (99, 3, 4)), axis=-4),
    lambda x: ag.linalg.vector_norm(x, ord="fro"),
    lambda x: ag.unstack(x, axis=2),
    lambda x: ag.unstack(x[0, 0]),
    lambda x: ag.zeros((2, -1)),
    lambda x: ag.zeros((2.0, 1)),
    lambda x: ag.zeros((1 << 40, 1 << 20)),
    lambda x: ag.asarray([1.0, "a"]),
    lambda x: ag.asarray([[1.0], [1.0, 2.0]]),
    lambda x: ag.einsum("ij,jk->ik", x, x),
    lambda x: ag.einsum("ij,jk->il", x, x.T),
    lambda x: ag.conv2d(x[None, None], ag.ones(1, 2, 1, 1)),
    lambda x: ag.conv2d(x[None, None], ag.ones(1, 1, 5, 5)),
    lambda x: ag.conv2d(x[None, None], ag.ones(1, 1, 2, 2), stride=0),
    lambda x: ag.conv2d(x[None, None], ag.ones(1, 1, 2, 2), stride=1.0),
    lambda x: ag.conv2d(x[None, None], ag.ones(2, 1, 2, 2), ag.ones(3)),
    lambda x: ag.max_pool2d(x[None], 2.0),
]


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("i", range(len(BAD)))
def test_what_is_wrong_is_refused_either_way(i, needs_gradient):
    x = ag.asarray(np.arange(12.0, dtype=np.float32).reshape(3, 4))
    with pytest.raises(AgogError) as plain:
        BAD[i](x)
    with pytest.raises(AgogError) as recorded:
        BAD[i](x.requires_grad_())
    assert type(plain.value) is type(recorded.value) and str(plain.value) == str(recorded.value)


GOOD = [
    lambda x: x.T,
    lambda x: x.reshape(2, -1),
    lambda x: ag.reshape(x, (4, 3)),
    lambda x: ag.reshape(x, [2, 6]),
    lambda x: ag.reshape(x, 12),
    lambda x: ag.reshape(x[0, 0], ()),
    lambda x: ag.permute_dims(x, (-1, 0)),
    lambda x: ag.broadcast_to(x, (2, 3, 4)),
    lambda x: ag.broadcast_to(x[0, 0], (2, 3)),
    lambda x: ag.broadcast_to(x, (900, 3, 4)),
    lambda x: x[1],
    lambda x: x[1, 2],
    lambda x: x[-1, ::-2],
    lambda x: x[None, ..., 0],
    lambda x: x[ag.asarray(1):],
    lambda x: x[ag.asarray([2, 0, -1])],
    lambda x: x[ag.asarray([[0], [1]])],
    lambda x: x[ag.asarray([True, False, True])],
    lambda x: x[x > 5],
    lambda x: x[ag.asarray([], dtype="int64")],
    lambda x: ag.stack([x, x * 2]),
    lambda x: ag.stack((x, x * 2), axis=-1),
    lambda x: ag.stack([x, x.astype("float64")]),
    lambda x: ag.concat([x, x * 2]),
    lambda x: ag.concat((x, x * 2), axis=-1),
    lambda x: ag.concat([x, x * 2], axis=None),
    lambda x: ag.concat([x, x.astype("float64")]),
    lambda x: ag.unstack(x)[1],
    lambda x: ag.unstack(x, axis=-1)[1],
    lambda x: ag.squeeze(x[None], 0),
    lambda x: x[0] @ x[1],
    lambda x: x[0, :0] @ x[1, :0],
    lambda x: x[0, ::-2] @ x[1, ::2],
    lambda x: ag.linalg.vector_norm(x[0]),
    lambda x: ag.linalg.vector_norm(x[0], keepdims=True),
    lambda x: ag.linalg.vector_norm(x[0], axis=()),
    lambda x: ag.max(x, axis=0, keepdims=True),
    lambda x: ag.min(x),
    lambda x: ag.embedding(ag.asarray([[0, 2]]), x),
    lambda x: ag.embedding(ag.asarray([0, 2], dtype="uint8"), x),
    lambda x: ag.max_pool2d(x[None], 2, ceil_mode=True),
    lambda x: ag.max_pool2d(x[None], True),
    lambda x: ag.cumsum(x, axis=-1),
    lambda x: ag.cumsum(x),
    lambda x: ag.cumulative_sum(x, axis=1, include_initial=True),
    lambda x: ag.cumulative_sum(x[0]),
    lambda x: ag.linalg.vector_norm(x),
    lambda x: ag.linalg.vector_norm(x, ord=1),
    lambda x: ag.unstack(x[0])[1],
    lambda x: ag.unstack(x[..., None].mT)[0],
    lambda x: x @ x[0],
    lambda x: x @ x[1, ::-1],
    lambda x: x[:1, :1] @ x[0, :1],
    lambda x: x[:, :0] @ x[0, :0],
    lambda x: ag.einsum("ij,kj->ik", x, x),
    lambda x: ag.einsum("ij,ij->ji", x, x),
    lambda x: ag.einsum("ij,k->kji", x, x[0]),
    lambda x: ag.einsum("ij,ij->", x, x),
    lambda x: ag.einsum("bij,bjk->bik", ag.stack([x, x + 1]), ag.stack([x.T, x.T])),
    lambda x: ag.einsum("ij,jk", x[:1], x.T),
    lambda x: ag.conv2d(x[None, None], x[None, None, :2, :2], padding=1),
    lambda x: ag.conv2d(x[None, None], x[None, None, :2, :2], x[0, :1], stride=2),
    lambda x: ag.softmax(x, axis=-2),
    lambda x: ag.batch_norm(x, training=True)[0],
]


def test_few_numbers_are_made_as_many_are():
    for shape in ((), (0,), (2, 0, 3), (3,), (2, 3), [2, 3]):
        assert ag.zeros(shape).shape == ag.ones(shape).shape == tuple(shape) and ag.zeros(shape).dtype == ag.float32
    for args in ((5,), (2, 7), (7, 2, -2), (0,), (-3,), (1, 4, 2), (2.5,), (5, None)):
        want = np.arange(*[a for a in args if a is not None])
        assert ag.arange(*args).tolist() == want.tolist() and ag.arange(*args).dtype.kind == want.dtype.kind
    for data in ([1.0, 2.0], [1, 2], [], [1.5] * 40, [float("nan"), 1.0], [float("inf")], [[1.0], [2.0]], [True],
                 [1e39], [-1e39, 0.0], [np.float64(1.5)], [np.float32(2.0), 3.0], (1.0, 2.0)):
        with np.errstate(over="raise"):
            got = ag.asarray(data)
        with np.errstate(all="ignore"):
            kept = isinstance(data[0], np.generic) if data else False
            want = np.array(data) if kept or np.array(data).dtype.kind != "f" else np.array(data).astype("float32")
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("i", range(len(GOOD)))
def test_the_results_are_the_same_either_way(i, dtype):
    data = np.arange(12.0).reshape(3, 4)
    plain, recorded = GOOD[i](ag.asarray(data, dtype=dtype)), GOOD[i](ag.asarray(data, dtype=dtype).requires_grad_())
    assert plain.dtype == recorded.dtype and plain.shape == recorded.shape and plain._node is None
    assert type(plain._data) is np.ndarray
    np.testing.assert_array_equal(plain.numpy().astype("float64"), recorded.detach().numpy().astype("float64"))


def test_a_view_is_not_written_through():
    x = ag.arange(6, dtype="float32")
    y, z = x[1:3], x.reshape(2, 3).T
    x[1] = 100.0
    y[1] = 7.0
    z += 1
    assert x.tolist() == [0, 100, 2, 3, 4, 5] and y.tolist() == [1, 7] and z.tolist() == [[1, 4], [2, 5], [3, 6]]


def test_integers_and_bools_are_read_as_numbers():
    assert float(ag.asarray(3)) == 3.0 and ag.asarray(True).item() is True and not ag.asarray([0])
    with pytest.raises(AgogError):
        float(ag.asarray(1j))
