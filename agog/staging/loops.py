"""The loops of a code object, and which of its variables are alive where: both follow from its bytecode.

No source is needed, and nothing about what Python runs is changed: staging only wants to know where one turn of a loop
ends and the next begins, and which variables the code may still read from there.
"""

from __future__ import annotations

import bisect
import dis
import functools
import inspect
import re
import types
from typing import Any

_ENDS = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}
_FAST = re.compile(r"(LOAD|STORE|DELETE)_FAST")


def _instructions(code: types.CodeType) -> list[Any]:
    """The instructions of a code object, with the names that they have in every version of Python.

    One that stands for two (3.13: `LOAD_FAST_LOAD_FAST`) becomes two, the second at an offset in between.
    """
    out: list[Any] = []
    for i in dis.get_instructions(code):
        name = i.opname.replace("_BORROW", "")
        halves = _FAST.findall(name)
        if len(halves) > 1:
            assert i.arg is not None
            for k, (what, index) in enumerate(zip(halves, (i.arg >> 4, i.arg & 15))):
                half = f"{what}_FAST"
                out.append(i._replace(opcode=dis.opmap[half], opname=half, arg=index, argval=i.argval[k],
                                      offset=i.offset + k))
        elif name == "LOAD_SMALL_INT":
            out.append(i._replace(opname="LOAD_CONST"))
        elif name == "BINARY_OP" and i.argrepr == "[]":
            out.append(i._replace(opname="BINARY_SUBSCR"))
        elif name != "CACHE":
            out.append(i._replace(opname=name) if name != i.opname else i)
    return out


class Loop:
    """One loop: its turns begin where the frame comes to `head`.

    inside   the offsets of its instructions
    line     that it is written on
    live     variables that may be read from `head` on, in the loop or after it
    after    for each offset that the loop is left to, the variables that may be read from there on
    counted  for `for ... in range(x)`: how `x` comes about; None for other loops
    numbered whether its turns differ by what a `for` gives them: whether its variable is read
    selects  where it is read, if that is for nothing but `x[i]`: the offsets of the instructions that take the element
    """

    __slots__ = ("head", "inside", "line", "live", "after", "is_for", "counted", "numbered",
                 "selects")

    def __init__(self, head: int, inside: set[int], is_for: bool):
        self.head, self.inside, self.is_for = head, inside, is_for
        self.line = 0
        self.numbered = is_for
        self.selects: frozenset[int] | None = None
        self.live: frozenset[str] = frozenset()
        self.after: dict[int, frozenset[str]] = {}
        self.counted: Counted | None = None


class Counted:
    """`for ... in range(x)`: how `x` comes about.

    call    the offset of the call `int(t)` or `t.item()` whose result is `x`, or of that of `range` itself when `x` is
            no call's result
    name    the local variable that `x` is, when it is one
    value   the constant that `x` is, when it is one
    stored  the offset of the call `int(t)` or `t.item()` whose result the variable is, when the loop is all it is for
    """

    __slots__ = ("call", "name", "value", "stored")

    def __init__(self, call: int | None, name: str | None, value: int | None):
        self.call, self.name, self.value = call, name, value
        self.stored: int | None = None


class Flow:
    """The loops of a code object by their heads, those around others first. offsets: of all instructions."""

    __slots__ = ("loops", "offsets")

    def __init__(self, code: types.CodeType):
        instructions = _instructions(code)
        follow = _successors(code, instructions)
        self.loops = _loops(instructions, follow)
        self.offsets = [i.offset for i in instructions]
        if not self.loops:
            return
        live = _liveness(code, instructions, follow)
        plain = [i for i in instructions if i.opname not in ("NOP", "NOT_TAKEN", "EXTENDED_ARG")]
        ranges = _ranges(plain)
        lines = {i.offset: i.positions.lineno for i in instructions if i.positions is not None}
        for loop in self.loops.values():
            loop.line = min([n for o in loop.inside if (n := lines.get(o))], default=code.co_firstlineno)
            leaves = {t for o in loop.inside for t in follow[o] if t not in loop.inside}
            loop.after = {t: live[t] for t in leaves}
            loop.live = live[loop.head].union(*loop.after.values())
            loop.counted = ranges.get(loop.head)
            target = next((i for i in instructions if i.offset > loop.head), None)
            if loop.is_for and target is not None and target.opname == "STORE_FAST":
                loop.numbered = target.argval in live[follow[target.offset][0]]
                loop.selects = self._selections(loop, target, code, plain)
        self._find_stored(code, plain, [c for c in ranges.values() if c.name is not None])

    def instruction(self, at: int) -> int:
        """The offset of the instruction that a frame is at: it may stand within what belongs to a call."""
        return self.offsets[bisect.bisect_right(self.offsets, at) - 1]

    def _selections(self, loop: Loop, target: Any, code: types.CodeType, plain: list[Any]) -> frozenset[int] | None:
        """See `Loop.selects`; None also where a loop inside reads the variable, or something else assigns it."""
        name = target.argval
        if name in code.co_cellvars or name in loop.live:
            return None
        inner = {o for other in self.loops.values() if other.inside < loop.inside for o in other.inside}
        found = set()
        for i, after in zip(plain, plain[1:]):
            if i.offset not in loop.inside or i is target:
                continue
            names = [n for _, n in _fast(i)]
            if name in names:
                if i.opname != "LOAD_FAST" or after.opname != "BINARY_SUBSCR" or i.offset in inner:
                    return None
                found.add(after.offset)
        return frozenset(found)

    def _find_stored(self, code: types.CodeType, plain: list[Any], counts: list[Counted]) -> None:
        """Variables that are assigned once, outside of loops, and read by the headers of loops alone."""
        loads = [n for i in plain for what, n in _fast(i) if what == "LOAD"]
        others = [n for i in plain for what, n in _fast(i) if what != "LOAD"]
        arguments = code.co_argcount + code.co_kwonlyargcount
        arguments += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        given = {*code.co_cellvars, *code.co_freevars, *code.co_varnames[:arguments]}
        for c in counts:
            name: Any = c.name
            if name in given or others.count(name) != 1 or loads.count(name) != sum(d.name == name for d in counts):
                continue
            k = next(k for k, i in enumerate(plain) if ("STORE", name) in _fast(i))
            call = plain[k - 1]
            if plain[k].opname == "STORE_FAST" and _is_number(plain, k - 1) and not any(
                call.offset in loop.inside for loop in self.loops.values()
            ):
                c.stored = call.offset


def _successors(code: types.CodeType, instructions: list[Any]) -> dict[int, list[int]]:
    jumps = {*dis.hasjrel, *dis.hasjabs}
    follow: dict[int, list[int]] = {}
    for i, nxt in zip(instructions, [*instructions[1:], None]):
        name = i.opname
        to = []
        if i.opcode in jumps:
            to.append(i.argval)
        straight = name.startswith("JUMP_") and not name.startswith("JUMP_IF")
        if nxt is not None and not straight and name not in _ENDS:
            to.append(nxt.offset)
        follow[i.offset] = to
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]
        for i in instructions:
            if entry.start <= i.offset < entry.end:
                follow[i.offset].append(entry.target)
    return follow


def _loops(instructions: list[Any], follow: dict[int, list[int]]) -> dict[int, Loop]:
    """The natural loop of every back edge, by its head; loops that share their head are one."""
    before: dict[int, list[int]] = {o: [] for o in follow}
    for o, to in follow.items():
        for t in to:
            before.setdefault(t, []).append(o)
    first = instructions[0].offset
    kinds = {i.offset: i.opname for i in instructions}
    out: dict[int, Loop] = {}
    for o, to in follow.items():
        for head in to:
            if head > o:
                continue
            inside, stack = {head}, [o]
            while stack:
                at = stack.pop()
                if at not in inside:
                    inside.add(at)
                    stack.extend(before[at])
            if first in inside and head != first:
                continue  # a handler that jumps back to where the code goes on, not a loop
            if head in out:
                out[head].inside |= inside
            else:
                out[head] = Loop(head, inside, kinds[head] == "FOR_ITER")
    return dict(sorted(out.items(), key=lambda p: -len(p[1].inside)))


def _fast(i: Any) -> list[tuple[str, str]]:
    """What an instruction does with a local variable: ("LOAD", name), ("STORE", name) or nothing."""
    return [(what, i.argval) for what in _FAST.findall(i.opname)]


def _liveness(code: types.CodeType, instructions: list[Any], follow: dict[int, list[int]]) -> dict[int, frozenset[str]]:
    """The variables that may be read from each instruction on. Those shared with other functions always may."""
    shared = frozenset((*code.co_cellvars, *code.co_freevars))
    live: dict[int, frozenset[str]] = dict.fromkeys(follow, shared)
    effects = {i.offset: list(_fast(i))[::-1] for i in instructions}
    changed = True
    while changed:
        changed = False
        for i in reversed(instructions):
            now = set(shared).union(*[live[t] for t in follow[i.offset]])
            for what, name in effects[i.offset]:
                if what == "STORE":
                    now.discard(name)
                else:
                    now.add(name)
            if len(now) != len(live[i.offset]):
                live[i.offset] = frozenset(now)
                changed = True
    return live


def _callee(plain: list[Any], k: int) -> tuple[Any, int] | None:
    """Of the call at index `k`: the instruction that loads what is called, and the index of the first argument's."""
    call = plain[k]
    if not call.opname.startswith("CALL") or call.opname == "CALL_FUNCTION_EX" or not isinstance(call.arg, int):
        return None
    start = k - 1 if plain[k - 1].opname == "PRECALL" else k
    depth = 0
    while depth < call.arg:
        start -= 1
        i = plain[start]
        if start < 1 or i.opcode in dis.hasjrel or i.opcode in dis.hasjabs:
            return None
        depth += dis.stack_effect(i.opcode, i.arg if i.opcode >= dis.HAVE_ARGUMENT else None)
    load = start - 1
    if plain[load].opname == "PUSH_NULL":
        load -= 1
    return (plain[load], start) if depth == call.arg and load >= 0 else None


def _is_number(plain: list[Any], k: int) -> bool:
    """Whether the instruction at index `k` is a call `int(x)` or `x.item()`."""
    found = _callee(plain, k)
    if found is None:
        return False
    load, n = found[0], plain[k].arg
    return (n == 1 and load.opname in ("LOAD_GLOBAL", "LOAD_NAME") and load.argval == "int") or (
        n == 0 and load.opname in ("LOAD_METHOD", "LOAD_ATTR") and load.argval == "item"
    )


def _ranges(plain: list[Any]) -> dict[int, Counted]:
    """By the offset of its FOR_ITER, what each loop over `range(x)` goes over."""
    out = {}
    for k, i in enumerate(plain):
        if i.opname != "FOR_ITER" or k < 3 or plain[k - 1].opname != "GET_ITER" or plain[k - 2].arg != 1:
            continue
        found = _callee(plain, k - 2)
        if found is None or found[0].opname not in ("LOAD_GLOBAL", "LOAD_NAME") or found[0].argval != "range":
            continue
        end = k - 4 if plain[k - 3].opname == "PRECALL" else k - 3
        last, single = plain[end], found[1] == end
        call = None
        if _is_number(plain, end):
            call = last.offset
        elif not last.opname.startswith("CALL"):
            call = plain[k - 2].offset
        name = last.argval if single and last.opname.startswith("LOAD_FAST") and type(last.argval) is str else None
        value = last.argval if single and last.opname == "LOAD_CONST" and type(last.argval) is int else None
        out[i.offset] = Counted(call, name, value)
    return out


@functools.lru_cache(maxsize=4096)
def _flow(key: int, code: types.CodeType) -> Flow | None:
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return None
    flow = Flow(code)
    return flow if flow.loops else None


def flow(code: types.CodeType) -> Flow | None:
    """The loops of `code`; None when it has none. (Codes that are equal and yet two are kept apart.)"""
    return _flow(id(code), code)
