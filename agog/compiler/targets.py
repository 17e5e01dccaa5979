"""What the code generator needs to know about a machine, as a table of facts.

Nothing else in the compiler asks "is this x86?": it asks a `Target` how wide a vector is, whether there is a fused
multiply-add, whether masked memory accesses are native. Adding a machine means adding a row.
"""

from __future__ import annotations

import functools
import pathlib
import platform
from dataclasses import dataclass
from typing import Mapping

from agog.compiler import processor
from agog.errors import DeviceError

__all__ = ["AVX2", "AVX512", "NEON", "SSE2", "TARGETS", "Target", "caches", "host", "last_cache"]

#: Bytes of one element in memory. A bool is one byte, as in NumPy.
ITEMSIZE = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}

#: The 16-bit floats: two bytes in memory, computed with as float32.
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Target:
    """Facts about one kind of machine.

    `cpu` and `features` go to LLVM's target machine. The CPU is a *level* (such as x86-64-v3), not the model in this
    box, so that an object cached on one machine of a level serves every other, and tests can force a lesser one.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bits: int
    registers: int
    #: A hardware fused multiply-add. Without one, `llvm.fma` would be a library call per lane.
    fma: bool
    #: Hardware floor, ceil, round-to-even (SSE4.1 and up). Without, LLVM would call the library per lane.
    rounding: bool
    #: Masked loads and stores of every element width, which never touch (or fault on) masked-off lanes.
    masked: bool
    #: AVX-512 `vscalef`: x * 2^n with overflow, underflow and subnormals right, in one instruction.
    scalef: bool
    #: Instructions between float16 and float32. Without, LLVM would call the library per lane.
    half: bool

    def __hash__(self) -> int:
        return hash(self.name)  # of all fields it would be made anew at each look into a table

    def lanes(self, dtype: str) -> int:
        """How many elements of `dtype` fill one vector register: of a 16-bit float, those that fill it as float32."""
        return self.vector_bits // (32 if dtype in HALVES else 8 * ITEMSIZE[dtype])

    @property
    def vector_bytes(self) -> int:
        """Bytes in one vector register."""
        return self.vector_bits // 8

    @property
    def attributes(self) -> str:
        """LLVM function attributes: without these, LLVM splits 512-bit vectors in two on many CPUs."""
        width = f'"{self.vector_bits}"'
        return f'nounwind "prefer-vector-width"={width} "min-legal-vector-width"={width}'

    @property
    def system(self) -> str:
        """The operating system named by the triple: "linux", "darwin", "windows", or what follows the vendor."""
        for system in ("linux", "darwin", "macosx", "windows"):
            if system in self.triple:
                return "darwin" if system == "macosx" else system
        return self.triple.split("-")[-1]

    @property
    def machine(self) -> str:
        """The instruction set named by the triple, "x86_64" or "aarch64"."""
        return {"arm64": "aarch64"}.get(self.triple.split("-")[0], self.triple.split("-")[0])


def _triple() -> str:
    """This process's triple, without importing LLVM."""
    machine = {"AMD64": "x86_64", "amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    system = {
        "Linux": "unknown-linux-gnu",
        "Darwin": "apple-darwin",
        "Windows": "pc-windows-msvc",
    }.get(platform.system(), "unknown-unknown")
    return f"{machine}-{system}"


_X86 = _triple() if _triple().startswith("x86_64") else "x86_64-unknown-linux-gnu"
_ARM = _triple() if _triple().startswith("aarch64") else "aarch64-unknown-linux-gnu"

AVX512 = Target(
    "avx512", _X86, "x86-64-v4", "", 512, registers=32, fma=True, rounding=True, masked=True, scalef=True, half=True
)
AVX2 = Target(
    "avx2", _X86, "x86-64-v3", "", 256, registers=16, fma=True, rounding=True, masked=False, scalef=False, half=True
)
SSE2 = Target(
    "sse2", _X86, "x86-64", "", 128, registers=16, fma=False, rounding=False, masked=False, scalef=False, half=False
)
NEON = Target(
    "neon", _ARM, "generic", "+neon", 128, registers=32, fma=True, rounding=True, masked=False, scalef=False, half=True
)

#: Every target by name, best first within an instruction set.
TARGETS = {target.name: target for target in (AVX512, AVX2, SSE2, NEON)}

#: What the host must have for an x86 target, in LLVM's feature names.
_REQUIRED = {
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "fma", "bmi2", "f16c"),
    "avx2": ("avx2", "fma", "bmi", "bmi2", "f16c", "lzcnt", "movbe"),
    "sse2": ("sse2",),
    "neon": (),
}


def supported(target: Target) -> bool:
    """Whether this machine can run code made for `target`."""
    if _triple().split("-")[0] != target.machine:
        return False
    features = _host_features()
    return all(features.get(name, False) for name in _REQUIRED[target.name])


@functools.cache
def host() -> Target:
    """The best target this machine can run."""
    for target in TARGETS.values():
        if supported(target):
            return target
    raise DeviceError(
        f"agog's compiler has no target for this machine ({platform.machine()}); it has {', '.join(TARGETS)}. "
        "Eager mode works without it."
    )


@functools.cache
def caches() -> tuple[int, int]:
    """Bytes of a core's first and second level data caches; small ones where the system does not say."""
    found = _caches()
    return max(32 << 10, min(found.get(1, 0), 128 << 10)), max(1 << 20, min(found.get(2, 0), 2 << 20))


def last_cache() -> int:
    """Bytes of the last cache before memory, which cores share; 0 where the system does not say."""
    return max(_caches().values(), default=0)


@functools.cache
def _caches() -> dict[int, int]:
    """Bytes of the first core's data caches by level, as far as the system says."""
    found = {}
    for folder in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):  # Linux
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return found


@functools.cache
def _host_features() -> Mapping[str, bool]:
    found = processor.features()
    if found is not None:
        return found
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_features()
