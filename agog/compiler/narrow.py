"""Products of bfloat16 matrices on processors that multiply those, with float32 sums.

    C (m, n) float32 = A (m, k) bfloat16 @ B (k, n) bfloat16, any of them in a batch

Both operands are packed into tiles of 16 rows of 64 bytes first, padded with zeros: A by rows of 32 steps of k, B by
pairs of steps (as the instructions want them), two tiles side by side for each 32 steps. Whichever axis of one is
contiguous is read with vectors; what does not fit is transposed by shuffles. Then 2 x 2 tiles of C at a time are
computed for all of k: by Intel's AMX (`amx`), or by the dot products of AVX-512 BF16 (`dots`).

The instructions take subnormal numbers for zero, and round no otherwise than float32 sums do.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from dataclasses import replace
from typing import Any, Callable, NamedTuple

import numpy as np

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.packing import transpose
from agog.compiler.targets import AVX512, Target

__all__ = ["PANEL", "ROWS", "TILE", "Product", "how", "plan"]

TILE, ROWS, _STEPS = 1024, 16, 32  # bytes, rows, and steps of k (or pairs of them) of a tile
PANEL = 2 * ROWS  # rows of A, or columns of B, that are computed together
_CHUNK, _NEAR = 8, 1 << 19  # panels of B in a task at most, and bytes of them, which the second cache is to keep
_PARALLEL = 1 << 21  # multiplications below which one thread does all
_LEAST = 1 << 18  # multiplications from which packing pays

#: Words of a table: sizes in bytes for the check, then sizes, strides in bytes, and how the work is divided.
HEAD = (
    "out_size a_size b_size scratch_size m n k a_offset a_row a_k a_batch b_offset b_column b_k b_batch c_batch "
    "a_panels b_panels blocks chunk chunks batch alone"
).split()


class Product(NamedTuple):
    """A function to call with (out, a, b, scratch, table), as `natives.Native` has them; and bytes of scratch."""

    symbol: str
    table: np.ndarray
    work: int
    scratch: int
    recipe: tuple[str, ...]


@functools.cache
def how(target: Target) -> str | None:
    """The module of this package with what a machine multiplies by: an AVX-512 one's "amx" or "dots", or None."""
    if target.name != AVX512.name:
        return None
    features = targets._host_features()
    if target.system == "linux" and features.get("amx-tile") and features.get("amx-bf16") and _permitted():
        return "amx"
    return "dots" if features.get("avx512bf16") else None


def _permitted() -> bool:
    """Ask Linux for the use of tiles, which have state that it must keep."""
    arch_prctl, request, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request, tile_data) == 0


def plan(
    target: Target, sizes: tuple[int, int, int, int], a: Any, b: Any, c_batch: int, given: tuple[int, int] = (0, 0)
) -> Product | None:
    """The product of these `sizes` (batch, m, k, n), or None where there is none, or none that pays.

    a, b    (offset, batch stride, row stride, column stride) of the operands, in elements
    c_batch  elements from one matrix of the (contiguous) result to the next
    given    bytes of the operands' arrays, for callers that have them checked
    """
    batch, m, k, n = sizes
    if min(m, n) < ROWS or k < _STEPS or batch * m * k * n < _LEAST or how(target) is None:
        return None
    (a_offset, a_batch, a_row, a_k), (b_offset, b_batch, b_k, b_column) = ([2 * s for s in x] for x in (a, b))
    if 2 not in (a_row, a_k) or 2 not in (b_k, b_column):
        return None
    a_panels, b_panels, blocks = -(-m // PANEL), -(-n // PANEL), -(-k // _STEPS)
    chunk = max(1, min(_CHUNK, _NEAR // (blocks * 2 * TILE)))
    chunks = -(-b_panels // chunk)
    scratch = batch * (a_panels + b_panels) * blocks * 2 * TILE
    table = [4 * batch * m * n, *given, scratch, m, n, k, a_offset, a_row, a_k, a_batch, b_offset, b_column, b_k,
             b_batch, 4 * c_batch, a_panels, b_panels, blocks, chunk, chunks, batch, batch * m * n * k < _PARALLEL]
    recipe = ("narrow", "product", "bfloat16")
    return Product("agog_narrow_product", np.array(table, np.int64), batch * m * n * k // 4, scratch, recipe)


class Eager:
    """Products of matrices in large arrays."""

    def __init__(self) -> None:
        module = build(how(targets.host()) or "")
        call.emit_sizes_check(module, "product")
        k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
        k.call_known("product", None, *[k.load(k.at(k.arguments[0], i, "ptr"), "ptr") for i in range(5)])
        k.ret()
        k.finish()
        self.native = call.bind(module, "bfloat16 product", call.OUT + call.IN * 4, imports=pool.imports)

    def __call__(self, x: Any, y: Any, empty: Any) -> Any:
        """x @ y of two matrices, in float32; None where this does not pay."""
        (m, k), n = x.shape, y.shape[1]
        if y.shape[0] != k:
            return None
        (x, x_strides), (y, y_strides) = _base(x), _base(y)
        if x is None or y is None:
            return None
        p = plan(AVX512, (1, m, k, n), (0, 0, *x_strides), (0, 0, *y_strides), 0, (x.nbytes, y.nbytes))
        if p is None:
            return None
        pool.refresh()
        out = empty((m, n), np.dtype(np.float32))
        self.native(out, x, y, empty((p.scratch,), np.dtype(np.uint8)), p.table)
        return out


def _base(x: Any) -> Any:
    """(a contiguous array of the same memory, strides of `x` in elements) for a matrix, or (None, None)."""
    if x.flags.c_contiguous:
        return x, (x.shape[1], 1)
    return (x.T, (1, x.shape[0])) if x.T.flags.c_contiguous else (None, None)


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """The function "product", for targets on which there is one."""
    name = how(target) or ""
    return jit.load(jit.Later(f"{name} {dtype}", target, lambda: build(name)), ["product"], pool.imports)


def build(name: str) -> Module:
    """The module, with the instructions of `agog.compiler.<name>`."""
    instructions = importlib.import_module(f"agog.compiler.{name}")
    module = Module(replace(AVX512, name=f"avx512-{name}", features=instructions.FEATURES))
    for operand in ("a", "b"):
        for contiguous in ("k", "row"):
            _pack(module, operand, contiguous)
    _pack_task(module)
    _product_task(module, instructions)
    _product(module)
    return module


class _Job:
    """The fields of a job: four addresses, then the table."""

    def __init__(self, k: Kernel, job: Value) -> None:
        self.out, self.a, self.b, self.scratch = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(4))
        table = k.load(k.at(job, 4, "ptr"), "ptr")
        self.fields = {
            name: k.load(k.at(table, i, "int64"), "int64") for i, name in enumerate(HEAD) if not name.endswith("size")
        }


def _pack(module: Module, operand: str, contiguous: str) -> None:
    """`pack_O_C(source, destination, row_stride, k_stride, rows, steps)`: a panel, all of k.

    A row is one of A, or a column of B. The tile of A has rows of 32 steps; that of B has rows of 16 pairs.
    """
    arguments = [("source", "ptr"), ("destination", "ptr")]
    arguments += [(n, "int64") for n in ("row_stride", "k_stride", "rows", "steps")]
    k = Kernel(module, f"pack_{operand}_{contiguous}", arguments, None, 16, True)
    source, destination, row_stride, k_stride, rows, steps = k.arguments
    zero = k.const(0, "int64")

    def count(left: Value, most: int) -> Value:
        left = k.where(left < most, left, most)
        return k.where(left > 0, left, zero)

    def mask(count: Value, lanes: int) -> Value:
        return k.iota("int32", lanes) < k.splat(k.cast(count, "int32"), lanes)

    def block(i: Value) -> None:
        start = i * _STEPS
        left = count(steps - start, _STEPS)
        for half in range(2):
            there = count(rows - half * ROWS, ROWS)
            vectors = []
            if contiguous == "k":  # the steps of each row
                for r in range(ROWS):
                    at = k.offset(source, row_stride * (half * ROWS + r) + start * 2)
                    steps_of_row = mask(k.where(there > r, left, zero), 32)
                    vectors.append(_words(k, k.masked_load(at, steps_of_row, "uint16")))
            else:  # the rows of each pair of steps
                inside = mask(there, 16)
                for pair in range(ROWS):
                    both = []
                    for step in (2 * pair, 2 * pair + 1):
                        at = k.offset(source, k_stride * (start + step) + 2 * half * ROWS)
                        good = inside & k.splat(left > step, 16)
                        both.append(k.masked_load(at, good, "uint16"))
                    vectors.append(_words(k, _interleaved(k, *both)))
            if (operand == "a") != (contiguous == "k"):
                vectors = transpose(k, vectors)
            place = k.offset(destination, i * (2 * TILE) + half * TILE)
            for r, vector in enumerate(vectors):
                k.store(vector, k.offset(place, 64 * r))

    k.loop(0, k.op(f"udiv i64 {(steps + (_STEPS - 1)).text}, {_STEPS}", "int64"), 1, block)
    k.ret()
    k.finish()


def _words(k: Kernel, x: Value) -> Value:
    """Pairs of 16 bits as 32."""
    return k.op(f"bitcast {x.typed} to <16 x i32>", "int32", 16)


def _interleaved(k: Kernel, a: Value, b: Value) -> Value:
    lanes = ", ".join(f"i32 {i // 2 + 16 * (i % 2)}" for i in range(32))
    return k.op(f"shufflevector {a.typed}, {b.typed}, <32 x i32> <{lanes}>", "uint16", 32)


_TASK = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]


def _split(k: Kernel, i: Value, by: Value) -> tuple[Value, Value]:
    """Quotient and remainder."""
    quotient = k.op(f"udiv i64 {i.text}, {by.text}", "int64")
    return quotient, i - quotient * by


def _pack_task(module: Module) -> None:
    """Task i packs a panel: for each matrix of the batch those of A, then those of B."""
    k = Kernel(module, "pack_task", _TASK, internal=True)
    job, begin, end, _ = k.arguments
    f = _Job(k, job)
    fields = f.fields
    size = fields["blocks"] * (2 * TILE)
    panels = fields["a_panels"] + fields["b_panels"]

    def pack(operand: str, source: Value, place: Value, row: Value, k_step: Value, rows: Value) -> None:
        arguments = [source, place, row, k_step, rows, fields["k"]]
        by = lambda name: lambda: k.call_known(f"pack_{operand}_{name}", None, *arguments)
        k.if_(k.eq(k_step, 2), by("k"), by("row"))

    def one(i: Value) -> None:
        matrix, panel = _split(k, i, panels)
        place = k.offset(f.scratch, i * size)

        def of_a() -> None:
            row = panel * PANEL
            at = fields["a_offset"] + matrix * fields["a_batch"] + row * fields["a_row"]
            pack("a", k.offset(f.a, at), place, fields["a_row"], fields["a_k"], fields["m"] - row)

        def of_b() -> None:
            column = (panel - fields["a_panels"]) * PANEL
            at = fields["b_offset"] + matrix * fields["b_batch"] + column * fields["b_column"]
            pack("b", k.offset(f.b, at), place, fields["b_column"], fields["b_k"], fields["n"] - column)

        k.if_(panel < fields["a_panels"], of_a, of_b)

    k.loop(begin, end, 1, one)
    k.ret()
    k.finish()


def _product_task(module: Module, instructions: Any) -> None:
    """Task i computes a panel of rows of C by a chunk of B's panels, which all rows meet before the next chunk."""
    k = Kernel(module, "product_task", _TASK, None, 16, internal=True)
    job, begin, end, _ = k.arguments
    f = _Job(k, job)
    fields = f.fields
    m, n, blocks, a_panels, chunk = (fields[name] for name in ("m", "n", "blocks", "a_panels", "chunk"))
    size, panels = blocks * (2 * TILE), a_panels + fields["b_panels"]
    c_row = n * 4
    multiply = instructions.begin(k)

    def one(i: Value) -> None:
        rest, panel = _split(k, i, a_panels)
        matrix, number = _split(k, rest, fields["chunks"])
        packed = k.offset(f.scratch, matrix * panels * size)
        a = k.offset(packed, panel * size)
        row, first = panel * PANEL, number * chunk
        last = k.where(first + chunk < fields["b_panels"], first + chunk, fields["b_panels"])

        def columns(q: Value) -> None:
            b = k.offset(packed, (a_panels + q) * size)
            column = q * PANEL
            c = k.offset(f.out, matrix * fields["c_batch"] + row * c_row + column * 4)
            multiply(blocks, a, b, c, c_row, m - row, n - column)

        k.loop(first, last, 1, columns)

    k.loop(begin, end, 1, one)
    instructions.end(k)
    k.ret()
    k.finish()


def _product(module: Module) -> None:
    """`product(out, a, b, scratch, table)`: pack all, then compute all, shared out to the pool."""
    k = Kernel(module, "product", [(name, "ptr") for name in ("out", "a", "b", "scratch", "table")])
    job = k.alloca(40, 64)
    for i, address in enumerate(k.arguments):
        k.store(address, k.at(job, i, "ptr"))
    f = _Job(k, job)
    one, zero = k.const(1, "int64"), k.const(0, "int64")
    a_panels, b_panels, chunks, batch, alone = (
        f.fields[name] for name in ("a_panels", "b_panels", "chunks", "batch", "alone")
    )
    for name, count in (("pack_task", batch * (a_panels + b_panels)), ("product_task", batch * a_panels * chunks)):
        task = k.symbol(f"@{name}")
        by_one: Callable[[], Any] = lambda: k.call_known(name, None, job, zero, count, k.const(0, "int32"))
        k.if_(k.ne(alone, 0), by_one, lambda: k.call(pool.SYMBOL, None, task, job, count, one))
    k.ret()
    k.finish()
