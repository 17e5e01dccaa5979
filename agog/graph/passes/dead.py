"""Dead code: what nobody reads is not computed, also inside of branches and loops. Guards and effects stay.

Of a branch or fused node, outputs that nobody reads go, and then inputs that none of its graphs reads. Of a loop, what
is carried stays only if it is read after the loop, by the test, or by something carried that stays.
"""

from __future__ import annotations

from typing import Iterable

from agog.graph import forms
from agog.graph.ir import Graph, Node, Value
from agog.graph.rewrite import prune


def dead(graph: Graph) -> Graph:
    """`graph` without what nobody reads."""
    while True:
        after = _trimmed(prune(graph))
        if after is graph:
            return graph
        graph = after


def _trimmed(graph: Graph) -> Graph:
    read = set(graph.reads())
    env: dict[Value, Value] = {}
    nodes = []
    for node in graph.nodes:
        inputs = [v if v is None else env.get(v, v) for v in node.inputs]
        new, kept = node.with_inputs(inputs), list(range(len(node.outputs)))
        if node.graphs:
            found = _TRIM[node.op](new, [i for i, v in enumerate(node.outputs) if v in read])
            if found is not None:
                new, kept = found
        if new is not node:
            env.update((node.outputs[i], v) for i, v in zip(kept, new.outputs))
        nodes.append(new)
    if all(a is b for a, b in zip(nodes, graph.nodes)):
        return graph
    return graph.replaced(nodes, [env.get(v, v) for v in graph.outputs])


def _part(graph: Graph, outputs: Iterable[int]) -> Graph:
    """`graph` with some of its outputs, and without what only the others needed."""
    outputs = list(outputs)
    if outputs != list(range(len(graph.outputs))):
        graph = Graph(graph.name, graph.inputs, graph.nodes, [graph.outputs[i] for i in outputs],
                      [graph.roles[i] for i in outputs])
    return dead(graph)


def _reads(graphs: Iterable[Graph]) -> set[int]:
    """The inputs, by number, that the graphs read."""
    found: set[int] = set()
    for graph in graphs:
        values = set(graph.reads())
        found |= {i for i, v in enumerate(graph.inputs) if v in values}
    return found


def _with(graph: Graph, inputs: list[int]) -> Graph:
    if inputs == list(range(len(graph.inputs))):
        return graph
    return Graph(graph.name, [graph.inputs[i] for i in inputs], graph.nodes, graph.outputs, graph.roles)


def _made(node: Node, inputs: list[Value | None], statics: tuple, graphs: list[Graph],
          kept: list[int]) -> tuple[Node, list[int]] | None:
    """The new node and the numbers of the outputs that it still has; None if nothing changed."""
    if (len(inputs) == len(node.inputs) and len(kept) == len(node.outputs)
            and all(a is b for a, b in zip(graphs, node.graphs))):
        return None
    outputs = [Value(*node.outputs[i].spec, node.outputs[i].name) for i in kept]
    return Node(node.op, inputs, statics, outputs, graphs, node.where), kept


def _branches(node: Node, read: list[int]) -> tuple[Node, list[int]] | None:
    ahead = len(node.inputs) - len(node.graphs[0].inputs)  # the condition is no input of the branches
    graphs = [_part(g, read) for g in node.graphs]
    used = sorted(_reads(graphs))
    inputs = [*node.inputs[:ahead], *[node.inputs[ahead + i] for i in used]]
    return _made(node, inputs, node.statics, [_with(g, used) for g in graphs], read)


def _while(node: Node, read: list[int]) -> tuple[Node, list[int]] | None:
    carried, = node.statics
    test, body = (dead(g) for g in node.graphs)
    carry = _carry(carried, {*read, *_reads([test])}, body)
    part = _part(body, carry)
    used = [*carry, *sorted(i for i in _reads([test, part]) if i >= carried)]
    return _made(node, [node.inputs[i] for i in used], (len(carry),), [_with(test, used), _with(part, used)], carry)


def _scan(node: Node, read: list[int]) -> tuple[Node, list[int]] | None:
    carried, scanned, length, reverse = node.statics
    body = dead(node.graphs[0])
    carry = _carry(carried, set(read), body)
    kept = [*carry, *[i for i in read if i >= carried]]
    part = _part(body, kept)
    more = sorted(i for i in _reads([part]) if i >= carried)
    used = [*carry, *more]
    statics = len(carry), sum(i < carried + scanned for i in more), length, reverse
    return _made(node, [node.inputs[i] for i in used], statics, [_with(part, used)], kept)


def _carry(carried: int, wanted: set[int], body: Graph) -> list[int]:
    """What must be carried for the outputs `wanted`, and for guards and effects inside."""
    outputs: list[int] = sorted(wanted & set(range(len(body.outputs))))
    while True:
        more = sorted({*outputs, *[i for i in _reads([_part(body, outputs)]) if i < carried]})
        if more == outputs:
            return [i for i in outputs if i < carried]
        outputs = more


_TRIM = {forms.COND: _branches, forms.FUSED: _branches, forms.WHILE: _while, forms.SCAN: _scan}
