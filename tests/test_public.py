"""The public names: pinned, documented, cheap to import."""

import json
import pathlib
import subprocess
import sys

import pytest

import agog as ag

GOLDEN = pathlib.Path(__file__).parent / "golden" / "public.txt"


def test_public_names_are_pinned(request):
    names = "\n".join(sorted(set(ag.__all__))) + "\n"
    if request.config.getoption("--update"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(names)
    assert names == GOLDEN.read_text(), "public names changed: run pytest --update, and tell it in CHANGELOG.md"


@pytest.mark.parametrize("name", sorted(n for n in ag.__all__ if n != "newaxis"))
def test_every_public_name_exists_and_functions_are_documented(name):
    value = getattr(ag, name)
    if callable(value):
        assert value.__doc__, f"agog.{name} has no docstring"


def test_import_is_small_and_lazy():
    code = ("import sys, json, agog; "
            "print(json.dumps([m for m in ('scipy', 'llvmlite', 'ml_dtypes', 'agog.nn', 'agog.staging', "
            "'agog.compiler', 'rich', 'matplotlib', 'numpy.random') if m in sys.modules]))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []


def test_star_import_and_dir():
    assert "relu" in dir(ag) and "no_grad" in dir(ag) and "tanh" in dir(ag.ones(1))
    with pytest.raises(AttributeError, match="nonsense"):
        ag.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match="nonsense"):
        ag.ones(1).nonsense  # noqa: B018
