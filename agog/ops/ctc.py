"""Connectionist temporal classification: the loss of a sequence whose places in time are not known.

Graves et al., 2006, section 4.1: the probability of a target is the sum over all ways to spread it over the time
steps, with blanks between. The sum is a recursion over time in the logarithm, `alpha`, of which a composite of rows
makes one step after another; derivatives of every order follow from that.
"""

from __future__ import annotations

from typing import Any

import numpy

from agog.array import dtypes
from agog.errors import ArgumentError, DTypeError, IndexingError, ShapeError
from agog.ops.losses import _describe, _reduction
from agog.ops.row import Op, composite

_NEVER = -1e30  # the logarithm of a probability of 0: finite, so that differences of two of them are numbers


def _plan(np: Any, targets: Any, input_lengths: Any, target_lengths: Any, steps: int, classes: int, blank: int,
          longest: int) -> tuple:
    n = input_lengths.shape[0]
    lengths, times = target_lengths.astype(np.int64), input_lengths.astype(np.int64)
    if targets.ndim == 2:
        longest = targets.shape[1]
    for name, given, most in (("input_lengths", times, steps), ("target_lengths", lengths, longest)):
        if given.size and (given.min() < 0 or given.max() > most):
            bad = given[(given < 0) | (given > most)][0]
            raise ArgumentError(f"ctc_loss: {name} holds {int(bad)}; each is from 0 to {most}, the number of "
                                + ("time steps in log_probs" if most is steps else "labels that targets has room for"))
    places = np.arange(longest)
    inside = places < lengths[:, None]
    if targets.ndim == 2:
        labels = targets.astype(np.int64)
    else:
        if int(lengths.sum()) != targets.shape[0]:
            raise ArgumentError(f"ctc_loss: the target_lengths add up to {int(lengths.sum())}, but targets holds "
                                f"{targets.shape[0]} labels one after another")
        labels = np.full((n, longest), blank, np.int64)
        labels[inside] = targets
    wrong = inside & ((labels < 0) | (labels >= classes) | (labels == blank))
    if wrong.any():
        raise IndexingError(f"ctc_loss: targets holds the label {int(labels[wrong][0])}; every label is from 0 to "
                            f"{classes - 1} and not {blank}, which is the blank")
    states = np.full((n, 2 * longest + 1), blank, np.int64)
    states[:, 1::2] = np.where(inside, labels, blank)
    skips = np.zeros(states.shape, bool)  # from the label before, over the blank: not where both are the same
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    return states, skips, times, lengths


def _plan_batch(xp: Any, batched: tuple, inputs: tuple, statics: tuple) -> Any:
    n = next(x.shape[0] for x, m in zip(inputs, batched) if m)
    plans = [xp._ctc_plan(*[x[i] if m else x for x, m in zip(inputs, batched)], *statics) for i in range(n)]
    return tuple(xp.stack(parts, axis=0) for parts in zip(*plans))


def _plan_shapes(targets: Any, input_lengths: Any, target_lengths: Any, steps: int, classes: int, blank: int,
                 longest: int) -> tuple:
    n, wide = input_lengths.shape[0], 2 * (longest if len(targets.shape) == 1 else targets.shape[1]) + 1
    whole = numpy.dtype(numpy.int64)
    return ((n, wide), whole), ((n, wide), numpy.dtype(bool)), ((n,), whole), ((n,), whole)


def _check_plan(targets: Any, input_lengths: Any, target_lengths: Any, steps: int, classes: int, blank: int,
                longest: int) -> tuple:
    for name, x in (("targets", targets), ("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if dtypes.kind(x.dtype) not in "iu":
            raise DTypeError(f"ctc_loss: {name} is {_describe(x)}, but must hold integers")
    return steps, classes, blank, longest


Op("_ctc_plan(targets, input_lengths, target_lengths; steps, classes, blank=0, longest=0) "
   "-> states, skips, times, lengths", _plan, check=_check_plan, takes="i", promotes=(), smooth=False, kind="other",
   result=lambda *d: (numpy.dtype(numpy.int64), numpy.dtype(bool), numpy.dtype(numpy.int64), numpy.dtype(numpy.int64)),
   batch=_plan_batch, infer=_plan_shapes,
   samples=lambda s: [((s.ints(3, 2, 4) + 1, numpy.array([5, 4]), numpy.array([4, 2])), {"steps": 5, "classes": 4}),
                      ((s.ints(3, 5), numpy.array([5, 4]), numpy.array([2, 3])),
                       {"steps": 5, "classes": 4, "blank": 3, "longest": 3})],
   doc="What the recursion of `ctc_loss` goes through: states (N, 2S + 1), the labels with blanks between, which of "
       "them are reached from the label before at once, and both lengths as int64. Raises for lengths and labels that "
       "make no sense.")


def _lengths(xp: Any, name: str, given: Any, batch: int) -> Any:
    if isinstance(given, int):
        given = (given,)
    if isinstance(given, tuple | list):
        if not all(isinstance(v, int | numpy.integer) for v in given):
            raise DTypeError(f"ctc_loss: {name}={given!r}; it holds whole numbers")
        given = xp._literal(tuple(int(v) for v in given))
    if given.shape == () and batch == 1:
        given = xp.reshape(given, (1,))
    if given.shape != (batch,):
        raise ShapeError(f"ctc_loss: {name} has shape {given.shape}; it holds one number for each of {batch} sequences")
    return given


def _samples(s: Any) -> list:
    def case(*more: Any, **kw: Any) -> tuple:
        return ((s(6, 2, 4), numpy.array([[1, 2, 2], [3, 1, 2]]), *more), kw)

    return [case((6, 5), (3, 2)), case(numpy.array([6, 6]), numpy.array([3, 0]), reduction="sum"),
            ((s(5, 3), numpy.array([0, 2]), 5, 2), {"blank": 1}),
            ((s(5, 2, 3), numpy.array([1, 2, 1]), (5, 4), (2, 1)), {"reduction": "none"})]


@composite(samples=_samples)
def ctc_loss(xp, log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """The CTC loss: minus the log probability of `targets`, summed over all ways to spread them over time.

    log_probs       (T, N, C), or (T, C) of one sequence: logarithms of probabilities, as of `log_softmax`
    targets         (N, S) integers, padded with anything; or (sum of target_lengths,), one target after another
    input_lengths   (N,): how many steps of T count; a tuple or integers
    target_lengths  (N,): how many labels of the target count
    blank           the class that stands for no label
    reduction       'mean' divides each loss by its target's length (at least 1), then takes the mean over N
    zero_infinity   a target for which there are too few steps has loss 0, not infinity; no gradient in either case

    Raises ShapeError for shapes that do not go together, ArgumentError for lengths and IndexingError for labels that
    are out of range. The gradient is that of the formula: PyTorch's of `log_probs` itself differs by exp(log_probs),
    which is right below a `log_softmax`, and only there; with one, both give the same. Graves et al., 2006.
    """
    _reduction("ctc_loss", reduction)
    shape = tuple(log_probs.shape)
    if len(shape) not in (2, 3):
        raise ShapeError(f"ctc_loss: log_probs is {_describe(log_probs)}; it has shape (T, N, C), or (T, C)")
    one = len(shape) == 2
    if one:
        log_probs = xp.expand_dims(log_probs, axis=1)
        if len(targets.shape) == 1:
            targets = xp.expand_dims(targets, axis=0)
    steps, n, classes = log_probs.shape
    if not isinstance(blank, int) or not 0 <= blank < classes:
        raise ArgumentError(f"ctc_loss: blank={blank!r}; it is one of the {classes} classes, from 0 to {classes - 1}")
    if len(targets.shape) not in (1, 2) or len(targets.shape) == 2 and targets.shape[0] != n:
        raise ShapeError(f"ctc_loss: targets is {_describe(targets)}; with log_probs {_describe(log_probs)} it has "
                         f"shape ({n}, S), or (sum of target_lengths,)")
    if steps == 0:
        raise ShapeError(f"ctc_loss: log_probs is {_describe(log_probs)}: there are no time steps")
    times = _lengths(xp, "input_lengths", input_lengths, n)
    lengths = _lengths(xp, "target_lengths", target_lengths, n)
    longest = 0
    if len(targets.shape) == 1 and n:
        longest = int(xp.max(lengths))
    states, skips, times, lengths = xp._ctc_plan(targets, times, lengths, steps, classes, blank, longest)
    dtype = log_probs.dtype
    if dtypes.is_half(dtype) or not dtypes.is_inexact(dtype):
        log_probs = xp.astype(log_probs, dtypes.float32)
    loss = _recursion(xp, log_probs, states, skips, times, lengths)
    impossible = loss > -0.5 * _NEVER
    loss = xp.where(impossible, 0.0 if zero_infinity else float("inf"), loss)
    if dtypes.is_half(dtype):
        loss = xp.astype(loss, dtype)
    if reduction == "mean":
        loss = xp.mean(loss / xp.astype(xp.maximum(lengths, 1), loss.dtype))
    elif reduction == "sum":
        loss = xp.sum(loss)
    return xp.reshape(loss, ()) if one and reduction == "none" else loss


def _recursion(xp, log_probs, states, skips, times, lengths):
    """Minus the logarithm of the sum of all paths, (N,); about -_NEVER where there is none."""
    steps, n, classes = log_probs.shape
    wide = states.shape[1]
    rows = xp.take_along_axis(log_probs, xp.expand_dims(states, axis=0), axis=2)
    emitted = xp.unstack(xp.maximum(rows, _NEVER), axis=0)  # of each state at each step: (N, 2S + 1)
    never = xp.full((n, 2), _NEVER, dtype=log_probs.dtype)
    over = xp.where(skips, 0.0, _NEVER)
    over = xp.astype(over, log_probs.dtype)
    alpha = emitted[0] + xp.astype(xp.where(xp.arange(wide) < 2, 0.0, _NEVER), log_probs.dtype)
    alphas = [alpha]
    for now in emitted[1:]:
        padded = xp.concat([never, alpha], axis=1)
        alpha = now + xp.logaddexp(xp.logaddexp(alpha, padded[:, 1:-1]), padded[:, :-2] + over)
        alphas.append(alpha)
    last = xp.reshape(xp.maximum(times - 1, 0), (1, n, 1))
    final = xp.take_along_axis(xp.stack(alphas, axis=0), last, axis=0)[0]
    end = xp.expand_dims(2 * lengths, axis=1)
    blanks = xp.take_along_axis(final, end, axis=1)[:, 0]
    labels = xp.take_along_axis(final, xp.maximum(end - 1, 0), axis=1)[:, 0]
    labels = xp.where(lengths > 0, labels, _NEVER)  # an empty target ends in its one blank
    loss = -xp.logaddexp(blanks, labels)
    empty = xp.where(lengths > 0, -_NEVER, 0.0)  # no step at all: only the empty target has a way
    return xp.where(times > 0, loss, xp.astype(empty, loss.dtype))
