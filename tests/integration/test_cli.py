#!/usr/bin/env python3
"""The program `flexp` as people and scripts use it: every verb, --json, exit codes, mistakes, no orchestrator, standard
input, two terminals at once, Ctrl-C while following, a terminal that is closed, deep folders, names, NO_COLOR.

Trials are carried by a small worker below, which speaks the trial protocol and waits for a gate file where a test wants
to look at an experiment that is going on. FLEXP_BIN: the program (build/flexp). Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLEXP = os.path.abspath(os.environ.get("FLEXP_BIN", os.path.join(TOP, "build", "flexp")))
DEADLINE_S = 60

WORKER = r'''
import json, os, select, socket, sys, time
link = socket.socket(fileno=int(os.environ["FLEXP_FD"]))
gate = sys.argv[1]
pending = b""
def say(**message):
    link.sendall(json.dumps(message).encode() + b"\n")
def hear(wait):
    """The next message, or None when none comes within wait seconds."""
    global pending
    while b"\n" not in pending:
        if not select.select([link], [], [], wait)[0]:
            return None
        more = link.recv(65536)
        if not more:
            sys.exit(0)
        pending += more
    line, pending = pending.split(b"\n", 1)
    return json.loads(line)
say(op="hello", version=1, pid=os.getpid(), program="test-worker", rank=0, size=1, isa="none",
    capabilities=["reuse", "plan", "evaluate"])
run = None
def train(message):
    global run
    run, seq = message["run"], 0
    lr = message["hyperparameters"]["lr"]
    unit = message["resume"]["units"]["rounds"] if message.get("resume") else 0
    until, told = message["train_until"], None
    def send(**body):
        nonlocal seq
        seq += 1
        say(run=run, seq=seq, **body)
    print("training with", lr, flush=True)
    while True:
        while unit < until and not told:
            if lr > 0.9:
                return send(op="failed", reason="error", text="this learning rate always fails")
            while gate != "-" and not os.path.exists(gate) and not told and unit >= 1:
                told = hear(0.02)
            if told:
                break
            unit += 1
            send(op="report", kind="validation", units={"rounds": unit},
                 metrics={"score": 1 - (lr - 0.3) ** 2 - 0.1 / unit, "validation_loss": 1 / unit})
            path = "runs/%d/checkpoint-%d" % (run, unit)
            whole = os.path.join(message["trial_dir"], path)
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            with open(whole, "w") as out:
                out.write(str(unit))
            send(op="checkpoint", units={"rounds": unit}, path=path, bytes=os.path.getsize(whole))
        told = told or hear(30)
        if told is None or told["op"] == "ack":
            told = None
        elif told["op"] == "train_until":
            until, told = told["unit"], None
        elif told["op"] == "stop":
            return send(op="done", reason="stopped", units={"rounds": unit})
        elif told["op"] == "preempt":
            return send(op="done", reason="preempted", units={"rounds": unit})
        elif told["op"] == "release":
            return None
        else:
            told = None
while True:
    message = hear(3600)
    if message is None:
        continue
    if message["op"] == "plan":
        if message["hyperparameters"].get("layers") == 9:
            say(op="plan", id=message["id"], ok=False, errors=[{"path": "data.depth", "text": "is too deep"}])
        else:
            say(op="plan", id=message["id"], ok=True, mem_bytes=1, pack_key="a")
    elif message["op"] == "assign":
        train(message)
    elif message["op"] == "evaluate":
        say(op="report", run=message["run"], seq=1, kind="test", units={"rounds": 1}, metrics={"test_score": 0.77})
        say(op="done", run=message["run"], seq=2, reason="evaluated", units={"rounds": 1})
'''

CONFIG = """# an experiment of the test
name: {name}
entrypoint: [{python}, {worker}, {gate}]
hyperparameters:
  lr: {{type: categorical, vals: [{lrs}]}}
searcher: {{name: grid, metric: score, smaller_is_better: false, max_concurrent_trials: 2, time_metric: rounds,
            max_time: 4}}
max_restarts: 0
data: {{depth: 3}}
"""
BUILT_IN = """name: built-in
hyperparameters:
  lr: {type: log, base: 10, minval: -3, maxval: -1, count: 2}
searcher: {name: grid, metric: validation_accuracy, max_concurrent_trials: 2, time_metric: rounds, max_time: 2}
data: {source: synthetic, synthetic: {samples: 200, test_samples: 50, classes: 4, channels: 1, size: 8}}
model:
  layers:
    - max_pool2d: 4
    - flatten
    - dense: {units: classes}
training: {learning_rate: $lr, batch_size: 10}
federation: {clients: 2, clients_per_round: 2, local_epochs: 1}
"""


def wait_for(what, seconds=DEADLINE_S):
    """Polls until what() is true and returns that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not come true within {seconds} s: {what.__doc__ or what}")


class Place:
    """A folder with a home, a clean environment, and the worker."""

    def __init__(self, folder):
        self.folder = os.path.realpath(folder)
        self.home = os.path.join(self.folder, "results")
        self.gate = os.path.join(self.folder, "gate")
        self.worker = os.path.join(self.folder, "worker.py")
        runtime = os.path.join(self.folder, "run")
        os.mkdir(runtime, 0o700)
        with open(self.worker, "w", encoding="utf-8") as out:
            out.write(WORKER)
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith("FLEXP_") or name in ("FLEXP_TRAINER", "FLEXP_SHARED")}
        kept.pop("NO_COLOR", None)
        self.env = dict(kept, XDG_RUNTIME_DIR=runtime, FLEXP_LEASES=os.path.join(self.folder, "leases"), LANG="C.UTF-8",
                        TERM="xterm", SECRET_OF_THE_CALLER="yes", FLEXP_BACKOFF_MS="10")

    def config(self, name="night", lrs="0.1, 0.3, 0.5, 0.7", gate="-", file="night.yaml", **replace):
        text = CONFIG.format(name=name, python=sys.executable, worker=self.worker, gate=gate, lrs=lrs)
        for old, new in replace.items():
            text = text.replace(old, new)
        return self.write(file, text)

    def write(self, file, text):
        path = os.path.join(self.folder, file)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def open_gate(self):
        with open(self.gate, "w", encoding="utf-8"):
            pass

    def flexp(self, *arguments, expect=0, stdin=None, cwd=None, env=None):
        done = subprocess.run([FLEXP, *arguments], env=dict(self.env, **(env or {})), cwd=cwd or self.folder,
                              input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S,
                              check=False)
        assert expect is None or done.returncode == expect, \
            f"flexp {' '.join(arguments)}: exit {done.returncode}, wanted {expect}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        for line in done.stderr.splitlines():
            assert line.startswith("flexp: ") or line.startswith("  ") or re.match(r"\S+:\d+:\d+: ", line) \
                or "--json" in arguments or line.startswith("Usage") or expect == 2, f"stderr: {line!r}"
        return done

    def json(self, *arguments, expect=0, **how):
        done = self.flexp(*arguments, "--json", expect=expect, **how)
        answer = json.loads(done.stdout)
        assert answer["schema_version"] == 1, answer
        return answer

    def state(self, experiment=1):
        return self.json("describe", str(experiment))["state"]

    def pid(self):
        return self.json("status")["pid"]

    def close(self):
        self.open_gate()
        with contextlib.suppress(Exception):
            subprocess.run([FLEXP, "down", "--home", self.home], env=self.env, timeout=30, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


class Terminal:
    """flexp on a pseudo-terminal of its own session, as in a terminal window."""

    def __init__(self, place, *arguments, columns=80, rows=24, env=None):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(place.folder)
                for number in (signal.SIGHUP, signal.SIGINT):  # as in a window, also under nohup or behind a script's &
                    signal.signal(number, signal.SIG_DFL)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
                os.execve(FLEXP, [FLEXP, *arguments], dict(place.env, **(env or {})))
            finally:
                os._exit(127)
        self.text = ""
        self.status = None

    def read(self, seconds=0.05):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                more = os.read(self.fd, 65536)
            except OSError:  # its other end is closed
                more = b""
            self.text += more.decode(errors="replace")
            return bool(more)
        return None

    def expect(self, pattern):
        deadline = time.monotonic() + DEADLINE_S
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[-3000:]!r}"
            assert self.read() is not False or re.search(pattern, self.text), \
                f"ended without {pattern!r}: {self.text[-3000:]!r}"

    def resize(self, columns, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.fd, keys)

    def wait(self):
        deadline = time.monotonic() + DEADLINE_S
        while self.status is None:
            assert time.monotonic() < deadline, f"does not end: {self.text[-3000:]!r}"
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        while self.read():
            pass
        return self.status

    def close(self):
        """The window is closed: the session gets SIGHUP."""
        os.close(self.fd)


def plain(text):
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)


# --- tests; each gets a fresh Place ----------------------------------------------------------------------------------

def every_verb_has_help_with_an_example(place):
    verbs = place.json("help")["verbs"]
    assert len(verbs) > 20 and len({verb["name"] for verb in verbs}) == len(verbs)
    overview = place.flexp("help").stdout
    for verb in verbs:
        words = verb["name"].split()
        assert f"  {verb['name']}" in overview
        for done in (place.flexp(*words, "--help"), place.flexp("help", *words)):
            for part in (f"flexp {verb['name']}", "Usage", "Example", "Exit codes", "--json"):
                assert part in done.stdout, (verb["name"], part)
            assert not done.stderr
    for word in ("trial", "set", "data"):
        text = place.flexp(word, "--help").stdout
        assert text == place.flexp("help", word).stdout
        assert all(f"flexp {verb['name']}" in text for verb in verbs if verb["name"].startswith(word + " ")), text
    assert not os.path.exists(place.home)


def without_a_verb_the_usage_is_on_stderr(place):
    done = place.flexp(expect=2)
    assert not done.stdout and "Usage" in done.stderr


def version_is_printed(place):
    assert re.fullmatch(r"flexp \d+\.\d+\.\d+\n", place.flexp("version").stdout)
    assert place.flexp("--version").stdout == place.flexp("version").stdout
    assert place.json("version")["version"] in place.flexp("version").stdout


def mistakes_get_one_line_and_exit_code_2(place):
    place.config()
    for words, hint in ((["craete", "x"], "did you mean 'create'"), (["ls"], "did you mean 'list'"),
                        (["list", "--al1"], "--all"), (["create"], "wants FILE"), (["list", "x"], "no argument"),
                        (["describe", "1", "2"], "too much"), (["trial", "describe", "1"], "1/3"),
                        (["trial"], "trial what"), (["wait", "1", "--timeout", "soon"], "seconds"),
                        (["up", "--slots", "many"], "cpu, gpu"), (["describe", "1/2"], "want a number"),
                        (["describe", "-1"], "no option -1"), (["describe", "0"], "want a number"),
                        (["--home", "", "list"], "--home"), (["create", "absent.yaml"], "no such file"),
                        (["create", "/tmp"], "is a folder"), (["create", "night.yaml", "--config", "lr"], "KEY=VALUE"),
                        (["help", "creat"], "did you mean 'create'")):
        done = place.flexp(*words, expect=2)
        assert not done.stdout, words
        assert hint in done.stderr and done.stderr.startswith("flexp: ") and done.stderr.count("\n") == 1, done.stderr
    assert not os.path.exists(place.home)


def without_an_orchestrator_reading_works_and_makes_nothing(place):
    assert "No experiments" in place.flexp("list").stdout
    assert place.json("list")["experiments"] == []
    assert "no orchestrator" in place.flexp("status", expect=3).stderr
    status = place.json("status", expect=3)
    assert status["running"] is False and status["pid"] is None and status["home"] == place.home
    assert status["slots"] == 0 and status["workers"] == status["worker_pids"] == []  # of the kinds they have when it runs
    assert "flexp up" in place.flexp("slots", expect=3).stderr
    place.flexp("down")
    place.json("down")
    for verb in ("describe", "trials", "logs", "wait", "pause", "activate", "cancel", "kill"):
        done = place.flexp(verb, "1", expect=2)
        assert "no experiment 1" in done.stderr and not done.stdout, verb
    place.flexp("trial", "describe", "1/1", expect=2)
    place.flexp("trial", "kill", "1/1", expect=2)
    assert "flexp create" in place.flexp("describe", expect=2).stderr
    assert not os.path.exists(place.home)


def validate_names_every_problem_with_its_place(place):
    good = place.config()
    assert re.match(r"\S+: valid: 4 trials", place.flexp("validate", good).stdout)
    answer = place.json("validate", good)
    assert answer["valid"] is True and answer["trials"] == 4
    bad = place.config(file="bad.yaml", **{"max_time: 4": "max_tme: 4", "max_restarts: 0": "max_restarts: no"})
    done = place.flexp("validate", bad, expect=2)
    assert re.search(r"^\S*bad\.yaml:7:\d+: error: searcher\.max_tme .*max_time", done.stderr, re.M), done.stderr
    assert re.search(r"^\S*bad\.yaml:8:\d+: error: max_restarts ", done.stderr, re.M), done.stderr
    assert not done.stdout
    answer = place.json("validate", bad, expect=2)
    assert answer["valid"] is False and {p["line"] for p in answer["problems"] if p["severity"] == "error"} >= {7, 8}
    assert "max_time" in place.flexp("validate", good, "--config", "searcher.max_time=0", expect=2).stderr
    with open(good, encoding="utf-8") as text:
        assert place.flexp("validate", "-", stdin=text.read()).stdout.startswith("<stdin>: valid")
    assert "1 error" in place.flexp("validate", "-", stdin="[", expect=2).stderr
    assert not os.path.exists(place.home)


def what_the_trainer_refuses_is_a_problem_of_the_file(place):
    bad = place.config(file="deep.yaml", lrs="0.1", **{"vals: [0.1]}": "vals: [0.1]}\n  layers: {type: int, minval: 1, "
                                                                       "maxval: 9, count: 2}"})
    done = place.flexp("create", bad, expect=2)
    assert done.stderr.count("is too deep") == 1 and "layers=9" in done.stderr, done.stderr
    assert re.search(r"^\S*deep\.yaml:\d+:\d+: error: data\.depth is too deep", done.stderr, re.M), done.stderr
    assert "nothing was created" in done.stderr and not os.path.exists(place.home)
    wrong = place.write("pool.yaml", BUILT_IN.replace("max_pool2d: 4", "max_pool2d: 40"))
    done = place.flexp("validate", wrong, expect=2)
    assert re.search(r"pool\.yaml:8:\d+: error: model\.layers\[0\]", done.stderr), done.stderr
    place.flexp("validate", place.write("good.yaml", BUILT_IN))


def preview_counts_trials_by_length(place):
    path = place.config(**{"name: grid": "name: adaptive_asha, max_trials: 16, max_rungs: 2",
                           "max_time: 4": "max_time: 8"})
    answer = place.json("preview", path)
    assert answer["time_metric"] == "rounds"
    assert sum(row["trials"] for row in answer["trials_by_length"]) == 16
    assert sum(row["trials"] * row["units"] for row in answer["trials_by_length"]) == answer["total_units"]
    table = place.flexp("preview", path).stdout
    assert "TRIALS" in table and "16 trials" in table
    assert not os.path.exists(place.home)


def an_experiment_goes_from_file_to_best_trial(place):
    path = place.config(lrs="0.1, 0.3, 0.5, 0.99")
    done = place.flexp("create", path)
    assert done.stdout.startswith("Created experiment 1 (night)") and "flexp describe 1" in done.stdout
    place.flexp("wait", "1")
    answer = place.json("describe", "1")
    assert answer["id"] == 1 and answer["name"] == "night"
    assert answer["state"] == "completed" and answer["progress"] == 1
    assert answer["best_trial_id"] == 2 and answer["best_hyperparameters"] == {"lr": 0.3}
    assert answer["best_validation_metrics"]["trial_id"] == 2 and answer["best_validation_metrics"]["round"] == 4
    assert abs(answer["best_validation_metrics"]["score"] - 0.975) < 1e-12
    assert answer["trials"]["error"] == 1 and answer["failures"] == {"error": 1}
    with open(path, encoding="utf-8") as text:
        assert answer["config_text"] == text.read()
    assert place.json("wait", "1")["id"] == 1
    assert [row["id"] for row in place.json("list")["experiments"]] == [1]
    assert {row["id"] for row in place.json("trials", "1")["trials"]} == {1, 2, 3, 4}
    assert place.json("trial", "describe", "1/2")["hyperparameters"] == {"lr": 0.3}
    assert place.json("slots")["slots"]
    status = place.json("status")
    assert status["home"] == place.home and status["running"] is True and isinstance(status["workers"], list)
    os.kill(status["pid"], 0)
    lines = place.json("logs", "1")["lines"]
    assert any("training with 0.3" in line["text"] for line in lines), lines
    assert "training with 0.3" in place.flexp("trial", "logs", "1/2").stdout
    assert "training with 0.5" not in place.flexp("trial", "logs", "1/2").stdout
    assert place.flexp("logs", "1/2").stdout == place.flexp("trial", "logs", "1/2").stdout
    text = place.flexp("describe", "1").stdout
    for part in ("Best trial 1/2", "at round 4", "0.9750", "lr", "0.3", "Top 3", "Failures",
                 "flexp trial describe 1/2"):
        assert part in text, (part, text)
    assert "this learning rate always fails" in place.flexp("trial", "describe", "1/4").stdout
    assert place.flexp("trials", "1").stdout.splitlines()[1].split()[0] == "2"
    assert "cpu:" in place.flexp("slots").stdout
    assert str(status["pid"]) in place.flexp("status").stdout
    assert "night" in place.flexp("list").stdout


def without_an_id_the_latest_is_meant_and_names_do_where_only_one_has_them(place):
    for name in ("first", "second", "second"):
        place.flexp("create", place.config(name=name), "--paused")
    done = place.flexp("describe")
    assert "Experiment 3" in done.stdout and "latest" in done.stderr
    assert place.json("describe")["id"] == 3 and not place.flexp("describe", "-q").stderr
    assert place.json("describe", "first")["id"] == 1
    assert "give the number" in place.flexp("describe", "second", expect=2).stderr
    assert "did you mean 'first'" in place.flexp("describe", "frist", expect=2).stderr
    for verb in (["describe"], ["trials"], ["logs"], ["wait"], ["pause"], ["activate"], ["cancel"], ["kill"]):
        done = place.flexp(*verb, "99", expect=2)
        assert "99" in done.stderr and not done.stdout, verb
    for verb in ("describe", "logs", "kill"):
        assert "99" in place.flexp("trial", verb, "1/99", expect=2).stderr


def standard_input_and_overrides_make_an_experiment(place):
    with open(place.config(), encoding="utf-8") as file:
        text = file.read()
    created = place.json("create", "-", "--config", "name=other", "--config", "searcher.max_time=2", "--paused",
                         stdin=text)
    assert created == {"schema_version": 1, "id": 1}
    answer = place.json("describe", "1")
    assert answer["name"] == "other" and answer["state"] == "paused" and answer["config_text"] == text
    assert answer["config"]["searcher"]["max_time"] == 2
    assert "reading" not in place.flexp("create", "-", "-q", stdin=text).stderr


def a_bad_file_creates_nothing(place):
    done = place.flexp("create", "-", "-f", stdin="name: [", expect=2)
    assert "<stdin>:" in done.stderr and not done.stdout
    assert place.flexp("create", "-", "--json", stdin="", expect=2).stdout == ""
    assert not os.path.exists(place.home)


def two_terminals_at_once_share_one_orchestrator(place):
    path = place.config()
    for turn in range(3):
        running = [subprocess.Popen([FLEXP, "create", path, "--json"], env=place.env, cwd=place.folder,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                   for _ in range(4)]
        ids = []
        for one in running:
            out, err = one.communicate(timeout=DEADLINE_S)
            assert one.returncode == 0, err
            ids.append(json.loads(out)["id"])
        assert sorted(ids) == list(range(4 * turn + 1, 4 * turn + 5)), ids
        pid = place.pid()
        place.flexp("down")
        assert not command_of(pid)
    others = [one for one in os.listdir("/proc") if one.isdigit() and place.home in command_of(one)]
    assert not others, others


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as text:
            return text.read()
    except OSError:
        return ""


def the_orchestrator_keeps_nothing_of_its_caller(place):
    done = place.flexp("up", "--slots", "1")
    pid = place.pid()
    assert str(pid) in done.stdout and "1 slot" in done.stdout
    with open(f"/proc/{pid}/environ", encoding="utf-8") as text:
        assert "SECRET_OF_THE_CALLER" not in text.read()
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null" and os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/2") == os.path.join(place.home, "orchestrator.log")
    assert "running already" in place.flexp("up").stdout
    assert "flexp down" in place.flexp("up", "--slots", "3", expect=2).stderr
    assert place.json("up")["started"] is False
    assert place.json("down")["stopped"] == pid
    assert not command_of(pid) and place.json("down")["stopped"] is None


def up_in_the_foreground_ends_with_ctrl_c_or_sigterm(place):
    one = subprocess.Popen([FLEXP, "up", "--foreground"], env=place.env, cwd=place.folder, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for(lambda: place.flexp("status", expect=None).returncode == 0)
    assert place.pid() == one.pid
    one.send_signal(signal.SIGTERM)
    assert one.wait(DEADLINE_S) == 0
    one.stdout.close()
    place.flexp("status", expect=3)


def a_piped_follow_prints_lines_and_a_summary(place):
    done = place.flexp("create", "-f", place.config())
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert any(re.match(r"\[ *[\d.]+m?\d*s\] (active|completed) +\d+%: ", line) for line in lines), done.stdout
    text = "\n".join(lines)
    for part in ("Experiment 1 completed", "Best trial 1/2", "score", "0.9750", "lr", "Checkpoint", "flexp describe 1"):
        assert part in text, (part, text)
    checkpoint = re.search(r"Checkpoint\s+(\S+)", text).group(1)
    assert os.path.exists(checkpoint)
    done = place.flexp("create", "-f", "--json", place.config())
    assert json.loads(done.stdout)["id"] == 2 and json.loads(done.stdout)["state"] == "completed"
    assert place.flexp("create", "-fq", place.config()).stdout.splitlines()[0] == "3"


def an_experiment_that_does_not_complete_gives_exit_code_1(place):
    place.flexp("create", place.config(gate=place.gate))
    done = place.flexp("wait", "1", "--timeout", "0.3", expect=1)
    assert "has not ended" in done.stderr
    assert place.json("wait", "1", "--timeout", "0.3", expect=1)["id"] == 1
    place.flexp("pause", "1")
    wait_for(lambda: place.state() == "paused")
    assert place.json("activate", "1")["id"] == 1
    assert place.state() == "active"
    assert "active" in place.flexp("activate", "1", expect=2).stderr
    place.flexp("kill", "1")
    done = place.flexp("wait", "1", expect=1)
    assert "did not complete: canceled" in done.stderr
    place.flexp("create", place.config(gate=place.gate))
    follow = subprocess.Popen([FLEXP, "wait", "2", "-f"], env=place.env, cwd=place.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    place.flexp("cancel", "2")
    out, err = follow.communicate(timeout=DEADLINE_S)
    assert follow.returncode == 1 and "canceled" in out + err


def one_trial_can_be_killed(place):
    place.flexp("create", place.config(gate=place.gate))
    wait_for(lambda: any(row["state"] == "running" for row in place.json("trials", "1")["trials"]))
    assert "1/1" in place.flexp("trial", "kill", "1/1").stdout
    wait_for(lambda: place.json("trial", "describe", "1/1")["state"] in ("canceled", "error"))
    place.open_gate()
    place.flexp("wait", "1", expect=None)
    assert place.json("trials", "1")["trials"][1]["state"] == "completed"


def logs_are_followed_until_the_end(place):
    place.flexp("create", place.config(gate=place.gate))
    follow = subprocess.Popen([FLEXP, "logs", "1", "-f"], env=place.env, cwd=place.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = follow.stdout.readline()
    assert "training with" in first
    place.open_gate()
    out, err = follow.stdout.read(), follow.stderr.read()
    assert follow.wait(DEADLINE_S) == 0, err
    assert (first + out).count("training with") == 4, first + out
    for line in place.flexp("logs", "1", "-f", "--json").stdout.splitlines():
        assert json.loads(line)["text"]


def ctrl_c_while_following_leaves_it_running(place):
    terminal = Terminal(place, "create", "-f", place.config(gate=place.gate))
    terminal.expect("Ctrl-C leaves it running")
    terminal.expect("2 running")
    pid = place.pid()
    terminal.type(b"\x03")
    assert terminal.wait() == 130, terminal.text
    end = plain(terminal.text)
    assert "goes on" in end and "flexp wait 1 -f" in end and "flexp cancel 1" in end
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l"), "the cursor is not given back"
    assert place.pid() == pid and place.state() == "active"
    place.open_gate()
    place.flexp("wait", "1")


def the_live_screen_ends_with_the_best_trial(place):
    terminal = Terminal(place, "create", "-f", place.config(gate=place.gate))
    terminal.expect("Ctrl-C leaves it running")
    place.open_gate()
    assert terminal.wait() == 0, terminal.text
    end = plain(terminal.text)
    for part in ("Experiment 1", "trials  ", "best    ", "Best trial 1/2", "score ", "flexp describe 1"):
        assert part in end, (part, end)


def the_live_screen_fits_forty_columns_and_follows_a_resize(place):
    terminal = Terminal(place, "create", "-f", place.config(name="a-name-that-is-much-longer-than-the-window-is-wide",
                                                            gate=place.gate), columns=40, rows=12)
    terminal.expect("Ctrl-C leaves it running")
    terminal.expect("2 running")
    for line in re.split(r"[\r\n]+", plain(terminal.text)):
        assert len(line) < 80 if line.startswith("Created") or line.startswith("  flexp") else len(line) <= 39, line
    terminal.text = ""
    terminal.resize(30, 8)
    terminal.expect("Ctrl-C|running")
    terminal.text = ""
    terminal.expect("Experiment 1")
    for line in re.split(r"[\r\n]+", plain(terminal.text)):
        assert len(line) <= 29, line
    terminal.type(b"\x03")
    assert terminal.wait() == 130


def closing_the_terminal_kills_nothing(place):
    terminal = Terminal(place, "create", "-f", place.config(gate=place.gate))
    terminal.expect("2 running")
    pid = place.pid()
    workers = [row["pid"] for row in place.json("status")["workers"]]
    terminal.close()
    wait_for(lambda: os.waitpid(terminal.pid, os.WNOHANG)[0])
    assert place.pid() == pid and place.state() == "active" and workers
    for worker in workers:
        os.kill(worker, 0)
    place.open_gate()
    place.flexp("wait", "1")


def a_lost_orchestrator_is_named_and_up_goes_on(place):
    place.flexp("create", place.config(gate=place.gate))
    follow = subprocess.Popen([FLEXP, "wait", "1", "-f"], env=place.env, cwd=place.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert follow.stdout.readline().startswith("[")
    os.kill(place.pid(), signal.SIGKILL)
    _, err = follow.communicate(timeout=DEADLINE_S)
    assert follow.returncode == 3 and "lost the orchestrator" in err and "flexp up" in err, err
    done = place.flexp("describe", "1")
    assert "experiment 1 waits for `flexp up`" in done.stderr
    assert "flexp up" in place.flexp("wait", "1", expect=3).stderr
    assert place.json("list")["experiments"][0]["state"] == "active"
    place.open_gate()
    place.flexp("up")
    place.flexp("wait", "1")
    assert place.json("describe", "1")["best_trial_id"] == 2


def a_deep_folder_finds_the_home_above(place):
    place.flexp("create", place.config(), "--paused")
    deep = os.path.join(place.folder, *["deep"] * 20)
    os.makedirs(deep)
    assert place.json("list", cwd=deep)["experiments"][0]["id"] == 1
    assert place.json("status", cwd=deep)["home"] == place.home
    assert place.json("list", "--home", "elsewhere", cwd=deep)["experiments"] == []
    assert place.json("list", cwd=deep, env={"FLEXP_HOME": os.path.join(deep, "x")})["experiments"] == []
    done = place.flexp("create", place.config(), "--paused", "--home", os.path.join(place.folder, "two words"))
    assert f"--home '{place.folder}/two words'" in done.stdout
    place.flexp("down", "--home", "two words")


def colours_only_on_a_terminal_that_wants_them(place):
    place.flexp("create", "-f", place.config())
    assert "\x1b" not in place.flexp("describe", "1").stdout

    def shown(*arguments, **env):
        terminal = Terminal(place, *arguments, env=env)
        assert terminal.wait() == 0
        return terminal.text

    assert "\x1b[32mcompleted\x1b[0m" in shown("describe", "1")
    assert "\x1b" not in shown("describe", "1", NO_COLOR="1")
    assert "\x1b" not in shown("--no-color", "list")
    assert "\x1b" not in shown("describe", "1", TERM="dumb")
    assert "\x1b" not in shown("describe", "1", "--json")


def a_full_or_closed_output_is_said(place):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([FLEXP, "help"], env=place.env, cwd=place.folder, stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False)
    assert done.returncode == 3 and "standard output" in done.stderr, done


TESTS = [every_verb_has_help_with_an_example, without_a_verb_the_usage_is_on_stderr, version_is_printed,
         mistakes_get_one_line_and_exit_code_2, without_an_orchestrator_reading_works_and_makes_nothing,
         validate_names_every_problem_with_its_place, what_the_trainer_refuses_is_a_problem_of_the_file,
         preview_counts_trials_by_length, an_experiment_goes_from_file_to_best_trial,
         without_an_id_the_latest_is_meant_and_names_do_where_only_one_has_them,
         standard_input_and_overrides_make_an_experiment, a_bad_file_creates_nothing,
         two_terminals_at_once_share_one_orchestrator, the_orchestrator_keeps_nothing_of_its_caller,
         up_in_the_foreground_ends_with_ctrl_c_or_sigterm, a_piped_follow_prints_lines_and_a_summary,
         an_experiment_that_does_not_complete_gives_exit_code_1, one_trial_can_be_killed,
         logs_are_followed_until_the_end,
         ctrl_c_while_following_leaves_it_running, the_live_screen_ends_with_the_best_trial,
         the_live_screen_fits_forty_columns_and_follows_a_resize, closing_the_terminal_kills_nothing,
         a_lost_orchestrator_is_named_and_up_goes_on, a_deep_folder_finds_the_home_above,
         colours_only_on_a_terminal_that_wants_them, a_full_or_closed_output_is_said]


def main():
    failed = 0
    chosen = [test for test in TESTS if len(sys.argv) < 2 or test.__name__ in sys.argv[1:]]
    for number, test in enumerate(chosen, 1):
        folder = tempfile.mkdtemp(prefix="flexp-cli-")
        place = Place(folder)
        try:
            test(place)
            print(f"ok {number} - {test.__name__}", flush=True)
        except Exception as why:  # pylint: disable=broad-except
            failed += 1
            where = why.__traceback__
            while where.tb_next:
                where = where.tb_next
            print(f"not ok {number} - {test.__name__}\n# line {where.tb_lineno}: {type(why).__name__}: "
                  + str(why).replace("\n", "\n# "), flush=True)
        finally:
            place.close()
            shutil.rmtree(folder, ignore_errors=True)
    print(f"1..{len(chosen)}")
    return 1 if failed else 0


sys.exit(main())
