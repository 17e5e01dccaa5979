"""Random rows in native code: bits, uniform numbers and masks bit for bit those of eager code, others within ulps."""

import ml_dtypes
import numpy as np
import pytest

import agog as ag
import agog.ops.structure  # noqa: F401  (the rows' loops)
from agog import config, nn, optim
from agog.compiler import jit, philox, targets
from agog.compiler.program import compile
from agog.graph.build import Builder
from agog.ops.blocks import BLOCK
from agog.ops.row import TABLE

FLOATS = [np.dtype(d) for d in ("float32", "float64", "float16", ml_dtypes.bfloat16)]
DIGIT = dict(zip(FLOATS, (2.0**-23, 2.0**-52, 2.0**-10, 2.0**-7), strict=True))
floats = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def both(name, statics, target, *inputs):
    """What the row gives natively and eagerly."""
    b = Builder(name)
    symbols = [b.input(x.shape, x.dtype) for x in inputs]
    program = compile(b.build([b.symbol(v) for v in b.add(TABLE[name], [s.value for s in symbols], statics)]), target)
    assert not program.islands
    (got,), want = program(list(inputs)), TABLE[name].raw(*inputs, *statics)
    assert got.shape == want.shape and got.dtype == want.dtype
    return got, want


def same(got, want):
    np.testing.assert_array_equal(got.view(f"u{got.itemsize}"), want.view(f"u{want.itemsize}"))


@pytest.fixture
def key(rng):
    return rng.integers(0, 1 << 32, 2, dtype=np.uint32)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("n", [0, 1, 5, 33, 1009, 3 * BLOCK + 1])
def test_bits(n, dtype, target, key):
    same(*both("random_bits", ((n,), np.dtype(dtype)), target, key))


@floats
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (1009,), (BLOCK, 3)], ids=str)
def test_uniform_numbers_and_masks(shape, dtype, target, key):
    same(*both("random_uniform", (shape, dtype), target, key))
    for p in (0.0, 0.1, 0.5, 1.0):
        same(*both("_dropout_mask", (shape, p, dtype), target, key))


@floats
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 3), (1000,), (BLOCK,), (2 * BLOCK,), (4 * BLOCK + 7,)], ids=str)
def test_normal_and_exponential(shape, dtype, target, key):
    for name in ("random_normal", "random_exponential"):
        got, want = (x.astype(np.float64) for x in both(name, (shape, dtype), target, key))
        assert (np.abs(got - want) <= 4 * DIGIT[dtype] * (np.abs(want) + 1e-3)).all()


def test_keys(target, key):
    for n in (0, 1, 2, 7, 1000):
        same(*both("random_split", (n,), target, key))
    for data in (np.array(3), np.array(-1), np.array(1 << 63, np.uint64), np.array(5, np.int8)):
        same(*both("random_fold_in", (), target, key, data))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_matter(threads, key, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    same(*both("random_bits", ((1 << 20,), np.dtype("uint32")), targets.host(), key))


def test_code_for_arm():
    assert jit.object_code(str(philox.build(targets.NEON)), targets.NEON)[:4] == b"\x7fELF"


def test_training_with_dropout_and_noise():
    """A step that draws is one native call, and its losses are those of eager code."""
    losses = []
    for staged in (False, True):
        ag.random.seed(3)
        model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.4), nn.Linear(32, 4))
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        x, y = ag.random.normal((9, 12)), ag.asarray(np.arange(9) % 4)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            noise = ag.random.normal(x.shape) * 0.1 + ag.random.uniform(x.shape) * 0.1
            loss = nn.functional.cross_entropy(model(x + noise), y)
            loss.backward()
            optimizer.step()
            return loss

        step = ag.function(step, strict=True) if staged else step
        losses.append([float(step(x, y)) for _ in range(8)])
        after = ag.random.uniform((3,)).numpy()  # the state moved on as far
        losses[-1].extend(after)
        if staged:
            assert "1 native calls, 0 islands" in str(step.explain(x, y))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert len(set(losses[0])) == 11
