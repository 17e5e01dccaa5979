"""Vector mathematics for float32 and float64, any number of lanes, written over `operators.Builder`.

A `Kernel` is the `k` that an op's `lower` rule receives. Every function holds over its whole range: infinities, NaN,
subnormals, signed zeros, huge arguments. Formulas follow fdlibm (Sun, 1993) and Cephes (Moshier) with polynomials of
our own (`polynomials`); the error function goes by Mills' ratio as a polynomial in (a - 3)/(a + 3) (after Shepherd and
Laframboise, Math. Comp. 36, 1981).

Largest errors measured, in units in the last place of normal results, float32 / float64, the worst of AVX-512, AVX2 and
SSE2 (random bit patterns, dense samples where it matters, special values; `tests/compiler/test_vecmath.py` measures
against float64 for float32 and 80-bit arithmetic for float64, and holds these functions to limits near this table):

    exp      1.1 / 1.0    log      0.8 / 0.8    sin      1.5 / 1.5    erf       1.4 / 1.2    pow        0.5 / 1.2
    exp2     1.1 / 1.0    log2     1.8 / 2.0    cos      1.5 / 1.5    erfc      5.9 / 5.3    hypot      0.5 / 1.2
    expm1    1.6 / 1.9    log10    2.0 / 1.7    tan      3.6 / 3.4    gelu      6.4 / 5.6    rsqrt      1.5 / 1.5
    tanh     1.7 / 1.5    log1p    0.8 / 0.8    asin     2.3 / 2.1    sinh      2.1 / 2.3    atan2      1.4 / 1.5
    sigmoid  1.6 / 1.6    asinh    1.6 / 1.7    acos     1.1 / 1.1    cosh      1.4 / 1.4    softplus   1.7 / 1.7
    acosh    2.2 / 2.2    atanh    1.9 / 1.6    atan     1.3 / 1.5    ndtr      6.4 / 5.3

The exponential and logarithm are here, the circular functions in `vectrig`, the error function in `vecerf`. They use
only what each machine does well: integers come out of floats by adding 1.5 * 2^(digits), because a conversion is slow
or missing (AVX2 has none for int64) and undefined for NaN.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Sequence

from agog.compiler import polynomials
from agog.compiler.halves import Halves
from agog.compiler.ir import Operand, Value
from agog.compiler.targets import ITEMSIZE
from agog.errors import DTypeError

__all__ = ["Exponential", "Precise"]

LN2 = math.log(2.0)
LOG2E = 1.4426950408889634
LOG10E = 0.4342944819032518

# Facts about each format. ln(2) = ln2_hi + ln2_lo, where ln2_hi has so many trailing zeros that n * ln2_hi is exact
# for every exponent n: the reduction then needs no fused multiply-add.
_FORMAT = {
    "float32": {
        "digits": 23,
        "int": "int32",
        "bias": 127,
        "ln2_hi": 0.693359375,
        "ln2_lo": -2.12194440e-4,
        "log2e_lo": 1.925963033500011e-08,
        "log10e_lo": -1.010305005e-08,
        "log10_2_hi": 0.301025390625,
        "log10_2_lo": 4.605038981195214e-06,
        "min_normal": 2.0**-126,
        "exp_low": -105.0,
        "exp_zero": -103.98,  # e^x rounds to zero below
        "exp_high": 90.0,
        "exp2_zero": -150.0,  # 2^x rounds to zero below (and at it)
        "exp2_high": 129.0,
        "expm1_low": -18.0,
        "expm1_high": 89.0,
        "tanh_one": 10.0,  # tanh rounds to one above
        "split": 4097.0,
    },
    "float64": {
        "digits": 52,
        "int": "int64",
        "bias": 1023,
        "ln2_hi": 6.93147180369123816490e-01,
        "ln2_lo": 1.90821492927058770002e-10,
        "log2e_lo": 2.0355273740931033e-17,
        "log10e_lo": 1.098319650216765e-17,
        "log10_2_hi": 3.01029995663611771306e-01,
        "log10_2_lo": 3.69423907715893078616e-13,
        "min_normal": 2.0**-1022,
        "exp_low": -746.0,
        "exp_zero": -745.14,
        "exp_high": 711.0,
        "exp2_zero": -1075.0,
        "exp2_high": 1025.0,
        "expm1_low": -40.0,
        "expm1_high": 710.0,
        "tanh_one": 20.0,
        "split": 134217729.0,
    },
}


class Precise(Halves):
    """Exact pieces of arithmetic: sums and products with their rounding errors, polynomials, powers of two."""

    def format(self, x: Value) -> dict[str, Any]:
        """The facts about x's format. Only floats have one."""
        try:
            return _FORMAT[x.dtype]
        except KeyError:
            raise DTypeError(f"this function takes float32 or float64, not {x.dtype}: cast first") from None

    def poly(self, x: Value, table: Mapping[str, Sequence[float]]) -> Value:
        """The polynomial of a table in `polynomials`, by Horner's rule."""
        *rest, last = table[x.dtype]
        result = self.const(last, x.dtype, x.lanes)
        for c in reversed(rest):
            result = self.fma(result, x, c)
        return result

    def two_sum(self, a: Value, b: Value) -> tuple[Value, Value]:
        """s, e with s = a + b rounded and s + e = a + b exactly (Knuth)."""
        s = a + b
        t = s - a
        return s, (a - (s - t)) + (b - t)

    def fast_two_sum(self, a: Value, b: Value) -> tuple[Value, Value]:
        """`two_sum` where |a| >= |b| (Dekker)."""
        s = a + b
        return s, b - (s - a)

    def two_product(self, a: Operand, b: Operand) -> tuple[Value, Value]:
        """p, e with p = a * b rounded and p + e = a * b exactly."""
        a, b = self.unify(a, b)
        p = a * b
        if self.target.fma:
            return p, self.fma(a, b, -p)
        (ah, al), (bh, bl) = self._halves(a), self._halves(b)
        return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl

    def _halves(self, a: Value) -> tuple[Value, Value]:
        """a as the sum of two numbers of half the digits (Veltkamp)."""
        t = a * self.format(a)["split"]
        high = t - (t - a)
        return high, a - high

    def exact_fma(self, a: Operand, b: Operand, c: Operand) -> Value:
        """a * b + c with a relative error of one rounding even where it cancels, on every machine."""
        a, b, c = self.unify(a, b, c)
        if self.target.fma:
            return self.fma(a, b, c)
        p, e = self.two_product(a, b)
        s, t = self.two_sum(p, c)
        return s + (t + e)

    def clamp(self, x: Value, low: Operand, high: Operand) -> Value:
        """x within [low, high]; NaN stays NaN. (In this order each comparison is one minps or maxps.)"""
        x = self.where(x > high, high, x)
        return self.where(x < low, low, x)

    def _magic(self, x: Value) -> float:
        """1.5 * 2^digits: adding it rounds to an integer, which is then in the low bits."""
        return 1.5 * 2.0 ** self.format(x)["digits"]

    def _power_of_two(self, shifted: Value) -> Value:
        """2^n from n + magic, for n in the normal range."""
        facts = self.format(shifted)
        one = facts["bias"] << facts["digits"]
        return self.from_bits(self.shift_left(self.bits(shifted), facts["digits"]) + one)

    def scale(self, x: Value, n: Value) -> Value:
        """x * 2^n for an integral n (a float), right for results that overflow or are subnormal."""
        if self._scalef(x):
            return self._scaled(x, n, f"i{x.lanes} -1")
        # In two steps, because 2^n itself may be out of range; only the second can round.
        magic = self._magic(x)
        half = n * 0.5 + magic
        rest = (n - (half - magic)) + magic
        return x * self._power_of_two(half) * self._power_of_two(rest)

    def _scalef(self, x: Value) -> bool:
        """Whether the machine has one instruction for `scale` of such a vector."""
        return self.target.scalef and x.lanes * ITEMSIZE[x.dtype] == 64

    def _scaled(self, x: Value, n: Value, mask: str) -> Value:
        """That instruction: x * 2^n in the lanes of the mask, 0 in the others, of which nothing else is looked at."""
        name = f"llvm.x86.avx512.mask.scalef.{'ps' if x.dtype == 'float32' else 'pd'}.512"
        self.module.declare(name, x.type, f"{x.type}, {x.type}, {x.type}, i{x.lanes}, i32")
        zero, current_rounding = self.const(0, x.dtype, x.lanes), "i32 4"
        arguments = f"{x.typed}, {n.typed}, {zero.typed}, {mask}, {current_rounding}"
        return self.op(f"call {x.type} @{name}({arguments})", x.dtype, x.lanes)

    def _scaled_above(self, low: float, x: Value, compute: Callable[[Value], tuple[Value, Value]]) -> Value:
        """p * 2^n, with p, n = compute(x), and 0 where x < low, where the result rounds to nothing.

        Rounding to zero costs processors hundreds of cycles, and is common (masks): it is kept away from `scale`.
        """
        if self._scalef(x):
            alive = self._compare(x, low, "uge", "")  # NaN too
            mask = self.op(f"bitcast {alive.typed} to i{x.lanes}", f"int{x.lanes}")
            return self._scaled(*compute(x), mask.typed)
        nothing = x < low
        return self.where(nothing, 0.0, self.scale(*compute(self.where(nothing, 0.0, x))))

    def per_lane(self, name: str, *xs: Value) -> Value:
        """The C library's double function `name` in every lane. Slow, for what is rare."""
        condition = self.const(True, "bool", xs[0].lanes)
        return self._library(name, condition, xs[0], xs)

    def rare(self, name: str, condition: Value, common: Value, *xs: Value) -> Value:
        """The C library's `name(*xs)` where `condition` holds, `common` elsewhere; free when it holds nowhere."""
        library = lambda: [self._library(name, condition, common, xs)]
        (result,) = self.if_(self.any(condition), library, lambda: [common])
        return result

    def _library(self, name: str, condition: Value, common: Value, xs: Sequence[Value]) -> Value:
        """Call the out-of-line loop over lanes, made once per module."""
        first, arguments = xs[0], [condition, common, *xs]
        function = f"lanes_{name}_{first.dtype}_{first.lanes}"
        if function not in self.module.functions:
            parameters = [(f"a{i}", (a.dtype, a.lanes)) for i, a in enumerate(arguments)]
            b = type(self)(
                self.module, function, parameters, (first.dtype, first.lanes), first.lanes, internal=True, cold=True
            )
            mask, common, *inputs = b.arguments
            size = first.lanes * 8
            places = [b.alloca(size) for _ in range(2 + len(xs))]
            for value, place in zip([mask, common, *inputs], places, strict=True):
                b.store(value, place)

            def lane(i: Value) -> None:
                def call() -> None:
                    values = [b.cast(b.load(b.at(p, i, first.dtype), first.dtype), "float64") for p in places[2:]]
                    result = b.call(name, "float64", *values, external=True)
                    b.store(b.cast(result, first.dtype), b.at(places[1], i, first.dtype))

                b.if_(b.load(b.at(places[0], i, "bool"), "bool"), call)

            b.loop(0, first.lanes, 1, lane)
            b.ret(b.load(places[1], first.dtype, first.lanes))
            b.finish()
        return self.call_known(function, (first.dtype, first.lanes), *arguments)


class Exponential(Precise):
    """exp, log and their family."""

    # -- exponentials

    def _exp_reduce(self, x: Value) -> tuple[Value, Value]:
        """n (a float), r with x = n ln(2) + r and |r| <= ln(2)/2, for clamped x."""
        facts, magic = self.format(x), self._magic(x)
        n = self.fma(x, LOG2E, self.const(magic, x.dtype)) - magic
        r = self.fma(n, -facts["ln2_hi"], x)
        return n, self.fma(n, -facts["ln2_lo"], r)

    def _expm1_small(self, r: Value) -> Value:
        """exp(r) - 1 for |r| <= ln(2)/2."""
        return self.fma(r * r, self.poly(r, polynomials.EXP), r)

    def _exp_clamped(self, x: Value) -> tuple[Value, Value]:
        facts = self.format(x)
        n, r = self._exp_reduce(self.clamp(x, facts["exp_low"], facts["exp_high"]))
        return n, self._expm1_small(r)

    def exp(self, x: Value) -> Value:
        """e^x."""
        facts = self.format(x)

        def parts(x: Value) -> tuple[Value, Value]:
            n, r = self._exp_reduce(self.where(x > facts["exp_high"], facts["exp_high"], x))
            return self.fma(self.fma(self.poly(r, polynomials.EXP), r, 1.0), r, 1.0), n

        return self._scaled_above(facts["exp_zero"], x, parts)

    def exp_times(self, x: Value, low: Operand, factor: Operand) -> Value:
        """factor * e^(x + low), |low| far below one ulp of x; subnormal results are rounded once only."""
        n, q = self._exp_clamped(x)
        p = q + 1.0
        return self.scale(self.fma(p, low, p) * factor, n)

    def exp2(self, x: Value) -> Value:
        """2^x; exact for integral x."""
        facts, magic = self.format(x), self._magic(x)

        def parts(x: Value) -> tuple[Value, Value]:
            x = self.where(x > facts["exp2_high"], facts["exp2_high"], x)
            n = (x + magic) - magic
            r = x - n
            return self.fma(self.poly(r, polynomials.EXP2), r, 1.0), n

        return self._scaled_above(facts["exp2_zero"], x, parts)

    def expm1(self, x: Value) -> Value:
        """e^x - 1, accurate near zero."""
        facts = self.format(x)
        n, r = self._exp_reduce(self.clamp(x, facts["expm1_low"], facts["expm1_high"]))
        return self.copysign(self._expm1_scaled(self._expm1_small(r), n), x)

    def _expm1_scaled(self, q: Value, n: Value) -> Value:
        """2^n (1 + q) - 1. Half of it is computed and doubled, so that n = 128 (float32) does not overflow."""
        half = self._power_of_two((n - 1.0) + self._magic(q))
        e = self.fma(half, q, half - 0.5)
        return self.where(self.eq(n, 0.0), q, e + e)

    def sinh(self, x: Value) -> Value:
        """Hyperbolic sine."""
        a = self.abs(x)
        n, q = self._exp_clamped(a)
        half = self.scale(q + 1.0, n - 1.0)
        large = half - 0.25 / half
        u = self._expm1_scaled(q, self.where(n > 2.0, 2.0, n))  # used only below 1, where n <= 1
        small = 0.5 * (u + u / (u + 1.0))
        return self.copysign(self.where(a < 1.0, small, large), x)

    def cosh(self, x: Value) -> Value:
        """Hyperbolic cosine."""
        n, q = self._exp_clamped(self.abs(x))
        half = self.scale(q + 1.0, n - 1.0)  # e^|x| / 2 does not overflow before cosh does
        return half + 0.25 / half

    def tanh(self, x: Value) -> Value:
        """Hyperbolic tangent: u / (u + 2) with u = e^2|x| - 1."""
        facts, magic = self.format(x), self._magic(x)
        a = self.abs(x)
        a = self.where(a > facts["tanh_one"], facts["tanh_one"], a)
        shifted = self.fma(a, 2.0 * LOG2E, self.const(magic, x.dtype))
        n = shifted - magic
        r = self.fma(n, -facts["ln2_lo"], self.fma(n, -facts["ln2_hi"], a + a))
        power = self._power_of_two(shifted)
        u = self.fma(power, self._expm1_small(r), power - 1.0)
        # The quotient is corrected by what u + 2 and the division lost.
        d = u + 2.0
        lost = u - (d - 2.0)
        inverse = 1.0 / d
        t = u * inverse
        t = self.fma(self.fma(-t, lost, self.exact_fma(-t, d, u)), inverse, t)
        return self.copysign(t, x)

    def sigmoid(self, x: Value) -> Value:
        """1 / (1 + e^-x), from e^-|x|, so that nothing overflows and small results keep their digits."""
        n, q = self._exp_clamped(-self.abs(x))
        p, lost = self.fast_two_sum(self.const(1.0, x.dtype, x.lanes), q)
        e = self.scale(p, n)
        # Below zero the result is e/(1 + e): what e lost in rounding is given back through the denominator.
        relative = self.where(x < 0.0, lost * (2.0 - p), 0.0)
        return self.where(x < 0.0, e, 1.0) / (1.0 + (e - relative))

    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)."""
        return x * self.sigmoid(x)

    def softplus(self, x: Value) -> Value:
        """log(1 + e^x)."""
        return self.max(x, 0.0) + self._log1p_below_one(self.exp(-self.abs(x)))

    def logaddexp(self, a: Operand, b: Operand) -> Value:
        """log(e^a + e^b)."""
        a, b = self.unify(a, b)
        apart = self.max(a, b) + self._log1p_below_one(self.exp(-self.abs(a - b)))
        return self.where(self.eq(a, b), a + LN2, apart)  # equal infinities have no difference

    # -- logarithms

    def _split_exponent(self, x: Value) -> tuple[Value, Value]:
        """e (a float), m with x = 2^e m and sqrt(1/2) <= m < sqrt(2), for positive finite x."""
        facts = self.format(x)
        digits, bias = facts["digits"], facts["bias"]
        low = {"float32": 0x3F3504F3, "float64": 0x3FE6A09E667F3BCD}[x.dtype]
        tiny = x < facts["min_normal"]
        bits = self.bits(self.where(tiny, x * 2.0 ** (digits + 2), x)) - (low - (bias << digits))
        # The exponent field, put under the digits of 2^digits, is a float without any conversion.
        field = self.op(f"lshr {bits.typed}, {self.const(digits, bits.dtype, x.lanes).text}", bits.dtype, x.lanes)
        e = self.from_bits(field | ((bias + digits) << digits)) - (2.0**digits + bias)
        e = e - self.where(tiny, float(digits + 2), self.const(0.0, x.dtype))
        m = self.from_bits((bits & ((1 << digits) - 1)) + low)
        return e, m

    def _log1p_tail(self, f: Value) -> tuple[Value, Value]:
        """half, t with log(1 + f) = f - (half - t), where half = f^2/2 and sqrt(1/2) <= 1 + f <= sqrt(2)."""
        z = f * f
        half = 0.5 * z
        if f.dtype == "float32":
            return half, f * z * self.poly(f, polynomials.LOG)
        s = f / (f + 2.0)
        w = s * s
        return half, s * self.fma(w, self.poly(w, polynomials.LOG_RATIO), half)

    def _log_special(self, x: Value, result: Value) -> Value:
        """Put in the logarithms of what is not positive and finite."""
        result = self.where(x < float("inf"), result, x)
        other = self.where(self.eq(x, 0.0), float("-inf"), self.const(float("nan"), x.dtype))
        return self.where(x > 0.0, result, self.where(self.isnan(x), x, other))

    def log(self, x: Value) -> Value:
        """Natural logarithm: -inf at 0, NaN below."""
        facts = self.format(x)
        e, m = self._split_exponent(x)
        f = m - 1.0
        half, t = self._log1p_tail(f)
        result = self.fma(e, facts["ln2_hi"], f - (half - self.fma(e, facts["ln2_lo"], t)))
        return self._log_special(x, result)

    def log1p(self, x: Value) -> Value:
        """log(1 + x), accurate near zero."""
        facts = self.format(x)
        u, lost = self.two_sum(self.const(1.0, x.dtype, x.lanes), x)
        e, m = self._split_exponent(u)
        near = self.eq(e, 0.0)
        f = self.where(near, x, m - 1.0)  # 1 + x may have rounded; x did not
        half, t = self._log1p_tail(f)
        correction = self.where(near, self.const(0.0, x.dtype), lost / u)
        tail = self.fma(e, facts["ln2_lo"], t) + correction
        result = self.fma(e, facts["ln2_hi"], f - (half - tail))
        return self.copysign(self._log_special(u, result), x)

    def _log1p_below_one(self, x: Value) -> Value:
        """log(1 + x) for 0 <= x <= 1: of 1 + x = 2^e m, e is 0 or 1, and nothing has to be taken apart."""
        facts = self.format(x)
        far = x > math.sqrt(2.0) - 1.0
        f = self.where(far, (x - 1.0) * 0.5, x)  # (1 + x)/2 - 1
        half, t = self._log1p_tail(f)
        zero = self.const(0.0, x.dtype, x.lanes)
        tail = t + self.where(far, facts["ln2_lo"], zero)
        return self.where(far, facts["ln2_hi"], zero) + (f - (half - tail))

    def log2(self, x: Value) -> Value:
        """Logarithm to base 2; exact for powers of two."""
        e, m = self._split_exponent(x)
        f = m - 1.0
        half, t = self._log1p_tail(f)
        return self._log_special(x, e + self._times_constant(f, t - half, LOG2E, self.format(x)["log2e_lo"]))

    def log10(self, x: Value) -> Value:
        """Logarithm to base 10."""
        facts = self.format(x)
        e, m = self._split_exponent(x)
        f = m - 1.0
        half, t = self._log1p_tail(f)
        fraction = self._times_constant(f, t - half, LOG10E, facts["log10e_lo"])
        return self._log_special(x, self.fma(e, facts["log10_2_hi"], self.fma(e, facts["log10_2_lo"], fraction)))

    def _times_constant(self, high: Value, low: Operand, constant: float, constant_low: float) -> Value:
        """(high + low) * (constant + constant_low) with one rounding that matters."""
        return self.fma(high, constant, self.fma(low, constant, high * constant_low))

    def asinh(self, x: Value) -> Value:
        """Inverse hyperbolic sine."""
        a = self.abs(x)
        big = a > (2.0**60 if x.dtype == "float32" else 2.0**500)  # where a^2 overflows, asinh(a) = log(2a)
        z = a * a
        argument = self.where(big, a, a + z / (self.sqrt(z + 1.0) + 1.0))
        return self.copysign(self.log1p(argument) + self.where(big, LN2, self.const(0.0, x.dtype)), x)

    def acosh(self, x: Value) -> Value:
        """Inverse hyperbolic cosine; NaN below 1."""
        big = x > (2.0**60 if x.dtype == "float32" else 2.0**500)
        t = x - 1.0
        argument = self.where(big, x, t + self.sqrt(t * (t + 2.0)))
        argument = self.where(x < 1.0, float("nan"), argument)
        return self.log1p(argument) + self.where(big, LN2, self.const(0.0, x.dtype))

    def atanh(self, x: Value) -> Value:
        """Inverse hyperbolic tangent; infinite at +-1, NaN beyond."""
        a = self.abs(x)
        return self.copysign(0.5 * self.log1p((a + a) / (1.0 - a)), x)

    # -- powers

    def reciprocal(self, x: Value) -> Value:
        """1 / x."""
        return 1.0 / x

    def rsqrt(self, x: Value) -> Value:
        """1 / sqrt(x)."""
        return 1.0 / self.sqrt(x)

    def square(self, x: Value) -> Value:
        """x * x."""
        return x * x

    def pow(self, x: Value, y: Operand) -> Value:
        """x^y with C's rules: x^0 = 1^y = 1 even for NaN, a negative x needs an integral y."""
        x, y = self.unify(x, y)
        power = self._power_float32 if x.dtype == "float32" else self._power_float64
        result = power(self.abs(x), y)
        integral = self.eq(self.round(y), y)
        halved = y * 0.5
        odd = integral & self.ne(self.round(halved), halved)
        negative = self.bits(x) < 0
        signed = self.where(negative & odd, -result, result)
        invalid = (x < 0.0) & ~integral & (x > float("-inf"))
        result = self.where(invalid, float("nan"), signed)
        one = self.eq(y, 0.0) | self.eq(x, 1.0) | (self.eq(x, -1.0) & self.isinf(y))
        return self.where(one, 1.0, result)

    def _power_float32(self, x: Value, y: Value) -> Value:
        """x^y of non-negative float32, in float64: rounded once, subnormals and overflow included, by the last cast."""
        e, m = self._split_exponent(x)
        f = self.cast(m - 1.0, "float64")
        z = f * f
        log = self.fma(f * z, self.poly(f, polynomials.LOG_FOR_POW), self.fma(z, -0.5, f))
        log = self._log_special(self.cast(x, "float64"), self.fma(self.cast(e, "float64"), LN2, log))
        n, r = self._exp_reduce(self.clamp(self.cast(y, "float64") * log, -200.0, 200.0))
        q = self.fma(r * r, self.poly(r, polynomials.EXP_FOR_POW), r)
        return self.cast((q + 1.0) * self._power_of_two(n + self._magic(n)), "float32")

    def _power_float64(self, x: Value, y: Value) -> Value:
        """x^y of non-negative float64: the logarithm needs 65 bits, because y log(x) may reach 745."""
        high, low = self._log_double(x)
        # Outside of 0 < x < inf the plain logarithm's infinities (and NaN) are right, and have no low part.
        ordinary = (x > 0.0) & (x < float("inf"))
        high = self.where(ordinary, high, self._log_special(x, high))
        p, e = self.two_product(self.clamp(y, -1e300, 1e300), self.clamp(high, -1e5, 1e5))
        e = self.where(ordinary & (self.abs(p) < 1e4), self.fma(y, low, e), 0.0)
        p = self.where(ordinary & (self.abs(p) < 1e4), p, y * high)
        n, q = self._exp_clamped(p)
        result = self.scale((q + e * (q + 1.0)) + 1.0, n)
        return result

    def _log_double(self, x: Value) -> tuple[Value, Value]:
        """log(x) as an unevaluated sum high + low of float64, for positive finite x."""
        facts = self.format(x)
        e, m = self._split_exponent(x)
        f = m - 1.0
        # s = f / (2 + f) in double-double.
        d, d_low = self.fast_two_sum(self.const(2.0, x.dtype, x.lanes), f)
        s = f / d
        s_low = (self.exact_fma(-s, d, f) - s * d_low) / d
        # log(m) = 2 atanh(s) = 2 (s + s (z/3 + z^2 tail(z))), z = s^2
        z, z_low = self.two_product(s, s)
        z_low = self.fma(s + s, s_low, z_low)
        third, third_low = 1.0 / 3.0, 1.850371707708594e-17
        w, w_low = self.two_product(z, third)
        w_low = w_low + self.fma(z_low, third, z * third_low)
        c, c_low = self.fast_two_sum(w, z * z * self.poly(z, polynomials.ATANH_TAIL))
        c_low = c_low + w_low
        p, p_low = self.two_product(s, c)
        p_low = p_low + self.fma(s, c_low, s_low * c)
        a, a_low = self.fast_two_sum(s, p)
        a_low = a_low + (s_low + p_low)
        high, low = self.two_sum(e * facts["ln2_hi"], a + a)
        low = low + self.fma(e, facts["ln2_lo"], a_low + a_low)
        return self.fast_two_sum(high, low)

    def hypot(self, a: Operand, b: Operand) -> Value:
        """sqrt(a^2 + b^2) without overflow; infinite if either is, even beside NaN."""
        a, b = self.unify(a, b)
        a, b = self.abs(a), self.abs(b)
        infinite = self.eq(a, float("inf")) | self.eq(b, float("inf"))
        if a.dtype == "float32":
            x, y = self.cast(a, "float64"), self.cast(b, "float64")
            result = self.cast(self.sqrt(self.fma(x, x, y * y)), "float32")
        else:
            m = self.max(a, b)
            huge, tiny = m > 2.0**500, m < 2.0**-500
            up = self.where(huge, 2.0**-600, self.where(tiny, 2.0**600, self.const(1.0, a.dtype, a.lanes)))
            down = self.where(huge, 2.0**600, self.where(tiny, 2.0**-600, self.const(1.0, a.dtype, a.lanes)))
            x, y = a * up, b * up
            result = self.sqrt(self.fma(x, x, y * y)) * down
        return self.where(infinite, float("inf"), result)

    # -- float division with remainder, as NumPy defines it

    def fmod(self, a: Operand, b: Operand) -> Value:
        """The remainder with the sign of a, exact (C's fmod).

        The quotient is found by division: rounding may raise it to a whole number, never lower it below one. While it
        is exact, one fused multiply-add gives the remainder, which is always a float. The library does the others.
        """
        a, b = self.unify(a, b)
        ratio, size = a / b, self.abs(b)
        r = self.exact_fma(-self.trunc(ratio), b, a)
        r = self.where(self.ne(r, 0.0) & self.ne(r < 0.0, a < 0.0), r + self.copysign(size, a), r)
        r = self.copysign(self.where(self.abs(a) < size, a, r), a)
        unsure = ~(self.abs(ratio) < 2.0 ** (self.format(a)["digits"] - 1))  # not a number, too
        if not self.target.fma:  # products in two parts need room below and above
            far = 2.0 ** (self.format(a)["bias"] * 3 // 4)
            unsure = unsure | (self.abs(a) > far) | (size < 1.0 / far)
        return self.rare("fmod", unsure, r, a, b)

    def remainder(self, a: Operand, b: Operand) -> Value:
        """The remainder with the sign of b."""
        a, b = self.unify(a, b)
        if a.dtype not in _FORMAT:
            return super().remainder(a, b)
        r = self.fmod(a, b)
        wrapped = self.where(self.ne(r < 0.0, b < 0.0), r + b, r)
        return self.where(self.eq(r, 0.0), self.copysign(r, b), wrapped)

    def floor_divide(self, a: Operand, b: Operand) -> Value:
        """floor(a / b), consistent with `remainder`."""
        a, b = self.unify(a, b)
        if a.dtype not in _FORMAT:
            return super().floor_divide(a, b)
        ratio = a / b
        r = self.fmod(a, b)
        quotient = (a - r) / b
        wrapped = self.ne(r, 0.0) & self.ne(r < 0.0, b < 0.0)
        quotient = self.where(wrapped, quotient - 1.0, quotient)
        whole = self.floor(quotient)
        whole = self.where(quotient - whole > 0.5, whole + 1.0, whole)
        whole = self.where(self.eq(quotient, 0.0), self.copysign(0.0, ratio), whole)
        return self.where(self.eq(b, 0.0), ratio, whole)
