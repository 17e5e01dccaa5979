"""The call of a recording, written out as one Python function: check the arguments and guards, run, commit.

`entry(args)` returns the result, or MISS when something is not as it was recorded; then the general path looks for
another recording and finds out what differs. What is written here is what `Recording.applies`, `run` and `commit` do,
without their loops.
"""

from __future__ import annotations

import types
from typing import Any, Callable

import numpy as np

from agog import dispatch, tape, tree
from agog.staging.recorder import Argument, Captured
from agog.staging.recording import Recording, spent
from agog.staging.state import ABSENT, SIZE, fingerprint

MISS = object()


def write_entry(r: Recording, arguments: list[tuple[str, Any]] | None) -> Callable[[tuple], Any] | None:
    """The entry of a recording; None when this call needs the general path.

    arguments: for each positional argument ("tensor", index), ("plain", value) or ("same", object); None if there are
    others.
    """
    native = getattr(r.program, "call", None)
    if arguments is None or native is None or r.leaf_states and any(type(o) is int for o, _ in r.leaf_states):
        return None
    if any(type(s) not in (Argument, Captured) for s in r.fetch) or any(type(o) is int for o, _ in r.gradients):
        return None
    w = _Writer()
    w.line(f"if len(args) != {len(arguments)}: return MISS")
    if arguments:
        w.line(", ".join(f"a{i}" for i in range(len(arguments))) + ("," if len(arguments) == 1 else "") + " = args")
    names = _check_arguments(w, r, arguments)
    _check_guards(w, r)
    inputs = _check_captured(w, r, names)
    w.line(f"outs = native({', '.join(inputs)})")
    w.env["recording"] = r
    _commit(w, r, names, inputs)
    return w.make(native)


class _Writer:
    """Lines of the function's body, and the objects that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.env: dict[str, Any] = {"MISS": MISS, "nd": np.ndarray, "ABSENT": ABSENT, "new": object.__new__,
                                    "Tensor": dispatch.Tensor, "fingerprint": fingerprint, "spent": spent}

    def line(self, text: str) -> None:
        self.lines.append(text)

    def name(self, value: Any) -> str:
        name = f"k{len(self.env)}"
        self.env[name] = value
        return name

    def make(self, native: Any) -> Callable[[tuple], Any]:
        self.env["native"] = native
        body = "\n".join("    " + text for text in self.lines)
        exec(compile(f"def entry(args):\n{body}\n", "<agog entry>", "exec"), self.env)
        return self.env["entry"]


def _check_arguments(w: _Writer, r: Recording, arguments: list[tuple[str, Any]]) -> list[str]:
    """Checks of the form of the arguments; returns the variable of each Tensor argument."""
    found: dict[int, str] = {}
    specs = r.argument_specs
    for i, (kind, what) in enumerate(arguments):
        if kind == "same":
            w.line(f"if a{i} is not {w.name(what)}: return MISS")
            continue
        if kind == "plain":
            if what is None or what is True or what is False:
                w.line(f"if a{i} is not {what}: return MISS")
            else:
                w.line(f"if type(a{i}) is not {w.name(type(what))} or a{i} != {w.name(what)}: return MISS")
            continue
        shape, dtype, history = specs[what]
        w.line("try:")
        w.line(f"    d{what} = a{i}._data")
        w.line(f"    n = a{i}._node")
        w.line("except AttributeError: return MISS")
        w.line(f"if type(d{what}) is not nd or d{what}.dtype is not {w.name(dtype)} or d{what}.shape != {w.name(shape)}: return MISS")
        if history is None:
            w.line("if n is not None: return MISS")
        else:
            w.line(f"if type(n) is not {w.name(history)}: return MISS")
        found[what] = f"a{i}"
    names = [found[i] for i in range(len(found))]
    for i, name in enumerate(names):
        for other in names[:i]:
            w.line(f"if {name} is {other}: return MISS")
    for i, t in r.same_arguments:
        w.line(f"if {names[i]} is not {w.name(t)}: return MISS")
    if r.captured_ids and r.other_arguments:
        ids = w.name(frozenset(r.captured_ids))
        for i in r.other_arguments:
            w.line(f"if id({names[i]}) in {ids}: return MISS")
    return names


def _read(w: _Writer, place: Any) -> str:
    holder, key = place.holder, place.key
    if key is SIZE:
        return f"len({w.name(holder)})"
    if type(holder) is dict or type(holder) is types.MappingProxyType:
        return f"{w.name(holder)}.get({key!r}, ABSENT)" if isinstance(key, str) else f"{w.name(place)}.read()"
    if isinstance(holder, types.FunctionType) and isinstance(key, str) or key in ("__mro__", "__class__"):
        return f"{w.name(holder)}.{key}"
    return f"{w.name(place)}.read()"


def _check_guards(w: _Writer, r: Recording) -> None:
    guards = r.guards
    if r.differentiable:
        w.line(f"if {w.name(tape.hooks.data)}: return MISS")
    for owner, absent in r.leaf_states:
        w.line(f"if {w.name(owner)}.grad is {'not None' if absent else 'None'}: return MISS")
    for place, value in guards.same:
        w.line(f"if {_read(w, place)} is not {w.name(value)}: return MISS")
    for place, kind, value in guards.equal:
        w.line(f"now = {_read(w, place)}")
        w.line(f"if type(now) is not {w.name(kind)} or now != {w.name(value)}: return MISS")
    for place, value, code in guards.functions:
        w.line(f"now = {_read(w, place)}")
        w.line(f"if now is not {w.name(value)} or now.__code__ is not {w.name(code)}: return MISS")
    for watched in guards.watched:
        w.line(f"now = {w.name(watched.value)}.__agog_watch__()[0]")
        entry = w.name(watched)
        w.line(f"if now is not {entry}.last and not {entry}.holds(now): return MISS")
    for place, before in guards.deep:
        w.line(f"if fingerprint({_read(w, place)}, None, {place.name!r}) != {w.name(before)}: return MISS")


def _check_captured(w: _Writer, r: Recording, names: list[str]) -> list[str]:
    """Checks of the Tensors read from outside; returns an expression for the array of each input."""
    inputs = []
    nodes = {id(t): node for t, node in r.guards.nodes}
    for k, (source, (shape, dtype)) in enumerate(zip(r.fetch, r.specs)):
        if type(source) is Argument:
            inputs.append(f"d{source.index}")
            continue
        tensor = w.name(source.tensor)
        w.line(f"c{k} = {tensor}._data")
        w.line(f"if type(c{k}) is not nd or c{k}.shape != {w.name(shape)} or c{k}.dtype is not {w.name(dtype)}: return MISS")
        if id(source.tensor) in nodes:
            node = nodes[id(source.tensor)]
            w.line(f"if {tensor}._node is not {'None' if node is None else w.name(node)}: return MISS")
        inputs.append(f"c{k}")
    return inputs


def _commit(w: _Writer, r: Recording, names: list[str], inputs: list[str]) -> None:
    at = r.tail
    for guard in r.guard_values:
        w.line(f"if not {w.name(guard.holds)}(outs[{at}].item()): return MISS")
        at += 1
    w.line("recording.calls += 1")
    for i, (out, _) in enumerate(r.new):
        w.line(f"r{i} = new(Tensor)")
        w.line(f"r{i}._data = outs[{out}]")
        w.line(f"r{i}._node = " + (f"spent(r{i})" if i in r.spent else "None"))
    if r.gradient is not None:
        nodes = {id(t): w.name(node) for t, node in r.guards.nodes if node is not None}
        parents = [f"{names[s.index]}._node" if type(s) is Argument else nodes[id(s.tensor)]
                   for s in (r.fetch[i] for i in r.gradient.which)]
        results = ", ".join(f"r{k}" for k in r.live)
        w.line(f"{w.name(r.gradient.attach)}([{results}], ({''.join(p + ', ' for p in parents)}), "
               f"({''.join(x + ', ' for x in inputs)}), outs)")
    for target, out in r.writes:
        w.line(f"{names[target] if type(target) is int else w.name(target)}._data = outs[{out}]")
    for owner, out in r.gradients:
        leaf = w.name(owner)
        if out is None:
            w.line(f"{leaf}.grad = None")
        else:
            w.line("g = new(Tensor)")
            w.line(f"g._data = outs[{out}]")
            w.line("g._node = None")
            w.line(f"{leaf}.grad = g")
    for effect in r.effects:
        values = []
        for _ in effect.slots:
            w.line(f"e{at} = new(Tensor)")
            w.line(f"e{at}._data = outs[{at}]")
            w.line(f"e{at}._node = None")
            values.append(f"e{at}")
            at += 1
        w.line(f"{w.name(effect.deliver)}({', '.join(values)})")
    leaves = [w.name(x) if kind == "same" else names[x] if kind == "argument" else f"r{x}" for kind, x in r.results]
    w.line(f"return {_structure(w, r.structure, iter(leaves))}")


def _structure(w: _Writer, s: tree.Structure, leaves: Any) -> str:
    if s.kind is None:
        return next(leaves)
    if s.kind is type(None):
        return "None"
    children = [_structure(w, c, leaves) for c in s.children]
    if s.kind is tuple:
        return "(" + ", ".join(children) + ("," if len(children) == 1 else "") + ")"
    if s.kind is list:
        return "[" + ", ".join(children) + "]"
    if s.kind is dict:
        return "{" + ", ".join(f"{w.name(k)}: {c}" for k, c in zip(s.aux, children)) + "}"
    flat = tree.Structure(s.kind, s.aux, tuple(tree.LEAF for _ in s.children))
    return f"{w.name(tree.unflatten)}({w.name(flat)}, [{', '.join(children)}])"
