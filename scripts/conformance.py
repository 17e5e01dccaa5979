"""Run the Array API consortium's test suite on agog (make conformance).

    python scripts/conformance.py                          # clones the suite at a fixed release, next to the project
    python scripts/conformance.py --suite FOLDER           # a checkout that is there already, with its submodule;
                                                           # so does ARRAY_API_TESTS=FOLDER make conformance
    python scripts/conformance.py -- -k test_sum           # what follows -- goes to pytest

Tests that are known to disagree stand in tests/array_api_xfails.txt, each with its reason.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SUITE = "https://github.com/data-apis/array-api-tests"
RELEASE = "2026.02.26"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ARRAY_API_TESTS", ROOT / ".conformance" / RELEASE)
    p.add_argument("--suite", type=pathlib.Path, default=default)
    p.add_argument("--examples", type=int, default=100, help="random examples per test")
    p.add_argument("pytest", nargs="*")
    a = p.parse_args()
    if not (a.suite / "array-api" / "spec").exists():
        shutil.rmtree(a.suite, ignore_errors=True)
        if subprocess.run(["git", "clone", "--quiet", "--depth", "1", "--branch", RELEASE, "--recurse-submodules",
                           "--shallow-submodules", SUITE, str(a.suite)]).returncode:
            sys.exit(f"Could not clone {SUITE}. With a checkout of it: scripts/conformance.py --suite FOLDER")
    known = ROOT / "tests" / "array_api_xfails.txt"
    argv = [sys.executable, "-m", "pytest", "array_api_tests", "-p", "no:cacheprovider", "-q", "--disable-warnings",
            f"--max-examples={a.examples}", "-n", "auto", "--maxprocesses", "8"]
    if known.exists():
        argv += ["--xfails-file", str(known)]
    env = os.environ | {"ARRAY_API_TESTS_MODULE": "agog", "ARRAY_API_TESTS_VERSION": "2025.12"}
    sys.exit(subprocess.run(argv + a.pytest, cwd=a.suite, env=env).returncode)


if __name__ == "__main__":
    main()
