"""Builtins made by the JIT, and the same through ctypes."""

import gc
import sys
import threading
import time

import numpy as np
import pytest

from agog.compiler import call, targets
from agog.compiler.elementwise import compile_elementwise
from agog.compiler.ir import Module
from agog.compiler.kernel import Kernel


@pytest.fixture(params=[True, False], ids=["builtin", "ctypes"])
def native(request, monkeypatch):
    if request.param and not call.native_calls:
        pytest.skip("no builtins on this Python")
    monkeypatch.setattr(call, "native_calls", request.param)
    return request.param


def scale_module():
    """out[i] = x[i] * factor + shift, with a float and an int; sizes must agree."""
    module = Module(targets.host())
    internal = call.native_calls
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=internal)
    sizes = k.arguments[1]
    same = k.eq(k.load(sizes, "int64"), k.load(k.at(sizes, 1, "int64"), "int64"))
    k.ret(k.where(same, k.const(0, "ptr"), k.symbol(module.string('not "one" size'))))
    k.finish()
    k = Kernel(module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=internal)
    slots, sizes = k.arguments
    out, x = (k.load(k.at(slots, i, "ptr"), "ptr") for i in (0, 1))
    factor = k.load(k.at(slots, 2, "float64"), "float64")
    shift = k.cast(k.load(k.at(slots, 3, "int64"), "int64"), "float64")
    n = k.op(f"lshr {k.load(sizes, 'int64').typed}, 3", "int64")
    k.loop(
        0, n, 1, lambda i: k.store(k.load(k.at(x, i, "float64"), "float64") * factor + shift, k.at(out, i, "float64"))
    )
    k.ret()
    k.finish()
    return module


@pytest.fixture
def scale(native):
    return call.bind(scale_module(), "scale", "wrfi", release_bytes=1000)


@pytest.mark.parametrize("n", [0, 1, 5, 1000])
def test_calls(scale, n):
    x, out = np.arange(n, dtype=np.float64), np.empty(n)
    assert scale(out, x, 2.5, -3) is None
    np.testing.assert_array_equal(out, x * 2.5 - 3)


def test_scalars_and_multidimensional_arrays(scale):
    x, out = np.ones((2, 3)), np.empty((2, 3))
    scale(out, x, 1, 1)
    assert (out == 2).all()
    zero_d = np.empty(())
    scale(zero_d, np.array(3.0), 1.0, 1)
    assert zero_d == 4


def test_errors(scale):
    x = np.ones(4)
    with pytest.raises(ValueError, match='not "one" size'):
        scale(np.empty(3), x, 1.0, 1)
    with pytest.raises(TypeError, match="expected 4 arguments"):
        scale(x, x)
    with pytest.raises((ValueError, TypeError)):
        scale(np.empty((4, 2))[:, 0], x, 1.0, 1)
    frozen = np.empty(4)
    frozen.flags.writeable = False
    with pytest.raises((ValueError, BufferError), match="read-only"):
        scale(frozen, x, 1.0, 1)


def test_wrong_types(scale, native):
    if native:
        x = np.ones(4)
        with pytest.raises(TypeError):
            scale(x, 3, 1.0, 1)
        with pytest.raises(TypeError):
            scale(x, x, "1", 1)
        with pytest.raises(TypeError):
            scale(x, x, 1.0, 1.5)
        with pytest.raises(OverflowError):
            scale(x, x, 1.0, 1 << 70)
        with pytest.raises(TypeError):
            scale(x, x, 1.0, factor=1)


def test_references_are_balanced(scale):
    x, out, shift = np.ones(10), np.empty(10), 123456789
    arrays = (x, out)
    counts = [sys.getrefcount(a) for a in (*arrays, shift, None)]
    for _ in range(1000):
        scale(out, x, 1.0, shift)
        with pytest.raises(ValueError):
            scale(out[:3], x, 1.0, shift)
    after = [sys.getrefcount(a) for a in (*arrays, shift, None)]
    assert all(abs(a - b) < 50 for a, b in zip(counts, after, strict=True))
    x.resize(20, refcheck=False)  # fails while a buffer is still exported


def test_the_code_lives_as_long_as_the_callable(native):
    f = call.bind(scale_module(), "scale", "wrfi")
    g = f
    del f
    gc.collect()
    out = np.empty(4)
    g(out, np.ones(4), 2.0, 0)
    assert (out == 2).all()


def test_long_work_releases_the_gil():
    f = compile_elementwise("pow", lambda k, x: k.pow(x, x), ["float64"], ["float64"])
    x = np.random.default_rng(0).uniform(0.1, 2, 1 << 22)
    out = np.empty_like(x)
    f([out], [x])
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    for _ in range(5):
        f([out], [x])
    end = time.perf_counter()
    stop.set()
    thread.join()
    inside = [t for t in ticks if start < t < end]
    assert len(inside) >= 3  # with the GIL held it could run between the five calls only, if at all
