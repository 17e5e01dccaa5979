"""Parameters that are computed from others each time they are read, as `torch.nn.utils.parametrize` has them.

    class Symmetric(nn.Module):
        def forward(self, x):
            return ag.triu(x) + ag.triu(x, 1).T

    nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    layer.weight                                # symmetric
    layer.parametrizations.weight.original      # what is learned

The class of the module becomes a subclass of its own, which has a property in place of the parameter.
"""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.nn._containers import ModuleDict
from agog.nn._module import Module
from agog.nn._parameter import Buffer, Parameter

__all__ = ["ParametrizationList", "is_parametrized", "register_parametrization", "remove_parametrizations"]


class ParametrizationList(Module):
    """What computes one parameter: `original`, or `original0`, `original1`, ..., and modules "0", "1", ... on it."""

    def __init__(self, original: Any, parametrization: Module):
        self._count, self._parts = 0, 0
        learned = isinstance(original, Parameter)
        values: Any = original
        if hasattr(parametrization, "right_inverse"):
            with ag.no_grad():
                values = parametrization.right_inverse(original.detach())
        if isinstance(values, tuple | list):
            self._parts = len(values)
            for i, value in enumerate(values):
                setattr(self, f"original{i}", Parameter(value.detach(), original.requires_grad) if learned
                        else Buffer(value.detach()))
        else:
            if values is not original:
                _same(values, original, "right_inverse")
                original.assign(values)  # the Tensor itself, so that an optimizer that has it keeps it
            self.original = original
        self.append(parametrization)

    def append(self, parametrization: Module) -> None:
        """One more module, applied to what the others give."""
        self.add_module(str(self._count), parametrization)
        self._count += 1

    def _chain(self) -> list[Any]:
        return [self.__dict__[str(i)] for i in range(self._count)]

    def originals(self) -> list[Any]:
        """The Tensors that the parameter is computed from."""
        return [self.__dict__[f"original{i}"] for i in range(self._parts)] if self._parts else [self.original]

    def forward(self) -> Any:
        first, *rest = self._chain()
        value = first(*self.originals())
        for module in rest:
            value = module(value)
        return value

    def right_inverse(self, value: Any) -> None:
        """Let the parameter have this value, by giving the originals those that it follows from."""
        with ag.no_grad():
            value = ag.asarray(value).detach()
            for module in reversed(self._chain()):
                if not hasattr(module, "right_inverse"):
                    raise ArgumentTypeError(f"this parameter is computed by {type(module).__name__}, which has no "
                                            "right_inverse: change .parametrizations.<name>.original instead")
                value = module.right_inverse(value)
            values = list(value) if isinstance(value, tuple | list) else [value]
            for original, new in zip(self.originals(), values, strict=True):
                _same(new, original, "right_inverse")
                original.assign(new)


def _same(new: Any, old: Any, what: str) -> None:
    if new.shape != old.shape:
        raise ShapeError(f"parametrization: {what} gives shape {new.shape} for {old.shape}")


def _property(name: str) -> property:
    def read(self: Any) -> Any:
        return self.__dict__["parametrizations"][name]()

    def write(self: Any, value: Any) -> None:
        self.__dict__["parametrizations"][name].right_inverse(value)

    return property(read, write, doc=f"`{name}`, computed by `parametrizations.{name}`.")


def _reduce(self: Any) -> Any:
    return _restored, (type(self)._parametrized, tuple(self.__dict__["parametrizations"])), self.__getstate__()


def _class_of(base: type, names: tuple[str, ...]) -> type:
    return type(f"Parametrized{base.__name__}", (base,), {
        **{name: _property(name) for name in names}, "_parametrized": base, "__reduce__": _reduce,
        "__module__": base.__module__, "__doc__": base.__doc__})


def _restored(base: type, names: tuple[str, ...]) -> Any:
    return Module.__new__(_class_of(base, names))


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the module has parameters that are computed from others, or whether this one is."""
    names: Any = module.__dict__["parametrizations"] if hasattr(type(module), "_parametrized") else ()
    return tensor_name in names if tensor_name is not None else len(names) > 0


def register_parametrization(module: Any, tensor_name: str, parametrization: Module) -> Module:
    """Let the parameter or buffer `tensor_name` of `module` be what `parametrization` computes. Returns the module.

    parametrization  a module: `forward(original)` gives the value; `right_inverse(value)`, if it has one, gives an
                     original (or a tuple of them, which forward then gets) for a value: the present one, and those that
                     are assigned later. More than one may be registered: each takes what those before it give

    Raises ArgumentError where there is no such parameter, ShapeError where the value would have another shape.
    """
    if not isinstance(module, Module) or not isinstance(parametrization, Module):
        raise ArgumentTypeError(f"register_parametrization: give an nn.Module, not a {type(parametrization).__name__}")
    if is_parametrized(module, tensor_name):
        now = module.__dict__["parametrizations"][tensor_name]
        with ag.no_grad():
            value = now()
            _same(parametrization(value), value, "forward")
        now.append(parametrization)
        module._changed()
        return module
    original = dict(module._own("parameter", "buffer", "transient buffer")).get(tensor_name)
    if original is None:
        raise ArgumentError(f"register_parametrization: {type(module).__name__} has no parameter or buffer "
                            f"{tensor_name!r}")
    shape = original.shape
    found = ParametrizationList(original, parametrization)
    with ag.no_grad():
        value = found()
    if value.shape != shape:
        raise ShapeError(f"register_parametrization: {type(parametrization).__name__} makes shape {value.shape} of "
                         f"{tensor_name!r}, which has {shape}")
    delattr(module, tensor_name)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    module.__dict__["parametrizations"][tensor_name] = found
    _retyped(module)
    return module


def _retyped(module: Any) -> None:
    base = getattr(type(module), "_parametrized", type(module))
    names = tuple(module.__dict__["parametrizations"]) if "parametrizations" in module.__dict__ else ()
    module.__class__ = _class_of(base, names) if names else base
    module._changed()


def remove_parametrizations(module: Any, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make `tensor_name` a parameter of its own again. Returns the module.

    leave_parametrized  with the value that it has, else with that of its one original
    """
    if not is_parametrized(module, tensor_name):
        raise ArgumentError(f"remove_parametrizations: {type(module).__name__} has no parametrized {tensor_name!r}")
    lists: Any = module.__dict__["parametrizations"]
    found = lists[tensor_name]
    originals = found.originals()
    if not leave_parametrized and len(originals) > 1:
        raise ArgumentError(f"remove_parametrizations: {tensor_name!r} has {len(originals)} originals; only "
                            "leave_parametrized=True is possible")
    first = originals[0]
    if leave_parametrized:
        with ag.no_grad():
            value = found().detach()
        if len(originals) == 1 and value.dtype == first.dtype:
            first.assign(value)  # the Tensor that an optimizer has
        else:
            first = Parameter(value, first.requires_grad) if isinstance(first, Parameter) else Buffer(value)
    del lists[tensor_name]
    if not len(lists):
        del module.parametrizations
    _retyped(module)
    setattr(module, tensor_name, first)
    return module
