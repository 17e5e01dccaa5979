"""Functions from functions: grad, value_and_grad, vjp, jvp, jacobians, custom gradients, checkpointing.

They compose in any order and depth with each other, with `vmap`, and with `.backward()`: an inner transformation
records its own work whenever something outside could still ask for its derivative.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, Callable, Iterator

from agog import config, tape, tree
from agog.array import dtypes
from agog.autodiff.engine import conj, deepening, enable_grad, finish, leaves_below, walk
from agog.dispatch import operand, tensors, wrap
from agog.errors import ArgumentError, ArgumentTypeError, GradientError, ShapeError
from agog.ops.row import Op
from agog.tape import Leaf, Node

_identity = Op("_tracked(x) -> y", lambda np, x: x, vjp={"x": lambda xp, g: g}, linear_in="all", promotes=(),
               batch=lambda xp, batched, inputs, statics: inputs[0], kind="movement",
               samples=lambda s: [((s(2, 3),), {})], doc="The same value as a new node: where a transformation begins.")

stopped = Op("_stopped(x) -> y", lambda np, x: x, promotes=(), kind="movement", smooth=False,
             batch=lambda xp, batched, inputs, statics: inputs[0],
             samples=lambda s: [((s(2, 3),), {})], doc="The same value, through which no gradient flows.")


def _attached_batch(xp: Any, batched: Any, inputs: Any, statics: Any) -> Any:
    x, to = inputs
    shape = x.shape if x.ndim >= to.ndim else to.shape
    return xp._attached(xp.broadcast_to(x, shape), xp.broadcast_to(to, shape))


attached = Op("_attached(x, to) -> y", lambda np, x, to: x, promotes=(), kind="movement", smooth=False,
              vjp={"to": lambda xp, g: g}, jvp={"to": lambda xp, t: t}, batch=_attached_batch,
              samples=lambda s: [((s(2, 3), s(2, 3)), {})],
              doc="The value of `x` with the history of `to`: a leaf that was given another value.")


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "_node")


def as_input(x: Any, what: str) -> Any:
    """An argument as a Tensor that can be differentiated by; raises DTypeError-like messages otherwise."""
    t = operand(x) if not _is_tensor(x) else x
    if t is None:
        raise ArgumentTypeError(f"{what}: an argument to differentiate by is a {type(x).__name__}; give Tensors, "
                                "arrays, numbers, or containers of them")
    if not _is_tensor(t):
        t = tensors.astype(t, dtypes.default_complex() if isinstance(t, complex) else dtypes.default_float())
    if not dtypes.is_inexact(t.dtype):
        raise ArgumentTypeError(f"{what}: cannot differentiate by a Tensor of dtype {t.dtype}; cast it to a floating "
                                "dtype, or leave it out of argnums")
    return t


def check_function(fn: Any, what: str) -> Any:
    """`fn`, which must be callable."""
    if not callable(fn):
        raise ArgumentTypeError(f"{what}: give a function, not {'nothing' if fn is None else f'a {type(fn).__name__}'}")
    return fn


def check_outputs(out: Any, what: str) -> tuple[list[Any], Any]:
    """The Tensors that a function returned, and their structure."""
    outputs, structure = tree.flatten(out)
    for y in outputs:
        if not _is_tensor(y):
            raise GradientError(f"{what}: the function must return Tensors, it returned a {type(y).__name__}")
    if out is None:
        raise GradientError(f"{what}: the function must return Tensors, it returned nothing")
    return outputs, structure


def with_aux(out: Any, what: str) -> Any:
    """What a function returned with has_aux=True, which must be (value, aux)."""
    if not (isinstance(out, tuple) and len(out) == 2):
        raise GradientError(f"{what}: with has_aux=True the function must return (value, aux), it returned "
                            f"{'nothing' if out is None else f'a {type(out).__name__}'}")
    return out


def as_direction(x: Any, like: Any, name: str) -> Any:
    """A tangent or cotangent `x` as a Tensor for the Tensor `like`: of its shape, and no complex one for a real one."""
    t = operand(x)
    if t is None:
        raise ArgumentTypeError(f"{name} is a {type(x).__name__}; give Tensors, arrays or numbers")
    kind = t.dtype.kind if _is_tensor(t) else "c" if isinstance(t, complex) else "f"
    if kind == "c" and like.dtype.kind != "c":
        raise ArgumentTypeError(f"{name} is complex, but what it belongs to is {like.dtype}; give its real part")
    if not _is_tensor(t):
        t = tensors.astype(t, like.dtype)
    if t.shape != like.shape:
        raise ShapeError(f"{name} has shape {t.shape}, but what it belongs to has shape {like.shape}")
    return t


def alias(t: Any) -> Any:
    """Another Tensor of the same value and history: what happens to `t` in place does not happen to it."""
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_read(t)
    return wrap(t._data, t._node)


def fresh(t: Any) -> Any:
    """`t` as the start of a new graph, still linked to the old one if it has one."""
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_read(t)
    out = wrap(t._data)
    if t._node is None:
        out._node = Leaf(t.shape, t.dtype)
    else:
        out._node = tape.record(_identity, (t._node,), (t._data, t._data), (), t.shape)
    return out


def places(argnums: Any, n: int, what: str) -> tuple[int, ...]:
    """The positions that `argnums` names among `n` arguments."""
    nums = argnums if isinstance(argnums, tuple | list) else (argnums,)
    for i in nums:
        if type(i) is not int:
            raise ArgumentError(f"{what}: argnums={argnums!r}; give the number of a positional argument, or a tuple of "
                                "such numbers")
        if not -n <= i < n:
            raise ArgumentError(f"{what}: argnums={argnums!r}, but the function was called with {n} positional "
                                "arguments")
    found = tuple(i % n for i in nums)
    if len(set(found)) != len(found):
        raise ArgumentError(f"{what}: argnums={argnums!r} names an argument twice")
    return found


class _Traced:
    """The differentiated arguments of one call: fresh Tensors in place of the leaves of the chosen arguments."""

    def __init__(self, args: tuple, argnums: Any, what: str):
        self.nums = places(argnums, len(args), what)
        self.single = isinstance(argnums, int)
        self.recording = _grad_on()
        leaves, self.structure = tree.flatten([args[i] for i in self.nums])
        self.originals = [as_input(x, what) for x in leaves]
        self.inputs = [fresh(t) for t in self.originals]
        new = list(args)
        for i, value in zip(self.nums, tree.unflatten(self.structure, self.inputs)):
            new[i] = value
        self.args = tuple(new)

    def linked(self, outputs: list[Any]) -> bool:
        """True when something besides these inputs could ask for a derivative of the gradients."""
        if not self.recording:  # inside no_grad
            return False
        if any(t._node is not None for t in self.originals):
            return True
        mine = {t._node for t in self.inputs}
        return not leaves_below([o._node for o in outputs]) <= mine

    def pack(self, gradients: list[Any]) -> Any:
        values = tree.unflatten(self.structure, gradients)
        return values[0] if self.single else tuple(values)

    def pull(self, outputs: list[Any], cotangents: list[Any], *, retain: bool, create_graph: bool) -> list[Any]:
        pairs = [(o, g) for o, g in zip(outputs, cotangents) if o._node is not None]
        found = walk([o for o, _ in pairs], [g for _, g in pairs], retain=retain, create_graph=create_graph,
                     wanted={t._node for t in self.inputs}, stop=True) if pairs else {}
        return [finish(found[t._node], t.shape, t.dtype) if t._node in found else tensors.zeros_like(t.detach())
                for t in self.inputs]


def _scalar_output(y: Any, what: str) -> Any:
    if not _is_tensor(y):
        raise GradientError(f"{what}: the function must return a scalar Tensor, it returned "
                            f"{'nothing' if y is None else f'a {type(y).__name__}'}")
    if y.size != 1 or y.ndim:
        raise GradientError(f"{what}: the function must return a scalar, it returned a Tensor of shape {y.shape}; "
                            "reduce it, for example with .sum(), or use vjp or jacobian")
    if dtypes.kind(y.dtype) != "f":
        raise GradientError(f"{what}: the function must return a real floating scalar, it returned {y.dtype}")
    return y


def value_and_grad(fn: Callable[..., Any], argnums: Any = 0, *, has_aux: bool = False) -> Callable[..., Any]:
    """`fn`'s value and gradient: a function that returns `(value, gradient)`.

    argnums  which positional arguments to differentiate by: an int, or a tuple for a tuple of gradients;
             an argument may be any pytree of Tensors, its gradient has the same structure
    has_aux  fn returns (scalar, aux); the result is then ((scalar, aux), gradient)

    Raises GradientError when fn does not return a real scalar Tensor.
    """
    check_function(fn, "grad")

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        traced = _Traced(args, argnums, "grad")
        with enable_grad():
            out = fn(*traced.args, **kwargs)
            y, aux = with_aux(out, "grad") if has_aux else (out, None)
            y = _scalar_output(y, "grad")
        linked = traced.linked([y])
        grads = traced.pull([y], [None], retain=linked, create_graph=linked)
        value = y if linked else wrap(y._data)
        if has_aux and not linked:
            aux = tree.map(lambda x: wrap(x._data) if _is_tensor(x) else x, aux)
        return ((value, aux) if has_aux else value), traced.pack(grads)

    return wrapped


def grad(fn: Callable[..., Any], argnums: Any = 0, *, has_aux: bool = False) -> Callable[..., Any]:
    """`fn`'s gradient: a function with fn's arguments. See `value_and_grad`."""
    both = value_and_grad(fn, argnums, has_aux=has_aux)

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return wrapped


def vjp(fn: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """`(fn(*primals), pullback)`: `pullback(cotangent)` gives a cotangent for each primal (a tuple).

    The cotangent has the structure of fn's result. The pullback can be called any number of times.
    """
    value, pullback, aux = pulled("vjp", "a cotangent", fn, primals, has_aux)
    return (value, pullback, aux) if has_aux else (value, pullback)


def pulled(what: str, name: str, fn: Callable[..., Any], primals: tuple, has_aux: bool = False) -> tuple[Any, Any, Any]:
    """`vjp` for the function `what` of the user, who gives `name` to the pullback: value, pullback and aux."""
    check_function(fn, what)
    traced = _Traced(primals, tuple(range(len(primals))), what)
    with enable_grad():
        out = fn(*traced.args)
    out, aux = with_aux(out, what) if has_aux else (out, None)
    outputs, structure = check_outputs(out, what)
    linked = traced.linked(outputs)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        gs, given = tree.flatten(cotangent)
        if given != structure:
            raise ArgumentError(f"{what}: {name} must have the structure {structure}, not {given}")
        gs = [as_direction(g, y, f"{what}: {name}") for g, y in zip(gs, outputs)]
        deeper = linked or any(g._node is not None for g in gs)
        return traced.pack(traced.pull(outputs, gs, retain=True, create_graph=deeper))

    value = out if linked else tree.unflatten(structure, [wrap(y._data) for y in outputs])
    return value, pullback, aux


def stop_gradient(x: Any) -> Any:
    """`x` (a Tensor or a pytree of them) as a constant: no gradient flows through."""
    return tree.map(lambda t: t.detach() if _is_tensor(t) else t, x)


# -------------------------------------------------------------------------------------------- calls as one node
def recorded_call(name: str, xs: list[Any], ys: list[Any],
                  cotangents: Callable[[list[Any], bool], list[Any]]) -> list[Any]:
    """`ys` as the results of one recorded call on the Tensors `xs`.

    cotangents(gs, deeper) gives a cotangent or None for each of xs, from Tensors gs; `deeper` says whether it is to be
    differentiated in its turn.
    """
    def rule(xp: Any, gs: Any) -> list[Any]:
        raw = not any(_is_tensor(g) for g in gs)
        deeper = not raw and deepening()
        parts = cotangents([conj(wrap(g) if raw else g) for g in gs], deeper)
        return [None if p is None else conj(p)._data if raw else conj(p) for p in parts]

    node = object.__new__(Node)
    op = _Custom(name, rule)
    node.op, node.parents, node.env, node.seq = op, tuple(x._node for x in xs), (None, None), tape._ticket()
    if len(ys) == 1:
        op.rules = ((lambda xp, g: rule(xp, [g]), 0, None),)
        node.shape = ys[0].shape
        return [wrap(ys[0]._data, node if dtypes.is_inexact(ys[0].dtype) else None)]
    op.outputs = tuple(str(i) for i in range(len(ys)))
    node.shape = [(y.shape, y.dtype) for y in ys]
    return [wrap(y._data, tape.Pick(node, i, y.shape) if dtypes.is_inexact(y.dtype) else None)
            for i, y in enumerate(ys)]


def _grad_on() -> bool:
    return config.modes.grad


class _Custom:
    """What the tape needs to know of a row, for one call of a function with a rule of its own."""

    variadic, elementwise, derived, inputs, static_names = True, False, (), ("xs",), ()

    def __init__(self, name: str, rule: Callable[..., Any]):
        self.name, self.rules = name, ((rule, 0, None),)
        self.outputs: tuple[str, ...] = ("y",)


class _Draws(threading.local):
    """Keys of random numbers that `checkpoint` keeps, so that a second run draws those of the first.

    logs    of the functions now running for the first time, the keys that they drew
    replay  while one runs again, its keys
    """

    def __init__(self) -> None:
        self.logs: list[list[Any]] = []
        self.replay: Iterator[Any] | None = None


_draws = _Draws()


def draws_kept() -> bool:
    """Whether `checkpoint` wants to know, or gives, the keys that are drawn."""
    return bool(_draws.logs) or _draws.replay is not None


def draw(fresh_key: Callable[[], Any]) -> Any:
    """A key for random numbers: a fresh one, or while `checkpoint` runs a function again, that of the first time."""
    if _draws.replay is None:
        key = fresh_key()
    else:
        key = next(_draws.replay, None)
        if key is None:
            raise GradientError("checkpoint: the function drew more random numbers when it ran again than the first "
                                "time")
    for log in _draws.logs:
        log.append(key)
    return key


def checkpoint(fn: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """`fn` without keeping its intermediate values: backward computes them again. Saves memory, costs time.

    fn must give the same result when called again (random numbers, such as dropout's, are drawn as the first time). It
    may return a pytree of Tensors. Gradients flow to its arguments and to whatever else requires one inside it.
    """
    check_function(fn, "checkpoint")

    if args or not callable(fn):
        raise ArgumentTypeError("checkpoint takes a function and returns one: write checkpoint(fn)(x)")

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not _grad_on():
            return fn(*args, **kwargs)
        leaves, structure = tree.flatten((args, kwargs))
        which = [i for i, x in enumerate(leaves) if _is_tensor(x) and x._node is not None]
        start = tape._ticket()
        keys: list[Any] = []
        _draws.logs.append(keys)
        try:
            out = fn(*args, **kwargs)
        finally:
            _draws.logs.pop()
        returned, out_structure = tree.flatten(out)
        outputs = [y for y in returned if _is_tensor(y)]
        mine = {leaves[i]._node for i in which}
        captured = [n for n in _frontier(outputs, start) if n not in mine]
        parents = tuple(leaves[i]._node for i in which) + tuple(captured)
        if not parents or not outputs:
            return out

        def rule(xp: Any, g: Any) -> list[Any]:
            raw = not any(_is_tensor(p) for p in g)
            deeper = not raw and deepening()
            again = list(leaves)
            for i in which:
                x = leaves[i]  # (inside vmap or jvp, what the value carries further out stays)
                again[i] = fresh(x if deeper else wrap(x._data) if hasattr(x._data, "__agog_level__") else x.detach())
            before, _draws.replay = _draws.replay, iter(keys)
            try:
                with enable_grad():
                    a, k = tree.unflatten(structure, again)
                    ys = [y for y in tree.leaves(fn(*a, **k)) if _is_tensor(y)]
            finally:
                _draws.replay = before
            sources = [again[i]._node for i in which] + captured
            pairs = [(y, conj(wrap(p) if raw else p)) for y, p in zip(ys, g) if y._node is not None]
            found = walk([y for y, _ in pairs], [p for _, p in pairs], retain=True, create_graph=deeper,
                         wanted=set(sources), stop=True)
            return [found.get(s) for s in sources]

        op = _Custom("checkpoint", rule)
        op.outputs = tuple(str(i) for i in range(len(outputs)))
        node = object.__new__(Node)
        node.op, node.parents, node.env = op, parents, (None, None)
        node.shape, node.seq = [(y.shape, y.dtype) for y in outputs], tape._ticket()
        if len(outputs) == 1:
            op.rules = ((lambda xp, g: rule(xp, [g]), 0, None),)
            node.shape = outputs[0].shape
            linked = iter([wrap(outputs[0]._data, node)])
        else:
            linked = iter([wrap(y._data, tape.Pick(node, i, y.shape)) for i, y in enumerate(outputs)])
        return tree.unflatten(out_structure, [next(linked) if _is_tensor(y) else y for y in returned])

    return wrapped


def _frontier(outputs: list[Any], start: int) -> list[Any]:
    """The nodes older than the ticket `start`, and the leaves, from which `outputs` were computed."""
    seen: set[Any] = set()
    found = []
    stack = [t._node for t in outputs if _is_tensor(t)]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node) is Leaf or node.seq > start:  # tickets count down
            found.append(node)
        else:
            stack.extend((node.source,) if type(node) is tape.Pick else node.parents)
    return found
