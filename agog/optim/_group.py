"""A group of parameters and their hyper-parameters."""

from __future__ import annotations

import math
from itertools import count
from typing import Any, Callable, Iterable

import numpy as np

from agog import config, tree
from agog.array import dtypes
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, GradientError
from agog.tensor import Tensor

_stamp = count(1).__next__


class Group(dict):
    """A dict of hyper-parameters and, under "params", the Tensors that they are for.

    The learning rate is also held as a Tensor (`rate`), which follows `group["lr"] = ...`: what is recorded reads that,
    so that a schedule makes no new recording. Every other change gives the group a new `_version`.
    """

    __slots__ = ("_version", "_rate", "cache", "check")

    def __init__(self, values: dict[str, Any], check: Callable[[str, Any], Any]):
        self._version, self.check = 0, check
        self._rate: Tensor | None = None
        self.cache: dict[Any, Any] = {}
        dict.__init__(self)
        for key, value in values.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        value = self.check(key, value)
        dict.__setitem__(self, key, value)
        self.cache.clear()
        if key != "lr":
            self._version = _stamp()
        elif self._rate is not None:
            self._rate.assign(np.array(value))

    def update(self, *args: Any, **kwargs: Any) -> None:  # dict's would go around __setitem__
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

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
            raise ArgumentTypeError(f"{who}: a parameter group must be a dict with the key 'params', "
                                    f"not a {type(entry).__name__}")
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
