"""Indexing as NumPy has it, for reading and for writing, differentiable in the array and in what is written.

`index(x, key)` and `index_update(x, key, value)` sort a key out: what is known beforehand (ints, slices, None, ...)
goes into a static template, arrays become inputs of the row, so that a graph can have them as values.

    reading                  its adjoint              writing            key
    getitem(x; index)        getitem_adjoint          setitem            ints, slices, None, ...
    take(x, indices; axis)   take_adjoint             setitem_array      one integer array, otherwise full slices
    getitem_array(x, key;)   getitem_arrays_adjoint   setitem_array      one array (integers or a mask) among others
    getitem_arrays(*xs;)     getitem_arrays_adjoint   setitem_arrays     several arrays

In a template, "@" marks the place of an array.
"""

from __future__ import annotations

from operator import index as _as_int
from typing import Any

import numpy

from agog import config
from agog.array import dtypes
from agog.errors import ArgumentError, DTypeError, IndexingError, ShapeError
from agog.ops import axes as ax
from agog.ops.explain import describe
from agog.ops.gathering import add_at, add_rows, added_along, outside, still_written
from agog.ops.joining import batched_all
from agog.ops.pieces import cover
from agog.ops.row import Op, composite

_FULL = slice(None)
_BASIC = {int, slice, type(None), type(Ellipsis)}


def _filled(template: tuple, arrays: Any) -> tuple:
    """The key with the arrays in their places."""
    arrays = iter(arrays)
    return tuple([next(arrays) if type(k) is str else k for k in template])


# --------------------------------------------------------------------------------------------------- basic, reading
def _show(key: Any) -> str:
    def one(k: Any) -> str:
        if type(k) is slice:
            text = f"{'' if k.start is None else k.start}:{'' if k.stop is None else k.stop}"
            return text if k.step is None else f"{text}:{k.step}"
        return "..." if k is Ellipsis else describe(k) if hasattr(k, "shape") else str(k)

    return ", ".join(map(one, key)) if isinstance(key, tuple) else one(key)


def _check_getitem(x: Any, index: Any) -> tuple:
    if type(index) is not tuple:
        index = (index,)
    shape, axis, rest = x.shape, 0, 0
    used = len(index) - index.count(None)
    if Ellipsis in index:
        used -= 1
        rest = len(shape) - used
        if index.count(Ellipsis) > 1:
            raise IndexingError(f"x[{_show(index)}]: only one ... is allowed, it stands for all axes not named")
    if used > len(shape):
        raise IndexingError(f"x[{_show(index)}]: {used} indices for {describe(x)}, which has {len(shape)} axes")
    for k in index:
        if type(k) is int:
            if not -shape[axis] <= k < shape[axis]:
                raise outside(f"x[{_show(index)}]", x, axis, k)
            axis += 1
        elif k is Ellipsis:
            axis += rest
        elif k is not None:
            if k.step == 0:
                raise IndexingError(f"x[{_show(index)}]: the step of a slice cannot be 0")
            axis += 1
    return (index,)


def _batched_index(statics: tuple) -> tuple:
    return (_FULL, *(statics[0] if type(statics[0]) is tuple else (statics[0],)))


Op("_getitem(x; index) -> y", lambda np, x, index: x[index], check=_check_getitem, sure="True",
   vjp={"x": lambda xp, g, x_shape, index: xp._getitem_adjoint(g, shape=x_shape, index=index)}, linear_in="all",
   promotes=(), kind="movement", reads="index",
   batch=lambda xp, batched, inputs, statics: xp._getitem(inputs[0], _batched_index(statics)),
   samples=lambda s: [((s(3, 4),), {"index": (1,)}), ((s(3, 4),), {"index": (slice(None), slice(None, None, -2))}),
                      ((s(2, 3, 4),), {"index": (Ellipsis, None, -1)}), ((s(3),), {"index": 2})],
   doc="`x[index]` for an index of ints, slices, None and ... (NumPy's basic indexing). Raises IndexingError.")


def _getitem_adjoint(np: Any, g: Any, shape: tuple, index: Any) -> Any:
    out = np.zeros(shape, g.dtype)
    out[index] = g
    return out


Op("_getitem_adjoint(g; shape, index) -> x", _getitem_adjoint,
   vjp={"g": lambda xp, g, index: xp._getitem(g, index=index)}, linear_in="all", promotes=(), kind="movement",
   batch=lambda xp, batched, inputs, statics: xp._getitem_adjoint(
       inputs[0], (inputs[0].shape[0], *statics[0]), _batched_index(statics[1:])),
   samples=lambda s: [((s(4),), {"shape": (3, 4), "index": (1,)}),
                      ((s(2, 2),), {"shape": (2, 4), "index": (slice(None), slice(None, None, -2))})],
   doc="Zeros of `shape` with `g` at `index`.")


def _all_slices(gs: list, shape: tuple, indices: tuple) -> list | None:
    """The cotangents of x[0], x[1], ... in this order, where that is what they are of."""
    slices: list[Any] = [None] * shape[0]
    rest = shape[1:]
    for g, index in zip(gs, indices):
        i = index[0] if type(index) is tuple and len(index) == 1 else None
        if type(i) is not int or slices[i] is not None or g.shape != rest:
            return None
        slices[i] = g
    return slices


def _getitem_adjoints(np: Any, *args: Any) -> Any:
    *gs, shape, indices = args
    if len(shape) > 1 and len(gs) == shape[0] and (slices := _all_slices(gs, shape, indices)):
        out = np.empty((shape[0] * shape[1], *shape[2:]), gs[0].dtype)
        np.concatenate(slices, out=out, casting="unsafe")
        return out.reshape(shape)
    apart, whole = cover(shape, indices)
    out = (np.empty if whole else np.zeros)(shape, gs[0].dtype)
    for g, index in zip(gs, indices):
        if apart:
            out[index] = g
        else:
            out[index] += g
    return out


Op("_getitem_adjoints(*gs; shape, indices) -> x", _getitem_adjoints,
   vjp={"gs": lambda xp, g, indices: [xp._getitem(g, index=i) for i in indices]}, linear_in="all", kind="movement",
   batch=lambda xp, batched, inputs, statics: xp._getitem_adjoints(
       *batched_all(xp, batched, inputs), shape=(next(g.shape[0] for g, b in zip(inputs, batched) if b), *statics[0]),
       indices=tuple(_batched_index((i,)) for i in statics[1])),
   samples=lambda s: [((s(4), s(4)), {"shape": (3, 4), "indices": ((1,), (-1,))}),
                      ((s(2, 3), s(1, 3)), {"shape": (3, 3), "indices": (slice(0, 2), (slice(2, 3),))}),
                      ((s(2, 2), s(2, 3)), {"shape": (2, 4), "indices": ((slice(None), slice(0, 2)),
                                                                         (slice(None), slice(1, None)))}),
                      ((s(2), s()), {"shape": (4,), "indices": ((slice(None, None, -2),), (3,))})],
   doc="The sum of `_getitem_adjoint` of each g and its index.")


# --------------------------------------------------------------------------------------------------- basic, writing
def _check_value(x: Any, value: Any, what: str) -> None:
    if dtypes.kind(value.dtype) == "c" and dtypes.kind(x.dtype) != "c":
        raise DTypeError(f"x[{what}] = value: {describe(value)} is complex and x is {describe(x)}; write its real part "
                         "(ag.real(value)), or make x complex with x.astype")


def _check_setitem(x: Any, value: Any, index: Any) -> tuple:
    index, = _check_getitem(x, index)
    _check_value(x, value, _show(index))
    return (index,)


def _setitem(np: Any, x: Any, value: Any, index: Any) -> Any:
    out = np.array(x)  # (a rule may give a NumPy scalar)
    try:
        out[index] = value
    except ValueError:
        raise _misfit(out, value, index) from None
    return out


def _misfit(x: Any, value: Any, key: Any) -> ShapeError:
    return ShapeError(f"x[{_show(key)}] = value: value is {describe(value)}, which does not broadcast to "
                      f"{x[key].shape}, "
                      f"the shape of that part of x, {describe(x)}")


def _value_rule(xp: Any, g: Any, shape: tuple, dtype: Any) -> Any:
    """The cotangent of a written value of `shape` and `dtype` from that of the place it was broadcast to."""
    if len(shape) > len(g.shape):
        g = xp.reshape(g, (1,) * (len(shape) - len(g.shape)) + tuple(g.shape))
    g = xp.sum_to(g, shape)
    if g.dtype == dtype:
        return g
    return xp.astype(xp.real(g) if dtypes.kind(g.dtype) == "c" and dtypes.kind(dtype) != "c" else g, dtype)


def _batch_setitem(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    x, value = inputs
    n = (x if batched[0] else value).shape[0]
    if not batched[0]:
        x = xp.broadcast_to(x, (n, *x.shape))
    key = _batched_index(statics)
    if batched[1]:  # axes of size 1 between the batch axis and the value's own
        missing = len(numpy.empty(x.shape, numpy.bool_)[key].shape) - len(value.shape)
        if missing > 0:
            value = xp.reshape(value, (n, *(1,) * missing, *value.shape[1:]))
        elif missing < 0:
            value = xp.reshape(value, (n, *value.shape[1 - missing:]))
    return xp._setitem(x, value, key)


Op("_setitem(x, value; index) -> y", _setitem, check=_check_setitem,
   vjp={"x": lambda xp, g, index: xp._setitem(g, 0, index=index),
        "value": lambda xp, g, value_shape, value_dtype, index:
            _value_rule(xp, xp._getitem(g, index=index), value_shape, value_dtype)},
   linear_in="all", promotes=(), kind="movement", batch=_batch_setitem,
   samples=lambda s: [((s(3, 4), s(4)), {"index": (1,)}), ((s(3, 4), s()), {"index": (slice(None), slice(1, 3))}),
                      ((s(3, 4), s(1, 3, 1)), {"index": (Ellipsis, slice(None, None, 2))})],
   doc="A copy of `x` with `value`, cast and broadcast, at `index` (NumPy's basic indexing).")


# ---------------------------------------------------------------------------------------------------- keys of arrays
def _check_template(op: str, x: Any, keys: tuple, template: tuple) -> None:
    shape, axis = x.shape, 0
    used = 0
    arrays = iter(keys)
    for k in template:
        if type(k) is str:
            key = next(arrays)
            kind = dtypes.kind(key.dtype)
            if kind not in "iub":
                raise IndexingError(f"x[{_show(_filled(template, keys))}]: {describe(key)} cannot be an index; use "
                                    "integers "
                                    "or a boolean mask (x.astype('int64') makes integers)")
            used += len(key.shape) if kind == "b" else 1
        elif k is not None and k is not Ellipsis:
            used += 1
    if used > len(shape):
        raise IndexingError(f"x[{_show(_filled(template, keys))}]: {used} axes are indexed, but {describe(x)} has "
                            f"{len(shape)}")
    arrays = iter(keys)
    for k in template:
        if type(k) is str:
            key = next(arrays)
            if dtypes.kind(key.dtype) == "b":
                # A mask without elements selects none.
                if any(k not in (n, 0) for k, n in zip(key.shape, shape[axis:])):
                    raise IndexingError(f"x[{_show(_filled(template, keys))}]: the mask has shape {key.shape}, but "
                                        "must have "
                                        f"the shape of the axes that it selects from: "
                                        f"{shape[axis:axis + len(key.shape)]} of {describe(x)}")
                axis += len(key.shape)
            else:
                axis += 1
        elif k is Ellipsis:
            axis += len(shape) - used
        elif k is not None:
            axis += 1


def _read(np: Any, x: Any, *keys: Any) -> Any:
    if x.size > 1023 and _masks(x, keys):  # NumPy looks at a mask itself several times as slowly
        mask = keys[0]
        return x.reshape((mask.size, *x.shape[mask.ndim:])).take(np.flatnonzero(mask), 0)
    key = _filled(keys[-1], keys[:-1])
    try:
        return x[key]
    except IndexError as error:
        raise _bad_key(x, key, error) from None


def _masks(x: Any, keys: tuple) -> bool:
    """Whether one mask of the first axes of `x`, which is contiguous, is all of the key; keys: arrays and template."""
    mask = keys[0]
    return (len(keys) == 2 and keys[1] == ("@",) and mask.dtype.kind == "b" and mask.ndim > 0
            and mask.shape == x.shape[:mask.ndim] and x.flags.c_contiguous)


def _width(k: Any) -> int:
    """How many axes of the array an item of a key uses up."""
    if k is None or k is Ellipsis:
        return 0
    return k.ndim if hasattr(k, "dtype") and k.dtype == bool else 1


def _bad_key(x: Any, key: tuple, error: Exception) -> IndexingError:
    """Which index of which array is outside which axis."""
    axis, named = 0, sum(_width(k) for k in key)
    for k in key:
        if k is None:
            continue
        if k is Ellipsis:
            axis += x.ndim - named
            continue
        if hasattr(k, "dtype") and k.dtype != bool:
            n = x.shape[axis]
            bad = k[(k < -n) | (k >= n)]
            if bad.size:
                return outside(f"x[{_show(key)}]", x, axis, int(bad.flat[0]))
        elif type(k) is int and not -x.shape[axis] <= k < x.shape[axis]:
            return outside(f"x[{_show(key)}]", x, axis, k)
        axis += _width(k)
    return IndexingError(f"x[{_show(key)}] of {describe(x)}: {error}")


def _check_read(*args: Any) -> tuple:
    x, *keys, template = args
    _check_template("x[...]", x, tuple(keys), template)
    return (template,)


def _places(np: Any, shape: tuple, key: tuple) -> Any:
    """The position, in row-major order, of each element that `key` selects, with memory for those elements only."""
    places, step = None, 1
    for axis in reversed(range(len(shape))):
        line = np.arange(shape[axis]) * step
        part = np.broadcast_to(line.reshape((-1,) + (1,) * (len(shape) - 1 - axis)), shape)[key]
        places = part if places is None else places + part
        step *= shape[axis]
    return np.zeros((), np.intp)[key] if places is None else places


def _read_adjoint(np: Any, g: Any, *keys: Any) -> Any:
    *arrays, shape, template = keys
    key = _filled(template, arrays)
    if all(a.dtype == bool for a in arrays) or all(a.ndim == 0 for a in arrays):  # nothing is selected twice
        out = np.zeros(shape, g.dtype)
        out[key] = g
        return out
    if len(arrays) == 1 and template == ("@",) and len(shape) > 1:  # whole rows
        rows = arrays[0].reshape(-1)
        return add_rows(np, shape[0], rows, g.reshape(rows.size, ax.size(shape[1:]))).reshape(shape)
    if g.size > 1023 and np is numpy and len(arrays) == 1 and template == ("@",):
        done = added_along(arrays[0].reshape(-1), g.reshape(-1), shape, (1, *shape, g.size, 1))
        if done is not None:
            return done
    return add_at(np, ax.size(shape), _places(np, shape, key).reshape(-1), g.reshape(-1)).reshape(shape)


def _batch_read(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    x, *keys = inputs
    template, = statics
    if any(b and dtypes.kind(k.dtype) == "b" for k, b in zip(keys, batched[1:])):
        raise IndexingError("inside vmap a mask selects a different number of elements in each example, so the "
                            "results have "
                            "different shapes; use ag.where(mask, x, 0)")
    n = next(v.shape[0] for v, b in zip(inputs, batched) if b)
    if not batched[0]:
        x = xp.broadcast_to(x, (n, *x.shape))
    # How one example comes out: `places` axes of the index arrays' common shape, from axis `at` on.
    shapes = [tuple(k.shape[b:]) for k, b in zip(keys, batched[1:])]
    dummies = [numpy.zeros(s, bool if dtypes.kind(k.dtype) == "b" else int) for s, k in zip(shapes, keys)]
    at, places = _array_axes(template, dummies)
    if any(batched[1:]):
        keys = [xp.reshape(k, (n,) + (1,) * (places - len(k.shape) + 1) + tuple(k.shape[1:])) if b else k
                for k, b in zip(keys, batched[1:])]
        if any(dtypes.kind(k.dtype) == "b" for k in keys):
            raise IndexingError("inside vmap, an index cannot mix masks with integers that differ between the examples")
        first = numpy.arange(n).reshape((n,) + (1,) * places)
        y = xp._getitem_arrays(x, first, *keys, template=("@", *template))
        return xp.moveaxis(y, tuple(range(1, places + 1)), tuple(range(at + 1, at + places + 1))) if at else y
    y = xp._getitem_arrays(x, *keys, template=(_FULL, *template))
    return xp.moveaxis(y, places, 0) if at == 0 and _apart(template) else y


def _apart(template: tuple) -> bool:
    """True where a slice, None or ... lies between indices, so that NumPy puts the arrays' axes first."""
    solid = [type(k) is str or type(k) is int for k in template]
    first, last = solid.index(True), len(solid) - 1 - solid[::-1].index(True)
    return not all(solid[first:last + 1])


def _array_axes(template: tuple, arrays: list) -> tuple[int, int]:
    """(where the axes of the broadcast index arrays are in the result, how many they are)."""
    places = max(1 if a.dtype == bool else a.ndim for a in arrays)
    if _apart(template):
        return 0, places
    at = 0
    for k in template:
        if type(k) is str or type(k) is int:
            break
        if k is Ellipsis:  # at the end of the result, counted from there
            raise IndexingError("inside vmap, write the slices out instead of ... before an index array")
        at += 1
    return at, places


Op("_getitem_array(x, key; template) -> y", _read, check=_check_read,
   vjp={"x": lambda xp, g, key, x_shape, template:
        xp._getitem_arrays_adjoint(g, key, shape=x_shape, template=template)},
   linear_in=("x",), promotes=(), kind="indexing", batch=_batch_read,
   samples=lambda s: [((s(3, 4), s.ints(3, 2)), {"template": ("@", slice(1, 3))}),
                      ((s(3, 4), s.ints(2, 3, 4) > 0), {"template": ("@",)}),
                      ((s(3, 2, 4), s.ints(3, 2, 2)), {"template": (1, slice(None), "@")})],
   doc="`x` at the `template`, in which `key` (integers or a mask) takes the place of '@'.")


def _keys_rule(xp: Any, g: Any, xs: Any, xs_shape: tuple, template: tuple) -> list:
    return [xp._getitem_arrays_adjoint(g, *xs[1:], shape=xs_shape[0], template=template)] + [None] * (len(xs) - 1)


Op("_getitem_arrays(*xs; template) -> y", _read, check=_check_read, vjp={"xs": _keys_rule},
   jvp={}, promotes=(), kind="indexing", batch=_batch_read,
   samples=lambda s: [((s(3, 4), s.ints(3, 2), s.ints(4, 2)), {"template": ("@", "@")}),
                      ((s(3, 2, 4), s.ints(3, 2, 1), s.ints(4, 3)), {"template": ("@", slice(None), "@")})],
   doc="`xs[0]` at the `template`, in which the other arrays take the places of '@'.")
Op("_getitem_arrays_adjoint(*xs; shape, template) -> y", _read_adjoint,
   vjp={"xs": lambda xp, g, xs, template: [xp._getitem_arrays(g, *xs[1:], template=template)] + [None] * (len(xs) - 1)},
   promotes=(), widen=True, kind="indexing",
   samples=lambda s: [((s(2), s.ints(3, 2), s.ints(4, 2)), {"shape": (3, 4), "template": ("@", "@")})],
   doc="Zeros of `shape` to which `xs[0]` is added at the `template` filled with the other arrays.")


def _write(np: Any, x: Any, value: Any, *keys: Any) -> Any:
    key = _filled(keys[-1], keys[:-1])
    out = x.copy()
    try:
        out[key] = value
    except IndexError as error:
        raise _bad_key(x, key, error) from None
    except ValueError as error:
        try:
            x[key]
        except IndexError:
            raise _bad_key(x, key, error) from None
        raise _misfit(x, value, key) from None
    return out


def _check_write(*args: Any) -> tuple:
    x, value, *keys, template = args
    _check_template("x[...] = value", x, tuple(keys), template)
    _check_value(x, value, _show(_filled(template, keys)))
    return (template,)


def _read_written(np: Any, g: Any, *keys: Any) -> Any:
    template, arrays = keys[-1], keys[:-1]
    key = _filled(template, arrays)
    if all(a.dtype == bool for a in arrays) or all(a.ndim == 0 for a in arrays):
        return g[key]
    return still_written(np, g, key)


Op("_getitem_written(*xs; template) -> y", _read_written,
   vjp={"xs": lambda xp, g, xs, xs_shape, template:
        [xp._setitem_arrays(xp.zeros(xs_shape[0], dtype=g.dtype), g, *xs[1:], template=template)]
        + [None] * (len(xs) - 1)},
   promotes=(), kind="indexing",
   samples=lambda s: [((s(3, 4), s.ints(3, 5), s.ints(4, 5)), {"template": ("@", "@")})],
   doc="`xs[0]` where something written at the same template would still be there, 0 where a later write replaced it.")
Op("_setitem_array(x, value, key; template) -> y", _write, check=_check_write,
   vjp={"x": lambda xp, g, key, template: xp._setitem_array(g, 0, key, template=template),
        "value": lambda xp, g, key, value_shape, value_dtype, template:
            _value_rule(xp, xp._getitem_written(g, key, template=template), value_shape, value_dtype)},
   linear_in=("x", "value"), promotes=(), kind="indexing",
   samples=lambda s: [((s(3, 4), s(2, 4), s.ints(3, 2)), {"template": ("@",)}),
                      ((s(3, 4), s(), s.ints(2, 3, 4) > 0), {"template": ("@",)}),
                      ((s(3, 4), s(1, 3, 1), s.ints(4, 5)), {"template": (slice(None), "@")})],
   doc="A copy of `x` with `value`, cast and broadcast, at the `template`, in which `key` takes the place of '@'. Of "
       "several values for one place, the last stays.")
Op("_setitem_arrays(*xs; template) -> y", _write, check=_check_write,
   vjp={"xs": lambda xp, g, xs, template:
        [xp._setitem_arrays(g, 0, *xs[2:], template=template),
         _value_rule(xp, xp._getitem_written(g, *xs[2:], template=template), xs[1].shape, xs[1].dtype)]
        + [None] * (len(xs) - 2)},
   promotes=(), kind="indexing",
   samples=lambda s: [((s(3, 4), s(2), s.ints(3, 2), s.ints(4, 2)), {"template": ("@", "@")})],
   doc="A copy of `xs[0]` with `xs[1]` at the `template`, in which the other arrays take the places of '@'.")


# ------------------------------------------------------------------------------------------------------ any key
def _key_array(xp: Any, key: Any) -> Any:
    """An index array from a list, a bool or an array."""
    if isinstance(key, list | tuple):
        if not key:
            return _known(numpy.zeros(0, numpy.int64))
        if any(hasattr(k, "_node") for k in key):
            return xp.stack([k if hasattr(k, "shape") else numpy.asarray(k) for k in key])
        numbers = _only_numbers(key)
        try:
            key = numpy.array(key)
        except ValueError:
            raise IndexingError(f"the index {key!r} is ragged: its rows have different lengths") from None
        if key.size == 0:
            key = key.astype(numpy.int64)
        if numbers:
            _known(key)
    elif isinstance(key, bool):
        key = _known(numpy.asarray(key))
    if not hasattr(key, "shape") or not hasattr(key, "dtype"):
        raise IndexingError(f"a {type(key).__name__} cannot be an index; use ints, slices, None, ..., or arrays of "
                            "integers "
                            "or bools")
    if dtypes.kind(key.dtype) not in "iub":
        raise IndexingError(f"{describe(key) if key.shape else repr(key)} cannot be an index: its dtype is "
                            f"{key.dtype}; use "
                            "integers or bools, for example i.astype('int64')")
    return key


def _only_numbers(key: Any) -> bool:
    return all(_only_numbers(k) for k in key) if isinstance(key, list | tuple) else isinstance(key, int)


def _known(key: numpy.ndarray) -> numpy.ndarray:
    """Tell the recorder that this array was made of Python numbers: a constant."""
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_known(key)
    return key


def _end(value: Any) -> Any:
    if value is None or type(value) is int:
        return value
    try:
        return _as_int(value)
    except TypeError:
        raise IndexingError(f"a slice runs between ints, not {value!r}") from None


def _sort_key(xp: Any, key: Any) -> tuple[tuple, list]:
    """The static template of a key, and the arrays that belong in it."""
    template, arrays = [], []
    for k in key if isinstance(key, tuple) else (key,):
        if type(k) is slice:
            if not (type(k.start) in _END and type(k.stop) in _END and type(k.step) in _END):
                k = slice(_end(k.start), _end(k.stop), _end(k.step))
        elif type(k) not in _BASIC:
            if isinstance(k, numpy.integer) or isinstance(k, int) and not isinstance(k, bool):
                k = int(k)
            elif hasattr(type(k), "__index__") and not isinstance(k, bool) and not hasattr(k, "shape"):
                k = _as_int(k)
            else:
                arrays.append(_key_array(xp, k))
                k = "@"
        template.append(k)
    return tuple(template), arrays


_END = {int, type(None)}


def _take_axis(x: Any, template: tuple) -> int | None:
    """The axis of the one index array, where everything else is taken whole; None where it is not."""
    place = template.index("@")
    after = template[place + 1:]
    if any(k != _FULL for k in after if k is not Ellipsis):
        return None
    before = template[:place]
    if any(k != _FULL for k in before if k is not Ellipsis) or len(template) - (Ellipsis in template) > len(x.shape):
        return None
    return len(x.shape) - 1 - len(after) if Ellipsis in before else place


@composite(samples=lambda s: [((s(3, 4), (slice(1, None), None, 2)), {}), ((s(3, 4), [0, 0, 2]), {}),
                              ((s(3, 4), (numpy.array([0, 1]), numpy.array([[2], [-1]]))), {})])
def index(xp, x, key):
    """`x[key]` for every key that NumPy takes: ints, slices, None, ..., integer arrays, masks, lists, and mixtures.

    Raises IndexingError for an index outside its axis or of a kind that cannot index.
    """
    kind = type(key)
    if kind is int:
        return xp._getitem(x, index=key)
    template, arrays = _sort_key(xp, key)
    if not arrays:
        return xp._getitem(x, index=template)
    if len(arrays) == 1:
        array = arrays[0]
        if dtypes.kind(array.dtype) != "b":
            axis = _take_axis(x, template)
            if axis is not None:
                return xp.take(x, array, axis=axis)
        return xp._getitem_array(x, array, template=template)
    return xp._getitem_arrays(x, *arrays, template=template)


@composite(samples=lambda s: [((s(3, 4), (slice(1, None), 2), s(2)), {}),
                              ((s(3, 4), [0, 0, 2], s(3, 4)), {"mode": "add"}),
                              ((s(3, 4), 1, s(4)), {"mode": "add"})])
def index_update(xp, x, key, value, mode="set"):
    """A copy of `x` in which `x[key]` is `value` (mode "set") or grew by it (mode "add"); differentiable in both.

    `value` is broadcast and cast to x's dtype. Of several values for one place, "set" keeps the last, "add" adds all.
    """
    if mode not in ("set", "add"):
        raise ArgumentError(f"index_update: mode={mode!r}; use 'set' or 'add'")
    template, arrays = _sort_key(xp, key)
    if mode == "add":
        return _grow(xp, x, template, arrays, value)
    if not arrays:
        return xp._setitem(x, value, index=template)
    if len(arrays) > 1:
        return xp._setitem_arrays(x, value, *arrays, template=template)
    mask = arrays[0]
    if (dtypes.kind(mask.dtype) == "b" and template == ("@",) and not getattr(value, "shape", ())
            and tuple(mask.shape) == tuple(x.shape[:len(mask.shape)])):
        if len(mask.shape) != len(x.shape):
            mask = xp.reshape(mask, (*mask.shape, *(1,) * (len(x.shape) - len(mask.shape))))
        return xp.where(mask, _number_like(xp, value, x), x)
    return xp._setitem_array(x, value, mask, template=template)


def _number_like(xp: Any, value: Any, x: Any) -> Any:
    """A number or a 0-d array in the dtype of `x`."""
    if not hasattr(value, "dtype"):
        value = xp.full((), value)
    _check_value(x, value, "mask")
    return value if value.dtype == x.dtype else xp.astype(value, x.dtype)


def _grow(xp: Any, x: Any, template: tuple, arrays: list, value: Any) -> Any:
    key = _filled(template, arrays)
    shape = _read_shape(x, template, arrays)
    if shape is None:
        shape = tuple(xp.index(x, key).shape)
    if not hasattr(value, "shape"):
        value = xp.full((), value)
    _check_value(x, value, _show(key))
    if value.dtype != x.dtype:
        value = xp.astype(value, x.dtype)
    extra = len(value.shape) - len(shape)
    if extra > 0 and tuple(value.shape[:extra]) == (1,) * extra:
        value = xp.reshape(value, tuple(value.shape[extra:]))
    if tuple(value.shape) != shape:
        try:
            value = xp.broadcast_to(value, shape)
        except ValueError:
            xp.index(x, key)  # what is wrong with the key comes first
            raise ShapeError(f"x[{_show(key)}] += value: value is {describe(value)}, which does not broadcast to "
                             f"{shape}, the shape of that part of x, {describe(x)}") from None
    if not arrays:
        return x + xp._getitem_adjoint(value, shape=tuple(x.shape), index=template)
    try:
        grown = xp._getitem_arrays_adjoint(value, *arrays, shape=tuple(x.shape), template=template)
    except IndexingError:
        xp.index(x, key)  # says it better
        raise
    return x + grown


def _read_shape(x: Any, template: tuple, arrays: list) -> tuple | None:
    """The shape of `x` at one array of integers, where everything else is taken whole; None where that is not so."""
    if len(arrays) != 1 or dtypes.kind(arrays[0].dtype) == "b":
        return None
    axis = _take_axis(x, template)
    return None if axis is None else (*x.shape[:axis], *arrays[0].shape, *x.shape[axis + 1:])
