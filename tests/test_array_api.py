"""The Array API standard 2025.12: names, signatures, dtypes, special values, results against NumPy's.

A fast part of what the consortium's suite checks (`make conformance`), rebuilt as properties: every function on random
arrays of random shapes, empty and 0-d among them. NumPy has the same names in its main namespace; where agog differs
(float32 is the default, a few special values) the tests say so.
"""

import inspect
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import agog as ag
from agog import errors

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

FUNCTIONS = """
abs(x, /); acos(x, /); acosh(x, /); add(x1, x2, /); all(x, /, *, axis=None, keepdims=False);
any(x, /, *, axis=None, keepdims=False); arange(start, /, stop=None, step=1, *, dtype=None, device=None);
argmax(x, /, *, axis=None, keepdims=False); argmin(x, /, *, axis=None, keepdims=False);
argsort(x, /, *, axis=-1, descending=False, stable=True); asarray(obj, /, *, dtype=None, device=None, copy=None);
asin(x, /); asinh(x, /); astype(x, dtype, /, *, copy=True, device=None); atan(x, /); atan2(x1, x2, /); atanh(x, /);
bitwise_and(x1, x2, /); bitwise_invert(x, /); bitwise_left_shift(x1, x2, /); bitwise_or(x1, x2, /);
bitwise_right_shift(x1, x2, /); bitwise_xor(x1, x2, /); broadcast_arrays(*arrays); broadcast_shapes(*shapes);
broadcast_to(x, /, shape); can_cast(from_, to, /); ceil(x, /); clip(x, /, min=None, max=None);
concat(arrays, /, *, axis=0); conj(x, /); copysign(x1, x2, /); cos(x, /); cosh(x, /);
count_nonzero(x, /, *, axis=None, keepdims=False);
cumulative_prod(x, /, *, axis=None, dtype=None, include_initial=False);
cumulative_sum(x, /, *, axis=None, dtype=None, include_initial=False);
diff(x, /, *, axis=-1, n=1, prepend=None, append=None); divide(x1, x2, /); empty(shape, *, dtype=None, device=None);
empty_like(x, /, *, dtype=None, device=None); equal(x1, x2, /); exp(x, /); expand_dims(x, /, axis); expm1(x, /);
eye(n_rows, n_cols=None, /, *, k=0, dtype=None, device=None); finfo(type, /); flip(x, /, *, axis=None); floor(x, /);
floor_divide(x1, x2, /); from_dlpack(x, /, *, device=None, copy=None);
full(shape, fill_value, *, dtype=None, device=None); full_like(x, /, fill_value, *, dtype=None, device=None);
greater(x1, x2, /); greater_equal(x1, x2, /); hypot(x1, x2, /); iinfo(type, /); imag(x, /); isdtype(dtype, kind);
isfinite(x, /); isin(x1, x2, /, *, invert=False); isinf(x, /); isnan(x, /); less(x1, x2, /); less_equal(x1, x2, /);
linspace(start, stop, /, num, *, dtype=None, device=None, endpoint=True); log(x, /); log10(x, /); log1p(x, /);
log2(x, /); logaddexp(x1, x2, /); logical_and(x1, x2, /); logical_not(x, /); logical_or(x1, x2, /);
logical_xor(x1, x2, /); matmul(x1, x2, /); matrix_transpose(x, /); max(x, /, *, axis=None, keepdims=False);
maximum(x1, x2, /); mean(x, /, *, axis=None, keepdims=False); meshgrid(*arrays, indexing='xy');
min(x, /, *, axis=None, keepdims=False); minimum(x1, x2, /); moveaxis(x, source, destination, /);
multiply(x1, x2, /); negative(x, /); nextafter(x1, x2, /); nonzero(x, /); not_equal(x1, x2, /);
ones(shape, *, dtype=None, device=None); ones_like(x, /, *, dtype=None, device=None); permute_dims(x, /, axes);
positive(x, /); pow(x1, x2, /); prod(x, /, *, axis=None, dtype=None, keepdims=False); real(x, /); reciprocal(x, /);
remainder(x1, x2, /); repeat(x, repeats, /, *, axis=None); reshape(x, /, shape, *, copy=None);
result_type(*arrays_and_dtypes); roll(x, /, shift, *, axis=None); round(x, /);
searchsorted(x1, x2, /, *, side='left', sorter=None); sign(x, /); signbit(x, /); sin(x, /); sinh(x, /);
sort(x, /, *, axis=-1, descending=False, stable=True); sqrt(x, /); square(x, /); squeeze(x, /, axis);
stack(arrays, /, *, axis=0); std(x, /, *, axis=None, correction=0.0, keepdims=False); subtract(x1, x2, /);
sum(x, /, *, axis=None, dtype=None, keepdims=False); take(x, indices, /, *, axis=None);
take_along_axis(x, indices, /, *, axis=-1); tan(x, /); tanh(x, /); tensordot(x1, x2, /, *, axes=2);
tile(x, repetitions, /); tril(x, /, *, k=0); triu(x, /, *, k=0); trunc(x, /); unique_all(x, /); unique_counts(x, /);
unique_inverse(x, /); unique_values(x, /); unstack(x, /, *, axis=0);
var(x, /, *, axis=None, correction=0.0, keepdims=False); vecdot(x1, x2, /, *, axis=-1); where(condition, x1, x2, /);
zeros(shape, *, dtype=None, device=None); zeros_like(x, /, *, dtype=None, device=None)
"""
LINALG = """
cholesky(x, /, *, upper=False); cross(x1, x2, /, *, axis=-1); det(x, /); diagonal(x, /, *, offset=0); eig(x, /);
eigh(x, /); eigvals(x, /); eigvalsh(x, /); inv(x, /); matmul(x1, x2, /);
matrix_norm(x, /, *, keepdims=False, ord='fro'); matrix_power(x, n, /); matrix_rank(x, /, *, rtol=None);
matrix_transpose(x, /); outer(x1, x2, /); pinv(x, /, *, rtol=None); qr(x, /, *, mode='reduced'); slogdet(x, /);
solve(x1, x2, /); svd(x, /, *, full_matrices=True); svdvals(x, /); tensordot(x1, x2, /, *, axes=2);
trace(x, /, *, offset=0, dtype=None); vecdot(x1, x2, /, *, axis=-1);
vector_norm(x, /, *, axis=None, keepdims=False, ord=2)
"""
FFT = """
fft(x, /, *, n=None, axis=-1, norm='backward'); fftfreq(n, /, *, d=1.0, dtype=None, device=None);
fftn(x, /, *, s=None, axes=None, norm='backward'); fftshift(x, /, *, axes=None);
hfft(x, /, *, n=None, axis=-1, norm='backward'); ifft(x, /, *, n=None, axis=-1, norm='backward');
ifftn(x, /, *, s=None, axes=None, norm='backward'); ifftshift(x, /, *, axes=None);
ihfft(x, /, *, n=None, axis=-1, norm='backward'); irfft(x, /, *, n=None, axis=-1, norm='backward');
irfftn(x, /, *, s=None, axes=None, norm='backward'); rfft(x, /, *, n=None, axis=-1, norm='backward');
rfftfreq(n, /, *, d=1.0, dtype=None, device=None); rfftn(x, /, *, s=None, axes=None, norm='backward')
"""
METHODS = """
__abs__(); __add__(other, /); __and__(other, /); __array_namespace__(*, api_version=None); __bool__();
__complex__(); __dlpack__(*, stream=None, max_version=None, dl_device=None, copy=None); __dlpack_device__();
__eq__(other, /); __float__(); __floordiv__(other, /); __ge__(other, /); __getitem__(key, /); __gt__(other, /);
__index__(); __int__(); __invert__(); __le__(other, /); __lshift__(other, /); __lt__(other, /);
__matmul__(other, /); __mod__(other, /); __mul__(other, /); __ne__(other, /); __neg__(); __or__(other, /);
__pos__(); __pow__(other, /); __rshift__(other, /); __setitem__(key, value, /); __sub__(other, /);
__truediv__(other, /); __xor__(other, /); to_device(device, /, *, stream=None)
"""

IN_PLACE = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS, COMPLEX = ["float32", "float64"], ["complex64", "complex128"]
DTYPES = ["bool", *INTS, *FLOATS, *COMPLEX]


def signatures(text):
    for line in text.replace("\n", " ").split("; "):
        scope = {}
        exec(f"def {line.strip()}: pass", scope)
        name = line.strip().partition("(")[0]
        yield name, inspect.signature(scope[name])


EVERY = [pytest.param(where, name, sig, id=f"{where}.{name}")
         for where, text in (("agog", FUNCTIONS), ("agog.linalg", LINALG), ("agog.fft", FFT), ("Tensor", METHODS))
         for name, sig in signatures(text)]
PLACES = {"agog": lambda: ag, "agog.linalg": lambda: ag.linalg, "agog.fft": lambda: ag.fft, "Tensor": lambda: ag.Tensor}


@pytest.mark.parametrize(("where", "name", "standard"), EVERY)
def test_signature(where, name, standard):
    ours = list(inspect.signature(getattr(PLACES[where](), name)).parameters.values())
    ours = ours[1:] if where == "Tensor" else ours
    P = inspect.Parameter
    positional = [p for p in standard.parameters.values() if p.kind != P.KEYWORD_ONLY]
    assert len(ours) >= len(positional)
    for p, q in zip(positional, ours):
        if p.kind == P.VAR_POSITIONAL:
            assert q.kind == P.VAR_POSITIONAL
        elif p.kind == P.POSITIONAL_OR_KEYWORD:
            assert q.kind == P.POSITIONAL_OR_KEYWORD and q.name == p.name
    keywords = {p.name: p for p in ours if p.kind in (P.KEYWORD_ONLY, P.POSITIONAL_OR_KEYWORD)}
    for p in standard.parameters.values():
        if p.kind == P.KEYWORD_ONLY:
            assert p.name in keywords
            if p.name not in ("norm", "rtol") and name != "take":  # None is the same there; take has axis 0
                assert keywords[p.name].default == p.default


def test_names_and_constants():
    for name in DTYPES:
        assert isinstance(getattr(ag, name), np.dtype) and getattr(ag, name) == name
    assert (ag.pi, ag.e, ag.inf, ag.newaxis) == (math.pi, math.e, math.inf, None) and math.isnan(ag.nan)
    x = ag.ones((2, 3))
    assert (x.dtype, x.device, x.ndim, x.shape, x.size) == (ag.float32, "cpu", 2, (2, 3), 6)
    assert x.T.shape == x.mT.shape == (3, 2)
    for name in IN_PLACE:
        assert hasattr(x, f"__{name}__") and hasattr(x, f"__r{name}__") and hasattr(x, f"__i{name}__")
    assert x.__array_namespace__() is ag and x.__array_namespace__(api_version="2025.12") is ag
    with pytest.raises(ValueError, match=r"2025\.12"):
        x.__array_namespace__(api_version="2030.12")


def test_inspection():
    info = ag.__array_namespace_info__()
    assert info.capabilities() == {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
    assert info.default_device() == "cpu" and info.devices()[0] == "cpu" and isinstance(info.devices(), tuple)
    assert info.default_dtypes() == {"real floating": ag.float32, "complex floating": ag.complex64,
                                     "integral": ag.int64, "indexing": ag.int64}
    assert set(info.dtypes()) == set(DTYPES)
    assert set(info.dtypes(kind="unsigned integer")) == {d for d in INTS if d[0] == "u"}
    assert set(info.dtypes(kind=("real floating", "complex floating"))) == {*FLOATS, *COMPLEX}


# ------------------------------------------------------------------------------------------------------------- dtypes
@pytest.mark.parametrize(("a", "b"), list(itertools.combinations_with_replacement(DTYPES, 2)))
def test_promotion(a, b):
    x, y = ag.ones((2,), dtype=a), ag.ones((2,), dtype=b)
    kinds = {np.dtype(d).kind for d in (a, b)}
    if "uint64" in (a, b) and "i" in kinds:
        with pytest.raises(TypeError):
            ag.result_type(x, y)
        return
    found = ag.result_type(x, y)
    assert found == ag.result_type(y, x) == ag.result_type(a, b) == (x * y).dtype == ag.where(x == x, x, y).dtype
    if len(kinds) == 1 or kinds == {"i", "u"} or kinds == {"f", "c"}:
        assert found == np.result_type(a, b)  # the standard's table
    elif "b" in kinds or kinds & {"i", "u"}:  # mixed kinds: the wider kind's dtype as it is
        assert found == max((a, b), key=lambda d: "biufc".index(np.dtype(d).kind) if np.dtype(d).kind != "u" else 1)
    assert ag.can_cast(a, found) and ag.can_cast(y, found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_python_numbers_are_weak(dtype):
    x = ag.ones((2,), dtype=dtype)
    kind = x.dtype.kind
    if kind != "b":
        assert (x + 1).dtype == (1 * x).dtype == dtype
    if kind in "fc":
        assert (x + 1.5).dtype == (2.5 - x).dtype == ag.maximum(ag.real(x), 0.5).dtype.type(0).astype(dtype).dtype
    if kind == "c":
        assert (x * 1j).dtype == dtype
    if kind == "f":
        assert (x * 1j).dtype == {"float32": "complex64", "float64": "complex128"}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_functions(dtype):
    d = getattr(ag, dtype)
    kind = {"b": "bool", "i": "signed integer", "u": "unsigned integer", "f": "real floating",
            "c": "complex floating"}[d.kind]
    for k in ("bool", "signed integer", "unsigned integer", "real floating", "complex floating"):
        assert ag.isdtype(d, k) is (k == kind)
    assert ag.isdtype(d, "integral") is (d.kind in "iu") and ag.isdtype(d, "numeric") is (d.kind != "b")
    assert ag.isdtype(d, (ag.int8, kind)) and ag.isdtype(d, d)
    if d.kind in "fc":
        info, numpy = ag.finfo(d), np.finfo(d)
        assert info.dtype == numpy.dtype and info.bits == numpy.bits
        assert (info.eps, info.max, info.min, info.smallest_normal) == \
            (numpy.eps, numpy.max, numpy.min, numpy.smallest_normal)
        assert type(info.eps) is float
    elif d.kind in "iu":
        info, numpy = ag.iinfo(d), np.iinfo(d)
        assert (info.bits, info.max, info.min, info.dtype) == (numpy.bits, numpy.max, numpy.min, d)


# ------------------------------------------------------------------------------------- the same call, here and in NumPy
def elements(dtype):
    kind = np.dtype(dtype).kind
    if kind == "f":
        return st.floats(-100, 100, width=32) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 0.5, 1e-30])
    if kind == "c":
        return st.complex_numbers(max_magnitude=100, width=64)
    return hnp.from_dtype(np.dtype(dtype)) if kind == "b" else st.integers(0 if kind == "u" else -100, 100)


SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def arrays(dtypes, shape=SHAPES):
    return st.sampled_from(dtypes).flatmap(lambda d: hnp.arrays(d, shape, elements=elements(d)))


def some(dtypes, shape=SHAPES, **k):
    """Like `arrays`, without infinities and nan."""
    def make(d):
        kind = np.dtype(d).kind
        e = st.floats(-9, 9, width=32) if kind == "f" else elements(d)
        return hnp.arrays(d, shape, elements=e, **k)

    return st.sampled_from(dtypes).flatmap(make)


def same(got, want, rtol=None, dtype=True):
    want = np.asarray(want)
    assert type(got) is ag.Tensor and got.shape == want.shape
    if dtype:
        assert got.dtype == want.dtype
    if rtol is None:
        rtol = {"float32": 2e-5, "complex64": 2e-5}.get(got.dtype.name, 1e-10)
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=rtol if want.dtype.kind in "fc" else 0)


UNARY = {
    "": "square positive negative sign abs isfinite isinf isnan",  # of all numeric dtypes
    "r": "floor ceil trunc round",
    "f": "signbit reciprocal exp expm1 log log1p log2 log10 sqrt sin cos tan asin acos atan sinh cosh tanh "
         "asinh acosh atanh",
    "b": "logical_not", "i": "bitwise_invert", "c": "real imag conj",
}
KINDS = {"": INTS + FLOATS + COMPLEX, "r": INTS + FLOATS, "f": FLOATS, "b": ["bool"], "i": ["bool", *INTS],
         "c": COMPLEX}
BINARY = {
    "": "add subtract multiply equal not_equal", "f": "divide atan2 copysign hypot logaddexp nextafter",
    "r": "less less_equal greater greater_equal maximum minimum", "b": "logical_and logical_or logical_xor",
    "i": "bitwise_and bitwise_or bitwise_xor",
}
OPERATORS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "equal": "==", "not_equal": "!=", "less": "<",
             "less_equal": "<=", "greater": ">", "greater_equal": ">=", "bitwise_and": "&", "bitwise_or": "|",
             "bitwise_xor": "^"}


@pytest.mark.parametrize(("name", "kind"), [(n, k) for k, names in UNARY.items() for n in names.split()])
@given(data=st.data())
@settings(max_examples=15)
def test_unary(name, kind, data):
    x = data.draw(arrays(KINDS[kind]))
    want = getattr(np, name)(x)
    if name in ("isfinite", "isinf", "isnan", "signbit"):
        assert getattr(ag, name)(ag.asarray(x)).dtype == ag.bool
    same(getattr(ag, name)(ag.asarray(x)), want)


@pytest.mark.parametrize(("name", "kind"), [(n, k) for k, names in BINARY.items() for n in names.split()])
@given(data=st.data())
@settings(max_examples=15)
def test_binary(name, kind, data):
    dtype = data.draw(st.sampled_from(KINDS[kind]))
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3)).input_shapes
    x, y = (data.draw(hnp.arrays(dtype, s, elements=elements(dtype))) for s in shapes)
    want = getattr(np, name)(x, y)
    a, b = ag.asarray(x), ag.asarray(y)
    same(getattr(ag, name)(a, b), want)
    if name in OPERATORS:
        same(eval(f"a {OPERATORS[name]} b"), want)
        same(eval(f"a {OPERATORS[name]} y"), want)
        if name not in ("equal", "not_equal") and y.ndim:
            same(eval(f"y {OPERATORS[name]} a"), getattr(np, name)(y, x))


@given(data=st.data())
@settings(max_examples=40)
def test_division_pairs_with_the_remainder(data):
    dtype = data.draw(st.sampled_from(INTS + FLOATS))
    e = st.integers(1 if dtype[0] == "u" else -9, 9) if np.dtype(dtype).kind in "iu" else st.floats(-9, 9, width=32)
    x, y = (data.draw(hnp.arrays(dtype, (4,), elements=e.filter(lambda v: abs(v) > 0.01))) for _ in range(2))
    a, b = ag.asarray(x), ag.asarray(y)
    same(a // b, x // y)
    same(a % b, x % y)
    np.testing.assert_allclose(np.asarray((a // b) * b + a % b), x, rtol=1e-4, atol=1e-4)


def test_floor_division_with_infinities_is_pythons():
    x, y = ag.asarray([math.inf, 1.0, -1.0]), ag.asarray([2.0, -math.inf, math.inf])
    q = (x // y).tolist()
    assert math.isnan(q[0]) and q[1:] == [1.0 // -math.inf, -1.0 // math.inf] == [-1.0, -1.0]


@pytest.mark.parametrize(("x", "want"), [
    (complex(-0.0, 0), 0), (complex(math.inf, 0), complex(math.inf, 0)), (complex(-math.inf, 2), -1),
    (complex(-math.inf, math.inf), -1), (complex(-math.inf, math.nan), -1),
    (complex(math.inf, math.inf), complex(math.inf, math.nan)),
    (complex(math.inf, math.nan), complex(math.inf, math.nan)),
    (complex(math.nan, 0), complex(math.nan, 0)), (complex(1, math.inf), complex(math.nan, math.nan))])
@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_expm1(x, want, dtype):
    for value, goal in ((x, complex(want)), (x.conjugate(), complex(want).conjugate())):
        got = ag.expm1(ag.asarray(value, dtype=dtype)).item()
        np.testing.assert_equal([got.real, abs(got.imag)], [goal.real, abs(goal.imag)])


@given(data=st.data())
@settings(max_examples=40)
def test_shifts_and_powers(data):
    dtype = data.draw(st.sampled_from(INTS))
    x = data.draw(hnp.arrays(dtype, (3,), elements=st.integers(0, 20)))
    n = data.draw(hnp.arrays(dtype, (3,), elements=st.integers(0, 5)))
    same(ag.asarray(x) << ag.asarray(n), x << n)
    same(ag.bitwise_right_shift(ag.asarray(x), ag.asarray(n)), x >> n)
    same(ag.asarray(x) ** ag.asarray(n), x**n)
    f = x.astype("float32")
    same(ag.pow(ag.asarray(f), 0.5), np.pow(f, np.float32(0.5)))
    same(2.0 ** ag.asarray(f), np.float32(2) ** f)


@given(data=st.data())
@settings(max_examples=40)
def test_clip_and_where(data):
    x = data.draw(arrays(INTS + FLOATS))
    low, high = sorted(data.draw(st.tuples(st.integers(0, 50), st.integers(0, 50))))
    a = ag.asarray(x)
    same(ag.clip(a, low, high), np.clip(x, np.asarray(low, x.dtype), np.asarray(high, x.dtype)))
    same(ag.clip(a, min=low), np.maximum(x, np.asarray(low, x.dtype)))
    same(ag.clip(a, max=ag.asarray(high, dtype=x.dtype)), np.minimum(x, np.asarray(high, x.dtype)))
    same(ag.where(a > low, a, 1), np.where(x > low, x, np.asarray(1, x.dtype)))


# -------------------------------------------------------------------------------------------------------- reductions
@st.composite
def with_axis(draw, dtypes, several=True, min_side=0, **k):
    x = draw(some(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=min_side, max_side=4)))
    choices = [st.none()]
    if x.ndim:
        choices.append(st.integers(-x.ndim, x.ndim - 1))
        if several:
            choices.append(hnp.valid_tuple_axes(x.ndim))
    return x, draw(st.one_of(choices))


@pytest.mark.parametrize("name", ["sum", "prod", "all", "any", "count_nonzero"])
@given(case=with_axis(DTYPES), keep=st.booleans())
@settings(max_examples=30)
def test_reductions(name, case, keep):
    x, axis = case
    x = x % 3 if x.dtype.kind in "iu" else x
    want = getattr(np, name)(x, axis=axis, keepdims=keep)
    same(getattr(ag, name)(ag.asarray(x), axis=axis, keepdims=keep), want, 1e-4)


@pytest.mark.parametrize("name", ["max", "min", "mean", "std", "var"])
@given(case=with_axis(FLOATS + INTS, min_side=1), keep=st.booleans())
@settings(max_examples=30)
def test_reductions_of_something(name, case, keep):
    x, axis = case
    x = x if name in ("max", "min") or x.dtype.kind == "f" else x.astype("float64")
    want = getattr(np, name)(x, axis=axis, keepdims=keep)
    same(getattr(ag, name)(ag.asarray(x), axis=axis, keepdims=keep), want, 1e-4)
    if name in ("std", "var") and axis is None and x.size > 1:
        same(getattr(ag, name)(ag.asarray(x), correction=1), getattr(np, name)(x, correction=1), 1e-4)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@given(case=with_axis(FLOATS + INTS, several=False, min_side=1), keep=st.booleans())
@settings(max_examples=30)
def test_arg_reductions(name, case, keep):
    x, axis = case
    same(getattr(ag, name)(ag.asarray(x), axis=axis, keepdims=keep), getattr(np, name)(x, axis=axis, keepdims=keep))


def test_reductions_of_nothing():
    for name in ("max", "min", "argmax", "argmin"):
        with pytest.raises(ValueError):
            getattr(ag, name)(ag.zeros((0, 2)))
    assert ag.sum(ag.zeros((0, 2))).item() == 0 and ag.prod(ag.zeros((0, 2)), axis=0).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_of_sums(dtype):
    x = ag.ones((3,), dtype=dtype)
    want = {"i": "int64", "u": "uint64", "b": "int64"}.get(x.dtype.kind, dtype)
    for fn in (ag.sum, ag.prod, ag.cumulative_sum, ag.cumulative_prod):
        if dtype == "bool":
            continue
        wide = "complex128" if x.dtype.kind == "c" else "float64"
        assert fn(x).dtype == want and fn(x, dtype=wide).dtype == wide
    assert ag.linalg.trace(ag.ones((2, 2), dtype=dtype) if dtype != "bool" else ag.ones((2, 2))).dtype.itemsize >= 4


@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
@given(case=with_axis(INTS + FLOATS + COMPLEX, several=False), initial=st.booleans())
@settings(max_examples=25)
def test_cumulative(name, case, initial):
    x, axis = case
    if x.ndim == 0:
        return
    axis, x = (-1 if axis is None else axis), x / 10 if x.dtype.kind in "fc" else x % 3
    same(getattr(ag, name)(ag.asarray(x), axis=axis, include_initial=initial),
         getattr(np, name)(x, axis=axis, include_initial=initial), 1e-4)


@given(case=with_axis(INTS + FLOATS, several=False, min_side=1), n=st.integers(0, 2))
@settings(max_examples=25)
def test_diff(case, n):
    x, axis = case
    if x.ndim == 0:
        return
    axis = -1 if axis is None else axis
    same(ag.diff(ag.asarray(x), axis=axis, n=n), np.diff(x, axis=axis, n=n), 1e-4)
    same(ag.diff(ag.asarray(x), axis=axis, prepend=ag.asarray(x), append=ag.asarray(x)),
         np.diff(x, axis=axis, prepend=x, append=x), 1e-4)


# ---------------------------------------------------------------------------------------------------------- movement
@given(data=st.data())
@settings(max_examples=60)
def test_movement(data):
    x = data.draw(some(DTYPES))
    a = ag.asarray(x)
    order = data.draw(st.permutations(range(x.ndim)))
    same(ag.permute_dims(a, tuple(order)), np.transpose(x, order))
    same(ag.reshape(a, (-1,)) if x.size else ag.reshape(a, (0,)), x.reshape(-1))
    same(ag.flip(a), np.flip(x))
    axis = data.draw(st.integers(-x.ndim - 1, x.ndim))
    same(ag.expand_dims(a, axis), np.expand_dims(x, axis))
    same(ag.squeeze(ag.expand_dims(a, axis), axis), x)
    same(ag.stack([a, a], axis=axis), np.stack([x, x], axis=axis))
    same(ag.tile(a, (2, 1, 2)), np.tile(x, (2, 1, 2)))
    same(ag.roll(a, 2), np.roll(x, 2))
    if x.ndim:
        axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
        same(ag.concat([a, a], axis=axis), np.concat([x, x], axis=axis))
        same(ag.moveaxis(a, axis, 0), np.moveaxis(x, axis, 0))
        same(ag.roll(a, 1, axis=axis), np.roll(x, 1, axis=axis))
        same(ag.repeat(a, 2, axis=axis), np.repeat(x, 2, axis=axis))
        for got, want in zip(ag.unstack(a, axis=axis), np.unstack(x, axis=axis), strict=True):
            same(got, want)
    if x.ndim >= 2:
        k = data.draw(st.integers(-2, 2))
        same(ag.tril(a, k=k), np.tril(x, k))
        same(ag.triu(a, k=k), np.triu(x, k))
        same(ag.matrix_transpose(a), np.matrix_transpose(x))
        same(ag.linalg.diagonal(a, offset=k), np.linalg.diagonal(x, offset=k))


@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3))
@settings(max_examples=40)
def test_broadcasting(shapes):
    xs = [np.ones(s, "int32") for s in shapes.input_shapes]
    assert ag.broadcast_shapes(*shapes.input_shapes) == shapes.result_shape
    out = ag.broadcast_arrays(*map(ag.asarray, xs))
    assert type(out) is tuple and all(o.shape == shapes.result_shape for o in out)
    same(ag.broadcast_to(ag.asarray(xs[0]), shapes.result_shape), np.broadcast_to(xs[0], shapes.result_shape))


def test_broadcasting_that_fails():
    assert ag.broadcast_shapes() == ()
    for call in (lambda: ag.broadcast_shapes((2,), (3,)), lambda: ag.broadcast_to(ag.ones((2,)), (3,)),
                 lambda: ag.ones((2,)) + ag.ones((3,))):
        with pytest.raises(errors.ShapeError):
            call()


# ---------------------------------------------------------------------------------------------------------- indexing
@given(data=st.data())
@settings(max_examples=80)
def test_indexing(data):
    x = data.draw(some(DTYPES))
    key = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))
    a = ag.asarray(x)
    same(a[key], x[key])
    value = data.draw(elements(x.dtype).filter(lambda v: not isinstance(v, float) or math.isfinite(v)))
    want = x.copy()
    want[key] = value
    a[key] = value
    same(a, want)
    mask = data.draw(hnp.arrays(bool, x.shape))
    same(ag.asarray(x)[ag.asarray(mask)], x[mask])
    a = ag.asarray(x)
    a[ag.asarray(mask)] = value
    same(a, np.where(mask, np.asarray(value, x.dtype), x))


@given(data=st.data())
@settings(max_examples=40)
def test_integer_arrays_and_take(data):
    x = data.draw(some(DTYPES, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    i = data.draw(hnp.arrays(np.int64, (3,), elements=st.integers(0, x.shape[axis] - 1)))
    a = ag.asarray(x)
    same(ag.take(a, ag.asarray(i), axis=axis), np.take(x, i, axis=axis))
    j = data.draw(hnp.arrays(np.int64, (2, 3), elements=st.integers(-x.shape[0], x.shape[0] - 1)))
    same(a[ag.asarray(j)], x[j])
    order = np.argsort(x.real, axis=axis)
    same(ag.take_along_axis(a, ag.asarray(order), axis=axis), np.take_along_axis(x, order, axis=axis))


def test_a_mask_without_elements_selects_nothing():
    assert ag.ones((3,))[ag.asarray([], dtype=bool)].shape == (0,)
    with pytest.raises(IndexError):
        ag.ones((3,))[ag.asarray([True, False])]


def test_assigned_numbers_keep_their_precision():
    x = ag.zeros((2,), dtype="float64")
    x[0] = 0.1
    assert x[0].item() == 0.1 and x.at[1].set(1 / 3)[1].item() == 1 / 3
    with pytest.raises(errors.DTypeError, match="300"):
        ag.zeros((2,), dtype="uint8")[0:1] = 300


# ---------------------------------------------------------------------------------------- creation, searching, sorting
@given(start=st.integers(-20, 20), stop=st.integers(-20, 20), step=st.integers(-5, 5).filter(bool), data=st.data())
@settings(max_examples=40)
def test_creation(start, stop, step, data):
    same(ag.arange(start, stop, step), np.arange(start, stop, step))
    dtype = data.draw(st.sampled_from(FLOATS))
    same(ag.arange(start, stop, step / 2, dtype=dtype), np.arange(start, stop, step / 2, dtype=dtype))
    n, endpoint = abs(step), data.draw(st.booleans())
    same(ag.linspace(start, stop, n, dtype=dtype, endpoint=endpoint),
         np.linspace(start, stop, n, dtype=dtype, endpoint=endpoint))
    same(ag.eye(n, k=step, dtype=dtype), np.eye(n, k=step, dtype=dtype))
    same(ag.full((2, n), start), np.full((2, n), start, "int64"))
    for x, y in zip(ag.meshgrid(ag.arange(2), ag.arange(n), indexing="ij"),
                    np.meshgrid(np.arange(2), np.arange(n), indexing="ij"), strict=True):
        same(x, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_filled(dtype):
    for shape in ((), (0,), (2, 3), 4):
        for fn in (ag.zeros, ag.ones, ag.empty):
            x = fn(shape, dtype=dtype)
            assert x.dtype == dtype and x.shape == (shape if isinstance(shape, tuple) else (shape,))
    assert ag.zeros(2, 3).shape == ag.ones(2, 3).shape == ag.empty(2, 3).shape == (2, 3)
    x = ag.full_like(ag.zeros((2,), dtype=dtype), 1)
    assert x.dtype == dtype and bool((x == 1).all())
    assert ag.full_like(ag.zeros((1,), dtype="float64"), 16777217.0).item() == 16777217.0


@given(case=with_axis(INTS + FLOATS, several=False), descending=st.booleans())
@settings(max_examples=40)
def test_sorting(case, descending):
    x, axis = case
    if x.ndim == 0:
        return
    axis = -1 if axis is None else axis
    same(ag.sort(ag.asarray(x), axis=axis, descending=descending),
         np.flip(np.sort(x, axis=axis), axis) if descending else np.sort(x, axis=axis))
    order = ag.argsort(ag.asarray(x), axis=axis, descending=descending)
    if not descending:
        same(order, np.argsort(x, axis=axis, stable=True))
    same(ag.take_along_axis(ag.asarray(x), order, axis=axis), ag.sort(ag.asarray(x), axis=axis, descending=descending))


@given(x=some([*INTS, *FLOATS], hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)))
@settings(max_examples=40)
def test_sets_and_searching(x):
    x = np.trunc(x / 4).astype(x.dtype)
    a = ag.asarray(x)
    got, want = ag.unique_all(a), np.unique_all(x)
    assert set(got._fields) == {"values", "indices", "inverse_indices", "counts"}
    order = np.argsort(np.asarray(got.values))
    for name in ("values", "indices", "counts"):
        np.testing.assert_array_equal(np.asarray(getattr(got, name))[order], getattr(want, name))
    same(ag.take(got.values, ag.reshape(got.inverse_indices, (-1,)), axis=0), x.reshape(-1))
    same(ag.sort(ag.unique_values(a)), np.sort(np.unique_values(x)))
    for p, q in zip(ag.nonzero(a), np.nonzero(x), strict=True):
        same(p, q)
    line = np.sort(x.reshape(-1))
    for side in ("left", "right"):
        same(ag.searchsorted(ag.asarray(line), a, side=side), np.searchsorted(line, x, side=side))
    same(ag.isin(a, ag.asarray(line[:2])), np.isin(x, line[:2]))


# --------------------------------------------------------------------------------------------- linear algebra, Fourier
def matrices(n=3):
    return st.tuples(st.sampled_from(FLOATS + COMPLEX), st.integers(0, 99), st.sampled_from([(), (2,), (0,)])).map(
        lambda t: well_conditioned(np.random.default_rng(t[1]), n, t[2], t[0]))


def well_conditioned(rng, n, stack, dtype):
    x = rng.normal(size=(*stack, n, n)) + (1j * rng.normal(size=(*stack, n, n)) if dtype[0] == "c" else 0)
    return (x + 4 * np.eye(n)).astype(dtype)


@given(x=matrices())
@settings(max_examples=30)
def test_linalg(x):
    a, tol = ag.asarray(x), 1e-3 if x.dtype.itemsize <= 8 and x.dtype.name in ("float32", "complex64") else 1e-9
    n = x.shape[-1]
    eye = np.broadcast_to(np.eye(n), x.shape)
    la = ag.linalg

    def near(got, want, exact=True):
        assert got.dtype == (x.dtype if exact else np.empty(0, x.dtype).real.dtype)
        np.testing.assert_allclose(np.asarray(got), want, rtol=tol, atol=tol)

    near(la.inv(a) @ a, eye)
    near(la.solve(a, a), eye)
    near(la.det(a), np.linalg.det(x))
    h = x @ np.conj(np.swapaxes(x, -1, -2))
    low = la.cholesky(ag.asarray(h))
    near(low @ ag.conj(low).mT, h)
    near(la.cholesky(ag.asarray(h), upper=True), np.conj(np.swapaxes(np.asarray(low), -1, -2)))
    q, r = la.qr(a)
    near(q @ r, x)
    near(ag.conj(q).mT @ q, eye)
    near(r, np.triu(np.asarray(r)))
    u, s, vh = la.svd(a, full_matrices=False)
    near((u * ag.astype(s, x.dtype)[..., None, :]) @ vh, x)
    near(s, np.linalg.svdvals(x), False)
    near(la.svdvals(a), np.linalg.svdvals(x), False)
    w, v = la.eigh(ag.asarray(h))
    near(ag.asarray(h) @ v, np.asarray(v) * np.asarray(w)[..., None, :])
    near(la.eigvalsh(ag.asarray(h)), np.linalg.eigvalsh(h), False)
    sign, log = la.slogdet(a)
    near(sign * ag.exp(log), np.linalg.det(x))
    near(la.pinv(a), np.linalg.pinv(x))
    near(la.pinv(a, rtol=ag.full(x.shape[:-2], 1e-6, dtype=s.dtype)), np.linalg.pinv(x))
    near(la.matrix_power(a, 3), np.linalg.matrix_power(x, 3))
    assert la.matrix_rank(a).tolist() == np.full(x.shape[:-2], n).tolist()
    small = ag.full(x.shape[:-2], 1e-6, dtype=s.dtype)
    assert la.matrix_rank(a, rtol=small).tolist() == np.full(x.shape[:-2], n).tolist()
    for order in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf):
        if x.size:
            near(la.matrix_norm(a, ord=order), np.linalg.matrix_norm(x, ord=order), False)
    near(la.trace(a), np.linalg.trace(x))
    near(la.cross(a, a[..., ::-1]), np.linalg.cross(x, x[..., ::-1]))
    values, vectors = la.eig(a)
    assert values.dtype.kind == vectors.dtype.kind == "c"
    np.testing.assert_allclose(np.asarray(a.astype(values.dtype) @ vectors),
                               np.asarray(vectors * values[..., None, :]), rtol=tol, atol=tol)


@given(data=st.data())
@settings(max_examples=50)
def test_products(data):
    dtype = data.draw(st.sampled_from(INTS + FLOATS + COMPLEX))
    shapes = data.draw(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=0,
                                                         max_side=3))
    x, y = (data.draw(hnp.arrays(dtype, s, elements=st.integers(0, 3))) for s in shapes.input_shapes)
    a, b = ag.asarray(x), ag.asarray(y)
    same(ag.matmul(a, b), np.matmul(x, y), 1e-5)
    same(a @ b, np.matmul(x, y), 1e-5)
    line = data.draw(hnp.arrays(dtype, (2, 3), elements=elements(dtype) if dtype[0] == "c" else st.integers(0, 5)))
    p = ag.asarray(line)
    same(ag.vecdot(p, p), np.vecdot(line, line), 1e-4)
    same(ag.vecdot(p, p, axis=0), np.vecdot(line, line, axis=0), 1e-4)
    same(ag.tensordot(p, p, axes=2), np.tensordot(line, line, axes=2), 1e-4)
    same(ag.tensordot(p, p, axes=((1,), (1,))), np.tensordot(line, line, axes=((1,), (1,))), 1e-4)
    same(ag.linalg.outer(p[0], p[1]), np.linalg.outer(line[0], line[1]), 1e-4)


@given(x=some(FLOATS), keep=st.booleans(), order=st.sampled_from([0, 1, 2, 3, math.inf, -math.inf]))
@settings(max_examples=30)
def test_vector_norm(x, keep, order):
    if x.size and x.ndim:
        same(ag.linalg.vector_norm(ag.asarray(x), axis=-1, ord=order, keepdims=keep),
             np.linalg.vector_norm(x, axis=-1, ord=order, keepdims=keep), 1e-4)
        same(ag.linalg.vector_norm(ag.asarray(x), ord=order), np.linalg.vector_norm(x, ord=order), 1e-4)


@given(data=st.data(), norm=st.sampled_from(["backward", "ortho", "forward"]))
@settings(max_examples=40)
def test_fourier(data, norm):
    x = data.draw(some(FLOATS + COMPLEX, hnp.array_shapes(min_dims=1, max_dims=3, min_side=2, max_side=5)))
    single = x.dtype.name in ("float32", "complex64")
    a, tol, axis = ag.asarray(x), 2e-3 if single else 1e-9, data.draw(st.integers(-x.ndim, x.ndim - 1))
    n = data.draw(st.none() | st.integers(2, 7))
    names = ["fft", "ifft", "hfft", "irfft"] if x.dtype.kind == "c" else ["rfft", "ihfft"]
    for name in names:
        want = getattr(np.fft, name)(x, n=n, axis=axis, norm=norm)
        same(getattr(ag.fft, name)(a, n=n, axis=axis, norm=norm),
             want.astype({"c": "complex64", "f": "float32"}[want.dtype.kind]) if single else want, tol)
    for name in ["fftn", "ifftn", "irfftn"] if x.dtype.kind == "c" else ["rfftn"]:
        want = getattr(np.fft, name)(x, norm=norm)
        got = getattr(ag.fft, name)(a, norm=norm)
        same(got, want.astype(got.dtype), tol)
        assert got.dtype.itemsize == (np.empty(0, want.dtype).itemsize if not single else
                                      {"c": 8, "f": 4}[want.dtype.kind])
    same(ag.fft.fftshift(a), np.fft.fftshift(x))
    same(ag.fft.ifftshift(a, axes=axis), np.fft.ifftshift(x, axes=axis))
    m = data.draw(st.integers(1, 9))
    same(ag.fft.fftfreq(m, d=0.5, dtype="float64", device="cpu"), np.fft.fftfreq(m, d=0.5))
    same(ag.fft.rfftfreq(m), np.fft.rfftfreq(m).astype("float32"))


# ---------------------------------------------------------------------------------------------------------- exchange
@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_both_ways_without_a_copy(dtype):
    theirs = np.arange(4).astype(dtype)
    ours = ag.from_dlpack(theirs)
    assert ours.dtype == dtype and np.shares_memory(np.asarray(ours), theirs)
    back = np.from_dlpack(ours)
    assert back.dtype == dtype and np.shares_memory(back, theirs)
    copied = ag.from_dlpack(theirs, copy=True)
    assert not np.shares_memory(np.asarray(copied), theirs) and copied.tolist() == ours.tolist()
    assert ours.__dlpack_device__() == (1, 0) and ag.from_dlpack(ours) is ours
    assert ag.from_dlpack(theirs, device="cpu").device == "cpu"


def test_dlpack_that_cannot_be():
    with pytest.raises(errors.GradientError, match="detach"):
        np.from_dlpack(ag.ones((2,), requires_grad=True))
    with pytest.raises(errors.ArgumentTypeError, match="__dlpack__"):
        ag.from_dlpack([1, 2])


def test_asarray():
    a = np.arange(3.0)
    copy, view = ag.asarray(a), ag.asarray(a, copy=False)
    a[0] = 7
    assert copy[0].item() == 0 and view[0].item() == 7
    t = ag.asarray(copy, copy=True)
    t[0] = 5
    assert copy[0].item() == 0 and ag.asarray(copy) is copy
    with pytest.raises(ValueError, match="copy"):
        ag.asarray(a, dtype="float32", copy=False)
    flags = ag.asarray(ag.asarray([True, False]), copy=True)
    flags &= ag.asarray([True, True])
    assert flags.tolist() == [True, False]
    assert ag.asarray([1, 2.5]).dtype == ag.float32 and ag.asarray([[1], [2]]).dtype == ag.int64
    assert ag.asarray([1j]).dtype == ag.complex64 and ag.asarray([True]).dtype == ag.bool
