"""Common subexpressions: what is computed twice is computed once."""

from __future__ import annotations

from typing import Any, Sequence

from agog.graph import forms
from agog.graph.build import Builder
from agog.graph.ir import Constant, Graph, Node, Value, freeze
from agog.graph.rewrite import rewrite

_BYTES = 1 << 12
"""Constants up to this size are compared by their bytes, larger ones by identity."""


def share(graph: Graph) -> Graph:
    """`graph` with equal steps and equal constants made one."""
    seen: dict[Any, Sequence[Value]] = {}
    constants: dict[Any, Constant] = {}
    numbers: dict[Value, int] = {}

    def place(v: Value | None) -> int:
        return -1 if v is None else numbers.setdefault(v, len(numbers))

    def one(v: Any) -> Any:
        if type(v) is not Constant:
            return v
        key = v.spec, v.data.tobytes() if v.data.nbytes <= _BYTES else id(v.data)
        return constants.setdefault(key, v)

    def replace(builder: Builder, node: Node, inputs: tuple) -> Sequence[Value] | None:
        inputs = tuple(one(v) for v in inputs)
        new = node.with_inputs(inputs)
        if node.pure and node.outputs and (node.is_row or not node.graphs) or node.op is forms.GUARD:
            places = [place(v) for v in inputs]
            if getattr(node.op, "commutative", False):
                places.sort()
            statics = node.statics[:1] if node.op is forms.GUARD else node.statics
            key = node.op, tuple(places), freeze(statics)
            if key in seen:
                return seen[key]
            seen[key] = new.outputs
        return None if new is node else builder.append(new)

    out = rewrite(graph, replace, deep=share)
    outputs = [one(v) for v in out.outputs]
    return out if all(a is b for a, b in zip(outputs, out.outputs)) else out.replaced(outputs=outputs)
