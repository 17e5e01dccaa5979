"""Every row of the op table in a graph: inference, text, interpreter, and its rules on Symbols."""

import zlib

import numpy as np
import pytest

import agog
from agog import tape
from agog.array import dtypes
from agog.errors import GraphError
from agog.graph import Builder, parse, verify, vjp
from agog.graph.infer import infer, is_dynamic
from agog.ops import facts, identities
from agog.ops.namespaces import raw
from agog.ops.row import TABLE

ROWS = sorted(TABLE)


class Sampler:
    def __init__(self, dtype, name):
        self.dtype, self.rng = np.dtype(dtype), np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, *shape, lo=-2, hi=2, imaginary=None):
        x = self.rng.uniform(lo, hi, shape)
        if self.dtype.kind == "c":
            x = x + 1j * self.rng.uniform(*((lo, hi) if imaginary is None else (-imaginary, imaginary)), shape)
        return np.asarray(x).astype(self.dtype)

    def ints(self, high, *shape):
        return np.asarray(self.rng.integers(0, high, shape), np.int64)


def cases(op, dtype):
    """[(promoted inputs, checked statics)]"""
    s = Sampler(dtype, op.name)
    if op.samples is not None:
        found = op.samples(s)
    else:
        low, high = op.domain if op.domain is not None else (0.3, 0.7)
        if not isinstance(low, tuple):
            low, high = (low, high), None
        ranges = [low] * len(op.inputs) if high is None else [low, high][:len(op.inputs)]
        if len(ranges) < len(op.inputs):
            ranges = [ranges[0]] * len(op.inputs)
        found = [(tuple(s(3, 4, lo=a, hi=b) for a, b in ranges), {})]
    out = []
    for inputs, given in found:
        statics = tuple((op.statics | given).values())
        b = Builder()
        try:
            values = b._promoted(op, tuple(inputs))
        except agog.errors.DTypeError:
            continue
        arrays = [None if v is None else v.data if hasattr(v, "data") else np.asarray(v) for v in values] \
            if not b.nodes else [None if x is None else np.asarray(x) for x in inputs]
        if b.nodes:
            continue
        if op.check is not None:
            statics = op.check(*arrays, *statics)
        out.append((arrays, statics))
    return out


def one_node(op, arrays, statics, specs=None):
    b = Builder("one")
    values = [None if a is None else b.input(a.shape, a.dtype, path=str(i)).value for i, a in enumerate(arrays)]
    outs = b.add(op, values, statics, specs)
    return b.build([b.symbol(v) for v in outs])


def bits(x, y):
    return x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
def test_inference_text_and_interpreter(name, dtype):
    op = TABLE[name]
    for arrays, statics in cases(op, dtype):
        with np.errstate(all="ignore"):
            out = op.raw(*arrays, *statics)
        out = [np.asarray(o) for o in (out if isinstance(out, tuple) else (out,))]
        specs = [(o.shape, o.dtype) for o in out]
        if is_dynamic(op, arrays, statics):
            graph = one_node(op, arrays, statics, specs)
        else:
            assert list(infer(op, arrays, statics)) == specs
            graph = one_node(op, arrays, statics)
        verify(graph)
        text, table = graph.text()
        again = parse(text, table)
        assert again.text() == (text, table)
        present = [a for a in arrays if a is not None]
        if len(present) == len(arrays):
            for g in (graph, again, graph.optimized()):
                got = g.run(*arrays)
                got = got if isinstance(got, tuple) else (got,)
                assert all(bits(a, b) for a, b in zip(got, out)), name


@pytest.mark.parametrize("name", [n for n in ROWS if TABLE[n].vjp])
def test_rules_run_on_symbols(name):
    """The gradient of one row, built as a graph, is that of the tape's walk on arrays."""
    op = TABLE[name]
    for arrays, statics in cases(op, "float64"):
        if any(a is None for a in arrays) or is_dynamic(op, arrays, statics):
            continue
        graph = one_node(op, arrays, statics)
        wrt = [i for i, a in enumerate(arrays) if dtypes.is_inexact(a.dtype)]
        if not wrt:
            continue
        out = op.raw(*arrays, *statics)
        outs = out if isinstance(out, tuple) else (out,)
        outs = [np.asarray(o) for o in outs]
        rng = np.random.default_rng(0)
        gs = [rng.standard_normal(o.shape).astype(o.dtype) for o in outs if dtypes.is_inexact(o.dtype)]
        if not gs:
            continue
        try:
            joint = verify(vjp(graph, wrt))
        except GraphError as error:  # the gradient of a value written through a mask
            assert "depends on the values" in str(error) and any(a.dtype == bool for a in arrays)
            continue
        got = joint.run(*arrays, *[np.conj(g) for g in gs])
        got = (got if isinstance(got, tuple) else (got,))[len(outs):]
        # the same by the tape
        leaves = [tape.Leaf(a.shape, a.dtype) if i in wrt else None for i, a in enumerate(arrays)]
        rules = [True] * len(leaves) if op.variadic else op.rules
        parents = tuple(p if r is not None else None for p, r in zip(leaves, rules))
        if not any(p is not None for p in parents):
            continue
        node = tape.record(op, parents, (*arrays, *outs), statics,
                           outs[0].shape if len(outs) == 1 else [(o.shape, o.dtype) for o in outs])
        roots = [node] if len(outs) == 1 else [tape.Pick(node, i, o.shape) for i, o in enumerate(outs)
                                               if dtypes.is_inexact(o.dtype)]
        with np.errstate(all="ignore"):
            found = tape.pullback(raw, roots, gs)
        for g, i in zip(got, wrt):
            want = found.get(leaves[i])
            want = np.zeros(arrays[i].shape) if want is None else want
            want = np.conj(np.broadcast_to(want, arrays[i].shape))
            assert g.shape == arrays[i].shape and g.dtype == arrays[i].dtype
            want = want.real if arrays[i].dtype.kind != "c" else want
            np.testing.assert_allclose(g, want, rtol=1e-9, atol=1e-10, err_msg=name)


def test_facts_name_rows():
    assert set(TABLE) >= facts.NAMES
    assert all(op in TABLE.values() for op in identities.TABLE_OF_IDENTITIES)


@pytest.mark.parametrize("name", facts.COMMUTATIVE)
def test_commutative(name):
    rng = np.random.default_rng(0)
    x, y = rng.integers(-3, 4, (2, 50))
    arrays = [(x != 0, y != 0)] if TABLE[name].takes == "b" else [(x, y), (x > 0, y > 0)]
    if "f" in TABLE[name].takes:
        special = np.array([0.0, -0.0, np.inf, -np.inf, 1e-40, 1.1, 3e38], "f4")
        arrays.append(tuple(a.ravel() for a in np.meshgrid(special, special)))
    for a, b in arrays:
        with np.errstate(all="ignore"):
            assert bits(np.asarray(TABLE[name].raw(a, b)), np.asarray(TABLE[name].raw(b, a)))


@pytest.mark.parametrize("name", facts.VIEWS)
def test_views_are_views(name):
    from agog.graph.passes.views import strided

    op = TABLE[name]
    for arrays, statics in cases(op, "float32"):
        graph = one_node(op, arrays, statics)
        found = strided(graph.nodes[0])
        want = graph.run(*arrays)
        if found is None:
            assert want.size == 0 or arrays[0].size == 0
            continue
        start, strides = found
        flat = np.ascontiguousarray(arrays[0]).reshape(-1)
        at = start + sum((np.arange(n).reshape((-1,) + (1,) * (want.ndim - 1 - i)) * s
                          for i, (n, s) in enumerate(zip(want.shape, strides))), np.zeros(want.shape, int))
        assert bits(flat[at], want)
