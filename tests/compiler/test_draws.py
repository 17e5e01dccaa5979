"""Native draws for eager code: the numbers of NumPy to the bit, and the generator advanced as it advances."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import draws as compiled
from agog.compiler import jit, targets
from agog.compiler.permutation import permutation
from agog.ops import draws
from agog.random import Generator

KEY = np.array([0x89ABCDEF, 0xFEDCBA98], np.uint32)
LAWS = {"uniform": draws.UNIFORM, "normal": draws.NORMAL, "exponential": draws.EXPONENTIAL}
SIZES = [0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 63, 64, 129, 1000, 1025]
BLOCK = draws.BLOCK


@pytest.fixture
def in_numpy(monkeypatch):
    monkeypatch.setattr(large, "draws", None)
    monkeypatch.setattr(large, "ask_draws", lambda work: None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAWS)
def test_laws(name, dtype, target, in_numpy):
    dtype, native = np.dtype(dtype), compiled.draws(target)
    for n in SIZES:
        key = draws.array_of(KEY.astype(np.int64) if n % 2 else KEY)
        got = LAWS[name].drawn(native, draws.NOTHING, key, (n,), dtype)
        want = LAWS[name](KEY, (n,), dtype)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAWS)
def test_large_ones_by_any_number_of_threads(name, dtype, threads, in_numpy, monkeypatch):
    """Pairs begin anew with each block of the stream."""
    monkeypatch.setattr(config, "num_threads", threads)
    for n in (BLOCK, 2 * BLOCK - 1, 2 * BLOCK + 3, 5 * BLOCK + 1):
        got = LAWS[name].drawn(compiled.draws(), draws.NOTHING, KEY, (n,), np.dtype(dtype))
        np.testing.assert_array_equal(got, LAWS[name](KEY, (n,), np.dtype(dtype)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_masks(p, dtype, target, in_numpy):
    for n in [*SIZES, 100_001]:
        got = draws.mask_drawn(compiled.draws(target), draws.NOTHING, KEY, (n,), np.dtype(dtype), p)
        np.testing.assert_array_equal(got, draws.mask(KEY, (n,), p, np.dtype(dtype)))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "uint64"])
@pytest.mark.parametrize("low, high", [(0, 1), (0, 100), (7, 107), (-5, 251), (0, 1 << 31), (-(1 << 31), 1 << 31),
                                       (1 << 60, (1 << 60) + 3), (0, 3 << 30)])
def test_whole_numbers(low, high, dtype, target, in_numpy):
    """Three quarters of 32 bits reject a quarter of the words: then NumPy draws."""
    info = np.iinfo(dtype)
    if low < info.min or high > info.max + 1:
        return
    refused = 0
    for n in [*SIZES, 100_001]:
        want = ag.random_integers(KEY, low, high, shape=(n,), dtype=dtype).numpy()
        got = draws.integers_drawn(compiled.draws(target), draws.NOTHING, KEY, (n,), np.dtype(dtype), low, high)
        refused += got is None
        if got is not None:
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    assert refused == (0 if high - low in (1, 256, 1 << 31, 1 << 32) else refused)
    assert refused < 3 or high == 3 << 30


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("kind", draws.KINDS)
def test_nothing_but_the_result_is_written(kind, at_end, target, guarded):
    dtype = compiled._KINDS[kind].dtype
    for n in (2, 6, 38, 130):
        out = guarded.array(np.zeros(n, dtype), at_end)
        following, key = guarded.array(np.zeros(2, np.uint32), at_end), guarded.array(KEY, at_end)
        compiled.draws(target).fill(out, following, key, draws.table(kind, 1000, 2.0))
        state, word = draws.advance(KEY)
        assert following.tolist() == state.tolist()
        want = np.zeros(n, dtype)
        compiled.draws(target).fill(want, draws.NOTHING, draws.key_of(word), draws.table(kind, 1000, 2.0))
        np.testing.assert_array_equal(out, want)
        if kind == "bits":
            np.testing.assert_array_equal(out, draws.words(word, 0, n))


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 31, 32, 33, 100, 255])
def test_pairs_become_normal_numbers(size, dtype, at_end, target, guarded, rng):
    n = -(-size // 2)
    logs, cosines, sines = -rng.random(n).astype(dtype), *rng.normal(size=(2, n)).astype(dtype)
    out = guarded.array(np.concatenate([cosines, np.zeros(size - n, dtype)]), at_end)
    compiled.draws(target).normal[np.dtype(dtype)](out, guarded.array(np.concatenate([logs, sines]), at_end))
    radius = np.sqrt(logs * np.array(-2, dtype))
    np.testing.assert_array_equal(out, np.concatenate([cosines * radius, (sines * radius)[:size - n]]))


def test_what_does_not_fit_changes_nothing():
    out, state, told = np.ones(3, np.float32), np.zeros(2, np.uint32), draws.table("uniform32")
    fill = compiled.draws().fill
    for arguments in ((out, np.zeros(1, np.uint32), KEY, told), (out, state, KEY[:1].copy(), told),
                      (out, state, KEY, told[:1].copy()), (out.view(np.uint8)[:10].copy(), state, KEY, told),
                      (out, state, KEY, draws.table("pairs32")), (out, state, KEY, np.array([len(draws.KINDS), 0, 0])),
                      (out, state, KEY, np.array([-1, 0, 0]))):
        with pytest.raises(ValueError, match="takes"):
            fill(*arguments)
    for n, m in ((4, 6), (5, 3), (1, 4)):
        with pytest.raises(ValueError, match="takes"):
            compiled.draws().normal[out.dtype](np.ones(n, np.float32), np.ones(m, np.float32))
    assert (out == 1).all() and (state == 0).all()


CALLS = {
    "normal": lambda g: ag.random.normal((3, 5), generator=g),
    "normal, scaled": lambda g: ag.random.normal(7, 1.0, 2.0, dtype="float64", generator=g),
    "uniform": lambda g: ag.random.uniform((), -1.0, 3.0, generator=g),
    "half": lambda g: ag.random.uniform(9, dtype="float16", generator=g),
    "exponential": lambda g: ag.random.exponential((2, 2), 3.0, generator=g),
    "dropout": lambda g: ag.random.dropout(ag.ones(5, 5), 0.5, generator=g),
    "dropout of doubles": lambda g: ag.random.dropout(ag.ones(5, dtype="float64"), 0.1, generator=g),
    "dropout of halves": lambda g: ag.random.dropout(ag.ones(5, dtype="float16"), 0.1, generator=g),
    "large": lambda g: ag.random.normal((1 << 18) + 1, generator=g),
    "none": lambda g: ag.random.normal((0, 3), generator=g),
    "integers": lambda g: ag.random.integers(-3, 10, (4, 4), generator=g),
    "integers of 32 bits": lambda g: ag.random.integers(100, shape=9, dtype="int32", generator=g),
    "integers, some drawn again": lambda g: ag.random.integers(-(1 << 31), 1 << 30, (40,), generator=g),
    "integers of 8 bits": lambda g: ag.random.integers(100, shape=9, dtype="uint8", generator=g),
    "integers far off": lambda g: ag.random.integers(1 << 62, (1 << 62) + 5, (9,), generator=g),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_generator_draws_the_same_natively(name, monkeypatch):
    got = []
    for native in (None, compiled.draws()):
        monkeypatch.setattr(large, "draws", native)
        monkeypatch.setattr(large, "ask_draws", lambda work: None)
        g = Generator(77)
        got.append([CALLS[name](g).numpy() for _ in range(3)] + [g.get_state().numpy()])
    for one, two in zip(*got, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        np.testing.assert_array_equal(one, two)


def test_keys_may_lie_anyhow(monkeypatch):
    keys = ag.asarray(np.array([[1, 9], [2, 9]], np.uint32)).T[0]
    calls = [lambda k: ag.random.normal((5,), key=k), lambda k: ag.random.dropout(ag.ones(9), 0.5, key=k),
             lambda k: ag.random.permutation(9, key=k)]
    want = [fn(ag.asarray(np.array([1, 2], np.uint32))).numpy() for fn in calls]
    monkeypatch.setattr(large, "draws", compiled.draws())
    monkeypatch.setitem(large.kernels, "permutation", permutation())
    for fn, x in zip(calls, want, strict=True):
        np.testing.assert_array_equal(fn(keys).numpy(), x)
    g = Generator(0)
    g.state = keys
    assert ag.random.normal((5,), generator=g).shape == (5,)


def test_a_native_draw_is_one_call(monkeypatch):
    """Of a few numbers: neither keys nor bits are made on their own."""
    monkeypatch.setattr(large, "draws", compiled.draws())
    for name in ("advance", "words", "key_of"):
        monkeypatch.setattr(draws, name, None)
        monkeypatch.setattr("agog.random." + name, None, raising=False)
    g = Generator(5)
    for name in ("normal", "uniform", "exponential", "dropout", "none", "integers", "integers of 32 bits"):
        CALLS[name](g)


def test_other_ways_to_a_key_are_kept_natively(monkeypatch):
    monkeypatch.setattr(large, "draws", compiled.draws())
    g = Generator(5)
    x = ag.vmap(lambda x: x + ag.random.normal((2,), generator=g))(ag.zeros(4, 2)).numpy()
    assert len(np.unique(x)) == 8  # other numbers for each example
    leaf = ag.ones(3, requires_grad=True)
    ag.checkpoint(lambda v: ag.sum(v * v * ag.random.normal((3,), generator=g)))(leaf).backward()  # draws them again
    state = g.get_state()
    with pytest.raises(ag.errors.ShapeError, match="negative"):
        ag.random.normal((2, -3), generator=g)
    assert g.get_state().tolist() != state.tolist()  # as without native draws: the key comes first


@pytest.mark.parametrize("target", [targets.SSE2, targets.AVX2, targets.NEON], ids=lambda t: t.machine)
def test_other_machines_assemble(target):
    for module in (compiled.build(target), *(compiled.build_normal(d, target) for d in ("float32", "float64"))):
        assert jit.object_code(str(module), target)[:4] == b"\x7fELF"
