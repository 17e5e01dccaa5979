"""Native convolutions against the rows in float64: any shape, and nothing beyond the arrays."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from poisoned import Poisoned

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import call, conv_gradients, depthwise, eager, jit, pooling, targets
from agog.compiler import conv_plans as planning
from agog.compiler.conv import conv
from agog.compiler.conv_gradient_units import GRADIENT
from agog.compiler.conv_tables import HEAD, SUB, Tiles
from agog.compiler.depthwise_kernels import HEAD as HEAD_OF_DEPTHWISE
from agog.compiler.program import compile
from agog.ops import conv as rows

NAMES = [t.name for t in targets.TARGETS.values() if targets.supported(t)]
DTYPES = ["float32", "float32", "float64"]


@pytest.fixture(autouse=True)
def numpy_rows(monkeypatch):
    """The rows compute with NumPy, whatever has been compiled; and kernels do what they would leave to NumPy."""
    planning.plan.cache_clear()
    monkeypatch.setattr(planning, "_WASTE", 0)
    monkeypatch.setattr(rows, "native", lambda *_: None)
    yield
    planning.plan.cache_clear()


def close(got, exact, size, terms):
    """`got` is `exact`, with an error that the roundings of `terms` products of magnitude `size` explain."""
    info = np.finfo(got.dtype)
    assert got.shape == exact.shape
    assert (np.abs(got - exact) <= (np.sqrt(terms) + 8) * info.eps * size + info.tiny).all()


@st.composite
def geometry(draw, largest=12):
    """(samples, channels per group, outputs per group, groups, sizes, kernel, stride, padding, dilation)."""
    rank = draw(st.integers(1, 3))
    axis = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
    axes = draw(st.lists(axis, min_size=rank, max_size=rank))
    kernel, stride, low, high, dilation = zip(*axes)
    sizes = []
    for k, lo, hi, d in zip(kernel, low, high, dilation):
        least = max(1, d * (k - 1) + 1 - lo - hi)
        sizes.append(draw(st.integers(least, least + (largest if rank < 3 else 5))))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, outputs = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 29]))
    return (draw(st.integers(1, 4)), channels, outputs, groups, tuple(sizes), kernel, stride,
            tuple(zip(low, high)), dilation)


def check_case(k, rng, case):
    n, c, o, groups, sizes, kernel, stride, padding, dilation = case
    dtype = k.dtype
    x = rng.standard_normal((n, c * groups, *sizes)).astype(dtype)
    w = rng.standard_normal((o * groups, c, *kernel)).astype(dtype)
    b = rng.standard_normal(o * groups).astype(dtype)
    rest = (stride, padding, dilation, groups)
    wide = lambda fn, *arrays: fn(np, *[None if a is None else a.astype(np.float64) for a in arrays])
    magnitude = lambda fn, *arrays: wide(fn, *[None if a is None else np.abs(a) for a in arrays])
    empty = Poisoned()

    def one(method, row, arrays, first, terms):
        got = getattr(k, method)(*arrays, *first, *rest, empty=empty)
        assert got is not None
        call = lambda np, *a: row(np, *a, *first, *rest)
        close(got, wide(call, *arrays), magnitude(call, *arrays), terms)

    y = wide(lambda np, *a: rows._conv(np, *a, *rest), x, w, b)
    g = rng.standard_normal(y.shape).astype(dtype)
    taps = int(np.prod(kernel))
    one("forward", rows._conv, (x, w, b), (), c * taps)
    one("forward", rows._conv, (x, w, None), (), c * taps)
    one("input_grad", rows._conv_input_grad, (g, w), (sizes,), o * taps)
    one("weight_grad", rows._conv_weight_grad, (x, g), (kernel,), g.size // (o * groups))
    empty.check()


@hypothesis.settings(max_examples=120, deadline=None)
@hypothesis.given(name=st.sampled_from(NAMES), dtype=st.sampled_from(DTYPES), case=geometry())
def test_convolutions(name, dtype, case):
    check_case(conv(dtype, targets.TARGETS[name]), np.random.default_rng(0), case)


@st.composite
def lone_channels(draw):
    """As `geometry`, of channels that each have a kernel of their own, with rows of any number of vectors."""
    rank = draw(st.integers(1, 2))
    axis = st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(0, 4), st.integers(0, 4), st.integers(1, 3))
    kernel, stride, low, high, dilation = zip(*draw(st.lists(axis, min_size=rank, max_size=rank)))
    sizes = []
    for k, lo, hi, d in zip(kernel, low, high, dilation):
        least = max(1, d * (k - 1) + 1 - lo - hi)
        sizes.append(draw(st.integers(least, least + draw(st.sampled_from([3, 17, 70])))))
    return (draw(st.integers(1, 3)), 1, 1, draw(st.integers(1, 5)), tuple(sizes), kernel, stride,
            tuple(zip(low, high)), dilation)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(name=st.sampled_from(NAMES), dtype=st.sampled_from(DTYPES), case=lone_channels())
def test_depthwise(name, dtype, case):
    check_case(conv(dtype, targets.TARGETS[name]), np.random.default_rng(0), case)


LONE = [
    (3, 1, 1, 40, (56, 56), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    (2, 1, 1, 33, (29, 57), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    (2, 1, 1, 70, (7, 7), (7, 7), (1, 1), ((3, 3), (3, 3)), (1, 1)),
    (2, 1, 1, 24, (513,), (31,), (1,), ((30, 0),), (1,)),  # causal
    (1, 1, 1, 3, (20, 21), (5, 4), (3, 2), ((2, 2), (0, 1)), (2, 3)),
    (2, 1, 1, 45, (14, 14), (5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1)),  # several planes at once, the last ones fewer
    (1, 1, 1, 40, (61, 119), (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1)),  # what is read next comes near
    (1, 1, 1, 5, (30, 33), (11, 9), (2, 2), ((5, 5), (7, 1)), (1, 1)),  # strips of several heights
    (2, 1, 1, 6, (9, 16), (4, 7), (1, 2), ((6, 0), (0, 8)), (2, 1)),  # taps that read nothing but padding
    (2, 1, 1, 3, (261,), (5,), (2,), ((2, 2),), (1,)),  # one row, every other column of which counts
    (2, 1, 1, 3, (6, 3), (3, 1), (2, 2), ((1, 1), (0, 0)), (1, 1)),
]


@pytest.mark.parametrize("case", LONE)
def test_depthwise_has_kernels_of_its_own(case, target, rng):
    k = conv("float32", target)
    check_case(k, rng, case)
    n, _, _, groups, sizes, kernel, *rest = case
    x, w = np.zeros((n, groups, *sizes), "f"), np.zeros((groups, 1, *kernel), "f")
    y = k.forward(x, w, None, *rest, groups)
    assert k._plan("forward", x, w, (), *rest, groups).kind == planning.DEPTHWISE
    assert k._plan("input", y, w, sizes, *rest, groups).kind == planning.DEPTHWISE
    assert k._plan("weight", x, y, kernel, *rest, groups).kind == planning.DEPTHWISE_WEIGHTS


def test_depthwise_reads_in_place_where_memory_can_be_masked(target):
    """A copy is made for other machines, for longer strides and for single rows."""
    k = conv("float32", target)
    copied = lambda what, x, w, size, stride, pad: k._plan(
        what, np.zeros(x, "f"), np.zeros(w, "f"), size, stride, pad, (1,) * len(stride), x[1]
    ).table[HEAD_OF_DEPTHWISE.index("copied")]
    for what, size in (("forward", ()), ("weight", (3, 3)), ("input", (40, 60))):
        g = (1, 5, 20, 30)
        x, w = (1, 5, 40, 60) if what != "input" else g, (5, 1, 3, 3) if what != "weight" else g
        assert copied(what, x, w, size, (2, 2), ((1, 1), (1, 1))) == (not target.masked)
    assert copied("forward", (1, 5, 40, 60), (5, 1, 3, 3), (), (1, 3), ((1, 1), (1, 1)))
    assert copied("forward", (1, 5, 600), (5, 1, 3), (), (1,), ((1, 1),))


@pytest.mark.parametrize("at_end", [True, False])
def test_depthwise_touches_nothing_beyond_the_arrays(at_end, target, rng, guarded):
    k = conv("float32", target)
    empty = lambda shape, dtype: guarded.array(np.full(shape, 9, dtype), at_end)
    for size, r, stride in [((5, 5), 3, 1), ((7, 3), 3, (2, 1)), ((16, 17), 5, 2), ((9, 33), 3, 1), ((2, 1), 1, 1),
                            ((4, 7), 3, (1, 2)), ((3, 31), 2, 3), ((14, 14), 7, 2), ((8, 16), 3, 2), ((1, 70), 3, 2),
                            ((15, 8), 7, 1), ((1, 3), 3, 2), ((3, 1), 3, 2)]:
        x = guarded.array(rng.standard_normal((2, 3, *size)).astype("f"), at_end)
        w, b = (guarded.array(rng.standard_normal(s).astype("f"), at_end) for s in ((3, 1, r, r), 3))
        stride = stride if isinstance(stride, tuple) else (stride, stride)
        rest = (stride, ((r // 2, r // 2),) * 2, (1, 1), 3)
        y = k.forward(x, w, b, *rest, empty=empty)
        k.input_grad(y, w, size, *rest, empty=empty)
        k.weight_grad(x, y, (r, r), *rest, empty=empty)


def test_depthwise_special_values_and_threads(target, rng):
    """What lies beside a row, in the copy or behind it, is no operand; results are the same for any threads."""
    k = conv("float32", target)
    x, w = rng.standard_normal((3, 40, 9, 11)).astype("f"), rng.standard_normal((40, 1, 3, 3)).astype("f")
    x[0, 1, 4, 10] = np.inf
    x[1, 2, 0, 0] = np.nan
    rest = ((1, 1), ((1, 1), (1, 1)), (1, 1), 40)
    y = k.forward(x, w, None, *rest)
    wrong = np.zeros(y.shape, bool)
    wrong[0, 1, 3:6, 9:] = wrong[1, 2, :2, :2] = True
    np.testing.assert_array_equal(~np.isfinite(y), wrong)
    g = np.ones_like(y)
    d = k.weight_grad(x, g, (3, 3), *rest)
    exact = rows._conv_weight_grad(np, x.astype(np.float64), g.astype(np.float64), (3, 3), *rest)
    np.testing.assert_array_equal(np.isfinite(d), np.isfinite(exact))
    before, results = config.num_threads, []
    try:
        for threads in (1, 2, 5):
            config.set_num_threads(threads)
            planning.plan.cache_clear()
            results.append((k.forward(x, w, None, *rest), k.input_grad(g, w, (9, 11), *rest),
                            k.weight_grad(x, g, (3, 3), *rest)))
    finally:
        config.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


def test_programs_call_depthwise_kernels(rng):
    def fn(x, w, b):
        y = ag.conv2d(x, w, b, padding=1, stride=2, groups=6)
        return (y * y).sum()

    arrays = [rng.standard_normal(s).astype("f") for s in ((4, 6, 10, 11), (6, 1, 3, 3), (6,))]
    graph = ag.trace(ag.value_and_grad(fn, argnums=(0, 1, 2)), *map(ag.asarray, arrays))
    program = compile(getattr(graph, "graph", graph))
    assert not program.islands
    value, grads = ag.value_and_grad(fn, argnums=(0, 1, 2))(*map(ag.asarray, arrays))
    for a, b in zip(program(arrays), [value, *grads], strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4)


LARGE = [
    (2, 64, 70, 1, (30, 31), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),  # several blocks of k
    (1, 96, 33, 1, (58, 58), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),  # several bands of rows
    (3, 40, 100, 1, (20, 20), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),  # pointwise, rows joined
    (3, 7, 20, 1, (40, 40), (5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1)),
    (5, 1, 1, 12, (28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),  # every channel by itself
    (64, 1, 16, 1, (28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    (3, 48, 40, 1, (9, 10), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),  # taps by columns, padding left out
    (2, 24, 32, 1, (5, 6), (3, 3), (1, 1), ((4, 4), (3, 5)), (1, 1)),  # results of nothing but padding
    (2, 30, 33, 1, (11, 13), (5, 5), (2, 2), ((2, 2), (3, 1)), (1, 1)),
    (2, 20, 32, 1, (9, 8), (3, 3), (1, 1), ((3, 3), (3, 3)), (3, 3)),
    (2, 32, 20, 1, (12, 7), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1)),  # a gradient's rows lie two apart
    (2, 16, 32, 1, (5, 6, 7), (3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1)),
]


@pytest.mark.parametrize("case", LARGE)
def test_large(case, target, rng):
    check_case(conv("float32", target), rng, case)


def test_what_needs_no_copy(target, rng):
    """Kernels of one tap read x where it is, unless its channels compete for the same sets of the cache."""
    k = conv("float32", target)
    for size, kernel, pad, expected in [(28, 1, 0, True), (32, 1, 0, True), (256, 1, 0, False), (28, 3, 1, False),
                                        (28, 1, 1, False)]:
        x, w = np.zeros((2, 8, size, size), "f"), np.zeros((4, 8, kernel, kernel), "f")
        table = k._plan("forward", x, w, (), (1, 1), ((pad, pad),) * 2, (1, 1), 1).table
        assert table[len(HEAD) + SUB.index("in_place")] == expected
    for channels, outputs, size in [(64, 24, 28), (24, 64, 28), (8, 7, 37)]:
        check_case(k, rng, (2, channels, outputs, 1, (size, size), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)))


def test_padding_is_left_out(target, rng):
    """What lies in the padding is no operand: not even infinity times its zero."""
    k = conv("float32", target)
    rest = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x, w = rng.standard_normal((2, 64, 14, 14)).astype("f"), rng.standard_normal((32, 64, 3, 3)).astype("f")
    for (i, j), row, column in [((0, 1), 0, None), ((2, 1), -1, None), ((1, 0), None, 0), ((1, 2), None, -1)]:
        broken = w.copy()
        broken[:, :, i, j] = np.inf
        y = k.forward(x, broken, None, *rest)
        edge = np.zeros((14, 14), bool)
        edge[slice(None) if row is None else row, slice(None) if column is None else column] = True
        assert np.isfinite(y[..., edge]).all() and not np.isfinite(y[..., ~edge]).any()


@pytest.mark.parametrize("channels", [16, 25])
def test_gradients_of_weights_leave_padding_out(channels, target, rng):
    """Taps that read the zeros around x for a result do not see its gradient; those that see none give zeros."""
    k = conv("float32", target)
    x, g = rng.standard_normal((3, channels, 7, 7)).astype("f"), rng.standard_normal((3, 9, 7, 7)).astype("f")
    g[:, :, 0, 0] = np.inf
    dw = k.weight_grad(x, g, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    seen = np.ones((3, 3), bool)
    seen[0] = seen[:, 0] = False
    assert not np.isfinite(dw[..., seen]).any() and np.isfinite(dw[..., ~seen]).all()
    check_case(k, rng, (3, channels, 9, 1, (2, 2), (3, 5), (1, 1), ((4, 4), (4, 4)), (3, 2)))
    dw = k.weight_grad(x[:, :, :1, :1], g[:, :, 1:2], (1, 9), (1, 1), ((0, 0), (7, 7)), (1, 1), 1)
    assert not dw[..., 0].any() and not dw[..., -1].any()


def test_there_is_a_kernel_for_ordinary_shapes(monkeypatch, rng):
    monkeypatch.undo()
    planning.plan.cache_clear()
    k = conv("float32")
    for n, c, o, groups, sizes, kernel, *rest in LARGE:
        x = rng.standard_normal((n, c * groups, *sizes)).astype(np.float32)
        w = rng.standard_normal((o * groups, c, *kernel)).astype(np.float32)
        y = k.forward(x, w, None, *rest, groups)
        assert y is not None
        assert k.input_grad(y, w, sizes, *rest, groups) is not None
        assert k.weight_grad(x, y, kernel, *rest, groups) is not None


def test_where_there_is_none(monkeypatch, rng):
    monkeypatch.undo()
    planning.plan.cache_clear()
    k = conv("float32")
    ones = np.ones
    rest = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert k.forward(ones((0, 3, 4, 4), "f"), ones((2, 3, 3, 3), "f"), None, *rest) is None
    assert k.forward(ones((2, 0, 4, 4), "f"), ones((2, 0, 3, 3), "f"), None, *rest) is None
    assert k.forward(ones((2, 300, 2, 2), "f"), ones((8, 300, 2, 2), "f"), None, *rest) is None  # one result an image


def test_relu_and_special_values(target, rng):
    k = conv("float32", target)
    x, w = rng.standard_normal((2, 3, 9, 9)).astype("f"), rng.standard_normal((5, 3, 3, 3)).astype("f")
    rest = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    plain = k.forward(x, w, None, *rest)
    np.testing.assert_array_equal(k.forward(x, w, None, *rest, relu=True), np.maximum(plain, 0))
    x[0, 1, 4, 4] = np.inf
    x[1, 2, 0, 0] = np.nan
    y = k.forward(x, w, None, *rest)
    far = np.ones((9, 9), bool)
    far[3:6, 3:6] = False
    assert np.isfinite(y[0][:, far]).all() and np.isinf(y[0][:, 3:6, 3:6]).all()
    far = np.ones((9, 9), bool)
    far[:2, :2] = False
    assert np.isfinite(y[1][:, far]).all() and np.isnan(y[1][:, :2, :2]).all()
    d = k.weight_grad(x[:1, :, ::-1], np.ones((1, 5, 9, 9), "f"), (3, 3), *rest)
    assert np.isfinite(d[:, [0, 2]]).all() and np.isinf(d[:, 1]).all()


def test_layouts(rng):
    """Arrays that are not contiguous are made so."""
    k = conv("float32")
    x = rng.standard_normal((3, 10, 9, 4)).astype("f").transpose(0, 3, 1, 2)
    w = rng.standard_normal((3, 3, 4, 5)).astype("f").transpose(3, 2, 0, 1)
    rest = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    expected = k.forward(np.ascontiguousarray(x), np.ascontiguousarray(w), None, *rest)
    np.testing.assert_array_equal(k.forward(x, w, None, *rest), expected)
    np.testing.assert_array_equal(k.forward(x, w, None, [1, 1], [[1, 1], [1, 1]], [1, 1], 1), expected)


@pytest.mark.parametrize("at_end", [True, False])
def test_nothing_beyond_the_arrays_is_touched(at_end, target, rng, guarded):
    k = conv("float32", target)
    for n, c, o, s, r, pad, stride in [(1, 1, 1, 1, 1, 0, 1), (2, 3, 17, 7, 3, 1, 1), (3, 2, 14, 16, 3, 0, 2),
                                       (1, 5, 9, 33, 1, 0, 1), (2, 40, 32, 17, 3, 1, 1), (2, 40, 32, 5, 3, 4, 1),
                                       (2, 40, 64, 15, 1, 0, 1), (2, 40, 3, 23, 1, 0, 1), (6, 2, 1, 1, 1, 0, 1),
                                       (4, 3, 2, 2, 1, 0, 1)]:
        x = guarded.array(rng.standard_normal((n, c, s, s)).astype("f"), at_end)
        w = guarded.array(rng.standard_normal((o, c, r, r)).astype("f"), at_end)
        b = guarded.array(rng.standard_normal(o).astype("f"), at_end)
        empty = lambda shape, dtype: guarded.array(np.zeros(shape, dtype), at_end)
        rest = ((stride,) * 2, ((pad, pad),) * 2, (1, 1), 1)
        y = k.forward(x, w, b, *rest, empty=empty)
        k.input_grad(y, w, (s, s), *rest, empty=empty)
        k.weight_grad(x, y, (r, r), *rest, empty=empty)


def test_the_number_of_threads_does_not_matter(rng):
    k = conv("float32")
    x, w = rng.standard_normal((9, 16, 20, 20)).astype("f"), rng.standard_normal((24, 16, 3, 3)).astype("f")
    rest = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    before, results = config.num_threads, []
    try:
        for threads in (1, 2, 5):
            config.set_num_threads(threads)
            y = k.forward(x, w, None, *rest)
            results.append((y, k.input_grad(y, w, (20, 20), *rest), k.weight_grad(x, y, (3, 3), *rest)))
    finally:
        config.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernel", [1, 3])
def test_one_image_is_divided_among_the_threads(kernel, rng):
    k = conv("float32")
    x, w = rng.standard_normal((1, 64, 14, 14)).astype("f"), rng.standard_normal((48, 64, kernel, kernel)).astype("f")
    rest = ((1, 1), ((kernel // 2,) * 2,) * 2, (1, 1), 1)
    before, results = config.num_threads, []
    try:
        for threads in (1, 2, 3, 7):
            config.set_num_threads(threads)
            planning.plan.cache_clear()
            table = k._plan("forward", x, w, (), *rest).table
            assert table[len(HEAD) + SUB.index("units")] >= threads
            results.append(k.forward(x, w, None, *rest))
    finally:
        config.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize(
    "samples, channels, size, kernel, stride",
    [(1, 19, 7, 3, 1), (3, 40, 6, 3, 2), (2, 9, 5, 1, 1), (5, 11, 3, 3, 1)],
)
def test_weights_of_few_results_are_packed_block_by_block(samples, channels, size, kernel, stride, target, rng):
    outputs, pad = 9 * Tiles(target).pixel[1] * target.lanes("float32") - 3, kernel // 2
    k, rest = conv("float32", target), ((stride,) * 2, ((pad, pad),) * 2, (1, 1), 1)
    x, w = np.zeros((samples, channels, size, size), "f"), np.zeros((outputs, channels, kernel, kernel), "f")
    out = (size + 2 * pad - kernel) // stride + 1
    g = np.zeros((samples, channels, out, out), "f")
    forward = k._plan("forward", x, w, (), *rest)
    back = k._plan("input", g, w.transpose(1, 0, 2, 3), (size, size), *rest)
    for table in (forward.table, back.table):
        word = lambda name, table=table: int(table[HEAD.index(name)])
        units, in_place = (int(table[len(HEAD) + SUB.index(name)]) for name in ("units", "in_place"))
        assert word("by_block") and word("packed_size") == (0 if in_place else units * word("copied"))
    subs = np.prod([min(stride, size)] * 2)
    assert back.table[HEAD.index("subs")] == subs and back.table[HEAD.index("steps")] == channels * kernel**2
    for given, made in ((channels, outputs), (outputs, channels)):  # the other way round for the gradient of the input
        check_case(k, rng, (samples, given, made, 1, (size, size), (kernel, kernel), *rest[:3]))


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2)])
def test_two_images_at_a_time_are_as_one_after_the_other(kernel, stride, target, rng, monkeypatch):
    """Small images share tiles: each has the bits that it has alone, for any number of threads."""
    outputs, size = 8 * Tiles(target).pixel[1] * target.lanes("float32"), Tiles(target).pixel[0] // 2
    k, rest = conv("float32", target), ((stride,) * 2, ((kernel // 2,) * 2,) * 2, (1, 1), 1)
    x = rng.standard_normal((5, 40, size, size)).astype("f")
    w, b = rng.standard_normal((outputs, 40, kernel, kernel)).astype("f"), rng.standard_normal(outputs).astype("f")
    assert k._plan("forward", x, w, (), *rest).table[HEAD.index("paired")]
    alone = np.concatenate([k.forward(x[i : i + 1], w, b, *rest, relu=True) for i in range(5)])
    g, back = rng.standard_normal((5, 40, *alone.shape[2:])).astype("f"), w.transpose(1, 0, 2, 3).copy()
    table = k._plan("input", g, back, (size, size), *rest).table
    assert table[HEAD.index("paired")] == table[HEAD.index("by_pixel")] >= (stride == 1)
    alone_back = np.concatenate([k.input_grad(g[i : i + 1], back, (size, size), *rest) for i in range(5)])
    for threads in (1, 2, 7):
        monkeypatch.setattr(config, "num_threads", threads)
        planning.plan.cache_clear()
        np.testing.assert_array_equal(k.forward(x, w, b, *rest, relu=True), alone)
        np.testing.assert_array_equal(k.input_grad(g, back, (size, size), *rest), alone_back)


@pytest.mark.parametrize("channels", [1, 3, 20])
def test_gradients_of_the_weights_of_one_image_are_divided_too(channels, target, rng):
    k = conv("float32", target)
    x, g = rng.standard_normal((1, channels, 37, 20)).astype("f"), rng.standard_normal((1, 9, 19, 20)).astype("f")
    table = k._plan("weight", x, g, (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 1).table
    assert table[GRADIENT.index("cuts")] > 1 and table[GRADIENT.index("chunks")] >= 8 // table[GRADIENT.index("parts")]
    check_case(k, rng, (1, channels, 9, 1, (37, 20), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1)))


def test_wrong_sizes_are_refused(rng):
    k = conv("float32")
    x, w = np.ones((1, 1, 4, 4), "f"), np.ones((1, 1, 3, 3), "f")
    p = k._plan("forward", x, w, (), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    with pytest.raises(ValueError, match="sizes"):
        k.native("conv")(np.empty(3, "f"), x, w, k.nothing, p.table, 0)


@pytest.mark.parametrize("name", targets.TARGETS)
@pytest.mark.parametrize(
    "build, more",
    [(conv_gradients.build, ["conv"]), (conv_gradients.build, ["gradient"])]
    + [(depthwise.build, [what]) for what in depthwise.NAMES],
)
def test_objects_for_every_target(name, build, more):
    target = targets.TARGETS[name]
    assert len(jit.object_code(str(build("float32", target, *more)), target)) > 1000


def test_through_ctypes(monkeypatch, rng):
    monkeypatch.setattr(call, "native_calls", False)
    k = conv.__wrapped__("float32")
    check_case(k, rng, (2, 3, 5, 1, (6, 7), (3, 2), (1, 2), ((1, 1), (0, 1)), (1, 1)))


# ------------------------------------------------------------------------------------------- eager code, and programs
def test_eager_code_takes_them(monkeypatch, rng):
    monkeypatch.undo()
    monkeypatch.setattr(large, "kernels", {})
    x = ag.asarray(rng.standard_normal((16, 8, 20, 20)).astype("f"), requires_grad=True)
    w = ag.asarray(rng.standard_normal((24, 8, 3, 3)).astype("f"), requires_grad=True)

    def step():
        x.grad = w.grad = None
        y = ag.avg_pool2d(ag.max_pool2d(ag.conv2d(x, w, padding=1), 2), 2)
        (y * y).sum().backward()
        return np.asarray(y), np.asarray(x.grad), np.asarray(w.grad)

    plain = step()
    used = []

    def counted(family, row):
        kernel = family.kernel(family.methods[row])

        def call(*arguments):
            used.append(row)
            return kernel(*arguments)

        return call

    families = [eager._Family(f.make, **f.methods) for f in eager._families]
    for family in families:
        family._make(np.dtype(np.float32))
    for kind in (planning.FORWARD, planning.WEIGHTS):
        eager._keep(eager._convolution, "float32", kind)
    for name in pooling.NAMES:
        eager._keep(eager._pooling, "float32", f"{name}_pairs_2")
    monkeypatch.setattr(large, "kernels", {row: counted(f, row) for f in families for row in f.methods})
    for a, b in zip(plain, step()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    poolings = {"_max_pool", "_max_pool_scatter", "_avg_pool", "_avg_pool_adjoint"}
    assert {"conv", "conv_input_grad", "conv_weight_grad"} | poolings <= set(used)


def test_nobody_waits_for_the_kernels_of_a_convolution(monkeypatch):
    """Each kind is asked for when it is first wanted; until it is there, NumPy does the work."""
    planning.plan.cache_clear()
    asked = []
    monkeypatch.setattr(eager, "_kernels", {})
    monkeypatch.setattr(eager, "_request", lambda make, *key: asked.append(key))
    k = eager._convolutions("float32")
    x, w, rest = np.ones((2, 20, 8, 8), "f"), np.ones((20, 1, 3, 3), "f"), ((1, 1), ((1, 1), (1, 1)), (1, 1), 20)
    assert k.forward(x, w, None, *rest) is k.forward(x, w, None, *rest) is k.input_grad(x, w, (8, 8), *rest) is None
    assert k.weight_grad(x, x, (3, 3), *rest) is None
    assert [key[-1] for key in asked] == [planning.DEPTHWISE, planning.DEPTHWISE_WEIGHTS]
    eager._keep(*asked[0])
    np.testing.assert_array_equal(k.forward(x, w, None, *rest)[:, :, 1:-1, 1:-1], 9)
    assert k.weight_grad(x, x, (3, 3), *rest) is None


def test_programs_call_them(rng):
    def fn(x, w, b):
        y = ag.max_pool2d(ag.relu(ag.conv2d(x, w, b, padding=1)), 2)
        return (y * y).sum()

    shapes = (4, 3, 10, 10), (5, 3, 3, 3), (5,)
    graph = ag.trace(ag.value_and_grad(fn, argnums=(0, 1, 2)), *[ag.asarray(np.zeros(s, "f")) for s in shapes])
    program = compile(getattr(graph, "graph", graph))
    assert not program.islands
    assert "conv" in program.explain() and "max_pool" in program.explain()
