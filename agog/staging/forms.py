"""The form of a call's arguments: what must be equal for a recording to be tried, and how forms differ, in words."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import Any, Iterator

import numpy as np

from agog import config
from agog.errors import ArgumentError
from agog.staging.state import PLAIN, has_more, is_tensor

SMALL_ARRAY = 4096
"""Bytes up to which a NumPy array that Python code looks at counts by its contents."""

NUMBERS = frozenset((int, float, *(np.dtype(code).type for code in "bhilqBHILQefd")))
"""Classes of numbers that can be inputs of recordings: Python's and NumPy's."""


DICTS = (dict, collections.OrderedDict, collections.defaultdict)
"""Classes of dicts that are no more than their contents (and what a defaultdict calls). Of others, each is a form."""


class Unfit(Exception):
    """Arguments that cannot be staged; a text to be said once, or nothing."""


class Parameters:
    """The named parameters of a function, and what is known of those that hold numbers or NumPy arrays.

    free    only operations have used their values, which are inputs of recordings
    fixed   Python code looks at their values, which are part of the form

    `dynamic` says which are expected to vary: names; True for all, False for none, None for what has varied.
    """

    def __init__(self, fn: Any, dynamic: Any = None):
        bound = isinstance(fn, types.MethodType)
        plain = fn.__func__ if bound else fn
        code: Any = getattr(plain, "__code__", None)
        self._plain = plain
        self.code: Any = code if isinstance(plain, types.FunctionType) else None
        self.names: tuple[str, ...] = () if code is None else code.co_varnames[: code.co_argcount][bound:]
        named = 0 if code is None else code.co_argcount + code.co_kwonlyargcount
        self._known = () if self.code is None else code.co_varnames[bound:named]
        self.all = dynamic is True
        self.hinted = _hinted(dynamic, self._known)
        self.free: set[str] = set()
        self.fixed: set[str] = set(self._known) if dynamic is False else set()
        self._first: dict[str, Any] = {}

    def name(self, i: int) -> str:
        """The name of positional argument `i`."""
        return self.names[i] if i < len(self.names) else f"args[{i}]"

    def is_free(self, name: str, x: Any) -> bool:
        """Whether the value of this argument is left out of the form."""
        kind = type(x)
        if kind is np.ndarray:
            large = x.nbytes > SMALL_ARRAY and name in self._known and name not in self.fixed
            return (large or name in self.free) and x.dtype.kind in "biufc"
        return name in self.free and kind in NUMBERS

    def fix(self, names: Any) -> None:
        """Python code looks at these."""
        self.free -= names
        self.fixed |= names

    def free_arguments(self, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The values that are left out of the form of this call."""
        named = [*((self.name(i), x) for i, x in enumerate(args)), *kwargs.items()]
        return {n: x for n, x in named if self.is_free(n, x)}

    def candidates(self, args: tuple, kwargs: dict) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments that may turn out to be free, and the other numbers: what those may be computed with.

        The former are free, said to be dynamic, or have had another value.
        """
        out, constants = {}, dict(self._defaults())
        for name, x in [*((self.name(i), x) for i, x in enumerate(args)), *kwargs.items()]:
            constants.pop(name, None)
            if name not in self._known or (token := _token(x)) is None:
                continue
            varies = self._first.setdefault(name, token) != token or self.all or name in self.hinted
            if name not in self.fixed and (varies or self.is_free(name, x)):
                out[name] = x
            elif type(x) is not np.ndarray:
                constants[name] = x
        return out, constants

    def _defaults(self) -> Iterator[tuple[str, Any]]:
        """The numbers that are default values; the recording guards them."""
        if self.code is not None:
            given = self._plain.__defaults__ or ()
            names = self.code.co_varnames[: self.code.co_argcount][self.code.co_argcount - len(given):]
            named = {**dict(zip(names, given)), **(self._plain.__kwdefaults__ or {})}
            yield from ((n, x) for n, x in named.items() if type(x) in NUMBERS)


def _hinted(dynamic: Any, known: tuple[str, ...]) -> frozenset[str]:
    """The names in the option `dynamic`. Raises ArgumentError for what is no parameter."""
    if dynamic is None or isinstance(dynamic, bool):
        return frozenset()
    names = (dynamic,) if isinstance(dynamic, str) else dynamic
    if not isinstance(names, tuple | list | set | frozenset) or not all(isinstance(n, str) for n in names):
        raise ArgumentError(
            f"function: dynamic={dynamic!r}; give names of parameters that hold numbers or NumPy arrays, or True for "
            "all, or False for none"
        )
    for n in names:
        if n not in known:
            raise ArgumentError(
                f"function: dynamic={dynamic!r}, but {n} is not a parameter by name"
                + (f"; those are {', '.join(known)}" if known else ": it has none; stage a function or a method")
            )
    return frozenset(names)


def _token(x: Any) -> Any:
    if type(x) in NUMBERS:
        return type(x), x if type(x) is int else repr(x)
    if type(x) is np.ndarray and x.dtype.kind in "biufc":
        return x.shape, x.dtype.str, x.tobytes() if x.nbytes <= SMALL_ARRAY else None
    return None


def in_form(x: Any) -> bool:
    """Whether the form of the arguments tells all that there is to this one."""
    return isinstance(x, (*PLAIN, tuple)) and not has_more(x) or type(x) is list or type(x) in DICTS


def form(parameters: Parameters, args: tuple, kwargs: dict) -> tuple[Any, list[Any], list[tuple[str, Any]]]:
    """The form of the arguments, their Tensors, and those that must be watched. Raises Unfit."""
    tensors: list[Any] = []
    others: list[tuple[str, Any]] = []
    parts: list[Any] = [config.modes.grad]
    seen: dict[int, int] = {}
    containers: dict[int, int] = {}

    def add(name: str, x: Any) -> None:
        if is_tensor(x):
            data = x._data
            if type(data) is not np.ndarray:
                raise Unfit
            again = seen.setdefault(id(x), len(tensors))
            node = x._node
            history = node is not None and (hasattr(node, "grad") and "leaf" or "inner")
            parts.append((type(x), data.dtype.num, data.shape, history, again))
            tensors.append(x)
            return
        kind = type(x)
        if kind is float:
            parts.append((float, x.hex()))
        elif isinstance(x, PLAIN):
            parts.append((kind, repr(x) if isinstance(x, complex | np.generic | slice | range) else x))
            if has_more(x):
                parts.append(id(x))
                others.append((name, x))
        elif kind is list or isinstance(x, tuple) or kind in DICTS:
            if kind is not tuple:
                others.append((name, x))
                if id(x) in containers:
                    parts.append(("again", containers[id(x)]))
                    return
                containers[id(x)] = len(containers)
                if has_more(x):
                    parts.append(id(x))
            items = list(x.items()) if isinstance(x, dict) else list(enumerate(x))
            parts.append((kind, tuple((type(k), k) for k, _ in items) if isinstance(x, dict) else len(items)))
            for k, v in items:
                add(f"{name}[{k!r}]", v)
            if kind is collections.defaultdict:
                add(f"{name}.default_factory", x.default_factory)
        elif dataclasses.is_dataclass(x) and not isinstance(x, type):
            others.append((name, x))
            names = (*(f.name for f in dataclasses.fields(x)), *getattr(x, "__dict__", ()))
            names = tuple(dict.fromkeys(names))
            parts.append((kind, names))
            for n in names:
                add(f"{name}.{n}", getattr(x, n, None))
        elif kind is np.ndarray:
            if x.nbytes > SMALL_ARRAY or x.dtype.hasobject:
                raise Unfit(
                    f"argument {name} is a NumPy array of {x.nbytes} bytes, of which Python code may see the elements; "
                    f"pass ag.asarray({name}) to have calls with other values use the same native code"
                )
            parts.append((np.ndarray, x.dtype.str, x.shape, x.tobytes()))
            others.append((name, x))
        else:
            parts.append((kind, id(x)))
            others.append((name, x))

    def argument(name: str, x: Any) -> None:
        if (kind := type(x)) is np.ndarray or kind in NUMBERS:
            if parameters.is_free(name, x):
                parts.append((name, kind, (x.dtype.str, x.shape) if kind is np.ndarray else None))
                return
        add(name, x)

    try:
        for i, x in enumerate(args):
            argument(parameters.name(i), x)
        for name in kwargs:
            parts.append(name)
            argument(name, kwargs[name])
    finally:
        # it refers to itself, and to the arguments: these must not wait for the garbage collector
        add = None  # type: ignore[assignment]
    try:
        key = tuple(parts)
        hash(key)
    except TypeError:
        raise Unfit from None
    return key, tensors, others


def labels(parameters: Parameters, args: tuple, kwargs: dict) -> list[str]:
    """The arguments in words, one by one: what a new form differs in from the others."""
    out = [f"grad mode: {'on' if config.modes.grad else 'off'}"]
    seen: dict[int, str] = {}

    def add(name: str, x: Any) -> None:
        if is_tensor(x):
            again = seen.setdefault(id(x), name)
            text = ("" if type(x).__name__ == "Tensor" else f"a {type(x).__name__} ")
            text += f"{x.dtype}{list(x.shape)}" + (" that requires grad" if x._node is not None else "")
            out.append(f"{name}: {text}" if again == name else f"{name}: the Tensor that is also {again}")
        elif isinstance(x, list | tuple | dict):
            out.append(f"{name}: {type(x).__name__} of {len(x)}")
            if seen.setdefault(id(x), name) != name:
                return
            for k, v in x.items() if isinstance(x, dict) else enumerate(x):
                add(f"{name}[{k!r}]", v)
        elif dataclasses.is_dataclass(x) and not isinstance(x, type):
            for f in dataclasses.fields(x):
                add(f"{name}.{f.name}", getattr(x, f.name, None))
        elif parameters.is_free(name, x):
            text = f"an array of {x.dtype}{list(x.shape)}" if type(x) is np.ndarray else f"any {type(x).__name__}"
            out.append(f"{name}: {text}")
        else:
            try:
                text = repr(x) if isinstance(x, PLAIN) else f"a {type(x).__name__} object"
            except ValueError:
                text = "a very large int"
            out.append(f"{name}: {text if len(text) < 60 else text[:57] + '...'}")

    for i, x in enumerate(args):
        add(parameters.name(i), x)
    for name, x in kwargs.items():
        add(name, x)
    add = None  # type: ignore[assignment]
    return out


def news(label: list[str], known: list[list[str]]) -> str:
    """How these arguments differ from the most similar ones before: "x: float32[3] -> float32[4]"."""
    if not known:
        return ""
    nearest = max(known, key=lambda k: (sum(a == b for a, b in zip(k, label)), -abs(len(k) - len(label))))
    before, now = dict(t.partition(": ")[::2] for t in nearest), dict(t.partition(": ")[::2] for t in label)
    out = [
        f"{n}: {before[n]} -> {text}" if n in before else f"{n}: {text} is new"
        for n, text in now.items()
        if before.get(n) != text
    ]
    out += [f"{n} is gone" for n in before if n not in now]
    return "; ".join(out[:4]) or "another object was given"
