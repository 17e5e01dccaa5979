"""Constant folding: what depends on constants alone is computed now."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from agog.errors import AgogError
from agog.graph import forms
from agog.graph.build import Builder
from agog.graph.infer import is_dynamic
from agog.graph.interpret import run
from agog.graph.ir import Constant, Graph, Node, Value
from agog.graph.rewrite import call, rewrite

LIMIT = 1 << 14
"""Elements that a folded result may have, unless its inputs have more."""


def fold(graph: Graph) -> Graph:
    """`graph` with constant steps computed, and branches on constants chosen."""
    return rewrite(graph, _fold, deep=fold)


def _fold(builder: Builder, node: Node, inputs: tuple) -> Sequence[Value] | None:
    if node.op is forms.COND and type(inputs[0]) is Constant:
        return call(builder, node.graphs[0 if inputs[0].data else 1], inputs[1:])
    if node.op is forms.GUARD and type(inputs[0]) is Constant and forms.same_scalar(inputs[0].data, node.statics[0]):
        return ()
    if not all(v is None or type(v) is Constant for v in inputs) or not node.pure or not node.outputs:
        return None
    if sum(v.size for v in node.outputs) > max(LIMIT, sum(v.size for v in inputs if v is not None)):
        return None
    if node.op is forms.WHILE or is_dynamic(node.op, inputs, node.statics):
        return None
    try:
        alone = Graph("constant", (), [Node(node.op, inputs, node.statics, [Value(*v.spec) for v in node.outputs],
                                            node.graphs, node.where)], ())
        out = run(alone.replaced(outputs=alone.nodes[0].outputs), ())
    except AgogError:
        return None  # the error belongs to the run
    return [Constant(np.asarray(x)) for x in out]
