"""PyTorch, as its users write it when they care for speed: fused operations, fused optimisers."""
import numpy as np
import torch
from torch import exp, relu, sum, tanh  # noqa: F401
from torch.nn.functional import cross_entropy  # noqa: F401


def setup(mode, threads):
    torch.set_num_threads(threads)


def version():
    return torch.__version__


def array(x):
    x = torch.from_numpy(np.array(x))
    return x.long() if x.dtype == torch.int32 else x


def value_and_grad(f):
    def run(*args):
        y = f(*args)
        return y, torch.autograd.grad(y, args)

    return run


def trainer(loss, params, opt, lr):
    p = {k: leaf(v) for k, v in params.items()}
    o = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[opt](p.values(), lr=lr, fused=True)

    def step(*batch):
        l = loss(p, *batch)
        l.backward()
        o.step()
        o.zero_grad()
        return l.detach()

    return step


leaf = lambda x: array(x).requires_grad_()
numpy = lambda t: t.detach().numpy()
wait = lambda t: None
linear = lambda x, w, b: torch.addmm(b, x, w)
