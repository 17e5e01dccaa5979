"""The general matrix product (`gemm`) as a function that compiled programs call with a job of their own."""

import functools

from agog import config
from agog.compiler import gemm, jit, pool
from agog.compiler.ir import Module
from agog.compiler.targets import ITEMSIZE

__all__ = ["shares", "task"]


_PARALLEL = 1 << 20  # multiplications that pay for waking a thread


@functools.cache
def task(dtype, target):
    """(symbol, address, code, tiles): `symbol(job, begin, end, thread)` does tasks of a job, see `gemm._FIELDS`."""
    tiles = gemm._Writer(Module(target), dtype).tiles
    symbol = gemm.SYMBOL + dtype
    code = jit.load(gemm.later(dtype, target), [symbol], pool.imports())
    return symbol, code[symbol], code, tiles


def shares(tiles, dtype, target, m, n, depth, batch, threads):
    """(by rows, length of a task along that axis, tasks for each matrix), as `gemm` would divide it."""
    work = m * n * depth * batch
    count = config.num_threads if threads else 1
    alone = count <= 1 or work < _PARALLEL
    by_rows = m >= n
    unit = tiles.tall[0] if by_rows else tiles.tall[1] * target.vector_bytes // ITEMSIZE[dtype]
    length = m if by_rows else n
    wanted = 1 if alone else -(-(count * 2 if length >= count * 2 * gemm._LONG else count) // batch)
    units = -(-length // unit)
    per_task = max(1, -(-units // wanted)) * unit
    return by_rows, per_task, -(-length // per_task)
