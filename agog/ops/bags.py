"""Sums, means and maxima of bags of rows of a table."""

from __future__ import annotations

from typing import Any

import numpy

from agog.array import dtypes
from agog.errors import ArgumentError, DTypeError, ShapeError
from agog.ops.explain import describe
from agog.ops.row import Op, composite


def _bags(np: Any, offsets: Any, n: int, closed: bool) -> Any:
    starts = offsets.astype(np.int64)
    if closed:
        if starts[-1] != n:
            raise ArgumentError(f"embedding_bag: with include_last_offset=True the last offset is the number of "
                                f"indices, {n}, not {int(starts[-1])}")
        starts = starts[:-1]
    if starts.size and (starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] > n):
        raise ArgumentError(f"embedding_bag: the offsets {starts.tolist()[:8]}... say where each bag begins in {n} "
                            "indices: they start with 0 and do not fall")
    if not starts.size and n:
        raise ArgumentError(f"embedding_bag: there are {n} indices, but no bags")
    return np.searchsorted(starts, np.arange(n), side="right") - 1


def _check_bags(offsets: Any, n: int, closed: bool) -> tuple:
    if dtypes.kind(offsets.dtype) not in "iu" or len(offsets.shape) != 1 or closed and not offsets.shape[0]:
        raise ShapeError(f"embedding_bag: offsets is {describe(offsets)}; it is a vector of integers"
                         + (" with at least one" if closed else ""))
    return n, closed


def _bags_batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    return xp.stack([xp._bags(inputs[0][i], *statics) for i in range(inputs[0].shape[0])], axis=0)


Op("_bags(offsets; n, closed=False) -> bag", _bags, check=_check_bags, takes="i", smooth=False, result="int64",
   kind="indexing", batch=_bags_batch, infer=lambda offsets, n, closed: (((n,), numpy.dtype(numpy.int64)),),
   samples=lambda s: [((numpy.array([0, 2, 2]),), {"n": 5}), ((numpy.array([0, 3, 4]),), {"n": 4, "closed": True})],
   doc="The bag (n,) to which each of n indices belongs, from the places at which bags begin.")


def _bag_argmax(np: Any, x: Any, bag: Any, bags: int) -> Any:
    out = np.zeros((bags, x.shape[1]), np.int64)
    if not x.size:
        return out
    starts = np.flatnonzero(np.concatenate(([True], bag[1:] != bag[:-1])))
    which = np.cumsum(np.concatenate(([0], bag[1:] != bag[:-1])))
    top = np.maximum.reduceat(x, starts, 0)[which]
    places = np.where((x == top) | (x != x), np.arange(len(bag))[:, None], len(bag))
    out[bag[starts]] = np.minimum.reduceat(places, starts, 0)
    return out


def _bag_argmax_batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    n = next(v.shape[0] for v, b in zip(inputs, batched) if b)
    return xp.stack([xp._bag_argmax(*[v[i] if b else v for v, b in zip(inputs, batched)], *statics)
                     for i in range(n)], axis=0)


Op("_bag_argmax(x, bag; bags) -> index", _bag_argmax, takes="f", promotes=("x",), smooth=False, result="int64",
   kind="indexing", batch=_bag_argmax_batch,
   samples=lambda s: [((s(5, 2), numpy.array([0, 0, 2, 2, 2])), {"bags": 4})],
   doc="The row of x (n, d) that holds the largest element of each bag and column, the first of equal ones: (bags, d); "
       "bag (n,) does not fall. 0 for bags of nothing.")


@composite(samples=lambda s: [
    ((s.ints(5, 2, 3), s(5, 2)), {"mode": m, "padding_idx": p})
    for m, p in (("sum", None), ("mean", 1), ("max", 2))] + [
    ((s.ints(5, 6), s(5, 2), numpy.array([0, 2, 2, 5])), {"mode": m, "padding_idx": p})
    for m, p in (("sum", 1), ("mean", None), ("max", 0))] + [
    ((s.ints(5, 4), s(5, 2), numpy.array([0, 2, 4])),
     {"mode": "sum", "per_sample_weights": s(4), "include_last_offset": True})])
def embedding_bag(xp, x, weight, offsets=None, mode="mean", per_sample_weights=None, include_last_offset=False,
                  padding_idx=None):
    """The sum, mean or maximum of bags of rows of `weight` (num_embeddings, d): (B, d). An empty bag gives zeros.

    x                    integers (B, L), a bag in each row; or (n,), one bag after another, with `offsets`
    offsets              (B,) integers: where each bag of x (n,) begins; the first is 0
    mode                 'sum', 'mean' or 'max'
    per_sample_weights   of x's shape: factors of the rows, with mode='sum'
    include_last_offset  offsets has one more number at its end, n
    padding_idx          an index that does not count, and whose row gets no gradient

    Raises IndexingError for an index that the table does not have, ShapeError, DTypeError and ArgumentError.
    """
    if mode not in ("sum", "mean", "max"):
        raise ArgumentError(f"embedding_bag: mode={mode!r}; use 'sum', 'mean' or 'max'")
    if len(x.shape) not in (1, 2) or (offsets is None) != (len(x.shape) == 2) or len(weight.shape) != 2:
        raise ShapeError(f"embedding_bag(x={describe(x)}, weight={describe(weight)}): weight has shape "
                         "(num_embeddings, d), and x (B, L) without offsets, or (n,) with offsets (B,)")
    if dtypes.kind(x.dtype) not in "iu":
        raise DTypeError(f"embedding_bag: x is {describe(x)}, but must hold integers")
    if per_sample_weights is not None and (mode != "sum" or per_sample_weights.shape != x.shape):
        raise ArgumentError(f"embedding_bag: per_sample_weights ({describe(per_sample_weights)}) go with mode='sum', "
                            f"not {mode!r}, and have the shape of x, {tuple(x.shape)}")
    if padding_idx is not None and not -weight.shape[0] <= padding_idx < weight.shape[0]:
        raise ArgumentError(f"embedding_bag: padding_idx={padding_idx}, but the table has {weight.shape[0]} rows")
    rows = xp.embedding(x, weight, padding_idx=padding_idx)
    counts = None
    if padding_idx is not None:
        counts = x != padding_idx % weight.shape[0]
        rows = xp.where(xp.expand_dims(counts, axis=-1), rows, -float("inf") if mode == "max" else 0.0)
    if per_sample_weights is not None:
        rows = rows * xp.expand_dims(per_sample_weights, axis=-1)
    if offsets is None:
        return _of_rows(xp, rows, counts, mode)
    bag = xp._bags(offsets, x.shape[0], bool(include_last_offset))
    return _of_offsets(xp, rows, counts, mode, bag, offsets.shape[0] - bool(include_last_offset))


def _of_rows(xp, rows, counts, mode):
    batch, length, d = rows.shape
    if not length:
        return xp.sum(rows, axis=1)
    if mode == "sum" or mode == "mean" and counts is None:
        return xp.sum(rows, axis=1) if mode == "sum" else xp.mean(rows, axis=1)
    if mode == "mean":
        n = xp.sum(xp.astype(counts, rows.dtype), axis=1, keepdims=True)
        return xp.sum(rows, axis=1) / xp.maximum(n, 1.0)
    if counts is not None:
        rows = xp.where(xp.any(xp.expand_dims(counts, axis=-1), axis=1, keepdims=True), rows, 0.0)
    index = xp.argmax(rows, axis=1, keepdims=True)
    return xp.take_along_axis(rows, index, axis=1)[:, 0]


def _of_offsets(xp, rows, counts, mode, bag, bags):
    n, d = rows.shape
    if mode == "sum" or not n:
        return xp._take_adjoint(rows, bag, shape=(bags, d), axis=0)
    one = xp.ones((n,), dtype=rows.dtype) if counts is None else xp.astype(counts, rows.dtype)
    size = xp.expand_dims(xp._take_adjoint(one, bag, shape=(bags,), axis=0), axis=1)
    if mode == "mean":
        return xp._take_adjoint(rows, bag, shape=(bags, d), axis=0) / xp.maximum(size, 1.0)
    top = xp.take_along_axis(rows, xp._bag_argmax(rows, bag, bags), axis=0)
    return xp.where(size > 0, top, 0.0)
