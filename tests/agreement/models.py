"""PyTorch's equivalents of what models are made of: softmax, losses, normalization, attention, convolution, pooling."""

import numpy as np
from agreement.peer import Differs, F, any_nan, equal, excuse, not_finite

FLOATS_ONLY = "PyTorch takes floats only"
FLOATS = {"b": FLOATS_ONLY, "i": FLOATS_ONLY, "c": FLOATS_ONLY}


def sizes(n):
    return (n,) if isinstance(n, int) else n


# ------------------------------------------------------------------------------------------------- softmax, similarity
equal("softmax log_softmax softmin", "nn.functional.", skip=FLOATS)
equal("normalize", lambda x, p=2.0, axis=1: F.normalize(x, p, axis), skip=FLOATS)
equal("cosine_similarity", lambda x1, x2, axis=1: F.cosine_similarity(x1, x2, axis), skip=FLOATS)
equal("pairwise_distance", lambda x1, x2, p=2.0: F.pairwise_distance(x1, x2, p), skip=FLOATS)

# -------------------------------------------------------------------------------------------------------------- losses
equal("gaussian_nll_loss", "nn.functional.gaussian_nll_loss", skip=FLOATS, plant=(0, 1))
equal(
    "mse_loss l1_loss huber_loss smooth_l1_loss poisson_nll_loss kl_div margin_ranking_loss triplet_margin_loss",
    "nn.functional.",
    skip=FLOATS,
)
equal("cross_entropy nll_loss", "nn.functional.", skip=FLOATS, constant=(2,))
equal("soft_margin_loss", "nn.functional.soft_margin_loss", skip=FLOATS, constant=(1,))
equal(
    "binary_cross_entropy", "nn.functional.binary_cross_entropy", skip=FLOATS, plant=(), error={"float64": 1e6}
)  # adds 1e-12
equal(
    "hinge_embedding_loss",
    "nn.functional.hinge_embedding_loss",
    skip=FLOATS,
    plant=(0,),
    cases=lambda s: [((s(4, 3), np.sign(s(4, 3)).astype(s.dtype)), {"margin": m}) for m in (1.0, 0.3)],
)
equal(
    "binary_cross_entropy_with_logits",
    lambda x, t, weight=None, pos_weight=None, reduction="mean": F.binary_cross_entropy_with_logits(
        x, t, weight, pos_weight=pos_weight, reduction=reduction
    ),
    skip=FLOATS,
    constant=(2, 3),
    differs=(Differs("values", not_finite, "agog's limits at infinity, where PyTorch has nan"),),
)
equal(
    "cosine_embedding_loss",
    "nn.functional.cosine_embedding_loss",
    skip=FLOATS,
    error={"float64": 1e5},
    sized="PyTorch's is nan in float16",
    cases=lambda s: [
        ((s(4, 3), s(4, 3), np.array([1, -1, -1, 1])), {}),
        ((s(4, 3), s(4, 3), np.array([1, -1, -1, 1])), {"margin": 0.2, "reduction": "sum"}),
    ],
)
excuse("PyTorch has hinge losses with other arguments only", "hinge_loss")
excuse("what cross_entropy runs", "_cross_entropy_index _class_index")

# ------------------------------------------------------------------------------------------------------- normalization
equal(
    "layer_norm",
    lambda x, *more, normalized_shape, **kw: F.layer_norm(x, sizes(normalized_shape), *more, **kw),
    skip=FLOATS,
)
equal(
    "rms_norm",
    lambda x, *more, normalized_shape, **kw: F.rms_norm(x, sizes(normalized_shape), *more, **kw),
    skip=FLOATS,
)
equal("group_norm", "nn.functional.group_norm", skip=FLOATS)
equal("instance_norm", lambda x, weight=None, bias=None: F.instance_norm(x, weight=weight, bias=bias), skip=FLOATS)
equal(
    "local_response_norm",
    "nn.functional.local_response_norm",
    skip=FLOATS,
    cases=lambda s: [((s(2, 5, 3),), {"size": 3}), ((s(2, 4, 2),), {"size": 2, "alpha": 0.1})],
)
equal(
    "batch_norm",
    lambda x, mean, var, *more, **kw: F.batch_norm(x, mean, var, *more, **kw),
    own=lambda xp, *a, **kw: xp.batch_norm(*a, **kw)[0],
    skip=FLOATS,
    constant=(1, 2),
    error=1024,
)
excuse("what layer_norm, rms_norm, group_norm, instance_norm and batch_norm run", "_fused_norm batch_norm_train")

# ----------------------------------------------------------------------------------------------------------- attention
equal(
    "scaled_dot_product_attention",
    "nn.functional.scaled_dot_product_attention",
    skip=FLOATS,
    more=lambda s: [
        ((s(2, 3, 4), s(2, 5, 4), s(2, 5, 3), s(3, 5)), {}),
        ((s(2, 3, 4), s(2, 5, 4), s(2, 5, 3)), {"scale": 0.3}),
        ((s(2, 2, 3, 4), s(2, 2, 5, 4), s(2, 2, 5, 3), np.tril(np.ones((3, 5), bool))), {}),
    ],
)
excuse("what scaled_dot_product_attention runs", "_attention _attention_grad")

# ---------------------------------------------------------------------------------------------------------- convolution
NO_CHANNELS = "PyTorch's results lose their channels, agog's are the bias"
SHAPES = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}


def convolutions(n):
    def cases(s):
        x, k = SHAPES[n], (3, 2, 2)[:n]
        return [
            ((s(2, 4, *x), s(6, 4, *k), s(6)), {}),
            ((s(2, 4, *x), s(6, 2, *k), None), {"groups": 2, "stride": 2}),
            ((s(1, 2, *x), s(3, 2, *k), s(3)), {"padding": 1, "dilation": (2, 1, 1)[:n]}),
            ((s(2, 3, *x), s(3, 1, *k), None), {"groups": 3, "padding": "same"}),
        ]

    return cases


def transposed(n):
    def cases(s):
        x, k = SHAPES[n], (3, 2, 2)[:n]
        return [
            ((s(2, 4, *x), s(4, 3, *k), s(3)), {}),
            ((s(2, 4, *x), s(4, 3, *k), None), {"groups": 2, "stride": 2}),
            ((s(1, 2, *x), s(2, 3, *k), s(3)), {"padding": 1, "stride": 2, "output_padding": 1, "dilation": 1}),
        ]

    return cases


for _n in (1, 2, 3):
    equal(f"conv{_n}d", f"nn.functional.conv{_n}d", skip=FLOATS, cases=convolutions(_n), sized=NO_CHANNELS, plant=(0,))
    equal(
        f"conv_transpose{_n}d",
        f"nn.functional.conv_transpose{_n}d",
        skip=FLOATS,
        cases=transposed(_n),
        sized=NO_CHANNELS,
        plant=(0,),
    )
excuse("what the convolutions and their gradients run", "conv conv_input_grad conv_weight_grad")
equal("unfold fold", "nn.functional.", skip=FLOATS)
excuse("what unfold and fold run", "_patches _patches_adjoint")

# -------------------------------------------------------------------------------------------------------------- pooling
for _n in (1, 2, 3):
    equal(f"avg_pool{_n}d adaptive_avg_pool{_n}d", "nn.functional.", skip=FLOATS)
    equal(
        f"max_pool{_n}d adaptive_max_pool{_n}d",
        "nn.functional.",
        skip=FLOATS,
        differs=(
            Differs(
                "first", any_nan, "agog gives nothing to windows with nan, or the first nan, PyTorch to one of them"
            ),
        ),
    )
equal("lp_pool1d lp_pool2d", "nn.functional.", skip=FLOATS)
equal("global_avg_pool", lambda x, keepdims=False: x.mean(tuple(range(2, x.ndim)), keepdim=keepdims), skip=FLOATS)
equal("global_max_pool", lambda x, keepdims=False: x.amax(tuple(range(2, x.ndim)), keepdim=keepdims), skip=FLOATS)
excuse(
    "what the pooling functions and their gradients run",
    "_max_pool _max_pool_gather _max_pool_indices _max_pool_scatter _avg_pool _avg_pool_adjoint",
)

# ------------------------------------------------------------------------------------------------------------- resizing


def resized(s):
    return [
        ((s(1, 2, 3, 4),), {"size": (5, 3), "mode": m, "align_corners": a})
        for m, a in (
            ("bilinear", False),
            ("bilinear", True),
            ("bicubic", False),
            ("bicubic", True),
            ("nearest", None),
            ("area", None),
            ("nearest-exact", None),
        )
    ] + [
        ((s(2, 1, 5),), {"scale_factor": 1.7, "mode": "linear", "align_corners": False}),
        ((s(1, 1, 2, 3, 2),), {"size": (4, 2, 3), "mode": "trilinear", "align_corners": True}),
    ]


equal(
    "interpolate upsample",
    lambda x, align_corners=None, **kw: F.interpolate(x, align_corners=align_corners, **kw),
    own=lambda xp, x, align_corners=None, **kw: xp.interpolate(x, align_corners=bool(align_corners), **kw),
    cases=resized,
    skip=FLOATS,
    differs=(Differs("values first", not_finite, "nan and infinity with weight 0 do not reach agog's results"),),
)
equal("pixel_shuffle pixel_unshuffle", "nn.functional.", sized="PyTorch leaves the shape as it was")
equal("channel_shuffle", "nn.functional.channel_shuffle")
excuse("what interpolate and the adaptive pools run", "_axis_map")
