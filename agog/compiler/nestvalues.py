"""The values of a loop nest: what is computed, loaded, gathered, stored and kept in scratch memory at one point of it.

What a later pass needs again is read back from where it was stored, kept in scratch memory when it was costly, or
computed again. Expressions are evaluated outside of every loop that they do not depend on.
"""

from agog.compiler.ir import llvm_type, mangled
from agog.compiler.nestplan import PAGE, NestPlan
from agog.compiler.packing import shuffle, transpose
from agog.compiler.targets import HALVES, ITEMSIZE

__all__ = ["NestValues", "Scope"]

_DEAR = 12  # instructions from which a value is kept for later passes
_SCRATCH = 1 << 15  # bytes of scratch memory per value
_FAR = 1 << 20  # bytes of an array from which it is worth saying what will be read


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


class NestValues(NestPlan):
    """A nest whose values can be emitted, in the function of `self.k`."""

    _scratch = _SCRATCH

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
                return k.add(k.iota(dtype), k.cast(index, dtype))
            return k.cast(index, dtype)
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
        partial = lane_scope.partial
        count = self.lanes if lane_scope.mask is None else self.nest.sizes[self.vector] % self.lanes
        if step == -1 and ITEMSIZE[dtype] >= 4:
            last = k.at(pointer, k.sub(base, k.add(index, count - 1)), dtype)
            value = k.load(last, dtype, self.lanes) if partial is None else partial.load(last, dtype)
            return shuffle(k, value, value, [max(0, count - 1 - u) for u in range(self.lanes)])
        if ITEMSIZE[dtype] >= 4:
            # One by one: machines that gather take twice as long for it.
            first = k.at(pointer, k.add(k.mul(index, step), base), dtype)
            value = k.const(0, dtype, self.lanes)
            for u in range(count):
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

    def _transposed(self, e, scope, count):
        """The vectors that a load across the lines of an array gives for `count` indices of the axis along them."""
        k, (_, dtype, arg, offset, strides) = self.k, e
        step, n = strides[self.vector], self.nest.sizes[self.vector]
        lines = self.lanes if scope.partial is None else n % self.lanes
        at = k.add(k.mul(self._index(self.vector, scope), step), self._base(offset, strides, scope))
        first = k.at(self.args[arg], at, dtype)
        some = k.partial(k.const(count, "int64")) if count < self.lanes else None
        found = []
        for i in range(lines):
            place = k.at(first, i * step, dtype)
            found.append(some.load(place, dtype) if some else k.load(place, dtype, self.lanes))
        return transpose(k, found + [k.const(0, dtype, self.lanes)] * (self.lanes - lines))

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
        if p in self._kept_in:  # the same for all vectors
            self._kept_now = self._kept_in[p]
            return
        self._kept_now = self._kept_in[p] = []
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
            elif any(
                self._price(j) >= _DEAR and i in self._below(j) and j in self.spills
                for j in range(i + 1, len(self.exprs))
            ):
                continue
            elif size * ITEMSIZE[e[1]] <= self._scratch and not self.v_kept:
                self.spills[i] = (p, self.k.alloca(size * ITEMSIZE[e[1]]), 0, tuple(dense))
                self._kept_now.append(i)
            elif place := self._place_of_a_result(i, p):
                self.spills[i] = (p, self.args[place.arg], place.offset, place.strides)
                self._kept_now.append(i)

    def _place_of_a_result(self, i, p):
        """A store of the last pass that can have expression i in its place until then, or None.

        It is made of i, so that i is read before, and of nothing else that is there; nobody else looks at the place.
        """
        if self.vector is None or self.v_kept and self.nest.sizes[self.vector] < self.lanes:
            return None  # (masked stores take longer than most of what could be kept)
        steps = [s.strides[a] * ITEMSIZE[self.exprs[i][1]] for s in self.nest.stores if s.each for a in self.over]
        if self.v_kept and any(step % PAGE == 0 for step in steps):
            return None  # (columns of it fall into few sets of the caches)
        for s in self.nest.stores:
            others = [t.arg for t in self.nest.stores if t is not s]
            others += [e[2] for e in self.exprs if e[0] in ("load", "gather")]
            if (
                s.each
                and self.level[s.expr] == self.passes - 1 > p
                and self.exprs[s.expr][1] == self.exprs[i][1]
                and s.arg not in others
                and s.arg not in self.streaming
                and s.strides[self.vector] == 1
                and all(t or n == 1 for t, n in zip(s.strides, self.nest.sizes))
                and i in self._below(s.expr)
                and all(self.spills[j][1] is not self.args[s.arg] for j in self.spills)
            ):
                return s
        return None

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
