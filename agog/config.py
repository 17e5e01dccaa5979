"""Every setting, and the state that all floors share: modes and hooks.

Settings are read from the environment here and nowhere else:

    AGOG_NUM_THREADS   threads for large arrays and native code (default: the cores this process may use)
    AGOG_CACHE_DIR     folder of compiled code (default: the user's cache folder)
    AGOG_CACHE_MB      megabytes up to which that folder grows; what was not used for longest goes first
                       (default 512; 0: no limit)
    AGOG_STRICT_COMPILER  1: an error inside the compiler is raised, not worked around (for agog's own tests)
    AGOG_NATIVE        0: never load the compiler for eager work on large arrays (default 1)
    AGOG_REPRODUCIBLE  1: wait for every native kernel (see `set_reproducible`; default 0)

`special` counts the contexts, over all threads, in which an operation must take the general path
(`no_grad`, recorders, hooks). It is 0 in ordinary eager code, and that one comparison is all that the fast path pays.
"""

from __future__ import annotations

import os
import pathlib
import sys
import threading
from typing import Any, Callable

from agog.errors import ArgumentError

ENVIRONMENT_READER = type(os.environ).__getitem__.__code__
"""The code that runs when anybody reads an environment variable: staging notices it."""


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


def _env_int(name: str, default: int, least: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdigit() or int(text) < least:
        raise ArgumentError(f"{name}={text!r}: give a whole number of at least {least}")
    return int(text)


num_threads: int = _env_int("AGOG_NUM_THREADS", _cores(), 1)
native: bool = _env_int("AGOG_NATIVE", 1, 0) != 0
reproducible: bool = _env_int("AGOG_REPRODUCIBLE", 0, 0) != 0
cache_bytes: int = _env_int("AGOG_CACHE_MB", 512, 0) << 20
strict_compiler: bool = _env_int("AGOG_STRICT_COMPILER", 0, 0) != 0


def set_num_threads(n: int) -> None:
    """Use `n` threads (at least 1) for large arrays and native code from now on."""
    global num_threads
    if not isinstance(n, int) or n < 1:
        raise ArgumentError(f"set_num_threads({n!r}): give a whole number of at least 1")
    num_threads = n


def set_reproducible(on: bool = True) -> None:
    """Wait for native kernels, so that the results of eager code do not depend on when these have been compiled.

    Kernels for eager work are compiled in the background, and NumPy does the work until then: from one run of a program
    to the next, last bits may differ. From now on a kernel is there when it is first wanted, whatever that takes (some
    20 ms the first time on a machine, a millisecond from then on). The same program then gives the same bits on the
    same machine with the same versions and number of threads; across machines it may not.
    """
    global reproducible
    if not isinstance(on, bool):
        raise ArgumentError(f"set_reproducible({on!r}): give True or False")
    reproducible = on
    if on and native and load_compiler is not None:
        load_compiler()


def cache_dir() -> pathlib.Path:
    """The folder of compiled code; it need not exist."""
    if text := os.environ.get("AGOG_CACHE_DIR"):
        return pathlib.Path(text)
    if sys.platform == "darwin":
        base = pathlib.Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = pathlib.Path(os.environ.get("LOCALAPPDATA", pathlib.Path.home()))
    else:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return base / "agog"


class Modes(threading.local):
    """What is switched on in this thread.

    grad      False inside `no_grad`: results do not remember how they were made
    deeper    False while a gradient is computed of values inside vmap or jvp that is itself not to be differentiated:
              there `grad` stays on, for the history that these values have further out
    recorder  the active recorder of a staged function, or None
    staging   False inside `agog.eager()`: staged functions run as plain Python
    """

    grad: bool = True
    deeper: bool = True
    recorder: Any = None
    staging: bool = True


modes = Modes()
special: int = 0
_lock = threading.Lock()


def enter_special() -> None:
    """Send every operation of the process through the general path, until `leave_special`."""
    global special
    with _lock:
        special += 1


def leave_special() -> None:
    global special
    with _lock:
        special -= 1


load_compiler: Callable[[], None] | None = None
"""Set by the package: loads the compiler and lets eager work on large arrays use it. Where runs are to be reproducible,
also waits for the kernels that were asked for."""

# Hooks that tools hang on: each is called as hook(op, inputs, outputs) after an operation has run.
op_hooks: list[Callable[..., None]] = []


def add_op_hook(hook: Callable[..., None]) -> Callable[[], None]:
    """Call `hook(op, inputs, outputs)` (raw arrays) after each operation; returns a function that removes it.

    While there is a hook, staged functions run as the plain Python they are.
    """
    op_hooks.append(hook)
    enter_special()

    def remove() -> None:
        if hook in op_hooks:
            op_hooks.remove(hook)
            leave_special()

    return remove


def at_rest() -> bool:
    """True when no mode, recorder or hook is active (checked after every test)."""
    return special == 0 and not op_hooks and modes.grad and modes.recorder is None
