"""A recording: the graph of one run, where its inputs come from, and what to do with its outputs."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import Any, Callable, Iterable

import numpy as np

from agog import dispatch, tape, tree
from agog.dispatch import wrap
from agog.graph.build import Builder, Symbol
from agog.graph.ir import Constant, Graph, Input, Node, Role, Value
from agog.ops.row import Op
from agog.staging.building import build
from agog.staging.feeds import Feed
from agog.staging.guards import Guards
from agog.staging.live import Live, without_stops
from agog.staging.observe import Watch
from agog.staging.paths import Path
from agog.staging.rebinding import Held, leaves
from agog.staging.recorder import Argument, Captured, Gradient, Guard, Record, Recorder
from agog.staging.rolling import Rolled, roll
from agog.staging.state import PLAIN, is_tensor
from agog.tape import Leaf, Pick

PLAIN_RESULTS = PLAIN


class GuardMissed(Exception):
    """A value that Python looked at during the recording is another one now."""

    def __init__(self, guard: Guard, value: Any):
        super().__init__(
            f"{guard.what} gave {value!r}, not {guard.expected!r}" + (f"  ({guard.line})" if guard.line else "")
        )


class Delivered(BaseException):
    """What the user's function raised to which a staged effect was delivered. The call is committed, not repeated."""

    def __init__(self, error: Exception):
        self.error = error


class NotStageable(Exception):
    """Why this run cannot be replayed natively. once: a later run may do without."""

    def __init__(self, reason: str, once: bool = False):
        super().__init__(reason)
        self.once = once


class Recording:
    """What one run of a function did, as something that can be run again.

    Raises NotStageable when the run did something that a graph does not express.
    """

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        watch: Watch,
        result: Any,
        tensors: list[Any],
        varying: set[tuple[int, Any]],
        free: Iterable[str] = (),
    ):
        self.name = name
        if recorder.reason:
            raise NotStageable(recorder.reason)
        if found := watch.side_effect(varying):
            raise NotStageable(*found)
        self.held: list[Held] = []
        tensors = self._feed(recorder, set(free), self._hold(recorder, watch, tensors))
        self.slots: list[int] = []  # the graph's outputs: results, then state
        self._index: dict[int, int] = {}
        self._made: dict[int, int] = {}
        self.new: list[tuple[int, Any]] = []  # (output, the recorded Tensor) of each Tensor made by the call
        self._plan_results(recorder, result, tensors)
        self._plan_rebindings(recorder, watch, tensors)
        self._plan_state(recorder, tensors)
        if recorder.reason:  # planning may capture, and find what cannot be followed
            raise NotStageable(recorder.reason)
        rolled = roll(recorder, self.slots)
        self.loops = rolled.notes
        self.guard_values = rolled.guards
        self.graph, customs = to_graph(
            name,
            recorder,
            rolled,
            self.slots,
            len(self.slots) - len(self.writes) - sum(i is not None for _, i in self.gradients),
        )
        straight = all(type(step) is Record for step in rolled.steps)
        self.path = Path(rolled.guards if straight else [])
        self.to_compile = without_stops(self.graph) if recorder.stops or recorder.attached else self.graph
        self.fetch: list[Any] = [source for _, source in recorder.sources]
        self.captured = [s.tensor for s in self.fetch if type(s) is Captured]
        self.guards = Guards(watch, self.captured, any(t._node is not None for _, t in self.new))
        pinned = watch.pinned()
        self.same_arguments = [(i, t) for i, t in enumerate(tensors) if id(t) in pinned]
        known = {i for i, _ in self.same_arguments}
        self.other_arguments = [i for i in range(len(tensors)) if i not in known]
        self.captured_ids = {id(t) for t in self.captured}
        self.captured_ids |= {i for i, x in pinned.items() if is_tensor(x)}  # (Python may have asked `x is y`)
        self.leaf_states = [
            (self._owner(leaf, tensors), before is None)
            for leaf, before in recorder.leaves.values()
            if id(leaf) not in recorder.written
        ]
        for source in self.fetch:
            if type(source) is Gradient:
                source.leaf = self._owner(source.leaf, tensors)
        self.specs = [recorder.specs[slot] for slot, _ in recorder.sources]
        self.argument_specs = [_spec(t) for t in tensors]
        self.effects = recorder.effects
        self.program: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None
        self.entry: Any = None  # the call written out, where that can be done
        self.tail = len(self.slots)
        self.counter = types.CellType(0)  # of the calls that it answered; written-out calls have it as a variable
        self.cost = 0.0  # how many seconds it took to make
        self._find_live(recorder, tensors, customs)
        self.hooks = [(t._node, _hooks(t._node)) for t in self.captured if t._node is not None]
        self.hooks += [(leaf, _hooks(leaf)) for leaf, _ in recorder.leaves.values()]
        self.argument_hooks = [(i, _hooks(t._node)) for i, t in enumerate(tensors) if t._node is not None]
        self.differentiable = bool(self.hooks or self.argument_hooks)

    # ------------------------------------------------------------------------------------------ what comes out
    def _output(self, slot: int) -> int:
        if slot not in self._index:
            self._index[slot] = len(self.slots)
            self.slots.append(slot)
        return self._index[slot]

    def _plan_results(self, recorder: Recorder, result: Any, tensors: list[Any]) -> None:
        _refuse_shared(result, recorder)
        leaves, self.structure = tree.flatten(result)
        arguments = {id(t): i for i, t in enumerate(tensors)}
        self.results: list[tuple[str, Any]] = []
        for x in leaves:
            if is_tensor(x):
                self.results.append(self._tensor(recorder, arguments, x))
            elif isinstance(x, PLAIN_RESULTS):
                self.results.append(("same", x))
            else:
                raise NotStageable(f"it returns a {type(x).__name__}, which is neither a Tensor nor plain data")

    def _tensor(self, recorder: Recorder, arguments: dict[int, int], x: Any) -> tuple[str, Any]:
        """Where a Tensor that the call gives away comes from."""
        if id(x) in arguments:
            return "argument", arguments[id(x)]
        if not recorder.is_born(x):
            slot = recorder.slot_of(x)
            for k, (at, source) in enumerate(recorder.sources):
                if at == slot and type(source) is Gradient:
                    return "input", k
            return "same", x
        if type(x) is not dispatch.Tensor:
            raise NotStageable(f"it gives away a {type(x).__name__} that it made")
        if id(x) not in self._made:
            self._made[id(x)] = len(self.new)
            self.new.append((self._output(recorder.slot_of(x)), x))
        return "new", self._made[id(x)]

    def _hold(self, recorder: Recorder, watch: Watch, tensors: list[Any]) -> list[Any]:
        """The arguments, and after them the Tensors in places that hold one after another."""
        tensors = list(tensors)
        for place, value in watch.held.values():
            held = Held(place, value, len(tensors))
            self.held.append(held)
            leaves(value, held.form, tensors)
        index = {id(t): i for i, t in reversed(list(enumerate(tensors)))}
        self.alike = [index[id(t)] for t in tensors]
        recorder.sources = [
            (slot, Argument(index[id(s.tensor)]) if type(s) is Captured and id(s.tensor) in index else s)
            for slot, s in recorder.sources
        ]
        return tensors

    def _feed(self, recorder: Recorder, free: set[str], tensors: list[Any]) -> list[Any]:
        """The arguments, and after them the operands that are computed from free parameters."""
        self.fed: list[Feed] = []
        self.first_fed = len(tensors)
        index: dict[Any, int] = {}
        for slot, feed in recorder.evidence.feeds.items() if free else ():
            if free.issuperset(feed.names):
                data = recorder.constants.pop(slot)
                same = feed.text, data.dtype, data.shape
                if same not in index:
                    index[same] = len(tensors)
                    self.fed.append(feed)
                    tensors.append(wrap(data))
                recorder.sources.append((slot, Argument(index[same])))
        return tensors

    def _plan_rebindings(self, recorder: Recorder, watch: Watch, tensors: list[Any]) -> None:
        """(place, structure, leaves) of what the call leaves in places that it gives another value."""
        arguments = {id(t): i for i, t in enumerate(tensors)}
        self.rebindings: list[tuple[Any, Any, list[tuple[str, Any]]]] = []
        for r in watch.rebindings:
            found, structure = tree.flatten(r.after)
            for x in found:
                if not (id(x) in arguments or id(x) in recorder.external or id(x) in watch.reached):
                    if not recorder.is_born(x):
                        raise NotStageable(f"it gives {r.place.name} a Tensor that cannot be followed")
            self.rebindings.append((r.place, structure, [self._tensor(recorder, arguments, x) for x in found]))

    def _plan_state(self, recorder: Recorder, tensors: list[Any]) -> None:
        """What the call changes: (Tensor or number of the argument, output), (leaf or number, output or None)."""
        arguments = {id(t): i for i, t in reversed(list(enumerate(tensors)))}
        self.writes: list[tuple[Any, int]] = []
        self.gradients: list[tuple[Any, int | None]] = []
        for seen in list(recorder.external.values()):
            tensor = seen.tensor
            if tensor._node is not seen.node:
                raise NotStageable("it changes whether a Tensor from outside requires a gradient, or its history")
            if tensor._data is not seen.data:
                slot = recorder.slot_at(tensor._data)
                if slot is None:
                    raise NotStageable("it gives a Tensor from outside a value that cannot be followed")
                self.writes.append((arguments.get(id(tensor), tensor), self._extra(slot)))
        for leaf, before in recorder.leaves.values():
            if before is not None and before._node is not None and id(before) in recorder.external:
                raise NotStageable("it reads a gradient that has a history of its own (create_graph=True)")
            if leaf.grad is not before or id(leaf) in recorder.written:
                if leaf.grad is not None and leaf.grad._node is not None:
                    raise NotStageable("it leaves a gradient with a history of its own (create_graph=True)")
                slot = None if leaf.grad is None else recorder.slot_of(leaf.grad)
                self.gradients.append((self._owner(leaf, tensors), None if slot is None else self._extra(slot)))

    @staticmethod
    def _owner(leaf: Leaf, tensors: list[Any]) -> Any:
        """The leaf, or the number of the argument that it belongs to."""
        return next((i for i, t in enumerate(tensors) if t._node is leaf), leaf)

    def _extra(self, slot: int) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1

    def _find_live(self, recorder: Recorder, tensors: list[Any], customs: Any) -> None:
        """Which new results can be differentiated afterwards, and which say that their graph was used up."""
        self.live: list[int] = []
        self.spent: list[int] = []
        reached, made = [], []
        for i, (_, t) in enumerate(self.new):
            if t._node is None:
                continue
            history = _history(t._node, recorder)
            if history is None:
                self.spent.append(i)
            else:
                reached.append(history[0])
                made.append(history[1])
                self.live.append(i)
        self.gradient: Live | None = None
        if self.live:
            known = {seen.slot: seen.node for seen in recorder.external.values()}
            nodes = [known.get(slot) for slot, _ in recorder.sources]
            which = [i for i, node in enumerate(nodes) if node is not None and any(node in r for r in reached)]
            reaches = [{k for k, i in enumerate(which) if nodes[i] in r} for r in reached]
            if customs is None:
                raise NotStageable("it returns a Tensor that depends on a gradient rule of the user inside a loop")
            self.gradient = Live(self.name, self.graph, [self.new[k][0] for k in self.live], which, reaches, customs)
            self.gradient.part(made)
            if customs:
                if reason := self.gradient.trace():
                    raise NotStageable(reason)
        self.new = [(i, None) for i, _ in self.new]

    def compile(self) -> None:
        """Make the program; from then on the recording can be run."""
        self.program = build(self.to_compile) if self.gradient is None else self.gradient.compile()

    @property
    def calls(self) -> int:
        """How many calls it has answered."""
        return self.counter.cell_contents

    # --------------------------------------------------------------------------------------------------- running
    def inputs(self, tensors: list[Any]) -> list[Any]:
        """The input Tensors of a call (not their arrays)."""
        out = []
        for source in self.fetch:
            kind = type(source)
            if kind is Argument:
                out.append(tensors[source.index])
            elif kind is Captured:
                out.append(source.tensor)
            else:
                out.append(_leaf(source.leaf, tensors).grad)
        return out

    def gather(self, tensors: list[Any], free: dict[str, Any]) -> list[Any]:
        """The arguments of a call; after them, what the held places hold now, and operands made of free parameters."""
        if not self.held and not self.fed:
            return tensors
        held = [t for held in self.held for t in held.read()]
        return [*tensors, *held, *[wrap(feed.array(free)) for feed in self.fed]]

    def applies(self, tensors: list[Any]) -> str | None:
        """None when the guards hold for gathered Tensors, else the name of what changed."""
        for held in self.held:
            for i in range(held.first, held.first + len(held.kinds)):
                t = tensors[i]
                if t is None or _spec(t) != self.argument_specs[i]:
                    return held.place.name
                if any((tensors[k] is t) != (k == self.alike[i]) for k in range(i) if self.alike[k] == k):
                    return f"whether {held.place.name} is another Tensor as well"
        for i, t in self.same_arguments:
            if tensors[i] is not t:
                return f"argument {i}, which was a Tensor that the function also reads from outside"
        for i in self.other_arguments:
            if id(tensors[i]) in self.captured_ids:
                return f"argument {i}, which is now a Tensor that the function also reads from outside"
        for owner, absent in self.leaf_states:
            if (_leaf(owner, tensors).grad is None) != absent:
                return "whether .grad is None"
        if (name := self.guards.failed()) is not None:
            return name
        if self.gradient is not None and (name := self.gradient.changed()) is not None:
            return name
        if any(_hooks(node) != before for node, before in self.hooks) or any(
            _hooks(tensors[i]._node) != before for i, before in self.argument_hooks
        ):
            return "a gradient hook"
        for source, (shape, dtype) in zip(self.fetch, self.specs):
            kind = type(source)
            if kind is not Argument:
                tensor = source.tensor if kind is Captured else _leaf(source.leaf, tensors).grad
                if kind is Gradient and tensor._node is not None:
                    return "whether .grad has a history"
                data = tensor._data
                if type(data) is not np.ndarray or data.shape != shape or data.dtype != dtype:
                    return "the shape, dtype or device of a captured Tensor"
        return None

    def run(self, tensors: list[Any]) -> Any:
        """The native call: compute, then commit. Raises GuardMissed with nothing changed."""
        inputs = self.inputs(tensors)
        outs = self.program([t._data for t in inputs])  # type: ignore[misc]
        at = self.tail
        for guard in self.guard_values:
            value = outs[at].item()
            if not guard.holds(value):
                raise GuardMissed(guard, value)
            at += 1
        self.counter.cell_contents += 1
        return self.commit(outs, at, inputs, tensors)

    def commit(self, outs: list[Any], at: int, inputs: list[Any], tensors: list[Any]) -> Any:
        new = [wrap(outs[i]) for i, _ in self.new]
        if self.gradient is not None:
            self.gradient.attach(
                [new[k] for k in self.live],
                tuple([inputs[i]._node for i in self.gradient.which]),
                tuple([t._data for t in inputs]),
                outs,
            )
        for i in self.spent:
            new[i]._node = spent(new[i])
        for target, i in self.writes:
            (tensors[target] if type(target) is int else target)._data = outs[i]
        for owner, k in self.gradients:
            _leaf(owner, tensors).grad = None if k is None else wrap(outs[k])
        for place, structure, values in self.rebindings:
            place.write(tree.unflatten(structure, self._fetch(values, tensors, new, inputs)))
        for effect in self.effects:
            deliver(effect, *[wrap(outs[at + k]) for k in range(len(effect.slots))])
            at += len(effect.slots)
        return tree.unflatten(self.structure, self._fetch(self.results, tensors, new, inputs))

    @staticmethod
    def _fetch(values: list[tuple[str, Any]], tensors: list[Any], new: list[Any], inputs: list[Any]) -> list[Any]:
        where = {"argument": tensors, "new": new, "input": inputs}
        return [x if kind == "same" else where[kind][x] for kind, x in values]


def deliver(effect: Any, *values: Any) -> None:
    """Deliver a staged effect after everything else was committed."""
    try:
        effect.deliver(*values)
    except Exception as error:
        raise Delivered(error) from None


def _refuse_shared(x: Any, recorder: Recorder, seen: set[int] | None = None) -> None:
    """Containers in a result are made anew at every call: those that must be the same, or need more, cannot."""
    seen = set() if seen is None else seen
    data = dataclasses.is_dataclass(x) and not isinstance(x, type)
    if not (data or isinstance(x, list | dict | tuple)):
        return
    kind = type(x).__name__
    if not isinstance(x, tuple):
        if id(x) in seen:
            raise NotStageable(f"it returns one {kind} twice")
        seen.add(id(x))
        if recorder.watch is not None and id(x) in recorder.watch.reached:
            raise NotStageable(f"it returns a {kind} that also exists outside of the call")
    if isinstance(x, dict) and type(x) not in (dict, collections.OrderedDict):
        raise NotStageable(f"it returns a {kind}")
    if data:
        if extra := getattr(x, "__dict__", {}).keys() - {f.name for f in dataclasses.fields(x) if f.init}:
            raise NotStageable(
                f"it returns a {kind} with the attribute {min(extra)!r} that its constructor does not take"
            )
        if hasattr(x, "__post_init__") or "__new__" in vars(type(x)):
            raise NotStageable(f"it returns a {kind}, whose construction runs code of its own")
    parts = (
        [getattr(x, f.name, None) for f in dataclasses.fields(x)] if data else x.values() if isinstance(x, dict) else x
    )
    for v in parts:
        _refuse_shared(v, recorder, seen)


def _spec(t: Any) -> tuple:
    """What the code of a recording takes for granted of a Tensor argument."""
    return t._data.shape, t._data.dtype, None if t._node is None else type(t._node)


def _leaf(owner: Any, tensors: list[Any]) -> Any:
    return tensors[owner]._node if type(owner) is int else owner


def _history(node: Any, recorder: Recorder) -> tuple[set[Any], set[Any]] | None:
    """The nodes that a result depends on, those older than the recording and the others; None when its graph, or part
    of it, was used up.

    Its gradient goes through the recorded operations: refuse what these do not express.
    """
    stack, seen, old = [node], set(), set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.seq > recorder.start:  # (tickets count down)
            old.add(node)
            continue
        if _freed(node):
            return None
        if type(node) is Leaf:
            raise NotStageable("it returns a Tensor that depends on one whose requires_grad it switched on")
        if node in tape.hooks:
            raise NotStageable("it returns a Tensor that depends on one with a gradient hook")
        if type(node) is Pick:
            stack.append(node.source)
            continue
        if type(node.op) is not Op and node not in recorder.custom_nodes:
            raise NotStageable(
                f"it returns a Tensor whose gradient has a rule of its own ({node.op.name}); "
                "stage the step that calls backward()"
            )
        stack.extend(node.parents)
    return old, seen - old


def _hooks(node: Any) -> tuple:
    return tuple(tape.hooks.get(node, ()))


def _freed(node: Any) -> bool:
    if type(node) is Leaf:
        return False
    return (node.source if type(node) is Pick else node).env is None


def spent(t: Any) -> Any:
    """The node of a result whose graph was used up inside the call, as after `backward()`."""
    node = object.__new__(tape.Node)
    node.op, node.parents, node.env, node.shape, node.seq = _SPENT, (), None, t.shape, tape._ticket()
    return node


class _Spent:
    name, variadic, elementwise, outputs, inputs, static_names, derived, rules = (
        "staged call",
        False,
        False,
        ("y",),
        (),
        (),
        (),
        (),
    )


_SPENT = _Spent()


def to_graph(
    name: str, recorder: Recorder, rolled: Rolled, slots: list[int], results: int
) -> tuple[Graph, dict[Node, tuple[Any, list[Value], list[Value]]] | None]:
    """The recorded operations, with their loops, as a graph.

    Also {last node: (rule, inputs, outputs)} of the functions with gradient rules of their own; None when one of them
    has become part of a loop.

    Outputs: the planned ones, then the value of each guard, then the values that effects deliver.
    """
    values: dict[int, Value] = {}
    inputs = []
    for slot, source in recorder.sources:
        shape, dtype = recorder.specs[slot]
        role = Role("argument", str(source.index)) if type(source) is Argument else Role("captured", repr(source))
        values[slot] = Input(shape, dtype, role)
        inputs.append(values[slot])
    for slot, data in recorder.constants.items():
        values[slot] = Constant(data)
    builder = Builder(name)
    made_of: dict[int, Node] = {}
    for step in rolled.steps:
        if type(step) is not Record:
            builder.where = step.line
            with builder:
                made = step.emit(builder, [Symbol(values[s], builder) for s in step.inputs])
            values.update(zip(step.outputs, map(builder.value, made)))
            continue
        args = [None if s is None else values[s] for s in step.inputs]
        outs = [Value(*recorder.specs[s]) for s in step.outputs]
        builder.append(Node(step.op, args, step.statics, outs, (), step.line))
        values.update(zip(step.outputs, outs))
        made_of[id(step)] = builder.nodes[-1]
    tail = [g.slot for g in rolled.guards] + [s for e in recorder.effects for s in e.slots]
    outputs = [values[s] for s in (*slots, *tail)]
    roles = [Role("result", str(i)) if i < results else Role("state", str(i)) for i in range(len(slots))]
    roles += [Role("saved", "guard") for _ in rolled.guards] + [Role("saved", "effect")] * (
        len(tail) - len(rolled.guards)
    )
    customs: dict[Node, tuple[Any, list[Value], list[Value]]] | None = {}
    for c in recorder.customs:
        if customs is None or id(c.last) not in made_of or not values.keys() >= {*c.inputs, *c.outputs}:
            customs = None
        else:
            customs[made_of[id(c.last)]] = c.rule, [values[s] for s in c.inputs], [values[s] for s in c.outputs]
    return Graph(name, inputs, builder.nodes, outputs, roles), customs
