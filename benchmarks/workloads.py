"""The workloads of the eager suite, written once against a small namespace `F` (a module in adapters/).

`build(F, **params)` gives `step()`, one unit of work; its result must be the same number in every framework.
"""

import dataclasses
import math
from typing import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    build: Callable
    params: dict
    bar: float  # agog's time divided by PyTorch's must not be above this
    held: bool = True  # each result is held until the next one is there, as by `y = step()`; else it is dropped at once


CASES: dict[str, Case] = {}


def case(name, build, bar, held=True, **params):
    CASES[name] = Case(name, build, params, bar, held)


class Rand:
    """Seeded float32 data."""

    def __init__(self):
        self.g = np.random.default_rng(0)

    def normal(self, *shape, scale=1.0):
        return (self.g.standard_normal(shape) * scale).astype(np.float32)

    def ints(self, hi, *shape):
        return self.g.integers(0, hi, shape).astype(np.int32)


def add(F, n, grad):
    r = Rand()
    make = F.leaf if grad else F.array
    a, b = make(r.normal(n)), make(r.normal(n))
    return lambda: a + b


def exp(F, n):
    a, f = F.array(Rand().normal(n)), F.exp
    return lambda: f(a)


def tanh_grad(F, n):
    r = Rand()
    a, b = F.leaf(r.normal(n)), F.leaf(r.normal(n))
    f = F.value_and_grad(lambda a, b: F.sum(F.tanh(a * b + b)))
    return lambda: f(a, b)


def mlp(F, sizes, batch, opt, lr):
    r, n = Rand(), len(sizes) - 1
    p = {f"w{i}": r.normal(sizes[i], sizes[i + 1], scale=1 / math.sqrt(sizes[i])) for i in range(n)}
    p |= {f"b{i}": np.zeros(sizes[i + 1], np.float32) for i in range(n)}
    x, y = F.array(r.normal(batch, sizes[0])), F.array(r.ints(sizes[-1], batch))

    def loss(p, x, y):
        for i in range(n):
            x = F.linear(x, p[f"w{i}"], p[f"b{i}"])
            if i < n - 1:
                x = F.relu(x)
        return F.cross_entropy(x, y)

    train = F.trainer(loss, p, opt, lr)
    return lambda: train(x, y)


def classes(F, x, t, w1, b1, w2, b2):
    """Cross entropy of a network of two layers, summed over the examples in x."""
    z = F.linear(F.tanh(F.linear(x, w1, b1)), w2, b2)
    return F.sum(F.logsumexp(z, -1)) - F.sum(z * t)


def weights(r, n, hidden, k):
    return [r.normal(n, hidden, scale=1 / math.sqrt(n)), r.normal(hidden, scale=0.1),
            r.normal(hidden, k, scale=1 / math.sqrt(hidden)), r.normal(k, scale=0.1)]


def examples(F, r, count, n, k):
    return F.array(r.normal(count, n)), F.array(np.eye(k, dtype=np.float32)[r.ints(k, count)])


def hessian(F, sizes, batch):
    r = Rand()
    parts = weights(r, *sizes)
    x, t = examples(F, r, batch, sizes[0], sizes[-1])
    ends = np.cumsum([p.size for p in parts]).tolist()

    def loss(p, x, t):
        return classes(F, x, t, *(F.reshape(p[b - w.size:b], w.shape) for w, b in zip(parts, ends)))

    p, f = F.array(np.concatenate([w.ravel() for w in parts])), F.hessian(loss)
    return lambda: f(p, x, t)


def example_gradients(F, sizes, count):
    r = Rand()
    parts = [F.array(w) for w in weights(r, *sizes)]
    x, t = examples(F, r, count, sizes[0], sizes[-1])
    f = F.example_gradients(lambda w1, b1, w2, b2, x, t: classes(F, x, t, w1, b1, w2, b2), 4)
    return lambda: f(*parts, x, t)


def jacobian(F, sizes, mode):
    r = Rand()
    more = [F.array(w) for w in weights(r, *sizes)]
    x, f = F.array(r.normal(sizes[0])), F.jacobian(
        lambda x, w1, b1, w2, b2: F.linear(F.tanh(F.linear(x, w1, b1)), w2, b2), mode)
    return lambda: f(x, *more)


def hessian_product(F, n):
    r = Rand()
    x, v, f = F.array(r.normal(n)), F.array(r.normal(n)), F.hessian_product(lambda x: F.sum(F.tanh(x * x) * x))
    return lambda: f(x, v)


M = 1 << 20
case("a + b, 4 elements", add, 0.65, held=False, n=4, grad=False)
case("a + b, 4 elements, result held", add, 0.65, n=4, grad=False)
case("a + b, 4 elements, requires grad", add, 0.60, held=False, n=4, grad=True)
case("a + b, 4 elements, requires grad, result held", add, 0.60, n=4, grad=True)
case("tanh(a*b+b).sum() and its gradient, 4", tanh_grad, 0.35, n=4)
case("tanh(a*b+b).sum() and its gradient, 1024", tanh_grad, 0.40, n=1024)
case("tanh(a*b+b).sum() and its gradient, 16384", tanh_grad, 0.50, n=16384)
case("MLP 64-128-10, batch 32, SGD step", mlp, 0.60, sizes=(64, 128, 10), batch=32, opt="sgd", lr=0.1)
case("MLP 784-512-256-10, batch 128, Adam step", mlp, 1.6, sizes=(784, 512, 256, 10), batch=128, opt="adam", lr=1e-3)
case("Hessian of an MLP's loss, 1,002 parameters", hessian, 1.0, sizes=(20, 32, 10), batch=32)
case("vmap(grad) of an MLP's loss, 256 examples", example_gradients, 1.0, sizes=(64, 128, 10), count=256)
case("vmap(grad) of an MLP's loss, 8 examples", example_gradients, 1.0, sizes=(8, 16, 4), count=8)
case("Jacobian of an MLP, 64 -> 10, reverse", jacobian, 1.0, sizes=(64, 128, 10), mode="reverse")
case("Jacobian of an MLP, 10 -> 64, forward", jacobian, 1.0, sizes=(10, 128, 64), mode="forward")
case("Hessian times a vector, 1,000 parameters", hessian_product, 1.0, n=1000)
case("a + b, 1M elements", add, 1.0, n=M, grad=False)
case("exp(a), 1M elements", exp, 1.0, n=M)
case("a + b, 16M elements", add, 1.0, n=16 * M, grad=False)
case("exp(a), 16M elements", exp, 1.0, n=16 * M)
