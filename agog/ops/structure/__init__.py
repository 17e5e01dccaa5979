"""How rows are computed in loops, for the compiler: which are made of others, and the loop nests of the rest.

A rule of a `NEST` is `nest(b, inputs, node)`: `b` has reduce, gather, assemble, coordinate, point, cast, view, matmul
and scatter_add (see `compiler.lowering.Lowering`), `inputs` have shape and dtype. A rule of a `DECOMPOSE` is written in
other rows. Both give None where they do not fit. Only the compiler imports this.
"""

from __future__ import annotations

from agog.ops.row import TABLE
from agog.ops.structure import placed, products, random, reduced, rows, windows

#: The rows of `x + y` and `x @ y`: a sum of products is a product of longer matrices.
SUM, PRODUCT = TABLE["add"], TABLE["matmul"]
#: The rows of a convolution and of what is clipped at zero: one kernel does both.
CONVOLUTION, RELU = TABLE["conv"], TABLE["relu"]


def _state() -> None:
    for name, rule in rows.INTACT.items():
        TABLE[name].intact = rule
    for module in (placed, products, random, reduced, rows, windows):
        for name, rule in module.DECOMPOSE.items():
            if TABLE[name].decompose is None:
                TABLE[name].decompose = rule
        for name, rule in module.NEST.items():
            if TABLE[name].nest is None:
                TABLE[name].nest = rule
    TABLE["_getitem"].view = placed.opened


_state()
