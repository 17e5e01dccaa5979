"""Which recorded path a call may take, from what Python would have seen of its Tensors.

A recording holds for the values that Python looked at. Where one of them is another now, all that came before it is as
it was: Python does the same until it sees something else. So of the recordings that begin alike, those that have seen
this value may be the ones, and no others.
"""

from __future__ import annotations

from typing import Any

_KEPT = 64
"""Answers that are remembered."""


class Path:
    """The looks of a recording at values, in order; none where they do not correspond to those of others (in loops)."""

    __slots__ = ("looks",)

    def __init__(self, looks: list[Any]):
        self.looks = looks

    def leads(self, looks: list[Any], number: int, value: Any) -> bool:
        """Whether a call may go this way in which the first of these looks saw what they did, and `number` `value`."""
        for i, (mine, other) in enumerate(zip(self.looks, looks)):
            if mine.line != other.line or mine.what != other.what:
                return True
            if i == number:
                return mine.holds(value)
            if not mine.holds(other.expected):
                return False
        return True


class Missed(tuple):
    """(path, number of the look, value): a look that saw another value than when it was recorded."""

    __slots__ = ()

    def among(self, entries: list[Any], known: dict[Missed, list[Any]]) -> list[Any]:
        """The written-out calls of other paths that may be those of this call. known: what was found before.

        Those that look most often come first: if they miss, the look at which they do says most about the others.
        """
        found = known.get(self)
        if found is None:
            path, number, value = self
            found = [e for e in entries if e.path is not path and e.path.leads(path.looks, number, value)]
            found.sort(key=lambda e: -len(e.path.looks))
            if type(value) in (bool, int):
                if len(known) >= _KEPT:
                    known.clear()
                known[self] = found
        return found
