"""Decompositions of matrices: eigenvalues, singular values, QR; on stacks of matrices in the last two axes.

Gradients as in PyTorch's derivation (Giles 2008; Walter and Lehmann 2018 for QR; Wan and Zhang 2019 for complex SVD),
in the transpose convention of `ops.row`. Eigenvectors and singular vectors are unique only up to a phase, and for equal
values only up to a rotation: a gradient makes sense for functions that do not depend on that choice. Where two values
are exactly equal, the rotation between their vectors, 0/0, is left out: the gradient stays finite, and is exact for
functions of the values alone.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from agog.array import dtypes
from agog.errors import ArgumentError, GradientError
from agog.ops.linalg import adjoint, batch_first, conj, matrix, regular, square
from agog.ops.row import Op, composite

EighResult = namedtuple("EighResult", ("eigenvalues", "eigenvectors"))
EigResult = namedtuple("EigResult", ("eigenvalues", "eigenvectors"))
SVDResult = namedtuple("SVDResult", ("U", "S", "Vh"))
QRResult = namedtuple("QRResult", ("Q", "R"))


def _row(signature: str, impl: Any, **kw: Any) -> Op:
    name = signature.partition("(")[0]
    return Op(signature, impl, to_float=True, takes="fc", widen=True, kind="linalg", error=500,
              batch=batch_first(name), **kw)


def _real_only(make: Any) -> Any:
    """Samples for real dtypes: the phases of complex vectors are nobody's to differentiate."""
    return lambda s: [] if s.dtype.kind == "c" else make(s)


def _over_differences(xp: Any, w: Any) -> Any:
    """1 / (w_j - w_i), and 0 where they are equal."""
    d = xp.expand_dims(w, -2) - xp.expand_dims(w, -1)
    same = d == 0
    return xp.where(same, 0.0, 1.0 / xp.where(same, 1.0, d))


def _inverse(xp: Any, s: Any) -> Any:
    zero = s == 0
    return xp.where(zero, 0.0, 1.0 / xp.where(zero, 1.0, s))


# ------------------------------------------------------------------------------------------------- symmetric matrices
def _hermitian(x: Any) -> Any:
    return (x + x.conj().mT) / 2


def _eigh_rule(xp: Any, g: Any, w: Any, v: Any) -> Any:
    gw, gv = g
    inner = (v.mT @ gv) * _over_differences(xp, w) + xp.diag_embed(gw)
    a = conj(xp, v) @ inner @ v.mT
    return 0.5 * (a + adjoint(xp, a))


_row("_eigh(x) -> w, v", lambda np, x: np.linalg.eigh(_hermitian(x)), check=lambda x: square("eigh", x),
     vjp={"x": _eigh_rule}, result=None,
     samples=_real_only(lambda s: [((regular(s, 3, 3),), {}), ((regular(s, 2, 2, 2),), {})]),
     doc="Eigenvalues and eigenvectors of Hermitian matrices; see eigh.")


@composite
def eigh(xp, x):
    """(eigenvalues, eigenvectors) of Hermitian matrices (..., n, n): values ascending (..., n), vectors in columns.

    Works on (x + xᴴ) / 2, so that the gradient is Hermitian; see the module for equal eigenvalues.
    """
    return EighResult(*xp._eigh(x))


def _eigvalsh_rule(xp: Any, g: Any, x: Any) -> Any:
    _, v = xp._eigh(x)
    return (conj(xp, v) * xp.expand_dims(g, -2)) @ v.mT


eigvalsh = _row("eigvalsh(x) -> w", lambda np, x: np.linalg.eigvalsh(_hermitian(x)),
                check=lambda x: square("eigvalsh", x), vjp={"x": _eigvalsh_rule}, result="real",
                samples=lambda s: [((regular(s, 3, 3),), {}), ((regular(s, 2, 2, 2),), {})],
                doc="The eigenvalues (..., n), ascending, of Hermitian matrices (..., n, n); works on (x + xᴴ) / 2.")


# --------------------------------------------------------------------------------------------------- general matrices
def _eig(np: Any, x: Any) -> tuple:
    w, v = np.linalg.eig(x)
    dtype = dtypes.complex_of(x.dtype)
    return w.astype(dtype, copy=False), v.astype(dtype, copy=False)


def _of_kind(xp: Any, a: Any, dtype: Any) -> Any:
    return a if dtypes.kind(dtype) == "c" else xp.real(a)


def _eig_rule(xp: Any, g: Any, w: Any, v: Any, x_dtype: Any) -> Any:
    gw, gv = g
    inner = v.mT @ gv
    along = xp.diag_embed(xp.real(xp.diagonal(inner)))  # eigenvectors have length 1, they do not grow
    inner = (inner - (v.mT @ xp.conj(v)) @ xp.astype(along, v.dtype)) * _over_differences(xp, w) + xp.diag_embed(gw)
    return _of_kind(xp, xp.solve(v.mT, inner) @ v.mT, x_dtype)


_row("_eig(x) -> w, v", _eig, check=lambda x: square("eig", x), vjp={"x": _eig_rule}, result=None, samples=lambda s: [],
     doc="Eigenvalues and eigenvectors; see eig.")


@composite
def eig(xp, x):
    """(eigenvalues, eigenvectors) of square matrices (..., n, n), complex also for real ones; vectors in columns, of
    length 1. The gradient raises ArgumentError for a matrix without n independent eigenvectors."""
    return EigResult(*xp._eig(x))


eigvals = _row("eigvals(x) -> w", lambda np, x: np.linalg.eigvals(x).astype(dtypes.complex_of(x.dtype), copy=False),
               check=lambda x: square("eigvals", x), result=lambda x: dtypes.complex_of(x),
               vjp={"x": lambda xp, g, x: _eigvals_rule(xp, g, x)}, samples=lambda s: [((regular(s, 3, 3),), {})],
               doc="The eigenvalues (..., n) of square matrices (..., n, n), complex also for real ones, in no order.")


def _eigvals_rule(xp: Any, g: Any, x: Any) -> Any:
    if not x.shape[-1]:
        return xp.zeros(x.shape, dtype=x.dtype)
    # np.linalg.eig and eigvals need not agree on the order, so each eigenvector looks for its value
    w, v = xp._eig(x)
    place = xp.argmin(xp.abs(xp.expand_dims(xp.eigvals(x), -2) - xp.expand_dims(w, -1)), axis=-1)
    g = xp.take_along_axis(g, place, axis=-1)
    return _of_kind(xp, xp.solve(v.mT, xp.expand_dims(g, -1) * v.mT), x.dtype)


# ----------------------------------------------------------------------------------------------------- singular values
def _check_svd(x: Any, full_matrices: Any) -> tuple:
    matrix("svd", x)
    return (bool(full_matrices),)


def _skew(xp: Any, x: Any) -> Any:
    return x - adjoint(xp, x)


def _svd_rule(xp: Any, g: Any, u: Any, s: Any, vh: Any, full_matrices: bool) -> Any:
    """Written for the conjugates of the cotangents, G, as in the literature; the result is conjugated back."""
    m, n, k = u.shape[-2], vh.shape[-1], s.shape[-1]
    if full_matrices and m != n:
        raise GradientError(f"svd: with full_matrices=True, the last vectors of matrices ({m}, {n}) are arbitrary "
                            "and have no "
                            "gradient; use full_matrices=False, or svdvals")
    gu, gs, gvh = conj(xp, g[0]), g[1], conj(xp, g[2])
    uh, v, gv = adjoint(xp, u), adjoint(xp, vh), adjoint(xp, gvh)
    f = _over_differences(xp, s * s)
    row, column = xp.expand_dims(s, -2), xp.expand_dims(s, -1)
    uhgu = uh @ gu
    inner = (_skew(xp, uhgu) * f) * row + column * (_skew(xp, vh @ gv) * f) + xp.diag_embed(gs)
    over = xp.expand_dims(_inverse(xp, s), -2)
    if dtypes.kind(u.dtype) == "c":
        inner = inner + xp.diag_embed(xp.imag(xp.diagonal(uhgu)) * _inverse(xp, s)) * 1j
    a = u @ inner @ vh
    if m > k:
        a = a + (gu - u @ uhgu) * over @ vh
    if n > k:
        a = a + (u * over) @ (gvh - (gvh @ v) @ vh)
    return conj(xp, a)


_row("_svd(x; full_matrices=True) -> u, s, vh", lambda np, x, full_matrices: np.linalg.svd(x, full_matrices),
     check=_check_svd, vjp={"x": _svd_rule}, result=None,
     samples=_real_only(lambda s: [((regular(s, 3, 3),), {}), ((s(4, 2),), {"full_matrices": False}),
                                   ((s(2, 2, 3),), {"full_matrices": False})]),
     doc="U, the singular values and Vᴴ; see svd.")


@composite
def svd(xp, x, full_matrices=True):
    """(U, S, Vh) with x = U diag(S) Vh for matrices (..., m, n): S descending (..., min(m, n)), U and V unitary.

    full_matrices=False gives U (..., m, k) and Vh (..., k, n), k = min(m, n): for matrices that are not square, only
    this form has a gradient. See the module for equal singular values.
    """
    return SVDResult(*xp._svd(x, full_matrices=full_matrices))


def _svdvals_rule(xp: Any, g: Any, x: Any) -> Any:
    u, _, vh = xp._svd(x, full_matrices=False)
    return conj(xp, u * xp.expand_dims(g, -2)) @ conj(xp, vh)


svdvals = _row("svdvals(x) -> s", lambda np, x: np.linalg.svd(x, compute_uv=False),
               check=lambda x: matrix("svdvals", x), vjp={"x": _svdvals_rule}, result="real",
               samples=lambda s: [((s(3, 4),), {}), ((regular(s, 2, 3, 3),), {})],
               doc="The singular values (..., min(m, n)), descending, of matrices (..., m, n).")


# ------------------------------------------------------------------------------------------------------------------- QR
def _check_qr(x: Any, mode: Any) -> tuple:
    matrix("qr", x)
    if mode not in ("reduced", "complete"):
        raise ArgumentError(f"qr: mode={mode!r}; use 'reduced' or 'complete'")
    return (mode,)


def _qr_square(xp: Any, gq: Any, gr: Any, q: Any, r: Any) -> Any:
    """Walter and Lehmann (2018) for matrices at least as high as wide: (gq + q̄ · sym) r⁻ᵀ."""
    m = r @ gr.mT - gq.mT @ q
    low = xp.tril(m, k=-1)
    sym = low + adjoint(xp, low) + xp.diag_embed(_real_diagonal(xp, m))
    return xp.triangular_solve(r, (gq + conj(xp, q @ sym)).mT, lower=False).mT


def _real_diagonal(xp: Any, m: Any) -> Any:
    d = xp.diagonal(m)
    return xp.astype(xp.real(d), m.dtype) if dtypes.kind(m.dtype) == "c" else d


def _qr_rule(xp: Any, g: Any, x: Any, q: Any, r: Any, mode: str) -> Any:
    gq, gr = g
    m, n = q.shape[-2], r.shape[-1]
    if m >= n:
        if mode == "complete" and m > n:
            raise GradientError(f"qr: with mode='complete', the last columns of Q of matrices ({m}, {n}) are "
                                "arbitrary and have "
                                "no gradient; use mode='reduced'")
        return _qr_square(xp, gq, gr, q, r)
    # wide: x = [a | b] = q [u | w], where q u = a, and w = qᴴ b
    b, w, u = x[..., m:], gr[..., m:], r[..., :m]
    left = _qr_square(xp, gq + conj(xp, b) @ adjoint(xp, w), gr[..., :m], q, u)
    return xp.concat([left, conj(xp, q) @ w], axis=-1)


_row("_qr(x; mode='reduced') -> q, r", lambda np, x, mode: np.linalg.qr(x, mode), check=_check_qr, vjp={"x": _qr_rule},
     result=None,
     samples=_real_only(lambda s: [((regular(s, 3, 3),), {}), ((s(4, 2),), {}), ((s(2, 2, 3),), {}),
                                   ((s(2, 3),), {"mode": "complete"})]),
     doc="An orthonormal and an upper triangular factor; see qr.")


@composite
def qr(xp, x, mode="reduced"):
    """(Q, R) with x = Q R: Q with orthonormal columns, R upper triangular.

    mode: "reduced" gives Q (..., m, k) and R (..., k, n), k = min(m, n); "complete" Q (..., m, m) and R (..., m, n),
    which has no gradient where m > n. The gradient raises ArgumentError when the first k columns depend on each other.
    """
    return QRResult(*xp._qr(x, mode=mode))
