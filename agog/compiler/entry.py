"""The way from Python into compiled programs: one builtin for all of them.

`enter(arrays...)` gets the addresses of its arrays, checks those that a caller gave, finds memory for what lives only
inside, and calls the program's `run(slots, arena, constants)`. It returns None, the number of the graph's node that did
not hold, or MISFIT when an array is not of the form that the program was compiled for. Nothing has been written then.

Arrays are read where NumPy keeps them, as every extension module does: the first fields of an array object are part of
NumPy's binary interface. What is known of them is compared with what Python says before it is used. The buffer protocol
says the same, but it costs some thirty nanoseconds for each array, and a training step has hundreds.
"""

import ctypes
import functools

import numpy as np

from agog.compiler import call, jit
from agog.compiler.ir import Module
from agog.compiler.kernel import Kernel
from agog.errors import DeviceError

__all__ = ["MISFIT", "RELEASE", "bind"]

MISFIT = -1

_HEAD = object.__basicsize__  # of every object; its last word is the type
_DATA, _NDIM, _SHAPE, _STRIDES, _DTYPE, _FLAGS = (_HEAD + at for at in (0, 8, 16, 24, 40, 48))
_CONTIGUOUS = 1

_STACK = 1 << 15  # bytes of arena that are put on the stack
RELEASE = 1 << 21  # work from which the GIL is released

# The context of a program, in words of 8 bytes; the first says whether the block is in use.
_BLOCK, _RUN, _COUNT, _TABLE, _BYTES, _HEAP, _FREE, _TYPE, _CONSTANTS = range(1, 10)


def _word(address):
    return ctypes.c_int64.from_address(address).value


@functools.cache
def _verify():
    """Compare the layout with what Python says of arrays; DeviceError where they differ."""
    for x in (np.empty((2, 3), np.float32), np.empty((4, 6), np.int16)[::2, 1:5:3], np.empty((), bool)):
        at, n = id(x), x.ndim
        if not (
            _word(at + _HEAD - 8) == id(np.ndarray)
            and _word(at + _DATA) == x.ctypes.data
            and ctypes.c_int.from_address(at + _NDIM).value == n
            and tuple(_word(_word(at + _SHAPE) + 8 * i) for i in range(n)) == x.shape
            and tuple(_word(_word(at + _STRIDES) + 8 * i) for i in range(n)) == x.strides
            and _word(at + _DTYPE) == id(x.dtype)
            and bool(ctypes.c_int.from_address(at + _FLAGS).value & _CONTIGUOUS) == x.flags.c_contiguous
        ):
            raise DeviceError("this NumPy keeps its arrays in a form that agog does not know")


@functools.cache
def _code(target):
    """The builtin's code, for programs of any number of arrays."""
    _verify()
    return jit.load(jit.Later("enter", target, lambda: _write(target)), ["enter"])


def _write(target):
    module = Module(target)
    k = Kernel(module, "enter", [("self", "ptr"), ("args", "ptr"), ("given", "int64")], "ptr")
    me, args, given = k.arguments
    null, zero = k.const(0, "ptr"), k.const(0, "int64")
    result = k.alloca(8, 8)
    k.store(null, result)
    unless, raise_ = call.ways_out(k)
    capsule = k.call("PyTuple_GetItem", "ptr", me, zero, external=True)
    context = k.call("PyCapsule_GetPointer", "ptr", capsule, null, external=True)

    def fact(at, dtype="int64"):
        return k.load(k.at(context, at, "int64"), dtype)

    def word(value, dtype, at):
        return k.load(k.offset(value, at), dtype)

    text = k.symbol(module.string("a program was called with another number of arrays"))
    unless(k.ne(given, fact(_COUNT)), lambda: raise_("PyExc_TypeError", text))
    slots = k.op(f"alloca ptr, {given.typed}, align 64", "ptr")
    kind = fact(_TYPE)

    # The table: for each array its dtype's address and number of axes, then its sizes; a dtype of 0 is not checked.
    def take(i, row, bad):
        x = k.load(k.at(args, i, "ptr"), "ptr")
        k.store(word(x, "ptr", _DATA), k.at(slots, i, "ptr"))
        dtype, axes = k.load(row, "int64"), word(row, "int64", 8)

        def differs():
            # as one number that is 0 when all agree
            other = k.bitwise_xor(word(x, "int64", _HEAD - 8), kind)
            other = k.bitwise_or(other, k.bitwise_xor(word(x, "int64", _DTYPE), dtype))
            n = k.cast(word(x, "int32", _NDIM), "int64")
            flags = k.cast(word(x, "int32", _FLAGS), "int64")
            other = k.bitwise_or(other, k.bitwise_xor(n, axes))
            other = k.bitwise_or(other, k.bitwise_xor(k.bitwise_and(flags, _CONTIGUOUS), _CONTIGUOUS))

            def sizes():
                shape = word(x, "ptr", _SHAPE)

                def size(a, seen):
                    mine, wanted = k.load(k.at(shape, a, "int64"), "int64"), k.load(k.at(row, a + 2, "int64"), "int64")
                    return (k.bitwise_or(seen, k.bitwise_xor(mine, wanted)),)

                return k.loop(0, axes, 1, size, [zero])

            (sizes_differ,) = k.if_(k.eq(other, 0), sizes, lambda: [other])
            return [sizes_differ]

        (other,) = k.if_(k.ne(dtype, 0), differs, lambda: [zero])
        return k.at(row, axes + 2, "int64"), k.bitwise_or(bad, other)

    _, bad = k.loop(0, given, 1, take, [fact(_TABLE, "ptr"), zero])

    def leave_with(value):
        k.store(k.call("PyLong_FromLongLong", "ptr", value, external=True), result)

    unless(k.ne(bad, 0), lambda: leave_with(k.const(MISFIT, "int64")))
    constants, size = k.at(context, _CONSTANTS, "int64"), fact(_BYTES)

    def in_heap():
        busy = k.ne(k.op(f"atomicrmw xchg ptr {context.text}, i64 1 acquire", "int64"), 0)

        def own():
            return [k.call("malloc", "ptr", k.add(size, 64), external=True)]

        (block,) = k.if_(busy, own, lambda: [fact(_BLOCK, "ptr")])
        address = k.op(f"ptrtoint ptr {block.text} to i64", "int64")
        arena = k.op(f"inttoptr i64 {k.bitwise_and(k.add(address, 63), -64).text} to ptr", "ptr")
        return [block, arena, k.where(busy, k.const(1, "int64"), k.const(2, "int64"))]

    def on_stack():
        arena = k.op(f"alloca i8, {size.typed}, align 64", "ptr")
        return [arena, arena, zero]

    block, arena, whose = k.if_(k.ne(fact(_HEAP), 0), in_heap, on_stack)
    no_memory = k.symbol(module.string("no memory for the arena"))
    unless(k.bitwise_not(k.ne_null(block)), lambda: raise_("PyExc_MemoryError", no_memory))
    run = fact(_RUN, "ptr")

    def work():
        return [k.op(f"call i64 {run.text}({slots.typed}, {arena.typed}, {constants.typed})", "int64")]

    def without_gil():
        state = k.call("PyEval_SaveThread", "ptr", external=True)
        out = work()
        k.call("PyEval_RestoreThread", None, state, external=True)
        return out

    (failed,) = k.if_(k.ne(fact(_FREE), 0), without_gil, work)
    k.if_(k.eq(whose, 1), lambda: k.call("free", None, block, external=True))
    k.if_(k.eq(whose, 2), lambda: k.emit(f"store atomic i64 0, ptr {context.text} release, align 8"))
    # An empty format is the documented way to a new reference to None; it does not depend on how None is counted.
    module.declare("Py_BuildValue", "ptr", "ptr, ...", external=True)

    def none():
        k.store(k.op(f"call ptr (ptr, ...) @Py_BuildValue(ptr {module.string('')})", "ptr"), result)

    k.if_(k.eq(failed, 0), none, lambda: leave_with(k.sub(failed, 1)))
    k.emit("br label %leave")
    k.begin("leave")
    k.ret(k.load(result, "ptr"))
    k.finish()
    return module


def bind(code, target, arrays, arena, constants, work):
    """A Python callable over arrays for a program's native code.

    Parameters
    ----------
    code : jit.Code with a function `run`
    arrays : for each array (shape, dtype) when it is to be checked, else None: contiguous memory of the caller's own
    arena : bytes of memory that the program needs while it runs
    constants : arrays whose addresses `run` is given
    work : about how many instructions a call takes; the GIL is released when they are many

    Returns
    -------
    callable
        Takes NumPy arrays. Returns None, the number of the node that did not hold, or MISFIT. Raises TypeError for a
        wrong number of arrays and MemoryError.
    """
    builtin = _code(target)
    rows = []
    for form in arrays:
        shape, dtype = form or ((), None)
        rows += [id(dtype) if form else 0, len(shape), *shape]
    table = np.array(rows, np.int64)
    heap = arena > _STACK
    block = np.empty(arena + 64, np.uint8) if heap else None
    context = np.zeros(_CONSTANTS + max(1, len(constants)), np.int64)
    context[:_CONSTANTS] = (
        0,
        0 if block is None else block.ctypes.data,
        code["run"],
        len(arrays),
        table.ctypes.data,
        max(arena, 64),
        heap,
        work >= RELEASE,
        id(np.ndarray),
    )
    for i, c in enumerate(constants):
        context[_CONSTANTS + i] = c.ctypes.data
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    definition = call._MethodDef(b"program", builtin["enter"], call._METH_FASTCALL, None)
    keep = (context, table, block, code, builtin, definition, list(constants), [f and f[1] for f in arrays])
    me = (capsule(context.ctypes.data, None, None), *keep)
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.POINTER(call._MethodDef), ctypes.py_object, ctypes.c_void_p)(
        ("PyCFunction_NewEx", ctypes.pythonapi)
    )
    return new(ctypes.byref(definition), me, None)
