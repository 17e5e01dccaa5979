"""The cotangent of an array that was read in pieces: each piece is put in its place once, when all are there.

A piece x[i] has for its cotangent an array of zeros as large as x with g at i. A loop over x would make one for each
turn, and add them up: work that grows with the square of the turns.
"""

from __future__ import annotations

from math import prod
from typing import Any


class Pieces:
    """The sum of zeros of `shape` with a `g` at a basic index, several of them."""

    __slots__ = ("gs", "indices", "kept", "shape", "xp")
    __array_ufunc__ = None  # an array leaves sums to this class

    def __init__(self, xp: Any, shape: tuple[int, ...], g: Any, index: Any) -> None:
        self.xp, self.shape, self.gs, self.indices, self.kept = xp, shape, [g], [index], prod(g.shape)

    def __add__(self, other: Any) -> Any:
        if type(other) is not Pieces:
            return self.value() + other
        self.gs += other.gs
        self.indices += other.indices
        self.kept += other.kept
        if self.kept > 2 * prod(self.shape):  # pieces that overlap: together they must not take more than the sum
            g = self.value()
            self.gs, self.indices, self.kept = [g], [()], prod(self.shape)
        return self

    def __radd__(self, other: Any) -> Any:
        return other + self.value()

    def value(self) -> Any:
        """The sum, as a value of the world that the pieces are of."""
        if len(self.gs) > 1:
            return self.xp._getitem_adjoints(*self.gs, shape=self.shape, indices=tuple(self.indices))
        if self.indices[0] == ():
            return self.gs[0]
        return self.xp._getitem_adjoint(self.gs[0], shape=self.shape, index=self.indices[0])


def cover(shape: tuple[int, ...], indices: tuple) -> tuple[bool, bool]:
    """Whether it is known that no two of these basic indices meet, and that nothing is left out by all of them.

    That is seen of indices that differ in a slice or a number at one place, after whole axes.
    """
    axis, spans = 0, []
    whole = slice(None)
    keys = [k if type(k) is tuple else (k,) for k in indices]
    while all(len(k) > axis and k[axis] == whole for k in keys):
        axis += 1
    if axis >= len(shape):
        return False, False
    n = shape[axis]
    alone = True
    for key in keys:
        k = key[axis] if len(key) > axis else None
        if type(k) is int:
            spans.append((k % n, k % n + 1))
        elif type(k) is slice and k.step in (None, 1):
            start, stop, _ = k.indices(n)
            spans.append((start, max(start, stop)))
        else:
            return False, False
        alone = alone and len(key) == axis + 1
    spans.sort()
    at = 0
    for start, stop in spans:
        if start < at:
            return False, False
        alone = alone and start == at
        at = stop
    return True, alone and at == n
