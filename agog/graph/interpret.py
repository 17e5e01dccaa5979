"""The slow interpreter: what a graph means. Every pass and the compiler are measured against it.

Each node runs its row's computation on NumPy arrays, and the result must have the shape and dtype that the graph
states. A value is dropped after its last use. Effects are delivered in order when all nodes have run.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

import numpy as np

from agog.errors import AgogError, DTypeError, GraphError, GuardFailed, ShapeError
from agog.graph import forms
from agog.graph.infer import is_dynamic
from agog.graph.ir import Constant, Graph, Node, describe
from agog.ops.explain import explain

Effects = list[tuple[Callable[..., Any], tuple]]


def run(graph: Graph, inputs: Sequence[Any], *, deliver: bool = True, effects: Effects | None = None,
        watch: Callable[[Node, tuple], None] | None = None) -> tuple[np.ndarray, ...]:
    """The outputs of `graph` on arrays.

    effects   a list that takes (deliver, arrays) pairs; with deliver=False they are left there and not called
    watch     `watch(node, outputs)` is called after each node, also inside of loops and branches

    Raises GuardFailed where a guard does not hold (nothing was delivered then), what a row raises, and ShapeError or
    DTypeError for inputs that do not fit.
    """
    arrays = [np.asarray(x) for x in inputs]
    if len(arrays) != len(graph.inputs):
        raise GraphError(f"the graph '{graph.name}' has {len(graph.inputs)} inputs, {len(arrays)} were given")
    for value, x in zip(graph.inputs, arrays):
        if x.shape != value.shape or x.dtype != value.dtype:
            what = f"input {value.role.path or value.name!r} of the graph '{graph.name}' is {describe(*value.spec)}"
            error = ShapeError if x.shape != value.shape else DTypeError
            raise error(f"{what}, not {describe(x.shape, x.dtype)}")
    collected: Effects = [] if effects is None else effects
    with np.errstate(all="ignore"):
        out = _run(graph, arrays, collected, watch)
    if deliver:
        for call, values in collected:
            call(*values)
    return out


def _plan(graph: Graph) -> list[tuple]:
    """For each node, the values that nobody reads after it."""
    if graph._plan is None:
        last: dict[Any, int] = {}
        for i, node in enumerate(graph.nodes):
            for v in (*node.inputs, *node.outputs):
                last[v] = i
        keep = set(graph.outputs)
        dead: list[list] = [[] for _ in graph.nodes]
        for v, i in last.items():
            if v is not None and v not in keep and type(v) is not Constant:
                dead[i].append(v)
        graph._plan = [tuple(d) for d in dead]
    return graph._plan


def _run(graph: Graph, inputs: Sequence[Any], effects: Effects, watch: Any) -> tuple[np.ndarray, ...]:
    env: dict[Any, Any] = dict(zip(graph.inputs, inputs))

    def read(v: Any) -> Any:
        return None if v is None else v.data if type(v) is Constant else env[v]

    for node, dead in zip(graph.nodes, _plan(graph)):
        values = [read(v) for v in node.inputs]
        out = _row(node, values) if node.is_row else _FORMS[node.op](node, values, effects, watch)
        for v, x in zip(node.outputs, out):
            if x.shape != v.shape or x.dtype != v.dtype:
                _differs(node, v, x)
            env[v] = x
        if watch is not None:
            watch(node, out)
        for v in dead:
            del env[v]
    return tuple(read(v) for v in graph.outputs)


def _row(node: Node, values: list[Any]) -> tuple[np.ndarray, ...]:
    try:
        out = node.op.raw(*values, *node.statics)
    except AgogError as error:
        raise _placed(error, node) from None
    except Exception as error:
        raise _placed(explain(node.op, values, node.statics, error), node) from None
    return tuple(np.asarray(o) for o in out) if isinstance(out, tuple) else (np.asarray(out),)


def _placed(error: Exception, node: Node) -> Exception:
    if node.where is not None:
        error.add_note(f"in the graph's {node.op.name}, from {node.where}")
    return error


def _differs(node: Node, value: Any, x: np.ndarray) -> None:
    text = f"{node.op.name} gave {describe(x.shape, x.dtype)}, the graph says {describe(*value.spec)}"
    if is_dynamic(node.op, node.inputs, node.statics):
        raise _placed(GuardFailed(text), node)
    raise _placed(GraphError(text), node)


# ----------------------------------------------------------------------------------------------------- the forms
def _cond(node: Node, values: list[Any], effects: Effects, watch: Any) -> tuple:
    return _run(node.graphs[0 if values[0] else 1], values[1:], effects, watch)


def _while(node: Node, values: list[Any], effects: Effects, watch: Any) -> tuple:
    carried, = node.statics
    state, rest = values[:carried], values[carried:]
    test, body = node.graphs
    while _run(test, state + rest, effects, watch)[0]:
        state = list(_run(body, state + rest, effects, watch))
    return tuple(state)


def _scan(node: Node, values: list[Any], effects: Effects, watch: Any) -> tuple:
    carried, scanned, length, reverse = node.statics
    state, seqs, rest = values[:carried], values[carried:carried + scanned], values[carried + scanned:]
    body = node.graphs[0]
    stacks = [np.empty((length, *v.shape), v.dtype) for v in body.outputs[carried:]]
    for i in reversed(range(length)) if reverse else range(length):
        out = _run(body, [*state, *[np.asarray(s[i]) for s in seqs], *rest], effects, watch)
        state = list(out[:carried])
        for stack, y in zip(stacks, out[carried:]):
            stack[i] = y
    return (*state, *stacks)


def _fused(node: Node, values: list[Any], effects: Effects, watch: Any) -> tuple:
    return _run(node.graphs[0], values, effects, watch)


def _guard(node: Node, values: list[Any], effects: Effects, watch: Any) -> tuple:
    expected, why = node.statics
    if not forms.same_scalar(values[0], expected):
        raise _placed(GuardFailed(f"{why or 'guard'}: expected {expected!r}, got {values[0].item()!r}"), node)
    return ()


def _effect(node: Node, values: list[Any], effects: Effects, watch: Any) -> tuple:
    effects.append((node.statics[0], tuple(values)))
    return ()


_FORMS: dict[Any, Callable[..., tuple]] = {
    forms.COND: _cond, forms.WHILE: _while, forms.SCAN: _scan, forms.FUSED: _fused, forms.GUARD: _guard,
    forms.EFFECT: _effect}
