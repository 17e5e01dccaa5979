"""16-bit floats in kernels: conversions bit for bit, rows over every number there is, and what memory they touch."""

import importlib.util
import pathlib

import ml_dtypes
import numpy as np
import pytest

import agog.ops.structure  # noqa: F401  (the rows' loops)
from agog.compiler import jit, targets
from agog.compiler.elementwise import build, compile_elementwise
from agog.compiler.program import compile
from agog.compiler.rowprograms import PROGRAMS, compile_row_program
from agog.errors import AgogError
from agog.graph.build import Builder, xp
from agog.ops.row import TABLE

_spec = importlib.util.spec_from_file_location("_rows", pathlib.Path(__file__).parent / "test_program_rows.py")
_rows = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rows)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
HALVES = [np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)]
EVERY = np.arange(1 << 16, dtype=np.uint16)
half = pytest.mark.parametrize("half", HALVES, ids=str)


def same(got, want):
    """Equal bit for bit, but for what a nan holds."""
    assert got.dtype == want.dtype
    word = f"u{want.itemsize}"
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(word)[~nan], want.view(word)[~nan])


def hard(half, dtype, rng):
    """Numbers that are hard to round: between two neighbours, and next to that; and any bits."""
    x = EVERY.view(half).astype(np.float64)
    between = ((x[:-1] + x[1:]) / 2).astype(dtype)
    near = [between, np.nextafter(between, dtype.type(np.inf)), np.nextafter(between, dtype.type(-np.inf))]
    bits = rng.integers(0, 1 << 32, (1 << 17) * dtype.itemsize // 4, dtype=np.uint32).view(dtype)
    return np.concatenate([*near, bits, np.array([65504, 65519.99, 65520, 3.4e38, -3.4e38, 1e-46], dtype)])


def cast(x, dtype, target):
    kernel = compile_elementwise("cast", lambda k, x: k.cast(x, dtype.name), [x.dtype.name], [dtype.name], None, target)
    out = np.empty(x.shape, dtype)
    kernel([out], [x])
    return out


@half
def test_casts_to_and_from_floats(half, target, rng):
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        x = EVERY.view(half)
        same(cast(x, dtype, target), x.astype(dtype))
        x = hard(half, dtype, rng)
        same(cast(x, half, target), x.astype(half))


@half
def test_rounding_in_registers(half, target, rng):
    x = hard(half, np.dtype("float32"), rng)
    kernel = compile_elementwise("r", lambda k, x: k.rounded(x, half.name), ["float32"], ["float32"], None, target)
    out = np.empty(x.shape, np.float32)
    kernel([out], [x])
    same(out, x.astype(half).astype(np.float32))


@half
@pytest.mark.parametrize("name", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_casts_to_and_from_integers(half, name, target, rng):
    dtype = np.dtype(name)
    words = rng.integers(0, 1 << 63, 2000, dtype=np.int64) * rng.choice([-1, 1], 2000)
    x = np.concatenate([words >> s for s in range(0, 64, 5)]).astype(dtype)
    np.testing.assert_array_equal(cast(x, half, target).view(np.uint16), x.astype(half).view(np.uint16))
    y = EVERY.view(half)
    if name != "bool":
        info = np.iinfo(dtype)
        wide = y.astype(np.float64)
        y = y[(wide >= info.min) & (wide < float(info.max))]
    np.testing.assert_array_equal(cast(y, dtype, target), y.astype(dtype))


@half
@pytest.mark.parametrize("target", [targets.NEON, targets.SSE2], ids=lambda t: t.name)
def test_no_target_calls_a_library_to_convert(half, target):
    fn = lambda k, x, y: (x * y, k.cast(x, "float64"), k.cast(k.cast(x, "float64"), half.name))
    module, _ = build(fn, [half.name] * 2, [half.name, "float64", half.name], None, target)
    text = jit.assembly(module)
    assert "__trunc" not in text and "__extend" not in text and "__gnu_" not in text


#: The largest number of steps from NumPy, where the result is not the nearest: what a formula in float32 loses.
_APART = {"_gelu_tanh": 4}
_ELEMENTWISE = [
    op.name for op in TABLE.values()
    if op.elementwise and op.lower is not None and not op.variadic and not op.statics and "f" in op.takes
]  # fmt: skip


@half
@pytest.mark.parametrize("name", _ELEMENTWISE)
def test_rows_over_every_number(name, half, rng):
    """One input: all 65536 of them. More: any bits, ordinary numbers, and special ones in every combination."""
    op = TABLE[name]
    if len(op.inputs) == 1:
        inputs = [EVERY.view(half)]
    else:
        special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -2, 0.5, 3, 1e-7, -1e-7], half)
        inputs = []
        for s in np.meshgrid(*[special] * len(op.inputs)):
            any_bits = rng.integers(0, 1 << 16, 20000, dtype=np.uint16).view(half)
            ordinary = (rng.standard_normal(20000) * 4).astype(half)
            inputs.append(np.concatenate([s.ravel(), any_bits, ordinary]))
    inputs = [x if n in op.promotes else x > 0 for n, x in zip(op.inputs, inputs, strict=True)]
    try:
        want = np.asarray(op.raw(*inputs))
    except (TypeError, AgogError):
        return  # NumPy does not have it for 16 bits
    b = Builder(name)
    symbols = [b.input(x.shape, x.dtype) for x in inputs]
    (out,) = b.add(op, [s.value for s in symbols], ())
    program = compile(b.build([b.symbol(out)]))
    assert not program.islands
    (got,) = program(inputs)
    assert got.dtype == want.dtype
    if want.dtype != half:
        np.testing.assert_array_equal(got, want)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    # where NumPy's float32 formula has underflowed, or cancelled, ours need not
    tiny = np.abs(want.astype(np.float32) - got.astype(np.float32)) < 1e-6
    apart = np.where(tiny, 0, _rows.steps_apart(got, want))
    assert apart.max() <= _APART.get(name, 1)
    assert (apart > 0).mean() < 1e-3  # and nearly always the same


@half
def test_arithmetic_is_numpy_s_bit_for_bit(half, target, rng):
    x = rng.integers(0, 1 << 16, (3, 4001), dtype=np.uint16).view(half)
    b = Builder("chain")
    p, q, r = (b.input((4001,), half) for _ in range(3))
    chain = xp.sqrt(xp.abs(p * q + r)) / (q - r) - xp.maximum(p, r) * 0.3
    (got,) = compile(b.build([chain]), target)(list(x))
    with np.errstate(all="ignore"):
        p, q, r = x
        want = np.sqrt(np.abs(p * q + r)) / (q - r) - np.maximum(p, r) * np.array(0.3, half)
    same(got, want)


@half
def test_chains_with_reductions_and_views(half, target, rng):
    """Softmax written out, over a transposed and a sliced array: every step rounds as it does eagerly."""
    for rows, columns in ((1, 1), (3, 17), (5, 64), (7, 131), (67, 2), (16, 16)):
        b = Builder("rows")
        x, y = b.input((columns, rows), half), b.input((rows, 2 * columns), half)
        v = xp.permute_dims(x, (1, 0)) * 2.0 - y[:, ::2]
        top = xp.max(v, axis=1, keepdims=True)
        e = xp.exp(v - top)
        out = e / xp.sum(e, axis=1, keepdims=True)
        outs = [out, xp.mean(v, axis=0), xp.sum(out), xp.take(out, np.array([0, columns - 1, 0]), axis=1)]
        graph = b.build(outs)
        inputs = [rng.standard_normal(s.shape).astype(half) for s in (x, y)]
        program = compile(graph, target)
        assert not program.islands
        for got, want in zip(program(inputs), graph.run(*inputs), strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            assert _rows.steps_apart(got, want).max() <= 2
            assert (got == want).mean() > 0.9


@half
def test_elementwise_touches_no_other_memory(half, target, guarded, rng):
    kernel = compile_elementwise("f", lambda k, x, y: x * y, [half.name, half.name], [half.name], None, target)
    for n in (0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 127, 521):
        x, y = rng.standard_normal((2, n)).astype(half)
        for at_end in (True, False):
            out = guarded.array(np.zeros(n, half), at_end)
            kernel([out], [guarded.array(a, at_end) for a in (x, y)])
            same(out, x * y)


@half
@pytest.mark.parametrize("name", sorted(PROGRAMS.keys() - {n for n in PROGRAMS if "backward" in n}
                                        - {"column_sum", "cross_entropy"}))
def test_row_programs(name, half, target, rng, guarded):
    kernel = compile_row_program(name, half.name, target)
    _, out_kinds, in_kinds = PROGRAMS[name]
    for rows, d in ((1, 1), (3, 5), (7, 16), (2, 17), (3, 131), (1, 2001)):
        shapes = {"row": (rows, d), "column": (rows,), "vector": (d,), "scalar": ()}
        wide = np.dtype("float32") if "norm" in name else half
        kinds = {"row": half, "column": half, "vector": half, "scalar": wide}
        ins = [rng.random(shapes[kind]).astype(kinds[kind]) for kind in in_kinds]
        outs = [guarded.array(np.zeros(shapes[kind], kinds[kind])) for kind in out_kinds]
        kernel(outs, [guarded.array(x) for x in ins])
        exact = [np.zeros(o.shape, np.float32) for o in outs]
        compile_row_program(name, "float32", target)(exact, [x.astype(np.float32) for x in ins])
        for out, e in zip(outs, exact, strict=True):
            if out.dtype == half:
                assert _rows.steps_apart(out, e.astype(half)).max() <= 1
            else:
                np.testing.assert_allclose(out, e, 1e-5)
