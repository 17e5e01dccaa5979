"""Native functions of one dtype, of which the plan of a call names one: convolutions, pooling."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from agog.compiler.targets import Target

__all__ = ["Planned"]


class Planned:
    """The base: a native function is compiled or found when it is first wanted, and kept.

    find : gives the native function of a kind of plan, or None where it is not there yet: then methods return None too
    """

    __slots__ = ("_find", "_natives", "dtype", "name", "nothing", "target")

    def __init__(self, dtype: str, target: Target, find: Callable[[str], Any] | None = None) -> None:
        self.dtype, self.name, self.target = np.dtype(dtype), dtype, target
        self.nothing = np.empty(0, dtype)  # for an argument that is not given
        self._natives: dict[str, Callable[..., None]] = {}
        self._find = find or self.native

    def native(self, kind: str) -> Callable[..., None]:
        """The native function of a kind of plan as a callable over arrays."""
        if kind not in self._natives:
            self._natives[kind] = self._bound(kind)
        return self._natives[kind]

    def _bound(self, kind: str) -> Callable[..., None]:
        """That function, made now."""
        raise TypeError(f"{type(self).__name__} has no functions")

    def _found(self, kind: str) -> Callable[..., None] | None:
        """What `find` gives, kept."""
        native = self._natives.get(kind)
        if native is None:
            native = self._find(kind)
            if native is not None:
                self._natives[kind] = native
        return native
