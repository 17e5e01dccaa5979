"""JAX, operation by operation (nobody writes JAX like this for speed; `jit` is another suite's column)."""
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import relu  # noqa: F401
from jax.numpy import exp, sum, tanh  # noqa: F401
from jax.scipy.special import logsumexp


def setup(mode, threads):
    """XLA uses the cores that the process may use."""


def version():
    return jax.__version__


def value_and_grad(f):
    return lambda *args: jax.value_and_grad(f, tuple(range(len(args))))(*args)


def trainer(loss, params, opt, lr, b1=0.9, b2=0.999, eps=1e-8):
    tree = jax.tree.map
    p = tree(jnp.array, params)
    zeros = tree(jnp.zeros_like, p)
    state = [p, zeros, zeros, 0]

    def step(*batch):
        p, m, v, t = state
        l, g = jax.value_and_grad(loss)(p, *batch)
        t += 1
        if opt == "sgd":
            p = tree(lambda p, g: p - lr * g, p, g)
        else:
            m = tree(lambda m, g: b1 * m + (1 - b1) * g, m, g)
            v = tree(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
            a, c = lr / (1 - b1 ** t), 1 / (1 - b2 ** t)
            p = tree(lambda p, m, v: p - a * m / (jnp.sqrt(v * c) + eps), p, m, v)
        state[:] = p, m, v, t
        return l

    return step


def cross_entropy(logits, labels):
    return jnp.mean(logsumexp(logits, axis=1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0])


array = leaf = jnp.array
numpy = np.asarray
wait = jax.block_until_ready
linear = lambda x, w, b: x @ w + b
