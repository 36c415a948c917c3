#!/usr/bin/env python3
"""Comings and goings that meet: `create` while `down` is under way, many `up`s at once, a socket and a lock that were left
behind, a pid in them that is somebody else's now; a home that is copied, moved or removed while it is used.

Drives the real program. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import DEADLINE_S, FLEXP, alive, run_tests, test, wait_for  # noqa: E402


def start(home, *arguments):
    return subprocess.Popen([FLEXP, *arguments], env=home.env, cwd=home.folder, text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@test
def create_while_down_is_under_way_waits_and_starts_the_next_orchestrator(home):
    home.env["FLEXP_DOWN_MS"] = "1500"
    gate = home.file("gate")
    home.create(trials=1, script={"deaf": True, "gate": gate})  # it does not checkpoint: going down takes its time
    home.wait_event(assigned=1)
    first, client = home.pid(), home.client()
    path = home.config(trials=1)
    down = start(home, "down")
    wait_for("it to be going down", lambda: client.ask("status")["stopping"])
    done = home.flexp("create", "--json", path)
    assert json.loads(done.stdout)["id"] == 2 and "going down" not in done.stderr, done
    assert down.wait(DEADLINE_S) == 0
    assert home.pid() != first
    open(gate, "w", encoding="utf-8").close()
    home.wait_end(1)
    home.wait_end(2)
    client.close()


@test
def creates_and_downs_at_random_moments_lose_nothing_and_do_nothing_twice(home):
    path, made = home.config(trials=1, rounds=1), []
    for turn in range(8):
        running = [start(home, "create", "--json", path) for _ in range(2)]
        running += [start(home, "down"), start(home, "list"), start(home, "create", "--json", path), start(home, "down")]
        for number, one in enumerate(running):
            out, err = one.communicate(timeout=DEADLINE_S)
            assert one.returncode == 0, (turn, number, out, err)
            if number in (0, 1, 4):
                made.append(json.loads(out)["id"])
    assert sorted(made) == list(range(1, 25)), made
    home.up()
    assert home.sql("SELECT count(*) FROM experiments") == [(24,)]
    for experiment in made:
        home.wait_end(experiment)


@test
def many_ups_at_once_are_one_orchestrator(home):
    running = [start(home, "up", "--json") for _ in range(8)]
    answers = []
    for one in running:
        out, err = one.communicate(timeout=DEADLINE_S)
        assert one.returncode == 0, err
        answers.append(json.loads(out))
    assert {answer["pid"] for answer in answers} == {home.pid()}, answers
    assert len(home.processes()) == 1, home.processes()
    assert sum(answer["started"] for answer in answers) >= 1
    done = home.flexp("up", "--foreground", check=False)
    assert done.returncode == 3 and f"pid {home.pid()}" in done.stderr and done.stderr.count("\n") == 1, done


@test
def a_lock_file_that_names_somebody_elses_pid_harms_nobody(home):
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        home.up()
        path = home.socket()
        home.kill9()
        with open(os.path.join(home.path, "lock"), "w", encoding="utf-8") as file:
            file.write(f"{bystander.pid}\n{path}\n")
        done = home.flexp("status", check=False)
        assert "o orchestrator is running" in done.stdout + done.stderr, done
        assert "No orchestrator" in home.flexp("down").stdout
        home.up()
        assert home.pid() != bystander.pid
        home.flexp("down")
        assert alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()


def marks(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return [entry for entry in file.read().split(b"\0") if entry.startswith(b"FLEXP_WORKER=")]


@test
def what_outlives_orchestrator_and_supervisor_killed_at_one_instant_is_killed_by_the_next_up(home):
    pids = home.file("pids")
    home.create(trials=1, rounds=4, script={"linger": pids, "at": {"2": "linger", "3": "sleep:100000"}, "tries": 1})
    home.wait_event(act="sleep:100000")
    with open(pids, encoding="utf-8") as file:
        left = [int(line) for line in file.read().split()]
    orchestrator, worker = home.pid(), home.events(act="sleep:100000")[0]["pid"]
    mark = marks(worker)[0].decode()
    other = subprocess.Popen(["sleep", "1000"], env={  # of another home
        "FLEXP_WORKER": "0123456789abcdef." + mark.split(".", 1)[1]})
    bystander = subprocess.Popen(["sleep", "1000"], env={"FLEXP_WORKER_OF": mark})
    try:
        with open(f"/proc/{worker}/stat", encoding="utf-8") as file:
            supervisor = int(file.read().rpartition(")")[2].split()[1])
        for pid in (orchestrator, supervisor):
            os.kill(pid, signal.SIGSTOP)  # neither sees the other's end
        for pid in (orchestrator, supervisor):
            os.kill(pid, signal.SIGKILL)
        wait_for("the worker to die with its supervisor", lambda: not alive(worker))
        assert len(left) == 3 and any(alive(pid) for pid in left), "nothing is left to be killed"
        home.up()
        assert not any(alive(pid) for pid in left)
        assert "had left behind" in home.log()
        assert alive(other.pid) and alive(bystander.pid)
        home.wait_end()
        assert home.runs()[0][1] == "orchestrator_lost" and home.restarts() == {1: 0}, home.runs()
    finally:
        for one in (other, bystander):
            one.kill()
            one.wait()


@test
def a_lock_file_of_garbage_is_written_anew(home):
    home.up()
    home.flexp("down")
    for garbage in (b"", b"\0" * 100, b"-1\n/etc/passwd\n", b"x" * 100000, b"99999999999999999999\n" + b"/" * 5000):
        with open(os.path.join(home.path, "lock"), "wb") as file:
            file.write(garbage)
        home.flexp("list")
        home.up()
        assert alive(home.pid())
        home.flexp("down")


@test
def a_copied_home_is_a_home_of_its_own(home):
    gate = home.file("gate")
    home.create(trials=1)
    home.wait_end()
    home.create(trials=1, script={"gate": gate})
    home.wait_event(assigned=1)
    copy, pid = home.file("copy"), home.pid()
    shutil.copytree(home.path, copy)  # its lock names the orchestrator of the one that it was copied from
    there = ["--home", copy]
    assert home.flexp(*there, "status", check=False).returncode == 3
    assert "No orchestrator" in home.flexp(*there, "down").stdout
    assert len(json.loads(home.flexp(*there, "list", "--json").stdout)["experiments"]) == 2
    home.flexp(*there, "delete", "1", "--yes")
    status = json.loads(home.flexp(*there, "status", "--json").stdout)
    assert status["home"] == copy and status["pid"] != pid, status
    assert home.pid() == pid and home.describe(1)["state"] == "completed"
    assert os.path.isdir(os.path.join(home.path, "experiments", "1"))
    assert home.flexp(*there, "describe", "1", check=False).returncode == 2
    home.flexp(*there, "down")
    open(gate, "w", encoding="utf-8").close()
    home.wait_end(2)


def goes_down(home, pid, text):
    wait_for("the orchestrator to go down", lambda: not alive(pid))
    with open(os.path.join(home.path, "orchestrator.log"), encoding="utf-8") as log:
        assert text in log.read()


@test
def an_orchestrator_whose_home_was_moved_goes_down_and_the_next_goes_on_there(home):
    gate, old, new = home.file("gate"), home.path, home.file("moved")
    home.create(trials=1, script={"gate": gate})
    home.wait_event(assigned=1)
    pid = home.pid()
    os.rename(old, new)
    home.path = home.env["FLEXP_HOME"] = new
    assert home.create(trials=1) == 2  # by an orchestrator of the new place
    goes_down(home, pid, f"{old} was moved to {new} while its orchestrator ran")
    assert not os.path.exists(old), os.listdir(old)
    assert json.loads(home.flexp("status", "--json").stdout)["home"] == new
    open(gate, "w", encoding="utf-8").close()
    for experiment in (1, 2):
        assert os.path.exists(home.wait_end(experiment)["best_checkpoint"]["path"])
    assert home.restarts() == {1: 0}
    home.flexp("down")
    assert not os.path.exists(os.path.join(new, "flexp.db-wal"))


@test
def a_home_made_anew_where_one_was_removed_or_moved_away_has_nothing_of_the_old(home):
    for turn, away in enumerate((lambda: shutil.rmtree(home.path), lambda: os.rename(home.path, home.file("away")))):
        home.up()
        pid = home.pid()
        away()
        assert home.create(trials=1) == 1
        assert home.pid() != pid
        wait_for("the old orchestrator to go down", lambda: not alive(pid))
        home.wait_end()  # the socket of the new one is there still
        assert home.ask("status")["home"] == home.path, turn
        home.flexp("down")
        shutil.rmtree(home.path)


@test
def whatever_lies_at_the_sockets_place_is_replaced_or_named(home):
    home.up()
    path = home.socket()
    home.flexp("down")
    other = socket.socket(socket.AF_UNIX)  # somebody who listens there and does not speak
    other.bind(path)
    other.listen()
    other.close()
    home.flexp("list")
    home.up()
    assert home.ask("status")["pid"] == home.pid()
    home.flexp("down")
    os.mkdir(path)
    done = home.flexp("up", check=False)
    assert done.returncode == 3 and path in done.stderr and done.stderr.count("\n") == 1, done
    os.rmdir(path)
    home.up()


sys.exit(run_tests())
