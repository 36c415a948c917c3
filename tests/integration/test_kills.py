#!/usr/bin/env python3
"""Nothing is lost: orchestrator and workers are killed with -9, at named failpoints and at random moments, in four settings.

After each disturbed experiment: every report and checkpoint that a worker saw acknowledged is in the store; every value that any run
reported equals, bit for bit, that of an undisturbed experiment (for packed trials: of one with a slot for each) at the same trial and unit; the best trial is the same where
that is promised (grid, order: logical); every restart replayed the journal (or the orchestrator would have said so); no file of
a kept checkpoint is missing; no process is left. At least half of the random kills fall inside a round.

FLEXP_KILLS=N: random kills a setting (12). FLEXP_SEED=N: another sequence of moments. Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import glob
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLEXP = os.environ.get("FLEXP_BIN", os.path.join(TOP, "build", "flexp"))
KILLS = int(os.environ.get("FLEXP_KILLS", "12"))
DEADLINE_S = 300

COMMON = """
name: kills
max_restarts: 1000
reproducibility: {experiment_seed: 5}
data: {source: synthetic, synthetic: {samples: 1500, test_samples: 100, classes: 4, channels: 1, size: 16}}
model: {layers: [{conv2d: {filters: 8, kernel: 3, padding: same, activation: relu}}, {max_pool2d: 2}, flatten,
                 {dropout: 0.2}, {dense: {units: classes}}]}
training: {learning_rate: $lr, momentum: 0.9, batch_size: 10}
federation: {clients: 6, clients_per_round: 3, local_epochs: 48, partition: {scheme: dirichlet, alpha: 1.0}}
"""
SETTINGS = {  # (rest of the file, whether the best trial is promised)
    "grid": ("""
hyperparameters: {lr: {type: log, base: 10, minval: -3, maxval: -1, count: 6}}
searcher: {name: grid, metric: validation_accuracy, max_concurrent_trials: 4, time_metric: rounds, max_time: 12}
""", True),
    "adaptive_asha_logical": ("""
hyperparameters: {lr: {type: log, base: 10, minval: -4, maxval: 0}}
searcher: {name: adaptive_asha, metric: validation_accuracy, max_trials: 12, max_concurrent_trials: 4, order: logical,
           time_metric: rounds, max_time: 16, divisor: 4, max_rungs: 3}
""", True),
    "adaptive_asha_by_arrival": ("""
hyperparameters: {lr: {type: log, base: 10, minval: -4, maxval: 0}}
searcher: {name: adaptive_asha, metric: validation_accuracy, max_trials: 12, max_concurrent_trials: 4,
           time_metric: rounds, max_time: 16, divisor: 4, max_rungs: 3}
""", False),
    "grid_packed": ("""
resources: {trials_per_slot: 3, max_slots: 2}
hyperparameters: {lr: {type: log, base: 10, minval: -3, maxval: -1, count: 6}}
searcher: {name: grid, metric: validation_accuracy, max_concurrent_trials: 6, time_metric: rounds, max_time: 12}
""", True),
}
REFERENCE = {"grid_packed": "grid"}  # whose undisturbed experiment has the values, where not the setting's own
FAILPOINTS = ["before_commit:20", "after_commit_before_effects:15", "after_assign:3", "during_create", "before_delete:2",
              "after_delete:2", "in_journal:4", "worker_mid_round:3000", "worker_before_checkpoint:3",
              "worker_after_checkpoint:3"]


class Home:
    """One home with its orchestrator, and the environment that everything in it runs with."""

    def __init__(self, folder, name, setting, **env):
        self.path = os.path.join(folder, name)
        self.log = os.path.join(self.path, "protocol")
        os.makedirs(self.log)
        self.env = dict(os.environ, FLEXP_HOME=self.path, FLEXP_PROTOCOL_LOG=self.log, FLEXP_BACKOFF_MS="10",
                        FLEXP_CORES="4", **env)  # four slots, on fewer cores too
        self.config = os.path.join(self.path, "config.yaml")
        with open(self.config, "w", encoding="utf-8") as out:
            out.write(COMMON + SETTINGS[setting][0])

    def flexp(self, *arguments, check=True):
        done = subprocess.run([FLEXP, *arguments], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False)
        if check and done.returncode:
            raise AssertionError(f"flexp {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def up(self):
        """Starts the orchestrator; one that a failpoint kills while it starts is started again."""
        deadline = time.monotonic() + 60
        while True:
            done = self.flexp("up", "--slots", "4", check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"flexp up: exit {done.returncode}\n{done.stdout}{done.stderr}")

    def status(self):
        done = self.flexp("status", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None

    def describe(self):
        return json.loads(self.flexp("describe", "1", "--json").stdout)

    def database(self):
        return sqlite3.connect(f"file:{os.path.join(self.path, 'flexp.db')}?mode=ro", uri=True)

    def finish(self):
        """Waits for the experiment, starting an orchestrator that is gone."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            done = self.flexp("wait", "1", "--timeout", "60", check=False)
            state = self.describe()["state"]
            if state in ("completed", "canceled", "error"):
                return state
            if time.monotonic() > deadline:
                raise AssertionError(f"still {state} after {DEADLINE_S} s; wait said {done.stderr}")
            self.up()

    def down(self):
        self.flexp("down", check=False)


def values(home):
    """{(trial, name, client, unit): {value of each run}}: what every run said, wall clock times left out."""
    found = {}
    with home.database() as db:
        rows = db.execute("SELECT t.number, n.name, m.client, m.unit, m.value, m.status FROM metrics m"
                          " JOIN names n ON n.id = m.name JOIN trials t ON t.id = m.trial")
        for number, name, client, unit, value, status in rows:
            found.setdefault((number, name, client, unit), set()).add((value, status))
    return found


def messages(path):
    """What a worker's protocol log has: each line is a time, a mark and a message; the last may be torn."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.endswith("}\n"):
                yield json.loads(line.split(" ", 2)[2])


def acknowledged_but_missing(home):
    problems = []
    with home.database() as db:
        stored = {}
        for run, seq in db.execute("SELECT run, seq FROM reports UNION SELECT run, seq FROM checkpoints"):
            stored.setdefault(run, set()).add(seq)
    for path in glob.glob(os.path.join(home.log, "*.log")):
        sent, acknowledged = {}, {}
        for message in messages(path):
            if message["op"] in ("report", "checkpoint"):
                sent.setdefault(message["run"], set()).add(message["seq"])
            elif message["op"] == "ack":
                acknowledged[message["run"]] = max(message["seq"], acknowledged.get(message["run"], 0))
        for run, last in acknowledged.items():
            lost = {seq for seq in sent.get(run, ()) if seq <= last} - stored.get(run, set())
            if lost:
                problems.append(f"run {run}: acknowledged, not stored: seq {sorted(lost)}")
    return problems


def is_inside_a_round(path):
    """By the end of a worker's protocol log: it has a run that was not waiting for a verdict."""
    until, unit = {}, {}
    for message in messages(path):
        op, run = message["op"], message.get("run")
        if op == "assign":
            until[run] = message["train_until"]
            unit[run] = (message.get("resume") or {"units": {"rounds": 0}})["units"]["rounds"]
        elif op == "train_until":
            until[run] = message["unit"]
        elif op == "report":
            unit[run] = message["units"]["rounds"]
        elif op in ("done", "failed", "release"):
            until.pop(run, None)
    return any(unit[run] < until[run] for run in until)


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False


def kill_at_random(home, draw):
    """Kills until KILLS have hit; returns how many fell inside a round."""
    inside = hits = 0
    deadline = time.monotonic() + DEADLINE_S
    while hits < KILLS and time.monotonic() < deadline:
        time.sleep(draw.uniform(0.05, 0.4))  # the random moment itself, not a wait for something
        status = home.status()
        if status is None:
            home.up()
            continue
        if home.describe()["state"] in ("completed", "canceled", "error"):
            break
        workers = [worker["pid"] if isinstance(worker, dict) else worker for worker in status["workers"]]
        logs = [os.path.join(home.log, f"{pid}.log") for pid in workers]
        busy = [path for path in logs if os.path.exists(path) and is_inside_a_round(path)]
        if draw.random() < 0.35:
            hit, in_round = kill(status["pid"]), bool(busy)
            home.up()
        elif workers:
            pid = draw.choice(workers)
            hit = kill(pid)
            in_round = os.path.join(home.log, f"{pid}.log") in busy
        else:
            continue
        hits += hit
        inside += hit and in_round
    return hits, inside


def compare(home, reference, same_best):
    problems = acknowledged_but_missing(home)
    expected, found = values(reference), values(home)
    common = 0
    for key, seen in found.items():
        if len(seen) != 1:
            problems.append(f"runs disagree at {key}: {seen}")
        elif key in expected:
            common += 1
            if seen != expected[key]:
                problems.append(f"differs from the undisturbed at {key}: {seen} {expected[key]}")
    if common < 100:
        problems.append(f"only {common} values to compare")
    ours, theirs = home.describe(), reference.describe()
    if same_best and (ours["best_trial_id"], ours["best_validation_metrics"], ours["test_metrics"]) != (
            theirs["best_trial_id"], theirs["best_validation_metrics"], theirs["test_metrics"]):
        problems.append(f"another best: {ours['best_validation_metrics']} for {theirs['best_validation_metrics']}")
    if same_best and set(found) != set(expected):
        problems.append(f"other trials or units: {sorted(set(found) ^ set(expected))[:5]}")
    with home.database() as db:
        kept = db.execute("SELECT t.number, c.path FROM checkpoints c JOIN trials t ON t.id = c.trial"
                          " WHERE c.deleted_us IS NULL").fetchall()
        if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            problems.append("the store fails its integrity check")
    for number, path in kept:
        if not os.path.exists(os.path.join(home.path, "experiments/1/trials", str(number), path)):
            problems.append(f"trial {number}: kept checkpoint {path} has no file")
    return problems[:10]


def left_processes(home):
    left = []
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            with open(folder + "/environ", "rb") as file:
                if ("FLEXP_HOME=" + home.path).encode() in file.read().split(b"\0"):
                    left.append(folder)
        except OSError:
            pass
    return left


def wait_until_none_left(home):
    deadline = time.monotonic() + 20
    while left_processes(home):
        if time.monotonic() > deadline:
            return [f"processes left: {left_processes(home)}"]
        time.sleep(0.05)
    return []


def undisturbed(folder, setting):
    home = Home(folder, "undisturbed", setting)
    try:
        home.up()
        home.flexp("create", home.config)
        state = home.finish()
    finally:
        home.down()
    if state != "completed":
        raise AssertionError(f"the undisturbed experiment ended {state}")
    return home


def random_kills(folder, setting, reference):
    draw = random.Random(f"{os.environ.get('FLEXP_SEED', '1')} {setting}")
    home = Home(folder, "random", setting)
    try:
        home.up()
        home.flexp("create", home.config)
        hits, inside = kill_at_random(home, draw)
        state = home.finish()
        problems = [] if state == "completed" else [f"ended {state}"]
        print(f"# {setting}: {hits} kills, {inside} inside a round")
        if hits < KILLS // 2:
            problems.append(f"only {hits} kills hit before it was over")
        if 2 * inside < hits:
            problems.append(f"only {inside} of {hits} kills fell inside a round")
        problems += compare(home, reference, SETTINGS[setting][1])
    finally:
        home.down()
    return problems + wait_until_none_left(home)


def failpoint_kills(folder, setting, reference, failpoint):
    once = os.path.join(folder, "once-" + failpoint)
    home = Home(folder, "failpoint-" + failpoint.replace(":", "-"), setting, FLEXP_FAILPOINT=failpoint,
                FLEXP_FAILPOINT_ONCE=once)
    try:
        home.up()
        if home.flexp("create", home.config, check=False).returncode:
            home.up()
            if not json.loads(home.flexp("list", "--json").stdout)["experiments"]:
                home.flexp("create", home.config)
        state = home.finish()
        problems = [] if state == "completed" else [f"ended {state}"]
        if not os.path.exists(once):
            problems.append("the failpoint was never reached")
        problems += compare(home, reference, SETTINGS[setting][1])
    finally:
        home.down()
    return problems + wait_until_none_left(home)


def main():
    tests = []
    for setting in SETTINGS:
        tests.append((f"{setting}_survives_random_kills", setting, random_kills, ()))
    for number, failpoint in enumerate(FAILPOINTS):
        setting = list(SETTINGS)[number % len(SETTINGS)]
        tests.append((f"{setting}_survives_a_kill_at_{failpoint.split(':')[0]}", setting, failpoint_kills, (failpoint,)))
    wanted = sys.argv[1:]
    tests = [test for test in tests if not wanted or any(word in test[0] for word in wanted)]
    print(f"1..{len(tests)}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        references = {}
        for number, (name, setting, test, arguments) in enumerate(tests, 1):
            try:
                os.makedirs(os.path.join(folder, setting), exist_ok=True)
                model = REFERENCE.get(setting, setting)
                if model not in references:
                    references[model] = undisturbed(os.path.join(folder, model), model)
                problems = test(os.path.join(folder, setting), setting, references[model], *arguments)
            except (AssertionError, OSError, ValueError, KeyError, sqlite3.Error, subprocess.SubprocessError) as why:
                problems = str(why).splitlines() or [repr(why)]
            for problem in problems:
                print(f"# {problem}")
            failed += bool(problems)
            print(f"{'not ok' if problems else 'ok'} {number} - {name}", flush=True)
    return 1 if failed else 0


sys.exit(main())
