"""The row: everything that is known about one operation, declared once.

    exp = elementwise("exp(x) -> y", vjp={"x": lambda xp, g, y: g * y})

The signature names the array inputs, then (after `;`) the static parameters with their defaults, then the outputs.
A rule is handed its world `xp` (raw arrays, Tensors, graph values, batched values), the cotangent or tangent `g`, and
whatever else it names: inputs, outputs, static parameters, and `x_shape`, `x_dtype` of an input `x`. The names a rule
takes are exactly what is saved for it. Cotangents follow the transpose convention (no conjugation anywhere);
`tape` conjugates once, at the boundary, so that users see the gradient that points uphill.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import Any, Callable

import numpy as np

from agog.array import dtypes, few, large

TABLE: dict[str, Op] = {}
COMPOSITES: dict[str, Callable[..., Any]] = {}

_LITERALS = {"None": None, "True": True, "False": False, "()": ()}


def _default(text: str) -> Any:
    if text in _LITERALS:
        return _LITERALS[text]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text.strip("'\"")


class Op:
    """One row of the op table.

    name       unique; the public function and the attribute of every namespace
    inputs     names of the array arguments; a single `*xs` means any number of them
    optional   inputs with a default, written `clip(x, min=None, max=None)`: None (absent) or a number
    statics    static parameters with their defaults, in order
    outputs    names of the results
    impl       the computation on raw arrays: the name of a NumPy function, or `f(np, *inputs, *statics)`
    vjp        {input: rule}: the cotangent of that input. An input without a rule is not differentiable
    jvp        {input: rule}: the tangent of the output; derived where `linear_in` or `elementwise` say how
    linear_in  inputs in which the op is linear, jointly ("all" for every one): forward mode is the op itself
    promotes   inputs brought to a common dtype first
    takes      kinds of dtype accepted: 'b' bool, 'i' integers, 'f' floats, 'c' complex
    to_float   integers are converted to the default float first (exp, mean, ...)
    result     dtype of the result: 'same', 'bool', 'int64', 'real', or a function of the input dtypes
    widen      16-bit floats are computed in float32
    reduce     the ufunc whose `reduce` is the computation, except for 16-bit floats: the fast path calls that
    check      `check(*inputs, *statics) -> statics`: normalises static parameters, raises the errors that teach
    choose     `choose(ufunc, x, y)` for a row of two inputs: the computation, where some numbers have a quicker way
    slow       elements from which `large.slow` computes a row of a ufunc of two operands that takes long for each
    sure       a condition on the static parameters under which the computation itself refuses whatever `check` refuses,
               and takes the rest as it is: where nothing is kept for a gradient, `check` need not be asked
    lower      `lower(k, *inputs)`: the scalar computation, for the compiler
    batch      batching rule `batch(xp, dims, inputs, statics) -> (output, dim)`; elementwise rows need none
    reads      the static parameter that is a basic index, of a row of one input that is x[index]
    factors    {input: rule(g, saved)}, for one input: its cotangent is aᵀ b of the (..., m) and (..., n) that it gives
    domain     (low, high) of random test inputs; `samples` gives whole argument lists instead

    Facts for graphs (most are stated in `ops.facts`):
    commutative  the two inputs may be exchanged, bit for bit
    view       `view(np, x, *statics)`: the result as a view of a C-contiguous x, reading no element of it
    infer      `infer(*inputs, *statics) -> ((shape, dtype), ...)` where running on zeros would be slow or wrong
    dynamic    `dynamic(*inputs, *statics)`: True when the result's shape depends on the inputs' values
    selects    `selects(statics, place)`: when the number at this place of the static parameters (a path of indices)
               does nothing but select along an axis of the one input, (axis, the static parameters for the rest); else
               None

    Facts for the compiler (most are stated in `ops.structure`):
    decompose  `decompose(xp, *inputs, *statics)`: the same in other rows, or None where that is not possible
    nest       `nest(b, inputs, node)`: the computation as loops, written with `compiler.lowering.Lowering`
    intact     `intact(*inputs, *statics)`: True where `nest` is better than `decompose`, which is the choice otherwise
    """

    __slots__ = ("name", "inputs", "variadic", "statics", "outputs", "impl", "vjp", "jvp", "linear_in", "promotes",
                 "takes", "to_float", "result", "widen", "check", "lower", "batch", "elementwise", "domain", "samples",
                 "doc", "error", "names", "keeps", "rules", "derived", "raw", "signature", "lazy", "static_names",
                 "kind", "reference", "smooth", "optional", "commutative", "view", "infer", "dynamic", "decompose",
                 "nest", "reduce", "factors", "reads", "selects", "straight", "pull_from", "plain", "intact",
                 "sure", "choose", "slow")

    straight: tuple[Callable[..., Any], int, Any] | None
    """The rule of a row of one input that works element by element, if it takes one saved value or none."""

    def __init__(self, signature: str, impl: Any = None, *, vjp: dict[str, Callable[..., Any]] | None = None,
                 jvp: dict[str, Callable[..., Any]] | None = None, linear_in: Any = (), promotes: Any = None,
                 takes: str = "bifc", to_float: bool = False, result: Any = "same", widen: bool = False,
                 check: Callable[..., Any] | None = None, lower: Callable[..., Any] | None = None,
                 batch: Callable[..., Any] | None = None, elementwise: bool = False, domain: Any = None,
                 samples: Callable[..., Any] | None = None, doc: str = "", error: float = 4.0, kind: str = "other",
                 reference: Any = None, smooth: bool = True, commutative: bool = False, view: Any = None,
                 infer: Any = None, dynamic: Any = None, decompose: Any = None, nest: Any = None,
                 reduce: str | None = None, factors: dict[str, Callable[..., Any]] | None = None, intact: Any = None,
                 reads: str | None = None, sure: str | None = None, choose: Any = None, slow: int = 0):
        head, _, outs = signature.partition("->")
        name, _, params = head.strip().rstrip(")").partition("(")
        arrays, _, statics = params.partition(";")
        self.name, self.signature = name.strip(), signature
        heads = [a.partition("=") for a in arrays.split(",") if a.strip()]
        self.inputs = tuple(n.strip() for n, _, _ in heads)
        self.optional = {n.strip(): _default(v.strip()) for n, eq, v in heads if eq}
        self.variadic = bool(self.inputs) and self.inputs[0].startswith("*")
        if self.variadic:
            self.inputs = (self.inputs[0][1:],)
        self.statics: dict[str, Any] = {}
        for item in statics.split(","):
            if item.strip():
                key, _, value = item.partition("=")
                self.statics[key.strip()] = _default(value.strip()) if value else REQUIRED
        self.static_names = tuple(self.statics)
        self.outputs = tuple(o.strip() for o in outs.split(","))
        self.impl = impl if impl is not None else self.name
        self.vjp = vjp or {}
        self.jvp = jvp or {}
        self.linear_in = self.inputs if linear_in == "all" else tuple(linear_in)
        self.promotes = self.inputs if promotes is None else tuple(promotes)
        self.takes, self.to_float, self.result, self.widen = takes, to_float, result, widen
        self.check, self.lower, self.batch, self.elementwise = check, lower, batch, elementwise
        self.domain, self.samples, self.doc, self.error, self.kind = domain, samples, doc, error, kind
        self.reference, self.smooth, self.reduce, self.sure = reference, smooth, reduce, sure
        self.choose, self.slow = choose, slow
        self.commutative, self.view, self.infer, self.dynamic = commutative, view, infer, dynamic
        self.decompose, self.nest, self.intact, self.selects = decompose, nest, intact, None
        self._index_rules()
        self.factors: tuple[int, Callable[..., Any], int] | None = None
        for name, split in (factors or {}).items():
            self.factors = self.inputs.index(name), split, self.names.index(split.__code__.co_varnames[1])
        self.reads = None if reads is None else (self.names.index(f"{self.inputs[0]}_shape"), self.names.index(reads))
        self.plain = self._bind(np)
        self.raw: Callable[..., Any] = self.bind(np)
        if self.name in TABLE or self.name in COMPOSITES:
            raise ValueError(f"two rows for {self.name}")
        TABLE[self.name] = self

    def _index_rules(self) -> None:
        """Turn the names that the rules take into positions in the saved environment.

        The environment of a recorded call is (inputs, outputs, statics, derived), each as in `names`.
        """
        base = self.inputs + self.outputs + self.static_names
        self.derived: tuple[tuple[str, int], ...] = ()
        names = list(base)
        used: dict[str, tuple[str, ...]] = {}
        for name, rule in self.vjp.items():
            code = rule.__code__
            used[name] = code.co_varnames[2:code.co_argcount]
            for n in used[name]:
                if n not in names:
                    source, _, what = n.rpartition("_")
                    if what not in ("shape", "dtype") or source not in self.inputs:
                        raise ValueError(f"{self.name}: the rule of {name} takes {n!r}, which the row does not know")
                    names.append(n)
                    self.derived += ((what, self.inputs.index(source)),)
        self.names = tuple(names)
        order = self.inputs
        self.rules = tuple(_rule(self.vjp[n], [names.index(u) for u in used[n]]) if n in self.vjp else None
                           for n in order)
        alone: Any = self.rules[0] if self.elementwise and len(order) == 1 and len(self.outputs) == 1 else None
        self.straight = None if alone is None or alone[1] > 1 else alone
        # What calls rows goes over its arrays several times, unlike `g * y`.
        calls = self.straight is not None and self.straight[1] == 1 and self.straight[0].__code__.co_names
        self.pull_from = large.MIDDLE if calls else large.PULL_FROM
        savable = self.inputs + self.outputs
        if self.variadic:  # (inputs, output): all or none of the inputs
            self.keeps: tuple[Any, ...] = tuple(any(n in u for u in used.values()) for n in savable)
        else:  # keeps[mask]: what to save when the inputs in `mask` need a gradient (None: nothing)
            keeps: list[Any] = []
            for mask in range(1 << len(order)):
                want = {u for i, n in enumerate(order) if mask >> i & 1 and n in used for u in used[n]}
                flags = tuple(n in want for n in savable)
                keeps.append(flags if any(flags) else None)
            self.keeps = tuple(keeps)
        self.lazy = self.elementwise

    def _bind(self, np_like: Any) -> Callable[..., Any]:
        impl = self.impl
        fn = getattr(np_like, impl) if isinstance(impl, str) else partial(impl, np_like)
        several = self.elementwise and self.widen and self.lower is not None  # calls of NumPy's, that is
        alone = len(self.inputs) == 1 and not self.statics and np_like is np
        return few.each(self.name, fn) if several and alone else fn

    def bind(self, np_like: Any) -> Callable[..., Any]:
        """The computation over one array library: `raw(*inputs, *statics)`."""
        raw = self._bind(np_like)
        return _widened(raw, "dtype" in self.statics, self.name) if self.widen else raw

    def __repr__(self) -> str:
        return f"<op {self.signature}>"

    def __reduce__(self) -> Any:
        return _find, (self.name,)


def _rule(fn: Callable[..., Any], places: list[int]) -> tuple[Callable[..., Any], int, Any]:
    """A rule as the tape takes it: with how many saved values it takes, and where they are (one index, or a getter)."""
    return fn, len(places), itemgetter(*places) if len(places) > 1 else places[0] if places else None


def _widened(raw: Callable[..., Any], typed: bool, name: str) -> Callable[..., Any]:
    """`raw` with 16-bit floats computed in float32. A row with a `dtype` parameter says itself what it returns.

    Where there is a native kernel that takes the 16 bits (`large.halves`), it does all of that in one pass.
    """
    def compute(*args: Any) -> Any:
        if args and type(args[0]) is np.ndarray and args[0].dtype is _WIDE:  # the common case
            return raw(*args)
        if not args or getattr(args[0], "dtype", _WIDE).itemsize != 2 or not dtypes.is_half(args[0].dtype):
            return raw(*args)
        half = args[0].dtype
        kernel = large.halves.get(name)
        if kernel is not None and args[0].size >= large.HALVES_FROM:
            done = kernel(*args)
            if done is not None:
                return done
        out = raw(*[large.astype(a, _WIDE) if hasattr(a, "dtype") and a.dtype == half else a for a in args])
        if typed:
            return out
        if isinstance(out, tuple):
            return tuple(large.astype(o, half) if o.dtype == _WIDE else o for o in out)
        return large.astype(out, half) if out.dtype == _WIDE else out

    return compute


_WIDE = np.dtype(np.float32)


class _Required:
    def __repr__(self) -> str:
        return "<required>"


REQUIRED = _Required()


def _find(name: str) -> Op:
    return TABLE[name]


def elementwise(signature: str, impl: Any = None, **kw: Any) -> Op:
    """A row that works element by element: broadcasting, unbroadcasting, batching and forward mode follow from that."""
    return Op(signature, impl, elementwise=True, kind="elementwise", **kw)


def composite(fn: Any = None, /, *, samples: Any = None, joins: Any = None, splits: Any = None,
              totals: bool = False) -> Any:
    """Declare `fn(xp, ...)`, an operation made of others; every namespace has it, bound to itself.

    A trailing underscore of the Python name is dropped (`any_` is the operation `any`). joins: `joins(arrays, axis)` is
    what `fn(xp, arrays, axis=0)` computes of NumPy arrays of one dtype, or None, or an error, where that needs the
    rows. splits: `splits(array, axis)` is what `fn(xp, array, axis=0)` makes of one, in a list, or None. totals: it is
    `fn(xp, terms, inputs, mean)`, the sum or the mean of what the elementwise row `terms` gives for the inputs.
    """
    if fn is None:
        return lambda f: composite(f, samples=samples, joins=joins, splits=splits, totals=totals)
    name = fn.__name__.rstrip("_")
    if name in TABLE or name in COMPOSITES:
        raise ValueError(f"two rows for {name}")
    fn.samples, fn.joins, fn.splits, fn.totals = samples, joins, splits, totals
    COMPOSITES[name] = fn
    return fn
