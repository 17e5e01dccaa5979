"""Attention and transformer layers, with PyTorch's parameters and conventions."""

from __future__ import annotations

import copy
import math
from typing import Any, Callable

import agog as ag
from agog.errors import ArgumentError
from agog.nn import init
from agog.nn._check import bad_input, whole
from agog.nn._containers import ModuleList
from agog.nn._dropout import Dropout
from agog.nn._linear import Linear
from agog.nn._module import Module
from agog.nn._norm import LayerNorm
from agog.nn._parameter import Parameter


class MultiheadAttention(Module):
    """Attention with several heads (Vaswani et al., 2017).

    embed_dim    size of the queries and of the result, divided among num_heads heads
    dropout      probability of dropping an attention weight in training
    kdim, vdim   sizes of keys and values; default embed_dim
    add_bias_kv, add_zero_attn  one more key and value for all to attend to: learned ones, and zeros
    batch_first  shapes are (N, L, E); by default (L, N, E), as in PyTorch. Without N, (L, E), in both cases
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
                 vdim: int | None = None, batch_first: bool = False, *, dtype: Any = None, device: Any = None):
        self.embed_dim = whole("MultiheadAttention", "embed_dim", embed_dim)
        self.num_heads = whole("MultiheadAttention", "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ArgumentError(f"MultiheadAttention: num_heads={num_heads} must divide embed_dim={embed_dim}")
        self.dropout, self.batch_first, self.head_dim = dropout, batch_first, embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else whole("MultiheadAttention", "kdim", kdim)
        self.vdim = embed_dim if vdim is None else whole("MultiheadAttention", "vdim", vdim)
        kw = {"dtype": dtype, "device": device}
        self.joint = self.kdim == self.vdim == embed_dim
        if self.joint:
            self.in_proj_weight = Parameter(ag.empty(3 * embed_dim, embed_dim, **kw))
        else:
            self.q_proj_weight = Parameter(ag.empty(embed_dim, embed_dim, **kw))
            self.k_proj_weight = Parameter(ag.empty(embed_dim, self.kdim, **kw))
            self.v_proj_weight = Parameter(ag.empty(embed_dim, self.vdim, **kw))
        self.in_proj_bias = Parameter(ag.empty(3 * embed_dim, **kw)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, **kw)
        self.bias_k = Parameter(ag.empty(1, 1, embed_dim, **kw)) if add_bias_kv else None
        self.bias_v = Parameter(ag.empty(1, 1, embed_dim, **kw)) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New random values: Xavier uniform, biases zero."""
        for name, p in self._own("parameter"):
            if name in ("bias_k", "bias_v"):
                init.xavier_normal_(p)
            elif name != "in_proj_bias":
                init.xavier_uniform_(p)
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def _project(self, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
        e, b = self.embed_dim, self.in_proj_bias
        if self.joint and query is key and key is value:
            return tuple(ag.split(ag.linear(query, self.in_proj_weight, b), 3, axis=-1))  # type: ignore[return-value]
        weights = (tuple(ag.split(self.in_proj_weight, 3, axis=0)) if self.joint else
                   (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight))
        biases = (None,) * 3 if b is None else (b[:e], b[e:2 * e], b[2 * e:])
        q, k, v = (ag.linear(x, w, c) for x, w, c in zip((query, key, value), weights, biases))
        return q, k, v

    def forward(self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
                attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False) -> tuple[Any, Any]:
        """(result, weights or None).

        key_padding_mask  (N, S), True where a key is padding; or floats that are added to the scores
        attn_mask         (L, S) or (N * heads, L, S), True where attention is *not* allowed; or floats that are added
        need_weights      also return the weights (N, L, S), averaged over the heads or (N, heads, L, S); slower
        is_causal         each position attends to itself and those before it
        """
        same = query is key and key is value
        for x, name, size in ((query, "query", self.embed_dim), (key, "key", self.kdim), (value, "value", self.vdim)):
            if x.ndim not in (2, 3) or x.ndim != query.ndim or x.shape[-1] != size:
                raise bad_input(self, x, f"{'(N, L, ' if self.batch_first else '(L, N, '}{size}) for the {name}")
        batched = query.ndim == 3
        if not batched:
            query, key, value = (ag.expand_dims(x, axis=0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (ag.swapaxes(x, 0, 1) for x in (query, key, value))
        if same:
            key = value = query
        q, k, v = (self._heads(x) for x in self._project(query, key, value))
        mask, weights = self._mask(q, k, key_padding_mask, attn_mask), None
        explicit = need_weights or (self.dropout and self.training)
        more = self.bias_k is not None or self.add_zero_attn
        if is_causal and (explicit or mask is not None or more):
            causal = ag.triu(ag.full((q.shape[-2], k.shape[-2]), -math.inf, dtype=q.dtype), k=1)
            mask = causal if mask is None else mask + causal
        if more:
            k, v, mask = self._with_more(k, v, mask)
        if explicit:
            scores = (q / math.sqrt(self.head_dim)) @ ag.matrix_transpose(k)
            weights = ag.softmax(scores if mask is None else scores + mask, axis=-1)
            if self.dropout and self.training:
                weights = ag.dropout(weights, self.dropout, training=True)
            y = weights @ v
        else:
            y = ag.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal and mask is None)
        y = ag.reshape(ag.swapaxes(y, 1, 2), (y.shape[0], y.shape[2], self.embed_dim))
        y = self.out_proj(y)
        if weights is not None and average_attn_weights:
            weights = ag.mean(weights, axis=1)
        if not need_weights:
            weights = None
        if not batched:
            return y[0], weights if weights is None else weights[0]
        return (y if self.batch_first else ag.swapaxes(y, 0, 1)), weights

    def _with_more(self, k: Any, v: Any, mask: Any) -> tuple[Any, Any, Any]:
        """Keys, values and mask with those that are always there behind them."""
        n, before = k.shape[0], k.shape[2]
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (ag.concat([x, self._heads(ag.broadcast_to(b, (n, 1, self.embed_dim)))], axis=2)
                    for x, b in ((k, self.bias_k), (v, self.bias_v)))
        if self.add_zero_attn:
            k, v = (ag.pad(x, {2: (0, 1)}) for x in (k, v))
        return k, v, mask if mask is None else ag.pad(mask, {-1: (0, k.shape[2] - before)})

    def _heads(self, x: Any) -> Any:
        return ag.swapaxes(ag.reshape(x, (x.shape[0], x.shape[1], self.num_heads, self.head_dim)), 1, 2)

    def _mask(self, q: Any, k: Any, padding: Any, mask: Any) -> Any:
        """Both masks as one float mask to add to the scores, or None."""
        n, h, length, source = q.shape[0], q.shape[1], q.shape[-2], k.shape[-2]
        total = None
        if mask is not None:
            mask = _additive(mask, q)
            if mask.shape not in ((length, source), (n * h, length, source), (n, h, length, source)):
                raise bad_input(self, mask, f"({length}, {source}) or ({n * h}, {length}, {source}) for attn_mask")
            if mask.ndim == 3:
                mask = ag.reshape(mask, (n, h, length, source))
            total = mask
        if padding is not None:
            padding = _additive(padding, q)
            if padding.shape not in ((n, source), (source,)):
                raise bad_input(self, padding, f"({n}, {source}) for key_padding_mask")
            padding = ag.reshape(padding, (-1, 1, 1, source))
            total = padding if total is None else total + padding
        return total

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _additive(mask: Any, like: Any) -> Any:
    mask = ag.asarray(mask)
    return ag.where(mask, ag.full((), -math.inf, dtype=like.dtype), 0.0) if mask.dtype == ag.bool else mask


def _activation(given: Any) -> Callable[[Any], Any]:
    if callable(given):
        return given
    if given in ("relu", "gelu", "silu", "tanh"):
        return getattr(ag, given)
    raise ArgumentError(f"activation={given!r}: give a function, or 'relu', 'gelu', 'silu' or 'tanh'")


class _TransformerLayer(Module):
    """Attentions, then a feed-forward network, each with its norm and dropout."""

    _attentions: tuple[str, ...] = ("self_attn",)
    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm
    dropout1: Dropout
    dropout2: Dropout

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: Any = "relu",
                 layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
                 *,
                 dtype: Any = None, device: Any = None):
        kw = {"dtype": dtype, "device": device}
        for name in self._attentions:
            setattr(self, name, MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **kw))
        self.linear1 = Linear(d_model, dim_feedforward, bias, **kw)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **kw)
        self.norm_first = norm_first
        parts = range(1, len(self._attentions) + 2)
        for i in parts:
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **kw))
        for i in parts:
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = activation
        _activation(activation)

    def _feed(self, x: Any) -> Any:
        return self.linear2(self.dropout(_activation(self.activation)(self.linear1(x))))


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention and a feed-forward network, each with a residual connection and layer norm.

    activation   "relu", "gelu", "silu", "tanh" or a function
    norm_first   normalise before each part instead of after it
    batch_first  shapes are (N, L, d_model); by default (L, N, d_model), as in PyTorch
    """

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        def attend(x: Any) -> Any:
            return self.dropout1(self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0])

        def feed(x: Any) -> Any:
            return self.dropout2(self._feed(x))

        x = src
        if self.norm_first:
            x = x + attend(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attend(x))
        return self.norm2(x + feed(x))


class TransformerEncoder(Module):
    """`num_layers` copies of `encoder_layer`, one after another, then `norm` if given."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None):
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(whole("TransformerEncoder", "num_layers",
                                                                                    num_layers))])
        self.norm = norm

    def forward(self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """`num_layers` copies of a decoder layer, one after the other, and a norm at the end."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None):
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(whole("TransformerDecoder", "num_layers",
                                                                                    num_layers))])
        self.norm = norm

    def forward(self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
                tgt_is_causal: bool = False) -> Any:
        for layer in self.layers:
            tgt = layer(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
                        tgt_is_causal)
        return tgt if self.norm is None else self.norm(tgt)


class TransformerDecoderLayer(_TransformerLayer):
    """Self-attention, attention to a memory, and a feed-forward network; see TransformerEncoderLayer."""

    _attentions = ("self_attn", "multihead_attn")
    multihead_attn: MultiheadAttention
    norm3: LayerNorm
    dropout3: Dropout

    def forward(self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
                tgt_is_causal: bool = False) -> Any:
        def attend(x: Any) -> Any:
            return self.dropout1(self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask,
                                                is_causal=tgt_is_causal)[0])

        def remember(x: Any) -> Any:
            return self.dropout2(self.multihead_attn(x, memory, memory, memory_key_padding_mask, False, memory_mask)[0])

        def feed(x: Any) -> Any:
            return self.dropout3(self._feed(x))

        x = tgt
        if self.norm_first:
            x = x + attend(self.norm1(x))
            x = x + remember(self.norm2(x))
            return x + feed(self.norm3(x))
        x = self.norm1(x + attend(x))
        x = self.norm2(x + remember(x))
        return self.norm3(x + feed(x))


class Transformer(Module):
    """An encoder and a decoder (Vaswani et al., 2017): (T, N, d_model) of tgt, from src (S, N, d_model).

    custom_encoder, custom_decoder  modules in place of `TransformerEncoder` and `TransformerDecoder`

    For the other arguments see TransformerEncoderLayer. Matrices start as `init.xavier_uniform_` makes them.
    """

    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
                 dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = "relu",
                 custom_encoder: Module | None = None, custom_decoder: Module | None = None,
                 layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
                 *, dtype: Any = None, device: Any = None):
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        settings = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)
        kw: Any = {"dtype": dtype, "device": device}
        norm_settings: Any = {"bias": bias, **kw}
        self.encoder = custom_encoder if custom_encoder is not None else TransformerEncoder(
            TransformerEncoderLayer(*settings, **kw), num_encoder_layers,
            LayerNorm(d_model, layer_norm_eps, **norm_settings))
        self.decoder = custom_decoder if custom_decoder is not None else TransformerDecoder(
            TransformerDecoderLayer(*settings, **kw), num_decoder_layers,
            LayerNorm(d_model, layer_norm_eps, **norm_settings))
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(self, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None,
                src_key_padding_mask: Any = None, tgt_key_padding_mask: Any = None,
                memory_key_padding_mask: Any = None, src_is_causal: bool = False, tgt_is_causal: bool = False) -> Any:
        batch = 0 if self.batch_first else 1
        for name, x in (("src", src), ("tgt", tgt)):
            if x.ndim not in (2, 3) or x.shape[-1] != self.d_model:
                raise bad_input(self, x, f"({'N, L' if self.batch_first else 'L, N'}, {self.d_model}) for {name}")
        if src.ndim != tgt.ndim or src.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise bad_input(self, tgt, f"as many sequences as src has, which has shape {src.shape}")
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
                            tgt_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(size: int, *, dtype: Any = None) -> Any:
        """(size, size): 0 on and below the diagonal, -inf above: nothing is attended to that comes later."""
        return ag.triu(ag.full((size, size), -float("inf"), dtype=dtype), 1)
