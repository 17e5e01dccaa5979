"""Checkpoints in safetensors files: arrays as they are, everything else as JSON in the file's metadata.

A file is written next to its place and moved there when it is complete and on disk, so a crash leaves the old
checkpoint or the new one. Checksums of the arrays and of the JSON find damage that the format itself would not.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from typing import Any

import numpy as np

from agog import _version
from agog.array import dtypes
from agog.errors import AgogError, CheckpointError, MissingExtraError
from agog.io._tree import decode, encode
from agog.tensor import Tensor, asarray

_NAMES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
          "BF16": "bfloat16",
          "I32": "int32", "U32": "uint32", "F32": "float32", "F64": "float64", "I64": "int64", "U64": "uint64",
          "C64": "complex64"}
_FORMAT = "1"


def _library() -> Any:
    try:
        import safetensors
    except ImportError:
        raise MissingExtraError("checkpoints need safetensors: pip install safetensors") from None
    return safetensors


def save(path: Any, obj: Any) -> None:
    """Write nested data (dicts, lists, Tensors, arrays, numbers, strings, objects with `state_dict()`) to a file.

        ag.io.save("run.safetensors", {"model": model, "optimizer": opt, "rng": ag.random.get_state(), "epoch": 3})

    The file at `path` is replaced at once, when the new one is complete. Arrays are stored under their dotted names
    ("model.0.weight"), where other programs find them too.

    Raises ArgumentTypeError for what a file cannot hold, MissingExtraError without the package safetensors.
    """
    library = _library()
    arrays: dict[str, np.ndarray] = {}
    tree = encode(obj, arrays)
    sums = {name: _sum(a) for name, a in arrays.items()}
    text = json.dumps({"tree": tree, "sums": sums}, separators=(",", ":"))
    metadata = {"format": "agog", "agog.version": _version.__version__, "agog.format": _FORMAT, "agog.tree": text,
                "agog.sum": str(zlib.crc32(text.encode()))}
    _write(os.fspath(path), library.serialize({name: _spec(library, a) for name, a in arrays.items()}, metadata))


def _sum(a: np.ndarray) -> int:
    return zlib.crc32(a.reshape(-1).view(np.uint8).data)


def _spec(library: Any, a: np.ndarray) -> Any:
    """How the library wants an array described."""
    if not hasattr(library, "TensorSpec"):  # before safetensors 0.8
        return {"dtype": a.dtype.name, "shape": list(a.shape), "data": a.tobytes()}
    return library.TensorSpec(dtype=a.dtype.name, shape=list(a.shape), data_ptr=a.__array_interface__["data"][0],
                              data_len=a.nbytes)


def _write(path: str, content: bytes) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to save in", folder)
    try:
        with open(temporary, "xb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    if os.name == "posix":  # the new name must survive a crash too
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(path: Any) -> Any:
    """What `save` wrote to the file. Of any other safetensors file: a dict of Tensors.

    Raises CheckpointError for a file that is damaged, cut off, or no checkpoint; FileNotFoundError if there is none;
    MissingExtraError without the package safetensors.
    """
    library = _library()
    with open(path, "rb") as f:
        content = f.read()
    where = f"{os.fspath(path)!r}"
    try:
        entries = dict(library.deserialize(content))
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8:8 + size]).get("__metadata__", {})
    except Exception as error:  # the library raises errors of its own for each kind of damage
        raise CheckpointError(f"{where} is damaged, cut off, or no checkpoint at all ({error}); "
                              f"it has {len(content)} bytes") from None
    if metadata.get("format") != "agog" and not any(key.startswith("agog.") for key in metadata):
        return {name: asarray(_array(name, e, where), copy=False) for name, e in entries.items()}
    if metadata.get("agog.format") != _FORMAT:
        raise CheckpointError(f"{where} has format {metadata.get('agog.format')!r} of agog "
                              f"{metadata.get('agog.version')}; this version reads format {_FORMAT!r}")
    text = metadata.get("agog.tree", "")
    if str(zlib.crc32(text.encode())) != metadata.get("agog.sum"):
        raise CheckpointError(f"{where} is damaged: its description does not match its checksum")
    try:
        described = json.loads(text)
        sums = described["sums"]

        def array(name: str, dtype: str) -> np.ndarray:
            data = _array(name, entries[name], where)
            if _sum(data) != sums[name]:
                raise CheckpointError(f"{where} is damaged: the array {name!r} does not match its checksum")
            wanted = dtypes.dtype(dtype)
            return data.reshape(-1).view(wanted).reshape(data.shape[:-1]) if wanted.kind == "c" else data

        return decode(described["tree"], array)
    except AgogError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{where} is damaged: {type(error).__name__} {error}") from None


def _array(name: str, entry: dict[str, Any], where: str) -> np.ndarray:
    if entry["dtype"] not in _NAMES:
        raise CheckpointError(f"{where}: the array {name!r} has dtype {entry['dtype']}, which agog does not have")
    dtype = dtypes.dtype(_NAMES[entry["dtype"]])
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"]).copy()


def save_model(path: Any, model: Any) -> None:
    """Write the parameters and buffers of a module to a file, under their own names."""
    save(path, model.state_dict())


def load_model(path: Any, model: Any, strict: bool = True) -> Any:
    """Give a module the values in a file of `save_model`, or in any safetensors file with the same names.

    Returns the missing and unexpected names; see `Module.load_state_dict`. Raises CheckpointError.
    """
    state = load(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{os.fspath(path)!r} holds more than the state of a model; use load(path) and "
                              "model.load_state_dict with the part of it that is the model's")
    return model.load_state_dict(state, strict)
