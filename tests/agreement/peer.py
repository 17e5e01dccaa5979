"""What the table of PyTorch equivalents is written with: `equal`, `excuse`, and the registries they fill.

Nothing here needs PyTorch: functions are named by strings or called inside lambdas, so that the test which counts the
rows runs everywhere. `torch` is None where it is not installed.
"""

from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = F = None

EQUIVALENTS: dict[str, "Equivalent"] = {}
EXCUSED: dict[str, str] = {}
RENAMED = {"axis": "dim", "keepdims": "keepdim"}


@dataclass
class Equivalent:
    """One operation and what PyTorch calls it.

    call     the dotted name inside of torch, or `f(*tensors, **statics)`
    own      what is called on agog's side, where that is not the operation itself: `f(xp, *tensors, **statics)`
    cases    `f(sampler) -> [(inputs, statics)]`, instead of the samples that the operation declares
    more     further cases, after those
    skip     {kind or name of a dtype: why it is not compared}
    differs  what is known to be different: see `Differs`
    promotes why the dtypes of the results differ by design; their values are compared all the same
    fixed    why the inputs cannot be laid out as broadcasts of a part, or filled with special values
    plain    why the inputs cannot be filled with special values
    local    a composite that works element by element: rows say so themselves
    plant    the places of the arrays that get special values; all by default
    sized    why inputs without elements are not compared
    constant the places of arrays for which PyTorch has no gradient
    order    the highest derivative that PyTorch has as agog does (0, 1, 2), and `why` where it is less than 2
    error    how many units in the last place the results may be apart, times the scale of the result,
             or that by dtype
    """

    name: str
    call: Any
    own: Any = None
    cases: Any = None
    more: Any = None
    skip: dict[str, str] = field(default_factory=dict)
    differs: tuple = ()
    promotes: str = ""
    fixed: str = ""
    local: bool = False
    plant: tuple | None = None
    plain: str = ""
    sized: str = ""
    constant: tuple = ()
    order: int = 2
    why: str = ""
    error: float | dict[str, float] = 64

    def peer(self, *inputs, **statics):
        if not isinstance(self.call, str):
            return self.call(*inputs, **statics)
        fn = torch
        for part in self.call.split("."):
            fn = getattr(fn, part)
        return fn(*inputs, **{RENAMED.get(k, k): v for k, v in statics.items()})


@dataclass
class Differs:
    """A difference that is meant: `where(*inputs)` marks the elements, or says for the whole case, True or False.

    what    "values", "first", "second" (derivative), several of them, or "sign of zero"; "inputs" for special
            values that PyTorch raises an error for, or agog
    """

    what: str
    where: Callable[..., Any]
    reason: str

    def mask(self, what, inputs):
        """`where` of the inputs, brought to a common shape where they have one."""
        if what not in self.what:
            return False
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        try:
            whole = iter(np.broadcast_arrays(*arrays))
            inputs = [next(whole) if isinstance(x, np.ndarray) else x for x in inputs]
        except ValueError:
            pass
        with np.errstate(all="ignore"):
            return self.where(*inputs)


def any_nan(*inputs):
    """Whether there is a nan among the inputs."""
    return any(
        np.isnan(x.astype(np.float64)).any() for x in inputs if isinstance(x, np.ndarray) and x.dtype.kind in "fV"
    )


def not_finite(*inputs):
    """Whether there is a nan or an infinity among the inputs."""
    return any(
        not np.isfinite(x.astype(np.float64)).all()
        for x in inputs
        if isinstance(x, np.ndarray) and x.dtype.kind in "fV"
    )


def equal(names: str, call: Any = None, **kw: Any) -> None:
    """The operations in `names` have a PyTorch equivalent: of the same name, unless `call` says otherwise;
    `call="special."` is of the same name there."""
    for name in names.split():
        assert name not in EQUIVALENTS and name not in EXCUSED, f"{name} stands twice in the table"
        full = (call or "") + name if isinstance(call, str | None) and (call or ".").endswith(".") else call
        EQUIVALENTS[name] = Equivalent(name, full, **kw)


def excuse(reason: str, names: str) -> None:
    """The operations in `names` are not compared, for this reason."""
    for name in names.split():
        assert name not in EQUIVALENTS and name not in EXCUSED, f"{name} stands twice in the table"
        EXCUSED[name] = reason
