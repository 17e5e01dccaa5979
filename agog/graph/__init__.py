"""The graph IR: grammar, verifier, interpreter, printer, gradients, passes."""

from agog.graph.build import Builder, Symbol, build, xp
from agog.graph.grad import forward_backward, grad, vjp
from agog.graph.interpret import run
from agog.graph.ir import Constant, Graph, Input, Node, Role, Value, Where
from agog.graph.text import parse
from agog.graph.verify import verify

__all__ = ["Builder", "Constant", "Graph", "Input", "Node", "Role", "Symbol", "Value", "Where", "build",
           "forward_backward", "grad", "parse", "run", "verify", "vjp", "xp"]
