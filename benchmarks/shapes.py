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
GROUPED = {  # and stride, groups
    "mobile 1": (8, 32, 112, 32, 3, 1, 32),
    "mobile 2": (8, 96, 112, 96, 3, 2, 96),
    "mobile 3": (8, 144, 56, 144, 3, 1, 144),
    "mobile 4": (8, 144, 56, 144, 3, 2, 144),
    "mobile 5": (8, 384, 14, 384, 3, 1, 384),
    "mobile 6": (8, 576, 14, 576, 3, 2, 576),
    "mobile 7": (8, 960, 7, 960, 3, 1, 960),
    "efficient 1": (8, 144, 56, 144, 5, 2, 144),
    "efficient 2": (8, 240, 28, 240, 5, 1, 240),
    "efficient 3": (8, 672, 14, 672, 5, 2, 672),
    "efficient 4": (8, 1152, 7, 1152, 5, 1, 1152),
    "convnext 1": (8, 96, 56, 96, 7, 1, 96),
    "convnext 2": (8, 384, 14, 384, 7, 1, 384),
    "convnext 3": (8, 768, 7, 768, 7, 1, 768),
    "resnext 1": (8, 128, 56, 128, 3, 1, 32),
    "resnext 2": (8, 256, 56, 256, 3, 2, 32),
    "resnext 3": (8, 256, 28, 256, 3, 1, 32),
    "resnext 4": (8, 512, 14, 512, 3, 1, 32),
    "resnext 5": (8, 1024, 7, 1024, 3, 1, 32),
}
LATE = {  # images that are small, or few
    "late 1": (32, 512, 7, 512, 3, 1, 1),
    "late 2": (8, 512, 7, 512, 3, 1, 1),
    "late 3": (8, 512, 4, 512, 3, 1, 1),
    "late 4": (8, 256, 8, 256, 3, 1, 1),
    "late 5": (8, 256, 8, 512, 3, 2, 1),
    "late 6": (8, 1024, 7, 256, 1, 1, 1),
    "one 1": (1, 3, 224, 64, 7, 2, 1),
    "one 2": (1, 64, 56, 64, 3, 1, 1),
    "one 3": (1, 256, 14, 256, 3, 1, 1),
    "one 4": (1, 512, 7, 512, 3, 1, 1),
}
PRODUCTS = {  # rows, inner length, columns
    "x".join(map(str, case)): case for case in (
        (32, 64, 64), (64, 784, 256), (128, 512, 512), (512, 512, 512), (1024, 1024, 1024), (256, 768, 3072),
        (32, 4096, 64))
}
CASES = {"product": PRODUCTS, "convolution": CONVS, "grouped convolution": GROUPED, "small convolution": LATE}
CONV_KINDS = "forward", "input", "weight"
KINDS = {"product": ("A B", "A' B", "A B'", "bias, relu")}
BARS = {"product": 1.0}  # of the others 0.95
WINDOW, PAUSE, TURNS = 0.15, 0.1, 5  # seconds; the other's idle threads may spin for a while
SHORT = 0.05, 0.02, 3  # the same of grouped convolutions, of which there are many


def whole(case):
    """A convolution's case with its stride and groups."""
    return case if len(case) == 7 else (*case, 1, 1)


def conv_arrays(case):
    """x, w and the gradient of the result."""
    import numpy as np

    n, c, size, o, r, stride, groups = whole(case)
    rng, out = np.random.default_rng(0), -(-size // stride)
    shapes = (n, c, size, size), (o, c // groups, r, r), (n, o, out, out)
    return [rng.standard_normal(s, np.float32) for s in shapes]


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
    *_, size, _, r, stride, groups = whole(case)
    rest = ((stride, stride), ((r // 2, r // 2),) * 2, (1, 1), groups)
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
    *_, r, stride, groups = whole(case)
    pad = r // 2
    if kind == "forward":
        return lambda: torch.nn.functional.conv2d(x, w, padding=pad, stride=stride, groups=groups)
    wanted, back = [kind == "input", kind == "weight", False], torch.ops.aten.convolution_backward
    return lambda: back(g, x, w, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups, wanted)


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
            known[question] = make(what, CASES[what][name], kind)
            known[question]()
        fn = known[question]
        window, pause, _ = SHORT if what == "grouped convolution" else (WINDOW, PAUSE, TURNS)
        time.sleep(pause)
        print(json.dumps(least(fn, window)), flush=True)


def operations(what, case):
    if what == "product":
        m, k, n = case
        return 2 * m * k * n
    n, c, size, o, r, stride, groups = whole(case)
    return 2 * n * (c // groups) * o * r * r * (-(-size // stride)) ** 2


def main():
    a = arguments(__doc__, TURNS)
    if a.serve:
        return serve(a.serve, a.threads)
    sides = Sides(__file__, {"ours": sys.executable, "first": a.peer_python, "last": a.peer_python}, a.threads)
    met = total = 0
    for what, cases in CASES.items():
        bar, turns = BARS.get(what, 0.95), min(a.turns, SHORT[2]) if what == "grouped convolution" else a.turns
        print(f"{what}s, {a.threads} threads: PyTorch's time / ours, bar {bar} (ours in us, GFLOP/s)")
        for name, case in cases.items():
            if not a.wants(name):
                continue
            cells = []
            for kind in KINDS.get(what, CONV_KINDS):
                layouts = ["first"] if what == "product" else ["first", "last"]
                times = sides.least(turns, ["ours", *layouts], what, name, kind)
                mine = times.pop("ours")
                ratio = min(times.values()) / mine
                met, total = met + (ratio >= bar), total + 1
                rate, mark = operations(what, case) / mine / 1e9, " " if ratio >= bar else "*"
                cells.append(f"{kind} {ratio:5.2f}{mark}({mine * 1e6:7.0f}, {rate:4.0f})")
            width = 24 if what == "grouped convolution" else 15
            print(f"{name:<12} {'' if what == 'product' else ','.join(map(str, case)):<{width}}", *cells, flush=True)
    print(f"{met} of {total} bars met; the others are marked *")
    sides.close()


if __name__ == "__main__":
    main()
