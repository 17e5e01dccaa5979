"""Elements taken and added along an axis: NumPy's bits, and indices outside of it are reported."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import along as compiled
from agog.compiler import jit, targets
from agog.errors import IndexingError

SHAPES = [(1, 1, 1, 1), (1, 7, 50, 1), (5, 7, 9, 1), (3, 4, 6, 5), (1, 5, 11, 3), (300, 64, 64, 1), (1, 40, 500, 33),
          (2, 3, 4, 130)]
BAD = 1 << 40


def arrays(rng, dtype, outer, n, m, inner):
    x, g = (rng.normal(size=(outer, k, inner)).astype(dtype) for k in (n, m))
    return x, g, rng.integers(-n, n, (outer, m, inner))


def added(g, indices, shape, dtype):
    out = np.zeros(shape, dtype)
    o, _, i = np.indices(g.shape)
    np.add.at(out, (o, indices, i), g)
    return out


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_take(shape, dtype, at_end, target, guarded, rng):
    x, g, indices = arrays(rng, dtype, *shape)
    out = guarded.array(np.empty_like(g), at_end)
    words = f"int{8 * x.itemsize}"
    assert compiled.along("take", words, target)(out, guarded.array(x, at_end), guarded.array(indices, at_end), shape)
    np.testing.assert_array_equal(out, np.take_along_axis(x, indices, 1))


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("kind, dtype", [("add", "float32"), ("add", "float64"), ("sum", "float32")])
@pytest.mark.parametrize("shape", SHAPES)
def test_add(shape, kind, dtype, at_end, target, guarded, rng):
    x, g, indices = arrays(rng, dtype, *shape)
    out = guarded.array(np.full_like(x, np.nan), at_end)
    assert compiled.along(kind, dtype, target)(out, guarded.array(g, at_end), guarded.array(indices, at_end), shape)
    wide = "float64" if kind == "sum" else dtype
    np.testing.assert_array_equal(out, added(g, indices, x.shape, wide).astype(dtype))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(3000, 50, 60, 1), (1, 100, 600, 300), (1, 90, 300_000, 1)])
def test_any_number_of_threads(threads, shape, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    x, g, indices = arrays(rng, "float32", *shape)
    out, back = np.empty_like(g), np.empty_like(x)
    assert compiled.along("take", "int32")(out, x, indices, shape)
    assert compiled.along("sum", "float32")(back, g, indices, shape)
    np.testing.assert_array_equal(out, np.take_along_axis(x, indices, 1))
    np.testing.assert_array_equal(back, added(g, indices, x.shape, "float64").astype("float32"))


@pytest.mark.parametrize("bad", [6, -7, BAD, -BAD, 1 << 62, -(1 << 63)])
@pytest.mark.parametrize("shape", [(4, 6, 5, 1), (1, 6, 5, 3)])
def test_indices_outside_are_reported(bad, shape, rng, guarded):
    x, g, indices = arrays(rng, "float32", *shape)
    x, out, back = guarded.array(x, True), guarded.array(np.empty_like(g), True), guarded.array(np.empty_like(x), True)
    indices[-1, -1, -1] = bad
    assert not compiled.along("take", "int32")(out, x, indices, shape)
    assert not compiled.along("add", "float32")(back, g, indices, shape)
    assert not compiled.along("sum", "float32")(back, g, indices, shape)


def test_what_does_not_fit_changes_nothing(rng):
    shape = (2, 3, 4, 5)
    x, g, indices = arrays(rng, "float32", *shape)
    out = np.zeros_like(g)
    take, add = compiled.along("take", "int32"), compiled.along("add", "float32")
    for sizes in ((2, 3, 4, 4), (2, 4, 4, 5), (2, 3, 5, 5), (0, 3, 4, 5), (2, 3, -4, -5), (1 << 62, 3, 4, 5)):
        with pytest.raises(ValueError, match="takes"):
            take(out, x, indices, sizes)
        with pytest.raises(ValueError, match="takes"):
            add(np.zeros_like(x), g, indices, sizes)
    with pytest.raises(ValueError, match="takes"):
        take.native(out, x, indices, np.zeros(2, np.int64), np.array(shape))
    assert not out.any()


def calls(rng):
    x, g = rng.normal(size=(2, 40, 30, 20)).astype("float32")
    doubles, flat = rng.normal(size=(50, 40)), rng.normal(size=5000).astype("float32")
    i, j, rows = rng.integers(-30, 30, (40, 30, 20)), rng.integers(0, 50, (50, 40)), rng.integers(-400, 400, 5000)
    A = ag.asarray
    leaf = lambda v: ag.asarray(v, requires_grad=True)

    def gradient(fn, v):
        v = leaf(v)
        (fn(v) * A(np.float32(1.5))).sum().backward()
        return v.grad

    return {
        "take": lambda: ag.take_along_axis(A(x), A(i), axis=1),
        "take doubles": lambda: ag.take_along_axis(A(doubles), A(j.astype("int32")), axis=0),
        "take integers": lambda: ag.take_along_axis(A(j), A(j % 40), axis=1),
        "take bools": lambda: ag.take_along_axis(A(x > 0), A(i), axis=-2),
        "take broadcast": lambda: ag.take_along_axis(A(x), A(i[:, :, :1]), axis=1),
        "take of a transpose": lambda: ag.take_along_axis(A(doubles).T, A(j.T % 40), axis=0),
        "add": lambda: ag.add_along_axis(A(x), A(i), A(g), axis=1),
        "add doubles": lambda: ag.scatter_add(A(doubles), 0, A(j), A(doubles[::-1].copy())),
        "add to few": lambda: ag.zeros(400).at[A(rows)].add(A(flat)),
        "add to many": lambda: ag.zeros(100_000).at[A(rows)].add(A(flat)),
        "add columns": lambda: ag.zeros(400, 1).at[A(rows)].add(A(flat[:, None])),
        "gradient of take": lambda: gradient(lambda v: ag.take_along_axis(v, A(i), axis=1) * A(g), x),
        "gradient of places": lambda: gradient(lambda v: v[A(rows % 40), A(rows % 30)], x[:, :, 0]),
    }


KERNELS = compiled.Lines(lambda make, *key: make(*key)).table()
CALLS = list(calls(np.random.default_rng(0)))


@pytest.mark.parametrize("name", CALLS)
def test_eager_code_gets_the_same_bits(name, monkeypatch):
    got = []
    for kernels in ({}, KERNELS):
        monkeypatch.setattr(large, "kernels", kernels)
        monkeypatch.setattr(large, "_count", lambda work: None)
        got.append(calls(np.random.default_rng(1))[name]().numpy())
    assert got[0].dtype == got[1].dtype
    np.testing.assert_array_equal(got[0].view(f"u{got[0].itemsize}"), got[1].view(f"u{got[1].itemsize}"))


def test_eager_code_takes_the_kernels(monkeypatch):
    asked = []
    monkeypatch.setattr(large, "kernels", {name: lambda *a, name=name: asked.append(name) for name in
                                           ("take_along", "add_along")})
    for name in ("take", "take doubles", "add", "add to few", "gradient of take", "gradient of places"):
        asked.clear()
        calls(np.random.default_rng(1))[name]()
        assert asked, name


def test_errors_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(large, "kernels", KERNELS)
    x, i = ag.ones(60, 40), ag.asarray(np.full((60, 40), 39))
    i[3, 5] = 40
    with pytest.raises(IndexingError, match="take_along_axis: index 40 is outside axis 1"):
        ag.take_along_axis(x, i, axis=1)
    with pytest.raises(IndexingError, match="scatter_add: index 40 is outside axis 1"):
        ag.add_along_axis(x, i, x, axis=1)
    rows = ag.asarray(np.arange(2000) % 60)
    rows[7] = -61
    for table in (ag.ones(60), x):
        with pytest.raises(IndexingError, match="take: index -61 is outside axis 0"):
            table.at[rows].add(1.0)


@pytest.mark.parametrize("target", [targets.SSE2, targets.AVX2, targets.NEON], ids=lambda t: t.machine)
def test_other_machines_assemble(target):
    for kind, dtype in (("take", "int64"), ("add", "float32"), ("sum", "float32")):
        assert jit.object_code(str(compiled.build(kind, dtype, target)), target)[:4] == b"\x7fELF"
