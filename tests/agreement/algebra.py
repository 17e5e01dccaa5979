"""PyTorch's equivalents of products, linear algebra and Fourier transforms."""

import numpy as np
from agreement.peer import F, equal, excuse, torch

SINGULAR = "with nan and infinity, or parts of it repeated, a matrix has no such decomposition or inverse"
NO_INTEGERS = "PyTorch takes floats only"
FLOATS = {"b": NO_INTEGERS, "i": NO_INTEGERS, "float16": NO_INTEGERS, "bfloat16": NO_INTEGERS}


def hermitian(x):
    return (x + x.mH) / 2


def regular(s, *shape):
    """Matrices far from singular, with well separated eigenvalues and singular values."""
    return (s(*shape, lo=-0.5, hi=0.5) + np.eye(*shape[-2:]) * np.arange(2, 2 + shape[-1])).astype(s.dtype)


def squared(x):
    """|x|**2: what does not depend on the signs and phases of eigenvectors."""
    return (x * x.conj()).real if x.is_complex() else x * x


def own_squared(xp, x):
    return xp.real(x * xp.conj(x)) if x.dtype.kind == "c" else x * x


def squares(s):
    return [((regular(s, 3, 3),), {}), ((regular(s, 2, 2, 2),), {}), ((s(0, 0),), {}), ((regular(s, 1, 1),), {})]


def tall(s):
    return [((regular(s, 3, 3),), {}), ((regular(s, 2, 4, 3),), {}), ((regular(s, 1, 1),), {})]


def powers(w):
    """The sums of powers, which do not depend on the order of eigenvalues."""
    return w.sum(-1), (w * w).sum(-1), (w * w * w).sum(-1)


# ------------------------------------------------------------------------------------------------------------ products
equal("matmul", promotes="PyTorch has no product of bools")
equal("vecdot", lambda x, y, axis: torch.linalg.vecdot(x, y, dim=axis))
equal("linear", lambda x, weight, bias: F.linear(x, weight, bias))
equal("affine", lambda x, w, bias: x @ w if bias is None else x @ w + bias)
equal("bilinear", "nn.functional.bilinear", promotes="sums of small integers are int64")
equal("outer inner kron")
equal("einsum", plain="0 times infinity comes or not with the order of the products")
equal("tensordot", lambda x, y, axes: torch.tensordot(x, y, axes))
equal("cross", lambda x, y, axis=-1: torch.linalg.cross(x, y, dim=axis))

# ------------------------------------------------------------------------------------------------------ linear algebra
equal("det inv matrix_power pinv", "linalg.", skip=FLOATS, fixed=SINGULAR)
equal("expm", "linalg.matrix_exp", skip=FLOATS, fixed=SINGULAR)
equal("solve", "linalg.solve", skip=FLOATS, fixed=SINGULAR)
equal(
    "triangular_solve",
    lambda a, b, lower, unit_diagonal: torch.linalg.solve_triangular(
        a, b if b.ndim > 1 else b[:, None], upper=not lower, unitriangular=unit_diagonal
    ).reshape(b.shape if b.ndim == 1 else (*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:])),
    skip=FLOATS,
    fixed=SINGULAR,
)
equal("cholesky", lambda x, upper=False: torch.linalg.cholesky(hermitian(x), upper=upper), skip=FLOATS, fixed=SINGULAR)
equal("slogdet", lambda x: torch.linalg.slogdet(x), skip=FLOATS, fixed=SINGULAR, cases=squares)
equal("matrix_rank", lambda x, rtol: torch.linalg.matrix_rank(x, rtol=rtol), skip=FLOATS, fixed=SINGULAR)
equal("matrix_norm", lambda x, ord: torch.linalg.matrix_norm(x, ord), skip=FLOATS, fixed=SINGULAR)
equal(
    "cond",
    lambda x, p: (
        torch.linalg.cond(x, p)
        if p is None
        else torch.linalg.matrix_norm(x, p) * torch.linalg.matrix_norm(torch.linalg.inv(x), p)
    ),
    skip=FLOATS,
    fixed=SINGULAR,
)
equal(
    "lstsq",
    lambda a, b: torch.linalg.lstsq(a, b, driver="gelsd").solution,
    own=lambda xp, a, b: xp.lstsq(a, b)[0],
    skip=FLOATS,
    fixed=SINGULAR,
    cases=lambda s: [((regular(s, 4, 3), s(4, 2)), {}), ((regular(s, 3, 3), s(3, 1)), {})],
)

# Of what is not unique (signs, phases, the order of complex eigenvalues), only what does not depend on it is compared.
equal("eigvalsh", lambda x: torch.linalg.eigvalsh(hermitian(x)), skip=FLOATS, fixed=SINGULAR)
equal(
    "eigvals",
    lambda x: powers(torch.linalg.eigvals(x)),
    own=lambda xp, x: tuple(xp.sum(p, axis=-1) for w in [xp.eigvals(x)] for p in (w, w * w, w * w * w)),
    skip=FLOATS,
    fixed=SINGULAR,
)
equal("svdvals", "linalg.svdvals", skip=FLOATS, fixed=SINGULAR)
equal(
    "eigh",
    lambda x: [f(a) for f, a in zip((lambda w: w, squared), torch.linalg.eigh(hermitian(x)))],
    own=lambda xp, x: [f(a) for f, a in zip((lambda w: w, lambda v: own_squared(xp, v)), xp.eigh(x))],
    skip=FLOATS,
    fixed=SINGULAR,
    cases=squares,
)
equal(
    "eig",
    lambda x: [(squared(v) * w[..., None, :]).sum(-1) for w, v in [torch.linalg.eig(x)]],
    own=lambda xp, x: [xp.sum(own_squared(xp, v) * xp.expand_dims(w, axis=-2), axis=-1) for w, v in [xp.eig(x)]],
    skip=FLOATS,
    fixed=SINGULAR,
    cases=lambda s: squares(s)[:2],
)
equal(
    "svd",
    lambda x, full_matrices: [
        f(a) for f, a in zip((squared, lambda s: s, squared), torch.linalg.svd(x, full_matrices=full_matrices))
    ],
    own=lambda xp, x, full_matrices: [
        f(a)
        for f, a in zip(
            (lambda v: own_squared(xp, v), lambda s: s, lambda v: own_squared(xp, v)),
            xp.svd(x, full_matrices=full_matrices),
        )
    ],
    skip=FLOATS,
    fixed=SINGULAR,
    cases=lambda s: [(x, {"full_matrices": False}) for x, _ in tall(s)],
)
equal(
    "qr",
    lambda x: [squared(a) for a in torch.linalg.qr(x)],
    own=lambda xp, x: [own_squared(xp, a) for a in xp.qr(x)],
    skip=FLOATS,
    fixed=SINGULAR,
    cases=tall,
)
excuse("what det, cholesky, eig, eigh, qr, slogdet and svd run", "_cofactor _cholesky _eig _eigh _qr _slogdet _svd")

# --------------------------------------------------------------------------------------------------- Fourier transforms
MIXED = "a transform mixes all elements: where nan and infinity come out depends on the algorithm"
HALF = {"float16": "PyTorch's has no 16-bit floats on the CPU", "bfloat16": "PyTorch's has no 16-bit floats on the CPU"}
for _name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    equal(_name, f"fft.{_name}", skip=HALF, plain=MIXED)
for _name in ("fftn", "ifftn", "rfftn", "irfftn"):
    equal(_name, lambda x, s=None, axes=None, name=_name: getattr(torch.fft, name)(x, s, axes), skip=HALF, plain=MIXED)
for _name in ("fftshift", "ifftshift"):
    equal(_name, lambda x, axes=None, name=_name: getattr(torch.fft, name)(x, axes))
equal("fftfreq", lambda n, d, dtype: torch.fft.fftfreq(n, d))
equal("rfftfreq", lambda n, d, dtype: torch.fft.rfftfreq(n, d))
