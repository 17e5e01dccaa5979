"""check=True: the native results against the eager ones, operation by operation."""

from __future__ import annotations

from typing import Any

import numpy as np

from agog import tree
from agog.array import dtypes
from agog.errors import StagingError
from agog.graph.ir import Constant, Graph, Node
from agog.staging.building import build
from agog.staging.live import without_stops

TOLERANCE = {2: 3e-2, 4: 2e-4, 8: 1e-9}
"""Relative to the largest element, by bytes of a real number: sums may be taken in another order."""


def differs(a: Any, b: Any, made_of: int = 8) -> str | None:
    """How two arrays differ beyond their error, in words; None when they agree.

    made_of : bytes of the shortest floats that they were computed from, whose error goes on in longer ones
    """
    if a.shape != b.shape:
        return f"shape {a.shape} and {b.shape}"
    if a.dtype != b.dtype:
        return f"dtype {a.dtype} and {b.dtype}"
    if not dtypes.is_inexact(a.dtype):
        return None if np.array_equal(a, b) else f"{int((a != b).sum())} elements of {a.size}"
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    size = min(made_of, _real_size(a.dtype))
    with np.errstate(all="ignore"):
        finite = np.abs(x[np.isfinite(x)])
        scale = finite.max() if finite.size else 0.0
        close = np.isclose(x, y, rtol=TOLERANCE[size], atol=TOLERANCE[size] * max(scale, 1e-30), equal_nan=True)
    if close.all():
        return None
    worst = np.unravel_index(np.argmax(~close), close.shape)
    at = tuple(int(i) for i in worst)
    return f"{int((~close).sum())} elements of {a.size}, first at {at}: {y[worst]} eagerly, {x[worst]} natively"


def _real_size(dtype: np.dtype) -> int:
    """Bytes of a real number of an inexact dtype; 8 of any other, which has no error."""
    return dtypes.real_of(dtype).itemsize if dtypes.is_inexact(dtype) else 8


def _shortest(graph: Graph) -> int:
    """Bytes of the shortest floats that the graph computes anywhere."""
    sizes = [_real_size(v.dtype) for n in graph.nodes for v in n.outputs]
    return min([8, *sizes, *[_shortest(g) for n in graph.nodes for g in n.graphs]])


def compare(name: str, recording: Any, inputs: list[Any], outs: list[Any], recorder: Any, result: Any) -> None:
    """Raise StagingError naming the first operation whose replay differs from what ran eagerly just now.

    Operations inside of loops do not correspond to what ran one by one: there, the results are compared.
    """
    graph = recording.graph
    if not all(g.holds(outs[recording.tail + i].item()) for i, g in enumerate(recording.guard_values)):
        return  # another path, perhaps of the same operations
    if not all(n.is_row for n in graph.nodes):
        size = _shortest(graph)
        for (kind, k), leaf in zip(recording.results, tree.leaves(result)):
            if kind == "new" and (how := differs(np.asarray(outs[recording.new[k][0]]), leaf._data, size)):
                raise StagingError(f"check: the native result of {name} differs from the eager one: {how}")
        return
    values: dict[Any, Any] = dict(zip(graph.inputs, inputs))
    made_of: dict[Any, int] = {}  # (what was given is the same for both)
    arrays = recorder.arrays
    rows = [n for n in graph.nodes if n.is_row]
    if [r.op for r in recorder.records] != [n.op for n in rows]:
        return  # another path: the guards of the native call say so too
    for node, record in zip(rows, recorder.records):
        args = [None if v is None else v.data if type(v) is Constant else values[v] for v in node.inputs]
        with np.errstate(all="ignore"):
            out = node.op.raw(*args, *node.statics)
        shortest = min([made_of.get(v, 8) for v in node.inputs], default=8)
        for v, array, slot in zip(node.outputs, out if isinstance(out, tuple | list) else (out,), record.outputs):
            values[v], made_of[v] = np.asarray(array), min(shortest, _real_size(v.dtype))
            if slot in arrays and (how := differs(values[v], arrays[slot], made_of[v])):
                raise StagingError(f"check: {name} differs first at {node.op.name} ({node.where}): {how}")
    for v, got in zip(graph.outputs, outs):
        want = v.data if type(v) is Constant else values[v]
        if how := differs(np.asarray(got), want, made_of.get(v, 8)):
            raise StagingError(
                f"check: the native result of {name} differs from the eager one: {how}"
                + _first(graph, rows, inputs, values, made_of)
            )


def _first(
    graph: Graph, rows: list[Node], inputs: list[Any], values: dict[Any, Any], made_of: dict[Any, int]
) -> str:
    """Which operation differs first when it is what the native code computes."""
    for i, node in enumerate(rows):
        try:
            outs = build(without_stops(Graph(graph.name, graph.inputs, rows[: i + 1], node.outputs)))(inputs)
        except Exception as error:
            return f"; up to {node.op.name} ({node.where}) it does not compile alone: {error}"
        for v, got in zip(node.outputs, outs):
            if how := differs(np.asarray(got), values[v], made_of[v]):
                return f"; first at {node.op.name} ({node.where}): {how}"
    return "; each operation alone agrees"
