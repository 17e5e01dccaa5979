"""Kernels for fused elementwise expressions: one pass over memory, vectors, threads.

The kernel's length is a run-time number, so one object serves every shape. Its work is split into chunks for the pool;
a chunk aligns itself on the output, runs an unrolled vector loop, and does what is left over with a partial vector:
masked loads and stores where the machine has them, otherwise through a zeroed buffer on the stack. Memory beyond the
arrays is never touched, also not read.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from agog.compiler import call, jit, pool, targets
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import HALVES, ITEMSIZE, Target
from agog.errors import ArgumentError, DTypeError

__all__ = ["ElementwiseKernel", "compile_elementwise"]

#: When a kernel does little else than move memory, results of at least this many bytes are stored around the caches;
#: smaller ones too when the arrays together do not fit into the last cache (`targets.last_cache`).
STREAM_BYTES = 32 << 20

# Costs are counted in instructions of one vector, some 0.1 ns each.
_UNROLL = ((16, 4), (48, 2))  # up to this cost, this many vectors in the loop: out-of-order execution does the rest
_LIGHT = 40  # up to this cost a kernel waits for memory
LINE = 7  # what 64 bytes of an array cost that is not in the first cache
CHUNK = 1 << 14  # in a chunk
AWAKE = 1 << 15  # from which threads take part that are awake
WAKE = 1 << 19  # from which waking a thread pays for one call, with its 10 us here and 40 there


class ElementwiseKernel:
    """A compiled elementwise expression.

    `kernel(outs, ins)` runs it: C-contiguous arrays of the dtypes that it was compiled for, all of one size except the
    inputs of kind "scalar", which have one element. An output may be the same array as an input; other overlap is not
    allowed. `kernel.run(*outs, *ins)` is the same with a little less around it; `kernel.native(*outs, *ins)` is the
    builtin itself, without the look at `config.num_threads`.
    """

    __slots__ = ("name", "native")

    def __init__(self, name: str, native: Callable[..., None]) -> None:
        self.name, self.native = name, native

    def __call__(self, outs: Sequence[Any], ins: Sequence[Any]) -> None:
        pool.refresh()
        self.native(*outs, *ins)

    def run(self, *arrays: Any) -> None:
        """The outputs, then the inputs."""
        pool.refresh()
        self.native(*arrays)

    def __repr__(self) -> str:
        return f"<elementwise kernel {self.name}>"


def compile_elementwise(
    name: str,
    fn: Callable[..., Any],
    in_dtypes: Sequence[str],
    out_dtypes: Sequence[str],
    in_kinds: Sequence[str] | None = None,
    target: Target | None = None,
    recipe: str | None = None,
) -> ElementwiseKernel:
    """Compile `fn` into a kernel over arrays of any length.

    Parameters
    ----------
    name : for people; it does not affect the code
    fn : `fn(k, *inputs)` with `k` a `Kernel` and one vector Value per input; returns one Value per output, of the
        output's dtype. 16-bit floats are float32 to it, and its results are rounded
    in_dtypes, out_dtypes : names such as "float32", one per array
    in_kinds : "contiguous" or "scalar" (one element, used with every other) per input; all contiguous by default
    target : the machine; this one by default
    recipe : what says which `fn` of agog's own it is: then the kernel is written only where its object is not on disk

    Returns
    -------
    ElementwiseKernel

    Raises
    ------
    DTypeError
        For a dtype that kernels do not have, or when `fn` returns another dtype than stated.
    """
    target = target or targets.host()
    module: Module | jit.Later
    if recipe is None:
        module = build(fn, in_dtypes, out_dtypes, in_kinds, target)[0]
    else:
        whole = f"{recipe}, {[*in_dtypes]} {[*out_dtypes]} {in_kinds}"
        module = jit.Later(whole, target, lambda: build(fn, in_dtypes, out_dtypes, in_kinds, target)[0])
    parameters = call.OUT * len(out_dtypes) + call.IN * len(in_dtypes)
    return ElementwiseKernel(name, call.bind(module, name, parameters, imports=pool.imports))


def build(
    fn: Callable[..., Any],
    in_dtypes: Sequence[str],
    out_dtypes: Sequence[str],
    in_kinds: Sequence[str] | None,
    target: Target,
) -> tuple[Module, str]:
    """The module of the kernel, and the parameters of its builtin."""
    in_kinds = in_kinds or ["contiguous"] * len(in_dtypes)
    _check_signature(in_dtypes, out_dtypes, in_kinds)
    module = Module(target)
    expression = _Expression(module, fn, in_dtypes, out_dtypes, in_kinds)
    expression.part()
    expression.chunk()
    expression.check()
    expression.run()
    return module, call.OUT * len(out_dtypes) + call.IN * len(in_dtypes)


def _check_signature(in_dtypes: Sequence[str], out_dtypes: Sequence[str], in_kinds: Sequence[str]) -> None:
    for dtype in (*in_dtypes, *out_dtypes):
        if dtype not in ITEMSIZE:
            raise DTypeError(f"kernels do not have the dtype {dtype!r}; they have {', '.join(ITEMSIZE)}")
    if len(in_kinds) != len(in_dtypes) or not set(in_kinds) <= {"contiguous", "scalar"} or not out_dtypes:
        raise ArgumentError(
            f"an elementwise kernel needs an output and one of 'contiguous' or 'scalar' for each of its "
            f"{len(in_dtypes)} inputs, got {list(in_kinds)} and {len(out_dtypes)} outputs"
        )


class _Expression:
    """Emits the functions of one kernel. Slots are the outputs' addresses, then the inputs', then one spare word."""

    def __init__(
        self,
        module: Module,
        fn: Callable[..., Any],
        in_dtypes: Sequence[str],
        out_dtypes: Sequence[str],
        in_kinds: Sequence[str],
    ) -> None:
        self.module, self.fn, self.target = module, fn, module.target
        self.ins, self.outs, self.kinds = list(in_dtypes), list(out_dtypes), list(in_kinds)
        self.lanes = min(self.target.lanes(dtype) for dtype in (*in_dtypes, *out_dtypes))
        self.cost = 0

    def _addresses(self, k: Kernel, slots: Value) -> tuple[list[Value], list[Value]]:
        """Addresses of the outputs; and for the inputs addresses, or the splat Value of a scalar."""
        everything = [k.load(k.at(slots, i, "ptr"), "ptr") for i in range(len(self.outs) + len(self.ins))]
        outs, ins = everything[: len(self.outs)], everything[len(self.outs) :]
        ins = [
            k.splat(k.load(p, dtype)) if kind == "scalar" else p
            for p, dtype, kind in zip(ins, self.ins, self.kinds, strict=True)
        ]
        return outs, ins

    def _evaluate(self, k: Kernel, inputs: Sequence[Value]) -> list[Value]:
        """Apply the expression; as many Values as outputs, with their dtypes checked."""
        results = self.fn(k, *[k.widen(v) for v in inputs])
        results = [results] if isinstance(results, Value) else list(results)
        results = [
            k.cast(r, dtype) if dtype in HALVES and r.dtype == "float32" else r
            for r, dtype in zip(results, self.outs, strict=False)
        ]
        if [r.dtype for r in results] != self.outs:
            raise DTypeError(f"the expression returned {[r.dtype for r in results]}, stated were {self.outs}")
        return [k.splat(r) for r in results]

    def part(self) -> None:
        """`part(slots, i, count)`: the elements i, ..., i + count - 1, fewer than a vector of them."""
        k = Kernel(
            self.module, "part", [("slots", "ptr"), ("i", "int64"), ("count", "int64")], lanes=self.lanes, internal=True
        )
        slots, i, count = k.arguments
        outs, ins = self._addresses(k, slots)
        partial = k.partial(count)
        inputs = [
            p if kind == "scalar" else partial.load(k.at(p, i, dtype), dtype)
            for p, dtype, kind in zip(ins, self.ins, self.kinds, strict=True)
        ]
        before = k.size
        results = self._evaluate(k, inputs)
        self.cost = k.size - before + 2 * len(results)
        for p, result in zip(outs, results, strict=True):
            partial.store(result, k.at(p, i, result.dtype))
        k.ret()
        k.finish()

    def chunk(self) -> None:
        """`chunk(slots, begin, end, thread)`: what the pool calls."""
        k = Kernel(
            self.module,
            "chunk",
            [("slots", "ptr"), ("begin", "int64"), ("end", "int64"), ("thread", "int32")],
            lanes=self.lanes,
            internal=True,
        )
        slots, begin, end, _ = k.arguments
        outs, ins = self._addresses(k, slots)
        lanes = self.lanes

        # A vector that crosses a cache line costs two accesses: start where the first output is aligned.
        itemsize = ITEMSIZE[self.outs[0]]
        address = k.op(f"ptrtoint ptr {k.at(outs[0], begin, self.outs[0]).text} to i64", "int64")
        misaligned = k.bitwise_and(k.op(f"sub i64 0, {address.text}", "int64"), lanes * itemsize - 1)
        head = k.op(f"lshr i64 {misaligned.text}, {itemsize.bit_length() - 1}", "int64")
        head = k.where(end - begin >= 16 * lanes, head, 0)
        k.if_(head > 0, lambda: k.call_known("part", None, slots, begin, head))
        start = begin + head

        unroll = next((u for cost, u in _UNROLL if self.cost <= cost), 1)
        step = unroll * lanes
        whole = start + k.bitwise_and(end - start, -step)

        def vectors(i: Value, nontemporal: bool = False) -> None:
            # All loads come before all stores: an output may be one of the inputs.
            positions = [i + u * lanes if u else i for u in range(unroll)]
            inputs = [
                [
                    p if kind == "scalar" else k.load(k.at(p, at, dtype), dtype, lanes)
                    for p, dtype, kind in zip(ins, self.ins, self.kinds, strict=True)
                ]
                for at in positions
            ]
            results = [self._evaluate(k, values) for values in inputs]
            for at, values in zip(positions, results, strict=True):
                for p, value in zip(outs, values, strict=True):
                    align = lanes * ITEMSIZE[value.dtype] if nontemporal else None
                    k.store(value, k.at(p, at, value.dtype), align, nontemporal)

        def stream() -> None:
            k.loop(start, whole, step, lambda i: vectors(i, nontemporal=True))
            k.stores_seen()  # the pool's release of the chunk does not order them

        def plain() -> None:
            k.loop(start, whole, step, vectors)

        if self._streams:
            wanted = k.load(k.at(slots, len(self.outs) + len(self.ins), "int64"), "int64")
            k.if_(k.ne(wanted, 0) & (end - begin >= 16 * lanes), stream, plain)
        else:
            plain()

        def rest(i: Value) -> None:
            left = end - i
            k.call_known("part", None, slots, i, k.where(left < lanes, left, lanes))

        k.loop(whole, end, lanes, rest)
        k.ret()
        k.finish()

    @property
    def _streams(self) -> bool:
        """Whether there is a loop with non-temporal stores: for cheap kernels with one output, which can be aligned."""
        whole = self.lanes * ITEMSIZE[self.outs[0]] >= 16  # what the instructions store at once
        return self.cost <= _LIGHT and len(self.outs) == 1 and whole and self.target.machine == "x86_64"

    def check(self) -> None:
        """`check(slots, sizes)`: do the arrays fit the first output?"""
        k = Kernel(self.module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=call.native_calls)
        _, sizes = k.arguments
        n = self._length(k, sizes)
        checked = [(dtype, "contiguous") for dtype in self.outs] + list(zip(self.ins, self.kinds, strict=True))
        good = k.const(True, "bool")
        for i, (dtype, kind) in enumerate(checked):
            expected = k.const(1, "int64") if kind == "scalar" else n
            good = good & k.eq(k.load(k.at(sizes, i, "int64"), "int64"), expected * ITEMSIZE[dtype])
        message = self.module.string(
            f"the arrays of this kernel must have one size, and dtypes {', '.join(self.outs)} (outputs), "
            f"{', '.join(self.ins)} (inputs)"
        )
        k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
        k.finish()

    def _length(self, k: Kernel, sizes: Value) -> Value:
        shift = ITEMSIZE[self.outs[0]].bit_length() - 1
        return k.op(f"lshr {k.load(sizes, 'int64').typed}, {shift}", "int64")

    def run(self) -> None:
        """`run(slots, sizes)`: all of it, on the pool when that pays."""
        k = Kernel(self.module, "run", [("slots", "ptr"), ("sizes", "ptr")], internal=call.native_calls)
        slots, sizes = k.arguments
        n = self._length(k, sizes)
        total: Any = k.const(0, "int64")
        for i in range(len(self.outs) + len(self.ins)):
            total = total + k.load(k.at(sizes, i, "int64"), "int64")
        stream = (k.load(sizes, "int64") >= STREAM_BYTES) | (total >= (targets.last_cache() or 1 << 60))
        k.store(k.cast(stream, "int64"), k.at(slots, len(self.outs) + len(self.ins), "int64"))
        moved = [dtype for dtype, kind in zip(self.ins, self.kinds, strict=True) if kind != "scalar"] + self.outs
        traffic = sum(LINE * self.lanes * ITEMSIZE[dtype] // 64 for dtype in moved)
        cost = max(self.cost, traffic)

        def elements(work: int) -> int:
            return work * self.lanes // cost

        # Enough chunks that small work can be divided, and none so small that beginning it counts.
        eighth = k.bitwise_and(k.op(f"lshr i64 {n.text}, 3", "int64") + 1023, -1024)
        most = max(4096, min(elements(CHUNK), 65536) // 1024 * 1024)
        grain = k.where(eighth < most, eighth, most)
        grain = k.where(grain < 4096, 4096, grain)
        chunk = k.symbol("@chunk")

        def share(symbol: str) -> Callable[[], None]:
            return lambda: k.call(symbol, None, chunk, slots, n, grain)

        def alone() -> None:
            k.call_known("chunk", None, slots, k.const(0, "int64"), n, k.const(0, "int32"))

        k.if_(n < elements(AWAKE), alone, lambda: k.if_(n < elements(WAKE), share(pool.AWAKE), share(pool.SYMBOL)))
        k.ret()
        k.finish()
