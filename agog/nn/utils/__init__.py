"""Gradients and parameters of a whole model at once."""

from __future__ import annotations

import math
from typing import Any, Iterable

import agog as ag
from agog.array import dtypes
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.nn._module import Module
from agog.nn.utils import parametrizations, parametrize, rnn
from agog.nn.utils.parametrizations import spectral_norm, weight_norm
from agog.tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "functional_call", "get_total_norm", "parameters_to_vector",
           "parametrizations", "parametrize", "remove_spectral_norm", "remove_weight_norm", "rnn", "spectral_norm",
           "vector_to_parameters", "weight_norm"]


def _list(parameters: Any) -> list[Tensor]:
    if isinstance(parameters, Module):
        raise ArgumentTypeError("give model.parameters(), not the module")
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def get_total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all elements of all Tensors together, in float32 or wider."""
    xs = [t.astype("float32") if t.dtype.itemsize == 2 else t for t in _list(tensors)]
    if not xs:
        return ag.asarray(0.0)
    if norm_type == math.inf:
        return ag.max(ag.stack([ag.max(ag.abs(x)) for x in xs]))
    if norm_type <= 0:
        raise ArgumentError(f"norm_type={norm_type}: give a positive number or inf")
    if norm_type == 2.0:
        parts = [ag.sum(ag.square(ag.abs(x))) for x in xs]
        return ag.sqrt(ag.sum(ag.stack(parts)))
    return ag.sum(ag.stack([ag.sum(ag.abs(x) ** norm_type) for x in xs])) ** (1.0 / norm_type)


def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2.0,
                    error_if_nonfinite: bool = False) -> Tensor:
    """Scale all gradients together so that their norm is at most max_norm. Returns the norm that they had.

    Raises ArgumentError with error_if_nonfinite=True when the norm is infinite or NaN.
    """
    if not max_norm >= 0:
        raise ArgumentError(f"clip_grad_norm_: max_norm={max_norm}; give a number of at least 0")
    pairs = [(p, p.grad) for p in _list(parameters) if p.grad is not None]
    with ag.no_grad():
        norm = get_total_norm([g for _, g in pairs], norm_type)
        if error_if_nonfinite and not bool(ag.isfinite(norm)):
            raise ArgumentError(f"clip_grad_norm_: the norm of the gradients is {norm.item()}")
        factor = ag.clip(max_norm / (norm + 1e-6), max=1.0)
        for p, g in pairs:
            p.grad = g * factor.astype(dtypes.real_of(g.dtype), copy=False)
    return norm


def clip_grad_value_(parameters: Any, clip_value: float) -> None:
    """Clip every element of every gradient to +-clip_value."""
    if not clip_value >= 0:
        raise ArgumentError(f"clip_grad_value_: clip_value={clip_value}; give a number of at least 0")
    with ag.no_grad():
        for p in _list(parameters):
            if p.grad is not None:
                p.grad = ag.clip(p.grad, -clip_value, clip_value)


def parameters_to_vector(parameters: Any) -> Tensor:
    """All parameters as one vector, in order; differentiable."""
    params = _list(parameters)
    if not params:
        raise ArgumentError("parameters_to_vector: there are no parameters")
    return ag.concat([ag.reshape(p, (-1,)) for p in params])


def vector_to_parameters(vector: Tensor, parameters: Any) -> None:
    """Give the parameters the values in `vector`, in the order of `parameters_to_vector`."""
    params = _list(parameters)
    total = sum(p.size for p in params)
    if vector.shape != (total,):
        raise ShapeError(f"vector_to_parameters: the parameters hold {total} numbers, "
                         f"the vector has shape {vector.shape}")
    at = 0
    for p in params:
        p.assign(ag.reshape(vector.detach()[at:at + p.size], p.shape))
        at += p.size


def functional_call(module: Module, values: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """`module(*args, **kwargs)` with the Tensors `values`, {dotted name: Tensor}, in place of its own.

    With it a module is a function of its parameters, for `ag.grad`, `ag.vmap` and so on:

        ag.grad(lambda ps: nn.utils.functional_call(model, ps, x).sum())(dict(model.named_parameters()))
    """
    places = []
    for name, value in values.items():
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        if owner._kinds.get(last) not in ("parameter", "buffer", "transient buffer"):
            raise ArgumentError(f"functional_call: {type(module).__name__} has no parameter or buffer {name!r}")
        old = owner.__dict__[last]
        if old is not None and old.shape != value.shape:
            raise ShapeError(f"functional_call: {name} has shape {old.shape}, the value has {value.shape}")
        places.append((owner, last, value, old))
    try:
        for owner, last, value, _ in places:
            owner.__dict__[last] = value
        return module(*args, **kwargs)
    finally:
        for owner, last, _, old in places:
            owner.__dict__[last] = old


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Undo `weight_norm`: the weight is a parameter again, with the value that it has. Returns the module."""
    return parametrize.remove_parametrizations(module, name)


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Undo `spectral_norm`: the weight is a parameter again, with the value that it has. Returns the module."""
    return parametrize.remove_parametrizations(module, name)
