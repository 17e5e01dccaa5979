"""The general matrix product (`gemm`) as a function that compiled programs call with a job of their own."""

import functools
from typing import NamedTuple

from agog import config
from agog.compiler import gemm, jit, pool
from agog.compiler.gemm_tiles import Tiles
from agog.compiler.targets import ITEMSIZE

__all__ = ["Shares", "code", "parts", "shares"]


_PARALLEL = 1 << 20  # multiplications that pay for waking a thread
_OF_VECTOR = 4  # times as long takes one that reads an element from memory for itself


@functools.cache
def code(dtype, target):
    """`gemm.SYMBOL + dtype`, which does tasks of a job (see `gemm_kernels.FIELDS`), and `gemm.SUM + dtype`."""
    return jit.load(gemm.later(dtype, target), [gemm.SYMBOL + dtype, gemm.SUM + dtype], pool.imports)


class Shares(NamedTuple):
    """How a product is divided, as `gemm` does it."""

    by_rows: bool
    per_task: int  # length of a task along that axis
    tasks: int  # for each matrix, or part of k
    parts: int  # of k: 1 for undivided
    part: int  # steps of k in each


def parts(dtype, m, n, depth, batch):
    """How many parts of k are computed apart and then added, which follows from the sizes alone; see `gemm`."""
    thin = min(m, n) >= gemm.NARROW and max(m, n) * gemm.THIN <= depth and m * n * ITEMSIZE[dtype] <= gemm.SUMMED
    if not thin or m * n * depth < gemm.PARALLEL or batch != 1 or depth < gemm.PART:
        return 1
    return max([2, *[p for p in gemm.MORE_PARTS if depth >= p * gemm.PART]])


def shares(dtype, target, m, n, depth, batch, threads):
    """The Shares of a product; `threads`: whether there may be more than one."""
    work = m * n * depth * batch
    count = config.num_threads if threads else 1
    alone = count <= 1 or work * (_OF_VECTOR if 1 in (m, n) else 1) < _PARALLEL
    tiles, lanes = Tiles(target), target.vector_bytes // ITEMSIZE[dtype]
    several = parts(dtype, m, n, depth, batch)
    by_rows = m >= n
    unit = tiles.tall[0] if by_rows else tiles.tall[1] * lanes
    length = m if by_rows else n
    tasks = count * 2 if length >= count * 2 * gemm.LONG else count
    wanted = 1 if alone else -(-tasks // (batch * several))
    units = -(-length // unit)
    per_task = max(1, -(-units // wanted)) * unit
    part = -(-depth // several // lanes) * lanes if several > 1 else depth
    return Shares(by_rows, per_task, -(-length // per_task), several, part)
