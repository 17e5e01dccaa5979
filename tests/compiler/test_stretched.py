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
    for rows in (1, 3, 63):  # which are divided
        x, y = rng.standard_normal((rows, 1, 20011)).astype("f"), rng.standard_normal((1, 2, 20011)).astype("f")
        run(kernel, np.add, x, y, np.empty((rows, 2, 20011), "f"))
    x, y = rng.standard_normal((300, 1, 40)).astype("f"), rng.standard_normal((1, 120, 40)).astype("f")
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


SLICES = [
    ((8, 7), np.s_[1:8, 2:7], (9, 6), np.s_[2:9, :5]),
    ((10, 40), np.s_[::2, 3:36], (5, 4), np.s_[:, 2:3]),
    ((40, 7), np.s_[::3, 1:7], (3, 6), np.s_[2:3]),
    ((4, 6, 25), np.s_[1:4, 2:6, 5:25], (4, 7, 5), np.s_[1:4, 3:7, 4:5]),
    ((4, 8, 25), np.s_[1:4, ::2, :20], (1, 8, 21), np.s_[:, 3:7, 1:21]),
    ((4, 5, 33), np.s_[:, 0], (33,), np.s_[:]),
]


@pytest.mark.parametrize("dtype", ["float32", "int64", "float16"])
def test_slices_with_guard_pages(target, guarded, rng, dtype):
    made = {}
    for *first, other, index in SLICES:
        for at_end in (True, False):
            x, y = (guarded.array((rng.standard_normal(whole) * 9).astype(dtype), at_end)[some]
                    for whole, some in (first, (other, index)))
            shape = np.broadcast_shapes(x.shape, y.shape)
            out = guarded.array(np.zeros(shape, dtype), at_end)
            own = [np.array(v.strides) // v.itemsize for v in (out, x, y)]
            lengths, strides = layout(shape, (shape, x.shape, y.shape), own)
            along = tuple(s[2] == 1 for s in strides[1:])
            if along not in made:
                made[along] = compile_stretched(
                    "sub", lambda k, a, b: k.sub(a, b), [dtype] * 2, dtype, along, target, strided=True)
            made[along](out, (x, y), lengths, strides)
            np.testing.assert_array_equal(out, x - y)
    assert set(made) == {(True, True), (True, False)}


def test_into_a_slice(target, rng):
    kernel = compile_stretched("copy", lambda k, a: a, ["int32"], "int32", [True], target, strided=True)
    for shape, index in (((9, 70), np.s_[2:8, 5:69]), ((4, 9, 33), np.s_[1:3, ::2, 7:]), ((90, 90), np.s_[:, 3:5])):
        poisoned = np.full(shape, -7, "i4")
        out = poisoned[index]
        x = rng.integers(0, 99, out.shape).astype("i4")
        lengths, strides = layout(out.shape, (out.shape, x.shape), [np.array(v.strides) // 4 for v in (out, x)])
        kernel(out, (x,), lengths, strides)
        np.testing.assert_array_equal(out, x)
        out[...] = -7
        assert (poisoned == -7).all()


def test_slices_that_do_not_fit(target, rng):
    kernel = compile_stretched("neg", lambda k, a: k.neg(a), ["float32"], "float32", [True], target, strided=True)
    x, out, row = rng.standard_normal((6, 9)).astype("f")[1:5, 2:7], np.zeros((4, 5), "f"), (5, 0, 1)
    kernel(out, (x,), (4, 1, 5), (row, (9, 0, 1)))
    np.testing.assert_array_equal(out, -x)
    right = (4, 1, 5), (row, (9, 0, 1))
    for lengths, strides, y in (
        ((4, 1, 5), (row, (10, 0, 1)), x), ((4, 1, 5), (row, (-9, 0, 1)), x), ((2, 2, 5), ((10, 5, 1), (18, 10, 1)), x),
        ((4, 1, 5), ((6, 0, 1), (9, 0, 1)), x), ((4, 1, 5), ((-5, 0, 1), (9, 0, 1)), x),
        (*right, x[::-1]), (*right, x[:3]), (*right, x[:, :4]), (*right, x[:0]),
    ):
        with pytest.raises(ValueError, match="broadcast"):
            kernel(out, (y,), lengths, strides)


@hypothesis.given(st.lists(st.sampled_from([1, 2, 3]), max_size=5), st.data())
def test_layouts(shape, data):
    """Where there is a layout, it finds the elements that broadcasting finds."""
    inputs = []
    for _ in range(2):
        whole = [n if data.draw(st.booleans()) else 1 for n in shape]
        inputs.append(tuple(whole[data.draw(st.integers(0, len(whole))):]))
    shape = np.broadcast_shapes(*inputs)
    places = [np.arange(math.prod(given)).reshape(given) for given in inputs]
    own = None
    if data.draw(st.booleans()):  # slices and transposes
        for i, given in enumerate(inputs):
            order = data.draw(st.permutations(range(len(given))))
            whole = [given[a] + data.draw(st.integers(0, 2)) for a in order]
            some = np.arange(math.prod(whole)).reshape(whole).transpose(np.argsort(order))
            places[i] = some[tuple([slice(0, n) for n in given])]
        own = [[n // p.itemsize for n in p.strides] for p in places]
        places = [p - p.flat[0] for p in places]
    found = layout(shape, inputs, own)
    if found is None:
        return
    (a, b, c), strides = found
    assert a * b * c == math.prod(shape)
    for given, (s, t, u) in zip(places, strides):
        want = np.broadcast_to(given, shape).reshape(a, b, c)
        i, j, k = np.ogrid[:a, :b, :c]
        np.testing.assert_array_equal(want, i * s + j * t + k * u)
