"""Other libraries on agog's objects: each test runs the real library, and is skipped where it is not installed."""

import copy
import html
import importlib.util
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import agog as ag
from agog import errors
from agog.testing import assert_close

RNG = np.random.default_rng(0)


def T(*values, **k):
    return ag.asarray(np.array(values, np.float32), **k)


# -------------------------------------------------------------------------------------------------------------- NumPy
def test_ufuncs_give_tensors_with_gradients():
    x = T(1, 4, 9, requires_grad=True)
    y = np.sqrt(x) * np.float64(2) + np.arange(3, dtype="float32")
    assert isinstance(y, ag.Tensor) and y.dtype == ag.float32
    y.sum().backward()
    assert_close(x.grad, [1, 0.5, 1 / 3])
    for name in ("sin", "arccos", "absolute", "negative", "isfinite", "rint", "log1p", "logical_not", "square"):
        v = T(0.5, -0.25)
        assert_close(getattr(np, name)(v), getattr(np, name)(np.asarray(v)))
    for name in ("add", "power", "arctan2", "maximum", "hypot", "floor_divide", "logaddexp", "copysign", "less_equal"):
        a, b = T(1, 2.5), T(2, 1)
        assert_close(getattr(np, name)(a, b), getattr(np, name)(np.asarray(a), np.asarray(b)))
        assert_close(getattr(np, name)(np.asarray(a), b), getattr(np, name)(np.asarray(a), np.asarray(b)))
    assert_close(np.bitwise_xor(ag.asarray([5, 3]), 1), [4, 2])
    assert_close(np.matmul(ag.eye(2), T(1, 2)), [1, 2])


def test_operators_with_arrays_on_either_side():
    a, t = np.array([1.0, 2.0], np.float32), T(3, 4, requires_grad=True)
    for y in (a * t, t * a, a @ t, a - t, a / t, a**t, a < t):
        assert isinstance(y, ag.Tensor)
    (a * t).sum().backward()
    assert_close(t.grad, a)
    assert isinstance(np.float32(2) * t, ag.Tensor) and (np.float64(2) * t).dtype == ag.float32
    a += T(1, 1)  # an array stays an array
    assert type(a) is np.ndarray and a.tolist() == [2, 3]
    out = np.empty(2, np.float32)
    assert np.add(T(1, 2), 1, out=out) is out and out.tolist() == [2, 3]


def test_ufuncs_without_a_counterpart():
    y = np.spacing(T(1, 2))
    assert isinstance(y, ag.Tensor) and y.tolist() == np.spacing(np.array([1, 2], np.float32)).tolist()
    assert np.add.reduce(T(1, 2)).item() == 3 and np.add.outer(T(1, 2), T(1, 2)).shape == (2, 2)
    assert np.maximum.accumulate(T(1, 3, 2)).tolist() == [1, 3, 3]
    with pytest.raises(errors.GradientError, match="detach"):
        np.spacing(T(1, requires_grad=True))
    with pytest.raises(errors.ArgumentTypeError, match="not written into"):
        np.add(T(1), 1, out=T(1))
    with pytest.raises(errors.ArgumentError, match="vmap"):
        ag.vmap(np.spacing)(T(1, 2))


FUNCTIONS = {
    "sum": lambda x: np.sum(x, axis=0), "sum3": lambda x: np.sum(x, 0, keepdims=True), "mean": lambda x: np.mean(x),
    "std": lambda x: np.std(x, axis=1, ddof=1), "var": lambda x: np.var(x), "max": lambda x: np.max(x, axis=1),
    "prod": lambda x: np.prod(x), "concatenate": lambda x: np.concatenate([x, x], axis=1),
    "flat concatenate": lambda x: np.concatenate([x, x], axis=None), "stack": lambda x: np.stack([x, x], axis=-1),
    "where": lambda x: np.where(x > 0, x, 0), "transpose": lambda x: np.transpose(x),
    "order": lambda x: np.transpose(x, (1, 0)), "reshape": lambda x: np.reshape(x, (2, 6)),
    "ravel": lambda x: np.ravel(x), "squeeze": lambda x: np.squeeze(x[None]),
    "expand_dims": lambda x: np.expand_dims(x, 1), "moveaxis": lambda x: np.moveaxis(x, 0, 1),
    "roll": lambda x: np.roll(x, 1), "broadcast_to": lambda x: np.broadcast_to(x, (2, 3, 4)),
    "flip": lambda x: np.flip(x, axis=0), "repeat": lambda x: np.repeat(x, 2, axis=0),
    "tile": lambda x: np.tile(x, (1, 2)), "sort": lambda x: np.sort(x, axis=0), "cumsum": lambda x: np.cumsum(x),
    "cumsum0": lambda x: np.cumsum(x, axis=0), "cumprod": lambda x: np.cumprod(x, axis=1),
    "clip": lambda x: np.clip(x, -0.5, 0.5), "clip2": lambda x: np.clip(x, min=0), "dot": lambda x: np.dot(x, x.T),
    "einsum": lambda x: np.einsum("ij,ij->i", x, x), "tensordot": lambda x: np.tensordot(x, x, axes=([1], [1])),
    "outer": lambda x: np.outer(x[0], x[1]), "take": lambda x: np.take(x, [0, 2], axis=1),
    "flat take": lambda x: np.take(x, [7]), "tril": lambda x: np.tril(x), "norm": lambda x: np.linalg.norm(x),
    "norms": lambda x: np.linalg.norm(x, axis=0), "nuclear": lambda x: np.linalg.norm(x, "nuc"),
    "inv": lambda x: np.linalg.inv(x[:, :3]), "det": lambda x: np.linalg.det(x[:, :3]),
    "fft": lambda x: np.abs(np.fft.rfft(x, axis=0)), "swap": lambda x: np.swapaxes(x, 0, 1),
    "diff": lambda x: np.diff(x, axis=0), "vstack": lambda x: np.vstack([x, x[0]]), "real": lambda x: np.real(x),
    "ones_like": lambda x: np.ones_like(x), "copy": lambda x: np.copy(x), "svd": lambda x: np.linalg.svd(x)[1],
    "hstack": lambda x: np.hstack([x, x]), "average": lambda x: np.average(x, axis=0, weights=x * x),
    "split": lambda x: np.split(x, 2, axis=1)[1], "round": lambda x: np.round(x, 1),
    "median": lambda x: np.median(x, axis=0),
    "amax": lambda x: np.amax(x), "inner": lambda x: np.inner(x, x),
}


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_give_tensors_with_gradients(f):
    x = RNG.normal(size=(3, 4))
    t = ag.asarray(x, requires_grad=True)
    y = f(t)
    assert isinstance(y, ag.Tensor) and y.shape == f(x).shape
    assert_close(y, f(x))
    if f is not FUNCTIONS["ones_like"]:
        assert y.requires_grad


def test_functions_without_a_counterpart():
    x = T(3, 1, 2)
    counts, edges = np.histogram(x, bins=2)
    assert isinstance(counts, ag.Tensor) and isinstance(edges, ag.Tensor) and counts.tolist() == [1, 2]
    assert np.ptp(x).item() == 2 and np.allclose(x, [3, 1, 2]) is True and np.array_equal(x, x) is True
    assert np.shape(x) == (3,) and np.ndim(x) == 1 and np.size(x) == 3
    assert np.sum(x, initial=10).item() == 16 and np.array2string(x) == "[3. 1. 2.]"
    file = io.BytesIO()
    np.save(file, x)
    file.seek(0)
    assert np.load(file).tolist() == [3, 1, 2]
    target = np.zeros(3, np.float32)
    np.copyto(target, x)
    assert target.tolist() == [3, 1, 2]
    theirs = np.ones(2)
    got = np.broadcast_arrays(theirs, ag.ones((3, 1)))[0]
    theirs[0] = 5  # a Tensor never changes under anybody's feet
    assert got[0].tolist() == [1, 1]
    with pytest.raises(errors.GradientError, match="detach"):
        np.ptp(x.requires_grad_())
    with pytest.raises(ValueError, match="read-only"):
        np.fill_diagonal(ag.ones((2, 2)), 0)


def test_numpy_functions_inside_transformations():
    f = lambda x: np.sum(np.sin(x) * np.exp(-x))
    x = ag.asarray([0.5, 1.0], dtype="float64")
    g = ag.grad(lambda x: (ag.sin(x) * ag.exp(-x)).sum())(x)
    assert_close(ag.grad(f)(x), g)
    assert_close(ag.vmap(ag.grad(f))(x[:, None])[:, 0], g)
    assert_close(ag.function(f)(x), f(x))


def test_conversion_to_arrays():
    x = T(1, 2)
    a = np.asarray(x)
    assert not a.flags.writeable and np.shares_memory(a, np.asarray(x))
    assert np.array(x).flags.writeable and np.asarray(x, dtype="float64").dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype="float64", copy=False)
    assert np.array([T(1, 2), T(3, 4)]).shape == (2, 2) and ag.asarray([T(1, 2), T(3, 4)]).shape == (2, 2)
    assert [1, 2, 3][ag.asarray(1)] == 2 and list(range(5))[ag.asarray(1) : ag.asarray(3)] == [1, 2]
    assert f"{T(1.5)[0]:.2f}" == "1.50" and round(float(T(2.5)[0])) == 2
    assert memoryview(np.asarray(x)).nbytes == 8


def test_special_functions_of_scipy():
    special = pytest.importorskip("scipy.special")
    x = T(0.5, 1.5, requires_grad=True)
    for name in ("erf", "expit", "gammaln", "psi", "log_expit", "ndtr"):
        y = getattr(special, name)(x)
        assert isinstance(y, ag.Tensor) and y.requires_grad
        assert_close(y, getattr(special, name)(np.array([0.5, 1.5])), rtol=1e-5, check_dtype=False)
    assert_close(special.jv(0, T(1.0)), special.jv(0, np.float32(1.0))[None], rtol=1e-6)
    with pytest.raises(errors.GradientError, match="jv"):
        special.jv(0, x)


# -------------------------------------------------------------------------------------------- SciPy and scikit-learn
def array_api(code, *packages):
    """Run `code` in a fresh Python with SciPy's array API dispatch switched on."""
    for package in packages:
        pytest.importorskip(package)
    head = "import warnings\nimport numpy as np\nimport agog as ag\nfrom agog.testing import assert_close\n"
    head += "rng = np.random.default_rng(0)\nis_ours = lambda x: type(x) is ag.Tensor\n"
    done = subprocess.run([sys.executable, "-c", head + textwrap.dedent(code)], capture_output=True, text=True,
                          env=os.environ | {"SCIPY_ARRAY_API": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


def test_scipy_with_array_api_dispatch():
    array_api("""
        from scipy import special, stats, fft, integrate, optimize, signal, cluster, linalg, ndimage
        ag.set_default_float("float64")  # SciPy makes arrays of Python numbers, and expects its own precision
        x = rng.normal(size=(20, 3))
        t = ag.asarray(x)
        calls = {
            "logsumexp": lambda x: special.logsumexp(x, axis=0), "softmax": lambda x: special.softmax(x, axis=1),
            "erf": lambda x: special.erf(x), "gammaln": lambda x: special.gammaln(x * x + 1),
            "fft": lambda x: fft.fft(x, axis=0), "rfft": lambda x: fft.rfft(x), "ifftn": lambda x: fft.ifftn(x + 0j),
            "fftfreq": lambda x: fft.fftshift(x), "zscore": lambda x: stats.zscore(x), "skew": lambda x: stats.skew(x),
            "kurtosis": lambda x: stats.kurtosis(x, axis=1), "moment": lambda x: stats.moment(x, order=3),
            "gmean": lambda x: stats.gmean(x * x + 1), "ttest": lambda x: stats.ttest_1samp(x, 0.0).statistic,
            "pearsonr": lambda x: stats.pearsonr(x[:, 0], x[:, 1]).statistic, "variation": lambda x: stats.variation(x),
            "trapezoid": lambda x: integrate.trapezoid(x, axis=0), "whiten": lambda x: cluster.vq.whiten(x),
            "cumulative": lambda x: integrate.cumulative_simpson(x, dx=0.5, axis=0),
            "detrend": lambda x: signal.detrend(x, axis=0), "convolve": lambda x: signal.fftconvolve(x, x, axes=0),
        }
        for name, f in calls.items():
            got, want = f(t), f(x)
            assert is_ours(got), (name, type(got))
            assert_close(got, want, rtol=1e-9, atol=1e-9, msg=name)
        assert optimize.minimize(lambda p: float(((ag.asarray(p) - 1) ** 2).sum()), np.zeros(2)).success
        f = lambda p: ((p - 3) ** 2).sum()
        found = optimize.minimize(lambda p: [np.asarray(v) for v in ag.value_and_grad(f)(ag.asarray(p))], np.zeros(2),
                                  jac=True)
        assert_close(found.x, [3.0, 3.0], atol=1e-6)
    """, "scipy")


def test_scipy_without_dispatch():
    scipy = pytest.importorskip("scipy")
    from scipy import linalg, optimize, sparse, stats

    x = ag.asarray(RNG.normal(size=(4, 4)))
    assert_close(ag.asarray(linalg.inv(x)), ag.linalg.inv(x))
    assert_close(np.asarray(stats.zscore(np.asarray(x))), stats.zscore(np.asarray(x)))
    assert sparse.csr_matrix(np.asarray(x)).shape == (4, 4) and scipy.__version__
    assert abs(optimize.brentq(lambda v: float(ag.cos(v)) if isinstance(v, ag.Tensor) else float(ag.cos(ag.asarray(v))),
                               0, 3) - np.pi / 2) < 1e-6


def test_scikit_learn_with_array_api_dispatch():
    array_api("""
        from sklearn import config_context, metrics
        from sklearn.decomposition import PCA
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, StandardScaler, KernelCenterer
        x, y = rng.normal(size=(60, 5)).astype("float32"), rng.integers(0, 3, 60)
        x[:, 0] += y
        tx, ty = ag.asarray(x), ag.asarray(y)
        with config_context(array_api_dispatch=True):
            for make in (StandardScaler, MinMaxScaler, MaxAbsScaler, Normalizer, KernelCenterer):
                a, b = (x[:5], tx[:5]) if make is KernelCenterer else (x, tx)
                got = make().fit_transform(b)
                assert is_ours(got), make
                assert_close(got, make().fit_transform(a), rtol=1e-4, atol=1e-5, msg=make.__name__)
            pca = PCA(n_components=2, svd_solver="full").fit(tx)
            assert is_ours(pca.components_) and is_ours(pca.transform(tx))
            want = abs(PCA(2, svd_solver="full").fit(x).components_)
            assert_close(ag.abs(pca.components_), want, rtol=1e-3, atol=1e-4)
            ridge = Ridge(solver="svd").fit(tx, ty.astype("float32"))
            assert is_ours(ridge.coef_)
            assert_close(ridge.coef_, Ridge(solver="svd").fit(x, y.astype("float32")).coef_, rtol=1e-3, atol=1e-4)
            lda = LinearDiscriminantAnalysis().fit(tx, ty)
            assert is_ours(lda.predict(tx))
            assert_close(lda.predict(tx), LinearDiscriminantAnalysis().fit(x, y).predict(x))
            a, b, c, d = train_test_split(tx, ty, random_state=0)
            assert is_ours(a) and a.shape == (45, 5) and is_ours(d)
            assert metrics.accuracy_score(ty, lda.predict(tx)) > 0.5
            u, v = ty.astype("float32"), ty.astype("float32") + 0.5
            assert abs(metrics.mean_squared_error(u, v) - 0.25) < 1e-6
            assert abs(metrics.r2_score(u, v) - metrics.r2_score(y, y + 0.5)) < 1e-5
            assert metrics.pairwise.cosine_similarity(tx[:3]).shape == (3, 3)
    """, "sklearn", "scipy")


def test_scikit_learn_without_dispatch():
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression

    x = RNG.normal(size=(40, 3))
    y = (x[:, 0] > 0).astype(int)
    model = LogisticRegression().fit(ag.asarray(x), ag.asarray(y))
    assert model.score(ag.asarray(x), y) > 0.9


# ------------------------------------------------------------------------------------------------------------- einops
def test_einops():
    einops = pytest.importorskip("einops")
    x = RNG.normal(size=(2, 6, 4))
    t = ag.asarray(x, requires_grad=True)
    calls = [
        lambda x: einops.rearrange(x, "b (h p) c -> (b p) (c h)", p=2),
        lambda x: einops.rearrange([x, x], "k b h c -> b h c k"),
        lambda x: einops.reduce(x, "b (h p) c -> b h c", "mean", p=3), lambda x: einops.reduce(x, "b h c -> c", "max"),
        lambda x: einops.reduce(x, "b h c -> 1 h ()", "sum"), lambda x: einops.reduce(x, "b h c -> b", "min"),
        lambda x: einops.reduce(x, "b h c -> b h", "prod"), lambda x: einops.repeat(x, "b h c -> b (h 2) c r", r=3),
        lambda x: einops.einsum(x, x, "b h c, b k c -> b h k"), lambda x: einops.rearrange(x, "... c -> c ..."),
        lambda x: einops.pack([x, x[..., 0]], "b h *")[0],
    ]
    for f in calls:
        assert_close(f(t), f(x))
        assert f(t).requires_grad
        assert ag.vmap(f)(t[None]).shape[1:] == f(x).shape
    packed, shapes = einops.pack([t, t[:, 0]], "b * c")
    for got, want in zip(einops.unpack(packed, shapes, "b * c"), (t, t[:, 0]), strict=True):
        assert_close(got, want)
    assert einops.parse_shape(t, "b _ c") == {"b": 2, "c": 4}
    assert type(einops.asnumpy(t)) is np.ndarray
    assert einops.reduce(t > 0, "b h c -> b", "any").dtype == ag.bool
    assert einops.reduce(t, "b h c -> b c", lambda x, axes: x.sum(axis=axes)).shape == (2, 4)
    with pytest.raises(NotImplementedError, match="mean"):  # einops takes no mean of integers, in any backend
        einops.reduce(ag.ones((2, 2), dtype="int64"), "a b -> a", "mean")
    assert_close(ag.function(calls[0])(t.detach()), calls[0](x))


def test_einops_imported_before_and_after():
    pytest.importorskip("einops")
    use = "einops.rearrange(ag.ones((2, 3)), 'a b -> b a').shape == (3, 2)"
    for first in ("import einops; import agog as ag", "import agog as ag; import einops",
                  "import agog as ag; import einops.layers; import einops"):
        done = subprocess.run([sys.executable, "-c", f"{first}; import sys; assert {use}; "
                               "assert not any('interop' in type(f).__module__ for f in sys.meta_path)"],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_einops_array_api_functions():
    pytest.importorskip("einops")
    from einops import array_api as einops

    t = ag.asarray(RNG.normal(size=(2, 6)))
    assert_close(einops.rearrange(t, "a (b c) -> c b a", c=2), einops.rearrange(np.asarray(t), "a (b c) -> c b a", c=2))
    assert_close(einops.reduce(t, "a b -> b", "mean"), t.mean(axis=0))
    assert einops.repeat(t, "a b -> a b 3").shape == (2, 6, 3)
    packed, shapes = einops.pack([t, t], "* b")
    assert len(einops.unpack(packed, shapes, "* b")) == 2 and type(einops.asnumpy(t)) is np.ndarray


# ---------------------------------------------------------------------------------------------- matplotlib and pandas
def test_matplotlib():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x, y = ag.linspace(0, 1, 20), ag.linspace(0, 1, 20) ** 2
    fig, axes = plt.subplots(2, 4)
    line, = axes[0, 0].plot(x, y)
    assert_close(np.asarray(line.get_ydata(), np.float32), y)
    axes[0, 1].scatter(x, y, c=y, s=y * 10)
    axes[0, 2].imshow(ag.ones((4, 4)))
    axes[0, 3].hist(y, bins=5)
    axes[1, 0].bar(ag.arange(3), T(1, 2, 3))
    axes[1, 1].errorbar(x, y, yerr=y / 10)
    axes[1, 2].fill_between(x, y, y + 1)
    axes[1, 3].contourf(x, x, ag.outer(y, y))
    axes[1, 3].axhline(y[3])
    axes[1, 3].set_xlim(x[0], x[-1])
    axes[0, 0].plot(x.requires_grad_(), ag.arange(20))
    file = io.BytesIO()
    fig.savefig(file)
    plt.close(fig)
    assert file.tell() > 1000


def test_pandas():
    pd = pytest.importorskip("pandas")
    x = ag.asarray(RNG.normal(size=(4, 2)))
    frame = pd.DataFrame(np.asarray(x), columns=["a", "b"])
    assert_close(ag.asarray(frame), x)
    assert_close(ag.asarray(frame["a"]), x[:, 0])
    assert_close(ag.asarray(frame["a"].values), x[:, 0])
    series = pd.Series(x[:, 1])
    assert series.dtype == "float64" and len(series) == 4
    frame["c"] = x[:, 0] * 2
    frame["d"] = ag.arange(4)
    assert_close(ag.asarray(frame["c"]), x[:, 0] * 2)
    assert frame["d"].dtype == "int64" and pd.DataFrame({"a": x[:, 0]}).shape == (4, 1)
    assert pd.DataFrame(x).shape == (4, 2)
    assert_close(ag.asarray(frame[["a", "b"]].to_numpy()) @ T(1, 1).astype("float64"), x.sum(axis=1))


# ------------------------------------------------------------------------------------------------- copies and processes
class Net(ag.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = ag.nn.Linear(3, 2)

    def forward(self, x):
        return ag.tanh(self.layer(x))


def roundtrips():
    yield lambda x: pickle.loads(pickle.dumps(x))
    yield lambda x: pickle.loads(pickle.dumps(x, protocol=5))
    yield lambda x: pickle.loads(pickle.dumps(x, protocol=2))
    yield copy.deepcopy
    if importlib.util.find_spec("cloudpickle"):
        import cloudpickle

        yield lambda x: cloudpickle.loads(cloudpickle.dumps(x))
    if importlib.util.find_spec("joblib"):
        import joblib

        def through_a_file(x):
            file = io.BytesIO()
            joblib.dump(x, file)
            file.seek(0)
            return joblib.load(file)

        yield through_a_file


@pytest.mark.parametrize("roundtrip", list(roundtrips()))
def test_copies(roundtrip):
    for dtype in ("float32", "bfloat16", "int8", "bool", "complex64"):
        x = ag.ones((2, 3), dtype=dtype)
        y = roundtrip(x)
        assert type(y) is ag.Tensor and y.dtype == x.dtype and y.tolist() == x.tolist() and y is not x
    leaf = roundtrip(T(1, 2, requires_grad=True))
    (leaf * leaf).sum().backward()
    assert leaf.grad.tolist() == [2, 4]
    net = Net()
    again = roundtrip(net)
    x = T(1, 2, 3)
    assert_close(again(x), net(x))
    assert [n for n, _ in again.named_parameters()] == ["layer.weight", "layer.bias"]
    assert all(p.requires_grad for p in again.parameters())
    parts = roundtrip({"a": [T(1), None], "g": ag.random.Generator(3)})
    assert parts["a"][0].tolist() == [1]
    with pytest.raises(errors.GradientError, match="detach"):
        roundtrip(leaf * 2)


def test_a_shallow_copy_is_independent():
    x = T(1, 2)
    y = copy.copy(x)
    y[0] = 5
    assert x.tolist() == [1, 2] and y.tolist() == [5, 2]


def test_cloudpickle_of_functions():
    cloudpickle = pytest.importorskip("cloudpickle")
    w = T(2, 3)
    f = cloudpickle.loads(cloudpickle.dumps(lambda x: (x * w).sum()))
    assert f(T(1, 1)).item() == 5
    assert cloudpickle.loads(cloudpickle.dumps(ag.grad(lambda x: (x * w).sum())))(T(1, 1)).tolist() == [2, 3]


def work(x):
    y = (x.requires_grad_() * 2).sum()
    y.backward()
    big = ag.ones((1000, 1000)) @ ag.ones((1000, 1000))
    return x.grad, big[0, 0].item(), Net()(ag.ones(3)).shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's: this process has threads
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    ag.ones((2000, 1000)) * 2.0  # threads are running in the parent
    if method == "spawn" and not __spec_is_importable():
        pytest.skip("the tests are not importable in a fresh process")
    with multiprocessing.get_context(method).Pool(2) as pool:
        out = pool.map(work, [T(1, 2), T(3, 4, 5)])
    assert [g.tolist() for g, _, _ in out] == [[2, 2], [2, 2, 2]] and out[0][1:] == (1000.0, (2,))


def __spec_is_importable():
    return __name__ in sys.modules and importlib.util.find_spec("test_ecosystem") is not None


def test_joblib():
    joblib = pytest.importorskip("joblib")
    for backend in ("threading", "loky"):
        out = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(ag.sum)(T(i, 1)) for i in range(3))
        assert [v.item() for v in out] == [1, 2, 3]
    assert joblib.hash(T(1, 2)) == joblib.hash(T(1, 2)) != joblib.hash(T(1, 3))


# ------------------------------------------------------------------------------------------- exchange without copying
def test_exchange_with_numpy():
    a = np.arange(6.0).reshape(2, 3)[:, ::2]
    t = ag.from_dlpack(a)
    assert np.shares_memory(np.asarray(t), a) and t.tolist() == a.tolist()
    assert np.shares_memory(np.from_dlpack(t), a)
    assert np.shares_memory(np.asarray(ag.from_numpy(a)), a)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_exchange_with_other_frameworks(library):
    pytest.importorskip(library)
    if library == "torch":
        import torch

        theirs = torch.arange(6, dtype=torch.float32)
        ours = ag.from_dlpack(theirs)
        theirs[0] = 7
        assert ours[0].item() == 7  # one memory
        back = torch.from_dlpack(ours)
        assert back.data_ptr() == theirs.data_ptr()
        assert_close(ag.asarray(theirs), ours)
    else:
        import jax.numpy as jnp

        theirs = jnp.arange(6.0)
        ours = ag.from_dlpack(theirs)
        assert ours.tolist() == [0, 1, 2, 3, 4, 5]
        assert jnp.from_dlpack(ours).tolist() == ours.tolist() and jnp.asarray(ours).shape == (6,)


# ------------------------------------------------------------------------------------------------------------ display
def test_html():
    small = T(1, 2.5, requires_grad=True)._repr_html_()
    assert "<table>" in small and "float32" in small and "2.5" in small and "requires grad" in small
    big = ag.zeros((100, 200))._repr_html_()
    assert "100×200" in big and "⋱" in big and big.count("<tr>") == 13
    for x in (ag.zeros(()), ag.zeros((0, 3)), ag.zeros((2, 3, 4)), ag.ones((2, 2), dtype="bfloat16"),
              ag.asarray([1 + 2j]), ag.asarray([True])):
        text = x._repr_html_()
        assert text.startswith("<div>") and text.endswith("</div>") and str(x.dtype) in text
    net = Net()._repr_html_()
    assert "8 parameters" in net and "layer.weight" in net and "3×2" in net or "2×3" in net
    assert "<script" not in html.unescape(net)


def test_ipython_shows_it():
    pytest.importorskip("IPython")
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(T(1, 2))
    assert "Tensor([1., 2.])" in data["text/plain"] and "<table>" in data["text/html"]


# ----------------------------------------------------------------------------------------------------------- jaxtyping
def test_jaxtyping():
    jaxtyping = pytest.importorskip("jaxtyping")
    from jaxtyping import Bool, Float, Int, Shaped

    x = ag.ones((4, 3))
    assert isinstance(x, Float[ag.Tensor, "batch 3"]) and isinstance(x, Shaped[ag.Tensor, "..."])
    assert not isinstance(x, Float[ag.Tensor, "batch 2"]) and not isinstance(x, Int[ag.Tensor, "4 3"])
    assert isinstance(x > 0, Bool[ag.Tensor, "a b"]) and isinstance(ag.arange(3), Int[ag.Tensor, "n"])
    assert isinstance(x.astype("bfloat16"), jaxtyping.BFloat16[ag.Tensor, "a b"])
    assert isinstance(x.astype("complex64"), jaxtyping.Complex64[ag.Tensor, "a b"])
    assert isinstance(ag.nn.Linear(3, 2).weight, Float[ag.nn.Parameter, "a b"])


# ------------------------------------------------------------------------------------------------------- agog.testing
def test_assert_close_accepts():
    assert_close(T(1, 2), T(1, 2 + 1e-7))
    assert_close(T(1, 2), [1, 2])
    assert_close(np.array([1.0]), ag.asarray([1.0], dtype="float64"))
    assert_close({"a": T(1), "b": [T(2), 3.0]}, {"a": T(1), "b": [T(2), 3.0]})
    assert_close(T(np.nan, np.inf), T(np.nan, np.inf))
    assert_close(ag.ones(2, dtype="bfloat16"), ag.ones(2, dtype="bfloat16") * 1.004)
    assert_close(T(1.0), T(1.1), rtol=0.2)
    assert_close(ag.zeros((0, 2)), ag.zeros((0, 2)))
    assert_close(ag.asarray([1, 2]), ag.asarray([1, 2]))
    assert_close(1 + 1j, ag.asarray(1 + 1j))


@pytest.mark.parametrize(("got", "want", "words"), [
    (ag.zeros((2, 2)), ag.zeros((2, 3)), ["shape", "(2, 2)", "(2, 3)"]),
    (ag.zeros(2), ag.zeros(2, dtype="float64"), ["dtype", "float32", "float64"]),
    (T(1, 2, 3), T(1, 2.5, 3), ["1 of 3", "[1]", "2.0", "2.5", "0.5"]),
    (T(1, np.nan), T(1, 2), ["nan"]),
    (ag.asarray([1, 2]), ag.asarray([1, 3]), ["1 of 2", "[1]"]),
    ({"a": T(1)}, {"b": T(1)}, ["structure"]),
    ({"a": {"w": T(1, 2)}}, {"a": {"w": T(1, 3)}}, ["a.w", "1 of 2"]),
    (T(1), "text", ["str"]),
])
def test_assert_close_says_what_differs(got, want, words):
    with pytest.raises(AssertionError) as caught:
        assert_close(got, want)
    for word in words:
        assert word in str(caught.value)


def test_assert_close_shows_only_the_worst():
    got = ag.zeros((100, 100))
    with pytest.raises(AssertionError) as caught:
        assert_close(got, got + ag.arange(100, dtype="float32"), msg="the gradient of w")
    text = str(caught.value)
    assert "the gradient of w" in text and "9900 of 10000" in text and text.count("\n") < 20 and "99.0" in text
