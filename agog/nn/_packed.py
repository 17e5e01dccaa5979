"""Sequences of different lengths in one batch."""

from __future__ import annotations

from typing import Any

import numpy as np

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError, ShapeError
from agog.tensor import Tensor


class PackedSequence:
    """A batch of sequences (L, N, ...) of which each has its own length; what `pack_padded_sequence` makes.

    padded   (L, N, ...), zeros behind the end of each sequence
    lengths  (N,) int64 Tensor

    RNN, LSTM and GRU take it in place of a Tensor, and return one.
    """

    def __init__(self, padded: Any, lengths: Any):
        self.padded, self.lengths = padded, lengths

    def mask(self) -> Any:
        """(L, N): True where there is an element of a sequence."""
        return ag.expand_dims(ag.arange(self.padded.shape[0]), axis=1) < self.lengths

    def _order(self) -> tuple[Any, Any]:
        lengths = self.lengths.numpy()
        order = np.argsort(-lengths, kind="stable")
        sizes = (np.arange(lengths.max(initial=0))[:, None] < lengths).sum(axis=1)
        return order, sizes

    @property
    def batch_sizes(self) -> Any:
        """How many sequences go on at each step: (L,) int64."""
        return ag.asarray(self._order()[1])

    @property
    def data(self) -> Any:
        """All elements, step after step, those of longer sequences first: (sum of lengths, ...)."""
        order, sizes = self._order()
        rows = np.concatenate([t * len(order) + order[:n] for t, n in enumerate(sizes)] or [np.zeros(0, np.int64)])
        flat = ag.reshape(self.padded, (-1, *self.padded.shape[2:]))
        return ag.take(flat, ag.asarray(rows), axis=0)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """With its elements on another device, or of another dtype."""
        return PackedSequence(self.padded.to(*args, **kwargs), self.lengths)

    def __repr__(self) -> str:
        return f"PackedSequence(padded={self.padded.dtype}{list(self.padded.shape)}, lengths={self.lengths.tolist()})"


ag.tree.register(PackedSequence, lambda p: ([p.padded, p.lengths], None), lambda _, parts: PackedSequence(*parts))


def _lengths(name: str, lengths: Any, batch: int, most: int) -> tuple[Any, int]:
    """The lengths as a Tensor, and the largest."""
    if isinstance(lengths, Tensor | np.ndarray):
        values = ag.asarray(lengths)
        if values.dtype.kind not in "iu" or values.shape != (batch,):
            raise ShapeError(f"{name}: lengths is {values.dtype}{list(values.shape)}; it holds one integer for each of "
                             f"the {batch} sequences")
        values = values.astype("int64", copy=False)
    else:
        given = [n.item() if isinstance(n, Tensor | np.generic) else n for n in lengths]
        if len(given) != batch or not all(isinstance(n, int) for n in given):
            raise ShapeError(f"{name}: lengths={given}; it holds one integer for each of the {batch} sequences")
        values = ag.asarray(given, dtype="int64")
    least, longest = (int(values.min()), int(values.max())) if batch else (1, 0)
    if least < 1 or longest > most:
        raise ArgumentError(f"{name}: lengths go from {least} to {longest}; each is from 1 to {most}, the number of "
                            "steps there are")
    return values, longest


def _behind(mask: Any, x: Any) -> Any:
    return ag.reshape(mask, (*mask.shape, *(1,) * (x.ndim - 2)))


def pack_padded_sequence(input: Any, lengths: Any, batch_first: bool = False,
                         enforce_sorted: bool = True) -> PackedSequence:
    """Sequences `input` (L, N, ...), or (N, L, ...) with batch_first, of which the n-th has lengths[n] steps.

    lengths         (N,) integers from 1 to L, in any order (`enforce_sorted` is not needed, and has no effect)

    What stands behind the end of a sequence is not read. Raises ShapeError and ArgumentError.
    """
    if input.ndim < 2:
        raise ShapeError(f"pack_padded_sequence: input has shape {input.shape}; it is (L, N, ...), or (N, L, ...) with "
                         "batch_first=True")
    x = ag.swapaxes(input, 0, 1) if batch_first else input
    values, longest = _lengths("pack_padded_sequence", lengths, x.shape[1], x.shape[0])
    packed = PackedSequence(x[:longest], values)
    x = packed.padded
    packed.padded = ag.where(_behind(packed.mask(), x), x, ag.zeros((), dtype=x.dtype))
    return packed


def pad_packed_sequence(sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0,
                        total_length: int | None = None) -> tuple[Any, Any]:
    """(padded, lengths): (L, N, ...), or (N, L, ...) with batch_first, and (N,) int64.

    padding_value  what stands behind the end of a sequence
    total_length   L, at least the largest length, which it is by default
    """
    if not isinstance(sequence, PackedSequence):
        raise ArgumentTypeError(f"pad_packed_sequence: give a PackedSequence, not a {type(sequence).__name__}")
    x = sequence.padded
    more = 0 if total_length is None else total_length - x.shape[0]
    if more < 0:
        raise ArgumentError(f"pad_packed_sequence: total_length={total_length}, but a sequence has {x.shape[0]} steps")
    if padding_value:
        x = ag.where(_behind(sequence.mask(), x), x, ag.asarray(padding_value, dtype=x.dtype))
    if more:
        x = ag.pad(x, {0: (0, more)}, constant_values=padding_value)
    return (ag.swapaxes(x, 0, 1) if batch_first else x), sequence.lengths


def pad_sequence(sequences: Any, batch_first: bool = False, padding_value: float = 0.0,
                 padding_side: str = "right") -> Any:
    """Tensors (L_n, ...) of different lengths as one, (L, N, ...), or (N, L, ...) with batch_first; L is the largest.

    padding_side  'right', or 'left': before the beginning
    """
    items = [ag.asarray(x) for x in sequences]
    if padding_side not in ("left", "right"):
        raise ArgumentError(f"pad_sequence: padding_side={padding_side!r}; use 'left' or 'right'")
    if not items or any(x.ndim < 1 or x.shape[1:] != items[0].shape[1:] for x in items):
        raise ShapeError("pad_sequence: give Tensors (L, ...) that agree in all but the first axis, not "
                         f"{[x.shape for x in items]}")
    longest = max(x.shape[0] for x in items)
    padded = [ag.pad(x, {0: (0, longest - x.shape[0]) if padding_side == "right" else (longest - x.shape[0], 0)},
                     constant_values=padding_value) for x in items]
    return ag.stack(padded, axis=0 if batch_first else 1)


def unpad_sequence(padded_sequences: Any, lengths: Any, batch_first: bool = False) -> list[Any]:
    """The sequences of `pad_sequence`, as a list."""
    x = padded_sequences if batch_first else ag.swapaxes(padded_sequences, 0, 1)
    return [row[:int(n)] for row, n in zip(ag.unstack(x), lengths, strict=True)]


def pack_sequence(sequences: Any, enforce_sorted: bool = True) -> PackedSequence:
    """Tensors (L_n, ...) as a PackedSequence."""
    items = [ag.asarray(x) for x in sequences]
    return pack_padded_sequence(pad_sequence(items), [x.shape[0] for x in items])


def unpack_sequence(packed_sequences: PackedSequence) -> list[Any]:
    """The sequences of a PackedSequence, as a list of Tensors (L_n, ...)."""
    return unpad_sequence(packed_sequences.padded, packed_sequences.lengths)
