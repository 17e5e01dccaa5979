"""PyTorch's equivalents of creation, movement, joining, indexing, reductions, scans, sorting and searching."""

import functools
import math

import numpy as np
from agreement.peer import Differs, F, any_nan, equal, excuse, not_finite, torch


def torch_dtype(d):
    return None if d is None else getattr(torch, np.dtype(d).name)


def over(name, *more):
    """A reduction of PyTorch over one axis, as one over several, all (None) or none (())."""

    def call(x, axis=None, keepdims=False, **kw):
        axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(a % x.ndim if x.ndim else 0 for a in axes) if x.ndim else ()
        rest = [a for a in range(x.ndim) if a not in axes]
        sizes = [x.shape[a] for a in rest]
        y = getattr(torch, name)(
            x.permute((*rest, *axes)).reshape(*sizes, math.prod(x.shape[a] for a in axes)), dim=-1, **kw
        )
        return y.reshape([1 if a in axes else n for a, n in enumerate(x.shape)]) if keepdims else y

    return call


def along(name, pick=None):
    """A scan of PyTorch along an axis; without one, of all elements in a row."""

    def call(x, axis=None):
        y = getattr(torch, name)(x.flatten() if axis is None else x, dim=0 if axis is None else axis)
        return y if pick is None else y[pick]

    return call


def tied(x, *_):
    """Whether elements are equal, so that it is open which of them is chosen."""
    return len(np.unique(x)) < x.size


def aligned(x, indices, values, axis):
    """`indices` and `values` in the shape that all but `axis` of `x` gives."""
    axis %= x.ndim
    shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
    return indices.expand(torch.broadcast_shapes(indices.shape, shape)), values


def written(x, key, value, mode):
    if (
        mode == "add"
        and not isinstance(key, int | slice)
        and not (isinstance(key, tuple) and any(isinstance(k, slice | int) for k in key))
    ):
        keys = key if isinstance(key, tuple) else (torch.tensor(key) if isinstance(key, list) else key,)
        return x.index_put(keys, value, accumulate=True)
    y = x.clone()
    y[key] = y[key] + value if mode == "add" else value
    return y


def initial(y, axis, first, wanted):
    axis = 0 if axis is None else axis
    return torch.cat([torch.full_like(y.narrow(axis, 0, 1), first), y], axis) if wanted else y


UNSIGNED = "sums of unsigned integers stay unsigned, as the Array API standard has it"
RANDOM = "random numbers are agog's own: the same on any thread count, not PyTorch's"
ADJOINT = "only a gradient: compared as the first and second derivative of what it belongs to"
HIDDEN = "what public operations of this table run: compared through them"

# ------------------------------------------------------------------------------------------------------------ creation
for _name in ("zeros", "ones"):
    equal(_name, lambda shape, dtype, make=_name: getattr(torch, make)(shape, dtype=torch_dtype(dtype)))
equal(
    "full",
    lambda shape, fill_value: torch.full((shape,) if isinstance(shape, int) else shape, fill_value),
    cases=lambda s: [(((2, 3), 2.5), {}), ((4, 3), {}), (((), True), {}), (((0, 2), 1j), {})],
)
equal("zeros_like ones_like full_like")
equal(
    "arange",
    lambda start, stop, step, dtype: (
        torch.arange(start, dtype=torch_dtype(dtype))
        if stop is None
        else torch.arange(start, stop, step, dtype=torch_dtype(dtype))
    ),
    cases=lambda s: [
        ((), {"start": 5, "stop": None, "step": 1, "dtype": None}),
        ((), {"start": 1, "stop": 2, "step": 0.3, "dtype": None}),
        ((), {"start": 5, "stop": 1, "step": -2, "dtype": s.dtype}),
        ((), {"start": 3, "stop": 3, "step": 1, "dtype": None}),
    ],
)
equal(
    "linspace",
    lambda start, stop, num, endpoint, dtype: torch.linspace(start, stop, num, dtype=torch_dtype(dtype)),
    cases=lambda s: [
        ((), {"start": 0, "stop": a, "num": n, "endpoint": True, "dtype": s.dtype})
        for a, n in ((1, 5), (-3.5, 4), (1, 0), (1, 1))
    ],
)
equal(
    "logspace",
    lambda start, stop, num, base: torch.logspace(start, stop, num, base),
    cases=lambda s: [
        ((), {"start": 0, "stop": 2, "num": 5, "base": 10.0}),
        ((), {"start": 1.5, "stop": -2, "num": 4, "base": 2.0}),
    ],
)
equal(
    "eye",
    lambda n_rows, n_cols, k, dtype: torch.triu(torch.tril(torch.ones(n_rows, n_cols or n_rows), k), k).to(
        torch_dtype(dtype)
    ),
)
equal("tri", lambda n, m, k: torch.tril(torch.ones(n, m), k), cases=lambda s: [((3, 4, 1), {}), ((2, 0, -1), {})])
excuse("what lies in the memory is not compared: agog has zeros there", "empty empty_like")

# ------------------------------------------------------------------------------------------------------------ movement
equal(
    "reshape",
    lambda x, shape: torch.reshape(x, (shape,) if isinstance(shape, int) else shape),
    own=lambda xp, x, shape: xp.reshape(x, shape),
)
equal("broadcast_to", lambda x, shape: torch.broadcast_to(x, shape))
equal("permute_dims", lambda x, axes: torch.permute(x, axes), own=lambda xp, x, axes: xp.permute_dims(x, axes))
equal("matrix_transpose", lambda x: x.mT)
equal("swapaxes", lambda x, axis1, axis2: torch.swapaxes(x, axis1, axis2))
equal("moveaxis")
equal(
    "expand_dims",
    lambda x, axis: (
        functools.reduce(torch.unsqueeze, sorted(a % (x.ndim + len(axis)) for a in axis), x)
        if isinstance(axis, tuple)
        else torch.unsqueeze(x, axis)
    ),
)
equal("squeeze", lambda x, axis: torch.squeeze(x, axis))
equal("flatten", lambda x, start_axis=0: torch.flatten(x, start_axis))
equal("ravel")
equal("atleast_1d atleast_2d atleast_3d", cases=lambda s: [((s(),), {}), ((s(0),), {}), ((s(2, 3),), {})])
equal(
    "flip",
    lambda x, axis: torch.flip(x, tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis),
)
equal("roll", lambda x, shift, axis: torch.roll(x, shift, axis))
equal("rot90", lambda x, k: torch.rot90(x, k))
equal("tile", lambda x, repetitions: torch.tile(x, (repetitions,) if isinstance(repetitions, int) else repetitions))
equal(
    "repeat",
    lambda x, repeats, axis=None: torch.repeat_interleave(
        x, torch.tensor(repeats) if isinstance(repeats, tuple | list) else repeats, axis
    ),
)
equal("broadcast_arrays", "broadcast_tensors", cases=lambda s: [((s(3, 1), s(4), s()), {}), ((s(0, 1), s(2)), {})])
equal(
    "meshgrid",
    lambda *xs, indexing: torch.meshgrid(*xs, indexing=indexing),
    cases=lambda s: [((s(3), s(2)), {"indexing": "xy"}), ((s(3), s(2), s(0)), {"indexing": "ij"})],
)
equal(
    "diagonal",
    lambda x, offset, axis1, axis2: torch.diagonal(x, offset, axis1, axis2),
    own=lambda xp, x, offset, axis1, axis2: xp.diagonal(x, offset=offset, axis1=axis1, axis2=axis2),
)
equal("diag", lambda x, k: torch.diag(x, k))
equal("diag_embed")
for _name in ("tril", "triu"):
    equal(_name, lambda x, k, make=_name: getattr(torch, make)(x, k))
equal("trace", lambda x, offset=0: torch.diagonal(x, offset, -2, -1).sum(-1), promotes=UNSIGNED)

# ------------------------------------------------------------------------------------------------ joining and splitting
equal("concat", lambda arrays, axis=0: torch.cat(arrays, axis))
equal("stack", lambda arrays, axis: torch.stack(arrays, axis))
equal("split", lambda x, at, axis=0: torch.tensor_split(x, at, axis))
equal("array_split", lambda x, sections: torch.tensor_split(x, sections))
equal("chunk")
equal("unstack", "unbind")
equal(
    "pad",
    lambda x, width, mode="constant", constant_values=0: F.pad(
        x if mode == "constant" else x[None],
        [n for pair in reversed(width) for n in pair],
        {"constant": "constant", "wrap": "circular", "reflect": "reflect", "edge": "replicate"}[mode],
        constant_values if mode == "constant" else None,
    )[() if mode == "constant" else 0],
    cases=lambda s: [
        ((s(2, 3), ((1, 0), (0, 2))), {}),
        ((s(2, 3), ((1, 0), (0, 2))), {"constant_values": 1}),
        *(((s(3, 4), ((0, 0), (2, 1))), {"mode": m}) for m in ("wrap", "reflect", "edge")),
    ],
)

# ------------------------------------------------------------------------------------------------------------ indexing
equal(
    "take",
    lambda x, indices, axis: torch.index_select(x, axis, indices.flatten()).reshape(
        x.shape[: axis % x.ndim] + indices.shape + x.shape[axis % x.ndim + 1 :]
    ),
    own=lambda xp, x, indices, axis: xp.take(x, indices, axis=axis),
)
equal("take_along_axis", lambda x, indices, axis: torch.take_along_dim(x, indices, axis))
equal(
    "put_along_axis",
    lambda x, indices, values, axis: x.scatter(axis, *torch.broadcast_tensors(*aligned(x, indices, values, axis))),
    cases=lambda s: [
        ((s(3, 4), np.array([[3, 0], [1, 2], [2, 3]]), s(3, 2)), {"axis": -1}),  # each place is written once
        ((s(3, 4), np.array([[0], [2]]), s()), {"axis": 0}),
    ],
)
equal(
    "add_along_axis",
    lambda x, indices, values, axis=-1: x.scatter_add(
        axis, *torch.broadcast_tensors(*aligned(x, indices, values, axis))
    ),
)
equal("gather scatter_add")
equal(
    "scatter",
    cases=lambda s: [
        ((s(3, 4), 0, np.array([[0, 2], [1, 0]]), s(2, 2)), {}),
        ((s(3, 4), 1, np.array([[3, 0, 1]]), s(1, 3)), {}),
    ],
)  # each place is written once
equal(
    "one_hot",
    lambda x, n: F.one_hot(x, n).float(),
    cases=lambda s: [((s.ints(5, 2, 3), 5), {}), ((s.ints(3, 0), 3), {})],
)
equal(
    "embedding",
    lambda indices, weight, padding_idx: F.embedding(indices, weight, padding_idx),
    more=lambda s: [((s.ints(5, 3, 4), s(5, 2)), {"padding_idx": 1})],
)
equal(
    "index",
    lambda x, key: x[key],
    more=lambda s: [
        ((s(3, 4), (Ellipsis, 1)), {}),
        ((s(3, 4, 2), (slice(None), np.array([1, 3, 1]), 0)), {}),
        ((s(3, 4, 2), (np.array([1, -3]), slice(1, 3), np.array([0, 1]))), {}),
        ((s(3, 4), -2), {}),
        ((s(3, 4), np.array([True, False, True])), {}),
        ((s(2, 2), np.array([[True, False], [True, True]])), {}),
        ((s(3, 4), (None, np.array([[0, 1], [2, 0]]), None)), {}),
        ((s(2), (slice(2, None),)), {}),
    ],
)
equal(
    "index_update",
    lambda x, key, value, mode="set": written(x, key, value, mode),
    more=lambda s: [
        ((s(3, 4), (slice(None), np.array([1, 3])), s(3, 2)), {}),
        ((s(3, 4), (np.array([0, 2]), np.array([1, 1])), s(2)), {}),
        ((s(3, 4), np.array([1, 1, 0]), s(4)), {"mode": "add"}),
        ((s(3), (Ellipsis,), s()), {}),
        ((s(2, 2), np.array([[True, False], [True, True]]), s(3)), {}),
        ((s(2, 2), np.array([True, False]), s()), {"mode": "add"}),
    ],
)
equal("nonzero", lambda x: torch.nonzero(x, as_tuple=True))
equal("argwhere")
equal(
    "bincount",
    lambda x, weights, minlength: torch.bincount(x, weights, minlength),
    order=0,
    why="PyTorch's has no gradient",
    skip=dict.fromkeys(("b", "i", "c", "float16", "bfloat16"), "PyTorch takes the weights as float64"),
    sized="PyTorch counts nothing as int64, whatever the weights",
    cases=lambda s: [((s.ints(4, 7), s(7), 0), {}), ((s.ints(4, 7), None, 6), {})],
)


# ---------------------------------------------------------------------------------------------------------- reductions
equal("sum", over("sum"), promotes=UNSIGNED)
equal("mean", over("mean"), promotes="the mean of integers, which PyTorch refuses, is a float")
equal("prod", over("prod"), promotes=UNSIGNED)
equal("max", over("amax"))
equal("min", over("amin"))
equal("all", over("all"), promotes="PyTorch's of uint8 is uint8")
equal("any", over("any"), promotes="PyTorch's of uint8 is uint8")
equal("count_nonzero", over("count_nonzero"))
equal("var", over("var"))
equal("std", over("std"))
equal("logsumexp", over("logsumexp"))
equal("nansum", over("nansum"), promotes=UNSIGNED)
equal("nanmean", over("nanmean"))
equal("argmax", over("argmax"))
equal("argmin", over("argmin"))
equal(
    "vector_norm",
    lambda x, ord, axis, keepdims: torch.linalg.vector_norm(x, ord, axis, keepdims),
    differs=(Differs("first", any_nan, "agog hands nan on, PyTorch loses it"),),
)
BETWEEN = Differs("values first", not_finite, "between infinities as in NumPy; from nan no gradient")
equal("median", lambda x, axis=None, keepdims=False: torch.quantile(x, 0.5, axis, keepdims), differs=(BETWEEN,))
equal(
    "quantile",
    lambda x, q, axis=None, keepdims=False: torch.quantile(
        x, torch.tensor(q, dtype=x.dtype) if isinstance(q, tuple) else q, axis, keepdims
    ),
    differs=(BETWEEN,),
)
equal("percentile", lambda x, q, axis: torch.quantile(x, q / 100, axis), differs=(BETWEEN,))

# -------------------------------------------------------------------------------------------- scans, sorting, searching
equal("cumsum", along("cumsum"), promotes=UNSIGNED)
equal("cumprod", along("cumprod"), promotes=UNSIGNED)
equal("logcumsumexp", along("logcumsumexp"))
equal("cummax", along("cummax"))
equal("cummin", along("cummin"))
equal(
    "cumulative_sum",
    lambda x, axis=None, include_initial=False: initial(along("cumsum")(x, axis), axis, 0, include_initial),
    promotes=UNSIGNED,
)
equal(
    "cumulative_prod",
    lambda x, axis=None, include_initial=False: initial(along("cumprod")(x, axis), axis, 1, include_initial),
    promotes=UNSIGNED,
)
equal("diff", lambda x, n=1, axis=-1, prepend=None: torch.diff(x, n, axis, prepend))
equal("sort", lambda x, axis, descending, stable: torch.sort(x, dim=axis, descending=descending, stable=True)[0])
equal("argsort", lambda x, axis, descending, stable: torch.argsort(x, dim=axis, descending=descending, stable=True))
equal(
    "topk",
    lambda x, k, axis=-1, largest=True: torch.topk(x, k, axis, largest)[0],
    own=lambda xp, x, k, axis=-1, largest=True: xp.topk(x, k, axis=axis, largest=largest)[0],
    differs=(Differs("first second", tied, "PyTorch chooses any of equal elements"),),
)
equal(
    "searchsorted",
    lambda x1, x2, sorter, side: torch.searchsorted(x1, x2, side=side, sorter=sorter),
    fixed="the first input has to be sorted",
)
equal("isin", lambda x1, x2, invert: torch.isin(x1, x2, invert=invert))
equal("unique_values", lambda x: torch.unique(x))
equal("unique_inverse", lambda x: torch.unique(x, return_inverse=True))
equal("unique_counts", lambda x: torch.unique(x, return_counts=True))
equal(
    "unique_all",
    lambda x: torch.unique(x, return_inverse=True, return_counts=True),
    own=lambda xp, x: tuple(np_like for i, np_like in enumerate(xp.unique_all(x)) if i != 1),
)
equal(
    "histogram",
    lambda x, bins, range: [
        y if i else y.long()
        for i, y in enumerate(
            torch.histogram(x, bins, range=range)
            if range is not None
            else torch.histogram(x, torch.tensor(bins, dtype=x.dtype))
        )
    ],
    skip={"b": "PyTorch takes floats only", "i": "PyTorch takes floats only"},
)


# ------------------------------------------------------------------------------------------------------------- excused
excuse(
    RANDOM,
    "random_key random_split random_fold_in random_bits random_uniform random_normal random_exponential "
    "random_integers random_log_gamma random_poisson random_truncated_normal random_bernoulli random_beta "
    "random_categorical random_choice random_dirichlet random_gamma random_gumbel random_permutation "
    "_random_key _random_permutation _dropout_mask dropout",
)
excuse(
    ADJOINT,
    "_diagonal_adjoint _embedding_adjoint _getitem_adjoint _getitem_adjoints _getitem_arrays_adjoint "
    "_getitem_written _tanh_rule _sigmoid_rule "
    "_pad_periodic_adjoint _take_adjoint _take_along_axis_adjoint _take_along_written _gate sum_to",
)
excuse(
    HIDDEN,
    "_full _argcummax _argcummin _concatenated _stacked _split2 _split3 _split4 _pad_constant _pad_periodic _getitem "
    "_getitem_array _getitem_arrays _setitem _setitem_array _setitem_arrays _nonzero _one_hot _ranked _topk_indices "
    "_unique _unique_values atleast_nd",
)
