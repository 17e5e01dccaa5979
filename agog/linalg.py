"""Linear algebra: the Array API's `linalg` extension and what models need besides. See `agog.ops.linalg`."""

from __future__ import annotations

from typing import Any

from agog import hints
from agog.dispatch import tensors
from agog.errors import ArgumentError
from agog.tensor import Tensor, asarray, public

_NAMES = ("cholesky cholesky_solve cond cross det diagonal eig eigh eigvals eigvalsh expm inv logdet lstsq "
          "matmul matrix_norm matrix_power matrix_rank matrix_transpose multi_dot norm outer pinv qr slogdet "
          "solve svd svdvals tensordot trace triangular_solve vander vecdot vector_norm")
__all__ = _NAMES.split()  # noqa: PLE0605 - those that are not below come from the op table


def norm(x: Any, /, ord: Any = None, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: Any = None,
         ) -> Tensor:
    """The norm of vectors or matrices, as `numpy.linalg.norm` and `torch.linalg.norm`.

    axis  one axis: norms of vectors along it; two: of matrices. None: of a vector or a matrix `x`, and of all elements
          as one vector where no `ord` is given
    ord   None (root of the sum of squares), or what `vector_norm` takes (0, 1, 2, inf, ...) or `matrix_norm` ("fro",
          "nuc", 1, 2, inf, ...): of a matrix, ord=2 is the largest singular value
    """
    if dim is not None or keepdim is not None:
        raise hints.wrong_keywords("norm", {"dim": dim, "keepdim": keepdim})
    x = asarray(x)
    pair = isinstance(axis, tuple | list) and len(axis) == 2
    if ord is not None and (pair or axis is None and x.ndim == 2):
        return tensors.matrix_norm(x, ord, axis if pair else (0, 1), keepdims)
    if ord is not None and axis is None and x.ndim != 1:
        raise ArgumentError(f"norm: ord={ord!r} is for vectors and matrices, and x has {x.ndim} axes; name them with "
                            "axis=, or write ag.linalg.vector_norm(x, ord) for all elements as one vector")
    return tensors.vector_norm(x, 2 if ord is None else ord, axis, keepdims)


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Tensor:
    """How many singular values of matrices (..., m, n) are larger than `rtol` times the largest: int64 of shape (...).

    rtol: a number, or a Tensor with one for each matrix (...); max(m, n) * eps by default.
    """
    if not isinstance(rtol, Tensor):
        return tensors.matrix_rank(asarray(x), rtol=rtol)
    values = tensors.svdvals(asarray(x))
    return tensors.sum(_counts(values, rtol), axis=-1)


def pinv(x: Any, /, *, rtol: Any = None) -> Tensor:
    """The Moore-Penrose pseudo-inverse (..., n, m) of matrices (..., m, n).

    rtol: singular values below `rtol` times the largest count as 0: a number, or a Tensor with one for each matrix
    (...); max(m, n) * eps by default. The gradient holds where the rank does not change.
    """
    if not isinstance(rtol, Tensor):
        return tensors.pinv(asarray(x), rtol=rtol)
    u, values, vh = tensors.svd(asarray(x), full_matrices=False)
    kept = _counts(values, rtol)
    inverse = tensors.where(kept, 1 / tensors.where(kept, values, 1), 0)
    return tensors.conj(vh).mT @ (inverse[..., None] * tensors.conj(u).mT)


def _counts(values: Tensor, rtol: Tensor) -> Tensor:
    """Which singular values (..., k), in descending order, count as more than 0."""
    return values > rtol[..., None] * values[..., :1]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise hints.missing("agog.linalg", name, __all__)
    value = public(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
