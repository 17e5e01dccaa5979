"""Native kernels of few numbers, against what NumPy computes where there is none."""

import contextlib
import functools

import numpy as np
import pytest

import agog as ag
from agog.array import few
from agog.compiler import eager, jit
from agog.errors import AgogError, IndexingError
from agog.ops import few_logits
from agog.ops.row import TABLE


def forget():
    for kernels in (*few._known.values(), few_logits._forward, few_logits._backward):
        kernels.clear()


@pytest.fixture
def native(monkeypatch):
    """Kernels are made where they are first wanted, and used at once."""
    def make(make, *key):
        with contextlib.suppress(Exception):
            make(*key)

    def ask(name, dtype):
        eager._few(name, dtype)
        return eager._few(name, dtype)

    monkeypatch.setattr(eager, "_request", make)
    monkeypatch.setattr(few, "ask", ask)
    yield
    forget()


def made():
    return {(name, dtype.name) for name, kernels in few._known.items() for dtype, run in kernels.items() if run}


def both(f, monkeypatch):
    """The results with kernels, and without."""
    got = f()
    with monkeypatch.context() as patch:
        patch.setattr(few, "ask", lambda name, dtype: None)
        forget()
        want = f()
    forget()
    return got, want


LAYOUTS = {
    "whole": lambda x: x, "turned": lambda x: x.T, "part": lambda x: x[..., 1:], "backwards": lambda x: x[..., ::-1],
    "one": lambda x: x[:1], "none": lambda x: x[:0], "column": lambda x: x[..., :1], "empty rows": lambda x: x[..., :0],
    "one row": lambda x: x[0], "cube": lambda x: x.reshape(2, 3, -1),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
}
SPECIAL = np.array([[0.0, -0.0, 1.5, -2.0, 3.0, 80.0, -90.0, 1e-3],
                    [np.inf, 1.0, -1.0, 2.0, 0.5, 0.25, -0.5, 4.0],
                    [-np.inf, 1.0, -1.0, 2.0, 0.5, 0.25, -0.5, 4.0],
                    [np.nan, 1.0, -1.0, 2.0, 0.5, 0.25, -0.5, 4.0],
                    [-np.inf] * 8,
                    [np.inf] * 8])
ROWS = {
    "softmax": lambda x: ag.softmax(x, axis=-1), "softmax 0": lambda x: ag.softmax(x, axis=0),
    "log_softmax": lambda x: ag.log_softmax(x, axis=-1), "log_softmax 0": lambda x: ag.log_softmax(x, axis=0),
    "logsumexp": lambda x: ag.logsumexp(x), "logsumexp -1": lambda x: ag.logsumexp(x, axis=-1, keepdims=True),
    "logsumexp 0": lambda x: ag.logsumexp(x, axis=0), "var": lambda x: ag.var(x, axis=-1, correction=1),
    "std": lambda x: ag.std(x), "mean": lambda x: ag.mean(x, axis=-1), "mean 0": lambda x: ag.mean(x, axis=(0,)),
    "batch_norm": lambda x: ag.batch_norm(x, None, None, x[0] * 0 + 2.0, x[0] * 0 + 0.5, training=True)[0],
    "layer_norm": lambda x: ag.layer_norm(x, x.shape[-1:]), "rms_norm": lambda x: ag.rms_norm(x, x.shape[-1:]),
    **{op.name: getattr(ag.dispatch.tensors, op.name) for op in TABLE.values()
       if op.elementwise and op.widen and op.lower and len(op.inputs) == 1 and not op.statics},
}
EXACT = {
    "sum": lambda x: ag.sum(x), "sum -1": lambda x: ag.sum(x, axis=-1), "sum 0": lambda x: ag.sum(x, axis=0),
    "kept": lambda x: ag.sum(x, axis=0, keepdims=True), "two": lambda x: ag.sum(x, axis=(0, 1)),
    "mean": lambda x: ag.mean(x), "mean 0": lambda x: ag.mean(x, axis=0), "max": lambda x: ag.max(x),
    "max -1": lambda x: ag.max(x, axis=(-1,)), "min 0": lambda x: ag.min(x, axis=0, keepdims=True),
    "any": lambda x: ag.any(x > 0, axis=-1), "all": lambda x: ag.all(x > 0),
    "none of them": lambda x: ag.sum(x, axis=()),
}
ERRORS = {"float32": 1e-6, "float64": 1e-14}


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", ROWS)
def test_rows_are_those_of_numpy(row, layout, dtype, rng, native, monkeypatch):
    x = ag.from_numpy(LAYOUTS[layout](rng.normal(size=(6, 8)).astype(dtype)))
    compare(ROWS[row], x, ERRORS[dtype] * 4, monkeypatch)


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("row", ROWS)
def test_special_values_are_those_of_numpy(row, dtype, native, monkeypatch):
    compare(ROWS[row], ag.asarray(SPECIAL.astype(dtype)), ERRORS[dtype] * 40, monkeypatch)


def compare(row, x, error, monkeypatch):
    def run():
        try:
            return row(x)
        except AgogError as e:
            return str(e)

    got, want = both(run, monkeypatch)
    if isinstance(want, str):
        assert got == want
        return
    assert got.dtype == want.dtype and got.shape == want.shape and type(got._data) is np.ndarray
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=error, atol=error)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", EXACT)
def test_reductions_are_those_of_numpy_to_the_bit(row, layout, dtype, rng, native, monkeypatch):
    x = ag.from_numpy(LAYOUTS[layout]((rng.normal(size=(6, 8)) * 50).astype(dtype)))
    rounded = row.startswith("mean") and dtype == "float16"  # it is averaged in float32
    compare(EXACT[row], x, 1e-3 if rounded else 0, monkeypatch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_added_in_the_order_of_numpy(dtype, rng, native):
    for shape in [(n,) for n in range(1, 512, 3)] + [(a, b) for a in (1, 2, 3, 9, 17) for b in (1, 2, 7, 8, 9, 29)]:
        x = (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)
        for axis in (None, 0, -1):
            np.testing.assert_array_equal(ag.sum(ag.asarray(x), axis=axis).numpy(), np.add.reduce(x, axis))
    assert ("sum fold", dtype) in made()
    zero = ag.sum(ag.asarray(np.full(3, -0.0, dtype)))
    assert np.signbit(zero.numpy()) == np.signbit(np.add.reduce(np.full(3, -0.0, dtype)))


@pytest.mark.parametrize("name", [op for op in ROWS if op in TABLE and TABLE[op].elementwise])
def test_elementwise_rows_lie_in_memory_as_before(name, rng, native):
    x = rng.normal(size=(6, 8)).astype("float32")
    for layout in LAYOUTS.values():
        a = layout(x)
        assert ROWS[name](ag.from_numpy(a)).numpy().strides == np.exp(a).strides
    assert (f"{name} each", "float32") in made()


def gradients(f, *arrays):
    xs = [ag.asarray(a, requires_grad=True) for a in arrays]
    y = f(*xs)
    y.backward(ag.asarray(np.linspace(-1, 2, y.size).astype(arrays[0].dtype).reshape(y.shape)))
    return [y.detach(), *[x.grad for x in xs]]


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name, f, shapes", [
    ("softmax_backward", lambda x: ag.softmax(x, axis=1), [(3, 5)]),
    ("softmax_backward down", lambda x: ag.softmax(x, axis=0), [(3, 5)]),
    ("log_softmax_backward", lambda x: ag.log_softmax(x, axis=-1), [(3, 5)]),
    ("log_softmax_backward", lambda x: ag.log_softmax(x, axis=-1).T, [(3, 5)]),
    ("log_softmax_backward", lambda x: ag.log_softmax(x.T, axis=-1).sum(), [(3, 5)]),
    ("norm0_backward", lambda x: ag.layer_norm(x, (5,)), [(3, 5)]),
    ("norm1_backward", lambda x, w: ag.layer_norm(x, (5,), w), [(2, 3, 5), (5,)]),
    ("norm2_backward", lambda x, w, b: ag.layer_norm(x, (3, 5), w, b), [(9, 3, 5), (3, 5), (3, 5)]),
    ("norm2_backward", lambda x, w, b: ag.layer_norm(x.T, (3,), w, b).T, [(3, 5), (3,), (3,)]),
    ("rms_norm1_backward", lambda x, w: ag.rms_norm(x, (5,), w), [(40, 5), (5,)]),
    ("cross_entropy_backward", lambda x: ag.cross_entropy(x, ag.asarray([1, 0, 4])), [(3, 5)]),
    ("cross_entropy_backward", lambda x: ag.cross_entropy(x, ag.asarray([1, 0, 4]), reduction="sum"), [(3, 5)]),
    ("cross_entropy_backward", lambda x: ag.cross_entropy(x, ag.asarray([1, 0, 4]), reduction="none"), [(3, 5)]),
], ids=lambda v: None if callable(v) else str(v))
def test_gradients_are_those_of_numpy(name, f, shapes, dtype, rng, native, monkeypatch):
    arrays = [rng.normal(size=s).astype(dtype) for s in shapes]
    for got, want in zip(*both(lambda: gradients(f, *arrays), monkeypatch), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=ERRORS[dtype] * 20, atol=ERRORS[dtype] * 20)
    gradients(f, *arrays)
    assert (name, dtype) in made()


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("row", [r for r in ROWS if "softmax" in r or r in ("layer_norm", "rms_norm")])
def test_some_thousand_elements_take_the_same_way(row, dtype, rng, native, monkeypatch):
    x = rng.normal(size=(260, 70)).astype(dtype)
    monkeypatch.setattr(few.large, "native", lambda *_: None)
    for a in (x, x[:9], x.T, x.reshape(2, 130, 70)):
        compare(ROWS[row], ag.from_numpy(a), ERRORS[dtype] * 10, monkeypatch)
    ROWS[row](ag.from_numpy(x))
    before = made()
    assert before and all(dtype == d for _, d in before)


@pytest.mark.parametrize("shape, other", [((128, 96), (96,)), ((128, 96), (128, 1)), ((16, 8, 96), (8, 1)),
                                          ((128, 96), (1, 96))])
def test_arrays_of_some_thousand_elements_that_are_stretched(shape, other, rng, native, monkeypatch):
    a, b = (ag.asarray(rng.normal(size=s).astype("float32")) for s in (shape, other))
    found = []
    monkeypatch.setattr(eager.large, "stretched", lambda *x: found.append(eager.stretched(*x)) or found[-1])
    for f in (np.add, np.subtract, np.multiply, np.maximum, np.less):
        for x, y in ((a, b), (ag.from_numpy(a.numpy()[::-1]), b), (a, ag.from_numpy(b.numpy()[::-1]))):
            for _ in range(2):
                got = getattr(ag, f.__name__)(x, y)
                np.testing.assert_array_equal(got.numpy(), f(x.numpy(), y.numpy()))
    assert any(out is not None for out in found)


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("shape", [(2, 1), (5, 3), (7, 16), (9, 33)])
def test_batch_norms_have_the_moments_of_numpy(shape, dtype, rng, native, monkeypatch):
    x, w, b = (rng.normal(size=s).astype(dtype) for s in (shape, shape[1:], shape[1:]))

    def run():
        xs = [ag.asarray(a, requires_grad=True) for a in (x, w, b)]
        found = ag.dispatch.tensors.batch_norm_train(*xs, eps=1e-3)
        sum(((i + 1.0) * t * t).sum() for i, t in enumerate(found)).backward()
        return [*[t.detach() for t in found], *[a.grad for a in xs]]

    for got, want in zip(*both(run, monkeypatch), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=ERRORS[dtype] * 50, atol=ERRORS[dtype] * 50)
    run()
    assert ("batch_norm down", dtype) in made()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_looks_at_its_targets(reduction, rng, native, monkeypatch):
    x = ag.asarray(rng.normal(size=(4, 5)).astype("float32"))

    def loss(target, **more):
        return ag.cross_entropy(x, ag.asarray(target), reduction=reduction, **more)

    for target, more in (([0, 4, 2, 1], {}), ([0, -100, 2, -100], {}), ([0, 3, 2, 3], {"ignore_index": 3}),
                         (np.array([0, 9, 4, 9, 2, 9, 1, 9])[::2], {}), (np.array([0, 4, 2, 1], "int32"), {})):
        got, want = both(functools.partial(loss, target, **more), monkeypatch)
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)
    loss([0, 4, 2, 1])
    assert ("cross_entropy", "float32") in made()
    for wrong in ([0, 5, 1, 1], [0, -1, 1, 1], [0, 1, 1 << 40, 1]):
        with pytest.raises(IndexingError, match="classes"):
            loss(wrong)


@pytest.mark.parametrize("bad", [lambda x: ag.softmax(x, axis=2), lambda x: ag.softmax(x, axis=-3),
                                 lambda x: ag.softmax(x[0, 0], axis=-1), lambda x: ag.log_softmax(x[:0], axis=2),
                                 lambda x: ag.softmax(x, axis=1.0), lambda x: ag.softmax(x, axis=None),
                                 lambda x: ag.logsumexp(x, axis=2), lambda x: ag.sum(x, axis=2),
                                 lambda x: ag.max(x, axis=-3), lambda x: ag.mean(x, axis=(0, 0)),
                                 lambda x: ag.sum(x, axis=1.0), lambda x: ag.max(x[:0])])
def test_what_is_wrong_is_refused_as_before(bad, native, monkeypatch):
    def message():
        with pytest.raises(AgogError) as e:
            bad(x)
        return type(e.value), str(e.value)

    x = ag.asarray(np.arange(6, dtype="float32").reshape(2, 3))
    ag.softmax(x), ag.softmax(x, axis=0), ag.logsumexp(x), ag.sum(x), ag.max(x), ag.mean(x)
    got, want = both(message, monkeypatch)
    assert got == want


def test_where_gradients_are_off_the_bits_are_the_same(rng, native):
    x = ag.asarray(rng.normal(size=(5, 7)).astype("float32"))
    for row in (*ROWS.values(), *EXACT.values()):
        plain = row(x)
        with ag.no_grad():
            np.testing.assert_array_equal(row(x).numpy(), plain.numpy())
        np.testing.assert_array_equal(row(x.detach().requires_grad_()).detach().numpy(), plain.numpy())


def test_what_is_not_on_disk_is_compiled_in_the_background_and_what_is_there_is_used_at_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("AGOG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(eager, "_request", lambda *request: asked.append(request))
    monkeypatch.setattr(eager, "_kernels", {})
    monkeypatch.setattr(eager, "_missing", set())
    monkeypatch.setattr(jit, "_loaded", type(jit._loaded)())
    f32 = np.dtype("float32")
    assert eager._few("min fold", f32) is None and eager._few("min fold", f32) is None and len(asked) == 1
    make, *key = asked.pop()
    make(*key)
    run = eager._few("min fold", f32)
    out = np.empty((), "float32")
    run(out, np.array([3, 1, 2], "float32"), 1, 3, 1)
    assert out == 1
    eager._kernels.clear(), eager._missing.clear()
    assert eager._few("min fold", f32) and not asked
    assert eager._few("sum fold", np.dtype("int32")) is False and eager._few("softmax", np.dtype("int64")) is False


def test_enough_calls_of_few_numbers_have_the_compiler_loaded(monkeypatch):
    counted = []
    monkeypatch.setattr(few, "ask", None)
    monkeypatch.setattr(few.large, "_count", counted.append)
    forget()
    x = ag.ones((2, 3))
    for f in (ag.softmax, ag.sum, ag.sigmoid, lambda x: ag.layer_norm(x, (3,)), ag.logsumexp):
        f(x)
        assert counted.pop() > 0
