"""Differential tests of staging: one small program, run plainly and staged, must be observed to be the same.

A case is a generator function that takes `stage`: it builds a fresh world, stages its functions with `stage(fn)` (which
gives the function itself in the plain run), and yields whatever can be observed, step by step. Prints, warnings and
the state of random generators at the end are observed too; `attempt(fn, *args)` observes an exception.

    @case
    def global_number(stage): ...

    @case(staged=True)       # must be recorded (strict=True) and replayed: fewer runs of the Python than calls
    def forward(stage): ...
"""

import contextlib
import dataclasses
import functools
import io
import random
import warnings

import numpy as np
import pytest

import agog as ag
from agog import config
from agog.errors import StagingError, StagingWarning


def T(*values, **kw):
    return ag.asarray(np.array(values, np.float32), **kw)


class Stage:
    """Wraps functions for one run of a case; counts calls and the Python runs behind them."""

    def __init__(self, staged, strict):
        self.staged, self.strict = staged, strict
        self.functions, self.calls = [], 0

    def __call__(self, fn=None, **options):
        if fn is None:
            return lambda f: self(f, **options)
        if not self.staged:
            return fn
        if self.strict:
            options.setdefault("strict", True)
        out = ag.function(fn, **options)
        self.functions.append(out)
        return out


def attempt(fn, *args, **kwargs):
    """What a call gives, or which error."""
    try:
        return fn(*args, **kwargs)
    except StagingError:
        raise
    except Exception as error:
        return "raised", type(error).__name__, str(error).split("\n    at ")[0].split("(in the graph")[0]


def look(x):
    """A picture of a value that later changes do not reach."""
    if isinstance(x, ag.Tensor):
        array = np.array(x.detach())
        return "Tensor", x.shape, str(x.dtype), x.requires_grad, type(x).__name__, array
    if isinstance(x, np.ndarray):
        return "ndarray", x.shape, str(x.dtype), x.copy()
    if isinstance(x, list | tuple):
        return type(x).__name__, [look(v) for v in x]
    if isinstance(x, dict):
        return type(x).__name__, [(k, look(v)) for k, v in x.items()]
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return type(x).__name__, [(f.name, look(getattr(x, f.name, None))) for f in dataclasses.fields(x)]
    if isinstance(x, set | frozenset):
        return type(x).__name__, sorted(map(repr, x))
    if x is None or isinstance(x, bool | int | float | complex | str | bytes | np.generic):
        return type(x).__name__, repr(x)
    return type(x).__name__, None


def agree(a, b, where):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        assert a.shape == b.shape and a.dtype == b.dtype, (
            f"{where}: staged {b.dtype}{b.shape}, plain {a.dtype}{a.shape}"
        )
        if a.dtype.kind in "fcV":
            wide = np.complex128 if a.dtype.kind == "c" else np.float64
            tolerance = 2e-2 if a.dtype.itemsize == 2 else 1e-4
            np.testing.assert_allclose(
                b.astype(wide), a.astype(wide), rtol=tolerance, atol=tolerance / 10, err_msg=where
            )
            np.testing.assert_array_equal(
                np.signbit(b[b == 0].real), np.signbit(a[a == 0].real), err_msg=f"{where}: -0.0"
            )
        else:
            np.testing.assert_array_equal(b, a, err_msg=where)
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        assert type(a) is type(b) and len(a) == len(b), f"{where}: staged {b!r}, plain {a!r}"
        for i, (x, y) in enumerate(zip(a, b)):
            agree(x, y, where)
            if a[0] == "float" and i == 1:
                break
    elif isinstance(a, str) and isinstance(b, str) and a != b:
        assert number(a) is not None and number(b) is not None, f"{where}: staged {b!r}, plain {a!r}"
        np.testing.assert_allclose(number(b), number(a), rtol=1e-4, atol=1e-6, err_msg=where)
    else:
        assert type(a) is type(b) and a == b, f"{where}: staged {b!r}, plain {a!r}"


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def observe(program, stage):
    """Everything that can be seen of one run of a case."""
    seen = []
    ag.random.seed(0)
    random.seed(0)
    np.random.seed(0)
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(out):
        warnings.simplefilter("always")
        for value in program(stage):
            seen.append((look(value), out.getvalue()))
            out.seek(0)
            out.truncate()
    seen.append((look(ag.random.normal((2,))), random.random(), np.random.rand(), out.getvalue()))
    said = [
        (w.category.__name__, str(w.message))
        for w in caught
        if not issubclass(w.category, StagingWarning)
        and not issubclass(w.category, ResourceWarning | DeprecationWarning | RuntimeWarning)
    ]
    return seen, said


class Cases:
    """Collects the cases of a file."""

    def __init__(self):
        self.programs = []

    def __call__(self, program=None, *, staged=False):
        if program is None:
            return functools.partial(self, staged=staged)
        self.programs.append((program, staged))
        return program

    def test(self):
        """The test function of the file: every case once."""

        @pytest.mark.parametrize(("program", "staged"), self.programs, ids=[p.__name__ for p, _ in self.programs])
        def test_staged_is_plain(program, staged, monkeypatch):
            monkeypatch.setattr(config, "strict_compiler", True)
            plain, plain_said = observe(program, Stage(False, False))
            stage = Stage(True, staged)
            got, said = observe(program, stage)
            assert len(got) == len(plain)
            for i, (a, b) in enumerate(zip(plain, got)):
                agree(a, b, f"step {i}")
            assert said == plain_said
            if staged:
                assert stage.functions, "nothing was staged"
                for f in stage.functions:
                    assert f.calls_staged, f"{f.__name__} was never replayed: {f.explain()}"

        return test_staged_is_plain
