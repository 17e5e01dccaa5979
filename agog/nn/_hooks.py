"""What calls the backward hooks of a module: identities around its inputs and outputs that look at gradients."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.errors import ArgumentError
from agog.tensor import Tensor


def _differentiable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


class Pulled:
    """One call of a module whose gradients are looked at."""

    def __init__(self, module: Any, before: tuple, after: tuple):
        self.module, self.before, self.after = module, before, after
        self.given: tuple = ()  # the gradients of the outputs
        self.size = 0
        self.places: tuple[int, ...] = ()

    def inputs(self, args: tuple) -> tuple:
        """The arguments, those with a gradient behind an identity whose pullback calls the hooks."""
        self.size = len(args)
        self.places = tuple(i for i, x in enumerate(args) if _differentiable(x)) if ag.is_grad_enabled() else ()
        if not self.places or not self.after:
            return args

        @ag.custom_gradient
        def backward_hook(*xs: Any) -> Any:
            return xs, lambda gs: self._inputs_pulled(gs)

        new = list(args)
        for place, x in zip(self.places, backward_hook(*[args[i] for i in self.places])):
            new[place] = x
        return tuple(new)

    def outputs(self, out: Any) -> Any:
        """The outputs, behind an identity whose pullback sees their gradients first."""
        alone = not isinstance(out, tuple | list)
        values = [out] if alone else list(out)
        places = [i for i, x in enumerate(values) if _differentiable(x)] if ag.is_grad_enabled() else []
        if not places:
            return out

        @ag.custom_gradient
        def backward_pre_hook(*xs: Any) -> Any:
            return xs, lambda gs: self._outputs_pulled(gs, places, len(values))

        for place, x in zip(places, backward_pre_hook(*[values[i] for i in places])):
            values[place] = x
        if alone:
            return values[0]
        if isinstance(out, list):
            return values
        return type(out)(*values) if hasattr(out, "_fields") else tuple(values)

    def _outputs_pulled(self, gs: tuple, places: list[int], size: int) -> tuple:
        given = _spread(gs, places, size)
        for hook, _ in self.before:
            given = self._replaced(given, hook(self.module, given), "grad_output")
        self.given = given
        if not self.places:
            self._called((None,) * self.size)
        return tuple(given[i] for i in places)

    def _inputs_pulled(self, gs: tuple) -> tuple:
        found = self._called(_spread(gs, self.places, self.size))
        return tuple(found[i] for i in self.places)

    def _called(self, found: tuple) -> tuple:
        for hook, _ in self.after:
            found = self._replaced(found, hook(self.module, found, self.given), "grad_input")
        return found

    def _replaced(self, old: tuple, new: Any, what: str) -> tuple:
        if new is None:
            return old
        new = tuple(new) if isinstance(new, tuple | list) else (new,)
        if len(new) != len(old):
            raise ArgumentError(f"a backward hook of {type(self.module).__name__} returned {len(new)} values for "
                                f"{what}, which has {len(old)}")
        return new


def _spread(gs: Any, places: Any, size: int) -> tuple:
    out: list[Any] = [None] * size
    for place, g in zip(places, gs):
        out[place] = g
    return tuple(out)
