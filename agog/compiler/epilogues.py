"""Loop nests that go on with a matrix product's rows while these are in the caches: bias, activation, residual, norms.

A product is shared out by rows, and a thread finishes a panel of rows at a time. A nest that comes after it can run on
those rows at once, if it walks them from the first to the last in its outermost loop and reads each in its own turn
only. So whatever is scheduled into one nest with the product's result is its epilogue: there are no forms of their own.
"""

from agog.compiler.schedule import Group

__all__ = ["candidates", "indices_per_row"]


_NEAR = 32  # units after a product that are looked at


def candidates(units, position):
    """The groups that could run with the unit at `position`: of those after it, the ones that need none of these."""
    step, after = units[position], set()
    found = []
    for u in units[position + 1 : position + 1 + _NEAR]:
        if isinstance(u, Group) and step in u.deps and after.isdisjoint(u.deps):
            found.append(u)
        after.add(u)
    return found


def indices_per_row(code, places, out, rows):
    """How many indices of its outermost loop a nest has for each of the rows of `out`; None when it cannot follow.

    code    the nest's `NestPlan`, to be shared out over the outermost loop
    places  (root, offset) of each of its arguments
    out     the root that holds the product, whose rows are contiguous and adjacent
    """
    if code.parts > 1 or code.split == 1 or code.gathers or code.tile or code.crossed:
        return None
    outer, columns = code.order[0], out.size // rows
    sizes = code.nest.sizes
    if sizes[outer] % rows:
        return None
    scale = sizes[outer] // rows
    if columns % scale:
        return None
    length = columns // scale  # elements of `out` that belong to one index
    reads = 0
    for e in code.exprs:
        if e[0] != "load" or places[e[2]][0] is not out:
            continue
        reads += 1
        first = places[e[2]][1] + e[3]
        inner = [(n, s) for a, (n, s) in enumerate(zip(sizes, e[4])) if a != outer]
        last = first + sum((n - 1) * s for n, s in inner)
        if e[4][outer] != length or first < 0 or last >= length or any(s < 0 for _, s in inner):
            return None
    if not reads:
        return None
    if code.v_kept and code.k_depth == 1 and scale % (code.lanes * code.unroll):
        return None  # shares of a vector axis are whole steps of its loop
    return scale
