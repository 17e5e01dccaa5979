"""Cross entropy of few logits, by the kernels of `array.few`."""

from __future__ import annotations

from typing import Any

import numpy as np

from agog.array import dtypes, few

__all__ = ["few_loss_grads", "few_losses"]

_losses, _loss_grads, _largest = map(few.kernels, ("cross_entropy", "cross_entropy_backward", "max fold"))
_totals = few.kernels("mean fold"), few.kernels("sum fold")


def _together(found, dtype, *needed):
    """Kernels of several names, once all of them are there (then they are kept in `found`); else None."""
    kernels = [of.wanted(kind) if (run := of.get(kind)) is None else run for of, kind in needed]
    if not all(kernels):
        return None
    found[dtype] = kernels
    return kernels


def _in_range(largest, target, classes, ignore_index):
    """Whether all of some int64 targets are classes, and none of them is ignored, by the kernel of the largest."""
    if target.dtype is not dtypes.int64 or 0 <= ignore_index < classes:
        return False
    most, n = np.empty((), np.uint64), target.size
    try:
        largest(most, target, 1, n, 1)  # what is negative is large without a sign
    except ValueError:  # it is not contiguous
        return False
    return int(most) < classes


_forward: dict[Any, Any] = {}
_backward: dict[Any, Any] = {}


def few_losses(x, target, ignore_index, reduction):
    """(loss, logsumexp) of few logits by kernels, or None."""
    dtype = x.dtype
    made = _forward.get(dtype) or _together(
        _forward, dtype, (_losses, dtype), (_largest, dtypes.uint64), *[(of, dtype) for of in _totals])
    if made is None:
        return None
    run, largest, mean, total = made
    n, classes = x.shape
    if not n or not x.flags.c_contiguous or not _in_range(largest, target, classes, ignore_index):
        return None
    loss, lse = np.empty(n, dtype), np.empty(n, dtype)
    run(loss, lse, x, target, n, classes, 1)
    if reduction == "none":
        return loss, lse
    out = np.empty((), dtype)
    (mean if reduction == "mean" else total)(out, loss, 1, n, 1)
    return out, lse


def few_loss_grads(a, h, x, target, lse, ignore_index, reduction):
    """The cotangent of few logits by kernels, for those of the loss and of logsumexp, or None."""
    dtype = x.dtype
    made = _backward.get(dtype) or _together(_backward, dtype, (_loss_grads, dtype), (_largest, dtypes.uint64))
    if made is None:
        return None
    run, largest = made
    n, classes = x.shape
    if not n or not x.flags.c_contiguous or not _in_range(largest, target, classes, ignore_index):
        return None
    weight, out = np.empty(n, dtype), np.empty(x.shape, dtype)
    weight[...] = a / n if reduction == "mean" else a
    run(out, x, lse, target, weight, weight + h, n, classes, 1)
    return out
