"""Special functions: error functions, the gamma family, Bessel functions, information measures.

SciPy computes most of them; it is imported when the first one is called.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

from agog.errors import ArgumentError
from agog.ops.row import Op, composite, elementwise

_real: dict[str, Any] = {"to_float": True, "takes": "f"}


def _scipy(name: str) -> Any:
    """An implementation that calls SciPy's function `name`, or that of the library which goes with `np`."""
    def compute(np: Any, *xs: Any) -> Any:
        home = "scipy.special" if np.__name__ == "numpy" else f"{np.__name__}x.scipy.special"
        return getattr(importlib.import_module(home), name)(*xs)
    return compute


def _row(signature: str, name: str, **kw: Any) -> Op:
    return elementwise(signature, _scipy(name), **_real, widen=True, **kw)


_2_SQRT_PI = 2 / math.sqrt(math.pi)
_SQRT_2PI = math.sqrt(2 * math.pi)

# -------------------------------------------------------------------------------------------------- error functions
erf = _row("erf(x) -> y", "erf", vjp={"x": lambda xp, g, x: g * (xp.exp(-x * x) * _2_SQRT_PI)},
           lower=lambda k, x: k.erf(x),
           domain=(-2, 2), doc="The error function, `2/sqrt(pi)` times the integral of `exp(-t*t)` from 0 to `x`.")
erfc = _row("erfc(x) -> y", "erfc", vjp={"x": lambda xp, g, x: g * (xp.exp(-x * x) * -_2_SQRT_PI)}, domain=(-2, 2),
            lower=lambda k, x: k.erfc(x), error=16, doc="`1 - erf(x)`, accurate where it is small.")
erfinv = _row("erfinv(x) -> y", "erfinv", vjp={"x": lambda xp, g, y: g * (xp.exp(y * y) / _2_SQRT_PI)},
              domain=(-0.8, 0.8), error=16, doc="The inverse of `erf` on (-1, 1); infinite at the ends, nan outside.")
erfcx = _row("erfcx(x) -> y", "erfcx", vjp={"x": lambda xp, g, x, y: g * (2 * x * y - _2_SQRT_PI)}, domain=(-1, 2),
             error=16, doc="`exp(x*x) * erfc(x)`, which does not underflow.")
# erfc(z) = t * exp(-z*z + polynomial(t)) with t = 1 / (1 + z/2), for z >= 0 (Numerical Recipes, 6.2): 1.2e-7.
_ERFC = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368)
_BLOCK = 1 << 14  # elements whose temporaries stay in the cache


def _ndtr(np: Any, x: Any) -> Any:
    """SciPy takes 20 to 30 ns for an element; for many float32 numbers a few vector operations are faster."""
    if x.itemsize != 4 or x.size < 4096:
        return _scipy("ndtr")(np, x)
    out = np.empty(x.shape, x.dtype)
    flat, done = x.reshape(-1), out.reshape(-1)
    for i in range(0, flat.size, _BLOCK):
        part = flat[i:i + _BLOCK]
        z = np.absolute(part)
        t = z * (0.5 * math.sqrt(0.5)) + 1
        np.reciprocal(t, t)
        p = t * _ERFC[0]
        for c in _ERFC[1:]:
            p += c
            p *= t
        p -= 1.26551223
        z *= z
        z *= 0.5
        p -= z
        np.exp(p, p)
        p *= t
        p *= 0.5  # the tail beyond |x|
        done[i:i + _BLOCK] = np.where(part < 0, p, 1 - p)
    return out


ndtr = elementwise("ndtr(x) -> y", _ndtr, **_real, widen=True, reference=_scipy("ndtr"), domain=(-2, 2), error=16,
                   vjp={"x": lambda xp, g, x: g * (xp.exp(-x * x / 2) / _SQRT_2PI)},
                   lower=lambda k, x: k.ndtr(x),
                   doc="The distribution function of the standard normal distribution.")
ndtri = _row("ndtri(x) -> y", "ndtri", vjp={"x": lambda xp, g, y: g * (xp.exp(y * y / 2) * _SQRT_2PI)},
             domain=(0.1, 0.9),
             error=16, doc="The quantile function of the standard normal distribution: the inverse of `ndtr`.")
log_ndtr = _row("log_ndtr(x) -> y", "log_ndtr", vjp={"x": lambda xp, g, x, y: g * (xp.exp(-x * x / 2 - y) / _SQRT_2PI)},
                domain=(-3, 2), error=16, doc="`log(ndtr(x))`, accurate far to the left.")

# ------------------------------------------------------------------------------------------------- the gamma family
def _lgamma(np: Any, x: Any) -> Any:
    """SciPy's, which has -inf at -inf and inf for subnormal numbers."""
    y = _scipy("gammaln")(np, x)
    wrong = np.isinf(y) & (np.isinf(x) | (np.absolute(x) < 1e-300) & (x != 0))
    return np.where(wrong, np.where(np.isinf(x), math.inf, -np.log(np.absolute(x))), y) if wrong.any() else y


lgamma = elementwise("lgamma(x) -> y", _lgamma, **_real, widen=True, vjp={"x": lambda xp, g, x: g * xp.digamma(x)},
                     domain=(0.4, 4), error=32,
                     doc="The logarithm of the absolute value of the gamma function.")
digamma = _row("digamma(x) -> y", "digamma", vjp={"x": lambda xp, g, x: g * xp.polygamma(1, x)}, domain=(0.4, 4),
               error=32,
               doc="The derivative of `lgamma`.")
gamma = _row("gamma(x) -> y", "gamma", vjp={"x": lambda xp, g, x, y: g * y * xp.digamma(x)}, domain=(0.4, 4), error=32,
             doc="The gamma function, `factorial(x - 1)` of whole numbers.")
zeta = _row("zeta(x, q) -> y", "zeta", vjp={"q": lambda xp, g, x, q: -g * x * xp.zeta(x + 1, q)},
            samples=lambda s: [((s(3, 4, lo=1.5, hi=4), s(3, 4, lo=0.5, hi=3)), {}),
                               ((s(3, 1, lo=1.5, hi=4), s(4, lo=0.5, hi=3)), {})],
            error=64, doc="Hurwitz's zeta function, the sum of `(k + q)**-x` over `k >= 0`. Not differentiable in `x`.")


@composite(samples=lambda s: [((n, s(3, 4, lo=0.5, hi=3)), {}) for n in (0, 1, 3)])
def polygamma(xp, n, x):
    """The `n`-th derivative of `digamma` at `x`, for a whole number n >= 0: `(-1)**(n+1) * n! * zeta(n+1, x)`."""
    if not isinstance(n, int) or n < 0:
        raise ArgumentError(f"polygamma: n={n!r} must be a whole number of at least 0")
    return xp.digamma(x) if n == 0 else xp.zeta(float(n + 1), x) * float((-1) ** (n + 1) * math.factorial(n))


@composite(samples=lambda s: [((s(3, 4, lo=2, hi=4), 3), {})])
def multigammaln(xp, x, p):
    """The logarithm of the multivariate gamma function of dimension `p`, for `x > (p - 1) / 2`."""
    if not isinstance(p, int) or p < 1:
        raise ArgumentError(f"multigammaln: p={p!r} must be a whole number of at least 1")
    total = p * (p - 1) / 4 * math.log(math.pi)
    for i in range(p):
        total = xp.lgamma(x - i / 2) + total
    return total


def _gammainc_vjp(sign: int) -> Any:
    return lambda xp, g, a, x: g * xp.exp((a - 1) * xp.log(x) - x - xp.lgamma(a)) * sign


def _gammainc_samples(s: Any) -> list:
    return [((s(3, 4, lo=0.5, hi=3), s(3, 4, lo=0.5, hi=3)), {}), ((s(3, 1, lo=0.5, hi=3), s(4, lo=0.5, hi=3)), {})]


gammainc = _row("gammainc(a, x) -> y", "gammainc", vjp={"x": _gammainc_vjp(1)}, samples=_gammainc_samples, error=64,
                doc="The regularised lower incomplete gamma function. Not differentiable in `a`.")
gammaincc = _row("gammaincc(a, x) -> y", "gammaincc", vjp={"x": _gammainc_vjp(-1)}, samples=_gammainc_samples, error=64,
                 doc="The regularised upper incomplete gamma function. Not differentiable in `a`.")

# ------------------------------------------------------------------------------------------------- Bessel functions
# Rows of any whole order carry the derivatives: 2 I_n' = I_(n-1) + I_(n+1).


def _bessel(name: str) -> Any:
    """SciPy's, which has nan for numbers next to 0 and (scaled) at infinity."""
    def compute(np: Any, x: Any, order: int) -> Any:
        y = _scipy(name)(np, np.asarray(float(order), x.dtype), x)
        wrong = (y != y) & (x == x)
        return np.where(wrong, (np.absolute(x) < 1).astype(x.dtype) * (order == 0), y) if wrong.any() else y
    return compute


def _bessel_samples(s: Any) -> list:
    return [((s(3, 4),), {"order": n}) for n in (0, 1, 2)]


Op("_iv(x; order) -> y", _bessel("iv"), elementwise=True, **_real, widen=True, samples=_bessel_samples, error=64,
   vjp={"x": lambda xp, g, x, order: g * (xp._iv(x, order=order - 1) + xp._iv(x, order=order + 1)) / 2},
   doc="The modified Bessel function of the first kind, of a whole order.")
Op("_ive(x; order) -> y", _bessel("ive"), elementwise=True, **_real, widen=True, samples=lambda s: [
    ((s(3, 4, lo=0.3, hi=3),), {"order": n}) for n in (0, 1, 2)], error=64,
   vjp={"x": lambda xp, g, x, y, order: g * ((xp._ive(x, order=order - 1) + xp._ive(x, order=order + 1)) / 2
                                             - xp.sign(x) * y)},
   doc="`exp(-abs(x))` times the modified Bessel function of the first kind, of a whole order.")
i0 = _row("i0(x) -> y", "i0", vjp={"x": lambda xp, g, x: g * xp.i1(x)}, domain=(-3, 3), error=16,
          doc="The modified Bessel function of the first kind, order 0.")
i1 = _row("i1(x) -> y", "i1", vjp={"x": lambda xp, g, x: g * (xp.i0(x) + xp._iv(x, order=2)) / 2}, domain=(-3, 3),
          error=16,
          doc="The modified Bessel function of the first kind, order 1.")
i0e = _row("i0e(x) -> y", "i0e", vjp={"x": lambda xp, g, x, y: g * (xp.i1e(x) - xp.sign(x) * y)}, domain=(0.3, 3),
           error=16,
           doc="`exp(-abs(x)) * i0(x)`, which does not overflow.")
i1e = _row("i1e(x) -> y", "i1e",
           vjp={"x": lambda xp, g, x, y: g * ((xp.i0e(x) + xp._ive(x, order=2)) / 2 - xp.sign(x) * y)},
           domain=(0.3, 3), error=16, doc="`exp(-abs(x)) * i1(x)`, which does not overflow.")


# -------------------------------------------------------------------------------- products with logarithms, entropy
def _xlogy(np: Any, x: Any, y: Any) -> Any:
    return np.where((x == 0) & (y == y), np.zeros_like(x), x * np.log(y))


def _xlog1py(np: Any, x: Any, y: Any) -> Any:
    return np.where((x == 0) & (y == y), np.zeros_like(x), x * np.log1p(y))


def _times_log(log: str) -> Any:
    """x * log(y), 0 where x is, unless y is nan."""
    return lambda k, x, y: k.where(k.bitwise_and(k.eq(x, 0), k.eq(y, y)), 0, k.mul(x, getattr(k, log)(y)))


xlogy = elementwise("xlogy(x, y) -> z", _xlogy, **_real, widen=True, reference=_scipy("xlogy"), domain=(0.3, 3),
                    lower=_times_log("log"),
                    vjp={"x": lambda xp, g, x, y: g * xp.log(xp.where((x == 0) & (y <= 0), 1, y)),
                         "y": lambda xp, g, x, y: g * (x / xp.where((x == 0) & (y == 0), 1, y))},
                    doc="`x * log(y)`, and 0 where `x` is 0 whatever `y` is (unless nan).")
xlog1py = elementwise("xlog1py(x, y) -> z", _xlog1py, **_real, widen=True, reference=_scipy("xlog1py"), domain=(0.3, 3),
                      lower=_times_log("log1p"),
                      vjp={"x": lambda xp, g, x, y: g * xp.log1p(xp.where((x == 0) & (y <= -1), 0, y)),
                           "y": lambda xp, g, x, y: g * (x / xp.where((x == 0) & (y == -1), 1, 1 + y))},
                      doc="`x * log(1 + y)`, and 0 where `x` is 0 whatever `y` is (unless nan).")
entr = _row("entr(x) -> y", "entr", vjp={"x": lambda xp, g, x: -g * (1 + xp.log(x))}, domain=(0.3, 3), error=16,
            doc="`-x * log(x)`: 0 at 0, -inf for negative `x`.")


@composite(samples=lambda s: [((s(3, 4, lo=0.1, hi=0.9),), {}), ((s(3, 4, lo=0, hi=1),), {"eps": 0.1})])
def logit(xp, x, eps=None):
    """`log(x / (1 - x))`, the inverse of `sigmoid`; `x` is clipped to `[eps, 1 - eps]` first if `eps` is given."""
    return xp._logit(x if eps is None else xp.clip(x, eps, 1 - eps))


elementwise("_logit(x) -> y", lambda np, x: np.log(x) - np.log1p(-x), **_real, widen=True, domain=(0.1, 0.9), error=16,
            vjp={"x": lambda xp, g, x: g / (x * (1 - x))}, lower=lambda k, x: k.sub(k.log(x), k.log1p(k.neg(x))),
            doc="`log(x / (1 - x))`.")


# ------------------------------------------------------------------------------------------------------------ sinc
def _sinc(np: Any, x: Any) -> Any:
    whole = np.rint(x)
    sine = np.sin((x - whole) * math.pi) * (1 - 2 * np.remainder(whole, 2))  # exactly 0 at whole numbers
    return np.where(x == 0, np.ones_like(x), sine / (np.where(x == 0, np.ones_like(x), x) * math.pi))


def _sinc_vjp(xp: Any, g: Any, x: Any) -> Any:
    u = x * math.pi
    near = xp.abs(u) < 0.3
    v, w = xp.where(near, 1, u), u * u
    far = (v * xp.cos(v) - xp.sin(v)) / (v * v)
    series = -u / 3 * (1 - w / 10 * (1 - w / 28 * (1 - w / 54 * (1 - w / 88))))
    return g * xp.where(near, series, far) * math.pi


def _sinc_lower(k: Any, x: Any) -> Any:
    whole, zero = k.round(x), k.eq(x, 0)
    odd = k.ne(k.round(k.mul(whole, 0.5)), k.mul(whole, 0.5))
    sine = k.sin(k.mul(k.sub(x, whole), math.pi))  # exactly 0 at whole numbers
    return k.where(zero, 1, k.div(k.where(odd, k.neg(sine), sine), k.mul(k.where(zero, 1, x), math.pi)))


sinc = elementwise("sinc(x) -> y", _sinc, **_real, widen=True, vjp={"x": _sinc_vjp}, domain=(-2, 2), error=16,
                   lower=_sinc_lower, doc="`sin(pi*x) / (pi*x)`, and 1 at 0.")
