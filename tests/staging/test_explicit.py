"""`ag.while_loop` and `ag.scan` inside of staged functions: one loop, or one scan, of the graph."""

import numpy as np
import pytest
from staging.worlds import Cases, T

import agog as ag
from agog.graph.forms import SCAN, WHILE

case = Cases()


def forms_of(f, *args):
    return [n.op for n in f.graph(*args).nodes if not n.is_row]


def series(*shape, seed=0, **kw):
    return ag.asarray(np.random.default_rng(seed).integers(-4, 5, shape).astype("f4") / 2, **kw)


@case(staged=True)
def while_of_any_length(stage):
    f = stage(lambda a: ag.while_loop(lambda x: abs(x * x - a) > 1e-3 * a, lambda x: (x + a / x) / 2, a / 2))
    for v in (2.0, 9.0, 1e4, 0.25, 3.0, 1e6):
        yield f(T(v))


@case(staged=True)
def while_with_a_state_of_several(stage):
    w = T(0.5, -1.0, 2.0)

    @stage
    def f(x, n):
        def body(d):
            return {"n": d["n"] + 1, "v": (d["v"][0] * 0.5 + w, d["v"][1] + 1)}

        out = ag.while_loop(lambda d: d["n"] < n, body, {"n": ag.asarray(0), "v": (x, x * 2)})
        return out["v"], out["n"]

    for n in (3, 5, 1, 0, 7, 4, 4, 9):
        yield f(T(1, 2, 3), ag.asarray(n))


@case(staged=True)
def while_with_a_branch(stage):
    def body(x, k):
        if x.sum() > 2:
            return x - 1, k + 1
        return x - 0.5, k + 1

    f = stage(lambda x: ag.while_loop(lambda x, k: x.sum() > 0, body, (x, ag.asarray(0))))
    for v in (4.0, 5.0, 1.0, 9.0, 3.0, 7.5, 0.0, 8.0):
        yield f(T(v))


@case
def while_that_counts_in_python(stage):
    @stage
    def f(x):
        turns = 0

        def body(v):
            nonlocal turns
            turns += 1
            return v * 0.5

        return ag.while_loop(lambda v: v.sum() > 1, body, x) * turns

    for v in (4.0, 5.0, 1.0, 9.0, 100.0, 4.0):
        yield f(T(v))


@case(staged=True)
def while_with_python_numbers(stage):
    f = stage(lambda x: ag.while_loop(lambda v, n: n < 3, lambda v, n: (v * 0.5 + n, n + 1), (x, 0)))
    for v in (1.0, 2.0, 3.0):
        yield f(T(v))


@case(staged=True)
def while_that_draws(stage):
    f = stage(lambda x: ag.while_loop(lambda v: v.sum() < 8, lambda v: v + ag.random.uniform((2,)), x))
    ag.random.seed(3)
    for v in (1.0, 2.0, 0.0, 3.0, 9.0):
        yield f(T(v, v))


@case(staged=True)
def while_to_differentiate(stage):
    f = stage(lambda x, w: ag.while_loop(lambda v: abs(v).sum() > 1, lambda v: v * w, x).sum())
    for v in (4.0, 40.0, 400.0, 3.0, 4000.0):
        x, w = T(v, requires_grad=True), T(0.5, requires_grad=True)
        y = f(x, w)
        y.backward()
        yield y, x.grad, w.grad


@case(staged=True)
def scan_with_weights(stage):
    w, u = series(3, 3, seed=1, requires_grad=True), series(2, 3, seed=2, requires_grad=True)
    f = stage(lambda xs, h: ag.scan(lambda h, x: ((h @ w * 0.25 + x @ u).tanh(),) * 2, h, xs))
    for n in (5, 5, 5, 12, 12, 3, 2, 1, 0):
        h, ys = f(series(n, 4, 2, seed=n), ag.zeros(4, 3))
        w.grad = u.grad = None
        if n:
            ((h * h).sum() + ys.sum()).backward()
        yield h, ys, w.grad, u.grad


@case(staged=True)
def scan_backwards_over_several(stage):
    @stage
    def f(xs, h):
        (a, b), ys = ag.scan(lambda c, x: ((c[0] * 0.5 + x["a"], c[1]), {"sum": c[0] + x["b"].sum(), "x": x["a"]}),
                             (h, h * 2), xs, reverse=True)
        return a, b, ys

    for n in (4, 4, 4, 6, 6):
        yield f({"a": series(n, 3, seed=n), "b": series(n, 2, seed=n + 1)}, T(1, 2, 3))


@case(staged=True)
def scan_without_sequences_or_results(stage):
    f = stage(lambda h: ag.scan(lambda h, _: (h * 0.5 + 1, None), h, None, length=5))
    for v in (1.0, 2.0, 3.0):
        yield f(T(v))


@case(staged=True)
def scan_with_branches(stage):
    def turn(h, x):
        if x.sum() > 0:
            return h + x, h
        return h * 0.5, h - 1

    f = stage(lambda xs: ag.scan(turn, ag.zeros(2), xs))
    for seed in range(8):
        yield f(series(6, 2, seed=seed))


@case(staged=True)
def scan_whose_way_was_never_seen(stage):
    def turn(h, x):
        return (h + x if x.sum() > -100 else h * 0, h)

    f = stage(lambda xs: ag.scan(turn, ag.zeros(2), xs))
    for v in (0.0, 1.0, -1000.0, 2.0):
        yield f(series(6, 2) + v)


@case(staged=True)
def scan_that_draws_and_assigns(stage):
    mean = ag.zeros(2)

    def turn(h, x):
        mean.assign(mean * 0.5 + x)
        return h * 0.5 + mean + ag.random.normal((2,)), mean * 2

    f = stage(lambda xs: ag.scan(turn, ag.zeros(2), xs))
    ag.random.seed(5)
    for seed in range(5):
        yield f(series(6, 2, seed=seed)), mean


@case(staged=True)
def scan_under_no_grad(stage):
    w = T(0.5, -0.25, requires_grad=True)

    def turn(h, x):
        with ag.no_grad():
            scale = w * 2
        return h * scale + x * w, h

    f = stage(lambda xs: ag.scan(turn, ag.zeros(2), xs)[0])
    for seed in range(4):
        w.grad = None
        h = f(series(5, 2, seed=seed))
        h.sum().backward()
        yield h, w.grad


@case(staged=True)
def scan_that_changes_its_carry_in_place(stage):
    def turn(h, x):
        h += x
        h[0] = 1
        return h, h * 2

    f = stage(lambda xs, h: ag.scan(turn, h, xs))
    for seed in range(4):
        h = T(1, 2)
        yield f(series(5, 2, seed=seed), h), h


@case(staged=True)
def scan_in_scan_and_in_loops(stage):
    def outer(h, rows):
        last, ys = ag.scan(lambda c, x: (c * 0.5 + x, c), h, rows)
        return last, ys.sum()

    @stage
    def f(xs, n):
        h, ys = ag.scan(outer, ag.zeros(2), xs)
        for _ in range(int(n)):
            h = ag.scan(lambda c, x: (c * 0.5 + x, None), h, xs[0])[0]
        return h, ys

    for n in (3, 4, 2, 5, 3, 6):
        yield f(series(4, 5, 2, seed=n), ag.asarray(n))


@case
def scan_that_looks_outside(stage):
    class Box:
        scale = 2.0

    f = stage(lambda xs: ag.scan(lambda h, x: (h * 0.5 + x * Box.scale, None), ag.zeros(2), xs)[0])
    for seed in range(6):
        Box.scale = 3.0 if seed == 3 else 2.0
        yield f(series(5, 2, seed=seed))


@case
def scan_with_a_list_that_grows(stage):
    @stage
    def f(xs):
        kept = []

        def turn(h, x):
            kept.append(h)
            return h * 0.5 + x, None

        h, _ = ag.scan(turn, ag.zeros(2), xs)
        return h + kept[2] + kept[-1]

    for seed in range(4):
        yield f(series(5, 2, seed=seed))


@case
def scan_that_changes_what_it_goes_over(stage):
    xs = series(6, 2)

    def turn(h, x):
        xs.assign(xs * 0.5)
        return h * 0.5 + x, h

    f = stage(lambda: ag.scan(turn, ag.zeros(2), xs))
    for _ in range(4):
        yield f(), xs
    g = stage(lambda xs: ag.scan(turn, ag.zeros(2), xs))
    for _ in range(4):
        yield g(xs), xs


@case(staged=True)
def inside_of_transformations(stage):
    def scanned(x):
        return ag.scan(lambda h, v: (h * 0.5 + v, h), ag.zeros(()), x)[1]

    def halved(x):
        return ag.while_loop(lambda v: abs(v).sum() > 0.1, lambda v: v * 0.5, x.sum())

    fs = [
        stage(lambda xs: ag.vmap(scanned)(xs)),
        stage(lambda xs: ag.vmap(halved)(xs)),
        stage(lambda xs: ag.jvp(lambda x: ag.scan(lambda h, v: (h * 0.5 + v, h), ag.zeros(6), x)[1], (xs,), (xs,))),
        stage(lambda xs: ag.jvp(halved, (xs,), (xs,))),
        stage(lambda xs: ag.grad(lambda x: (scanned(x.sum(axis=0)) ** 2).sum() + halved(x))(xs)),
    ]
    for seed in range(4):
        for f in fs:
            yield f(series(4, 6, seed=seed) + 0.25)


@case
def scan_that_prints(stage):
    def turn(h, x):
        ag.print(h)
        return h * 0.5 + x, None

    f = stage(lambda xs: ag.scan(turn, ag.zeros(2), xs)[0])
    for seed in range(4):
        yield f(series(4, 2, seed=seed))


test_staged_is_plain = case.test()


def test_the_graph_holds_one_loop():
    f = ag.function(lambda a: ag.while_loop(lambda x: x > 1, lambda x: x * 0.5, a), strict=True)
    for v in (9.0, 100.0, 5.0, 1e5):
        f(T(v))
    assert forms_of(f, T(9.0)) == [WHILE] and repr(f) == "<staged <lambda>: 1 recordings>"
    assert "one loop of the graph" in f.explain(T(9.0))


def test_the_graph_holds_one_scan():
    sizes = set()
    for n in (4, 30):
        f = ag.function(lambda xs: ag.scan(lambda h, x: (h * 0.5 + x, h), ag.zeros(2), xs), strict=True)
        for seed in range(3):
            f(series(n, 2, seed=seed))
        assert forms_of(f, series(n, 2)) == [SCAN]
        assert f"one scan of the graph ({n} turns, 1 values carried)" in f.explain(series(n, 2))
        sizes.add(f.graph(series(n, 2)).count())
    assert len(sizes) == 1


def test_higher_derivatives_through_a_scan():
    w = T(0.5, -0.25, requires_grad=True)

    def fn(xs):
        return (ag.scan(lambda h, x: (h * w + x * x, h), ag.zeros(2), xs)[1] ** 2).sum()

    f, out = ag.function(fn, strict=True), []
    for g in (fn, f, f, f):
        first = ag.gradients(g(series(5, 2)), [w], create_graph=True)[0]
        out.append(ag.gradients((first * first).sum(), [w])[0].tolist())
    assert f.calls_staged == 2
    for other in out[1:]:
        assert other == pytest.approx(out[0], rel=1e-5)


def test_what_a_scan_is_begun_with_is_not_changed():
    def turn(c, x):
        c += x
        return c, None

    h = T(1, 2)
    last, _ = ag.scan(turn, h, series(3, 2))
    assert h.tolist() == [1, 2] and last is not h
