"""What can be known of code before and while it runs: whose it is, and which names it reads."""

from __future__ import annotations

import dis
import functools
import os
import sys
import sysconfig
import types
from typing import Any

_LIBRARIES = tuple(
    os.path.normpath(p) + os.sep
    for p in {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    }
    if p
)
AGOG = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_FROZEN = ("<frozen", "<__array_function__", "<agog ")

DYNAMIC = frozenset(
    {
        "getattr",
        "setattr",
        "delattr",
        "hasattr",
        "vars",
        "dir",
        "attrgetter",
        "methodcaller",
        "deepcopy",
        "copy",
        "asdict",
        "astuple",
        "__dict__",
        "__getstate__",
        "__reduce__",
        "__getattribute__",
        "getattr_static",
        "getmembers",
        "pickle",
        "dumps",
    }
)
"""Names whose use means that attributes may be read which no code names."""


def is_agog(filename: str) -> bool:
    return filename.startswith((AGOG, "<agog "))


def is_user_code(filename: str) -> bool:
    """True for code whose names are the user's: not agog, not the standard library, not an installed package."""
    if filename.startswith(AGOG) or filename.startswith(_FROZEN):
        return False
    return not filename.startswith(_LIBRARIES)


def is_user_module(module: types.ModuleType) -> bool:
    """True for modules of the user, also those without a file."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return is_user_code(file)
    return module.__name__.partition(".")[0] not in sys.stdlib_module_names


def is_user_class(cls: type) -> bool:
    """True for classes defined in the user's code."""
    return _is_user_class(cls)


@functools.lru_cache(maxsize=4096)
def _is_user_class(cls: type) -> bool:
    if cls is object or cls.__module__ in ("typing", "abc", "enum", "collections"):
        return False
    module = sys.modules.get(cls.__module__)
    if module is None or cls.__module__ == "__main__":
        return True
    if isinstance(getattr(module, "__file__", None), str):
        return is_user_code(module.__file__)  # type: ignore[arg-type]
    return any(isinstance(v, types.FunctionType) and is_user_code(v.__code__.co_filename) for v in vars(cls).values())


@functools.lru_cache(maxsize=4096)
def answers_itself(cls: Any) -> bool:
    """True for classes that compute attributes or items: what they read for that is not in the user's code."""
    return any(
        {"__getattr__", "__getattribute__", "__getitem__"} & vars(base).keys()
        for base in cls.__mro__
        if base is not object and base.__module__ != "builtins"
    )


@functools.lru_cache(maxsize=4096)
def cached_properties(cls: Any) -> tuple[str, ...]:
    """The names under which instances of a class keep what they have computed once."""
    bases = [base for base in cls.__mro__ if is_user_class(base)]
    return tuple({k: 0 for b in bases for k, v in vars(b).items() if isinstance(v, functools.cached_property)})


def from_user(frame: types.FrameType | None) -> bool:
    """True when the call comes from user code, directly or through a library function (`random.choice`, `logging`)."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(AGOG):
            return False
        if is_user_code(name):
            return True
        frame = frame.f_back
    return False


# (the last of the first line is what class bodies and annotations have since Python 3.12)
_LOADS = ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_",
          "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
_STORES = ("STORE_DEREF", "STORE_GLOBAL", "STORE_NAME", "STORE_ATTR", "DELETE_")
_CHANGING = {"append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "popitem", "remove", "clear",
             "update", "setdefault", "add", "discard", "sort", "reverse", "rotate", "subtract", "fill", "put", "resize",
             "intersection_update", "difference_update", "symmetric_difference_update", "__setitem__", "__setattr__",
             "__delitem__", "setattr", "delattr", "setitem", "move_to_end"}


class Uses:
    """The variables and attributes that `code` itself (not a function inside it) loads, those that it binds or deletes,
    and whether it may change a container."""

    __slots__ = ("loads", "binds", "changes")

    def __init__(self, code: types.CodeType):
        instructions = list(dis.get_instructions(code))
        self.loads = {i.argval for i in instructions if i.opname.startswith(_LOADS)}
        self.binds = {i.argval for i in instructions if i.opname.startswith(_STORES)}
        self.changes = bool(self.loads & _CHANGING) or any(
            i.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE") for i in instructions)


@functools.lru_cache(maxsize=4096)
def _uses(key: int, code: types.CodeType) -> Uses:
    return Uses(code)


def uses(code: types.CodeType) -> Uses:
    """What `code` itself does with names; codes that are equal and yet two are kept apart."""
    return _uses(id(code), code)


def builtins_of(namespace: dict) -> dict:
    """The dict of built-in names that code with these globals sees."""
    found = namespace.get("__builtins__")
    return vars(found) if isinstance(found, types.ModuleType) else found if isinstance(found, dict) else {}


@functools.lru_cache(maxsize=4096)
def generator_start(code: types.CodeType) -> int:
    """Where the frame of a generator stands that was made and not yet started."""
    return next((i.offset for i in dis.get_instructions(code) if i.opname == "RESUME"), 0)


class Names:
    """The names that a code object, and the functions defined inside it, read or write."""

    __slots__ = ("globals", "attributes", "imports", "inner")

    def __init__(self, code: types.CodeType):
        self.globals: set[str] = set()
        self.attributes: set[str] = set()
        self.imports: list[tuple[str, str | None, int]] = []  # module, name taken from it, level
        self.inner: set[types.CodeType] = set()
        self._scan(code)

    def _scan(self, code: types.CodeType) -> None:
        module, level = "", 0
        before: list[Any] = []
        for i in dis.get_instructions(code):
            op, value = i.opname, i.argval
            if op in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"):
                self.globals.add(value)
            elif op in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER_ATTR"):
                self.attributes.add(str(value))
            elif op == "IMPORT_NAME":
                level = before[-2] if len(before) > 1 and isinstance(before[-2], int) else 0
                module = value
                self.imports.append((module, None, level))
            elif op == "IMPORT_FROM":
                self.imports.append((module, value, level))
                self.attributes.add(value)
            elif op == "MATCH_CLASS" and before and type(before[-1]) is tuple:  # case Point(x=0)
                self.attributes.update(before[-1])
            before = [*before[-1:], value]
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                self.inner.add(const)
                self._scan(const)


@functools.lru_cache(maxsize=4096)
def _names(key: int, code: types.CodeType) -> Names:
    return Names(code)


def names(code: types.CodeType) -> Names:
    """The names of `code`; codes that are equal and yet two are kept apart."""
    return _names(id(code), code)


def relative(name: str, level: int, namespace: dict) -> str:
    """The full name of an imported module."""
    if level <= 0:
        return name
    package = namespace.get("__package__") or ""
    base = package.rsplit(".", level - 1)[0] if level > 1 else package
    return f"{base}.{name}" if name else base


def describe(value: Any) -> str:
    """A short name of a value, for reasons."""
    return getattr(value, "__qualname__", None) or type(value).__name__
