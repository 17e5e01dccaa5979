"""Saving and loading: checkpoints in the safetensors format (which needs the package safetensors)."""

from typing import Any

from agog import hints
from agog.io._checkpoint import load, load_model, save, save_model

__all__ = ["load", "load_model", "save", "save_model"]


def __getattr__(name: str) -> Any:
    raise hints.missing("agog.io", name, __all__)
