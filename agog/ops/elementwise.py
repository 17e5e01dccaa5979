"""Arithmetic, comparison, logic, rounding and selection, element by element, and the cast.

Gradients at kinks follow PyTorch: abs'(0) = 0, the gradient of maximum is halved at ties, clip passes it at its
bounds, and functions that are constant almost everywhere have the gradient zero.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from agog.array import dtypes, large
from agog.array.numbers import weak
from agog.errors import ArgumentError
from agog.ops.row import Op, elementwise


def _none(xp: Any, g: Any) -> Any:
    """The gradient of a function that is constant almost everywhere."""
    return xp.zeros(g.shape, dtype=g.dtype)


# ----------------------------------------------------------------------------------------------------- the cast
def _check_astype(x: Any, dtype: Any) -> tuple:
    return (dtypes.dtype(dtype),)


def _astype(np: Any, x: Any, dtype: Any) -> Any:
    return large.astype(x.real if x.dtype.kind == "c" and dtype.kind not in "cb" else x, dtype)


def _astype_vjp(xp: Any, g: Any, x_dtype: Any) -> Any:
    if not dtypes.is_inexact(x_dtype):
        return None
    return xp.astype(xp.real(g) if g.dtype.kind == "c" and x_dtype.kind != "c" else g, x_dtype)


def _targets(dtype: Any) -> tuple:
    """dtypes to test casts to: differences see no rounding to a narrower one."""
    lossless = ("float64", "complex128", "int32", "bool")
    return lossless if dtype in ("float64", "complex128") else (*lossless, "float32", "float16")


astype = Op("astype(x; dtype) -> y", _astype, vjp={"x": _astype_vjp}, linear_in="all", promotes=(), kind="cast",
            check=_check_astype, result=lambda x, dtype: dtype, batch=lambda xp, batched, inputs, statics:
            xp.astype(*inputs, *statics),
            samples=lambda s: [((s(3, 4),), {"dtype": numpy.dtype(d)}) for d in _targets(s.dtype)],
            doc="`x` in another dtype. Floats lose their fraction when cast to integers, complex numbers their "
                "imaginary part when cast to real ones.")


# --------------------------------------------------------------------------------------------------- arithmetic
add = elementwise("add(x, y) -> z", linear_in="all", vjp={"x": lambda xp, g: g, "y": lambda xp, g: g},
                  lower=lambda k, x, y: k.add(x, y), domain=(-3, 3), doc="`x + y`.")
subtract = elementwise("subtract(x, y) -> z", linear_in="all", takes="ifc",
                       vjp={"x": lambda xp, g: g, "y": lambda xp, g: -g},
                       lower=lambda k, x, y: k.sub(x, y), domain=(-3, 3), doc="`x - y`.")
multiply = elementwise("multiply(x, y) -> z", vjp={"x": lambda xp, g, y: g * y, "y": lambda xp, g, x: g * x},
                       lower=lambda k, x, y: k.mul(x, y), domain=(-3, 3), doc="`x * y`.")
divide = elementwise("divide(x, y) -> z", to_float=True, takes="fc",
                     vjp={"x": lambda xp, g, y: g / y, "y": lambda xp, g, y, z: -g * z / y},
                     lower=lambda k, x, y: k.div(x, y), domain=((-3, 3), (0.5, 3)),
                     doc="`x / y`. Integers are divided as floats; division by zero gives inf or nan.")
negative = elementwise("negative(x) -> y", takes="ifc", linear_in="all", vjp={"x": lambda xp, g: -g},
                       lower=lambda k, x: k.neg(x), domain=(-3, 3), doc="`-x`.")
positive = elementwise("positive(x) -> y", lambda np, x: x.copy() if x.dtype.kind == "b" else np.positive(x),
                       linear_in="all", vjp={"x": lambda xp, g: g},
                       lower=lambda k, x: x, domain=(-3, 3), doc="`+x`, a copy of `x`; of bools too.")
reciprocal = elementwise("reciprocal(x) -> y", lambda np, x: 1 / x, to_float=True, takes="fc",
                         vjp={"x": lambda xp, g, y: -g * y * y}, lower=lambda k, x: k.reciprocal(x),
                         domain=(0.5, 3), doc="`1 / x`.")
square = elementwise("square(x) -> y", takes="ifc", vjp={"x": lambda xp, g, x: g * (x + x)},
                     lower=lambda k, x: k.mul(x, x), domain=(-3, 3), doc="`x * x`.")


def _abs_vjp(xp: Any, g: Any, x: Any) -> Any:
    direction = xp.sign(x)
    return g * (xp.conj(direction) if x.dtype.kind == "c" else direction)


abs = elementwise("abs(x) -> y", vjp={"x": _abs_vjp}, result="real", lower=lambda k, x: k.abs(x), domain=(0.3, 3),
                  doc="The absolute value; of complex `x` the modulus, which is real. The lowest integer stays itself.")


def _sign_vjp(xp: Any, g: Any, x: Any, y: Any) -> Any:
    if x.dtype.kind != "c":
        return xp.zeros(g.shape, dtype=g.dtype)
    size = xp.abs(x)
    return xp.where(size == 0, 0, (g - xp.real(g * y) * xp.conj(y)) / xp.where(size == 0, 1, size))


def _sign_jvp(xp: Any, t: Any, x: Any, y: Any) -> Any:
    if x.dtype.kind != "c":
        return xp.zeros(t.shape, dtype=t.dtype)
    size = xp.abs(x)
    return xp.where(size == 0, 0, (t - xp.real(xp.conj(y) * t) * y) / xp.where(size == 0, 1, size))


sign = elementwise("sign(x) -> y", takes="ifc", vjp={"x": _sign_vjp}, jvp={"x": _sign_jvp},
                   lower=lambda k, x: k.sign(x), domain=(0.3, 3),
                   doc="-1, 0 or 1 by the sign of `x`; of complex `x`, `x / abs(x)`, and 0 at 0.")

floor_divide = elementwise("floor_divide(x, y) -> z", takes="if", slow=large.MIDDLE, vjp={"x": _none, "y": _none},
                           lower=lambda k, x, y: k.floor_divide(x, y), domain=((-5, 5), (0.7, 4)), smooth=False,
                           doc="`floor(x / y)` in the operands' dtype. Integers divided by zero give 0.")
remainder = elementwise("remainder(x, y) -> z", takes="if", slow=large.MIDDLE,
                        vjp={"x": lambda xp, g: g, "y": lambda xp, g, x, y: -g * xp.floor_divide(x, y)},
                        lower=lambda k, x, y: k.remainder(x, y), domain=((0.1, 0.8), (0.9, 2)),
                        doc="`x - floor_divide(x, y) * y`: it has the sign of `y`. Integers modulo zero give 0.")


def _fmod_lower(k: Any, x: Any, y: Any) -> Any:
    if x.dtype.startswith("float"):
        return k.fmod(x, y)
    r = k.remainder(x, y)
    return k.where(k.logical_and(k.ne(r, 0), k.ne(k.lt(x, 0), k.lt(y, 0))), k.sub(r, y), r)


fmod = elementwise("fmod(x, y) -> z", takes="if", slow=large.MIDDLE,
                   vjp={"x": lambda xp, g: g, "y": lambda xp, g, x, y: -g * xp.trunc(xp.divide(x, y))},
                   lower=_fmod_lower, domain=((0.1, 0.8), (0.9, 2)),
                   doc="The remainder of `x / y` that has the sign of `x`, as in C.")


def _pow_vjp_x(xp: Any, g: Any, x: Any, y: Any) -> Any:
    if isinstance(y, int | float):  # a number of the program, never a value
        return xp.zeros(x.shape, dtype=x.dtype) if y == 0 else g * 2 * x if y == 2 else g * y * x ** (y - 1)
    base = xp.where((y == 0) & xp.logical_not(xp.isfinite(1 / x)), 1, x)  # d(x**0)/dx is 0 also where x is 0 or nan
    return g * (y * base ** (y - 1))


def _pow_vjp_y(xp: Any, g: Any, x: Any, y: Any, z: Any) -> Any:
    if isinstance(x, int | float):
        if x == 0 and y.dtype.kind != "c":  # 0**y is constant, and infinite to the left of 0
            return g * xp.where(y < 0, -z, xp.zeros(z.shape, dtype=z.dtype))
        return g * z * (math.log(x) if x > 0 else 0.0 if x == 0 else math.nan)
    zero = x == 0 if y.dtype.kind == "c" else (x == 0) & (y >= 0)
    return g * z * xp.log(xp.where(zero, 1, x))  # 0**y is constant


def _check_pow(x: Any, y: Any) -> tuple:
    if dtypes.kind(x.dtype) == "i" and isinstance(y, numpy.ndarray) and (y < 0).any():
        raise ArgumentError(f"pow: {x.dtype} to a negative power is not an integer; write x.astype('float32') ** y, "
                            "or x ** float(y) for a number y")
    return ()


PRODUCTS = (2, 3, 4)
"""Powers that are one or two products: with an error of 1.5 units in the last place at most."""


def power_by_products(multiply: Any, x: Any, n: float) -> Any:
    """x to a power among `PRODUCTS`."""
    square = multiply(x, x)
    return square if n == 2 else multiply(square, x if n == 3 else square)


def _products(n: int) -> Op:
    def impl(np: Any, x: Any) -> Any:
        y = np.square(x)
        if np is not numpy or not y.shape:
            return y * (x if n == 3 else y)
        return np.multiply(y, x if n == 3 else y, y)

    return elementwise(f"_power{n}(x) -> y", impl, takes="ifc", widen=True,
                       vjp={"x": lambda xp, g, x: g * n * x ** (n - 1)},
                       lower=lambda k, x: power_by_products(k.mul, x, n), domain=(-2, 2), doc=f"`x ** {n}`.")


_cube, _fourth = _products(3), _products(4)
_FEW = 16  # elements up to which nothing is quicker than one call


def _power(ufunc: Any, x: Any, y: Any) -> Any:
    """x ** y. NumPy takes 60 ns for the power of a negative number, and as long for a cube as for any other power."""
    if type(x) is not numpy.ndarray or type(y) is not int and type(y) is not float or x.dtype.char not in "fd":
        return large.binary(ufunc, x, y) if getattr(x, "size", 0) >= large.THRESHOLD else ufunc(x, y)
    if y == 2:
        return numpy.square(x) if x.size < large.THRESHOLD else large.unary(numpy.square, x)
    if x.size <= _FEW:
        return ufunc(x, weak(y, x.dtype))
    if y in PRODUCTS:
        if x.size >= large.PULL_FROM:
            return large.several(_cube.raw if y == 3 else _fourth.raw, x)
        z = numpy.multiply(x, x)
        return numpy.multiply(z, x if y == 3 else z, z)
    if x.size >= large.THRESHOLD:
        return large.binary(ufunc, x, y)
    if y != y // 1 or not -_WHOLE < y < _WHOLE:
        return ufunc(x, weak(y, x.dtype))
    z = ufunc(numpy.absolute(x), weak(y, x.dtype))
    return numpy.copysign(z, x, z) if y % 2 else z


_WHOLE = 1 << 24  # up to this number float32 tells the odd ones


def _power_lower(k: Any, x: Any, y: Any) -> Any:
    if type(y) in (int, float) and y in PRODUCTS and x.dtype in ("float32", "float64"):
        return power_by_products(k.mul, x, y)
    return k.pow(x, y)


pow = elementwise("pow(x, y) -> z", "power", takes="ifc", vjp={"x": _pow_vjp_x, "y": _pow_vjp_y}, choose=_power,
                  lower=_power_lower, check=_check_pow, error=16,
                  samples=lambda s: [((s(3, 4, lo=0.3, hi=2), s(3, 4, lo=0, hi=3)), {}),
                                     ((s(4, lo=0.5, hi=2), s(3, 1, lo=0, hi=3)), {})],
                  doc="`x ** y`, exact for small integer powers; `0 ** 0` is 1 and has the gradient 0 in `x`. "
                      "Integers cannot be raised to negative powers.")


# ------------------------------------------------------------------------------------------ the larger, the smaller
def _extreme_vjp(first: bool, larger: bool) -> Any:
    def rule(xp: Any, g: Any, x: Any, y: Any) -> Any:
        loses = (x < y) if first == larger else (x > y)
        return xp.where(loses, 0, xp.where(x == y, g / 2, g))
    return rule


maximum = elementwise("maximum(x, y) -> z", vjp={"x": _extreme_vjp(True, True), "y": _extreme_vjp(False, True)},
                      lower=lambda k, x, y: k.max(x, y), domain=(-3, 3),
                      doc="The larger of `x` and `y`, nan if either is. Equal ones share the gradient.")
minimum = elementwise("minimum(x, y) -> z", vjp={"x": _extreme_vjp(True, False), "y": _extreme_vjp(False, False)},
                      lower=lambda k, x, y: k.min(x, y), domain=(-3, 3),
                      doc="The smaller of `x` and `y`, nan if either is. Equal ones share the gradient.")


def _fextreme_vjp(first: bool, larger: bool) -> Any:
    def rule(xp: Any, g: Any, x: Any, y: Any) -> Any:
        wins = (x >= y if larger else x <= y) | (y != y)
        return xp.where(wins, g, 0) if first else xp.where(wins, 0, g)
    return rule


fmax = elementwise("fmax(x, y) -> z", vjp={"x": _fextreme_vjp(True, True), "y": _fextreme_vjp(False, True)},
                   lower=lambda k, x, y: k.where(k.ne(x, x), y, k.where(k.ne(y, y), x, k.max(x, y))), domain=(-3, 3),
                   doc="The larger of `x` and `y`; the other one where one is nan. Ties go to `x`.")
fmin = elementwise("fmin(x, y) -> z", vjp={"x": _fextreme_vjp(True, False), "y": _fextreme_vjp(False, False)},
                   lower=lambda k, x, y: k.where(k.ne(x, x), y, k.where(k.ne(y, y), x, k.min(x, y))), domain=(-3, 3),
                   doc="The smaller of `x` and `y`; the other one where one is nan. Ties go to `x`.")


_CLIP_FROM = 1 << 15  # elements from which a kernel pays
_clip_once = getattr(getattr(getattr(numpy, "_core", None), "umath", None), "clip", numpy.clip)
"""The ufunc of `numpy.clip`, which is quick, while what NumPy has around it takes 2 us."""


def _clip(np: Any, x: Any, min: Any, max: Any) -> Any:
    if np is numpy and x.size >= _CLIP_FROM and type(x) is numpy.ndarray:
        done = large.native("clip", 4 * x.size, x, min, max)
        if done is not None:
            return done
    if min is None:
        return np.positive(x) if max is None and x.dtype.kind != "b" else x if max is None else np.minimum(x, max)
    if np is numpy and max is not None and x.size >= large.SLOW and x.dtype.char in "fd" and not (
            getattr(min, "ndim", 0) or getattr(max, "ndim", 0)):
        return _clip_once(x, min, max)  # NumPy takes twice as long for the maximum with one number
    return np.maximum(x, min) if max is None else np.minimum(np.maximum(x, min), max)


def _clip_vjp(xp: Any, g: Any, x: Any, min: Any, max: Any) -> Any:
    if min is None:
        return g if max is None else xp.where(x > max, 0, g)
    return xp.where(x < min, 0, g) if max is None else xp.where((x < min) | (x > max), 0, g)


def _clip_lower(k: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else k.max(x, min)
    return x if max is None else k.min(x, max)


def _clip_samples(s: Any) -> list:
    x, low, high = s(3, 4, lo=0, hi=4), s(4, lo=0, hi=1.5), s(3, 1, lo=2.5, hi=4)
    return [((x, low, high), {}), ((x, None, high), {}), ((x, low, None), {}), ((x, None, None), {})]


clip = elementwise(
    "clip(x, min=None, max=None) -> y", _clip, takes="bif", lower=_clip_lower, samples=_clip_samples,
    vjp={"x": _clip_vjp,
         "min": lambda xp, g, x, min, max: xp.where((x < min) & (min <= max) if max is not None else x < min, g, 0),
         "max": lambda xp, g, x, min, max: xp.where((x > max) | (min > max) if min is not None else x > max, g, 0)},
    doc="`x` brought into `[min, max]`; a bound of None is absent, and `max` wins where the bounds cross. At a bound "
        "the gradient goes to `x`.")

_BRANCHES = 1 << 11  # elements from which a kernel pays: NumPy has a branch for each


def _where(np: Any, condition: Any, x: Any, y: Any) -> Any:
    if type(condition) is numpy.ndarray and condition.size >= _BRANCHES:
        done = large.native("where", 8 * condition.size, condition, x, y)
        if done is not None:
            return done
    return np.where(condition, x, y)


where = elementwise(
    "where(condition, x, y) -> z", _where, promotes=("x", "y"), linear_in=("x", "y"),
    vjp={"x": lambda xp, g, condition: xp.where(condition, g, 0), "y":
         lambda xp, g, condition: xp.where(condition, 0, g)},
    lower=lambda k, condition, x, y: k.where(condition, x, y),
    samples=lambda s: [((s.rng.random((3, 4)) < 0.5, s(3, 4), s(3, 4)), {}),
                       ((s.rng.random((3, 1)) < 0.5, s(4), s()), {}),
                       ((s.rng.random(()) < 0.5, s(0, 2), s(2)), {})],
    doc="`x` where `condition` is true, else `y`; all three broadcast. The gradient of what was not chosen is 0, also "
        "where its value is nan or inf.")

_INTEGERS = {2: numpy.int16, 4: numpy.int32, 8: numpy.int64}


def _gated(np: Any, mask: Any, g: Any) -> Any:
    # As integers times 0 or 1: exact for every bit pattern, without a branch for each element (np.where has one).
    integer = _INTEGERS.get(g.itemsize) if dtypes.is_floating(g.dtype) else None
    if integer is None:
        return np.where(mask, g, np.zeros((), g.dtype))
    return np.asarray(np.multiply(g.view(integer), mask, dtype=integer)).view(g.dtype)


_gate = elementwise("_gate(mask, g) -> y", _gated, promotes=("g",), linear_in=("g",),
                    vjp={"g": lambda xp, h, mask: xp._gate(mask, h)}, lower=lambda k, mask, g: k.where(mask, g, 0),
                    samples=lambda s: [((s.ints(2, 3, 4) > 0, s(3, 4)), {}), ((s.ints(2, 2, 3) > 0, s()), {})],
                    doc="`g` where the bool array `mask` is true, else 0, whatever g is there.")

# ------------------------------------------------------------------------------------------------------ comparison
equal = elementwise("equal(x, y) -> z", result="bool", lower=lambda k, x, y: k.eq(x, y), domain=(-2, 2),
                    doc="`x == y`.")
not_equal = elementwise("not_equal(x, y) -> z", result="bool", lower=lambda k, x, y: k.ne(x, y), domain=(-2, 2),
                        doc="`x != y`.")
_ORDER = "Complex numbers compare by their real, then by their imaginary parts, as in NumPy."
less = elementwise("less(x, y) -> z", result="bool", lower=lambda k, x, y: k.lt(x, y), domain=(-2, 2),
                   doc=f"`x < y`. {_ORDER}")
less_equal = elementwise("less_equal(x, y) -> z", result="bool", lower=lambda k, x, y: k.le(x, y), domain=(-2, 2),
                         doc=f"`x <= y`. {_ORDER}")
greater = elementwise("greater(x, y) -> z", result="bool", lower=lambda k, x, y: k.gt(x, y), domain=(-2, 2),
                      doc=f"`x > y`. {_ORDER}")
greater_equal = elementwise("greater_equal(x, y) -> z", result="bool", lower=lambda k, x, y: k.ge(x, y), domain=(-2, 2),
                            doc=f"`x >= y`. {_ORDER}")
isnan = elementwise("isnan(x) -> y", result="bool", lower=lambda k, x: k.isnan(x), domain=(-2, 2),
                    doc="True where `x` is not a number.")
isinf = elementwise("isinf(x) -> y", result="bool", lower=lambda k, x: k.isinf(x), domain=(-2, 2),
                    doc="True where `x` is infinite, of either sign.")
isfinite = elementwise("isfinite(x) -> y", result="bool", lower=lambda k, x: k.isfinite(x), domain=(-2, 2),
                       doc="True where `x` is neither infinite nor nan.")


def _signbit_lower(k: Any, x: Any) -> Any:
    return k.lt(k.copysign(k.const(1, x.dtype, x.lanes), x) if x.dtype.startswith("float") else x, 0)


signbit = elementwise("signbit(x) -> y", takes="bif", result="bool", lower=_signbit_lower, domain=(-2, 2),
                      doc="True where the sign bit of `x` is set: negative numbers and -0.0.")

# --------------------------------------------------------------------------------------------------- logic and bits
logical_and = elementwise("logical_and(x, y) -> z", result="bool", lower=lambda k, x, y: k.logical_and(x, y),
                          domain=(-2, 2), doc="True where both are true (not zero).")
logical_or = elementwise("logical_or(x, y) -> z", result="bool", lower=lambda k, x, y: k.logical_or(x, y),
                         domain=(-2, 2), doc="True where either is true (not zero).")
logical_xor = elementwise("logical_xor(x, y) -> z", result="bool", lower=lambda k, x, y: k.logical_xor(x, y),
                          domain=(-2, 2), doc="True where exactly one is true (not zero).")
logical_not = elementwise("logical_not(x) -> y", result="bool", lower=lambda k, x: k.logical_not(x), domain=(-2, 2),
                          doc="True where `x` is false (zero).")
bitwise_and = elementwise("bitwise_and(x, y) -> z", takes="bi", lower=lambda k, x, y: k.bitwise_and(x, y),
                          domain=(0, 9), doc="`x & y`, bit by bit.")
bitwise_or = elementwise("bitwise_or(x, y) -> z", takes="bi", lower=lambda k, x, y: k.bitwise_or(x, y), domain=(0, 9),
                         doc="`x | y`, bit by bit.")
bitwise_xor = elementwise("bitwise_xor(x, y) -> z", takes="bi", lower=lambda k, x, y: k.bitwise_xor(x, y),
                          domain=(0, 9), doc="`x ^ y`, bit by bit.")
bitwise_invert = elementwise("bitwise_invert(x) -> y", "invert", takes="bi", lower=lambda k, x: k.bitwise_not(x),
                             domain=(0, 9), doc="`~x`: every bit flipped; of a bool, its opposite.")
bitwise_left_shift = elementwise("bitwise_left_shift(x, y) -> z", "left_shift", takes="i", domain=(0, 5),
                                 lower=lambda k, x, y: k.shift_left(x, y), doc="`x << y`.")
bitwise_right_shift = elementwise("bitwise_right_shift(x, y) -> z", "right_shift", takes="i", domain=(0, 5),
                                  lower=lambda k, x, y: k.shift_right(x, y), doc="`x >> y`, keeping the sign.")

# -------------------------------------------------------------------------------------------------------- rounding
floor = elementwise("floor(x) -> y", takes="bif", vjp={"x": _none}, lower=lambda k, x: k.floor(x), domain=(0.1, 0.9),
                    doc="The largest whole number that is not greater, in x's dtype.")
ceil = elementwise("ceil(x) -> y", takes="bif", vjp={"x": _none}, lower=lambda k, x: k.ceil(x), domain=(0.1, 0.9),
                   doc="The smallest whole number that is not less, in x's dtype.")
trunc = elementwise("trunc(x) -> y", takes="bif", vjp={"x": _none}, lower=lambda k, x: k.trunc(x), domain=(0.1, 0.9),
                    doc="`x` without its fraction, in x's dtype.")


def _round(np: Any, x: Any) -> Any:
    return np.positive(x) if x.dtype.kind in "iu" else np.rint(x)


round = elementwise("round(x) -> y", _round, takes="ifc", vjp={"x": _none}, lower=lambda k, x: k.round(x),
                    domain=(0.6, 1.4), doc="The nearest whole number, halves to the even one, in x's dtype.")

# ----------------------------------------------------------------------------------- floating-point representation
copysign = elementwise("copysign(x, y) -> z", to_float=True, takes="f",
                       vjp={"x": lambda xp, g, x, z: g * xp.sign(x) * xp.sign(z), "y": _none},
                       lower=lambda k, x, y: k.copysign(x, y), domain=(0.3, 3),
                       doc="The magnitude of `x` with the sign of `y`.")
nextafter = elementwise("nextafter(x, y) -> z", takes="f", domain=(-3, 3), error=4,
                        vjp={"x": lambda xp, g, x, y: xp.where(x == y, 0, g),
                             "y": _none},
                        doc="The next number that x's dtype has after `x`, towards `y`.")
heaviside = elementwise("heaviside(x, y) -> z", to_float=True, takes="f", slow=large.MIDDLE, vjp={"x": _none,
                        "y": lambda xp, g, x: xp.where(x == 0, g, 0)}, domain=(0.3, 3),
                        lower=lambda k, x, y: k.where(k.lt(x, 0), 0, k.where(k.eq(x, 0), y, k.where(k.gt(x, 0), 1, x))),
                        doc="The step function: 0 below zero, `y` at zero, 1 above.")

# --------------------------------------------------------------------------------------------------------- complex
real = elementwise("real(x) -> y", takes="fc", linear_in="all", result="real",
                   vjp={"x": lambda xp, g, x_dtype: xp.astype(g, x_dtype)}, lower=lambda k, x: x, domain=(-3, 3),
                   doc="The real part, of the real dtype.")


def _imag_vjp(xp: Any, g: Any, x_dtype: Any) -> Any:
    return xp.astype(g, x_dtype) * -1j if x_dtype.kind == "c" else xp.zeros(g.shape, dtype=g.dtype)


imag = elementwise("imag(x) -> y", lambda np, x: x.imag if x.dtype.kind == "c" else np.zeros_like(x), takes="fc",
                   linear_in="all", result="real", vjp={"x": _imag_vjp}, domain=(-3, 3),
                   doc="The imaginary part, of the real dtype; zeros for real `x`.")
conj = elementwise("conj(x) -> y", takes="ifc", linear_in="all", vjp={"x": lambda xp, g: xp.conj(g)},
                   lower=lambda k, x: x, domain=(-3, 3), doc="The complex conjugate; `x` itself where it is real.")


def _angle_vjp(xp: Any, g: Any, x: Any) -> Any:
    return xp.where(x == 0, 0,
                    g * -1j / xp.where(x == 0, 1, x)) if x.dtype.kind == "c" else xp.zeros(g.shape, dtype=g.dtype)


def _angle(np: Any, x: Any) -> Any:
    if x.dtype.kind == "c":
        return np.arctan2(x.imag, x.real)
    return np.where(np.signbit(x), np.asarray(math.pi, x.dtype), np.where(x == x, np.asarray(0, x.dtype), x))


angle = elementwise("angle(x) -> y", _angle, to_float=True, takes="fc", result="real", vjp={"x": _angle_vjp},
                    domain=(0.3, 3),
                    doc="The argument of a complex number in radians, in (-π, π]; 0 or π of a real one.")
