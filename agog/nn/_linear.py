"""Linear maps, and the layers that only reshape."""

from __future__ import annotations

import math
from typing import Any

import agog as ag
from agog.errors import ArgumentError
from agog.nn import init
from agog.nn._check import bad_input, whole
from agog.nn._module import Module
from agog.nn._parameter import Parameter


class Linear(Module):
    """y = x @ weight.T + bias for x (..., in_features); y (..., out_features).

    weight (out_features, in_features) and bias (out_features,) start uniform in +-1/sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = None,
                 device: Any = None):
        self.in_features = whole("Linear", "in_features", in_features, 0)
        self.out_features = whole("Linear", "out_features", out_features, 0)
        self.weight = Parameter(ag.empty(out_features, in_features, dtype=dtype, device=device))
        self.bias = Parameter(ag.empty(out_features, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New random values."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        if x.shape[-1:] != (self.in_features,):
            raise bad_input(self, x, f"(..., {self.in_features})")
        return ag.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """y_k = x1 @ weight_k @ x2 + bias_k for x1 (..., in1_features) and x2 (..., in2_features)."""

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, *, dtype: Any = None,
                 device: Any = None):
        self.in1_features, self.in2_features = whole("Bilinear", "in1_features", in1_features), in2_features
        self.out_features = out_features
        self.weight = Parameter(ag.empty(out_features, in1_features, in2_features, dtype=dtype, device=device))
        self.bias = Parameter(ag.empty(out_features, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New random values, uniform in +-1/sqrt(in1_features)."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x1: Any, x2: Any) -> Any:
        n1, n2 = self.in1_features, self.in2_features
        if x1.shape[-1:] != (n1,) or x2.shape[-1:] != (n2,) or x1.shape[:-1] != x2.shape[:-1]:
            raise bad_input(self, x1, f"(..., {n1}) with a second input of shape (..., {n2}), which has {x2.shape}")
        left = ag.reshape(x1, (-1, n1)) @ ag.reshape(ag.permute_dims(self.weight, (1, 0, 2)), (n1, -1))
        y = ag.sum(ag.reshape(left, (-1, self.out_features, n2)) * ag.reshape(x2, (-1, 1, n2)), axis=-1)
        y = ag.reshape(y, (*x1.shape[:-1], self.out_features))
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return (f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
                f"out_features={self.out_features}, bias={self.bias is not None}")


class Identity(Module):
    """The input itself; takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def forward(self, x: Any) -> Any:
        return x


class Flatten(Module):
    """Axes start_dim to end_dim made one: (N, C, H, W) becomes (N, C * H * W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return ag.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Axis `dim` split into `unflattened_size`, of which one may be -1."""

    def __init__(self, dim: int, unflattened_size: Any):
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Any) -> Any:
        if not -x.ndim <= self.dim < x.ndim:
            raise bad_input(self, x, f"at least {self.dim + 1 if self.dim >= 0 else -self.dim} axes")
        i = self.dim % x.ndim
        known = math.prod(s for s in self.unflattened_size if s != -1)
        if x.shape[i] != known and (self.unflattened_size.count(-1) != 1 or not known or x.shape[i] % known):
            raise bad_input(self, x, f"axis {self.dim} of a size that splits into {self.unflattened_size}")
        return ag.reshape(x, (*x.shape[:i], *self.unflattened_size, *x.shape[i + 1:]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Embedding(Module):
    """Rows of a table: integer indices (...) become vectors (..., embedding_dim).

    weight (num_embeddings, embedding_dim) starts normal(0, 1); row `padding_idx` starts as zeros and gets no gradient.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, dtype: Any = None,
                 device: Any = None):
        self.num_embeddings = whole("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = whole("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ArgumentError(f"Embedding(padding_idx={padding_idx}): there are {num_embeddings} rows")
            padding_idx %= num_embeddings
        self.padding_idx = padding_idx
        self.weight = Parameter(ag.empty(num_embeddings, embedding_dim, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New random values."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with ag.no_grad():
                self.weight[self.padding_idx] = 0.0

    def forward(self, x: Any) -> Any:
        return ag.embedding(x, self.weight, padding_idx=self.padding_idx)

    def extra_repr(self) -> str:
        pad = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{pad}"


class EmbeddingBag(Embedding):
    """The sum, mean or maximum of bags of rows of a table; see `agog.embedding_bag`.

    weight (num_embeddings, embedding_dim) starts normal(0, 1); row `padding_idx` starts as zeros and does not count.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, mode: str = "mean",
                 include_last_offset: bool = False, padding_idx: int | None = None, dtype: Any = None,
                 device: Any = None):
        if mode not in ("sum", "mean", "max"):
            raise ArgumentError(f"EmbeddingBag(mode={mode!r}): use 'sum', 'mean' or 'max'")
        self.mode, self.include_last_offset = mode, include_last_offset
        super().__init__(num_embeddings, embedding_dim, padding_idx, dtype=dtype, device=device)

    def forward(self, x: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        """(B, embedding_dim), from x (B, L), or x (n,) with the places `offsets` (B,) at which bags begin."""
        return ag.embedding_bag(x, self.weight, offsets, self.mode, per_sample_weights, self.include_last_offset,
                                self.padding_idx)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"


class Upsample(Module):
    """Images (N, C, ...) made larger: `size` gives the sizes of the result, or `scale_factor` multiplies them.

    mode  "nearest", "nearest-exact", "area"; "linear", "bilinear" or "bicubic", "trilinear" for 1, 2, 3 axes of space;
          see `agog.interpolate`
    """

    def __init__(self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool = False):
        if (size is None) == (scale_factor is None):
            raise ArgumentError("Upsample: give either size or scale_factor")
        if mode not in _MODES:
            raise ArgumentError(f"Upsample(mode={mode!r}): use one of {', '.join(map(repr, _MODES))}")
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x: Any) -> Any:
        n = x.ndim - 2
        if n < 1 or _MODES[self.mode] not in (0, n):
            raise bad_input(self, x, f"{_MODES[self.mode] + 2 if _MODES[self.mode] else '3 or more'} axes: (N, C, ...)")
        given = self.scale_factor if self.size is None else self.size
        given = tuple(given) if isinstance(given, tuple | list) else (given,) * n
        if len(given) != n:
            raise bad_input(self, x, f"{len(given)} axes after (N, C), one for each number given")
        return ag.interpolate(x, **{"size" if self.scale_factor is None else "scale_factor": given}, mode=self.mode,
                              align_corners=self.align_corners)

    def extra_repr(self) -> str:
        what = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"


_MODES = {"nearest": 0, "nearest-exact": 0, "area": 0, "linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
