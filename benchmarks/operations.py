"""Operations one by one on arrays of some size: agog's, eager and staged, against PyTorch's.

    python benchmarks/operations.py --peer-python .bench-venv/bin/python [--cases pow] [--elements 16384]

What models do not use shows here. Each side has a process of its own, and they take turns; the ratios are agog's times
over those of eager PyTorch, less is better. A time is the least mean over calls of some milliseconds, after the first
calls, in which kernels are compiled, and what agog compiles in the background.
"""

import json
import sys
import time

import numpy as np
from small import measured
from turns import Sides, arguments

SIZES, TURNS, SETTLE = (1 << 14, 1 << 20), 2, 0.25


def cases(array, m, f, n, ours):
    """{name: statement} on arrays of n elements in rows of 64; `m` is the module, `f` the functions of `nn`."""
    rng = np.random.default_rng(0)
    rows = n // 64
    normal = lambda *s: array(rng.standard_normal(s).astype(np.float32))
    numbers = lambda high, *s: array(rng.integers(0, high, s))
    x, y, row, square, wide = normal(rows, 64), normal(rows, 64), normal(64), normal(64, 64), normal(64, rows)
    cube, mask, labels, places = normal(rows // 16, 16, 64), x > 0, numbers(64, rows), numbers(rows, rows)
    i, j, flat = numbers(1000, rows, 64) + 1, numbers(1000, rows, 64) + 1, normal(n)
    double, image, kernel = array(rng.standard_normal((rows, 64))), normal(n // 2048, 8, 16, 16), normal(8, 8, 3, 3)
    along = lambda name, v, k: getattr(m, name)(v, **{"axis" if ours else "dim": k})
    one = {"axis" if ours else "dim": 1}
    return {
        "x + y": lambda: x + y, "x + row": lambda: x + row, "x * 2": lambda: x * 2.0, "x / y": lambda: x / y,
        "x ** 2": lambda: x ** 2, "x ** 3": lambda: x ** 3, "abs(x) ** 1.5": lambda: m.abs(x) ** 1.5,
        "x % 1": lambda: x % 1.0, "x // y": lambda: x // y, "x > y": lambda: x > y, "x.T + 1": lambda: x.T + 1.0,
        "exp": lambda: m.exp(x), "log": lambda: m.log(m.abs(x)), "sin": lambda: m.sin(x), "tanh": lambda: m.tanh(x),
        "erf": lambda: m.erf(x), "sqrt": lambda: m.sqrt(m.abs(x)), "floor": lambda: m.floor(x),
        "maximum": lambda: m.maximum(x, y), "clip": lambda: m.clip(x, -1.0, 1.0), "where": lambda: m.where(mask, x, y),
        "sigmoid": lambda: m.sigmoid(x), "relu": lambda: f.relu(x), "gelu": lambda: f.gelu(x),
        "silu": lambda: f.silu(x), "elu": lambda: f.elu(x), "softplus": lambda: f.softplus(x),
        "mish": lambda: f.mish(x),
        "float64 exp": lambda: m.exp(double), "float64 x ** 3": lambda: double ** 3, "astype": lambda: (
            x.astype("float64") if ours else x.double()),
        "to integers": lambda: x.astype("int64") if ours else x.long(),
        "i + j": lambda: i + j, "i // j": lambda: i // j, "i % j": lambda: i % j, "i & j": lambda: i & j,
        "sum of i": lambda: i.sum(), "count": lambda: mask.sum(), "count in rows": lambda: along("sum", mask, 1),
        "sum": lambda: x.sum(), "sum, axis 0": lambda: along("sum", x, 0), "sum, axis 1": lambda: along("sum", x, 1),
        "sum, middle axis": lambda: along("sum", cube, 1), "mean, axis 1": lambda: along("mean", x, 1),
        "max": lambda: x.max(), "max, axis 1": lambda: along("max" if ours else "amax", x, 1),
        "max, middle axis": lambda: along("max" if ours else "amax", cube, 1), "argmax": lambda: along("argmax", x, 1),
        "prod, axis 1": lambda: along("prod", x, 1), "std": lambda: m.std(x), "var, axis 1": lambda: along("var", x, 1),
        "norm": lambda: m.linalg.vector_norm(x), "norm, axis 1": lambda: m.linalg.vector_norm(x, **one),
        "cumsum": lambda: along("cumsum", x, 1), "cumprod": lambda: along("cumprod", x, 1),
        "softmax": lambda: f.softmax(x, **one), "softmax, axis 0": lambda: along("softmax", wide, 0),
        "log_softmax": lambda: f.log_softmax(x, **one), "logsumexp": lambda: along("logsumexp", x, 1),
        "layer_norm": lambda: f.layer_norm(x, (64,), row, row), "cross_entropy": lambda: f.cross_entropy(x, labels),
        "mse_loss": lambda: f.mse_loss(x, y), "huber_loss": lambda: f.huber_loss(x, y),
        "l1_loss": lambda: f.l1_loss(x, y),
        "matmul": lambda: x @ square, "x.T @ y": lambda: x.T @ y, "matvec": lambda: x @ row,
        "linear": lambda: f.linear(x, square, row), "batched matmul": lambda: cube @ square,
        "x[places]": lambda: x[places], "x[mask]": lambda: x[mask], "nonzero": lambda: m.nonzero(mask),
        "add at places": lambda: x.at[places].add(y) if ours else x.index_add(0, places, y),
        "concat": lambda: m.concat([x, y]), "stack": lambda: m.stack([x, y]), "flip": lambda: (
            m.flip(x, axis=1) if ours else m.flip(x, (1,))), "roll": lambda: m.roll(x, 1, 1), "tril": lambda: m.tril(x),
        "sort": lambda: m.sort(x, **one), "topk": lambda: m.topk(x, 5), "unique": lambda: (
            m.unique_values(i) if ours else m.unique(i)), "bincount": lambda: m.bincount(i.reshape(-1)),
        "one_hot": lambda: f.one_hot(labels, 64), "dropout": lambda: f.dropout(x, 0.5),
        "normal": lambda: m.random.normal((rows, 64)) if ours else m.randn(rows, 64),
        "uniform": lambda: m.random.uniform((rows, 64)) if ours else m.rand(rows, 64),
        "permutation": lambda: m.random.permutation(n) if ours else m.randperm(n), "fft": lambda: m.fft.fft(flat),
        "conv2d": lambda: f.conv2d(image, kernel, padding=1), "max_pool2d": lambda: f.max_pool2d(image, 2),
        "avg_pool2d": lambda: f.avg_pool2d(image, 2), "global mean": lambda: f.adaptive_avg_pool2d(image, 1),
        "nearest resize": lambda: f.interpolate(image, scale_factor=2),
        "linear resize": lambda: f.interpolate(image, scale_factor=2, mode="bilinear"),
        "group_norm": lambda: f.group_norm(image, 4),
    }


def made(side, threads, n):
    if side == "torch":
        import torch

        torch.set_num_threads(threads)
        return cases(torch.from_numpy, torch, torch.nn.functional, n, False)
    import agog as ag

    ag.set_num_threads(threads)
    big, end = ag.ones((512, 512)), time.perf_counter() + SETTLE
    while time.perf_counter() < end:  # work enough that the compiler is loaded before the first case
        big @ big
    time.sleep(2 * SETTLE)
    known = cases(ag.asarray, ag, ag.nn.functional, n, True)
    return {name: ag.function(fn) for name, fn in known.items()} if side == "staged" else known


def serve(side, threads):
    """Answer every line, [case, elements], with its time; "" asks for the names."""
    known, warm = {}, set()
    for line in sys.stdin:
        name, n = json.loads(line)
        if n not in known:
            known[n] = made(side, threads, n)
        try:
            if name and (name, n) not in warm:
                warm.add((name, n))
                for _ in range(3):
                    known[n][name]()
                if side != "torch":
                    time.sleep(SETTLE)
                    known[n][name]()
                    time.sleep(SETTLE / 2)
            print(json.dumps(measured(known[n][name]) if name else list(known[n])), flush=True)
        except Exception as error:
            print(f"{side}, {name}: {type(error).__name__}: {error}", file=sys.stderr)
            print("1e9", flush=True)


def main():
    a = arguments(__doc__, TURNS, lambda parser: parser.add_argument("--elements", type=int, help="instead of both"))
    if a.serve:
        return serve(a.serve, a.threads)
    sides = Sides(__file__, {"eager": sys.executable, "staged": sys.executable, "torch": a.peer_python}, a.threads)
    for n in [a.elements] if a.elements else SIZES:
        rows = []
        for name in filter(a.wants, sides.ask("eager", "", n)):
            t = sides.least(a.turns, ["eager", "staged", "torch"], name, n)
            rows.append((t["eager"] / t["torch"], t["staged"] / t["torch"], name, t))
        print(f"{n:,} elements, us {'eager':>13} {'ratio':>6} {'staged':>9} {'ratio':>6} {'torch':>9}")
        for eager, staged, name, t in sorted(rows, key=lambda r: -r[0]):
            ours, with_function, theirs = (t[side] * 1e6 for side in ("eager", "staged", "torch"))
            print(f"{name:<24} {ours:>9.1f} {eager:>6.2f} {with_function:>9.1f} {staged:>6.2f} {theirs:>9.1f}")
        for what, k in (("eager", 0), ("staged", 1)):
            ratios = [r[k] for r in rows]
            print(f"{what}: {sum(r <= 1 for r in ratios)} of {len(rows)} are faster in agog; geometric mean of the "
                  f"ratios {np.exp(np.mean(np.log(ratios))):.2f}")
    sides.close()


if __name__ == "__main__":
    main()
