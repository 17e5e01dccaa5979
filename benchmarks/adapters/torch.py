"""PyTorch, as its users write it when they care for speed: fused operations, fused optimisers, `torch.compile`."""
import numpy as np
import torch
import torch.nn.functional as N
from torch import chunk as split  # noqa: F401
from torch import concat, exp, logsumexp, relu, reshape, sigmoid, square, stack, sum, tanh, where  # noqa: F401
from torch import permute as transpose  # noqa: F401
from torch.nn.functional import cross_entropy  # noqa: F401

NHWC, KERNEL = False, (0, 1, 2, 3)
compiled = False


def setup(mode, threads):
    global compiled
    compiled = mode == "compiled"
    torch.set_num_threads(threads)


def reset():
    """Else the next shapes of the same code would be compiled for any shape."""
    if compiled:
        torch._dynamo.reset()


def version():
    return torch.__version__


def array(x):
    x = torch.from_numpy(np.array(x))
    return x.long() if x.dtype == torch.int32 else x


def leaf(x):
    return array(x).requires_grad_(not compiled)


def fn(f):
    return torch.compile(f) if compiled else f


def value_and_grad(f):
    def staged(*args):  # the autograd engine cannot be compiled, torch.func can
        g, y = torch.func.grad_and_value(f, argnums=tuple(range(len(args))))(*args)
        return y, g

    def run(*args):
        args = [a if a.requires_grad else a.detach().requires_grad_() for a in args]
        y = f(*args)
        return y, torch.autograd.grad(y, args)

    return staged if compiled else run


def hessian(f):
    return fn(torch.func.hessian(f))


def example_gradients(f, n):
    """The gradients by the first n arguments, for each example in the others."""
    return fn(lambda *args: torch.func.vmap(torch.func.grad(f, tuple(range(n))), (None,) * n + (0,) * (len(args) - n))(
        *args))


def jacobian(f, mode):
    return fn((torch.func.jacrev if mode == "reverse" else torch.func.jacfwd)(f))


def hessian_product(f):
    return fn(lambda x, v: torch.func.jvp(torch.func.grad(f), (x,), (v,))[1])


def trainer(loss, params, opt, lr):
    p = {k: array(v).requires_grad_() for k, v in params.items()}
    o = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[opt]
    o = o(p.values(), lr=lr, fused=True, **({"weight_decay": 0.1} if opt == "adamw" else {}))
    loss = fn(loss)

    def step(*batch):
        l = loss(p, *batch)
        l.backward()
        o.step()
        o.zero_grad()
        return l.detach()

    return step


numpy = lambda t: t.detach().numpy()
wait = lambda t: None
linear = lambda x, w, b: torch.addmm(b, x, w) if x.dim() == 2 else N.linear(x, w.t(), b)
take = lambda table, ids: N.embedding(ids, table)
unstack = lambda x, n: torch.unbind(x)
conv = lambda x, k, b: N.conv2d(x, k, b, padding="same")
max_pool = lambda x: N.max_pool2d(x, 2)
layer_norm = lambda x, g, b: N.layer_norm(x, x.shape[-1:], g, b)
softmax = lambda x: torch.softmax(x, -1)
gelu = lambda x: N.gelu(x, approximate="tanh")
causal_attention = lambda q, k, v: N.scaled_dot_product_attention(q, k, v, is_causal=True)
