"""Loops whose number of turns depends on Tensors: one recording, or as many as before, and never another result."""

import re

import numpy as np
import pytest
from staging.worlds import Cases, T, attempt

import agog as ag
from agog.staging.loops import Flow

case = Cases()
STARTS = (1.0, 5.0, 20.0, 0.1, 100.0, 50.0, 3.0, 0.2, 7.0)


def scalar(v, **kw):
    return ag.asarray(np.float32(v), **kw)


def number(n):
    return ag.asarray(np.int64(n))


# ------------------------------------------------------------------------------------------- what becomes one loop
@case(staged=True)
def newton(stage):
    @stage
    def root(a):
        x = a / 2
        while abs(x * x - a) > 1e-4 * a:
            x = (x + a / x) / 2
        return x * 1

    for v in (2, 9, 1e4, 3, 4, 0.01, 100, 7):
        yield root(scalar(v))


@case(staged=True)
def do_while(stage):
    @stage
    def root(a):
        x = a / 2
        while True:
            new = (x + a / x) / 2
            if abs(new - x) < 1e-4 * a:
                break
            x = new
        return new

    for v in (2, 9, 1e4, 3, 4, 0.01, 100, 7):
        yield root(scalar(v))


@case(staged=True)
def for_with_break_and_else(stage):
    @stage
    def f(x):
        for _ in range(6):
            x = x * 0.5
            if x.sum() < 1:
                break
        else:
            x = x + 100
        return x

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def return_from_inside(stage):
    @stage
    def f(x):
        for i in range(60):
            x = x * 0.5
            if x.sum() < 1:
                return x * 2, "early"
            x = x + 0.01 * i
        return x, "late"

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def continue_and_two_ways(stage):
    @stage
    def f(x):
        n = ag.asarray(0)
        while n < 10:
            n = n + 1
            if x.sum() < 3:
                continue
            if x.max() > 10:
                x = x * 0.25
            else:
                x = x * 0.5
        return x

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def condition_of_two_parts(stage):
    @stage
    def f(x):
        n = ag.asarray(0)
        while x.sum() > 1 and n < 5:
            x, n = x * 0.5, n + 1
        return x, n

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def loop_in_a_helper(stage):
    def far(x, a):
        return bool(abs(x * x - a) > 1e-4 * a)

    def root(a):
        x = a / 2
        while far(x, a):
            x = (x + a / x) / 2
        return x

    @stage
    def f(a):
        return root(a) + root(a + 1)

    for v in (2, 9, 1e4, 3, 4, 0.01, 100, 7):
        yield f(scalar(v))


@case(staged=True)
def method_that_changes_tensors(stage):
    class State:
        def __init__(self, x):
            self.x = x

        def step(self):
            self.x = self.x * 0.5

    @stage
    def f(x):
        state = State(x * 1)
        while state.x.sum() > 1:
            state.step()
        return state.x

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def counted_by_a_tensor(stage):
    @stage
    def direct(x, n):
        for _ in range(int(n)):
            x = x * 0.9 + 1
        return x

    @stage
    def item(x, n):
        for _ in range(n.item()):
            x = x * 0.9 + 1
        return x

    @stage
    def index(x, n):
        for _ in range(n):
            x = x * 0.9 + 1
        return x

    @stage
    def variable(x, n):
        m = int(n)
        for _ in range(m):
            x = x * 0.9 + 1
        for _ in range(m):
            x = x - 1
        return x

    for f in (direct, item, index, variable):
        for n in (5, 3, 0, 1, 2, 7, 20, -4, 40, 11):
            yield f(T(1, 2), number(n))


@case(staged=True)
def number_of_turns_is_read_elsewhere(stage):
    @stage
    def f(x, n):
        m = int(n)
        for _ in range(m):
            x = x * 0.9 + 1
        return x / m

    for n in (5, 3, 5, 3, 1, 2):
        yield f(T(1, 2), number(n))


@case(staged=True)
def rounded_number_of_turns(stage):
    import math

    @stage
    def f(x, n):
        for _ in range(math.gcd(n, 12)):
            x = x * 0.9 + 1
        return x

    for n in (3, 6, 4, 3, 12, 5):
        yield f(T(1, 2), number(n))


@case(staged=True)
def variable_of_a_for(stage):
    @stage
    def f(x, n):
        for i in range(int(n)):
            x = x * 0.9 + 0.5**i
            if i == 8:
                x = x * 3
        return x

    for n in (5, 3, 0, 1, 2, 7, 20, 6, 9, 8, 19, 20):
        yield f(T(1, 2), number(n))


@case(staged=True)
def variable_of_a_for_after_it(stage):
    @stage
    def f(x, n):
        i = -1
        for i in range(int(n)):  # noqa: B007
            x = x * 0.9 + 1
        return x * i, i

    for n in (5, 3, 0, 5, 3, 1):
        yield f(T(1, 2), number(n))


def sequence():
    return ag.asarray(np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))


@case(staged=True)
def elements_of_a_sequence(stage):
    @stage
    def plain(xs, n):
        h = ag.zeros(4)
        for t in range(int(n)):
            h = ag.tanh(xs[t] + h * 0.5)
            if h.sum() > 1:
                h = h * 0.5
        return h

    @stage
    def from_the_end(xs, n):
        h = ag.zeros(4)
        for t in range(int(n)):
            h = ag.tanh(xs[-t - 1, 1:3].sum() + h * 0.5 + xs[:, t % 4].sum())
        return h

    @stage
    def by_a_list(xs, n):
        h, order = ag.zeros(4), [*range(4), *range(11, -1, -1)]
        for t in range(int(n)):
            h = ag.tanh(xs[order[t]] + h * 0.5)
        return h

    @stage
    def one_is_special(xs, n):
        h = ag.zeros(4)
        for t in range(int(n)):
            h = ag.tanh(xs[t] + h * 0.5)
            if t == 6:
                h = h + 1
        return h

    @stage
    def twice(xs, n):
        h = ag.zeros(4)
        for t in range(int(n)):
            h = ag.tanh(xs[t] + h * 0.5)
            for part in ([1.0] * 12, xs):
                h = h + part[t]
        return h

    @stage
    def left(xs, n):
        h, c = ag.zeros(4), n + 0
        for t in range(12):
            h = ag.tanh(xs[t] + h * 0.5)
            c = c - 1
            if c < 0:
                break
        return h

    @stage
    def counter(xs, n):
        h, k = ag.zeros(4), 0
        while k < n:
            h = ag.tanh(xs[k] + h * 0.5)
            k += 1
        return h

    for f in (plain, from_the_end, by_a_list, one_is_special, twice, left, counter):
        for n in (2, 3, 0, 1, 2, 7, 12, 6, 13, 5, 9, 12):
            yield attempt(f, sequence(), number(n))


@case(staged=True)
def gradient_through_a_sequence(stage):
    w = T(0.5, 0.7, 0.3, 0.1, requires_grad=True)

    @stage
    def f(xs, n):
        h = ag.zeros(4)
        for t in range(int(n)):
            h = ag.tanh(xs[t] + h * w)
        return h

    for n in (3, 5, 0, 1, 12, 7):
        xs = sequence().requires_grad_()
        y = f(xs, number(n))
        if n:
            (y * T(1, 2, 3, 4)).sum().backward()
        yield y, xs.grad, w.grad
        w.grad = None


@case(staged=True)
def nested_loops(stage):
    @stage
    def f(x):
        n = ag.asarray(3)
        while n > 0:
            y = x
            while y.sum() > 1:
                y = y * 0.5
            for i in range(3):
                y = y + i
            x = x * 0.5 + y
            n = n - 1
        return x

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def random_numbers(stage):
    @stage
    def f(x):
        n = ag.asarray(0)
        while x.sum() > 1:
            u = ag.random.uniform((2,))
            if u[0] > 0.5:
                x = x * u
            else:
                x = x * 0.9
            n = n + 1
        return x, n

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def state_is_written_once(stage):
    w = T(8.0, 4.0)

    @stage
    def f(x):
        while w.sum() > x.sum():
            w.assign(w * 0.5)
        return w * 2

    for v in STARTS:
        yield f(T(v / 10, v / 20)), w
        w.assign(T(8.0, 4.0 + v))


# ------------------------------------------------------------------------------ what Python could tell the turns by
@case(staged=True)
def first_turn_is_different(stage):
    @stage
    def f(x):
        first = True
        while x.sum() > 1:
            x = x * 0.7 if first else x * 0.5
            first = False
        return x

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def turns_alternate(stage):
    @stage
    def f(x):
        odd = True
        while x.sum() > 1:
            x = x * 0.7 if odd else x * 0.5
            odd = not odd
        return x

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def later_turn_is_different(stage):
    @stage
    def f(x):
        k = 0
        while x.sum() > 1:
            k += 1
            x = x * (0.5 if k < 5 else 0.9)
        return x

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def counters(stage):
    class Count:
        def __init__(self):
            self.n = 0

        def step(self):
            self.n += 1

    @stage
    def plain(x):
        k = 0
        while x.sum() > 1:
            x = x * 0.5
            k += 1
        return x, k

    @stage
    def shared(x):
        k = 0

        def step():
            nonlocal k
            k += 1

        while x.sum() > 1:
            x = x * 0.5
            step()
        return x * k

    @stage
    def attribute(x):
        c = Count()
        while x.sum() > 1:
            x = x * 0.5
            c.step()
        return x * c.n

    @stage
    def of_the_caller(x):
        c = Count()

        def halve(x, c):
            while x.sum() > 1:
                x = x * 0.5
                c.n += 1
            return x

        return halve(x, c) * c.n

    for f in (plain, shared, attribute, of_the_caller):
        for v in (4.0, 9.0, 2.0, 9.0, 4.0, 1.0):
            yield f(T(v, v / 2))


@case(staged=True)
def lists(stage):
    @stage
    def tensors(x):
        out = []
        while x.sum() > 1:
            x = x * 0.5
            out.append(x)
        return out

    @stage
    def numbers(x):
        out = []

        def note(v):
            out.append(v)

        while x.sum() > 1:
            x = x * 0.5
            note(1)
        return x * len(out)

    for f in (tensors, numbers):
        for v in (4.0, 9.0, 2.0, 9.0, 4.0, 1.0):
            yield f(T(v, v / 2))


@case
def side_effects(stage):
    seen, count = [], {"n": 0}

    @stage
    def prints(x):
        while x.sum() > 1:
            x = x * 0.5
            print("turn")
        return x

    @stage
    def appends(x):
        while x.sum() > 1:
            x = x * 0.5
            seen.append(1)
        return x

    @stage
    def counts(x):
        while x.sum() > 1:
            x = x * 0.5
            count["n"] += 1
        return x

    @stage
    def resets(x):
        while x.sum() > 1:
            x = x * (0.5 if count["n"] % 2 else 0.25)
            count["n"] += 1
        count["n"] = 0
        return x

    @stage
    def iterates(x):
        factors = iter([0.5, 0.6, 0.7] * 50)
        while x.sum() > 1:
            x = x * next(factors)
        return x

    @stage
    def generates(x):
        def halves(v):
            while v.sum() > 1:
                yield v
                v = v * 0.5

        total = x
        for v in halves(x):
            total = total + v
        return total

    for f in (prints, appends, counts, resets, iterates, generates):
        count["n"] = 0
        for v in (4.0, 9.0, 2.0, 9.0, 4.0, 1.0, 30.0):
            yield f(T(v, v / 2)), list(seen), dict(count)


@case
def staged_prints(stage):
    @stage
    def f(x):
        while x.sum() > 1:
            x = x * 0.5
            ag.print("half", x)
        return x

    for v in (4.0, 9.0, 2.0, 9.0, 4.0, 1.0):
        yield f(T(v, v / 2))


@case(staged=True)
def errors_in_a_turn(stage):
    @stage
    def f(x):
        while x.sum() > 1:
            x = x * 0.5
            if x[0] > 30:
                raise ValueError("too much")
            ag.assert_(x[0] < 20, "too much as well")
        return x

    for v in STARTS:
        yield attempt(f, T(v, v / 2))


@case(staged=True)
def cleaning_up(stage):
    @stage
    def f(x):
        while True:
            try:
                with ag.no_grad():
                    x = x * 0.5
                if x.sum() < 1:
                    break
            finally:
                x = x + 0.01
        return x

    for v in STARTS:
        yield f(T(v, v / 2))


# ------------------------------------------------------------------------------------- what variables hold
@case(staged=True)
def bound_in_the_loop(stage):
    @stage
    def f(x):
        while x.sum() > 1:
            y = x * 2
            x = x * 0.5
        return x + y

    for v in STARTS:
        yield attempt(f, T(v, v / 2))


@case(staged=True)
def same_tensor_comes_back(stage):
    @stage
    def f(x):
        while x.sum() > 1:
            x = x * 0.5
        return x

    for v in STARTS:
        x = T(v, v / 2)
        y = f(x)
        yield y, y is x


@case(staged=True)
def exchanged(stage):
    @stage
    def f(x):
        a, b, t = x, x + 1, x.sum()
        while t < 100:
            a, b = b, a
            t = t * 2 + 1
        return a, b

    for v in STARTS:
        x = T(v, v / 2)
        a, b = f(x)
        yield a, b, a is x, b is x


@case(staged=True)
def exchanged_and_changed(stage):
    @stage
    def f(x):
        a, b, t = x * 1, x + 1, x.sum()
        while t < 100:
            a, b = b, a
            a[0] = t
            t = t * 2 + 1
        return a, b

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def of_the_turn_before(stage):
    @stage
    def f(x):
        y = x
        while x.sum() > 1:
            x, y = x * 0.5, x
        return x, y

    @stage
    def fibonacci(x):
        a, b = x, x + 1
        while b.sum() < 200:
            a, b = b, a + b
        return a, b

    for g in (f, fibonacci):
        for v in STARTS:
            yield g(T(v, v / 2))


@case(staged=True)
def changed_in_place(stage):
    @stage
    def f(x):
        y = x * 1
        z = y
        while y.sum() > 1:
            y *= 0.5
            y[0] = y[1]
        return y, z

    @stage
    def argument(x):
        while x.sum() > 1:
            x[0] = x[0] * 0.5
            x[1] = 0.1
        return x + 1

    for g in (f, argument):
        for v in STARTS:
            x = T(v, v / 2)
            yield g(x), x


@case(staged=True)
def containers_are_carried(stage):
    @stage
    def f(x):
        s = {"pair": (x, x * 2), "n": 0}
        while s["pair"][0].sum() > 1:
            a, b = s["pair"]
            s = {"pair": (b * 0.5, a * 0.3), "n": 0}
        return s["pair"]

    for v in STARTS:
        yield f(T(v, v / 2))


@case(staged=True)
def dtype_and_shape_change(stage):
    @stage
    def dtype(x):
        n = ag.asarray(0)
        while x.sum() > 1:
            x = x * 0.5
            n = n + 1.5
        return x, n

    @stage
    def shape(x):
        while x.sum() < 50:
            x = ag.concat([x, x + 1])
        return x

    for f in (dtype, shape):
        for v in (1.0, 5.0, 20.0, 1.0, 5.0, 2.0):
            yield f(T(v, v / 2))


@case(staged=True)
def read_after_the_test(stage):
    @stage
    def f(x):
        while (e := x.sum()) > 1:
            x = x * 0.5 - e * 0.001
        return x, e

    for v in STARTS:
        yield f(T(v, v / 2))


# ---------------------------------------------------------------------------------------------------- gradients
@case(staged=True)
def gradient_through_the_call(stage):
    w = T(0.5, 0.7, requires_grad=True)

    @stage
    def f(x):
        while x.sum() > 1:
            x = x * w
        return x

    for v in (5.0, 20.0, 1.0, 100.0, 5.0, 0.1):
        x = T(v, v / 2, requires_grad=True)
        y = f(x)
        (y * T(1, 2)).sum().backward()
        yield y, x.grad, w.grad
        w.grad = None
        yield ag.grad(lambda x: (ag.grad(lambda z: (f(z) ** 3).sum())(x) ** 2).sum())(x.detach())
        yield ag.value_and_grad(lambda x: (f(x) ** 2).sum())(x.detach())


@case(staged=True)
def gradient_inside_the_call(stage):
    w = T(0.5, 0.7, requires_grad=True)

    @stage
    def after(x):
        y = x
        while y.sum() > 1:
            y = y * w
        y.sum().backward()
        g, w.grad = w.grad, None
        return g

    @stage
    def around(x):
        def f(x):
            while x.sum() > 1:
                x = x * 0.5
            return (x**2).sum()

        return ag.value_and_grad(f)(x)

    for f in (after, around):
        for v in (5.0, 20.0, 1.0, 100.0, 5.0):
            yield f(T(v, v / 2))


@case(staged=True)
def gradient_in_each_turn(stage):
    @stage
    def descent(x):
        t = ag.zeros(2, requires_grad=True)
        for _ in range(100):
            loss = ((t - x) ** 2).sum()
            loss.backward()
            t = (t.detach() - 0.3 * t.grad).requires_grad_()
            if loss < 1e-3:
                break
        return t.detach()

    @stage
    def accumulates(x):
        t = ag.zeros(2, requires_grad=True)
        n = ag.asarray(0.0)
        while n < x.sum():
            ((t - x) ** 2).sum().backward()
            n = n + 2
        return t.grad

    for f in (descent, accumulates):
        for v in (5.0, 20.0, 1.0, 9.0, 5.0):
            yield f(T(v, v / 2))


test_staged_is_plain = case.test()


# ---------------------------------------------------------------------------------------------- how many recordings
def recordings(f):
    return sum(len(form.recordings) for form in f._forms.values())


@pytest.mark.parametrize("order", ["up", "down", "mixed"])
def test_fifty_numbers_of_turns_need_few_recordings(order):
    counts = {"up": range(50), "down": range(49, -1, -1), "mixed": np.random.default_rng(0).permutation(50)}[order]

    @ag.function(strict=True)
    def by_value(x, n):
        while n > 0:
            x = x * 0.9 + 1
            n = n - 1
        return x

    @ag.function(strict=True)
    def by_count(x, n):
        for _ in range(int(n)):
            x = x * 0.9 + 1
        return x

    @ag.function(strict=True)
    def sequence_of(x, n):
        rows = x.reshape(2, 1).broadcast_to((2, 50)).reshape(50, 2)
        for t in range(int(n)):
            x = x * 0.9 + rows[t]
        return x

    for f, most in ((by_value, 4), (by_count, 3), (sequence_of, 4)):
        made = 0
        for n in counts:
            before = f.calls_staged
            got = f(T(1, 2), number(n))
            made += f.calls_staged == before
            np.testing.assert_allclose(got, f._fn(T(1, 2), number(n)), rtol=1e-5)
        assert made == recordings(f) <= most, f.explain(T(1, 2), number(3))


def test_a_thousand_turns_are_one_loop():
    @ag.function(strict=True)
    def f(x, n):
        y = x + 0
        while n > 0:
            y = ag.where(y.sum() > 3, y * 0.5, y + 1)
            n = n - 1
        return y

    first = f(T(1, 2), number(1000))
    assert f.graph(T(1, 2), number(5)).count() < 40
    for n in (0, 1, 2, 1000, 999):
        np.testing.assert_allclose(f(T(1, 2), number(n)), f._fn(T(1, 2), number(n)), rtol=1e-6)
    assert recordings(f) == 2 and first.shape == (2,)  # none and some: `n` is the argument itself before the first turn


def test_explain_shows_the_loop_or_says_why_not():
    @ag.function
    def one(x):
        y = x + 0
        while y.sum() > 1:
            y = y * 0.5
        return y

    @ag.function
    def many(x):
        out = []
        while x.sum() > 1:
            x = x * 0.5
            out.append(x)
        return out

    one(T(9, 9)), many(T(9, 9))
    text = str(one.explain(T(9, 9)))
    # Python 3.14 comes to the test once more, before the loop is left
    assert "test_loops.py" in text and re.search(r"one loop of the graph \([56] turns recorded, 1 values carried", text)
    text = str(many.explain(T(9, 9)))
    assert re.search("recorded turn by turn, out is (3 at one turn and 4|4 at one turn and 5) at the next", text)


def test_a_loop_that_looks_at_no_tensor_is_left_alone():
    @ag.function
    def f(x):
        for i in range(3):
            x = x + i
        k = 0
        while k < 3:
            x, k = x * 2, k + 1
        return x

    f(T(1, 2))
    assert "loop" not in str(f.explain(T(1, 2))).replace("program", "")
    assert [n.op.name for n in f.graph(T(1, 2)).nodes] == ["add"] * 3 + ["multiply"] * 3


def test_a_debugger_is_not_disturbed():
    import sys

    @ag.function
    def f(x):
        while x.sum() > 1:
            x = x * 0.5
        return x

    lines = []

    def trace(frame, event, arg):
        lines.append(event)
        return trace

    sys.settrace(trace)
    try:
        f(T(9, 9))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(None)
    assert lines
    np.testing.assert_array_equal(f(T(9, 9)), f._fn(T(9, 9)))
    np.testing.assert_array_equal(f(T(3, 9)), f._fn(T(3, 9)))
    assert sys.gettrace() is None


@pytest.mark.parametrize("fed", [False, True])
def test_rows_run_without_the_hooks(fed, monkeypatch):
    import sys

    from agog import dispatch

    inside, between, promote = [], [], dispatch._promote

    def hooks():
        return sys.getprofile() is not None, sys.gettrace() is not None

    monkeypatch.setattr(dispatch, "_promote", lambda *a: inside.append(hooks()) or promote(*a))
    born = ag.staging.recorder.Recorder.on_born
    monkeypatch.setattr(ag.staging.recorder.Recorder, "on_born", lambda *a: inside.append(hooks()) or born(*a))

    @ag.function
    def f(x, n):
        w = ag.ones(2)
        optimizer = ag.optim.SGD([w.requires_grad_()], lr=0.1)
        while x.sum() > 1:
            x = x * 0.5 + w.detach() * n * 0
            try:
                x.reshape(7)
            except ValueError:
                between.append(hooks())
            (w * x).sum().backward()
            optimizer.step()
            between.append(hooks())
        return x

    f(T(9, 9), 0.5 if fed else 1)
    assert set(between) == {(True, True)} and len(between) > 6
    on = sys.version_info >= (3, 12)  # there, a trace function comes and goes at the price of all code that runs
    assert set(inside) >= {(False, on)} and len(inside) > 60
    assert sys.gettrace() is None and sys.getprofile() is None


def test_tracing_ends_with_an_exception():
    import sys

    @ag.function
    def f(x):
        while x.sum() > 1:
            raise KeyError("stop")

    with pytest.raises(KeyError):
        f(T(9, 9))
    assert sys.gettrace() is None


def test_checked_calls_compare_loops():
    @ag.function(check=True)
    def f(x):
        y = x + 0
        while y.sum() > 1:
            y = y * 0.5
        return y

    for v in (9.0, *STARTS):
        np.testing.assert_array_equal(f(T(v, v)), f._fn(T(v, v)))
    program = f._forms[next(iter(f._forms))].recordings[0]
    program.program = lambda inputs, run=program.program: [x + 1 if x.dtype.kind == "f" else x for x in run(inputs)]
    with pytest.raises(ag.errors.StagingError, match="differs"):
        f(T(9, 9))


def test_a_loop_without_an_end_is_left_to_eager_code(monkeypatch):
    from agog.staging import rolled, rolling

    monkeypatch.setattr(rolled, "MOST", 100)
    monkeypatch.setattr(rolling, "MOST", 100)

    @ag.function(strict=True)
    def f(x, n):
        while x.sum() < n:
            x = x + 1
        return x

    for n in (10, 20, 150, 90, 300):
        np.testing.assert_array_equal(f(T(1.0), number(n)), f._fn(T(1.0), number(n)))
    assert f.calls_staged == 2 and recordings(f) == 3


def test_without_native_code(monkeypatch):
    from agog import config

    monkeypatch.setattr(config, "native", False)

    @ag.function(strict=True)
    def f(x):
        y = x + 0
        while y.sum() > 1:
            y = y * 0.5
        return y

    for v in (9.0, *STARTS):
        np.testing.assert_array_equal(f(T(v, v)), f._fn(T(v, v)))
    assert recordings(f) == 1


# ------------------------------------------------------------------------------------------------------- bytecode
def test_loops_and_live_variables_of_code():
    def code(a, n):
        x = a
        while x > 0:
            t = x + 1
            x = t - 2
        for _ in range(int(n)):
            for j in range(3):
                x = x + j
            try:
                x = x - 1
            except ValueError:
                continue
        return x

    loops = list(Flow(code.__code__).loops.values())
    assert len(loops) == 3
    outer, inner, first = sorted(loops, key=lambda loop: (not loop.is_for, -len(loop.inside)))
    assert not first.is_for and {"x"} <= first.live <= {"x", "n", "a"} and "t" not in first.live
    assert outer.is_for and outer.counted.call is not None and not outer.numbered
    assert inner.numbered and inner.counted.value == 3 and inner.inside < outer.inside
    assert Flow((lambda x: x).__code__).loops == {}
