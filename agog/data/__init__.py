"""Datasets and batches.

    for x, y in ag.data.DataLoader((images, labels), batch_size=64, shuffle=True, seed=0):
        ...
"""

from typing import Any

from agog import hints
from agog.data._collate import collate
from agog.data._datasets import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from agog.data._loader import DataLoader

__all__ = ["ConcatDataset", "DataLoader", "Dataset", "IterableDataset", "Subset", "TensorDataset", "collate",
           "random_split"]


def __getattr__(name: str) -> Any:
    raise hints.missing("agog.data", name, __all__)
