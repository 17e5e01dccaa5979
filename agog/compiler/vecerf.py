"""The error function of vectors, and gelu with it. See `vecmath` for the errors measured."""

from __future__ import annotations

import math

from agog.compiler import polynomials
from agog.compiler.ir import Value
from agog.compiler.vecmath import LOG2E, Exponential

__all__ = ["ErrorFunction"]

#: Where e^-x is far below the smallest subnormal number, and 2^(n/2) is still a normal one.
_FAR = {"float32": 107.0, "float64": 750.0}

#: t = 1/(a + this): see `fit_polynomials`.
MILLS_SHIFT = 3.0


class ErrorFunction(Exponential):
    """erf, erfc, ndtr, gelu.

    All of them go by the tail of the normal distribution, t P(t) e^(-a^2/2) for 0 <= a, with t = 1/(a + k). The error
    of t matters little: where t P(t) is steepest, at a = 0, it is as steep as t itself.
    """

    def _near(self, x: Value, rate: float) -> Value:
        """|x|, or where e^(-rate x^2) is zero if it is beyond; NaN stays NaN."""
        a, far = self.abs(x), math.sqrt(_FAR[x.dtype] / rate)
        return self.where(a > far, far, a)

    def _mills(self, a: Value) -> tuple[Value, Value]:
        """t, P with t P = e^(a^2/2) ndtr(-a), for 0 <= a."""
        t = 1.0 / (a + MILLS_SHIFT)
        centred = self.fma(t, 2.0 * MILLS_SHIFT, self.const(-1.0, a.dtype))
        return t, self.poly(centred, polynomials.MILLS)

    def _decay(self, a: Value, rate: float, factor: Value) -> Value:
        """factor * e^(-rate a^2), rounded once if it is subnormal; rate is a power of two."""
        facts, magic = self.format(a), self._magic(a)
        n = self.fma(a * a, -rate * LOG2E, self.const(magic, a.dtype)) - magic
        # -a^2 = (n ln(2) + r)/rate: n ln2_hi is exact, so that a^2 is never rounded.
        r = self.exact_fma(-a, a, n * (-facts["ln2_hi"] / rate))
        r = self.fma(n, -facts["ln2_lo"] / rate, r)
        taylor = (1.0, 1.0, *polynomials.EXP[a.dtype])
        p = self.poly(r, {a.dtype: [c * rate**i for i, c in enumerate(taylor)]})
        return self.scale(p * factor, n)

    def _erfc_positive(self, a: Value) -> Value:
        """erfc(a) for 0 <= a."""
        t, p = self._mills(a * math.sqrt(2.0))
        return self._decay(a, 1.0, (t + t) * p)

    def _erf_small(self, x: Value) -> Value:
        """erf(x) for |x| <= 1, some finite number beyond."""
        z = x * x
        return self.fma(x, self.poly(self.where(z > 1.0, 1.0, z), polynomials.ERF), x)

    def erfc(self, x: Value) -> Value:
        """1 - erf(x), with a small relative error however small it is."""
        a = self._near(x, 1.0)
        positive = self._erfc_positive(a)
        far = self.where(x < 0.0, 2.0 - positive, positive)
        return self.where(a < 0.5, 1.0 - self._erf_small(x), far)

    def erf(self, x: Value) -> Value:
        """2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
        a = self._near(x, 1.0)
        small = self._erf_small(a)
        large = 1.0 - self._erfc_positive(a)
        return self.copysign(self.where(a < 1.0, small, large), x)

    def ndtr(self, x: Value) -> Value:
        """The normal distribution function of x: erfc(-x/sqrt(2))/2."""
        a = self._near(x, 0.5)  # not through x/sqrt(2): its rounding would cost digits of the exponential
        t, p = self._mills(a)
        tail = self._decay(a, 0.5, t * p)
        return self.where(x < 0.0, tail, 1.0 - tail)

    def gelu(self, x: Value) -> Value:
        """x times the normal distribution function of x: max(x, 0) - |x| ndtr(-|x|); 0 at -inf."""
        a = self._near(x, 0.5)
        t, p = self._mills(a)
        # |x| is a factor inside of the exponential: a small result is then rounded once, as a subnormal too.
        return self.where(x < 0.0, -0.0, x) - self._decay(a, 0.5, (a * t) * p)
