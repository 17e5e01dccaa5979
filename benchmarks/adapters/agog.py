"""agog, as its users write it: for the suite in this folder, and for the peer benchmarks (BENCH_ADAPTERS=folder)."""
# ruff: noqa: F401, I001
import agog as ag
from agog import abs, concat, cross_entropy, erf, exp, log, logsumexp, max, mean, relu
from agog import reshape, sigmoid, sqrt, square, stack, sum, tanh, where

NHWC, KERNEL = False, (0, 1, 2, 3)
compiled = False


def setup(mode, threads):
    global compiled
    compiled = mode == "compiled"
    ag.set_num_threads(threads)


def version():
    return ag.__version__


def staged(f):
    if not compiled:
        return f
    if not hasattr(ag, "function"):
        from cases import Skip
        raise Skip("this agog has no function()")
    return ag.function(f)


def value_and_grad(f):
    if compiled:
        return lambda *args: ag.value_and_grad(f, tuple(range(len(args))))(*args)

    def run(*args):
        args = [a if a.requires_grad else a.detach().requires_grad_() for a in args]
        y = f(*args)
        y.backward()
        grads = [a.grad for a in args]
        for a in args:
            a.grad = None
        return y, grads

    return run


def hessian(f):
    return staged(ag.hessian(f))


def example_gradients(f, n):
    """The gradients by the first n arguments, for each example in the others."""
    return staged(lambda *args: ag.vmap(ag.grad(f, tuple(range(n))), (None,) * n + (0,) * (len(args) - n))(*args))


def jacobian(f, mode):
    return staged(ag.jacobian(f, mode=mode))


def hessian_product(f):
    return staged(lambda x, v: ag.hvp(f, (x,), (v,)))


def trainer(loss, params, opt, lr):
    p = {k: ag.asarray(v, requires_grad=True) for k, v in params.items()}
    if opt == "adamw":
        o = ag.optim.AdamW(p.values(), lr=lr, weight_decay=0.1)
    else:
        o = {"sgd": ag.optim.SGD, "adam": ag.optim.Adam}[opt](p.values(), lr=lr)

    def step(*batch):
        l = loss(p, *batch)
        l.backward()
        o.step()
        o.zero_grad()
        return l.detach()

    return staged(step)


array = ag.asarray
fn = staged
leaf = lambda x: ag.asarray(x, requires_grad=not compiled)  # ag.value_and_grad needs no leaves
numpy = lambda t: t.detach().numpy()
wait = lambda t: None
truth = bool
transpose, linear = ag.permute_dims, ag.affine
split = lambda x, n, axis: ag.split(x, n, axis=axis)
take = lambda table, ids: ag.embedding(ids, table)
unstack = lambda x, n: ag.unstack(x)
conv = lambda x, k, b=None: ag.conv2d(x, k, b, padding="same")
max_pool = lambda x: ag.max_pool2d(x, 2)
layer_norm = lambda x, g, b: ag.layer_norm(x, x.shape[-1:], g, b)
softmax = lambda x: ag.softmax(x, axis=-1)
gelu = lambda x: ag.gelu(x, approximate="tanh")
causal_attention = lambda q, k, v: ag.scaled_dot_product_attention(q, k, v, is_causal=True)
