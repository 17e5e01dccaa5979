"""Each pass on small graphs: what it does, what it must not do."""

import numpy as np
import pytest

from agog.errors import AgogError
from agog.graph import Builder, build, forms, optimize, show_passes, verify, xp
from agog.graph.passes import fuse as fusion
from agog.graph.passes.dead import dead
from agog.graph.passes.fold import fold
from agog.graph.passes.fuse import fuse
from agog.graph.passes.pipeline import PIPELINE
from agog.graph.passes.share import share
from agog.graph.passes.views import stretched, views
from agog.graph.rewrite import inline

F4 = "float32"


def names(graph):
    return [n.op.name for n in graph.nodes]


# ---------------------------------------------------------------------------------------------------------- fold
def test_constants_are_folded():
    graph = build(lambda x: x * xp.astype(x.builder.constant(np.arange(3.0)) * 2 + 1, F4), ((3,), F4))
    after = verify(fold(graph))
    assert names(after) == ["multiply"] and after.constants[0].data.tolist() == [1, 3, 5]


def test_a_branch_on_a_constant_is_chosen():
    b = Builder("g")
    x = b.input((3,), F4)
    y, = b.cond(b.constant(np.array(False)), lambda v: v * 2, lambda v: xp.sin(v), [x])
    b.guard(b.constant(np.array(3)), 3)
    b.guard(b.constant(np.array(3)), 4)
    assert names(verify(fold(b.build([y])))) == ["sin", "guard"]  # the guard that cannot hold stays to say so


def test_what_folding_leaves_alone():
    b = Builder("g")
    x = b.input((3,), F4)
    large = xp.broadcast_to(b.constant(np.float32(1.0) * np.ones((), F4)), (1000, 1000))
    wrong = xp._class_index(b.constant(np.array([7])), classes=3)[0]  # an error belongs to the run
    graph = b.build([x, large, wrong])
    assert fold(graph) is graph
    with pytest.raises(AgogError):
        graph.run(np.zeros(3, F4))


# --------------------------------------------------------------------------------------------------------- share
def test_common_subexpressions():
    graph = build(lambda x, y: (xp.exp(x + y) * 2.0, xp.exp(y + x) * 2.0, xp.exp(x - y), xp.exp(y - x)),
                  ((3,), F4), ((3,), F4))
    after = verify(dead(share(graph)))
    assert names(after).count("exp") == 3 and after.outputs[0] is after.outputs[1]


def test_what_only_looks_equal():
    graph = build(lambda x: (x * 0.0, x * -0.0, xp.sum(x, axis=0), xp.sum(x, axis=0, keepdims=True),
                             xp.astype(x, "int64"), xp.astype(x, "int32"), x - 1.0, 1.0 - x), ((3,), F4))
    assert share(graph) is graph


def test_equal_guards_are_one_and_effects_are_not():
    b = Builder("g")
    x = b.input((), F4)
    for _ in range(2):
        b.guard(x > 0, True, "here")
        b.effect(print, [x])
    assert names(dead(share(b.build([])))).count("guard") == 1
    assert names(dead(share(b.build([])))).count("effect") == 2


def test_dead_code():
    b = Builder("g")
    x = b.input((3,), F4)
    xp.exp(x)
    b.guard(xp.sum(x) > 0, True)
    y, = b.scan(lambda v: (xp.sin(v), xp.cos(v))[0], [], [x])
    assert names(dead(b.build([y]))) == ["sum", "greater", "guard", "scan"]


def test_dead_code_inside():
    b = Builder("g")
    x, y = b.input((3,), F4), b.input((3,), F4)
    a, _ = b.cond(xp.sum(x) > 0, lambda v, w: (v * 2, w * 3), lambda v, w: (v, v), [x, y])
    c, _, rows, _ = b.scan(lambda c, d, v, w: (c + v, d * w, c * c, xp.sin(w)),
                           [a, xp.exp(y)], [xp.stack([x, x]), xp.stack([y, y])])
    i, z, _ = b.while_loop(lambda i, z, u: i < 3, lambda i, z, u: (i + 1, z * y, u + z), [np.zeros((), "i8"), c, y])
    graph = b.build([z, rows])
    after = verify(dead(graph))
    assert "exp" not in names(after) and names(after).count("_stacked") == 1
    cond, scan, loop = (n for n in after.nodes if n.graphs)
    assert len(cond.inputs) == 2 and len(cond.outputs) == 1
    assert scan.statics == (1, 1, 2, False) and len(scan.outputs) == 2
    assert loop.statics == (2,) and len(loop.inputs) == 3
    assert dead(after) is after
    arrays = np.ones(3, F4), np.full(3, 2, F4)
    for p, q in zip(after.run(*arrays), graph.run(*arrays)):
        np.testing.assert_array_equal(p, q)


def test_what_a_guard_inside_of_a_loop_reads_is_carried():
    b = Builder("g")
    x = b.input((), F4)

    def body(c, d):
        d.builder.guard(d < 100, True)
        return c + 1, d * 2

    c, d = b.scan(body, [x, x], length=3)
    after = verify(dead(b.build([c])))
    assert after.nodes[0].statics[0] == 2


# --------------------------------------------------------------------------------------------------------- views
@pytest.mark.parametrize("fn", [
    lambda x, y: xp.broadcast_to(x, (4, 3)) + y, lambda x, y: x[None] + y, lambda x, y: x.reshape(1, 3) * y,
    lambda x, y: y - xp.broadcast_to(x[None, None], (1, 4, 3))])
def test_element_wise_steps_read_through_stretching_views(fn):
    graph = build(fn, ((3,), F4), ((4, 3), F4))
    after = dead(views(graph))
    assert after.nodes[0].op.elementwise and len(after.nodes) <= 2
    x, y = np.arange(3, dtype=F4), np.ones((4, 3), F4)
    np.testing.assert_array_equal(after.run(x, y), graph.run(x, y))


def test_one_step_reads_its_source():
    after = dead(views(build(lambda x, y: xp.broadcast_to(x, (4, 3)) + y, ((3,), F4), ((4, 3), F4))))
    assert names(after) == ["add"]


def test_compute_first_then_stretch():
    after = verify(dead(views(build(lambda x: xp.exp(xp.broadcast_to(x, (100, 3))), ((3,), F4)))))
    assert names(after) == ["exp", "broadcast_to"] and after.nodes[0].outputs[0].shape == (3,)


@pytest.mark.parametrize("fn", [lambda x: x.T, lambda x: x.reshape(3, 2), lambda x: xp.flip(x), lambda x: x[:, :1],
                                lambda x: xp.tile(x, (1, 2)), lambda x: x[1:]])
def test_what_is_no_stretching(fn):
    graph = build(lambda x: fn(x) + 1.0, ((2, 3), F4))
    assert stretched(graph.nodes[-1].inputs[0]) is None


def test_equal_elements_are_one_number():
    after = views(build(lambda x: x * np.full((4, 3), 2, F4), ((4, 3), F4)))
    assert after.constants[0].shape == ()


# ---------------------------------------------------------------------------------------------------------- fuse
def groups(graph):
    return [(*n.statics, len(n.graphs[0].nodes)) for n in graph.nodes if n.op is forms.FUSED]


def test_a_chain():
    graph = build(lambda x, y: xp.exp(x + y) * x - 1.0, ((4, 3), F4), ((3,), F4))
    after = verify(fuse(graph))
    assert groups(after) == [("map", (4, 3), (), 4)] and len(after.nodes) == 1
    assert str(fuse(after)) == str(after)


def test_softmax_and_layer_norm_written_out_are_one_loop_nest():
    def fn(x, w):
        e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
        p = e / xp.sum(e, axis=-1, keepdims=True)
        d = x - xp.mean(x, axis=-1, keepdims=True)
        return p * w + d / xp.sqrt(xp.mean(d * d, axis=-1, keepdims=True) + 1e-5)

    after = verify(fuse(build(fn, ((8, 16), F4), ((16,), F4))))
    assert groups(after) == [("row", (8, 16), (1,), 14)] and len(after.nodes) == 1


def test_a_reduction_with_prologue_and_epilogue():
    after = verify(fuse(build(lambda x: xp.sqrt(xp.sum(x * x, axis=0)) + 1.0, ((8, 16), F4))))
    assert groups(after) == [("reduce", (8, 16), (0,), 4)]


def test_reductions_over_different_axes_are_different_nests():
    def fn(x):
        return xp.sum(x * 2.0, axis=0) * 3.0, xp.sum(x + 1.0, axis=1) * 3.0

    assert sorted(g[2] for g in groups(verify(fuse(build(fn, ((8, 16), F4)))))) == [(0,), (1,)]


def test_a_dropped_axis_does_not_line_up():
    """sum(x, axis=1) of a square read as a row: every element needs all rows first."""
    graph = build(lambda x: x * xp.sum(x, axis=1), ((4, 4), F4))
    assert groups(verify(fuse(graph))) == []


def test_several_outputs():
    after = verify(fuse(build(lambda x: (xp.exp(x), xp.exp(x) * x, xp.sin(xp.exp(x))), ((4,), F4))))
    assert len(after.nodes) == 1 and len(after.nodes[0].outputs) == 3


def test_no_cycles():
    """a -> matmul -> c, and c reads a too: a and c cannot be one node."""
    def fn(x):
        a = xp.exp(x)
        return a + (a @ x) * a

    graph = build(fn, ((3, 3), F4))
    after = verify(fuse(graph))
    assert "matmul" in names(after)
    x = np.random.default_rng(0).standard_normal((3, 3)).astype(F4)
    np.testing.assert_array_equal(after.run(x), graph.run(x))


def test_siblings_that_read_the_same_are_one_pass():
    after = verify(fuse(build(lambda x: (xp.sin(x), xp.cos(x)), ((100,), F4))))
    assert groups(after) == [("map", (100,), (), 2)]


def test_groups_have_a_limit(monkeypatch):
    monkeypatch.setattr(fusion, "LIMIT", 5)

    def fn(x):
        for _ in range(20):
            x = xp.sin(x)
        return x

    after = verify(fuse(build(fn, ((3,), F4))))
    assert max(g[3] for g in groups(after)) <= 5


def test_rows_without_a_scalar_form_are_islands():
    after = verify(fuse(build(lambda x: xp.sin(xp.sort(xp.exp(x) * 2.0)) + 1.0, ((3,), F4))))
    assert names(after) == ["fused", "sort", "fused"]


def test_guards_keep_their_order_through_fusion():
    b = Builder("g")
    x = b.input((3,), F4)
    y = xp.sin(x) * 2.0
    b.guard(xp.sum(y) > 0, True, "first")
    b.effect(print, [y], "second")
    b.guard(xp.sum(y + x) > 0, True, "third")
    after = verify(fuse(b.build([y])))
    assert [n.statics[1] for n in after.nodes if not n.pure] == ["first", "second", "third"]


def test_inside_of_loops():
    b = Builder("g")
    x = b.input((3,), F4)
    y, = b.while_loop(lambda v: xp.sum(v * v) < 10, lambda v: xp.exp(v) * 1.1 + 1.0, [x])
    after = verify(fuse(b.build([y])))
    assert groups(after.nodes[-1].graphs[1]) == [("map", (3,), (), 3)]
    assert str(inline(after)) == str(b.build([y]))


# ------------------------------------------------------------------------------------------------------ pipeline
def test_the_list_of_passes():
    assert [name for name, _ in PIPELINE] == ["fold", "simplify", "stabilise", "views", "share", "dead", "fuse"]
    assert all(run.__doc__ for _, run in PIPELINE)


def test_passes_can_be_left_out_and_seen():
    graph = build(lambda x: xp.log(1 + x) * 1, ((3,), F4))
    seen = []
    optimize(graph, see=lambda name, before, after: seen.append(name))
    assert seen == ["simplify", "stabilise", "dead"] and names(optimize(graph)) == ["log1p"]
    assert "log1p" not in str(optimize(graph, without=["stabilise"]))
    text = show_passes(graph)
    assert text.startswith("--- as recorded\n") and "--- after stabilise\n" in text


def test_a_graph_that_is_done_is_itself():
    graph = build(lambda x: xp.sort(x), ((3,), F4))
    assert optimize(graph) is graph
