"""What a graph is lowered to: values that loops compute, views of them, and steps that are not loops.

    Buffer   memory: an input, a constant, the result of a step
    Const    one number
    Coord    the index along an axis
    Point    a function of scalars at every point
    Gather   an element of a buffer at places that other values name
    Reduce   a reduction over axes
    View     another shape of a value's elements: root, offset and strides in elements (negative and 0 too)

Point, Gather, Reduce, Coord, Const are *loop values*: schedule puts them into nests. A loop value that must be stored
becomes the root of its own buffer. `Part` writes a value into a part of an `Assembled` buffer.
"""

import numpy as np

__all__ = [
    "Assembled",
    "Buffer",
    "Const",
    "Coord",
    "Gather",
    "Part",
    "Point",
    "Reduce",
    "Val",
    "View",
    "contiguous",
    "mapped",
    "merged",
    "whole",
]


def contiguous(shape):
    """The strides of a C-contiguous array, in elements."""
    strides, step = [0] * len(shape), 1
    for i in reversed(range(len(shape))):
        strides[i], step = step, step * shape[i]
    return tuple(strides)


def count(shape):
    """The number of elements."""
    n = 1
    for s in shape:
        n *= s
    return n


class Val:
    """A value of known shape and dtype (a name such as "float32")."""

    loop = True

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), dtype

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return count(self.shape)

    def __repr__(self):
        return f"<{type(self).__name__.lower()} {self.dtype}{list(self.shape)}>"


class Buffer(Val):
    """An array in memory. `step` makes it (None for inputs and constants)."""

    loop = False

    def __init__(self, shape, dtype, step=None, data=None, name=""):
        super().__init__(shape, dtype)
        self.step, self.data, self.name = step, data, name


class Const(Val):
    """A number in every place."""

    def __init__(self, value, dtype, shape=()):
        super().__init__(shape, dtype)
        self.value = value


class Coord(Val):
    """The index along `axis`."""

    def __init__(self, shape, axis, dtype="int64"):
        super().__init__(shape, dtype)
        self.axis = axis


class Point(Val):
    """`functions[name]` of `args` (Vals that broadcast to `shape`, or None). name "cast" converts."""

    def __init__(self, name, args, shape, dtype):
        super().__init__(shape, dtype)
        self.name, self.args = name, tuple(args)


class Part(Point):
    """The value of `args[0]`, written to the elements offset + strides of `target`, after the steps `after`."""

    def __init__(self, source, target, offset, strides, after):
        super().__init__("part", (source,), source.shape, source.dtype)
        self.target, self.offset, self.strides, self.after = target, offset, strides, tuple(after)


class Gather(Val):
    """x[...] where axis a of `x` is walked by axis where[a] of the result, stands at 0 (None), or is named by a Val."""

    def __init__(self, x, where, shape, position):
        super().__init__(shape, x.dtype)
        self.x, self.where, self.position = x, tuple(where), position


class Reduce(Val):
    """`kind` of `x` over `axes`."""

    def __init__(self, kind, x, axes, shape, dtype):
        super().__init__(shape, dtype)
        self.kind, self.x, self.axes = kind, x, tuple(axes)


class Assembled(Buffer):
    """A buffer that `parts` write."""

    def __init__(self, shape, dtype):
        super().__init__(shape, dtype, self)
        self.parts = []


class View(Val):
    """Elements of `root` (a Val that is not a View) at offset + strides, in elements of its contiguous form."""

    loop = False

    def __init__(self, root, offset, strides, shape):
        super().__init__(shape, root.dtype)
        self.root, self.offset, self.strides = root, offset, tuple(strides)


def resolve(v):
    """(root, offset, strides) of any value."""
    if isinstance(v, View):
        return v.root, v.offset, v.strides
    return v, 0, contiguous(v.shape)


def whole(v):
    """Whether `v` is all of its root, in order (perhaps in another shape)."""
    return (
        not isinstance(v, View)
        or v.size == v.root.size
        and v.offset == 0
        and all(n == 1 or s == c for n, s, c in zip(v.shape, v.strides, contiguous(v.shape)))
    )


def mapped(v):
    """(root, map): which axis of the root each axis of `v` walks (None: stays); or None when it is not so simple."""
    if not isinstance(v, View):
        return v, tuple(range(v.ndim))
    if v.offset:
        return None
    strides = contiguous(v.root.shape)
    free = [a for a, n in enumerate(v.root.shape) if n != 1]
    out = []
    for n, s in zip(v.shape, v.strides):
        if n == 1 or s == 0:
            out.append(None)
            continue
        found = next((a for a in free if v.root.shape[a] == n and strides[a] == s), None)
        if found is None:
            return None
        free.remove(found)
        out.append(found)
    return None if free else (v.root, tuple(out))


def merged(sizes, rows):
    """Sizes and strides with axes of size 1 dropped and neighbours made one where all arrays walk them as one."""
    sizes, rows = list(sizes), [list(r) for r in rows]
    for i in reversed(range(len(sizes))):
        if sizes[i] == 1:
            del sizes[i]
            for r in rows:
                del r[i]
    i = 0
    while i + 1 < len(sizes):
        if all(r[i] == r[i + 1] * sizes[i + 1] for r in rows):
            sizes[i : i + 2] = [sizes[i] * sizes[i + 1]]
            for r in rows:
                del r[i]
        else:
            i += 1
    return sizes, rows


_memory = np.empty(0, np.int8)


def seen_as(v, fn):
    """`fn(array)` of a stand-in for `v`: (offset, strides, shape) of each result, or None where it had to copy."""
    global _memory
    root, offset, strides = resolve(v)
    n = max(1, root.size)
    if _memory.size < n:
        _memory = np.empty(n, np.int8)  # never written: only its addresses count
    stand_in = np.ndarray(v.shape, np.int8, _memory, offset if v.size else 0, strides)
    made = fn(stand_in)
    start, out = _memory.__array_interface__["data"][0], []
    for y in made if isinstance(made, tuple) else (made,):
        if y.size and not np.may_share_memory(y, _memory[:n]):
            return None
        at = y.__array_interface__["data"][0] - start if y.size else 0
        out.append((at, y.strides, y.shape))
    return out
