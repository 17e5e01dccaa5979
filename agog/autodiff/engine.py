"""Running the tape backwards for Tensors, and the modes that say whether it records.

Cotangents on the tape are transposes without conjugation; here, at the boundary, they are conjugated once, so that
the gradient of a real loss by a complex Tensor points uphill (PyTorch's convention).
"""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import Any, Callable, Iterable, Sequence

import numpy as np

from agog import config, dispatch, tape
from agog.array import dtypes, large
from agog.dispatch import tensors, wrap
from agog.errors import ArgumentTypeError, GradientError, ShapeError
from agog.ops.namespaces import raw
from agog.ops.row import TABLE
from agog.tape import Leaf, Node, Pick


class _GradMode:
    """A context, and a decorator, that switches recording on or off in this thread."""

    def __init__(self, on: bool):
        self.on = on
        self.before: list[bool] = []

    def __enter__(self) -> None:
        self.before.append(config.modes.grad)
        config.modes.grad = self.on
        if not self.on:
            config.enter_special()

    def __exit__(self, *exc: Any) -> None:
        config.modes.grad = self.before.pop()
        if not self.on:
            config.leave_special()

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(fn):
            return self._generator(fn)

        @functools.wraps(fn)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _GradMode(self.on):
                return fn(*args, **kwargs)

        return wrapped

    def _generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A generator runs when it is asked for its next value, and only then is the mode its."""

        @functools.wraps(fn)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            inner = fn(*args, **kwargs)
            resume: Any = functools.partial(next, inner)
            try:
                while True:
                    try:
                        with _GradMode(self.on):
                            value = resume()
                    except StopIteration as end:
                        return end.value
                    try:
                        given = yield value
                        resume = functools.partial(inner.send, given)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        resume = functools.partial(inner.throw, error)
            finally:
                with _GradMode(self.on):
                    inner.close()

        return wrapped


def _mode(on: bool, fn: Callable[..., Any] | None) -> Any:
    if fn is not None and not callable(fn):
        raise ArgumentTypeError(f"no_grad and enable_grad take no {type(fn).__name__}; write `with ag.no_grad():`, or "
                                "decorate a function")
    return _GradMode(on) if fn is None else _GradMode(on)(fn)


def no_grad(fn: Callable[..., Any] | None = None, /) -> Any:
    """A context (or decorator) in which results do not remember how they were made: cheaper, and safe to assign."""
    return _mode(False, fn)


def enable_grad(fn: Callable[..., Any] | None = None, /) -> Any:
    """A context (or decorator) that records again inside `no_grad`."""
    return _mode(True, fn)


def is_grad_enabled() -> bool:
    """Whether results of this thread remember how they were made."""
    return config.modes.grad


_new, _ndarray, _f32, _f64 = object.__new__, np.ndarray, dtypes.float32, dtypes.float64
_ones: dict[np.dtype, np.ndarray] = {}


def _one(dtype: np.dtype) -> np.ndarray:
    one = _ones.get(dtype)
    if one is None:
        one = _ones[dtype] = np.ones((), dtype)
        one.flags.writeable = False
    return one


def _values(node: Node, env: tuple) -> tuple:
    """Saved arrays as Tensors, linked to the nodes that made them."""
    op = node.op
    if op.variadic:
        inputs, output, *rest = env
        inputs = inputs and tuple(wrap(x, p) for x, p in zip(inputs, node.parents))
        return (inputs, output if output is None else wrap(output, node), *rest)
    out = list(env)
    n = len(op.inputs)
    for i, x in enumerate(env[:n]):
        if hasattr(x, "dtype"):
            out[i] = wrap(x, node.parents[i])
    for j in range(len(op.outputs)):
        x = env[n + j]
        if x is not None:
            out[n + j] = wrap(x, node if len(op.outputs) == 1 else Pick(node, j, x.shape))
    return tuple(out)


def _constants(node: Node, env: tuple) -> tuple:
    """Saved arrays as Tensors without history."""
    if node.op.variadic:
        inputs, output, *rest = env
        return (inputs and tuple(wrap(x) for x in inputs), output if output is None else wrap(output), *rest)
    n = len(node.op.inputs) + len(node.op.outputs)
    return tuple(wrap(x) if i < n and hasattr(x, "dtype") else x for i, x in enumerate(env))


def walk(roots: Sequence[Any], cotangents: Sequence[Any], *, retain: bool, create_graph: bool,
         wanted: set[Any] | None = None, stop: bool = False) -> dict[Any, Any]:
    """Cotangents of leaves and wanted nodes: raw arrays, or Tensors with `create_graph` or for exotic data.

    roots are Tensors with a node; cotangents are Tensors or None (1).
    """
    nodes = [t._node for t in roots]
    plain = (not create_graph and config.modes.recorder is None
             and all(type(t._data) is np.ndarray for t in roots)
             and all(g is None or type(g._data) is np.ndarray for g in cotangents))
    if plain:
        gs = [_one(t._data.dtype) if g is None else _conj_raw(g._data) for t, g in zip(roots, cotangents)]
        return tape.pullback(raw, nodes, gs, wanted, retain=retain, stop=stop)
    if config.modes.recorder is not None:
        with dispatch.unwatched():
            config.modes.recorder.on_walk(nodes)
            own = _own(nodes)
        with dispatch.unwatched(own):
            return _walk(roots, cotangents, nodes, retain, create_graph, wanted, stop)
    return _walk(roots, cotangents, nodes, retain, create_graph, wanted, stop)


def _walk(roots: Sequence[Any], cotangents: Sequence[Any], nodes: list[Any], retain: bool, create_graph: bool,
          wanted: set[Any] | None, stop: bool) -> dict[Any, Any]:
    """`walk` with Tensors."""
    gs = [tensors.ones_like(t.detach()) if g is None else conj(g) for t, g in zip(roots, cotangents)]
    before, config.modes.deeper = config.modes.deeper, create_graph
    try:
        if create_graph:
            with enable_grad():
                return tape.pullback(tensors, nodes, gs, wanted, retain=True, as_values=_values, stop=stop)
        if any(hasattr(t._data, "__agog_level__") for t in (*roots, *gs)):
            # Values inside vmap or jvp may have a history of their own, on a tape further out, that has to go on.
            return tape.pullback(tensors, nodes, gs, wanted, retain=retain, as_values=_constants, stop=stop)
        with no_grad():
            return tape.pullback(tensors, nodes, gs, wanted, retain=retain, as_values=_constants, stop=stop)
    finally:
        config.modes.deeper = before


def deepening() -> bool:
    """For a rule that makes Tensors of what it has saved: whether these are to be linked to the tape."""
    return config.modes.grad and config.modes.deeper


def _own(nodes: Iterable[Any]) -> bool:
    """Whether nothing but rules of agog's own rows runs when the tape is walked back from these nodes."""
    if tape.hooks.data:
        return False
    seen: set[Any] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node is None or node in seen or type(node) is Leaf:
            continue
        seen.add(node)
        if type(node) is Pick:
            stack.append(node.source)
            continue
        op = node.op
        if TABLE.get(op.name) is not op or node.env is not None and not dispatch.is_plain(node.env):
            return False
        stack.extend(node.parents)
    return True


def _conj_raw(g: Any) -> Any:
    return g.conj() if g.dtype.kind == "c" else g


def conj(t: Any) -> Any:
    """The complex conjugate of a Tensor; the Tensor itself when it is real."""
    return tensors.conj(t) if t._data.dtype.kind == "c" else t


def finish(g: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """A cotangent from the tape (raw or Tensor) as the gradient the user sees: a Tensor of `shape` and `dtype`."""
    if isinstance(g, np.ndarray | np.generic):
        if g.shape != shape:
            full = np.empty(shape, g.dtype)
            full[...] = g
            g = full
        if g.dtype != dtype:
            with np.errstate(all="ignore"):
                g = (g.real if g.dtype.kind == "c" and dtype.kind != "c" else g).astype(dtype)
        if dtype.kind == "c":
            g = g.conj()
        return wrap(g if type(g) is np.ndarray else np.asarray(g))
    if g.shape != shape:
        g = tensors.broadcast_to(g, shape)
    if g.dtype != dtype:
        g = tensors.astype(tensors.real(g) if g.dtype.kind == "c" and dtype.kind != "c" else g, dtype)
    return conj(g)


def _check_roots(roots: Sequence[Any], cotangents: Sequence[Any], what: str) -> None:
    for t, g in zip(roots, cotangents):
        if t._node is None:
            raise GradientError(f"{what}: this Tensor does not require a gradient: nothing it was computed from has "
                                "requires_grad=True, or it was computed inside ag.no_grad()")
        if g is None:
            if t.size != 1:
                raise GradientError(f"{what} without a gradient argument works only for a scalar, this Tensor has "
                                    f"shape {t.shape}; reduce it first, for example with .sum() or .mean(), or pass "
                                    "gradient=")
        elif g.shape != t.shape:
            raise ShapeError(f"{what}: a gradient of shape {g.shape} for a Tensor of shape {t.shape}")


def backward(roots: Sequence[Any], gradients: Sequence[Any], *, retain_graph: bool = False,
             create_graph: bool = False) -> None:
    """Add the gradients of `roots` to `.grad` of all leaves below them. See `Tensor.backward`."""
    gradients = [None if g is None else _as_tensor(g) for g in gradients]
    _check_roots(roots, gradients, "backward()")
    _accumulate(walk(roots, gradients, retain=retain_graph, create_graph=create_graph), create_graph)


def backward_scalar(t: Any, retain_graph: bool) -> None:
    """`backward` of one scalar in ordinary eager mode: the common case, in few statements."""
    dtype = t._data.dtype
    one = _ones.get(dtype)
    _accumulate(tape.pullback(raw, (t._node,), (_one(dtype) if one is None else one,), retain=retain_graph), False)


def _accumulate(found: dict[Any, Any], create_graph: bool) -> None:
    """Add cotangents of leaves to their gradients."""
    plain = not config.special
    for leaf, g in found.items():
        if type(leaf) is not Leaf:
            continue
        if plain and leaf.grad is None and type(g) is _ndarray:
            dtype = g.dtype
            if dtype is leaf.dtype and (dtype is _f32 or dtype is _f64) and g.shape == leaf.shape:
                t = _new(dispatch.Tensor)  # the common case, written out
                t._data = g
                t._node = None
                leaf.grad = t
                continue
        if type(g) is np.ndarray and g.dtype is leaf.dtype and g.shape == leaf.shape and g.dtype.kind == "f":
            g = wrap(g)
        else:
            g = finish(g, leaf.shape, leaf.dtype)
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.on_grad(leaf)
        old = leaf.grad
        if old is None:
            leaf.grad = g
        elif create_graph or config.special:
            leaf.grad = old + g
        else:
            x, y = old._data, g._data
            leaf.grad = wrap(large.binary(np.add, x, y) if x.size >= large.THRESHOLD else np.asarray(x + y))


def _as_tensor(g: Any) -> Any:
    if hasattr(g, "_node"):
        return g
    if isinstance(g, int | float | complex | np.ndarray | np.generic):
        return tensors.astype(g, np.asarray(g).dtype if isinstance(g, np.ndarray | np.generic) else np.dtype("float32"))
    raise ArgumentTypeError(f"a gradient must be a Tensor, not a {type(g).__name__}")


def gradients(outputs: Any, inputs: Any, grad_outputs: Any = None, *, retain_graph: bool | None = None,
              create_graph: bool = False, allow_unused: bool = False) -> tuple[Any, ...]:
    """The gradients of `outputs` (a Tensor or several) by each of `inputs`, as `torch.autograd.grad`.

    Touches no `.grad`. Raises GradientError for an input that the outputs do not depend on, unless `allow_unused`,
    which gives None for it.
    """
    outs, ins = (list(x) if hasattr(x, "__iter__") and not hasattr(x, "_node") else [x] for x in (outputs, inputs))
    given = [None] * len(outs) if grad_outputs is None else \
        [grad_outputs] if hasattr(grad_outputs, "_node") else list(grad_outputs)
    for x in (*outs, *ins):
        if not hasattr(x, "_node"):
            raise ArgumentTypeError(f"gradients(outputs, inputs): give Tensors, not a {type(x).__name__}")
    _check_roots(outs, given, "gradients()")
    for x in ins:
        if x._node is None:
            raise GradientError("gradients(): an input does not require a gradient; call requires_grad_() on it before "
                                "the computation")
    found = walk(outs, given, retain=create_graph if retain_graph is None else retain_graph, create_graph=create_graph,
                 wanted={x._node for x in ins})
    result = []
    for i, x in enumerate(ins):
        if x._node in found:
            result.append(finish(found[x._node], x.shape, x.dtype))
        elif allow_unused:
            result.append(None)
        else:
            raise GradientError(f"gradients(): the outputs do not depend on input {i}; pass allow_unused=True to get "
                                "None")
    return tuple(result)


def register_hook(t: Any, hook: Callable[[Any], Any]) -> Callable[[], None]:
    """See `Tensor.register_hook`."""
    node = t._node
    if node is None:
        raise GradientError("a hook needs a Tensor that requires a gradient")
    shape, dtype = t.shape, t.dtype  # (not the node: it must not be kept alive by its own hook)

    def run(g: Any) -> Any:
        tensor = finish(g, shape, dtype)
        new = hook(tensor)
        if new is None:
            return None
        new = conj(_as_tensor(new))
        return new._data if isinstance(g, np.ndarray | np.generic) else new

    entries = tape.hooks.setdefault(node, [])
    entries.append(run)
    ref = weakref.ref(node)

    def remove() -> None:
        if run in entries:
            entries.remove(run)
            if not entries and ref() is not None:
                tape.hooks.pop(ref(), None)

    remove.remove = remove  # type: ignore[attr-defined]  # PyTorch's handles have it as a method
    return remove


def leaves_below(roots: Iterable[Any]) -> set[Any]:
    """All leaves that `roots` (nodes) were computed from."""
    seen: set[Any] = set()
    stack = list(roots)
    found = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node) is Leaf:
            found.add(node)
        else:
            stack.extend((node.source,) if type(node) is Pick else node.parents)
    return found
