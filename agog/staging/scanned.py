"""Making one scan of the graph out of the turns of an `ag.scan` that were recorded one after the other.

Every call of one form makes the same turns, and all of them were recorded. So it is enough that their operations
correspond one by one (see `template`): nothing about other turns is concluded. Only where turns took different ways
must Python's state have been the same at each, since the ways may be combined anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.graph.build import Builder, Symbol
from agog.staging.explicit import ScanRun
from agog.staging.live import MARKS
from agog.staging.recorder import Guard, Record
from agog.staging.rolled import TRUE, Block, Turning, Values, Writer
from agog.staging.template import Template, Unlike


class Scanning(Turning):
    """A scan as one step of a recording.

    carried   the slots of what it begins with
    scanned   the slots of the sequences whose elements the turns take
    made      how many results are stacked; they follow the last carry among the outputs
    """

    def __init__(self, root: Block, carried: list[int], scanned: list[int], made: int, length: int, reverse: bool,
                 constants: dict[Any, np.ndarray], outputs: list[int], specs: list[Any], line: Any):
        self.root, self.constants, self.line = root, constants, line
        self.exits, self.numbers, self.count, self.limit, self.first = False, None, None, None, 0
        self.length, self.reverse, self.made, self.scanned = length, reverse, made, len(scanned)
        self.carried, self.kept = len(carried), 0
        self.outputs = list(outputs)
        self.invariant: dict[int, int] = {}
        self._collect(root)
        self.inputs = [*carried, *scanned, *self.invariant]
        self.specs = [specs[s] for s in self.inputs]
        self.asks = self._asks(root)
        self.tables = range(0)
        self.key = (Scanning, self._key(root), length, reverse, made, self.carried, self.scanned)

    @property
    def checks(self) -> bool:
        """Whether it has to say, as its last output, that it went as recorded."""
        return self.asks

    def describe(self) -> str:
        """What it is, for `explain`."""
        return f"one scan of the graph ({self.length} turns, {self.carried} values carried)"

    def emit(self, b: Builder, inputs: list[Symbol]) -> list[Any]:
        """Append the scan to a graph; its outputs."""
        n, asks = self.carried, self.asks
        state: list[Any] = list(inputs[:n])
        if asks:
            state.append(TRUE)
        write = Writer(self, inputs[n + self.scanned :])

        def body(*values: Symbol) -> list[Any]:
            elements = values[n + asks :]
            new, ok, _ = write.block(self.root, Values([*values[:n], *elements]), None, values[n] if asks else None)
            return [*new[:n], *([TRUE if ok is None else ok] if asks else []), *new[n:]]

        out = list(b.scan(body, state, inputs[n : n + self.scanned], length=self.length, reverse=self.reverse))
        return [*out[:n], *out[n + asks :], *([out[n]] if asks else [])]


def scan(roller: Any, run: ScanRun) -> Scanning:
    """Replace the items of a scan by one; raises Unlike when its turns are not alike."""
    items, specs = roller.items, roller.recorder.specs
    shots = roller.completed(run.snapshots)
    length = len(run.slices)
    if length < 3 or len(shots) != length + 1 or len(run.made) != length:
        raise Unlike("too few turns were made to know what they have in common")
    start, end = shots[0].at, run.end - 1
    if shots[-1].effects != shots[0].effects:
        raise Unlike("it delivers staged effects (ag.print, ag.callback)")
    taken = {slot for turn in run.slices for slot in turn}
    first = _hoisted(roller, run, shots[1].at)
    moved = set(map(id, first))
    template = Template(roller, shots, 0, False, columns(run.slices), columns(run.made))
    for k in range(length):
        turn = items[shots[k].at : shots[k + 1].at]
        template.add(k, [x for x in turn if id(x) not in moved and not (type(x) is Record and x.outputs[0] in taken)])
    states = [(s.tokens, s.places) for s in shots[:-1] if s.places is not None]
    if template.branches and any(s != states[0] for s in states):
        raise Unlike("its turns take different ways, and change what they depend on")
    for vector in (*template.classes, *columns(run.slices), *columns(run.made)):
        if len({specs[s] for s in vector}) > 1:
            raise Unlike("shapes or dtypes change from turn to turn")
    finals = [c[length] for c in template.classes]
    outputs = [*finals, *run.outputs]
    if stray := roller.uses(start, end) - set(outputs) - {s for r in first for s in r.outputs}:
        raise Unlike(roller.stray(stray))
    if not all(start <= roller.made.get(s, -1) <= end for s in outputs) or len(set(outputs)) < len(outputs):
        raise Unlike("it hands on values that it has not computed itself")
    if any(roller.made.get(s, -1) >= start for s in run.sequences):
        raise Unlike("it goes over something that it makes itself")
    template.finish()
    line = next((i.line for i in items[start : end + 1] if isinstance(i, Record)), None)
    made = Scanning(template.root, [c[0] for c in template.classes], run.sequences, len(run.outputs), length,
                    run.reverse, template.constants, outputs, specs, line)
    new = [*first, made]
    if made.checks:
        made.outputs.append(len(specs))
        specs.append(((), np.dtype(bool)))
        new.append(Guard(made.outputs[-1], True, -1, f"the scan at {run.line} going as recorded", ""))
    if len(new) > end + 1 - start:
        raise Unlike("its turns are too short")
    roller.put(start, end, new)
    return made


def columns(rows: list[list[int]]) -> list[tuple[int, ...]]:
    """The rows of a table as its columns."""
    return list(zip(*rows))


def _hoisted(roller: Any, run: ScanRun, end: int) -> list[Any]:
    """Marks of where gradients stop, which the first turn put at values from outside: they come before the scan."""
    out, start = [], run.snapshots[0].at
    for item in roller.items[start:end]:
        if type(item) is Record and item.op in MARKS and all(roller.made.get(s, -1) < start for s in item.inputs):
            out.append(item)
            roller.made.update(dict.fromkeys(item.outputs, start - 1))
    return out
