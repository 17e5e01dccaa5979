"""A plan of memory: which bytes of one arena each buffer has while it is alive."""

from bisect import insort

__all__ = ["plan"]

_ALIGN = 64


def plan(buffers):
    """Offsets for `buffers`, {key: (bytes, first, last)}: those alive at one time do not overlap.

    Large ones are placed first, each at the lowest offset that is free during its life. Returns ({key: offset}, size).
    """
    placed, offsets, size = [], {}, 0
    for key, (n, first, last) in sorted(buffers.items(), key=lambda item: -item[1][0]):
        n = -(-max(n, 1) // _ALIGN) * _ALIGN
        at = 0
        for other, end, begin, until in placed:  # by offset
            if begin <= last and first <= until:
                if at + n <= other:
                    break
                at = max(at, end)
        offsets[key] = at
        insort(placed, (at, at + n, first, last))
        size = max(size, at + n)
    return offsets, size
