"""einsum: any sum of products, as a sequence of matrix products of two arrays each.

Being made of rows, it is differentiable to any order in every world. The order of the products is NumPy's
(`numpy.einsum_path`), found once for each expression and shapes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy

from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.ops import axes as ax
from agog.ops.row import composite


@lru_cache(maxsize=512)
def _parse(text: str, shapes: tuple) -> tuple[tuple[tuple, ...], tuple, dict]:
    """Labels of each operand, of the output, and the size of each label. Axes under an ellipsis get ints as labels."""
    compact = text.replace(" ", "")
    inputs, arrow, output = compact.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(shapes):
        raise ArgumentError(f"einsum({text!r}): {len(terms)} terms for {len(shapes)} arrays; there must be one for "
                            "each, "
                            "separated by commas")
    labels: list[tuple] = []
    sizes: dict[Any, int] = {}
    for i, (term, shape) in enumerate(zip(terms, shapes)):
        labels.append(_labels(text, term, len(shape), f"arrays[{i}] of shape {shape}"))
        for label, n in zip(labels[-1], shape):
            have = sizes.setdefault(label, n)
            if have != n and have != 1 and n != 1:
                raise ShapeError(f"einsum({text!r}): the index {label if isinstance(label, str) else '...'!s} is "
                                 f"{have} in "
                                 f"one place and {n} in arrays[{i}], whose shape is {shape}")
            if have == 1:
                sizes[label] = n
    dots = sorted({c for term in labels for c in term if isinstance(c, int)})
    if arrow:
        out = _labels(text, output, output.replace("...", "").__len__() + len(dots) if "..." in output else len(output),
                      "the result")
        if len(set(out)) != len(out):
            raise ArgumentError(f"einsum({text!r}): an index appears twice in the result")
        for c in out:
            if c not in sizes:
                raise ArgumentError(f"einsum({text!r}): the index {c!r} of the result is in none of the terms")
    else:
        flat = [c for term in terms for c in term.replace("...", "")]
        out = (*dots, *sorted(c for c in set(flat) if flat.count(c) == 1))
    return tuple(labels), out, sizes


def _labels(text: str, term: str, ndim: int, what: str) -> tuple:
    before, dots, after = term.partition("...")
    for c in before + after:
        if not (c.isalpha() and c.isascii()):
            raise ArgumentError(f"einsum({text!r}): {c!r} is no index; use letters, commas, ... and ->")
    hidden = ndim - len(before) - len(after)
    if hidden < 0 or hidden and not dots:
        raise ShapeError(f"einsum({text!r}): the term {term!r} names {len(before) + len(after)} axes, but {what} has "
                         f"{ndim}{'' if dots else '; ... stands for the others'}")
    return (*before, *range(-hidden, 0), *after)


@lru_cache(maxsize=512)
def _path(text: str, shapes: tuple) -> tuple[tuple[int, ...], ...]:
    """Which operands to contract, one pair after another."""
    if len(shapes) < 3:
        return (tuple(range(len(shapes))),)
    path, _ = numpy.einsum_path(text, *[numpy.broadcast_to(numpy.float32(0), s) for s in shapes], optimize="greedy")
    return tuple(path[1:])


def _single(xp: Any, x: Any, labels: tuple, keep: set, sizes: dict) -> tuple[Any, tuple]:
    """One operand with every label once: diagonals taken, what nobody needs summed, and axes of size 1 dropped that are
    longer elsewhere."""
    i = 0
    while i < len(labels):
        first = labels.index(labels[i])
        if first < i:
            if x.shape[first] != x.shape[i]:  # one of them is 1 and stretched
                x = xp.broadcast_to(x, tuple(sizes[c] if c == labels[i] else n for c, n in zip(labels, x.shape)))
            x = xp.moveaxis(xp.diagonal(x, axis1=first, axis2=i), -1, first)
            labels = labels[:i] + labels[i + 1:]
        else:
            i += 1
    thin = [c for c, n in zip(labels, x.shape) if n == 1 and (sizes[c] != 1 or c not in keep)]
    if thin:
        x = xp.reshape(x, tuple(n for c, n in zip(labels, x.shape) if c not in thin))
        labels = tuple(c for c in labels if c not in thin)
    over = tuple(i for i, c in enumerate(labels) if c not in keep)
    if over:
        x = xp.sum(x, axis=over)
        labels = tuple(c for c in labels if c in keep)
    return x, labels


def _arranged(xp: Any, x: Any, labels: tuple, order: tuple, shape: tuple) -> Any:
    if labels != order:
        x = xp.permute_dims(x, tuple(labels.index(c) for c in order))
    return x if tuple(x.shape) == shape else xp.reshape(x, shape)


def _arrangement(labels: tuple, order: tuple, sizes: dict, shape: tuple) -> tuple:
    """(axes to permute or None, shape to take then or None) that bring axes of these labels into an order and shape."""
    axes = None if labels == order else tuple(labels.index(c) for c in order)
    return axes, None if tuple(sizes[c] for c in order) == shape else shape


def _arrange(xp: Any, x: Any, arrangement: tuple) -> Any:
    axes, shape = arrangement
    if axes is not None:
        x = xp.permute_dims(x, axes)
    return x if shape is None else xp.reshape(x, shape)


def _planned(a: tuple, b: tuple, keep: set, sizes: dict) -> tuple[tuple, tuple]:
    """How two operands of these labels are multiplied and summed over the labels that are not in `keep`, for `_pair`;
    and the labels of the result."""
    shared = [c for c in a if c in b]
    batch = tuple(c for c in shared if c in keep)
    inner = tuple(c for c in shared if c not in keep)
    left, right = tuple(c for c in a if c not in b), tuple(c for c in b if c not in a)

    def size(labels: tuple) -> tuple:
        return tuple(sizes[c] for c in labels)

    result = batch + left + right
    if not inner:
        x = _arrangement(a, batch + left, sizes, size(batch + left) + (1,) * len(right))
        y = _arrangement(b, batch + right, sizes, size(batch) + (1,) * len(left) + size(right))
        return (x, y, None, (None, None)), result
    k, m, n = (ax.size(size(c)) for c in (inner, left, right))
    x = _arrangement(a, batch + left + inner, sizes, (*size(batch), m, k))
    # y is wanted as (k, n); where it lies the other way round, a transposed view spares the copy
    turned = b == batch + right + inner
    order, columns = (b, (n, k)) if turned else (batch + inner + right, (k, n))
    y = _arrangement(b, order, sizes, (*size(batch), *columns))
    z = None, None if (*size(batch), m, n) == size(result) else size(result)
    return (x, y, turned, z), result


def _pair(xp: Any, x: Any, y: Any, plan: tuple) -> Any:
    """The product of two operands."""
    to_x, to_y, turned, to_z = plan
    x, y = _arrange(xp, x, to_x), _arrange(xp, y, to_y)
    if turned is None:
        return x * y
    return _arrange(xp, xp.matmul(x, y.mT if turned else y), to_z)


@lru_cache(maxsize=512)
def _straight(text: str, shapes: tuple) -> Any:
    """For two arrays that need nothing before they are multiplied: how that is done, and what is done then. Else None.
    """
    if len(shapes) != 2:
        return None
    (a, b), out, sizes = _parse(text, shapes)
    for labels, other, shape in ((a, b, shapes[0]), (b, a, shapes[1])):
        if len(set(labels)) != len(labels) or not set(labels) <= {*other, *out} or any(
                n == 1 and (sizes[c] != 1 or c not in {*other, *out}) for c, n in zip(labels, shape)):
            return None
    # an axis of size 1 that is to be summed over is dropped first
    if any(sizes[c] == 1 and c not in out for c in (*a, *b)):
        return None
    plan, found = _planned(a, b, set(out), sizes)
    return plan, _arrangement(found, out, sizes, tuple(sizes[c] for c in out))


@composite(samples=lambda s: [(("ij,jk->ik", s(2, 3), s(3, 4)), {}), (("bij,bkj->bik", s(2, 3, 4), s(2, 2, 4)), {}),
                              (("i,j,ijk->k", s(2), s(3), s(2, 3, 4)), {}), (("ii->i", s(3, 3)), {}),
                              (("...i,...i", s(2, 3), s(1, 3)), {}), (("iij,j->i", s(2, 2, 3), s(3)), {})])
def einsum(xp, subscripts, *arrays):
    """The sum of products that `subscripts` says, as `numpy.einsum`: einsum("bij,bjk->bik", x, y).

    Axes with the same letter are multiplied elementwise, letters that the result lacks are summed over, a letter twice
    in a term takes the diagonal, `...` stands for axes that broadcast. Without "->" the result has the letters that
    occur once, in alphabetical order. Raises ArgumentError for a malformed expression, ShapeError for sizes that
    differ.
    """
    if not isinstance(subscripts, str):
        raise ArgumentTypeError("einsum: the first argument is the expression, for example 'ij,jk->ik', not "
                                f"{subscripts!r}")
    if len(arrays) == 1 and isinstance(arrays[0], tuple | list):
        arrays = tuple(arrays[0])
    if not arrays:
        raise ArgumentError(f"einsum({subscripts!r}): no arrays given")
    shapes = tuple([tuple(x.shape) for x in arrays])
    straight = _straight(subscripts, shapes)
    if straight is not None:
        plan, last = straight
        return _arrange(xp, _pair(xp, *arrays, plan), last)
    labels, out, sizes = _parse(subscripts, shapes)
    operands = list(zip(arrays, labels))
    for step in _path(subscripts, shapes):
        chosen = [operands[i] for i in step]
        operands = [o for i, o in enumerate(operands) if i not in step]
        x, a = chosen[0]
        for i, (y, b) in enumerate(chosen[1:], 1):
            later = set(out).union(*[c for _, c in operands], *[c for _, c in chosen[i + 1:]])
            x, a = _single(xp, x, a, later | set(b), sizes)
            y, b = _single(xp, y, b, later | set(a), sizes)
            x, a = _single(xp, x, a, later | set(b), sizes)
            plan, a = _planned(a, b, later, sizes)
            x = _pair(xp, x, y, plan)
        operands.append((x, a))
    x, a = _single(xp, *operands[0], set(out), sizes)
    missing = tuple(c for c in out if c not in a)  # stretched by nobody: cannot be, except for axes of size 1
    if missing:
        x, a = xp.reshape(x, (1,) * len(missing) + tuple(x.shape)), missing + a
    return _arranged(xp, x, a, out, tuple(sizes[c] for c in out))
