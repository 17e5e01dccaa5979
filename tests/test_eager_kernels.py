"""Native kernels of eager work on large arrays, against NumPy in float64."""

import contextlib
import gc
import threading
import time

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import codegen, eager, jit, steps
from agog.compiler.elementwise import compile_elementwise
from agog.compiler.mixed import Mixed, compile_mixed
from agog.errors import AxisError, IndexingError
from agog.ops.namespaces import raw
from agog.ops.row import TABLE
from agog.staging.recorder import Recorder, recording

request_one = eager._request


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Kernels are compiled where they are first wanted: a second call uses them."""
    def make(make, *key):
        with contextlib.suppress(Exception):
            make(*key)

    monkeypatch.setattr(eager, "_request", make)
    eager.enable()
    yield
    for made in (eager._kernels, *[f.ready for f in (*eager._families, *eager._halves)]):
        for key in [k for k, kernel in made.items() if kernel is None]:  # what there is no kernel for
            del made[key]


def gradient(f, *arrays, dtype="float32"):
    """[f(*arrays), its cotangents], for a cotangent of f that has no special values."""
    xs = [ag.asarray(a.astype(dtype) if a.dtype.kind == "f" else a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = f(*xs)
    y.backward(ag.asarray(np.linspace(-1, 2, y.size).astype(dtype).reshape(y.shape)))
    return [np.array(t.detach().numpy()) for t in (y, *(x.grad for x in xs if x.requires_grad))]


def compare(f, *arrays, error=1e-5):
    """The second float32 run, with kernels, against the same in float64 without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager.config, "native", False)
        eager.large.native, native = lambda *_: None, eager.large.native
        eager.large.pull, pull = lambda *_: None, eager.large.pull
        patch.setattr(eager.large, "reduced", lambda *_: None)
        try:
            want = gradient(f, *arrays, dtype="float64")
        finally:
            eager.large.native, eager.large.pull = native, pull
    gradient(f, *arrays)
    got = gradient(f, *arrays)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=error, atol=error * max(1.0, float(np.abs(b[np.isfinite(b)]).max())))
    return got


@pytest.mark.parametrize("f", [lambda x: ag.gelu(x), lambda x: ag.gelu(x, approximate="tanh"), ag.silu, ag.mish,
                               lambda x: x ** 3, lambda x: x / 3, ag.tanh, ag.softplus])
def test_rules_of_elementwise_rows(f, rng, monkeypatch):
    for made in ("_kernels", "_pairs", "_numbers", "_variants"):  # without those of other tests
        monkeypatch.setattr(eager, made, {})
    x = rng.normal(size=(97, 103)) * 3
    compare(f, x)
    assert [v for v in eager._kernels.values() if v is not None], "no kernel was made"
    y = gradient(f, x)
    np.testing.assert_array_equal(y, gradient(f, x))


PARTS = {"whole": lambda x: x, "gate": lambda x: x[:, 13:39], "turned": lambda x: x.T, "rows": lambda x: x[::2],
         "backwards": lambda x: x[::-1, ::-1], "apart": lambda x: x[:, ::2].T}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("f, reference", [
    (ag.sigmoid, lambda x: 1 / (1 + np.exp(-x))), (ag.silu, lambda x: x / (1 + np.exp(-x))),
    (ag.softplus, lambda x: np.log1p(np.exp(x))), (ag.relu, lambda x: np.maximum(x, 0))],
    ids=lambda f: getattr(f, "__name__", ""))
def test_arrays_that_numpy_would_go_over_several_times_need_not_be_large(f, reference, dtype, part, rng):
    part = PARTS[part]
    x = (rng.normal(size=(48, 52)) * 3).astype(dtype)
    f(part(ag.asarray(x)))  # asks for the kernel
    numbers = [a for a in eager.large.ready if a[1:] == (np.dtype(dtype),)]
    with pytest.MonkeyPatch.context() as patch:  # what has a kernel does not come to NumPy
        patch.setattr(eager.large, "accelerate", lambda *_: pytest.fail("no kernel was made"))
        got = f(part(ag.asarray(x))).numpy()
    assert numbers
    want = reference(part(x.astype(np.float64)))
    np.testing.assert_allclose(got, want, rtol=1e-6 if dtype == "float32" else 1e-14)
    assert got.strides == np.exp(part(x)).strides and got.dtype == dtype


@pytest.mark.parametrize("f", [ag.sigmoid, ag.tanh])
def test_rules_that_call_rows_need_not_be_large(f, rng, monkeypatch):
    x = rng.normal(size=(48, 52))
    compare(f, x)
    pulled, pull = [], eager.large.pull
    monkeypatch.setattr(eager.large, "pull", lambda *a: pulled.append(pull(*a)) or pulled[-1])
    t = ag.asarray(x.astype("float32"), requires_grad=True)
    f(t[:, 1:]).sum().backward()  # a number for all, and a part of the array
    f(t[1:]).backward(ag.ones(52, 47).T)
    assert all(p is None or p.shape == (48, 51) for p in pulled) and len(pulled) == 2
    slope = 1 / (2 + 2 * np.cosh(x)) if f is ag.sigmoid else 1 / np.cosh(x) ** 2
    want = slope.copy()
    want[:, 0] = 0
    want[1:] += slope[1:]
    np.testing.assert_allclose(t.grad.numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int32", "int64"])
def test_large_arrays_however_they_lie(dtype, rng):
    """What NumPy gives before a kernel is ready, and the kernel then: the same numbers, dtypes and shapes."""
    a, b = (ag.asarray(rng.integers(1, 50, (300, 260))).astype(dtype) for _ in range(2))
    forms = [lambda: a + b, lambda: a.mT * b.mT, lambda: a - b.mT.clone().mT, lambda: a[::-1] + b, lambda: a * 3,
             lambda: 3 - a, lambda: a > b, lambda: a > 7, lambda: a * -0.0 if a.dtype.kind in "fV" else a * 0,
             lambda: a + b.astype("float64"), lambda: a + 1e35, lambda: a * 0.5, lambda: -a, lambda: (-a.mT).mT,
             lambda: a[:, :258] * b[:, :258], lambda: a / 7, lambda: abs(a)]
    for form in forms:
        first, *later = [form() for _ in range(3)]
        for again in later:
            assert again.dtype == first.dtype and again.shape == first.shape
            assert again.numpy().tobytes() == first.numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "float16"])
def test_clipping(dtype, rng):
    x = (rng.normal(size=(300, 300)) * 10).astype(dtype)
    if dtype != "int32":
        x[0, :5] = [np.nan, np.inf, -np.inf, -0.0, 0.0]
    low, high = ((rng.normal(size=(300, 300)) * 5).astype(dtype) for _ in range(2))
    for bounds in ((-2, 3), (-2, None), (None, 3), (low, high), (low, 3), (0, high), (high, None), (5, -5),
                   (low[0], 3)):
        given = [ag.asarray(b) if isinstance(b, np.ndarray) else b for b in bounds]
        got = [ag.clip(ag.asarray(x), *given).numpy() for _ in range(3)]
        want = x if bounds[0] is None else np.maximum(x, bounds[0])
        want = want if bounds[1] is None else np.minimum(want, bounds[1])
        assert all(g.dtype == x.dtype and np.array_equal(g, want, equal_nan=dtype != "int32") for g in got)
    assert any(v for k, v in eager._kernels.items() if k[0] is compile_mixed and k[1] == "clip"), "no kernel was made"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(300, 301), (70_001,), (2, 300, 200), (100_000, 3), (1, 1 << 17)])
def test_reductions_of_large_arrays(dtype, shape, rng):
    x = ag.asarray(rng.normal(size=shape) + 0.1).astype(dtype)
    exact = x.astype("float64").numpy()
    n = len(shape)
    for axis in (None, n - 1, -1, 0, tuple(range(n)), (-1, *range(n - 1)), tuple(range(1, n)) or None):
        for keepdims in (False, True):
            for name in ("sum", "mean", "max", "min"):
                got = [getattr(x, name)(axis=axis, keepdims=keepdims) for _ in range(2)][1]
                want = getattr(exact, name)(axis=axis, keepdims=keepdims)
                assert got.dtype == x.dtype and got.shape == want.shape
                error = 0 if name in ("max", "min") else {"float64": 1e-13, "float32": 1e-5}.get(dtype, 1e-2)
                np.testing.assert_allclose(got.astype("float64").numpy(), want, rtol=error, atol=error * 10)
    for axis in (n, -n - 1, (0, 0), (0, n)):
        for name in ("sum", "max", "min"):
            with pytest.raises(AxisError):
                getattr(x, name)(axis=axis)
    y = x.astype("float64").numpy().copy()
    y.ravel()[-1] = np.nan
    y = ag.asarray(y).astype(dtype)
    assert all(np.isnan(float(getattr(y, name)())) for name in ("sum", "max", "min"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_of_large_and_small_arrays_are_the_same(dtype, rng):
    x = np.concatenate([[0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38], rng.normal(size=70_000) * 1e3]).astype(dtype)
    for power in (2, 2.0, 0.5, -1, -1.0):
        large = [(ag.asarray(x) ** power).numpy() for _ in range(3)]
        small = np.concatenate([(ag.asarray(x[i:i + 1000]) ** power).numpy() for i in range(0, x.size, 1000)])
        assert all(np.array_equal(a, small, equal_nan=True) and (np.signbit(a) == np.signbit(small))[~np.isnan(a)].all()
                   for a in large)


def test_logic_of_large_arrays(rng):
    a, b = (rng.random(70_000) < 0.5 for _ in range(2))
    for f, g in ((lambda x, y: x & y, np.logical_and), (lambda x, y: x | y, np.logical_or),
                 (lambda x, y: x ^ y, np.logical_xor), (lambda x, y: ~x, lambda x, y: ~x),
                 (ag.logical_and, np.logical_and), (lambda x, y: x == y, np.equal)):
        got = [f(ag.asarray(a), ag.asarray(b)).numpy() for _ in range(3)]
        assert all(v.dtype == np.bool_ and (v == g(a, b)).all() for v in got)


SHAPES = [((300, 300), (300,)), ((300, 300), (1, 300)), ((300, 257), (300, 1)), ((20, 60, 70), (60, 70)),
          ((20, 60, 70), (20, 1, 1)), ((20, 60, 70), (20, 60, 1)), ((20, 60, 70), (60, 1)), ((300, 300), (1, 1)),
          ((1 << 17, 4), (4,)), ((70_000,), (1,)), ((300, 300), ())]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_stretched_over_the_rows_of_others(shapes, dtype, rng):
    x, y = (rng.normal(size=s).astype(dtype) for s in shapes)
    for f in ("add", "subtract", "multiply", "divide", "maximum", "greater"):
        for a, b in ((x, y), (y, x), (x[::-1], y)):
            got = [getattr(ag, f)(ag.asarray(a), ag.asarray(b)).numpy() for _ in range(3)]
            want = getattr(np, f)(a, b)
            assert all(g.dtype == want.dtype and g.tobytes() == want.tobytes() for g in got)
    assert any(v for k, v in eager._kernels.items() if k[0] == "stretched"), "no kernel was made"


EXACT = """add subtract multiply divide floor_divide remainder fmod negative positive abs sign reciprocal square sqrt
    rsqrt floor ceil trunc round copysign maximum minimum fmax fmin relu equal not_equal less less_equal greater
    greater_equal isnan isinf isfinite signbit logical_and logical_or logical_xor logical_not""".split()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_are_bit_for_bit_those_of_numpy(name, dtype, rng):
    """For these it cannot be seen when eager code goes over to a kernel (docs/compiler.md names them)."""
    with np.errstate(all="ignore"):
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1, -1, 2, 0.5, 3e38, 7, 1e-300,
                            1e300]).astype(dtype)
        x, y = (np.concatenate([g.ravel(), (rng.normal(size=70_000) * 30).astype(dtype)])
                for g in np.meshgrid(special, special))
    arguments = [ag.asarray(a) for a in (x, y)][:len(TABLE[name].inputs)]
    first, _, again = [getattr(ag, name)(*arguments).numpy() for _ in range(3)]
    op = TABLE[name]
    assert any(v is not None and eager._rows.get(k[0]) is op for k, v in eager._kernels.items()), "no kernel was made"
    bits = [a.view(f"u{a.itemsize}") for a in (first, again)]
    nan = [np.isnan(a) if a.dtype.kind == "f" else False for a in (first, again)]
    assert ((bits[0] == bits[1]) | nan[0] & nan[1]).all()


def test_rules_of_numbers_are_few(rng):
    """A number in a rule is part of the kernel; a program with many of them does not make as many kernels."""
    x = rng.normal(size=(100, 100))
    before = len(eager._kernels)
    for i in range(30):
        compare(lambda x, i=i: x * (1.5 + i), x)
    assert len(eager._kernels) - before <= 2 * eager._VARIANTS
    for zero in (0.0, -0.0):
        assert (np.signbit(gradient(lambda x, zero=zero: x * zero, abs(x))[1]) == np.signbit(
            zero * np.linspace(-1, 2, x.size).reshape(x.shape))).all()


def test_rules_of_stretched_and_turned_arrays(rng):
    x, row, turned = rng.normal(size=(120, 90)), rng.normal(size=90), rng.normal(size=(90, 120))
    compare(lambda x, r, t: ag.tanh(x * r) * t.mT + ag.maximum(x, r), x, row, turned)
    compare(lambda x: ag.where(x > 0, x, 2.5) * ag.relu(x), x)


def test_gradients_of_gradients_do_not_come_from_kernels(rng):
    def second(x):
        (g,) = ag.gradients([ag.gelu(x).sum()], [x], create_graph=True)
        return g * x

    compare(second, rng.normal(size=(100, 100)))


ROWS = [(700, 37), (130, 257), (20, 4099)]


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("affine", [0, 1, 2])
def test_norms(shape, affine, rng):
    x, weight, bias = rng.normal(2, 3, shape), rng.normal(size=shape[1]), rng.normal(size=shape[1])
    compare(lambda x, *a: ag.layer_norm(x, shape[1], *a), *(x, weight, bias)[:affine + 1], error=3e-5)
    if affine < 2:
        compare(lambda x, *a: ag.rms_norm(x, shape[1], *a, eps=0.1), *(x, weight)[:affine + 1], error=3e-5)


@pytest.mark.parametrize("shape", ROWS)
def test_softmax_and_losses(shape, rng):
    x = rng.normal(size=shape) * 20
    compare(lambda x: ag.softmax(x, axis=-1), x, error=1e-4)
    compare(lambda x: ag.log_softmax(x, axis=-1), x, error=1e-4)
    compare(lambda x: ag.softmax(x, axis=0), x, error=1e-4)
    target = rng.integers(0, shape[1], shape[0])
    for reduction in ("mean", "sum", "none"):
        compare(lambda x, r=reduction: ag.cross_entropy(x, target, reduction=r), x, error=1e-4)
        ignoring = np.where(rng.random(shape[0]) < 0.3, -100, target).astype("int32")
        compare(lambda x, r=reduction, t=ignoring: ag.cross_entropy(x, t, reduction=r), x, error=1e-4)


@pytest.mark.parametrize("shape, axis", [((64, 37), 0), ((3, 40, 9), 1), ((2, 3, 130), -2), ((1, 700, 1), 1)], ids=str)
def test_softmax_down_columns(shape, axis, rng, monkeypatch):
    x, native, done = rng.normal(size=shape) * 20, large.native, set()

    def watched(name, *rest):
        found = native(name, *rest)
        if found is not None:
            done.add(name)
        return found

    infinite = x.copy()
    infinite[tuple(0 for _ in shape)] = -np.inf
    for f in (ag.softmax, ag.log_softmax, ag.logsumexp, ag.var, ag.std):
        given = infinite if f in (ag.softmax, ag.logsumexp) else x
        compare(lambda x, f=f: f(x, axis=axis), given, error=1e-4)
        with monkeypatch.context() as patch:
            patch.setattr(large, "native", watched)
            compare(lambda x, f=f: f(x, axis=axis), given, error=1e-4)
    assert done >= {"softmax", "log_softmax", "logsumexp", "deviation", "softmax_grad", "log_softmax_grad"}


def test_infinite_logits(rng):
    x = rng.normal(size=(200, 100))
    x[:, 7] = -np.inf
    compare(lambda x: ag.cross_entropy(x, np.arange(200) % 7), x)
    y = ag.softmax(ag.asarray(np.where(np.arange(200)[:, None] == 3, -np.inf, x).astype("f4")), axis=-1).numpy()
    assert np.isnan(y[3]).all() and np.isfinite(np.delete(y, 3, 0)).all()


@pytest.mark.parametrize("shape", [(700, 37), (64, 1024), (5, 4099), (3, 64, 128)])
def test_sums_over_the_first_axes(shape, rng):
    compare(lambda x: (x * 2).sum(axis=tuple(range(len(shape) - 1))), rng.normal(size=shape))
    compare(lambda x, b: x + b, rng.normal(size=shape), rng.normal(size=shape[-1]))
    compare(lambda x, b: ag.affine(x, np.eye(shape[-1], 5, dtype=x.dtype), b[:5]), rng.normal(size=shape),
            rng.normal(size=shape[-1]))


@pytest.mark.parametrize("shape", [(100, 90, 110), (1, 300, 200), (300, 1, 200), (130, 200, 1), (2, 50, 80, 120)])
def test_linear_maps(shape, rng):
    *rows, inner, outer = shape
    x, w, b = rng.normal(size=(*rows, inner)), rng.normal(size=(inner, outer)), rng.normal(size=outer)
    compare(ag.affine, x, w, b)
    compare(ag.affine, x, w)
    compare(ag.linear, x, w.T.copy(), b)
    compare(lambda x, w, b: ag.affine(x, w, b[::2]), x, w[:, ::2].copy(), np.repeat(b[::2], 2)[:2 * len(b[::2])])
    compare(lambda x, w: x @ w, x, w)


def test_linear_maps_of_special_values(rng):
    x, w, b = rng.normal(size=(100, 120)), rng.normal(size=(120, 110)), np.zeros(110)
    x[3], w[:, 5], b[7], b[8] = np.inf, np.nan, -np.inf, np.nan
    with np.errstate(all="ignore"):
        want = np.isnan(x @ w + b)
    for _ in range(2):
        with np.errstate(all="ignore"):
            y = ag.affine(*[ag.asarray(a.astype("f4")) for a in (x, w, b)]).numpy()
        np.testing.assert_array_equal(np.isnan(y), want)


def cells(x, w, b, steps, use):
    """A net that uses the weight (m, n) at every step."""
    h = x
    for _ in range(steps):
        y = use(h, w)
        h = ag.tanh(y[..., :h.shape[-1]] + b)
    return h


@pytest.mark.parametrize("use", [ag.affine, lambda h, w: h @ w, lambda h, w: ag.linear(h, w.mT)])
@pytest.mark.parametrize("rows, steps", [((3,), 2), ((16,), 9), ((2, 3), 60), ((), 5)])
def test_weights_that_are_used_often(use, rows, steps, rng):
    x, w, b = rng.normal(size=(*rows, 90)), rng.normal(size=(90, 120)) / 10, rng.normal(size=90)
    compare(lambda x, w, b: cells(x, w, b, steps, use), x, w, b, error=3e-5)


def test_weights_that_are_used_often_and_otherwise(rng):
    """The cotangents of products and of other uses meet; hooks and accumulation see their sum."""
    w, xs = rng.normal(size=(100, 120)).astype("f4"), rng.normal(size=(6, 4, 100)).astype("f4")
    weight = ag.asarray(w, requires_grad=True)
    seen = []
    weight.register_hook(lambda g: seen.append(np.array(g.numpy())))

    def loss(weight):
        return sum((ag.linear(ag.asarray(x), weight.mT).sum() + (ag.asarray(x) @ weight).sum() for x in xs), (
            weight * 3).sum())

    loss(weight).backward()
    want = 2 * np.broadcast_to(xs.sum((0, 1))[:, None], w.shape) + 3
    np.testing.assert_allclose(weight.grad.numpy(), want, rtol=1e-4, atol=1e-4)
    assert len(seen) == 1 and (seen[0] == weight.grad.numpy()).all()
    loss(weight).backward()
    np.testing.assert_allclose(weight.grad.numpy(), 2 * want, rtol=1e-4, atol=1e-4)
    (g,) = ag.gradients([loss(weight)], [weight])
    np.testing.assert_allclose(g.numpy(), want, rtol=1e-4, atol=1e-4)
    for dtype in ("float16", "float64", "complex64"):
        v = ag.asarray(w.astype(dtype), requires_grad=True)
        y = sum((ag.asarray(x.astype(dtype)) @ v).sum() for x in xs)
        ag.real(y).backward() if dtype == "complex64" else y.backward()
        np.testing.assert_allclose(np.array(v.grad.numpy()).real, (want - 3) / 2, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads, queries, keys, size, values", [
    ((3, 4), 33, 47, 17, 24), ((5,), 70, 70, 16, 16), ((), 130, 64, 8, 32), ((2, 3), 1, 300, 16, 16),
    ((2, 2, 2), 20, 20, 8, 8)])
def test_attention(heads, queries, keys, size, values, causal, rng):
    q, k, v = (rng.normal(size=(*heads, *s)) for s in ((queries, size), (keys, size), (keys, values)))
    attend = lambda q, k, v: ag.scaled_dot_product_attention(q, k, v, is_causal=causal)
    compare(attend, q, k, v, error=3e-5)
    if len(heads) == 2:  # heads within rows, and parts of one array
        turned = [np.ascontiguousarray(a.transpose(0, 2, 1, 3)) for a in (q, k, v)]
        compare(lambda *xs: attend(*[ag.permute_dims(x, (0, 2, 1, 3)) for x in xs]), *turned, error=3e-5)
    both = np.concatenate([k, v], axis=-1)
    compare(lambda q, kv: attend(q, kv[..., :size], kv[..., size:]), q, both, error=3e-5)


def test_attention_to_infinite_and_nan_scores(rng):
    q, k, v = rng.normal(size=(3, 2, 40, 16))
    k, v = np.stack([k] * 3), np.stack([v] * 3)
    q = np.stack([q] * 3)
    k[1, 0, 5], v[2, 1, 7, 3] = np.nan, np.inf
    with np.errstate(all="ignore"):
        compare(ag.scaled_dot_product_attention, q, k, v, error=3e-5)


@pytest.mark.parametrize("x, y", [((40, 33, 1), (40, 1, 29)), ((5, 8, 33, 1), (5, 8, 1, 29)),
                                  ((40, 3, 1), (40, 1, 290)), ((1, 100, 1), (40, 1, 29))], ids=str)
def test_outer_products_of_batches(x, y, rng):
    x, y = rng.normal(size=x), rng.normal(size=y)
    for a, b in ((x, y), (x.swapaxes(0, -3), y.swapaxes(0, -3)), (x[..., ::-1, :], y[..., ::-2])):
        got = compare(ag.matmul, a, b)
        np.testing.assert_allclose(got[0], a * b, rtol=1e-5)


def test_gradients_for_each_example_of_large_weights(rng):
    x, w = rng.normal(size=(64, 40)), rng.normal(size=(40, 50))
    f = lambda w, x: ag.tanh(x @ w).sum()
    for _ in range(2):
        got = ag.vmap(ag.grad(f), in_axes=(None, 0))(ag.asarray(w.astype("f")), ag.asarray(x.astype("f")))
    want = x[:, :, None] * (1 - np.tanh(x @ w) ** 2)[:, None, :]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "var", "std"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reductions(name, dtype, rng):
    for shape in [(300, 301), (3, 77, 300), (2, 65537), (65536,), (70_000, 1)]:
        a = ag.asarray((rng.normal(size=shape) + 3).astype(dtype))
        for axis in [None, -1, tuple(range(len(shape))[1:]) or 0, 0]:
            for keepdims in (False, True):
                f = getattr(ag, name)
                first, *later = [f(a, axis=axis, keepdims=keepdims) for _ in range(3)]
                want = getattr(np, name)(a.numpy().astype("d"), axis=axis, keepdims=keepdims)
                for y in later:
                    assert y.shape == first.shape == want.shape and y.dtype == first.dtype
                    np.testing.assert_allclose(y.numpy(), want, 3e-6 if dtype == "float32" else 1e-13, 1e-7)
    if name in ("var", "std"):
        used = [eager._kernels.get((make, "deviation", dtype)) for make in
                (eager.compile_row_program, eager.compile_column_program)]
    else:
        used = [eager.reductions.ready.get((name, np.dtype(dtype)))]
    assert all(used), "no kernel was made"


REDUCTIONS = {"sum": "biufhB", "prod": "biuf", "max": "iufhB", "min": "iufhB", "mean": "fhB", "any": "b", "all": "b",
              "count_nonzero": "bif", "vector_norm": "f"}


def some_axes(rng, rank):
    """None, an axis, or several in any order, counted from either end."""
    axes = [int(a) - rank * int(rng.integers(2)) for a in rng.permutation(rank)[:rng.integers(1, rank + 1)]]
    return [None, axes[0], tuple(axes)][rng.integers(3)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool", "float16", "bfloat16"])
def test_reductions_over_any_axes(dtype, rng, monkeypatch):
    """What NumPy gives before a kernel is ready, and the kernel then: the same shapes and dtypes, and numbers."""
    kind = {"bfloat16": "B", "float16": "h"}.get(dtype, np.dtype(dtype if dtype != "bfloat16" else "f").kind)
    names = [name for name, takes in REDUCTIONS.items() if kind in takes]
    reduce, done = eager.large.reduced, set()

    def watched(name, *rest):
        found = reduce(name, *rest)
        if found is not None:
            done.add({"norm": "vector_norm"}.get(name, name))
        return found

    for _ in range(60):
        shape = tuple(int(n) for n in rng.choice([1, 2, 3, 7, 16, 31, 64, 130], rng.integers(1, 5)))
        size = int(np.prod(shape))
        if size < 512 or size > 1 << 17:
            shape = (*shape[:1], 37, 29)
        whole = ag.asarray(rng.normal(1, 0.5 if kind in "fhB" else 5, shape)).astype(dtype)
        for x in (whole, whole[..., ::-1]):
            for name in names:
                axis, keepdims = some_axes(rng, len(shape)), bool(rng.integers(2))
                with np.errstate(all="ignore"):
                    monkeypatch.setattr(eager.large, "reduced", lambda *_: None)
                    want = getattr(ag, name)(x, axis=axis, keepdims=keepdims)
                    monkeypatch.setattr(eager.large, "reduced", watched)
                    got = [getattr(ag, name)(x, axis=axis, keepdims=keepdims) for _ in range(2)]
                for y in got:
                    assert y.shape == want.shape and y.dtype == want.dtype, (name, shape, axis)
                    a, b = (v.astype("float64").numpy() for v in (y, want))
                    if kind not in "fhB" or name in ("max", "min"):
                        np.testing.assert_array_equal(a, b)
                    else:
                        error = {"float64": 1e-11, "float32": 1e-3}.get(dtype, 2e-2)
                        np.testing.assert_allclose(a, b, rtol=error, atol=error * max(1, size**0.5))
    assert done >= {*names} - {"count_nonzero"}


def test_few_numbers_go_to_numpy(monkeypatch):
    monkeypatch.setattr(eager.large, "reduced", lambda *_: pytest.fail("a kernel was asked for"))
    x = ag.arange(500.0).reshape(50, 10)
    for name in ("sum", "prod", "max", "min", "mean", "vector_norm"):
        for axis in (None, 0, 1):
            getattr(ag, name)(x, axis=axis)


def test_sums_of_bools_and_integers_are_computed_once(monkeypatch):
    """Their results have another dtype, which is no reason to begin again."""
    counted = []
    monkeypatch.setattr(eager.large, "reduced", lambda *a: counted.append(a) or np.zeros((), np.int64))
    for dtype in ("bool", "int32", "uint8"):
        assert ag.sum(ag.ones(40, 40).astype(dtype)).dtype == ag.int64
    assert len(counted) == 3


def test_reductions_of_nan_and_infinity():
    a = np.zeros((300, 301), np.float32)
    a[0, 5], a[1, 6], a[2, 7], a[3] = np.nan, np.inf, -np.inf, -np.inf
    for name in ("sum", "max", "min"):
        for axis in (None, 1):
            for _ in range(2):
                np.testing.assert_array_equal(getattr(ag, name)(ag.asarray(a), axis=axis).numpy(),
                                              getattr(np, name)(a, axis=axis))


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "bool", "complex64"])
def test_running_sums_and_products(name, dtype, rng):
    for shape in [(260, 300), (3, 130, 300), (70_001,), (1, 70_001), (300, 1, 300), (5000, 20)]:
        a = (rng.integers(0, 3, shape) * 0.5 + (0.25 if name == "cumprod" else 0)).astype(dtype)
        for axis in range(-1, len(shape)):
            with np.errstate(all="ignore"):
                first, *later = [getattr(ag, name)(ag.asarray(a), axis=axis).numpy() for _ in range(3)]
                want = getattr(np, name)(a, axis=axis)
            for y in (first, *later):
                assert y.shape == first.shape and y.dtype == first.dtype
                np.testing.assert_array_equal(y, want)  # the sums are exact


def test_running_sums_of_special_values():
    a = np.full((260, 300), -0.0, np.float32)
    a[1, 7], a[2, 8], a[3, 250], a[3, 260] = np.nan, np.inf, np.inf, -np.inf
    for _ in range(2):
        y = ag.cumsum(ag.asarray(a), axis=1).numpy()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y, np.cumsum(a, 1))
    assert np.signbit(y[0]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["int64", "int32", "uint64"])
def test_gradients_of_embeddings_are_bit_for_bit_those_of_numpy(kind, dtype, rng, monkeypatch):
    ids = rng.integers(0 if kind[0] == "u" else -65, 65, (40, 21)).astype(kind)
    g, done = rng.normal(size=(40, 21, 48)).astype(dtype), []
    kernel = eager.large.kernels["add_rows"]
    monkeypatch.setitem(eager.large.kernels, "add_rows", lambda *a: done.append(kernel(*a)) or done[-1])
    adjoint = lambda ids: raw._take_adjoint(g, ids, shape=(65, 48), axis=0)
    adjoint(ids)  # asks for the kernel
    got = adjoint(ids)
    assert (done[-1] is None) == (kind == "uint64")
    with pytest.raises(IndexingError, match="has size 65"):
        adjoint(ids + np.array(1, kind))
    monkeypatch.setattr(eager.large, "native", lambda *_: None)
    np.testing.assert_array_equal(got, adjoint(ids))


@pytest.mark.parametrize("recorded", [False, True])
def test_a_recording_waits_for_the_compiler_and_nobody_else(recorded, monkeypatch):
    seen, done = [], threading.Event()
    monkeypatch.setattr(large, "_loader", None)
    monkeypatch.setattr(large, "_done", 0)
    monkeypatch.setattr(large, "kernels", {})
    # (who waits for this thread does not come to `done.set()`)
    monkeypatch.setattr(config, "load_compiler", lambda: seen.append(done.wait(0.2 if recorded else 60)))
    x = ag.ones(1 << 8, 1 << 9)  # 2 ** 25 multiplications with itself transposed
    with recording(Recorder()) if recorded else contextlib.nullcontext():
        for _ in range(8):
            x @ x.mT
        done.set()
    large._loader.join()
    assert seen == [not recorded]


def test_a_recording_takes_what_is_on_disk_and_compiles_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(eager, "_request", request_one)
    monkeypatch.setattr(config, "cache_dir", lambda: tmp_path)
    compiled, looked, stored = [], [], jit.stored
    monkeypatch.setattr(jit, "_compile", lambda *args: compiled.append(args) or codegen.compile(*args))
    monkeypatch.setattr(jit, "stored", lambda name: looked.append(name) or stored(name))

    class Twice:
        def __init__(self, dtype):
            self.kernel = compile_elementwise("twice", lambda k, x: x + x, [dtype], [dtype], recipe="test: x + x")

        def run(self, x, empty):
            out = empty(x.shape, x.dtype)
            self.kernel([out], [x])
            return out

    x = np.ones(1000, np.float32)
    row, bounds = (compile_mixed, "clip", x.dtype, "ann"), (np.array(0.2, x.dtype), np.array(0.4, x.dtype))
    for found in (False, True):
        gc.collect()  # code that is still loaded would be used again
        family = eager._Family(Twice, twice="run")
        twice, clip = family.kernel("run"), lambda: large.kernels["clip"](x, *bounds)
        monkeypatch.setattr(eager, "_kernels", {})
        before = len(compiled)
        with recording(Recorder()):
            answers = [(twice(x), clip()) for _ in range(3)]
        assert [a is not None for a, _ in answers] == [False, found, found] and all(b is None for _, b in answers)
        assert row not in eager._kernels and len(compiled) == before
        assert found or x.dtype not in family.ready and len(looked) == 1
        if not found:
            with recording(Recorder()), monkeypatch.context() as patch:
                patch.setattr(eager, "_SOON", 0.0)  # who records for so long
                clip(), twice(x)
            while not (family.ready.get(x.dtype) and eager._kernels.get(row)):
                time.sleep(0.01)
            np.testing.assert_array_equal(twice(x), x + x)
            np.testing.assert_array_equal(clip(), np.clip(x, np.float32(0.2), np.float32(0.4)))
            del family, twice
            eager._kernels.clear()


@pytest.mark.parametrize("f, names", [
    (lambda x: ag.softmax(x, axis=1), ("softmax", "softmax_grad")),
    (lambda x: ag.log_softmax(x, axis=1), ("log_softmax", "log_softmax_grad")),
    (lambda x: ag.cross_entropy(x, ag.arange(24) % 7), ("cross_entropy", "cross_entropy_grad")),
    (lambda x: ag.layer_norm(x, (30,), ag.ones(30), ag.ones(30)), ("norm", "norm_grad"))],
    ids=["softmax", "log_softmax", "cross_entropy", "layer_norm"])
def test_rows_need_not_be_large(f, names, rng, monkeypatch):
    x = rng.normal(size=(24, 30))
    compare(f, x)
    done = []
    for name in names:
        kernel = eager.large.kernels[name]
        monkeypatch.setitem(eager.large.kernels, name, lambda *a, kernel=kernel: done.append(kernel(*a)) or done[-1])
    gradient(f, x)
    assert len(done) == 2 and all(d is not None for d in done)


def test_the_number_of_threads_does_not_change_rows_of_middle_size(rng, monkeypatch):
    x = rng.normal(size=(800, 65))

    def everything():
        norm = lambda x, w, b: ag.cross_entropy(ag.softmax(ag.layer_norm(x, (65,), w, b), axis=1), ag.arange(800) % 65)
        return gradient(norm, x, np.ones(65), np.ones(65))

    everything()
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(eager.config, "num_threads", threads)
        results.append([a.tobytes() for a in everything()])
    assert results[0] == results[1] == results[2]


def test_rules_of_sums_call_for_the_compiler(rng, monkeypatch):
    """Their cotangent is one number, which says nothing about the work."""
    seen = []
    monkeypatch.setattr(large, "pull", large._count_rule)
    monkeypatch.setattr(large, "_count", seen.append)
    x = ag.asarray(rng.normal(size=(30, 40)).astype("float32"), requires_grad=True)
    ag.tanh(x).sum().backward()
    assert seen == [16 * 1200]


def test_a_number_for_all_as_a_cotangent(rng):
    for f in (ag.sigmoid, ag.tanh):
        x = rng.normal(size=(30, 40)).astype("float32")
        got = []
        for _ in range(3):
            t = ag.asarray(x, requires_grad=True)
            (f(t).sum() * 0.75).backward()
            got.append(t.grad.numpy())
        slope = 1 / (2 + 2 * np.cosh(x)) if f is ag.sigmoid else 1 / np.cosh(x) ** 2
        np.testing.assert_allclose(got[-1], 0.75 * slope, rtol=1e-4, atol=1e-7)
        assert TABLE[f.__name__].straight[0] in eager._numbers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("f, reference", [
    (lambda x: ag.leaky_relu(x), lambda x: np.where(x > 0, x, 0.01 * x)),
    (lambda x: ag.leaky_relu(x, ag.asarray(0.5, dtype=x.dtype)), lambda x: np.where(x > 0, x, 0.5 * x)),
    (lambda x: ag.hardtanh(x, -0.5, 1.5), lambda x: np.clip(x, -0.5, 1.5)),
    (lambda x: ag.hardshrink(x, 0.25), lambda x: np.where(abs(x) <= 0.25, 0, x)),
    (lambda x: ag.softshrink(x), lambda x: x - np.clip(x, -0.5, 0.5)),
    (lambda x: ag.elu(x, 0.7), lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)))])
def test_rows_with_numbers(f, reference, dtype, rng, monkeypatch):
    x = rng.normal(size=(30, 40)).astype(dtype)
    x[0, :4] = np.nan, np.inf, -np.inf, -0.0
    done, run = [], Mixed._run
    monkeypatch.setattr(Mixed, "_run", lambda *a: done.append(run(*a)) or done[-1])
    f(ag.asarray(x))  # asks for the kernel
    got = f(ag.asarray(x)).numpy()
    assert done[-1] is not None and got.dtype == dtype
    np.testing.assert_allclose(got, reference(x.astype("float64")), rtol=1e-6 if dtype == "float32" else 1e-14)
    stretched = f(ag.asarray(x)[:, ::2])  # NumPy's
    assert done[-1] is None
    np.testing.assert_allclose(stretched.numpy(), got[:, ::2], rtol=1e-6)


def test_slopes_for_each_column_are_numpys(rng):
    x, slopes = rng.normal(size=(30, 40)).astype("float32"), rng.normal(size=40).astype("float32")
    for _ in range(2):
        got = ag.leaky_relu(ag.asarray(x), ag.asarray(slopes)).numpy()
        np.testing.assert_array_equal(got, np.where(x > 0, x, x * slopes))
    got = ag.leaky_relu(ag.asarray(x[:, :1].repeat(40, 0)), ag.asarray(slopes))
    assert got.shape == (1200, 40)


@pytest.mark.parametrize("shape, axis", [((40, 33), 1), ((40, 33), None), ((6, 5, 70), (1, 2)), ((6, 5, 70), -1),
                                         ((40, 33), 0), ((900,), 0), ((900,), None)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp(shape, axis, keepdims, rng):
    x = rng.standard_normal(shape).astype(np.float32) * 5
    compare(lambda x: ag.logsumexp(x, axis=axis, keepdims=keepdims), x)
    called = ag.logsumexp(ag.asarray(x), axis=axis, keepdims=keepdims)
    assert called.shape == x.sum(axis=axis, keepdims=keepdims).shape
    if shape == (40, 33) and axis == 1:
        x[0], x[1], x[2, 3], x[3, 4], x[4, :5] = -np.inf, np.inf, np.inf, np.nan, -np.inf
        with np.errstate(all="ignore"):
            want = np.logaddexp.reduce(x.astype(np.float64), axis=1, keepdims=keepdims)
        np.testing.assert_allclose(ag.logsumexp(ag.asarray(x), 1, keepdims).numpy(), want, rtol=1e-5)


@pytest.mark.parametrize("shape", [(70, 64), (3, 50, 60), (5000, 1)])
def test_extremes_of_short_rows(shape, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    x[0, 0] = np.nan
    for _ in range(2):
        for axis in (-1, 0, (0, 1)):
            for name in ("max", "min"):
                got = getattr(ag, name)(ag.asarray(x), axis=axis).numpy()
                np.testing.assert_array_equal(got, getattr(np, name)(x, axis=axis))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 7, 16, 17, 500, 70_000])
@pytest.mark.parametrize("power", [2, 3, 4, 5, 8, -1, -2, -3, 0, 1, 0.5, 1.5, 3.0, -0.5])
def test_powers_of_numbers_of_either_sign(n, dtype, power, rng):
    x = (rng.standard_normal(n) * 3).astype(dtype)
    x[:5] = np.array([-0.0, 0.0, -np.inf, np.inf, np.nan])[:n]
    with np.errstate(all="ignore"):
        wide = x.astype(np.longdouble)
        want = (np.sqrt(wide) if power == 0.5 else np.power(wide, power)).astype(dtype)  # (as NumPy has it: -0, -inf)
    for _ in range(2):
        for got in (ag.asarray(x) ** power, ag.asarray(x, requires_grad=True).__pow__(power).detach()):
            got = got.numpy()
            np.testing.assert_allclose(got, want, rtol=4 * np.finfo(dtype).eps)
            np.testing.assert_array_equal(np.signbit(got[~np.isnan(want)]), np.signbit(want[~np.isnan(want)]))


def test_rows_that_are_added(rng):
    x, y = rng.standard_normal((50, 30)).astype(np.float32), rng.standard_normal((400, 30)).astype(np.float32)
    rows = rng.integers(-50, 50, 400)
    want = x.astype(np.float64)
    np.add.at(want, rows, y)
    for _ in range(2):
        for key, value in ((rows, y), (rows.reshape(20, 20), y.reshape(20, 20, 30))):
            got = ag.asarray(x).at[ag.asarray(key)].add(ag.asarray(value))
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(IndexingError, match="50"):
        ag.asarray(x).at[ag.asarray(rows + 50)].add(ag.asarray(y))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (1.0, -1.0), (-np.inf, 0.5), (np.nan, 1.0), (-1.0, np.nan)])
def test_clip_of_many(dtype, bounds, rng):
    x = (rng.standard_normal((100, 50)) * 3).astype(dtype)
    if dtype != "int32":
        x[0, :3] = np.nan, np.inf, -np.inf
    elif not np.isfinite(bounds).all():
        return
    low, high = (int(b) if dtype == "int32" else b for b in bounds)
    want = np.minimum(np.maximum(x, np.array(low, dtype)), np.array(high, dtype))
    for a, b in ((low, high), (ag.asarray(low, dtype=dtype), ag.asarray(high, dtype=dtype))):
        got = ag.clip(ag.asarray(x), a, b)
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [
    {}, {"weight_decay": 0.1}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
def test_sgd_on_large_parameters(options, dtype, monkeypatch, rng):
    """The native update does what the NumPy one does, three steps long, and is taken."""
    asked, ends = [], []

    def native(name, work, *arguments):
        asked.append(name)
        if name == "sgd" and not ends:
            return steps.Descent(lambda make, *key: make(*key)).update(*arguments)
        return None

    monkeypatch.setattr(eager.large, "native", native)
    start, gradients = rng.standard_normal(100_003).astype(dtype), rng.standard_normal((3, 100_003)).astype(dtype)
    for _ in range(2):  # the first time natively
        p = ag.asarray(start.copy()).requires_grad_()
        opt = ag.optim.SGD([p], lr=0.1, **options)
        for g in gradients:
            p.grad = ag.asarray(g)
            opt.step()
        ends.append(p.detach().numpy())
    assert asked.count("sgd") == 6
    np.testing.assert_allclose(*ends, 0, 8 * np.finfo(dtype).eps)
    assert not np.array_equal(ends[0], start)
