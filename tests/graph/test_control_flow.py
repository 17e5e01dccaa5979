"""Branches, loops, guards and effects: the interpreter's meaning, and gradients through them."""

import numpy as np
import pytest

from agog.errors import GraphError, GuardFailed, IndexingError, ShapeError
from agog.graph import Builder, forward_backward, optimize, run, verify, vjp, xp
from agog.graph.loops import SEGMENT

F8 = "float64"


def gradient_by_differences(graph, arrays, i, h=1e-6):
    out = np.zeros(arrays[i].shape)
    for at in np.ndindex(arrays[i].shape):
        low, high = [list(arrays) for _ in range(2)]
        low[i], high[i] = arrays[i].copy(), arrays[i].copy()
        low[i][at] -= h
        high[i][at] += h
        out[at] = (graph.run(*high) - graph.run(*low)) / (2 * h)
    return out


def check_gradient(graph, *arrays):
    """By differences; also through the pipeline, and as two graphs."""
    verify(graph)
    arrays = [np.asarray(a, F8) for a in arrays]
    grads = verify(graph.grad(value=True))
    value, *found = grads.run(*arrays)
    np.testing.assert_allclose(value, graph.run(*arrays))
    for i, g in enumerate(found):
        np.testing.assert_allclose(g, gradient_by_differences(graph, arrays, i), rtol=1e-6, atol=1e-7)
    for a, b in zip(optimize(grads, check=True).run(*arrays), (value, *found)):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    forward, backward = forward_backward(graph)
    verify(forward), verify(backward)
    out = run(forward, arrays)
    for a, b in zip(run(backward, [*out[1:], np.ones(())]), found):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def scalar(fn, *shapes):
    b = Builder("f")
    xs = [b.input(s, F8, path=f"x{i}") for i, s in enumerate(shapes)]
    with b:
        out = fn(b, *xs)
    return b.build([out])


@pytest.mark.parametrize("sign", [1, -1])
def test_cond(sign):
    graph = scalar(lambda b, x, w: xp.sum(b.cond(xp.sum(x) > 0, lambda x: xp.sin(x) * w, lambda x: x * x, [x])[0] * x),
                   (3,), (3,))
    check_gradient(graph, sign * np.array([0.5, 1.0, 2.0]), [1.0, -2.0, 0.3])


def test_a_branch_not_taken_is_not_run():
    def other(v):
        return xp.astype(xp._class_index(xp.astype(v, "int64"), classes=1)[0], F8)

    graph = scalar(lambda b, x: xp.sum(b.cond(xp.sum(x) > 0, lambda v: v, other, [x])[0]), (3,))
    graph.run(np.ones(3))
    with pytest.raises(IndexingError):
        graph.run(-np.ones(3))


@pytest.mark.parametrize("turns", [0, 1, 5, SEGMENT, SEGMENT + 1, 3 * SEGMENT - 1])
def test_while(turns):
    def fn(b, x, w):
        _, y = b.while_loop(lambda i, y: i < turns, lambda i, y: (i + 1, xp.tanh(y) * 0.9 + xp.mean(w) * 0.1), [
            np.zeros((), "i8"), x])
        return xp.sum(y * y)

    check_gradient(scalar(fn, (3,), (2,)), [0.5, -1.0, 2.0], [0.3, 0.8])


def test_while_by_the_value():
    def fn(b, x):
        return xp.sum(b.while_loop(lambda y: xp.sum(y * y) < 100, lambda y: y * (1.5 + 0.1 * y), [x])[0])

    check_gradient(scalar(fn, (2,)), [0.5, 1.0])


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    def fn(b, x, h, w):
        h, ys = b.scan(lambda h, row: (xp.tanh(row @ w + h), h * row), [h], [x], reverse=reverse)
        return xp.sum(h * 2) + xp.sum(ys * ys)

    rng = np.random.default_rng(0)
    check_gradient(scalar(fn, (4, 3), (3,), (3, 3)), rng.standard_normal((4, 3)), rng.standard_normal(3),
                   rng.standard_normal((3, 3)))


def test_scan_without_carry_and_without_sequences():
    def squares(b, x):
        return xp.sum(b.scan(lambda row: row * row, [], [x])[0])

    def powers(b, x):
        return xp.sum(b.scan(lambda c: c * x, [x], length=3)[0])

    def nothing(b, x):
        return xp.sum(b.scan(lambda c, row: c + row, [x[0]], [x[:0]])[0])

    check_gradient(scalar(squares, (4, 3)), np.arange(12.0).reshape(4, 3))
    check_gradient(scalar(powers, (3,)), [1.0, 2.0, 0.5])
    check_gradient(scalar(nothing, (2, 3)), np.ones((2, 3)))


def test_nested():
    def fn(b, x):
        def row(c, v):
            inner = v.builder

            def step(y):
                z, = y.builder.cond(xp.sum(y) > 1, lambda y: y * 0.5, lambda y: y * 0.9 + v * 0.01, [y])
                return z

            y, = inner.while_loop(lambda y: xp.sum(y) > 0.5, step, [v])
            return c + y, xp.sum(y * c)

        c, ys = b.scan(row, [x[0] * 0], [x])
        return xp.sum(c) + xp.sum(ys)

    check_gradient(scalar(fn, (3, 2)), [[1.0, 2.0], [0.1, 0.2], [4.0, 0.3]])


def test_second_derivatives():
    def fn(b, x):
        return xp.sum(b.scan(lambda c, v: (c * v + xp.sin(v), c * c)[0], [x[0]], [x])[0])

    graph = scalar(fn, (3,))
    first = graph.grad()
    b = Builder.like(first)
    b.nodes = list(first.nodes)
    with b:
        again = b.build([xp.sum(b.symbol(first.outputs[0]) * np.array([1.0, 2.0, 3.0]))])
    check_gradient(again, [0.5, 1.5, 2.0])


def test_guards():
    b = Builder("g")
    x = b.input((), F8, path="x")
    b.guard(x, 1.5, "float()")
    b.guard(x > 0, True, "bool()")
    graph = verify(b.build([x * 2]))
    assert graph.run(np.array(1.5)) == 3
    with pytest.raises(GuardFailed, match=r"float\(\): expected 1.5, got 2.0"):
        graph.run(np.array(2.0))
    assert len(optimize(graph).nodes) == 4  # nobody reads a guard, and it stays


@pytest.mark.parametrize("dtype, recorded, good, bad", [
    (F8, float("nan"), np.nan, 0.0), (F8, 0.0, 0.0, -0.0), ("int64", 3, 3, 4), ("bool", True, True, False),
    ("int64", True, 3, 0), ("float32", 0.10000000149011612, 0.1, 0.2)])
def test_what_a_guard_takes_for_equal(dtype, recorded, good, bad):
    b = Builder("g")
    b.guard(b.input((), dtype), recorded)
    graph = b.build([])
    run(graph, [np.array(good, dtype)])
    with pytest.raises(GuardFailed):
        run(graph, [np.array(bad, dtype)])


def test_effects_are_delivered_in_order_when_the_run_commits():
    seen = []
    b = Builder("g")
    x = b.input((3,), F8)
    b.effect(lambda v: seen.append(("first", v.sum())), [x])
    b.scan(lambda c, v: (v.builder.effect(lambda w: seen.append(("row", float(w))), [v]), c + v)[1], [xp.sum(x)], [x])
    b.guard(xp.sum(x) > 0, True)
    b.effect(lambda: seen.append("last"))
    graph = verify(b.build([x]))
    graph.run(np.array([1.0, 2.0, 3.0]))
    order = [("first", 6.0), ("row", 1.0), ("row", 2.0), ("row", 3.0), "last"]
    assert seen == order
    seen.clear()
    with pytest.raises(GuardFailed):
        graph.run(np.array([-1.0, 0.0, 0.0]))
    assert seen == []
    effects = []
    run(graph, [np.array([1.0, 2.0, 3.0])], deliver=False, effects=effects)
    assert seen == [] and len(effects) == 5
    optimize(graph, check=True).run(np.array([1.0, 2.0, 3.0]))
    assert seen == order


def test_effects_are_not_repeated_by_the_backward():
    seen = []

    def fn(b, x):
        def body(i, y):
            y.builder.effect(lambda v: seen.append(float(v)), [y])
            return i + 1, y * 2

        return b.while_loop(lambda i, y: i < 3, body, [np.zeros((), "i8"), x])[1]

    graph = scalar(fn, ())
    grads = graph.grad(value=True)
    value, g = grads.run(np.array(1.0))
    assert value == 8 and g == 8 and seen == [1, 2, 4]
    seen.clear()
    forward, backward = forward_backward(graph)
    out = run(forward, [np.array(1.0)])
    run(backward, [*out[1:], np.ones(())])
    assert seen == [1, 2, 4]


def test_a_shape_that_depends_on_values_is_a_guard():
    b = Builder("g")
    x, m = b.input((4,), F8), b.input((4,), "bool")
    from agog.ops.row import TABLE

    y, = b.add(TABLE["_getitem_array"], [x.value, m.value], (("@",),), [((2,), np.dtype(F8))])
    graph = verify(b.build([b.symbol(y)]))
    assert graph.run(np.arange(4.0), np.array([1, 0, 1, 0], bool)).tolist() == [0, 2]
    with pytest.raises(GuardFailed, match=r"f64\[3\].*f64\[2\]"):
        graph.run(np.arange(4.0), np.array([1, 1, 1, 0], bool))
    with pytest.raises(GraphError, match="depends on the values"):
        b.emit(TABLE["_getitem_array"], (x, m), (("@",),))


def test_what_the_interpreter_refuses():
    graph = scalar(lambda b, x: xp.sum(x), (3,))
    with pytest.raises(ShapeError, match=r"input 'x0'.*f64\[3\], not f64\[4\]"):
        graph.run(np.zeros(4))
    with pytest.raises(TypeError, match=r"f64\[3\], not f32\[3\]"):
        graph.run(np.zeros(3, "f4"))
    with pytest.raises(GraphError, match="has 1 inputs, 2 were given"):
        graph.run(1, 2)


def test_values_are_dropped_after_their_last_use():
    import weakref

    alive, peak = [], []
    b = Builder("g")
    y = b.input((1000,), F8)
    for _ in range(10):
        y = xp.sin(y)
    graph = b.build([y])

    def watch(node, out):
        alive.append(weakref.ref(out[0]))
        peak.append(sum(r() is not None for r in alive))

    run(graph, [np.ones(1000)], watch=watch)
    assert max(peak) <= 3


def test_errors_name_the_line():
    graph = scalar(lambda b, x: xp.sum(xp.take(x, np.array([0, 9]))), (3,))
    with pytest.raises(IndexingError) as error:
        graph.run(np.ones(3))
    assert any("test_control_flow.py" in note for note in error.value.__notes__)


def test_complex_gradients_point_uphill():
    b = Builder("g")
    z = b.input((3,), "complex128")
    graph = b.build([xp.sum(xp.real(z * xp.conj(z)))])
    x = np.array([1 + 2j, -1j, 3.0])
    np.testing.assert_allclose(graph.grad().run(x), 2 * x)
    joint = vjp(graph)
    np.testing.assert_allclose(joint.run(x, np.ones(()))[1], 2 * x)
