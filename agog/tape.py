"""The tape: nodes that remember how a value was made, and the walk back over them.

A node holds the row, the nodes of the inputs that need a gradient, and the environment that the rules take (see
`ops.row`). It knows no Tensor and no array library: cotangents are whatever the namespace `xp` computes with.

Cotangents may be smaller than the value they belong to, as long as they broadcast to it: the gradient of a sum
stays one number until a rule needs it whole.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import prod
from typing import Any, Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from agog import config
from agog.array import large
from agog.errors import GradientError
from agog.ops.gathered import Products, gather
from agog.ops.pieces import Pieces
from agog.ops.row import Op

_tickets = count(-1, -1)  # younger is smaller: what a heap hands out first
_ticket = _tickets.__next__
_new = object.__new__
_ndarray, _PULL_FROM, _raw = np.ndarray, large.PULL_FROM, (np.ndarray, np.generic)
_raised = FloatingPointError, RuntimeWarning  # what NumPy raises where its user has asked for that
_NEVER = 1 << 30  # saved values from which a gradient rule is computed by a kernel, where none is


class Node:
    """One recorded call. `seq` orders nodes by age; `env` is None once the saved values were freed."""

    __slots__ = ("op", "parents", "env", "shape", "seq", "__weakref__")
    op: Any
    parents: tuple[Any, ...]
    env: Any
    shape: Any
    seq: int


class Leaf:
    """Where a gradient ends: the place of `.grad` of a tensor with `requires_grad`."""

    __slots__ = ("shape", "dtype", "grad", "seq", "__weakref__")

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype, self.grad, self.seq = _shapes.setdefault(shape, shape), dtype, None, _ticket()
        if len(_shapes) > 10_000:
            _shapes.clear()


_shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
"""Shapes of leaves, each once: where two nodes have the same object, so has the result of working on both."""


class Pick:
    """One output of a node with several; `shape` is that output's."""

    __slots__ = ("source", "index", "shape", "seq", "__weakref__")
    op = None

    def __init__(self, source: Node, index: int, shape: tuple[int, ...]):
        self.source, self.index, self.shape, self.seq = source, index, shape, _ticket()


hooks: Any = WeakKeyDictionary()
"""Gradient hooks: called with the cotangent of a node, may return another."""


def record(op: Op, parents: tuple, values: tuple, statics: tuple, shape: Any) -> Node:
    """A node for a call that just ran. `values` are inputs then outputs; what no rule needs is not kept."""
    node = _new(Node)
    node.op, node.parents, node.shape, node.seq = op, parents, shape, _ticket()
    if op.variadic:
        keep_inputs, keep_output = op.keeps
        env = (values[:-1] if keep_inputs else None, values[-1] if keep_output else None) + statics
        for what, _ in op.derived:
            env += (tuple([getattr(v, what) for v in values[:-1]]),)
    else:
        mask = 0
        for i, p in enumerate(parents):
            if p is not None:
                mask |= 1 << i
        keep = op.keeps[mask]
        env = tuple([v if k else None for v, k in zip(values, keep)]) if keep else (None,) * len(values)
        env += statics
        for what, i in op.derived:
            env += (getattr(values[i], what),)
    node.env = env
    return node


def pullback(xp: Any, roots: Sequence[Any], cotangents: Sequence[Any], wanted: set[Any] | None = None, *,
             retain: bool = False, as_values: Callable[[Any, tuple], tuple] | None = None,
             stop: bool = False) -> dict[Any, Any]:
    """Carry `cotangents` of `roots` back to the leaves, youngest node first.

    xp         the namespace in which the rules run
    wanted     nodes whose cotangent to return besides the leaves'
    stop       do not walk below wanted nodes
    retain     keep the saved values; otherwise they are freed and a second walk raises GradientError
    as_values  turns saved values into values of `xp` (`create_graph`: arrays into Tensors linked to the tape)

    Returns {leaf or wanted node: cotangent}, each of the node's shape or broadcastable to it.

    A node is younger than all that it was made from, so a heap by age hands out each node when all of its
    cotangents have arrived: no sorting pass, and only what contributes is visited. In a chain, where nothing else is
    under way, the next node never enters the heap.
    """
    pending: dict[Any, Any] = {}
    found: dict[Any, Any] = {}
    products: dict[Any, Products] = {}
    pieces = False
    heap: list[tuple[int, Any]] = []
    hooked = bool(hooks.data)  # (len() of a weak dictionary is a call into Python)
    watched = hooked or wanted is not None
    for root, g in zip(roots, cotangents):
        if type(root) is Leaf:
            found[root] = found[root] + g if root in found else g
        elif root in pending:
            pending[root] = pending[root] + g
        else:
            pending[root] = g
            heap.append((root.seq, root))
    heapify(heap)
    following: Any = None  # a node that just got its first cotangent, `first`, and did not go into the heap
    first: Any = None
    whole = False  # whether `first` is known to have the node's shape
    while True:
        if following is None:
            if not heap:
                break
            node = heappop(heap)[1]
            g = pending.pop(node)
            whole = False
        elif heap and heap[0][0] < following.seq:
            pending[following] = first
            node = heapreplace(heap, (following.seq, following))[1]
            g = pending.pop(node)
            whole = False
        else:
            node, g = following, first
        following = None
        if type(g) is Pieces:
            g = g.value()
        if watched:
            if hooked and node in hooks:
                g = _run_hooks(xp, node, g)
            if wanted is not None and node in wanted:
                found[node] = g
                if stop:
                    continue
        op = node.op
        if op is None:
            _hand_over(pending, heap, node, g)
            continue
        env, parents = node.env, node.parents
        if env is None:
            raise GradientError(
                f"the saved values of '{op.name}' were freed by an earlier backward(); "
                "call the first backward with retain_graph=True, or compute the result again")
        if not retain:
            node.env = None
        if as_values is not None:
            env = as_values(node, env)
        elementwise = op.elementwise
        if elementwise and op.straight is not None:  # one input: no shape matters
            rule = op.straight
            fn, count, pick = rule
            (parent,) = parents
            value = env[pick] if count else g
            try:
                if type(value) is not _ndarray or value.size < op.pull_from or (
                        part := large.pull(rule, g, env)) is None:
                    part = fn(xp, g, value) if count else fn(xp, g)
            except _raised:  # the user made them raise on overflow and the like; that is for their own code
                with np.errstate(all="ignore"):
                    part = fn(xp, g, value) if count else fn(xp, g)
            if part is None:
                continue
            if type(parent) is Leaf:
                found[parent] = found[parent] + part if parent in found else part
            elif pending and parent in pending:
                pending[parent] = pending[parent] + part
            elif parent.op is None and not watched:
                _hand_over(pending, heap, parent, part)
            else:
                following, first = parent, part
            continue
        shape = node.shape
        if not whole:
            if type(g) is list:
                unseen = getattr(op, "sees_none", False)  # a staged call: it knows what no cotangent means
                g = [(None if unseen else xp.zeros(s, d)) if p is None else
                     _expand(xp, p.value() if type(p) is Pieces else p, s) for p, (s, d) in zip(g, shape)]
            elif g.shape == shape:
                whole = elementwise
            elif not elementwise:
                g = _expand(xp, g, shape)
            else:  # small is enough, unless an input was stretched: then each copy counts
                for parent in parents:
                    if parent is not None and parent.shape != shape:
                        g = _expand(xp, g, shape)
                        whole = True
                        break
        elif not elementwise:
            whole = False
        known = whole
        if not elementwise and not op.variadic and op.factors is not None and type(g) is _ndarray and type(
                parents[op.factors[0]]) is Leaf:
            at, split, saved = op.factors
            if gather(products, parents[at], *split(g, env[saved])):
                parents = (*parents[:at], None, *parents[at + 1:])
        least = 0 if elementwise and type(g) is _ndarray and g.size >= _PULL_FROM else _NEVER
        if elementwise and not whole and not g.shape and isinstance(g, _raw) and prod(shape) >= _PULL_FROM:
            least = 2  # of a sum, g is one number for all: what goes over one array is as quick in NumPy
        if not op.variadic and op.reads is not None and config.modes.recorder is None:
            # (A recorder looks for loops among the operations, one turn like the other.)
            pieces = True
            part = Pieces(xp, env[op.reads[0]], g, env[op.reads[1]])
            (parent,) = parents
            if type(parent) is Leaf:
                found[parent] = found[parent] + part if parent in found else part
            elif parent in pending:
                pending[parent] = pending[parent] + part
            elif parent.op is None and not watched:
                _hand_over(pending, heap, parent, part)
            else:
                following, first = parent, part
            continue
        for parent, rule in zip(parents, _variadic_rules(xp, op, g, env) if op.variadic else op.rules):
            if parent is None:
                continue
            fn, count, pick = rule
            try:
                if count < least or (part := large.pull(rule, g, env)) is None:
                    part = (fn(xp, g, env[pick]) if count == 1 else fn(xp, g, *pick(env)) if count > 0 else
                            pick if count else fn(xp, g))
            except _raised:
                with np.errstate(all="ignore"):
                    part = fn(xp, g, env[pick]) if count == 1 else fn(xp, g, *pick(env)) if count else fn(xp, g)
            if part is None:
                continue
            # Element by element, a whole cotangent gives a whole one, unless the input was stretched.
            if elementwise and parent.shape != shape:
                known = False
                if part.shape != parent.shape:
                    part = unbroadcast(xp, part, parent.shape)
            if type(parent) is Leaf:
                found[parent] = found[parent] + part if parent in found else part
            elif parent is following:
                first = first + part
            elif pending and parent in pending:
                pending[parent] = pending[parent] + part
            elif parent.op is None and not watched:
                _hand_over(pending, heap, parent, part)
            elif following is None:
                following, first = parent, part
            else:
                pending[parent] = part
                heappush(heap, (parent.seq, parent))
        whole = known
    if pieces:
        for leaf, g in found.items():
            if type(g) is Pieces:
                found[leaf] = g.value()
    for leaf, several in products.items():
        found[leaf] = found[leaf] + several.value() if leaf in found else several.value()
    if hooked:
        for node in list(found):
            if type(node) is Leaf and node in hooks:
                found[node] = _run_hooks(xp, node, found[node])
    return found


def _hand_over(pending: dict[Any, Any], heap: list[tuple[int, Any]], pick: Pick, g: Any) -> None:
    """Add the cotangent of one output of several to those of the node that made it."""
    source, at = pick.source, pick.index
    parts = pending.get(source)
    if parts is None:
        parts = pending[source] = [None] * len(source.op.outputs)
        heappush(heap, (source.seq, source))
    parts[at] = g if parts[at] is None else parts[at] + g


def _variadic_rules(xp: Any, op: Op, g: Any, env: tuple) -> list[Any]:
    """The one rule of a row with `*xs`, which gives all cotangents at once, as a "rule" for each input: a count of -1
    says that the cotangent is there."""
    fn, count, pick = op.rules[0]  # type: ignore[misc]
    parts = fn(xp, g, *(() if count == 0 else (env[pick],) if count == 1 else pick(env)))
    return [(None, -1, part) for part in parts]


def _run_hooks(xp: Any, node: Any, g: Any) -> Any:
    if type(g) is list:
        raise GradientError("a hook belongs on one output of an operation with several, not on all of them")
    g = _expand(xp, g, node.shape)
    for hook in list(hooks[node]):
        new = hook(g)
        g = g if new is None else new
    return g


def _expand(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    return g if g.shape == shape else xp.broadcast_to(g, shape)


def unbroadcast(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """Sum `g` over the axes along which a value of `shape` was stretched to g's shape."""
    extra = len(g.shape) - len(shape)
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1)
    if axes:
        g = xp.sum(g, axis=axes)
    return g if g.shape == shape else xp.reshape(g, shape)
