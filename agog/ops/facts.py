"""Facts about rows that only graphs ask for: what commutes, what is a view, shapes that zeros would not show.

They stand here, next to the rows, so that no pass needs to know an operation by its name. The identities between
rows are in `ops.identities`.
"""

from __future__ import annotations

import math
from typing import Any

from agog.array import dtypes
from agog.errors import ShapeError
from agog.ops.row import TABLE

COMMUTATIVE = ("add", "multiply", "equal", "not_equal", "logical_and", "logical_or", "logical_xor", "bitwise_and",
               "bitwise_or", "bitwise_xor")

VIEWS: dict[str, Any] = {  # the row's own computation, where that never copies
    "reshape": None, "permute_dims": None, "flip": None, "diagonal": None,
    "_getitem": lambda np, x, index: x[index if Ellipsis in index else (*index, ...)],  # never a NumPy scalar
    "broadcast_to": lambda np, x, shape: np.broadcast_to(x, shape),
}


def _batch_shape(x: Any, y: Any) -> tuple[int, ...]:
    n = max(len(x), len(y))
    x, y = (1,) * (n - len(x)) + tuple(x), (1,) * (n - len(y)) + tuple(y)
    if any(a != b and 1 not in (a, b) for a, b in zip(x, y)):
        raise ShapeError(f"matmul: the axes in front, {x} and {y}, do not broadcast together")
    return tuple(b if a == 1 else a for a, b in zip(x, y))


def _matmul(x: Any, y: Any) -> tuple:
    if not x.shape or not y.shape:
        raise ShapeError("matmul: a number is no matrix; use x * y")
    a = x.shape if len(x.shape) > 1 else (1, *x.shape)
    b = y.shape if len(y.shape) > 1 else (*y.shape, 1)
    if a[-1] != b[-2]:
        raise ShapeError(f"matmul: the inner sizes differ, {x.shape} @ {y.shape}")
    out = [*_batch_shape(a[:-2], b[:-2]), a[-2], b[-1]]
    if len(x.shape) == 1:
        del out[-2]
    if len(y.shape) == 1:
        del out[-1]
    return ((tuple(out), x.dtype),)


def _conv(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> tuple:
    sizes = [(n + lo + hi - d * (k - 1) - 1) // s + 1
             for n, k, s, (lo, hi), d in zip(x.shape[2:], w.shape[2:], stride, padding, dilation)]
    return (((x.shape[0], w.shape[0], *sizes), x.dtype),)


def _conv_input_grad(g: Any, w: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> tuple:
    return (((g.shape[0], w.shape[1] * groups, *size), g.dtype),)


def _conv_weight_grad(x: Any, g: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> tuple:
    return (((g.shape[1], x.shape[1] // groups, *kernel), x.dtype),)


def _attention(*args: Any) -> tuple:
    q, k, v = args[:3]
    batch = _batch_shape(_batch_shape(q.shape[:-2], k.shape[:-2]), v.shape[:-2])
    return (((*batch, q.shape[-2], v.shape[-1]), q.dtype),)


def _first(*args: Any) -> tuple:
    return ((args[0].shape, args[0].dtype),)


def _filled(*args: Any) -> tuple:
    shape, dtype = args[0], args[-1]
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return ((shape, dtypes.default_float() if dtype is None else dtypes.dtype(dtype)),)


def _full(shape: Any, fill_value: Any, dtype: Any) -> tuple:
    return _filled(shape, dtypes.of_scalar(fill_value) if dtype is None else dtype)


def _reshape(x: Any, shape: Any) -> tuple:
    sizes, total = (shape,) if isinstance(shape, int) else tuple(shape), math.prod(x.shape)
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes = tuple((total // known if known else 0) if n == -1 else n for n in sizes)
    if math.prod(sizes) != total:
        raise ShapeError(f"reshape: {x.shape} has {total} elements, shape={shape} does not")
    return ((sizes, x.dtype),)


INFER: dict[str, Any] = {
    "matmul": _matmul, "conv": _conv, "conv_input_grad": _conv_input_grad, "conv_weight_grad": _conv_weight_grad,
    "_attention": _attention, "_attention_grad": lambda g, *xs: tuple((x.shape, x.dtype) for x in xs[:3]),
    "_fused_norm": _first, "softmax": _first, "log_softmax": _first, "zeros": _filled,
    "ones": _filled, "empty": _filled, "_full": _full, "reshape": _reshape,
    "permute_dims": lambda x, axes: ((tuple(x.shape[a] for a in axes), x.dtype),),
    "astype": lambda x, dtype: ((x.shape, dtype),),
}


def _masked(*args: Any) -> bool:
    """An index with a mask among its arrays."""
    return any(x is not None and dtypes.kind(x.dtype) == "b" for x in args[1:-1])


DYNAMIC: dict[str, Any] = {"_getitem_array": _masked, "_getitem_arrays": _masked, "_getitem_written": _masked,
                           "bincount": lambda *args: True}


def _element(statics: tuple, place: tuple) -> Any:
    """`x[..., i, ...]` for an `i` at the place (0, n) of (index,): `x` taken along axis n, then the other indices."""
    (index,) = statics
    if len(place) != 2 or not all(type(k) in (int, slice) for k in index[: place[1]]):
        return None
    return place[1], ((*index[: place[1]], *index[place[1] + 1 :]),)


SELECTS: dict[str, Any] = {"_getitem": _element}

NAMES = {*COMMUTATIVE, *VIEWS, *INFER, *DYNAMIC, *SELECTS}  # a test sees that all of them are rows


def _state() -> None:
    for name in NAMES & TABLE.keys():
        op = TABLE[name]
        op.commutative = name in COMMUTATIVE
        op.infer, op.dynamic, op.selects = INFER.get(name), DYNAMIC.get(name), SELECTS.get(name)
        if name in VIEWS:
            op.view = VIEWS[name] or op.impl


_state()
