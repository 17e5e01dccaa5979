"""Whose identity code asks for with `id(x)` and `hash(x)`: the number that comes of it says which object it was.

An argument is another Tensor at each call, whatever a recording has made of that number. What is asked for can be read
from the instructions in front of the call, where it is a variable or an attribute of one.
"""

from __future__ import annotations

import dis
import functools
import types
from typing import Any

UNKNOWN = object()


@functools.lru_cache(maxsize=1024)
def _asked(key: int, code: types.CodeType, at: int) -> tuple[str, ...] | None:
    """The variable, and the attributes of it, that are the one argument of the call at this offset."""
    before = [i for i in dis.get_instructions(code) if i.offset < at and i.opname not in ("PRECALL", "CACHE", "NOP")]
    names: list[str] = []
    for n, i in enumerate(reversed(before)):
        if i.opname == "LOAD_ATTR":
            names.append(i.argval)
        elif i.opname in ("LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME"):
            if n + 2 > len(before):
                return None
            function = before[-n - 2]  # (from Python 3.13 on, PUSH_NULL stands between)
            if function.opname == "PUSH_NULL" and n + 3 <= len(before):
                function = before[-n - 3]
            if function.opname not in ("LOAD_GLOBAL", "LOAD_NAME") or function.argval not in ("id", "hash"):
                return None
            return i.argval, *reversed(names)
        else:
            return None
    return None


def asked(frame: types.FrameType) -> Any:
    """The object whose identity the call asks for that this frame is about to make, or UNKNOWN."""
    found = _asked(id(frame.f_code), frame.f_code, frame.f_lasti)
    if found is None:
        return UNKNOWN
    name, *attributes = found
    value = frame.f_locals.get(name, frame.f_globals.get(name, UNKNOWN))
    for attribute in attributes:
        value = getattr(value, "__dict__", {}).get(attribute, UNKNOWN)
    return value


@functools.lru_cache(maxsize=1024)
def _handed_on(key: int, code: types.CodeType) -> bool:
    return any(i.argval == "id" and i.opname in ("LOAD_GLOBAL", "LOAD_NAME") and "NULL" not in i.argrepr
               for i in dis.get_instructions(code))


def handed_on(code: types.CodeType) -> bool:
    """Whether code takes the function `id` and does not call it itself: `map(id, xs)`, `sorted(xs, key=id)`."""
    return _handed_on(id(code), code)
