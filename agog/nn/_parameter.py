"""Tensors that a module finds by itself."""

from __future__ import annotations

from typing import Any

from agog.tensor import Tensor

__all__ = ["Buffer", "Parameter"]


class Parameter(Tensor):
    """A Tensor to be learned: assigned to an attribute of a Module, it is one of its parameters.

    data           the first value (anything that `ag.asarray` takes); its history is not kept
    requires_grad  False for a parameter that is frozen
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, *, dtype: Any = None):
        super().__init__(data, dtype, requires_grad=requires_grad)

    def __repr__(self) -> str:
        return "Parameter" + super().__repr__().removeprefix("Tensor").replace("\n", "\n   ")


class Buffer(Tensor):
    """A Tensor that belongs to a module's state but is not learned, such as a running mean.

    persistent  False leaves it out of `state_dict()`
    """

    __slots__ = ("persistent",)

    def __init__(self, data: Any, persistent: bool = True, *, dtype: Any = None):
        super().__init__(data, dtype)
        self.persistent = persistent

    def __repr__(self) -> str:
        return "Buffer" + super().__repr__().removeprefix("Tensor")
