"""Check rows by their samples: first and second derivatives against finite differences, batching against a loop."""

import inspect

import numpy as np

import agog as ag
from agog.ops.namespaces import raw
from agog.ops.row import COMPOSITES, TABLE


class Samples:
    """What `samples=` of a row is handed."""

    def __init__(self, dtype="float64", seed=0):
        self.dtype, self.rng = np.dtype(dtype), np.random.default_rng(seed)

    def __call__(self, *shape, lo=-2, hi=2):
        return self.rng.uniform(lo, hi, shape).astype(self.dtype)

    def ints(self, high, *shape):
        return self.rng.integers(0, high, shape)


def samples(name, dtype="float64"):
    make = TABLE[name].samples if name in TABLE else COMPOSITES[name].samples
    return make(Samples(dtype))


def _flat(arrays, floats):
    return np.concatenate([arrays[i].ravel() for i in floats]) if floats else np.zeros(0)


def _with(arrays, floats, v):
    out, at = list(arrays), 0
    for i in floats:
        n = arrays[i].size
        out[i], at = v[at:at + n].reshape(arrays[i].shape), at + n
    return out


def scalar_and_gradient(fn, differentiable=None):
    """For numpy float64 arrays: (inputs) -> (loss, gradient vector, function of a cotangent giving second order)."""
    def run(arrays, floats, weights):
        ts = [ag.asarray(a.copy(), requires_grad=True) if i in floats else a if a is None else ag.asarray(a)
              for i, a in enumerate(arrays)]
        outs = fn(*ts)
        outs = outs if isinstance(outs, tuple) else (outs,)
        loss = None
        for k, o in enumerate(outs):
            if o is None or o.dtype.kind != "f":
                continue
            while len(weights) <= k:
                weights.append(None)
            if weights[k] is None:
                weights[k] = np.random.default_rng(k).standard_normal(o.shape)
            part = (o * ag.asarray(weights[k])).sum()
            loss = part if loss is None else loss + part
        return ts, loss
    return run


def check_derivatives(fn, arrays, first=2e-6, second=1e-5):
    """Gradients of fn (Tensors -> Tensor or tuple) at float64 `arrays`, and gradients of these gradients."""
    floats = [i for i, a in enumerate(arrays) if a is not None and a.dtype.kind == "f"]
    run, weights = scalar_and_gradient(fn), []

    def value(v):
        return float(run(_with(arrays, floats, v), floats, weights)[1])

    def gradient(v):
        ts, loss = run(_with(arrays, floats, v), floats, weights)
        loss.backward()
        return np.concatenate([(np.zeros(ts[i].shape) if ts[i].grad is None else ts[i].grad.numpy()).ravel()
                               for i in floats])

    v = _flat(arrays, floats).astype(np.float64)
    g = gradient(v)
    rng, h = np.random.default_rng(1), 1e-5
    for _ in range(3):
        d = rng.standard_normal(v.size)
        want = (value(v + h * d) - value(v - h * d)) / (2 * h)
        np.testing.assert_allclose(g @ d, want, rtol=first, atol=first * 10, err_msg="first derivative")
    # second order, with the rules running in the world of Tensors
    u = rng.standard_normal(v.size)
    ts, loss = run(_with(arrays, floats, v), floats, weights)
    wanted = [ts[i] for i in floats]
    loss.backward(create_graph=True)
    at, total = 0, None
    for t in wanted:
        n = t.size
        if t.grad is not None:
            part = (t.grad * ag.asarray(u[at:at + n].reshape(t.shape))).sum()
            total = part if total is None else total + part
        at += n
    linear = gradient(v + h * u), gradient(v - h * u)
    want = (linear[0] - linear[1]) / (2 * h)
    grads = [t.grad for t in wanted]
    tensors_first = np.concatenate([(np.zeros(t.shape) if x is None else x.detach().numpy()).ravel()
                                    for t, x in zip(wanted, grads)])
    np.testing.assert_allclose(tensors_first, g, rtol=1e-9, atol=1e-9, err_msg="rule on Tensors and on raw arrays")
    for t in wanted:
        t.grad = None
    if total is not None and total.requires_grad:
        total.backward()
    got = np.concatenate([(np.zeros(t.shape) if t.grad is None else t.grad.detach().numpy()).ravel() for t in wanted])
    np.testing.assert_allclose(got, want, rtol=second, atol=second * 10, err_msg="second derivative")


def check_batching(op, arrays, statics):
    """The batching rule against a loop, for every choice of batched inputs."""
    if op.batch is None:
        return
    present = [i for i, a in enumerate(arrays) if a is not None]
    statics = tuple(statics.get(n, d) for n, d in op.statics.items())
    if op.check is not None:
        statics = op.check(*arrays, *statics)
    for mask in range(1, 1 << len(present)):
        chosen = [i for k, i in enumerate(present) if mask >> k & 1]
        batched = tuple(i in chosen for i in range(len(arrays)))
        full = [np.stack([a, a[::-1] if a.ndim and a.dtype.kind != "f" else a * 0.5 if a.dtype.kind == "f" else a, a])
                if b else a for a, b in zip(arrays, batched)]
        got = op.batch(raw, batched, tuple(full), statics)
        got = got if isinstance(got, tuple) else (got,)
        for k in range(3):
            want = op.raw(*[a[k] if b else a for a, b in zip(full, batched)], *statics)
            for a, b in zip(got, want if isinstance(want, tuple) else (want,)):
                assert a.shape[0] == 3
                np.testing.assert_allclose(a[k], b, rtol=1e-9, atol=1e-11, err_msg=f"batched {batched}")


def check_row(name, derivatives=True):
    """Everything above for each sample of a row or composite, and its dtypes."""
    op = TABLE.get(name)
    for arrays, statics in samples(name):
        arrays = list(arrays)
        if op is not None:
            check_batching(op, arrays, statics)
        if derivatives:
            fn = getattr(ag.dispatch.tensors, name)
            moved = {k: v for k, v in statics.items() if isinstance(v, np.ndarray)}
            fixed = {k: v for k, v in statics.items() if k not in moved}
            n = len(arrays)
            check_derivatives(lambda *a: fn(*a[:n], **dict(zip(moved, a[n:])), **fixed), arrays + list(moved.values()))
    for dtype in ("float32", "float16"):
        for arrays, statics in samples(name, dtype):
            call = getattr(ag.dispatch.tensors, name)
            out = call(*arrays, **statics)
            for o in out if isinstance(out, tuple) else (out,):
                if o is not None and o.dtype.kind == "f":
                    assert o.dtype == dtype, f"{name} gives {o.dtype} for {dtype}"


def signature(fn):
    return str(inspect.signature(fn))
