"""Loop nests to LLVM: one function per nest, as `nestplan` plans it. Here are the loops; `nestvalues` fills them."""

from agog.compiler.ir import FLOATS, UNSIGNED
from agog.compiler.kernel import Kernel
from agog.compiler.nestplan import BUSY
from agog.compiler.nestvalues import NestValues, Scope
from agog.compiler.targets import ITEMSIZE

__all__ = ["NestCode", "combine", "identity"]

_BLOCK = 256  # turns of a loop whose results are added up before they are added to the rest
_ACCUMULATORS = 8  # vectors that are added to in one turn of a loop, at most
_TOGETHER = 64  # and instructions of such a turn


def identity(kind, dtype):
    """The value that changes nothing in a reduction."""
    if kind in ("sum", "prod"):
        return 0 if kind == "sum" else 1
    if kind in ("any", "all") or dtype == "bool":
        return kind in ("all", "min")
    if dtype in FLOATS:
        return float("-inf") if kind == "max" else float("inf")
    if dtype in UNSIGNED:
        return 0 if kind == "max" else (1 << 8 * ITEMSIZE[dtype]) - 1
    lowest = -(1 << (8 * ITEMSIZE[dtype] - 1))
    return lowest if kind == "max" else -lowest - 1


def combine(k, kind, a, b):
    """One step of a reduction."""
    if kind == "sum":
        return k.add(a, b)
    if kind == "prod":
        return k.mul(a, b)
    if kind in ("any", "all"):
        return k.bitwise_or(a, b) if kind == "any" else k.bitwise_and(a, b)
    return k.max(a, b) if kind == "max" else k.min(a, b)


class NestCode(NestValues):
    """Emits one nest."""

    def emit(self, module, name, parallel, streaming=()):
        """Add the function. Parameters: the arguments and a place for errors; or, parallel, what the pool gives.

        streaming  the arguments that are stored around the caches: see `NestPlan.streams`
        """
        n = len(self.nest.args) + 1
        if parallel:
            parameters = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        else:
            parameters = [(f"a{i}", "ptr") for i in range(n)]
        k = self.k = Kernel(module, name, parameters, lanes=self.lanes, internal=True)
        self.parallel = parallel
        if parallel:
            slots, self.begin, self.end, _ = k.arguments
            self._begin([k.load(k.at(slots, i, "ptr"), "ptr") for i in range(n)], streaming)
        else:
            self._begin(k.arguments, streaming)
        scope = Scope()
        if 0 not in [self.nest.sizes[a] for a in self.order[: self.k_depth]]:
            self._kept(0, scope)
        if streaming:
            k.stores_seen()
        k.ret()
        k.finish()

    def _begin(self, args, streaming=()):
        """Nothing is known yet of the function that begins."""
        self.args, self.streaming = args, streaming
        self._pass = -1
        self._window = None  # of the vector axis, while tiles of it are walked
        self._walked = None  # where the walk over the outermost of the reduced axes begins and ends, if not all of it
        self._share = 0  # and how much of it that is, at most
        self.spills, self._kept_now, self._kept_in = {}, [], {}

    def _bounds(self, level):
        if self.parallel and self.order[level] == self.shared:
            return self.begin, self.end
        return 0, self.nest.sizes[self.order[level]]

    def _kept(self, level, scope):
        """The loops over kept axes that are not the vector axis."""
        k = self.k
        if self.crossed and level == len(self.scalar_kept) - 1:
            self._squares(level, scope)
        elif level < len(self.scalar_kept):
            self._prepare(self._all_roots(), scope, level)

            def turn(i):
                inner = Scope(scope, level + 1, i)
                self._hoist(inner)
                self._kept(level + 1, inner)

            low, high = self._bounds(level)

            def turns():
                if (low, high) == (0, 1):
                    turn(k.const(0, "int64"))
                else:
                    k.loop(low, high, 1, turn)

            if self.tile and level == len(self.scalar_kept) - 1:
                n = self.nest.sizes[self.vector]

                def tile(first):
                    last = k.add(first, self.tile)
                    self._window = first, k.where(last < n, last, n)
                    turns()

                k.loop(0, n, self.tile, tile)
            else:
                turns()
        elif self.v_kept:
            self._prepare(self._all_roots(), scope, level)
            low, high = self._window or self._bounds(level)
            self._vectors(low, high, scope, self._columns)
        else:
            self._columns([scope])

    def _squares(self, level, scope):
        """The last two loops, where loads walk across the lines of arrays: as many indices as there are lanes, at a
        time, of the axis along the lines, so that each of these is read once."""
        k = self.k
        self._prepare(self._all_roots(), scope, level)
        n, side = self.nest.sizes[self.scalar_kept[level]], self.lanes

        def square(i, count=side):
            rows = [Scope(scope, level + 1, k.add(i, j) if j else i) for j in range(count)]
            for row in rows:
                self._hoist(row)
                self._prepare(self._all_roots(), row, level + 1)

            def body(at):
                at = at[0]
                inner = [Scope(row, level + 2, at.index, at.partial, at.mask) for row in rows]
                for load in self.crossed if 4 * count > side else ():  # (few are read one by one)
                    for one, value in zip(inner, self._transposed(self.exprs[load], inner[0], count)):
                        one.values[self._key(load)] = value
                self._columns(inner)

            self._vectors(*self._bounds(level + 1), scope, body)

        low, high = self._bounds(level)
        whole = n // side * side
        if isinstance(low, int):
            k.loop(0, whole, side, square)
            if whole < n:
                square(k.const(whole, "int64"), n - whole)
            return
        k.loop(low, k.where(high < whole, high, whole), side, square)
        if whole < n:
            k.if_(k.eq(high, n), lambda: square(k.const(whole, "int64"), n - whole))

    def _vectors(self, low, high, scope, body, start=None):
        """Run `body(scopes, *carry)` along the vector axis: unrolled, then single vectors, then a partial one.

        `start` makes the accumulators of u places; the result is the list of (accumulators, places) to be folded.
        """
        k, n = self.k, self.nest.sizes[self.vector]
        whole = n // (self.unroll * self.lanes) * self.unroll * self.lanes
        if isinstance(low, int):
            found = self._turns(low, whole, self.unroll, scope, body, start)
            return found + self._tail(whole, scope, body, start)
        # a share of the axis: whole steps, and the rest for whoever has the end
        found = self._turns(low, k.where(high < whole, high, whole), self.unroll, scope, body, start)

        def tail():
            self._tail(whole, scope, body, start)

        k.if_(k.eq(high, n), tail)
        return found

    def _places(self, scope, i, count):
        """The scopes of `count` vectors from element i."""
        add = self.k.add
        return [Scope(scope, scope.depth + 1, add(i, j * self.lanes) if j else i) for j in range(count)]

    def _turns(self, first, last, count, scope, body, start=None):
        """The loop from element `first` to `last` over `count` vectors at a time, as `_vectors` has it."""
        k = self.k
        if first == last and isinstance(first, int):
            return []
        width = count * self.lanes
        carry = start(count) if start else []
        if isinstance(first, int) and isinstance(last, int) and last - first == width:
            return [(body(self._places(scope, k.const(first, "int64"), count), *carry) or [], count)]

        def turn(i, *c):
            return body(self._places(scope, i, count), *c)

        elements = last - first if isinstance(first, int) and isinstance(last, int) else self._share
        if start and elements // width > 2 * _BLOCK:

            def block(i, *outer):
                stop = k.add(i, width * _BLOCK)
                stop = k.where(stop < last, stop, last)
                return self._merge(outer, k.loop(i, stop, width, turn, start(count)), count)

            return [(k.loop(first, last, width * _BLOCK, block, carry), count)]
        return [(k.loop(first, last, width, turn, carry), count)]

    def _tail(self, first, scope, body, start=None):
        """What is left from element `first`: single vectors, then a partial one."""
        k, n = self.k, self.nest.sizes[self.vector]
        single = n // self.lanes * self.lanes
        found = self._turns(first, single, 1, scope, body, start)
        if single < n:
            count = k.const(n - single, "int64")
            partial = k.partial(count)
            mask = getattr(partial, "mask", None)
            if mask is None:
                mask = k.iota("int32") < k.splat(k.cast(count, "int32"))
            inner = Scope(scope, scope.depth + 1, k.const(single, "int64"), partial, mask)
            found.append((body([inner], *(start(1) if start else [])) or [], 1))
        return found

    def _merge(self, a, b, places):
        kinds = self._kinds
        return [combine(self.k, kinds[i // places], x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]

    # -- everything for one kept index (of a vector of them, `scopes` are the unrolled ones)
    def _columns(self, scopes):
        nest = self.nest
        for p in range(self.passes):
            reduces, stores, roots = self._of_pass(p)
            if not roots:
                continue
            self._pass = p
            for scope in scopes:
                self._prepare(roots, scope, self.k_depth)
            self._keep_for_later(p, roots)
            self._kinds = [self.exprs[i][2] for i in reduces]
            results = self._walk(0, scopes, reduces, stores)
            for j, i in enumerate(reduces):
                for u, scope in enumerate(scopes):
                    scope.values[i] = results[j][u]
        self._pass = self.passes
        for s in nest.stores:
            if not s.each or not self.has_reduction:
                for scope in scopes:
                    self._store(s, scope)

    def _of_pass(self, p):
        """(reductions, stores, what they are of) that pass p makes."""
        reduces = [i for i, e in enumerate(self.exprs) if e[0] == "reduce" and self.level[e[3]] == p]
        stores = [s for s in self.nest.stores if s.each and self.level[s.expr] == p]
        return reduces, stores, [self.exprs[i][3] for i in reduces] + [s.expr for s in stores]

    def _start(self, reduces, places):
        k = self.k
        out = []
        for i in reduces:
            e = self.exprs[i]
            value = k.const(identity(e[2], e[1]), e[1])
            out += [k.splat(value) if self.vector is not None else value] * places
        return out

    def _walk(self, level, scopes, reduces, stores):
        """Loops over the reduced axes. Returns, for each reduction, its value in each of the scopes."""
        results = self._over(level, scopes, reduces, stores)
        places = len(scopes)
        return [results[j * places : (j + 1) * places] for j in range(len(reduces))]

    def _over(self, level, scopes, reduces, stores):
        k = self.k
        if level == len(self.over):
            if self.vector is not None and not self.v_kept:
                return self._fold(scopes[0], reduces, stores)
            return self._point(scopes, reduces, stores)
        axis = self.over[level]
        n = self.nest.sizes[axis]
        places = len(scopes)
        roots = [self.exprs[i][3] for i in reduces] + [s.expr for s in stores]
        for scope in scopes:
            self._prepare(roots, scope, scope.depth)
        scalar = self.vector is not None and not self.v_kept  # folded at the inner level
        first = self._scalars(reduces) if scalar else self._start(reduces, places)

        def turn(i, *carry):
            inner = [Scope(s, s.depth + 1, i, s.partial, s.mask) for s in scopes]
            if not self.v_kept:
                self._hoist(inner[0])
            return self._merge(carry, self._over(level + 1, inner, reduces, stores), places)

        low, high = 0, n
        if axis == self.parted and self._walked:
            (low, high), n = self._walked, self._share
        together = self._together(level, n, len(first))

        def turns(i, stop):
            if together == 1:
                return k.loop(i, stop, 1, turn, first)
            whole = k.sub(stop, k.bitwise_and(k.sub(stop, i), together - 1))

            def several(i, *carry):
                size = len(first)
                found = [turn(k.add(i, j) if j else i, *carry[j * size : (j + 1) * size]) for j in range(together)]
                return [v for values in found for v in values]

            sums = k.loop(i, whole, together, several, first * together)
            sums = [sums[j * len(first) : (j + 1) * len(first)] for j in range(together)]
            while len(sums) > 1:
                sums = [self._merge(a, b, places) for a, b in zip(sums[::2], sums[1::2])]
            return k.loop(whole, stop, 1, turn, sums[0])

        size = _BLOCK * together
        if n > 2 * size and reduces:

            def block(i, *carry):
                stop = k.add(i, size)
                stop = k.where(stop < high, stop, high)
                return self._merge(carry, turns(i, stop), places)

            return k.loop(low, high, size, block, first)
        return turns(*[k.const(i, "int64") if isinstance(i, int) else i for i in (low, high)])

    def _together(self, level, n, values):
        """How many indices of the innermost reduced axis are taken at a time, with accumulators of their own: a sum
        that waits for the one before it takes several cycles."""
        inner = level + 1 < len(self.over) or self.vector is not None and not self.v_kept
        if not values or inner or self.work < BUSY:
            return 1
        most = min(_ACCUMULATORS // values, _TOGETHER // self.body, n // 4)
        return 1 << most.bit_length() - 1 if most > 1 else 1

    def _scalars(self, reduces):
        return [self.k.const(identity(self.exprs[i][2], self.exprs[i][1]), self.exprs[i][1]) for i in reduces]

    def _point(self, scopes, reduces, stores):
        """One point of the domain in every scope: values to be reduced, and stores."""
        out = []
        for i in reduces:
            e = self.exprs[i]
            for scope in scopes:
                value = self.k.splat(self._value(e[3], scope)) if self.vector is not None else self._value(e[3], scope)
                out.append(value)
        self._effects(scopes, stores)
        return out

    def _effects(self, scopes, stores):
        for scope in scopes:
            for s in stores:
                self._store(s, scope)
            for i in self._kept_now:
                self._spill(i, scope)

    def _fold(self, scope, reduces, stores):
        """The innermost loop along a reduced vector axis; lanes are folded to scalars."""
        k = self.k
        roots = [self.exprs[i][3] for i in reduces] + [s.expr for s in stores]
        self._prepare(roots, scope, scope.depth)
        kinds = [self.exprs[i][2] for i in reduces]

        def body(scopes, *carry):
            places, out = len(scopes), []
            for j, i in enumerate(reduces):
                e = self.exprs[i]
                for u, inner in enumerate(scopes):
                    value = k.splat(self._value(e[3], inner))
                    if inner.mask is not None:
                        value = k.where(inner.mask, value, k.const(identity(e[2], e[1]), e[1]))
                    # The value first: in this order a maximum looks for NaN in the value, not in what it waits for.
                    out.append(combine(k, kinds[j], value, carry[j * places + u]))
            self._effects(scopes, stores)
            return out

        found = self._vectors(0, self.nest.sizes[self.vector], scope, body, lambda u: self._start(reduces, u))
        out = []
        for j, i in enumerate(reduces):
            parts = [v for values, places in found for v in values[j * places : (j + 1) * places]]
            if not parts:
                out.append(self._scalars([i])[0])
                continue
            while len(parts) > 1:
                pairs = [combine(k, kinds[j], a, b) for a, b in zip(parts[::2], parts[1::2])]
                parts = pairs + ([parts[-1]] if len(parts) % 2 else [])
            out.append(self._horizontal(kinds[j], parts[0]))
        return out

    def _horizontal(self, kind, vector):
        k = self.k
        if vector.lanes == 1:
            return vector
        if kind == "sum":
            return k.reduce_sum(vector)
        if kind in ("any", "all"):
            return k._reduce("or" if kind == "any" else "and", vector)
        return k._fold(vector, lambda a, b: combine(k, kind, a, b))
