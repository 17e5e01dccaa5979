"""JAX: operation by operation (nobody writes it like this for speed), or one `jit` of the whole step, state donated."""
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import relu, sigmoid  # noqa: F401
from jax.numpy import concatenate as concat  # noqa: F401
from jax.numpy import exp, reshape, split, square, stack, sum, tanh, transpose, where  # noqa: F401
from jax.scipy.special import logsumexp

NHWC, KERNEL = True, (2, 3, 1, 0)
compiled = False


def setup(mode, threads):
    """XLA uses the cores that the process may use."""
    global compiled
    compiled = mode == "compiled"


def version():
    return jax.__version__


def fn(f):
    return jax.jit(f) if compiled else f


def value_and_grad(f):
    return lambda *args: jax.value_and_grad(f, tuple(range(len(args))))(*args)


def hessian(f):
    return fn(jax.hessian(f))


def example_gradients(f, n):
    """The gradients by the first n arguments, for each example in the others."""
    return fn(lambda *args: jax.vmap(jax.grad(f, tuple(range(n))), (None,) * n + (0,) * (len(args) - n))(*args))


def jacobian(f, mode):
    return fn((jax.jacrev if mode == "reverse" else jax.jacfwd)(f))


def hessian_product(f):
    return fn(lambda x, v: jax.jvp(jax.grad(f), (x,), (v,))[1])


def trainer(loss, params, opt, lr, b1=0.9, b2=0.999, eps=1e-8):
    tree = jax.tree.map
    p = tree(jnp.array, params)
    decay = 0.1 if opt == "adamw" else 0.0
    moments = () if opt == "sgd" else (tree(jnp.zeros_like, p), tree(jnp.zeros_like, p))

    def update(p, moments, t, *batch):
        l, g = jax.value_and_grad(loss)(p, *batch)
        t += 1
        if opt == "sgd":
            return l, tree(lambda p, g: p - lr * g, p, g), moments, t
        m = tree(lambda m, g: b1 * m + (1 - b1) * g, moments[0], g)
        v = tree(lambda v, g: b2 * v + (1 - b2) * g * g, moments[1], g)
        a, c = lr / (1 - b1 ** t), 1 / (1 - b2 ** t)
        p = tree(lambda p, m, v: p * (1 - lr * decay) - a * m / (jnp.sqrt(v * c) + eps), p, m, v)
        return l, p, (m, v), t

    if compiled:
        update = jax.jit(update, donate_argnums=(0, 1, 2))
    state = [p, moments, jnp.zeros(()) if compiled else 0]

    def step(*batch):
        l, *state[:] = update(*state, *batch)
        return l

    return step


def cross_entropy(logits, labels):
    return jnp.mean(logsumexp(logits, axis=1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0])


def layer_norm(x, g, b, eps=1e-5):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * g + b


def conv(x, k, b):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def causal_attention(q, k, v):
    t, d = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(d)
    return jax.nn.softmax(jnp.where(np.tri(t, dtype=bool), scores, -jnp.inf)) @ v


array = leaf = jnp.array
numpy = np.asarray
wait = jax.block_until_ready
linear = lambda x, w, b: x @ w + b
take = lambda table, ids: table[ids]
unstack = lambda x, n: [x[i] for i in range(n)]
softmax, gelu = jax.nn.softmax, jax.nn.gelu
