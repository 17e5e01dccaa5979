"""The `lower` rule of every elementwise row, compiled, against the row itself: ordinary and special values."""

import numpy as np
import pytest
from sampling import cases, promoted

from agog.compiler.elementwise import compile_elementwise
from agog.compiler.rules import compile_rule
from agog.errors import DTypeError
from agog.ops.namespaces import raw
from agog.ops.row import TABLE

SPECIAL = {"f": [0., -0., 1., -1., .5, -.5, 3., -3., 2., 6., -6., 1e-3, 88., -100., np.inf, -np.inf, np.nan],
           "i": [0, 1, -1, 2, -3, 5, 2**31 - 1, -2**31], "u": [0, 1, 2, 3, 5, 100, 255], "b": [False, True]}
ROWS = sorted(n for n, op in TABLE.items() if op.elementwise and op.lower and not op.statics and len(op.outputs) == 1)
DTYPES = ("float32", "float64", "int32", "uint8", "bool")


def inputs_of(op, dtype):
    """Every pair of special values, and the row's own samples."""
    special = np.array(SPECIAL[dtype.kind]).astype(dtype)
    a, b = (v.ravel() for v in np.meshgrid(special, special, indexing="ij"))
    choices = [a, b, b[::-1]]
    if len(op.promotes) < len(op.inputs):  # a condition first
        choices = [b.astype(bool) ^ a.astype(bool), a, b]
    yield [np.ascontiguousarray(v) for v in choices[:len(op.inputs)]]
    own = promoted(op, cases(op, dtype)[0][0])
    if all(x is not None for x in own):
        yield [np.ascontiguousarray(x) for x in np.broadcast_arrays(*own)]


@pytest.mark.parametrize("name, dtype", [(n, d) for n in ROWS for d in DTYPES
                                         if np.dtype(d).kind.replace("u", "i") in TABLE[n].takes])
def test_kernel(name, dtype):
    op, dtype = TABLE[name], np.dtype(dtype)
    kernel = None
    for inputs in inputs_of(op, dtype):
        if name == "pow" and dtype.kind in "iu":
            inputs[1] = abs(inputs[1] % 5)
        with np.errstate(all="ignore"):
            want = np.asarray(op.raw(*inputs))
        try:
            kernel = kernel or compile_elementwise(f"{name} {dtype}", op.lower, [x.dtype.name for x in inputs],
                                                   [want.dtype.name])
        except DTypeError:  # not for integers: such a call stays an island in a graph
            assert dtype.kind != "f"
            return
        got = np.empty_like(want)
        kernel([got], inputs)
        with np.errstate(all="ignore"):
            ok = (got == want) | (got != got) & (want != want)
            if want.dtype.kind == "f":
                scale = np.maximum(np.abs(want), 0.1)
                ok |= np.abs(got - want) <= max(op.error, 8) * np.finfo(dtype).eps * scale
        where = np.flatnonzero(~ok)[:3]
        assert ok.all(), f"{name}: {got.flat[where]}, not {want.flat[where]}, of {[x.flat[where] for x in inputs]}"


RULES = [(name, i) for name in ROWS for i, rule in enumerate(TABLE[name].rules) if rule]
NO_KERNEL = {  # rules that give what they are given, or are written with rows that have no kernel
    "_iv", "_ive", "add", "angle", "ceil", "conj", "copysign", "digamma", "floor", "floor_divide", "fmod", "gamma",
    "gammainc", "gammaincc", "heaviside", "i0", "i0e", "i1", "i1e", "imag", "lgamma", "positive", "real", "remainder",
    "round", "sign", "subtract", "trunc", "zeta"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name, i", RULES)
def test_gradient_rule(name, i, dtype):
    """Each gradient rule, compiled, against the same rule on arrays."""
    op, dtype = TABLE[name], np.dtype(dtype)
    if "f" not in op.takes:
        return
    fn, count, pick = op.rules[i]
    for inputs in inputs_of(op, dtype):
        g = np.linspace(-2, 3, inputs[0].size).astype(dtype).reshape(inputs[0].shape)
        with np.errstate(all="ignore"):
            values = [g]
            if count:
                derived = [getattr(inputs[i], what) for what, i in op.derived]
                saved = (*inputs, np.asarray(op.raw(*inputs)), *derived)
                values += [saved[pick]] if count == 1 else pick(saved)
            want = fn(raw, *values)
        try:
            kernel = compile_rule(fn, ["contiguous"] * len(values), [v.dtype.name for v in values])
        except (DTypeError, AttributeError):
            assert name in NO_KERNEL
            return
        got = np.empty(g.shape, dtype)
        kernel([got], values)
        ok = (got == want) | (got != got) & (want != want)
        with np.errstate(all="ignore"):
            ok |= np.abs(got - want) <= max(op.error, 16) * np.finfo(dtype).eps * np.maximum(np.abs(want), 0.3)
        where = np.flatnonzero(~ok)[:3]
        assert ok.all(), (f"{name}: {got.flat[where]}, not {want.flat[where]}, of "
                          f"{[v.flat[where] for v in values]}")
