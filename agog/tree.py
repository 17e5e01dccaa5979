"""Pytrees: nested containers whose leaves are tensors (or anything else).

Containers are tuple, list, dict, namedtuple, None, dataclasses, and classes given to `register`.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, Callable, Iterable

from agog.errors import ArgumentError

_registry: dict[type, tuple[Callable[[Any], tuple[Iterable[Any], Any]], Callable[[Any, list[Any]], Any]]] = {}


@dataclasses.dataclass(frozen=True)
class Structure:
    """The shape of a tree without its leaves; equal for trees of the same form."""

    kind: Any  # None for a leaf, else the container's type
    aux: Any = None
    children: tuple[Structure, ...] = ()

    def __repr__(self) -> str:
        parts = [repr(c) for c in self.children]
        if self.kind is None:
            return "*"
        if self.kind is type(None):
            return "None"
        if self.kind is tuple:
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if self.kind is list:
            return f"[{', '.join(parts)}]"
        if self.kind is dict:
            return f"{{{', '.join(f'{k!r}: {part}' for k, part in zip(self.aux, parts))}}}"
        return f"{self.kind.__name__}({', '.join(parts)})"

    @property
    def leaf_count(self) -> int:
        return 1 if self.kind is None else sum(c.leaf_count for c in self.children)


LEAF = Structure(None)


@dataclasses.dataclass(frozen=True)
class _Keys:
    factory: Any
    names: tuple


def register(cls: type, flatten: Callable[[Any], tuple[Iterable[Any], Any]],
             unflatten: Callable[[Any, list[Any]], Any]) -> None:
    """Make `cls` a container: `flatten(obj) -> (children, aux)`, `unflatten(aux, children) -> obj`."""
    _registry[cls] = (flatten, unflatten)


def _children(node: Any) -> tuple[Any, Any, list[Any]] | None:
    """(kind, aux, children) of a container, None for a leaf."""
    kind = type(node)
    if kind is tuple or kind is list:
        return kind, None, list(node)
    if kind is dict:
        return kind, tuple(node), list(node.values())
    if node is None:
        return type(None), None, []
    if kind in _registry:
        children, aux = _registry[kind][0](node)
        return kind, aux, list(children)
    if isinstance(node, tuple) and hasattr(kind, "_fields"):
        return kind, None, list(node)
    if isinstance(node, dict):
        return kind, tuple(node), list(node.values())
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        # A field that the constructor does not take is made by `__post_init__`, or else by whoever has set it.
        made = hasattr(kind, "__post_init__")
        names = tuple(f.name for f in dataclasses.fields(node) if f.init or not made and hasattr(node, f.name))
        return kind, names, [getattr(node, n) for n in names]
    return None


def _dict(kind: Any, keys: tuple, values: list[Any]) -> dict:
    """A dict of this class, whatever its constructor makes of an argument."""
    if kind.__init__ is dict.__init__ or kind is collections.OrderedDict:
        return kind(zip(keys, values))
    out = kind.__new__(kind)
    put = collections.OrderedDict.__setitem__ if isinstance(out, collections.OrderedDict) else dict.__setitem__
    for key, value in zip(keys, values):
        put(out, key, value)
    return out


def _dataclass(kind: type, names: tuple[str, ...], values: list[Any]) -> Any:
    """A dataclass that holds these values, also where its construction runs code that changes them."""
    taken = {f.name for f in dataclasses.fields(kind) if f.init}
    out = kind(**{n: v for n, v in zip(names, values) if n in taken})
    for n, v in zip(names, values):
        if getattr(out, n, _NOTHING) is not v:
            object.__setattr__(out, n, v)
    return out


_NOTHING = object()
register(collections.defaultdict, lambda d: (list(d.values()), _Keys(d.default_factory, tuple(d))),
         lambda keys, values: collections.defaultdict(keys.factory, zip(keys.names, values)))


def flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], Structure]:
    """The leaves of `tree`, left to right, and its structure."""
    leaves: list[Any] = []

    def walk(node: Any) -> Structure:
        found = None if is_leaf is not None and is_leaf(node) else _children(node)
        if found is None:
            leaves.append(node)
            return LEAF
        kind, aux, children = found
        return Structure(kind, aux, tuple(walk(c) for c in children))

    try:
        return leaves, walk(tree)
    except RecursionError:
        kind = type(tree).__name__
        raise ArgumentError(f"a {kind} that holds itself, or is nested too deeply, is no tree") from None


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The inverse of `flatten`."""
    it = iter(leaves)

    def build(s: Structure) -> Any:
        if s.kind is None:
            try:
                return next(it)
            except StopIteration:
                raise ArgumentError(f"unflatten: the structure has {structure.leaf_count} leaves, fewer given"
                                    ) from None
        children = [build(c) for c in s.children]
        kind = s.kind
        if kind is type(None):
            return None
        if kind is tuple or kind is list:
            return kind(children)
        if kind in _registry:
            return _registry[kind][1](s.aux, children)
        if issubclass(kind, tuple):
            return tuple.__new__(kind, children)  # a class of its own may do more with arguments
        if issubclass(kind, dict):
            return _dict(kind, s.aux, children)
        return _dataclass(kind, s.aux, children)

    out = build(structure)
    if next(it, it) is not it:
        raise ArgumentError(f"unflatten: the structure has {structure.leaf_count} leaves, more given")
    return out


def leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """The leaves of `tree`, left to right."""
    return flatten(tree, is_leaf)[0]


def map(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply `fn` leaf by leaf; the trees must have the same structure."""
    first, structure = flatten(tree)
    others = []
    for other in rest:
        more, s = flatten(other)
        if s != structure:
            raise ArgumentError(f"tree.map: trees of different structure: {structure} and {s}")
        others.append(more)
    return unflatten(structure, [fn(*xs) for xs in zip(first, *others)])


def paths(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(`a.0.b`, leaf) pairs, for messages and file formats."""
    found = _children(tree)
    if found is None:
        return [(prefix, tree)]
    kind, aux, children = found
    aux = aux.names if isinstance(aux, _Keys) else aux
    names = aux if isinstance(aux, tuple) and len(aux) == len(children) else range(len(children))
    dot = prefix + "." if prefix else ""
    return [p for n, c in zip(names, children) for p in paths(c, f"{dot}{n}")]
