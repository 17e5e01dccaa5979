"""Kernels of reductions over one axis of a C-contiguous array that is seen as (outer, n, inner).

    fold("sum", "float32")(out, x, outer, n, inner)

Where inner is 1, each row is walked by vectors, whose lanes are folded at its end. Otherwise lanes are columns: some
rows at a time are folded onto a tile of accumulators that stays in the first cache; where columns are few, several rows
make one. Few long rows (or columns) are divided into pieces, whose results are folded pairwise: what is summed depends
on the sizes alone, never on the threads.

Sums of floats are kept in their own precision over a block of some dozens of vectors or rows, and blocks are added in
float64. A product of floats in a row is made in float64, of lanes; where that overflows or vanishes, which can depend
on the order, it is made again in order and in its own precision. Products of columns are in order.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import FLOATS, UNSIGNED, Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.nests import combine, identity
from agog.compiler.targets import HALVES, ITEMSIZE, Target

__all__ = ["KINDS", "fold", "out_dtype"]

_TURNS = 60  # vectors that one accumulator adds up: 4 x 60 ones fit into a byte
_UNROLL = 4
_ROWS = 8  # of columns that are folded at a time
_BLOCK_ROWS = 240
_TILE = 1024  # columns
_NARROW = 4  # vectors: columns that are fewer are made of several rows
_FEW, _PIECE, _PIECES = 16, 1 << 15, 64  # rows and tiles that are divided; elements of a piece; pieces at most
_AWAKE, _WOKEN = 1 << 18, 1 << 21  # bytes from which threads take part that are awake, or are woken
_PARAMETERS = call.OUT + call.IN + call.INT * 3
_FIELDS = "out x scratch outer n inner pieces per joined full tiles".split()


class Kind:
    """One kind of reduction of one dtype: the dtypes of its steps, and the steps.

    read   of the array in memory: bools are bytes
    block  of the accumulators of a block
    total  of what blocks add up to
    out    of the result in memory
    """

    def __init__(self, name: str, dtype: str, rows: bool) -> None:
        wide = "float32" if dtype in HALVES else dtype
        real = wide in FLOATS
        self.name, self.read, self.out = name, "uint8" if dtype == "bool" else dtype, dtype
        self.step = {"any": "max", "all": "min", "mean": "sum", "norm": "sum", "abs_sum": "sum", "abs_max": "max"}.get(
            name, name
        )
        self.truth = dtype == "bool"
        self.block = self.total = wide
        self.blocks = self.step == "sum" and (real or self.truth)
        self.ordered = name == "prod" and real and not rows
        self.checked = name == "prod" and real and rows
        if name in ("any", "all"):
            self.block = self.total = self.out = "uint8"
        elif self.step in ("sum", "prod") and not real:
            self.out = self.total = self.block = "uint64" if wide in UNSIGNED and not self.truth else "int64"
            if self.truth and name == "sum":
                self.block = "uint8"
        elif real and (self.step == "sum" or self.checked):
            self.total = "float64"
            self.block = "float64" if self.checked else wide
        self.wide = wide

    def identity(self, k: Kernel, dtype: str, lanes: int = 1) -> Value:
        """What changes nothing: -0.0 in a sum of floats."""
        value = -0.0 if self.step == "sum" and dtype in FLOATS else identity(self.step, dtype)
        return k.const(value, dtype, lanes)

    def value(self, k: Kernel, v: Value) -> Value:
        """What an element adds to a block."""
        v = k.widen(v)
        if self.truth:
            v = k.where(k.ne(v, 0), k.const(1, "uint8", v.lanes), k.const(0, "uint8", v.lanes))
        if self.name == "norm":
            v = v * v
        elif self.name in ("abs_sum", "abs_max"):
            v = k.abs(v)
        return k.cast(v, self.block)

    def combine(self, k: Kernel, a: Value, b: Value) -> Value:
        """One step; for a maximum that looks for NaN in the first, this is the new value."""
        return combine(k, self.step, a, b)

    def lanes(self, k: Kernel, v: Value) -> Value:
        """A block's vector as one number of the total's dtype."""
        if self.step == "sum":
            if self.block == "uint8":
                v = k.cast(v, "uint16")  # of 64 lanes of at most 240
            return k.cast(k.reduce_sum(v), self.total)
        return k._fold(v, functools.partial(self.combine, k))

    def finish(self, k: Kernel, v: Value, n: Value) -> Value:
        """The result, from the total."""
        if self.wide in FLOATS:
            v = k.cast(v, self.wide)
            if self.name == "mean":
                v = v / k.cast(n, self.wide)
            elif self.name == "norm":
                v = k.sqrt(v)
        if self.name in ("any", "all"):
            v = k.where(k.ne(v, 0), k.const(1, "uint8", v.lanes), k.const(0, "uint8", v.lanes))
        return k.cast(v, self.out)


#: The kinds of reductions, and the kinds of dtypes that they take.
KINDS = {"sum": "bif", "prod": "bif", "max": "if", "min": "if", "any": "b", "all": "b", "mean": "f", "norm": "f",
         "abs_sum": "f", "abs_max": "f"}


def out_dtype(kind: str, dtype: str) -> str:
    """The dtype of the results: integers and bools are added up and multiplied in 64 bits."""
    return "bool" if kind in ("any", "all") else Kind(kind, dtype, True).out


def _later(kind: str, dtype: str, target: Target) -> jit.Later:
    return call.with_builtin(jit.Later(f"fold {kind} {dtype}", target, lambda: build(kind, dtype, target)), _PARAMETERS)


def fold(kind: str, dtype: str, target: Target | None = None) -> Callable[..., None]:
    """The reduction as a builtin `(out, x, outer, n, inner)`. `out` has outer * inner elements.

    Sums and products of integers and bools are int64, unsigned ones uint64; else the result has the array's dtype.
    """
    target = target or targets.host()
    return call.bind(_later(kind, dtype, target), f"{kind}_{dtype}", _PARAMETERS, imports=pool.imports)


def build(kind: str, dtype: str, target: Target) -> Module:
    """The module of one kind and dtype."""
    module = Module(target)
    along, across = _Rows(module, Kind(kind, dtype, True)), _Columns(module, Kind(kind, dtype, False))
    along.chunk()
    across.chunk()
    for part in (along, across):
        part.merge()
    _check(module, along.kind)
    _run(module, along, across)
    return module


class _Part:
    """What both ways share: `name(job, begin, end, thread)` does some of their units."""

    name = ""

    def __init__(self, module: Module, kind: Kind) -> None:
        self.module, self.kind = module, kind
        self.lanes = min(64, module.target.lanes(kind.block))

    def start(self, name: str, internal: bool = True) -> tuple[Kernel, Any, list[Value]]:
        """A function of a job: its Kernel, the fields of the job, and the other arguments."""
        arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
        k = Kernel(self.module, name, arguments, lanes=self.lanes, internal=internal)
        return k, _Job(k, k.arguments[0]), k.arguments[1:]

    def mask(self, k: Kernel, count: Value) -> Value:
        """The first `count` lanes."""
        return k.iota("int32") < k.splat(k.cast(count, "int32"))

    def each(self, k: Kernel, count: Value, body: Callable[[Value, Any], None]) -> None:
        """`body(i, partial)` for `count` elements by vectors; partial is None of whole ones."""
        whole = k.bitwise_and(count, -self.lanes)
        k.loop(0, whole, self.lanes, lambda i: body(i, None))
        k.if_(whole < count, lambda: body(whole, k.partial(count - whole)))

    def load(self, k: Kernel, address: Value, dtype: str, partial: Any) -> Value:
        """A vector at an address."""
        return k.load(address, dtype, self.lanes) if partial is None else partial.load(address, dtype)

    def store(self, k: Kernel, value: Value, address: Value, partial: Any) -> None:
        """Store a vector at an address."""
        if partial is None:
            k.store(value, address)
        else:
            partial.store(value, address)

    def merge(self) -> None:
        """`name_merge(job)`: the results, from those of pieces."""
        kind, total = self.kind, self.kind.total
        k, job, _ = self.start(f"{self.name}_merge")

        def outer(o: Value) -> None:
            first = k.at(job.scratch, o * job.pieces * job.inner, total)

            def halved(_: Value, count: Value) -> list[Value]:
                """The later half of so many pieces is folded onto the first."""
                pairs = k.op(f"lshr i64 {count.text}, 1", "int64")
                kept = count - pairs
                later = k.at(first, kept * job.inner, total)

                def fold_onto(c: Value, partial: Any) -> None:
                    a, b = (self.load(k, k.at(p, c, total), total, partial) for p in (first, later))
                    self.store(k, kind.combine(k, b, a), k.at(first, c, total), partial)

                self.each(k, pairs * job.inner, fold_onto)
                return [kept]

            k.loop(0, (_PIECES - 1).bit_length(), 1, halved, [job.pieces])

            def columns(c: Value, partial: Any) -> None:
                value = self.load(k, k.at(first, c, total), total, partial)
                self.store(k, kind.finish(k, value, job.n), k.at(job.out, o * job.inner + c, kind.out), partial)

            self.each(k, job.inner, columns)

        k.loop(0, job.outer, 1, outer)
        k.ret()
        k.finish()


class _Job:
    def __init__(self, k: Kernel, job: Value) -> None:
        for i, name in enumerate(_FIELDS):
            dtype = "ptr" if i < 3 else "int64"
            setattr(self, name, k.load(k.at(job, i, dtype), dtype))


class _Rows(_Part):
    """Rows that lie in one piece: a unit is a row, or a piece of one."""

    name = "rows"

    def chunk(self) -> None:
        """The function."""
        kind = self.kind
        k, job, (begin, end, _) = self.start(self.name)
        tail = k.bitwise_and(job.n, self.lanes - 1)
        partial, mask = k.partial(tail), self.mask(k, tail)

        def row(number: Value) -> None:
            found = self._total(k, k.at(job.x, number * job.n, kind.read), job.n, partial, mask)
            k.store(kind.finish(k, found, job.n), k.at(job.out, number, kind.out))

        def piece(unit: Value) -> None:
            number = k.op(f"udiv i64 {unit.text}, {job.pieces.text}", "int64")
            first = (unit - number * job.pieces) * job.per
            left = job.n - first
            length = k.where(left < job.per, left, job.per)
            at = k.at(job.x, number * job.n + first, kind.read)
            k.store(self._total(k, at, length, partial, mask), k.at(job.scratch, unit, kind.total))

        k.if_(
            k.eq(job.pieces, 1),
            lambda: k.loop(begin, end, 1, row) and None,
            lambda: k.loop(begin, end, 1, piece) and None,
        )
        k.ret()
        k.finish()

    def _total(self, k: Kernel, base: Value, length: Value, partial: Any, mask: Value) -> Value:
        """The total of a row; of a piece that has a tail, if it is the row's."""
        kind, lanes = self.kind, self.lanes
        step = lanes * _UNROLL
        whole, vectors = k.bitwise_and(length, -step), k.bitwise_and(length, -lanes)
        nothing = kind.identity(k, kind.block, lanes)

        def value(i: Value) -> Value:
            return kind.value(k, k.load(k.at(base, i, kind.read), kind.read, lanes))

        def turn(i: Value, *sofar: Value) -> list[Value]:
            return [kind.combine(k, value(i + u * lanes if u else i), s) for u, s in enumerate(sofar)]

        def folded(total: Value, parts: list[Value]) -> Value:
            while len(parts) > 1:
                parts = [kind.combine(k, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            return kind.combine(k, kind.lanes(k, parts[0]), total)

        def blocks(size: int, inside: Callable[..., list[Value]], first: Any, last: Value, total: Value) -> Value:
            """Some levels of loops: each begins its total anew, so that a long row's has few steps."""

            def block(i: Value, total: Value) -> list[Value]:
                stop = i + size
                return inside(i, k.where(stop < last, stop, last), total)

            return k.loop(first, last, size, block, [total])[0]

        def one(i: Value, stop: Value, total: Value) -> list[Value]:
            return [folded(total, k.loop(i, stop, step, turn, [nothing] * _UNROLL))]

        def many(i: Value, stop: Value, total: Value) -> list[Value]:
            inner = blocks(step * _TURNS, one, i, stop, kind.identity(k, kind.total))
            return [kind.combine(k, inner, total)]

        total = kind.identity(k, kind.total)
        size = step * _TURNS
        if kind.blocks and kind.block == "float64":
            total = blocks(size * _TURNS, many, 0, whole, total)
        elif kind.blocks:
            total = blocks(size, one, 0, whole, total)
        else:
            total = one(k.const(0, "int64"), whole, total)[0]

        def rest() -> tuple[Value]:
            (sofar,) = k.loop(whole, vectors, lanes, lambda i, s: [kind.combine(k, value(i), s)], [nothing])

            def last() -> tuple[Value]:
                v = kind.value(k, partial.load(k.at(base, vectors, kind.read), kind.read))
                return (kind.combine(k, k.where(mask, v, nothing), sofar),)

            (sofar,) = k.if_(vectors < length, last, lambda: (sofar,))
            return (folded(total, [sofar]),)

        (total,) = k.if_(whole < length, rest, lambda: (total,))
        if kind.checked:
            (total,) = k.if_(
                k.isfinite(total) & k.ne(total, 0), lambda: (total,), lambda: (self._in_order(k, base, length),)
            )
        return total

    def _in_order(self, k: Kernel, base: Value, length: Value) -> Value:
        """The product as NumPy makes it."""
        kind = self.kind

        def turn(i: Value, sofar: Value) -> list[Value]:
            return [sofar * k.widen(k.load(k.at(base, i, kind.read), kind.read))]

        (total,) = k.loop(0, length, 1, turn, [k.const(1, kind.wide)])
        return k.cast(total, kind.total)


class _Columns(_Part):
    """Columns: a unit is a tile of some of them, or a piece of it, for one outer index.

    Where columns are few, `joined` rows are one: then there are `full` such rows, one tile, and some rows are left.
    """

    name = "columns"

    def chunk(self) -> None:
        """The function."""
        kind, lanes = self.kind, self.lanes
        k, job, (begin, end, _) = self.start(self.name)
        acc = k.alloca((_TILE + lanes) * ITEMSIZE[kind.block])
        tot = k.alloca((_TILE + lanes) * ITEMSIZE[kind.total]) if kind.blocks else acc
        width = job.inner * job.joined

        def unit(number: Value) -> None:
            q = k.op(f"udiv i64 {number.text}, {job.tiles.text}", "int64")
            o = k.op(f"udiv i64 {q.text}, {job.pieces.text}", "int64")
            column, piece = (number - q * job.tiles) * _TILE, q - o * job.pieces
            count = width - column
            count = k.where(count < _TILE, count, _TILE)
            base = k.at(job.x, o * job.n * job.inner + column, kind.read)
            first = piece * job.per
            last = first + job.per
            last = k.where(last < job.full, last, job.full)
            if kind.blocks:

                def block(r: Value) -> None:
                    stop = r + _BLOCK_ROWS
                    self._block(k, base, width, count, r, k.where(stop < last, stop, last), acc)
                    k.if_(k.eq(r, first), lambda: into_total(True), lambda: into_total(False))

                def into_total(fresh: bool) -> None:
                    def add(c: Value, _: Any) -> None:
                        at = k.at(tot, c, kind.total)
                        v = k.cast(k.load(k.at(acc, c, kind.block), kind.block, lanes), kind.total)
                        k.store(v if fresh else kind.combine(k, v, k.load(at, kind.total, lanes)), at)

                    k.loop(0, count, lanes, lambda c: add(c, None))

                k.loop(first, last, _BLOCK_ROWS, block)
            else:
                self._block(k, base, width, count, first, last, acc)
            k.if_(job.joined > 1, lambda: self._apart(k, job, o, k.eq(piece, job.pieces - 1), tot))
            columns = k.where(job.joined > 1, job.inner, count)

            def result(c: Value, partial: Any) -> None:
                v = k.load(k.at(tot, c, kind.total), kind.total, lanes)
                at = k.at(job.out, o * job.inner + column + c, kind.out)
                self.store(k, kind.finish(k, v, job.n), at, partial)

            def part(c: Value, partial: Any) -> None:
                v = k.load(k.at(tot, c, kind.total), kind.total, lanes)
                self.store(k, v, k.at(job.scratch, q * job.inner + column + c, kind.total), partial)

            k.if_(
                k.eq(job.pieces, 1), lambda: self.each(k, columns, result), lambda: self.each(k, columns, part)
            )

        k.loop(begin, end, 1, unit)
        k.ret()
        k.finish()

    def _block(self, k: Kernel, base: Value, width: Value, count: Value, first: Value, last: Value, acc: Value) -> None:
        """acc[c] = the rows first, ..., last - 1 of each column c of the tile."""
        kind, lanes = self.kind, self.lanes

        def group(rows: int, fresh: bool, r: Value) -> None:
            start = k.at(base, r * width, kind.read)
            starts = [k.at(start, width * g, kind.read) if g else start for g in range(rows)]

            def columns(c: Value, partial: Any) -> None:
                at = k.at(acc, c, kind.block)
                parts = [kind.value(k, self.load(k, k.at(s, c, kind.read), kind.read, partial)) for s in starts]
                if not fresh and kind.ordered:
                    parts.insert(0, k.load(at, kind.block, lanes))
                while len(parts) > 1:
                    if kind.ordered:
                        parts[:2] = [kind.combine(k, parts[0], parts[1])]
                    else:
                        parts = [kind.combine(k, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
                value = parts[0]
                if not fresh and not kind.ordered:
                    value = kind.combine(k, value, k.load(at, kind.block, lanes))
                k.store(value, at)

            self.each(k, count, columns)

        def begun() -> tuple[Value]:
            group(_ROWS, True, first)
            return (first + _ROWS,)

        def nothing() -> tuple[Value]:
            empty = kind.identity(k, kind.block, lanes)
            k.loop(0, count, lanes, lambda c: k.store(empty, k.at(acc, c, kind.block)))
            return (first,)

        (start,) = k.if_(last - first >= _ROWS, begun, nothing)
        groups = start + k.bitwise_and(last - start, -_ROWS)
        k.loop(start, groups, _ROWS, lambda r: group(_ROWS, False, r))
        k.loop(groups, last, 1, lambda r: group(1, False, r))

    def _apart(self, k: Kernel, job: Any, o: Value, final: Value, tot: Value) -> None:
        """The totals of rows that were joined, folded into the first; and the rows that are left."""
        kind = self.kind
        begin = job.full * job.joined
        end = k.where(final, job.n, begin)

        def column(c: Value) -> None:
            def other(j: Value, sofar: Value) -> list[Value]:
                return [kind.combine(k, k.load(k.at(tot, j * job.inner + c, kind.total), kind.total), sofar)]

            def left(r: Value, sofar: Value) -> list[Value]:
                at = k.at(job.x, (o * job.n + r) * job.inner + c, kind.read)
                v = k.cast(kind.value(k, k.load(at, kind.read)), kind.total)
                return [kind.combine(k, v, sofar)]

            place = k.at(tot, c, kind.total)
            sofar = k.loop(1, job.joined, 1, other, [k.load(place, kind.total)])
            k.store(k.loop(begin, end, 1, left, sofar)[0], place)

        k.loop(0, job.inner, 1, column)


def _check(module: Module, kind: Kind) -> None:
    """`check(slots, sizes)`: do the arrays fit the sizes?"""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
    slots, sizes = k.arguments
    outer, n, inner = (k.load(k.at(slots, i, "int64"), "int64") for i in (2, 3, 4))
    good = (outer >= 0) & (n > 0) & (inner >= 0)
    for i, (count, dtype) in enumerate(((outer * inner, kind.out), (outer * n * inner, kind.read))):
        good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), count * ITEMSIZE[dtype])
    message = module.string(f"the arrays do not fit this reduction, from {kind.read} to {kind.out}")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _run(module: Module, along: _Rows, across: _Columns) -> None:
    """`run(slots, sizes)`: all of it, on the pool when that pays."""
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
    slots, sizes = k.arguments
    job = k.alloca(8 * len(_FIELDS), 8)
    out, x = (k.load(k.at(slots, i, "ptr"), "ptr") for i in (0, 1))
    outer, n, inner = (k.load(k.at(slots, i, "int64"), "int64") for i in (2, 3, 4))
    moved = k.load(k.at(sizes, 1, "int64"), "int64")
    one = k.const(1, "int64")

    def least(a: Value, b: Value | int) -> Value:
        return k.where(a < b, a, b)

    def most(a: Value, b: Value | int) -> Value:
        return k.where(a > b, a, b)

    def divided(a: Value, b: Value | int) -> Value:
        b = k.const(b, "int64") if isinstance(b, int) else b
        return k.op(f"udiv i64 {a.text}, {b.text}", "int64")

    def ceil(a: Value, b: Value | int) -> Value:
        return divided(a + b - 1, b)

    def set_fields(**fields: Value) -> None:
        for name, value in fields.items():
            k.store(value, k.at(job, _FIELDS.index(name), value.dtype))

    def pieces_of(part: _Part, count: Value, units: Value, width: Value, step: int) -> tuple[Value, Value]:
        """How many pieces so many places of a unit are divided into, and how many places one has."""
        if part.kind.name == "prod" and part.kind.wide in FLOATS:
            return one, count

        def some() -> tuple[Value, Value]:
            wanted = most(least(divided(count * width, _PIECE), _PIECES), 1)
            per = k.bitwise_and(ceil(count, wanted) + (step - 1), -step)
            return ceil(count, per), per

        few = (units < _FEW) & (count * width >= 2 * _PIECE)
        return k.if_(few, some, lambda: (one, count))  # type: ignore[return-value]

    def begin(part: _Part, units: Value, elements: Value, scratch: Value, pieces: Value) -> None:
        """Do all units, of about so many elements each."""
        work = k.symbol(f"@{part.name}")
        grain = divided(k.const(_PIECE, "int64"), elements + 16) + 1

        def share(symbol: str) -> Callable[[], None]:
            return lambda: k.call(symbol, None, work, job, units, grain)

        def alone() -> None:
            k.call_known(part.name, None, job, k.const(0, "int64"), units, k.const(0, "int32"))

        def all_units() -> None:
            k.if_(moved < _AWAKE, alone, lambda: k.if_(moved < _WOKEN, share(pool.AWAKE), share(pool.SYMBOL)))

        def in_pieces() -> None:
            memory = k.allocate(scratch * ITEMSIZE[part.kind.total])
            set_fields(scratch=memory)
            all_units()
            zero = k.const(0, "int64")
            k.call_known(f"{part.name}_merge", None, job, zero, zero, k.const(0, "int32"))
            k.call("free", None, memory, external=True)

        k.if_(k.eq(pieces, 1), all_units, in_pieces)

    def rows() -> None:
        pieces, per = pieces_of(along, n, outer, one, along.lanes * _UNROLL)
        set_fields(pieces=pieces, per=per)
        begin(along, outer * pieces, least(per, n), outer * pieces, pieces)

    def columns() -> None:
        narrow = across.lanes * _NARROW
        joined = one
        if not across.kind.ordered:
            fit = least(divided(k.const(2 * narrow, "int64"), most(inner, 1)), divided(n, _ROWS))
            joined = k.where(inner < narrow, most(fit, 1), one)
        full, width = divided(n, joined), inner * joined
        tiles = ceil(width, _TILE)
        pieces, per = pieces_of(across, full, outer * tiles, least(width, _TILE), _ROWS)
        set_fields(pieces=pieces, per=per, joined=joined, full=full, tiles=tiles)
        begin(across, outer * pieces * tiles, least(width, _TILE) * per, outer * pieces * inner, pieces)

    set_fields(out=out, x=x, outer=outer, n=n, inner=inner)
    k.if_(k.eq(inner, 1), rows, columns)
    k.ret()
    k.finish()
