"""From a graph to values that loops compute (`values`), by what its rows say about themselves.

A row is lowered by the first of these that it has:

    lower      a function of scalars (elementwise rows)
    view       the result is a view of the input
    nest       `nest(b, inputs, node)`: written with the methods of `Lowering` (reduce, gather, assemble, matmul, ...)
    decompose  `decompose(xp, *inputs, *statics)`: the same in other rows

A row that has none of them, or whose dtypes kernels do not have, is an island: Python calls its computation.
"""

import numpy as np

from agog.array import dtypes
from agog.compiler import attention, narrow
from agog.compiler.natives import native
from agog.compiler.nestplan import cost_of
from agog.compiler.patterns import clipped, decomposed, half_of, name_of, sums_of_products
from agog.compiler.philox import philox
from agog.compiler.targets import HALVES, ITEMSIZE
from agog.compiler.values import (
    Assembled,
    Buffer,
    Const,
    Coord,
    Gather,
    Part,
    Point,
    Reduce,
    Val,
    View,
    contiguous,
    mapped,
    merged,
    resolve,
    seen_as,
    whole,
)
from agog.errors import AgogError
from agog.graph import forms
from agog.graph.ir import Constant, Node, Value

_FLOAT32 = np.dtype("float32")

__all__ = ["Guard", "Island", "Lowering", "Matmul"]


class Step:
    """Something that is not a loop nest of values: it reads buffers and makes buffers."""

    def __init__(self, inputs, position):
        self.inputs, self.position, self.outputs = tuple(inputs), position, ()


class Island(Step):
    """A call of Python: `call(*arrays) -> arrays`. `why` says why it is not native."""

    def __init__(self, node, inputs, position, why):
        super().__init__(inputs, position)
        self.node, self.why = node, why


class Guard(Step):
    """`inputs[0]`, a scalar, must be `expected`."""

    def __init__(self, x, expected, position):
        super().__init__((x,), position)
        self.expected = expected


class Matmul(Step):
    """(..., m, k) @ (..., k, n); the operands may be any views."""


class Call(Step):
    """Native code that is there already: `function(outputs ..., inputs ...)`, all of them addresses (null for None)."""

    def __init__(self, inputs, native, position):
        super().__init__(inputs, position)
        self.native = native


class ScatterAdd(Step):
    """Zeros to which `inputs[0]` is added at places: (x index values ..., see Gather.where)."""

    def __init__(self, inputs, where, position):
        super().__init__(inputs, position)
        self.where = where


class Unsupported(Exception):
    """A row cannot be lowered for these inputs: the reason."""


class Lowering:
    """Lowers one graph. Its methods are what `nest` rules of rows are written with."""

    def __init__(self, target):
        self.target = target
        self.functions = {}
        self.steps = []  # what is not a loop, in order
        self.position, self.fixed_position = 0, None
        self.guards, self.casts = [], {}

    # ------------------------------------------------------------------------------------------------ the graph
    def graph(self, graph):
        """Lower all nodes; returns (inputs, outputs) as Vals."""
        graph, positions = decomposed(graph)
        self.env, self.sums, self.clips, self.clipped = {}, sums_of_products(graph), clipped(graph), set()
        inputs = []
        for i, v in enumerate(graph.inputs):
            b = Buffer(v.shape, name_of(v.dtype), name=v.role.path or v.name or f"input{i}")
            self.env[v] = b
            inputs.append(b)
        for node, position in zip(graph.nodes, positions):
            self.position = position if self.fixed_position is None else self.fixed_position
            self._node(node)
        outputs, seen = [], set()
        for v in graph.outputs:
            x = self._own(self.read(v))
            root = resolve(x)[0]
            if id(root) in seen:
                root = x = self.copy(x) if x.dtype in ITEMSIZE else self._foreign_copy(x)
            seen.add(id(root))
            outputs.append(x)
        return inputs, outputs

    def _own(self, x):
        """`x` as something that fills an array of its own."""
        root = resolve(x)[0]
        if x.dtype not in ITEMSIZE:
            return self._foreign_copy(x) if isinstance(root, Buffer) and root.step is None else x
        if isinstance(root, Const | Coord) or isinstance(root, Buffer) and root.step is None or not whole(x):
            return self.copy(x)
        if isinstance(x, View) and isinstance(root, Buffer) and isinstance(root.step, Island):
            return self.copy(x)
        return x

    def _foreign_copy(self, x):
        step = Island(None, (x,), self.position, f"kernels have no {x.dtype}")
        step.outputs = (Buffer(x.shape, x.dtype, step, name="copy"),)
        self.steps.append(step)
        return step.outputs[0]

    def solid(self, x, strided=False):
        """`x` as something in memory: a value that is stored, or (strided) any view of one."""
        if x is None or x.dtype not in ITEMSIZE:
            return x
        if isinstance(resolve(x)[0], Const | Coord) or not strided and not whole(x):
            return self.copy(x)
        return x

    def read(self, v):
        """The Val of a graph value."""
        if v is None:
            return None
        if type(v) is Constant and v not in self.env:
            if v.data.ndim == 0 and name_of(v.dtype) in ITEMSIZE:
                self.env[v] = Const(v.data.item(), name_of(v.dtype))
            else:
                self.env[v] = Buffer(v.shape, name_of(v.dtype), data=np.ascontiguousarray(v.data).reshape(v.shape))
        return self.env[v]

    def _node(self, node):
        inputs = [self.read(v) for v in node.inputs]
        if node.op is forms.GUARD:
            if inputs[0].dtype in ITEMSIZE:
                self.steps.append(Guard(self.solid(inputs[0]), node.statics[0], self.position))
                return
            self._island(node, inputs, "its dtype")
            return
        try:
            if not node.is_row:
                from agog.compiler.control import lower

                made = lower(self, node, inputs)
            else:
                made = self._row(node, inputs)
        except Unsupported as reason:
            made = self._island(node, inputs, str(reason))
        for v, x in zip(node.outputs, made):
            assert x.shape == v.shape and x.dtype == name_of(v.dtype), (node, x, v)
            self.env[v] = x

    def _island(self, node, inputs, why):
        step = Island(node, [self.solid(v) for v in inputs], self.position, why)
        step.outputs = tuple(Buffer(v.shape, name_of(v.dtype), step, name=node.op.name) for v in node.outputs)
        self.steps.append(step)
        return step.outputs

    def _row(self, node, inputs):
        op = node.op
        for v in (*inputs, *node.outputs):
            if v is not None and name_of(v.dtype) not in ITEMSIZE:
                raise Unsupported(f"kernels have no {v.dtype}")
        if node in self.sums:
            return [self._long_product(node, *self.sums[node])]
        if node in self.clipped:
            return inputs
        if op.lower is not None and op.elementwise:
            return [self._elementwise(node, inputs)]
        if op.view is not None and len(node.outputs) == 1:
            return [self.view(inputs[0], lambda x: op.view(np, x, *node.statics))]
        if op.nest is not None:
            half = half_of(node)
            if half and "dtype" not in op.statics:
                return self._widened(node, inputs, half)
            made = op.nest(self, inputs, node)
            if made is None and op.kind == "creation" and not inputs:
                made = self._created(node)
            if made is None:
                raise Unsupported(f"{op.name} has no loops for these inputs")
            return list(made) if isinstance(made, tuple | list) else [made]
        if op.kind in ("creation", "random") and not inputs:
            return self._created(node)
        raise Unsupported(f"{op.name} has no loops yet")

    def _widened(self, node, inputs, half):
        """The row of a 16-bit float, computed in float32 and rounded at the end."""
        half = name_of(half)
        wide = [Value(v.shape, _FLOAT32 if v.dtype == half else v.dtype) for v in node.outputs]
        made = self._row(
            Node(node.op, [v if v is None else Value(v.shape, np.dtype(v.dtype)) for v in inputs], node.statics, wide),
            [self.cast(v, "float32") if v is not None and v.dtype == half else v for v in inputs],
        )
        return [self.cast(x, name_of(v.dtype)) for x, v in zip(made, node.outputs)]

    def _created(self, node):
        """An array that is known beforehand."""
        with np.errstate(all="ignore"):
            made = node.op.raw(*node.statics)
        return [
            Buffer(v.shape, name_of(v.dtype), data=np.ascontiguousarray(x).reshape(v.shape), name=node.op.name)
            for v, x in zip(node.outputs, made if isinstance(made, tuple) else (made,))
        ]

    def _long_product(self, node, products, rest):
        """x1 @ y1 + x2 @ y2 + ... + rest as [x1 x2 ...] @ [y1; y2; ...] + rest."""
        out = node.outputs[0]
        dtype, (m, n) = name_of(out.dtype), out.shape
        rows, columns, start = [], [], 0
        depth = sum(p.inputs[0].shape[1] for p in products)
        for p in products:
            x, y = (self.read(v) for v in p.inputs)
            stop = start + x.shape[1]
            rows.append((self.view(x, lambda a: a.T), lambda a, i=start, j=stop: a[i:j]))
            columns.append((y, lambda a, i=start, j=stop: a[i:j]))
            start = stop
        x = self.view(self.assemble((depth, m), dtype, rows), lambda a: a.T)
        total = self.matmul(x, self.assemble((depth, n), dtype, columns), (m, n), dtype)
        for v in rest:
            total = self.point(node.op.name, node.op.lower, (total, self.read(v)), (m, n), dtype)
        return total

    def _elementwise(self, node, inputs):
        op, out = node.op, node.outputs[0]
        given = [v for v in inputs if v is not None]
        names = op.inputs * len(inputs) if op.variadic else op.inputs
        common = None
        for name, v in zip(names, inputs):
            if v is not None and name in op.promotes:
                d = np.dtype(v.dtype)
                common = d if common is None else dtypes.promote(common, d)
        if common is not None and op.to_float and common.kind in "biu":
            common = dtypes.default_float()
        args = [
            v if v is None or name not in op.promotes else self.cast(v, name_of(common))
            for name, v in zip(names, inputs)
        ]
        if not given:
            raise Unsupported(f"{op.name} has no inputs")
        return self.point(op.name, op.lower, args, out.shape, name_of(out.dtype))

    # ------------------------------------------------------------------------------------------------ the language
    def const(self, value, dtype, shape=()):
        """A number, in every place of `shape`."""
        return Const(value, dtype, shape)

    def point(self, name, fn, args, shape=None, dtype=None):
        """`fn(k, *scalars)` at every point. `name` says what `fn` is: equal names are equal functions.

        16-bit floats are float32 to it, and its result is rounded to them.
        """
        if shape is None:
            shape = np.broadcast_shapes(*[a.shape for a in args if a is not None])
        dtype = dtype or next(a.dtype for a in args if a is not None)
        args = [self.cast(a, "float32") if a is not None and a.dtype in HALVES else a for a in args]
        if dtype in HALVES:
            return self.cast(self.point(name, fn, args, shape, "float32"), dtype)
        kinds = tuple(None if a is None else a.dtype for a in args)
        try:
            cost_of(self.target, name, fn, kinds)
        except AgogError as error:
            raise Unsupported(f"{name} of {', '.join(map(str, kinds))}: {error}") from None
        except (AttributeError, TypeError, KeyError) as error:
            raise Unsupported(f"{name}: {error}") from None
        self.functions[name] = fn
        return Point(name, args, shape, dtype)

    def cast(self, x, dtype):
        """`x` in another dtype."""
        if x.dtype == dtype:
            return x
        if isinstance(x, Const):
            with np.errstate(all="ignore"):
                return Const(np.array(x.value, x.dtype).astype(dtype).item(), dtype, x.shape)
        key = id(x), dtype
        if key not in self.casts:  # one value, so that what is read by many is converted once
            self.casts[key] = x, Point("cast", (x,), x.shape, dtype)
        return self.casts[key][1]

    def view(self, x, fn):
        """A view: `fn(array)` of a NumPy array of x's shape, which may only move elements about without a copy."""
        made = seen_as(x, fn)
        if made is None:
            x = self.copy(x)
            made = seen_as(x, fn)
        if made is None:
            raise Unsupported("it is not a view")
        ((offset, strides, shape),) = made
        return self.strided(x, offset, strides, shape)

    def strided(self, x, offset, strides, shape):
        """The view of x's root with these strides, in elements."""
        root = x.root if isinstance(x, View) else x
        if isinstance(root, Const):
            return Const(root.value, root.dtype, shape)
        if isinstance(root, Coord) and mapped(View(root, offset, strides, shape)) is None:
            root = self.copy(root)
        if offset == 0 and tuple(shape) == root.shape and tuple(strides) == contiguous(shape):
            return root
        return View(root, offset, strides, shape)

    def copy(self, x):
        """The same values as a loop value of its own."""
        return Point("copy", (x,), x.shape, x.dtype)

    def broadcast(self, x, shape):
        """`x` stretched to `shape`."""
        return x if x.shape == tuple(shape) else self.view(x, lambda a: np.broadcast_to(a, shape))

    def reshape(self, x, shape):
        """`x` in another shape, row by row."""
        return x if x.shape == tuple(shape) else self.view(x, lambda a: a.reshape(shape))

    def reduce(self, kind, x, axes, keepdims=False, dtype=None):
        """sum, prod, max, min, any or all over `axes` (None: all)."""
        over = (
            tuple(range(x.ndim))
            if axes is None
            else tuple(a % x.ndim for a in (axes if isinstance(axes, tuple | list) else (axes,)))
        )
        x = self.cast(x, dtype or x.dtype)
        if x.dtype in HALVES:
            return self.cast(self.reduce(kind, self.cast(x, "float32"), axes, keepdims), x.dtype)
        shape = tuple(n for a, n in enumerate(x.shape) if a not in over)
        kept = tuple(1 if a in over else n for a, n in enumerate(x.shape))
        if all(x.shape[a] == 1 for a in over):
            return self.reshape(x, kept if keepdims else shape)
        y = Reduce(kind, x, over, shape, x.dtype)
        return self.reshape(y, kept) if keepdims else y

    def coordinate(self, shape, axis, dtype="int64"):
        """The index along `axis`."""
        return Coord(shape, axis % len(shape), dtype)

    def gather(self, x, where, shape):
        """Elements of `x`: axis a is walked by axis where[a] (an int) of the result, or named by where[a] (a Val)."""
        if isinstance(x, View | Const | Coord):
            x = self.copy(x)
        if 0 in x.shape and 0 not in shape:
            raise Unsupported("nothing to gather from")
        where = [self.broadcast(w, shape) if isinstance(w, Val) else w for w in where]
        return Gather(x, where, shape, self.position)

    def assemble(self, shape, dtype, parts, fill=None):
        """A buffer made of parts (value, fn): `fn(array)` is the view that the value fills. `fill` comes first."""
        out = Assembled(shape, dtype)
        parts = list(parts)
        if fill is not None:
            whole = fill if isinstance(fill, Val) else Const(fill, dtype, shape)
            parts.insert(0, (self.broadcast(whole, shape), lambda a: a))
        for value, fn in parts:
            ((offset, strides, place),) = seen_as(Buffer(shape, dtype), fn)
            value = self.broadcast(value, place)
            if value.size == 0:
                continue
            # only `fill` overlaps what comes later
            after = [out.parts[0]] if fill is not None and out.parts else []
            out.parts.append(Part(value, out, offset, strides, after))
        return out

    def matmul(self, x, y, shape, dtype):
        """x @ y for (..., m, k) and (..., k, n) of one float dtype, leading axes broadcast to those of `shape`."""
        made = self._narrow_product(x, y, shape) if dtype == "float32" else None
        if made is not None:
            return made
        step = Matmul((self.solid(x, True), self.solid(y, True)), self.position)
        step.outputs = (Buffer(shape, dtype, step, name="matmul"),)
        self.steps.append(step)
        return step.outputs[0]

    def _narrow_product(self, x, y, shape):
        """x @ y in float32 where both are bfloat16 made wider and the machine multiplies those, or None."""
        (*lead, m, n), k = shape, x.shape[-1]
        operands = [self._narrow(v) for v in (x, y)] if narrow.how(self.target) else [None]
        if None in operands:
            return None
        strides = []
        for v in operands:
            found = [0 if size == 1 else s for size, s in zip(v.shape, resolve(v)[2])]
            strides.append([0] * (len(shape) - v.ndim) + found)
        lead, walks = merged(lead, [*[s[:-2] for s in strides], contiguous(shape)[:-2]])
        if len(lead) > 1:
            return None
        a, b = ((resolve(v)[1], w[0] if w else 0, *s[-2:]) for v, w, s in zip(operands, walks, strides))
        made = narrow.plan(self.target, (lead[0] if lead else 1, m, k, n), a, b, walks[2][0] if lead else 0)
        if made is None:
            return None
        scratch = Buffer((made.scratch,), "uint8", name="tiles")
        table = Buffer(made.table.shape, "int64", data=made.table, name="product table")
        step = Call([*operands, scratch, table], made, self.position)
        step.outputs = (Buffer(shape, "float32", step, name="matmul"),)
        self.steps.append(step)
        return step.outputs[0]

    def _narrow(self, v):
        """The bfloat16 value in memory of which `v` is a float32 copy, or None."""
        root = resolve(v)[0]
        if type(root) is not Point or root.name != "cast" or root.args[0].dtype != "bfloat16":
            return None
        source = root.args[0]
        if not isinstance(v, View):
            return self.solid(source, True)
        _, offset, strides = resolve(v)
        if isinstance(source, View) or isinstance(source, Const | Coord):
            source = self.copy(source)
        return self.strided(source, offset, strides, v.shape)

    def require(self, condition):
        """Every element of a bool value must be true, or the run does not count (as with a guard)."""
        if condition.size:
            self.steps.append(Guard(self.solid(self.reduce("all", condition, None)), True, self.position))

    def native(self, name, inputs, node):
        """The row by the native code that `natives` has under that name, or None."""
        out = node.outputs[0]
        dtype = name_of(out.dtype)
        if any(v is not None and v.dtype != dtype for v in inputs):
            return None
        if dtype in HALVES:
            wide = Node(node.op, node.inputs, node.statics, [Value(out.shape, _FLOAT32)])
            made = self.native(name, [None if v is None else self.cast(v, "float32") for v in inputs], wide)
            return None if made is None else self.cast(made, dtype)
        clip = self.clips.get(node)
        shapes = [None if v is None else v.shape for v in inputs]
        made = native(name, self.target, dtype, shapes, node.statics, clip is not None)
        if made is None:
            return None
        if clip is not None:
            self.clipped.add(clip)
        table = Buffer(made.table.shape, "int64", data=made.table, name=f"{name} table")
        inputs = [*map(self.solid, inputs), *[None] * (3 - len(inputs)), table]
        return self.call(inputs, [Buffer(out.shape, dtype, name=name)], made)[0]

    def scan(self, kind, x, axis):
        """A running sum, product, ... of x along an axis, or None: see `scans`."""
        from agog.compiler import scans  # not for who finds a program on disk

        if not scans.takes(kind, x.dtype):
            return None
        if x.ndim and x.shape[axis] == 1 and not kind.startswith("arg"):
            return self.cast(x, scans.out_dtype(kind, x.dtype))
        made = scans.plan(kind, x.dtype, x.shape, axis)
        table = Buffer(made.table.shape, "int64", data=made.table, name=f"{kind} table")
        out = Buffer(x.shape, scans.out_dtype(kind, x.dtype), name=kind)
        return self.call([self.solid(x), None, None, table], [out], made)[0]

    def call(self, inputs, outputs, made):
        """A call of a Native that fills the Buffers `outputs`."""
        step = Call(inputs, made, self.position)
        for b in outputs:
            b.step = step
        step.outputs = tuple(outputs)
        self.steps.append(step)
        return step.outputs

    def attention(self, inputs, node, gradient=False):
        """The row `_attention` or `_attention_grad`, or None."""
        return attention.lower(self, inputs, node, gradient)

    def random_words(self, key, count, dtype, purpose, data=None):
        """The first `count` unsigned integers of `dtype` of the random stream of `key` (see `agog.ops.random`).

        `data`, an int64 of shape (), numbers the stream; 0 without.
        """
        blocks = -(-count * ITEMSIZE[dtype] // 32)
        made = philox(self.target, blocks, purpose, 0)
        table = Buffer(made.table.shape, "int64", data=made.table, name="philox table")
        step = Call([self.solid(key), self.solid(data), None, table], made, self.position)
        step.outputs = (Buffer((blocks * 32 // ITEMSIZE[dtype],), dtype, step, name="philox"),)
        self.steps.append(step)
        return self.view(step.outputs[0], lambda a: a[:count])

    def scatter_add(self, g, where, shape):
        """Zeros of `shape` to which the elements of `g` are added; `where` as in `gather`, of the result's axes."""
        where = [self.broadcast(w, g.shape) if isinstance(w, Val) else w for w in where]
        where = [self.solid(w, True) if isinstance(w, Val) else w for w in where]
        step = ScatterAdd((self.solid(g, True), *[w for w in where if isinstance(w, Val)]), where, self.position)
        step.outputs = (Buffer(shape, g.dtype, step, name="scatter_add"),)
        self.steps.append(step)
        return step.outputs[0]
