"""Optimizers against their formulas in float64, the fast path against `_update`, and the rules of value semantics."""

import copy
import math
import pickle

import numpy as np
import pytest

import agog as ag
from agog import config, errors, optim
from agog.optim import _optimizer

# ------------------------------------------------------------------------------------- independent reference formulas


def sgd(p, gs, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    b = None
    for g in gs:
        g = -g if maximize else g
        g = g + weight_decay * p
        if momentum:
            b = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        p = p - lr * g
    return p


def adam(p, gs, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
         decoupled=False):
    m = v = top = 0.0
    for t, g in enumerate(gs, 1):
        g = -g if maximize else g
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        top = np.maximum(top, v)
        v_hat = (top if amsgrad else v) / (1 - betas[1] ** t)
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v_hat) + eps)
    return p


def rmsprop(p, gs, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False):
    v = mean = b = 0.0
    for g in gs:
        g = -g if maximize else g
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g * g
        mean = alpha * mean + (1 - alpha) * g
        step = g / (np.sqrt(v - mean ** 2 if centered else v) + eps)
        b = momentum * b + step
        p = p - lr * (b if momentum else step)
    return p


def adagrad(p, gs, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False):
    total = initial_accumulator_value
    for t, g in enumerate(gs):
        g = -g if maximize else g
        g = g + weight_decay * p
        total = total + g * g
        p = p - lr / (1 + t * lr_decay) * g / (np.sqrt(total) + eps)
    return p


def lion(p, gs, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
    m = 0.0
    for g in gs:
        g = -g if maximize else g
        p = p * (1 - lr * weight_decay) - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
    return p


def adamw(p, gs, weight_decay=1e-2, **kw):
    return adam(p, gs, weight_decay=weight_decay, decoupled=True, **kw)


def nadam(p, gs, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
          decoupled_weight_decay=False, maximize=False):
    m = v = 0.0
    product = 1.0
    for t, g in enumerate(gs, 1):
        g = -g if maximize else g
        if decoupled_weight_decay:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        mu, after = (betas[0] * (1 - 0.5 * 0.96 ** (n * momentum_decay)) for n in (t, t + 1))
        product *= mu
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat = after * m / (1 - product * after) + (1 - mu) * g / (1 - product)
        p = p - lr * m_hat / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def radam(p, gs, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False,
          maximize=False):
    m = v = 0.0
    most = 2 / (1 - betas[1]) - 1
    for t, g in enumerate(gs, 1):
        g = -g if maximize else g
        if decoupled_weight_decay:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        left = 1 - betas[1] ** t
        step, rho = m / (1 - betas[0] ** t), most - 2 * t * betas[1] ** t / left
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
            step = step * r * math.sqrt(left) / (np.sqrt(v) + eps)
        p = p - lr * step
    return p


def adamax(p, gs, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    m = u = 0.0
    for t, g in enumerate(gs, 1):
        g = (-g if maximize else g) + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        u = np.maximum(betas[1] * u, np.abs(g) + eps)
        p = p - lr / (1 - betas[0] ** t) * m / u
    return p


def adadelta(p, gs, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    squares = steps = 0.0
    for g in gs:
        g = (-g if maximize else g) + weight_decay * p
        squares = rho * squares + (1 - rho) * g * g
        step = np.sqrt(steps + eps) / np.sqrt(squares + eps) * g
        steps = rho * steps + (1 - rho) * step * step
        p = p - lr * step
    return p


def rprop(p, gs, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0), maximize=False):
    before, size = np.zeros_like(p), np.full_like(p, lr)
    for g in gs:
        g = -g if maximize else g
        turn = np.sign(g * before)
        size = np.clip(size * np.choose((turn + 1).astype(int), [etas[0], 1.0, etas[1]]), *step_sizes)
        g = np.where(turn < 0, 0, g)
        p, before = p - np.sign(g) * size, g
    return p


def adafactor(p, gs, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0, maximize=False):
    low = np.finfo(p.dtype).eps if eps[0] is None else eps[0]
    row = column = v = 0.0
    for t, g in enumerate(gs, 1):
        g, share = -g if maximize else g, t ** beta2_decay
        alpha = max(eps[1], np.sqrt(np.mean(p * p))) * min(lr, t ** -0.5) if p.size else 0.0
        p = p * (1 - lr * weight_decay)
        if p.ndim > 1:
            row = (1 - share) * row + share * np.mean(g * g, axis=-1, keepdims=True)
            column = (1 - share) * column + share * np.mean(g * g, axis=-2, keepdims=True)
            v = row * column / np.maximum(row.mean(axis=-2, keepdims=True), low)
        else:
            v = (1 - share) * v + share * g * g
        step = g / np.sqrt(np.maximum(v, low * low))
        p = p - alpha / max(1.0, np.sqrt(np.mean(step * step)) / d) * step if p.size else p
    return p


CASES = [
    (optim.Rprop, rprop, {"lr": 0.1}),
    (optim.Rprop, rprop, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.05, 0.14), "maximize": True}),
    (optim.Adafactor, adafactor, {"lr": 0.05, "eps": (1e-8, 1e-3)}),
    (optim.Adafactor, adafactor, {"lr": 0.9, "eps": (1e-6, 0.3), "d": 1.5, "beta2_decay": -0.5, "weight_decay": 0.1,
                                  "maximize": True}),
    (optim.SGD, sgd, {"lr": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.2}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.5, "maximize": True, "weight_decay": 0.1}),
    (optim.Adam, adam, {"lr": 0.05}),
    (optim.Adam, adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    (optim.Adam, adam, {"lr": 0.05, "amsgrad": True, "betas": (0.5, 0.5)}),
    (optim.Adam, adam, {"lr": 0.05, "maximize": True, "weight_decay": 0.1}),
    (optim.Adam, adam, {"lr": 0.05, "betas": (0.0, 0.9)}),
    (optim.AdamW, adamw, {"lr": 0.05}),
    (optim.AdamW, adamw, {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    (optim.RMSprop, rmsprop, {"lr": 0.05}),
    (optim.RMSprop, rmsprop, {"lr": 0.05, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1}),
    (optim.RMSprop, rmsprop, {"lr": 0.05, "alpha": 0.9, "centered": True, "momentum": 0.5, "maximize": True}),
    (optim.RMSprop, rmsprop, {"lr": 0.05, "centered": True, "eps": 1e-2}),
    (optim.Adagrad, adagrad, {"lr": 0.1}),
    (optim.Adagrad, adagrad, {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1, "initial_accumulator_value": 0.3}),
    (optim.Adagrad, adagrad, {"lr": 0.1, "maximize": True}),
    (optim.NAdam, nadam, {"lr": 0.05}),
    (optim.NAdam, nadam, {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "momentum_decay": 0.1, "eps": 1e-3}),
    (optim.NAdam, nadam, {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    (optim.RAdam, radam, {"lr": 0.05}),
    (optim.RAdam, radam, {"lr": 0.05, "betas": (0.8, 0.85), "weight_decay": 0.1, "eps": 1e-3}),
    (optim.RAdam, radam, {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True,
                          "maximize": True}),
    (optim.Adamax, adamax, {"lr": 0.05}),
    (optim.Adamax, adamax, {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-3, "maximize": True}),
    (optim.Adadelta, adadelta, {"lr": 1.0}),
    (optim.Adadelta, adadelta, {"lr": 0.5, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    (optim.Lion, lion, {"lr": 0.01}),
    (optim.Lion, lion, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9), "maximize": True}),
]
IDS = [f"{c.__name__}-{'-'.join(map(str, kw.values()))}" for c, _, kw in CASES]


def leaf(x, dtype="float32"):
    return ag.asarray(x, dtype=dtype, requires_grad=True)


def run(opt, p, gs):
    for g in gs:
        p.grad = ag.asarray(g, dtype=p.dtype)
        opt.step()


@pytest.mark.parametrize(("cls", "formula", "kw"), CASES, ids=IDS)
@pytest.mark.parametrize("shape", [(3, 4), (), (0,), (2, 40000)], ids=str)
def test_formula(cls, formula, kw, shape, rng):
    x, gs = rng.standard_normal(shape), rng.standard_normal((5, *shape))
    p = leaf(x, "float64")
    run(cls([p], **kw), p, gs)
    np.testing.assert_allclose(p.detach().numpy(), formula(x, gs, **kw), rtol=1e-9, atol=1e-12)
    assert p.dtype == ag.float64 and p.shape == shape


@pytest.mark.parametrize(("cls", "formula", "kw"), CASES, ids=IDS)
def test_float32_stays_float32(cls, formula, kw, rng):
    x, gs = rng.standard_normal((3, 4)).astype("f4"), rng.standard_normal((5, 3, 4)).astype("f4")
    p = leaf(x)
    opt = cls([p], **kw)
    run(opt, p, gs)
    assert p.dtype == ag.float32
    assert all(t.dtype == ag.float32 for k, t in opt.state.get(p, {}).items() if k not in ("step", "mu_product"))
    np.testing.assert_allclose(p.detach().numpy(), formula(x.astype(float), gs.astype(float), **kw), rtol=2e-5,
                               atol=2e-6)


@pytest.mark.parametrize(("cls", "formula", "kw"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 5), (33000,), (260, 300)], ids=str)
def test_fast_path_is_the_formula(cls, formula, kw, dtype, shape, rng):
    """The kernel and `_update` (through the pure function, and through `step` while hooks are on) agree to the bit."""
    x, gs = rng.standard_normal(shape), rng.standard_normal((4, *shape))
    fast, general = leaf(x, dtype), leaf(x, dtype)
    a, b = cls([fast], **kw), cls([general], **kw)
    run(a, fast, gs)
    remove = config.add_op_hook(lambda *args: None)
    try:
        run(b, general, gs)
    finally:
        remove()
    value, state = leaf(x, dtype).detach(), a.init(leaf(x, dtype))
    for g in gs:
        value, state = a.update(value, ag.asarray(g, dtype=dtype), state)
    for other in (general, value):
        np.testing.assert_array_max_ulp(fast.detach().numpy(), other.detach().numpy(), 0 if dtype == "float32" else 1)
    for mine, theirs in ((a.state.get(fast, {}), b.state.get(general, {})), (a.state.get(fast, {}), state)):
        assert mine.keys() == theirs.keys()
        for k in mine:
            np.testing.assert_array_equal(mine[k].numpy(), theirs[k].numpy(), err_msg=k)
            assert mine[k].dtype == theirs[k].dtype


@pytest.mark.parametrize("cls", [optim.SGD, optim.Adam, optim.RMSprop, optim.Adagrad, optim.Lion])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(cls, dtype, rng):
    p, gs = leaf(rng.standard_normal(6), dtype), rng.standard_normal((4, 6))
    q = leaf(p.detach().astype("float32"))
    opt, other = cls([p], lr=0.1), cls([q], lr=0.1)
    for g in gs:
        p.grad = ag.asarray(g, dtype=dtype)
        q.grad = p.grad.astype("float32")
        opt.step()
        other.step()
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().astype(dtype).numpy())
        q.assign(p.detach().astype("float32"))
    assert p.dtype == getattr(ag, dtype)
    assert all(t.dtype == ag.float32 for k, t in opt.state.get(p, {}).items() if k not in ("step", "mu_product"))


def test_complex_is_a_pair_of_reals(rng):
    x, g = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
    p = leaf(x[0] + 1j * x[1], "complex128")
    p.grad = ag.asarray(g[0] + 1j * g[1], dtype="complex128")
    opt = optim.Adam([p], lr=0.1)
    opt.step()
    np.testing.assert_allclose(p.detach().numpy(), adam(x[0], [g[0]], lr=0.1) + 1j * adam(x[1], [g[1]], lr=0.1))


# ----------------------------------------------------------------------------------------------------- value semantics
@pytest.mark.parametrize("n", [5, 40000])
@pytest.mark.parametrize("cls", [optim.SGD, optim.Adam])
def test_nothing_that_was_seen_changes(cls, n, rng):
    p = leaf(rng.standard_normal(n))
    opt = cls([p], lr=0.1)
    before = p.detach().numpy().copy()
    detached, view, array, row = p.detach(), p[1:3].detach(), p.detach().numpy(), p.detach()[0]
    run(opt, p, rng.standard_normal((2, n)))
    np.testing.assert_array_equal(detached.numpy(), before)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(view.numpy(), before[1:3])
    assert row.item() == before[0]
    assert not np.array_equal(p.detach().numpy(), before)


def test_a_live_graph_keeps_its_values(rng):
    p = leaf([2.0, 3.0])
    loss = (p * p).sum()
    p.grad = ag.asarray([1.0, 1.0])
    optim.SGD([p], lr=1.0).step()
    p.grad = None
    loss.backward()
    assert p.grad.tolist() == [4.0, 6.0]
    assert p.tolist() == [1.0, 2.0]


def test_shared_and_user_memory_is_not_written_to():
    a = np.ones(3, np.float32)
    p = ag.from_numpy(a).requires_grad_()
    q = leaf(p.detach())
    assert q._data is p._data
    for t in (p, q):
        t.grad = ag.ones(3)
    optim.SGD([p, q], lr=0.5).step()
    assert a.tolist() == [1, 1, 1] and p.tolist() == q.tolist() == [0.5] * 3


def test_memory_is_reused_when_nobody_looks():
    p = leaf(np.ones(1000))
    opt = optim.Adam([p], lr=0.1)
    run(opt, p, np.ones((1, 1000)))
    where = p._data.ctypes.data, opt.state[p]["exp_avg"]._data.ctypes.data
    run(opt, p, np.ones((3, 1000)))
    assert (p._data.ctypes.data, opt.state[p]["exp_avg"]._data.ctypes.data) == where


def test_state_that_was_read_does_not_change():
    p = leaf(np.ones(4))
    opt = optim.SGD([p], lr=0.1, momentum=0.9)
    run(opt, p, np.ones((1, 4)))
    seen = opt.state[p]["momentum_buffer"].detach()
    gradient = p.grad
    run(opt, p, np.ones((1, 4)))
    assert seen.tolist() == [1.0] * 4 and gradient.tolist() == [1.0] * 4


def test_gradients_in_any_layout(rng):
    for shape in ((30, 20), (300, 200)):
        x, g = rng.standard_normal(shape).astype("f4"), rng.standard_normal(shape[::-1]).astype("f4")
        p, q = leaf(x), leaf(x)
        p.grad, q.grad = ag.from_numpy(g.T), ag.asarray(g.T.copy())
        for t in (p, q):
            opt = optim.Adam([t])
            opt.step()
            opt.step()
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
        fortran = leaf(x)
        fortran._data = np.asfortranarray(x)
        fortran.grad = q.grad
        opt = optim.Adam([fortran])
        opt.step()
        opt.step()
        np.testing.assert_array_equal(fortran.detach().numpy(), q.detach().numpy())


def test_overflow_makes_no_noise():
    p = leaf([1.0, 1.0])
    p.grad = ag.asarray([1e30, 1.0])
    with np.errstate(all="raise"):
        opt = optim.Adam([p], lr=0.1)
        opt.step()
        opt.step()
    assert np.isfinite(p.detach().numpy()).all()


# ------------------------------------------------------------------------------------------------------ the interface
def test_training_a_line(rng):
    x = ag.asarray(rng.standard_normal((64, 3)).astype("f4"))
    y = x @ ag.asarray([[1.0], [-2.0], [0.5]]) + 3.0
    w, b = leaf(np.zeros((3, 1))), leaf(np.zeros(1))
    opt = optim.Adam([w, b], lr=0.1)
    for _ in range(200):
        opt.zero_grad()
        ((x @ w + b - y) ** 2).mean().backward()
        opt.step()
    np.testing.assert_allclose(w.detach().numpy()[:, 0], [1, -2, 0.5], atol=1e-2)


def test_parameters_without_gradient_or_frozen_are_left_alone():
    p, q, r = leaf([1.0]), leaf([1.0]), leaf([1.0])
    opt = optim.Adam([p, q, r], lr=0.1)
    p.grad = r.grad = ag.ones(1)
    r.requires_grad_(False)
    opt.step()
    assert p.item() != 1.0 and q.item() == r.item() == 1.0
    assert q not in opt.state and int(opt.state[p]["step"]) == 1


def test_groups_have_their_own_settings():
    p, q = leaf([1.0]), leaf([1.0])
    opt = optim.SGD([{"params": [p]}, {"params": q, "lr": 0.5}], lr=0.1)
    p.grad = q.grad = ag.ones(1)
    opt.step()
    assert p.item() == pytest.approx(0.9) and q.item() == 0.5
    assert opt.lr == 0.1
    opt.lr = 1.0
    assert [g["lr"] for g in opt.param_groups] == [1.0, 1.0]
    r = leaf([1.0])
    opt.add_param_group({"params": [r], "momentum": 0.5})
    assert opt.param_groups[2]["momentum"] == 0.5 and opt.param_groups[2]["lr"] == 0.1
    opt.param_groups[0].update(lr=0.25)
    assert opt.lr == 0.25
    assert "group 2: 1 tensors, 1 parameters; lr=0.1, momentum=0.5" in repr(opt)


def test_a_changed_rate_counts_at_once_on_both_paths():
    for special in (False, True):
        p = leaf([0.0])
        opt = optim.SGD([p], lr=1.0)
        p.grad = ag.ones(1)
        remove = config.add_op_hook(lambda *a: None) if special else (lambda: None)
        opt.step()
        opt.param_groups[0]["lr"] = 10.0
        opt.step()
        remove()
        assert p.item() == -11.0


def test_the_rate_is_a_tensor_and_other_settings_are_versions():
    opt = optim.SGD([leaf([0.0])], lr=1.0)
    group = opt.param_groups[0]
    rate, version = group.rate, group._version
    group["lr"] = 0.5
    assert group.rate is rate and rate.item() == 0.5 and group._version == version
    group["momentum"] = 0.5
    assert group._version != version


def test_named_parameters_and_dicts_are_parameters():
    p, q = leaf([1.0]), leaf([2.0])
    assert optim.SGD([("a", p), ("b", q)]).param_groups[0]["params"] == [p, q]
    assert optim.SGD({"a": p, "b": [q]}).param_groups[0]["params"][1] is q


def test_zero_grad():
    p = leaf([1.0])
    opt = optim.SGD([p])
    p.grad = ag.ones(1)
    opt.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0]
    opt.zero_grad()
    assert p.grad is None
    opt.step()
    assert p.item() == 1.0


def test_closure():
    p = leaf([2.0])
    opt = optim.SGD([p], lr=0.25)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with ag.no_grad():
        loss = opt.step(closure)
    assert loss.item() == 4.0 and p.item() == 1.0


def test_step_inside_no_grad():
    p = leaf([2.0])
    p.grad = ag.ones(1)
    with ag.no_grad():
        optim.Adam([p], lr=1.0).step()
    assert p.item() == pytest.approx(1.0) and p.is_leaf and p.requires_grad


def test_an_assigned_parameter_goes_on():
    p = leaf([1.0])
    opt = optim.SGD([p], lr=1.0)
    p.assign([5.0])
    p.grad = ag.ones(1)
    opt.step()
    assert p.item() == 4.0


# ------------------------------------------------------------------------------------------------------ saving, loading
@pytest.mark.parametrize(("cls", "formula", "kw"), CASES, ids=IDS)
def test_state_dict_goes_on_to_the_bit(cls, formula, kw, rng):
    x, gs = rng.standard_normal((3, 2)), rng.standard_normal((6, 3, 2))
    p = leaf(x)
    opt = cls([p], **kw)
    run(opt, p, gs[:3])
    saved, value = opt.state_dict(), p.detach()
    run(opt, p, gs[3:])
    q = leaf(value)
    other = cls([q], **{**kw, "lr": 123.0})
    other.load_state_dict(saved)
    assert other.lr == kw["lr"]
    run(other, q, gs[3:])
    np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


def test_loading_over_a_state_keeps_its_tensors():
    p = leaf([1.0])
    opt = optim.Adam([p])
    run(opt, p, np.ones((2, 1)))
    saved, m = opt.state_dict(), opt.state[p]["exp_avg"]
    run(opt, p, np.ones((2, 1)))
    opt.load_state_dict(saved)
    assert opt.state[p]["exp_avg"] is m
    assert m.item() == saved["state"][0]["exp_avg"].item() and opt.state[p]["step"].item() == 2


def test_copies_and_pickles_go_on_alike():
    p = leaf([1.0, 2.0])
    opt = optim.Adam([p], lr=0.1)
    run(opt, p, np.ones((2, 2)))
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        q = other.param_groups[0]["params"][0]
        assert q is not p and q.requires_grad
        run(other, q, np.ones((1, 2)))
        r = leaf(p.detach())
        third = optim.Adam([r], lr=0.1)
        third.load_state_dict(opt.state_dict())
        run(third, r, np.ones((1, 2)))
        assert q.tolist() == r.tolist()


def test_wrong_states_are_refused_and_change_nothing():
    p, q = leaf([1.0, 2.0]), leaf([1.0])
    opt, adam_ = optim.SGD([p], momentum=0.9), optim.Adam([p])
    run(opt, p, np.ones((1, 2)))
    run(adam_, p, np.ones((1, 2)))
    with pytest.raises(errors.CheckpointError, match="'state' and 'param_groups'"):
        opt.load_state_dict({"a": 1})
    with pytest.raises(errors.CheckpointError, match=r"\[1\] parameters.*\[2\]"):
        optim.SGD([p, q], momentum=0.9).load_state_dict(opt.state_dict())
    with pytest.raises(errors.CheckpointError, match="'amsgrad'|'betas'|'eps'"):
        opt.load_state_dict(adam_.state_dict())
    with pytest.raises(errors.CheckpointError, match=r"shape \(2,\), expected \(1,\)"):
        optim.SGD([q], momentum=0.9).load_state_dict(opt.state_dict())
    assert opt.state[p]["momentum_buffer"].tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda p: optim.SGD([]), errors.ArgumentError, "there are no parameters"),
    (lambda p: optim.SGD(iter(())), errors.ArgumentError, "used only once"),
    (lambda p: optim.SGD(p), errors.ArgumentTypeError, "give a list"),
    (lambda p: optim.SGD(ag.nn.Linear(1, 1)), errors.ArgumentTypeError, r"model\.parameters\(\)"),
    (lambda p: optim.SGD(3), errors.ArgumentTypeError, "iterable of Tensors"),
    (lambda p: optim.SGD([1.0]), errors.ArgumentTypeError, "must be a Tensor, not a float"),
    (lambda p: optim.SGD([p, p]), errors.ArgumentError, "given twice"),
    (lambda p: optim.SGD([{"params": []}]), errors.ArgumentError, "without parameters"),
    (lambda p: optim.SGD([{"params": p}, p]), errors.ArgumentTypeError, "must be a dict"),
    (lambda p: optim.SGD([{"params": p, "rate": 1}]), errors.ArgumentError, "'rate'"),
    (lambda p: optim.SGD([p * 2]), errors.GradientError, "computed from other Tensors"),
    (lambda p: optim.SGD([ag.asarray([1, 2])]), errors.DTypeError, "int64"),
    (lambda p: optim.SGD([p], lr=-1.0), errors.ArgumentError, r"lr=-1\.0: give a number in \[0, inf\)"),
    (lambda p: optim.SGD([p], lr=math.nan), errors.ArgumentError, "lr=nan"),
    (lambda p: optim.SGD([p], lr=math.inf), errors.ArgumentError, "lr=inf"),
    (lambda p: optim.SGD([p], lr="fast"), errors.ArgumentTypeError, "lr must be a number"),
    (lambda p: optim.SGD([p], momentum=1.5), errors.ArgumentError, "momentum"),
    (lambda p: optim.SGD([p], nesterov=True), errors.ArgumentError, "needs momentum"),
    (lambda p: optim.SGD([p], nesterov=1), errors.ArgumentTypeError, "True or False"),
    (lambda p: optim.Adam([p], betas=(0.9, 1.0)), errors.ArgumentError, "betas"),
    (lambda p: optim.Adam([p], betas=0.9), errors.ArgumentTypeError, "two numbers"),
    (lambda p: optim.Adam([p], eps=-1e-8), errors.ArgumentError, "eps"),
    (lambda p: optim.SGD([p]).add_param_group({"params": [p]}), errors.ArgumentError, "already in another group"),
    (lambda p: optim.SGD([p]).param_groups[0].update(lr=-1), errors.ArgumentError, "lr=-1"),
    (lambda p: optim.SGD([p]).update(p, ag.ones(3), {}), errors.ShapeError, r"\(3,\)"),
])
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make(leaf([1.0]))


def test_a_parameter_that_became_a_result_is_an_error():
    p = leaf([1.0])
    opt = optim.SGD([p])
    p._node = (leaf([1.0]) * 2)._node
    with pytest.raises(errors.GradientError, match="assign"):
        opt.step()


def test_blocks_cover_every_element():
    for n in (_optimizer.BLOCK, _optimizer.BLOCK + 1, 3 * _optimizer.BLOCK - 1):
        p = leaf(np.zeros(n))
        p.grad = ag.ones(n)
        optim.SGD([p], lr=1.0).step()
        assert (p.detach().numpy() == -1).all()


def test_a_large_adam_takes_a_second_moment_of_another_dtype():
    from agog.compiler.steps import Adam

    adam = Adam("float32")
    p, g, m = (np.full(70000, 2, np.float32) for _ in range(3))
    numbers = tuple(np.array(x, np.float32) for x in (0.1, 1e-8, 0.1, 0.9, 0.1, 1.0))
    assert adam.update(p, g, m, np.ones(70000), numbers, None) is False
    assert (p == 2).all() and (m == 2).all()  # then NumPy does all of it
    assert adam.update(p, g, m, np.ones(70000, np.float32), numbers, None) and (p != 2).all()


def test_muon_steps_are_orthogonal(rng):
    for shape in ((6, 4), (4, 6)):
        x, g = rng.standard_normal(shape), rng.standard_normal(shape)
        p = leaf(x, "float64")
        opt = optim.Muon([p], lr=0.1, weight_decay=0.5, ns_coefficients=(2.0, -1.5, 0.5), ns_steps=30)
        run(opt, p, [g, 2 * g])
        u, _, vh = np.linalg.svd(g, full_matrices=False)
        want, factor = x, math.sqrt(max(1, shape[0] / shape[1]))
        for _ in range(2):  # the direction of both gradients, and of their mean, is the same
            want = want * (1 - 0.1 * 0.5) - 0.1 * factor * (u @ vh)
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-6, atol=1e-6)
    q = leaf(x, "float64")
    run(optim.Muon([q], lr=0.1, adjust_lr_fn="match_rms_adamw", weight_decay=0.0), q, [g])
    sizes = np.linalg.svd(x - q.detach().numpy(), compute_uv=False) / (0.1 * 0.2 * math.sqrt(6))
    assert (sizes > 0.5).all() and (sizes < 1.5).all()
    with pytest.raises(errors.ArgumentError, match="Muon is for matrices"):
        optim.Muon([leaf(np.zeros(3))])
    with pytest.raises(errors.ArgumentError, match="adjust_lr_fn"):
        optim.Muon([q], adjust_lr_fn="other")


@pytest.mark.parametrize(("cls", "kw"), [(optim.Rprop, {"etas": (1.1, 1.2)}), (optim.Rprop, {"step_sizes": (2, 1)}),
                                         (optim.Adafactor, {"d": 0.5}), (optim.Adafactor, {"beta2_decay": 0.5})])
def test_settings_of_further_optimizers_that_make_no_sense(cls, kw):
    with pytest.raises(errors.ArgumentError, match=next(iter(kw))):
        cls([leaf(np.zeros((2, 2)))], **kw)


def changed_sgd(p, gs, at, momentum, dampening):
    b = None
    for i, g in enumerate(gs):
        if i >= at:
            b = g if b is None else momentum * b + (1 - dampening) * g
        p = p - 0.1 * (g if b is None else b)
    return p


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("staged", [False, True], ids=["eager", "staged"])
@pytest.mark.parametrize("dampening", [0.0, 0.25])
def test_momentum_that_is_set_after_the_first_steps(rng, dtype, staged, dampening):
    x, gs = rng.standard_normal((3, 2)), [rng.standard_normal((3, 2)) for _ in range(6)]
    p = leaf(x, dtype)
    opt = optim.SGD([p], lr=0.1)

    def step(g):
        p.grad = g
        opt.step()

    run = ag.function(step) if staged else step
    for i, g in enumerate(gs):
        if i == 2:
            opt.param_groups[0].update(momentum=0.9, dampening=dampening)
        run(ag.asarray(g, dtype=dtype))
    tight = 1e-2 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(p.detach().numpy(), changed_sgd(x, gs, 2, 0.9, dampening), rtol=tight, atol=tight)


def test_dampening_that_is_set_after_the_first_steps(rng):
    gs = [rng.standard_normal(3) for _ in range(4)]
    p, b, want = leaf(np.zeros(3), "float64"), 0.0, 0.0
    opt = optim.SGD([p], lr=0.1, momentum=0.9)
    for i, g in enumerate(gs):
        if i == 2:
            opt.param_groups[0]["dampening"] = 0.5
        run(opt, p, [g])
        b = 0.9 * b + (0.5 if i >= 2 else 1.0) * g
        want = want - 0.1 * b
    np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("staged", [False, True], ids=["eager", "staged"])
@pytest.mark.parametrize(("cls", "key", "value"), [(optim.RMSprop, "momentum", 0.9), (optim.RMSprop, "centered", True),
                                                   (optim.Adam, "amsgrad", True), (optim.AdamW, "amsgrad", True)])
def test_settings_that_keep_more_may_come_later(rng, staged, cls, key, value):
    gs = [ag.asarray(rng.standard_normal(3), dtype="float64") for _ in range(5)]
    p = leaf(np.ones(3), "float64")
    opt = cls([p], lr=0.01)
    pure = cls([leaf(np.ones(3), "float64")], lr=0.01, **{key: value})  # the formula, on a state of its own

    def step(g):
        p.grad = g
        opt.step()

    run = ag.function(step) if staged else step
    run(gs[0])
    opt.param_groups[0][key] = value
    want, state = p.detach(), pure.init(p)
    for name, held in opt.state[p].items():
        state[name] = held.detach()
    for g in gs[1:]:
        want, new = pure.update(want, g, state)
        state = {**state, **new}
        run(g)
    np.testing.assert_allclose(p.detach().numpy(), want.numpy(), rtol=1e-12)
    assert opt.state[p].keys() == state.keys()
