"""The mutable Python state that code can reach: which places it reads, and what they held before.

From the code objects that run follow the names they read: globals, closure cells, defaults, imports, attributes. Each
name is a place on an object that is known, and what is found there leads on to other objects. A place is
fingerprinted when it is met, before the code that reads it runs.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import inspect
import operator
import sys
import types
from typing import Any

import numpy as np

from agog.staging import codes
from agog.staging.codes import DYNAMIC, answers_itself, is_agog, is_user_class, is_user_code, is_user_module
from agog.staging.state import (
    ABSENT,
    CONTAINERS,
    FIXED,
    MAX_STATE,
    NAMES,
    SIZE,
    Entry,
    Place,
    Refuse,
    Watched,
    fingerprint,
    is_tensor,
)
from agog.tape import Leaf

RAN = Place(None, None, "")
"""Marks, among the places, code that ran with its globals."""

_DULL = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__annotations__",
        "__slots__",
        "__qualname__",
        "__firstlineno__",
        "__static_attributes__",
        "__abstractmethods__",
        "_abc_impl",
    }
)


def _is_library_object(value: Any) -> bool:
    """Machinery of NumPy, of agog and of the import system: what it holds is not the user's state."""
    if isinstance(value, types.FunctionType):
        return not is_user_code(value.__code__.co_filename)
    cls = type(value)
    return cls.__module__.partition(".")[0] in _MACHINERY and getattr(cls, "__agog_watch__", None) is None


def _is_decimal(value: Any) -> bool:
    """The module, its classes and numbers: what these give depends on the thread's context."""
    if isinstance(value, types.ModuleType):
        return value.__name__ == "decimal"
    return (value if isinstance(value, type) else type(value)).__module__ == "decimal"


_MACHINERY = frozenset({"numpy", "agog", "inspect", "importlib", "_frozen_importlib", "_frozen_importlib_external"})


class _VirtualSubclasses:
    """What `isinstance` with abstract base classes depends on: it changes whenever a class is registered with one."""

    @property
    def token(self) -> Any:
        return abc.get_cache_token()


_VIRTUAL = _VirtualSubclasses()


class Reach:
    """Places, what they held, and the objects met on the way."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, Any], Place] = {}
        self.before: dict[tuple[int, Any], Any] = {}
        self.codes: dict[int, types.CodeType] = {}
        self.reason: str | None = None
        self.reached: dict[int, Any] = {}  # kept alive: what counts by identity must not be replaced unseen
        self.given: set[int] = set()  # containers of arguments: others may come with the next call
        self.volatile: set[tuple[int, Any]] = set()
        self.watched: dict[int, Watched] = {}  # objects that say themselves what to watch
        self._objects: dict[int, tuple[Any, str]] = {}
        self._attributes: set[str] = set()
        self._dynamic = False
        self.owners: dict[int, Any] = {}  # whose `__dict__` a dict is
        self._keep: list[Any] = []
        self._proxies: dict[type, Any] = {}
        self._known: set[int] = set()  # codes of functions whose closures are watched
        self._inner: set[int] = set()  # codes of functions that are made by code that ran
        self._flat: set[int] = set()  # dataclass arguments: what they hold is in the key, and differs from call to call
        self._agog: dict[int, tuple[types.ModuleType, str]] = {}

    def refuse(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason

    def enter(self, fn: Any) -> None:
        """A function that is about to be called: what it is made of."""
        while isinstance(fn, types.MethodType | functools.partial):
            if isinstance(fn, functools.partial):
                self._note_value((id(fn), "arguments"), (fn.args, fn.keywords), "an argument of the partial function")
                fn = fn.func
            else:
                self._note_objects({id(fn.__self__): fn.__self__}, "self")
                fn = fn.__func__
        if not isinstance(fn, types.FunctionType):
            self._note_objects({id(fn): fn}, type(fn).__name__)
            self._note_callable(fn)
            fn = getattr(type(fn), "__call__", None)  # noqa: B004
        if isinstance(fn, types.FunctionType):
            self._note_callable(fn)
            self._note_function(fn)

    def _note_function(self, fn: types.FunctionType) -> None:
        code = fn.__code__
        if is_agog(code.co_filename):
            return
        for attribute in ("__code__", "__defaults__", "__kwdefaults__"):
            self._note(Place(fn, attribute, f"{attribute} of {fn.__name__}"))
        if is_user_code(code.co_filename):
            self._note_code(code, fn.__globals__)

    # ------------------------------------------------------------------------------------------- names and objects
    def _note_code(self, code: types.CodeType, namespace: dict) -> None:
        """Code is about to run for the first time: what it reads is now as it was before."""
        if self.places.get((id(namespace), id(code))) is not None:
            return
        self.places[id(namespace), id(code)] = RAN
        self.codes[id(code)] = code
        names = codes.names(code)
        self._inner.update(map(id, names.inner))
        self._note_names(names.attributes, bool(names.globals & DYNAMIC))
        builtin = codes.builtins_of(namespace)
        for name in sorted(names.globals):  # (a set has another order in each process)
            self._note(Place(namespace, name, name))
            if name not in namespace and name in builtin:
                self._note(Place(builtin, name, name))
        for name, attribute, level in names.imports:
            full = codes.relative(name, level, namespace)
            self._note(Place(sys.modules, full, f"the import of {full}"))
            parts = full.split(".")
            for i in range(1, len(parts)):
                self._note(Place(sys.modules, ".".join(parts[:i]), f"the import of {full}"))
            if attribute is not None:
                self._note(Place(sys.modules, f"{full}.{attribute}", f"the import of {full}.{attribute}"))

    def _note_names(self, attributes: set[str], dynamic: bool) -> None:
        """Attributes that code names, from now on watched on all objects that are known."""
        if not self._dynamic and (dynamic or attributes & DYNAMIC):
            self._dynamic = True
            self._attributes |= attributes
            new = None
        else:
            new = attributes - self._attributes
            self._attributes |= attributes
            if not new:
                return
        for value, name in list(self._objects.values()):
            self._note_attributes(value, name, new)

    def _note_objects(self, seen: dict[int, Any], name: str) -> None:
        self.reached.update(seen)
        for value in list(seen.values()):
            if isinstance(value, types.FunctionType | types.MethodType):
                self._note_callable(value)
            if isinstance(value, abc.ABCMeta):
                self._note(Place(_VIRTUAL, "token", "the classes registered with abstract base classes"))
            if _is_decimal(value):
                self.refuse("it computes with decimal, whose context may change")
            if (
                id(value) in self._objects
                or isinstance(value, (*CONTAINERS, np.ndarray))
                and not is_user_class(type(value))
            ):
                continue
            if isinstance(value, FIXED) and not isinstance(value, type | types.ModuleType):
                continue
            if _is_library_object(value):
                continue
            if isinstance(value, operator.attrgetter | operator.methodcaller) and not self._dynamic:
                self._note_names(set(), True)
            if (
                is_tensor(value)
                or isinstance(value, Leaf)
                or isinstance(value, types.FunctionType)
                and not value.__dict__
            ):
                continue
            if isinstance(value, type) and not is_user_class(value) and not is_user_class(type(value)):
                continue
            name_of = value.__name__ if isinstance(value, type | types.ModuleType | types.FunctionType) else name
            self._objects[id(value)] = (value, name_of)
            if len(self._objects) > MAX_STATE // 10:
                self.refuse(f"{name} reaches more than {MAX_STATE // 10} objects with attributes")
                return
            self._note_attributes(value, name_of, None if self._dynamic else self._attributes)
            if not isinstance(value, type | types.ModuleType | types.FunctionType):
                cls = type(value)
                if is_user_class(cls):
                    self._note_objects({id(cls): cls}, cls.__name__)
                    if getattr(cls, "__agog_watch__", None) is None:
                        self._note(Place(value, "__class__", f"the class of {name}"))

    def _note_attributes(self, value: Any, name: str, wanted: Any) -> None:
        """Watch attributes of an object, a class, a module or a function: those named in `wanted`, or all (None)."""
        if isinstance(value, type):
            self._note_class(value, wanted)
            return
        if isinstance(value, types.ModuleType):
            self._note_module(value, wanted)
            return
        state = getattr(value, "__dict__", None)
        self.owners[id(state)] = value
        watch = getattr(type(value), "__agog_watch__", None)
        if watch is not None:
            token, entries = watch(value)
            new = id(value) not in self.watched
            if new:
                self.watched[id(value)] = Watched(value, token, name)
            if new and hasattr(value, "modules"):
                self._note_modules(list(value.modules()))
            for holder, key in entries:
                if wanted is None or key in wanted or key in holder.get("_rebound", ()):
                    self._note(Place(holder, key, f"{name}.{key}"))
            own = getattr(type(value), "__agog_own__", None)
            if own is not None and is_user_class(type(value)):  # it may be given attributes that are not there yet
                for key in sorted((self._attributes if wanted is None else wanted) - own):
                    self._note(Place(state, key, f"{name}.{key}"))
            for x in value.modules() if hasattr(value, "modules") else (value,):
                of: Any = type(x)
                for key in codes.cached_properties(of):  # they go around `__setattr__`
                    if wanted is None or key in wanted:
                        self._note(Place(x.__dict__, key, f"{name}.{key}"))
            return
        if id(value) in self._flat:
            self._flat.add(id(state))
        kind: Any = type(value)
        if answers_itself(kind):
            wanted = None
        if isinstance(state, dict):
            if wanted is None:
                self._note(Place(state, SIZE, f"the attributes of {name}"))
            for key in sorted(state.keys() | self._attributes if wanted is None else wanted, key=str):
                self._note(Place(state, key, f"{name}.{key}"))
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot.startswith("__") and not slot.endswith("__"):
                    slot = f"_{cls.__name__.lstrip('_')}{slot}"
                if slot not in ("__dict__", "__weakref__") and (wanted is None or slot in wanted):
                    self._note(Place(value, slot, f"{name}.{slot}"))

    def _note_modules(self, modules: list[Any]) -> None:
        """Layers: what the library calls of them, which no code of the user need name."""
        self.owners.update((id(m.__dict__), m) for m in modules)
        for base in dict.fromkeys(b for m in modules for b in type(m).__mro__ if "forward" in vars(b)):
            self._note_method(base, "forward")  # somebody may replace it, or a part of a layer of the library
        for m in modules:
            for f in [*m.__dict__.values(), *(hook for hooks in m._hooks or () for hook, _ in hooks)]:
                if isinstance(f, types.FunctionType):
                    self._note_callable(f)

    def _note_method(self, cls: type, name: str) -> None:
        """Watch what a class has under a name."""
        self._note(Place(self._proxies.setdefault(cls, vars(cls)), name, f"{cls.__name__}.{name}"))

    def _note_class(self, value: type, wanted: Any) -> None:
        """A class of the user: the attributes and methods that are named, special methods, whether any was added."""
        meta: type = type(value)
        for base in [*value.__mro__, *meta.__mro__]:
            if not is_user_class(base):
                continue
            proxy = self._proxies.setdefault(base, vars(base))
            if (id(proxy), NAMES) not in self.places:
                self._note(Place(proxy, NAMES, f"the attributes of {base.__name__}"))
                self._note(Place(base, "__mro__", f"the base classes of {base.__name__}"))
                for name, attribute in list(proxy.items()):
                    if (
                        name.startswith("__")
                        and name not in _DULL
                        and isinstance(attribute, types.FunctionType | property)
                    ):
                        self._note(Place(proxy, name, f"{base.__name__}.{name}"))
            for name in [n for n in proxy if n not in _DULL] if wanted is None else sorted(wanted & proxy.keys()):
                self._note(Place(proxy, name, f"{base.__name__}.{name}"))

    def _note_module(self, value: types.ModuleType, wanted: Any) -> None:
        """A module: the attributes that are named. Those of agog come at the end: many are made when first used."""
        names = vars(value)
        self.owners[id(names)] = value
        if value.__name__.partition(".")[0] == "agog":
            self._agog[id(value)] = (value, value.__name__)
            return
        if is_user_module(value):
            if wanted is None:
                self._note(Place(names, SIZE, f"the names of {value.__name__}"))
            for name in sorted(names.keys() | self._attributes if wanted is None else wanted):
                if not name.startswith("__"):
                    self._note(Place(names, name, f"{value.__name__}.{name}"))
        else:
            for name in sorted((self._attributes if wanted is None else wanted) & names.keys()):
                self._note(
                    Place(names, name, f"{value.__name__}.{name}"), explore=isinstance(names[name], types.ModuleType)
                )

    def finish(self) -> None:
        """Note what is read from agog's own modules, after the run: they make their names when these are first used."""
        done: set[int] = set()
        while todo := [v for v in self._agog.values() if id(v[0]) not in done]:
            for module, name in todo:
                done.add(id(module))
                for key in sorted(self._attributes & vars(module).keys()):
                    value = vars(module)[key]
                    if callable(value) and not isinstance(value, type) or isinstance(value, types.ModuleType):
                        place = Place(vars(module), key, f"{name}.{key}")
                        at = (id(place.holder), key)
                        if at not in self.places:
                            self.places[at], self.before[at] = place, fingerprint(value, None, place.name)
                        if isinstance(value, types.ModuleType) and value.__name__.startswith("agog."):
                            self._agog.setdefault(id(value), (value, value.__name__))

    def _note(self, place: Place, explore: bool = True) -> None:
        """Watch a place; `explore`: and, if it holds objects, what the code reads of them."""
        key = (id(place.holder), place.key)
        if key in self.places:
            return
        self.places[key] = place
        value = place.read()
        if value is sys.modules:
            self.refuse("it looks modules up in sys.modules; import them by name")
        if value is ABSENT:
            self.before[key] = fingerprint(value)
            return
        seen: dict[int, Any] = {}
        try:
            self.before[key] = fingerprint(value, seen, place.name)
        except Refuse as refusal:
            self.refuse(str(refusal))
            self.before[key] = None
        if id(place.holder) in self._flat:
            self.volatile.add(key)
            if isinstance(value, list | dict | tuple):
                self.given.update(k for k, v in seen.items() if isinstance(v, CONTAINERS))
            self._flat.update(k for k, v in seen.items() if dataclasses.is_dataclass(v))
            seen = {k: v for k, v in seen.items() if not is_tensor(v)}
        if explore and place.key != "__mro__":
            self._note_objects(seen, place.name)
        if explore:
            self._note_callable(value)

    def _note_value(self, key: Any, value: Any, name: str) -> None:
        holder = {"value": value}
        self._keep.append(holder)
        self._note(Place(holder, "value", name))

    def note_entry(self, holder: dict, key: str) -> None:
        """Watch one entry of a dict that Python is about to look at."""
        self._note(Entry(holder, key, key))

    def _note_callable(self, value: Any) -> None:
        """What a function closes over counts; so does the function inside a decorated, perhaps staged, one."""
        while True:
            if isinstance(value, staticmethod | classmethod):
                value = value.__func__
            elif isinstance(value, types.MethodType):
                value = value.__func__
            elif isinstance(value, property):
                for part in (value.fset, value.fdel):
                    if part is not None:
                        self._note_callable(part)
                value = value.fget
            else:
                self._note_closure(value)
                inner = None if isinstance(value, type) else inspect.getattr_static(value, "__wrapped__", None)
                if inner is None:
                    return
                if isinstance(inner, types.FunctionType) and not (
                        isinstance(value, types.FunctionType) and is_user_code(value.__code__.co_filename)):
                    self._note_function(inner)  # (its frame may not run: it may have been cached)
                value = inner

    def _note_closure(self, value: Any) -> None:
        if isinstance(value, types.FunctionType) and not is_agog(value.__code__.co_filename):
            if id(value) in self._known:
                return
            self._known.update((id(value), id(value.__code__)))
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
                self._note(Place(cell, None, name))
