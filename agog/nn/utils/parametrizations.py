"""Weights with a norm of their own: weight normalisation and spectral normalisation."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.errors import ArgumentError
from agog.nn._conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from agog.nn._module import Module
from agog.nn._parameter import Buffer
from agog.nn.utils.parametrize import is_parametrized, register_parametrization

__all__ = ["spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    def __init__(self, dim: int | None):
        self.dim = dim

    def _norm(self, v: Any) -> Any:
        if self.dim is None:
            return ag.sqrt(ag.sum(v * v))
        return ag.sqrt(ag.sum(v * v, axis=tuple(i for i in range(v.ndim) if i != self.dim), keepdims=True))

    def forward(self, g: Any, v: Any) -> Any:
        return v * (g / self._norm(v))

    def right_inverse(self, weight: Any) -> tuple[Any, Any]:
        return self._norm(weight), weight

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Let a weight be g v / |v|, with its length g and its direction v learned. Returns the module.

    dim  the axis along which each slice has a length of its own (the outputs of a linear map); None: one for all

    `parametrizations.<name>.original0` is g, `original1` is v. Salimans and Kingma, 2016, arXiv:1602.07868.
    """
    weight = module.get_parameter(name)
    if dim is not None and not -weight.ndim <= dim < weight.ndim:
        raise ArgumentError(f"weight_norm(dim={dim}): {name} has {weight.ndim} axes")
    return register_parametrization(module, name, _WeightNorm(dim if dim is None else dim % weight.ndim))


class _SpectralNorm(Module):
    def __init__(self, weight: Any, n_power_iterations: int, dim: int, eps: float):
        self.n_power_iterations, self.dim, self.eps = n_power_iterations, dim, eps
        if weight.ndim > 1:
            matrix = self._matrix(weight.detach())
            h, w = matrix.shape
            self._u = Buffer(self._unit(ag.random.normal((h,), dtype=weight.dtype)))
            self._v = Buffer(self._unit(ag.random.normal((w,), dtype=weight.dtype)))
            self._iterate(matrix, 15)

    def _matrix(self, weight: Any) -> Any:
        return ag.reshape(ag.moveaxis(weight, self.dim, 0), (weight.shape[self.dim], -1))

    def _unit(self, x: Any) -> Any:
        return ag.normalize(x, axis=0, eps=self.eps)

    def _iterate(self, matrix: Any, n: int) -> None:
        with ag.no_grad():
            u, v = self._u, self._v
            for _ in range(n):
                u = self._unit(matrix @ v)
                v = self._unit(u @ matrix)
            self._u.assign(u)
            self._v.assign(v)

    def forward(self, weight: Any) -> Any:
        if weight.ndim == 1:
            return self._unit(weight)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        sigma = ag.vecdot(self._u.detach(), matrix @ self._v.detach())
        return weight / sigma

    def right_inverse(self, value: Any) -> Any:
        return value

    def extra_repr(self) -> str:
        return f"n_power_iterations={self.n_power_iterations}, dim={self.dim}, eps={self.eps}"


def spectral_norm(module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
                  dim: int | None = None) -> Module:
    """Let a weight be divided by its largest singular value. Returns the module.

    n_power_iterations  how often the estimate of that value is improved each time the weight is read in training
    dim                 the axis that stands for the rows of the matrix; by default 0, or 1 for transposed convolutions

    Miyato et al., 2018, arXiv:1802.05957.
    """
    if is_parametrized(module, name):
        weight = getattr(module, name)
    else:
        weight = module.get_parameter(name)
    if not isinstance(n_power_iterations, int) or n_power_iterations < 1:
        raise ArgumentError(f"spectral_norm(n_power_iterations={n_power_iterations}): give a positive whole number")
    if dim is None:
        dim = 1 if isinstance(module, ConvTranspose1d | ConvTranspose2d | ConvTranspose3d) else 0
    if not -weight.ndim <= dim < weight.ndim:
        raise ArgumentError(f"spectral_norm(dim={dim}): {name} has {weight.ndim} axes")
    return register_parametrization(
        module, name, _SpectralNorm(weight, n_power_iterations, dim % weight.ndim, eps))
