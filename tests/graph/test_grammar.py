"""The verifier accepts what the grammar allows, and rejects each kind of broken graph by name and line."""

import numpy as np
import pytest

from agog.errors import GraphError
from agog.graph import Builder, Constant, Graph, Input, Node, Role, Value, Where, build, forms, verify, xp
from agog.ops.row import TABLE

F4 = np.dtype("float32")
ADD, SUM, CLIP = TABLE["add"], TABLE["sum"], TABLE["clip"]
HERE = Where("model.py", 7, "y = x + x")


def value(*shape, dtype=F4):
    return Value(shape, dtype)


def graph_with(node_of, outputs=lambda node, x: node.outputs):
    x = Input((2, 3), F4, Role("argument", "x"))
    node = node_of(x)
    return Graph("broken", [x], [node], outputs(node, x))


def rejects(graph, *words):
    with pytest.raises(GraphError) as error:
        verify(graph)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in {error.value}"


def test_a_good_graph():
    graph = graph_with(lambda x: Node(ADD, [x, x], (), [value(2, 3)], where=HERE))
    assert verify(graph) is graph
    assert graph.run(np.ones((2, 3), "f4")).sum() == 12


def test_undefined_value():
    rejects(graph_with(lambda x: Node(ADD, [x, value(2, 3)], (), [value(2, 3)], where=HERE)),
            "add", "model.py:7", "y = x + x", "not made before")


def test_order():
    x = Input((3,), F4)
    first = Node(ADD, [x, x], (), [value(3)])
    second = Node(ADD, [first.outputs[0], x], (), [value(3)])
    verify(Graph("g", [x], [first, second], second.outputs))
    rejects(Graph("g", [x], [second, first], second.outputs), "not made before")


def test_made_twice():
    x = Input((3,), F4)
    node = Node(ADD, [x, x], (), [value(3)])
    rejects(Graph("g", [x], [node, node], node.outputs), "a second time")
    rejects(Graph("g", [x, x], [], [x]), "twice")


def test_stolen_output():
    x = Input((3,), F4)
    out = value(3)
    first = Node(ADD, [x, x], (), [out])
    Node(ADD, [x, x], (), [out])
    rejects(Graph("g", [x], [first], [out]), "says it is output")


@pytest.mark.parametrize("inputs, statics, outs, word", [
    (1, (), 1, "1 inputs given, the row takes 2"),
    (3, (), 1, "3 inputs given"),
    (2, (1,), 1, "1 static parameters given, there are 0"),
    (2, (), 2, "2 outputs stated, the row has 1"),
])
def test_arity(inputs, statics, outs, word):
    rejects(graph_with(lambda x: Node(ADD, [x] * inputs, statics, [value(2, 3) for _ in range(outs)])), word)


def test_shapes_and_dtypes():
    rejects(graph_with(lambda x: Node(ADD, [x, x], (), [value(3, 3)], where=HERE)),
            "f32[3, 3]", "f32[2, 3]", "model.py:7")
    rejects(graph_with(lambda x: Node(ADD, [x, x], (), [value(2, 3, dtype="float64")])), "f64[2, 3]", "f32[2, 3]")
    rejects(graph_with(lambda x: Node(SUM, [x], ((5,), False), [value(2)])), "sum", "axis=5")
    rejects(graph_with(lambda x: Node(ADD, [x, Constant(np.zeros(2, "f4"))], (), [value(2, 3)])), "broadcast")
    rejects(graph_with(lambda x: Node(ADD, [x, Constant(np.zeros(3, "f8"))], (), [value(2, 3)])), "one dtype")


def test_absent_inputs():
    verify(graph_with(lambda x: Node(CLIP, [x, None, Constant(np.float32(1))], (), [value(2, 3)])))
    rejects(graph_with(lambda x: Node(forms.GUARD, [None], (True, ""), [])), "absent")


def test_outputs_and_roles():
    stranger = value(2, 3)
    rejects(graph_with(lambda x: Node(ADD, [x, x], (), [value(2, 3)]), lambda n, x: [stranger]), "output 0", "not made")
    x = Input((3,), F4)
    verify(Graph("g", [x], [], [x, x, Constant(np.zeros(3))]))
    rejects(Graph("g", [x], [], [x], [Role("present", "")]), "'present'")
    rejects(Graph("g", [x], [], [x], []), "1 outputs, but says of 0")
    rejects(Graph("g", [Input((3,), F4, Role("elsewhere"))], [], []), "'elsewhere'")
    rejects(Graph("g", [value(3)], [], []), "no Input")


def test_neither_row_nor_form():
    rejects(graph_with(lambda x: Node(ADD, [x, "x"], (), [value(2, 3)])), "no value")

    class Fake:
        name, static_names, pure = "fake", (), True

    rejects(graph_with(lambda x: Node(Fake(), [x], (), [value(2, 3)])), "neither a row")


def test_damaged_constant():
    constant = Constant(np.zeros(3, "f4"))
    constant.shape = (4,)
    rejects(graph_with(lambda x: Node(ADD, [x, constant], (), [value(2, 3)])), "constant's array")


YES = Constant(True)


def inner(*outs, shape=(2, 3), n=1):
    xs = [Input(shape, F4) for _ in range(n)]
    return Graph("inner", xs, [], [xs[0] if o is None else o for o in outs])


@pytest.mark.parametrize("node, word", [
    (lambda x, p: Node(forms.COND, [x, x], (), [value(2, 3)], (inner(None), inner(None))), "bool scalar"),
    (lambda x, p: Node(forms.COND, [p, x], (), [value(2, 3)], (inner(None),)), "1 inner graphs, there must be 2"),
    (lambda x, p: Node(forms.COND, [p, x], (), [value(2, 3)], (inner(None), inner(None, shape=(3,)))), "else takes"),
    (lambda x, p: Node(forms.COND, [p, x], (), [value(2, 3)], (inner(None), inner(None, None))), "else gives"),
    (lambda x, p: Node(forms.COND, [p, x], (), [value(3)], (inner(None), inner(None))), "stated as f32[3]"),
    (lambda x, p: Node(forms.WHILE, [x], (1,), [value(2, 3)], (inner(None), inner(None))), "test gives"),
    (lambda x, p: Node(forms.WHILE, [x], (1,), [value(2, 3)], (inner(YES), inner(None, None))), "body gives"),
    (lambda x, p: Node(forms.SCAN, [x, x], (1, 1, 5, False), [value(2, 3)], (inner(None, n=2),)), "length 5"),
    (lambda x, p: Node(forms.SCAN, [x, x], (1, 1, 2, False), [value(2, 3)], (inner(None, n=2),)), "body takes"),
    (lambda x, p: Node(forms.GUARD, [x], (True, ""), []), "one scalar"),
    (lambda x, p: Node(forms.EFFECT, [x], ("print", ""), []), "something to call"),
    (lambda x, p: Node(ADD, [x, x], (), [value(2, 3)], (inner(None),)), "a row holds no graphs"),
])
def test_forms(node, word):
    x, p = Input((2, 3), F4), Input((), bool)
    made = node(x, p)
    rejects(Graph("g", [x, p], [made], made.outputs), word)


def test_a_broken_inner_graph():
    x, p = Input((2, 3), F4), Input((), bool)
    bad = inner(value(2, 3))
    made = Node(forms.COND, [p, x], (), [value(2, 3)], (bad, inner(None)), HERE)
    rejects(Graph("g", [x, p], [made], made.outputs), "cond", "model.py:7", "'inner'", "not made")


def test_the_test_of_a_loop_has_no_effects():
    b = Builder("g")
    x = b.input((), "float32")

    def test(v):
        v.builder.guard(v > 0, True)
        return v > 0

    with pytest.raises(GraphError, match="guards or effects"):
        b.while_loop(test, lambda v: v - 1, [x])


def test_graphs_do_not_mix():
    a, b = Builder("a"), Builder("b")
    x, y = a.input((3,), "float32"), b.input((3,), "float32")
    with pytest.raises(GraphError, match="belongs to the graph 'b'"):
        x + y


def test_facts_of_a_graph():
    graph = build(lambda x, y: (xp.exp(x) + y, x * 2.0), ((3,), "float32"), ((3,), "float32"))
    assert graph.count() == 3 and [c.data.item() for c in graph.constants] == [2.0]
    users = graph.users()
    assert [len(users[v]) for v in graph.inputs] == [2, 1]
    assert "2 inputs, 3 nodes, 2 outputs" in repr(graph)
    assert "test_grammar.py" in repr(graph.nodes[0]) and "f32[3]" in repr(graph.inputs[0])
