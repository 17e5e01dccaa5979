"""Guards: what a recording relied on besides its arguments, checked before each native call."""

from __future__ import annotations

import types
from typing import Any

from agog.staging import observe
from agog.staging.observe import Place, Refuse, Watch, fingerprint, is_tensor, is_user_code

_IDENTITY = (*observe._FIXED, str, bytes, type(None), bool)


class Guards:
    """Places and what they held. `failed()` gives the name of the first that differs, or None."""

    __slots__ = ("same", "equal", "functions", "watched", "deep", "nodes")

    def __init__(self, watch: Watch, captured: list[Any]):
        names = {n for code in watch.codes for n in observe._attribute_names(code)}
        dynamic = watch._dynamic
        self.same: list[tuple[Place, Any]] = []
        self.equal: list[tuple[Place, type, Any]] = []
        self.functions: list[tuple[Place, Any, Any]] = []
        self.watched = list(watch.watched.values())
        self.deep: list[tuple[Place, Any]] = []
        self.nodes = [(t, t._node) for t in captured]
        for key, place in watch.places.items():
            if key in watch.volatile or (isinstance(place.holder, type) and not dynamic and place.key not in names):
                continue
            self._add(place, watch.before[key])
        for name, value, before in watch.arguments:
            if not observe_plain(value) and not isinstance(value, dict | list | tuple):  # those are in the key
                self._add(Place({"value": value}, "value", name), before)

    def _add(self, place: Place, before: Any) -> None:
        value = place.read()
        if value is observe._ABSENT or isinstance(value, _IDENTITY) or is_tensor(value):
            self.same.append((place, value))
        elif isinstance(value, int) and type(value) is int:
            self.equal.append((place, int, value))
        elif isinstance(value, types.FunctionType):
            self.functions.append((place, value, value.__code__))
            if is_user_code(value.__code__.co_filename) and (value.__defaults__ or value.__kwdefaults__):
                self.deep.append((place, before))
        elif isinstance(before, tuple) and before[0] == "object":
            self.same.append((place, value))
        else:
            self.deep.append((place, before))

    def failed(self) -> str | None:
        """The name of the first thing that is not as it was, or None when all hold."""
        for tensor, node in self.nodes:
            if tensor._node is not node:
                return f"requires_grad of a captured Tensor{list(tensor.shape)}"
        for place, value in self.same:
            if place.read() is not value:
                return place.name
        for place, kind, value in self.equal:
            now = place.read()
            if type(now) is not kind or now != value:
                return place.name
        for place, value, code in self.functions:
            now = place.read()
            if now is not value or now.__code__ is not code:
                return place.name
        for value, token, name in self.watched:
            if value.__agog_watch__()[0] != token:
                return name
        for place, before in self.deep:
            try:
                if fingerprint(place.read(), None, place.name) != before:
                    return place.name
            except Refuse:
                return place.name
        return None

    def names(self) -> list[str]:
        """What is watched, for `explain`."""
        groups = (self.same, self.equal, self.functions, self.deep)
        places = {entry[0].name for group in groups for entry in group}  # type: ignore[attr-defined]
        return sorted(places | {name for _, _, name in self.watched})


def observe_plain(value: Any) -> bool:
    return isinstance(value, observe._PLAIN)
