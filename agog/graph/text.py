"""Graphs as text, and back.

    graph step
      input %0: f32[32, 784] argument "x"
      input %1: f32[784, 10] captured "w"
      const %2: f32[] = 0.5
      %3: f32[32, 10] = matmul(%0, %1)   # train.py:12 logits = x @ w
      %4: f32[32, 10] = multiply(%3, %2)
      return %4 result ""

Inner graphs follow their node, indented further. What has no literal (a large array, a callback) stands in a table,
and the text refers to it as `@0`, `@1`, ... The text of a parsed text is the same text.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from agog.array import dtypes
from agog.errors import GraphError
from agog.graph.ir import FORMS, LONG, Constant, Graph, Input, Node, Role, Value, Where, describe, short
from agog.ops.row import TABLE

_INLINE = 8  # elements up to which a constant is written out
_PLAIN = (type(None), bool, int, str)
_NOT_WORD = re.compile(r"\W")


# ------------------------------------------------------------------------------------------------------- printing
def dump(graph: Graph) -> tuple[str, list[Any]]:
    """The text of `graph`, and the table of what it refers to."""
    table = _Table()
    lines: list[str] = []
    _graph(graph, "", lines, table)
    return "\n".join(lines) + "\n", table.entries


class _Table:
    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.places: dict[int, int] = {}

    def reference(self, x: Any) -> str:
        if id(x) not in self.places:
            self.places[id(x)] = len(self.entries)
            self.entries.append(x)
        return f"@{self.places[id(x)]}"


def literal(x: Any, table: _Table) -> str:
    """A static parameter."""
    kind = type(x)
    if kind in _PLAIN:
        return repr(x)
    if kind is float:
        return repr(x)
    if kind is complex:
        return f"complex({x.real!r}, {x.imag!r})"
    if kind is tuple:
        return "(" + ", ".join(literal(v, table) for v in x) + ("," if len(x) == 1 else "") + ")"
    if kind is list:
        return "[" + ", ".join(literal(v, table) for v in x) + "]"
    if kind is dict:
        return "{" + ", ".join(f"{literal(k, table)}: {literal(v, table)}" for k, v in x.items()) + "}"
    if kind is slice:
        return f"slice({', '.join(literal(v, table) for v in (x.start, x.stop, x.step))})"
    if x is Ellipsis:
        return "..."
    if isinstance(x, np.dtype) and x.name in LONG.values():
        return short(x)
    return table.reference(x)


def _data(x: np.ndarray, table: _Table) -> str:
    if x.size <= _INLINE and x.dtype.name in LONG.values():
        text = _nested(x)
        if _array(_Parser(text, []).literal(), x.dtype, x.shape).tobytes() == x.tobytes():
            return text
    return table.reference(x)


def _nested(x: np.ndarray) -> str:
    if x.ndim:
        return "[" + ", ".join(_nested(np.asarray(v)) for v in x) + "]"
    if x.dtype.kind == "c":
        return f"complex({x.real.item()!r}, {x.imag.item()!r})"
    if x.dtype == np.float32:
        return str(x[()])  # the shortest text that gives the same float32
    return repr(x.item())


def _array(value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(value, dtype).reshape(shape)


def _graph(graph: Graph, indent: str, lines: list[str], table: _Table) -> None:
    names: dict[Value, str] = {}

    def name(v: Value) -> str:
        if v not in names:
            names[v] = f"%{len(names)}" + (f".{_NOT_WORD.sub('_', v.name)}" if v.name else "")
        return names[v]

    lines.append(f"{indent}graph {_NOT_WORD.sub('_', graph.name) or 'graph'}")
    indent += "  "
    for v in graph.inputs:
        lines.append(f"{indent}input {name(v)}: {describe(*v.spec)} {v.role.kind} {_quoted(v.role.path)}")
    for c in graph.constants:
        lines.append(f"{indent}const {name(c)}: {describe(*c.spec)} = {_data(c.data, table)}")
    for node in graph.nodes:
        args = ["None" if v is None else name(v) for v in node.inputs]
        args += [f"{k}={literal(s, table)}" for k, s in zip(node.op.static_names, node.statics)]
        outs = ", ".join(f"{name(v)}: {describe(*v.spec)}" for v in node.outputs)
        where = "" if node.where is None else f"   # {node.where}"
        lines.append(f"{indent}{outs}{' = ' if outs else ''}{node.op.name}({', '.join(args)}){where}")
        for inner in node.graphs:
            _graph(inner, indent + "  ", lines, table)
    results = [f"{name(v)} {r.kind} {_quoted(r.path)}" for v, r in zip(graph.outputs, graph.roles)]
    lines.append(f"{indent}return {', '.join(results)}".rstrip())


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -------------------------------------------------------------------------------------------------------- parsing
_TOKEN = re.compile(r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<value>%\d+(?:\.\w+)?)
  | (?P<ref>@\d+)
  | (?P<dots>\.\.\.)
  | (?P<number>-?(?:inf|nan)\b|-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<comment>\#.*)
  | (?P<mark>[()\[\]{},:=])
)""", re.VERBOSE)
_WORDS = {"None": None, "True": True, "False": False}
_WHERE = re.compile(r"#\s*(.*?):(\d+)(?: (.*))?$")


class _Parser:
    """Reads one line."""

    def __init__(self, text: str, table: list[Any], line: int = 0):
        self.text, self.table, self.line = text, table, line
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.error(f"cannot read {text[at:at + 20]!r}")
            self.tokens.append((str(found.lastgroup), found.group(str(found.lastgroup))))
            at = found.end()
        self.at = 0

    def error(self, what: str) -> GraphError:
        return GraphError(f"the text is no graph: line {self.line + 1}: {what}: {self.text.strip()}")

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def next(self, want: str = "") -> str:
        kind, text = self.peek()
        if want and want not in (kind, text):
            raise self.error(f"expected {want!r}, found {text!r}")
        self.at += 1
        return text

    def have(self, text: str) -> bool:
        if self.peek() == ("mark", text):
            self.at += 1
            return True
        return False

    def several(self, end: str, item: Any) -> list[Any]:
        out = []
        while not self.have(end):
            out.append(item())
            if not self.have(","):
                self.next(end)
                break
        return out

    def string(self) -> str:
        text = self.next("string")
        if text[0] == '"' and "\\" not in text:
            return text[1:-1]
        import ast

        return ast.literal_eval(text)

    def literal(self) -> Any:
        kind, text = self.peek()
        if kind == "string":
            return self.string()
        self.at += 1
        if kind == "number":
            return float(text) if any(c in text for c in ".einf") and not text.lstrip("-").isdigit() else int(text)
        if kind == "ref":
            try:
                return self.table[int(text[1:])]
            except IndexError:
                raise self.error(f"the table has no entry {text}") from None
        if kind == "dots":
            return Ellipsis
        if text == "(":
            items: list[Any] = []
            while not self.have(")"):
                items.append(self.literal())
                if not self.have(","):
                    self.next(")")
                    break
            return tuple(items)
        if text == "[":
            return self.several("]", self.literal)
        if text == "{":
            return dict(self.several("}", self._pair))
        if kind == "name":
            if text in _WORDS:
                return _WORDS[text]
            if text in LONG:
                return dtypes.dtype(LONG[text])
            if text in ("slice", "complex"):
                self.next("(")
                return (slice if text == "slice" else complex)(*self.several(")", self.literal))
        raise self.error(f"{text!r} is no literal")

    def _pair(self) -> tuple[Any, Any]:
        key = self.literal()
        self.next(":")
        return key, self.literal()

    def spec(self) -> tuple[tuple[int, ...], np.dtype]:
        name = self.next("name")
        if name not in LONG:
            raise self.error(f"{name!r} is no dtype")
        self.next("[")
        return tuple(self.several("]", lambda: int(self.next("number")))), dtypes.dtype(LONG[name])

    def typed(self) -> tuple[str, tuple[int, ...], np.dtype]:
        token = self.next("value")
        self.next(":")
        return (token, *self.spec())


def parse(text: str, table: Any = ()) -> Graph:
    """The graph that `text` describes; `table` holds what it refers to as @0, @1, ... Raises GraphError."""
    lines = text.splitlines()
    graph, end = _read_graph(lines, 0, list(table))
    if any(rest.strip() for rest in lines[end:]):
        raise GraphError(f"the text is no graph: something follows it: {lines[end]}")
    return graph


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _name(token: str) -> str:
    return token.partition(".")[2]


def _read_graph(lines: list[str], at: int, table: list[Any]) -> tuple[Graph, int]:
    while at < len(lines) and not lines[at].strip():
        at += 1
    if at >= len(lines):
        raise GraphError("the text is no graph: it ends where a graph should begin")
    head = _Parser(lines[at], table, at)
    depth = _indent(lines[at])
    if head.next() != "graph":
        raise head.error("a graph begins with 'graph name'")
    title, at = head.next(), at + 1
    env: dict[str, Value] = {}
    inputs: list[Input] = []
    nodes: list[Node] = []

    def define(token: str, value: Value) -> Value:
        if token in env:
            raise p.error(f"{token} is made a second time")
        env[token] = value
        return value

    def known(token: str) -> Value:
        if token not in env:
            raise p.error(f"{token} is not made before")
        return env[token]

    while at < len(lines):
        p = _Parser(lines[at], table, at)
        if p.peek()[0] == "end":
            at += 1
            continue
        if _indent(lines[at]) <= depth:
            break
        kind, word = p.peek()
        if word == "return" and kind == "name":
            p.next()
            outputs, roles = [], []
            while p.peek()[0] == "value":
                outputs.append(known(p.next()))
                roles.append(Role(p.next("name"), p.string()))
                if not p.have(","):
                    break
            return Graph(title, inputs, nodes, outputs, roles), at + 1
        if word == "input":
            p.next()
            token, shape, dtype = p.typed()
            value = Input(shape, dtype, Role(p.next("name"), p.string()), _name(token))
            inputs.append(value)
            define(token, value)
            at += 1
        elif word == "const":
            p.next()
            token, shape, dtype = p.typed()
            p.next("=")
            data = p.literal()
            if not isinstance(data, np.ndarray):
                data = _array(data, dtype, shape)
            constant = Constant(data, _name(token))
            if constant.spec != (shape, dtype):
                raise p.error(f"the constant is {describe(*constant.spec)}")
            define(token, constant)
            at += 1
        else:
            at = _read_node(p, lines, at, table, nodes, define, known)
    raise GraphError(f"the text is no graph: the graph '{title}' has no return")


def _read_node(p: _Parser, lines: list[str], at: int, table: list[Any], nodes: list[Node], define: Any,
               known: Any) -> int:
    made = []
    while p.peek()[0] == "value":
        made.append(p.typed())
        if not p.have(","):
            p.next("=")
            break
    name = p.next("name")
    op = TABLE.get(name) or FORMS.get(name)
    if op is None:
        raise p.error(f"there is no operation {name!r}")
    p.next("(")
    inputs: list[Value | None] = []
    statics: dict[str, Any] = {}

    def argument() -> None:
        kind, text = p.peek()
        if kind == "value":
            inputs.append(known(p.next()))
        elif text == "None" and kind == "name":
            p.next()
            inputs.append(None)
        else:
            key = p.next("name")
            p.next("=")
            statics[key] = p.literal()

    p.several(")", argument)
    if tuple(statics) != tuple(op.static_names):
        raise p.error(f"{name} has the static parameters {', '.join(op.static_names) or 'none'}")
    where = None
    if p.peek()[0] == "comment":
        found = _WHERE.match(p.next())
        if found:
            where = Where(found[1], int(found[2]), found[3] or "")
    depth, at = _indent(lines[at]), at + 1
    graphs = []
    while at < len(lines) and lines[at].strip() and _indent(lines[at]) > depth:
        inner, at = _read_graph(lines, at, table)
        graphs.append(inner)
    node = Node(op, inputs, statics.values(), [Value(s, d, _name(t)) for t, s, d in made], graphs, where)
    for (token, _, _), value in zip(made, node.outputs):
        define(token, value)
    nodes.append(node)
    return at
