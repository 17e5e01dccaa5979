"""One process per framework, kept alive, and measurements in turns.

Spinning threads of one framework ruin the times of another in the same process, and a slow spell of the machine must
hit everyone alike: so each framework has a process of its own (`python turns.py ADAPTER[:MODE] THREADS`, which takes
commands on its standard input and answers each with a line of JSON), and they take turns, A B A B. The mode is `eager`
or `compiled`. `python turns.py ADAPTER[:MODE] THREADS SUITE CASE` takes the first three steps of a case and says how
long they took and how much memory the process has had.
"""

import argparse
import compileall
import gc
import importlib.util
import json
import os
import pathlib
import select
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
clock = time.perf_counter


def busy_seconds():
    """CPU time that all processes of the machine have used (0 where the system does not say)."""
    try:
        t = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    except OSError:
        return 0.0
    return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK")


def from_bytecode():
    """The environment of processes whose start counts: agog's modules come from their bytecode, as installed ones do.

    (pip compiles what it installs; in a checkout, the first import does, unless it was told not to.)
    """
    compileall.compile_dir(pathlib.Path(importlib.util.find_spec("agog").origin).parent, quiet=2)
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def wait_until_quiet(limit):
    """Nothing of ours runs now: whatever is busy is somebody else. Wait up to `limit` seconds for it to stop."""
    end = clock() + limit
    while clock() < end:
        before = busy_seconds()
        time.sleep(0.05)
        if busy_seconds() - before < 0.02:
            return


# ---------------------------------------------------------------- in the framework's process
def rms(F, out):
    """Root mean square, summed over the outputs."""
    import numpy as np
    if isinstance(out, (list, tuple)):
        return sum(rms(F, o) for o in out)
    return float(np.sqrt(np.square(F.numpy(out).astype(np.float64)).mean()))


def peak_mb():
    """The most memory that this process has had resident (0 where the system does not say)."""
    try:
        return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0.0


class Server:
    def __init__(self, peer, threads):
        adapter, _, mode = peer.partition(":")
        spec = importlib.util.spec_from_file_location(f"adapter_{adapter}", HERE / "adapters" / f"{adapter}.py")
        self.F = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # torch.compile looks for it there
        spec.loader.exec_module(self.F)
        self.F.setup(mode or "eager", threads)

    def build(self, suite, name):
        self.step = None
        gc.collect()
        case = importlib.import_module(suite).CASES[name]
        getattr(self.F, "reset", lambda: None)()
        step = case.build(self.F, **case.params)
        start = clock()
        for _ in range(3):
            self.F.wait(out := step())
        first3 = clock() - start
        self.step, self.k, self.held = step, 0, getattr(case, "held", True)
        return {"check": rms(self.F, out), "first3_s": first3, "peak_mb": peak_mb()}

    def once(self, k):
        """Throughput: `k` steps are issued, the last one is waited for."""
        step, start = self.step, clock()
        if self.held:
            for _ in range(k):
                out = step()
        else:
            for _ in range(k - 1):
                step()
            out = step()
        self.F.wait(out)
        return (clock() - start) / k

    def measure(self, seconds):
        if not self.k:  # warm up, and choose how many steps make a sample of about 10 ms
            end, fastest = clock() + min(0.3, seconds), 1e9
            while clock() < end:
                fastest = min(fastest, self.once(1))
            self.k = max(1, int(0.01 / fastest))
        self.once(1)  # back into the caches after the others' turns
        start, busy, own, samples = clock(), busy_seconds(), time.process_time(), []
        while clock() - start < seconds or len(samples) < 3:
            samples.append(self.once(self.k) * 1e6)
        other = (busy_seconds() - busy - (time.process_time() - own)) / (clock() - start)
        return {"us": statistics.median(samples), "us_min": min(samples), "n": self.k * len(samples),
                "other_cpu": max(0.0, other)}

    def run(self):
        say = lambda d: print(json.dumps(d), flush=True)
        say({"version": self.F.version(), "python": sys.version.split()[0]})
        for line in sys.stdin:
            command, argument = json.loads(line)
            try:
                say(self.build(*argument) if command == "build" else self.measure(argument))
            except Exception as e:
                if os.environ.get("BENCH_TRACE"):
                    raise
                say({"error": f"{type(e).__name__}: {e}"})


# ---------------------------------------------------------------- in the process that compares
class Worker:
    """A framework's process."""

    def __init__(self, peer, python, threads):
        self.peer = peer
        self.env = os.environ | {f"{v}_NUM_THREADS": str(threads) for v in ("OMP", "MKL", "OPENBLAS", "AGOG")} | {
            "TF_CPP_MIN_LOG_LEVEL": "3"}
        argv = [str(python), str(HERE / "turns.py"), peer, str(threads)]
        errors = None if os.environ.get("BENCH_TRACE") else subprocess.DEVNULL
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                        env=self.env, bufsize=0)
        self.head = self._reply(300)

    def _reply(self, timeout):
        end = clock() + timeout
        while select.select([self.process.stdout], [], [], max(0.0, end - clock()))[0]:
            line = self.process.stdout.readline()
            if line.startswith(b"{"):
                return json.loads(line)
            if not line:
                self.stop()
                return {"error": f"{self.peer}: its process died (BENCH_TRACE=1 shows why)"}
        self.stop()
        return {"error": f"{self.peer}: no answer in {timeout:.0f} s"}

    def ask(self, command, argument, timeout=300):
        if self.process is None:
            return {"error": f"{self.peer}: not running"}
        try:
            self.process.stdin.write(json.dumps([command, argument]).encode() + b"\n")
        except BrokenPipeError:
            pass  # the reply says so
        return self._reply(timeout)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def take_turns(workers, name, rounds, seconds, patience, suite="workloads"):
    """{peer: {check, rounds, ...}} of one case, the peers taking turns."""
    results = {w.peer: w.ask("build", [suite, name]) | {"rounds": []} for w in workers}
    alive = [w for w in workers if "error" not in results[w.peer]]
    for _ in range(rounds):
        for w in alive:
            wait_until_quiet(patience)
            answer = w.ask("measure", seconds)
            if "error" in answer:
                results[w.peer] |= answer
            else:
                results[w.peer]["rounds"].append(answer)
        alive = [w for w in alive if "error" not in results[w.peer]]
    return results


def judge(results, judged):
    """`results` with every peer's time and the ratio of the one that is `judged` to it.

    `ratio` is the median over the rounds of (the judged one's time / this peer's time in the same round). Rounds in
    which other processes used more than a quarter of a core do not count when there are enough quiet ones.
    `ratio_of_fastest` compares the fastest samples, which a busy machine disturbs least.
    """
    ours, results = results[judged]["rounds"], {peer: dict(r) for peer, r in results.items()}
    for r in results.values():
        if "error" in r:
            continue
        pairs = list(zip(ours, r["rounds"]))
        quiet = [p for p in pairs if max(p[0]["other_cpu"], p[1]["other_cpu"]) < 0.25]
        if len(quiet) < min(3, len(pairs)):
            quiet = pairs
        if quiet:
            ratios = sorted(a["us"] / b["us"] for a, b in quiet)
            r |= {"us": statistics.median(b["us"] for _, b in quiet), "ratio": statistics.median(ratios),
                  "ratio_low": ratios[0], "ratio_high": ratios[-1],
                  "ratio_of_fastest": min(a["us_min"] for a in ours) / min(b["us_min"] for b in r["rounds"]),
                  "other_cpu": max(max(a["other_cpu"], b["other_cpu"]) for a, b in quiet)}
    return results


def compare(workers, name, rounds, seconds, patience):
    """One case of the eager suite; the first worker is the one that is judged."""
    return judge(take_turns(workers, name, rounds, seconds, patience), workers[0].peer)


# ------------------------------------------------------------------------------- single calls, by their least time
def least(fn, window):
    """The least of the times of many calls, in seconds, for at least `window` seconds."""
    end, best = clock() + window, 1e9
    while True:
        start = clock()
        fn()
        now = clock()
        best = min(best, now - start)
        if now > end:
            return best


def arguments(description, turns, more=lambda parser: None):
    """The arguments of a script that serves its `Sides`; `more(parser)` adds some."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer-python", default=".bench-venv/bin/python", help="the Python that has PyTorch")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--cases", default="", help="parts of names, comma list")
    p.add_argument("--turns", type=int, default=turns)
    p.add_argument("--serve", help=argparse.SUPPRESS)
    more(p)
    a = p.parse_args()
    a.wants = lambda name: not a.cases or any(part in name for part in a.cases.split(","))
    return a


class Sides:
    """A process for each side: `script --serve SIDE --threads N`, which answers every line of JSON with another."""

    def __init__(self, script, pythons, threads):
        self.processes = {
            side: subprocess.Popen([python, pathlib.Path(script).resolve(), "--serve", side, "--threads", str(threads)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for side, python in pythons.items()
        }

    def ask(self, side, *question):
        process = self.processes[side]
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def least(self, turns, sides, *question):
        """{side: the least of its answers}, the sides taking turns."""
        answers = [[self.ask(side, *question) for side in sides] for _ in range(turns)]
        return dict(zip(sides, map(min, zip(*answers))))

    def close(self):
        for process in self.processes.values():
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    server = Server(sys.argv[1], int(sys.argv[2]))
    if sys.argv[3:]:
        print(json.dumps(server.build(*sys.argv[3:])))
    else:
        server.run()
