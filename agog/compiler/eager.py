"""Kernels for eager work on large arrays, compiled in the background.

The first operations on a large array run through NumPy as ever. Meanwhile a thread loads the compiler and compiles the
row's `lower` rule; from then on that operation on large arrays is one native loop over the thread pool. Nobody waits.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import Any

import numpy as np

from agog import config
from agog.array import large
from agog.compiler.elementwise import compile_elementwise
from agog.ops.row import TABLE, Op

_DTYPES = {"float32", "float64", "int32", "int64"}
_kernels: dict[Any, Any] = {}
_wanted: queue.SimpleQueue[Any] = queue.SimpleQueue()
_lock = threading.Lock()
_worker: threading.Thread | None = None


def _lowered() -> dict[Any, Op]:
    """Rows whose computation is one ufunc and that know how to be compiled."""
    rows = [op for op in TABLE.values() if op.elementwise and op.lower is not None]
    ufuncs = [getattr(np, getattr(op.impl, "ufunc", ""), op.raw) for op in rows]
    return {ufunc: op for ufunc, op in zip(ufuncs, rows) if isinstance(ufunc, np.ufunc)}


_rows = _lowered()


def accelerate(ufunc: Any, inputs: tuple, out: np.ndarray) -> bool:
    """Run `ufunc(*inputs, out)` natively if a kernel is ready; True if it did. Arrays are flat and contiguous."""
    key = (ufunc, out.dtype, *[type(x) is np.ndarray and x.ndim for x in inputs])
    kernel = _kernels.get(key)
    if kernel is None:
        if key not in _kernels:
            _request(key, len(inputs))
        return False
    arrays = [x if type(x) is np.ndarray else np.array(x, out.dtype) for x in inputs]
    for x in arrays:
        if x.dtype != out.dtype:
            return False
    kernel([out], arrays)
    return True


def _request(key: Any, n: int) -> None:
    global _worker
    ufunc, dtype = key[:2]
    _kernels[key] = None  # asked for once
    if ufunc not in _rows or dtype.name not in _DTYPES:
        return
    with _lock:
        if _worker is None:
            _worker = threading.Thread(target=_work, name="agog-compile", daemon=True)
            _worker.start()
    _wanted.put(key)


def _work() -> None:
    while True:
        key = _wanted.get()
        ufunc, dtype, *whole = key
        op = _rows[ufunc]
        try:
            _kernels[key] = compile_elementwise(op.name, op.lower, [dtype.name] * len(whole), [dtype.name],
                                                ["contiguous" if w else "scalar" for w in whole])
        except Exception:  # a dtype that the rule cannot be compiled for: NumPy goes on doing it
            _kernels[key] = None


def _after_fork() -> None:
    global _worker
    _worker = None
    while not _wanted.empty():
        _wanted.get_nowait()
    for key in [k for k, v in _kernels.items() if v is None]:
        del _kernels[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def enable() -> None:
    """Let `agog.array.large` use these kernels."""
    if config.native:
        large.accelerate = accelerate
