"""The bits of a key, and uniform, normal and exponential numbers and masks made of them.

The bits are those of Philox-4x64-10 (see `agog.ops.random`) under the key: word i of a stream is word i % 4 of the
block with counter i // 4, so that any part of it can be made on its own. The top word of the counter says what the
stream is for, the word below it numbers streams for one purpose.

NumPy's generator makes the bits, or native code where it is loaded (`agog.compiler.draws`): together with what is made
of them by exact arithmetic, and advancing the generator that the key comes from. Logarithms, sines and cosines are
NumPy's in any case, so the numbers are the same to the bit.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any, Callable

import numpy as np

from agog.array import dtypes, large
from agog.ops.blocks import BLOCK, fresh, over_rows

DRAW, SPLIT, FOLD = 0, 1, 2
_MASK, _WORD = (1 << 256) - 1, (1 << 64) - 1


# --------------------------------------------------------------------------------------------------------------- bits
class _Source:
    """A generator that is pointed anew at every use: making one costs far more than four words from it."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.place: dict[str, Any] = {}
        # NumPy takes the elements of lists and tuples in a third of the time of those of its own arrays.
        self.at: dict[str, Any] = {**self.philox.state, "state": self.place, "buffer": (0, 0, 0, 0)}


_local = threading.local()  # a source for each thread


def _before(block: int) -> tuple[int, ...]:
    """The counter before the one of a block: it counts up, then draws."""
    before = block - 1 & _MASK
    return tuple([before >> 64 * i & _WORD for i in range(4)])


_BEGINNINGS = [_before(purpose << 192) for purpose in (DRAW, SPLIT, FOLD)]


def words(key: Any, start: int, count: int, purpose: int = DRAW, number: int = 0) -> Any:
    """`count` 64-bit words of a stream, from word `start` (a multiple of 4). The key may be one whole number."""
    try:
        s = _local.source
    except AttributeError:
        s = _local.source = _Source()
    if type(key) is not int:
        low, high = key.tolist()
        key = low | high << 32
    place = s.place
    place["key"] = key, 0
    place["counter"] = _before(purpose << 192 | number << 128 | start >> 2) if start or number else _BEGINNINGS[purpose]
    s.philox.state = s.at
    return s.philox.random_raw(count)


def advance(state: Any) -> tuple[Any, int]:
    """`random_split(state; n=2)` for a generator: its next state, and the fresh key as one whole number."""
    made = words(state, 0, 2, SPLIT)
    return made.view(np.uint32)[:2], made.item(1)


def key_of(word: int) -> Any:
    """The key that is the whole number `word`."""
    return np.array([word & 0xFFFFFFFF, word >> 32], np.uint32)


def array_of(key: Any) -> Any:
    """A key, which may be one whole number, as an array of uint32 without gaps."""
    return key_of(key) if type(key) is int else np.ascontiguousarray(key, np.uint32)


def fill(key: Any, out: Any, per_word: int, transform: Callable[..., Any], number: int = 0) -> Any:
    """out[...] = transform(words, part of out) over blocks; each word gives `per_word` numbers."""
    flat = out.reshape(-1)
    count = -(-flat.size // per_word)
    if 0 < count <= BLOCK:
        transform(words(key, 0, count + (count & 1), number=number), flat)
        return out

    def work(i: int, j: int) -> None:
        part = flat[i * per_word:min(j * per_word, flat.size)]
        transform(words(key, i, j - i + (j - i & 1), number=number), part)

    if count:
        over_rows(count, 1, work)
    return out


# --------------------------------------------------------------------------------------------------------- in NumPy
def _half(words: Any, n: int) -> Any:
    return words.view(np.uint32)[:n]


def _top24(bits: Any) -> Any:
    """The upper 24 bits of uint32 as float32: they fit. As int32, because unsigned ones take NumPy longer."""
    np.right_shift(bits, _EIGHT, bits)
    return bits.view(np.int32).astype(np.float32)


def _uniform32(words: Any, out: Any) -> None:
    np.multiply(_top24(_half(words, out.size)), _UNIT32, out)


def uniform64(words: Any, out: Any) -> None:
    """Uniform in [0, 1): multiples of 2**-53."""
    bits = words[:out.size]
    np.right_shift(bits, _ELEVEN, bits)
    np.multiply(bits.view(np.int64), _UNIT64, out)


def _open32(bits: Any) -> Any:
    """Uniform in (0, 1] from uint32, fine near 0."""
    u = bits.astype(np.float32)
    np.multiply(u, _STEP32, u)
    return np.add(u, _HALF_STEP32, u)


def _open64(words: Any) -> Any:
    """Uniform in (0, 1) from uint64."""
    u = np.right_shift(words, _TWELVE).view(np.int64).astype(np.float64)
    np.add(u, _HALF64, u)
    return np.multiply(u, _STEP64, u)


# NumPy takes a number of Python's in twice the time.
_EIGHT, _ELEVEN, _TWELVE = np.array(8, np.uint32), np.array(11, np.uint64), np.array(12, np.uint64)
_UNIT32, _STEP32, _HALF_STEP32 = (np.array(2.0 ** -n, np.float32) for n in (24, 32, 33))
_UNIT64, _STEP64, _HALF64 = np.array(2.0 ** -53), np.array(2.0 ** -52), np.array(0.5)
_MINUS_TWO = {np.dtype(d): np.array(-2, d) for d in (np.float32, np.float64)}
TURN32, TURN64 = np.array(2 * math.pi, np.float32) * _UNIT32, np.array(2 * math.pi)


def _box_muller(radius: Any, angle: Any, out: Any) -> None:
    """Two independent normals for each pair of a uniform number and an angle (Box and Muller 1958)."""
    np.log(radius, radius)
    np.multiply(radius, _MINUS_TWO[radius.dtype], radius)
    np.sqrt(radius, radius)
    n, rest = radius.size, out.size - radius.size
    first, second = out[:n], out[n:]
    np.cos(angle, first)
    np.multiply(first, radius, first)
    if rest != n:
        radius, angle = radius[:rest], angle[:rest]
    np.sin(angle, second)
    np.multiply(second, radius, second)


def _normal32(words: Any, out: Any) -> None:
    n = -(-out.size // 2)
    bits = words.view(np.uint32)
    angle = _top24(bits[n:2 * n])
    _box_muller(_open32(bits[:n]), np.multiply(angle, TURN32, angle), out)


def normal64(words: Any, out: Any) -> None:
    """Standard normal numbers."""
    n = -(-out.size // 2)
    angle = _open64(words[n:2 * n])
    _box_muller(_open64(words[:n]), np.multiply(angle, TURN64, angle), out)


def _exponential32(words: Any, out: Any) -> None:
    u = _open32(_half(words, out.size))
    np.negative(np.log(u, u), out)


def exponential64(words: Any, out: Any) -> None:
    """Exponential numbers of rate 1."""
    u = _open64(words[:out.size])
    np.negative(np.log(u, u), out)


# --------------------------------------------------------------------------------------------------------- natively
KINDS = ("bits", "uniform32", "uniform64", "open32", "open64", "pairs32", "pairs64", "mask32", "mask64",
         "bounded")
"""What native draws make of the bits. Of pairs, the first half of each block are uniform numbers, the second angles."""

NOTHING = np.empty(0, np.uint32)
"""For a native draw: the key is the key, and not the state of a generator, which then would be advanced to this."""

_WORK = 1 << 17  # about how many steps a draw of a few numbers takes in NumPy


def table(kind: str, limit: int = 0, scale: float = 0.0) -> Any:
    """What a native draw is told: the kind, and for masks the numbers of `kept`."""
    made = np.array([KINDS.index(kind), limit, 0])
    made[2:].view(np.float64)[0] = scale
    return made


@functools.lru_cache(256)
def _bounds(span: int) -> tuple[Any, bool]:
    """What a native draw of whole numbers below `span` is told, and whether some may be rejected."""
    made = table("bounded", span)
    made[2] = (1 << 32) % span
    return made, made[2] != 0


def native(size: int) -> Any:
    """The native draws where they are loaded; else None, and NumPy draws `size` numbers, a reason to load them."""
    return large.draws or large.ask_draws(_WORK + 64 * size)


_SHARED = 1 << 13  # numbers up to which a native draw is no work to be shared


class Law:
    """How the floats of a distribution are made: in NumPy by `narrow` (float32) and `wide` (float64), `transform(words,
    out)`; natively as the `kind` without its width, and what `finish(native, drawn, out)` does to a block of these.
    """

    def __init__(self, narrow: Any, wide: Any, kind: str, finish: Any = None) -> None:
        self.narrow, self.wide, self.finish, self.paired = narrow, wide, finish, kind == "pairs"
        self.tables = table(f"{kind}32"), table(f"{kind}64")

    def drawn(self, native: Any, following: Any, key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of float32 or float64, natively: of `key`, or of a state that is advanced to `following`."""
        told = self.tables[dtype is dtypes.float64]
        size = math.prod(shape)
        if size > _SHARED:
            return self._large(native, following, key, shape, dtype, told)
        out = np.empty(shape, dtype)
        if self.paired:
            drawn = np.empty(size + (size & 1), dtype)
            native.fill(drawn, following, key, told)
            self.finish(native, drawn, out if len(shape) == 1 else out.reshape(-1))
        else:
            native.fill(out, following, key, told)
            if self.finish is not None:
                self.finish(native, out, out)
        return out

    def _large(self, native: Any, following: Any, key: Any, shape: tuple[int, ...], dtype: Any, told: Any) -> Any:
        native.refresh()
        out = large.empty(shape, dtype)
        flat = out.reshape(-1)
        size = flat.size
        drawn = large.empty((size + (size & 1),), dtype) if self.paired else flat
        native.fill(drawn, following, key, told)
        if self.finish is not None:
            block = BLOCK * 8 // dtype.itemsize
            over_rows(-(-size // block), BLOCK, lambda i, j: [
                self.finish(native, drawn[k * block:(k + 1) * block], flat[k * block:(k + 1) * block])
                for k in range(i, j)])
        return out

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of any float dtype from a key, which may be one whole number."""
        wide = dtype is dtypes.float64
        made = dtypes.float64 if wide else dtypes.float32
        found = native(math.prod(shape))
        if found is not None:
            out = self.drawn(found, NOTHING, array_of(key), shape, made)
        elif wide:
            return fill(key, fresh(np, shape, made), 1, self.wide)
        else:
            out = fill(key, fresh(np, shape, made), 2, self.narrow)
        return out if made is dtype else out.astype(dtype, copy=False)


def _finish_normal(native: Any, pairs: Any, out: Any) -> None:
    n = pairs.size // 2
    radius, angle = pairs[:n], pairs[n:]
    np.log(radius, radius)
    np.cos(angle, out[:n])
    np.sin(angle, angle)
    native.normal[out.dtype](out, pairs)


def _finish_exponential(native: Any, drawn: Any, out: Any) -> None:
    np.negative(np.log(drawn, out), out)


UNIFORM = Law(_uniform32, uniform64, "uniform")
NORMAL = Law(_normal32, normal64, "pairs", _finish_normal)
EXPONENTIAL = Law(_exponential32, exponential64, "open", _finish_exponential)


# ------------------------------------------------------------------------------------------------------------ masks
def kept(p: Any, dtype: Any) -> tuple[int, Any]:
    """(limit, scale): what has 16 bits below the limit is dropped, the rest is scaled, in expectation exactly 1."""
    return _kept(float(p), dtype)[:2]


@functools.lru_cache(64)
def _kept(p: float, dtype: Any) -> tuple[int, Any, Any]:
    limit = round(p * 65536)
    scale = np.asarray(65536 / (65536 - limit) if limit < 65536 else 0, dtype)
    kind = {dtypes.float32: "mask32", dtypes.float64: "mask64"}.get(dtype)
    return limit, scale, None if kind is None else table(kind, limit, scale.item())


def mask(key: Any, shape: tuple[int, ...], p: float, dtype: Any) -> Any:
    """0 with probability p, else 1 / (1 - p); 16 bits for each, so that the expectation is exactly 1."""
    limit, scale, told = _kept(float(p), dtype)
    found = None if told is None else native(math.prod(shape))
    if found is not None:
        return mask_drawn(found, NOTHING, array_of(key), shape, dtype, p)

    def work(words: Any, part: Any) -> None:
        np.multiply(words.view(np.uint16)[:part.size] >= limit, scale, out=part)

    return fill(key, fresh(np, shape, dtype), 4, work)


def mask_drawn(native: Any, following: Any, key: Any, shape: tuple[int, ...], dtype: Any, p: float) -> Any:
    """`mask` of float32 or float64, natively: of `key`, or of a state that is advanced to `following`."""
    out = large.empty(shape, dtype)
    if out.size > _SHARED:
        native.refresh()
    native.fill(out, following, key, _kept(float(p), dtype)[2])
    return out


# ----------------------------------------------------------------------------------------------------- whole numbers
def integers_drawn(native: Any, following: Any, key: Any, shape: tuple[int, ...], dtype: Any, low: int,
                   high: int) -> Any:
    """Whole numbers from low to high - 1, natively: of `key`, or of a state that is advanced to `following`.

    None where that cannot be: there are more than 32 bits of them, or one has to be drawn again (see `ops.random`).
    """
    if high - low > 1 << 32 or not -_FAR < low < _FAR:
        return None
    told, some_rejected = _bounds(high - low)
    out = large.empty(shape, dtypes.int64)
    if out.size > _SHARED:
        native.refresh()
    native.fill(out, following, key, told)
    if some_rejected and out.size and out.min() < 0:
        return None
    if low:
        np.add(out, low, out)
    return out if dtype is dtypes.int64 else out.astype(dtype)


_FAR = 1 << 61
