"""A compiled graph: `compile(graph)` gives a Program, and `program(inputs)` what the graph computes.

    p = compile(graph)
    outputs = p([a, b])          # a list of new arrays, from NumPy arrays of the graph's shapes and dtypes
    outputs = p.call(a, b)       # the same with fewer steps of Python
    print(p.explain()); print(p.code("loops")); p.code("llvm"); p.code("asm")

Everything native is one call, or a few with calls of Python between them for rows that have no loops (islands).
`GuardFailed` is raised with nothing written anywhere and no effect delivered.
"""

import functools
import threading
from sys import getrefcount
from time import perf_counter

import numpy as np

from agog.array import large
from agog.compiler import entry, jit, pool, targets
from agog.compiler.values import Buffer, count, resolve
from agog.errors import ArgumentError, GuardFailed
from agog.graph import forms
from agog.graph.ir import Graph

__all__ = ["Program", "compile", "failure"]

REUSED = 1 << 18  # bytes from which results are made in memory that was used before
TRIM = 1 << 22  # bytes of arena from which unused memory is given back before it is filled
_KEPT = 2  # arrays kept for each result
_BESIDE = 8  # inputs beside which a large result is placed


def compile(graph, target=None, threads=True, profile=False):
    """A Program that computes `graph`.

    target   a `targets.Target`; this machine by default
    threads  whether large loops may be shared out to the pool
    profile  count the cycles of each step: `program.profile()`
    """
    program = Program(graph, target or targets.host(), threads, profile)
    if any(s.arena >= TRIM for s in program._segments):
        jit.trim()  # what recording and compiling left
    return program


def _unused(arrays, alone):
    """An array that nobody but the list holds: any user or view would be one reference more than `alone`."""
    for x in arrays:
        if getrefcount(x) == alone:
            return x
    return None


def _references():
    """What `_unused` counts for such an array, which depends on the Python; 0 (never) where there is no GIL."""
    if not large.COUNTED:
        return 0
    arrays = [np.empty(1)]
    return next((n for n in range(1, 9) if _unused(arrays, n) is not None), 0)


_ALONE = _references()


_TURNED = 1 << 14  # elements from which NumPy takes long to copy an array whose axes lie in another order


def _plain(x, dtype):
    """The array as native code reads it: NumPy's own class, contiguous, with the one object that stands for its dtype.

    One of another dtype keeps it, which native code notices.
    """
    if type(x) is np.ndarray and x.flags.c_contiguous and x.dtype is dtype:
        return x
    x = np.asarray(x)
    if x.size >= _TURNED and not x.flags.c_contiguous:
        from agog.compiler import turning  # (what compiles is not loaded before it is wanted)

        x = turning.whole(x)
    x = np.ascontiguousarray(x).reshape(x.shape)  # (which makes an axis for a number)
    return x.view(dtype) if x.dtype == dtype else x


class Reused:
    """Makes large arrays, and uses one's memory again when nobody else holds it: fresh memory costs page faults.

    They begin where loops like it (see `large.placed`); NumPy's own begin somewhere.
    """

    __slots__ = ("_arrays", "_bytes", "_dtype", "_shape", "_starts")

    def __init__(self, shape, dtype):
        self._shape, self._dtype, self._arrays, self._starts = shape, dtype, [], {}
        self._bytes = dtype.itemsize * count(shape) + large.SLACK

    def __call__(self, *read):
        arrays = self._arrays
        x = _unused(arrays, _ALONE)
        if x is not None:
            return np.ndarray(self._shape, self._dtype, x, self._starts[id(x)])
        x = np.empty(self._bytes, np.uint8)
        start = large.placed(x, read)
        if len(arrays) < _KEPT:
            self._starts[id(x)] = start
            arrays.append(x)
        return np.ndarray(self._shape, self._dtype, x, start)


class Program:
    """A compiled graph; see the module's docstring.

    `failed` of a GuardFailed (an attribute `position`) is the number of the graph's node that did not hold.
    """

    def __init__(self, graph: Graph, target, threads=True, profile=False):
        from agog.compiler.lowering import Lowering  # (what compiles is not loaded for what is found on disk)
        from agog.compiler.schedule import schedule

        self._profile = profile
        self.graph, self.target = graph, target
        start = perf_counter()
        lowering = Lowering(target)
        inputs, outputs = lowering.graph(graph)
        units, needed, links = schedule(outputs, lowering.steps)
        self._build(lowering, inputs, outputs, units, needed, links, threads)
        self.seconds = perf_counter() - start

    # ------------------------------------------------------------------------------------------------ building
    def _build(self, lowering, inputs, outputs, units, needed, links, threads):
        from agog.compiler.lowering import Island
        from agog.compiler.order import touched_by
        from agog.compiler.segment import Segment

        runs, run = [], []
        for u in units:
            if isinstance(u, Island):
                if run:
                    runs.append(run)
                runs.append(u)
                run = []
            else:
                run.append(u)
        if run:
            runs.append(run)
        at = {u: i for i, r in enumerate(runs) for u in (r if isinstance(r, list) else [r])}
        touched = {}  # root -> the runs that read or write it
        for u in units:
            for root in touched_by(u, needed, links):
                touched.setdefault(root, set()).add(at[u])
        out_roots = [resolve(v)[0] for v in outputs]
        slots, self._made = {}, []  # every array of a call has a slot: inputs, results, what passes between runs
        for v in inputs:
            slots[v] = len(slots)
        shapes = {resolve(v)[0]: v.shape for v in outputs}
        for root in dict.fromkeys(
            [*out_roots, *[r for r in touched if len(touched[r]) > 1 or not isinstance(runs[min(touched[r])], list)]]
        ):
            if root not in slots and not (isinstance(root, Buffer) and root.data is not None):
                slots[root] = len(slots)
                if not (isinstance(root, Buffer) and isinstance(root.step, Island)):
                    self._made.append((slots[root], shapes.get(root, root.shape), np.dtype(root.dtype)))
        self._makers = {
            slot: Reused(shape, dtype) for slot, shape, dtype in self._made if dtype.itemsize * count(shape) >= REUSED
        }
        self._count = len(slots)
        self._inputs, self._outputs = [slots[v] for v in inputs], [slots[r] for r in out_roots]
        self._specs = [(v.shape, np.dtype(v.dtype)) for v in inputs]
        self._runs, self._segments = [], []
        for r in runs:
            if isinstance(r, list):
                segment = Segment(self.target, lowering.functions, needed, links, threads, self._profile)
                roots = dict.fromkeys(root for u in r for root in touched_by(u, needed, links))
                arrays = [root for root in slots if root in roots]
                constants = [root for root in roots if isinstance(root, Buffer) and root.data is not None]
                segment.build(r, arrays, constants)
                self._segments.append(segment)
                made = {slot for slot, _, _ in self._made}
                forms = [None if slots[a] in made else (a.shape, np.dtype(a.dtype)) for a in arrays]
                self._runs.append(("native", segment.load(forms), [slots[a] for a in arrays], None))
            else:
                self._runs.append(
                    (
                        "island",
                        self._caller(r),
                        [self._argument(v, slots) for v in r.inputs],
                        [slots.get(v) for v in r.outputs],
                    )
                )
        self._shared_out = any(s.shared_out for s in self._segments)
        self._islands = [r for r in runs if isinstance(r, Island)]

    @staticmethod
    def _argument(v, slots):
        """(slot, constant, shape) of an island's input."""
        if v is None:
            return None, None, None
        root = resolve(v)[0]
        return (slots.get(root), getattr(root, "data", None), v.shape)

    def _caller(self, island):
        """`call(values, effects) -> arrays` for an island."""
        node = island.node
        if node is None:
            return lambda values, effects: (np.array(values[0]),)
        if node.is_row:
            raw, statics = node.op.raw, node.statics
            specs = [v.spec for v in node.outputs]

            def call(values, effects):
                out = raw(*values, *statics)
                out = [np.asarray(o) for o in (out if isinstance(out, tuple) else (out,))]
                for o, (shape, dtype) in zip(out, specs, strict=True):
                    if o.shape != shape or o.dtype != dtype:
                        raise failure(
                            island.position, f"{node.op.name} gave {o.dtype}{list(o.shape)}, not {dtype}{list(shape)}"
                        )
                given = [v for v in values if v is not None]
                return [
                    np.array(o) if not o.flags.c_contiguous or any(np.may_share_memory(o, v) for v in given) else o
                    for o in out
                ]

            return call
        return _FORMS[node.op](self, node, island.position)

    def _inner(self, graph):
        return Program(graph, self.target)

    def plan(self):
        """All that makes up a program of one native call, as plain data; None for any other. See `kept`."""
        if not self._is_one_call() or self._profile:
            return None
        (segment,), (_, _, order, _) = self._segments, self._runs[0]
        forms = [None if form is None else (form[0], form[1].name) for form in segment.forms]
        same: dict[str, str] = {}  # (what is one object is written once)
        return {
            "specs": [(shape, dtype.name) for shape, dtype in self._specs],
            "made": [(slot, shape, dtype.name) for slot, shape, dtype in self._made],
            "inputs": self._inputs,
            "outputs": self._outputs,
            "count": self._count,
            "order": order,
            "forms": forms,
            "arena": segment.arena,
            "work": segment.work,
            "constants": [(c.data.dtype.name, c.data.shape, c.data.tobytes()) for c in segment.constants],
            "recipes": segment.recipes,
            "pool": self._shared_out,
            "externals": sorted(segment.module.externals),
            "object": jit.object_name(str(segment.module), self.target),
            "where": [same.setdefault(text, text) for text in map(_what, self.graph.nodes)],
        }

    # ------------------------------------------------------------------------------------------------ calling
    def _is_one_call(self):
        """Whether everything is native, and all of it one call."""
        return len(self._runs) == 1 and self._runs[0][0] == "native"

    def written(self, names, misfit):
        """The body of one native call as lines of Python, what they refer to, and the variables of the results.

        None when there is more than one native call. names: of the variables that hold the inputs; misfit: lines that
        are to run when an input is not as it was compiled for: they set `outs`, a list of results, or leave.
        """
        if not self._is_one_call():
            return None
        native, order = self._runs[0][1], self._runs[0][2]
        names = dict(zip(self._inputs, names))
        env = {"native": native, "empty": np.empty, "fail": self._fail}
        lines = []
        if self._shared_out:
            env["refresh"] = pool.refresh
            lines.append("refresh()")
        for i, (slot, shape, dtype) in enumerate(self._made):
            names[slot] = f"o{i}"
            if (made := self._makers.get(slot)) is not None:
                env[f"make{i}"] = made
                lines.append(f"o{i} = make{i}({', '.join(names[s] for s in self._beside(shape, dtype))})")
                continue
            env[f"shape{i}"], env[f"dtype{i}"] = shape, dtype
            lines.append(f"o{i} = empty(shape{i}, dtype{i})")
        outs = [names[s] for s in self._outputs]
        lines += [
            f"failed = native({', '.join(names[s] for s in order)})",
            "if failed is not None:",
            f"    if failed != {entry.MISFIT}: fail(failed)",
            *["    " + line for line in misfit],
            f"    [{', '.join(outs)}] = outs",
        ]
        return lines, env, outs

    def _beside(self, shape, dtype):
        """The slots of inputs that a result of that form is likely to be read with: those like it, and large ones."""
        alike = [slot for slot, spec in zip(self._inputs, self._specs) if spec == (shape, dtype)][:_BESIDE]
        others = [slot for slot in self._by_size if slot not in alike]
        return [*alike, *others[: _BESIDE - len(alike)]]

    @functools.cached_property
    def _by_size(self):
        """The slots of the largest inputs."""
        inputs = sorted(zip(self._inputs, self._specs), key=lambda i: -i[1][1].itemsize * count(i[1][0]))
        return [slot for slot, _ in inputs[: 2 * _BESIDE]]

    @functools.cached_property
    def _fast(self):
        """The Python function of one native call, written out for this number of arrays; None when there is more.

        (A recording writes out a call of its own, and does without.)
        """
        arguments = [f"a{i}" for i in range(len(self._inputs))]
        parts = self.written(arguments, [f"return again([{', '.join(arguments)}])"])
        if parts is None:
            return None
        lines, env, outs = parts
        env["again"] = self._again
        body = "\n".join("    " + line for line in [*lines, f"return [{', '.join(outs)}]"])
        exec(f"def call({', '.join(arguments)}):\n{body}\n", env)
        return env["call"]

    def __call__(self, inputs):
        if self._fast is not None:
            return self._fast(*inputs)
        return self._slow(inputs)

    @property
    def call(self):
        """The program with its inputs as positional arguments."""
        return self._fast or (lambda *inputs: self._slow(inputs))

    def _again(self, inputs):
        """The call with inputs that are not as native code reads them made so; any other mistake is said."""
        fixed = []
        for i, (x, (shape, dtype)) in enumerate(zip(inputs, self._specs, strict=True)):
            x = np.asarray(x)
            if x.shape != shape or x.dtype != dtype:
                raise ArgumentError(
                    f"input {i} is {x.dtype}{list(x.shape)}, the program was compiled for {dtype}{list(shape)}"
                )
            fixed.append(_plain(x, dtype))
        return self._slow(fixed)

    def unread(self):
        """The numbers of the inputs that the native code does not look at, not even at their form."""
        read = {slot for _, _, arguments, _ in self._runs for slot in arguments}
        return [i for i, slot in enumerate(self._inputs) if slot not in read]

    def converted(self, inputs):
        """The results for inputs of the right shapes and dtypes that native code cannot read; None for other inputs."""
        for x, (shape, dtype) in zip(inputs, self._specs, strict=True):
            if type(x) is not np.ndarray or x.shape != shape or x.dtype != dtype:
                return None
        return self._again(inputs)

    def _slow(self, inputs):
        if len(inputs) != len(self._specs):
            raise ArgumentError(f"the program takes {len(self._specs)} arrays, {len(inputs)} were given")
        env = [None] * self._count
        for slot, x, (_, dtype) in zip(self._inputs, inputs, self._specs):
            env[slot] = _plain(x, dtype)
        for slot, shape, dtype in self._made:
            if (made := self._makers.get(slot)) is not None:
                env[slot] = made(*[env[s] for s in self._beside(shape, dtype)])
            else:
                env[slot] = np.empty(shape, dtype)
        if self._shared_out:
            pool.refresh()
        effects = []
        for kind, call, arguments, results in self._runs:
            if kind == "native":
                failed = call(*[env[s] for s in arguments])
                if failed == entry.MISFIT:
                    raise ArgumentError("an array is not of the shape and dtype that the program was compiled for")
                if failed is not None:
                    self._fail(failed)
            else:
                values = [
                    None if shape is None else (data if slot is None else env[slot]).reshape(shape)
                    for slot, data, shape in arguments
                ]
                with np.errstate(all="ignore"):
                    out = call(values, effects)
                for slot, x in zip(results, out):
                    if slot is not None:
                        env[slot] = _plain(x, np.dtype(x.dtype.name))
        self._deliver(effects)
        return [env[s] for s in self._outputs]

    def _deliver(self, effects):
        if getattr(_nested, "effects", None) is not None:
            _nested.effects.extend(effects)
            return
        for deliver, values in effects:
            deliver(*values)

    def _fail(self, position):
        raise failure(position, _what(self.graph.nodes[position]))

    # ------------------------------------------------------------------------------------------------ looking in
    def explain(self):
        """What was compiled: native calls, loops, memory, and what is run by Python and why."""
        from agog.compiler.nests import NestCode
        from agog.compiler.schedule import Group

        lines = [
            f"program of '{self.graph.name}': {len(self._segments)} native calls, {len(self._islands)} islands, "
            f"compiled in {self.seconds * 1e3:.1f} ms for {self.target.name}"
        ]
        for i, s in enumerate(self._segments):
            lines.append(
                f"native {i}: {len(s.notes)} steps, {len(s.names)} functions, arena {s.arena} bytes "
                f"(without reuse {s.unshared}), about {s.work:.2g} instructions"
                + (", releases the GIL" if s.work >= entry.RELEASE else "")
            )
            for name, u, code, parallel in s.notes:
                what = repr(u) if isinstance(u, Group) else type(u).__name__.lower()
                if isinstance(code, NestCode):
                    what += f", {code.passes or 1} passes, vectors of {code.lanes} x {code.unroll}"
                lines.append(f"  {name}: {what}{', shared out' if parallel else ''}")
        for island in self._islands:
            name = "copy" if island.node is None else island.node.op.name
            lines.append(f"island: {name}: {island.why}")
        return "\n".join(lines)

    def profile(self):
        """Where native steps spent their time so far, the dearest first. The program was compiled with profile=True."""
        from agog.compiler.schedule import Group

        rows = {}
        for s in self._segments:
            for (name, u, code, parallel), n in zip(s.notes, s.cycles()):
                what = (
                    repr(u)
                    if isinstance(u, Group)
                    else f"{type(u).__name__.lower()} {[v.shape for v in u.inputs if v is not None]}"
                )
                row = rows.setdefault((name, what, parallel), [0, 0, code])
                row[0] += n
                row[1] += 1
        total = sum(r[0] for r in rows.values()) or 1
        return "\n".join(
            f"{100 * n / total:5.1f} %  {times:3d} x {name}: {what}{', shared out' if parallel else ''}"
            + (f", lanes {code.lanes} x {code.unroll}, axis {code.vector}, passes {code.passes}" if code else "")
            for (name, what, parallel), (n, times, code) in sorted(rows.items(), key=lambda i: -i[1][0])
        )

    def code(self, form="loops"):
        """The text of the native parts: "loops", "llvm" or "asm"."""
        if form == "loops":
            return "\n\n".join(t for s in self._segments for t in s.texts)
        if form == "llvm":
            return "\n\n".join(str(s.module) for s in self._segments)
        if form == "asm":
            return "\n\n".join(jit.assembly(s.module) for s in self._segments)
        raise ArgumentError(f"code({form!r}): give 'loops', 'llvm' or 'asm'")

    @property
    def islands(self):
        """(name, why) of everything that Python runs."""
        return [("copy" if i.node is None else i.node.op.name, i.why) for i in self._islands]

    def __repr__(self):
        return f"<program '{self.graph.name}': {len(self._segments)} native calls, {len(self._islands)} islands>"


def failure(position, text):
    """The error of a node that did not hold."""
    error = GuardFailed(text)
    error.position = position
    return error


def _what(node):
    return f"{node.op.name} did not hold" + (f" at {node.where}" if node.where else "")


# ------------------------------------------------------------------------------------------------------ forms
_nested = threading.local()


def _run_inner(program, values, effects):
    """Run an inner program; its effects join those of the outer one."""
    before = getattr(_nested, "effects", None)
    _nested.effects = effects
    try:
        return program(values)
    finally:
        _nested.effects = before


def _located(fn, position):
    """`fn` with a guard that fails inside reported at the position of the form."""

    def call(values, effects):
        try:
            return fn(values, effects)
        except GuardFailed as error:
            error.position = position
            raise

    return call


def _cond(outer, node, position):
    branches = [outer._inner(g) for g in node.graphs]
    return _located(lambda values, effects: _run_inner(branches[0 if values[0] else 1], values[1:], effects), position)


def _while(outer, node, position):
    (carried,) = node.statics
    test, body = (outer._inner(g) for g in node.graphs)

    def call(values, effects):
        state, rest = list(values[:carried]), list(values[carried:])
        while _run_inner(test, state + rest, effects)[0]:
            state = list(_run_inner(body, state + rest, effects))
        return [np.array(s) for s in state]

    return _located(call, position)


def _scan(outer, node, position):
    carried, scanned, length, reverse = node.statics
    body = outer._inner(node.graphs[0])
    specs = [v.spec for v in node.outputs[carried:]]

    def call(values, effects):
        state, seqs, rest = (
            list(values[:carried]),
            values[carried : carried + scanned],
            list(values[carried + scanned :]),
        )
        stacks = [np.empty(shape, dtype) for shape, dtype in specs]
        for i in reversed(range(length)) if reverse else range(length):
            out = _run_inner(body, [*state, *[s[i] if s.ndim > 1 else np.array(s[i]) for s in seqs], *rest], effects)
            state = list(out[:carried])
            for stack, y in zip(stacks, out[carried:]):
                stack[i] = y
        return [*[np.array(s) for s in state], *stacks]

    return _located(call, position)


def _effect(outer, node, position):
    deliver = node.statics[0]

    def call(values, effects):
        effects.append((deliver, tuple(np.array(v) for v in values)))
        return ()

    return call


def _guard(outer, node, position):
    expected, why = node.statics

    def call(values, effects):
        if not forms.same_scalar(values[0], expected):
            raise failure(position, why or "guard")
        return ()

    return call


_FORMS = {forms.COND: _cond, forms.WHILE: _while, forms.SCAN: _scan, forms.EFFECT: _effect, forms.GUARD: _guard}
