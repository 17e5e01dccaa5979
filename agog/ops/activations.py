"""The nonlinearities of neural networks, element by element. Definitions and gradients at kinks are PyTorch's."""

from __future__ import annotations

import math
from typing import Any

import numpy

from agog.array import large
from agog.array.numbers import weak
from agog.errors import ArgumentError
from agog.ops.row import composite, elementwise
from agog.ops.special import _ndtr

_real: dict[str, Any] = {"to_float": True, "takes": "f", "widen": True}


# --------------------------------------------------------------------------------------------- sigmoid and its kin
def _sigmoid(np: Any, x: Any) -> Any:
    t = np.negative(x)
    if not t.shape:  # NumPy makes a number of it
        return np.reciprocal(np.exp(t) + 1)
    np.exp(t, t)
    np.add(t, weak(1, t.dtype) if type(t) is numpy.ndarray else 1, t)
    return np.reciprocal(t, t)


def _sigmoid_rule(np: Any, g: Any, y: Any) -> Any:
    slope = 1 - y
    if slope.ndim and (g.shape == slope.shape or not g.shape):
        np.multiply(slope, y, slope)
        return np.multiply(slope, g, slope)
    return g * (slope * y)


elementwise("_sigmoid_rule(g, y) -> x", _sigmoid_rule, takes="f", widen=True,
            vjp={"g": lambda xp, u, y: xp._sigmoid_rule(u, y), "y": lambda xp, u, g, y: u * (g * (1 - y * 2))},
            lower=lambda k, g, y: k.mul(g, k.mul(y, k.sub(1.0, y))), domain=(0, 1),
            doc="`g * y * (1 - y)`: the gradient of sigmoid from its result `y`. Its own derivatives are as short.")
sigmoid = elementwise("sigmoid(x) -> y", _sigmoid, **_real, vjp={"x": lambda xp, g, y: xp._sigmoid_rule(g, y)},
                      lower=lambda k, x: k.sigmoid(x), domain=(-4, 4), reference=lambda np, x: 1 / (1 + np.exp(-x)),
                      doc="`1 / (1 + exp(-x))`.")


def _log_sigmoid(np: Any, x: Any) -> Any:
    return np.minimum(x, 0) - np.log1p(np.exp(-np.absolute(x)))


log_sigmoid = elementwise("log_sigmoid(x) -> y", _log_sigmoid, **_real, vjp={"x": lambda xp, g, x: g * xp.sigmoid(-x)},
                          lower=lambda k, x: k.neg(k.softplus(k.neg(x))), domain=(-4, 4), error=16,
                          reference=lambda np, x: -np.log1p(np.exp(-x)), doc="`log(sigmoid(x))` without underflow.")


def _silu_vjp(xp: Any, g: Any, x: Any) -> Any:
    s = xp.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


silu = elementwise("silu(x) -> y", lambda np, x: x * _sigmoid(np, x), **_real, vjp={"x": _silu_vjp},
                   lower=lambda k, x: k.silu(x), domain=(-4, 4), reference=lambda np, x: x / (1 + np.exp(-x)),
                   error=16, doc="`x * sigmoid(x)`, also called swish.")


def _softplus(np: Any, x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.absolute(x)))


elementwise("_softplus(x) -> y", _softplus, **_real, vjp={"x": lambda xp, g, x: g * xp.sigmoid(x)}, domain=(-4, 4),
            lower=lambda k, x: k.softplus(x), reference=lambda np, x: np.log1p(np.exp(x)), error=16,
            doc="`log(1 + exp(x))` without overflow.")


@composite(samples=lambda s: [((s(3, 4),), {}), ((s(3, 4),), {"beta": 2.0})])
def softplus(xp, x, beta=1.0):
    """`log(1 + exp(beta * x)) / beta`, a smooth relu. Exact for all `x`: it needs no threshold."""
    return xp._softplus(x) if beta == 1 else xp._softplus(x * beta) / beta


def _mish(np: Any, x: Any) -> Any:
    return x * np.tanh(_softplus(np, x))


def _mish_vjp(xp: Any, g: Any, x: Any) -> Any:
    t = xp.tanh(xp._softplus(x))
    return g * (t + x * xp.sigmoid(x) * (1 - t * t))


mish = elementwise("mish(x) -> y", _mish, **_real, vjp={"x": _mish_vjp}, domain=(-4, 4), error=16,
                   lower=lambda k, x: k.mul(x, k.tanh(k.softplus(x))), doc="`x * tanh(softplus(x))`.")


@composite(samples=lambda s: [((s(3, 4),), {}), ((s(4, 3),), {"axis": 0})])
def glu(xp, x, axis=-1):
    """The gated linear unit: the first half of `x` along `axis` times the sigmoid of the second."""
    n = x.shape[axis]
    if n % 2:
        raise ArgumentError(f"glu: axis={axis} of shape {tuple(x.shape)} has the odd size {n}; it must split in two")
    before = (slice(None),) * (axis % len(x.shape))
    return x[(*before, slice(None, n // 2))] * xp.sigmoid(x[(*before, slice(n // 2, None))])


# ------------------------------------------------------------------------------------------------------------- gelu
_SQRT_HALF, _INV_SQRT_2PI = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)
_A, _B = math.sqrt(2 / math.pi), 0.044715


def _gelu(np: Any, x: Any) -> Any:
    return x * _ndtr(np, x)


def _gelu_vjp(xp: Any, g: Any, x: Any) -> Any:
    return g * (xp.ndtr(x) + x * xp.exp(x * x * -0.5) * _INV_SQRT_2PI)


def _gelu_tanh(np: Any, x: Any) -> Any:
    return x * 0.5 * (1 + np.tanh(x * (1 + x * x * _B) * _A))


def _gelu_tanh_vjp(xp: Any, g: Any, x: Any) -> Any:
    w = x * x
    t = xp.tanh(x * (1 + w * _B) * _A)
    return g * ((1 + t) * 0.5 + x * (1 - t * t) * (1 + w * (3 * _B)) * (_A / 2))


def _gelu_tanh_lower(k: Any, x: Any) -> Any:
    # (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)): an exponential less, and no cancellation where tanh(u) is near -1
    slope = -2 * _A / math.log(2)
    power = k.exp2(k.mul(x, k.fma(k.mul(x, x), slope * _B, slope)))
    return k.div(x, k.add(power, 1.0))


elementwise("_gelu(x) -> y", _gelu, **_real, vjp={"x": _gelu_vjp}, domain=(-3, 3), error=16,
            lower=lambda k, x: k.where(k.eq(x, -math.inf), math.nan, k.gelu(x)),  # (as everywhere: -inf * 0)
            doc="`x` times the normal distribution function.")
elementwise("_gelu_tanh(x) -> y", _gelu_tanh, **_real, vjp={"x": _gelu_tanh_vjp}, domain=(-3, 3), error=32,
            lower=_gelu_tanh_lower,
            doc="The approximation of gelu with tanh.")


@composite(samples=lambda s: [((s(3, 4),), {}), ((s(3, 4),), {"approximate": "tanh"})])
def gelu(xp, x, approximate="none"):
    """`x` times the distribution function of the normal distribution; approximated with tanh if asked for."""
    if approximate == "none":
        return xp._gelu(x)
    if approximate == "tanh":
        return xp._gelu_tanh(x)
    raise ArgumentError(f"gelu: approximate={approximate!r} must be 'none' or 'tanh'")


# -------------------------------------------------------------------------------------------------- piecewise linear
def _natively(name: str, compute: Any) -> Any:
    """`compute(np, x, *numbers)`, by the native kernel of the row where there is one that takes them."""
    def impl(np: Any, x: Any, *numbers: Any) -> Any:
        if np is numpy and type(x) is numpy.ndarray and x.size >= large.MIDDLE:
            done = large.native(name, 32 * x.size, x, *numbers)
            if done is not None:
                return done
        return compute(np, x, *numbers)

    impl.mixed = True  # type: ignore[attr-defined]
    return impl


_ZEROS = {numpy.dtype(d): numpy.zeros((), d) for d in ("float32", "float64")}  # NumPy takes a number of Python's longer


def _relu(np: Any, x: Any) -> Any:
    return np.maximum(x, _ZEROS.get(x.dtype, 0) if np is numpy else 0)


relu = elementwise("relu(x) -> y", _relu, takes="if", lower=lambda k, x: k.max(x, 0),
                   vjp={"x": lambda xp, g, y: xp._gate(y > 0, g)}, domain=(0.3, 3),
                   doc="`max(x, 0)`; its gradient at 0 is 0.")
relu6 = elementwise("relu6(x) -> y", lambda np, x: np.minimum(np.maximum(x, 0), 6), takes="if",
                    vjp={"x": lambda xp, g, y: xp._gate((y > 0) & (y < 6), g)},
                    lower=lambda k, x: k.min(k.max(x, 0), 6),
                    domain=(0.3, 5), doc="`min(max(x, 0), 6)`; its gradient at 0 and 6 is 0.")
leaky_relu = elementwise("leaky_relu(x, negative_slope=0.01) -> y",
                         _natively("leaky_relu", lambda np, x, a: np.where(x > 0, x, x * a)), **_real,
                         vjp={"x": lambda xp, g, x, negative_slope: xp.where(x > 0, g, g * negative_slope),
                              "negative_slope": lambda xp, g, x: xp.where(x > 0, 0, g * x)},
                         lower=lambda k, x, a: k.where(k.gt(x, 0), x, k.mul(x, a)), domain=(0.3, 3),
                         doc="`x` where it is positive, else `negative_slope * x`; the slope may be a Tensor.")


@composite(samples=lambda s: [((s(2, 3, 4), s(3)), {}), ((s(2, 3), s(1)), {})])
def prelu(xp, x, weight):
    """`leaky_relu` with a slope that is learnt: one, or one for each channel (axis 1 of `x`)."""
    if len(weight.shape) > 1 or len(weight.shape) == 1 and weight.shape[0] != 1 and (
            len(x.shape) < 2 or weight.shape[0] != x.shape[1]):
        raise ArgumentError(f"prelu: weight of shape {tuple(weight.shape)} for x of shape {tuple(x.shape)}; "
                            "give one number, or one for each channel (axis 1)")
    if len(weight.shape) == 1 and len(x.shape) > 2:
        weight = xp.reshape(weight, (-1,) + (1,) * (len(x.shape) - 2))
    return xp.leaky_relu(x, weight)


hardtanh = elementwise(
    "hardtanh(x, min_val=-1.0, max_val=1.0) -> y",
    _natively("hardtanh", lambda np, x, low, high: np.minimum(np.maximum(x, low), high)), **_real,
    vjp={"x": lambda xp, g, x, min_val, max_val: xp.where((x > min_val) & (x < max_val), g, 0)},
    lower=lambda k, x, low, high: k.min(k.max(x, low), high),
    samples=lambda s: [((s(3, 4, lo=-0.9, hi=0.9), -1.0, 1.0), {}), ((s(3, 4, lo=0.3, hi=3), 0.1, 4.0), {})],
    doc="`x` brought into `[min_val, max_val]`; its gradient at the bounds is 0. Differentiable in `x` only.")
hard_sigmoid = elementwise("hard_sigmoid(x) -> y", lambda np, x: np.minimum(np.maximum(x + 3, 0), 6) / 6, **_real,
                           vjp={"x": lambda xp, g, x: xp.where((x > -3) & (x < 3), g / 6, 0)}, domain=(-2.5, 2.5),
                           lower=lambda k, x: k.div(k.min(k.max(k.add(x, 3), 0), 6), 6), doc="`relu6(x + 3) / 6`.")
hard_swish = elementwise("hard_swish(x) -> y", lambda np, x: x * (np.minimum(np.maximum(x + 3, 0), 6) / 6), **_real,
                         vjp={"x": lambda xp, g, x: g * xp.where(x <= -3, 0, xp.where(x >= 3, 1, x / 3 + 0.5))},
                         domain=(-2.5, 2.5), lower=lambda k, x: k.mul(x, k.div(k.min(k.max(k.add(x, 3), 0), 6), 6)),
                         doc="`x * hard_sigmoid(x)`.")
hardshrink = elementwise("hardshrink(x, lambd=0.5) -> y",
                         _natively("hardshrink",
                                   lambda np, x, a: np.where((x >= -a) & (x <= a), np.zeros_like(x), x)),
                         lower=lambda k, x, a: k.where(k.le(k.abs(x), a), 0, x), **_real,
                         vjp={"x": lambda xp, g, x, lambd: xp.where((x >= -lambd) & (x <= lambd), 0, g)},
                         samples=lambda s: [((s(3, 4, lo=0.6, hi=3), 0.5), {}), ((s(3, 4, lo=-0.4, hi=0.4), 0.5), {})],
                         doc="`x`, but 0 within `[-lambd, lambd]`.")
softshrink = elementwise("softshrink(x, lambd=0.5) -> y",
                         _natively("softshrink", lambda np, x, a: x - np.minimum(np.maximum(x, -a), a)), **_real,
                         lower=lambda k, x, a: k.sub(x, k.min(k.max(x, k.neg(a)), a)),
                         vjp={"x": lambda xp, g, x, lambd: xp.where((x >= -lambd) & (x <= lambd), 0, g)},
                         samples=lambda s: [((s(3, 4, lo=0.6, hi=3), 0.5), {}), ((s(3, 4, lo=-0.4, hi=0.4), 0.5), {})],
                         doc="`x` moved towards 0 by `lambd`, and 0 within `[-lambd, lambd]`.")


@composite(samples=lambda s: [((s(3, 4),), {})])
def tanhshrink(xp, x):
    """`x - tanh(x)`."""
    return x - xp.tanh(x)


# ----------------------------------------------------------------------------------------------- exponential linear
def _elu(np: Any, x: Any, alpha: Any) -> Any:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * alpha)


def _below(xp: Any, x: Any) -> Any:
    """`x` where it is negative, else 0; its gradient at 0 is 0."""
    return xp.where(x < 0, x, 0)


elu = elementwise("elu(x, alpha=1.0) -> y", _natively("elu", _elu), **_real,
                  lower=lambda k, x, a: k.where(k.gt(x, 0), x, k.mul(k.expm1(x), a)),
                  vjp={"x": lambda xp, g, x, alpha: xp.where(x > 0, g, g * alpha * xp.exp(_below(xp, x))),
                       "alpha": lambda xp, g, x: g * xp.expm1(_below(xp, x))}, domain=((-3, 3), (0.5, 2)), error=8,
                  doc="`x` where it is positive, else `alpha * (exp(x) - 1)`.")


@composite(samples=lambda s: [((s(3, 4),), {}), ((s(3, 4),), {"alpha": 0.5})])
def celu(xp, x, alpha=1.0):
    """`max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))`: elu with a continuous slope."""
    return xp.elu(x) if alpha == 1 else xp.elu(x / alpha) * alpha


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def _selu(np: Any, x: Any) -> Any:
    return np.where(x > 0, x * _SELU_SCALE, np.expm1(np.minimum(x, 0)) * (_SELU_SCALE * _SELU_ALPHA))


selu = elementwise("selu(x) -> y", _selu, **_real, domain=(-3, 3), error=8,
                   vjp={"x": lambda xp, g, x: g * xp.where(x > 0, _SELU_SCALE,
                                                           xp.exp(_below(xp, x)) * (_SELU_SCALE * _SELU_ALPHA))},
                   lower=lambda k, x: k.mul(k.where(k.gt(x, 0), x, k.mul(k.expm1(x), _SELU_ALPHA)), _SELU_SCALE),
                   doc="The self-normalising exponential linear unit (Klambauer et al., 2017).")
softsign = elementwise("softsign(x) -> y", lambda np, x: x / (1 + np.absolute(x)), **_real, domain=(0.3, 3),
                       vjp={"x": lambda xp, g, x: g / xp.square(1 + xp.abs(x))},
                       lower=lambda k, x: k.div(x, k.add(k.abs(x), 1)), doc="`x / (1 + abs(x))`.")


@composite(samples=lambda s: [((s(3, 4),), {"threshold": 0.3, "value": -1.5})])
def threshold(xp, x, threshold, value):
    """x where it is above `threshold`, else `value`; the derivative at the threshold is 0."""
    return xp.where(x <= threshold, value, x)
