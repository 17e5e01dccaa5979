"""Names that are given new Tensors: `self.mean = ...`, globals, closure variables, entries of lists and dicts.

A place that the function rebinds, or that was seen to hold one Tensor after another, is no longer guarded by the
identity of its Tensor. What it holds is one more argument of every call, and what the function leaves there is one
more result, which is written back when the call commits.
"""

from __future__ import annotations

import collections
import inspect
import types
from typing import Any

from agog.staging.codes import is_user_code
from agog.staging.state import ABSENT, Entry, Place, fingerprint, is_tensor, is_value

FOLLOWED = (list, dict, collections.deque, collections.OrderedDict, collections.defaultdict)


# ------------------------------------------------------------------------------------------- values and their forms
def form_of(value: Any) -> Any:
    """What a place may hold to be followed: "tensor", None, or (tuple type, forms); raises ValueError else."""
    if is_tensor(value):
        return "tensor"
    if value is None:
        return None
    if isinstance(value, tuple):
        return type(value), tuple([form_of(v) for v in value])
    raise ValueError


def leaves(value: Any, form: Any, out: list[Any]) -> bool:
    """Add the Tensors of a value to `out`; False when it is not of the form."""
    if form == "tensor":
        out.append(value)
        return is_tensor(value)
    if form is None:
        return value is None
    kind, parts = form
    return type(value) is kind and len(value) == len(parts) and all(leaves(v, f, out) for v, f in zip(value, parts))


class Held:
    """A place whose Tensors are arguments of the call: numbers `first` and following; `kinds` are their classes."""

    __slots__ = ("place", "form", "first", "kinds")

    def __init__(self, place: Place, value: Any, first: int):
        self.place, self.form, self.first = place, form_of(value), first
        found: list[Any] = []
        leaves(value, self.form, found)
        self.kinds = [type(t) for t in found]

    def read(self) -> list[Any]:
        """The Tensors that it holds now; None for each when it holds something of another form."""
        found: list[Any] = []
        if leaves(self.place.read(), self.form, found) and [type(t) for t in found] == self.kinds:
            return found
        return [None] * len(self.kinds)


class Rebinding:
    """A place that the run left with another value."""

    __slots__ = ("place", "before", "after")

    def __init__(self, place: Place, before: Any, after: Any):
        self.place, self.before, self.after = place, before, after


# ------------------------------------------------------------------------------------------------- what has changed
def has_tensors(picture: Any) -> bool:
    """Whether the value of such a picture has Tensors."""
    if isinstance(picture[0], type) and issubclass(picture[0], tuple):
        return isinstance(picture[2], tuple) or any(map(has_tensors, picture[2]))
    return bool(picture[0] == "tensor")


def value_of(picture: Any, reached: dict[int, Any]) -> Any:
    """What had this picture. Raises KeyError for a Tensor that nothing keeps alive."""
    kind = picture[0]
    if kind == "tensor":
        return reached[picture[1]]
    if kind is type(None):
        return None
    if isinstance(picture[2], tuple):
        parts = [reached[i] for i in picture[2]]
    else:
        parts = [value_of(p, reached) for p in picture[2]]
    return kind(parts) if kind is tuple else kind(*parts)


def _entries(picture: Any) -> list[tuple[Any, Any]] | None:
    """(key, picture) of each entry of a container's picture."""
    kind, *rest = picture
    if kind not in FOLLOWED:
        return None
    if issubclass(kind, dict):
        if len(rest) == 3:
            return [((str, k), ("tensor", i)) for k, i in zip(rest[1], rest[2])]
        return rest[1]
    parts = rest[1]
    return list(enumerate([("tensor", i) for i in parts] if isinstance(parts, tuple) else parts))


def changes(place: Place, before: Any, after: Any, reached: dict[int, Any]) -> list[tuple[Place, Any]] | None:
    """(place, picture before) wherever two pictures of `place` differ, if all of it is Tensors; None if more does."""
    if before == after:
        return []
    if not isinstance(before, tuple) or not isinstance(after, tuple):
        return None
    absent = isinstance(place.holder, dict) and not isinstance(place, Entry) and before == fingerprint(ABSENT)
    if is_value(after) and (absent or is_value(before)):
        return [(place, before)]
    if before[:2] != after[:2] or before[1] not in reached:
        return None
    a, b = _entries(before), _entries(after)
    if a is None or b is None or [k for k, _ in a] != [k for k, _ in b]:
        return None
    holder, out = reached[before[1]], []
    for (key, x), (_, y) in zip(a, b):
        at = key[1] if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], type) else key
        if isinstance(holder, dict) and at not in holder:
            return None
        found = changes(Entry(holder, at, f"{place.name}[{at!r}]"), x, y, reached)
        if found is None:
            return None
        out += found
    return out


def writable(place: Place, owners: dict[int, Any]) -> bool:
    """Whether putting a value there does what the assignment in the user's code did.

    owners  the object that each `__dict__` belongs to
    """
    holder, key = place.holder, place.key
    if isinstance(place, Entry):
        return True
    if isinstance(holder, types.CellType):
        return True
    if isinstance(holder, types.MappingProxyType):  # a class
        return False
    owner = owners.get(id(holder), holder)
    if isinstance(owner, types.ModuleType | dict):
        return type(owner) in (types.ModuleType, dict)
    if isinstance(owner, type) or not isinstance(key, str):
        return False
    setter: Any = type(owner).__setattr__
    if setter is not object.__setattr__:
        if hasattr(owner, "__agog_rebind__"):
            return bool(owner.__agog_rebind__({key}))
        if not (isinstance(setter, types.FunctionType) and is_user_code(setter.__code__.co_filename)):
            return False  # (what Python code of the user does to an attribute was seen)
    found = inspect.getattr_static(type(owner), key, None)
    return isinstance(found, types.MemberDescriptorType) or not hasattr(type(found), "__set__")


def holes_of(places: list[Place]) -> dict[int, set[Any]]:
    """The entries of containers among the places, for `Seen`."""
    out: dict[int, set[Any]] = {}
    for place in places:
        if isinstance(place, Entry):
            out.setdefault(id(place.holder), set()).add(place.key)
    return out


def at(place: Place) -> tuple[int, Any]:
    """What names a place, whoever has found it."""
    return id(place.holder), place.key


def entries_held(value: Any, wanted: set[tuple[int, Any]], name: str) -> list[Entry]:
    """The entries of containers under `value` that are among the wanted places."""
    seen: dict[int, Any] = {}
    fingerprint(value, seen)
    out = []
    for key, container in seen.items():
        if type(container) in FOLLOWED:
            items = container.items() if isinstance(container, dict) else enumerate(container)
            out += [Entry(container, k, f"{name}[{k!r}]") for k, v in items if (key, k) in wanted and is_tensor(v)]
    return out
