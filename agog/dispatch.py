"""From a call on Tensors to the row and back.

Two ways lead to a row. The *fast path* of a template (`unary`, `binary`, `reduction`) is a few statements around one
NumPy call, for Tensors of equal dtype in ordinary eager mode. Whatever it does not expect, and whatever raises, goes
to `apply`, the *general path*, which coerces, promotes, checks, runs, explains errors, and knows every mode.

The class of the results is handed in by `agog.tensor` (`bind`), so that its body can be read as a table of methods.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any, Callable

import numpy as np

from agog import config, tape
from agog.array import dtypes, large
from agog.errors import AgogError, ArgumentTypeError, DTypeError
from agog.hints import wrong_keywords
from agog.ops.explain import explain
from agog.ops.namespaces import Namespace, call_with_signature, hide
from agog.ops.row import TABLE, Op

Tensor: Any = None  # the class, set by `bind`
_new = object.__new__
_ticket = tape._ticket
_nd, _asarray, _Node = np.ndarray, np.asarray, tape.Node
LARGE = large.THRESHOLD
_SCALARS = (bool, int, float, complex)


def bind(cls: type) -> None:
    """Make `cls` the class of all results."""
    global Tensor
    Tensor = cls


def wrap(data: Any, node: Any = None) -> Any:
    """A Tensor around `data` as it is."""
    t = _new(Tensor)
    t._data = data
    t._node = node
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_born(t)
    return t


def constant(data: Any) -> Any:
    """A Tensor of numbers that come from Python."""
    t = wrap(data)
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_constant(t)
    return t


# ---------------------------------------------------------------------------------------------- the general path
def operand(x: Any) -> Any:
    """`x` as a Tensor, or as a weak Python scalar, or None if it is neither."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, _SCALARS):
        return x if type(x) in _SCALARS else x.item() if isinstance(x, np.generic) else type(x).__mro__[1](x)
    if isinstance(x, np.generic):
        return x.item() if x.dtype.kind in "biufc" else wrap(_asarray(x))
    if isinstance(x, _nd):
        return Tensor(x)
    if hasattr(x, "__agog_tensor__"):
        return x.__agog_tensor__()
    return None


def _operands(op: Op, inputs: tuple) -> list[Any]:
    out = []
    for i, x in enumerate(inputs):
        t = x if x is None else operand(x)
        if t is None and x is not None:
            name = f"{op.inputs[0]}[{i}]" if op.variadic else op.inputs[i]
            raise ArgumentTypeError(f"{op.name.lstrip('_')}: {name} is a {type(x).__name__}, not a Tensor, an array or "
                                    "a number; write ag.asarray(...) around it")
        out.append(t)
    return out


def _common_dtype(op: Op, operands: list[Any], chosen: list[bool]) -> Any:
    common = None
    for x, c in zip(operands, chosen):
        if c and isinstance(x, Tensor):
            dt = x._data.dtype
            common = dt if common is None or common is dt else dtypes.promote(common, dt)
    for x, c in zip(operands, chosen):
        if c and x is not None and not isinstance(x, Tensor):
            common = dtypes.of_scalar(x) if common is None else dtypes.weak(common, x)
    if common is not None and op.to_float and not dtypes.is_inexact(common):
        common = dtypes.default_float()
    return common


def _promote(op: Op, operands: list[Any]) -> list[Any]:
    """Bring the operands that `op.promotes` names to one dtype; turn scalars into 0-d Tensors."""
    if op.variadic:
        chosen = [bool(op.promotes)] * len(operands)
    else:
        chosen = [n in op.promotes for n in op.inputs]
    common = _common_dtype(op, operands, chosen)
    if common is not None and dtypes.kind(common).replace("u", "i") not in op.takes:
        names = {"b": "bool", "i": "integer", "f": "floating", "c": "complex"}
        raise DTypeError(f"{op.name.lstrip('_')} takes {' or '.join(names[k] for k in op.takes)} dtypes, not {common}; "
                         f"cast with x.astype(...) first")
    out: list[Any] = []
    for x, c in zip(operands, chosen):
        if x is None:
            out.append(None)
        elif isinstance(x, Tensor):
            out.append(x if not c or x._data.dtype == common else apply(TABLE["astype"], (x,), (common,)))
        else:
            dt = common if c else dtypes.of_scalar(x)
            try:
                out.append(constant(np.array(x, dt)))
            except OverflowError:
                if op.result == "bool" and isinstance(x, int):  # a comparison is right for any number, as NumPy has it
                    if config.modes.recorder is not None:
                        config.modes.recorder.refuse(f"it compares a Tensor of {dt} with {x}")
                    out.append(constant(np.array(x if -1 << 63 <= x < 1 << 63 else float(x))))
                    continue
                raise DTypeError(f"{op.name.lstrip('_')}: {x} does not fit into {dt}; cast the Tensor to a wider dtype "
                                 "first") from None
    return out


def apply(op: Op, inputs: tuple, statics: tuple) -> Any:
    """Run one row on anything that can be an operand. Returns a Tensor, or a tuple of them for several outputs.

    Raises the errors of `agog.errors`, which name the user's line.
    """
    try:
        tensors = _promote(op, _operands(op, inputs))
        datas: list[Any] = [None if t is None else t._data for t in tensors]
        if op.check is not None:
            statics = op.check(*datas, *statics)
        for d in datas:
            if type(d) is not _nd and d is not None and hasattr(d, "__agog_level__"):
                top: Any = max((d for d in datas if hasattr(d, "__agog_level__")), key=lambda d: d.__agog_level__)
                out = type(top).__agog_interpret__(op, tensors, statics)
                break
        else:
            try:
                with np.errstate(all="ignore"):
                    out = op.raw(*datas, *statics)
            except AgogError:
                raise
            except Exception as error:
                raise explain(op, datas, statics, error) from None
        many = len(op.outputs) > 1
        outs = tuple(_array(o) for o in out) if many else (_array(out),)
        result = _record(op, tensors, datas, statics, outs) if config.modes.grad else None
        if result is None:
            result = tuple(wrap(o) for o in outs)
        if config.op_hooks:
            for hook in list(config.op_hooks):
                hook(op, datas, outs)
        if config.modes.recorder is not None:
            config.modes.recorder.on_op(op, tensors, statics, result)
        return result if many else result[0]
    except Exception:
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.on_error(op)
        raise


def _array(out: Any) -> Any:
    return _asarray(out) if isinstance(out, np.generic) else out


def _record(op: Op, tensors: list[Any], datas: list[Any], statics: tuple, outs: tuple) -> Any:
    """Tensors around `outs` with their node; None when no differentiable input needs a gradient."""
    if not op.vjp:
        return None
    if op.variadic:
        parents = tuple([t._node for t in tensors])
    else:
        parents = tuple([t._node if t is not None and r is not None else None for t, r in zip(tensors, op.rules)])
    if parents.count(None) == len(parents):
        return None
    if len(outs) == 1:
        if not dtypes.is_inexact(outs[0].dtype):
            return None
        node = tape.record(op, parents, (*datas, *outs), statics, outs[0].shape)
        return (wrap(outs[0], node),)
    node = tape.record(op, parents, (*datas, *outs), statics, [(o.shape, o.dtype) for o in outs])
    return tuple(wrap(o, tape.Pick(node, i, o.shape) if dtypes.is_inexact(o.dtype) else None)
                 for i, o in enumerate(outs))


def apply_operator(op: Op, inputs: tuple, statics: tuple) -> Any:
    """`apply` for Python's operators: alien operands give NotImplemented, so that they can have their say."""
    for x in inputs:
        if operand(x) is None:
            return NotImplemented
    return apply(op, inputs, statics)


# -------------------------------------------------------------------------------------------- the fast templates
def _stretches(op: Op) -> bool:
    """Whether NumPy takes bools or integers that the row does not, and gives them another dtype."""
    for kind, dtype in (("b", np.bool_), ("i", np.int64)):
        if kind not in op.takes:
            try:
                op.raw(np.empty(0, dtype), np.empty(0, dtype))
                return True
            except Exception:
                pass
    return False


def binary(op: Op, fallback: Callable[..., Any] = apply, reverse: bool = False) -> Callable[..., Any]:
    """A function of two operands for a row of NumPy's binary ufuncs, or of matmul."""
    ufunc, differentiable, derived = op.raw, bool(op.vjp), op.derived
    _, keep_x, keep_y, keep_both = op.keeps
    limit = LARGE if isinstance(ufunc, np.ufunc) else 1 << 62  # only a ufunc can be split over threads
    result_same = op.result == "same"
    check_result = result_same and (op.to_float or _stretches(op))  # others give the dtype of equal operands

    def method(x: Any, y: Any, /) -> Any:
        try:
            if config.special:
                return fallback(op, (x, y), ())
            a = x._data
            kind = type(y)
            if kind is float or kind is int:
                b = y
                q = None
                c = ufunc(a, b) if a.size < limit else large.binary(ufunc, a, b)
                if c.dtype is not a.dtype and result_same:
                    return fallback(op, (x, y), ())
            else:
                b = y._data
                q = y._node
                if b.dtype is not a.dtype:
                    return fallback(op, (x, y), ())
                c = ufunc(a, b) if a.size < limit else large.binary(ufunc, a, b)
                if check_result and c.dtype is not a.dtype:
                    return fallback(op, (x, y), ())
            if type(c) is not _nd:
                c = _asarray(c)
            t = _new(Tensor)
            t._data = c
            p = x._node
            if (p is None and q is None) or not differentiable:
                t._node = None
                return t
        except Exception:
            t = None
        if t is None:  # outside the handler, so that the explanation is not chained to what NumPy raised
            return fallback(op, (x, y), ())
        node = _Node()
        node.op = op
        node.parents = (p, q)
        keep = keep_y if p is None else keep_x if q is None else keep_both
        node.env = (a if keep[0] else None, b if keep[1] else None, c if keep[2] else None) if keep else _NONE3
        if derived:
            node.env += _derived(derived, (a, b))
        node.shape = c.shape
        node.seq = _ticket()
        t._node = node
        return t

    if not reverse:
        return method

    def reversed_method(x: Any, y: Any, /) -> Any:
        try:
            kind = type(y)
            if config.special or (kind is not float and kind is not int):
                return fallback(op, (y, x), ())
            b = x._data
            c = ufunc(y, b) if b.size < limit else large.binary(ufunc, y, b)
            if c.dtype is not b.dtype and result_same:
                return fallback(op, (y, x), ())
            if type(c) is not _nd:
                c = _asarray(c)
            t = _new(Tensor)
            t._data = c
            q = x._node
            if q is None or not differentiable:
                t._node = None
                return t
        except Exception:
            t = None
        if t is None:  # outside the handler, so that the explanation is not chained to what NumPy raised
            return fallback(op, (y, x), ())
        node = _Node()
        node.op = op
        node.parents = (None, q)
        keep = keep_y
        node.env = (y if keep[0] else None, b if keep[1] else None, c if keep[2] else None) if keep else _NONE3
        if derived:
            node.env += _derived(derived, (y, b))
        node.shape = c.shape
        node.seq = _ticket()
        t._node = node
        return t

    return reversed_method


def _derived(derived: tuple, values: tuple) -> tuple:
    """The shapes and dtypes of inputs that rules take; an input may be a Python number."""
    return tuple([getattr(values[i], what) if type(values[i]) is _nd else () if what == "shape"
                  else dtypes.of_scalar(values[i]) for what, i in derived])


_NONE3 = (None, None, None)
_NONE2 = (None, None)


def _refusing(op: Op) -> Callable[..., Any]:
    """`op.raw`, but without complex operands where the row takes none; ufuncs refuse what they cannot do themselves."""
    raw = op.raw
    if isinstance(raw, np.ufunc) or "c" in op.takes:
        return raw

    def compute(x: Any) -> Any:
        if x.dtype.kind == "c":
            raise TypeError
        return raw(x)

    return compute


def unary(op: Op, fallback: Callable[..., Any] = apply) -> Callable[..., Any]:
    """A function of one operand for a row without static parameters."""
    ufunc, raw, keep, differentiable = _refusing(op), op.raw, op.keeps[1], bool(op.vjp)
    limit = LARGE if isinstance(raw, np.ufunc) or (op.elementwise and op.lower is not None) else 1 << 62
    result_same = op.result == "same"

    def method(x: Any, /) -> Any:
        try:
            if config.special:
                return fallback(op, (x,), ())
            a = x._data
            c = ufunc(a) if a.size < limit else large.unary(raw if a.dtype.kind in "fV" else ufunc, a)
            if c.dtype is not a.dtype and result_same:
                return fallback(op, (x,), ())
            if type(c) is not _nd:
                c = _asarray(c)
            t = _new(Tensor)
            t._data = c
            p = x._node
            if p is None or not differentiable:
                t._node = None
                return t
        except Exception:
            t = None
        if t is None:  # outside the handler, so that the explanation is not chained to what NumPy raised
            return fallback(op, (x,), ())
        node = _Node()
        node.op = op
        node.parents = (p,)
        node.env = (a if keep[0] else None, c if keep[1] else None) if keep else _NONE2
        node.shape = c.shape
        node.seq = _ticket()
        t._node = node
        return t

    return method


def reduction(op: Op, typed: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function `(x, axis=None, keepdims=False)` for a row whose rule needs at most x, y, axis, keepdims, x_shape.

    typed: `typed(x, axis, keepdims, dtype)` computes the result in a dtype; the function then also takes `dtype`.
    """
    raw, keep, derived = op.raw, op.keeps[1], op.derived
    reduce = getattr(np, op.reduce).reduce if op.reduce else None

    def method(x: Any, /, axis: Any = None, keepdims: Any = False, dtype: Any = None, *, dim: Any = None,
               keepdim: Any = None, out: Any = None) -> Any:
        if dim is not keepdim or out is not None:
            raise wrong_keywords(op.name, {"dim": dim, "keepdim": keepdim, "out": out})
        if dtype is not None:
            if typed is None:
                raise ArgumentTypeError(f"{op.name} takes no dtype; cast its result with astype")
            return typed(x, axis, keepdims, dtype)
        try:
            if config.special:
                return apply(op, (x,), (axis, keepdims))
            a = x._data
            if reduce is not None and a.itemsize != 2:
                c = reduce(a, axis, None, None, keepdims)
            else:
                c = raw(a, axis, keepdims)
            if c.dtype is not a.dtype:
                return apply(op, (x,), (axis, keepdims))
            if type(c) is not _nd:
                c = _asarray(c)
            t = _new(Tensor)
            t._data = c
            p = x._node
            if p is None:
                t._node = None
                return t
        except Exception:
            t = None
        if t is None:  # outside the handler, so that the explanation is not chained to what NumPy raised
            return apply(op, (x,), (axis, keepdims))
        node = _Node()
        node.op = op
        node.parents = (p,)
        if type(axis) is list:
            axis = tuple(axis)
        if derived:
            node.env = (a if keep and keep[0] else None, c if keep and keep[1] else None, axis, keepdims, a.shape)
        else:
            node.env = (a if keep and keep[0] else None, c if keep and keep[1] else None, axis, keepdims)
        node.shape = c.shape
        node.seq = _ticket()
        t._node = node
        return t

    hide(method, *(("dim", "keepdim", "out") if typed else ("dtype", "dim", "keepdim", "out")))
    return method


def _settled(inputs: tuple, promoted: Any) -> tuple | None:
    """`inputs` with Python numbers as 0-d Tensors, where they meet float32 or float64 alone; None: `apply` decides."""
    dt, found = None, False
    for x, c in zip(inputs, promoted):
        if isinstance(x, Tensor):
            if c and (dt is None or x._data.dtype is dt):
                dt = x._data.dtype
            elif c:
                return None
        elif c and (type(x) is float or type(x) is int) and -1e30 < x < 1e30:
            found = True
        elif x is not None:
            return None
    if not found or (dt is not dtypes.float32 and dt is not dtypes.float64):
        return None
    return tuple([wrap(np.array(x, dt)) if type(x) is float or type(x) is int else x for x in inputs])


def steady(op: Op) -> Callable[[Op, tuple, tuple], Any]:
    """What `apply` does in ordinary eager mode, when all inputs are Tensors of dtypes that need no cast."""
    raw, check, differentiable, many = op.raw, op.check, bool(op.vjp), len(op.outputs) > 1
    promoted = repeat(bool(op.promotes)) if op.variadic else [n in op.promotes for n in op.inputs]
    good: dict[Any, bool] = {}  # dtype of the promoted inputs: whether the row takes it without a cast

    def takes(dtype: Any) -> bool:
        kind = dtypes.kind(dtype).replace("u", "i")
        return kind in op.takes and not (op.to_float and kind in "bi")

    keeps, derived, variadic, nothing = op.keeps, op.derived, op.variadic, (None,) * (len(op.inputs) + 1)
    ruled = repeat(True) if variadic else [r is not None for r in op.rules]

    def invoke(op: Op, inputs: tuple, statics: tuple) -> Any:
        try:
            if config.special:
                return apply(op, inputs, statics)
            datas: list[Any] = []
            parents: list[Any] = []
            common, mask, bit = None, 0, 1
            for x, c, r in zip(inputs, promoted, ruled):
                if x is None:
                    datas.append(None)
                    parents.append(None)
                    bit += bit
                    continue
                a = x._data
                if type(a) is not _nd:
                    return apply(op, inputs, statics)
                p = x._node
                if p is not None and r:
                    mask |= bit
                    parents.append(p)
                else:
                    parents.append(None)
                bit += bit
                if c and a.dtype is not common:
                    if common is not None:
                        return apply(op, inputs, statics)
                    common = a.dtype
                    fits = good.get(common)
                    if not (good.setdefault(common, takes(common)) if fits is None else fits):
                        return apply(op, inputs, statics)
                datas.append(a)
            if check is not None:
                statics = check(*datas, *statics)
            out = raw(*datas, *statics)
            if many:
                out = tuple([_array(o) for o in out])
            elif type(out) is not _nd:
                out = _asarray(out)
        except Exception:
            out = None
        if out is None:  # outside the handler, so that the explanation is not chained to what NumPy raised
            settled = None if config.special or variadic else _settled(inputs, promoted)
            return apply(op, inputs, statics) if settled is None else invoke(op, settled, statics)
        needed = mask and differentiable
        if many or (needed and variadic):
            outs = out if many else (out,)
            result = _record(op, list(inputs), datas, statics, outs) if needed else None
            if result is None:
                result = tuple([wrap(o) for o in outs])
            return result if many else result[0]
        t = _new(Tensor)
        t._data = out
        if not needed or not (out.dtype is common or dtypes.is_inexact(out.dtype)):
            t._node = None
            return t
        node = _Node()
        node.op = op
        node.parents = tuple(parents)
        keep = keeps[mask]
        if keep is None:
            env = nothing + statics
        else:
            datas.append(out)
            env = (*[v if k else None for v, k in zip(datas, keep)], *statics)
        if derived:
            env += tuple([getattr(datas[i], what) for what, i in derived])
        node.env = env
        node.shape = out.shape
        node.seq = _ticket()
        t._node = node
        return t

    return invoke


_REDUCTION = {"axis": None, "keepdims": False}


def function(op: Op) -> Callable[..., Any]:
    """The public function of a row: the fast template that fits its signature, else one that calls `apply`."""
    ufunc_like = (isinstance(op.impl, str) and isinstance(getattr(np, op.impl, None), np.ufunc)
                  or op.kind == "contraction") and (op.elementwise or not op.check)  # (ufuncs refuse too)
    unary_like = op.elementwise and len(op.inputs) == 1 and not op.derived and op.result == "same"
    if (ufunc_like or unary_like) and not op.statics and op.inputs and len(op.outputs) == 1 and not op.variadic:
        fn = (unary if len(op.inputs) == 1 else binary)(op)
    elif is_reduction(op):
        fn = reduction(op)
    else:
        return call_with_signature(op, steady(op))
    return named(fn, op)


def is_reduction(op: Op) -> bool:
    """Whether the `reduction` template serves the row."""
    return op.kind == "reduction" and op.statics == _REDUCTION and not op.widen


def named(fn: Any, op: Op) -> Any:
    """`fn` with the row's name and docstring."""
    fn.__name__ = fn.__qualname__ = op.name
    fn.__doc__, fn.__module__ = op.doc, "agog"
    fn.op = op
    return fn


tensors = Namespace("tensor", function)
"""The world of Tensors: what `agog.exp`, `agog.sum`, ... are, and what rules run in with `create_graph`."""
