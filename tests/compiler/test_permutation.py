"""Random permutations natively: the order of a stable sort of the words."""

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.array import large
from agog.compiler import jit, targets
from agog.compiler import permutation as compiled
from agog.ops import draws

KEY = np.array([77, 0xFFFFFFFF], np.uint32)
SIZES = [0, 1, 2, 3, 4, 5, 31, 48, 49, 50, 1000, 1003, 8191, 8192, 8193, 20_001]


def sorted_words(n):
    return np.argsort(draws.words(KEY, 0, n), kind="stable")


@pytest.mark.parametrize("bits", [None, 0, 1, 5, 10])
@pytest.mark.parametrize("n", SIZES)
def test_order_is_that_of_a_stable_sort(n, bits, target):
    got = compiled.permutation(target)(KEY, n, bits)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, sorted_words(n))


@pytest.mark.parametrize("bits", [0, 6, 16])
@pytest.mark.parametrize("n", [49, 3000, 20_001])
def test_words_that_begin_alike_are_compared_whole(n, bits):
    """As many are where there are hundreds of millions: here 16 bits of each are kept."""
    np.testing.assert_array_equal(compiled.permutation()(KEY, n, bits, index=48), sorted_words(n))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    np.testing.assert_array_equal(compiled.permutation()(KEY, 300_007), sorted_words(300_007))


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("n, bits", [(1, 0), (6, 1), (77, 0), (1001, 3)])
def test_nothing_but_the_results_is_written(n, bits, at_end, target, guarded):
    out, work = guarded.array(np.zeros(n, np.int64), at_end), guarded.array(np.zeros(n, np.uint64), at_end)
    counts, key = guarded.array(np.zeros(8 << bits, np.int64), at_end), guarded.array(KEY, at_end)
    compiled.permutation(target).native(out, work, counts, key, bits, 1023)
    np.testing.assert_array_equal(out, sorted_words(n))


def test_what_does_not_fit_changes_nothing():
    out, work, counts = np.zeros(9, np.int64), np.zeros(9, np.uint64), np.zeros(8, np.int64)
    native = compiled.permutation().native
    for arguments in ((out, work[:8].copy(), counts, KEY, 0, 15), (out, work, counts, KEY, 1, 15),
                      (out, work, counts, KEY, -1, 15), (out, work, counts, KEY, 64, 15),
                      (out, work, counts, KEY[:1].copy(), 0, 15), (out, work, counts, KEY, 0, 7),
                      (out, work, counts, KEY, 0, 14), (out, work, counts, KEY, 0, -1),
                      (out.view(np.uint8)[:3].copy(), work.view(np.uint8)[:3].copy(), counts, KEY, 0, 15)):
        with pytest.raises(ValueError, match="permutation takes"):
            native(*arguments)
    assert not out.any() and not work.any()


def test_eager_code_takes_it(monkeypatch):
    asked = []

    def kernel(key, n):
        asked.append(n)
        return compiled.permutation()(key, n)

    want = [ag.random.permutation(n, key=ag.random.key(3)).numpy() for n in (9, 70_000)]
    monkeypatch.setitem(large.kernels, "permutation", kernel)
    for n, order in zip((9, 70_000), want, strict=True):
        np.testing.assert_array_equal(ag.random.permutation(n, key=ag.random.key(3)).numpy(), order)
    x = ag.random.permutation(ag.arange(50), key=ag.random.key(4))
    assert sorted(x.tolist()) == list(range(50)) and asked == [9, 70_000, 50]
    ag.random.permutation(12)
    assert asked[-1] == 12


@pytest.mark.parametrize("target", [targets.SSE2, targets.AVX2, targets.NEON], ids=lambda t: t.machine)
def test_other_machines_assemble(target):
    assert jit.object_code(str(compiled.build(target)), target)[:4] == b"\x7fELF"
