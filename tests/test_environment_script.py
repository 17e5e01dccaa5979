"""scripts/environment.py: what it does to environments that are half-made, and what it refuses."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "environment.py"


def run(folder, requirements):
    return subprocess.run([sys.executable, SCRIPT, folder, "-r", requirements], capture_output=True, text=True)


@pytest.mark.slow
def test_makes_repairs_and_then_does_nothing(tmp_path):
    folder, empty = tmp_path / "a folder" / "env", tmp_path / "requirements.txt"
    empty.write_text("# nothing\n")
    folder.mkdir(parents=True)
    (folder / "bin").mkdir()  # as an interrupted `python -m venv` leaves it
    assert "making" in run(folder, empty).stdout
    assert run(folder, empty).stdout == ""
    python = folder / "bin" / "python"
    python.unlink()
    assert "making" in run(folder, empty).stdout
    empty.write_text("# still nothing\n")
    assert "installing" in run(folder, empty).stdout


def test_installs_agog_and_a_file_when_extras_are_named(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    file, folder, asked = tmp_path / "requirements.txt", tmp_path / "env", []
    file.write_text("# nothing\n")
    folder.mkdir()
    monkeypatch.setattr(script, "usable", lambda folder: True)
    monkeypatch.setattr(script.subprocess, "run",
                        lambda argv: asked.append(argv) or subprocess.CompletedProcess(argv, 0))
    for argv, what in (([folder, "test", "-r", file], ["-e", f"{script.ROOT}[test]", "-r", str(file)]),
                       ([folder, "-r", file], ["-r", str(file)]), ([folder], ["-e", str(script.ROOT)])):
        monkeypatch.setattr(sys, "argv", ["environment.py", *map(str, argv)])
        script.main()
        assert asked.pop()[-len(what):] == what and f"{script.ROOT}" not in what[2:]
        script.main()
        assert not asked  # it is as it should be: nothing to do


def test_leaves_a_folder_alone_that_is_no_environment(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "requirements.txt").write_text("")
    done = run(tmp_path, tmp_path / "requirements.txt")
    assert done.returncode and "in the way" in done.stderr
    assert (tmp_path / "thesis.tex").exists()
