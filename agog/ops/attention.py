"""Scaled dot-product attention and embeddings."""

from __future__ import annotations

import math

import numpy as np

from agog.errors import ArgumentError, DTypeError, IndexingError, ShapeError
from agog.ops import axes as ax
from agog.ops.blocks import BLOCK, WORTH_THREADS, fresh, in_float32, native, share, small_product
from agog.ops.gathering import add_rows
from agog.ops.namespaces import raw
from agog.ops.row import Op, composite


def _describe(x):
    return f"{x.dtype}{list(x.shape)}"


# ---------------------------------------------------------------------------------------------------------- attention
def _causal(np, rows, columns, dtype):
    """0 where column <= row, -inf elsewhere."""
    return np.triu(np.full((rows, columns), -np.inf, dtype), 1)


def _merge(x):
    """(..., L, E) -> (B, L, E)"""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _transposed(x):
    """(B, S, E) -> (B, E, S), copied: see `small_product`."""
    return np.ascontiguousarray(x.swapaxes(1, 2))


def _product(a, b, out):
    """out = a @ b for stacks of matrices, in pieces of rows that each take one thread."""
    (_, rows, k), columns = a.shape, b.shape[2]
    step = small_product() // max(1, k * columns)
    if step >= rows or step < 16:
        return np.matmul(a, b, out=out)
    step = -(-rows // -(-rows // step))
    whole = rows // step * step
    np.matmul(_piece(a[:, :whole], step), b[:, None], out=_piece(out[:, :whole], step))
    if whole < rows:
        np.matmul(a[:, whole:], b, out=out[:, whole:])
    return out


def _piece(x, step):
    return x.reshape(x.shape[0], x.shape[1] // step, step, x.shape[2])


class _Blocks:
    """Blocks of heads whose scores stay in the cache, and the masks that belong to them."""

    def __init__(self, xs, is_causal, scale):
        q, k, v, *mask = xs
        self.q, self.k, self.v = _merge(q), _merge(k), _merge(v)
        self.kt = _transposed(self.k)
        self.scale = scale
        (self.heads, self.rows, _), self.columns = self.q.shape, self.k.shape[1]
        size = self.rows * self.columns
        self.step = max(1, BLOCK // max(1, size))
        self.mask = None
        if mask:
            m = mask[0]
            lead = np.broadcast_shapes(m.shape[:-2], q.shape[:-2])
            if math.prod(m.shape[:-2]) == 1:
                self.mask, self.shared = m.reshape(m.shape[-2:]), True
            else:
                self.mask, self.shared = _merge(np.broadcast_to(m, lead + m.shape[-2:])), False
        elif is_causal:
            self.mask, self.shared = _causal(np, self.rows, self.columns, q.dtype), True

    def share(self, run):
        """run(blocks of heads) on the threads that are worth it."""
        blocks = [slice(i, min(i + self.step, self.heads)) for i in range(0, self.heads, self.step)]
        share(blocks, run, self.q.size * self.columns > WORTH_THREADS)

    def weights(self, at, buffer):
        """Unnormalised attention weights of some heads, in `buffer`, and their sums: (n, L, S), (n, L, 1).

        A row with everything masked gets zeros.
        """
        q = self.q[at] * self.scale
        s = _product(q, self.kt[at], buffer[:q.shape[0]])
        if self.mask is not None:
            s += self.mask if self.shared else self.mask[at]
        top = np.maximum.reduce(s, 2, None, None, True)
        if self.mask is not None:
            top[np.isneginf(top)] = 0
        s -= top
        np.exp(s, s)
        total = np.add.reduce(s, 2, None, None, True)
        if self.mask is not None:
            total[total == 0] = 1
        return q, s, total


def _attention(np, *args):
    *xs, is_causal, scale = args
    q, v = xs[0], xs[2]
    shape = q.shape[:-1] + v.shape[-1:]
    if not math.prod(shape) or not xs[1].shape[-2]:
        return np.zeros(shape, q.dtype)
    if len(xs) == 3:
        done = native(np, "attention", 4 * q.size * xs[1].shape[-2], *xs, is_causal, scale)
        if done is not None:
            return done
    y = fresh(np, shape, q.dtype)
    blocks = _Blocks(xs, is_causal, scale)
    out = y.reshape(blocks.heads, blocks.rows, -1)

    def run(todo):
        buffer = np.empty((blocks.step, blocks.rows, blocks.columns), q.dtype)
        for at in todo:
            _, s, total = blocks.weights(at, buffer)
            part = _product(s, blocks.v[at], out[at])
            part /= total

    blocks.share(run)
    return y


@in_float32
def _attention_grad(g, xs, y, is_causal, scale):
    """Cotangents of q, k, v and the mask; the weights are computed again, block by block."""
    if not y.size or not xs[1].shape[-2]:
        return [np.zeros(x.shape, x.dtype) for x in xs]
    if len(xs) == 3:
        done = native(np, "attention_grad", 10 * xs[0].size * xs[1].shape[-2], *xs, g, is_causal, scale)
        if done is not None:
            return done
    blocks = _Blocks(xs, is_causal, scale)
    gs, ys = _merge(g), _merge(y)
    dq, dk, dv = (fresh(np, x.shape, x.dtype) for x in (blocks.q, blocks.k, blocks.v))
    vt = _transposed(blocks.v)
    dmask, shared = None, {}
    if len(xs) > 3 and not blocks.shared:
        dmask = np.empty((blocks.heads, blocks.rows, blocks.columns), y.dtype)

    def run(todo):
        buffer, slopes = np.empty((2, blocks.step, blocks.rows, blocks.columns), y.dtype)
        for at in todo:
            q, p, total = blocks.weights(at, buffer)
            p /= total
            part = gs[at]
            _product(p.swapaxes(1, 2), part, dv[at])
            ds = _product(part, vt[at], slopes[:p.shape[0]])
            ds -= np.vecdot(part, ys[at])[:, :, None]
            ds *= p
            if dmask is not None:
                dmask[at] = ds
            elif len(xs) > 3:
                shared[at.start] = _fold(np.add.reduce(ds, 0), blocks.mask.shape)
            _product(ds, blocks.k[at], dq[at])
            _product(ds.swapaxes(1, 2), q, dk[at])

    blocks.share(run)
    if shared:
        dmask = np.add.reduce([shared[i] for i in sorted(shared)], 0)
    dq *= scale
    found = [dq.reshape(xs[0].shape), dk.reshape(xs[1].shape), dv.reshape(xs[2].shape)]
    if dmask is not None:
        lead = () if blocks.shared else np.broadcast_shapes(xs[3].shape[:-2], xs[0].shape[:-2])
        found.append(_fold(dmask.reshape(lead + dmask.shape[-2:]), xs[3].shape))
    return found


def _fold(x, shape):
    """Sum x to a shape that broadcasts to it."""
    lead = x.ndim - len(shape)
    if lead > 0:
        x = np.add.reduce(x, tuple(range(lead)))
    axes = tuple(i - len(shape) for i, n in enumerate(shape) if n == 1 and i - len(shape) >= -x.ndim
                 and x.shape[i - len(shape)] != 1)
    return (np.add.reduce(x, axes, None, None, True) if axes else x).reshape(shape)


def _attention_rule(xp, g, xs, y, is_causal, scale):
    if xp is raw:
        return _attention_grad(g, xs, y, is_causal, scale)
    q, k, v, *mask = xs
    if not mask:
        return xp._attention_grad(g, q, k, v, is_causal=is_causal, scale=scale)
    p = _weights(xp, q, k, mask[0], False, scale)
    dv = xp.matmul(xp.matrix_transpose(p), g)
    ds = xp.matmul(g, xp.matrix_transpose(v))
    ds = (ds - xp.sum(g * y, axis=-1, keepdims=True)) * p
    return [xp.matmul(ds, k) * scale, xp.matmul(xp.matrix_transpose(ds), q) * scale, dv, xp.sum_to(ds, mask[0].shape)]


def _weights(xp, q, k, mask, is_causal, scale):
    """softmax(q @ k.mT * scale + mask); zeros for rows with everything masked."""
    s = xp.matmul(q, xp.matrix_transpose(k)) * scale
    if mask is not None:
        s = s + mask
    elif is_causal:
        s = xp.where(_allowed(xp, q.shape[-2], k.shape[-2]), s, -math.inf)
    if mask is None and not is_causal or not s.shape[-1]:
        return xp.softmax(s, axis=-1)
    top = xp.max(s, axis=-1, keepdims=True)
    s = xp.where(top > -math.inf, s, 0.0)
    return xp.softmax(s, axis=-1) * xp.astype(top > -math.inf, q.dtype)


def attention_slopes(xp, g, q, k, v, is_causal, scale):
    """The row `_attention_grad` in other rows."""
    t = xp.matrix_transpose
    p = _weights(xp, q, k, None, is_causal, scale)
    dp = xp.matmul(g, t(v))
    ds = (dp - xp.sum(dp * p, axis=-1, keepdims=True)) * p
    return xp.matmul(ds, k) * scale, xp.matmul(t(ds), q) * scale, xp.matmul(t(p), g)


def _second(which):
    """The rule of an input of `_attention_grad`, given the cotangents (a, b, c) of dq, dk, dv.

    With p the weights, dp = g v.mT, ds = p (dp - sum(dp p)): e = scale (a k.mT + q b.mT) is the cotangent of ds,
    f = p (e - sum(p e)) that of dp, and u that of the scores.
    """
    def rule(xp, h, g, q, k, v, is_causal, scale):
        a, b, c = h
        t = xp.matrix_transpose
        over = lambda x: xp.sum(x, axis=-1, keepdims=True)
        p = _weights(xp, q, k, None, is_causal, scale)
        e = (xp.matmul(a, t(k)) + xp.matmul(q, t(b))) * scale
        r = over(p * e)
        f = p * (e - r)
        if which == "g":
            return xp.matmul(p, c) + xp.matmul(f, v)
        if which == "v":
            return xp.matmul(t(f), g)
        dp = xp.matmul(g, t(v))
        centred = dp - over(dp * p)
        ds = centred * p
        at_p = xp.matmul(g, t(c)) + e * centred - r * dp
        u = p * (at_p - over(at_p * p))
        if which == "q":
            return (xp.matmul(ds, b) + xp.matmul(u, k)) * scale
        return (xp.matmul(t(ds), a) + xp.matmul(t(u), q)) * scale

    return rule


def _allowed(xp, rows, columns):
    return xp.expand_dims(xp.arange(rows), axis=1) >= xp.arange(columns)


def _attention_batch(xp, batched, inputs, statics):
    size = next(a.shape[0] for a, b in zip(inputs, batched) if b)
    full = [a if b else xp.broadcast_to(a, (size, *a.shape)) for a, b in zip(inputs[:3], batched)]
    for mask, b in zip(inputs[3:], batched[3:]):
        if b:
            rank = len(full[0].shape) - 1
            mask = xp.reshape(mask, (size,) + (1,) * (rank - len(mask.shape) + 1) + tuple(mask.shape[1:]))
        full.append(mask)
    return xp._attention(*full, is_causal=statics[0], scale=statics[1])


def _grads(np, g, q, k, v, is_causal, scale):
    y = _attention(np, q, k, v, is_causal, scale)
    return tuple(_attention_grad(g, (q, k, v), y, is_causal, scale))


def _grad_batch(xp, batched, inputs, statics):
    size = next(a.shape[0] for a, b in zip(inputs, batched) if b)
    full = [a if b else xp.broadcast_to(a, (size, *a.shape)) for a, b in zip(inputs, batched)]
    return xp._attention_grad(*full, is_causal=statics[0], scale=statics[1])


Op(
    "_attention_grad(g, q, k, v; is_causal=False, scale=1.0) -> dq, dk, dv", _grads, takes="f", to_float=True,
    vjp={name: _second(name) for name in "gqkv"}, widen=True, kind="attention", batch=_grad_batch, error=64.0,
    samples=lambda s: [((s(2, 3, 3), s(2, 3, 4), s(2, 5, 4), s(2, 5, 3)), {"scale": 0.5}),
                       ((s(4, 2), s(4, 2), s(4, 2), s(4, 2)), {"is_causal": True})],
    doc="The gradients of `_attention` at q, k and v, from that at its result.")
Op(
    "_attention(*xs; is_causal=False, scale=1.0) -> y", _attention, vjp={"xs": _attention_rule}, takes="f",
    to_float=True, widen=True, kind="attention", batch=_attention_batch, error=32.0,
    samples=lambda s: [((s(2, 3, 4), s(2, 5, 4), s(2, 5, 3)), {"scale": 0.5}),
                       ((s(4, 2), s(4, 2), s(4, 2)), {"is_causal": True}),
                       ((s(2, 2, 3, 2), s(2, 2, 4, 2), s(2, 2, 4, 2), s(2, 1, 3, 4)), {})],
    doc="softmax(q @ k.mT * scale + mask) @ v for xs = (q, k, v) or (q, k, v, mask) of shapes (..., L, E), (..., S, "
        "E), "
        "(..., S, V) and a mask that broadcasts to (..., L, S). What `scaled_dot_product_attention` runs.")


@composite(samples=lambda s: [((s(2, 3, 4), s(2, 5, 4), s(2, 5, 3)), {}),
                              ((s(2, 4, 3), s(2, 4, 3), s(2, 4, 3)), {"is_causal": True}),
                              ((s(4, 3, 2), s(2, 5, 2), s(2, 5, 3)), {"enable_gqa": True})])
def scaled_dot_product_attention(xp, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None,
                                 enable_gqa=False):
    """softmax(query @ key.mT * scale + mask) @ value, without keeping the scores.

    Shapes: query (..., L, E), key (..., S, E), value (..., S, V), result (..., L, V); leading axes broadcast.
    attn_mask   broadcasts to (..., L, S): bool (True takes part) or float (added to the scores)
    dropout_p   0 for this function, which knows no random numbers
    is_causal   position i attends to positions up to i only; not together with attn_mask
    scale       default 1/sqrt(E)
    enable_gqa  heads (the third axis from the end) of key and value serve several heads of query each
    A row that may attend to nothing gives zeros, as in torch. Vaswani et al. 2017, arXiv:1706.03762.
    """
    if dropout_p:
        raise ArgumentError(f"scaled_dot_product_attention: dropout_p={dropout_p} needs random numbers; call "
                            "ag.scaled_dot_product_attention on Tensors")
    query, key, value, mask, scale = attention_parts(xp, query, key, value, attn_mask, is_causal, scale, enable_gqa)
    if mask is None:
        return xp._attention(query, key, value, is_causal=bool(is_causal), scale=scale)
    return xp._attention(query, key, value, mask, is_causal=False, scale=scale)


def attention_parts(xp, query, key, value, attn_mask, is_causal, scale, enable_gqa):
    """(query, key, value, floating mask or None, scale), checked and of the same leading axes."""
    ax.flag("scaled_dot_product_attention", "is_causal", is_causal)
    if enable_gqa:
        key, value = (_serving(xp, query, x, name) for x, name in ((key, "key"), (value, "value")))
    call = (f"scaled_dot_product_attention(query={_describe(query)}, key={_describe(key)}, value={_describe(value)}"
            + (f", attn_mask={_describe(attn_mask)})" if attn_mask is not None else ")"))
    shapes = query.shape, key.shape, value.shape
    if min(map(len, shapes)) < 2 or shapes[0][-1] != shapes[1][-1] or shapes[1][-2] != shapes[2][-2]:
        raise ShapeError(f"{call}: the shapes are (..., L, E), (..., S, E) and (..., S, V): query and key share the "
                         "last "
                         "axis, key and value the second to last")
    if is_causal and attn_mask is not None:
        raise ArgumentError("scaled_dot_product_attention: give attn_mask or is_causal=True, not both; combine them "
                            "with "
                            "attn_mask & tril(ones(L, S))")
    lead = shapes[0][:-2]
    if not lead == shapes[1][:-2] == shapes[2][:-2]:
        try:
            lead = np.broadcast_shapes(*(s[:-2] for s in shapes))
        except ValueError:
            raise ShapeError(f"{call}: the leading axes (all but two) must broadcast together") from None
        query, key, value = (x if x.shape[:-2] == lead else xp.broadcast_to(x, (*lead, *x.shape[-2:]))
                             for x in (query, key, value))
    if scale is None:
        scale = 1.0 / math.sqrt(max(1, shapes[0][-1]))
    if attn_mask is None:
        return query, key, value, None, scale
    scores = (*lead, shapes[0][-2], shapes[1][-2])
    if len(attn_mask.shape) < 2:
        attn_mask = xp.reshape(attn_mask, (1,) * (2 - len(attn_mask.shape)) + tuple(attn_mask.shape))
    try:
        fits = np.broadcast_shapes(tuple(attn_mask.shape), scores) == scores
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"{call}: attn_mask must broadcast to the scores' shape {scores}")
    if attn_mask.dtype == np.bool_:
        attn_mask = xp.where(attn_mask, xp.zeros((), query.dtype), -math.inf)
    elif attn_mask.dtype.kind in "iu":
        raise DTypeError(f"{call}: an integer mask is ambiguous; write attn_mask.astype('bool') (True takes part), "
                         "or a "
                         "float mask that is added to the scores")
    return query, key, value, attn_mask, scale


def _serving(xp, query, x, name):
    """Heads of `x` repeated, so that each head of `query` has its own."""
    if len(query.shape) < 3 or len(x.shape) < 3 or not x.shape[-3] or query.shape[-3] % x.shape[-3]:
        raise ShapeError(f"scaled_dot_product_attention(query={_describe(query)}, {name}={_describe(x)}): with "
                         f"enable_gqa the heads of the {name} (axis -3) must divide those of the query")
    return x if x.shape[-3] == query.shape[-3] else xp.repeat(x, query.shape[-3] // x.shape[-3], axis=-3)


# ---------------------------------------------------------------------------------------------------------- embedding
_I64, _U64 = np.dtype(np.int64), np.dtype(np.uint64)


def _check_indices(indices, count, name="embedding"):
    if indices.size:
        if indices.dtype is _I64 and np.maximum.reduce(indices.view(_U64), None) < count:  # (negative ones are large)
            return
        low, high = indices.min(), indices.max()
        if low < 0 or high >= count:
            wrong = low if low < 0 else high
            raise IndexingError(f"{name}: index {wrong} is outside of the weight, which has {count} rows (0 to "
                                f"{count - 1})")


def _embedding(np, indices, weight, padding_idx):
    _check_indices(indices, weight.shape[0])
    return weight.take(indices, 0)


def _embedding_grad(np, indices, g, rows, padding_idx):
    flat = indices.reshape(-1)
    g = g.reshape(flat.size, math.prod(g.shape[indices.ndim:]))
    if padding_idx is not None:
        keep = flat != padding_idx
        flat, g = flat[keep], g[keep]
    return add_rows(np, rows, flat, g)


def _embedding_check(indices, weight, padding_idx):
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"embedding(indices={_describe(indices)}, weight={_describe(weight)}): the first argument "
                         "holds "
                         "integers, the second the vectors (cast with indices.astype('int64'))")
    if weight.ndim != 2:
        raise ShapeError(f"embedding: weight has shape {weight.shape}, expected (number of rows, size of a vector)")
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise IndexingError(f"embedding: padding_idx={padding_idx} is outside of the weight, which has {rows} rows")
        padding_idx %= rows
    return (padding_idx,)


embedding = Op(
    "embedding(indices, weight; padding_idx=None) -> y", _embedding, promotes=(), kind="indexing",
    vjp={"weight": lambda xp, g, indices, weight_shape, padding_idx: xp._embedding_adjoint(
        indices, g, rows=weight_shape[0], padding_idx=padding_idx)},
    linear_in=("weight",),
    check=_embedding_check,
    samples=lambda s: [((s.ints(5, 2, 3), s(5, 4)), {}), ((s.ints(5, 6), s(5, 2)), {})],
    doc="Rows of weight (rows, D) at integer indices (...): result (..., D). Rows at padding_idx get no gradient. "
        "Raises "
        "IndexingError for an index outside 0..rows-1.")
Op(
    "_embedding_adjoint(indices, g; rows, padding_idx=None) -> w", _embedding_grad, promotes=(), kind="indexing",
    vjp={"g": lambda xp, h, indices, rows, padding_idx: xp.embedding(indices, _without(xp, h, rows, padding_idx))},
    linear_in=("g",),
    samples=lambda s: [((s.ints(5, 2, 3), s(2, 3, 4)), {"rows": 5}),
                       ((s.ints(5, 6), s(6, 2)), {"rows": 5, "padding_idx": 2})],
    doc="The transpose of `embedding`: rows of g (..., D) added up at their indices in an array (rows, D).")


def _without(xp, weight, rows, padding_idx):
    """The weight with zeros in row padding_idx."""
    if padding_idx is None:
        return weight
    return xp.where(xp.expand_dims(xp.arange(rows) != padding_idx, axis=1), weight, 0.0)
