"""What PyTorch and NumPy call things that have another name here: used only to say so in errors."""

from __future__ import annotations

from typing import Any

from agog.errors import ArgumentTypeError

# The same thing under another name, as a function of `agog` and, where that takes an array first, as a method.
RENAMED = dict(pair.split("=") for pair in """
    absolute=abs amax=max amin=min arccos=acos arccosh=acosh arcsin=asin arcsinh=asinh arctan=atan arctan2=atan2
    arctanh=atanh bitwise_not=bitwise_invert clamp=clip concatenate=concat cat=concat div=divide eq=equal
    true_divide=divide floor_div=floor_divide ge=greater_equal gt=greater invert=bitwise_invert le=less_equal lt=less
    ne=not_equal mod=remainder movedim=moveaxis mul=multiply neg=negative power=pow sub=subtract swapdims=swapaxes
    take_along_dim=take_along_axis unbind=unstack unsqueeze=expand_dims unique=unique_values logsigmoid=log_sigmoid
    hardsigmoid=hard_sigmoid hardswish=hard_swish fix=trunc sgn=sign rint=round vdot=vecdot conjugate=conj
""".split())

TENSOR = {
    "dim": "x.ndim", "numel": "x.size", "t": "x.T", "H": "ag.conj(x).mT", "mH": "ag.conj(x).mT",
    "mm": "x @ y", "bmm": "x @ y", "mv": "x @ y", "dot": "x @ y", "matvec": "x @ y",
    "data": "x.detach() to read without history, x.assign(value) to give a new value",
    "cpu": 'x.to("cpu")', "cuda": 'x.to("cuda")', "is_cuda": "x.device", "get_device": "x.device",
    "float": "x.astype(ag.float32)", "double": "x.astype(ag.float64)", "half": "x.astype(ag.float16)",
    "bfloat16": "x.astype(ag.bfloat16)", "long": "x.astype(ag.int64)", "int": "x.astype(ag.int32)",
    "short": "x.astype(ag.int16)", "byte": "x.astype(ag.uint8)", "bool": "x.astype(ag.bool)",
    "type": "x.astype(dtype), or x.dtype", "type_as": "x.astype(y.dtype)",
    "is_floating_point": 'ag.isdtype(x.dtype, "real floating")',
    "expand": "ag.broadcast_to(x, shape)", "expand_as": "ag.broadcast_to(x, y.shape)",
    "view_as": "x.reshape(y.shape)", "reshape_as": "x.reshape(y.shape)",
    "contiguous": "x itself: a Tensor needs no particular layout",
    "is_contiguous": "nothing: a Tensor needs no particular layout",
    "masked_fill": "ag.where(mask, value, x)", "masked_select": "x[mask]",
    "index_select": "ag.take(x, indices, axis=axis)",
    "index_add": "x.at[indices].add(value)", "index_put": "x.at[indices].set(value)",
    "where": "ag.where(condition, x, y)", "narrow": "x[..., start:start + length]", "select": "x[..., i]",
    "norm": "ag.linalg.vector_norm(x, p), or ag.linalg.norm(x)", "addmm": "x + a @ b", "lerp": "x + (y - x) * weight",
    "new_zeros": "ag.zeros(shape, dtype=x.dtype)",
    "new_ones": "ag.ones(shape, dtype=x.dtype)", "new_full": "ag.full(shape, value, dtype=x.dtype)",
    "new_tensor": "ag.asarray(data, dtype=x.dtype)", "new_empty": "ag.empty(shape, dtype=x.dtype)",
    "retain_grad": "x.register_hook(function), or ag.gradients(loss, [x])", "grad_fn": "x.requires_grad and x.is_leaf",
    "copy": "x.clone()", "fill": "ag.full_like(x, value)", "argpartition": "ag.topk(x, k)",
    "partition": "ag.topk(x, k)",
    "element_size": "x.dtype.itemsize", "itemsize": "x.dtype.itemsize", "storage": "x.numpy()",
    "ptp": "x.max() - x.min()", "uniform": "ag.random.uniform(shape, low, high)",
    "multinomial": "ag.random.choice(n, shape, p=probabilities), or ag.random.categorical(logits)",
    "pin_memory": "nothing: it is not needed", "share_memory": "nothing: it is not needed",
    "inverse": "ag.linalg.inv(x)", "pinverse": "ag.linalg.pinv(x)",
    "matrix_exp": "ag.linalg.expm(x)", "repeat_interleave": "x.repeat(n, axis)",
    "unflatten": "x.reshape(shape)", "clamp_min": "x.clip(min)", "clamp_max": "x.clip(max=max)", "ndimension": "x.ndim",
    "nelement": "x.size", "ger": "ag.outer(x, y)", "is_cpu": "x.device", "tensor_split": "x.array_split(n)",
    "is_complex": 'ag.isdtype(x.dtype, "complex floating")', "kthvalue": "x.sort()[k - 1]", "stride": "x.shape",
    "fliplr": "x.flip(axis=1)", "flipud": "x.flip(axis=0)",
    "scatter_reduce": "x.scatter_add(...) or x.at[i].add(value)",
    "index_fill": "x.at[i].set(value)", "index_copy": "x.at[i].set(value)", "data_ptr": "x.numpy()",
    "map": "ag.vmap(function)(x)", "apply": "ag.vmap(function)(x)",
    "values": "x.max(axis), x.sort(axis), ... as they are: they give the values alone",
    "indices": "x.argmax(axis), x.argmin(axis) or x.argsort(axis)",
}
MODULE = {
    "mm": "ag.matmul(x, y), or x @ y", "bmm": "ag.matmul(x, y), or x @ y", "mv": "x @ y",
    "dot": "x @ y, or ag.vecdot(x, y)",
    "norm": "ag.linalg.vector_norm(x, p), or ag.linalg.norm(x)",
    "addmm": "a @ b + x", "baddbmm": "a @ b + x", "addcmul": "x + a * b",
    "lerp": "x + (y - x) * weight",
    "transpose": "x.transpose(), ag.permute_dims(x, axes) or ag.swapaxes(x, i, j)",
    "vstack": "ag.concat(arrays, axis=0)", "hstack": "ag.concat(arrays, axis=1)", "dstack": "ag.stack(arrays, axis=2)",
    "column_stack": "ag.stack(arrays, axis=1)", "row_stack": "ag.concat(arrays, axis=0)",
    "hsplit": "ag.split(x, n, axis=1)",
    "vsplit": "ag.split(x, n, axis=0)", "append": "ag.concat([x, y])", "masked_fill": "ag.where(mask, value, x)",
    "index_select": "ag.take(x, indices, axis=axis)", "average": "ag.mean(x), or (x * w).sum() / w.sum()",
    "ptp": "ag.max(x) - ag.min(x)",
    "nanmax": "ag.max(ag.where(ag.isnan(x), -ag.inf, x))", "nanmin": "ag.min(ag.where(ag.isnan(x), ag.inf, x))",
    "FloatTensor": "ag.asarray(data, dtype=ag.float32)",
    "LongTensor": "ag.asarray(data, dtype=ag.int64)", "BoolTensor": "ag.asarray(data, dtype=ag.bool)",
    "as_tensor": "ag.asarray(data)", "array": "ag.asarray(data)",
    "ndarray": "ag.Tensor", "float": "ag.float32", "double": "ag.float64",
    "half": "ag.float16",
    "long": "ag.int64", "int": "ag.int32", "short": "ag.int16", "bool_": "ag.bool", "int_": "ag.int64",
    "single": "ag.float32",
    "cuda": 'x.to("cuda"), or device="cuda"', "device": 'a string: device="cuda", or x.to("cpu")', "backends":
    "nothing: there is no such switch",
    "mps": 'x.to("cuda"); there is no MPS', "autograd": "ag.grad, ag.gradients or loss.backward()",
    "func": "ag.vmap, ag.grad, ag.vjp, ag.jvp", "set_grad_enabled": "ag.enable_grad() or ag.no_grad()",
    "inference_mode": "ag.no_grad()", "save": "ag.io.save(path, tree)", "load": "ag.io.load(path)",
    "compile": "ag.function",
    "jit": "ag.function", "script": "ag.function", "set_default_dtype": "ag.set_default_float(dtype)",
    "use_deterministic_algorithms": "ag.set_reproducible(True)",
    "get_default_dtype": "ag.default_float()", "set_printoptions": "np.set_printoptions(...)", "multinomial":
    "ag.random.choice(n, shape, p=probabilities), or ag.random.categorical(logits)",
    "bernoulli": "ag.random.bernoulli(p)",
    "normal": "ag.random.normal(shape, mean, std)", "uniform": "ag.random.uniform(shape, low, high)",
    "seed": "ag.random.seed(n)", "get_rng_state": "ag.random.get_state()",
    "set_rng_state": "ag.random.set_state(state)",
    "utils": "ag.data.DataLoader, ag.checkpoint or ag.nn.utils",
    "distributions": "ag.random for samples; write the log density",
    "amp": "model.to(ag.bfloat16)", "autocast": "model.to(ag.bfloat16)", "special": "ag.erf, ag.lgamma, ...",
    "functional": "ag.nn.functional",
    "array_equal": "ag.all(x == y)", "identity": "ag.eye(n)", "degrees": "ag.rad2deg(x)", "radians": "ag.deg2rad(x)",
    "around": "ag.round(x)", "convolve": "ag.conv1d(x, w)", "flatnonzero": "ag.nonzero(x.ravel())[0]",
    "copy": "x.clone()",
    "geomspace": "ag.logspace(start, stop, n)", "indices": "ag.meshgrid",
    "diag_indices": "i = ag.arange(n), then x[i, i]",
    "nanstd": "ag.std(x[~ag.isnan(x)])", "nanvar": "ag.var(x[~ag.isnan(x)])", "nanmedian": "ag.median(x[~ag.isnan(x)])",
    "repeat_interleave": "ag.repeat(x, n, axis=axis)", "inverse": "ag.linalg.inv(x)",
    "matrix_exp": "ag.linalg.expm(x)", "polyval": "a loop: y = y * x + c", "promote_types": "ag.result_type(a, b)",
    "asanyarray": "ag.asarray(x)", "ascontiguousarray": "ag.asarray(x)", "left_shift": "ag.bitwise_left_shift(x, n)",
    "right_shift": "ag.bitwise_right_shift(x, n)", "digitize": "ag.searchsorted(edges, x)", "fabs": "ag.abs(x)",
    "setdiff1d": "x[~ag.isin(x, y)]", "intersect1d": "x[ag.isin(x, y)]",
    "union1d": "ag.unique_values(ag.concat([x, y]))",
    "fliplr": "ag.flip(x, axis=1)", "flipud": "ag.flip(x, axis=0)", "lax": "ag.cond, ag.while_loop or ag.scan",
    "numel": "x.size", "size": "x.size", "ndim": "x.ndim", "shape": "x.shape",
    "dtype": "ag.float32, ag.int64, ... or x.dtype",
    "Generator": "ag.random.Generator(seed)", "polyfit": "ag.linalg.lstsq(a, b)",
    "interp": "np.interp, or ag.interpolate for images", "apply_along_axis": "ag.vmap(function)(x)",
    "vectorize": "ag.vmap(function)",
    "bucketize": "ag.searchsorted(edges, x)", "clone": "x.clone()", "detach": "x.detach()",
    "permute": "ag.permute_dims(x, axes)", "narrow": "x[..., start:start + length]", "select": "x[..., i]",
    "masked_select": "x[mask]", "tensor_split": "ag.array_split(x, n)", "trapz": "ag.trapezoid(y, x)",
    "complex": "real + 1j * imag", "polar": "size * ag.exp(1j * angle)", "view_as_real":
    "ag.stack([ag.real(x), ag.imag(x)], axis=-1)", "view_as_complex": "x[..., 0] + 1j * x[..., 1]",
    "var_mean": "ag.var(x), ag.mean(x)", "std_mean": "ag.std(x), ag.mean(x)", "aminmax": "ag.min(x), ag.max(x)",
    "frac": "x - ag.trunc(x)", "ldexp": "x * 2.0 ** n", "igamma": "ag.gammainc(a, x)", "igammac": "ag.gammaincc(a, x)",
    "mvlgamma": "ag.multigammaln(x, p)", "solve_triangular": "ag.linalg.triangular_solve(a, b, lower=False)",
    "nanquantile": "ag.quantile(x[~ag.isnan(x)], q)", "dist": "ag.linalg.norm(x - y)",
    "randint_like": "ag.randint(low, high, x.shape)", "index_add": "x.at[indices].add(value)", "index_put":
    "x.at[indices].set(value)", "scatter_reduce": "x.scatter_add(...) or x.at[i].add(value)",
    "broadcast_tensors": "ag.broadcast_arrays(x, y)",
    "is_floating_point": 'ag.isdtype(x.dtype, "real floating")',
    "is_complex": 'ag.isdtype(x.dtype, "complex floating")',
    "unique_consecutive": "ag.unique_values(x), which sorts", "unflatten": "x.reshape(shape)", "msort":
    "ag.sort(x, axis=0)", "kthvalue": "x.sort()[k - 1]", "chain_matmul": "ag.linalg.multi_dot(arrays)", "adjoint":
    "ag.conj(x).mT", "histc": "ag.histogram(x, bins)", "get_num_threads": "ag.config.num_threads", "clamp_min":
    "x.clip(min)", "clamp_max": "x.clip(max=max)",
    "fill_diagonal": "ag.where(ag.eye(n, dtype=ag.bool), value, x)", "gradient": "ag.grad(f)(x), or ag.diff(x)",
}
NN = {
    "DataParallel": "the model itself",
    "BCEWithLogits": "nn.BCEWithLogitsLoss()", "NLLLoss2d": "nn.NLLLoss()",
    "LazyLinear": "nn.Linear(in_features, out_features)",
    "SyncBatchNorm": "nn.BatchNorm2d",
    "UpsamplingNearest2d": "nn.Upsample", "UpsamplingBilinear2d": "nn.Upsample",
}
RANDOM = {
    "default_rng": "ag.random.Generator(seed)", "RandomState": "ag.random.Generator(seed)",
    "shuffle": "x = ag.random.permutation(x)",
    "random": "ag.random.uniform(shape)", "standard_normal": "ag.random.normal(shape)",
    "random_sample": "ag.random.uniform(shape)",
    "multinomial": "ag.random.choice(n, shape, p=probabilities)",
    "binomial": "ag.random.bernoulli(p, (n, *shape)).sum(axis=0)",
    "multivariate_normal": "mean + ag.linalg.cholesky(cov) @ ag.random.normal((n,))", "PRNGKey": "ag.random.key(seed)",
    "manual_seed": "ag.random.seed(n)", "laplace": "ag.random.exponential(shape) - ag.random.exponential(shape)",
}
OPTIM = {"SparseAdam": "ag.optim.Adam", "ASGD": "ag.optim.SGD with ag.optim.swa_utils.AveragedModel"}
DATA = {
    "default_collate": "ag.data.collate", "BatchSampler": "ag.data.Subset(dataset, indices)",
    "Sampler": "ag.data.Subset(dataset, indices)", "SubsetRandomSampler": "ag.data.Subset(dataset, indices)",
    "WeightedRandomSampler": "ag.data.Subset(dataset, ag.random.choice(n, (n,), p=weights))",
    "RandomSampler": "ag.data.DataLoader(dataset, shuffle=True)",
}
KEYWORDS = {
    "dim": "axis", "dims": "axis", "dim0": "axis1", "dim1": "axis2", "keepdim": "keepdims", "ddof": "correction",
    "unbiased": "correction (0 or 1)", "size": "shape", "a_min": "min", "a_max": "max", "learning_rate": "lr",
    "start_dim": "start_axis", "end_dim": "end_axis",
}
_BY_NAME = "say k= (the diagonal) or m= (the columns): NumPy and PyTorch have them in other places"
POSITIONS = {"repeat": "PyTorch's x.repeat(2, 1, 1) is ag.tile(x, (2, 1, 1)) here", "tril_indices": _BY_NAME,
             "triu_indices": _BY_NAME}
"""What to say of functions that are called with too many arguments."""

_ALSO_IN_PLACE = (
    "abs addcdiv ceil clamp clip cos cumsum div eq erf exp exp2 expm1 floor ge gt le log log10 log1p log2 lt mul ne "
    "neg random reciprocal relu remainder round rsqrt scatter scatter_add sigmoid sign sin softmax sqrt square squeeze "
    "sub t tan tanh transpose tril triu trunc"
).split()


_OF: dict[str, dict[str, str]] = {
    "Tensor": TENSOR, "agog.nn": NN, "agog.random": RANDOM, "agog.optim": OPTIM, "agog.optim.lr_scheduler": {},
    "agog.data": DATA, "agog.nn.init": {}, "agog.io": {}}


def methods() -> list[str]:
    """The names of methods that Tensors do not have, but other libraries' arrays."""
    return [*RENAMED, *TENSOR, *(f"{n}_" for n in (*_IN_PLACE, *_ALSO_IN_PLACE))]


def missing(where: str, name: str, options: Any = ()) -> AttributeError:
    """The error for a name that `where` ("Tensor", "agog", "agog.nn", ...) does not have. `options`: names it has."""
    what = "'Tensor'" if where == "Tensor" else f"module {where!r}"
    text = f"{what} has no attribute {name!r}"
    method = where == "Tensor"
    prefix = "x." if method else "ag."
    known = _OF.get(where, MODULE)
    if name in known:
        return AttributeError(f"{text}; write {known[name]}")
    if name in RENAMED:
        return AttributeError(f"{text}; the name here is {prefix}{RENAMED[name]}")
    if method and name.endswith("_") and not name.startswith("_"):
        plain = RENAMED.get(name[:-1], name[:-1])
        instead = _IN_PLACE.get(plain, f"x = x.{plain}(...)")
        return AttributeError(f"{text}: methods do not change a Tensor; write {instead}")
    import difflib

    for other in options:
        if other.lower() == name.lower():
            return AttributeError(f"{text}; did you mean {other!r}?")
    near = difflib.get_close_matches(name, [o for o in options if not o.startswith("_")], n=1, cutoff=0.75)
    return AttributeError(f"{text}; did you mean {near[0]!r}?" if near else text)


_IN_PLACE = {
    "add": "x += y", "subtract": "x -= y", "multiply": "x *= y", "divide": "x /= y", "pow": "x **= y",
    "remainder": "x %= y",
    "zero": "x.assign(ag.zeros_like(x)), or x.grad = None for a gradient", "fill": "x[...] = value",
    "copy": "x.assign(y)", "masked_fill": "x[mask] = value", "index_add": "x = x.at[indices].add(value)",
    "normal": "x.assign(ag.random.normal(x.shape)), or ag.nn.init.normal_(x)",
    "uniform": "x.assign(ag.random.uniform(x.shape)), or ag.nn.init.uniform_(x)", "detach": "x = x.detach()",
    "share_memory": "nothing: it is not needed", "fill_diagonal": "x = ag.where(ag.eye(n, dtype=ag.bool), value, x)",
    "clip": "x = x.clip(min, max), or ag.nn.utils.clip_grad_norm_(parameters, 1.0)", "addcmul": "x += a * b",
    "bernoulli": "x.assign(ag.random.bernoulli(p, x.shape))", "lerp": "x += (y - x) * weight",
    "index_put": "x[indices] = value",
    "exponential": "x.assign(ag.random.exponential(x.shape))", "unsqueeze": "x = x.expand_dims(axis)",
}


def wrong_keywords(name: str, given: Any, result: str = "") -> ArgumentTypeError:
    """The error for keyword arguments of another library, `given` with their values (None: not given)."""
    said = [k for k in given if given[k] is not None]
    parts = [f"{k}= is {KEYWORDS[k]}= here" for k in said if k in KEYWORDS]
    if "out" in said:
        parts.append("there is no out=: use the result")
    if name in ("max", "min") and "dim" in said:
        parts.append(f"and the result is the values alone: arg{name} gives their places")
    return ArgumentTypeError(f"{name}: {'; '.join(parts)}")
