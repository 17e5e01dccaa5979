"""Datasets: things with a length whose items can be asked for by number."""

from __future__ import annotations

import math
from typing import Any, Sequence

import numpy as np

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError, IndexingError, ShapeError
from agog.tensor import Tensor


def as_indices(indices: Any) -> np.ndarray:
    """Whole numbers as an int64 array."""
    found = np.asarray(indices)
    if found.size == 0:
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ArgumentTypeError("indices must be a sequence of whole numbers")
    return found.astype(np.int64, copy=False)


def rows(array: Any, index: Any) -> Tensor:
    """Rows of an array of which nobody else can write to the result: `index` is an array of numbers, or a slice."""
    data = array._data if isinstance(array, Tensor) else array
    if type(data) is not np.ndarray and not isinstance(data, np.memmap):
        return array[index if isinstance(index, slice) else ag.asarray(index)]
    part = np.asarray(data)[index]
    if isinstance(index, slice) and not isinstance(array, Tensor):
        part = part.copy()  # the memory is the user's, who may write to it
    return ag.asarray(part, copy=False)


class TensorDataset:
    """Arrays (Tensors or NumPy arrays) of equal length along axis 0: item i is the tuple of their rows i."""

    def __init__(self, *tensors: Any):
        if not tensors:
            raise ArgumentError("TensorDataset: give at least one array")
        self.tensors = tuple(t if isinstance(t, Tensor | np.ndarray) else ag.asarray(t) for t in tensors)
        lengths = [t.shape[0] if t.ndim else None for t in self.tensors]
        if None in lengths:
            raise ShapeError("TensorDataset: an array of no axes has no rows")
        if len(set(lengths)) > 1:
            raise ShapeError(f"TensorDataset: the arrays have {', '.join(map(str, lengths))} rows; they must have "
                             "equally many")

    def __len__(self) -> int:
        return self.tensors[0].shape[0]

    def __getitem__(self, i: Any) -> tuple[Tensor, ...]:
        if isinstance(i, int):
            if not -len(self) <= i < len(self):
                raise IndexingError(f"TensorDataset[{i}]: there are {len(self)} rows")
            return tuple(rows(t, slice(i % len(self), i % len(self) + 1))[0] for t in self.tensors)
        return self.take(i if isinstance(i, slice) else as_indices(i))

    def take(self, index: Any) -> tuple[Tensor, ...]:
        """The rows of all arrays at an array of numbers, or a slice."""
        return tuple(rows(t, index) for t in self.tensors)


class Subset:
    """The items of `dataset` at `indices`."""

    def __init__(self, dataset: Any, indices: Sequence[int]):
        self.dataset, self.indices = dataset, as_indices(indices)
        n = len(dataset)
        if self.indices.size and not -n <= self.indices.min() <= self.indices.max() < n:
            raise IndexingError(f"Subset: an index lies outside the {n} items of the dataset")
        if hasattr(dataset, "take") and not isinstance(dataset, Tensor | np.ndarray):
            self.take = self._take

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexingError(f"Subset[{i}]: there are {len(self)} items")
        return self.dataset[int(self.indices[i])]

    def _take(self, index: Any) -> Any:
        return self.dataset.take(self.indices[index])


def random_split(dataset: Any, lengths: Sequence[float], seed: int | None = None) -> list[Subset]:
    """`dataset` cut at random into parts.

    lengths  whole numbers that add up to len(dataset), or fractions that add up to 1 (the rest of rounding goes to the
             first parts, one each)
    seed     the same seed gives the same parts; None draws one from `agog.random`
    """
    n = len(dataset)
    if all(isinstance(x, int) for x in lengths) and sum(lengths) == n and min(lengths, default=0) >= 0:
        sizes = [int(x) for x in lengths]
    elif lengths and math.isclose(sum(lengths), 1.0) and min(lengths) >= 0:
        sizes = [math.floor(n * x) for x in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
    else:
        raise ArgumentError(f"random_split: lengths={list(lengths)}; give whole numbers that add up to {n}, or "
                            "fractions that add up to 1")
    order = permutation(n, new_seed() if seed is None else seed)
    ends = np.cumsum(sizes)
    return [Subset(dataset, order[end - size:end]) for end, size in zip(ends, sizes)]


def new_seed() -> int:
    """A seed drawn from the global generator of `agog.random`."""
    return int(ag.random.integers(0, 2 ** 62).item())


def permutation(n: int, seed: int, epoch: int = 0) -> np.ndarray:
    """The numbers below n in the order that belongs to this seed and epoch."""
    return ag.random.permutation(n, key=ag.random.fold_in(ag.random.key(seed), epoch)).numpy()
