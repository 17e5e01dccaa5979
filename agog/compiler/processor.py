"""What an x86-64 processor can do, asked with its own instruction: LLVM asks the same, but takes 25 ms to be loaded."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Mapping

from agog.compiler import elf

__all__ = ["features"]

# void ask(leaf, part, uint32_t *found): cpuid
_ASK = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
# uint32_t enabled(): xgetbv, which the system must have allowed
_ENABLED = bytes.fromhex("31c9 0f01d0 c3")

_A, _B, _C, _D = range(4)  # registers
_VECTORS, _WIDE, _TILES = 0x6, 0xE6, 0x60000  # what the system must keep of a thread
_MORE = 0x8000_0001

#: By LLVM's names: where a processor says so, and what the system must do for it.
_BITS = {
    "sse2": (1, _D, 26, 0),
    "fma": (1, _C, 12, _VECTORS),
    "movbe": (1, _C, 22, 0),
    "f16c": (1, _C, 29, _VECTORS),
    "bmi": (7, _B, 3, 0),
    "avx2": (7, _B, 5, _VECTORS),
    "bmi2": (7, _B, 8, 0),
    "avx512f": (7, _B, 16, _WIDE),
    "avx512dq": (7, _B, 17, _WIDE),
    "avx512cd": (7, _B, 28, _WIDE),
    "avx512bw": (7, _B, 30, _WIDE),
    "avx512vl": (7, _B, 31, _WIDE),
    "avx512bf16": (7, _A, 5, 1, _WIDE),  # of the leaf's part 1
    "amx-bf16": (7, _D, 22, _TILES),
    "amx-tile": (7, _D, 24, _TILES),
    "lzcnt": (_MORE, _C, 5, 0),
}
_HAS_XGETBV, _HAS_AVX = 27, 28  # of leaf 1 and register C


@functools.cache
def features() -> Mapping[str, bool] | None:
    """Which of the features that agog asks for the processor has, by LLVM's names; None where this cannot be asked."""
    if not elf.usable():
        return None
    try:
        asking, enabling = elf.executable(_ASK), elf.executable(_ENABLED)
    except elf.Unknown:
        return None
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(asking.address)

    @functools.cache
    def ask(leaf: int, part: int = 0) -> Any:
        found = (ctypes.c_uint32 * 4)()
        kind(leaf, part, ctypes.addressof(found))
        return found

    def has(leaf: int, register: int, bit: int, part: int = 0) -> bool:
        there = leaf <= ask(leaf & 0x8000_0000)[_A] and (part == 0 or part <= ask(leaf)[_A])
        return there and bool(ask(leaf, part)[register] >> bit & 1)

    wide = has(1, _C, _HAS_XGETBV) and has(1, _C, _HAS_AVX)
    keeps = ctypes.CFUNCTYPE(ctypes.c_uint32)(enabling.address)() if wide else 0
    found = {name: has(*where) and keeps & needs == needs for name, (*where, needs) in _BITS.items()}
    asking.close()
    enabling.close()
    return found
