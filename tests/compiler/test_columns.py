"""Row programs down the columns of (outer, n, inner): what they give along the last axis of the turned array."""

import numpy as np
import pytest

from agog import config
from agog.compiler import pool
from agog.compiler.columns import compile_column_program
from agog.compiler.rowprograms import PROGRAMS, compile_row_program
from agog.errors import AgogError

NAMES = [n for n, (_, outs, ins) in PROGRAMS.items() if {*outs} <= {"row", "column"} and {*ins} == {"row"}]
SHAPES = [(1, 1, 1), (3, 5, 1), (2, 7, 16), (2, 17, 3), (1, 64, 64), (3, 131, 33), (1, 300, 5), (5, 2, 100), (0, 4, 3)]


def arrays(name, shape, dtype, rng):
    _, outs, ins = PROGRAMS[name]
    outer, n, inner = shape
    sizes = {"row": shape, "column": (outer, inner)}
    return [np.full(sizes[kind], 7, dtype) for kind in outs], [rng.standard_normal(shape).astype(dtype) for _ in ins]


def turned(a):
    return np.ascontiguousarray(np.swapaxes(a, 1, 2))


def along_rows(name, ins, dtype):
    """What the row kernel gives."""
    ins = [turned(x) for x in ins]
    outs = [np.empty(ins[0].shape if kind == "row" else ins[0].shape[:2], dtype) for kind in PROGRAMS[name][1]]
    compile_row_program(name, dtype)(outs, ins)
    return [turned(out) if kind == "row" else out for out, kind in zip(outs, PROGRAMS[name][1])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_programs(name, dtype, target, rng, guarded):
    kernel = compile_column_program(name, dtype, target)
    for shape in SHAPES:
        outs, ins = arrays(name, shape, dtype, rng)
        outs = [guarded.array(a) for a in outs]
        kernel(*outs, *[guarded.array(x) for x in ins], *shape)
        for out, want in zip(outs, along_rows(name, ins, dtype), strict=True):
            scale = max(1.0, abs(want).max(initial=0))
            np.testing.assert_allclose(out, want, 0, 40 * np.finfo(dtype).eps * scale)


@pytest.mark.parametrize("name", ["softmax", "logsumexp", "deviation"])
def test_threads_change_nothing(name, rng, monkeypatch):
    kernel, shape = compile_column_program(name, "float32"), (9, 70, 500)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(config, "num_threads", threads)
        pool.refresh()
        outs, ins = arrays(name, shape, "float32", np.random.default_rng(1))
        kernel(*outs, *ins, *shape)
        found.append([out.tobytes() for out in outs])
    assert found[0] == found[1]


def test_special_values(target):
    x = np.zeros((1, 37, 20), np.float32)
    x[0, 35, 0], x[0, 3, 1], x[0, :, 2], x[0, 30, 17] = np.nan, np.inf, -np.inf, -np.inf
    for name in ("max", "min", "sum"):
        out = np.empty((1, 20), np.float32)
        compile_column_program(name, "float32", target)(out, x, 1, 37, 20)
        np.testing.assert_array_equal(out, getattr(x, name)(1))


def test_what_does_not_go_down_columns():
    for name in ("norm1", "cross_entropy"):
        with pytest.raises(AgogError):
            compile_column_program(name, "float32")
    kernel = compile_column_program("softmax", "float32")
    x, y = np.ones((2, 3, 4), np.float32), np.ones((2, 3, 4), np.float32)
    for sizes in ((2, 3, 5), (2, 4, 4), (-2, -3, 4)):
        with pytest.raises((AgogError, ValueError)):
            kernel(y, x, *sizes)
