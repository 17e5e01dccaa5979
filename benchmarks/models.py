"""The compiler's workloads: models and loops as users write them, against the namespace `F` of adapters/.

Each case has two bars: agog staged over the best peer in any mode, and agog eager over the best eager peer. Images and
their kernels are made as NCHW and OIHW and brought into the layout that a framework prefers before anything is timed.
"""

import dataclasses
import math
from typing import Callable

import numpy as np
from workloads import Rand, mlp

M = 1 << 20


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    build: Callable
    params: dict
    staged: float  # agog staged / the best peer, compiled or not, must not be above this
    eager: float | None  # agog eager / the best eager peer


CASES: dict[str, Case] = {}


def case(name, build, staged, eager=None, **params):
    CASES[name] = Case(name, build, params, staged, eager)


def dense(r, n_in, n_out):
    return r.normal(n_in, n_out, scale=1 / math.sqrt(n_in))


def zeros(*shape):
    return np.zeros(shape, np.float32)


def ones(*shape):
    return np.ones(shape, np.float32)


# ----------------------------------------------------------------------------------------- small operations
def add(F, n):
    r = Rand()
    a, b, f = F.array(r.normal(n)), F.array(r.normal(n)), F.fn(lambda a, b: a + b)
    return lambda: f(a, b)


def tanh_grad(F, n):
    r = Rand()
    a, b = F.leaf(r.normal(n)), F.leaf(r.normal(n))
    f = F.fn(F.value_and_grad(lambda a, b: F.sum(F.tanh(a * b + b))))
    return lambda: f(a, b)


def hmc(F, chains, leapfrog, eps):
    """Transitions of Hamiltonian Monte Carlo on a mixture of two strongly correlated Gaussians in the plane."""
    r = Rand()
    roots = [np.linalg.cholesky(np.linalg.inv([[1, s], [s, 1]])).astype(np.float32) for s in (0.95, -0.95)]
    parts = [(F.array(np.array(m, np.float32)), F.array(l)) for m, l in zip(([2, 2], [-2, -2]), roots)]
    momentum = F.array(r.normal(chains, 2))
    threshold = F.array(np.log(r.g.uniform(size=chains)).astype(np.float32))

    def log_density(x):
        return F.logsumexp(F.stack([-0.5 * F.sum(F.square((x - m) @ l), 1) for m, l in parts], 0), 0)

    gradient = F.value_and_grad(lambda x: F.sum(log_density(x)))

    def transition(x, v, threshold):
        y, w = x, v + 0.5 * eps * gradient(x)[1][0]
        for i in range(leapfrog):
            y = y + eps * w
            w = w + (eps if i < leapfrog - 1 else 0.5 * eps) * gradient(y)[1][0]
        energy = lambda x, v: log_density(x) - 0.5 * F.sum(F.square(v), 1)
        return F.where(F.reshape(threshold < energy(y, w) - energy(x, v), (chains, 1)), y, x)

    f, state = F.fn(transition), [F.array(r.normal(chains, 2))]

    def step():
        state[0] = f(state[0], momentum, threshold)
        return state[0]

    return step


# ------------------------------------------------------------------------------------------------- models
def rnn(F, steps, batch, hidden, vocab):
    """An LSTM, one Python iteration per time step."""
    r = Rand()
    p = {"table": r.normal(vocab, hidden), "w": dense(r, 2 * hidden, 4 * hidden), "b": zeros(4 * hidden),
         "head": dense(r, hidden, vocab), "head_b": zeros(vocab)}
    x, y = F.array(r.ints(vocab, steps, batch)), F.array(r.ints(vocab, steps * batch))
    start = F.array(zeros(batch, hidden))

    def loss(p, x, y):
        h = c = start
        states = []
        for token in F.unstack(F.take(p["table"], x), steps):
            i, f, g, o = F.split(F.linear(F.concat([token, h], 1), p["w"], p["b"]), 4, 1)
            c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
            h = F.sigmoid(o) * F.tanh(c)
            states.append(h)
        return F.cross_entropy(F.linear(F.concat(states, 0), p["head"], p["head_b"]), y)

    train = F.trainer(loss, p, "sgd", 0.1)
    return lambda: train(x, y)


def cnn(F, batch):
    r = Rand()
    image = lambda x: x.transpose(0, 2, 3, 1) if F.NHWC else x
    kernel = lambda w: w.transpose(F.KERNEL)
    features = dense(r, 32 * 49, 10).reshape(32, 7, 7, 10)
    p = {"k1": kernel(r.normal(16, 1, 3, 3, scale=1 / 3)), "b1": zeros(16),
         "k2": kernel(r.normal(32, 16, 3, 3, scale=1 / 12)), "b2": zeros(32),
         "w": (features.transpose(1, 2, 0, 3) if F.NHWC else features).reshape(-1, 10), "b": zeros(10)}
    x, y = F.array(image(r.normal(batch, 1, 28, 28))), F.array(r.ints(10, batch))

    def loss(p, x, y):
        x = F.max_pool(F.relu(F.conv(x, p["k1"], p["b1"])))
        x = F.max_pool(F.relu(F.conv(x, p["k2"], p["b2"])))
        return F.cross_entropy(F.linear(F.reshape(x, (batch, 32 * 49)), p["w"], p["b"]), y)

    train = F.trainer(loss, p, "adam", 1e-3)
    return lambda: train(x, y)


def gpt(F, layers, heads, d, context, vocab, batch):
    """A character transformer: pre-norm blocks, causal attention, tanh GELU, AdamW."""
    r = Rand()
    p = {"tokens": r.normal(vocab, d, scale=0.1), "places": r.normal(context, d, scale=0.1),
         "norm": ones(d), "norm_b": zeros(d), "head": dense(r, d, vocab), "head_b": zeros(vocab)}
    for i in range(layers):
        for name, n_in, n_out in (("qkv", d, 3 * d), ("out", d, d), ("up", d, 4 * d), ("down", 4 * d, d)):
            p |= {f"{name}{i}": dense(r, n_in, n_out), f"{name}_b{i}": zeros(n_out)}
        p |= {f"n1{i}": ones(d), f"n1_b{i}": zeros(d), f"n2{i}": ones(d), f"n2_b{i}": zeros(d)}
    x, y = F.array(r.ints(vocab, batch, context)), F.array(r.ints(vocab, batch * context))

    def loss(p, x, y):
        linear = lambda x, name: F.linear(x, p[name], p[f"{name[:-1]}_b{name[-1]}"])
        norm = lambda x, name: F.layer_norm(x, p[name], p[f"{name[:-1]}_b{name[-1]}"])
        apart = lambda t: F.transpose(F.reshape(t, (batch, context, heads, d // heads)), (0, 2, 1, 3))
        x = F.take(p["tokens"], x) + p["places"]
        for i in range(layers):
            q, k, v = (apart(t) for t in F.split(linear(norm(x, f"n1{i}"), f"qkv{i}"), 3, 2))
            mixed = F.transpose(F.causal_attention(q, k, v), (0, 2, 1, 3))
            x = x + linear(F.reshape(mixed, (batch, context, d)), f"out{i}")
            x = x + linear(F.gelu(linear(norm(x, f"n2{i}"), f"up{i}")), f"down{i}")
        logits = F.linear(F.layer_norm(x, p["norm"], p["norm_b"]), p["head"], p["head_b"])
        return F.cross_entropy(F.reshape(logits, (batch * context, vocab)), y)

    train = F.trainer(loss, p, "adamw", 1e-3)
    return lambda: train(x, y)


# ------------------------------------------------------------------------------------------- large operations
def rowwise(F, rows, columns, op):
    r = Rand()
    x, w, b = F.array(r.normal(rows, columns)), F.array(r.normal(columns)), F.array(r.normal(columns))
    f = F.fn(op(F))
    return lambda: f(x, w, b)


def matmul(F, n):
    r = Rand()
    a, b, f = F.array(r.normal(n, n)), F.array(r.normal(n, n)), F.fn(lambda a, b: a @ b)
    return lambda: f(a, b)


case("a + b, 4 elements", add, 0.8, n=4)
case("tanh(a*b+b).sum() and its gradient, 4", tanh_grad, 0.8, 0.35, n=4)
case("tanh(a*b+b).sum() and its gradient, 1024", tanh_grad, 0.7, 0.4, n=1024)
case("tanh(a*b+b).sum() and its gradient, 16384", tanh_grad, 0.6, 0.5, n=16384)
case("mlp_small: 64-128-10, batch 32, SGD", mlp, 0.8, 0.6, sizes=(64, 128, 10), batch=32, opt="sgd", lr=0.1)
case("mlp_mnist: 784-512-256-10, batch 128, Adam", mlp, 1.0, 1.0, sizes=(784, 512, 256, 10), batch=128, opt="adam",
     lr=1e-3)
case("hmc: 200 chains, 10 leapfrog steps", hmc, 0.8, 0.7, chains=200, leapfrog=10, eps=0.1)
case("rnn: LSTM 128, 50 steps, batch 16", rnn, 0.7, 0.8, steps=50, batch=16, hidden=128, vocab=65)
case("cnn: 28x28, batch 64", cnn, 0.6, 0.8, batch=64)
case("gpt: 4 layers of 128, context 64, batch 16", gpt, 0.75, 1.0, layers=4, heads=4, d=128, context=64, vocab=65,
     batch=16)
wide = {"rows": 4096, "columns": 1024}
case("gelu(x * w + b), 4096 x 1024", rowwise, 0.8, 0.5, op=lambda F: lambda x, w, b: F.gelu(x * w + b), **wide)
case("softmax, 4096 x 1024", rowwise, 0.7, 0.8, op=lambda F: lambda x, w, b: F.softmax(x), **wide)
case("layer_norm, 4096 x 1024", rowwise, 0.6, 0.8, op=lambda F: lambda x, w, b: F.layer_norm(x, w, b), **wide)
# What moving the same memory takes, on a machine where that may be all that counts:
case("x * 2, 4096 x 1024", rowwise, 1.0, 1.0, op=lambda F: lambda x, w, b: x * 2.0, **wide)
case("matmul, 512", matmul, 1.0, 1.0, n=512)
case("matmul, 1024", matmul, 1.0, 1.0, n=1024)
