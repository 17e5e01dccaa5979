"""Loop nests to LLVM: one function per nest, as `nestplan` plans it.

What a later pass needs again is read back from where it was stored, kept in scratch memory when it was costly, or
computed again. Expressions are evaluated outside of every loop that they do not depend on.
"""

from agog.compiler.ir import FLOATS, UNSIGNED, llvm_type, mangled
from agog.compiler.kernel import Kernel
from agog.compiler.nestplan import NestPlan
from agog.compiler.targets import HALVES, ITEMSIZE

__all__ = ["NestCode"]

_BLOCK = 256  # turns of a loop whose results are added up before they are added to the rest
_DEAR = 12  # instructions from which a value is kept for later passes
_SCRATCH = 1 << 15  # bytes of scratch memory per value
_FAR = 1 << 20  # bytes of an array from which it is worth saying what will be read


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


class Scope:
    """Values known inside of some loops: those of the loops around are found through `parent`."""

    __slots__ = ("parent", "depth", "values", "index", "partial", "mask")

    def __init__(self, parent=None, depth=0, index=None, partial=None, mask=None):
        self.parent, self.depth, self.values, self.index = parent, depth, {}, index
        self.partial, self.mask = partial, mask

    def find(self, key):
        scope = self
        while scope is not None:
            if key in scope.values:
                return scope.values[key]
            scope = scope.parent
        return None

    def outer(self, depth):
        """The scope of the first `depth` loops."""
        scope = self
        while scope.depth > depth:
            scope = scope.parent
        return scope


class NestCode(NestPlan):
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
        self.spills, self._kept_now = {}, []

    def _bounds(self, level):
        if self.parallel and level == 0:
            return self.begin, self.end
        return 0, self.nest.sizes[self.order[level]]

    def _kept(self, level, scope):
        """The loops over kept axes that are not the vector axis."""
        k = self.k
        if level < len(self.scalar_kept):
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
            reduces = [i for i, e in enumerate(self.exprs) if e[0] == "reduce" and self.level[e[3]] == p]
            stores = [s for s in nest.stores if s.each and self.level[s.expr] == p]
            roots = [self.exprs[i][3] for i in reduces] + [s.expr for s in stores]
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
        if level == 0 and self._walked:
            (low, high), n = self._walked, self._share
        if n > 2 * _BLOCK and reduces:

            def block(i, *carry):
                stop = k.add(i, _BLOCK)
                stop = k.where(stop < high, stop, high)
                return self._merge(carry, k.loop(i, stop, 1, turn, first), places)

            return k.loop(low, high, _BLOCK, block, first)
        return k.loop(low, high, 1, turn, first)

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

    # -- values
    def _all_roots(self):
        return [s.expr for s in self.nest.stores] + [e[3] for e in self.exprs if e[0] == "reduce"]

    def _prepare(self, roots, scope, depth):
        """Evaluate here what the roots need and what does not depend on the loops further in."""
        seen = set()

        def visit(i):
            if i in seen:
                return
            seen.add(i)
            if self.depth[i] <= depth:
                if depth < self.k_depth and self._reduction_inside(i):
                    return
                self._value(i, scope)
                return
            if self._readable(i):
                return
            for u in self.operands(self.exprs[i]) if self.exprs[i][0] != "reduce" else ():
                visit(u)

        for r in roots:
            visit(r)

    def _reduction_inside(self, i):
        return self.exprs[i][0] == "reduce" or self.level[i] > 0

    def _readable(self, i):
        """Whether the value can be read back in this pass."""
        found = self.spills.get(i)
        return found is not None and found[0] < self._pass

    def _value(self, i, scope):
        """The value of expression i, evaluated in the outermost scope that can hold it."""
        scope = scope.outer(self.depth[i])
        key = self._key(i)
        found = scope.find(key)
        if found is None:
            if self._readable(i):
                _, pointer, offset, strides = self.spills[i]
                found = self._load(self.exprs[i][1], pointer, offset, strides, scope)
            else:
                found = self._compute(i, scope)
            scope.values[key] = found
        return found

    def _key(self, i):
        """What the value of expression i is known by in a scope."""
        return i if not (self.depth[i] > self.k_depth and self.has_reduction) else (i, self._pass)

    def _compute(self, i, scope):
        k, e = self.k, self.exprs[i]
        kind, dtype = e[0], e[1]
        if kind == "load":
            if self._row_ahead(e):
                self._fetch_row(e, scope)
            return self._load(dtype, self.args[e[2]], e[3], e[4], scope)
        if kind == "const":
            return k.const(e[2], dtype)
        if kind == "coord":
            index = self._index(e[2], scope)
            if e[2] == self.vector and self.lanes > 1:
                return k.add(k.iota("int64"), index)
            return index
        if kind == "cast":
            source = self.exprs[e[2]]
            if dtype in HALVES:
                if source[1] == "float32":
                    return k.narrowed(self._rounded(i, scope), dtype)
                return k.cast(self._value(e[2], scope), dtype)
            if (
                source[1] in HALVES
                and source[0] == "cast"
                and self.exprs[source[2]][1] == "float32"
                and not self._readable(e[2])
            ):
                return k.cast(self._rounded(e[2], scope), dtype)  # it need not become 16 bits in between
            return k.cast(self._value(e[2], scope), dtype)
        if kind == "apply":
            values = [None if a is None else self._value(a, scope) for a in e[3]]
            result = self.functions[e[2]](k, *values)
            return k.cast(result, dtype) if result.dtype != dtype else result
        if kind == "gather":
            return self._gather(e, scope)
        raise AssertionError(e)

    def _row_ahead(self, e):
        """Whether this pass over a row of a large array fetches the next one: the machine looks no page ahead."""
        if self.v_kept or self.lanes == 1 or not self.scalar_kept or self._pass != min(1, self.passes - 1):
            return False
        strides, n = e[4], self.nest.sizes[self.vector]
        return strides[self.vector] == 1 and strides[self.scalar_kept[-1]] >= n and (
            n * self.nest.sizes[self.scalar_kept[-1]] * ITEMSIZE[e[1]] >= _FAR)

    def _fetch_row(self, e, scope):
        k, strides = self.k, e[4]
        base = k.add(self._index(self.vector, scope), self._base(e[3], strides, scope))
        k.prefetch(k.at(self.args[e[2]], k.add(base, strides[self.scalar_kept[-1]]), e[1]))

    def _rounded(self, i, scope):
        """Expression i, a cast of a float32 to a 16-bit float, while it still is a float32."""
        scope = scope.outer(self.depth[i])
        key = ("rounded", self._key(i))
        found = scope.find(key)
        if found is None:
            _, dtype, source = self.exprs[i]
            found = scope.values[key] = self.k.rounded(self._value(source, scope), dtype)
        return found

    def _index(self, axis, scope):
        return scope.outer(self.order.index(axis) + 1).index

    def _base(self, offset, strides, scope):
        """offset + sum(index * stride) without the vector axis, as a Value or int; kept where the deepest index is."""
        k = self.k
        axes = [a for a, s in enumerate(strides) if s and a != self.vector]
        if not axes:
            return offset
        depth = max(self.order.index(a) + 1 for a in axes)
        home = scope.outer(depth)
        if self.vector is not None and self.v_kept and depth > len(self.scalar_kept):
            home = scope
        key = ("base", offset, tuple(0 if a == self.vector else s for a, s in enumerate(strides)))
        found = home.find(key)
        if found is None:
            total = None
            for a in axes:
                index = self._index(a, scope)
                term = index if strides[a] == 1 else k.mul(index, strides[a])
                total = term if total is None else k.add(total, term)
            found = k.add(total, offset) if offset else total
            home.values[key] = found
        return found

    def _hoist(self, scope):
        """Compute, at the head of a loop, the addresses that depend on no loop further in."""
        walked = [(e[3], e[4]) for e in self.exprs if e[0] in ("load", "gather")]
        walked += [(s.offset, s.strides) for s in self.nest.stores] + [(s[2], s[3]) for s in self.spills.values()]
        for offset, strides in walked:
            axes = [a for a, s in enumerate(strides) if s and a != self.vector]
            if axes and max(self.order.index(a) + 1 for a in axes) == scope.depth:
                self._base(offset, strides, scope)

    def _load(self, dtype, pointer, offset, strides, scope):
        k = self.k
        base = self._base(offset, strides, scope)
        step = strides[self.vector] if self.vector is not None else 0
        if step == 0 or scope.depth < self._v_depth:
            return k.load(k.at(pointer, base, dtype), dtype)
        index = self._index(self.vector, scope)
        lane_scope = scope.outer(self._v_depth)
        if step == 1 or self.lanes == 1:
            at = index if step == 1 else k.mul(index, step)
            address = k.at(pointer, at if base == 0 and isinstance(base, int) else k.add(at, base), dtype)
            if lane_scope.partial is not None:
                return lane_scope.partial.load(address, dtype)
            return k.load(address, dtype, self.lanes)
        if step == -1 and lane_scope.mask is None and ITEMSIZE[dtype] >= 4:
            last = k.sub(base, k.add(index, self.lanes - 1))
            value = k.load(k.at(pointer, last, dtype), dtype, self.lanes)
            return k.call(f"llvm.vector.reverse.{mangled(dtype, self.lanes)}", (dtype, self.lanes), value)
        if lane_scope.mask is None and dtype != "bool" and ITEMSIZE[dtype] >= 4:
            # One by one: machines that gather take twice as long for it.
            first = k.at(pointer, k.add(k.mul(index, step), base), dtype)
            value = k.const(0, dtype, self.lanes)
            for u in range(self.lanes):
                part = k.load(k.at(first, u * step, dtype), dtype)
                value = k.op(f"insertelement {value.typed}, {part.typed}, i64 {u}", dtype, self.lanes)
            return value
        places = k.mul(k.add(k.iota("int64"), index), step)
        return self._gathered(
            dtype,
            pointer,
            k.add(places, base) if not (isinstance(base, int) and base == 0) else places,
            lane_scope.mask,
        )

    @property
    def _v_depth(self):
        return self.order.index(self.vector) + 1 if self.vector is not None else 1 << 30

    def _gathered(self, dtype, pointer, places, mask):
        """The elements at a vector of places."""
        k = self.k
        stored = "uint8" if dtype == "bool" else dtype
        if mask is not None and ITEMSIZE[stored] < 4:
            # No machine gathers so little at once. The first lane is there: the others read it too, without a branch.
            places, mask = k.where(mask, places, k.extract(places, 0)), None
        addresses = k.op(f"getelementptr {llvm_type(stored)}, ptr {pointer.text}, {places.typed}", "ptr", places.lanes)
        if mask is None:
            mask = k.const(True, "bool", places.lanes)
        value = k.call(
            f"llvm.masked.gather.{mangled(stored, places.lanes)}.v{places.lanes}p0",
            (stored, places.lanes),
            addresses,
            k.const(ITEMSIZE[stored], "int32"),
            mask,
            k.const(0, stored, places.lanes),
        )
        return k.ne(value, 0) if dtype == "bool" else value

    def _gather(self, e, scope):
        _, dtype, arg, offset, strides, parts, position = e
        k = self.k
        base = self._base(offset, strides, scope)
        total = k.const(base, "int64") if isinstance(base, int) else base
        bad = None
        for i, stride, n in parts:
            at = k.cast(self._value(i, scope), "int64")
            at = k.where(at < 0, k.add(at, n), at)
            wrong = k.bitwise_or(at < 0, at >= n)
            at = k.where(wrong, 0, at)
            bad = wrong if bad is None else k.bitwise_or(bad, wrong)
            total = k.add(total, k.mul(at, stride) if stride != 1 else at)
        step = strides[self.vector] if self.vector is not None and scope.depth >= self._v_depth else 0
        lane_scope = scope.outer(self._v_depth)
        if bad.lanes > 1 and lane_scope.mask is not None and scope.depth >= self._v_depth:
            bad = k.bitwise_and(bad, lane_scope.mask)
        k.if_(k.any(bad), lambda: k.store(k.const(position + 1, "int64"), self.args[-1]))
        if scope.depth < self._v_depth or (total.lanes == 1 and step == 0):
            return k.load(k.at(self.args[arg], total, dtype), dtype)
        index = self._index(self.vector, scope)
        if total.lanes == 1 and step == 1:
            address = k.at(self.args[arg], k.add(total, index), dtype)
            return (
                lane_scope.partial.load(address, dtype)
                if lane_scope.partial is not None
                else k.load(address, dtype, self.lanes)
            )
        if step:
            lane = k.add(k.iota("int64"), index) if self.lanes > 1 else index
            total = k.add(total, k.mul(lane, step) if step != 1 else lane)
        if self.lanes == 1:
            return k.load(k.at(self.args[arg], total, dtype), dtype)
        return self._gathered(dtype, self.args[arg], total, lane_scope.mask)

    # -- stores and scratch
    def _store(self, s, scope):
        value = self._value(s.expr, scope)
        past = s.each and s.arg in self.streaming and s.expr not in self.spills  # (which are read back)
        self._put(value, self.exprs[s.expr][1], self.args[s.arg], s.offset, s.strides, scope, past)

    def _put(self, value, dtype, pointer, offset, strides, scope, past=False):
        k = self.k
        base = self._base(offset, strides, scope)
        if scope.depth < self._v_depth:
            k.store(value, k.at(pointer, base, dtype))
            return
        index, step = self._index(self.vector, scope), strides[self.vector]
        lane_scope = scope.outer(self._v_depth)
        if self.lanes == 1 or step == 1:
            at = index if step == 1 else k.mul(index, step)
            address = k.at(pointer, at if base == 0 and isinstance(base, int) else k.add(at, base), dtype)
            value = k.splat(value)
            if lane_scope.partial is not None:
                lane_scope.partial.store(value, address)
            else:
                k.store(value, address, self.lanes * ITEMSIZE[dtype] if past else None, past)
            return
        value = k.splat(value)
        if dtype == "bool":
            value, dtype = k.cast(value, "uint8"), "uint8"
        places = k.mul(k.add(k.iota("int64"), index), step)
        if not (isinstance(base, int) and base == 0):
            places = k.add(places, base)
        addresses = k.op(f"getelementptr {llvm_type(dtype)}, ptr {pointer.text}, {places.typed}", "ptr", places.lanes)
        mask = lane_scope.mask if lane_scope.mask is not None else k.const(True, "bool", places.lanes)
        k.call(
            f"llvm.masked.scatter.{mangled(dtype, places.lanes)}.v{places.lanes}p0",
            None,
            value,
            addresses,
            k.const(ITEMSIZE[dtype], "int32"),
            mask,
        )

    def _keep_for_later(self, p, roots):
        """Decide what of this pass later ones will read back."""
        self._kept_now = []
        if self.v_kept:
            return
        later = set()
        for q in range(p + 1, self.passes):
            for e in self.exprs:
                if e[0] == "reduce" and self.level[e[3]] == q:
                    self._reach(e[3], later)
            for s in self.nest.stores:
                if s.each and self.level[s.expr] == q:
                    self._reach(s.expr, later)
        now = set()
        for r in roots:
            self._reach(r, now)
        dense = [0] * len(self.nest.sizes)
        size = 1
        for a in reversed([*self.over, *([self.vector] if self.vector is not None else [])]):
            dense[a], size = size, size * self.nest.sizes[a]
        for i in sorted(now & later, reverse=True):
            e = self.exprs[i]
            if self.depth[i] < len(self.order) or i in self.spills or e[0] not in ("apply", "cast"):
                continue
            stored = next((s for s in self.nest.stores if s.expr == i and s.each and self.level[i] == p), None)
            if self._price(i) < _DEAR and not (stored and self._price(i) > 4):
                continue
            if stored:
                self.spills[i] = (p, self.args[stored.arg], stored.offset, stored.strides)
            elif size * ITEMSIZE[e[1]] <= _SCRATCH and not any(
                self._price(j) >= _DEAR and i in self._below(j) and j in self.spills
                for j in range(i + 1, len(self.exprs))
            ):
                self.spills[i] = (p, self.k.alloca(size * ITEMSIZE[e[1]]), 0, tuple(dense))
                self._kept_now.append(i)

    def _reach(self, i, out):
        if i in out or self.exprs[i][0] == "reduce":
            return
        out.add(i)
        for u in self.operands(self.exprs[i]):
            self._reach(u, out)

    def _below(self, i):
        out = set()
        self._reach(i, out)
        return out

    def _price(self, i):
        return sum(
            self.cost[j] for j in self._below(i) if self.exprs[j][0] == "apply" and self.depth[j] == len(self.order)
        )

    def _spill(self, i, scope):
        _, pointer, offset, strides = self.spills[i]
        value = self._value(i, scope)
        self._put(value, self.exprs[i][1], pointer, offset, strides, scope)
