"""Gradient rules of elementwise rows as kernels: the same rule, run once on values of a kernel, is its fused loop."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import numpy as np

from agog.compiler.elementwise import ElementwiseKernel, compile_elementwise
from agog.compiler.ir import Value
from agog.errors import DTypeError
from agog.ops.namespaces import Namespace, call_with_signature
from agog.ops.row import TABLE, Op

__all__ = ["compile_rule"]


class Traced:
    """A value of a kernel that is being written, with the operators and facts of an array."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, k: Any, value: Value) -> None:
        self.k, self.value = k, value

    @property
    def dtype(self) -> np.dtype:
        """The dtype of its elements."""
        return np.dtype(self.value.dtype)

    def __bool__(self) -> bool:
        raise DTypeError("a rule that looks at values cannot be a kernel")


def _run(op: Op, inputs: tuple, statics: tuple) -> Any:
    """`op` on values of a kernel, by its `lower` rule."""
    first = next(x for x in inputs if isinstance(x, Traced))
    if op.lower is None or not op.elementwise or statics:
        raise DTypeError(f"{op.name} has no rule for kernels")
    return Traced(first.k, op.lower(first.k, *[x.value if isinstance(x, Traced) else x for x in inputs]))


_world = Namespace("kernel", lambda op: call_with_signature(op, _run))


def _operator(name: str, reverse: bool = False) -> Any:
    def method(self: Any, *other: Any) -> Any:
        return _run(TABLE[name], (*other, self) if reverse else (self, *other), ())

    return method


for _sign, _name in {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow",
                     "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}.items():
    setattr(Traced, f"__{_sign}__", _operator(_name))
    setattr(Traced, f"__r{_sign}__", _operator(_name, reverse=True))
for _sign, _name in {"neg": "negative", "invert": "bitwise_invert", "eq": "equal", "ne": "not_equal", "lt": "less",
                     "le": "less_equal", "gt": "greater", "ge": "greater_equal"}.items():
    setattr(Traced, f"__{_sign}__", _operator(_name))


def compile_rule(rule: Callable[..., Any], kinds: Sequence[Any], dtypes: Sequence[str]) -> ElementwiseKernel | None:
    """The kernel of `rule(xp, *values)`, whose result has the dtype of the first value; None where it makes none.

    kinds   for each value "contiguous" or "scalar", or (constant,), which the kernel holds and does not take
    dtypes  for each value that is not constant

    Raises for a rule that does what kernels cannot.
    """
    taken = [kind for kind in kinds if type(kind) is str]

    def body(k: Any, *values: Value) -> Value:
        at = iter(values)
        arguments = [Traced(k, next(at)) if type(kind) is str else kind[0] for kind in kinds]
        out = rule(_world, *arguments)
        if not isinstance(out, Traced) or any(out.value is v for v in values):  # a number, or what was given
            raise DTypeError("nothing to compute")
        return out.value

    return compile_elementwise(getattr(rule, "__name__", "rule"), body, dtypes, [dtypes[0]], taken)
