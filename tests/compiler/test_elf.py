"""Objects loaded without LLVM: against LLVM's own linker, what memory may be used for, and what is no object."""

import ctypes
import pathlib
import subprocess
import sys
import weakref

import numpy as np
import pytest

from agog.compiler import call, codegen, elf, gemm, jit, pool, processor, targets
from agog.compiler.ir import Module
from agog.compiler.kernel import Kernel

pytestmark = pytest.mark.skipif(not elf.usable(), reason="objects are loaded by LLVM here")


def everything():
    """A module whose object has every kind of section and of reference."""
    module = Module(targets.host())
    for name, n in (("seven", 7), ("nine", 9)):
        k = Kernel(module, name, [("x", "int64")], "int64", internal=True)
        k.ret(k.arguments[0] * n)
        k.finish()
    module.globals["table"] = "@table = internal constant [2 x ptr] [ptr @seven, ptr @nine]"
    module.globals["count"] = "@count = internal global [4 x i64] zeroinitializer"
    module.globals["start"] = "@start = internal global i64 1000"
    module.globals["seen"] = "@seen = global i64 5"
    k = Kernel(module, "f", [("which", "int64"), ("x", "int64"), ("values", "ptr")], "int64", 4)
    which, x, values = k.arguments
    chosen = k.load(k.at(k.symbol("@table"), which, "ptr"), "ptr")
    made = k.op(f"call i64 {chosen.text}({x.typed})", "int64")
    place = k.at(k.symbol("@count"), 2, "int64")
    k.store(k.load(place, "int64") + 1, place)
    some = k.load(values, "float32", 4) * k.cast(k.iota("int32", 4), "float32") + 0.1
    k.store(some, values)
    k.store(k.call("expf", "float32", k.load(values, "float32"), external=True), values)
    error = k.load(k.symbol("PyExc_ValueError"), "ptr")
    number = k.op(f"ptrtoint ptr {error.text} to i64", "int64")
    k.store(number, k.at(values, 2, "int64"))
    k.ret(made + k.load(place, "int64") * 100 + k.load(k.symbol("@start"), "int64"))
    k.finish()
    return module


def run(code, which, x):
    values = np.array([1, 2, 3, 4, 0, 0, 0, 0], np.float32)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    return kind(code["f"])(which, x, values.ctypes.data), values


def test_everything_is_as_llvm_links_it(monkeypatch):
    code = jit.load(everything(), ["f", "seen"])
    assert isinstance(jit._handles[code._held.number], elf.Pages)
    monkeypatch.setattr(elf, "usable", lambda: False)
    other = jit.load(everything(), ["seen", "f"])
    assert not isinstance(jit._handles[other._held.number], elf.Pages)
    for loaded in (code, other):
        for turn in range(1, 4):
            for which, n in ((0, 7), (1, 9)):
                got, values = run(loaded, which, turn)
                assert got == turn * n + 100 * (2 * turn - 1 + which) + 1000
                np.testing.assert_allclose(values[:4], [np.exp(np.float32(0.1)), 2.1, 6.1, 12.1], 1e-6)
                assert values[4:6].view(np.int64)[0] == id(ValueError)
        assert ctypes.c_int64.from_address(loaded["seen"]).value == 5


def maps(address):
    """What may be done with the memory at an address; None where there is none."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[1]
    return None


def test_memory_is_never_writable_and_executable():
    pages, found = elf.link(
        codegen.compile(str(everything()), targets.host()), ["f", "seen"], lambda name: jit._process_symbol(name)
    )
    kinds = {maps(at) for at in range(pages.address, pages.address + pages.size, 4096)}
    assert kinds == {"r-xp", "r--p", "rw-p"}
    assert maps(found["f"]) == "r-xp" and maps(found["seen"]) == "rw-p"
    address = pages.address
    pages.close()
    pages.close()
    assert maps(address) is None


def test_what_is_not_known_is_linked_by_llvm(monkeypatch):
    def unknown(*_):
        raise elf.Unknown

    monkeypatch.setattr(elf, "link", unknown)
    code = jit.load(everything(), ["f"])
    assert run(code, 1, 5)[0] == 45 + 100 + 1000


def test_a_symbol_that_is_not_there():
    data = codegen.compile(str(everything()), targets.host())
    with pytest.raises(elf.Unknown):
        elf.link(data, ["g"], jit._process_symbol)
    with pytest.raises(ZeroDivisionError):  # whatever says where functions are speaks for itself
        elf.link(data, ["f"], lambda name: 1 // 0)


def test_an_object_for_another_machine():
    module = Module(targets.NEON)
    k = Kernel(module, "f", [("x", "int64")], "int64")
    k.ret(k.arguments[0])
    k.finish()
    with pytest.raises(elf.Unknown):
        elf.link(codegen.compile(str(module), targets.NEON), ["f"], jit._process_symbol)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_objects_are_refused_or_loaded_but_nothing_else_is_touched(seed):
    data = codegen.compile(str(everything()), targets.host())
    rng = np.random.default_rng(seed)
    for _ in range(50):
        damaged = bytearray(data)
        if rng.random() < 0.2:
            damaged = damaged[: rng.integers(len(data))]
        else:
            for at in rng.integers(0, len(data), rng.integers(1, 6)):
                damaged[at] = rng.integers(256)
        try:
            pages, _ = elf.link(bytes(damaged), ["f"], lambda name: 0x1234567890)
        except elf.Unknown:
            continue
        pages.close()


def test_products_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((70, 50)).astype("f"), rng.standard_normal((50, 90)).astype("f")
    out = np.empty((2, 70, 90), "f")
    module = gemm.later("float32", targets.host())  # with the builtin
    for i in range(2):
        monkeypatch.setattr(jit, "_loaded", weakref.WeakValueDictionary())  # (an earlier test's may still be held)
        code = jit.load(module, ["builtin"], pool.imports)
        assert isinstance(jit._handles[code._held.number], elf.Pages) == (i == 0)
        call._builtin(code, "product")(out[i], a, b, np.empty(0, np.uint8), 0, 1)
        del code
        monkeypatch.setattr(elf, "usable", lambda: False)
    np.testing.assert_array_equal(out[0], out[1])


def test_the_processor_says_what_llvm_says_of_it():
    host = codegen.llvm().get_host_cpu_features()
    found = processor.features()
    assert {*found} >= {name for names in targets._REQUIRED.values() for name in names}
    assert found == {name: host[name] for name in found}


PROGRAM = """
import sys
import agog as ag
x, k, w = ag.ones(8, 3, 16, 16), ag.ones(8, 3, 3, 3), ag.ones(8 * 256, 64)
@ag.function(strict=True)
def f(x):
    y = ag.max_pool2d(ag.relu(ag.conv2d(x, k, padding="same")), 2)
    return y.sum() + (x.reshape(8, -1)[:, :512] @ w[:512]).tanh()
for _ in range(2):
    y = f(x)
print(float(y[0, 0]), "llvmlite.binding" in sys.modules)
"""


def test_a_process_that_finds_all_on_disk_does_not_load_llvm(tmp_path):
    environment = {"AGOG_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    said = [
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    (first, loaded), (second, again) = (s.stdout.split() for s in said)
    assert first == second and (loaded, again) == ("True", "False")
