"""Native code that compiled programs call: convolutions and max pooling, which have an object of their own.

Each is a function of five addresses, (out, a, b, c, table), some of them null; the table says sizes and all else. It is
the same object that eager calls use, and it is there once for all programs.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from agog.compiler import conv, jit, pooling
from agog.compiler.ir import FLOATS
from agog.compiler.targets import Target

__all__ = ["Native", "function", "native"]


class Native(NamedTuple):
    """A function to call: its symbol, address, what keeps it loaded, its table, and about how much it does."""

    symbol: str
    address: int
    code: jit.Code
    table: Any
    work: int
    recipe: tuple[str, ...]


def function(recipe: tuple[str, ...], target: Target) -> tuple[int, jit.Code]:
    """The address of a function that programs call, and what keeps it loaded.

    recipe : a module of this package with `code(dtype, target)`, the function's name there, and dtype
    """
    module, name, dtype = recipe
    code = importlib.import_module(f"agog.compiler.{module}").code(dtype, target)
    return code[name], code


def native(name: str, target: Target, dtype: str, shapes: Any, statics: Any) -> Native | None:
    """The function for a computation of arrays of these shapes (None for one that is not there); None if there is none.

    name : "conv", "conv_input_grad", "conv_weight_grad", "max_pool" or "max_scatter"; `statics` as in the rows
    """
    if dtype not in FLOATS:
        return None
    if name in _POOLING:
        kind, image = _POOLING[name]
        made = pooling.plan(dtype, kind, tuple(shapes[image]), *statics)
        if made is None:
            return None
        recipe = ("pooling", name, dtype)
        return Native(f"agog_{name}_{dtype}", *function(recipe, target), made[1], 2 * int(made[1][1]), recipe)
    what, entry, extra = _CONVOLUTION[name]
    size, rest = (statics[0], statics[1:]) if extra else ((), statics)
    bias = len(shapes) > 2 and shapes[2] is not None
    p = conv.plan(target, dtype, what, tuple(shapes[0]), tuple(shapes[1]), tuple(size), *rest, bias)
    if p is None:
        return None
    recipe = ("conv", entry, dtype)
    return Native(f"agog_{entry}_{dtype}", *function(recipe, target), p.table, p.work, recipe)


_POOLING = {"max_pool": (pooling.FORWARD, 0), "max_scatter": (pooling.SCATTER, 1)}
_CONVOLUTION = {
    "conv": ("forward", "conv", False),
    "conv_input_grad": ("input", "conv", True),
    "conv_weight_grad": ("weight", "gradient", True),
}
