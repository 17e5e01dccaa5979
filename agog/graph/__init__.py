"""The graph IR: grammar, verifier, interpreter, printer, gradients, passes."""

from agog.graph.build import Builder, Symbol, build, xp
from agog.graph.grad import forward_backward, grad, vjp
from agog.graph.interpret import run
from agog.graph.ir import Constant, Graph, Input, Node, Role, Value, Where
from agog.graph.passes.pipeline import optimize, show_passes
from agog.graph.show import show
from agog.graph.text import parse
from agog.graph.verify import verify
from agog.ops import facts  # noqa: F401 - facts about rows that only graphs ask for

__all__ = ["Builder", "Constant", "Graph", "Input", "Node", "Role", "Symbol", "Value", "Where", "build",
           "forward_backward", "grad", "optimize", "parse", "run", "show", "show_passes", "verify", "vjp", "xp"]
