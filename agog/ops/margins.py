"""Losses of many classes or labels by margins, and of triplets by a distance of one's own."""

from __future__ import annotations

from typing import Any

from agog.array import dtypes
from agog.errors import ArgumentError, DTypeError, ShapeError
from agog.ops.losses import _describe, _reduce, _same_shape, _shape
from agog.ops.row import composite


def _rows(name: str, xp: Any, input: Any, target: Any, each: tuple) -> tuple:
    """Both with an axis of examples in front; whether there was one."""
    lead = _shape(input)[:-1]
    if len(_shape(input)) not in (1, 2) or _shape(target) != lead + each or not input.shape[-1]:
        lines = "(N, C)" if each else "(N,)"
        raise ShapeError(f"{name}(input={_describe(input)}, target={_describe(target)}): input has shape (N, C) and "
                         f"target {lines}, or (C,) and {'(C,)' if each else '()'}")
    if dtypes.kind(target.dtype) not in "iu":
        raise DTypeError(f"{name}: target is {_describe(target)}, but must hold integers")
    if lead:
        return input, target, True
    return xp.expand_dims(input, axis=0), xp.expand_dims(target, axis=0), False


def _reduced(xp: Any, name: str, loss: Any, reduction: str, many: bool) -> Any:
    return _reduce(xp, name, loss if many else xp.reshape(loss, ()), reduction)


def _positive(xp: Any, x: Any) -> Any:
    """max(x, 0), with the derivative 0 at 0."""
    return xp.where(x <= 0, 0.0, x)


@composite(samples=lambda s: [((s(5, 4), s.ints(4, 5)), {}), ((s(4), s.ints(4)), {"reduction": "sum"}),
                              ((s(5, 4), s.ints(4, 5)), {"p": 2, "margin": 0.7, "reduction": "none"}),
                              ((s(3, 4), s.ints(4, 3)), {"weight": s(4, lo=0.5)})])
def multi_margin_loss(xp, input, target, p=1, margin=1.0, weight=None, reduction="mean"):
    """The sum over all other classes i of max(0, margin - input[y] + input[i])^p / C: a hinge loss of C classes.

    input (N, C) or (C,); target (N,) or () integers from 0 to C - 1, the class y; p 1 or 2; weight (C,): factor of the
    terms of each class y, inside of the power. Raises IndexingError for a class that there is not.
    """
    if p not in (1, 2):
        raise ArgumentError(f"multi_margin_loss: p={p}; it is 1 or 2")
    input, target, many = _rows("multi_margin_loss", xp, input, target, ())
    classes = input.shape[1]
    if weight is not None and _shape(weight) != (classes,):
        raise ShapeError(f"multi_margin_loss: weight is {_describe(weight)}; it holds one number for each of the "
                         f"{classes} classes")
    index, _ = xp._class_index(target, classes=classes, ignore_index=None)
    own = xp.take_along_axis(input, xp.expand_dims(index, axis=1), axis=1)
    over = _positive(xp, margin - own + input)
    if p == 2:
        over = over * over
    if weight is not None:
        over = over * xp.expand_dims(xp.take(weight, index, axis=0), axis=1)
    over = xp.where(xp.arange(classes) == xp.expand_dims(index, axis=1), 0.0, over)
    return _reduced(xp, "multi_margin_loss", xp.sum(over, axis=1) / classes, reduction, many)


@composite(samples=lambda s: [((s(4, 3), s(4, 3, lo=0, hi=1)), {}), ((s(3), s(3, lo=0, hi=1)), {"reduction": "sum"}),
                              ((s(4, 3), s(4, 3, lo=0, hi=1), s(3, lo=0.5)), {"reduction": "none"})])
def multilabel_soft_margin_loss(xp, input, target, weight=None, reduction="mean"):
    """Binary cross entropy of logits, the mean over classes: -mean(t log s + (1 - t) log(1 - s)), s = sigmoid(input).

    input and target (..., C), target from 0 to 1 (which labels are there); weight (C,): factor of each class. The
    reduction is over what is in front.
    """
    _same_shape("multilabel_soft_margin_loss", input, target)
    if not len(_shape(input)):
        raise ShapeError("multilabel_soft_margin_loss: the input is a single number; it has shape (..., C)")
    loss = -(target * xp.log_sigmoid(input) + (1.0 - target) * xp.log_sigmoid(-input))
    if weight is not None:
        loss = loss * weight
    return _reduce(xp, "multilabel_soft_margin_loss", xp.mean(loss, axis=-1), reduction)


@composite(samples=lambda s: [((s(2, 4), s.ints(1, 2, 4) + [[3, 0, -1, 1], [1, -1, 2, 0]]), {}),
                              ((s(3), s.ints(1, 3) + [2, 0, -1]), {"reduction": "sum"})])
def multilabel_margin_loss(xp, input, target, reduction="mean"):
    """The sum over labels j and all other classes i of max(0, 1 - (input[j] - input[i])) / C.

    input (N, C) or (C,); target of the same shape: the labels of each row, integers from 0 to C - 1, of which all from
    the first -1 on do not count. Raises IndexingError for other numbers.
    """
    input, target, many = _rows("multilabel_margin_loss", xp, input, target, _shape(input)[-1:])
    classes = input.shape[1]
    counts = xp.cumprod(xp.astype(target >= 0, dtypes.int64), axis=1) > 0
    index, _ = xp._class_index(xp.where(counts, target, -1), classes=classes, ignore_index=-1)
    named = xp.expand_dims(index, axis=2) == xp.arange(classes)
    named = named & xp.expand_dims(counts, axis=2)  # (N, place in the target, class)
    others = xp.logical_not(xp.any(named, axis=1, keepdims=True))
    own = xp.expand_dims(xp.take_along_axis(input, index, axis=1), axis=2)
    over = _positive(xp, 1.0 - (own - xp.expand_dims(input, axis=1)))
    over = xp.where(others & xp.expand_dims(counts, axis=2), over, 0.0)
    return _reduced(xp, "multilabel_margin_loss", xp.sum(over, axis=(1, 2)) / classes, reduction, many)


@composite(samples=lambda s: [((s(5, 3), s(5, 3), s(5, 3)), {})])
def triplet_margin_with_distance_loss(xp, anchor, positive, negative, distance_function: Any = None, margin=1.0,
                                      swap=False, reduction="mean"):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with a distance d of two batches of vectors.

    distance_function  `d(x1, x2)` gives one number for each row; `pairwise_distance` by default
    swap               takes the smaller of d(anchor, negative) and d(positive, negative)
    """
    _same_shape("triplet_margin_with_distance_loss", anchor, positive, "anchor", "positive")
    _same_shape("triplet_margin_with_distance_loss", anchor, negative, "anchor", "negative")
    if margin <= 0:
        raise ArgumentError(f"triplet_margin_with_distance_loss: margin={margin}; it must be positive")
    distance = xp.pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = xp.minimum(far, distance(positive, negative))
    return _reduce(xp, "triplet_margin_with_distance_loss", xp.clip(near - far + margin, 0.0), reduction)
