"""agog as a backend of einops: `einops.rearrange(tensor, "b c h w -> b (h w) c")` and all its other functions.

einops finds the subclasses of its AbstractBackend; importing this module declares one. `watch` sees to it that this
happens when einops is imported, so that agog needs no einops, and the user no extra line.
"""

from __future__ import annotations

import sys
from typing import Any

_NEEDS = "einops._backends"


class _Watch:
    """An entry of sys.meta_path that waits for einops to be imported, and then removes itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _NEEDS:
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                declare(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def watch() -> None:
    """Declare the backend now if einops is loaded, else as soon as it is."""
    if _NEEDS in sys.modules:
        declare(sys.modules[_NEEDS])
    else:
        sys.meta_path.insert(0, _Watch())


def declare(backends: Any) -> None:
    """Declare the backend to einops."""
    class AgogBackend(backends.AbstractBackend):
        framework_name = "agog"

        def __init__(self) -> None:
            from agog.dispatch import tensors
            from agog.tensor import Tensor, asarray

            self.ag, self.asarray, self.cls = tensors, asarray, Tensor

        def is_appropriate_type(self, x: Any) -> bool:
            return isinstance(x, self.cls)

        def from_numpy(self, x: Any) -> Any:
            return self.asarray(x)

        def to_numpy(self, x: Any) -> Any:
            return x.detach().numpy()

        def arange(self, start: int, stop: int) -> Any:
            return self.ag.arange(start, stop, 1, None)

        def transpose(self, x: Any, axes: Any) -> Any:
            return self.ag.permute_dims(x, tuple(axes))

        def reduce(self, x: Any, operation: str, axes: Any) -> Any:
            return getattr(self.ag, operation)(x, axis=tuple(axes))

        def stack_on_zeroth_dimension(self, tensors: list[Any]) -> Any:
            return self.ag.stack(tensors)

        def add_axis(self, x: Any, new_position: int) -> Any:
            return self.ag.expand_dims(x, new_position)

        def tile(self, x: Any, repeats: Any) -> Any:
            return self.ag.tile(x, tuple(repeats))

        def concat(self, tensors: list[Any], axis: int) -> Any:
            return self.ag.concat(tensors, axis=axis)

        def is_float_type(self, x: Any) -> bool:
            return x.dtype.name in ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")

        def einsum(self, pattern: str, *xs: Any) -> Any:
            return self.ag.einsum(pattern, *xs)

    backends.AgogBackend = AgogBackend  # einops looks at the subclasses that are alive
