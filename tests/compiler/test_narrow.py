"""Products of bfloat16 by instructions of their own: against float64, at any size and transpose, eagerly and staged."""

import ml_dtypes
import numpy as np
import pytest

import agog.ops.structure  # noqa: F401  (the rows' loops)
from agog import config
from agog.compiler import jit, narrow, targets
from agog.compiler.program import compile
from agog.graph.build import Builder, xp

BF16 = np.dtype(ml_dtypes.bfloat16)
SIZES = [(64, 64, 64), (33, 257, 65), (17, 1009, 131), (131, 97, 47), (32, 600, 32), (16, 2000, 16), (65, 64, 1000)]

needs_them = pytest.mark.skipif(not narrow.how(targets.host()), reason="the machine has neither AMX nor AVX-512 BF16")


def drawn(rng, rows, columns, transposed):
    x = rng.standard_normal((columns, rows) if transposed else (rows, columns)).astype(BF16)
    return x.T if transposed else x


def check(got, a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    want, size = a @ b, np.abs(a) @ np.abs(b)
    digit = 2.0**-8 if got.dtype == BF16 else 0  # one rounding to 16 bits
    assert (np.abs(got.astype(np.float64) - want) <= digit * np.abs(want) + 2e-6 * size).all()


@needs_them
@pytest.mark.parametrize("m, k, n", SIZES)
@pytest.mark.parametrize("transposed", ["nn", "nt", "tn", "tt"])
def test_eager(m, k, n, transposed, rng, guarded):
    product = narrow.Eager()
    a, b = drawn(rng, m, k, transposed[0] == "t"), drawn(rng, k, n, transposed[1] == "t")

    def empty(shape, dtype):
        return guarded.array(np.full(shape, 7, dtype))

    for at_end in (True, False):
        x, y = (guarded.array(v.T, at_end).T if t == "t" else guarded.array(v, at_end)
                for v, t in zip((a, b), transposed, strict=True))  # fmt: skip
        out = product(x, y, empty)
        assert out.dtype == np.float32
        check(out, a, b)


@needs_them
def test_what_is_not_taken(rng):
    product = narrow.Eager()
    x = drawn(rng, 128, 128, False)
    assert product(x[:, ::2], x[:64], np.empty) is None  # contiguous nowhere
    assert product(x[:, :64], x[:64], np.empty) is None
    assert product(drawn(rng, 8, 128, False), x, np.empty) is None  # too few rows
    assert product(x, x[:64], np.empty) is None  # shapes that do not fit


@needs_them
def test_special_values(rng):
    product = narrow.Eager()
    a, b = drawn(rng, 64, 64, False), drawn(rng, 64, 64, False)
    a[3, 5], a[7, 7], a[9, 1] = np.inf, np.nan, -np.inf
    b[1, 2] = 0
    out = product(a, b, np.empty)
    with np.errstate(all="ignore"):
        want = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(want))
    np.testing.assert_array_equal(np.isposinf(out), np.isposinf(want))
    np.testing.assert_array_equal(np.isneginf(out), np.isneginf(want))


@needs_them
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    a, b = drawn(rng, 300, 257, False), drawn(rng, 257, 401, True)
    check(narrow.Eager()(a, b, np.empty), a, b)


@needs_them
@pytest.mark.parametrize("lead, stretched", [((), False), ((3,), False), ((2, 3), False), ((4,), True)], ids=str)
def test_in_programs(lead, stretched, rng):
    """Batched, with transposed and stretched operands, and with loops before and behind."""
    b = Builder("product")
    x = b.input((*lead, 40, 200), BF16)
    y = b.input(((1,) if stretched else lead) + (70, 200), BF16)
    bias = b.input((70,), BF16)
    z = xp.matmul(x * 2.0, xp.matrix_transpose(y)) + bias
    graph = b.build([z])
    inputs = [rng.standard_normal(v.shape).astype(BF16) for v in (x, y, bias)]
    program = compile(graph)
    assert not program.islands and "agog_narrow_product" in program.explain()
    (got,), want = program(inputs), graph.run(*inputs)
    size = np.abs(want.astype(np.float32)) + 30
    assert got.dtype == BF16 and got.shape == want.shape
    assert (np.abs(got.astype(np.float32) - want.astype(np.float32)) <= 2.0**-7 * size).all()
    for target in (targets.AVX2, targets.SSE2):
        assert "agog_narrow_product" not in compile(graph, target).explain()


@pytest.mark.parametrize("name, instruction", [("amx", "tdpbf16ps"), ("dots", "vdpbf16ps")])
def test_code(name, instruction):
    assert instruction in jit.assembly(narrow.build(name))
