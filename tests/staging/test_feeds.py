"""Python numbers and NumPy arrays as runtime inputs: one recording for all values, unless Python looks at them."""

import math
import sys

import numpy as np
import pytest
from staging.worlds import Cases, T, attempt

import agog as ag
from agog.errors import StagingWarning

case = Cases()
VALUES = (0.1, 0.2, 0.3, 1e-8, -0.0, 0.0, 1e30, float("inf"), float("nan"), 1 / 3)


def calls(f, count, staged):
    """Observes, in the staged run, that there are not more recordings than that."""
    made = sum(len(form.recordings) for form in f._forms.values()) if staged else count
    return min(made, count) == made


@case(staged=True)
def learning_rate(stage):
    w = T(1, 2, requires_grad=True)

    @stage
    def step(x, lr):
        ((w * x) ** 2).sum().backward()
        with ag.no_grad():
            w.assign(w - lr * w.grad)
        w.grad = None

    for v in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.01, 0.02):
        step(T(1, 2), v)
        yield w, calls(step, 2, stage.staged)


@case(staged=True)
def every_value_and_dtype(stage):
    @stage
    def f(x, c):
        return x * c, c + x, x - c, c / (x + 3), x > c, c <= x

    for dtype in ("float32", "float64", "float16", "int32", "bool"):
        for c in VALUES:
            yield f(ag.asarray([1, 2, 0]).astype(dtype), c)


@case(staged=True)
def whole_numbers(stage):
    f = stage(lambda x, n: (x * n, n - x, x + n / 2))
    for n in (1, 2, 3, 5, 7, -1, 0, 2**40):
        for dtype in ("float32", "int64"):
            yield f(ag.asarray([1, 2]).astype(dtype), n)
    for n in (1, 2, 1000, 3):
        yield attempt(f, ag.asarray([1, 2]).astype("int8"), n)


@case(staged=True)
def arithmetic_of_plain_numbers(stage):
    @stage
    def f(x, beta, t):
        y = x * (1 - beta) + -beta * 2 * x
        y += beta / 3
        return y - t * beta, (1 - t) * x / (2 * beta)

    for i in range(1, 8):
        yield f(T(1, 2), 0.1 * i, 0.3 * i), calls(f, 3, stage.staged)
    yield attempt(f, T(1, 2), 0.0, 1.0)


@case(staged=True)
def in_comprehensions_and_lambdas(stage):
    ws = [T(1), T(2)]

    @stage
    def f(x, lr, keep=0.5):
        new = [w - lr * x for w in ws]
        return ag.tree.map(lambda a, b: a * keep + b * (1 - keep), new, ws)

    for i in range(6):
        yield f(T(3), 0.1 * i, keep=0.2 * i), calls(f, 3, stage.staged)


@case(staged=True)
def arguments_of_operations(stage):
    @stage
    def f(x, c, low):
        return ag.clip(x, -c, c) + ag.maximum(x, low) + ag.where(x > low, x, c)

    for i in range(8):
        yield f(T(-3, 0, 2), 1.0 + i, 0.25 * i), calls(f, 3, stage.staged)


@case(staged=True)
def branch_on_a_tensor_compared_with_a_number(stage):
    @stage
    def f(x, limit):
        if x.sum() > limit:
            return x * limit
        return x - limit

    for limit in (1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 0.5, 30.0):
        yield f(T(1, 2), limit), calls(f, 4, stage.staged)


@case
def python_looks_at_it(stage):
    @stage
    def compared(x, c):
        return x * c if c > 0.25 else x + c

    @stage
    def called(x, c):
        return x * math.sin(c)

    @stage
    def shown(x, c):
        return x * c, f"{c:.3f}"

    @stage
    def stored(x, c):
        d = c
        return x * d if d < 0.2 else x

    @stage
    def indexed(x, n):
        return x[:n] * n

    for c in (0.1, 0.2, 0.3, 0.4):
        yield compared(T(1), c), called(T(1), c), shown(T(1), c), stored(T(1), c)
    for n in (1, 2, 3):
        yield indexed(T(1, 2, 3), n)


@case
def passed_to_functions_of_the_user(stage):
    def half(*args, c=1.0):
        return args[0] * (1.0 if args[-1] > 0.25 else 2.0) * c

    @stage
    def f(x, c):
        return half(x, c)

    @stage
    def g(x, c):
        return half(*[x], c)

    @stage
    def h(x, c):
        return half(*[x, c], c=1.0)

    @stage
    def k(x, c):
        return half(x, c=max(c, 0.2))

    for c in (0.1, 0.2, 0.3, 0.4):
        yield f(T(1), c), g(T(1), c), h(T(1), c), k(T(1), c)


@case
def sometimes_next_to_a_python_number(stage):
    others = [2.0, T(3)]

    @stage
    def f(x, c):
        y = x
        for other in others:
            y = y + other * c
        return y

    for c in (0.1, 0.2, 0.3, 0.4):
        yield f(T(1), c)


@case
def another_path_looks_at_it(stage):
    @stage
    def f(x, c):
        if x.sum() > 0:
            return x * c
        return x - c if c > 0.5 else x + c

    for c in (0.1, 0.2, 0.3, 0.9):
        yield f(T(1), c)
    for c in (0.1, 0.9, 0.2, 0.8):
        yield f(T(-1), c), f(T(1), c)


@case
def name_bound_again(stage):
    @stage
    def f(x, c):
        y = x * c
        c = 2.0
        return y * c

    @stage
    def g(x, c):
        def inner():
            nonlocal c
            c = c + 1
            return c

        inner()
        return x * c

    @stage
    def h(x, c):
        return x * c + eval("c")

    for c in (0.1, 0.2, 0.3):
        yield f(T(1), c), g(T(1), c), h(T(1), c)


@case
def lambda_kept_from_an_earlier_call(stage):
    kept = []

    @stage
    def f(x, c, keep):
        g = lambda: x * c  # noqa: E731
        if keep:
            kept.append(g)
        return (kept[0] if kept else g)()

    yield f(T(1), 2, True)
    for c in (1, 2, 3, 2, 4):
        yield f(T(1), c, False)


@case
def recursive(stage):
    @stage
    def f(x, c):
        if x.sum() > 10:
            return x
        return f(x + 1, 5.0) * c

    for c in (0.1, 5.0, 0.3, 0.4):
        yield f(T(8), c)


class Money(float):
    def __mul__(self, other):
        return float(self) * 2 * other

    __rmul__ = __mul__


@case
def subclasses_and_other_types(stage):
    f = stage(lambda x, c: c * x)
    for c in (0.1, 0.2, Money(0.3), np.float64(0.4), True, 1, 0.5, np.float32(0.6), 1 + 2j, 0.7):
        yield f(T(1), c)


@case(staged=True)
def keyword_and_default(stage):
    @stage
    def f(x, *, scale=1.0, bias=0.0):
        return x * scale + bias

    yield f(T(1)), f(T(1))
    for v in (1.5, 2.5, 3.5, 4.5):
        yield f(T(1), scale=v), f(T(1), bias=v), f(T(1), bias=v, scale=2 * v)


@case(staged=True)
def methods(stage):
    class Net:
        w = 2.0

        @stage
        def step(self, x, lr):
            return x * self.w - lr * x

        def plain(self, x, lr):
            return x * self.w - lr * x

    net = Net()
    bound = stage(net.plain)
    for lr in (0.1, 0.2, 0.3, 0.4, 0.5):
        yield net.step(T(1), lr), bound(T(1), lr)
    net.w = 3.0
    for lr in (0.1, 0.2, 0.3):
        yield net.step(T(1), lr), bound(T(1), lr)


@case(staged=True)
def gradient_through_it(stage):
    f = stage(lambda x, c: (x * x * c).sum())
    for c in (0.1, 0.2, 0.3, 0.4):
        x = T(1, 2, requires_grad=True)
        f(x, c).backward()
        yield x.grad, ag.grad(lambda x: f(x, c))(T(3, 4))  # noqa: B023


@case(staged=True)
def transformations_inside(stage):
    def loss(w, x):
        return ((w * x) ** 2).sum()

    @stage
    def f(w, x, lr):
        value, g = ag.value_and_grad(loss)(w, x)
        return w - lr * g, ag.vmap(lambda row: row * lr)(x)

    for lr in (0.1, 0.2, 0.3, 0.4):
        yield f(T(1, 2), T(1, 2, 3, 4).reshape(2, 2), lr)


# ------------------------------------------------------------------------------------------------- NumPy arrays
def big(i, n=5000):
    return np.random.default_rng(i).normal(size=n).astype(np.float32)


@case(staged=True)
def large_array(stage):
    @stage
    def f(x, batch):
        b = ag.asarray(batch)
        return (x * b).sum() + len(batch) + batch.shape[0]

    for i in range(5):
        yield f(T(2), big(i)), calls(f, 1, stage.staged)
    for i in range(3):
        yield f(T(2), big(i, 6000)), f(T(2), big(i).astype(np.float64))


@case(staged=True)
def large_array_as_an_operand(stage):
    f = stage(lambda x, batch: ((x * batch).sum(), (batch - x).sum(), ag.maximum(batch, x)[:3]))
    for i in range(5):
        yield f(T(2), np.abs(big(i))), calls(f, 1, stage.staged)


@case(staged=True)
def layout_and_byte_order(stage):
    f = stage(lambda x, a: (x + a, ag.asarray(a).astype("float64")))
    for i in range(3):
        a = big(i, 5000).reshape(50, 100)
        yield f(T(1), a), f(T(1), a.T), f(T(1), a[::2]), f(T(1), np.asfortranarray(a)), f(T(1), a.astype(">f4"))


@case(staged=True)
def small_array_from_its_second_value_on(stage):
    f = stage(lambda x, a: x * a + ag.asarray(a, dtype="float64").sum())
    for i in range(6):
        yield f(T(1, 2), np.array([i, 2.0], np.float32)), calls(f, 2, stage.staged)


@case(staged=True)
def array_changed_after_the_call(stage):
    f = stage(lambda a: ag.asarray(a))
    a = big(0)
    for i in range(4):
        y = f(a)
        a[:] = i
        yield y


@case(staged=True)
def array_changed_before_backward(stage):
    f = stage(lambda x, a: (x * a).sum())
    for i in range(4):
        a = big(i)
        x = T(1, requires_grad=True)
        y = f(x, a)
        a[:] = 0
        y.backward()
        yield x.grad


@case
def numpy_looks_at_it(stage):
    @stage
    def first(x, a):
        return x * float(a[0])

    @stage
    def total(x, a):
        return x + a.sum()

    @stage
    def computed(x, a):
        return x * (a * 2)

    @stage
    def changed(x, a):
        a += 1
        return x * a

    @stage
    def shared(x, a):
        return ag.asarray(a, copy=False) + x * 0

    for i in range(3):
        for n in (3, 5000):
            for f in (first, total, computed, changed, shared):
                a = big(i, n)
                yield f(T(1), a), a


test_staged_is_plain = case.test()


def test_bits_are_those_of_eager_code():
    f = ag.function(lambda x, c: (x * c, x / c, c - x, x + (1 - c) / 3), strict=True)
    g = f.__wrapped__
    x = ag.asarray(np.random.default_rng(0).normal(size=1000).astype(np.float32))
    for c in np.random.default_rng(1).normal(size=20).tolist():
        for a, b in zip(f(x, c), g(x, c)):
            np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))
    assert len(f._forms) == 2 and f.calls_staged == 18


def test_ten_thousand_values_make_two_recordings():
    f = ag.function(lambda x, c: x * c)
    x = T(1, 2)
    for i in range(10_000):
        f(x, i / 7)
    assert f.calls_staged == 9998 and "any float" in str(f.explain(x, 0.5)) + " ".join(f._history)


def test_one_that_python_looks_at_is_not_tried_again():
    f = ag.function(lambda x, c: x * math.cos(c))
    for i in range(5):
        f(T(1), float(i))
    assert f._parameters.fixed == {"c"} and not f._parameters.free


def test_message_for_large_arrays_that_python_sees():
    f = ag.function(lambda x, a: x * a[0])
    with pytest.warns(StagingWarning, match="argument a is a NumPy array of 20000 bytes"):
        for i in range(3):
            f(T(1), big(i))


def test_trace_function_is_given_back_and_respected():
    f = ag.function(lambda x, c: x * c)
    before = sys.gettrace()
    for i in range(4):
        f(T(1), float(i))
    assert sys.gettrace() is before
    seen = []

    def tracer(frame, event, arg):
        seen.append(event)

    g = ag.function(lambda x, c: x * c)
    sys.settrace(tracer)
    try:
        for i in range(4):
            y = g(T(1), float(i))
    finally:
        sys.settrace(before)
    assert y.item() == 3.0 and seen and not g._parameters.free and not g._parameters.fixed


def test_function_without_source():
    space = {"ag": ag}
    exec("def f(x, c):\n    return x * c\n", space)
    f = ag.function(space["f"])
    for i in range(4):
        assert f(T(2), float(i)).item() == 2.0 * i
    assert not f._parameters.free
