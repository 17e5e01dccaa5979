"""What the checks of layers share."""

from __future__ import annotations

from typing import Any

from agog.errors import ArgumentError, ArgumentTypeError, ShapeError


def whole(who: str, name: str, value: Any, least: int = 1) -> int:
    """`value` as a whole number of at least `least`. Raises an error that names the layer and the argument."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{who}({name}={value!r}): give a whole number")
    value = value.__index__()
    if value < least:
        raise ArgumentError(f"{who}({name}={value}): give a whole number of at least {least}")
    return value


def each(who: str, name: str, value: Any, n: int, least: int = 1) -> tuple[int, ...]:
    """`value` as n whole numbers, one for each axis of space."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * n
    if len(values) != n:
        raise ArgumentError(f"{who}({name}={value!r}): give one number, or {n}, one for each axis")
    return tuple(whole(who, name, v, least) for v in values)


def _brief(module: Any) -> str:
    """The module without what is inside it."""
    return f"{type(module).__name__}({module.extra_repr()})"


def bad_input(module: Any, x: Any, expected: str) -> ShapeError:
    """The error for an input of a shape that `module` does not take."""
    return ShapeError(f"{_brief(module)}: the input has shape {tuple(getattr(x, 'shape', ()))}, expected {expected}")
