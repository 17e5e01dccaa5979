"""Building graphs: Symbols compute as arrays do, and stand in for the data of Tensors."""

import numpy as np
import pytest

import agog as ag
from agog.dispatch import wrap
from agog.errors import DTypeError, GraphError, ShapeError
from agog.graph import Builder, Symbol, build, optimize, verify, xp
from agog.graph.build import number
from agog.graph.ir import Constant

F4 = "float32"
PROMOTIONS = [
    (lambda x: x + 1, "float32"), (lambda x: 1 - x, "float32"), (lambda x: x * 2.5, "float16"),
    (lambda x: x / 2, "int64"), (lambda x: x * 2.5, "int32"), (lambda x: x + 1j, "float64"), (lambda x: x & 1, "uint8"),
    (lambda x: x > 0, "bfloat16"), (lambda x: x ** 2, "float32"), (lambda x: -x, "int8"), (lambda x: ~x, "bool"),
    (lambda x: x % 3, "int64"), (lambda x: x // 2.0, "float32"), (lambda x: x << 2, "int32"), (lambda x: abs(x), F4),
    (lambda x: x @ x.T, F4), (lambda x: x.mT @ x, F4), (lambda x: x + np.float64(1), F4), (lambda x: True + x, "int8"),
    (lambda x: x + np.ones(3), F4), (lambda x: np.ones(3, "f4") * x, "float16"), (lambda x: x[0, ::-1], F4),
    (lambda x: x[..., None] * x[:, None], F4), (lambda x: x[np.array([0, 1, 0])], F4), (lambda x: x.real, "complex64"),
    (lambda x: x.astype("int8"), F4), (lambda x: x.reshape(3, -1), F4), (lambda x: list(x)[1], F4),
    (lambda x: x != x, F4), (lambda x: 2 ** x, F4), (lambda x: x ^ x, "int64"), (lambda x: x | True, "bool"),
]


@pytest.mark.parametrize("i", range(len(PROMOTIONS)))
def test_operators_promote_as_eager_code_does(i):
    fn, dtype = PROMOTIONS[i]
    x = np.arange(1, 7).reshape(2, 3).astype(ag.dtypes.dtype(dtype))
    want = fn(ag.asarray(x))
    graph = verify(build(fn, ((2, 3), x.dtype)))
    got = graph.run(x)
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got, want.numpy())


@pytest.mark.parametrize("name, args", [
    ("softmax", ()), ("layer_norm", (3,)), ("std", ()), ("cumulative_sum", (1,)), ("gelu", ()), ("tile", ((2, 2),)),
    ("roll", (1,)), ("sort", ()), ("clip", (0.2, None)), ("diff", ()), ("logsumexp", ()), ("one_hot", None)])
def test_rows_and_composites_compute_what_eager_code_does(name, args):
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(F4)
    if args is None:
        x, args = np.array([0, 2, 1]), (4,)
    graph = verify(build(lambda v: getattr(xp, name)(v, *args), (x.shape, x.dtype)))
    want = getattr(ag, name)(ag.asarray(x), *args).numpy()
    got = graph.run(x)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_what_has_no_symbols_is_computed_at_once():
    graph = build(lambda x: x + xp.exp(np.ones(3, F4)) * 2, ((3,), F4))
    assert [n.op.name for n in graph.nodes] == ["add"]
    big = build(lambda x: x + xp.zeros((300, 300)), ((300, 300), F4))
    assert [n.op.name for n in big.nodes] == ["zeros", "add"]  # too large to carry around


def test_constants_are_held_by_reference_and_numbers_once():
    data = np.ones((3,), F4)
    graph = build(lambda x: (x + data) * 2.0 + (x - data) * 2.0, ((3,), F4))
    assert len(graph.constants) == 2 and graph.constants[0].data is data


def test_number():
    assert number(Constant(np.full((2, 3), 5))) == 5
    assert number(Constant(np.broadcast_to(np.float32(2), (1000, 1000)))) == 2
    assert number(Constant(np.array([0.0, -0.0]))) is None and number(Constant(np.zeros((0, 2)))) is None
    assert number(Constant(np.array([1, 2]))) is None and number(build(lambda x: x, ((), F4)).inputs[0]) is None


def test_python_cannot_look():
    for look in (bool, int, float, complex, lambda x: [1, 2][x], lambda x: x.item(), np.asarray):
        with pytest.raises(GraphError, match="no value yet"):
            build(look, ((), "int64"))


def test_errors_teach():
    with pytest.raises(ShapeError, match="broadcast"):
        build(lambda x, y: x + y, ((3,), F4), ((4,), F4))
    with pytest.raises(DTypeError, match="bitwise_and takes bool or integer dtypes, not float32"):
        build(lambda x: x & x, ((3,), F4))
    with pytest.raises(DTypeError, match="300 does not fit"):
        build(lambda x: x + 300, ((3,), "int8"))
    with pytest.raises(GraphError, match="cannot be a value"):
        build(lambda x: "text", ((3,), F4))


def test_lines_are_the_users():
    graph = build(lambda x: xp.softmax(x) + 1, ((3,), F4))
    assert all(n.where.file == __file__ for n in graph.nodes)
    assert "xp.softmax(x) + 1" in str(graph)


# --------------------------------------------------------------------------------------------- under a Tensor
def test_a_tensor_of_symbols_trains():
    def step(x, w, t):
        h = ag.relu(x @ w) + 1
        loss = ag.cross_entropy(h, t) + (h ** 2).mean() * 1e-2
        loss.backward()
        return loss.detach(), w.detach() - 0.1 * w.grad

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((8, 4)).astype(F4), rng.standard_normal((4, 5)).astype(F4), rng.integers(0, 5, 8)]
    b = Builder("step")
    symbols = [wrap(b.input(a.shape, a.dtype, path=p)) for a, p in zip(arrays, "xwt")]
    symbols[1].requires_grad_()
    with b:
        out = step(*symbols)
    assert all(type(o._data) is Symbol for o in out)
    graph = verify(b.build([o._data for o in out]))
    x, w, t = map(ag.asarray, arrays)
    w.requires_grad_()
    for got, want in zip(graph.run(*arrays), step(x, w, t)):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)
    for got, want in zip(optimize(graph, check=True).run(*arrays), graph.run(*arrays)):
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("transform", [
    ag.vmap, lambda f: ag.vmap(ag.grad(lambda x: f(x).sum())), lambda f: lambda x: ag.jvp(f, (x,), (x * 2,))[1],
    lambda f: ag.grad(lambda x: (f(x) ** 2).sum()), lambda f: lambda x: ag.vjp(f, x)[1](f(x))])
def test_transformations_of_tensors_of_symbols(transform):
    def f(x):
        return ag.softmax(x * 2, axis=-1) @ ag.ones((3, 2)) + ag.sin(x).sum()

    x = np.random.default_rng(0).standard_normal((4, 3)).astype(F4)
    want = transform(f)(ag.asarray(x))
    want = want[0] if isinstance(want, tuple) else want
    b = Builder("t")
    with b:
        got = transform(f)(wrap(b.input((4, 3), F4)))
        got = got[0] if isinstance(got, tuple) else got
    graph = verify(b.build([got._data]))
    np.testing.assert_allclose(graph.run(x), want.numpy(), rtol=1e-5, atol=1e-6)
