"""No pass, kernel or backend asks an operation for its name: facts about an operation live in its row."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2] / "agog"
FILES = [p for p in sorted(ROOT.rglob("*.py")) if (ROOT / "ops") not in p.parents]


def is_name_of_op(node):
    """`op.name`, `node.op.name`, `self.op.name`, ..."""
    if not (isinstance(node, ast.Attribute) and node.attr == "name"):
        return False
    base = node.value
    return isinstance(base, ast.Name) and base.id == "op" or isinstance(base, ast.Attribute) and base.attr == "op"


def comparisons(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and any(map(is_name_of_op, (node.left, *node.comparators))):
            yield node.lineno
        if isinstance(node, ast.Match) and is_name_of_op(node.subject):
            yield node.lineno
        if isinstance(node, ast.Subscript) and is_name_of_op(node.slice):
            yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_comparison_with_the_name_of_an_operation(path):
    assert list(comparisons(path.read_text())) == []


def test_the_test_sees_one():
    assert list(comparisons("if node.op.name == 'add':\n    pass")) == [1]
    assert list(comparisons("x = op.name in ('add', 'sum')")) == [1]
    assert list(comparisons("x = {'add': 1}[node.op.name]")) == [1]
