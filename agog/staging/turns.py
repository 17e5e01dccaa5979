"""Where the turns of Python's loops begin and end, and in what state, seen while a function is recorded.

A trace function is set on the frames, and on those alone, whose code has a loop. It is told each line that such a frame
comes to. At the head of a loop it takes a picture of the Python state that the code could read from there on. A loop
whose state is the same at two heads, but for the values of Tensors, does the same thing again: nothing else could tell
it the turns apart. That is what lets `rolling` make one loop of a graph out of the turns that were recorded.
"""

from __future__ import annotations

import abc
import enum
import functools
import sys
import types
import typing
from typing import Any, Iterable

import numpy as np

from agog import tape
from agog.staging import loops
from agog.staging.codes import is_user_class
from agog.staging.reach import RAN
from agog.staging.state import ABSENT, FIXED, PLAIN, Refuse, fingerprint, is_tensor

OBJECTS = 3000
"""Objects that one picture may hold: a loop whose variables reach more is not made a loop of the graph."""

TURNS = 20_000
"""Turns of one loop that are looked at."""

ALWAYS = 4
"""Turns at which globals, attributes and closures are compared in any case; later, only after a new way through one."""


class Snapshot:
    """The state at a loop's head: `at` counts what was recorded before, `tokens` are what Python can tell apart by the
    names of the places, `arrays` the values of the Tensors there, `places` the state outside of the frame; nodes of the
    tape with higher tickets than `ticket` are older."""

    __slots__ = ("at", "effects", "tokens", "arrays", "places", "kept", "ticket")

    def __init__(self, at: int, effects: int):
        self.at, self.effects, self.ticket = at, effects, tape._ticket()
        self.kept: list[Any] = []  # alive: tokens have their identities
        self.tokens: dict[str, Any] = {}
        self.arrays: dict[str, Any] = {}
        self.places: dict[Any, Any] | None = None


class Run:
    """One execution of a loop, from when its head is first reached until it is left.

    snapshots  at each turn's beginning; for a `for` that was exhausted, also at its end
    number     that stands for the loop: its frame's code and the head
    line       where the user wrote it
    first      how many guards there were before it; `header`: before the line of its head
    left       the offset at which the frame went on, None while it is not left or when the frame was
    ticket     what `tape` gave then: younger nodes were made after the loop
    steps      (offset, how much was recorded) of the lines since the last snapshot
    reason     why it cannot be a loop of the graph; None while it can
    length     the number of turns that a `for` over a constant `range` can make
    missed     the turns before the first snapshot: 1 when the whole loop is one line
    """

    __slots__ = ("loop", "code", "line", "snapshots", "first", "header", "left", "steps", "reason", "ways", "looks",
                 "length", "frame", "missed", "ticket")

    def __init__(self, loop: loops.Loop, code: types.CodeType, line: str, header: int, first: int, frame: int):
        self.loop, self.code, self.line, self.header, self.frame = loop, code, line, header, frame
        self.first = self.looks = first
        self.snapshots: list[Snapshot] = []
        self.left: int | None = None
        self.steps: list[tuple[int, int]] = []
        self.reason: str | None = None
        self.ways: set[Any] = set()
        self.length: int | None = None
        self.missed = 0
        self.ticket = 0


class Turns:
    """The loops of one recording. `recorder` and `watch` are what it asks about Tensors and about state outside."""

    def __init__(self, recorder: Any, watch: Any):
        self.recorder, self.watch = recorder, watch
        self.runs: list[Any] = []  # in the order in which they were left: inner ones before those around them
        self.walks: list[tuple[int, list[int]]] = []  # when the tape was walked, and the nodes below, as tickets
        self._tracing = False
        self.noted = False  # whether there is a loop that it matters to when the tape is walked

    def enter(self, frame: types.FrameType) -> None:
        """A frame begins. If its code has loops, follow it, unless somebody else (a debugger) traces this thread."""
        evidence = self.recorder.evidence
        if evidence is not None:
            evidence.entered(frame)
        flow = loops.flow(frame.f_code)
        if flow is None:
            return
        if not self._tracing:
            if sys.gettrace() is None:
                sys.settrace(_ignore)
            elif evidence is None or not evidence.is_tracing():
                return
            self._tracing = self.noted = True
        if type(frame.f_trace) is not Follower:
            frame.f_trace_lines = True
            frame.f_trace = Follower(self, flow, frame.f_code, frame.f_trace)

    def turn(self, run: Run, values: dict[str, Any], count: int) -> None:
        """A turn of a loop begins, after `count` things were recorded; values: of its variables."""
        if run.reason is not None:
            return
        recorder, number = self.recorder, len(run.snapshots)
        guards = recorder.guards
        if number == 1 and len(guards) == run.looks and not self._counted(run):
            run.reason = ""  # it looks at no Tensor: how often it turns is Python's business alone
            return
        if number > TURNS:
            run.reason = f"it made more than {TURNS} turns"
            return
        way = tuple((type(g.expected), repr(g.expected)) for g in guards[run.looks :]) if number else ()
        shot = Snapshot(count, len(recorder.effects))
        try:
            variables(shot, run.loop.live, values, recorder)
            if number < ALWAYS or way not in run.ways:
                shot.places = self.outside()
        except Refuse as refusal:
            run.reason = str(refusal)
            return
        run.ways.add(way)
        run.looks = len(guards)
        run.snapshots.append(shot)
        run.steps.clear()

    def _counted(self, run: Run) -> bool:
        """Whether the number of turns is a value of a Tensor: the last that Python looked at before the loop."""
        return run.loop.counted is not None and count_guard(run, self.recorder.guards) is not None

    def outside(self) -> dict[Any, Any]:
        """A picture of the places that are watched."""
        places = self.watch.places.items()
        return {key: fingerprint(place.read(), None, place.name) for key, place in places if place is not RAN}

    def stop(self) -> None:
        """Trace no more (also after an exception)."""
        if self._tracing and sys.gettrace() is _ignore:
            sys.settrace(None)
        self._tracing = False

    def is_tracing(self) -> bool:
        """Whether the trace function of this thread is the one that does nothing."""
        return sys.gettrace() is _ignore

    def walked(self, roots: list[Any]) -> None:
        """The tape is walked back from these nodes: how, depends on how many turns made them."""
        if not self.noted:
            return
        seen: set[Any] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node is None or node in seen or node.seq > self.recorder.start:  # (tickets count down)
                continue
            seen.add(node)
            if type(node) is tape.Pick:
                stack.append(node.source)
            elif type(node) is not tape.Leaf:
                stack.extend(node.parents)
        self.walks.append((tape._ticket(), [node.seq for node in seen if type(node) is not tape.Leaf]))

    @property
    def count(self) -> int:
        """How much was recorded until now."""
        r = self.recorder
        return len(r.records) + len(r.guards) + len(r.effects)

    def place(self, frame: Any) -> tuple[int, int] | None:
        """Where a frame stands, if it is followed."""
        follower = frame.f_trace
        if type(follower) is not Follower or follower.turns is not self:
            return None
        return id(follower), follower.flow.instruction(frame.f_lasti)

    def chain(self, frame: Any) -> tuple[tuple[int | None, types.CodeType, int], ...]:
        """Where a frame stands, and those that called it, up to the outermost that is followed."""
        out, size = [], 0
        while frame is not None:
            follower = frame.f_trace
            mine = type(follower) is Follower and follower.turns is self
            out.append((id(follower) if mine else None, frame.f_code, frame.f_lasti))
            if mine:
                size = len(out)
            frame = frame.f_back
        return tuple(out[:size])


def _ignore(frame: Any, event: str, arg: Any) -> None:
    """The trace function of the thread: frames are followed one by one."""


class Follower:
    """Told each line that one frame comes to. other: the trace function that the frame had (of `feeds`)."""

    __slots__ = ("turns", "flow", "code", "active", "before", "other")

    def __init__(self, turns: Turns, flow: loops.Flow, code: types.CodeType, other: Any = None):
        self.turns, self.flow, self.code, self.other = turns, flow, code, other
        self.active: list[Run] = []
        self.before = 0

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if self.other is not None:
            self.other(frame, event, arg)
        if event == "line" and self.turns._tracing:
            self._line(frame, frame.f_lasti)
        elif event == "return":
            while self.active:
                self._leave(None)
        return self

    def _leave(self, at: int | None) -> None:
        run = self.active.pop()
        run.left, run.ticket = at, tape._ticket()
        self.turns.runs.append(run)

    def _line(self, frame: types.FrameType, at: int) -> None:
        active, count = self.active, self.turns.count
        while active and at not in active[-1].loop.inside:
            self._leave(at)
        for run in active:
            run.steps.append((at, count))
        loop = self.flow.loops.get(at)
        if loop is None:
            for loop in self.flow.loops.values():  # those around others come first
                if loop.is_for and at in loop.inside and not any(run.loop is loop for run in active):
                    self._begin(loop, frame, count)
        elif any(run.loop is loop for run in active):
            self.turns.turn(active[-1], frame.f_locals, count)
        else:
            self._begin(loop, frame, count)
        self.before = len(self.turns.recorder.guards)

    def _begin(self, loop: loops.Loop, frame: types.FrameType, count: int) -> None:
        line = f"{self.code.co_filename}:{loop.line}"
        run = Run(loop, self.code, line, self.before, len(self.turns.recorder.guards), id(self))
        self.active.append(run)
        if loop.is_for:
            run.missed = int(frame.f_lasti == loop.head)
            if loop.counted is None or _builtin(frame, "range") is not range:
                run.reason = "it goes over something other than range(n)"
                return
            run.length = loop.counted.value
            if run.length is None and loop.counted.name is not None:
                value = frame.f_locals.get(loop.counted.name)
                run.length = value if type(value) is int else None
        self.turns.turn(run, frame.f_locals, count)


def count_guard(run: Run, guards: list[Any]) -> Any:
    """The guard that stands for `n` of `for ... in range(n)`, when that is all that `n` is for; else None."""
    counted, flow = run.loop.counted, loops.flow(run.code)
    if counted is None or flow is None:
        return None
    for k in reversed(range(run.first)):
        guard = guards[k]
        if len(guard.at) == 1 and guard.at[0][0] == run.frame and type(guard.expected) is int:
            at = flow.instruction(guard.at[0][2])
            if at == counted.call and k >= run.header or at == counted.stored:
                return guard
    return None


def _builtin(frame: types.FrameType, name: str) -> Any:
    return frame.f_globals.get(name, frame.f_builtins.get(name))


# --------------------------------------------------------------------------------------------------------- pictures
def variables(shot: Snapshot, names: Iterable[str], values: dict[str, Any], recorder: Any) -> None:
    """Put the variables that may still be read into a snapshot, and the Tensors of all the recording."""
    draw = _Picture(shot, recorder)
    for name in sorted(names):
        draw(name, values.get(name, ABSENT))
    for seen in list(recorder.external.values()):
        if seen.tensor._data is not seen.data:
            draw.tensor(f"<outside {id(seen.tensor)}>", seen.tensor)
    for leaf, _ in list(recorder.leaves.values()):
        draw(f"<gradient {id(leaf)}>", leaf.grad)


class _Picture:
    """Writes what Python can tell apart of values, by the place where they are found."""

    def __init__(self, shot: Snapshot, recorder: Any):
        self.tokens, self.arrays, self.kept = shot.tokens, shot.arrays, shot.kept
        self.recorder = recorder
        self.seen: dict[int, int] = {}

    def tensor(self, name: str, t: Any) -> None:
        data = t._data
        if type(data) is not np.ndarray:
            raise Refuse("it computes on a device, or inside of vmap or jvp")
        outside = None if self.recorder.is_born(t) else id(t)
        self.tokens[name] = (type(t), data.shape, data.dtype, t._node is not None, outside)
        self.arrays[name] = data
        if type(t._node) is tape.Leaf:
            self(f"{name}.grad", t._node.grad)

    def __call__(self, name: str, x: Any) -> None:
        if x is ABSENT:
            self.tokens[name] = ABSENT
            return
        if isinstance(x, PLAIN):
            self.tokens[name] = (type(x), repr(x) if isinstance(x, float | complex | np.generic) else x)
            return
        key = id(x)
        if key in self.seen:
            self.tokens[name] = ("again", self.seen[key])
            return
        self.seen[key] = len(self.seen)
        self.kept.append(x)
        if len(self.seen) > OBJECTS:
            raise Refuse(f"its variables reach more than {OBJECTS} objects")
        if is_tensor(x):
            self.tensor(name, x)
        elif isinstance(x, np.ndarray):
            self.tokens[name] = fingerprint(x, None, name)
        elif (watch := getattr(type(x), "__agog_watch__", None)) is not None:
            token, entries = watch(x)
            self.tokens[name] = (key, token)
            for holder, part in entries:
                self(f"{name}.{part}", holder.get(part, ABSENT))
        elif isinstance(x, list | tuple):
            self.tokens[name] = (type(x), len(x))
            for i, v in enumerate(x):
                self(f"{name}[{i}]", v)
            if type(x) not in (list, tuple):
                self._attributes(name, x)
        elif isinstance(x, dict):
            if not all(isinstance(k, PLAIN) for k in x):
                raise Refuse(f"{name} has keys whose order cannot be followed")
            self.tokens[name] = (type(x), [(type(k), k) for k in x])
            for k, v in list(x.items()):
                self(f"{name}[{k!r}]", v)
            if type(x) is not dict:
                self._attributes(name, x)
        elif isinstance(x, set | frozenset):
            self.tokens[name] = fingerprint(x, None, name)
        elif isinstance(x, types.FunctionType):
            self.tokens[name] = ("function", id(x.__code__))
            self.kept.append(x.__code__)
            for i, cell in enumerate(x.__closure__ or ()):
                try:
                    self(f"{name}.{x.__code__.co_freevars[i]}", cell.cell_contents)
                except ValueError:
                    self.tokens[f"{name}.{x.__code__.co_freevars[i]}"] = ABSENT
            for part in ("__defaults__", "__kwdefaults__"):
                self(f"{name}.{part}", getattr(x, part))
            self(f"{name}.__dict__", x.__dict__ or None)
        elif isinstance(x, types.MethodType):
            self.tokens[name] = ("method", id(x.__func__))
            self(f"{name}.__self__", x.__self__)
        elif isinstance(x, functools.partial):
            self.tokens[name] = ("partial",)
            for part in ("func", "args", "keywords"):
                self(f"{name}.{part}", getattr(x, part))
        elif isinstance(x, (*FIXED, enum.Enum)):
            if isinstance(x, types.BuiltinFunctionType) and not isinstance(x.__self__, types.ModuleType | None):
                self(f"{name}.__self__", x.__self__)
            self.tokens[name] = ("fixed", key)
        elif hasattr(kind := type(x), "__next__") or not _open(kind):  # type: ignore[arg-type]
            raise Refuse(f"{name} is a {type(x).__name__}, whose state cannot be seen")
        else:
            self.tokens[name] = ("object", type(x))
            self._attributes(name, x)

    def _attributes(self, name: str, x: Any) -> None:
        for k, v in list(getattr(x, "__dict__", {}).items()):
            self(f"{name}.{k}", v)
        for cls in type(x).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot in ("__dict__", "__weakref__"):
                    continue
                if slot.startswith("__") and not slot.endswith("__"):
                    slot = f"_{cls.__name__.lstrip('_')}{slot}"
                self(f"{name}.{slot}", getattr(x, slot, ABSENT))


@functools.lru_cache(maxsize=1024)
def _open(cls: Any) -> bool:
    """Whether all state of the objects of a class is in attributes: it and its bases are written in Python by the user.

    (A class that was written in C and has state of its own has neither a `__dict__` nor declared slots.)
    """
    return all(
        base is object
        or base in (abc.ABC, typing.Generic, typing.Protocol)
        or is_user_class(base) and (base.__dictoffset__ != 0 or "__slots__" in vars(base))
        for base in cls.__mro__
    )
