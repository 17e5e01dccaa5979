"""Loops that are written as calls, `ag.while_loop` and `ag.scan`: they say themselves where their turns begin.

A `while_loop` becomes a loop of the graph as a Python loop does (see `turns` and `rolling`): the variables that could
tell its turns apart are its state and what its functions can reach. A `scan` makes as many turns at every call of one
form, and all of them were recorded: where they turn out to be alike, nothing has to be known about Python's state.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from agog import tape, tree
from agog.errors import user_frame
from agog.staging.loops import Loop
from agog.staging.state import Refuse, is_tensor
from agog.staging.turns import ALWAYS, Run, Snapshot, Turns, variables

_NAMES = frozenset({"state", "functions"})


def _line(frame: types.FrameType | None) -> str:
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


class SaidLoop:
    """Told the state before each test of an `ag.while_loop`."""

    def __init__(self, turns: Turns, functions: tuple):
        frame = user_frame(3)
        loop = Loop(0, set(), False)
        loop.live, loop.after = _NAMES, {0: _NAMES}
        looks = len(turns.recorder.guards)
        code: Any = SaidLoop.__init__.__code__ if frame is None else frame.f_code
        self.run = Run(loop, code, _line(frame), looks, looks, id(self))
        self.turns, self.functions = turns, functions
        turns.noted = True

    def begin(self, state: Any) -> None:
        """The test of another turn comes next."""
        self.turns.turn(self.run, {"state": state, "functions": self.functions}, self.turns.count)

    def end(self) -> None:
        """The test has said that the state is the last one."""
        self.run.left, self.run.ticket = 0, tape._ticket()
        self.turns.runs.append(self.run)


class ScanRun:
    """One `ag.scan`.

    snapshots  at each turn's beginning, after its elements of the sequences were taken, and at the end; with `places`
               where Python's state was looked at
    slices     for each turn, the slots of these elements; `sequences`: the slots of what they are elements of
    made       for each turn, the slots of what the function gave to be stacked
    outputs    the slots of what was stacked, and `end`: how much had been recorded then
    """

    __slots__ = ("line", "reverse", "snapshots", "slices", "sequences", "made", "outputs", "start", "end", "reason")

    def __init__(self, line: str, reverse: bool, start: int):
        self.line, self.reverse, self.start, self.end = line, reverse, start, start
        self.snapshots: list[Snapshot] = []
        self.slices: list[list[int]] = []
        self.sequences: list[int] = []
        self.made: list[list[int]] = []
        self.outputs: list[int] = []
        self.reason: str | None = None


class SaidScan:
    """Told the carry and the elements at each turn of an `ag.scan`, and what its function gave."""

    def __init__(self, turns: Turns, fn: Any, reverse: bool):
        self.turns, self.fn, self.looks = turns, fn, len(turns.recorder.guards)
        self.run = ScanRun(_line(user_frame(3)), reverse, turns.count)

    def begin(self, carry: Any, slices: list[Any], sequences: list[Any]) -> None:
        """The function is called next."""
        run, slot_of = self.run, self.turns.recorder.slot_of
        self._check([*slices, *sequences])
        if run.reason is not None:
            return
        self._picture(carry)
        if run.reason is None:
            read = [slot_of(x) for x in sequences]
            if run.slices and read != run.sequences:
                run.reason = "it changes what it goes over"
            run.slices.append([slot_of(x) for x in slices])
            run.sequences = read

    def _check(self, tensors: list[Any]) -> None:
        if not all(type(t._data) is np.ndarray for t in tensors):
            self.run.reason = "it computes on a device, or inside of vmap or jvp"

    def _picture(self, carry: Any) -> None:
        run, turns = self.run, self.turns
        shot = Snapshot(turns.count, len(turns.recorder.effects))
        leaves = tree.leaves(carry)
        if not all(map(is_tensor, leaves)):
            run.reason = "it carries something other than Tensors"
            return
        looks, number = len(turns.recorder.guards), len(run.snapshots)
        try:
            values = {"carry": leaves}
            if number < ALWAYS or looks != self.looks:  # only turns that look at a Tensor may take ways of their own
                values["function"] = self.fn
                shot.places = turns.outside()
            variables(shot, values, values, turns.recorder)
        except Refuse as refusal:
            run.reason = str(refusal)
            return
        self.looks = looks
        run.snapshots.append(shot)

    def end(self, made: list[Any]) -> None:
        """The function gave this to be stacked."""
        self._check(made)
        if self.run.reason is None:
            self.run.made.append([self.turns.recorder.slot_of(y) for y in made])

    def last(self, carry: Any) -> None:
        """This is the last carry."""
        run, turns = self.run, self.turns
        if run.reason is None and run.snapshots:
            self._picture(carry)
        run.end = turns.count
        turns.runs.append(run)

    def stacked(self, outputs: list[Any]) -> None:
        """The results of all turns were stacked."""
        if self.run.reason is None:
            self.run.outputs = [self.turns.recorder.slot_of(y) for y in outputs]
            self.run.end = self.turns.count
