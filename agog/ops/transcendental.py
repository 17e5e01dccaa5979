"""Roots, exponentials, logarithms, trigonometric and hyperbolic functions, element by element.

Integers and bools become the default float. Gradients are written through the result where that is possible, so
that the input need not be kept.
"""

from __future__ import annotations

import math
from typing import Any

from agog.array import large
from agog.ops.row import elementwise

_LN2, _LN10 = math.log(2), math.log(10)
_float: dict[str, Any] = {"to_float": True, "takes": "fc"}
_real: dict[str, Any] = {"to_float": True, "takes": "f"}

# ----------------------------------------------------------------------------------------------------------- roots
sqrt = elementwise("sqrt(x) -> y", **_float, vjp={"x": lambda xp, g, y: g / (y * 2)}, lower=lambda k, x: k.sqrt(x),
                   domain=(0.3, 3), doc="The square root; nan for negative real `x`. Its gradient at 0 is inf.")
rsqrt = elementwise("rsqrt(x) -> y", lambda np, x: 1 / np.sqrt(x), **_float, widen=True,
                    vjp={"x": lambda xp, g, y: g * (y * y * y) / -2}, lower=lambda k, x: k.rsqrt(x), domain=(0.3, 3),
                    reference=lambda np, x: 1 / np.sqrt(x), doc="`1 / sqrt(x)`.")
cbrt = elementwise("cbrt(x) -> y", **_real, vjp={"x": lambda xp, g, y: g / (y * y * 3)}, domain=(0.3, 3),
                   lower=lambda k, x: k.copysign(k.pow(k.abs(x), 1 / 3), x),
                   doc="The real cube root, also of negative `x`.")


def _hypot_vjp(xp: Any, g: Any, a: Any, z: Any) -> Any:
    return xp.where(z == 0, 0, g * a / xp.where(z == 0, 1, z))


hypot = elementwise("hypot(x, y) -> z", **_real, slow=large.SLOW, vjp={"x": lambda xp, g, x, z: _hypot_vjp(xp, g, x, z),
                    "y": lambda xp, g, y, z: _hypot_vjp(xp, g, y, z)}, lower=lambda k, x, y: k.hypot(x, y),
                    domain=(0.3, 3), doc="`sqrt(x*x + y*y)` without overflow; its gradient at the origin is 0.")

# ----------------------------------------------------------------------------------- exponentials and logarithms
exp = elementwise("exp(x) -> y", **_float, vjp={"x": lambda xp, g, y: g * y}, lower=lambda k, x: k.exp(x),
                  domain=(-3, 3), doc="The exponential function.")
exp2 = elementwise("exp2(x) -> y", **_float, vjp={"x": lambda xp, g, y: g * y * _LN2}, lower=lambda k, x: k.exp2(x),
                   domain=(-3, 3), doc="`2 ** x`.")


def _expm1(np: Any, x: Any) -> Any:
    """The standard says what infinities and nan give; for complex numbers NumPy has it in exp, but not in expm1."""
    if x.dtype.kind != "c":
        return np.expm1(x) if x.size < large.THRESHOLD else large.unary(np.expm1, x)
    y = np.asarray(np.expm1(x))
    finite = np.isfinite(x)
    if not finite.all():
        y = np.where(finite, y, np.exp(x) - 1)
    y.real += 0  # of -0 too the result is 0
    return y


_expm1.ufunc = "expm1"  # type: ignore[attr-defined]


expm1 = elementwise("expm1(x) -> y", _expm1, **_float, vjp={"x": lambda xp, g, y: g * y + g},
                    lower=lambda k, x: k.expm1(x), domain=(-2, 2), doc="`exp(x) - 1`, accurate near 0.")
log = elementwise("log(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / x}, lower=lambda k, x: k.log(x),
                  domain=(0.3, 3), doc="The natural logarithm; -inf at 0, nan for negative real `x`.")
log1p = elementwise("log1p(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / (x + 1)}, lower=lambda k, x: k.log1p(x),
                    domain=(-0.6, 2), doc="`log(1 + x)`, accurate near 0.")
log2 = elementwise("log2(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / (x * _LN2)}, lower=lambda k, x: k.log2(x),
                   domain=(0.3, 3), doc="The logarithm to base 2.")
log10 = elementwise("log10(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / (x * _LN10)},
                    lower=lambda k, x: k.log10(x), domain=(0.3, 3), doc="The logarithm to base 10.")


def _share(xp: Any, a: Any, b: Any, z: Any, unit: float) -> Any:
    """The part that `a` has in z, `1 / (1 + exp(b - a))`; where z is infinite, 1 if `a` made it so, else 0."""
    infinite = xp.isinf(z)
    return xp.where(infinite & (a == z) & (z > 0), 1, xp.where(infinite, 0, xp.sigmoid(xp.where(
        infinite, 0, a - b) * unit)))


logaddexp = elementwise("logaddexp(x, y) -> z", **_real, slow=large.SLOW, vjp={
    "x": lambda xp, g, x, y, z: g * _share(xp, x, y, z, 1), "y": lambda xp, g, x, y, z: g * _share(xp, y, x, z, 1)},
    domain=(-3, 3), error=8, lower=lambda k, x, y: k.logaddexp(x, y), doc="`log(exp(x) + exp(y))` without overflow.")
logaddexp2 = elementwise("logaddexp2(x, y) -> z", **_real, vjp={
    "x": lambda xp, g, x, y, z: g * _share(xp, x, y, z, _LN2), "y": lambda xp, g, x, y, z: g * _share(
        xp, y, x, z, _LN2)}, domain=(-3, 3), error=8, doc="`log2(2**x + 2**y)` without overflow.")

# ---------------------------------------------------------------------------------------------------- trigonometry
sin = elementwise("sin(x) -> y", **_float, vjp={"x": lambda xp, g, x: g * xp.cos(x)}, lower=lambda k, x: k.sin(x),
                  domain=(-3, 3), doc="The sine of `x` radians.")
cos = elementwise("cos(x) -> y", **_float, vjp={"x": lambda xp, g, x: -g * xp.sin(x)}, lower=lambda k, x: k.cos(x),
                  domain=(-3, 3), doc="The cosine of `x` radians.")
tan = elementwise("tan(x) -> y", **_float, vjp={"x": lambda xp, g, y: g * y * y + g}, lower=lambda k, x: k.tan(x),
                  domain=(-1.2, 1.2), doc="The tangent of `x` radians.")
asin = elementwise("asin(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / xp.sqrt((1 - x) * (1 + x))},
                   lower=lambda k, x: k.asin(x), domain=(-0.8, 0.8),
                   doc="The inverse sine, in radians; nan outside [-1, 1].")
acos = elementwise("acos(x) -> y", **_float, vjp={"x": lambda xp, g, x: -g / xp.sqrt((1 - x) * (1 + x))},
                   lower=lambda k, x: k.acos(x), domain=(-0.8, 0.8),
                   doc="The inverse cosine, in radians; nan outside [-1, 1].")
atan = elementwise("atan(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / (x * x + 1)}, lower=lambda k, x: k.atan(x),
                   domain=(-0.8, 0.8), doc="The inverse tangent, in radians.")


def _atan2_vjp(xp: Any, g: Any, x: Any, y: Any, a: Any) -> Any:
    size = x * x + y * y
    return xp.where(size == 0, 0, g * a / xp.where(size == 0, 1, size))


atan2 = elementwise("atan2(x, y) -> z", **_real, vjp={"x": lambda xp, g, x, y: _atan2_vjp(xp, g, x, y, y),
                    "y": lambda xp, g, x, y: _atan2_vjp(xp, g, x, y, -x)}, lower=lambda k, x, y: k.atan2(x, y),
                    domain=(0.3, 3), doc="The angle of the point with abscissa `y` and ordinate `x`, in radians: "
                                         "`atan(x / y)` in the right quadrant. Its gradient at the origin is 0.")

# --------------------------------------------------------------------------------------------- hyperbolic functions
sinh = elementwise("sinh(x) -> y", **_float, vjp={"x": lambda xp, g, x: g * xp.cosh(x)}, lower=lambda k, x: k.sinh(x),
                   domain=(-2, 2), doc="The hyperbolic sine.")
cosh = elementwise("cosh(x) -> y", **_float, vjp={"x": lambda xp, g, x: g * xp.sinh(x)}, lower=lambda k, x: k.cosh(x),
                   domain=(-2, 2), doc="The hyperbolic cosine.")


def _tanh(np: Any, x: Any) -> Any:
    """In C99 and NumPy the zero in tanh(inf + bj) has the sign of sin(2b); the standard gives it that of b."""
    if x.dtype.kind != "c":
        return np.tanh(x) if x.size < large.THRESHOLD else large.unary(np.tanh, x)
    y = np.asarray(np.tanh(x))
    far = np.isinf(x.real) & np.isfinite(x.imag)
    if far.any():
        y.imag = np.where(far, np.copysign(0, x.imag), y.imag)
    return y


_tanh.ufunc = "tanh"  # type: ignore[attr-defined]


def _tanh_rule(np: Any, g: Any, y: Any) -> Any:
    slope = y * y
    if slope.ndim and (g.shape == slope.shape or not g.shape):
        np.subtract(1, slope, slope)
        return np.multiply(slope, g, slope)
    return g * (1 - slope)


elementwise("_tanh_rule(g, y) -> x", _tanh_rule, takes="fc", widen=True,
            vjp={"g": lambda xp, u, y: xp._tanh_rule(u, y), "y": lambda xp, u, g, y: u * (g * y * -2)},
            lower=lambda k, g, y: k.mul(g, k.sub(1.0, k.mul(y, y))), domain=(-1, 1),
            doc="`g * (1 - y * y)`: the gradient of tanh from its result `y`. Its own derivatives are as short.")
tanh = elementwise("tanh(x) -> y", _tanh, **_float, vjp={"x": lambda xp, g, y: xp._tanh_rule(g, y)},
                   lower=lambda k, x: k.tanh(x), domain=(-1.2, 1.2), doc="The hyperbolic tangent.")
asinh = elementwise("asinh(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / xp.sqrt(x * x + 1)},
                    lower=lambda k, x: k.asinh(x), domain=(-0.8, 0.8), doc="The inverse hyperbolic sine.")
acosh = elementwise("acosh(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / (xp.sqrt(x - 1) * xp.sqrt(x + 1))},
                    lower=lambda k, x: k.acosh(x), domain=(1.3, 4), doc="The inverse hyperbolic cosine; nan below 1.")
atanh = elementwise("atanh(x) -> y", **_float, vjp={"x": lambda xp, g, x: g / ((1 - x) * (1 + x))},
                    lower=lambda k, x: k.atanh(x), domain=(-0.8, 0.8),
                    doc="The inverse hyperbolic tangent; nan outside [-1, 1].")

# ---------------------------------------------------------------------------------------------------------- angles
deg2rad = elementwise("deg2rad(x) -> y", **_real, linear_in="all", vjp={"x": lambda xp, g: g * (math.pi / 180)},
                      lower=lambda k, x: k.mul(x, math.pi / 180), domain=(-90, 90), doc="Degrees in radians.")
rad2deg = elementwise("rad2deg(x) -> y", **_real, linear_in="all", vjp={"x": lambda xp, g: g * (180 / math.pi)},
                      lower=lambda k, x: k.mul(x, 180 / math.pi), domain=(-3, 3), doc="Radians in degrees.")
