"""Tensor: creation, conversion, value semantics, Python protocols."""

import copy
import math
import pickle

import numpy as np
import pytest

import agog as ag
from agog import errors


def test_creation_and_default_dtypes():
    assert ag.asarray(1.5).dtype == ag.float32 and ag.asarray(1).dtype == ag.int64 and ag.asarray(True).dtype == ag.bool
    assert ag.asarray([1.0, 2.0]).dtype == ag.float32 and ag.asarray([1, 2]).dtype == ag.int64
    assert ag.asarray([[1, 2.5], [3, 4]]).shape == (2, 2)
    assert ag.asarray(1 + 2j).dtype == ag.complex64
    assert ag.asarray(np.zeros(3)).dtype == ag.float64
    assert ag.asarray(np.float16(2)).dtype == ag.float16
    assert ag.asarray([np.float64(1.0)]).dtype == ag.float64
    assert ag.asarray([]).shape == (0,) and ag.asarray([]).dtype == ag.float32 or ag.asarray([]).dtype == ag.float64
    assert ag.asarray([ag.asarray(1.0), ag.asarray(2.0)]).tolist() == [1.0, 2.0]
    assert ag.asarray(range(3)).tolist() == [0, 1, 2]
    assert ag.asarray(np.arange(4, dtype=">i4")).dtype == ag.int32
    assert ag.asarray(bytearray(b"ab")).tolist() == [97, 98]
    assert ag.zeros(2, 3).shape == (2, 3) == ag.zeros((2, 3)).shape
    assert ag.tensor([1, 2], dtype="bfloat16").dtype == ag.bfloat16


def test_numpy_arrays_are_copied_in_and_shared_out_read_only():
    source = np.ones(3, np.float32)
    x = ag.asarray(source)
    source[0] = 9
    assert x.tolist() == [1, 1, 1]
    shared = ag.asarray(source, copy=False)
    source[1] = 8
    assert shared.tolist() == [9, 8, 1]
    view = x.numpy()
    with pytest.raises(ValueError):
        view[0] = 5
    with pytest.raises(ValueError):
        np.asarray(x)[0] = 5
    mine = np.array(x)
    mine[0] = 5
    assert x.tolist() == [1, 1, 1]


def test_values_never_change_under_your_feet():
    x = ag.asarray([1.0, 2.0, 3.0])
    y, z, w = x.detach(), x[1:], x.reshape(3, 1)
    x += 10
    assert x.tolist() == [11, 12, 13]
    assert y.tolist() == [1, 2, 3] and z.tolist() == [2, 3] and w.tolist() == [[1], [2], [3]]
    v = x[0:2]
    x[0] = -1.0
    assert x.tolist() == [-1, 12, 13] and v.tolist() == [11, 12]
    same = x
    x *= 2
    assert same is x and same.tolist() == [-2, 24, 26]
    held = x.numpy()
    x -= 1
    assert held.tolist() == [-2, 24, 26]


def test_in_place_of_an_exclusive_tensor_reuses_its_memory():
    x = ag.zeros(1000)
    address = x._data.ctypes.data
    x += 1
    x *= 2.0
    assert x._data.ctypes.data == address and x.tolist() == [2.0] * 1000


def test_in_place_keeps_dtype_and_shape():
    x = ag.asarray([1, 2])
    with pytest.raises(errors.DTypeError, match="in-place divide"):
        x /= 2
    with pytest.raises(errors.ShapeError, match="in-place add"):
        x += ag.ones(3, 2, dtype="int64")
    assert x.tolist() == [1, 2]


def test_saved_values_are_safe_from_in_place_changes():
    x = ag.asarray([1.0, 2.0], requires_grad=True)
    h = x * 3
    y = (h * h).sum()
    h += 100
    y.backward()
    assert x.grad.tolist() == [18, 36]
    w = ag.asarray([1.0, 2.0])
    y = (x * w).sum()
    w *= 50
    x.grad = None
    y.backward()
    assert x.grad.tolist() == [1, 2]


def test_gradient_flows_through_in_place_results():
    x = ag.asarray([1.0, 2.0], requires_grad=True)
    h = x * 1.0
    h += x
    h[0] = h[1] * 5
    h.sum().backward()
    assert x.grad.tolist() == [0, 12]


def test_leaf_that_requires_grad_refuses_in_place():
    x = ag.ones(2, requires_grad=True)
    with pytest.raises(errors.GradientError, match="no_grad"):
        x += 1
    with pytest.raises(errors.GradientError, match="clone"):
        x[0] = 1
    with ag.no_grad():
        x += 1
        x[0] = 7
    assert x.tolist() == [7, 2] and x.requires_grad and x.is_leaf
    x.assign([5.0, 6.0])
    assert x.tolist() == [5, 6]
    with pytest.raises(errors.ShapeError, match="assign"):
        x.assign([1.0])


def test_python_protocols():
    x = ag.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2 and [r.tolist() for r in x] == [[1, 2], [3, 4]] and 3.0 in x and 9.0 not in x
    assert float(x[0, 0]) == 1.0 and int(x[1, 1]) == 4 and complex(x[0, 1]) == 2 and bool(x[0, 0])
    assert [10, 20, 30][ag.asarray(1)] == 20 and list(range(ag.asarray(2))) == [0, 1]
    assert f"{x[0, 0]:.2f}" == "1.00" and "Tensor" in f"{x}"
    assert divmod(ag.asarray(7), 2)[0].item() == 3 and round(ag.asarray(2.6)).item() == 3
    assert abs(ag.asarray(-2)).item() == 2
    assert (-x).tolist() == [[-1, -2], [-3, -4]] and (+x).tolist() == x.tolist() and (~ag.asarray(True)).item() is False
    assert x.T.tolist() == [[1, 3], [2, 4]] and x.mT.shape == (2, 2)
    assert {x: 1}[x] == 1
    assert (2 ** x).tolist() == [[2, 4], [8, 16]] and (10 - x)[0, 0].item() == 9 and (1 / x)[1, 1].item() == 0.25
    assert (x @ x).tolist() == (np.asarray(x) @ np.asarray(x)).tolist()
    assert (np.asarray([1.0, 2.0], np.float32) + ag.ones(2)).tolist() == [2, 3]
    for bad, error in ((lambda: bool(x), ValueError), (lambda: float(x), ValueError), (lambda: len(x[0, 0]), TypeError),
                       (lambda: iter(x[0, 0]), TypeError), (lambda: [1][ag.asarray(0.0)], TypeError),
                       (lambda: x + "a", TypeError), (lambda: x.item(), ValueError),
                       (lambda: float(ag.asarray(1j)), TypeError)):
        with pytest.raises(error):
            bad()


def test_repr():
    assert repr(ag.asarray([1.0, 2.5])) == "Tensor([1. , 2.5])"
    assert repr(ag.asarray([1, 2], dtype="int8")) == "Tensor([1, 2], dtype=int8)"
    assert "requires_grad=True" in repr(ag.ones(1, requires_grad=True))
    assert "grad_fn=multiply" in repr(ag.ones(1, requires_grad=True) * 2)
    assert "shape=(0, 3)" in repr(ag.zeros(0, 3)) and "shape=(2000,)" in repr(ag.zeros(2000))
    assert "bfloat16" in repr(ag.ones(2, dtype="bfloat16"))


def test_copy_and_pickle():
    x = ag.asarray([1.0, 2.0], requires_grad=True)
    (x * 2).sum().backward()
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert y.tolist() == x.tolist() and y.requires_grad and y is not x
    assert copy.deepcopy(x).grad.tolist() == [2, 2]
    assert copy.copy(x).tolist() == [1, 2]
    with pytest.raises(errors.GradientError):
        copy.deepcopy(x * 2)
    with pytest.raises(errors.GradientError):
        pickle.dumps(x * 2)
    assert pickle.loads(pickle.dumps(ag.ones(2, dtype="bfloat16"))).dtype == ag.bfloat16


def test_to_and_astype():
    x = ag.asarray([1.5, 2.5], requires_grad=True)
    y = x.to("float64")
    assert y.dtype == ag.float64 and x.to("cpu") is x and x.device == "cpu"
    (y * 2).sum().backward()
    assert x.grad.dtype == ag.float32 and x.grad.tolist() == [2, 2]
    assert x.astype("int32").tolist() == [1, 2] and x.astype(ag.float32, copy=False) is x
    with pytest.raises(errors.ArgumentTypeError, match="device"):
        x.to_device("tpu")
    with pytest.raises(errors.ArgumentTypeError, match="dtype"):
        x.astype("float99")
    with pytest.raises(errors.DTypeError):
        x.astype("U3")


@pytest.mark.skipif(__import__("importlib.util").util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_a_missing_gpu_is_explained():
    with pytest.raises(errors.MissingExtraError, match="pip install cupy"):
        ag.ones(1).to_device("cuda")


def test_promotion():
    f, i, h, b = ag.ones(1), ag.ones(1, dtype="int32"), ag.ones(1, dtype="float16"), ag.ones(1, dtype="bfloat16")
    assert (f + i).dtype == ag.float32 and (h + i).dtype == ag.float16 and (h + b).dtype == ag.float32
    assert (i + 1).dtype == ag.int32 and (i + 1.5).dtype == ag.float32 and (i / 2).dtype == ag.float32
    assert (h * 2.0).dtype == ag.float16 and (b * 2.0).dtype == ag.bfloat16 and (f + np.float64(1)).dtype == ag.float32
    assert (f + 1j).dtype == ag.complex64 and (i == 1).dtype == ag.bool
    assert (ag.ones(1, dtype="bool") + 1).dtype == ag.int64
    assert (f + np.ones(1)).dtype == ag.float64
    with pytest.raises(errors.DTypeError, match="no common"):
        ag.ones(1, dtype="uint64") + ag.ones(1, dtype="int8")
    with pytest.raises(errors.DTypeError, match="300"):
        ag.ones(1, dtype="uint8") + 300


def test_special_values_follow_the_standard():
    x = ag.asarray([-1.0, 0.0, math.inf, math.nan])
    with np.errstate(all="raise"):  # what the user does to NumPy does not change us
        assert np.isnan(x.log().tolist()[0]) and x.log().tolist()[1] == -math.inf
        assert (1 / x).tolist()[1] == math.inf and np.isnan((x - x).tolist()[2])
        assert np.isnan(x.sqrt().tolist()[0])
    assert (x == x).tolist() == [True, True, True, False]


def test_empty_and_zero_dimensional():
    e, s = ag.zeros(0, 3), ag.asarray(2.0)
    assert (e + 1).shape == (0, 3) and e.sum().item() == 0 and e.sum(axis=0).shape == (3,)
    assert (e @ ag.ones(3, 2)).shape == (0, 2)
    assert s.shape == () and (s * s).shape == () and s.exp().ndim == 0 and type((s + s)._data) is np.ndarray
    with pytest.raises(ValueError):
        e.max()
    x = ag.zeros(0, 3, requires_grad=True)
    (x * 2).sum().backward()
    assert x.grad.shape == (0, 3)


def test_huge_sizes_give_a_memory_error_and_the_process_lives():
    with pytest.raises(MemoryError):
        ag.zeros(1 << 30, 1 << 30)
    with pytest.raises(MemoryError):
        ag.ones(1).broadcast_to((1 << 45,)) + 1
    assert ag.ones(2).sum().item() == 2


def test_asarray_errors():
    for bad, error in ((lambda: ag.asarray([[1], [1, 2]]), errors.ShapeError), (lambda: ag.asarray("abc"), TypeError),
                       (lambda: ag.asarray([1, "a"]), TypeError), (lambda: ag.asarray({1: 2}), TypeError),
                       (lambda: ag.asarray(None), TypeError), (lambda: ag.asarray(1 << 70), errors.DTypeError),
                       (lambda: ag.asarray(np.zeros(2), dtype="float32", copy=False), ValueError),
                       (lambda: ag.asarray(np.array(["a"])), TypeError)):
        with pytest.raises(error):
            bad()


def test_large_arrays_are_split_over_threads_and_right():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=600_000).astype("f4"), rng.normal(size=600_000).astype("f4")
    x, y = ag.asarray(a), ag.asarray(b)
    for _ in range(3):
        np.testing.assert_array_equal((x + y).numpy(), a + b)
        np.testing.assert_array_equal((x * 2.0).numpy(), a * np.float32(2))
        np.testing.assert_allclose(x.exp().numpy(), np.exp(a), rtol=1e-6)
        np.testing.assert_array_equal((x.reshape(600, 1000) + y.reshape(600, 1000)).numpy(), (a + b).reshape(600, 1000))
    first = x + y
    second = x - y
    assert not np.shares_memory(first._data, second._data)
    np.testing.assert_array_equal(first.numpy(), a + b)


# ------------------------------------------------------------------------------------------------ Tensors in lists
def test_a_list_of_tensors_keeps_gradients():
    w = ag.asarray(2.0, requires_grad=True)
    for make in (ag.asarray, ag.tensor, ag.Tensor):
        y = make([w * 3, 1.0, w])
        assert y.requires_grad and y.dtype == ag.float32 and y.tolist() == [6, 1, 2]
        w.grad = None
        (y * ag.asarray([1.0, 10.0, 100.0])).sum().backward()
        assert w.grad.item() == 103
    f = lambda x: (ag.asarray([[x[0], 2.0], (x[1] * x[0], x[1])]) ** 2).sum()
    x = ag.asarray([1.0, 3.0])
    assert ag.grad(f)(x).tolist() == [2 + 18, 6 + 6]
    assert ag.vmap(f)(ag.stack([x, x])).tolist() == [f(x).item()] * 2
    staged = ag.function(f, strict=True)
    assert [staged(x).item() for _ in range(3)] == [f(x).item()] * 3


@pytest.mark.parametrize(("data", "dtype"), [
    ([ag.asarray(2.0), 1.0], "float32"), ([ag.asarray(2.0), 1], "float32"), ([ag.asarray(2), 1.5], "float32"),
    ([ag.asarray(2.0), np.float64(1)], "float32"), ([ag.asarray(2.0, dtype="float16"), 1.5], "float16"),
    ([ag.asarray(2.0), ag.asarray(2.0, dtype="float64")], "float64"), ([ag.asarray(2.0), 1j], "complex64"),
    ([ag.asarray(True), False], "bool"), ([ag.ones(2), np.ones(2)], "float64"), ([[1, 2], ag.ones(2)], "float32"),
    ([ag.ones(2, dtype="int32"), range(2)], "int32"),
])
def test_numbers_beside_tensors_take_their_dtype(data, dtype):
    got = ag.asarray(data)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.numpy(), np.array([np.asarray(x) for x in data]).astype(dtype))
    assert ag.asarray(data, dtype="complex128").dtype == "complex128"


def test_ragged_lists_of_tensors():
    for data in ([ag.ones(2), 1.0], [ag.ones(2), ag.ones(3)], [[], [ag.ones(())]]):
        with pytest.raises(errors.ShapeError, match="ragged"):
            ag.asarray(data)
    w = ag.zeros(2)
    assert w.assign([ag.asarray(1.0), 2.0]).tolist() == [1, 2]
