"""Elementwise work on arrays too large for one core: split over threads, into reused memory.

A fresh array of many megabytes costs more in page faults than in arithmetic. `Arena` keeps the memory of results
that nobody holds any more; whether somebody does is read off the reference count of the memory's owner.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from math import prod
from typing import Any, Callable, Sequence

import numpy as np

from agog import config
from agog.array import dtypes
from agog.array.numbers import weak

THRESHOLD = 1 << 16
"""Elements from which a native kernel is worth its call."""

MIDDLE = 1 << 9
"""The same where NumPy goes over the array several times, as for a sigmoid."""

SLOW = 1 << 10
"""The same where a ufunc takes long for an element, and the kernel may differ in the last digit."""

APART = 1 << 13
"""The same where one of two arrays is stretched to the other's shape: NumPy calls its loop for each row."""

FEW, OUTER = 1 << 8, 1 << 19
"""Elements of the first of them, or those of one times those of the other, below which none is looked for."""

_WHOLE_FROM = 1 << 14
"""The same for quotients of integers, which no vector instruction computes; NumPy multiplies where one is a number."""

_THREADS_FROM = 1 << 19
"""Elements from which waking a Python thread (some 70 µs) pays, and loading the compiler is called for."""

_ndarray, _empty = np.ndarray, np.empty
_REUSE_BYTES = 1 << 20
_KEEP_BYTES = 512 << 20
_ALIGN = 64
COUNTED = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
"""Whether a reference count says who holds an object (without the GIL it does not)."""


def _prepare_heap() -> None:
    """Make the C library keep freed arrays of up to 16 MB for the next ones, instead of giving each back to the system.

    glibc maps large blocks one by one until it has seen one freed; then it takes blocks of that size from its heap,
    and trims the heap only beyond twice that. Nothing is touched here, so it costs no memory; it spares programs whose
    arrays come and go a page fault for every 4 KB. Other systems' allocators do not mind.
    """
    np.empty(16 << 20, np.uint8)


_prepare_heap()


def _free(owners: list[tuple[np.ndarray, int]], alone: int) -> tuple[np.ndarray, int] | None:
    """Memory that nobody but these tuples holds: any array on it would be one reference more than `alone`."""
    for pair in owners:
        owner = pair[0]
        if sys.getrefcount(owner) == alone:
            return pair
    return None


# What `_free` counts for such memory, which depends on the version of Python; 0 is never counted.
_FREE_COUNT = next((n for n in range(1, 9) if COUNTED and _free([(np.empty(1), 0)], n) is not None), 0)


_PAGE = 4096
SLACK = _PAGE + _ALIGN
"""Bytes beyond those of an array that leave `placed` its choice."""

_PLACES = np.arange(0, _PAGE, _ALIGN)


def placed(owner: np.ndarray, read: Sequence[np.ndarray]) -> int:
    """The offset in `owner` at which a result begins with a line of the caches, away from what it is made of.

    Processors compare addresses of loads and of stores before them by the place in a page first: a load that follows a
    store to the same place of another page waits until that is done. So a loop that reads some bytes behind what it
    writes, page for page, takes up to three times as long, and neighbours in a heap lie just like that.
    """
    start = owner.ctypes.data
    offsets = _PLACES + -start % _ALIGN
    addresses = [x.ctypes.data for x in read if type(x) is np.ndarray]
    if not addresses:
        return int(offsets[0])
    behind = (offsets[:, None] + (start - np.array(addresses))) % _PAGE
    return int(offsets[np.minimum(behind, _PAGE - behind).min(axis=1).argmax()])


class Arena:
    """Memory of large results, reused when the results are gone. Not shared between threads."""

    def __init__(self) -> None:
        self.owners: dict[int, list[tuple[np.ndarray, int]]] = {}  # (memory, offset of its first aligned byte)
        self.held = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, *read: Any) -> np.ndarray:
        """An uninitialised array of at least `_REUSE_BYTES`, for what is computed from the arrays `read`."""
        nbytes = prod(shape) * dtype.itemsize
        owners = self.owners.setdefault(nbytes, [])
        found = _free(owners, _FREE_COUNT)
        if found is None:
            if self.held + nbytes > _KEEP_BYTES:
                self.trim()
                owners = self.owners.setdefault(nbytes, [])
            owner = np.empty(nbytes + SLACK, np.uint8)
            offset = placed(owner, read)
            if self.held + nbytes <= _KEEP_BYTES:
                owners.append((owner, offset))
                self.held += nbytes
        else:
            owner, offset = found
        return np.ndarray(shape, dtype, owner, offset)

    def trim(self) -> None:
        """Give back what nobody uses."""
        for nbytes, owners in list(self.owners.items()):
            used = [pair for pair in owners if _free([pair], _FREE_COUNT) is None]
            self.held -= nbytes * (len(owners) - len(used))
            if used:
                self.owners[nbytes] = used
            else:
                del self.owners[nbytes]


class _Local(threading.local):
    def __init__(self) -> None:
        self.arena = Arena()


_local = _Local()


def empty(shape: tuple[int, ...], dtype: np.dtype, *read: Any) -> np.ndarray:
    """An uninitialised array, in reused memory where it is large, for what is computed from the arrays `read`."""
    if prod(shape) * dtype.itemsize < _REUSE_BYTES:
        return _empty(shape, dtype)
    return _local.arena.empty(shape, dtype, *read)


def release() -> None:
    """Give the calling thread's reusable memory back to the system."""
    _local.arena.trim()


_pool: Any = None
_pool_threads = 0
_pool_pid = 0


def _executor() -> Any:
    global _pool, _pool_threads, _pool_pid
    from concurrent.futures import ThreadPoolExecutor  # brings logging along: not for everybody who imports agog

    # A forked child has no threads.
    if _pool is None or _pool_threads != config.num_threads or _pool_pid != os.getpid():
        _pool = ThreadPoolExecutor(config.num_threads - 1, thread_name_prefix="agog")
        _pool_threads, _pool_pid = config.num_threads, os.getpid()
    return _pool


_CHUNK = 1 << 16
accelerate: Callable[..., Any] | None = None
"""Set by the compiler when it is loaded: `accelerate(ufunc, inputs, out) -> bool`, True if it did the work."""

ready: dict[tuple[Any, ...], tuple[Callable[..., None], np.dtype]] = {}
"""`run(out, *arrays)` for whole arrays of one dtype and shape, and the dtype of `out`, by the ufunc and their dtype;
for an array and a number, as an array of no axes, by the ufunc, the dtype and the number's place. Set by the compiler
for what `accelerate` was asked for, and has compiled; for casts, by "astype" and the two dtypes. Raises ValueError for
what is not C-contiguous."""

wanted: Callable[..., bool] | None = None
"""Set by the compiler when it is loaded: `wanted(ufunc, dtype, *place)` has the kernel made that `ready` then holds,
and says whether it does now."""

stretched: Callable[..., Any] | None = None
"""Set by the compiler when it is loaded: `stretched(ufunc, inputs, shape)`, the result for arrays of one dtype that
broadcast to `shape`, and may be slices, or None where there is no kernel, or none yet."""

kernels: dict[str, Callable[..., Any]] = {}
"""Native computations of whole rows by the row's name, set by the compiler when it is loaded: see `native`."""

_KERNEL_FROM = CALLS = 1 << 14
"""Steps of work (multiplications, say) from which a kernel of a row is asked for; what several calls of NumPy's take as
long as, however few the elements are."""

_LOAD_AFTER = 1 << 27
"""Steps of such work that NumPy does before the compiler is loaded: some 10 ms."""

_done = 0

halves: dict[str, Callable[..., Any]] = {}
"""Native computations of rows of `widen` on 16-bit arrays, by the row's name: None where there is no kernel (yet)."""

HALVES_FROM = 1 << 12
"""Elements from which a 16-bit array goes to a native kernel: NumPy takes nanoseconds for each element."""


def astype(x: Any, dtype: np.dtype) -> Any:
    """`x.astype(dtype)`, natively where the array is large, or NumPy takes long for an element."""
    if x.size >= HALVES_FROM and x.dtype is not dtype and (
            x.size >= _CAST_FROM or 2 in (x.itemsize, dtype.itemsize) or dtype.kind == "i" and x.dtype.kind == "f"):
        made = ready.get(("astype", x.dtype, dtype))
        if made is None or type(x) is not _ndarray:
            done = native("astype", 4 * x.size, x, dtype)
            return x.astype(dtype) if done is None else done
        out = empty(x.shape, dtype, x)
        try:
            made[0](out, x)
            return out
        except ValueError:  # it does not lie as the kernel wants it
            pass
    return x.astype(dtype)


def copy(out: Any, x: Any) -> None:
    """`out[...] = x` for arrays of one shape and dtype, over threads where they are large."""
    if x.size < _COPY_FROM or native("copy", 4 * x.size, out, x) is None:
        out[...] = x


_COPY_FROM = 1 << 14
"""Elements from which a kernel copies them."""

_CAST_FROM = 1 << 14
"""The same for an array that is cast to a dtype that NumPy has."""

PULL_FROM = 1 << 13
"""Elements of a cotangent from which the gradient rule of an elementwise row goes to `pull`; rules that call other rows
do from `MIDDLE` on."""


def _count_rule(rule: tuple, g: Any, env: tuple) -> Any:
    _, count, pick = rule
    saved = env[pick] if count == 1 else g  # of a sum, g is one number for all
    _count(16 * max(g.size, getattr(saved, "size", 1)))


pull: Callable[[tuple, Any, tuple], Any] = _count_rule
"""`pull(rule, g, env)`: what the rule (of `Op.rules`) gives for a cotangent and the values saved, as one native loop;
None where there is no kernel, or none yet. Set by the compiler when it is loaded."""


def _count_reduction(kind: str, x: Any, axis: Any, keepdims: Any) -> Any:
    _count(4 * x.size)


reduced: Callable[[str, Any, Any, Any], Any] = _count_reduction
"""`reduced(kind, x, axis, keepdims)`: a reduction of an array by a native kernel, or None where there is none, or none
yet. `compiler/folds.py` says what kinds there are. Set by the compiler when it is loaded."""

REDUCE_FROM = 1 << 9
"""Elements from which a reduction asks for it: a native call takes a quarter of the time of NumPy's."""


def native(name: str, work: int, *arguments: Any) -> Any:
    """What the row's native kernel computes, or None where there is no kernel that takes these arguments.

    `work` is about how many steps the computation has. The first calls get None while the compiler is being loaded
    in the background, for which there must have been enough work.
    """
    if work < _KERNEL_FROM:
        return None
    kernel = kernels.get(name)
    if kernel is not None:
        return kernel(*arguments)
    if not kernels:
        _count(work)
    return None


draws: Any = None
"""Native draws of random numbers (`agog.compiler.draws`), once they were asked for and are ready."""


def ask_draws(work: int) -> Any:
    """Ask for `draws`, as `native` does for a kernel: NumPy draws numbers in so many steps. Returns None."""
    if kernels:
        kernels["draws"]()
    else:
        _count(work)
    return None


def _count(work: int) -> None:
    """Work that a native kernel would have done faster; enough of it calls for the compiler."""
    global _done
    if _loader is None:
        _done += work
        if _done > _LOAD_AFTER:
            _load_compiler()


_loader: threading.Thread | None = None


def _load_compiler() -> None:
    """Begin to load the compiler in the background, once; nobody waits for it but a recording: it is made once."""
    global _loader
    if _loader is None and config.native and config.load_compiler is not None:
        _loader = threading.Thread(target=config.load_compiler, name="agog-load", daemon=True)
        _loader.start()
        if config.modes.recorder is not None:
            _loader.join(1.0)


def _before_fork() -> None:
    if _loader is not None:  # a child must not inherit a half-done import and its locks
        _loader.join(5.0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)


def _run(ufunc: Any, inputs: tuple, out: np.ndarray) -> None:
    """ufunc(*inputs, out=out) in slices of the first axis that threads take as they are free.

    Inputs have the size of `out` along that axis, or broadcast along it.
    """
    n, rank = out.shape[0], out.ndim
    step = max(1, _CHUNK * n // out.size)
    todo = iter(range(0, n, step))
    lock = threading.Lock()
    whole = [type(x) is not np.ndarray or x.ndim < rank or x.shape[0] != n for x in inputs]

    def work() -> None:
        while True:
            with lock:
                i = next(todo, None)
            if i is None:
                return
            j = i + step
            ufunc(*[x if w else x[i:j] for x, w in zip(inputs, whole)], out[i:j])

    helpers = [_executor().submit(work) for _ in range(config.num_threads - 1)]
    with np.errstate(all="ignore"):
        work()
    for h in helpers:
        if not h.cancel():
            h.result()


_POWERS = {2: np.square, 0.5: np.sqrt, -1: np.reciprocal}  # bit for bit the same


def _flat(x: np.ndarray) -> Any:
    """All elements of an array without gaps, in the order in which they lie."""
    return x.ravel("K") if x.ndim != 1 else x


def binary(ufunc: Any, a: Any, b: Any) -> Any:
    """`ufunc(a, b)`, over threads and into reused memory when both are of one dtype, or one is a number."""
    if type(a) is _ndarray and type(b) is _ndarray:
        dtype = a.dtype
        made = ready.get((ufunc, dtype))
        if made is not None and b.dtype is dtype and (shape := a.shape) == b.shape:
            run, result = made
            out = empty(shape, result, a, b)
            try:
                run(out, a, b)
                return out
            except ValueError:  # they do not lie as the kernel wants them
                pass
    array = a if type(a) is np.ndarray else b
    dtype, shape = array.dtype, array.shape
    if dtype.kind == "V":  # beside a Python number, NumPy makes bfloat16 float32
        a, b = (x if type(x) is np.ndarray else np.array(x, dtype) for x in (a, b))
    if ufunc is np.power and array is a and type(b) in (int, float) and b in _POWERS and dtype.char in "fd":
        return unary(_POWERS[b], a)  # as NumPy has it, which tells at -0 and -inf
    if type(a) is not _ndarray or type(b) is not _ndarray:
        done = _beside_number(ufunc, a, b)
        if done is not None:
            return done
    flat = bool(shape)
    for x in (a, b):
        if type(x) is np.ndarray:
            if x.dtype is not dtype:
                return ufunc(a, b)
            flat = flat and x.flags.c_contiguous and (x.shape == shape or not x.shape)
    if not flat:
        return _broadcast(ufunc, a, b)
    out = empty(shape, _result_dtype(ufunc, (a, b)), a, b)
    inputs = tuple(_flat(x) if type(x) is np.ndarray and x.ndim else x for x in (a, b))
    _parallel(ufunc, inputs, _flat(out))
    return out


def apart(ufunc: Any, a: Any, b: Any) -> Any:
    """`binary` of two arrays, of which some thousand elements go to a kernel where one is stretched."""
    if type(a) is _ndarray and type(b) is _ndarray and (first := a.shape) != (second := b.shape):
        shape = broadcast_shapes(first, second)
        size = prod(shape)
        if APART <= size < THRESHOLD and stretched is not None:
            done = stretched(ufunc, (a, b), shape)
            if done is not None:
                return done
    else:
        size = a.size
    return binary(ufunc, a, b) if size >= THRESHOLD else ufunc(a, b)


def slow(ufunc: Any, a: Any, b: Any) -> Any:
    """`binary` for a ufunc that takes long for an element: a kernel pays for fewer of them (`Op.slow`)."""
    array = a if type(a) is _ndarray else b
    if array.size >= THRESHOLD or type(array) is not _ndarray:
        return binary(ufunc, a, b)
    dtype = array.dtype
    if dtype.kind in "iub" and (array.size < _WHOLE_FROM or type(a) is not type(b)):
        return ufunc(a if type(a) is _ndarray else weak(a, dtype), b if type(b) is _ndarray else weak(b, dtype))
    place: tuple[int, ...] = ()
    if type(a) is not _ndarray or type(b) is not _ndarray:
        by_kernel, place = _beside_number, (1 if array is a else 0,)
    elif a.shape == b.shape:
        by_kernel = _of_one_shape
    else:
        shape = broadcast_shapes(a.shape, b.shape)
        done = None if stretched is None else stretched(ufunc, (a, b), shape)
        if done is None:
            if stretched is None:
                _count(64 * prod(shape))
            return ufunc(a, b)
        return done
    done = by_kernel(ufunc, a, b)
    if done is None:
        if wanted is None:
            _count(64 * array.size)
        elif wanted(ufunc, dtype, *place):
            done = by_kernel(ufunc, a, b)
    if done is not None:
        return done
    return ufunc(a if type(a) is _ndarray else weak(a, dtype), b if type(b) is _ndarray else weak(b, dtype))


def _of_one_shape(ufunc: Any, a: Any, b: Any) -> Any:
    """`ufunc(a, b)` of arrays of one shape by a kernel; None if none is ready, or it does not take them."""
    made = ready.get((ufunc, a.dtype))
    if made is None or b.dtype is not a.dtype:
        return None
    run, result = made
    out = _empty(a.shape, result)
    try:
        run(out, a, b)
        return out
    except ValueError:
        return _as_it_lies(ufunc, a, b)


def _beside_number(ufunc: Any, a: Any, b: Any) -> Any:
    """`ufunc(a, b)` of an array and a number of Python's by a kernel; None if none is ready, or NumPy has to decide."""
    array, number, place = (a, b, 1) if type(a) is _ndarray else (b, a, 0)
    dtype = array.dtype
    made = ready.get((ufunc, dtype, place))
    if made is None or not _plain(number, dtype):
        return None
    run, result = made
    out, one = empty(array.shape, result, array), weak(number, dtype)
    if type(one) is not _ndarray:
        one = np.array(number, dtype)
    try:
        run(out, array, one) if place else run(out, one, array)
        return out
    except ValueError:
        return None


def _plain(number: Any, dtype: np.dtype) -> bool:
    """Whether a kernel may take the number as one of the dtype; else NumPy decides what it is beside such an array."""
    if type(number) is not int and (type(number) is not float or dtype.kind == "i"):
        return False
    return dtype.kind != "b" and -1e9 < number < 1e9


broadcast_shapes = functools.lru_cache(256)(np.broadcast_shapes)


def order_in_memory(x: np.ndarray) -> Any:
    """(order, its inverse) of the axes by which `x.transpose(order)` is C-contiguous, for an array that is not."""
    strides = x.strides
    order = sorted(range(x.ndim), key=lambda i: -strides[i])
    if order == sorted(order) or not x.transpose(order).flags.c_contiguous:
        return None
    return order, sorted(order, key=order.__getitem__)


def _as_it_lies(ufunc: Any, a: Any, b: Any) -> Any:
    """The same for arrays whose axes lie in another order than theirs, as those of a transpose; else None."""
    arrays = [x for x in (a, b) if type(x) is np.ndarray and x.ndim]
    first = arrays[0] if arrays else None
    if first is None or first.ndim < 2 or any(x.shape != first.shape or x.strides != first.strides for x in arrays):
        return None
    found = order_in_memory(first)
    if found is None:
        return None
    order, back = found
    a, b = (x.transpose(order) if type(x) is np.ndarray and x.ndim else x for x in (a, b))
    return binary(ufunc, a, b).transpose(back)


def _broadcast(ufunc: Any, a: Any, b: Any) -> Any:
    """The same for arrays that are stretched against each other, or lie otherwise in memory."""
    numbers = [x for x in (a, b) if type(x) is not _ndarray]
    if numbers or a.shape == b.shape:
        done = _as_it_lies(ufunc, a, b)
        if done is not None:
            return done
        shape = a.shape if type(a) is _ndarray else b.shape
    else:
        shape = broadcast_shapes(a.shape, b.shape)
    if stretched is None:
        _count(16 * prod(shape))
    elif prod(shape) >= THRESHOLD:
        dtype = (a if type(a) is _ndarray else b).dtype
        if not numbers or _plain(numbers[0], dtype):
            arrays = tuple([x if type(x) is _ndarray else np.asarray(weak(x, dtype)) for x in (a, b)])
            done = stretched(ufunc, arrays, shape)
            if done is not None:
                return done
    if prod(shape) < _THREADS_FROM or shape[0] == 1:
        return ufunc(a, b)
    out = empty(shape, _result_dtype(ufunc, (a, b)), a, b)
    if config.num_threads > 1:
        _run(ufunc, (a, b), out)
    else:
        ufunc(a, b, out)
    return out


def unary(ufunc: Any, a: Any) -> Any:
    """`ufunc(a)`, over threads where it is large, in the order in which `a` lies in memory."""
    if type(a) is _ndarray and (made := ready.get((ufunc, a.dtype))) is not None:
        run, result = made
        out = empty(a.shape, result, a)
        try:
            run(out, a)
            return out
        except ValueError:  # it does not lie as the kernel wants it
            pass
    if type(a) is not np.ndarray or not isinstance(ufunc, np.ufunc):
        return ufunc(a)
    if not a.flags.c_contiguous:
        if a.size >= THRESHOLD and (found := order_in_memory(a)) is not None:
            order, back = found
            return unary(ufunc, a.transpose(order)).transpose(back)
        done = stretched(ufunc, (a,), a.shape) if stretched is not None and a.size >= THRESHOLD else None
        return ufunc(a) if done is None else done
    out = empty(a.shape, _result_dtype(ufunc, (a,)), a)
    _parallel(ufunc, (_flat(a),), _flat(out))
    return out


def several(row: Any, a: Any) -> Any:
    """`row(a)`, in which NumPy goes over the array several times, once its native kernel is ready in one.

    An array that does not lie as the kernel wants it is copied: that is one pass more, and not another layout.
    """
    if type(a) is not _ndarray:
        return row(a)
    dtype = a.dtype
    made = ready.get((row, dtype))
    try:
        if made is not None and made[1] is dtype:
            if a.flags.c_contiguous:
                out = _empty(a.shape, dtype) if a.nbytes < _REUSE_BYTES else empty(a.shape, dtype, a)
                made[0](out, a)
            else:
                out = a.copy("K")
                flat = _flat(out)
                made[0](flat, flat)
            return out
    except ValueError:
        pass
    if accelerate is None:
        _count(64 * a.size)
    elif made is None and dtypes.is_floating(dtype):
        out = a.copy("K")
        flat = _flat(out)
        if accelerate(row, (flat,), flat):
            return out
    return row(a)


def _parallel(ufunc: Any, inputs: tuple, out: np.ndarray) -> None:
    if accelerate is not None and accelerate(ufunc, inputs, out):
        return
    if accelerate is None:
        _count(16 * out.size)
    if out.size < _THREADS_FROM or config.num_threads == 1:
        ufunc(*inputs, out)
        return
    _run(ufunc, inputs, out)


def _result_dtype(ufunc: Any, inputs: tuple) -> np.dtype:
    return ufunc(*[x[:0] if type(x) is np.ndarray and x.ndim == 1 else x.reshape(-1)[:0]
                   if type(x) is np.ndarray and x.ndim else x for x in inputs]).dtype
