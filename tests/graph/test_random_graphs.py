"""Random graphs through every pass, the whole pipeline, text and gradients; the interpreter is the oracle."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import assume, given, settings

from agog.array import dtypes
from agog.errors import AgogError
from agog.graph import Builder, optimize, parse, verify, xp
from agog.graph.passes.pipeline import PIPELINE

SHAPES = [(), (3,), (2, 3), (1, 3), (2, 1), (4, 2, 3), (4, 1, 1), (3, 3), (6,), (0, 3)]
DTYPES = ["float32", "float64", "float32", "int64", "bool", "float16"]
UNARY = ("negative abs exp log tanh sigmoid sqrt square relu floor sign logical_not reciprocal log1p positive isnan "
         "sin").split()
BINARY = "add subtract multiply divide maximum minimum less equal logical_and add multiply".split()
KINDS = "unary binary binary number reduce movement where softmax matmul cast mask form".split()
NUMBERS = [0, 1, -1, 2, 0.0, -0.0, 1.0, 0.5, -1.0, 4.0, True]


@st.composite
def programs(draw, floats=False, steps=14):
    """A graph of random steps; those that do not fit together are left out."""
    b = Builder("random")
    kinds = ["float64"] if floats else DTYPES
    values = [b.input(draw(st.sampled_from(SHAPES)), draw(st.sampled_from(kinds)), path=f"x{i}")
              for i in range(draw(st.integers(1, 4)))]
    with b:
        for _ in range(draw(st.integers(1, steps))):
            mark = len(b.nodes)
            try:
                new = draw_step(draw, b, values, floats)
            except (AgogError, IndexError, ValueError):
                del b.nodes[mark:]
                continue
            values += new if isinstance(new, tuple) else (new,)
    outs = [values[i] for i in draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=3))]
    graph = b.build([*outs, values[-1]])
    try:
        outputs(graph, arguments(graph, 0))
    except AgogError:  # the largest of nothing
        assume(False)
    return graph


def pick(draw, values):
    near = draw(st.booleans())
    return values[draw(st.integers(max(0, len(values) - 3) if near else 0, len(values) - 1))]


def draw_step(draw, b, values, floats):
    x = pick(draw, values)
    kind = draw(st.sampled_from(KINDS))
    if kind == "unary":
        return getattr(xp, draw(st.sampled_from(UNARY[:9] if floats else UNARY)))(x)
    if kind == "binary":
        return getattr(xp, draw(st.sampled_from(BINARY)))(x, pick(draw, values))
    if kind == "number":
        n = draw(st.sampled_from(NUMBERS))
        op = getattr(xp, draw(st.sampled_from(BINARY)))
        return op(x, n) if draw(st.booleans()) else op(n, x)
    if kind == "reduce":
        axis = draw(st.sampled_from([None, -1, 0, (0,)]))
        name = draw(st.sampled_from(["sum", "mean", "logsumexp", *([] if floats else ["max"])]))
        return getattr(xp, name)(x, axis=axis, keepdims=draw(st.booleans()))
    if kind == "movement":
        way = draw(st.integers(0, 6))
        if way == 0:
            shapes = [(-1,), (1, *x.shape), (*x.shape, 1), (x.size, 1), x.shape[::-1]]
            return xp.reshape(x, draw(st.sampled_from(shapes)))
        if way == 1:
            return xp.permute_dims(x, draw(st.permutations(range(x.ndim))))
        if way == 2:
            return xp.broadcast_to(x, draw(st.sampled_from([(4, 2, 3), (2, 3), (3, 3)])))
        if way == 3:
            return x[draw(st.sampled_from([0, slice(None), slice(None, None, -1), (..., None), (..., slice(0, 2))]))]
        if way == 4:
            return xp.flip(x, axis=draw(st.sampled_from([None, -1])))
        if way == 5:
            return xp.concat([x, pick(draw, values)], axis=-1)
        return xp.split(x, draw(st.sampled_from([[1], [1, 2]])), axis=-1)[0]
    if kind == "where":
        return xp.where(x > 0, pick(draw, values), pick(draw, values))
    if kind == "softmax":
        return xp.softmax(x) if draw(st.booleans()) else xp.log(xp.softmax(x))
    if kind == "matmul":
        y = pick(draw, values)
        return x @ (y.mT if draw(st.booleans()) else y)
    if kind == "cast":
        return xp.astype(x, draw(st.sampled_from(["float64"] if floats else DTYPES)))
    if kind == "mask":
        return xp.astype(x > draw(st.sampled_from([0, 1])), x.dtype) * x
    return draw_form(draw, b, x, values)


def draw_form(draw, b, x, values):
    y = pick(draw, values)
    way = draw(st.integers(0, 2))
    if not dtypes.is_floating(x.dtype):
        x = xp.astype(x, "float64")
    if way == 0:
        return b.cond(xp.sum(x) > 0, lambda v: (v * 2 + xp.mean(y), xp.sum(v)), lambda v: (v + xp.mean(y), xp.mean(v)),
                      [x + xp.mean(y)])
    if way == 1:
        turns = draw(st.integers(0, 3))
        return b.while_loop(lambda i, v: i < turns, lambda i, v: (i + 1, xp.tanh(v) + 0 * xp.sum(x)),
                            [np.zeros((), "i8"), x])[1]
    return b.scan(lambda c, s: (c * 0.5 + xp.sum(s) - xp.mean(x), c * xp.mean(s)),
                  [xp.sum(x)], [x], reverse=draw(st.booleans()))


def arguments(graph, seed):
    rng = np.random.default_rng(seed)
    out = []
    for v in graph.inputs:
        x = rng.standard_normal(v.shape) * 2
        if v.dtype.kind == "f" and rng.random() < 0.3 and v.size:
            x = np.asarray(x)
            x.flat[rng.integers(v.size)] = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan])
        if v.dtype.kind != "f":
            x = np.round(x)
        with np.errstate(all="ignore"):
            out.append(np.asarray(x).astype(v.dtype))
    return out


def outputs(graph, arrays):
    out = graph.run(*arrays)
    return out if isinstance(out, tuple) else (out,)


def same(a, b, exact):
    assert a.shape == b.shape and a.dtype == b.dtype
    if not exact and a.dtype.kind == "f":
        eps = {2: 4e-3, 4: 2e-6, 8: 1e-13}[a.dtype.itemsize]
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=eps, atol=eps * 10)
        return
    np.testing.assert_array_equal(a, b)
    if a.dtype.kind == "f":
        zero = a == 0
        np.testing.assert_array_equal(np.signbit(a[zero]), np.signbit(b[zero]))


LAYOUT = {"views"}  # what it makes has other strides, and NumPy adds up and evaluates in another order then


@settings(max_examples=150)
@given(programs(), st.integers(0, 1000))
def test_every_pass(graph, seed):
    verify(graph)
    arrays = arguments(graph, seed)
    want = outputs(graph, arrays)
    for name, run in PIPELINE:
        after = verify(run(graph))
        assert str(run(after)) == str(after), f"{name} twice is not {name} once"
        if name != "stabilise":
            for a, b in zip(outputs(after, arrays), want):
                same(a, b, name not in LAYOUT)
        graph_of_pass = [v.spec for v in after.outputs]
        assert graph_of_pass == [v.spec for v in graph.outputs] and after.inputs == graph.inputs


@settings(max_examples=150)
@given(programs(), st.integers(0, 1000))
def test_the_pipeline(graph, seed):
    arrays = arguments(graph, seed)
    after = optimize(graph, check=True, without=["stabilise"])
    for a, b in zip(outputs(after, arrays), outputs(graph, arrays)):
        same(a, b, False)
    whole = optimize(graph, check=True)
    assert str(optimize(whole, check=True)) == str(whole)
    for a, b in zip(outputs(whole, arrays), outputs(graph, arrays)):
        assert a.shape == b.shape and a.dtype == b.dtype


@settings(max_examples=100)
@given(programs())
def test_text_round_trips(graph):
    for g in (graph, optimize(graph)):
        text, table = g.text()
        again = verify(parse(text, table))
        assert again.text() == (text, table)
        arrays = arguments(g, 0)
        for a, b in zip(outputs(again, arrays), outputs(g, arrays)):
            same(a, b, True)


@settings(max_examples=60)
@given(programs(floats=True, steps=8), st.integers(0, 1000))
def test_gradients_against_differences(graph, seed):
    """Along a random direction, in float64; where differences say nothing (kinks, overflow) they are not compared."""
    b = Builder("scalar")
    b.inputs = list(graph.inputs)
    b.nodes = list(graph.nodes)
    with b:
        total = None
        for v in graph.outputs:
            if v.dtype.kind == "f":
                part = xp.sum(b.symbol(v) * 0.5)
                total = part if total is None else total + part
    if total is None:
        return
    scalar = b.build([total])
    grads = verify(scalar.grad(value=True))
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.uniform(0.3, 1.5, v.shape)) for v in scalar.inputs]
    value, *gs = outputs(grads, arrays)
    assert [g.shape for g in gs] == [v.shape for v in scalar.inputs]
    for got, want in zip(outputs(optimize(grads, check=True), arrays), (value, *gs)):
        assert got.shape == want.shape and got.dtype == want.dtype
    ds = [np.asarray(rng.standard_normal(a.shape)) for a in arrays]

    def at(h):
        return outputs(scalar, [a + h * d for a, d in zip(arrays, ds)])[0]

    h = 1e-5
    central, half = (at(h) - at(-h)) / (2 * h), (at(h / 2) - at(-h / 2)) / h
    if np.isfinite(central) and abs(central) < 1e6 and abs(central - half) < 1e-5 * (1 + abs(central)):
        got = sum(np.sum(g * d) for g, d in zip(gs, ds))
        if np.isfinite(got):
            np.testing.assert_allclose(got, half, rtol=1e-4, atol=1e-4)


def test_a_program_holds_what_it_should():
    """The strategy makes loops, branches, reductions: not only one-liners."""
    seen = set()

    @settings(max_examples=150)
    @given(programs())
    def look(graph):
        seen.update(n.op.name for n in graph.nodes)

    look()
    assert {"cond", "while_loop", "scan", "sum", "matmul", "softmax", "where"} <= seen


