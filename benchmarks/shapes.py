"""Matrix products and convolutions, shape by shape: PyTorch's time over ours, measured in turns; more is better.

    python benchmarks/shapes.py --peer-python .bench-venv/bin/python [--cases notes,512]      (make bench does it)

Each side has a process of its own, and they take turns (threads of one would spin while the other is measured). A time
is the least of many. A convolution of PyTorch's is that of the better of its two layouts; ours begins and ends in NCHW.
Products write to arrays that exist already, on both sides.
"""

import json
import sys
import time

from turns import Sides, arguments, least

CONVS = {  # images, channels, height and width, output channels, kernel height and width
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
PRODUCTS = {  # rows, inner length, columns
    "x".join(map(str, case)): case for case in (
        (32, 64, 64), (64, 784, 256), (128, 512, 512), (512, 512, 512), (1024, 1024, 1024), (256, 768, 3072),
        (32, 4096, 64))
}
KINDS = {"convolution": ("forward", "input", "weight"), "product": ("A B", "A' B", "A B'", "bias, relu")}
BARS = {"convolution": 0.95, "product": 1.0}
WINDOW, PAUSE, TURNS = 0.15, 0.1, 5  # seconds; the other's idle threads may spin for a while


def conv_arrays(case):
    import numpy as np

    n, c, size, o, r = case
    rng = np.random.default_rng(0)
    shapes = (n, c, size, size), (o, c, r, r), (n, o, size, size)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def product_arrays(case, kind):
    """a, b, out and bias, a or b transposed where `kind` says so."""
    import numpy as np

    m, k, n = case
    rng = np.random.default_rng(0)
    new = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return new(k, m).T if kind == "A' B" else new(m, k), new(n, k).T if kind == "A B'" else new(k, n), new(m, n), new(n)


def ours(what, case, kind):
    from agog.array import large
    from agog.compiler.conv import conv
    from agog.compiler.gemm import gemm

    if what == "product":
        a, b, out, bias = product_arrays(case, kind)
        more = {"bias": bias, "relu": True} if kind == "bias, relu" else {}
        product = gemm("float32")
        return lambda: product(out, a, b, **more)
    (x, w, g), k = conv_arrays(case), conv("float32")
    r, size = w.shape[-1], x.shape[-1]
    rest = ((1, 1), ((r // 2, r // 2),) * 2, (1, 1), 1)
    return {
        "forward": lambda: k.forward(x, w, None, *rest, empty=large.empty),
        "input": lambda: k.input_grad(g, w, (size, size), *rest, empty=large.empty),
        "weight": lambda: k.weight_grad(x, g, (r, r), *rest),
    }[kind]


def torchs(what, case, kind, last):
    import torch

    if what == "product":
        a, b, out, bias = map(torch.from_numpy, product_arrays(case, kind))
        if kind == "bias, relu":
            return lambda: torch.addmm(bias, a, b, out=out).relu_()
        return lambda: torch.mm(a, b, out=out)
    like = torch.channels_last if last else torch.contiguous_format
    x, w, g = (torch.from_numpy(t).to(memory_format=like) for t in conv_arrays(case))
    pad = case[-1] // 2
    if kind == "forward":
        return lambda: torch.nn.functional.conv2d(x, w, padding=pad)
    wanted, back = [kind == "input", kind == "weight", False], torch.ops.aten.convolution_backward
    return lambda: back(g, x, w, None, [1, 1], [pad] * 2, [1, 1], False, [0, 0], 1, wanted)


def serve(side, threads):
    """Answer every line (what, case, kind) with the least time of a window."""
    if side == "ours":
        from agog import config

        config.set_num_threads(threads)
        make = ours
    else:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        make = lambda *question: torchs(*question, last=side == "last")
    known = {}
    for line in sys.stdin:
        question = what, name, kind = tuple(json.loads(line))
        if question not in known:
            known.clear()
            known[question] = make(what, (PRODUCTS if what == "product" else CONVS)[name], kind)
            known[question]()
        fn = known[question]
        time.sleep(PAUSE)
        print(json.dumps(least(fn, WINDOW)), flush=True)


def operations(what, case):
    if what == "product":
        m, k, n = case
        return 2 * m * k * n
    n, c, size, o, r = case
    return 2 * n * c * o * r * r * size * size


def main():
    a = arguments(__doc__, TURNS)
    if a.serve:
        return serve(a.serve, a.threads)
    sides = Sides(__file__, {"ours": sys.executable, "first": a.peer_python, "last": a.peer_python}, a.threads)
    met = total = 0
    for what, cases in (("product", PRODUCTS), ("convolution", CONVS)):
        print(f"{what}s, {a.threads} threads: PyTorch's time / ours, bar {BARS[what]} (ours in us, GFLOP/s)")
        for name, case in cases.items():
            if not a.wants(name):
                continue
            cells = []
            for kind in KINDS[what]:
                layouts = ["first"] if what == "product" else ["first", "last"]
                times = sides.least(a.turns, ["ours", *layouts], what, name, kind)
                mine = times.pop("ours")
                ratio = min(times.values()) / mine
                met, total = met + (ratio >= BARS[what]), total + 1
                rate, mark = operations(what, case) / mine / 1e9, " " if ratio >= BARS[what] else "*"
                cells.append(f"{kind} {ratio:5.2f}{mark}({mine * 1e6:7.0f}, {rate:4.0f})")
            print(f"{name:<12} {'' if what == 'product' else ','.join(map(str, case)):<15}", *cells, flush=True)
    print(f"{met} of {total} bars met; the others are marked *")
    sides.close()


if __name__ == "__main__":
    main()
