"""Module: what it finds, how it changes mode, dtype and state, how it shows itself."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import agog as ag
from agog import errors, nn


class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4, 2, bias=False)
        self.scale = nn.Parameter(1.0)
        self.note = "plain"
        self.absent = None

    def forward(self, x):
        return self.out(self.norm(ag.relu(self.hidden(x)))) * self.scale


NAMES = ["scale", "hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "out.weight"]
BUFFERS = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


def test_parts_are_found_by_assignment():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == NAMES
    assert [n for n, _ in net.named_buffers()] == BUFFERS
    assert [n for n, _ in net.named_modules()] == ["", "hidden", "norm", "out"]
    assert list(net.children()) == [net.hidden, net.norm, net.out]
    assert list(net.parameters(recurse=False)) == [net.scale]
    assert net.num_parameters() == sum(p.size for p in net.parameters()) == 1 + 12 + 4 + 4 + 4 + 8
    assert net.get_submodule("hidden") is net.hidden and net.get_submodule("") is net
    assert list(net.state_dict()) == ["scale", "hidden.weight", "hidden.bias", "norm.weight", "norm.bias",
                                      "norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "out.weight"]


def test_init_of_the_base_class_may_be_called_or_forgotten():
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(1, 1)

    assert len(list(Called().parameters())) == 2


def test_attributes_change_and_go():
    net = Net()
    net.hidden = None
    assert "hidden" not in dict(net.named_modules())
    net.hidden = nn.Linear(3, 4)
    net.extra = nn.Parameter([1.0, 2.0])
    assert "extra" in dict(net.named_parameters())
    del net.extra
    assert "extra" not in dict(net.named_parameters()) and not hasattr(net, "extra")
    net.out = 5  # no longer a module
    assert "out" not in dict(net.named_modules())
    net.norm.running_mean = ag.ones(4)  # a plain Tensor stays the buffer
    assert net.state_dict()["norm.running_mean"].tolist() == [1.0] * 4
    net.plain = ag.ones(2)
    assert "plain" not in net.state_dict()


def test_buffers():
    m = nn.Module()
    m.a, m.b = nn.Buffer(ag.ones(2)), nn.Buffer(ag.zeros(2), persistent=False)
    m.register_buffer("c", ag.ones(1), persistent=False)
    m.register_buffer("d", None)
    assert [n for n, _ in m.named_buffers()] == ["a", "b", "c"]
    assert list(m.state_dict()) == ["a"]
    assert [n for n, _ in copy.deepcopy(m).named_buffers()] == ["a", "b", "c"]
    assert list(pickle.loads(pickle.dumps(m)).state_dict()) == ["a"]


def test_shared_parts_count_once():
    m = nn.Module()
    m.a = nn.Linear(2, 2)
    m.b = m.a
    m.c = nn.Linear(2, 2, bias=False)
    m.c.weight = m.a.weight
    assert [n for n, _ in m.named_parameters()] == ["a.weight", "a.bias"]
    assert [n for n, _ in m.named_modules()] == ["", "a", "c"]
    twin = copy.deepcopy(m)
    assert twin.b is twin.a and twin.c.weight is twin.a.weight is not m.a.weight
    again = pickle.loads(pickle.dumps(m))
    assert again.c.weight is again.a.weight


def test_a_list_of_modules_is_pointed_out():
    class Bad(nn.Module):
        def __init__(self):
            self.layers = [nn.Linear(1, 1)]

    with pytest.warns(UserWarning, match=r"Bad\.layers is a list .*ModuleList") as seen:
        Bad()
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m = nn.Module()
        m.sizes, m.table = [1, 2], {"a": ag.ones(1)}


def test_modes():
    net = Net()
    assert net.training and net.hidden.training
    assert net.eval() is net and not net.norm.training
    assert net.train().out.training
    with pytest.raises(errors.ArgumentTypeError, match="True or False"):
        net.train("yes")


def test_frozen():
    net = Net()
    assert net.hidden.requires_grad_(False) is net.hidden
    net(ag.ones((3, 3))).sum().backward()
    assert net.hidden.weight.grad is None and net.out.weight.grad is not None
    assert net.num_parameters(trainable=True) == net.num_parameters() - 16
    net.zero_grad()
    assert net.out.weight.grad is None
    net.requires_grad_()
    net(ag.ones((3, 3))).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.hidden.weight.grad.numpy().max() == 0


def test_apply_goes_from_the_leaves_up():
    seen = []
    net = Net()
    assert net.apply(lambda m: seen.append(type(m).__name__)) is net
    assert seen == ["Linear", "BatchNorm1d", "Linear", "Net"]


# -------------------------------------------------------------------------------------------------- state
def test_state_dict_is_a_snapshot_and_loads():
    net, other = Net(), Net()
    saved = net.state_dict()
    before = saved["hidden.weight"].numpy().copy()
    opt = ag.optim.SGD(net.parameters(), lr=1.0)
    net(ag.random.normal((5, 3))).sum().backward()
    opt.step()
    np.testing.assert_array_equal(saved["hidden.weight"].numpy(), before)
    assert not np.array_equal(net.hidden.weight.detach().numpy(), before)
    weight = other.hidden.weight
    assert other.load_state_dict(saved) == ([], [])
    assert other.hidden.weight is weight and weight.requires_grad
    np.testing.assert_array_equal(weight.detach().numpy(), before)
    net.load_state_dict({k: v.numpy() for k, v in saved.items()})  # arrays do too
    np.testing.assert_array_equal(net.hidden.weight.detach().numpy(), before)


def test_a_wrong_state_is_listed_and_changes_nothing():
    net = Net()
    state = net.state_dict()
    before = net.hidden.weight.detach().numpy().copy()
    del state["out.weight"]
    state.update({"more": ag.ones(1), "hidden.weight": ag.ones((3, 4)), "hidden.bias": "text"})
    with pytest.raises(errors.CheckpointError) as error:
        net.load_state_dict(state)
    for text in ("not of this Net", "missing: out.weight", "unexpected: more", "hidden.bias: a str",
                 "hidden.weight: shape (3, 4), expected (4, 3)"):
        assert text in str(error.value)
    np.testing.assert_array_equal(net.hidden.weight.detach().numpy(), before)
    with pytest.raises(errors.CheckpointError, match="shape"):
        net.load_state_dict(state, strict=False)
    state = {"scale": ag.asarray(3.0), "more": ag.ones(1)}
    found = net.load_state_dict(state, strict=False)
    assert found.unexpected_keys == ["more"] and "out.weight" in found.missing_keys and net.scale.item() == 3.0
    with pytest.raises(errors.ArgumentTypeError, match="mapping"):
        net.load_state_dict([1])


def test_deepcopy_and_pickle():
    net = Net().eval()
    x = ag.random.normal((4, 3))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(twin(x).detach().numpy(), net(x).detach().numpy())
        assert not twin.training and type(twin.scale) is nn.Parameter
        twin.scale.assign(5.0)
        assert net.scale.item() == 1.0
        assert [n for n, _ in twin.named_parameters()] == NAMES


def test_to_keeps_the_objects():
    net = Net()
    weight = net.hidden.weight
    net(ag.ones((3, 3))).sum().backward()
    assert net.to("float64") is net and net.hidden.weight is weight
    assert weight.dtype == weight.grad.dtype == ag.float64 and weight.requires_grad
    assert net.norm.running_mean.dtype == ag.float64 and net.norm.num_batches_tracked.dtype == ag.int64
    net(ag.ones((3, 3), dtype="float64")).sum().backward()
    opt = ag.optim.Adam(net.parameters())
    opt.step()
    assert net.half().hidden.weight.dtype == ag.float16 and net.float().hidden.weight.dtype == ag.float32
    assert net.double().cpu().hidden.weight.dtype == ag.float64
    assert net.to(dtype="float32", device="cpu").scale.dtype == ag.float32
    net(ag.ones((3, 3))).sum().backward()
    opt.step()
    with pytest.raises(errors.ArgumentError, match="floating"):
        net.to("int32")


# ------------------------------------------------------------------------------------------------- versions
def changes(module, act):
    before = module._tree_version()
    act(module)
    return module._tree_version() != before


def test_every_change_is_a_new_version():
    net = Net()
    assert changes(net, lambda m: setattr(m, "note", "other"))
    assert changes(net, lambda m: setattr(m.hidden, "deep", 1))
    assert changes(net, lambda m: m.eval())
    assert changes(net, lambda m: m.requires_grad_(False))
    assert changes(net, lambda m: setattr(m, "out", nn.Linear(4, 2)))
    assert changes(net, lambda m: delattr(m, "note"))
    assert changes(net, lambda m: m.to("float64"))
    assert changes(net, lambda m: m.register_forward_hook(print))
    assert copy.deepcopy(net)._version != net._version


def test_what_changes_nothing_is_no_new_version():
    net = Net()
    note = net.note
    assert not changes(net, lambda m: m.train())
    assert not changes(net, lambda m: setattr(m, "note", note))
    assert not changes(net, lambda m: m.scale.assign(2.0))
    assert not changes(net, lambda m: m(ag.ones((3, 3))))  # running statistics are values
    assert not changes(net, lambda m: m.load_state_dict(Net().state_dict()))


# ---------------------------------------------------------------------------------------------- words, errors
def test_repr():
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Dropout(0.25)))
    assert repr(net) == ("Sequential(\n  (0): Linear(in_features=2, out_features=3, bias=True)\n  (1): Sequential(\n"
                         "    (0): ReLU()\n    (1): Dropout(p=0.25)\n  )\n)  # 9 parameters")
    conv = nn.Conv2d(3, 4, (3, 5), padding="same", bias=False)
    assert repr(conv) == "Conv2d(3, 4, kernel_size=(3, 5), padding='same', bias=False)"
    assert repr(nn.Parameter([1.0])) == "Parameter([1.], requires_grad=True)"
    assert repr(nn.Buffer([1.0])) == "Buffer([1.])"


def test_errors_say_where_in_the_model():
    net = nn.Sequential(nn.Flatten(), nn.ModuleDict({"a": nn.Linear(5, 1)})["a"])
    outer = nn.Sequential(nn.Identity(), net)
    with pytest.raises(errors.ShapeError) as error:
        outer(ag.ones((2, 2, 2)))
    text = "Linear(in_features=5, out_features=1, bias=True): the input has shape (2, 4), expected (..., 5)"
    assert text in str(error.value)
    assert error.value.__notes__ == ["    in 1.1 (Linear) of Sequential"]
    with pytest.raises(errors.ShapeError) as error:
        nn.Linear(5, 1)(ag.ones(3))
    assert error.value.__notes__ == ["    in module (Linear)"]


def test_hooks():
    m = nn.Linear(2, 2)
    seen = []
    off = m.register_forward_pre_hook(lambda mod, args: (args[0] * 0,))
    off2 = m.register_forward_hook(lambda mod, args, out: seen.append(args[0].tolist()))
    off3 = m.register_forward_hook(lambda mod, args, out: out + 1)
    assert m(ag.ones(2)).tolist() == (m.bias + 1).tolist() and seen == [[0.0, 0.0]]
    for f in (off, off2, off3):
        f()
        f()
    assert m._hooks is None and m(ag.zeros(2)).tolist() == m.bias.tolist()


@pytest.mark.parametrize(("act", "error", "text"), [
    (lambda m: setattr(m, "scale", ag.ones(1)), errors.ArgumentTypeError, r"\.scale\.assign\(value\)"),
    (lambda m: setattr(m.norm, "running_mean", 3), errors.ArgumentTypeError, "is a buffer"),
    (lambda m: m.register_buffer("x", 3), errors.ArgumentTypeError, "must be a Tensor"),
    (lambda m: m.register_buffer("note", ag.ones(1)), errors.ArgumentError, "already has"),
    (lambda m: m.register_buffer("a.b", ag.ones(1)), errors.ArgumentError, "without dots"),
    (lambda m: m.register_parameter("x", ag.ones(1)), errors.ArgumentTypeError, "nn.Parameter"),
    (lambda m: m.add_module("x", 3), errors.ArgumentTypeError, "nn.Module"),
    (lambda m: m.get_submodule("hidden.x"), errors.ArgumentError, "Linear has no modules"),
    (lambda m: nn.Module()(3), AttributeError, "no forward"),
    (lambda m: nn.Parameter([1, 2]), errors.DTypeError, "int64"),
])
def test_bad_use(act, error, text):
    with pytest.raises(error, match=text):
        act(Net())


# ------------------------------------------------------------------------------------------------ containers
def test_sequential():
    a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)
    net = nn.Sequential(a, b)
    x = ag.random.normal((4, 2))
    y = net(x)
    np.testing.assert_array_equal(y.detach().numpy(), ag.relu(a(x)).detach().numpy())
    assert net.append(c)(x).shape == (4, 1)
    assert len(net) == 3 and net[-1] is c and list(net) == [a, b,
                                                            c] and net[:2][0] is a and type(net[1:]) is nn.Sequential
    net[1] = nn.Tanh()
    np.testing.assert_array_equal(net(x).detach().numpy(), c(ag.tanh(a(x))).detach().numpy())
    del net[2]
    net.insert(0, nn.Identity())
    net.extend([nn.Linear(3, 5)])
    assert net(x).shape == (4, 5) and [n for n, _ in net.named_children()] == ["0", "1", "2", "3"]
    assert nn.Sequential([a, b])[1] is b and nn.Sequential()(x) is x
    named = nn.Sequential({"first": a, "second": b})
    assert named.first is a and list(named.state_dict()) == ["first.weight", "first.bias"] and named[1] is b
    with pytest.raises(errors.ArgumentTypeError, match="the class ReLU"):
        nn.Sequential(nn.ReLU)
    with pytest.raises(errors.IndexingError, match="2 parts"):
        named[2]
    with pytest.raises(errors.ArgumentTypeError, match="whole number"):
        named["first"]


def test_a_subclass_of_sequential_may_have_more():
    class Scaled(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Identity())
            self.scale = nn.Parameter(2.0)

        def forward(self, x):
            return super().forward(x) * self.scale

    m = Scaled()
    m.append(nn.Identity())
    assert m(ag.ones(1)).tolist() == [2.0] and len(m) == 2 and len(list(m.parameters())) == 1


def test_module_list_and_dict():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert len(layers) == 3 and layers[1] in layers and len(list(layers.parameters())) == 6
    assert [n for n, _ in layers.named_parameters()][:2] == ["0.weight", "0.bias"]
    table = nn.ModuleDict({"a": layers[0]})
    table["b"] = nn.ReLU()
    assert list(table) == table.keys() == ["a", "b"] and "b" in table and table["a"] is layers[0] and len(table) == 2
    assert [n for n, _ in table.items()] == ["a", "b"] and table.values()[0] is layers[0]
    del table["b"]
    assert "b" not in table
    table["c"] = last = nn.ReLU()
    assert table.pop("c") is last and table.keys() == ["a"]
    more = layers + [last]
    assert [*more] == [*layers, last] and len(layers) == 3 and type(more) is nn.ModuleList
    layers += [last]
    assert layers.pop() is last and layers.pop(0) is table["a"] and len(layers) == 2
    other = nn.ModuleDict({"x": last, "y": nn.Tanh()})
    other.clear()
    assert len(other) == 0 and not list(other.modules())[1:]
    with pytest.raises(errors.ArgumentError, match="it has 'a'"):
        table["x"]
    with pytest.raises(errors.ArgumentTypeError, match="nn.Module"):
        table["x"] = 3
    with pytest.raises(errors.ArgumentError, match="already has"):
        table["keys"] = nn.ReLU()
    params = nn.ParameterList([nn.Parameter(1.0), nn.Parameter(2.0)])
    assert [n for n, _ in params.named_parameters()] == ["0", "1"] and params[1].item() == 2.0
    params.append(nn.Parameter(3.0))
    assert len(params) == 3


# ------------------------------------------------------------------------------------------------------ utils
def test_clip_grad_norm():
    p, q = nn.Parameter([3.0, 0.0]), nn.Parameter([[4.0]])
    r = nn.Parameter([1.0])
    p.grad, q.grad = ag.asarray([3.0, 0.0]), ag.asarray([[4.0]])
    held = p.grad
    assert nn.utils.clip_grad_norm_([p, q, r], 1.0).item() == 5.0
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.0], rtol=1e-6)
    assert held.tolist() == [3.0, 0.0] and r.grad is None
    nn.utils.clip_grad_norm_([p, q], 10.0)
    np.testing.assert_allclose(q.grad.numpy(), [[0.8]], rtol=1e-6)
    assert nn.utils.clip_grad_norm_([p, q], 1.0, norm_type=float("inf")).item() == pytest.approx(0.8)
    assert nn.utils.clip_grad_norm_([p, q], 10.0, norm_type=1.0).item() == pytest.approx(1.4)
    p.grad = ag.asarray([float("inf"), 1.0])
    with pytest.raises(errors.ArgumentError, match="norm of the gradients is inf"):
        nn.utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    with pytest.raises(errors.ArgumentError, match="max_norm"):
        nn.utils.clip_grad_norm_(p, -1.0)
    with pytest.raises(errors.ArgumentTypeError, match=r"model\.parameters\(\)"):
        nn.utils.clip_grad_norm_(nn.Linear(1, 1), 1.0)


def test_clip_grad_value():
    p = nn.Parameter([1.0, 2.0])
    p.grad = ag.asarray([-3.0, 0.5])
    nn.utils.clip_grad_value_([p], 1.0)
    assert p.grad.tolist() == [-1.0, 0.5]


def test_vectors():
    m = nn.Linear(2, 3)
    v = nn.utils.parameters_to_vector(m.parameters())
    assert v.shape == (9,) and v.requires_grad
    nn.utils.vector_to_parameters(ag.arange(9, dtype="float32"), m.parameters())
    assert m.weight.tolist() == [[0, 1], [2, 3], [4, 5]] and m.bias.tolist() == [6, 7, 8] and m.weight.requires_grad
    with pytest.raises(errors.ShapeError, match="9 numbers"):
        nn.utils.vector_to_parameters(ag.ones(8), m.parameters())


def test_functional_call():
    m = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    x = ag.random.normal((4, 2))

    def loss(params):
        return nn.utils.functional_call(m, params, x).sum()

    params = {n: p.detach() for n, p in m.named_parameters()}
    grads = ag.grad(loss)(params)
    m(x).sum().backward()
    for n, p in m.named_parameters():
        np.testing.assert_allclose(grads[n].numpy(), p.grad.numpy(), rtol=1e-6)
        assert type(p) is nn.Parameter
    version = m._tree_version()
    loss({"0.bias": ag.zeros(3)})
    assert m._tree_version() == version
    with pytest.raises(errors.ArgumentError, match="no parameter or buffer '0.x'"):
        loss({"0.x": ag.zeros(3)})
    with pytest.raises(errors.ShapeError, match=r"\(3,\)"):
        loss({"0.bias": ag.zeros(2)})


def test_functional_is_the_public_namespace():
    import agog.nn.functional as F

    for name in F.__all__:
        assert getattr(F, name) is getattr(ag, name)
    with pytest.raises(AttributeError):
        F.nothing
    assert "conv2d" in dir(F)


def test_public_names_exist_and_are_documented():
    for name in nn.__all__:
        thing = getattr(nn, name)
        assert thing.__doc__, name
