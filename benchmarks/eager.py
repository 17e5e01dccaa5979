"""The eager suite: agog's times as ratios to a peer's, measured in one interleaved run.

    python benchmarks/eager.py --peer-python .bench-venv/bin/python      (make bench does it)
    python benchmarks/eager.py --quick --cases MLP --peers torch,jax --json out.json

A ratio is agog's time divided by the peer's on this machine, in this run, with the same number of threads; each bar
is for PyTorch (PyTorch's own fused operations and optimisers). Start-up is compared with `import numpy`.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

from turns import Worker, compare, wait_until_quiet
from workloads import CASES

RSS = 'next((int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("VmRSS")), 0)'


def import_times(repeats):
    """`import agog` and `import numpy`, in fresh processes that take turns: seconds inside, and resident MB after."""
    times, resident = {"agog": [], "numpy": []}, {}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # both from their bytecode
    for i in range(repeats + 1):  # the first one warms the page cache
        for name in times:
            wait_until_quiet(1)
            code = (f"import time; t = time.perf_counter(); import {name}; t = time.perf_counter() - t\n"
                    f"try: r = {RSS}\nexcept OSError: r = 0\nprint(t, r)")
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
            seconds, resident[name] = (float(x) for x in done.stdout.split())
            if i:
                times[name].append(seconds)
    ratio = statistics.median(a / b for a, b in zip(times["agog"], times["numpy"]))
    return {name: statistics.median(t) for name, t in times.items()}, ratio, resident


def installed_mb():
    """Size of agog and of the distributions that it requires, without extras, as installed here."""
    todo, sizes = ["agog"], {}
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in sizes:
            continue
        d = importlib.metadata.distribution(name)
        files = [pathlib.Path(f.locate()) for f in d.files or ()]
        if name == "agog":  # installed editable: its files are in the checkout
            package = pathlib.Path(importlib.util.find_spec("agog").origin).parent
            tag = f".{sys.implementation.cache_tag}.pyc"
            files = [f for f in package.rglob("*") if f.suffix != ".pyc" or f.name.endswith(tag)]
        sizes[name] = sum(f.stat().st_size for f in files if f.is_file())
        todo += [re.match(r"[\w.-]+", r)[0] for r in d.requires or () if "extra ==" not in r]
    return sum(sizes.values()) / 1e6, {k: round(v / 1e6, 1) for k, v in sizes.items()}


def machine():
    cpu = platform.processor() or platform.machine()
    try:
        cpu = next(l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores, {platform.system()}"


def show_time(us):
    return f"{us:.3g} us" if us < 999.5 else f"{us / 1e3:.3g} ms" if us < 999.5e3 else f"{us / 1e6:.3g} s"


def row(name, ours, peer, ratio, bar, **more):
    return {"name": name, "agog": ours, "peer": peer, "ratio": ratio, "bar": bar,
            "met": None if ratio is None else ratio <= bar} | more


def print_row(r, others):
    verdict = {True: "met", False: "MISSED", None: "no result"}[r["met"]] + ("?" if r.get("noisy") else "")
    ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
    extra = "".join(f" {r.get('others', {}).get(p, ''):>8}" for p in others)
    print(f"{r['name']:<44} {r['agog']:>9} {r['peer']:>9} {ratio:>6} {r['bar']:>6} {verdict:<9}{extra} "
          f"{r.get('remark', '')}".rstrip(), flush=True)


def timed_rows(a, workers, say):
    judge = a.peers[0]
    for case in CASES.values():
        if a.cases and not any(c.lower() in case.name.lower() for c in a.cases.split(",")):
            continue
        results = compare(workers, case.name, a.rounds, a.seconds, a.patience)
        ours, peer = results["agog"], results[judge]
        errors = [r["error"] for r in results.values() if "error" in r]
        wrong = [p for p, r in results.items() if "check" in r and "check" in ours
                 and abs(r["check"] - ours["check"]) > 1e-3 * abs(ours["check"])]
        remark = "; ".join(errors + [f"{p} computes something else" for p in wrong])
        if noisy := peer.get("other_cpu", 0) > 0.25:
            remark += (f" (busy machine: {peer['other_cpu']:.1f} cores used by others; fastest samples "
                       f"{peer['ratio_of_fastest']:.2f})")
        ratio = None if judge in wrong or "us" not in ours else peer.get("ratio")
        say(row(case.name, show_time(ours["us"]) if "us" in ours else "", show_time(peer["us"]) if "us" in peer else "",
                ratio, case.bar, remark=remark, noisy=noisy, results=results,
                others={p: f"{results[p]['ratio']:.2f}" for p in a.peers[1:] if "ratio" in results[p]}))


def start_up_rows(a, say):
    times, ratio, resident = import_times(a.repeats)
    ms = lambda s: f"{s * 1e3:.0f} ms"
    say(row("import agog / import numpy", ms(times["agog"]), ms(times["numpy"]), ratio, 1.5))
    if resident["agog"]:
        say(row("resident after import agog, MB / 40", f"{resident['agog']:.0f} MB", f"{resident['numpy']:.0f} MB",
                resident["agog"] / 40, 1.0, remark="(peer: numpy)"))
    total, parts = installed_mb()
    say(row("installed with what it requires, MB / 400", f"{total:.0f} MB", "", total / 400, 1.0,
            remark="(" + ", ".join(f"{k} {v:.0f}" for k, v in parts.items()) + ")", parts=parts))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", default="torch", help="comma list of torch, jax, mlx, tf; the bars are for the first")
    p.add_argument("--peer-python", default=".bench-venv/bin/python", help="the Python that has the peers")
    p.add_argument("--tf-python", help="the Python that has TensorFlow, if another")
    p.add_argument("--cases", default="", help="parts of names, comma list; 'startup' is one too")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--seconds", type=float, default=0.3, help="per peer, case and round")
    p.add_argument("--patience", type=float, default=2.0, help="seconds to wait for a quiet machine before each turn")
    p.add_argument("--quick", action="store_true", help="a first impression in about a minute")
    p.add_argument("--json", type=pathlib.Path, help="write everything that was measured to this file")
    a = p.parse_args()
    a.repeats, a.peers = 15, a.peers.split(",")
    if a.quick:
        a.rounds, a.seconds, a.patience, a.repeats = 3, 0.1, 0.3, 5
    python = {"agog": sys.executable, "tf": a.tf_python or a.peer_python}
    workers = [Worker(x, python.get(x, a.peer_python), a.threads) for x in ["agog", *a.peers]]
    if errors := [w.head["error"] for w in workers if "error" in w.head]:
        sys.exit("\n".join(errors))
    versions = {w.peer: w.head["version"] for w in workers} | {"numpy": importlib.metadata.version("numpy")}
    head = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine(), "threads": a.threads, "versions": versions,
            "python": platform.python_version(), "rounds": a.rounds, "seconds": a.seconds}
    print(f"{head['date']}  {head['machine']}, {a.threads} threads, Python {head['python']}\n"
          + "  ".join(f"{k} {v}" for k, v in versions.items()) + "\n")
    others = [f"/{x}" for x in a.peers[1:]]
    print(f"{'':<44} {'agog':>9} {a.peers[0]:>9} {'ratio':>6} {'bar':>6} {'':<9}" + "".join(f" {o:>8}" for o in others))
    rows = []

    def say(r):
        rows.append(r)
        print_row(r, a.peers[1:])

    try:
        timed_rows(a, workers, say)
    finally:
        for w in workers:
            w.stop()
    if not a.cases or "startup" in a.cases:
        start_up_rows(a, say)
    missed = [r["name"] for r in rows if not r["met"]]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} bars met" + (f"; not: {'; '.join(missed)}" if missed else ""))
    if n := sum(bool(r.get("noisy")) for r in rows):
        print(f"{n} of them never saw a quiet machine (marked ?): run again when nothing else runs.")
    if a.json:
        a.json.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
