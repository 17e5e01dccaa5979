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


def differs(a: Any, b: Any) -> str | None:
    """How two arrays differ beyond their error, in words; None when they agree."""
    if a.shape != b.shape:
        return f"shape {a.shape} and {b.shape}"
    if a.dtype != b.dtype:
        return f"dtype {a.dtype} and {b.dtype}"
    if not dtypes.is_inexact(a.dtype):
        return None if np.array_equal(a, b) else f"{int((a != b).sum())} elements of {a.size}"
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    size = dtypes.real_of(a.dtype).itemsize
    with np.errstate(all="ignore"):
        finite = np.abs(x[np.isfinite(x)])
        scale = finite.max() if finite.size else 0.0
        close = np.isclose(x, y, rtol=TOLERANCE[size], atol=TOLERANCE[size] * max(scale, 1e-30), equal_nan=True)
    if close.all():
        return None
    worst = np.unravel_index(np.argmax(~close), close.shape)
    at = tuple(int(i) for i in worst)
    return f"{int((~close).sum())} elements of {a.size}, first at {at}: {y[worst]} eagerly, {x[worst]} natively"


def compare(name: str, recording: Any, inputs: list[Any], outs: list[Any], recorder: Any, result: Any) -> None:
    """Raise StagingError naming the first operation whose replay differs from what ran eagerly just now.

    Operations inside of loops do not correspond to what ran one by one: there, the results are compared.
    """
    graph = recording.graph
    if not all(g.holds(outs[recording.tail + i].item()) for i, g in enumerate(recording.guard_values)):
        return  # another path, perhaps of the same operations
    if not all(n.is_row for n in graph.nodes):
        for (kind, k), leaf in zip(recording.results, tree.leaves(result)):
            if kind == "new" and (how := differs(np.asarray(outs[recording.new[k][0]]), leaf._data)):
                raise StagingError(f"check: the native result of {name} differs from the eager one: {how}")
        return
    values: dict[Any, Any] = dict(zip(graph.inputs, inputs))
    arrays = recorder.arrays
    rows = [n for n in graph.nodes if n.is_row]
    if [r.op for r in recorder.records] != [n.op for n in rows]:
        return  # another path: the guards of the native call say so too
    for node, record in zip(rows, recorder.records):
        args = [None if v is None else v.data if type(v) is Constant else values[v] for v in node.inputs]
        with np.errstate(all="ignore"):
            out = node.op.raw(*args, *node.statics)
        for v, array, slot in zip(node.outputs, out if isinstance(out, tuple | list) else (out,), record.outputs):
            values[v] = np.asarray(array)
            if slot in arrays and (how := differs(values[v], arrays[slot])):
                raise StagingError(f"check: {name} differs first at {node.op.name} ({node.where}): {how}")
    for v, got in zip(graph.outputs, outs):
        want = v.data if type(v) is Constant else values[v]
        if how := differs(np.asarray(got), want):
            raise StagingError(
                f"check: the native result of {name} differs from the eager one: {how}"
                + _first(graph, rows, inputs, values)
            )


def _first(graph: Graph, rows: list[Node], inputs: list[Any], values: dict[Any, Any]) -> str:
    """Which operation differs first when it is what the native code computes."""
    for i, node in enumerate(rows):
        try:
            outs = build(without_stops(Graph(graph.name, graph.inputs, rows[: i + 1], node.outputs)))(inputs)
        except Exception as error:
            return f"; up to {node.op.name} ({node.where}) it does not compile alone: {error}"
        for v, got in zip(node.outputs, outs):
            if how := differs(np.asarray(got), values[v]):
                return f"; first at {node.op.name} ({node.where}): {how}"
    return "; each operation alone agrees"
