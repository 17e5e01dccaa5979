"""Random numbers: counter-based, so that a seed gives the same numbers eagerly, staged, and on any number of threads.

    ag.random.seed(0)
    x = ag.random.normal((3, 4))

The functions here draw a fresh key from a `Generator`, the global one by default, and hand it to the pure functions
of `agog.ops.random`. With `key=` (see `key` and `split`) a function is pure: the same key, the same numbers.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from typing import Any

import numpy as np

from agog import config, hints
from agog.array import dtypes, large
from agog.autodiff.batching import for_each_example, in_vmap
from agog.autodiff.functional import draw, draws_kept
from agog.dispatch import operand, tensors, wrap
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.ops.attention import attention_parts
from agog.ops.draws import EXPONENTIAL, NORMAL, UNIFORM, Law, advance, integers_drawn, key_of, mask_drawn
from agog.ops.row import TABLE, Op
from agog.tensor import Tensor, asarray

__all__ = ["Generator", "alpha_dropout", "bernoulli", "beta", "categorical", "choice", "default_generator", "dirichlet",
           "dropout", "dropout1d", "dropout2d", "dropout3d", "exponential", "fold_in", "gamma", "get_state", "gumbel",
           "gumbel_softmax", "integers", "key", "next_key", "normal",
           "permutation", "poisson", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "seed",
           "set_state", "split", "truncated_normal", "uniform"]


class Generator:
    """A source of keys. Its state is a Tensor of two uint32 words, advanced by every draw.

    seed  a whole number; by default one that differs from run to run
    """

    def __init__(self, seed: int | None = None):
        self._lock = threading.Lock()
        self.state = wrap(np.zeros(2, np.uint32))
        self.seed(int.from_bytes(os.urandom(8), "little") if seed is None else seed)

    def seed(self, seed: int) -> Generator:
        """Start again from `seed` (0 to 2**64 - 1). Returns itself."""
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ArgumentTypeError(f"a seed is a whole number, not a {type(seed).__name__}")
        if not 0 <= seed < 1 << 64:
            raise ArgumentError(f"seed={seed}: give a whole number from 0 to 2**64 - 1")
        self.state.assign(asarray([int(seed) & 0xFFFFFFFF, int(seed) >> 32], dtype=dtypes.uint32))
        return self

    def next_key(self) -> Tensor:
        """A key that this generator has not given before."""
        return draw(self._advance)

    def _advance(self) -> Tensor:
        with self._lock:
            if not config.special and self.state._node is None and type(self.state._data) is np.ndarray:
                self.state._data, word = advance(self.state._data)
                return wrap(key_of(word))
            pair = tensors.random_split(self.state, 2)
            self.state.assign(pair[0])
        return pair[1]

    def _word(self) -> int | None:
        """The key that `next_key` would give, as one whole number; None where more is to be done than that."""
        if config.special or type(self) is not Generator or draws_kept() or in_vmap():
            return None
        with self._lock:
            state = self.state
            if state._node is not None or type(state._data) is not np.ndarray:
                return None
            state._data, word = advance(state._data)
        return word

    def get_state(self) -> Tensor:
        """The state, for `set_state`: a uint32 Tensor of shape (2,)."""
        return self.state.clone()

    def set_state(self, state: Any) -> None:
        """Go on from a state that `get_state` gave."""
        state = asarray(state, dtype=dtypes.uint32)
        if state.shape != (2,):
            raise ShapeError(f"the state of a generator has shape (2,), not {state.shape}")
        self.state.assign(state)

    def __reduce__(self) -> Any:
        return _restore, (self.state.tolist(),)

    __agog_own__ = frozenset({"_lock", "state"})
    """Attributes that it answers for itself; others, of a subclass, are watched where code names them."""

    def __agog_watch__(self) -> tuple[Any, Any]:
        others = ((self.__dict__, k) for k in self.__dict__ if k not in self.__agog_own__)
        return id(self.state), others  # the state itself is a Tensor, which a recording reads afresh

    def __repr__(self) -> str:
        return f"Generator(state={self.state.tolist()})"


def _restore(words: list[int]) -> Generator:
    return Generator(words[0] | words[1] << 32)


_global: Generator | None = None
_global_lock = threading.Lock()


def default_generator() -> Generator:
    """The generator that the functions of this module use."""
    global _global
    if _global is None:
        with _global_lock:
            if _global is None:
                recorder = config.modes.recorder
                with contextlib.nullcontext() if recorder is None else recorder.paused():  # it is read from outside
                    _global = Generator()
    return _global


def _after_fork() -> None:
    if _global is not None:
        _global._lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a child that goes on with the parent's numbers is what users mean by a seed
    os.register_at_fork(after_in_child=_after_fork)


def seed(seed: int) -> Generator:
    """Seed the global generator. Returns it."""
    return default_generator().seed(seed)


def get_state() -> Tensor:
    """The global generator's state."""
    return default_generator().get_state()


def set_state(state: Any) -> None:
    """Give the global generator a state from `get_state`."""
    default_generator().set_state(state)


def next_key(generator: Generator | None = None) -> Tensor:
    """A fresh key of the global (or the given) generator; inside vmap, another for each example."""
    return for_each_example((default_generator() if generator is None else generator).next_key(), tensors.random_split)


def key(seed: int) -> Tensor:
    """The key of a seed: a uint32 Tensor of shape (2,)."""
    return tensors.random_key(seed)


def split(key: Any, n: int = 2) -> Tensor:
    """`n` new keys from one, of shape (n, 2)."""
    return tensors.random_split(key, n)


def fold_in(key: Any, data: Any) -> Tensor:
    """A new key from a key and a number, such as a step or a layer."""
    return tensors.random_fold_in(key, data)


def _key(key: Any, generator: Generator | None) -> Any:
    return next_key(generator) if key is None else key


def _drawn(row: Op, key: Any, generator: Generator | None, *statics: Any) -> Tensor:
    """A row of a key and static parameters, from a fresh key if none is given: that needs no Tensor."""
    if key is None:
        word = (generator or _global or default_generator())._word()
        if word is not None:
            try:
                return wrap(row.raw(word, *row.check(_ANY, *statics)))  # type: ignore[misc]
            except Exception:  # the general path says what is wrong
                key = wrap(key_of(word))
    return getattr(tensors, row.name)(_key(key, generator), *statics)


_ANY = np.zeros(2, np.uint32)
_INTEGERS, _PERMUTATION, _MASK = (TABLE[name] for name in ("random_integers", "_random_permutation", "_dropout_mask"))
_LAWS = {law: TABLE[name] for law, name in (
    (UNIFORM, "random_uniform"), (NORMAL, "random_normal"), (EXPONENTIAL, "random_exponential"))}
_empty, _uint32 = np.empty, dtypes.uint32
_WIDTHS = (dtypes.float32, dtypes.float64)
_AT_ONCE = 1 << 17  # numbers up to which the generator is kept from other threads while they are drawn


def _natively(generator: Generator | None, drawn: Any, shape: Any, dtype: Any, *more: Any) -> Tensor | None:
    """What `drawn` makes of the generator's state, which it advances, in one native draw; None where that cannot be."""
    native = large.draws
    if native is None or config.special or draws_kept() or in_vmap():
        return None
    source = generator or _global or default_generator()
    if type(source) is not Generator:
        return None
    for n in shape:
        if type(n) is not int or n > _AT_ONCE:
            return None
    if len(shape) > 1 and math.prod(shape) > _AT_ONCE:
        return None
    following = _empty(2, _uint32)
    with source._lock:
        state = source.state
        if state._node is not None:
            return None
        try:
            out = drawn(native, following, state._data, shape, dtype, *more)
        except Exception:  # the general path says what is wrong
            return None
        if out is None:
            return None
        state._data = following
    return wrap(out)


def _floats(law: Law, shape: Any, dtype: Any, key: Any, generator: Generator | None) -> Tensor:
    if type(shape) is not tuple:
        shape = _shape(shape)
    dtype = dtypes.default_float() if dtype is None else dtypes.dtype(dtype)
    if key is None and dtype in _WIDTHS:
        done = _natively(generator, law.drawn, shape, dtype)
        if done is not None:
            return done
    return _drawn(_LAWS[law], key, generator, shape, dtype)


def _shape(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, float):
        raise ArgumentTypeError(f"shape={shape!r}: the shape comes first and holds whole numbers, as in "
                                "ag.random.normal((3, 4), mean, std)")
    return shape if type(shape) is tuple else (shape,) if isinstance(shape, int) else tuple(shape)


def _numbers(name: str, **given: Any) -> None:
    """The parameters of a distribution: NumPy's order, with the shape last, is a mistake easily made."""
    for k, v in given.items():
        if type(v) is not float and isinstance(v, tuple | list):
            raise ArgumentTypeError(f"{name}: {k}={v!r} is a {type(v).__name__}; the shape comes first, as in "
                                    f"ag.random.{name}((3, 4), {', '.join(given)})")


def _float(dtype: Any) -> Any:
    return dtypes.default_float() if dtype is None else dtypes.dtype(dtype)


def uniform(shape: Any = (), low: Any = 0.0, high: Any = 1.0, *, dtype: Any = None, key: Any = None,
            generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [low, high). low and high may be Tensors that broadcast, and get gradients."""
    if type(low) is not float or type(high) is not float:
        _numbers("uniform", low=low, high=high)
        plain = _is_number(low, 0.0) and _is_number(high, 1.0)
    else:
        plain = low == 0.0 and high == 1.0
    if not plain and isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise ArgumentError(f"uniform: low={low!r} is greater than high={high!r}; the shape comes first, as in "
                            "ag.random.uniform((3, 4), low, high)")
    u = _floats(UNIFORM, shape, dtype, key, generator)
    return u if plain else u * (high - low) + low


def normal(shape: Any = (), mean: Any = 0.0, std: Any = 1.0, *, dtype: Any = None, key: Any = None,
           generator: Generator | None = None) -> Tensor:
    """Normal numbers. mean and std may be Tensors that broadcast to `shape`, and get gradients."""
    if type(mean) is not float or type(std) is not float:
        _numbers("normal", mean=mean, std=std)
        scaled, moved = not _is_number(std, 1.0), not _is_number(mean, 0.0)
    else:
        scaled, moved = std != 1.0, mean != 0.0
    z = _floats(NORMAL, shape, dtype, key, generator)
    if scaled:
        z = z * std
    return z + mean if moved else z


def _is_number(x: Any, value: float) -> bool:
    return isinstance(x, int | float) and x == value


def truncated_normal(shape: Any = (), mean: Any = 0.0, std: Any = 1.0, low: float = -2.0, high: float = 2.0, *,
                     dtype: Any = None, key: Any = None, generator: Generator | None = None) -> Tensor:
    """Normal numbers of which only those between mean + low * std and mean + high * std are kept."""
    return tensors.random_truncated_normal(_key(key, generator), low, high, _shape(shape), _float(dtype)) * std + mean


def exponential(shape: Any = (), scale: Any = 1.0, *, dtype: Any = None, key: Any = None,
                generator: Generator | None = None) -> Tensor:
    """Exponential numbers of mean `scale`."""
    return _floats(EXPONENTIAL, shape, dtype, key, generator) * scale


def gumbel(shape: Any = (), *, dtype: Any = None, key: Any = None, generator: Generator | None = None) -> Tensor:
    """Standard Gumbel numbers."""
    return tensors.random_gumbel(_key(key, generator), _shape(shape), _float(dtype))


def integers(low: int, high: int | None = None, shape: Any = (), *, dtype: Any = dtypes.int64, key: Any = None,
             generator: Generator | None = None) -> Tensor:
    """Whole numbers from low up to but without high, each as likely; `integers(n)` draws from 0 to n - 1."""
    if isinstance(high, tuple | list):
        raise ArgumentTypeError(f"integers: high={high!r} is a {type(high).__name__}; write integers(0, n, shape)")
    low, high = (0, low) if high is None else (low, high)
    shape, dtype = _shape(shape), dtypes.dtype(dtype)
    if key is None and (dtype is dtypes.int64 or dtype is dtypes.int32) and type(low) is int and type(high) is int:
        if -1 << 31 <= low < high <= 1 << 31:
            done = _natively(generator, integers_drawn, shape, dtype, low, high)
            if done is not None:
                return done
    return _drawn(_INTEGERS, key, generator, low, high, shape, dtype)


def bernoulli(p: Any = 0.5, shape: Any = None, *, key: Any = None, generator: Generator | None = None) -> Tensor:
    """True with probability p (a number or a Tensor)."""
    return tensors.random_bernoulli(_key(key, generator), p, None if shape is None else _shape(shape))


def categorical(logits: Any, axis: int = -1, shape: Any = None, *, key: Any = None,
                generator: Generator | None = None) -> Tensor:
    """Indices along `axis` with probability softmax(logits): int64, of logits' shape without that axis."""
    return tensors.random_categorical(_key(key, generator), logits, axis, None if shape is None else _shape(shape))


def choice(x: Any, shape: Any = (), replace: bool = True, p: Any = None, axis: int = 0, *, key: Any = None,
           generator: Generator | None = None) -> Tensor:
    """Slices of x along `axis` (or numbers below a whole number x), with or without putting them back."""
    return tensors.random_choice(_key(key, generator), x, _shape(shape), replace, p, axis)


def permutation(x: Any, axis: int = 0, *, key: Any = None, generator: Generator | None = None) -> Tensor:
    """The numbers below a whole number x in random order, or x with its slices along `axis` shuffled."""
    if type(x) is int:
        return _drawn(_PERMUTATION, key, generator, x)
    return tensors.random_permutation(_key(key, generator), x, axis)


def gamma(alpha: Any, scale: Any = 1.0, shape: Any = None, *, key: Any = None,
          generator: Generator | None = None) -> Tensor:
    """Gamma-distributed numbers of shape parameter alpha."""
    return tensors.random_gamma(_key(key, generator), _tensor(alpha), None if shape is None else _shape(shape)) * scale


def beta(a: Any, b: Any, shape: Any = None, *, key: Any = None, generator: Generator | None = None) -> Tensor:
    """Beta-distributed numbers."""
    return tensors.random_beta(_key(key, generator), _tensor(a), _tensor(b), None if shape is None else _shape(shape))


def dirichlet(alpha: Any, shape: Any = (), *, key: Any = None, generator: Generator | None = None) -> Tensor:
    """Dirichlet-distributed vectors along the last axis of alpha."""
    return tensors.random_dirichlet(_key(key, generator), _tensor(alpha), _shape(shape))


def poisson(rate: Any, shape: Any = None, *, key: Any = None, generator: Generator | None = None) -> Tensor:
    """Poisson-distributed counts (int64) of mean `rate`."""
    return tensors.random_poisson(_key(key, generator), _tensor(rate), None if shape is None else _shape(shape))


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x
    return asarray(x, dtype=dtypes.default_float()) if isinstance(x, int | float) else asarray(x)


def scaled_dot_product_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
                                 is_causal: bool = False, scale: float | None = None,
                                 enable_gqa: bool = False) -> Tensor:
    """softmax(query @ key.mT * scale + mask) @ value, without keeping the scores where nothing is dropped out.

    Shapes: query (..., L, E), key (..., S, E), value (..., S, V), result (..., L, V); leading axes broadcast.
    attn_mask   broadcasts to (..., L, S): bool (True takes part) or float (added to the scores)
    dropout_p   probability with which each weight is dropped out, in any mode: give 0.0 when not training
    is_causal   position i attends to positions up to i only; not together with attn_mask
    scale       default 1/sqrt(E)
    enable_gqa  heads (the third axis from the end) of key and value serve several heads of query each
    A row that may attend to nothing gives zeros, as in torch. Vaswani et al. 2017, arXiv:1706.03762.
    """
    if isinstance(dropout_p, bool) or not isinstance(dropout_p, int | float):
        raise ArgumentTypeError(f"scaled_dot_product_attention: dropout_p={dropout_p!r}; give a probability, and "
                                "is_causal by name")
    if not dropout_p:
        return tensors.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, scale, enable_gqa)
    query, key, value, mask, scale = attention_parts(tensors, query, key, value, attn_mask, is_causal, scale,
                                                     enable_gqa)
    scores = (query * scale) @ tensors.matrix_transpose(key)
    if is_causal:
        rows, columns = scores.shape[-2:]
        mask = tensors.triu(tensors.full((rows, columns), -math.inf, dtype=scores.dtype), k=1)
    if mask is not None:
        scores = scores + mask
    weights = tensors.softmax(scores, axis=-1)
    if mask is not None:
        weights = tensors.where(tensors.max(scores, axis=-1, keepdims=True) == -math.inf, 0.0, weights)
    return dropout(weights, dropout_p) @ value


def dropout(x: Any, p: float = 0.5, training: bool = True, *, noise_shape: Any = None, key: Any = None,
            generator: Generator | None = None) -> Tensor:
    """`x` with each element zeroed with probability p and the others divided by 1 - p; x itself unless training.

    noise_shape: shape of the mask, which broadcasts to x's; (N, C, 1, 1) drops whole channels.
    """
    if not training or p == 0:
        if not 0 <= p <= 1:
            raise ArgumentError(f"dropout: p={p}; give a probability from 0 to 1")
        return x if isinstance(x, Tensor) else asarray(x)
    if type(x) is Tensor and type(p) is float and 0 < p <= 1 and noise_shape is None and not config.special:
        simple = key is None and x.dtype in _WIDTHS
        mask = _natively(generator, mask_drawn, x.shape, x.dtype, p) if simple else None
        return x * (_drawn(_MASK, key, generator, x.shape, p, x.dtype) if mask is None else mask)
    return tensors.dropout(operand(x), p, _key(key, generator), True, noise_shape)


def _channels(name: str, n: int, x: Any, p: float, training: bool) -> Tensor:
    x = x if isinstance(x, Tensor) else asarray(x)
    if x.ndim not in (n + 1, n + 2):
        raise ShapeError(f"{name}: x has shape {x.shape}; it has {n + 2} axes (N, C, ...), or {n + 1} without N")
    return dropout(x, p, training, noise_shape=(*x.shape[:x.ndim - n], *(1,) * n))


def dropout1d(x: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """`dropout` of whole channels of x (N, C, L)."""
    return _channels("dropout1d", 1, x, p, training)


def dropout2d(x: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """`dropout` of whole channels of x (N, C, H, W)."""
    return _channels("dropout2d", 2, x, p, training)


def dropout3d(x: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """`dropout` of whole channels of x (N, C, D, H, W)."""
    return _channels("dropout3d", 3, x, p, training)


_LOW = -1.7580993408473766  # what selu tends to far to the left


def alpha_dropout(x: Any, p: float = 0.5, training: bool = True, *, key: Any = None,
                  generator: Generator | None = None) -> Tensor:
    """Dropout that keeps the mean and variance of standard normal numbers: for networks of `selu`.

    An element that is dropped becomes selu(-inf), and a linear map corrects both. Klambauer et al., 2017, section 3.
    """
    if not 0 <= p <= 1:
        raise ArgumentError(f"alpha_dropout: p={p}; give a probability from 0 to 1")
    x = x if isinstance(x, Tensor) else asarray(x)
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0
    kept = dropout(tensors.ones(x.shape, dtype=x.dtype), p, key=key, generator=generator) > 0
    a = ((1 - p) * (1 + p * _LOW ** 2)) ** -0.5
    return tensors.where(kept, x * a, tensors.zeros((), dtype=x.dtype) + a * _LOW) - a * _LOW * p


def gumbel_softmax(logits: Any, tau: float = 1.0, hard: bool = False, axis: int = -1, *, key: Any = None,
                   generator: Generator | None = None) -> Tensor:
    """Samples of categories that have a gradient: softmax((logits + gumbel noise) / tau) along `axis`.

    tau   the temperature: samples are nearly one-hot where it is small
    hard  one-hot samples, with the gradient of the soft ones

    Jang et al., 2017, arXiv:1611.01144; Maddison et al., 2017, arXiv:1611.00712.
    """
    if not tau > 0:
        raise ArgumentError(f"gumbel_softmax: tau={tau}; it must be positive")
    logits = logits if isinstance(logits, Tensor) else asarray(logits)
    noise = gumbel(logits.shape, dtype=logits.dtype, key=key, generator=generator)
    soft = tensors.softmax((logits + noise) / tau, axis=axis)
    if not hard:
        return soft
    value = soft.detach()
    places = tensors.argmax(value, axis=axis, keepdims=True)
    one = tensors.put_along_axis(tensors.zeros_like(value), places, 1, axis=axis)
    return one - value + soft


def randn(*shape: int, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers, `randn(2, 3)`."""
    out = normal(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape, dtype=dtype)
    return out.requires_grad_() if requires_grad else out


def rand(*shape: int, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform numbers in [0, 1), `rand(2, 3)`."""
    out = uniform(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape, dtype=dtype)
    return out.requires_grad_() if requires_grad else out


def randn_like(x: Tensor) -> Tensor:
    """Standard normal numbers of x's shape and dtype."""
    return normal(x.shape, dtype=x.dtype)


def rand_like(x: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) of x's shape and dtype."""
    return uniform(x.shape, dtype=x.dtype)


def randint(low: int, high: int | None = None, shape: Any = ()) -> Tensor:
    """Whole numbers from low up to but without high."""
    return integers(low, high, shape)


def randperm(n: int) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    if not hasattr(n, "__index__"):
        raise ArgumentTypeError(f"randperm: n={n!r} is a {type(n).__name__}; give a whole number")
    return permutation(n.__index__())


def __getattr__(name: str) -> Any:
    raise hints.missing("agog.random", name, __all__)
