"""Pictures of plain mutable Python state, and the places where it was read."""

from __future__ import annotations

import array
import collections
import collections.abc
import enum
import functools
import gc
import random
import threading
import types
import weakref
import zlib
from typing import Any

import numpy as np

from agog.staging.codes import is_user_code
from agog.tape import Leaf

PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(Ellipsis),
    type(NotImplemented),
    np.dtype,
    np.generic,
    range,
    slice,
)
FIXED = (
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    types.CodeType,
    property,
    np.ufunc,
    staticmethod,
    classmethod,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)
CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque, types.MappingProxyType)
IMPURE_TYPES = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
_BUILTIN = frozenset((*PLAIN, tuple))
MAX_STATE = 20_000
MAX_ARRAY_BYTES = 16 << 20
_Cached = type(functools.lru_cache(len))
_VIEWS: tuple[type, ...] = (
    type({}.keys()),
    type({}.values()),
    type({}.items()),
    type(collections.OrderedDict().keys()),
    type(collections.OrderedDict().values()),
    type(collections.OrderedDict().items()),
)


def is_tensor(x: Any) -> bool:
    cls = type(x)
    return hasattr(cls, "_node") and hasattr(cls, "_data")


def is_frozen(x: Any) -> bool:
    """True for values that can never change."""
    return isinstance(x, PLAIN) or type(x) is tuple and all(map(is_frozen, x))


def has_more(x: Any) -> bool:
    """Whether a number, a string or a tuple of a class of its own has attributes besides its value."""
    return type(x) not in _BUILTIN and not isinstance(x, enum.Enum) and bool(getattr(x, "__dict__", None))


class Refuse(Exception):
    """State that cannot be watched; the message says which and why."""


class _Absent:
    def __repr__(self) -> str:
        return "<absent>"


ABSENT = _Absent()
SIZE = "<number of names>"
"""As the key of a place: how many entries its dict has."""
NAMES = "<names>"
"""As the key of a place: the keys of its dict. One that was added may hide what another class of the bases has."""


class Seen(dict):
    """The objects that a fingerprint met, by id; `holes`: what does not count, as {id of a list or dict: its keys}."""

    __slots__ = ("holes",)

    def __init__(self, holes: dict[int, set[Any]]):
        self.holes = holes


HOLE = ("rebound",)
"""The picture of an entry that does not count."""
NONE = (type(None), None)
"""The picture of None."""


def fingerprint(value: Any, seen: dict[int, Any] | None = None, name: str = "") -> Any:
    """A comparable picture of plain mutable state: equal when nothing that matters changed.

    Lists, dicts, sets and small arrays count by their contents. Tensors count by identity (their values are the
    recorder's business), functions, classes, modules and ordinary objects too: the attributes of objects that code
    reads are watched one by one. `seen` collects every mutable object that was met, by id.

    Raises Refuse for what cannot be watched: live iterators, huge containers and arrays.
    """
    seen = {} if seen is None else seen
    if isinstance(value, PLAIN):
        if has_more(value):
            seen[id(value)] = value
        return (type(value), repr(value)) if isinstance(value, float | complex | np.generic) else (type(value), value)
    key = id(value)
    if key in seen:
        return ("tensor", key) if is_tensor(value) else ("again", key)
    seen[key] = value
    if len(seen) > MAX_STATE:
        raise Refuse(f"{name or 'its state'} reaches more than {MAX_STATE} objects; pass less, or keep it in Tensors")
    if is_tensor(value):
        return ("tensor", key)
    if type(seen) is Seen and key in seen.holes:
        return _with_holes(value, key, seen, name)
    if isinstance(value, np.ndarray):
        return _array(value, key, seen, name)
    if isinstance(value, IMPURE_TYPES):
        return ("generator", key, _state(value))
    if isinstance(value, bytearray | array.array | memoryview):
        return (type(value), key, bytes(value))
    if isinstance(value, list | tuple | collections.deque):
        if value and _all_tensors(value):
            return (type(value), key if not isinstance(value, tuple) else None, _identities(value, seen))
        return (type(value), key if not isinstance(value, tuple) else None, [fingerprint(v, seen, name) for v in value])
    if isinstance(value, dict | types.MappingProxyType):
        if value and _all_tensors(value.values()) and set(map(type, value)) == {str}:
            return (type(value), key, list(value), _identities(value.values(), seen))
        return (
            type(value),
            key,
            [
                (_key(k, seen, name), fingerprint(v, seen, f"{name}[{k!r}]" if isinstance(k, str | int) else name))
                for k, v in list(value.items())
            ],
        )
    if isinstance(value, set | frozenset):
        items = [_key(v, seen, name) for v in value]
        return (type(value), key, sorted(map(repr, items)))
    if isinstance(value, _VIEWS):
        return (type(value), key, [fingerprint(v, seen, name) for v in list(value)])  # type: ignore[call-overload]
    if isinstance(value, types.FunctionType):
        if not is_user_code(value.__code__.co_filename):
            return ("function", key, id(value.__code__))
        return (
            "function",
            key,
            id(value.__code__),
            fingerprint(value.__defaults__, seen, name),
            fingerprint(value.__kwdefaults__, seen, name),
            fingerprint(value.__dict__ or None, seen, name),
            [_cell(c, seen, name) for c in value.__closure__ or ()],
        )
    if isinstance(value, functools.partial):
        return ("partial", key, [fingerprint(v, seen, name) for v in (value.func, value.args, value.keywords)])
    if isinstance(value, _Cached):
        inside = [v for v in gc.get_referents(value) if isinstance(v, PLAIN + CONTAINERS) or is_tensor(v)]
        return ("cached", key, value.cache_info().currsize, [fingerprint(v, seen, name) for v in inside])
    if isinstance(value, threading.local):
        raise Refuse(f"{name or 'it'} differs from thread to thread (threading.local)")
    if isinstance(value, types.MethodType):
        return ("method", id(value.__func__), fingerprint(value.__self__, seen, name))
    if isinstance(value, weakref.ref):
        raise Refuse(f"{name or 'it'} is a weak reference, and a recording would keep alive what it refers to")
    if isinstance(value, FIXED):
        return ("fixed", key)
    if isinstance(value, Leaf):
        return ("leaf", key)
    if hasattr(type(value), "__next__"):
        raise Refuse(
            f"{name or 'it'} is an iterator ({type(value).__name__}); what it gives next cannot be known beforehand"
        )
    return ("object", key, id(type(value)))


def _with_holes(value: Any, key: int, seen: Seen, name: str) -> Any:
    holes = seen.holes[key]
    if isinstance(value, dict):
        return (
            type(value),
            key,
            [(_key(k, seen, name), HOLE if k in holes else fingerprint(v, seen, name)) for k, v in list(value.items())],
        )
    return (type(value), key, [HOLE if i in holes else fingerprint(v, seen, name) for i, v in enumerate(value)])


_tensor_types: dict[type, bool] = {}


def _all_tensors(values: Any) -> bool:
    """Whether a container holds Tensors alone: the parameters of a model, say, which are watched at every call."""
    for kind in set(map(type, values)):
        known = _tensor_types.get(kind)
        if known is None:
            known = _tensor_types[kind] = hasattr(kind, "_node") and hasattr(kind, "_data")
        if not known:
            return False
    return True


def _identities(values: Any, seen: dict[int, Any]) -> tuple[int, ...]:
    ids = tuple(map(id, values))
    seen.update(zip(ids, values))
    return ids


def _array(value: np.ndarray, key: int, seen: dict[int, Any], name: str) -> Any:
    if value.nbytes > MAX_ARRAY_BYTES:
        raise Refuse(
            f"{name or 'an array'} is a NumPy array of {value.nbytes >> 20} MB; make it a Tensor, "
            "or pass it as an argument"
        )
    if type(value) is not np.ndarray and getattr(value, "__dict__", None):  # a masked array, a quantity with a unit
        more = fingerprint(value.__dict__, seen, name)
        return ("array", type(value), more, _array(value.view(np.ndarray), key, seen, name))
    if value.dtype.hasobject:
        return ("array", key, value.shape, value.dtype.str, [fingerprint(x, seen, name) for x in value.flat])
    data = np.ascontiguousarray(value)
    return (
        "array",
        key,
        value.shape,
        value.dtype.str,
        zlib.crc32(data.view(np.uint8).reshape(-1).data if data.size else b""),
    )


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    bits = generator if isinstance(generator, np.random.BitGenerator) else getattr(generator, "bit_generator", None)
    return repr(generator.get_state() if bits is None else bits.state)


def _cell(cell: Any, seen: dict[int, Any], name: str) -> Any:
    try:
        return fingerprint(cell.cell_contents, seen, name)
    except ValueError:
        return "empty"


def _key(k: Any, seen: dict[int, Any], name: str) -> Any:
    if isinstance(k, PLAIN):
        return (type(k), k)
    if isinstance(k, tuple):
        return tuple(_key(x, seen, name) for x in k)
    seen.setdefault(id(k), k)
    return ("id", id(k))


class Place:
    """Where a value was read from: a dict entry (globals, attributes), a cell, an attribute. It can be read again."""

    __slots__ = ("holder", "key", "name")

    def __init__(self, holder: Any, key: Any, name: str):
        self.holder, self.key, self.name = holder, key, name

    def read(self) -> Any:
        holder, key = self.holder, self.key
        if key is SIZE:
            return len(holder)
        if key is NAMES:
            return tuple(holder)
        if type(holder) is dict or type(holder) is types.MappingProxyType:
            return holder.get(key, ABSENT)
        if isinstance(holder, types.CellType):
            try:
                return holder.cell_contents
            except ValueError:
                return ABSENT
        return getattr(holder, key, ABSENT)

    def write(self, value: Any) -> None:
        """Put another value there."""
        if isinstance(self.holder, dict):
            self.holder[self.key] = value
        elif isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        else:
            setattr(self.holder, self.key, value)


class Entry(Place):
    """An entry of a list, a deque or a dict."""

    __slots__ = ()

    def read(self) -> Any:
        holder, key = self.holder, self.key
        if isinstance(holder, dict):
            return holder.get(key, ABSENT)
        return holder[key] if key < len(holder) else ABSENT

    def write(self, value: Any) -> None:
        self.holder[self.key] = value


def is_value(picture: Any) -> bool:
    """Whether this is the picture of Tensors, None, or tuples of them."""
    kind = picture[0]
    if kind == "tensor" or picture == NONE:
        return True
    if not (isinstance(kind, type) and issubclass(kind, tuple) and picture[1] is None):
        return False
    return isinstance(picture[2], tuple) or all(map(is_value, picture[2]))


class Watched:
    """An object that says itself when it changed (`__agog_watch__`), as it was at a recording.

    Its token changes with every change; a Module that was changed and changed back (`eval()`, `train()`) is
    recognised by its picture. `last` and `bad` remember what the newest comparisons found.
    """

    __slots__ = ("_value", "_weak", "name", "last", "bad", "picture", "kept", "holes")

    def __init__(self, value: Any, token: Any, name: str):
        self._value, self.name = value, name
        self._weak: Any = None
        self.renew(token, {})

    @property
    def value(self) -> Any:
        """The object; None when it is no more."""
        return self._value if self._weak is None else self._weak()

    def renew(self, token: Any, holes: dict[int, set[Any]]) -> None:
        """It is right as it is now, `holes` (see `Seen`) aside."""
        self.last, self.bad, self.holes = token, None, holes
        self.kept: list[Any] = []
        self.picture = _picture(self.value, self.kept, holes)

    def fade(self) -> None:
        """Do not keep the object alive any more."""
        self._weak = weakref.ref(self._value)
        self.kept = [x for x in self.kept if x is not self._value]
        self._value = None

    def holds(self, now: Any) -> bool:
        """Whether the object, of which `now` is the token, is as it was."""
        if now is self.last or now == self.last:
            return True
        if self.picture is None or now == self.bad:
            return False
        if _picture(self.value, [], self.holes) == self.picture:
            self.last = now
            return True
        self.bad = now
        return False

    def rebound(self) -> list[tuple[Any, str, Any]] | None:
        """(module, name, picture before) of attributes with other Tensors, or tuples of them; None if more changed."""
        now = _picture(self.value, [], self.holes)
        if now is None or self.picture is None or len(now) != len(self.picture):
            return None
        modules = {id(m): m for m in self.value.modules()}
        out = []
        for a, b in zip(self.picture, now):
            if a != b:
                if a[:3] != b[:3] or not (is_value(a[3]) and is_value(b[3])):
                    return None
                out.append((modules[a[0]], a[2], a[3]))
        return out

    def difference(self) -> str:
        """What is not as it was: `Net.mode`, or the name of the object where nothing that has a name was found."""
        before, now = ({(x[0], x[2]): x for x in picture or ()}
                       for picture in (self.picture, _picture(self.value, [], self.holes)))
        for key, x in {**before, **now}.items():
            if before.get(key) != now.get(key) and not key[1].startswith("_"):
                return f"{x[1].__name__}.{key[1]}"
        return self.name


def _may_move(x: Any) -> bool:
    """Whether this is Tensors, None, or tuples of them."""
    return x is None or is_tensor(x) or isinstance(x, tuple) and all(map(_may_move, x))


def _picture(value: Any, kept: list[Any], holes: dict[int, set[Any]]) -> Any:
    """All that the modules of a Module are made of; None for other objects. Its rebound Tensors are places to watch."""
    if not hasattr(value, "modules") or not hasattr(value, "_version"):
        return None
    out = []
    for module in value.modules():
        for key, x in module.__dict__.items():
            if key not in ("_watched", "_version", "_chain") and not (key in module._rebound and _may_move(x)):
                seen = Seen(holes)
                try:
                    out.append((id(module), type(module), key, fingerprint(x, seen, key)))
                except Refuse:
                    return None
                kept.extend(seen.values())
        kept.append(module)
    return out
