"""Make a virtual environment ready, or do nothing when it is: the set-up of every `make` target.

    python3 scripts/environment.py .venv demo test      # agog itself, editable, with these extras
    python3 scripts/environment.py .bench-venv -r benchmarks/requirements.txt
    python3 scripts/environment.py .test-venv test -r tests/requirements.txt  # both

Needs only Python's standard library. An environment that is half-made, was moved, or belongs to a Python that is gone
or too old is made anew. What was installed is noted inside it, so that the next call costs a few milliseconds.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEAST = (3, 11)


def python_of(folder):
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def usable(folder):
    """The environment starts, knows that it lives here, is new enough and has pip."""
    code = f"import pip, sys; print(sys.prefix); sys.exit(sys.version_info < {LEAST})"
    try:
        done = subprocess.run([python_of(folder), "-c", code], capture_output=True, text=True, timeout=120)
    except OSError:
        return False
    return done.returncode == 0 and pathlib.Path(done.stdout.strip()).resolve() == folder.resolve()


def make(folder):
    if folder.exists() and any(folder.iterdir()) and not {"bin", "lib", "Scripts", "pyvenv.cfg"} & {
            p.name for p in folder.iterdir()}:
        sys.exit(f"{folder} is in the way: it is no virtual environment. Move it, or name another folder.")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making {folder} with Python {sys.version.split()[0]}", flush=True)
    venv.create(folder, with_pip=True, symlinks=sys.platform != "win32")


def read_note(folder):
    try:
        note = json.loads((folder / "agog-environment.json").read_text())
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError):
        return {}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("extras", nargs="*", help="extras of agog's pyproject.toml")
    p.add_argument("-r", "--requirements", type=pathlib.Path, help="install this file; agog only if extras are named")
    a = p.parse_args()
    if sys.version_info < LEAST:
        sys.exit(f"agog needs Python {LEAST[0]}.{LEAST[1]} or newer; this is {sys.version.split()[0]}")
    sources = [ROOT / "pyproject.toml"] if a.extras or not a.requirements else []
    sources += [a.requirements] if a.requirements else []
    state = {"root": str(ROOT), "source": " ".join(map(str, sources)),
             "sha256": hashlib.sha256(b"".join(s.read_bytes() for s in sources)).hexdigest()}
    note = read_note(a.folder)
    extras = sorted({*a.extras, *note.get("extras", [])} if note.get("source") == state["source"] else a.extras)
    state["extras"] = extras
    if not usable(a.folder):
        make(a.folder)
    elif note == state:
        return
    what = [] if sources == [a.requirements] else ["-e", f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)]
    what += ["-r", str(a.requirements)] if a.requirements else []
    pip = [str(python_of(a.folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    print(f"installing into {a.folder}: {' '.join(s.name for s in sources)} {' '.join(extras)}", flush=True)
    if code := subprocess.run(pip).returncode:
        sys.exit(f"pip failed with status {code}: its message is above. Mend that and run the same target again.")
    (a.folder / "agog-environment.json").write_text(json.dumps(state, indent=1) + "\n")


if __name__ == "__main__":
    main()
