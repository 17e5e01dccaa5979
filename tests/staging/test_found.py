"""Programs that once gave something else staged than plainly, as random programs and reviews found them."""

import collections
import gc

import pytest

import agog as ag
from agog import config


def results(fn, calls, stage):
    f = stage(fn)
    return [f(*args) for args in calls], f


@pytest.fixture(params=[True, False], ids=["native", "interpreted"])
def native(request, monkeypatch):
    monkeypatch.setattr(config, "native", request.param)
    monkeypatch.setattr(config, "strict_compiler", True)


def test_a_shape_that_only_python_reads(native):
    """Native code does not look at an argument that no operation reads: its form is compared all the same."""
    f = ag.function(lambda x, y: x * y.shape[0])
    x = ag.ones(1)
    assert [f(x, ag.zeros(n)).item() for n in (5, 5, 7, 7, 9, 5)] == [5, 5, 7, 7, 9, 5]
    g = ag.function(lambda x, y: ag.zeros(y.shape, dtype=y.dtype) + x)
    assert [g(x, y).dtype for y in (ag.zeros(2), ag.zeros(2), ag.zeros(2, dtype="float64"))][2] == ag.float64
    with pytest.raises(ag.AgogError):  # what the failing operation gives is not needed
        h = ag.function(lambda x, y: (x + y, x)[1])
        for n in (2, 2, 3):
            h(ag.ones(2), ag.zeros(n))


def test_a_shape_in_a_place_that_only_python_reads(native):
    state = {"h": ag.zeros(3)}
    f = ag.function(lambda x: x * state["h"].shape[0])
    x = ag.ones(1)
    f(x), f(x)
    for n in (5, 7, 9, 3):
        state["h"] = ag.zeros(n)
        assert f(x).item() == n


def test_another_tensor_with_the_identity_of_one_that_is_gone(native):
    """A picture names Tensors by their identity, which another one gets when one goes."""
    for _ in range(5):
        items = [ag.zeros(3), ag.ones(2)]
        f = ag.function(lambda x: x * items[0].shape[0])  # noqa: B023
        x = ag.ones(1)
        f(x), f(x)
        gc.collect()
        before = id(items[0])
        items[0] = None
        others = [ag.zeros(4) for _ in range(30)]
        items[0] = next((t for t in others if id(t) == before), others[0])
        assert f(x).item() == 4


def test_the_gradient_of_a_leaf_that_was_assigned(native):
    """It goes to the leaf, not to what the new value was computed from."""
    p = ag.asarray([1.0, -2.0], requires_grad=True)

    @ag.function(strict=True)
    def f(x):
        p.assign(p * 0.5)
        return (p * x).sum(), (p * p).sum()

    @ag.function(strict=True)
    def g(x):
        with ag.no_grad():
            p.assign(p * 0.5 + 1)
        return (p * x).sum()

    x = ag.asarray([3.0, 4.0])
    for fn, more in ((f, 2), (g, 0)):
        for _ in range(3):
            p.grad = None
            out = fn(x)
            (sum(out) if more else out).backward()
            assert p.grad.tolist() == (x + more * p.detach()).tolist()
        assert fn.calls_staged >= 2


def test_a_result_that_depends_on_a_graph_that_was_used_up(native):
    p = ag.asarray([1.0, -2.0], requires_grad=True)

    @ag.function(strict=True)
    def f(x):
        loss = (p * x).sum()
        loss.backward()
        return loss * 2 + p.sum()

    for _ in range(4):
        out = f(ag.ones(2))
        with pytest.raises(ag.errors.GradientError):
            out.backward()
    assert f.calls_staged >= 2


def test_a_result_to_differentiate_beside_gradients_that_are_removed(native):
    """The first call found gradients from outside, used them, and left none."""
    p = ag.asarray([1.0, -2.0], requires_grad=True)

    @ag.function(strict=True)
    def f(x):
        y = (p * x).sum()
        (p * p).sum().backward()
        norm = (p.grad * p.grad).sum()
        p.grad = None
        return y, norm

    for n in (1.0, 2.0, 3.0, 4.0):
        p.grad = ag.full((2,), n)
        y, norm = f(ag.ones(2))
        assert norm.item() == sum((n + 2 * v) ** 2 for v in p.tolist())
        y.backward()
        assert p.grad.tolist() == [1, 1]
    assert f.calls_staged >= 2


def test_results_that_share_nothing_are_differentiated_one_after_the_other(native):
    """Going back from one result does not use up the graph of another."""
    p, q = ag.asarray([1.0, -2.0], requires_grad=True), ag.asarray([3.0, 0.5], requires_grad=True)

    @ag.function(strict=True)
    def f(x):
        shared = (q * x) ** 2
        return (p * p * x).sum(), shared.sum(), (shared * 2).sum()

    for _ in range(3):
        p.grad = q.grad = None
        a, b, c = f(ag.asarray([1.0, 2.0]))
        a.backward()
        assert p.grad.tolist() == [2, -8] and q.grad is None
        b.backward()
        assert q.grad.tolist() == [6, 4]
        with pytest.raises(ag.errors.GradientError):
            c.backward()


def test_a_gradient_beside_a_result_with_none(native):
    """A result that is not differentiated adds nothing, also where its derivative is infinite."""
    f = ag.function(lambda x: ((x * x).sum(), ag.log(x), x.sqrt()), strict=True)
    for _ in range(3):
        x = ag.asarray([0.0, 2.0], requires_grad=True)
        f(x)[0].backward()
        assert x.grad.tolist() == [0, 4]


def test_state_with_a_history_that_reaches_into_the_call_before(native):
    state = {"g": ag.zeros(())}

    @ag.function
    def f(x):
        out = state["g"] * 1
        state["g"] = (x * x).sum()
        return x * 2, out

    given = []
    for i in range(5):
        given.append(ag.asarray([1.0, i], requires_grad=True))
        y, out = f(given[-1])
        (y.sum() + out).backward()
        if i:
            assert given[-2].grad.tolist() == [4, 2 + 2 * (i - 1)]


def run(program):
    """What a program that takes `stage` yields, plainly and staged."""
    worlds = program(lambda f: f), program(ag.function)
    return [[y.tolist() if isinstance(y, ag.Tensor) else y for y in world] for world in worlds]


def test_whether_a_tensor_requires_a_gradient_that_nothing_reads(native):
    def program(stage):
        w, items = ag.ones(2), [ag.ones(2), ag.ones(3)]
        f = stage(lambda x: x * 2 if w.requires_grad else x * 3)
        g = stage(lambda x: x * sum(t.requires_grad for t in items))
        for i in range(8):
            if i == 3:
                w.requires_grad_()
            items[i % 2].requires_grad_(i not in (4, 5))
            yield f(ag.ones(1))
            yield g(ag.ones(1))

    plain, staged = run(program)
    assert plain == staged


def test_whether_an_argument_is_a_tensor_from_outside(native):
    def program(stage):
        a, b = ag.ones(2), ag.ones(2)
        cache = {"last": a}
        f = stage(lambda x: x * 2 if x is cache["last"] else x * 3)
        for last in (a, b):
            cache["last"] = last
            for x in (a, a, b, b, a):
                yield f(x)

    plain, staged = run(program)
    assert plain == staged


def test_the_class_of_an_argument(native):
    def program(stage):
        f = stage(lambda x: x * 2 if isinstance(x, ag.nn.Parameter) else x * len(type(x).__name__))
        one = ag.ones(1)
        kinds = [ag.Tensor, lambda t: ag.asarray(t.tolist(), requires_grad=True), ag.nn.Parameter, ag.nn.Buffer]
        for i in (0, 0, 2, 2, 1, 1, 3, 3, 2, 1, 0):
            yield f(kinds[i](one)).detach()

    plain, staged = run(program)
    assert plain == staged


def test_what_a_transformation_left_behind(native):
    """Eager code goes on with the inside of a jvp that has ended; recording does not fail because of it."""
    def program(stage):
        w = ag.ones(2)

        def leak(x):
            w.assign(x * 2)
            return x.sum()

        def halve(x):
            w.assign(w * 0.5)
            return x * 2

        f = stage(halve)
        ag.jvp(leak, (ag.ones(2),), (ag.ones(2),))
        for _ in range(3):
            yield f(ag.ones(2))

    plain, staged = run(program)
    assert plain == staged


def test_check_knows_another_path_of_the_same_operations(native):
    """check=True raised for a value that Python looked at, and that is another one now."""
    f = ag.function(lambda x: x * 2 if x.sum() > 0 else x * 3, check=True)
    g = ag.function(lambda x: x * min(float(x.sum()), 2.0), check=True)
    for v in (1.0, 2.0, -1.0, -2.0, 3.0, 0.5):
        x = ag.asarray([v])
        assert f(x).item() == (v * 2 if v > 0 else v * 3)
        assert g(x).item() == v * min(v, 2.0)


def test_a_result_does_not_depend_on_what_it_is_not_made_of(native):
    """A gradient had a history when the function also read, for nothing, something that requires a gradient."""
    p = ag.asarray([1.0, -2.0], requires_grad=True)

    def f(x):
        unused = p.sum()  # noqa: F841
        return x + x, (p * 2).sum()

    g = ag.function(f, strict=True)
    for fn in (f, g, g, g):
        value, grad = ag.value_and_grad(lambda x: fn(x)[0].sum())(ag.ones(2))  # noqa: B023
        assert not value.requires_grad and not grad.requires_grad
        x = ag.ones(2, requires_grad=True)
        y, z = fn(x)
        p.grad = None
        y.sum().backward()
        assert x.grad.tolist() == [2, 2] and p.grad is None
        z.backward()
        assert p.grad.tolist() == [2, 2]


@pytest.mark.parametrize("number", [
    lambda x, known: known[id(x)], lambda x, known: known[hash(x)], lambda x, known: known.get(hash(x), 7),
    lambda x, known: sum(known[k] for k in map(id, [x])), lambda x, known: known[min([x], key=id).shape[0] and id(x)],
    lambda x, known: known[id([x][0])]])
def test_the_number_that_says_which_tensor_an_argument_is(number):
    """`id(x)` of an argument is another one with the next: what was looked up with it is no constant."""
    a, b = ag.ones(2), ag.ones(2)
    known = {id(a): 2.0, id(b): 3.0, hash(a): 4.0, hash(b): 5.0}
    f = ag.function(lambda x: x * number(x, known))
    with pytest.warns(ag.errors.StagingWarning, match="asks which"):
        for x in (a, b, a, b):
            assert f(x).tolist() == [number(x, known)] * 2


def test_the_number_that_says_which_list_an_argument_is():
    one, other = [ag.ones(2)], [ag.ones(2)]
    seen = {id(one): 2.0, id(other): 3.0}
    f = ag.function(lambda xs: xs[0] * seen[id(xs)])
    with pytest.warns(ag.errors.StagingWarning, match="asks which object"):
        assert [f(xs).tolist()[0] for xs in (one, other, one, other)] == [2, 3, 2, 3]


def test_the_number_that_says_which_tensor_from_outside_it_is(native):
    """State that is kept by `id` of parameters, as optimizers of one's own do, is staged."""
    class Momentum:
        def __init__(self, params):
            self.params = params
            self.kept = {id(p): ag.zeros(2) for p in params}

        def step(self):
            for p in self.params:
                v = self.kept[id(p)]
                v.assign(0.9 * v + p)
                p.assign(p - v)

    def run(stage):
        params = [ag.ones(2), ag.ones(2) * 2]
        own = Momentum(params)
        step = stage(lambda x: (own.step(), x * 2)[1])
        return [[step(ag.ones(2) * i), *[p.tolist() for p in params]][1:] for i in range(4)]

    assert run(lambda f: ag.function(f, strict=True)) == run(lambda f: f)


@pytest.mark.filterwarnings("ignore:agog.function. <lambda> runs eagerly. it asks which")
def test_the_number_that_says_which_tensor_a_place_holds(native):
    class Net:
        state = ag.ones(2)

    net, known = Net(), {}
    f = ag.function(lambda x: x * known.get(id(net.state), 0.0))
    for i in range(6):
        net.state = ag.ones(2) * i
        known[id(net.state)] = float(i)
        assert f(ag.ones(1)).item() == i
        known.clear()


def test_a_named_tuple_that_does_more_with_its_arguments(native):
    class Twice(collections.namedtuple("Twice", "a b")):
        def __new__(cls, a, b):
            return super().__new__(cls, a * 2, b)

    f = ag.function(lambda x: Twice(x, x), strict=True)
    for i in range(4):
        a, b = f(ag.ones(2) * i)
        assert a.tolist() == [2 * i] * 2 and b.tolist() == [i] * 2
