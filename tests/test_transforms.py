"""Functions from functions: grad, vjp, jvp, linearize, vmap, jacobian, hessian, hvp, rules of your own, checkpoint.

Derivatives are compared with formulas, with differences, and with each other, in compositions of every order.
"""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

import agog as ag
from agog import errors, tree

RNG = np.random.default_rng(0)


def T(*values, grad=False):
    return ag.asarray(np.array(values, np.float64), requires_grad=grad)


def R(*shape):
    return ag.asarray(RNG.normal(size=shape))


def near(a, b, tol=1e-9):
    """The Tensors in `a` are those, or the lists of numbers, in `b`."""
    if isinstance(a, ag.Tensor):
        b = np.asarray(b)
        assert a.shape == b.shape, (a, b)
        np.testing.assert_allclose(np.asarray(a), b, rtol=tol, atol=tol)
        return
    if a is None:
        assert b is None
        return
    assert len(a) == len(b)
    for x, y in ((a[k], b[k]) for k in a) if isinstance(a, dict) else zip(a, b):
        near(x, y, tol)


def slope(f, x, eps=1e-6):
    """The gradient of a scalar function by differences."""
    x = np.array(x, np.float64)
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        d = np.zeros_like(x)
        d[i] = eps
        out[i] = (f(ag.asarray(x + d)).item() - f(ag.asarray(x - d)).item()) / (2 * eps)
    return out


def cube(x):
    return (x**3).sum()


def mlp(params, x):
    for w, b in params[:-1]:
        x = ag.tanh(x @ w + b)
    w, b = params[-1]
    return x @ w + b


PARAMS = [(R(3, 4), R(4)), (R(4, 2), R(2))]


# --------------------------------------------------------------------------------------------------------------- grad
def test_grad_and_value_and_grad():
    x = T(1, 2, 3)
    near(ag.grad(cube)(x), 3 * x * x)
    value, g = ag.value_and_grad(cube)(x)
    assert value.item() == 36 and g.tolist() == [3, 12, 27]
    assert not value.requires_grad and not g.requires_grad and x.grad is None and not x.requires_grad


def test_grad_by_several_arguments():
    f = lambda a, b, c: (a * b).sum() * c
    a, b = T(1, 2), T(3, 4)
    near(ag.grad(f)(a, b, 2.0), b * 2)
    near(ag.grad(f, 1)(a, b, 2.0), a * 2)
    near(ag.grad(f, -1)(a, b, 2.0), 11.0)
    near(ag.grad(f, (0, 2))(a, b, T(2)[0]), (b * 2, ag.asarray(11.0, dtype="float64")))
    assert isinstance(ag.grad(f, (0,))(a, b, 2.0), tuple)


def test_grad_of_pytrees():
    Point = collections.namedtuple("Point", "x y")

    @dataclasses.dataclass
    class Pair:
        left: object
        right: object

    p = {"a": T(1, 2), "b": [T(3), (T(4), None)], "p": Point(T(5), T(6)), "d": Pair(T(7), T(8))}
    total = lambda p: sum((i + 1) * (v * v).sum() for i, v in enumerate(tree.leaves(p)))
    g = ag.grad(total)(p)
    assert tree.flatten(g)[1] == tree.flatten(p)[1] and isinstance(g["p"], Point) and isinstance(g["d"], Pair)
    near(tree.leaves(g), [2 * (i + 1) * v for i, v in enumerate(tree.leaves(p))])


def test_containers_whose_construction_runs_code_of_its_own():
    """A container that is made again holds what it held: its constructor has run once, and does not run on that."""
    @dataclasses.dataclass
    class Angle:
        value: object
        unit: str = "rad"

        def __post_init__(self):
            self.value = self.value * 2

    @dataclasses.dataclass
    class State:
        h: object
        steps: object = dataclasses.field(init=False, default=None)

    class Twice(collections.namedtuple("Twice", "a b")):
        def __new__(cls, a, b):
            return super().__new__(cls, a * 2, b)

    class Renamed(collections.OrderedDict):
        def __setitem__(self, name, value):
            super().__setitem__(name.upper(), value)

    angle = Angle(T(1, 3))
    near(tree.map(lambda v: v if isinstance(v, str) else v + 1, angle).value, T(3, 7))
    near(ag.grad(lambda p: (p.a * p.a).sum())(Twice(T(1, 3), T(0, 0))).a, T(4, 12))
    near(ag.vmap(lambda a: a.value * 1)(Angle(T(1, 3), unit=T(0, 0))), T(2, 6))

    def body(s, _):
        out = State(s.h * 0.5)
        out.steps = s.steps + 1
        return out, None

    start = State(T(8))
    start.steps = T(0)
    end, _ = ag.scan(body, start, None, length=3)
    assert end.h.tolist() == [1] and end.steps.tolist() == [3]
    counted = tree.map(lambda v: v * 3, collections.Counter("aab"))
    assert counted == {"a": 6, "b": 3} and type(counted) is collections.Counter
    listed = tree.map(lambda v: v * 3, collections.defaultdict(list, a=1))
    assert listed["a"] == 3 and listed["new"] == []
    assert list(tree.map(lambda v: v + 1, Renamed(a=1, b=2)).items()) == [("A", 2), ("B", 3)]
    assert tree.paths(collections.defaultdict(list, a=1, b=2)) == [("a", 1), ("b", 2)]


def test_keyword_arguments_are_constants():
    f = lambda x, *, scale=1.0: (x * scale).sum()
    assert ag.grad(f)(T(1, 2), scale=3.0).tolist() == [3, 3]


def test_has_aux():
    f = lambda x: (cube(x), {"twice": x * 2, "name": "f"})
    (value, aux), g = ag.value_and_grad(f, has_aux=True)(T(1, 2))
    assert value.item() == 9 and aux["twice"].tolist() == [2, 4] and aux["name"] == "f" and g.tolist() == [3, 12]
    assert not aux["twice"].requires_grad
    g, aux = ag.grad(f, has_aux=True)(T(1, 2))
    assert g.tolist() == [3, 12]
    with pytest.raises(errors.GradientError, match="aux"):
        ag.grad(cube, has_aux=True)(T(1))


def test_arguments_that_are_arrays_and_numbers():
    assert ag.grad(lambda x: x * x)(3.0).item() == 6
    assert ag.grad(cube)(np.array([1.0, 2.0])).tolist() == [3, 12]


def test_an_unused_argument_has_gradient_zero():
    near(ag.grad(lambda x, y: cube(x), 1)(T(1), T(2, 3)), T(0, 0))
    near(ag.grad(lambda x: ag.asarray(2.0))(T(1, 2)), T(0, 0))


def test_gradients_do_not_touch_leaves():
    w = T(2, 3, grad=True)
    g = ag.grad(lambda x: (x * w).sum())(T(1, 1))
    assert g.tolist() == [2, 3] and w.grad is None


def test_closures_over_tensors_that_require_grad():
    w = T(2, 3, grad=True)
    g = ag.grad(lambda x: (x * x * w).sum())(T(1, 2))
    (g * g).sum().backward()  # (2 x w)^2: d/dw = 8 x^2 w
    near(w.grad, [16, 96])
    w.grad = None
    value, _ = ag.value_and_grad(lambda x: (x * w).sum())(T(1, 2))
    value.backward()
    near(w.grad, [1, 2])
    w.grad = None
    ag.jvp(lambda x: (x * x * w).sum(), (T(1, 2),), (T(1, 1),))[1].backward()
    near(w.grad, [2, 4])
    w.grad = None
    ag.vmap(lambda x: x * w)(R(4, 2) * 0 + 1).sum().backward()
    near(w.grad, [4, 4])


def test_grad_of_an_argument_that_requires_grad():
    x = T(1, 2, grad=True)
    g = ag.grad(cube)(x)
    assert g.requires_grad and x.grad is None
    g.sum().backward()
    near(x.grad, [6, 12])


def test_grad_inside_no_grad():
    with ag.no_grad():
        assert ag.grad(cube)(T(1, 2)).tolist() == [3, 12]
        near(ag.hessian(cube)(T(1, 2)), np.diag([6.0, 12.0]))
        near(ag.jvp(cube, (T(1, 2),), (T(1, 1),))[1], 15)


def test_no_grad_inside_grad():
    def f(x):
        with ag.no_grad():
            y = x * x
        return (x * y).sum()

    assert ag.grad(f)(T(3)).tolist() == [9]


def test_complex_gradients():
    z = ag.asarray(np.array([1 + 2j, -3j]))
    near(ag.grad(lambda z: (ag.abs(z) ** 2).sum())(z), 2 * z)
    w = ag.asarray(np.array([2 - 1j, 1j]))
    _, pull = ag.vjp(lambda z: z * w, z)
    near(pull(ag.ones_like(z))[0], ag.conj(w))
    near(ag.jvp(lambda z: z * z, (z,), (w,))[1], 2 * z * w)
    near(ag.jvp(lambda z: ag.abs(z), (z,), (w,))[1], ag.real(ag.conj(z) * w) / ag.abs(z))


def test_half_precision():
    for dtype in ("float16", "bfloat16"):
        g = ag.grad(lambda x: (x * x).sum())(ag.asarray([1.0, 2.0], dtype=dtype))
        assert g.dtype == dtype and g.astype("float32").tolist() == [2, 4]


def test_control_flow_by_values():
    def f(x):
        while x < 10:
            x = x * 2 if x > 0 else x + 1
        return x

    assert ag.grad(f)(3.0).item() == 4 and ag.jvp(f, (T(3)[0],), (T(1)[0],))[1].item() == 4


# ------------------------------------------------------------------------------------------------------ vjp, jvp
def test_vjp():
    x, y = T(1, 2), T(3)
    out, pull = ag.vjp(lambda x, y: {"p": x * y, "s": x.sum()}, x, y)
    near(out, {"p": [3, 6], "s": 3})
    near(pull({"p": T(1, 10), "s": T(100)[0]}), ([103, 130], [21]))
    near(pull({"p": T(0, 0), "s": 1.0}), ([1, 1], [0]))  # any number of times
    out, pull, aux = ag.vjp(lambda x: (x * 2, "more"), x, has_aux=True)
    assert aux == "more" and pull(T(1, 1))[0].tolist() == [2, 2]


def test_jvp():
    x, t = T(1, 2), T(1, -1)
    y, dy = ag.jvp(lambda x: {"c": x**3, "k": T(5)}, (x,), (t,))
    near(y, {"c": [1, 8], "k": [5]})
    near(dy, {"c": [3, -12], "k": [0]})
    y, dy, aux = ag.jvp(lambda x: (x * x, x), (x,), (t,), has_aux=True)
    near(aux, x)
    near(ag.jvp(lambda p: p["a"] * p["b"], ({"a": x, "b": T(3, 4)},), ({"a": t, "b": T(0, 1)},))[1],
         t * T(3, 4) + x * T(0, 1))


def test_jvp_adds_no_zeros():
    """An operand without a tangent has none, instead of zeros that are added to the other's."""
    ran = []
    x, c = R(3, 4), R(4)
    for f in (lambda x: x + c, lambda x: c - x, lambda x: ag.where(x > 0, x, c)):
        remove = ag.config.add_op_hook(lambda op, ins, outs: ran.append(op.name))
        try:
            dy = ag.jvp(f, (x,), (x,))[1]
        finally:
            remove()
        near(dy, np.asarray((f(x * (1 + 1e-6)) - f(x * (1 - 1e-6))) / 2e-6), 1e-6)
    assert not {"zeros", "zeros_like"} & {*ran}


@pytest.mark.parametrize("number", [2, 3.5, True, -0.0, 1e300, -10**400, 1j], ids=lambda n: str(n)[:9])
@pytest.mark.parametrize("f", [lambda v, n: v * n, lambda v, n: n - v, lambda v, n: v**2 + n, lambda v, n: v == n])
def test_numbers_inside_transformations(f, number):
    """They are weak, as outside."""
    x = ag.asarray([1.0, 2.0], dtype="float32")
    try:
        want = ag.stack([f(v, number) for v in x])
    except errors.DTypeError:
        with pytest.raises(errors.DTypeError):
            ag.vmap(lambda v: f(v, number))(x)
        return
    got = ag.vmap(lambda v: f(v, number))(x)
    assert got.dtype == want.dtype and np.array_equal(got, want)
    y, dy = ag.jvp(lambda v: f(v, number), (x,), (x,))
    assert y.dtype == want.dtype and np.array_equal(y, want) and (dy.dtype == want.dtype)


def test_arguments_are_not_changed_by_what_happens_in_place_to_what_was_given():
    for change in (lambda x: x.__iadd__(10), lambda x: x.__setitem__(0, 10.0)):
        for transformed in (lambda f, x: ag.vmap(f)(x), lambda f, x: ag.jvp(f, (x,), (x * 1,))[0],
                            lambda f, x: ag.jvp(lambda t: f(x * 1), (x * 1,), (x,))[0],
                            lambda f, x: ag.vjp(f, x)[0]):
            x = T(1, 2) * 1

            def f(v):
                change(x)  # noqa: B023
                return v * 2

            near(transformed(f, x), [2, 4])
    x = T(3, 4) * 1
    near(ag.jvp(lambda v: (x.__iadd__(10), v * v)[1], (T(1, 1),), (x,))[1], [6, 8])


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobians_by_several_arguments_and_pytrees(mode):
    def f(p, k, v):
        return {"y": p["w"] @ v * k, "s": [(p["b"] ** 2).sum() * v.sum()], "n": v.argmax()}

    p, v = {"w": R(2, 3), "b": R(4)}, R(3)
    by = ag.jacobian(f, (0, 2), mode=mode)(p, 2.0, v)  # f's structure, and in it that of the arguments
    near(by["y"][0], {"w": 2 * np.einsum("ik,j->ikj", np.eye(2), np.asarray(v)), "b": np.zeros((2, 4))})
    near(by["s"][0][0], {"w": np.zeros((2, 3)), "b": 2 * p["b"] * v.sum()})
    near(by["y"][1], 2 * p["w"])
    near(by["s"][0][1], np.full(3, (p["b"] ** 2).sum().item()))
    near(by["n"][1], [0, 0, 0])
    near(ag.jacobian(f, -1, mode=mode)(p, 2.0, v), {"y": by["y"][1], "s": [by["s"][0][1]], "n": by["n"][1]})
    near(ag.jacobian(f, (2,), mode=mode)(p, 2.0, v)["s"], [(by["s"][0][1],)])
    assert ag.jacobian(f, (), mode=mode)(p, 2.0, v) == {"y": (), "s": [()], "n": ()}
    each = ag.vmap(ag.jacobian(f, (0, 2), mode=mode), in_axes=({"w": None, "b": 0}, None, None))(
        {"w": p["w"], "b": ag.stack([p["b"], p["b"] * 3])}, 2.0, v)
    near(each["s"][0][0]["b"][1], 6 * p["b"] * v.sum())


def test_hessians_by_several_arguments_and_pytrees():
    f = lambda p, v: (p["w"] @ v).sum() ** 2 + (p["b"] ** 3).sum()
    p, v = {"w": R(2, 3), "b": R(4)}, R(3)
    h = ag.hessian(f, (0, 1))(p, v)
    flat = lambda x: f({"w": ag.reshape(x[:6], (2, 3)), "b": x[6:10]}, x[10:])
    want = ag.hessian(flat)(ag.concat([p["w"].reshape(6), p["b"], v]))
    near(h[0]["w"][0]["w"].reshape(6, 6), want[:6, :6])
    near(h[0]["b"][0]["b"], want[6:10, 6:10])
    near(h[0]["w"][1].reshape(6, 3), want[:6, 10:])
    near(h[1][0]["w"].reshape(3, 6), want[10:, :6])
    near(h[1][1], want[10:, 10:])


def test_jacobians_of_complex_functions():
    z, w = ag.asarray(np.array([1 + 2j, -3j])), ag.asarray(np.array([[2 - 1j, 1j], [3.0, 1 + 1j]]))
    f = lambda z: (w @ z) ** 2
    for mode in ("reverse", "forward"):
        near(ag.jacobian(f, mode=mode)(z), 2 * (w @ z)[:, None] * w)
    near(ag.jacobian(lambda x: x * w, mode="forward")(T(2.0))[..., 0], w)
    near(ag.jacobian(lambda z: ag.abs(z) ** 2)(z), np.diag(2 * np.asarray(z)))  # gradients, which point uphill


def test_linearize_of_outputs_without_a_derivative():
    x = T(1, 3, 2)
    out, push = ag.linearize(lambda x: {"i": x.argmax(), "y": x**2}, x)
    dy = push(T(1, 1, 1))
    near(dy, {"i": 0, "y": 2 * x})
    assert dy["i"].dtype == ag.int64 and not dy["y"].requires_grad


def test_checkpoint_of_more_than_tensors():
    x = T(1, 2, grad=True)
    for f in (lambda x: (x * x, 3, "s", None), lambda x: {"n": 1, "y": x * x, "z": x * 3}):
        out = ag.checkpoint(f)(x)
        y = out[0] if isinstance(out, tuple) else out["y"] + out["z"] * 0
        y.sum().backward()
        near(x.grad, 2 * x.detach())
        x.grad = None
    assert ag.checkpoint(lambda x: (3, "s"))(x) == (3, "s")


def test_what_vmap_shows():
    seen = []
    ag.vmap(lambda v: (seen.append(repr(v)), v)[1])(T(1, 2))
    assert "2 examples" in seen[0] and "shape=()" in seen[0] and "[1., 2.]" in seen[0]
    ag.vmap(ag.vmap(lambda v: (seen.append(f"{v}"), v)[1]))(R(3, 2))
    assert "2 examples" in seen[1] and "3 examples" in seen[1]


def test_linearize():
    runs = []

    def f(x, y):
        runs.append(1)
        return ag.sin(x) * y

    out, push = ag.linearize(f, T(1, 2), T(3, 4))
    near(out, np.sin([1, 2]) * [3, 4])
    for t, u in ((T(1, 0), T(0, 1)), (T(1, 1), T(0, 0)), (T(0, 0), T(2, 3))):
        near(push(t, u), np.cos([1, 2]) * [3, 4] * np.asarray(t) + np.sin([1, 2]) * np.asarray(u))
    assert len(runs) == 1
    near(ag.vmap(push)(ag.eye(2, dtype="float64"), ag.zeros(2, 2, dtype="float64")),
         np.diag(np.cos([1, 2]) * [3, 4]))


def test_forward_and_reverse_are_transposes():
    f = lambda p: mlp(p, T([1.0, -1.0, 0.5]))
    t = tree.map(lambda v: R(*v.shape), PARAMS)
    _, dy = ag.jvp(f, (PARAMS,), (t,))
    out, pull = ag.vjp(f, PARAMS)
    u = R(*out.shape)
    back = pull(u)[0]
    near((dy * u).sum(), sum((a * b).sum().item() for a, b in zip(tree.leaves(back), tree.leaves(t))))
    near(ag.linearize(f, PARAMS)[1](t), dy)


# --------------------------------------------------------------------------------------------------------------- vmap
def test_vmap_axes():
    x, y = R(4, 3), R(3, 4)
    dot = lambda a, b: (a * b).sum()
    near(ag.vmap(dot, in_axes=(0, 1))(x, y), (x * y.T).sum(axis=1))
    near(ag.vmap(dot, in_axes=(0, -1))(x, y), (x * y.T).sum(axis=1))
    near(ag.vmap(dot, in_axes=(0, None))(x, y[:, 0]), x @ y[:, 0])
    near(ag.vmap(lambda a: ag.outer(a, a), out_axes=2)(x), ag.permute_dims(x[:, :, None] * x[:, None, :], (1, 2, 0)))
    near(ag.vmap(lambda a: ag.outer(a, a), out_axes=-1)(x), ag.permute_dims(x[:, :, None] * x[:, None, :], (1, 2, 0)))
    near(ag.vmap(lambda a: (a, T(7), a.sum()), out_axes=(1, None, 0))(x), (x.T, T(7), x.sum(axis=1)))


def test_vmap_of_pytrees():
    batch = {"x": R(5, 3), "n": [R(3, 5), R(2)]}
    f = lambda b, k: {"a": b["x"] @ b["n"][0] * k, "b": b["n"][1]}
    out = ag.vmap(f, in_axes=({"x": 0, "n": [1, None]}, None), out_axes={"a": 0, "b": None})(batch, 2.0)
    near(out, {"a": ag.vecdot(batch["x"], batch["n"][0].T) * 2, "b": batch["n"][1]})


def test_nested_vmap():
    x, y = R(2, 3), R(4, 3)
    gram = ag.vmap(ag.vmap(lambda a, b: a @ b, in_axes=(None, 0)), in_axes=(0, None))(x, y)
    near(gram, x @ y.T)
    near(ag.vmap(ag.vmap(ag.vmap(lambda v: v * 2)))(R(2, 3, 4) * 0 + 1), np.full((2, 3, 4), 2.0))
    near(ag.vmap(ag.vmap(lambda v: v.sum(), in_axes=1), in_axes=2)(x3 := R(2, 3, 4)), x3.sum(axis=0).T)


def test_vmap_of_a_function_that_ignores_its_argument():
    near(ag.vmap(lambda x: T(1, 2))(R(3)), [[1, 2]] * 3)


def test_random_numbers_inside_vmap():
    keys = ag.random.split(ag.random.key(0), 5)
    draw = lambda k, m: ag.random.normal((3,), key=k) + m
    out = ag.vmap(draw)(keys, ag.arange(5, dtype="float32"))
    for i in range(5):
        near(out[i], draw(keys[i], float(i)), 1e-6)
    assert len({tuple(row) for row in out.tolist()}) == 5
    same = ag.vmap(lambda x: ag.random.uniform((2,), key=ag.random.key(1)) + x)(ag.zeros(3))
    assert same[0].tolist() == same[2].tolist()
    drop = ag.vmap(lambda x, k: ag.random.dropout(x, 0.5, key=k))(ag.ones(4, 8), ag.random.split(ag.random.key(2), 4))
    assert set(drop.reshape(-1).tolist()) == {0.0, 2.0}


def test_random_numbers_differ_between_the_examples():
    ag.random.seed(0)
    draws = ag.vmap(lambda x: ag.random.normal((2,)) + x * 0)(ag.zeros(4, 1))
    assert len({tuple(row) for row in draws.tolist()}) == 4
    nested = ag.vmap(ag.vmap(lambda x: ag.random.uniform(()) + x))(ag.zeros(3, 4))
    assert len(set(nested.reshape(-1).tolist())) == 12
    g = ag.vmap(ag.grad(lambda x: ag.random.dropout(x, 0.5).sum()))(ag.ones(4, 16))
    assert set(g.reshape(-1).tolist()) == {0.0, 2.0} and g[0].tolist() != g[1].tolist()
    ag.random.seed(0)
    assert draws.tolist() == ag.vmap(lambda x: ag.random.normal((2,)) + x * 0)(ag.zeros(4, 1)).tolist()
    rates = ag.asarray([0.5, 4.0, 9.0])
    for draw in (ag.random.gamma, ag.random.poisson):
        assert ag.vmap(draw)(rates).shape == (3,)
        with pytest.raises(errors.ArgumentError, match="negative"):
            ag.vmap(draw)(-rates)
    with pytest.raises(KeyError):
        ag.vmap(lambda x: {}[1])(rates)
    assert ag.random.normal((2,)).shape == (2,)  # what failed left no batch behind


def test_modules_by_functional_call():
    call = ag.nn.utils.functional_call
    net = ag.nn.Sequential(ag.nn.Linear(3, 4), ag.nn.Tanh(), ag.nn.Linear(4, 2))
    x, y = R(8, 3).astype("float32"), R(8, 2).astype("float32")
    params = {name: p.detach() for name, p in net.named_parameters()}
    loss = lambda p, x, y: ((call(net, p, x) - y) ** 2).sum()
    each = ag.vmap(ag.grad(loss), in_axes=(None, 0, 0))(params, x, y)
    loss(dict(net.named_parameters()), x, y).backward()
    for name, p in net.named_parameters():
        near(each[name].sum(axis=0), p.grad, 1e-5)
    nets = [ag.nn.Linear(3, 2) for _ in range(4)]
    stacked = tree.map(lambda *ps: ag.stack([p.detach() for p in ps]), *[dict(n.named_parameters()) for n in nets])
    out = ag.vmap(lambda p, x: call(nets[0], p, x), in_axes=(0, None))(stacked, x)
    near(out, ag.stack([n(x) for n in nets]).detach(), 1e-6)


def test_empty_batches():
    assert ag.vmap(lambda x: x * 2)(ag.zeros(0, 3)).shape == (0, 3)
    assert ag.vmap(ag.linalg.inv)(ag.zeros(0, 3, 3)).shape == (0, 3, 3)


@pytest.mark.filterwarnings("ignore::agog.errors.StagingWarning")  # rules of one's own are run eagerly, and it says so
def test_staged_functions_in_transformations_and_the_other_way_round():
    f = lambda x: (ag.sin(x) * x * x).sum() + own_cube(x).sum() + own_sine(x).sum()
    x, v, staged_f, staged_grad = T(0.3, -0.7), T(1, 2), ag.function(f), ag.function(ag.grad(f))
    pairs = [
        (ag.grad(ag.function(f)), ag.grad(f)), (ag.function(ag.grad(f)), ag.grad(f)),
        (ag.function(ag.hessian(f)), ag.hessian(f)), (ag.hessian(ag.function(f)), ag.hessian(f)),
        (lambda x: ag.jvp(staged_f, (x,), (v,))[1], lambda x: ag.jvp(f, (x,), (v,))[1]),
        (lambda x: ag.vmap(staged_grad)(x[:, None]), lambda x: ag.vmap(ag.grad(f))(x[:, None])),
        (ag.function(lambda x: ag.vmap(ag.grad(f))(x[:, None])), lambda x: ag.vmap(ag.grad(f))(x[:, None])),
    ]
    for staged, eager in pairs:
        for _ in range(3):
            near(staged(x), eager(x), 1e-10)


def test_vmap_of_rows_of_every_kind():
    x = R(5, 3, 3)
    spd = lambda m: m @ m.mT + 3 * ag.eye(3, dtype="float64")
    fs = [
        lambda m: ag.linalg.inv(spd(m)), lambda m: ag.linalg.cholesky(spd(m)), lambda m: ag.linalg.eigvalsh(spd(m)),
        lambda m: ag.softmax(m, axis=-1), lambda m: ag.sort(m, axis=0), lambda m: ag.cumulative_sum(m, axis=1),
        lambda m: m[1:, ::2], lambda m: m.at[0].set(1.0), lambda m: ag.where(m > 0, m, 0), lambda m: m.reshape(9)[::2],
        lambda m: ag.einsum("ij,kj->ik", m, m), lambda m: ag.concat([m, m * 2], axis=1), lambda m: ag.stack([m, m]),
        lambda m: ag.take(m, ag.asarray([2, 0]), axis=1), lambda m: m.max(axis=0), lambda m: ag.argmax(m, axis=1),
        lambda m: ag.logsumexp(m, axis=0), lambda m: ag.roll(m, 1, axis=0), lambda m: ag.flip(m, axis=1),
        lambda m: ag.linalg.norm(m[0]), lambda m: m.var(axis=0), lambda m: ag.tril(m), lambda m: ag.linalg.det(spd(m)),
    ]
    for f in fs:
        near(ag.vmap(f)(x), ag.stack([f(m) for m in x]))


# -------------------------------------------------------------------------------------- jacobian, hessian, products
def test_jacobian_both_ways():
    w = R(4, 3)
    f = lambda x: ag.tanh(w @ x)
    x = R(3)
    want = (1 - np.tanh(np.asarray(w @ x)) ** 2)[:, None] * np.asarray(w)
    for j in (ag.jacobian(f), ag.jacobian(f, mode="forward"), ag.jacrev(f), ag.jacfwd(f)):
        near(j(x), want)
    g = lambda a, b: {"outer": ag.outer(a, b), "sum": a.sum()}
    a, b = R(2), R(3)
    for mode in ("reverse", "forward"):
        got = ag.jacobian(g, 1, mode=mode)(a, b)
        near(got, {"outer": np.einsum("i,jk->ijk", np.asarray(a), np.eye(3)), "sum": np.zeros(3)})
    near(ag.jacobian(lambda x: x * 2)(T(1)[0]), 2)
    near(ag.jacobian(lambda x: x * x)(R(2, 2) * 0 + 3), 6 * np.eye(4).reshape(2, 2, 2, 2))


def test_hessian_and_hvp():
    x, v = R(3), R(3)
    f = lambda x: (ag.sin(x) * ag.exp(x[::-1])).sum()
    h = ag.hessian(f)(x)
    for i in range(3):
        differences = slope(lambda y, i=i: ag.grad(f)(y)[i], np.asarray(x))
        np.testing.assert_allclose(np.asarray(h[i]), differences, rtol=1e-6, atol=1e-7)
    near(h, h.T)
    near(ag.hvp(f, (x,), (v,)), h @ v)
    two = lambda a, b: (a * a * b).sum()
    near(ag.hvp(two, (x, v), (v, x)), (2 * v * v + 2 * x * x, 2 * x * v))
    near(ag.hessian(two, 1)(x, v), np.zeros((3, 3)))


@pytest.mark.parametrize("wrap", [lambda f: f, ag.checkpoint, ag.function], ids=["plain", "checkpoint", "staged"])
def test_derivatives_of_what_nothing_further_out_asks_for_require_no_gradient(wrap):
    x, inner = R(3), wrap(lambda x: ag.tanh(x) * x)
    f = lambda x: x * inner(x)
    for _ in range(3):
        assert not any(way(f)(x).requires_grad for way in (ag.jacrev, ag.jacfwd))
        assert not any(way(ag.jacrev(f))(x).requires_grad for way in (ag.jacrev, ag.jacfwd))
        assert not ag.hessian(lambda x: f(x).sum())(x).requires_grad
        assert not ag.vmap(ag.grad(lambda x: f(x).sum()))(R(2, 3)).requires_grad
    w = R(3)
    w.requires_grad_()
    row = ag.jacrev(lambda x: inner(x) * w)(x)
    assert row.requires_grad
    row.sum().backward()
    near(w.grad, ag.jacrev(inner)(x).sum(axis=1))


def test_gradients_in_no_grad_require_none():
    x, w = R(3), ag.asarray([1.0, 2.0, 3.0], dtype="float64", requires_grad=True)
    f = lambda x: (ag.tanh(x) * w * x).sum()
    want, h = ag.grad(f)(x), ag.hessian(f)(x)
    assert want.requires_grad
    with ag.no_grad():
        value, g = ag.value_and_grad(f)(x)
        y, pull = ag.vjp(f, x)
        results = [value, g, y, pull(ag.ones((), dtype="float64"))[0], ag.hessian(f)(x), ag.jacrev(ag.grad(f))(x),
                   ag.vmap(ag.grad(f))(ag.stack([x, x])), ag.grad(f)(w)]
    assert not any(r.requires_grad for r in results)
    near(g, want.detach())
    near(results[3], want.detach())
    near(results[4], h.detach())
    near(results[5], h.detach())
    near(results[6][1], want.detach())
    near(results[7], ag.grad(f)(w).detach())
    staged = ag.function(ag.no_grad(lambda x: ag.grad(f)(x)), strict=True)
    for _ in range(3):
        near(staged(x), want.detach())


def test_hessian_of_a_network():
    x, y = R(8, 3), R(8, 2)
    flat, shapes = tree.flatten(PARAMS)
    sizes = np.cumsum([0] + [p.size for p in flat])

    def loss(v):
        parts = [v[i:j].reshape(p.shape) for i, j, p in zip(sizes, sizes[1:], flat)]
        return ((mlp(tree.unflatten(shapes, parts), x) - y) ** 2).mean()

    v = ag.concat([p.reshape(-1) for p in flat])
    h = ag.hessian(loss)(v)
    assert h.shape == (26, 26)
    near(h, h.T)
    near(h, ag.jacrev(ag.jacrev(loss))(v))
    near(h, ag.jacfwd(ag.jacfwd(loss))(v))
    near(h, ag.jacrev(ag.jacfwd(loss))(v))


# -------------------------------------------------------------------------------------------------------- compositions
FUNCTIONS = {
    "smooth": lambda x: (ag.sin(x) * x * x).sum(),
    "softmax": lambda x: (ag.softmax(x, axis=-1) * ag.arange(3, dtype="float64")).sum(),
    "matmul": lambda x: (ag.tanh(ag.outer(x, x) @ x)).sum(),
    "reductions": lambda x: ag.logsumexp(x, axis=0) * x.mean() + (x - x.mean()).square().sum(),
    "indexing": lambda x: (x[ag.asarray([2, 0, 0])] * x[1:2]).sum() * x.at[0].set(2.0).prod(),
    "branches": lambda x: ag.where(x > 0, x * x, ag.exp(x)).sum() + ag.maximum(x, 0.5 * x).prod(),
    "linalg": lambda x: ag.linalg.inv(ag.eye(3, dtype="float64") * 3 + ag.outer(x, x)).sum(),
    "loop": lambda x: ag.scan(lambda c, v: (ag.sin(c) * v + c, c), x[0], x)[0],
    "checkpoint": lambda x: ag.checkpoint(lambda x: ag.sin(x) * x * x)(x).sum(),
    "several": lambda x: sum(((i + 1) * p * p).sum() for i, p in enumerate(ag.split(ag.sin(x), 3))),
}


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_first_and_second_derivatives(f):
    x = T(0.3, -0.7, 1.1)
    g = slope(f, x)
    np.testing.assert_allclose(np.asarray(ag.grad(f)(x)), g, rtol=1e-6, atol=1e-7)
    near(ag.jacfwd(f)(x), ag.grad(f)(x))
    h = np.stack([slope(lambda y, i=i: ag.grad(f)(y)[i], x) for i in range(3)])
    ways = {"jvp of grad": ag.jacfwd(ag.grad(f)), "grad of grad": ag.jacrev(ag.grad(f)),
            "grad of jvp": ag.jacrev(ag.jacfwd(f)), "jvp of jvp": ag.jacfwd(ag.jacfwd(f))}
    for name, way in ways.items():
        np.testing.assert_allclose(np.asarray(way(x)), h, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_batches_of_derivatives(f):
    x, v = R(4, 3) * 0.5, R(4, 3)
    each = lambda fn, *args: ag.stack([fn(*rows) for rows in zip(*args)])
    near(ag.vmap(ag.grad(f))(x), each(ag.grad(f), x))
    near(ag.grad(lambda x: ag.vmap(f)(x).sum())(x), each(ag.grad(f), x))
    push = lambda x, v: ag.jvp(f, (x,), (v,))[1]
    near(ag.vmap(push)(x, v), each(push, x, v))
    near(ag.jvp(ag.vmap(f), (x,), (v,))[1], each(push, x, v))
    near(ag.vmap(ag.hessian(f))(x), each(ag.hessian(f), x), 1e-8)
    product = lambda x, v: ag.hvp(f, (x,), (v,))
    near(ag.vmap(product)(x, v), each(product, x, v), 1e-8)


def derivative(kind, f):
    """d/dx of a function of one number, by one of the transformations, batched ones among them."""
    one = ag.asarray(1.0, dtype="float64")
    return {
        "grad": ag.grad(f),
        "jvp": lambda x: ag.jvp(f, (x,), (one,))[1],
        "vjp": lambda x: ag.vjp(f, x)[1](one)[0],
        "linearize": lambda x: ag.linearize(f, x)[1](one),
        "vmap of grad": lambda x: ag.vmap(ag.grad(f))(ag.stack([x, x]))[1],
        "grad of vmap": lambda x: ag.grad(lambda xs: ag.vmap(f)(xs).sum())(ag.stack([x, x + 1]))[0],
        "vmap of jvp": lambda x: ag.vmap(lambda t: ag.jvp(f, (x,), (t,))[1])(T(1, 2))[0],
        "jvp of vmap": lambda x: ag.jvp(ag.vmap(f), (ag.stack([x, x]),), (ag.ones(2, dtype="float64"),))[1][0],
        "checkpoint": ag.grad(ag.checkpoint(f)),
    }[kind]


KINDS = ["grad", "jvp", "vjp", "linearize", "vmap of grad", "grad of vmap", "vmap of jvp", "jvp of vmap", "checkpoint"]


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, repeat=2)), ids=" of ".join)
def test_two_deep(kinds):
    f = lambda x: ag.sin(x) * x * x
    g = f
    for kind in kinds[::-1]:
        g = derivative(kind, g)
    x = ag.asarray(0.7, dtype="float64")
    near(g(x), 2 * np.sin(0.7) + 4 * 0.7 * np.cos(0.7) - 0.49 * np.sin(0.7), 1e-10)


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS[:2] + KINDS[4:8], repeat=3)), ids=" of ".join)
def test_three_deep(kinds):
    g = lambda x: x**5 - x**4
    for kind in kinds[::-1]:
        g = derivative(kind, g)
    near(g(ag.asarray(0.5, dtype="float64")), 60 * 0.25 - 24 * 0.5, 1e-10)


def test_four_deep():
    g = lambda x: x**5
    for kind in ("jvp", "grad", "vmap of grad", "jvp"):
        g = derivative(kind, g)
    near(g(ag.asarray(0.5, dtype="float64")), 60.0)


def test_perturbations_are_not_confused():
    # d/dx (x * d/dy (x + y)) = 1: Siskind and Pearlmutter, "Perturbation confusion and referential transparency" (2005)
    one = ag.asarray(1.0, dtype="float64")
    push = lambda f, x: ag.jvp(f, (x,), (one,))[1]
    near(push(lambda x: x * push(lambda y: x + y, one), one), 1)
    near(ag.grad(lambda x: x * ag.grad(lambda y: x + y)(one))(one), 1)
    near(ag.grad(lambda x: x * push(lambda y: x + y, one))(one), 1)
    near(push(lambda x: x * ag.grad(lambda y: x * y)(one), one), 2)
    near(ag.vmap(lambda x: ag.vmap(lambda y: x * y)(T(1, 2)))(T(3, 4)), [[3, 6], [4, 8]])


def test_per_example_gradients_are_one_line():
    x, y = R(16, 3), R(16, 2)
    loss = lambda p, x, y: ((mlp(p, x) - y) ** 2).sum()
    per_example = ag.vmap(ag.grad(loss), in_axes=(None, 0, 0))(PARAMS, x, y)
    for g, p in zip(tree.leaves(per_example), tree.leaves(PARAMS)):
        assert g.shape == (16, *p.shape)
    near(tree.map(lambda g: g[5], per_example), ag.grad(loss)(PARAMS, x[5], y[5]))
    near(tree.map(lambda g: g.sum(axis=0), per_example), ag.grad(lambda p: loss(p, x, y))(PARAMS))


# ------------------------------------------------------------------------------------------------ rules of your own
@ag.custom_gradient
def reversed_gradient(x):
    return x * 1, lambda g: -g


@ag.custom_gradient
def own_cube(x):
    return x**3, lambda g: g * 3 * x**2


@ag.custom_jvp
def own_sine(x):
    return ag.sin(x)


@own_sine.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return own_sine(x), t * ag.cos(x)


def test_custom_gradient():
    assert ag.grad(lambda x: reversed_gradient(x).sum())(T(1, 2)).tolist() == [-1, -1]
    x = T(1, 2, grad=True)
    reversed_gradient(x).sum().backward()
    assert x.grad.tolist() == [-1, -1]
    near(ag.jvp(reversed_gradient, (T(1, 2),), (T(1, 5),))[1], [-1, -5])
    near(ag.vmap(ag.grad(reversed_gradient))(T(1, 2)), [-1, -1])


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, repeat=2)), ids=" of ".join)
def test_own_rules_two_deep(kinds):
    x = ag.asarray(0.7, dtype="float64")
    for f, want in ((own_cube, 6 * 0.7), (own_sine, -np.sin(0.7))):
        g = f
        for kind in kinds[::-1]:
            g = derivative(kind, g)
        near(g(x), want, 1e-10)


@pytest.mark.parametrize("kinds", list(itertools.product(["grad", "jvp", "vmap of grad", "grad of vmap"], repeat=3)),
                         ids=" of ".join)
def test_own_rules_three_deep(kinds):
    x = ag.asarray(0.7, dtype="float64")
    for f, want in ((own_cube, 6.0), (own_sine, -np.cos(0.7))):
        g = f
        for kind in kinds[::-1]:
            g = derivative(kind, g)
        near(g(x), want, 1e-10)


def test_custom_gradient_with_containers_and_several_results():
    @ag.custom_gradient
    def f(p, k):
        a, b = p["a"], p["b"]
        return {"sum": a + b, "product": a * b}, lambda g: ({"a": g["sum"] * k, "b": g["product"]},)

    p = {"a": T(1, 2), "b": T(3, 4)}
    out, pull = ag.vjp(lambda p: f(p, 10.0), p)
    near(out, {"sum": [4, 6], "product": [3, 8]})
    near(pull({"sum": T(1, 2), "product": T(3, 4)})[0], {"a": [10, 20], "b": [3, 4]})
    near(ag.vmap(lambda p: f(p, 10.0))(p), {"sum": [4, 6], "product": [3, 8]})

    @ag.custom_gradient
    def half(x, y):
        return x * y, lambda g: (g * y, None)

    near(ag.grad(lambda x, y: half(x, y).sum(), (0, 1))(T(1, 2), T(3, 4)), ([3, 4], [0, 0]))
    near(ag.vmap(half, in_axes=(0, None))(T(1, 2), T(3)[0]), [3, 6])
    near(ag.grad(lambda x, y: ag.vmap(half, in_axes=(0, None))(x, y).sum())(T(1, 2), T(3)[0]), [3, 3])

    @ag.custom_gradient
    def scaled(x, y):
        return x * y, lambda g: (g * y, g * x)

    total = lambda x, y: ag.vmap(scaled, in_axes=(0, None))(x, y).sum()
    near(ag.grad(total, 1)(T(1, 2), T(3)[0]), 3)  # of an argument that all examples share, the sum


def test_custom_jvp_with_several_arguments():
    @ag.custom_jvp
    def f(x, y, power, *, scale=1.0):
        return x**power * y * scale

    @f.defjvp
    def rule(primals, tangents, *, scale=1.0):
        x, y, power = primals
        tx, ty, none = tangents
        assert none is None
        return f(x, y, power, scale=scale), 10 * tx + ty

    x, y = T(1, 2), T(3, 4)
    near(ag.jvp(lambda x, y: f(x, y, 2), (x, y), (T(1, 1), T(1, 2)))[1], [11, 12])
    near(ag.grad(lambda x, y: f(x, y, 2, scale=3.0).sum(), (0, 1))(x, y), ([10, 10], [1, 1]))
    near(f(x, y, 2, scale=2.0), [6, 32])
    near(ag.vmap(lambda x, y: f(x, y, 2))(x, y), [3, 16])
    assert f.__name__ == "f"


def test_custom_jvp_as_a_method():
    class Layer:
        @ag.custom_jvp
        def call(self, x):
            return x * 2

        @call.defjvp
        def _(primals, tangents):  # noqa: N805
            return primals[0].call(primals[1]), tangents[1] * 7

    near(ag.grad(lambda x: Layer().call(x).sum())(T(1)), [7])


def test_rules_that_are_wrong():
    x = T(1, 2)
    bad = [
        (ag.custom_gradient(lambda x: x), errors.ArgumentError, r"\(value, pullback\)"),
        (ag.custom_gradient(lambda x: (1.0, lambda g: g)), errors.ArgumentTypeError, "float"),
        (ag.custom_gradient(lambda x: (x, lambda g: (g, g))), errors.GradientError, "2 cotangents for 1"),
        (ag.custom_gradient(lambda x: (x, lambda g: ag.ones(7))), errors.ShapeError, r"\(7,\)"),
        (ag.custom_gradient(lambda x: (x, lambda g: 1.0)), errors.ArgumentTypeError, "float"),
        (ag.custom_jvp(lambda x: x), errors.ArgumentError, "defjvp"),
    ]
    for f, error, text in bad:
        with pytest.raises(error, match=text):
            ag.grad(lambda x, f=f: f(x).sum())(x)
    for rule, error in ((lambda p, t: p[0], errors.ArgumentError), (lambda p, t: (p[0], ag.ones(7)), errors.ShapeError),
                        (lambda p, t: (p[0], (t[0], t[0])), errors.ArgumentError)):
        f = ag.custom_jvp(lambda x: x)
        f.defjvp(rule)
        with pytest.raises(error, match="custom_jvp"):
            ag.jvp(f, (x,), (x,))
    with pytest.raises(errors.ArgumentTypeError):
        ag.custom_jvp(3)


# ------------------------------------------------------------------------------------------ checkpoint, stop_gradient
def test_checkpoint_runs_again_and_gives_the_same():
    runs, w = [], T(2, 3, grad=True)

    def block(x, scale=1.0):
        runs.append(1)
        return {"y": ag.sin(x * w) * scale, "n": 3 * x}

    f = lambda block: lambda x: (block(x, scale=2.0)["y"] ** 2 + block(x)["n"]).sum()
    near(ag.grad(f(ag.checkpoint(block)))(T(1, 2)), ag.grad(f(block))(T(1, 2)))
    runs.clear()
    out = ag.checkpoint(block)(T(1, 2), scale=2.0)
    out["y"].sum().backward()
    assert len(runs) == 2
    near(w.grad, 2 * np.cos([2, 6]) * [1, 2])
    near(ag.hessian(f(ag.checkpoint(block)))(T(1, 2)), ag.hessian(f(block))(T(1, 2)))
    near(ag.vmap(ag.grad(f(ag.checkpoint(block))))(R(3, 2) * 0 + T(1, 2)), ag.grad(f(block))(T(1, 2)) + ag.zeros(3, 2))
    with ag.no_grad():
        assert not ag.checkpoint(block)(T(1, 2))["y"].requires_grad


def test_checkpoint_draws_the_same_random_numbers_again():
    def block(x):
        return ag.random.dropout(ag.random.dropout(x, 0.5) * ag.random.uniform(x.shape), 0.25)

    nested = lambda x: ag.checkpoint(block)(x) + ag.random.normal(x.shape) * x
    x = ag.ones(64)
    for f in (block, nested):
        ag.random.seed(3)
        want = ag.value_and_grad(lambda x, f=f: (f(x) ** 2).sum())(x)
        after = ag.random.normal(())
        ag.random.seed(3)
        got = ag.value_and_grad(lambda x, f=f: (ag.checkpoint(f)(x) ** 2).sum())(x)
        near(got, want, 1e-6)
        assert ag.random.normal(()).item() == after.item()  # the second run took no numbers from the generator
    ag.random.seed(3)
    want = ag.vmap(ag.grad(lambda x: (block(x) ** 2).sum()))(ag.ones(3, 8))
    ag.random.seed(3)
    near(ag.vmap(ag.grad(lambda x: (ag.checkpoint(block)(x) ** 2).sum()))(ag.ones(3, 8)), want, 1e-6)
    runs = []

    def unsteady(x):
        runs.append(1)
        for _ in runs:
            x = x * ag.random.uniform(())
        return x

    with pytest.raises(errors.GradientError, match="more random numbers"):
        ag.checkpoint(unsteady)(ag.ones(2, requires_grad=True)).sum().backward()


def test_stop_gradient():
    f = lambda x: (x * ag.stop_gradient(x)).sum()
    assert ag.grad(f)(T(1, 2)).tolist() == [1, 2]
    near(ag.jvp(f, (T(1, 2),), (T(1, 1),))[1], 3)
    near(ag.vmap(ag.grad(lambda x: x * ag.stop_gradient(x)))(T(1, 2)), [1, 2])
    near(ag.jvp(ag.vmap(lambda x: x * ag.stop_gradient(x)), (T(1, 2),), (T(1, 1),))[1], [1, 2])
    out = ag.stop_gradient({"a": T(1, grad=True), "b": 3})
    assert not out["a"].requires_grad and out["b"] == 3


# ---------------------------------------------------------------------------------------------------------- bad input
CYCLE = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: ag.grad(lambda x: x)(T(1, 2)), errors.GradientError, ["scalar", "(2,)", ".sum()"]),
    (lambda: ag.grad(lambda x: None)(T(1)), errors.GradientError, ["nothing"]),
    (lambda: ag.grad(lambda x: 3.0)(T(1)), errors.GradientError, ["float"]),
    (lambda: ag.grad(lambda x: (x.sum(), 1))(T(1)), errors.GradientError, ["tuple"]),
    (lambda: ag.grad(lambda x: (x * 1j).sum())(T(1)), errors.GradientError, ["complex", "real"]),
    (lambda: ag.grad(cube)(ag.asarray([1, 2])), errors.ArgumentTypeError, ["int64", "cast"]),
    (lambda: ag.grad(cube)("text"), errors.ArgumentTypeError, ["str"]),
    (lambda: ag.grad(cube)({"a": T(1), "b": "text"}), errors.ArgumentTypeError, ["str"]),
    (lambda: ag.grad(cube)(CYCLE), errors.ArgumentError, ["list", "holds itself"]),
    (lambda: ag.vmap(lambda x: CYCLE)(T(1)), errors.ArgumentError, ["list", "holds itself"]),
    (lambda: ag.grad(cube, 3)(T(1)), errors.ArgumentError, ["argnums=3", "1 positional"]),
    (lambda: ag.grad(cube, "x")(T(1)), errors.ArgumentError, ["argnums='x'"]),
    (lambda: ag.grad(cube, 1.5)(T(1)), errors.ArgumentError, ["argnums=1.5"]),
    (lambda: ag.grad(cube)(), errors.ArgumentError, ["0 positional"]),
    (lambda: ag.grad(3), errors.ArgumentTypeError, ["int", "function"]),
    (lambda: ag.vmap(None), errors.ArgumentTypeError, ["function"]),
    (lambda: ag.jvp(cube, (T(1),), (T(1, 2),)), errors.ShapeError, ["(2,)", "(1,)"]),
    (lambda: ag.jvp(cube, T(1), T(1)), errors.ArgumentTypeError, ["tuples"]),
    (lambda: ag.jvp(cube, (T(1),), ({"a": T(1)},)), errors.ArgumentError, ["structure"]),
    (lambda: ag.jvp(lambda x: None, (T(1),), (T(1),)), errors.GradientError, ["nothing"]),
    (lambda: ag.jvp(lambda x: 1.0, (T(1),), (T(1),)), errors.GradientError, ["float"]),
    (lambda: ag.vjp(lambda x: "s", T(1)), errors.GradientError, ["str"]),
    (lambda: ag.vjp(lambda x: None, T(1)), errors.GradientError, ["nothing"]),
    (lambda: ag.vjp(lambda x: x, T(1))[1](T(1, 2)), errors.ShapeError, ["(2,)", "(1,)"]),
    (lambda: ag.vjp(lambda x: x, T(1))[1]((T(1), T(2))), errors.ArgumentError, ["structure"]),
    (lambda: ag.vjp(lambda x: x, T(1))[1]("text"), errors.ArgumentTypeError, ["str"]),
    (lambda: ag.vmap(lambda x, y: x)(R(2), R(3)), errors.ShapeError, ["2", "3"]),
    (lambda: ag.vmap(lambda x: x, in_axes=1)(R(2)), errors.AxisError, ["in_axes=1", "(2,)"]),
    (lambda: ag.vmap(lambda x: x)(T(1)[0]), errors.AxisError, ["()"]),
    (lambda: ag.vmap(lambda x: x, in_axes=(0, 0))(R(2)), errors.ArgumentError, ["2 entries"]),
    (lambda: ag.vmap(lambda x: x, in_axes=None)(R(2)), errors.ArgumentError, ["None"]),
    (lambda: ag.vmap(lambda x: x, in_axes="a")(R(2)), errors.ArgumentError, ["in_axes"]),
    (lambda: ag.vmap(lambda x: x, in_axes=({"b": 0},))({"a": R(2)}), errors.ArgumentError, ["b", "a"]),
    (lambda: ag.vmap(lambda x: x, out_axes=2)(R(2)), errors.AxisError, ["out_axes=2"]),
    (lambda: ag.vmap(lambda x: x, out_axes=None)(R(2)), errors.ArgumentError, ["out_axes=None"]),
    (lambda: ag.vmap(lambda x: x, out_axes=(0, 0))(R(2)), errors.ArgumentError, ["out_axes"]),
    (lambda: ag.vmap(lambda x: 3)(R(2)), errors.ArgumentTypeError, ["int"]),
    (lambda: ag.vmap(lambda x: None)(R(2)), errors.ArgumentTypeError, ["nothing"]),
    (lambda: ag.vmap(lambda x: x)(3.0), errors.ArgumentTypeError, ["float", "None"]),
    (lambda: ag.vmap(lambda x: x if x > 0 else -x)(R(2)), errors.ArgumentError, ["vmap", "where"]),
    (lambda: ag.vmap(lambda x: x[x > 0])(R(2, 3)), errors.IndexingError, ["vmap", "where"]),
    (lambda: ag.vmap(lambda x: np.asarray(x))(R(2, 3)), errors.ArgumentError, ["vmap"]),
    (lambda: ag.jacobian(cube, mode="sideways")(T(1)), errors.ArgumentError, ["sideways", "forward"]),
    (lambda: ag.jacobian(cube, 2)(T(1)), errors.ArgumentError, ["argnums=2"]),
    (lambda: ag.jacobian(cube)({"a": "b"}), errors.ArgumentTypeError, ["jacobian", "str"]),
    (lambda: ag.jacobian(lambda x: None, mode="forward")(T(1)), errors.GradientError, ["nothing"]),
    (lambda: ag.jacobian(lambda x: x * 1j)(T(1)), errors.ArgumentTypeError, ["complex", "forward"]),
    (lambda: ag.jacobian(ag.abs, mode="forward")(T(1) * 1j), errors.ArgumentTypeError, ["real", "reverse"]),
    (lambda: ag.jacobian(ag.multiply, (0, 1, 0))(T(1), T(1)), errors.ArgumentError, ["twice"]),
    (lambda: ag.grad(lambda x, y: (x * y).sum(), (0, -2))(T(1), T(1)), errors.ArgumentError, ["twice"]),
    (lambda: ag.vjp(cube, T(1), has_aux=True), errors.GradientError, ["(value, aux)", "a Tensor"]),
    (lambda: ag.jvp(cube, (T(1),), (T(1),), has_aux=True), errors.GradientError, ["(value, aux)", "a Tensor"]),
    (lambda: ag.vjp(lambda x: x, T(1))[1](T(1) * 1j), errors.ArgumentTypeError, ["complex", "float64"]),
    (lambda: ag.vjp(lambda x: {"a": x}, T(1))[1]([T(1)]), errors.ArgumentError, ["{'a': *}", "[*]"]),
    (lambda: ag.jvp(cube, (T(1),), (T(1) * 1j,)), errors.ArgumentTypeError, ["tangent", "complex", "float64"]),
    (lambda: ag.jvp(cube, (T(1),), ("t",)), errors.ArgumentTypeError, ["tangent", "str"]),
    (lambda: ag.vmap(cube, in_axes=True)(T(1)), errors.ArgumentError, ["in_axes=True", "int or None"]),
    (lambda: ag.vmap(lambda x: (x, x), out_axes=(0,))(T(1)), errors.ArgumentError, ["out_axes=(0,)", "(*, *)"]),
    (lambda: ag.vmap(lambda x: x if x > 0 else -x)(T(1)), errors.ArgumentError, ["ag.where"]),
    (lambda: ag.linearize(cube, T(1))[1](T(1) * 1j), errors.ArgumentTypeError, ["linearize", "complex"]),
    (lambda: ag.jacobian(lambda x: None)(T(1)), errors.GradientError, ["nothing"]),
    (lambda: ag.hessian(lambda x: x * x)(T(1, 2)), errors.GradientError, ["scalar"]),
    (lambda: ag.hvp(cube, (T(1),), (T(1, 2),)), errors.ShapeError, ["(2,)"]),
    (lambda: ag.hvp(cube, T(1), T(1)), errors.ArgumentTypeError, ["tuples"]),
    (lambda: ag.linearize(cube, T(1))[1](T(1, 2)), errors.ShapeError, ["(2,)"]),
    (lambda: ag.linearize(cube, T(1))[1](T(1), T(1)), errors.ArgumentError, ["structure"]),
])
def test_bad_input(call, error, words):
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    for word in words:
        assert word in text
    assert "test_transforms.py" in text  # the user's own line


def test_a_failing_function_leaves_nothing_behind():
    def fails(x):
        raise KeyError("mine")

    for call in (lambda: ag.grad(fails)(T(1)), lambda: ag.vmap(fails)(T(1)), lambda: ag.jvp(fails, (T(1),), (T(1),))):
        with pytest.raises(KeyError, match="mine"):
            call()
    assert ag.is_grad_enabled() and ag.grad(cube)(T(1)).tolist() == [3]
