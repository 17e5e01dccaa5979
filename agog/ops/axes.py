"""Axes and shapes that users give, checked and brought to one form: non-negative ints in tuples."""

from __future__ import annotations

from math import prod
from operator import index
from typing import Any

from agog.errors import ArgumentTypeError, AxisError, ShapeError
from agog.ops.explain import describe

_INTS = {int}


def integer(op: str, name: str, value: Any) -> int:
    """`value` as an int. Raises ArgumentTypeError, naming the argument `name` of the operation `op`."""
    if type(value) is int:
        return value
    try:
        return index(value)
    except TypeError:
        raise ArgumentTypeError(f"{op}: {name}={value!r} is a {type(value).__name__}; give an int") from None


def flag(op: str, name: str, value: Any) -> bool:
    """`value` as a bool. Raises ArgumentTypeError for what is neither that nor 0 or 1: it was meant for another."""
    if type(value) is bool:
        return value
    try:
        if index(value) in (0, 1):
            return bool(value)
    except TypeError:
        pass
    if type(value).__name__ in ("bool", "bool_") and not getattr(value, "shape", ()):
        return bool(value)
    raise ArgumentTypeError(f"{op}: {name}={value!r}; give True or False, and other arguments by name")


def axis(op: str, x: Any, value: Any, name: str = "axis", ndim: int | None = None) -> int:
    """One axis of `x`, counted from 0. Raises AxisError when `x` has no such axis."""
    n = len(x.shape) if ndim is None else ndim
    a = value if type(value) is int else integer(op, name, value)
    if -n <= a < n:
        return a + n if a < 0 else a
    if n == 0:
        raise AxisError(f"{op}: {name}={a}, but {describe(x)} is 0-d and has no axes; reshape it to (1,) first")
    raise AxisError(f"{op}: {name}={a} is not an axis of {describe(x)}, which has {n} axes: use {-n} to {n - 1}")


def axes(op: str, x: Any, value: Any, name: str = "axis", ndim: int | None = None) -> tuple[int, ...]:
    """Several different axes of `x`, counted from 0; an int is one axis, None is all. Raises AxisError."""
    n = len(x.shape) if ndim is None else ndim
    if value is None:
        return tuple(range(n))
    if type(value) is int and -n <= value < n:
        return (value + n if value < 0 else value,)
    if not isinstance(value, tuple | list):
        return (axis(op, x, value, name, n),)
    out = tuple(axis(op, x, a, name, n) for a in value)
    if len(set(out)) != len(out):
        raise AxisError(f"{op}: {name}={tuple(value)} names an axis twice")
    return out


def shape(op: str, value: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape: an int or a sequence of ints, none negative. Raises ShapeError or ArgumentTypeError."""
    sizes = sizes_of(op, value, name)
    for n in sizes if min(sizes, default=0) < 0 else ():
        if n < 0:
            raise ShapeError(f"{op}: {name}={sizes} has the negative size {n}; sizes are 0 or more")
    return sizes


def sizes_of(op: str, value: Any, name: str = "shape") -> tuple[int, ...]:
    """A tuple of ints, from an int or a sequence of ints."""
    if type(value) is int:
        return (value,)
    if type(value) is tuple and _INTS.issuperset(map(type, value)):
        return value
    if isinstance(value, tuple | list):
        return tuple([integer(op, name, n) for n in value])
    try:
        return tuple([integer(op, name, n) for n in value])
    except TypeError:
        return (integer(op, name, value),)


def broadcast(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `shapes` broadcast to. Raises ShapeError."""
    n = max(map(len, shapes), default=0)
    out = [1] * n
    for s in shapes:
        for i, size in enumerate(s, n - len(s)):
            if size != 1:
                if out[i] not in (1, size):
                    raise ShapeError(f"{op}: the shapes {', '.join(map(str, shapes))} do not broadcast together; "
                                     "aligned at the right, every pair of sizes must be equal or hold a 1")
                out[i] = size
    return tuple(out)


def shifted(value: int) -> int:
    """`value` as an axis of an array with one more axis in front (for batching rules)."""
    return value + 1 if value >= 0 else value


def size(shape: tuple[int, ...]) -> int:
    """The number of elements."""
    return prod(shape)
