"""Programs kept on disk: a graph that was compiled before is neither rewritten nor scheduled again.

What is kept is the plan of a program that is one native call: its arrays, its memory, and the name of its object. Its
name is a digest of the graph as it was recorded, the machine, the number of threads, and agog's source. Whatever cannot
be written down as plain data (an effect, a row of the user) makes the graph one that is compiled each time.
"""

import functools
import hashlib
import marshal
import types
from time import perf_counter

import numpy as np

from agog import config
from agog.compiler import disk, entry, jit, narrow, natives, pool
from agog.compiler.program import REUSED, TRIM, Program, Reused, failure
from agog.compiler.values import count
from agog.ops.row import TABLE

__all__ = ["load", "name_of", "save"]

_VERSION = 2


# ------------------------------------------------------------------------------------------------------ names
class _Unknown(Exception):
    """Something that no text stands for."""


def name_of(graph, target):
    """The name of a graph's program on disk, or None where it has none."""
    text = _Text()
    try:
        body = text.graph(graph)
    except _Unknown:
        return None
    said = _VERSION, config.num_threads, narrow.how(target), body, *map(list, (text.rows, text.forms, text.lines))
    # (The second format of `marshal` has no references, which follow from who else holds an object.)
    return jit.recipe_name(hashlib.sha256(marshal.dumps(said, 2)).hexdigest(), target)


class _Text:
    """Writes graphs as plain data, in which the rows, forms of values and lines that repeat are numbers."""

    def __init__(self):
        self.rows, self.forms, self.lines = {}, {}, {}
        self._row_of, self._form_of, self._statics_of = {}, {}, {}

    def graph(self, graph):
        numbers, constants, nodes = {}, [], []

        def number(v):
            if v is None:
                return -1
            if v not in numbers:  # neither an input nor made by a node before: a constant
                numbers[v] = len(numbers)
                constants.append((numbers[v], _plain(v.data)))
            return numbers[v]

        for v in graph.inputs:
            numbers[v] = len(numbers)
        row_of, form_of, lines = self._row_of, self._form_of, self.lines
        for node in graph.nodes:
            op, statics, where = node.op, node.statics, node.where
            inputs = tuple([numbers[v] if v in numbers else number(v) for v in node.inputs])
            row = row_of.get(op)
            if row is None:
                row = row_of[op] = self._row(node)
            forms = []
            for v in node.outputs:
                numbers[v] = len(numbers)
                form = form_of.get((v.shape, v.dtype))
                forms.append(self._form(v) if form is None else form)
            line = -1 if where is None else lines.setdefault(where[:2], len(lines))
            inner = [self.graph(g) for g in node.graphs] if node.graphs else 0
            nodes.append((row, inputs, self._statics(statics) if statics else (), tuple(forms), inner, line))
        outputs = [number(v) for v in graph.outputs]
        roles = [tuple(v.role) for v in graph.inputs], [tuple(r) for r in graph.roles]
        return [self._form(v) for v in graph.inputs], roles, nodes, outputs, constants

    def _row(self, node):
        row = _row(node.op) if node.is_row else node.op.name
        return self.rows.setdefault((node.op.name, row), len(self.rows))

    def _form(self, v):
        form = tuple(map(int, v.shape)), _dtype(v.dtype)
        made = self._form_of[v.shape, v.dtype] = self.forms.setdefault(form, len(self.forms))
        return made

    def _statics(self, statics):
        made = self._statics_of.get(id(statics))  # (the graph keeps them; equal ones may differ, as 1 and True do)
        if made is None:
            made = self._statics_of[id(statics)] = _plain(statics)
        return made


@functools.lru_cache(maxsize=4096)
def _row(op):
    """What says all of a row of agog's own."""
    parts = (op.impl, op.lower, op.decompose, op.nest, op.view, op.infer, op.dynamic, op.check, op.raw)
    for part in parts:
        if isinstance(part, types.FunctionType) and part.__module__.partition(".")[0] not in ("agog", "numpy"):
            raise _Unknown
        if isinstance(part, np.ufunc) and getattr(np, part.__name__, None) is not part:
            raise _Unknown
    if TABLE.get(op.name) is not op:
        raise _Unknown
    return op.signature, op.impl if isinstance(op.impl, str) else ""


@functools.cache
def _dtype(dtype):
    if dtype.hasobject or dtype.fields is not None or not dtype.isnative:
        raise _Unknown
    return dtype.name


_LITERAL = frozenset({int, bool, str, bytes, float, complex, type(None), type(...)})


def _plain(x):
    """A static parameter as plain data that says all of it."""
    kind = type(x)
    if kind in _LITERAL:
        return x
    if kind is tuple or kind is list:
        return kind.__name__, [_plain(v) for v in x]
    if kind is slice:
        return "slice", _plain((x.start, x.stop, x.step))
    if kind is range:
        return "range", x.start, x.stop, x.step
    if isinstance(x, np.dtype):
        return "dtype", _dtype(x)
    if isinstance(x, np.generic) and not x.dtype.hasobject:
        return "scalar", _dtype(x.dtype), x.tobytes()
    if kind is np.ndarray:
        data = x.tobytes()
        return "array", _dtype(x.dtype), x.shape, hashlib.sha256(data).digest() if len(data) > 32 else data
    raise _Unknown


# ------------------------------------------------------------------------------------------------------ on disk
def save(name, program):
    """Keep a program that is one native call."""
    if (plan := program.plan()) is not None:
        disk.write(name, marshal.dumps(plan))


def load(name, target, remake):
    """The program of that name, or None. `remake()` compiles it, for those who look inside."""
    plan = jit.stored(name)
    if plan is None:
        return None
    data = disk.read(plan["object"])
    if data is None:
        return None
    try:
        program = Kept(plan, data, target, remake)
    except RuntimeError:  # an object that does not link: an LLVM that differs
        return None
    if plan["arena"] >= TRIM:
        jit.trim()  # what recording left
    return program


class Kept(Program):
    """A Program from its plan. What it says about itself is what compiling it says."""

    def __init__(self, plan, data, target, remake):
        start = perf_counter()
        self.target, self._remake, self._where = target, remake, plan["where"]
        self._inputs, self._outputs, self._count = plan["inputs"], plan["outputs"], plan["count"]
        self._specs = [(shape, np.dtype(dtype)) for shape, dtype in plan["specs"]]
        self._made = [(slot, shape, np.dtype(dtype)) for slot, shape, dtype in plan["made"]]
        self._makers = {s: Reused(shape, d) for s, shape, d in self._made if d.itemsize * count(shape) >= REUSED}
        imports, keep = natives.functions(plan["recipes"], target)
        self._shared_out = plan["pool"]
        if self._shared_out:
            imports |= pool.imports()
        code = jit.link(data, plan["externals"], (plan["object"], target), ["run"], imports, keep)
        forms = [form and (form[0], np.dtype(form[1])) for form in plan["forms"]]
        constants = [np.frombuffer(b, np.dtype(dtype)).reshape(shape) for dtype, shape, b in plan["constants"]]
        native = entry.bind(code, target, forms, plan["arena"], constants, plan["work"])
        self._runs, self._islands = [("native", native, plan["order"], None)], []
        self.seconds = perf_counter() - start

    @functools.cached_property
    def _whole(self):
        return self._remake()

    @property
    def graph(self):
        """The graph after the passes."""
        return self._whole.graph

    def explain(self):
        return self._whole.explain() + f"\nfound on disk in {self.seconds * 1e3:.1f} ms"

    def profile(self):
        return self._whole.profile()

    def code(self, form="loops"):
        return self._whole.code(form)

    def _fail(self, position):
        raise failure(position, self._where[position])

    def __repr__(self):
        return repr(self._whole)
