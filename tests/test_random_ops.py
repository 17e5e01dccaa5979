"""Random rows: known answers of the generator, distributions by Kolmogorov-Smirnov, determinism, errors."""

import numpy as np
import pytest
import scipy.stats as st

import agog as ag
from agog import config
from agog.dispatch import tensors
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from agog.ops import random as module
from agog.ops.namespaces import raw

KEY = np.array([123, 456], np.uint32)
N = 20000


def ks(x, distribution, *args):
    """p-value of x against a SciPy distribution."""
    return st.kstest(np.asarray(x, np.float64).ravel(), distribution, args).pvalue


def test_known_answers():
    """The vectors of Random123's kat_vectors file, philox4x64-10 with key 0 and counter 0; word 1 is the low half."""
    zero = np.zeros(2, np.uint32)
    assert [hex(w) for w in module._words(zero, 0, 4)] == [
        "0x16554d9eca36314c", "0xdb20fe9d672d0fdc", "0xd7e772cee186176b", "0x7e68b68aec7ba23b"]
    bits = raw.random_bits(zero, (3,), np.dtype("uint64"))
    assert hex(bits[2]) == "0xd7e772cee186176b"


def test_words_are_addressed_by_position():
    whole = module._words(KEY, 0, 100)
    np.testing.assert_array_equal(module._words(KEY, 40, 20), whole[40:60])
    assert len({*whole, *module._words(KEY, 0, 100, module.SPLIT), *module._words(KEY, 0, 100, number=1)}) == 300


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name, law", [("random_uniform", "uniform"), ("random_normal", "norm"),
                                       ("random_exponential", "expon"), ("random_gumbel", "gumbel_r")])
def test_continuous_laws(name, law, dtype):
    draw = getattr(ag, name)
    x = draw(KEY, shape=(N,), dtype=dtype)
    assert x.dtype == dtype and x.shape == (N,)
    assert ks(x, law) > 0.01
    assert np.isfinite(x.numpy()).all()
    assert abs(np.corrcoef(x.numpy()[:-1], x.numpy()[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(x.numpy()[:N // 2], x.numpy()[N // 2:])[0, 1]) < 0.03


def test_default_and_half_dtypes():
    assert ag.random_uniform(KEY, shape=3).dtype == "float32"
    h = ag.random_normal(KEY, shape=(4, 5), dtype="float16")
    assert h.dtype == "float16" and h.shape == (4, 5)
    assert ag.random_uniform(KEY).shape == ()
    assert ag.random_uniform(KEY, shape=(0, 3)).shape == (0, 3)


def test_uniform_stays_below_one_and_tails_are_there():
    x = raw.random_uniform(KEY, (1 << 20,), np.dtype("float32"))
    assert 0 <= x.min() < 1e-5 and 1 - 1e-5 < x.max() < 1
    assert np.abs(raw.random_normal(KEY, (1 << 20,), np.dtype("float32"))).max() > 4.5


@pytest.mark.parametrize("name", ["random_uniform", "random_normal", "random_exponential"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_do_not_matter(name, dtype):
    old = config.num_threads
    try:
        config.set_num_threads(1)
        one = getattr(raw, name)(KEY, (300_001,), np.dtype(dtype))
        config.set_num_threads(3)
        three = getattr(raw, name)(KEY, (300_001,), np.dtype(dtype))
    finally:
        config.set_num_threads(old)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("low, high, dtype", [(0, 7, "int64"), (-5, 6, "int32"), (0, 256, "uint8"), (0, 1, "int64"),
                                              (-2 ** 63, 2 ** 63, "int64"), (0, 2 ** 64, "uint64"),
                                              (10, 3 * 2 ** 40, "int64"), (0, 3 * 2 ** 30, "int64")])
def test_integers(low, high, dtype):
    x = ag.random_integers(KEY, low, high, shape=(N,), dtype=dtype).numpy()
    assert x.dtype == dtype and low <= int(x.min()) and int(x.max()) < high
    if high - low < 300:
        counts = np.bincount(x.astype(np.int64) - low, minlength=high - low)
        assert st.chisquare(counts).pvalue > 0.01 if high - low > 1 else counts == [N]
    else:
        assert ks((x.astype(np.float64) - low) / (high - low), "uniform") > 0.01


def test_integers_rejection_is_unbiased():
    """With 3/4 of 2**32 values a quarter is rejected: a biased method favours some residues visibly."""
    span = 3 * 2 ** 30
    x = ag.random_integers(KEY, 0, span, shape=(100_000,)).numpy()
    assert st.chisquare(np.bincount(x * 9 // span, minlength=9)).pvalue > 0.01
    assert st.chisquare(np.bincount(x % 3, minlength=3)).pvalue > 0.01


def test_bernoulli_and_categorical():
    x = ag.random_bernoulli(KEY, 0.3, shape=(N,)).numpy()
    assert x.dtype == bool and abs(x.mean() - 0.3) < 0.01
    p = ag.asarray(np.array([0.0, 1.0, 0.5]))
    many = np.stack([ag.random_bernoulli(ag.random_fold_in(KEY, i), p).numpy() for i in range(200)])
    assert not many[:, 0].any() and many[:, 1].all() and 0.35 < many[:, 2].mean() < 0.65
    logits = np.log(np.array([0.5, 0.2, 0.3], np.float32))
    c = ag.random_categorical(KEY, logits, shape=(N,)).numpy()
    assert c.dtype == np.int64
    assert st.chisquare(np.bincount(c), N * np.array([0.5, 0.2, 0.3])).pvalue > 0.01
    assert ag.random_categorical(KEY, np.zeros((4, 5), np.float32)).shape == (4,)
    assert ag.random_categorical(KEY, np.zeros((4, 5), np.float32), axis=0).shape == (5,)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 3.0, 50.0])
def test_gamma(alpha):
    a = ag.asarray(np.full(N, alpha))
    assert ks(ag.random_gamma(KEY, a, dtype="float64"), "gamma", alpha) > 0.01
    assert ag.random_gamma(KEY, a).dtype == "float32"


def test_beta_and_dirichlet():
    a, b = ag.asarray(np.array(0.5)), ag.asarray(np.array(2.0))
    assert ks(ag.random_beta(KEY, a, b, shape=(N,), dtype="float64"), "beta", 0.5, 2.0) > 0.01
    d = ag.random_dirichlet(KEY, np.array([1.0, 2.0, 3.0]), shape=(N,), dtype="float64").numpy()
    np.testing.assert_allclose(d.sum(-1), 1)
    assert ks(d[:, 0], "beta", 1, 5) > 0.01 and ks(d[:, 2], "beta", 3, 3) > 0.01


@pytest.mark.parametrize("rate", [0.1, 3.0, 9.9, 10.0, 50.0, 1e6])
def test_poisson(rate):
    x = ag.random_poisson(KEY, np.full(N, rate)).numpy()
    assert x.dtype == np.int64 and x.min() >= 0
    assert abs(x.mean() - rate) < 5 * np.sqrt(rate / N) and 0.95 < x.var() / rate < 1.05
    low, high = (int(st.poisson.ppf(q, rate)) for q in (0.02, 0.98))
    if high - low > 50:
        return
    seen = np.bincount(np.clip(x, low, high) - low, minlength=high - low + 1)
    p = st.poisson.pmf(np.arange(low, high + 1), rate)
    p[0], p[-1] = st.poisson.cdf(low, rate), st.poisson.sf(high - 1, rate)
    assert seen.size == 1 or st.chisquare(seen, N * p / p.sum()).pvalue > 0.01


def test_poisson_of_zero_and_shape():
    assert (ag.random_poisson(KEY, np.zeros(3)).numpy() == 0).all()
    assert ag.random_poisson(KEY, np.array(2.0), shape=(3, 2), dtype="int32").dtype == "int32"


@pytest.mark.parametrize("low, high", [(-2, 2), (1, 3), (-8, -6), (6, 9), (-1, 10)])
def test_truncated_normal(low, high):
    x = ag.random_truncated_normal(KEY, low, high, shape=(N,), dtype="float64")
    assert low <= float(x.min()) and float(x.max()) <= high
    assert ks(x, st.truncnorm(low, high).cdf) > 0.01


DRAWS = {
    "uniform": (lambda key, **kw: ag.random.uniform((2, 3), **kw), lambda key: ag.random_uniform(key, shape=(2, 3))),
    "normal": (lambda key, **kw: ag.random.normal((5,), **kw), lambda key: ag.random_normal(key, shape=(5,))),
    "doubles": (lambda key, **kw: ag.random.normal(3, dtype="float64", **kw),
                lambda key: ag.random_normal(key, shape=3, dtype="float64")),
    "exponential": (lambda key, **kw: ag.random.exponential((4,), **kw),
                    lambda key: ag.random_exponential(key, shape=(4,))),
    "integers": (lambda key, **kw: ag.random.integers(-5, 50, (7,), **kw),
                 lambda key: ag.random_integers(key, -5, 50, shape=(7,))),
    "permutation": (lambda key, **kw: ag.random.permutation(9, **kw), lambda key: ag.random_permutation(key, 9)),
    "dropout": (lambda key, **kw: ag.random.dropout(ag.ones(3, 5), 0.25, **kw),
                lambda key: tensors.dropout(ag.ones(3, 5), 0.25, key)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_the_key_that_the_generator_gives_next(name):
    """Where nobody looks, no key is made: the numbers and the state after them are the same as with one."""
    drawn, of_key = DRAWS[name]
    one, two = ag.random.Generator(2 ** 63 + 12345), ag.random.Generator(2 ** 63 + 12345)
    for _ in range(3):
        got, want = drawn(None, generator=one), of_key(two.next_key())
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_array_equal(got.numpy(), want.numpy())
        assert one.get_state().tolist() == two.get_state().tolist()
    with ag.no_grad():  # the general path
        np.testing.assert_array_equal(drawn(None, generator=one).numpy(), of_key(two.next_key()).numpy())


def test_draws_make_no_key_where_nobody_looks(monkeypatch):
    monkeypatch.setattr(ag.random.Generator, "next_key", None)
    for drawn, _ in DRAWS.values():
        drawn(None, generator=ag.random.Generator(3))


def test_subclasses_of_generators_are_asked_for_their_keys():
    class Fixed(ag.random.Generator):
        def next_key(self):
            return ag.random.key(5)

    g = Fixed(0)
    for drawn, of_key in DRAWS.values():
        np.testing.assert_array_equal(drawn(None, generator=g).numpy(), of_key(ag.random.key(5)).numpy())


def test_a_refused_draw_says_why():
    with pytest.raises(ShapeError, match="negative"):
        ag.random.normal((2, -1))
    with pytest.raises(DTypeError, match="floating"):
        ag.random.uniform((2,), dtype="int32")


def test_permutation_and_choice():
    order = ag.random_permutation(KEY, 1000).numpy()
    assert order.dtype == np.int64 and (np.sort(order) == np.arange(1000)).all() and (order != np.arange(1000)).any()
    x = np.arange(12).reshape(3, 4)
    y = ag.random_permutation(KEY, x, axis=1).numpy()
    assert (np.sort(y, 1) == x).all()
    firsts = [int(ag.random_permutation(ag.random_fold_in(KEY, i), 5)[0]) for i in range(1000)]
    assert st.chisquare(np.bincount(firsts, minlength=5)).pvalue > 0.01
    c = ag.random_choice(KEY, 5, shape=(N,)).numpy()
    assert st.chisquare(np.bincount(c, minlength=5)).pvalue > 0.01
    p = np.array([0.1, 0.0, 0.9], np.float32)
    c = ag.random_choice(KEY, 3, shape=(N,), p=p).numpy()
    assert abs((c == 2).mean() - 0.9) < 0.01 and not (c == 1).any()
    assert sorted(ag.random_choice(KEY, 6, shape=(6,), replace=False).numpy()) == list(range(6))
    assert set(ag.random_choice(KEY, 3, shape=2, replace=False, p=p).numpy()) == {0, 2}
    assert ag.random_choice(KEY, x, shape=(2,), axis=1).shape == (3, 2)


def test_keys():
    k = ag.random_key(2 ** 40 + 5)
    assert k.dtype == "uint32" and list(k.numpy()) == [5, 256]
    keys = ag.random_split(k, 100)
    assert keys.shape == (100, 2)
    folded = [ag.random_fold_in(k, i).numpy() for i in range(100)]
    assert len({tuple(a) for a in [*keys.numpy(), *folded, k.numpy()]}) == 201
    np.testing.assert_array_equal(ag.random_fold_in(k, 3).numpy(), folded[3])
    a, b = ag.random_normal(keys[0], shape=(N,)).numpy(), ag.random_normal(keys[1], shape=(N,)).numpy()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_bits():
    assert ag.random_bits(KEY, shape=(5,)).dtype == "uint32"
    b = ag.random_bits(KEY, shape=(4 * N,), dtype="uint8").numpy()
    assert st.chisquare(np.bincount(b, minlength=256)).pvalue > 0.01


def test_dropout():
    x = ag.asarray(np.ones((200, 100), np.float32), requires_grad=True)
    y = tensors.dropout(x, 0.25, KEY)
    kept = y.detach().numpy() != 0
    assert abs(kept.mean() - 0.75) < 0.01 and y.dtype == "float32"
    np.testing.assert_allclose(y.detach().numpy()[kept], 4 / 3, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    assert tensors.dropout(x, 0.5, training=False) is x
    assert (tensors.dropout(x, 1.0, KEY).detach().numpy() == 0).all()
    z = tensors.dropout(ag.asarray(np.ones((4, 6, 3, 3))), 0.5, KEY, noise_shape=(4, 6, 1, 1)).numpy()
    assert (z == z[:, :, :1, :1]).all() and z.dtype == np.float64


@pytest.mark.parametrize("call, error, text", [
    (lambda: ag.random_uniform(np.array([1, 2]), shape=3), ArgumentTypeError, "uint32 array"),
    (lambda: ag.random_uniform(np.zeros(3, np.uint32), shape=3), ArgumentTypeError, "random_key"),
    (lambda: ag.random_uniform(KEY, shape=-1), ShapeError, "negative"),
    (lambda: ag.random_normal(KEY, shape=3, dtype="int32"), DTypeError, "floating"),
    (lambda: ag.random_integers(KEY, 5, 5), ArgumentError, "below high"),
    (lambda: ag.random_integers(KEY, 0, 300, dtype="uint8"), ArgumentError, "uint8 holds 0 to 255"),
    (lambda: ag.random_integers(KEY, 0, 3, dtype="float32"), DTypeError, "integer dtype"),
    (lambda: ag.random_bernoulli(KEY, 1.5), ArgumentError, "between 0 and 1"),
    (lambda: ag.random_poisson(KEY, np.array([1.0, -2.0])), ArgumentError, "-2"),
    (lambda: ag.random_poisson(KEY, np.array([np.inf])), ArgumentError, "finite"),
    (lambda: ag.random_gamma(KEY, np.array([np.nan])), ArgumentError, "nan"),
    (lambda: ag.random_gamma(KEY, np.ones(3), shape=(2,)), ShapeError, "broadcast"),
    (lambda: ag.random_truncated_normal(KEY, 2, 1), ArgumentError, "below upper"),
    (lambda: ag.random_choice(KEY, 3, shape=(4,), replace=False), ArgumentError, "without replacement"),
    (lambda: ag.random_choice(KEY, 0, shape=(4,)), ArgumentError, "nothing"),
    (lambda: ag.random_key(-1), ArgumentError, "2\\*\\*64"),
    (lambda: ag.random_split(KEY, -1), ArgumentError, "n=-1"),
    (lambda: ag.random_fold_in(KEY, 1.5), ArgumentTypeError, "whole number"),
    (lambda: tensors.dropout(np.ones(3), 0.5), ArgumentError, "needs a key"),
    (lambda: tensors.dropout(ag.asarray(np.ones(3)), 2.0, KEY), ArgumentError, "between 0 and 1"),
    (lambda: tensors.dropout(ag.asarray(np.ones((3, 4))), 0.5, KEY, noise_shape=(2, 4)), ShapeError, "noise_shape"),
])
def test_errors_teach(call, error, text):
    with pytest.raises(error, match=text):
        call()
