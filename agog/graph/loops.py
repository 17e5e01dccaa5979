"""Reverse rules of branches and loops.

A branch runs its own transpose, chosen by the same condition. A scan keeps what it carried at every turn and goes back
over it. A while loop, whose number of turns no graph knows, counts them; going back, it computes the carried values of
one segment of turns after the other anew, from the start.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.array import dtypes
from agog.graph.build import Builder, Symbol, xp
from agog.graph.forms import SCAN, WHILE
from agog.graph.ir import Graph, Node, Value
from agog.graph.rewrite import call, without_effects

SEGMENT = 64
"""Turns of a while loop whose carried values are kept at a time, going back."""


def _inexact(v: Any) -> bool:
    return dtypes.is_inexact(v.dtype)


def _zero(v: Any) -> np.ndarray:
    return np.zeros(v.shape, v.dtype)


def _full(b: Builder, g: Any, v: Value) -> Any:
    """A cotangent in the shape and dtype of `v`."""
    if g.dtype != v.dtype:
        g = xp.astype(xp.real(g) if g.dtype.kind == "c" and v.dtype.kind != "c" else g, v.dtype)
    return g if g.shape == v.shape else xp.broadcast_to(g, v.shape)


def remember(b: Builder, node: Node) -> tuple[Node, tuple[Value, ...]]:
    """Append `node`, changed so that it can be gone back over: (the node, whose first outputs are the old one's; what
    the rule wants to know)."""
    if node.op is SCAN:
        carried = node.statics[0]
        body = node.graphs[0]
        keep = Graph(body.name, body.inputs, body.nodes, [*body.outputs, *body.inputs[:carried]])
        specs = [v.spec for v in node.outputs] + [((node.statics[2], *v.shape), v.dtype) for v in body.inputs[:carried]]
        new = Node(SCAN, node.inputs, node.statics, [Value(*s) for s in specs], (keep,), node.where)
        for v, old in zip(new.outputs, node.outputs):
            v.name = old.name
        b.append(new)
        return new, new.outputs[len(node.outputs):]
    if node.op is WHILE:
        carried, = node.statics
        xs, rest = node.inputs[:carried], node.inputs[carried:]

        def counted(body: Graph, count: bool) -> Any:
            def fn(n: Symbol, *state: Symbol) -> list[Any]:
                inner = n.builder
                values = [s.value for s in state] + [inner.value(Symbol(v, b)) for v in rest]
                out = [Symbol(v, inner) for v in call(inner, body, values)]
                return [n + 1, *out] if count else out
            return fn

        b.where = node.where
        outs = b.while_loop(counted(node.graphs[0], False), counted(node.graphs[1], True),
                            [np.zeros((), np.int64), *[Symbol(v, b) for v in xs]])
        b.where = None
        made = outs[0].value.node
        assert made is not None
        shown = Node(WHILE, node.inputs, node.statics, [Value(*v.spec) for v in node.outputs], node.graphs, node.where)
        shown.outputs = made.outputs[1:]
        return shown, (made.outputs[0],)
    b.append(node)
    return node, ()


def cond_rule(b: Builder, node: Node, extra: Any, active: list[bool], g: list[Any], pullback: Any) -> list[Any]:
    """Cotangents of the inputs of a cond, the condition's first."""
    wanted = [i for i, a in enumerate(active) if a]
    gs = [b.value(_full(b, x, v)) for x, v in zip(g, node.outputs) if _inexact(v)]
    graphs = tuple(pullback(graph, [graph.inputs[i - 1] for i in wanted]) for graph in node.graphs)
    outs = b.add(node.op, [*node.inputs, *gs], (), graphs=graphs)
    return _placed(len(node.inputs), wanted, [Symbol(v, b) for v in outs])


def _placed(n: int, where: list[int], values: list[Any]) -> list[Any]:
    out: list[Any] = [None] * n
    for i, v in zip(where, values):
        out[i] = v
    return out


def scan_rule(b: Builder, node: Node, extra: Any, active: list[bool], g: list[Any], pullback: Any) -> list[Any]:
    """Cotangents of the inputs of a scan; `extra` are the values that were carried, at every turn."""
    carried, scanned, length, reverse = node.statics
    body = node.graphs[0]
    n = carried + scanned
    state, seqs, rest = body.inputs[:carried], body.inputs[carried:n], body.inputs[n:]
    moving = [i for i in range(carried) if _inexact(state[i])]  # carry that has a cotangent
    sliced = [i for i in range(scanned) if _inexact(seqs[i]) and active[carried + i]]
    fixed = [i for i in range(len(rest)) if _inexact(rest[i]) and active[n + i]]
    back = pullback(body, [state[i] for i in moving] + [seqs[i] for i in sliced] + [rest[i] for i in fixed])
    ys = [i for i in range(carried, len(body.outputs)) if _inexact(body.outputs[i])]

    def step(*args: Symbol) -> list[Any]:
        it = iter(args)
        gc, totals = [next(it) for _ in moving], [next(it) for _ in fixed]
        values = [next(it) for _ in range(carried + scanned)]
        gy = [next(it) for _ in ys]
        inner = args[0].builder
        outer = [inner.value(Symbol(v, b)) for v in node.inputs[n:]]
        inputs = [v.value for v in values] + outer + [v.value for v in gc + gy]
        out = [Symbol(v, inner) for v in call(inner, back, inputs)]
        m = len(moving) + len(sliced)
        return [*out[:len(moving)], *[t + g for t, g in zip(totals, out[m:])], *out[len(moving):m]]

    carry = [_full(b, g[i], node.outputs[i]) for i in moving] + [_zero(rest[i]) for i in fixed]
    xs = [Symbol(v, b) for v in (*extra, *node.inputs[carried:n])] + [_full(b, g[i], node.outputs[i]) for i in ys]
    out = b.scan(step, carry, xs, length=length, reverse=not reverse)
    where = moving + [n + i for i in fixed] + [carried + i for i in sliced]
    return _placed(len(node.inputs), where, list(out))


def while_rule(b: Builder, node: Node, extra: Any, active: list[bool], g: list[Any], pullback: Any) -> list[Any]:
    """Cotangents of the inputs of a while loop; `extra` is the number of turns that it made."""
    carried, = node.statics
    body = without_effects(node.graphs[1])
    state, rest = body.inputs[:carried], body.inputs[carried:]
    moving = [i for i in range(carried) if _inexact(state[i])]
    fixed = [i for i in range(len(rest)) if _inexact(rest[i]) and active[carried + i]]
    back = pullback(body, [state[i] for i in moving] + [rest[i] for i in fixed])
    turns = Symbol(extra[0], b)
    start = [Symbol(v, b) for v in node.inputs[:carried]]
    around = [Symbol(v, b) for v in node.inputs[carried:]]

    def run(inner: Builder, graph: Graph, values: list[Symbol], more: list[Symbol]) -> list[Symbol]:
        inputs = [inner.value(v) for v in (*values, *around, *more)]
        return [Symbol(v, inner) for v in call(inner, graph, inputs)]

    def forward(j: Symbol, *values: Symbol) -> list[Any]:
        return [j + 1, *run(j.builder, body, list(values), [])]

    def segment(s: Symbol, *gs: Symbol) -> list[Any]:
        """Back over turns s*SEGMENT ... of the loop; gs are the cotangents of the carry, and the totals of the rest."""
        inner = s.builder
        first = (s - 1) * SEGMENT
        _, *at = inner.while_loop(lambda j, *_: j < first, forward, [np.zeros((), np.int64), *start])
        numbers = np.arange(SEGMENT)

        def turn(*args: Symbol) -> list[Any]:
            *values, i = args
            new = i.builder.cond(i + first < turns, lambda *v: run(v[0].builder, body, list(v), []),
                                 lambda *v: list(v), values)
            return [*new, *values]

        kept = inner.scan(turn, at, [numbers])[carried:]

        def step(*args: Symbol) -> list[Any]:
            gc, totals = args[:len(moving)], args[len(moving):len(gs)]
            *values, i = args[len(gs):]

            def go(*v: Symbol) -> list[Any]:
                out = run(v[0].builder, back, list(v[len(gs):]), list(v[:len(moving)]))
                return [*out[:len(moving)], *[t + m for t, m in zip(v[len(moving):len(gs)], out[len(moving):])]]

            return list(i.builder.cond(i + first < turns, go, lambda *v: list(v[:len(gs)]), [*gc, *totals, *values]))

        return [s - 1, *inner.scan(step, gs, [*kept, numbers], reverse=True)]

    segments = (turns + (SEGMENT - 1)) // SEGMENT
    carry = [_full(b, g[i], node.outputs[i]) for i in moving] + [_zero(rest[i]) for i in fixed]
    _, *out = b.while_loop(lambda s, *_: s > 0, segment, [segments, *carry])
    return _placed(len(node.inputs), moving + [carried + i for i in fixed], list(out))
