"""Modules that hold modules."""

from __future__ import annotations

from typing import Any, Iterable, Iterator

from agog.errors import ArgumentError, ArgumentTypeError, IndexingError
from agog.nn._module import MODULE, PARAMETER, Module
from agog.nn._parameter import Parameter
from agog.tensor import Tensor


class _Numbered(Module):
    """Parts named "0", "1", ...; what lists of modules and lists of parameters share."""

    _part: type = Module
    _kind = MODULE

    def _names(self) -> list[str]:
        return [n for n, k in self._kinds.items() if k == self._kind]

    def _items(self) -> list[Any]:
        return [self.__dict__[n] for n in self._names()]

    def _index(self, i: int) -> int:
        n = len(self)
        if not isinstance(i, int):
            raise ArgumentTypeError(f"{type(self).__name__}[{i!r}]: give a whole number or a slice")
        if not -n <= i < n:
            raise IndexingError(f"{type(self).__name__}[{i}]: there are {n} parts")
        return i % n

    def _replace(self, items: Iterable[Any]) -> None:
        items = list(items)
        for i, item in enumerate(items):
            if not isinstance(item, self._part):
                given = f"the class {item.__name__}" if isinstance(item, type) else f"a {type(item).__name__}"
                instead = "; functions such as ag.relu are modules as nn.ReLU()" if callable(item) else ""
                raise ArgumentTypeError(f"{type(self).__name__}: part {i} must be a {self._part.__name__}, "
                                        f"not {given}{instead}")
        for name in self._names():
            delattr(self, name)
        for i, item in enumerate(items):
            setattr(self, str(i), item)
        self._changed()

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __contains__(self, item: Any) -> bool:
        return any(x is item for x in self._items())

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            out = object.__new__(type(self))
            out.__dict__.update(Module.__new__(Module).__dict__)
            out._replace(self._items()[i])
            return out
        return self.__dict__[str(self._index(i))]

    def __setitem__(self, i: int, item: Any) -> None:
        items = self._items()
        items[self._index(i)] = item
        self._replace(items)

    def __delitem__(self, i: Any) -> None:
        items = self._items()
        del items[i if isinstance(i, slice) else self._index(i)]
        self._replace(items)

    def append(self, item: Any) -> Any:
        """Add one at the end. Returns the container."""
        self._replace([*self._items(), item])
        return self

    def extend(self, items: Iterable[Any]) -> Any:
        """Add several at the end. Returns the container."""
        self._replace([*self._items(), *items])
        return self

    def insert(self, i: int, item: Any) -> Any:
        """Add one before position `i`. Returns the container."""
        items = self._items()
        items.insert(i, item)
        self._replace(items)
        return self


    def pop(self, i: int = -1) -> Any:
        """Remove and return one, by default the last."""
        items = self._items()
        item = items.pop(self._index(i))
        self._replace(items)
        return item

    def __iadd__(self, items: Iterable[Any]) -> Any:
        return self.extend(items)

    def __add__(self, items: Iterable[Any]) -> Any:
        out = self[:]
        return out.extend(items)


class Sequential(_Numbered):
    """Modules that are called one after another: `Sequential(a, b)(x)` is `b(a(x))`. A dict gives them names."""

    def __init__(self, *modules: Any):
        if len(modules) == 1 and isinstance(modules[0], dict):
            for name, m in modules[0].items():
                self.add_module(name, m)
        else:
            self._replace(modules[0] if len(modules) == 1 and isinstance(modules[0], list | tuple) else modules)

    def __getitem__(self, i: Any) -> Any:
        return super().__getitem__(i) if isinstance(i, slice) else self._items()[self._index(i)]

    def forward(self, x: Any) -> Any:
        version, chain = self.__dict__.get("_chain", (0, ()))
        if version != self._version:
            chain = tuple(m for m in self._items() if m is not None)
            self.__dict__["_chain"] = (self._version, chain)
        for module in chain:
            x = module(x)
        return x


class ModuleList(_Numbered):
    """A list of modules whose parameters are found. It has no forward: use its parts in yours."""

    def __init__(self, modules: Iterable[Module] = ()):
        self._replace(modules)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError("ModuleList has no forward method: call its parts, or make it an nn.Sequential")


class ParameterList(_Numbered):
    """A list of parameters that are found."""

    _part = Parameter
    _kind = PARAMETER

    def __init__(self, parameters: Iterable[Parameter] = ()):
        self._replace(parameters)

    def extra_repr(self) -> str:
        return ", ".join(str(p.shape) for p in self._items())


class _Named(Module):
    """Parts by name; what dicts of modules and dicts of parameters share."""

    _part: type = Module
    _kind = MODULE

    def __init__(self, parts: Any = None):
        self.update(parts or {})

    def update(self, parts: Any) -> None:
        """Add or replace parts, of a dict or of pairs."""
        for name, m in dict(parts).items():
            self[name] = m

    def __setitem__(self, name: str, part: Any) -> None:
        if not isinstance(part, self._part):
            raise ArgumentTypeError(f"{type(self).__name__}[{name!r}]: give an nn.{self._part.__name__}, not a "
                                    f"{type(part).__name__}")
        self._check_name(name)
        setattr(self, name, part)

    def __getitem__(self, name: str) -> Any:
        if name not in self._kinds:
            raise ArgumentError(f"{type(self).__name__} has no {name!r}; it has "
                                f"{', '.join(map(repr, self._kinds)) or 'nothing'}")
        return self.__dict__[name]

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def pop(self, name: str) -> Any:
        """Remove and return a part."""
        part = self[name]
        del self[name]
        return part

    def clear(self) -> None:
        """Remove all parts."""
        for name in self:
            del self[name]

    def __len__(self) -> int:
        return len(self._kinds)

    def __contains__(self, name: Any) -> bool:
        return name in self._kinds

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._kinds))

    def keys(self) -> list[str]:
        """The names."""
        return list(self._kinds)

    def values(self) -> list[Any]:
        """The parts."""
        return [self.__dict__[n] for n in self._kinds]

    def items(self) -> list[tuple[str, Any]]:
        """(name, part)."""
        return [(n, self.__dict__[n]) for n in self._kinds]


class ModuleDict(_Named):
    """A dict of modules whose parameters are found. Names are strings without dots."""


class ParameterDict(_Named):
    """A dict of parameters that are found. Names are strings without dots; a Tensor becomes a Parameter."""

    _part: type = Parameter
    _kind = PARAMETER

    def __setitem__(self, name: str, part: Any) -> None:
        if isinstance(part, Tensor) and not isinstance(part, Parameter):
            part = Parameter(part.detach())
        super().__setitem__(name, part)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {p.shape}" for name, p in self.items())
