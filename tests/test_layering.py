"""The house: every import goes down (../shared design, section 2). Deferred and TYPE_CHECKING imports count too."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLOORS = {
    9: ["examples", "agog.__main__"],
    8: ["agog.tools", "agog.testing"],
    7: ["agog.nn", "agog.optim", "agog.data", "agog.io", "agog.dist"],
    6: ["agog.staging"],
    5: ["agog.compiler"],
    4: ["agog.graph"],
    3: ["agog.tensor", "agog.dispatch", "agog.autodiff", "agog.random", "agog.control", "agog.linalg", "agog.fft",
        "agog.namespace", "agog.interop"],
    2: ["agog.ops", "agog.tape"],
    1: ["agog.array"],
    0: ["agog.errors", "agog.hints", "agog.config", "agog.tree", "agog._version"],
}
ONLY_IN = {  # third party: where it may appear
    "llvmlite": ("agog.compiler",),
    "ctypes": ("agog.compiler",),
    "cupy": ("agog.array", "agog.compiler"),
    "mpi4py": ("agog.dist",),
    "rich": ("agog.tools", "agog.__main__", "examples"),
    "safetensors": ("agog.io",),
    "sklearn": ("examples",),
    "einops": ("agog.interop",),
    "matplotlib": ("agog.tools", "agog.__main__", "examples"),
}
# `nn` and `optim` use only what a user could.
FORBIDDEN = {("agog.nn", t) for t in ("agog.staging", "agog.graph", "agog.compiler")}
FORBIDDEN |= {("agog.optim", t) for t in ("agog.staging", "agog.graph", "agog.compiler")}


def inside(module, room):
    return module == room or module.startswith(room + ".")


def floor(module):
    """None for the package itself: `agog/__init__.py` only gathers names."""
    return next((f for f, rooms in FLOORS.items() for r in rooms if inside(module, r)), None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module != "agog":
                yield node.module, node.lineno
            for a in node.names if node.module == "agog" else ():  # `from agog import x` may name a room
                yield f"agog.{a.name}" if floor(f"agog.{a.name}") is not None else "agog", node.lineno


FILES = sorted(p for d in ("agog", "examples") for p in (ROOT / d).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    here = floor(module)
    assert here is not None or module == "agog", f"{module} is on no floor: add it to the table"
    for target, line in imports(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {target}"
        top = target.split(".")[0]
        if top in ONLY_IN:
            assert any(inside(module, r) for r in ONLY_IN[top]), where
        if top != "agog" or module == "agog":
            continue
        for room, banned in FORBIDDEN:
            assert not (inside(module, room) and inside(target, banned)), where
        there = floor(target)
        if there is None:  # the package itself: only rooms above the tensor may use the public names
            assert here >= 7, where
            continue
        assert there <= here, f"{where}: floor {here} imports floor {there}"


def test_no_environment_outside_config():
    for path in FILES:
        if path.name != "config.py" and path.parts[-2] != "examples":
            text = path.read_text()
            assert "os.environ" not in text and "getenv" not in text, path


def test_the_test_sees_a_wrong_import(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from agog.nn import Linear\n")
    assert ("agog.nn", 2) in list(imports(bad))
    assert floor("agog.nn") > floor("agog.ops")
