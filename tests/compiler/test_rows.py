"""Row kernels against float64 NumPy."""

from functools import partial

import numpy as np
import pytest
from scipy import special

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import targets
from agog.compiler.rowprograms import PROGRAMS, compile_row_program
from agog.compiler.rows import compile_rows, sum_blocks
from agog.compiler.rowwise import Rowwise
from agog.errors import AgogError
from agog.ops import normalization

SHAPES = [(1, 1), (3, 5), (7, 16), (2, 17), (5, 64), (3, 131), (2, 1000), (1, 9001), (150, 67), (0, 4), (4, 0)]


def norm(x, *rest, centered=True):
    *affine, epsilon = rest
    x = x - x.mean(-1, keepdims=True) if centered else x
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return y * affine[0] + sum(affine[1:]) if affine else y


def norm_backward(g, x, *rest, centered=True, affine=0):
    *weight, epsilon = rest
    x = x - x.mean(-1, keepdims=True) if centered else x
    r = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    h, n = g * weight[0] if weight else g, x * r
    dx = r * ((h - h.mean(-1, keepdims=True) if centered else h) - n * (h * n).mean(-1, keepdims=True))
    return (dx, (g * n).sum(0), g.sum(0))[: affine + 1]


def cross_entropy(x, index):
    lse = special.logsumexp(x, -1)
    return lse - x[np.arange(len(x)), index], lse


def cross_entropy_backward(x, lse, index, weight, scale):
    y = np.exp(x - lse[:, None]) * scale[:, None]
    y[np.arange(len(x)), index] -= weight
    return y


REFERENCE = {
    "softmax": lambda x: special.softmax(x, -1),
    "log_softmax": lambda x: special.log_softmax(x, -1),
    "logsumexp": lambda x: special.logsumexp(x, -1),
    "softmax_backward": lambda y, g: y * (g - (g * y).sum(-1, keepdims=True)),
    "log_softmax_backward": lambda y, g: g - np.exp(y) * g.sum(-1, keepdims=True),
    "column_sum": lambda x: x.sum(0),
    "cross_entropy": cross_entropy,
    "cross_entropy_backward": cross_entropy_backward,
    "sum": lambda x: x.sum(-1),
    "deviation": lambda x: ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1),
    "moments": lambda x: (x.mean(-1), ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1)),
    "rescaled": lambda x, mean, scale, shift: (x - mean[:, None]) * scale[:, None] + shift[:, None],
    "rescaled_sums_backward": lambda g, x, mean: (g.sum(-1), (g * (x - mean[:, None])).sum(-1)),
    "rescaled_backward": lambda g, x, mean, scale, slope, level: (
        g * scale[:, None] + (x - mean[:, None]) * slope[:, None] + level[:, None]),
    "mean": lambda x: x.mean(-1),
    "max": lambda x: x.max(-1),
    "min": lambda x: x.min(-1),
}
for affine in (0, 1, 2):
    for what, centered in (("norm", True), ("rms_norm", False)):
        REFERENCE[f"{what}{affine}"] = partial(norm, centered=centered)
        REFERENCE[f"{what}{affine}_backward"] = partial(norm_backward, centered=centered, affine=affine)


def arguments(name, rows, d, dtype, rng):
    shapes = {"row": (rows, d), "column": (rows,), "vector": (d,), "scalar": (), "sums": (sum_blocks(rows), d)}
    _, out_kinds, in_kinds = PROGRAMS[name]
    ins = [rng.standard_normal(shapes[kind]).astype(dtype) for kind in in_kinds]
    if "norm" in name:
        ins[-1] = np.array(0.01, dtype)
    if name == "rescaled_sums_backward":  # what cancels has fewer digits
        ins = [np.abs(ins[0]), np.abs(ins[1]), -np.abs(ins[2])]
    if "cross_entropy" in name:
        ins[2 if "backward" in name else 1] = rng.integers(0, d, rows)
    return [np.full(shapes[kind], 7, dtype) for kind in out_kinds], ins


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_programs(name, dtype, target, rng, guarded):
    kernel = compile_row_program(name, dtype, target)
    for rows, d in SHAPES:
        if d == 0 and name not in ("sum", "column_sum", "softmax_backward", "log_softmax_backward"):
            continue  # NumPy has no answer, or warns
        outs, ins = arguments(name, rows, d, dtype, rng)
        outs = [guarded.array(a) for a in outs]
        kernel(outs, [guarded.array(a) for a in ins])
        with np.errstate(all="ignore"):
            expected = REFERENCE[name](*[a.astype(np.float64) if a.dtype.kind == "f" else a for a in ins])
        outs = [out.sum(0, np.float64) if kind == "sums" else out for out, kind in zip(outs, PROGRAMS[name][1])]
        for out, exact in zip(outs, expected if isinstance(expected, tuple) else (expected,), strict=True):
            scale = max(1.0, np.abs(exact).max(initial=0))
            np.testing.assert_allclose(out, exact, 0, 40 * np.finfo(dtype).eps * scale)


@pytest.mark.parametrize("name", [n for n, (_, outs, _) in PROGRAMS.items() if "row" in outs])
def test_rows_that_are_stored_around_the_caches(name, target, rng, monkeypatch):
    monkeypatch.setattr(targets, "last_cache", lambda: 1 << 10)
    kernel = compile_row_program(name, "float32", target)
    for rows, d in [(5, 64), (100, 1040), (3, 9008), (6, 1000)]:
        outs, ins = arguments(name, rows, d, "float32", rng)
        memory = [np.full(a.nbytes + 192, 7, np.uint8) for a in outs]
        for shift in (0, 4):
            starts = [-m.ctypes.data % 64 + 64 + shift for m in memory]
            outs = [np.ndarray(a.shape, a.dtype, m, i) for a, m, i in zip(outs, memory, starts, strict=True)]
            kernel(outs, ins)
            found = [out.sum(0, np.float64) if k == "sums" else out for out, k in zip(outs, PROGRAMS[name][1])]
            expected = REFERENCE[name](*[a.astype(np.float64) if a.dtype.kind == "f" else a for a in ins])
            for out, exact in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
                np.testing.assert_allclose(out, exact, 0, 5e-6 * max(1.0, np.abs(exact).max()))
            for m, i, out in zip(memory, starts, outs, strict=True):
                assert (m[:i] == 7).all() and (m[i + out.nbytes:] == 7).all()
                m[:] = 7


def test_long_sums_keep_their_digits(target, rng):
    x = rng.random((1, 1 << 21), np.float32)
    out = np.empty(1, np.float32)
    compile_row_program("sum", "float32", target)([out], [x])
    assert abs(out[0] / x.sum(dtype=np.float64) - 1) < 3e-7


def test_nan_and_infinity(target):
    x = np.zeros((4, 37), np.float32)
    x[0, 35], x[1, 3], x[2], x[3, 30] = np.nan, np.inf, -np.inf, -np.inf
    out = np.empty(4, np.float32)
    for name in ("max", "min", "sum"):
        compile_row_program(name, "float32", target)([out], [x])
        np.testing.assert_array_equal(out, getattr(x, name)(-1))
    compile_row_program("logsumexp", "float32", target)([out], [x])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(out, special.logsumexp(x.astype(np.float64), -1), 1e-6)


def test_own_programs_and_integers(target, rng):
    def program(row, total, largest, x):
        k = row.k
        a, b = row.reduce(["sum", "max"], lambda v: (k.cast(v[x], "int64"), v[x]))
        row.result(total, a)
        row.result(largest, b)

    kernel = compile_rows("ints", program, ["int64", "int32"], ["column"] * 2, ["int32"], ["row"], target)
    x = rng.integers(-(2**31), 2**31, (13, 77)).astype(np.int32)
    total, largest = np.empty(13, np.int64), np.empty(13, np.int32)
    kernel([total, largest], [x])
    np.testing.assert_array_equal(total, x.sum(-1, dtype=np.int64))
    np.testing.assert_array_equal(largest, x.max(-1))


@pytest.mark.parametrize("shape", [(2, 3, 16), (5, 7, 33), (1, 4, 100), (9, 1, 17)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape, affine, target, rng):
    """As NumPy has it in float64, also where the mean is large beside the deviation."""
    rowwise = Rowwise(lambda name, dtype: compile_row_program(name, dtype, target))
    channels = shape[1]
    x = (rng.standard_normal(shape) + 100).astype(np.float32)
    g, gm, gv = (rng.standard_normal(s).astype(np.float32) for s in (shape, channels, channels))
    weight, bias = (rng.random(channels, np.float32) if affine else None for _ in range(2))
    exact = [None if a is None else a.astype(np.float64) for a in (x, weight, bias)]
    got, expected = rowwise.batch_norm(x, weight, bias, 1e-5), normalization._batch_norm(np, *exact, 1e-5, 1)
    for a, e, tolerance in zip(got, expected, (5e-5, 1e-5, 1e-4), strict=True):
        np.testing.assert_allclose(a, e, tolerance, tolerance)
    _, mean, var = expected
    x64, r = exact[0], 1 / np.sqrt(var + 1e-5)
    dx = rowwise.batch_norm_x(g, gm, gv, x, weight, *(a.astype(np.float32) for a in (mean, var)), 1e-5)
    exact_dx = normalization._batch_norm_x_raw(g, gm, gv, x64, exact[1], mean, var, 1e-5, 1)
    np.testing.assert_allclose(dx, exact_dx, 1e-3, 1e-3)
    dw = rowwise.batch_norm_weight(g, x, mean.astype(np.float32), r.astype(np.float32))
    np.testing.assert_allclose(dw, np.einsum("ncp,ncp->c", g, x64 - mean[:, None]) * r, 1e-3, 1e-3)


def test_eager_batch_norm_takes_the_kernels(monkeypatch, rng):
    known = Rowwise(lambda name, dtype: compile_row_program(name, dtype)).table()
    asked = []
    monkeypatch.setattr(large, "native", lambda name, work, *a: asked.append(name) or known[name](*a)
                        if name in known else None)
    x = ag.asarray(rng.standard_normal((4, 16, 12, 12)).astype(np.float32)).requires_grad_()
    weight = ag.asarray(rng.random(16, np.float32)).requires_grad_()
    y = ag.batch_norm_train(x, weight, None)[0]
    y.sum().backward()
    assert {"batch_norm", "batch_norm_x", "batch_norm_weight"} <= set(asked)
    few = ag.batch_norm_train(x[:1, :, :2], weight, None)[0]
    assert asked.count("batch_norm") == 1 and few.shape == (1, 16, 2, 12)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_rows(threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    x = rng.standard_normal((1001, 515)).astype(np.float32)
    kernel = compile_row_program("softmax", "float32")
    out = np.empty_like(x)
    kernel([out], [x])
    np.testing.assert_allclose(out, special.softmax(x.astype(np.float64), -1), 0, 1e-6)
    kernel([x], [x])
    np.testing.assert_array_equal(x, out)


def test_sums_over_rows_do_not_depend_on_threads(rng, monkeypatch):
    x, sums = rng.standard_normal((1001, 515)).astype(np.float32), []
    for threads in (1, 2, 3):
        monkeypatch.setattr(config, "num_threads", threads)
        sums.append(np.full((sum_blocks(1001), 515), np.nan, np.float32))
        compile_row_program("column_sum", "float32")([sums[-1]], [x])
        np.testing.assert_array_equal(sums[-1], sums[0])
    np.testing.assert_allclose(sums[0].sum(0), x.sum(0, np.float64), 0, 1e-4)


def test_mistakes_are_explained():
    kernel = compile_row_program("softmax", "float32")
    with pytest.raises(ValueError, match="row of float32"):
        kernel([np.empty((3, 4), np.float32)], [np.empty((4, 4), np.float32)])
    with pytest.raises(AgogError, match="'row'"):
        compile_rows("none", lambda *_: None, ["float32"], ["column"], ["float32"], ["vector"])
