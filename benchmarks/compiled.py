"""The compiler's table: agog, staged and eager, against the best of the peers in each case, in one interleaved run.

    python benchmarks/compiled.py --peer-python .bench-venv/bin/python      (make bench does it)
    python benchmarks/compiled.py --cases gpt,rnn --peers torch,jax:compiled --rounds 3

A process for each framework and mode; they take turns. `staged` is `@agog.function` over the best peer in any mode,
`eager` is agog without it over the best eager peer: medians over the rounds of the quotients in a round. `cores` is
what a cache line takes from core to core, before and after the row, which says how they write to memory (`cores.py`).
First steps are those of fresh processes, with an empty and with a filled cache folder; peak memory is that of such a
process. `torch:compiled` needs a C++ compiler on the machine, and minutes: --peers torch:eager,jax:compiled does
without.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import cores
from eager import machine, show_time
from models import CASES
from turns import HERE, Worker, from_bytecode, judge, take_turns

COLD = {"gpt": (2.0, 0.4), "cnn": (0.8, 0.2), "rnn": (2.0, 0.4)}  # bars: seconds, without and with a filled cache
MEMORY = {"agog:compiled": 220, "agog:eager": 260}  # bars: MB of a process that has trained gpt


def verdict(value, bar):
    return "" if bar is None else "met" if value <= bar else "MISSED"


def best(results, ours, modes=("eager", "compiled")):
    """(the fastest peer whose result agrees with `ours`, its time) by median."""
    check = results[ours]["check"]
    fit = {p: r["us"] for p, r in results.items() if not p.startswith("agog") and p.partition(":")[2] in modes
           and "us" in r and abs(r["check"] - check) <= 1e-3 * abs(check)}
    return min(fit.items(), key=lambda item: item[1], default=(None, None))


def steady_row(name, case, results):
    row = {"name": name, "errors": [r["error"] for r in results.values() if "error" in r]}
    columns = ("agog:compiled", case.staged, ("eager", "compiled")), ("agog:eager", case.eager, ("eager",))
    for ours, bar, modes in columns:
        if "error" in results[ours]:
            continue
        judged = judge(results, ours)
        peer, us = best(judged, ours, modes)
        if peer is None:
            continue
        row[ours] = {"us": judged[ours]["us"], "peer": peer, "peer_us": us, "ratio": judged[peer]["ratio"], "bar": bar,
                     "met": bar is None or judged[peer]["ratio"] <= bar,
                     "all": {p: r["ratio"] for p, r in judged.items() if "ratio" in r}}
    return row


def print_row(row):
    cells = []
    for ours in ("agog:compiled", "agog:eager"):
        if r := row.get(ours):
            bar = "" if r["bar"] is None else f"{r['bar']:.2f}"
            cells.append(f"{show_time(r['us']):>8} {r['ratio']:>5.2f} {bar:>5} {verdict(r['ratio'], r['bar']):<6} "
                         f"{r['peer']} {show_time(r['peer_us'])}".ljust(54))
        else:
            cells.append("no result".ljust(54))
    between = "-".join(f"{ns:.0f}" for ns in row["cores_ns"])
    print(f"{row['name']:<46} {' '.join(cells)} {between:<8} {'; '.join(row['errors'])}".rstrip(), flush=True)


def first_steps(peer, python, name, threads, cache):
    """What `turns.py` says of the first three steps in a fresh process whose caches are under `cache`."""
    env = from_bytecode() | {f"{v}_NUM_THREADS": str(threads) for v in ("OMP", "MKL", "OPENBLAS", "AGOG")} | {
        "AGOG_CACHE_DIR": cache, "XDG_CACHE_HOME": cache, "TMPDIR": cache, "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    argv = [str(python), str(HERE / "turns.py"), peer, str(threads), "models", name]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:100]}
    return json.loads(done.stdout.splitlines()[-1])


def cold_rows(a, python, say):
    print(f"\n{'first three steps of a process, seconds':<46} " + " ".join(f"{p:>16}" for p in a.columns) + "  bar")
    memory = {}
    for short, bars in COLD.items():
        name = next(n for n in CASES if n.startswith(short))
        if not a.wants(name):
            continue
        cells = {"empty cache": [], "filled cache": []}
        for peer in a.columns:
            with tempfile.TemporaryDirectory() as cache:
                for kind, row in cells.items():
                    r = first_steps(peer, python(peer), name, a.threads, cache)
                    row.append(r.get("first3_s"))
                    memory.setdefault((short, kind), []).append(r.get("peak_mb"))
        for (kind, row), bar in zip(cells.items(), bars):
            show = " ".join(f"{'failed' if s is None else f'{s:.2f}':>16}" for s in row)
            print(f"{short + ', ' + kind:<46} {show}  {bar} {verdict(row[0], bar)}", flush=True)
            say({"name": f"first three steps of {short}, {kind}", "seconds": dict(zip(a.columns, row)), "bar": bar,
                 "met": row[0] <= bar})
    for (short, kind), row in memory.items():
        limits = MEMORY if short == "gpt" else {}
        bars = ", ".join(f"{bar} {verdict(row[a.columns.index(p)], bar)}" for p, bar in limits.items())
        show = " ".join(f"{'failed' if mb is None else f'{mb:.0f}':>16}" for mb in row)
        print(f"{'peak memory, MB, ' + short + ', ' + kind:<46} {show}  {bars}", flush=True)
        say({"name": f"peak memory of {short}, {kind}", "mb": dict(zip(a.columns, row)),
             "met": all(row[a.columns.index(p)] <= bar for p, bar in limits.items())})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", default="torch,jax:compiled", help="comma list of PEER or PEER:MODE, see adapters")
    p.add_argument("--peer-python", default=".bench-venv/bin/python", help="the Python that has the peers")
    p.add_argument("--cases", default="", help="parts of names, comma list")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=0.3, help="per peer, case and round")
    p.add_argument("--patience", type=float, default=2.0, help="seconds to wait for a quiet machine before each turn")
    p.add_argument("--no-cold", action="store_true", help="leave out first steps and memory")
    p.add_argument("--json", type=pathlib.Path, help="write everything that was measured to this file")
    a = p.parse_args()
    modes = lambda peer: [peer] if ":" in peer else [f"{peer}:eager", f"{peer}:compiled"]
    a.columns = ["agog:compiled", "agog:eager", *(m for peer in a.peers.split(",") for m in modes(peer))]
    a.wants = lambda name: not a.cases or any(c.lower() in name.lower() for c in a.cases.split(","))
    python = lambda peer: sys.executable if peer.startswith("agog") else a.peer_python
    print(f"{time.strftime('%Y-%m-%d %H:%M')}  {machine()}, {a.threads} threads; {', '.join(a.columns)}\n")
    print(f"{'':<46} {'staged / the best peer, bar':<54} {'eager / the best eager peer, bar':<54} cores, ns")
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"AGOG_CACHE_DIR": cache}
        workers = [Worker(c, python(c), a.threads) for c in a.columns]
        if errors := [w.head["error"] for w in workers if "error" in w.head]:
            sys.exit("\n".join(errors))
        try:
            for name, case in CASES.items():
                if a.wants(name):
                    before = cores.apart()
                    results = take_turns(workers, name, a.rounds, a.seconds, a.patience, "models")
                    rows.append(steady_row(name, case, results) | {"cores_ns": [before, cores.apart()]})
                    print_row(rows[-1])
        finally:
            for w in workers:
                w.stop()
    if not a.no_cold:
        cold_rows(a, python, rows.append)
    if a.json:
        head = {"machine": machine(), "date": time.strftime("%F")}
        a.json.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
