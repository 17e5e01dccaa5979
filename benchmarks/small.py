"""Small operations: what one statement of eager code costs, in agog and in PyTorch, measured in turns.

    python benchmarks/small.py --peer-python .bench-venv/bin/python [--cases softmax]

Each side has a process of its own, and they take turns. A case is a statement as users of either write it, on a handful
of elements, where the work of the operation itself hardly counts; its time is the least of the means over many calls.
The ratio is agog's time over PyTorch's, less is better.
"""

import json
import sys
import time

import numpy as np
from turns import Sides, arguments

WINDOW, SAMPLE, SETTLE, TURNS = 0.03, 0.002, 0.3, 3  # seconds, and how often


def cases(array, m, f, nn, optim, data, ours):
    """{name: statement}: `m` is the module, `f` its functions of neural networks; `ours` where the two differ."""
    rng = np.random.default_rng(0)
    x, y, square, image, batch = (array(rng.standard_normal(s).astype(np.float32))
                                  for s in ((4,), (4,), (4, 4), (2, 3, 8, 8), (8, 16)))
    positive, three = m.abs(x) + 1, array(rng.standard_normal((2, 3, 4)).astype(np.float32))
    index, labels, numbers = (array(np.array(a)) for a in ([2, 0, 1], [1, 2, 0, 3], [3, 1, 2, 0]))
    mask, scalar = x > 0, x.sum()
    table, weight, bias = (array(rng.standard_normal(s).astype(np.float32)) for s in ((10, 16), (8, 16), (8,)))
    kernel, gain = array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32)), m.ones(16)
    layer, drop = nn.Linear(16, 8), nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    recurrent, norm = nn.LSTM(16, 8), nn.BatchNorm1d(16)
    leaf, other = (array(rng.standard_normal(4).astype(np.float32)).requires_grad_() for _ in range(2))
    targets = array(np.arange(8) % 4)
    sequence = array(rng.standard_normal((5, 2, 16)).astype(np.float32))
    loader = data.DataLoader(data.TensorDataset(table, table), batch_size=2)
    axis = "axis" if ours else "dim"
    over = lambda name, x, n: getattr(m, name)(x, **{axis: n})

    def parameter(make, **kw):
        p = array(np.ones(4, np.float32)).requires_grad_()
        p.grad = m.ones(4)
        o = make([p], lr=0.01, **kw)
        return o.step

    def setitem():
        x[1] = 2.0

    def setslice():
        square[1:3] = 0.0

    def gradient(fn):
        def run():
            fn().backward()
            leaf.grad = other.grad = None
        return run

    steps = optim.SGD(model.parameters(), lr=0.01)

    def train():
        steps.zero_grad()
        f.cross_entropy(model(batch), targets).backward()
        steps.step()

    def take_all():
        for _ in loader:
            pass

    value_and_grad = (m.value_and_grad(lambda a, b: (a * b).sum(), (0, 1)) if ours else
                      m.func.grad_and_value(lambda a, b: (a * b).sum(), (0, 1)))
    return {
        "x + y": lambda: x + y,
        "x * 2.0": lambda: x * 2.0,
        "1 - x": lambda: 1 - x,
        "x + row": lambda: square + x,
        "x / y": lambda: x / y,
        "x ** 2": lambda: x ** 2,
        "-x": lambda: -x,
        "x > 0": lambda: x > 0,
        "x == y": lambda: x == y,
        "mask & mask": lambda: mask & mask,
        "exp": lambda: m.exp(x),
        "tanh": lambda: m.tanh(x),
        "sigmoid": lambda: m.sigmoid(x),
        "sqrt": lambda: m.sqrt(positive),
        "relu": lambda: f.relu(x),
        "gelu": lambda: f.gelu(x),
        "maximum": lambda: m.maximum(x, y),
        "clip": lambda: m.clip(x, -1.0, 1.0),
        "where": lambda: m.where(mask, x, y),
        "where number": lambda: m.where(mask, x, 0.0),
        "sum": lambda: x.sum(),
        "sum axis": lambda: over("sum", square, 1),
        "mean": lambda: x.mean(),
        "max": lambda: x.max(),
        "argmax": lambda: over("argmax", square, 1),
        "any": lambda: mask.any(),
        "std": lambda: m.std(x),
        "norm": lambda: m.linalg.vector_norm(x),
        "cumsum": lambda: m.cumulative_sum(x, axis=0) if ours else m.cumsum(x, 0),
        "softmax": lambda: over("softmax", square, 1),
        "log_softmax": lambda: over("log_softmax", square, 1),
        "logsumexp": lambda: over("logsumexp", square, 1),
        "cross_entropy": lambda: f.cross_entropy(square, labels),
        "mse_loss": lambda: f.mse_loss(x, y),
        "layer_norm": lambda: f.layer_norm(batch, (16,), gain, gain),
        "matmul": lambda: square @ square,
        "matvec": lambda: square @ x,
        "dot": lambda: x @ y,
        "linear": lambda: f.linear(batch, weight, bias),
        "einsum": lambda: m.einsum("ij,jk->ik", square, square),
        "conv2d": lambda: f.conv2d(image, kernel, padding=1),
        "max_pool2d": lambda: f.max_pool2d(image, 2),
        "embedding": lambda: f.embedding(index, table),
        "dropout": lambda: drop(x),
        "x[1]": lambda: x[1],
        "x[1:3]": lambda: x[1:3],
        "x[:, 1]": lambda: square[:, 1],
        "x[None]": lambda: x[None],
        "x[index]": lambda: x[index],
        "x[mask]": lambda: x[mask],
        "x[1] = 2.0": setitem,
        "x[1:3] = 0.0": setslice,
        "reshape": lambda: square.reshape(2, 8) if not ours else square.reshape((2, 8)),
        "x.T": lambda: square.T,
        "permute": lambda: m.permute_dims(three, (2, 0, 1)) if ours else m.permute(three, (2, 0, 1)),
        "squeeze": lambda: m.squeeze(x[None], 0),
        "stack": lambda: m.stack([x, y]),
        "concat": lambda: m.concat([x, y]),
        "split": lambda: m.split(square, 2),
        "unstack": lambda: m.unstack(square) if ours else m.unbind(square),
        "broadcast_to": lambda: m.broadcast_to(x, (3, 4)),
        "astype": lambda: x.astype("float64") if ours else x.double(),
        "sort": lambda: m.sort(x),
        "zeros": lambda: m.zeros((4,)),
        "arange": lambda: m.arange(4),
        "asarray": lambda: m.asarray([1.0, 2.0]) if ours else m.tensor([1.0, 2.0]),
        "normal": lambda: m.random.normal((4,)) if ours else m.randn((4,)),
        "uniform": lambda: m.random.uniform((4,)) if ours else m.rand((4,)),
        "item": lambda: scalar.item(),
        "float(x)": lambda: float(scalar),
        "if x": lambda: 1 if scalar else 0,
        "shape": lambda: x.shape,
        "numpy": lambda: x.numpy(),
        "detach": lambda: leaf.detach(),
        "Linear": lambda: layer(batch),
        "Sequential": lambda: model(batch),
        "BatchNorm1d": lambda: norm(batch),
        "LSTM, 5 steps": lambda: recurrent(sequence),
        "backward of a product": gradient(lambda: (leaf * other).sum()),
        "backward of a chain": gradient(lambda: (m.tanh(leaf * 2.0 + other) - other).sum()),
        "backward of an index": gradient(lambda: leaf[1:3].sum()),
        "value and gradient": lambda: value_and_grad(x, y),
        "value and gradient of leaves": lambda: value_and_grad(leaf, other),
        "SGD step": parameter(optim.SGD),
        "SGD step, momentum": parameter(optim.SGD, momentum=0.9),
        "Adam step": parameter(optim.Adam),
        "AdamW step": parameter(optim.AdamW),
        "training step": train,
        "DataLoader, 5 batches": take_all,
    }


def made(side, threads):
    if side == "torch":
        import torch

        torch.set_num_threads(threads)
        return cases(torch.from_numpy, torch, torch.nn.functional, torch.nn, torch.optim, torch.utils.data, False)
    import agog as ag
    from agog.compiler import eager

    ag.set_num_threads(threads)
    big, end = ag.ones((512, 512)), time.perf_counter() + SETTLE
    while time.perf_counter() < end:  # work enough that the compiler is loaded before the first case
        big @ big
    time.sleep(2 * SETTLE)
    known = cases(ag.asarray, ag, ag.nn.functional, ag.nn, ag.optim, ag.data, True)
    for _ in range(3):  # and what the cases ask for is compiled
        for fn in known.values():
            fn()
        eager.settle()
    return known


def measured(fn):
    """The least mean over calls of some milliseconds, in seconds."""
    clock, k, best = time.perf_counter, 1, 1e9
    end = clock() + WINDOW
    while clock() < end:
        start = clock()
        for _ in range(k):
            fn()
        took = clock() - start
        best = min(best, took / k)
        k = max(1, int(SAMPLE / best))
    return best


def serve(side, threads):
    """Answer every line with the time of the case that it names; "" asks for their names."""
    known = made(side, threads)
    for line in sys.stdin:
        (name,) = json.loads(line)
        try:
            print(json.dumps(measured(known[name]) if name else list(known)), flush=True)
        except Exception as error:
            print(f"{side}, {name}: {type(error).__name__}: {error}", file=sys.stderr)
            print("1e9", flush=True)


def main():
    a = arguments(__doc__, TURNS)
    if a.serve:
        return serve(a.serve, a.threads)
    sides = Sides(__file__, {"agog": sys.executable, "torch": a.peer_python}, a.threads)
    rows = []
    for name in filter(a.wants, sides.ask("agog", "")):
        times = sides.least(a.turns, ["agog", "torch"], name)
        rows.append((times["agog"] / times["torch"], name, times["agog"] * 1e6, times["torch"] * 1e6))
    sides.close()
    print(f"{'':<30} {'agog':>9} {'torch':>9} {'ratio':>7}")
    for ratio, name, x, y in sorted(rows, reverse=True):
        print(f"{name:<30} {x:>6.2f} us {y:>6.2f} us {ratio:>7.2f}")
    print(f"{sum(r[0] <= 1 for r in rows)} of {len(rows)} are faster in agog; geometric mean of the ratios "
          f"{np.exp(np.mean([np.log(r[0]) for r in rows])):.2f}")


if __name__ == "__main__":
    main()
