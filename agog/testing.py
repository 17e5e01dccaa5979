"""For tests of code that uses agog: `assert_close`."""

from __future__ import annotations

from typing import Any

import numpy as np

from agog import tree
from agog.array import dtypes
from agog.dispatch import operand
from agog.tensor import Tensor, asarray

__all__ = ["assert_close"]
_SHOWN = 6


def assert_close(got: Any, want: Any, *, rtol: float | None = None, atol: float | None = None, equal_nan: bool = True,
                 check_dtype: bool = True, msg: str = "") -> None:
    """Raise AssertionError, with the worst differences, unless `got` and `want` are close.

    got, want    Tensors, arrays, numbers, or containers of them of the same structure. Shapes must be equal, and dtypes
                 where both sides have one (Python numbers and lists of them have none)
    rtol, atol   close means |got - want| <= atol + rtol * |want|; by default both follow from the less exact dtype:
                 rtol is 1e-7 for float64, 1e-5 for float32, 4 eps for 16-bit floats, and atol a tenth of that;
                 integers and bools must be equal
    equal_nan    nan equals nan
    msg          put before the report
    """
    __tracebackhide__ = True
    problems = _compare(got, want, rtol, atol, equal_nan, check_dtype)
    if problems:
        raise AssertionError("\n".join([msg] * bool(msg) + problems))


def _leaf(x: Any) -> bool:
    """Lists of numbers are arrays; other containers are trees."""
    return isinstance(x, Tensor | np.ndarray) or isinstance(x, list | tuple) and all(
        isinstance(v, int | float | complex) or isinstance(v, list | tuple) and _leaf(v) for v in x)


def _compare(got: Any, want: Any, rtol: Any, atol: Any, equal_nan: bool, check_dtype: bool) -> list[str]:
    if isinstance(got, Tensor | np.ndarray) or isinstance(want, Tensor | np.ndarray):
        return _compare_arrays("", got, want, rtol, atol, equal_nan, check_dtype)
    left, structure = tree.flatten(got, is_leaf=_leaf)
    right, other = tree.flatten(want, is_leaf=_leaf)
    if structure != other:
        return ["the structures differ:", f"  got:  {_outline(got)}", f"  want: {_outline(want)}"]
    names = [name for name, _ in tree.paths(got)] if len(tree.leaves(got)) == len(left) else [""] * len(left)
    out: list[str] = []
    for name, a, b in zip(names, left, right):
        out += _compare_arrays(name, a, b, rtol, atol, equal_nan, check_dtype)
    return out


def _outline(x: Any) -> str:
    text = repr(tree.map(lambda v: _Facts(v), x)) if not _leaf(x) else repr(_Facts(x))
    return text if len(text) < 400 else text[:400] + " ..."


class _Facts:
    def __init__(self, x: Any):
        self.text = f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") and hasattr(x, "dtype") else type(x).__name__

    def __repr__(self) -> str:
        return self.text


def _array(x: Any) -> Any:
    if isinstance(x, Tensor):
        return np.asarray(x.detach())
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    if isinstance(x, list | tuple):
        return np.asarray(x) if _leaf(x) else np.asarray(asarray(x))
    return None if operand(x) is None else np.asarray(x)


def _compare_arrays(name: str, got: Any, want: Any, rtol: Any, atol: Any, equal_nan: bool,
                    check_dtype: bool) -> list[str]:
    where = f"{name}: " if name else ""
    a, b = _array(got), _array(want)
    for side, x, given in (("got", a, got), ("want", b, want)):
        if x is None:
            return [] if got is want or type(got) is type(want) and bool(got == want) else [
                f"{where}{side} is a {type(given).__name__}: {given!r:.80}"]
    if a.shape != b.shape:
        return [f"{where}the shapes differ: got {a.shape}, want {b.shape}"]
    typed = [isinstance(x, Tensor | np.ndarray | np.generic) for x in (got, want)]
    if check_dtype and all(typed) and a.dtype != b.dtype:
        return [f"{where}the dtypes differ: got {a.dtype}, want {b.dtype} (check_dtype=False compares the values)"]
    exact = not any(dtypes.is_inexact(x.dtype) for x in (a, b))
    measure = [x.dtype for x, t in zip((a, b), typed) if t and dtypes.is_inexact(x.dtype)]
    default = 0.0 if exact else max((_tolerance(d) for d in measure), default=1e-7)
    rtol = default if rtol is None else rtol
    atol = default / 10 if atol is None else atol
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    if exact:
        off, error = a != b, None
    else:
        x, y = a.astype(wide), b.astype(wide)
        with np.errstate(all="ignore"):
            error = np.abs(x - y)
            fine = (error <= atol + rtol * np.abs(y)) | (x == y)
            if equal_nan:
                fine |= np.isnan(x) & np.isnan(y)
        off = ~fine
    count = int(np.count_nonzero(off))
    if not count:
        return []
    return _report(where, a, b, off, error, count, rtol, atol)


def _tolerance(dtype: np.dtype) -> float:
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype.name) or float(np.finfo(dtype).eps)
    return eps * 4 if dtypes.is_half(dtype) else {True: 1e-5, False: 1e-7}[eps > 1e-10]


def _report(where: str, a: Any, b: Any, off: Any, error: Any, count: int, rtol: float, atol: float) -> list[str]:
    size = a.size
    exact = error is None
    kind = "differ" if exact else f"are not close (rtol={rtol:.3g}, atol={atol:.3g})"
    out = [f"{where}{count} of {size} elements {kind}; {a.dtype}{list(a.shape)}"]
    places = np.argwhere(off) if a.ndim else [()]
    if not exact:
        ranks = np.where(np.isnan(error), np.inf, error)
        places = sorted(places, key=lambda i: -ranks[tuple(i)])
    heads = ("index", "got", "want") + (() if exact else ("difference",))
    rows = [heads]
    for i in places[:_SHOWN]:
        at = tuple(int(k) for k in i)
        row = (str(list(at)) if at else "", str(a[at]), str(b[at]))
        rows.append(row if exact else (*row, f"{error[at]:.4g}"))
    widths = [max(len(r[c]) for r in rows) for c in range(len(heads))]
    out += ["  " + "  ".join(v.rjust(w) for v, w in zip(r, widths)) for r in rows]
    if count > _SHOWN:
        out.append(f"  ... and {count - _SHOWN} more" + ("" if exact else ", the worst are shown"))
    return out
