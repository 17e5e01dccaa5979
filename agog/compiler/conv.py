"""Convolutions of any number of dimensions up to three, and their gradients.

    conv("float32").forward(x, w, b, stride, padding, dilation, groups)     -> y
    conv("float32").input_grad(g, w, size, stride, padding, dilation, groups)  -> dx
    conv("float32").weight_grad(x, g, kernel, stride, padding, dilation, groups) -> dw

The arguments are those of the rows of `ops.conv`; how a call is planned is in `conv_plans`.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from agog.compiler import call, conv_gradients, depthwise, jit, pool, targets
from agog.compiler.conv_plans import Plan, plan
from agog.compiler.planned import Planned
from agog.compiler.targets import Target

__all__ = ["Conv", "conv"]


class Conv(Planned):
    """Convolutions of one dtype. Methods return None for what `plan` finds better done by matrix products."""

    __slots__ = ()

    def _bound(self, kind: str) -> Callable[..., None]:
        made = depthwise if kind in depthwise.NAMES else conv_gradients
        module = made.later(self.name, self.target, kind)
        return call.bind(module, f"{kind}_{self.name}", conv_gradients.PARAMETERS, imports=pool.imports)

    def forward(
        self, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int, relu: bool = False,
        empty: Any = np.empty,
    ) -> Any:
        """The row `conv`, with relu if wanted."""
        p = self._plan("forward", x, w, (), stride, padding, dilation, groups, b is not None, relu)
        return self._run(p, x, w, b, empty)

    def input_grad(
        self, g: Any, w: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int, empty: Any = np.empty
    ) -> Any:
        """The row `conv_input_grad`."""
        p = self._plan("input", g, w, tuple(size), stride, padding, dilation, groups)
        return self._run(p, g, w, None, empty)

    def weight_grad(
        self, x: Any, g: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, empty: Any = np.empty
    ) -> Any:
        """The row `conv_weight_grad`."""
        p = self._plan("weight", x, g, tuple(kernel), stride, padding, dilation, groups)
        return self._run(p, x, g, None, empty)

    def _plan(self, what: str, x: Any, w: Any, *rest: Any) -> Plan | None:
        try:
            return plan(self.target, self.name, what, x.shape, w.shape, *rest)
        except TypeError:  # a list, which cannot be looked up
            return plan(self.target, self.name, what, x.shape, w.shape, *map(_tuples, rest))

    def _run(self, p: Plan | None, x: Any, w: Any, b: Any, empty: Any) -> Any:
        if p is None:
            return None
        native = self._found(p.kind)
        if native is None:
            return None
        pool.refresh()
        x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
        out = empty(p.shape, self.dtype)
        if b is None:
            native(out, x, w, self.nothing, p.table, 0)
        else:
            native(out, x, w, np.ascontiguousarray(b), p.table, 1)
        return out


@functools.cache
def conv(dtype: str, target: Target | None = None) -> Conv:
    """The convolutions of "float32" or "float64"; compiled at the first call on a machine, then read from disk."""
    return Conv(dtype, target or targets.host())


@functools.cache
def code(dtype: str, target: Target) -> jit.Code:
    """The function "conv" of (out, x, w, bias or null, table), for other native code."""
    return jit.load(conv_gradients.later(dtype, target, "conv"), ["conv"], pool.imports)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
