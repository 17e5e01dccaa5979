"""From a recorded graph to something that can be called: passes, then native code, or the interpreter without it."""

from __future__ import annotations

from typing import Any, Callable

from agog import config
from agog.graph.interpret import run
from agog.graph.ir import Graph
from agog.graph.passes.pipeline import optimize

SAFER = ("stabilise",)
"""Passes that may improve a result: eager is the truth, so a staged call does without them."""


class Interpreted:
    """A program without native code: the rows' own computations, one after the other."""

    def __init__(self, graph: Graph, why: str):
        self.graph, self.why = graph, why

    def __call__(self, inputs: list[Any]) -> list[Any]:
        return list(run(self.graph, inputs))

    def explain(self) -> str:
        return f"interpreted: {self.why}"


def build(graph: Graph) -> Callable[[list[Any]], list[Any]]:
    """The program of a graph: a callable from input arrays to new output arrays."""
    if not config.native:
        return Interpreted(graph, "native code is switched off (AGOG_NATIVE=0)")
    from agog.compiler import kept, targets  # loads LLVM: not before something is compiled
    from agog.compiler.program import compile

    def make() -> Any:
        return compile(optimize(graph, without=SAFER))

    try:
        target = targets.host()
        name = kept.name_of(graph, target)
        if name is None:
            return make()
        program = kept.load(name, target, make)
        if program is None:
            program = make()
            kept.save(name, program)
        return program
    except Exception as error:
        if config.strict_compiler:
            raise
        return Interpreted(graph, f"it could not be compiled ({type(error).__name__}: {error})")
