"""Native code that compiled programs call: convolutions and pooling, which have objects of their own.

Each is a function of five addresses, (out, a, b, c, table), some of them null; the table says sizes and all else. It is
the same object that eager calls use, and it is there once for all programs.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from math import prod
from typing import Any, Mapping, NamedTuple

from agog.compiler import jit
from agog.compiler.ir import FLOATS
from agog.compiler.targets import Target

__all__ = ["Native", "begin", "function", "functions", "native"]


class Native(NamedTuple):
    """A function to call: its symbol, its table, about how much it does, and where it comes from (see `function`)."""

    symbol: str
    table: Any
    work: int
    recipe: tuple[str, ...]


def function(recipe: tuple[str, ...], target: Target) -> tuple[int, jit.Code]:
    """The address of a function that programs call, and what keeps it loaded.

    recipe : a module of this package with `code(what, target)`, the function's name there, and what: mostly a dtype
    """
    module, name, what = recipe
    code = _code(module, what, target)
    return code[name], code


def _code(module: str, what: str, target: Target) -> jit.Code:
    return importlib.import_module(f"agog.compiler.{module}").code(what, target)


def functions(recipes: Mapping[str, tuple[str, ...]], target: Target) -> tuple[dict[str, int], list[jit.Code]]:
    """The addresses of several by their symbols, and what keeps them loaded."""
    found = {symbol: function(recipe, target) for symbol, recipe in recipes.items()}
    return {symbol: address for symbol, (address, _) in found.items()}, [code for _, code in found.values()]


_begun: set[tuple[str, str, Target]] = set()


def begin(recipe: tuple[str, ...], target: Target) -> None:
    """A function will be wanted: if its code has to be compiled, that begins now, in another thread."""
    key = recipe[0], recipe[2], target
    if key not in _begun:
        _begun.add(key)
        threading.Thread(target=_load, args=key, name="agog-native", daemon=True).start()


def _load(*key: Any) -> None:
    with contextlib.suppress(Exception):  # whoever wants the function is told
        _code(*key)


def native(
    name: str, target: Target, dtype: str, shapes: Any, statics: Any, relu: bool = False
) -> Native | None:
    """The function for a computation of arrays of these shapes (None for one that is not there); None if there is none.

    name : "conv", "conv_input_grad", "conv_weight_grad", or one of `pooling.NAMES`; `statics` as in the rows
    relu : whether the result of "conv" is clipped at zero
    """
    if dtype not in FLOATS:
        return None
    from agog.compiler import conv_plans, pooling  # not for who finds a program on disk

    if name in pooling.NAMES:
        image = tuple(shapes[1 if name == "max_scatter" else 0])
        if name == "avg_spread":
            image, statics = (*image[:2], *statics[0]), statics[1:]
        made = pooling.plan(target, dtype, name, image, *statics)
        if made is None:
            return None
        recipe = ("pooling", made.kind, f"{made.kind} {dtype}")
        return Native(f"agog_{made.kind}_{dtype}", made.table, 2 * prod(image), recipe)
    what, extra = _CONVOLUTION[name]
    size, rest = (statics[0], statics[1:]) if extra else ((), statics)
    bias = len(shapes) > 2 and shapes[2] is not None
    p = conv_plans.plan(target, dtype, what, tuple(shapes[0]), tuple(shapes[1]), tuple(size), *rest, bias, relu)
    if p is None:
        return None
    recipe = (conv_plans.MODULES[p.kind], p.kind, dtype)
    return Native(f"agog_{p.kind}_{dtype}", p.table, p.work, recipe)


_CONVOLUTION = {
    "conv": ("forward", False),
    "conv_input_grad": ("input", True),
    "conv_weight_grad": ("weight", True),
}
