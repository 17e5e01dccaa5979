"""Kernels of arrays that are stretched against each other: layouts, sizes, dtypes, threads, never a byte beyond."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agog.compiler.stretched import compile_stretched, layout

SHAPES = [((7, 5), (5,)), ((7, 1), (7, 5)), ((4, 3, 5), (3, 5)), ((4, 1, 5), (4, 3, 5)), ((4, 3, 1), (4, 1, 5)),
          ((4, 3, 1), (3, 5)), ((2, 3, 2, 3), (2, 1, 2, 3)), ((3, 1, 1, 33), (3, 4, 5, 33)), ((3, 1, 1), (1, 2, 70)),
          ((6, 1, 64), (1, 2, 64)), ((3, 129), (1,)), ((3, 2, 17), (17,))]


def run(kernel, fn, x, y, out):
    shape = np.broadcast_shapes(x.shape, y.shape)
    lengths, strides = layout(shape, (x.shape, y.shape))
    kernel(out, (x, y), lengths, strides)
    np.testing.assert_array_equal(out, fn(x, y))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "float16"])
def test_shapes_with_guard_pages(target, guarded, rng, dtype):
    made = {}
    for shapes in SHAPES:
        x, y = ((rng.standard_normal(s) * 9).astype(dtype) for s in shapes)
        shape = np.broadcast_shapes(*shapes)
        _, strides = layout(shape, shapes)
        along = tuple(s[2] == 1 for s in strides)
        if along not in made:
            made[along] = compile_stretched("sub", lambda k, a, b: k.sub(a, b), [dtype] * 2, dtype, along, target)
        for at_end in (True, False):
            out = guarded.array(np.zeros(shape, dtype), at_end)
            run(made[along], np.subtract, guarded.array(x, at_end), guarded.array(y, at_end), out)
    assert set(made) == {(True, True), (False, True), (True, False)}


def test_on_threads(target, rng):
    x, y = rng.standard_normal((300, 1, 40)).astype("f"), rng.standard_normal((1, 120, 40)).astype("f")
    kernel = compile_stretched("add", lambda k, a, b: k.add(a, b), ["float32"] * 2, "float32", [True, True], target)
    run(kernel, np.add, x, y, np.empty((300, 120, 40), "f"))
    compare = compile_stretched("less", lambda k, a, b: k.lt(a, b), ["float32"] * 2, "bool", [True, True], target)
    run(compare, np.less, x, y, np.empty((300, 120, 40), bool))


def test_arrays_that_do_not_fit(target):
    kernel = compile_stretched("add", lambda k, a, b: k.add(a, b), ["float32"] * 2, "float32", [True, True], target)
    out, x, y = np.zeros((4, 5), "f"), np.zeros((4, 5), "f"), np.zeros(5, "f")
    kernel(out, (x, y), (4, 1, 5), ((5, 0, 1), (0, 0, 1)))
    for lengths, strides in (((4, 1, 6), ((5, 0, 1), (0, 0, 1))), ((4, 1, 5), ((6, 0, 1), (0, 0, 1))),
                             ((4, 1, 5), ((5, 0, 1), (1, 0, 1))), ((4, 1, 5), ((5, 0, 1), (-1, 0, 1))),
                             ((2, 2, 5), ((10, 5, 1), (0, 1, 1)))):
        with pytest.raises(ValueError, match="broadcast"):
            kernel(out, (x, y), lengths, strides)


@hypothesis.given(st.lists(st.sampled_from([1, 2, 3]), max_size=5), st.data())
def test_layouts(shape, data):
    """Where there is a layout, it finds the elements that broadcasting finds."""
    inputs = []
    for _ in range(2):
        whole = [n if data.draw(st.booleans()) else 1 for n in shape]
        inputs.append(tuple(whole[data.draw(st.integers(0, len(whole))):]))
    shape = np.broadcast_shapes(*inputs)
    found = layout(shape, inputs)
    if found is None:
        return
    (a, b, c), strides = found
    assert a * b * c == math.prod(shape)
    for given, (s, t, u) in zip(inputs, strides):
        places = np.arange(math.prod(given)).reshape(given)
        want = np.broadcast_to(places, shape).reshape(a, b, c)
        i, j, k = np.ogrid[:a, :b, :c]
        np.testing.assert_array_equal(want, i * s + j * t + k * u)
