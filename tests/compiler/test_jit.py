"""The JIT and its disk cache: what is found again, what is never trusted, and what happens when there is no disk."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref

import numpy as np
import pytest

from agog import config
from agog.compiler import codegen, disk, elementwise, gemm, jit, rowprograms, targets
from agog.compiler.ir import Module
from agog.compiler.kernel import Kernel


def add_module(constant, target=None):
    """A module with `f(x) = x + constant` over int64."""
    module = Module(target or targets.host())
    k = Kernel(module, "f", [("x", "int64")], "int64")
    k.ret(k.arguments[0] + constant)
    k.finish()
    return module


def call(code, x):
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code["f"])(x)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(disk, "said", set())
    return tmp_path / "objects"


@pytest.fixture
def compilations(monkeypatch):
    """Counts what is really compiled."""
    count = []
    compiler = jit._compile
    monkeypatch.setattr(jit, "_compile", lambda *a: count.append(1) or compiler(*a))
    return count


def test_objects_are_found_again_on_disk(cache, compilations):
    assert call(jit.load(add_module(7), ["f"]), 1) == 8
    gc.collect()
    assert call(jit.load(add_module(7), ["f"]), 1) == 8
    assert len(compilations) == 1
    assert len(list(cache.iterdir())) == 1


def test_the_key_holds_the_text_and_the_target(cache):
    text = str(add_module(7))
    names = {jit.object_name(text, t) for t in targets.TARGETS.values()} | {jit.object_name(text + " ", targets.SSE2)}
    assert len(names) == len(targets.TARGETS) + 1


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other", "extended"])
def test_damaged_objects_are_made_anew(cache, compilations, damage):
    jit.object_code(str(add_module(9)), targets.host())
    (path,) = cache.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    damaged = {"cut": data[:-10], "flip": data, "empty": b"", "other": b"x" * 1000, "extended": data + b"x"}[damage]
    path.write_bytes(damaged)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert call(jit.load(add_module(9), ["f"]), 1) == 10
    assert len(compilations) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jit.object_code(str(add_module(9)), targets.host())
    assert len(compilations) == 2


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(config, "cache_dir", lambda: tmp_path / "file")
    monkeypatch.setattr(disk, "said", set())
    with pytest.warns(RuntimeWarning, match="cache of compiled code"):
        assert call(jit.load(add_module(11), ["f"]), 1) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(jit.load(add_module(12), ["f"]), 1) == 13


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jit.os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert call(jit.load(add_module(13), ["f"]), 1) == 14
    assert list(cache.iterdir()) == []


def test_an_object_that_does_not_link_is_made_anew(cache):
    text, target = str(add_module(15)), targets.host()
    disk.write(jit.object_name(text, target), b"not an object, with a right digest")
    assert call(jit.load(add_module(15), ["f"]), 1) == 16


def test_code_is_shared_while_held_and_freed_after():
    first = jit.load(add_module(21), ["f"])
    assert jit.load(add_module(21), ["f"]) is first
    watch = weakref.ref(first)
    del first
    gc.collect()
    assert watch() is None
    assert call(jit.load(add_module(21), ["f"]), 1) == 22


def test_threads_compile_at_once():
    results = {}

    def work(i):
        results[i] = call(jit.load(add_module(100 + i % 5), ["f"]), 1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {i: 101 + i % 5 for i in range(20)}


def test_code_that_is_let_go_by_one_thread_is_loaded_by_another(cache):
    """What is being unloaded is found by nobody."""
    wrong = []

    def work():
        for i in range(300):
            if call(jit.load(add_module(50 + i % 2), ["f"]), 1) != 51 + i % 2:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_what_one_thread_makes_another_waits_for(cache, monkeypatch):
    """One compilation, however many threads want its result; also where nothing can be written to disk."""
    begun, made, compiler = threading.Barrier(4), [], jit._compile

    def slowly(*arguments):
        made.append(1)
        time.sleep(0.2)
        return compiler(*arguments)

    monkeypatch.setattr(jit, "_compile", slowly)
    monkeypatch.setattr(disk, "write", lambda *_: None)
    results = []

    def work(kind):
        begun.wait()
        module = add_module(61) if kind == "text" else jit.Later("test: add 62", targets.host(), lambda: add_module(62))
        results.append(call(jit.load(module, ["f"]), 1))

    for kind, result in (("text", 62), ("recipe", 63)):
        threads = [threading.Thread(target=work, args=(kind,)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert results == [result] * 4 and len(made) == 1
        results.clear(), made.clear()
    assert not jit._making


def test_what_cannot_be_made_is_waited_for_by_nobody(cache):
    begun, failures = threading.Event(), []

    def write():
        begun.set()
        time.sleep(0.1)
        raise LookupError

    def work(first):
        if not first:
            begun.wait()
        with pytest.raises(LookupError):
            jit.load(jit.Later("test: fails", targets.host(), write), ["f"])
        failures.append(1)

    threads = [threading.Thread(target=work, args=(not i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(failures) == 3 and not jit._making


def test_code_is_generated_by_several_threads_at_once(monkeypatch):
    """Threads meet inside of LLVM's two calls that take long, which go around llvmlite's lock."""
    free, together = codegen._free, threading.Barrier(3)

    def meeting(name):
        function = free(name)

        def call(*arguments):
            together.wait(20)
            return function(*arguments)

        return call

    monkeypatch.setattr(codegen, "_free", meeting)
    found = []
    work = lambda i: found.append(codegen.compile(str(add_module(70 + i)), targets.host())[:4])
    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [b"\x7fELF"] * 3
    for name in ("LLVMPY_ParseAssembly", "LLVMPY_TargetMachineEmitToMemory"):
        assert free(name) is not getattr(codegen.llvm().ffi.lib, name)


def test_a_text_that_is_no_module_is_an_error():
    with pytest.raises(RuntimeError, match="parsing"):
        codegen.compile("define nothing", targets.host())
    assert not any(lock.locked() for lock in codegen._locks)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_waits_until_no_thread_is_inside_of_llvm():
    text = str(gemm.build("float32", targets.host()))
    sizes = []
    threads = [
        threading.Thread(target=lambda: sizes.extend(len(codegen.compile(text, targets.host())) for _ in range(2)))
        for _ in range(2)
    ]
    for t in threads:
        t.start()
    for i in range(6):
        time.sleep(0.05)
        child = os.fork()
        if child == 0:
            os._exit(0 if call(jit.load(add_module(80 + i), ["f"]), 1) == 81 + i else 1)
        assert os.waitpid(child, 0)[1] == 0
    for t in threads:
        t.join()
    assert len(sizes) == 4 and len({*sizes}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_waits_for_the_lock_of_llvmlite(cache):
    """A thread that disposes of something of LLVM's takes it, and none of ours."""
    held, lock = threading.Event(), codegen.llvm().ffi.lib._lock

    def dispose():
        with lock:
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=dispose)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # where it would wait for ever
        os._exit(0 if call(jit.load(add_module(90), ["f"]), 1) == 91 else 1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_wait_for_what_a_thread_of_its_parent_was_making(cache):
    inside, go_on = threading.Event(), threading.Event()

    def write():
        inside.set()
        go_on.wait()
        return add_module(91)

    parent = os.getpid()
    later = jit.Later("test: add 91", targets.host(), lambda: write() if os.getpid() == parent else add_module(91))
    thread = threading.Thread(target=jit.load, args=(later, ["f"]))
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if call(jit.load(later, ["f"]), 1) == 92 else 1)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_compiles():
    jit.load(add_module(1), ["f"])
    child = os.fork()
    if child == 0:
        os._exit(0 if call(jit.load(add_module(31), ["f"]), 1) == 32 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_process_ends_while_a_thread_compiles():
    """Exit takes LLVM's globals apart; a thread that is inside LLVM then would crash the process."""
    program = """
import sys, threading, time
from agog.compiler import codegen, gemm, targets
text = str(gemm.build("float32", targets.host()))
work = lambda: [codegen.compile(text, targets.host()) for _ in range(20)]
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.4 + 0.07 * int(sys.argv[1]))
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, str(i)], stderr=subprocess.PIPE) for i in range(4)]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [(b"", 0)] * 4


def test_llvm_is_not_imported_before_it_is_needed():
    program = "import sys, agog.compiler.elementwise, agog.compiler.rows; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, libm may have to be found")
def test_functions_are_found_without_a_process(monkeypatch):
    jit._library.cache_clear()
    monkeypatch.setattr("ctypes.util.find_library", lambda name: pytest.fail("ldconfig is a process"))
    assert all(jit._process_symbol(name) for name in ("PyErr_Occurred", "memcpy", "expf", "powf"))


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_makes_objects(name, monkeypatch, tmp_path):
    """Also AArch64, which cannot run here: all functions, vectors and tails, down to object code."""
    monkeypatch.setattr(config, "cache_dir", lambda: tmp_path)
    target = targets.TARGETS[name]

    def everything(k, x, y):
        z = k.pow(k.exp(x), k.sigmoid(y)) + k.erf(x) + k.sin(y) * k.log(k.abs(x)) + k.tanh(x)
        return z + k.floor(x) + k.ceil(y) + k.trunc(x) + k.round(y)

    for dtype in ("float32", "float64"):
        module, _ = elementwise.build(everything, [dtype] * 2, [dtype], None, target)
        assert jit.object_code(str(module), target)[:4] == b"\x7fELF"
    assembly = jit.assembly(module)
    expected = {"avx512": "zmm0", "avx2": "ymm0", "sse2": "mulpd", "neon": "fmla"}[name]
    assert expected in assembly
    for wider in {"sse2": ("ymm", "zmm", "vmulpd"), "avx2": ("zmm",)}.get(name, ()):
        assert wider not in assembly
    assert rowprograms.PROGRAMS


def test_constants_are_exact():
    k = Kernel(Module(targets.SSE2), "f")
    assert k.const(1.5).text == "0x3FF8000000000000"
    assert k.const(1e40, "float32").text == "0x7FF0000000000000"
    assert k.const(0.1, "float32").text != k.const(0.1, "float64").text
    assert np.float32(0.1).item().hex() == "0x1.99999a0000000p-4"


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["int16", "uint8", "bfloat16", "float16", "bool", "float32"])
def test_a_vector_of_few_elements_ends_where_they_end(dtype, count):
    """LLVM 22 writes four bytes where one lane of a narrower vector is stored whose elements were wider before."""
    module = Module(targets.host())
    k = Kernel(module, "f", [("source", "ptr"), ("to", "ptr")])
    source, to = k.arguments
    k.lanes = module.target.vector_bytes // 4
    wide = k.load(source, "float32" if "float" in dtype else "int32", k.lanes)
    value = k.ne(wide, 0) if dtype == "bool" else k.cast(wide, dtype)
    k.partial(k.const(count, "int64")).store(value, to)
    k.ret()
    k.finish()
    code = jit.load(module, ["f"])
    size = 1 if dtype in ("bool", "uint8") else 4 if dtype == "float32" else 2
    x = np.full(64, 3, np.float32 if "float" in dtype else np.int32)
    out = np.full(256, 0xEE, np.uint8)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code["f"])(x.ctypes.data, out.ctypes.data)
    assert (out[count * size :] == 0xEE).all() and not (out[: count * size] == 0xEE).any()
