"""The compiler's kernels against NumPy, as ratios measured in turns: NumPy's time over the kernel's, more is better.

    python benchmarks/kernels.py [threads]

Both run in this process, one after the other, round by round; a ratio is the median over the rounds. Matrix products
are left to `eager.py`, which gives each side a process of its own: OpenBLAS's threads go on spinning after a product,
and would take the cores from ours. A remark says when other processes were busy.
"""

import os
import statistics
import sys
import time

import numpy as np
from scipy import special

from agog import config
from agog.compiler.elementwise import compile_elementwise
from agog.compiler.rowprograms import compile_row_program

ROUNDS = 61
# Seconds of one measurement, far less than a scheduler's slice (some 3 ms): on a busy machine a measurement that
# reaches the end of its slice is interrupted for several others, and that would always hit the slower of the two. It
# cannot help where a single call takes milliseconds: on a busy machine, do not trust the last column.
WINDOW = 0.0003

ELEMENTWISE = {
    "a + b": (lambda k, a, b: a + b, lambda a, b, out: np.add(a, b, out=out)),
    "exp": (lambda k, a, b: k.exp(a), lambda a, b, out: np.exp(a, out=out)),
    "log": (lambda k, a, b: k.log(a), lambda a, b, out: np.log(a, out=out)),
    "tanh": (lambda k, a, b: k.tanh(a), lambda a, b, out: np.tanh(a, out=out)),
    "sin": (lambda k, a, b: k.sin(a), lambda a, b, out: np.sin(a, out=out)),
    "pow": (lambda k, a, b: k.pow(a, b), lambda a, b, out: np.power(a, b, out=out)),
    "tanh(a b + a) exp(-b)": (
        lambda k, a, b: k.tanh(k.fma(a, b, a)) * k.exp(-b),
        lambda a, b, out: np.multiply(np.tanh(a * b + a), np.exp(-b), out=out),
    ),
}
ROWS = {
    "softmax": lambda x: special.softmax(x, -1),
    "log_softmax": lambda x: special.log_softmax(x, -1),
    "sum": lambda x: x.sum(-1),
    "max": lambda x: x.max(-1),
}


def seconds(fn, repeat):
    start = time.perf_counter()
    for _ in range(repeat):
        fn()
    return (time.perf_counter() - start) / repeat


def ratio(kernel, reference):
    """The median ratio, and the kernel's median time."""
    kernel()
    once = seconds(reference, 1)
    repeat = max(1, int(WINDOW / once))
    pairs = [(seconds(kernel, repeat), seconds(reference, repeat)) for _ in range(ROUNDS)]
    return statistics.median(r / k for k, r in pairs), statistics.median(k for k, _ in pairs)


def elementwise_cell(kernel, reference, n, dtype, rng):
    a, b = (rng.uniform(0.1, 2, n).astype(dtype) for _ in range(2))
    out = np.empty_like(a)
    r, t = ratio(lambda: kernel([out], [a, b]), lambda: reference(a, b, out))
    return f"{n:>8}: {r:5.2f} ({t * 1e6:7.1f})"


def rows_cell(kernel, reference, shape, whole, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    out = np.empty(shape if whole else shape[:1], np.float32)
    r, t = ratio(lambda: kernel([out], [x]), lambda: reference(x))
    return f"{shape[0]:>5}x{shape[1]:<4}: {r:5.2f} ({t * 1e6:7.1f})"


def main():
    if len(sys.argv) > 1:
        config.set_num_threads(int(sys.argv[1]))
    rng = np.random.default_rng(0)
    print(f"{config.num_threads} threads; NumPy's time / the kernel's (the kernel's, us)")
    for dtype in ("float32", "float64"):
        for name, (fn, reference) in ELEMENTWISE.items():
            kernel = compile_elementwise(name, fn, [dtype] * 2, [dtype])
            cells = [elementwise_cell(kernel, reference, n, dtype, rng) for n in (1 << 10, 1 << 14, 1 << 20)]
            print(f"{dtype} {name:<22}", *cells)
    for name, reference in ROWS.items():
        kernel = compile_row_program(name, "float32")
        shapes = ((64, 10), (256, 512), (4096, 1024))
        cells = [rows_cell(kernel, reference, shape, "softmax" in name, rng) for shape in shapes]
        print(f"float32 {name:<22}", *cells)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    if load > config.num_threads + 0.5:
        print(f"remark: the machine was busy (load {load:.1f}): threads could not run at once")


if __name__ == "__main__":
    main()
