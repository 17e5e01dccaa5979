"""The functions of the public namespace that are not operations on arrays: creation, dtypes, exchange."""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.array import device as devices
from agog.array import dtypes
from agog.array.dtypes import default_float, set_default_float
from agog.dispatch import operand, tensors, wrap
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError
from agog.ops import axes as axis_rules
from agog.tensor import Tensor, asarray

__all__ = ["arange", "astype", "broadcast_shapes", "can_cast", "default_float", "empty", "empty_like", "eye", "finfo",
           "from_dlpack", "from_numpy", "full", "full_like", "iinfo", "is_tensor", "isdtype", "linspace", "logspace",
           "manual_seed", "ones", "ones_like", "permute_dims", "reshape", "result_type", "set_default_float", "tensor",
           "tri", "zeros", "zeros_like"]


def _placed(t: Any, device: Any, requires_grad: bool) -> Tensor:
    if device is not None and device != "cpu":
        t = t.to_device(device)
    elif device is not None and not devices.is_device(device):
        t.to_device(device)  # raises the error that says what a device is
    return t.requires_grad_() if requires_grad else t


def _dtype(dtype: Any) -> Any:
    return None if dtype is None else dtypes.dtype(dtype)


def _shape(shape: Any, sizes: tuple) -> Any:
    """`zeros(2, 3)` as well as `zeros((2, 3))`."""
    if sizes and (isinstance(shape, tuple | list) or isinstance(sizes[-1], str | type | np.dtype)):
        raise ArgumentTypeError(f"{sizes[-1]!r} is no size: write the shape once, and dtype=, device= by name")
    return (shape, *sizes) if sizes else shape


def zeros(shape: Any, *sizes: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor of zeros: `zeros((2, 3))` or `zeros(2, 3)`; float32 by default."""
    return _placed(tensors.zeros(_shape(shape, sizes), _dtype(dtype)), device, requires_grad)


def ones(shape: Any, *sizes: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor of ones: `ones((2, 3))` or `ones(2, 3)`; float32 by default."""
    return _placed(tensors.ones(_shape(shape, sizes), _dtype(dtype)), device, requires_grad)


def empty(shape: Any, *sizes: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor whose elements are whatever the memory held."""
    return _placed(tensors.empty(_shape(shape, sizes), _dtype(dtype)), device, requires_grad)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor of `shape` with every element `fill_value`; the dtype of the value by default."""
    dt = _dtype(dtype)
    if isinstance(fill_value, Tensor):
        dt, fill_value = dt or fill_value.dtype, fill_value.item()
    return _placed(tensors.full(shape, fill_value, dt or dtypes.of_scalar(fill_value)), device, requires_grad)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros of x's shape and (unless given) dtype and device."""
    return _like(tensors.zeros_like, x, dtype, device)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones of x's shape and (unless given) dtype and device."""
    return _like(tensors.ones_like, x, dtype, device)


def empty_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A Tensor of x's shape whose elements are whatever the memory held."""
    return _like(tensors.zeros_like, x, dtype, device)


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    """A Tensor of x's shape with every element `fill_value`."""
    base = _like(tensors.zeros_like, x, dtype, device)
    if isinstance(fill_value, Tensor):
        return base + fill_value.astype(base.dtype)
    return _placed(tensors.full(base.shape, fill_value, base.dtype), base.device, False)


def _like(fn: Any, x: Any, dtype: Any, device: Any) -> Tensor:
    x = asarray(x)
    if dtype is not None:
        x = x.astype(dtype, copy=False)
    return _placed(fn(x.detach()), x.device if device is None else device, False)


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Numbers from `start` (0 when only `stop` is given) up to but without `stop`, `step` apart."""
    if type(start) is type(step) is int and step and (stop is None or type(stop) is int) and dtype is None is device:
        return tensors.arange(0, start, step, None) if stop is None else tensors.arange(start, stop, step, None)
    numbers = [x.item() if isinstance(x, Tensor) else x for x in (start, stop, step)]
    start, stop, step = (0, numbers[0], numbers[2]) if numbers[1] is None else numbers
    for x in (start, stop, step):
        if not isinstance(x, int | float):
            raise ArgumentTypeError(f"arange takes real numbers, not a {type(x).__name__}")
    if step == 0:
        raise ArgumentError("arange: step is 0; give a positive or negative step")
    return _placed(tensors.arange(start, stop, step, _dtype(dtype)), device, False)


def linspace(start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None,
             endpoint: bool = True) -> Tensor:
    """`num` evenly spaced numbers from `start` to `stop`, which is included unless endpoint=False."""
    a, b = (x.item() if isinstance(x, Tensor) else x for x in (start, stop))
    return _placed(tensors.linspace(a, b, num, dtype=_dtype(dtype), endpoint=endpoint), device, False)


def logspace(start: float, stop: float, num: int = 50, *, base: float = 10.0, dtype: Any = None) -> Tensor:
    """`base` to the power of `num` evenly spaced numbers from `start` to `stop`."""
    return (tensors.pow(base, linspace(start, stop, num, dtype="float64"))).astype(dtype or default_float())


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones on diagonal `k`, zeros elsewhere: the identity matrix."""
    return _placed(tensors.eye(n_rows, n_cols, k=k, dtype=_dtype(dtype)), device, False)


def tri(n: int, m: int | None = None, k: int = 0, *, dtype: Any = None) -> Tensor:
    """Ones at and below diagonal `k`."""
    return tensors.tril(ones(n, n if m is None else m, dtype=dtype), k=k)


def tensor(data: Any, dtype: Any = None, *, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new Tensor with a copy of `data` (PyTorch's name for `asarray(..., copy=True)`)."""
    return asarray(data, dtype=dtype, device=device, copy=True if isinstance(data, Tensor | np.ndarray) else None,
                   requires_grad=requires_grad)


def from_numpy(x: np.ndarray, /) -> Tensor:
    """A Tensor that shares the memory of `x`. Writing to `x` afterwards changes the Tensor: prefer `asarray`."""
    return asarray(x, copy=False)


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A Tensor that shares the memory of any array with `__dlpack__` (PyTorch, JAX, CuPy, NumPy, ...)."""
    if isinstance(x, Tensor):
        return x if not copy else x.clone()
    if not hasattr(x, "__dlpack__"):
        raise ArgumentTypeError(f"from_dlpack: a {type(x).__name__} has no __dlpack__ method; use asarray")
    if device is not None and not devices.is_device(device):
        raise ArgumentTypeError(f"{device!r} is not a device; use 'cpu', 'cuda' or 'cuda:0'")
    kind = int(x.__dlpack_device__()[0])
    if kind == 1:
        try:
            data = np.from_dlpack(x, copy=copy)
        except TypeError:  # the other side does not know the argument yet
            data = np.from_dlpack(x) if not copy else np.from_dlpack(x).copy()
        except RuntimeError as error:
            raise DTypeError(f"from_dlpack: NumPy cannot read this {type(x).__name__} ({error}); bfloat16 and other "
                             "dtypes that NumPy has not must be cast first") from None
        t = asarray(data, copy=False)
    else:
        t = wrap(devices.library().from_dlpack(x))
    return t if device is None else t.to_device(device)


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """`x` in `dtype`; itself when nothing changes and copy is False. Differentiable between floating dtypes."""
    out = asarray(x).astype(dtype, copy=copy)
    return out if device is None else out.to_device(device)


def is_tensor(x: Any) -> bool:
    """True for Tensors."""
    return isinstance(x, Tensor)


def result_type(*arrays_and_dtypes: Any) -> Any:
    """The dtype of an operation on these Tensors, dtypes and Python scalars."""
    found, scalars = None, []
    for x in arrays_and_dtypes:
        if isinstance(x, bool | int | float | complex) and not isinstance(x, np.generic):
            scalars.append(x)
            continue
        dt = x.dtype if hasattr(x, "dtype") and not isinstance(x, np.dtype | type) else dtypes.dtype(x)
        found = dt if found is None else dtypes.promote(found, dt)
    if not arrays_and_dtypes:
        raise ArgumentError("result_type: give at least one array, dtype or number")
    for s in scalars:
        found = dtypes.of_scalar(s) if found is None else dtypes.weak(found, s)
    return found


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The common shape of arrays of these shapes. Raises ShapeError when there is none."""
    return axis_rules.broadcast("broadcast_shapes", *[axis_rules.shape("broadcast_shapes", s) for s in shapes])


def can_cast(from_: Any, to: Any, /) -> bool:
    """True when a Tensor or dtype `from_` together with `to` gives `to` by the rules of promotion."""
    a = from_.dtype if isinstance(from_, Tensor) else dtypes.dtype(from_)
    b = dtypes.dtype(to)
    try:
        return dtypes.promote(a, b) == b
    except DTypeError:
        return False


class finfo:
    """Limits of a floating dtype: bits, eps, max, min, smallest_normal, dtype (of the real part for complex)."""

    def __init__(self, type: Any, /):
        dt = type.dtype if hasattr(type, "dtype") and not isinstance(type, np.dtype) else dtypes.dtype(type)
        if not dtypes.is_inexact(dt):
            raise DTypeError(f"finfo: {dt} is not a floating dtype; use iinfo")
        if dt.name == "bfloat16":
            import ml_dtypes

            info: Any = ml_dtypes.finfo(dt)
        else:
            info = np.finfo(dt)
        self.bits = int(info.bits)
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.smallest_normal, self.dtype = float(info.smallest_normal), dtypes.real_of(dt)

    def __repr__(self) -> str:
        return f"finfo(dtype={self.dtype}, eps={self.eps}, max={self.max}, smallest_normal={self.smallest_normal})"


class iinfo:
    """Limits of an integer dtype: bits, max, min, dtype."""

    def __init__(self, type: Any, /):
        dt = type.dtype if hasattr(type, "dtype") and not isinstance(type, np.dtype) else dtypes.dtype(type)
        if dtypes.kind(dt) not in "iu":
            raise DTypeError(f"iinfo: {dt} is not an integer dtype; use finfo")
        info = np.iinfo(dt)
        self.bits, self.max, self.min, self.dtype = int(info.bits), int(info.max), int(info.min), dt

    def __repr__(self) -> str:
        return f"iinfo(dtype={self.dtype}, min={self.min}, max={self.max})"


_KINDS = {"bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu", "real floating": "f",
          "complex floating": "c", "numeric": "iufc"}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether `dtype` is of `kind`: a dtype, one of the standard's kind names, or a tuple of those."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return dtypes.kind(dtypes.dtype(dtype)) in _KINDS[kind]
    if isinstance(kind, str) and kind not in dtypes._NAMES:
        raise ArgumentError(f"isdtype: {kind!r} is not a kind; use one of {', '.join(map(repr, _KINDS))}, or a dtype")
    return dtypes.dtype(dtype) == dtypes.dtype(kind)


def manual_seed(seed: int) -> None:
    """Seed the global generator of `agog.random`."""
    from agog import random

    random.seed(seed)


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Tensor:
    """`x` with another shape of as many elements; one size may be -1."""
    out = tensors.reshape(asarray(x) if operand(x) is None else x, shape)
    return out.clone() if copy else out


def permute_dims(x: Any, /, axes: Any) -> Tensor:
    """`x` with its axes in the order `axes`."""
    return tensors.permute_dims(x, tuple(axes) if isinstance(axes, list) else axes)


class __array_namespace_info__:
    """What this namespace offers, as the Array API's inspection functions tell it."""

    __module__ = "agog"

    def capabilities(self) -> dict[str, Any]:
        """Optional features: boolean indexing, data-dependent shapes, the largest rank."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """Where creation functions put their results."""
        return devices.CPU

    def devices(self) -> tuple[str, ...]:
        """The devices that there are."""
        return tuple(devices.available())

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """The dtypes of Python numbers."""
        return {"real floating": default_float(), "complex floating": dtypes.default_complex(),
                "integral": dtypes.int64, "indexing": dtypes.int64}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        """All dtypes of the standard, or those of a kind."""
        names = [n for n in dtypes._NAMES if n not in ("float16", "bfloat16")]
        return {n: dtypes.dtype(n) for n in names if kind is None or isdtype(n, kind)}


