"""The gradient of the weights of `depthwise`, for other native code: an object of its own."""

from __future__ import annotations

import functools

from agog.compiler import depthwise, jit, pool
from agog.compiler.targets import Target

__all__ = ["code"]


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """The function "depthwise_gradient" of (out, x, g, null, table)."""
    what = "depthwise_gradient"
    return jit.load(depthwise.later(dtype, target, what), [what], pool.imports)
