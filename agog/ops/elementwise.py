"""Arithmetic, element by element: the operators and the rows that the fast templates run."""

from __future__ import annotations

from agog.ops.row import Op, elementwise

# One cast, recorded: the tape's way of giving a gradient back in the dtype that its tensor has.
astype = Op("astype(x; dtype) -> y", lambda np, x, dtype: _cast(np, x, dtype),
            vjp={"x": lambda xp, g, x_dtype: xp.astype(xp.real(g) if _drops_imag(g, x_dtype) else g, x_dtype)},
            linear_in="all", promotes=(), kind="cast", result=lambda x, dtype: dtype, doc="`x` in another dtype.",
            samples=lambda s: [((s(3, 4),), {"dtype": s.other})])


def _cast(np, x, dtype):
    if x.dtype.kind == "c" and dtype.kind != "c":
        x = x.real
    return x.astype(dtype)


def _drops_imag(g, dtype):
    return g.dtype.kind == "c" and dtype.kind != "c"


add = elementwise("add(x, y) -> z", linear_in="all", vjp={"x": lambda xp, g: g, "y": lambda xp, g: g},
                  lower=lambda k, x, y: k.add(x, y), doc="`x + y`.")
subtract = elementwise("subtract(x, y) -> z", linear_in="all", takes="ifc",
                       vjp={"x": lambda xp, g: g, "y": lambda xp, g: -g},
                       lower=lambda k, x, y: k.sub(x, y), doc="`x - y`.")
multiply = elementwise("multiply(x, y) -> z", vjp={"x": lambda xp, g, y: g * y, "y": lambda xp, g, x: g * x},
                       lower=lambda k, x, y: k.mul(x, y), doc="`x * y`.")
tanh = elementwise("tanh(x) -> y", to_float=True, takes="fc", vjp={"x": lambda xp, g, y: g - g * y * y},
                   lower=lambda k, x: k.tanh(x), doc="The hyperbolic tangent.")
real = elementwise("real(x) -> y", vjp={"x": lambda xp, g, x_dtype: xp.astype(g, x_dtype)}, result="real", takes="fc",
                   linear_in="all", doc="The real part.")
broadcast_to = Op("broadcast_to(x; shape) -> y", lambda np, x, shape: np.broadcast_to(x, shape),
                  vjp={"x": lambda xp, g, x_shape: unb(xp, g, x_shape)}, linear_in="all", promotes=(), kind="movement")
reshape = Op("reshape(x; shape) -> y", lambda np, x, shape: x.reshape(shape),
             vjp={"x": lambda xp, g, x_shape: xp.reshape(g, x_shape)}, linear_in="all", promotes=(), kind="movement")
def kd(shape, axis):
    ax = range(len(shape)) if axis is None else [a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)]
    return tuple(1 if i in ax else n for i, n in enumerate(shape))
sum = Op("sum(x; axis=None, keepdims=False) -> y", lambda np, x, axis, keepdims: np.add.reduce(x, axis, None, None, keepdims),
         vjp={"x": lambda xp, g, axis, keepdims, x_shape: g if axis is None and not keepdims else xp.reshape(g, kd(x_shape, axis))}, linear_in="all", kind="reduction")
def unb(xp, g, shape):
    from agog.tape import unbroadcast
    return unbroadcast(xp, g, shape)
matmul = Op("matmul(x, y) -> z", vjp={"x": lambda xp, g, y: xp.matmul(g, y.mT), "y": lambda xp, g, x: xp.matmul(x.mT, g)})
