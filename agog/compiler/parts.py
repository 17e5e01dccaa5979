"""A nest whose kept axes are too few to be shared out, by several threads: few long rows, thin columns, all of it.

An axis that is reduced is divided into parts (`NestPlan.parts`), always the same ones. Each pass over it is two
functions. The first walks some parts of some rows: it does what is done at every point, and notes the reductions of
each part. The second one goes over what is left of the axis, adds the parts of each row up in their order, and keeps
the totals for the passes that follow. So the result is the same for any number of threads.
"""

import functools

from agog.compiler.kernel import Kernel
from agog.compiler.nests import NestCode
from agog.compiler.nestvalues import Scope

__all__ = ["PartedNest"]

_LINE = 64  # bytes of a line of the caches: two threads should not write to one


class PartedNest(NestCode):
    """Emits the functions of a nest in parts. A number of a part is that of a row times `parts`, and its own."""

    _scratch = 0  # what one function notes the next reads elsewhere

    @property
    def noted(self):
        """The size in bytes of what is noted: the totals of all rows, then the reductions of every part."""
        return self.rows * (self._pitch(self._reduces) + self.parts * self._noted_pitch)

    @property
    def _reduces(self):
        return [i for i, e in enumerate(self.exprs) if e[0] == "reduce"]

    @property
    def _column(self):
        """Bytes of a reduction of one row: a vector axis that is kept has so many numbers."""
        return -(-self.nest.sizes[self.vector] // self.lanes) * self.lanes * 8 if self.v_kept else 8

    def _pitch(self, reduces):
        return -(-len(reduces) * self._column // _LINE) * _LINE

    @functools.cached_property
    def _noted_pitch(self):
        return max(self._pitch(self._of_pass(p)[0]) for p in range(self.passes))

    @property
    def _whole(self):
        """Up to where the divided axis has whole steps of its loop."""
        n = self.nest.sizes[self.parted]
        step = 1 if self.parted in self.over else self.lanes * self.unroll
        return n // step * step

    def emit_pass(self, module, name, p, streaming=()):
        """Add the function of the parts begin, ..., end - 1 of pass p, as the pool calls it. Slots: the arguments, a
        place for errors and one for the notes.
        """
        parameters = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = self.k = Kernel(module, name, parameters, lanes=self.lanes, internal=True)
        slots, begin, end, _ = k.arguments
        *args, notes = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(len(self.nest.args) + 2)]
        self._begin(args, streaming)
        self._share = self.part
        reduces, stores, _ = self._of_pass(p)

        def part(number):
            row, own = (self._of(op, number, self.parts) for op in ("udiv", "urem"))
            first = k.mul(own, self.part)
            last = k.add(first, self.part)
            self._walked = first, k.where(last < self._whole, last, self._whole)
            place = self._notes(notes, number)

            def column(scopes):
                self._known(notes, row, scopes, p)
                for j, values in enumerate(self._walk(0, scopes, reduces, stores)):
                    for scope, value in zip(scopes, values):
                        k.store(value, self._noted(place, j, value.dtype, scope))

            self._row(row, p, column)

        k.loop(begin, end, 1, part)
        if streaming:
            k.stores_seen()
        k.ret()
        k.finish()

    def emit_rest(self, module, name, p):
        """Add the function of what follows the parts of pass p. Parameters: the slots of the other one."""
        n = len(self.nest.args) + 2
        k = self.k = Kernel(module, name, [(f"a{i}", "ptr") for i in range(n)], lanes=self.lanes, internal=True)
        *args, notes = k.arguments
        self._begin(args)
        reduces, stores, _ = self._of_pass(p)
        last = [s for s in self.nest.stores if not s.each] if p == self.passes - 1 else []

        def row(number):
            first = self._notes(notes, k.mul(number, self.parts))

            def column(scopes):
                self._known(notes, number, scopes, p)
                rest = self._walk(0, scopes, reduces, stores) if self._left else None
                kept = k.at(notes, k.mul(number, self._pitch(self._reduces)), "uint8")
                places = [(j, scope) for j in range(len(reduces)) for scope in scopes]

                def add(own, *totals):
                    place = k.at(first, k.mul(own, self._noted_pitch), "uint8")
                    found = [k.load(self._noted(place, j, t.dtype, scope), t.dtype, t.lanes)
                             for (j, scope), t in zip(places, totals)]
                    return self._merge(totals, found, len(scopes))

                start = self._start(reduces, len(scopes)) if self.v_kept else self._scalars(reduces)
                totals = k.loop(0, self.parts, 1, add, start)
                if rest is not None:
                    totals = self._merge(totals, [v for values in rest for v in values], len(scopes))
                for (j, scope), total in zip(places, totals):
                    scope.values[reduces[j]] = total
                    k.store(total, self._noted(kept, self._reduces.index(reduces[j]), total.dtype, scope))
                self._pass = self.passes
                for s in last:
                    for scope in scopes:
                        self._store(s, scope)

            self._row(number, p, column)

        k.loop(0, self.rows, 1, row)
        k.ret()
        k.finish()

    def followed(self, p):
        """Whether anything follows the parts of pass p."""
        reduces, stores, _ = self._of_pass(p)
        return bool(reduces) or self._left and bool(stores) or p == self.passes - 1 and not all(
            s.each for s in self.nest.stores)

    @property
    def _left(self):
        """Whether the divided axis has indices that belong to no part."""
        return self._whole < self.nest.sizes[self.parted]

    def _of(self, op, number, n):
        return self.k.op(f"{op} i64 {number.text}, {n}", "int64")

    def _notes(self, notes, number):
        """Where the reductions of a part are noted."""
        k = self.k
        at = k.add(k.mul(number, self._noted_pitch), self.rows * self._pitch(self._reduces))
        return k.at(notes, at, "uint8")

    def _noted(self, place, j, dtype, scope):
        """Where of it reduction j is."""
        place = self.k.at(place, j * self._column, "uint8")
        return self.k.at(place, scope.index, dtype) if self.v_kept else place

    def _row(self, number, p, column):
        """Run `column(scopes)` for all of a row: for vectors of it, where the vector axis is kept."""
        scope = Scope()
        roots, sizes = self._all_roots(), self.nest.sizes
        for q in range(p + 1):
            self._pass = q
            self._keep_for_later(q, self._of_pass(q)[2])
        self._kinds = [self.exprs[i][2] for i in self._of_pass(p)[0]]
        below = self.rows
        for level, axis in enumerate(self.scalar_kept):
            self._prepare(roots, scope, level)
            below //= sizes[axis]
            index = self._of("urem", self._of("udiv", number, below), sizes[axis])
            scope = Scope(scope, level + 1, index)
            self._hoist(scope)
        if not self.v_kept:
            column([scope])
            return
        self._prepare(roots, scope, len(self.scalar_kept))
        self._vectors(0, sizes[self.vector], scope, column)

    def _known(self, notes, row, scopes, p):
        """What earlier passes found, and what can be made of it before the walk."""
        k = self.k
        kept = k.at(notes, k.mul(row, self._pitch(self._reduces)), "uint8")
        self._pass = p
        for scope in scopes:
            for j, i in enumerate(self._reduces):
                if self.level[self.exprs[i][3]] < p:
                    dtype = self.exprs[i][1]
                    scope.values[i] = k.load(
                        self._noted(kept, j, dtype, scope), dtype, self.lanes if self.v_kept else 1)
            self._prepare(self._of_pass(p)[2], scope, self.k_depth)

    def _row_ahead(self, e):
        return False

    def _vectors(self, low, high, scope, body, start=None):
        if self.v_kept or self.parted != self.vector:
            return super()._vectors(low, high, scope, body, start)
        if self._walked:
            return self._turns(*self._walked, self.unroll, scope, body, start)
        return self._tail(self._whole, scope, body, start)
