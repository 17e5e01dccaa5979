"""Whole derivatives: jacobian, hessian, and products with a Hessian, from jvp, vjp and vmap."""

from __future__ import annotations

import functools
from typing import Any, Callable

from agog import tree
from agog.autodiff.batching import vmap
from agog.autodiff.forward import jvp
from agog.autodiff.functional import as_input, check_function, grad, vjp
from agog.dispatch import tensors
from agog.errors import ArgumentError, ArgumentTypeError


def _basis(shape: tuple[int, ...], dtype: Any) -> Any:
    n = 1
    for s in shape:
        n *= s
    return tensors.reshape(tensors.eye(n, dtype=dtype), (n, *shape))


def _at(fn: Callable[..., Any], argnum: int, args: tuple, kwargs: dict) -> tuple[Callable[[Any], Any], Any]:
    if not isinstance(argnum, int) or not -len(args) <= argnum < len(args):
        raise ArgumentError(f"argnums={argnum!r}, but the function was called with {len(args)} positional arguments")
    x = as_input(args[argnum], "jacobian")

    def only(v: Any) -> Any:
        new = list(args)
        new[argnum] = v
        return fn(*new, **kwargs)

    return only, x


def jacrev(fn: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The Jacobian of `fn` by one Tensor argument, row by row (reverse mode: good for few outputs).

    Each result Tensor of shape R gives a Jacobian of shape R + the argument's shape.
    """
    check_function(fn, "jacobian")

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        only, x = _at(fn, argnums, args, kwargs)
        out, pullback = vjp(only, x)
        outputs, structure = tree.flatten(out)
        zeros = [tensors.zeros_like(y.detach()) for y in outputs]
        rows = []
        for i, y in enumerate(outputs):
            def one(u: Any, i: int = i) -> Any:
                return pullback(tree.unflatten(structure, [u if j == i else z for j, z in enumerate(zeros)]))[0]

            full = vmap(one)(_basis(y.shape, y.dtype))
            rows.append(tensors.reshape(full, y.shape + x.shape))
        return tree.unflatten(structure, rows)

    return wrapped


def jacfwd(fn: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The Jacobian of `fn` by one Tensor argument, column by column (forward mode: good for few inputs)."""
    check_function(fn, "jacobian")

    @functools.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        only, x = _at(fn, argnums, args, kwargs)
        columns = vmap(lambda t: jvp(only, (x,), (t,))[1])(_basis(x.shape, x.dtype))
        return tree.map(lambda c: tensors.reshape(tensors.moveaxis(c, 0, -1), c.shape[1:] + x.shape), columns)

    return wrapped


def jacobian(fn: Callable[..., Any], argnums: int = 0, *, mode: str = "reverse") -> Callable[..., Any]:
    """The Jacobian of `fn`: `mode` 'reverse' (few outputs) or 'forward' (few inputs)."""
    if mode not in ("reverse", "forward"):
        raise ArgumentError(f"jacobian: mode={mode!r}; use 'reverse' or 'forward'")
    return (jacrev if mode == "reverse" else jacfwd)(fn, argnums)


def hessian(fn: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The matrix of second derivatives of a scalar function, of shape x.shape + x.shape (forward over reverse)."""
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


