"""What optimizers, schedules and layers keep in Python: read, set and replaced around staged calls, and inside them."""

import copy
import functools
import pickle

import pytest
from staging.worlds import Cases, T, attempt

import agog as ag
from agog import nn, optim
from agog.errors import StagingError

case = Cases()


def training(opt, w, x=(1.0, -2.0, 0.5)):
    """A step, to be staged, and what it leaves."""
    x = T(*x)

    def step(scale):
        loss = ((w * x - scale) ** 2).sum()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss.detach()

    return step


def parameter(*values):
    return nn.Parameter(T(*values))


# ----------------------------------------------------------------------------------------------- the learning rate
@case(staged=True)
def a_rate_that_the_function_looks_at(stage):
    w = parameter(1.0)
    opt = optim.SGD([w], lr=0.5)
    schedule = optim.lr_scheduler.ExponentialLR(opt, 0.5)
    ways = [lambda x: x * opt.param_groups[0]["lr"], lambda x: x * opt.lr, lambda x: x * schedule.get_last_lr()[0],
            lambda x: x * opt.param_groups[0].get("lr"), lambda x: x * dict(opt.param_groups[0])["lr"],
            lambda x: x * {**opt.param_groups[0]}["lr"], lambda x: x * opt.state_dict()["param_groups"][0]["lr"],
            lambda x: x * [v for k, v in opt.param_groups[0].items() if k == "lr"][0],
            lambda x: x * list(opt.param_groups[0].values())[1], lambda x: x * (opt.param_groups[0] | {})["lr"],
            lambda x: x * opt.param_groups[0].copy()["lr"], lambda x: x * schedule.last_epoch,
            lambda x: x * schedule.state_dict()["last_epoch"]]
    staged = [stage(f) for f in ways]
    for _ in range(4):
        yield [f(T(1, 2)) for f in staged], [f(T(1, 2)) for f in staged]
        schedule.step()


@case(staged=True)
def an_update_by_hand_with_the_rate_of_the_group(stage):
    w = parameter(1.0, 2.0, 3.0)
    opt = optim.SGD([w], lr=0.1)

    @stage
    def step(x):
        ((w * x) ** 2).sum().backward()
        with ag.no_grad():
            for group in opt.param_groups:
                for p in group["params"]:
                    p.assign(p - group["lr"] * p.grad)
        opt.zero_grad()

    for rate in (0.1, 0.1, 0.05, 0.05, 0.1):
        opt.param_groups[0]["lr"] = rate
        step(T(1, 2, 0.5))
        yield w


@case(staged=True)
def a_rate_that_nothing_looks_at_makes_no_recording(stage):
    w = parameter(1.0, 2.0, 3.0)
    opt = optim.Adam([w], lr=0.1)

    @stage(limit=1)
    def step(x):
        ((w * x) ** 2).sum().backward()
        nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], 1.0)
        opt.step()
        opt.zero_grad()

    for i in range(6):
        opt.lr = 0.1 / (i + 1)
        step(T(1, 2, 0.5))
        yield w
    assert getattr(step, "calls_staged", 5) == 5


@case
def a_schedule_that_is_stepped_inside(stage):
    w = parameter(1.0, 2.0, 3.0)
    for make in (lambda o: optim.lr_scheduler.StepLR(o, 2), lambda o: optim.lr_scheduler.LinearLR(o, 0.5),
                 lambda o: optim.lr_scheduler.OneCycleLR(o, 1.0, 9, cycle_momentum=True)):
        opt = optim.SGD([w], lr=0.5, momentum=0.9)
        schedule = make(opt)

        @stage
        def alone(x, schedule=schedule):
            schedule.step()
            return x * 2

        for _ in range(4):
            yield alone(T(1)), opt.lr, schedule.last_epoch, opt.param_groups[0]["momentum"]


@case
def a_plateau_that_is_stepped_inside(stage):
    opt = optim.SGD([parameter(1.0)], lr=0.5)
    schedule = optim.lr_scheduler.ReduceLROnPlateau(opt, patience=1, factor=0.5)

    @stage
    def step(x):
        schedule.step(1.0)
        return x * 2

    for _ in range(6):
        yield step(T(1)), opt.lr, schedule.num_bad_epochs, schedule.last_epoch


@case
def a_rate_that_is_set_inside(stage):
    w = parameter(1.0, 2.0, 3.0)
    opt = optim.SGD([w], lr=0.5)
    other = optim.SGD([parameter(1.0)], lr=0.5)

    @stage
    def warm(x, n):
        opt.lr = 0.1 * n
        other.param_groups[0]["lr"] = 0.2 * n
        return training(opt, w)(x)

    for n in (1, 2, 2, 3, 1):
        yield warm(T(1), n), w, opt.lr, other.lr
        opt.lr = 9.0


@case
def an_optimizer_that_is_made_inside(stage):
    @stage
    def fit(w0, x):
        w = (w0 + 0).requires_grad_()
        opt = optim.SGD([w], lr=0.5)
        for i in range(3):
            opt.param_groups[0]["lr"] = opt.param_groups[0]["lr"] / (i + 1)
            ((w - x) ** 2).sum().backward()
            opt.step()
            opt.zero_grad()
        return w.detach()

    for i in range(4):
        yield fit(T(1, 2), T(i, 3))


# ------------------------------------------------------------------------------------------ what an optimizer keeps
@case(staged=True)
def moments_that_are_removed_and_replaced(stage):
    w = parameter(1.0, 2.0, 3.0)
    opt = optim.Adam([w], lr=0.1)
    step = stage(training(opt, w), limit=100)

    def twice():
        return [(step(T(s)), w.detach() + 0, {k: t + 0 for k, t in opt.state[w].items()}) for s in (1.0, 2.0)]

    yield twice()
    opt.state.clear()
    yield twice()
    opt.state = {}
    yield twice()
    opt.state[w]["exp_avg"] = T(1, 1, 1)
    yield twice()
    opt.state[w] = {k: ag.zeros_like(t) for k, t in opt.state[w].items()}
    yield twice()
    opt.state[w].update(exp_avg_sq=T(4, 4, 4))
    yield twice()
    del opt.state[w]
    yield twice()
    opt.state.pop(w)
    yield twice()
    saved = copy.deepcopy(opt.state_dict())
    yield twice()
    opt.load_state_dict(saved)
    yield twice()


@case(staged=True)
def groups_that_are_changed_in_place(stage):
    w, v = parameter(1.0, 2.0, 3.0), parameter(0.5, 0.5, 1.0)
    opt = optim.SGD([w], lr=0.05, momentum=0.9)

    @stage(limit=100)
    def step(x):
        ((w * x * v) ** 2).sum().backward()
        opt.step()
        opt.zero_grad()
        return w.detach() + v.detach()

    def twice():
        return [(step(T(1, s, 2)), w.detach() + 0, v.detach() + 0) for s in (1.0, 2.0)]

    group = opt.param_groups[0]
    yield twice()
    group["params"].append(v)
    yield twice()
    group |= {"momentum": 0.1}
    yield twice()
    group["params"][:] = [v]
    yield twice()
    group["params"] += [w]
    yield twice()
    group["params"].remove(v)
    yield twice()
    group.update(weight_decay=0.5)
    yield twice()
    group.pop("weight_decay")
    group.setdefault("weight_decay", 0.25)
    yield twice()
    group["params"] = [v, w]
    yield twice()
    group["params"].pop()
    yield twice()


@case(staged=True)
def an_optimizer_of_the_users_with_attributes(stage):
    class Lookahead(optim.SGD):
        def __init__(self, params, **kw):
            super().__init__(params, **kw)
            self.boost = 1.0

        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = p.grad * self.boost
            super().step()

    w = parameter(1.0, 2.0, 3.0)
    opt = Lookahead([w], lr=0.05)
    step = stage(training(opt, w))
    for boost in (1.0, 1.0, 2.0, 2.0, 0.0):
        opt.boost = boost
        yield step(T(1)), w
    Lookahead.step = lambda self: None
    yield step(T(1)), w


class Own(optim.Optimizer):
    """One that keeps what it likes in `state`, and gives the names there other Tensors and numbers."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def _parts(self):
        return [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]

    @ag.no_grad()
    def step(self):
        for group, p in self._parts():
            kept = self.state.setdefault(p, {"mean": ag.zeros_like(p), "n": 0})
            kept["mean"] = 0.9 * kept["mean"] + p.grad
            kept["n"] += 1
            p.assign(p - group["lr"] * kept["mean"] / kept["n"])


class Assigning(Own):
    @ag.no_grad()
    def step(self):
        for group, p in self._parts():
            if p not in self.state:
                self.state[p] = {"mean": ag.zeros_like(p.detach())}
            mean = self.state[p]["mean"]
            mean.assign(0.9 * mean + p.grad)
            p.assign(p - group["lr"] * mean)


class ByFormula(Own):
    step = optim.Optimizer.step

    def _init(self, p, group):
        return {"mean": ag.zeros_like(p)}

    def _update(self, xp, p, g, state, group):
        mean = 0.9 * state["mean"] + g
        return p - group["lr"] * mean, {"mean": mean}


@case
def optimizers_that_users_write(stage):
    for cls in (Own, Assigning, ByFormula):
        w = parameter(1.0, 2.0, 3.0)
        opt = cls([w])
        step = stage(training(opt, w))
        for i in range(7):
            if i == 4:
                opt.lr = 0.01
            yield step(T(i)), w.detach() + 0


@case
def subclasses_that_count(stage):
    """An attribute that is there only from the first call on."""
    class Counting(ag.random.Generator):
        drawn = 0

        def next_key(self):
            self.drawn += 1
            return super().next_key()

    class Careful(optim.SGD):
        steps = 0

        def step(self):
            self.steps += 1
            super().step()

    generator, w = Counting(3), parameter(1.0, 2.0, 3.0)
    opt = Careful([w], lr=0.1)
    f = stage(lambda x: x + ag.random.normal((2,), generator=generator))
    step = stage(training(opt, w))
    for i in range(4):
        yield f(T(1, 2)), generator.drawn, step(T(i)), opt.steps, w


@case(staged=True)
def attributes_that_subclasses_read(stage):
    class Scaled(ag.random.Generator):
        skip = 0

        def next_key(self):
            for _ in range(self.skip):
                super().next_key()
            return super().next_key()

    class Slower(optim.lr_scheduler.LRScheduler):
        by = 1.0

        def rate(self, base, n):
            return base / (1 + self.by * n)

    generator = Scaled(3)
    schedule = Slower(optim.SGD([parameter(1.0)], lr=0.5))
    f = stage(lambda x: x + ag.random.normal((2,), generator=generator))
    g = stage(lambda x: x * schedule.rate(1.0, 2) + schedule.by)
    yield f(T(1, 2)), f(T(1, 2)), g(T(1)), g(T(2))
    generator.skip, schedule.by = 2, 5.0
    yield f(T(1, 2)), f(T(1, 2)), g(T(1)), g(T(2))


# -------------------------------------------------------------------------------------- what the library calls itself
@case(staged=True)
def several_hooks_of_one_module(stage):
    m = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    f, x, k, handles = stage(lambda x: m(x).detach(), limit=100), T(1, 2), 1.0, []
    before = lambda mod, args: (args[0] * k,)
    for i in range(3):
        handles.append(m[0].register_forward_hook(lambda mod, args, out, i=i: out + i))
        yield f(x), f(x)
        handles.append(m[1].register_forward_pre_hook(before))
        yield f(x), f(x)
        k += 1.0
        yield f(x), f(x)
    for remove in handles:
        remove()
        yield f(x), f(x)


@case(staged=True)
def a_forward_that_only_the_library_calls_is_replaced(stage):
    class Layer(nn.Module):
        def forward(self, x):
            return x + 1

    class Other(Layer):
        pass

    m = nn.Sequential(Layer(), Other(), nn.Tanh())
    f, x = stage(lambda x: m(x), limit=100), T(1, 2)
    yield f(x), f(x)
    Layer.forward = lambda self, x: x * 3
    yield f(x), f(x)
    Other.forward = lambda self, x: x - 5
    yield f(x), f(x)
    m[0].forward = lambda x: x * 0
    yield f(x), f(x)


@case(staged=True)
def layers_of_a_local_class_and_functions_of_layers(stage):
    width, slope = 3, 0.5

    class Layer(nn.Module):
        def __init__(self):
            self.act = nn.TransformerEncoderLayer(4, 2, 8, 0.0, activation=lambda x: ag.maximum(x, x * slope))

        def forward(self, x):
            parts = [t.reshape(width, 2, 4) for t in (x, x + 1)]
            return self.act(parts[0]) + sum(p * width for p in parts)

    m = Layer()
    f = stage(lambda x: m(x))
    for s in (0.5, 0.5, 0.25, 0.25):
        slope = s
        yield f(ag.ones(3, 8)).detach()


@case(staged=True)
def what_a_module_computes_once(stage):
    class Net(nn.Module):
        def __init__(self):
            self.lin = nn.Linear(2, 2)

        @functools.cached_property
        def total(self):
            return self.lin.weight.detach().sum()

    m = Net()
    f = stage(lambda x: x * m.total)
    yield f(T(1)), f(T(2)), m.total
    m.lin.weight.assign(ag.zeros(2, 2))
    yield f(T(1)), f(T(2)), m.total
    del m.total
    yield f(T(1)), f(T(2)), m.total


@case(staged=True)
def attributes_of_a_module_that_are_set_around_it(stage):
    class Net(nn.Module):
        def __init__(self):
            self.k, self.kind = 2, "up"
            self.inner = nn.Sequential(nn.Tanh())

        def forward(self, x):
            return self.inner(x) * (self.k if self.kind == "up" else -self.k)

    m = Net()
    f = stage(lambda x: m(x))
    for k in (2, 3, 3, 2.5):
        object.__setattr__(m, "k", k)
        yield f(T(1)), f(T(2))
    m.__dict__["kind"] = "down"
    yield f(T(1)), f(T(2))
    vars(m).update(k=7, kind="up")
    yield f(T(1)), f(T(2))


@case(staged=True)
def containers_of_modules_that_change(stage):
    table = nn.ModuleDict({"a": nn.Linear(2, 2)})
    layers = nn.ModuleList([nn.Linear(2, 2)])
    f = stage(lambda x: sum(m(x) for m in table.values()).detach(), limit=100)
    g = stage(lambda x: functools.reduce(lambda y, m: m(y), layers, x).detach(), limit=100)

    def both():
        return [h(T(1, s)) for h in (f, g) for s in (1, 2)]

    yield both()
    table["b"] = nn.Linear(2, 2)
    layers.append(nn.Tanh())
    yield both()
    table.pop("a")
    layers += [nn.Linear(2, 2)]
    yield both()
    table.update({"c": nn.Tanh()})
    layers.pop(0)
    yield both()
    table.clear()
    table["d"] = nn.Tanh()
    layers[0] = nn.ReLU()
    yield both()


@case(staged=True)
def the_code_of_a_function_that_is_staged_inside(stage):
    def inner(x, k=1.0):
        return x * 2 * k

    staged = stage(inner)
    f = stage(lambda x: staged(x) + 1)
    yield f(T(1)), f(T(2)), staged(T(3)), staged(T(4))
    inner.__code__ = (lambda x, k: x * 7 * k).__code__
    yield f(T(1)), f(T(2)), staged(T(3)), staged(T(4))
    inner.__defaults__ = (5.0,)
    yield f(T(1)), f(T(2)), staged(T(3)), staged(T(4))


@case(staged=True)
def the_code_of_a_function_that_is_transformed_outside(stage):
    def inner(x, k=1.0):
        return (x * x * k).sum()

    ways = [ag.vmap(inner), ag.grad(inner), ag.checkpoint(inner), ag.no_grad(inner), ag.jacfwd(inner)]
    f = stage(lambda x: [way(x) for way in ways])
    yield f(T(1, 2)), f(T(3, 4))
    inner.__code__ = (lambda x, k: (x * x * x * k).sum()).__code__
    yield f(T(1, 2)), f(T(3, 4))
    inner.__defaults__ = (5.0,)
    yield f(T(1, 2)), f(T(3, 4))


test_staged_is_plain = case.test()


def test_hooks_of_operations_see_those_of_staged_functions():
    f, seen = ag.function(lambda x: ag.tanh(x) * 2), []
    f(T(1))
    f(T(1))
    remove = ag.config.add_op_hook(lambda op, inputs, outputs: seen.append(op.name))
    try:
        assert f(T(1)).tolist() == (ag.tanh(T(1)) * 2).tolist()
    finally:
        remove()
    assert seen == ["tanh", "multiply"] * 2
    staged = f.calls_staged
    f(T(1))
    assert f.calls_staged == staged + 1


def test_what_is_said_of_a_schedule_that_is_stepped_inside():
    opt = optim.SGD([parameter(1.0)], lr=0.5)
    schedule = optim.lr_scheduler.StepLR(opt, 1)

    @ag.function(strict=True)
    def step(x):
        schedule.step()
        return x * 2

    with pytest.raises(StagingError, match="steps a schedule; do that outside"):
        step(T(1))


def test_settings_and_moments_are_copied_and_pickled():
    w = parameter(1.0, 2.0, 3.0)
    opt = optim.Adam([w], lr=0.1)
    training(opt, w)(T(1))
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        (v,) = other.param_groups[0]["params"]
        training(other, v)(T(2))
        assert v is not w and other.state[v].keys() == opt.state[w].keys() and opt.state[w]["step"].item() == 1
        version = other.__agog_watch__()[0]
        other.state.clear()
        assert other.__agog_watch__()[0] != version
        version = other.__agog_watch__()[0]
        other.param_groups[0]["params"].clear()
        assert other.__agog_watch__()[0] != version and len(opt.param_groups[0]["params"]) == 1
    assert dict(opt.param_groups[0])["lr"] == 0.1 and attempt(lambda: opt.param_groups[0]["no"])[1] == "KeyError"
