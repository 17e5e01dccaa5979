"""`Kernel`: the builder with every function of the vector mathematics. It is the `k` of an op's `lower` rule."""

from __future__ import annotations

from typing import TypeAlias

from agog.compiler.ir import Value
from agog.compiler.targets import ITEMSIZE
from agog.compiler.vecerf import ErrorFunction
from agog.compiler.vectrig import Circular

__all__ = ["Kernel"]


class Kernel(ErrorFunction, Circular):
    """Emits a kernel: `k.exp(x)`, `x + y`, `k.where(c, x, y)`, loops and memory.

    Operands are `ir.Value`s of one dtype, or Python numbers. Functions of floats take float32 and float64.
    """

    def partial(self, count: Value) -> Partial:
        """Access to the first `count` (a Value, at most `lanes`) elements at an address, as a vector."""
        return Masked(self, count) if self.target.masked else Buffered(self, count)


class Masked:
    """A vector whose lanes from `count` on are neither read nor written, by the machine's masks."""

    def __init__(self, k: Kernel, count: Value) -> None:
        # 32-bit lane numbers: 64-bit ones would need a comparison per half of a float32 vector.
        self.k, self.count = k, k.cast(count, "int32")
        self.mask = k.iota("int32") < k.splat(self.count)

    def load(self, pointer: Value, dtype: str) -> Value:
        """The elements, then zeros."""
        return self.k.masked_load(pointer, self.mask, dtype)

    def store(self, value: Value, pointer: Value) -> None:
        """Store the first elements of `value`."""
        k, mask = self.k, self.mask
        if value.dtype == "bool" or ITEMSIZE[value.dtype] < 4:
            # LLVM (22) makes a store of one lane, where it knows that it is one, a store of 32 bits: it loses the
            # truncation of the value, and writes beyond the element. So it may not know.
            mask = k.iota("int32") < k.splat(k.hidden(self.count))
        k.masked_store(value, pointer, mask)


class Buffered:
    """The same through a vector on the stack, for machines whose vectors cannot be masked."""

    def __init__(self, k: Kernel, count: Value) -> None:
        self.k, self.count = k, count

    def load(self, pointer: Value, dtype: str) -> Value:
        """The elements, then zeros."""
        k = self.k
        stored = "uint8" if dtype == "bool" else dtype
        place = k.alloca(k.lanes * ITEMSIZE[stored])
        k.store(k.const(0, stored, k.lanes), place)
        k.copy(place, pointer, self.count * ITEMSIZE[stored])
        return k.load(place, dtype, k.lanes)

    def store(self, value: Value, pointer: Value) -> None:
        """Store the first elements of `value`."""
        k = self.k
        place = k.alloca(k.lanes * ITEMSIZE[value.dtype])
        k.store(value, place)
        k.copy(pointer, place, self.count * ITEMSIZE[value.dtype])


#: What `Kernel.partial` gives: `load(pointer, dtype)` and `store(value, pointer)`.
Partial: TypeAlias = Masked | Buffered
