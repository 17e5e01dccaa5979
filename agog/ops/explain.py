"""Turn what an array library raised into one of our errors: what was given, what was expected, what to write."""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.errors import (
    AgogError,
    ArgumentError,
    ArgumentTypeError,
    AxisError,
    DTypeError,
    IndexingError,
    OutOfMemoryError,
    ShapeError,
)
from agog.ops.row import Op


def describe(x: Any) -> str:
    """`float32[3, 4]` for an array, the repr for anything else."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}{list(x.shape)}"
    return repr(x)


def given(op: Op, inputs: Any, statics: Any = ()) -> str:
    """The call as the user might have written it, with shapes and dtypes in place of values."""
    names = [f"{op.inputs[0]}[{i}]" for i in range(len(inputs))] if op.variadic else op.inputs
    parts = [f"{n}={describe(x)}" for n, x in zip(names, inputs) if x is not None]
    parts += [f"{n}={v!r}" for n, v in zip(op.static_names, statics) if v != op.statics[n]]
    return f"{op.name.lstrip('_')}({', '.join(parts)})"


def explain(op: Op, inputs: Any, statics: Any, error: Exception) -> AgogError:
    """The error of ours for `error`, which the computation of `op` on raw `inputs` raised."""
    call = given(op, inputs, statics)
    text = str(error)
    if isinstance(error, MemoryError):
        return OutOfMemoryError(f"{call}: the result does not fit into memory ({text})")
    if isinstance(error, np.exceptions.AxisError):
        return AxisError(f"{call}: {text}")
    if isinstance(error, np.linalg.LinAlgError):
        return ArgumentError(f"{call}: {text}")
    if isinstance(error, IndexError):
        return IndexingError(f"{call}: {text}")
    shapes = [x.shape for x in inputs if hasattr(x, "shape")]
    if op.elementwise and len(shapes) > 1 and not _broadcast_together(shapes):
        return ShapeError(f"{call}: these shapes do not broadcast together; aligned at the right, every pair of sizes "
                          "must be equal or hold a 1 (reshape, or add an axis with x[:, None])")
    if isinstance(error, TypeError):
        if "ufunc" in text or "dtype" in text or "cast" in text:
            return DTypeError(f"{call}: {op.name.lstrip('_')} is not defined for these dtypes ({text})")
        return ArgumentTypeError(f"{call}: {text}")
    if isinstance(error, ValueError):
        return ShapeError(f"{call}: {text}")
    return ArgumentError(f"{call}: {type(error).__name__}: {text}")


def _broadcast_together(shapes: list[tuple[int, ...]]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True
