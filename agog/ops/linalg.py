"""Linear algebra: solving, inverting, determinants, and what is made of them; see `decompositions` for the others.

Every operation works on stacks of matrices in the last two axes. Integers become the default float, 16-bit floats are
computed in float32. Gradients: Giles, "Collected matrix derivative results" (2008), and for complex matrices the same
in the transpose convention of `ops.row`. Where an inverse is needed, forwards or backwards, a singular matrix raises
ArgumentError.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy

from agog.array import dtypes
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.ops import axes as ax
from agog.ops.explain import describe
from agog.ops.row import Op, composite

SlogdetResult = namedtuple("SlogdetResult", ("sign", "logabsdet"))


def square(op: str, x: Any) -> tuple:
    """Raises ShapeError unless `x` is a square matrix or a stack of them."""
    matrix(op, x)
    if x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{op}: x is {describe(x)}, but must be square: its last two axes have {x.shape[-2]} and "
                         f"{x.shape[-1]} elements")
    return ()


def matrix(op: str, x: Any) -> tuple:
    """Raises ShapeError unless `x` has two axes or more."""
    if len(x.shape) < 2:
        raise ShapeError(f"{op}: x is {describe(x)}, but must be a matrix or a stack of matrices (..., m, n)")
    return ()


def conj(xp: Any, x: Any) -> Any:
    """The conjugate; a real `x` itself."""
    return xp.conj(x) if dtypes.kind(x.dtype) == "c" else x


def adjoint(xp: Any, x: Any) -> Any:
    """The conjugate transpose."""
    return conj(xp, x.mT)


def identity(xp: Any, n: int, like: Any) -> Any:
    return xp.eye(n, dtype=like.dtype)


def regular(s: Any, *shape: int) -> Any:
    """Random matrices of the dtype under test, far from singular."""
    return (s(*shape) + 4 * numpy.eye(shape[-1])).astype(s.dtype)


def batch_first(name: str) -> Any:
    """The batching rule of a row that works on stacks of matrices anyway."""
    def batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
        return getattr(xp, name)(inputs[0], *statics)

    return batch


def _row(signature: str, impl: Any = None, **kw: Any) -> Op:
    name = signature.partition("(")[0]
    kw = {"check": lambda x: square(name.lstrip("_"), x), "batch": batch_first(name)} | kw
    return Op(signature, impl, to_float=True, takes="fc", widen=True, kind="linalg", error=200, **kw)


# ---------------------------------------------------------------------------------------------------------- solving
inv = _row("inv(x) -> y", lambda np, x: np.linalg.inv(x), vjp={"x": lambda xp, g, y: -(y.mT @ g @ y.mT)},
           jvp={"x": lambda xp, t, y: -(y @ t @ y)},
           samples=lambda s: [((regular(s, 3, 3),), {}), ((regular(s, 2, 2, 2),), {}), ((s(0, 0),), {})],
           doc="The inverse of square matrices (..., n, n). Raises ArgumentError for a singular one.")


def _check_solve(op: str, a: Any, b: Any) -> tuple:
    square(op, a)
    rows = b.shape[0] if len(b.shape) == 1 else b.shape[-2] if b.shape else None
    if rows != a.shape[-1]:
        raise ShapeError(f"{op}: a is {describe(a)}, so b must be (..., {a.shape[-1]}, k) or a vector of "
                         f"{a.shape[-1]}, "
                         f"not {describe(b)}")
    if len(b.shape) > 1:
        ax.broadcast(op, tuple(a.shape[:-2]), tuple(b.shape[:-2]))
    return ()


def _column(xp: Any, b: Any) -> Any:
    return xp.reshape(b, (*b.shape, 1))


def _solve_a(xp: Any, solved: Any, x: Any, vector: bool) -> Any:
    """The cotangent of a, from a⁻ᵀg and the solution."""
    if vector:
        return -(_column(xp, solved) * xp.reshape(x, (*x.shape[:-1], 1, x.shape[-1])))
    return -(solved @ x.mT)


def _solve_rule_a(xp: Any, g: Any, a: Any, x: Any, b_shape: tuple) -> Any:
    return xp.sum_to(_solve_a(xp, _transposed_solve(xp, a, g, b_shape), x, len(b_shape) == 1), tuple(a.shape))


def _transposed_solve(xp: Any, a: Any, g: Any, b_shape: tuple) -> Any:
    """a⁻ᵀ g; the solutions for a vector b and a stack of matrices are rows of g."""
    if len(b_shape) == 1 and len(a.shape) > 2:
        return xp.reshape(xp.solve(a.mT, _column(xp, g)), g.shape)
    return xp.solve(a.mT, g)


def _batch_solve(name: str) -> Any:
    def batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
        a, b = inputs
        vector = len(b.shape) - batched[1] == 1
        if vector:
            b = _column(xp, b)
        rank = max(len(a.shape) - batched[0], len(b.shape) - batched[1])
        a, b = (xp.reshape(v, (v.shape[0], *(1,) * (rank + 1 - len(v.shape)), *v.shape[1:])) if f else v
                for v, f in zip((a, b), batched))
        x = getattr(xp, name)(a, b, *statics)
        return xp.reshape(x, tuple(x.shape[:-1])) if vector else x

    return batch


solve = _row("solve(a, b) -> x", lambda np, a, b: np.linalg.solve(a, b),
             check=lambda a, b: _check_solve("solve", a, b), batch=_batch_solve("solve"),
             vjp={"a": _solve_rule_a,
                  "b": lambda xp, g, a, b_shape: xp.sum_to(_transposed_solve(xp, a, g, b_shape), b_shape)},
             samples=lambda s: [((regular(s, 3, 3), s(3, 2)), {}), ((regular(s, 3, 3), s(3)), {}),
                                ((regular(s, 2, 3, 3), s(3, 2)), {}), ((regular(s, 3, 3), s(2, 3, 1)), {}),
                                ((regular(s, 2, 3, 3), s(3)), {})],
             doc="x with a @ x = b: a (..., n, n), b (..., n, k) or one vector (n,). Raises ArgumentError for a "
                 "singular "
                 "a, ShapeError.")


def _triangle(np: Any, a: Any, lower: bool, unit_diagonal: bool) -> Any:
    a = np.tril(a) if lower else np.triu(a)
    if unit_diagonal:
        i = np.arange(a.shape[-1])
        a[..., i, i] = 1
    return a


def _triangular_solve(np: Any, a: Any, b: Any, lower: bool, unit_diagonal: bool) -> Any:
    if a.ndim > 2 or b.ndim > 2 or a.dtype != b.dtype or not a.size or not b.size:
        return np.linalg.solve(_triangle(np, a, lower, unit_diagonal), b)
    from scipy.linalg import solve_triangular

    return solve_triangular(a, b, lower=lower, unit_diagonal=unit_diagonal, check_finite=False)


def _half(xp: Any, a: Any, lower: bool, unit_diagonal: bool) -> Any:
    k = int(unit_diagonal)
    return xp.tril(a, k=-k) if lower else xp.triu(a, k=k)


def _triangular_back(xp: Any, g: Any, a: Any, b_shape: tuple, lower: bool, unit: bool) -> Any:
    vector = len(b_shape) == 1 and len(a.shape) > 2
    out = xp.triangular_solve(a.mT, _column(xp, g) if vector else g, lower=not lower, unit_diagonal=unit)
    return xp.reshape(out, g.shape) if vector else out


triangular_solve = _row(
    "triangular_solve(a, b; lower=True, unit_diagonal=False) -> x", _triangular_solve,
    check=lambda a, b, lower, unit_diagonal:
        (*_check_solve("triangular_solve", a, b), bool(lower), bool(unit_diagonal)),
    batch=_batch_solve("triangular_solve"),
    vjp={"a": lambda xp, g, a, x, b_shape, lower, unit_diagonal: xp.sum_to(_half(xp, _solve_a(
             xp, _triangular_back(xp, g, a, b_shape, lower, unit_diagonal), x, len(b_shape) == 1),
             lower, unit_diagonal), tuple(a.shape)),
         "b": lambda xp, g, a, b_shape, lower, unit_diagonal:
             xp.sum_to(_triangular_back(xp, g, a, b_shape, lower, unit_diagonal), b_shape)},
    samples=lambda s: [((regular(s, 3, 3), s(3, 2)), {}), ((regular(s, 3, 3), s(3)), {"lower": False}),
                       ((s(3, 3), s(3, 2)), {"unit_diagonal": True}),
                       ((regular(s, 2, 3, 3), s(3, 2)), {"lower": False}),
                       ((regular(s, 2, 3, 3), s(2, 3, 2)), {"unit_diagonal": True, "lower": False})],
    doc="x with a @ x = b, reading only the lower (or upper) triangle of a (..., n, n), whose diagonal counts as "
        "ones with "
        "unit_diagonal; b as for solve. Raises ArgumentError for a zero on the diagonal.")


def _cholesky(np: Any, x: Any) -> Any:
    return np.linalg.cholesky((x + x.conj().mT) / 2)


def _cholesky_rule(xp: Any, g: Any, y: Any) -> Any:
    """Murray, "Differentiation of the Cholesky decomposition" (2016): y⁻ᵀ Φ(yᵀg) ȳ⁻¹, made Hermitian; Φ takes the lower
    triangle and half of the diagonal."""
    p = xp.tril(y.mT @ g)
    p = p - 0.5 * xp.tril(xp.triu(p))
    p = xp.triangular_solve(y.mT, p, lower=False)
    p = xp.triangular_solve(adjoint(xp, y), p.mT, lower=False).mT
    return 0.5 * (p + adjoint(xp, p))


_row("_cholesky(x) -> y", _cholesky, vjp={"x": _cholesky_rule},
     samples=lambda s: [((_definite(s, 3),), {}), ((_definite(s, 2, 3),), {})],
     doc="The lower triangular factor; see cholesky.")


def _definite(s: Any, *shape: int) -> Any:
    a = regular(s, *shape, shape[-1])
    a = a.astype(numpy.complex128 if a.dtype.kind == "c" else numpy.float64)
    return (a @ a.conj().mT / 4).astype(s.dtype)


@composite(samples=lambda s: [((_definite(s, 3),), {"upper": True})])
def cholesky(xp, x, upper=False):
    """The triangular factor L of positive definite matrices x = L Lᴴ (or U of x = Uᴴ U), with a positive diagonal.

    Works on (x + xᴴ) / 2, so that the gradient is Hermitian. Raises ArgumentError where that is not positive definite.
    """
    factor = xp._cholesky(x)
    return adjoint(xp, factor) if upper else factor


# ------------------------------------------------------------------------------------------------------ determinants
def _adjugate(np: Any, x: Any) -> Any:
    """det(x) x⁻ᵀ, also of singular matrices: with x = U S Vᴴ, it is det(U Vᴴ) Ū diag(products of the other s) V̄ᴴ."""
    u, s, vh = np.linalg.svd(x)
    n = s.shape[-1]
    others = np.ones_like(s)
    for i in range(n):
        others[..., i] = np.multiply.reduce(np.delete(s, i, -1), -1)
    phase = np.linalg.det(u) * np.linalg.det(vh)
    return (phase[..., None, None] * ((u.conj() * others[..., None, :]) @ vh.conj())).astype(x.dtype)


def _cofactor_rule(xp: Any, g: Any, x: Any) -> Any:
    w = xp.inv(x).mT
    d = xp.reshape(xp.det(x), (*x.shape[:-2], 1, 1))
    return d * (xp.sum(g * w, axis=(-2, -1), keepdims=True) * w - w @ g.mT @ w)


_row("_cofactor(x) -> y", _adjugate, vjp={"x": _cofactor_rule},
     samples=lambda s: [((regular(s, 3, 3),), {}), ((regular(s, 2, 2, 2),), {}), ((s(1, 1),), {})],
     doc="The derivative of det: det(x) x⁻ᵀ, defined for singular matrices too. (Its own derivative is not.)")


def _scaled(xp: Any, g: Any, x: Any) -> Any:
    """Numbers g (...) times matrices x (..., n, n)."""
    return xp.reshape(g, (*g.shape, 1, 1)) * x


det = _row("det(x) -> y", lambda np, x: np.linalg.det(x), vjp={"x": lambda xp, g, x: _scaled(xp, g, xp._cofactor(x))},
           samples=lambda s: [((regular(s, 3, 3),), {}), ((regular(s, 2, 2, 2),), {})],
           doc="The determinant of square matrices (..., n, n). The gradient is right for singular matrices too.")


def _slogdet_rule(xp: Any, g: Any, x: Any, sign: Any) -> Any:
    g_sign, g_log = g
    if dtypes.kind(x.dtype) == "c":
        g_log = g_log + xp.imag(g_sign * sign) * 1j
    return _scaled(xp, g_log, xp.inv(x).mT)


_row("_slogdet(x) -> sign, logabsdet", lambda np, x: np.linalg.slogdet(x), vjp={"x": _slogdet_rule}, result=None,
     check=lambda x: square("slogdet", x),
     samples=lambda s: [((regular(s, 3, 3),), {}), ((regular(s, 2, 2, 2),), {})],
     doc="The sign and the logarithm of the absolute value of the determinant; see slogdet.")


@composite
def slogdet(xp, x):
    """(sign, logabsdet): det(x) = sign * exp(logabsdet), without overflow. Singular matrices give (0, -inf), and raise
    ArgumentError when differentiated. For complex x the sign is a number of absolute value 1."""
    return SlogdetResult(*xp._slogdet(x))


# -------------------------------------------------------------------------------------------------- inverses and powers
def _check_rtol(op: str) -> Any:
    def check(x: Any, rtol: Any) -> tuple:
        matrix(op, x)
        if rtol is not None and not isinstance(rtol, int | float):
            raise ArgumentError(f"{op}: rtol={rtol!r}; give a number, below which times the largest singular value "
                                "the others "
                                "count as 0")
        return (rtol,)

    return check


def _pinv_rule(xp: Any, g: Any, x: Any, y: Any) -> Any:
    """Golub and Pereyra, "The differentiation of pseudo-inverses" (1973), (4.12), transposed."""
    m, n = x.shape[-2:]
    yh = adjoint(xp, y)
    part = conj(xp, (identity(xp, m, x) - x @ y) @ g.mT @ (y @ yh))
    other = conj(xp, (yh @ y) @ g.mT @ (identity(xp, n, x) - y @ x))
    return part + other - y.mT @ g @ y.mT


pinv = _row("pinv(x; rtol=None) -> y", lambda np, x, rtol: np.linalg.pinv(x, rtol=rtol), check=_check_rtol("pinv"),
            vjp={"x": _pinv_rule},
            samples=lambda s: [((s(4, 2),), {}), ((s(2, 4),), {}), ((regular(s, 2, 3, 3),), {"rtol": 1e-6})],
            doc="The Moore-Penrose pseudo-inverse (..., n, m) of matrices (..., m, n). Singular values below rtol "
                "(default: "
                "max(m, n) * eps) times the largest count as 0. The gradient holds where the rank does not change.")
_row("matrix_rank(x; rtol=None) -> y", lambda np, x, rtol: np.asarray(np.linalg.matrix_rank(x, rtol=rtol)),
     check=_check_rtol("matrix_rank"), result="int64", smooth=False,
     samples=lambda s: [((regular(s, 2, 3, 3),), {}), ((s(4, 2),), {})],
     doc="How many singular values are larger than rtol (default: max(m, n) * eps) times the largest: int64.")


@composite(samples=lambda s: [((regular(s, 3, 3), n), {}) for n in (-2, 0, 1, 5)])
def matrix_power(xp, x, n):
    """Square matrices to an integer power, by repeated squaring; a negative power is that of the inverse."""
    square("matrix_power", x)
    n = ax.integer("matrix_power", "n", n)
    if n == 0:
        return xp.broadcast_to(identity(xp, x.shape[-1], x), tuple(x.shape))
    if n < 0:
        x, n = xp.inv(x), -n
    out = None
    while n:
        if n & 1:
            out = x if out is None else xp.matmul(out, x)
        n >>= 1
        if n:
            x = xp.matmul(x, x)
    return out


def _expm(np: Any, x: Any) -> Any:
    from scipy.linalg import expm

    return expm(x).astype(x.dtype, copy=False)


def _expm_rule(xp: Any, g: Any, x: Any) -> Any:
    """The Fréchet derivative at xᵀ in the direction g: the corner of exp [[xᵀ, g], [0, xᵀ]] (Mathias, 1996)."""
    n, t = x.shape[-1], x.mT
    zero = xp.zeros_like(g)
    big = xp.concat([xp.concat([t, g], axis=-1), xp.concat([zero, t], axis=-1)], axis=-2)
    return xp.expm(big)[..., :n, n:]


expm = _row("expm(x) -> y", _expm, vjp={"x": _expm_rule},
            samples=lambda s: [((s(3, 3),), {}), ((s(2, 2, 2),), {})],
            doc="The matrix exponential of square matrices (..., n, n).")


# -------------------------------------------------------------------------------------------------- traces and norms
@composite(samples=lambda s: [((s(3, 4),), {"offset": 1}), ((s(2, 3, 3),), {})])
def trace(xp, x, offset=0):
    """The sum along the diagonal `offset` of matrices (..., m, n)."""
    matrix("trace", x)
    return xp.sum(xp.diagonal(x, offset=offset), axis=-1)


@composite(samples=lambda s: [((s(3, 4),), {"ord": o}) for o in ("fro", "nuc", 1, -1, 2, -2)])
def matrix_norm(xp, x, ord="fro", axis=(-2, -1), keepdims=False):
    """The norm of matrices (..., m, n), over the two axes `axis`.

    ord: "fro" (root of the sum of squares), "nuc" (sum of singular values), 2 or -2 (largest, smallest singular value),
    1 or -1 (largest, smallest sum of absolute values of a column), inf or -inf (of a row).
    """
    if not isinstance(axis, tuple | list) or len(axis) != 2:
        raise ArgumentTypeError(f"matrix_norm: axis={axis!r}; give the two axes of the matrices, and keepdims by name")
    matrix("matrix_norm", x)
    if ord == "fro":
        return xp.vector_norm(x, axis=axis, keepdims=keepdims)
    rows, columns = ax.axes("matrix_norm", x, axis)
    ndim = len(x.shape)
    if (rows, columns) != (ndim - 2, ndim - 1):
        x = xp.moveaxis(x, (rows, columns), (-2, -1))
    if ord in ("nuc", 2, -2):
        s = xp.svdvals(x)
        y = xp.sum(s, axis=-1) if ord == "nuc" else xp.max(s, axis=-1) if ord == 2 else xp.min(s, axis=-1)
    elif ord in (1, -1, float("inf"), -float("inf")):
        sums = xp.sum(xp.abs(x), axis=-2 if abs(ord) == 1 else -1)
        y = xp.max(sums, axis=-1) if ord > 0 else xp.min(sums, axis=-1)
    else:
        raise ArgumentError(f"matrix_norm: ord={ord!r}; use 'fro', 'nuc', 1, -1, 2, -2, inf or -inf")
    if not keepdims:
        return y
    sizes = iter(y.shape)
    return xp.reshape(y, tuple(1 if a in (rows, columns) else next(sizes) for a in range(ndim)))


@composite(samples=lambda s: [((regular(s, 3, 3),), {"p": p}) for p in (None, 1, "fro")])
def cond(xp, x, p=None):
    """The condition number in the norm `p`; default: largest over smallest singular value. Others: square matrices."""
    if p is None or p in (2, -2):
        s = xp.svdvals(x)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    square("cond", x)
    return xp.matrix_norm(x, ord=p) * xp.matrix_norm(xp.inv(x), ord=p)


@composite
def lstsq(xp, a, b, rcond=None):
    """(solution, residuals, rank, singular values) of the least squares problem min |a x - b|, of least norm.

    a (..., m, n), b (..., m, k) or (m,). residuals: the sums of squares |a x - b|² for each column of b. Differentiable
    where the rank of a does not change.
    """
    matrix("lstsq", a)
    if not b.shape or (b.shape[0] if len(b.shape) == 1 else b.shape[-2]) != a.shape[-2]:
        raise ShapeError(f"lstsq: a is {describe(a)}, so b must be (..., {a.shape[-2]}, k) or a vector of "
                         f"{a.shape[-2]}, "
                         f"not {describe(b)}")
    x = xp.pinv(a, rtol=rcond) @ b
    rest = xp.abs(a @ x - b)
    return (x, xp.sum(rest * rest, axis=-1 if len(b.shape) == 1 else -2), xp.matrix_rank(a, rtol=rcond), xp.svdvals(a))
