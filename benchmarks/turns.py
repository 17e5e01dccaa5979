"""One process per framework, kept alive, and measurements in turns.

Spinning threads of one framework ruin the times of another in the same process, and a slow spell of the machine must
hit everyone alike: so each framework has a process of its own (`python turns.py ADAPTER THREADS`, which takes commands
on its standard input and answers each with a line of JSON), and they take turns, A B A B.
"""

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


class Server:
    def __init__(self, adapter, threads):
        spec = importlib.util.spec_from_file_location(f"adapter_{adapter}", HERE / "adapters" / f"{adapter}.py")
        self.F = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.F)
        self.F.setup("eager", threads)

    def build(self, name):
        from workloads import CASES
        self.step = None
        gc.collect()
        case = CASES[name]
        step = case.build(self.F, **case.params)
        for _ in range(3):
            out = step()
        self.step, self.k = step, 0
        return {"check": rms(self.F, out)}

    def once(self, k):
        """Throughput: `k` steps are issued, the last one is waited for."""
        step, start = self.step, clock()
        for _ in range(k):
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
                say(self.build(argument) if command == "build" else self.measure(argument))
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


def compare(workers, name, rounds, seconds, patience):
    """{peer: {us, rounds, ...}} of one case, the peers taking turns; the first worker is the one that is judged.

    `ratio` is the median over the rounds of (first worker's time / this peer's time in the same round). Rounds in which
    other processes used more than a quarter of a core do not count when there are enough quiet ones. `ratio_of_fastest`
    compares the fastest samples, which a busy machine disturbs least.
    """
    results = {w.peer: w.ask("build", name) | {"rounds": []} for w in workers}
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
    ours = results[workers[0].peer]["rounds"]
    for w in alive:
        r = results[w.peer]
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


if __name__ == "__main__":
    Server(sys.argv[1], int(sys.argv[2])).run()
