"""Sample inputs that the rows of the op table declare, and ways to lay them out: shared by the generated tests."""

import math
import zlib

import ml_dtypes
import numpy as np
import pytest

from agog import dispatch
from agog.array import dtypes
from agog.dispatch import wrap
from agog.ops.row import TABLE

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
KINDS = {"b": ["bool"], "i": ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"],
         "f": ["float16", "bfloat16", "float32", "float64"], "c": ["complex64", "complex128"]}
ROWS = sorted(TABLE)


def dtype_of(name):
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def accepted(op):
    """The kinds of dtype a caller may give."""
    return "".join(k for k in "bifc" if k in op.takes or op.to_float and k in "bi")


class Sampler:
    """Random arrays of the dtype under test: `s(3, 4, lo=-2, hi=2)`; `s.ints(5, 2, 3)` are int64 in [0, 5)."""

    def __init__(self, dtype, name):
        self.dtype = dtype
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, *shape, lo=-2, hi=2, imaginary=None):
        kind, rng = dtypes.kind(self.dtype), self.rng
        if kind == "b":
            return np.asarray(rng.random(shape) < 0.5)
        if kind in "iu":
            low, high = math.ceil(lo), math.floor(hi)
            if low > high:
                low, high = high, low
            if kind == "u":
                low, high = max(low, 0), max(high, 1)
            return np.asarray(rng.integers(low, high + 1, shape), self.dtype)
        x = rng.uniform(lo, hi, shape)
        if kind == "c":
            x = x + 1j * (rng.uniform(lo, hi, shape) if imaginary is None else rng.uniform(-imaginary, imaginary,
                                                                                           shape))
        return np.asarray(x, self.dtype)

    def ints(self, high, *shape):
        return np.asarray(self.rng.integers(0, high, shape), np.int64)


def cases(op, dtype, seed=0):
    """[(inputs, statics)] of a row: its samples, or arrays drawn from its domain."""
    s = Sampler(dtype, f"{op.name}{seed or ''}")
    if op.samples is not None:
        out = []
        for inputs, given in op.samples(s):
            statics = op.statics | given
            assert set(statics) == set(op.statics), f"samples of {op.name} give unknown parameters {given}"
            out.append((tuple(inputs), tuple(statics.values())))
        return out
    assert op.domain is not None, f"the row {op.name} has neither samples nor a domain: add one, so that it is tested"
    domains = op.domain if isinstance(op.domain[0], tuple) else (op.domain,) * len(op.inputs)
    shapes = [[(3, 4)] * 3, [(3, 1), (4,), ()], [()] * 3, [(0, 3), (3,), (1, 1)]]
    return [(tuple(s(*shape, lo=lo, hi=hi, imaginary=0.4) for shape, (lo, hi) in zip(group, domains)),
             tuple(op.statics.values())) for group in shapes]


def is_array(x):
    return isinstance(x, np.ndarray | np.generic)


def is_inexact(x):
    return is_array(x) and dtypes.is_inexact(x.dtype)


def tensor(x):
    return wrap(np.asarray(x)) if is_array(x) else x


def promoted(op, inputs):
    """Raw inputs after promotion, as `apply` hands them to the computation."""
    out = dispatch._promote(op, dispatch._operands(op, tuple(tensor(x) for x in inputs)))
    return tuple(None if t is None else t._data for t in out)


def listed(out):
    return list(out) if isinstance(out, tuple | list) else [out]


def flat(out):
    """The arrays in a result, however it is nested."""
    if isinstance(out, tuple | list):
        return [a for o in out for a in flat(o)]
    if isinstance(out, dict):
        return flat(list(out.values()))
    return [out._data] if hasattr(out, "_data") else [np.asarray(out)] if is_array(out) else []


def rows_and_dtypes():
    """Every row with every dtype that callers may give it."""
    for name in ROWS:
        op = TABLE[name]
        kinds = accepted(op) if op.inputs else "f"
        for kind in kinds:
            for d in KINDS[kind] if op.inputs else ["float32"]:
                yield pytest.param(name, d, id=f"{name}-{d}")


def strided(x):
    if not is_array(x) or not x.ndim:
        return x
    room = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    room[..., ::2] = x
    return room[..., ::2]


def backwards(x):
    if not is_array(x) or not x.ndim:
        return x
    flip = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[flip])[flip]


LAYOUTS = {"strided": strided, "backwards": backwards,
           "transposed": lambda x: np.asfortranarray(x) if is_array(x) and x.ndim else x}


def tensors_in(out):
    if hasattr(out, "_data"):
        return [out]
    return [t for o in out for t in tensors_in(o)] if isinstance(out, tuple | list) else []


def as_tensors(x):
    if isinstance(x, tuple | list):
        return type(x)(as_tensors(v) for v in x) if not hasattr(x, "_fields") else x
    return tensor(x)
