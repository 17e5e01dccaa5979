"""A writer of textual LLVM IR: modules, typed values, memory, and structured control flow.

Text is about thirty times cheaper to make than `llvmlite.ir` objects, and needs no LLVM to be loaded. A `Value` is a
scalar or a vector of `lanes` elements; `operators` adds the arithmetic, which broadcasts scalars over vectors and takes
Python numbers as weak constants, as arrays do. A bool is an `i1` in registers and a byte in memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Callable, Sequence, TypeAlias, Union

from agog.compiler.targets import HALVES, ITEMSIZE, Target
from agog.errors import ArgumentTypeError, DTypeError

if TYPE_CHECKING:
    from agog.compiler.operators import Builder

__all__ = ["Emitter", "Module", "Operand", "Value"]

#: What operators take: a Value, or a Python number, which takes the dtype of the other operand.
Operand: TypeAlias = Union["Value", float]

_LLVM = {
    "bool": "i1",
    "int8": "i8",
    "uint8": "i8",
    "int16": "i16",
    "uint16": "i16",
    "int32": "i32",
    "uint32": "i32",
    "int64": "i64",
    "uint64": "i64",
    "float16": "i16",  # their bits: `halves` computes with them
    "bfloat16": "i16",
    "float32": "float",
    "float64": "double",
    "ptr": "ptr",
}
_INTRINSIC = {**_LLVM, "float32": "f32", "float64": "f64"}
FLOATS = ("float32", "float64")
UNSIGNED = ("bool", "uint8", "uint16", "uint32", "uint64")


def llvm_type(dtype: str, lanes: int = 1) -> str:
    """LLVM's name of a scalar (`lanes=1`) or vector type: `float`, `<16 x float>`."""
    return _LLVM[dtype] if lanes == 1 else f"<{lanes} x {_LLVM[dtype]}>"


def mangled(dtype: str, lanes: int = 1) -> str:
    """The type as it is part of an intrinsic's name: `f32`, `v16f32`."""
    return _INTRINSIC[dtype] if lanes == 1 else f"v{lanes}{_INTRINSIC[dtype]}"


def literal(value: Any, dtype: str) -> str:
    """A scalar constant as LLVM writes it. Floats are the bits of a double, which keeps them exact, NaN included."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype == "ptr":
        return "null"
    if dtype in HALVES:
        return str(half_bits(value, dtype))
    if dtype not in FLOATS:
        return str(int(value))
    if dtype == "float32":
        value = round_to_float32(value)
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def round_to_float32(value: Any) -> float:
    """The float32 nearest to a Python float, with overflow to infinity."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def half_bits(value: Any, dtype: str) -> int:
    """The bits of the 16-bit float nearest to a Python float."""
    if dtype == "float16":
        try:
            return struct.unpack("<H", struct.pack("<e", value))[0]
        except OverflowError:
            return 0x7C00 if value > 0 else 0xFC00
    bits = struct.unpack("<I", struct.pack("<f", round_to_float32(value)))[0]
    return 0x7FC0 if value != value else bits + 0x7FFF + (bits >> 16 & 1) >> 16


class Value:
    """An SSA value or constant of one function: its name, dtype, and number of lanes (1 is a scalar)."""

    __slots__ = ("builder", "dtype", "lanes", "text")

    def __init__(self, builder: Any, text: str, dtype: str, lanes: int) -> None:
        self.builder: Builder = builder
        self.text, self.dtype, self.lanes = text, dtype, lanes

    @property
    def type(self) -> str:
        """LLVM's name of the type."""
        return llvm_type(self.dtype, self.lanes)

    @property
    def typed(self) -> str:
        """Type and name, as LLVM wants an argument."""
        return f"{self.type} {self.text}"

    def __repr__(self) -> str:
        return f"Value({self.typed})"

    def __add__(self, other: Operand) -> Value:
        return self.builder.add(self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.builder.add(other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.builder.sub(self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.builder.sub(other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.builder.mul(self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.builder.mul(other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.builder.div(self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.builder.div(other, self)

    def __neg__(self) -> Value:
        return self.builder.neg(self)

    def __lt__(self, other: Operand) -> Value:
        return self.builder.lt(self, other)

    def __le__(self, other: Operand) -> Value:
        return self.builder.le(self, other)

    def __gt__(self, other: Operand) -> Value:
        return self.builder.gt(self, other)

    def __ge__(self, other: Operand) -> Value:
        return self.builder.ge(self, other)

    def __and__(self, other: Operand) -> Value:
        return self.builder.bitwise_and(self, other)

    def __or__(self, other: Operand) -> Value:
        return self.builder.bitwise_or(self, other)

    def __xor__(self, other: Operand) -> Value:
        return self.builder.bitwise_xor(self, other)

    def __invert__(self) -> Value:
        return self.builder.bitwise_not(self)

    def __bool__(self) -> None:
        raise ArgumentTypeError("a value in a kernel has no truth value while the kernel is built: use k.where")


class Module:
    """The text of one LLVM module: functions, and what they declare."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.functions: dict[str, str] = {}
        self.declarations: dict[str, str] = {}
        self.globals: dict[str, str] = {}
        #: External symbols to be resolved when the object is loaded.
        self.externals: set[str] = set()

    def declare(self, name: str, result: Any, arguments: Any, external: bool = False) -> None:
        """Declare a function once; `external` ones are looked up in the process (libm, libc, Python)."""
        self.declarations.setdefault(name, f"declare {result} @{name}({arguments})")
        if external:
            self.externals.add(name)

    def string(self, text: str) -> str:
        """The address of a constant C string."""
        data = text.encode() + b"\0"
        escaped = "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\{c:02X}" for c in data)
        for name, line in self.globals.items():
            if line.endswith(f'c"{escaped}"'):
                return f"@{name}"
        name = f"text{len(self.globals)}"
        self.globals[name] = f'@{name} = internal constant [{len(data)} x i8] c"{escaped}"'
        return f"@{name}"

    def __str__(self) -> str:
        parts = [
            *self.globals.values(),
            *self.declarations.values(),
            *self.functions.values(),
            f"attributes #0 = {{ {self.target.attributes} }}",
            f"attributes #1 = {{ {self.target.attributes} noinline cold }}",
            "!0 = !{i32 1}",
        ]
        return "\n".join(parts) + "\n"


class Emitter:
    """Emits the instructions of one function into `module`.

    `arguments` is a list of (name, dtype); the values are in `self.arguments`. `lanes` is the width that the helpers of
    vector kernels use. Call `finish()` at the end, after `ret`.
    """

    def __init__(
        self,
        module: Module,
        name: str,
        arguments: Any = (),
        result: Any = None,
        lanes: int = 1,
        internal: bool = False,
        cold: bool = False,
    ) -> None:
        self.module, self.target, self.lanes = module, module.target, lanes
        self.name, self._result, self._internal, self._cold = name, result, internal, cold
        self.arguments = [Value(self, f"%{n}", *_split(dtype)) for n, dtype in arguments]
        self._allocas: list[str] = []
        self._lines: list[str] = []
        self._count, self._block = 0, "entry"

    # -- plumbing

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def emit(self, line: str) -> None:
        """Add one instruction that has no result."""
        self._lines.append(line)

    def op(self, text: str, dtype: str, lanes: int = 1) -> Value:
        """Add one instruction and return its result."""
        name = self._name()
        self._lines.append(f"{name} = {text}")
        return Value(self, name, dtype, lanes)

    def call(self, name: str, result: Any, *arguments: Any, external: bool = False) -> Any:
        """Call a function by its LLVM name; `result` is a dtype, a (dtype, lanes) pair, or None."""
        types = ", ".join(a.type for a in arguments)
        self.module.declare(name, llvm_type(*_split(result)) if result else "void", types, external)
        return self.call_known(name, result, *arguments)

    def call_known(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call a function that this module defines."""
        text = ", ".join(a.typed for a in arguments)
        if result is None:
            return self.emit(f"call void @{name}({text})")
        dtype, lanes = _split(result)
        return self.op(f"call {llvm_type(dtype, lanes)} @{name}({text})", dtype, lanes)

    def call_address(self, pointer: Value, *arguments: Any) -> None:
        """Call the function without a result at an address."""
        self.emit(f"call void {pointer.text}({', '.join(a.typed for a in arguments)})")

    def allocate(self, size: Value) -> Value:
        """Memory of the C library's. Where it has none the process ends and says so: better than a wrong result."""
        text = "agog: native code needs working memory"
        self.module.globals["no_memory"] = f'@no_memory = internal constant [{len(text) + 1} x i8] c"{text}\\00"'
        memory = self.call("malloc", "ptr", size, external=True)

        def end() -> None:
            self.call("perror", None, self.symbol("@no_memory"), external=True)
            self.call("abort", None, external=True)

        self.if_(self.ne_null(memory), None, end)
        return memory

    def intrinsic(self, name: str, first: Value, *rest: Value) -> Value:
        """An LLVM intrinsic that is overloaded on the type of its first argument, and returns that type."""
        return self.call(f"llvm.{name}.{mangled(first.dtype, first.lanes)}", (first.dtype, first.lanes), first, *rest)

    def finish(self) -> None:
        """Close the function and add it to the module."""
        linkage = "internal " if self._internal else ""
        result = llvm_type(*_split(self._result)) if self._result else "void"
        arguments = ", ".join(a.typed for a in self.arguments)
        head = f"define {linkage}{result} @{self.name}({arguments}) #{int(self._cold)} {{\nentry:"
        self.module.functions[self.name] = "\n".join([head, *self._allocas, *self._lines, "}"])

    @property
    def size(self) -> int:
        """How many lines were emitted so far: a rough measure of cost."""
        return len(self._lines)

    # -- constants and shapes of values

    def symbol(self, name: str) -> Value:
        """The address of a global: `@name` of this module, or an external symbol by its bare name."""
        if not name.startswith("@"):
            self.module.declarations.setdefault(name, f"@{name} = external global ptr")
            self.module.externals.add(name)
            name = f"@{name}"
        return Value(self, name, "ptr", 1)

    def ne_null(self, pointer: Value) -> Value:
        """Whether a pointer is not null."""
        return self.op(f"icmp ne ptr {pointer.text}, null", "bool")

    def const(self, value: Any, dtype: str = "float32", lanes: int = 1) -> Value:
        """A constant; with `lanes` > 1, in every lane."""
        text = literal(value, dtype)
        return Value(self, text if lanes == 1 else f"splat ({_LLVM[dtype]} {text})", dtype, lanes)

    def splat(self, x: Value, lanes: int | None = None) -> Value:
        """The scalar `x` in every lane. Vectors and one-lane widths pass through."""
        lanes = lanes or self.lanes
        if x.lanes == lanes:
            return x
        if not x.text.startswith("%"):
            return Value(self, f"splat ({_LLVM[x.dtype]} {x.text})", x.dtype, lanes)
        vector = llvm_type(x.dtype, lanes)
        first = self.op(f"insertelement {vector} poison, {x.typed}, i64 0", x.dtype, lanes)
        return self.op(
            f"shufflevector {vector} {first.text}, {vector} poison, <{lanes} x i32> zeroinitializer", x.dtype, lanes
        )

    def iota(self, dtype: str = "int64", lanes: int | None = None) -> Value:
        """The vector 0, 1, 2, ..."""
        lanes = lanes or self.lanes
        if lanes == 1:
            return self.const(0, dtype)
        return Value(self, "<" + ", ".join(f"{_LLVM[dtype]} {i}" for i in range(lanes)) + ">", dtype, lanes)

    def extract(self, x: Value, lane: int) -> Value:
        """One lane of a vector, as a scalar."""
        return x if x.lanes == 1 else self.op(f"extractelement {x.typed}, i64 {lane}", x.dtype)

    def unify(self, *values: Operand) -> list[Value]:
        """Give all values one dtype and one number of lanes: Python numbers are weak, scalars are splat."""
        strong = [v for v in values if isinstance(v, Value)]
        if not strong:
            raise ArgumentTypeError(f"an operator in a kernel needs at least one kernel value, got {values!r}")
        dtype, lanes = strong[0].dtype, max(v.lanes for v in strong)
        for v in strong:
            if v.dtype != dtype:
                raise DTypeError(f"kernel operands have dtypes {[v.dtype for v in strong]}: cast them to one first")
        return [self.splat(v, lanes) if isinstance(v, Value) else self.const(v, dtype, lanes) for v in values]

    # -- memory

    def _truth(self, byte: Value) -> Value:
        """The bool that a byte in memory means."""
        return self.op(f"icmp ne {byte.typed}, {self.const(0, 'uint8', byte.lanes).text}", "bool", byte.lanes)

    def _byte(self, truth: Value) -> Value:
        """The byte of a bool in memory."""
        return self.op(f"zext {truth.typed} to {llvm_type('uint8', truth.lanes)}", "uint8", truth.lanes)

    def alloca(self, size: Value | int, align: int | None = 64) -> Value:
        """Room for `size` bytes in this function's frame."""
        name = self._name()
        self._allocas.append(f"{name} = alloca [{size} x i8], align {align}")
        return Value(self, name, "ptr", 1)

    def at(self, pointer: Value, index: Value | int, dtype: str) -> Value:
        """The address of element `index` (a Value or an int) of an array of `dtype`."""
        if isinstance(index, int):
            index = self.const(index, "int64")
        if index.text == "0":
            return pointer
        if dtype == "ptr":
            return self.op(f"getelementptr ptr, ptr {pointer.text}, {index.typed}", "ptr")
        width = "i8" if dtype == "bool" else _LLVM[dtype]
        return self.op(f"getelementptr {width}, ptr {pointer.text}, {index.typed}", "ptr")

    def offset(self, pointer: Value, size: Value | int) -> Value:
        """The address `size` bytes on."""
        return self.at(pointer, size, "uint8")

    def load(self, pointer: Value, dtype: str, lanes: int = 1, align: int | None = None) -> Value:
        """Load a scalar or vector; vectors need no alignment beyond their elements'."""
        if dtype == "bool":
            return self._truth(self.load(pointer, "uint8", lanes))
        align = align or (8 if dtype == "ptr" else ITEMSIZE[dtype])
        return self.op(f"load {llvm_type(dtype, lanes)}, ptr {pointer.text}, align {align}", dtype, lanes)

    def store(self, value: Any, pointer: Value, align: int | None = None, nontemporal: bool = False) -> None:
        """Store a scalar or vector. A non-temporal one goes around the caches; `align` must then be the full width."""
        if value.dtype == "bool":
            value = self._byte(value)
        align = align or (8 if value.dtype == "ptr" else ITEMSIZE[value.dtype])
        hint = ", !nontemporal !0" if nontemporal else ""
        self.emit(f"store {value.typed}, ptr {pointer.text}, align {align}{hint}")

    def masked_load(self, pointer: Value, mask: Value, dtype: str) -> Value:
        """Load the lanes whose mask is set, zero elsewhere; memory under the other lanes is not touched."""
        if dtype == "bool":
            return self._truth(self.masked_load(pointer, mask, "uint8"))
        lanes = mask.lanes
        name = f"llvm.masked.load.{mangled(dtype, lanes)}.p0"
        align = self.const(ITEMSIZE[dtype], "int32")
        return self.call(name, (dtype, lanes), pointer, align, mask, self.const(0, dtype, lanes))

    def hidden(self, a: Value) -> Value:
        """The same integer, of which LLVM knows nothing."""
        return self.op(f'call {a.type} asm "", "=r,0"({a.typed})', a.dtype)

    def masked_store(self, value: Any, pointer: Value, mask: Value) -> None:
        """Store the lanes whose mask is set."""
        if value.dtype == "bool":
            value = self._byte(value)
        name = f"llvm.masked.store.{mangled(value.dtype, value.lanes)}.p0"
        self.call(name, None, value, pointer, self.const(ITEMSIZE[value.dtype], "int32"), mask)

    def copy(self, destination: Value, source: Value, size: Value | int) -> None:
        """memcpy of `size` bytes (a Value)."""
        self.call("llvm.memcpy.p0.p0.i64", None, destination, source, size, self.const(False, "bool"))

    def prefetch(self, pointer: Value, level: int = 1) -> None:
        """Bring the cache line of an address, which may lie outside of every array, to the cache of a level, 1 to 3."""
        numbers = [self.const(n, "int32") for n in (0, 4 - level, 1)]  # to read, how near, data
        self.call("llvm.prefetch.p0", None, pointer, *numbers)

    def stores_seen(self) -> None:
        """Non-temporal stores before this are seen by whoever sees a store after it."""
        if self.target.machine == "x86_64":
            self.call("llvm.x86.sse.sfence", None)
        else:
            self.emit("fence seq_cst")

    # -- control flow

    def label(self) -> str:
        """A new name for a block."""
        self._count += 1
        return f"b{self._count}"

    def begin(self, label: str) -> None:
        """Begin the block `label`."""
        self._lines.append(f"{label}:")
        self._block = label

    def loop(
        self,
        start: Value | int,
        stop: Value | int,
        step: Value | int | None,
        body: Callable[..., Any],
        carry: Sequence[Value] = (),
    ) -> list[Value]:
        """`for i in range(start, stop, step): carry = body(i, *carry)`; returns the carried values.

        `start`, `stop` and `step` are int64 (Values or ints) and `step` is positive. Where it is None, the body says
        what the next i is, before what is carried; the last one comes before the carried values, too.
        """
        start, stop = (self.const(v, "int64") if isinstance(v, int) else v for v in (start, stop))
        head, inside, end, before = self.label(), self.label(), self.label(), self._block
        self.emit(f"br label %{head}")
        self.begin(head)
        index = Value(self, self._name(), "int64", 1)
        carried = [Value(self, self._name(), c.dtype, c.lanes) for c in carry]
        phis = len(self._lines)
        self._lines.extend([""] * (1 + len(carried)))
        go = index < stop
        self.emit(f"br i1 {go.text}, label %{inside}, label %{end}")
        self.begin(inside)
        result: Sequence[Value] = body(index, *carried) or ()
        following, *result = result if step is None else (index + step, *result)
        after = self._block
        self.emit(f"br label %{head}")
        for line, value, first, last in zip(
            range(phis, len(self._lines)), [index, *carried], [start, *carry], [following, *result], strict=False
        ):
            self._lines[line] = f"{value.text} = phi {value.type} [{first.text}, %{before}], [{last.text}, %{after}]"
        self.begin(end)
        return carried if step is not None else [index, *carried]

    def if_(
        self, condition: Value, then: Callable[[], Any] | None, otherwise: Callable[[], Any] | None = None
    ) -> tuple[Value, ...]:
        """Run `then` where a scalar condition holds, else `otherwise`; returns the tuple of values that they return."""
        yes, no, end = self.label(), self.label(), self.label()
        self.emit(f"br i1 {condition.text}, label %{yes}, label %{no}")
        results = []
        for label, fn in ((yes, then), (no, otherwise)):
            self.begin(label)
            values = (fn() if fn else None) or ()
            results.append((values, self._block))
            self.emit(f"br label %{end}")
        self.begin(end)
        (first, block1), (second, block2) = results
        return tuple(
            self.op(f"phi {a.type} [{a.text}, %{block1}], [{b.text}, %{block2}]", a.dtype, a.lanes)
            for a, b in zip(first, second, strict=True)
        )

    def ret(self, value: Any = None) -> None:
        """Return from the function."""
        self.emit(f"ret {value.typed}" if value is not None else "ret void")


def _split(dtype: str) -> tuple[str, int]:
    return dtype if isinstance(dtype, tuple) else (dtype, 1)
