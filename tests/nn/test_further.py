"""Parametrized weights, backward hooks, packed sequences, dicts of parameters, and the layers that came with them."""

import copy
import pickle

import numpy as np
import pytest

import agog as ag
from agog import nn
from agog.errors import ArgumentError, ArgumentTypeError, IndexingError, ShapeError


def close(got, want, tol=1e-5):
    got, want = (x.detach().numpy() if isinstance(x, ag.Tensor) else np.asarray(x) for x in (got, want))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol)


def draws(*shape, seed=0):
    return ag.asarray(np.random.default_rng(seed).standard_normal(shape).astype("f4"))


# ------------------------------------------------------------------------------------------------ parametrized weights
@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_weight_norm_keeps_the_value_and_learns_length_and_direction(dim):
    layer = nn.Linear(3, 4)
    before = layer.weight.detach()
    assert nn.utils.weight_norm(layer, dim=dim) is layer
    close(layer.weight, before)
    assert sorted(layer.state_dict()) == ["bias", "parametrizations.weight.original0",
                                          "parametrizations.weight.original1"]
    g, v = layer.parametrizations.weight.originals()
    axes = None if dim is None else (1 - dim % 2,)
    g.assign(g * 3)
    close(np.linalg.norm(layer.weight.detach().numpy(), axis=axes, keepdims=dim is not None), g)
    layer(draws(2, 3)).sum().backward()
    assert g.grad is not None and v.grad is not None
    close(ag.sum(v.grad * v), 0.0)  # a longer v changes nothing
    assert {id(p) for p in layer.parameters()} == {id(g), id(v), id(layer.bias)}


def test_spectral_norm_divides_by_the_largest_singular_value():
    for layer in (nn.Linear(5, 4), nn.Conv2d(3, 4, 2), nn.ConvTranspose1d(3, 4, 2)):
        ag.manual_seed(0)
        nn.utils.spectral_norm(layer, n_power_iterations=30)
        for _ in range(3):
            weight = layer.weight
        matrix = weight.detach().numpy()
        if isinstance(layer, nn.ConvTranspose1d):
            matrix = matrix.swapaxes(0, 1)
        close(np.linalg.svd(matrix.reshape(len(matrix), -1), compute_uv=False)[0], 1.0, 1e-3)
        layer.eval()
        u = layer.get_buffer("parametrizations.weight.0._u").detach()
        layer.weight  # noqa: B018 - in evaluation, reading improves nothing
        assert np.array_equal(u.numpy(), layer.get_buffer("parametrizations.weight.0._u").numpy())


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_parametrized_models_train_the_same_staged(norm):
    def run(stage):
        ag.manual_seed(0)
        model = nn.Sequential(norm(nn.Linear(4, 8)), nn.Tanh(), norm(nn.Linear(8, 1)))
        opt = ag.optim.SGD(model.parameters(), lr=0.1)

        def step(x):
            loss = ag.mse_loss(model(x), x.sum(axis=1, keepdims=True))
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss.detach()

        step = ag.function(step, strict=True) if stage else step
        return [step(draws(16, 4, seed=i)).item() for i in range(6)], model

    (eager, one), (staged, other) = run(False), run(True)
    np.testing.assert_allclose(staged, eager, rtol=1e-5)
    for name, value in one.state_dict().items():
        close(other.state_dict()[name], value)


def test_parametrizations_of_ones_own():
    class Symmetric(nn.Module):
        def forward(self, x):
            return ag.triu(x) + ag.triu(x, 1).T

    class Doubled(nn.Module):
        def forward(self, x):
            return x * 2

        def right_inverse(self, x):
            return x / 2

    layer = nn.Linear(3, 3)
    original = layer.weight
    nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    assert layer.parametrizations.weight.original is original
    close(layer.weight, layer.weight.T)
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    close(layer.weight, 2 * (ag.triu(original) + ag.triu(original, 1).T))
    with pytest.raises(ArgumentTypeError, match="right_inverse"):
        layer.weight = ag.zeros(3, 3)
    other = nn.utils.parametrize.register_parametrization(nn.Linear(2, 2), "weight", Doubled())
    other.weight = ag.ones(2, 2)
    close(other.parametrizations.weight.original, np.full((2, 2), 0.5))
    assert nn.utils.parametrize.is_parametrized(other, "weight") and not nn.utils.parametrize.is_parametrized(
        other, "bias")
    nn.utils.parametrize.remove_parametrizations(other, "weight")
    assert type(other) is nn.Linear and sorted(other.state_dict()) == ["bias", "weight"]
    close(other.weight, np.ones((2, 2)))
    with pytest.raises(ArgumentError, match="no parameter or buffer 'nothing'"):
        nn.utils.parametrize.register_parametrization(other, "nothing", Doubled())
    with pytest.raises(ShapeError, match="makes shape"):
        nn.utils.parametrize.register_parametrization(other, "weight", nn.Flatten(0))


def test_parametrized_modules_are_copied_pickled_and_change_dtype():
    layer = nn.utils.weight_norm(nn.Linear(3, 2))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(other.weight, layer.weight)
        other.parametrizations.weight.original0.assign(other.parametrizations.weight.original0 * 2)
        close(other.weight, 2 * layer.weight)
    assert layer.double().weight.dtype == "float64"
    rnn = nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    assert rnn(draws(5, 2, 3))[0].shape == (5, 2, 4)
    nn.utils.remove_weight_norm(rnn, "weight_hh_l0")
    assert "weight_hh_l0" in rnn.state_dict()


def test_a_property_of_a_subclass_may_take_a_parameter():
    class Tied(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(ag.ones(2))

        @property
        def weight(self):
            return self.inner * 2

        @weight.setter
        def weight(self, value):
            self.inner = value

    tied = Tied()
    assert list(tied.state_dict()) == ["inner"] and len(list(tied.parameters())) == 1


# --------------------------------------------------------------------------------------------------------------- hooks
@pytest.mark.parametrize("staged", [False, True])
def test_backward_hooks_see_and_replace_gradients(staged):
    layer, seen = nn.Linear(3, 2), []
    layer.register_full_backward_pre_hook(lambda module, grads: (grads[0] * 10,))
    remove = layer.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))
    if not staged:
        layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append((inputs, outputs)))
    x = draws(4, 3).requires_grad_()

    def step(x):
        return ag.gradients(layer(x).sum(), [x, layer.weight])

    run = ag.function(step, strict=True) if staged else step
    for _ in range(3):
        dx, dw = run(x)
        close(dx, 20 * np.tile(layer.weight.detach().numpy().sum(0), (4, 1)))
        close(dw, 10 * np.tile(x.detach().numpy().sum(0), (2, 1)))
    for inputs, outputs in seen:
        assert len(inputs) == len(outputs) == 1
        close(outputs[0], np.full((4, 2), 10.0))
    remove()
    close(ag.gradients(layer(x).sum(), [x])[0], 10 * np.tile(layer.weight.detach().numpy().sum(0), (4, 1)))


def test_backward_hooks_of_modules_with_several_inputs_and_outputs():
    class Two(nn.Module):
        def forward(self, x, k, y):
            return x * y, k, [x]

    two, seen = Two(), []
    two.register_full_backward_hook(lambda module, inputs, outputs: seen.append((inputs, outputs)))
    x, y = draws(3).requires_grad_(), draws(3, seed=1).requires_grad_()
    out = two(x, 7, y)
    assert out[1] == 7
    out[0].sum().backward()
    (inputs, outputs), = seen
    close(inputs[0], y)
    assert inputs[1] is None and outputs[1] is None and outputs[2] is None
    close(inputs[2], x)
    layer = nn.Linear(3, 1)
    layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append((inputs, outputs)))
    layer(draws(3)).sum().backward()
    assert seen[-1][0] == (None,)
    with ag.no_grad():
        layer(x)
    layer(ag.ones(3))
    assert len(seen) == 2
    layer.register_full_backward_hook(lambda module, inputs, outputs: (1, 2, 3))
    with pytest.raises(ArgumentError, match="returned 3 values for grad_input, which has 1"):
        layer(x).sum().backward()


def test_backward_hooks_allow_second_derivatives():
    layer = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    x = draws(2).requires_grad_()
    plain = ag.gradients(ag.gradients(layer(x).sum(), [x], create_graph=True)[0].sum(), [x])[0]
    layer.register_full_backward_hook(lambda module, inputs, outputs: None)
    close(ag.gradients(ag.gradients(layer(x).sum(), [x], create_graph=True)[0].sum(), [x])[0], plain)


def test_forward_hooks_with_keywords_and_in_front():
    class Scaled(nn.Module):
        def forward(self, x, scale=1.0):
            return x * scale

    module, order = Scaled(), []
    module.register_forward_pre_hook(lambda m, args, kwargs: (args, {**kwargs, "scale": 3.0}), with_kwargs=True)
    module.register_forward_hook(lambda m, args, kwargs, out: order.append(kwargs["scale"]), with_kwargs=True)
    module.register_forward_hook(lambda m, args, out: order.append("first"), prepend=True)
    assert module(ag.ones(2), scale=2.0).tolist() == [3, 3] and order == ["first", 3.0]
    with pytest.raises(ArgumentTypeError, match="a hook is a function"):
        module.register_forward_hook(None)


def test_parameters_and_buffers_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert model.get_parameter("0.weight") is model[0].weight
    assert model.get_buffer("1.running_mean") is model[1].running_mean
    with pytest.raises(ArgumentError, match="no parameter '1.running_mean'"):
        model.get_parameter("1.running_mean")


# ---------------------------------------------------------------------------------------------------- packed sequences
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cls", [nn.RNN, nn.LSTM, nn.GRU])
def test_packed_sequences_are_as_each_sequence_alone(cls, bidirectional):
    ag.manual_seed(0)
    net = cls(3, 4, 2, bidirectional=bidirectional, batch_first=True)
    x = np.array(draws(3, 6, 3))
    lengths = [4, 6, 1]
    for i, n in enumerate(lengths):
        x[i, n:] = np.nan  # is not read
    given = ag.asarray(x, requires_grad=True)
    packed, last = net(nn.utils.rnn.pack_padded_sequence(given, lengths, batch_first=True, enforce_sorted=False))
    y, sizes = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=7)
    assert sizes.tolist() == lengths and y.shape == (3, 7, 8 if bidirectional else 4)
    g = ag.gradients(y.sum(), [given])[0].numpy()
    for i, n in enumerate(lengths):
        alone = ag.asarray(x[i, :n], requires_grad=True)
        want, state = net(alone)
        close(y[i, :n], want)
        assert not y[i, n:].detach().numpy().any()
        for a, b in zip(last if cls is nn.LSTM else [last], state if cls is nn.LSTM else [state]):
            close(a[:, i], b)
        close(g[i, :n], ag.gradients(want.sum(), [alone])[0])
        assert not g[i, n:].any()


def test_packed_sequences_staged():
    net = nn.GRU(3, 4)
    x = draws(6, 3, 3)

    def last(x, lengths):
        return net(nn.utils.rnn.pack_padded_sequence(x, lengths))[1]

    staged = ag.function(last)
    for lengths in ([6, 2, 1], [6, 2, 1], [3, 6, 6], [6, 6, 6], [2, 2, 2], [2, 1, 2]):
        close(staged(x, ag.asarray(lengths)), last(x, lengths))


def test_packed_sequences_by_step():
    rnn = nn.utils.rnn
    rows = [ag.asarray([1.0, 2.0]), ag.asarray([3.0, 4.0, 5.0]), ag.asarray([6.0])]
    packed = rnn.pack_sequence(rows)
    assert packed.batch_sizes.tolist() == [3, 2, 1] and packed.data.tolist() == [3, 1, 6, 4, 2, 5]
    assert [r.tolist() for r in rnn.unpack_sequence(packed)] == [r.tolist() for r in rows]
    assert rnn.pad_sequence(rows, batch_first=True, padding_value=9.0).tolist() == [[1, 2, 9], [3, 4, 5], [6, 9, 9]]
    assert rnn.pad_sequence(rows, padding_side="left").tolist() == [[0, 3, 0], [1, 4, 0], [2, 5, 6]]
    assert rnn.pad_packed_sequence(packed, padding_value=-1.0)[0].tolist() == [[1, 3, 6], [2, 4, -1], [-1, 5, -1]]
    for lengths, error in (([4, 1, 1], ArgumentError), ([0, 1, 1], ArgumentError), ([1, 1], ShapeError),
                           ([1.5, 1, 1], ShapeError)):
        with pytest.raises(error):
            rnn.pack_padded_sequence(draws(3, 3, 2), lengths)


# -------------------------------------------------------------------------------------------------------------- layers
def test_ctc_loss_is_the_sum_over_all_paths():
    x, target, blank = np.random.default_rng(0).standard_normal((5, 3)), [1, 1], 0
    logs = x - np.log(np.exp(x).sum(1, keepdims=True))
    total = 0.0
    for path in np.ndindex(*[3] * 5):
        squeezed = [k for i, k in enumerate(path) if k != blank and (i == 0 or path[i - 1] != k)]
        total += np.exp(logs[range(5), path].sum()) if squeezed == target else 0.0
    loss = nn.CTCLoss(reduction="sum")(ag.asarray(logs), ag.asarray(target), 5, 2)
    close(loss, -np.log(total), 1e-12)
    assert nn.CTCLoss(1, "none", True).reduction == "none"


def test_ctc_loss_of_what_cannot_be():
    x = ag.asarray(np.random.default_rng(0).standard_normal((2, 2, 4)), requires_grad=True)
    target, lengths = ag.asarray([[1, 1], [2, 0]]), (2, 1)  # two equal labels need three steps
    loss = ag.ctc_loss(ag.log_softmax(x), target, (2, 2), lengths, reduction="none")
    assert loss[0].item() == np.inf and np.isfinite(loss[1].item())
    zero = ag.ctc_loss(ag.log_softmax(x), target, (2, 2), lengths, zero_infinity=True)
    close(zero, loss[1].item() / 2)
    g = ag.gradients(zero, [x])[0].numpy()
    assert np.isfinite(g).all() and not g[:, 0].any() and g[:, 1].any()
    low = -np.inf
    certain = ag.asarray(np.array([[[low, 0, low, low]], [[0.0, low, low, low]]]), requires_grad=True)
    loss = ag.ctc_loss(certain, ag.asarray([[1]]), (2,), (1,))  # logarithms of 0 among the classes
    close(loss, 0.0)
    assert np.isfinite(ag.gradients(loss, [certain])[0].numpy()).all()
    empty = ag.ctc_loss(ag.log_softmax(x), target, (0, 0), (0, 1), reduction="none")
    assert empty.tolist() == [0.0, np.inf]


@pytest.mark.parametrize("args, error, match", [
    (([[1, 4]], (3,), (2,)), IndexingError, "label 4"),
    (([[1, 0]], (3,), (2,)), IndexingError, "label 0"),
    (([[1, 2]], (4,), (2,)), ArgumentError, "input_lengths holds 4"),
    (([[1, 2]], (3,), (3,)), ArgumentError, "target_lengths holds 3"),
    (([[1, 2]], (3, 3), (2,)), ShapeError, "one number for each of 1"),
    (([[1, 2], [1, 2]], (3,), (2,)), ShapeError, "targets"),
    (([1, 2, 3], (3,), (2,)), ArgumentError, "add up to 2"),
])
def test_ctc_loss_of_what_makes_no_sense(args, error, match):
    targets, times, lengths = args
    with pytest.raises(error, match=match):
        ag.ctc_loss(ag.zeros(3, 1, 4), ag.asarray(targets), times, lengths)


@pytest.mark.parametrize("concatenated", [False, True])
def test_ctc_loss_staged(concatenated):
    x = draws(8, 2, 5)
    target = ag.asarray([1, 2, 2, 4, 3] if concatenated else [[1, 2, 2], [4, 3, 0]])

    def gradient(x, times, lengths):
        return ag.grad(lambda x: ag.ctc_loss(ag.log_softmax(x), target, times, lengths))(x)

    staged = ag.function(gradient, strict=True)
    for times in ((8, 8), (8, 6), (7, 8)):
        given = ag.asarray(times), ag.asarray([3, 2])
        close(staged(x, *given), gradient(x, times, (3, 2)))
    one = ag.vmap(lambda x: ag.ctc_loss(ag.log_softmax(x), target, (8, 7), (3, 2)))(ag.stack([x, -x]))
    close(one[1], ag.ctc_loss(ag.log_softmax(-x), target, (8, 7), (3, 2)))


def test_distances_to_the_farthest_and_where_there_are_none():
    a, b = np.random.default_rng(0).standard_normal((2, 4, 3))
    close(ag.cdist(ag.asarray(a), ag.asarray(b), p=np.inf), np.abs(a[:, None] - b).max(-1))
    x = ag.asarray(a, requires_grad=True)
    for p in (0.5, 1, 2, 3, np.inf):
        g = ag.gradients(ag.cdist(x, x, p=p).sum(), [x])[0].numpy()
        assert np.isfinite(g).all()
    assert np.isnan(ag.cdist(ag.asarray([[np.nan]]), ag.asarray([[1.0]])).item())
    with pytest.raises(ShapeError, match="cdist"):
        ag.cdist(ag.zeros(3, 2), ag.zeros(3, 1))


def test_samples_between_the_pixels():
    image = ag.reshape(ag.arange(12.0), (1, 1, 3, 4))
    still = ag.affine_grid(ag.asarray([[[1.0, 0, 0], [0, 1, 0]]]), (1, 1, 3, 4))
    close(ag.grid_sample(image, still), image)
    turned = ag.affine_grid(ag.asarray([[[-1.0, 0, 0], [0, 1, 0]]]), (1, 1, 3, 4), align_corners=True)
    close(ag.grid_sample(image, turned, align_corners=True), image.flip(axis=3))
    far = ag.full((1, 1, 1, 2), 50.0)
    assert ag.grid_sample(image, far).item() == 0 and ag.grid_sample(image, far, padding_mode="border").item() == 11
    staged = ag.function(lambda x, g: ag.grad(lambda g: ag.grid_sample(x, g).sum())(g), strict=True)
    for _ in range(3):
        got = staged(image, still)
    close(got, ag.grad(lambda g: ag.grid_sample(image, g).sum())(still))
    with pytest.raises(ShapeError, match="grid_sample"):
        ag.grid_sample(image, still[0])
    with pytest.raises(ArgumentError, match="bicubic"):
        ag.grid_sample(image, still, mode="cubic")


def test_embedding_bags():
    bag = nn.EmbeddingBag(6, 2, mode="max", padding_idx=0)
    table = bag.weight.detach().numpy()
    index, offsets = ag.asarray([1, 2, 0, 0, 5, 4]), ag.asarray([0, 2, 2, 4])
    want = np.stack([table[[1, 2]].max(0), np.zeros(2), np.zeros(2), table[[5, 4]].max(0)])
    close(bag(index, offsets), want)
    close(bag(ag.asarray([[1, 2, 0], [0, 0, 0]])), np.stack([table[[1, 2]].max(0), np.zeros(2)]))
    for wrong in ([1, 2], [0, 3, 2], [0, 7]):
        with pytest.raises(ArgumentError, match="offsets"):
            bag(index, ag.asarray(wrong))
    with pytest.raises(IndexingError):
        bag(ag.asarray([[6]]))
    with pytest.raises(ArgumentError, match="per_sample_weights"):
        bag(index, offsets, ag.ones(6))


def test_gumbel_softmax_and_alpha_dropout():
    ag.manual_seed(0)
    logits = ag.asarray(np.log(np.float32([0.2, 0.5, 0.3])), requires_grad=True)
    hard = ag.gumbel_softmax(ag.broadcast_to(logits, (20000, 3)), hard=True)
    assert set(np.round(hard.detach().numpy().ravel(), 5)) == {0, 1}
    close(hard.detach().mean(axis=0), [0.2, 0.5, 0.3], 0.02)
    assert ag.gradients((hard * ag.arange(3)).sum(), [logits])[0].numpy().any()
    with pytest.raises(ArgumentError, match="tau"):
        ag.gumbel_softmax(logits, tau=0)
    x = ag.randn(100000)
    y = nn.AlphaDropout(0.4)(x)
    close(ag.stack([y.mean(), y.std()]), [0.0, 1.0], 0.02)
    assert nn.AlphaDropout(0.4).eval()(x) is x
    z = ag.dropout2d(ag.ones(4, 3, 5, 5), 0.5).numpy()
    assert set(z.ravel()) == {0, 2} and (z == z[:, :, :1, :1]).all()
    with pytest.raises(ShapeError, match="dropout2d"):
        ag.dropout2d(ag.ones(3, 5))


def test_transformers_and_small_layers():
    ag.manual_seed(0)
    model = nn.Transformer(8, 2, 1, 2, 16, batch_first=True).eval()
    src, tgt = draws(3, 5, 8), draws(3, 4, 8, seed=1)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    full = model(src, tgt, tgt_mask=mask)
    close(model(src, tgt[:, :2], tgt_mask=mask[:2, :2]), full[:, :2])
    with pytest.raises(ShapeError, match="as many sequences"):
        model(src[:2], tgt)
    close(nn.Softmax2d()(draws(2, 3, 4, 4)).sum(axis=1), np.ones((2, 4, 4)))
    x = ag.asarray([0.1, 0.5, np.nan])
    assert nn.Threshold(0.1, 20.0)(x).tolist()[:2] == [20, 0.5] and np.isnan(nn.Threshold(0.1, 20.0)(x).tolist()[2])
    params = nn.ParameterDict({"a": ag.ones(2)})
    params["b"] = nn.Parameter(ag.zeros(3))
    assert list(params.state_dict()) == ["a", "b"] and params["a"].requires_grad and len(params) == 2
    with pytest.raises(ArgumentTypeError, match="ParameterDict"):
        params["c"] = 3.0


def test_maxima_go_back_to_their_places():
    x = draws(2, 3, 6, 5)
    pool, back = nn.MaxPool2d(2, 2, 0, 1, True), nn.MaxUnpool2d(2)  # return_indices is the fifth, as in PyTorch
    y, places = pool(x)
    out = back(y, places, x.shape)
    assert out.shape == x.shape and nn.MaxPool2d(2, ceil_mode=True)(x).shape == (2, 3, 3, 3)
    flat = out.reshape(2, 3, 30)
    close(ag.take_along_axis(flat, places.reshape(2, 3, -1), axis=-1), y.reshape(2, 3, -1))
    assert np.count_nonzero(out.numpy()) == y.size
    v = y.detach().requires_grad_()
    close(ag.gradients((back(v, places, (6, 5)) * 3).sum(), [v])[0], np.full(y.shape, 3.0))
    with pytest.raises(ArgumentError, match="output_size"):
        back(y, places, (9, 9))
    with pytest.raises(IndexingError):
        back(y, places + 100)


def test_upsample_is_interpolate():
    x = draws(1, 2, 4, 5)
    for mode in ("nearest", "bilinear", "bicubic", "area", "nearest-exact"):
        close(nn.Upsample(size=(7, 3), mode=mode)(x), ag.interpolate(x, size=(7, 3), mode=mode))
    close(nn.Upsample(scale_factor=(1.5, 2), mode="bilinear", align_corners=True)(x),
          ag.interpolate(x, scale_factor=(1.5, 2), mode="bilinear", align_corners=True))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_to_keys_that_are_always_there(need_weights, causal):
    ag.manual_seed(0)
    att = nn.MultiheadAttention(4, 2, 0.0, True, True, True, batch_first=True)  # the fifth and sixth, as in PyTorch
    x, padding = draws(3, 5, 4), ag.asarray(np.arange(5) >= np.array([[5], [3], [4]]))
    y, weights = att(x, x, x, key_padding_mask=padding, need_weights=need_weights, is_causal=causal)
    w, b = att.in_proj_weight.detach().numpy(), att.in_proj_bias.detach().numpy()
    q, k, v = np.split(x.numpy() @ w.T + b, 3, axis=-1)
    ends = (att.bias_k.detach().numpy(), att.bias_v.detach().numpy())
    k, v = (np.concatenate([m, np.repeat(e, 3, axis=0), np.zeros((3, 1, 4))], axis=1) for m, e in zip((k, v), ends))
    q, k, v = (m.reshape(3, -1, 2, 2).swapaxes(1, 2) for m in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(2)
    hidden = np.pad(padding.numpy(), ((0, 0), (0, 2)))[:, None, None]
    if causal:
        hidden = hidden | np.pad(np.triu(np.ones((5, 5), bool), 1), ((0, 0), (0, 2)))
    p = np.exp(np.where(hidden, -np.inf, scores))
    p /= p.sum(-1, keepdims=True)
    want = (p @ v).swapaxes(1, 2).reshape(3, 5, 4)
    close(y, want @ att.out_proj.weight.detach().numpy().T + att.out_proj.bias.detach().numpy())
    if need_weights:
        close(weights, p.mean(1))
    assert sorted(att.state_dict()) == ["bias_k", "bias_v", "in_proj_bias", "in_proj_weight", "out_proj.bias",
                                        "out_proj.weight"]
    with pytest.raises((ArgumentError, ArgumentTypeError), match="kdim"):
        nn.MultiheadAttention(4, 2, kdim=True)
