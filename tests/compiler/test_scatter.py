"""Rows added to the rows of a table: the same bits as NumPy's, and errors before anything is written."""

import numpy as np
import pytest

from agog import config
from agog.compiler import jit, scatter, targets


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
