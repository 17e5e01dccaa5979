"""What all tests share: they leave the world as they found it, and their caches to themselves."""

import os
import pathlib
import shutil
import sys
import tempfile
import warnings

import hypothesis
import numpy as np
import pytest

# Compiled code of this run only. Set before agog is imported; the workers of pytest-xdist inherit it.
_cache = None
if "AGOG_CACHE_DIR" not in os.environ:
    _cache = os.environ["AGOG_CACHE_DIR"] = tempfile.mkdtemp(prefix="agog-tests-")

from agog import config  # noqa: E402
from agog.array import few  # noqa: E402

# Tests compare results of few numbers to the bit: no kernel comes between two of them. tests/test_few.py has kernels.
few.ask = lambda name, dtype: None

hypothesis.settings.register_profile("agog", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("agog")

GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="rewrite the golden files instead of comparing with them")


def pytest_unconfigure(config):
    if _cache:
        shutil.rmtree(_cache, ignore_errors=True)


def _state():
    """What a test must leave unchanged, besides `config.at_rest()`."""
    return {f"config.{k}": v for k, v in vars(config).items() if isinstance(v, bool | int | float | str | None)} | {
        "numpy's error state": np.geterr(), "numpy's print options": np.get_printoptions(), "folder": os.getcwd()}


def _to_rest():
    config.special = 0
    config.op_hooks.clear()
    config.modes.grad, config.modes.recorder = True, None


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    """Filters are compared here, inside of pytest's own `catch_warnings`, which hides a leak from fixtures."""
    filters, modules = list(warnings.filters), set(sys.modules)
    result = yield
    foreign = [m for m in set(sys.modules) - modules if m.split(".")[0] != "agog"]
    if not foreign:  # some packages add filters when first imported
        assert list(warnings.filters) == filters, "the test left warning filters behind"
    return result


@pytest.fixture(autouse=True)
def at_rest():
    """Tape, recorder, modes, hooks and settings are at rest after every test."""
    before, error_state = _state(), np.geterr()
    yield
    rest, after = config.at_rest(), _state()
    if not rest:
        _to_rest()
    for name, value in before.items():
        if name.startswith("config.") and name != "config.special":
            setattr(config, name.removeprefix("config."), value)
    np.seterr(**error_state)
    assert rest, "a mode, recorder or hook was left active"
    changed = [f"{k}: {before.get(k)!r} -> {after.get(k)!r}" for k in before if before[k] != after.get(k)]
    assert not changed, "the test left changed: " + "; ".join(changed)


@pytest.fixture
def rng():
    """The same random numbers in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def golden(request):
    """`golden("name.txt", text)` compares with tests/golden/name.txt, or rewrites it under --update."""
    def compare(name, text):
        path = GOLDEN / name
        if request.config.getoption("--update"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        assert path.exists(), f"there is no {path.relative_to(GOLDEN.parent)}: run pytest with --update and look at it"
        assert text == path.read_text(), f"{name} differs; if it should, run pytest with --update"

    return compare
