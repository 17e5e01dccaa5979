"""Work over the rows of a large array in blocks that stay in the cache, shared out to the threads of the pool."""

from __future__ import annotations

import threading
from typing import Any, Callable

import numpy as np

from agog import config
from agog.array import dtypes, large

BLOCK = 1 << 16
"""Elements worked on at a time: several arrays of so many float32 fit into an L2 cache."""


def fresh(np_like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised array for a result: in reused memory where it is large, because fresh pages are dear."""
    return large.empty(shape, dtype) if np_like is np else np_like.empty(shape, dtype)


def over_rows(rows: int, row_size: int, work: Callable[[int, int], Any]) -> None:
    """Call work(i, j) for consecutive ranges that cover range(rows), on several threads if there is enough to do.

    The ranges depend on the sizes only, never on the number of threads: so results do not either.
    """
    step = max(1, BLOCK // max(1, row_size))
    if rows <= step:
        work(0, rows)
        return
    starts = iter(range(0, rows, step))
    if config.num_threads == 1 or rows * row_size < large.THRESHOLD:
        for i in starts:
            work(i, min(i + step, rows))
        return
    lock = threading.Lock()

    def run() -> None:
        with np.errstate(all="ignore"):
            while True:
                with lock:
                    i = next(starts, None)
                if i is None:
                    return
                work(i, min(i + step, rows))

    helpers = [large._executor().submit(run) for _ in range(config.num_threads - 1)]
    run()
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
        return a.astype(new) if a.dtype == old else a
    return [_cast(x, old, new) for x in a] if isinstance(a, tuple | list) else a
