"""The pass pipeline, as one list. Each pass takes a graph and returns a graph, and is idempotent.

`optimize` runs the cleaning passes until nothing changes, because each opens ways for the others, and then fuses.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable

from agog.graph.ir import Graph
from agog.graph.passes.dead import dead
from agog.graph.passes.fold import fold
from agog.graph.passes.fuse import fuse
from agog.graph.passes.share import share
from agog.graph.passes.simplify import simplify, stabilise
from agog.graph.passes.views import views
from agog.graph.verify import verify

Pass = tuple[str, Callable[[Graph], Graph]]

CLEANING: list[Pass] = [
    ("fold", fold),  # compute what depends on constants alone
    ("simplify", simplify),  # shorter ways to exactly the same values
    ("stabilise", stabilise),  # ways to more accurate values: log1p, softplus, log_softmax, logsumexp
    ("views", views),  # read through stretching views, or stretch after computing
    ("share", share),  # compute once what is computed twice
    ("dead", dead),  # drop what nobody reads
]
PIPELINE: list[Pass] = [*CLEANING, ("fuse", fuse)]  # make one node of what can be one loop nest

ROUNDS = 20
"""Rounds of cleaning after which it stops, should two passes ever undo each other."""


def optimize(graph: Graph, *, check: bool = False, without: Iterable[str] = (),
             see: Callable[[str, Graph, Graph], None] | None = None) -> Graph:
    """`graph` after the whole pipeline.

    check     verify the graph after every pass
    without   names of passes to leave out ('stabilise' for results that are bit for bit those of the plain graph)
    see       `see(name, before, after)` is called for every pass that changed something
    """
    left_out = set(without)
    for _ in range(ROUNDS):
        before = graph
        for name, run in CLEANING:
            if name not in left_out:
                graph = _run(name, run, graph, check, see)
        if graph is before:
            break
    for name, run in PIPELINE[len(CLEANING):]:
        if name not in left_out:
            graph = _run(name, run, graph, check, see)
    return graph


def _run(name: str, run: Callable[[Graph], Graph], graph: Graph, check: bool, see: Any) -> Graph:
    after = run(graph)
    if after is not graph:
        if check:
            verify(after)
        if see is not None:
            see(name, graph, after)
    return after


def show_passes(graph: Graph) -> str:
    """The graph as text, before and after every pass that changes it."""
    parts = [f"--- as recorded\n{graph}"]
    optimize(graph, see=lambda name, before, after: parts.append(f"--- after {name}\n{after}"))
    return "\n".join(parts)
