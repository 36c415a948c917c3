#!/usr/bin/env python3
"""While it runs: what runs use, the live screen, the command at the end.

Prints TAP. SPDX-License-Identifier: Apache-2.0
"""
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import sqlite3
import subprocess
import sys
import termios
import time

from server_home import FLEXP, Home, Skip, TOP, run_tests, test, wait_for

BUSY = '''
import sys, time
block = bytearray(60 << 20)
for i in range(0, len(block), 4096):
    block[i] = 1
end = time.monotonic() + 60
while time.monotonic() < end:
    pass
'''


@test
def what_a_run_and_its_children_use_is_sampled(_home):
    with Home(FLEXP_USAGE_MS=200) as home:
        child = home.file("busy.py")
        with open(child, "w", encoding="utf-8") as out:
            out.write(BUSY)
        gate = home.file("gate")
        # the worker waits at a gate and costs nothing; its child keeps a core busy and holds 60 MB
        worker = home.file("worker.sh")
        with open(worker, "w", encoding="utf-8") as out:
            out.write(f'#!/bin/sh\npython3 {child} &\nexec python3 "$@"\n')
        os.chmod(worker, 0o755)
        path = home.config(script={"gate": gate}, trials=1)
        text = open(path, encoding="utf-8").read().replace("entrypoint: [python3,", f"entrypoint: [{worker},")
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        home.flexp("create", path)
        rows = wait_for("three samples", lambda: (found := home.sql(
            "SELECT cpu_cores, memory_bytes, gpu, time FROM v_usage ORDER BY time"))[2:] and found)
        busy = wait_for("a busy core", lambda: home.sql("SELECT max(cpu_cores), max(memory_bytes) FROM v_usage")[0][0] > 0.3)
        assert busy and rows[0][2] is None
        memory = home.sql("SELECT max(memory_bytes) FROM v_usage")[0][0]
        assert 60e6 < memory < 1e9, memory
        slots = json.loads(home.flexp("slots", "--json").stdout)["slots"]
        assert any((row["memory_bytes"] or 0) > 60e6 for row in slots), slots
        open(gate, "w", encoding="utf-8").close()
        home.wait_end()
        run = json.loads(home.flexp("trial", "describe", "1/1", "--json").stdout)["run_list"][0]
        assert run["memory_bytes_peak"] >= 60e6 and run["cpu_cores_mean"] > 0 and run["gpu_mean"] is None, run
        assert "MEMORY" in home.flexp("trial", "describe", "1/1").stdout


@test
def gpus_are_asked_where_there_are_some(_home):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise Skip("there is no C compiler")
    with Home(FLEXP_USAGE_MS=100) as home:
        library, pid = home.file("libnvml.so"), home.file("gpu-pid")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library,
                        os.path.join(TOP, "tests", "integration", "nvml_fake.c")], check=True)
        home.env.update(FLEXP_NVML=library, FLEXP_TEST_GPU_PID=pid)
        gate = home.file("gate")
        home.create(script={"gate": gate}, trials=1)
        worker = home.wait_event(assigned=1)["pid"]
        with open(pid, "w", encoding="utf-8") as out:
            out.write(str(worker))
        wait_for("a sample with a GPU", lambda: home.sql(
            "SELECT * FROM v_usage WHERE gpu = 0.4 AND gpu_memory_bytes = 1 << 30"))
        open(gate, "w", encoding="utf-8").close()
        home.wait_end()


@test
def short_runs_leave_no_samples(home):
    home.create(trials=4, rounds=2)
    home.wait_end()
    assert home.sql("SELECT count(*) FROM v_usage") == [(0,)]


# --- top

class Screen:
    """top on a terminal of its own."""

    def __init__(self, home, *arguments, columns=100, lines=30):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        self.process = subprocess.Popen([FLEXP, "top", *arguments], env={**home.env, "TERM": "xterm", "LANG": "C.UTF-8"},
                                        stdin=slave, stdout=slave, stderr=slave, start_new_session=True)

    def read(self):
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 65536).decode(errors="replace")
        return self.text

    def wait(self, word):
        wait_for(f"{word!r} on the screen", lambda: word in self.read())

    def key(self, text):
        os.write(self.master, text)

    def end(self):
        code = self.process.wait(20)
        self.read()
        same = termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        os.close(self.master)
        return code, same


def going_on(home, trials=2):
    gate = home.file("gate")
    home.create(script={"gate": gate, "gate_round": 3}, trials=trials, rounds=6)
    wait_for("three rounds of each", lambda: home.sql(
        "SELECT count(*) FROM v_metrics WHERE name = 'validation_accuracy'") == [(3 * trials,)])
    return gate


@test
def top_shows_slots_trials_and_curves_and_gives_the_terminal_back(home):
    gate = going_on(home)
    screen = Screen(home)
    for word in ("\033[?1049h", "2 of 2 slots busy", "scripted", "1/1", "1/2", "3 of 6", "\u2581"):
        screen.wait(word)
    fcntl.ioctl(screen.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 40, 0, 0))
    screen.process.send_signal(signal.SIGWINCH)
    before = len(screen.read())
    wait_for("a frame after the resize", lambda: len(screen.read()) > before + 100)
    last = screen.text[screen.text.rindex("\033[H"):]
    assert last.count("\r\n") <= 7, last
    screen.key(b"jjk\033[Bq")
    code, same = screen.end()
    assert code == 0 and same and screen.text.rstrip().endswith("\033[?25h\033[?1049l"), repr(screen.text[-60:])
    for number in (signal.SIGINT, signal.SIGTERM):
        screen = Screen(home)
        screen.wait("slots busy")
        screen.process.send_signal(number)
        code, same = screen.end()
        assert code == 0 and same and "\033[?1049l" in screen.text, (number, code)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()


@test
def top_ends_while_the_orchestrator_does_not_answer(home):
    gate = going_on(home)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        screen = Screen(home)
        screen.wait("slots busy")
        os.kill(home.pid(), signal.SIGSTOP)
        try:
            time.sleep(1.5)  # more than from frame to frame
            screen.process.send_signal(number)
            code, same = screen.end()
        finally:
            os.kill(home.pid(), signal.SIGCONT)
        assert code == 0 and same and screen.text.rstrip().endswith("\033[?25h\033[?1049l"), (number, code, screen.text[-60:])
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()


@test
def top_without_a_terminal_prints_one_picture(home):
    gate = going_on(home)
    text = home.flexp("top", LANG="C", LC_ALL="C").stdout
    assert "2 of 2 slots busy" in text and "3 of 6" in text and "\033" not in text and text.isascii(), text
    answer = json.loads(home.flexp("top", "--json").stdout)
    assert answer["schema_version"] == 1 and len(answer["curves"]["1/1"]) == 3, answer["curves"]
    assert "scripted" in home.flexp("top", "1").stdout
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    assert "No experiment is going on" in home.flexp("top").stdout
    assert "completed" in home.flexp("top", "1").stdout
    home.flexp("down")
    done = home.flexp("top", check=False)
    assert done.returncode == 3 and "flexp up" in done.stderr, done.stderr


# --- on_complete

def hooked(home, command, state="completed", **settings):
    home.create(on_complete=command, trials=2, rounds=2, **settings)
    if state == "completed":
        home.wait_end()
    return wait_for("the command to end", lambda: (found := home.describe()["on_complete"])["state"] != "due" and found)


@test
def the_command_gets_the_result_in_its_environment(home):
    out = home.file("out")
    found = hooked(home, f'env >{out}; cp "$FLEXP_RESULT" {out}.json; echo it is over')
    assert found == {"state": "done", "text": "exit code 0"}, found
    env = dict(line.split("=", 1) for line in open(out, encoding="utf-8").read().split("\n") if "=" in line)
    result = json.load(open(out + ".json", encoding="utf-8"))
    assert env["FLEXP_EXPERIMENT_ID"] == "1" and env["FLEXP_EXPERIMENT_NAME"] == "scripted"
    assert env["FLEXP_STATE"] == "completed" == result["state"] and env["FLEXP_METRIC"] == "validation_accuracy"
    assert int(env["FLEXP_BEST_TRIAL"]) == result["best_trial_id"] and env["FLEXP_HOME"] == home.path
    assert float(env["FLEXP_BEST_VALUE"]) == result["best_validation_metrics"]["validation_accuracy"]
    assert os.path.exists(env["FLEXP_BEST_CHECKPOINT"]) and "FLEXP_FD" not in env
    assert "it is over" in home.flexp("logs", "1").stdout
    assert "on_complete  done: exit code 0" in home.flexp("describe", "1").stdout


@test
def a_command_that_fails_is_told_and_changes_nothing(home):
    assert hooked(home, "echo oh no >&2; exit 3") == {"state": "failed", "text": "exit code 3"}
    assert home.state() == "completed" and "oh no" in home.flexp("logs", "1").stdout


@test
def a_command_that_hangs_is_killed_with_all_it_started(_home):
    with Home(FLEXP_HOOK_MS=500) as home:
        found = hooked(home, "sleep 1000 & sleep 1001")
        assert found["state"] == "failed" and found["text"].startswith("killed after"), found
        # the context asserts that no process is left


@test
def it_is_run_however_the_experiment_ends(home):
    home.create(script={"gate": home.file("never")}, on_complete=f"echo $FLEXP_STATE >{home.file('state')}")
    home.wait_event(assigned=1)
    home.flexp("kill", "1")
    wait_for("the command to end", lambda: home.describe()["on_complete"]["state"] == "done")
    assert open(home.file("state"), encoding="utf-8").read() == "canceled\n"


@test
def a_command_that_a_kill_interrupts_is_run_again(home):
    count = home.file("count")
    home.create(trials=1, rounds=1, on_complete=f"echo x >>{count}; test -e {home.file('go')} || sleep 1000")
    wait_for("its first line", lambda: os.path.exists(count) and open(count, encoding="utf-8").read() == "x\n")
    home.kill9()
    open(home.file("go"), "w", encoding="utf-8").close()
    home.up()
    wait_for("the command to end", lambda: home.describe()["on_complete"]["state"] == "done")
    assert open(count, encoding="utf-8").read() == "x\nx\n"
    home.kill9()
    home.up()
    time.sleep(0.2)
    assert open(count, encoding="utf-8").read() == "x\nx\n", "done is done"


@test
def a_command_that_ends_the_orchestrator_is_given_up(home):
    count = home.file("count")
    home.create(trials=1, rounds=1, on_complete=f"echo x >>{count}; {FLEXP} down --home {home.path}; sleep 1000")
    wait_for("it to end the orchestrator", lambda: os.path.exists(count) and not home.pid())
    home.flexp("up", check=False)  # it may be down again before this has looked
    wait_for("it to do so again", lambda: open(count, encoding="utf-8").read() == "x\nx\n" and not home.pid())
    home.up()
    wait_for("it to be given up", lambda: home.describe()["on_complete"] == {
        "state": "failed", "text": "given up: the orchestrator ended twice before the command did"})
    assert "on_complete: given up" in home.log() and home.ask("status")["stopping"] is False
    assert open(count, encoding="utf-8").read() == "x\nx\n"
    home.flexp("delete", "1", "--yes")


@test
def a_start_that_fails_runs_no_command_and_says_why(home):
    count = home.file("count")
    home.create(trials=1, rounds=1, on_complete=f"echo x >>{count}; sleep 1000")
    home.create("--paused", trials=1, rounds=1)
    wait_for("its first line", lambda: os.path.exists(count))
    home.kill9()
    base = sqlite3.connect(os.path.join(home.path, "flexp.db"))
    base.execute("UPDATE experiment_configs SET config = '{' WHERE experiment = 2")
    base.commit()
    base.close()
    done = home.flexp("up", check=False)
    assert done.returncode != 0 and "the configuration of an experiment" in done.stderr, done
    assert not home.processes() and open(count, encoding="utf-8").read() == "x\n"


@test
def commands_that_take_long_do_not_hold_up_what_deletes_files(home):
    for i in range(5):
        home.create(trials=1, rounds=1, on_complete=f"echo x >{home.file(f'begun-{i}')}; sleep 1000")
    for i in range(5):
        wait_for("its command to begin", lambda: os.path.exists(home.file(f"begun-{i}")))
    last = home.create(trials=1, rounds=1)
    home.wait_end(last)
    home.flexp("delete", str(last), "--yes")
    wait_for("the files to go", lambda: not os.path.exists(os.path.join(home.path, "experiments", str(last))), 30)
    assert [row[0] for row in home.sql("SELECT hook FROM experiments WHERE id < ?", last)] == 5 * ["due"]


@test
def down_does_not_wait_for_the_command_and_delete_does(home):
    home.create(trials=1, rounds=1, on_complete=f"echo x >>{home.file('count')}; test -e {home.file('go')} || sleep 1000")
    wait_for("its first line", lambda: os.path.exists(home.file("count")))
    done = home.flexp("delete", "1", "--yes", check=False)
    assert done.returncode == 2 and "on_complete command is running" in done.stderr, done.stderr
    started = time.monotonic()
    home.flexp("down")
    assert time.monotonic() - started < 20 and home.describe()["on_complete"]["state"] == "due"
    open(home.file("go"), "w", encoding="utf-8").close()
    home.up()
    wait_for("the command to end", lambda: home.describe()["on_complete"]["state"] == "done")
    home.flexp("delete", "1", "--yes")


@test
def the_unit_for_systemd_is_well_formed(_home):
    tool = shutil.which("systemd-analyze")
    if not tool:
        raise Skip("there is no systemd-analyze")
    with open(os.path.join(TOP, "docs", "flexp.service"), encoding="utf-8") as file:
        text = file.read().replace("/usr/local/bin/flexp", FLEXP)
    path = _home.file("flexp.service")
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    done = subprocess.run([tool, "verify", "--user", path], stderr=subprocess.PIPE, text=True, check=False,
                          env={**os.environ, "XDG_RUNTIME_DIR": _home.folder})
    assert "flexp.service" not in done.stderr, done.stderr


if __name__ == "__main__":
    sys.exit(run_tests())
