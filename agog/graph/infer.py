"""Shapes and dtypes of a node's outputs, from those of its inputs and its static parameters.

Rows that work element by element broadcast; a row with `infer` says it itself; reductions follow their axes. Any other
row is run on zeros that take no memory (a view of one number), and its result is looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.array import dtypes
from agog.errors import AgogError, GraphError
from agog.graph.forms import INFER, Spec
from agog.graph.ir import Form, Node, describe, freeze, is_dynamic
from agog.ops import axes as ax

_found: dict[Any, tuple[Spec, ...]] = {}
_FIXED = {"bool": np.dtype(bool), "int64": np.dtype("int64")}


def infer(op: Any, inputs: Any, statics: tuple = (), graphs: tuple = ()) -> tuple[Spec, ...]:
    """The (shape, dtype) of every output of `op` on `inputs`, which need `shape` and `dtype` only.

    Raises GraphError where the shapes depend on the values, and what the row raises for inputs that do not fit.
    """
    if isinstance(op, Form):
        return tuple(INFER[op](Node(op, inputs, statics, (), graphs)))
    if is_dynamic(op, inputs, statics):
        raise GraphError(f"{_call(op, inputs, statics)}: the shape of the result depends on the values of the inputs")
    if op.infer is not None:
        return tuple((tuple(s), np.dtype(d)) for s, d in op.infer(*inputs, *statics))
    if op.elementwise:
        shape = ax.broadcast(op.name, *[x.shape for x in inputs if x is not None])
        return ((shape, result_dtype(op, inputs, statics)),)
    key = op.name, tuple(None if x is None else (x.shape, x.dtype) for x in inputs), freeze(statics), \
        dtypes.default_float()
    found = _found.get(key)
    if found is None:
        if len(_found) > 100_000:
            _found.clear()
        found = _found[key] = _reduced(op, inputs, statics) or _tried(op, inputs, statics)
    return found


def result_dtype(op: Any, inputs: Any, statics: tuple) -> np.dtype:
    """The dtype that the row's `result` states, for inputs that are promoted already."""
    given = [x.dtype for x in inputs if x is not None]
    if callable(op.result):
        return np.dtype(op.result(*given, *statics))
    if op.result in _FIXED:
        return _FIXED[op.result]
    for name, x in zip(op.inputs * len(inputs) if op.variadic else op.inputs, inputs):
        if x is not None and name in op.promotes:
            return dtypes.real_of(x.dtype) if op.result == "real" else x.dtype
    return given[0]


def _reduced(op: Any, inputs: Any, statics: tuple) -> tuple[Spec, ...] | None:
    """A row of one input and one output with `axis` and `keepdims`."""
    if op.kind != "reduction" or len(inputs) != 1 or len(op.outputs) != 1:
        return None
    named = dict(zip(op.static_names, statics))
    if "axis" not in named or "keepdims" not in named:
        return None
    x, over = inputs[0], ax.axes(op.name, inputs[0], named["axis"])
    if named["keepdims"]:
        shape = tuple(1 if i in over else n for i, n in enumerate(x.shape))
    else:
        shape = tuple(n for i, n in enumerate(x.shape) if i not in over)
    return ((shape, result_dtype(op, inputs, statics)),)


def blank(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that take no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _tried(op: Any, inputs: Any, statics: tuple) -> tuple[Spec, ...]:
    with np.errstate(all="ignore"):
        try:
            out = op.raw(*[None if x is None else blank(x.shape, x.dtype) for x in inputs], *statics)
        except AgogError:
            raise
        except Exception as error:
            try:  # zeros may be a singular matrix
                out = op.raw(*[None if x is None else _unit(x.shape, x.dtype) for x in inputs], *statics)
            except Exception:
                raise GraphError(f"{_call(op, inputs, statics)}: {type(error).__name__}: {error}") from None
    return tuple((o.shape, o.dtype) for o in (out if isinstance(out, tuple) else (out,)))


def _unit(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if len(shape) < 2:
        return np.ones(shape, dtype)
    return np.broadcast_to(np.eye(*shape[-2:], dtype=dtype), shape)


def _call(op: Any, inputs: Any, statics: tuple) -> str:
    given = ["None" if x is None else describe(x.shape, x.dtype) for x in inputs]
    return f"{op.name}({', '.join(given + [repr(s) for s in statics])})"
