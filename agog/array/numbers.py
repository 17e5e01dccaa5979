"""Python's numbers as arrays of no axes, which ufuncs take in half the time: those in use are kept."""

from __future__ import annotations

from math import copysign
from typing import Any

import numpy as np

from agog.array import dtypes

FLOATS: dict[Any, dict[Any, Any]] = {dtypes.float32: {}, dtypes.float64: {}}
"""The numbers kept for a dtype, by the number."""

_INTEGERS: dict[Any, dict[Any, Any]] = {dtypes.int32: {}, dtypes.int64: {}}
_MOST = 200


def exact(value: Any, dtype: Any) -> Any:
    """A number as an array of `dtype`. Raises where that may not be what a user means (other dtypes, large numbers)."""
    known = FLOATS[dtype]
    array = known.get(value)
    if array is None:
        if not -1e30 < value < 1e30:
            raise OverflowError
        array = _kept(known, value, dtype)
    return array


def weak(value: Any, dtype: Any) -> Any:
    """A number beside an array of `dtype` as an array, where that is the same to a ufunc; else the number itself."""
    known = FLOATS.get(dtype)
    if known is None:
        known = _INTEGERS.get(dtype)
        if known is None or type(value) is not int or not -1 << 31 <= value < 1 << 31:
            return value
    elif not -1e30 < value < 1e30:
        return value
    array = known.get(value)
    return _kept(known, value, dtype) if array is None else array


def _kept(known: dict[Any, Any], value: Any, dtype: Any) -> Any:
    """The array of a number that is not in `known`, which it then is."""
    key = value
    if value == 0:  # 0 is -0, to a dict
        key = "+" if copysign(1.0, value) > 0 else "-"
        array = known.get(key)
        if array is not None:
            return array
    with np.errstate(all="ignore"):
        array = np.array(value, dtype)
    array.flags.writeable = False
    if len(known) > _MOST:
        known.clear()
    known[key] = array
    return array
