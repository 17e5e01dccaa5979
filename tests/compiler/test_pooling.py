"""Native pooling against the rows in NumPy: any windows of one to three axes, and nothing beyond the arrays."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from poisoned import Poisoned

import agog as ag
from agog import config
from agog.compiler import call, jit, pooling, targets
from agog.compiler.pooling_windows import HEAD, STEPS
from agog.compiler.program import compile
from agog.ops import pooling as rows

NAMES = [t.name for t in targets.TARGETS.values() if targets.supported(t)]
DTYPES = ["float32", "float32", "float64"]


@pytest.fixture(autouse=True)
def numpy_rows(monkeypatch):
    """The rows compute with NumPy, whatever has been compiled."""
    monkeypatch.setattr(rows, "native", lambda *_: None)
    monkeypatch.setattr(rows, "reduced", lambda np, kind, ufunc, x, axis, keep: ufunc.reduce(x, axis, keepdims=keep))


@st.composite
def images(draw, dilated=True):
    """(shape, kernel, stride, padding, dilation): windows of 2, of all, of some axes, and any."""
    rank = draw(st.integers(1, 3))
    each = lambda values: tuple(draw(st.lists(values, min_size=rank, max_size=rank)))
    sizes = each(st.integers(1, (70, 40, 12)[rank - 1]))
    kind = draw(st.sampled_from(["two", "all", "some", "any", "any", "any"]))
    none, one = ((0, 0),) * rank, (1,) * rank
    lead = draw(st.sampled_from([(1, 1), (2, 3), (3, 1), (17, 2)]))
    if kind == "two":
        return (*lead, *(max(2, n) for n in sizes)), (2,) * rank, (2,) * rank, none, one
    if kind == "all":
        return (*lead, *sizes), sizes, sizes, none, one
    kernel, stride = each(st.integers(1, 5)), each(st.integers(1, 5))
    padding = each(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    dilation = each(st.integers(1, 3)) if dilated else one
    if kind == "some":
        chosen = each(st.booleans())
        pick = lambda given, other: tuple(g if c else other for g, c in zip(given, chosen))
        kernel, stride, dilation = (pick(g, 1) for g in (kernel, stride, dilation))
        padding = pick(padding, (0, 0))
    least = [max(1, d * (k - 1) + 1 - lo - hi) for k, d, (lo, hi) in zip(kernel, dilation, padding)]
    return (*lead, *map(max, sizes, least)), kernel, stride, padding, dilation


@hypothesis.settings(max_examples=250, deadline=None)
@hypothesis.given(name=st.sampled_from(NAMES), dtype=st.sampled_from(DTYPES), case=images())
def test_maxima(name, dtype, case):
    shape, *rest = case
    rng = np.random.default_rng(0)
    k, empty = pooling.pooling(dtype, targets.TARGETS[name]), Poisoned()
    x = rng.integers(-3, 4, shape).astype(dtype)  # with equal ones
    x[rng.random(shape) < 0.02] = np.nan
    x[rng.random(shape) < 0.1] = -np.inf
    y = k.maximum(x, *rest, empty=empty)
    np.testing.assert_array_equal(y, rows._max_pool(np, x, *rest))
    g = rng.integers(-5, 6, y.shape).astype(dtype)  # sums of these are exact
    np.testing.assert_array_equal(k.scatter(g, x, y, *rest, empty=empty), rows._max_scatter(np, g, x, y, *rest))
    where = k.indices(x, y, *rest, empty=empty)
    assert where.dtype == np.int64
    np.testing.assert_array_equal(where, rows._max_indices(np, x, y, *rest))
    empty.check()


@hypothesis.settings(max_examples=250, deadline=None)
@hypothesis.given(
    name=st.sampled_from(NAMES), dtype=st.sampled_from(DTYPES), case=images(False), counted=st.integers(0, 3)
)
def test_means(name, dtype, case, counted):
    shape, kernel, stride, padding, _ = case
    bounds = tuple((min(lo, counted), min(hi, counted)) for lo, hi in padding)
    rest = kernel, stride, padding, bounds
    rng = np.random.default_rng(0)
    k, empty, digit = pooling.pooling(dtype, targets.TARGETS[name]), Poisoned(), np.finfo(dtype).eps
    x = rng.standard_normal(shape).astype(dtype)
    y = k.mean(x, *rest, empty=empty)
    exact = rows._avg_pool(np, x.astype(np.float64), *rest)
    assert y.shape == exact.shape and y.dtype == dtype
    taps = np.prod(kernel)
    np.testing.assert_allclose(y, exact, rtol=0, atol=(4 + np.sqrt(taps)) * digit * 4)
    g = rng.standard_normal(y.shape).astype(dtype)
    dx = k.spread(g, shape[2:], *rest, empty=empty)
    exact = rows._avg_pool_adjoint(np, g.astype(np.float64), shape[2:], *rest)
    np.testing.assert_allclose(dx, exact, rtol=0, atol=(4 + np.sqrt(taps)) * digit * 4)
    empty.check()


def test_sums_of_two_axes_are_those_of_numpy(target, rng):
    """A column, then along the row: bit for bit, as long as one count serves all windows."""
    k = pooling.pooling("float32", target)
    for kernel, stride, padding in ((2, 2, 0), (3, 1, 1), (3, 2, 1), (4, 3, 0), (5, 4, 2)):
        x = rng.standard_normal((3, 4, 30, 41)).astype("f")
        rest = (kernel,) * 2, (stride,) * 2, ((padding, padding),) * 2, ((padding, padding),) * 2
        y = k.mean(x, *rest)
        np.testing.assert_array_equal(y, rows._avg_pool(np, x, *rest))
        g = rng.standard_normal(y.shape).astype("f")
        np.testing.assert_array_equal(k.spread(g, (30, 41), *rest), rows._avg_pool_adjoint(np, g, (30, 41), *rest))


GUARDED = [  # sizes, kernel, stride, padding, dilation
    ((2, 2), 2, 2, 0, 1), ((5, 37), 2, 2, 0, 1), ((33, 35), 3, 2, 1, 1), ((9, 50), 3, 1, 1, 1), ((7, 7), 2, 3, 0, 1),
    ((16, 16), 3, 1, 1, 1), ((15, 33), 4, 4, 0, 1), ((20, 20), 5, 5, 2, 1), ((21, 19), 3, 2, 1, 2),
    ((7, 7), 7, 7, 0, 1),
    ((64,), 2, 2, 0, 1), ((50,), 3, 1, 1, 1), ((130,), 5, 6, 0, 1), ((6, 7, 17), 2, 2, 0, 1), ((5, 9, 33), 3, 2, 1, 1),
    ((4, 6, 16), 3, 1, 1, 1), ((3, 5, 4), 3, 5, 0, 1),
]


@pytest.mark.parametrize("at_end", [True, False])
def test_nothing_beyond_the_arrays_is_touched(at_end, target, rng, guarded):
    k = pooling.pooling("float32", target)
    empty = lambda shape, dtype: guarded.array(np.zeros(shape, dtype), at_end)
    for sizes, r, s, p, d in GUARDED:
        rank = len(sizes)
        x = guarded.array(rng.standard_normal((2, 3, *sizes)).astype("f"), at_end)
        most = (r,) * rank, (s,) * rank, ((p, p),) * rank
        y = k.maximum(x, *most, (d,) * rank, empty=empty)
        k.scatter(y, x, y, *most, (d,) * rank, empty=empty)
        k.indices(x, y, *most, (d,) * rank, empty=empty)
        k.spread(k.mean(x, *most, most[2], empty=empty), sizes, *most, most[2], empty=empty)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
def test_threads_do_not_matter(stride, rng, monkeypatch):
    """Planes are shared out, whatever their number: the same bits."""
    k = pooling.pooling("float32")
    x = rng.standard_normal((9, 5, 50, 61)).astype("f")
    rest = (5, 3), (stride, stride), ((2, 1), (1, 1)), (1, 1)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(config, "num_threads", threads)
        y, mean = k.maximum(x, *rest), k.mean(x, *rest[:3], rest[2])
        g = np.sin(np.arange(y.size, dtype="f")).reshape(y.shape)
        results.append((y, k.scatter(g, x, y, *rest), mean, k.spread(g, x.shape[2:], *rest[:3], rest[2])))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_planned():
    plan = lambda name, shape, *rest: pooling.plan(targets.host(), "float32", name, shape, *rest)
    word = lambda p, name: int(p.table[HEAD.index(name)])
    none = ((0, 0),) * 3
    cube = plan("max_pool", (2, 3, 8, 9, 10), (2, 2, 2), (2, 2, 2), none, (1, 1, 1))
    assert cube.kind == "max_pool_pairs_4" and word(cube, "scratch") == 0 and cube.shape == (2, 3, 4, 4, 5)
    flat = plan("max_pool", (2, 3, 8, 9, 10), (1, 2, 2), (1, 2, 2), none, (1, 1, 1))  # slices are planes
    assert word(flat, "planes") == 48 and word(flat, "rank") == 2 and flat.kind == "max_pool_pairs_2"
    deep = plan("max_pool", (2, 3, 8, 9, 10), (3, 1, 1), (1, 1, 1), none, (1, 1, 1))  # the inner axes are one
    assert word(deep, "rank") == 2 and word(deep, "x_w") == 90
    for stride in STEPS:
        p = plan("max_scatter", (1, 1, 40), (4,), (stride,), ((1, 1),), (1,))
        counts = p.table[len(HEAD) + 1 : len(HEAD) + 2 * stride : 2]
        assert counts.sum() == 4 and p.shape == (1, 1, 40)
    assert plan("max_pool", (0, 3, 8), (2,), (2,), ((0, 0),), (1,)) is None
    assert plan("avg_pool", (1, 3, 8), (9,), (1,), ((0, 0),), ((0, 0),)) is None


def test_wrong_sizes_are_refused():
    k = pooling.pooling("float32")
    p = pooling.plan(k.target, "float32", "max_pool", (1, 1, 4, 4), (2, 2), (2, 2), ((0, 0),) * 2, (1, 1))
    with pytest.raises(ValueError, match="sizes"):
        k.native(p.kind)(np.empty(3, "f"), np.ones((4, 4), "f"), k.nothing, k.nothing, p.table)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_objects_for_every_target(name):
    target = targets.TARGETS[name]
    for kind in pooling.KINDS:
        assert len(jit.object_code(str(pooling.build("float32", target, kind)), target)) > 1000


def test_through_ctypes(monkeypatch, rng):
    monkeypatch.setattr(call, "native_calls", False)
    k = pooling.Pooling("float64", targets.host())
    x, rest = rng.standard_normal((2, 3, 9, 8)), ((3, 2), (2, 2), ((1, 1), (0, 1)), (1, 1))
    y = k.maximum(x, *rest)
    np.testing.assert_array_equal(y, rows._max_pool(np, x, *rest))
    np.testing.assert_array_equal(k.scatter(y, x, y, *rest), rows._max_scatter(np, y, x, y, *rest))


POOLED = [
    lambda x: ag.max_pool1d(x[:, :, 0, 0], 3, 1, 1), lambda x: ag.max_pool2d(x[:, :, 0], 3, 2, 1, ceil_mode=True),
    lambda x: ag.max_pool3d(x, 2), lambda x: ag.max_pool3d(x, 3, 2, 1), lambda x: ag.max_pool2d(x[:, :, 0], 2, 3, 0, 2),
    lambda x: ag.avg_pool1d(x[:, :, 0, 0], 3, 2), lambda x: ag.avg_pool2d(x[:, :, 0], 3, 1, 1, count_include_pad=False),
    lambda x: ag.avg_pool2d(x[:, :, 0], 2, ceil_mode=True), lambda x: ag.avg_pool3d(x, 3, 1, 1),
    lambda x: ag.avg_pool3d(x, 2), lambda x: ag.avg_pool2d(x[:, :, 0], 6, 2, 3),
    lambda x: ag.avg_pool2d(x[:, :, 0], 3, 2, divisor_override=5),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("number", range(len(POOLED)))
def test_programs_call_it(number, dtype, rng):
    """A pooling and its gradient are native in a program, and what eager code computes."""
    fn = POOLED[number]
    x = ag.asarray(rng.integers(-40, 40, (2, 3, 5, 9, 11)) / 8).astype(getattr(ag, dtype))
    weigh = lambda x: (fn(x) * fn(x)).sum()
    both = ag.value_and_grad(weigh)
    graph = ag.trace(both, x)
    program = compile(getattr(graph, "graph", graph))
    assert not program.islands
    got, want = program([x.numpy()]), both(x)
    for a, b in zip(got, want, strict=True):
        tolerance = {"float32": 1e-5, "float64": 1e-13}.get(dtype, 2e-2)
        a, b = np.asarray(a).astype(np.float64), b.numpy().astype(np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
