"""Attention and its gradients: softmax(scale q kᵀ) v of each head, without ever holding all scores.

Of each head a block of queries is done at a time. The scores of a block stand transposed, keys by queries, so that a
vector holds one key's scores of as many queries, and the softmax over keys needs no sums across lanes. What a causal
mask excludes is left out: a block ends at its last query's key, a vector at the last of its own queries'. The products
are those of `gemm`. Gradients compute the scores again.

All sizes and strides are run-time numbers in a table: one object per dtype and machine serves every shape.
"""

from __future__ import annotations

import functools
import struct
from math import prod
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from agog.compiler import gemm, jit, natives, pool, products
from agog.compiler.gemm_kernels import ACCUMULATE, FIELDS
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.natives import Native
from agog.compiler.targets import ITEMSIZE, Target
from agog.compiler.values import Buffer, resolve

__all__ = ["Layout", "code", "lower", "table"]

_SCORES = 1 << 20  # bytes of a block of scores
_QUERIES = 1 << 19  # bytes of a block of scaled queries
_MOST = 64  # queries in a block
_PARALLEL = 1 << 18  # multiplications from which threads pay
_SUM = 256  # keys whose exponentials are added up before they are added to the rest

#: What a table begins with; then offset and strides (outer, inner, row) of each array, in bytes.
_HEAD = ("tasks", "alone", "inner", "queries", "keys", "size", "values", "causal", "block", "blocks", "scale")


class Layout(NamedTuple):
    """Where the elements of an array (outer, inner, rows, columns) are: offset and strides in elements."""

    offset: int
    outer: int
    inner: int
    row: int


def table(
    dtype: str,
    target: Target,
    shapes: Sequence[tuple[int, ...]],
    layouts: Sequence[Layout],
    causal: bool,
    scale: float,
    gradient: bool,
) -> np.ndarray | None:
    """The table of a call, or None for sizes that it is not made for.

    shapes : of q (outer, inner, L, E), k (outer, inner, S, E) and v (outer, inner, S, V)
    layouts : of y, q, k, v, or of dq, dk, dv, g, q, k, v
    """
    (outer, inner, queries, size), keys, values = shapes[0], shapes[1][2], shapes[2][3]
    bytes_, block = ITEMSIZE[dtype], _MOST
    if not prod(shapes[0]) or not prod(shapes[1]) or not values:
        return None
    while block > target.lanes(dtype) and block * keys * bytes_ > _SCORES:
        block //= 2
    if block * keys * bytes_ > _SCORES or block * size * bytes_ > _QUERIES:
        return None
    blocks = -(-queries // block)
    tasks = outer * inner * (1 if gradient else blocks)
    alone = outer * inner * queries * keys * size < _PARALLEL
    (bits,) = struct.unpack("<q", struct.pack("<d", scale))
    numbers = [tasks, alone, inner, queries, keys, size, values, causal, block, blocks, bits]
    for layout in layouts:
        numbers += [n * bytes_ for n in layout]
    return np.array(numbers, np.int64)


def lower(b: Any, inputs: Sequence[Any], node: Any, gradient: bool) -> list[Any] | None:
    """The rows `_attention` and `_attention_grad` as a step of `b`, a Lowering; None for what there is no code for.

    Operands are read where they are, whatever their strides along the axes in front of the last. Results stand in
    memory like q: when heads lie within rows there, so do they here, and nobody needs to move them.
    """
    causal, scale = node.statics
    dtype = str(node.outputs[0].dtype)
    lead = inputs[0].shape[:-2]
    if any(x.dtype != dtype or x.shape[:-2] != lead for x in inputs):
        return None
    given = [_in_rows(b, x) for x in inputs]
    q = resolve(given[-3])[2]
    within = len(lead) == 2 and q[1] < q[2]
    outs, views = [], []
    for v in node.outputs:
        shape = (lead[0], v.shape[-2], lead[1], v.shape[-1]) if within else v.shape
        outs.append(Buffer(shape, dtype, name=node.op.name))
        views.append(b.view(outs[-1], lambda a: a.transpose(0, 2, 1, 3)) if within else outs[-1])
    shapes = [_four(x.shape) for x in given[-3:]]
    made = table(dtype, b.target, shapes, [_layout(x) for x in (*views, *given)], causal, scale, gradient)
    if made is None:
        return None
    name = "attention_grad" if gradient else "attention"
    work = prod(given[-3].shape) * given[-2].shape[-2] * (10 if gradient else 4)
    numbers, recipe = Buffer(made.shape, "int64", data=made, name=f"{name} table"), ("attention", name, dtype)
    b.call([*given, numbers], outs, Native(f"agog_{name}_{dtype}", made, work, recipe))
    return views


def _in_rows(b: Any, x: Any) -> Any:
    """`x` in memory, its last axis contiguous, and no more than two axes in front of the matrices."""
    x = b.solid(x, True)
    if x.ndim > 4:
        x = b.solid(x)
    strides = resolve(x)[2]
    return b.copy(x) if x.shape[-1] != 1 and strides[-1] != 1 else x


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1,) * (4 - len(shape)), *shape) if len(shape) <= 4 else (1, prod(shape[:-2]), *shape[-2:])


def _layout(x: Any) -> Layout:
    _, offset, strides = resolve(x)
    if x.ndim > 4:
        return Layout(offset, 0, strides[-3], strides[-2])
    steps = [0] * (4 - x.ndim) + list(strides)
    return Layout(offset, *steps[:3])


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """Functions "attention" of (y, q, k, v, table) and "attention_grad" of (dq, dk, dv, g, q, k, v, table)."""
    symbol = gemm.SYMBOL + dtype
    keep: list[jit.Code] = []

    def write() -> Module:
        natives.begin(("products", symbol, dtype), target)
        module = Module(target)
        writer = _Writer(module, dtype, symbol)
        writer.forward()
        writer.backward()
        for name, arrays in (("attention", 4), ("attention_grad", 7)):
            writer.entry(name, arrays)
        return module

    module = jit.Later(f"attention {dtype}", target, write)

    def imports() -> dict[str, int]:
        keep.append(products.code(dtype, target))
        return pool.imports() | {symbol: keep[-1][symbol]}

    return jit.load(module, ["attention", "attention_grad"], imports, keep)


class _Writer:
    def __init__(self, module: Module, dtype: str, product: str) -> None:
        self.module, self.dtype, self.product_symbol = module, dtype, product
        self.size, self.lanes = ITEMSIZE[dtype], module.target.lanes(dtype)
        module.globals["kept"] = "@kept = internal global [1024 x ptr] zeroinitializer"

    # -- the functions

    def entry(self, name: str, arrays: int) -> None:
        """`name(array ..., table)`: all tasks, on the pool when that pays."""
        k = Kernel(self.module, name, [(f"a{i}", "ptr") for i in range(arrays)] + [("table", "ptr")])
        block = k.alloca(8 * (arrays + 1), 64)
        for i, a in enumerate(k.arguments):
            k.store(a, k.at(block, i, "ptr"))
        tasks, alone = (k.load(k.at(k.arguments[-1], i, "int64"), "int64") for i in (0, 1))
        zero, one = k.const(0, "int64"), k.const(1, "int64")
        k.if_(
            k.ne(alone, 0),
            lambda: k.call_known(f"{name}_tasks", None, block, zero, tasks, k.const(0, "int32")),
            lambda: k.call(pool.SYMBOL, None, k.symbol(f"@{name}_tasks"), block, tasks, one),
        )
        k.ret()
        k.finish()

    def forward(self) -> None:
        """Tasks are blocks of queries, each head's one after the other."""

        def task(t: _Task, i: Value) -> None:
            k = t.k
            head = k.op(f"udiv i64 {i.text}, {t.blocks.text}", "int64")
            y, q, keys, v = t.heads(head)
            start, rows, length = t.bounds(i - head * t.blocks)
            t.scores(q, keys, start, rows, length)
            t.softmax(start, rows, length, None)
            out = k.offset(y.base, start * y.row)
            t.product(t.s, self.size, t.line, v.base, v.row, self.size, out, y.row, rows, t.values, length)
            t.divide(out, y.row, rows, t.values, lambda r: k.load(k.at(t.totals, r, self.dtype), self.dtype))

        self._tasks("attention_tasks", 4, task)

    def backward(self) -> None:
        """Tasks are heads. Blocks go from the last to the first, which is the one that touches the fewest keys."""

        def task(t: _Task, head: Value) -> None:
            k, size = t.k, self.size
            dq, dk, dv, g, q, keys, v = t.heads(head)

            def block(number: Value) -> None:
                b = t.blocks - 1 - number
                start, rows, length = t.bounds(b)
                added = k.where(k.eq(number, 0), 0, k.const(ACCUMULATE, "int64"))
                g_rows, dq_rows = k.offset(g.base, start * g.row), k.offset(dq.base, start * dq.row)
                t.scores(q, keys, start, rows, length)
                t.product(v.base, v.row, size, g_rows, size, g.row, t.ds, t.line, length, rows, t.values)
                t.softmax(start, rows, length, t.ds)
                t.product(t.s, t.line, size, g_rows, g.row, size, dv.base, dv.row, length, t.values, rows, added)
                t.product(t.ds, size, t.line, keys.base, keys.row, size, dq_rows, dq.row, rows, t.width, length)
                t.multiply(dq_rows, dq.row, rows, t.width, t.scale)
                scaled = t.width * size
                t.product(t.ds, t.line, size, t.q, scaled, size, dk.base, dk.row, length, t.width, rows, added)
                # As in eager mode, a query that has NaN for scores spoils the keys too that it may not look at.
                whole = lambda r: k.load(k.at(t.totals, r, self.dtype), self.dtype)
                (spoilt,) = k.loop(0, rows, 1, lambda r, sum: [sum + whole(r) * 0.0], [k.const(0.0, self.dtype)])
                k.if_(k.ne(spoilt, spoilt), lambda: beyond(length, lambda r, x: x + spoilt))

            def beyond(first: Value, body: Callable[[Value, Value], Value], read: bool = True) -> None:
                for out, width in ((dk, t.width), (dv, t.values)):
                    t.rows(k.offset(out.base, first * out.row), out.row, t.keys - first, width, body, read=read)

            # Keys that no query may look at get zeros.
            beyond(t.bounds(t.blocks - 1)[2], lambda r, x: x, read=False)
            k.loop(0, t.blocks, 1, block)

        self._tasks("attention_grad_tasks", 7, task)

    def _tasks(self, name: str, arrays: int, task: Callable[[_Task, Value], None]) -> None:
        """`name(block, begin, end, thread)`: what the pool calls."""
        arguments = [("block", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, name, arguments, None, self.lanes, internal=True)
        block, begin, end, thread = k.arguments
        # Memory is kept between calls, a piece per thread number, and taken by an atomic exchange as in `gemm`.
        place = k.at(k.symbol("@kept"), k.cast(thread, "int64") & 1023, "ptr")
        taken = k.op(f"atomicrmw xchg ptr {place.text}, ptr null acquire", "ptr")
        room = k.const(2 * _SCORES + _QUERIES + 4096, "int64")
        (memory,) = k.if_(k.ne_null(taken), lambda: [taken], lambda: [k.allocate(room)])
        t = _Task(self, k, block, arrays, memory, thread)
        k.loop(begin, end, 1, lambda i: task(t, i))
        back = k.op(f"atomicrmw xchg ptr {place.text}, {memory.typed} release", "ptr")
        k.if_(k.ne_null(back), lambda: k.call("free", None, back, external=True))
        k.ret()
        k.finish()


class _Head:
    """One head of an array: the address of its first row, and the stride of rows."""

    def __init__(self, base: Value, row: Value) -> None:
        self.base, self.row = base, row


class _Task:
    """What the tasks of one call are written with."""

    def __init__(self, w: _Writer, k: Kernel, block: Value, arrays: int, memory: Value, thread: Value) -> None:
        self.w, self.k, self.thread = w, k, thread
        self.dtype, self.lanes = w.dtype, w.lanes
        self.arrays: list[Value] = [k.load(k.at(block, i, "ptr"), "ptr") for i in range(arrays)]
        self.table = k.load(k.at(block, arrays, "ptr"), "ptr")
        numbers = {name: k.load(k.at(self.table, i, "int64"), "int64") for i, name in enumerate(_HEAD)}
        self.inner, self.causal, self.block = numbers["inner"], numbers["causal"], numbers["block"]
        self.queries, self.keys, self.blocks = numbers["queries"], numbers["keys"], numbers["blocks"]
        self.width, self.values = numbers["size"], numbers["values"]
        self.scale = k.cast(k.op(f"bitcast i64 {numbers['scale'].text} to double", "float64"), w.dtype)
        address = k.op(f"ptrtoint ptr {memory.text} to i64", "int64")
        start = k.op(f"inttoptr i64 {k.bitwise_and(address + 63, -64).text} to ptr", "ptr")
        self.s, self.ds = start, k.offset(start, _SCORES)
        self.q, self.totals = k.offset(start, 2 * _SCORES), k.offset(start, 2 * _SCORES + _QUERIES)
        self.line = self.block * w.size  # bytes from one key's scores to the next one's
        self.job = k.alloca(8 * len(FIELDS), 64)

    def heads(self, number: Value) -> list[_Head]:
        """That head of every array."""
        k = self.k
        outer = k.op(f"udiv i64 {number.text}, {self.inner.text}", "int64")
        inner = number - outer * self.inner
        out = []
        for i, array in enumerate(self.arrays):
            at = [k.load(k.at(self.table, len(_HEAD) + 4 * i + j, "int64"), "int64") for j in range(4)]
            out.append(_Head(k.offset(array, at[0] + outer * at[1] + inner * at[2]), at[3]))
        return out

    def bounds(self, block: Value) -> tuple[Value, Value, Value]:
        """First query of a block, how many there are, and how many keys they may look at."""
        k = self.k
        start = block * self.block
        left = self.queries - start
        rows = k.where(left < self.block, left, self.block)
        end = start + rows
        seen = k.where(k.ne(self.causal, 0) & (end < self.keys), end, self.keys)
        return start, rows, seen

    def product(
        self, a: Value, a_row: Any, a_k: Any, b: Value, b_k: Any, b_column: Any, c: Value, c_row: Value,
        m: Value, n: Value, depth: Value, flags: Any = 0,
    ) -> None:
        """C = A B (+ C), by the general product."""
        k = self.k
        values = {"a": a, "a_row": a_row, "a_k": a_k, "b": b, "b_k": b_k, "b_column": b_column, "c": c, "c_row": c_row,
                  "m": m, "n": n, "k": depth, "batch": 1, "flags": flags, "bias": c, "by_rows": 1, "per_task": m,
                  "tasks": 1}
        for i, name in enumerate(FIELDS):
            value = values.get(name, 0)
            k.store(value if isinstance(value, Value) else k.const(value, "int64"), k.at(self.job, i, "int64"))
        zero, one = k.const(0, "int64"), k.const(1, "int64")
        k.call(self.w.product_symbol, None, self.job, zero, one, self.thread, external=True)

    def scores(self, q: _Head, keys: _Head, start: Value, rows: Value, length: Value) -> None:
        """The scores of some keys and queries, and the queries times the scale."""
        k, size = self.k, self.w.size
        line = self.width * size
        self.rows(self.q, line, rows, self.width, lambda r, x: x * self.scale, (k.offset(q.base, start * q.row), q.row))
        self.product(keys.base, keys.row, size, self.q, size, line, self.s, self.line, length, rows, self.width)

    def softmax(self, start: Value, rows: Value, length: Value, slopes: Value | None) -> None:
        """Exponentials in place of scores, and their sums.

        With `slopes`, the gradients at the probabilities: probabilities, and the gradients at the scores.
        """
        k, dtype, lanes = self.k, self.dtype, self.lanes
        lowest, zero = k.const(float("-inf"), dtype, lanes), k.const(0.0, dtype, lanes)

        def group(first: Value) -> None:
            # A vector of queries, `first` within the block. Query q may look at the keys up to q; all may look at the
            # first `free` ones, none of them at those from `seen` on.
            numbers = k.splat(start + first) + k.iota("int64")
            masked = k.ne(self.causal, 0)
            free = k.where(masked & (start + first < length), start + first, length)
            seen = k.where(masked & (start + first + lanes < length), start + first + lanes, length)
            at = lambda base, j: k.offset(k.at(base, first, dtype), j * self.line)
            allowed = lambda j: k.splat(j) <= numbers

            def over(body: Callable[..., list[Value]], carry: Sequence[Value]) -> list[Value]:
                """`body(j, mask or None, *carry)` for all keys that count."""
                carry = k.loop(0, free, 1, lambda j, *c: body(j, None, *c), carry)
                return k.loop(free, seen, 1, lambda j, *c: body(j, allowed(j), *c), carry)

            def most(j: Value, mask: Value | None, top: Value) -> list[Value]:
                x = k.load(at(self.s, j), dtype, lanes)
                return [k.max(top, x if mask is None else k.where(mask, x, lowest))]

            (top,) = over(most, [lowest])
            # As in eager mode: with a mask, a query whose scores are all -inf gets zeros.
            top = k.where(k.splat(masked) & k.eq(top, lowest), zero, top)

            def power(j: Value, mask: Value | None, total: Value) -> list[Value]:
                x = k.exp(k.load(at(self.s, j), dtype, lanes) - top)
                x = x if mask is None else k.where(mask, x, zero)
                k.store(x, at(self.s, j))
                return [total + x]

            def run(begin: Value, end: Value, part: Callable[..., Any], sums: Sequence[Value]) -> Sequence[Value]:
                """Sums over keys in runs, so that rounding errors do not grow with their number."""

                def some(j: Value, *sums: Value) -> list[Value]:
                    stop = k.where(j + _SUM < end, j + _SUM, end)
                    found = k.loop(j, stop, 1, part, [zero] * len(sums))
                    return [a + b for a, b in zip(sums, found, strict=True)]

                return k.loop(begin, end, _SUM, some, sums)

            (total,) = run(k.const(0, "int64"), free, lambda j, *c: power(j, None, *c), [zero])
            (total,) = run(free, seen, lambda j, *c: power(j, allowed(j), *c), [total])
            total = k.where(k.splat(masked) & k.eq(total, zero), 1.0, total)
            k.store(total, k.at(self.totals, first, dtype))
            if slopes is not None:
                inverse = 1.0 / total

                def weigh(j: Value, dot: Value) -> list[Value]:
                    p = k.load(at(self.s, j), dtype, lanes) * inverse
                    k.store(p, at(self.s, j))
                    slope = k.load(at(slopes, j), dtype, lanes)
                    return [k.fma(p, slope, dot)]

                (dot,) = run(k.const(0, "int64"), seen, weigh, [zero])

                def slope(j: Value) -> None:
                    p = k.load(at(self.s, j), dtype, lanes)
                    k.store(p * (k.load(at(slopes, j), dtype, lanes) - dot), at(slopes, j))

                k.loop(0, seen, 1, slope)

            rest = total * 0.0  # NaN for a query whose weights are NaN

            def clear(j: Value) -> None:
                k.store(rest, at(self.s, j))
                if slopes is not None:
                    k.store(rest, at(slopes, j))

            k.loop(seen, length, 1, clear)  # the products read these too

        k.loop(0, rows, lanes, group)

    # -- rows of C

    def rows(
        self, out: Value, stride: Value, rows: Value, width: Value, body: Callable[[Value, Value], Value],
        source: tuple[Value, Value] | None = None, read: bool = True,
    ) -> None:
        """Every vector x of `rows` rows becomes body(row, x); x comes from `source` (address, stride) or the row."""
        k, dtype, lanes = self.k, self.dtype, self.lanes
        base, step = source or (out, stride)

        def row(r: Value) -> None:
            def vector(j: Value) -> None:
                left = width - j
                there, here = k.at(k.offset(base, r * step), j, dtype), k.at(k.offset(out, r * stride), j, dtype)
                zero = k.const(0.0, dtype, lanes)

                def whole() -> None:
                    k.store(body(r, k.load(there, dtype, lanes) if read else zero), here)

                def part() -> None:
                    partial = k.partial(left)
                    partial.store(body(r, partial.load(there, dtype) if read else zero), here)

                k.if_(left >= lanes, whole, part)

            k.loop(0, width, lanes, vector)

        k.loop(0, rows, 1, row)

    def multiply(self, out: Value, stride: Value, rows: Value, width: Value, factor: Value) -> None:
        """Rows times a number."""
        self.rows(out, stride, rows, width, lambda r, x: x * factor)

    def divide(self, out: Value, stride: Value, rows: Value, width: Value, by: Callable[[Value], Value]) -> None:
        """Each row over a number of its own."""
        self.rows(out, stride, rows, width, lambda r, x: x / self.k.splat(by(r)))

