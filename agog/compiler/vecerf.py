"""The error function of vectors, and gelu with it. See `vecmath` for the errors measured."""

from __future__ import annotations

import math

from agog.compiler import polynomials
from agog.compiler.ir import Operand, Value
from agog.compiler.vecmath import Exponential

__all__ = ["ErrorFunction"]

#: Beyond these erfc is zero, and gelu(-x) too.
_FAR = {"float32": 15.0, "float64": 40.0}


class ErrorFunction(Exponential):
    """erf, erfc, ndtr, gelu."""

    def _erfc_positive(self, a: Value, square: Value, square_low: Value, factor: Operand = 1.0) -> Value:
        """factor * erfc(a) for 0 <= a, given square + square_low = a^2 with more digits than one float holds."""
        # One division serves q = (a - 4)/(a + 4) = 2a/(a + 4) - 1 (so that a small a keeps its digits) and 1/(1 + 2a).
        b, c = a + 4.0, self.fma(a, 2.0, self.const(1.0, a.dtype))
        inverse = 1.0 / (b * c)
        q = self.fma(a + a, c * inverse, self.const(-1.0, a.dtype))
        scaled = factor * self.poly(q, polynomials.ERFC_SCALED)
        return self.exp_times(-square, -square_low, scaled * (b * inverse))

    def _erf_small(self, x: Value) -> Value:
        """erf(x) for |x| <= 1, some finite number beyond."""
        z = x * x
        return self.fma(x, self.poly(self.where(z > 1.0, 1.0, z), polynomials.ERF), x)

    def _square(self, a: Value) -> tuple[Value, Value]:
        square = a * a
        return square, self.exact_fma(a, a, -square)

    def erfc(self, x: Value) -> Value:
        """1 - erf(x), with a small relative error however small it is."""
        a = self.clamp(self.abs(x), 0.0, _FAR[x.dtype])
        positive = self._erfc_positive(a, *self._square(a))
        far = self.where(x < 0.0, 2.0 - positive, positive)
        return self.where(a < 0.5, 1.0 - self._erf_small(x), far)

    def erf(self, x: Value) -> Value:
        """2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
        a = self.clamp(self.abs(x), 0.0, _FAR[x.dtype])
        small = self._erf_small(a)
        large = 1.0 - self._erfc_positive(a, *self._square(a))
        return self.copysign(self.where(a < 1.0, small, large), x)

    def ndtr(self, x: Value) -> Value:
        """The normal distribution function of x: erfc(-x/sqrt(2))/2."""
        a = self.clamp(self.abs(x), 0.0, _FAR[x.dtype])
        half = 0.5 * a
        square = half * a  # as in `gelu`
        tail = self._erfc_positive(a * math.sqrt(0.5), square, self.exact_fma(half, a, -square), 0.5)
        return self.where(x < 0.0, tail, 1.0 - tail)

    def gelu(self, x: Value) -> Value:
        """x times the normal distribution function of x: x/2 erfc(-x/sqrt(2)); 0 at -inf."""
        far = _FAR[x.dtype]
        a = self.clamp(self.abs(x), 0.0, far)
        half = 0.5 * a
        square = half * a  # a^2/2 from x itself: going through x/sqrt(2) would lose digits of the exponential
        square_low = self.exact_fma(half, a, -square)
        x = self.where(x < -far, -far, x)  # so that -inf * 0 does not arise
        # |x|/2 is a factor inside of the exponential: a small result is then rounded once, as a subnormal too.
        tail = self._erfc_positive(a * math.sqrt(0.5), square, square_low, half)
        return self.where(x < 0.0, -tail, x - tail)
