"""From a call on Tensors to the row and back.

Two ways lead to a row. The *fast path* of a template (`unary`, `binary`, `reduction`) is a few statements around one
NumPy call, for Tensors of equal dtype in ordinary eager mode. Whatever it does not expect, and whatever raises, goes
to `apply`, the *general path*, which coerces, promotes, checks, runs, explains errors, and knows every mode.

The class of the results is handed in by `agog.tensor` (`bind`), so that its body can be read as a table of methods.
"""

from __future__ import annotations

import functools
import sys
from itertools import repeat, starmap
from typing import Any, Callable

import numpy as np

from agog import config, tape
from agog.array import dtypes, few, large, numbers
from agog.errors import AgogError, ArgumentTypeError, DTypeError
from agog.hints import wrong_keywords
from agog.ops import templates
from agog.ops.explain import explain
from agog.ops.namespaces import Namespace, call_with_signature, finished, head, hide
from agog.ops.row import TABLE, Op

Tensor: Any = None  # the class, set by `bind`
_blanks: Any = None  # an iterator of new Tensors without values: the quickest way to one
_new = object.__new__
_tickets = tape._tickets
_nd, _asarray, _Node, _Pick, _f32, _is_inexact = (
    np.ndarray, np.asarray, tape.Node, tape.Pick, dtypes.float32, dtypes.is_inexact)
_numbers, _floats, _weak, _number = numbers.FLOATS, numbers.FLOATS[dtypes.float32], numbers.weak, numbers.exact
LARGE = large.THRESHOLD
_SCALARS = (bool, int, float, complex)
_MOST = int(np.finfo(np.float64).max)


def bind(cls: type) -> None:
    """Make `cls` the class of all results."""
    global Tensor, _blanks
    Tensor = cls
    _blanks = starmap(_new, repeat((cls,)))


def wrap(data: Any, node: Any = None) -> Any:
    """A Tensor around `data` as it is."""
    t = _new(Tensor)
    t._data = data
    t._node = node
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_born(t)
    return t


def constant(data: Any, number: Any = None) -> Any:
    """A Tensor of numbers that come from Python; `number`: the one that it was made of."""
    t = wrap(data)
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_constant(t, number)
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
                try:
                    out.append(constant(np.array(x, dt), x))
                except (FloatingPointError, RuntimeWarning):  # the user made NumPy, or warnings, raise
                    with np.errstate(all="ignore"):
                        out.append(constant(np.array(x, dt), x))
            except OverflowError:
                if op.result == "bool" and isinstance(x, int):  # a comparison is right for any number, as NumPy has it
                    if config.modes.recorder is not None:
                        config.modes.recorder.refuse(f"it compares a Tensor of {dt} with {x}")
                    near = -1 << 63 <= x < 1 << 63
                    out.append(constant(np.array(x if near else float(max(-_MOST, min(x, _MOST))))))
                    continue
                raise DTypeError(f"{op.name.lstrip('_')}: {x} does not fit into {dt}; cast the Tensor to a wider dtype "
                                 "first") from None
    return out


def apply(op: Op, inputs: tuple, statics: tuple) -> Any:
    """Run one row on anything that can be an operand. Returns a Tensor, or a tuple of them for several outputs.

    Raises the errors of `agog.errors`, which name the user's line.
    """
    if not config.special or (config.modes.recorder is None and not config.op_hooks):
        done = _interpret(op, inputs, statics)
        if done is not None:
            return done
    watched = _unwatch(op, inputs, statics) if config.special else None
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
    finally:
        if watched is not None:
            _put_back(watched)


def _interpret(op: Op, inputs: tuple, statics: tuple) -> Any:
    """What `apply` does inside a transformation where no operand needs a cast, in few steps; else None."""
    facts = _facts.get(op)
    if facts is None:
        many = [bool(op.promotes)] if op.variadic else [n in op.promotes for n in op.inputs]
        facts = _facts[op] = repeat(many[0]) if op.variadic else tuple(many), _taker(op)
    promoted, takes = facts
    common: Any = None
    top: Any = None
    level, numbers = 0, False
    datas: list[Any] = []
    for x, p in zip(inputs, promoted):
        if isinstance(x, Tensor):
            data = x._data
            if type(data) is not _nd:
                mine = getattr(data, "__agog_level__", None)
                if mine is None:
                    return None
                if mine > level:
                    level, top = mine, type(data)
            if p:
                dtype = data.dtype
                if common is None:
                    common = dtype
                elif dtype is not common:
                    return None
            datas.append(data)
        elif x is None:
            datas.append(None)
        elif p and (type(x) is float or type(x) is int):
            numbers = True
            datas.append(None)
        else:
            return None
    if top is None or common is not None and not takes(common):
        return None
    if numbers:
        if common not in _numbers:
            return None
        try:
            inputs = tuple([wrap(_number(x, common)) if type(x) is float or type(x) is int else x for x in inputs])
        except OverflowError:
            return None
        datas = [None if x is None else x._data for x in inputs]
    if op.check is not None:
        statics = op.check(*datas, *statics)
    out = top.__agog_interpret__(op, inputs, statics)
    many_out = len(op.outputs) > 1
    outs = out if many_out else (out,)
    if op.vjp and config.modes.grad:
        for x in inputs:
            if x is not None and x._node is not None:
                result = _record(op, list(inputs), datas, statics, outs)
                if result is not None:
                    return result if many_out else result[0]
                break
    return tuple([wrap(o) for o in outs]) if many_out else wrap(out)


_facts: dict[Op, tuple[Any, Callable[[Any], bool]]] = {}
"""Of a row: which of its inputs are promoted, and which dtypes it takes without a cast."""

_functions: dict[Op, Callable[..., Any]] = {}


def run(op: Op, inputs: tuple, statics: tuple) -> Any:
    """`apply` for inputs that are Tensors or None: on the fast path where all of their data are arrays."""
    for x in inputs:
        if x is not None and type(x._data) is not _nd:
            return apply(op, inputs, statics)
    fn = _functions.get(op)
    if fn is None:
        if op.variadic or TABLE.get(op.name) is not op:
            return apply(op, inputs, statics)
        fn = _functions[op] = getattr(tensors, op.name)
    return fn(*inputs, *statics)


_PLAIN = frozenset({bool, int, float, complex, str, type(None), *[type(np.dtype(c)) for c in np.typecodes["All"]]})


def is_plain(values: Any) -> bool:
    """True for Tensors, arrays, numbers and the like, and tuples of them: using them runs no code of the user."""
    for x in values:
        kind = type(x)
        if kind in _PLAIN or kind is Tensor or kind is _nd:
            continue
        if kind is tuple or kind is list:
            if not is_plain(x):
                return False
        elif kind is slice:
            if not is_plain((x.start, x.stop, x.step)):
                return False
        elif not isinstance(x, (Tensor, np.generic, np.dtype)):
            return False
    return True


def _take_off() -> Any:
    """Take a recording's profile hook and trace function off. Returns both, for `_put_back`; None where there is none.
    """
    hook = sys.getprofile()
    if hook is None or not callable(hook):
        return None
    sys.setprofile(None)
    trace = sys.gettrace()
    if trace is None or not config.modes.recorder.may_rest():
        return hook, None
    sys.settrace(None)
    return hook, trace


def _put_back(taken: Any) -> None:
    hook, trace = taken
    if trace is not None:
        sys.settrace(trace)
    sys.setprofile(hook)


def _unwatch(op: Op, inputs: tuple, statics: tuple) -> Any:
    """Take a recording's hooks off for a row of agog's own, inside of which there is nothing to be noticed.

    Returns them, to be put back; None when they stay: for rows and arguments that may run code of the user.
    """
    if config.modes.recorder is None or config.op_hooks:
        return None
    taken = _take_off()
    if taken is None:
        return None
    if TABLE.get(op.name) is op and is_plain(inputs) and is_plain(statics):
        return taken
    _put_back(taken)
    return None


class unwatched:  # noqa: N801 - used as a context
    """Inside, a recording's hooks are off, if `fits`: for what runs no code but agog's own."""

    def __init__(self, fits: bool = True):
        self.fits = fits and config.modes.recorder is not None and not config.op_hooks

    def __enter__(self) -> None:
        self.taken = _take_off() if self.fits else None

    def __exit__(self, *exc: Any) -> None:
        if self.taken is not None:
            _put_back(self.taken)


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
    operands = inputs
    for x in inputs:
        if type(x) is not Tensor and type(x) not in _SCALARS:
            operands = tuple([operand(x) for x in inputs])
            break
    for i, x in enumerate(operands):
        if x is None:
            if type(inputs[i]) in (list, tuple) and op.result != "bool" and (i or not _counts(inputs[1])):
                _operands(op, inputs)  # raises: a list would say something about indices
            return NotImplemented
    return apply(op, operands, statics)


def _counts(x: Any) -> bool:
    """Whether a list can be repeated so many times."""
    return isinstance(x, Tensor) and not x.shape and x.dtype.kind in "iu"


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
    same = op.result == "same"
    sized = isinstance(op.raw, np.ufunc)
    asking = not sized or any("isinstance" in rule.__code__.co_names for rule in op.vjp.values())
    flags = {"sized": sized,  # only a ufunc can be split over threads
             "handed": not asking, "asking": asking and op.vjp,  # (rules that ask for numbers are given them)
             "same": same, "check": same and (op.to_float or _stretches(op)),  # others give the operands' dtype
             "differentiable": op.vjp}
    env = ", ".join(templates.saved(op, ["a", "b", "c"], ["p", "q"]))
    if op.derived:
        env += ", *_derived(derived, (a, b))"
    shape = "c.shape"
    if op.elementwise:  # the shape of a node is at hand, that of an array is made when asked for
        alike = "p is not None and q is not None and p.shape is q.shape"
        shape = "q.shape" if reverse else f"p.shape if {alike} else c.shape"
    return templates.make(
        templates.REVERSED if reverse else templates.BINARY, op.name, globals(), flags,
        {"PARENTS": "p, q", "ENV": f"({env})", "SHAPE": shape},
        {"op": op, "fallback": fallback, "ufunc": op.raw, "plain": op.plain,
         "limit": op.slow or LARGE if op.choose is None or reverse else 0,
         "large_binary": op.choose or (large.slow if op.slow else large.binary), "derived": op.derived,
         "middle": op.slow or large.APART if op.choose is None else 0,
         "few": min(op.slow or large.FEW, large.FEW) if op.choose is None else 0, "most": large.OUTER,
         "middle_binary": op.choose or (large.slow if op.slow else large.apart)})


def _derived(derived: tuple, values: tuple) -> tuple:
    """The shapes and dtypes of inputs that rules take; an input may be a Python number."""
    return tuple([getattr(values[i], what) if type(values[i]) is _nd else () if what == "shape"
                  else dtypes.of_scalar(values[i]) for what, i in derived])


def _refusing(op: Op) -> Callable[..., Any]:
    """`op.raw`, but without complex operands where the row takes none; ufuncs refuse what they cannot do themselves.

    Where `op.raw` is a ufunc for all but complex operands, it is that for them: one call less.
    """
    raw = op.raw
    real = getattr(np, getattr(op.impl, "ufunc", ""), None)
    if real is not None:
        return lambda x: raw(x) if x.dtype.kind == "c" else real(x)
    if isinstance(raw, np.ufunc) or "c" in op.takes:
        return raw

    def compute(x: Any) -> Any:
        if x.dtype.kind == "c":
            raise TypeError
        return raw(x)

    return compute


def unary(op: Op, fallback: Callable[..., Any] = apply) -> Callable[..., Any]:
    """A function of one operand for a row without static parameters."""
    sized = isinstance(op.raw, np.ufunc) or (op.elementwise and op.lower is not None)
    once = isinstance(op.impl, str) or hasattr(op.impl, "ufunc")
    flags = {"sized": sized, "widened": sized and op.widen, "once": sized and not op.widen,
             "same": op.result == "same", "differentiable": op.vjp}
    return templates.make(
        templates.UNARY, op.name, globals(), flags,
        {"PARENTS": "p", "ENV": f"({', '.join(templates.saved(op, ['a', 'c'], ['p']))})", "SHAPE": "p.shape"},
        {"op": op, "fallback": fallback, "ufunc": _refusing(op), "raw": op.raw, "plain": op.plain,
         "limit": LARGE if once else few.BELOW, "large_unary": large.unary if once else large.several})


def reduction(op: Op, typed: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function `(x, axis=None, keepdims=False)` for a row whose rule needs at most x, y, axis, keepdims, x_shape.

    typed: `typed(x, axis, keepdims, dtype)` computes the result in a dtype; the function then also takes `dtype`.
    """
    env = [*templates.saved(op, ["a", "c"], ["p"]), "axis", "keepdims", *["a.shape" for _ in op.derived]]
    fixed = op.result in ("int64", "bool") and not op.vjp  # whatever the operand is
    widest = callable(op.result)  # integers have a result of 64 bits
    method = templates.make(
        templates.REDUCTION, op.name, globals(),
        {"reduces": op.reduce, "fixed": fixed, "widest": widest, "same": not fixed and not widest},
        {"PARENTS": "p", "ENV": f"({', '.join(env)})", "SHAPE": "c.shape"},
        {"op": op, "raw": op.raw, "reduce": getattr(np, op.reduce).reduce if op.reduce else None, "typed": typed,
         "over": few.over if op.reduce in _FOLDS else _none, "of": few.kernels(f"{_FOLDS.get(op.reduce or '')} fold"),
         "wrong": wrong_keywords, "no_dtype": _no_dtype})
    hide(method, *(("dim", "keepdim", "out") if typed else ("dtype", "dim", "keepdim", "out")))
    return method


_FOLDS = {"add": "sum", "maximum": "max", "minimum": "min", "logical_or": "any", "logical_and": "all"}
"""Ufuncs whose reductions kernels compute to the bit."""


def _none(*_: Any) -> None:
    return None


def _no_dtype(name: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"{name} takes no dtype; cast its result with astype")


def _taker(op: Op) -> Callable[[Any], bool]:
    """A function that says of a dtype whether the row takes it without a cast."""
    good: dict[Any, bool] = {}

    def takes(dtype: Any) -> bool:
        fits = good.get(dtype)
        if fits is None:
            kind = dtypes.kind(dtype).replace("u", "i")
            fits = good[dtype] = kind in op.takes and not (op.to_float and kind in "bi")
        return fits

    return takes


def steady(op: Op) -> Callable[..., Any]:
    """The public function of any row with a fixed number of inputs."""
    source, values, hidden = head(op)
    values |= {"_op": op, "_raw": op.raw, "_plain": op.plain, "_check": op.check, "_takes": _taker(op)}
    fn = templates.closed(source + templates.row(op), op.name, f"<agog {op.name}>", globals(), values)
    return finished(fn, op, hidden)


def joining(op: Op) -> Callable[[Op, tuple, tuple], Any]:
    """What `apply` does for a row of any number of inputs in ordinary eager mode, when no input needs a cast."""
    raw, plain, check, takes, alike = op.raw, op.plain, op.check, _taker(op), bool(op.promotes)
    keep_inputs, keep_output = op.keeps

    def invoke(op: Op, inputs: tuple, statics: tuple) -> Any:
        try:
            if config.special:
                return apply(op, inputs, statics)
            datas: list[Any] = [x._data for x in inputs]
            dtype = datas[0].dtype
            for a in datas:
                if type(a) is not _nd or (a.dtype is not dtype and alike):
                    return apply(op, inputs, statics)
            if alike and dtype is not _f32 and not takes(dtype):
                return apply(op, inputs, statics)
            if check is not None:
                statics = check(*datas, *statics)
            out = plain(*datas, *statics) if alike and dtype is _f32 else raw(*datas, *statics)
            if type(out) is not _nd:
                out = _asarray(out)
        except Exception:
            out = None
        if out is None:  # outside the handler, so that the explanation is not chained to what NumPy raised
            return apply(op, inputs, statics)
        t = next(_blanks)
        t._data = out
        t._node = None
        parents = tuple([x._node for x in inputs])
        if op.vjp and parents.count(None) != len(parents) and _is_inexact(out.dtype):
            t._node = node = _Node()
            node.op, node.parents, node.shape, node.seq = op, parents, out.shape, next(_tickets)
            env = (tuple(datas) if keep_inputs else None, out if keep_output else None, *statics)
            for what, _ in op.derived:
                env += (tuple([getattr(a, what) for a in datas]),)
            node.env = env
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
    elif op.variadic:
        return call_with_signature(op, joining(op))
    else:
        return steady(op)
    return finished(fn, op, ())


def is_reduction(op: Op) -> bool:
    """Whether the `reduction` template serves the row."""
    return op.kind == "reduction" and op.statics == _REDUCTION and not op.widen


def join(joins: Callable[..., Any], general: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a composite that joins Tensors: in few steps where none of them needs a gradient."""
    def joined(arrays: Any, axis: Any = 0, **other: Any) -> Any:
        out = None
        if not config.special and not other and (type(arrays) is list or type(arrays) is tuple):
            try:
                datas, dtype = [], None
                for x in arrays:
                    a = x._data
                    if x._node is not None or type(a) is not _nd or a.dtype is not dtype is not None:
                        break
                    dtype = a.dtype
                    datas.append(a)
                else:
                    out = joins(datas, axis)
            except Exception:
                pass  # the general path says what is wrong
        if out is None:
            return general(arrays, axis, **other)
        t = next(_blanks)
        t._data = out
        t._node = None
        return t

    functools.update_wrapper(joined, general)
    del joined.__wrapped__  # type: ignore[attr-defined]
    return joined


def split(splits: Callable[..., Any], general: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a composite that takes a Tensor apart: in few steps where it needs no gradient."""
    def parted(x: Any, axis: Any = 0, **other: Any) -> Any:
        if not config.special and not other and type(x) is Tensor and x._node is None and type(x._data) is _nd:
            parts = splits(x._data, axis)
            if parts is not None:
                out = []
                for a in parts:
                    t = next(_blanks)
                    t._data = a
                    t._node = None
                    out.append(t)
                return tuple(out)
        return general(x, axis, **other)

    functools.update_wrapper(parted, general)
    del parted.__wrapped__  # type: ignore[attr-defined]
    return parted


def total() -> Callable[..., Any]:
    """The function of a composite that sums the terms of a row: without storing them, where a kernel does that."""
    def summed(terms: str, inputs: tuple, mean: bool) -> Any:
        if not config.special and type(inputs[0]) is Tensor and inputs[0]._data.size >= large.SLOW:
            try:
                done = _total(TABLE[terms], inputs, mean)
                if done is not None:
                    return done
            except Exception:
                pass  # the general path says what is wrong
        loss = getattr(tensors, terms)(*inputs)
        return tensors.mean(loss) if mean else tensors.sum(loss)

    return summed


def _total(op: Op, inputs: tuple, mean: bool) -> Any:
    first = inputs[0]._data
    dtype, shape = first.dtype, first.shape
    if type(first) is not _nd or dtype is not _f32 and dtype is not dtypes.float64:
        return None
    datas: list[Any] = []
    parents: list[Any] = []
    for x, rule in zip(inputs, op.rules):
        if type(x) is Tensor:
            data = x._data
            if type(data) is not _nd or data.dtype is not dtype or data.shape != shape:
                return None
            datas.append(data)
            parents.append(x._node if rule is not None else None)
        elif type(x) is float or type(x) is int:
            datas.append(_number(x, dtype))
            parents.append(None)
        else:
            return None
    out = large.native("total", 16 * first.size, op.name, mean, datas)
    if out is None:
        return None
    t = next(_blanks)
    t._data = out
    t._node = None
    if parents.count(None) != len(parents):  # as the row and the reduction would have recorded it
        node = tape.record(op, tuple(parents), (*datas, None), (), shape)
        t._node = tape.record(TABLE["mean" if mean else "sum"], (node,), (first, out), (None, False), ())
    return t


def quick(composite: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a composite, which is `fn`, with the quick way that there is for it."""
    if composite.joins is not None:
        return join(composite.joins, fn)
    if composite.splits is not None:
        return split(composite.splits, fn)
    return total() if composite.totals else fn


tensors = Namespace("tensor", function, quick)
"""The world of Tensors: what `agog.exp`, `agog.sum`, ... are, and what rules run in with `create_graph`."""
