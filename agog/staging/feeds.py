"""Python numbers and NumPy arrays that are inputs of a recording: evidence that nothing but operations has used them.

The source says that a parameter only ever stands next to something that could be a Tensor (`staging.uses`). While the
function is recorded, the instructions in question are counted as they run, and so are the operations that took the
parameter's value right there. When the counts agree, no Python code has seen the value: the recording holds for any
other, and each call computes the operand (`lr`, `1 - lr`, `-lr / 2`) anew in Python, as the eager call would.
"""

from __future__ import annotations

import dis
import gc
import sys
import threading
import types
from typing import Any

import numpy as np

from agog.errors import user_frame
from agog.staging.codes import generator_start
from agog.staging.uses import Site, Where, uses
from agog.tensor import Tensor, asarray

_MONITORING: Any = getattr(sys, "monitoring", None)
_TOOL, _NAME = 4, "agog"  # one of the two places that are nobody's by convention; one recording is made at a time


class Feed:
    """An input that is computed from free parameters: `compute(*values of names)` as an array of `dtype`."""

    __slots__ = ("names", "compute", "dtype", "text", "numpy")

    def __init__(self, site: Site, dtype: Any, values: dict[str, Any], constants: dict[str, Any]):
        self.names, self.compute = site.among(constants)
        self.text, self.dtype = site.text, dtype
        self.numpy = isinstance(site.value(values), np.generic)  # (the classes of the parameters decide that)

    def array(self, values: dict[str, Any]) -> np.ndarray:
        value = self.compute(*[values[n] for n in self.names])
        return np.array(value.item() if self.numpy else value, self.dtype, order="C")


_TAKERS = {asarray.__code__, Tensor.__init__.__code__}


def _takes(code: types.CodeType) -> bool:
    """Whether code passes its arguments on as operands: the functions of rows, which are made when first used."""
    if code not in _TAKERS:
        functions = [f for f in list(vars(sys.modules["agog"]).values()) if isinstance(f, types.FunctionType)]
        _TAKERS.update(f.__code__ for f in functions if hasattr(f, "op"))
    return code in _TAKERS


class Evidence:
    """Counts, during one run of `code`, what becomes of some of its parameters.

    values     the arguments in question
    constants  numbers that are other arguments, with which those may be computed: the form holds their values

    Instructions are counted by `sys.monitoring`; before Python 3.12, which brought it, by a trace function.
    """

    def __init__(self, code: types.CodeType, values: dict[str, Any], constants: dict[str, Any]):
        self.code, self.values, self.constants = code, {**constants, **values}, constants
        arrays = frozenset(n for n, v in values.items() if isinstance(v, np.ndarray))
        self.blocked = sys.gettrace() is not None  # a debugger, or somebody who measures coverage
        found = {} if self.blocked else uses(code, frozenset(values) - arrays, arrays, frozenset(constants))
        self.sites: dict[str, list[Site]] = {n: s for n, s in found.items() if isinstance(s, list)}
        self._lines = {n: line for n, line in found.items() if isinstance(line, int)}
        self.feeds: dict[int, Feed] = {}  # by the slot of the constant that the operation took
        self._known = {s for sites in self.sites.values() for s in sites}
        self._at: dict[tuple[types.CodeType, int], list[Site]] = {}  # where the operand is taken
        self._counted: dict[types.CodeType, dict[int, list[Site]]] = {}
        self._ran: dict[Site, int] = dict.fromkeys(self._known, 0)
        self._took: dict[Site, int] = dict.fromkeys(self._known, 0)
        self._calls = 0
        self._entered: dict[types.CodeType, int] = {}  # how often each code was begun, as the profile hook tells
        self._begun: dict[types.CodeType, int] = {}  # the same, as the counter of instructions tells
        self._failed = False
        self._thread = 0
        self._place(code)
        self._first = {c: _first_instruction(c) for c in self._counted}

    def _place(self, code: types.CodeType) -> None:
        by_where: dict[Where, list[Site]] = {}
        for site in self._known:
            by_where.setdefault(site.where, []).append(site)
        placed: set[Site] = set()
        family = _family(code)
        for c in family:
            instructions = list(dis.get_instructions(c))
            for i, after in zip(instructions, [*(j.offset for j in instructions[1:]), len(c.co_code)]):
                p = i.positions
                sites = by_where.get((p.lineno, p.end_lineno, p.col_offset, p.end_col_offset), ()) if p else ()  # type: ignore[arg-type]
                for site in sites:
                    if site.call and i.opname == "PRECALL":  # (3.11) what it calls may run before CALL
                        self._counted.setdefault(c, {}).setdefault(i.offset, []).append(site)
                    elif i.opname.startswith("CALL") if site.call else i.opname in ("BINARY_OP", "COMPARE_OP"):
                        for offset in range(i.offset, after, 2):  # (a frame that calls may stand in the caches)
                            self._at.setdefault((c, offset), []).append(site)
                        placed.add(site)
                        if i.opname != "CALL" or sys.version_info >= (3, 12):
                            self._counted.setdefault(c, {}).setdefault(i.offset, []).append(site)
        lost = {n for s in self._known - placed for n in s.names}
        for c in family[1:]:  # made before, such a function would hold the parameter of another call
            mine = self.sites.keys() & set(c.co_freevars)
            if mine and any(isinstance(f, types.FunctionType) for f in gc.get_referrers(c)):
                lost |= mine
        for name in lost:
            self.sites.pop(name, None)

    # ------------------------------------------------------------------------------------------- what happens
    def __enter__(self) -> None:
        if self.sites:
            self._thread = threading.get_ident()
            # With `sys.monitoring` it traces nothing, but is set already when a loop is met: set by a profile hook, a
            # trace function takes the events of instructions away from code that has not begun.
            sys.settrace(self._trace)
            if _MONITORING is not None:
                self._failed = not self._monitor(_MONITORING)

    def __exit__(self, *exc: Any) -> None:
        if not self.sites:
            return
        if _MONITORING is not None and not self._failed and _MONITORING.get_tool(_TOOL) == _NAME:
            for code in {self.code, *self._counted}:
                _MONITORING.set_local_events(_TOOL, code, 0)
            _MONITORING.free_tool_id(_TOOL)
        self._failed |= sys.gettrace() != self._trace
        sys.settrace(None)

    def _monitor(self, monitoring: Any) -> bool:
        """Have instructions of the codes counted; False where somebody else has the place."""
        try:
            monitoring.use_tool_id(_TOOL, _NAME)
        except ValueError:
            return False
        events = monitoring.events
        monitoring.register_callback(_TOOL, events.PY_START, self._on_start)
        monitoring.register_callback(_TOOL, events.INSTRUCTION, self._on_instruction)
        for code in {self.code, *self._counted}:
            monitoring.set_local_events(
                _TOOL, code, events.PY_START * (code is self.code) | events.INSTRUCTION * (code in self._counted))
        return True

    def _on_start(self, code: types.CodeType, offset: int) -> None:
        if threading.get_ident() == self._thread:
            self._calls += 1

    def _on_instruction(self, code: types.CodeType, offset: int) -> None:
        if threading.get_ident() == self._thread:
            self._count(code, offset)

    def _count(self, code: types.CodeType, offset: int) -> None:
        if offset == self._first.get(code):
            self._begun[code] = self._begun.get(code, 0) + 1
        for site in self._counted.get(code, {}).get(offset, ()):
            self._ran[site] += 1

    def entered(self, frame: types.FrameType) -> None:
        """A frame of the user's begins (or goes on), says somebody who does not depend on what counts here."""
        code = frame.f_code
        if frame.f_lasti < self._first.get(code, -1):
            self._entered[code] = self._entered.get(code, 0) + 1

    def is_tracing(self) -> bool:
        """Whether the trace function of this thread is the one that counts."""
        return sys.gettrace() == self._trace

    def _trace(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if _MONITORING is not None:
            return None
        code = frame.f_code
        if code is self.code:
            self._calls += 1
        if code not in self._counted:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._count(frame.f_code, frame.f_lasti)
        return self._step

    def took(self, value: Any) -> Site | None:
        """Something has taken `value` as an operand: the site where it did, if it is that of parameters."""
        frame = inner = sys._getframe(1)
        outside = user_frame(2)
        sites = () if outside is None else self._at.get((outside.f_code, outside.f_lasti), ())
        if not sites:
            return None
        while frame is not outside:
            inner, frame = frame, frame.f_back  # type: ignore[assignment]
        found = [
            s
            for s in sites
            if (not s.call or _takes(inner.f_code)) and _is(s.value(self.values), value)
        ]
        if len({s.text for s in found}) != 1:
            return None
        site = min(found, key=self._took.__getitem__)
        self._took[site] += 1
        return site

    def feed(self, slot: int, data: np.ndarray, site: Site | None) -> None:
        """The slot holds `data`, which was made of parameters at this site."""
        if site is not None:
            self.feeds[slot] = Feed(site, data.dtype, self.values, self.constants)

    def _miscounted(self) -> bool:
        return self._failed or self._calls != 1 or any(self._begun.get(c, 0) < n for c, n in self._entered.items())

    def looked_at(self) -> set[str]:
        """The parameters that something else has used, or may have: what is computed with them is lost as well."""
        return {
            n for n in self.values.keys() - self.constants.keys()
            if n not in self.sites or self._miscounted() or any(self._ran[s] != self._took[s] for s in self.sites[n])
        }

    def doubt(self, name: str) -> str:
        """Why a parameter has not been proven to be used by nothing but operations."""
        if line := self._lines.get(name, None):
            return f"line {line} of {self.code.co_filename} looks at its value, or assigns it"
        if line == 0:
            return "the source of the function is not at hand"
        bad = [s for s in self.sites.get(name, ()) if self._ran[s] != self._took[s]]
        if bad:
            where = f"line {bad[0].where[0]} of {self.code.co_filename}"
            return f"in {where}, {bad[0].text} goes to something other than an operation on a Tensor"
        return "what became of it could not be counted (the function calls itself, or a tool counts instructions)"

    def proven(self) -> frozenset[str]:
        """The parameters that nothing but operations has used."""
        good = set() if self._miscounted() else self.sites.keys() - self.looked_at()
        while True:  # an expression of several is computed from all of them
            known = good | self.constants.keys()
            fewer = {n for n in good if all(known.issuperset(s.names) for s in self.sites[n])}
            if fewer == good:
                return frozenset(good)
            good = fewer


def _first_instruction(code: types.CodeType) -> int:
    """The offset of the first instruction of a code's own."""
    start = generator_start(code)
    return next((i.offset for i in dis.get_instructions(code) if i.offset > start), -1)


def _family(code: types.CodeType) -> list[types.CodeType]:
    return [code, *[c for const in code.co_consts if isinstance(const, types.CodeType) for c in _family(const)]]


def _plain(x: Any) -> Any:
    """Operations take a number of NumPy's as the one of Python's: int8 refuses 300 of either, and does not wrap it."""
    return x.item() if isinstance(x, np.generic) else x


def _is(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a is b
    a, b = _plain(a), _plain(b)
    return type(a) is type(b) and repr(a) == repr(b)
