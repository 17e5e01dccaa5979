"""NumPy's functions on Tensors: `__array_ufunc__` (NEP 13) and `__array_function__` (NEP 18).

A NumPy function called on Tensors gives Tensors back where it would give arrays. If agog has the same function, that is
what runs, gradients and all; if not, NumPy computes on the values, and because the result would have lost its history
unnoticed, a Tensor that requires a gradient is refused.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Callable

import numpy as np

from agog import config, tree
from agog.array import dtypes
from agog.dispatch import tensors
from agog.errors import ArgumentTypeError, GradientError
from agog.ops.row import COMPOSITES, TABLE
from agog.tensor import Tensor, asarray, public

_UFUNCS = {  # those of NumPy that are called otherwise here
    "absolute": "abs", "fabs": "abs", "true_divide": "divide", "mod": "remainder", "power": "pow",
    "invert": "bitwise_invert", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin", "arcsinh": "asinh",
    "arctan": "atan", "arctanh": "atanh", "arctan2": "atan2", "conjugate": "conj", "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift", "rint": "round", "radians": "deg2rad", "degrees": "rad2deg",
}
_SCIPY = {  # ufuncs of scipy.special
    "erf": "erf", "erfc": "erfc", "erfinv": "erfinv", "expit": "sigmoid", "log_expit": "log_sigmoid", "logit": "logit",
    "gammaln": "lgamma", "psi": "digamma", "xlogy": "xlogy", "xlog1py": "xlog1py", "entr": "entr", "exprel": "exprel",
    "i0": "i0", "i0e": "i0e", "i1": "i1", "i1e": "i1e", "ndtr": "ndtr", "log_ndtr": "log_ndtr", "ndtri": "ndtri",
}
_FUNCTIONS = {  # NumPy's functions of the same name: how many parameters go by position
    "sum": 1, "prod": 1, "mean": 1, "std": 1, "var": 1, "max": 1, "min": 1, "argmax": 1, "argmin": 1, "all": 1,
    "any": 1, "count_nonzero": 1, "cumulative_sum": 1, "cumulative_prod": 1, "sort": 1, "argsort": 1, "flip": 1,
    "roll": 2, "repeat": 2, "tile": 2, "squeeze": 1, "expand_dims": 2, "reshape": 2, "moveaxis": 3, "swapaxes": 3,
    "broadcast_to": 2, "stack": 1, "diff": 1, "take_along_axis": 2, "tril": 1, "triu": 1, "tensordot": 2,
    "outer": 2, "unstack": 1, "matrix_transpose": 1, "nonzero": 1, "real": 1, "imag": 1, "clip": 1, "linalg.inv": 1,
    "linalg.solve": 2, "linalg.det": 1, "linalg.cholesky": 1, "linalg.qr": 1, "linalg.svd": 1, "linalg.eigh": 1,
    "linalg.eigvalsh": 1, "linalg.slogdet": 1, "linalg.pinv": 1, "linalg.matrix_power": 2, "linalg.svdvals": 1,
    "linalg.vector_norm": 1, "linalg.matrix_norm": 1, "linalg.outer": 2, "linalg.tensordot": 2, "linalg.vecdot": 2,
    "linalg.matmul": 2, "linalg.trace": 1, "linalg.diagonal": 1, "linalg.cross": 2, "linalg.eig": 1,
    "linalg.eigvals": 1, "linalg.matrix_rank": 1, "median": 1, "inner": 2, "kron": 2, "isclose": 2, "rot90": 1,
    "fft.fft": 1, "fft.ifft": 1, "fft.rfft": 1, "fft.irfft": 1, "fft.hfft": 1, "fft.ihfft": 1, "fft.fftn": 1,
    "fft.ifftn": 1, "fft.rfftn": 1, "fft.irfftn": 1, "fft.fftshift": 1, "fft.ifftshift": 1,
}
_PARAMETERS = {"ddof": "correction", "a_min": "min", "a_max": "max"}


# -------------------------------------------------------------------------------------------------------- the protocols
def ufunc(fn: Any, method: str, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    """What `Tensor.__array_ufunc__` returns."""
    if method == "__call__" and not kwargs:
        own = _ufunc(fn)
        if own is not None:
            return own(*inputs)
    out = kwargs.get("out", ())
    if any(isinstance(x, Tensor) for x in out):
        raise ArgumentTypeError(f"np.{fn.__name__}(..., out=tensor): Tensors are not written into; write "
                                f"y = np.{fn.__name__}(...)")
    values = [np.asarray(x) if isinstance(x, Tensor) else x for x in inputs]
    result = getattr(fn, method)(*values, **kwargs)
    return result if out else _results(fn, result, inputs)


def function(fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """What `Tensor.__array_function__` returns."""
    own = _function(fn)
    if own is not None:
        result = own(args, kwargs)
        if result is not NotImplemented:
            return result
    values = tree.map(lambda x: np.asarray(x) if isinstance(x, Tensor) else x, [list(args), kwargs])
    if isinstance(kwargs.get("out"), Tensor):
        raise ArgumentTypeError(f"np.{fn.__name__}(..., out=tensor): Tensors are not written into; use the result")
    result = fn(*values[0], **values[1])
    return result if kwargs.get("out") is not None else _results(fn, result, [args, kwargs])


def _results(fn: Any, result: Any, given: Any) -> Any:
    """The arrays that NumPy gave, as Tensors."""
    def back(x: Any) -> Any:
        if not isinstance(x, np.ndarray | np.generic) or x.dtype.kind not in "biufcV" or x.dtype.names:
            return x
        if dtypes.is_inexact(x.dtype) and config.modes.grad:
            for t in tree.leaves(given):
                if isinstance(t, Tensor) and t.requires_grad:
                    raise GradientError(f"{fn.__name__}, called like this, has no counterpart in agog, so its result "
                                        "would be cut out of the graph unnoticed; write x.detach() for its argument")
        return asarray(x, copy=False if isinstance(x, np.ndarray) and x.base is None else None)

    return tree.map(back, result)


# ----------------------------------------------------------------------------------------------------- the counterparts
@cache
def _ufunc(fn: Any) -> Any:
    """agog's function for a ufunc, or None."""
    name = fn.__name__
    if getattr(np, name, None) is fn:
        name = _UFUNCS.get(name, name)
    elif name in _SCIPY and fn.__class__.__module__ == "numpy":
        name = _SCIPY[name]
    else:
        return None
    return public(name) if name in TABLE or name in COMPOSITES else None


Call = Callable[[tuple, dict[str, Any]], Any]


@cache
def _function(fn: Any) -> Call | None:
    """`call(args, kwargs)` of agog's function for one of NumPy's; None where there is no such function."""
    special = _special().get(fn)
    if special is not None:
        return special
    module = getattr(fn, "__module__", "") or ""
    name = f"{module.removeprefix('numpy').lstrip('.')}.{fn.__name__}".lstrip(".")
    name = {"amax": "max", "amin": "min"}.get(name, name)
    positional = _FUNCTIONS.get(name)
    return None if positional is None else _adapter(fn, name.rpartition(".")[2], positional)


def _adapter(fn: Any, name: str, positional: int) -> Call:
    """Arguments by NumPy's signature, handed on by agog's names; NotImplemented when agog lacks one."""
    own, signature = public(name), inspect.signature(fn)
    accepts = set(inspect.signature(own).parameters)

    def call(args: tuple, kwargs: dict[str, Any]) -> Any:
        bound = list(signature.bind(*args, **kwargs).arguments.items())
        heads = [v for _, v in bound[:positional]]
        rest = {_PARAMETERS.get(k, k): v for k, v in bound[positional:] if v is not np._NoValue}
        if rest.get("out", 0) is None:
            del rest["out"]
        return own(*heads, **rest) if accepts >= rest.keys() else NotImplemented

    return call


def _plain(own: Callable[..., Any], *only: str, count: tuple[int, ...] = ()) -> Call:
    """A call with the same parameters, where no others than the keywords `only` are given."""
    def call(args: tuple, kwargs: dict[str, Any]) -> Any:
        if not kwargs.keys() <= set(only) or count and len(args) not in count:
            return NotImplemented
        return own(*args, **kwargs)

    return call


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    x = asarray(x)
    if ord is None or isinstance(axis, int) or x.ndim == 1:
        return tensors.vector_norm(x, axis=axis, ord=2 if ord is None else ord, keepdims=keepdims)
    if isinstance(axis, tuple) or axis is None and x.ndim == 2:
        return tensors.matrix_norm(x, ord, axis or (0, 1), keepdims)
    return NotImplemented


def _dot(a: Any, b: Any) -> Any:
    a, b = asarray(a), asarray(b)
    return a * b if a.ndim == 0 or b.ndim == 0 else tensors.matmul(a, b) if b.ndim <= 2 else NotImplemented


def _take(a: Any, indices: Any, axis: Any = None) -> Any:
    a = asarray(a)
    return tensors.take(a.reshape(-1) if axis is None else a, asarray(indices), axis=0 if axis is None else axis)


def _concatenate(arrays: Any, axis: Any = 0) -> Any:
    arrays = [asarray(a) for a in arrays]
    return tensors.concat([a.reshape(-1) for a in arrays] if axis is None else arrays, axis=0 if axis is None else axis)


def _hstack(arrays: Any) -> Any:
    arrays = [tensors.reshape(a, (-1,)) if a.ndim == 0 else a for a in map(asarray, arrays)]
    return tensors.concat(arrays, axis=min(1, arrays[0].ndim - 1))


def _average(a: Any, axis: Any = None, weights: Any = None, keepdims: bool = False) -> Any:
    a = asarray(a)
    if weights is None:
        return tensors.mean(a, axis=axis, keepdims=keepdims)
    w = asarray(weights)
    if w.shape != a.shape:
        return NotImplemented
    return tensors.sum(a * w, axis=axis, keepdims=keepdims) / tensors.sum(w, axis=axis, keepdims=keepdims)


def _broadcast_arrays(*xs: Any) -> Any:
    if not all(isinstance(x, Tensor | int | float | complex) or getattr(x, "dtype", None) in _NUMERIC for x in xs):
        return NotImplemented
    return tensors.broadcast_arrays(*map(asarray, xs))


_NUMERIC = {np.dtype(c) for c in "?bhilqBHILQefdFD"}


def _cumulative(name: str) -> Callable[..., Any]:
    def cumulative(a: Any, axis: Any = None, dtype: Any = None) -> Any:
        a = asarray(a)
        flat = a.reshape(-1) if axis is None else a
        return public(name)(flat, axis=0 if axis is None else axis, dtype=dtype)

    return cumulative


def _swap(a: Any, axes: Any = None) -> Any:
    a = asarray(a)
    return tensors.permute_dims(a, tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))


@cache
def _special() -> dict[Any, Call]:
    """The functions whose parameters differ by more than names."""
    stack = lambda axis, low: lambda arrays: tensors.concat(  # noqa: E731
        [a.reshape((1,) * (low - a.ndim) + a.shape) for a in map(asarray, arrays)], axis=axis)
    return {
        np.concatenate: _plain(_concatenate, "axis"), np.where: _plain(public("where"), count=(3,)),
        np.dot: _plain(_dot), np.transpose: _plain(_swap, "axes"),
        np.linalg.norm: _plain(_norm, "ord", "axis", "keepdims"),
        np.einsum: _plain(public("einsum")), np.take: _plain(_take, "axis"),
        np.broadcast_arrays: _plain(_broadcast_arrays),
        np.cumsum: _plain(_cumulative("cumulative_sum"), "axis", "dtype"),
        np.cumprod: _plain(_cumulative("cumulative_prod"), "axis", "dtype"),
        np.ravel: _plain(lambda a: asarray(a).reshape(-1)), np.vstack: _plain(stack(0, 2)),
        np.hstack: _plain(_hstack), np.average: _plain(_average, "axis", "weights", "keepdims"),
        np.split: _plain(lambda a, sections, axis=0: list(tensors.split(asarray(a), sections, axis=axis)), "axis"),
        np.round: _plain(lambda a, decimals=0: round(asarray(a), decimals), "decimals"),
        np.shape: _plain(lambda a: a.shape), np.ndim: _plain(lambda a: a.ndim), np.size: _plain(lambda a: a.size),
        np.zeros_like: _plain(lambda a, dtype=None: _like("zeros_like", a, dtype), "dtype"),
        np.ones_like: _plain(lambda a, dtype=None: _like("ones_like", a, dtype), "dtype"),
        np.copy: _plain(lambda a: a.clone()),
    }


def _like(name: str, a: Any, dtype: Any) -> Any:
    out = getattr(tensors, name)(asarray(a).detach())
    return out if dtype is None else out.astype(dtype, copy=False)
