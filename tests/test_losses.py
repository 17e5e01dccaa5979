"""Losses against their formulas in float64; derivatives, dtypes and batching are checked by test_rows."""

import numpy as np
import pytest
import scipy.special as sp

import agog as ag
from agog.dispatch import tensors as xp
from agog.errors import AgogError, ArgumentError, AxisError, DTypeError, IndexingError, ShapeError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reduce(x, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": lambda a: a}[reduction](x)


def close(got, want, tol=1e-12):
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=tol, atol=tol)


REDUCTIONS = ["mean", "sum", "none"]


# ------------------------------------------------------------------------------------------------------- softmax
@pytest.mark.parametrize("axis", [0, 1, -1, 2])
def test_softmax(rng, axis):
    x = rng.standard_normal((3, 4, 5)) * 5
    close(xp.softmax(ag.asarray(x), axis=axis), sp.softmax(x, axis))
    close(xp.log_softmax(ag.asarray(x), axis=axis), sp.log_softmax(x, axis))
    close(xp.softmin(ag.asarray(x), axis=axis), sp.softmax(-x, axis))


def test_softmax_extremes():
    x = ag.asarray(np.array([[1000.0, 0, -1000], [-np.inf, 0, 0], [-np.inf] * 3], np.float32))
    y = xp.softmax(x).numpy()
    np.testing.assert_array_equal(y[:2], np.float32([[1, 0, 0], [0, 0.5, 0.5]]))
    assert np.isnan(y[2]).all()
    np.testing.assert_array_equal(xp.log_softmax(x).numpy()[0], np.float32([0, -1000, -2000]))
    assert xp.softmax(ag.asarray(np.zeros((0, 3)))).shape == (0, 3)
    assert xp.log_softmax(ag.asarray(np.zeros((3, 0)))).shape == (3, 0)
    assert xp.softmax(ag.asarray([1, 2])).dtype == "float32"


@pytest.mark.parametrize("axis", [2, -3, 0.5, None])
def test_softmax_axis_errors(axis):
    with pytest.raises(AxisError, match="whole number from -2 to 1"):
        xp.softmax(ag.asarray(np.ones((2, 3))), axis=axis)


def test_softmax_of_a_number():
    with pytest.raises(AxisError, match="single number"):
        xp.softmax(ag.asarray(1.0))


# --------------------------------------------------------------------------------------------------- cross entropy
def reference_cross_entropy(x, t, w, ignore, smoothing, reduction):
    """Sample by sample, from the definition."""
    c = x.shape[1]
    w = np.ones(c) if w is None else w
    x = np.moveaxis(x, 1, -1).reshape(-1, c)
    losses, shares = [], []
    for row, k in zip(x, t.ravel()):
        logp = row - np.log(np.exp(row).sum())
        valid = k != ignore
        k = k if valid else 0
        losses.append(valid * ((1 - smoothing) * -logp[k] * w[k] + smoothing / c * -(logp * w).sum()))
        shares.append(valid * w[k])
    losses = np.array(losses)
    return (losses.sum() / np.sum(shares) if reduction == "mean" else losses.sum() if reduction == "sum"
            else losses.reshape(t.shape))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("ignore", [-100, 1])
def test_cross_entropy(rng, reduction, smoothing, weighted, shape, ignore):
    x = rng.standard_normal(shape)
    t = rng.integers(0, shape[1], shape[:1] + shape[2:])
    t.ravel()[0] = ignore
    w = rng.uniform(0.5, 2, shape[1]) if weighted else None
    got = xp.cross_entropy(ag.asarray(x), ag.asarray(t), None if w is None else ag.asarray(w), ignore, smoothing,
                           reduction)
    close(got, reference_cross_entropy(x, t, w, ignore, smoothing, reduction))
    if not smoothing:
        logp = sp.log_softmax(x, 1)
        close(xp.nll_loss(ag.asarray(logp), ag.asarray(t), None if w is None else ag.asarray(w), ignore, reduction),
              reference_cross_entropy(x, t, w, ignore, 0.0, reduction))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_of_probabilities(rng, reduction):
    x, p, w = rng.standard_normal((5, 4, 2)), sp.softmax(rng.standard_normal((5, 4, 2)), 1), rng.uniform(0.5, 2, 4)
    want = -(sp.log_softmax(x, 1) * (p * 0.9 + 0.1 / 4) * w[:, None]).sum(1)
    close(xp.cross_entropy(ag.asarray(x), ag.asarray(p), ag.asarray(w), label_smoothing=0.1, reduction=reduction),
          want.sum() / 10 if reduction == "mean" else reduce(want, reduction))


def test_cross_entropy_of_one_sample_and_other_integers(rng):
    x = rng.standard_normal(4).astype(np.float32)
    got = xp.cross_entropy(ag.asarray(x), ag.asarray(2))
    assert got.dtype == "float32" and got.shape == ()
    close(got, -sp.log_softmax(x)[2], 1e-6)
    t = np.array([2], np.uint8)
    close(xp.cross_entropy(ag.asarray(x[None]), ag.asarray(t)), -sp.log_softmax(x)[2], 1e-6)


def test_cross_entropy_is_precise_far_out():
    x = ag.asarray(np.array([[200.0, -200.0]], np.float32), requires_grad=True)
    loss = xp.cross_entropy(x, ag.asarray([1]))
    loss.backward()
    assert float(loss) == 400
    np.testing.assert_array_equal(x.grad.numpy(), [[1, -1]])


def test_cross_entropy_of_nothing():
    empty = ag.asarray(np.zeros((0, 3), np.float32))
    none = ag.asarray(np.zeros(0, np.int64))
    assert np.isnan(float(xp.cross_entropy(empty, none)))
    assert float(xp.cross_entropy(empty, none, reduction="sum")) == 0
    x = ag.asarray(np.ones((2, 3), np.float32), requires_grad=True)
    loss = xp.cross_entropy(x, ag.asarray([-100, -100]), reduction="sum")
    loss.backward()
    assert float(loss) == 0 and not x.grad.numpy().any()


@pytest.mark.parametrize("x, t, kw, error, text", [
    ((4, 3), [0, 1, 3, 0], {}, IndexingError, "target holds 3, but there are 3 classes"),
    ((4, 3), [0, 1, -1, 0], {}, IndexingError, "target holds -1"),
    ((4, 3), [0, 1, 3, 0], {"label_smoothing": 0.1}, IndexingError, "0 to 2"),
    ((4, 3), [0, 1, 0], {}, ShapeError, r"integer targets have shape \(4,\)"),
    ((4, 3), [[0.5] * 3] * 2, {}, ShapeError, "class probabilities"),
    ((4, 3), [True] * 4, {}, DTypeError, "astype"),
    ((4, 3), [0] * 4, {"reduction": "avg"}, ArgumentError, "'mean', 'sum' or 'none'"),
    ((4, 3), [0] * 4, {"reduction": "avg", "label_smoothing": 0.1}, ArgumentError, "'mean', 'sum' or 'none'"),
    ((4, 3), [0] * 4, {"label_smoothing": 2}, ArgumentError, "between 0 and 1"),
    ((4, 3), [0] * 4, {"weight": np.ones(2)}, ShapeError, "each of the 3 classes"),
    ((4, 0), [0] * 4, {}, AgogError, "no classes"),
    ((), 0, {}, ShapeError, "single number"),
])
def test_cross_entropy_errors(x, t, kw, error, text):
    kw = {k: ag.asarray(v) if isinstance(v, np.ndarray) else v for k, v in kw.items()}
    with pytest.raises(error, match=text):
        xp.cross_entropy(ag.asarray(np.ones(x)), ag.asarray(t), **kw)


def test_nll_errors():
    x = ag.asarray(np.ones((4, 3)))
    with pytest.raises(IndexingError, match="3 classes"):
        xp.nll_loss(x, ag.asarray([0, 1, 2, 3]))
    with pytest.raises(ShapeError, match="without the axis of classes"):
        xp.nll_loss(x, ag.asarray([0]))
    with pytest.raises(ShapeError, match="each of the 3"):
        xp.nll_loss(x, ag.asarray([0] * 4), ag.asarray(np.ones(4)))


# --------------------------------------------------------------------------------------------------- elementwise losses
def huber(d, delta):
    return np.where(abs(d) <= delta, d * d / 2, delta * (abs(d) - delta / 2))


ELEMENTWISE = {
    "mse_loss": ({}, lambda x, t: (x - t) ** 2),
    "l1_loss": ({}, lambda x, t: abs(x - t)),
    "huber_loss": ({"delta": 0.7}, lambda x, t: huber(x - t, 0.7)),
    "smooth_l1_loss": ({"beta": 0.5}, lambda x, t: huber(x - t, 0.5) / 0.5),
    "binary_cross_entropy_with_logits": ({}, lambda x, t: np.log1p(np.exp(-x)) * t + np.log1p(np.exp(x)) * (1 - t)),
    "poisson_nll_loss": ({}, lambda x, t: np.exp(x) - t * x),
    "hinge_loss": ({"margin": 0.5}, lambda x, t: np.maximum(0, 0.5 - x * t)),
    "soft_margin_loss": ({}, lambda x, t: np.log1p(np.exp(-x * t))),
    "kl_div": ({"log_target": True}, lambda x, t: np.exp(t) * (t - x)),
    "hinge_embedding_loss": ({"margin": 2.0}, lambda x, t: np.where(t > 0, x, np.maximum(0, 2 - x))),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_losses(rng, name, reduction):
    kw, formula = ELEMENTWISE[name]
    x, t = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    fn = getattr(xp, name)
    close(fn(ag.asarray(x), ag.asarray(t), reduction=reduction, **kw), reduce(formula(x, t), reduction))
    assert fn(ag.asarray(x.astype("f4")), ag.asarray(t.astype("f4")), reduction=reduction, **kw).dtype == "float32"
    with pytest.raises(ShapeError, match="shapes must be equal"):
        fn(ag.asarray(x), ag.asarray(t[:, :1]), reduction=reduction, **kw)
    with pytest.raises(ArgumentError, match="'sum'"):
        fn(ag.asarray(x), ag.asarray(t), reduction="average", **kw)


def test_the_classic_bug_is_an_error():
    with pytest.raises(ShapeError, match=r"target.reshape\(5, 1\)"):
        xp.mse_loss(ag.asarray(np.ones((5, 1))), ag.asarray(np.ones(5)))
    assert float(xp.mse_loss(ag.asarray(np.ones((5, 1))), 3.0)) == 4


def test_binary_cross_entropy(rng):
    p, t = rng.uniform(0.01, 0.99, (4, 3)), rng.uniform(0, 1, (4, 3))
    want = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    close(xp.binary_cross_entropy(ag.asarray(p), ag.asarray(t)), want.mean())
    w = rng.uniform(0.5, 2, 3)
    close(xp.binary_cross_entropy(ag.asarray(p), ag.asarray(t), ag.asarray(w), "sum"), (want * w).sum())
    edge = ag.asarray(np.array([0.0, 1, 0, 1], np.float32), requires_grad=True)
    loss = xp.binary_cross_entropy(edge, ag.asarray(np.array([0.0, 1, 1, 0], np.float32)), reduction="none")
    np.testing.assert_array_equal(loss.detach().numpy(), [0, 0, 100, 100])
    loss.sum().backward()
    assert np.isfinite(edge.grad.numpy()).all()


def test_binary_cross_entropy_with_logits_extremes(rng):
    x = ag.asarray(np.array([1e4, -1e4, 1e4, -1e4], np.float32), requires_grad=True)
    t = ag.asarray(np.array([1.0, 0, 0, 1], np.float32))
    loss = xp.binary_cross_entropy_with_logits(x, t, reduction="none")
    np.testing.assert_array_equal(loss.detach().numpy(), [0, 0, 1e4, 1e4])
    loss.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0, 1, -1])
    z, t, pw = rng.standard_normal((4, 3)), rng.uniform(0, 1, (4, 3)), rng.uniform(0.5, 3, 3)
    want = -(pw * t * np.log(sp.expit(z)) + (1 - t) * np.log(sp.expit(-z)))
    close(xp.binary_cross_entropy_with_logits(ag.asarray(z), ag.asarray(t), pos_weight=ag.asarray(pw)), want.mean())


def test_kl_div(rng):
    logq, p = sp.log_softmax(rng.standard_normal((4, 3)), 1), sp.softmax(rng.standard_normal((4, 3)), 1)
    p[0, 0] = 0
    want = sp.kl_div(p, np.exp(logq)) + p - np.exp(logq)
    close(xp.kl_div(ag.asarray(logq), ag.asarray(p), reduction="batchmean"), want.sum() / 4)
    close(xp.kl_div(ag.asarray(logq), ag.asarray(p), reduction="none"), want)


def test_likelihoods(rng):
    x, t, v = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), rng.uniform(0.5, 2, (4, 3))
    import scipy.stats as st
    close(xp.gaussian_nll_loss(ag.asarray(x), ag.asarray(t), ag.asarray(v), full=True, reduction="none"),
          -st.norm(x, np.sqrt(v)).logpdf(t))
    close(xp.gaussian_nll_loss(ag.asarray(x), ag.asarray(t), ag.asarray(v[:, 0])),
          (0.5 * (np.log(v[:, :1]) + (x - t) ** 2 / v[:, :1])).mean())
    counts = np.arange(12.0).reshape(4, 3)
    got = xp.poisson_nll_loss(ag.asarray(v), ag.asarray(counts), log_input=False, full=True, reduction="none")
    np.testing.assert_allclose(got.numpy()[2:], -st.poisson(v).logpmf(counts)[2:], atol=0.02)  # Stirling


# ---------------------------------------------------------------------------------------------------------- distances
def test_cosines(rng):
    a, b = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    cos = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    close(xp.cosine_similarity(ag.asarray(a), ag.asarray(b)), cos)
    t = np.array([1, -1, 1, -1])
    want = np.where(t > 0, 1 - cos, np.maximum(0, cos - 0.1))
    close(xp.cosine_embedding_loss(ag.asarray(a), ag.asarray(b), ag.asarray(t), 0.1, "none"), want)
    zero = ag.asarray(np.zeros((1, 3), np.float32), requires_grad=True)
    y = xp.cosine_similarity(zero, ag.asarray(np.ones((1, 3), np.float32)))
    y.sum().backward()
    assert float(y[0]) == 0 and np.isfinite(zero.grad.numpy()).all()
    with pytest.raises(ShapeError, match=r"target \(N,\)"):
        xp.cosine_embedding_loss(ag.asarray(a), ag.asarray(b), ag.asarray(t[:2]))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, np.inf])
@pytest.mark.parametrize("swap", [False, True])
def test_triplets(rng, p, swap):
    a, b, c = rng.standard_normal((3, 6, 4))

    def d(u, v):
        return np.linalg.norm(u - v + 1e-6, p, axis=1)
    far = np.minimum(d(a, c), d(b, c)) if swap else d(a, c)
    got = xp.triplet_margin_loss(*map(ag.asarray, (a, b, c)), p=p, swap=swap, reduction="none")
    close(got, np.maximum(0, d(a, b) - far + 1))


def test_margins(rng):
    a, b, t = rng.standard_normal(5), rng.standard_normal(5), np.array([1, -1, 1, -1, 1])
    close(xp.margin_ranking_loss(ag.asarray(a), ag.asarray(b), ag.asarray(t), 0.3),
          np.maximum(0, -t * (a - b) + 0.3).mean())


@pytest.mark.parametrize("call, text", [
    (lambda a: xp.huber_loss(a, a, delta=0), "positive"),
    (lambda a: xp.smooth_l1_loss(a, a, beta=-1), "negative"),
    (lambda a: xp.triplet_margin_loss(a, a, a, margin=0), "positive"),
    (lambda a: xp.pairwise_distance(a, a, p=-1), "positive"),
    (lambda a: xp.kl_div(a, a, reduction="batch"), "batchmean"),
])
def test_parameters_are_checked(call, text):
    with pytest.raises(ArgumentError, match=text):
        call(ag.asarray(np.ones((2, 3))))


def test_large_ones_go_by_blocks(rng):
    """Above the size where work is shared out, results are those of the parts."""
    x = rng.standard_normal((300, 1000))
    t = rng.integers(0, 1000, 300)
    t[5] = -100
    for axis in (0, 1):
        close(xp.softmax(ag.asarray(x), axis=axis), sp.softmax(x, axis))
        close(xp.log_softmax(ag.asarray(x), axis=axis), sp.log_softmax(x, axis))
    a = ag.asarray(x, requires_grad=True)
    loss = xp.cross_entropy(a, ag.asarray(t))
    loss.backward()
    close(loss, reference_cross_entropy(x, t, None, -100, 0.0, "mean"))
    want = sp.softmax(x, 1)
    want[np.arange(300), t] -= 1
    want[5] = 0
    np.testing.assert_allclose(a.grad.numpy(), want / 299, atol=1e-14)


def test_hinges_at_their_corner_have_the_whole_gradient():
    """As PyTorch's clamp_min, which is what its hinge losses use."""
    for call in (lambda x: ag.hinge_embedding_loss(x, ag.asarray([-1.0]), margin=1.0),
                 lambda x: ag.margin_ranking_loss(ag.asarray([1.0]), x, ag.asarray([1.0])),
                 lambda x: -ag.hinge_loss(-x, ag.asarray([-1.0]))):
        x = ag.asarray([1.0], requires_grad=True)
        call(x).backward()
        assert abs(x.grad.item()) == 1.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_zero_vectors_have_a_direction_of_zero(dtype):
    x = ag.zeros((2, 3), dtype=dtype)
    for y in (ag.cosine_similarity(x, x), ag.normalize(x), ag.normalize(x, p=1.0)):
        assert y.dtype == x.dtype and not y.numpy().astype("float32").any()
