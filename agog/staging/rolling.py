"""Making one loop of the graph out of the turns of a Python loop that were recorded one after the other.

The recorder sees a loop as its turns, unrolled. `turns` took a picture of the Python state at the head of each. Where
the pictures agree in all but the values of Tensors, Python code, which is a function of its state, does the same at
each turn, as long as it sees the same at each look at a Tensor. So the operations of the turns must correspond one by
one; what differs is which values they read: those are what the loop carries. This is checked, not assumed: every turn
that was recorded is matched with the others, and whatever does not fit leaves the recording as it was.

A look at a Tensor inside of a turn that went one way only becomes a condition of the native call; one that went both
ways becomes a `cond`. The look at which the loop was left is its test.

Python numbers that differ from turn to turn (a counter) are allowed when nothing after the loop reads them. Then the
turns are only known as far as they were recorded: constants become tables, and more turns than that deoptimise.
"""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from agog.staging.explicit import ScanRun
from agog.staging.recorder import Argument, Effect, Guard, Record
from agog.staging.rolled import MOST, Turning
from agog.staging.scanned import scan
from agog.staging.state import ABSENT
from agog.staging.template import Exit, Template, Unlike, where
from agog.staging.turns import Run, Snapshot, count_guard

PEELED = 3
"""Turns that may stay outside of the loop: the first ones are often different (a variable is not bound yet)."""

_GONE = 1 << 60
"""As the item that makes a slot: none any more."""


class Rolled:
    """A recording with its loops: `steps` (records and Turnings), the guards that are left, and notes for `explain`."""

    def __init__(self, steps: list[Any], guards: list[Guard], notes: list[str]):
        self.steps, self.guards, self.notes = steps, guards, notes


def roll(recorder: Any, wanted: list[int]) -> Rolled:
    """The records of a recording with as many loops as can be found. wanted: slots that are results or state."""
    turns = recorder.turns
    if turns is None or not any(run.reason is None and len(run.snapshots) > 1 for run in turns.runs):
        notes = [] if turns is None else _notes(turns.runs, {})
        return Rolled(recorder.records, recorder.guards, notes)
    return _Roller(recorder, wanted).run(turns.runs)


def _notes(runs: list[Run], done: dict[int, Turning]) -> list[str]:
    """One line for each loop in the code, not for each time that it was run."""
    lines: dict[str, str] = {}
    for run in runs:
        if id(run) in done:
            lines[run.line] = f"loop at {run.line}: {done[id(run)].describe()}"
        elif run.reason:
            lines.setdefault(run.line, f"loop at {run.line}: recorded turn by turn, {run.reason}")
    return list(lines.values())


class _Roller:
    def __init__(self, recorder: Any, wanted: list[int]):
        self.recorder, self.wanted = recorder, wanted
        self.items: list[Any] = []
        first: dict[int, int] = {}
        self.same = {  # an argument may stand in several slots, one for each time that it was used
            slot: first.setdefault(source.index, slot) for slot, source in recorder.sources if type(source) is Argument
        }
        self.made: dict[int, int] = {}  # slot -> the number of the item that makes it
        guards, effects = list(recorder.guards), list(recorder.effects)
        for position, record in enumerate([*recorder.records, None]):
            for kind in (effects, guards):
                while kind and kind[0].position == position:
                    self.items.append(kind.pop(0))
            if record is not None:
                self.made.update(dict.fromkeys(record.outputs, len(self.items)))
                self.items.append(record)
        self.done: dict[int, Turning] = {}

    def run(self, runs: list[Run]) -> Rolled:
        counts: dict[int, list[Run]] = {}
        for run in runs:
            if isinstance(run, ScanRun):
                self._scan(run)
                continue
            guard = count_guard(run, self.recorder.guards) if run.snapshots else None
            if guard is not None:
                counts.setdefault(id(guard), []).append(run)
            if run.reason is not None:
                continue
            if len(run.snapshots) < 2:
                run.reason = "too few turns were made to know what they have in common"
                continue
            try:
                self._roll(run, guard)
            except Unlike as why:
                run.reason = str(why)
        for k, item in enumerate(self.items):  # a number of turns that became an input is no guard any more
            if isinstance(item, Guard) and id(item) in counts and all(
                id(r) in self.done and self.done[id(r)].count is not None for r in counts[id(item)]
            ):
                self.items[k] = None
        items = [i for i in self.items if i is not None]
        return Rolled(
            [i for i in items if isinstance(i, Record | Turning)],
            [i for i in items if isinstance(i, Guard)],
            _notes(runs, self.done),
        )

    def _scan(self, run: ScanRun) -> None:
        if run.reason is None:
            try:
                self.done[id(run)] = scan(self, run)
            except Unlike as why:
                run.reason = str(why)

    # --------------------------------------------------------------------------------------- which turns are alike
    def _roll(self, run: Run, count: Guard | None) -> None:
        shots = self.completed(run.snapshots)
        reason = ""
        for varying in (False, True):
            for first in range(min(PEELED + 1, len(shots) - 1)):
                try:
                    if self._differences(run, shots[first:], varying):
                        self._attempt(run, shots, first, varying, count)
                        return
                except Unlike as why:
                    reason = reason or str(why)
        raise Unlike(reason or self._changes(shots))

    def completed(self, shots: list[Snapshot]) -> list[Snapshot]:
        """The snapshots with the Tensors that were first met after they were taken, as these were then."""
        tokens: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        for seen in self.recorder.external.values():
            name = f"<outside {id(seen.tensor)}>"
            tokens[name] = (type(seen.tensor), seen.data.shape, seen.data.dtype, seen.node is not None, id(seen.tensor))
            arrays[name] = seen.data
        for leaf, before in self.recorder.leaves.values():
            name = f"<gradient {id(leaf)}>"
            if before is None:
                tokens[name] = (type(None), None)
            else:
                tokens[name] = (type(before), before.shape, before._data.dtype, before._node is not None, id(before))
                arrays[name] = before._data
        changed = {n for s in shots for n in s.tokens if n.startswith("<")}
        for s in shots:
            for name in changed - s.tokens.keys():
                if name in tokens:
                    s.tokens[name] = tokens[name]
                    if name in arrays:
                        s.arrays[name] = arrays[name]
        return shots

    def _differences(self, run: Run, shots: list[Snapshot], varying: bool) -> bool:
        """Whether the states agree; `varying`: but for numbers that nothing reads after the loop."""
        base = shots[0].tokens
        names = {n for s in shots[1:] if s.tokens != base for n in _unequal(base, s.tokens)}
        if (bool(names) or run.loop.numbered) != varying:
            return False
        after = None if run.left is None else run.loop.after.get(run.left)
        live = frozenset().union(*run.loop.after.values()) if after is None else after
        for name in names:
            if name in live or name not in run.loop.live or not all(_is_number(s.tokens.get(name)) for s in shots):
                return False
        watch = self.recorder.watch
        known = dict(shots[0].places or {})
        for s in shots[1:]:
            for key, now in (s.places or {}).items():
                if known.setdefault(key, watch.before[key]) != now and key not in watch.volatile:
                    raise Unlike(f"it changes {watch.places[key].name}")
        return True

    def _changes(self, shots: list[Snapshot]) -> str:
        for a, b in reversed(list(zip(shots, shots[1:]))):
            for name in sorted(_unequal(a.tokens, b.tokens)):
                if not name.startswith("<"):
                    now, then = _show(a.tokens.get(name)), _show(b.tokens.get(name))
                    return f"{name} is {now} at one turn and {then} at the next"
        return "its turns change what it depends on"

    # ------------------------------------------------------------------------------------------------- one attempt
    def _attempt(self, run: Run, shots: list[Snapshot], first: int, varying: bool, count: Guard | None) -> None:
        last = len(shots) - 1
        if shots[last].effects != shots[first].effects:
            raise Unlike("it delivers staged effects (ag.print, ag.callback)")
        self._not_walked(run, shots[first:])
        template = Template(self, shots, first, varying)
        for k in range(first, last):
            template.add(k, self.items[shots[k].at : shots[k + 1].at])
        exit = None
        if not (run.loop.is_for and not run.steps):
            exit = template.find_exit(shots[last].at)
            if exit is None and template.branches:
                exit = template.find_last(shots[last].at)
        if varying and template.selects_by_turn(run):
            varying = False
        if varying and template.branches:
            raise Unlike("numbers differ from turn to turn, and its turns take different ways")
        if exit is not None:
            known = run.length if run.loop.is_for and run.length is not None else None
            if run.loop.is_for and count is not None:
                known = count.expected
            if varying or run.loop.is_for and known is None:
                known = last + run.missed + 1
            self._tested(run, template, exit, MOST if known is None else known)
            return
        if not varying and not run.loop.is_for:
            raise Unlike("it is left without a look at a Tensor")
        self._counted(run, template, count, varying)

    def _not_walked(self, run: Run, shots: list[Snapshot]) -> None:
        """The tape knows how many turns there were: nobody may look while recording, but at the nodes of one turn."""
        bounds = [*[-s.ticket for s in shots], -run.ticket]
        for when, seen in self.recorder.turns.walks:
            at = bisect.bisect(bounds, -when)
            if any(0 < (k := bisect.bisect(bounds, -seq)) < len(bounds) and k != at for seq in seen):
                raise Unlike("its turns are differentiated inside of the call (backward() or grad)")

    def uses(self, start: int, end: int) -> set[int]:
        """The slots made by items start..end that are read by later ones, or by the caller."""
        used = set(self.wanted)
        for item in self.items[end + 1 :]:
            if isinstance(item, Record | Turning):
                used.update(s for s in item.inputs if s is not None)
            elif isinstance(item, Guard):
                used.add(item.slot)
            elif isinstance(item, Effect):
                used.update(item.slots)
        return {s for s in used if start <= self.made.get(s, -1) <= end}

    def _tested(self, run: Run, t: Template, exit: Exit, known: int) -> None:
        """A loop that is left at a look at a Tensor, at the latest in turn `known`."""
        first, last = t.first, t.last
        child = exit.look.ways[exit.going]
        if not child.steps and type(child.end) is list:  # the test ends the turn
            outs = [t.after(exit, ref) for ref in t.single(child.end)]
            before = t.shots[first].at - 1
            while before >= 0 and self.items[before] is None:
                before -= 1
            guard = self.items[before] if before >= 0 else None
            if isinstance(guard, Guard) and guard.at and where(guard) == exit.look.place and (
                guard.expected is exit.outcome
            ):
                if self.uses(before, exit.index) - {exit.guard.slot} <= set(outs):
                    self._put(run, t, before, exit.index, outs, known, exit, guard.slot)
                    return
            elif t.branches and self.uses(t.begin, exit.index) - {exit.guard.slot} <= set(outs):
                self._put(run, t, t.begin, exit.index, outs, known, exit, None)
                return
        if exit.number is None:
            raise Unlike("its turns take different ways, and values of single turns are used after it")
        start = t.nth(first, exit.number)
        uses = self.uses(start, exit.index) - {exit.guard.slot}
        finals = [c[last - first] for c in t.classes]
        prefix = exit.made
        read = {r[1] for r in t.reads(child) if r[0] == "v" and r[1] < len(prefix)}
        need = sorted(read | {prefix[s] for s in uses if s in prefix})
        if stray := uses - set(finals) - set(prefix):
            raise Unlike(self.stray(stray))
        begin = t.made_in(first, exit.number)
        back = {n: s for s, n in exit.made.items()}
        self._put(run, t, start, exit.index, [*finals, *[back[n] for n in need]], known - 1, exit,
                  self.items[start].slot, [begin[n] for n in need], need)

    def stray(self, slots: set[int]) -> str:
        record = self.items[min(self.made[s] for s in slots)]
        line = getattr(record, "line", None)
        return "values of single turns are used after it" + (f" (made at {line})" if line else "")

    def _counted(self, run: Run, t: Template, count: Guard | None, varying: bool) -> None:
        """A loop that makes a known number of turns, or one that a Tensor says."""
        start, end = t.shots[t.first].at, t.shots[t.last].at - 1
        if end < start:
            raise Unlike("its turns compute nothing")
        finals = [c[t.last - t.first] for c in t.classes]
        if stray := self.uses(start, end) - set(finals):
            raise Unlike(self.stray(stray))
        if count is not None and (run.steps or count.expected != t.last + run.missed):
            count = None
        self._put(run, t, start, end, finals, t.last + run.missed if count is None or varying else None, count=count)

    def _put(self, run: Run, t: Template, start: int, end: int, finals: list[int], limit: int | None,
             exit: Exit | None = None, going: int | None = None, kept: Any = (), numbers: Any = None,
             count: Guard | None = None) -> None:
        """Replace items start..end by a loop.

        finals   the slots of what it leaves: the variables, then the kept values
        limit    the turn before which it must have ended
        going    the slot that says whether it turns at all
        kept     the slots of what is passed on besides variables: values `numbers` of a turn, made before its test
        """
        t.finish()
        inside = [start <= self.made.get(s, -1) <= end for s in finals]
        if not all(inside) or len(set(finals)) < len(finals):
            raise Unlike("it hands on values that it has not computed itself")
        for look in () if exit is None else exit.looks:
            look.exit = True
        turning = Turning(
            t.root,
            exit is not None,
            exit is not None and exit.outcome,
            [c[0] for c in t.classes],
            list(kept),
            None if numbers is None else list(numbers),
            going,
            None if count is None else count.slot,
            (t.first, t.last, run.missed, limit),
            t.constants,
            finals if exit is None else [*finals, exit.guard.slot],
            self.recorder.specs,
            next((i.line for i in self.items[start : end + 1] if isinstance(i, Record)), None),
        )
        if turning.checks and end == start:
            raise Unlike("its turns are too short")
        new: list[Any] = [turning]
        if turning.checks:
            turning.outputs.append(len(self.recorder.specs))
            self.recorder.specs.append(((), np.dtype(bool)))
            what = f"the loop at {run.line} going as recorded"
            new.append(Guard(turning.outputs[-1], True, -1, what, ""))
        self.put(start, end, new)
        self.done[id(run)] = turning
        run.reason = None

    def put(self, start: int, end: int, new: list[Any]) -> None:
        """Replace items start..end by others."""
        self.items[start : end + 1] = new + [None] * (end + 1 - start - len(new))
        self.made = {s: _GONE if start <= n <= end else n for s, n in self.made.items()}
        for n, item in enumerate(new, start):
            if not isinstance(item, Guard):
                self.made.update(dict.fromkeys(item.outputs, n))


def _unequal(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    return {n for n in a.keys() | b.keys() if n not in a or n not in b or a[n] != b[n]}


def _is_number(token: Any) -> bool:
    return type(token) is tuple and len(token) == 2 and token[0] in (int, float, bool)


def _show(token: Any) -> str:
    if token is None or token is ABSENT:
        return "not there"
    if type(token) is tuple and len(token) == 5:
        where = "" if token[4] is None else " from outside" if not token[3] else " from outside that requires grad"
        return f"a {token[0].__name__} {token[2]}{list(token[1])}{where or (' with a history' if token[3] else '')}"
    return repr(token[1]) if type(token) is tuple and len(token) == 2 else "something else"
