"""Layers against plain NumPy in float64, written out from their definitions."""

import itertools
import math

import numpy as np
import pytest

import agog as ag
from agog import errors, nn


@pytest.fixture(autouse=True)
def seeded():
    ag.random.seed(0)


def values(module):
    """Parameters and buffers in float64, moved away from their special first values."""
    r = np.random.default_rng(1)
    for _, t in itertools.chain(module.named_parameters(), module.named_buffers()):
        if t.dtype == ag.float32:
            t.assign(t.detach() + ag.asarray(0.3 * r.random(t.shape), dtype="float32"))
    return {n: t.numpy().astype(float) for n, t in module.state_dict().items()}


def check(module, *inputs, want, rtol=1e-4, atol=1e-5):
    got = module(*[ag.asarray(x) for x in inputs])
    for g, w in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
        assert g.shape == np.shape(w) and g.dtype == ag.float32
        np.testing.assert_allclose(g.detach().numpy(), w, rtol=rtol, atol=atol)


def f32(rng, *shape):
    return rng.standard_normal(shape).astype("f4")


# ---------------------------------------------------------------------------------------------------------- linear maps
def test_linear(rng):
    m = nn.Linear(4, 3)
    p = values(m)
    for shape in ((4,), (5, 4), (2, 0, 4), (2, 5, 4)):
        x = f32(rng, *shape)
        check(m, x, want=x @ p["weight"].T + p["bias"])
    m = nn.Linear(4, 3, bias=False, dtype="float64")
    assert m(ag.ones(4, dtype="float64")).dtype == ag.float64


def test_bilinear(rng):
    m = nn.Bilinear(3, 4, 2)
    p, x, y = values(m), f32(rng, 2, 5, 3), f32(rng, 2, 5, 4)
    check(m, x, y, want=np.einsum("...i,kij,...j->...k", x, p["weight"], y) + p["bias"])


def test_embedding(rng):
    m = nn.Embedding(5, 3, padding_idx=-4)
    assert m.weight[1].tolist() == [0, 0, 0] and m.padding_idx == 1
    p, i = values(m), rng.integers(0, 5, (2, 4))
    check(m, i, want=p["weight"][i])
    m(ag.asarray([0, 1, 1, 0])).sum().backward()
    assert m.weight.grad[:2].tolist() == [[2] * 3, [0] * 3]


def test_shapes(rng):
    x = f32(rng, 2, 6, 4)
    check(nn.Flatten(), x, want=x.reshape(2, 24))
    check(nn.Flatten(0, 1), x, want=x.reshape(12, 4))
    check(nn.Unflatten(1, (2, -1)), x, want=x.reshape(2, 2, 3, 4))
    check(nn.Identity(1, a=2), x, want=x)


def test_upsample(rng):
    x = f32(rng, 1, 2, 2, 3)
    check(nn.Upsample(scale_factor=2), x, want=x.repeat(2, 2).repeat(2, 3))
    check(nn.Upsample(size=(4, 3)), x, want=x.repeat(2, 2))
    line = np.array([[[0.0, 1.0, 3.0]]], "f4")
    check(nn.Upsample(scale_factor=2, mode="linear"), line, want=[[[0, 0.25, 0.75, 1.5, 2.5, 3]]])
    check(nn.Upsample(size=5, mode="linear", align_corners=True), line, want=[[[0, 0.5, 1, 2, 3]]])


# --------------------------------------------------------------------------------------------------------- convolutions
def conv(x, w, b, stride, padding, dilation, groups, value=None):
    """From the definition, position by position."""
    n = w.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0)] + [(p, p) for p in padding]) if value is None else value
    sizes = [(x.shape[i + 2] - dilation[i] * (w.shape[i + 2] - 1) - 1) // stride[i] + 1 for i in range(n)]
    y = np.zeros((x.shape[0], w.shape[0], *sizes))
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for o in range(w.shape[0]):
        c = o // per_out * per_in
        for at in itertools.product(*map(range, sizes)):
            window = tuple(slice(a * s, a * s + d * (k - 1) + 1, d) for a, s, d,
                           k in zip(at, stride, dilation, w.shape[2:]))
            y[(slice(None), o, *at)] = (x[(slice(None), slice(c, c + per_in), *window)] * w[o]).sum(tuple(range(1,
                                                                                                                n + 2)))
    return y if b is None else y + b.reshape(-1, *(1,) * n)


def conv_transpose(x, w, b, stride, padding, output_padding, dilation, groups):
    """Each input adds its kernel to the output; then the padding is cut off."""
    n = w.ndim - 2
    reach = [dilation[i] * (w.shape[i + 2] - 1) + 1 for i in range(n)]
    full = [(x.shape[i + 2] - 1) * stride[i] + reach[i] + output_padding[i] for i in range(n)]
    y = np.zeros((x.shape[0], w.shape[1] * groups, *full))
    for c in range(x.shape[1]):
        g = c // (x.shape[1] // groups) * w.shape[1]
        for at in itertools.product(*map(range, x.shape[2:])):
            window = tuple(slice(a * s, a * s + d * (k - 1) + 1, d) for a, s, d,
                           k in zip(at, stride, dilation, w.shape[2:]))
            y[(slice(None), slice(g, g + w.shape[1]), *window)] += np.multiply.outer(x[(slice(None), c, *at)], w[c])
    y = y[(slice(None), slice(None), *(slice(p, y.shape[i + 2] - p) for i, p in enumerate(padding)))]
    return y if b is None else y + b.reshape(-1, *(1,) * n)


@pytest.mark.parametrize(("cls", "shape", "kw"), [
    (nn.Conv1d, (2, 4, 11), {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
    (nn.Conv2d, (2, 4, 7, 6), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    (nn.Conv2d, (1, 4, 5, 5), {"kernel_size": 3, "groups": 4, "bias": False}),
    (nn.Conv3d, (1, 4, 4, 5, 3), {"kernel_size": 2, "stride": 2, "padding": 1}),
])
def test_conv(cls, shape, kw, rng):
    m = cls(shape[1], 8, **kw)
    p, x = values(m), f32(rng, *shape)
    want = conv(x, p["weight"], p.get("bias"), m.stride, m.padding, m.dilation, m.groups)
    check(m, x, want=want)
    got = m(ag.asarray(x[0]))  # without the batch
    np.testing.assert_allclose(got.detach().numpy(), want[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "name"), [("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge"),
                                            ("circular", "wrap")])
@pytest.mark.parametrize("padding", [(1, 2), "same", "valid"])
def test_padding_modes(mode, name, padding, rng):
    m = nn.Conv2d(2, 3, (4, 3), padding=padding, padding_mode=mode)
    p, x = values(m), f32(rng, 2, 2, 6, 7)
    widths = {"same": [(1, 2), (1, 1)], "valid": [(0, 0)] * 2}[padding] if isinstance(padding, str) else [(1, 1),
                                                                                                          (2, 2)]
    padded = np.pad(x, [(0, 0), (0, 0), *widths], mode=name)
    check(m, x, want=conv(None, p["weight"], p["bias"], (1, 1), None, (1, 1), 1, padded))


@pytest.mark.parametrize(("cls", "shape", "kw"), [
    (nn.ConvTranspose1d, (2, 4, 5), {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    (nn.ConvTranspose2d, (2, 4, 3, 4), {"kernel_size": (2, 3), "stride": 2, "dilation": 2, "bias": False}),
    (nn.ConvTranspose3d, (1, 4, 2, 3, 2), {"kernel_size": 2, "stride": 2}),
])
def test_conv_transpose(cls, shape, kw, rng):
    m = cls(shape[1], 6, **kw)
    p, x = values(m), f32(rng, *shape)
    check(m, x, want=conv_transpose(x, p["weight"], p.get("bias"), m.stride, m.padding, m.output_padding, m.dilation,
                                    m.groups))


# -------------------------------------------------------------------------------------------------------------- pooling
def test_pooling(rng):
    x = f32(rng, 2, 3, 4, 6)
    blocks = x.reshape(2, 3, 2, 2, 3, 2)
    check(nn.MaxPool2d(2), x, want=blocks.max((3, 5)))
    check(nn.AvgPool2d(2), x, want=blocks.mean((3, 5)))
    check(nn.MaxPool2d((3, 2), stride=1), x, want=np.lib.stride_tricks.sliding_window_view(x, (3, 2),
                                                                                           (2, 3)).max((4, 5)))
    check(nn.AdaptiveAvgPool2d(1), x, want=x.mean((2, 3), keepdims=True))
    check(nn.AdaptiveMaxPool2d((2, None)), x, want=x.reshape(2, 3, 2, 2, 6).max(3))
    check(nn.MaxPool1d(2), x[0], want=x[0].reshape(3, 4, 3, 2).max(3))
    padded = np.pad(x[:, 0], ((0, 0), (0, 0), (1, 1)))
    check(nn.AvgPool1d(3, 1, 1), x[:, 0], want=sum(padded[:, :, i:i + 6] for i in range(3)) / 3)
    check(nn.AdaptiveAvgPool1d(3), x[0], want=x[0].reshape(3, 4, 3, 2).mean(3))
    check(nn.AdaptiveMaxPool1d(2), x[0], want=x[0].reshape(3, 4, 2, 3).max(3))
    y = f32(rng, 1, 2, 4, 4, 4)
    cubes = y.reshape(1, 2, 2, 2, 2, 2, 2, 2)
    for m in (nn.MaxPool3d(2), nn.AdaptiveMaxPool3d(2)):
        check(m, y, want=cubes.max((3, 5, 7)))
    for m in (nn.AvgPool3d(2), nn.AdaptiveAvgPool3d((2, 2, 2))):
        check(m, y, want=cubes.mean((3, 5, 7)))


# -------------------------------------------------------------------------------------------------------- normalisation
def normal(x, axes, eps=1e-5):
    x = x.astype(float)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def along(v, ndim, axis=1):
    return v.reshape([-1 if i == axis else 1 for i in range(ndim)])


@pytest.mark.parametrize(("cls", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm1d, (4, 3, 5)),
                                            (nn.BatchNorm2d, (2, 3, 4, 5)),
                                            (nn.BatchNorm3d, (2, 3, 2, 2, 2))])
def test_batch_norm(cls, shape, rng):
    m = cls(3, momentum=0.3)
    p, n = values(m), len(shape)
    axes = tuple(i for i in range(n) if i != 1)
    mean, var, count = p["running_mean"], p["running_var"], math.prod(shape) // 3
    for step in range(1, 3):
        x = f32(rng, *shape)
        check(m, x, want=normal(x, axes) * along(p["weight"], n) + along(p["bias"], n))
        mean = 0.7 * mean + 0.3 * x.mean(axes)
        var = 0.7 * var + 0.3 * x.astype(float).var(axes) * count / (count - 1)
        np.testing.assert_allclose(m.running_mean.numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(m.running_var.numpy(), var, rtol=1e-4)
        assert m.num_batches_tracked.item() == step and not m.running_mean.requires_grad
    m.eval()
    want = (x - along(mean, n)) / np.sqrt(along(var, n) + 1e-5) * along(p["weight"], n) + along(p["bias"], n)
    check(m, x, want=want)
    assert m.num_batches_tracked.item() == 2
    m.reset_parameters()
    assert m.running_var.tolist() == [1, 1, 1] and m.weight.tolist() == [1, 1, 1] and m.num_batches_tracked.item() == 0


def test_batch_norm_averages_all_batches(rng):
    m = nn.BatchNorm1d(2, momentum=None)
    xs = f32(rng, 3, 5, 2)
    for x in xs:
        m(ag.asarray(x))
    np.testing.assert_allclose(m.running_mean.numpy(), xs.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(m.running_var.numpy(), xs.var(1, ddof=1).mean(0), rtol=1e-4)


def test_batch_norm_without_statistics(rng):
    x = f32(rng, 5, 2)
    m = nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    assert not list(m.parameters()) and not list(m.buffers())
    check(m.eval(), x, want=normal(x, 0))


def test_other_norms(rng):
    x = f32(rng, 2, 4, 3, 5)
    m = nn.LayerNorm((3, 5))
    p = values(m)
    check(m, x, want=normal(x, (2, 3)) * p["weight"] + p["bias"])
    assert nn.LayerNorm(5, bias=False).bias is None
    check(nn.LayerNorm([5], elementwise_affine=False, eps=0.1), x, want=normal(x, 3, 0.1))
    m = nn.RMSNorm(5, eps=1e-3)
    p = values(m)
    check(m, x, want=x / np.sqrt((x.astype(float) ** 2).mean(3, keepdims=True) + 1e-3) * p["weight"])
    m = nn.GroupNorm(2, 4)
    p = values(m)
    grouped = normal(x.reshape(2, 2, -1), 2).reshape(x.shape)
    check(m, x, want=grouped * along(p["weight"], 4) + along(p["bias"], 4))
    m = nn.InstanceNorm2d(4, affine=True)
    p = values(m)
    check(m, x, want=normal(x, (2, 3)) * along(p["weight"], 4) + along(p["bias"], 4))
    check(nn.InstanceNorm1d(4), x[:, :, 0], want=normal(x[:, :, 0], 2))
    check(nn.InstanceNorm3d(4), x[..., None], want=normal(x, (2, 3))[..., None])


def test_instance_norm_with_running_statistics(rng):
    m = nn.InstanceNorm2d(4, 1e-3, 0.3, True, True)
    p = values(m)
    mean, var = p["running_mean"], p["running_var"]
    for _ in range(2):
        x = f32(rng, 3, 4, 2, 5)
        check(m, x, want=normal(x, (2, 3), 1e-3) * along(p["weight"], 4) + along(p["bias"], 4))
        wide = x.astype(float)
        mean = 0.7 * mean + 0.3 * wide.mean((0, 2, 3))
        var = 0.7 * var + 0.3 * wide.var((2, 3), ddof=1).mean(0)
    np.testing.assert_allclose(m.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(m.running_var.numpy(), var, rtol=1e-5)
    want = (x - along(mean, 4)) / np.sqrt(along(var, 4) + 1e-3) * along(p["weight"], 4) + along(p["bias"], 4)
    check(m.eval(), x, want=want)
    assert m(ag.ones(1, 4, 1, 1)).shape == (1, 4, 1, 1) and "track_running_stats=True" in repr(m)
    assert not list(nn.InstanceNorm1d(4).buffers())
    with pytest.raises(errors.ArgumentTypeError, match="affine="):
        nn.InstanceNorm1d(4, 1e-5, True)


def test_modules_of_operations(rng):
    x, flat = ag.asarray(f32(rng, 2, 4, 6, 6)), ag.asarray(f32(rng, 2, 8, 12))
    for m, want in ((nn.LPPool2d(2.0, 2, stride=1), ag.lp_pool2d(x, 2.0, 2, stride=1)),
                    (nn.LPPool1d(3.0, 2), ag.lp_pool1d(abs(x[0]), 3.0, 2)),
                    (nn.LocalResponseNorm(3, beta=0.5), ag.local_response_norm(x, 3, beta=0.5)),
                    (nn.Unfold((2, 3), padding=1), ag.unfold(x, (2, 3), padding=1)),
                    (nn.Fold((4, 5), 2), ag.fold(flat, (4, 5), 2)),
                    (nn.ChannelShuffle(2), ag.channel_shuffle(x, 2))):
        given = flat if isinstance(m, nn.Fold) else abs(x[0]) if isinstance(m, nn.LPPool1d) else x
        np.testing.assert_array_equal(m(given).numpy(), want.numpy())
    a, b = ag.asarray(f32(rng, 5, 3)), ag.asarray(f32(rng, 5, 3))
    np.testing.assert_array_equal(nn.PairwiseDistance(1.0, keepdim=True)(a, b).numpy(),
                                  ag.pairwise_distance(a, b, 1.0, keepdims=True).numpy())
    assert repr(nn.ChannelShuffle(2)) == "ChannelShuffle(groups=2)"
    with pytest.raises(errors.ArgumentTypeError, match="takes size, alpha=0.0001.*size must be given"):
        nn.LocalResponseNorm()


# ------------------------------------------------------------------------------------------------------------ attention
def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(p, heads, q, k, v, mask=0.0):
    """Batch first; in_proj_weight or q/k/v_proj_weight."""
    e = q.shape[-1]
    ws = np.split(p["in_proj_weight"], 3) if "in_proj_weight" in p else [p[f"{n}_proj_weight"] for n in "qkv"]
    bs = np.split(p["in_proj_bias"], 3) if "in_proj_bias" in p else [0.0] * 3
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), ws, bs))
    q, k, v = (x.reshape(*x.shape[:-1], heads, e // heads).swapaxes(1, 2) for x in (q, k, v))
    weights = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(e // heads) + mask)
    y = (weights @ v).swapaxes(1, 2).reshape(q.shape[0], q.shape[2], e)
    return y @ p["out_proj.weight"].T + p.get("out_proj.bias", 0.0), weights


@pytest.mark.parametrize("kw", [{}, {"bias": False}, {"kdim": 3, "vdim": 5}], ids=str)
def test_multihead_attention(kw, rng):
    m = nn.MultiheadAttention(8, 2, batch_first=True, **kw)
    p = values(m)
    q, k, v = f32(rng, 3, 4, 8), f32(rng, 3, 5, kw.get("kdim", 8)), f32(rng, 3, 5, kw.get("vdim", 8))
    want, weights = attention(p, 2, q, k, v)
    check(m, q, k, v, want=(want, weights.mean(1)))
    tensors = [ag.asarray(x) for x in (q, k, v)]
    fast, none = m(*tensors, need_weights=False)
    np.testing.assert_allclose(fast.detach().numpy(), want, rtol=1e-4, atol=1e-5)
    assert none is None
    np.testing.assert_allclose(m(*tensors, average_attn_weights=False)[1].detach().numpy(), weights, rtol=1e-4,
                               atol=1e-5)
    m.batch_first = False
    check(m, *(x.swapaxes(0, 1) for x in (q, k, v)), want=(want.swapaxes(0, 1), weights.mean(1)))
    check(m, q[0], k[0], v[0], want=(want[0], weights.mean(1)[0]))


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_masks(need_weights, rng):
    m = nn.MultiheadAttention(4, 2, batch_first=True)
    p, x = values(m), f32(rng, 3, 5, 4)
    padding = rng.random((3, 5)) < 0.4
    padding[:, 0] = False
    blocked = np.triu(np.ones((5, 5), bool), 1)
    both = np.where(blocked | padding[:, None, None], -np.inf, 0.0)
    t = ag.asarray(x)
    for args, mask in ((({"attn_mask": ag.asarray(blocked)}), np.where(blocked, -np.inf, 0)),
                       ({"is_causal": True}, np.where(blocked, -np.inf, 0)),
                       ({"key_padding_mask": ag.asarray(padding)}, np.where(padding[:, None, None], -np.inf, 0)),
                       ({"key_padding_mask": ag.asarray(padding), "is_causal": True}, both),
                       ({"attn_mask": ag.asarray(np.tile(np.where(blocked, -1.5, 0.5), (6, 1, 1)), dtype="float32"),
                         "key_padding_mask": ag.asarray(np.where(padding, -np.inf, 0), dtype="float32")},
                        np.where(padding[:, None, None], -np.inf, np.where(blocked, -1.5, 0.5)))):
        got = m(t, t, t, need_weights=need_weights, **args)[0]
        np.testing.assert_allclose(got.detach().numpy(), attention(p, 2, x, x, x, mask)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers(norm_first, rng):
    def norm(x, name):
        return normal(x, -1) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def part(name):
        return {k.removeprefix(name + "."): v for k, v in p.items() if k.startswith(name)}

    def feed(x):
        return np.maximum(x @ p["linear1.weight"].T + p["linear1.bias"], 0) @ p["linear2.weight"].T + p["linear2.bias"]

    kw = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
    x, memory = f32(rng, 2, 5, 8), f32(rng, 2, 3, 8)
    m = nn.TransformerEncoderLayer(8, 2, 16, **kw)
    p = values(m)
    if norm_first:
        y = x + attention(part("self_attn"), 2, *[norm(x, "norm1")] * 3)[0]
        y = y + feed(norm(y, "norm2"))
    else:
        y = norm(x + attention(part("self_attn"), 2, x, x, x)[0], "norm1")
        y = norm(y + feed(y), "norm2")
    check(m, x, want=y)
    stack = nn.TransformerEncoder(m, 2, nn.LayerNorm(8))
    assert stack.num_parameters() == 2 * m.num_parameters() + 16
    once = m(m(ag.asarray(x)))
    check(stack, x, want=normal(once.detach().numpy(), -1))
    m = nn.TransformerDecoderLayer(8, 2, 16, **kw)
    p = values(m)
    if norm_first:
        y = x + attention(part("self_attn"), 2, *[norm(x, "norm1")] * 3)[0]
        y = y + attention(part("multihead_attn"), 2, norm(y, "norm2"), memory, memory)[0]
        y = y + feed(norm(y, "norm3"))
    else:
        y = norm(x + attention(part("self_attn"), 2, x, x, x)[0], "norm1")
        y = norm(y + attention(part("multihead_attn"), 2, y, memory, memory)[0], "norm2")
        y = norm(y + feed(y), "norm3")
    check(m, x, memory, want=y)


# ------------------------------------------------------------------------------------------------------------ recurrent
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn_step(kind, x, h, c, w, u, b, d):
    a, r = x @ w.T + b, h @ u.T + d
    if kind in ("tanh", "relu"):
        return (np.tanh(a + r) if kind == "tanh" else np.maximum(a + r, 0)), c
    if kind == "lstm":
        i, f, g, o = np.split(a + r, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (ar, az, an), (rr, rz, rn) = np.split(a, 3, -1), np.split(r, 3, -1)
    z = sigmoid(az + rz)
    return (1 - z) * np.tanh(an + sigmoid(ar + rr) * rn) + z * h, c


def rnn(kind, p, x, layers, both, h0, c0):
    hs, cs, i = [], [], 0
    for layer in range(layers):
        outs = []
        for suffix in ([f"_l{layer}", f"_l{layer}_reverse"] if both else [f"_l{layer}"]):
            w, u = p["weight_ih" + suffix], p["weight_hh" + suffix]
            b, d = p.get("bias_ih" + suffix, 0.0), p.get("bias_hh" + suffix, 0.0)
            h, c, ys = h0[i], c0[i], []
            for xt in (x[::-1] if "reverse" in suffix else x):
                h, c = rnn_step(kind, xt, h, c, w, u, b, d)
                ys.append(h)
            outs.append(np.stack(ys[::-1] if "reverse" in suffix else ys))
            hs.append(h)
            cs.append(c)
            i += 1
        x = np.concatenate(outs, -1)
    return x, np.stack(hs), np.stack(cs)


@pytest.mark.parametrize("kind", ["tanh", "relu", "lstm", "gru"])
@pytest.mark.parametrize(("layers", "both", "bias"), [(1, False, True), (2, True, True), (2, False, False)])
def test_recurrent(kind, layers, both, bias, rng):
    cls = {"lstm": nn.LSTM, "gru": nn.GRU}.get(kind, nn.RNN)
    extra = {} if kind in ("lstm", "gru") else {"nonlinearity": kind}
    m = cls(3, 4, layers, bias=bias, bidirectional=both, **extra)
    p, x = values(m), f32(rng, 5, 2, 3)
    n = layers * (2 if both else 1)
    zero, h0, c0 = np.zeros((n, 2, 4)), f32(rng, n, 2, 4), f32(rng, n, 2, 4)

    def expect(h, c, x=x):
        y, h, c = rnn(kind, p, x, layers, both, h, c)
        return y, ((h, c) if kind == "lstm" else h)

    def compare(got, want):
        flat = [got[0], *(got[1] if kind == "lstm" else [got[1]])]
        wanted = [want[0], *(want[1] if kind == "lstm" else [want[1]])]
        for g, w in zip(flat, wanted):
            assert g.shape == w.shape
            np.testing.assert_allclose(g.detach().numpy(), w, rtol=1e-4, atol=1e-5)

    compare(m(ag.asarray(x)), expect(zero, zero))
    state = (ag.asarray(h0), ag.asarray(c0)) if kind == "lstm" else ag.asarray(h0)
    compare(m(ag.asarray(x), state), expect(h0, c0))
    y, last = m(ag.asarray(x[:, 0]))  # one sequence
    assert y.shape == (5, 4 * (2 if both else 1)) and (last[0] if kind == "lstm" else last).shape == (n, 4)
    m.batch_first = True
    y, last = m(ag.asarray(x.swapaxes(0, 1)))
    want = expect(zero, zero)
    compare((ag.swapaxes(y, 0, 1), last), want)
    y.sum().backward()
    assert all(q.grad is not None for q in m.parameters())


@pytest.mark.parametrize(("cls", "kind"), [(nn.RNNCell, "tanh"), (nn.LSTMCell, "lstm"), (nn.GRUCell, "gru")])
def test_cells(cls, kind, rng):
    m = cls(3, 4)
    p, x, h, c = values(m), f32(rng, 2, 3), f32(rng, 2, 4), f32(rng, 2, 4)
    args = [p[k] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    want = rnn_step(kind, x, h, c, *args)
    got = m(ag.asarray(x), (ag.asarray(h), ag.asarray(c)) if kind == "lstm" else ag.asarray(h))
    np.testing.assert_allclose((got[0] if kind == "lstm" else got).detach().numpy(), want[0], rtol=1e-4, atol=1e-5)
    zero = np.zeros((2, 4))
    got = m(ag.asarray(x))
    np.testing.assert_allclose((got[0] if kind == "lstm" else got).detach().numpy(),
                               rnn_step(kind, x, zero, zero, *args)[0],
                               rtol=1e-4, atol=1e-5)
    assert nn.GRUCell(3, 4, bias=False)(ag.ones(3)).shape == (4,)


def test_dropout_between_layers():
    m = nn.GRU(3, 4, 2, dropout=1.0)
    x = ag.ones((5, 1, 3))
    assert not np.array_equal(m(x)[0].detach().numpy(), m.eval()(x)[0].detach().numpy())


# ---------------------------------------------------------------------------------------- activations, dropout, losses
def test_activations_call_their_operation(rng):
    x = ag.asarray(f32(rng, 4, 6) * 3)
    for m, want in ((nn.ReLU(inplace=True), ag.relu(x)), (nn.LeakyReLU(0.2), ag.leaky_relu(x, 0.2)),
                    (nn.ELU(alpha=0.5), ag.elu(x, 0.5)),
                    (nn.GELU("tanh"), ag.gelu(x, "tanh")), (nn.Softmax(0), ag.softmax(x, 0)),
                    (nn.Softplus(2.0), ag.softplus(x, 2.0)),
                    (nn.Hardtanh(-2.0, 2.0), ag.clip(x, -2, 2)), (nn.PReLU(6, 0.3), ag.where(x > 0, x, 0.3 * x))):
        np.testing.assert_allclose(m(x).detach().numpy(), want.numpy(), rtol=1e-6)
    assert repr(nn.LeakyReLU(0.2)) == "LeakyReLU(negative_slope=0.2)"
    with pytest.raises(errors.ArgumentTypeError, match="takes alpha=1.0"):
        nn.ELU(beta=2)
    with pytest.raises(errors.ArgumentTypeError, match="no arguments"):
        nn.ReLU(3)


def test_dropout():
    ag.random.seed(3)
    x = ag.ones((50, 40, 3, 3))
    y = nn.Dropout(0.25)(x).numpy()
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)} and abs((y == 0).mean() - 0.25) < 0.01
    y = nn.Dropout2d(0.5)(x).numpy()
    assert (y.reshape(50, 40, 9).min(2) == y.reshape(50, 40, 9).max(2)).all() and abs((y == 0).mean() - 0.5) < 0.05
    assert nn.Dropout1d(0.5)(x[0]).shape == (40, 3, 3)
    assert nn.Dropout3d(0.5)(x).shape == x.shape
    for m in (nn.Dropout(0.5).eval(), nn.Dropout(0.0), nn.Dropout2d().eval()):
        assert m(x) is x
    with pytest.raises(errors.ArgumentError, match="between 0 and 1"):
        nn.Dropout(1.5)
    with pytest.raises(errors.ShapeError, match="4 axes"):
        nn.Dropout2d()(ag.ones(3))


def test_losses_call_their_operation(rng):
    x, y = ag.asarray(f32(rng, 4, 3)), ag.asarray(f32(rng, 4, 3))
    label, weight = ag.asarray([0, 2, 1, 2]), ag.asarray([1.0, 2.0, 3.0])
    assert nn.MSELoss()(x, y).item() == pytest.approx(((x - y) ** 2).mean().item())
    assert nn.L1Loss(reduction="sum")(x, y).item() == pytest.approx(abs(x - y).sum().item())
    m = nn.CrossEntropyLoss(weight, label_smoothing=0.1)
    assert m(x, label).item() == pytest.approx(ag.cross_entropy(x, label, weight, label_smoothing=0.1).item())
    assert list(m.state_dict()) == ["weight"] and repr(m) == "CrossEntropyLoss(label_smoothing=0.1)"
    logp = np.log(softmax(x.numpy().astype(float)))
    assert nn.NLLLoss()(ag.log_softmax(x), label).item() == pytest.approx(-logp[range(4), label.numpy()].mean(),
                                                                          rel=1e-5)
    assert nn.HuberLoss(delta=0.5)(x, y).item() == pytest.approx(ag.huber_loss(x, y, 0.5).item())
    with pytest.raises(errors.ArgumentError, match="'mean', 'sum' or 'none'"):
        nn.MSELoss("average")
    with pytest.raises(errors.ArgumentTypeError, match="takes reduction"):
        nn.MSELoss(delta=1)


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(("make", "shape", "text"), [
    (lambda: nn.Linear(3, 2), (2, 4), r"Linear\(in_features=3.*shape \(2, 4\), expected \(\.\.\., 3\)"),
    (lambda: nn.Linear(3, 2), (), r"shape \(\)"),
    (lambda: nn.Conv2d(3, 2, 1), (2, 4, 5, 5), r"Conv2d\(3, 2.*expected \(N, 3, H, W\) or \(3, H, W\)"),
    (lambda: nn.Conv2d(3, 2, 1), (3, 5), r"shape \(3, 5\)"),
    (lambda: nn.ConvTranspose1d(3, 2, 1), (2, 4, 5), "expected"),
    (lambda: nn.MaxPool2d(2), (4, 4), r"expected \(N, C, H, W\)"),
    (lambda: nn.BatchNorm2d(3), (2, 3), r"expected \(N, 3, H, W\)"),
    (lambda: nn.BatchNorm1d(3), (2, 4), r"\(N, 3\)"),
    (lambda: nn.BatchNorm1d(3), (1, 3), "variance"),
    (lambda: nn.LayerNorm((2, 3)), (3, 2), r"expected \(\.\.\., 2, 3\)"),
    (lambda: nn.RMSNorm(3), (3, 2), r"expected \(\.\.\., 3\)"),
    (lambda: nn.GroupNorm(2, 4), (3, 2), r"expected \(N, 4"),
    (lambda: nn.InstanceNorm1d(4), (3, 2), r"expected \(N, 4, L\)"),
    (lambda: nn.InstanceNorm1d(4), (3, 4, 1), "more than one value"),
    (lambda: nn.Unflatten(1, (2, 2)), (3, 5), "splits into"),
    (lambda: nn.Unflatten(4, (2, 2)), (3, 5), "at least 5 axes"),
    (lambda: nn.Upsample(2, mode="bilinear"), (3, 5, 5), "4 axes"),
    (lambda: nn.LSTM(3, 4), (5, 2, 2), r"expected \(L, N, 3\)"),
    (lambda: nn.LSTM(3, 4), (0, 2, 3), "at least one step"),
    (lambda: nn.GRUCell(3, 4), (5, 2), r"expected \(N, 3\)"),
])
def test_bad_input(make, shape, text):
    with pytest.raises(errors.ShapeError, match=text):
        make()(ag.ones(shape))


def test_more_bad_input():
    x = ag.ones((4, 2, 8))
    m = nn.MultiheadAttention(8, 2)
    for act, text in ((lambda: m(x, x, ag.ones((4, 2, 7))), r"\(L, N, 8\) for the value"),
                      (lambda: m(x, x, x, attn_mask=ag.ones((3, 4))), r"\(4, 4\) or \(4, 4, 4\) for attn_mask"),
                      (lambda: m(x, x, x, key_padding_mask=ag.ones((4, 2))), r"\(2, 4\) for key_padding_mask"),
                      (lambda: nn.GRU(8, 3)(x, ag.ones((2, 2, 3))), r"\(1, 2, 3\) for the first state"),
                      (lambda: nn.LSTM(8, 3)(x, (ag.ones((1, 2, 3)),) * 3), "each of"),
                      (lambda: nn.LSTMCell(8, 3)(x[0], (ag.ones((2, 2)),) * 2), r"\(2, 3\) for the state"),
                      (lambda: nn.Bilinear(8, 3, 2)(x, x), r"\(\.\.\., 3\)")):
        with pytest.raises(errors.ShapeError, match=text):
            act()


@pytest.mark.parametrize(("make", "text"), [
    (lambda: nn.Linear(-1, 2), "in_features=-1"),
    (lambda: nn.Linear(2.5, 2), "whole number"),
    (lambda: nn.Conv2d(3, 4, (1, 2, 3)), "one for each axis"),
    (lambda: nn.Conv2d(3, 4, 0), "kernel_size=0"),
    (lambda: nn.Conv2d(3, 4, 1, groups=2), "must divide"),
    (lambda: nn.Conv2d(3, 4, 1, padding="full"), "'same' or 'valid'"),
    (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), "needs stride 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "padding_mode"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), "give whole numbers"),
    (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), "output_size"),
    (lambda: nn.Embedding(3, 4, padding_idx=3), "3 rows"),
    (lambda: nn.GroupNorm(3, 4), "must divide"),
    (lambda: nn.LayerNorm(()), "at least one size"),
    (lambda: nn.MultiheadAttention(8, 3), "must divide"),
    (lambda: nn.TransformerEncoderLayer(8, 2, activation="swish"), "activation='swish'"),
    (lambda: nn.RNN(2, 2, nonlinearity="sin"), "nonlinearity"),
    (lambda: nn.GRU(2, 2, dropout=2.0), "probability"),
    (lambda: nn.GRU(2, 0), "hidden_size=0"),
    (lambda: nn.Upsample(), "either size or scale_factor"),
    (lambda: nn.Upsample(2, mode="cubic"), "mode='cubic'"),
])
def test_bad_settings(make, text):
    with pytest.raises(errors.AgogError, match=text):
        make()


def test_padding_modules():
    x = ag.arange(6, dtype=ag.float32).reshape(1, 1, 2, 3)
    check(nn.ZeroPad2d((1, 0, 0, 1)), x, want=[[[[0, 0, 1, 2], [0, 3, 4, 5], [0, 0, 0, 0]]]])
    check(nn.ConstantPad1d(1, 7.0), x[0], want=[[[7, 0, 1, 2, 7], [7, 3, 4, 5, 7]]])
    check(nn.ReflectionPad2d((2, 1, 1, 0)), x, want=[[[[5, 4, 3, 4, 5, 4], [2, 1, 0, 1, 2, 1], [5, 4, 3, 4, 5, 4]]]])
    check(nn.ReplicationPad2d((0, 1, 0, 1)), x, want=[[[[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5]]]])
    check(nn.CircularPad1d((1, 0)), x[0], want=[[[2, 0, 1, 2], [5, 3, 4, 5]]])
    assert nn.ZeroPad3d(1)(ag.ones(1, 2, 2, 2)).shape == (1, 4, 4, 4) and repr(nn.ZeroPad1d(2)) == "ZeroPad1d((2, 2))"
    with pytest.raises(errors.ArgumentError, match="give one number, or 4"):
        nn.ZeroPad2d((1, 1))
    with pytest.raises(errors.ShapeError, match="3 without N"):
        nn.ZeroPad2d(1)(ag.ones(2))


def test_pixels_similarity_and_decoder():
    x = ag.random.normal((2, 8, 3, 3))
    assert ag.all(nn.PixelUnshuffle(2)(nn.PixelShuffle(2)(x)) == x) and nn.PixelShuffle(2)(x).shape == (2, 2, 6, 6)
    assert ag.allclose(nn.CosineSimilarity(axis=1)(x, 2 * x), ag.ones(2, 3, 3))
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    decoder = nn.TransformerDecoder(layer, 2, nn.LayerNorm(8))
    tgt, memory = ag.random.normal((2, 4, 8)), ag.random.normal((2, 5, 8))
    assert ag.allclose(decoder(tgt, memory), decoder.norm(layer(layer(tgt, memory), memory)))
    assert nn.Linear(2, 2).bfloat16().weight.dtype == ag.bfloat16


def test_kl_div_over_samples():
    x, t = ag.random.normal((5, 3)).log_softmax(axis=1), ag.random.normal((5, 3)).softmax(axis=1)
    want = ag.kl_div(x, t, reduction="sum") / 5
    assert ag.allclose(nn.KLDivLoss(reduction="batchmean")(x, t), want)
    with pytest.raises(errors.ArgumentError, match="'none' or 'batchmean'"):
        nn.KLDivLoss(reduction="batch")
    with pytest.raises(errors.ArgumentError, match="'sum' or 'none'"):
        nn.MSELoss(reduction="batchmean")
