"""Results of a staged call that can be differentiated afterwards: the whole call is one node of the tape.

Where the backward pass runs on plain arrays, it is a native function of the values that the forward one has kept. For
higher derivatives, and whatever else needs Tensors, the recorded operations are run again on Tensors, with a history.
"""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from agog import config, tape
from agog.autodiff.engine import conj, deepening, enable_grad, walk
from agog.autodiff.functional import attached, fresh, stopped
from agog.dispatch import apply, tensors, wrap
from agog.errors import GradientError, GraphError
from agog.graph.forms import COND, SCAN, WHILE
from agog.graph.grad import Ruled, forward_backward
from agog.graph.ir import Constant, Graph, Input, Value
from agog.graph.ir import Node as GraphNode
from agog.staging.building import build
from agog.staging.guards import Guards
from agog.staging.rules import Trial, puller
from agog.staging.state import is_tensor
from agog.tape import Node, Pick

_new = object.__new__
_NONE: dict[Any, Any] = {}
MARKS = (stopped, attached)
_payload = 2  # where a node of ours keeps what its rule takes: after the inputs and the output


class Live:
    """What the tape needs to know of a row, for the calls of one recording.

    outputs    which outputs of the graph are differentiable results
    which      which inputs have a history
    reaches    for each of these outputs, the positions in `which` that its gradient flows to
    customs    {last node: (rule, inputs, outputs)} of functions with gradient rules of their own
    """

    variadic, elementwise, derived, inputs, static_names, sees_none = True, False, (), ("xs",), (), True

    def __init__(
        self,
        name: str,
        graph: Graph,
        outputs: list[int],
        which: list[int],
        reaches: list[set[int]],
        customs: dict[GraphNode, tuple[Any, list[Value], list[Value]]],
    ):
        self.customs = customs
        self.guards: Guards | None = None  # what the rules of customs read
        self._parts: tuple[Graph, Graph] | None = None
        self.name, self.graph, self.live, self.which, self.reaches = f"staged {name}", graph, outputs, which, reaches
        self.outputs = ("y",) if len(outputs) == 1 else tuple(map(str, outputs))
        specs = [graph.outputs[i].spec for i in outputs]
        self.shape: Any = specs[0][0] if len(specs) == 1 else specs
        self.rules = ((self.rule, 1, _payload),)
        self.backward: Callable[[list[Any]], list[Any]] | None = None
        self.saved: list[tuple[bool, int]] = []  # (whether it is an input, its number among inputs or outputs)
        self.parts: list[tuple[Any, list[int], set[int]]] = [(self, list(range(len(outputs))), set(range(len(which))))]

    def part(self, made: list[set[Any]]) -> None:
        """Results whose graphs share nothing are nodes of their own: walking back from one does not use up the others.

        made: for each result, the nodes of the recorded tape that it was made by
        """
        groups: list[tuple[set[Any], list[int]]] = []
        for k, nodes in enumerate(made):
            mine: tuple[set[Any], list[int]] = (set(nodes), [k])
            for group in [g for g in groups if not g[0].isdisjoint(nodes)]:
                groups.remove(group)
                mine = (mine[0] | group[0], sorted(mine[1] + group[1]))
            groups.append(mine)
        if len(groups) > 1:
            self.parts = [(Part(self, ks), ks, set().union(*[self.reaches[k] for k in ks])) for _, ks in groups]

    def trace(self) -> str | None:
        """Run the gradient rules of customs on values that do not exist yet; why this cannot be done, or None."""
        if len(self.live) > 1:  # which rules run depends on which results are used
            return "it returns several Tensors to differentiate, through a function with a gradient rule of its own"
        trial = Trial([rule for rule, _, _ in self.customs.values()])
        reason = trial.run(self._split)
        self._parts, self.guards = trial.result, trial.guards
        return reason

    def changed(self) -> str | None:
        """The name of what a gradient rule read and what is not as it was, or None."""
        return None if self.guards is None else self.guards.failed()

    def _split(self) -> tuple[Graph, Graph]:
        ruled = [Ruled(inputs, outs, puller(rule)) for rule, inputs, outs in self.customs.values()]
        return forward_backward(self.graph, list(self.which), of=self.live, ruled=ruled)

    def compile(self) -> Callable[[list[Any]], list[Any]]:
        """The program of the forward part; makes that of the backward part as well, where this can be compiled."""
        try:
            return self._compile()
        except Exception as error:
            if config.strict_compiler and not isinstance(error, GraphError):  # (a shape that depends on data)
                raise
            self.backward, self.saved = None, []
            return build(without_stops(self.graph))

    def _compile(self) -> Callable[[list[Any]], list[Any]]:
        count = len(self.graph.outputs)
        forward, backward = self._parts or self._split()
        forward, backward = without_stops(forward), without_stops(backward)
        kept: list[Any] = []
        saved: list[tuple[bool, int]] = []
        place = {v: i for i, v in reversed(list(enumerate(forward.outputs[:count])))}
        inputs = {v: i for i, v in enumerate(forward.inputs)}
        for v in forward.outputs[count:]:
            if type(v) is Input:
                saved.append((True, inputs[v]))
            elif v in place:
                saved.append((False, place[v]))
            else:
                saved.append((False, count + len(kept)))
                kept.append(v)
        roles = [
            *forward.roles[:count],
            *[r for r, v in zip(forward.roles[count:], forward.outputs[count:]) if v in kept],
        ]
        first = Graph(forward.name, forward.inputs, forward.nodes, [*forward.outputs[:count], *kept], roles)
        program, back = build(first), build(backward)
        self.saved, self.backward = saved, back
        return program

    # ------------------------------------------------------------------------------------------------ one call
    def attach(self, results: list[Any], parents: tuple, inputs: tuple, outs: list[Any]) -> None:
        """Put a call on the tape. inputs: all arrays of the call; parents: the nodes of those in `which`."""
        payload = inputs, parents, [inputs[i] if given else outs[i] for given, i in self.saved]
        for op, numbers, reach in self.parts:
            node = _new(Node)
            above = parents
            if len(reach) < len(parents):
                above = tuple([p if k in reach else None for k, p in enumerate(parents)])
            node.op, node.parents, node.seq, node.shape = op, above, tape._ticket(), op.shape
            node.env = (None, None, payload)
            if len(numbers) == 1:
                results[numbers[0]]._node = node
            else:
                for n, k in enumerate(numbers):
                    results[k]._node = Pick(node, n, results[k]._data.shape)

    def rule(self, xp: Any, g: Any, payload: tuple) -> list[Any]:
        """Cotangents of the inputs in `which`."""
        gs = g if type(g) is list else [g]
        inputs, parents, saved = payload
        raw = not any(is_tensor(p) for p in gs)
        if self.backward is None or not raw:
            return self._replay(gs, inputs, parents, raw)
        if (name := self.changed()) is not None:
            raise GradientError(
                f"{self.name}: {name} has changed between the call and backward(), and a gradient rule reads it; pass "
                "it to the function as an argument, or make the call inside ag.eager()"
            )
        full = [
            np.zeros(s, d) if p is None else np.ascontiguousarray(p).reshape(s) for p, (s, d) in zip(gs, self.specs)
        ]
        found = self.backward([*saved, *[p.conj() if p.dtype.kind == "c" else p for p in full]])
        if any(p is None for p in gs) and not all(np.isfinite(x).all() for x in found):
            return self._replay(gs, inputs, parents, raw)  # nothing times infinity is not what eager code computes
        touched = set().union(*[r for r, p in zip(self.reaches, gs) if p is not None])
        return [(x.conj() if x.dtype.kind == "c" else x) if k in touched else None for k, x in enumerate(found)]

    @property
    def specs(self) -> list[Any]:
        return [self.graph.outputs[i].spec for i in self.live]

    def _replay(self, gs: list[Any], arrays: tuple, parents: tuple, raw: bool) -> list[Any]:
        deeper = not raw and deepening()
        inputs = [wrap(a) for a in arrays]
        for i, parent in zip(self.which, parents):
            inputs[i] = fresh(wrap(arrays[i], parent) if deeper else wrap(arrays[i]))
        with enable_grad():
            outs = replay(self.graph, inputs, self.customs)
        pairs = [(outs[i], conj(wrap(p) if raw else p)) for i, p in zip(self.live, gs) if p is not None]
        pairs = [(y, p) for y, p in pairs if y._node is not None]
        sources = [inputs[i]._node for i in self.which]
        found = (
            walk(
                [y for y, _ in pairs],
                [p for _, p in pairs],
                retain=deeper,
                create_graph=deeper,
                wanted=set(sources),
                stop=True,
            )
            if pairs
            else {}
        )
        return [found.get(s) for s in sources]


class Part:
    """To the tape, some of the results of a call: those with these numbers."""

    variadic, elementwise, derived, inputs, static_names, sees_none = True, False, (), ("xs",), (), True

    def __init__(self, live: Live, numbers: list[int]):
        self.live, self.numbers, self.name = live, numbers, live.name
        self.outputs = ("y",) if len(numbers) == 1 else tuple(map(str, numbers))
        specs = [live.specs[k] for k in numbers]
        self.shape: Any = specs[0][0] if len(specs) == 1 else specs
        self.rules = ((self.rule, 1, _payload),)

    def rule(self, xp: Any, g: Any, payload: tuple) -> list[Any]:
        """Cotangents of the inputs in `which`."""
        full: list[Any] = [None] * len(self.live.live)
        for k, p in zip(self.numbers, g if type(g) is list else [g]):
            full[k] = p
        return self.live.rule(xp, full, payload)


def without_stops(graph: Graph) -> Graph:
    """The graph without the marks of where gradients stop and where they go: to values they mean nothing."""
    same: dict[Value, Value] = {}
    nodes, changed = [], False
    for node in graph.nodes:
        inputs = node.inputs
        if same and not same.keys().isdisjoint(inputs):
            inputs = tuple([same.get(v, v) for v in inputs])
        if node.op in MARKS:
            same[node.outputs[0]] = inputs[0]
            changed = True
            continue
        graphs = tuple([without_stops(g) for g in node.graphs]) if node.graphs else ()
        if inputs is not node.inputs or graphs != node.graphs:
            new = GraphNode(node.op, inputs, node.statics, node.fresh(), graphs, node.where)
            same.update(zip(node.outputs, new.outputs))
            node, changed = new, True
        nodes.append(node)
    return graph.replaced(nodes, [same.get(v, v) for v in graph.outputs]) if changed else graph


def replay(graph: Graph, inputs: list[Any], customs: dict[Any, Any] = _NONE) -> list[Any]:
    """The recorded operations on Tensors: all outputs of the graph, with a history."""
    values: dict[Any, Any] = dict(zip(graph.inputs, inputs))
    for node in graph.nodes:
        args = [None if v is None else wrap(v.data) if type(v) is Constant else values[v] for v in node.inputs]
        if node.is_row:
            out: Any = apply(node.op, tuple(args), node.statics)
        elif node.op is COND:
            out = replay(node.graphs[0 if args[0] else 1], args[1:])
        elif node.op is SCAN:
            out = _replay_scan(node, args)
        elif node.op is WHILE:
            (carried,) = node.statics
            test, body = node.graphs
            out, rest = args[:carried], args[carried:]
            while replay(test, [*out, *rest])[0]:
                out = replay(body, [*out, *rest])
        else:
            continue
        for v, t in zip(node.outputs, out if isinstance(out, tuple | list) else (out,)):
            values[v] = t
        if node in customs:
            _rerun(values, *customs[node])
    return [wrap(v.data) if type(v) is Constant else values[v] for v in graph.outputs]


def _replay_scan(node: Any, args: list[Any]) -> list[Any]:
    carried, scanned, length, reverse = node.statics
    state, sequences, rest = args[:carried], args[carried : carried + scanned], args[carried + scanned :]
    rows = []
    for i in reversed(range(length)) if reverse else range(length):
        state_and_row = replay(node.graphs[0], [*state, *[x[i] for x in sequences], *rest])
        state = state_and_row[:carried]
        rows.append(state_and_row[carried:])
    if reverse:
        rows.reverse()
    return [*state, *[tensors.stack(list(column), axis=0) for column in zip(*rows)]]


def _rerun(values: dict[Any, Any], rule: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """The function with a gradient rule of its own, whose operations have just run, again as one with a history."""
    xs = [wrap(v.data) if type(v) is Constant else values[v] for v in inputs]
    if any(x._node is not None for x in xs):
        values.update(zip(outputs, rule.recorded(xs, None)))
