"""How near two cores are to each other: what a cache line takes from one to the other, and what both write to memory.

    python benchmarks/cores.py            once a second, 20 times

Cores that share a last cache pass a line on in less than 50 ns, and share that cache's way to memory; others take more
than 150 ns, and have two. The host of a virtual machine moves its processors as it likes, so one machine can be either,
and what writes large arrays then takes up to twice as long. `compiled.py` prints the nanoseconds of every row.
"""

import ctypes
import os
import threading
import time

import llvmlite.binding as llvm
import numpy as np

HAND_OVER = """
; `turns` times: wait until *line is `mine`, make it `other`.
define void @hand_over(ptr %line, i64 %mine, i64 %other, i64 %turns) {
entry:
  br label %wait
wait:
  %i = phi i64 [0, %entry], [%i, %wait], [%i1, %pass]
  %now = load atomic i64, ptr %line acquire, align 8
  %is = icmp eq i64 %now, %mine
  br i1 %is, label %pass, label %wait
pass:
  store atomic i64 %other, ptr %line release, align 8
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %turns
  br i1 %more, label %wait, label %end
end:
  ret void
}

; Store `bytes` (a multiple of 64) of ones around the caches.
define void @fill(ptr %array, i64 %bytes) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %place = getelementptr i8, ptr %array, i64 %i
  store <16 x float> splat (float 1.0), ptr %place, align 64, !nontemporal !0
  %i1 = add i64 %i, 64
  %more = icmp ult i64 %i1, %bytes
  br i1 %more, label %loop, label %end
end:
  fence seq_cst
  ret void
}
!0 = !{i32 1}
"""


def _compile():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten())
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(HAND_OVER), machine)
    engine.finalize_object()
    functions = [ctypes.CFUNCTYPE(None, *types)(engine.get_function_address(name)) for name, *types in (
        ("hand_over", ctypes.c_void_p, *[ctypes.c_int64] * 3), ("fill", ctypes.c_void_p, ctypes.c_int64))]
    return engine, *functions


_engine, _hand_over, _fill = _compile()


def _seconds(*functions):
    """What two functions take that run at once, each in a thread on a core of its own."""
    ready = threading.Barrier(3)

    def run(function, core):
        if hasattr(os, "sched_setaffinity"):  # Linux; of this thread
            os.sched_setaffinity(0, {core})
        ready.wait()
        function()

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(2)
    threads = [threading.Thread(target=run, args=pair) for pair in zip(functions, cores)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def _page(nbytes):
    """An array of `nbytes` that begins with a page."""
    memory = np.zeros(nbytes + 4096, np.uint8)
    return memory[-memory.ctypes.data % 4096:][:nbytes]


def apart(turns=50_000):
    """Nanoseconds that a cache line takes from one core to another and to be seen there."""
    line = _page(64)
    place = line.ctypes.data
    both = lambda: _seconds(lambda: _hand_over(place, 0, 1, turns), lambda: _hand_over(place, 1, 0, turns))
    return min(both() for _ in range(3)) / (2 * turns) * 1e9


def written(nbytes=16 << 20):
    """GB/s that two cores write to memory at once."""
    arrays = [_page(nbytes) for _ in range(2)]
    fill = lambda array: lambda: _fill(array.ctypes.data, nbytes)
    return 2 * nbytes / min(_seconds(*map(fill, arrays)) for _ in range(5)) / 1e9


if __name__ == "__main__":
    for _ in range(20):
        print(f"{apart():4.0f} ns from core to core; two cores write {written():.1f} GB/s", flush=True)
        time.sleep(1)
