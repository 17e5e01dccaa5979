"""The inputs of the comparison: samples of the rows, layouts of them, empty and 0-d ones, and special values."""

import itertools

import ml_dtypes
import numpy as np
from agreement.compare import arrays_in, replaced
from agreement.peer import EQUIVALENTS
from sampling import KINDS, LAYOUTS, Sampler, accepted, cases, dtype_of, is_inexact

from agog.array import dtypes
from agog.ops.row import COMPOSITES, TABLE


def kinds(name):
    """The kinds of dtype to try: what the row takes; for a composite all, and PyTorch or agog may refuse."""
    if name in TABLE:
        return accepted(TABLE[name]) if TABLE[name].inputs else "f"
    return "bifc"


def dtypes_of(name):
    skip = EQUIVALENTS[name].skip
    return [d for k in kinds(name) if k not in skip for d in KINDS[k] if d not in skip]


def samples(name, dtype):
    """[(inputs, statics by name)]"""
    entry, s = EQUIVALENTS[name], Sampler(dtype_of(dtype), name)
    if entry.cases is not None:
        found = entry.cases(s)
    elif name in TABLE:
        op = TABLE[name]
        given = op.samples(s) if op.samples is not None else [(x, {}) for x, _ in cases(op, dtype_of(dtype))]
        found = [(x, op.statics | statics) for x, statics in given]
    else:
        assert COMPOSITES[name].samples is not None, f"{name} declares no samples: give `cases` in the table"
        found = COMPOSITES[name].samples(s)
    return [*found, *(entry.more(s) if entry.more is not None else ())]


def map_arrays(f, inputs):
    return replaced(tuple(inputs), iter([f(a) for a in arrays_in(inputs)]))


# ------------------------------------------------------------------------------------------------------------ layouts
def stretched(x):
    """The first slice again and again, with stride 0."""
    return np.broadcast_to(x[:1], x.shape) if x.ndim and x.shape[0] and is_inexact(x) else x


def turned(x):
    """Contiguous in another order of the axes: what permute_dims makes of a contiguous array."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0, -1) if x.ndim else x


def layouts(inputs, fixed):
    for what, layout in (LAYOUTS | {"permuted": turned} | ({} if fixed else {"stride 0": stretched})).items():
        yield what, map_arrays(layout, inputs)


# -------------------------------------------------------------------------------------------------- empty and 0-d ones
def emptied(inputs):
    """For every size that occurs in the shapes: the inputs with nothing along all axes of that size."""
    sizes = {n for a in arrays_in(inputs) for n in a.shape if n}
    for size in sorted(sizes):
        yield (
            f"size {size} as 0",
            map_arrays(lambda a, n=size: a[tuple(slice(0 if m == n else None) for m in a.shape)], inputs),
        )


def scalars(inputs):
    """All arrays 0-d."""
    if all(a.size for a in arrays_in(inputs)) and arrays_in(inputs):
        yield "0-d", map_arrays(lambda a: np.asarray(a.reshape(-1)[0]), inputs)


# ------------------------------------------------------------------------------------------------------ special values
def specials(dtype):
    """Values at which functions have kinks, poles, saturations or none at all."""
    dt = dtype_of(dtype)
    kind = dtypes.kind(dt)
    if kind == "b":
        return np.array([False, True])
    if kind == "i" or dt.kind in "iu":
        info = np.iinfo(dt)
        return np.array(sorted({0, 1, 2, 5, info.max, info.max - 1, info.min, *([-1, -3] if info.min else [])}), dt)
    if kind == "c":
        parts = [0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan]
        return np.array([complex(a, b) for a, b in itertools.product(parts, parts)], dt)
    info = ml_dtypes.finfo(dt)
    tiny, least, top = float(info.tiny), float(info.smallest_subnormal), float(info.max)
    return np.array(
        [
            0.0,
            -0.0,
            0.5,
            -0.5,
            1,
            -1,
            2,
            -2,
            3,
            -3,
            6,
            7.25,
            -7.25,
            30,
            -30,
            np.inf,
            -np.inf,
            np.nan,
            tiny,
            -tiny,
            least,
            -least,
            top,
            -top,
        ],
        dt,
    )


def grid(n, dtype):
    """Every combination of n special values, as n arrays of one axis."""
    values = specials(dtype)
    if n > 2:
        values = values[np.r_[:10, -9:0]] if len(values) > 20 else values
    return tuple(a.reshape(-1).copy() for a in np.meshgrid(*[values] * n, indexing="ij"))


def planted(inputs, seed, places=None):
    """Inputs in which a few elements are nan, infinite, zero of both signs, or equal to their neighbours."""
    rng = np.random.default_rng(seed)

    def plant(a, what):
        if dtypes.kind(a.dtype) != "f" or not a.size:
            return a
        a = a.copy()
        flat = a.reshape(-1)
        if what == "ties":
            flat[:] = np.rint(flat.astype(np.float64)).astype(a.dtype)
        else:
            flat[rng.integers(0, flat.size, max(1, flat.size // 6))] = what
        return a

    for what in ("ties", np.nan, np.inf, -np.inf, 0.0, -0.0):
        count = itertools.count()
        yield (
            str(what),
            map_arrays(lambda a, w=what, n=count: plant(a, w) if places is None or next(n) in places else a, inputs),
        )
