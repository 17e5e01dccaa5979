"""Every row of the op table, on its own samples, compiled and interpreted: the same shape, dtype and values."""

import importlib.util
import pathlib

import numpy as np
import pytest

from agog.array import dtypes
from agog.compiler import targets
from agog.compiler.program import compile
from agog.errors import AgogError
from agog.graph import interpret
from agog.graph.build import Builder
from agog.ops.row import TABLE

_spec = importlib.util.spec_from_file_location("_rows", pathlib.Path(__file__).parent.parent / "test_rows.py")
_rows = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rows)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def graphs(op, dtype):
    """(graph, inputs) for every sample of the row."""
    try:
        cases = _rows.cases(op, np.dtype(dtype))
    except Exception:  # samples that this dtype does not have
        return
    for inputs, statics in cases:
        b = Builder(op.name)
        try:
            given = _rows.promoted(op, inputs)
        except AgogError:
            continue
        arrays = [x for x in given if x is not None]
        symbols = iter([b.input(x.shape, x.dtype) for x in arrays])
        values = [None if x is None else next(symbols).value for x in given]
        try:
            normal = _rows.checked(op, given, statics)
            outs = b.add(op, values, normal)
            graph = b.build([b.symbol(v) for v in outs])
            interpret.run(graph, arrays)
        except AgogError:
            continue
        yield graph, arrays


def compare(op, graph, arrays, got):
    want = interpret.run(graph, arrays)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype, f"{op.name}: {g.dtype}{g.shape}, not {w.dtype}{w.shape}"
        if w.dtype.kind in "biu":
            np.testing.assert_array_equal(g, w, err_msg=op.name)
        elif dtypes.is_half(w.dtype):  # one rounding apart at most
            np.testing.assert_array_equal(np.isnan(g), np.isnan(w), err_msg=op.name)
            assert steps_apart(g, w).max(initial=0) <= 1, op.name
        elif w.dtype.kind in "fc":
            finite = np.abs(w[np.isfinite(w)])
            scale = float(finite.max()) if finite.size else 1.0
            eps = np.finfo(w.dtype).eps * max(op.error, 4)
            np.testing.assert_allclose(g, w, rtol=4 * eps, atol=4 * eps * max(scale, 0.1), err_msg=op.name)


def steps_apart(a, b):
    """How many numbers of their 16-bit float lie from a to b."""
    i, j = (x.view(np.int16).astype(np.int32) for x in (a, b))
    apart = np.abs(np.where(i < 0, -(i & 0x7FFF), i) - np.where(j < 0, -(j & 0x7FFF), j))
    return np.where(np.isnan(a), 0, apart)


DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "uint8", "uint32", "bool")


@pytest.mark.parametrize("name", sorted(TABLE))
def test_row(name):
    op = TABLE[name]
    for dtype in map(dtypes.dtype, DTYPES):
        for graph, arrays in graphs(op, dtype):
            compare(op, graph, arrays, compile(graph)([a.copy() for a in arrays]))


@pytest.mark.parametrize(
    "name", ["add", "sum", "softmax", "max", "matmul", "_concatenated", "take", "tril", "any", "_fused_norm"]
)
def test_lesser_targets(name, target):
    if target is targets.host():
        return
    for dtype in map(dtypes.dtype, ("float32", "float16", "bfloat16")):
        for graph, arrays in graphs(TABLE[name], dtype):
            compare(TABLE[name], graph, arrays, compile(graph, target)(arrays))
