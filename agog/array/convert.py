"""From numbers, sequences, buffers and other libraries' arrays to an array of ours, with the default dtypes."""

from typing import Any

import numpy as np

from agog.array import device as devices
from agog.array import dtypes
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, OutOfMemoryError, ShapeError


def to_array(data: Any, dtype: Any, copy: bool | None) -> Any:
    """An array of a number, an array (copied unless `copy` is False), a buffer, or a nested sequence of numbers."""
    dt = None if dtype is None else dtypes.dtype(dtype)
    if type(data) is list:
        return _from_python(data, dt)
    if type(data) in (bool, int, float, complex):
        try:
            return np.asarray(data, dt or dtypes.of_scalar(data))
        except OverflowError:
            raise DTypeError(f"{data} does not fit into {dt or dtypes.of_scalar(data)}") from None
    if devices.is_foreign(data):
        return devices.adopt(data, dt, copy)
    if isinstance(data, np.ndarray | np.generic):
        found = dtypes.dtype(data.dtype)
        array = np.asarray(data)
        if copy is False:
            if (dt or found) is not array.dtype and (dt or found) != array.dtype:
                raise ArgumentError(f"asarray(copy=False): {array.dtype} to {dt} needs a copy")
            return array
        try:
            return np.array(array, dt or found, copy=True, order="C", subok=False)
        except (FloatingPointError, RuntimeWarning):  # what is too large for the dtype is infinite, as everywhere
            with np.errstate(all="ignore"):
                return np.array(array, dt, copy=True, order="C", subok=False)
        except MemoryError as error:
            raise OutOfMemoryError(f"asarray: {error}") from None
    return _from_python(data, dt)


def _from_python(data: Any, dt: Any) -> np.ndarray:
    """Nested sequences of numbers, arrays and Tensors."""
    if type(data) is not list and (hasattr(data, "__array__") or hasattr(data, "__array_interface__")):
        return to_array(np.asarray(data), dt, True)
    if not isinstance(data, list | tuple | range):
        if hasattr(data, "__dlpack__"):
            return to_array(np.from_dlpack(data), dt, True)
        try:
            return to_array(np.asarray(memoryview(data)), dt, True)
        except TypeError:
            raise ArgumentTypeError(f"a {type(data).__name__} is not an array, a nested sequence of numbers, or a "
                                    "number") from None
    try:
        array = np.array(data)
    except ValueError:
        raise ShapeError("the nested sequence is ragged: its rows have different lengths; pad them first") from None
    if array.dtype == object or array.dtype.kind not in "biufcV":
        raise ArgumentTypeError(f"the sequence holds something that is not a number: {_first_alien(data)!r}")
    if dt is None:
        dt = _python_dtype(data, array)
    elif array.size and array.dtype.kind in "iu" and dtypes.kind(dt) in "iu" and array.dtype != dt:
        info = np.iinfo(dt)
        if array.min() < info.min or array.max() > info.max:
            raise DTypeError(f"a number of the sequence does not fit into {dt}, which holds {info.min} to {info.max}")
    if array.dtype is dt or array.ndim == 1 and 0 < array.size <= _FEW and array.dtype is dtypes.float64 and (
            -_FINITE < min(values := array.tolist()) and max(values) < _FINITE):
        return array.astype(dt, copy=False)
    with np.errstate(over="ignore"):
        return array.astype(dt, copy=False)


_FEW, _FINITE = 32, 3e38
"""Numbers that are looked at in less time than an error state of NumPy's takes; up to what float32 has them."""


def _python_dtype(data: Any, array: np.ndarray) -> np.dtype:
    """The default float for Python floats; NumPy scalars and arrays inside keep theirs."""
    first: Any = data
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if isinstance(first, np.ndarray | np.generic) or hasattr(first, "__array__"):
        return dtypes.dtype(array.dtype)
    if array.dtype.kind == "f":
        return dtypes.default_float()
    if array.dtype.kind == "c":
        return dtypes.default_complex()
    return dtypes.dtype(array.dtype)


def _first_alien(data: Any) -> Any:
    for x in data:
        if isinstance(x, list | tuple):
            found = _first_alien(x)
            if found is not None:
                return found
        elif not isinstance(x, int | float | complex | np.generic | np.ndarray) and not hasattr(x, "__array__"):
            return x
    return None


def holds_arrays(x: Any) -> bool:
    """Whether anything in nested sequences is not a plain number."""
    if isinstance(x, list | tuple):
        return any(holds_arrays(y) for y in x)
    return not isinstance(x, bool | int | float | complex | range)
