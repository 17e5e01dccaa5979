"""L-BFGS: PyTorch's trajectories, the Wolfe conditions, and going on after loading."""

import copy

import numpy as np
import pytest

import agog as ag
from agog import errors, nn, optim


def rosenbrock(params):
    v = ag.concat([p.reshape(-1) for p in params])
    return (100 * (v[1:] - v[:-1] ** 2) ** 2 + (1 - v[:-1]) ** 2).sum()


def start():
    values = ([-1.2, 1.0], [[0.5], [-0.3]])
    return [ag.asarray(v, dtype="float64", requires_grad=True) for v in values]


def closure_of(opt, params, calls, loss=rosenbrock):
    def closure():
        calls.append(1)
        opt.zero_grad()
        value = loss(params)
        value.backward()
        return value

    return closure


@pytest.mark.parametrize(("kw", "calls", "loss", "values"), [
    ({"lr": 0.5, "max_iter": 5}, 15, 3.702035577109398,
     [-0.789327393593345, 0.6343456974346632, 0.40838887418946357, 0.16682036928744218]),
    ({"line_search_fn": "strong_wolfe", "max_iter": 4, "history_size": 3}, 15, 3.7017461690448292,
     [-0.7641996967104124, 0.5954189762791985, 0.3609136741388053, 0.1307874083013983]),
    ({"lr": 0.1, "max_eval": 7, "history_size": 2}, 21, 10.685771746438347,
     [-0.9201480292733489, 0.7918919843084695, 0.5435522728200131, 0.21623149720676685]),
])
@pytest.mark.parametrize("staged", [False, True])
def test_three_steps_of_pytorch(kw, calls, loss, values, staged):
    """Numbers of PyTorch 2.13."""
    params, made = start(), []
    opt = optim.LBFGS(params, **kw)
    closure = closure_of(opt, params, made)
    compute = ag.function(lambda: rosenbrock(params)) if staged else (lambda: rosenbrock(params))
    closure = closure_of(opt, params, made, lambda _: compute())
    found = [opt.step(closure).item() for _ in range(3)]
    assert len(made) == calls
    np.testing.assert_allclose(found[-1], loss, rtol=1e-7)
    np.testing.assert_allclose(np.concatenate([p.detach().numpy().ravel() for p in params]), values, rtol=1e-6)
    assert opt.state[params[0]]["evaluations"].item() == calls


def test_it_finds_the_minimum():
    params, calls = start()[:1], []  # (with four variables there is another one, near -1)
    opt = optim.LBFGS(params, max_iter=100, tolerance_change=1e-16, line_search_fn="strong_wolfe")
    opt.step(closure_of(opt, params, calls))
    assert all(abs(p.detach() - 1).max().item() < 1e-5 for p in params) and len(calls) < 80
    before = [p.detach() for p in params]
    opt.step(closure_of(opt, params, calls))
    assert all(abs(p.detach() - q).max().item() < 1e-5 for p, q in zip(params, before))


def test_least_squares_in_float32(rng):
    x, y = rng.standard_normal((30, 4)).astype("f4"), rng.standard_normal((30, 1)).astype("f4")
    model = nn.Linear(4, 1)
    opt = optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    a, b = ag.asarray(x), ag.asarray(y)

    @ag.function
    def closure():
        opt.zero_grad()
        loss = ((model(a) - b) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(3):
        opt.step(closure)
    want = np.linalg.lstsq(np.concatenate([x, np.ones((30, 1))], 1).astype(float), y, rcond=None)[0].ravel()
    got = np.append(model.weight.detach().numpy().ravel(), model.bias.detach().numpy())
    np.testing.assert_allclose(got, want, atol=1e-3)
    assert model.weight.dtype == ag.float32 and closure.calls_staged


def test_steps_satisfy_the_wolfe_conditions():
    params, calls = start(), []
    opt = optim.LBFGS(params, max_iter=1, line_search_fn="strong_wolfe")
    closure = closure_of(opt, params, calls)

    def flat(tensors):
        return np.concatenate([np.asarray(t.detach()).ravel() for t in tensors])

    for _ in range(8):
        before = closure().item(), flat(params), flat([p.grad for p in params])
        opt.step(closure)
        after = closure().item(), flat(params), flat([p.grad for p in params])
        step = after[1] - before[1]
        assert after[0] <= before[0] + 1e-4 * (before[2] @ step) + 1e-12
        assert abs(after[2] @ step) <= -0.9 * (before[2] @ step) + 1e-12


def test_state_dict_goes_on_to_the_bit():
    params, calls = start(), []
    opt = optim.LBFGS(params, max_iter=3, history_size=4, line_search_fn="strong_wolfe")
    closure = closure_of(opt, params, calls)
    for _ in range(3):
        opt.step(closure)
    saved, values = copy.deepcopy(opt.state_dict()), [p.detach() for p in params]
    opt.step(closure)
    again = [v.clone().requires_grad_() for v in values]
    other = optim.LBFGS(again, max_iter=3, history_size=4, line_search_fn="strong_wolfe")
    other.load_state_dict(saved)
    other.step(closure_of(other, again, calls))
    assert all((p == q).all() for p, q in zip(params, again))


def test_parameters_without_gradients_stay():
    params = [*start(), ag.ones(2, dtype="float64", requires_grad=True)]
    opt = optim.LBFGS(params, line_search_fn="strong_wolfe")
    opt.step(closure_of(opt, params, [], lambda ps: rosenbrock(ps[:2])))
    assert params[2].tolist() == [1, 1] and params[0].tolist() != [-1.2, 1.0]


def test_what_it_refuses():
    params = start()
    with pytest.raises(errors.ArgumentTypeError, match="called many times"):
        optim.LBFGS(params).step()
    with pytest.raises(errors.ArgumentError, match="one group"):
        optim.LBFGS([{"params": params[:1]}, {"params": params[1:]}])
    with pytest.raises(errors.ArgumentError, match="strong_wolfe"):
        optim.LBFGS(params, line_search_fn="armijo")
    with pytest.raises(errors.ArgumentError, match="history_size=0"):
        optim.LBFGS(params, history_size=0)
    with pytest.raises(errors.ArgumentTypeError, match="max_iter"):
        optim.LBFGS(params, max_iter=2.5)
    with pytest.raises(errors.ArgumentError, match="complex"):
        optim.LBFGS([ag.ones(2, dtype="complex64", requires_grad=True)])
    opt = optim.LBFGS(params)
    closure = closure_of(opt, params, [])
    with pytest.raises(errors.StagingError, match="stage the closure"):
        ag.function(lambda: opt.step(closure).detach(), strict=True)()
