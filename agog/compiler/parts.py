"""A nest that reduces all of its axes, by several threads.

The outermost axis is divided into parts (`NestPlan.parts`), always the same ones. A first function walks some of them:
it does what is done at every point, and notes the reductions of each part. A second one goes over what is left of the
axis, adds the parts up in their order, and does what follows. So the result is the same for any number of threads.
"""

from agog.compiler.kernel import Kernel
from agog.compiler.nests import NestCode, combine
from agog.compiler.nestvalues import Scope

__all__ = ["PartedNest"]

_WORDS = 8  # of a line of the caches: two threads should not write to one


class PartedNest(NestCode):
    """Emits the two functions of a nest in parts. `noted` is the size in bytes of what the first one notes."""

    @property
    def noted(self):
        return 8 * self.parts * self._pitch

    @property
    def _reduces(self):
        return [i for i, e in enumerate(self.exprs) if e[0] == "reduce"]

    @property
    def _pitch(self):
        return -(-len(self._reduces) // _WORDS) * _WORDS

    @property
    def _whole(self):
        """Up to where the vector axis has whole steps of its loop."""
        step = self.lanes * self.unroll
        return self.nest.sizes[self.vector] // step * step

    def emit_parts(self, module, name, streaming=()):
        """Add the function of parts begin, ..., end - 1, as the pool calls it. Slots: the arguments, a place for errors
        and one for the notes.
        """
        parameters = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = self.k = Kernel(module, name, parameters, lanes=self.lanes, internal=True)
        slots, begin, end, _ = k.arguments
        *args, notes = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(len(self.nest.args) + 2)]
        self._begin(args, streaming)
        self._share = self.part
        stores = [s for s in self.nest.stores if s.each]
        scope = self._scope(stores)
        end_of_all = self.nest.sizes[self.order[0]] if self.over else self._whole

        def part(number):
            first = k.mul(number, self.part)
            last = k.add(first, self.part)
            self._walked = first, k.where(last < end_of_all, last, end_of_all)
            place = k.mul(number, self._pitch)
            for j, value in enumerate(self._over(0, [scope], self._reduces, stores)):
                k.store(value, k.at(notes, k.add(place, j), "int64"))

        k.loop(begin, end, 1, part)
        if streaming:
            k.stores_seen()
        k.ret()
        k.finish()

    def emit_rest(self, module, name):
        """Add the function of everything else. Parameters: the slots of the other one."""
        n = len(self.nest.args) + 2
        k = self.k = Kernel(module, name, [(f"a{i}", "ptr") for i in range(n)], lanes=self.lanes, internal=True)
        *args, notes = k.arguments
        self._begin(args)
        stores = [s for s in self.nest.stores if s.each]
        scope = self._scope(stores)
        rest = None if self.over else self._over(0, [scope], self._reduces, stores)

        def add(number, *totals):
            place = k.mul(number, self._pitch)
            found = [k.load(k.at(notes, k.add(place, j), "int64"), t.dtype) for j, t in enumerate(totals)]
            return [combine(k, kind, t, x) for kind, t, x in zip(self._kinds, totals, found)]

        totals = k.loop(0, self.parts, 1, add, self._scalars(self._reduces))
        if rest is not None:
            totals = self._merge(totals, rest, 1)
        scope.values |= zip(self._reduces, totals)
        self._pass = self.passes
        for s in self.nest.stores:
            if not s.each:
                self._store(s, scope)
        k.ret()
        k.finish()

    def _scope(self, stores):
        """What is known before the loop."""
        scope = Scope()
        self._pass, self._kinds = 0, [self.exprs[i][2] for i in self._reduces]
        self._prepare([self.exprs[i][3] for i in self._reduces] + [s.expr for s in stores], scope, 0)
        return scope

    def _vectors(self, low, high, scope, body, start=None):
        if self.over:
            return super()._vectors(low, high, scope, body, start)
        if self._walked:
            return self._turns(*self._walked, self.unroll, scope, body, start)
        return self._tail(self._whole, scope, body, start)
