"""Training steps of whole networks, written as PyTorch's users write them: agog's, eager and staged, and PyTorch's.

    python benchmarks/networks.py --peer-python .bench-venv/bin/python [--cases resnet,vit] [--compile]

The same source runs on both, `m`, `nn`, `f`, `optim` being agog's modules or PyTorch's. agog takes over PyTorch's
weights, and where nothing is drawn at random, the losses of the first three steps must agree. Each side has a process
of its own, and they take turns; the ratios are agog's times over PyTorch's, less is better. With --compile, PyTorch's
loss goes through `torch.compile` too (in a process of its own), which takes minutes.
"""

import json
import math
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
from turns import Sides, arguments

TURNS, WINDOW, SETTLE, STEPS, AGREE = 3, 0.4, 0.5, 3, 2e-3
RANDOM = {"seq2seq", "vae", "mlp with dropout"}  # which draw random numbers

NETWORKS = {}


def network(name):
    """Registers `build(m, nn, f, optim, Data) -> (network, optimizer, loss)`."""
    return lambda build: NETWORKS.setdefault(name, build)


class Data:
    """Seeded arrays, as a framework's own."""

    def __init__(self, array):
        self.array, self.rng = array, np.random.default_rng(0)

    def normal(self, *shape):
        return self.array(self.rng.standard_normal(shape).astype(np.float32))

    def uniform(self, *shape):
        return self.array(self.rng.random(shape).astype(np.float32))

    def bits(self, *shape):
        return self.array(self.rng.integers(0, 2, shape).astype(np.float32))

    def labels(self, high, *shape):
        return self.array(self.rng.integers(0, high, shape))


@network("resnet-18, 8 images of 32 x 32")
def resnet(m, nn, f, optim, data):
    class Block(nn.Module):
        def __init__(self, given, made, stride):
            super().__init__()
            self.first, self.norm1 = nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made)
            self.second, self.norm2 = nn.Conv2d(made, made, 3, 1, 1, bias=False), nn.BatchNorm2d(made)
            same = stride == 1 and given == made
            self.short = nn.Identity() if same else nn.Sequential(
                nn.Conv2d(given, made, 1, stride, bias=False), nn.BatchNorm2d(made))

        def forward(self, x):
            y = f.relu(self.norm1(self.first(x)))
            return f.relu(self.norm2(self.second(y)) + self.short(x))

    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2),
             (512, 512, 1)]
    net = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                        *[Block(*s) for s in sizes], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    x, y = data.normal(8, 3, 32, 32), data.labels(10, 8)
    steps = optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    return net, steps, lambda: f.cross_entropy(net(x), y)


@network("mobile net, 16 images of 64 x 64")
def mobile(m, nn, f, optim, data):
    class Inverted(nn.Module):
        def __init__(self, given, made, stride):
            super().__init__()
            wide = 4 * given
            self.net = nn.Sequential(
                nn.Conv2d(given, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
                nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
                nn.Conv2d(wide, made, 1, bias=False), nn.BatchNorm2d(made))
            self.residual = stride == 1 and given == made

        def forward(self, x):
            return x + self.net(x) if self.residual else self.net(x)

    sizes = [(16, 24, 1), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
                        *[Inverted(*s) for s in sizes], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    x, y = data.normal(16, 3, 64, 64), data.labels(10, 16)
    return net, optim.SGD(net.parameters(), lr=0.01, momentum=0.9), lambda: f.cross_entropy(net(x), y)


@network("vision transformer, 16 images of 32 x 32")
def vision(m, nn, f, optim, data):
    class Vision(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 128, 4, 4)
            self.first, self.place = nn.Parameter(m.zeros((1, 1, 128))), nn.Parameter(m.zeros((1, 65, 128)))
            layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, activation="gelu", batch_first=True,
                                               norm_first=True)
            self.encoder, self.norm, self.head = nn.TransformerEncoder(layer, 4), nn.LayerNorm(128), nn.Linear(128, 10)

        def forward(self, x):
            x = self.patches(x).reshape(x.shape[0], 128, -1).mT
            x = m.concat([m.broadcast_to(self.first, (x.shape[0], 1, 128)), x], 1) + self.place
            return self.head(self.norm(self.encoder(x))[:, 0])

    net = Vision()
    x, y = data.normal(16, 3, 32, 32), data.labels(10, 16)
    return net, optim.AdamW(net.parameters(), lr=1e-3), lambda: f.cross_entropy(net(x), y)


@network("u-net, 4 images of 64 x 64")
def unet(m, nn, f, optim, data):
    def twice(given, made):
        return nn.Sequential(nn.Conv2d(given, made, 3, 1, 1), nn.GroupNorm(4, made), nn.SiLU(),
                             nn.Conv2d(made, made, 3, 1, 1), nn.GroupNorm(4, made), nn.SiLU())

    class Unet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down1, self.down2, self.down3 = twice(1, 16), twice(16, 32), twice(32, 64)
            self.up2, self.up1 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
            self.back2, self.back1, self.out = twice(64, 32), twice(32, 16), nn.Conv2d(16, 1, 1)

        def forward(self, x):
            a = self.down1(x)
            b = self.down2(f.max_pool2d(a, 2))
            y = self.up2(self.down3(f.max_pool2d(b, 2)))
            y = self.up1(self.back2(m.concat([y, b], 1)))
            return self.out(self.back1(m.concat([y, a], 1)))

    net = Unet()
    x, y = data.normal(4, 1, 64, 64), data.bits(4, 1, 64, 64)
    return net, optim.Adam(net.parameters(), lr=1e-3), lambda: f.binary_cross_entropy_with_logits(net(x), y)


@network("gan, 16 images of 16 x 16")
def gan(m, nn, f, optim, data):
    net = nn.Sequential(
        nn.ConvTranspose2d(64, 128, 4, 1, 0, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Tanh(), nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 4, 1, 0), nn.Flatten())
    z, y = data.normal(16, 64, 1, 1), data.bits(16, 1)
    steps = optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999))
    return net, steps, lambda: f.binary_cross_entropy_with_logits(net(z), y)


@network("3d convolutions, 4 volumes of 16 x 32 x 32")
def volumes(m, nn, f, optim, data):
    net = nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2),
                        nn.Conv3d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                        nn.Linear(32, 4))
    x, y = data.normal(4, 1, 16, 32, 32), data.labels(4, 4)
    return net, optim.SGD(net.parameters(), lr=0.01), lambda: f.cross_entropy(net(x), y)


@network("wave net, 8 signals of 512")
def wave(m, nn, f, optim, data):
    class Wave(nn.Module):
        def __init__(self):
            super().__init__()
            dilated = lambda: nn.ModuleList([nn.Conv1d(32, 32, 2, dilation=2**i) for i in range(6)])
            self.first, self.values, self.gates = nn.Conv1d(1, 32, 1), dilated(), dilated()
            self.mixed = nn.ModuleList([nn.Conv1d(32, 32, 1) for _ in range(6)])
            self.last = nn.Conv1d(32, 1, 1)

        def forward(self, x):
            x = self.first(x)
            for i, (value, gate, mixed) in enumerate(zip(self.values, self.gates, self.mixed)):
                before = m.concat([m.zeros((x.shape[0], 32, 2**i)), x], 2)
                x = x + mixed(m.tanh(value(before)) * m.sigmoid(gate(before)))
            return self.last(x)

    net = Wave()
    x, y = data.normal(8, 1, 512), data.normal(8, 1, 512)
    return net, optim.Adam(net.parameters(), lr=1e-3), lambda: f.mse_loss(net(x), y)


@network("gru language model, 16 x 32 words")
def words(m, nn, f, optim, data):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn = nn.Embedding(1000, 64), nn.GRU(64, 128, num_layers=2, batch_first=True)
            self.head = nn.Linear(128, 1000)

        def forward(self, x):
            return self.head(self.rnn(self.embed(x))[0])

    net = Words()
    x, y = data.labels(1000, 16, 32), data.labels(1000, 16 * 32)
    return net, optim.Adam(net.parameters(), lr=1e-3), lambda: f.cross_entropy(net(x).reshape(-1, 1000), y)


@network("seq2seq")
def seq2seq(m, nn, f, optim, data):
    class Translation(nn.Module):
        def __init__(self):
            super().__init__()
            shape = {"d_model": 64, "nhead": 4, "dim_feedforward": 128, "dropout": 0.1, "batch_first": True}
            self.given, self.wanted, self.head = nn.Embedding(500, 64), nn.Embedding(500, 64), nn.Linear(64, 500)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**shape), 2)
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**shape), 2)

        def forward(self, a, b):
            return self.head(self.decoder(self.wanted(b), self.encoder(self.given(a))))

    net = Translation()
    a, b, y = data.labels(500, 8, 24), data.labels(500, 8, 24), data.labels(500, 8 * 24)
    return net, optim.Adam(net.parameters(), lr=1e-3), lambda: f.cross_entropy(net(a, b).reshape(-1, 500), y)


@network("vae")
def vae(m, nn, f, optim, data):
    class Vae(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.mean, self.spread = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
            self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

        def forward(self, x):
            h = f.relu(self.encoder(x))
            mean, spread = self.mean(h), self.spread(h)
            return self.decoder(mean + m.exp(0.5 * spread) * m.randn_like(mean)), mean, spread

    net, x = Vae(), data.uniform(128, 784)

    def loss():
        y, mean, spread = net(x)
        nearness = m.sum(1 + spread - mean**2 - m.exp(spread))
        return f.binary_cross_entropy_with_logits(y, x, reduction="sum") - 0.5 * nearness

    return net, optim.Adam(net.parameters(), lr=1e-3), loss


@network("graph convolutions, 2,000 nodes")
def graph(m, nn, f, optim, data):
    nodes, edges = 2000, 10000
    source, target = data.labels(nodes, edges), data.labels(nodes, edges)

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 7)

        def spread(self, h):
            zeros = m.zeros((nodes, h.shape[1]))
            return zeros.at[target].add(h[source]) if hasattr(zeros, "at") else zeros.index_add(0, target, h[source])

        def forward(self, x):
            return self.spread(self.second(f.relu(self.spread(self.first(x)))))

    net = Graph()
    x, y = data.normal(nodes, 64), data.labels(7, nodes)
    return net, optim.Adam(net.parameters(), lr=1e-2), lambda: f.cross_entropy(net(x), y)


@network("mlp with dropout")
def dropout(m, nn, f, optim, data):
    layer = lambda given: (nn.Linear(given, 256), nn.LayerNorm(256), nn.GELU(), nn.Dropout(0.2))
    net = nn.Sequential(*layer(100), *layer(256), nn.Linear(256, 1))
    x, y = data.normal(256, 100), data.normal(256, 1)
    return net, optim.AdamW(net.parameters(), lr=1e-3), lambda: f.huber_loss(net(x), y)


@network("burgers' equation, 512 points, second derivatives")
def burgers(m, nn, f, optim, data):
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(),
                        nn.Linear(64, 1))
    points = data.uniform(512, 2).requires_grad_()
    derived = m.gradients if hasattr(m, "gradients") else m.autograd.grad

    def loss():
        u = net(points)
        (du,) = derived(u.sum(), [points], create_graph=True)
        (ddu,) = derived(du[:, :1].sum(), [points], create_graph=True)
        return m.mean((du[:, 1:] + u * du[:, :1] - 0.01 * ddu[:, :1]) ** 2)

    return net, optim.Adam(net.parameters(), lr=1e-3), loss


@network("recommendations, 8 tables of 10,000")
def recommendations(m, nn, f, optim, data):
    left, right = (data.array(i) for i in np.tril_indices(9, -1))

    class Recommender(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables, self.bottom = nn.ModuleList([nn.Embedding(10000, 16) for _ in range(8)]), nn.Linear(13, 16)
            self.top = nn.Sequential(nn.Linear(16 + 36, 64), nn.ReLU(), nn.Linear(64, 1))

        def forward(self, dense, kinds):
            rows = [table(kinds[:, k]) for k, table in enumerate(self.tables)]
            z = m.stack([f.relu(self.bottom(dense)), *rows], 1)
            return self.top(m.concat([z[:, 0], (z @ z.mT)[:, left, right]], 1))

    net = Recommender()
    dense, kinds, y = data.normal(256, 13), data.labels(10000, 256, 8), data.bits(256, 1)
    loss = lambda: f.binary_cross_entropy_with_logits(net(dense, kinds), y)
    return net, optim.SGD(net.parameters(), lr=0.1), loss


# ---------------------------------------------------------------------------------------------------------- measuring
def built(side, threads, name, weights):
    """`step() -> loss`; PyTorch writes its first weights to a file, which agog reads."""
    ours = side in ("eager", "staged")
    if ours:
        import agog as m

        nn, f, optim, array = m.nn, m.nn.functional, m.optim, m.asarray
    else:
        import torch as m

        nn, f, optim, array = m.nn, m.nn.functional, m.optim, m.from_numpy
    m.set_num_threads(threads)
    net, steps, loss = NETWORKS[name](m, nn, f, optim, Data(array))
    if side == "torch":
        np.savez(weights, **{k: v.numpy() for k, v in net.state_dict().items()})
    else:
        with np.load(weights) as known:
            net.load_state_dict({k: array(known[k]) for k in known.files})
    if side == "compile":
        loss = m.compile(loss)

    def step():
        steps.zero_grad()
        value = loss()
        value.backward()
        steps.step()
        return value

    return m.function(step) if side == "staged" else step


def serve(side, threads):
    """Answer every line, [name, weights], with the time of a step and the losses of the first ones."""
    known = {}
    for line in sys.stdin:
        name, weights = json.loads(line)
        try:
            if name not in known:
                step = built(side, threads, name, weights)
                losses = [float(step().detach()) for _ in range(STEPS)]
                time.sleep(SETTLE)
                for _ in range(3):
                    step()
                time.sleep(SETTLE)
                known[name] = step, losses
            step, losses = known[name]
            times, end = [], time.perf_counter() + WINDOW
            while time.perf_counter() < end or len(times) < 3:
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
            print(json.dumps([statistics.median(times), losses]), flush=True)
        except Exception as error:
            print(f"{side}, {name}: {type(error).__name__}: {error}", file=sys.stderr)
            print(json.dumps([float("nan"), None]), flush=True)


def main():
    a = arguments(__doc__, TURNS, lambda parser: parser.add_argument("--compile", action="store_true"))
    if a.serve:
        return serve(a.serve, a.threads)
    pythons = {"torch": a.peer_python, "eager": sys.executable, "staged": sys.executable}
    if a.compile:
        pythons["compile"] = a.peer_python
    sides = Sides(__file__, pythons, a.threads)
    columns = {"eager": "torch", "staged": "torch"} | ({"staged ": "compile"} if a.compile else {})
    print(f"{'ms a step':<50}", *[f"{side:>9}" for side in pythons],
          *[f"{f'{ours}/{peer}':>15}" for ours, peer in columns.items()])
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(a.wants, NETWORKS):
            weights = str(pathlib.Path(folder) / "weights.npz")
            rounds = [{side: sides.ask(side, name, weights) for side in pythons} for _ in range(a.turns)]
            times = {side: statistics.median(r[side][0] for r in rounds) for side in pythons}
            row = [times[ours.strip()] / times[peer] for ours, peer in columns.items()]
            ratios.append(row)
            first = {side: losses for side, (_, losses) in rounds[0].items()}
            apart = max((abs(x / y - 1) for side, losses in first.items() for x, y in
                         zip(losses or [], first["torch"] or [])), default=0.0)
            remark = "" if name in RANDOM or apart <= AGREE else f"  the losses differ by {apart:.1e}: no result"
            shown = [f"{1e3 * t:9.2f}" for t in times.values()] + [f"{r:15.2f}" for r in row]
            print(f"{name:<50}", *[s.replace("nan", "  -") for s in shown], remark, flush=True)
    for i, (ours, peer) in enumerate(columns.items()):
        known = [r[i] for r in ratios if not math.isnan(r[i])]
        print(f"{ours.strip()}: {sum(r <= 1 for r in known)} of {len(known)} are faster than {peer}; geometric mean of "
              f"the ratios {np.exp(np.mean(np.log(known))):.2f}")
    sides.close()


if __name__ == "__main__":
    main()
