"""The builtin through which Python enters programs: what it takes, what it refuses, and what then happens."""

import threading

import numpy as np
import pytest

from agog.compiler import entry
from agog.compiler.program import compile
from agog.errors import ArgumentError, DeviceError
from agog.graph.build import build, xp

F = "float32"


def doubled(*shape, dtype=F):
    return compile(build(lambda a: a * 2, (shape, dtype)))


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (2, 0, 3), (1, 2, 1, 3)])
def test_shapes_of_every_rank(shape):
    p = doubled(*shape)
    x = np.arange(np.prod(shape, dtype=int), dtype=F).reshape(shape) + 1
    np.testing.assert_array_equal(p.call(x)[0], x * 2)
    assert p.call(x)[0].shape == shape


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones((3, 2), F),  # as many bytes
        np.ones(6, F),
        np.ones((2, 3, 1), F),
        np.ones((2, 3), "int32"),  # as many bytes
        np.ones((2, 3), ">f4"),
        np.ones((2, 3), "float64"),
        np.float32(1),
        [[1.0, 2.0], [3.0, 4.0]],
    ],
    ids=lambda x: f"{getattr(x, 'dtype', 'list')}{np.shape(x)}",
)
def test_arrays_of_another_form_are_refused(wrong):
    p = doubled(2, 3)
    with pytest.raises(ArgumentError, match="compiled for float32"):
        p.call(wrong)
    with pytest.raises(ArgumentError, match="compiled for float32"):
        p([wrong])


def test_what_native_code_cannot_read_is_converted():
    class Sub(np.ndarray):
        pass

    p, x = doubled(2, 3), np.arange(6, dtype=F).reshape(2, 3)
    other = np.dtype({"names": ["f"], "formats": [F]})
    same_but_another = np.empty((2, 3), other)["f"]  # strided; and a dtype object of its own
    same_but_another[:] = x
    for given in (x.T.copy().T, x.view(Sub), np.broadcast_to(x[0], (2, 3)), same_but_another, x.tolist()):
        want = np.asarray(given, F) * 2
        if isinstance(given, list):
            given = np.asarray(given, F)
        out = p.call(given)[0]
        np.testing.assert_array_equal(out, want)
        assert type(out) is np.ndarray and not np.may_share_memory(out, given)


def test_long_and_long_long():
    """Two dtypes that are equal and have two numbers."""
    p = doubled(3, dtype="int64")
    for kind in (np.long, np.longlong) if hasattr(np, "long") else (np.int_, np.longlong):
        if np.dtype(kind) == np.dtype("int64"):
            assert p.call(np.arange(3).astype(kind))[0].tolist() == [0, 2, 4]


def test_the_number_of_arrays():
    p = doubled(3)
    with pytest.raises(TypeError):
        p.call()
    with pytest.raises(TypeError):
        p.call(np.zeros(3, F), np.zeros(3, F))


def test_many_arrays():
    graph = build(lambda *xs: sum(xs[1:], xs[0]), *[((3, 4) if n % 2 else (4,), F) for n in range(300)])
    out = compile(graph).call(*[np.full(v.shape, n, F) for n, v in enumerate(graph.inputs)])
    assert out[0].tolist() == [[sum(range(300))] * 4] * 3


def test_large_arenas_in_several_threads(rng):
    """One block belongs to the program; a call while it is in use takes another."""
    p = compile(build(lambda a: xp.softmax(a @ a, axis=0) @ a, ((96, 96), F)))
    given = [rng.standard_normal((96, 96)).astype(F) for _ in range(4)]
    want, bad = [p.call(x)[0].copy() for x in given], []

    def work(i):
        for _ in range(50):
            if not np.array_equal(p.call(given[i])[0], want[i]):
                bad.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad


def test_a_numpy_of_another_layout_is_refused(monkeypatch):
    entry._verify.__wrapped__()
    monkeypatch.setattr(entry, "_SHAPE", entry._STRIDES)
    with pytest.raises(DeviceError, match="form that agog does not know"):
        entry._verify.__wrapped__()
