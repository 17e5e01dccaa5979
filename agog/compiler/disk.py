"""The disk cache of compiled code: files named by a digest of everything that their contents follow from.

Each file carries its length and digest, and is written under another name and renamed, so that a reader sees a whole
file or none. One that is damaged is ignored and replaced; a folder that cannot be written is done without. Both are
said once. The folder is kept below `config.cache_bytes`: what was not used for longest goes first.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import marshal
import os
import pathlib
import platform
import struct
import sys
import time
import types
import warnings
from typing import Any, Iterator

import numpy

from agog import config

__all__ = ["bytecode", "name_of", "prune", "read", "source", "write"]

_MAGIC = b"agog object 1\n"
_HEADER = struct.Struct("<Q32s")  # length and SHA-256 of the object
_USED = 24 * 3600.0  # seconds after which a file that is read gets a new date
_PRUNE_EVERY = 64  # files that a process writes between two looks at the size of the folder
_LONG = 4096  # characters of Python source that take longer to compile than to find
_FRESH = 600.0  # seconds for which a file is not removed: another process may be about to use it

said: set[str] = set()
_written = 0


def name_of(*parts: str) -> str:
    """The digest of some texts."""
    key = hashlib.sha256()
    for part in parts:
        key.update(f"{len(part)}:{part}".encode())
    return key.hexdigest()


@functools.cache
def source() -> str:
    """A digest of agog's own source, of Python and of NumPy: what is made without looking at its text follows from it.

    Raises OSError where the source cannot be read.
    """
    return digest(pathlib.Path(__file__).parents[1])


def digest(folder: pathlib.Path) -> str:
    """The digest for the modules in a folder. It is kept by their dates and sizes, so that they are read once."""
    files = sorted(_modules(str(folder)))
    python = f"{platform.python_implementation()} {platform.python_version()} {numpy.__version__}"
    known = name_of(str(folder), python, repr(files)) + ".s"
    found = read(known)
    if found is None:
        key = hashlib.sha256(python.encode())
        for path, _, _ in files:
            key.update(path.encode())
            key.update(hashlib.sha256((folder / path).read_bytes()).digest())
        found = key.hexdigest().encode()
        write(known, found)
    return found.decode()


def _modules(folder: str, inside: str = "") -> Iterator[tuple[str, int, int]]:
    """(path inside of the folder, size, date) of each of agog's modules."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                facts = entry.stat()
                yield f"{inside}{entry.name}", facts.st_size, facts.st_mtime_ns
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _modules(entry.path, f"{inside}{entry.name}/")


def bytecode(text: str, file: str) -> types.CodeType:
    """Python source, compiled. What is long is kept: the call of a model, written out, takes Python 10 ms and more."""
    if len(text) < _LONG:
        return compile(text, file, "exec")
    python = sys.implementation.cache_tag, importlib.util.MAGIC_NUMBER, sys.flags.optimize
    name = name_of(repr(python), file, text) + ".p"
    found = read(name)
    if found is not None:
        try:
            code = marshal.loads(found)
            if type(code) is types.CodeType:
                return code
        except (ValueError, EOFError, TypeError):
            pass
    code = compile(text, file, "exec")
    write(name, marshal.dumps(code))
    return code


def _path(name: str) -> pathlib.Path:
    return config.cache_dir() / "objects" / name


def read(name: str) -> bytes | None:
    """The contents of a file, or None where there is none that can be trusted."""
    path = _path(name)
    try:
        data = path.read_bytes()
        if time.time() - os.stat(path).st_mtime > _USED:
            os.utime(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        say("read", f"cannot read the cache of compiled code: {error}")
        return None
    start = len(_MAGIC) + _HEADER.size
    if data.startswith(_MAGIC) and len(data) >= start:
        size, digest = _HEADER.unpack_from(data, len(_MAGIC))
        body = data[start:]
        if len(body) == size and hashlib.sha256(body).digest() == digest:
            return body
    say("damaged", f"a file in the cache of compiled code is damaged and is made anew: {path}")
    return None


def write(name: str, data: bytes) -> None:
    """Put a file there, all of it or nothing."""
    global _written
    import tempfile  # brings much along: not for who only reads

    path, temporary = _path(name), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + _HEADER.pack(len(data), hashlib.sha256(data).digest()) + data)
        os.replace(temporary, path)
    except OSError as error:
        say("write", f"cannot write the cache of compiled code, so each process compiles anew: {error}")
        if temporary is not None:
            try:
                os.unlink(temporary)
            except OSError:
                pass
        return
    if not _written % _PRUNE_EVERY:
        prune()
    _written += 1


def prune(limit: int | None = None) -> int:
    """Remove what was not used for longest until the folder holds at most three quarters of `limit` bytes.

    Nothing is done below the limit (`config.cache_bytes` unless given; 0 is no limit). Files that a process wrote or
    used within the last ten minutes stay, and what another process removes at the same time is gone all the same.
    Returns how many files were removed.
    """
    limit = config.cache_bytes if limit is None else limit
    if not limit:
        return 0
    found: list[tuple[float, int, str]] = []
    try:
        with os.scandir(_path("")) as entries:
            for entry in entries:
                try:
                    facts: Any = entry.stat()
                except OSError:
                    continue
                found.append((facts.st_mtime, facts.st_size, entry.path))
    except OSError:
        return 0
    total, removed, now = sum(size for _, size, _ in found), 0, time.time()
    if total <= limit:
        return 0
    for date, size, path in sorted(found):
        if total <= limit * 3 // 4 or now - date < _FRESH:
            break
        try:
            os.unlink(path)
            removed += 1
        except OSError:
            pass  # another process did, or it cannot be removed: then the next ones go
        total -= size
    return removed


def say(kind: str, message: str) -> None:
    """Warn once of each kind of trouble."""
    if kind not in said:
        said.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=3)
