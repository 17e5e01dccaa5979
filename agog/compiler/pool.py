"""Threads for native code, without a C extension: `pthread_create`, and a worker loop that the JIT emits.

One function is offered to kernels, `agog_parallel_for(fn, arg, n, grain)`: it calls `fn(arg, begin, end, thread)` over
[0, n) in chunks of `grain`, on the calling thread (number 0) and the workers (1, 2, ...), and returns when all is done.

- Each thread begins with a part of the range that is its own, the same in every job of that size: what it wrote last
  time is in its cache, and taking it out of another's costs more than reading memory. It claims the part's chunks from
  an atomic counter, then those that are left of the others' parts: a thread that the system delays costs one chunk.
- Workers enter through a gate (epoch | closed | how many entered). When the chunks run out the caller closes it and
  waits only for the workers that did enter: one that sleeps or was descheduled is never waited for.
- Idle workers spin about 0.2 ms, then sleep: on a futex on Linux, on a condition variable elsewhere.
- One job at a time. A caller who finds the pool busy (another thread's job, or a job's own chunk) runs its job alone.
- Workers are started by the first job that wants them. After a fork the child forgets the parent's workers, which it
  does not have, and so starts its own when it needs them.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import sys
import threading
import time
from typing import Mapping

from agog import config
from agog.compiler import jit, targets
from agog.compiler.ir import Module
from agog.compiler.targets import Target

__all__ = ["AWAKE", "SYMBOL", "Pool", "imports", "refresh"]

#: What kernels call: `void (ptr fn, ptr arg, i64 n, i64 grain)` with `fn` a `void (ptr arg, i64, i64, i32)`.
SYMBOL = "agog_parallel_for"
#: The same for jobs too small to wake a worker for: those that are awake take part. One that finds a worker asleep
#: wakes it when there were seven others since the last that did: so a stream of them has all threads again at once
#: after a pause, and of lone ones every eighth pays for it.
AWAKE = "agog_parallel_for_awake"

# The pool's memory; what different threads write is on different cache lines.
_LAYOUT = {
    "gate": 0,  # i64: epoch << 32 | closed << 31 | number of workers that entered
    "epoch": 4,  # the upper half of the gate, which is what workers sleep on
    "done": 256,  # i32: workers that have left
    "sleepers": 384,  # i32
    "small": 388,  # i32: jobs too small to wake a worker for, since one of them did
    "fn": 512,
    "arg": 520,
    "n": 528,
    "grain": 536,
    "chunks": 544,
    "parts": 552,
    "busy": 640,  # i32: somebody's job is running
    "started": 644,  # i32: workers that exist
    "wanted": 768,  # i32: workers that may take part
    "spin": 772,  # i32: pauses before a worker sleeps
    "mutex": 896,  # for systems without a futex; the largest known are 64 bytes
    "condition": 1024,
    "next": 1152,  # i64 for each part: the first of its indices that is not claimed
}
_SPIN = 2e-4  # seconds that an idle worker waits awake
_PARTS, _APART = 64, 128  # more threads than parts share them
_SIZE, _FORGOTTEN_AT_FORK = _LAYOUT["next"] + _PARTS * _APART, 768

_WORKER = """
; The counter of a part.
define internal ptr @next(i64 %part) #0 {
  %offset = mul i64 %part, {apart}
  %place = getelementptr inbounds i8, ptr {next}, i64 %offset
  ret ptr %place
}

; Where a part begins, and the one before it ends.
define internal i64 @border(i64 %part, i64 %parts) #0 {
  %n = load i64, ptr {n}
  %grain = load i64, ptr {grain}
  %chunks = load i64, ptr {chunks}
  %times = mul i64 %part, %chunks
  %chunk = udiv i64 %times, %parts
  %begin = mul i64 %chunk, %grain
  %inside = icmp slt i64 %begin, %n
  %border = select i1 %inside, i64 %begin, i64 %n
  ret i64 %border
}

define internal void @chunks(i32 %thread) #0 {
entry:
  %fn = load ptr, ptr {fn}
  %arg = load ptr, ptr {arg}
  %grain = load i64, ptr {grain}
  %parts = load i64, ptr {parts}
  %thread64 = zext i32 %thread to i64
  %home = urem i64 %thread64, %parts
  br label %look
look:
  %part = phi i64 [%home, %entry], [%following, %further]
  %next = call ptr @next(i64 %part)
  %part1 = add i64 %part, 1
  %end = call i64 @border(i64 %part1, i64 %parts)
  %first = load atomic i64, ptr %next monotonic, align 8
  %left = icmp slt i64 %first, %end
  br i1 %left, label %claim, label %further
claim:
  %begin = atomicrmw add ptr %next, i64 %grain monotonic
  %any = icmp slt i64 %begin, %end
  br i1 %any, label %do, label %further
do:
  %full = add i64 %begin, %grain
  %whole = icmp slt i64 %full, %end
  %stop = select i1 %whole, i64 %full, i64 %end
  call void %fn(ptr %arg, i64 %begin, i64 %stop, i32 %thread)
  br label %claim
further:
  %last = icmp eq i64 %part1, %parts
  %following = select i1 %last, i64 0, i64 %part1
  %round = icmp eq i64 %following, %home
  br i1 %round, label %done, label %look
done:
  ret void
}

define internal ptr @worker(ptr %number) #0 {
entry:
  %number64 = ptrtoint ptr %number to i64
  %thread = trunc i64 %number64 to i32
  br label %idle
idle:
  %last = phi i32 [0, %entry], [%now, %late], [%mine, %leave]
  br label %spin
spin:
  %i = phi i32 [0, %idle], [%i1, %pause], [0, %sleep]
  %seen = load atomic i64, ptr {gate} acquire, align 8
  %now64 = lshr i64 %seen, 32
  %now = trunc i64 %now64 to i32
  %new = icmp ne i32 %now, %last
  br i1 %new, label %try, label %pause
pause:
  {pause}
  %i1 = add i32 %i, 1
  %limit = load i32, ptr {spin}
  %more = icmp ult i32 %i1, %limit
  br i1 %more, label %spin, label %sleep
sleep:
  %s0 = atomicrmw add ptr {sleepers}, i32 1 seq_cst
  call void @wait(i32 %last)
  %s1 = atomicrmw sub ptr {sleepers}, i32 1 seq_cst
  br label %spin
try:
  %gate = phi i64 [%seen, %spin], [%found, %enter]
  %entered64 = and i64 %gate, 4294967295
  %entered = trunc i64 %entered64 to i32
  %wanted = load atomic i32, ptr {wanted} monotonic, align 4
  ; a closed gate has bit 31 set, so that `entered` is then larger than any number of workers
  %open = icmp ult i32 %entered, %wanted
  br i1 %open, label %enter, label %late
late:
  br label %idle
enter:
  %gate1 = add i64 %gate, 1
  %swap = cmpxchg ptr {gate}, i64 %gate, i64 %gate1 acq_rel acquire
  %found = extractvalue { i64, i1 } %swap, 0
  %ok = extractvalue { i64, i1 } %swap, 1
  br i1 %ok, label %run, label %try
run:
  %mine64 = lshr i64 %gate, 32
  %mine = trunc i64 %mine64 to i32
  %fn = load ptr, ptr {fn}
  %stop = icmp eq ptr %fn, null
  br i1 %stop, label %exit, label %do
do:
  call void @chunks(i32 %thread)
  br label %leave
leave:
  %d0 = atomicrmw add ptr {done}, i32 1 release
  br label %idle
exit:
  %d1 = atomicrmw add ptr {done}, i32 1 release
  ret ptr null
}
"""

_RUN = """
define internal void @start_workers() #0 {
entry:
  %id = alloca i64
  br label %next
next:
  %have = load i32, ptr {started}
  %want = load atomic i32, ptr {wanted} monotonic, align 4
  %more = icmp slt i32 %have, %want
  br i1 %more, label %start, label %end
start:
  %number = add i32 %have, 1
  %number64 = zext i32 %number to i64
  %argument = inttoptr i64 %number64 to ptr
  %failed = call i32 @pthread_create(ptr %id, ptr null, ptr @worker, ptr %argument)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %count, label %less
count:
  store i32 %number, ptr {started}
  %thread = load i64, ptr %id
  %ignored = call i32 @pthread_detach(i64 %thread)
  br label %next
less:
  ; the system gives no more threads: do with those there are
  store atomic i32 %have, ptr {wanted} monotonic, align 4
  br label %end
end:
  ret void
}

; Open the gate for the job whose fields are set, and wake up to `count` workers.
define internal void @open(i32 %count) #0 {
entry:
  store i32 0, ptr {done}
  %old = load i64, ptr {gate}
  %epoch = lshr i64 %old, 32
  %epoch1 = add i64 %epoch, 1
  %new = shl i64 %epoch1, 32
  %x = atomicrmw xchg ptr {gate}, i64 %new seq_cst
  %asleep = load atomic i32, ptr {sleepers} seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  %wanted = icmp ne i32 %count, 0
  %both = and i1 %any, %wanted
  br i1 %both, label %wake, label %end
wake:
  call void @wake(i32 %count)
  br label %end
end:
  ret void
}

define void @agog_parallel_for(ptr %fn, ptr %arg, i64 %n, i64 %grain) #0 {
  call void @share_out(ptr %fn, ptr %arg, i64 %n, i64 %grain, i32 1024)
  ret void
}

define void @agog_parallel_for_awake(ptr %fn, ptr %arg, i64 %n, i64 %grain) #0 {
entry:
  %jobs = load atomic i32, ptr {small} monotonic, align 4
  %asleep = load atomic i32, ptr {sleepers} monotonic, align 4
  %any = icmp ne i32 %asleep, 0
  %many = icmp uge i32 %jobs, 7
  %wake = and i1 %any, %many
  %jobs1 = add i32 %jobs, 1
  %counted = select i1 %wake, i32 0, i32 %jobs1
  store atomic i32 %counted, ptr {small} monotonic, align 4
  %woken = select i1 %wake, i32 1024, i32 0
  call void @share_out(ptr %fn, ptr %arg, i64 %n, i64 %grain, i32 %woken)
  ret void
}

; As long as a worker waits before it sleeps, for `n` pauses: to be measured.
define void @agog_pool_pause(i64 %n) #0 {
entry:
  br label %pause
pause:
  %i = phi i64 [0, %entry], [%i1, %pause]
  {pause}
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %pause, label %end
end:
  ret void
}

define internal void @share_out(ptr %fn, ptr %arg, i64 %n, i64 %grain, i32 %most) #0 {
entry:
  %workers = load atomic i32, ptr {wanted} monotonic, align 4
  %none = icmp eq i32 %workers, 0
  %short = icmp sle i64 %n, %grain
  %alone = or i1 %none, %short
  br i1 %alone, label %serial, label %lock
lock:
  %got = cmpxchg ptr {busy}, i32 0, i32 1 acquire monotonic
  %free = extractvalue { i32, i1 } %got, 1
  br i1 %free, label %parallel, label %serial
serial:
  call void %fn(ptr %arg, i64 0, i64 %n, i32 0)
  ret void
parallel:
  call void @start_workers()
  store ptr %fn, ptr {fn}
  store ptr %arg, ptr {arg}
  store i64 %n, ptr {n}
  store i64 %grain, ptr {grain}
  %less = sub i64 %n, 1
  %others = udiv i64 %less, %grain
  %chunks = add i64 %others, 1
  store i64 %chunks, ptr {chunks}
  %workers64 = zext i32 %workers to i64
  %threads = add i64 %workers64, 1
  %enough = icmp ult i64 %threads, %chunks
  %parts0 = select i1 %enough, i64 %threads, i64 %chunks
  %counted = icmp ult i64 %parts0, {most_parts}
  %parts = select i1 %counted, i64 %parts0, i64 {most_parts}
  store i64 %parts, ptr {parts}
  br label %share
share:
  %part = phi i64 [0, %parallel], [%part1, %share]
  %next = call ptr @next(i64 %part)
  %begin = call i64 @border(i64 %part, i64 %parts)
  store atomic i64 %begin, ptr %next monotonic, align 8
  %part1 = add i64 %part, 1
  %shared = icmp eq i64 %part1, %parts
  br i1 %shared, label %begin_work, label %share
begin_work:
  %most64 = zext i32 %most to i64
  %few = icmp ult i64 %others, %most64
  %count64 = select i1 %few, i64 %others, i64 %most64
  %count = trunc i64 %count64 to i32
  call void @open(i32 %count)
  call void @chunks(i32 0)
  %final = atomicrmw or ptr {gate}, i64 2147483648 acq_rel
  %entered64 = and i64 %final, 2147483647
  %entered = trunc i64 %entered64 to i32
  br label %join
join:
  %i = phi i32 [0, %begin_work], [%i1, %pause], [%i1, %yield]
  %done = load atomic i32, ptr {done} acquire, align 4
  %all = icmp eq i32 %done, %entered
  br i1 %all, label %end, label %pause
pause:
  {pause}
  %i1 = add i32 %i, 1
  %spin = icmp ult i32 %i1, 2000
  br i1 %spin, label %join, label %yield
yield:
  %y = call i32 @sched_yield()
  br label %join
end:
  store atomic i32 0, ptr {busy} release, align 4
  ret void
}

; Send the workers home. A pool that is busy is left alone: the process is ending anyway. Where a worker does not come
; by in time, the pool stays busy, so that no later job meets it: jobs then run on the caller alone.
define void @agog_pool_stop() #0 {
entry:
  %got = cmpxchg ptr {busy}, i32 0, i32 1 acquire monotonic
  %free = extractvalue { i32, i1 } %got, 1
  br i1 %free, label %stop, label %end
stop:
  %started = load i32, ptr {started}
  store atomic i32 %started, ptr {wanted} monotonic, align 4
  store ptr null, ptr {fn}
  call void @open(i32 1024)
  br label %join
join:
  %i = phi i32 [0, %stop], [%i1, %wait]
  %done = load atomic i32, ptr {done} acquire, align 4
  %all = icmp eq i32 %done, %started
  br i1 %all, label %gone, label %wait
wait:
  %y = call i32 @sched_yield()
  %i1 = add i32 %i, 1
  %late = icmp ugt i32 %i1, 100000
  br i1 %late, label %end, label %join
gone:
  ; later workers know no epoch yet, and must not take this one for a job
  %closed = atomicrmw or ptr {gate}, i64 2147483648 acq_rel
  store i32 0, ptr {started}
  store atomic i32 0, ptr {wanted} monotonic, align 4
  store atomic i32 0, ptr {busy} release, align 4
  br label %end
end:
  ret void
}

define void @agog_pool_forget() #0 {
entry:
  call void @llvm.memset.p0.i64(ptr @pool, i8 0, i64 {forgotten}, i1 false)
  store i64 2147483648, ptr {gate} ; closed
  call void @prepare()
  ret void
}
"""

_FUTEX = """
define internal void @wait(i32 %epoch) #0 {
  %r = call i64 (i64, ...) @syscall(i64 {futex}, ptr {epoch}, i32 128, i32 %epoch, ptr null)
  ret void
}
define internal void @wake(i32 %count) #0 {
  %r = call i64 (i64, ...) @syscall(i64 {futex}, ptr {epoch}, i32 129, i32 %count, ptr null)
  ret void
}
define internal void @prepare() #0 {
  ret void
}
"""

_CONDITION = """
define internal void @wait(i32 %epoch) #0 {
entry:
  %l = call i32 @pthread_mutex_lock(ptr {mutex})
  br label %check
check:
  %now = load atomic i32, ptr {epoch} seq_cst, align 4
  %same = icmp eq i32 %now, %epoch
  br i1 %same, label %sleep, label %end
sleep:
  %w = call i32 @pthread_cond_wait(ptr {condition}, ptr {mutex})
  br label %check
end:
  %u = call i32 @pthread_mutex_unlock(ptr {mutex})
  ret void
}
define internal void @wake(i32 %count) #0 {
  %l = call i32 @pthread_mutex_lock(ptr {mutex})
  %b = call i32 @pthread_cond_broadcast(ptr {condition})
  %u = call i32 @pthread_mutex_unlock(ptr {mutex})
  ret void
}
define internal void @prepare() #0 {
  %m = call i32 @pthread_mutex_init(ptr {mutex}, ptr null)
  %c = call i32 @pthread_cond_init(ptr {condition}, ptr null)
  ret void
}
"""

_SERIAL = """
define void @agog_parallel_for(ptr %fn, ptr %arg, i64 %n, i64 %grain) #0 {
  call void %fn(ptr %arg, i64 0, i64 %n, i32 0)
  ret void
}
define void @agog_parallel_for_awake(ptr %fn, ptr %arg, i64 %n, i64 %grain) #0 {
  call void %fn(ptr %arg, i64 0, i64 %n, i32 0)
  ret void
}
define void @agog_pool_stop() #0 {
  ret void
}
define void @agog_pool_forget() #0 {
  ret void
}
define void @agog_pool_pause(i64 %n) #0 {
  ret void
}
"""

_DECLARED = {
    "pthread_create": ("i32", "ptr, ptr, ptr, ptr"),
    "pthread_detach": ("i32", "i64"),
    "sched_yield": ("i32", ""),
}
_DECLARED_CONDITION = {
    "pthread_mutex_init": ("i32", "ptr, ptr"),
    "pthread_mutex_lock": ("i32", "ptr"),
    "pthread_mutex_unlock": ("i32", "ptr"),
    "pthread_cond_init": ("i32", "ptr, ptr"),
    "pthread_cond_wait": ("i32", "ptr, ptr"),
    "pthread_cond_broadcast": ("i32", "ptr"),
}
_PAUSE = {
    "x86_64": ("llvm.x86.sse2.pause", "", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("llvm.aarch64.hint", "i32", "call void @llvm.aarch64.hint(i32 1)"),
}
_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}


def build(target: Target, sleep: str | None = None) -> Module:
    """The module of a pool. `sleep` is "futex", "condition" or "none" (no threads); by default what the system has."""
    if sleep is None:
        sleep = {"linux": "futex", "windows": "none"}.get(target.system, "condition")
    module = Module(target)
    module.globals["pool"] = f"@pool = dso_local global [{_SIZE} x i8] zeroinitializer, align 128"
    module.declare("llvm.memset.p0.i64", "void", "ptr, i8, i64, i1")
    if sleep == "none":
        module.functions["pool"] = _SERIAL
        return module
    name, arguments, pause = _PAUSE[target.machine]
    module.declare(name, "void", arguments)
    for name, (result, arguments) in {**_DECLARED, **(_DECLARED_CONDITION if sleep == "condition" else {})}.items():
        module.declare(name, result, arguments, external=True)
    text = _WORKER + _RUN + (_FUTEX if sleep == "futex" else _CONDITION)
    if sleep == "futex":
        module.declare("syscall", "i64", "i64, ...", external=True)
    words = {name: f"getelementptr inbounds (i8, ptr @pool, i64 {offset})" for name, offset in _LAYOUT.items()} | {
        "pause": pause,
        "forgotten": _FORGOTTEN_AT_FORK,
        "futex": _FUTEX_NUMBER.get(target.machine),
        "most_parts": _PARTS,
        "apart": _APART,
    }
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", str(value))
    module.functions["pool"] = text
    return module


_numbers = itertools.count()
# The code of every pool there was: a worker that was told to go may still be in its last instructions, or asleep.
_codes: list[jit.Code] = []


class Pool:
    """A set of worker threads, started when first used.

    Parameters
    ----------
    threads : how many threads work at a job, the caller included; at least 1
    sleep : how idle workers wait; None for what this system does best
    spin : pauses before an idle worker sleeps; None for about 0.2 ms of them
    name : of its code; one process must not have two pools of one name
    """

    def __init__(
        self, threads: int, sleep: str | None = None, spin: int | None = None, name: str | None = None
    ) -> None:
        module = build(targets.host(), sleep)
        # Two pools in one process (as in tests) must not share the code, which holds their memory: the second would
        # begin by forgetting the workers of the first.
        module.globals["id"] = f"; {next(_numbers) if name is None else name}"
        self._code = jit.load(module, [SYMBOL, AWAKE, *(f"agog_pool_{x}" for x in ("stop", "forget", "pause")), "pool"])
        _codes.append(self._code)
        self._words = (ctypes.c_int32 * 2).from_address(self._code["pool"] + _LAYOUT["wanted"])
        self._words[1] = self._measured() if spin is None else spin
        self._forget = ctypes.CFUNCTYPE(None)(self._code["agog_pool_forget"])
        self._stop = ctypes.CFUNCTYPE(None)(self._code["agog_pool_stop"])
        self.forget()
        self.threads = threads

    def _measured(self) -> int:
        """Pauses that take `_SPIN`: one is 40 cycles on one processor, and 140 on another."""
        pause, times = ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._code["agog_pool_pause"]), []
        for _ in range(4):
            start = time.perf_counter()
            pause(500)
            times.append(time.perf_counter() - start)
        return max(1000, min(int(500 * _SPIN / max(min(times), 1e-9)), 100_000))

    @property
    def addresses(self) -> Mapping[str, int]:
        """The addresses of both functions, by symbol."""
        return {symbol: self._code[symbol] for symbol in (SYMBOL, AWAKE)}

    @property
    def address(self) -> int:
        """The address of this pool's `agog_parallel_for`."""
        return self._code[SYMBOL]

    @property
    def threads(self) -> int:
        """How many threads work at a job, the caller included."""
        return self._words[0] + 1

    @threads.setter
    def threads(self, n: int) -> None:
        self._words[0] = max(0, min(int(n), 1024) - 1)

    def forget(self) -> None:
        """Forget all workers without stopping them: right in a forked child, which has none."""
        self._forget()

    def stop(self) -> None:
        """End the workers; later jobs run on the caller alone until `threads` is set."""
        self._stop()

    def run(self, function: int, argument: int, n: int, grain: int, symbol: str = SYMBOL) -> None:
        """Run native code at address `function` over [0, n), for tests and benchmarks. Releases the GIL."""
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        run = kind(self._code[symbol])
        run(function, argument, n, grain)


_making = threading.RLock()
_shared: Pool | None = None


def shared() -> Pool:
    """The pool that all kernels use, with `config.num_threads` threads."""
    global _shared
    if _shared is None:
        with _making:
            if _shared is None:
                pool = Pool(config.num_threads, name="shared")  # (the same text in every process: found on disk)
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=pool.forget)
                # Workers must not be inside of JIT code when LLVM takes it away.
                atexit.register(pool.stop)
                _shared = pool
    return _shared


def imports() -> dict[str, int]:
    """What a kernel that calls `agog_parallel_for` is linked with."""
    return dict(shared().addresses)


_current = 0


def refresh() -> None:
    """Take over a changed `config.num_threads`. Kernels call it each time, so it does no more than it must."""
    global _current
    if config.num_threads != _current and not sys.is_finalizing():
        shared().threads = _current = config.num_threads
