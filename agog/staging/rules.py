"""Gradient rules of the user (`custom_gradient`, `custom_jvp`) become part of a backward graph: they run once on values
that do not exist yet. What such a run changes is undone, and what it reads is guarded."""

from __future__ import annotations

import collections
from typing import Any, Callable

import numpy as np

from agog.autodiff.engine import no_grad
from agog.dispatch import wrap
from agog.staging.guards import Guards
from agog.staging.observe import Watch
from agog.staging.recorder import Recorder, recording
from agog.staging.state import ABSENT, NAMES, SIZE, Place


class Trial:
    """One run of rules on Symbols. `guards`: what they read; `result`: what the run gave."""

    def __init__(self, rules: list[Any]):
        self.users = [user for rule in rules for user in rule.users]
        self.guards: Guards | None = None
        self.result: Any = None

    def run(self, compute: Callable[[], Any]) -> str | None:
        """Why the rules cannot be part of a graph, or None."""
        watch = _Undoing()
        recorder = _Foreign(watch)
        try:
            watch.start(self.users[0], [])
            for user in self.users[1:]:
                watch.enter(user)
            watch.mute()
            with recording(recorder), no_grad():
                self.result = compute()
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            return f"the gradient rule of {getattr(self.users[0], '__name__', 'a function')} cannot be traced ({what})"
        finally:
            watch.stop()
            found = watch.side_effect(set())
            if found is not None or watch.rebindings:
                watch.undo()
        if (reason := recorder.found()) is not None:
            return f"in a gradient rule, {reason}"
        if found is not None or watch.rebindings:
            return f"in a gradient rule, {'it rebinds a Tensor' if found is None else found[0]}"
        self.guards = Guards(watch, [])
        return None


class _Undoing(Watch):
    """Remembers what places and containers held, to put it back."""

    def __init__(self) -> None:
        super().__init__()
        self._values: list[tuple[Place, Any]] = []
        self._contents: dict[int, tuple[Any, Any]] = {}

    def _note(self, place: Place, explore: bool = True) -> None:
        if (id(place.holder), place.key) not in self.places and place.key not in (SIZE, NAMES):
            self._values.append((place, place.read()))
        super()._note(place, explore)
        for x in list(self.reached.values()):
            if id(x) not in self._contents and isinstance(x, list | dict | set | collections.deque):
                self._contents[id(x)] = x, x.copy()

    def undo(self) -> None:
        self.restore_random()
        for x, before in self._contents.values():
            if isinstance(x, list | collections.deque):
                if len(x) != len(before) or any(a is not b for a, b in zip(x, before)):
                    x.clear()
                    x.extend(before)
            elif list(x) != list(before) or isinstance(x, dict) and any(x[k] is not before[k] for k in before):
                x.clear()
                x.update(before)
        for place, value in self._values:
            if place.read() is not value:
                if value is ABSENT:
                    del place.holder[place.key]
                else:
                    place.write(value)


class _Foreign(Recorder):
    """Notices what rules do with anything but the values that they are given."""

    def on_op(self, op: Any, tensors: list[Any], statics: tuple, results: tuple) -> None:
        if all(t is None or type(t._data) is np.ndarray for t in tensors):
            super().on_op(op, tensors, statics, results)
        for t in tensors:
            if t is not None and type(t._data) is np.ndarray:
                self.slot_of(t)

    def found(self) -> str | None:
        if self.sources or self.external:
            return "a Tensor from outside is read; pass it to the function as an argument"
        if self.guards or self.effects:
            return "a value is looked at, or something is printed or called back"
        return self.reason


def puller(rule: Any) -> Callable[[list[Any], list[Any]], list[Any]]:
    """What `graph.grad` asks of a rule: cotangents of its inputs, all as Symbols (or arrays)."""

    def pull(xs: list[Any], gs: list[Any]) -> list[Any]:
        parts = rule.transposed([wrap(x) for x in xs], [wrap(g) for g in gs])
        return [None if p is None else p._data for p in parts]

    return pull
