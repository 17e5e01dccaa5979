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
]


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
