"""The thread pool: every chunk once, at once from several threads, after forks, when there is nothing to do."""

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from agog.compiler import jit, pool, targets
from agog.compiler.ir import Module
from agog.compiler.kernel import Kernel

SLEEPS = ["futex", "condition"] if sys.platform == "linux" else ["condition"]


@pytest.fixture(scope="module")
def mark():
    """Native code that adds one to each int32 of its range."""
    module = Module(targets.host())
    arguments = [("a", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")]
    k = Kernel(module, "mark", arguments)
    array, begin, end, _ = k.arguments

    def add_one(i):
        place = k.at(array, i, "int32")
        k.store(k.load(place, "int32") + 1, place)

    k.loop(begin, end, 1, add_one)
    k.ret()
    k.finish()
    return jit.load(module, ["mark"])


@pytest.fixture(params=[(s, n) for s in SLEEPS for n in (1, 2, 5)], ids=lambda p: f"{p[0]}-{p[1]}")
def workers(request):
    sleep, threads = request.param
    p = pool.Pool(threads, sleep)
    yield p
    p.stop()


def run(p, mark, counts, grain, symbol=pool.SYMBOL):
    p.run(mark["mark"], counts.ctypes.data, counts.size, grain, symbol)


@pytest.mark.parametrize("symbol", [pool.SYMBOL, pool.AWAKE])
@pytest.mark.parametrize("n, grain", [(0, 1), (1, 1), (7, 1), (1000, 1), (100003, 1000), (10, 100), (4096, 4095)])
def test_every_index_once(workers, mark, n, grain, symbol):
    counts = np.zeros(n, np.int32)
    for _ in range(50):
        run(workers, mark, counts, grain, symbol)
    assert (counts == 50).all()


def test_more_threads_than_parts(mark):
    p = pool.Pool(pool._PARTS + 9, SLEEPS[0])  # (one of its own: without, it is the shared one)
    counts = np.zeros(10_007, np.int32)
    for grain in (1, 13, 130, 2000):
        for _ in range(20):
            run(p, mark, counts, grain)
    p.stop()
    assert (counts == 80).all()


def who(p, n, grain, symbol=pool.SYMBOL, patience=0.5):
    """The thread that did each chunk; each waits until another has begun one too, for so many seconds."""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32)
    done, seen, both = {}, set(), threading.Event()

    def chunk(_, begin, end, thread):
        done[begin] = thread
        seen.add(thread)
        if len(seen) > 1:
            both.set()
        both.wait(patience)

    function = kind(chunk)
    p.run(ctypes.cast(function, ctypes.c_void_p).value, 0, n, grain, symbol)
    return [done[begin] for begin in range(0, n, grain)]


def test_each_thread_begins_with_a_part_of_its_own():
    p = pool.Pool(2, SLEEPS[0])
    for _ in range(5):
        done = who(p, 1000, 100)  # five chunks each, of which the other may take those at the end
        assert done[0] == 0 and done[5] == 1
    p.stop()


def test_a_stream_of_small_jobs_wakes_the_workers():
    p = pool.Pool(2, SLEEPS[0])
    who(p, 2, 1)  # starts it
    time.sleep(0.05)
    assert any(set(who(p, 2, 1, pool.AWAKE, 0.05)) == {0, 1} for _ in range(50))
    p.stop()


def test_a_stream_of_small_jobs_wakes_the_workers_at_once_after_a_pause(mark):
    """What found them awake counts as well: eight of them have paid for the wake."""
    counts = np.zeros(2, np.int32)

    def pause_and_go_on():
        p = pool.Pool(2, SLEEPS[0], spin=1_000_000)  # one that has counted nothing, whose worker stays awake meanwhile
        who(p, 2, 1)
        for _ in range(8):
            run(p, mark, counts, 1, pool.AWAKE)
        time.sleep(0.3)
        found = set(who(p, 2, 1, pool.AWAKE))
        p.stop()
        return found == {0, 1}

    assert any(pause_and_go_on() for _ in range(3))


def test_many_small_jobs(workers, mark):
    counts = np.zeros(64, np.int32)
    for _ in range(5000):
        run(workers, mark, counts, 1)
    assert (counts == 5000).all()


def test_jobs_after_sleep(workers, mark):
    counts = np.zeros(64, np.int32)
    for _ in range(30):
        time.sleep(0.002)  # longer than workers spin
        run(workers, mark, counts, 4)
    assert (counts == 30).all()


def test_several_callers_at_once(workers, mark):
    arrays = [np.zeros(500 + i, np.int32) for i in range(4)]

    def work(counts):
        for _ in range(300):
            run(workers, mark, counts, 7)

    threads = [threading.Thread(target=work, args=(counts,)) for counts in arrays]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all((counts == 300).all() for counts in arrays)


def test_changing_the_number_of_threads(workers, mark):
    counts = np.zeros(1000, np.int32)
    for i in range(200):
        workers.threads = 1 + i % 4
        run(workers, mark, counts, 10)
    assert (counts == 200).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_starts_its_own_workers(workers, mark):
    counts = np.zeros(1000, np.int32)
    run(workers, mark, counts, 10)
    child = os.fork()
    if child == 0:
        workers.forget()
        for _ in range(20):
            run(workers, mark, counts, 10)
        os._exit(0 if (counts == 21).all() else 1)
    run(workers, mark, counts, 10)
    assert os.waitpid(child, 0)[1] == 0
    assert (counts == 2).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_another_thread_runs_jobs(mark):
    """The shared pool, whose fork handler is installed: the parent's job must not look like the child's."""
    p = pool.shared()
    counts, stop = np.zeros(100000, np.int32), threading.Event()

    def work():
        while not stop.is_set():
            run(p, mark, counts, 100)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                own = np.zeros(1000, np.int32)
                run(p, mark, own, 10)
                os._exit(0 if (own == 1).all() else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def test_a_stopped_pool_works_alone(mark):
    p = pool.Pool(3, SLEEPS[0])
    counts = np.zeros(1000, np.int32)
    run(p, mark, counts, 10)
    p.stop()
    run(p, mark, counts, 10)
    p.threads = 2
    run(p, mark, counts, 10)
    assert (counts == 3).all()
    p.stop()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no list of threads here")
@pytest.mark.parametrize("sleep", SLEEPS)
def test_workers_that_start_after_a_stop_wait_for_a_job(mark, sleep):
    """The stop is an epoch of its own: a worker that starts later must not take it for one meant for it."""
    for _ in range(10):
        p = pool.Pool(2, sleep)
        counts = np.zeros(1000, np.int32)
        run(p, mark, counts, 10)
        p.stop()
        others = set(os.listdir("/proc/self/task"))
        p.threads = 6
        for _ in range(20):
            run(p, mark, counts, 1)
            time.sleep(0.0005)
        assert (counts == 21).all()
        assert len(set(os.listdir("/proc/self/task")) - others) == 5
        p.stop()


def test_every_pool_has_memory_of_its_own(mark):
    """The shared pool as well: what another one forgets, it does not."""
    shared, other = pool.shared(), pool.Pool(3)
    assert len({shared.address, other.address, pool.Pool(3).address}) == 3
    before = shared.threads
    other.threads = 7
    assert shared.threads == before


def test_code_of_a_pool_outlives_it():
    """A worker that the system delays is in the pool's code when the pool is gone already."""
    p = pool.Pool(2, SLEEPS[0])
    code = weakref.ref(p._code)
    p.stop()
    del p
    gc.collect()
    assert code() is not None


def test_threads_that_want_the_shared_pool_at_once_get_one(monkeypatch):
    made, all_in = [], threading.Barrier(4)

    class Slow:
        def __init__(self, threads, name):
            made.append(self)
            time.sleep(0.01)

        forget = stop = staticmethod(lambda: None)

    monkeypatch.setattr(pool, "Pool", Slow)
    monkeypatch.setattr(pool, "_shared", None)
    monkeypatch.setattr(pool.os, "register_at_fork", lambda **hooks: None)
    monkeypatch.setattr(pool.atexit, "register", lambda hook: None)
    got = []

    def want():
        all_in.wait()
        got.append(pool.shared())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 1 and got == made * 4


@pytest.mark.parametrize("sleep", SLEEPS)
def test_idle_workers_sleep(mark, sleep):
    p = pool.Pool(4, sleep)
    run(p, mark, np.zeros(1000, np.int32), 1)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
    p.stop()


def test_a_pool_without_threads():
    module = pool.build(targets.host(), "none")
    code = jit.load(module, [pool.SYMBOL])
    assert ctypes.c_void_p(code[pool.SYMBOL]).value


def test_other_systems_assemble():
    """The condition variable's variant is what macOS gets; its AArch64 code must at least assemble."""
    for sleep in ("futex", "condition"):
        assert jit.object_code(str(pool.build(targets.NEON, sleep)), targets.NEON)[:4] == b"\x7fELF"


def test_a_process_with_workers_ends(tmp_path):
    program = """
import numpy as np
from agog.compiler.elementwise import compile_elementwise
f = compile_elementwise("add", lambda k, a, b: a + b, ["float32"] * 2, ["float32"])
x = np.ones(1 << 21, np.float32)
for _ in range(20):
    f([x], [x, x])
"""
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
