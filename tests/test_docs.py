"""Every ```python block of the README and of docs/ runs, top to bottom, one namespace per page."""

import contextlib
import io
import linecache
import pathlib
import re
import warnings

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [p for p in PAGES if p.exists()], ids=lambda p: p.name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace = {"__name__": f"docs_{page.stem}"}
    for match in re.finditer(r"```python\n(.*?)```", text, re.S):
        line = text[:match.start()].count("\n") + 1
        source = "\n" * line + match.group(1)
        code = compile(source, str(page), "exec")
        linecache.cache[str(page)] = len(source), None, source.splitlines(True), str(page)  # as for a file of its own
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code, namespace)


def test_pages_are_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text, page
