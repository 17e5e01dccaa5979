"""Pooling of one to three axes: maxima and means over windows, and their gradients.

    pooling("float32").maximum(x, kernel, stride, padding, dilation)          -> y
    pooling("float32").scatter(g, x, y, kernel, stride, padding, dilation)    -> dx
    pooling("float32").indices(x, y, kernel, stride, padding, dilation)       -> where in x
    pooling("float32").mean(x, kernel, stride, padding, bounds)               -> y
    pooling("float32").spread(g, size, kernel, stride, padding, bounds)       -> dx

The arguments are those of the rows `_max_pool`, `_max_pool_scatter`, `_max_pool_indices`, `_avg_pool` and
`_avg_pool_adjoint`. The gradient, which goes to the first of equal maxima, reads no indices: it compares x with y
again, which costs less. How all that is done is in `pooling_windows`, `pooling_maxima`, `pooling_gradients` and
`pooling_pairs`. Each has an object of its own for every small stride along the rows, compiled when it is wanted.
"""

from __future__ import annotations

import functools
import struct
from math import prod
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module
from agog.compiler.planned import Planned
from agog.compiler.pooling_gradients import Means
from agog.compiler.pooling_maxima import Maxima
from agog.compiler.pooling_pairs import Pairs
from agog.compiler.pooling_windows import AXES, HEAD, STEPS, Windows
from agog.compiler.targets import ITEMSIZE, Target

__all__ = ["KINDS", "NAMES", "Plan", "Pooling", "plan", "pooling"]

#: What is computed, by the names that programs know: (whether of means, whether it is a gradient).
NAMES = {
    "max_pool": (False, False), "max_scatter": (False, True), "avg_pool": (True, False), "avg_spread": (True, True)
}
INDICES = "max_indices"  # of eager code alone
#: The native functions, (name, lines, step): for windows of 2, of which so many lines of x make a row of results, or,
#: with 0 lines, for windows that move by so many elements along a row (0: by any other number).
KINDS = {f"{name}_pairs_{lines}": (name, lines, 2) for name in NAMES for lines in (1, 2, 4)} | {
    f"{name}_{step}": (name, 0, step) for name in NAMES for step in (0, *STEPS)} | {INDICES: (INDICES, 0, 0)}

_PARALLEL, _GRAIN = 1 << 15, 1 << 13  # elements
_NEAR = 16 << 10  # bytes of lines that a step leaves to the next
_MOST = 8  # lines


class Plan(NamedTuple):
    """What one kind of call does: the name of the native function, its table, and the result's shape."""

    kind: str
    table: np.ndarray
    shape: tuple[int, ...]


class Pooling(Planned):
    """Pooling of one dtype. Methods return None where there is nothing to compute."""

    __slots__ = ()

    def _bound(self, kind: str) -> Callable[..., None]:
        module = _later(self.name, self.target, kind)
        return call.bind(module, f"{kind}_{self.name}", _PARAMETERS, imports=pool.imports)

    def maximum(self, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, empty: Any = np.empty) -> Any:
        """The row `_max_pool`."""
        return self._run("max_pool", x.shape, kernel, stride, padding, dilation, empty, x)

    def scatter(
        self, g: Any, x: Any, y: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, empty: Any = np.empty
    ) -> Any:
        """The row `_max_pool_scatter`."""
        return self._run("max_scatter", x.shape, kernel, stride, padding, dilation, empty, g, x, y)

    def indices(
        self, x: Any, y: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, empty: Any = np.empty
    ) -> Any:
        """The row `_max_pool_indices`."""
        return self._run(INDICES, x.shape, kernel, stride, padding, dilation, empty, x, y)

    def mean(self, x: Any, kernel: Any, stride: Any, padding: Any, bounds: Any, empty: Any = np.empty) -> Any:
        """The row `_avg_pool`."""
        return self._run("avg_pool", x.shape, kernel, stride, padding, bounds, empty, x)

    def spread(
        self, g: Any, size: Any, kernel: Any, stride: Any, padding: Any, bounds: Any, empty: Any = np.empty
    ) -> Any:
        """The row `_avg_pool_adjoint`."""
        return self._run("avg_spread", (*g.shape[:2], *size), kernel, stride, padding, bounds, empty, g)

    def _run(
        self, name: str, shape: Any, kernel: Any, stride: Any, padding: Any, more: Any, empty: Any, *given: Any
    ) -> Any:
        p = plan(self.target, self.name, name, shape, kernel, stride, padding, more)
        if p is None:
            return None
        native = self._found(p.kind)
        if native is None:
            return None
        pool.refresh()
        out = empty(p.shape, np.dtype(np.int64) if name == INDICES else self.dtype)
        rest = [self.nothing] * (3 - len(given))
        try:
            native(out, *given, *rest, p.table)
        except ValueError:  # they are not contiguous, or do not fit
            native(out, *map(np.ascontiguousarray, given), *rest, p.table)
        return out


@functools.cache
def pooling(dtype: str, target: Target | None = None) -> Pooling:
    """The `Pooling` of "float32" or "float64"; compiled at the first call on a machine, then read from disk."""
    return Pooling(dtype, target or targets.host())


# -------------------------------------------------------------------------------------------------------------- plans
class _Axis(NamedTuple):
    """See `pooling_windows.AXES`."""

    x: int
    y: int
    k: int
    s: int
    p: int
    d: int
    low: int
    high: int

    @property
    def whole(self) -> bool:
        """Whether each element is a window of its own."""
        return self.k == self.s == 1 and self.x == self.y and not self.p

    @property
    def two(self) -> bool:
        """Whether windows are of 2 and move by 2, without padding."""
        return self.k == self.s == 2 and self.d == 1 and not self.p and 2 * self.y <= self.x

    @property
    def reach(self) -> int:
        """How far a window reaches."""
        return (self.k - 1) * self.d + 1

    def counts(self) -> set[int]:
        """How many elements count for the mean of a window."""
        starts = (i * self.s - self.p for i in range(self.y))
        return {max(1, min(i + self.k, self.x + self.high) - max(i, -self.low)) for i in starts}


_ONE = _Axis(1, 1, 1, 1, 0, 1, 0, 0)


@functools.lru_cache(maxsize=1024)
def plan(
    target: Target, dtype: str, name: str, x: tuple[int, ...], kernel: Any, stride: Any, padding: Any, more: Any
) -> Plan | None:
    """The plan of a call for images of a shape, or None.

    more : the dilation of maxima; of means, how far from the ends elements of the padding count
    """
    mean, back = NAMES.get(name, (False, False))
    if not 3 <= len(x) <= 5 or not prod(x):
        return None
    axes = []
    for n, k, s, (lo, hi), m in zip(x[2:], kernel, stride, padding, more, strict=True):
        d, (low, high) = (1, m) if mean else (m, (0, 0))
        axes.append(_Axis(n, (n + lo + hi - d * (k - 1) - 1) // s + 1, k, s, lo, d, low, high))
    y = (*x[:2], *(a.y for a in axes))
    if min(y) < 1:
        return None
    planes, (depth, height, width), rank = _axes(x[0] * x[1], axes, name != INDICES)
    size, xs, ys = ITEMSIZE[dtype], prod(x) * ITEMSIZE[dtype], prod(y) * ITEMSIZE[dtype]
    sizes = (ys, xs, 0, 0) if not back else (xs, ys, 0, 0) if mean else (xs, ys, xs, ys)
    if name == INDICES:
        sizes = (8 * prod(y), xs, ys, 0)
    pairs = name != INDICES and all(a.two for a in (depth, height, width)[3 - rank :])
    two = (1, 2, 4)[rank - 1] if pairs else 0
    counts = [a.counts() if mean else {1} for a in (depth, height, width)]
    scale = 1.0
    for c in counts:
        scale /= min(c)
    words = {
        **dict(zip(("out_size", "a_size", "b_size", "c_size"), sizes)),
        "planes": planes,
        "rank": rank,
        "grain": max(1, _GRAIN // (depth.x * height.x * width.x)),
        "alone": prod(x) < _PARALLEL,
        "even": all(len(c) == 1 for c in counts),
        "scale": struct.unpack("<q", struct.pack("<d", scale))[0],
        **_memory(size, target.lanes(dtype), depth, height, width, rank, mean, back, two),
    }
    for axis, a in zip("dhw", (depth, height, width)):
        words |= zip((f"{n}_{axis}" for n in AXES.split()), a)
    words["places_at"] = len(HEAD)
    step = width.s if width.s in STEPS else 0
    kind = INDICES if name == INDICES else f"{name}_pairs_{two}" if two else f"{name}_{step}"
    return Plan(kind, np.array([*(words[n] for n in HEAD), *_places(width)], np.int64), x if back else y)


def _places(width: _Axis) -> list[int]:
    """What place m s + e of a line collects from, for each e < s: (where in the table, how many) pairs (tap, window).

    Windows are counted from m.
    """
    if width.s not in STEPS:
        return []
    heads: list[int] = []
    pairs: list[int] = []
    for e in range(width.s):
        found = [(a, *divmod(e + width.p - a * width.d, width.s)) for a in range(width.k)]
        found = [f for f in found if not f[2]]
        heads += len(HEAD) + 2 * width.s + len(pairs), len(found)
        pairs += [n for a, window, _ in found for n in (a, window)]
    return heads + pairs


def _axes(planes: int, axes: Sequence[_Axis], apart: bool) -> tuple[int, list[_Axis], int]:
    """The planes, three axes, and how many of these have windows, of which the last ones do.

    Axes that are not pooled are more planes where they come first, if those may be `apart`; two at the end are one.
    """
    axes = list(axes)
    while apart and len(axes) > 1 and axes[0].whole:
        planes *= axes.pop(0).x
    if len(axes) == 3 and axes[1].whole and axes[2].whole:
        n = axes[1].x * axes[2].x
        axes[1:] = [_ONE._replace(x=n, y=n)]
    rank = len(axes)
    return planes, [_ONE] * (3 - rank) + axes, rank


def _memory(
    size: int, lanes: int, depth: _Axis, height: _Axis, width: _Axis, rank: int, mean: bool, back: bool, two: int
) -> dict[str, int]:
    """Where in a thread's memory what lies: places in bytes, all else in elements."""
    up = lambda n: -(-n // lanes) * lanes
    lead, margin = -width.p % lanes, up(width.reach)
    padded = lead + max(width.p + width.x, (width.y - 1) * width.s + width.reach) + (STEPS[-1] + 1) * lanes
    held = up(max(padded, margin + max(width.y, width.x // width.s + width.p // width.s + 2) + 2 * lanes))
    batch = max(1, min(_MOST, _NEAR // (held * size)))
    line, slice_ = up(width.y), up(height.y * width.y)
    power = lambda n: 1 << (n - 1).bit_length()
    rows, slices = power(height.reach + 2 * batch) if rank > 1 else batch, power(depth.reach)
    back = back and not two
    gradient = back and not mean and width.s in STEPS
    outer = gradient and rank > 1
    sizes = {"nan_size": rows * held if gradient else 0, "index_size": batch * held if gradient else 0}
    sizes["part_size"] = batch * held if back and (mean or rank == 1) else 0
    elements = {
        "counts_at": width.y + lanes if mean else 0,
        **{f"{name[:-5]}_at": count for name, count in sizes.items()},
        "rows_at": rows * line if outer else 0,
        "before": margin if outer else 0,
        "grads_at": rows * line + held if outer else 0,
        "slices_at": slices * slice_ if outer and rank > 2 else 0,
        "slice_grads_at": (slices if gradient else 1) * slice_ + lanes if back and rank > 2 else 0,
        "scaled_at": (batch if rank == 1 else depth.y * height.y) * width.y + lanes if mean and back else 0,
    }
    at, words = batch * held * size, {}  # the lines of the way forward come first
    taps = max(depth.k * height.k, 2 * depth.k, 2 * height.k) * 8 // size
    for name, count in (("taps_at", taps), *elements.items()):
        words[name] = at = -(-at // 64) * 64
        at += count * size
    return words | sizes | {
        "batch": batch, "held": held, "lead": lead, "line": line, "margin": margin, "mask": rows - 1,
        "slice": slice_, "slice_mask": slices - 1, "scratch": 0 if two else at,
    }


# -------------------------------------------------------------------------------------------------------- native code
_PARAMETERS = call.OUT + call.IN * 4


def _later(dtype: str, target: Target, kind: str) -> jit.Later:
    """The one object of a kind, for eager work and for programs."""
    module = jit.Later(f"{kind} {dtype}", target, lambda: build(dtype, target, kind))
    return call.with_builtin(module, _PARAMETERS)


@functools.cache
def code(what: str, target: Target | None = None) -> jit.Code:
    """The function of a kind and a dtype ("max_pool_2 float32") of (out, a, b, c, table), for other native code."""
    kind, dtype = what.split()
    return jit.load(_later(dtype, target or targets.host(), kind), [kind], pool.imports)


def build(dtype: str, target: Target, kind: str) -> Module:
    """The module of one dtype and kind."""
    module = Module(target)
    name, lines, step = KINDS[kind]
    mean, back = NAMES.get(name, (False, False))
    if lines:
        writer: Any = Pairs(module, dtype, mean, lines)
    elif name == INDICES:
        writer = Maxima(module, dtype, mean, step)
    elif not back:
        writer = Windows(module, dtype, mean, step)
        writer.fold()
    else:
        writer = (Means if mean else Maxima)(module, dtype, mean, step)
        writer.gradient()
    writer.task(kind, writer.indices if name == INDICES else writer.back if back else writer.forward)
    call.emit_sizes_check(module, "pooling")
    k, (slots, _) = writer.function("run", "slots sizes", "", call.native_calls)
    k.call_known(kind, None, *(k.load(k.at(slots, i, "ptr"), "ptr") for i in range(5)))
    k.ret()
    k.finish()
    return module
