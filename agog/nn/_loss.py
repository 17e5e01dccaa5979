"""Loss functions as modules."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog.errors import ArgumentError, ArgumentTypeError
from agog.nn._module import Module
from agog.nn._parameter import Buffer


def _loss(name: str, op: str, also: tuple[str, ...] = (), **defaults: Any) -> type[Module]:
    """A module that calls the loss `op` with its settings; settings that are Tensors become buffers.

    also  reductions that this loss has besides the usual ones
    """
    known_reductions = ("mean", "sum", "none", *also)
    values = defaults if "reduction" in defaults else {**defaults, "reduction": "mean"}
    names = tuple(values)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(names) or kwargs.keys() - set(names):
            known = ", ".join(f"{k}={v!r}" for k, v in values.items())
            raise ArgumentTypeError(f"{name}: takes {known}, not {args or kwargs}")
        given = {**values, **dict(zip(names, args)), **kwargs}
        if given["reduction"] not in known_reductions:
            use = ", ".join(map(repr, known_reductions[:-1])) + f" or {known_reductions[-1]!r}"
            raise ArgumentError(f"{name}(reduction={given['reduction']!r}): use {use}")
        for key, value in given.items():
            setattr(self, key, Buffer(value) if hasattr(value, "shape") else value)

    def forward(self: Any, *inputs: Any) -> Any:
        return getattr(ag, op)(*inputs, **{k: self.__dict__[k] for k in names})

    def extra_repr(self: Any) -> str:
        return ", ".join(f"{k}={getattr(self, k)!r}" for k in names
                         if k not in self._kinds and getattr(self, k) is not values[k])

    settings = ", ".join(f"{k}={v!r}" for k, v in values.items())
    return type(name, (Module,),
                {"__init__": __init__, "forward": forward, "extra_repr": extra_repr, "__module__": __name__,
                                  "__doc__": f"`agog.{op}` as a module; settings and defaults: {settings}.",
                                  "__qualname__": name})


CrossEntropyLoss = _loss("CrossEntropyLoss", "cross_entropy", weight=None, ignore_index=-100, label_smoothing=0.0)
NLLLoss = _loss("NLLLoss", "nll_loss", weight=None, ignore_index=-100)
BCELoss = _loss("BCELoss", "binary_cross_entropy", weight=None)
BCEWithLogitsLoss = _loss("BCEWithLogitsLoss", "binary_cross_entropy_with_logits", weight=None, pos_weight=None)
MSELoss = _loss("MSELoss", "mse_loss")
L1Loss = _loss("L1Loss", "l1_loss")
SmoothL1Loss = _loss("SmoothL1Loss", "smooth_l1_loss", beta=1.0)
HuberLoss = _loss("HuberLoss", "huber_loss", delta=1.0)
KLDivLoss = _loss("KLDivLoss", "kl_div", ("batchmean",), log_target=False)
PoissonNLLLoss = _loss("PoissonNLLLoss", "poisson_nll_loss", log_input=True, full=False, eps=1e-8)
GaussianNLLLoss = _loss("GaussianNLLLoss", "gaussian_nll_loss", full=False, eps=1e-6)
HingeEmbeddingLoss = _loss("HingeEmbeddingLoss", "hinge_embedding_loss", margin=1.0)
SoftMarginLoss = _loss("SoftMarginLoss", "soft_margin_loss")
MarginRankingLoss = _loss("MarginRankingLoss", "margin_ranking_loss", margin=0.0)
CosineEmbeddingLoss = _loss("CosineEmbeddingLoss", "cosine_embedding_loss", margin=0.0)
TripletMarginLoss = _loss("TripletMarginLoss", "triplet_margin_loss", margin=1.0, p=2.0, eps=1e-6, swap=False)
CTCLoss = _loss("CTCLoss", "ctc_loss", blank=0, reduction="mean", zero_infinity=False)
MultiMarginLoss = _loss("MultiMarginLoss", "multi_margin_loss", p=1, margin=1.0, weight=None)
MultiLabelMarginLoss = _loss("MultiLabelMarginLoss", "multilabel_margin_loss")
MultiLabelSoftMarginLoss = _loss("MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss", weight=None)
TripletMarginWithDistanceLoss = _loss("TripletMarginWithDistanceLoss", "triplet_margin_with_distance_loss",
                                      distance_function=None, margin=1.0, swap=False)
