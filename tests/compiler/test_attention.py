"""Attention and its gradients against NumPy in float64: any sizes, layouts and machines."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agog import config
from agog.compiler import targets
from agog.compiler.program import compile
from agog.graph import interpret
from agog.graph.build import Builder, xp
from agog.ops.row import TABLE

SIZES = [1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 129]


def exact(g, q, k, v, causal, scale):
    """The result, and the gradients at q, k and v."""
    g, q, k, v = (x.astype(np.float64) for x in (g, q, k, v))
    t = lambda x: np.swapaxes(x, -1, -2)
    s = q @ t(k) * scale
    if causal:
        s = np.where(np.arange(q.shape[-2])[:, None] >= np.arange(k.shape[-2]), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = g @ t(v)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True))
    return p @ v, ds @ k * scale, t(ds) @ q * scale, t(p) @ g


def rows(b, g, q, k, v, causal, scale):
    """Both rows of Builder values."""
    return *b.add(TABLE["_attention"], [q, k, v], (causal, scale)), *b.add(
        TABLE["_attention_grad"], [g, q, k, v], (causal, scale)
    )


def program(arrays, causal, scale, target=None):
    b = Builder("attention")
    inputs = [b.input(x.shape, x.dtype).value for x in arrays]
    graph = b.build([b.symbol(y) for y in rows(b, *inputs, causal, scale)])
    return graph, compile(graph, target)


def close(got, want, dtype):
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == dtype
        np.testing.assert_allclose(g, w, rtol=0, atol=200 * np.finfo(dtype).eps * max(1e-3, np.abs(w).max(initial=0)))


def native(p):
    return [name for name, *_ in p._segments[0].notes if "attention" in name]


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    name=st.sampled_from([t.name for t in targets.TARGETS.values()]),
    dtype=st.sampled_from(["float32", "float64"]),
    lead=st.sampled_from([(), (3,), (2, 3), (2, 1, 2)]),
    queries=st.sampled_from(SIZES),
    keys=st.sampled_from([*SIZES, 300]),
    size=st.sampled_from([1, 3, 8, 16, 33, 70]),
    values=st.sampled_from([1, 5, 16, 32, 65]),
    causal=st.booleans(),
)
def test_sizes(name, dtype, lead, queries, keys, size, values, causal):
    target = targets.TARGETS[name]
    hypothesis.assume(targets.supported(target))
    rng = np.random.default_rng(queries * keys + size)
    shapes = (queries, values), (queries, size), (keys, size), (keys, values)
    arrays = [rng.standard_normal((*lead, *s)).astype(dtype) for s in shapes]
    _, p = program(arrays, causal, 0.3, target)
    assert bool(native(p)) == (queries * keys >= 256)
    close(p(arrays), exact(*arrays, causal, 0.3), dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [3, 16, 21])
def test_heads_within_rows(causal, width, rng):
    """Heads cut out of rows are read where they stand, and neither NaN around them nor the copies matter."""
    batch, length, heads = 2, 37, 3
    x = np.full((batch, length, 3, heads + 1, width + 2), np.nan, np.float32)
    x[..., :heads, 1 : width + 1] = rng.standard_normal((batch, length, 3, heads, width))
    slope = rng.standard_normal((batch, heads, length, width)).astype(np.float32)
    b = Builder("heads")
    with b:
        whole, g = b.input(x.shape, x.dtype), b.input(slope.shape, slope.dtype)
        q, k, v = (xp.permute_dims(whole[:, :, i, :heads, 1 : width + 1], (0, 2, 1, 3)) for i in range(3))
        y, *slopes = rows(b, g.value, q.value, k.value, v.value, causal, 0.4)
        merged = [xp.reshape(xp.permute_dims(b.symbol(z), (0, 2, 1, 3)), (batch, length, -1)) for z in (y, *slopes)]
        graph = b.build(merged)
    p = compile(graph)
    assert len(native(p)) == len(p._segments[0].notes) == 2  # nothing is copied
    q, k, v = (x[:, :, i, :heads, 1 : width + 1].transpose(0, 2, 1, 3) for i in range(3))
    want = [z.transpose(0, 2, 1, 3).reshape(batch, length, -1) for z in exact(slope, q, k, v, causal, 0.4)]
    close(p([x, slope]), want, np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads, rng, monkeypatch):
    arrays = [rng.standard_normal((5, 200, 32)).astype(np.float32) for _ in range(4)]
    monkeypatch.setattr(config, "num_threads", threads)
    _, p = program(arrays, True, 0.2)
    close(p(arrays), exact(*arrays, True, 0.2), np.float32)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("at, value", [((0, 3, 0), np.nan), ((0, 5, 1), np.inf), ((0, slice(None), 0), -np.inf)])
def test_special_values(causal, at, value, rng):
    """Where eager mode gives NaN, zeros or numbers, so does this."""
    g, q, k, v = (rng.standard_normal((1, 20, 4)).astype(np.float32) for _ in range(4))
    q[at] = value
    k[..., 0] = np.abs(k[..., 0]) + 1
    graph, p = program([g, q, k, v], causal, 0.5)
    with np.errstate(all="ignore"):
        for got, want in zip(p([g, q, k, v]), interpret.run(graph, [g, q, k, v]), strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_gradients_of_long_sequences_in_blocks(rng):
    arrays = [rng.standard_normal((1, 700, 8)).astype(np.float64) for _ in range(4)]
    _, p = program(arrays, True, 0.3)
    close(p(arrays), exact(*arrays, True, 0.3), np.float64)
