"""Guards: what a recording relied on besides its arguments, checked before each native call."""

from __future__ import annotations

import dataclasses
import functools
import types
import weakref
from typing import Any, Callable

import numpy as np

from agog.staging import state
from agog.staging.codes import is_user_code
from agog.staging.forms import in_form
from agog.staging.observe import Watch
from agog.staging.reach import RAN
from agog.staging.rebinding import at, changes, has_tensors
from agog.staging.state import ABSENT, Place, Refuse, Seen, fingerprint, is_tensor

_IDENTITY = (*state.FIXED, str, bytes, type(None), bool, type(...), type(NotImplemented))

_MOVES = object()
"""Stands, in `Guards.deep`, for the value of something that can change: it is never found in a place."""


class Guards:
    """Places and what they held. `failed()` gives the name of the first that differs, or None."""

    __slots__ = ("same", "equal", "functions", "watched", "deep", "nodes", "seen", "kept", "holes", "weak", "gone",
                 "when_gone", "_fading", "__weakref__")

    def __init__(self, watch: Watch, captured: list[Any], differentiable: bool = True):
        self.same: list[tuple[Place, Any]] = []
        self.equal: list[tuple[Place, type, Any]] = []
        self.functions: list[tuple[Place, Any, Any]] = []
        self.watched = list(watch.watched.values())
        self.deep: list[tuple[Place, Any, Any]] = []  # with the value itself where it cannot change
        self.weak = _arguments_to_let_go(watch)
        self.kept = [
            x
            for key, x in watch.reached.items()
            if key not in watch.given and key not in self.weak and not is_tensor(x) and not isinstance(x, np.ndarray)
        ]
        for known in self.weak.keys() & watch.watched.keys():
            watch.watched[known].fade()
        self.nodes = [(t, t._node) for t in captured]
        self.holes = watch.holes
        rebound = {at(r.place): r for r in watch.rebindings}
        left = watch.volatile | watch.held.keys() | rebound.keys() | watch.unread(differentiable)
        for key, place in watch.places.items():
            if place is not RAN and key not in left:
                if id(place.holder) in self.weak:  # the class of an argument is part of the form
                    continue
                before = watch.before[key]
                if self.holes and isinstance(before, tuple):
                    before = fingerprint(place.read(), Seen(self.holes), place.name)
                self._add(place, before)
        self.same += [(r.place, r.before) for key, r in rebound.items() if key not in watch.held]
        for name, value, before in watch.arguments:
            in_key = id(value) in watch.free or in_form(value)
            if not in_key and id(value) not in self.weak:
                self._add(Place({"value": value}, "value", name), before)
        self.gone: str | None = None  # what is no more, and was known by its identity, which another may have now
        self.when_gone: Callable[[], None] | None = None
        self._fading: list[Any] = []
        self.seen: list[tuple[Any, Any]] = []  # Tensors that Python may have looked at: (weak reference, node)
        self._notice({id(t) for t in captured})
        for x, name in self.weak.values():
            self._fading.append(weakref.ref(x(), functools.partial(_gone, weakref.ref(self), name)))

    def _notice(self, captured: set[int]) -> None:
        """Notice when a Tensor goes that a picture has by its identity, and that nothing here keeps alive; and what
        Python can see of one that is not read: whether it requires a gradient."""
        known = set(captured)
        for w in self.watched:
            self._look([x for x in w.kept if is_tensor(x)], known)
        self._look([value for _, value in self.same if is_tensor(value)], known)
        for place, _, _ in self.deep:
            seen = Seen(self.holes)
            fingerprint(place.read(), seen, place.name)
            callback = functools.partial(_gone, weakref.ref(self), place.name)
            tensors = self._look([x for x in seen.values() if is_tensor(x)], known)
            self._fading += [weakref.ref(t, callback) for t in tensors]

    def _look(self, tensors: list[Any], known: set[int]) -> list[Any]:
        new = {id(t): t for t in tensors if id(t) not in known}
        known |= new.keys()
        self.seen += [(weakref.ref(t), t._node) for t in new.values()]
        return list(new.values())

    def looked_alike(self) -> bool:
        """Whether the Tensors that Python may have looked at require gradients as they did."""
        return all((t := ref()) is None or t._node is node for ref, node in self.seen)

    def _add(self, place: Place, before: Any) -> None:
        value = place.read()
        if value is ABSENT or isinstance(value, _IDENTITY) or is_tensor(value) or place.key == "__mro__":
            self.same.append((place, value))
        elif place.key is state.NAMES or type(value) is int or type(value) is float and value == value and value != 0:
            self.equal.append((place, type(value), value))
        elif isinstance(value, types.FunctionType):
            self.functions.append((place, value, value.__code__))
            if is_user_code(value.__code__.co_filename) and (value.__defaults__ or value.__kwdefaults__):
                self.deep.append((place, before, _MOVES))
        elif isinstance(before, tuple) and before[0] == "object":
            self.same.append((place, value))
        else:
            self.deep.append((place, before, value if state.is_frozen(value) else _MOVES))

    def failed(self) -> str | None:
        """The name of the first thing that is not as it was, or None when all hold."""
        if self.gone is not None:
            return self.gone
        for tensor, node in self.nodes:
            if tensor._node is not node:
                return f"requires_grad of a captured Tensor{list(tensor.shape)}"
        if not self.looked_alike():
            return "requires_grad of a Tensor"
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
        for w in self.watched:
            if not w.holds(w.value.__agog_watch__()[0]):
                return w.name
        for place, before, fixed in self.deep:
            try:
                if place.read() is not fixed and self._picture(place) != before:
                    return place.name
            except Refuse:
                return place.name
        return None

    def _picture(self, place: Place) -> Any:
        return fingerprint(place.read(), Seen(self.holes) if self.holes else None, place.name)

    def varied(self) -> set[tuple[int, Any]]:
        """The places that hold another Tensor than they did: from now on they are followed, not compared."""
        out = {at(p) for p, value in self.same if is_tensor(value) and p.read() is not value and is_tensor(p.read())}
        kept = {id(x): x for x in self.kept}
        for place, before, fixed in self.deep:
            try:
                found = () if fixed is place.read() else changes(place, before, self._picture(place), kept) or ()
            except Refuse:
                continue
            out.update(at(p) for p, picture in found if has_tensors(picture))
        for w in self.watched:
            if not w.holds(w.value.__agog_watch__()[0]):
                for module, name, _ in w.rebound() or ():
                    module.__agog_rebind__({name})
        return out

    def names(self) -> list[str]:
        """What is watched, for `explain`."""
        groups = (self.same, self.equal, self.functions, self.deep)
        places = {
            entry[0].name
            for group in groups
            for entry in group
            if entry[0].read() is not ABSENT and entry[0].key not in (state.SIZE, state.NAMES, "__mro__", "__class__")
        }
        return sorted(places | {w.name for w in self.watched})


def _gone(guards: Any, name: str, _: Any) -> None:
    found = guards()
    if found is not None:
        found.gone = name
        if found.when_gone is not None:
            found.when_gone()


def _arguments_to_let_go(watch: Watch) -> dict[int, tuple[Any, str]]:
    """{id: (weak reference, name)} of the objects among the arguments that are known by identity, and need not be kept
    alive: nothing but the call refers to them. A method that is staged does not hold all objects that it ever saw."""
    found = {
        id(value): (weakref.ref(value), name)
        for name, value, before in watch.arguments
        if isinstance(before, tuple)
        and before[0] == "object"
        and type(value).__weakrefoffset__
        and not dataclasses.is_dataclass(value)  # its contents are in the form, and not which one it is
    }
    if found:
        for place in watch.places.values():
            if place is not RAN:
                if place.key != "__class__":
                    found.pop(id(place.holder), None)
                found.pop(id(place.read()), None)
    return found
