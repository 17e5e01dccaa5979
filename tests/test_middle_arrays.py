"""Arrays of some thousand elements: native kernels where NumPy takes long for an element or goes over them often."""

import contextlib
import operator

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import eager
from agog.compiler.mixed import compile_cast, compile_mixed, compile_terms
from agog.compiler.totals import BLOCK
from agog.ops.row import TABLE


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No kernels yet; each is compiled where it is first wanted."""
    def make(make, *key):
        with contextlib.suppress(Exception):
            make(*key)

    monkeypatch.setattr(eager, "_request", make)
    monkeypatch.setattr(eager, "_kernels", {})
    monkeypatch.setattr(large, "ready", {})
    eager.enable()


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1, -1, 2, 0.5, 3e38, 7]


def pairs(dtype, n, rng):
    if np.dtype(dtype).kind == "i":
        low = np.iinfo(dtype).min
        special, x = np.array([0, 1, -1, 2, -7, low, -(low + 1)], dtype), rng.integers(-99, 99, n).astype(dtype)
    else:
        special, x = np.array(SPECIAL).astype(dtype), (rng.normal(size=n) * 30).astype(dtype)
    a, b = (np.concatenate([g.ravel(), x]) for g in np.meshgrid(special, special))
    return a, b[::-1].copy()


def same(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    assert got.strides == want.strides or not got.size
    if got.dtype.kind == "c":
        return same(got.real, want.real), same(got.imag, want.imag)
    nan = np.isnan(got) & np.isnan(want) if got.dtype.kind == "f" else False
    assert ((got.view(f"u{got.itemsize}") == want.view(f"u{want.itemsize}")) | nan).all()


SLOW = {"floor_divide": operator.floordiv, "remainder": operator.mod, "fmod": ag.fmod, "heaviside": ag.heaviside}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "int64"])
def test_slow_ufuncs_of_middle_arrays_are_exact(name, dtype, rng):
    """Before there is a kernel, and by it: with an array, a number on either side, and a row."""
    ufunc = getattr(np, name)
    if dtype.startswith("int") and name == "heaviside":
        return
    x, y = pairs(dtype, 1 << 14 if dtype.startswith("int") else 700, rng)
    number = {"i": 3, "f": 0.75}[np.dtype(dtype).kind]
    square = lambda v: v[:576].reshape(24, 24)
    forms = [lambda x, y: (x, y), lambda x, y: (x, number), lambda x, y: (number, x), lambda x, y: (x, -number),
             lambda x, y: (square(x), square(y)[1]), lambda x, y: (square(x).T, square(y).T),
             lambda x, y: (square(x), square(y).T), lambda x, y: (x[::2], y[::2])]
    for form in forms:
        want = ufunc(*[v if isinstance(v, np.ndarray) else np.array(v, dtype) for v in form(x, y)])
        for _ in range(3):
            same(SLOW[name](*form(ag.asarray(x), ag.asarray(y))).numpy(), want)
    made = {key[2:] for key in large.ready if key[:2] == (ufunc, np.dtype(dtype))}
    assert made == ({()} if dtype.startswith("int") else {(), (1,), (0,)} if name in ("floor_divide", "remainder") else
                    {(), (1,)}), "no kernel was made"


def test_integers_divided_by_a_number_stay_with_numpy(rng):
    x = rng.integers(-99, 99, 1 << 15)
    for _ in range(2):
        same((ag.asarray(x) // 3).numpy(), x // 3)
    assert not large.ready


@pytest.mark.parametrize("name, ufunc", [("hypot", np.hypot), ("logaddexp", np.logaddexp)])
def test_other_slow_ufuncs_are_close(name, ufunc, rng):
    x, y = (rng.normal(size=3000).astype("float32") for _ in range(2))
    want = ufunc(x.astype("float64"), y)
    for n in (900, 3000):
        got = [getattr(ag, name)(ag.asarray(x[:n]), ag.asarray(y[:n])).numpy() for _ in range(3)][-1]
        np.testing.assert_allclose(got, want[:n], rtol=1e-5, atol=1e-6)
        assert ((ufunc, np.dtype("float32")) in large.ready) == (n == 3000)  # (last digits stay with small arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("power", [2, 3, 4, 3.0])
@pytest.mark.parametrize("n", [17, 3000, 20_000])
def test_powers_that_are_products(n, power, dtype, rng):
    x = np.concatenate([np.array(SPECIAL).astype(dtype), rng.normal(size=n).astype(dtype)])
    with np.errstate(all="ignore"):
        square = x * x
        want = {2: square, 3: square * x, 4: square * square}[power]
    for _ in range(3):
        same((ag.asarray(x) ** power).numpy(), want)
    assert bool(large.ready) == (n == 20_000 and power != 2)


CASTS = ["float32", "float64", "int32", "int64", "bool"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("source", CASTS)
@pytest.mark.parametrize("wanted", CASTS)
def test_casts_are_those_of_numpy(source, wanted, rng):
    x, _ = pairs(source if source != "bool" else "int32", 1 << 14, rng)
    if wanted.startswith("int") and source.startswith("float"):
        x = np.where(abs(x) < 2e9, x, 5).astype(source)  # beyond, C leaves open what a cast gives
    x = x.astype(source)
    rows = x[:16000].reshape(100, 160)
    for _ in range(3):
        same(ag.asarray(x).astype(wanted).numpy(), x.astype(wanted))
        same(ag.asarray(rows).T.astype(wanted).numpy(), rows.T.astype(wanted))
    key = compile_cast, np.dtype(source), np.dtype(wanted)
    assert source == wanted or eager._kernels[key]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_where_of_middle_arrays(dtype, rng):
    x, y = pairs(dtype, 3000, rng)
    c = rng.random(x.size) < 0.5
    for a, b in ((x, y), (x, np.array(2, dtype)), (np.array(2, dtype), x)):
        for _ in range(2):
            same(ag.where(ag.asarray(c), ag.asarray(a), ag.asarray(b)).numpy(), np.where(c, a, b))
    made = {key[3] for key, kernel in eager._kernels.items() if key[0] is compile_mixed and kernel}
    assert made == {"baa", "ban", "bna"}
    assert ag.where(ag.asarray(c), 1.0, 2.0).shape == c.shape


LOSSES = {
    "mse_loss": lambda x, t: (x - t) ** 2, "l1_loss": lambda x, t: abs(x - t),
    "huber_loss": lambda x, t: np.where(abs(x - t) < 1, (x - t) ** 2 / 2, abs(x - t) - 0.5),
    "smooth_l1_loss": lambda x, t: np.where(abs(x - t) < 1, (x - t) ** 2 / 2, abs(x - t) - 0.5),
    "binary_cross_entropy": lambda x, t: -t * np.log(x) - (1 - t) * np.log(1 - x),
    "binary_cross_entropy_with_logits": lambda x, t: np.log1p(np.exp(x)) - x * t,
    "kl_div": lambda x, t: t * (np.log(t) - x),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_summed_without_their_terms(name, reduction, dtype, rng):
    f, formula = getattr(ag, name), LOSSES[name]
    for n in (1024, BLOCK, BLOCK + 1, 3 * BLOCK - 7, 100_003):
        x, t = (1 / (1 + np.exp(-rng.normal(size=n))) for _ in range(2))
        x, t = x.astype(dtype), t.astype(dtype)
        a, b = (ag.asarray(v, requires_grad=True) for v in (x, t))
        f(a, b, reduction=reduction)  # asks for the kernel
        loss = f(a, b, reduction=reduction)
        assert loss.dtype == dtype and loss.shape == ()
        exact = getattr(np, reduction)(formula(x.astype("float64"), t.astype("float64")))
        unit = np.finfo(dtype).eps
        np.testing.assert_allclose(float(loss), exact, rtol=8 * unit)
        loss.backward()
        got = a.grad.numpy(), b.grad.numpy()
        a, b = (ag.asarray(v.astype("float64"), requires_grad=True) for v in (x, t))
        getattr(f(a, b, reduction="none"), reduction)().backward()
        for g, want in zip(got, (a.grad.numpy(), b.grad.numpy()), strict=True):
            assert g.dtype == dtype and g.shape == want.shape
            np.testing.assert_allclose(g, want, rtol=64 * unit, atol=8 * unit * abs(want).max())
    assert any(key[0] is compile_terms and kernel for key, kernel in eager._kernels.items()), "no kernel was made"


def test_totals_do_not_depend_on_threads_and_know_their_arguments(rng):
    x, t = (ag.asarray(rng.normal(size=(300, 700)).astype("float32")) for _ in range(2))
    ag.mse_loss(x, t)
    threads = config.num_threads
    got = []
    try:
        for n in (1, 2, 5):
            ag.set_num_threads(n)
            got.append(float(ag.mse_loss(x, t)))
    finally:
        ag.set_num_threads(threads)
    assert len(set(got)) == 1
    want = float(((x.numpy().astype("float64") - t.numpy()) ** 2).mean())
    for a, b in ((x.T, t.T), (x[:, ::2], t[:, ::2]), (x.astype("float64"), t)):
        np.testing.assert_allclose(float(ag.mse_loss(a, b)), float(((a.numpy() - b.numpy()) ** 2).mean()), rtol=1e-5)
    assert float(ag.mse_loss(x, x)) == 0 and abs(got[0] - want) < 1e-6 * want
    np.testing.assert_allclose(float(ag.mse_loss(x, 0.5)), float(((x.numpy() - 0.5) ** 2).mean()), rtol=1e-5)
    last = np.where(np.arange(x.size) == x.size - 1, np.nan, x.numpy().ravel()).astype("float32").reshape(x.shape)
    assert np.isnan(float(ag.mse_loss(ag.asarray(last), t)))


def test_second_derivatives_go_through_a_total(rng):
    x = rng.normal(size=2000)
    f = lambda a: ag.huber_loss(a, 0.25, delta=0.5)
    slope = lambda a: (ag.grad(f)(a) ** 2).sum()
    f(ag.asarray(x))
    inside = abs(x - 0.25) < 0.5
    want = np.where(inside, 2 * (x - 0.25), 0) / x.size**2
    np.testing.assert_allclose(ag.grad(slope)(ag.asarray(x)).numpy(), want, atol=1e-12)


def test_a_number_for_all_goes_through_rules_of_several_steps(rng, monkeypatch):
    x, t = (rng.normal(size=20_000).astype("float32") for _ in range(2))
    pulled, pull = [], large.pull
    monkeypatch.setattr(large, "pull", lambda rule, g, env: pulled.append(pull(rule, g, env)) or pulled[-1])
    for _ in range(2):
        a = ag.asarray(x, requires_grad=True)
        ag.l1_loss(a, ag.asarray(t)).backward()
        np.testing.assert_array_equal(a.grad.numpy(), np.sign(x - t) * (np.float32(1) / np.float32(x.size)))
    assert len(pulled) == 2 and pulled[-1] is not None
    assert TABLE["_absolute_error"].rules[0][1] == 2


@pytest.mark.parametrize("name", ["tril", "triu"])
@pytest.mark.parametrize("dtype", "float32 float64 int32 int64 bool float16 complex64 complex128".split())
def test_triangles(name, dtype, rng):
    shapes = (5, 7), (1, 1), (0, 3), (3, 0), (2, 3, 9, 4), (70, 90), (130, 50), (50, 200), (2, 3, 70, 71), (300, 301)
    for shape in shapes:
        x = (rng.normal(size=shape) * 9).astype(dtype)
        if x.size and x.dtype.kind in "fc":
            x[..., 0, 0], x[..., -1, -1] = np.nan, -0.0
        for k in (0, 1, -1, 3, -3, 40, -60, 129, -129, 1000, -1000):
            want = getattr(np, name)(x, k)
            same(getattr(ag, name)(ag.asarray(x), k=k).numpy(), want)
            for turned in (lambda v: v.mT, lambda v: v[..., ::-1, ::2]):
                same(getattr(ag, name)(turned(ag.asarray(x)), k=k).numpy(), getattr(np, name)(turned(x), k))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16", "complex64"])
def test_large_arrays_are_joined(dtype, rng):
    x, y = ((rng.normal(size=(300, 250)) * 9).astype(dtype) for _ in range(2))
    pairs = [lambda x, y: (x, y), lambda x, y: (x, y[:100]), lambda x, y: (x, y[::-1]), lambda x, y: (x.T, y.T),
             lambda x, y: (x, y, x)]
    for pair in pairs:
        for axis in (0, 1, -1):
            arrays, tensors = pair(x, y), list(pair(ag.asarray(x), ag.asarray(y)))
            alike = len({a.shape for a in arrays}) == 1
            for _ in range(2):
                if axis == 0 or alike:
                    same(ag.concat(tensors, axis=axis).numpy(), np.concatenate(arrays, axis))
                if alike:
                    same(ag.stack(tensors, axis=axis).numpy(), np.ascontiguousarray(np.stack(arrays, axis)))
    made = [kernel for key, kernel in eager._kernels.items() if key[0] is compile_cast]
    assert made and all(made) or dtype == "complex64", "no kernel was made"
    a, b = ag.concat([ag.asarray(x), ag.asarray(y)]), ag.stack([ag.asarray(x), ag.asarray(x)])
    again = ag.concat([a, a])  # results are arrays of their own
    same(a.numpy(), np.concatenate([x, y]))
    same(again.numpy(), np.concatenate([x, y, x, y]))
    same(b.numpy(), np.stack([x, x]))


def test_classes_of_any_shape(rng):
    for shape in ((), (0,), (3,), (2, 0), (4, 5)):
        index = rng.integers(0, 6, shape)
        for dtype in ("float32", "int64", "bool"):
            want = (index[..., None] == np.arange(6)).astype(dtype)
            same(ag.one_hot(ag.asarray(index), 6, dtype=dtype).numpy(), want)
            same(ag.one_hot(ag.asarray(index.astype("uint8")), 6, dtype=dtype).numpy(), want)


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64"])
@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne],
                         ids=lambda f: f.__name__)
def test_large_arrays_are_compared_with_numbers_that_their_dtype_lacks(compare, dtype, rng):
    x, y = (rng.integers(-3, 4, 70_000).astype(dtype) for _ in range(2))
    wide = x.astype("int64")  # (NumPy refuses the largest beside bools)
    for number in (0, 1, 2, -3, 7, 0.5, -0.5, 2.5, 1.0, 1 << 40, -(1 << 70), 1e30, float("nan"), float("inf")):
        for _ in range(3):
            same(compare(ag.asarray(x), number).numpy(), compare(wide, number))
            same(compare(number, ag.asarray(x)).numpy(), compare(number, wide))
    for _ in range(3):
        same(compare(ag.asarray(x), ag.asarray(y)).numpy(), compare(x, y))
        rows, row = x.reshape(7, -1), y[:10_000]
        same(compare(ag.asarray(rows), ag.asarray(row)).numpy(), compare(rows, row))
    assert any(kernel and np.dtype(dtype) in key for key, kernel in eager._kernels.items()), "no kernel was made"


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "complex64"])
def test_large_arrays_are_rolled(dtype, rng):
    for shape in ((1 << 17,), (300, 300), (20, 70, 60), (1, 1 << 17), (1 << 17, 1)):
        x = (rng.normal(size=shape) * 9).astype(dtype)
        for axis in (None, *range(len(shape))):
            for shift in (1, -1, 7, 150, -170, 1 << 17, 0):
                for _ in range(2):
                    same(ag.roll(ag.asarray(x), shift, axis).numpy(), np.roll(x, shift, axis))
        same(ag.roll(ag.asarray(x), (3, -2), (0, -1)).numpy(), np.roll(x, (3, -2), (0, -1)))
    assert dtype == "complex64" or eager._kernels[compile_cast, np.dtype(dtype), np.dtype(dtype)], "no kernel was made"
