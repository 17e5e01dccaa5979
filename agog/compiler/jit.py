"""LLVM IR text in, addresses of native functions out, with a disk cache of objects in between.

The cache (`disk`) is keyed by everything that the object depends on: the text, or a recipe from which agog's source
makes the text.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import marshal
import os
import sys
import threading
import weakref
from dataclasses import astuple
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence, TypeAlias

from agog.compiler import codegen, disk, elf, targets
from agog.compiler.ir import Module
from agog.compiler.targets import Target
from agog.errors import DeviceError

__all__ = ["Code", "Later", "Missing", "found_only", "link", "load", "object_code"]

#: Part of every key: raise it when what is made from the same IR changes.
_PIPELINE = "codegen 3, no passes, 1"

_lock = codegen.linking

# What holds loaded code, by number. It lives here and not in `Code`, so that a collection of cycles in one thread never
# finalizes a handle that another is just closing.
_handles: dict[int, Any] = {}
# Code that was collected while the lock was held, perhaps by this very thread: unloaded by whoever has it next.
_dead: list[int] = []


@contextlib.contextmanager
def _linking() -> Iterator[None]:
    with codegen.inside(_lock):
        try:
            yield
        finally:
            _bury()


def _bury() -> None:
    while _dead:
        _handles.pop(_dead.pop()).close()


_numbers = itertools.count()
_loaded: weakref.WeakValueDictionary[Any, Code] = weakref.WeakValueDictionary()


class Code:
    """Native code that was loaded. It is unloaded when this object is collected: keep it as long as an address is used.

    `code["name"]` is the address of an exported function. `keep` holds whatever else the code refers to.
    """

    def __init__(self, handle: Any, addresses: dict[str, int], keep: Any = ()) -> None:
        self._held, self._addresses, self._keep = _Held(handle), addresses, keep

    def __getitem__(self, name: str) -> int:
        return self._addresses[name]


class _Held:
    """What a `Code` holds. Nobody has a weak reference to it: that could bring back what is being finalized."""

    def __init__(self, handle: Any) -> None:
        self.number = next(_numbers)
        _handles[self.number] = handle

    def __del__(
        self,
        _lock: Any = _lock,
        _dead: list[int] = _dead,
        _bury: Callable[[], None] = _bury,
        _finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        # At exit the operating system does this better, and other threads may still be inside.
        if not _finalizing():
            _dead.append(self.number)
            if _lock.acquire(blocking=False):  # a collection can come at any moment: never wait, never re-enter LLVM
                try:
                    _bury()
                finally:
                    _lock.release()


class Later:
    """A module that is written only where its object is not on disk.

    `recipe` says all that the module's text follows from, besides the target, agog's source and the machine's caches;
    `write()` gives the module.
    """

    __slots__ = ("recipe", "target", "write")

    def __init__(self, recipe: str, target: Target, write: Callable[[], Module]) -> None:
        self.recipe, self.target, self.write = recipe, target, write


Imports: TypeAlias = Mapping[str, int] | Callable[[], Mapping[str, int]] | None


def load(module: Module | Later, exports: Sequence[str], imports: Imports = None, keep: Any = ()) -> Code:
    """Compile (or find in the cache) and link an `ir.Module`.

    Parameters
    ----------
    module : ir.Module, or Later
    exports : names of the functions whose addresses are wanted
    imports : {name: address} for symbols that the process does not export; the rest of `module.externals` are looked
        up in the C library, libm and Python. Or a function that gives them, called when the module is compiled
    keep : objects that must live as long as the code

    Returns
    -------
    Code
        The same object for the same text and imports, while somebody holds it.
    """
    if isinstance(module, Later):
        name = recipe_name(module.recipe, module.target)
        if name is None:
            return load(module.write(), exports, imports, keep)
        identity = (name, module.target)
        try:
            externals, made = _made(name, module)
            return link(made, externals, identity, exports, imports, keep)
        except RuntimeError:  # it does not link, for an LLVM that differs: made anew
            externals, made = _made(name, module, fresh=True)
            return link(made, externals, identity, exports, imports, keep)
    text = str(module)
    identity = (text, module.target)
    data = lambda: object_code(text, module.target)
    try:
        return link(data() if callable(imports) else data, module.externals, identity, exports, imports, keep)
    except RuntimeError:
        # An object whose digest is right may still not link (an LLVM that differs): make it anew once.
        fresh = lambda: object_code(text, module.target, fresh=True)
        return link(fresh, module.externals, identity, exports, imports, keep)


def _made(name: str, later: Later, fresh: bool = False) -> tuple[Sequence[str], bytes]:
    """(external symbols, object) of a recipe."""

    def make() -> tuple[Sequence[str], bytes]:
        module = later.write()
        made = sorted(module.externals), _compile(str(module), module.target)
        disk.write(name, marshal.dumps(made))
        return made

    return _once(name, None if fresh else stored, make)


class _Making:
    """What a thread is making: `made` once the lock is free, unless it could not be made."""

    def __init__(self) -> None:
        self.made: Any = None
        self.lock = threading.Lock()
        self.lock.acquire()


# By the name on disk. A forked child has none of the threads; the thread that outlives the others waits for none.
_making: dict[str, _Making] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_making.clear)


class Missing(Exception):
    """What is wanted is not on disk, and nothing is to be compiled."""


class _Mode(threading.local):
    found_only = False


_mode = _Mode()


@contextlib.contextmanager
def found_only() -> Iterator[None]:
    """Inside, this thread loads what lies on disk, and raises `Missing` where it would compile, or wait for that."""
    before, _mode.found_only = _mode.found_only, True
    try:
        yield
    finally:
        _mode.found_only = before


def _once(name: str, look: Callable[[str], Any] | None, make: Callable[[], Any]) -> Any:
    """What `look(name)` finds, or `make()`. What one thread is making another one waits for."""
    found = look(name) if look else None
    if found is not None:
        return found
    if _mode.found_only:
        raise Missing(name)
    mine = _Making()
    first = _making.setdefault(name, mine)
    if first is not mine:
        if not codegen.alone():
            with first.lock:
                pass
        return make() if first.made is None else first.made
    try:
        mine.made = look(name) if look else None  # somebody may have been quicker
        if mine.made is None:
            mine.made = make()
        return mine.made
    finally:
        _making.pop(name, None)
        mine.lock.release()


def stored(name: str) -> Any:
    """What was written to disk under this name as plain data, or None."""
    data = disk.read(name)
    try:
        return None if data is None else marshal.loads(data)
    except (ValueError, EOFError, TypeError):
        return None


def link(
    data: bytes | Callable[[], bytes],
    externals: Iterable[str],
    identity: Any,
    exports: Sequence[str],
    imports: Imports = None,
    keep: Any = (),
) -> Code:
    """Link an object (or what makes it); the rest as for `load`. Raises RuntimeError when it does not link."""
    imports = dict((imports() if callable(imports) else imports) or {})
    for name in set(externals) - imports.keys():
        imports[name] = _process_symbol(name)
    identity = (identity, tuple(exports), tuple(sorted(imports.items())))
    if (code := _loaded.get(identity)) is not None:
        return code
    made = data if isinstance(data, bytes) else data()
    with _linking():
        if (code := _loaded.get(identity)) is None:
            code = _loaded[identity] = _link(made, exports, imports, keep)
        return code


def object_code(text: str, target: Target, fresh: bool = False) -> bytes:
    """The object file for IR text on `target` as bytes, from the disk cache if it is there, and wanted."""
    name = object_name(text, target)

    def make() -> bytes:
        made = _compile(text, target)
        disk.write(name, made)
        return made

    return _once(name, None if fresh else disk.read, make)


def trim() -> None:
    """Give the system back what the C library keeps of memory that was freed, where it can be told to (glibc)."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if release is not None:
        release(0)


def assembly(module: Module) -> str:
    """The assembly of a module for its target, for people and tests."""
    return codegen.assembly(str(module), module.target)


_compile = codegen.compile


# -- linking


@functools.cache
def _linker() -> Any:
    llvm = codegen.llvm()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        opt=3, reloc="pic", codemodel="small"
    )
    return llvm.create_lljit_compiler(machine, use_jit_link=True)


def _link(data: bytes, exports: Sequence[str], imports: Mapping[str, int], keep: Any) -> Code:
    if elf.usable():
        with contextlib.suppress(elf.Unknown):  # LLVM may know it
            pages, addresses = elf.link(data, exports, lambda name: imports.get(name) or _process_symbol(name))
            return Code(pages, addresses, keep)
    builder = codegen.llvm().JITLibraryBuilder().add_object_img(data).add_current_process()
    for name in exports:
        builder.export_symbol(name)
    for name, address in imports.items():
        builder.import_symbol(name, address)
    tracker = builder.link(_linker(), f"agog{next(_numbers)}")
    return Code(tracker, {name: tracker[name] for name in exports}, keep)


_LIBRARIES = ("python", None, "m", "c")


@functools.cache
def _library(name: str | None) -> Any:
    """A library where functions are looked for, or None. To find one's file takes a process: only if it must be."""
    if name == "python":
        return ctypes.pythonapi
    path = None
    if name is not None:
        from ctypes.util import find_library

        path = find_library(name)
        if not path:
            return None
    try:
        return ctypes.CDLL(path)
    except (OSError, TypeError):  # TypeError: Windows has no CDLL(None)
        return None


def _process_symbol(name: str) -> int:
    """The address of a function of Python, the C library or libm, none of which need be globally visible."""
    for library in _LIBRARIES:
        try:
            return ctypes.cast(getattr(_library(library), name), ctypes.c_void_p).value or 0
        except AttributeError:
            continue
    raise DeviceError(f"native code needs the function {name!r}, which this process does not have")


# -- the names of objects on disk


def object_name(text: str, target: Target) -> str:
    """The name of the object of a text."""
    return disk.name_of(_PIPELINE, _version(), repr(astuple(target)), text) + ".o"


def recipe_name(recipe: str, target: Target) -> str | None:
    """The name of what a recipe makes; None where it cannot be known that the recipe still means the same."""
    try:
        source = disk.source()
    except OSError:
        return None
    machine = repr((astuple(target), targets.caches(), targets.last_cache()))
    return disk.name_of(_PIPELINE, _version(), source, machine, recipe) + ".r"


def _version() -> str:
    import llvmlite

    return llvmlite.__version__
