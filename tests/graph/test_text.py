"""Text: what it looks like (golden files), that it is read back, and that wrong text is refused with its line."""

import pickle

import numpy as np
import pytest

from agog.errors import GraphError
from agog.graph import Builder, Role, Where, build, optimize, parse, show_passes, verify, xp

F4 = "float32"


def at(builder, line, code):
    builder.where = Where("train.py", line, code)


def classifier():
    b = Builder("step")
    x, w = b.input((32, 784), F4, path="x"), b.input((784, 10), F4, "captured", "model.w")
    bias, rate = b.input((10,), F4, "state", "model.b", "bias"), b.input((), F4, "scalar", "lr")
    with b:
        at(b, 12, "logits = x @ w + b")
        logits = x @ w + bias
        at(b, 13, "p = ag.log(ag.softmax(logits))")
        p = xp.log(xp.softmax(logits))
        at(b, 14, "loss = -p.mean()")
        loss = -xp.mean(p)
        at(b, 15, "b -= lr * logits.mean(axis=0)")
        new = bias - rate * xp.mean(logits, axis=0)
        at(b, 16, "if loss > 2.5: ...")
        b.guard(loss > 2.5, False, "bool")
    return b.build([loss, new], [Role("result", ""), Role("state", "model.b")])


def loops():
    b = Builder("loops")
    x = b.input((4, 3), "float64", path="x")
    at(b, 3, "while x.sum() > 1: ...")
    y, = b.while_loop(lambda v: xp.sum(v) > 1, lambda v: v * 0.5, [x])
    at(b, 5, "for row in x: ...")
    total, rows = b.scan(lambda c, row: (c + row, c * row), [np.zeros(3)], [x])
    at(b, 7, "if total[0] > 0: ...")
    z, = b.cond(total[0] > 0, lambda t: t + xp.sum(y), lambda t: -t, [total])
    at(b, 9, "print(z)")
    b.effect(print, [z], "print")
    return b.build([z, rows])


def fancy():
    b = Builder("literals")
    x = b.input((4, 3), F4, path='a "quoted" \\ path', name="x-y")
    big = np.arange(12, dtype=F4).reshape(4, 3)
    with b:
        at(b, 1, "y = x[1:, None, ..., ::-1]  # a comment")
        y = x[1:, None, ..., ::-1]
        z = xp.astype(x, "float16") + np.array([1, -0.0, np.inf], "f2")
        w = xp.clip(x * big, None, 1.5) * np.float32(0.1)
        m = xp.where(np.array([True, False, True]), w, np.nan)
        k = xp.sum(xp.astype(x, "complex64") * (1 + 2j), axis=(0, 1), keepdims=True)
    return b.build([y, z, m, k])


GRAPHS = {"classifier": classifier, "loops": loops, "literals": fancy}


@pytest.mark.parametrize("name", GRAPHS)
def test_golden(name, golden):
    golden(f"graph_{name}.txt", str(GRAPHS[name]()))


def test_golden_passes(golden):
    golden("graph_passes.txt", show_passes(classifier()))


@pytest.mark.parametrize("name", GRAPHS)
def test_round_trip(name):
    for graph in (GRAPHS[name](), optimize(GRAPHS[name]())):
        text, table = graph.text()
        again = verify(parse(text, table))
        assert again.text() == (text, table)
        assert [v.role for v in again.inputs] == [v.role for v in graph.inputs] and again.roles == graph.roles
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(v.shape).astype(v.dtype) for v in graph.inputs]
        if name == "classifier":
            arrays[0][:], arrays[2][:] = 0, 0
        for a, b in zip(again.run(*arrays), graph.run(*arrays)):
            assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def test_gradients_round_trip():
    scalar = build(lambda x: xp.sum(xp.tanh(x) @ x), ((3, 3), F4))
    for g in (scalar.grad(), optimize(scalar.grad())):
        assert parse(*g.text()).text() == g.text()


def test_large_constants_stand_in_the_table_by_reference():
    big = np.arange(100.0)
    graph = build(lambda x: x + big, ((100,), "float64"))
    text, table = graph.text()
    assert len(table) == 1 and table[0] is big and "@0" in text
    assert parse(text, table).constants[0].data is big


@pytest.mark.parametrize("x", [np.float32(0.1), np.float16(0.1), np.float64(1 / 3), np.array([1, 2], "i1"), np.True_,
                               np.array([[1 + 2j]], "c8"), np.float32("nan"), np.float32("-inf"), np.float64(-0.0),
                               np.zeros((0, 3)), np.int64(-5), np.float32(1e-45)])
def test_constants_are_read_back_bit_for_bit(x):
    x = np.asarray(x)
    graph = build(lambda: [x])
    again = parse(*graph.text()).outputs[0].data
    assert again.tobytes() == x.tobytes() and again.shape == x.shape and again.dtype == x.dtype


def test_a_nan_with_a_message_in_it():
    x = np.array(0x7FC12345, "u4").view("f4")
    graph = build(lambda: [x])
    assert "@0" in str(graph)
    assert parse(*graph.text()).outputs[0].data.view("u4") == 0x7FC12345


def test_pickle():
    graph = classifier()
    assert str(pickle.loads(pickle.dumps(graph))) == str(graph)


GOOD = """graph g
  input %0: f32[3] argument "x"
  %1: f32[3] = add(%0, %0)
  return %1 result ""
"""


def test_the_smallest_text():
    assert str(parse(GOOD)) == GOOD


@pytest.mark.parametrize("old, new, word", [
    ("graph g", "grph g", "begins with 'graph name'"),
    ("add", "adding", "no operation 'adding'"),
    ("f32[3] = ", "f31[3] = ", "no dtype"),
    ("add(%0, %0)", "add(%0, %2)", "%2 is not made before"),
    ("add(%0, %0)", "add(%0, %0", "expected ')'"),
    ("%1: f32[3] = add", "%0: f32[3] = add", "a second time"),
    ("add(%0, %0)", "sum(%0, axis=None)", "static parameters axis, keepdims"),
    ("add(%0, %0)", "sum(%0, axis=@3, keepdims=False)", "no entry @3"),
    ("add(%0, %0)", "sum(%0, axis=what, keepdims=False)", "'what' is no literal"),
    ('  return %1 result ""\n', "", "has no return"),
    ("add(%0, %0)", "add(%0, ?)", "cannot read"),
    ('"x"', '"x', "cannot read"),
])
def test_wrong_text(old, new, word):
    with pytest.raises(GraphError) as error:
        parse(GOOD.replace(old, new, 1))
    assert word in str(error.value)


def test_more_text_than_a_graph():
    with pytest.raises(GraphError, match="something follows"):
        parse(GOOD + "graph h\n")
    with pytest.raises(GraphError, match="it ends"):
        parse("")
