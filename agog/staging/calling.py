"""The call of a recording, written out as one Python function: check the arguments and guards, run, commit.

`entry(*args, **kwargs)` returns the result, or MISS when something is not as it was recorded (a Missed when that is a
value that Python looked at); then the general path looks for another recording and finds out what differs.
`entry.first` is the same code for the recording that is tried first: it is itself what a call of the staged function
runs, and ends in what it was given for when it does not apply. What is written here is what `Recording.applies`, `run`
and `commit` do, without their loops.
"""

from __future__ import annotations

import dataclasses
import itertools
import types
from typing import Any, Callable

import numpy as np

from agog import config, dispatch, tape, tree
from agog.compiler import disk
from agog.staging.forms import Parameters
from agog.staging.paths import Missed
from agog.staging.rebinding import Held
from agog.staging.recorder import Argument, Captured
from agog.staging.recording import Delivered, Recording, deliver, spent
from agog.staging.state import ABSENT, CONTAINERS, NAMES, PLAIN, SIZE, Entry, Seen, fingerprint, is_tensor

MISS = object()

_CONTENTS = 1000
"""Entries up to which the comparison of a list is written out."""


def describe(args: tuple, kwargs: dict, tensors: list[Any], parameters: Parameters) -> Any:
    """The arguments for `write_entry`; None when they need the general path.

    (positional, names, by name), where an argument is ("tensor", its number, its class), ("plain", value),
    ("same", object), ("free", its name, value), (list or tuple, arguments) or (dict, keys, arguments).
    """
    count = 0
    seen: set[int] = set()

    def one(x: Any) -> Any:
        nonlocal count
        if is_tensor(x):
            count += 1
            return "tensor", count - 1, type(x)
        if isinstance(x, list | dict):
            if id(x) in seen:
                raise _Unfit
            seen.add(id(x))
        if type(x) in (list, tuple):
            return type(x), [one(v) for v in x]
        if type(x) is dict and all(isinstance(k, str | int) for k in x):
            return dict, tuple(x), [one(v) for v in x.values()]
        if type(x) in (str, bool, type(None), int) or (type(x) is float and x == x and x != 0):
            return "plain", x
        if not isinstance(x, (*PLAIN, *CONTAINERS, np.ndarray)) and not dataclasses.is_dataclass(x):
            return "same", x
        raise _Unfit

    def argument(name: str, x: Any) -> Any:
        return ("free", name, x) if parameters.is_free(name, x) else one(x)

    try:
        positional = [argument(parameters.name(i), x) for i, x in enumerate(args)]  # numbered first, as in the form
        out = positional, tuple(kwargs), [argument(name, x) for name, x in kwargs.items()]
    except _Unfit:
        return None
    finally:
        one = None  # type: ignore[assignment]  # (it refers to itself)
    return out if count == len(tensors) == len({id(t) for t in tensors}) else None


class _Unfit(Exception):
    pass


def write_entry(r: Recording, arguments: Any, missed: Callable[..., Any]) -> Any:
    """The entry of a recording, for arguments described by `describe`; None when this call needs the general path.

    missed: `missed(args, kwargs, error)` goes on with a call that `entry.first` does not answer, for which the last
    arguments may be ABSENT; error is what the call raised, or a Missed, or None
    """
    written = getattr(r.program, "written", None)
    if arguments is None or written is None or r.leaf_states and any(type(o) is int for o, _ in r.leaf_states):
        return None
    if r.gradient is not None and r.gradient.guards is not None:
        return None
    if any(type(s) not in (Argument, Captured) for s in r.fetch) or any(type(o) is int for o, _ in r.gradients):
        return None
    w = _Writer()
    names = _check_arguments(w, r, *arguments)
    _check_guards(w, r)
    inputs = _check_captured(w, r)
    given = {i: s.index for i, s in enumerate(r.fetch) if type(s) is Argument and s.index < r.first_fed}
    misfit = [f"if d{k}.shape != {w.name(r.specs[i][0])}: break" for i, k in given.items()]  # most often it is that
    body = written(inputs, [*misfit, f"outs = converted([{', '.join(inputs)}])", "if outs is None: break"])
    if body is None:
        w.line(f"if not fits(({' '.join(d + ',' for d in inputs)})): break")
        w.line(f"outs = program([{', '.join(inputs)}])")
    else:
        for i in r.program.unread():  # type: ignore[union-attr]
            _check_form(w, inputs[i], *r.specs[i])
        lines, env, outs = body
        w.lines += lines
        w.env |= env
        w.outs, w.out = f"[{', '.join(outs)}]", outs.__getitem__
    specs = r.specs

    def fits(arrays: tuple) -> bool:
        return all(
            type(x) is np.ndarray and x.shape == shape and x.dtype == dtype for x, (shape, dtype) in zip(arrays, specs)
        )

    w.env |= {"path": r.path, "fits": fits, "program": r.program, "converted": getattr(r.program, "converted", None)}
    _commit(w, r, names, inputs)
    return w.make(r.counter, missed)


class _Writer:
    """Lines of the function's body, which `break` when something is not as recorded, and the objects that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.arguments: list[str] = []  # the variables of the positional ones
        self.objects: dict[int, str] = {}  # variables of arguments that the recording does not keep alive
        self.found: dict[int, str] = {}  # variables of captured Tensors that were found where they were
        self.fresh = itertools.count()
        self.outs = "outs"  # what holds the outputs of the program, and one of them
        self.out: Callable[[int], str] = "outs[{}]".format
        self.env: dict[str, Any] = {
            "config": config,
            "Delivered": Delivered,
            "Missed": Missed,
            "nd": np.ndarray,
            "array": np.array,
            "ABSENT": ABSENT,
            "blanks": dispatch._blanks,
            "Tensor": dispatch.Tensor,
            "fingerprint": fingerprint,
            "Seen": Seen,
            "spent": spent,
            "deliver": deliver,
        }

    def line(self, text: str) -> None:
        self.lines.append(text)

    def name(self, value: Any) -> str:
        name = f"k{len(self.env)}"
        self.env[name] = value
        return name

    def make(self, calls: types.CellType, missed: Callable[..., Any]) -> Any:
        """The function and, as its attribute `first`, another one with the same code, which ends in `missed`.

        calls: counts the calls that they answer
        """
        given = "".join(f"{name}, " for name in self.arguments)
        head = "".join(f"{name}=ABSENT, " for name in self.arguments) + ("/, " if self.arguments else "")
        body = "\n".join("                " + text for text in self.lines)
        exec(disk.bytecode(_FORM.format(head=head, body=body, given=given), "<agog entry>"), self.env)
        made = self.env.pop("make")(None, None)

        def ending(end: Callable[..., Any]) -> Any:
            cells = {"calls": calls, "missed": types.CellType(end)}
            closure = tuple([cells[name] for name in made.__code__.co_freevars])
            return types.FunctionType(made.__code__, self.env, "entry", made.__defaults__, closure)

        entry = ending(_miss)
        entry.first, entry.path = ending(missed), self.env["path"]
        return entry


_FORM = """\
def make(calls, missed):
    def entry({head}*rest, **kwargs):
        nonlocal calls
        error = None
        try:
            while not config.special:
                if rest: break
{body}
        except (Exception, Delivered) as raised:
            error = raised.with_traceback(None)
        return missed(({given}*rest,), kwargs, error)
    return entry
"""


def _miss(args: tuple, kwargs: dict, error: BaseException | Missed | None) -> Any:
    if isinstance(error, BaseException):
        raise error
    return error or MISS


def _check_arguments(w: _Writer, r: Recording, positional: list[Any], keys: tuple, by_name: list[Any]) -> list[str]:
    """Checks of the form of the arguments; returns the variable of each Tensor argument."""
    found: dict[int, str] = {}
    free: dict[str, str] = {}
    containers: list[str] = []
    fresh = iter(range(1 << 30)).__next__

    def check(name: str, what: Any) -> None:
        kind = what[0]
        if kind == "same" and id(what[1]) in r.guards.weak:
            reference, kind_of = w.name(r.guards.weak[id(what[1])][0]), w.name(type(what[1]))
            w.line(f"if {name} is not {reference}() or type({name}) is not {kind_of}: break")
            w.objects[id(what[1])] = name
        elif kind == "same":
            w.line(f"if {name} is not {w.name(what[1])}: break")
        elif kind == "free":
            value = what[2]
            w.line(f"if type({name}) is not {w.name(type(value))}: break")
            if isinstance(value, np.ndarray):
                dtype, shape = w.name(value.dtype), w.name(value.shape)
                w.line(f"if {name}.dtype != {dtype} or {name}.shape != {shape}: break")
            free[what[1]] = name
        elif kind == "plain":
            value = what[1]
            if value is None or value is True or value is False:
                w.line(f"if {name} is not {value}: break")
            else:
                w.line(f"if type({name}) is not {w.name(type(value))} or {name} != {w.name(value)}: break")
        elif kind == "tensor":
            w.line(f"if type({name}) is not {'Tensor' if what[2] is dispatch.Tensor else w.name(what[2])}: break")
            _check_tensor(w, name, what[1], r.argument_specs[what[1]])
            found[what[1]] = name
        elif kind is dict:
            w.line(f"if type({name}) is not dict or tuple({name}) != {w.name(what[1])}: break")
            containers.append(name)
            unpack(f"{name}.values()", what[2])
        else:
            w.line(f"if type({name}) is not {kind.__name__} or len({name}) != {len(what[1])}: break")
            if kind is list:
                containers.append(name)
            unpack(name, what[1])

    def unpack(source: str, parts: list[Any]) -> None:
        names = [f"a{fresh()}" for _ in parts]
        if names:
            w.line(", ".join(names) + ("," if len(names) == 1 else "") + f" = {source}")
        for name, part in zip(names, parts):
            check(name, part)

    w.line(f"if tuple(kwargs) != {w.name(keys)}: break" if keys else "if kwargs: break")
    w.arguments = [f"a{fresh()}" for _ in positional]
    for name, part in zip(w.arguments, positional):  # (one that was not given is ABSENT, which passes no check)
        check(name, part)
    if keys:
        unpack("kwargs.values()", by_name)
    unpack = None  # type: ignore[assignment]  # (they refer to each other)
    for i, name in enumerate(containers):
        for other in containers[:i]:
            w.line(f"if {name} is {other}: break")
    names = [found[i] for i in range(len(found))]
    for i, name in enumerate(names):
        for other in names[:i]:
            w.line(f"if {name} is {other}: break")
    for held in r.held:
        _check_held(w, r, held, names)
    for i, feed in enumerate(r.fed, r.first_fed):
        value = f"{w.name(feed.compute)}({', '.join([free[n] for n in feed.names])})"
        if feed.numpy:
            value += ".item()"
        w.line(f"d{i} = array({value}, {w.name(feed.dtype)}, order='C')")
        names.append(f"d{i}")
    for i, t in r.same_arguments:
        w.line(f"if {names[i]} is not {w.name(t)}: break")
    if r.captured_ids and r.other_arguments:
        ids = w.name(frozenset(r.captured_ids))
        for i in [i for i in r.other_arguments if i < r.first_fed]:
            w.line(f"if id({names[i]}) in {ids}: break")
    return names


def _check_held(w: _Writer, r: Recording, held: Held, names: list[str]) -> None:
    """Read what a place holds, and check it like an argument; adds the variables of its Tensors to `names`."""
    new = [f"h{held.first + k}" for k in range(len(held.kinds))]
    read = {source.index for source in r.fetch if type(source) is Argument}
    if held.form == "tensor":
        w.line(f"{new[0]} = {_read(w, held.place)}")
    else:
        w.line(f"{''.join(x + ', ' for x in new)} = {w.name(held.read)}()")
    for i, (name, kind) in enumerate(zip(new, held.kinds), held.first):
        w.line(f"if type({name}) is not {w.name(kind)}: break")
        _check_tensor(w, name, i, r.argument_specs[i])
        if i not in read:
            _check_form(w, f"d{i}", *r.argument_specs[i][:2])
        same = r.alike[i]
        if same != i:
            w.line(f"if {name} is not {names[same]}: break")
        elif others := [other for k, other in enumerate(names) if r.alike[k] == k]:
            w.line("if " + " or ".join(f"{name} is {other}" for other in others) + ": break")
        names.append(name)


def _check_form(w: _Writer, data: str, shape: Any, dtype: Any) -> None:
    """Of an array that native code does not look at: Python may have read its shape."""
    w.line(f"if type({data}) is not nd or {data}.shape != {w.name(shape)} or {data}.dtype != {w.name(dtype)}: "
           "break")


def _check_tensor(w: _Writer, name: str, number: int, spec: tuple) -> None:
    """(Native code looks at the class, dtype and shape of the arrays that it reads.)"""
    w.line(f"d{number} = {name}._data")
    history = spec[2]
    w.line(f"if {name}._node is not None: break" if history is None else
           f"if type({name}._node) is not {w.name(history)}: break")


def _read(w: _Writer, place: Any) -> str:
    """An expression for what a place holds now, after lines that it needs."""
    holder, key = place.holder, place.key
    if type(holder) is types.CellType and place.read() is not ABSENT:
        w.line(f"try: now = {w.name(holder)}.cell_contents")
        w.line("except ValueError: break")
        return "now"
    if isinstance(place, Entry):
        return f"{w.name(place)}.read()"
    if key is SIZE:
        return f"len({w.name(holder)})"
    if key is NAMES:
        return f"tuple({w.name(holder)})"
    if type(holder) is dict or type(holder) is types.MappingProxyType:
        return f"{w.name(holder)}.get({key!r}, ABSENT)" if isinstance(key, str) else f"{w.name(place)}.read()"
    if isinstance(holder, types.FunctionType) and isinstance(key, str) or key in ("__mro__", "__class__"):
        return f"{w.name(holder)}.{key}"
    return f"{w.name(place)}.read()"


def _check_guards(w: _Writer, r: Recording) -> None:
    guards = r.guards
    if r.differentiable:
        hooked = any(before for _, before in [*r.hooks, *r.argument_hooks])
        w.line("break" if hooked else f"if {w.name(tape.hooks.data)}: break")
    for owner, absent in r.leaf_states:
        w.line(f"if {w.name(owner)}.grad is {'not None' if absent else 'None'}: break")
    if guards.deep or guards.weak:
        w.line(f"if {w.name(guards)}.gone is not None: break")
    if guards.seen:
        w.line(f"if not {w.name(guards)}.looked_alike(): break")
    for place, value in guards.same:
        w.line(f"if {_read(w, place)} is not {w.name(value)}: break")
    for place, kind, value in guards.equal:
        w.line(f"now = {_read(w, place)}")
        w.line(f"if type(now) is not {w.name(kind)} or now != {w.name(value)}: break")
    for place, value, code in guards.functions:
        w.line(f"now = {_read(w, place)}")
        w.line(f"if now is not {w.name(value)} or now.__code__ is not {w.name(code)}: break")
    for watched in guards.watched:
        w.line(f"now = {w.objects.get(id(watched.value)) or w.name(watched.value)}.__agog_watch__()[0]")
        entry = w.name(watched)
        w.line(f"if now is not {entry}.last and not {entry}.holds(now): break")
    seen = f"Seen({w.name(guards.holes)})" if guards.holes else "None"
    captured = {id(t) for t in r.captured}
    for place, before, fixed in guards.deep:
        w.line(f"now = {_read(w, place)}")
        if not guards.holes and _check_contents(w, place.read(), before, captured):
            continue
        picture = f"fingerprint(now, {seen}, {place.name!r})"
        w.line(f"if now is not {w.name(fixed)} and {picture} != {w.name(before)}: break")


def _check_contents(w: _Writer, value: Any, before: Any, captured: set[int]) -> bool:
    """Write out the comparison of `now` with its picture, when that is of lists and dicts of Tensors and plain data.

    False, with nothing written, for any other picture and where `value` is no longer what it shows.
    """
    mark, env, found = len(w.lines), dict(w.env), dict(w.found)

    def check(name: str, x: Any, before: Any) -> bool:
        kind = type(x)
        if kind in (int, str, bool, bytes, type(None)) or kind is float and x == x and x != 0:
            w.line(f"if type({name}) is not {w.name(kind)} or {name} != {w.name(x)}: break")
            return before == fingerprint(x)
        if is_tensor(x):
            w.line(f"if id({name}) != {w.name(id(x))}: break" if id(x) not in captured else
                   f"if {name} is not {w.name(x)}: break")
            if id(x) in captured:
                w.found[id(x)] = name
            return before == ("tensor", id(x))
        if kind not in (list, tuple, dict) or len(before) < 3 or before[0] is not kind or len(x) > _CONTENTS:
            return False
        if kind is not tuple and before[1] != id(x):
            return False
        w.line(f"if type({name}) is not tuple: break" if kind is tuple else
               f"if {name} is not {w.name(x)}: break")
        pictures = before[-1]
        if kind is dict:
            keys = tuple(x)
            if set(map(type, keys)) != {str}:
                return False
            w.line(f"if tuple({name}) != {w.name(keys)}: break")
            if len(before) == 3:
                if [k for k, _ in pictures] != [(str, k) for k in keys]:
                    return False
                pictures = [picture for _, picture in pictures]
            elif before[2] != list(keys):
                return False
            name, x = f"{name}.values()", x.values()
        items = list(x)
        if len(pictures) != len(items):
            return False
        if type(pictures) is tuple:  # of Tensors: their identities
            pictures = [("tensor", key) for key in pictures]
        if not items:
            if kind is not dict:
                w.line(f"if {name}: break")
            return True
        names = [f"x{next(w.fresh)}" for _ in items]
        w.line(f"try: {', '.join(names)}, = {name}")
        w.line("except ValueError: break")
        return all(map(check, names, items, pictures))

    fits = check("now", value, before)
    check = None  # type: ignore[assignment]
    if fits:
        return True
    del w.lines[mark:]
    w.env, w.found = env, found
    return False


def _check_captured(w: _Writer, r: Recording) -> list[str]:
    """Checks of the Tensors read from outside; returns an expression for the array of each input."""
    inputs = []
    nodes = {id(t): node for t, node in r.guards.nodes}
    for k, source in enumerate(r.fetch):
        if type(source) is Argument:
            inputs.append(f"d{source.index}")
            continue
        tensor = w.found.get(id(source.tensor)) or w.name(source.tensor)
        w.line(f"c{k} = {tensor}._data")
        if id(source.tensor) in nodes:
            node = nodes[id(source.tensor)]
            w.line(f"if {tensor}._node is not {'None' if node is None else w.name(node)}: break")
        inputs.append(f"c{k}")
    return inputs


def _commit(w: _Writer, r: Recording, names: list[str], inputs: list[str]) -> None:
    at = r.tail
    for i, guard in enumerate(r.guard_values):
        w.line(f"v = {w.out(at)}.item()")
        expected = guard.expected
        if expected is True or expected is False:
            w.line(f"if v is not {expected}:")
        else:
            w.line(f"if not {w.name(guard.holds)}(v):")
        w.line(f"    error = Missed((path, {i}, v))" if r.path.looks else "    error = None")
        w.line("    break")
        at += 1
    w.line("calls += 1")
    for i, (out, _) in enumerate(r.new):
        w.line(f"r{i} = next(blanks)")
        w.line(f"r{i}._data = {w.out(out)}")
        w.line(f"r{i}._node = " + (f"spent(r{i})" if i in r.spent else "None"))
    if r.gradient is not None:
        nodes = {id(t): w.name(node) for t, node in r.guards.nodes if node is not None}
        parents = [
            f"{names[s.index]}._node" if type(s) is Argument else nodes[id(s.tensor)]
            for s in (r.fetch[i] for i in r.gradient.which)
        ]
        results = ", ".join(f"r{k}" for k in r.live)
        w.line(
            f"{w.name(r.gradient.attach)}([{results}], ({''.join(p + ', ' for p in parents)}), "
            f"({''.join(x + ', ' for x in inputs)}), {w.outs})"
        )
    for target, out in r.writes:
        w.line(f"{names[target] if type(target) is int else w.name(target)}._data = {w.out(out)}")
    for owner, place in r.gradients:
        leaf = w.name(owner)
        if place is None:
            w.line(f"{leaf}.grad = None")
        else:
            w.line("g = next(blanks)")
            w.line(f"g._data = {w.out(place)}")
            w.line("g._node = None")
            w.line(f"{leaf}.grad = g")

    def leaves(values: list[tuple[str, Any]]) -> Any:
        where: dict[str, Callable[[Any], str]] = {
            "same": w.name,
            "argument": names.__getitem__,
            "new": "r{}".format,
        }
        return iter([where[kind](x) for kind, x in values])

    for place, structure, values in r.rebindings:
        value = _structure(w, structure, leaves(values))
        if isinstance(place.holder, dict) and isinstance(place.key, str):
            w.line(f"{w.name(place.holder)}[{place.key!r}] = {value}")
        else:
            w.line(f"{w.name(place)}.write({value})")
    for effect in r.effects:
        given = []
        for _ in effect.slots:
            w.line(f"e{at} = next(blanks)")
            w.line(f"e{at}._data = {w.out(at)}")
            w.line(f"e{at}._node = None")
            given.append(f"e{at}")
            at += 1
        w.line(f"deliver({', '.join([w.name(effect), *given])})")
    w.line(f"return {_structure(w, r.structure, leaves(r.results))}")


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
