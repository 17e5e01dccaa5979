"""Loop nests: the language between graph and LLVM.

A nest is a list of expressions over a rectangular domain, and what is stored of them:

    nest   = Nest(sizes, reduced, args, exprs, stores)       reduced: which axes are reduced over
    expr   = load   dtype arg offset strides                 an element of an argument: offset + sum(index * stride)
           | gather dtype arg offset strides parts position  the same, plus value * stride for each (expr, stride, size)
           | const  dtype value
           | coord  dtype axis                               the index along an axis
           | apply  dtype name args                          a function of scalars, such as a row's `lower`
           | cast   dtype expr
           | reduce dtype kind expr                          over all reduced axes: sum prod max min any all
    store  = Store(arg, offset, strides, expr, each)         each: at every point; otherwise per kept index

Sizes, offsets and strides are in elements and known. Two nests of the same text do the same to other arrays, so the
text is also their identity: equal nests of one graph become one function.
"""

from typing import NamedTuple

__all__ = ["Nest", "Store", "normalized"]


class Store(NamedTuple):
    """Where an expression is stored."""

    arg: int
    offset: int
    strides: tuple
    expr: int
    each: bool


class Nest(NamedTuple):
    """One loop nest; see the module's docstring."""

    sizes: tuple
    reduced: tuple
    args: tuple
    exprs: tuple
    stores: tuple

    def __str__(self):
        axes = [
            f"{_index(i)}<{n}{' reduced' if r else ''}"
            for i, (n, r) in enumerate(zip(self.sizes, self.reduced))
        ]
        lines = [f"for {', '.join(axes) or '()'}:"]
        for i, e in enumerate(self.exprs):
            lines.append(f"  %{i}: {e[1]} = {_show(e)}")
        for s in self.stores:
            lines.append(f"  {_place(s.arg, s.offset, s.strides)} = %{s.expr}")
        return "\n".join(lines)


_LETTERS = "ijklmnopqrstuvwxyz"


def _index(axis):
    return _LETTERS[axis] if axis < len(_LETTERS) else f"i{axis}"


def _place(arg, offset, strides):
    terms = [_index(i) + (f"*{s}" if s != 1 else "") for i, s in enumerate(strides) if s]
    if offset or not terms:
        terms.append(str(offset))
    return f"a{arg}[{' + '.join(terms)}]"


def _show(e):
    kind = e[0]
    if kind == "load":
        return _place(*e[2:5])
    if kind == "gather":
        extra = "".join(f" + %{i}*{s}" for i, s, _ in e[5])
        return _place(*e[2:5])[:-1] + extra + "]"
    if kind == "const":
        return repr(e[2])
    if kind == "coord":
        return _index(e[2])
    if kind == "cast":
        return f"cast %{e[2]}"
    if kind == "reduce":
        return f"{e[2]} of %{e[3]}"
    return f"{e[2]}({', '.join('none' if a is None else f'%{a}' for a in e[3])})"


def normalized(nest):
    """The same nest with axes of size 1 dropped, and adjacent axes made one where every access walks them as one."""
    sizes, reduced = list(nest.sizes), list(nest.reduced)
    accesses = [list(e[4]) for e in nest.exprs if e[0] in ("load", "gather")] + [list(s.strides) for s in nest.stores]
    numbers = {e[2] for e in nest.exprs if e[0] == "coord"}
    #: for every axis that is left, the old axes that it is made of
    old = [[i] for i in range(len(sizes))]
    for i in reversed(range(len(sizes))):
        if sizes[i] == 1 and not (reduced[i] and sum(reduced) == 1):
            for row in (sizes, reduced, old, *accesses):
                del row[i]
    i = 0
    while i + 1 < len(sizes):
        same = reduced[i] == reduced[i + 1] and not numbers & {*old[i], *old[i + 1]}
        if same and all(a[i] == a[i + 1] * sizes[i + 1] for a in accesses):
            sizes[i : i + 2] = [sizes[i] * sizes[i + 1]]
            old[i : i + 2] = [old[i] + old[i + 1]]
            del reduced[i]
            for a in accesses:
                del a[i]
        else:
            i += 1
    place = {o: i for i, group in enumerate(old) for o in group}
    walk = iter(accesses)
    exprs = []
    for e in nest.exprs:
        if e[0] in ("load", "gather"):
            e = (*e[:4], tuple(next(walk)), *e[5:])
        elif e[0] == "coord":
            e = ("coord", e[1], place[e[2]]) if e[2] in place else ("const", e[1], 0, "0")
        exprs.append(e)
    stores = tuple(s._replace(strides=tuple(next(walk))) for s in nest.stores)
    return Nest(tuple(sizes), tuple(reduced), nest.args, tuple(exprs), stores)
