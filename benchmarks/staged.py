"""The staged suite: calls of `@agog.function` as ratios to `jax.jit` and to agog's eager mode, in one interleaved run.

    python benchmarks/staged.py --peer-python .bench-venv/bin/python      (make bench does it)

One process per framework and mode; they take turns, and a ratio is the median over the rounds of the quotient of that
round's medians. A call is the whole call from Python. Cold starts are fresh processes with an empty cache folder.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from turns import from_bytecode

HERE = pathlib.Path(__file__).parent
CLOCK = time.perf_counter


# ------------------------------------------------------------------------------------------------ the workloads
def namespaces(peer):
    """(functions, array, stage, value_and_grad, wait) of a framework."""
    if peer == "jax":
        import jax
        import jax.numpy as jnp
        from jax.scipy.special import logsumexp

        jnp.logsumexp = logsumexp
        return jnp, jnp.asarray, jax.jit, lambda f, n: jax.value_and_grad(f, tuple(range(n))), jax.block_until_ready
    import agog as ag

    stage = ag.function if peer == "agog" else lambda f: f
    return ag, ag.asarray, stage, lambda f, n: ag.value_and_grad(f, tuple(range(n))), lambda x: x


def add(peer):
    F, array, stage, _, wait = namespaces(peer)
    a, b, f = array(np.ones(4, "f4")), array(np.ones(4, "f4")), stage(lambda a, b: a + b)
    return lambda: wait(f(a, b))


def tanh_grad(peer):
    F, array, stage, value_and_grad, wait = namespaces(peer)
    a, b = array(np.ones(4, "f4")), array(np.ones(4, "f4"))
    f = stage(value_and_grad(lambda a, b: F.tanh(a * b + b).sum(), 2))
    return lambda: wait(f(a, b))


def captured(peer, n=50):
    """A call that reads n Tensors from outside and adds them up in one tree of operations."""
    F, array, stage, _, wait = namespaces(peer)
    parameters = [array(np.full(4, i, "f4")) for i in range(n)]
    x = array(np.ones(4, "f4"))

    def f(x):
        for p in parameters:
            x = x + p
        return x

    f = stage(f)
    return lambda: wait(f(x))


def uncaptured(peer):
    """A call that reads nothing from outside."""
    F, array, stage, _, wait = namespaces(peer)
    x, f = array(np.ones(4, "f4")), stage(lambda x: x + x)
    return lambda: wait(f(x))


def hmc(peer, chains=200, leapfrog=10, eps=0.1):
    """A transition of Hamiltonian Monte Carlo on a mixture of two strongly correlated Gaussians."""
    F, array, stage, value_and_grad, wait = namespaces(peer)
    rng = np.random.default_rng(0)
    roots = [np.linalg.cholesky(np.linalg.inv([[1, s], [s, 1]])).astype("f4") for s in (0.95, -0.95)]
    parts = [(array(np.array(m, "f4")), array(r)) for m, r in zip(([2, 2], [-2, -2]), roots)]
    noise = array(rng.normal(size=(chains, 2)).astype("f4"))
    threshold = array(np.log(rng.uniform(size=chains)).astype("f4"))

    def log_density(x):
        terms = [-0.5 * F.sum(F.square((x - m) @ r), axis=1) for m, r in parts]
        return F.logsumexp(F.stack(terms, axis=0), axis=0)

    gradient = value_and_grad(lambda x: F.sum(log_density(x)), 1)

    def transition(x, v, u):
        y, w = x, v + 0.5 * eps * gradient(x)[1][0]
        for i in range(leapfrog):
            y = y + eps * w
            w = w + (eps if i < leapfrog - 1 else 0.5 * eps) * gradient(y)[1][0]
        energy = lambda x, v: log_density(x) - 0.5 * F.sum(F.square(v), axis=1)
        return F.where(F.reshape(u < energy(y, w) - energy(x, v), (chains, 1)), y, x)

    f, state = stage(transition), [array(rng.normal(size=(chains, 2)).astype("f4"))]

    def step():
        state[0] = wait(f(state[0], noise, threshold))

    return step


WORKLOADS = {f.__name__: f for f in (add, tanh_grad, captured, uncaptured, hmc)}


def transformer_cold():
    """Seconds of the eager call, and from there to the first staged result, of a 4-layer transformer's step."""
    import agog as ag
    from agog import nn, optim

    ag.random.seed(0)
    d, vocab, ctx, batch = 128, 65, 64, 16
    layers = [nn.TransformerEncoderLayer(d, 4, 4 * d, dropout=0.0, batch_first=True) for _ in range(4)]
    embed, head = nn.Embedding(vocab, d), nn.Linear(d, vocab)
    model = nn.ModuleList([embed, *layers, head])
    opt = optim.AdamW(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    x, y = (ag.asarray(rng.integers(0, vocab, (batch, ctx))) for _ in range(2))

    def step(x, y):
        h = embed(x)
        for layer in layers:
            h = layer(h)
        loss = ag.cross_entropy(ag.reshape(head(h), (-1, vocab)), ag.reshape(y, (-1,)))
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss.detach()

    start = CLOCK()
    step(x, y)
    eager = CLOCK() - start
    staged = ag.function(step)
    start = CLOCK()
    staged(x, y)
    staged(x, y)
    print(json.dumps([eager, CLOCK() - start]))


# --------------------------------------------------------------------------------------------------- measuring
def serve(peer):
    """Answer `name seconds` lines with the median microseconds of a call."""
    steps = {}
    for line in sys.stdin:
        name, seconds = line.split()
        if name not in steps:
            steps[name] = WORKLOADS[name](peer)
            for _ in range(5):
                steps[name]()
        step, samples, end = steps[name], [], CLOCK() + float(seconds)
        k = 1
        while CLOCK() < end:
            start = CLOCK()
            for _ in range(k):
                step()
            taken = CLOCK() - start
            samples.append(taken / k * 1e6)
            k = max(1, int(k * min(4, 0.005 / max(taken, 1e-9))))
        print(json.dumps(statistics.median(samples[len(samples) // 4:])), flush=True)


class Worker:
    def __init__(self, peer, python):
        env = os.environ | {f"{v}_NUM_THREADS": "2" for v in ("OMP", "MKL", "OPENBLAS", "AGOG")}
        argv = [python, str(HERE / "staged.py"), "--serve", peer]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, name, seconds):
        self.process.stdin.write(f"{name} {seconds}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def rounds(a, b, name, a_name=None):
    """(median of a, median of b, median ratio) over interleaved rounds."""
    pairs = [(a.ask(a_name or name, ARGS.seconds), b.ask(name, ARGS.seconds)) for _ in range(ARGS.rounds)]
    return (statistics.median(x for x, _ in pairs), statistics.median(y for _, y in pairs),
            statistics.median(x / y for x, y in pairs))


def say(name, ours, other, value, bar):
    print(f"{name:<62} {ours:>10} {other:>10} {value:>8} {bar:>8}  "
          f"{'met' if float(value.split()[0]) <= float(bar.split()[0]) else 'MISSED'}", flush=True)


def cold(cache):
    """[seconds of the eager call, of the two staged calls] in a fresh process."""
    env = from_bytecode() | {"AGOG_CACHE_DIR": cache, "AGOG_NUM_THREADS": "2"}
    out = subprocess.run([sys.executable, str(HERE / "staged.py"), "--transformer"], env=env, capture_output=True,
                         text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def main():
    staged, eager = Worker("agog", sys.executable), Worker("eager", sys.executable)
    jax = Worker("jax", ARGS.peer_python)
    print(f"{'':<62} {'agog':>10} {'peer':>10} {'':>8} {'bar':>8}")
    us = lambda x: f"{x:.3g} us"
    for name, title, bar in (("add", "staged a + b, size 4, against jax.jit", "0.8"),
                             ("tanh_grad", "value and gradient of tanh(a*b+b).sum(), size 4, against jax.jit", "0.8"),
                             ("hmc", "HMC, 200 chains, 10 leapfrogs, against jax.jit", "1.2")):
        ours, other, ratio = rounds(staged, jax, name)
        say(title, us(ours), us(other), f"{ratio:.2f}", bar)
    ours, other, ratio = rounds(staged, eager, "hmc")
    say("HMC, staged against agog eager (15 times faster: 0.067)", us(ours), us(other), f"{ratio:.3f}", "0.067")
    with_, without, _ = rounds(staged, staged, "uncaptured", "captured")
    say("50 captured parameters, added cost of a call", us(with_), us(without), f"{with_ - without:.1f} us", "5 us")
    with tempfile.TemporaryDirectory() as cache:
        first, second = cold(cache), cold(cache)
    show = lambda s: f"{s:.2f} s"
    say("first staged result of a transformer step, cold", show(first[1]), show(first[0]), f"{first[1]:.2f} s", "3 s")
    say("the same from the disk cache", show(second[1]), show(second[0]), f"{second[1]:.2f} s", "0.5 s")
    for w in (staged, eager, jax):
        w.process.kill()


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer-python", default=".bench-venv/bin/python", help="the Python that has JAX")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--seconds", type=float, default=0.3)
    p.add_argument("--serve", help=argparse.SUPPRESS)
    p.add_argument("--transformer", action="store_true", help=argparse.SUPPRESS)
    ARGS = p.parse_args()
    if ARGS.serve:
        serve(ARGS.serve)
    elif ARGS.transformer:
        transformer_cold()
    else:
        main()
