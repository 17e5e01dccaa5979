"""Derivatives of your own: `custom_gradient` gives a function its reverse rule, `custom_jvp` its forward rule.

Either rule is enough for all transformations: the other direction is its transpose. A call is interpreted from the
innermost level of `jvp` and `vmap` out to plain arrays, and recorded wherever a tape asks for it.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from agog import config, tree
from agog.array import dtypes
from agog.autodiff.batching import Batched
from agog.autodiff.engine import enable_grad, is_grad_enabled, no_grad
from agog.autodiff.forward import Dual, next_level, top_level
from agog.autodiff.functional import recorded_call, vjp
from agog.dispatch import tensors, wrap
from agog.errors import ArgumentError, ArgumentTypeError, GradientError, ShapeError

Tensors = list[Any]


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "_node")


def _is_none(x: Any) -> bool:
    return x is None


def _filled(values: Any, places: list[int], given: Any) -> list[Any]:
    """A copy of `values` with those `given` at these places."""
    out = list(values)
    for i, x in zip(places, given):
        out[i] = x
    return out


def _call(rule: Any, xs: Tensors) -> Tensors:
    """The results of `rule` (a `_Reverse` or `_Forward`) on Tensors of any world."""
    ys = None
    if any(hasattr(x._data, "__agog_level__") for x in xs):
        level = top_level(xs)
        mine = [getattr(x._data, "__agog_level__", None) == level for x in xs]
        kind = type(next(x._data for x, m in zip(xs, mine) if m))
        if kind is Batched:
            ys = rule.batched(level, xs, mine)
        elif kind is Dual:
            ys = rule.pushed(level, xs, mine)  # (else values of a graph that is being built)
    if is_grad_enabled() and any(x._node is not None for x in xs):
        return rule.recorded(xs, ys)
    return rule.plain(xs) if ys is None else ys


class _Examples:
    """A level of its own on which a function of one example runs on a batch of them."""

    def __init__(self, xs: Tensors, batched: list[bool]):
        self.level = next_level()
        self.n = next(x.shape[0] for x, b in zip(xs, batched) if b)

    def lift(self, x: Any, batched: bool = True) -> Any:
        return wrap(Batched(x, self.level)) if batched else x

    def holds(self, x: Any) -> bool:
        return type(x._data) is Batched and x._data.__agog_level__ == self.level

    def lower(self, x: Any) -> Any:
        """The batch of `x`, along axis 0."""
        return x._data.value if self.holds(x) else tensors.broadcast_to(x, (self.n, *x.shape))

    def total(self, x: Any) -> Any:
        """The sum over the examples."""
        return tensors.sum(x._data.value, axis=0) if self.holds(x) else x * self.n


def _known(rule: Any, xs: Tensors, ys: Tensors, plain: bool) -> Tensors:
    """`ys`; a recorder is told how they follow from `xs`, if the operations of the function are those it has seen."""
    if plain and config.modes.recorder is not None:
        config.modes.recorder.on_custom(rule, xs, ys)
    return ys


class _Reverse:
    """A function with a reverse rule: `fn(xs) -> (ys, pull)`, `pull(gs)` a cotangent or None for each of xs.

    users  the functions of the user behind it
    """

    def __init__(self, fn: Callable[[Tensors], tuple[Tensors, Callable[[Tensors], Tensors]]], name: str,
                 users: tuple = ()):
        self.fn, self.name, self.users = fn, name, users

    def plain(self, xs: Tensors) -> Tensors:
        with no_grad():
            return [y.detach() for y in self.fn(xs)[0]]

    def recorded(self, xs: Tensors, ys: Tensors | None) -> Tensors:
        bare = [wrap(x._data) for x in xs]
        stored: Any = None
        if ys is None:
            with no_grad():
                ys, stored = self.fn(bare)

        def cotangents(gs: Tensors, deeper: bool) -> Tensors:
            pull = stored
            if deeper or pull is None:  # the saved values of the first run are constants: run it again, linked
                pull = self.fn(xs if deeper else bare)[1]
            return pull(gs)

        return _known(self, xs, recorded_call(self.name, xs, ys, cotangents), stored is not None)

    def transposed(self, xs: Tensors, gs: Tensors) -> Tensors:
        """The cotangents of xs (or None), from those of all results."""
        return self.fn(xs)[1](gs)

    def batched(self, level: int, xs: Tensors, mine: list[bool]) -> Tensors:
        def fn(values: Tensors) -> tuple[Tensors, Callable[[Tensors], Tensors]]:
            batch = _Examples(values, mine)
            ys, pull = self.fn([batch.lift(v, m) for v, m in zip(values, mine)])

            def pull_all(gs: Tensors) -> Tensors:
                parts = pull([batch.lift(g) for g in gs])
                return [p if p is None else batch.lower(p) if m else batch.total(p) for p, m in zip(parts, mine)]

            return [batch.lower(y) for y in ys], pull_all

        out = _call(_Reverse(fn, self.name), [x._data.value if m else x for x, m in zip(xs, mine)])
        return [wrap(Batched(y, level)) for y in out]

    def pushed(self, level: int, xs: Tensors, mine: list[bool]) -> Tensors:
        active = [i for i, m in enumerate(mine) if m]

        def run(*values: Any) -> Tensors:
            return _call(self, _filled(xs, active, values))

        ys, pull = vjp(run, *[xs[i]._data.primal for i in active])
        floats = [i for i, y in enumerate(ys) if dtypes.is_inexact(y.dtype)]
        zeros = [tensors.zeros_like(y.detach()) for y in ys]

        def back(*gs: Any) -> Any:
            return pull(_filled(zeros, floats, gs))

        _, forward = vjp(back, *[zeros[i] for i in floats])  # the transpose of the transpose
        ts = dict(zip(floats, forward(tuple(xs[i]._data.tangent for i in active))))
        return [wrap(Dual(y, ts[i], level)) if i in ts else y for i, y in enumerate(ys)]


class _Forward:
    """A function with a forward rule: `fn(xs) -> ys`, `push(xs, ts) -> (ys, tangents)`."""

    def __init__(self, fn: Callable[[Tensors], Tensors],
                 push: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], name: str, users: tuple = ()):
        self.fn, self.push, self.name, self.users = fn, push, name, users

    def plain(self, xs: Tensors) -> Tensors:
        with no_grad():
            return [y.detach() for y in self.fn(xs)]

    def recorded(self, xs: Tensors, ys: Tensors | None) -> Tensors:
        bare, here = [wrap(x._data) for x in xs], ys is None
        ys = self.plain(bare) if ys is None else ys

        def cotangents(gs: Tensors, deeper: bool) -> Tensors:
            return self.transposed(xs if deeper else bare, gs)

        return _known(self, xs, recorded_call(self.name, xs, ys, cotangents), here)

    def transposed(self, xs: Tensors, gs: Tensors) -> Tensors:
        """The cotangents of xs (or None), from those of all results."""
        active = [i for i, x in enumerate(xs) if dtypes.is_inexact(x.dtype)]
        floats = [i for i, g in enumerate(gs) if dtypes.is_inexact(g.dtype)]
        zeros = [tensors.zeros_like(x.detach()) for x in xs]

        def linear(*ts: Any) -> Tensors:
            tangents = self.push(xs, _filled(zeros, active, ts))[1]
            return [tangents[i] for i in floats]

        parts = vjp(linear, *[zeros[i] for i in active])[1]([gs[i] for i in floats])
        found = dict(zip(active, parts))
        return [found.get(i) for i in range(len(xs))]

    def batched(self, level: int, xs: Tensors, mine: list[bool]) -> Tensors:
        def fn(values: Tensors) -> Tensors:
            batch = _Examples(values, mine)
            return [batch.lower(y) for y in self.fn([batch.lift(v, m) for v, m in zip(values, mine)])]

        def push(values: Tensors, ts: Tensors) -> tuple[Tensors, Tensors]:
            batch = _Examples(values, mine)
            ys, tangents = self.push([batch.lift(v, m) for v, m in zip(values, mine)],
                                     [batch.lift(t, m) for t, m in zip(ts, mine)])
            return [batch.lower(y) for y in ys], [batch.lower(t) for t in tangents]

        out = _call(_Forward(fn, push, self.name), [x._data.value if m else x for x, m in zip(xs, mine)])
        return [wrap(Batched(y, level)) for y in out]

    def pushed(self, level: int, xs: Tensors, mine: list[bool]) -> Tensors:
        primals = [x._data.primal if m else x for x, m in zip(xs, mine)]
        ts = [x._data.tangent if m else tensors.zeros_like(x.detach()) for x, m in zip(xs, mine)]
        with enable_grad():
            ys, tangents = self.push(primals, ts)
        return [wrap(Dual(y, t, level)) if dtypes.is_inexact(y.dtype) else y for y, t in zip(ys, tangents)]


# ------------------------------------------------------------------------------------------------ the public names
class _Arguments:
    """The arguments of a call: their Tensors, and how to put others in their place."""

    def __init__(self, args: tuple):
        self.leaves, self.structure = tree.flatten(args)
        self.which = [i for i, x in enumerate(self.leaves) if _is_tensor(x)]
        self.tensors = [self.leaves[i] for i in self.which]

    def filled(self, xs: Tensors, other: Any = _is_none) -> Any:
        """The arguments with `xs` for their Tensors, and (if given) `other` for everything else."""
        new = _filled(self.leaves if other is _is_none else [other] * len(self.leaves), self.which, xs)
        return tree.unflatten(self.structure, new)


def _outputs(value: Any, name: str, what: str) -> tuple[Tensors, Any]:
    ys, structure = tree.flatten(value)
    for y in ys:
        if not _is_tensor(y):
            raise ArgumentTypeError(f"{what}: {name} must return a Tensor or a container of them, not a "
                                    f"{type(y).__name__}")
    if not ys:
        raise ArgumentTypeError(f"{what}: {name} returned nothing; return a Tensor or a container of them")
    return ys, structure


def custom_gradient(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Give `fn` a gradient of your own: fn(*args) returns `(value, pullback)`.

        @ag.custom_gradient
        def clipped(x):
            return x, lambda g: ag.clip(g, -1, 1)

    value is a Tensor, or a container of them; pullback(g), with g of value's structure, returns a cotangent for each
    Tensor among the positional arguments (None for none), alone or as a tuple. Written with agog operations, it works
    in every transformation and for higher derivatives, for which fn is run again. Tensors that fn uses without being
    given them are constants to it.
    """
    name = getattr(fn, "__name__", "the function")

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = _Arguments(args)
        structure: Any = None

        def run(xs: Tensors) -> tuple[Tensors, Callable[[Tensors], Tensors]]:
            nonlocal structure
            out = fn(*given.filled(xs), **kwargs)
            if not (isinstance(out, tuple) and len(out) == 2 and callable(out[1])):
                raise ArgumentError(f"custom_gradient: {name} must return (value, pullback)")
            ys, structure = _outputs(out[0], name, "custom_gradient")

            def pull(gs: Tensors) -> Tensors:
                parts = tree.leaves(out[1](tree.unflatten(structure, gs)), is_leaf=_is_none)
                if len(parts) != len(xs):
                    raise GradientError(f"custom_gradient: the pullback of {name} returned {len(parts)} cotangents for "
                                        f"{len(xs)} Tensor arguments")
                for p, x in zip(parts, xs):
                    if p is not None and not _is_tensor(p):
                        raise ArgumentTypeError(f"custom_gradient: the pullback of {name} returned a "
                                                f"{type(p).__name__}, not a Tensor")
                    if p is not None and p.shape != x.shape:
                        raise ShapeError(f"custom_gradient: the pullback of {name} returned shape {p.shape} for an "
                                         f"argument of shape {x.shape}")
                return parts

            return ys, pull

        if not given.tensors:
            return tree.unflatten(structure, run([])[0])
        ys = _call(_Reverse(run, name, (fn,)), given.tensors)
        return tree.unflatten(structure, ys)

    return wrapped


class custom_jvp:  # a decorator, and the function that it makes
    """Give a function a forward-mode derivative of your own; reverse mode is its transpose.

        @ag.custom_jvp
        def log1pexp(x):
            return ag.log(1 + ag.exp(x))

        @log1pexp.defjvp
        def _(primals, tangents):
            (x,), (t,) = primals, tangents
            return log1pexp(x), t * ag.sigmoid(x)

    The rule gets the arguments and a tangent for each (None for those that hold no Tensor), and returns the value and
    its tangent, which must be linear in the tangents. Keyword arguments are passed on to both.
    """

    def __init__(self, fn: Callable[..., Any]):
        if not callable(fn):
            raise ArgumentTypeError(f"custom_jvp: a {type(fn).__name__} is no function")
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._rule: Callable[..., Any] | None = None

    def defjvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Set the rule `rule(primals, tangents) -> (value, tangent)`. Returns it, so that this is a decorator."""
        self._rule = rule
        return rule

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name, given = self.__name__, _Arguments(args)  # type: ignore[attr-defined]
        structure: Any = None
        if self._rule is None:
            raise ArgumentError(f"custom_jvp: {name} has no rule yet; give it one with @{name}.defjvp")

        def run(xs: Tensors) -> Tensors:
            nonlocal structure
            ys, structure = _outputs(self._fn(*given.filled(xs), **kwargs), name, "custom_jvp")
            return ys

        def push(xs: Tensors, ts: Tensors) -> tuple[Tensors, Tensors]:
            nonlocal structure
            out = self._rule(given.filled(xs), given.filled(ts, None), **kwargs)  # type: ignore[misc]
            if not (isinstance(out, tuple) and len(out) == 2):
                raise ArgumentError(f"custom_jvp: the rule of {name} must return (value, tangent)")
            ys, structure = _outputs(out[0], name, "custom_jvp: the rule of")
            tangents, found = tree.flatten(out[1])
            if found != structure:
                raise ArgumentError(f"custom_jvp: the rule of {name} returned a tangent of another structure than the "
                                    f"value: {found} and {structure}")
            for y, t in zip(ys, tangents):
                if t.shape != y.shape:
                    raise ShapeError(f"custom_jvp: the rule of {name} returned a tangent of shape {t.shape} for a "
                                     f"value of shape {y.shape}")
            return ys, tangents

        if not given.tensors:
            return self._fn(*args, **kwargs)
        ys = _call(_Forward(run, push, name, (self._fn, self._rule)), given.tensors)
        return tree.unflatten(structure, ys)
