"""The forms: what a graph can say besides calling rows. Each says here what its outputs are, and what it must obey.

    cond(pred, *xs) then, else              the branch that the bool scalar `pred` chooses, applied to xs
    while_loop(*xs; carried) test, body     the first `carried` of xs go round: body(xs) while test(xs)
    scan(*xs; carried, scanned, length, reverse) body
                                            carry, then sequences (slices along axis 0), then values read at each turn;
                                            body(carry, slices, rest) -> carry, slices of the results
    fused(*xs; pattern, domain, axes) body  nodes to be compiled into one loop nest over `domain`, reduced over `axes`
    guard(x; expected, why)                 the scalar x is `expected`, or this run does not count
    effect(*xs; deliver, what)              `deliver(*xs)` is called in order when the run commits: print, callback
"""

from __future__ import annotations

from typing import Any, Callable, Iterator

import numpy as np

from agog.graph.ir import Form, Graph, Node, describe

COND = Form("cond", (), ("then", "else"))
WHILE = Form("while_loop", ("carried",), ("test", "body"))
SCAN = Form("scan", ("carried", "scanned", "length", "reverse"), ("body",))
FUSED = Form("fused", ("pattern", "domain", "axes"), ("body",))
GUARD = Form("guard", ("expected", "why"), pure=False)
EFFECT = Form("effect", ("deliver", "what"), pure=False)

_BOOL = np.dtype(bool)
Spec = tuple[tuple[int, ...], np.dtype]


def specs(values: Any) -> list[Spec]:
    return [(v.shape, v.dtype) for v in values]


def _show(values: list[Spec]) -> str:
    return "(" + ", ".join(describe(*v) for v in values) + ")"


def _takes(what: str, graph: Graph, given: list[Spec]) -> Iterator[str]:
    if specs(graph.inputs) != given:
        yield f"{what} takes {_show(specs(graph.inputs))}, but is given {_show(given)}"


def _gives(what: str, graph: Graph, wanted: list[Spec]) -> Iterator[str]:
    if specs(graph.outputs) != wanted:
        yield f"{what} gives {_show(specs(graph.outputs))}, but must give {_show(wanted)}"


# ------------------------------------------------------------------------------ what comes out, what must hold
def _infer_cond(node: Node) -> list[Spec]:
    return specs(node.graphs[0].outputs)


def _check_cond(node: Node) -> Iterator[str]:
    if not node.inputs or node.inputs[0] is None or node.inputs[0].spec != ((), _BOOL):
        yield "the condition must be a bool scalar"
        return
    given = specs(node.inputs[1:])
    for name, graph in zip(node.op.graph_names, node.graphs):
        yield from _takes(name, graph, given)
    yield from _gives("else", node.graphs[1], specs(node.graphs[0].outputs))


def _infer_while(node: Node) -> list[Spec]:
    return specs(node.inputs[:node.statics[0]])


def _check_while(node: Node) -> Iterator[str]:
    for name, graph in zip(node.op.graph_names, node.graphs):
        yield from _takes(name, graph, specs(node.inputs))
    yield from _gives("test", node.graphs[0], [((), _BOOL)])
    yield from _gives("body", node.graphs[1], _infer_while(node))
    if not all(n.pure for n in node.graphs[0].nodes):
        yield "the test of a loop may not hold guards or effects"


def _infer_scan(node: Node) -> list[Spec]:
    carried, _, length, _ = node.statics
    return specs(node.inputs[:carried]) + [((length, *v.shape), v.dtype) for v in node.graphs[0].outputs[carried:]]


def _check_scan(node: Node) -> Iterator[str]:
    carried, scanned, length, _ = node.statics
    sequences = node.inputs[carried:carried + scanned]
    for i, x in enumerate(sequences):
        if not x.shape or x.shape[0] != length:
            yield f"sequence {i} is {describe(*x.spec)}, but the scan has length {length}"
            return
    yield from _takes("body", node.graphs[0], specs(node.inputs[:carried]) + [(x.shape[1:], x.dtype) for x in sequences]
                      + specs(node.inputs[carried + scanned:]))
    if specs(node.graphs[0].outputs[:carried]) != specs(node.inputs[:carried]):
        yield (f"the body's carry is {_show(specs(node.graphs[0].outputs[:carried]))}, "
               f"but it began as {_show(specs(node.inputs[:carried]))}")


def _infer_fused(node: Node) -> list[Spec]:
    return specs(node.graphs[0].outputs)


def _check_fused(node: Node) -> Iterator[str]:
    yield from _takes("body", node.graphs[0], specs(node.inputs))


def _infer_nothing(node: Node) -> list[Spec]:
    return []


def _check_guard(node: Node) -> Iterator[str]:
    if len(node.inputs) != 1 or node.inputs[0] is None or node.inputs[0].size != 1:
        yield "a guard looks at one scalar"


def _check_effect(node: Node) -> Iterator[str]:
    if not callable(node.statics[0]):
        yield f"an effect needs something to call, not {node.statics[0]!r}"


Rule = Callable[[Node], Any]
INFER: dict[Form, Rule] = {COND: _infer_cond, WHILE: _infer_while, SCAN: _infer_scan, FUSED: _infer_fused,
                           GUARD: _infer_nothing, EFFECT: _infer_nothing}
CHECK: dict[Form, Rule] = {COND: _check_cond, WHILE: _check_while, SCAN: _check_scan, FUSED: _check_fused,
                           GUARD: _check_guard, EFFECT: _check_effect}


def same_scalar(x: Any, expected: Any) -> bool:
    """Whether the scalar `x` is `expected`: bit for bit as far as Python can see (nan is nan, -0.0 is not 0.0)."""
    x = x.item() if hasattr(x, "item") else x
    if isinstance(expected, bool):
        return bool(x) is expected
    return type(x) is type(expected) and repr(x) == repr(expected) or (
        not isinstance(expected, float | complex) and x == expected)
