"""The grammar of `ir`, as a program. Raises GraphError that names the node and the user's line."""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.errors import AgogError, GraphError
from agog.graph import forms
from agog.graph.infer import infer, is_dynamic
from agog.graph.ir import INPUT_KINDS, OUTPUT_KINDS, Constant, Form, Graph, Input, Node, Value, describe
from agog.ops.row import TABLE, Op


def verify(graph: Graph, shapes: bool = True) -> Graph:
    """`graph` itself, when it obeys the grammar.

    shapes   also compare shapes and dtypes with what inference says (slower)
    """
    defined: set[Value] = set()
    for i, value in enumerate(graph.inputs):
        if not isinstance(value, Input):
            raise GraphError(f"input {i} of the graph '{graph.name}' is no Input but {value!r}")
        if value in defined:
            raise GraphError(f"input {i} of the graph '{graph.name}' stands there twice")
        if value.role.kind not in INPUT_KINDS:
            raise GraphError(f"input {i} of the graph '{graph.name}' is a {value.role.kind!r}; an input is one of "
                             f"{', '.join(INPUT_KINDS)}")
        _well_typed(value, f"input {i} of the graph '{graph.name}'")
        defined.add(value)
    for i, node in enumerate(graph.nodes):
        _node(graph, i, node, defined, shapes)
    if len(graph.roles) != len(graph.outputs):
        raise GraphError(f"the graph '{graph.name}' has {len(graph.outputs)} outputs, but says of {len(graph.roles)} "
                         "what they are")
    for i, (value, role) in enumerate(zip(graph.outputs, graph.roles)):
        if not isinstance(value, Value) or type(value) is not Constant and value not in defined:
            raise GraphError(f"output {i} of the graph '{graph.name}' is not made in it: {value!r}")
        if role.kind not in OUTPUT_KINDS:
            raise GraphError(f"output {i} of the graph '{graph.name}' is a {role.kind!r}; an output is one of "
                             f"{', '.join(OUTPUT_KINDS)}")
    return graph


def _well_typed(value: Value, what: str) -> None:
    if not isinstance(value.dtype, np.dtype) or not isinstance(value.shape, tuple) or not all(
            type(n) is int and n >= 0 for n in value.shape):
        raise GraphError(f"{what}: {value.shape!r}, {value.dtype!r} is no shape and dtype")
    if type(value) is Constant and (not isinstance(value.data, np.ndarray) or value.data.shape != value.shape
                                    or value.data.dtype != value.dtype):
        raise GraphError(f"{what}: the constant's array is not {describe(*value.spec)}")


def _node(graph: Graph, i: int, node: Node, defined: set[Value], shapes: bool) -> None:
    def fail(problem: str) -> GraphError:
        where = f", from {node.where}" if node.where is not None else ""
        return GraphError(f"node {i} of the graph '{graph.name}' ({node.op.name}{where}): {problem}")

    op = node.op
    if not isinstance(op, Form) and not (isinstance(op, Op) and TABLE.get(op.name) is op):
        raise fail(f"{op!r} is neither a row of the op table nor a form")
    for j, value in enumerate(node.inputs):
        if value is None:
            if isinstance(op, Form) or op.variadic:
                raise fail(f"input {j} is absent, but it is not optional")
        elif not isinstance(value, Value):
            raise fail(f"input {j} is no value but {value!r}")
        elif type(value) is Constant:
            _well_typed(value, f"node {i} of the graph '{graph.name}', input {j}")
        elif value not in defined:
            raise fail(f"input {j}, {value!r}, is not made before this node")
    if not isinstance(op, Form) and not op.variadic and len(node.inputs) != len(op.inputs):
        raise fail(f"{len(node.inputs)} inputs given, the row takes {len(op.inputs)}")
    if len(node.statics) != len(op.static_names):
        raise fail(f"{len(node.statics)} static parameters given, there are {len(op.static_names)}")
    if not isinstance(op, Form) and len(node.outputs) != len(op.outputs):
        raise fail(f"{len(node.outputs)} outputs stated, the row has {len(op.outputs)}")
    if isinstance(op, Form):
        if len(node.graphs) != len(op.graph_names):
            raise fail(f"{len(node.graphs)} inner graphs, there must be {len(op.graph_names)}")
        for inner in node.graphs:
            try:
                verify(inner, shapes)
            except GraphError as error:
                raise fail(str(error.args[0])) from None
        for problem in forms.CHECK[op](node):
            raise fail(problem)
    elif node.graphs:
        raise fail("a row holds no graphs")
    for j, value in enumerate(node.outputs):
        if not isinstance(value, Value) or isinstance(value, Input | Constant):
            raise fail(f"output {j} is no value of a node but {value!r}")
        if value in defined:
            raise fail(f"output {j}, {value!r}, is made a second time")
        if value.node is not node or value.index != j:
            raise fail(f"output {j}, {value!r}, says it is output {value.index} of {value.node!r}")
        _well_typed(value, f"output {j} of node {i} of the graph '{graph.name}'")
        defined.add(value)
    if shapes:
        _compare(node, fail)


def _compare(node: Node, fail: Any) -> None:
    op = node.op
    if not isinstance(op, Form):
        promoted = node.inputs if op.variadic and op.promotes else [
            v for n, v in zip(op.inputs, node.inputs) if n in op.promotes] if not op.variadic else []
        kinds = {v.dtype for v in promoted if v is not None}
        if len(kinds) > 1:
            raise fail(f"its inputs must have one dtype, they have {', '.join(sorted(d.name for d in kinds))}")
        if is_dynamic(op, node.inputs, node.statics):
            return
    try:
        wanted = list(infer(op, node.inputs, node.statics, node.graphs))
    except AgogError as error:
        raise fail(f"its inputs do not fit: {error.args[0]}") from None
    given = [v.spec for v in node.outputs]
    if given != wanted:
        show = [", ".join(describe(*s) for s in specs) or "nothing" for specs in (given, wanted)]
        raise fail(f"the outputs are stated as {show[0]}, but they are {show[1]}")
