"""Calling native code from Python cheaply.

ctypes costs 0.6 us for ten pointers, and `array.ctypes.data` another microsecond each. So the JIT emits the builtin
function itself: it takes NumPy arrays, gets their memory through the buffer protocol, lets the kernel check sizes,
releases the GIL when there is much to do, and returns None. Only documented functions of the C API are used (the
protocol's `Py_buffer` is part of the stable ABI since Python 3.11). Where that is not possible, `ctypes` does the same.

A kernel's module offers two functions over the same two blocks, `slots` (one 8-byte word per argument: an address, an
int64 or the bits of a double) and `sizes` (bytes of each array; of a strided one the address of its `Py_buffer`):

    ptr check(ptr slots, ptr sizes)     null, or the address of a message: the arrays do not fit together
    void run(ptr slots, ptr sizes)      the work, without the GIL
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any, Callable

from agog.compiler import jit
from agog.compiler.ir import Module, Value
from agog.compiler.kernel import Kernel
from agog.errors import ArgumentError, ArgumentTypeError

__all__ = ["bind"]

#: Kinds of parameters: array that is written, array that is read, the same with any strides, int, float.
OUT, IN, STRIDED_OUT, STRIDED_IN, INT, FLOAT = "wrWRif"

_BUFFER_BYTES = 80  # Py_buffer: buf, obj, len, itemsize, (readonly, ndim), format, shape, strides, suboffsets, internal
_PYBUF_FLAGS = {IN: 0, OUT: 1, STRIDED_IN: 0x18, STRIDED_OUT: 0x19}  # SIMPLE, WRITABLE, STRIDES, both
#: Where a kernel finds the shape of a strided array: offsets in its Py_buffer of ndim (int32), shape and strides.
NDIM, SHAPE, STRIDES = 36, 48, 56
_METH_FASTCALL = 0x80
_RELEASE = 1 << 16  # bytes of arrays from which the GIL is released

#: False makes `bind` take the ctypes path, for tests and for Pythons other than CPython.
native_calls = sys.implementation.name == "cpython" and struct.calcsize("P") == 8


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("ml_name", ctypes.c_char_p),
        ("ml_meth", ctypes.c_void_p),
        ("ml_flags", ctypes.c_int),
        ("ml_doc", ctypes.c_char_p),
    ]


def bind(
    module: Module | jit.Later,
    name: str,
    parameters: str,
    release_bytes: int = _RELEASE,
    imports: jit.Imports = None,
    keep: Any = (),
) -> Callable[..., None]:
    """A Python callable for the kernel in `module`.

    Parameters
    ----------
    module : ir.Module (or jit.Later) with functions `check` and `run` (see above)
    name : shown in the callable's repr
    parameters : one letter per positional argument: "w" an array that is written, "r" one that is read (C-contiguous
        both), "W" and "R" the same with any strides, "i" an int, "f" a float
    release_bytes : the GIL is released when the arrays hold at least this many bytes together
    imports, keep : passed to `jit.load`

    Returns
    -------
    callable
        Takes the arguments, returns None. Raises what the buffer protocol raises for an array that is read-only or not
        contiguous, TypeError for a wrong number of arguments, ValueError with the kernel's message when `check` fails.
        The caller answers for dtypes: only sizes in bytes are checked.
    """
    if native_calls:
        module = with_builtin(module, parameters, release_bytes)
        code = jit.load(module, ["builtin"], imports, keep)
        return _builtin(code, name)
    code = jit.load(module, ["check", "run"], imports, keep)
    return _Foreign(code, name, parameters)


def with_builtin(module: Any, parameters: str, release_bytes: int = _RELEASE) -> Any:
    """The module (now or later) with the builtin in it, where it is not there yet."""
    if not native_calls:
        return module
    if isinstance(module, jit.Later):
        recipe = f"{module.recipe}, called with {parameters} {release_bytes}"
        if ", called with " in module.recipe:
            return module
        return jit.Later(recipe, module.target, lambda: with_builtin(module.write(), parameters, release_bytes))
    _emit_builtin(module, parameters, release_bytes)
    return module


def _builtin(code: jit.Code, name: str) -> Callable[..., None]:
    """Wrap the native function as a Python builtin, which holds the code as its `self`."""
    definition = _MethodDef(name.encode(), code["builtin"], _METH_FASTCALL, None)
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.POINTER(_MethodDef), ctypes.py_object, ctypes.c_void_p)(
        ("PyCFunction_NewEx", ctypes.pythonapi)
    )
    return new(ctypes.byref(definition), (code, definition), None)


def ways_out(k: Kernel) -> tuple[Callable[..., None], Callable[[str, Value], None]]:
    """`unless(bad, fail)` and `raise_(kind, message)`, for functions that end in a block `leave`.

    The first goes on where `bad` is false; else it calls `fail`, which sets the exception, and leaves.
    """

    def unless(bad: Value, fail: Callable[[], Any] | None = None) -> None:
        stop, further = k.label(), k.label()
        k.emit(f"br i1 {bad.text}, label %{stop}, label %{further}")
        k.begin(stop)
        if fail:
            fail()
        k.emit("br label %leave")
        k.begin(further)

    def raise_(kind: str, message: Value) -> None:
        exception = k.load(k.symbol(kind), "ptr")
        k.call("PyErr_SetString", None, exception, message, external=True)

    return unless, raise_


def emit_sizes_check(module: Module, what: str) -> None:
    """`check(slots, sizes)` of four arrays, whose sizes are the first words of the table in the fifth slot."""
    k = Kernel(module, "check", [("slots", "ptr"), ("sizes", "ptr")], "ptr", internal=native_calls)
    slots, sizes = k.arguments
    table = k.load(k.at(slots, 4, "ptr"), "ptr")
    good: Any = None
    for i in range(4):
        right = k.eq(k.load(k.at(table, i, "int64"), "int64"), k.load(k.at(sizes, i, "int64"), "int64"))
        good = right if good is None else good & right
    message = module.string(f"the arrays of a {what} do not have the sizes it was planned for")
    k.ret(k.where(good, k.const(0, "ptr"), k.symbol(message)))
    k.finish()


def _emit_builtin(module: Module, parameters: str, release_bytes: int) -> None:
    """`PyObject *builtin(PyObject *self, PyObject *const *args, Py_ssize_t nargs)`."""
    k = Kernel(module, "builtin", [("self", "ptr"), ("args", "ptr"), ("nargs", "int64")], "ptr")
    _, args, count = k.arguments
    null = k.const(0, "ptr")
    n = len(parameters)
    slots, sizes = k.alloca(8 * n + 8, 8), k.alloca(8 * n + 8, 8)
    buffers, held, result = k.alloca(_BUFFER_BYTES * n + 8, 8), k.alloca(8, 8), k.alloca(8, 8)
    k.store(k.const(0, "int64"), held)
    k.store(null, result)

    unless, raise_ = ways_out(k)
    text = k.symbol(module.string(f"expected {n} arguments"))
    unless(k.ne(count, n), lambda: raise_("PyExc_TypeError", text))
    total = k.const(0, "int64")
    for i, kind in enumerate(parameters):
        argument = k.load(k.at(args, i, "ptr"), "ptr")
        slot = k.at(slots, i, "int64")
        if kind in _PYBUF_FLAGS:
            buffer = k.offset(buffers, _BUFFER_BYTES * i)
            flags = k.const(_PYBUF_FLAGS[kind], "int32")
            status = k.call("PyObject_GetBuffer", "int32", argument, buffer, flags, external=True)
            unless(k.ne(status, 0))
            k.store(k.const(i + 1, "int64"), held)
            k.store(k.load(buffer, "ptr"), slot)
            size = k.load(k.offset(buffer, 16), "int64")
            k.store(size if kind in (OUT, IN) else buffer, k.at(sizes, i, "int64"))
            total = total + size
        else:
            k.store(null, k.offset(buffers, _BUFFER_BYTES * i + 8))  # releasing a buffer without an object does nothing
            k.store(k.const(i + 1, "int64"), held)
            convert, dtype = ("PyLong_AsLongLong", "int64") if kind == INT else ("PyFloat_AsDouble", "float64")
            value = k.call(convert, dtype, argument, external=True)
            k.store(value, slot)
            unless(k.eq(value, -1) & k.ne_null(k.call("PyErr_Occurred", "ptr", external=True)))
    message = k.call_known("check", "ptr", slots, sizes)
    unless(k.ne_null(message), lambda: raise_("PyExc_ValueError", message))

    def without_gil() -> None:
        state = k.call("PyEval_SaveThread", "ptr", external=True)
        k.call_known("run", None, slots, sizes)
        k.call("PyEval_RestoreThread", None, state, external=True)

    k.if_(total >= release_bytes, without_gil, lambda: k.call_known("run", None, slots, sizes))
    # An empty format is the documented way to a new reference to None; it does not depend on how None is counted.
    module.declare("Py_BuildValue", "ptr", "ptr, ...", external=True)
    k.store(k.op(f"call ptr (ptr, ...) @Py_BuildValue(ptr {module.string('')})", "ptr"), result)
    k.emit("br label %leave")
    k.begin("leave")
    k.loop(
        0,
        k.load(held, "int64"),
        1,
        lambda i: k.call("PyBuffer_Release", None, k.offset(buffers, i * _BUFFER_BYTES), external=True),
    )
    k.ret(k.load(result, "ptr"))
    k.finish()


class _Buffer(ctypes.Structure):
    """As much of a `Py_buffer` as kernels look at."""

    _fields_ = [
        ("before", ctypes.c_char * NDIM),
        ("ndim", ctypes.c_int32),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
    ]

    def __init__(self, array: Any) -> None:
        numbers = ctypes.c_int64 * max(1, array.ndim)
        self.keep = numbers(*array.shape), numbers(*array.strides)
        shape, strides = map(ctypes.addressof, self.keep)
        super().__init__(ndim=array.ndim, shape=shape, strides=strides)


class _Foreign:
    """The same callable through ctypes: slower, and right on every Python."""

    def __init__(self, code: jit.Code, name: str, parameters: str) -> None:
        self._code, self.__name__, self._parameters = code, name, parameters
        blocks = (ctypes.c_void_p, ctypes.c_void_p)
        self._check = ctypes.CFUNCTYPE(ctypes.c_char_p, *blocks)(code["check"])
        self._run = ctypes.CFUNCTYPE(None, *blocks)(code["run"])

    def __call__(self, *arguments: Any) -> None:
        if len(arguments) != len(self._parameters):
            raise ArgumentTypeError(f"expected {len(self._parameters)} arguments")
        n = len(arguments)
        slots, sizes, buffers = (ctypes.c_int64 * (n + 1))(), (ctypes.c_int64 * (n + 1))(), []
        for i, (kind, argument) in enumerate(zip(self._parameters, arguments, strict=True)):
            if kind in _PYBUF_FLAGS:
                if kind in (OUT, IN) and not argument.flags.c_contiguous:
                    raise ArgumentError("ndarray is not C-contiguous")
                if kind in (OUT, STRIDED_OUT) and not argument.flags.writeable:
                    raise ArgumentError("buffer source array is read-only")
                slots[i], sizes[i] = argument.ctypes.data, argument.nbytes
                if kind in (STRIDED_OUT, STRIDED_IN):
                    buffers.append(_Buffer(argument))
                    sizes[i] = ctypes.addressof(buffers[-1])
            elif kind == INT:
                slots[i] = argument
            else:
                slots[i] = struct.unpack("<q", struct.pack("<d", argument))[0]
        if message := self._check(ctypes.addressof(slots), ctypes.addressof(sizes)):
            raise ArgumentError(message.decode())
        self._run(ctypes.addressof(slots), ctypes.addressof(sizes))
