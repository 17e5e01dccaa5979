"""Simplification by the identities of `ops.identities`.

`simplify` applies those that are exact bit for bit, `stabilise` those that are nearer to the true value.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from agog.array import dtypes
from agog.graph.build import Builder, Symbol, number, xp
from agog.graph.ir import Constant, Graph, Node, Value, freeze
from agog.graph.rewrite import ancestors, rewrite
from agog.ops.identities import TABLE_OF_IDENTITIES, Call, Identity, Name, Number


def simplify(graph: Graph) -> Graph:
    """`graph` by shorter ways to exactly the same values."""
    return rewrite(graph, _exact, deep=simplify)


def stabilise(graph: Graph) -> Graph:
    """`graph` by ways to more accurate values: log1p, softplus, log_softmax, logsumexp, hypot, ..."""
    return rewrite(graph, _accurate, deep=stabilise)


def _exact(builder: Builder, node: Node, inputs: tuple) -> Sequence[Value] | None:
    return _apply(builder, node, "exact")


def _accurate(builder: Builder, node: Node, inputs: tuple) -> Sequence[Value] | None:
    return _apply(builder, node, "accurate")


def _apply(builder: Builder, node: Node, which: str) -> Sequence[Value] | None:
    found: Value | None = None
    mark = len(builder.nodes)
    while node.is_row and node.op in TABLE_OF_IDENTITIES:
        new = _once(builder, node, which)
        if new is None:
            break
        found = new
        if new.node is None or new.node not in builder.nodes[-1:]:
            break
        node = new.node  # what an identity gives may be the beginning of another one
    if found is None:
        return None
    used = ancestors([found], builder.nodes[mark:])
    builder.nodes[mark:] = [n for n in builder.nodes[mark:] if n in used]  # not what was on the way
    return (found,)


def _once(builder: Builder, node: Node, which: str) -> Value | None:
    kind = dtypes.kind(node.outputs[0].dtype)
    for rule in TABLE_OF_IDENTITIES[node.op]:
        if kind in getattr(rule, which):
            found = _try(builder, node, rule)
            if found is not None:
                return found
    return None


def _try(builder: Builder, node: Node, rule: Identity) -> Value | None:
    names = match_node(rule.pattern, node, {})
    if names is None:
        return None
    mark = len(builder.nodes)
    args = [Symbol(x, builder) if isinstance(x, Value) else x for x in (names[n] for n in rule.names)]
    out = rule.make(xp, *args)
    want = node.outputs[0]
    if out is not None and out.dtype == want.dtype:
        if out.shape != want.shape and _fits(out.shape, want.shape):
            out = xp.broadcast_to(out, want.shape)
        if out.shape == want.shape:
            return builder.value(out)
    del builder.nodes[mark:]
    return None


def _fits(small: tuple, large: tuple) -> bool:
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(small[::-1], large[::-1]))


# ------------------------------------------------------------------------------------------------------- matching
def match_node(pattern: Call, node: Node, names: dict[str, Any]) -> dict[str, Any] | None:
    """What the names of `pattern` stand for when it is `node`, given what some stand for already; None: no match."""
    if node.op is not pattern.op or len(node.inputs) != len(pattern.args):
        return None
    for key, value in node.static.items():
        if key in pattern.statics:
            name = pattern.statics[key]
            if name in names and freeze(names[name]) != freeze(value):
                return None
            names = {**names, name: value}
        elif freeze(value) != freeze(node.op.statics[key]):
            return None
    orders = [node.inputs, node.inputs[::-1]] if node.op.commutative else [node.inputs]
    for inputs in orders:
        found = _match_all(pattern.args, inputs, names)
        if found is not None:
            return found
    return None


def _match_all(patterns: tuple, values: tuple, names: dict[str, Any]) -> dict[str, Any] | None:
    for p, v in zip(patterns, values):
        found = _match(p, v, names)
        if found is None:
            return None
        names = found
    return names


def _match(pattern: Any, value: Value | None, names: dict[str, Any]) -> dict[str, Any] | None:
    if value is None:
        return None
    if isinstance(pattern, Name):
        if pattern.name not in names:
            return {**names, pattern.name: value}
        return names if _same(names[pattern.name], value) else None
    if isinstance(pattern, Number):
        n = number(value)
        if n is None or n != pattern.value:
            return None
        signed_zero = n == 0 and isinstance(n, float) and np.signbit(n) != np.signbit(pattern.value)
        return None if signed_zero else names
    if value.node is None or not value.node.is_row:
        return None
    return match_node(pattern, value.node, names)


def _same(a: Any, b: Value) -> bool:
    if a is b:
        return True
    return (type(a) is Constant and type(b) is Constant and a.spec == b.spec
            and (a.data is b.data or a.size <= 4096 and a.data.tobytes() == b.data.tobytes()))
