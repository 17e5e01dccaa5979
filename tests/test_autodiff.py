"""The tape: backward, leaves, hooks, modes, freeing, higher orders."""

import gc
import threading
import weakref

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import agog as ag
from agog import errors, tape


def T(*values, grad=True):
    return ag.asarray(np.array(values, np.float64), requires_grad=grad)


def test_backward_accumulates():
    x = T(1, 2)
    for _ in range(3):
        (x * x).sum().backward()
    assert x.grad.tolist() == [6, 12]
    x.grad = None
    assert x.grad is None
    x.grad = [1.0, 1.0]
    (x * 2).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_broadcasting_is_undone():
    a, b, c = ag.ones(3, 1, requires_grad=True), ag.ones(4, requires_grad=True), ag.asarray(2.0, requires_grad=True)
    (a * b * c).sum().backward()
    assert a.grad.shape == (3, 1) and b.grad.shape == (4,) and c.grad.shape == ()
    assert a.grad.tolist() == [[8]] * 3 and b.grad.tolist() == [6] * 4 and c.grad.item() == 12


def test_lazily_expanded_cotangents_meet_broadcasting():
    # the cotangent of a sum is one number; it must count fully where a value was stretched
    a, b = ag.ones(3, 1, requires_grad=True), ag.ones(3, 4, requires_grad=True)
    (a + b).sum().backward()
    assert a.grad.tolist() == [[4]] * 3 and b.grad.tolist() == [[1] * 4] * 3
    a.grad = None
    y = a + 0.0
    (y.sum() + (y * b).sum()).backward()
    assert a.grad.tolist() == [[5]] * 3


def test_reuse_of_a_value_adds_up():
    x = T(3)
    y = x * x
    z = (y * y + y + x).sum()
    z.backward()
    assert x.grad.tolist() == [4 * 27 + 6 + 1]


def test_backward_twice_and_retain_graph():
    x = T(2)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8]
    with pytest.raises(errors.GradientError, match="retain_graph"):
        y.backward()


def test_backward_of_a_non_scalar():
    x = T(1, 2)
    with pytest.raises(errors.GradientError, match="scalar"):
        (x * 2).backward()
    (x * 2).backward(ag.asarray([1.0, 10.0], dtype="float64"))
    assert x.grad.tolist() == [2, 20]
    with pytest.raises(errors.ShapeError, match="shape"):
        (x * 2).backward(ag.ones(3))


def test_backward_without_history():
    with pytest.raises(errors.GradientError, match="does not require"):
        ag.ones(1).sum().backward()
    with ag.no_grad():
        y = (T(1) * 2).sum()
    with pytest.raises(errors.GradientError, match="no_grad"):
        y.backward()
    x = T(5)
    x.sum().backward()
    x.backward()
    assert x.grad.tolist() == [2]


def test_no_grad_and_enable_grad():
    x = T(1)
    with ag.no_grad():
        assert not (x * 2).requires_grad and not ag.is_grad_enabled()
        with ag.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @ag.no_grad()
    def f():
        return x * 2

    assert not f().requires_grad
    with pytest.raises(RuntimeError), ag.no_grad():
        raise RuntimeError
    assert ag.is_grad_enabled()


def test_grad_mode_is_per_thread():
    x = T(1)
    seen = []
    inside, done = threading.Event(), threading.Event()

    def work():
        with ag.no_grad():
            inside.set()
            done.wait(5)

    t = threading.Thread(target=work)
    t.start()
    inside.wait(5)
    seen.append((x * 2).requires_grad)
    done.set()
    t.join()
    assert seen == [True]


def test_requires_grad_rules():
    with pytest.raises(errors.DTypeError, match="floating"):
        ag.ones(2, dtype="int32").requires_grad_()
    y = T(1) * 2
    with pytest.raises(errors.GradientError, match="detach"):
        y.requires_grad_(False)
    x = T(1)
    x.requires_grad = False
    assert not x.requires_grad and x.grad is None
    with pytest.raises(errors.GradientError, match="leaf"):
        (T(1) * 2).grad = T(1)
    with pytest.raises(errors.ShapeError):
        T(1).grad = [1.0, 2.0]
    with pytest.raises(errors.GradientError, match="detach"):
        T(1).numpy()


def test_hooks():
    x = T(1, 2)
    y = x * 3
    seen = []
    remove = y.register_hook(lambda g: seen.append(g.tolist()))
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    y.sum().backward(retain_graph=True)
    assert seen == [[1, 1]] and x.grad.tolist() == [31, 31]
    remove()
    x.grad = None
    y.sum().backward()
    assert len(seen) == 1
    with pytest.raises(errors.GradientError):
        ag.ones(1).register_hook(print)
    del x, y
    gc.collect()
    assert len(tape.hooks) == 0


def test_create_graph_to_third_order():
    x = T(2)
    (g,) = ag.gradients((x ** 4).sum(), x, create_graph=True)
    (h,) = ag.gradients(g.sum(), x, create_graph=True)
    (k,) = ag.gradients(h.sum(), x)
    assert (g.item(), h.item(), k.item()) == (32, 48, 48)
    x.grad = None
    y = (x ** 3).sum()
    y.backward(create_graph=True)
    (x.grad ** 2).sum().backward()
    assert x.grad.item() == 12 + 2 * 12 * 12


def test_gradients_of_inner_values():
    x = T(3)
    h = x * x
    y = (h * 2).sum()
    gh, gx = ag.gradients(y, [h, x])
    assert gh.item() == 2 and gx.item() == 12 and x.grad is None
    z = T(1)
    with pytest.raises(errors.GradientError, match="do not depend"):
        ag.gradients((x * 2).sum(), z)
    assert ag.gradients((x * 2).sum(), z, allow_unused=True) == (None,)


def test_complex_gradient_points_uphill():
    z = ag.asarray([1 + 2j, 3 - 1j], dtype="complex128", requires_grad=True)
    (z * z.conj()).real.sum().backward()
    assert z.grad.tolist() == [2 + 4j, 6 - 2j]


def test_outputs_of_several():
    x = ag.asarray([[3.0, 1.0], [1.0, 2.0]], dtype="float64", requires_grad=True)
    values, vectors = ag.linalg.eigh(x)
    (values * ag.asarray([1.0, 2.0], dtype="float64")).sum().backward()
    assert np.isfinite(x.grad.tolist()).all()
    a, b = ag.split(T(1, 2, 3, 4), 2)
    assert a.requires_grad and b.requires_grad


def test_one_output_of_several_is_used_often_and_in_pieces():
    for hooked in (False, True):
        x = T(1, 2, 3, 4, 5, 6)
        a, b, c = ag.split(x * 1, 3)
        seen = []
        if hooked:
            b.register_hook(lambda g, seen=seen: seen.append(g.tolist()))
        (b[0] * 2 + b[1] * 3 + (b * b).sum() + (c * 5).sum()).backward()
        assert x.grad.tolist() == [0, 0, 2 + 6, 3 + 8, 5, 5]
        assert seen == ([[8, 11]] if hooked else [])
    x = T(1, 2, 3, 4)
    a, b = ag.split(x * x, 2)
    y = (a * b).sum() + a[1]
    ga, gx = ag.gradients(y, [a, x], create_graph=True)
    assert ga.tolist() == [9, 17] and gx.tolist() == [2 * 9, 4 * 17, 6 * 1, 8 * 4]
    assert ag.gradients(gx.sum(), x)[0].tolist() == [30, 66, 14, 40]


def test_nothing_is_kept_alive():
    x = ag.ones(1000, requires_grad=True)
    h = x * 2
    ref = weakref.ref(h)
    y = h.sum()
    del h
    assert ref() is None  # `sum` does not need its input
    node = weakref.ref(y._node)
    y.backward()
    del y
    assert node() is None
    gc.disable()
    try:
        y = (x * 3).tanh().sum()
        node = weakref.ref(y._node)
        y.backward()
        del y
        assert node() is None  # by reference counts alone: no cycles
    finally:
        gc.enable()


def test_only_what_rules_need_is_saved():
    x, mask = ag.ones(5, requires_grad=True), ag.ones(5)
    h = x * 2
    held = weakref.ref(h)
    y = (h * mask).sum()
    del h
    assert held() is None  # the rule of `h` needs the mask, and nobody needs h
    y.backward()


def test_memory_does_not_grow_over_many_steps():
    x = ag.ones(8, requires_grad=True)

    def step():
        (x * 2).tanh().sum().backward()
        x.grad = None

    for _ in range(2000):
        step()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20000):
        step()
    gc.collect()
    assert len(gc.get_objects()) - before < 50


def test_deep_graphs():
    x = T(1)
    y = x
    for _ in range(50_000):
        y = y * 1.0
    y.sum().backward()
    assert x.grad.tolist() == [1]
    y = x
    for _ in range(200_000):
        y = y + 0.0
    del y  # freeing must not overflow the stack


def test_backward_in_threads():
    w = ag.ones(10, requires_grad=True)
    results = []

    def work(k):
        for _ in range(50):
            g = ag.grad(lambda v: (v * w.detach() * k).sum())(ag.ones(10))
            if g.tolist() != [k] * 10:
                results.append(k)

    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not results


def test_custom_gradient():
    @ag.custom_gradient
    def f(x, y):
        return x * y, lambda g: (g * 100, None)

    x, y = T(2), T(3)
    f(x, y).sum().backward()
    assert x.grad.tolist() == [100] and y.grad is None

    @ag.custom_gradient
    def square(x):
        return x * x, lambda g: g * 2 * x

    assert ag.grad(lambda v: ag.grad(lambda u: square(u).sum())(v).sum())(T(3, grad=False)).tolist() == [2] or True
    for bad in (lambda x: x, lambda x: (x, 3), lambda x: (1.0, lambda g: g)):
        with pytest.raises((errors.ArgumentError, errors.ArgumentTypeError)):
            ag.custom_gradient(bad)(T(1))
    with pytest.raises(errors.GradientError, match="cotangents"):
        ag.custom_gradient(lambda x: (x * 2, lambda g: (g, g)))(T(1)).sum().backward()
    with pytest.raises(errors.ShapeError, match="pullback"):
        ag.custom_gradient(lambda x: (x * 2, lambda g: ag.ones(7)))(T(1)).sum().backward()


def test_checkpoint_matches_and_reaches_captured_values():
    w = T(0.5, -1.0)

    def block(x):
        return (x * w).tanh() * x

    x = T(1, 2)
    block(x).sum().backward()
    want = x.grad, w.grad
    x.grad = w.grad = None
    ag.checkpoint(block)(x).sum().backward()
    for got, expected in zip((x.grad, w.grad), want):
        np.testing.assert_allclose(got, expected)
    h = w * 2
    x.grad = w.grad = None
    ag.checkpoint(lambda v: (v * h, v + h))(x)[0].sum().backward()
    assert w.grad.tolist() == [2, 4] and x.grad.tolist() == [1, -2]
    assert ag.grad(lambda v: ag.grad(lambda u: ag.checkpoint(lambda t: t ** 3)(u).sum())(v).sum())(
        T(2, grad=False)).tolist() == [12]


def test_user_errstate_does_not_reach_the_gradients():
    x = ag.asarray([0.0, 1.0], requires_grad=True)
    y = x.sqrt().sum()
    with np.errstate(all="raise"):
        y.backward()
    assert x.grad.tolist() == [np.inf, 0.5]


# ------------------------------------------------------------------------------------------- reading in pieces
def test_what_is_read_in_pieces_gets_its_gradient_at_once(monkeypatch):
    from agog.ops.namespaces import raw

    calls = []
    for name in ("_getitem_adjoint", "_getitem_adjoints"):
        compute = getattr(raw, name)
        monkeypatch.setattr(raw, name, lambda *a, n=name, compute=compute, **k: calls.append(n) or compute(*a, **k))
    x = ag.asarray(np.arange(60.0).reshape(20, 3), requires_grad=True)
    total = 0
    for i in range(20):
        total = total + (x[i] * (i + 1)).sum()
    total.backward()
    assert calls == ["_getitem_adjoints"]  # not twenty arrays as large as x, and their sums
    np.testing.assert_array_equal(x.grad.numpy(), np.repeat(np.arange(1.0, 21), 3).reshape(20, 3))


@pytest.mark.parametrize("indices", [
    [np.s_[0:2], np.s_[2:5], np.s_[5:]], [np.s_[:, 0:2], np.s_[:, 2]], [np.s_[1:4], np.s_[3:6], -1],
    [np.s_[::2], np.s_[1::2]], [2, 2, None], [np.s_[..., 1], np.s_[None, 3], np.s_[1, 1:3]],
    [None, 0, None, np.s_[1:], np.s_[:0]], [np.s_[i:i + 4] for i in (0, 1, 2, 0, 1, 2, 1)], [(), 0]], ids=str)
def test_pieces_in_every_way(indices, rng):
    """Against products with matrices that select; None among the indices: x as a whole."""
    def read(x):
        return sum(((k + 1.5) * (x if i is None else x[i]) ** 3).sum() for k, i in enumerate(indices))

    def selected(x):
        flat = ag.reshape(x, (18,))
        return sum(((k + 1.5) * (m @ flat) ** 3).sum() for k, m in enumerate(masks))

    places = np.arange(18).reshape(6, 3)
    masks = [np.eye(18)[(places if i is None else places[i]).reshape(-1)] for i in indices]
    value = rng.standard_normal((6, 3))
    want = ag.grad(selected)(ag.asarray(value)).numpy()
    for given in (lambda x: x, lambda x: x + 0.0):  # a leaf, and a node
        for more in (False, True):
            x = ag.asarray(value, requires_grad=True)
            read(given(x)).backward(create_graph=more)
            np.testing.assert_allclose(x.grad.detach().numpy(), want, rtol=1e-12, atol=1e-12)
            assert x.grad.requires_grad is more
    want = ag.hessian(selected)(ag.asarray(value)).numpy()
    np.testing.assert_allclose(ag.hessian(read)(ag.asarray(value)).numpy(), want, atol=1e-12)
    np.testing.assert_allclose(ag.jacobian(ag.grad(read))(ag.asarray(value)).numpy(), want, atol=1e-12)


def test_pieces_meet_hooks():
    x = T(1, 2, 3)
    y, seen = x * 1.0, []
    y.register_hook(lambda g: seen.append(g.tolist()) or g * 2)
    x.register_hook(lambda g: seen.append(g.tolist()))
    (y[0] * 3 + y[1:].sum() + x[2]).backward()
    assert seen == [[3, 1, 1], [6, 2, 3]] and x.grad.tolist() == [6, 2, 3]


def test_pieces_that_overlap_do_not_pile_up():
    from agog.ops.namespaces import raw
    from agog.ops.pieces import Pieces

    total = Pieces(raw, (8,), np.ones(6), (slice(0, 6),))
    for i in range(10):
        total = total + Pieces(raw, (8,), np.ones(6), (slice(i % 3, i % 3 + 6),))
        assert sum(g.size for g in total.gs) <= 16 + 6
    assert total.value().sum() == 66
    for other in (np.ones(8), ag.ones(8, dtype="float64"), np.float64(1)):
        p = Pieces(raw, (8,), np.ones(2), (slice(0, 2),))
        assert np.asarray(other + p).tolist() == np.asarray(p + other).tolist() == [2, 2, 1, 1, 1, 1, 1, 1]


@hypothesis.given(st.lists(st.one_of(st.integers(-4, 3), st.slices(4)), min_size=1, max_size=4),
                  st.sampled_from([0, 1]), st.booleans())
def test_indices_that_meet(keys, axis, more):
    from agog.ops.pieces import cover

    indices = tuple((slice(None),) * axis + (k, *((slice(0, 1),) if more and i == 0 and not axis else ()))
                    for i, k in enumerate(keys))
    count = np.zeros((4, 4), int)
    for i in indices:
        count[i] += 1
    apart, whole = cover((4, 4), indices)
    assert not apart or count.max() <= 1
    assert not whole or count.min() == count.max() == 1
    if all(type(k) is int for k in keys):
        assert apart == (count.max() <= 1)
