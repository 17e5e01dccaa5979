"""Which values are computed together: loop values are gathered into groups, each of which becomes one loop nest.

A group has a domain (the sizes of its loops) and perhaps axes that it reduces over. Its members are values at every
point of the domain, or, after a reduction, at every kept index. A value joins the group of a value that it reads, when
it walks the same domain and nothing in between would have to run between its halves. So softmax, with what is done to
its input and result, is one nest of three passes. Everything that another group reads is stored.
"""

from collections import Counter

from agog.compiler.ir import FLOATS
from agog.compiler.loops import Nest, Store, normalized
from agog.compiler.lowering import Guard, Island, Step
from agog.compiler.order import in_order
from agog.compiler.targets import HALVES
from agog.compiler.values import (
    Assembled,
    Buffer,
    Const,
    Coord,
    Gather,
    Part,
    Point,
    Reduce,
    Val,
    View,
    contiguous,
    count,
    mapped,
    resolve,
)

__all__ = ["Group", "schedule"]

_MEMBERS = 64
_LARGE = 1 << 16  # points of a domain that is worth sharing out


class Group:
    """Values computed by one loop nest. `place[v]`: the axis of the domain that each axis of v walks (None: size 1)."""

    def __init__(self, domain):
        self.domain, self.reduced = tuple(domain), None
        self.members, self.place, self.deps = [], {}, set()
        self.late = set()  # members that are made of a reduction

    def __repr__(self):
        return f"<group {list(self.domain)} over {sorted(self.reduced or ())}: {len(self.members)} values>"


class Link:
    """How a member reads `root`: `axes[i]` is the root's axis that its axis i walks, or axes is None; and strides."""

    __slots__ = ("axes", "offset", "root", "strides")

    def __init__(self, a, shape):
        self.root, self.offset, strides = resolve(a)
        extra = len(shape) - a.ndim
        simple = mapped(a)
        self.strides, axes = [0] * extra, [None] * extra
        for j, n in enumerate(a.shape):
            self.strides.append(strides[j] if n != 1 else 0)
            axes.append(simple[1][j] if simple and n != 1 else None)
        self.axes = axes if simple else None


def links(v):
    """The Links of a loop value, in the order of its operands (None for an absent one)."""
    if isinstance(v, Reduce):
        return [Link(v.x, v.x.shape)]
    if isinstance(v, Gather):
        return [Link(w, v.shape) for w in v.where if isinstance(w, Val)]
    return [None if a is None else Link(a, v.shape) for a in v.args]


def needs(v):
    """What must have run before v, apart from its links."""
    if isinstance(v, Gather):
        return [resolve(v.x)[0]]
    return list(v.after) if isinstance(v, Part) else []


def reads(x):
    """Everything that a value or step is made of."""
    if isinstance(x, Step):
        return [v for v in x.inputs if v is not None]
    if isinstance(x, View):
        return [x.root]
    if isinstance(x, Assembled):
        return x.parts
    if isinstance(x, Buffer):
        return [x.step] if x.step is not None else []
    if isinstance(x, Reduce):
        return [x.x]
    if isinstance(x, Gather):
        return [x.x, *[w for w in x.where if isinstance(w, Val)]]
    if isinstance(x, Point):
        return [a for a in x.args if a is not None] + needs(x)
    return []


def ordered(roots):
    """Everything that the roots are made of, each thing after what it is made of."""
    out, seen, stack = [], set(), [(r, False) for r in reversed(roots)]
    while stack:
        x, done = stack.pop()
        if done:
            out.append(x)
        elif id(x) not in seen:
            seen.add(id(x))
            stack.append((x, True))
            stack.extend((r, False) for r in reversed(reads(x)))
    return out


class _Scheduler:
    def __init__(self):
        self.unit = {}  # value or step -> Group or Step
        self.number, self.units = {}, []
        self.links = {}

    def producers(self, root):
        """The units that write a root."""
        if isinstance(root, Assembled):
            return {self.unit[p] for p in root.parts}
        if isinstance(root, Buffer):
            return {root.step} if root.step is not None else set()
        return {self.unit[root]} if root in self.unit else set()

    def enter(self, u):
        """Number a new unit. `before` has the bits of everything that it depends on, directly or not."""
        u.bit, u.before, u.used = 1 << len(self.units), 0, False
        self.units.append(u)

    def depend(self, u, deps):
        """Make u depend on other units."""
        new = 0
        for d in deps:
            new |= d.before | d.bit
            d.used = True
        u.deps |= deps
        new &= ~u.before
        if new:
            u.before |= new
            if u.used:
                for w in self.units:
                    if w.before & u.bit:
                        w.before |= new

    def add(self, v):
        """Put a loop value into a group."""
        found = links(v)
        self.links[v] = found
        tried = []
        for link in found:
            g = self.unit.get(link.root) if link else None
            if isinstance(g, Group) and g not in tried:
                tried.append(g)
        for g in reversed(tried):
            if self.join(g, v, found):
                for other in tried:
                    if other is not g:
                        self.merge(g, other, v, found)
                return
        shape = v.x.shape if isinstance(v, Reduce) else v.shape
        roots = {id(link.root) for link in found if link}
        if count(shape) >= 2:
            for g in self.recent[-8:]:
                if g not in tried and g.domain == shape and g.roots & roots and self.join(g, v, found):
                    return
        g = Group(shape)
        g.roots = set()
        self.recent.append(g)
        self.enter(g)
        if not self.join(g, v, found):
            raise AssertionError(v)

    def join(self, g, v, found):
        """Make v a member of g if it fits."""
        if len(g.members) >= _MEMBERS:
            return False
        shape = v.x.shape if isinstance(v, Reduce) else v.shape
        place = self.placed(g, shape, found)
        if place is None:
            return False
        used = {p for p in place if p is not None}
        rest = {a for a, n in enumerate(g.domain) if n != 1} - used
        if isinstance(v, Reduce):
            over = {place[a] for a in v.axes if place[a] is not None}
            if rest or g.reduced is not None and g.reduced != over:
                return False
        elif rest:
            if g.reduced is None or rest != {a for a in g.reduced if g.domain[a] != 1}:
                return False
        outside = [link.root for link in found if link and link.root not in g.place] + needs(v)
        deps = set()
        for root in outside:
            if root in g.place:
                return False
            deps |= self.producers(root)
        if g in deps or any(u.before & g.bit for u in deps):
            return False
        if isinstance(v, Reduce):
            g.reduced = over
            v.source_place = tuple(place)
            place = [p for a, p in enumerate(place) if a not in v.axes]
        g.members.append(v)
        g.place[v] = tuple(place)
        if isinstance(v, Reduce) or any(link and link.root in g.late for link in found):
            g.late.add(v)
        self.depend(g, deps)
        g.roots |= {id(link.root) for link in found if link}
        self.unit[v] = g
        return True

    def merge(self, g, other, v, found):
        """Make one group of two, both of which v (a member of g) reads, if they walk the same domain."""
        if (
            len(g.members) + len(other.members) > _MEMBERS
            or isinstance(v, Reduce)
            or count(g.domain) != count(other.domain)
        ):
            return
        link = next(link for link in found if link and link.root in other.place)
        if link.axes is None:
            return
        to = {other.place[link.root][a]: p for a, p in zip(link.axes, g.place[v]) if a is not None and p is not None}
        if any(n != 1 and a not in to for a, n in enumerate(other.domain)) or None in to:
            return
        reduced = None if other.reduced is None else {to[a] for a in other.reduced}
        if reduced != g.reduced:
            both = reduced or g.reduced
            if reduced and g.reduced:
                return
            # values that do not span what is now reduced would be taken for results of the reduction
            for u in (other if g.reduced else g).members:
                at = (other if g.reduced else g).place[u]
                spans = {to.get(p) if g.reduced else p for p in at if p is not None}
                if not both <= spans:
                    return
        if any(
            link.root in other.place and not self._walks_alike(link, g.place[v], other, to) for link in found if link
        ):
            return
        if any(u.before & g.bit for u in other.deps - {g}) or any(u.before & other.bit for u in g.deps - {other}):
            return
        if any(root in other.place for m in g.members for root in needs(m)) or any(
            root in g.place for m in other.members for root in needs(m)
        ):
            return
        if any(self._reads_memory_of(m, g, other) for m in (*g.members, *other.members)):
            return
        if count(g.domain) >= _LARGE and any(self._second_pass(m, g, other, to) for m in (*g.members, *other.members)):
            return
        for m in [*g.members, *other.members]:
            for link in self.links[m]:
                if (
                    link
                    and (link.root in other.place) != (m in other.place)
                    and (link.root in g.place or link.root in other.place)
                ):
                    mine = [None if p is None else to[p] for p in other.place[m]] if m in other.place else g.place[m]
                    if isinstance(m, Reduce):
                        mine = (
                            m.source_place if m in g.place else [None if p is None else to[p] for p in m.source_place]
                        )
                    theirs = g.place.get(link.root) or [None if p is None else to[p] for p in other.place[link.root]]
                    if link.axes is None or any(
                        a is not None and theirs[a] is not None and mine[i] != theirs[a]
                        for i, a in enumerate(link.axes)
                    ):
                        return
        for m in other.members:
            g.place[m] = tuple(None if p is None else to[p] for p in other.place[m])
            if isinstance(m, Reduce):
                m.source_place = tuple(None if p is None else to[p] for p in m.source_place)
            self.unit[m] = g
        g.reduced = reduced or g.reduced
        g.members = sorted(g.members + other.members, key=self.number.__getitem__)
        g.deps = (g.deps | other.deps) - {g, other}
        g.roots |= other.roots
        g.late |= other.late
        other.members = []
        if other in self.recent:
            self.recent.remove(other)
        g.bit |= other.bit
        g.before = (g.before | other.before) & ~g.bit
        g.used = g.used or other.used
        for u in self.units:
            if other in u.deps:
                u.deps.discard(other)
                u.deps.add(g)
            if u.before & g.bit and u is not g:
                u.before |= g.before | g.bit

    def _reads_memory_of(self, m, g, other):
        """Whether a member reads a buffer that parts in these groups write: all of these must have run before it."""
        roots = [link.root for link in self.links[m] if link] + needs(m)
        return any(isinstance(r, Assembled) and not self.producers(r).isdisjoint((g, other)) for r in roots)

    def _second_pass(self, m, g, other, to):
        """Whether a member walks what was reduced once more, for what the other group made of that."""
        at, late = (g.place[m], other.late) if m in g.place else ([to.get(p) for p in other.place[m]], g.late)
        both = (g.reduced or set()) | {to[a] for a in other.reduced or ()}
        return not both.isdisjoint(at) and any(link and link.root in late for link in self.links[m])

    @staticmethod
    def _walks_alike(link, place, other, to):
        """Whether a link into the other group agrees with the way that the domains are matched."""
        if link.axes is None:
            return False
        at = other.place[link.root]
        return all(a is None or at[a] is None or place[i] == to[at[a]] for i, a in enumerate(link.axes))

    def placed(self, g, shape, found):
        """Which domain axis each axis of `shape` walks, so that it agrees with what is read from g; or None."""
        place = [None] * len(shape)
        for link in found:
            if link is None or link.root not in g.place:
                continue
            if link.axes is None:
                return None
            at = g.place[link.root]
            for i, a in enumerate(link.axes):
                if a is not None and at[a] is not None:
                    if place[i] not in (None, at[a]):
                        return None
                    place[i] = at[a]
        used = [p for p in place if p is not None]
        if len(set(used)) != len(used):
            return None
        free = [a for a, n in enumerate(g.domain) if n != 1 and a not in used]
        for i, n in enumerate(shape):
            if place[i] is not None:
                if g.domain[place[i]] != n:
                    return None
            elif n != 1:
                if not free:
                    return None
                # a missing axis: the next that is free and has its size
                found_axis = next((a for a in free if g.domain[a] == n), None)
                if found_axis is None:
                    return None
                free.remove(found_axis)
                place[i] = found_axis
        return place


def write_through(items, outputs):
    """Let the parts of a buffer that is only copied into a part of another be written there: joins of joins.

    items  everything, each thing after what it is made of
    """
    readers = Counter(resolve(v)[0] for v in outputs)
    for x in items:
        if isinstance(x, Step | Point | Gather | Reduce):
            readers.update({resolve(v)[0] for v in reads(x) if not isinstance(v, Step)})
    for x in items:
        if not isinstance(x, Part) or not isinstance(x.args[0], Assembled) or readers[x.args[0]] != 1:
            continue
        inner = x.args[0]
        places = [_composed(q, x, inner.shape) for q in inner.parts]
        if None in places:
            continue
        for q, (offset, strides) in zip(inner.parts, places):
            q.target, q.offset, q.strides, q.after = x.target, offset, strides, q.after + x.after
        at = x.target.parts.index(x)
        x.target.parts[at : at + 1] = inner.parts
        for p in x.target.parts:
            if x in p.after:  # it came after what is copied no more
                p.after = tuple(q for q in p.after if q is not x) + tuple(inner.parts)
        inner.parts = []


def _composed(q, x, shape):
    """Where part q of a buffer of `shape` lands when that is part x of another: (offset, strides), or None."""
    steps = contiguous(shape)
    first = [q.offset // c % n for c, n in zip(steps, shape)]
    offset, strides = x.offset + sum(i * s for i, s in zip(first, x.strides)), []
    for n, s in zip(q.shape, q.strides):
        if n == 1:
            strides.append(0)
            continue
        axis = next(
            (
                a
                for a, c in enumerate(steps)
                if shape[a] != 1 and s and s % c == 0 and 0 <= first[a] + s // c * (n - 1) < shape[a]
            ),
            None,
        )
        if axis is None:
            return None
        strides.append(s // steps[axis] * x.strides[axis])
    return offset, tuple(strides)


def schedule(outputs, steps):
    """(units in an order in which they can run, values that must be in memory).

    outputs  the Vals of the results; steps: all steps in order (guards and effects are kept, others if they are used)
    """
    s = _Scheduler()
    s.recent = []
    kept = [x for x in steps if isinstance(x, Guard) or getattr(x, "node", None) is not None and not x.node.pure]
    units, needed = s.units, {}
    write_through(ordered([*outputs, *kept]), outputs)
    for x in ordered([*outputs, *kept]):
        if isinstance(x, Step):
            x.deps = set()
            s.enter(x)
            for v in x.inputs:
                if v is not None:
                    root = resolve(v)[0]
                    s.depend(x, s.producers(root))
                    needed[root] = True
            s.unit[x] = x
        elif isinstance(x, Point | Gather | Reduce):
            s.number[x] = len(s.number)
            s.add(x)
    units[:] = [u for u in units if not isinstance(u, Group) or u.members]
    last = None
    for x in kept:  # effects and guards keep their order
        if isinstance(x, Island):
            if last is not None:
                x.deps.add(last)
            last = x
    for v in outputs:
        needed[resolve(v)[0]] = True
    for u in units:
        if isinstance(u, Group):
            for v in u.members:
                for link in s.links[v]:
                    if link and link.root not in u.place and not isinstance(link.root, Const | Coord):
                        needed[link.root] = True
                for root in needs(v):
                    needed[root] = True
    return in_order(units, needed, s.links, outputs), needed, s.links


def nest_of(g, needed, found):
    """(Nest, its arguments) of a group: an argument is (root, offset), so that nests at other offsets are the same."""
    exprs, args, memo, leaf = [], [], {}, {}
    numbers = {}

    def arg(root, offset=0):
        key = root, offset
        if key not in numbers:
            numbers[key] = len(args)
            args.append(key)
        return numbers[key]

    def emit(*e):
        if e not in leaf:
            leaf[e] = len(exprs)
            exprs.append(e)
        return leaf[e]

    def spread(strides, place):
        out = [0] * len(g.domain)
        for s, p in zip(strides, place):
            if p is not None:
                out[p] += s
        return tuple(out)

    def read(link, place):
        if link is None:
            return None
        root = link.root
        if root in memo:
            return memo[root]
        if isinstance(root, Const):
            return emit("const", root.dtype, _number(root), repr(_number(root)))
        if isinstance(root, Coord):
            at = next((place[i] for i, a in enumerate(link.axes) if a == root.axis), None)
            return emit("coord", root.dtype, at) if at is not None else emit("const", root.dtype, 0, "0")
        return emit("load", root.dtype, arg(root, link.offset), 0, spread(link.strides, place))

    for v in g.members:
        place = g.place[v]
        if isinstance(v, Reduce):
            memo[v] = emit("reduce", v.dtype, v.kind, read(found[v][0], v.source_place))
        elif isinstance(v, Gather):
            walk = iter(found[v])
            strides, parts, total = contiguous(v.x.shape), [], [0] * len(g.domain)
            for a, w in enumerate(v.where):
                if isinstance(w, Val):
                    parts.append((read(next(walk), place), strides[a], v.x.shape[a]))
                elif w is not None and place[w] is not None:
                    total[place[w]] += strides[a]
            memo[v] = emit("gather", v.dtype, arg(v.x), 0, tuple(total), tuple(parts), v.position)
        else:
            values = [read(link, place) for link in found[v]]
            if v.name in ("copy", "part"):
                memo[v] = values[0]
            elif v.name == "cast":
                memo[v] = emit("cast", v.dtype, values[0])
            else:
                memo[v] = emit("apply", v.dtype, v.name, tuple(values))
    stores = []
    for v in g.members:
        reduced = g.reduced or set()
        each = not reduced or not reduced.isdisjoint(g.place[v])
        if isinstance(v, Part):
            stores.append(Store(arg(v.target, v.offset), 0, spread(v.strides, g.place[v]), memo[v], each))
        if v in needed:
            stores.append(Store(arg(v), 0, spread(contiguous(v.shape), g.place[v]), memo[v], each))
    reduced = tuple(a in (g.reduced or ()) for a in range(len(g.domain)))
    return normalized(Nest(g.domain, reduced, tuple(a.dtype for a, _ in args), tuple(exprs), tuple(stores))), args


def _number(c):
    value = c.value
    if c.dtype == "bool":
        return bool(value)
    return float(value) if c.dtype in FLOATS or c.dtype in HALVES else int(value)
