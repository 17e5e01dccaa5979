"""Convolutions of which each channel has a kernel of its own, and their gradients: plans, and the modules.

`depthwise_kernels` says how they are computed. A plan cuts the taps into strips and the results into tiles.
"""

from __future__ import annotations

import functools
import itertools
from math import prod
from typing import Any, NamedTuple, Sequence

import numpy as np

from agog.compiler import call, jit, pool
from agog.compiler.conv_gradients import PARAMETERS
from agog.compiler.conv_tables import LINE
from agog.compiler.depthwise_kernels import (
    APART,
    COLUMNS,
    EACH,
    GRADIENT,
    HEAD,
    IN_TURNS,
    LONG,
    OTHER,
    STRAIGHT,
    SUB,
    TILE,
    TURNS,
    Shapes,
    Writer,
)
from agog.compiler.ir import Module
from agog.compiler.targets import Target

__all__ = ["NAMES", "code", "forward_table", "gradient_table", "later"]

NAMES = ("depthwise", "depthwise_gradient")  # of the functions

_LARGEST = 1 << 20  # bytes of a copied plane
_PARALLEL, _GRAIN = 1 << 15, 1 << 13  # multiplications, results
_FAR = 1 << 20  # bytes of an array that is not expected in a second level cache
_TOGETHER = 4 << 10  # bytes of planes that a tile is made for at once
_ALL = 1 << 60  # rows, where none is missing


# -------------------------------------------------------------------------------------------------------------- plans
class _Tap(NamedTuple):
    """A tap: where in x, which phase and row of it, and which column it reads for the first result; its place in w.

    turn : which of two results that take turns in memory it is for
    """

    x: int
    phase: int
    row: int
    column: int
    rows: int
    w: int
    turn: int


class _Walk:
    """How the input of some subs is read.

    fields : of tables; parts : subs that are made together, and their strips
    """

    def __init__(self, case: Any, subs: Sequence[Any]) -> None:
        self.size, self.shapes = case.size, Shapes(case.target, f"float{8 * case.size}")
        #: One row of results is walked as if its vectors were rows.
        self.long = all(s.count[1] == 1 for s in subs) and subs[0].count[2] > self.shapes.kinds[0][1]
        _, h_step, w_step = subs[0].move
        self.in_place = self.shapes.in_place and w_step <= 2 and not self.long and case.x[4] < 1 << 30
        pairs = [s.start[1:] for s in subs if s.step[2] == 2]
        turns = bool(pairs) and len(pairs) == len(subs) and all(w == i % 2 for i, (_, w) in enumerate(pairs))
        turns = turns and len(subs) % 2 == 0 and not self.long
        self.how = LONG if self.long else TURNS if turns else OTHER if self.in_place and w_step == 2 else EACH
        self.lanes = self.shapes.lanes(subs[0].count[2])
        self._cells = self.shapes.kernels((EACH, OTHER, TURNS, LONG))
        x_plane = prod(case.x[2:]) * self.size
        self.fields = {
            "samples": case.x[0], "channels": case.groups, "x_plane": x_plane, "x_h": case.x[3], "x_w": case.x[4],
            "h_step": h_step, "w_step": w_step, "copied": not self.in_place, "row": 0, "columns": 0, "held": 0,
            "plane": 0, "area": 0, "phases": 0, "together": max(1, _TOGETHER // x_plane) if self.in_place else 1,
        }
        self.origins: list[int] = []  # of phases, row and column
        taps = self._in_place(case, subs) if self.in_place else self._copied(case, subs)
        if self.long:
            self.pitch = self.lanes * self.size
        n = 2 if turns else 1
        self.parts = []
        for i in range(0, len(subs), n):
            together = [t._replace(turn=turn) for turn, some in enumerate(taps[i : i + n]) for t in some]
            self.parts.append((subs[i : i + n], self._strips(together)))

    def _in_place(self, case: Any, subs: Sequence[Any]) -> list[list[_Tap]]:
        height, width = case.x[3:]
        _, h_step, w_step = subs[0].move
        self.pitch, self.across, self.x_step = h_step * width * self.size, width, w_step * self.size

        def tap(i: int, at: Sequence[int]) -> _Tap:
            row, phase = divmod(at[1], h_step)
            rows = -(-(height - phase) // h_step)
            return _Tap((at[1] * width + at[2]) * self.size, phase, row, at[2], max(0, rows), i, 0)

        return [[tap(i, at) for i, at in s.taps] for s in subs]

    def _copied(self, case: Any, subs: Sequence[Any]) -> list[list[_Tap]]:
        """The copy holds all that is read: no row is missing."""
        move = subs[0].move
        phases: dict[tuple[int, int], list[int]] = {}
        for s in subs:
            for _, at in s.taps:
                low = phases.setdefault((at[1] % move[1], at[2] % move[2]), [at[1], at[2]])
                low[0], low[1] = min(low[0], at[1]), min(low[1], at[2])
        order, held, columns = list(phases), 1, 1
        shifts = []
        for s in subs:
            mine = []
            for i, at in s.taps:
                key = at[1] % move[1], at[2] % move[2]
                h, w = ((a - b) // m for a, b, m in zip(at[1:], phases[key], move[1:]))
                mine.append((i, order.index(key), h, w))
                held, columns = max(held, s.count[1] + h), max(columns, s.count[2] + w)
            shifts.append(mine)
        row, size = columns * self.size, self.size
        plane = (-(-held * row // LINE) | 1) * LINE
        self.pitch, self.across, self.x_step = row, columns, size
        self.origins = [n for origin in phases.values() for n in origin]
        self.fields |= {
            "row": row, "columns": columns, "held": held, "plane": plane, "phases": len(order),
            "area": plane * len(order) + case.lanes * size,
        }
        return [[_Tap(p * plane + h * row + w * size, p, h, w, _ALL, i, 0) for i, p, h, w in some] for some in shifts]

    def _strips(self, taps: Sequence[_Tap]) -> list[tuple[list[int], list[int]]]:
        """Of each strip its words, of which the last is missing, and the places of its taps in w."""
        heights = self.shapes.heights(self.how)
        kinds = [(height, columns) for height in reversed(heights) for columns in COLUMNS[self.how]]
        strips = []
        found = [[run] for run in _side(taps, heights)] if self.long else _beside(_runs(taps, heights), self.how)
        for runs in found:
            first, start = runs[0][0], runs[len(runs) == 3][0]
            kind = kinds.index((len(runs[0]), tuple(range(first.turn, first.turn + len(runs)))))
            apart = (runs[1][0].w - first.w) * self.size if len(runs) > 1 else 0
            if self.long and len(runs[0]) > 1:
                apart = runs[0][1].x - first.x
            words = [
                start.x, start.row, start.rows, start.column, first.w * self.size, _step(runs[0]) * self.size, apart,
                kind,
            ]
            strips.append((words, [t.w for run in runs for t in run]))
        return strips

    def ahead(self, strips: Sequence[Any], other: Sequence[int]) -> int:
        """How far from a tile of no rows those lie that none above has read; 0 where all is expected to be near.

        other : the shape of the array that x is read for
        """
        f = self.fields
        far = max(f["samples"] * f["channels"] * f["x_plane"], prod(other) * self.size) > _FAR
        if not far or f["x_w"] * self.size < 2 * LINE:  # short rows follow each other so closely that machines see it
            return 0
        return max([self.size, *(words[0] // self.pitch * self.pitch for words, _ in strips)])

    def tiles(self, subs: Sequence[Any]) -> list[int]:
        """The words of all tiles of a part."""
        _, height, width = subs[0].count
        lanes, sizes = self.lanes, self.shapes.rows(self.how, self.lanes)
        tiles: list[int] = []

        def add(row: int, rows: int, column: int, had: int) -> None:
            tiles.extend([row, column, self._cells.index((self.how, lanes, rows)), rows, had])

        if self.long:
            whole = subs[-1].count[2] // lanes
            for row, rows in _cut(whole, sizes):
                add(0, rows, row * lanes, 0)
            for first in range(whole * lanes, width, lanes):
                column = min(first, width - lanes)
                add(0, 1, column, first - column)
            return tiles
        for row, rows in _cut(height, sizes):
            for first in range(0, width, lanes):
                column = max(0, min(first, width - lanes))
                add(row, rows, column, first - column)
        return tiles


def _cut(count: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(first, how many) of pieces of these sizes, the largest first: as few as can be, and as equal."""
    whole = max(0, -(-count // sizes[0]) - 2)
    best: list[list[int]] = [[]]
    for n in range(1, count - whole * sizes[0] + 1):
        best.append(min(([*best[n - size], size] for size in sizes if size <= n), key=lambda c: (len(c), -min(c))))
    pieces = [sizes[0]] * whole + best[-1]
    return list(zip(itertools.accumulate(pieces, initial=0), pieces))


def _step(run: Sequence[_Tap]) -> int:
    """How far the weights of a run lie apart."""
    return run[1].w - run[0].w if len(run) > 1 else 0


def _runs(taps: Sequence[_Tap], heights: Sequence[int]) -> list[list[_Tap]]:
    """Taps of one column whose rows follow each other, of one of these heights, and whose weights are equally apart."""
    place = lambda t: (t.phase, t.turn, t.column, t.row)
    runs: list[list[_Tap]] = []
    for tap in sorted(taps, key=place):
        run = runs[-1] if runs else []
        follows = run and place(tap) == place(run[-1]._replace(row=run[-1].row + 1))
        if follows and (len(run) == 1 or tap.w - run[-1].w == _step(run)):
            run.append(tap)
        else:
            runs.append([tap])
    return [run[first : first + n] for run in runs for first, n in _cut(len(run), heights)]


def _side(taps: Sequence[_Tap], heights: Sequence[int]) -> list[list[_Tap]]:
    """Taps of one row that are equally apart, as are their weights, as many as one of these heights."""
    runs: list[list[_Tap]] = []
    for tap in sorted(taps, key=lambda t: t.w):
        run = runs[-1] if runs else []
        if run and (len(run) == 1 or (tap.x - run[-1].x, tap.w - run[-1].w) == (run[1].x - run[0].x, _step(run))):
            run.append(tap)
        else:
            runs.append([tap])
    return [run[first : first + n] for run in runs for first, n in _cut(len(run), heights)]


def _beside(runs: Sequence[list[_Tap]], how: str) -> list[list[list[_Tap]]]:
    """Runs that one strip takes together.

    They read the same rows: in columns side by side, where only every other is read for a result, or for both results
    that take turns. Of an odd number of columns, three go together.
    """
    if how == EACH:
        return [[run] for run in runs]
    lines: dict[tuple[int, ...], list[list[_Tap]]] = {}
    for run in runs:
        lines.setdefault((run[0].phase, run[0].row, len(run), _step(run)), []).append(run)
    together: list[list[list[_Tap]]] = []
    for line in lines.values():
        if how == TURNS:
            columns: dict[int, list[list[_Tap]]] = {}
            for run in line:
                columns.setdefault(run[0].column, []).append(run)
            together += columns.values()
            continue
        while line:
            first, n, apart = line[0][0], 1, line[1][0].w - line[0][0].w if len(line) > 1 else 0
            while n < len(line) and (line[n][0].column, line[n][0].w) == (first.column + n, first.w + n * apart):
                n += 1
            n = 3 if n % 2 and n > 1 else min(n, 2)
            together.append(line[:n])
            line = line[n:]
    return together


def forward_table(case: Any, subs: Sequence[Any], shape: Any, bias: bool) -> np.ndarray | None:
    """The table of `depthwise` for a convolution, or the gradient of its input; None for what is not done here."""
    walk = _walk(case, subs)
    if walk is None:
        return None
    size, lanes = case.size, case.lanes
    base, numbers = len(HEAD) + len(SUB) * len(walk.parts), []

    def array(values: Any) -> int:
        numbers.extend(values)
        return base + len(numbers) - len(values)

    y_row, results = shape[4] * size, prod(shape[3:])
    words = []
    for together, strips in walk.parts:
        s, tiles = together[0], walk.tiles(together)
        y_w = s.step[2] * size
        words += _words(
            SUB, strips=len(strips), strips_at=array([n for some, _ in strips for n in (*some, 0)]),
            tiles=len(tiles) // len(TILE), tiles_at=array(tiles), pitch=walk.pitch, across=walk.across,
            x_step=walk.x_step, y_start=s.start[1] * y_row + s.start[2] * size,
            y_h=walk.lanes * y_w if walk.long else s.step[1] * y_row, y_w=y_w,
            w_n=sum(m.count[2] for m in together),
            how=IN_TURNS if walk.how == TURNS else STRAIGHT if s.step[2] == 1 else APART,
            dense=s.step[2] == 1 and s.step[1] * y_row == s.count[2] * size,
            ahead=walk.ahead(strips, shape),
        )
    temp_at = -(-walk.fields["area"] // LINE) * LINE + lanes * size
    each = results * prod(case.w[2:]) * walk.fields["together"]
    head = _words(
        HEAD, out_size=prod(shape) * size, x_size=prod(case.x) * size, w_size=prod(case.w) * size,
        bias_size=case.groups * size if bias else 0, y_plane=results * size, phase_at=array(walk.origins),
        temp_at=temp_at, scratch_size=temp_at + (walk.shapes.rows(EACH, lanes)[0] + 2) * lanes * size,
        subs=len(walk.parts), grain=max(1, _GRAIN // each), alone=prod(shape) * prod(case.w[2:]) < _PARALLEL,
        **walk.fields,
    )
    return np.array([*head, *words, *numbers], np.int64)


def gradient_table(case: Any, sub: Any) -> np.ndarray | None:
    """The table of `depthwise_gradient`; `case.w` is the shape of g, and `sub` the convolution."""
    walk = _walk(case, [sub])
    if walk is None:
        return None
    size, base, numbers = case.size, len(GRADIENT), []

    def array(values: Any) -> int:
        numbers.extend(values)
        return base + len(numbers) - len(values)

    strips: list[int] = []
    order: list[int] = []
    for words, taps in walk.parts[0][1]:
        strips += [*words, len(order)]
        order += taps
    tiles = walk.tiles([sub])
    sums_at = -(-walk.fields["area"] // LINE) * LINE
    head = _words(
        GRADIENT, out_size=case.groups * len(order) * size, x_size=prod(case.x) * size, w_size=prod(case.w) * size,
        bias_size=0, y_plane=prod(sub.count) * size, phase_at=array(walk.origins), sums_at=sums_at,
        scratch_size=sums_at + len(order) * case.lanes * size, strips=len(walk.parts[0][1]), strips_at=array(strips),
        tiles=len(tiles) // len(TILE), tiles_at=array(tiles), pitch=walk.pitch, across=walk.across, x_step=walk.x_step,
        g_row=(walk.lanes if walk.long else sub.count[2]) * size, w_n=sub.count[2],
        ahead=walk.ahead(walk.parts[0][1], case.w), taps=len(order),
        taps_at=array(order), alone=prod(case.w) * len(order) < _PARALLEL, **walk.fields,
    )
    return np.array([*head, *numbers], np.int64)


def _walk(case: Any, subs: Sequence[Any]) -> _Walk | None:
    """How the input is read; None for three dimensions, no taps, or a copy that would not stay in a cache."""
    if case.x[2] != 1 or any(s.count[0] != 1 or any(at[0] for _, at in s.taps) for s in subs):
        return None
    if not any(s.taps for s in subs):
        return None
    walk = _Walk(case, subs)
    return walk if walk.fields["area"] <= _LARGEST else None


def _words(names: Sequence[str], **values: int) -> list[int]:
    assert len(values) == len(names), set(names) ^ set(values)
    return [int(values[name]) for name in names]


# -------------------------------------------------------------------------------------------------------- native code
def later(dtype: str, target: Target, what: str) -> jit.Later:
    """The one object of "depthwise" or "depthwise_gradient", for eager work and for programs."""
    module = jit.Later(f"{what} {dtype}", target, lambda: build(dtype, target, what))
    return call.with_builtin(module, PARAMETERS)


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """The function "depthwise" of (out, x, w, bias or null, table), for other native code."""
    return jit.load(later(dtype, target, "depthwise"), ["depthwise"], pool.imports)


def build(dtype: str, target: Target, what: str) -> Module:
    """The module of one dtype."""
    module = Module(target)
    writer = Writer(module, dtype)
    writer.pad()
    writer.scratch()
    if what == "depthwise":
        writer.rows()
        writer.planes()
        writer.depthwise()
    else:
        writer.sums()
        writer.channels()
        writer.depthwise_gradient()
    writer.interface(what)
    return module
