"""Contiguous copies of permuted arrays against NumPy's: any sizes and machines, and nothing beyond the arrays."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import agog as ag
from agog import config
from agog.compiler import jit, targets, turning


@pytest.mark.parametrize("size", [4, 8])
def test_squares_and_what_is_left_of_them(size, target, guarded, rng):
    turn = turning.turn(size, target)
    for outer, rows, columns in [(1, 16, 16), (2, 17, 33), (3, 5, 40), (1, 64, 3), (2, 1, 7), (1, 47, 31), (5, 32, 1)]:
        x = rng.integers(0, 1 << 31, (outer, rows, columns)).astype(f"i{size}")
        for at_end in (True, False):
            out = guarded.array(np.zeros((outer, columns, rows), x.dtype), at_end)
            turn(out, guarded.array(x, at_end), outer, rows, columns)
            np.testing.assert_array_equal(out, x.swapaxes(1, 2))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    for shape in ((700, 900), (5, 300, 200), (33, 20000)):
        x = rng.standard_normal(shape).swapaxes(-1, -2)
        np.testing.assert_array_equal(turning.whole(x), x)


def test_sizes_that_do_not_fit(rng):
    x, out = rng.standard_normal((20, 30)), np.empty((30, 20))
    for sizes in ((1, 20, 31), (2, 20, 30), (0, 20, 30), (-1, -20, 30)):
        with pytest.raises(ValueError, match="outer"):
            turning.turn(8)(out, x, *sizes)


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.lists(st.sampled_from([1, 2, 3, 17, 40]), min_size=1, max_size=5), st.data())
def test_any_order_of_axes(shape, data):
    dtype = data.draw(st.sampled_from(["float32", "float64", "int64", "complex64", "float16", "bool"]))
    rng, order = np.random.default_rng(0), data.draw(st.permutations(range(len(shape))))
    x = rng.integers(0, 2, [n * data.draw(st.sampled_from([1, 1, 5])) for n in shape]).astype(dtype).transpose(order)
    x = data.draw(st.sampled_from([x, x[::-1], x[..., ::2]]))
    got = turning.whole(x)
    assert got.flags.c_contiguous and got.dtype == x.dtype
    np.testing.assert_array_equal(got.reshape(x.shape), x)


def test_which_are_turned():
    found = lambda x: turning._exchanged(x.shape, x.strides, x.itemsize)
    assert found(np.empty((300, 40)).T) == ((1, 0), (1, 300, 40))
    assert found(np.empty((3, 50, 60, 70)).transpose(0, 2, 3, 1)) == ((0, 3, 1, 2), (3, 50, 4200))
    whole = np.empty((30, 40))
    for x in (whole, whole.T[1:], whole.T[::-1], np.empty((9, 8, 7)).transpose(2, 1, 0), np.empty((300, 4)).T):
        assert found(x) is None


def test_inputs_of_staged_functions(rng):
    x, w = rng.standard_normal((300, 200)).astype("f"), rng.standard_normal((150, 200)).astype("f")
    f = ag.function(lambda x, w: x @ w + 1)
    for _ in range(3):
        got = f(ag.asarray(x), ag.from_numpy(w.T))
    np.testing.assert_allclose(got.numpy(), x @ w.T + 1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_machine_has_an_object(name, size):
    assert jit.object_code(str(turning.build(size, targets.TARGETS[name])), targets.TARGETS[name])
