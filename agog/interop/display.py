"""Tensors and modules as HTML, for notebooks (`_repr_html_`)."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from agog.array import dtypes

_ROWS, _COLUMNS = 12, 12
_CELL = "text-align:right;padding:1px 6px;font-family:monospace"
_HEAD = "font-size:90%;opacity:0.7;margin-bottom:2px"


def tensor(t: Any, data: np.ndarray) -> str:
    """The values in `data` (the middle left out when there are many), under a line with the facts of `t`."""
    shape = "×".join(map(str, t.shape)) if t.shape else "scalar"
    grad = "" if t._node is None else ", requires grad" if t.is_leaf else ", computed with gradient"
    facts = escape(f"{type(t).__name__} {shape}, {t.dtype}, {t.device}{grad}")
    head = f'<div style="{_HEAD}">{facts}</div>'
    if data.size == 0 or data.ndim not in (1, 2):
        text = np.array2string(np.asarray(data, np.float32) if dtypes.is_half(data.dtype) else data, separator=", ",
                               threshold=1000, edgeitems=3)
        return f"<div>{head}<pre>{escape(text)}</pre></div>"
    grid = data[None, :] if data.ndim == 1 else data
    rows, columns = _picked(grid.shape[0], _ROWS), _picked(grid.shape[1], _COLUMNS)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{_cell(grid, i, j)}</td>' for j in columns) + "</tr>"
                   for i in rows)
    return f"<div>{head}<table>{body}</table></div>"


def _picked(n: int, most: int) -> list[int | None]:
    """The indices to show; None stands for those left out."""
    half = most // 2
    return list(range(n)) if n <= most else [*range(half), None, *range(n - half, n)]


def _cell(grid: np.ndarray, i: int | None, j: int | None) -> str:
    if i is None or j is None:
        return "⋮" if j is not None else "…" if i is not None else "⋱"
    x = grid[i, j]
    if dtypes.kind(grid.dtype) == "f":
        return f"{float(x):.4g}"
    return escape(f"{complex(x):.4g}" if grid.dtype.kind == "c" else str(x))


def module(m: Any) -> str:
    """A table of the parameters of `m`, and the structure below it."""
    rows, total = [], 0
    for name, p in m.named_parameters():
        total += p.size
        shape = "×".join(map(str, p.shape)) or "scalar"
        fixed = "" if p.requires_grad else " (fixed)"
        rows.append(f'<tr><td style="text-align:left">{escape(name)}{fixed}</td><td style="{_CELL}">{shape}</td>'
                    f'<td style="{_CELL}">{escape(str(p.dtype))}</td><td style="{_CELL}">{p.size:,}</td></tr>')
    shown = [r for i, r in enumerate(rows) if i < 40]
    if len(rows) > 40:
        shown.append(f'<tr><td style="text-align:left">… {len(rows) - 40} more</td></tr>')
    return (f'<div><div style="{_HEAD}">{escape(type(m).__name__)}, {total:,} parameters, '
            f'{"training" if m.training else "evaluating"}</div><pre>{escape(repr(m))}</pre>'
            f'<details><summary>parameters</summary><table>{"".join(shown)}</table></details></div>')
