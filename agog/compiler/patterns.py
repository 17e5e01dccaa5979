"""What is done to a graph before it is lowered: rows made of others put in place, and groups of nodes that are one."""

from collections import Counter
from functools import cache

import numpy as np

from agog.compiler.ir import FLOATS
from agog.compiler.targets import HALVES, ITEMSIZE
from agog.errors import AgogError
from agog.graph import forms
from agog.graph.build import Builder, xp
from agog.graph.ir import Graph
from agog.ops import structure

__all__ = ["clipped", "decomposed", "half_of", "name_of", "sums_of_products"]

name_of = cache(str)  # of a dtype
_FLOAT32 = np.dtype("float32")
_THIN = 128  # inner size up to which products are put together


def decomposed(graph):
    """The graph with every node whose row says `decompose` replaced, and `fused` bodies put in place.

    Also the position in `graph` of the node that each of its nodes comes from.
    """
    positions = list(range(len(graph.nodes)))
    while any(_opens(n) for n in graph.nodes):
        opened, inner = _decomposed_once(graph)
        done = [n.op for n in opened.nodes] == [n.op for n in graph.nodes]
        graph, positions = opened, [positions[i] for i in inner]
        if done:
            break
    return graph, positions


def _decomposed_once(graph):
    b = Builder.like(graph)
    new, positions = {}, []

    def put(v):
        return None if v is None else new.get(v, v)

    def nodes(graph, position=None):
        for i, node in enumerate(graph.nodes):
            at = i if position is None else position
            if node.op is forms.FUSED:
                body = node.graphs[0]
                new.update(zip(body.inputs, map(put, node.inputs)))
                nodes(body, at)
                new.update(zip(node.outputs, map(put, body.outputs)))
                continue
            inputs = tuple(map(put, node.inputs))
            made = None
            if _opens(node):
                made = _opened(b, node, inputs)
            if made is None:
                copy = node.with_inputs(inputs)
                b.nodes.append(copy)
                made = copy.outputs
            new.update(zip(node.outputs, made))
            positions.extend([at] * (len(b.nodes) - len(positions)))

    with b:
        nodes(graph)
    return Graph(graph.name, b.inputs, b.nodes, [put(v) for v in graph.outputs], graph.roles), positions


def _opens(node):
    if not node.is_row or node.op.decompose is None:
        return node.op is forms.FUSED
    return node.op.intact is None or not node.op.intact(*node.inputs, *node.statics)


def _opened(b, node, inputs):
    if any(v is not None and name_of(v.dtype) not in ITEMSIZE for v in (*inputs, *node.outputs)):
        return None
    b.where = node.where
    before = len(b.nodes)
    half = half_of(node)
    try:
        symbols = [None if v is None else b.symbol(v) for v in inputs]
        if half:
            symbols = [xp.astype(x, _FLOAT32) if x is not None and x.dtype == half else x for x in symbols]
        out = node.op.decompose(xp, *symbols, *node.statics)
        if half and out is not None and "dtype" not in node.op.statics:
            out = [
                xp.astype(x, half) if x.dtype == _FLOAT32 else x
                for x in (out if isinstance(out, tuple | list) else (out,))
            ]
    except AgogError:
        out = None
    if out is None:
        del b.nodes[before:]
        return None
    values = [b.value(v) for v in (out if isinstance(out, tuple | list) else (out,))]
    if [v.spec for v in values] != [v.spec for v in node.outputs]:  # integers that the row does not widen, say
        del b.nodes[before:]
        return None
    return values


def half_of(node):
    """The 16-bit float for which a row of `widen` computes in float32, or None."""
    first = node.inputs[0].dtype if node.is_row and node.op.widen and node.inputs else None
    return first if first is not None and name_of(first) in HALVES else None


def sums_of_products(graph):
    """{node: (matrix products, other terms)} for sums of several thin products that nobody else reads."""
    uses = Counter(v for node in graph.nodes for v in node.inputs if v is not None)
    uses.update(v for v in graph.outputs for _ in range(2))

    def inner(v):
        return uses[v] == 1 and v.node is not None and v.node.op is structure.SUM

    def is_sum(node):
        return (
            node.op is structure.SUM
            and all(v.spec == node.outputs[0].spec for v in node.inputs)
            and len(node.outputs[0].shape) == 2
            and name_of(node.outputs[0].dtype) in FLOATS
        )

    sums = [n for n in graph.nodes if is_sum(n)]
    read_by_sum = {v for n in sums for v in n.inputs if inner(v) and is_sum(v.node)}
    found = {}
    for node in sums:
        if node.outputs[0] in read_by_sum:
            continue
        products, rest, stack = [], [], list(reversed(node.inputs))
        while stack:
            v = stack.pop()
            if v in read_by_sum:
                stack.extend(reversed(v.node.inputs))
            elif (
                uses[v] == 1
                and v.node is not None
                and v.node.op is structure.PRODUCT
                and len(v.node.inputs[0].shape) == len(v.node.inputs[1].shape) == 2
                and v.node.inputs[0].shape[1] <= _THIN
            ):
                products.append(v.node)
            else:
                rest.append(v)
        if len(products) > 2:
            found[node] = products, rest
    return found


def clipped(graph):
    """{node of a convolution: the relu that alone reads its result}: the kernel does both at once."""
    uses = Counter(v for node in graph.nodes for v in node.inputs if v is not None)
    uses.update(graph.outputs)
    found = {}
    for node in graph.nodes:
        source = node.inputs[0].node if node.op is structure.RELU else None
        if source is None or source.op is not structure.CONVOLUTION or uses[node.inputs[0]] != 1:
            continue
        images, kernels = source.inputs[:2]
        if kernels.shape[1] > 1 or images.shape[1] == 1:  # (a kernel for each channel has code of its own)
            found[source] = node
    return found
