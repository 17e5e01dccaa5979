"""Circular functions of vectors: sin, cos, tan and their inverses. See `vecmath` for the errors measured.

float32 is reduced in float64, where two parts of pi/2 are enough up to 2^30; float64 with three parts up to 2^25. The
rare arguments beyond go to the C library, lane by lane, which reduces them with as many digits of pi as they need.
"""

from __future__ import annotations

import math

from agog.compiler import polynomials
from agog.compiler.ir import Value
from agog.compiler.vecmath import Precise

__all__ = ["Circular"]

#: pi/2 as a sum of three float64.
_PIO2 = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33)

_PI_PARTS = {  # dtype: (pi/2 high, low, pi high, low)
    "float32": (1.5707963705062866, -4.371138828673793e-08, 3.1415927410125732, -8.742277657347586e-08),
    "float64": (math.pi / 2, 6.123233995736766e-17, math.pi, 1.2246467991473532e-16),
}


class Circular(Precise):
    """sin, cos, tan, asin, acos, atan, atan2."""

    def _quadrant(self, x: Value) -> tuple[Value, Value, Value]:
        """r, q with x = q pi/2 + r and |r| <= pi/4, q modulo 4 an integer; and the lanes where that does not hold."""
        magic = 1.5 * 2.0**52
        far = ~(self.abs(x) < (2.0**30 if x.dtype == "float32" else 2.0**25))  # NaN is far
        wide = self.cast(x, "float64")
        shifted = self.fma(wide, 2 / math.pi, self.const(magic, "float64"))
        n = shifted - magic
        r = self.exact_fma(n, -_PIO2[0], wide)
        r = self.exact_fma(n, -_PIO2[1], r)
        if x.dtype == "float64":
            r = self.fma(n, -_PIO2[2], r)
        q = self.cast(self.bits(shifted), self.format(x)["int"])
        return self.cast(r, x.dtype), q, far

    def _sin_cos_small(self, r: Value) -> tuple[Value, Value]:
        """sin(r), cos(r) for |r| <= pi/4."""
        z = r * r
        sin = self.fma(r * z, self.poly(z, polynomials.SIN), r)
        cos = self.fma(z * z, self.poly(z, polynomials.COS), self.fma(z, -0.5, self.const(1.0, r.dtype)))
        return sin, cos

    def _negate_if(self, x: Value, bit: int, q: Value) -> Value:
        """-x where bit number `bit` of q is set: shifted into the sign."""
        sign = (32 if x.dtype == "float32" else 64) - 1 - bit
        return self.from_bits(self.bits(x) ^ self.shift_left(q & (1 << bit), sign))

    def sin(self, x: Value) -> Value:
        """Sine of an angle in radians."""
        r, q, far = self._quadrant(x)
        sin, cos = self._sin_cos_small(r)
        result = self._negate_if(self.where(self.ne(q & 1, 0), cos, sin), 1, q)
        return self.rare("sin", far, self.where(self.eq(x, 0.0), x, result), x)

    def cos(self, x: Value) -> Value:
        """Cosine of an angle in radians."""
        r, q, far = self._quadrant(x)
        sin, cos = self._sin_cos_small(r)
        q = q + 1
        return self.rare("cos", far, self._negate_if(self.where(self.ne(q & 1, 0), cos, sin), 1, q), x)

    def tan(self, x: Value) -> Value:
        """Tangent of an angle in radians."""
        r, q, far = self._quadrant(x)
        sin, cos = self._sin_cos_small(r)
        odd = self.ne(q & 1, 0)
        ratio = self.where(odd, cos, sin) / self.where(odd, -sin, cos)
        return self.rare("tan", far, self.where(self.eq(x, 0.0), x, ratio), x)

    def _atan_unit(self, t: Value) -> Value:
        """atan(t) for |t| <= 1."""
        z = t * t
        return self.fma(t * z, self.poly(z, polynomials.ATAN), t)

    def atan(self, x: Value) -> Value:
        """Inverse tangent, in [-pi/2, pi/2]."""
        half_pi, half_pi_low, _, _ = _PI_PARTS[x.dtype]
        a = self.abs(x)
        steep = a > 1.0
        p = self._atan_unit(self.where(steep, 1.0, a) / self.where(steep, a, 1.0))
        return self.copysign(self.where(steep, half_pi - (p - half_pi_low), p), x)

    def atan2(self, y: Value, x: Value) -> Value:
        """The angle of the point (x, y), in [-pi, pi]; signed zeros and infinities as in C."""
        y, x = self.unify(y, x)
        half_pi, half_pi_low, pi, pi_low = _PI_PARTS[x.dtype]
        a, b = self.abs(x), self.abs(y)
        steep = b > a
        large, small = self.where(steep, b, a), self.where(steep, a, b)
        ratio = small / large
        ratio = self.where(self.eq(large, 0.0), 0.0, ratio)
        ratio = self.where(self.eq(small, float("inf")), 1.0, ratio)
        ratio = self.where(self.isnan(x), x, self.where(self.isnan(y), y, ratio))
        p = self._atan_unit(ratio)
        p = self.where(steep, half_pi - (p - half_pi_low), p)
        p = self.where(self.bits(x) < 0, pi - (p - pi_low), p)
        return self.copysign(p, y)

    def _asin_half(self, t: Value, z: Value) -> Value:
        """asin(t) for |t| <= 1/2, z = t^2."""
        return self.fma(t * z, self.poly(z, polynomials.ASIN), t)

    def asin(self, x: Value) -> Value:
        """Inverse sine, in [-pi/2, pi/2]; NaN beyond +-1. asin(a) = pi/2 - 2 asin(sqrt((1 - a)/2))."""
        half_pi, half_pi_low, _, _ = _PI_PARTS[x.dtype]
        a = self.abs(x)
        far = a > 0.5
        z = self.where(far, 0.5 - 0.5 * a, a * a)
        p = self._asin_half(self.where(far, self.sqrt(z), a), z)
        return self.copysign(self.where(far, half_pi - (p + p - half_pi_low), p), x)

    def acos(self, x: Value) -> Value:
        """Inverse cosine, in [0, pi]; NaN beyond +-1."""
        half_pi, half_pi_low, pi, pi_low = _PI_PARTS[x.dtype]
        a = self.abs(x)
        far = a > 0.5
        z = self.where(far, 0.5 - 0.5 * a, a * a)
        p = self._asin_half(self.where(far, self.sqrt(z), x), z)
        double = p + p
        outer = self.where(x < 0.0, pi - (double - pi_low), double)
        return self.where(far, outer, half_pi - (p - half_pi_low))
