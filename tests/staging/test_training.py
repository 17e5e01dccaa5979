"""Modules, optimizers, schedules, running statistics, modes; pickling, copying and inheritance of staged things."""

import copy
import pickle
import sys

import numpy as np
from staging.worlds import Cases, T, attempt

import agog as ag
from agog import nn, optim

case = Cases()


def batch(i, n=6, d=4):
    rng = np.random.default_rng(i)
    return ag.asarray(rng.normal(size=(n, d)).astype("f4")), ag.asarray(rng.integers(0, 3, n))


def weights(model):
    return [t.detach() + 0 for t in model.state_dict().values()]


class Net(nn.Module):
    def __init__(self, d=4, p=0.5):
        self.a = nn.Linear(d, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(p)
        self.b = nn.Linear(8, 3)
        self.scale = 1.0
        self.steps = 0

    def forward(self, x):
        x = self.norm(self.a(x)).relu() * self.scale
        return self.b(self.drop(x))


def train_step(model, opt, loss=None):
    def step(x, t):
        opt.zero_grad()
        out = ag.cross_entropy(model(x), t)
        out.backward()
        opt.step()
        return out.detach()

    return step


@case(staged=True)
def whole_step(stage):
    net = Net()
    opt = optim.AdamW(net.parameters(), lr=0.05, eps=0.01)
    step = stage(train_step(net, opt))
    for i in range(6):
        yield step(*batch(i)), weights(net)


@case(staged=True)
def train_and_eval_alternate(stage):
    net = Net()
    opt = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step = stage(train_step(net, opt))
    predict = stage(lambda x: net(x).argmax(axis=-1))
    for i in range(4):
        net.train()
        yield step(*batch(i)), step(*batch(i + 50))
        net.eval()
        with ag.no_grad():
            yield predict(batch(i + 100)[0])
        yield predict(batch(i + 100)[0])


@case(staged=True)
def staged_forward_in_an_eager_loop(stage):
    net = Net()
    opt = optim.Adam(net.parameters(), lr=0.05, eps=0.01)
    forward = stage(lambda x: net(x))
    for i in range(5):
        x, t = batch(i)
        opt.zero_grad()
        loss = ag.cross_entropy(forward(x), t)
        loss.backward()
        opt.step()
        yield loss, weights(net)


@case(staged=True)
def staged_module_object(stage):
    net = Net()
    f = stage(net)
    for i in range(4):
        yield f(batch(i)[0]).detach()
    net.eval()
    for i in range(3):
        yield f(batch(i)[0]).detach()


@case(staged=True)
def staged_forward_method(stage):
    class M(nn.Module):
        def __init__(self):
            self.a = nn.Linear(4, 3)
            self.k = 2.0

        @stage
        def forward(self, x):
            return self.a(x) * self.k

    a, b = M(), M()
    opt = optim.SGD(a.parameters(), lr=0.1)
    for i in range(5):
        x, t = batch(i)
        ag.cross_entropy(a(x), t).backward()
        opt.step()
        opt.zero_grad()
        if i == 3:
            a.k = 5.0
        yield weights(a), b(x).detach()


@case(staged=True)
def module_attributes_changed(stage):
    net = Net(p=0.0)
    f = stage(lambda x: net(x))
    for i in range(9):
        if i == 2:
            net.scale = 3.0
        if i == 4:
            net.b = nn.Linear(8, 2)
        if i == 6:
            net.drop.p = 0.9
        if i == 7:
            net.norm = nn.Identity()
        yield f(batch(i)[0]).detach()


@case(staged=True)
def sequential_and_lists_edited(stage):
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
    table = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    f = stage(lambda x: net(x) + sum(m(x) for m in blocks) + table["a"](x))
    for i in range(9):
        if i == 2:
            net[1] = nn.ReLU()
        if i == 4:
            blocks.append(nn.Linear(4, 4))
        if i == 6:
            table["a"] = table["b"]
        yield f(batch(i)[0]).detach()


@case(staged=True)
def plain_list_of_layers_on_self(stage):
    class M:
        def __init__(self):
            self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
            self.names = {"x": 0}

        def __call__(self, x):
            for i, layer in enumerate(self.layers):
                x = layer(x) * (i + 1)
            return x

    m = M()
    f = stage(m)
    for i in range(7):
        if i == 2:
            m.layers.append(nn.Linear(4, 4))
        if i == 4:
            m.layers[0].weight.assign(m.layers[0].weight.detach() * 2)
        if i == 5:
            m.layers = m.layers[::-1]
        yield f(batch(i)[0]).detach()


@case(staged=True)
def weight_tying_and_replacement(stage):
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    f = stage(lambda x: b(a(x)).sum())
    for i in range(8):
        if i == 3:
            b.weight = a.weight
        if i == 6:
            b.weight = nn.Parameter(ag.ones(4, 4))
        a.weight.grad = b.weight.grad = None
        y = f(batch(i)[0])
        y.backward()
        yield y, a.weight.grad, b.weight.grad


@case(staged=True)
def freezing_layers(stage):
    net = Net(p=0.0)
    opt = optim.SGD(net.parameters(), lr=0.1)
    step = stage(train_step(net, opt))
    for i in range(7):
        if i == 3:
            for p in net.a.parameters():
                p.requires_grad = False
        if i == 5:
            net.requires_grad_(True)
        yield step(*batch(i)), weights(net)


@case(staged=True)
def learning_rate_schedules(stage):
    for make in (
        lambda o: optim.lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: optim.lr_scheduler.LambdaLR(o, lambda e: 1 / (e + 1)),
    ):
        net = nn.Linear(4, 3)
        opt = optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
        schedule = make(opt)
        step = stage(train_step(net, opt))
        for i in range(5):
            yield step(*batch(i)), opt.lr, weights(net)
            schedule.step()


@case
def schedule_stepped_inside(stage):
    net = nn.Linear(4, 3)
    opt = optim.SGD(net.parameters(), lr=0.5)
    schedule = optim.lr_scheduler.StepLR(opt, 2, 0.5)
    inner = train_step(net, opt)

    @stage
    def step(x, t):
        out = inner(x, t)
        schedule.step()
        return out

    for i in range(6):
        yield step(*batch(i)), opt.lr, weights(net)


@case(staged=True)
def parameter_groups_and_hyperparameters(stage):
    net = Net(p=0.0)
    opt = optim.SGD([{"params": list(net.a.parameters()), "lr": 0.5}, {"params": list(net.b.parameters())}], lr=0.1)
    step = stage(train_step(net, opt))
    for i in range(8):
        if i == 3:
            opt.param_groups[0]["lr"] = 0.01
        if i == 5:
            opt.param_groups[1]["weight_decay"] = 0.5
        if i == 6:
            opt.add_param_group({"params": list(net.norm.parameters())})
        yield step(*batch(i)), weights(net)


@case(staged=True)
def optimizer_state_loaded(stage):
    net = nn.Linear(4, 3)
    opt = optim.Adam(net.parameters(), lr=0.1)
    step = stage(train_step(net, opt))
    saved = None
    for i in range(8):
        if i == 3:
            saved = copy.deepcopy((net.state_dict(), opt.state_dict()))
        if i == 5:
            net.load_state_dict(saved[0])
            opt.load_state_dict(saved[1])
        yield step(*batch(i)), weights(net)


@case(staged=True)
def optimizer_swapped(stage):
    net = nn.Linear(4, 3)
    box = {"opt": optim.SGD(net.parameters(), lr=0.1)}

    @stage
    def step(x, t):
        opt = box["opt"]
        opt.zero_grad()
        ag.cross_entropy(net(x), t).backward()
        opt.step()

    for i in range(6):
        if i == 3:
            box["opt"] = optim.Adam(net.parameters(), lr=0.1)
        step(*batch(i))
        yield weights(net)


@case
def step_counter_on_the_model(stage):
    net = Net(p=0.0)
    opt = optim.SGD(net.parameters(), lr=0.1)
    inner = train_step(net, opt)

    @stage
    def step(x, t):
        net.steps += 1
        return inner(x, t) * net.steps

    for i in range(5):
        yield step(*batch(i)), net.steps, weights(net)


@case(staged=True)
def gradient_accumulation(stage):
    net = nn.Linear(4, 3)
    opt = optim.SGD(net.parameters(), lr=0.1)

    @stage
    def micro(x, t):
        loss = ag.cross_entropy(net(x), t) / 2
        loss.backward()
        return loss.detach()

    @stage
    def update():
        opt.step()
        opt.zero_grad()

    for i in range(5):
        yield micro(*batch(i)), micro(*batch(i + 20))
        update()
        yield weights(net)


@case(staged=True)
def gradient_norm_clipping(stage):
    net = nn.Linear(4, 3)
    opt = optim.SGD(net.parameters(), lr=0.1)

    @stage
    def step(x, t):
        opt.zero_grad()
        ag.cross_entropy(net(x * 100), t).backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        return norm

    for i in range(5):
        yield step(*batch(i)), weights(net)


@case(staged=True)
def exponential_moving_average(stage):
    net, ema = nn.Linear(4, 3), nn.Linear(4, 3)
    opt = optim.SGD(net.parameters(), lr=0.1)
    inner = train_step(net, opt)

    @stage
    def step(x, t):
        out = inner(x, t)
        with ag.no_grad():
            for p, q in zip(ema.parameters(), net.parameters()):
                p.assign(p * 0.9 + q * 0.1)
        return out

    for i in range(5):
        yield step(*batch(i)), weights(ema), weights(net)


@case(staged=True)
def nan_guard_skips_the_step(stage):
    net = nn.Linear(4, 3)
    opt = optim.SGD(net.parameters(), lr=0.1)

    @stage
    def step(x, t):
        opt.zero_grad()
        loss = ag.cross_entropy(net(x), t)
        loss.backward()
        if ag.isfinite(loss):
            opt.step()
        return loss.detach()

    for i, k in enumerate((1, 1, float("nan"), 1, float("inf"), 1)):
        x, t = batch(i)
        yield step(x * k, t), weights(net)


@case(staged=True)
def batch_norm_statistics(stage):
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    f = stage(lambda x: net(x))
    for i in range(6):
        if i == 3:
            net.eval()
        if i == 5:
            net.train()
        yield f(batch(i)[0]).detach(), weights(net)


@case(staged=True)
def dropout_and_seeds(stage):
    drop = nn.Dropout(0.5)
    f = stage(lambda x: drop(x))
    x = ag.ones(20)
    for i in range(8):
        if i == 3:
            ag.random.seed(0)
        if i == 5:
            drop.eval()
        if i == 6:
            drop.train()
        yield f(x)


@case(staged=True)
def varying_batch_sizes(stage):
    net = Net(p=0.2)
    opt = optim.Adam(net.parameters(), lr=0.05, eps=0.01)
    step = stage(train_step(net, opt))
    for i, n in enumerate((6, 6, 3, 6, 3, 5, 6)):
        yield step(*batch(i, n)), weights(net)


@case(staged=True)
def embedding_attention_layernorm(stage):
    class Block(nn.Module):
        def __init__(self):
            self.emb = nn.Embedding(10, 8)
            self.norm = nn.LayerNorm(8)
            self.att = nn.MultiheadAttention(8, 2)
            self.out = nn.Linear(8, 10)

        def forward(self, x):
            h = self.emb(x)
            h = h + self.att(self.norm(h), self.norm(h), self.norm(h))[0]
            return self.out(h.mean(axis=-2))

    net = Block()
    opt = optim.AdamW(net.parameters(), lr=0.01, eps=0.01)
    step = stage(train_step(net, opt))
    for i in range(4):
        x = ag.asarray(np.random.default_rng(i).integers(0, 10, (3, 5)))
        yield step(x, ag.asarray([i % 10, 1, 2])), weights(net)


@case(staged=True)
def convolution_step(stage):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 16, 3))
    opt = optim.SGD(net.parameters(), lr=0.05)
    step = stage(train_step(net, opt))
    for i in range(4):
        x = ag.asarray(np.random.default_rng(i).normal(size=(3, 1, 8, 8)).astype("f4"))
        yield step(x, ag.asarray([i % 3, 1, 2])), weights(net)


@case(staged=True)
def recurrent_state_passed_along(stage):
    cell = nn.GRUCell(4, 5)
    f = stage(lambda x, h: cell(x, h))
    h = ag.zeros(6, 5)
    for i in range(5):
        h = f(batch(i)[0], h).detach()
        yield h


@case
def forward_hooks(stage):
    net = Net(p=0.0)
    seen = []
    f = stage(lambda x: net(x))
    yield f(batch(0)[0]).detach()
    yield f(batch(0)[0]).detach()
    handle = net.a.register_forward_hook(lambda m, args, out: seen.append(1) or out * 2)
    yield f(batch(0)[0]).detach(), len(seen)
    yield f(batch(0)[0]).detach(), len(seen)
    (handle.remove if hasattr(handle, "remove") else handle)()
    yield f(batch(0)[0]).detach(), len(seen)
    yield f(batch(0)[0]).detach(), len(seen)


@case(staged=True)
def library_layer_patched(stage):
    net = nn.Sequential(nn.Linear(4, 4))
    f = stage(lambda x: net(x))
    yield f(batch(0)[0]).detach()
    yield f(batch(0)[0]).detach()
    before = nn.Linear.forward
    try:
        nn.Linear.forward = lambda self, x: x * 100
        yield f(batch(0)[0]).detach()
        yield f(batch(0)[0]).detach()
    finally:
        nn.Linear.forward = before
    yield f(batch(0)[0]).detach()
    yield f(batch(0)[0]).detach()


@case(staged=True)
def dictionary_of_parameters_functional(stage):
    params = {"w": T(1, 2, 3), "b": T(0.5)}

    def loss(p, x):
        return ((p["w"] * x).sum() + p["b"] - 1).sum() ** 2

    @stage
    def step(p, x):
        g = ag.grad(loss)(p, x)
        return {k: p[k] - 0.01 * g[k] for k in p}

    for i in range(5):
        params = step(params, T(i, 1, 2))
        yield params


@case(staged=True)
def functional_optimizer(stage):
    opt = optim.Adam([ag.nn.Parameter(T(0, 0))], lr=0.1)
    p = T(1, 2)
    state = opt.init(p)

    @stage
    def step(p, state, x):
        return opt.update(p, (p - x) * 2, state)

    for i in range(5):
        p, state = step(p, state, T(i, 1))
        yield p, state


@case(staged=True)
def moved_to_another_dtype(stage):
    net = nn.Linear(4, 3)
    f = stage(lambda x: net(x))
    yield f(batch(0)[0]).detach()
    yield f(batch(0)[0]).detach()
    net.to("float64")
    yield attempt(f, batch(0)[0].astype("float64"))
    yield attempt(f, batch(0)[0].astype("float64"))
    net.to("float32")
    yield f(batch(0)[0]).detach()
    yield f(batch(0)[0]).detach()


@case
def pickling_and_copying(stage):
    net = Net(p=0.0)
    f = stage(net)
    yield f(batch(0)[0]).detach(), f(batch(0)[0]).detach()
    g = copy.deepcopy(f)
    h = pickle.loads(pickle.dumps(f))
    net.scale = 5.0
    for _ in range(3):
        yield f(batch(0)[0]).detach(), g(batch(0)[0]).detach(), h(batch(0)[0]).detach()
    c = copy.copy(f)
    yield c(batch(0)[0]).detach()


@case
def copying_an_object_with_a_staged_method(stage):
    class A:
        def __init__(self):
            self.w = T(1)

        @stage
        def f(self, x):
            return x * self.w

    a = A()
    yield a.f(T(2)), a.f(T(2))
    b = copy.deepcopy(a)
    a.w.assign(T(10))
    for _ in range(3):
        yield a.f(T(2)), b.f(T(2))


@case(staged=True)
def scalar_training_state_as_tensors(stage):
    w, n = T(1, requires_grad=True), ag.asarray(0)

    @stage
    def step(x):
        n.assign(n + 1)
        loss = ((w * x) ** 2).sum()
        loss.backward()
        with ag.no_grad():
            w.assign(w - w.grad / n)
        w.grad = None
        return loss.detach(), n + 0

    for i in range(5):
        yield step(T(i)), w, n


@case(staged=True)
def zero_grad_kept_as_zeros(stage):
    w = nn.Parameter(T(1, 2))
    opt = optim.SGD([w], lr=0.1)

    @stage
    def step(x):
        opt.zero_grad(set_to_none=False)
        (w * x).sum().backward()
        opt.step()

    for i in range(5):
        step(T(i, 1))
        yield w, w.grad


@case(staged=True)
def loss_modules_and_functional(stage):
    mse, ce = nn.MSELoss(), nn.CrossEntropyLoss()
    f = stage(
        lambda x, t: (
            mse(x, x * 2),
            ce(x, t),
            nn.functional.huber_loss(x, x * 0),
            ag.softmax(x),
            ag.logsumexp(x, axis=-1),
        )
    )
    for i in range(4):
        x, t = batch(i)
        yield f(x, t)


@case
def tensors_logged_every_step(stage):
    w = nn.Parameter(T(1, 2))
    opt = optim.SGD([w], lr=0.1)
    history = []

    @stage
    def step(x):
        opt.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        opt.step()
        history.append(loss.item())
        return loss.detach()

    for i in range(5):
        yield step(T(i, 1)), history


@case(staged=True)
def data_loader_loop_outside(stage):
    rng = np.random.default_rng(0)
    xs, ts = rng.normal(size=(20, 4)).astype("f4"), rng.integers(0, 3, 20)
    net = nn.Linear(4, 3)
    opt = optim.Adam(net.parameters(), lr=0.05, eps=0.01)
    step = stage(train_step(net, opt))
    for _ in range(2):
        for x, t in ag.data.DataLoader(ag.data.TensorDataset(ag.asarray(xs), ag.asarray(ts)), batch_size=8):
            yield step(x, t)


# ------------------------------------------------------------------- the step that makes an optimizer's moments
def test_a_step_that_makes_moments_is_recorded_once():
    for cls, kw in ((optim.SGD, {}), (optim.SGD, {"momentum": 0.9, "dampening": 0.5}), (optim.AdamW, {})):
        net = Net(p=0.0)
        step = ag.function(train_step(net, cls(net.parameters(), lr=0.1, **kw)), strict=True)
        step(*batch(0))
        assert step._history == [f"recorded {step.graph(*batch(0)).count()} operations"]
        step(*batch(1))
        assert step.calls_staged == 1


@case(staged=True)
def gradients_that_are_written_before_they_are_read(stage):
    w, v = T(1.0, 2.0, requires_grad=True), T(3.0, requires_grad=True)
    opt = optim.SGD([w, v], lr=0.1)

    @stage
    def step(x, part):
        opt.zero_grad()
        (w * x).sum().backward()
        w.grad = w.grad + 1
        if part:
            v.grad = x[:1]
        return x + 1

    for i in range(8):
        if i in (2, 5):
            v.grad = T(7.0)
        if i == 3:
            w.grad = None
        yield step(T(i, 1.0), i > 3), w.grad, v.grad


@case(staged=True)
def gradients_that_another_name_holds(stage):
    w = T(1.0, 2.0, requires_grad=True)
    w.grad = T(5.0, 5.0)
    old = w.grad

    @stage
    def step(x):
        w.grad = None
        y = x + old
        w.grad = old
        return y

    for i in range(6):
        yield step(T(i, 1.0)), w.grad, old
        if i == 3:
            w.grad = None
        if i == 4:
            w.grad = T(1.0, 1.0)


@case(staged=True)
def code_that_looks_at_the_moments(stage):
    w = T(1.0, 2.0, requires_grad=True)
    opt = optim.Adam([w], lr=0.1)

    def step(x):
        ((w * x) ** 2).sum().backward()
        first = not opt.state
        opt.step()
        opt.zero_grad()
        return x + (100 if first else 1)

    step = stage(step)
    for i in range(4):
        yield step(T(i, i + 1.0)), w.detach() + 0


@case(staged=True)
def a_pattern_that_looks_at_the_moments(stage):
    w = T(1.0, 2.0, requires_grad=True)
    opt = optim.Adam([w], lr=0.1)

    def step(x):
        (w * x).sum().backward()
        match opt:
            case optim.Optimizer(state={**some}) if some:
                x = x + 1
        opt.step()
        opt.zero_grad()
        return x * 2

    step = stage(step)
    for i in range(4):
        yield step(T(i, i + 1.0)), w.detach() + 0


class Counting(optim.SGD):
    """An optimizer of the user, whose rule has a side effect."""

    updates = 0

    def _update(self, xp, p, g, state, group):
        Counting.updates += 1
        return super()._update(xp, p, g, state, group)

    def _step_small(self, p, group):
        return False

    def _constants(self, group, state, dtype):
        Counting.updates += 1
        return super()._constants(group, state, dtype)


@case
def a_rule_with_a_side_effect(stage):
    Counting.updates = 0
    w = T(1.0, 2.0, requires_grad=True)
    opt = Counting([w], lr=0.1)
    step = stage(train_step(lambda x: w * x, opt))
    for i in range(4):
        x = ag.ones(1, 2) * i
        yield step(x, ag.asarray([0])), Counting.updates


@case
def a_hook_with_a_side_effect(stage):
    seen = []
    w = T(1.0, 2.0, requires_grad=True)

    @stage
    def step(x):
        y = w * x
        y.register_hook(lambda g: seen.append(1))
        y.sum().backward()
        w.grad = None
        return x + 1

    for i in range(4):
        yield step(T(i, 1.0)), len(seen)


@case
def a_rule_that_writes(stage):
    count = [0]
    w = T(1.0, 2.0, requires_grad=True)

    @ag.custom_gradient
    def doubled(x):
        def pull(g):
            count[0] += 1
            return g * 3

        return x * 2, pull

    @stage
    def step(x):
        (doubled(w * x) * x).sum().backward()
        out, w.grad = w.grad, None
        return out

    for i in range(4):
        yield step(T(i, 1.0)), count[0]


@case(staged=True)
def the_generator_is_seeded_inside(stage):
    @stage
    def f(x, seed):
        ag.random.seed(seed)
        return x + ag.random.normal((2,))

    for seed in (3, 3, 2 ** 40, 3, 2 ** 40):
        yield f(T(1, 2), seed), ag.random.get_state(), ag.random.normal((2,))


test_staged_is_plain = case.test()


def test_an_error_in_backward_leaves_the_profiler_as_it_was():
    calls = []

    def profiler(frame, event, arg):
        calls.append(event)

    w = T(1.0, requires_grad=True)

    @ag.function
    def step(x):
        y = (w * x).sum()
        y.backward()
        y.backward()  # its saved values are gone

    sys.setprofile(profiler)
    try:
        attempt(step, T(2.0))
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert calls


def test_attributes_named_in_patterns_are_watched():
    class Point:
        def __init__(self):
            self.x = 0

    p = Point()

    @ag.function
    def step(t):
        match p:
            case Point(x=0):
                return t + 1
        return t + 2

    out = []
    for i in range(6):
        p.x = int(i > 3)
        out.append(step(T(1.0)).item())
    assert out == [2.0] * 4 + [3.0] * 2
