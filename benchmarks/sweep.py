"""Operations on arrays of many shapes, eager and staged, against eager PyTorch: what is far off shows at the top.

    python benchmarks/sweep.py --peer-python .bench-venv/bin/python [--cases softmax] [--worst 30]

`operations.py` has more operations, this has more shapes: long rows, thin columns, slices, transposes, products with a
vector, batches of small matrices. Each side has a process of its own, and they take turns case by case; agog waits for
its kernels (`set_reproducible`), so that a first call is like the others. Ratios are agog's times over PyTorch's, less
is better; of the staged times also those over eager agog's.
"""

import itertools
import json
import sys

import numpy as np
from small import measured
from turns import Sides, arguments

SHAPES = [(100_000, 3), (3, 100_000), (1000, 1000), (100_000, 10), (10, 100_000), (32, 50_257), (8192, 64), (64, 8192),
          (333, 777), (1, 500_000), (500_000, 1), (2048, 17)]
PRODUCTS = [(1, 64, 64), (4, 256, 256), (1000, 3, 1000), (1000, 1000, 3), (10_000, 10, 10), (10, 10_000, 10),
            (10, 10, 10_000), (64, 64, 64), (17, 33, 65), (500, 500, 500), (100, 2000, 100), (2, 4096, 1024),
            (8, 1024, 4096), (100_000, 64, 1), (100_000, 64, 2), (1, 100_000, 64), (256, 256, 1), (1, 256, 1024)]
BATCHES = [(1000, 8, 8, 8), (64, 128, 64, 128), (256, 1, 64, 64), (256, 64, 64, 1), (10_000, 3, 3, 3),
           (8, 512, 64, 512), (500, 1, 100, 100)]


def cases(m, f, array, ours):
    """{name: a function that makes the statement}, so that few arrays are there at a time."""
    rng = np.random.default_rng(0)
    normal = lambda *s: array(rng.standard_normal(s).astype(np.float32))
    numbers = lambda high, *s: array(rng.integers(0, high, s))
    along = lambda axis: {"axis" if ours else "dim": axis}
    joined, greatest = (m.concat, m.max) if ours else (m.cat, m.amax)
    axes = {
        "sum": lambda x, a: m.sum(x, **along(a)), "max": lambda x, a: greatest(x, **along(a)),
        "softmax": lambda x, a: m.softmax(x, **along(a)), "logsumexp": lambda x, a: m.logsumexp(x, **along(a)),
        "argmax": lambda x, a: m.argmax(x, **along(a)), "cumsum": lambda x, a: m.cumsum(x, **along(a)),
        "concat": lambda x, a: joined([x, x], **along(a)),
    }
    whole = {
        "transpose, sum": lambda x: m.sum(x.T, **along(0)), "transpose, x * 2 + x": lambda x: x.T * 2 + x.T,
        "rows apart": lambda x: x[1:] - x[:-1], "columns apart": lambda x: x[:, 1:] - x[:, :-1],
        "every other row": lambda x: x[::2] * 2, "flip": lambda x: m.flip(x, axis=1) if ours else m.flip(x, (1,)),
        "roll": lambda x: m.roll(x, 1, 1), "where": lambda x: m.where(x > 0, x, x * 0.1),
        "layer_norm": lambda x: f.layer_norm(x, tuple(x.shape[1:])),
        "rows of length one": lambda x: x / m.sqrt(m.sum(x * x, **along(1)) + 1e-6)[:, None],
    }
    made = {}
    for shape in SHAPES:
        called = f"{shape[0]:,} x {shape[1]:,}"
        for (name, fn), axis in itertools.product(axes.items(), (0, 1)):
            made[f"{name}, axis {axis}, {called}"] = lambda fn=fn, axis=axis, shape=shape: (
                lambda x: lambda: fn(x, axis))(normal(*shape))
        for name, fn in whole.items():
            made[f"{name}, {called}"] = lambda fn=fn, shape=shape: (lambda x: lambda: fn(x))(normal(*shape))
        two = {
            "x + row": lambda x, y: x + y, "x * column": lambda x, y: x * y, "row + column": lambda x, y: x + y,
            "rows at places": lambda x, y: x[y], "cross_entropy": lambda x, y: f.cross_entropy(x, y),
        }
        operands = {
            "x + row": lambda s: (normal(*s), normal(s[1])), "x * column": lambda s: (normal(*s), normal(s[0], 1)),
            "row + column": lambda s: (normal(1, s[1]), normal(s[0], 1)),
            "rows at places": lambda s: (normal(*s), numbers(s[0], min(s[0], 5000))),
            "cross_entropy": lambda s: (normal(*s), numbers(s[1], s[0])),
        }
        for name, fn in two.items():
            made[f"{name}, {called}"] = lambda fn=fn, make=operands[name], shape=shape: (
                lambda x, y: lambda: fn(x, y))(*make(shape))
    matmul = lambda *sizes, ways=(0, 0): lambda: (lambda x, y: lambda: x @ y)(*[
        normal(*s[:-2], s[-1], s[-2]).mT if way else normal(*s) for s, way in zip(sizes, ways)])
    for i, j, k in PRODUCTS:
        for ways, name in (((0, 0), "x @ y"), ((0, 1), "x @ y.T"), ((1, 0), "x.T @ y")):
            made[f"{name}, {i:,} x {j:,} x {k:,}"] = matmul((i, j), (j, k), ways=ways)
    for n, i, j, k in BATCHES:
        for ways, name in (((0, 0), "x @ y"), ((0, 1), "x @ y.mT")):
            made[f"{name}, {n:,} of {i} x {j} x {k}"] = matmul((n, i, j), (n, j, k), ways=ways)
    distances = lambda x, y: m.sum((x[:, None] - y[None]) ** 2, **along(2))
    made["pairwise distances, 500 x 600 x 16"] = lambda: (
        lambda x, y: lambda: distances(x, y))(normal(500, 16), normal(600, 16))
    made["mask of 512 x 512 on 8 x 512 x 512"] = lambda: (
        lambda x, mask: lambda: m.where(mask, x, -1e9))(normal(8, 512, 512), array(np.tri(512, dtype=bool)))
    return made


def serve(side, threads):
    """Answer every line, a case, with its time; "" asks for the names."""
    if side == "torch":
        import torch

        torch.set_num_threads(threads)
        known = cases(torch, torch.nn.functional, torch.from_numpy, False)
    else:
        import agog as ag

        ag.set_num_threads(threads)
        ag.set_reproducible()
        known = cases(ag, ag.nn.functional, ag.asarray, True)
    for line in sys.stdin:
        (name,) = json.loads(line)
        if not name:
            print(json.dumps(list(known)), flush=True)
            continue
        try:
            statement = known[name]()
            if side == "staged":
                statement = ag.function(statement)
            for _ in range(4):
                statement()
            print(json.dumps(measured(statement)), flush=True)
        except Exception as error:
            print(f"{side}, {name}: {type(error).__name__}: {error}", file=sys.stderr)
            print("1e9", flush=True)


def main():
    a = arguments(__doc__, 1, lambda parser: parser.add_argument("--worst", type=int, default=20, help="rows to show"))
    if a.serve:
        return serve(a.serve, a.threads)
    sides = Sides(__file__, {"eager": sys.executable, "staged": sys.executable, "torch": a.peer_python}, a.threads)
    rows = [(name, sides.least(a.turns, ["eager", "staged", "torch"], name))
            for name in filter(a.wants, sides.ask("eager", ""))]
    sides.close()
    for side in ("eager", "staged"):
        ratios = {name: t[side] / t["torch"] for name, t in rows}
        print(f"{side}: {sum(r <= 1 for r in ratios.values())} of {len(rows)} are faster in agog; geometric mean of "
              f"the ratios {np.exp(np.mean(np.log(list(ratios.values())))):.2f}. The others that are furthest off:")
        print(f"{'':<44} {'eager, us':>10} {'staged, us':>10} {'torch, us':>10} {'ratio':>6} {'staged/eager':>13}")
        for name, t in sorted(rows, key=lambda row: -ratios[row[0]])[:a.worst]:
            eager, staged, torch = (t[s] * 1e6 for s in ("eager", "staged", "torch"))
            print(f"{name:<44} {eager:>10.1f} {staged:>10.1f} {torch:>10.1f} {ratios[name]:>6.2f} "
                  f"{staged / eager:>13.2f}")


if __name__ == "__main__":
    main()
