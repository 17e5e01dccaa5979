"""Updates of parameters by optimizers, for eager work on large arrays: one pass over memory each, and in place."""

from __future__ import annotations

from typing import Any, Callable

from agog.compiler.elementwise import compile_elementwise

__all__ = ["Adam", "Descent"]


class Adam:
    """Adam's update of one parameter, in one pass over memory and in place."""

    def __init__(self, dtype: str) -> None:
        def update(k: Any, p: Any, g: Any, m: Any, v: Any, size: Any, eps: Any, left1: Any, beta2: Any, left2: Any,
                   keep: Any) -> tuple[Any, ...]:
            m = m + (g - m) * left1
            v = v * beta2 + g * g * left2
            return p * keep - m / (k.sqrt(v) + eps) * size, m, v

        kinds = ["contiguous"] * 4 + ["scalar"] * 6
        self.kernel = compile_elementwise("adam", update, [dtype] * 10, [dtype] * 3, kinds, recipe="eager adam")

    def update(self, p: Any, g: Any, m: Any, v: Any, numbers: tuple, empty: Any) -> bool:
        """Change p, m and v; `numbers`: step size, eps, 1 - beta1, beta2, 1 - beta2, what is kept of p."""
        if v.dtype != p.dtype:
            return False
        self.kernel([p, m, v], [p, g, m, v, *numbers])
        return True


class Descent:
    """SGD's update; `ready(make, *key)` is `make(*key)` once it is made, and None before."""

    def __init__(self, ready: Callable[..., Any]) -> None:
        self.ready = ready

    def update(self, p: Any, g: Any, b: Any, numbers: tuple, decays: bool, nesterov: bool) -> bool:
        """Change p, and its momentum b unless that is None.

        numbers : the rate; with b the momentum's decay; with `decays` that of the weights
        """
        kernel = self.ready(_descent, p.dtype.name, b is not None, decays, nesterov)
        if kernel is None or g.dtype != p.dtype or b is not None and b.dtype != p.dtype:
            return False
        changed = [p] if b is None else [p, b]
        kernel(changed, [p, g, *changed[1:], *numbers])
        return True


def _descent(dtype: str, momentum: bool, decays: bool, nesterov: bool) -> Any:
    def update(k: Any, p: Any, g: Any, *rest: Any) -> Any:
        b, rest = (rest[0], rest[1:]) if momentum else (None, rest)
        if decays:
            g = p * rest[-1] + g
        if b is None:
            return p - g * rest[0]
        b = b * rest[1] + g
        return p - (b * rest[1] + g if nesterov else b) * rest[0], b

    arrays, numbers = 2 + momentum, 1 + momentum + decays
    kinds = ["contiguous"] * arrays + ["scalar"] * numbers
    recipe = f"eager sgd {momentum} {decays} {nesterov}"
    return compile_elementwise("sgd", update, [dtype] * len(kinds), [dtype] * (1 + momentum), kinds, recipe=recipe)
