"""What a newcomer from PyTorch or NumPy runs into: names, keywords and habits that are others here."""

import re

import numpy as np
import pytest

import agog as ag
from agog import errors, hints, nn

X = ag.ones(2, 3)
TABLES = [text for table in (*hints._OF.values(), hints.MODULE, hints._IN_PLACE) for text in table.values()]


def test_renamed_names_exist():
    for old, new in hints.RENAMED.items():
        assert new in dir(ag) and new in dir(X), (old, new)
        assert old not in dir(ag) and old not in dir(X), old
    for table, where in ((hints.TENSOR, X), (hints.MODULE, ag), (hints.NN, nn), (hints.RANDOM, ag.random),
                         (hints.OPTIM, ag.optim), (hints.DATA, ag.data)):
        assert not set(table) & set(dir(where)), set(table) & set(dir(where))


def test_hints_name_what_exists():
    for text in TABLES:
        for path in re.findall(r"\b(?:ag|nn)(?:\.\w+)+", text):
            found = {"ag": ag, "nn": nn}[path.split(".")[0]]
            for part in path.split(".")[1:]:
                found = getattr(found, part)
        for name in re.findall(r"\bx\.(\w+)", text):
            assert hasattr(X, name), text


@pytest.mark.parametrize(("call", "words"), [
    (lambda: X.dim(), "x.ndim"),
    (lambda: X.unsqueeze(0), "x.expand_dims"),
    (lambda: X.mul_(2), "x *= y"),
    (lambda: X.exp_(), "x = x.exp(...)"),
    (lambda: X.cuda(), 'x.to("cuda")'),
    (lambda: X.float(), "x.astype(ag.float32)"),
    (lambda: X.data, "x.detach()"),
    (lambda: setattr(X, "data", X), "x.assign(value)"),
    (lambda: X.max(axis=1).values, "the values alone"),
    (lambda: X.max(axis=1).indices, "x.argmax(axis)"),
    (lambda: ag.array([1.0]), "ag.asarray(data)"),
    (lambda: X.where(X > 0, 0), "ag.where"),
    (lambda: ag.cat([X, X]), "ag.concat"),
    (lambda: ag.clamp(X, 0), "ag.clip"),
    (lambda: ag.cuda.is_available(), "cuda"),
    (lambda: ag.softmx(X), "did you mean 'softmax'?"),
    (lambda: ag.save(X, "f"), "ag.io.save"),
    (lambda: nn.Liner(1, 2), "did you mean 'Linear'?"),
    (lambda: nn.relu(X), "did you mean 'ReLU'?"),
    (lambda: nn.init.xavier_uniform(X), "did you mean 'xavier_uniform_'?"),
    (lambda: ag.optim.Adamw, "did you mean 'AdamW'?"),
    (lambda: ag.optim.SparseAdam, "ag.optim.Adam"),
    (lambda: ag.optim.lr_scheduler.StepLr, "did you mean 'StepLR'?"),
    (lambda: ag.data.default_collate, "ag.data.collate"),
    (lambda: nn.ModuleList([nn.ReLU()])(X), "call its parts"),
    (lambda: nn.functional.logsigmoid(X), "ag.log_sigmoid"),
    (lambda: ag.linalg.cholesk(X), "did you mean 'cholesky'?"),
    (lambda: ag.random.shuffle(X), "ag.random.permutation"),
])
def test_missing_names_say_what_to_write(call, words):
    with pytest.raises(AttributeError) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: X.sum(dim=1), ["sum", "axis="]),
    (lambda: X.mean(1, keepdim=True), ["keepdims="]),
    (lambda: X.max(dim=1), ["axis=", "argmax"]),
    (lambda: X.argmax(dim=1), ["axis="]),
    (lambda: ag.softmax(X, dim=-1), ["axis="]),
    (lambda: ag.concat([X, X], dim=0), ["concat", "axis="]),
    (lambda: ag.var(X, dim=0), ["axis="]),
    (lambda: X.var(unbiased=False), ["var", "correction (0 or 1)"]),
    (lambda: X.std(ddof=1), ["std", "correction="]),
    (lambda: ag.logsumexp(X, dim=0), ["axis="]),
    (lambda: nn.Softmax(dim=1), ["Softmax", "axis="]),
    (lambda: ag.flatten(X, start_dim=1), ["start_axis="]),
])
def test_keywords_say_what_to_write(call, words):
    with pytest.raises(errors.ArgumentTypeError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_hints_stay_out_of_sight():
    assert "cuda" not in dir(X) and not hasattr(X, "cuda") and "dim" not in ag.sum.__signature__.parameters


def test_distributions_take_the_shape_first():
    for call in (lambda: ag.random.normal(0, 1, (3,)), lambda: ag.random.uniform(0, 1, (3,)),
                 lambda: ag.randint(10, (3,)), lambda: ag.random.normal(0.0, 1.0)):
        with pytest.raises(errors.ArgumentTypeError):
            call()
    assert ag.random.uniform((3,), ag.zeros(3), ag.ones(3)).shape == (3,)


def test_numbers_outside_of_the_dtype():
    for data in ([300], [[-1, 2]], 300):
        with pytest.raises(errors.DTypeError, match="fit"):
            ag.tensor(data, dtype=ag.uint8)
    assert ag.tensor([1.7, 2], dtype=ag.int32).tolist() == [1, 2]


def test_close():
    assert ag.allclose(X, X + 1e-7) and not ag.allclose(X, X + 1e-3)
    x, y = ag.tensor([1.0, ag.nan, ag.inf, -ag.inf]), ag.tensor([1.0, ag.nan, ag.inf, ag.inf])
    assert ag.isclose(x, y).tolist() == [True, False, True, False]
    assert ag.isclose(ag.tensor([ag.nan]), ag.tensor([ag.nan]), equal_nan=True).tolist() == [True]
    assert ag.isclose(ag.tensor([1, 2]), ag.tensor([1, 3])).tolist() == [True, False]
    assert ag.allclose(np.zeros(0), np.zeros(0))


def test_nested_module_in_an_error_is_one_line():
    with pytest.raises(errors.ShapeError) as caught:
        nn.MultiheadAttention(4, 2)(ag.ones(2, 3, 6), ag.ones(2, 3, 6), ag.ones(2, 3, 6))
    assert "out_proj" not in str(caught.value)


def test_lists_are_no_tensors():
    with pytest.raises(AttributeError) as caught:
        nn.Linear(2, 2)([1.0, 2.0])
    assert "asarray" in caught.value.__notes__[0]
    with pytest.raises(errors.ArgumentTypeError, match=r"nn\.ReLU"):
        nn.Sequential(nn.Linear(1, 2), ag.relu)


@pytest.mark.parametrize("call", [
    lambda: X * [1, 2, 3], lambda: [1, 2, 3] * X, lambda: X + (1, 2, 3), lambda: (1,) - X, lambda: X @ [1, 2, 3],
    lambda: ag.asarray(3) * [1, 2], lambda: X ** [2],
])
def test_lists_are_no_operands(call):
    with pytest.raises(errors.ArgumentTypeError, match="asarray"):
        call()


def test_lists_are_repeated_and_compared_as_ever():
    assert [0] * ag.asarray(3) == [0, 0, 0] and (1,) * ag.asarray(2) == (1, 1)
    assert (X == [1, 2]) is False and (X != [1, 2]) is True


def test_transpose_of_a_matrix_with_two_axes():
    """PyTorch exchanges the axes, NumPy leaves them in this order."""
    m = ag.asarray([[1, 2], [3, 4]])
    for axes in ((0, 1), (-2, -1), (0, -1), (-2, 1)):
        with pytest.raises(errors.ArgumentError, match=r"x\.T"):
            m.transpose(*axes)
    assert m.transpose(1, 0).tolist() == m.transpose().tolist() == [[1, 3], [2, 4]]
    assert m.transpose((0, 1)).tolist() == m.tolist() and ag.ones(2, 3, 4).transpose(-2, -1).shape == (2, 4, 3)


def test_no_grad_decorates_generators_and_needs_no_parentheses():
    w = ag.ones(2, requires_grad=True)
    log = []

    @ag.no_grad()
    def twice(n):
        try:
            for i in range(n):
                try:
                    log.append((yield w * i))
                except KeyError:
                    log.append(("caught", ag.is_grad_enabled()))
            return w * 10
        finally:
            log.append(("closed", ag.is_grad_enabled()))

    run = twice(3)
    assert not next(run).requires_grad and ag.is_grad_enabled() and (w * 1).requires_grad
    assert not run.send("given").requires_grad and run.throw(KeyError()).tolist() == [2, 2]
    with pytest.raises(StopIteration) as end:
        next(run)
    assert not end.value.value.requires_grad
    assert log == ["given", ("caught", False), None, ("closed", False)]
    run = twice(3)
    next(run)
    run.close()
    assert log[-1] == ("closed", False) and ag.is_grad_enabled()

    @ag.no_grad
    def plain(x):
        return x * w, ag.enable_grad(lambda: x * w)()

    assert [y.requires_grad for y in plain(2.0)] == [False, True]
    with pytest.raises(errors.ArgumentTypeError, match="with ag.no_grad"):
        ag.no_grad(True)


def test_private_names_are_not_shown():
    with pytest.raises(errors.DTypeError, match="nll_loss"):
        ag.nll_loss(X, ag.ones(2))
    with pytest.raises(ValueError, match="^cholesky"):
        ag.linalg.cholesky(-ag.eye(2))


def test_checkpoint_wants_a_function():
    with pytest.raises(errors.ArgumentTypeError, match=r"checkpoint\(fn\)\(x\)"):
        ag.checkpoint(ag.exp, X)


def test_tensor_of_a_shape():
    with pytest.raises(errors.ArgumentTypeError, match=r"ag\.empty"):
        ag.Tensor(3, 4)


def test_a_fresh_leaf_inside_of_a_staged_function():
    x = ag.linspace(0, 1, 4)

    @ag.function(strict=True)
    def slope():
        y = x.detach().requires_grad_()
        g, = ag.gradients((y ** 3).sum(), [y])
        return g

    for _ in range(3):
        assert ag.allclose(slope(), 3 * x ** 2)
        x.assign(x + 1)


def test_sizes_and_dtypes_in_their_places():
    for call in (lambda: ag.zeros(3, "float64"), lambda: ag.ones((2, 3), ag.float64), lambda: ag.zeros((2, 3), (4,)),
                 lambda: ag.randperm(5.5)):
        with pytest.raises(errors.ArgumentTypeError):
            call()
    assert ag.ones(2, np.int64(3)).shape == (2, 3) and ag.randperm(np.int64(3)).shape == (3,)


def test_vmap_takes_arrays_and_says_where_its_shapes_come_from():
    assert ag.vmap(lambda a: a.sum())(np.ones((2, 3))).tolist() == [3, 3]
    with pytest.raises(errors.ShapeError) as caught:
        ag.vmap(lambda a, b: a @ b)(X, ag.ones(2))
    assert "inside vmap" in caught.value.__notes__[-1]


def test_data_loader_has_no_workers():
    with pytest.raises(errors.ArgumentTypeError, match="prefetch"):
        ag.data.DataLoader(np.ones(3), num_workers=2)


def test_hooks_are_removed_as_handles_are():
    layer, seen = nn.Linear(2, 2), []
    handles = [layer.register_forward_hook(lambda *a: seen.append(1)),
               layer.weight.register_hook(lambda g: seen.append(2))]
    layer(ag.ones(1, 2)).sum().backward()
    assert seen == [1, 2]
    handles[0].remove()
    handles[1]()
    layer(ag.ones(1, 2)).sum().backward()
    assert seen == [1, 2]


def test_options_of_function_are_named():
    for name, words in (("fullgraph", "strict= here"), ("static_argnums", "each value"), ("mode", "not needed"),
                        ("wrong", "background, check, dynamic, limit, strict")):
        with pytest.raises(errors.ArgumentTypeError, match=words):
            ag.function(**{name: True})
        with pytest.raises(errors.ArgumentTypeError, match=f"no {name}="):
            ag.function(lambda x: x, **{name: True})


def test_while_loop_says_that_tuples_are_spread():
    state = (ag.asarray(0), ag.ones(2))
    with pytest.raises(errors.ArgumentTypeError, match="arguments of their own"):
        ag.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1]), state)
    with pytest.raises(errors.ArgumentTypeError, match="arguments of their own"):
        ag.while_loop(lambda i, x: i < 3, lambda c: (c[0] + 1, c[1]), state)
    assert ag.while_loop(lambda i, *rest: i < 3, lambda i, x: (i + 1, x), state)[0].item() == 3
    assert ag.while_loop(lambda c: c[0] < 3, lambda c: [c[0] + 1, c[1]], list(state))[0].item() == 3


def test_modules_say_what_they_do_not_take():
    for give, words in ((None, "return its result"), ([[1.0, 2.0]], "ag.asarray(...) around the list"),
                        ("a", "not a str"), (nn.LSTM(2, 2)(ag.ones(3, 1, 2)), "(output, state)")):
        for call in (lambda: nn.Linear(2, 2)(give), lambda: nn.LayerNorm(2)(give), lambda: nn.Conv1d(1, 1, 1)(give)):  # noqa: B023
            with pytest.raises(AttributeError) as caught:
                call()
            assert words in caught.value.__notes__[0], caught.value.__notes__


def test_functions_say_what_they_do_not_take():
    with pytest.raises(errors.ArgumentTypeError, match="max_pool2d: it takes Tensors, not a list; write ag.asarray"):
        ag.max_pool2d([[1.0]], 2)
    with pytest.raises(errors.ArgumentTypeError, match="cosine_similarity: it takes Tensors, not a NoneType"):
        ag.cosine_similarity(None, X)
    with pytest.raises(errors.ArgumentTypeError, match=r"it is repeat\(x, repeats, axis=None\); .*ag.tile"):
        X.repeat(2, 1, 1)
    with pytest.raises(errors.ArgumentTypeError, match=r"missing a required argument: 'repeats'; it is repeat\(x"):
        X.repeat()
    with pytest.raises(errors.ArgumentTypeError, match="ag.where"):
        ag.cond(X.sum() > 0, X, X)
    for call in (lambda: ag.scan(X, X, X), lambda: ag.while_loop(lambda x: x, 3, X), lambda: ag.trace(X)):
        with pytest.raises(errors.ArgumentTypeError, match="give a function, not a"):
            call()
    w = ag.ones(2, requires_grad=True)
    for outputs, inputs in ((3.0, [w]), (w.sum(), [np.ones(2)]), ([w.sum(), 1.0], w)):
        with pytest.raises(errors.ArgumentTypeError, match="gradients.outputs, inputs.: give Tensors, not a"):
            ag.gradients(outputs, inputs)
    with pytest.raises(errors.ArgumentTypeError, match="loss.backward"):
        ag.optim.SGD([w]).step(w.sum())
    with pytest.raises(errors.ArgumentTypeError, match="not with the keys .'param', 'lr'"):
        ag.optim.SGD([{"param": [w], "lr": 0.1}])


def test_what_no_element_can_be_is_not_in_a_tensor():
    assert 1 in ag.ones(3) and 2 not in ag.ones(3)
    assert None not in ag.ones(3) and "a" not in ag.ones(3)


def test_uniform_numbers_between_limits_that_are_exchanged():
    with pytest.raises(errors.ArgumentError, match="the shape comes first"):
        ag.random.uniform(3, 4)  # NumPy: a number between 3 and 4
    assert ag.random.uniform((2,), 1.0, 1.0).tolist() == [1, 1]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(FileNotFoundError, match="no such folder") as caught:
        ag.io.save(tmp_path / "runs" / "x.safetensors", {"x": X})
    assert caught.value.filename == str(tmp_path / "runs")


@pytest.mark.filterwarnings("error")
def test_numbers_that_overflow_are_no_warnings_where_warnings_are_errors():
    h, big, inf = ag.ones(2, dtype="float16"), ag.ones(2) * 1e6, float("inf")
    assert ag.asarray(np.array([1e6]), dtype="float16").tolist() == [inf]
    assert (h * 1e6).tolist() == [inf, inf]
    assert ag.where(h > 0, 1e6, h).tolist() == h.at[:].set(1e6).tolist() == [inf, inf]
    assert ag.zeros(2, dtype="float16").assign(big).tolist() == [inf, inf]
    assert ag.grad(lambda v: (v.astype("float32") * 1e6).sum())(h).tolist() == [inf, inf]
    assert ag.grad(lambda v: (v * big).sum())(h).tolist() == [inf, inf]
    assert ag.grad(lambda v: ag.log(v).sum())(ag.zeros(2)).tolist() == [inf, inf]
    assert ag.hessian(lambda v: 1 / v)(ag.asarray(0.0)).item() == inf
    with np.errstate(all="raise"):
        assert ag.asarray(np.array([1e6]), dtype="float16").tolist() == (h[:1] * 1e6).tolist() == [inf]


def test_arguments_by_position_that_are_elsewhere_in_numpy_or_pytorch():
    x = ag.asarray(np.arange(24.0).reshape(2, 3, 4) ** 2)
    for n in range(3):
        assert ag.diff(x, n).tolist() == np.diff(x.numpy(), n).tolist()  # PyTorch has n there, too
    for call in (lambda: ag.sum(x, 0, "float64"), lambda: ag.mean(x, 0, np.float32), lambda: ag.argmax(x, 0, "x"),
                 lambda: ag.sort(x, 1, "stable"), lambda: ag.topk(x, 1, 1, "sorted"), lambda: ag.logsumexp(x, 0, "k")):
        with pytest.raises(errors.ArgumentTypeError, match="give True or False, and other arguments by name"):
            call()
    assert ag.sum(x, 0, True).shape == ag.sum(x, 0, 1).shape == ag.sum(x, 0, np.True_).shape == (1, 3, 4)
    for name in ("tril_indices", "triu_indices"):
        with pytest.raises(errors.ArgumentTypeError, match="say k="):
            getattr(ag, name)(3, 1)
        got, want = getattr(ag, name)(4, k=1, m=3), getattr(np, name)(4, 1, 3)
        assert [i.tolist() for i in got] == [i.tolist() for i in want]


def test_names_of_layers_arguments_are_pytorchs():
    assert nn.PReLU(3, init=0.5).weight.tolist() == nn.PReLU(3, 0.5).weight.tolist() == [0.5] * 3
    assert nn.PReLU(dtype="float64").weight.dtype == ag.float64 and nn.PReLU().weight.tolist() == [0.25]
    assert nn.Unflatten(dim=1, unflattened_size=(2, -1))(ag.ones(3, 6)).shape == (3, 2, 3)
    with pytest.raises(errors.ArgumentTypeError, match="dim= is axis= here"):
        nn.CosineSimilarity(dim=1)


def test_reductions_by_position_in_losses():
    F, a, b, t = nn.functional, ag.ones(3, 2), ag.zeros(3, 2), ag.asarray([0, 1, 0])
    for wrong in (False, True, "sum"):
        for call in (lambda: F.mse_loss(a, b, wrong), lambda: F.l1_loss(a, b, wrong),  # noqa: B023
                     lambda: F.smooth_l1_loss(a, b, wrong), lambda: F.huber_loss(a, b, wrong),  # noqa: B023
                     lambda: F.cross_entropy(a, t, wrong), lambda: F.cross_entropy(a, t, None, wrong),  # noqa: B023
                     lambda: F.nll_loss(a, t, None, wrong), lambda: F.binary_cross_entropy(a, b, wrong),  # noqa: B023
                     lambda: nn.CrossEntropyLoss(None, wrong)(a, t), lambda: F.triplet_margin_loss(a, b, b, wrong)):  # noqa: B023
            with pytest.raises(errors.ArgumentTypeError, match="reduction='mean', 'sum' or 'none' by name"):
                call()
    assert F.cross_entropy(a, t, None, 0, 0).item() > 0 and F.huber_loss(a, b, 1).item() == 0.5
