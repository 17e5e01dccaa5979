"""Namespaces: the worlds in which rules run. Each has every row and every composite as an attribute.

`raw` computes on NumPy arrays. Others (Tensors, batched, recorded values) are made the same way from another `invoke`.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable

from agog.errors import ArgumentTypeError
from agog.hints import KEYWORDS, POSITIONS, wrong_keywords
from agog.ops.row import COMPOSITES, REQUIRED, TABLE, Op

Invoke = Callable[[Op, tuple, tuple], Any]


def head(op: Op) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The beginning of a function `op.name(*inputs, statics...)`: its text, the globals that this names, and keywords
    that are taken only to say what to write instead."""
    heads = [f"*{op.inputs[0]}" if op.variadic else n for n in op.inputs]
    env: dict[str, Any] = {}
    for i, name in enumerate(op.inputs):
        if name in op.optional:
            env[f"_d_{name}"] = op.optional[name]
            heads[i] += f"=_d_{name}"
    for name, default in op.statics.items():
        env[f"_d_{name}"] = default
        heads.append(name if default is REQUIRED else f"{name}=_d_{name}")
    if "axis" not in op.statics:
        return f"def {op.name}({', '.join(heads)}):\n", env, ()
    env["_wrong"] = wrong_keywords  # PyTorch's names, and NumPy's
    others: tuple[str, ...] = ("dim", "keepdim")
    test = "dim is not keepdim"
    if "correction" in op.statics:
        others, test = (*others, "unbiased", "ddof"), f"{test} or unbiased is not None or ddof is not None"
    said = ", ".join(f"{name!r}: {name}" for name in others)
    return (f"def {op.name}({', '.join(heads)}, {'' if op.variadic else '*, '}"
            f"{', '.join(f'{name}=None' for name in others)}):\n    if {test}: raise _wrong({op.name!r}, {{{said}}})\n",
            env, others)


def call_with_signature(op: Op, invoke: Invoke) -> Callable[..., Any]:
    """A function `op.name(*inputs, statics...)` that calls `invoke(op, inputs, statics)`.

    It is compiled from the row's signature, so that help() shows it and a call costs one Python frame.
    """
    source, env, hidden = head(op)
    inputs = op.inputs[0] if op.variadic else f"({''.join(n + ', ' for n in op.inputs)})"
    source += f"    return _invoke(_op, {inputs}, ({''.join(n + ', ' for n in op.statics)}))\n"
    env |= {"_invoke": invoke, "_op": op}
    exec(compile(source, f"<agog {op.name}>", "exec"), env)  # the name keeps it out of "the user's line"
    return finished(env[op.name], op, hidden)


def finished(fn: Any, op: Op, hidden: tuple[str, ...]) -> Any:
    """`fn` with the row's name and docstring, and without the keywords `hidden` in its signature."""
    if hidden:
        hide(fn, *hidden)
    fn.__name__ = fn.__qualname__ = op.name
    fn.__doc__, fn.__module__ = op.doc, "agog"
    fn.op = op
    return fn


def hide(fn: Any, *names: str) -> None:
    """Leave keyword arguments that only lead to an error out of the signature that help() shows."""
    signature = inspect.signature(fn)
    fn.__signature__ = signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in names])


class Namespace:
    """Rows and composites as attributes, made when first used."""

    def __init__(self, name: str, make: Callable[[Op], Callable[..., Any]], quick: Any = None):
        self._name, self._make, self._quick = name, make, quick

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op = TABLE.get(name)
        if op is not None:
            fn = self._make(op)
        elif name in COMPOSITES:
            fn = bind_composite(COMPOSITES[name], self)
            if self._quick is not None:
                fn = self._quick(COMPOSITES[name], fn)
        else:
            raise AttributeError(f"the {self._name} namespace has no operation {name!r}")
        setattr(self, name, fn)
        return fn

    def __repr__(self) -> str:
        return f"<namespace {self._name}>"


def bind_composite(fn: Callable[..., Any], xp: Namespace) -> Callable[..., Any]:
    """`fn` with its world filled in."""
    def bound(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(xp, *args, **kwargs)
        except TypeError:
            said = {k: v for k, v in kwargs.items() if k in KEYWORDS and k not in bound.__signature__.parameters}  # type: ignore[attr-defined]
            if not said:
                _check_call(bound, args, kwargs)
                raise
        except AttributeError as error:
            if error.name not in ("shape", "ndim", "dtype", "size") or (
                    not any(error.obj is x for x in (*args, *kwargs.values()))):
                raise
            kind = type(error.obj).__name__
            raise ArgumentTypeError(f"{bound.__name__}: it takes Tensors, not a {kind}" + (
                "" if error.obj is None else "; write ag.asarray(...) around it")) from None
        raise wrong_keywords(bound.__name__, said)

    functools.update_wrapper(bound, fn)
    del bound.__wrapped__  # type: ignore[attr-defined]
    bound.__name__ = bound.__qualname__ = fn.__name__.rstrip("_")
    bound.__module__ = "agog"
    parameters = list(inspect.signature(fn).parameters.values())[1:]
    bound.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return bound


def _check_call(fn: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise the error for arguments that `fn` does not take: Python's own would count the namespace among them."""
    try:
        fn.__signature__.bind(*args, **kwargs)
    except TypeError as error:
        more = f"; {POSITIONS[fn.__name__]}" if fn.__name__ in POSITIONS else ""
        raise ArgumentTypeError(f"{fn.__name__}: {error}; it is {fn.__name__}{fn.__signature__}{more}") from None


def _raw_function(op: Op) -> Callable[..., Any]:
    if not op.statics and not op.variadic and not op.optional:
        return op.raw
    source, env, hidden = head(op)
    arrays = [f"*{op.inputs[0]}"] if op.variadic else op.inputs
    source += f"    return _raw({', '.join([*arrays, *op.statics])})\n"
    env["_raw"] = op.raw
    exec(compile(source, f"<agog {op.name}>", "exec"), env)
    return finished(env[op.name], op, hidden)


raw = Namespace("raw", _raw_function)
