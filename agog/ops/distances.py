"""Distances between all rows of two matrices."""

from __future__ import annotations

import math

from agog.array import dtypes
from agog.errors import ArgumentError, DTypeError, ShapeError
from agog.ops.explain import describe
from agog.ops.row import composite

_MODES = {"use_mm_for_euclid_dist_if_necessary": None, "use_mm_for_euclid_dist": True,
          "donot_use_mm_for_euclid_dist": False}
_PRODUCT_FROM = 26  # rows of either side from which Euclidean distances come from a product, as in PyTorch


def _root(xp, total, p):
    """total ** (1 / p), whose derivative at 0 counts as 0."""
    same = total == 0
    safe = xp.where(same, 1.0, total)
    return xp.where(same, total, xp.sqrt(safe) if p == 2 else safe ** (1.0 / p))


def _p_norm(xp, d, p):
    """The p-norm along the last axis."""
    if p == 2:
        return _root(xp, xp.sum(d * d, axis=-1), 2)
    if p == 0:
        return xp.sum(xp.astype(d != 0, d.dtype), axis=-1)
    size = xp.abs(d)
    if p == 1:
        return xp.sum(size, axis=-1)
    if p == math.inf:
        return xp.max(size, axis=-1) if d.shape[-1] else xp.sum(size, axis=-1)
    none = size == 0
    return _root(xp, xp.sum(xp.where(none, 0.0, xp.where(none, 1.0, size) ** p), axis=-1), p)


def _checked(name, p, *arrays):
    if not p >= 0:
        raise ArgumentError(f"{name}: p={p}; it is a number of at least 0, or inf")
    for x in arrays:
        if dtypes.kind(x.dtype) != "f":
            raise DTypeError(f"{name}: {describe(x)} does not hold floats")


@composite(samples=lambda s: [((s(4, 3), s(5, 3)), {"p": p}) for p in (2.0, 1.0, 3.0, math.inf)]
           + [((s(2, 4, 3), s(2, 1, 3)), {}),
              ((s(4, 3), s(5, 3)), {"compute_mode": "use_mm_for_euclid_dist"})])
def cdist(xp, x1, x2, p=2.0, compute_mode="use_mm_for_euclid_dist_if_necessary"):
    """The p-norm of the difference of every row of x1 (..., P, M) and every row of x2 (..., R, M): (..., P, R).

    p             from 0 (how many elements differ) to inf (the largest difference)
    compute_mode  for p=2: with a product of matrices, |a|² + |b|² - 2ab, which is faster, and inaccurate for rows that
                  are nearly equal: 'use_mm_for_euclid_dist_if_necessary' (with more than 25 rows),
                  'use_mm_for_euclid_dist', 'donot_use_mm_for_euclid_dist'

    The derivative where a distance is 0 counts as 0. Raises ShapeError, DTypeError and ArgumentError.
    """
    _checked("cdist", p, x1, x2)
    if compute_mode not in _MODES:
        raise ArgumentError(f"cdist: compute_mode={compute_mode!r}; use one of {', '.join(map(repr, _MODES))}")
    if len(x1.shape) < 2 or len(x2.shape) < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(f"cdist(x1={describe(x1)}, x2={describe(x2)}): x1 has shape (..., P, M) and x2 (..., R, M)")
    product = _MODES[compute_mode]
    if product is None:
        product = max(x1.shape[-2], x2.shape[-2]) >= _PRODUCT_FROM
    if p != 2 or not product:
        return _p_norm(xp, xp.expand_dims(x1, axis=-2) - xp.expand_dims(x2, axis=-3), p)
    squares = xp.sum(x1 * x1, axis=-1, keepdims=True) + xp.expand_dims(xp.sum(x2 * x2, axis=-1), axis=-2)
    return _root(xp, xp.maximum(squares - 2.0 * xp.matmul(x1, xp.swapaxes(x2, -1, -2)), 0.0), 2)


@composite(samples=lambda s: [((s(4, 3),), {"p": p}) for p in (2.0, 1.0, 3.0, math.inf)])
def pdist(xp, x, p=2.0):
    """The p-norm of the difference of every two rows of x (N, M): (N (N - 1) / 2,), the pairs (i, j) with i < j.

    The derivative where a distance is 0 counts as 0. Raises ShapeError, DTypeError and ArgumentError.
    """
    _checked("pdist", p, x)
    if len(x.shape) != 2:
        raise ShapeError(f"pdist(x={describe(x)}): x has shape (N, M)")
    i, j = xp.triu_indices(x.shape[0], k=1)
    return _p_norm(xp, xp.take(x, i, axis=0) - xp.take(x, j, axis=0), p)
