"""What the native code of convolutions follows: tables of numbers, and the tiles of a machine."""

from __future__ import annotations

from typing import Sequence

from agog.compiler.ir import Value
from agog.compiler.kernel import Kernel
from agog.compiler.targets import Target

__all__ = ["HEAD", "JOB", "LINE", "SUB", "Tiles", "Words"]

LINE = 64  # bytes of a line of the caches

#: Words of a table. Sizes, strides and places are in bytes, except for what is counted; `..._at` counts words.
HEAD = (
    "out_size x_size w_size bias_size samples groups channels outputs x_plane x_slice x_h x_w y_plane packed_size "
    "scratch_size temp_at blocks low longer vectors w_row w_group relu alone by_pixel wide subs by_block own_at "
    "temp_unit paired copied "
    "steps w_at to_at runs runs_at"
).split()
SUB = (
    "first_step off_at parts parts_at classes_at ranges_at t_n h_n w_n y_start y_t y_h y_w taps_d d_at t_step d_n "
    "phases phase_at h_step w_step row held plane band bands clear group run near units ahead ahead_lines "
    "ahead_row in_place place_at"
).split()
#: What a task is told: addresses, then the sub-convolution.
JOB = ("out", "x", "w", "bias", "table", "packed", "sub")


class Tiles:
    """The register tiles of a machine, (rows, vectors): outputs by pixels, pixels by outputs, taps by outputs."""

    def __init__(self, target: Target) -> None:
        many = target.registers >= 32
        self.flat = (8, 3) if many else (3, 3)
        self.pixel = (14, 2) if many else (6, 2)
        self.gradient = (10, 2) if many else (6, 2)

    @staticmethod
    def upto(tile: tuple[int, int]) -> list[tuple[int, int]]:
        """Every smaller tile, and this one."""
        return [(r, v) for r in range(1, tile[0] + 1) for v in range(1, tile[1] + 1)]


class Words:
    """The fields of a table, loaded where they are asked for."""

    def __init__(self, k: Kernel, base: Value, names: Sequence[str]) -> None:
        self._k, self._base, self._names, self._seen = k, base, names, {}
        for name in names:  # all at the start of the function: what is not used costs nothing
            self._seen[name] = k.load(k.at(base, names.index(name), "int64"), "int64")

    def __getattr__(self, name: str) -> Value:
        return self._seen[name]

    def array(self, at: Value) -> Value:
        """The address of the word `at` of the table."""
        return self._k.at(self._base, at, "int64")
