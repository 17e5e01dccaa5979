"""The operators of kernels, with NumPy's meaning: arithmetic, comparisons, logic, rounding, casts, lane reductions."""

from __future__ import annotations

from typing import Callable

from agog.compiler.ir import FLOATS, UNSIGNED, Emitter, Operand, Value, llvm_type, mangled
from agog.compiler.targets import ITEMSIZE
from agog.errors import DTypeError

__all__ = ["Builder"]


class Builder(Emitter):
    """An `Emitter` with operators. Each takes Values of one dtype, or Python numbers, which take the other's dtype."""

    def _binary(
        self, a: Operand, b: Operand, float_op: str | None, int_op: str | None, bool_op: str | None = None
    ) -> Value:
        a, b = self.unify(a, b)
        name = float_op if a.dtype in FLOATS else bool_op if a.dtype == "bool" else int_op
        if name is None:
            raise DTypeError(f"this operator does not take {a.dtype}")
        return self.op(f"{name} {a.typed}, {b.text}", a.dtype, a.lanes)

    # -- arithmetic

    def add(self, a: Operand, b: Operand) -> Value:
        """a + b (bool: or)."""
        return self._binary(a, b, "fadd", "add", "or")

    def sub(self, a: Operand, b: Operand) -> Value:
        """a - b."""
        return self._binary(a, b, "fsub", "sub")

    def mul(self, a: Operand, b: Operand) -> Value:
        """a * b (bool: and)."""
        return self._binary(a, b, "fmul", "mul", "and")

    def div(self, a: Operand, b: Operand) -> Value:
        """a / b of floats."""
        return self._binary(a, b, "fdiv", None)

    def neg(self, a: Value) -> Value:
        """-a."""
        if a.dtype in FLOATS:
            return self.op(f"fneg {a.typed}", a.dtype, a.lanes)
        return self.sub(0, a)

    def abs(self, a: Value) -> Value:
        """|a|; as in NumPy, the lowest integer is its own absolute value."""
        if a.dtype in FLOATS:
            return self.intrinsic("fabs", a)
        if a.dtype in UNSIGNED:
            return a
        return self.where(a < 0, self.neg(a), a)

    def fma(self, a: Operand, b: Operand, c: Operand) -> Value:
        """a * b + c, rounded once where the machine can, otherwise twice. `vecmath` has an exact form."""
        a, b, c = self.unify(a, b, c)
        return self.intrinsic("fma", a, b, c) if self.target.fma else a * b + c

    def sqrt(self, a: Value) -> Value:
        """Square root, correctly rounded."""
        return self.intrinsic("sqrt", a)

    def copysign(self, a: Operand, b: Operand) -> Value:
        """|a| with the sign of b."""
        a, b = self.unify(a, b)
        return self.intrinsic("copysign", a, b)

    def max(self, a: Operand, b: Operand) -> Value:
        """The larger, NaN if either is NaN (NumPy's maximum)."""
        return self._extreme(a, b, "ogt", "sgt", "or")

    def min(self, a: Operand, b: Operand) -> Value:
        """The smaller, NaN if either is NaN (NumPy's minimum)."""
        return self._extreme(a, b, "olt", "slt", "and")

    def _extreme(self, a: Operand, b: Operand, float_order: str, int_order: str, bool_op: str) -> Value:
        a, b = self.unify(a, b)
        if a.dtype == "bool":
            return self.op(f"{bool_op} {a.typed}, {b.text}", a.dtype, a.lanes)
        if a.dtype not in FLOATS:
            return self.where(self._compare(a, b, "", int_order), a, b)
        # One maxps (the second operand wins where they do not compare, so a NaN in b is kept), then the NaN of a.
        best = self.where(self._compare(a, b, float_order, ""), a, b)
        return self.where(self.isnan(a), a, best)

    # -- integer division, with NumPy's (Python's) floor rule and zero for division by zero

    def floor_divide(self, a: Operand, b: Operand) -> Value:
        """floor(a / b) of integers."""
        quotient, remainder, b = self._divmod(a, b)
        inexact = self.ne(remainder, 0) & self.ne(remainder < 0, b < 0)
        return self.where(inexact, quotient - 1, quotient)

    def remainder(self, a: Operand, b: Operand) -> Value:
        """a - b * floor(a / b) of integers: the sign of b."""
        _, remainder, b = self._divmod(a, b)
        inexact = self.ne(remainder, 0) & self.ne(remainder < 0, b < 0)
        return self.where(inexact, remainder + b, remainder)

    def _divmod(self, a: Operand, b: Operand) -> tuple[Value, Value, Value]:
        """Truncated quotient and remainder, and b; both zero where b is zero. Lowest / -1 wraps as in NumPy."""
        a, b = self.unify(a, b)
        if a.dtype in FLOATS or a.dtype == "bool":
            raise DTypeError(f"integer division does not take {a.dtype}")
        zero = self.eq(b, 0)
        if a.dtype in UNSIGNED:
            quotient = self.op(f"udiv {a.typed}, {self.where(zero, 1, b).text}", a.dtype, a.lanes)
        else:
            minus = self.eq(b, -1)  # lowest / -1 traps, as division by zero does
            quotient = self.op(f"sdiv {a.typed}, {self.where(zero | minus, 1, b).text}", a.dtype, a.lanes)
            quotient = self.where(minus, self.neg(a), quotient)
        quotient = self.where(zero, 0, quotient)
        remainder = self.where(zero, 0, a - quotient * b)
        return quotient, remainder, b

    # -- rounding

    def round(self, a: Value) -> Value:
        """To the nearest integer, halves to even (NumPy's rint)."""
        if a.dtype not in FLOATS:
            return a
        return self.intrinsic("roundeven", a) if self.target.rounding else self._round_by_magic(a)

    def floor(self, a: Value) -> Value:
        """The largest integer not above a."""
        if a.dtype not in FLOATS:
            return a
        if self.target.rounding:
            return self.intrinsic("floor", a)
        r = self._round_by_magic(a)
        return self.copysign(self.where(r > a, r - 1.0, r), a)

    def ceil(self, a: Value) -> Value:
        """The smallest integer not below a."""
        if a.dtype not in FLOATS:
            return a
        return self.intrinsic("ceil", a) if self.target.rounding else self.neg(self.floor(self.neg(a)))

    def trunc(self, a: Value) -> Value:
        """Toward zero."""
        if a.dtype not in FLOATS:
            return a
        return self.intrinsic("trunc", a) if self.target.rounding else self.copysign(self.floor(self.abs(a)), a)

    def _round_by_magic(self, a: Value) -> Value:
        """Adding and subtracting 2^(digits) rounds at the units place; larger numbers are integers already."""
        magic = 2.0**23 if a.dtype == "float32" else 2.0**52
        size = self.abs(a)
        rounded = self.copysign((size + magic) - magic, a)
        return self.where(size < magic, rounded, a)

    def sign(self, a: Value) -> Value:
        """-1, 0 or 1; NaN stays NaN."""
        zero, one = self.const(0, a.dtype, a.lanes), self.const(1, a.dtype, a.lanes)
        if a.dtype in UNSIGNED:
            return self.cast(self.ne(a, 0), a.dtype)
        result = self.where(a > 0, one, self.where(a < 0, self.neg(one), zero))
        return self.where(self.eq(a, a), result, a) if a.dtype in FLOATS else result

    # -- comparisons and logic

    def _compare(self, a: Operand, b: Operand, float_order: str, int_order: str) -> Value:
        a, b = self.unify(a, b)
        if a.dtype in FLOATS:
            return self.op(f"fcmp {float_order} {a.typed}, {b.text}", "bool", a.lanes)
        if a.dtype in UNSIGNED and int_order[0] == "s":
            int_order = "u" + int_order[1:]
        return self.op(f"icmp {int_order} {a.typed}, {b.text}", "bool", a.lanes)

    def eq(self, a: Operand, b: Operand) -> Value:
        """a == b."""
        return self._compare(a, b, "oeq", "eq")

    def ne(self, a: Operand, b: Operand) -> Value:
        """a != b (true for NaN)."""
        return self._compare(a, b, "une", "ne")

    def lt(self, a: Operand, b: Operand) -> Value:
        """a < b."""
        return self._compare(a, b, "olt", "slt")

    def le(self, a: Operand, b: Operand) -> Value:
        """a <= b."""
        return self._compare(a, b, "ole", "sle")

    def gt(self, a: Operand, b: Operand) -> Value:
        """a > b."""
        return self._compare(a, b, "ogt", "sgt")

    def ge(self, a: Operand, b: Operand) -> Value:
        """a >= b."""
        return self._compare(a, b, "oge", "sge")

    def isnan(self, a: Value) -> Value:
        """Whether a is NaN."""
        return self._compare(a, a, "uno", "ne")

    def isinf(self, a: Value) -> Value:
        """Whether a is an infinity."""
        return self.eq(self.abs(a), float("inf")) if a.dtype in FLOATS else self.ne(a, a)

    def isfinite(self, a: Value) -> Value:
        """Whether a is neither infinite nor NaN."""
        return self.lt(self.abs(a), float("inf")) if a.dtype in FLOATS else self.eq(a, a)

    def bitwise_and(self, a: Operand, b: Operand) -> Value:
        """a & b of integers or bools."""
        return self._binary(a, b, None, "and", "and")

    def bitwise_or(self, a: Operand, b: Operand) -> Value:
        """a | b of integers or bools."""
        return self._binary(a, b, None, "or", "or")

    def bitwise_xor(self, a: Operand, b: Operand) -> Value:
        """a ^ b of integers or bools."""
        return self._binary(a, b, None, "xor", "xor")

    def bitwise_not(self, a: Value) -> Value:
        """~a of integers or bools."""
        return self.bitwise_xor(a, True if a.dtype == "bool" else -1)

    def shift_left(self, a: Operand, b: Operand) -> Value:
        """a << b; zero when b is at least the width, as in NumPy."""
        return self._shift(a, b, "shl", 0)

    def shift_right(self, a: Operand, b: Operand) -> Value:
        """a >> b, keeping the sign; -1 or 0 when b is at least the width, as in NumPy."""
        a, b = self.unify(a, b)
        name = "lshr" if a.dtype in UNSIGNED else "ashr"
        return self._shift(a, b, name, self.where(a < 0, -1, self.const(0, a.dtype)))

    def _shift(self, a: Operand, b: Operand, name: str, far: Operand) -> Value:
        a, b = self.unify(a, b)
        bits = 8 * ITEMSIZE[a.dtype]
        if not b.text.startswith("%"):
            return self.op(f"{name} {a.typed}, {b.text}", a.dtype, a.lanes)
        inside = (b >= 0) & (b < bits)
        amount = self.where(inside, b, 0)
        return self.where(inside, self.op(f"{name} {a.typed}, {amount.text}", a.dtype, a.lanes), far)

    def logical_and(self, a: Value, b: Value) -> Value:
        """Both are non-zero."""
        return self.truth(a) & self.truth(b)

    def logical_or(self, a: Value, b: Value) -> Value:
        """Either is non-zero."""
        return self.truth(a) | self.truth(b)

    def logical_xor(self, a: Value, b: Value) -> Value:
        """Exactly one is non-zero."""
        return self.truth(a) ^ self.truth(b)

    def logical_not(self, a: Value) -> Value:
        """Zero."""
        return ~self.truth(a)

    def truth(self, a: Value) -> Value:
        """Whether a is non-zero, as a bool."""
        return a if a.dtype == "bool" else self.ne(a, 0)

    def where(self, condition: Value, a: Operand, b: Operand) -> Value:
        """a where the condition holds, else b."""
        a, b = self.unify(a, b)
        lanes = max(condition.lanes, a.lanes)
        condition, a, b = self.splat(self.truth(condition), lanes), self.splat(a, lanes), self.splat(b, lanes)
        return self.op(f"select {condition.typed}, {a.typed}, {b.typed}", a.dtype, lanes)

    select = where

    # -- conversions

    def cast(self, a: Value, dtype: str) -> Value:
        """NumPy's astype: floats truncate to integers, anything non-zero is True."""
        source = a.dtype
        if source == dtype:
            return a
        if dtype == "bool":
            return self.ne(a, 0)
        if source in FLOATS and dtype in FLOATS:
            name = "fpext" if dtype == "float64" else "fptrunc"
        elif source in FLOATS:
            # As C compilers do it where C leaves it open: through a wider integer, then the low bits.
            if dtype == "uint32" or ITEMSIZE[dtype] < 4:
                return self.cast(self.cast(a, "int64" if dtype == "uint32" else "int32"), dtype)
            if dtype == "uint64":
                high = self.cast(a - 2.0**63, "int64") ^ (-1 << 63)
                return self.cast(self.where(a < 2.0**63, self.cast(a, "int64"), high), dtype)
            name = "fptosi"
        elif dtype in FLOATS:
            name = "uitofp" if source in UNSIGNED else "sitofp"
        elif source == "bool" or ITEMSIZE[dtype] > ITEMSIZE[source]:
            name = "zext" if source in UNSIGNED else "sext"
        elif ITEMSIZE[dtype] < ITEMSIZE[source]:
            name = "trunc"
        else:
            return Value(self, a.text, dtype, a.lanes)
        return self.op(f"{name} {a.typed} to {llvm_type(dtype, a.lanes)}", dtype, a.lanes)

    def bits(self, a: Value) -> Value:
        """The bit pattern of a float as an integer of its size."""
        dtype = {"float32": "int32", "float64": "int64"}[a.dtype]
        return self.op(f"bitcast {a.typed} to {llvm_type(dtype, a.lanes)}", dtype, a.lanes)

    def from_bits(self, a: Value) -> Value:
        """The float whose bit pattern is the integer `a`."""
        dtype = {"int32": "float32", "int64": "float64"}[a.dtype]
        return self.op(f"bitcast {a.typed} to {llvm_type(dtype, a.lanes)}", dtype, a.lanes)

    # -- reductions over the lanes of one vector

    def any(self, condition: Value) -> Value:
        """Whether any lane is true."""
        return self._reduce("or", condition)

    def reduce_sum(self, a: Value) -> Value:
        """The sum of the lanes, added pairwise."""
        if a.lanes == 1:
            return a
        if a.dtype not in FLOATS:
            return self._reduce("add", a)
        start = self.const(-0.0, a.dtype)
        suffix = mangled(a.dtype, a.lanes)
        self.module.declare(f"llvm.vector.reduce.fadd.{suffix}", llvm_type(a.dtype), f"{start.type}, {a.type}")
        # `reassoc` is what permits a tree instead of a chain of adds.
        return self.op(
            f"call reassoc {start.type} @llvm.vector.reduce.fadd.{suffix}({start.typed}, {a.typed})", a.dtype
        )

    def reduce_max(self, a: Value) -> Value:
        """The largest lane, NaN if any is NaN."""
        return self._fold(a, self.max)

    def reduce_min(self, a: Value) -> Value:
        """The smallest lane, NaN if any is NaN."""
        return self._fold(a, self.min)

    def _reduce(self, name: str, a: Value) -> Value:
        if a.lanes == 1:
            return a
        return self.call(f"llvm.vector.reduce.{name}.{mangled(a.dtype, a.lanes)}", a.dtype, a)

    def _fold(self, a: Value, fn: Callable[[Value, Value], Value]) -> Value:
        """Fold the upper half of the lanes onto the lower until one is left."""
        while a.lanes > 1:
            half = a.lanes // 2
            a = fn(self._part(a, 0, half), self._part(a, half, half))
        return a

    def _part(self, a: Value, start: int, count: int) -> Value:
        """The lanes start, ..., start + count - 1."""
        if count == 1:
            return self.extract(a, start)
        lanes = ", ".join(f"i32 {start + i}" for i in range(count))
        return self.op(f"shufflevector {a.typed}, {a.type} poison, <{count} x i32> <{lanes}>", a.dtype, count)
