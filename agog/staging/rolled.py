"""A loop that was found in a recording, and how it is written into a graph.

What one turn does is a tree: steps, then perhaps a look at a Tensor from which one or several ways go on, and at the
end of each way what the turn leaves in the variables. A reference says where a step reads:

    ("s", j)          what variable j held when the turn began
    ("v", n)          what the turn itself has made as its n-th value
    ("i", n)          input n of the loop, the same at every turn
    ("c", ...)        a constant
    ("t", n)          a constant that differs from turn to turn (n says which input of the step)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.graph.build import Builder, Symbol, active, xp
from agog.graph.ir import freeze

TRUE = np.ones((), bool)

MOST = 1 << 24
"""Turns after which native code gives up: it cannot be interrupted, and rounding may keep it from an end that eager
code comes to. The call then runs eagerly."""


class Step:
    """One operation of a turn, or a loop inside of it."""

    __slots__ = ("item", "key", "refs", "specs", "tables", "fixed", "moving", "exact")

    def __init__(self, item: Any, refs: list[Any], specs: list[Any]):
        self.item, self.refs, self.specs = item, refs, specs
        self.key = self.key_of(item)
        self.tables: dict[int, dict[int | None, np.ndarray]] = {}
        self.fixed: list[Any] = []
        self.exact = False  # whether it selects by the number of the turn
        self.moving: tuple[tuple, dict[int | None, int]] | None = None  # a static parameter that selects: place, values

    @staticmethod
    def key_of(item: Any) -> Any:
        """Equal for items that do the same with what they read."""
        return item.key if isinstance(item, Turning) else (item.op, freeze(item.statics))


class Look:
    """Python looked at a value here; `ways` are what followed, by what it saw.

    place   where in the code it stands
    exit    whether it is the one that ends the loop: `ways` has what follows when it goes on
    """

    __slots__ = ("ref", "guard", "place", "ways", "fixed", "exit")

    def __init__(self, ref: set, guard: Any, place: Any):
        self.ref, self.guard, self.place = ref, guard, place
        self.ways: dict[Any, Block] = {}
        self.fixed: Any = None
        self.exit = False


class Block:
    """Steps, and how they end: with a look, or with what the variables hold then. value: what was seen just before."""

    __slots__ = ("steps", "end", "value", "fixed")

    def __init__(self, value: Any = None):
        self.steps: list[Step] = []
        self.end: Any = None
        self.value = value
        self.fixed: list[Any] = []


class Turning:
    """A loop as one step of a recording. `inputs` and `outputs` are slots.

    exits    whether a look ends it (those marked `exit`), or it makes a number of turns
    stays    what is seen there when the loop goes on
    carried  the slots of the variables when it begins
    kept     the slots of further values that a turn leaves to the next; they are values `numbers` of a turn, made
             before the exit, with which a turn then ends. numbers None: the turns are those of the Python loop
    test     the slot of the exit's value when the loop begins; None when a turn is made in any case
    count    the slot of the number of turns
    turns    the turn with which it begins, the last that was recorded, how many were missed before the first of them,
             and the turn before which it must end
    """

    def __init__(self, root: Block, exits: bool, stays: bool, carried: list[int], kept: list[int],
                 numbers: list[int] | None, test: int | None, count: int | None,
                 turns: tuple[int, int, int, int | None], constants: dict[Any, np.ndarray], outputs: list[int],
                 specs: list[Any], line: Any):
        self.root, self.exits, self.numbers, self.count, self.line = root, exits, numbers, count, line
        self.stays, self.tested = stays, test is not None
        first, last, missed, self.limit = turns
        self.tables, self.first, self.last = range(first, last + 1), first + missed, last + missed
        self.constants = constants
        self.carried, self.kept = len(carried), len(kept)
        self.outputs = list(outputs)
        self.invariant: dict[int, int] = {}
        self._collect(root)
        self.inputs = [*carried, *kept, *[s for s in (test, count) if s is not None], *self.invariant]
        self.specs = [specs[s] for s in self.inputs]
        self.asks = self._asks(root)
        self.key: Any = (Turning, self._key(root), self.first, self.last, self.limit, count is None, self.carried,
                         self.kept, tuple(numbers or ()), numbers is None, len(self.outputs), stays, self.tested)

    @property
    def checks(self) -> bool:
        """Whether it has to say, as its last output, that it went as recorded."""
        return self.asks or self.limit is not None and (self.exits or self.count is not None) or (
            self.count is not None and self.first > 0)

    def describe(self) -> str:
        """What it is, for `explain`."""
        ways = _ways(self.root)
        out = f"one loop of the graph ({self.last - self.first + self.exits} turns recorded, "
        out += f"{self.carried + self.kept} values carried" + (f", {ways} ways through a turn" if ways > 1 else "")
        if not self.exits and self.count is None:
            return out + f", {self.last} turns at every call)"
        return out + (f", at most {self.limit} turns)" if (self.limit or MOST) < MOST - 1 else ")")

    # ------------------------------------------------------------------------------------------------ what it is
    def _collect(self, block: Block) -> None:
        for ref in [r for s in block.steps for r in s.fixed if r is not None] + list(block.fixed):
            if ref[0] == "i":
                self.invariant.setdefault(ref[1], len(self.invariant))
        if type(block.end) is Look:
            if block.end.fixed[0] == "i":
                self.invariant.setdefault(block.end.fixed[1], len(self.invariant))
            for way in block.end.ways.values():
                self._collect(way)

    def _asks(self, block: Block) -> bool:
        if type(block.end) is not Look:
            return False
        known = block.end.exit or len(block.end.ways) == 2 and type(block.end.guard.expected) is bool
        return not known or any(map(self._asks, block.end.ways.values()))

    def _ref(self, ref: Any) -> Any:
        return ("i", self.invariant[ref[1]]) if ref is not None and ref[0] == "i" else ref

    def _key(self, block: Block) -> Any:
        steps = tuple(
            (s.key, tuple(map(self._ref, s.fixed)), s.moving and (s.moving[0], s.exact or tuple(s.moving[1].items())),
             tuple((n, tuple((k, v.tobytes()) for k, v in t.items())) for n, t in s.tables.items()))
            for s in block.steps
        )
        if type(block.end) is Look:
            ways = tuple((k, self._key(w)) for k, w in sorted(block.end.ways.items(), key=repr))
            return steps, self._ref(block.end.fixed), block.end.exit, ways
        return steps, tuple(map(self._ref, block.fixed))

    # -------------------------------------------------------------------------------------------------- writing it
    def emit(self, b: Builder, inputs: list[Symbol]) -> list[Any]:
        """Append the loop to a graph; its outputs."""
        n = self.carried + self.kept
        state: list[Any] = list(inputs[:n])
        rest = inputs[n:]
        count = None
        if self.exits:
            state.append(_scalar(rest.pop(0)) if self.tested else np.asarray(self.stays))
        if self.count is not None:
            count = xp.astype(_scalar(rest.pop(0)), np.dtype(np.int64))
        asks, turned = self.asks, self.limit is not None or self.count is not None or self._tables(self.root)
        if asks:
            state.append(TRUE)
        if turned:
            state.append(np.asarray(self.first, np.int64))
        write = Writer(self, rest)

        def condition(*values: Symbol) -> Any:
            it = iter(values[n:])
            parts = []
            if self.exits:
                going = next(it)
                parts.append(going if self.stays else xp.logical_not(going))
            if asks:
                parts.append(next(it))
            if turned:
                turn = next(it)
                if count is not None:
                    parts.append(turn < count)
                if self.limit is not None:
                    parts.append(turn < self.limit)
            return _all(parts)

        def body(*values: Symbol) -> list[Any]:
            turn: Any = values[-1] if turned else None
            ok = values[n + self.exits] if asks else None
            new, ok, going = write.turn(list(values[: self.carried]), list(values[self.carried : n]), turn, ok)
            if self.exits:
                new.append(going)
            if asks:
                new.append(TRUE if ok is None else ok)
            if turned:
                new.append(turn + 1)
            return new

        out = list(b.while_loop(condition, body, state))
        fine = [out[n + self.exits]] if asks else []
        if self.exits and self.limit is not None:
            fine.append(xp.logical_not(out[n]) if self.stays else out[n])
        if count is not None:
            if self.limit is not None:
                fine.append(count <= self.limit)
            if self.first:
                fine.append(count >= self.first)
        outputs = out[: n + self.exits]
        return [*outputs, _all(fine)] if self.checks else outputs

    def _tables(self, block: Block) -> bool:
        if any(s.tables or s.moving for s in block.steps):
            return True
        return type(block.end) is Look and any(map(self._tables, block.end.ways.values()))


def _ways(block: Block) -> int:
    return sum(map(_ways, block.end.ways.values())) if type(block.end) is Look else 1


def _scalar(x: Symbol) -> Symbol:
    return x if not x.shape else xp.reshape(x, ())


def _all(parts: list[Any]) -> Any:
    out = parts[0]
    for p in parts[1:]:
        out = xp.logical_and(out, p)
    return out


class Writer:
    """Writes turns: `invariant` are the inputs that are the same at each."""

    def __init__(self, loop: Turning, invariant: list[Symbol]):
        self.loop, self.invariant = loop, invariant

    def turn(self, state: list[Any], kept: list[Any], turn: Any, ok: Any) -> tuple[list[Any], Any, Any]:
        """One turn: (variables and kept values after it, whether all went as recorded, the exit's value)."""
        loop = self.loop
        values = Values(state)
        if loop.numbers is None:
            return self.block(loop.root, values, turn, ok)
        child, values.count = self.after_exit()
        values.made = dict(zip(loop.numbers, kept))
        new, ok, _ = self.block(child, values, turn, ok)
        values = Values(new)
        ok, going = self.prefix(values, None if turn is None else turn + 1, ok)
        return [*new, *[values.made[n] for n in loop.numbers]], ok, going

    def after_exit(self) -> tuple[Block, int]:
        """What comes after the exit, and how many values a turn makes before it."""
        block, n = self.loop.root, 0
        while True:
            n += sum(len(s.specs) for s in block.steps)
            found = block.end.exit
            (block,) = block.end.ways.values()
            if found:
                return block, n

    def prefix(self, values: Values, turn: Any, ok: Any) -> tuple[Any, Any]:
        """What stands before the exit: (whether all went as recorded, the exit's value)."""
        block = self.loop.root
        while True:
            self.steps(block, values, turn)
            look = block.end
            x = self.read(look.fixed, values)
            if look.exit:
                return ok, _scalar(x)
            (way,) = look.ways.values()
            ok = _and(ok, _seen(x, way.value))
            block = way

    def block(self, block: Block, values: Values, turn: Any, ok: Any) -> tuple[list[Any], Any, Any]:
        """A block to its end: (the variables then, whether all went as recorded, the exit's value)."""
        self.steps(block, values, turn)
        look = block.end
        if type(look) is not Look:
            return [self.read(r, values) for r in block.fixed], ok, None
        x = self.read(look.fixed, values)
        ways = list(look.ways.values())
        if look.exit:
            new, ok, _ = self.block(ways[0], values, turn, ok)
            return new, ok, _scalar(x)
        if len(ways) == 1:
            return self.block(ways[0], values, turn, _and(ok, _seen(x, ways[0].value)))
        return self.choose(x, ways, values, turn, ok)

    def choose(self, x: Any, ways: list[Block], values: Values, turn: Any, ok: Any) -> tuple[list[Any], Any, Any]:
        """Go the way that fits what is seen. The last one is checked, where there are others than those recorded."""
        builder = active()
        assert builder is not None
        ends = self.loop.exits and self.loop.numbers is None

        def given(new: list[Any], fine: Any, going: Any) -> list[Any]:
            return [*new, TRUE if fine is None else fine, *([going] if ends else [])]

        def first() -> list[Any]:
            return given(*self.block(ways[0], values.copy(), turn, None))

        def others() -> list[Any]:
            if len(ways) > 2:
                return given(*self.choose(x, ways[1:], values.copy(), turn, None))
            fine = None if type(ways[1].value) is bool else _seen(x, ways[1].value)
            return given(*self.block(ways[1], values.copy(), turn, fine))

        out = list(builder.cond(_seen(x, ways[0].value), first, others))
        going = out.pop() if ends else None
        return out[:-1], _and(ok, out[-1]), going

    def steps(self, block: Block, values: Values, turn: Any) -> None:
        builder = active()
        assert builder is not None
        for step in block.steps:
            args = [
                None if r is None else self.table(step, n, turn) if r[0] == "t" else self.read(r, values)
                for n, r in enumerate(step.fixed)
            ]
            if isinstance(step.item, Turning):
                values.add(step.item.emit(builder, [a if type(a) is Symbol else builder.constant(a) for a in args]))
                continue
            if step.moving is not None:
                values.add([self.select(step, args[0], turn)])
                continue
            inputs = [None if a is None else builder.value(a) for a in args]
            outs = builder.add(step.item.op, inputs, step.item.statics, step.specs, where=step.item.line)
            values.add([Symbol(v, builder) for v in outs])

    def read(self, ref: Any, values: Values) -> Any:
        kind = ref[0]
        if kind == "v":
            return values.made[ref[1]]
        if kind == "s":
            return values.state[ref[1]]
        if kind == "i":
            return self.invariant[self.loop.invariant[ref[1]]]
        return self.loop.constants[ref]

    def select(self, step: Step, x: Any, turn: Any) -> Any:
        """An operation that selects another element at each turn."""
        place, known = step.moving  # type: ignore[misc]
        axis, rest = step.item.op.selects(step.item.statics, place)
        builder = active()
        assert builder is not None
        x = builder.constant(x) if type(x) is not Symbol else x
        if step.exact:
            return builder.emit(step.item.op, (xp.take(x, turn, axis=axis),), rest)
        numbers = np.array([known.get(k, known[None]) for k in self.loop.tables], np.int64)
        numbers[numbers < 0] += x.shape[axis]
        steps = set(np.diff(numbers).tolist())
        if len(steps) == 1:
            number = (turn - self.loop.first) * steps.pop() + int(numbers[0])
        else:
            number = xp.take(numbers, turn - self.loop.first, axis=0)
        return builder.emit(step.item.op, (xp.take(x, number, axis=axis),), rest)

    def table(self, step: Step, n: int, turn: Any) -> Any:
        """The constant of this turn."""
        table = step.tables[n]
        rows = np.stack([table.get(k, table[None]) for k in self.loop.tables])
        return xp.take(rows, turn - self.loop.first, axis=0)


class Values:
    """What a turn can read."""

    def __init__(self, state: list[Any]):
        self.state = state
        self.made: dict[int, Any] = {}
        self.count = 0

    def add(self, values: list[Any]) -> None:
        for v in values:
            self.made[self.count] = v
            self.count += 1

    def copy(self) -> Values:
        out = Values(self.state)
        out.made, out.count = dict(self.made), self.count
        return out


def _seen(x: Any, value: Any) -> Any:
    """Whether `x` is what Python saw."""
    x = _scalar(x)
    if type(value) is bool:
        return x if value else xp.logical_not(x)
    return x == value


def _and(a: Any, b: Any) -> Any:
    return b if a is None else xp.logical_and(a, b)
