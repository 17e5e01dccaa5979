"""Forward mode: a value and its tangent travel together.

A `Dual` stands in for the data of a Tensor. Every row has a forward rule: its own, the row itself where it is linear,
its reverse rule where it works element by element (a diagonal Jacobian is its own transpose), else the transpose of
its reverse rule.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable

import numpy as np

from agog import tape, tree
from agog.array import dtypes
from agog.autodiff.engine import enable_grad, leaves_below
from agog.autodiff.functional import (
    alias,
    as_direction,
    as_input,
    check_function,
    check_outputs,
    pulled,
    vjp,
    with_aux,
)
from agog.dispatch import apply, run, tensors, wrap
from agog.errors import ArgumentError, ArgumentTypeError
from agog.ops.row import Op

next_level = itertools.count(1).__next__
"""Levels of nested transformations (jvp, vmap): the innermost is the highest, and interprets an operation first."""


class Dual:
    """Data of a Tensor inside `jvp`: Tensors `primal` and `tangent` of one shape."""

    __slots__ = ("primal", "tangent", "shape", "dtype", "__agog_level__")
    __array_ufunc__ = None  # NumPy must not touch it: the fast path raises, and `apply` takes over

    def __init__(self, primal: Any, tangent: Any, level: int):
        data = primal._data
        self.primal, self.tangent, self.__agog_level__ = primal, tangent, level
        self.shape, self.dtype = data.shape, data.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.primal.size

    def item(self) -> Any:
        return self.primal.item()

    def __agog_host__(self, what: str) -> Any:
        return self.primal._host(what)

    def __agog_detach__(self) -> Any:
        return self.primal.detach()._data

    @staticmethod
    def __agog_interpret__(op: Op, operands: list[Any], statics: tuple) -> Any:
        level = top_level(operands)
        primals, tangents = [], []
        for t in operands:
            data = None if t is None else t._data
            if type(data) is Dual and data.__agog_level__ == level:
                primals.append(data.primal)
                tangents.append(data.tangent)
            else:  # it keeps its node: an outer tape may want it
                primals.append(t)
                tangents.append(None)
        out, tangent = push(op, primals, tangents, statics)
        if tangent is None:
            return tuple(o._data for o in out) if isinstance(out, tuple) else out._data
        if isinstance(out, tuple):
            return tuple(o._data if t is None else Dual(o, t, level) for o, t in zip(out, tangent))
        return Dual(out, tangent, level)


def top_level(operands: list[Any]) -> int:
    """The level of the innermost transformation among the operands' data."""
    top = 0
    for t in operands:
        if t is not None and type(t._data) is not np.ndarray:
            level = getattr(t._data, "__agog_level__", 0)
            if level > top:
                top = level
    return top


def settle(t: Any, start: int) -> Any:
    """A result that leaves a transformation begun at ticket `start`: without a node that only leads inside."""
    if t._node is not None and all(leaf.seq < start for leaf in leaves_below([t._node])):
        return wrap(t._data)
    return t


def push(op: Op, primals: list[Any], tangents: list[Any], statics: tuple) -> tuple[Any, Any]:
    """The result of `op` and its tangent (None: zero). Tangents of inputs are Tensors or None."""
    out = run(op, tuple(primals), statics)
    many = type(out) is tuple
    if not (any(dtypes.is_inexact(o._data.dtype) for o in out) if many else dtypes.is_inexact(out._data.dtype)):
        return out, None
    if op.variadic:
        way, active = _way(op, tuple([t is not None for t in tangents]))
    else:
        given = tuple([t is not None for t in tangents])
        found = _ways.get((op, given))
        if found is None:
            found = _ways[op, given] = _way(op, given)
        way, active = found
    if way is None:
        return out, None
    if way is _linear:
        return out, _linear(op, primals, tangents, active, statics)
    if way is _transposed:
        return out, _transposed(op, primals, tangents, active, statics)
    outs = out if many else (out,)
    known = (*primals, *outs, *statics)
    parts = []
    for i, (rule, places) in zip(active, way):
        args = [known[place] if type(place) is int else getattr(known[place[0]], place[1]) for place in places]
        parts.append(rule(tensors, tangents[i], *args))
    return out, _total(parts, out)


def _way(op: Op, given: tuple[bool, ...]) -> tuple[Any, list[int]]:
    """How to find a tangent of `op` from tangents of the inputs that are `given`, and those of them that matter.

    A list of rules and the places of their arguments, one for each input, or `_linear`, `_transposed`, None (zero).
    """
    names = op.inputs * len(given) if op.variadic else op.inputs
    active = [i for i, there in enumerate(given)
              if there and (names[i] in op.linear_in or names[i] in op.jvp or names[i] in op.vjp)]
    if not active:
        return None, active
    if not op.variadic and all(names[i] in op.jvp for i in active):
        return [_places(op, op.jvp[names[i]]) for i in active], active
    alone = op.elementwise and len(op.outputs) == 1 and all(names[i] in op.vjp for i in active)
    if all(names[i] in op.linear_in for i in active) and not (alone and len(active) < len(names)):
        return _linear, active
    if alone:  # (linear or not: so no zeros are added for inputs that have no tangent)
        return [_places(op, op.vjp[names[i]]) for i in active], active
    return _transposed, active


_ways: dict[tuple[Op, tuple[bool, ...]], tuple[Any, list[int]]] = {}


def _places(op: Op, rule: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
    """A rule, and where its arguments are among inputs, outputs and statics: a place, or a place and an attribute."""
    code = rule.__code__
    places: list[Any] = []
    known = op.inputs + op.outputs + op.static_names
    for name in code.co_varnames[2:code.co_argcount]:
        if name in known:
            places.append(known.index(name))
        else:
            source, _, what = name.rpartition("_")
            places.append((known.index(source), what))
    return rule, places


def _linear(op: Op, primals: list[Any], tangents: list[Any], active: list[int], statics: tuple) -> Any:
    """The tangent of a row that is linear in the active inputs, jointly: what it makes of their tangents."""
    inputs = []
    for i, p in enumerate(primals):
        if i in active:
            inputs.append(tangents[i])
        elif p is not None and (op.variadic or op.inputs[i] in op.linear_in):
            inputs.append(tensors.zeros_like(p.detach()))
        else:
            inputs.append(p)
    return run(op, tuple(inputs), statics)


def _total(parts: list[Any], out: Any) -> Any:
    total = parts[0]
    if isinstance(total, tuple | list):
        for other in parts[1:]:
            total = [a + b for a, b in zip(total, other)]
        return tuple(total)
    for other in parts[1:]:
        total = total + other
    if total.shape != out.shape:
        total = tensors.broadcast_to(total, out.shape)
    return total if total.dtype == out.dtype else tensors.astype(total, out.dtype)


def _transposed(op: Op, primals: list[Any], tangents: list[Any], active: list[int], statics: tuple) -> Any:
    """J·t from the reverse rule alone: the pullback u -> uᵀJ is linear in u, so its own pullback gives J·t."""
    def run(*xs: Any) -> Any:
        inputs = list(primals)
        for i, x in zip(active, xs):
            inputs[i] = x
        return apply(op, tuple(inputs), statics)

    out, pullback = vjp(run, *[primals[i] for i in active])
    many = isinstance(out, tuple)
    floats = [dtypes.is_inexact(o.dtype) for o in out] if many else [True]
    seeds = [tensors.zeros_like(o.detach()) for o, f in zip(out if many else (out,), floats) if f]

    def back(*us: Any) -> Any:
        it = iter(us)
        full = tuple(next(it) if f else tensors.zeros_like(o.detach()) for o, f in zip(out if many else (out,), floats))
        return pullback(full if many else full[0])

    _, forward = vjp(back, *seeds)
    results = iter(forward(tuple(tangents[i] for i in active)))
    found = [next(results) if f else None for f in floats]
    return tuple(found) if many else found[0]


def jvp(fn: Callable[..., Any], primals: Any, tangents: Any, *, has_aux: bool = False) -> Any:
    """`(fn(*primals), directional derivative along tangents)`, in one forward pass.

    primals, tangents: tuples of the same structure; a tangent has its primal's shape.
    """
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise ArgumentTypeError("jvp(fn, primals, tangents): give two tuples, one entry for each argument of fn")
    check_function(fn, "jvp")
    xs, structure = tree.flatten(tuple(primals))
    ts, given = tree.flatten(tuple(tangents))
    if given != structure:
        raise ArgumentError(f"jvp: primals and tangents differ in structure: {structure} and {given}")
    xs = [as_input(x, "jvp") for x in xs]
    ts = [as_direction(t, x, "jvp: a tangent") for x, t in zip(xs, ts)]
    ts = [t if t.dtype == x.dtype else tensors.astype(t, x.dtype) for x, t in zip(xs, ts)]
    level, start = next_level(), tape._ticket()
    duals = [wrap(Dual(alias(x), alias(t), level)) for x, t in zip(xs, ts)]
    with enable_grad():
        out = fn(*tree.unflatten(structure, duals))
    out, aux = with_aux(out, "jvp") if has_aux else (out, None)
    outputs, out_structure = check_outputs(out, "jvp")
    values, derivatives = [], []
    for y in outputs:
        data = y._data
        if type(data) is Dual and data.__agog_level__ == level:
            values.append(settle(data.primal, start))
            derivatives.append(settle(data.tangent, start))
        else:
            values.append(y)
            derivatives.append(tensors.zeros_like(y.detach()))
    result = tree.unflatten(out_structure, values), tree.unflatten(out_structure, derivatives)
    return (*result, tree.map(_drop_dual, aux)) if has_aux else result


def _drop_dual(x: Any) -> Any:
    return x._data.primal if hasattr(x, "_node") and type(x._data) is Dual else x


def linearize(fn: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """`(fn(*primals), push)`: `push(*tangents)` is the derivative at `primals` along tangents, a linear function.

    The linear function replays the recorded derivative: fn itself runs once.
    """
    start = tape._ticket()
    out, pullback, _ = pulled("linearize", "a cotangent", fn, primals)
    outputs, structure = tree.flatten(out)
    places = [i for i, y in enumerate(outputs) if dtypes.is_inexact(y.dtype)]
    zeros = [tensors.zeros_like(y.detach()) for y in outputs]

    def transposed(seeds: list[Any]) -> Any:
        cotangents = list(zeros)
        for i, seed in zip(places, seeds):
            cotangents[i] = seed
        return pullback(tree.unflatten(structure, cotangents))

    _, forward, _ = pulled("linearize", "what it is given", transposed, ([zeros[i] for i in places],))

    def push_forward(*tangents: Any) -> Any:
        derivatives = list(zeros)
        for i, t in zip(places, forward(tuple(tangents))[0]):
            derivatives[i] = settle(t, start)
        return tree.unflatten(structure, derivatives)

    return out, push_forward
