"""Data types and their promotion.

A dtype is a NumPy dtype object. Promotion is the Array API's, extended to mixed kinds the way deep-learning
users expect: an integer with a float gives the float's dtype, a bool gives way to anything, Python scalars are weak.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from agog.errors import ArgumentTypeError, DTypeError

bool = np.dtype("bool")  # the standard's name; shadows the builtin in this module only
int8, int16, int32, int64 = (np.dtype(f"int{b}") for b in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{b}") for b in (8, 16, 32, 64))
float16, float32, float64 = (np.dtype(f"float{b}") for b in (16, 32, 64))
complex64, complex128 = np.dtype("complex64"), np.dtype("complex128")

_NAMES = ("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
          "float16 bfloat16 float32 float64 complex64 complex128").split()
_default_float = float32
asked = False
"""Set whenever somebody asks for the default float: a recording of what does not ask need not watch it."""
_COMPLEX_OF: dict[Any, Any] = {float16: complex64, float32: complex64, float64: complex128}
_REAL_OF: dict[Any, Any] = {complex64: float32, complex128: float64}


def __getattr__(name: str) -> Any:
    if name == "bfloat16":  # ml_dtypes registers it with NumPy; imported when somebody asks for it
        import ml_dtypes

        globals()["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
        return globals()["bfloat16"]
    raise AttributeError(name)


def default_float() -> np.dtype:
    """The dtype of floats made from Python numbers: float32 unless `set_default_float` says otherwise."""
    global asked
    asked = True
    return _default_float


def set_default_float(dt: Any) -> None:
    """Make `dt` (a floating dtype) the default of creation functions and of integer-to-float promotion."""
    global _default_float
    dt = dtype(dt)
    if kind(dt) != "f":
        raise DTypeError(f"set_default_float({dt}): give a floating dtype, for example 'float64'")
    _default_float = dt


def default_complex() -> np.dtype:
    return _COMPLEX_OF.get(default_float(), complex64)


_known: dict[Any, np.dtype] = {}


def dtype(spec: Any) -> np.dtype:
    """The dtype that `spec` names: a dtype, its name, a NumPy scalar type, or `bool`, `int`, `float`, `complex`."""
    if type(spec) is str or isinstance(spec, np.dtype):
        found = _known.get(spec)
        if found is None:
            found = _known[spec] = _resolve(spec)
        return found
    return _resolve(spec)


def _resolve(spec: Any) -> np.dtype:
    if isinstance(spec, np.dtype):
        if spec.isnative and spec.name in _NAMES:
            return spec if spec.name == "bfloat16" else np.dtype(spec.name)
        if not spec.isnative:
            return dtype(spec.newbyteorder("="))
    elif spec is float:
        return default_float()
    elif spec is int:
        return int64
    elif spec is complex:
        return default_complex()
    elif spec == "bfloat16":
        return __getattr__("bfloat16")
    else:
        try:
            found = np.dtype(spec)
        except TypeError:
            raise ArgumentTypeError(f"{spec!r} is not a dtype; use one of {', '.join(_NAMES)}") from None
        return dtype(found)
    raise DTypeError(f"agog has no dtype {spec}; use one of {', '.join(_NAMES)}")


def kind(dt: np.dtype) -> str:
    """'b' bool, 'i' signed, 'u' unsigned, 'f' real floating (bfloat16 too), 'c' complex, '?' anything else."""
    k = dt.kind
    if k in "biufc":
        return k
    return "f" if dt.name == "bfloat16" else "?"


def is_floating(dt: np.dtype) -> Any:
    """True for real floating dtypes."""
    return kind(dt) == "f"


def is_inexact(dt: np.dtype) -> Any:
    """True for real and complex floating dtypes: those that can carry a gradient."""
    return kind(dt) in "fc"


def is_half(dt: np.dtype) -> Any:
    """True for the 16-bit floats, which are computed in float32."""
    return dt.itemsize == 2 and kind(dt) == "f"


def real_of(dt: np.dtype) -> np.dtype:
    """float32 of complex64, float64 of complex128, else `dt` itself."""
    return _REAL_OF.get(dt, dt)


def complex_of(dt: np.dtype) -> np.dtype:
    """complex64 of float32, complex128 of float64, else `dt` itself."""
    return _COMPLEX_OF.get(dt, dt)


_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


@cache
def promote(a: np.dtype, b: np.dtype) -> np.dtype:
    """The common dtype of `a` and `b`.

    Raises DTypeError where no dtype holds both (uint64 with a signed integer).
    """
    if a == b:
        return a
    ka, kb = kind(a), kind(b)
    if ka == "?" or kb == "?":
        raise DTypeError(f"{a} and {b} have no common dtype in agog")
    if _RANK[ka] < _RANK[kb]:
        a, b, ka, kb = b, a, kb, ka
    if ka == "c":
        return complex128 if kb == "f" and b == float64 or a == complex128 or b == complex128 else complex64
    if ka == "f":
        if kb != "f":
            return a
        if is_half(a) and is_half(b):
            return float32  # float16 with bfloat16
        return a if a.itemsize > b.itemsize else b
    if kb == "b":
        return a
    if ka != kb and 8 in {d.itemsize for d, k in ((a, ka), (b, kb)) if k == "u"}:
        raise DTypeError(f"{a} and {b} have no common integer dtype; cast one of them with astype first")
    return np.promote_types(a, b)


_WEAK = {int: "i", float: "f", complex: "c"}


def weak(dt: np.dtype, scalar: Any) -> np.dtype:
    """The dtype of an operation between an array of `dt` and a Python scalar: the scalar never widens the array."""
    if scalar is True or scalar is False:
        return dt
    k = _WEAK.get(type(scalar), "?")
    have = kind(dt)
    if k == "i":
        return int64 if have == "b" else dt
    if k == "f":
        return dt if have in "fc" else default_float()
    if k == "c":
        return dt if have == "c" else complex_of(dt) if have == "f" else default_complex()
    return dt


def of_scalar(scalar: Any) -> np.dtype:
    """The dtype of a Python scalar on its own."""
    if scalar is True or scalar is False:
        return bool
    if isinstance(scalar, int):
        return int64
    return complex_of(default_float()) if isinstance(scalar, complex) else default_float()
