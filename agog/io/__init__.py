"""Saving and loading: checkpoints in the safetensors format (`pip install agog[io]`)."""

from agog.io._checkpoint import load, load_model, save, save_model

__all__ = ["load", "load_model", "save", "save_model"]
