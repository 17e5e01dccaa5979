"""Gradients of whole graphs against eager ones, and the cut into forward and backward."""

import numpy as np
import pytest

import agog as ag
from agog.errors import GradientError
from agog.graph import build, forward_backward, grad, optimize, run, verify, vjp, xp

F4 = "float32"
CASES = {
    "mlp": (lambda xp, x, w, v: xp.mean(xp.square(xp.tanh(x @ w) @ v)), [(5, 4), (4, 6), (6, 2)]),
    "attention": (lambda xp, x, w: xp.sum(xp.softmax((x @ w) @ xp.matrix_transpose(x), axis=-1) @ x), [(5, 4), (4, 4)]),
    "norm": (lambda xp, x, w: xp.sum(xp.layer_norm(x, 4, w) * x), [(5, 4), (4,)]),
    "broadcast": (lambda xp, x, y: xp.sum(xp.exp(x) * y + x / (1 + y * y)), [(3, 1), (4,)]),
    "unused": (lambda xp, x, y: xp.sum(x), [(3,), (4,)]),
    "twice": (lambda xp, x: xp.sum(x * x + x), [(3,)]),
    "through indexing": (lambda xp, x: xp.sum(x[1:, ::2] * x[:-1, :2])
                         + xp.max(xp.take(x, np.array([0, 2, 0]), axis=0)), [(3, 4)]),
    "several outputs of a row": (lambda xp, x: xp.sum(xp.split(x, [1], axis=0)[1] ** 2), [(3, 4)]),
    "joined": (lambda xp, x, y: xp.sum(xp.concat([x, y, x]) ** 2), [(3, 4), (2, 4)]),
    "an input is the result": (lambda xp, x: x, [()]),
    "kinks": (lambda xp, x: xp.sum(xp.maximum(x, 0.0) + xp.abs(x) + xp.clip(x, -0.5, 0.5)), [(9,)]),
    "power": (lambda xp, x, y: xp.sum(xp.exp(x) ** 3 + xp.exp(x) ** y), [(3,), (3,)]),
}


@pytest.mark.parametrize("name", CASES)
def test_as_eager(name):
    fn, shapes = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.standard_normal(s), F4) for s in shapes]
    tensors = [ag.asarray(a, requires_grad=True) for a in arrays]
    loss = fn(ag, *tensors)
    loss.backward()
    graph = build(lambda *xs: fn(xp, *xs), *[(s, F4) for s in shapes])
    both = verify(grad(graph, value=True))
    value, *gs = both.run(*arrays)
    np.testing.assert_array_equal(value, loss.detach().numpy())
    for g, t in zip(gs, tensors):
        want = np.zeros(t.shape, F4) if t.grad is None else t.grad.numpy()
        assert g.shape == want.shape and g.dtype == want.dtype
        np.testing.assert_allclose(g, want, rtol=1e-5, atol=1e-6)
    forward, backward = forward_backward(graph)
    verify(forward), verify(backward)
    out = run(forward, arrays)
    assert [r.kind for r in forward.roles] == ["result"] + ["saved"] * (len(out) - 1)
    for a, b in zip(run(backward, [*out[1:], np.ones((), F4)]), gs):
        np.testing.assert_array_equal(a, b)
    joint = verify(vjp(graph))
    for a, b in zip(run(joint, [*arrays, np.ones((), F4)])[1:], gs):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(run(optimize(both, check=True), arrays), (value, *gs)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_by_index_and_by_path():
    graph = build(lambda x, y: xp.sum(x * y), ((3,), F4), ((3,), F4))
    a, b = np.arange(3, dtype=F4), np.ones(3, F4)
    for wrt in (1, "y", ["y"], [graph.inputs[1]]):
        g = graph.grad(wrt)
        assert len(g.outputs) == 1 and g.roles[0].path == "grad.y"
        np.testing.assert_array_equal(g.run(a, b), a)


def test_what_has_no_gradient():
    with pytest.raises(GradientError, match="real floating scalar"):
        build(lambda x: x, ((3,), F4)).grad()
    with pytest.raises(GradientError, match="no input 'z'.*'x'"):
        build(lambda x: xp.sum(x), ((3,), F4)).grad("z")
    with pytest.raises(GradientError, match="input 'n'.*int64"):
        build(lambda x, n: xp.sum(x), ((3,), F4), ((3,), "int64")).grad("n")


def test_the_backward_keeps_bases_not_views():
    graph = build(lambda x, w: xp.sum(xp.sin(xp.broadcast_to(w, (100, 3))) * x.reshape(100, 3)),
                  ((300,), F4), ((3,), F4))
    forward, backward = forward_backward(graph)
    saved = [v for v, r in zip(forward.outputs, forward.roles) if r.kind == "saved"]
    assert sum(v.size for v in saved) <= 300 + 3 + 300
    assert all(v.node is None or v.node.op.view is None for v in saved)
    assert len(backward.inputs) == len(saved) + 1


def test_the_forward_does_no_backward_work():
    graph = build(lambda x: xp.sum(xp.softplus(x)), ((3,), F4))
    forward, backward = forward_backward(graph)
    assert forward.count() == graph.count()  # sigmoid(x), which only the rule wants, is computed in the backward
    assert backward.count() >= 2


def test_fused_graphs_are_differentiated():
    graph = build(lambda x: xp.sum(xp.exp(xp.sin(x) * 2)), ((3,), "float64"))
    x = np.arange(3.0)
    np.testing.assert_allclose(optimize(graph).grad().run(x), graph.grad().run(x))


def test_a_gradient_of_a_gradient():
    graph = build(lambda x: xp.sum(x * x * x), ((), "float64"))
    g2 = graph.grad().grad()
    assert g2.run(np.array(2.0)) == 12
    assert optimize(g2, check=True).run(np.array(2.0)) == 12
