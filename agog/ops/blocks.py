"""Work over the rows of a large array in blocks that stay in the cache, shared out to the threads of the pool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from agog import config
from agog.array import dtypes, large

BLOCK = 1 << 16
"""Elements worked on at a time: several arrays of so many float32 fit into an L2 cache."""


def fresh(np_like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised array for a result: in reused memory where it is large, because fresh pages are dear."""
    return large.empty(shape, dtype) if np_like is np else np_like.empty(shape, dtype)


@lru_cache(maxsize=1)
def small_product() -> int:
    """Multiplications up to which OpenBLAS computes a matrix product in the calling thread.

    Larger ones wake and wait for its own threads, which is slow when another process holds a core. With AVX-512 it has
    kernels for small matrices (not for a transposed right factor); otherwise its general threshold holds.
    """
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return 1_000_000 if any(f == "X86_V4" or f.startswith("AVX512") for f in simd) else 65536 * 4


WORTH_THREADS = 1 << 21
"""Multiplications from which sharing out products over threads is worth the trouble."""


def native(np_like: Any, name: str, work: int, *arguments: Any) -> Any:
    """What a native kernel of the row computes (see `large.native`), or None: then NumPy does it."""
    return large.native(name, work, *arguments) if np_like is np else None


def reduced(np_like: Any, kind: str, ufunc: Any, x: Any, axis: Any, keepdims: Any) -> Any:
    """A reduction by a native kernel (see `large.reduced`) where there is one by now, else by a ufunc of NumPy's."""
    if np_like is np and x.size >= large.REDUCE_FROM:
        done = large.reduced(kind, x, axis, keepdims)
        if done is not None:
            return done
    return ufunc.reduce(x, axis, None, None, keepdims)


def over_rows(rows: int, row_size: int, work: Callable[[int, int], Any]) -> None:
    """Call work(i, j) for consecutive ranges that cover range(rows), on several threads if there is enough to do.

    The ranges depend on the sizes only, never on the number of threads: so results do not either.
    """
    step = max(1, BLOCK // max(1, row_size))
    if rows <= step:
        work(0, rows)
        return

    def run(starts: Iterator[int]) -> None:
        for i in starts:
            work(i, min(i + step, rows))

    share(range(0, rows, step), run, rows * row_size >= large.THRESHOLD)


def share(tasks: Iterable[Any], run: Callable[[Iterator[Any]], Any], threads: bool = True) -> None:
    """run(tasks) on each thread of the pool: every task is handed to one of them, as they are free."""
    todo = iter(tasks)
    if not threads or config.num_threads == 1:
        run(todo)
        return
    lock = threading.Lock()

    def handed() -> Iterator[Any]:
        while True:
            with lock:
                task = next(todo, lock)
            if task is lock:
                return
            yield task

    def work() -> None:
        with np.errstate(all="ignore"):
            run(handed())

    helpers = [large._executor().submit(work) for _ in range(config.num_threads - 1)]
    work()
    for h in helpers:
        if not h.cancel():
            h.result()


def in_float32(rule: Callable[..., Any]) -> Callable[..., Any]:
    """`rule` on raw arrays with 16-bit floats computed in float32, and its results brought back."""
    def widened(*args: Any) -> Any:
        half = next((a.dtype for a in _arrays(args) if dtypes.is_half(a.dtype)), None)
        if half is None:
            return rule(*args)
        out = rule(*[_cast(a, half, np.float32) for a in args])
        return _cast(out, np.dtype(np.float32), half)

    return widened


def _arrays(args: Any) -> Any:
    for a in args:
        if isinstance(a, np.ndarray | np.generic):
            yield a
        elif isinstance(a, tuple | list):
            yield from _arrays(a)


def _cast(a: Any, old: Any, new: Any) -> Any:
    if isinstance(a, np.ndarray | np.generic):
        return large.astype(a, np.dtype(new)) if a.dtype == old else a
    return [_cast(x, old, new) for x in a] if isinstance(a, tuple | list) else a
