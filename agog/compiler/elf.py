"""Loading relocatable objects (ELF, x86-64, Linux) into memory, without LLVM.

What LLVM makes of agog's modules needs little of a linker: a few kinds of relocations, a table of the addresses of
functions elsewhere, and jumps to them, because they may be further away than a call reaches. A process that finds on
disk all that it needs then never loads LLVM, which takes 25 ms and 47 MB. Whatever is not known here raises `Unknown`,
and LLVM links it.

Memory is written, then made executable or read-only: never writable and executable at once.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import struct
import sys
from typing import Any, Callable, NamedTuple, Sequence

__all__ = ["Pages", "Unknown", "executable", "link", "usable"]


class Unknown(Exception):
    """An object that this does not know how to load."""


@functools.cache
def usable() -> bool:
    """Whether objects for this process can be loaded here."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and struct.calcsize("P") == 8


# ------------------------------------------------------------------------------------------------------ memory
@functools.cache
def _library() -> tuple[Any, Any, Any, int]:
    """mmap, mprotect and munmap, and the size of a page."""
    import mmap

    library = ctypes.CDLL(None, use_errno=True)
    address, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.restype, library.mmap.argtypes = address, [address, size, number, number, number, ctypes.c_long]
    library.mprotect.argtypes, library.munmap.argtypes = [address, size, number], [address, size]
    return library.mmap, library.mprotect, library.munmap, mmap.PAGESIZE


_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE, _ANONYMOUS = 2, 0x20


class Pages:
    """Memory of the process's own, which is there until `close()`; it can be written until it is protected."""

    def __init__(self, size: int) -> None:
        mmap, _, _, page = _library()
        self.size = -(-size // page) * page
        self.address = mmap(None, self.size, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1, 0)
        if self.address in (None, ctypes.c_void_p(-1).value):
            self.address = 0
            raise Unknown("no memory for code")

    def protect(self, start: int, size: int, how: int) -> None:
        """Say what may be done with some of it; `start` begins a page."""
        _, mprotect, _, _ = _library()
        if size and mprotect(self.address + start, size, how):
            self.close()
            raise Unknown("the system does not let memory be made executable")

    def close(self) -> None:
        """Give the memory back."""
        if self.address:
            _library()[2](self.address, self.size)
            self.address = 0


def executable(code: bytes) -> Pages:
    """Code that refers to nothing else."""
    pages = Pages(len(code))
    ctypes.memmove(pages.address, code, len(code))
    pages.protect(0, pages.size, _READ | _EXECUTE)
    return pages


# ----------------------------------------------------------------------------------------------------- objects
class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    each: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int
    weak: bool


_SECTION, _SYMBOL, _RELOCATION = struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ"), struct.Struct("<QIIq")
_IDENTITY = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian
_RELOCATABLE, _X86_64 = 1, 62
_CONTENTS, _SYMBOLS, _RELOCATIONS, _ZEROS, _UNWIND = 1, 2, 4, 8, 0x70000001
_WRITABLE, _ALLOCATED, _CODE, _MERGED, _STRINGS = 1, 2, 4, 0x10, 0x20
_UNDEFINED, _WEAK = 0, 2
_ABSOLUTE_64, _RELATIVE, _CALL, _LISTED = 1, 2, 4, (9, 41, 42)
_MOST = 1 << 28  # bytes of an object
_JUMP = b"\xff\x25"  # jmp *(bytes from the next instruction on)


def link(data: bytes, exports: Sequence[str], resolve: Callable[[str], int]) -> tuple[Pages, dict[str, int]]:
    """Load an object. Returns its memory and the addresses of `exports`; `resolve(name)` gives those of other symbols.

    Raises Unknown for what is no object that can be loaded here.
    """
    try:
        sections, symbols, relocations = _read(data)
        where = {s.name: i for i, s in enumerate(symbols) if s.section != _UNDEFINED}
        exported = {name: symbols[where[name]] for name in exports}
        image, bounds, starts, absolute = _image(data, sections, symbols, relocations, resolve)
        addresses = {name: starts[s.section] + s.value for name, s in exported.items()}
        pages = Pages(len(image))
        for place, value, relative in absolute:
            struct.pack_into("<Q", image, place, (value + pages.address * relative) & (1 << 64) - 1)
        ctypes.memmove(pages.address, (ctypes.c_char * len(image)).from_buffer(image), len(image))
        pages.protect(0, bounds[0], _READ | _EXECUTE)
        pages.protect(bounds[0], bounds[1] - bounds[0], _READ)
        return pages, {name: pages.address + at for name, at in addresses.items()}
    except (struct.error, LookupError, ValueError) as error:
        raise Unknown(f"not an object as LLVM makes them: {error!r}") from None


def _read(data: bytes) -> tuple[dict[int, _Section], list[_Symbol], list[tuple[int, int, int, int, int]]]:
    """The sections that are loaded, by number, all symbols, and relocations: (section, place, kind, symbol, addend)."""
    kind, machine = struct.unpack_from("<HH", data, 16)
    (table,) = struct.unpack_from("<Q", data, 40)
    each, count = struct.unpack_from("<HH", data, 58)
    if data[:7] != _IDENTITY or (kind, machine, each) != (_RELOCATABLE, _X86_64, _SECTION.size):
        raise Unknown("no object for this machine")
    every = [_Section(*_SECTION.unpack_from(data, table + i * each)) for i in range(count)]
    sections = {i: s for i, s in enumerate(every) if s.flags & _ALLOCATED and s.kind != _UNWIND}
    known = _WRITABLE | _ALLOCATED | _CODE | _MERGED | _STRINGS
    if sum(s.size for s in sections.values()) > _MOST or any(s.align > _library()[3] for s in sections.values()):
        raise Unknown("sections too large")
    for s in sections.values():
        if s.flags & ~known or s.kind not in (_CONTENTS, _ZEROS) or s.flags & _CODE and s.flags & _WRITABLE:
            raise Unknown("a section of another kind")
        if s.kind == _CONTENTS and s.offset + s.size > len(data):
            raise Unknown("it ends too early")
    (listed,) = (s for s in every if s.kind == _SYMBOLS)
    names, symbols = every[listed.link].offset, []
    for name, info, _, section, value, _ in _SYMBOL.iter_unpack(data[listed.offset : listed.offset + listed.size]):
        text = data[names + name : data.index(0, names + name)].decode()
        symbols.append(_Symbol(text, section, value, info >> 4 == _WEAK))
    return sections, symbols, [
        (s.info, *r)
        for s in every
        if s.kind == _RELOCATIONS and s.info in sections
        for r in _RELOCATION.iter_unpack(data[s.offset : s.offset + s.size])
    ]


def _image(
    data: bytes,
    sections: dict[int, _Section],
    symbols: list[_Symbol],
    relocations: list[tuple[int, int, int, int, int]],
    resolve: Callable[[str], int],
) -> tuple[bytearray, list[int], dict[int, int], list[tuple[int, int, bool]]]:
    """What goes to memory: code and a jump for each function elsewhere, then what is only read, then the rest.

    Also where each of these ends, where sections start, and what is to be written when it is known where the image
    will be: (place, value, whether the image's address is to be added).
    """
    _, _, _, page = _library()
    elsewhere = {symbol: resolve(symbols[symbol].name) for symbol in _elsewhere(symbols, relocations)}
    listed = dict.fromkeys([*elsewhere, *(symbol for _, _, kind, symbol, _ in relocations if kind in _LISTED)])
    size, bounds, starts = 0, [], {}
    tables: list[dict[int, int]] = []
    for wanted, table in ((_CODE, elsewhere), (0, listed), (_WRITABLE, {})):
        for i, s in sections.items():
            if s.flags & (_CODE | _WRITABLE) == wanted:
                starts[i] = size = _round_up(size, s.align)
                size += s.size
        size = _round_up(size, 8)
        tables.append({symbol: size + 8 * n for n, symbol in enumerate(table)})
        size = _round_up(size + 8 * len(table), page)
        bounds.append(size)
    jumps, entries, _ = tables
    image = bytearray(size)
    for i, s in sections.items():
        if s.kind == _CONTENTS:
            image[starts[i] : starts[i] + s.size] = data[s.offset : s.offset + s.size]
    for symbol, place in jumps.items():
        image[place : place + 6] = _JUMP + struct.pack("<i", entries[symbol] - (place + 6))
    absolute = []

    def inside(symbol: int) -> int:
        return starts[symbols[symbol].section] + symbols[symbol].value

    for symbol, place in entries.items():
        far = symbol in elsewhere
        absolute.append((place, elsewhere[symbol] if far else inside(symbol), not far))
    for section, offset, kind, symbol, added in relocations:
        place, far = starts[section] + offset, symbol in elsewhere
        if offset + 4 * (1 + (kind == _ABSOLUTE_64)) > sections[section].size:
            raise Unknown("a relocation outside of its section")
        if kind == _ABSOLUTE_64:
            absolute.append((place, (elsewhere[symbol] if far else inside(symbol)) + added, not far))
            continue
        if kind in _LISTED:
            target = entries[symbol]
        elif kind == _CALL or kind == _RELATIVE and not far:
            target = jumps[symbol] if far else inside(symbol)
        else:
            raise Unknown(f"a relocation of kind {kind}")
        struct.pack_into("<i", image, place, target + added - place)
    return image, bounds, starts, absolute


def _elsewhere(symbols: list[_Symbol], relocations: list[tuple[int, int, int, int, int]]) -> list[int]:
    """The numbers of symbols that are referred to, and are not in the object."""
    found = dict.fromkeys(symbol for _, _, _, symbol, _ in relocations if symbols[symbol].section == _UNDEFINED)
    for symbol in found:
        if symbols[symbol].weak or not symbols[symbol].name:
            raise Unknown("a symbol that may be missing")
    return [*found]


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit if unit > 1 else n
