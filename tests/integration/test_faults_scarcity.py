#!/usr/bin/env python3
"""Descriptors and memory run out: in the orchestrator, in a worker, in a worker's control group. It is said, no trial is
blamed for what the machine lacks, a trial that is too large ends as out_of_memory, and when there is enough again everything
goes on by itself.

Drives the real programs. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import resource
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import DEADLINE_S, FLEXP, TOP, Skip, run_tests, test, wait_for  # noqa: E402


def limited(home, files, *arguments):
    return subprocess.run(["sh", "-c", f"ulimit -n {files}; exec \"$@\"", "sh", FLEXP, *arguments], env=home.env,
                          cwd=home.folder, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=DEADLINE_S, check=False)


@test
def too_few_descriptors_are_refused_in_one_line_and_few_are_enough(home):
    path = home.config(trials=4, rounds=4)
    for files in (6, 12, 20, 40, 63):
        for arguments in (["up"], ["create", path], ["up", "--foreground"]):
            done = limited(home, files, *arguments)
            assert done.returncode == 3 and done.stderr.count("\n") == 1, (files, done)
            assert f"may open only {files} files at once (ulimit -n)" in done.stderr or files < 10, (files, done.stderr)
    done = limited(home, 64, "create", path)
    assert done.returncode == 0, done
    home.wait_end()


@test
def descriptors_that_run_out_while_it_runs_stop_nothing_that_runs(home):
    gate = home.file("gate")
    home.create(trials=3, concurrent=3, rounds=6, script={"gate": gate, "gate_round": 3, "capabilities": []})
    wait_for("two to run", lambda: len(home.events(sent="checkpoint", seq=5)) == 2)
    pid = home.pid()
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
    for _ in range(100):  # what is still free below takes clients first
        if "no descriptors are left" in home.log():
            break
        home.flexp("status", check=False)
    clients = []
    try:
        while len(clients) < 50 and "no descriptors are left" not in home.log():
            clients.append(home.client())
    except (ConnectionError, OSError):
        pass
    wait_for("it to be said", lambda: "no descriptors are left" in home.log())
    done = home.flexp("status", check=False)
    assert done.returncode == 3 and "takes no connections" in done.stderr and done.stderr.count("\n") == 1, done
    assert json.loads(home.flexp("describe", "1", "--json").stdout)["state"] == "active"  # from the store
    open(gate, "w", encoding="utf-8").close()
    wait_for("those that run to end", lambda: len(home.sql("SELECT 1 FROM v_runs WHERE reason = 'stopped'")) == 2)
    for client in clients:
        client.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    home.wait_end()
    assert set(home.restarts().values()) == {0}, home.restarts()
    assert home.log().count("no descriptors are left") == home.log().count("there are descriptors again") >= 1


@test
def a_worker_that_cannot_be_started_is_put_off_and_costs_nothing(home):
    home.up()
    pid = home.pid()
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, hard))  # a client and the leases, but no worker's pipes
    home.create(trials=2, rounds=2, max_restarts=0)
    wait_for("it to be said", lambda: "could not be started" in (home.ask("status")["waiting"] or ""))
    assert "too many open files" in home.ask("status")["waiting"], home.ask("status")
    assert home.log().count("is put off") == 1, home.log()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    home.wait_end()
    assert set(home.restarts().values()) == {0} and len(home.runs()) == 2, home.runs()


# --- memory

BUILT_IN = """
name: memory
max_restarts: 1
data: {source: synthetic, synthetic: {samples: 200, test_samples: 20, classes: 3, channels: 3, size: 32}}
hyperparameters: {units: {type: categorical, vals: [4, 30000]}}
searcher: {name: grid, metric: validation_loss, time_metric: rounds, max_time: 2, max_concurrent_trials: 2}
model: {layers: [flatten, {dense: {units: $units, activation: relu}}, {dense: {units: classes}}]}
training: {learning_rate: 0.01, batch_size: 10}
federation: {enabled: false}
"""


@test
def a_model_for_which_there_is_no_memory_fails_its_own_trial_as_out_of_memory(home):
    trainer = home.file("trainer")
    with open(trainer, "w", encoding="utf-8") as out:
        out.write(f"#!/bin/sh\nulimit -v 500000\nexec {TOP}/build/flexp-trainer \"$@\"\n")
    os.chmod(trainer, 0o755)
    path = home.file("memory.yaml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(BUILT_IN)
    home.up(FLEXP_TRAINER=trainer)  # create asks one without the limit
    home.flexp("create", path)
    done = home.wait_end()
    assert done["trials"]["completed"] == 1 and done["trials"]["error"] == 1, done["trials"]
    assert done["failures"] == {"out_of_memory": 1}, done["failures"]
    assert "out of memory for" in home.runs(trial=2)[0][2] and len(home.runs(trial=2)) == 2, home.runs()


@test
def last_words_of_a_program_tell_that_it_found_no_memory(home):
    words = "terminate called after throwing an instance of 'std::bad_alloc'"
    home.create(trials=4, script={"trials": {
        "1": {"at": {"2": "abort:" + words}, "tries": 1},
        "2": {"at": {"2": "eat:100000000"}, "tries": 1},  # Python's MemoryError
        "3": {"at": {"2": "abort:nothing of the kind"}, "tries": 1},
        "4": {"at": {"2": "signal:9"}, "tries": 1}}})
    home.wait_end()
    firsts = [home.runs(trial=trial)[0] for trial in (1, 2, 3, 4)]
    assert [run[1] for run in firsts] == ["out_of_memory", "out_of_memory", "signal", "signal"], firsts
    assert "signal 6" in firsts[0][2] and words in firsts[0][2], firsts[0]
    assert "MemoryError" in firsts[1][2], firsts[1]
    assert "signal 9 (Killed)" in firsts[3][2], firsts[3]


class ControlGroup:
    """A control group of this test's own, of either hierarchy; a process enters it by `enter`."""

    def __init__(self, home, controller, old, new, inside=None):
        name = f"flexp-test-{os.getpid()}-{id(home)}"
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        top = inside.path if inside else "/sys/fs/cgroup" if unified else f"/sys/fs/cgroup/{controller}"
        self.path = os.path.join(top, name)
        try:
            if unified:
                with open(os.path.join(top, "cgroup.subtree_control"), "w", encoding="utf-8") as file:
                    file.write(f"+{controller}")
            os.mkdir(self.path)
            for key, value in (new if unified else old).items():
                with open(os.path.join(self.path, key), "w", encoding="utf-8") as file:
                    file.write(value)
        except OSError as why:
            self.remove()
            raise Skip(f"no control group for {controller} can be made: {why}") from why

    def enter(self, *arguments):
        return ["sh", "-c", f"echo $$ >{self.path}/cgroup.procs && exec \"$@\"", "sh", *arguments]

    def remove(self):
        try:
            wait_for("the control group to be empty", lambda: not self.processes(), 20)
            os.rmdir(self.path)
        except OSError:
            pass

    def processes(self):
        with open(os.path.join(self.path, "cgroup.procs"), encoding="utf-8") as file:
            return file.read().split()


def up_inside(home, group):
    subprocess.run(group.enter(FLEXP, "up"), env=home.env, check=True, timeout=DEADLINE_S, stdout=subprocess.DEVNULL)


@test
def a_worker_that_the_kernel_kills_for_want_of_memory_is_told_from_a_kill(home):
    limit = str(300 << 20)
    group = ControlGroup(home, "memory", {"memory.limit_in_bytes": limit}, {"memory.max": limit, "memory.swap.max": "0"})
    try:
        up_inside(home, group)
        pid = home.pid()
        home.create(trials=2, script={"trials": {"1": {"at": {"2": "eat:2000"}, "tries": 1},
                                                 "2": {"at": {"2": "signal:9"}, "tries": 1}}}, concurrent=1)
        home.wait_end()
        assert not home.events(ate=2000), "the limit does not limit"
        runs = home.runs(trial=1)
        assert [run[1] for run in runs] == ["out_of_memory", "stopped"], runs
        assert "killed by the kernel because memory ran out" in runs[0][2], runs
        assert [run[1] for run in home.runs(trial=2)] == ["signal", "stopped"], home.runs()
        assert home.pid() == pid, "the orchestrator itself was killed"
        home.flexp("down")
    finally:
        group.remove()


@test
def a_control_groups_quota_bounds_the_slots_and_so_does_one_above_it(home):
    del home.env["FLEXP_CORES"]
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip("there is one core only")
    outer = ControlGroup(home, "cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "190000"},
                         {"cpu.max": "190000 100000"})
    try:
        inner = ControlGroup(home, "cpu", {}, {}, inside=outer)
        try:
            up_inside(home, inner)
            assert home.ask("status")["slots"] == 1, home.ask("status")["slots"]
            home.flexp("down")
        finally:
            inner.remove()
        up_inside(home, outer)
        assert home.ask("status")["slots"] == 1
        home.flexp("down")
        home.up()
        assert home.ask("status")["slots"] == len(os.sched_getaffinity(0))
    finally:
        outer.remove()


sys.exit(run_tests())
