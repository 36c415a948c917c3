#!/usr/bin/env python3
"""What the orchestrator does in a night, in minutes: reports from 8 processes, and 10,000 trials of 100 reports.

    tests/bench/night.py [reports|trials|startup|idle ...] [--folder FOLDER]      (FOLDER on the disk to be measured)

Prints one row a figure with its goal, and MISS where it is missed. Optuna is measured beside it where it is installed.
Standard library only, but for Optuna. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLEXP = os.environ.get("FLEXP_BIN", os.path.join(TOP, "build", "flexp"))
NIGHT_WORKER = os.environ.get("FLEXP_NIGHT_WORKER", os.path.join(TOP, "build/release/tests/bench/night_worker"))


def row(what, value, goal="", met=None):
    print(f"  {what:<58} {value:>16}  {goal}{'' if met is None or met else '  MISS'}", flush=True)


class Home:
    """A home with its own orchestrator, its own leases and as many pretended cores as it wants."""

    def __init__(self, folder, cores):
        self.folder = tempfile.mkdtemp(prefix="flexp-bench-", dir=folder)
        self.path = os.path.join(self.folder, "home")
        self.counters = os.path.join(self.folder, "counters")
        os.mkdir(self.counters)
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("FLEXP_")}
        self.env.update(FLEXP_HOME=self.path, FLEXP_CORES=str(cores), FLEXP_LEASES=os.path.join(self.folder, "leases"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.flexp("down", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def flexp(self, *arguments, check=True):
        done = subprocess.run([FLEXP, *arguments], env=self.env, cwd=TOP, check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if check and done.returncode:
            sys.exit(f"night.py: flexp {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
        return done

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def night(self, trials, rounds, concurrent, window, per_unit=1, checkpoints=False, name="random"):
        words = json.dumps([NIGHT_WORKER, str(window), str(per_unit), "yes" if checkpoints else "no", self.counters])
        return self.write("night.yaml", f"""
name: night
entrypoint: {words}
data: {{}}
hyperparameters: {{lr: {{type: double, minval: 0.1, maxval: 0.9}}}}
searcher: {{name: {name}, metric: validation_accuracy, smaller_is_better: false, time_metric: rounds,
           max_time: {rounds}, max_trials: {trials}, max_concurrent_trials: {concurrent}}}
""")

    def pid(self):
        return json.loads(self.flexp("status", "--json").stdout)["pid"]

    def count(self):
        """(acknowledged, first_ns, last_ns, trials) over all workers."""
        found = []
        for name in os.listdir(self.counters):
            with open(os.path.join(self.counters, name), "rb") as file:
                found.append(struct.unpack("<4q", file.read(32)))
        found = [one for one in found if one[1]]
        if not found:
            return 0, 0, 0, 0
        return (sum(one[0] for one in found), min(one[1] for one in found), max(one[2] for one in found),
                sum(one[3] for one in found))

    def sql(self, query):
        base = sqlite3.connect(f"file:{self.path}/flexp.db?mode=ro", uri=True, timeout=60)
        try:
            return base.execute(query).fetchall()
        finally:
            base.close()


def memory_mb(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def machine(folder):
    """What the figures are of."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
                  if line.startswith("model name")), "?")
    kind = subprocess.run(["findmnt", "-no", "FSTYPE,SOURCE", "-T", folder], text=True, stdout=subprocess.PIPE,
                          check=False).stdout.split()
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {model}, {' '.join(kind)}, Linux {os.uname().release}, "
          f"SQLite {sqlite3.sqlite_version}, {subprocess.run([FLEXP, 'version'], text=True, stdout=subprocess.PIPE).stdout.strip()}")


def fsyncs(folder):
    """fsyncs of one page, appended, a second."""
    path = os.path.join(folder, "fsync-probe")
    with open(path, "wb", buffering=0) as file:
        count, start = 0, time.monotonic()
        while time.monotonic() - start < 1:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            count += 1
        rate = count / (time.monotonic() - start)
    os.unlink(path)
    return rate


def bench_reports(folder):
    """8 processes; one report is one message, one step, one metric; acknowledged after a commit with synchronous=FULL."""
    print("reports: 8 processes on the trial protocol, synchronous=FULL")
    row("fdatasync of 4 KiB on this disk, per second", f"{fsyncs(folder):,.0f}")
    with Home(folder, 8) as home:
        home.flexp("up", "--slots", "8")
        pid = home.pid()
        home.flexp("create", home.night(8, 1000, 8, 2000, per_unit=1000))
        deadline = time.monotonic() + 120
        while not home.count()[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        before, start = home.count()[0], time.monotonic()
        time.sleep(5)
        after, seconds = home.count()[0], time.monotonic() - start
        os.kill(pid, signal.SIGKILL)
        time.sleep(1)
        acknowledged = home.count()[0]
        stored = home.sql("SELECT count(*) FROM v_reports")[0][0]
        metrics = home.sql("SELECT count(*) FROM metrics")[0][0]
        rate = (after - before) / seconds
        row("reports acknowledged per second", f"{rate:,.0f}", "goal 100,000", rate >= 100000)
        row("acknowledged when it was killed with kill -9", f"{acknowledged:,}")
        row("of these lost", f"{max(0, acknowledged - min(stored, metrics)):,}", "goal 0",
            stored >= acknowledged and metrics >= acknowledged)
        row("stored, their acknowledgement still on its way", f"{stored - acknowledged:,}")


def bench_optuna(folder, trials, reports):
    try:
        import optuna
    except ImportError:
        row("Optuna", "not installed")
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = os.path.join(folder, "optuna.db")

    def objective(trial):
        lr = trial.suggest_float("lr", 0.1, 0.9)
        for step in range(reports):
            trial.report(lr * step, step)
        return lr

    study = optuna.create_study(storage=f"sqlite:///{path}", sampler=optuna.samplers.RandomSampler(),
                                direction="maximize")
    start = time.monotonic()
    study.optimize(objective, n_trials=trials)
    rate = trials / (time.monotonic() - start)
    os.unlink(path)
    row(f"Optuna {optuna.__version__}, SQLite, {reports} reports a trial, trials per second", f"{rate:,.1f}")
    return rate


def run_night(home, trials, rounds, **settings):
    start = time.monotonic()
    home.flexp("create", home.night(trials, rounds, 8, **settings))
    samples = []
    pid = home.pid()
    while True:
        done = home.count()[3]
        samples.append((done, memory_mb(pid)[0]))
        if done >= trials:
            break
        time.sleep(0.2)
    seconds = time.monotonic() - start
    home.flexp("wait", "1", check=False)
    return seconds, samples, pid


def bench_trials(folder):
    """Trials a second with few reports; then 10,000 trials of 100 reports through one process."""
    print("trials: random search, 8 slots, a worker that costs nothing")
    for reports in (1, 10):
        with Home(folder, 8) as home:
            home.flexp("up", "--slots", "8")
            trials = 5000
            seconds, _, _ = run_night(home, trials, reports, window=100)
            row(f"{reports} report{'s' if reports > 1 else ''} a trial, {trials:,} trials: trials per second",
                f"{trials / seconds:,.0f}", "goal 1,000", trials / seconds >= 1000)
        bench_optuna(folder, 200, reports)
    with Home(folder, 8) as home:
        home.flexp("up", "--slots", "8")
        trials = 10000
        seconds, samples, pid = run_night(home, trials, 100, window=100)
        row(f"100 reports a trial, {trials:,} trials: trials per second", f"{trials / seconds:,.0f}", "goal 1,000",
            trials / seconds >= 1000)
        tenth = next(memory for done, memory in samples if done >= trials / 10)
        now, peak = memory_mb(pid)
        row("resident memory after a tenth, at the end, MB", f"{tenth:.1f}, {now:.1f}")
        row("its highest, MB", f"{peak:.1f}", "goal under 50", peak < 50)
        times = []
        for _ in range(11):
            start = time.monotonic()
            home.flexp("describe", "1", "--json")
            times.append(time.monotonic() - start)
        median = sorted(times)[5] * 1000
        row("  growth a trial, bytes", f"{(now - tenth) * (1 << 20) / (0.9 * trials):,.0f}")
        row("flexp describe at that size, whole process, ms (median of 11)", f"{median:.1f}", "goal 50", median <= 50)


def bench_startup(folder):
    print("start-up, whole process, ms")
    with Home(folder, 8) as home:
        home.flexp("up", "--slots", "8")
        home.flexp("create", home.night(20, 3, 8, 10))
        home.flexp("wait", "1")
        for running in ("an orchestrator runs", "none runs"):
            times = []
            for _ in range(41):
                start = time.monotonic()
                home.flexp("list")
                times.append(time.monotonic() - start)
            median = sorted(times)[20] * 1000
            row(f"flexp list on a warm home, {running} (median of 41)", f"{median:.1f}", "goal under 10", median < 10)
            home.flexp("down", check=False)
        times = []
        for _ in range(21):
            start = time.monotonic()
            home.flexp("up", "--slots", "8")
            times.append(time.monotonic() - start)
            home.flexp("down")
        median = sorted(times)[10] * 1000
        row("flexp up until it is ready (median of 21)", f"{median:.1f}", "goal under 50", median < 50)


def idle_file(home, same):
    """Trials of one short round with the network of configs/quickstart.yaml, of one shape or of ever new ones."""
    width = "16" if same else "{type: int, minval: 8, maxval: 32}"
    units = "64" if same else "{type: int, minval: 16, maxval: 256}"
    return home.write("idle.yaml", f"""
name: idle
hyperparameters:
  lr: {{type: log, base: 10, minval: -3, maxval: -1}}
  width: {width}
  units: {units}
searcher: {{name: random, metric: validation_accuracy, time_metric: rounds, max_time: 1, max_trials: 60,
           max_concurrent_trials: 1}}
data: {{source: synthetic, synthetic: {{samples: 1000, test_samples: 200}}, validation_fraction: 0.02}}
model:
  layers:
    - conv2d: {{filters: $width, kernel: 3, padding: same, activation: relu}}
    - max_pool2d: 4
    - conv2d: {{filters: $width, kernel: 3, padding: same, activation: relu}}
    - max_pool2d: 2
    - flatten
    - dense: {{units: $units, activation: relu}}
    - dense: {{units: classes}}
training: {{optimizer: sgd, learning_rate: $lr, batch_size: 20}}
federation: {{clients: 2, local_epochs: 1, client_validation_fraction: 0}}
""")


def idle_times(folder):
    """Seconds from the end of a run's last training to the beginning of the next run's first, worker by worker."""
    gaps = []
    for name in os.listdir(folder):
        ended = None
        for line in open(os.path.join(folder, name), encoding="utf-8"):
            when, mark, rest = line.split(" ", 2)
            if mark != "=":
                continue
            run, what = rest.split()[1:3]
            if what == "has":
                ended = (run, float(when))
            elif ended and run != ended[0]:
                gaps.append(float(when) - ended[1])
    return sorted(gaps)


def bench_idle(folder):
    print("slot idle: from a trial's last training step to the next trial's first, flexp-trainer, by its clock")
    for same, goal in ((True, 2), (False, 20)):
        with Home(folder, 1) as home:
            log = os.path.join(home.folder, "log")
            os.mkdir(log)
            home.env["FLEXP_PROTOCOL_LOG"] = log
            home.flexp("up", "--slots", "1")
            home.flexp("create", idle_file(home, same))
            home.flexp("wait", "1")
            gaps = idle_times(log)
            median = gaps[len(gaps) // 2] * 1000
            row(f"{'same shape' if same else 'a shape never seen'}, ms (median of {len(gaps)})", f"{median:.2f}",
                f"goal {goal}", median <= goal)
            row("  its 90th percentile, ms", f"{gaps[len(gaps) * 9 // 10] * 1000:.2f}")


BENCHES = {"reports": bench_reports, "trials": bench_trials, "startup": bench_startup, "idle": bench_idle}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("which", nargs="*", help=", ".join(BENCHES))
    parser.add_argument("--folder", default=os.path.join(TOP, "build", "bench"))
    options = parser.parse_args()
    options.folder = os.path.abspath(options.folder)
    os.makedirs(options.folder, exist_ok=True)
    machine(options.folder)
    for name in options.which or BENCHES:
        if name not in BENCHES:
            sys.exit(f"night.py: no measurement {name}; there are {', '.join(BENCHES)}")
        BENCHES[name](options.folder)


if __name__ == "__main__":
    main()
