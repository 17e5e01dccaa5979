"""16-bit arrays, case by case: PyTorch's time over ours, eager and staged, measured in turns; more is better.

    python benchmarks/halves.py --peer-python .bench-venv/bin/python [--cases matmul]

Each side has a process of its own, and they take turns (threads of one would spin while the other is measured). A time
is the least of many. Both sides are called as users call them; PyTorch eagerly.
"""

import json
import sys
import time

import numpy as np
from turns import Sides, arguments, least

DTYPES = ("bfloat16", "float16", "float32")
WINDOW, PAUSE, TURNS = 0.1, 0.05, 3  # seconds


def arrays(array):
    """x, y (1024, 1024), a product's factor (512, 512), images, kernels, a weight."""
    rng = np.random.default_rng(0)
    shapes = ((1024, 1024),) * 2 + ((512, 512), (8, 32, 28, 28), (32, 32, 3, 3), (1024,))
    return [array(rng.standard_normal(s).astype(np.float32)) for s in shapes]


def ours(dtype, staged):
    import agog as ag

    f = ag.nn.functional
    x, y, m, image, kernel, w = arrays(lambda a: ag.asarray(a, dtype=dtype))
    drop = ag.nn.Dropout(0.1)
    cases = {
        "x + y": lambda x, y: x + y,
        "x * y + x": lambda x, y: x * y + x,
        "exp": lambda x, y: ag.exp(x),
        "gelu": lambda x, y: f.gelu(x),
        "dropout": lambda x, y: drop(x),
        "sum": lambda x, y: ag.sum(x),
        "softmax": lambda x, y: ag.softmax(x, axis=-1),
        "layer norm": lambda x, y: f.layer_norm(x, (1024,), w, w),
        "matmul 512": lambda x, y: m @ m,
        "matmul 1024": lambda x, y: x @ y,
        "conv 3x3": lambda x, y: f.conv2d(image, kernel, padding=1),
    }
    if staged:
        cases = {name: ag.function(fn) for name, fn in cases.items()}
    return {name: lambda fn=fn: fn(x, y) for name, fn in cases.items()}


def torchs(dtype):
    import torch

    f = torch.nn.functional
    x, y, m, image, kernel, w = arrays(lambda a: torch.from_numpy(a).to(getattr(torch, dtype)))
    return {
        "x + y": lambda: x + y,
        "x * y + x": lambda: x * y + x,
        "exp": lambda: torch.exp(x),
        "gelu": lambda: f.gelu(x),
        "dropout": lambda: f.dropout(x, 0.1),
        "sum": lambda: torch.sum(x),
        "softmax": lambda: torch.softmax(x, -1),
        "layer norm": lambda: f.layer_norm(x, (1024,), w, w),
        "matmul 512": lambda: m @ m,
        "matmul 1024": lambda: x @ y,
        "conv 3x3": lambda: f.conv2d(image, kernel, padding=1),
    }


def serve(side, threads):
    """Answer every line (dtype, case) with the least time of a window; "" asks for the names of the cases."""
    if side == "torch":
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        make = torchs
    else:
        from agog import config

        config.set_num_threads(threads)
        make = lambda dtype: ours(dtype, side == "staged")
    known = {}
    for line in sys.stdin:
        dtype, name = json.loads(line)
        if dtype not in known:
            known.clear()
            known[dtype] = make(dtype)
        if not name:
            print(json.dumps(list(known[dtype])), flush=True)
            continue
        fn = known[dtype][name]
        for _ in range(3):  # our kernels are compiled in the background
            fn()
            time.sleep(PAUSE)
        print(json.dumps(least(fn, WINDOW)), flush=True)


def main():
    a = arguments(__doc__, TURNS)
    if a.serve:
        return serve(a.serve, a.threads)
    sides = Sides(__file__, {"eager": sys.executable, "staged": sys.executable, "torch": a.peer_python}, a.threads)
    print(f"{a.threads} threads: PyTorch's time / ours, eager and staged (ours in us)")
    for dtype in DTYPES:
        for name in filter(a.wants, sides.ask("torch", dtype, "")):
            times = sides.least(a.turns, list(sides.processes), dtype, name)
            best = times.pop("torch")
            cells = [f"{side} {best / t:5.2f} ({t * 1e6:6.0f})" for side, t in times.items()]
            print(f"{dtype:<9} {name:<12}", *cells, flush=True)
    sides.close()


if __name__ == "__main__":
    main()
