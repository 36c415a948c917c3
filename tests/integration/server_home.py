"""For tests of the server: a home with its own orchestrator, leases and pretended cores; a client; a runner.

Every wait has a deadline. SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLEXP = os.path.abspath(os.environ.get("FLEXP_BIN", os.path.join(TOP, "build", "flexp")))
WORKER = os.path.join(TOP, "tests", "integration", "scripted_worker.py")
DEADLINE_S = 60


class Late(AssertionError):
    pass


def wait_for(what, condition, deadline_s=DEADLINE_S):
    """The condition's value as soon as it is true."""
    deadline = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Late(f"waited {deadline_s} s for {what}")
        time.sleep(0.01)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


class Skip(Exception):
    """This test cannot be run here; the text says why."""


class Refused(Exception):
    """An answer that is not ok."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['text']}")
        self.code, self.text = error["code"], error["text"]


class Client:
    def __init__(self, path, deadline_s=DEADLINE_S):
        self.link = socket.socket(socket.AF_UNIX)
        self.link.settimeout(deadline_s)
        self.link.connect(path)
        self.pending = b""
        self.last = 0
        self.events = []
        self.hello = self.line()

    def line(self):
        while b"\n" not in self.pending:
            more = self.link.recv(1 << 16)
            if not more:
                raise ConnectionError("the server closed the connection")
            self.pending += more
        line, self.pending = self.pending.split(b"\n", 1)
        return json.loads(line)

    def ask(self, request, **arguments):
        self.last += 1
        self.link.sendall(json.dumps({"id": self.last, "request": request, "arguments": arguments}).encode() + b"\n")
        while True:
            line = self.line()
            if "event" in line:
                self.events.append(line["event"])
            elif line["id"] == self.last:
                if not line["ok"]:
                    raise Refused(line["error"])
                return line["answer"]

    def event(self):
        while not self.events:
            line = self.line()
            if "event" in line:
                self.events.append(line["event"])
        return self.events.pop(0)

    def close(self):
        self.link.close()


class Home:
    """Use as a context: at its end the orchestrator is told to go, and no process of it may be left."""

    def __init__(self, cores=2, leases=None, **env):
        self.folder = tempfile.mkdtemp(prefix="flexp-test-server-")
        self.path = os.path.join(self.folder, "home")
        self.trace = os.path.join(self.folder, "trace")
        self.files = 0
        self.leases = leases or os.path.join(self.folder, "leases")
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("FLEXP_")}
        self.env.update(FLEXP_HOME=self.path, FLEXP_CORES=str(cores), FLEXP_LEASES=self.leases, FLEXP_BACKOFF_MS="10",
                        FLEXP_DOWN_MS="8000", FLEXP_TEST_HOME=self.folder,
                        **{key: str(value) for key, value in env.items()})
        if os.environ.get("FLEXP_TEST_NAMESPACE"):  # in a user namespace the usual folder is somebody else's
            self.env["XDG_RUNTIME_DIR"] = self.folder

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            pid = self.pid()
            if pid:
                os.kill(pid, signal.SIGTERM)
            wait_for("every process to end", lambda: not self.processes(), 40)
            assert "Sanitizer" not in self.log() and "Assertion" not in self.log(), self.log()
            if kind:
                print("# " + "\n# ".join(self.log().split("\n")[-60:]))
        finally:
            for left in self.processes():
                os.kill(left, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self):
        """Those whose environment names this home: the orchestrator, supervisors, workers and what they started."""
        mark = f"FLEXP_TEST_HOME={self.folder}".encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if mark in file.read().split(b"\0") and alive(pid):
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def file(self, name):
        return os.path.join(self.folder, name)

    def log(self):
        try:
            with open(os.path.join(self.path, "orchestrator.log"), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def flexp(self, *arguments, check=True, cwd=None, **env):
        done = subprocess.run([FLEXP, *arguments], env={**self.env, **env}, cwd=cwd or self.folder, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=DEADLINE_S, check=False)
        if check and done.returncode:
            raise AssertionError(f"flexp {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def up(self, *arguments, **env):
        self.flexp("up", *arguments, **env)
        return self.pid()

    def lock(self):
        try:
            with open(os.path.join(self.path, "lock"), encoding="utf-8") as file:
                return file.read().split("\n")
        except OSError:
            return []

    def pid(self):
        """The orchestrator's, or None."""
        lines = self.lock()
        pid = int(lines[0]) if lines and lines[0].isdigit() else 0
        return pid if pid and alive(pid) else None

    def socket(self):
        return self.lock()[1]

    def client(self):
        return Client(self.socket())

    def ask(self, request, **arguments):
        client = self.client()
        try:
            return client.ask(request, **arguments)
        finally:
            client.close()

    def kill9(self):
        """Kills the orchestrator and waits until what ran under it is gone."""
        os.kill(self.pid(), signal.SIGKILL)
        wait_for("every process to end", lambda: not self.processes(), 20)

    def limit_files(self, length):
        """From now on no file of the orchestrator can grow past this length: what a full disk does to the store."""
        resource.prlimit(self.pid(), resource.RLIMIT_FSIZE, (length, length))

    # --- experiments

    def config(self, script=None, trials=2, rounds=4, concurrent=None, extra="", **keys):
        """Writes an experiment file of a grid over lr with the scripted worker."""
        self.files += 1  # workers of an earlier experiment may still have to read theirs
        path = self.file(f"script-{self.files}.json")
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"trace": self.trace, **(script or {})}, out)
        lines = ["name: scripted", f"entrypoint: [python3, {WORKER}, {path}]", "data: {}",
                 f"hyperparameters: {{lr: {{type: double, minval: 0.1, maxval: 0.9, count: {trials}}}}}",
                 "searcher: {name: grid, metric: validation_accuracy, smaller_is_better: false, time_metric: rounds,"
                 f" max_time: {rounds}, max_concurrent_trials: {concurrent or trials}}}"]
        lines += [f"{key}: {json.dumps(value)}" for key, value in keys.items()]
        path = self.file(f"experiment-{self.files}.yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n" + extra)
        return path

    def create(self, *arguments, check=True, **settings):
        done = self.flexp("create", "--json", self.config(**settings), *arguments, check=check)
        return json.loads(done.stdout)["id"] if done.returncode == 0 else done

    def describe(self, experiment=1):
        return json.loads(self.flexp("describe", str(experiment), "--json").stdout)

    def state(self, experiment=1):
        return self.describe(experiment)["state"]

    def wait_end(self, experiment=1, state="completed"):
        wait_for(f"experiment {experiment} to end", lambda: self.state(experiment) in
                 ("completed", "canceled", "error"))
        assert self.state(experiment) == state, f"{self.state(experiment)}, not {state}"
        return self.describe(experiment)

    def events(self, **want):
        """Lines of the workers' trace that have these values."""
        try:
            with open(self.trace, encoding="utf-8") as file:
                lines = [json.loads(line) for line in file.read().split("\n")[:-1]]
        except OSError:
            return []
        return [line for line in lines if all(line.get(key) == value for key, value in want.items())]

    def wait_event(self, n=1, **want):
        return wait_for(f"{n} of {want}", lambda: self.events(**want)[n - 1:])[0]

    def sql(self, query, *arguments):
        base = sqlite3.connect(f"file:{os.path.join(self.path, 'flexp.db')}?mode=ro", uri=True, timeout=20)
        try:
            return base.execute(query, arguments).fetchall()
        finally:
            base.close()

    def runs(self, experiment=1, trial=None):
        """(trial, reason, text) of every run, oldest first."""
        rows = self.sql("SELECT trial, reason, text FROM v_runs WHERE experiment = ? ORDER BY run", experiment)
        return [row for row in rows if trial is None or row[0] == trial]

    def restarts(self, experiment=1):
        return dict(self.sql("SELECT number, restarts FROM trials WHERE experiment = ? ORDER BY number", experiment))


# --- tests

TESTS = []


def test(function):
    """Marks a test; it is called with a Home."""
    TESTS.append(function)
    return function


def refused(code, contains, ask, *arguments, **keywords):
    """Checks that a request is refused so."""
    try:
        answer = ask(*arguments, **keywords)
    except Refused as why:
        assert why.code == code and contains in why.text, f"{why}, wanted {code} with {contains!r}"
        return
    raise AssertionError(f"not refused: {answer}")


def check_acknowledged(home):
    """Everything that a worker saw acknowledged is in the store, with its value."""
    stored = set(home.sql("SELECT run, seq FROM v_reports"))
    stored |= set(home.sql("SELECT run, seq FROM checkpoints"))
    values = {(run, seq): value for run, seq, value in home.sql(
        "SELECT run, seq, value FROM metrics m JOIN names n ON n.id = m.name WHERE n.name = 'validation_accuracy'")}
    acked = {}
    for line in home.events(heard="ack"):
        run = line["message"]["run"]
        acked[run] = max(acked.get(run, 0), line["message"]["seq"])
    assert acked, "nothing was acknowledged"
    for line in home.events():
        if line.get("sent") in ("report", "checkpoint") and line["seq"] <= acked.get(line["run"], 0):
            assert (line["run"], line["seq"]) in stored, f"acknowledged but not stored: {line}"
            value = line["body"].get("metrics", {}).get("validation_accuracy")
            if value is not None:
                assert values[line["run"], line["seq"]] == value, f"stored otherwise: {line}"


def enter_namespace(script):
    """Runs the script anew where it may mount: in a mount namespace of its own, whose mounts vanish with it. Where none can be
    had it goes on here, without FLEXP_TEST_NAMESPACE in the environment."""
    if os.environ.get("FLEXP_TEST_NAMESPACE"):
        return
    for how in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            if subprocess.run([*how, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
                continue
        except OSError:
            continue
        os.environ["FLEXP_TEST_NAMESPACE"] = "1"
        os.execvp(how[0], [*how, sys.executable, os.path.abspath(script), *sys.argv[1:]])


def mount(home, *options):
    """A tmpfs at the home."""
    if not os.environ.get("FLEXP_TEST_NAMESPACE"):
        raise Skip("no file system can be mounted here, even in a namespace (unshare -rm)")
    os.makedirs(home.path, exist_ok=True)
    done = subprocess.run(["mount", *options, "flexp-test", home.path], check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Skip(f"no tmpfs can be mounted: {done.stderr.strip()}")


def run_one(function):
    try:
        with Home() as home:
            function(home)
        return None
    except Skip as why:
        return why
    except Exception:  # noqa: BLE001: whatever it is, it is this test's failure
        return traceback.format_exc()


def run_tests():
    chosen = [one for one in TESTS if len(sys.argv) < 2 or one.__name__ in sys.argv[1:]]
    if not os.path.exists(FLEXP):
        print(f"not ok 1 - {FLEXP} is there to be tested")
        return 1
    failed = 0
    print(f"1..{len(chosen)}")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for number, (function, why) in enumerate(zip(chosen, pool.map(run_one, chosen)), 1):
            skipped = f" # SKIP {why}" if isinstance(why, Skip) else ""
            print(f"{'not ok' if why and not skipped else 'ok'} {number} - {function.__name__}{skipped}", flush=True)
            if why and not skipped:
                failed += 1
                print("# " + why.rstrip().replace("\n", "\n# "), flush=True)
    return 1 if failed else 0
