"""Rows added to the rows of a table: the same bits as NumPy's, and errors before anything is written."""

import numpy as np
import pytest

from agog import config
from agog.compiler import jit, scatter, targets
from agog.compiler.program import compile
from agog.graph.build import build, xp


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n, m, d", [(1, 1, 1), (5, 40, 3), (7, 300, 16), (65, 801, 64), (65, 801, 100), (9, 50, 127),
                                     (300, 2000, 300), (4, 0, 5), (3, 9000, 129)])
@pytest.mark.parametrize("at_end", [True, False])
def test_bits_are_those_of_numpy(n, m, d, dtype, at_end, target, guarded, rng):
    g = guarded.array(rng.normal(size=(m, d)).astype(dtype), at_end)
    indices = guarded.array(rng.integers(-n, n, m), at_end)
    start = rng.normal(size=(n, d)).astype(dtype)
    got, want = guarded.array(start, at_end), start.copy()
    scatter.add_rows(dtype, target)(got, indices, g)
    np.add.at(want, indices, g)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    g, indices = rng.normal(size=(3000, 700)), rng.integers(0, 40, 3000)
    got, want = np.zeros((40, 700)), np.zeros((40, 700))
    scatter.add_rows("float64")(got, indices, g)
    np.add.at(want, indices, g)
    np.testing.assert_array_equal(got, want)


def test_what_does_not_fit_changes_nothing():
    out, g = np.ones((4, 3), np.float32), np.ones((2, 3), np.float32)
    kernel = scatter.add_rows("float32")
    for bad in (4, -5, 1 << 40, -(1 << 63)):
        with pytest.raises(ValueError, match="outside"):
            kernel(out, np.array([0, bad]), g)
    with pytest.raises(ValueError, match="takes"):
        kernel(out, np.array([0]), g)
    with pytest.raises(ValueError, match="takes"):
        kernel(out, np.array([0, 1]), g[:, :2].copy())
    with pytest.raises(ValueError):
        kernel(out[:, :0].copy(), np.array([0, 1]), g[:, :0].copy())
    assert (out == 1).all()


@pytest.mark.parametrize("target", [targets.SSE2, targets.AVX2, targets.NEON], ids=lambda t: t.machine)
def test_other_machines_assemble(target):
    assert jit.object_code(str(scatter.build("float32", target)), target)[:4] == b"\x7fELF"


ADDED = {  # row of the graph and its static parameters; shapes of what is added and of the result
    "rows": ("_take_adjoint", {"shape": (300, 130), "axis": 0}, (2000, 130), (2000,)),
    "narrow rows": ("_take_adjoint", {"shape": (300, 3), "axis": 0}, (9000, 3), (9000,)),
    "columns": ("_take_adjoint", {"shape": (300, 70), "axis": 1}, (300, 900), (900,)),
    "middle": ("_take_adjoint", {"shape": (20, 30, 70), "axis": 1}, (20, 90, 70), (90,)),
    "along the last": ("_take_along_axis_adjoint", {"shape": (400, 50), "axis": 1}, (400, 600), (400, 600)),
    "along the first": ("_take_along_axis_adjoint", {"shape": (50, 600), "axis": 0}, (400, 600), (400, 600)),
    "flat": ("_take_adjoint", {"shape": (300,), "axis": 0}, (90_000,), (90_000,)),
    "one row": ("_take_adjoint", {"shape": (1, 40_000), "axis": 0}, (9, 40_000), (9,)),
}


def graph_of(name, dtype):
    op, statics, given, indexed = ADDED[name]
    return build(lambda g, i: [getattr(xp, op)(g, i, **statics)], (given, dtype), (indexed, "int64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ADDED)
def test_programs_add_in_the_order_of_what_is_added(name, dtype, target, rng, guarded, monkeypatch):
    """Threads share out an axis that no two of them write to: the bits are those of one thread, and of NumPy."""
    _, statics, given, indexed = ADDED[name]
    shape, axis = statics["shape"], statics["axis"]
    graph = graph_of(name, dtype)
    g = rng.normal(size=given).astype(dtype)
    places = rng.integers(-shape[axis], shape[axis], indexed)
    want = np.zeros(shape, dtype)
    key = list(np.indices(given, sparse=True))
    key[axis] = places if places.ndim > 1 else places.reshape([-1 if a == axis else 1 for a in range(len(given))])
    np.add.at(want, tuple(key), g)
    monkeypatch.setattr(config, "num_threads", 2)
    program = compile(graph, target)
    assert not program.islands
    for threads in (2, 1, 5):
        monkeypatch.setattr(config, "num_threads", threads)
        (got,) = program([guarded.array(g), guarded.array(places)])
        np.testing.assert_array_equal(got, want)


def test_threads_take_part_where_an_axis_is_theirs():
    for name, shared in (("rows", True), ("along the last", True), ("along the first", True), ("flat", False)):
        program = compile(graph_of(name, "float32"), threads=True)
        calls = [line for line in program.code("llvm").split("\n") if "@agog_parallel_for" in line and "call" in line]
        assert bool(calls) == shared, name
