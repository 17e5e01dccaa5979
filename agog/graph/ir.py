"""The graph: what a function computes, as data.

    graph  = Graph(name, inputs (Input, ...), nodes (Node, ...), outputs (value, ...), roles (Role, ...))
    value  = Input | Constant | Value                     one array, of known shape and dtype
    node   = Node(op, inputs (value | None, ...), statics, outputs (Value, ...), graphs (Graph, ...), where)
    op     = a row of the op table | a Form               forms: cond, while_loop, scan, fused, guard, effect
    role   = Role(kind, path)                             of an input: argument, captured, state, scalar
                                                          of an output: result, state, saved

Nodes stand in an order in which they can run, and every value is made once. A graph inside a node (a branch, a loop's
body) is closed: whatever it reads is one of its inputs. Graphs, nodes and values never change once made; a pass makes
a new graph, which shares the nodes that stayed the same. `verify` is this grammar as a program.
"""

from __future__ import annotations

import linecache
import math
import os
from typing import Any, Iterator, NamedTuple

import numpy as np


class Where(NamedTuple):
    """The user's line that a node comes from. `code` is read from the file when it is first wanted."""

    file: str
    line: int
    code: str | None = None

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip() if self.code is None else self.code
        if len(code) > 80:
            code = code[:79] + "…"
        return f"{os.path.basename(self.file)}:{self.line}" + (f" {code}" if code else "")


class Role(NamedTuple):
    """What an input or output is to the caller. `path` names it: `args.0.weight`, `model.w`.

    Inputs: 'argument' a tensor argument; 'captured' a tensor from outside, read afresh at each call; 'state' the same,
    and the call gives it a new value; 'scalar' a Python number that varies.
    Outputs: 'result' what the function returns; 'state' the new value of the state `path`; 'saved' for the backward.
    """

    kind: str
    path: str = ""


INPUT_KINDS = ("argument", "captured", "state", "scalar")
OUTPUT_KINDS = ("result", "state", "saved")


class Value:
    """One array: its shape, its dtype, and the node that makes it (None for inputs and constants)."""

    __slots__ = ("shape", "dtype", "name", "node", "index")

    def __init__(self, shape: tuple[int, ...], dtype: Any, name: str = ""):
        self.shape, self.dtype, self.name = tuple(shape), np.dtype(dtype), name
        self.node: Node | None = None
        self.index = 0

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def spec(self) -> tuple[tuple[int, ...], np.dtype]:
        return self.shape, self.dtype

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.name}: {describe(self.shape, self.dtype)}>"


class Input(Value):
    """A value that the caller gives."""

    __slots__ = ("role",)

    def __init__(self, shape: tuple[int, ...], dtype: Any, role: Role | None = None, name: str = ""):
        super().__init__(shape, dtype, name)
        self.role = Role("argument") if role is None else role


class Constant(Value):
    """A value that is known. `data` is an array held by reference, which nobody may change."""

    __slots__ = ("data",)

    def __init__(self, data: Any, name: str = ""):
        data = np.asarray(data)
        super().__init__(data.shape, data.dtype, name)
        self.data = data


class Form:
    """An operation of the graph itself rather than of the op table. Its meaning is in `forms`.

    Like a row it has `name`, `static_names` and `outputs`. A form that is not `pure` is never removed, doubled or moved
    past another one: a guard, an effect.
    """

    def __init__(self, name: str, static_names: tuple[str, ...] = (), graph_names: tuple[str, ...] = (),
                 pure: bool = True):
        self.name, self.static_names, self.graph_names, self.pure = name, static_names, graph_names, pure
        FORMS[name] = self

    def __repr__(self) -> str:
        return f"<form {self.name}>"

    def __reduce__(self) -> Any:
        return FORMS.__getitem__, (self.name,)


FORMS: dict[str, Form] = {}


def is_dynamic(op: Any, inputs: Any, statics: tuple) -> bool:
    """Whether the shape of the result depends on the values of the inputs."""
    if isinstance(op, Form):
        return False
    return op.kind == "dynamic" or op.dynamic is not None and bool(op.dynamic(*inputs, *statics))


class Node:
    """One step: a row or a form, applied to values. Making it claims its outputs."""

    __slots__ = ("op", "inputs", "statics", "outputs", "graphs", "where")

    def __init__(self, op: Any, inputs: Any, statics: Any, outputs: Any, graphs: Any = (), where: Where | None = None):
        self.op, self.inputs, self.statics = op, tuple(inputs), tuple(statics)
        self.outputs: tuple[Value, ...] = tuple(outputs)
        self.graphs: tuple[Graph, ...] = tuple(graphs)
        self.where = where
        for i, value in enumerate(self.outputs):
            value.node, value.index = self, i

    @property
    def is_row(self) -> bool:
        """True for a row of the op table, False for a form."""
        return not isinstance(self.op, Form)

    @property
    def static(self) -> dict[str, Any]:
        """The static parameters by name."""
        return dict(zip(self.op.static_names, self.statics))

    @property
    def pure(self) -> bool:
        """True when the node does nothing but compute its outputs.

        One whose result had a shape that follows from values is also a guard: everything after it relies on that shape.
        """
        if self.is_row:
            return not is_dynamic(self.op, self.inputs, self.statics)
        return self.op.pure and all(n.pure for g in self.graphs for n in g.nodes)

    def with_inputs(self, inputs: Any) -> Node:
        """The same step on other values, with outputs of its own; itself if the values are the same."""
        inputs = tuple(inputs)
        if inputs == self.inputs:  # (values compare by identity)
            return self
        return Node(self.op, inputs, self.statics, self.fresh(), self.graphs, self.where)

    def fresh(self) -> list[Value]:
        """New values like the outputs, for another node."""
        return [Value(*v.spec, v.name) for v in self.outputs]

    def __repr__(self) -> str:
        return f"<node {self.op.name}{' at ' + str(self.where) if self.where else ''}>"


class Graph:
    """A computation: `str(graph)` prints it, `run` runs it, `grad` differentiates it, `show` draws it."""

    __slots__ = ("name", "inputs", "nodes", "outputs", "roles", "_plan", "__weakref__")

    def __init__(self, name: str, inputs: Any, nodes: Any, outputs: Any, roles: Any = None):
        self.name, self.inputs, self.nodes, self.outputs = name, tuple(inputs), tuple(nodes), tuple(outputs)
        self.roles: tuple[Role, ...] = tuple(roles) if roles is not None else tuple(
            Role("result", str(i) if len(self.outputs) > 1 else "") for i in range(len(self.outputs)))
        self._plan: Any = None

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The constants, in the order in which they are first read."""
        found: dict[Constant, None] = {}
        for value in self.reads():
            if type(value) is Constant:
                found[value] = None
        return tuple(found)

    def reads(self) -> Iterator[Value]:
        """Every value that a node or the caller reads, in order, each time that it is read."""
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    yield value
        yield from self.outputs

    def users(self) -> dict[Value, list[Node]]:
        """For every value, the nodes that read it."""
        found: dict[Value, list[Node]] = {v: [] for v in self.inputs}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    found.setdefault(value, []).append(node)
            for value in node.outputs:
                found.setdefault(value, [])
        return found

    def replaced(self, nodes: Any = None, outputs: Any = None) -> Graph:
        """This graph with other nodes or outputs."""
        return Graph(self.name, self.inputs, self.nodes if nodes is None else nodes,
                     self.outputs if outputs is None else outputs, self.roles)

    def count(self) -> int:
        """The number of nodes, those of inner graphs included."""
        return sum(1 + sum(g.count() for g in n.graphs) for n in self.nodes)

    def run(self, *inputs: Any) -> Any:
        """Run on arrays with the slow interpreter: the output, or a tuple of them when there are several."""
        from agog.graph.interpret import run

        out = run(self, inputs)
        return out[0] if len(out) == 1 else out

    def grad(self, wrt: Any = None, *, value: bool = False) -> Graph:
        """The graph of the gradients of this graph's one real scalar output; see `agog.graph.grad.grad`."""
        from agog.graph.grad import grad

        return grad(self, wrt, value=value)

    def verify(self) -> Graph:
        """Check the rules of the grammar. Raises GraphError; returns the graph itself."""
        from agog.graph.verify import verify

        return verify(self)

    def optimized(self) -> Graph:
        """The graph after the whole pass pipeline."""
        from agog.graph.passes.pipeline import optimize

        return optimize(self)

    def show(self, path: Any = None) -> str:
        """A drawing as a self-contained HTML page, written to `path` if that is given."""
        from agog.graph.show import show

        return show(self, path)

    def text(self) -> tuple[str, list[Any]]:
        """The text that `agog.graph.parse` reads, and the table of what the text refers to as @0, @1, ..."""
        from agog.graph.text import dump

        return dump(self)

    def __str__(self) -> str:
        return self.text()[0]

    def __repr__(self) -> str:
        return f"<graph {self.name}: {len(self.inputs)} inputs, {self.count()} nodes, {len(self.outputs)} outputs>"

    def __reduce__(self) -> Any:
        from agog.graph.text import parse

        return parse, self.text()

    def _repr_html_(self) -> str:
        return self.show()


_SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64", "complex64": "c64",
          "complex128": "c128", "bool": "bool", **{f"int{b}": f"i{b}" for b in (8, 16, 32, 64)},
          **{f"uint{b}": f"u{b}" for b in (8, 16, 32, 64)}}
LONG = {v: k for k, v in _SHORT.items()}


def short(dtype: np.dtype) -> str:
    """`f32` for float32."""
    return _SHORT.get(dtype.name, dtype.name)


def describe(shape: tuple[int, ...], dtype: np.dtype) -> str:
    """`f32[3, 4]`."""
    return f"{short(dtype)}[{', '.join(map(str, shape))}]"


def freeze(x: Any) -> Any:
    """A hashable key of a static parameter; equal only for parameters that mean exactly the same."""
    if isinstance(x, tuple | list):
        return tuple(freeze(v) for v in x)
    if isinstance(x, slice):
        return "slice", freeze(x.start), freeze(x.stop), freeze(x.step)
    if isinstance(x, dict):
        return "dict", *[(freeze(k), freeze(v)) for k, v in x.items()]
    if isinstance(x, float | complex):
        return type(x), repr(x)
    if isinstance(x, np.ndarray):
        return "array", id(x)
    try:
        hash(x)
    except TypeError:
        return "object", id(x)
    return type(x), x
