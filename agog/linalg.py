"""Linear algebra: the Array API's `linalg` extension and what models need besides. See `agog.ops.linalg`."""

from __future__ import annotations

from typing import Any

from agog.tensor import public

__all__ = ["cholesky", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh", "expm", "inv", "lstsq", "matmul",
           "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "norm", "outer", "pinv", "qr", "slogdet", "solve",
           "svd", "svdvals", "tensordot", "trace", "triangular_solve", "vecdot", "vector_norm"]
_OTHER_NAMES = {"norm": "vector_norm"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'agog.linalg' has no attribute {name!r}")
    value = public(_OTHER_NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
