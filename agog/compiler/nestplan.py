"""What is known of a loop nest before it is emitted: the vector axis, the order of loops, passes, cost, unrolling.

One axis is the vector axis, chosen so that memory is walked in order. If it is a kept axis, every lane has its own
accumulators, and a column of lanes is taken through all passes; if it is reduced, lanes are folded at the end. A pass
is one walk over the reduced axes: values that need a reduction's result come in a later pass than those it is made of.
"""

import math
from typing import Any

from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import ITEMSIZE

__all__ = ["BUSY", "LINE", "PAGE", "NestPlan", "cost_of"]

LINE = 64  # bytes of a line of the caches
_TILE = 64  # elements of a tile at most: see `NestPlan._across`
PAGE = 4096
_STREAMS = 3  # arrays that are stored around the caches at a time: processors have few buffers for lines on their way

_SQUARE = 16  # lanes of the squares that are transposed in registers, at most
_SQUARES = 8  # squares from which they are what threads share out
_CROSSED, _REVERSED = 3.0, 1.5  # about what that, and reversing it, costs a load of a vector

_UNROLL = ((16, 4), (60, 2))  # up to this cost, so many vectors at a time
BUSY = 1 << 17  # work from which unrolling pays also for short loops
_PART, _PARTS = 1 << 12, 64  # instructions, of vectors, of a part of a reduced axis at least; and parts at most
_IN_PARTS = 1 << 15  # such instructions from which it is divided
_PIECES = 16  # of the kept axes, from which these are shared out instead

_costs: dict[Any, int] = {}


def cost_of(target, name, fn, dtypes):
    """Instructions of one application, from a trial. Raises what `fn` raises for dtypes that it does not take."""
    key = target.name, name, dtypes
    if key not in _costs:
        k = Kernel(Module(target), "trial", [(f"a{i}", (d or "float32", 4)) for i, d in enumerate(dtypes)], lanes=4)
        result = fn(k, *[a if d else None for a, d in zip(k.arguments, dtypes)])
        _costs[key] = k.size if isinstance(result, Value) else 1
    return _costs[key]


class NestPlan:
    """The plan of one nest. `work` is its cost in instructions, `split` the size of the axis that can be shared out.

    functions  {name: f(k, *values)} for what is applied
    """

    def __init__(self, target, nest, functions):
        self.target, self.nest, self.functions = target, nest, functions
        self.exprs = nest.exprs
        self._analyse()

    def _analyse(self):
        nest = self.nest
        # (What a reduction gives may be cast to a wider dtype: it is not every element that is.)
        dtypes = {e[1] for e in self.exprs if e[0] != "cast" or self.exprs[e[2]][0] != "reduce"}
        self.lanes = min(64, *(self.target.lanes(d) for d in dtypes), 64)
        self.cost = [1] * len(self.exprs)
        for i, e in enumerate(self.exprs):
            if e[0] == "apply":
                self.cost[i] = cost_of(
                    self.target,
                    e[2],
                    self.functions[e[2]],
                    tuple(None if a is None else self.exprs[a][1] for a in e[3]),
                )
        self.vector = self._vector_axis()
        if self.vector is None:
            self.lanes = 1
        else:
            while self.lanes > 1 and self.lanes // 2 >= nest.sizes[self.vector]:
                self.lanes //= 2
        kept = [a for a, r in enumerate(nest.reduced) if not r and a != self.vector]
        over = [a for a, r in enumerate(nest.reduced) if r and a != self.vector]
        around, self.crossed = self._crossing(kept)
        self.tile = None
        if not self.crossed:
            around, self.tile = self._across(kept)
        if around is not None:
            kept = [a for a in kept if a != around] + [around]
        self.v_kept = self.vector is not None and not nest.reduced[self.vector]
        middle = [self.vector] if self.v_kept else []
        last = [self.vector] if self.vector is not None and not self.v_kept else []
        self.order = kept + middle + over + last
        self.scalar_kept, self.over = kept, over
        self.k_depth = len(kept) + len(middle)
        self.has_reduction = any(nest.reduced)
        position = {a: i + 1 for i, a in enumerate(self.order)}
        self.depth, self.level = [0] * len(self.exprs), [0] * len(self.exprs)
        for i, e in enumerate(self.exprs):
            used = self.operands(e)
            depth = max((self.depth[u] for u in used), default=0)
            level = max((self.level[u] for u in used), default=0)
            if e[0] in ("load", "gather"):
                depth = max([depth, *(position[a] for a, s in enumerate(e[4]) if s)])
            elif e[0] == "coord":
                depth = position[e[2]]
            elif e[0] == "reduce":
                depth, level = self.k_depth, level + 1
            self.depth[i], self.level[i] = depth, level
        self.passes = 1 + max((self.level[e[3]] for e in self.exprs if e[0] == "reduce"), default=-1)
        for s in nest.stores:
            if s.each and self.has_reduction:
                self.passes = max(self.passes, self.level[s.expr] + 1)
        points = 1
        for n in nest.sizes:
            points *= n
        body = sum(c for c, d in zip(self.cost, self.depth) if d == len(self.order)) + 2 * len(nest.stores)
        if self.vector is not None and any(s[self.vector] not in (0, 1) for s in self._accesses()):
            body *= 3
        if any(e[0] == "gather" for e in self.exprs):
            body *= 2
        self.body = body
        self.work = points * body
        self.unroll = 1 if self.crossed else self._choose_unroll()
        while self.tile and self.unroll * self.lanes > self.tile:
            self.unroll //= 2
        self.parts, self.part, self.parted = self._in_parts()

    def _accesses(self, dtypes=False):
        found = [(e[4], e[1]) for e in self.exprs if e[0] in ("load", "gather")]
        found += [(s.strides, self.exprs[s.expr][1]) for s in self.nest.stores]
        return found if dtypes else [strides for strides, _ in found]

    def operands(self, e):
        """The expressions that `e` is made of."""
        if e[0] == "apply":
            return [a for a in e[3] if a is not None]
        if e[0] == "gather":
            return [p[0] for p in e[5]]
        return [e[2]] if e[0] == "cast" else [e[3]] if e[0] == "reduce" else []

    def _vector_axis(self):
        """The axis along which memory is walked best."""
        sizes, best, found = self.nest.sizes, None, None
        one_by_one, squares = 0.8 * self.lanes, not any(self.nest.reduced)
        accesses = []  # (strides, price of a vector that walks backwards, and of one that walks otherwise)
        for e in self.exprs:
            if e[0] in ("load", "gather"):
                backwards = _REVERSED if e[0] == "load" and ITEMSIZE[e[1]] >= 4 else one_by_one
                accesses.append((e[4], backwards, _CROSSED if squares and self._turned(e) else one_by_one))
        accesses += [(s.strides, 2.0 * self.lanes, 2.0 * self.lanes) for s in self.nest.stores if s.each]
        for a, n in enumerate(sizes):
            if n <= 1:
                continue
            vectors = -(-n // self.lanes)
            price = sum({0: 0.3, 1: 1.0, -1: backwards}.get(s[a], across) for s, backwards, across in accesses)
            price = (price + sum(self.cost) * 0.5) * vectors / n
            if self.nest.reduced[a]:
                price += 8.0 / n
            if best is None or price <= best * 1.0001:
                best, found = price, a
        return found

    def _choose_unroll(self):
        if self.vector is None or self.lanes == 1:
            return 1
        vectors = self.nest.sizes[self.vector] // self.lanes
        if self.work < BUSY and vectors < 32:  # little to gain, and less code is compiled sooner
            return 1
        for limit, u in _UNROLL:
            if self.body <= limit and vectors >= u and (vectors % u == 0 or vectors >= 4 * u):
                return u
        return 1

    @property
    def rows(self):
        """How many indices the kept axes have that are not the vector axis."""
        return math.prod(self.nest.sizes[a] for a in self.scalar_kept)

    def _in_parts(self):
        """(parts, indices of one, axis) of a reduced axis, where the kept ones are too few to be shared out; or (1, 0,
        None).

        It depends on the nest alone, so that what is summed does not depend on the threads. Of the vector axis, whole
        steps of its loop are divided; what is left of it belongs to no part.
        """
        sizes, step = self.nest.sizes, self.lanes * self.unroll
        vectors = self.work // self.lanes
        pieces = self.rows * (sizes[self.vector] // step if self.v_kept else 1)
        if not self.passes or self.vector is None or vectors < _IN_PARTS or pieces >= _PIECES:
            return 1, 0, None
        steps = {a: sizes[a] if a in self.over else sizes[a] // step for a in self.order[self.k_depth :]}
        most = min(_PARTS // max(1, pieces), vectors // _PART // max(1, pieces))
        axis = next((a for a, n in steps.items() if n >= most), max(steps, key=steps.get, default=None))
        if axis is None or min(most, steps[axis]) < 2:
            return 1, 0, None
        parts = 1 << min(most, steps[axis]).bit_length() - 1  # a power of two, as threads often are
        part = -(-steps[axis] // parts)
        return -(-steps[axis] // part), part * (1 if axis in self.over else step), axis

    def _turned(self, e):
        """Whether squares of what a load reads can be transposed in registers."""
        return e[0] == "load" and 1 in e[4] and ITEMSIZE[e[1]] > 1 and 1 < self.lanes <= _SQUARE

    def _crossing(self, kept):
        """(axis, loads): a kept axis along the lines of arrays that the vector axis walks across, and the loads of
        those: they read squares, which are transposed. (None, ()) without.
        """
        best = None, ()
        if any(self.nest.reduced) or self.vector is None:
            return best
        for a in kept:
            loads = [i for i, e in enumerate(self.exprs)
                     if self._turned(e) and e[4][self.vector] not in (0, 1) and e[4][a] == 1]
            if self.nest.sizes[a] * 2 > self.lanes and len(loads) > len(best[1]):
                best = a, loads
        return best

    def _across(self, kept):
        """(axis, tile): a kept axis along the lines of arrays that the vector axis walks across; (None, None) without.

        As in a transposed copy: each line is read again at the next turns of a loop over that axis. So a tile of the
        vector axis is taken through all of them before the next: as many lines as the first level cache keeps.
        """
        if any(self.nest.reduced) or self.lanes == 1 or self.nest.sizes[self.vector] <= self.lanes:
            return None, None
        walked = [(s, ITEMSIZE[d]) for s, d in self._accesses(dtypes=True) if s[self.vector] not in (0, 1)]
        for a in kept:
            steps = [abs(s[self.vector]) * size for s, size in walked if abs(s[a]) == 1]
            if steps and self.nest.sizes[a] >= self.lanes:
                # Places a page apart share one set of a first level cache, of eight lines or more.
                fit = min(8 * (PAGE // math.gcd(step, PAGE)) for step in steps) // len(steps)
                return a, max(self.lanes, 1 << min(fit, _TILE).bit_length() - 1)  # a power of two, as unrolling is
        return None, None

    @property
    def along(self):
        """Whether it is the vector axis that is shared out although there is a loop around it, of few squares."""
        return bool(self.crossed) and self.k_depth == 2 and self.nest.sizes[self.order[0]] < _SQUARES * self.lanes

    @property
    def shared(self):
        """The axis that can be shared out."""
        return self.vector if self.along else self.order[0]

    @property
    def split(self):
        """How many pieces the work can be shared out in (the size of the outermost loop), or 1."""
        if self.k_depth == 0:
            return 1
        n = self.nest.sizes[self.shared]
        if self.along:
            return n // self.lanes
        return n // (self.lanes * self.unroll) if self.v_kept and self.k_depth == 1 else n

    @property
    def moved(self):
        """About how many bytes of arrays it walks over."""
        walked = [(e[2], e[1], e[4]) for e in self.exprs if e[0] in ("load", "gather")]
        walked += [(s.arg, self.exprs[s.expr][1], s.strides) for s in self.nest.stores]
        reach = {}
        for arg, dtype, strides in walked:
            size = ITEMSIZE[dtype] * math.prod(n for n, s in zip(self.nest.sizes, strides) if s)
            reach[arg] = max(size, reach.get(arg, 0))
        return sum(reach.values())

    @property
    def streams(self):
        """The arguments that may be stored around the caches: whole lines in order, if the array begins with a line."""
        if self.vector is None or self.target.machine != "x86_64":
            return ()
        found = []
        for s in self.nest.stores:
            size = ITEMSIZE[self.exprs[s.expr][1]]
            others = [t for a, t in enumerate(s.strides) if a != self.vector]
            lines = all(t * size % LINE == 0 for t in (s.offset, *others))
            if s.each and s.strides[self.vector] == 1 and lines and self.lanes * size >= 16:
                found.append(s.arg)
        return tuple(found) if len(found) <= _STREAMS and len(set(found)) == len(found) else ()

    @property
    def gathers(self):
        """Whether it reads at places that values name, which may be outside."""
        return any(e[0] == "gather" for e in self.exprs)
