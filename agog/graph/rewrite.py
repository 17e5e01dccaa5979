"""What passes are made of: copying a graph with some steps replaced, putting one graph's nodes into another."""

from __future__ import annotations

from typing import Any, Callable, Sequence

from agog.graph import forms
from agog.graph.build import Builder
from agog.graph.ir import Graph, Node, Value

Replace = Callable[[Builder, Node, tuple], "Sequence[Value] | None"]


def rewrite(graph: Graph, replace: Replace | None = None, deep: Callable[[Graph], Graph] | None = None,
            closed: Any = None) -> Graph:
    """`graph` with nodes replaced: `replace(builder, node, inputs)` returns the new values of the node's outputs, or
    None to keep it. What it appends to the builder gets the node's line.

    deep    is applied to the graphs inside nodes first
    closed  a form whose graphs `deep` does not touch
    """
    builder = Builder.like(graph)
    env: dict[Value, Value] = {}
    changed = False
    for node in graph.nodes:
        inputs = tuple([env.get(v, v) for v in node.inputs]) if env else node.inputs
        new = node
        if deep is not None and node.graphs and node.op is not closed:
            graphs = tuple(deep(g) for g in node.graphs)
            if any(a is not b for a, b in zip(graphs, node.graphs)):
                new = Node(node.op, inputs, node.statics, node.fresh(), graphs, node.where)
        if inputs is not node.inputs:
            new = new.with_inputs(inputs)
        outputs: Sequence[Value] | None = None
        if replace is not None:
            mark = len(builder.nodes)
            builder.where = node.where
            with builder:
                outputs = replace(builder, new, inputs)
            builder.where = None
            if outputs is None:
                del builder.nodes[mark:]
        if outputs is None:
            outputs = builder.append(new)
        if new is not node or outputs is not new.outputs:
            changed = True
            for old, now in zip(node.outputs, outputs):
                if now is not old:
                    env[old] = now
                    if replace is not None and old.name and not now.name and now.node in builder.nodes[mark:]:
                        now.name = old.name
    if not changed:
        return graph
    return graph.replaced(builder.nodes, [env.get(v, v) for v in graph.outputs])


def call(builder: Builder, graph: Graph, inputs: Sequence[Value], pure: bool = False) -> list[Value]:
    """Append the nodes of `graph` to `builder` with its inputs filled in; its outputs.

    pure   leave guards and effects out
    """
    env: dict[Value, Value] = dict(zip(graph.inputs, inputs))
    for node in graph.nodes:
        if pure and not node.pure and not node.outputs:
            continue
        new = Node(node.op, [v if v is None else env.get(v, v) for v in node.inputs], node.statics,
                   node.fresh(),
                   [without_effects(g) for g in node.graphs] if pure else node.graphs, node.where)
        builder.append(new)
        env.update(zip(node.outputs, new.outputs))
    return [env.get(v, v) for v in graph.outputs]


def without_effects(graph: Graph) -> Graph:
    """`graph` without its guards and effects, for running it a second time."""
    if all(n.pure for n in graph.nodes):
        return graph
    builder = Builder.like(graph)
    outputs = call(builder, graph, graph.inputs, pure=True)
    return graph.replaced(builder.nodes, outputs)


def inline(graph: Graph) -> Graph:
    """`graph` with fused nodes dissolved."""
    def replace(builder: Builder, node: Node, inputs: tuple) -> Sequence[Value] | None:
        return call(builder, node.graphs[0], inputs) if node.op is forms.FUSED else None

    return rewrite(graph, replace, deep=inline)


def prune(graph: Graph) -> Graph:
    """`graph` without what nobody reads. Guards and effects stay, and so does what they read."""
    live: set[Value] = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if not node.pure or any(v in live for v in node.outputs):
            live.update(v for v in node.inputs if v is not None)
            nodes.append(node)
    if len(nodes) == len(graph.nodes):
        return graph
    return graph.replaced(nodes[::-1])


def ancestors(values: Sequence[Value], among: Any = None) -> set[Node]:
    """All nodes (`among` some) that `values` are computed from."""
    found: set[Node] = set()
    stack = [v.node for v in values if v is not None and v.node is not None]
    while stack:
        node = stack.pop()
        if node in found or among is not None and node not in among:
            continue
        found.add(node)
        stack.extend(v.node for v in node.inputs if v is not None and v.node is not None and v.node not in found)
    return found
