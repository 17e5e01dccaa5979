"""Nests that go on with the rows of a product while these are in the caches."""

import numpy as np
import pytest

from agog import config
from agog.compiler import targets
from agog.compiler.program import compile
from agog.graph import interpret
from agog.graph.build import Builder, build, xp


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(config, "num_threads", 2)


def follows(program):
    """The products in whose rows something goes on, as `explain` says."""
    return [line.split(":")[0].strip() for line in program.explain().splitlines() if ", then nest" in line]


def agrees(graph, arrays, count=1, target=None, tol=3e-6):
    program = compile(graph, target) if target else compile(graph)
    assert len(follows(program)) == count, program.explain()
    want = interpret.run(graph, arrays)
    for _ in range(3):  # threads meet differently
        for got, expected in zip(program(arrays), want, strict=True):
            assert got.shape == expected.shape and got.dtype == expected.dtype
            scale = max(1.0, float(np.abs(expected).max(initial=0)))
            np.testing.assert_allclose(got, expected, rtol=tol, atol=tol * scale)
    return program


def numbers(rng, graph):
    return [rng.standard_normal(v.shape).astype(v.dtype) for v in graph.inputs]


F, D = "float32", "float64"
SIZES = [
    (400, 60, 80),  # rows, inner, columns
    (331, 97, 131),  # primes: panels of different heights, a last vector that is not whole
    (257, 700, 129),  # several blocks of the inner axis: only the last one finishes the rows
    (1200, 500, 1100),  # several blocks of columns, too: the last one finishes the rows
    (4096, 64, 64),  # four tasks for two threads
]


@pytest.mark.parametrize("m, k, n", SIZES)
@pytest.mark.parametrize("dtype", [F, D])
def test_bias_and_activation(rng, m, k, n, dtype):
    def f(x, w, b):
        z = x @ w + b
        return [xp.gelu(z), xp.maximum(z, 0)]

    graph = build(f, ((m, k), dtype), ((k, n), dtype), ((n,), dtype))
    agrees(graph, numbers(rng, graph), tol=3e-6 if dtype == F else 1e-12)


@pytest.mark.parametrize("m, k, n", SIZES)
def test_residual_and_norm_of_rows(rng, m, k, n):
    def f(x, w, residual, scale):
        y = residual + x @ w
        centred = y - xp.mean(y, axis=-1, keepdims=True)
        return [y, centred / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + 1e-5) * scale + scale]

    graph = build(f, ((m, k), F), ((k, n), F), ((m, n), F), ((n,), F))
    agrees(graph, numbers(rng, graph), tol=2e-5)


def test_the_product_itself_is_a_result_too(rng):
    graph = build(lambda x, w: [x @ w, xp.tanh(x @ w)], ((512, 64), F), ((64, 128), F))
    program = agrees(graph, numbers(rng, graph))
    x, w = numbers(rng, graph)
    y, t = program([x, w])
    np.testing.assert_allclose(np.tanh(y), t, rtol=2e-6, atol=1e-7)


def test_a_batch(rng):
    """The rows of all matrices are one range."""
    graph = build(lambda x, w, b: xp.tanh(x @ w) * b, ((5, 130, 70), F), ((5, 70, 64), F), ((5, 130, 64), F))
    agrees(graph, numbers(rng, graph))


def test_heads(rng):
    """The outermost loop has several indices for a row."""

    def f(x, w):
        y = (x @ w).reshape(8, 64, 4, 32)
        return [xp.tanh(y), xp.sum(y * y, axis=-1)]

    graph = build(f, ((8, 64, 96), F), ((96, 128), F))
    agrees(graph, numbers(rng, graph))


def test_arrays_that_share_memory_in_time(rng):
    """What the epilogue writes does not take the place of what other rows of the product are still made of."""

    def f(x, w):
        y = x
        for _ in range(4):
            y = xp.tanh(y @ w) * 2
        return [y]

    graph = build(f, ((600, 64), F), ((64, 64), F))
    arrays = [a * 0.3 for a in numbers(rng, graph)]
    agrees(graph, arrays, count=4, tol=2e-5)


@pytest.mark.parametrize("f", [
    lambda y: xp.sum(xp.tanh(y), axis=0),  # of all rows
    lambda y: xp.tanh(y[::-1]),  # in another order
    lambda y: y[1:] * y[:-1],  # two rows at a time
    lambda y: xp.tanh(xp.permute_dims(y, (1, 0)) + 1) + xp.ones((120, 400), dtype=F) * y[:120, :1],
    lambda y: xp.cumulative_sum(y, axis=0),
], ids=["sum", "reversed", "neighbours", "transposed", "running"])
def test_what_needs_other_rows_waits_for_them(rng, f):
    graph = build(lambda x, w: [f(x @ w)], ((400, 90), F), ((90, 120), F))
    agrees(graph, numbers(rng, graph), count=0, tol=1e-5)


def test_what_comes_first_comes_first(rng):
    """A nest that also reads something that is made after the product runs after that."""
    graph = build(lambda x, w, v: [(x @ w) * (xp.tanh(x) @ v)], *[((512, 64), F)], ((64, 128), F), ((64, 128), F))
    agrees(graph, numbers(rng, graph))


def test_in_the_body_of_a_loop(rng):
    """What follows a product there is looked for among the units of the body, not among those behind the loop."""
    b = Builder("loop")
    x, w, n = b.input((400, 128), F), b.input((128, 128), F), b.input((), "int64")
    with b:
        _, y = b.while_loop(lambda i, v: i < n, lambda i, v: [i + 1, xp.tanh(v @ w) + x], [n * 0, x])
        last, all_of_them = b.scan(lambda c, s: [xp.tanh(c @ w) * s, xp.sum(c, axis=1)], [y], [xp.ones((3,), dtype=F)])
        z = xp.tanh(y) * last
    graph = b.build([y, z, all_of_them])
    program = compile(graph)
    (segment,) = program._segments
    assert len(segment.taken) == 2 and not program.islands  # one in each body
    x, w = 0.3 * rng.standard_normal((400, 128)).astype(F), 0.1 * rng.standard_normal((128, 128)).astype(F)
    arrays = [x, w, np.array(3)]
    for got, want in zip(program(arrays), interpret.run(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_few_rows_share_columns_out(rng):
    graph = build(lambda x, w: [xp.tanh(x @ w)], ((64, 256), F), ((256, 1024), F))
    agrees(graph, numbers(rng, graph), count=0)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_on_every_target(rng, name):
    target = targets.TARGETS[name]
    if not targets.supported(target):
        pytest.skip(f"this machine cannot run {name}")
    graph = build(lambda x, w, b: [xp.tanh(x @ w + b)], ((331, 97), F), ((97, 64), F), ((64,), F))
    agrees(graph, numbers(rng, graph), target=target, tol=1e-5)


def test_the_same_for_any_number_of_threads(rng, monkeypatch):
    graph = build(lambda x, w, b: [xp.softmax(x @ w + b, axis=-1)], ((700, 97), F), ((97, 65), F), ((65,), F))
    arrays, results = numbers(rng, graph), []
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(config, "num_threads", threads)
        results.append(compile(graph)(arrays)[0])
    for r in results[1:]:
        np.testing.assert_array_equal(r, results[0])


# ------------------------------------------------------------------------------------------- convolutions and relu
def convolved(x, w, b, groups=1):
    return xp.conv(x, w, b, (1, 1), ((1, 1), (1, 1)), (1, 1), groups)


IMAGES = ((3, 4, 11, 13), F), ((5, 4, 3, 3), F), ((5,), F)


def test_relu_of_a_convolution_is_one_step(rng):
    graph = build(lambda x, w, b: xp.relu(convolved(x, w, b)), *IMAGES)
    arrays = numbers(rng, graph)
    arrays[0][0, 1, 4, 4], arrays[0][1, 2, 0, 0] = np.nan, np.inf
    program = compile(graph)
    assert "native 0: 1 steps" in program.explain()
    (got,), (want,) = program(arrays), interpret.run(graph, arrays)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    assert (want == 0).any() and np.isnan(want).any() and np.isinf(want).any()


@pytest.mark.parametrize("f", [
    lambda y: [xp.relu(y), y],
    lambda y: [xp.relu(y), xp.sum(y)],
    lambda y: [xp.relu(y), xp.relu(-y)],
    lambda y: [xp.relu(xp.sum(y, axis=1))],
], ids=["result", "sum", "negative", "of a sum"])
def test_a_convolution_that_others_read_is_kept(rng, f):
    graph = build(lambda x, w, b: f(convolved(x, w, b)), *IMAGES)
    agrees(graph, numbers(rng, graph), count=0, tol=2e-5)


def test_relu_of_what_convolutions_do_not_compute(rng):
    """A kernel for each channel; and no images at all."""
    graph = build(lambda x, w: xp.relu(convolved(x, w, None, groups=4)), ((3, 4, 11, 13), F), ((4, 1, 3, 3), F))
    agrees(graph, numbers(rng, graph), count=0, tol=2e-5)
    graph = build(lambda x, w: xp.relu(convolved(x, w, None)), ((0, 4, 11, 13), F), ((4, 4, 3, 3), F))
    agrees(graph, numbers(rng, graph), count=0)
