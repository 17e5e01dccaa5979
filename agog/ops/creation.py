"""Creation: arrays from shapes and numbers. The rows have no inputs, so that a graph can hold them as constants."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any

import numpy

from agog.array import dtypes
from agog.errors import ArgumentError, ArgumentTypeError, OutOfMemoryError
from agog.ops import axes as ax
from agog.ops.row import Op, composite

_LARGE = 1 << 30  # bytes from which the memory of the machine is looked at
_FEW = 1 << 20  # elements that are certainly fewer
_INTS = {int}


@lru_cache(maxsize=1)
def _memory() -> int:
    """Bytes of memory this process may use: the machine's, or what its control group allows."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 47
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = min(limit, int(file.read()))
    except (OSError, ValueError):
        pass  # no control group, or no limit ("max")
    return limit


def allocatable(op: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Raises OutOfMemoryError for an array too large for this machine: Linux would grant it and kill later."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > _LARGE and nbytes > _memory():
        raise OutOfMemoryError(f"{op}: {dtype}{list(shape)} needs {nbytes / 1e9:.4g} GB, more than the "
                               f"{_memory() / 1e9:.4g} "
                               "GB of memory here; use a smaller shape or dtype")


_known: dict[Any, Any] = {}  # dtype objects by themselves: to look at a dtype's name takes a microsecond


def _typed(op: str, dtype: Any) -> Any:
    if isinstance(dtype, numpy.dtype):
        found = _known.get(dtype)
        if found is None:
            found = _known[dtype] = dtypes.dtype(dtype)
        return found
    if isinstance(dtype, int) and not isinstance(dtype, bool):
        raise ArgumentTypeError(f"{op}: {dtype!r} is not a dtype; give the shape as one tuple: {op}((2, 3))")
    return dtypes.default_float() if dtype is None else dtypes.dtype(dtype)


def _filled(name: str, what: str) -> Op:
    def check(shape: Any, dtype: Any) -> tuple:
        if dtype is None and type(shape) is tuple and _INTS.issuperset(map(type, shape)):  # the common case
            size = 1
            for n in shape:
                if n < 0:
                    break
                size *= n
            else:
                if size < _FEW:
                    return shape, dtypes.default_float()
        shape, dtype = ax.shape(name, shape), _typed(name, dtype)
        allocatable(name, shape, dtype)
        return shape, dtype

    function = "ones" if name == "ones" else "zeros"
    return Op(f"{name}(; shape, dtype=None) -> y",
              lambda np, shape, dtype: getattr(np, function)(shape, dtypes.default_float() if dtype is None else dtype),
              check=check, result=lambda *a: a[-1] or dtypes.default_float(), kind="creation",
              samples=lambda s: [((), {"shape": (2, 3)}), ((), {"shape": 3, "dtype": s.dtype}), ((), {"shape": ()})],
              doc=f"{what} of `shape` (an int or a tuple); dtype: the default float. Raises ShapeError for negative "
                  "sizes, "
                  "OutOfMemoryError.")


zeros = _filled("zeros", "Zeros")
ones = _filled("ones", "Ones")
empty = _filled("empty", "An array to be overwritten: zeros, so that programs do the same every time, ")


def _check_full(shape: Any, fill_value: Any, dtype: Any) -> tuple:
    shape = ax.shape("full", shape)
    if hasattr(fill_value, "dtype") and not hasattr(fill_value, "_node") and not fill_value.shape:
        dtype, fill_value = fill_value.dtype if dtype is None else dtype, fill_value.item()
    if not isinstance(fill_value, bool | int | float | complex):
        raise ArgumentTypeError(f"full: fill_value={fill_value!r} is not a number")
    dtype = dtypes.of_scalar(fill_value) if dtype is None else dtypes.dtype(dtype)
    if isinstance(fill_value, complex) and dtypes.kind(dtype) != "c":
        raise ArgumentTypeError(f"full: the complex fill_value={fill_value} does not go into {dtype}; give a complex "
                                "dtype")
    allocatable("full", shape, dtype)
    return shape, fill_value, dtype


Op("_full(; shape, fill_value, dtype=None) -> y",
   lambda np, shape, fill_value, dtype:
       np.full(shape, fill_value, dtypes.of_scalar(fill_value) if dtype is None else dtype),
   check=_check_full, result=lambda *a: a[-1], kind="creation",
   samples=lambda s: [((), {"shape": (2, 3), "fill_value": 2}),
                      ((), {"shape": (), "fill_value": 1.5, "dtype": s.dtype})],
   doc="An array of `shape` with every element `fill_value`, a number; see full.")


@composite(samples=lambda s: [((), {"shape": (2,), "fill_value": 1.5}), (((2, 3), s()), {})])
def full(xp, shape, fill_value, dtype=None):
    """An array of `shape` with every element `fill_value`: a number, or a 0-d array (whose gradient is kept).

    dtype: the default dtype of the number's kind.
    """
    if not hasattr(fill_value, "shape") or not hasattr(fill_value, "astype"):
        return xp._full(shape, fill_value, dtype)
    if dtype is not None and dtypes.dtype(dtype) != fill_value.dtype:
        fill_value = xp.astype(fill_value, dtypes.dtype(dtype))
    return xp.broadcast_to(fill_value, ax.shape("full", shape))


@composite(samples=lambda s: [((s(2, 3),), {})])
def zeros_like(xp, x, dtype=None):
    """Zeros of x's shape and, unless given, dtype."""
    return xp.zeros(tuple(x.shape), x.dtype if dtype is None else dtype)


@composite(samples=lambda s: [((s(2, 3),), {})])
def ones_like(xp, x, dtype=None):
    """Ones of x's shape and, unless given, dtype."""
    return xp.ones(tuple(x.shape), x.dtype if dtype is None else dtype)


@composite(samples=lambda s: [((s(2, 3),), {})])
def empty_like(xp, x, dtype=None):
    """An array of x's shape and, unless given, dtype, to be overwritten."""
    return xp.empty(tuple(x.shape), x.dtype if dtype is None else dtype)


@composite(samples=lambda s: [((s(2, 3), 2), {})])
def full_like(xp, x, fill_value, dtype=None):
    """An array of x's shape and, unless given, dtype, with every element `fill_value`."""
    return xp.full(tuple(x.shape), fill_value, x.dtype if dtype is None else dtype)


# ---------------------------------------------------------------------------------------------------------- sequences
def _number(op: str, name: str, value: Any) -> Any:
    """`value` as a Python int or float."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    if not isinstance(value, int | float):
        raise ArgumentTypeError(f"{op}: {name}={value!r} is not a real number")
    return value


def _check_arange(start: Any, stop: Any, step: Any, dtype: Any) -> tuple:
    if stop is None:
        start, stop = 0, start
    if type(start) is type(stop) is type(step) is int and dtype is None and step and abs(stop - start) < _LARGE >> 3:
        return start, stop, step, dtypes.int64
    start, stop, step = (_number("arange", n, v) for n, v in (("start", start), ("stop", stop), ("step", step)))
    if step == 0:
        raise ArgumentError("arange: the step is 0; give a positive or a negative one")
    for name, value in (("start", start), ("stop", stop), ("step", step)):
        if not math.isfinite(value):
            raise ArgumentError(f"arange: {name}={value} is not finite")
    if dtype is None:
        whole = all(isinstance(v, int) for v in (start, stop, step))
        dtype = dtypes.int64 if whole else dtypes.default_float()
    dtype = dtypes.dtype(dtype)
    allocatable("arange", (max(math.ceil((stop - start) / step), 0),), dtype)
    return start, stop, step, dtype


def _arange(np: Any, start: Any, stop: Any, step: Any, dtype: Any) -> Any:
    if stop is None:
        start, stop = 0, start
    if dtype is None:
        dtype = dtypes.int64 if all(isinstance(v, int) for v in (start, stop, step)) else dtypes.default_float()
    if dtype is dtypes.int64 or dtypes.kind(dtype) in "iu":
        return np.arange(start, stop, step, dtype)
    n = max(math.ceil((stop - start) / step), 0)
    return (start + step * np.arange(n, dtype=np.float64)).astype(dtype)


arange = Op("arange(; start, stop=None, step=1, dtype=None) -> y", _arange, check=_check_arange,
            result=lambda *a: a[-1], kind="creation",
            samples=lambda s: [((), {"start": 5}), ((), {"start": 1, "stop": 2, "step": 0.3}),
                               ((), {"start": 5, "stop": 1, "step": -2}), ((), {"start": 3, "stop": 1})],
            doc="Numbers from `start` (0 when only one is given) up to but without `stop`, `step` apart. dtype: "
                "int64 for "
                "ints, else the default float. Raises ArgumentError for a step of 0.")


def _check_linspace(start: Any, stop: Any, num: Any, endpoint: Any, dtype: Any) -> tuple:
    num, = ax.shape("linspace", ax.integer("linspace", "num", num), "num")
    dtype = _typed("linspace", dtype)
    allocatable("linspace", (num,), dtype)
    if isinstance(start, complex) or isinstance(stop, complex):
        return start, stop, num, bool(endpoint), dtypes.complex_of(dtype)
    return _number("linspace", "start", start), _number("linspace", "stop", stop), num, bool(endpoint), dtype


linspace = Op("linspace(; start, stop, num=50, endpoint=True, dtype=None) -> y",
              lambda np, start, stop, num, endpoint, dtype:
                  np.linspace(start, stop, num, endpoint).astype(dtypes.default_float() if dtype is None else dtype),
              check=_check_linspace, result=lambda *a: a[-1], kind="creation",
              samples=lambda s: [((), {"start": 0, "stop": 1, "num": 5}),
                                 ((), {"start": 1.0, "stop": -1.0, "num": 4, "endpoint": False}),
                                 ((), {"start": 0, "stop": 1, "num": 0}), ((), {"start": 0, "stop": 1, "num": 1})],
              doc="`num` evenly spaced numbers from `start` to `stop`, which is the last one unless endpoint=False. "
                  "dtype: "
                  "the default float. Computed in float64.")


@composite
def logspace(xp, start, stop, num=50, endpoint=True, base=10.0, dtype=None):
    """`base` to the power of `num` evenly spaced numbers from `start` to `stop`."""
    dtype = _typed("logspace", dtype)
    return xp.astype(xp.pow(float(base), xp.linspace(start, stop, num, endpoint, dtypes.float64)), dtype)


def _check_eye(n_rows: Any, n_cols: Any, k: Any, dtype: Any) -> tuple:
    n, = ax.shape("eye", ax.integer("eye", "n_rows", n_rows), "n_rows")
    m, = (n,) if n_cols is None else ax.shape("eye", ax.integer("eye", "n_cols", n_cols), "n_cols")
    dtype = _typed("eye", dtype)
    allocatable("eye", (n, m), dtype)
    return n, m, ax.integer("eye", "k", k), dtype


eye = Op("eye(; n_rows, n_cols=None, k=0, dtype=None) -> y",
         lambda np, n_rows, n_cols, k, dtype:
             np.eye(n_rows, n_cols, k, dtypes.default_float() if dtype is None else dtype),
         check=_check_eye, result=lambda *a: a[-1], kind="creation",
         samples=lambda s: [((), {"n_rows": 3}), ((), {"n_rows": 2, "n_cols": 4, "k": 1, "dtype": s.dtype})],
         doc="A matrix with ones on diagonal `k` and zeros elsewhere; n_cols: n_rows. dtype: the default float.")


@composite
def tri(xp, n, m=None, k=0, dtype=None):
    """A matrix (n, m) with ones at and below diagonal `k`, zeros above; m: n."""
    return xp.tril(xp.ones((n, n if m is None else m), dtype), k)


Op("_literal(; values) -> y", lambda np, values: np.asarray(values, np.int64).reshape(len(values)), result="int64",
   kind="creation", samples=lambda s: [((), {"values": (3, 1, 2)}), ((), {"values": ()})],
   doc="The integers of a tuple, int64 (n,).")


def _check_triangle(name: str) -> Any:
    def check(n: Any, m: Any, k: Any) -> tuple:
        n, = ax.shape(name, ax.integer(name, "n", n), "n")
        m, = (n,) if m is None else ax.shape(name, ax.integer(name, "m", m), "m")
        return n, m, ax.integer(name, "k", k)

    return check


def _triangle(name: str, what: str) -> Op:
    return Op(f"_{name}(; n, m=None, k=0) -> i, j",
              lambda np, n, m, k: tuple(i.astype(np.int64, copy=False) for i in getattr(np, name)(n, k, m)),
              check=_check_triangle(name), result=lambda *a: (dtypes.int64,) * 2, kind="creation",
              samples=lambda s: [((), {"n": 3}), ((), {"n": 2, "m": 4, "k": 1}), ((), {"n": 3, "m": 2, "k": -1})],
              doc=f"What `{name}` runs: the places of elements {what} a diagonal.")


_triangle("tril_indices", "at and below")
_triangle("triu_indices", "at and above")
_triangles = lambda s: [((), {"n": 3}), ((), {"n": 2, "m": 4, "k": 1}), ((), {"n": 3, "m": 2, "k": -1})]


# (By name, because the second of NumPy's arguments is the diagonal, and of PyTorch's the number of columns.)
@composite(samples=_triangles)
def tril_indices(xp, n, *, k=0, m=None):
    """Rows and columns of the elements at and below diagonal `k` of a matrix (n, m), row by row: two int64 vectors, for
    x[ag.tril_indices(n)]. m: n."""
    return xp._tril_indices(n, m, k)


@composite(samples=_triangles)
def triu_indices(xp, n, *, k=0, m=None):
    """Rows and columns of the elements at and above diagonal `k` of a matrix (n, m), row by row: two int64 vectors, for
    x[ag.triu_indices(n)]. m: n."""
    return xp._triu_indices(n, m, k)
