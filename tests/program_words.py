"""The words of random programs (see `programs`): operations, statements, the state around, events between calls."""

PRELUDE = """
k = 1.5
w = ag.asarray([1.0, -0.5, 2.0])
p = ag.asarray([0.5, -1.0, 1.5], requires_grad=True)
g = ag.zeros(())
log = []
ag.random.seed(7)
m = ag.nn.Linear(3, 2)
bn = ag.nn.BatchNorm1d(3)
opt = ag.optim.SGD([p], lr=0.25, momentum=0.5)
adam = ag.optim.Adam(list(m.parameters()), lr=0.125)

class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b

class Box:
    factor = 2.0

    def __init__(self):
        self.h, self.last, self.scale, self.count, self.mode = ag.zeros(3), None, 0.5, 0, "a"
        self.pair = (ag.ones(3), ag.zeros(()))
        self.items = [ag.asarray([1.0, 2.0]), ag.asarray([-1.0, 0.5, 3.0])]
        self.table = {"a": ag.asarray([0.5, 2.5, -1.0]), "b": ag.asarray(2)}
        self.inner = Pair(ag.asarray(1.5), 2)

    def method(self, a):
        return a * self.scale + self.h.sum().astype("float32") if self.mode == "a" else a * self.factor

    def update(self, a):
        self.h = self.h * 0.5 + a.sum().astype("float32") * 0.125
        return self.h

    @property
    def double(self):
        return self.h * 2

s = Box()

def helper(a, c=2.0):
    return a * c + k

def recursive(a, n):
    return a if n == 0 else recursive(a * 0.5 + 1, n - 1)

def shrink(a):
    while abs(a).sum() > 2:
        a = a * 0.5
    return a

def total(*xs, **named):
    return sum([x.sum() for x in xs]) * named.get("scale", 1)

@ag.custom_gradient
def ruled(a):
    return a * 2, lambda t: t * 3

def inner(a, b):
    return (a * 0.5 - b) * s.scale

def stage(how):
    global inner
    inner, Box.update = how(inner), how(Box.update)
"""

STATE = ["w", "s.h", "s.items[0]", "s.items[1]", "s.table['a']", "s.table['b']", "s.pair[0]", "s.inner.a", "g", "p"]
"""Tensors that programs find outside."""

EXACT = {  # of values without rounding error these make values without rounding error
    "{a} + {b}": 3,
    "{a} - {b}": 3,
    "{a} * {b}": 3,
    "-{a}": 2,
    "abs({a})": 2,
    "ag.maximum({a}, {b})": 2,
    "ag.minimum({a}, {b})": 1,
    "{a} * {k}": 2,
    "{a} + {k}": 2,
    "2 - {a}": 1,
    "{a}.sum()": 2,
    "{a}.sum(axis=-1, keepdims=True)": 2,
    "{a}.sum(axis=0)": 2,
    "{a}.max(axis=-1)": 1,
    "{a}.min()": 1,
    "ag.cumulative_sum({a}, axis=-1)": 1,
    "{a}.reshape(-1)": 2,
    "{a}[0]": 1,
    "{a}[..., 1:]": 1,
    "{a}[::-1]": 1,
    "{a}[..., None]": 1,
    "{a}.mT": 1,
    "{a} @ {b}": 2,
    "{a}.mT @ {b}": 1,
    "ag.concat([{a}, {b}], axis=0)": 1,
    "ag.stack([{a}, {b}])": 1,
    "ag.flip({a})": 1,
    "ag.broadcast_to({a}, (2,) + {a}.shape)": 1,
    "{a}.astype('float32')": 2,
    "{a}.astype('float64')": 1,
    "{a}.astype('int64')": 1,
    "ag.square({a})": 1,
    "ag.clip({a}, -1, 2)": 1,
    "ag.relu({a})": 2,
    "ag.where({a} > 0, {a}, {b})": 2,
    "ag.where({a} == {b}, 1, {b})": 1,
    "({a} > {b})": 2,
    "({a} == {b})": 1,
    "({a} <= 1) & ({b} > 0)": 1,
    "ag.floor({a})": 1,
    "ag.sign({a})": 1,
    "ag.round({a})": 1,
    "{a} // 2": 1,
    "{a} % 3": 1,
    "ag.sort({a}, axis=-1)": 1,
    "ag.argmax({a}, axis=-1)": 1,
    "ag.argsort({a}, axis=-1, stable=True)": 1,
    "ag.take({a}, ag.asarray([0, 0]), axis=0)": 1,
    "ag.any({a} > 1)": 1,
    "ag.all({a} > 0, axis=-1)": 1,
    "ag.count_nonzero({a})": 1,
    "ag.tril({a})": 1,
    "ag.roll({a}, 1)": 1,
    "ag.zeros_like({a})": 1,
    "ag.full({a}.shape, 3)": 1,
    "{a}.detach()": 1,
    "ag.pad({a}, 1)": 1,
    "ag.prod(ag.clip({a}, -1, 1))": 1,
    "{a}.at[0].add(1)": 1,
    "{a}.clone()": 1,
    "ag.diff({a}, axis=-1)": 1,
    "ag.outer({a}, {b})": 1,
    "{a}[{a} > 0]": 1,
}
ROUNDED = {
    "ag.exp(ag.clip({a}, -3, 3))": 2,
    "ag.tanh({a})": 3,
    "ag.sigmoid({a})": 2,
    "ag.sin({a})": 1,
    "ag.sqrt(abs({a}) + 1)": 2,
    "ag.log(abs({a}) + 1)": 2,
    "ag.log1p(abs({a}))": 1,
    "{a} / 3": 2,
    "{a} / (abs({b}) + 1)": 2,
    "{a}.mean()": 1,
    "{a}.mean(axis=-1)": 2,
    "{a}.mean(axis=0, keepdims=True)": 1,
    "ag.softmax({a}, axis=-1)": 2,
    "ag.logsumexp({a}, axis=-1)": 1,
    "ag.var({a}, axis=-1)": 1,
    "ag.gelu({a})": 1,
    "ag.silu({a})": 1,
    "{a} ** 3": 1,
    "(abs({a}) + 1) ** 0.3": 1,
    "ag.softplus({a})": 1,
    "ag.erf({a})": 1,
    "ag.layer_norm({a}, ({a}.shape[-1],))": 1,
    "ag.atan2({a}, abs({b}) + 1)": 1,
    "ag.expm1(ag.clip({a}, -2, 2))": 1,
    "ag.linalg.vector_norm({a} + 3)": 1,
    "ag.hypot({a}, {b} + 3)": 1,
    "ag.log_softmax({a}, axis=-1)": 1,
}


# ------------------------------------------------------------------------------------------------------ between calls
def events(w):
    """What changes before a call."""
    r = w.r
    return [r.choice(_EVENTS) for _ in range(r.choice([1, 1, 2]))]


_EVENTS = [
    "k = -0.5",
    "k = 1.5",
    "k = 2",
    "s.scale = 0.25",
    "s.scale = 0.5",
    "s.mode = 'b'",
    "s.mode = 'a'",
    "s.h = ag.ones(3)",
    "s.h = ag.asarray([0.5, 0.5, -2.0])",
    "s.last = None",
    "s.last = ag.asarray(0.5)",
    "s.items[0] = ag.asarray([2.0, -2.0])",
    "s.items[0] = None; s.items[0] = ag.asarray([0.5, 1.0, 2.0])",
    "s.h = None; s.h = ag.zeros((2, 3))",
    "del s.table['a']; s.table['a'] = ag.asarray([1.0, 2.0, 4.0])",
    "w = None; w = ag.asarray([[0.5, 1.5, -1.0]])",
    "s.items.append(ag.asarray(1.0))",
    "s.table['a'] = w",
    "s.table['c'] = ag.asarray(1.0)",
    "s.pair = (ag.zeros(3), ag.ones(()))",
    "s.inner.b = 3",
    "s.inner = Pair(ag.asarray(-1.0), 1)",
    "s.count = 2",
    "s = Box()",
    "Box.factor = 3.0",
    "Box.method = lambda self, a: a - self.h.sum().astype('float32')",
    "w.assign(w * 0.5 + 1)",
    "w = ag.asarray([0.5, 1.5, -1.0])",
    "w = w.astype('float64')",
    "g = ag.asarray(1.5)",
    "p = ag.asarray([1.0, 1.0, -0.5], requires_grad=True)",
    "p.grad = None",
    "p.assign(p.detach() * 0.5)",
    "opt.lr = 0.125",
    "m.eval()",
    "m.train()",
    "ag.random.seed(3)",
    "helper = lambda a, c=1.0: a - c",
    "helper.__defaults__ = (3.0,)",
    "total = lambda *xs, **named: xs[0].sum() - k",
    "s.h[0] = 4.0",
    "log.append(s.update(ag.ones(3)).tolist())",
    "log.append(s.update(w).tolist())",
    "log.append(s.method(ag.ones(2)).tolist())",
    "bn.eval()",
    "bn.train()",
]


# -------------------------------------------------------------------------------------------------------- statements
def statement(w):
    """Add one statement, or none, to what the writer `w` writes."""
    kinds, weights = zip(*_STATEMENTS)
    w.r.choices(kinds, weights)[0](w)


def _assign(w):
    name = w.fresh()
    text, exact = w.expression()
    w.try_([f"{name} = {text}"], name, exact)


def _call(w):
    """A call of a function of the user, or of one with functions inside."""
    name, a, b = w.fresh(), w.pick(), w.pick()
    text = w.r.choice(_CALLS).format(a=a, b=b, k=w.number())
    w.try_([f"{name} = {text}"], name)


_CALLS = [
    "helper({a})",
    "helper({a}, {k})",
    "helper({a}, c={k})",
    "recursive({a}, 2)",
    "shrink({a})",
    "total({a}, {b})",
    "total({a}, {b}, scale={k})",
    "inner({a}, {b})",
    "inner(inner({a}, {b}), {a})",
    "s.method({a})",
    "s.update({a})",
    "s.double + {a}",
    "(lambda v: v * {k})({a})",
    "sum([v.sum() for v in ({a}, {b})])",
    "sum(v * 0.5 for v in ({a}, {a}))",
    "ag.stack([v.sum().astype('float32') for v in s.items])",
    "max([{a}, {a} * 0.5], key=lambda v: v.ndim)",
    "ruled({a})",
    "m({a}).sum(axis=-1)",
    "m(w)",
    "bn({a}.reshape((-1, 3)) * 1.0)",
    "q['u'] * {a}",
    "q['v'][0] + {a} * q['v'][1]",
    "sum([v.sum() for v in q['v'][:1]]) + q['u'].ndim + {a}",
    "{a} * len(q)",
    "ag.checkpoint(lambda v: ag.tanh(v) * w.sum(), {a})",
    "getattr(s, 'h') + {a}",
    "s.table.get('a', {a}) * {k}",
    "s.table['a'] if s.last is None else s.last * {a}",
    "{a} if s.count else {a} * s.inner.b",
    "[{a}, {b}][{a}.ndim % 2] * 2",
    "dict(u={a}, v={b})['v'] + 1",
    "ag.asarray([1.0, {k}, 2.0]) + {a}",
    "ag.asarray({k}) * {a}",
    "ag.where({a} > 0, {k}, {b})",
    "ag.full((3,), {k}) - {a}",
    "ag.einsum('...i,...i->...', {a}, {b})",
    "{a}.at[..., 0].set(0.5)",
    "ag.real({a}) + ag.imag({a} * 1j)",
    "ag.abs({a} * (1 + 1j))",
    "{a} * 1j",
    "ag.where(ag.isnan({a} / {a}), 0, {a})",
    "{a} * {b}.shape[-1]",
    "ag.ones({b}.shape) + {a}",
    "ag.zeros({b}.shape, dtype={b}.dtype)",
    "{a} + {b}.ndim",
    "{a} * len({b})",
    "{a} if {b}.dtype == ag.float32 else {a} * 2",
    "{a} * (2 if {b}.requires_grad else 3)",
    "{a} * (2 if {a} is {b} else 3)",
    "ag.zeros(s.items[0].shape) + s.items[-1].ndim",
    "{a} * len(s.items)",
    "{a} * sum(v.size for v in s.table.values())",
    "{a} * len(s.table)",
]


def _gradient(w):
    name, a, b = w.fresh(), w.pick(), w.pick()
    inside, _ = w.expression()
    inside = inside.replace(f"{a}", "v") if a[0] in "xv" else f"({inside}) * v"
    text = w.r.choice(_GRADIENTS).format(a=a, b=b, e=inside)
    w.try_([f"{name} = {text}"], name)


_GRADIENTS = [
    "ag.grad(lambda v: ({e}).sum())({a})",
    "ag.grad(lambda v: (v * v * {b}).sum())({a})",
    "ag.grad(lambda v: ag.tanh(v * p).sum())({a})",
    "ag.value_and_grad(lambda v: ({e}).mean())({a})[0]",
    "ag.vjp(lambda v: {e}, {a})[0]",
    "ag.jvp(lambda v: v * v, ({a},), ({a} * 0 + 1,))[1]",
    "ag.vmap(lambda v: v * 2 + v.sum())({a})",
    "ag.vmap(lambda v: {e})({a})",
    "ag.vmap(lambda v, u: v * u, in_axes=(0, None))({a}, {b})",
    "ag.grad(lambda v: ag.grad(lambda u: (u ** 3).sum())(v).sum())({a})",
    "ag.grad(lambda v: inner(v, w).sum())({a})",
    "ag.stop_gradient({a}) * {a}",
    "ag.grad(lambda v: ag.scan(lambda h, x: (h * 0.5 + x.sum(), h), v.sum() * 0, v)[0])({a})",
]


def _train(w):
    """backward(), steps of optimizers, gradients that are left or removed."""
    name, c = w.fresh(), w.pick()
    lines = w.r.choice([
        [f"{name} = (p * {c}).sum()", f"{name}.backward()", "opt.step()", "opt.zero_grad()"],
        [f"{name} = (p * p).sum() + {c}.sum()", f"{name}.backward()"],
        ["opt.zero_grad()", f"{name} = ((p - {c}) ** 2).mean()", f"{name}.backward()", "opt.step()",
         f"{name} = {name}.detach()"],
        [f"{name} = (m(w) ** 2).sum() + {c}.sum() * 0", f"{name}.backward()", "adam.step()", "adam.zero_grad()"],
        [f"q = {c}.detach().clone().requires_grad_()", "(q * q).sum().backward()", f"{name} = q.grad * 2"],
        ["with ag.no_grad():", f"    {name} = p * 0.5", f"    p.assign({name})"],
        ["p.grad = None", f"{name} = p.sum()"],
        [f"{name} = (p * 2 if p.grad is None else p.grad * 0.5) + {c}"],
    ])
    w.try_(lines, name)


def _random(w):
    name, a = w.fresh(), w.pick()
    text = w.r.choice(_RANDOM).format(a=a, k=w.number())
    w.try_([f"{name} = {text}"], name)


_RANDOM = [
    "ag.random.normal((3,)) + {a}",
    "ag.random.uniform({a}.shape) * {a}",
    "ag.random.integers(0, 5, (2,)) + 1",
    "ag.random.permutation(4)",
    "{a}[..., :1] * ag.random.bernoulli(0.5, (2,))",
    "ag.random.dropout({a}.astype('float32'), 0.5)",
    "ag.randn_like({a}.astype('float32'))",
    "ag.nn.functional.dropout({a} * 1.0, 0.5)",
]


def _branch(w):
    c = w.pick(exact=True)
    if c is None:
        return
    name = w.fresh()
    a, e1 = w.expression()
    b, e2 = w.expression()
    r = w.r
    test = r.choice([f"{c}.sum() > {r.randint(-3, 3)}", f"bool(({c} > 0).all())",
                     f"int(ag.count_nonzero({c})) % 2 == 0", f"({c} < 1).any()", f"{c}.sum().item() >= 1",
                     f"k > 1 and {c}.sum() > 0", f"not ({c} == {c}.min() if {c}.size else {c} == 0).any()",
                     "s.mode == 'a'", "s.last is None"])
    lines = [f"if {test}:", f"    {name} = {a}"]
    if r.random() < 0.3:
        d, e3 = w.expression()
        lines += [f"elif {c}.sum() < {r.randint(-2, 2)}:", f"    {name} = {d}"]
        e2 = e2 and e3
    w.try_([*lines, "else:", f"    {name} = {b}"], name, e1 and e2)


def _number(w):
    """Python numbers made of Tensors."""
    c = w.pick(exact=True)
    if c is None:
        return
    name, a = w.fresh(), w.pick()
    r = w.r
    lines = r.choice([
        [f"j = int(ag.count_nonzero({c}))", f"{name} = {a} * j"],
        [f"j = {c}.sum().item()", f"{name} = {a} + j"],
        [f"j = float({c}.sum())", f"{name} = {a} * min(j, 2.0)"],
        [f"j = int(ag.count_nonzero({c})) % 2", f"{name} = [{a}, {a} * 2][j]"],
        [f"j = {c}.shape[-1]", f"{name} = {a} / j"],
        [f"j = bool({c}.sum() > 0)", f"{name} = {a} if j else {a} * 0.5"],
        [f"j = {c}.tolist()", f"{name} = {a} * 2"],
        [f"j = f'{{float({c}.sum()):.2f}}'", f"{name} = {a} + len(j)"],
        [f"j = np.asarray({c}).sum()", f"{name} = {a} * 1"],
    ])
    w.try_(lines, name)


def _loop(w):
    """A loop over numbers or Tensors, or until a Tensor says so."""
    c = w.pick(exact=True)
    if c is None:
        return
    r, name = w.r, w.fresh()
    t, e = name + "t", name + "n"
    kind = r.choice(["static", "count", "count", "halve", "halve", "steps", "rows", "select", "python", "named"])
    head = [f"{name} = {c} * {r.choice(['1', '1.0', '0.5'])}", f"{t} = ag.zeros(())", f"{e} = 0"]
    body = []
    if kind == "static":
        loop = f"for i in range({r.randint(1, 4)}):"
    elif kind == "count":
        loop = f"for i in range(int(ag.count_nonzero({c}) % 5)):"
    elif kind == "named":
        head.append(f"size = (ag.count_nonzero({c}) % 6).item()")
        loop = "for i in range(size):"
    elif kind == "halve":
        tests = [f"abs({name}).sum() > 1", f"({name} * {name}).sum() > 2", f"(abs({name}) > 0.5).any()"]
        loop = f"while {r.choice(tests)}:"
        body = [f"{name} = {name} * 0.5"]
    elif kind == "steps":
        head.append(f"j = ag.asarray({r.choice(['0', '1.0'])})")
        loop = f"while j < {r.choice(['4', f'ag.count_nonzero({c}) % 5', f'3 + ag.count_nonzero({c}) % 3'])}:"
        body = ["j = j + 1"]
    elif kind == "rows":
        loop = f"for row in {c}:"
        body = [f"{t} = {t} * 0.5 + row.sum()"]
    elif kind == "select":
        loop = f"for i in range({c}.shape[0]):"
        body = [f"{t} = {t} * 0.5 + {c}[i].sum()"]
    else:
        loop = f"while {e} < 4 and {name}.sum() < 20:"
        body = [f"{name} = {name} + 1"]
    counted = kind in ("static", "count", "named", "select")
    for _ in range(r.choice([0, 1, 1, 2, 3])):
        body += r.choice([
            [f"{t} = {t} * 0.5 + {name}.sum()"],
            [f"if {t} > {r.randint(-1, 4)}:", f"    {t} = -{t}"],
            [f"if {t} > {r.randint(-1, 4)}:", f"    {t} = {t} - 1", "else:", f"    {t} = {t} * 0.5"],
            [f"if {name}.sum() > {r.randint(2, 8)}:", "    break"],
            [f"if {name}.sum() < {r.randint(-2, 2)}:", "    continue"],
            [f"{t} = {t} + {'i' if counted else e}"],
            [f"{e} += 1"],
            [f"{t} += 1"],
            [f"for l in range({r.randint(1, 3)}):", f"    {t} = {t} * 0.5 + l"],
            [f"while {t} > 3:", f"    {t} = {t} * 0.5"],
            [f"{t} = helper({t} * 0.5)"],
            [f"{t} = {t} * 0.5 + s.scale"],
            [f"{t} = ag.where({t} > 2, {t} - 2, {t})"],
            [f"{t} = {t} * 0.5 + s.h.sum()"],
            [f"s.h = s.h * 0.5 + {t} * 0.125"] if w.touched else [f"{e} += 2"],
            [f"{name} = ag.clip({name} * -1, -4, 4)"] if kind != "python" else [f"{e} += 1"],
            [f"if {t} > 50:", f"    return {t}, {name}"],
            [f"{t}2 = {t} * 0.5", f"{t} = {t}2 + 1"],
            [f"{t} = {t} + ag.grad(lambda v: (v * v).sum())({name}).sum() * 0.125"],
            [f"{t} = {t} * 0.5 + ag.random.integers(0, 3, ())"],
        ])
    if kind == "python" or r.random() < 0.3:
        body.append(f"{e} += 1")
    lines = [*head, loop, *["    " + line for line in body]]
    if r.random() < 0.2:
        lines += ["else:", f"    {t} = {t} + 1"]
    after = r.choice([f"{name} = {name} + {t}", f"{name} = {name} * 2 + {t}", f"{name} = {name} + {t} * {e}",
                      f"{name} = {t}", f"{name} = {name} * 1"])
    w.try_([*lines, after], name, True)


def _grows(w):
    """A list that grows in a loop."""
    c = w.pick(exact=True)
    if c is None:
        return
    name = w.fresh()
    w.try_([f"out, u = [], {c} * 1.0", f"for i in range(int(ag.count_nonzero({c}) % 4) + 1):",
            "    u = u * 0.5 + i", "    out.append(u.sum())", f"{name} = ag.stack(out)"], name, True)


def _explicit(w):
    c = w.pick(exact=True)
    if c is None:
        return
    name, a = w.fresh(), w.pick()
    lines = w.r.choice([
        [f"{name} = ag.cond({c}.sum() > 0, lambda v: v + 1, lambda v: v * 2, {a})"],
        [f"{name} = ag.cond(({c} > 1).any(), lambda: {a} * w.sum(), lambda: {a} - k)"],
        [f"{name}, u = ag.cond({c}.sum() < 1, lambda v: (v * 0.5, v.sum()), lambda v: (v, v.sum() * 2), {a})",
         f"{name} = {name} + u"],
        [f"{name} = ag.while_loop(lambda v: abs(v).sum() > 1, lambda v: v * 0.5, {c} * 1.0)"],
        [f"{name}, u = ag.while_loop(lambda v, u: u < 4, lambda v, u: (v * 0.5 + w.sum(), u + 1), "
         f"({a} * 1.0, ag.asarray(0)))"],
        [f"u = ag.while_loop(lambda d: d['n'] < 3, lambda d: {{'n': d['n'] + 1, 'v': d['v'] * 0.5 + {c}.sum()}}, "
         f"{{'n': ag.asarray(0), 'v': {a} * 1.0}})", f"{name} = u['v']"],
        [f"u, {name} = ag.scan(lambda h, x: (h * 0.5 + x, h * x), {c}[0] * 0.0, {c} * 1.0)", f"{name} = {name} + u"],
        [f"u, {name} = ag.scan(lambda h, x: (h * 0.5 + x.sum(), {{'y': h}}), ag.zeros(()), {a} * 1.0, reverse=True)",
         f"{name} = {name}['y'] + u"],
        [f"u, _ = ag.scan(lambda h, _: (h * 0.5 + {a}.sum(), None), ag.zeros(()), None, length=3)", f"{name} = u * 1"],
        [f"{name}, _ = ag.scan(lambda h, x: (ag.cond(x.sum() > 0, lambda: h + 1, lambda: h * 0.5), None), "
         f"ag.zeros(()), {c})"],
        [f"{name} = ag.grad(lambda v: ag.while_loop(lambda u: abs(u).sum() > 1, lambda u: u * 0.5, v).sum())"
         f"({c} * 1.0)"],
    ])
    w.try_(lines, name)


def _mutate(w):
    """A Tensor made here, or an argument, changes; what else looks at it must not."""
    r, name = w.r, w.fresh()
    a, b = w.pick(), w.pick()
    text, exact = w.expression()
    k = w.number()
    lines = r.choice([
        [f"{name} = ({text}) * 1", f"{name} += {k}", f"{name}[{r.choice(['0', '...', '-1'])}] = 2"],
        [f"{name} = {a} * 1", f"u = {name}", "u += 1", f"{name} = {name} + u"],
        [f"u = {a} * 1", f"{name} = u[0]", "u += 1", f"{name} = {name} + u"],
        [f"u = {a} * 1", f"{name} = u.reshape(-1)", f"{name}[0] = 3", f"{name} = {name}.sum() + u"],
        [f"{name} = {a}.clone()", f"{name}[{name} > 0] = 0"],
        [f"{name} = {a} * 1.0", f"{name}[..., 0] += {k}", f"{name}[..., 0] *= 2"],
        [f"{name} = {a} + 0", f"{name} -= {b}"],
        [f"{name} = {a} * 1", f"{name}[0], u = {name}[-1], {name} * 1", f"{name} = {name} + u"],
        [f"u = [{a}, {b}]", "u[0] = u[0] * 2", f"{name} = u[0] + u[1]"],
        [f"u = {{'a': {a}}}", f"u['b'] = {b}", "u['a'] = u['a'] * 0.5", f"{name} = u['a'] + u['b']"],
        [f"{name} = {a} * 1", f"u = {name}[..., 0]", "u *= 2", f"{name} = {name} + u.sum()"],
        [f"u = Pair({a}, {b})", "u.a = u.a * 2", f"{name} = u.a - u.b"],
    ])
    w.try_(lines, name, exact and lines[0].startswith(f"{name} = ({text})"))


def _argument(w):
    a = w.pick()
    if a.startswith("x"):
        w.try_(w.r.choice([
            [f"{a} *= {w.r.choice(['2', '1'])}", f"{a}[...] = {a} - 1"],
            [f"{a}[0] = {a}[-1]"],
            [f"{a}.assign({a} * 0.5)"],
            [f"{a} = {a} + 1"],
            [f"{a}, u = {a} * 2, {a}", f"{a} = {a} + u"],
            [f"q['u'] = {a} * 2", f"{a} = {a} + q['u']"],
            ["q['v'][0] += 1", f"{a} = {a} + q['v'][0]"],
        ]), a, w.exact[a])


def _state(w):
    """State outside changes."""
    if not w.touched:
        return
    c, name = w.pick(), w.fresh()
    v = f"{c}.sum().astype('float32') * 0.125"
    lines = w.r.choice([
        [f"w.assign(w * 0.5 + {v})", f"{name} = w + {c}"],
        [f"s.h = s.h * 0.5 + {v}", f"{name} = s.h * 2"],
        [f"{name} = s.h + {c}", f"s.h = ag.zeros(3) + {v}"],
        [f"s.h += {v}", f"{name} = s.h * 1"],
        [f"s.h[1] = {v}", f"{name} = s.h * 1"],
        [f"s.items[1] = s.items[1] * 0.5 + {v}", f"{name} = s.items[1] + s.items[0].sum()"],
        ["s.items[0], s.items[1] = s.items[1], s.items[0]", f"{name} = s.items[0] * 2"],
        [f"s.table['a'] = s.table['a'] * 0.5 - {v}", f"{name} = s.table['a'] + 1"],
        [f"s.pair = (s.pair[0] * 0.5 + {v}, s.pair[1] * 0.5 + 1)", f"{name} = s.pair[0] + s.pair[1]"],
        [f"s.last = {v} if s.last is None else s.last * 0.5 + {v}", f"{name} = s.last * 2"],
        [f"{name} = ag.zeros(()) if s.last is None else s.last", f"s.last = {v}"],
        ["global g", f"g = g * 0.5 + {v}", f"{name} = g + {c}"],
        ["global g", f"{name} = g * 1", f"g = {v}"],
        ["global w", f"w = w * 0.5 + {v}", f"{name} = w * 2"],
        ["s.count += 1", f"{name} = {c} * s.count"],
        [f"s.items.append({v})", f"{name} = s.items[-1] * 2", "s.items.pop()"],
        [f"s.inner.a = s.inner.a * 0.5 + {v}", f"{name} = s.inner.a * 1"],
        [f"s.inner = Pair({v}, s.inner.b)", f"{name} = s.inner.a * 1"],
        [f"s.h, g2 = {v} + w, s.h", f"{name} = g2 * 1"],
        [f"{name} = s.update({c})"],
        ["s.table['b'], s.h = s.h.sum(), s.h * 0.5", f"{name} = s.table['b'] * 1"],
        ["m.weight.assign(m.weight * 0.5)", f"{name} = m(w) * 1"],
        ["s.h = s.items[1]", f"{name} = s.h + 1", "s.h = s.h + 0"],
    ])
    w.try_(lines, name)


def _effect(w):
    """Staged effects, and what makes a function run eagerly."""
    name, c = w.fresh(), w.pick()
    lines = w.r.choice([
        [f"ag.callback(lambda v: log.append(v.tolist()), {c})", f"{name} = {c} * 2"],
        [f"ag.callback(lambda v, u: log.append((v.shape, u.tolist())), {c}, {c}.sum())", f"{name} = {c} + 1"],
        [f"ag.assert_({c}.sum() < 1000)", f"{name} = {c} * 1"],
        [f"ag.assert_(ag.count_nonzero({c}) < 5, 'too many')", f"{name} = {c} * 1"],
        [f"log.append({c}.ndim)", f"{name} = {c} * 1"],
        [f"assert ({c} == {c}).all()", f"{name} = {c} * 1"],
        [f"assert ag.count_nonzero({c}) < 6", f"{name} = {c} * 1"],
    ])
    w.try_(lines, name)


def _caught(w):
    name, c = w.fresh(), w.pick(exact=True)
    if c is None:
        return
    lines = w.r.choice([
        ["try:", f"    {name} = {c}[2]", "except IndexError:", f"    {name} = {c} * 2"],
        ["try:", f"    {name} = {c} @ w", "except Exception:", f"    {name} = {c} + 1"],
        ["try:", f"    if {c}.sum() > 0:", "        raise ValueError", f"    {name} = {c} * 2", "except ValueError:",
         f"    {name} = {c} - 1"],
        ["try:", f"    {name} = {c} * 2", "finally:", f"    {name}f = {c} + 1", f"{name} = {name} + {name}f"],
        ["with ag.no_grad():", f"    {name} = {c} * 2 + w.sum()"],
        ["with ag.no_grad():", f"    {name} = p * {c}.sum()", f"{name} = {name} + p"],
        ["with ag.enable_grad():", f"    {name} = p * {c}.sum()"],
    ])
    w.try_(lines, name)


def _closure(w):
    name, c = w.fresh(), w.pick()
    text, _ = w.expression()
    k = w.number()
    lines = w.r.choice([
        [f"def local(v, c={k}):", f"    return v * c + {c}.sum()", f"{name} = local({c}) + local({c}, 2)"],
        [f"u = {c} * 1", "def local():", "    nonlocal u", "    u = u * 0.5", "    return u + 1",
         f"{name} = local() + local()"],
        [f"parts = [{c} * j for j in range(3)]", f"{name} = parts[0] + parts[2]"],
        ["def each():", "    for j in range(2):", f"        yield {c} * j", f"{name} = sum(each())"],
        [f"u = {{n: v for n, v in zip('ab', ({c}, {text}))}}", f"{name} = u['a'] + u['b']"],
        [f"*rest, u = ({c}, {c} * 2, {c} * 3)", f"{name} = rest[0] + u"],
        [f"{name} = {c}", f"for u in ({c}, {c}):", f"    {name} = {name} * 0.5 + u"],
        ["class Local:", "    def __init__(self, v): self.v = v", "    def __call__(self): return self.v * 2",
         f"{name} = Local({c})()"],
    ])
    w.try_(lines, name)


_STATEMENTS = [(_assign, 10), (_call, 4), (_gradient, 2), (_train, 2), (_random, 1.5), (_branch, 2.5), (_number, 1.5),
               (_loop, 5), (_grows, 0.7), (_explicit, 2.5), (_mutate, 3), (_argument, 1.5), (_state, 5), (_effect, 1),
               (_caught, 1), (_closure, 1.5)]
