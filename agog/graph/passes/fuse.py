"""Fusion: nodes that can be one loop nest become one `fused` node, which holds them as a graph.

A group has a *domain*, the shape that its loops run over, and perhaps *axes* of it that are reduced. Its nodes are

    wide      element-wise steps of the domain's shape
    rowwise   softmax and the like along the axes: wide to wide
    reducing  sums and the like of wide values over the axes, all of them and no others
    narrow    element-wise steps on what the reductions gave, and reshapes between keepdims and not

A wide step may read narrow values of the same group in their keepdims form: so softmax, layer norm and losses, written
out in primitive steps, are one group, with as many outputs as are read outside of it.

Nodes join, in order, the group of something that they read, or one that reads the same. A group is never let depend on
itself through nodes outside: groups keep the set of groups before them.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from agog.errors import GraphError
from agog.graph import forms
from agog.graph.ir import Constant, Graph, Input, Node, Role, Value
from agog.graph.passes.views import is_view
from agog.graph.rewrite import rewrite

LIMIT = 96
"""Nodes in a group."""

_REDUCTION = {"axis", "keepdims"}


class Group:
    """Nodes that will be one loop nest."""

    def __init__(self, place: int, domain: tuple[int, ...] | None = None, axes: tuple[int, ...] | None = None):
        self.bit = 1 << place
        self.domain, self.axes = domain, axes
        self.nodes: list[Node] = []
        self.before = 0  # bits of the groups that this one depends on
        self.narrow: set[Value] = set()

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of reduced values with keepdims."""
        assert self.domain is not None and self.axes is not None
        return tuple(1 if i in self.axes else n for i, n in enumerate(self.domain))

    @property
    def dropped(self) -> tuple[int, ...]:
        """The same without."""
        assert self.domain is not None and self.axes is not None
        return tuple(n for i, n in enumerate(self.domain) if i not in self.axes)


class Step:
    """How a node can take part: its kind, the domain it runs over, the axes it reduces."""

    def __init__(self, kind: str, domain: tuple[int, ...], axes: tuple[int, ...] | None = None):
        self.kind, self.domain, self.axes = kind, domain, axes


def step_of(node: Node) -> Step | None:
    """How `node` can be fused; None: not at all."""
    if not node.is_row or len(node.outputs) != 1 or not node.outputs[0].size:
        return None
    op, out = node.op, node.outputs[0]
    if op.elementwise and op.lower is not None or op.kind == "cast":
        return Step("map", out.shape)
    if len(node.inputs) != 1 or node.inputs[0] is None or not node.inputs[0].size:
        return None
    shape, static = node.inputs[0].shape, node.static
    if op.kind == "reduction" and set(static) == _REDUCTION:
        axis = static["axis"]
        over = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(sorted(a % len(shape) for a in over)) if shape else ()
        return Step("reduce", shape, axes) if axes and all(shape[a] > 1 for a in axes) else None
    if op.kind == "softmax" and set(static) == {"axis"} and isinstance(static["axis"], int) and shape:
        axis = static["axis"] % len(shape)
        return Step("rowwise", shape, (axis,)) if shape[axis] > 1 else None
    if is_view(node) and out.size == node.inputs[0].size:
        return Step("view", out.shape)
    return None


class _Partition:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.groups: list[Group] = []
        self.of: dict[Node, Group] = {}
        self.readers: dict[Value, list[Group]] = {}
        last = None
        for node in graph.nodes:
            group = self._place(node)
            if not node.pure:
                if last is not None and last is not group:
                    self._depend(group, last.bit | last.before)
                last = group

    # ------------------------------------------------------------------------------------------ dependence
    def _sources(self, node: Node) -> list[Group]:
        return [self.of[v.node] for v in node.inputs if v is not None and v.node in self.of]

    def _depend(self, group: Group, bits: int) -> None:
        if group.before | bits == group.before:
            return
        group.before |= bits
        if not group.nodes:  # a new one: nothing depends on it yet
            return
        for other in self.groups:
            if other.before & group.bit:
                other.before |= bits

    def _may_join(self, group: Group, node: Node) -> bool:
        """No path from the group through another one to `node`."""
        return all(s is group or not s.before & group.bit for s in self._sources(node))

    def _may_merge(self, a: Group, b: Group) -> bool:
        """No path from one through a third to the other."""
        for x, y in ((a, b), (b, a)):
            for other in self.groups:
                if other is not x and other is not y and y.before & other.bit and other.before & x.bit:
                    return False
        return not (a.before & b.bit and b.before & a.bit)

    # ------------------------------------------------------------------------------------------- placement
    def _place(self, node: Node) -> Group:
        step = step_of(node)
        group = None
        if step is not None:
            for candidate in self._candidates(node):
                if (candidate.domain is not None and len(candidate.nodes) < LIMIT
                        and self._fits(candidate, node, step) and self._may_join(candidate, node)):
                    group = candidate
                    break
        if group is None:
            group = Group(len(self.groups))
            self.groups.append(group)
            if step is not None and step.kind != "view":
                group.domain = step.domain
        self._join(group, node, step)
        if step is not None:
            for other in dict.fromkeys(self._sources(node)):
                if other is not group and group.domain is not None:
                    self._merge(other, group)
                    group = self.of[node]
        return group

    def _candidates(self, node: Node) -> list[Group]:
        found: dict[Group, None] = {}
        for source in reversed(self._sources(node)):
            found[source] = None
        for v in node.inputs:
            if v is not None and v.size > 1:
                for reader in reversed(self.readers.get(v, [])):
                    found[reader] = None
        return [g for g in found if g.bit]

    def _fits(self, group: Group, node: Node, step: Step) -> bool:
        """Whether `node` can be a node of `group`, by shapes."""
        out = node.outputs[0]
        mine = [v for v in node.inputs if v is not None and self.of.get(v.node) is group]
        if step.kind in ("reduce", "rowwise"):
            return (step.domain == group.domain and group.axes in (None, step.axes)
                    and not any(v in group.narrow for v in mine))
        if step.kind == "view":
            return (group.axes is not None and len(mine) == 1 and mine[0] in group.narrow
                    and out.shape in (group.kept, group.dropped))
        if group.axes is None:
            return out.shape == group.domain
        narrow = [v for v in mine if v in group.narrow]
        if narrow and len(narrow) == len(mine) and out.shape == narrow[0].shape and out.shape != group.domain:
            return all(v.shape in (out.shape, ()) for v in narrow)
        return out.shape == group.domain and all(v.shape == group.kept or v.size == 1 for v in narrow)

    def _join(self, group: Group, node: Node, step: Step | None) -> None:
        bits = 0
        for source in self._sources(node):
            if source is not group:
                bits |= source.bit | source.before
        self._depend(group, bits)
        if step is not None and group.domain is not None:
            if step.axes is not None:
                group.axes = step.axes
            if step.kind == "reduce" or step.kind == "view" or group.axes is not None and step.domain != group.domain:
                group.narrow.add(node.outputs[0])
        group.nodes.append(node)
        self.of[node] = group
        for v in node.inputs:
            if v is not None and type(v) is not Constant and v.node not in self.of:
                readers = self.readers.setdefault(v, [])
                if group not in readers:
                    readers.append(group)

    def _merge(self, a: Group, b: Group) -> None:
        """Make two groups one, where `b` reads what `a` gives in a way that allows it."""
        if (a.domain is None or a.domain != b.domain or len(a.nodes) + len(b.nodes) > LIMIT
                or a.axes is not None and b.axes is not None and a.axes != b.axes):
            return
        axes = b.axes if a.axes is None else a.axes
        if axes is not None:
            kept = tuple(1 if i in axes else n for i, n in enumerate(a.domain))
            narrow = a.narrow | b.narrow
            for node in (*a.nodes, *b.nodes):
                if node.outputs[0] not in narrow:
                    for v in node.inputs:
                        if v in narrow and v.shape != kept and v.size != 1:
                            return
        for node in (*a.nodes, *b.nodes):  # a reduction must read a wide value
            step = step_of(node)
            if step is not None and step.axes is not None and any(v in a.narrow or v in b.narrow for v in node.inputs):
                return
        if not self._may_merge(a, b):
            return
        before = (a.before | b.before) & ~(a.bit | b.bit)
        old = b.bit
        a.axes, a.narrow = axes, a.narrow | b.narrow
        a.nodes += b.nodes
        for node in b.nodes:
            self.of[node] = a
        b.nodes, b.bit, b.domain = [], 0, None
        a.before = 0
        for other in self.groups:
            if other is not a and other.before & old:
                other.before |= a.bit
        self._depend(a, before)
        for other in self.groups:
            if other is not a and other.before & a.bit:
                other.before |= before
        for readers in self.readers.values():
            if b in readers:
                readers[readers.index(b)] = a


def fuse(graph: Graph) -> Graph:
    """`graph` with groups of nodes made one `fused` node each. Run a second time it finds them fused already."""
    graph = rewrite(graph, None, deep=fuse, closed=forms.FUSED)
    found = _Partition(graph)
    units: dict[Any, list[Node]] = {}  # what becomes one node, in order of its last member
    for node in graph.nodes:
        units.setdefault(found.of[node], []).append(node)
    if all(len(nodes) == 1 for nodes in units.values()):
        return graph
    users, results = graph.users(), set(graph.outputs)
    env: dict[Value, Value] = {}
    nodes = []
    for group, members in in_order(graph, list(units.items())):
        if len(members) == 1:
            new = members[0].with_inputs([v if v is None else env.get(v, v) for v in members[0].inputs])
            env.update((a, b) for a, b in zip(members[0].outputs, new.outputs) if a is not b)
        else:
            new = _fused(group, members, users, results, env)
        nodes.append(new)
    return graph.replaced(nodes, [env.get(v, v) for v in graph.outputs])


def in_order(graph: Graph, units: list[tuple[Any, list[Node]]]) -> list[tuple[Any, list[Node]]]:
    """Groups of nodes in an order in which they can run; what is not pure keeps its order."""
    unit = {node: i for i, (_, nodes) in enumerate(units) for node in nodes}
    before: list[set[int]] = [set() for _ in units]
    last = None
    for node in graph.nodes:
        mine = unit[node]
        before[mine] |= {unit[v.node] for v in node.inputs if v is not None and v.node in unit}
        if not node.pure:
            if last is not None:
                before[mine].add(last)
            last = mine
    after: list[list[int]] = [[] for _ in units]
    for i, sources in enumerate(before):
        sources.discard(i)
        for source in sources:
            after[source].append(i)
    waiting = [len(b) for b in before]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    out = []
    while ready:
        i = heappop(ready)
        out.append(units[i])
        for j in after[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                heappush(ready, j)
    if len(out) != len(units):
        raise GraphError(f"fusion of the graph '{graph.name}' made a cycle")
    return out


def _fused(group: Group, members: list[Node], users: Any, results: set, env: dict[Value, Value]) -> Node:
    """The fused node; `env` holds what earlier values have become, and learns it of this node's outputs."""
    inside = set(members)
    inner: dict[Value, Value] = {}
    reads: list[Value] = []
    body: list[Node] = []
    outputs: list[Value] = []
    for node in members:
        for v in node.inputs:
            if v is not None and type(v) is not Constant and v not in inner:
                inner[v] = Input(v.shape, v.dtype, Role("argument"), v.name)
                reads.append(v)
        new = Node(node.op, [v if v is None else inner.get(v, v) for v in node.inputs], node.statics,
                   node.fresh(), node.graphs, node.where)
        body.append(new)
        inner.update(zip(node.outputs, new.outputs))
        outputs += [v for v in node.outputs if v in results or any(u not in inside for u in users[v])]
    wide = any(v not in group.narrow for v in outputs)
    pattern = "map" if group.axes is None else "row" if wide else "reduce"
    graph = Graph(pattern, [inner[v] for v in reads], body, [inner[v] for v in outputs])
    made = Node(forms.FUSED, [env.get(v, v) for v in reads], (pattern, group.domain, group.axes or ()),
                [Value(*v.spec, v.name) for v in outputs], (graph,), members[-1].where)
    env.update(zip(outputs, made.outputs))
    return made
