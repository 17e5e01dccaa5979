"""Sums of many small matrix products as few large ones: the gradient of a weight that is used again and again.

A recurrent network multiplies the same weight at every step. Each step's part of the weight's gradient is a product
aᵀ b of few rows: as large as the weight, though it is made of little. So the factors are kept, and multiplied when all
(or many) are there: [a1; a2; ...]ᵀ [b1; b2; ...].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.array import dtypes
from agog.ops.row import TABLE

_LEAST = 1 << 13  # elements of a weight for which it pays
_KEPT = 8  # factors are kept up to so many times the size of the weight


class Products:
    """The sum of aᵀ b, of 2-d arrays (rows, m) and (rows, n)."""

    __slots__ = ("factors", "kept", "most", "total")

    def __init__(self, size: int) -> None:
        self.factors: list[tuple[np.ndarray, np.ndarray]] = []
        self.kept, self.most, self.total = 0, _KEPT * size, None

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Another aᵀ b."""
        self.factors.append((a, b))
        self.kept += a.size + b.size
        if self.kept > self.most:
            self._multiply()

    def _multiply(self) -> None:
        a, b = self.factors[0] if len(self.factors) == 1 else [np.concatenate(parts) for parts in zip(*self.factors)]
        with np.errstate(all="ignore"):
            product = TABLE["matmul"].raw(a.T, b)
            self.total = product if self.total is None else self.total + product
        self.factors.clear()
        self.kept = 0

    def value(self) -> Any:
        """The sum."""
        if self.factors:
            self._multiply()
        return self.total


def gather(products: dict[Any, Products], leaf: Any, a: Any, b: Any) -> bool:
    """Keep aᵀ b, a part of the cotangent of `leaf`, for `products[leaf]`; False where it had better be computed now.

    a (..., m) and b (..., n) are together smaller than half of the leaf (m, n): keeping them takes no more memory than
    computing would.
    """
    if len(leaf.shape) != 2:
        return False
    size = leaf.shape[0] * leaf.shape[1]
    dtype = a.dtype
    if size < _LEAST or 2 * (a.size + b.size) > size or not a.size:
        return False
    if dtype is not b.dtype or not (dtype is dtypes.float32 or dtype is dtypes.float64):
        return False
    found = products.get(leaf)
    if found is None:
        found = products[leaf] = Products(size)
    found.add(a if a.ndim == 2 else a.reshape(-1, a.shape[-1]), b if b.ndim == 2 else b.reshape(-1, b.shape[-1]))
    return True
