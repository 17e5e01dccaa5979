"""Convolutions against PyTorch's, forward and both gradients, as ratios measured in turns: more is better.

    python benchmarks/conv.py PYTHON_WITH_TORCH [threads] [filter]

Each side has a process of its own, and they take turns (threads of one would spin while the other is measured). A time
is the least of many. PyTorch's is that of the better of its two layouts; ours begins and ends in NCHW.
"""

import json
import pathlib
import subprocess
import sys
import time

CASES = {
    "demo 1": (64, 1, 8, 16, 3),
    "demo 2": (64, 16, 8, 32, 3),
    "cnn 1": (64, 1, 28, 16, 3),
    "cnn 2": (64, 16, 14, 32, 3),
    "notes 1": (32, 1, 28, 16, 3),
    "notes 2": (32, 16, 28, 32, 3),
    "notes 3": (32, 64, 56, 64, 3),
    "notes 4": (16, 128, 28, 128, 3),
    "notes 5": (16, 256, 14, 256, 3),
    "notes 6": (32, 64, 56, 256, 1),
}
KINDS = ("forward", "input", "weight")
WINDOW, PAUSE, TURNS = 0.15, 0.1, 5  # seconds; the other's idle threads may spin for a while


def ours(case, kind):
    import numpy as np

    from agog.array import large
    from agog.compiler.conv import conv

    n, c, size, o, r = case
    k = conv("float32")
    rng = np.random.default_rng(0)
    shapes = (n, c, size, size), (o, c, r, r), (n, o, size, size)
    x, w, g = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    rest = ((1, 1), ((r // 2, r // 2),) * 2, (1, 1), 1)
    return {
        "forward": lambda: k.forward(x, w, None, *rest, empty=large.empty),
        "input": lambda: k.input_grad(g, w, (size, size), *rest, empty=large.empty),
        "weight": lambda: k.weight_grad(x, g, (r, r), *rest),
    }[kind]


def torchs(layout):
    def make(case, kind):
        import torch

        n, c, size, o, r = case
        like = torch.channels_last if layout else torch.contiguous_format
        x, w, g = (
            torch.randn(s).to(memory_format=like) for s in ((n, c, size, size), (o, c, r, r), (n, o, size, size))
        )
        if kind == "forward":
            return lambda: torch.nn.functional.conv2d(x, w, padding=r // 2)
        wanted = [kind == "input", kind == "weight", False]
        back = torch.ops.aten.convolution_backward
        return lambda: back(g, x, w, None, [1, 1], [r // 2] * 2, [1, 1], False, [0, 0], 1, wanted)

    return make


def serve(side, threads):
    """Answer every line (case, kind) with the least time of a window."""
    if side == "ours":
        from agog import config

        config.set_num_threads(threads)
        make = ours
    else:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        make = torchs(side == "last")
    known = {}
    for line in sys.stdin:
        name, kind = json.loads(line)
        if (name, kind) not in known:
            known.clear()
            known[name, kind] = make(CASES[name], kind)
            known[name, kind]()
        fn = known[name, kind]
        time.sleep(PAUSE)
        end, best = time.perf_counter() + WINDOW, 1e9
        while True:
            start = time.perf_counter()
            fn()
            now = time.perf_counter()
            best = min(best, now - start)
            if now > end:
                break
        print(json.dumps(best), flush=True)


def main():
    if sys.argv[1] == "serve":
        return serve(sys.argv[2], int(sys.argv[3]))
    threads = sys.argv[2] if len(sys.argv) > 2 else "2"
    here = pathlib.Path(__file__).resolve()
    pythons = {"ours": sys.executable, "first": sys.argv[1], "last": sys.argv[1]}
    sides = {
        side: subprocess.Popen(
            [python, here, "serve", side, threads], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=here.parent.parent,
        )
        for side, python in pythons.items()
    }
    print(f"{threads} threads; PyTorch's time / ours (ours in us, GFLOP/s)")
    for name, (n, c, size, o, r) in CASES.items():
        if len(sys.argv) > 3 and sys.argv[3] not in name:
            continue
        cells = []
        for kind in KINDS:
            least = dict.fromkeys(sides, 1e9)
            for _ in range(TURNS):
                for side, process in sides.items():
                    process.stdin.write(json.dumps([name, kind]) + "\n")
                    process.stdin.flush()
                    least[side] = min(least[side], json.loads(process.stdout.readline()))
            mine, torch = least["ours"], min(least["first"], least["last"])
            rate = 2 * n * c * o * r * r * size * size / mine / 1e9
            cells.append(f"{kind} {torch / mine:5.2f} ({mine * 1e6:7.0f}, {rate:4.0f})")
        print(f"{name:<8} {n},{c},{size},{o},{r}".ljust(26), *cells, flush=True)
    for process in sides.values():
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
