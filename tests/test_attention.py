"""Attention and embeddings against their formulas; derivatives, dtypes and batching are checked by test_rows."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.dispatch import tensors as xp
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, IndexingError, ShapeError
from agog.ops import attention as module


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def plain(q, k, v, mask=None, scale=None):
    s = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        s = s + mask
    with np.errstate(all="ignore"):
        p = np.exp(s - s.max(-1, keepdims=True))
        return np.nan_to_num(p / p.sum(-1, keepdims=True)) @ v


def close(got, want, tol=1e-12):
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=tol, atol=tol)


MASKS = {"none": (), "whole": (2, 3, 4, 5), "shared": (4, 5), "heads": (3, 1, 5), "batch": (2, 1, 1, 5), "keys": (5,)}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("block", [1, 1 << 16])
def test_attention(rng, kind, boolean, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    q, k, v = rng.standard_normal((2, 3, 4, 6)), rng.standard_normal((2, 3, 5, 6)), rng.standard_normal((2, 3, 5, 7))
    mask = None if kind == "none" else rng.standard_normal(MASKS[kind])
    added = mask
    if boolean and mask is not None:
        mask = mask > -0.5
        added = np.where(mask, 0, -np.inf)
    a = [ag.asarray(x, requires_grad=True) for x in (q, k, v)]
    y = xp.scaled_dot_product_attention(*a, None if mask is None else ag.asarray(mask))
    close(y, plain(q, k, v, added))
    g = rng.standard_normal(y.shape)
    (y * ag.asarray(g)).sum().backward()
    h = 1e-6
    for i, x in enumerate((q, k, v)):
        d = rng.standard_normal(x.shape)
        two = [plain(*[y + s * h * d if j == i else y for j, y in enumerate((q, k, v))], added) for s in (1, -1)]
        np.testing.assert_allclose((a[i].grad.numpy() * d).sum(), ((two[0] - two[1]) * g).sum() / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (4, 3), (4, 1)])
def test_gradient_of_a_float_mask(rng, shape):
    q, k, v = rng.standard_normal((3, 2, 4, 5))
    k, v = rng.standard_normal((2, 2, shape[1] if shape[1] > 1 else 5, 5))
    m, g, d = rng.standard_normal(shape), rng.standard_normal((2, 4, 5)), rng.standard_normal(shape)
    mask = ag.asarray(m, requires_grad=True)
    y = xp.scaled_dot_product_attention(ag.asarray(q), ag.asarray(k), ag.asarray(v), mask)
    (y * ag.asarray(g)).sum().backward()
    h = 1e-6
    want = ((plain(q, k, v, m + h * d) - plain(q, k, v, m - h * d)) * g).sum() / (2 * h)
    np.testing.assert_allclose((mask.grad.numpy() * d).sum(), want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rows, columns", [(4, 4), (3, 5), (5, 3)])
def test_causal(rng, rows, columns):
    q = rng.standard_normal((2, rows, 3))
    k, v = rng.standard_normal((2, 2, columns, 3))
    mask = np.where(np.tri(rows, columns, dtype=bool), 0, -np.inf)
    close(xp.scaled_dot_product_attention(*map(ag.asarray, (q, k, v)), is_causal=True, scale=0.3),
          plain(q, k, v, mask, 0.3))


@pytest.mark.parametrize("threads", [1, 3])
def test_long_sequences_go_by_pieces(rng, threads):
    """Sizes at which products are cut, with something left over."""
    q, k, v = rng.standard_normal((3, 130, 64)), *rng.standard_normal((2, 3, 301, 64))
    g, m = rng.standard_normal((3, 130, 64)), rng.standard_normal((130, 301))
    old = config.num_threads
    try:
        config.set_num_threads(threads)
        a = [ag.asarray(x, requires_grad=True) for x in (q, k, v, m)]
        y = xp.scaled_dot_product_attention(*a)
        (y * ag.asarray(g)).sum().backward()
    finally:
        config.set_num_threads(old)
    close(y, plain(q, k, v, m), 1e-11)
    h = 1e-6
    for i, x in enumerate((q, k, v, m)):
        d = rng.standard_normal(x.shape)
        two = [plain(*[y + s * h * d if j == i else y for j, y in enumerate((q, k, v, m))]) for s in (1, -1)]
        np.testing.assert_allclose((a[i].grad.numpy() * d).sum(), ((two[0] - two[1]) * g).sum() / (2 * h), rtol=1e-5)


def test_rows_that_may_attend_to_nothing():
    x = ag.asarray(np.ones((2, 3), np.float32), requires_grad=True)
    y = xp.scaled_dot_product_attention(x, x, x, ag.asarray([[True, True], [False, False]]))
    np.testing.assert_array_equal(y.detach().numpy(), [[1, 1, 1], [0, 0, 0]])
    y.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_broadcast_and_empty(rng):
    q, k = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((3, 6, 5))
    close(xp.scaled_dot_product_attention(ag.asarray(q), ag.asarray(k), ag.asarray(k)), plain(q, k, k))
    for shape in ((0, 4, 5), (2, 0, 5)):
        e = ag.asarray(np.zeros(shape), requires_grad=True)
        y = xp.scaled_dot_product_attention(e, e, e)
        y.sum().backward()
        assert y.shape == shape and e.grad.shape == shape


@pytest.mark.parametrize("call, error, text", [
    (lambda x: xp.scaled_dot_product_attention(x, x[..., :2], x), ShapeError, "query and key share"),
    (lambda x: xp.scaled_dot_product_attention(x, x[:, :2], x), ShapeError, "key and value"),
    (lambda x: xp.scaled_dot_product_attention(x[0, 0], x, x), ShapeError, r"\(..., L, E\)"),
    (lambda x: xp.scaled_dot_product_attention(x, ag.asarray(np.ones((3, 3, 4))), ag.asarray(np.ones((3, 3, 4)))),
     ShapeError, "leading axes"),
    (lambda x: xp.scaled_dot_product_attention(x, x, x, x), ShapeError, "scores' shape"),
    (lambda x: xp.scaled_dot_product_attention(x, x, x, ag.asarray(np.ones((3, 3))), True), ArgumentError, "not both"),
    (lambda x: xp.scaled_dot_product_attention(x, x, x, ag.asarray(np.ones((3, 3), int))), DTypeError, "ambiguous"),
])
def test_attention_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(ag.asarray(np.ones((2, 3, 4))))


# ---------------------------------------------------------------------------------------------------------- embedding
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_embedding(rng, padding):
    w, i = rng.standard_normal((5, 3)), np.array([[0, 2, 2], [4, 4, 1]])
    weight = ag.asarray(w, requires_grad=True)
    y = xp.embedding(ag.asarray(i), weight, padding_idx=padding)
    close(y, w[i])
    g = rng.standard_normal((2, 3, 3))
    (y * ag.asarray(g)).sum().backward()
    want = np.zeros_like(w)
    np.add.at(want, i, g)
    if padding is not None:
        want[padding] = 0
    np.testing.assert_allclose(weight.grad.numpy(), want)


def test_embedding_of_nothing():
    w = ag.asarray(np.ones((5, 3), np.float32), requires_grad=True)
    y = xp.embedding(ag.asarray(np.zeros((2, 0), np.int64)), w)
    y.sum().backward()
    assert y.shape == (2, 0, 3) and y.dtype == "float32" and not w.grad.numpy().any()
    assert xp.embedding(ag.asarray(3), w).shape == (3,)


@pytest.mark.parametrize("i, w, kw, error, text", [
    ([0, 5], (5, 3), {}, IndexingError, "index 5 is outside of the weight, which has 5 rows"),
    ([-1], (5, 3), {}, IndexingError, "index -1"),
    ([0.0], (5, 3), {}, DTypeError, "holds integers"),
    ([0], (5,), {}, ShapeError, "size of a vector"),
    ([0], (5, 3), {"padding_idx": 5}, IndexingError, "padding_idx=5"),
])
def test_embedding_errors(i, w, kw, error, text):
    with pytest.raises(error, match=text):
        xp.embedding(ag.asarray(i), ag.asarray(np.ones(w)), **kw)


@pytest.mark.parametrize("rows, columns", [(0, 3), (3, 0)])
def test_second_derivatives_of_nothing(rows, columns):
    q, k, v = (ag.ones((2, n, 4), requires_grad=True) for n in (rows, columns, columns))
    y = ag.scaled_dot_product_attention(q, k, v, is_causal=True)
    found = ag.gradients(y.sum(), [q, k, v], create_graph=True)
    assert [g.shape for g in found] == [q.shape, k.shape, v.shape]


def test_dropped_weights():
    ag.random.seed(0)
    q, k, v = (ag.random.normal((2, 3, 40, 8)) for _ in range(3))
    args = q, k, v, None
    np.testing.assert_allclose(ag.scaled_dot_product_attention(*args, 0, True).numpy(),  # PyTorch's places
                               ag.scaled_dot_product_attention(*args, is_causal=True).numpy(), rtol=1e-5, atol=1e-6)
    hidden = ag.arange(40) < 7
    for more in ({}, {"is_causal": True}, {"attn_mask": hidden}, {"attn_mask": ag.where(hidden, 0.0, -1.0)},
                 {"scale": 0.5}):
        ones = ag.ones(2, 3, 40, 4000)
        y = ag.scaled_dot_product_attention(q, k, ones, dropout_p=0.25, **more)  # sums of the weights that are kept
        assert 0.8 < y.mean().item() < 1.2 and (y.std(axis=2) > 0).all()
        whole = ag.scaled_dot_product_attention(q, k, v, **more)
        mean = sum(ag.scaled_dot_product_attention(q, k, v, dropout_p=0.25, **more) for _ in range(400)) / 400
        assert abs(mean - whole).max() < 0.35 and abs(mean - whole).mean() < 0.03
    nothing = ag.scaled_dot_product_attention(q, k, v, ag.zeros(40, 40, dtype="bool"), 0.5)
    assert (nothing == 0).all() and (ag.scaled_dot_product_attention(q, k, v, None, 1.0) == 0).all()
    staged = ag.function(lambda q: ag.scaled_dot_product_attention(q, k, v, dropout_p=0.5, is_causal=True))
    runs = []
    for f in (staged, staged, staged, staged.__wrapped__):
        ag.random.seed(1)
        runs.append(f(q).numpy())
    for got in runs[:3]:
        np.testing.assert_allclose(got, runs[3], rtol=1e-4, atol=1e-5)
    for wrong in (True, "0.1"):
        with pytest.raises(ArgumentTypeError, match="is_causal by name"):
            ag.scaled_dot_product_attention(q, k, v, None, wrong)
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        ag.scaled_dot_product_attention(q, k, v, dropout_p=1.5)


def test_grouped_queries(rng):
    q, k, v = rng.standard_normal((2, 6, 5, 4)), rng.standard_normal((2, 2, 7, 4)), rng.standard_normal((2, 3, 7, 3))
    got = ag.scaled_dot_product_attention(*map(ag.asarray, (q, k, v)), enable_gqa=True)
    close(got, plain(q, np.repeat(k, 3, axis=1), np.repeat(v, 2, axis=1)))
    for heads in (0, 4):
        with pytest.raises(ShapeError, match="heads of the key .* must divide"):
            ag.scaled_dot_product_attention(*map(ag.asarray, (q, np.ones((2, heads, 7, 4)), v)), enable_gqa=True)
    with pytest.raises(ShapeError, match="heads of the value"):
        ag.scaled_dot_product_attention(*map(ag.asarray, (q, k, np.ones((2, 5, 7, 3)))), enable_gqa=True)
