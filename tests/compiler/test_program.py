"""Programs: calling, islands, guards, errors, effects, forms, threads, memory, and what they say about themselves."""

import gc
import itertools
import math
import os
import threading
import weakref

import numpy as np
import pytest

from agog import config
from agog.array import large
from agog.array.dtypes import dtype as name_to_dtype
from agog.compiler import jit, natives, program, targets
from agog.compiler.gemm import gemm
from agog.compiler.memory import plan
from agog.compiler.program import compile
from agog.errors import ArgumentError, GuardFailed
from agog.graph import interpret
from agog.graph.build import Builder, build, xp

F = "float32"


def made(rng, *shapes):
    return [rng.standard_normal(s).astype(F) for s in shapes]


def agrees(program, graph, arrays, tol=2e-6):
    want = interpret.run(graph, arrays)
    got = program(arrays)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=tol, atol=tol * max(1.0, float(np.abs(w).max(initial=0))))
    return got


# ------------------------------------------------------------------------------------------------------- calling
def test_call_and_results(rng):
    graph = build(lambda a, b: [a + b, a + b, a, a.reshape(2, 2), np.float32(3) + 0 * a], ((4,), F), ((4,), F))
    p = compile(graph)
    a, b = made(rng, 4, 4)
    out = agrees(p, graph, [a, b])
    assert len({id(x) for x in out}) == 5
    for i, x in enumerate(out):  # nothing is shared, with inputs or among results
        for y in [a, b, *out[:i]]:
            assert not np.may_share_memory(x, y)
    first = [x.copy() for x in out]
    p.call(b, b)
    for x, y in zip(out, first):
        np.testing.assert_array_equal(x, y)


def test_large_results_are_fresh_while_they_are_held(rng):
    p = compile(build(lambda a: a + 1, ((100_000,), F)))
    x = np.zeros(100_000, F)
    held = [p([x + i])[0] for i in range(5)]
    part = p([x + 5])[0][7:9]
    held2 = [p([x + i])[0] for i in range(6, 9)]
    assert [h[3] for h in held + held2] == [1, 2, 3, 4, 5, 7, 8, 9] and part.tolist() == [6, 6]


def test_inputs_that_are_not_contiguous(rng):
    graph = build(lambda a: xp.sum(a, axis=0) * 2, ((5, 6), F))
    p = compile(graph)
    (a,) = made(rng, (6, 5))
    agrees(p, graph, [a.T])
    agrees(p, graph, [np.broadcast_to(a[:, 0], (5, 6))])


def test_wrong_inputs(rng):
    p = compile(build(lambda a: a + 1, ((5,), F)))
    with pytest.raises(ArgumentError, match="compiled for float32"):
        p([np.zeros(6, F)])
    with pytest.raises((ArgumentError, TypeError)):
        p([])


def test_no_inputs_and_constants():
    b = Builder("constants")
    big = np.arange(2000, dtype=F)
    with b:
        graph = b.build([b.constant(big) * b.constant(2.0), b.constant(big), b.constant(7)])
    out = agrees(compile(graph), graph, [])
    assert not np.may_share_memory(out[1], big)


def test_several_targets(rng, target):
    graph = build(
        lambda a, w: [xp.softmax(a @ w), xp.sum(a, axis=0), a.T * 2, xp.argmax(a, axis=1)], ((17, 9), F), ((9, 21), F)
    )
    agrees(compile(graph, target), graph, made(rng, (17, 9), (9, 21)), 1e-5)


def test_nothing_beyond_the_arrays_is_touched(rng, guarded):
    graph = build(
        lambda a, w: [
            xp.tanh(a) + 1,
            xp.sum(a, axis=1),
            xp.max(a, axis=0),
            a @ w,
            a[:, ::2],
            xp.softmax(a, axis=0),
            xp.flip(a, axis=1),
        ],
        ((7, 19), F),
        ((19, 5), F),
    )
    p = compile(graph)
    a, w = made(rng, (7, 19), (19, 5))
    for at_end in (True, False):
        agrees(p, graph, [guarded.array(a, at_end), guarded.array(w, at_end)], 1e-5)


# ------------------------------------------------------------------------------------------------ matrix products
@pytest.mark.parametrize("m, k, n", [(3, 5, 4), (1, 40, 33), (64, 33, 40), (70, 128, 130)])
def test_many_matrices_times_one(m, k, n, rng):
    """Matrices whose rows are rows of one matrix, and such that are not: swapped axes, every other one, broadcast."""

    def products(x, w, v):
        return [
            x @ w,
            xp.permute_dims(x, (1, 0, 2, 3)) @ w,
            xp.flip(x, axis=1) @ w,
            x[:, ::2] @ w.T.T,
            xp.broadcast_to(x[:, :1], x.shape) @ w,
            xp.permute_dims(x, (2, 0, 1, 3)) @ w,
            x @ v,
        ]

    shapes = (6, 5, m, k), (k, n), (5, k, n)
    graph = build(products, *[(s, F) for s in shapes])
    agrees(compile(graph), graph, made(rng, *shapes), tol=2e-5)


@pytest.mark.parametrize("m, k", [(1, 1), (5, 70), (300, 33), (33, 300), (700, 900)])
def test_a_matrix_times_a_vector(m, k, rng):
    """Alone, in batches, of columns that are neighbours and of rows; with what comes before and after."""

    def products(x, v, u, many, rows):
        return [
            xp.tanh(x @ v + 1),
            u @ x,
            xp.permute_dims(x, (1, 0)) @ xp.exp(u),
            xp.reshape(v, (1, k)) @ xp.permute_dims(x, (1, 0)),
            many @ v,
            rows @ xp.permute_dims(many, (0, 2, 1)),
            many @ xp.permute_dims(rows, (0, 2, 1)),
        ]

    shapes = (m, k), (k,), (m,), (3, m, k), (3, 1, k)
    graph = build(products, *[(s, F) for s in shapes])
    program = compile(graph)
    agrees(program, graph, made(rng, *shapes), tol=3e-5)
    assert ("matmul" in program.explain()) == (m * k > 1 << 17)  # small ones are loops like others


def test_a_column_times_a_row_joins_what_comes_after(rng):
    graph = build(lambda p, u, v: p - 0.1 * (u @ v), ((40, 50), F), ((40, 1), F), ((1, 50), F))
    program = compile(graph)
    agrees(program, graph, made(rng, (40, 50), (40, 1), (1, 50)))
    assert "nest0" in program.explain() and "nest1" not in program.explain() and "matmul" not in program.explain()


def test_what_frees_memory_runs_first(rng):
    """As in backward: a chain of large values, each of which is also made into something small that is wanted last."""

    def chain(x, w, y):
        small = []
        for _ in range(12):
            x = x @ w
            small.append(x.T @ y)
        return [x, *small]

    shapes = (256, 64), (64, 64), (256, 4)
    graph = build(chain, *[(s, F) for s in shapes])
    p = compile(graph)
    (segment,) = p._segments
    assert segment.arena <= 3 * 4 * 256 * 64
    x, w, y = made(rng, *shapes)
    agrees(p, graph, [x, w / 8, y], tol=2e-5)


def test_long_products_do_not_depend_on_the_number_of_threads(rng, monkeypatch):
    shapes = (3000, 40), (3000, 50), (70, 5000), (5000, 33)
    graph = build(lambda a, b, c, d: [a.T @ b, xp.tanh(c @ d / 64), (a.T @ b) * 2], *[(s, F) for s in shapes])
    arrays = made(rng, *shapes)
    monkeypatch.setattr(config, "num_threads", 3)
    threads = agrees(compile(graph), graph, arrays, tol=2e-5)
    for x, y in zip(threads, compile(graph, threads=False)(arrays), strict=True):
        np.testing.assert_array_equal(x, y)
    product = np.empty((40, 50), F)  # and is what eager code gets
    gemm(F)(product, arrays[0].T, arrays[1])
    np.testing.assert_array_equal(product, threads[0])


# ------------------------------------------------------------------------------------------------------- islands
def test_islands_between_native_parts(rng):
    graph = build(lambda a: [xp.sort(a * 2 + 1, axis=0) * 3, xp.argsort(xp.tanh(a), axis=1) + a], ((5, 6), F))
    p = compile(graph)
    agrees(p, graph, made(rng, (5, 6)))
    assert {name for name, _ in p.islands} == {"sort", "argsort"}
    assert "island: sort" in p.explain()


def test_the_same_text_every_time(rng):
    """The order of constants, and of what passes between native parts, does not depend on where objects lie."""
    tables = made(rng, *[(7,)] * 12)

    def f(a):
        rows = [a * t for t in tables]
        return [xp.sort(r) + s for r, s in zip(rows, reversed(rows))]

    def text():
        return compile(build(f, ((7,), F))).code("llvm")

    kept = [object() for _ in range(1000)]  # so that objects lie elsewhere
    texts = set()
    for i in range(6):
        texts.add(text())
        kept = [object() for _ in range(1000 * i)] + kept[::3]
    assert len(texts) == 1


def test_complex_numbers_are_islands(rng):
    graph = build(lambda a: [xp.real(xp.fft(a)) + 1, xp.fft(a)], ((8,), "complex64"))
    a = (rng.standard_normal(8) + 1j * rng.standard_normal(8)).astype("complex64")
    agrees(compile(graph), graph, [a], 1e-5)
    same = build(lambda a: a, ((8,), "complex64"))
    (out,) = compile(same)([a])
    assert not np.may_share_memory(out, a) and (out == a).all()


# ------------------------------------------------------------------------------------------------ guards, errors
@pytest.mark.parametrize(
    "dtype, value, other",
    [
        ("bool", True, False),
        ("int64", 3, 4),
        (F, 1.5, 2.5),
        (F, float("nan"), 1.0),
        (F, 0.0, -0.0),
        ("float64", float("inf"), 1.0),
        ("int32", -1, 1),
    ],
)
def test_guard(dtype, value, other):
    b = Builder("guarded")
    x = b.input((), dtype)
    with b:
        y = xp.astype(x, F) + 1
        b.guard(x, value, "x is as it was")
        graph = b.build([y * 2])
    p = compile(graph)
    p([np.asarray(value, dtype)])
    with pytest.raises(GuardFailed) as failed:
        p([np.asarray(other, dtype)])
    assert graph.nodes[failed.value.position].op.name == "guard"


def test_index_out_of_range_is_a_failed_guard(rng):
    graph = build(lambda a, i: xp.take(a, i, axis=0) + 1, ((5, 3), F), ((2,), "int64"))
    p = compile(graph)
    (a,) = made(rng, (5, 3))
    agrees(p, graph, [a, np.array([4, -5])])
    for bad in (5, -6, 2**62):
        with pytest.raises(GuardFailed) as failed:
            p([a, np.array([0, bad])])
        assert graph.nodes[failed.value.position].op.name == "take"


def test_targets_out_of_range(rng):
    graph = build(lambda a, t: xp.cross_entropy(a, t), ((5, 3), F), ((5,), "int64"))
    p = compile(graph)
    (a,) = made(rng, (5, 3))
    agrees(p, graph, [a, np.array([0, 1, 2, -100, 1])])
    for bad in (3, -1):
        with pytest.raises(GuardFailed):
            p([a, np.array([0, 1, 2, bad, 1])])


# ------------------------------------------------------------------------------------------------ forms, effects
def test_effects_are_delivered_in_order_at_the_end(rng):
    seen = []
    b = Builder("effects")
    x = b.input((3,), F)
    with b:
        b.effect(lambda v: seen.append(("first", v.tolist())), [x * 2])
        b.guard(xp.all(x > 0), True, "positive")
        b.effect(lambda v: seen.append(("second", v.tolist())), [x + 1])
        graph = b.build([x * 3])
    p = compile(graph)
    p([np.array([1, 2, 3], F)])
    assert seen == [("first", [2, 4, 6]), ("second", [2, 3, 4])]
    with pytest.raises(GuardFailed):
        p([np.array([1, -2, 3], F)])
    assert len(seen) == 2


def control(with_island):
    """A graph with a branch, a loop and a scan; with_island: their bodies need Python."""
    step = (lambda v: xp.sort(v, axis=0)) if with_island else (lambda v: v * 1.5)
    b = Builder("forms")
    x, n = b.input((3,), F), b.input((), "int64")
    with b:
        (y,) = b.cond(xp.sum(x) > 0, lambda v: [step(v) * 2], lambda v: [step(v) - 1], [x])
        i, z = b.while_loop(lambda i, v: i < n, lambda i, v: [i + 1, xp.tanh(step(v)) + x], [n * 0, y])
        c, ys = b.scan(lambda c, s: [c + s * xp.sum(step(x)), c * s], [xp.sum(z)], [x])
        d, zs = b.scan(lambda c, s: [s, c + 1], [xp.sum(z)], [ys], reverse=True)
        graph = b.build([y, i, z, c, ys, d, zs])
    return graph


@pytest.mark.parametrize("with_island", [False, True])
def test_branches_and_loops(rng, with_island):
    graph = control(with_island)
    p = compile(graph)
    assert bool(p.islands) == with_island
    for a in ([1, 2, 3], [-1, -2, -3]):
        for n in (0, 1, 2, 5):
            agrees(p, graph, [np.array(a, F), np.asarray(n)])


def test_state_that_changes_places(rng):
    b = Builder("fibonacci")
    x, n = b.input((4,), F), b.input((), "int64")
    with b:
        i, p, q = b.while_loop(lambda i, p, q: i < n, lambda i, p, q: [i + 1, q, p + q], [n * 0, x * 0, x])
        graph = b.build([p, q, i])
    program = compile(graph)
    assert not program.islands
    for n in (0, 1, 7):
        agrees(program, graph, [*made(rng, 4), np.asarray(n)])


def test_guards_and_indices_inside_of_loops(rng):
    b = Builder("inside")
    x, n = b.input((4,), F), b.input((), "int64")
    with b:

        def body(i, total):
            b_ = i.builder
            b_.guard(total < 100.0, True, "small")
            return [i + 1, total + xp.take(x, i, axis=0)]

        i, total = b.while_loop(lambda i, t: i < n, body, [n * 0, xp.sum(x) * 0])
        graph = b.build([total])
    program = compile(graph)
    assert not program.islands
    agrees(program, graph, [np.array([1, 2, 3, 4], F), np.asarray(4)])
    for values, count in (([1, 200, 3, 4], 4), ([1, 2, 3, 4], 6)):
        with pytest.raises(GuardFailed) as failed:
            program([np.array(values, F), np.asarray(count)])
        assert graph.nodes[failed.value.position].op.name == "while_loop"


def test_loops_in_loops(rng):
    b = Builder("nested")
    x, w = b.input((5, 3), F), b.input((3, 3), F)
    with b:

        def row(c, s):
            i, v = s.builder.while_loop(
                lambda i, v: i < 3, lambda i, v: [i + 1, xp.tanh(v @ w)], [xp.astype(xp.sum(s) * 0, "int64"), s]
            )
            return [c + xp.sum(v), xp.softmax(v)]

        c, ys = b.scan(row, [xp.sum(x)], [x])
        graph = b.build([c, ys])
    program = compile(graph)
    assert not program.islands
    agrees(program, graph, made(rng, (5, 3), (3, 3)), 1e-5)


# ------------------------------------------------------------------------------------------------------- sharing
def test_equal_nests_are_one_function(rng):
    def layers(x, *ws):
        for w in ws:
            x = xp.tanh(x @ w) + xp.softmax(x)
        return x

    graph = build(layers, ((8, 16), F), *[((16, 16), F)] * 6)
    p = compile(graph)
    agrees(p, graph, made(rng, (8, 16), *[(16, 16)] * 6), 1e-5)
    functions = p._segments[0].module.functions
    assert len(p._segments[0].notes) >= 12
    assert sum(name.startswith(("nest", "matmul")) for name in functions) <= 7


def test_joins_of_joins_are_written_once(rng):
    def join(a, b):
        left = xp.concat([a * 2, xp.concat([b, a + b], axis=1)], axis=1)
        return xp.concat([xp.stack([left, left * 0], axis=0), xp.pad(xp.stack([left], axis=0), 0)], axis=0)

    graph = build(join, ((3, 4), F), ((3, 4), F))
    p = compile(graph)
    agrees(p, graph, made(rng, (3, 4), (3, 4)))
    once = build(lambda a, b: xp.concat([a * 2, xp.concat([b, a + b], axis=1)], axis=1), ((3, 4), F), ((3, 4), F))
    p = compile(once)
    agrees(p, once, made(rng, (3, 4), (3, 4)))
    assert p._segments[0].arena == 0


def test_memory_is_reused(rng):
    def chain(x):
        for _ in range(10):
            x = xp.flip(x, axis=0) @ x
        return x

    graph = build(chain, ((64, 64), F))
    p = compile(graph)
    assert p._segments[0].arena <= 4 * 64 * 64 * 4 < p._segments[0].unshared


def test_plan_never_overlaps_what_is_alive(rng):
    for _ in range(50):
        buffers = {}
        for i in range(30):
            a, b = sorted(rng.integers(0, 20, 2))
            buffers[i] = (int(rng.integers(1, 1000)), int(a), int(b))
        at, size = plan(buffers)
        for i, (n, a, b) in buffers.items():
            assert at[i] % 64 == 0 and at[i] + n <= size
            for j, (m, c, d) in buffers.items():
                if i < j and a <= d and c <= b:
                    assert at[i] + n <= at[j] or at[j] + m <= at[i]


def test_threads_share_a_program(rng):
    def work(a, w):
        h = xp.tanh(a @ w)
        for _ in range(3):
            h = xp.softmax(h @ w) + h
        return h

    graph = build(work, ((200, 64), F), ((64, 64), F))
    p = compile(graph)
    inputs = [made(rng, (200, 64), (64, 64)) for _ in range(4)]
    wants = [p(x)[0].copy() for x in inputs]
    wrong = []

    def run(i):
        for _ in range(50):
            if not np.array_equal(p(inputs[i])[0], wants[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_code_is_freed_with_the_program(rng):
    p = compile(build(lambda a: xp.tanh(a) * 1.2345, ((11,), F)))
    code = weakref.ref(p._segments[0].loaded)
    p(made(rng, 11))
    del p
    gc.collect()
    assert code() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_runs_programs(rng):
    graph = build(lambda a: [xp.softmax(a), xp.sum(a)], ((600, 700), F))
    p = compile(graph)
    x = made(rng, (600, 700))
    want = [y.copy() for y in p(x)]
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(a, b) for a, b in zip(p(x), want))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_program_calls_is_compiled_beside_it(rng, monkeypatch):
    """By other threads, from when it is known; nobody asks for its address before the program's own code is there."""
    order, compiler, function = [], jit.object_code, natives.function
    monkeypatch.setattr(natives, "begin", lambda recipe, target: order.append(("begin", recipe)))
    monkeypatch.setattr(jit, "object_code", lambda *a, **k: order.append("own") or compiler(*a, **k))
    monkeypatch.setattr(natives, "function", lambda *a: order.append(("wanted", a[0])) or function(*a))
    graph = build(
        lambda x, w, a: [xp.conv(x, w, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), a @ a],
        ((2, 3, 8, 8), F), ((4, 3, 3, 3), F), ((160, 160), F),
    )
    agrees(compile(graph), graph, made(rng, (2, 3, 8, 8), (4, 3, 3, 3), (160, 160)), 1e-5)
    recipes = {("conv", "conv", F), ("products", f"agog_product_{F}", F)}
    own = order.index("own")
    assert {*order[:own]} == {("begin", r) for r in recipes} and {*order[own + 1 :]} == {("wanted", r) for r in recipes}


def test_what_was_begun_and_failed_is_made_by_who_wants_it(rng, monkeypatch):
    monkeypatch.setattr(natives, "_begun", set())
    with monkeypatch.context() as patch:
        patch.setattr(natives, "_code", lambda *key: 1 / 0)
        started = threading.active_count()
        natives.begin(("products", f"agog_product_{F}", F), targets.host())
        while threading.active_count() > started:
            pass
    graph = build(lambda a: a @ a, ((160, 160), F))
    agrees(compile(graph), graph, made(rng, (160, 160)), 1e-5)


# ---------------------------------------------------------------------------------------------------- large work
def test_work_that_is_shared_out(rng):
    graph = build(
        lambda a, b: [
            xp.tanh(a) * b,
            xp.softmax(a),
            xp.sum(a * b, axis=0),
            xp.sum(a),
            xp.layer_norm(a, 700),
            xp.mean(a * a),
        ],
        ((900, 700), F),
        ((900, 700), F),
    )
    p = compile(graph)
    assert "shared out" in p.explain()
    agrees(p, graph, made(rng, (900, 700), (900, 700)), 2e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_large_results_are_stored_around_the_caches(dtype, threads, rng, target, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    monkeypatch.setattr(targets, "last_cache", lambda: 1 << 12)
    dtype = name_to_dtype(dtype)
    arrays = [x.astype(dtype) for x in made(rng, (900, 768), (768,))]
    whole = [
        lambda a, w: [xp.tanh(a) * w, xp.softmax(a)],
        lambda a, w: [xp.layer_norm(a, 768), (a + 1) > w],
        lambda a, w: [a * w, a + w, a - w],
        lambda a, w: [xp.exp(a)],
    ]
    others = [lambda a, w: [a[:, :767] * 3, xp.exp(a).T + 0], lambda a, w: [a * i for i in range(2, 8)]]
    for fn in (*whole, *others):
        graph = build(fn, ((900, 768), dtype), ((768,), dtype))
        p = compile(graph, target)
        if dtype.itemsize > 2:  # (LLVM stores some 16-bit floats as it makes them, without the hint)
            assert ("movnt" in p.code("asm")) == (fn in whole and target.machine == "x86_64")
        for _ in range(3):
            for got, want in zip(p(arrays), interpret.run(graph, arrays), strict=True):
                assert got.ctypes.data % 64 == 0
                np.testing.assert_allclose(
                    got.astype("d"), want.astype("d"), 2e-2 if dtype.itemsize == 2 else 1e-4, 1e-4
                )


def test_results_that_do_not_begin_with_a_line_are_stored_through_the_caches(rng, monkeypatch):
    monkeypatch.setattr(targets, "last_cache", lambda: 1 << 12)
    monkeypatch.setattr(program.Reused, "__call__", lambda self, *read: np.empty(self._bytes, np.uint8)[4:].view(F)[
        : math.prod(self._shape)].reshape(self._shape))
    graph = build(lambda a, w: [xp.tanh(a) * w, xp.softmax(a)], ((300, 512), F), ((512,), F))
    agrees(compile(graph), graph, made(rng, (300, 512), (512,)))


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "int8", "bool"])
def test_arrays_that_are_walked_backwards(dtype, at_end, rng, target, guarded):
    """Vectors are loaded and reversed: nothing before the array is read."""
    for n in (1, 3, 15, 16, 17, 31, 33, 70):
        graph = build(lambda x, n=n: [xp.flip(x, axis=-1), xp.sum(x[:, ::-1], axis=1), x[::-1, ::-1][:, n // 2:]],
                      ((3, n), dtype))
        x = guarded.array((rng.standard_normal((3, n)) * 9).astype(dtype), at_end)
        want = interpret.run(graph, [x])
        for got, expected in zip(compile(graph, target)([x]), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "bool", "bfloat16"])
def test_arrays_that_are_walked_across_their_lines(dtype, rng, target, guarded):
    cases = [((64, 100), (1, 0)), ((100, 64), (1, 0)), ((3, 70, 130), (0, 2, 1)), ((33, 50, 40), (2, 1, 0)),
             ((1, 257, 65), (0, 2, 1)), ((1024, 70), (1, 0)), ((70, 1024), (1, 0)), ((20, 3, 90), (2, 0, 1)),
             ((10, 3003), (1, 0)), ((3003, 10), (1, 0)), ((3, 20000), (1, 0)), ((20000, 3), (1, 0)),
             ((17, 250), (1, 0)), ((5, 11, 12), (0, 2, 1)), ((2, 700, 300), (0, 2, 1))]
    for shape, axes in cases:
        whole = tuple(shape[a] for a in axes)
        graph = build(
            lambda x, y, axes=axes: [xp.permute_dims(x, axes) + 0, xp.where(xp.permute_dims(x, axes) > 0, y, y + y),
                                     xp.permute_dims(x, axes) + xp.permute_dims(x + 1, axes)[..., ::-1]],
            (shape, dtype), (whole, dtype))
        arrays = [guarded.array((rng.standard_normal(s) * 9).astype(name_to_dtype(dtype))) for s in (shape, whole)]
        for got, want in zip(compile(graph, target)(arrays), interpret.run(graph, arrays), strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_array_equal(got.astype("d"), want.astype("d"))


@pytest.mark.parametrize("shape", [(100_003, 10), (10, 100_003), (700, 900), (40_000, 33)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_transposed_arrays_are_shared_out(shape, threads, rng, monkeypatch):
    monkeypatch.setattr(config, "num_threads", threads)
    graph = build(lambda x: [xp.permute_dims(x, (1, 0)) * 2 + xp.permute_dims(x, (1, 0))], (shape, F))
    p = compile(graph)
    assert "shared out" in p.explain() and "gather" not in p.code("asm") and "scatter" not in p.code("asm")
    (x,) = made(rng, shape)
    np.testing.assert_array_equal(p([x])[0], x.T * 2 + x.T)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("shape", [(5000, 10), (20_000, 3), (300, 77)])
def test_flipped_lines_are_loaded_whole(dtype, shape, rng):
    graph = build(lambda x: [xp.flip(x, axis=-1)], (shape, dtype))
    p = compile(graph)
    assert "gather" not in p.code("asm") and "scatter" not in p.code("asm")
    x = (rng.standard_normal(shape) * 9).astype(dtype)
    np.testing.assert_array_equal(p([x])[0], x[:, ::-1])


# ------------------------------------------------------------------------------------------- everything to one number
def _everything(a, w):
    """Reductions of all there is, with what is stored at every point, before and after them; and ones that wait."""
    y = xp.tanh(a * w + w)
    total = xp.sum(y)
    variance = xp.mean((a - xp.mean(a)) ** 2)
    return [total, y * w, xp.max(a), xp.min(y) + total, xp.any(a > 3), variance, y * total, xp.sum(a * 3)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shapes", [((80003,), (1,)), ((70001,), (70001,)), ((300, 301), (301,)),
                                    ((1031, 129), (1031, 1)), ((7, 30011), (7, 1)), ((1200, 40, 3), (40, 1))])
def test_sums_of_everything_do_not_depend_on_the_number_of_threads(dtype, shapes, rng, monkeypatch, target, guarded):
    dtype = name_to_dtype(dtype)
    graph = build(_everything, *[(s, dtype) for s in shapes])
    arrays = [guarded.array(x.astype(dtype)) for x in made(rng, *shapes)]
    alone = compile(graph, target, threads=False)(arrays)
    for got, want in zip(alone, interpret.run(graph, arrays), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got.astype("d"), want.astype("d"), 2e-2 if dtype.itemsize == 2 else 1e-4, 1e-4)
    program = compile(graph, target)
    assert "parts, and the rest" in program.code("loops")
    for threads in (2, 3, 1):
        monkeypatch.setattr(config, "num_threads", threads)
        for _ in range(3):
            for got, want in zip(program(arrays), alone, strict=True):
                np.testing.assert_array_equal(got, want)


def _axis(a, w, axis):
    """Reductions over an axis: of one pass and more, with what is stored at every point before and after them."""
    y = xp.tanh(a * w + w)
    centered = a - xp.mean(a, axis=axis, keepdims=True)
    spread = xp.sqrt(xp.mean(centered * centered, axis=axis, keepdims=True) + 1e-3)
    return [xp.softmax(a, axis=axis), y * w, xp.sum(y, axis=axis), centered / spread, xp.max(y, axis=axis),
            xp.argmax(a, axis=axis), xp.any(a > 3.5, axis=axis), y - xp.min(y, axis=axis, keepdims=True)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape, weight, axis", [
    ((3, 30011), (30011,), 1), ((10, 20000), (10, 1), 1), ((30011, 3), (3,), 0), ((20000, 12), (12,), 0),
    ((40007, 1), (1,), 0), ((2, 9001, 5), (5,), 1), ((70, 3, 501), (3, 1), (0, 2)), ((40, 2, 3001), (3001,), (0, 2))])
def test_sums_of_few_rows_do_not_depend_on_the_number_of_threads(
        dtype, shape, weight, axis, rng, monkeypatch, target, guarded):
    dtype = name_to_dtype(dtype)

    def fn(a, w):
        if isinstance(axis, int):
            return _axis(a, w, axis)
        y = a * w
        total = xp.sum(y, axis=axis, keepdims=True)
        return [total, y - total / 1000, xp.max(xp.tanh(y), axis=axis)]

    graph = build(fn, (shape, dtype), (weight, dtype))
    arrays = [guarded.array(x.astype(dtype)) for x in made(rng, shape, weight)]
    alone = compile(graph, target, threads=False)(arrays)
    for got, want in zip(alone, interpret.run(graph, arrays), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got.astype("d"), want.astype("d"), 2e-2 if dtype.itemsize == 2 else 1e-4, 1e-3)
    program = compile(graph, target)
    assert "parts, and the rest" in program.code("loops")
    for threads in (2, 3, 1):
        monkeypatch.setattr(config, "num_threads", threads)
        for _ in range(2):
            for got, want in zip(program(arrays), alone, strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape, axis", [((3, 100003), 1), ((40, 20003), 1), ((2000, 33), 0)])
def test_softmax_keeps_its_exponentials_where_the_result_will_be(shape, axis, rng, target):
    graph = build(lambda a: xp.softmax(a, axis=axis), (shape, F))
    p = compile(graph, target)
    ((code, _, _),) = p._segments[0].nests.values()
    assert code.passes == 3 and [code.exprs[i][2] for i in code.spills] == ["exp"]
    agrees(p, graph, made(rng, shape), tol=1e-5)


def test_a_loss_of_much_and_its_gradient_are_one_walk(rng):
    def loss_and_gradient(a, b):
        error = a - b
        return [xp.mean(error * error), error * (2 / (1 << 18))]

    graph = build(loss_and_gradient, ((1 << 18,), F), ((1 << 18,), F))
    p = compile(graph)
    assert p.code("loops").count("for ") == 1
    agrees(p, graph, made(rng, 1 << 18, 1 << 18), tol=1e-5)


def test_places_are_looked_for_in_vectors_of_as_many_lanes_as_numbers_have(rng):
    graph = build(lambda a: [xp.argmax(a, axis=1), xp.argmin(a, axis=1)], ((70, 300), F))
    p = compile(graph)
    assert "int32 = j" in p.code("loops") and f"vectors of {p.target.lanes(F)} x" in p.explain()
    x = np.round(made(rng, (70, 300))[0], 1)
    for got, want in zip(p([x]), interpret.run(graph, [x]), strict=True):
        assert got.dtype == want.dtype == "int64"
        np.testing.assert_array_equal(got, want)


def test_an_index_out_of_range_is_found_in_parts(rng):
    n = 60000
    graph = build(lambda x, i: [xp.sum(xp.tanh(xp.take(x, i, axis=0)))], ((50,), F), ((n,), "int64"))
    p, x, index = compile(graph), made(rng, 50)[0], rng.integers(0, 50, n)
    assert "parts, and the rest" in p.code("loops")
    agrees(p, graph, [x, index], tol=1e-5)
    for at in (5, n // 2, n - 1):
        wrong = index.copy()
        wrong[at] = 50
        with pytest.raises(GuardFailed):
            p([x, wrong])


def test_large_results_beside_a_sum_are_stored_around_the_caches(rng, monkeypatch):
    monkeypatch.setattr(targets, "last_cache", lambda: 1 << 12)
    for shapes in (((70016,), (1,)), ((70001,), (70001,)), ((300, 320), (320,))):
        graph = build(lambda a, w: [xp.sum(xp.exp(a * w)), a * w], *[(s, F) for s in shapes])
        p = compile(graph)
        assert ("movnt" in p.code("asm")) == (targets.host().machine == "x86_64")
        agrees(p, graph, made(rng, *shapes), tol=1e-5)


def test_float32_sums_are_accurate():
    for shape, axis in (((1 << 20,), 0), ((1 << 18, 4), 0), ((3, 1 << 18), 1)):
        x = np.full(shape, 0.1, F)
        graph = build(lambda a, axis=axis: xp.sum(a, axis=axis), (shape, F))
        (got,) = compile(graph)([x])
        np.testing.assert_allclose(got, x.astype("f8").sum(axis), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- looking in
def test_explain_and_code(rng):
    p = compile(build(lambda a: xp.softmax(xp.tanh(a)), ((8, 16), F)))
    assert "3 passes" in p.explain() and "arena" in p.explain()
    assert "tanh(" in p.code("loops") and "define" in p.code("llvm") and "vmaxps" in p.code("asm") + "vmaxps"
    with pytest.raises(ArgumentError):
        p.code("python")


def test_the_same_graph_is_found_on_disk(rng, monkeypatch):
    graph = build(lambda a: xp.tanh(a) * 3 + xp.sum(a), ((13,), F))
    compile(graph)
    monkeypatch.setattr(jit, "_compile", lambda *a: pytest.fail("compiled again"))
    compile(graph)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_elements_set_one_after_the_other(rng, count):
    """A copy that is written where it ends up comes before everything that was set after it."""

    def fn(x, z):
        first = x
        for i in range(count):
            x = xp._setitem(x, xp._getitem(x, index=(i,)) * 0.5 + z, index=(i,))
        x = xp._setitem(x, z, index=(slice(1, 3),))
        return [x, x + first]

    graph = build(fn, ((5,), F), ((), F))
    agrees(compile(graph), graph, made(rng, 5, ()))


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_read_from_memory_is_written_before(rng, count):
    """Loops that could be one are two where the second reads a buffer of which the first writes a part."""

    def fn(x, y):
        total = xp.sum(x * 1.5 + y)
        out = y
        for i in range(count):
            out = out + xp._getitem_adjoint(total, shape=(3,), index=(i,))
            total = total * 0.5
        return [out + (x * 1.5 + y)]

    graph = build(fn, ((3,), F), ((3,), F))
    agrees(compile(graph), graph, made(rng, 3, 3))


def distance(a, b):
    """How far apart two addresses are, page for page."""
    d = (a.ctypes.data - b.ctypes.data) % 4096
    return min(d, 4096 - d)


def test_large_results_lie_apart_from_inputs_page_for_page(rng):
    """A loop that reads just behind what it writes, in any page, waits for its own stores."""
    graph = build(lambda a, w: [a * w, a + w], ((600, 512), F), ((512,), F))
    for offset in (0, 1040, 2048, 4080):  # wherever the inputs lie
        memory = np.empty(600 * 512 * 4 + 8192, np.uint8)
        start = -memory.ctypes.data % 4096 + offset
        a = memory[start : start + 600 * 512 * 4].view(F).reshape(600, 512)
        a[:], w = made(rng, (600, 512), (512,))
        p = compile(graph)
        for call in (p, p._slow):
            got = call([a, w])
            np.testing.assert_array_equal(got[0], a * w)
            for out in got:
                assert out.ctypes.data % 64 == 0 and distance(out, a) >= 512 and distance(out, w) >= 512
    held = [x for _ in range(5) for x in p([a, w])]
    assert all(distance(x, a) >= 512 for x in held)
    assert not any(np.may_share_memory(x, y) for x, y in itertools.combinations(held, 2))
    fresh = large.Arena().empty((600, 512), np.dtype(F), a, 2.0, w)  # as eager operations do
    assert fresh.shape == (600, 512) and distance(fresh, a) >= 512 and distance(fresh, w) >= 512


def test_placed_within_the_memory():
    for size in (1 << 18, 3_000_001):
        owner = np.empty(size + large.SLACK, np.uint8)
        for others in ([], [owner], [owner[:10], owner[1000:], owner[2000:], owner[3333:]], ["no array", None, 3.0]):
            offset = large.placed(owner, others)
            assert 0 <= offset <= large.SLACK and (owner.ctypes.data + offset) % 64 == 0
            arrays = [x for x in others if type(x) is np.ndarray]
            assert all(distance(owner[offset:], x) >= 400 for x in arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "float16", "bool"])
def test_elements_across_lines_are_read_one_by_one(dtype, rng):
    """Machines that gather take twice as long for it."""
    ways = [lambda a: a.T, lambda a: a[:, ::3], lambda a: a[:, ::-2].T, lambda a: a[::-1].T]
    for shape in ((64, 48), (70, 53), (3, 200), (200, 3)):
        x = (rng.standard_normal(shape) * 9).astype(dtype)
        for i, way in enumerate(ways):
            p = compile(build(lambda a, way=way: [way(a) if dtype == "bool" else way(a) + 1], (shape, dtype)))
            (got,) = p([x])
            want = way(x) if dtype == "bool" else way(x) + np.asarray(1, dtype)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
            if i == 0 and shape == (64, 48) and dtype in ("float32", "float64", "int32", "int64"):
                assert "masked.gather" not in p.code("llvm")
