"""IR text in, object code out: LLVM's code generators, of which several work at once.

llvmlite is imported at the first use, not before (it costs some 0.1 s). It lets one thread at a time into LLVM, which
itself asks for that only within a context. So the two calls that take long go around the lock, each in a context of its
own.

No thread is inside of LLVM while the process forks, so that a child never inherits it half-way, nor while it ends, for
exit takes LLVM apart.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import threading
from typing import Any, Callable, Iterator

from agog.compiler import targets
from agog.compiler.targets import Target

__all__ = ["alone", "assembly", "compile", "inside", "linking", "llvm"]

_SEVERAL = 4


class _Generator:
    """What one thread at a time generates code with: LLVM's target machines, by target."""

    def __init__(self) -> None:
        self.lock, self.machines = threading.Lock(), {}  # type: ignore[var-annotated]

    def machine(self, target: Target) -> Any:
        """LLVM's target machine; code generation works hard (level 3), because no passes ran before it."""
        if target not in self.machines:
            binding = llvm()
            if target.machine != targets._triple().split("-")[0]:
                _all_targets()
            self.machines[target] = binding.Target.from_triple(target.triple).create_target_machine(
                cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
            )
        return self.machines[target]


_generators = [_Generator() for _ in range(_SEVERAL)]
_turns = itertools.count()

#: Held by whoever links code or unloads it.
linking = threading.Lock()

_starting = threading.Lock()
_locks = [linking, *(g.lock for g in _generators), _starting]  # in the order in which they are taken

# -- forks, and the end of the process

_forking: contextlib.ExitStack | None = None  # what is held besides the locks


def _before_fork() -> None:
    global _forking
    for lock in _locks:
        lock.acquire()
    # llvmlite's own is taken last, as by whoever is inside, and by a thread that only disposes of something
    _forking = contextlib.ExitStack()
    if _binding is not None and (theirs := getattr(_binding.ffi.lib, "_lock", None)) is not None:
        _forking.enter_context(theirs)


def _after_fork() -> None:
    global _forking
    if _forking is not None:  # not so where this module was imported, by another thread, in the middle of the fork
        _forking.close()
        _forking = None
        for lock in _locks:
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

_survivor = 0  # at exit: the one thread that may still use LLVM


def _at_exit() -> None:
    """Wait for the threads that are inside of LLVM, and let no other enter."""
    global _survivor
    with contextlib.ExitStack() as stack:
        for lock in _locks:
            stack.enter_context(lock)
        _survivor = threading.get_ident()


atexit.register(_at_exit)


def alone() -> bool:
    """Whether the process ends, in this thread: nobody else does anything any more."""
    return _survivor == threading.get_ident()


@contextlib.contextmanager
def inside(lock: threading.Lock) -> Iterator[None]:
    """Hold one of the locks."""
    lock.acquire()
    if _survivor not in (0, threading.get_ident()):
        lock.release()
        threading.Event().wait()  # a daemon thread of a process that ends
    try:
        yield
    finally:
        lock.release()


# -- LLVM

_binding: Any = None


def llvm() -> Any:
    """llvmlite's binding, started once."""
    global _binding
    if _binding is None:
        with _starting:
            if _binding is None:
                import llvmlite.binding

                llvmlite.binding.initialize_native_target()
                llvmlite.binding.initialize_native_asmprinter()
                _binding = llvmlite.binding
    return _binding


@functools.cache
def _all_targets() -> None:
    llvm().initialize_all_targets()
    llvm().initialize_all_asmprinters()


def _free(name: str) -> Callable[..., Any]:
    """A function of llvmlite's library without llvmlite's lock, where that can be taken away."""
    function = getattr(llvm().ffi.lib, name)
    return getattr(function, "_cfn", function)


def _emit(text: str, target: Target, as_object: bool) -> bytes:
    binding = llvm()
    string, lib = binding.ffi.OutputString, binding.ffi.lib
    generator = next((g for g in _generators if not g.lock.locked()), _generators[next(_turns) % _SEVERAL])
    with inside(generator.lock):
        context, machine = binding.create_context(), generator.machine(target)
        with string() as error:
            module = binding.ModuleRef(_free("LLVMPY_ParseAssembly")(context, text.encode(), error), context)
            if error:
                raise RuntimeError(f"LLVM IR parsing error\n{error}")
        module.verify()
        module.triple, module.data_layout = target.triple, str(machine.target_data)
        with string() as error:
            buffer = _free("LLVMPY_TargetMachineEmitToMemory")(machine, module, int(as_object), error)
            if not buffer:
                raise RuntimeError(str(error))
        module.close()
        context.close()  # (here, and not when it is collected: the lock is held)
        data = ctypes.string_at(lib.LLVMPY_GetBufferStart(buffer), lib.LLVMPY_GetBufferSize(buffer))
        lib.LLVMPY_DisposeMemoryBuffer(buffer)
        return data


def compile(text: str, target: Target) -> bytes:
    """The object of IR text for a target."""
    return _emit(text, target, True)


def assembly(text: str, target: Target) -> str:
    """The same as assembly."""
    return _emit(text, target, False).decode()
