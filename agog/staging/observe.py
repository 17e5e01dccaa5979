"""What a Python function reads and changes besides Tensors, seen without interpreting bytecode.

While a function is recorded, a profile hook notes every Python frame that runs and every call of a C function known to
be impure. From the code objects that ran follow the names they read: globals, closure cells, defaults, attributes. The
state behind these names is fingerprinted when a frame starts and again when the recording ends. What differs was
changed by the function (a side effect); what does not was at most read, and becomes a guard.
"""

from __future__ import annotations

import array
import collections
import contextvars
import dis
import functools
import inspect
import os
import random
import sys
import sysconfig
import threading
import types
import zlib
from typing import Any, Callable, Iterable

import numpy as np

from agog import config
from agog.array import dtypes
from agog.tape import Leaf

_LIBRARIES = tuple(os.path.normpath(p) + os.sep for p in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"),
                                                          sysconfig.get_path("purelib"), sysconfig.get_path("platlib")} if p)
_AGOG = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_FROZEN = ("<frozen", "<__array_function__", "<agog ")

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), np.dtype, np.generic, range,
          slice)
_FIXED = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, property, np.ufunc, staticmethod, classmethod,
          types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType, types.MethodDescriptorType,
          types.MethodWrapperType)
_CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)
_DYNAMIC = frozenset({"getattr", "setattr", "delattr", "hasattr", "vars", "dir"})
MAX_STATE = 20_000
MAX_ARRAY_BYTES = 16 << 20

_IMPURE_MODULES = {"time", "random", "_random", "io", "_io", "posix", "nt", "socket", "_socket", "select", "secrets",
                   "uuid", "_uuid", "subprocess", "signal", "_thread", "_datetime", "_curses", "readline", "_ssl", "mmap"}
_IMPURE_BUILTINS = {"print", "input", "open", "breakpoint", "exec", "eval", "globals", "setattr", "delattr"}
_HARMLESS = {("posix", "fspath"), ("_thread", "allocate_lock"), ("_thread", "get_ident"), ("_thread", "RLock"),
             ("time", "perf_counter_ns_"), ("nt", "fspath")}
_IMPURE_TYPES = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
_IMPURE_CLASS_NAMES = {"datetime", "date"}


def is_user_code(filename: str) -> bool:
    """True for code whose names are the user's: not agog, not the standard library, not an installed package."""
    if filename.startswith(_AGOG) or filename.startswith(_FROZEN):
        return False
    return not filename.startswith(_LIBRARIES)


@functools.lru_cache(maxsize=4096)
def is_user_class(cls: type) -> bool:
    """True for classes defined in the user's code."""
    module = sys.modules.get(cls.__module__)
    return cls is not object and (cls.__module__ == "__main__" or is_user_code(getattr(module, "__file__", None) or "<frozen"))


def is_tensor(x: Any) -> bool:
    return hasattr(type(x), "_node") and hasattr(type(x), "_data")


class Refuse(Exception):
    """State that cannot be watched; the message says which and why."""


# ------------------------------------------------------------------------------------------------ fingerprints
def fingerprint(value: Any, seen: dict[int, Any] | None = None, name: str = "") -> Any:
    """A comparable picture of plain mutable state: equal when nothing that matters changed.

    Lists, dicts, sets and small arrays count by their contents. Tensors count by identity (their values are the
    recorder's business), functions, classes, modules and ordinary objects too: the attributes of objects that code
    reads are watched one by one. `seen` collects every mutable object that was met, by id.

    Raises Refuse for what cannot be watched: live iterators, huge containers and arrays.
    """
    seen = {} if seen is None else seen
    if isinstance(value, _PLAIN):
        return (type(value), repr(value)) if isinstance(value, float | complex | np.generic) else (type(value), value)
    key = id(value)
    if key in seen:
        return ("again", key)
    seen[key] = value
    if len(seen) > MAX_STATE:
        raise Refuse(f"{name or 'its state'} reaches more than {MAX_STATE} objects; pass less, or keep it in Tensors")
    if is_tensor(value):
        return ("tensor", key)
    if isinstance(value, np.ndarray):
        if value.nbytes > MAX_ARRAY_BYTES:
            raise Refuse(f"{name or 'an array'} is a NumPy array of {value.nbytes >> 20} MB; make it a Tensor, "
                         "or pass it as an argument")
        data = np.ascontiguousarray(value)
        body: Any = [fingerprint(x, seen, name) for x in value.flat] if value.dtype.hasobject else \
            zlib.crc32(data.view(np.uint8).reshape(-1).data if data.size else b"")
        return ("array", key, value.shape, value.dtype.str, body)
    if isinstance(value, _IMPURE_TYPES):
        return ("generator", key, _state(value))
    if isinstance(value, bytearray | array.array | memoryview):
        return (type(value), key, bytes(value))
    if isinstance(value, list | tuple | collections.deque):
        return (type(value), key if not isinstance(value, tuple) else None, [fingerprint(v, seen, name) for v in value])
    if isinstance(value, dict):
        return (type(value), key, [(_key(k), fingerprint(v, seen, f"{name}[{k!r}]")) for k, v in list(value.items())])
    if isinstance(value, set | frozenset):
        return (type(value), key, sorted((repr(_key(v)) for v in value)))
    if isinstance(value, types.FunctionType) and not is_user_code(value.__code__.co_filename):
        return ("function", key, id(value.__code__))
    if isinstance(value, types.FunctionType):
        return ("function", key, id(value.__code__), fingerprint(value.__defaults__, seen, name),
                fingerprint(value.__kwdefaults__, seen, name), fingerprint(value.__dict__ or None, seen, name),
                [_cell(c, seen, name) for c in value.__closure__ or ()])
    if isinstance(value, functools.partial):
        return ("partial", key, [fingerprint(v, seen, name) for v in (value.func, value.args, value.keywords)])
    if isinstance(value, threading.local):
        raise Refuse(f"{name or 'it'} differs from thread to thread (threading.local)")
    if isinstance(value, types.MethodType):
        return ("method", id(value.__func__), fingerprint(value.__self__, seen, name))
    if isinstance(value, _FIXED):
        return ("fixed", key)
    if isinstance(value, Leaf):
        return ("leaf", key)
    if hasattr(type(value), "__next__"):
        raise Refuse(f"{name or 'it'} is an iterator ({type(value).__name__}); what it gives next cannot be known beforehand")
    return ("object", key, id(type(value)))


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


def _key(k: Any) -> Any:
    return (type(k), k) if isinstance(k, _PLAIN) else ("id", id(k))


def changed(before: Any, after: Any) -> bool:
    """True when two fingerprints differ."""
    return before != after


# ------------------------------------------------------------------------------------------- watching a recording
class Place:
    """Where a value was read from: a dict entry (globals, attributes) or a closure cell. It can be read again."""

    __slots__ = ("holder", "key", "name")

    def __init__(self, holder: Any, key: Any, name: str):
        self.holder, self.key, self.name = holder, key, name

    def read(self) -> Any:
        holder, key = self.holder, self.key
        if type(holder) is dict:
            return holder.get(key, _ABSENT)
        if isinstance(holder, types.CellType):
            try:
                return holder.cell_contents
            except ValueError:
                return _ABSENT
        return getattr(holder, key, _ABSENT)


class _Absent:
    def __repr__(self) -> str:
        return "<absent>"


_ABSENT = _Absent()


class Watch:
    """Notes frames and impure calls while active, and the state that those frames could reach when they began."""

    def __init__(self) -> None:
        self.places: dict[tuple[int, Any], Place] = {}
        self.before: dict[tuple[int, Any], Any] = {}
        self.codes: set[types.CodeType] = set()
        self.reason: str | None = None
        self.arguments: list[tuple[str, Any, Any]] = []
        self.reached: set[int] = set()
        self.volatile: set[tuple[int, Any]] = set()
        self.watched: dict[int, tuple[Any, Any, str]] = {}  # objects that say themselves what to watch
        self._objects: dict[int, tuple[Any, str]] = {}
        self._new: dict[int, Any] = {}
        self._attributes: set[str] = set()
        self._dynamic = False
        self._random: Any = None
        self._keep: list[Any] = []
        self._active = False

    # the roots of a call: the function itself and its arguments
    def start(self, fn: Callable[..., Any], arguments: Iterable[tuple[str, Any]]) -> None:
        """Begin watching; `arguments` are (name, value) pairs of everything that is not a Tensor."""
        self._random = (random.getstate(), _numpy_random())
        for name, value in arguments:
            seen: dict[int, Any] = {}
            try:
                self.arguments.append((name, value, fingerprint(value, seen, name)))
            except Refuse as refusal:
                self.refuse(f"argument {refusal}")
            self._note_objects(seen, name)
            self._note_callable(value)
        self._note(Place(vars(dtypes), "_default_float", "the default float"))
        self._enter_function(fn)
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Stream(self, sys.stdout, "stdout"), _Stream(self, sys.stderr, "stderr")
        self._before_profile = sys.getprofile()
        self._active = True
        sys.setprofile(self._profile)

    def stop(self) -> None:
        """End watching (also after an exception)."""
        if self._active:
            sys.setprofile(self._before_profile)
            self._active = False
            if isinstance(sys.stdout, _Stream):
                sys.stdout = self._streams[0]
            if isinstance(sys.stderr, _Stream):
                sys.stderr = self._streams[1]

    def refuse(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason

    def _enter_function(self, fn: Any) -> None:
        while isinstance(fn, types.MethodType | functools.partial):
            if isinstance(fn, functools.partial):
                self._note_value((id(fn), "arguments"), (fn.args, fn.keywords), "an argument of the partial function")
                fn = fn.func
            else:
                self._note_objects({id(fn.__self__): fn.__self__}, "self")
                fn = fn.__func__
        if not isinstance(fn, types.FunctionType):
            self._note_objects({id(fn): fn}, type(fn).__name__)
            fn = getattr(type(fn), "__call__", None)
        if isinstance(fn, types.FunctionType):
            self._note_function(fn)

    def _note_function(self, fn: types.FunctionType) -> None:
        code = fn.__code__
        if not is_user_code(code.co_filename):
            return
        for name, cell in zip(code.co_freevars, fn.__closure__ or ()):
            self._note(Place(cell, None, name))
        for attribute in ("__code__", "__defaults__", "__kwdefaults__"):
            self._note(Place(fn, attribute, f"{attribute} of {fn.__name__}"))
        self._note_code(code, fn.__globals__)

    def _note_code(self, code: types.CodeType, namespace: dict) -> None:
        """Code is about to run for the first time: what it reads is now as it was before."""
        if code in self.codes:
            return
        self.codes.add(code)
        globals_read, attributes = _global_names(code), _attribute_names(code)
        if not self._dynamic and (globals_read & _DYNAMIC or "__dict__" in attributes):
            self._dynamic = True
            new = None
        else:
            new = attributes - self._attributes
        self._attributes |= attributes
        for value, name in list(self._objects.values()):
            self._note_attributes(value, name, new)
        for name in globals_read:
            if name in namespace:
                self._note(Place(namespace, name, name))
                value = namespace[name]
                if isinstance(value, types.ModuleType) and not value.__name__.partition(".")[0] == "agog":
                    own = is_user_code(getattr(value, "__file__", None) or "<frozen")
                    for attribute in attributes & vars(value).keys():
                        if own or not callable(vars(value)[attribute]):
                            self._note(Place(vars(value), attribute, f"{name}.{attribute}"))
            elif not hasattr(_builtins(namespace), name):
                self._note(Place(namespace, name, name))  # absent now; it could appear

    def _note_objects(self, seen: dict[int, Any], name: str) -> None:
        self.reached.update(seen)
        for value in list(seen.values()):
            if id(value) in self._objects or isinstance(value, (*_FIXED, *_CONTAINERS, np.ndarray, types.FunctionType)):
                continue
            if is_tensor(value) or isinstance(value, Leaf):
                continue
            self._objects[id(value)] = (value, name)
            if len(self._objects) > MAX_STATE // 10:
                self.refuse(f"{name} reaches more than {MAX_STATE // 10} objects with attributes")
                return
            self._note_attributes(value, name, None if self._dynamic else self._attributes)
            self._note_class(value)

    def _note_attributes(self, value: Any, name: str, wanted: Any) -> None:
        """Watch attributes of an object: those named in `wanted`, or all (None)."""
        watch = getattr(type(value), "__agog_watch__", None)
        if watch is not None:
            token, entries = watch(value)
            self.watched.setdefault(id(value), (value, token, name))
            for holder, key in entries:
                if wanted is None or key in wanted:
                    self._note(Place(holder, key, f"{name}.{key}"))
            return
        state = getattr(value, "__dict__", None)
        if _answers_itself(type(value)):
            wanted = None
        if isinstance(state, dict):
            every = state.keys() | {k for c in type(value).__mro__ if is_user_class(c) for k in vars(c)}
            for key in sorted(every, key=str) if wanted is None else wanted:
                self._note(Place(state, key, f"{name}.{key}"))
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__") and (wanted is None or slot in wanted):
                    self._note(Place(value, slot, f"{name}.{slot}"))

    def _note(self, place: Place) -> None:
        key = (id(place.holder), place.key)
        if key in self.places:
            return
        self.places[key] = place
        value = place.read()
        if value is _ABSENT:
            self.before[key] = fingerprint(value)
            return
        seen: dict[int, Any] = {}
        try:
            self.before[key] = fingerprint(value, seen, place.name)
        except Refuse as refusal:
            self.refuse(str(refusal))
            self.before[key] = None
        self._note_objects(seen, place.name)
        self._note_callable(value)
        if isinstance(value, type):
            self._note_class(value)

    def _note_value(self, key: Any, value: Any, name: str) -> None:
        holder = {"value": value}
        self._keep.append(holder)
        self._note(Place(holder, "value", name))

    def _note_callable(self, value: Any) -> None:
        while (inner := inspect.getattr_static(value, "__wrapped__", None)) is not None and not isinstance(value, type):
            value = inner  # a decorated, perhaps staged, function: what it closes over counts
        if isinstance(value, types.FunctionType) and is_user_code(value.__code__.co_filename):
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
                self._note(Place(cell, None, name))

    def _note_class(self, value: Any) -> None:
        """Class attributes and methods of a user's object can be replaced; they are read through its class."""
        cls = value if isinstance(value, type) else type(value)
        for base in cls.__mro__:
            if not is_user_class(base):
                continue
            for name, attribute in list(vars(base).items()):
                if name in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__slots__", "__qualname__"):
                    continue
                key = (id(base), name)
                if key not in self.places:
                    self.places[key] = Place(base, name, f"{base.__name__}.{name}")
                    try:
                        self.before[key] = fingerprint(getattr(base, name, _ABSENT), None, f"{base.__name__}.{name}")
                    except Refuse as refusal:
                        self.refuse(str(refusal))
                        self.before[key] = None

    # ------------------------------------------------------------------------------------------ the hook
    def _profile(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code is config.ENVIRONMENT_READER and _from_user(frame):
                self.refuse("it reads an environment variable")
            if not is_user_code(code.co_filename) or config.modes.recorder is None:
                return
            if frame.f_globals.get("__name__", "").startswith("namedtuple_"):
                return
            if code.co_flags & inspect.CO_GENERATOR and code not in self.codes and frame.f_lasti > _generator_start(code):
                self.refuse(f"the generator {code.co_name} was started outside")
            if code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
                self.refuse(f"{code.co_name} is a coroutine")
            self._note_code(code, frame.f_globals)
            for name in code.co_freevars:
                if name in frame.f_locals:
                    self._note_local(frame, name)
            if code.co_argcount and code.co_varnames[0] in ("self", "cls"):
                owner = frame.f_locals.get(code.co_varnames[0], _ABSENT)
                if owner is _ABSENT or is_tensor(owner) or id(owner) in self._objects or id(owner) in self._new:
                    return
                if code.co_name == "__init__" and not getattr(owner, "__dict__", None):
                    self._new[id(owner)] = owner  # made here: what happens to it is no side effect
                else:
                    self._note_objects({id(owner): owner}, code.co_varnames[0])
        elif event == "c_call":
            self._c_call(frame, arg)

    def _note_local(self, frame: types.FrameType, name: str) -> None:
        # The cell itself is out of reach from a frame; its content is watched for change by identity of what it holds.
        value = frame.f_locals[name]
        if isinstance(value, list | dict | set | np.ndarray) or (hasattr(value, "__dict__") and not callable(value)):
            self._note_value(("free", id(value)), value, name)

    def _c_call(self, frame: types.FrameType, fn: Any) -> None:
        if self.reason is not None or not _from_user(frame):
            return
        name = getattr(fn, "__name__", "")
        module = getattr(fn, "__module__", None) or ""
        owner = getattr(fn, "__self__", None)
        if module == "builtins" and name in _IMPURE_BUILTINS:
            if name in ("setattr", "delattr", "exec", "eval", "globals"):
                return  # their effects are seen in the state
            self.refuse(f"it calls {name}()")
        elif isinstance(owner, _IMPURE_TYPES):
            self.refuse(f"it draws from {type(owner).__module__}.{type(owner).__name__}.{name}; use agog.random")
        elif isinstance(owner, type) and owner.__name__ in _IMPURE_CLASS_NAMES and name in ("now", "today", "utcnow"):
            self.refuse(f"it calls {owner.__name__}.{name}()")
        elif module in _IMPURE_MODULES and (module, name) not in _HARMLESS:
            self.refuse(f"it calls {module}.{name}()")
        elif isinstance(owner, contextvars.ContextVar):
            self.refuse(f"it reads the context variable {owner.name}")
        elif module == "_thread" and name == "get_ident" and is_user_code(frame.f_code.co_filename):
            self.refuse("it asks which thread it runs in")
        elif owner is not None and type(owner).__module__ in ("_io", "io") and not isinstance(owner, _Stream):
            self.refuse(f"it uses a file ({type(owner).__name__}.{name})")

    def around_effect(self) -> Callable[[], None]:
        """Call before a staged effect is delivered, and the result after it: what only the effect changes is its own."""
        same = [k for k, place in self.places.items() if self._now(place) == self.before[k]]

        def after() -> None:
            for k in same:
                place = self.places[k]
                now = self._now(place)
                if now != self.before[k] and not any(_loads(code, place.name) for code in self.codes):
                    self.before[k] = now
                    self.volatile.add(k)

        return after

    @staticmethod
    def _now(place: Place) -> Any:
        try:
            return fingerprint(place.read(), None, place.name)
        except Refuse:
            return None

    # -------------------------------------------------------------------------------------------- the verdict
    def side_effect(self) -> str | None:
        """What changed besides Tensors, in words; None when nothing did."""
        if self.reason is not None:
            return self.reason
        for key, place in self.places.items():
            before = self.before[key]
            try:
                after = fingerprint(place.read(), None, place.name)
            except Refuse as refusal:
                return str(refusal)
            if before != after:
                return f"it changes {place.name}"
        for name, value, before in self.arguments:
            if fingerprint(value, None, name) != before:
                return f"it changes its argument {name}"
        for value, token, name in self.watched.values():
            if value.__agog_watch__()[0] != token:
                return f"it changes {name}"
        state = (random.getstate(), _numpy_random())
        if state[0] != self._random[0] or not _same_random(state[1], self._random[1]):
            return "it draws random numbers from Python's or NumPy's generator; use agog.random"
        return None


@functools.lru_cache(maxsize=4096)
def _answers_itself(cls: type) -> bool:
    """True for classes that compute attributes or items: which of their own they read for that is not in the user's code."""
    return any({"__getattr__", "__getattribute__", "__getitem__"} & vars(base).keys() for base in cls.__mro__
               if base is not object and base.__module__ != "builtins")


def _from_user(frame: types.FrameType | None) -> bool:
    """True when the call comes from user code, directly or through a library function (`random.choice`, `logging`)."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_AGOG):
            return False
        if is_user_code(name):
            return True
        frame = frame.f_back
    return False


def _loads(code: types.CodeType, name: str) -> bool:
    """Whether `code` itself (not a function inside it) reads the variable."""
    return any(i.argval == name and i.opname.startswith(("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF"))
               for i in dis.get_instructions(code))


def _builtins(namespace: dict) -> Any:
    found = namespace.get("__builtins__")
    return found if isinstance(found, types.ModuleType) else types.SimpleNamespace(**(found or {}))


@functools.lru_cache(maxsize=4096)
def _generator_start(code: types.CodeType) -> int:
    """Where the frame of a generator stands that was made and not yet started."""
    return next((i.offset for i in dis.get_instructions(code) if i.opname == "RESUME"), 0)


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> frozenset[str]:
    """Names that `code`, and functions defined inside it, read or write as globals."""
    return _names(code, ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"))


@functools.lru_cache(maxsize=4096)
def _attribute_names(code: types.CodeType) -> frozenset[str]:
    """Names that `code`, and functions defined inside it, read or write as attributes."""
    return _names(code, ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER_ATTR"))


def _names(code: types.CodeType, opcodes: tuple[str, ...]) -> frozenset[str]:
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in opcodes}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _names(const, opcodes)
    return frozenset(names)


def _numpy_random() -> Any:
    if "numpy.random" not in sys.modules:
        return None
    return np.random.get_state(legacy=True)


def _same_random(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return bool(a[0] == b[0] and a[2:] == b[2:] and (a[1] == b[1]).all())


class _Stream:
    """Stands in for stdout or stderr during a recording: writing is a side effect, and still happens once."""

    def __init__(self, watch: Watch, stream: Any, name: str):
        self._watch, self._stream, self._name, self._thread = watch, stream, name, threading.get_ident()

    def write(self, text: str) -> Any:
        if threading.get_ident() == self._thread:
            self._watch.refuse(f"it writes to {self._name} (print); use ag.print to print from a staged function")
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
