"""vmap: a function of one example becomes a function of a batch.

A `Batched` stands in for the data of a Tensor: it looks like one example, and holds all of them along axis 0. Rows
that work element by element are aligned and run as they are; others have a batching rule; a row without one is run
example by example (correct, and no faster than your own loop).
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any, Callable

import numpy as np

from agog import tape, tree
from agog.autodiff.forward import next_level, settle, top_level
from agog.autodiff.functional import alias, check_function
from agog.dispatch import apply, operand, run, tensors, wrap
from agog.errors import ArgumentError, ArgumentTypeError, AxisError, ShapeError
from agog.ops.row import Op


class Batched:
    """Data of a Tensor inside `vmap`: a Tensor `value` whose axis 0 runs over the examples."""

    __slots__ = ("value", "shape", "dtype", "__agog_level__")
    __array_ufunc__ = None

    def __init__(self, value: Any, level: int):
        data = value._data
        self.value, self.shape, self.dtype, self.__agog_level__ = value, data.shape[1:], data.dtype, level

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def item(self) -> Any:
        raise ArgumentError("inside vmap a Tensor has one value for each example, so Python cannot look at it (bool, "
                            "int, float, item); use ag.where to choose between values")

    def __agog_host__(self, what: str) -> Any:
        instead = "; use ag.where to choose between values" if what in ("bool", "int", "float", "index") else ""
        raise ArgumentError(f"inside vmap a Tensor has one value for each example; {what} is not possible there"
                            f"{instead}")

    def __agog_repr__(self) -> str:
        return (f"Tensor(one of {self.value.shape[0]} examples, shape={self.shape}, dtype={self.dtype}, all of them:\n"
                f"{self.value!r})")

    def __agog_detach__(self) -> Any:
        return Batched(self.value.detach(), self.__agog_level__)

    @staticmethod
    def __agog_interpret__(op: Op, operands: list[Any], statics: tuple) -> Any:
        level = top_level(operands)
        batched, values = [], []
        for t in operands:
            data: Any = None if t is None else t._data
            mine = type(data) is Batched and data.__agog_level__ == level
            batched.append(mine)
            values.append(data.value if mine else t)
        out = run_batched(op, tuple(batched), tuple(values), statics)
        if type(out) is tuple or type(out) is list:
            return tuple([Batched(o, level) for o in out])
        return Batched(out, level)


def run_batched(op: Op, batched: tuple[bool, ...], values: tuple, statics: tuple) -> Any:
    """`op` on `values`, of which the batched ones carry the batch along axis 0; so do the results."""
    if op.elementwise:
        ranks = [0 if v is None else len(v._data.shape) - b for v, b in zip(values, batched)]
        rank = max(ranks)
        for i, b in enumerate(batched):
            if b and ranks[i] < rank:
                n, *shape = values[i]._data.shape
                new = tensors.reshape(values[i], (n, *(1,) * (rank - ranks[i]), *shape))
                values = (*values[:i], new, *values[i + 1:])
        return run(op, values, statics)
    if op.batch is not None:
        return op.batch(tensors, batched, values, statics)
    n = next(v.shape[0] for v, b in zip(values, batched) if b)
    if n == 0:
        raise ShapeError(f"vmap over no examples: the shape of '{op.name}' cannot be found without one")
    rows = [apply(op, tuple(v[i] if b else v for v, b in zip(values, batched)), statics) for i in range(n)]
    if isinstance(rows[0], tuple):
        return tuple(tensors.stack(list(column), axis=0) for column in zip(*rows))
    return tensors.stack(rows, axis=0)


class _Running(threading.local):
    """The levels and batch sizes of the calls of vmap that this thread is in, from the outermost."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []


_running = _Running()


def for_each_example(key: Any, split: Callable[[Any, int], Any]) -> Any:
    """`key` itself, or inside vmap one that differs between the examples: `split(key, n)` gives n of them."""
    for level, n in _running.batches:
        key = wrap(Batched(split(key, n), level))
    return key


def in_vmap() -> bool:
    """Whether this thread is in a call of vmap."""
    return bool(_running.batches)


def vmap(fn: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """`fn` over a batch: as if called for each example, and run as one computation.

    in_axes   which axis of each positional argument is the batch: an int, None (the same for all examples), or a
              tuple with an entry for each argument, which may be a pytree that is a prefix of the argument
    out_axes  where the batch goes in the results: an int, or a pytree prefix of the result

    Keyword arguments are the same for all examples. Random numbers differ between the examples, unless they are drawn
    with a key that does not.

    Raises ShapeError when batch sizes differ, AxisError for an axis that an argument does not have.
    """
    check_function(fn, "vmap")

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple | list) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ArgumentError(f"vmap: in_axes has {len(axes)} entries for {len(args)} arguments")
        leaves, structure = tree.flatten(args)
        flat = _spread(tuple(axes), args, "in_axes")
        level, start = next_level(), tape._ticket()
        size, inputs = None, []
        for x, axis in zip(leaves, flat):
            if axis is None:
                inputs.append(x)
                continue
            if isinstance(x, np.ndarray):
                x = operand(x)
            if not hasattr(x, "_node"):
                raise ArgumentTypeError(f"vmap: in_axes={axis} for a {type(x).__name__}; only Tensors have axes, "
                                        "use None")
            if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
                raise AxisError(f"vmap: in_axes={axis} for a Tensor of shape {x.shape}")
            n = x.shape[axis]
            if size is not None and n != size:
                raise ShapeError(f"vmap: batch sizes differ: {size} and {n}")
            size = n
            inputs.append(wrap(Batched(tensors.moveaxis(x, axis, 0) if axis % x.ndim else alias(x), level)))
        if size is None:
            raise ArgumentError("vmap: no argument has a batch axis (in_axes is None everywhere)")
        _running.batches.append((level, size))
        try:
            out = fn(*tree.unflatten(structure, inputs), **kwargs)
        except ShapeError as error:
            error.add_note(f"    inside vmap: shapes of batched values start with the {size} examples")
            raise
        finally:
            _running.batches.pop()
        outputs, out_structure = tree.flatten(out)
        if out is None:
            raise ArgumentTypeError("vmap: the function must return Tensors, it returned nothing")
        places = _spread(out_axes, out, "out_axes")
        results = []
        for y, axis in zip(outputs, places):
            if not hasattr(y, "_node"):
                raise ArgumentTypeError(f"vmap: the function must return Tensors, it returned a {type(y).__name__}")
            value = y._data
            mine = type(value) is Batched and value.__agog_level__ == level
            if axis is None:
                if mine:
                    raise ArgumentError("vmap: out_axes=None for a result that differs between the examples")
                results.append(y)
                continue
            full = settle(value.value, start) if mine else tensors.broadcast_to(y, (size, *y.shape))
            if not -full.ndim <= axis < full.ndim:
                raise AxisError(f"vmap: out_axes={axis} for a result of shape {full.shape[1:]}")
            results.append(tensors.moveaxis(full, 0, axis) if axis % full.ndim else full)
        return tree.unflatten(out_structure, results)

    return wrapped


def _spread(axes: Any, value: Any, what: str) -> list[Any]:
    """One axis for each leaf of `value`: `axes` is a tree that may end early, its entries then count for all below."""
    if axes is None or type(axes) is int:
        return [axes] * len(tree.leaves(value))
    if isinstance(value, dict) and isinstance(axes, dict):
        if axes.keys() != value.keys():
            raise ArgumentError(f"vmap: {what} names {sorted(axes)}, the value has {sorted(value)}")
        return [a for k in value for a in _spread(axes[k], value[k], what)]
    if isinstance(axes, tuple | list) and isinstance(value, tuple | list) and len(axes) == len(value):
        return [a for one, v in zip(axes, value) for a in _spread(one, v, what)]
    raise ArgumentError(f"vmap: {what}={axes!r} does not match the structure of the value, "
                        f"{tree.flatten(value)[1]}; give an int or None for each *, or for a container of them")
