"""In which order the units of a program run: as they were written, unless memory can be given back sooner.

A value in memory is kept until its last reader ran. When all that have yet to read one can run, and what they make
takes no more memory than it, they run at once: a gradient of a weight with its update, say, right after the gradient
that it is made of, which is then in the caches and needs no memory beyond.
"""

from collections import deque
from heapq import heapify, heappop, heappush

from agog.compiler.lowering import Guard, Island
from agog.compiler.targets import ITEMSIZE
from agog.compiler.values import Buffer, Part, resolve

__all__ = ["in_order", "roots_of", "touched_by"]

_READERS = 8  # of a value: with more it is not looked at


def roots_of(u, needed, links):
    """(what a unit reads, what it writes) in memory, as roots: {root: bytes} each."""
    reads, writes = {}, {}

    def note(to, root, size=None):
        to[root] = (root.size if size is None else size) * ITEMSIZE.get(root.dtype, 16)

    if not hasattr(u, "members"):
        for v in u.inputs:
            if v is not None:
                note(reads, resolve(v)[0])
        for v in u.outputs:
            note(writes, v)
        return reads, writes
    for v in u.members:
        for link in links[v]:
            if link and link.root not in u.place and link.root in needed:
                note(reads, link.root)
        if v in needed:
            note(writes, v)
        if isinstance(v, Part):
            root = resolve(v.target)[0]
            note(writes, root, writes.get(root, 0) // ITEMSIZE[root.dtype] + v.size)
        elif hasattr(v, "where"):
            note(reads, resolve(v.x)[0])
    return reads, writes


def touched_by(u, needed, links):
    """What a unit reads or writes in memory, always in the same order: that of a set depends on where objects lie."""
    reads, writes = roots_of(u, needed, links)
    return reads | writes


def in_order(units, needed, links, outputs):
    """A topological order; native units first as long as there are any, so that islands make few segments."""
    waiting = {u: len(u.deps) for u in units}
    after = {u: [] for u in units}
    for u in units:
        for d in u.deps:
            after[d].append(u)
    place = {u: i for i, u in enumerate(units)}
    touched = {u: roots_of(u, needed, links) for u in units}
    lasting = {resolve(v)[0] for v in outputs}  # results are arrays of their own
    readers = {}  # those that have yet to run
    for u, (reads, _) in touched.items():
        for root in reads:
            if root not in lasting and not (isinstance(root, Buffer) and root.step is None):
                readers.setdefault(root, []).append(u)
    made = {u: sum(n for root, n in writes.items() if root not in lasting) for u, (_, writes) in touched.items()}
    native = [place[u] for u in units if not waiting[u] and not isinstance(u, Island)]
    islands = deque(u for u in units if not waiting[u] and isinstance(u, Island))
    heapify(native)
    done, out, soon = set(), [], deque()
    while soon or native or islands:
        u = soon.popleft() if soon else units[heappop(native)] if native else islands.popleft()
        if u in done:
            continue
        done.add(u)
        out.append(u)
        for w in after[u]:
            waiting[w] -= 1
            if not waiting[w]:
                if isinstance(w, Island):
                    islands.append(w)
                else:
                    heappush(native, place[w])
        reads, writes = touched[u]
        for root in reads:
            if root in readers:
                readers[root].remove(u)
        for root, size in (writes | reads).items():
            left = readers.get(root)
            if not left or len(left) > _READERS:
                continue
            if any(waiting[w] or isinstance(w, Island | Guard) for w in left):
                continue
            if sum(made[w] for w in left) <= size:
                soon.extend(sorted(left, key=place.__getitem__))
    if len(out) != len(units):
        raise AssertionError("the groups have a cycle")
    return out
