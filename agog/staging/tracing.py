"""`agog.trace`: a graph from shapes and dtypes alone, with no values: define, then run."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from agog import tree
from agog.array import dtypes
from agog.autodiff.engine import enable_grad
from agog.dispatch import wrap
from agog.errors import ArgumentError, ArgumentTypeError
from agog.graph.build import Builder
from agog.graph.ir import Graph


class Spec:
    """The form of a Tensor: a shape and a dtype (float32 unless given)."""

    __slots__ = ("shape", "dtype")

    def __init__(self, shape: Any, dtype: Any = None):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not all(isinstance(n, int | np.integer) and n >= 0 for n in shape):
            raise ArgumentError(f"Spec: a shape is made of sizes of at least 0, not {shape}")
        self.shape = tuple(int(n) for n in shape)
        self.dtype = dtypes.default_float() if dtype is None else dtypes.dtype(dtype)

    def __repr__(self) -> str:
        return f"Spec({self.shape}, {self.dtype})"


def _spec(x: Any) -> Any:
    if isinstance(x, Spec):
        return x
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return Spec(x.shape, x.dtype)
    raise ArgumentTypeError(f"trace: {x!r} says no shape and dtype; give ag.Spec(shape, dtype), or a Tensor as an "
                            "example")


def trace(fn: Callable[..., Any], *specs: Any) -> Graph:
    """The graph of `fn` for arguments of these forms, built without computing anything.

        graph = ag.trace(lambda x, w: (x @ w).tanh(), ag.Spec((4, 3)), ag.Spec((3, 2)))
        print(graph)
        y = graph.run(x, w)         # NumPy arrays in, NumPy arrays out

    specs  one for each argument: `Spec`, anything with a shape and a dtype, or a pytree of them

    Tensors that fn reads from outside become constants of the graph. Python's control flow runs while the graph is
    built, so it cannot look at values: that raises, and `ag.cond` and `ag.while_loop` are no way around it here, use
    `ag.where`, or `@ag.function`, which records what ran on real values.
    """
    if not callable(fn):
        raise ArgumentTypeError(f"trace: give a function, not a {type(fn).__name__}"
                                "; the sum of a diagonal is ag.linalg.trace(x)" * (hasattr(fn, "shape")))
    leaves, structure = tree.flatten(tuple(specs))
    leaves = [_spec(x) for x in leaves]
    builder = Builder(getattr(fn, "__name__", "graph").strip("<>"))
    inputs = [builder.input(s.shape, s.dtype, "argument", str(i)) for i, s in enumerate(leaves)]
    arguments = tree.unflatten(structure, [wrap(x) for x in inputs])
    with builder, enable_grad():
        result = fn(*arguments)
    outputs = []
    for y in tree.leaves(result):
        if not hasattr(y, "_node"):
            raise ArgumentTypeError(f"trace: the function must return Tensors, it returned a {type(y).__name__}")
        outputs.append(y._data)
    return builder.build(outputs)
