"""Convolution in any number of dimensions: three rows that are each other's derivatives.

    conv(x, w)              y[n, o, p]    = sum over c, k of x[n, c, p * stride + k * dilation - padding] w[o, c, k]
    conv_input_grad(g, w)   its transpose in x, which is also the forward pass of `conv_transpose`
    conv_weight_grad(x, g)  its transpose in w

Each is one matrix product over patches of the input ("im2col"). The patches are built block by block in memory that
stays in the cache, so that the matrix product dominates. Layout is (N, C, ...), weights are (O, C / groups, ...).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from operator import index

from agog.array import large
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.ops.blocks import WORTH_THREADS, fresh, native, share, small_product
from agog.ops.row import Op, composite

_BLOCK_BYTES = 1 << 20  # of patches at a time: half of a typical L2 cache
_FEW = 64  # positions below which one product takes the patches of many samples


def _outer_sizes(sizes, kernel, stride, padding, dilation):
    return tuple((n + lo + hi - d * (k - 1) - 1) // s + 1
                 for n, k, s, (lo, hi), d in zip(sizes, kernel, stride, padding, dilation))


def windows(np, x, kernel, stride, dilation, out):
    """A view (N, C, *kernel, *out) of the windows of x (N, C, *sizes)."""
    s = x.strides
    return np.lib.stride_tricks.as_strided(
        x, x.shape[:2] + tuple(kernel) + tuple(out),
        s[:2] + tuple(a * d for a, d in zip(s[2:], dilation)) + tuple(a * t for a, t in zip(s[2:], stride)))


class _Plan:
    """Sizes of one convolution, and its blocks: ranges of samples and of positions on the first spatial axis."""

    def __init__(self, np, samples, channels, sizes, kernel, stride, padding, dilation, groups, itemsize):
        self.np = np
        self.kernel, self.stride, self.dilation, self.groups = kernel, stride, dilation, groups
        self.padding, self.sizes, self.samples, self.channels = padding, sizes, samples, channels
        self.out = _outer_sizes(sizes, kernel, stride, padding, dilation)
        self.taps = prod(kernel)
        self.padded = tuple(n + lo + hi for n, (lo, hi) in zip(sizes, padding))
        self.pads = self.padded != sizes
        self.inner = (slice(None), slice(None)) + tuple(slice(lo, lo + n) for n, (lo, _) in zip(sizes, padding))
        self.points = prod(self.out)
        row = channels * self.taps * prod(self.out[1:]) * itemsize
        whole = max(row * self.out[0], 1)
        self.block = max(1, min(-(-samples // 8), _BLOCK_BYTES // whole))
        self.rows = self.out[0] if whole <= 2 * _BLOCK_BYTES else max(1, _BLOCK_BYTES // max(row, 1))
        self.rest = prod(self.out[1:])

    def blocks(self):
        """The first samples of the blocks."""
        return range(0, self.samples, self.block)

    def patches(self, x, channel_major, starts):
        """Yield (samples, rows, patches) for the blocks at `starts`; `patches` is overwritten by the next.

        The shape of `patches` is (channels, *kernel, n, *out) if channel_major, else (n, channels, *kernel, *out).
        """
        np, k = self.np, len(self.kernel)
        pad = np.zeros((self.block, self.channels) + self.padded, x.dtype) if self.pads else None
        view = windows(np, x if pad is None else pad, self.kernel, self.stride, self.dilation, self.out)
        order = tuple(range(1, 2 + k)) + (0,) + tuple(range(2 + k, 2 + 2 * k))
        buffer = np.empty(self.block * self.channels * self.taps * self.rows * self.rest, x.dtype)
        for i in starts:
            j = min(i + self.block, self.samples)
            if pad is None:
                part = view[i:j]
            else:
                pad[:j - i][self.inner] = x[i:j]
                part = view[:j - i]
            if channel_major:
                part = part.transpose(order)
            for r in range(0, self.out[0], self.rows):
                e = min(r + self.rows, self.out[0])
                piece = part if e - r == self.out[0] else part[(slice(None),) * (2 + k) + (slice(r, e),)]
                target = buffer[:piece.size].reshape(piece.shape)
                np.copyto(target, piece)
                yield slice(i, j), slice(r * self.rest, e * self.rest), target


def _cut(points, work):
    """Columns of a product with `work` multiplications each that OpenBLAS takes in one thread; 0 if they are too few.

    Such products run side by side on our threads, together with the building of their patches.
    """
    parts = -(-points * work // small_product())
    columns = -(-points // max(1, parts))
    return columns if columns >= min(points, 24) else 0


def _pieces(x, columns):
    """A view (..., k, p) -> (..., p // columns, k, columns)."""
    n = x.shape[-1] // columns
    return x[..., :n * columns].reshape(x.shape[:-1] + (n, columns)).swapaxes(-3, -2)


def _product(np, a, x, out, columns):
    """out = a @ x for a (g, m, k), x (n, g, k, p), piece by piece."""
    whole = x.shape[-1] // columns * columns
    np.matmul(a[:, None], _pieces(x, columns), out=_pieces(out, columns))
    if whole < x.shape[-1]:
        np.matmul(a, x[..., whole:], out=out[..., whole:])


def _is_pointwise(kernel, padding):
    return prod(kernel) == 1 and not any(lo or hi for lo, hi in padding)


def _strided(np, x, stride):
    if any(s != 1 for s in stride):
        x = x[(slice(None), slice(None)) + tuple(slice(None, None, s) for s in stride)]
    return np.ascontiguousarray(x)


def _conv(np, x, w, b, stride, padding, dilation, groups):
    n, c = x.shape[:2]
    o, cg, kernel = w.shape[0], w.shape[1], w.shape[2:]
    out = _outer_sizes(x.shape[2:], kernel, stride, padding, dilation)
    points, og, depth = prod(out), o // groups, cg * prod(kernel)
    if not n * o * points or not w.size:
        y = np.zeros((n, o) + out, x.dtype)
        return y if b is None else y + b.reshape((-1,) + (1,) * len(kernel))
    done = native(np, "conv", max(n * o * points * depth, large.CALLS), x, w, b, stride, padding, dilation, groups)
    if done is not None:
        return done
    plan = _Plan(np, n, c, x.shape[2:], kernel, stride, padding, dilation, groups, x.itemsize)
    shape = (n, o) + out
    columns = _cut(points, og * depth)
    y = fresh(np, (n, groups, og, points), x.dtype)
    wm = np.ascontiguousarray(w).reshape(groups, og, depth)
    if groups == 1:
        y, wm = y[:, 0], wm[0]
    bias = None if b is None else b.reshape(wm.shape[:-1] + (1,))
    if _is_pointwise(kernel, padding):
        x = _strided(np, x, stride).reshape((n, groups, cg, points) if groups > 1 else (n, c, points))
        np.matmul(wm, x, out=y)
        if b is not None:
            y += bias
    elif columns and (points >= _FEW or groups > 1):
        out, wg = y.reshape(n, groups, og, points), wm.reshape(groups, og, depth)

        def run(starts):
            for block, where, cols in plan.patches(x, False, starts):
                part = out[block, ..., where]
                _product(np, wg, cols.reshape(part.shape[:2] + (depth, -1)), part, min(columns, part.shape[-1]))
                if b is not None:
                    part += b.reshape(groups, og, 1)

        share(plan.blocks(), run, n * o * depth * points > WORTH_THREADS)
    elif points < _FEW and groups == 1:
        for block, where, cols in plan.patches(x, True, plan.blocks()):
            part = np.matmul(wm, cols.reshape(depth, -1))
            if b is not None:
                part += bias
            target = y[block, :, where]
            target[...] = part.reshape(o, target.shape[0], -1).transpose(1, 0, 2)
    else:
        for block, where, cols in plan.patches(x, False, plan.blocks()):
            part = y[block, ..., where]
            m = part.shape[0]
            cols = cols.reshape((m, groups, depth, -1) if groups > 1 else (m, depth, -1))
            np.matmul(wm, cols, out=part)
            if b is not None:
                part += bias
    return y.reshape(shape)


def _conv_input_grad(np, g, w, size, stride, padding, dilation, groups):
    n, o = g.shape[:2]
    cg, kernel = w.shape[1], w.shape[2:]
    c = cg * groups
    shape = (n, c) + tuple(size)
    if not g.size or not w.size or not prod(shape):
        return np.zeros(shape, g.dtype)
    og, out, points = o // groups, g.shape[2:], prod(g.shape[2:])
    work = g.size * cg * prod(kernel)
    done = native(np, "conv_input_grad", max(work, large.CALLS), g, w, size, stride, padding, dilation, groups)
    if done is not None:
        return done
    if _is_pointwise(kernel, padding):
        wt = w.reshape(groups, og, cg).swapaxes(1, 2)
        x = np.matmul(wt if groups > 1 else wt[0],
                      g.reshape((n, groups, og, points) if groups > 1 else (n, og, points)),
                      out=fresh(np, (n, groups, cg, points) if groups > 1 else (n, cg, points), g.dtype))
        x = x.reshape((n, c) + out)
        if x.shape == shape:
            return x
        full = np.zeros(shape, g.dtype)
        full[(slice(None), slice(None)) + tuple(slice(0, e * s, s) for e, s in zip(out, stride))] = x
        return full
    mirrored = tuple((d * (k - 1) - lo, m - e + lo)
                     for d, k, (lo, _), m, e in zip(dilation, kernel, padding, size, out))
    if all(s == 1 for s in stride) and all(lo >= 0 and hi >= 0 for lo, hi in mirrored) and o <= 2 * c:
        flipped = w[(slice(None), slice(None)) + (slice(None, None, -1),) * len(kernel)]
        flipped = flipped.reshape((groups, og, cg) + kernel).swapaxes(1, 2).reshape((c, og) + kernel)
        return _conv(np, g, np.ascontiguousarray(flipped), None, stride, mirrored, dilation, groups)
    return _scatter_patches(np, g, w, shape, stride, padding, dilation, groups)


def _scatter_patches(np, g, w, shape, stride, padding, dilation, groups):
    """The gradient of every patch as one product, then added up tap by tap ("col2im")."""
    (n, c), size = shape[:2], shape[2:]
    (o, cg), kernel, out = w.shape[:2], w.shape[2:], g.shape[2:]
    og, points, taps = o // groups, prod(out), prod(kernel)
    reach = tuple(max((e - 1) * s + d * (k - 1) + 1, lo + m)
                  for e, s, d, k, (lo, _), m in zip(out, stride, dilation, kernel, padding, size))
    wt = np.ascontiguousarray(w.reshape(groups, og, cg * taps).swapaxes(1, 2))
    block = max(1, min(-(-n // 8), _BLOCK_BYTES // max(1, c * taps * points * g.itemsize)))
    x = fresh(np, shape, g.dtype)
    gm = g.reshape(n, groups, og, points)
    both = (slice(None), slice(None))
    inner = both + tuple(slice(lo, lo + m) for (lo, _), m in zip(padding, size))
    taps_at = [(both + at, both + tuple(slice(a * d, a * d + (e - 1) * s + 1, s)
                                        for a, d, e, s in zip(at, dilation, out, stride)))
               for at in product(*map(range, kernel))]
    columns = _cut(points, og * cg * taps)

    def run(starts):
        cols = np.empty((block, groups, cg * taps, points), g.dtype)
        pad = np.empty((block, c) + reach, g.dtype)
        for i in starts:
            m = min(block, n - i)
            if columns:
                _product(np, wt, gm[i:i + m], cols[:m], columns)
            else:
                np.matmul(wt, gm[i:i + m], out=cols[:m])
            parts = cols[:m].reshape((m, c) + kernel + out)
            target = pad[:m]
            target[...] = 0
            for at, where in taps_at:
                target[where] += parts[at]
            x[i:i + m] = target[inner]

    share(range(0, n, block), run, bool(columns) and n * o * cg * taps * points > WORTH_THREADS)
    return x


def _conv_weight_grad(np, x, g, kernel, stride, padding, dilation, groups):
    (n, c), o = x.shape[:2], g.shape[1]
    kernel = tuple(kernel)
    cg, og, points = c // groups, o // groups, prod(g.shape[2:])
    shape = (o, cg) + kernel
    if not g.size or not x.size:
        return np.zeros(shape, x.dtype)
    work = g.size * cg * prod(kernel)
    done = native(np, "conv_weight_grad", max(work, large.CALLS), x, g, kernel, stride, padding, dilation, groups)
    if done is not None:
        return done
    gm = g.reshape(n, o, points)
    if _is_pointwise(kernel, padding):
        x = _strided(np, x[(slice(None), slice(None)) + tuple(slice(0, e * s) for e, s in zip(g.shape[2:], stride))],
                     stride).reshape(n, c, points)
        xs = x.transpose(1, 0, 2).reshape(groups, cg, n * points)
        gs = gm.transpose(1, 0, 2).reshape(groups, og, n * points)
        return np.matmul(gs, xs.swapaxes(1, 2)).reshape(shape)
    plan = _Plan(np, n, c, x.shape[2:], kernel, stride, padding, dilation, groups, x.itemsize)
    total = np.zeros((groups, og, cg * plan.taps), x.dtype)
    columns = _cut(points, og * cg * plan.taps)
    if columns and points >= _FEW:
        sums = {}

        def run(starts):
            for block, where, cols in plan.patches(x, False, starts):
                gs = gm[block, :, where]
                gs = gs.reshape(gs.shape[0], groups, og, -1)
                sums[block.start, where.start] = _summed_products(
                    np, gs, cols.reshape(gs.shape[:2] + (-1, gs.shape[-1])), min(columns, gs.shape[-1]))

        share(plan.blocks(), run, n * o * cg * plan.taps * points > WORTH_THREADS)
        for key in sorted(sums):
            total += sums[key]
        return total.reshape(shape)
    part = np.empty_like(total)
    for block, where, cols in plan.patches(x, True, plan.blocks()):
        gs = gm[block, :, where].transpose(1, 0, 2).reshape(groups, og, -1)
        total += np.matmul(gs, cols.reshape(groups, cg * plan.taps, -1).swapaxes(1, 2), out=part)
    return total.reshape(shape)


def _summed_products(np, g, x, columns):
    """The sum over n of g (n, groups, m, p) @ x (n, groups, k, p) transposed, piece by piece.

    It is g that is transposed, and copied, because OpenBLAS leaves products with x transposed to all of its threads.
    """
    whole = x.shape[-1] // columns * columns
    gt = np.ascontiguousarray(g.swapaxes(-1, -2))
    pieces = gt[:, :, :whole].reshape(g.shape[:2] + (-1, columns, g.shape[2]))
    total = np.add.reduce(np.matmul(_pieces(x, columns), pieces), (0, 2))
    if whole < x.shape[-1]:
        total += np.add.reduce(np.matmul(x[..., whole:], gt[:, :, whole:]), 0)
    return total.swapaxes(-1, -2)


# --------------------------------------------------------------------------------------------------- batching rules
def _with_batch(xp, batched, arrays):
    """All arrays with a leading axis of the batch's size."""
    size = next(a.shape[0] for a, b in zip(arrays, batched) if b)
    return size, [a if b else xp.broadcast_to(a, (size, *a.shape)) for a, b in zip(arrays, batched)]


def _fold_channels(xp, x):
    """(B, N, C, ...) -> (N, B * C, ...): a batch as groups."""
    x = xp.moveaxis(x, 0, 1)
    return xp.reshape(x, (x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:]))


def _unfold_channels(xp, y, size):
    y = xp.reshape(y, (y.shape[0], size, y.shape[1] // size, *y.shape[2:]))
    return xp.moveaxis(y, 1, 0)


def _fold(xp, x):
    return xp.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


def _conv_batch(xp, batched, inputs, statics):
    x, w, b = inputs
    *rest, groups = statics
    if b is not None and (batched[1] or batched[2]):
        y = _conv_batch(xp, batched[:2] + (False,), (x, w, None), statics) if any(batched[:2]) else (
            xp.conv(x, w, None, *statics))
        tail = (1,) * (len(y.shape) - 3 + (not any(batched[:2])))
        return y + xp.reshape(b, ((b.shape[0], 1, b.shape[1]) if batched[2] else (1, 1, b.shape[0])) + tail)
    if not batched[1]:
        y = xp.conv(_fold(xp, x), w, b, *statics)
        return xp.reshape(y, (x.shape[0], x.shape[1], *y.shape[1:]))
    size, (x, w) = _with_batch(xp, batched[:2], (x, w))
    y = xp.conv(_fold_channels(xp, x), _fold(xp, w), None, *rest, groups * size)
    return _unfold_channels(xp, y, size)


def _input_grad_batch(xp, batched, inputs, statics):
    g, w = inputs
    *rest, groups = statics
    if not batched[1]:
        x = xp.conv_input_grad(_fold(xp, g), w, *statics)
        return xp.reshape(x, (g.shape[0], g.shape[1], *x.shape[1:]))
    size, (g, w) = _with_batch(xp, batched, inputs)
    return _unfold_channels(xp, xp.conv_input_grad(_fold_channels(xp, g), _fold(xp, w), *rest, groups * size), size)


def _weight_grad_batch(xp, batched, inputs, statics):
    *rest, groups = statics
    size, (x, g) = _with_batch(xp, batched, inputs)
    w = xp.conv_weight_grad(_fold_channels(xp, x), _fold_channels(xp, g), *rest, groups * size)
    return xp.reshape(w, (size, w.shape[0] // size, *w.shape[1:]))


# ------------------------------------------------------------------------------------------------------------- rows
def _describe(x):
    return f"{x.dtype}{list(x.shape)}"


def _check(x, w, b, stride, padding, dilation, groups):
    if b is None or b.shape == w.shape[:1]:
        known = _fits if type(padding) is type(dilation) is tuple and list not in map(type, padding) else (
            _fits.__wrapped__)  # lists cannot be looked up
        if known(x.shape, w.shape, padding, dilation, groups):
            return stride, padding, dilation, groups
    call = f"conv(x={_describe(x)}, w={_describe(w)}, groups={groups})"
    if x.ndim < 3 or w.ndim != x.ndim:
        raise ShapeError(f"{call}: x has shape (N, C, ...) and w (O, C / groups, ...) with as many spatial axes")
    if w.shape[1] * groups != x.shape[1]:
        raise ShapeError(f"{call}: x has {x.shape[1]} channels (axis 1), but w takes {w.shape[1]} x {groups} groups = "
                         f"{w.shape[1] * groups}; channels come before the spatial axes (for channels-last data write "
                         "moveaxis(x, -1, 1))")
    if w.shape[0] % groups:
        raise ShapeError(f"{call}: the {w.shape[0]} output channels do not divide into {groups} groups")
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"{call}: the bias has shape {b.shape}, expected ({w.shape[0]},): one for each output channel")
    for i, (n, k, (lo, hi), d) in enumerate(zip(x.shape[2:], w.shape[2:], padding, dilation)):
        if d * (k - 1) + 1 > n + lo + hi:
            raise ShapeError(f"{call}: the kernel covers {d * (k - 1) + 1} positions of spatial axis {i}, which "
                             f"has only {n + lo + hi} with padding; use a smaller kernel or more padding")
    return stride, padding, dilation, groups


@lru_cache(256)
def _fits(x, w, padding, dilation, groups):
    """Whether arrays of these shapes can be convolved."""
    return len(w) == len(x) > 2 and w[1] * groups == x[1] and not w[0] % groups and all(
        d * (k - 1) + 1 <= n + lo + hi for n, k, (lo, hi), d in zip(x[2:], w[2:], padding, dilation))


_STATICS = "stride, padding, dilation, groups"


def _samples(kind):
    cases = [((2, 3, 6, 5), (4, 3, 3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 1),
             ((2, 4, 7), (6, 2, 3), (2,), ((1, 0),), (2,), 2),
             ((2, 3, 5, 5), (3, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
             ((1, 2, 4, 4), (3, 2, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1)]

    def make(s):
        out = []
        for x, w, stride, padding, dilation, groups in cases:
            sizes, kernel = x[2:], w[2:]
            g = (x[0], w[0]) + _outer_sizes(sizes, kernel, stride, padding, dilation)
            st = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            if kind == "conv":
                out.append(((s(*x), s(*w), s(w[0])), st))
            elif kind == "input":
                out.append(((s(*g), s(*w)), {"size": sizes} | st))
            else:
                out.append(((s(*x), s(*g)), {"kernel": kernel} | st))
        return out
    return make


def _bias_tangent(xp, t, y):
    return xp.broadcast_to(xp.reshape(t, (1, -1) + (1,) * (len(y.shape) - 2)), y.shape)


conv = Op(
    f"conv(x, w, b; {_STATICS}) -> y", _conv, takes="ifc", widen=True, kind="conv", check=_check, error=16.0,
    vjp={"x": lambda xp, g, w, x_shape, stride, padding, dilation, groups: xp.conv_input_grad(
            g, w, x_shape[2:], stride, padding, dilation, groups),
         "w": lambda xp, g, x, w_shape, stride, padding, dilation, groups: xp.conv_weight_grad(
             x, g, w_shape[2:], stride, padding, dilation, groups),
         "b": lambda xp, g: xp.sum(g, axis=(0, *range(2, len(g.shape))))},
    jvp={"x": lambda xp, t, w, stride, padding, dilation, groups: xp.conv(
            t, w, None, stride, padding, dilation, groups),
         "w": lambda xp, t, x, stride, padding, dilation, groups: xp.conv(
             x, t, None, stride, padding, dilation, groups),
         "b": _bias_tangent},
    batch=_conv_batch, samples=_samples("conv"),
    doc="Cross-correlation of x (N, C, ...) with w (O, C / groups, ...), plus b (O,) or None. `padding` holds a pair "
        "(before, after) for each spatial axis. What conv1d, conv2d and conv3d run.")
conv_input_grad = Op(
    f"conv_input_grad(g, w; size, {_STATICS}) -> x", _conv_input_grad, takes="ifc", widen=True, kind="conv", error=16.0,
    vjp={"g": lambda xp, g, w, stride, padding, dilation, groups: xp.conv(
            g, w, None, stride, padding, dilation, groups),
         "w": lambda xp, h, g, w_shape, stride, padding, dilation, groups: xp.conv_weight_grad(
             h, g, w_shape[2:], stride, padding, dilation, groups)},
    jvp={"g": lambda xp, t, w, size, stride, padding, dilation, groups: xp.conv_input_grad(
            t, w, size, stride, padding, dilation, groups),
         "w": lambda xp, t, g, size, stride, padding, dilation, groups: xp.conv_input_grad(
             g, t, size, stride, padding, dilation, groups)},
    batch=_input_grad_batch, samples=_samples("input"),
    doc="The transpose of `conv` in its input, of spatial sizes `size`: the gradient of x, and the transposed "
        "convolution.")
conv_weight_grad = Op(
    f"conv_weight_grad(x, g; kernel, {_STATICS}) -> w", _conv_weight_grad, takes="ifc", widen=True, kind="conv",
    error=16.0,
    vjp={"x": lambda xp, h, g, x_shape, stride, padding, dilation, groups: xp.conv_input_grad(
            g, h, x_shape[2:], stride, padding, dilation, groups),
         "g": lambda xp, h, x, stride, padding, dilation, groups: xp.conv(
             x, h, None, stride, padding, dilation, groups)},
    jvp={"x": lambda xp, t, g, kernel, stride, padding, dilation, groups: xp.conv_weight_grad(
            t, g, kernel, stride, padding, dilation, groups),
         "g": lambda xp, t, x, kernel, stride, padding, dilation, groups: xp.conv_weight_grad(
             x, t, kernel, stride, padding, dilation, groups)},
    batch=_weight_grad_batch, samples=_samples("weight"),
    doc="The transpose of `conv` in its weights, with kernel sizes `kernel`: the gradient of w.")


# ------------------------------------------------------------------------------------------------- public functions
def each_axis(name, what, value, rank, least):
    """`value` as one whole number for each of `rank` axes, at least `least`."""
    given = value
    try:
        value = tuple(map(index, value)) if isinstance(value, (tuple, list)) else (index(value),) * rank
    except TypeError:
        raise ArgumentTypeError(f"{name}: {what}={given!r}; give a whole number or a tuple of {rank}") from None
    if len(value) == 1:
        value *= rank
    if len(value) != rank or min(value, default=least) < least:
        raise ArgumentError(f"{name}: {what}={given!r}; give a whole number of at least {least}, or a tuple of {rank} "
                            "such numbers, one for each spatial axis")
    return value


def batched_form(xp, name, x, rank):
    """x with an axis of samples, and whether one was added."""
    n = len(x.shape)
    if n not in (rank + 1, rank + 2):
        raise ShapeError(f"{name}(x={_describe(x)}): x has shape (N, C, {', '.join('DHW'[-rank:])}), or the same "
                         f"without N: {rank + 2} or {rank + 1} axes, not {n}")
    return (xp.expand_dims(x, axis=0), True) if n == rank + 1 else (x, False)


def _pairs(name, padding, kernel, stride, dilation):
    rank = len(kernel)
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ArgumentError(f"{name}: padding='same' is defined for stride 1 only, not {stride}; give the "
                                "padding in numbers")
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise ArgumentError(f"{name}: padding={padding!r}; use 'same', 'valid', a whole number or a tuple of them")
    if not isinstance(padding, int) and padding and all(isinstance(p, (tuple, list)) for p in padding):
        if len(padding) != rank or any(len(p) != 2 or min(p) < 0 for p in padding):
            raise ArgumentError(f"{name}: padding={padding!r}; as pairs it holds (before, after) for each of {rank} "
                                "axes")
        return tuple((int(lo), int(hi)) for lo, hi in padding)
    return tuple((p, p) for p in each_axis(name, "padding", padding, rank, 0))


def _groups(name, groups):
    if not isinstance(groups, int) or groups < 1:
        raise ArgumentError(f"{name}: groups={groups!r}; give a whole number of at least 1")


def _windows(name, rank, kernel, stride, padding, dilation):
    """Stride, padding pairs and dilation for each spatial axis."""
    stride = each_axis(name, "stride", stride, rank, 1)
    dilation = each_axis(name, "dilation", dilation, rank, 1)
    return stride, _pairs(name, padding, kernel, stride, dilation), dilation


_known = lru_cache(256)(_windows)  # for whole numbers


def _forward(xp, rank, x, w, b, stride, padding, dilation, groups):
    name = f"conv{rank}d"
    _groups(name, groups)
    if len(w.shape) != rank + 2:
        raise ShapeError(f"{name}(x={_describe(x)}, weight={_describe(w)}): the weight has shape (out channels, "
                         f"in channels / groups, {', '.join('k' + a for a in 'DHW'[-rank:])}): {rank + 2} axes")
    x, single = batched_form(xp, name, x, rank)
    known = _known if type(stride) is type(padding) is type(dilation) is int else _windows
    y = xp.conv(x, w, b, *known(name, rank, w.shape[2:], stride, padding, dilation), groups)
    return xp.squeeze(y, axis=0) if single else y


@composite
def conv1d(xp, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of x (N, C, L) or (C, L) with weight (O, C / groups, k), plus bias (O,).

    `padding` is a number, (before, after) pairs, 'valid' or 'same' (stride 1). The length is
    floor((L + 2p - d(k-1) - 1)/s) + 1.
    """
    return _forward(xp, 1, x, weight, bias, stride, padding, dilation, groups)


@composite
def conv2d(xp, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of x (N, C, H, W) or (C, H, W) with weight (O, C / groups, kH, kW), plus bias (O,).

    stride, padding and dilation are numbers or (H, W) tuples; `padding` may also be 'valid', 'same' (stride 1) or a
    (before, after) pair for each axis.
    """
    return _forward(xp, 2, x, weight, bias, stride, padding, dilation, groups)


@composite
def conv3d(xp, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of x (N, C, D, H, W) or (C, D, H, W) with weight (O, C / groups, kD, kH, kW): see conv2d."""
    return _forward(xp, 3, x, weight, bias, stride, padding, dilation, groups)


def _transpose(xp, rank, x, w, b, stride, padding, output_padding, groups, dilation):
    name = f"conv_transpose{rank}d"
    _groups(name, groups)
    if len(w.shape) != rank + 2:
        raise ShapeError(f"{name}(x={_describe(x)}, weight={_describe(w)}): the weight has shape (in channels, "
                         f"out channels / groups, {', '.join('k' + a for a in 'DHW'[-rank:])}): {rank + 2} axes")
    x, single = batched_form(xp, name, x, rank)
    if w.shape[0] != x.shape[1] or x.shape[1] % groups:
        raise ShapeError(f"{name}(x={_describe(x)}, weight={_describe(w)}, groups={groups}): axis 0 of the weight is "
                         "the number of input channels (axis 1 of x), which `groups` divides")
    if b is not None and b.shape != (w.shape[1] * groups,):
        raise ShapeError(f"{name}: the bias has shape {b.shape}, expected ({w.shape[1] * groups},)")
    stride = each_axis(name, "stride", stride, rank, 1)
    dilation = each_axis(name, "dilation", dilation, rank, 1)
    padding = each_axis(name, "padding", padding, rank, 0)
    extra = each_axis(name, "output_padding", output_padding, rank, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation)):
        raise ArgumentError(f"{name}: output_padding={extra}; it must be smaller than the stride {stride} or the "
                            f"dilation {dilation}")
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1
                 for n, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, w.shape[2:], extra))
    if min(size) < 0:
        raise ShapeError(f"{name}(x={_describe(x)}, weight={_describe(w)}, padding={padding}): the result would have "
                         f"spatial sizes {size}; use less padding")
    y = xp.conv_input_grad(x, w, size, stride, tuple((p, p) for p in padding), dilation, groups)
    if b is not None:
        y = y + xp.reshape(b, (-1,) + (1,) * rank)
    return xp.squeeze(y, axis=0) if single else y


@composite
def conv_transpose1d(xp, x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution of x (N, C, L) with weight (C, O / groups, k): the gradient of conv1d as a forward pass.

    Length (L - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1.
    """
    return _transpose(xp, 1, x, weight, bias, stride, padding, output_padding, groups, dilation)


@composite
def conv_transpose2d(xp, x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution of x (N, C, H, W) with weight (C, O / groups, kH, kW): see conv_transpose1d for sizes."""
    return _transpose(xp, 2, x, weight, bias, stride, padding, output_padding, groups, dilation)


@composite
def conv_transpose3d(xp, x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution of x (N, C, D, H, W) with weight (C, O / groups, kD, kH, kW): see conv_transpose1d."""
    return _transpose(xp, 3, x, weight, bias, stride, padding, output_padding, groups, dilation)
