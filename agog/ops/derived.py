"""Functions of NumPy's and PyTorch's that a few others express."""

from __future__ import annotations

import math

import numpy

from agog.array import dtypes
from agog.errors import ArgumentError, ShapeError
from agog.ops import axes as ax
from agog.ops.explain import describe
from agog.ops.row import composite, elementwise

gcd = elementwise("gcd(x, y) -> z", takes="i", smooth=False, domain=(-30, 30), commutative=True,
                  doc="The greatest common divisor of whole numbers, at least 0.")
lcm = elementwise("lcm(x, y) -> z", takes="i", smooth=False, domain=(-9, 9), commutative=True,
                  doc="The least common multiple of whole numbers, at least 0.")


@composite(samples=lambda s: [((s(3, 4),), {"nan": 1.5, "posinf": 3.0})])
def nan_to_num(xp, x, nan=0.0, posinf=None, neginf=None):
    """x with numbers in place of NaN and the infinities: by default 0 and the largest and smallest of the dtype."""
    if dtypes.kind(x.dtype) == "c":
        parts = [xp.nan_to_num(part, nan, posinf, neginf) for part in (xp.real(x), xp.imag(x))]
        return xp.astype(parts[0] + 1j * parts[1], x.dtype)
    if dtypes.kind(x.dtype) != "f":
        return x
    # (of 16 bits what NumPy's finfo does not know)
    top = float(numpy.finfo(x.dtype).max) if x.dtype.name != "bfloat16" else 3.3895313892515355e38
    x = xp.where(xp.isnan(x), nan, x)
    x = xp.where(x == math.inf, top if posinf is None else posinf, x)
    return xp.where(x == -math.inf, -top if neginf is None else neginf, x)


@composite(samples=lambda s: [((s(3, 4),), {})])
def isposinf(xp, x):
    """Where x is infinity."""
    return x == math.inf


@composite(samples=lambda s: [((s(3, 4),), {})])
def isneginf(xp, x):
    """Where x is minus infinity."""
    return x == -math.inf


@composite(samples=lambda s: [((s(3, 5),), {}), ((s(5),), {"correction": 0}),
                              ((s(3, 5),), {"aweights": s(5, lo=0.5, hi=2)})])
def cov(xp, x, correction=1, fweights=None, aweights=None):
    """The covariances (V, V) of V variables, the rows of x (V, N), over N observations; () for x (N,).

    correction  what is taken from the number of observations in the divisor
    fweights    (N,) integers: how often each observation was made
    aweights    (N,) floats of at least 0: how much each observation counts
    """
    if len(x.shape) > 2:
        raise ShapeError(f"cov: x is {describe(x)}; it has shape (V, N) or (N,)")
    x = _float(xp, x)
    rows = x if len(x.shape) == 2 else xp.reshape(x, (1, -1))
    weights = None
    for name, w in (("fweights", fweights), ("aweights", aweights)):
        if w is not None:
            if tuple(w.shape) != (rows.shape[1],):
                raise ShapeError(f"cov: {name} is {describe(w)}; it holds one number for each of {rows.shape[1]} "
                                 "observations")
            weights = w if weights is None else weights * w
    if weights is None:
        count, divisor = rows.shape[1], rows.shape[1] - correction
        d = rows - xp.mean(rows, axis=1, keepdims=True)
        out = xp.matmul(d, xp.conj(xp.swapaxes(d, 0, 1))) / (divisor if count > correction else float("nan"))
    else:
        weights = xp.astype(weights, dtypes.real_of(rows.dtype))
        count = xp.sum(weights)
        d = rows - xp.sum(rows * weights, axis=1, keepdims=True) / count
        less = correction if aweights is None else correction * xp.sum(weights * aweights) / count
        out = xp.matmul(d * weights, xp.conj(xp.swapaxes(d, 0, 1))) / (count - less)
    return out if len(x.shape) == 2 else xp.reshape(out, ())


@composite(samples=lambda s: [((s(3, 5),), {})])
def corrcoef(xp, x):
    """The correlations (V, V) of V variables, the rows of x (V, N), over N observations; () for x (N,)."""
    c = xp.cov(x)
    if not len(c.shape):
        return c / c
    root = xp.sqrt(xp.real(xp.diagonal(c)))
    return c / (xp.expand_dims(root, axis=1) * root)


def _float(xp, x):
    return xp.astype(x, dtypes.default_float()) if dtypes.kind(x.dtype) in "biu" else x


def _trapezoids(xp, name, y, x, dx, axis):
    """The areas between the elements of y along an axis, and that axis."""
    axis = ax.axis(name, y, axis) % len(y.shape)
    y, widths = _float(xp, y), dx
    if x is not None and len(x.shape) != 1:
        widths = xp.diff(_float(xp, x), axis=axis)
    elif x is not None:
        if x.shape[0] != y.shape[axis]:
            raise ShapeError(f"{name}: x is {describe(x)}, but axis {axis} of {describe(y)} has size {y.shape[axis]}")
        widths = xp.reshape(xp.diff(_float(xp, x)), (x.shape[0] - 1,) + (1,) * (len(y.shape) - 1 - axis))
    before = (slice(None),) * axis
    return axis, (y[(*before, slice(1, None))] + y[(*before, slice(None, -1))]) * 0.5 * widths


@composite(samples=lambda s: [((s(3, 5),), {}), ((s(4, 3), s(4)), {"axis": 0})])
def trapezoid(xp, y, x=None, dx=1.0, axis=-1):
    """The integral of y along an axis by trapezoids, at places x (along the axis, or of y's shape), or dx apart."""
    axis, areas = _trapezoids(xp, "trapezoid", y, x, dx, axis)
    return xp.sum(areas, axis=axis)


@composite(samples=lambda s: [((s(3, 5),), {}), ((s(4, 3), s(4)), {"axis": 0})])
def cumulative_trapezoid(xp, y, x=None, dx=1.0, axis=-1):
    """The integrals of y from its beginning along an axis, one fewer than elements; see `trapezoid`."""
    axis, areas = _trapezoids(xp, "cumulative_trapezoid", y, x, dx, axis)
    return xp.cumsum(areas, axis=axis)


@composite(samples=lambda s: [((s(4),), {}), ((s(3),), {"n": 2, "increasing": True})])
def vander(xp, x, n=None, increasing=False):
    """The powers of x (N,): (N, n), from the (n-1)-th down to the 0-th, or with increasing=True up; n: N."""
    if len(x.shape) != 1:
        raise ShapeError(f"vander: x is {describe(x)}; it has shape (N,)")
    n = x.shape[0] if n is None else n
    if n < 0:
        raise ArgumentError(f"vander: n={n}; it is at least 0")
    if not n:
        return xp.zeros((x.shape[0], 0), dtype=x.dtype)
    columns = [xp.ones_like(x)]
    for _ in range(n - 1):
        columns.append(columns[-1] * x)
    return xp.stack(columns if increasing else columns[::-1], axis=1)


@composite(samples=lambda s: [(((s(2, 3), s(1, 2), s(2)),), {})])
def block_diag(xp, arrays):
    """Matrices (vectors are rows, numbers 1 x 1) along the diagonal of one, with zeros elsewhere."""
    blocks = [xp.reshape(a, (1,) * (2 - len(a.shape)) + tuple(a.shape)) if len(a.shape) < 2 else a for a in arrays]
    if not blocks or any(len(b.shape) != 2 for b in blocks):
        raise ShapeError(f"block_diag: give matrices, not {[tuple(b.shape) for b in blocks]}")
    width, at, rows = sum(b.shape[1] for b in blocks), 0, []
    for b in blocks:
        rows.append(xp.pad(b, ((0, 0), (at, width - at - b.shape[1]))))
        at += b.shape[1]
    return xp.concat(rows, axis=0)


@composite(samples=lambda s: [(((s(2), s(3)),), {})])
def cartesian_prod(xp, arrays):
    """All ways to take one element of each vector: (number of ways, number of vectors); the last one varies first."""
    if not arrays or any(len(a.shape) != 1 for a in arrays):
        raise ShapeError(f"cartesian_prod: give vectors, not {[tuple(a.shape) for a in arrays]}")
    if len(arrays) == 1:
        return arrays[0]
    grids = xp.meshgrid(*arrays, indexing="ij")
    return xp.stack([xp.reshape(g, (-1,)) for g in grids], axis=1)


# ------------------------------------------------------------------------------------------------------- linear algebra
@composite
def logdet(xp, x):
    """log of the determinant of matrices (..., n, n): -inf where that is 0, NaN where it is negative."""
    sign, size = xp.slogdet(x)
    return xp.where(sign < 0, float("nan"), size) if dtypes.kind(x.dtype) != "c" else size + xp.log(sign)


@composite(samples=lambda s: [((([s(2, 3), s(3, 4), s(4, 2)]),), {}), (([s(3), s(3, 2), s(2)],), {})])
def multi_dot(xp, arrays):
    """The product of matrices, in the order that takes the fewest multiplications; the ends may be vectors."""
    arrays = list(arrays)
    if len(arrays) < 2:
        raise ArgumentError(f"multi_dot: give at least two arrays, not {len(arrays)}")
    first, last = len(arrays[0].shape) == 1, len(arrays[-1].shape) == 1
    if first:
        arrays[0] = xp.expand_dims(arrays[0], axis=0)
    if last:
        arrays[-1] = xp.expand_dims(arrays[-1], axis=1)
    for a, b in zip(arrays, arrays[1:]):
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
            raise ShapeError(f"multi_dot: {describe(a)} and {describe(b)} have no product")
    out = _product(xp, arrays, _order([a.shape[0] for a in arrays] + [arrays[-1].shape[1]]), 0, len(arrays) - 1)
    return xp.reshape(out, tuple(n for n, left in zip(out.shape, (first, last)) if not left)) if first or last else out


def _order(sizes):
    """Where to cut each chain of factors i..j (Cormen et al., section 15.2)."""
    n = len(sizes) - 1
    cost, cut = [[0] * n for _ in range(n)], [[0] * n for _ in range(n)]
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            cost[i][j], cut[i][j] = min((cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                                        for k in range(i, j))
    return cut


def _product(xp, arrays, cut, i, j):
    if i == j:
        return arrays[i]
    k = cut[i][j]
    return xp.matmul(_product(xp, arrays, cut, i, k), _product(xp, arrays, cut, k + 1, j))


@composite
def cholesky_solve(xp, b, factor, upper=False):
    """x with a x = b (..., n, k), from the Cholesky factor (..., n, n) of a: a = L Lᴴ, or with upper=True Uᴴ U."""
    if len(b.shape) < 2:
        raise ShapeError(f"cholesky_solve: b is {describe(b)}; it has shape (..., n, k)")
    other = xp.conj(xp.swapaxes(factor, -1, -2))
    lower, higher = (other, factor) if upper else (factor, other)
    return xp.triangular_solve(higher, xp.triangular_solve(lower, b, lower=True), lower=False)
