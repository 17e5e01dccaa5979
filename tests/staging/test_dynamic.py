"""`dynamic=`: numbers that are inputs from the first call on; and what numbers that vary are computed with."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
from staging.worlds import Cases, T, attempt

import agog as ag
from agog.errors import ArgumentError, StagingError, StagingWarning

case = Cases()


def recordings(f):
    return sum(len(form.recordings) for form in f._forms.values())


def at_most(f, count, staged):
    """Observes, in the staged run, that there are not more recordings than that."""
    return not staged or recordings(f) <= count


@case(staged=True)
def computed_with_another_number(stage):
    @stage
    def f(x, lr, decay):
        return x * (1 - lr * decay), x - (decay - lr) / 2

    for lr in (0.1, 0.2, 0.3, 0.4):
        yield f(T(1, 2), lr, 0.5), at_most(f, 2, stage.staged)
    for decay in (0.6, 0.7, 0.8):
        for lr in (0.1, 0.2):
            yield f(T(1, 2), lr, decay), at_most(f, 3, stage.staged)


@case(staged=True)
def computed_with_one_that_python_looks_at(stage):
    @stage
    def f(x, lr, decay):
        if decay > 0:
            x = x * 2
        return x * (1 - lr * decay)

    for decay in (0.5, 0.7, -0.5, 0.5):
        for lr in (0.1, 0.2, 0.3, 0.4, 0.5):
            yield f(T(1, 2), lr, decay)
    yield at_most(f, 3, stage.staged)


@case(staged=True)
def computed_with_a_default(stage):
    def plain(x, lr, decay=0.5, *, scale=2.0):
        return x * (1 - lr * decay) / (scale + lr)

    f = stage(plain)
    for default in (0.5, 0.7):
        plain.__defaults__ = (default,)
        for lr in (0.1, 0.2, 0.3, 0.4):
            yield f(T(1, 2), lr)
    plain.__kwdefaults__ = {"scale": 3.0}
    for lr in (0.1, 0.2, 0.3, 0.4):
        yield f(T(1, 2), lr), f(T(1, 2), lr, 0.25), f(T(1, 2), lr, scale=0.5)


@case(staged=True)
def computed_with_one_that_is_assigned(stage):
    @stage
    def f(x, lr, decay):
        decay = decay * 2
        return x * (1 - lr * decay)

    for lr in (0.1, 0.2, 0.1, 0.2):
        yield f(T(1, 2), lr, 0.5)


@case(staged=True)
def computed_with_one_that_a_nested_function_assigns(stage):
    @stage
    def f(x, lr, decay):
        def change():
            nonlocal decay
            decay += 1

        change()
        return x * (lr * decay)

    for lr in (0.1, 0.2, 0.1, 0.2):
        yield f(T(1, 2), lr, 0.5)


@case(staged=True)
def numbers_of_numpy(stage):
    f = stage(lambda x, c: (x * c, c - x, x + (c - 0.5), x < c, ag.maximum(x, c)))
    for kind in (np.float64, np.float32, np.float16, np.int64, np.int8, float, int):
        for v in (1, 2, 3, 4, 5):
            yield f(ag.asarray([1, 2, 3]), kind(v)), f(T(1, 2, 3), kind(v))
        yield at_most(f, 40, stage.staged)
    g = stage(lambda x, c: (x + c, ag.asarray(c) * x))
    for v in (1, 2, 3, 100, 300, 5):
        yield attempt(g, ag.asarray([1, 2]).astype("int8"), np.int64(v))
    for v in (0.1, 1e300, 0.3, float("nan")):
        yield g(T(1, 2), np.float64(v))


test_staged_is_plain = case.test()


def test_a_schedule_of_numpy_makes_two_recordings():
    f = ag.function(lambda x, lr: x * (1 - lr))
    for lr in 0.5 * (1 + np.cos(np.linspace(0, 3, 1000))):
        assert type(lr) is np.float64
        assert f(T(2), lr).tolist() == (T(2) * (1 - lr)).tolist()
    assert recordings(f) == 2 and f.calls_staged == 998


@pytest.mark.parametrize("dynamic", ["lr", ("lr",), ["lr", "x"], {"lr"}, True])
def test_one_recording_from_the_first_call_on(dynamic):
    f = ag.function(lambda x, lr: x * (1 - lr), dynamic=dynamic, strict=True)
    for lr in (0.1, 0.2, 0.3):
        assert f(T(1, 2), lr).tolist() == (T(1, 2) * (1 - lr)).tolist()
    assert recordings(f) == 1 and f.calls_staged == 2


def test_of_a_method_and_by_keyword():
    class Model:
        w = T(3)

        @ag.function(dynamic="rate", strict=True)
        def step(self, x, *, rate):
            return x * self.w * rate

    m = Model()
    assert [m.step(T(1), rate=r).item() for r in (1.0, 2.0, 4.0)] == [3.0, 6.0, 12.0]
    assert recordings(Model.step) == 1
    bound = ag.function(m.step.__func__._fn.__get__(m), dynamic="rate", strict=True)
    assert [bound(T(1), rate=r).item() for r in (1.0, 2.0, 4.0)] == [3.0, 6.0, 12.0] and recordings(bound) == 1


def test_small_arrays():
    f = ag.function(lambda x, a: x * a, dynamic="a", strict=True)
    for i in range(3):
        assert f(T(1, 2), np.float32([i, i])).tolist() == [i, 2 * i]
    assert recordings(f) == 1


def test_false_counts_every_value():
    f = ag.function(lambda x, lr: x * lr, dynamic=False)
    for lr in (0.5, 1.0, 2.0, 0.5):
        assert f(T(2), lr).tolist() == [2 * lr]
    assert recordings(f) == 3


def test_true_takes_what_can_be_taken():
    f = ag.function(lambda x, n, c: x[:n] * c, dynamic=True, strict=True)
    for n in (1, 2, 1, 2):
        for c in (1.0, 2.0, 3.0):
            assert f(T(1, 2, 3), n, c).tolist() == [c, 2 * c][:n]
    # the first call learns that Python looks at n
    assert f._parameters.free == {"c"} and f._parameters.fixed == {"n"} and recordings(f) == 2


def helper(x, c):
    return x * c


def looks(x, c):
    return x * c if c > 0.5 else x


@pytest.mark.parametrize("fn, why", [
    (lambda x, c: x * math.sin(c), r"line \d+ of .*test_dynamic.py, c goes to something other than an operation"),
    (lambda x, c: x[:c], r"line \d+ of .*test_dynamic.py looks at its value, or assigns it"),
    (looks, r"line \d+ of .*test_dynamic.py, c goes to something other"),
    (lambda x, c: helper(x, c), "c goes to something other"),
])
def test_one_that_python_looks_at_is_named(fn, why):
    f = ag.function(fn, dynamic="c")
    with pytest.warns(StagingWarning, match=why) as seen:
        first = f(T(1, 2), 1)
    assert seen[0].filename == __file__ and "pass ag.asarray(c) instead" in str(seen[0].message)
    assert first.tolist() == fn(T(1, 2), 1).tolist() and "said to be dynamic" in f.explain()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once; from now on it counts by its value
        for c in (1, 2, 1, 2):
            assert f(T(1, 2), c).tolist() == fn(T(1, 2), c).tolist()
    assert f.calls_staged == 3
    with pytest.raises(StagingError, match=why):
        ag.function(fn, dynamic="c", strict=True)(T(1, 2), 1)


def test_one_that_only_another_path_looks_at_is_named():
    def f(x, c):
        if x.sum() > 0:
            return x * c
        return x * math.exp(c)

    staged = ag.function(f, dynamic="c")
    assert [staged(T(1), c).tolist() for c in (1.0, 2.0)] == [[1.0], [2.0]] and staged.calls_staged == 1
    with pytest.warns(StagingWarning, match="c is said to be dynamic"):
        assert staged(T(-1), 1.0).tolist() == f(T(-1), 1.0).tolist()


def test_source_not_at_hand():
    space: dict = {}
    exec("def f(x, c):\n    return x * c\n", space)
    f = ag.function(space["f"], dynamic="c")
    with pytest.warns(StagingWarning, match="the source of the function is not at hand"):
        assert f(T(2), 3.0).tolist() == [6.0]


@pytest.mark.parametrize("dynamic, message", [
    ("rate", "rate is not a parameter by name; those are x, lr"),
    (("lr", "y"), "y is not a parameter"),
    (3, "dynamic=3; give names of parameters"),
    ([1], r"dynamic=\[1\]; give names"),
    ("rest", "rest is not a parameter by name"),
])
def test_wrong_names(dynamic, message):
    with pytest.raises(ArgumentError, match=message):
        ag.function(lambda x, lr, *rest: x, dynamic=dynamic)


def test_of_an_object_without_names():
    class Callable:
        def __call__(self, x, lr):
            return x * lr

    with pytest.raises(ArgumentError, match="it has none; stage a function or a method"):
        ag.function(Callable(), dynamic="lr")


@ag.function(dynamic=("lr",), limit=3)
def kept(x, lr):
    return x * lr


def test_copies_keep_it():
    assert pickle.loads(pickle.dumps(kept)) is kept
    inner = ag.function(kept.__wrapped__, **copy.deepcopy(kept)._options())
    assert inner.dynamic == ("lr",) and inner.limit == 3
    assert [inner(T(1), r).item() for r in (0.5, 0.25)] == [0.5, 0.25] and recordings(inner) == 1
