"""Datasets, collating, and the loader: the same batches for the same seed, in any way of making them."""

import threading
from collections import namedtuple

import numpy as np
import pytest

import agog as ag
from agog import errors
from agog.data import DataLoader, Subset, TensorDataset, collate, random_split

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10)


class Squares:
    """A dataset by item."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        if not 0 <= i < 10:
            raise IndexError(i)
        return X[i], int(Y[i]) ** 2


def seen(loader):
    return [b.tolist() if hasattr(b, "tolist") else [p.tolist() for p in b] for b in loader]


# ------------------------------------------------------------------------------------------------------------- datasets
def test_tensor_dataset():
    d = TensorDataset(X, ag.asarray(Y), [float(i) for i in range(10)])
    assert len(d) == 10
    x, y, z = d[-1]
    assert x.tolist() == [18, 19] and y.item() == 9 and z.item() == 9.0 and x.dtype == ag.float32
    assert [t.shape[0] for t in d[2:5]] == [3] * 3 and d[[3, 1]][1].tolist() == [3, 1]
    with pytest.raises(errors.IndexingError, match="10 rows"):
        d[10]
    with pytest.raises(errors.ShapeError, match="10, 9 rows"):
        TensorDataset(X, Y[:9])
    with pytest.raises(errors.ShapeError, match="no axes"):
        TensorDataset(np.array(1.0))
    with pytest.raises(errors.ArgumentError, match="at least one"):
        TensorDataset()
    with pytest.raises(errors.ArgumentTypeError, match="whole numbers"):
        d[["a"]]


def test_user_memory_is_copied():
    x = X.copy()
    for loader in (DataLoader(x, 10), DataLoader(TensorDataset(x), 10), DataLoader(x, 10, shuffle=True, seed=0)):
        batch = next(iter(loader))
        batch = batch[0] if isinstance(batch, tuple) else batch
        before = batch.numpy().copy()
        x += 1
        np.testing.assert_array_equal(batch.numpy(), before)


def test_subset_and_split():
    s = Subset(Squares(), [9, 0, -1])
    assert len(s) == 3 and s[0][1] == 81 and s[-1][1] == 81 and s[1][1] == 0
    assert seen(DataLoader(Subset(TensorDataset(Y), [5, 7]), 2)) == [[[5, 7]]]
    parts = random_split(Y, [6, 4], seed=1)
    assert [len(p) for p in parts] == [6, 4]
    assert sorted(int(p[i]) for p in parts for i in range(len(p))) == list(range(10))
    again = random_split(Y, [0.6, 0.4], seed=1)
    assert [p.indices.tolist() for p in parts] == [p.indices.tolist() for p in again]
    assert random_split(Y, [6, 4], seed=2)[0].indices.tolist() != parts[0].indices.tolist()
    assert [len(p) for p in random_split(Y, [1 / 3, 1 / 3, 1 / 3], seed=0)] == [4, 3, 3]
    assert len(random_split(Y, [10, 0])[1]) == 0
    train, test = random_split((X, Y), [8, 2], seed=0)
    x, y = next(iter(DataLoader(train, 8)))
    assert x.shape == (8, 2) and (x.numpy()[:, 0] == 2 * y.numpy()).all() and train[0][1] == y[0].item()
    assert train.take(slice(0, 2))[1].tolist() == y[:2].tolist()
    with pytest.raises(errors.ArgumentTypeError, match="one by one"):
        Subset(Squares(), [1]).take([0])
    with pytest.raises(errors.ArgumentTypeError, match="no length"):
        Subset(range_iterable(3), [1])
    with pytest.raises(errors.ArgumentTypeError, match="no length"):
        random_split(range_iterable(3), [1.0])
    with pytest.raises(errors.ArgumentError, match="add up to 10"):
        random_split(Y, [6, 5])
    with pytest.raises(errors.IndexingError, match="outside the 10"):
        Subset(Y, [10])
    with pytest.raises(errors.IndexingError, match="2 items"):
        Subset(Y, [1, 2])[2]
    with pytest.raises(errors.ArgumentTypeError, match="whole numbers"):
        Subset(Y, [0.5])


# ------------------------------------------------------------------------------------------------------------ collating
def test_collate():
    Pair = namedtuple("Pair", "a b")
    batch = collate([Pair(X[0], {"n": 1, "t": "x"}), Pair(X[1], {"n": 2, "t": "y"})])
    assert type(batch) is Pair and batch.a.tolist() == X[:2].tolist()
    assert batch.b["n"].tolist() == [1, 2] and batch.b["n"].dtype == ag.int64 and batch.b["t"] == ["x", "y"]
    assert collate([1.5, 2.0]).dtype == ag.float32 and collate([True, False]).dtype == ag.bool
    assert collate([ag.ones(2), ag.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    assert [p.shape for p in collate([[X[0], 1], [X[1], 2]])] == [(2, 2), (2,)]
    with pytest.raises(errors.ShapeError, match=r"\(2,\) and \(3,\)"):
        collate([np.ones(2), np.ones(3)])
    with pytest.raises(errors.ArgumentError, match="different lengths"):
        collate([(1,), (1, 2)])
    with pytest.raises(errors.ArgumentError, match="different keys"):
        collate([{"a": 1}, {"b": 1}])


# --------------------------------------------------------------------------------------------------------------- loader
def test_forms_of_batches():
    assert seen(DataLoader(Y, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seen(DataLoader(Y, 4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    x, y = next(iter(DataLoader((X, ag.asarray(Y)), 3)))
    assert x.shape == (3, 2) and y.tolist() == [0, 1, 2] and x.dtype == ag.float32 and y.dtype == ag.int64
    batch = next(iter(DataLoader({"x": X, "y": Y}, 3)))
    assert batch["x"].shape == (3, 2) and batch["y"].tolist() == [0, 1, 2]
    x, y = next(iter(DataLoader(Squares(), 4)))
    assert x.tolist() == X[:4].tolist() and y.tolist() == [0, 1, 4, 9]
    assert seen(DataLoader(list(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert seen(DataLoader((i for i in range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert seen(DataLoader((i for i in range(5)), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert next(iter(DataLoader((X, Y), 2, collate_fn=len))) == 2
    assert next(iter(DataLoader({"x": X}, 2, collate_fn=lambda items: items[1]["x"].tolist()))) == [2, 3]
    assert list(DataLoader(np.zeros((0, 3)), 2)) == [] and len(DataLoader(np.zeros((0, 3)))) == 0
    assert [len(DataLoader(Y, 3)), len(DataLoader(Y, 3, drop_last=True)), len(DataLoader(Y, 5))] == [4, 3, 2]


def test_tuple_of_arrays_and_lists_is_a_dataset_of_items():
    assert list(DataLoader(("a", "b", "c"), 2)) == [["a", "b"], ["c"]]


@pytest.mark.parametrize("make", [
    lambda **kw: DataLoader(Y, 3, **kw), lambda **kw: DataLoader(list(Y), 3, **kw),
    lambda **kw: DataLoader(Y, 3, collate_fn=collate, **kw), lambda **kw: DataLoader(ag.asarray(Y), 3, prefetch=2,
                                                                                     **kw),
    lambda **kw: DataLoader(Subset(list(Y), range(10)), 3, prefetch=1, **kw),
])
def test_order_depends_on_seed_and_epoch_alone(make):
    reference = DataLoader(Y, 3, shuffle=True, seed=7)
    epochs = [seen(reference) for _ in range(3)]
    assert sorted(sum(epochs[0], [])) == list(range(10)) and epochs[0] != epochs[1] != epochs[2]
    loader = make(shuffle=True, seed=7)
    ag.random.seed(99)
    assert [seen(loader) for _ in range(3)] == epochs
    loader.set_epoch(1)
    assert seen(loader) == epochs[1]
    assert seen(make(shuffle=True, seed=8)) != epochs[0]


def test_without_a_seed_the_global_one_decides():
    ag.random.seed(3)
    a = seen(DataLoader(Y, 10, shuffle=True))
    b = seen(DataLoader(Y, 10, shuffle=True))
    ag.random.seed(3)
    assert seen(DataLoader(Y, 10, shuffle=True)) == a != b


@pytest.mark.parametrize("make", [lambda: DataLoader(Y, 3, shuffle=True, seed=1), lambda: DataLoader(Y, 3, prefetch=2),
                                  lambda: DataLoader(Squares(), 3, shuffle=True, seed=1, prefetch=3)])
@pytest.mark.parametrize("stop", range(1, 9))
def test_goes_on_after_loading(make, stop):
    """The batches after a stop are those of an uninterrupted run, over the ends of epochs."""
    loader, whole = make(), []
    for _ in range(3):
        whole += seen(loader)
    loader, got, state = make(), [], None
    for _ in range(3):
        for batch in loader:
            got.append(batch)
            if len(got) == stop:
                state = loader.state_dict()
                break
        if state:
            break
    other, rest = make(), []
    other.load_state_dict(state)
    while len(rest) + stop < len(whole):
        rest += seen(other)
    assert rest == whole[stop:]


def test_iterables_skip_what_was_handed_out():
    loader = DataLoader(range_iterable(7), 2)
    it = iter(loader)
    next(it)
    state = loader.state_dict()
    assert state == {"seed": 0, "epoch": 0, "batch": 1}
    other = DataLoader(range_iterable(7), 2)
    other.load_state_dict(state)
    assert seen(other) == [[2, 3], [4, 5], [6]]
    assert seen(other) == [[0, 1], [2, 3], [4, 5], [6]]


def range_iterable(n):
    class Numbers:
        def __iter__(self):
            return iter(range(n))

    return Numbers()


def test_a_pass_that_was_broken_off_counts_as_an_epoch():
    loader = DataLoader(Y, 3, shuffle=True, seed=1)
    next(iter(loader))
    reference = DataLoader(Y, 3, shuffle=True, seed=1)
    seen(reference)
    assert seen(loader) == seen(reference)


def test_prefetching_leaves_no_threads_and_passes_errors_on():
    def bad():
        yield 1
        raise KeyError("broken item")

    before = threading.active_count()
    for _ in DataLoader(Y, 2, prefetch=2):
        break
    it = iter(DataLoader(Y, 2, prefetch=1))
    next(it)
    it.close()
    with pytest.raises(KeyError, match="broken item"):
        list(DataLoader(bad(), 1, prefetch=2))
    assert threading.active_count() == before


def test_tensors_are_not_copied_when_cut_in_order():
    t = ag.asarray(X)
    batch = next(iter(DataLoader(t, 4)))
    assert np.shares_memory(batch.numpy(), t.numpy())
    t += 1.0  # the batch keeps its value
    assert batch.tolist() == X[:4].tolist()


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: DataLoader(Y, 0), errors.ArgumentError, "batch_size=0"),
    (lambda: DataLoader(Y, 2.0), errors.ArgumentTypeError, "batch_size=2.0"),
    (lambda: DataLoader(Y, prefetch=-1), errors.ArgumentError, "prefetch=-1"),
    (lambda: DataLoader(Y, seed=-1), errors.ArgumentError, "seed=-1"),
    (lambda: DataLoader(3), errors.ArgumentTypeError, "a int is no dataset"),
    (lambda: DataLoader(np.array(1.0)), errors.ShapeError, "no axes"),
    (lambda: DataLoader((X, Y[:9])), errors.ShapeError, "10, 9 rows"),
    (lambda: DataLoader({"a": [1]}), errors.ArgumentTypeError, "arrays as values"),
    (lambda: DataLoader(iter([1]), shuffle=True), errors.ArgumentError, "cannot be shuffled"),
    (lambda: len(DataLoader(iter([1]))), errors.ArgumentTypeError, "no length"),
    (lambda: DataLoader(Y).load_state_dict({"epoch": 1}), errors.CheckpointError, "'seed', 'epoch' and 'batch'"),
])
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_datasets_of_ones_own_and_one_after_another():
    class Squares(ag.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return np.float32(i * i)

    class Stream(ag.data.IterableDataset):
        def __iter__(self):
            return iter(np.arange(3.0))

    both = ag.data.ConcatDataset([Squares(), np.arange(10.0, 12.0, dtype="f4")])
    assert len(both) == 5 and [float(both[i]) for i in (0, 2, 3, 4, -1, -5)] == [0, 4, 10, 11, 11, 0]
    assert [b.tolist() for b in ag.data.DataLoader(both, batch_size=3)] == [[0, 1, 4], [10, 11]]
    assert [b.tolist() for b in ag.data.DataLoader(Stream(), batch_size=2)] == [[0, 1], [2]]
    with pytest.raises(IndexError):
        both[5]
    with pytest.raises(TypeError, match="ConcatDataset"):
        ag.data.ConcatDataset([Stream()])
