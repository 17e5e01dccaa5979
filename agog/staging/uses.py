"""Where a function's source uses a parameter: only as an operand of operations, or otherwise too.

A number or a NumPy array that Python code looks at in any way (a comparison, an index, a call of `math.sin`) has to be
the same for a recording to hold. One that only ever meets Tensors may differ from call to call. That is decided here
from the source, which must be at hand and compile to the very code that runs: every occurrence of the name has to lie
in arithmetic of plain numbers whose result is an operand or an argument. Whether a Tensor stood on the other side each
time is found out while recording (`staging.feeds`).
"""

from __future__ import annotations

import ast
import functools
import linecache
import types
from typing import Any

_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_REFLECTIVE = frozenset({"locals", "eval", "exec", "vars", "dir"})
_FORM = frozenset({"shape", "dtype", "ndim", "size", "nbytes"})
"""Attributes of an array that follow from what the key says of it."""

Where = tuple[int, int, int, int]


class Site:
    """An instruction at which an expression of parameters is an operand, or an argument of a call."""

    __slots__ = ("where", "call", "text", "names", "compute")

    def __init__(self, node: Any, operand: ast.expr):
        self.where: Where = _where(node)
        self.call = isinstance(node, ast.Call)
        self.text = ast.unparse(operand)
        self.names = tuple(sorted({n.id for n in ast.walk(operand) if isinstance(n, ast.Name)}))
        self.compute = self._function(self.names, {})

    def _function(self, names: tuple[str, ...], constants: dict[str, Any]) -> Any:
        return eval(f"lambda {', '.join(names)}: {self.text}", constants)

    def value(self, values: dict[str, Any]) -> Any:
        """The operand for these values of parameters."""
        return self.compute(*[values[n] for n in self.names])

    def among(self, constants: dict[str, Any]) -> tuple[tuple[str, ...], Any]:
        """The parameters that are not constants, and the operand as a function of those alone."""
        names = tuple(n for n in self.names if n not in constants)
        return names, self._function(names, {n: constants[n] for n in self.names if n in constants})


def _where(node: Any) -> Where:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


@functools.lru_cache(maxsize=64)
def _parsed(filename: str, source: str) -> tuple[ast.Module, types.CodeType] | None:
    try:
        module = ast.parse(source, filename)
        return module, compile(source, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None


def _inside(code: types.CodeType) -> list[types.CodeType]:
    """The code and that of everything defined in it."""
    return [code, *[c for const in code.co_consts if isinstance(const, types.CodeType) for c in _inside(const)]]


def _same(a: types.CodeType, b: types.CodeType) -> bool:
    return (
        a.co_code == b.co_code
        and a.co_names == b.co_names
        and list(a.co_positions()) == list(b.co_positions())
        and len(a.co_consts) == len(b.co_consts)
        and all(
            _same(x, y) if isinstance(x, types.CodeType) and isinstance(y, types.CodeType) else repr(x) == repr(y)
            for x, y in zip(a.co_consts, b.co_consts)
        )
    )


def _definition(code: types.CodeType) -> Any:
    """The node that defines a function, if its source is at hand and is what was compiled; else None."""
    found = _parsed(code.co_filename, "".join(linecache.getlines(code.co_filename)))
    if found is None:
        return None
    module, compiled = found
    if not any(
        c.co_name == code.co_name and c.co_firstlineno == code.co_firstlineno and _same(c, code)
        for c in _inside(compiled)
    ):
        return None
    spans: list[Any] = [p for p in code.co_positions() if None not in p and p[2] != p[3]]
    nodes: list[Any] = [
        n
        for n in ast.walk(module)
        if isinstance(n, ast.FunctionDef | ast.Lambda)
        and getattr(n, "name", "<lambda>") == code.co_name
        and min([n.lineno, *[d.lineno for d in getattr(n, "decorator_list", ())]]) == code.co_firstlineno
        and all(
            (n.lineno, n.col_offset) <= (p[0], p[2]) and (p[1], p[3]) <= (n.end_lineno, n.end_col_offset) for p in spans
        )
    ]
    if not nodes:
        return None
    return min(nodes, key=lambda n: (n.end_lineno - n.lineno, n.end_col_offset - n.col_offset))


def _is_number(node: Any, names: frozenset[str]) -> bool:
    """Whether an expression is arithmetic of plain numbers and of the parameters."""
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub | ast.UAdd) and _is_number(node.operand, names)
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, _ARITHMETIC)
        and _is_number(node.left, names)
        and _is_number(node.right, names)
    )


def _operand(name: ast.Name, parents: dict[Any, Any], names: frozenset[str]) -> tuple[Any, ast.expr] | None:
    """The operation or call to which the number goes that the name stands for, and its operand; None for other uses."""
    node: Any = name
    while True:
        parent = parents[node]
        if isinstance(parent, ast.UnaryOp) and _is_number(parent, names):
            node = parent
        elif isinstance(parent, ast.BinOp) and _is_number(parent, names):
            node = parent
        else:
            break
    at = parent
    if isinstance(parent, ast.keyword):
        at = parents[parent]
        fits = isinstance(at, ast.Call) and parent.arg is not None
    elif isinstance(parent, ast.Call):
        fits = any(node is a for a in parent.args)
    elif isinstance(parent, ast.Compare):
        fits = len(parent.ops) == 1 and isinstance(parent.ops[0], _COMPARISONS)
    elif isinstance(parent, ast.AugAssign):
        fits = node is parent.value and isinstance(parent.op, _ARITHMETIC)
    else:
        fits = isinstance(parent, ast.BinOp) and isinstance(parent.op, (*_ARITHMETIC, ast.MatMult))
    return (at, node) if fits else None


def _hidden(node: Any, name: str) -> bool:
    """Whether a node may bind or read the name in a way that is no plain occurrence."""
    if isinstance(node, ast.Name):
        return node.id in _REFLECTIVE or node.id == name and not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Attribute | ast.keyword | ast.Constant):
        return False
    if isinstance(node, ast.ClassDef):
        return True
    values = [v for _, v in ast.iter_fields(node)]
    return name in values or any(isinstance(v, list) and name in v for v in values)


def uses(
    code: types.CodeType, names: frozenset[str], arrays: frozenset[str], constants: frozenset[str] = frozenset()
) -> dict[str, list[Site] | int]:
    """For each of some parameters of a function, the sites that use it; or the line of the first other use, if any.

    names      parameters that hold numbers
    arrays     parameters that hold NumPy arrays: their shape and dtype may be read as well
    constants  parameters with numbers that are used in any way; the others may be computed with them

    The line is 0 where the source is not at hand.
    """
    out: dict[str, list[Site] | int] = dict.fromkeys(names | arrays, 0)
    node = _definition(code)
    if node is None:
        return out
    body = node.body if isinstance(node.body, list) else [node.body]
    inside = [n for statement in body for n in ast.walk(statement)]
    parents = {child: n for n in inside for child in ast.iter_child_nodes(n)}
    parents.update((statement, node) for statement in body)
    numbers = names | {c for c in constants if not any(_hidden(n, c) for n in inside)}
    known: dict[Any, Site] = {}  # (two names, or one twice, may be in one operand)
    for name in out:
        sites: list[Site] = []
        others: list[int] = []
        for n in inside:
            if _hidden(n, name):
                others.append(getattr(n, "lineno", node.lineno))
            elif isinstance(n, ast.Name) and n.id == name and not (name in arrays and _reads_form(parents[n], n)):
                found = _operand(n, parents, numbers if name in names else frozenset())
                if found is None:
                    others.append(n.lineno)
                    continue
                if found not in known:
                    known[found] = Site(*found)
                sites.append(known[found])
        out[name] = min(others) if others else sites
    return out


def _reads_form(parent: Any, name: ast.Name) -> bool:
    if isinstance(parent, ast.Attribute):
        return parent.attr in _FORM and isinstance(parent.ctx, ast.Load)
    return (
        isinstance(parent, ast.Call)
        and isinstance(parent.func, ast.Name)
        and parent.func.id == "len"
        and len(parent.args) == 1
        and parent.args[0] is name
    )
