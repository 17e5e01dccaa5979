"""Random programs, eagerly and staged, by the thousand: `make programs`.

    python scripts/random_programs.py                   the 20,000 programs, on all CPUs
    python scripts/random_programs.py --seconds 200     as many as that time allows; the next run goes on from there
    python scripts/random_programs.py --seed 1234       one program: what it is, and the smallest one that fails alike

What was compared is noted in .programs, one line for 50 programs, with a digest of agog's source and of the generator:
programs that this very code has passed are not run again.
"""

import argparse
import concurrent.futures
import faulthandler
import hashlib
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
CHUNK = 50


def digest():
    """Of everything that decides what a program does."""
    files = [*sorted((ROOT / "agog").rglob("*.py")), *sorted((ROOT / "tests").glob("program*.py"))]
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12]


def chunk(first):
    """(first, how many programs were staged, what went wrong) of the programs `first` and following."""
    import programs

    from agog import config

    faulthandler.enable()
    config.strict_compiler = True
    staged, wrong = 0, []
    for seed in range(first, first + CHUNK):
        program = programs.written(seed)
        try:
            staged += programs.check(program).calls_staged > 0
        except AssertionError as error:
            wrong.append((seed, str(error)))
        except Exception as error:
            wrong.append((seed, f"{type(error).__name__}: {error}\n{program}"))
    return first, staged, wrong


def failure(programs, program):
    try:
        programs.check(program)
    except AssertionError as error:
        return str(error)
    return f"only sometimes\n{program}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first program")
    parser.add_argument("--count", type=int, default=20_000, help="how many programs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after this time")
    parser.add_argument("--seed", type=int, help="only this program")
    options = parser.parse_args()
    if options.seed is not None:
        return one(options.seed)
    log, mine = ROOT / ".programs", digest()
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    known = {int(first): int(staged) for code, first, staged, wrong in lines if code == mine and wrong == "0"}
    todo = [first for first in range(options.first, options.first + options.count, CHUNK) if first not in known]
    end, passed, staged, wrong = time.monotonic() + options.seconds, CHUNK * len(known), sum(known.values()), 0
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool, log.open("a") as out:
        running = {pool.submit(chunk, first) for first in todo[: options.jobs]}
        todo = todo[options.jobs :]
        while running:
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for result in done:
                first, good, problems = result.result()
                out.write(f"{mine} {first} {good} {len(problems)}\n")
                out.flush()
                passed, staged, wrong = passed + CHUNK - len(problems), staged + good, wrong + len(problems)
                for seed, text in problems:
                    print(f"--- program {seed}: {text}", flush=True)
                if todo and time.monotonic() < end:
                    running.add(pool.submit(chunk, todo.pop(0)))
    left = CHUNK * len(todo)
    print(f"{passed} programs agree ({staged} of them replayed native code), {wrong} differ, {left} are left")
    return 1 if wrong else 0


def one(seed):
    import programs

    from agog import config

    config.strict_compiler = True
    program = programs.written(seed)
    print(program)
    try:
        programs.check(program)
    except AssertionError:
        print(failure(programs, programs.minimised(program)))
        return 1
    print("agrees")
    return 0


if __name__ == "__main__":
    sys.exit(main())
