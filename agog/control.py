"""Explicit control flow and staged side effects: cond, while_loop, scan; print, assert_, callback.

Python's own `if`, `while` and `for` work on Tensors too. These forms say the same in one call, work inside `vmap` where
Python cannot look at a value, and are what to write when a staged function takes too many paths.
"""

from __future__ import annotations

import builtins
import inspect
from typing import Any, Callable

from agog import config, tree
from agog.array import dtypes
from agog.dispatch import operand, tensors, wrap
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.tensor import Tensor, asarray

__all__ = ["assert_", "callback", "cond", "print", "scan", "while_loop"]


def _scalar_bool(x: Any, what: str) -> Any:
    if isinstance(x, bool):
        return x
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"{what}: the condition must be a bool or a Tensor of one, not a {type(x).__name__}")
    if x.size != 1:
        raise ShapeError(f"{what}: the condition has shape {x.shape}; reduce it with .any() or .all()")
    return x


def _check_function(who: str, fn: Any) -> None:
    if not callable(fn):
        raise ArgumentTypeError(f"{who}: give a function, not a {type(fn).__name__}")


def _many_valued(x: Any) -> bool:
    """True for a condition inside vmap: it differs between the examples."""
    return isinstance(x, Tensor) and hasattr(x._data, "value") and hasattr(x._data, "__agog_level__")


def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """`true_fn(*operands) if pred else false_fn(*operands)`, where both give the same structure, shapes and dtypes.

    Only the chosen branch runs, except inside `vmap` with a condition that differs between the examples: there both
    run, and `where` chooses.
    """
    pred = _scalar_bool(pred, "cond")
    if not (callable(true_fn) and callable(false_fn)):
        raise ArgumentTypeError("cond(pred, true_fn, false_fn, *operands): the branches are functions of the operands; "
                                "to choose between two values write ag.where(pred, x, y)")
    if not _many_valued(pred):
        return true_fn(*operands) if pred else false_fn(*operands)
    chosen, structure = tree.flatten(true_fn(*operands))
    other, also = tree.flatten(false_fn(*operands))
    if structure != also:
        raise ArgumentError(f"cond: the branches return different structures, {structure} and {also}")
    return tree.unflatten(structure, [tensors.where(pred, a, b) for a, b in zip(chosen, other)])


def while_loop(cond_fn: Callable[..., Any], body_fn: Callable[..., Any], state: Any) -> Any:
    """`while cond_fn(state): state = body_fn(state)`; returns the last state. Differentiable.

    state is passed as one argument, or spread over several when it is a tuple. The body must keep its structure.
    Inside `vmap`, examples that are done keep their state while the others go on.
    """
    _check_function("while_loop", cond_fn)
    _check_function("while_loop", body_fn)
    spread = isinstance(state, tuple)
    structure = tree.flatten(state)[1]
    call = (lambda f, s: f(*s)) if spread else (lambda f, s: f(s))
    if spread:
        _check_takes(cond_fn, state)
        _check_takes(body_fn, state)
    recorder = config.modes.recorder
    turns = None if recorder is None else recorder.on_while((cond_fn, body_fn))
    while True:
        if turns is not None:
            turns.begin(state)
        going = _scalar_bool(call(cond_fn, state), "while_loop")
        if _many_valued(going):
            if not bool(_any(going)):
                return state
        elif not going:
            if turns is not None:
                turns.end()
            return state
        new = call(body_fn, state)
        if spread and isinstance(new, list):
            new = tuple(new)
        leaves, given = tree.flatten(new)
        if given != structure:
            raise ArgumentError(f"while_loop: the body changed the structure of the state from {structure} to {given}")
        if _many_valued(going):
            leaves = [tensors.where(going, a, b) for a, b in zip(leaves, tree.leaves(state))]
        state = tree.unflatten(structure, leaves)


def _check_takes(fn: Callable[..., Any], state: tuple) -> None:
    """Raise ArgumentTypeError for a function that wants a tuple as one argument, as JAX gives it."""
    try:
        inspect.signature(fn).bind(*state)
    except TypeError as error:
        raise ArgumentTypeError(f"while_loop: the {len(state)} parts of a tuple are arguments of their own ({error}); "
                                "write `lambda a, b: ...`, or make the state a list or a dict, which is one argument"
                                ) from None
    except ValueError:  # a callable that does not state its arguments
        pass


def _any(x: Tensor) -> Tensor:
    """Whether a condition holds for any example, at all levels of vmap."""
    while _many_valued(x):
        x = tensors.any(x._data.value)
    return x


def scan(fn: Callable[[Any, Any], Any], init: Any, xs: Any, length: int | None = None, *, reverse: bool = False) -> Any:
    """Carry a state along axis 0 of `xs`: `(carry, y) = fn(carry, x)` for each x; returns (last carry, stacked ys).

    xs      a pytree of Tensors with one size along axis 0, or None (then give `length`)
    fn      returns (carry, y); y may be a pytree or None. It gets Tensors of its own: what it changes in place does not
            change `init` or `xs`
    """
    _check_function("scan", fn)
    leaves, structure = tree.flatten(xs)
    leaves = [asarray(x) if operand(x) is None else operand(x) for x in leaves]
    sizes = {x.shape[0] if x.ndim else None for x in leaves}
    if None in sizes or len(sizes) > 1:
        raise ShapeError(f"scan: the Tensors of xs have sizes {sorted(map(str, sizes))} along axis 0; they must agree")
    if not sizes and length is None:
        raise ArgumentError("scan: give length= when xs holds no Tensors")
    n: Any = sizes.pop() if sizes else length
    if length is not None and n != length:
        raise ArgumentError(f"scan: length={length}, but xs has {n} along axis 0")
    recorder = config.modes.recorder
    turns = None if recorder is None else recorder.on_scan(fn, reverse)
    carry, ys, out_structure = init if n == 0 else tree.map(_own, init), [], None
    for i in range(n - 1, -1, -1) if reverse else range(n):
        slices = [x[i] for x in leaves]
        if turns is not None:
            turns.begin(carry, slices, leaves)
        result = fn(carry, tree.unflatten(structure, slices))
        if not isinstance(result, tuple) or len(result) != 2:
            raise ArgumentError("scan: the function must return (carry, y)")
        carry, y = result
        flat, out_structure = tree.flatten(y)
        ys.append([tensors.astype(v, v.dtype) if isinstance(v, Tensor) else asarray(v) for v in flat])
        if turns is not None:
            turns.end(ys[-1])
    if turns is not None:
        turns.last(carry)
    if reverse:
        ys.reverse()
    if out_structure is None:
        return carry, None
    stacked = [tensors.stack(column, axis=0) for column in zip(*ys)]
    if turns is not None:
        turns.stacked(stacked)
    return carry, tree.unflatten(out_structure, stacked)


def _own(x: Any) -> Any:
    """Another Tensor with the value and the history of `x`."""
    if not isinstance(x, Tensor):
        return x
    if config.modes.recorder is not None:
        config.modes.recorder.on_read(x)
    return wrap(x._data, x._node)


# ------------------------------------------------------------------------------------------------- staged effects
def _deliver(fn: Callable[..., Any], values: list[Tensor]) -> None:
    recorder = config.modes.recorder
    if recorder is None:
        fn(*values)
        return
    recorder.on_effect(fn, values)
    with recorder.paused(fn):
        fn(*[v.detach() for v in values])


def print(*values: Any, sep: str = " ", end: str = "\n") -> None:  # noqa: A001 - the name users look for
    """Python's print, also from a staged function: delivered once per call, in order, when the call commits."""
    places = [v if isinstance(v, Tensor) else None for v in values]
    texts = [None if isinstance(v, Tensor) else str(v) for v in values]

    def show(*ts: Tensor) -> None:
        it = iter(ts)
        builtins.print(*[str(next(it)) if t is None else t for t in texts], sep=sep, end=end)

    _deliver(show, [t for t in places if t is not None])


def callback(fn: Callable[..., Any], *values: Any) -> None:
    """Call `fn(*values)` with the values of Tensors, also from a staged function; its result is ignored."""
    if not callable(fn):
        raise ArgumentTypeError(f"callback: {fn!r} cannot be called")
    _deliver(fn, [asarray(v) for v in values])


def assert_(condition: Any, message: str = "assertion failed") -> None:
    """Raise AssertionError with `message` unless all of `condition` is true; staged functions check it too.

    A staged call that fails changes nothing and is repeated eagerly, so the traceback shows your own line.
    """
    condition = asarray(condition)
    if condition.dtype != dtypes.bool:
        condition = tensors.not_equal(condition, 0)
    if not bool(tensors.all(condition)):
        raise AssertionError(message)
