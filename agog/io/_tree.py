"""Nested Python data as JSON and a flat dict of arrays, and back, exactly."""

from __future__ import annotations

import base64
from typing import Any, Callable

import numpy as np

from agog.array import dtypes
from agog.errors import ArgumentTypeError, CheckpointError
from agog.tensor import Tensor, asarray


def encode(obj: Any, arrays: dict[str, np.ndarray], path: str = "") -> Any:
    """`obj` as JSON values. Arrays go to `arrays` under dotted names. Containers and all that JSON lacks become
    {"": kind, ...}."""
    if obj is None or isinstance(obj, bool | str):
        return obj
    if isinstance(obj, int | float) and not isinstance(obj, np.generic):
        return obj
    if isinstance(obj, Tensor | np.ndarray | np.generic):
        kind = "tensor" if isinstance(obj, Tensor) else "array" if isinstance(obj, np.ndarray) else "scalar"
        data = obj.detach()._host("save") if isinstance(obj, Tensor) else np.asarray(obj)
        found = dtypes.dtype(data.dtype)
        name = path or "value"
        while name in arrays:
            name += "_"
        stored = np.ascontiguousarray(data, found).reshape(data.shape)
        if found.kind == "c":
            stored = stored.reshape(-1).view(dtypes.real_of(found)).reshape(*data.shape, 2)
        arrays[name] = stored
        return {"": kind, "name": name, "dtype": found.name}
    if hasattr(obj, "state_dict"):
        return encode(obj.state_dict(), arrays, path)
    dot = path + "." if path else ""
    if isinstance(obj, dict):
        return {"": "dict", "items": [[encode(k, arrays, f"{dot}key"), encode(v, arrays, f"{dot}{k}")]
                                      for k, v in obj.items()]}
    if isinstance(obj, list | tuple):
        items = [encode(v, arrays, f"{dot}{i}") for i, v in enumerate(obj)]
        return {"": "tuple", "items": items} if isinstance(obj, tuple) else items
    if isinstance(obj, complex):
        return {"": "complex", "value": [obj.real, obj.imag]}
    if isinstance(obj, bytes):
        return {"": "bytes", "value": base64.b64encode(obj).decode()}
    if isinstance(obj, np.dtype):
        return {"": "dtype", "value": dtypes.dtype(obj).name}
    raise ArgumentTypeError(f"save: {path or 'the object'} is a {type(obj).__name__}, which a checkpoint cannot hold; "
                            "it can "
                            "hold Tensors, arrays, numbers, strings, None, bytes, dicts, lists, tuples, and objects "
                            "with a state_dict() method")


def decode(node: Any, array: Callable[[str, str], np.ndarray]) -> Any:
    """The inverse of `encode`; `array(name, dtype)` gives the arrays."""
    if isinstance(node, list):
        return [decode(x, array) for x in node]
    if not isinstance(node, dict):
        return node
    kind = node[""]
    if kind in ("tensor", "array", "scalar"):
        data = array(node["name"], node["dtype"])
        return asarray(data, copy=False) if kind == "tensor" else data if kind == "array" else data[()]
    if kind == "dict":
        return {decode(k, array): decode(v, array) for k, v in node["items"]}
    if kind == "tuple":
        return tuple(decode(x, array) for x in node["items"])
    if kind == "complex":
        return complex(*node["value"])
    if kind == "bytes":
        return base64.b64decode(node["value"])
    if kind == "dtype":
        return dtypes.dtype(node["value"])
    raise CheckpointError(f"the checkpoint holds a {kind!r}, which this version of agog does not know")
