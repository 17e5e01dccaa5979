"""Random programs: eagerly, staged with native code, and staged with the interpreter, they give the same.

What the programs are is described in `programs`; `make programs` runs 20,000 of them, in pieces that can be stopped.
"""

import programs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agog import config


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    monkeypatch.setattr(config, "strict_compiler", True)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**63))
def test_random_programs(seed):
    programs.check(programs.written(seed))


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(100))
def test_many_random_programs(part):
    for i in range(200):
        programs.check(programs.written(part * 200 + i))


def test_most_programs_are_staged():
    """The comparison means something: programs run and are replayed."""
    replayed = sum(programs.check(programs.written(i)).calls_staged > 0 for i in range(20))
    assert replayed >= 12, f"only {replayed} of 20"


def test_programs_hold_what_they_should():
    """Among a few hundred are loops, gradients, random numbers, state, effects and errors."""
    text = "\n".join(str(programs.written(i)) for i in range(150))
    for part in (
        "while ", "for i in range(int(", "break", "continue", "elif", "try:", "raise ValueError", "def local", "yield",
        "ag.grad(", "ag.vmap(", "ag.jvp(", ".backward()", "opt.step()", "ag.random.", "ag.scan(", "ag.while_loop(",
        "ag.cond(", "w.assign(", "s.h = ", "s.items[", "s.table[", "global ", "ag.callback(", "ag.assert_", "assert ",
        ".item()", ".shape", "helper(", "recursive(", "inner(", "ruled(", "no_grad", "[...] = ", "complex64",
        "bfloat16", "uint8", "bool", "int64", "alias", "dtype", "s = Box()", "opt.lr = ",
    ):
        assert part in text, part


def test_a_difference_is_noticed():
    """A staged function that forgets what happened in between is found out, and its program made small."""
    seen = {}

    def forgetful(fn):
        return lambda *args: seen.setdefault(len(args), fn(*args))

    program = programs.written(3)
    plain, _ = programs.run(program, lambda f: f)
    other, _ = programs.run(program, forgetful)
    with pytest.raises(AssertionError):
        programs.same(plain, other, "all")
