"""Identities between rows, which graphs are simplified by.

    identity("log(1 + x)", lambda xp, x: xp.log1p(x), accurate="f")

A pattern is an expression over rows: operators are their rows, names are values (the same name twice is the same value
twice), numbers are constants, and `axis=a` gives the name `a` to a static parameter; what is not mentioned must have
its default. The other side takes the names that it needs, and may return None where the identity does not hold.

`exact` names the kinds of dtype (of the result) for which both sides are equal bit for bit, -0.0, inf and nan
included. `accurate` names those for which the right side is nearer to the true value, or right where the left one
overflows: those are applied by a pass of their own.
"""

from __future__ import annotations

import ast
from math import frexp
from typing import Any, Callable, NamedTuple

from agog.array import dtypes
from agog.ops.row import TABLE, Op

_OPERATORS: dict[type, str] = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "pow", ast.MatMult: "matmul",
    ast.USub: "negative", ast.Invert: "bitwise_invert", ast.BitAnd: "bitwise_and", ast.BitOr: "bitwise_or"}


class Name(NamedTuple):
    """Any value, the same one wherever the name stands."""

    name: str


class Number(NamedTuple):
    """A constant whose every element is `value`."""

    value: Any


class Call(NamedTuple):
    """A row on patterns; `statics` gives names to static parameters."""

    op: Op
    args: tuple
    statics: dict[str, str]


class Identity(NamedTuple):
    """`pattern` may be replaced by `make(xp, *names)`."""

    text: str
    pattern: Call
    make: Callable[..., Any]
    names: tuple[str, ...]
    exact: str
    accurate: str


TABLE_OF_IDENTITIES: dict[Op, list[Identity]] = {}
"""By the outermost row of the pattern."""


def pattern(text: str) -> Any:
    """The pattern that `text` writes down."""
    return _parsed(ast.parse(text, mode="eval").body)


def _parsed(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return Name(node.id)
    if isinstance(node, ast.Constant):
        return Number(node.value)
    if isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return Number(-node.operand.value)  # type: ignore[operator]
        return Call(TABLE[_OPERATORS[type(node.op)]], (_parsed(node.operand),), {})
    if isinstance(node, ast.BinOp):
        return Call(TABLE[_OPERATORS[type(node.op)]], (_parsed(node.left), _parsed(node.right)), {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        statics = {str(k.arg): k.value.id for k in node.keywords if isinstance(k.value, ast.Name)}
        return Call(TABLE[node.func.id], tuple(_parsed(a) for a in node.args), statics)
    raise ValueError(f"no pattern: {ast.unparse(node)}")


def identity(text: str, make: Callable[..., Any], exact: str = "", accurate: str = "") -> None:
    """Declare that `text` may be written as `make`; see the head of this file."""
    found = pattern(text)
    code = make.__code__
    TABLE_OF_IDENTITIES.setdefault(found.op, []).append(
        Identity(text, found, make, code.co_varnames[1:code.co_argcount], exact, accurate))


# ---------------------------------------------------------------------------------------------- nothing happens
_same = lambda xp, x: x
identity("x * 1", _same, exact="biuf")
identity("x / 1", _same, exact="f")
identity("x + 0", _same, exact="biu")
identity("x + -0.0", _same, exact="f")
identity("x - 0", _same, exact="iu")
identity("x - 0.0", _same, exact="f")
identity("x ** 1", _same, exact="iu", accurate="f")
# (NumPy's power is sqrt for this number, which tells at -0 and -inf; not for the 16-bit dtypes)
identity("x ** 0.5", lambda xp, x: xp.sqrt(x) if x.dtype.itemsize > 2 else None, exact="f")
identity("positive(x)", _same, exact="iufc")
identity("-(-x)", _same, exact="iufc")
identity("~(~x)", _same, exact="biu")
identity("conj(conj(x))", _same, exact="iufc")
identity("reciprocal(reciprocal(x))", _same, accurate="f")
identity("maximum(x, x)", _same, exact="biuf")
identity("minimum(x, x)", _same, exact="biuf")
identity("x & x", _same, exact="biu")
identity("x | x", _same, exact="biu")
identity("where(c, x, x)", lambda xp, c, x: x, exact="biufc")
identity("where(c, x, y)", lambda xp, c, x, y: None if c.number is None else x if c.number else y, exact="biufc")
identity("logical_not(logical_not(x))", lambda xp, x: x if x.dtype.kind == "b" else None, exact="b")
identity("abs(abs(x))", lambda xp, x: xp.abs(x), exact="if")
identity("abs(-x)", lambda xp, x: xp.abs(x), exact="if")
identity("square(-x)", lambda xp, x: xp.square(x), exact="if")
identity("relu(relu(x))", lambda xp, x: xp.relu(x), exact="if")
identity("floor(floor(x))", lambda xp, x: xp.floor(x), exact="if")
identity("ceil(ceil(x))", lambda xp, x: xp.ceil(x), exact="if")
identity("round(round(x))", lambda xp, x: xp.round(x), exact="if")
identity("trunc(trunc(x))", lambda xp, x: xp.trunc(x), exact="if")
identity("sign(sign(x))", lambda xp, x: xp.sign(x), exact="if")

# ------------------------------------------------------------------------------------------------------- signs
identity("x * -1", lambda xp, x: -x, exact="if")
identity("x / -1", lambda xp, x: -x, exact="f")
identity("x - (-y)", lambda xp, x, y: x + y, exact="if")
identity("x + (-y)", lambda xp, x, y: x - y, exact="if")
identity("(-x) * (-y)", lambda xp, x, y: x * y, exact="if")
identity("(-x) / (-y)", lambda xp, x, y: x / y, exact="f")
identity("0 - x", lambda xp, x: -x, exact="i")
identity("cos(-x)", lambda xp, x: xp.cos(x), accurate="f")
identity("cosh(-x)", lambda xp, x: xp.cosh(x), accurate="f")


def _halved(xp: Any, x: Any, c: Any) -> Any:
    """Division by a power of two is multiplication by its inverse, and that is exact where neither is subnormal."""
    n = c.number
    if n is None or n == 0 or c.dtype.itemsize < 4 or abs(frexp(n)[0]) != 0.5 or abs(frexp(n)[1]) > 99:
        return None
    return x * (1.0 / n)


identity("x / c", _halved, exact="f")

# ------------------------------------------------------------------------------------------------------- movement
identity("reshape(x, shape=a)", lambda xp, x, a: x if tuple(x.shape) == a else None, exact="biufc")
identity("reshape(reshape(x, shape=a), shape=b)", lambda xp, x, b: xp.reshape(x, b), exact="biufc")
identity("permute_dims(x, axes=a)", lambda xp, x, a: x if a == tuple(range(len(a))) else None, exact="biufc")
identity("permute_dims(permute_dims(x, axes=a), axes=b)",
         lambda xp, x, a, b: xp.permute_dims(x, tuple(a[i] for i in b)), exact="biufc")
identity("broadcast_to(x, shape=a)", lambda xp, x, a: x if tuple(x.shape) == a else None, exact="biufc")
identity("broadcast_to(broadcast_to(x, shape=a), shape=b)", lambda xp, x, b: xp.broadcast_to(x, b), exact="biufc")
identity("flip(flip(x, axis=a), axis=a)", lambda xp, x: x, exact="biufc")
identity("_getitem(x, index=i)", lambda xp, x, i: x if all(k is Ellipsis or k == slice(None) for k in (
    i if isinstance(i, tuple) else (i,))) else None, exact="biufc")

def _moved_ones(xp: Any, x: Any, a: Any) -> Any:
    """A permutation that only moves axes of size 1 is a reshape."""
    order = [i for i in a if x.shape[i] != 1]
    return xp.reshape(x, tuple(x.shape[i] for i in a)) if order == sorted(order) and a != tuple(range(len(a))) else None


identity("permute_dims(x, axes=a)", _moved_ones, exact="biufc")


def _cast_once(xp: Any, x: Any, a: Any, b: Any) -> Any:
    """Of two casts the first is superfluous when it loses nothing."""
    ks, ka = dtypes.kind(x.dtype), dtypes.kind(a)
    if ka != ks or ks not in "fi" or dtypes.promote(x.dtype, a) != a:
        return None
    return x if x.dtype == b else xp.astype(x, b)


identity("astype(x, dtype=a)", lambda xp, x, a: x if x.dtype == a else None, exact="biufc")
identity("astype(astype(x, dtype=a), dtype=b)", _cast_once, exact="biufc")
identity("real(x)", lambda xp, x: x if x.dtype.kind != "c" else None, exact="f")
identity("conj(x)", lambda xp, x: x if x.dtype.kind != "c" else None, exact="if")

# -------------------------------------------------------------------------------------------- nearer to the truth
identity("log(1 + x)", lambda xp, x: xp.log1p(x), accurate="f")
identity("exp(x) - 1", lambda xp, x: xp.expm1(x), accurate="f")
identity("log1p(exp(x))", lambda xp, x: xp.softplus(x), accurate="f")
identity("log(exp(x))", lambda xp, x: x, accurate="f")
identity("log(sigmoid(x))", lambda xp, x: xp.log_sigmoid(x), accurate="f")
identity("log(1 - sigmoid(x))", lambda xp, x: xp.log_sigmoid(-x), accurate="f")
identity("log1p(-sigmoid(x))", lambda xp, x: xp.log_sigmoid(-x), accurate="f")
identity("1 - sigmoid(x)", lambda xp, x: xp.sigmoid(-x), accurate="f")
identity("1 / (1 + exp(-x))", lambda xp, x: xp.sigmoid(x), accurate="f")
identity("reciprocal(1 + exp(-x))", lambda xp, x: xp.sigmoid(x), accurate="f")
identity("-log_sigmoid(x)", lambda xp, x: xp.softplus(-x), accurate="f")
identity("log(softmax(x, axis=a))", lambda xp, x, a: xp.log_softmax(x, axis=a), accurate="f")
identity("log(sum(exp(x), axis=a, keepdims=k))", lambda xp, x, a, k: xp.logsumexp(x, axis=a, keepdims=k), accurate="f")
identity("log(exp(x) + exp(y))", lambda xp, x, y: xp.logaddexp(x, y), accurate="f")
identity("sqrt(square(x))", lambda xp, x: xp.abs(x), accurate="f")
identity("sqrt(x * x)", lambda xp, x: xp.abs(x), accurate="f")
identity("sqrt(x * x + y * y)", lambda xp, x, y: xp.hypot(x, y), accurate="f")
identity("sqrt(square(x) + square(y))", lambda xp, x, y: xp.hypot(x, y), accurate="f")
identity("x ** 2", lambda xp, x: x * x, accurate="f")
identity("x ** -1", lambda xp, x: 1 / x, accurate="f")


def _softmax(xp: Any, x: Any, a: Any, k: Any) -> Any:
    return xp.softmax(x, axis=a[0]) if k and a is not None and len(a) == 1 else None


def _log_softmax(xp: Any, x: Any, a: Any, k: Any) -> Any:
    return xp.log_softmax(x, axis=a[0]) if k and a is not None and len(a) == 1 else None


identity("exp(x) / sum(exp(x), axis=a, keepdims=k)", _softmax, accurate="f")
identity("x - logsumexp(x, axis=a, keepdims=k)", _log_softmax, accurate="f")
identity("exp(log_softmax(x, axis=a))", lambda xp, x, a: xp.softmax(x, axis=a), accurate="f")
