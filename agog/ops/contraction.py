"""Products that sum: matmul, the linear maps of neural networks, and what NumPy makes of them; see also `einsum`."""

from __future__ import annotations

import functools
from typing import Any

import numpy

from agog.array import dtypes, large
from agog.errors import ArgumentError, ShapeError
from agog.ops import axes as ax
from agog.ops.blocks import share, small_product
from agog.ops.explain import describe
from agog.ops.row import Op, composite

# ------------------------------------------------------------------------------------------------------------ matmul
_SMALL = 1 << 13  # elements of both factors up to which a product is NumPy's


def _dot(x: Any, y: Any) -> Any:
    """The product of two matrices: what np.matmul does, with half of its overhead."""
    if x.size > _SMALL or y.size > _SMALL:
        done = large.native("matmul", x.shape[0] * y.size, x, y)
        if done is not None:
            return done
    if (x.size == 1 or y.size == 1) and x.shape[1] == y.shape[0]:
        return x * y  # what dot makes of this skips a factor of 0, and so loses the other's nan
    return x.dot(y)


def _outer(np: Any, x: Any, y: Any) -> Any:
    """Columns times rows: nothing is summed, and BLAS would be called for each pair."""
    work = x.size * y.shape[-1]
    if work >= large.THRESHOLD and large.stretched is not None:
        return large.binary(np.multiply, x, y)
    if y.shape[-1] < x.shape[-2]:  # NumPy's inner loop should be the long one
        return _outer(np, y.mT, x.mT).mT
    return x * y if work < large.THRESHOLD else large.binary(np.multiply, x, y)


_TILED = 1 << 15  # multiplications in each of many products from which a native kernel beats NumPy's
_MANY = 1 << 23  # multiplications of many small products from which threads share them out
_PIECE = 1 << 21


def _products(x: Any, y: Any) -> Any:
    """np.matmul of a batch of small matrices and another, or one matrix; None where one thread is to do it."""
    (m, k), n = x.shape[-2:], y.shape[-1]
    batch, work = max(x.size // max(1, m * k), y.size // max(1, k * n)), m * k * n
    if work >= _TILED and x.ndim == y.ndim:
        done = large.native("products", batch * work, x, y)
        if done is not None:
            return done
    if batch * work < _MANY or work > small_product() or x.dtype is not y.dtype or x.dtype.char not in "fd" or (
            x.ndim > 3 or y.ndim > 3 or y.shape[-2] != k or x.ndim == y.ndim and x.shape[0] != y.shape[0]):
        return None
    out = large.empty((batch, m, n), x.dtype)
    step = max(1, _PIECE // work)

    def run(starts: Any) -> None:
        for i in starts:
            part = slice(i, i + step)
            numpy.matmul(x[part] if x.ndim == 3 else x, y[part] if y.ndim == 3 else y, out[part])

    share(range(0, batch, step), run)
    return out


def _matmul(np: Any, x: Any, y: Any) -> Any:
    n, m = x.ndim, y.ndim
    try:
        if type(x) is not type(y):  # a stand-in for data, inside a transformation: np.matmul refuses it, dot would not
            return np.matmul(x, y)
        if n == 2 == m:
            return _dot(x, y)
        if n == 1 == m or m == 1 and n == 2 and y.size > 1 and y.flags.c_contiguous and np is numpy:
            return x.dot(y)
        if n > 2 and m == 2 and x.flags.c_contiguous:  # one large product instead of many small ones
            shape = x.shape
            return _dot(x.reshape((ax.size(shape[:-1]), shape[-1])), y).reshape((*shape[:-1], y.shape[1]))
        if n > 2 and m > 2 and x.shape[-1] == 1 == y.shape[-2] and x.dtype is y.dtype:
            return _outer(np, x, y)
        if n + m > 4 and n > 1 < m and np is numpy:
            done = _products(x, y)
            if done is not None:
                return done
        return np.matmul(x, y)
    except ValueError:
        raise _matmul_error("matmul", x, y) from None


def _matmul_error(op: str, x: Any, y: Any) -> ShapeError:
    if not x.shape or not y.shape:
        return ShapeError(f"{op}: x is {describe(x)}, y is {describe(y)}; a 0-d array cannot be matrix-multiplied, "
                          "use *")
    k, n = x.shape[-1], y.shape[-2] if len(y.shape) > 1 else y.shape[0]
    if k != n:
        hint = ""
        if len(y.shape) > 1 and k == y.shape[-1]:
            hint = "; did you mean x @ y.mT?"
        elif len(x.shape) > 1 and n == x.shape[-2]:
            hint = "; did you mean x.mT @ y?"
        return ShapeError(f"{op}: x is {describe(x)} and y is {describe(y)}: the last axis of x ({k}) must be as "
                          "long as the "
                          f"{'next-to-last' if len(y.shape) > 1 else 'only'} axis of y ({n}){hint}")
    return ShapeError(f"{op}: x is {describe(x)} and y is {describe(y)}: the axes before the last two do not broadcast "
                      "together; every pair of sizes must be equal or hold a 1")


def _matmul_x(xp: Any, g: Any, y: Any, x_shape: tuple) -> Any:
    n, m = len(x_shape), len(y.shape)
    if m == 1:
        return (g if n == 1 else xp.reshape(g, (*g.shape, 1))) * y
    if n == 1:
        if m == 2:
            return xp.matmul(y, g)
        return xp.sum_to(xp.reshape(xp.matmul(y, xp.reshape(g, (*g.shape, 1))), (*y.shape[:-2], y.shape[-2])), x_shape)
    return xp.sum_to(xp.matmul(g, y.mT), x_shape) if m > 2 else xp.matmul(g, y.mT)


def _matmul_y(xp: Any, g: Any, x: Any, y_shape: tuple) -> Any:
    n, m = len(x.shape), len(y_shape)
    if n == 1:
        if m == 1:
            return g * x
        return xp.reshape(x, (x.shape[0], 1)) * xp.reshape(g, (*g.shape[:-1], 1, g.shape[-1]))
    if m <= 2 < n or m == 1:
        rows = ax.size(x.shape[:-1])
        x = xp.reshape(x, (rows, x.shape[-1]))
        return xp.matmul(x.mT, xp.reshape(g, (rows, *g.shape[n - 1:])))
    y = xp.matmul(x.mT, g)
    return xp.sum_to(y, y_shape) if y.shape != y_shape else y


def _batch_matmul(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    x, y = inputs
    n, m = len(x.shape) - batched[0], len(y.shape) - batched[1]
    if not batched[1] and m == 2 or not batched[1] and m == 1 and n > 1:
        return xp.matmul(x, y)  # the batch is one more axis of rows
    if n == 1:
        x = xp.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    if m == 1:
        y = xp.reshape(y, (*y.shape, 1))
    rank = max(n, m, 2)
    if batched[0] and max(n, 2) < rank:
        x = xp.reshape(x, (x.shape[0], *(1,) * (rank - max(n, 2)), *x.shape[1:]))
    if batched[1] and max(m, 2) < rank:
        y = xp.reshape(y, (y.shape[0], *(1,) * (rank - max(m, 2)), *y.shape[1:]))
    z = xp.matmul(x, y)
    shape = z.shape
    if m == 1:
        shape = shape[:-1]
    if n == 1:
        shape = (*shape[:-2], shape[-1]) if m > 1 else shape[:-1]
    return z if shape == z.shape else xp.reshape(z, shape)


matmul = Op("matmul(x, y) -> z", _matmul, vjp={"x": _matmul_x, "y": _matmul_y}, factors={"y": lambda g, x: (x, g)},
            jvp={"x": lambda xp, t, y: xp.matmul(t, y), "y": lambda xp, t, x: xp.matmul(x, t)}, widen=True,
            kind="contraction", batch=_batch_matmul, error=16,
            samples=lambda s: [((s(3, 4), s(4, 2)), {}), ((s(4), s(4)), {}), ((s(3, 4), s(4)), {}),
                               ((s(4), s(4, 3)), {}), ((s(2, 3, 4), s(4, 2)), {}), ((s(2, 1, 3, 4), s(3, 4, 2)), {}),
                               ((s(2, 3, 4), s(4)), {}), ((s(4), s(2, 4, 3)), {}), ((s(3, 4), s(2, 4, 2)), {}),
                               ((s(0, 3), s(3, 2)), {}), ((s(2, 0), s(0, 3)), {})],
            doc="The matrix product x @ y: (..., m, k) with (..., k, n) gives (..., m, n), the axes in front "
                "broadcast. A "
                "1-d x is a row, a 1-d y a column, whose axis is then dropped. Raises ShapeError.")


def _vecdot(np: Any, x: Any, y: Any, axis: int) -> Any:
    return np.vecdot(x, y, axis=axis)


def _conj(xp: Any, x: Any) -> Any:
    return xp.conj(x) if x.dtype.kind == "c" else x


def _outer_axis(xp: Any, g: Any, axis: int) -> Any:
    """`g` with an axis of size 1 where `axis`, counted from the end, was summed away."""
    shape = list(g.shape)
    shape.insert(len(shape) + 1 + axis, 1)
    return xp.reshape(g, tuple(shape))


def _check_vecdot(x: Any, y: Any, axis: Any) -> tuple:
    if not x.shape or not y.shape:
        raise ShapeError(f"vecdot: x is {describe(x)}, y is {describe(y)}; both need at least one axis")
    a = ax.integer("vecdot", "axis", axis)
    a = a if a < 0 else ax.axis("vecdot", x, a) - len(x.shape)
    ax.axis("vecdot", x, a)
    ax.axis("vecdot", y, a)
    if x.shape[a] != y.shape[a]:
        raise ShapeError(f"vecdot: x is {describe(x)} and y is {describe(y)}: on axis {axis} they have {x.shape[a]} "
                         "and "
                         f"{y.shape[a]}, which must be equal")
    ax.broadcast("vecdot", tuple(x.shape), tuple(y.shape))
    return (a,)


def _batch_vecdot(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    rank = max(len(v.shape) - b for v, b in zip(inputs, batched))
    x, y = (xp.reshape(v, (v.shape[0], *(1,) * (rank + 1 - len(v.shape)), *v.shape[1:])) if b else v
            for v, b in zip(inputs, batched))
    return xp.vecdot(x, y, axis=statics[0])


vecdot = Op("vecdot(x, y; axis=-1) -> z", _vecdot, check=_check_vecdot, takes="ifc", widen=True, kind="product",
            vjp={"x": lambda xp, g, y, x_shape, axis:
                 xp.sum_to(_conj(xp, _outer_axis(xp, g, axis) * y), x_shape),
                 "y": lambda xp, g, x, y_shape, axis:
                 xp.sum_to(_outer_axis(xp, g, axis) * _conj(xp, x), y_shape)},
            jvp={"x": lambda xp, t, y, axis: xp.vecdot(t, y, axis=axis),
                 "y": lambda xp, t, x, axis: xp.vecdot(x, t, axis=axis)},
            batch=_batch_vecdot, error=16,
            samples=lambda s: [((s(3, 4), s(3, 4)), {}), ((s(3, 1), s(3, 4)), {"axis": -2}), ((s(4), s(2, 3, 4)), {})],
            doc="The sum over `axis` of conj(x) * y; the other axes broadcast. A non-negative axis is counted in x. "
                "Raises "
                "ShapeError.")


# ------------------------------------------------------------------------------------------------------- linear maps
def _check_linear(x: Any, weight: Any, bias: Any) -> tuple:
    _check_map("linear", x, weight, bias, 1, "weight (outputs, inputs)", "weight")
    return ()


def _check_map(op: str, x: Any, w: Any, bias: Any, inner: int, layout: str, name: str) -> None:
    if len(w.shape) != 2:
        raise ShapeError(f"{op}: {name} is {describe(w)}, but must be a matrix: {layout}")
    if not x.shape or x.shape[-1] != w.shape[inner]:
        raise ShapeError(f"{op}: x is {describe(x)} and {name} is {describe(w)}: the last axis of x must have "
                         f"{w.shape[inner]} elements, the inputs of {layout}")
    if bias is not None and tuple(bias.shape) != (w.shape[1 - inner],):
        raise ShapeError(f"{op}: the bias is {describe(bias)}, but {layout} needs one of shape ({w.shape[1 - inner]},)")


def _map(x: Any, w: Any, bias: Any) -> Any:
    """x @ w + bias, with one matrix product for all axes in front and no array besides the result."""
    shape = x.shape
    if len(shape) != 2:
        x = x.reshape((ax.size(shape[:-1]), shape[-1]))
    z = None
    if bias is not None and (x.size > _SMALL or w.size > _SMALL):
        z = large.native("affine", x.shape[0] * w.size, x, w, bias)
    if z is None:
        z = _dot(x, w)
        if bias is not None:
            z += bias
    return z if len(shape) == 2 else z.reshape((*shape[:-1], w.shape[1]))


def _flat(xp: Any, x: Any) -> Any:
    return x if len(x.shape) == 2 else xp.reshape(x, (ax.size(x.shape[:-1]), x.shape[-1]))


def _product(xp: Any, x: Any, y: Any) -> Any:
    """The product of two matrices of a gradient, on the way that is shortest for small ones."""
    if type(x) is numpy.ndarray and x.ndim == 2 and (x.dtype is dtypes.float32 or x.dtype is dtypes.float64):
        return _dot(x, y)
    return xp.matmul(x, y)


def _pairs(xp: Any, x: Any, y: Any) -> Any:
    """All products of an element of the vector x with one of the vector y."""
    return xp.matmul(xp.reshape(x, (*x.shape, 1)), xp.reshape(y, (1, *y.shape)))


def _weight_rule(xp: Any, g: Any, x: Any) -> Any:
    if len(x.shape) == 1:
        return _pairs(xp, g, x)
    return _product(xp, _flat(xp, g).mT, _flat(xp, x))


@functools.lru_cache(64)
def _ones(n: int, dtype: Any) -> Any:
    return numpy.ones(n, dtype)


def _affine_weight_rule(xp: Any, g: Any, x: Any) -> Any:
    if len(x.shape) == 1:
        return _pairs(xp, x, g)
    return _product(xp, _flat(xp, x).mT, _flat(xp, g))


def _bias_rule(xp: Any, g: Any) -> Any:
    if len(g.shape) == 1:
        return g
    g = _flat(xp, g)
    if type(g) is numpy.ndarray and g.size <= _SMALL and (g.dtype is dtypes.float32 or g.dtype is dtypes.float64):
        return _ones(g.shape[0], g.dtype).dot(g)  # a third of what a reduction takes
    return xp.sum(g, axis=0)


def _batch_map(transposed: bool) -> Any:
    def batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
        x, w, bias = inputs
        if not batched[1]:
            z = xp.linear(x, w) if transposed else xp.affine(x, w)
            if bias is None:
                return z
            if not batched[0]:
                return z + xp.reshape(bias, (bias.shape[0], *(1,) * (len(z.shape) - 1), bias.shape[-1]))
        else:
            z = _batch_matmul(xp, batched[:2], (x, w.mT if transposed else w), ())
            if bias is None:
                return z
        if len(batched) > 2 and batched[2]:
            bias = xp.reshape(bias, (bias.shape[0], *(1,) * (len(z.shape) - 2), bias.shape[-1]))
        return z + bias

    return batch


linear = Op("linear(x, weight, bias=None) -> y", lambda np, x, weight, bias=None: _map(x, weight.T, bias),
            check=_check_linear, takes="ifc", widen=True, kind="product", batch=_batch_map(True), error=16,
            vjp={"x": lambda xp, g, weight: _product(xp, g, weight), "weight": _weight_rule, "bias": _bias_rule},
            factors={"weight": lambda g, x: (g, x)},
            jvp={"x": lambda xp, t, weight: xp.linear(t, weight), "weight": lambda xp, t, x: xp.linear(x, t),
                 "bias": lambda xp, t: t},
            samples=lambda s: [((s(3, 4), s(2, 4), s(2)), {}), ((s(3, 4), s(2, 4), None), {}),
                               ((s(2, 3, 4), s(2, 4), s(2)), {}), ((s(4), s(2, 4), s(2)), {}),
                               ((s(0, 4), s(2, 4), s(2)), {})],
            doc="x @ weight.mT + bias: x (..., inputs), weight (outputs, inputs), bias (outputs,) or None. As in "
                "torch.nn.functional. Raises ShapeError.")


def _check_affine(x: Any, w: Any, bias: Any) -> tuple:
    _check_map("affine", x, w, bias, 0, "w (inputs, outputs)", "w")
    return ()


affine = Op("affine(x, w, bias=None) -> y", lambda np, x, w, bias=None: _map(x, w, bias), check=_check_affine,
            takes="ifc", widen=True, kind="product", batch=_batch_map(False), error=16,
            vjp={"x": lambda xp, g, w: _product(xp, g, w.mT),
                 "w": _affine_weight_rule, "bias": _bias_rule},
            factors={"w": lambda g, x: (x, g)},
            jvp={"x": lambda xp, t, w: xp.affine(t, w), "w": lambda xp, t, x: xp.affine(x, t),
                 "bias": lambda xp, t: t},
            samples=lambda s: [((s(3, 4), s(4, 2), s(2)), {}), ((s(2, 3, 4), s(4, 2), None), {}),
                               ((s(4), s(4, 2), s(2)), {})],
            doc="x @ w + bias: x (..., inputs), w (inputs, outputs), bias (outputs,) or None. Raises ShapeError.")


@composite(samples=lambda s: [((s(3, 4), s(3, 5), s(2, 4, 5), s(2)), {})])
def bilinear(xp, x1, x2, weight, bias=None):
    """y[..., o] = x1[..., i] weight[o, i, j] x2[..., j] + bias[o], as in torch.nn.functional. Raises ShapeError."""
    if len(weight.shape) != 3 or x1.shape[-1:] != weight.shape[1:2] or x2.shape[-1:] != weight.shape[2:]:
        raise ShapeError(f"bilinear: x1 is {describe(x1)}, x2 is {describe(x2)}, weight is {describe(weight)}; "
                         "expected "
                         "x1 (..., i), x2 (..., j) and weight (o, i, j)")
    o, i, j = weight.shape
    z = xp.reshape(xp.affine(x1, xp.reshape(xp.permute_dims(weight, (1, 0, 2)), (i, o * j))), (*x1.shape[:-1], o, j))
    y = xp.sum(z * xp.reshape(x2, (*x2.shape[:-1], 1, j)), axis=-1)
    return y if bias is None else y + bias


# ------------------------------------------------------------------------------------------------- NumPy's products
@composite(samples=lambda s: [((s(2, 3, 4), s(4, 3, 2)), {"axes": ((2, 1), (0, 1))}), ((s(2, 3), s(3, 4)), {"axes": 1}),
                              ((s(2), s(3)), {"axes": 0})])
def tensordot(xp, x, y, axes=2):
    """The sum of products over `axes`: a number n (the last n of x with the first n of y) or two lists of axes.

    The result has the remaining axes of x, then those of y. Raises ShapeError.
    """
    if isinstance(axes, tuple | list):
        if len(axes) != 2:
            raise ArgumentError(f"tensordot: axes={axes}; give a number, or two lists: the axes of x, and those of y")
        a, b = (tuple(ax.axis("tensordot", v, i, "axes") for i in ax.sizes_of("tensordot", s, "axes"))
                for v, s in zip((x, y), axes))
    else:
        n = ax.integer("tensordot", "axes", axes)
        if not 0 <= n <= min(len(x.shape), len(y.shape)):
            raise ArgumentError(f"tensordot: axes={n}, but x is {describe(x)} and y is {describe(y)}")
        a, b = tuple(range(len(x.shape) - n, len(x.shape))), tuple(range(n))
    if len(a) != len(b) or any(x.shape[i] != y.shape[j] for i, j in zip(a, b)):
        raise ShapeError(f"tensordot: axes {a} of x, {describe(x)}, do not fit axes {b} of y, {describe(y)}: the "
                         "sizes must "
                         "be equal, pair by pair")
    rest_x = [i for i in range(len(x.shape)) if i not in a]
    rest_y = [i for i in range(len(y.shape)) if i not in b]
    k = ax.size(tuple(x.shape[i] for i in a))
    left, right = tuple(x.shape[i] for i in rest_x), tuple(y.shape[i] for i in rest_y)
    x = xp.reshape(_ordered(xp, x, (*rest_x, *a)), (ax.size(left), k))
    y = xp.reshape(_ordered(xp, y, (*b, *rest_y)), (k, ax.size(right)))
    return xp.reshape(xp.matmul(x, y), left + right)


def _ordered(xp: Any, x: Any, axes: tuple) -> Any:
    return x if axes == tuple(range(len(axes))) else xp.permute_dims(x, axes)


@composite(samples=lambda s: [((s(3), s(4)), {})])
def outer(xp, x, y):
    """x[i] * y[j] of all elements of both: a matrix."""
    return xp.reshape(x, (ax.size(x.shape), 1)) * xp.reshape(y, (1, ax.size(y.shape)))


@composite(samples=lambda s: [((s(2, 4), s(3, 4)), {}), ((s(4), s(4)), {})])
def inner(xp, x, y):
    """The sum of products over the last axes of both (no conjugation), as `numpy.inner`."""
    if not x.shape or not y.shape:
        return x * y
    if x.shape[-1] != y.shape[-1]:
        raise ShapeError(f"inner: x is {describe(x)} and y is {describe(y)}: the last axes must be equally long")
    return xp.tensordot(x, y, axes=((-1,), (-1,)))


@composite(samples=lambda s: [((s(2, 3), s(4, 2)), {}), ((s(2), s(3, 2)), {})])
def kron(xp, x, y):
    """The Kronecker product: blocks x[i, j] * y. Missing axes are filled up in front."""
    n = max(len(x.shape), len(y.shape))
    a = (1,) * (n - len(x.shape)) + tuple(x.shape)
    b = (1,) * (n - len(y.shape)) + tuple(y.shape)
    wide = xp.reshape(x, tuple(m for size in a for m in (size, 1))) * xp.reshape(
        y, tuple(m for size in b for m in (1, size)))
    return xp.reshape(wide, tuple(i * j for i, j in zip(a, b)))


@composite(samples=lambda s: [((s(2, 3), s(2, 3)), {}), ((s(3, 2), s(3, 1)), {"axis": 0})])
def cross(xp, x, y, axis=-1):
    """The cross product along `axis`, of size 3 in both; the other axes broadcast. Raises ShapeError."""
    i, j = ax.axis("cross", x, axis), ax.axis("cross", y, axis)
    if x.shape[i] != 3 or y.shape[j] != 3:
        raise ShapeError(f"cross: x is {describe(x)} and y is {describe(y)}, but axis {axis} must have size 3 in both")
    a, b = ([xp._getitem(v, index=(slice(None),) * k + (slice(n, n + 1),)) for n in range(3)]
            for v, k in ((x, i), (y, j)))
    parts = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    return xp.concat(parts, axis=len(parts[0].shape) - (len(x.shape) - i) if axis < 0 else axis)
