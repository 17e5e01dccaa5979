"""PyTorch's equivalents of what came later: CTC, margins, bags, distances, and images read between their pixels."""

import numpy as np
from agreement.models import FLOATS
from agreement.peer import Differs, F, equal, excuse, not_finite, torch

HALVES = {"float16": "PyTorch has none in 16 bits", "bfloat16": "PyTorch has none in 16 bits"}
SMALL = "labels and lengths are for this many classes and steps"


# ----------------------------------------------------------------------------------------------------------- sequences
def sequences(s):
    def of(t, n, c):
        x = s(t, n, c).astype(np.float64)
        return (x - np.log(np.exp(x).sum(-1, keepdims=True))).astype(s.dtype)

    padded = np.array([[1, 2, 2], [3, 1, 3]])
    return [
        ((of(6, 2, 4), padded, np.array([6, 5]), np.array([3, 2])), {}),
        ((of(6, 2, 4), padded, np.array([6, 6]), np.array([3, 0])), {"reduction": "sum"}),
        ((of(7, 2, 4), np.array([1, 1, 2, 1]), np.array([7, 4]), np.array([3, 1])), {"blank": 3, "reduction": "none"}),
        ((of(2, 2, 4), padded, np.array([2, 2]), np.array([3, 1])), {"zero_infinity": True, "reduction": "none"}),
    ]


equal(
    "ctc_loss",
    lambda x, *more, **kw: F.ctc_loss(F.log_softmax(x, -1), *more, **kw),
    own=lambda xp, x, *more, **kw: xp.ctc_loss(xp.log_softmax(x, axis=-1), *more, **kw),
    cases=sequences,
    skip=FLOATS | HALVES,
    fixed=SMALL,
    sized=SMALL,
    plain="one nan among the classes is nan in all of them",
    order=1,
    why="PyTorch has no second derivative",
)
equal("threshold", "nn.functional.threshold", skip=FLOATS)
excuse("what ctc_loss runs", "_ctc_plan _literal")

# ------------------------------------------------------------------------------------------------------------- margins
equal("multilabel_soft_margin_loss", "nn.functional.multilabel_soft_margin_loss", skip=FLOATS, constant=(1, 2))
equal(
    "multi_margin_loss",
    "nn.functional.multi_margin_loss",
    skip=FLOATS | HALVES,
    constant=(2,),
    order=1,
    why="PyTorch has no second derivative",
    sized="PyTorch's mean of no losses is whatever the memory held",
    differs=(Differs("values first", not_finite, "what is not a number counts in agog's, PyTorch compares it with 0"),),
)
equal(
    "multilabel_margin_loss",
    "nn.functional.multilabel_margin_loss",
    skip=FLOATS | HALVES,
    order=1,
    why="PyTorch has no second derivative",
    sized="PyTorch's mean of no losses is whatever the memory held",
    differs=(Differs("values first", not_finite, "what is not a number counts in agog's, PyTorch compares it with 0"),),
)
equal(
    "triplet_margin_with_distance_loss",
    "nn.functional.triplet_margin_with_distance_loss",
    skip=FLOATS,
    cases=lambda s: [((s(5, 3), s(5, 3), s(5, 3)), {}), ((s(5, 3), s(5, 3), s(5, 3)), {"swap": True, "margin": 0.5})],
)

# ---------------------------------------------------------------------------------------------------------------- bags
equal(
    "embedding_bag",
    lambda x, weight, offsets=None, padding_idx=None, per_sample_weights=None, **kw: F.embedding_bag(
        x, weight, offsets, padding_idx=padding_idx, per_sample_weights=per_sample_weights, **kw
    ),
    skip=FLOATS | HALVES,
    fixed="indices are for this table",
    sized="indices are for this table",
    order=1,
    why="PyTorch has no second derivative",
    differs=(Differs("values first", not_finite, "maxima of nan, where PyTorch looks for what is larger"),),
)
excuse("what embedding_bag runs", "_bags _bag_argmax")

# ----------------------------------------------------------------------------------------------------------- distances
equal(
    "cdist",
    "cdist",
    cases=lambda s: [
        *(((s(4, 3), s(5, 3)), {"p": p}) for p in (2.0, 1.0, 3.0, 0.5)),
        ((s(2, 4, 3), s(2, 1, 3)), {}),
        ((s(4, 3), s(5, 3)), {"compute_mode": "use_mm_for_euclid_dist"}),
        ((s(30, 2), s(3, 2)), {}),
    ],
    skip=FLOATS | HALVES,
    order=1,
    why="PyTorch has no second derivative for every p",
    differs=(Differs("first", not_finite, "PyTorch's derivative at an infinite distance is 0"),),
)
equal("pdist", "nn.functional.pdist", skip=FLOATS | HALVES, order=0, why="PyTorch's crashes for a gradient of stride 0")
for _name in ("tril_indices", "triu_indices"):
    equal(_name, lambda n, k=0, m=None, _name=_name: tuple(getattr(torch, _name)(n, n if m is None else m, k)))
excuse("what triu_indices and tril_indices run", "_tril_indices _triu_indices")

# -------------------------------------------------------------------------------------------------------------- images
def sampled(s):
    grid = s(2, 3, 2, 2, lo=-1.4, hi=1.4)
    return [
        ((s(2, 3, 4, 5), grid), {"mode": m, "padding_mode": p, "align_corners": a})
        for m in ("bilinear", "nearest", "bicubic")
        for p in ("zeros", "border", "reflection")
        for a in (False, True)
    ] + [
        ((s(1, 2, 3, 4, 2), s(1, 2, 2, 3, 3, lo=-1.3, hi=1.3)), {"mode": m, "padding_mode": p, "align_corners": a})
        for m in ("bilinear", "nearest")
        for p in ("zeros", "border", "reflection")
        for a in (False, True)
    ]


equal(
    "grid_sample",
    "nn.functional.grid_sample",
    cases=sampled,
    skip=FLOATS | HALVES,
    sized="PyTorch raises",
    plant=(0,),
    order=1,
    why="PyTorch has no second derivative",
    error={"float32": 512, "float64": 512},
)


def unpooled(n):
    def own(xp, x, output_size=None, **kw):
        y, places = getattr(xp, f"max_pool{n}d")(x, return_indices=True, **kw)
        return getattr(xp, f"max_unpool{n}d")(y, places, output_size=output_size, **kw)

    def call(x, output_size=None, **kw):
        y, places = getattr(F, f"max_pool{n}d")(x, return_indices=True, **kw)
        return getattr(F, f"max_unpool{n}d")(y, places, output_size=output_size, **kw)

    def cases(s):
        size = (5, 7, 5)[:n]
        return [
            ((s(2, 3, *size),), {"kernel_size": 2, "output_size": size}),
            ((s(2, 3, *size),), {"kernel_size": 3, "stride": 2, "padding": 1, "output_size": size}),
        ]

    return {"call": call, "own": own, "cases": cases}


for _n in (1, 2, 3):
    equal(
        f"max_unpool{_n}d",
        **unpooled(_n),
        skip=FLOATS | HALVES,
        sized="PyTorch raises",
        plain="windows that share a maximum write it twice, and PyTorch's derivative counts both",
        fixed="windows that share a maximum write it twice, and PyTorch's derivative counts both",
        order=0,
        why="windows that share a maximum write it twice, and PyTorch's derivative counts both",
    )
equal(
    "affine_grid",
    lambda theta, size, align_corners=False: F.affine_grid(theta, list(size), align_corners),
    skip=FLOATS | HALVES,
    sized="PyTorch raises",
)

# ------------------------------------------------------------------------------------------------------------- signals
for _name in ("hann_window", "hamming_window", "blackman_window"):
    equal(_name, lambda n, periodic=True, _name=_name: getattr(torch, _name)(n, periodic))
equal(
    "stft",
    lambda x, n_fft, hop=None, **kw: torch.stft(x, n_fft, hop, return_complex=True, **{"onesided": True} | kw),
    cases=lambda s: [
        ((s(20), 8), {}),
        ((s(2, 16), 6, 3), {"win_length": 4, "center": False}),
        ((s(14), 5, 2), {"normalized": True, "onesided": False}),
    ],
    skip=FLOATS | HALVES,
    sized="PyTorch raises",
    plain="a nan in a piece is nan in its whole spectrum",
)
equal(
    "istft",
    lambda re, im, n_fft, hop, window, **kw: torch.istft(torch.complex(re, im), n_fft, hop, window=window, **kw),
    own=lambda xp, re, im, n_fft, hop, window, **kw: xp.istft(re + 1j * im, n_fft, hop, window=window, **kw),
    cases=lambda s: [
        ((s(5, 6), s(5, 6), 8, 2, s(8, lo=0.5)), {}),
        ((s(2, 4, 6), s(2, 4, 6), 6, 3, s(6, lo=0.5)), {"length": 13, "normalized": True}),
        ((s(5, 3), s(5, 3), 8, 4, s(8, lo=0.5)), {"center": False}),
    ],
    skip=FLOATS | HALVES,
    sized="PyTorch raises",
    plain="a nan in a spectrum is nan in its whole piece",
    constant=(4,),
)

# ------------------------------------------------------------------------------------------------------------- derived
excuse("NumPy's, where PyTorch's crash at the smallest of all integers", "gcd lcm")
equal("isposinf isneginf", skip={"c": FLOATS["c"]})
equal("nan_to_num", skip={"b": "PyTorch has none"})
equal(
    "trapezoid cumulative_trapezoid",
    skip={"b": FLOATS["b"], "i": "PyTorch adds integers before they become floats, and they overflow"},
    differs=(Differs("values first", not_finite, "nan where PyTorch adds infinities before it takes halves"),),
)
equal(
    "cov",
    lambda x, **kw: torch.cov(x, **kw),
    skip={"b": FLOATS["b"], "i": "PyTorch's are in float32 too, of other rounding"} | HALVES,
    sized="PyTorch warns",
    constant=(1,),
)
equal("corrcoef", skip={"b": FLOATS["b"], "i": FLOATS["i"]} | HALVES, sized="PyTorch warns", plain="nan everywhere")
equal("vander", lambda x, n=None, increasing=False: torch.vander(x, n, increasing), order=0,
      why="PyTorch's overwrites what it needs", skip={"b": FLOATS["b"], "i": "PyTorch's are int64"})
equal("block_diag", lambda xs: torch.block_diag(*xs))
equal("cartesian_prod", lambda xs: torch.cartesian_prod(*xs), sized="the shape of nothing")
equal("multi_dot", "linalg.multi_dot", skip={"b": "PyTorch has none"}, plain="0 times infinity comes with the order")
equal(
    "logdet",
    cases=lambda s: [((s(3, 3, lo=-0.3, hi=0.3) + np.eye(3) * 2,), {}), ((s(2, 2, 2) * 0 + np.eye(2) * 3,), {})],
    skip=FLOATS | HALVES,
    fixed="singular matrices",
    sized="singular matrices",
    plain="singular matrices",
)
equal(
    "cholesky_solve",
    lambda b, x, upper=False: torch.cholesky_solve(b, x, upper),
    cases=lambda s: [
        ((s(3, 2), np.tril(s(3, 3, lo=0.5)) + np.eye(3, dtype=s.dtype)), {}),
        ((s(3, 1), np.triu(s(3, 3, lo=0.5)) + np.eye(3, dtype=s.dtype)), {"upper": True}),
    ],
    skip=FLOATS | HALVES,
    constant=(1,),  # its derivative by the factor counts the half that is not read
    fixed="singular matrices",
    sized="singular matrices",
    plain="singular matrices",
)
