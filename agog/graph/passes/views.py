"""Views into index maps: a view that only stretches its input disappears into the element-wise steps that read it.

An element-wise row broadcasts its inputs itself. So where one reads `broadcast_to(x)`, or x with axes of size 1 put in
front, it may as well read x. And where all that it reads is stretched, it is computed small, and then stretched.

`strided` is the index map of any view, for whoever lowers graphs: element (i, j, ...) of the result is element
offset + i * strides[0] + j * strides[1] + ... of its (C-contiguous) input.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from agog.graph.build import Builder, number, xp
from agog.graph.ir import Constant, Graph, Node, Value
from agog.graph.rewrite import rewrite
from agog.ops import axes as ax

_LIMIT = 1 << 40  # elements of a probe; larger arrays do not exist


def views(graph: Graph) -> Graph:
    """`graph` with stretching views read through or moved behind the computation."""
    return rewrite(graph, _view, deep=views)


def is_view(node: Any) -> bool:
    """True for a node whose result is its input under another index map."""
    return node is not None and node.is_row and node.op.view is not None and len(node.inputs) == 1


def strided(node: Node) -> tuple[int, tuple[int, ...]] | None:
    """(offset, strides) in elements of a view's result in its input, where that is C-contiguous; None: no view."""
    if not is_view(node) or node.inputs[0] is None or not 0 < node.inputs[0].size < _LIMIT:
        return None
    probe = np.empty(node.inputs[0].shape, np.uint8)  # never touched: it takes no memory
    out = node.op.view(np, probe, *node.statics)
    if out.size == 0:
        return None
    start = out.__array_interface__["data"][0] - probe.__array_interface__["data"][0]
    if not np.may_share_memory(out, probe):
        return None
    return start, out.strides


def stretched(value: Value | None) -> Value | None:
    """The smaller value that `value` is a broadcast of, by NumPy's rules; None: it is none."""
    node = None if value is None else value.node
    if value is None or node is None or not is_view(node):
        return None
    small = node.inputs[0]
    if small is None:
        return None
    n, m = len(value.shape), len(small.shape)
    if m > n or any(a not in (1, b) for a, b in zip(small.shape[::-1], value.shape[::-1])):
        return None
    found = strided(node)
    if found is None or found[0] != 0:
        return None
    want, step = [0] * n, 1
    for i in range(m - 1, -1, -1):
        want[n - m + i] = step if small.shape[i] != 1 else 0
        step *= small.shape[i]
    if any(value.shape[i] != 1 and found[1][i] != want[i] for i in range(n)):
        return None
    return small


def _through(value: Any) -> Any:
    """What an element-wise step may read in place of `value`: the value that it stretches, one number of equal ones."""
    while (small := stretched(value)) is not None:
        value = small
    if type(value) is Constant and value.shape and number(value) is not None:
        return Constant(value.data[(0,) * value.ndim])
    return value


def _view(builder: Builder, node: Node, inputs: tuple) -> Sequence[Value] | None:
    if not node.is_row or not node.op.elementwise or len(node.outputs) != 1:
        return None
    small = tuple(_through(v) for v in inputs)
    if all(a is b for a, b in zip(small, inputs)):
        return None
    shape, want = ax.broadcast(node.op.name, *[v.shape for v in small if v is not None]), node.outputs[0]
    if shape == want.shape:
        return builder.append(node.with_inputs(small))
    out = builder.add(node.op, small, node.statics, [(shape, want.dtype)])[0]
    whole = xp.broadcast_to(builder.symbol(out), want.shape)
    return (builder.value(whole),)
