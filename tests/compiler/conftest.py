"""What the compiler's tests share: targets that run here, and arrays whose borders are guarded."""

import ctypes
import mmap

import numpy as np
import pytest

from agog.compiler import targets

RUNNABLE = [t for t in targets.TARGETS.values() if targets.supported(t)]

_libc = ctypes.CDLL(None)
_PAGE = mmap.PAGESIZE


@pytest.fixture(params=RUNNABLE, ids=lambda t: t.name)
def target(request):
    """Every target whose code this machine can run; x86 machines run the lesser levels too."""
    return request.param


class Guarded:
    """Arrays that end (or begin) at a page that may not be touched: a single byte beyond is a segmentation fault."""

    def __init__(self):
        self._maps = []

    def array(self, values, at_end=True):
        """A copy of `values` against the guard page."""
        values = np.ascontiguousarray(values)
        pages = max(1, -(-values.nbytes // _PAGE))
        memory = mmap.mmap(-1, (pages + 2) * _PAGE)
        whole = np.frombuffer(memory, np.uint8)
        base = whole.ctypes.data
        for guard in (base, base + (pages + 1) * _PAGE):
            assert _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(_PAGE), 0) == 0
        self._maps.append((memory, base, pages))
        start = _PAGE + (pages * _PAGE - values.nbytes if at_end else 0)
        result = whole[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
        result[...] = values
        return result

    def open(self):
        """Make the guards accessible again, so that the memory can be given back."""
        for _, base, pages in self._maps:
            _libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t((pages + 2) * _PAGE), 3)


@pytest.fixture
def guarded():
    guard = Guarded()
    yield guard
    guard.open()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
