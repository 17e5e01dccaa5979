"""Work over the rows of a large array in blocks that stay in the cache, shared out to the threads of the pool."""

from __future__ import annotations

import threading
from typing import Any, Callable

import numpy as np

from agog import config
from agog.array import large

BLOCK = 1 << 16
"""Elements worked on at a time: several arrays of so many float32 fit into an L2 cache."""


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
