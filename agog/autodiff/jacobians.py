"""Whole derivatives: jacobian, hessian, and products with a Hessian, from jvp, vjp and vmap."""

from __future__ import annotations

import functools
from typing import Any, Callable

from agog import tree
from agog.array import dtypes
from agog.autodiff.batching import vmap
from agog.autodiff.forward import jvp
from agog.autodiff.functional import as_input, check_function, grad, places, pulled
from agog.dispatch import tensors
from agog.errors import ArgumentError, ArgumentTypeError


def _basis(shape: tuple[int, ...], dtype: Any) -> Any:
    n = 1
    for s in shape:
        n *= s
    return tensors.reshape(tensors.eye(n, dtype=dtype), (n, *shape))


class _Arguments:
    """The arguments of a call that are differentiated by: their Tensors, and the function of these alone."""

    def __init__(self, fn: Callable[..., Any], argnums: Any, args: tuple, kwargs: dict):
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.nums, self.single = places(argnums, len(args), "jacobian"), isinstance(argnums, int)
        leaves, self.structure = tree.flatten([args[i] for i in self.nums])
        self.xs = [as_input(x, "jacobian") for x in leaves]

    def call(self, *xs: Any) -> Any:
        new = list(self.args)
        for i, value in zip(self.nums, tree.unflatten(self.structure, xs)):
            new[i] = value
        return self.fn(*new, **self.kwargs)

    def pack(self, parts: list[Any]) -> Any:
        """`parts`, one for each Tensor, in the structure of the arguments."""
        values = tree.unflatten(self.structure, parts)
        return values[0] if self.single else tuple(values)


def jacrev(fn: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """The Jacobian of `fn`, row by row (reverse mode: good for few outputs). See `jacobian`."""
    check_function(fn, "jacobian")

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = _Arguments(fn, argnums, args, kwargs)
        out, pullback, _ = pulled("jacobian", "a cotangent", given.call, tuple(given.xs))
        outputs, structure = tree.flatten(out)
        zeros = [tensors.zeros_like(y.detach()) for y in outputs]
        rows = []
        for i, y in enumerate(outputs):
            if not dtypes.is_inexact(y.dtype):
                rows.append(given.pack([tensors.zeros((*y.shape, *x.shape), dtype=x.dtype) for x in given.xs]))
                continue
            _check_complex(y, given.xs, "reverse")

            def one(u: Any, i: int = i) -> Any:
                return pullback(tree.unflatten(structure, [u if j == i else z for j, z in enumerate(zeros)]))

            full = vmap(one)(_basis(y.shape, y.dtype))
            if y.dtype.kind == "c":  # gradients point uphill: they are conjugates of derivatives
                full = [tensors.conj(f) for f in full]
            rows.append(given.pack([tensors.reshape(f, y.shape + x.shape) for f, x in zip(full, given.xs)]))
        return tree.unflatten(structure, rows)

    return wrapped


def jacfwd(fn: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """The Jacobian of `fn`, column by column (forward mode: good for few inputs). See `jacobian`."""
    check_function(fn, "jacobian")

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = _Arguments(fn, argnums, args, kwargs)
        zeros = [tensors.zeros_like(x.detach()) for x in given.xs]
        structure: Any = None
        columns = []  # for each Tensor of the arguments, the derivatives of all outputs by it
        for i, x in enumerate(given.xs):
            def one(t: Any, i: int = i, x: Any = x) -> Any:
                nonlocal structure
                y, dy = jvp(given.call, tuple(given.xs), tuple(t if j == i else z for j, z in enumerate(zeros)))
                outputs, structure = tree.flatten(y)
                for o in outputs:
                    _check_complex(o, [x], "forward")
                return tree.leaves(dy)

            columns.append([tensors.reshape(tensors.moveaxis(c, 0, -1), c.shape[1:] + x.shape)
                            for c in vmap(one)(_basis(x.shape, x.dtype))])
        if not columns:
            return tree.map(lambda y: given.pack([]), given.call())
        return tree.unflatten(structure, [given.pack(list(parts)) for parts in zip(*columns)])

    return wrapped


def _check_complex(y: Any, xs: list[Any], mode: str) -> None:
    """Refuse what has no complex-linear derivative, of which one direction would give half of the truth."""
    for x in xs:
        if y.dtype.kind == "c" and x.dtype.kind != "c" and mode == "reverse":
            raise ArgumentTypeError("jacobian: the function makes complex numbers of real ones; use mode='forward', or "
                                    "differentiate its real and imaginary part")
        if y.dtype.kind == "f" and x.dtype.kind == "c" and mode == "forward":
            raise ArgumentTypeError("jacobian: the function makes real numbers of complex ones, so that no complex "
                                    "number is its derivative; use mode='reverse', whose rows are gradients")


def jacobian(fn: Callable[..., Any], argnums: Any = 0, *, mode: str = "reverse") -> Callable[..., Any]:
    """The Jacobian of `fn`: `mode` 'reverse' (few outputs) or 'forward' (few inputs).

    argnums  which positional arguments to differentiate by: an int, or a tuple for a tuple of Jacobians; an argument
             may be a pytree of Tensors

    Each result Tensor of shape R has for each Tensor of shape S of the arguments a Jacobian of shape R + S: the result
    has fn's structure, with the structure of the arguments in place of each Tensor. By a complex argument it is the
    derivative of a holomorphic function; of real results, the rows are gradients (mode 'reverse' only).
    """
    if mode not in ("reverse", "forward"):
        raise ArgumentError(f"jacobian: mode={mode!r}; use 'reverse' or 'forward'")
    return (jacrev if mode == "reverse" else jacfwd)(fn, argnums)


def hessian(fn: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """The matrix of second derivatives of a scalar function, of shape x.shape + x.shape (forward over reverse).

    With a tuple of argnums, or an argument that is a pytree, one such matrix for each pair of Tensors, as `jacobian`.
    """
    return jacfwd(grad(fn, argnums), argnums)


def hvp(fn: Callable[..., Any], primals: tuple, tangents: tuple) -> Any:
    """The Hessian of a scalar function times a vector, without the Hessian: the derivative of the gradient.

    primals, tangents: tuples with one entry for each argument of fn. Returns one product for each argument
    (alone for a single one).
    """
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise ArgumentTypeError("hvp(fn, primals, tangents): give two tuples, one entry for each argument of fn")
    nums = tuple(range(len(primals)))
    product = jvp(grad(fn, nums), tuple(primals), tuple(tangents))[1]
    return product[0] if len(primals) == 1 else product


