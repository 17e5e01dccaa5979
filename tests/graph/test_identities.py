"""Every identity of `ops.identities`: exact ones bit for bit on special values, the others nearer to the truth."""

import ast

import numpy as np
import pytest

from agog.array import dtypes
from agog.graph import build, verify, xp
from agog.graph.passes.fold import fold
from agog.graph.passes.simplify import simplify, stabilise
from agog.ops.identities import TABLE_OF_IDENTITIES

ALL = [i for found in TABLE_OF_IDENTITIES.values() for i in found]
STATICS = {  # what the names of static parameters may stand for: (shape of x, values) where the default does not do
    "reshape(x, shape=a)": ((2, 3), {"a": (2, 3)}),
    "reshape(reshape(x, shape=a), shape=b)": ((2, 3), {"a": (6,), "b": (3, 2)}),
    "permute_dims(x, axes=a)": ((2, 1, 3), {"a": (1, 0, 2)}),
    "permute_dims(permute_dims(x, axes=a), axes=b)": ((2, 3, 4), {"a": (2, 0, 1), "b": (1, 0, 2)}),
    "broadcast_to(x, shape=a)": ((2, 3), {"a": (2, 3)}),
    "broadcast_to(broadcast_to(x, shape=a), shape=b)": ((1, 3), {"a": (2, 3), "b": (4, 2, 3)}),
    "flip(flip(x, axis=a), axis=a)": ((2, 3), {"a": (1,)}),
    "_getitem(x, index=i)": ((2, 3), {"i": (slice(None), Ellipsis)}),
    "astype(x, dtype=a)": ((2, 3), {"a": "same"}),
    "astype(astype(x, dtype=a), dtype=b)": ((2, 3), {"a": "wider", "b": "narrower"}),
    "log(softmax(x, axis=a))": ((4, 5), {"a": -1}),
    "log(sum(exp(x), axis=a, keepdims=k))": ((4, 5), {"a": (1,), "k": True}),
    "exp(x) / sum(exp(x), axis=a, keepdims=k)": ((4, 5), {"a": (1,), "k": True}),
    "x - logsumexp(x, axis=a, keepdims=k)": ((4, 5), {"a": (1,), "k": True}),
    "exp(log_softmax(x, axis=a))": ((4, 5), {"a": 0}),
}
DTYPES = {"b": ["bool"], "i": ["int8", "int64"], "u": ["uint8"], "f": ["float32", "float64", "float16"],
          "c": ["complex64"]}
WIDER = {"float16": "float32", "float32": "float64", "float64": "float64", "int8": "int32", "int64": "int64",
         "uint8": "uint32"}


def inputs_of(identity):
    """Names of values in the order of the text, without functions and static parameters."""
    tree = ast.parse(identity.text, mode="eval")
    functions = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call)}
    keywords = {k.value.id for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords}
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]
    return [n for n in dict.fromkeys(names) if n not in functions | keywords]


def graph_of(identity, dtype):
    shape, statics = STATICS.get(identity.text, ((3, 21), {}))
    small = {"f": "float16", "i": "int8", "u": "uint8"}.get(dtypes.kind(np.dtype(dtype)))
    values = {"same": dtype, "wider": WIDER.get(dtype), "narrower": small}
    statics = {k: np.dtype(values[v]) if isinstance(v, str) else v for k, v in statics.items()}
    names = inputs_of(identity)
    functions = {n: getattr(xp, n) for n in (
        "log exp sum sqrt square reshape permute_dims broadcast_to flip _getitem astype softmax log_softmax logsumexp "
        "sigmoid log_sigmoid log1p reciprocal where logical_not maximum minimum positive conj real abs relu floor ceil "
        "round trunc sign cos cosh").split()}
    code = compile(identity.text, "identity", "eval")
    chooses = "where" in identity.text
    specs = [(() if n == "c" and not chooses else shape, "bool" if n == "c" and chooses else dtype) for n in names]

    def fn(*args):
        env = dict(zip(names, args))
        if identity.text == "x / c":
            env["c"] = np.asarray(4.0, dtype)
        if identity.text == "where(c, x, y)":
            env["c"] = np.asarray(False)
        return eval(code, {"__builtins__": {}}, functions | statics | env)

    return build(fn, *specs), names


def special(shape, dtype, rng):
    kind = dtypes.kind(np.dtype(dtype))
    n = int(np.prod(shape))
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "iu":
        info = np.iinfo(dtype)
        some = np.array([0, 1, info.max, info.min, 2, 5], dtype)
        return rng.choice(some, n).reshape(shape)
    info = np.finfo(dtype)
    some = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.5, 0.1, 3.0, float(info.max), float(info.tiny),
            float(info.tiny) / 2]
    x = rng.choice(np.array(some), n).reshape(shape).astype(info.dtype)
    if kind == "c":
        x = x.astype(dtype)
        x.imag = rng.choice(np.array(some), n).reshape(shape)
    return x


def bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
    parts = {"c": ((a.real, b.real), (a.imag, b.imag)), "f": ((a, b),)}
    for x, y in parts.get(a.dtype.kind, ()):
        zero = x == 0
        np.testing.assert_array_equal(np.signbit(x[zero]), np.signbit(y[zero]))


@pytest.mark.parametrize("identity", [i for i in ALL if i.exact], ids=lambda i: i.text)
def test_exact(identity):
    applied = False
    for kind in identity.exact:
        for dtype in DTYPES[kind]:
            try:
                graph, _ = graph_of(identity, dtype)
            except Exception as error:  # the row does not take this dtype
                assert type(error).__name__ == "DTypeError" or dtype not in WIDER, error
                continue
            if dtypes.kind(graph.outputs[0].dtype) != kind:
                continue
            after = verify(simplify(graph))
            applied |= after is not graph
            rng = np.random.default_rng(1)
            for _ in range(3):
                arrays = [special(v.shape, v.dtype, rng) for v in graph.inputs]
                bits(after.run(*arrays), graph.run(*arrays))
    assert applied, "the identity never applied"


def test_exact_means_the_sign_of_zero_too():
    for fn in (lambda x: x + 0.0, lambda x: x - -0.0, lambda x: x * 0, lambda x: 0 - x, lambda x: x ** 2):
        graph = build(fn, ((3,), "float32"))
        assert simplify(graph) is graph


@pytest.mark.parametrize("identity", [i for i in ALL if i.accurate], ids=lambda i: i.text)
def test_accurate(identity):
    """In float32 the new form is as near as the old one to what the old one gives in float64, or within some ulps."""
    graph, _ = graph_of(identity, "float32")
    after = verify(stabilise(fold(graph)))
    assert after is not graph and str(after) != str(graph), "the identity did not apply"
    truth = graph_of(identity, "float64")[0]
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 6.0):
        arrays = [np.abs(rng.standard_normal(v.shape) * scale).astype("f4") * rng.choice(
            [1, 1 if "log1p(-" in identity.text else -1], v.shape).astype("f4") for v in graph.inputs]
        want = truth.run(*[a.astype("f8") for a in arrays])
        with np.errstate(all="ignore"):
            old, new = (np.abs(g.run(*arrays).astype("f8") - want) for g in (graph, after))
        trusted = np.isfinite(want) & np.isfinite(old)
        ulp = np.spacing(np.abs(want).astype("f4")).astype("f8")
        assert (new / ulp)[trusted].max() <= max(2 * (old / ulp)[trusted].max(), 24)


@pytest.mark.parametrize("fn, x, want", [
    (lambda x: xp.log(xp.softmax(x)), [0.0, 1000.0], [-1000.0, 0.0]),
    (lambda x: xp.log(xp.sum(xp.exp(x), axis=-1)), [1000.0, 1000.0], 1000.6931),
    (lambda x: xp.log(1 + xp.exp(x)), [1000.0, -1000.0], [1000.0, 0.0]),
    (lambda x: xp.log(xp.sigmoid(x)), [-1000.0, 0.0], [-1000.0, -0.6931472]),
    (lambda x: xp.log(1 - xp.sigmoid(x)), [1000.0, 0.0], [-1000.0, -0.6931472]),
    (lambda x: xp.exp(x) / xp.sum(xp.exp(x), axis=-1, keepdims=True), [1000.0, 1000.0], [0.5, 0.5]),
    (lambda x: xp.log(xp.exp(x) + xp.exp(2 * x)), [1000.0, 0.0], [2000.0, 0.6931472]),
    (lambda x: xp.sqrt(x * x), [1e30, -1e30], [1e30, 1e30]),
    (lambda x: xp.exp(x) - 1, [1e-10, 0.0], [1e-10, 0.0]),
    (lambda x: xp.log(1 + x), [1e-10, 0.0], [1e-10, 0.0]),
    (lambda x: 1 / (1 + xp.exp(-x)), [-1000.0, 1000.0], [0.0, 1.0]),
])
def test_where_the_plain_form_breaks(fn, x, want):
    graph = build(fn, ((2,), "float32")).optimized()
    np.testing.assert_allclose(graph.run(np.array(x, "f4")), np.array(want, "f4"), rtol=1e-6)
