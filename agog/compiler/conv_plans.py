"""How convolutions and their gradients are planned: the tables of numbers that the native code follows (`conv_tables`).

A plan is made once for each kind of call. All sizes are run-time numbers: one object serves every shape.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from math import gcd, prod
from typing import Any, NamedTuple, Sequence

import numpy as np

from agog import config
from agog.compiler import depthwise
from agog.compiler.conv_gradient_units import GRADIENT, TAP
from agog.compiler.conv_tables import HEAD, LINE, SUB, Tiles
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["DEPTHWISE", "DEPTHWISE_WEIGHTS", "FORWARD", "MODULES", "WEIGHTS", "Plan", "plan"]

_BAND = 256 << 10  # bytes of input that one unit copies: it should stay in the second level cache
_GRADIENT_BAND = 192 << 10  # the same of both operands of a gradient of weights: sums are stored once a band
_RESULTS = 256 << 10  # bytes of results that wait for further steps of k
# Costs in multiplications of vectors: of storing a vector of results, of transposing it, of a tile that waits for its
# own results, and how much longer a single vector takes, for which more is loaded than is multiplied.
_FLUSH, _TRANSPOSE, _LATENCY, _ALONE = 6, 7, 8, 0.05
_PART = 2.5  # and of a further part of k, in which results are loaded and stored again
_DEPTH = 320  # steps of k in a part: then the tiles' operands stay in the first level cache
_PIXEL_DEPTH = 208  # the same for tiles of pixels by outputs
_NEAR = 8 << 20  # bytes of results that are not expected in a cache
_WAY = 128 << 10  # bytes after which addresses have the same set of a second level cache
_FAR = 1 << 20  # bytes of input that is not expected in a second level cache
_RUN = 128  # results of a channel that leave together, at most
_PARALLEL = 1 << 17  # multiplications from which threads pay
_SUMS = 4 << 20  # bytes of partial sums of a gradient of weights
_MOST_UNITS = 16  # into how many partial sums a gradient of weights may be divided
_FEW_UNITS = 8  # as many there should be, that all threads have something to do
_FEW_POINTS = 512  # results of an output up to which weights are packed block by block: more read x too often
_BY_TAP = 3  # channels from which those of one tap make tiles of their own in a gradient of weights
_ROWS = 256  # rows (channels times taps) that a part of them has at least: g is transposed anew for each
_LONG = 512  # elements up to which rows are joined where that is possible
_WASTE = 0.25  # of the products computed at least so many must be wanted

FORWARD, WEIGHTS, DEPTHWISE, DEPTHWISE_WEIGHTS = "conv", "gradient", *depthwise.NAMES
#: The modules of native functions by the kinds of plans.
MODULES = {
    FORWARD: "conv",
    WEIGHTS: "conv_gradients",
    DEPTHWISE: "depthwise",
    DEPTHWISE_WEIGHTS: "depthwise_gradients",
}


class Plan(NamedTuple):
    """What one kind of call does: the name of the native function, its table, and the result's shape.

    `work` is the number of multiplications, and additions.
    """

    kind: str
    table: np.ndarray
    shape: tuple[int, ...]
    work: int


@functools.lru_cache(maxsize=512)
def plan(
    target: Target,
    dtype: str,
    what: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
    bias: bool = False,
    relu: bool = False,
) -> Plan | None:
    """The plan of a call, or None where there is nothing to compute or matrix products over patches are better.

    what : "forward" (x, w), "input" (g, w; size) or "weight" (x, g; kernel as size)
    """
    if len(x) > 5 or not prod(x) or not prod(w):
        return None
    full = lambda shape, one=1: (one,) * (3 - len(shape)) + tuple(shape)
    places, kernel, size3 = full(x[2:]), full(size if what == "weight" else w[2:]), full(size)
    stride, dilation, padding = full(stride), full(dilation), full(padding, (0, 0))
    pointwise = prod(kernel) == 1 and prod(stride) == 1 and not any(lo or hi for lo, hi in padding)
    if pointwise:  # all that matters is how many places there are
        longest = _LONG
        if what != "weight":
            channels = x[1] // groups * ITEMSIZE[dtype]
            longest = min(_LONG, prod(places) * x[0] // (2 * config.num_threads), max(_LONG // 4, _BAND // channels))
        places = size3 = _joined(places, longest)
    shapes = (*x[:2], *places), (*w[:2], *(kernel if what != "weight" else places if pointwise else full(w[2:])))
    c = _Case(target, dtype, *shapes, stride, padding, dilation, groups)
    if what == "weight":
        table, shape, kind = c.weight_grad(kernel, size)
        return Plan(kind, table, shape, 2 * w[0] * prod(w[2:]) * prod(shape))
    made = c.forward(bias, relu) if what == "forward" else c.input_grad(size3)
    if made is None:
        return None
    table, shape, kind = made
    work = 2 * x[0] * prod(shape[2:] if what == "forward" else x[2:]) * prod(w)
    return Plan(kind, table, (*shape[:2], *(x[2:] if pointwise else shape[7 - len(x) :])), work)


def _joined(places: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """As many places in rows that are as long as `longest` allows."""
    d, h, w = places
    rows = d * h
    join = max((n for n in range(1, rows + 1) if rows % n == 0 and n * w <= longest), default=1)
    return 1, rows // join, w * join


class _Sub(NamedTuple):
    """A convolution of stride 1 in the phases of its input; the axes are (depth, height, width).

    taps : for each tap of the kernel, its place in w in elements, and per axis the first input position it reads
    count : results per axis, of which the first is at `start` and the others follow `step` apart
    move : how far the input moves from one result to the next, per axis
    """

    taps: list[tuple[int, tuple[int, ...]]]
    count: tuple[int, ...]  # type: ignore[assignment]  # hides tuple.count
    start: tuple[int, ...]
    step: tuple[int, ...]
    move: tuple[int, ...]


class _Order(NamedTuple):
    """The steps of a sub-convolution, (channel, number of the tap), and in which parts and for what they are taken.

    parts : (first step, steps, first column, last column + 1) of each
    classes : for each row of results its class; ranges : for each class and part, (steps skipped, steps taken)
    """

    steps: list[tuple[int, int]]
    parts: list[tuple[int, int, int, int]]
    classes: list[int]
    ranges: list[int]


class _Case:
    """One kind of call. x and w have five axes."""

    def __init__(
        self, target: Target, dtype: str, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> None:
        self.target, self.size, self.lanes = target, ITEMSIZE[dtype], target.lanes(dtype)
        self.tiles = Tiles(target)
        self.x, self.w, self.stride, self.padding, self.dilation, self.groups = x, w, stride, padding, dilation, groups

    def _reached(self, at: Sequence[int]) -> tuple[int, ...]:
        """The position of the input that a tap of the kernel reads for the first result."""
        return tuple(a * d - lo for a, d, (lo, _) in zip(at, self.dilation, self.padding))

    def forward(self, bias: bool, relu: bool) -> Any:
        o, cg, *kernel = self.w
        out = [
            (n + lo + hi - d * (k - 1) - 1) // s + 1
            for n, k, s, (lo, hi), d in zip(self.x[2:], kernel, self.stride, self.padding, self.dilation)
        ]
        if min(out) < 1:
            return None
        taps = [(i, self._reached(at)) for i, at in enumerate(itertools.product(*map(range, kernel)))]
        sub = _Sub(taps, tuple(out), (0, 0, 0), (1, 1, 1), tuple(self.stride))
        shape = (self.x[0], o, *out)
        row = cg * prod(kernel)
        return self._table([sub], shape, o // self.groups, row, prod(kernel), o // self.groups * row, bias, relu)

    def input_grad(self, size: tuple[int, ...]) -> Any:
        o, cg, *kernel = self.w
        if not prod(size):
            return None
        subs = []
        for phase in itertools.product(*(range(min(s, n)) for s, n in zip(self.stride, size))):
            taps = []
            for i, at in enumerate(itertools.product(*map(range, kernel))):
                first = [p + lo - a * d for p, (lo, _), a, d in zip(phase, self.padding, at, self.dilation)]
                if all(f % s == 0 for f, s in zip(first, self.stride)):
                    taps.append((i, tuple(f // s for f, s in zip(first, self.stride))))
            count = tuple((n - p - 1) // s + 1 for n, p, s in zip(size, phase, self.stride))
            subs.append(_Sub(taps, count, phase, tuple(self.stride), (1, 1, 1)))
        shape = (self.x[0], cg * self.groups, *size)
        points = prod(kernel)
        return self._table(subs, shape, cg, points, cg * points, o // self.groups * cg * points, False, False)

    def _table(
        self,
        subs: Sequence[_Sub],
        shape: Any,
        outputs: int,
        w_row: int,
        w_channel: int,
        w_group: int,
        bias: bool,
        relu: bool,
    ) -> Any:
        """The table of `conv`: `w_row`, `w_channel` are from one output and input channel to the next in w."""
        size, lanes, groups = self.size, self.lanes, self.groups
        samples, channels, *places = self.x
        channels //= groups
        if channels == outputs == 1 and not relu and prod(self.w[2:]) > 1:
            table = depthwise.forward_table(self, subs, shape, bias)
            if table is not None:
                return table, shape, DEPTHWISE
        most, vectors = self.tiles.flat
        width = vectors * lanes
        by_pixel = self._by_pixel(subs, outputs, channels)
        block = self.tiles.pixel[1] * lanes if by_pixel else most
        blocks = -(-outputs // block)
        points = samples * max(prod(s.count) for s in subs)
        by_block = by_pixel and groups == 1 and points <= _FEW_POINTS and blocks >= _FEW_UNITS
        wide = (-(-outputs // lanes) * lanes if by_pixel else outputs) * size
        y_row, y_slice, y_plane = shape[4] * size, prod(shape[3:]) * size, prod(shape[2:]) * size
        numbers: list[int] = []
        words: list[list[int]] = []
        work, useful, temp = 0, 0, 0
        base = len(HEAD) + len(SUB) * len(subs)

        def array(values: Sequence[int]) -> int:
            numbers.extend(values)
            return base + len(numbers) - len(values)

        # All subs read the same copy. Taps of one phase are a whole number of moves apart; a phase starts where its
        # first tap does.
        move, taps = subs[0].move, [at for s in subs for _, at in s.taps]
        depths = sorted({at[0] for at in taps})
        phases: dict[tuple[int, int], list[int]] = {}
        for at in taps:
            low = phases.setdefault((at[1] % move[1], at[2] % move[2]), [at[1], at[2]])
            low[0], low[1] = min(low[0], at[1]), min(low[1], at[2])
        keys = list(phases)

        def shift(at: Sequence[int]) -> tuple[int, int]:
            """The row and the column of a tap in its phase."""
            h, w = ((a - b) // m for a, b, m in zip(at[1:], phases[at[1] % move[1], at[2] % move[2]], move[1:]))
            return h, w

        count = [max(s.count[j] for s in subs) for j in range(3)]
        margin = max((shift(at)[0] for at in taps), default=0)
        columns = max(s.count[2] + max((shift(at)[1] for _, at in s.taps), default=0) for s in subs)
        # The zeros before a row are also those after the row above.
        before, after = -min((at[2] for at in taps), default=0), 0
        if move[2] == 1:
            after = max(0, min(before, columns - before - places[2], columns - count[2]))
        columns -= after
        each = max(1, channels * len(depths) * len(keys) * columns * size)
        band = max(1, min(count[1], _BAND // each - margin))
        if by_pixel:
            band = max(1, min(band, _BAND // (count[2] * wide)))
        bands = -(-count[1] // band)
        all_work = samples * groups * outputs * channels * sum(prod(s.count) * len(s.taps) for s in subs)
        if all_work >= 2 * _PARALLEL and not by_block:  # (whose blocks are divided)
            bands = _even(bands, count[1], margin, samples * groups * count[0])
        band = -(-count[1] // bands)
        bands = -(-count[1] // band)
        plane = _apart(((band + margin) * columns + after) * size)
        area = plane * len(keys)
        scratch = channels * len(depths) * area
        least = [min((at[j] for at in taps), default=0) for j in range(3)]
        inside = len(keys) <= 1 and min(least) >= 0 and all(
            (s.count[j] - 1) * move[j] + max((at[j] for _, at in s.taps), default=0) < places[j]
            for s in subs for j in range(3)
        )
        # One tap and nothing beside it needs no copy, unless channels compete for the same sets of a cache.
        in_place = inside and move == (1, 1, 1) and columns == places[2]
        in_place = in_place and all(len(s.taps) == 1 and s.count == tuple(places) or not s.taps for s in subs)
        in_place = in_place and gcd(prod(places) * size, _WAY) <= 2 * band * columns * size
        in_place = in_place and (by_pixel or count[2] >= lanes)  # beyond any unit but the last are so many more
        units = samples * groups * count[0] * bands
        # The next unit's input comes near a few lines at each product, where it is not expected in a cache.
        ahead_row = min(places[1], (band + margin) * move[1]) * places[2] * size
        ahead_lines = max(1, -(-ahead_row // LINE))
        orders = [self._order(s, places, channels, by_pixel) for s in subs]
        copied = -(-scratch // 64) * 64
        temp_wide = block * size if by_block else wide
        products = 0
        for s, order in zip(subs, orders):
            tiles = band * -(-s.count[2] // self.tiles.pixel[0])
            run = (band - 1) * columns + s.count[2]
            products += len(order.parts) * blocks * (tiles if by_pixel else -(-run // width))
        geometry = {
            "taps_d": len(depths), "d_at": array(depths), "t_step": move[0], "d_n": places[0], "phases": len(keys),
            "phase_at": array([n for key in keys for n in phases[key]]), "h_step": move[1], "w_step": move[2],
            "row": columns * size, "held": band + margin, "plane": plane, "band": band, "bands": bands,
            "clear": not inside, "units": units, "in_place": in_place, "ahead_lines": ahead_lines,
            "ahead": -(-ahead_lines * channels // products) if prod(self.x) * size > _FAR and not by_block else 0,
            "ahead_row": (ahead_lines - 1) * LINE,
        }
        first_step = 0
        for s, order in zip(subs, orders):
            steps = channels * len(s.taps)
            place_of = {}
            for i, at in s.taps:
                h, w = shift(at)
                phase = keys.index((at[1] % move[1], at[2] % move[2]))
                place_of[i] = depths.index(at[0]) * area + phase * plane + (h * columns + w) * size
            off = [c * len(depths) * area + place_of[i] for c, i in order.steps]
            total = (band - 1) * columns + s.count[2]
            group = max(1, min(-(-total // width), _RESULTS // (outputs * width * size))) if len(order.parts) > 1 else 1
            contiguous = s.step[1:] == (1, 1) and y_row == s.count[2] * size
            words.append(_words(
                SUB, first_step=first_step, off_at=array(off), parts=len(order.parts),
                parts_at=array([n for part in order.parts for n in part]),
                classes_at=array(order.classes), ranges_at=array(order.ranges),
                t_n=s.count[0], h_n=s.count[1], w_n=s.count[2],
                y_start=s.start[0] * y_slice + s.start[1] * y_row + s.start[2] * size, y_t=s.step[0] * y_slice,
                y_h=s.step[1] * y_row, y_w=s.step[2] * size, group=group,
                run=_run(s.count[2], self.lanes) if contiguous else 1,
                near=contiguous and prod(shape) * size > _NEAR,
                place_at=array([c * prod(places) * size for c, _ in order.steps if in_place]), **geometry,
            ))
            first_step += steps
            temp = max(temp, band * s.count[2] * temp_wide if by_pixel else outputs * group * width * size)
            vectors_all = -(-total // lanes) * outputs
            if by_pixel:
                vectors_all = band * s.count[2] * (wide // (size * lanes))
            work += units * steps * vectors_all * lanes
            useful += samples * groups * prod(s.count) * outputs * steps
        if useful < _WASTE * work:
            return None
        temp_at = -(-(scratch + 2 * width * size) // 64) * 64
        own_at = -(-(temp_at + temp * (units if by_block else 1) + width * size) // 64) * 64
        own = block * first_step * size if by_block else 0
        # Weights are read in the order of their places, and written in that of the steps, of one sub after the other.
        steps_all = [step for order in orders for step in order.steps]
        where = sorted(((c * w_channel + i) * size, at) for at, (c, i) in enumerate(steps_all))
        runs = _runs([at for at, _ in where], size, self.lanes)
        head = _words(
            HEAD, out_size=prod(shape) * size, x_size=prod(self.x) * size, w_size=prod(self.w) * size,
            bias_size=outputs * groups * size if bias else 0, samples=samples, groups=groups, channels=channels,
            outputs=outputs, x_plane=prod(places) * size, x_slice=prod(places[1:]) * size, x_h=places[1], x_w=places[2],
            y_plane=y_plane,
            packed_size=(0 if in_place else units * copied) if by_block else groups * wide * first_step,
            scratch_size=own_at + own,
            temp_at=temp_at,
            blocks=blocks, low=outputs // blocks, longer=outputs % blocks, vectors=vectors, w_row=w_row * size,
            w_group=w_group * size, relu=relu, alone=work < _PARALLEL,
            by_pixel=by_pixel, wide=temp_wide, subs=len(subs), by_block=by_block, own_at=own_at, temp_unit=temp,
            paired=by_block and units == samples and 2 * max(s.count[2] for s in subs) <= self.tiles.pixel[0],
            copied=copied, steps=first_step, w_at=array([at for at, _ in where]), to_at=array([to for _, to in where]),
            runs=len(runs), runs_at=array([n for run in runs for n in run]),
        )
        return np.array([n for part in (head, *words, numbers) for n in part], np.int64), shape, FORWARD

    def _by_pixel(self, subs: Sequence[_Sub], outputs: int, channels: int) -> bool:
        """Whether tiles of pixels by outputs have less to do than tiles of outputs by (long runs of) pixels."""
        lanes, ours, other = self.lanes, 0.0, 0.0
        vectors = -(-outputs // lanes)
        for s in subs:
            _, h, w = s.count
            margin = 1 if len({at[2] for _, at in s.taps}) > 1 else 0
            run = -(-((h - 1) * (w + margin) + w) // lanes)
            other += run * outputs * (channels * len(s.taps) + _FLUSH)
            rows = -(-w // -(-w // self.tiles.pixel[0]))
            few = max(1.0, _LATENCY / (rows * min(vectors, self.tiles.pixel[1])))
            alone = 1 + (vectors % self.tiles.pixel[1]) / vectors * _ALONE
            seen = (_inside(at[1], s.move[1], self.x[3], h) for _, at in s.taps)
            steps = channels * sum(hi - lo for lo, hi in seen) / h
            ours += h * w * vectors * (steps * few * alone + _TRANSPOSE)
        return ours < other

    def _order(self, s: _Sub, places: Sequence[int], channels: int, by_pixel: bool) -> _Order:
        """In which order and parts a sub-convolution takes its steps."""
        height, width = s.count[1:]
        if not by_pixel:
            all_steps = [(c, i) for c in range(channels) for i, _ in s.taps]
            pieces = _parts(0, len(all_steps), _DEPTH) or [(0, 0)]
            return _Order(all_steps, [(first, n, 0, width) for first, n in pieces], [], [])
        columns: dict[int, list[Any]] = {}
        for i, at in s.taps:
            columns.setdefault(at[2], []).append((i, at))
        seen = {w: _inside(w, s.move[2], places[2], width) for w in columns}
        groups = sorted(columns, key=lambda w: (seen[w][0] - seen[w][1], w))  # those with most to do first
        saved = sum(len(columns[w]) * channels * (width - hi + lo) for w, (lo, hi) in seen.items()) / width
        count = lambda taps: -(-taps * channels // _PIXEL_DEPTH)
        together: list[tuple[list[Any], int, int]]
        if saved > _PART * (sum(count(len(taps)) for taps in columns.values()) - count(len(s.taps))):
            together = [(columns[w], *seen[w]) for w in groups]
        else:
            together = [(s.taps, 0, width)]
        steps: list[tuple[int, int]] = []
        parts: list[tuple[int, int, int, int]] = []
        rows: list[tuple[int, int]] = []
        for taps, lo, hi in together:
            begin = len(steps)
            for h in sorted({at[1] for _, at in taps}):
                line = [i for i, at in taps if at[1] == h]
                steps += [(c, i) for c in range(channels) for i in line]
                rows += [_inside(h, s.move[1], places[1], height)] * (channels * len(line))
            for first, n in _parts(begin, len(steps), _PIXEL_DEPTH):
                # The first part makes all results, also those of which it has no products.
                parts.append((first, n, lo, hi) if parts else (first, n, 0, width))
        classes: list[int] = []
        ranges: list[int] = []
        known: dict[int, int] = {}
        edges = sorted({edge for row in rows for edge in row})
        for r in range(height):
            key = bisect.bisect_right(edges, r)
            if key not in known:
                known[key] = len(known)
                for first, n, *_ in parts:
                    some = [j for j in range(n) if rows[first + j][0] <= r < rows[first + j][1]]
                    ranges += [some[0], some[-1] + 1 - some[0]] if some else [0, 0]
            classes.append(known[key])
        return _Order(steps, parts or [(0, 0, 0, width)], classes, ranges or [0, 0])

    def weight_grad(self, kernel: tuple[int, ...], given: Any) -> Any:
        """The table of `gradient`; self.w is the shape of g."""
        size, lanes, groups = self.size, self.lanes, self.groups
        samples, channels, *places = self.x
        o, out = self.w[1] // groups, self.w[2:]
        channels //= groups
        if channels == o == 1 and prod(kernel) > 1:
            steps = [(i, self._reached(at)) for i, at in enumerate(itertools.product(*map(range, kernel)))]
            whole = _Sub(steps, tuple(out), (0, 0, 0), (1, 1, 1), tuple(self.stride))
            table = depthwise.gradient_table(self, whole)
            if table is not None:
                return table, (groups, 1, *given), DEPTHWISE_WEIGHTS
        taps = prod(kernel)
        depths = [a * self.dilation[0] - self.padding[0][0] for a in range(kernel[0])]
        kept = (kernel[1] - 1) * self.dilation[1] + 1
        columns = (out[2] - 1) * self.stride[2] + (kernel[2] - 1) * self.dilation[2] + 1
        wide = -(-o // lanes) * lanes * size
        # Partial sums: over chunks of samples and parts of the channels, whose number depends on the sizes alone.
        most = min(_MOST_UNITS, max(1, samples * channels * groups))
        chunks = max(1, min(samples, most // groups or 1, _SUMS // (groups * channels * taps * wide)))
        chunk = -(-samples // _equal(chunks, samples))
        chunks = -(-samples // chunk)
        parts = max(1, min(channels, most // (chunks * groups), channels * taps // _ROWS))
        parts = 1 << parts.bit_length() - 1  # so that the threads have equally much to do
        part = -(-channels // parts)
        by_tap = part >= _BY_TAP
        row_bytes = (part * kernel[0] * columns * self.stride[1] + out[2] * self.tiles.gradient[1] * lanes) * size
        band = max(1, min(out[1], _GRADIENT_BAND // row_bytes))
        bands = -(-out[1] // band)
        band = -(-out[1] // bands)
        plane = _apart(((band - 1) * self.stride[1] + kept) * columns * size)
        if part > 1 and part * kernel[0] * plane > 4 * _GRADIENT_BAND:  # a part that is small enough for the cache
            part = max(1, 4 * _GRADIENT_BAND // (kernel[0] * plane))
        parts = -(-channels // part)
        # Where there are few such sums, those of some rows of each sample stay apart too.
        units, one = chunks * groups * parts, groups * channels * taps * wide
        cuts = max(1, min(out[1], _FEW_UNITS // units, _SUMS // (chunks * one)))
        band, chunks = min(band, -(-out[1] // cuts)), chunks * cuts
        points = list(itertools.product(*map(range, kernel)))
        facts: list[int] = []
        if not by_tap:
            rows = [(h * self.dilation[1] * columns + w * self.dilation[2]) * size for _, h, w in points]
            off = [(c * kernel[0] + d) * plane + row for c in range(part) for (d, _, _), row in zip(points, rows)]
        else:
            off = [c * prod(places) * size for c in range(part)]
            for d, h, w in points:
                h, w = h * self.dilation[1] - self.padding[1][0], w * self.dilation[2] - self.padding[2][0]
                (h0, h1), (w0, w1) = (
                    _inside(start, self.stride[j], places[j], out[j]) for j, start in ((1, h), (2, w))
                )
                facts += _words(TAP, depth=depths[d], h=h, w=w, h0=h0, h1=h1, w0=w0, w1=w1)
        base = len(GRADIENT)
        work = samples * groups * channels * taps * o * prod(out)
        gt_at = 64 if by_tap else -(-(part * kernel[0] * plane) // 64) * 64 + 64
        shape = (o * groups, channels, *given)
        head = _words(
            GRADIENT, out_size=prod(shape) * size, x_size=prod(self.x) * size, w_size=prod(self.w) * size, bias_size=0,
            samples=samples, groups=groups, channels=channels, outputs=o, x_plane=prod(places) * size,
            x_slice=prod(places[1:]) * size, x_h=places[1], x_w=places[2], g_plane=prod(out) * size,
            g_slice=prod(out[1:]) * size, t_n=out[0], h_n=out[1], w_n=out[2], taps=taps, taps_d=kernel[0], d_at=base,
            t_step=self.stride[0], d_n=places[0], h_start=-self.padding[1][0], w_start=-self.padding[2][0],
            h_step=self.stride[1], w_step=self.stride[2], row=columns * size, plane=plane, off_at=base + len(depths),
            kept=kept, chunks=chunks, chunk=chunk, cuts=cuts, parts=parts, part=part, band=band,
            wide=wide, packed_size=chunks * one,
            scratch_size=gt_at + band * out[2] * self.tiles.gradient[1] * lanes * size + 64, gt_at=gt_at,
            by_tap=by_tap, taps_at=base + len(depths) + len(off), alone=work < _PARALLEL,
        )
        return np.array([*head, *depths, *off, *facts], np.int64), shape, WEIGHTS


def _parts(begin: int, end: int, most: int) -> list[tuple[int, int]]:
    """(first, how many) of equal parts of a range, none of which is longer than `most`."""
    count = -(-(end - begin) // most)
    cuts = [begin + (end - begin) * i // count for i in range(count + 1)] if count else [begin]
    return [(a, b - a) for a, b in zip(cuts, cuts[1:])]


def _inside(start: int, step: int, size: int, count: int) -> tuple[int, int]:
    """The range of i in range(count) with 0 <= start + i step < size; (0, 0) where there are none."""
    low, high = max(0, -(start // step)), min(count, (size - 1 - start) // step + 1)
    return (low, high) if low < high else (0, 0)


def _runs(places: Sequence[int], step: int, most: int) -> list[tuple[int, int]]:
    """(first, how many) of places that are `step` apart, `most` of them at most."""
    runs: list[tuple[int, int]] = []
    for i, at in enumerate(places):
        if runs and runs[-1][1] < most and at == places[i - 1] + step:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((i, 1))
    return runs


def _run(width: int, lanes: int) -> int:
    """How many rows of results leave together: as few vectors as possible shall be partly new only."""
    return min(range(1, max(1, _RUN // width) + 1), key=lambda n: (-(-n * width // lanes) * lanes / (n * width), n))


def _even(least: int, rows: int, margin: int, others: int) -> int:
    """Into how many bands, `least` or more, rows are cut so that all threads are done soonest.

    There are `others` such images. The results are the same. A band costs as much as its rows, and copying its margin.
    """
    threads = config.num_threads  # a plan that was made for another number is right, if slower

    def time(n: int) -> float:
        band = -(-rows // n)
        return -(-others * -(-rows // band) // threads) * (band + 0.25 + 0.1 * margin)

    return min(range(least, max(least, min(rows, 4 * threads)) + 1), key=time)


def _equal(most: int, count: int) -> int:
    """Into how many chunks of equal size, at most `most`, `count` are cut so that threads have equally much to do."""
    waste = lambda n: (-(-count // n) * n - count, n % 2, -n)
    return min(range(most // 2 + 1, most + 1), key=waste)


def _apart(size: int) -> int:
    """`size` rounded up to an odd number of cache lines, so that images in a row do not compete for the same sets."""
    return (-(-size // LINE) | 1) * LINE


def _words(names: Sequence[str], **values: int) -> list[int]:
    """The values in the order of the table."""
    assert len(values) == len(names), set(names) ^ set(values)
    return [int(values[name]) for name in names]
