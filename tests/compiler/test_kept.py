"""Programs kept on disk: found again for the same graph, never for another, and never trusted when damaged."""

import gc
import os
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.compiler import disk, jit, kept, natives, program, rowprograms, rows, targets
from agog.compiler.ir import Module
from agog.compiler.kernel import Kernel
from agog.errors import GuardFailed
from agog.graph.build import Builder, build, xp
from agog.graph.ir import Graph, Input, Node, Value
from agog.ops.row import TABLE, Op
from agog.staging import building

F = "float32"
HOST = targets.host()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(disk, "said", set())
    monkeypatch.setattr(jit, "_loaded", weakref.WeakValueDictionary())
    return tmp_path / "objects"


@pytest.fixture
def compiled(monkeypatch):
    """Counts the graphs that go through passes and scheduling."""
    count, original = [], program.compile
    monkeypatch.setattr(program, "compile", lambda *a, **k: count.append(1) or original(*a, **k))
    return count


def network():
    return build(
        lambda x, w, i: [xp.softmax(xp.tanh(x @ w)), xp.take(w, i, axis=0), x.reshape(8, 4) * 2 + 1],
        ((4, 8), F), ((8, 8), F), ((3,), "int64"),
    )


def arrays(rng):
    return [rng.standard_normal((4, 8)).astype(F), rng.standard_normal((8, 8)).astype(F), np.array([1, 0, 7])]


def test_the_same_graph_is_found_again(cache, compiled, rng):
    given = arrays(rng)
    first = building.build(network())(given)
    again = building.build(network())
    assert len(compiled) == 1 and isinstance(again, kept.Kept)
    for a, b in zip(first, again(given), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert "found on disk" in again.explain() and len(compiled) == 2  # who looks inside compiles it
    assert "define" in again.code("llvm") and again.graph.outputs


def test_a_call_is_written_out_once(cache):
    w = ag.asarray(np.arange(12, dtype=F).reshape(3, 4))
    for _ in range(2):
        f = ag.function(lambda x: (x @ w).tanh().sum(axis=1), strict=True)
        x = ag.ones(2, 3)
        want = f(x)
        np.testing.assert_allclose(f(x).numpy(), want.numpy(), rtol=1e-6)
        made = next(iter(f._forms.values())).recordings[0].program
        assert f.calls_staged == 1 and "_fast" not in vars(made)  # the recording's own was
        np.testing.assert_allclose(made([x.numpy(), w.numpy()])[0], want.numpy(), rtol=1e-6)
        assert "_fast" in vars(made)
    assert isinstance(made, kept.Kept)


def test_a_process_finds_what_another_left(cache):
    text = """
import numpy as np, agog as ag
from agog.compiler import kept, program
w = ag.asarray(np.arange(12, dtype="float32").reshape(3, 4))
f = ag.function(lambda x: (x @ w).tanh().sum(axis=1))
x = ag.asarray(np.ones((2, 3), "float32"))
f(x)
print(f(x).tolist(), type(f._entries[0].__globals__["program"]).__name__)
"""
    env = os.environ | {"AGOG_CACHE_DIR": str(cache.parent)}
    runs = [subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, check=True).stdout
            for _ in range(2)]
    assert runs[0].endswith("Program\n") and runs[1] == runs[0].replace("Program", "Kept")


def test_the_name_says_all_that_the_program_follows_from(monkeypatch):
    base = lambda a, b: xp.sum(a * b + 1, axis=0)
    spec = (((3, 4), F), ((3, 4), F))

    def name(fn, *specs):
        return kept.name_of(build(fn, *specs), HOST)

    def constant(value):
        b = Builder("c")
        with b:
            return kept.name_of(b.build([b.input((3,), F) + b.constant(value)]), HOST)

    names = [
        name(base, *spec),
        name(lambda a, b: xp.sum(a * b + 2, axis=0), *spec),
        name(lambda a, b: xp.sum(a * b + 1, axis=1), *spec),
        name(lambda a, b: xp.sum(a * b + 1, axis=0, keepdims=True), *spec),
        name(lambda a, b: xp.sum(b * a + 1, axis=0), *spec),
        name(lambda a, b: xp.sum(a * a + 1, axis=0), *spec),
        name(lambda a, b: xp.max(a * b + 1, axis=0), *spec),
        name(base, ((4, 3), F), ((4, 3), F)),
        name(base, ((3, 4), "float64"), ((3, 4), "float64")),
        kept.name_of(build(base, *spec), targets.SSE2),
        constant(np.array([1, 2, 3], F)),
        constant(np.array([1, 2, 4], F)),
        constant(np.array([1, 2, 3], "int32")),
    ]
    # (both call sites of `base` are one line: where a node comes from is part of the name)
    monkeypatch.setattr(config, "num_threads", config.num_threads + 1)
    names.append(name(base, *spec))
    monkeypatch.undo()
    monkeypatch.setattr(disk, "source", lambda: "another source")
    names.append(name(base, *spec))
    monkeypatch.undo()
    monkeypatch.setattr(targets, "caches", lambda: (1, 2))
    names.append(name(base, *spec))
    assert None not in names and len(set(names)) == len(names)


def test_a_name_follows_from_values_alone():
    x = Input((3, 3), np.dtype(F))

    def name(*statics, where=None):
        nodes, value = [], x
        for given in statics:
            nodes.append(Node(TABLE["sum"], [value], given, [Value((3, 3), F)], (), where))
            (value,) = nodes[-1].outputs
        return kept.name_of(Graph("s", [x], nodes, [value]), HOST)

    pair, file = [0, 1000], ["a", ".py"]
    axes, line = tuple(pair), "".join(file)
    names = [name((tuple(pair), True), (tuple(pair), True), where=("".join(file), 3, None))]
    names.append(name((axes, True), (axes, True), where=(line, 3, "x.sum()")))
    keep = [axes, line]  # (further references)
    names.append(name((axes, True), (axes, True), where=(line, 3, None)))
    assert len(set(names)) == 1 and keep
    others = [1, 1.0, 0.0, -0.0, False, None, F, np.dtype(F), np.float32(0), np.float64(0), np.zeros((), F)]
    others += [np.zeros(1, F), np.zeros(50, F), np.zeros(50, "int32"), np.ones(50, F), range(2), slice(0, 2, None)]
    others = [(axes, other) for other in others] + [((False, 1000), True), ([0, 1000], True), axes]
    names += [name((axes, True), given, where=(line, 3)) for given in others]
    names += [name((axes, True), (axes, True), where=(line, 4)), name((axes, True), (axes, True), where=("b.py", 3)),
              name((axes, True), (axes, True)), name((axes, True)), name((axes, True), (axes, True), (axes, True))]
    assert None not in names and len(set(names)) == len(names) - 2
    assert name((object(),)) is None


def test_long_python_is_compiled_once(cache, monkeypatch):
    text = "def f(x):\n" + "    x = x + 1\n" * 1000 + "    return x\n"
    compiled = []
    monkeypatch.setattr(disk, "compile", lambda *args: compiled.append(1) or compile(*args), raising=False)

    def run(text, x=1):
        scope = {}
        code = disk.bytecode(text, "<agog test>")
        exec(code, scope)
        return scope["f"](x), code.co_filename, len(compiled)

    assert run(text) == (1001, "<agog test>", 1) == run(text)
    assert run(text.replace("+ 1", "+ 2")) == (2001, "<agog test>", 2)
    assert run("def f(x): return x") == (1, "<agog test>", 3) and run("def f(x): return x")[2] == 4
    assert len(list(cache.iterdir())) == 2
    for path in list(cache.iterdir()):
        disk.write(path.name, b"no code")
    assert run(text) == (1001, "<agog test>", 5) == run(text)
    for path in list(cache.iterdir()):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert run(text) == (1001, "<agog test>", 6) == run(text)


def test_the_call_of_a_model_is_written_out_alike_in_every_process(cache):
    text = """
import numpy as np, agog as ag
class Layer:
    scale, shift, power, other = 2.0, 1.0, 2, 3
class Net:
    def __init__(self):
        self.weights = {f"w{i}": ag.asarray(np.full(3, i, "float32")) for i in range(40)}
        self.layers, self.first, self.second = [Layer(), Layer()], 1.0, 2.0
net = Net()
@ag.function(strict=True)
def f(x):
    for w in net.weights.values():
        x = x * w + net.first
    for layer in net.layers:
        x = (x * layer.scale + layer.shift) ** layer.power - layer.other + net.second
    return ag.tanh(ag.exp(ag.sin(ag.cos(x))))
f(ag.ones(3)), f(ag.ones(3))
assert f.calls_staged == 1
"""
    for seed in ("1", "2", "3"):
        env = os.environ | {"AGOG_CACHE_DIR": str(cache.parent), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", text], env=env, check=True)
    assert len([path for path in cache.iterdir() if path.suffix == ".p"]) == 1


def test_what_no_text_stands_for_has_no_name():
    def effect(deliver):
        b = Builder("e")
        with b:
            x = b.input((3,), F)
            b.effect(deliver, [x])
            return b.build([x + 1])

    assert kept.name_of(effect(print), HOST) is None
    op = Op("_test_of_a_user(x) -> y", lambda np, x: x + 1)
    try:
        x = Input((3,), np.dtype(F))
        node = Node(op, [x], (), [Value((3,), F)])
        assert kept.name_of(Graph("u", [x], [node], node.outputs), HOST) is None
        node = Node(TABLE["exp"], [x], (), [Value((3,), F)])
        assert kept.name_of(Graph("u", [x], [node], node.outputs), HOST) is not None
    finally:
        del TABLE[op.name]


def test_sources_are_read_once_and_count_by_their_text(cache, tmp_path, monkeypatch):
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    for name in ("a.py", "inner/b.py"):
        (folder / name).write_text("x = 1\n")
    first, read, reads = disk.digest(folder), type(folder).read_bytes, []
    monkeypatch.setattr(type(folder), "read_bytes", lambda path: reads.append(path.name) or read(path))
    assert disk.digest(folder) == first and not {"a.py", "b.py"} & {*reads}
    os.utime(folder / "a.py", ns=(1, 1))  # another date, the same text
    assert disk.digest(folder) == first and {"a.py", "b.py"} <= {*reads}
    (folder / "inner/b.py").write_text("x = 2\n")
    assert disk.digest(folder) != first
    (folder / "inner/b.py").write_text("x = 1\n")
    (folder / "inner/b.py").rename(folder / "b.py")
    assert disk.digest(folder) != first
    reads.clear()
    for path in cache.iterdir():  # damaged
        path.write_bytes(b"agog")
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = disk.digest(folder)
    assert again != first and {"a.py", "b.py"} <= {*reads}


def test_sources_that_cannot_be_read(monkeypatch, cache, compiled, rng):
    def unreadable():
        raise OSError("no source")

    monkeypatch.setattr(disk, "source", unreadable)
    assert kept.name_of(network(), HOST) is None
    for n in (1, 2):
        building.build(network())(arrays(rng))
        assert len(compiled) == n


@pytest.mark.parametrize("damage", ["plan cut", "plan flipped", "no object", "object flipped", "object does not link"])
def test_damage_is_noticed(cache, compiled, rng, damage):
    given, graph = arrays(rng), network()
    want = building.build(graph)(given)
    gc.collect()  # code that is still loaded would be used again
    plan = cache / kept.name_of(graph, HOST)
    path = plan if "plan" in damage else cache / jit.stored(plan.name)["object"]
    data = bytearray(path.read_bytes())
    if damage == "no object":
        path.unlink()
    elif "link" in damage:
        disk.write(path.name, b"not an object")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-5] if "cut" in damage else data)
    if damage in ("no object", "object does not link"):
        again = building.build(graph)
    else:
        with pytest.warns(RuntimeWarning, match="damaged"):
            again = building.build(graph)
    assert len(compiled) == 2
    for a, b in zip(want, again(given), strict=True):
        assert np.array_equal(a, b)
    assert isinstance(building.build(graph), kept.Kept)


def test_what_fails_says_where(cache, rng):
    x, w, i = arrays(rng)
    texts = []
    for _ in range(2):
        with pytest.raises(GuardFailed) as found:
            building.build(network())([x, w, np.array([1, 9, 0])])
        texts.append((str(found.value), found.value.position))
    assert texts[0] == texts[1]


def test_native_parts_by_recipe():
    recipes = [("products", f"agog_product_{F}", F), ("products", f"agog_product_sum_{F}", F), ("conv", "conv", F)]
    recipes += [("attention", "attention_grad", F), ("philox", "philox", ""), ("conv_gradients", "gradient", F)]
    for recipe in (*recipes, ("pooling", "max_pool_2", "max_pool_2 float64")):
        address, code = natives.function(recipe, HOST)
        assert address and code


def test_row_programs_are_written_where_they_are_not_on_disk(cache, monkeypatch, rng):
    x = rng.normal(size=(20, 30)).astype(F)
    written, original = [], rows._RowModule
    monkeypatch.setattr(rows, "_RowModule", lambda *args: written.append(args[3]) or original(*args))
    results = []
    for dtype, n in ((F, 1), (F, 1), ("float64", 2)):
        gc.collect()  # code that is still loaded would be used again
        kernel = rowprograms.compile_row_program("softmax", dtype)
        out = np.empty(x.shape, dtype)
        kernel([out], [x.astype(dtype)])
        results.append(out)
        assert len(written) == n
        del kernel
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2], rtol=1e-5)


def test_a_recipe_is_followed_once(cache, monkeypatch):
    made = []

    def write():
        made.append(1)
        module = Module(HOST)
        k = Kernel(module, "f", [("x", "int64")], "int64")
        k.ret(k.arguments[0] + 41)
        k.finish()
        return module

    for _ in range(3):
        assert jit.load(jit.Later("test: add 41", HOST, write), ["f"])["f"]
    assert len(made) == 1
    monkeypatch.setattr(disk, "source", lambda: "another")
    jit.load(jit.Later("test: add 41", HOST, write), ["f"])
    assert len(made) == 2


# ------------------------------------------------------------------------------------------------------ pruning
def fill(cache, ages):
    """Files of 1000 bytes, of these ages in hours."""
    cache.mkdir(parents=True, exist_ok=True)
    for i, hours in enumerate(ages):
        path = cache / f"{i}.o"
        path.write_bytes(b"x" * 1000)
        date = time.time() - hours * 3600
        os.utime(path, (date, date))


def test_the_folder_is_bounded_and_the_oldest_go_first(cache):
    fill(cache, range(1, 21))
    assert disk.prune(30_000) == 0 and disk.prune(0) == 0
    assert disk.prune(12_000) == 11
    assert {p.name for p in cache.iterdir()} == {f"{i}.o" for i in range(9)}


def test_files_in_use_stay(cache):
    fill(cache, [0.0] * 10 + [5.0])
    assert disk.prune(2_000) == 1 and len(list(cache.iterdir())) == 10


def test_reading_makes_a_file_young_again(cache):
    disk.write("a.o", b"data")
    old = time.time() - 30 * 24 * 3600
    os.utime(cache / "a.o", (old, old))
    assert disk.read("a.o") == b"data" and time.time() - (cache / "a.o").stat().st_mtime < 3600


def test_pruning_beside_another_process(cache, monkeypatch):
    fill(cache, range(1, 11))
    unlink = os.unlink

    def taken(path):
        unlink(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(disk.os, "unlink", taken)
    disk.prune(5_000)
    assert len(list(cache.iterdir())) == 3
    disk.prune(1)
    monkeypatch.setattr(disk.config, "cache_dir", lambda: cache / "nowhere")
    assert disk.prune(1) == 0


def test_writing_prunes(cache, monkeypatch):
    fill(cache, [9.0] * 20)
    monkeypatch.setattr(config, "cache_bytes", 4_000)
    monkeypatch.setattr(disk, "_written", 0)
    disk.write("new.o", b"y" * 500)
    left = {p.name for p in cache.iterdir()}
    assert "new.o" in left and len(left) <= 4
