"""Datasets: things with a length whose items can be asked for by number."""

from __future__ import annotations

import bisect
import math
from typing import Any, Callable, NamedTuple, Sequence

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


class Dataset:
    """A base for datasets of your own: define `__len__` and `__getitem__(i)`. Anything that has both is a dataset."""

    def __getitem__(self, i: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__")


class IterableDataset:
    """A base for datasets of your own that are streams: define `__iter__`. Any iterable is a dataset."""

    def __iter__(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __iter__")


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


class Access(NamedTuple):
    """How to get at the items of a dataset: a batch at once (or None), one item, and how many there are (or None)."""

    take: Callable[[Any], Any] | None
    item: Callable[[int], Any]
    length: int | None


def access(dataset: Any, who: str) -> Access:
    """How `who` gets at the items of `dataset`. Raises ArgumentTypeError when it is none."""
    if isinstance(dataset, Tensor | np.ndarray):
        if not dataset.ndim:
            raise ShapeError(f"{who}: an array of no axes has no rows")
        return Access(lambda index: rows(dataset, index), dataset.__getitem__, dataset.shape[0])
    if isinstance(dataset, tuple) and dataset and all(isinstance(p, Tensor | np.ndarray) for p in dataset):
        together = TensorDataset(*dataset)
        return Access(together.take, lambda i: tuple(p[i] for p in dataset), len(together))
    if isinstance(dataset, dict) and dataset:
        if not all(isinstance(p, Tensor | np.ndarray) for p in dataset.values()):
            raise ArgumentTypeError(f"{who}: a dict must have arrays as values")
        together = TensorDataset(*dataset.values())
        return Access(lambda index: dict(zip(dataset, together.take(index))),
                      lambda i: {k: p[i] for k, p in dataset.items()}, len(together))
    if isinstance(dataset, TensorDataset):
        return Access(dataset.take, dataset.__getitem__, len(dataset))
    if isinstance(dataset, Subset):
        return Access(None if dataset.access.take is None else dataset.take, dataset.__getitem__, len(dataset))
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return Access(None, dataset.__getitem__, len(dataset))
    if hasattr(dataset, "__iter__"):
        return Access(None, lambda i: None, None)
    raise ArgumentTypeError(f"{who}: a {type(dataset).__name__} is no dataset; give arrays, something with len() and "
                            "items by number, or an iterable")


class Subset:
    """The items of `dataset` (whatever a DataLoader takes that has a length) at `indices`."""

    def __init__(self, dataset: Any, indices: Any):
        self.dataset, self.access, found = dataset, access(dataset, "Subset"), as_indices(indices)
        n = self.access.length
        if n is None:
            raise ArgumentTypeError(f"Subset: a {type(dataset).__name__} has no length and no items by number")
        if found.size and not -n <= found.min() <= found.max() < n:
            raise IndexingError(f"Subset: an index lies outside the {n} items of the dataset")
        self.indices = np.where(found < 0, found + n, found)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexingError(f"Subset[{i}]: there are {len(self)} items")
        return self.access.item(int(self.indices[i]))

    def take(self, index: Any) -> Any:
        """A batch: the items at an array of numbers, or a slice, of a dataset made of arrays."""
        if self.access.take is None:
            raise ArgumentTypeError(f"Subset.take: the items of a {type(self.dataset).__name__} can only be had one "
                                    "by one")
        return self.access.take(self.indices[index])


class ConcatDataset:
    """The items of one dataset (whatever a DataLoader takes that has a length) after those of another."""

    def __init__(self, datasets: Any):
        self.datasets = list(datasets)
        self._access = [access(d, "ConcatDataset") for d in self.datasets]
        if not self.datasets or any(a.length is None for a in self._access):
            raise ArgumentTypeError("ConcatDataset: give datasets that have a length and items by number")
        self.cumulative_sizes = np.cumsum([a.length for a in self._access]).tolist()

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, i: int) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexingError(f"ConcatDataset[{i}]: there are {len(self)} items")
        i = int(i) % len(self)
        which = bisect.bisect_right(self.cumulative_sizes, i)
        return self._access[which].item(i - (self.cumulative_sizes[which - 1] if which else 0))


def random_split(dataset: Any, lengths: Sequence[float], seed: int | None = None) -> list[Subset]:
    """`dataset` cut at random into parts.

    lengths  whole numbers that add up to len(dataset), or fractions that add up to 1 (the rest of rounding goes to the
             first parts, one each)
    seed     the same seed gives the same parts; None draws one from `agog.random`
    """
    n = access(dataset, "random_split").length
    if n is None:
        raise ArgumentTypeError(f"random_split: a {type(dataset).__name__} has no length")
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
