"""The type stubs say what the package has."""

import ast
import importlib
import pathlib
import subprocess
import sys

import agog

ROOT = pathlib.Path(__file__).parents[1]
STUB = ROOT / "agog" / "__init__.pyi"


def test_the_stubs_are_up_to_date():
    argv = [sys.executable, ROOT / "scripts" / "make_stubs.py", "--check"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_what_the_stub_defines_is_there():
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            assert callable(getattr(agog, node.name)), node.name
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("agog."):
            for alias in node.names:
                module = importlib.import_module(node.module)
                assert getattr(agog, alias.name) is getattr(module, alias.name), alias.name
