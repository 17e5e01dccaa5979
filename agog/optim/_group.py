"""A group of parameters and their hyper-parameters."""

from __future__ import annotations

import functools
import math
from itertools import count
from typing import Any, Callable, Iterable, Iterator

import numpy as np

from agog import config, tree
from agog.array import dtypes
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, GradientError
from agog.tape import _ticket as ticket
from agog.tensor import Tensor

_stamp = count(1).__next__


def _stamping(plain: Any) -> Any:
    """A method of a list or a dict after which a recording of what was in it holds no more."""

    @functools.wraps(plain)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.version[0] = _stamp()
        return plain(self, *args, **kwargs)

    return method


class Params(list):
    """The parameters of a group. Every change is a new version of the group."""

    __slots__ = ("version",)

    def __init__(self, values: Iterable[Any], version: list[int]):
        list.__init__(self, values)
        self.version = version

    def __reduce__(self) -> Any:
        return list, (list(self),)


class State(dict):
    """What an optimizer keeps: by parameter, or of one parameter by name. A change from outside is a new version."""

    __slots__ = ("version",)

    def __init__(self, values: Any, version: list[int]):
        self.version = version
        dict.__init__(self, ((k, self._kept(v)) for k, v in dict(values).items()))

    def _kept(self, value: Any) -> Any:
        return State(value, self.version) if isinstance(value, dict) else value

    def begin(self, key: Any, value: Any) -> Any:
        """Put in what is made when it is first needed, which is no change: each run makes the same."""
        kept = self._kept(value)
        dict.__setitem__(self, key, kept)
        return kept

    def __setitem__(self, key: Any, value: Any) -> None:
        self.version[0] = _stamp()
        dict.__setitem__(self, key, self._kept(value))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


for _name in ("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "__setitem__", "__delitem__",
              "__iadd__", "__imul__"):
    setattr(Params, _name, _stamping(getattr(list, _name)))
for _name in ("__delitem__", "pop", "popitem", "clear"):
    setattr(State, _name, _stamping(getattr(dict, _name)))


class Group(dict):
    """A dict of hyper-parameters and, under "params", the Tensors that they are for.

    The learning rate is also held as a Tensor (`rate`), which follows `group["lr"] = ...`: what is recorded reads that,
    so that a schedule makes no new recording; if code that is recorded looks at `group["lr"]`, the number counts. Every
    other change gives the group a new `_version`.
    """

    __slots__ = ("_versions", "_rate", "_made", "cache", "check", "complete")

    def __init__(self, values: dict[str, Any], check: Callable[[str, Any], Any]):
        self._versions, self.check = [0], check
        self._rate: Tensor | None = None
        self.complete = -1  # the version for which its optimizer has made all moments
        self._made = ticket()
        self.cache: dict[Any, Any] = {}
        dict.__init__(self)
        for key, value in values.items():
            self[key] = value

    @property
    def _version(self) -> int:
        return self._versions[0]

    def _seen(self, changed: bool = False) -> None:
        """The learning rate is read, or set."""
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.on_setting(self, "lr", self._made, changed)

    def __setitem__(self, key: str, value: Any) -> None:
        value = self.check(key, value)
        if key == "lr":
            self._seen(changed=True)
        elif key == "params":
            value = Params(value, self._versions)
        dict.__setitem__(self, key, value)
        self.cache.clear()
        if key != "lr":
            self._versions[0] = _stamp()
        elif self._rate is not None:
            self._rate.assign(np.array(value))

    def __getitem__(self, key: str) -> Any:
        if key == "lr":
            self._seen()
        return dict.__getitem__(self, key)

    # What follows would go around the two above.
    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def _remove(self) -> None:
        self._seen(changed=True)
        self.cache.clear()
        self._versions[0] = _stamp()

    def __delitem__(self, key: str) -> None:
        self._remove()
        dict.__delitem__(self, key)

    def pop(self, *args: Any) -> Any:
        self._remove()
        return dict.pop(self, *args)

    def popitem(self) -> Any:
        self._remove()
        return dict.popitem(self)

    def clear(self) -> None:
        self._remove()
        dict.clear(self)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def items(self) -> Any:
        self._seen()
        return dict.items(self)

    def values(self) -> Any:
        self._seen()
        return dict.values(self)

    def __iter__(self) -> Any:  # (then `dict(group)` and `{**group}` come by `__getitem__`, too)
        return dict.__iter__(self)

    def copy(self) -> dict[str, Any]:
        """A plain dict of what is in the group."""
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | dict(other)

    def __ror__(self, other: Any) -> Any:
        return dict(other) | dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> Any:
        return Group, (dict(self), self.check)

    @property
    def rate(self) -> Tensor:
        """The learning rate as a Tensor of no axes, in float64."""
        if self._rate is None:
            recorder, config.modes.recorder = config.modes.recorder, None  # it is state, no value of a recording
            try:
                self._rate = Tensor(np.array(self["lr"], np.float64))
            finally:
                config.modes.recorder = recorder
        return self._rate


def named(holder: Any, besides: frozenset[str] = frozenset()) -> Iterator[tuple[dict, str]]:
    """The attributes of an object, as places that staging watches where code names them."""
    attributes = holder.__dict__
    for key in attributes:
        if key not in besides:
            yield attributes, key


def number(name: str, value: Any, low: float = 0.0, high: float = math.inf, open_high: bool = False) -> float:
    """`value` as a finite float in [low, high]. Raises ArgumentError or ArgumentTypeError, naming it."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.shape == ():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"{name} must be a number, not a {type(value).__name__}")
    end = ")" if open_high or high == math.inf else "]"
    if not (low <= value <= high) or math.isinf(value) or open_high and value == high:
        raise ArgumentError(f"{name}={value!r}: give a number in [{low:g}, {high:g}{end}")
    return float(value)


def collect(params: Any, who: str) -> list[dict[str, Any]]:
    """What the user gave an optimizer, as a list of {"params": [Tensors], ...}.

    Raises for no parameters, duplicates, results of a computation, and things that are no Tensors.
    """
    if isinstance(params, Tensor):
        raise ArgumentTypeError(f"{who}: params is a Tensor; give a list of Tensors, or model.parameters()")
    if hasattr(params, "named_parameters"):
        raise ArgumentTypeError(f"{who}: params is a module; write {who}(model.parameters(), ...)")
    if isinstance(params, dict) and "params" not in params:
        params = tree.leaves(params)
    if isinstance(params, dict):
        params = [params]
    try:
        entries = list(params)
    except TypeError:
        raise ArgumentTypeError(f"{who}: params must be an iterable of Tensors, "
                                f"not a {type(params).__name__}") from None
    if not entries:
        raise ArgumentError(f"{who}: there are no parameters to optimize; the list is empty (a generator such as "
                            "model.parameters() can be used only once)")
    if not isinstance(entries[0], dict):
        entries = [{"params": entries}]
    groups = []
    for entry in entries:
        if not isinstance(entry, dict) or "params" not in entry:
            raise ArgumentTypeError(f"{who}: a parameter group must be a dict with the key 'params', not " + (
                f"with the keys {list(entry)}" if isinstance(entry, dict) else f"a {type(entry).__name__}"))
        groups.append({**entry, "params": tensors(entry["params"], who)})
    seen: set[int] = set()
    for p in (p for g in groups for p in g["params"]):
        if id(p) in seen:
            raise ArgumentError(f"{who}: a parameter of shape {p.shape} is given twice; each must be in one group, "
                                "once")
        seen.add(id(p))
    return groups


def tensors(params: Any, who: str) -> list[Tensor]:
    """The Tensors of one group, checked."""
    items: Iterable[Any] = [params] if isinstance(params, Tensor) else params
    out = []
    for p in items:
        if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str):  # named_parameters()
            p = p[1]
        if not isinstance(p, Tensor):
            raise ArgumentTypeError(f"{who}: a parameter must be a Tensor, not a {type(p).__name__}")
        if not p.is_leaf:
            raise GradientError(f"{who}: a parameter of shape {p.shape} was computed from other Tensors, so it "
                                "collects no "
                                "gradient; optimize what it was computed from, or use x.detach().requires_grad_()")
        if not dtypes.is_inexact(p.dtype):
            raise DTypeError(f"{who}: a parameter of dtype {p.dtype} cannot be optimized; it must be floating")
        out.append(p)
    return out
