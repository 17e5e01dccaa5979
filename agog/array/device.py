"""Devices: the CPU (NumPy) and, with the gpu extra, NVIDIA GPUs (CuPy)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from agog.errors import ArgumentTypeError, DeviceError, MissingExtraError

CPU = "cpu"


def is_device(x: Any) -> bool:
    """True for 'cpu', 'cuda', 'cuda:N'."""
    return isinstance(x, str) and (x == CPU or x == "cuda" or x.startswith("cuda:"))


def of(data: Any) -> str:
    """The device of a raw array."""
    if type(data) is np.ndarray:
        return CPU
    place: Any = getattr(data, "device", None)
    return f"cuda:{place.id}" if hasattr(place, "id") else CPU if place is None else str(place)


def is_foreign(data: Any) -> bool:
    """True for arrays of a GPU library that is already loaded."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(data, cupy.ndarray)


def adopt(data: Any, dtype: Any, copy: bool | None) -> Any:
    """A GPU array as data of a Tensor."""
    if dtype is not None and data.dtype != dtype:
        return data.astype(dtype)
    return data if copy is False else data.copy()


def to_host(data: Any, what: str) -> np.ndarray:
    """The elements as a NumPy array."""
    if type(data) is np.ndarray:
        return data
    if hasattr(data, "__agog_level__"):
        return data.__agog_host__(what)
    return data.get()


def library() -> Any:
    """CuPy, or an error that says how to get it."""
    try:
        import cupy
    except ImportError:
        raise MissingExtraError("GPUs need CuPy: pip install cupy-cuda12x") from None
    return cupy


def available() -> list[str]:
    """'cpu', and the GPUs if CuPy is installed and finds any."""
    try:
        cupy = library()
        return [CPU, *(f"cuda:{i}" for i in range(cupy.cuda.runtime.getDeviceCount()))]
    except Exception:  # no CuPy, or a driver that does not answer
        return [CPU]


def move(data: Any, device: Any) -> Any:
    """`data` on `device`; `data` itself when it is there."""
    if not is_device(device):
        raise ArgumentTypeError(f"{device!r} is not a device; use 'cpu', 'cuda' or 'cuda:0'")
    if device == CPU:
        return to_host(data, "to_device")
    cupy = library()
    index = int(device.partition(":")[2] or 0)
    try:
        if index >= cupy.cuda.runtime.getDeviceCount():
            raise DeviceError(f"there is no device {device!r}")
        with cupy.cuda.Device(index):
            return data if of(data) == f"cuda:{index}" else cupy.asarray(data)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"device {device!r}: {error}") from None
