"""Matrix products and scattered sums as loops, emitted for one shape each.

A product is computed in register tiles: some rows by some vectors of columns stay in registers while the inner axis is
walked. Operands may have any strides along rows and the inner axis; columns of the right one must be adjacent.
"""

from agog.compiler.kernel import Kernel

__all__ = ["SCATTERED", "emit_matmul", "emit_scatter", "neighbours", "tile"]


def tile(target, dtype, m, n):
    """(rows, vectors, lanes) of the register tile."""
    lanes = target.lanes(dtype)
    while lanes > 1 and lanes // 2 >= n:
        lanes //= 2
    vectors = -(-n // lanes)
    width = (
        next(w for w in (4, 3, 2, 1) if vectors % w == 0 or w == 1)
        if vectors <= 4 or vectors % 4 == 0 or vectors % 3 == 0
        else 2
    )
    width = min(width, vectors)
    most = max(1, (target.registers - width - 2) // width)
    panels = -(-m // most)
    return -(-m // panels), width, lanes


def emit_matmul(module, name, dtype, sizes, a_strides, b_strides, parallel):
    """`void name(a, b, c)` or, parallel, a chunk function over rows: c[i, j] = sum of a[i, p] b[p, j]; c is contiguous.

    sizes (m, k, n); a_strides (row, inner), b_strides (inner, column = 1), in elements.
    """
    m, depth, n = sizes
    target = module.target
    rows, width, lanes = tile(target, dtype, m, n)
    if parallel:
        parameters = [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    else:
        parameters = [("a", "ptr"), ("b", "ptr"), ("c", "ptr")]
    k = Kernel(module, name, parameters, lanes=lanes, internal=True)
    if parallel:
        slots, begin, end, _ = k.arguments
        a, b, c = (k.load(k.at(slots, i, "ptr"), "ptr") for i in range(3))
    else:
        a, b, c = k.arguments
        begin, end = 0, m
    zero = k.const(0, dtype)

    def block(i, height, j, vectors, left):
        """A tile of `height` rows from i and `vectors` vectors from column j; the last has `left` lanes if not 0."""
        partial = k.partial(k.const(left, "int64")) if left else None
        starts = [k.at(a, k.mul(k.add(i, r) if r else i, a_strides[0]), dtype) for r in range(height)]

        def turn(p, *sums):
            row = k.at(b, k.add(k.mul(p, b_strides[0]), j), dtype)
            columns = []
            for v in range(vectors):
                at = k.at(row, v * lanes, dtype)
                columns.append(partial.load(at, dtype) if partial and v == vectors - 1 else k.load(at, dtype, lanes))
            at = p if a_strides[1] == 1 else k.mul(p, a_strides[1])
            out = []
            for r in range(height):
                x = k.splat(k.load(k.at(starts[r], at, dtype), dtype))
                out += [k.fma(x, columns[v], sums[r * vectors + v]) for v in range(vectors)]
            return out

        first = [k.splat(zero)] * (height * vectors)
        sums = k.loop(0, depth, 1, turn, first) if depth != 1 else turn(k.const(0, "int64"), *first)
        for r in range(height):
            row = k.at(c, k.add(k.mul(k.add(i, r) if r else i, n), j), dtype)
            for v in range(vectors):
                at = k.at(row, v * lanes, dtype)
                if partial and v == vectors - 1:
                    partial.store(sums[r * vectors + v], at)
                else:
                    k.store(sums[r * vectors + v], at)

    def panel(i, height):
        whole = n // (width * lanes) * (width * lanes)
        if whole == width * lanes:
            block(i, height, k.const(0, "int64"), width, 0)
        elif whole:
            k.loop(0, whole, width * lanes, lambda j: block(i, height, j, width, 0))
        if n > whole:
            rest = n - whole
            block(i, height, k.const(whole, "int64"), -(-rest // lanes), rest % lanes)

    if parallel:
        last = m // rows * rows
        k.loop(begin, k.where(end < last, end, last), rows, lambda i: panel(i, rows))
        if m > last:
            k.if_(k.eq(end, m), lambda: panel(k.const(last, "int64"), m - last))
    else:
        last = m // rows * rows
        if last == rows:
            panel(k.const(0, "int64"), rows)
        elif last:
            k.loop(0, last, rows, lambda i: panel(i, rows))
        if m > last:
            panel(k.const(last, "int64"), m - last)
    k.ret()
    k.finish()
    return rows


SCATTERED = 2  # vectors of the last axis that are one task, where threads share that out


def emit_scatter(module, name, dtype, shape, g_offset, g_strides, out_strides, indices, position, split):
    """`void name(job, begin, end, thread)`, the job (out, g, index ..., status): out[place] += g at points of `shape`,
    in order.

    indices: (dtype, offset, strides, stride in out, size of the axis) for each index array.
    split: the axis of `shape` of which this does begin, ..., end - 1, or as many times `SCATTERED` vectors of a last
        axis of neighbours; None: all of it
    """
    target = module.target
    arguments = [("job", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, name, arguments, internal=True)
    job, begin, end, _ = k.arguments
    out, g, *where, status = (k.load(k.at(job, i, "ptr"), "ptr") for i in range(3 + len(indices)))
    last = len(shape) - 1
    row = neighbours(shape, g_strides, out_strides, indices)
    k.lanes = target.lanes(dtype) if row else 1

    def sum_of(offset, strides, index, skip=None):
        total = None
        for a, s in enumerate(strides):
            if s and a != skip:
                term = index[a] if s == 1 else k.mul(index[a], s)
                total = term if total is None else k.add(total, term)
        total = k.const(offset, "int64") if total is None else k.add(total, offset) if offset else total
        return total

    def point(index):
        skip = last if row else None
        place = sum_of(0, out_strides, index, skip)
        source = sum_of(g_offset, g_strides, index, skip)
        for (kind, offset, strides, stride, n), pointer in zip(indices, where):
            at = k.cast(k.load(k.at(pointer, sum_of(offset, strides, index, skip), kind), kind), "int64")
            at = k.where(at < 0, k.add(at, n), at)
            bad = k.bitwise_or(at < 0, at >= n)
            k.if_(bad, lambda: k.store(k.const(position + 1, "int64"), status))
            at = k.where(bad, 0, at)
            place = k.add(place, k.mul(at, stride))
        if not row:
            to = k.at(out, place, dtype)
            k.store(k.add(k.load(to, dtype), k.load(k.at(g, source, dtype), dtype)), to)
            return

        def add(i, load, store):
            to = k.at(out, k.add(place, i), dtype)
            store(k.add(load(to), load(k.at(g, k.add(source, i), dtype))), to)

        n = shape[last]
        whole = n // k.lanes * k.lanes
        one, finish = k.const(0, "int64"), k.const(whole, "int64")
        if split == last:
            one, finish = (k.min(i * (SCATTERED * k.lanes), k.const(whole, "int64")) for i in (begin, end))
        if whole:
            k.loop(one, finish, k.lanes, lambda i: add(i, lambda p: k.load(p, dtype, k.lanes), k.store))

        def rest():
            partial = k.partial(k.const(n - whole, "int64"))
            add(k.const(whole, "int64"), lambda p: partial.load(p, dtype), partial.store)

        if n > whole and split == last:  # of the last task
            k.if_(end * (SCATTERED * k.lanes) > whole, rest)
        elif n > whole:
            rest()

    def loops(axis, index):
        if axis == len(shape) - (1 if row else 0):
            point(index)
        else:
            first, past = (begin, end) if axis == split else (0, shape[axis])
            k.loop(first, past, 1, lambda i: loops(axis + 1, [*index, i]))

    if all(shape):
        loops(0, [])
    k.ret()
    k.finish()


def neighbours(shape, g_strides, out_strides, indices):
    """Whether what is added along the last axis are neighbours, and goes to neighbours."""
    last = len(shape) - 1
    return (
        len(shape) > 0
        and g_strides[last] == 1
        and out_strides[last] == 1
        and shape[last] > 1
        and all(i[2][last] == 0 for i in indices)
    )
