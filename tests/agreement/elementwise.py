"""PyTorch's equivalents of the operations that work element by element."""

import numpy as np
from agreement.peer import Differs, equal, excuse, torch

AS_FLOATS = "activations of integers are computed as floats"
NAN = "agog hands nan on, PyTorch loses it"
ZERO = Differs(
    "sign of zero", lambda *_: True, "PyTorch's own depends on the dtype and the place in the array, or is lost"
)
NO_COMPLEX = Differs("values", lambda *xs: infinite(*xs), "PyTorch computes with infinite parts by finite formulas")


def extreme(*xs):
    """Where an input is so large or small that intermediate products overflow or vanish."""
    with np.errstate(all="ignore"):
        sizes = [np.abs(np.asarray(x, np.float64)) for x in xs]
    return np.any([(x != 0) & (x < 1e-4) | np.isfinite(x) & (x > 1e4) for x in sizes], axis=0)


def infinite(*xs):
    """Where a complex input is not finite."""
    return np.any([~np.isfinite(x) if np.iscomplexobj(x) else np.zeros(x.shape, bool) for x in xs], axis=0)


def nan(*xs):
    return np.any([np.isnan(np.asarray(x, np.float64)) for x in np.broadcast_arrays(*xs)], axis=0)


by_zero = Differs("inputs", lambda x, y: (y == 0) & (y.dtype.kind in "iu"), "PyTorch raises for integers divided by 0")

# ---------------------------------------------------------------------------------------------------- arithmetic
equal("multiply divide negative positive reciprocal square abs hypot where")
equal("add subtract", differs=(NO_COMPLEX,))
equal("sign", differs=(Differs("values", nan, NAN), ZERO))
equal("floor_divide", differs=(by_zero,))
equal(
    "remainder",
    differs=(
        by_zero,
        Differs("values", extreme, "PyTorch divides, which overflows"),
        Differs("sign of zero", lambda *_: True, "the sign of y, as in Python and NumPy"),
    ),
)
equal("fmod", differs=(by_zero, Differs("values", extreme, "PyTorch divides, which overflows")))
equal(
    "pow",
    differs=(
        Differs("inputs", lambda x, y: (y < 0) & (y.dtype.kind in "i"), "integers to negative powers raise in agog"),
        Differs("second", lambda x, y: y == 0, "PyTorch takes y * x**(y - 1) for constant in y where y is 0"),
        Differs("values", lambda x, y: np.iscomplexobj(x) & (x == 0), "0 ** y, also where y has an infinite part"),
        NO_COMPLEX,
    ),
)
equal("maximum minimum fmax fmin copysign", differs=(ZERO,))
equal("nextafter", differs=(Differs("sign of zero", lambda *_: True, "NumPy's float16 keeps that of x"),))
equal("heaviside", promotes="integers are computed as floats, as NumPy does", differs=(Differs("values", nan, NAN),))
equal(
    "clip",
    lambda x, min, max: x.clone() if min is None and max is None else torch.clip(x, min, max),
    differs=(
        ZERO,
        Differs(
            "first second",
            lambda x, min, max: min is not None and max is not None and min == max,
            "PyTorch gives nothing to two equal bounds, agog to the lower",
        ),
    ),
)
equal("astype", lambda x, dtype: x.to(getattr(torch, dtype.name)), own=lambda xp, x, dtype: xp.astype(x, dtype))
equal("equal", "eq")
equal("not_equal", "ne")
equal("less", "lt")
equal("less_equal", "le")
equal("greater", "gt")
equal("greater_equal", "ge")
equal("logical_and logical_or logical_xor logical_not isnan isinf isfinite signbit")
equal("bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift")
equal("bitwise_invert", "bitwise_not")
equal("floor ceil trunc round")
equal("real", lambda x: torch.real(x))
equal("imag", lambda x: torch.imag(x) if x.is_complex() else torch.zeros_like(x))
equal("conj", lambda x: torch.conj(x).resolve_conj())
equal(
    "angle",
    differs=(Differs("values", lambda x: (x == 0) & np.signbit(x.real), "the angle of -0.0 is pi, as in NumPy"),),
)
equal("isclose allclose")

# ----------------------------------------------------------------------------------- exponentials, logarithms, angles
equal("sqrt rsqrt exp exp2 log log1p log2 log10 logaddexp sin cos tan asin acos atan atan2")
equal("sinh cosh tanh asinh acosh atanh deg2rad rad2deg")
equal("expm1", differs=(NO_COMPLEX,))
equal("logaddexp2", differs=(Differs("values", lambda x, y: (x == -1) & (y == -1), "exactly 0 in agog"),))
equal("sinc", differs=(Differs("values", lambda x: x == np.rint(x.astype(float)), "exactly 0 at integers in agog"),))
equal("logit", local=True, differs=(Differs("values", nan, NAN),))
excuse("PyTorch has no cube root", "cbrt")

# ---------------------------------------------------------------------------------------------------- special functions
equal("erf erfc i0")
equal("erfinv", differs=(ZERO,))
equal("lgamma digamma", error={"float64": 1e8})  # PyTorch's trigamma has ten digits
equal(
    "polygamma",
    error={"float64": 1e8},
    local=True,
    differs=(Differs("values", lambda n, x: np.isinf(x), "PyTorch has nan at infinity"),),
)
equal("multigammaln", "special.", skip={"b": "PyTorch refuses bools"}, error={"float64": 1e8}, local=True)
equal("erfcx ndtri entr i0e i1 i1e", "special.")
equal("xlogy", differs=(Differs("first", extreme, "PyTorch multiplies before it divides"),))
equal("xlog1py", "special.", differs=(Differs("first", extreme, "PyTorch multiplies before it divides"),))
equal("ndtr", "special.", differs=(Differs("values", lambda x: x < -2, "PyTorch computes 1 + erf, which cancels"),))
equal("log_ndtr", "special.", error=256)
equal(
    "gammainc gammaincc",
    "special.",
    error={"float64": 1e7},
    differs=(Differs("values", nan, NAN), Differs("values", extreme, "PyTorch's series overflow")),
)
equal(
    "zeta",
    "special.",
    differs=(
        Differs("values", nan, NAN),
        Differs("values", lambda x, q: np.isinf(q) | extreme(q), "0 at infinity, where PyTorch has nan"),
    ),
)
excuse("PyTorch has lgamma only", "gamma")
excuse("orders 2 and above, which appear in the derivatives of i0 and i1 only", "_iv _ive")

# ------------------------------------------------------------------------------------------------------ activations
equal("sigmoid")
equal("relu", differs=(ZERO,))
equal("selu mish tanhshrink silu", "nn.functional.", differs=(ZERO,), local=True)
equal("softplus", "nn.functional.", error=256, local=True)  # PyTorch's is x above 20
equal(
    "relu6 celu hardshrink softshrink", "nn.functional.", differs=(ZERO, Differs("values first", nan, NAN)), local=True
)
equal("softsign", "nn.functional.", skip={"b": AS_FLOATS, "i": AS_FLOATS}, differs=(ZERO,))
equal(
    "gelu",
    "nn.functional.",
    local=True,
    differs=(
        Differs(
            "values", lambda x: np.isinf(x) | (x < -2) | extreme(x), "PyTorch computes 1 + erf, and has nan at inf"
        ),
        ZERO,
    ),
)
equal("elu leaky_relu", "nn.functional.", differs=(ZERO,), cases=lambda s: [((s(3, 4), 0.3), {}), ((s(0, 2), 1.5), {})])
equal("hardtanh", "nn.functional.", skip={"b": AS_FLOATS, "i": AS_FLOATS}, differs=(ZERO,))
equal("log_sigmoid", "nn.functional.logsigmoid")
equal("hard_sigmoid", "nn.functional.hardsigmoid", error={"float64": 1e9})  # its 1/6 is a float32
equal("hard_swish", "nn.functional.hardswish", differs=(Differs("values", extreme, "PyTorch's product overflows"),))
equal("glu", "nn.functional.glu")
equal(
    "prelu",
    "nn.functional.prelu",
    differs=(
        Differs("second", lambda x, w: (x == 0).any(), "at the kink PyTorch's second derivative by slope and x is 0"),
    ),
)
excuse(
    "what gelu, softplus, logit, powers and losses run",
    "_gelu _gelu_tanh _softplus _logit _power3 _power4 _binary_cross_entropy_terms _logits_terms _kl_terms "
    "_kl_log_terms _squared_error _absolute_error _huber _total_terms",
)
