"""Single items made into a batch."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

import agog as ag
from agog.errors import ArgumentError, ShapeError
from agog.tensor import Tensor


def collate(items: Sequence[Any]) -> Any:
    """A batch of items of equal structure: arrays and numbers are stacked along a new axis 0, tuples, lists and dicts
    are collated part by part, anything else becomes a list."""
    first = items[0]
    if isinstance(first, Tensor):
        if any(type(x._data) is not np.ndarray for x in items):
            return ag.stack(list(items))
        return _stack([x._data for x in items])
    if isinstance(first, np.ndarray | np.generic):
        return _stack([np.asarray(x) for x in items])
    if isinstance(first, bool | int | float | complex):
        return ag.asarray(list(items))
    if isinstance(first, dict):
        if any(x.keys() != first.keys() for x in items):
            raise ArgumentError("collate: the dicts of a batch have different keys")
        return {k: collate([x[k] for x in items]) for k in first}
    if isinstance(first, tuple | list):
        if any(len(x) != len(first) for x in items):
            raise ArgumentError("collate: the tuples of a batch have different lengths; pass collate_fn")
        parts = [collate(column) for column in zip(*items)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return list(items)


def _stack(arrays: list[np.ndarray]) -> Tensor:
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise ShapeError("collate: the arrays of a batch have different shapes, "
                         f"{' and '.join(map(str, sorted(shapes)[:2]))}; "
                         "pad them, or pass collate_fn")
    return ag.asarray(np.stack(arrays), copy=False)
