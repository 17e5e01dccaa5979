"""Gradients of graphs: the tape's own walk, with the rules of the rows run on Symbols.

`vjp` puts forward and backward into one graph; `forward_backward` cuts that in two, where the values that the
backward part reads become outputs of the first and inputs of the second. Cotangents are transposes without
conjugation inside, and are conjugated at the boundary, as in `autodiff.engine`.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

import numpy as np

from agog import tape
from agog.array import dtypes
from agog.errors import GradientError, GraphError
from agog.graph.build import Builder, Symbol, xp
from agog.graph.forms import COND, SCAN, WHILE
from agog.graph.ir import Constant, Graph, Input, Node, Role, Value
from agog.graph.loops import cond_rule, remember, scan_rule, while_rule
from agog.graph.rewrite import ancestors, inline, prune, without_effects

_FORM_RULES = {COND: cond_rule, WHILE: while_rule, SCAN: scan_rule}


class _FormOp:
    """What the tape wants to know of an operation, for a form: one rule for all inputs."""

    elementwise, variadic = False, True

    def __init__(self, name: str, outputs: tuple, rule: Any):
        self.name, self.outputs, self.rules = name, outputs, ((rule, 0, None),)


class Ruled:
    """A piece of a graph with a gradient rule of its own.

    pull(xs, gs)  Symbols of the inputs and a cotangent for each output: cotangents (or None) for each input
    """

    def __init__(self, inputs: list[Value], outputs: list[Value], pull: Callable[[list[Any], list[Any]], list[Any]]):
        self.inputs, self.outputs, self.pull = inputs, outputs, pull


class _Forward:
    """The forward part, copied into a builder and recorded on a tape."""

    def __init__(self, graph: Graph, builder: Builder, wanted: Sequence[Value], ruled: Sequence[Ruled] = ()):
        self.builder = builder
        self.ruled = {piece.outputs[-1]: piece for piece in ruled}
        self.env: dict[Value, Value] = {}
        self.tape: dict[Value, Any] = {v: tape.Leaf(v.shape, v.dtype) for v in wanted}
        self.where: dict[Any, Any] = {}
        self._alive: list[Any] = []
        for node in graph.nodes:
            self._node(node)
            for v in node.outputs:
                if v in self.ruled:
                    self._own_rule(self.ruled.pop(v), node.where)
        if self.ruled:
            raise GraphError(f"a gradient rule belongs to no value of the graph '{graph.name}'")

    def read(self, v: Any) -> Any:
        return v if v is None else self.env.get(v, v)

    def _node(self, node: Node) -> None:
        inputs = [self.read(v) for v in node.inputs]
        parents = tuple(None if v is None else self.tape.get(v) for v in inputs)
        if node.is_row:
            self._row(node, node.with_inputs(inputs), parents)
        elif node.op in _FORM_RULES and any(p is not None for p in parents):
            self._form(node, inputs, parents)
        else:
            self._keep(node, node.with_inputs(inputs))

    def _keep(self, old: Node, new: Node) -> None:
        for a, b in zip(old.outputs, self.builder.append(new)):
            if a is not b:
                self.env[a] = b

    def _row(self, old: Node, node: Node, parents: tuple) -> None:
        op = node.op
        self._keep(old, node)
        if not op.vjp:
            return
        if not op.variadic:
            parents = tuple(p if r is not None else None for p, r in zip(parents, op.rules))
        if not any(p is not None for p in parents):
            return
        outs = node.outputs
        if not any(dtypes.is_inexact(v.dtype) for v in outs):
            return
        values = tuple(None if v is None else Symbol(v, self.builder) for v in (*node.inputs, *outs))
        shape = outs[0].shape if len(outs) == 1 else [v.spec for v in outs]
        self._recorded(tape.record(op, parents, values, node.statics, shape), outs, node.where)

    def _form(self, node: Node, inputs: list[Value], parents: tuple) -> None:
        old, b = node, self.builder
        node = node.with_inputs(inputs)
        new, extra = remember(b, node)
        for a, v in zip(old.outputs, new.outputs):
            self.env[a] = v
        outs = new.outputs[:len(old.outputs)]
        active = [p is not None for p in parents]

        def rule(_: Any, g: Any) -> list[Any]:
            return _FORM_RULES[node.op](b, node, extra, active, g if isinstance(g, list) else [g], pullback)

        made = tape._new(tape.Node)
        made.op, made.parents, made.env, made.seq = _FormOp(node.op.name, outs, rule), parents, (), tape._ticket()
        made.shape = outs[0].shape if len(outs) == 1 else [v.spec for v in outs]
        self._recorded(made, outs, node.where)

    def _own_rule(self, piece: Ruled, where: Any) -> None:
        b, inputs, outs = self.builder, [self.read(v) for v in piece.inputs], [self.read(v) for v in piece.outputs]
        parents = tuple(self.tape.get(v) for v in inputs)

        def rule(_: Any, g: Any) -> list[Any]:
            gs = [p if isinstance(p, Symbol) else b.constant(p) for p in (g if isinstance(g, list) else [g])]
            return piece.pull([b.symbol(v) for v in inputs], gs)

        if any(p is not None for p in parents):
            made = tape._new(tape.Node)
            made.op, made.parents, made.env, made.seq = _FormOp("rule", tuple(outs), rule), parents, (), tape._ticket()
            made.shape = outs[0].shape if len(outs) == 1 else [v.spec for v in outs]
            self._recorded(made, outs, where)

    def _recorded(self, made: Any, outs: Sequence[Value], where: Any) -> None:
        self._alive.append(made)
        self.where[made] = where
        if len(outs) == 1:
            self.tape[outs[0]] = made
            return
        for i, v in enumerate(outs):
            if dtypes.is_inexact(v.dtype):
                self.tape[v] = tape.Pick(made, i, v.shape)

    def backward(self, outputs: Sequence[Value], cotangents: Sequence[Any], wanted: Sequence[Value]) -> list[Symbol]:
        """Cotangents of `wanted`, each whole and of its value's dtype."""
        pairs = [(self.tape[v], g) for v, g in zip(outputs, cotangents) if g is not None and v in self.tape]
        b = self.builder

        def as_values(node: Any, env: tuple) -> tuple:
            b.where = self.where.get(node)
            return env

        with b:
            found = tape.pullback(xp, [p for p, _ in pairs], [g for _, g in pairs], None, retain=True,
                                  as_values=as_values) if pairs else {}
            b.where = None
            return [self._whole(found.get(self.tape[v]), v) for v in wanted]

    def _whole(self, g: Any, v: Value) -> Symbol:
        if g is None:
            g = np.broadcast_to(np.zeros((), v.dtype), v.shape)
        if g.dtype != v.dtype:
            g = xp.astype(xp.real(g) if g.dtype.kind == "c" and v.dtype.kind != "c" else g, v.dtype)
        if g.shape != v.shape:
            g = xp.broadcast_to(g, v.shape) if isinstance(g, Symbol) else np.broadcast_to(g, v.shape)
        return g if isinstance(g, Symbol) else self.builder.constant(g)


def _wanted(graph: Graph, wrt: Any) -> list[Input]:
    """The inputs that `wrt` names: None for all floating ones, or indices, or paths."""
    if wrt is None:
        return [v for v in graph.inputs if dtypes.is_inexact(v.dtype)]
    out = []
    for w in wrt if isinstance(wrt, tuple | list) else (wrt,):
        if isinstance(w, str):
            found = [v for v in graph.inputs if v.role.path == w]
            if not found:
                raise GradientError(f"the graph '{graph.name}' has no input {w!r}; it has "
                                    f"{', '.join(repr(v.role.path) for v in graph.inputs)}")
            v = found[0]
        elif isinstance(w, Input):
            v = w
        else:
            v = graph.inputs[w]
        if not dtypes.is_inexact(v.dtype):
            raise GradientError(f"input {v.role.path!r} of the graph '{graph.name}' is {v.dtype}: only floating and "
                                "complex values have a gradient")
        out.append(v)
    return out


def pullback(graph: Graph, wrt: Sequence[Value]) -> Graph:
    """The transpose: (inputs, a cotangent for each floating output) -> a cotangent for each of `wrt`. No conjugation.

    Effects and guards are left out: the forward run had them.
    """
    graph = without_effects(inline(graph))
    b = Builder.like(graph)
    forward = _Forward(graph, b, wrt)
    outputs = [forward.read(v) for v in graph.outputs]
    gs = [b.input(v.shape, v.dtype, path=f"cotangent.{i}") if dtypes.is_inexact(v.dtype) else None
          for i, v in enumerate(outputs)]
    return prune(b.build(forward.backward(outputs, gs, wrt)))


def vjp(graph: Graph, wrt: Any = None) -> Graph:
    """One graph of both directions: (inputs, a cotangent for each floating output) -> (outputs, gradients by `wrt`).

    wrt   indices or paths of inputs; None: every floating one
    """
    return _joint(graph, _wanted(graph, wrt))


def _joint(graph: Graph, wrt: Sequence[Input], of: Sequence[int] | None = None, ruled: Sequence[Ruled] = ()) -> Graph:
    graph = inline(graph)
    b = Builder.like(graph)
    forward = _Forward(graph, b, wrt, ruled)
    outputs = [forward.read(v) for v in graph.outputs]
    gs: list[Any] = []
    with b:
        for i, (v, role) in enumerate(zip(outputs, graph.roles)):
            given = dtypes.is_inexact(v.dtype) and (of is None or i in of)
            g = b.input(v.shape, v.dtype, path=f"cotangent.{role.path or i}") if given else None
            gs.append(xp.conj(g) if g is not None and v.dtype.kind == "c" else g)
    grads = forward.backward(outputs, gs, wrt)
    with b:
        grads = [xp.conj(g) if g.dtype.kind == "c" else g for g in grads]
    return prune(b.build([*outputs, *grads], [*graph.roles, *[Role("result", f"grad.{v.role.path}") for v in wrt]]))


def grad(graph: Graph, wrt: Any = None, *, value: bool = False) -> Graph:
    """The graph of the gradients of the one real scalar result of `graph`, with the same inputs.

    wrt     indices or paths of inputs; None: every floating one
    value   put the graph's own outputs first

    Raises GradientError when there is no such result.
    """
    roots = [i for i, r in enumerate(graph.roles) if r.kind == "result"]
    if len(roots) != 1 or graph.outputs[roots[0]].size != 1 or dtypes.kind(graph.outputs[roots[0]].dtype) != "f":
        raise GradientError(f"the graph '{graph.name}' must have one result, a real floating scalar; it has "
                            f"{[v for v, r in zip(graph.outputs, graph.roles) if r.kind == 'result']}")
    wanted = _wanted(graph, wrt)
    graph = inline(graph)
    b = Builder.like(graph)
    forward = _Forward(graph, b, wanted)
    outputs = [forward.read(v) for v in graph.outputs]
    root = outputs[roots[0]]
    grads: list[Any] = forward.backward([root], [np.ones((), root.dtype)], wanted)
    with b:
        grads = [xp.conj(g) if g.dtype.kind == "c" else g for g in grads]
    roles = [Role("result", f"grad.{v.role.path}") for v in wanted]
    if value:
        return prune(b.build([*outputs, *grads], [*graph.roles, *roles]))
    return prune(b.build(grads, roles))


def forward_backward(graph: Graph, wrt: Any = None, of: Sequence[int] | None = None,
                     ruled: Sequence[Ruled] = ()) -> tuple[Graph, Graph]:
    """Two graphs for a gradient that comes later.

    The first has the outputs of `graph`, then the values to keep (role 'saved'). The second takes those values, then a
    cotangent for each floating output (of those with the numbers in `of`), and gives the gradients by `wrt`. What only
    the backward part needs is computed there; a view is not kept, what it looks at is. `ruled`: pieces of the graph,
    in which gradients are stopped, that have a rule of their own.
    """
    wanted = _wanted(graph, wrt)
    joint = _joint(graph, wanted, of, ruled)
    count = len(graph.outputs)
    outputs, grads = joint.outputs[:count], joint.outputs[count:]
    first = ancestors(outputs) | {n for n in joint.nodes if not n.pure}
    for node in [n for n in first if not n.pure]:
        first |= ancestors(node.inputs)
    backward = [n for n in joint.nodes if n not in first]
    inside = {v for n in backward for v in n.outputs}
    cotangents = joint.inputs[len(graph.inputs):]
    views: list[Node] = []
    saved: dict[Value, Input] = {}
    stack = [v for n in backward for v in n.inputs if v is not None] + list(grads)
    seen: set[Value] = set()
    while stack:
        v = stack.pop()
        if v in seen or type(v) is Constant or v in inside or v in cotangents:
            continue
        seen.add(v)
        if v.node is not None and v.node.is_row and v.node.op.view is not None and len(v.node.inputs) == 1:
            views.append(v.node)
            stack.append(v.node.inputs[0])
        else:
            saved[v] = Input(v.shape, v.dtype, Role("argument", ""), v.name)
    place = {n: i for i, n in enumerate(joint.nodes)}
    order = {v: (place[v.node], v.index) if v.node is not None else (-1, joint.inputs.index(v)) for v in saved}
    kept = sorted(saved, key=lambda v: order[v])
    for i, v in enumerate(kept):
        saved[v].role = Role("argument", f"saved.{i}")
    b = Builder(f"{graph.name}_backward")
    b.inputs = [saved[v] for v in kept] + list(cotangents)
    env: dict[Value, Value] = dict(saved)
    for node in sorted({*backward, *views}, key=lambda n: place[n]):
        new = node.with_inputs([v if v is None else env.get(v, v) for v in node.inputs])
        if new is node:
            new = Node(node.op, node.inputs, node.statics, node.fresh(), node.graphs, node.where)
        b.append(new)
        env.update(zip(node.outputs, new.outputs))
    forward = Graph(graph.name, graph.inputs, joint.nodes, [*outputs, *kept],
                    [*graph.roles, *[Role("saved", str(i)) for i in range(len(kept))]])
    return prune(forward), Graph(b.name, b.inputs, b.nodes, [env.get(v, v) for v in grads], joint.roles[count:])
