"""Kernels for eager work on large arrays, compiled in the background.

The first operations on a large array run through NumPy as ever. Meanwhile a thread loads the compiler and compiles the
row's `lower` rule; from then on that operation on large arrays is one native loop over the thread pool. Nobody waits,
unless runs are to be reproducible (`config.set_reproducible`): then whoever wants a kernel makes it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from time import perf_counter
from typing import Any

import numpy as np

from agog import config
from agog.array import few, large
from agog.compiler import jit, pool, targets
from agog.compiler.along import Lines
from agog.compiler.columns import compile_column_program
from agog.compiler.draws import draws
from agog.compiler.elementwise import compile_elementwise
from agog.compiler.folds import KINDS, fold, out_dtype
from agog.compiler.gemm import gemm
from agog.compiler.ir import FLOATS
from agog.compiler.mixed import Mixed
from agog.compiler.pairwise import IN_ORDER, pairwise
from agog.compiler.permutation import permutation
from agog.compiler.reducing import Reductions, Scans
from agog.compiler.rowprograms import compile_row_program
from agog.compiler.rowwise import Rowwise
from agog.compiler.rules import compile_rule
from agog.compiler.scans import scan
from agog.compiler.scatter import add_rows
from agog.compiler.searching import Searching
from agog.compiler.selecting import Selecting
from agog.compiler.steps import Adam, Descent
from agog.compiler.stretched import arranged, compile_stretched
from agog.compiler.targets import HALVES, ITEMSIZE
from agog.ops.row import TABLE, Op

_DTYPES = {"float32", "float64", "float16", "bfloat16", "int32", "int64", "bool"}
_kernels: dict[Any, Any] = {}
_wanted: queue.SimpleQueue[Any] = queue.SimpleQueue()
_lock = threading.Lock()
_worker: threading.Thread | None = None


def _lowered() -> dict[Any, Op]:
    """Rows that work element by element and know how to be compiled, by their computation."""
    rows = [op for op in TABLE.values() if op.elementwise and op.lower is not None]
    return {getattr(np, getattr(op.impl, "ufunc", ""), op.raw): op for op in rows}


_rows = _lowered()


def accelerate(ufunc: Any, inputs: tuple, out: np.ndarray) -> bool:
    """Run `ufunc(*inputs, out)` natively if a kernel is ready; True if it did. Arrays are flat and contiguous."""
    dtype = next(x for x in inputs if type(x) is np.ndarray).dtype
    key = (ufunc, dtype, out.dtype, *[type(x) is np.ndarray and x.ndim for x in inputs])
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _ask(key)
        if kernel is None:
            return False
    for x in inputs:
        if type(x) is not np.ndarray and (dtype.kind == "b" or dtype.kind == "i" and type(x) is float):
            return False  # a comparison with a number that the dtype does not have
    arrays = [x if type(x) is np.ndarray else np.array(x, dtype) for x in inputs]
    for x in arrays:
        if x.dtype != dtype:
            return False
    kernel([out], arrays)
    return True


def wanted(ufunc: Any, dtype: Any, *place: int) -> bool:
    """Ask for the kernel of arrays of one shape, or of an array and a number, at `place`. True if it is there."""
    result = _results.get((ufunc, dtype))
    if result is None:
        result = _results[ufunc, dtype] = ufunc(*[np.empty(0, dtype)] * ufunc.nin).dtype
    return _ask((ufunc, dtype, result, *[i not in place for i in range(ufunc.nin)])) is not None


_results: dict[Any, Any] = {}


def _ask(key: Any) -> Any:
    """Have the kernel of a key of `accelerate` compiled, once. The kernel, where it was waited for."""
    if key not in _kernels:
        _kernels[key] = None
        ufunc, dtype, result, *_ = key
        if ufunc in _rows and dtype.name in _DTYPES and (result == dtype or result == np.bool_):
            _request(_compile, key)
    return _waited(_kernels, key)


def stretched(ufunc: Any, inputs: tuple, shape: tuple[int, ...]) -> Any:
    """`ufunc(*inputs)` of arrays that broadcast to `shape`, or are slices, in one loop: see `large.stretched`."""
    dtype = inputs[0].dtype
    for x in inputs:
        if type(x) is not np.ndarray or x.dtype is not dtype:
            return None
    known = (ufunc, dtype, *[x.shape for x in inputs])
    made = _stretches.get(known)
    if made is not None:
        run, result, numbers = made
        out = large.empty(shape, result, *inputs)
        try:
            run(out, *inputs, *numbers)
            return out
        except ValueError:  # they are not contiguous
            pass
    found = arranged(shape, inputs)
    if found is None:
        return None
    strided, along, numbers = found
    key = ("stretched", ufunc, dtype, strided, *along)
    kernel = _kernels.get(key)
    if not kernel:
        if key not in _kernels:
            _kernels[key] = None  # asked for once
            if ufunc in _rows and dtype.name in _DTYPES:
                _request(_compile_stretched, key)
        kernel = _waited(_kernels, key)
        if not kernel:
            return None
    kernel, result = kernel
    if not strided:
        if len(_stretches) > 256:
            _stretches.clear()
        _stretches[known] = kernel.run, result, numbers
    out = large.empty(shape, result, *inputs)
    kernel.run(out, *inputs, *numbers)
    return out


_stretches: dict[Any, Any] = {}
"""Of contiguous arrays of some shapes: the kernel, the dtype of its results, and the numbers that it is called with."""


def _compile_stretched(key: Any) -> None:
    _, ufunc, dtype, strided, *along = key
    op = _rows[ufunc]
    lower: Any = op.lower
    result = ufunc(*[np.empty(0, dtype)] * len(along)).dtype
    if result == dtype or result == np.bool_:
        kernel = compile_stretched(op.name, lower, [dtype.name] * len(along), result.name, along, strided=strided)
        _kernels[key] = kernel, result


def _request(make: Any, *key: Any) -> None:
    """Have the thread that compiles call `make(*key)`. For a recording, what lies on disk is loaded at once instead;
    where runs are to be reproducible, it is called now.
    """
    global _worker
    if config.reproducible:
        with _making, contextlib.suppress(Exception):
            make(*key)
        return
    recorder = config.modes.recorder
    if recorder is not None and perf_counter() - recorder.began < _SOON:
        _find(make, key)
        return
    with _lock:
        if _worker is None:
            _worker = threading.Thread(target=_work, name="agog-compile", daemon=True)
            _worker.start()
    _wanted.put((make, key))


_making = threading.RLock()


def _waited(table: dict[Any, Any], key: Any) -> Any:
    """What a request put into the table, where requests are waited for, also another thread's; else None."""
    if not config.reproducible:
        return None
    with _making:
        return table.get(key)


def settle() -> None:
    """Wait until all has been made that was asked for."""
    if _worker is not None and _worker.is_alive():
        done = threading.Event()
        _wanted.put((done.set, ()))
        done.wait()


_SOON = 1.0  # seconds after which a recording is one that kernels are compiled for: it has a long loop, say
_missing: set[Any] = set()
"""What was looked for on disk, and was not there."""


def _find(make: Any, key: tuple[Any, ...]) -> None:
    """What `make(*key)` makes, if that takes no compiling; otherwise it is as if nobody had asked for it.

    A recording computes what it computes once. A kernel compiled for that would come too late, and keep the cores from
    the program that comes next.
    """
    family = getattr(make, "__self__", None)
    if (family is not None or make is _keep) and (make, key) not in _missing:
        try:
            with jit.found_only():
                make(*key)
            return
        except jit.Missing:
            _missing.add((make, key))
        except Exception:  # what cannot be made, NumPy goes on doing
            return
    if family is not None:
        family.ready.pop(*key, None)
    else:
        _kernels.pop(key if make is _keep else key[0], None)


def _work() -> None:
    while True:
        make, key = _wanted.get()
        # What cannot be compiled, such as a dtype that the row's rule does not take, NumPy goes on doing.
        with contextlib.suppress(Exception):
            make(*key)


def _ready(make: Any, *key: Any) -> Any:
    """`make(*key)`, once it is made; None before."""
    whole = (make, *key)
    made = _kernels.get(whole)
    if made is None and whole not in _kernels:
        _kernels[whole] = None  # asked for once
        _request(_keep, *whole)
    return made or _waited(_kernels, whole) or None


def _keep(make: Any, *key: Any) -> None:
    made = False  # if it cannot be
    try:
        made = make(*key)
    finally:
        _kernels[(make, *key)] = made


def _compile(key: Any) -> None:
    ufunc, dtype, result, *whole = key
    kernel = _elementwise(_rows[ufunc], [dtype.name] * len(whole), result.name,
                          ["contiguous" if w else "scalar" for w in whole])
    _kernels[key] = kernel
    place = () if all(whole) else (whole.index(0),)  # of a number
    large.ready[ufunc, dtype, *place] = kernel.run, result


def _elementwise(op: Op, dtypes: list[str], result: str, kinds: list[str]) -> Any:
    """The kernel of a row."""
    lower: Any = op.lower
    own = getattr(lower, "__module__", "").startswith("agog.")  # what others wrote may change while its name stays
    return compile_elementwise(op.name, lower, dtypes, [result], kinds, recipe=f"row {op.name}" if own else None)


_f32 = np.dtype(np.float32)
_pairs: dict[Any, Any] = {}
"""`run(out, g, y)` for a rule, a cotangent and one saved array, both whole, of one shape and float32."""
_numbers: dict[Any, Any] = {}
"""The same for a cotangent that is one number for all."""

_CONSTANTS = (type(None), bool, int, float, tuple, str, np.dtype)
_VARIANTS = 8
_variants: dict[Any, int] = {}


def pull(rule: tuple, g: np.ndarray, env: tuple) -> Any:
    """A gradient rule of an elementwise row as one loop: see `large.pull`. Numbers among the values are compiled in."""
    fn, count, pick = rule
    run = (_pairs if g.ndim else _numbers).get(fn)
    if run is not None:
        y = env[pick]
        if type(y) is np.ndarray and y.dtype is _f32 and g.dtype is _f32 and y.flags.c_contiguous and (
                g.shape == y.shape and g.flags.c_contiguous or type(g) is np.ndarray and not g.ndim and y.ndim):
            out = large.empty(y.shape, _f32, g, y)
            run(out, g, y)
            return out
    if type(g) is not np.ndarray:  # what NumPy makes of arrays of no axes
        g = np.asarray(g)
    values = (g, env[pick]) if count == 1 else (g, *pick(env)) if count else (g,)
    shape, char = g.shape, g.dtype.char
    if not shape:  # one number for all
        shape = next((v.shape for v in values if type(v) is np.ndarray and v.ndim), ())
    signature: list[Any] = [fn]
    arrays, fixed = [], False
    for v in values:
        if type(v) is np.ndarray:
            if v.dtype.char != char and v.dtype.char != "?":
                return None
            if v.shape == shape:
                if not v.flags.c_contiguous:
                    return None
                signature.append(v.dtype.char)
            elif v.ndim:
                return None
            else:
                signature.append("0" + v.dtype.char)
            arrays.append(v)
        elif type(v) in _CONSTANTS and not (type(v) is float and v == 0):  # -0.0 is another number than 0.0
            signature.append((v,))
            fixed = True
        else:
            return None
    key = tuple(signature)
    kernel = _kernels.get(key)
    if not kernel:
        if key not in _kernels and char in "fd":
            if fixed:
                if _variants.get(fn, 0) == _VARIANTS:
                    return None
                _variants[fn] = _variants.get(fn, 0) + 1
            _kernels[key] = None  # asked for once
            _request(_compile_pull, key)
        kernel = _waited(_kernels, key)
        if not kernel:
            return None
    out = large.empty(shape, g.dtype, *arrays)
    kernel([out], arrays)
    return out


def _compile_pull(key: Any) -> None:
    fn, *kinds = key
    dtypes = [np.dtype(kind[-1]).name for kind in kinds if type(kind) is str]
    kinds = [kind if type(kind) is tuple else "contiguous" if len(kind) == 1 else "scalar" for kind in kinds]
    made: Any = False  # if the rule makes none
    try:
        made = compile_rule(fn, kinds, dtypes)
        if key[1:] == ("f", "f"):
            _pairs[fn] = made.run
        elif key[1:] == ("0f", "f"):
            _numbers[fn] = made.run
    finally:
        _kernels[key] = made


class _Family:
    """Kernels of some rows, made together for each dtype when one is first wanted: `make(dtype)` has the methods."""

    def __init__(self, make: Any, dtypes: Any = FLOATS, **methods: str) -> None:
        self.make, self.methods, self.dtypes = make, methods, dtypes
        self.ready: dict[Any, Any] = {}

    def kernel(self, method: str) -> Any:
        """`kernel(*arguments)` for `large.native`."""
        ready = self.ready

        def kernel(first: Any, *rest: Any) -> Any:
            if type(first) is not np.ndarray:
                return None
            dtype = first.dtype
            made = ready.get(dtype)
            if made is None:
                if dtype not in ready:
                    ready[dtype] = None  # asked for once
                    if dtype.name in self.dtypes:
                        _request(self._make, dtype)
                made = _waited(ready, dtype)
                if made is None:
                    return None
            for x in rest[:2]:
                if type(x) is np.ndarray and x.dtype != dtype:
                    return None
            return getattr(made, method)(first, *rest, empty=large.empty)

        return kernel

    def _make(self, dtype: Any) -> None:
        self.ready[dtype] = self.make(dtype.name)


class _Product:
    """The product of two matrices of one dtype."""

    def __init__(self, dtype: str) -> None:
        self.gemm = gemm(dtype)

    def matmul(self, x: Any, y: Any, empty: Any) -> Any:
        """x @ y."""
        out = empty((x.shape[0], y.shape[1]), x.dtype)
        self.gemm(out, x, y)
        return out

    def products(self, x: Any, y: Any, empty: Any) -> Any:
        """x @ y of as many matrices each, along one axis or two."""
        if x.shape[:-2] != y.shape[:-2] or not 3 <= x.ndim <= 4 or x.shape[-1] != y.shape[-2]:
            return None
        out = empty((*x.shape[:-1], y.shape[-1]), x.dtype)
        if x.ndim == 3:
            self.gemm(out, x, y)
        elif all(v.strides[0] == v.shape[1] * v.strides[1] for v in (x, y)):  # the two are one axis
            self.gemm(*[v.reshape(-1, *v.shape[2:]) for v in (out, x, y)])
        else:
            axis = int(x.shape[1] < x.shape[0])
            for matrices in zip(*[v.swapaxes(0, axis) for v in (out, x, y)]):
                self.gemm(*matrices)
        return out

    def affine(self, x: Any, w: Any, bias: Any, empty: Any) -> Any:
        """x @ w + bias."""
        if not bias.flags.c_contiguous:
            return None
        out = empty((x.shape[0], w.shape[1]), x.dtype)
        self.gemm(out, x, w, bias)
        return out


class _HalfProduct:
    """Products of bfloat16 where the machine has instructions for them."""

    def __init__(self, dtype: str) -> None:
        from agog.compiler import narrow

        self.product = narrow.Eager() if dtype == "bfloat16" and narrow.how(targets.host()) else None

    def linear(self, x: Any, weight: Any, bias: Any, empty: Any) -> Any:
        """The row `linear`."""
        return self.affine(x, weight.T, bias, empty)

    def affine(self, x: Any, weight: Any, bias: Any, empty: Any) -> Any:
        """The row `affine`; without a bias the row `matmul`."""
        if self.product is None or weight.ndim != 2 or x.ndim < 2 or x.shape[-1] != weight.shape[0]:
            return None
        out = self.product(x if x.ndim == 2 else x.reshape(-1, x.shape[-1]), weight, empty)
        if out is None:
            return None
        if bias is not None:
            if bias.shape != (weight.shape[1],) or bias.dtype != x.dtype:
                return None
            out += bias.astype(np.float32)
        return large.astype(out, x.dtype).reshape((*x.shape[:-1], weight.shape[1]))

    def matmul(self, x: Any, y: Any, empty: Any) -> Any:
        """The row `matmul`."""
        return self.affine(x, y, None, empty)


def _attention(dtype: str) -> Any:
    from agog.compiler.heads import Attention  # (these modules only when they are wanted)

    return Attention(dtype)


def _convolutions(dtype: str) -> Any:
    """Convolutions whose kernels are compiled when they are first wanted: for most, that is not all of them."""
    from agog.compiler.conv import Conv

    return Conv(dtype, targets.host(), lambda kind: _ready(_convolution, dtype, kind))


def _convolution(dtype: str, kind: str) -> Any:
    from agog.compiler.conv import conv

    return conv(dtype).native(kind)


def _poolings(dtype: str) -> Any:
    """Pooling, of which each kind is compiled when it is first wanted."""
    from agog.compiler.pooling import Pooling

    return Pooling(dtype, targets.host(), lambda kind: _ready(_pooling, dtype, kind))


def _pooling(dtype: str, kind: str) -> Any:
    from agog.compiler.pooling import pooling

    return pooling(dtype).native(kind)


_families = (
    _Family(Adam, adam="update"),
    _Family(_Product, matmul="matmul", products="products", affine="affine"),
    _Family(_attention, attention="forward", attention_grad="backward"),
    _Family(_convolutions, conv="forward", conv_input_grad="input_grad", conv_weight_grad="weight_grad"),
    _Family(
        _poolings, _max_pool="maximum", _max_pool_scatter="scatter", _max_pool_indices="indices", _avg_pool="mean",
        _avg_pool_adjoint="spread",
    ),
)

_halves = (
    _Family(_HalfProduct, HALVES, matmul="matmul", linear="linear", affine="affine"),
)


def _add_rows(n: int, indices: Any, g: Any) -> Any:
    """Zeros (n, d) to which the rows of g (m, d) are added at indices (m,), which may be out of range."""
    if type(g) is not np.ndarray or g.dtype.name not in FLOATS or not g.flags.c_contiguous or not g.size:
        return None
    if indices.dtype.kind != "i" and indices.dtype.itemsize == 8:  # what may not fit into int64
        return None
    kernel = _ready(add_rows, g.dtype.name)
    if kernel is None:
        return None
    out = np.zeros((n, g.shape[1]), g.dtype)
    try:
        kernel(out, np.ascontiguousarray(indices, np.int64), g)
    except ValueError:  # NumPy says what is wrong
        return None
    return out


def _few(name: str, dtype: Any) -> Any:
    """A builtin of `few.kernels(name)`, as `few.ask` has it.

    What lies on disk is loaded at once, so that the results of two calls differ in the last bits because a kernel came
    between them as seldom as can be: when the compiler is loaded, and where something has to be compiled.
    """
    of, _, how = name.partition(" ")
    if how == "fold":
        kind = dtype.kind.replace("u", "i")
        if dtype.name not in ITEMSIZE or kind not in KINDS[of] or out_dtype(of, dtype.name) != dtype.name:
            return False
    elif dtype.name not in FLOATS:
        return False
    whole = (_WAYS[how], of, dtype.name)
    if whole not in _kernels:
        _kernels[whole] = None
        if (_keep, whole) not in _missing:
            try:
                with jit.found_only():
                    _kernels[whole] = _WAYS[how](of, dtype.name)
            except jit.Missing:
                _missing.add((_keep, whole))
            except Exception:  # it cannot be made
                _kernels[whole] = False
        if _kernels[whole] is None:
            _request(_keep, *whole)
    made = _kernels.get(whole)
    if made is None:
        made = _waited(_kernels, whole)
    return made and getattr(made, "native", made)


def _each(name: str, dtype: str) -> Any:
    return _elementwise(TABLE[name], [dtype], dtype, ["contiguous"])


def _folded(kind: str, dtype: str) -> Any:
    return pairwise(kind, dtype) if kind in IN_ORDER and dtype in FLOATS else fold(kind, dtype)


_WAYS: dict[str, Any] = {"": compile_row_program, "down": compile_column_program, "fold": _folded, "each": _each}

reductions = Reductions(lambda kind, dtype: _ready(fold, kind, dtype))


def _draws() -> None:
    """Let random numbers be drawn natively, once that is compiled."""
    large.draws = _ready(draws)


def _permutation(key: Any, n: int) -> Any:
    """The order that sorts the first n words of a key."""
    kernel = _ready(permutation) if n < 1 << 31 else None
    return None if kernel is None else kernel(key, n)


def _after_fork() -> None:
    global _worker
    _worker = None
    while not _wanted.empty():
        _wanted.get_nowait()
    for key in [k for k, v in _kernels.items() if v is None]:
        del _kernels[key]
    for family in (*_families, *_halves):
        for dtype in [d for d, made in family.ready.items() if made is None]:
            del family.ready[dtype]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def enable() -> None:
    """Let `agog.array.large` use these kernels."""
    if not config.native:
        return
    rowwise = Rowwise(
        lambda name, dtype: _ready(compile_row_program, name, dtype),
        lambda name, dtype: _ready(compile_column_program, name, dtype),
    )
    scans = Scans(lambda dtype: _ready(scan, dtype))
    kernels = Mixed(_ready).table() | rowwise.table() | scans.table() | {
        **Lines(_ready).table(), **Searching(_ready).table(), **Selecting(_ready).table(),
        "add_rows": _add_rows, "sgd": Descent(_ready).update, "draws": _draws, "permutation": _permutation}
    halves = rowwise.halves()
    for table, families in ((halves, _halves), (kernels, _families)):
        for family in families:
            table |= {row: family.kernel(method) for row, method in family.methods.items()}
    large.accelerate, large.wanted, large.pull, large.stretched = accelerate, wanted, pull, stretched
    large.reduced = reductions.reduce
    large.halves.update(halves)
    few.ask, few.refresh = few.ask or _few, pool.refresh
    large.kernels.update(kernels)  # all at once: other threads look whether there are any
