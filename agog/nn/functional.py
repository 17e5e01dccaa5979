"""The functions of `agog` that models are made of, where PyTorch users look: `import agog.nn.functional as F`."""

from __future__ import annotations

from typing import Any

import agog as ag
from agog import hints

_NAMES = (
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d "
    "max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d relu relu6 leaky_relu elu celu selu gelu silu mish "
    "sigmoid log_sigmoid hard_sigmoid hard_swish hardtanh hardshrink softshrink tanh tanhshrink softplus softsign "
    "softmax log_softmax softmin glu prelu layer_norm rms_norm group_norm instance_norm batch_norm "
    "local_response_norm normalize dropout embedding one_hot pad scaled_dot_product_attention cross_entropy "
    "nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss huber_loss "
    "kl_div poisson_nll_loss gaussian_nll_loss hinge_embedding_loss soft_margin_loss margin_ranking_loss "
    "cosine_embedding_loss triplet_margin_loss cosine_similarity pairwise_distance bilinear interpolate upsample "
    "unfold fold pixel_shuffle pixel_unshuffle channel_shuffle lp_pool1d lp_pool2d ctc_loss multi_margin_loss "
    "multilabel_margin_loss multilabel_soft_margin_loss triplet_margin_with_distance_loss embedding_bag grid_sample "
    "affine_grid pdist threshold gumbel_softmax alpha_dropout dropout1d dropout2d dropout3d "
    "max_unpool1d max_unpool2d max_unpool3d"
).split()
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise hints.missing("agog.nn.functional", name, __all__)
    value = getattr(ag, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
