"""The 16-bit floats: float16 and bfloat16 in memory, float32 in registers.

A `Value` of dtype "float16" or "bfloat16" holds the bits, as an integer of 16. It can be loaded, stored and cast;
whatever computes widens it first. `rounded` rounds a float32 to what a 16-bit float can hold and leaves it a float32,
so that a chain of operations, each of which rounds its result as NumPy does, stays in float32 registers.

Rounding is to nearest even with subnormals, infinities and NaN right, in instructions that every machine has. The
hardware's conversions are used for float16 where the target has them; those for bfloat16 (AVX-512 BF16) are not,
because they flush subnormals to zero.
"""

from __future__ import annotations

from agog.compiler.ir import Value, llvm_type
from agog.compiler.operators import Builder
from agog.compiler.targets import HALVES

__all__ = ["Halves"]

_LARGEST = 65520.0  # from here on float16 is infinite
_TINY = 2.0**-14  # below, float16 is subnormal


class Halves(Builder):
    """A `Builder` whose casts know the 16-bit floats."""

    def widen(self, a: Value) -> Value:
        """`a` as what is computed with: float32 for a 16-bit float, else itself."""
        return self.cast(a, "float32") if a.dtype in HALVES else a

    def cast(self, a: Value, dtype: str) -> Value:
        """NumPy's astype, with the 16-bit floats."""
        if a.dtype == dtype:
            return a
        if a.dtype in HALVES:
            return self.cast(self._widened(a), dtype)
        if dtype not in HALVES:
            return super().cast(a, dtype)
        if a.dtype == "float64" and dtype == "float16":
            a = self._to_odd(a)
        a = super().cast(a, "float32")  # as NumPy does it, integers too
        if dtype == "float16" and self.target.half:
            return self._half_bits(a)
        return self.narrowed(self.rounded(a, dtype), dtype)

    def rounded(self, a: Value, dtype: str) -> Value:
        """The float32 `a` rounded to a number that the 16-bit `dtype` has; still a float32."""
        if dtype == "bfloat16":
            return self.where(self.isnan(a), float("nan"), self._rounded_at(a, 16))
        if self.target.half:
            return self._from_half_bits(self._half_bits(a))
        size = self.abs(a)
        subnormal = self.copysign((size + 0.5) - 0.5, a)  # 0.5 has the last digit that subnormals have
        result = self.where(size < _TINY, subnormal, self._rounded_at(a, 13))
        result = self.where(size >= _LARGEST, self.copysign(float("inf"), a), result)
        return self.where(self.isnan(a), a, result)

    def narrowed(self, a: Value, dtype: str) -> Value:
        """The bits in the 16-bit `dtype` of a float32 that `rounded` made."""
        if dtype == "bfloat16":
            return self._low(self._lshr(self.bits(a), 16), dtype)
        if self.target.half:
            return self._half_bits(a)
        size, bits = self.abs(a), self.bits(a)
        sign = self._lshr(bits, 16) & 0x8000
        normal = self._lshr(bits & 0x7FFFFFFF, 13) - (112 << 10)
        # n 2^-24 below 2^-14 is n units of 0.5's last place: its low bits, once 0.5 is added
        subnormal = self.bits(size + 0.5) - 0x3F000000
        result = self.where(size < _TINY, subnormal, normal)
        result = self.where(self.eq(size, float("inf")), 0x7C00, result)
        return self._low(self.where(self.isnan(a), 0x7E00, result) | sign, dtype)

    def _widened(self, a: Value) -> Value:
        """The float32 that a 16-bit float is."""
        if a.dtype == "float16" and self.target.half:
            return self._from_half_bits(a)
        wide = self.op(f"zext {a.typed} to {llvm_type('int32', a.lanes)}", "int32", a.lanes)
        if a.dtype == "bfloat16":
            return self.from_bits(self.shift_left(wide, 16))
        size = self.shift_left(wide & 0x7FFF, 13)
        finite = self.bits(self.from_bits(size) * 2.0**112)
        special = self.eq(wide & 0x7C00, 0x7C00)
        return self.from_bits(self.where(special, size | 0x7F800000, finite) | self.shift_left(wide & 0x8000, 16))

    def _rounded_at(self, a: Value, digits: int) -> Value:
        """`a` without its last `digits` bits, rounded to nearest even; infinite where that overflows."""
        bits = self.bits(a)
        odd = self._lshr(bits, digits) & 1
        return self.from_bits((bits + ((1 << digits - 1) - 1) + odd) & (-1 << digits))

    def _to_odd(self, a: Value) -> Value:
        """The float64 `a` as a float32, with an odd last digit unless it is exact: then rounding again is right."""
        near = super().cast(a, "float32")
        back = super().cast(near, "float64")
        bits = self.bits(near)
        bits = self.where(self.abs(back) > self.abs(a), bits - 1, bits)
        return self.from_bits(self.where(self.ne(back, a), bits | 1, bits))

    def _half_bits(self, a: Value) -> Value:
        half = "half" if a.lanes == 1 else f"<{a.lanes} x half>"
        short = self.op(f"fptrunc {a.typed} to {half}", "float16", a.lanes)
        return self.op(f"bitcast {half} {short.text} to {short.type}", "float16", a.lanes)

    def _from_half_bits(self, a: Value) -> Value:
        half = "half" if a.lanes == 1 else f"<{a.lanes} x half>"
        short = self.op(f"bitcast {a.typed} to {half}", "float16", a.lanes)
        return self.op(f"fpext {half} {short.text} to {llvm_type('float32', a.lanes)}", "float32", a.lanes)

    def _lshr(self, a: Value, count: int) -> Value:
        return self.op(f"lshr {a.typed}, {self.const(count, a.dtype, a.lanes).text}", a.dtype, a.lanes)

    def _low(self, a: Value, dtype: str) -> Value:
        """The low 16 bits of an int32, as `dtype`."""
        return self.op(f"trunc {a.typed} to {llvm_type(dtype, a.lanes)}", dtype, a.lanes)
