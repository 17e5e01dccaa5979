"""What a Python function reads and changes besides Tensors, seen without interpreting bytecode.

While a function is recorded, a profile hook notes every Python frame that runs and every call of a C function known to
be impure. The state behind the names that those frames read (`reach`) is fingerprinted when a frame starts and again
when the recording ends. What differs was changed by the function (a side effect); what does not was at most read, and
becomes a guard.
"""

from __future__ import annotations

import contextvars
import dataclasses
import gc
import inspect
import io
import random
import sys
import threading
import types
from typing import Any, Callable, Iterable

import numpy as np

from agog import config, tree
from agog.array import dtypes
from agog.staging import codes
from agog.staging.codes import DYNAMIC, from_user, is_agog, is_user_class, is_user_code
from agog.staging.identity import UNKNOWN, asked, handed_on
from agog.staging.reach import RAN, Reach
from agog.staging.rebinding import (
    FOLLOWED,
    Rebinding,
    at,
    changes,
    entries_held,
    has_tensors,
    holes_of,
    is_value,
    value_of,
    writable,
)
from agog.staging.state import (
    ABSENT,
    CONTAINERS,
    FIXED,
    IMPURE_TYPES,
    NONE,
    PLAIN,
    Entry,
    Place,
    Refuse,
    Seen,
    Watched,
    fingerprint,
    is_tensor,
)
from agog.tape import Leaf

_IMPURE_MODULES = {
    "time",
    "random",
    "_random",
    "io",
    "_io",
    "posix",
    "nt",
    "socket",
    "_socket",
    "select",
    "secrets",
    "uuid",
    "_uuid",
    "subprocess",
    "signal",
    "_signal",
    "_thread",
    "_datetime",
    "_curses",
    "readline",
    "_ssl",
    "mmap",
    "_warnings",
    "_queue",
    "_posixsubprocess",
    "_sqlite3",
    "sqlite3",
    "faulthandler",
    "_asyncio",
    "_interpreters",
    "fcntl",
    "termios",
    "syslog",
}
_IMPURE_BUILTINS = {"print", "input", "open", "breakpoint", "globals"}
_IMPURE_SYS = {
    "_getframe",
    "getrefcount",
    "settrace",
    "setprofile",
    "gettrace",
    "getswitchinterval",
    "exit",
    "setrecursionlimit",
    "audit",
    "_current_frames",
    "intern_",
}
_HARMLESS = {
    ("posix", "fspath"),
    ("_thread", "allocate_lock"),
    ("_thread", "get_ident"),
    ("_thread", "RLock"),
    ("time", "perf_counter_ns_"),
    ("nt", "fspath"),
    ("_signal", "default_int_handler"),
}
_IMPURE_CLASS_NAMES = {"datetime", "date"}
_KNOWN_OWNERS: tuple[type, ...] = (
    *PLAIN,
    *FIXED,
    *CONTAINERS,
    np.ndarray,
    bytearray,
    types.FunctionType,
    types.MethodType,
    types.GeneratorType,
    BaseException,
    type(iter([])),
    type(iter(())),
    type(iter({})),
    super,
    Leaf,
)
_KNOWN_MODULES = (
    "builtins",
    "numpy",
    "collections",
    "re",
    "_struct",
    "functools",
    "datetime",
    "decimal",
    "itertools",
    "_operator",
    "operator",
    "weakref",
    "_weakref",
    "types",
    "_abc",
    "string",
    "_thread",
    "threading",
    "contextvars",
    "_contextvars",
    "ml_dtypes",
    "_collections",
    "fractions",
    "enum",
    "array",
    "typing",
    "unicodedata",
)


DEFAULT_FLOAT = Place(vars(dtypes), "_default_float", "the default float")

_DEFAULTS = ("__defaults__", "__kwdefaults__")

_MOMENTS = frozenset({"state", "state_dict"})
"""Attributes by which code may see what an optimizer keeps of its parameters."""


def restore_profile(before: Any) -> None:
    """Give the thread the profiler back that it had; one written in C (cProfile) is an object to be enabled again."""
    if before is None or callable(before):
        sys.setprofile(before)
    else:
        sys.setprofile(None)
        before.enable()


def _name(place: Place) -> Any:
    """The variable or attribute whose value the place is."""
    return place.name if place.key is None else place.key


class Watch(Reach):
    """Notes frames and impure calls while active, and the state that those frames could reach when they began."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[tuple[str, Any, Any]] = []
        self.rebindings: list[Rebinding] = []
        self.held: dict[tuple[int, Any], tuple[Place, Any]] = {}  # with the Tensors that were there before
        self.free: set[int] = set()  # arguments whose contents do not matter
        self.tensors: list[Any] = []  # the arguments that are Tensors
        self._identified: dict[int, Any] = {}  # whose identity code has asked for
        self.holes: dict[int, set[Any]] = {}
        self._new: dict[int, Any] = {}
        self._methods: set[int] = set()  # codes of methods that have begun
        self._random: Any = None
        self._active = self._collects = self._asked = False
        self.turns: Any = None  # what follows the loops of the frames that run
        self._effects: list[tuple[list[types.CodeType], Any]] = []  # what ran in each, and whose method it was
        self._loosened: list[Place] = []  # that effects changed while nothing had read them

    # the roots of a call: the function itself and its arguments
    def start(self, fn: Callable[..., Any], arguments: Iterable[tuple[str, Any]]) -> None:
        """Begin watching; `arguments` are (name, value) pairs of everything that is not a Tensor.

        The garbage collector waits, until `collect` is called: what the finalizers of others do is not done by the
        function.
        """
        self._collects = gc.isenabled()
        gc.disable()
        self._random = (random.getstate(), _numpy_random())
        for name, value in arguments:
            seen: dict[int, Any] = {}
            try:
                self.arguments.append((name, value, fingerprint(value, seen, name)))
            except Refuse as refusal:
                self.refuse(f"argument {refusal}")
            if isinstance(value, list | dict | tuple):
                self.given.update(k for k, v in seen.items() if isinstance(v, CONTAINERS))
            self._flat.update(k for k, v in seen.items() if dataclasses.is_dataclass(v))
            self._note_objects({k: v for k, v in seen.items() if not is_tensor(v)}, name)
            self._note_callable(value)
        self._note(DEFAULT_FLOAT)
        self.enter(fn)
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Stream(self, sys.stdout, "stdout"), _Stream(self, sys.stderr, "stderr")
        self._before_profile = sys.getprofile()
        self._active, dtypes.asked = True, False
        sys.setprofile(self._profile)

    def mute(self) -> None:
        """What is written to stdout and stderr from now on is noticed, and not seen."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Stream):
                stream._stream = io.StringIO()

    def restore_random(self) -> None:
        """Put Python's and NumPy's generators back to where they were."""
        random.setstate(self._random[0])
        if self._random[1] is not None:
            np.random.set_state(self._random[1])

    def collect(self) -> None:
        """Let the garbage collector go on (also after an exception)."""
        if self._collects:
            gc.enable()
            self._collects = False

    def stop(self) -> None:
        """End watching (also after an exception)."""
        if self._active:
            restore_profile(self._before_profile)
            self._active, self._asked = False, dtypes.asked
            if isinstance(sys.stdout, _Stream):
                sys.stdout = self._streams[0]
            elif sys.stdout is not self._streams[0]:
                self.refuse("it replaces sys.stdout")
            if isinstance(sys.stderr, _Stream):
                sys.stderr = self._streams[1]

    # ------------------------------------------------------------------------------------------ the hook
    def _profile(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if event == "call":
            code = frame.f_code
            filename = code.co_filename
            if filename == "<string>":  # a method that `dataclasses` or `collections` wrote
                filename = frame.f_globals.get("__file__") or filename
            if code is config.ENVIRONMENT_READER and from_user(frame):
                self.refuse("it reads an environment variable")
            if not is_user_code(filename):
                if not is_agog(filename) and id(code) not in self.codes and from_user(frame.f_back):
                    self.codes[id(code)] = (
                        code  # a library function that the user's code calls may read the user's objects
                    )
                    names = codes.names(code)
                    self._note_names(names.attributes, bool(names.globals & DYNAMIC))
                return
            if config.modes.recorder is None or frame.f_globals.get("__name__", "").startswith("namedtuple_"):
                return
            self._user_frame(frame, code)
        elif event == "c_call":
            self._c_call(frame, arg)

    def _user_frame(self, frame: types.FrameType, code: types.CodeType) -> None:
        if (
            code.co_flags & inspect.CO_GENERATOR
            and id(code) not in self.codes
            and frame.f_lasti > codes.generator_start(code)
        ):
            self.refuse(f"the generator {code.co_name} was started outside")
        if code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            self.refuse(f"{code.co_name} is a coroutine")
        self._note_code(code, frame.f_globals)
        if self.turns is not None:
            self.turns.enter(frame)
        owner: Any = ABSENT
        if code.co_argcount and code.co_varnames[0] in ("self", "cls"):
            owner = frame.f_locals.get(code.co_varnames[0], ABSENT)
            self._note_called(owner, code)
        if (
            code.co_freevars
            and code.co_filename != "<string>"
            and id(code) not in self._known
            and id(code) not in self._inner
        ):
            self.refuse(f"{code.co_name} closes over variables that cannot be watched")
        if owner is ABSENT or is_tensor(owner) or id(owner) in self._objects or id(owner) in self._new:
            return
        if code.co_name == "__init__" and not getattr(owner, "__dict__", None):
            self._new[id(owner)] = owner  # made here: what happens to it is no side effect
            self._note_objects({id(type(owner)): type(owner)}, type(owner).__name__)
        else:
            self._note_objects({id(owner): owner}, code.co_varnames[0])

    def _note_called(self, owner: Any, code: types.CodeType) -> None:
        """A method has begun, perhaps called by a library under a name that no code of the user has."""
        if id(code) in self._methods:
            return
        self._methods.add(id(code))  # (alive, as its frame has been noted)
        cls = owner if isinstance(owner, type) else type(owner)
        for base in cls.__mro__:
            found = vars(base).get(code.co_name)
            parts = (found.fget, found.fset, found.fdel) if isinstance(found, property) else (found,)
            if any(_runs(part, code) for part in parts):
                self._note_method(base, code.co_name)
                return

    def _c_call(self, frame: types.FrameType, fn: Any) -> None:
        if self.reason is not None or not from_user(frame):
            return
        name = getattr(fn, "__name__", "")
        module = getattr(fn, "__module__", None) or ""
        owner = getattr(fn, "__self__", None)
        if module == "builtins" and name in _IMPURE_BUILTINS:
            self.refuse(f"it calls {name}()")
        elif module == "builtins" and name in ("id", "hash"):
            if is_user_code(frame.f_code.co_filename):
                self._identity(name, asked(frame))
        elif isinstance(owner, IMPURE_TYPES):
            self.refuse(f"it draws from {type(owner).__module__}.{type(owner).__name__}.{name}; use agog.random")
        elif isinstance(owner, type) and owner.__name__ in _IMPURE_CLASS_NAMES and name in ("now", "today", "utcnow"):
            self.refuse(f"it calls {owner.__name__}.{name}()")
        elif module in _IMPURE_MODULES and (module, name) not in _HARMLESS:
            self.refuse(f"it calls {module}.{name}()")
        elif module == "gc" and name in ("enable", "disable", "isenabled"):
            self._collects = name == "enable" or name == "isenabled" and self._collects
            self.refuse(f"it calls gc.{name}()")
        elif module == "sys" and name in _IMPURE_SYS:
            self.refuse(f"it calls sys.{name}()")
        elif name == "__subclasses__" and isinstance(owner, type):
            self.refuse(f"it asks for the subclasses of {owner.__name__}")
        elif isinstance(owner, contextvars.ContextVar):
            self.refuse(f"it reads the context variable {owner.name}")
        elif module == "_thread" and name == "get_ident" and is_user_code(frame.f_code.co_filename):
            self.refuse("it asks which thread it runs in")
        elif owner is not None and type(owner).__module__ in ("_io", "io") and not isinstance(owner, _Stream):
            self.refuse(f"it uses a file ({type(owner).__name__}.{name})")
        elif (
            id(owner) in self._objects
            and not isinstance(owner, _KNOWN_OWNERS)
            and not is_user_class(type(owner))
            and type(owner).__module__.partition(".")[0] not in _KNOWN_MODULES
        ):
            self.refuse(f"it calls {type(owner).__name__}.{name}() of an object whose state cannot be seen")

    def _identity(self, name: str, value: Any) -> None:
        """Code asks for the identity of an object: of an argument, it is another one at each call."""
        if is_tensor(value):
            self._identified[id(value)] = value
        elif value is UNKNOWN and name == "id" and (self.tensors or self.given) or id(value) in self.given or any(
                value is given for _, given, _ in self.arguments if isinstance(given, np.ndarray)):
            self.refuse(f"it asks which object an argument is ({name})")

    def around_effect(self, fn: Any) -> tuple[Callable[..., None], Callable[[], None]]:
        """A profile hook for while a staged effect, `fn`, is delivered, and what to call after it.

        What the effect alone uses is its own, and may change. What the function reads as well may not: a native call
        delivers effects when everything has been computed.
        """
        same = [k for k, place in self.places.items() if place is not RAN and self._now(place) == self.before[k]]
        ran: dict[int, types.CodeType] = {}

        def hook(frame: types.FrameType, event: str, arg: Any) -> None:
            if event == "call" and is_user_code(frame.f_code.co_filename):
                ran[id(frame.f_code)] = frame.f_code

        def after() -> None:
            for k in same:
                place = self.places[k]
                now = self._now(place)
                if now != self.before[k] and not self._reads(place):
                    self.before[k] = now
                    self.volatile.add(k)
                    self._loosened.append(place)
            self._effects.append((list(ran.values()), getattr(fn, "__self__", None)))

        return hook, after

    def _reads(self, place: Place) -> bool:
        """Whether the function may look at what is at this place."""
        return self._dynamic or isinstance(place, Entry) or any(
            _name(place) in codes.uses(code).loads for code in self.codes.values())

    def _changed_by_effects(self) -> str | None:
        """What an effect may change that the function reads, before or after it, even if it did not this time."""
        for ran, owner in self._effects:
            effects = [codes.uses(code) for code in ran]
            binds = {name for u in effects for name in u.binds}
            loads = {name for u in effects for name in u.loads} if any(u.changes for u in effects) else set()
            for key, place in self.places.items():
                if place is RAN or key in self.volatile or not self._reads(place):
                    continue
                name = _name(place)
                if name in binds:
                    return place.name
                if (name in loads or owner is not None) and isinstance(value := place.read(), CONTAINERS) and (
                        name in loads or value is owner):
                    return place.name
        return next((place.name for place in self._loosened if self._reads(place)), None)

    @staticmethod
    def _now(place: Place) -> Any:
        try:
            return fingerprint(place.read(), None, place.name)
        except Refuse:
            return None

    def unread(self, differentiable: bool) -> set[tuple[int, Any]]:
        """Keys of places that were watched for changes, but which nothing that ran has looked at.

        differentiable: whether rules of gradients, which have not run yet, belong to what is recorded
        """
        out = set()
        if not (self._asked or differentiable or self._named("_default_float")):
            out.add(at(DEFAULT_FLOAT))
        for key, place in self.places.items():
            if place.key in _DEFAULTS and isinstance(place.holder, types.FunctionType) and not self._named(place.key):
                if not place.read():  # each call gives every parameter: how many, and which names, is its form
                    out.add(key)
        return out

    def _named(self, attribute: str) -> bool:
        return self._dynamic or attribute in self._attributes

    # -------------------------------------------------------------------------------------------- the verdict
    def side_effect(self, varying: set[tuple[int, Any]]) -> tuple[str, bool] | None:
        """What changed besides Tensors, in words, and whether it may have been for once; None when nothing did.

        Places that were given other Tensors are no side effect: they are in `rebindings` afterwards. varying: the
        places that are known to hold one Tensor after another (`held` afterwards); those that begin to are added.
        """
        if self.reason is not None:
            return self.reason, False
        self.finish()
        if (name := self._changed_by_effects()) is not None:
            return f"a callback may change {name}, which it reads", False
        changed: dict[tuple[int, Any], tuple[Place, Any]] = {}
        verdict = self._changed_places(changed) or self._changed_objects(changed)
        if verdict is not None:
            return verdict
        for name, value, before in self.arguments:
            if fingerprint(value, None, name) != before:
                return f"it changes its argument {name}", True
        for key, (place, before) in changed.items():
            if id(place.holder) in self.given or not writable(place, self.owners):
                return f"it changes {place.name}", True
            if before in (NONE, fingerprint(ABSENT)) and key not in varying:
                varying.add(key)  # perhaps it is just being set up; next time this is what the function does
                verdict = f"it changes {place.name}", True
        if verdict is not None:
            return verdict
        self._settle(changed, varying)
        moving = [*self.tensors, *(t for _, before in self.held.values() for t in tree.leaves(before))]
        if any(id(t) in self._identified for t in moving) or (self.tensors or self.given) and any(
                handed_on(code) for code in self.codes.values() if is_user_code(code.co_filename)):
            return "it asks which Tensor an argument is (id), or a place that holds one after another", False
        state = (random.getstate(), _numpy_random())
        if state[0] != self._random[0] or not _same_random(state[1], self._random[1]):
            return "it draws random numbers from Python's or NumPy's generator; use agog.random", False
        return None

    def _changed_places(self, changed: dict[tuple[int, Any], tuple[Place, Any]]) -> tuple[str, bool] | None:
        for key, place in self.places.items():
            if place is RAN:
                continue
            before = self.before[key]
            try:
                after = fingerprint(place.read(), None, place.name)
            except Refuse as refusal:
                return str(refusal), False
            if before != after:
                found = None if key in self.volatile else changes(place, before, after, self.reached)
                if found is None:
                    return f"it changes {place.name}", True
                changed.update((at(p), (p, picture)) for p, picture in found)
        return None

    def _changed_objects(self, changed: dict[tuple[int, Any], tuple[Place, Any]]) -> tuple[str, bool] | None:
        for w in self.watched.values():
            now = w.value.__agog_watch__()[0]
            if not w.holds(now) and not self._settled(w, now):
                found = w.rebound()
                if found is None:
                    return f"it changes {w.difference()}", True
                self.reached.update((id(t), t) for t in w.kept if is_tensor(t))
                for module, name, before in found:
                    place = Place(module.__dict__, name, f"{w.name}.{name}")
                    changed.setdefault(at(place), (place, before))
        return None

    def _settled(self, w: Watched, now: Any) -> bool:
        """Whether an object of agog's only made what it makes once, when first needed: an optimizer its moments.

        What it does then is what it does ever after, and the user's code cannot tell: none that ran looks at them.
        Only where the turns of a loop are compared, the first would be unlike the others.
        """
        settled = getattr(type(w.value), "__agog_settled__", None)
        if settled is None or is_user_class(type(w.value)) or not settled(w.value, w.last, now):
            return False
        if self._dynamic or not self._attributes.isdisjoint(_MOMENTS):
            return False
        if self.turns is not None and any(run.reason is None for run in self.turns.runs):
            return False
        w.renew(now, {})
        return True

    def _settle(self, changed: dict[tuple[int, Any], tuple[Place, Any]], varying: set[tuple[int, Any]]) -> None:
        """From what has changed to `held` and `rebindings`."""
        for key, (place, picture) in changed.items():
            before = ABSENT if picture == fingerprint(ABSENT) else value_of(picture, self.reached)
            self.rebindings.append(Rebinding(place, before, place.read()))
            if has_tensors(picture):
                self.held[key] = place, before
        for key, place in self.places.items():
            if place is RAN or key in self.held or key in changed or key in self.volatile:
                continue
            picture = self.before[key]
            if key in varying or isinstance(place.holder, dict) and place.key in place.holder.get("_rebound", ()):
                if isinstance(picture, tuple) and is_value(picture) and has_tensors(picture):
                    self.held[key] = place, value_of(picture, self.reached)
            elif varying and isinstance(picture, tuple) and picture[0] in FOLLOWED:
                for entry in entries_held(place.read(), varying, place.name):
                    if at(entry) not in changed and id(entry.holder) not in self.given:
                        self.held.setdefault(at(entry), (entry, entry.read()))
        self.holes = holes_of([*(p for p, _ in self.held.values()), *(r.place for r in self.rebindings)])
        if self.held or self.rebindings:
            for w in self.watched.values():
                w.renew(w.value.__agog_watch__()[0], self.holes)

    def pinned(self) -> dict[int, Any]:
        """The objects that are known by identity, by id: those that only rebound places hold are not among them."""
        if not (self.held or self.rebindings):
            return self.reached
        seen = Seen(self.holes)
        moving = {*self.held, *(at(r.place) for r in self.rebindings)}
        for key, place in self.places.items():
            if place is not RAN and key not in moving and key not in self.volatile:
                fingerprint(place.read(), seen, place.name)
        for w in self.watched.values():
            seen.update((id(x), x) for x in w.kept)
        return seen


def _runs(fn: Any, code: types.CodeType) -> bool:
    """Whether a function, or the one that it was made around, has this code."""
    if isinstance(fn, staticmethod | classmethod):
        fn = fn.__func__
    while isinstance(fn, types.FunctionType) and fn.__code__ is not code:
        fn = fn.__dict__.get("__wrapped__")
    return isinstance(fn, types.FunctionType)


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
