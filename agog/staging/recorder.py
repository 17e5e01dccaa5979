"""The recorder: while a function runs eagerly, each operation also appends a record.

Values are told apart by the array objects that hold them. These are not kept alive: a recording takes no more memory
than eager code, and an identity counts only while the object that was seen with it still has it. A Tensor that was not
made during the recording was read from outside: it becomes an input, fetched afresh at every call from where it was
found.
"""

from __future__ import annotations

import sys
import weakref
from time import perf_counter
from typing import Any

import numpy as np

from agog import config, tape
from agog.autodiff.functional import attached, stopped
from agog.errors import user_frame, user_line
from agog.graph.ir import Where
from agog.staging.explicit import SaidLoop, SaidScan
from agog.staging.forms import NUMBERS

_ref, _ndarray = weakref.ref, np.ndarray
_TRACES = sys.version_info < (3, 12)  # from then on all code is made ready anew when a trace function comes or goes


class Record:
    """One operation that ran: the row, slots of its inputs and outputs, static parameters, the user's line.

    at   the frame that called it and its instruction, if the frame is followed (see `turns`)
    """

    __slots__ = ("op", "inputs", "statics", "outputs", "line", "at")

    def __init__(self, op: Any, inputs: tuple, statics: tuple, outputs: tuple, line: Any, at: Any = None):
        self.op, self.inputs, self.statics, self.outputs, self.line = op, inputs, statics, outputs, line
        self.at = at


class Guard:
    """Python looked at a value here: `slot` held `expected`. `position` counts the records before it.

    at   where the frames that are followed stood (see `turns`)
    """

    __slots__ = ("slot", "expected", "position", "what", "line", "at")

    def __init__(self, slot: int, expected: Any, position: int, what: str, line: str, at: tuple = ()):
        self.slot, self.expected, self.position, self.what, self.line = slot, expected, position, what, line
        self.at = at

    def holds(self, value: Any) -> bool:
        """Whether the value is the one that was recorded; NaN equals itself, 0.0 differs from -0.0."""
        if type(value) is not type(self.expected):
            return False
        return (
            value == self.expected
            and repr(value) == repr(self.expected)
            or value != value
            and self.expected != self.expected
        )


class Effect:
    """Something staged and delivered in order at commit: `deliver(*values)` with the values of `slots`."""

    __slots__ = ("deliver", "slots", "position")

    def __init__(self, deliver: Any, slots: tuple[int, ...], position: int):
        self.deliver, self.slots, self.position = deliver, slots, position


class Argument:
    """An input that is the call's Tensor number `index`."""

    __slots__ = ("index",)

    def __init__(self, index: int):
        self.index = index

    def __repr__(self) -> str:
        return f"argument {self.index}"


class Captured:
    """An input read from a Tensor that the function found outside."""

    __slots__ = ("tensor", "node")

    def __init__(self, tensor: Any):
        self.tensor, self.node = tensor, tensor._node

    def __repr__(self) -> str:
        return f"captured {type(self.tensor).__name__}{list(self.tensor.shape)}"


class Gradient:
    """An input read from the `.grad` of a leaf."""

    __slots__ = ("leaf",)

    def __init__(self, leaf: Any):
        self.leaf = leaf

    def __repr__(self) -> str:
        return f"gradient {list(self.leaf.shape)}"


class Custom:
    """A function with a gradient rule of its own ran: the slots of its Tensors and results, and its last record."""

    __slots__ = ("rule", "inputs", "outputs", "last")

    def __init__(self, rule: Any, inputs: list[int], outputs: list[int], last: Record):
        self.rule, self.inputs, self.outputs, self.last = rule, inputs, outputs, last


class External:
    """A Tensor from outside: its slot, and what it held when first seen."""

    __slots__ = ("tensor", "slot", "data", "node")

    def __init__(self, tensor: Any, slot: int):
        self.tensor, self.slot, self.data, self.node = tensor, slot, tensor._data, tensor._node


class Recorder:
    """Collects what one run does. The hooks are called by the dispatcher, Tensors and the engine."""

    def __init__(self, watch: Any = None, evidence: Any = None, keep: bool = False) -> None:
        """`keep`: all arrays stay alive, in `arrays` by slot."""
        self.watch, self.evidence = watch, evidence
        self.arrays: dict[int, np.ndarray] | None = {} if keep else None
        self.records: list[Record] = []
        self.guards: list[Guard] = []
        self.effects: list[Effect] = []
        self.sources: list[tuple[int, Any]] = []
        self.constants: dict[int, np.ndarray] = {}
        self.specs: list[tuple[tuple[int, ...], Any]] = []
        self.external: dict[int, External] = {}
        self.leaves: dict[int, tuple[Any, Any]] = {}
        self.written: set[int] = set()  # of these, the gradient was written first: what it was does not matter
        self._leaf_of: dict[int, Any] = {}  # of the gradients that were there before
        self.reason: str | None = None
        self.turns: Any = None  # what follows the loops of the frames that run
        self.start, self.began = tape._ticket(), perf_counter()
        self.stops: dict[int, int] = {}
        self.attached: dict[tuple[int, int], int] = {}
        self.customs: list[Custom] = []
        self.custom_nodes: set[Any] = set()
        self._with_history: set[int] = set()
        self._of_node: dict[int, External] = {}  # (alive: an External has its node)
        # By identity, with what says whether it is still the same object that has it: nothing is called when one goes.
        self._slots: dict[int, int] = {}
        self._seen: dict[int, Any] = {}
        self._born: dict[int, weakref.ref[Any]] = {}
        self._arrays: dict[int, Any] = {}

    # ------------------------------------------------------------------------------------------------ slots
    def _slot(self, data: Any) -> int:
        slot, key = len(self.specs), id(data)
        self.specs.append((data.shape, data.dtype))
        self._slots[key] = slot
        if type(data) is not _ndarray:  # left behind by a transformation (jvp, vmap) that has ended
            self.refuse("it uses a Tensor whose data is no NumPy array")
            self._seen[key] = lambda: data
            return slot
        self._seen[key] = _ref(data)
        if self.arrays is not None:
            self.arrays[slot] = data
        return slot

    def slot_at(self, data: Any) -> int | None:
        """The slot whose value an array holds; None for one that was not seen."""
        seen = self._seen.get(id(data))
        return self._slots[id(data)] if seen is not None and seen() is data else None

    def add_argument(self, tensor: Any, index: int) -> None:
        """A Tensor argument of the call."""
        if id(tensor) not in self.external:
            slot = self._outside(tensor)
            self.sources.append((slot, Argument(index)))

    def _capture(self, tensor: Any) -> int:
        leaf = self._leaf_of.get(id(tensor))
        source: Any = Captured(tensor) if leaf is None else Gradient(leaf)
        slot = self._outside(tensor)
        self.sources.append((slot, source))
        return slot

    def _outside(self, tensor: Any) -> int:
        slot = self._slot(tensor._data)
        seen = self.external[id(tensor)] = External(tensor, slot)
        if tensor._node is not None:
            self._with_history.add(slot)
            self._of_node.setdefault(id(seen.node), seen)
        return slot

    def slot_of(self, tensor: Any) -> int:
        """The slot of a Tensor's present value."""
        seen = self.external.get(id(tensor))
        if seen is not None and tensor._data is seen.data:
            return seen.slot
        if seen is None and not self.is_born(tensor):
            return self._capture(tensor)
        slot = self.slot_at(tensor._data)
        if slot is None:
            self.refuse("it makes a Tensor from data that cannot be followed (such as a NumPy array computed inside)")
            slot = self._slot(tensor._data)
            self.constants[slot] = tensor._data
        return slot

    def _read(self, tensor: Any, recording_gradients: bool) -> int:
        """The slot that an operation reads: behind a stop where the tape does not see the value's history, or with that
        of the leaf that was given the value."""
        slot = self.slot_of(tensor)
        if recording_gradients and tensor._node is not None:
            seen = self._of_node.get(id(tensor._node))
            if seen is None or seen.slot == slot:
                return slot
            if (seen.slot, slot) not in self.attached:  # it was assigned: its gradient does not go to what was computed
                made = self.attached[seen.slot, slot] = self._same(slot)
                self._with_history.add(made)
                self.records.append(Record(attached, (slot, seen.slot), (), (made,), None))
            return self.attached[seen.slot, slot]
        if slot not in self._with_history:
            return slot
        if slot not in self.stops:
            self.stops[slot] = self._same(slot)
            self.records.append(Record(stopped, (slot,), (), (self.stops[slot],), None))
        return self.stops[slot]

    def _same(self, slot: int) -> int:
        """A new slot for a value of the same form."""
        self.specs.append(self.specs[slot])
        return len(self.specs) - 1

    def refuse(self, reason: str) -> None:
        """This run cannot be staged; the first reason is kept."""
        if self.reason is None:
            line = user_line(2)
            self.reason = f"{reason}" + (f"  ({line})" if line else "")

    # ------------------------------------------------------------------------------------------------ hooks
    def on_born(self, tensor: Any) -> None:
        """A Tensor object was made during the recording."""
        self._born[id(tensor)] = _ref(tensor)

    def is_born(self, tensor: Any) -> bool:
        """Whether a Tensor object was made during the recording."""
        made = self._born.get(id(tensor))
        return made is not None and made() is tensor

    def on_constant(self, tensor: Any, number: Any = None) -> None:
        """A Tensor of Python numbers: they follow from what the guards watch, or from a parameter that is free."""
        self.on_born(tensor)
        if self.slot_at(tensor._data) is None:
            slot = self._slot(tensor._data)
            self.constants[slot] = tensor._data
            if self.evidence is not None and type(number) in NUMBERS:
                self.evidence.feed(slot, tensor._data, self.evidence.took(number))

    def on_array(self, tensor: Any, source: Any) -> None:
        """A Tensor of a NumPy array: a constant when the array is one that the guards compare, or a free parameter."""
        shared = tensor._data is source or tensor._data.base is not None
        site = None if self.evidence is None or shared else self.evidence.took(source)
        known = self.watch is not None and id(source) in self.watch.reached or id(source) in self._arrays
        if site is not None or known:
            self.on_constant(tensor)
            if site is not None:
                self.evidence.feed(self._slots[id(tensor._data)], tensor._data, site)

    def on_known(self, array: Any) -> None:
        """A NumPy array that was made of Python numbers."""
        self._arrays[id(array)] = array

    def on_op(self, op: Any, tensors: list[Any], statics: tuple, results: tuple) -> None:
        """An operation ran on these Tensors."""
        for t in (*tensors, *results):
            if t is not None and type(t._data) is not _ndarray:
                if hasattr(t._data, "__agog_level__"):
                    return  # inside vmap or jvp: the operations on what they hold are recorded
                self.refuse("it computes on a device that staging does not know yet")
                return
        recording_gradients = config.modes.grad
        inputs = tuple([None if t is None else self._read(t, recording_gradients) for t in tensors])
        outputs = tuple([self._slot(t._data) for t in results])
        for slot, t in zip(outputs, results):
            if t._node is not None:
                self._with_history.add(slot)
        frame = user_frame(2)
        where = None if frame is None else Where(frame.f_code.co_filename, frame.f_lineno)
        at = None if self.turns is None or frame is None else self.turns.place(frame)
        self.records.append(Record(op, inputs, statics, outputs, where, at))

    def on_custom(self, rule: Any, xs: list[Any], ys: list[Any]) -> None:
        """`ys` are the results of a function with a gradient rule of its own, whose operations have been recorded."""
        for t in (*xs, *ys):
            if type(t._data) is not np.ndarray or t._data.dtype.kind == "c":
                return
        inputs, outputs = [self._read(x, config.modes.grad) for x in xs], []
        for y in ys:  # as values of their own: a result may be what was given
            before = self.slot_of(y)
            y._data = y._data.view()
            outputs.append(self._slot(y._data))
            self.records.append(Record(stopped, (before,), (), (outputs[-1],), None))
            if y._node is not None:
                self._with_history.add(outputs[-1])
                self.custom_nodes.add(y._node.source if type(y._node) is tape.Pick else y._node)
        self.customs.append(Custom(rule, inputs, outputs, self.records[-1]))

    def on_error(self, op: Any) -> None:
        """An operation raised. If the function goes on, which way it went depends on values that no guard knows."""
        self.refuse(f"{op.name} raised an error, and the function caught it")

    def on_scalar(self, tensor: Any, what: str) -> Any:
        """Python looks at the single value of a Tensor: from here on, this is one path of several."""
        data = tensor._data
        if type(data) is not np.ndarray:
            return data.item()
        value = data.item()
        at = () if self.turns is None else self.turns.chain(user_frame(2))
        self.guards.append(Guard(self.slot_of(tensor), value, len(self.records), what, user_line(2), at))
        return value

    def on_escape(self, tensor: Any, what: str) -> None:
        """The values of a Tensor leave agog's sight."""
        self.refuse(f"it looks at the values of a Tensor with {what}")

    def on_read(self, tensor: Any) -> None:
        """Another Tensor is about to have the value of this one."""
        if type(tensor._data) is np.ndarray and not self.is_born(tensor):
            self.slot_of(tensor)

    def on_assign(self, tensor: Any, value: Any) -> None:
        """A Tensor is about to be given a new value."""
        if hasattr(value, "_node"):
            self.slot_of(value)
        if id(tensor) not in self.external and not self.is_born(tensor):
            self._capture(tensor)

    def on_grad(self, leaf: Any, written: bool = False) -> None:
        """The `.grad` of a leaf is about to be read or written."""
        if id(leaf) not in self.leaves and leaf.seq > self.start:  # (tickets count down) not one that was made here
            self.leaves[id(leaf)] = (leaf, leaf.grad)
            if written:
                self.written.add(id(leaf))
            elif leaf.grad is not None:
                self._leaf_of.setdefault(id(leaf.grad), leaf)

    def on_setting(self, holder: dict, key: str, made: int, changed: bool) -> None:
        """An entry of a dict of the library's that is no part of its version is about to be read, or set."""
        if self.watch is None or made < self.start:  # (tickets count down) it was made here
            return
        if changed:
            self.refuse("it sets a learning rate or steps a schedule; do that outside of the staged function, which "
                        "reads the rate afresh at every call")
        else:
            self.watch.note_entry(holder, key)

    def may_rest(self) -> bool:
        """Whether the thread's trace function may be taken off where no code of the user's runs: it is one of this
        recording, and that is cheap."""
        if not _TRACES:
            return False
        return self.turns is not None and self.turns.is_tracing() or (
            self.evidence is not None and self.evidence.is_tracing())

    def on_walk(self, nodes: list[Any]) -> None:
        """Cotangents are about to be carried back from these nodes of the tape."""
        if self.turns is not None:
            self.turns.walked(nodes)

    def on_while(self, functions: tuple) -> Any:
        """`ag.while_loop` begins: what is to be told of its turns, or None."""
        return None if self.turns is None else SaidLoop(self.turns, functions)

    def on_scan(self, fn: Any, reverse: bool) -> Any:
        """`ag.scan` begins: what is to be told of its turns, or None."""
        return None if self.turns is None else SaidScan(self.turns, fn, reverse)

    def on_effect(self, deliver: Any, tensors: list[Any]) -> None:
        """`ag.print`, `ag.callback`, ...: deliver at commit, with the values of `tensors`."""
        self.effects.append(Effect(deliver, tuple(self.slot_of(t) for t in tensors), len(self.records)))

    def paused(self, effect: Any = None) -> paused:
        """A context in which `effect` is delivered, and nothing is recorded."""
        return paused(self, effect)


class paused:  # noqa: N801 - used as a context
    """No recorder for a while: the delivery of a staged effect is not part of what is staged."""

    def __init__(self, recorder: Recorder, effect: Any):
        self.recorder, self.effect = recorder, effect

    def __enter__(self) -> None:
        watch = self.recorder.watch
        hook: Any = None
        self.after: Any = None
        if watch is not None:
            hook, self.after = watch.around_effect(self.effect)
        config.modes.recorder = None
        self.profile = sys.getprofile()
        sys.setprofile(hook)
        self.streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (getattr(s, "_stream", s) for s in self.streams)

    def __exit__(self, *exc: Any) -> None:
        sys.setprofile(None)
        sys.stdout, sys.stderr = self.streams
        if self.after is not None:
            self.after()
        sys.setprofile(self.profile)
        config.modes.recorder = self.recorder


class recording:  # noqa: N801 - used as a context
    """Make `recorder` this thread's recorder for a while."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder

    def __enter__(self) -> Recorder:
        self.before = config.modes.recorder
        config.enter_special()
        config.modes.recorder = self.recorder
        return self.recorder

    def __exit__(self, *exc: Any) -> None:
        config.modes.recorder = self.before
        config.leave_special()
