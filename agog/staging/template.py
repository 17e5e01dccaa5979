"""What the turns of a recorded loop have in common: they are matched one by one (see `rolling`)."""

from __future__ import annotations

from typing import Any, Iterator, Sequence

import numpy as np

from agog.graph.ir import freeze
from agog.staging.recorder import Effect, Guard, Record
from agog.staging.rolled import Block, Look, Step, Turning
from agog.staging.turns import Run, Snapshot

WAYS = 16
"""Ways through one turn."""

SMALL = 4096
"""Bytes of constants that are compared by content."""

TABLE = 1 << 22
"""Bytes that the constants of all turns may need."""


class Unlike(Exception):
    """Why the turns of a loop are not turns of one loop of a graph."""


class Exit:
    """Where a loop is left: the look, the guard there, which way stays in the loop, and what the last turn made.

    number   how many items stand before it in each turn; None when that depends on the way that the turn takes
    """

    def __init__(self, look: Look, guard: Guard, index: int, number: int | None, made: dict[int, int]):
        self.look, self.guard, self.index, self.number, self.made = look, guard, index, number, made
        self.looks = [look]
        (self.going,) = look.ways
        self.outcome = look.ways[self.going].value


class Template:
    """What the turns `first` to `last` of a loop have in common."""

    def __init__(self, roller: Any, shots: list[Snapshot], first: int, varying: bool,
                 elements: Sequence[tuple[int, ...]] = (), results: Sequence[tuple[int, ...]] = ()):
        """elements: the slots of what each turn is given besides variables; results: of what it gives besides."""
        self.roller, self.shots, self.first, self.varying = roller, shots, first, varying
        self.last = len(shots) - 1
        self.begin = shots[first].at
        self.root = Block()
        self.branches = 0
        self.constants: dict[Any, np.ndarray] = {}
        r = roller.recorder
        vectors: dict[tuple[int, ...], None] = {}
        self.steady = {slot for slot, _ in r.sources}  # what a turn may read that is the same at all of them
        for name in shots[first].arrays:
            if not all(name in s.arrays for s in shots[first:]):
                raise Unlike(f"{name} does not stay a Tensor")
            found = [s.arrays[name] for s in shots[first:]]
            vector = tuple(-id(x) if (slot := r.slot_at(x)) is None else slot for x in found)
            if len(set(vector)) > 1:
                if min(vector) < 0:
                    raise Unlike(f"{name} gets a value that cannot be followed")
                vectors[vector] = None
            else:
                self.steady.add(vector[0])
        self.classes, self.results = list(vectors), results
        self.states: list[dict[int, set]] = []
        for k in range(self.last - first + 1):
            state: dict[int, set] = {}
            for j, vector in enumerate((*self.classes, *elements)):
                if k < len(vector):
                    state.setdefault(vector[k], set()).add(("s", j))
            self.states.append(state)

    def refs(self, slot: int, made: dict[int, int], k: int) -> set:
        """What a slot that is read at turn `k` may be to the loop."""
        slot = self.roller.same.get(slot, slot)
        if slot in made:
            return {("v", made[slot])}
        found = set(self.states[k - self.first].get(slot, ()))
        constant = self.roller.recorder.constants.get(slot)
        if constant is not None:
            key = ("c", constant.dtype.str, constant.shape,
                   constant.tobytes() if constant.nbytes <= SMALL else id(constant))
            self.constants[key] = constant
            found.add(key)
        elif slot in self.steady:
            found.add(("i", slot))
        elif not found and self.roller.made.get(slot, -1) < self.begin:
            if self.last - self.first < 2:
                raise Unlike("too few turns were made to know which value they read")
            found.add(("i", slot))
        if not found:
            raise Unlike("a turn reads what an earlier one made, and no variable holds it")
        return found

    # ------------------------------------------------------------------------------------------------- matching
    def add(self, k: int, items: list[Any]) -> None:
        """Match one whole turn with those before it."""
        made: dict[int, int] = {}
        block, at, fresh = self.root, 0, not self.root.steps and self.root.end is None
        for item in items:
            if item is None:
                continue
            if isinstance(item, Effect):
                raise Unlike("it delivers staged effects (ag.print, ag.callback)")
            if isinstance(item, Guard):
                ref = self.refs(item.slot, made, k)
                if type(item.expected) not in (bool, int):
                    raise Unlike(f"Python looks at a {type(item.expected).__name__} in it ({item.line})")
                if fresh:
                    block.end = Look(ref, item, where(item))
                look = block.end
                if at < len(block.steps) or type(look) is not Look or not self._same_look(look, item):
                    raise Unlike(f"its turns differ at a look at a Tensor ({item.line})")
                look.ref &= ref
                self._not_empty(look.ref, item.line)
                key = _way(item)
                fresh = key not in look.ways
                if fresh:
                    look.ways[key] = Block(item.expected)
                    if len(look.ways) > 1:
                        self.branches += 1
                        if self.branches >= WAYS:
                            raise Unlike(f"its turns take more than {WAYS} ways")
                block, at = look.ways[key], 0
                continue
            refs = [None if s is None else self.refs(s, made, k) for s in item.inputs]
            if fresh:
                block.steps.append(Step(item, refs, [self.roller.recorder.specs[s] for s in item.outputs]))
            elif not self._match(block, at, item, refs, k, commit=True):
                raise Unlike(f"its turns do different things ({item.line})")
            at += 1
            for s in item.outputs:
                made[s] = len(made)
        outs = [self.refs(vector[k + 1 - self.first], made, k) for vector in self.classes]
        outs += [self.refs(vector[k - self.first], made, k) for vector in self.results]
        if fresh:
            block.end = outs
        elif at < len(block.steps) or type(block.end) is not list:
            raise Unlike("its turns differ in length")
        else:
            for a, b in zip(block.end, outs):
                a &= b
                self._not_empty(a, None)

    @staticmethod
    def _not_empty(ref: set, line: Any) -> None:
        if not ref:
            raise Unlike("its turns read different values" + (f" ({line})" if line else ""))

    @staticmethod
    def _same_look(look: Look, guard: Guard) -> bool:
        return look.guard.what == guard.what and look.place == where(guard)

    def _match(self, block: Block, at: int, item: Any, refs: list[Any], k: int, commit: bool) -> bool:
        if at >= len(block.steps):
            return False
        step = block.steps[at]
        specs = [self.roller.recorder.specs[s] for s in item.outputs]
        if step.specs != specs or len(step.refs) != len(refs):
            return False
        if step.key != Step.key_of(item) and not self._moves(step, item, k, commit):
            return False
        for n, (a, b) in enumerate(zip(step.refs, refs)):
            if a is None or b is None:
                if a is not b:
                    return False
                continue
            both = a & b
            if not both:
                both = self._table(step, n, a, b, k, commit)
                if not both:
                    return False
            if commit:
                step.refs[n] = both
        return True

    def _moves(self, step: Step, item: Any, k: int, commit: bool) -> bool:
        """A static parameter that selects another element at each turn."""
        if not self.varying or type(item) is not Record or type(step.item) is not Record or item.op is not step.item.op:
            return False
        if item.op.selects is None:
            return False
        places = list(_differing(step.item.statics, item.statics))
        if len(places) != 1 or places[0] is None or step.moving is not None and step.moving[0] != places[0]:
            return False
        if item.op.selects(item.statics, places[0]) is None:
            return False
        if commit:
            if step.moving is None:
                step.moving = places[0], {None: _at(step.item.statics, places[0])}
            step.moving[1][k] = _at(item.statics, places[0])
        return True

    def _table(self, step: Step, n: int, a: set, b: set, k: int, commit: bool) -> set:
        """A constant that differs from turn to turn."""
        x, y = _constant(a), _constant(b)
        if not self.varying or y is None or x is None and ("t", n) not in a:
            return set()
        if x is not None and x[1:3] != y[1:3]:
            return set()
        if commit:
            table = step.tables.setdefault(n, {})
            if x is not None:
                table[None] = self.constants[x]
            elif table[None].shape != self.constants[y].shape or table[None].dtype != self.constants[y].dtype:
                return set()
            table[k] = self.constants[y]
        return {("t", n)}

    def find_exit(self, start: int) -> Exit | None:
        """Follow the last turn, which was not finished, to the look at which it took a way of its own."""
        found = self._follow(start, commit=False)
        return self._follow(start, commit=True) if found is not None else None

    def _follow(self, start: int, commit: bool, place: Any = None) -> Exit | None:
        """place: where the exit is, when it stands behind branches."""
        made: dict[int, int] = {}
        block, at, number = self.root, 0, 0
        for index in range(start, len(self.roller.items)):
            item = self.roller.items[index]
            if item is None:
                continue
            if isinstance(item, Effect):
                return None
            if isinstance(item, Guard):
                look = block.end
                if at < len(block.steps) or type(look) is not Look or not self._same_look(look, item):
                    return None
                ref = look.ref & self.refs(item.slot, made, self.last)
                if not ref:
                    return None
                if commit:
                    look.ref = ref
                way = look.ways.get(_way(item))
                if way is None:
                    if len(look.ways) != 1 or type(item.expected) is not bool or place not in (None, look.place):
                        return None
                    if place is not None and look.ways[next(iter(look.ways))].steps:
                        return None
                    return Exit(look, item, index, number if place is None else None, made)
                if len(look.ways) > 1 and place is None:
                    return None
                block, at = way, 0
            else:
                try:
                    refs = [None if s is None else self.refs(s, made, self.last) for s in item.inputs]
                except Unlike:
                    return None
                if not self._match(block, at, item, refs, self.last, commit):
                    return None
                at += 1
                for s in item.outputs:
                    made[s] = len(made)
            number += 1
        return None

    def find_last(self, start: int) -> Exit | None:
        """The exit of a loop whose turns take different ways, and end with its test."""
        ends: list[Look] = []

        def collect(block: Block) -> None:
            for way in block.end.ways.values() if type(block.end) is Look else ():
                if type(way.end) is list and not way.steps:
                    ends.append(block.end)
                collect(way)

        collect(self.root)
        place = ends[0].place if ends else None
        if not ends or any(e.place != place or e.ways.keys() != ends[0].ways.keys() or len(e.ways) > 1 for e in ends):
            return None
        if len(ends) != self.branches + 1:
            return None
        if self._follow(start, commit=False, place=place) is None:
            return None
        found = self._follow(start, commit=True, place=place)
        if found is not None:
            found.looks = ends
        return found

    def selects_by_turn(self, run: Run) -> bool:
        """Whether turns differ by their number alone, and that is for nothing but to select elements of Tensors.

        Each instruction `x[i]` of the loop must be one of the operations that select another element at each turn.
        """
        if not run.loop.selects or any(s.tokens != self.shots[self.first].tokens for s in self.shots[self.first :]):
            return False
        found: list[Step] = []
        blocks = [self.root]
        for block in blocks:
            for step in block.steps:
                if step.tables:
                    return False
                if step.moving is not None:
                    found.append(step)
            if type(block.end) is Look:
                blocks += block.end.ways.values()
        for step in found:
            known: Any = step.moving
            at = step.item.at
            if at is None or at[0] != run.frame or at[1] not in run.loop.selects:
                return False
            if any(v != k + run.missed for k, v in known[1].items() if k is not None):
                return False
        if {step.item.at[1] for step in found} != run.loop.selects:
            return False
        for step in found:
            step.exact = True
        return True

    # -------------------------------------------------------------------------------------------------- reading it
    def nth(self, k: int, number: int) -> int:
        """The index of the item with this number in turn `k`."""
        at = self.shots[k].at
        while True:
            if self.roller.items[at] is not None:
                if not number:
                    return at
                number -= 1
            at += 1

    def made_in(self, k: int, number: int) -> list[int]:
        """The slots that the first `number` items of turn `k` make."""
        end = self.nth(k, number)
        items = self.roller.items[self.shots[k].at : end]
        return [s for i in items if isinstance(i, Record | Turning) for s in i.outputs]

    def single(self, refs: list[set]) -> list[Any]:
        """References that are not in doubt."""
        out = []
        for ref in refs:
            if len(ref) != 1:
                raise Unlike("too few turns were made to know which value they read")
            out.append(next(iter(ref)))
        return out

    def after(self, exit: Exit, ref: Any) -> int:
        """The slot of what the last turn leaves in a variable; -1 when it is a constant."""
        kind, what = ref[0], ref[1]
        if kind == "v":
            return next(s for s, n in exit.made.items() if n == what)
        if kind == "s":
            return self.classes[what][self.last - self.first]
        return what if kind == "i" else -1

    def reads(self, block: Block) -> set:
        """All that a block refers to."""
        out: set = set()
        for step in block.steps:
            out.update(*[r for r in step.refs if r is not None])
        if type(block.end) is Look:
            out |= block.end.ref
            for way in block.end.ways.values():
                out |= self.reads(way)
        elif block.end is not None:
            out.update(*block.end)
        return out

    def finish(self) -> None:
        """Fix what every reference means."""
        size = 0

        def visit(block: Block) -> None:
            nonlocal size
            for step in block.steps:
                step.fixed = [None if r is None else self.single([r])[0] for r in step.refs]
                for table in step.tables.values():
                    size += table[None].nbytes * (self.last - self.first + 1)
            if type(block.end) is Look:
                block.end.fixed = self.single([block.end.ref])[0]
                for way in block.end.ways.values():
                    visit(way)
            else:
                block.fixed = self.single(block.end)

        visit(self.root)
        if size > TABLE:
            raise Unlike("the numbers that differ from turn to turn are too many")


def _way(guard: Guard) -> Any:
    return type(guard.expected), repr(guard.expected)


def _differing(a: Any, b: Any, place: tuple = ()) -> Iterator[tuple | None]:
    """Where two parameters have different ints; None where they differ in anything else."""
    if type(a) is tuple and type(b) is tuple and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            yield from _differing(x, y, (*place, i))
    elif type(a) is int and type(b) is int:
        if a != b:
            yield place
    elif freeze(a) != freeze(b):
        yield None


def _at(x: Any, place: tuple) -> Any:
    for i in place:
        x = x[i]
    return x


def _constant(refs: set) -> Any:
    return next((r for r in refs if r[0] == "c"), None)


def where(guard: Guard) -> Any:
    """Where in the source a guard stands, in all the frames that were followed; the two copies that the compiler makes
    of a loop's test stand in the same place."""
    return tuple((code, _position(code, at)) for _, code, at in guard.at)


def _position(code: Any, at: int) -> Any:
    found = _positions.get(id(code))
    if found is None or found[0] is not code:
        found = _positions[id(code)] = (code, list(code.co_positions()))
    return found[1][at // 2]


_positions: dict[int, Any] = {}
