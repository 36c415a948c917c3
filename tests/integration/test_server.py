#!/usr/bin/env python3
"""The orchestrator with workers that behave as a script tells them.

Drives the real program (FLEXP_BIN, else build/flexp). Each test has a home, leases and pretended cores of its own; at
its end no process may be left. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import DEADLINE_S, FLEXP, TOP, Home, alive, check_acknowledged, refused, run_tests, test, wait_for  # noqa: E402


# --- trials, workers, ends


@test
def an_experiment_completes_and_workers_take_run_after_run(home):
    home.create(trials=6, concurrent=6)
    done = home.wait_end()
    assert done["trials"]["completed"] == 6 and done["best_trial_id"] == 6, done
    assert len({line["pid"] for line in home.events() if "assigned" in line}) == 2
    assert [reason for _, reason, _ in home.runs()] == ["stopped"] * 6
    check_acknowledged(home)
    path = done["best_checkpoint"]["path"]
    assert path.startswith(home.path) and os.path.exists(path), path
    assert done["isa"] == ["none"]


@test
def a_worker_without_reuse_is_started_anew_for_each_run(home):
    home.create(trials=4, script={"capabilities": []})
    home.wait_end()
    assert len({line["pid"] for line in home.events() if "assigned" in line}) == 4


@test
def a_worker_that_dies_is_started_again_from_its_checkpoint(home):
    home.create(script={"trials": {"1": {"at": {"4": "exit:3"}, "tries": 1}}})
    home.wait_end()
    runs = home.runs(trial=1)
    assert [run[1] for run in runs] == ["exit", "stopped"], runs
    assert "exit code 3" in runs[0][2] and "exiting as the script says" in runs[0][2], runs[0][2]
    assert home.restarts() == {1: 1, 2: 0}
    assert [line["unit"] for line in home.events(trial=1) if "assigned" in line] == [0, 2]
    check_acknowledged(home)


@test
def a_worker_that_always_dies_fails_its_trial_alone_and_says_why(home):
    home.create(script={"trials": {"1": {"at": {"2": "signal:11"}}}}, max_restarts=2)
    done = home.wait_end()
    assert done["trials"]["error"] == 1 and done["trials"]["completed"] == 1, done["trials"]
    assert done["failures"] == {"signal": 1}, done["failures"]
    runs = home.runs(trial=1)
    assert [run[1] for run in runs] == ["signal"] * 3 and "signal 11" in runs[2][2], runs


@test
def a_worker_that_dies_waits_longer_each_time_and_holds_up_nobody(home):
    home.env["FLEXP_BACKOFF_MS"] = "400"
    home.create(script={"trials": {"1": {"at": {"1": "exit:1"}}}}, trials=3, max_restarts=2)
    home.wait_end()
    times = [line["time"] for line in home.events(trial=1) if "assigned" in line]
    assert len(times) == 3 and times[1] - times[0] >= 0.4 and times[2] - times[1] >= 0.8, times
    others = [line["time"] for line in home.events(sent="done") if line["trial"] != 1]
    assert len(others) == 2 and max(others) < times[2], "the others waited too"


@test
def a_program_that_is_not_there_is_refused_at_create(home):
    path = home.config()
    with open(path, encoding="utf-8") as file:
        text = file.read()
    home.up()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("entrypoint: [python3", "entrypoint: [/nowhere/train").replace(
            "name: scripted", "name: scripted\nmax_restarts: 1"))
    done = home.flexp("create", path, check=False)
    assert done.returncode == 2 and "/nowhere/train" in done.stderr, done.stderr
    assert home.sql("SELECT count(*) FROM experiments") == [(0,)]


@test
def a_silent_worker_is_killed_and_replaced(home):
    home.env["FLEXP_SILENT_MS"] = "2000"
    home.create(script={"trials": {"2": {"at": {"3": "silent"}, "tries": 1}}})
    home.wait_end()
    runs = home.runs(trial=2)
    assert [run[1] for run in runs] == ["silent", "stopped"], runs
    assert "said nothing" in runs[0][2]
    assert home.restarts()[2] == 1


@test
def a_slow_worker_that_heartbeats_is_left_alone(home):
    home.env["FLEXP_SILENT_MS"] = "2000"
    home.create(script={"round_ms": 3000}, rounds=1)
    home.wait_end()
    assert [run[1] for run in home.runs()] == ["stopped"] * 2


@test
def a_garbled_line_ends_the_run_with_the_parse_error(home):
    home.create(trials=3, script={"tries": 1, "trials": {"1": {"at": {"2": "garbled:{rubbish"}},
                                                         "2": {"at": {"2": 'say:{"op": "dance"}'}},
                                                         "3": {"at": {"2": "say:" + json.dumps(
                                                             {"op": "report", "run": 3, "seq": 77, "kind": "training",
                                                              "units": {"rounds": 1}})}}}})
    home.wait_end()
    for trial, text in ((1, "not JSON"), (2, 'unknown operation "dance"')):
        runs = home.runs(trial=trial)
        assert [run[1] for run in runs] == ["lost_protocol", "stopped"] and text in runs[0][2], runs
    # run 3 may be another trial's: then it is a stranger's message, answered release, and the trial goes on
    runs = home.runs(trial=3)
    assert runs[0][1] == "stopped" or "seq 77" in runs[0][2], runs


@test
def a_wrong_hello_is_refused_with_what_would_be_right(home):
    home.env["FLEXP_HELLO_MS"] = "4000"
    home.create(trials=1, max_restarts=0)
    home.wait_end()
    for number, (script, reason, text) in enumerate((
            ({"hello": '{"op":"hello","version":7,"pid":1}'}, "lost_protocol", "version 7"),
            ({"hello": '{"op":"progress","run":1,"units":{}}'}, "lost_protocol", "first message must be hello"),
            ({"hello": ""}, "lost_protocol", "not JSON"),
            ({"hello_ms": 100000}, "silent", "has not said hello")), 2):
        # the CLI would find it out by asking for the plan, so the script changes after the file was checked
        client = home.client()
        config = json.loads(json.dumps(home.describe(1)["config"]))
        with open(home.file(f"script{number}.json"), "w", encoding="utf-8") as out:
            json.dump(script, out)
        config["entrypoint"][2] = home.file(f"script{number}.json")
        answer = client.ask("create", text="name: x\n", resolved=config)
        assert answer == {"experiment": number}, answer
        home.wait_end(number, "error")
        run = home.runs(number)[0]
        assert run[1] == reason and text in run[2], run
        client.close()


@test
def a_worker_says_failed_and_the_reason_decides_whether_it_is_tried_again(home):
    home.create(trials=2, script={"trials": {"1": {"at": {"2": "failed:non_finite"}},
                                             "2": {"at": {"2": "failed:out_of_memory"}, "tries": 1}}})
    done = home.wait_end()
    assert [run[1] for run in home.runs(trial=1)] == ["non_finite"]
    assert [run[1] for run in home.runs(trial=2)] == ["out_of_memory", "stopped"]
    assert done["failures"] == {"non_finite": 1}, done["failures"]


@test
def a_converged_trial_is_completed(home):
    home.create(trials=2, rounds=8, script={"trials": {"2": {"at": {"4": "converged"}}}})
    done = home.wait_end()
    assert done["trials"]["completed"] == 2 and home.runs(trial=2)[0][1] == "converged"


@test
def what_is_said_about_a_run_that_is_over_is_not_stored(home):
    home.create(trials=4, script={"late": True})
    home.wait_end()
    assert home.sql("SELECT count(*) FROM v_reports WHERE unit = 999") == [(0,)]
    wait_for("release", lambda: len(home.events(heard="release")) >= 1)


@test
def a_worker_that_closes_its_socket_is_ended(home):
    home.create(trials=1, script={"at": {"2": "close"}, "tries": 1})
    home.wait_end()
    assert len(home.runs()) == 2 and home.restarts() == {1: 1}


@test
def no_child_of_a_worker_outlives_its_run(home):
    pids = home.file("pids")
    home.create(trials=1, script={"linger": pids, "at": {"2": "linger"}, "capabilities": []})
    home.wait_end()
    with open(pids, encoding="utf-8") as file:
        left = [int(line) for line in file.read().split()]
    assert len(left) == 3, left
    wait_for("the children to die", lambda: not any(alive(pid) for pid in left), 20)
    wait_for("the worker to go", lambda: not home.ask("status")["workers"], 20)


@test
def output_is_in_the_log_and_a_flood_is_bounded(home):
    home.create(trials=1, script={"print": ["one line", "bytes \u00e4"], "at": {"2": "flood:20000"}})
    home.wait_end()
    lines = [line["text"] for line in home.ask("logs", experiment=1, limit=10000)["lines"]]
    assert "one line" in lines and "bytes \u00e4" in lines and "line 0 of a flood" in lines
    assert len(lines) < 10000, len(lines)
    path = os.path.join(home.path, "experiments/1/trials/1/runs/1/output.log")
    with open(path, encoding="utf-8") as file:
        assert file.read().count("of a flood") == 20000


# --- verbs


@test
def pause_checkpoints_and_activate_goes_on_from_there(home):
    gate = home.file("gate")
    home.create(trials=2, rounds=6, script={"gate": gate, "gate_round": 3})
    wait_for("three rounds", lambda: home.sql("SELECT count(*) FROM v_reports WHERE unit = 3") == [(4,)])
    home.flexp("pause", "1")
    wait_for("both to checkpoint", lambda: [run[1] for run in home.runs()] == ["preempted"] * 2)
    assert home.state() == "paused" and home.describe()["trials"]["paused"] == 2, home.describe()["trials"]
    assert home.flexp("pause", "1", check=False).returncode == 2 or home.state() == "paused"
    open(gate, "w", encoding="utf-8").close()
    home.flexp("activate", "1")
    home.wait_end()
    assert [line["unit"] for line in home.events(attempt=2)] == [3, 3]
    assert home.restarts() == {1: 0, 2: 0}


@test
def a_deaf_worker_is_killed_after_its_grace_and_costs_no_restart(home):
    home.env["FLEXP_GRACE_MS"] = "2000"
    home.create(trials=1, rounds=4, script={"deaf": True, "gate": home.file("gate"), "gate_round": 2})
    wait_for("two rounds", lambda: home.sql("SELECT count(*) FROM checkpoints") == [(1,)])
    home.flexp("pause", "1")
    wait_for("the kill", lambda: [run[1] for run in home.runs()] == ["unresponsive"])
    assert home.state() == "paused" and home.restarts() == {1: 0}
    open(home.file("gate"), "w", encoding="utf-8").close()
    home.flexp("activate", "1")
    home.wait_end()


@test
def cancel_ends_at_the_rounds_end_and_kill_at_once(home):
    home.create(trials=2, script={"gate": home.file("gate"), "gate_round": 1})
    home.wait_event(2, sent="report")
    home.flexp("cancel", "1")
    home.wait_end(1, "canceled")
    home.create(trials=2, script={"gate": home.file("gate"), "deaf": True})
    wait_for("both to run", lambda: home.describe(2)["trials"]["running"] == 2)
    home.flexp("kill", "2")
    home.wait_end(2, "canceled")
    wait_for("workers to be gone", lambda: not [w for w in home.ask("status")["workers"] if w["state"] == "busy"])
    for verb in ("pause", "activate", "cancel", "kill"):
        refused("conflict", "experiment 2 is canceled", home.ask, verb, experiment=2)


@test
def one_trial_can_be_killed_and_the_search_goes_on(home):
    home.create(trials=3, concurrent=3, script={"gate": home.file("gate")})
    wait_for("two to run", lambda: home.describe()["trials"]["running"] == 2)
    refused("not_found", "trial", home.ask, "kill_trial", experiment=1, trial=99)
    home.flexp("trial", "kill", "1/1")
    open(home.file("gate"), "w", encoding="utf-8").close()
    done = home.wait_end()
    assert done["trials"]["canceled"] == 1 and done["trials"]["completed"] == 2, done["trials"]
    refused("conflict", "", home.ask, "kill_trial", experiment=1, trial=1)


@test
def a_request_that_no_slot_set_can_satisfy_is_refused(home):
    done = home.create(check=False, resources={"slots_per_trial": 3})
    assert done.returncode == 2 and "3 slots" in done.stderr and "has 2 cpu slots" in done.stderr, done.stderr
    done = home.create(check=False, resources={"slot_type": "cuda"})
    assert done.returncode == 2 and "cuda" in done.stderr, done.stderr
    assert home.sql("SELECT count(*) FROM experiments") == [(0,)]
    home.create(trials=2, resources={"slots_per_trial": 2})
    home.wait_end()
    assert {row[0] for row in home.sql("SELECT slots FROM runs")} == {'["cpu:0","cpu:1"]'}


@test
def a_better_priority_gets_the_slots_and_the_other_goes_on_later(home):
    gate = home.file("gate")
    home.create(trials=2, rounds=6, script={"gate": gate, "gate_round": 3}, resources={"priority": 50})
    for trial in (1, 2):
        home.wait_event(sent="report", trial=trial)
    second = home.create(trials=2, rounds=2, resources={"priority": 10})
    home.wait_end(second)
    assert [run[1] for run in home.runs(1)][:2] == ["preempted", "preempted"], home.runs(1)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end(1)
    assert home.restarts(1) == {1: 0, 2: 0}


@test
def experiments_of_equal_priority_share_the_slots(home):
    gate = home.file("gate")
    home.create(trials=4, script={"gate": gate}, concurrent=4)
    wait_for("two to run", lambda: home.describe(1)["trials"]["running"] == 2)
    home.create(trials=4, script={"gate": gate}, concurrent=4)
    open(gate, "w", encoding="utf-8").close()
    home.wait_end(1)
    home.wait_end(2)
    order = [row[0] for row in home.sql("SELECT experiment FROM runs ORDER BY id")]
    assert 2 in order[:4], f"the second waited for all of the first: {order}"


@test
def a_time_limit_ends_the_experiment_with_its_best(home):
    home.create(trials=2, rounds=100000, script={"round_ms": 20}, time_limit=1.5)
    done = home.wait_end()
    assert done["best_trial_id"] == 2 and done["reason"] == "time_limit", (done["state"], done["reason"])


# --- the orchestrator's own life


@test
def status_and_slots_say_who_does_what(home):
    home.create(trials=2, script={"gate": home.file("gate")})
    wait_for("two to run", lambda: sum("assigned" in line for line in home.events()) == 2)
    answer = home.ask("status")
    assert answer["pid"] == home.pid() and answer["home"] == home.path and answer["slots"] == 2, answer
    pids = sorted({line["pid"] for line in home.events() if "assigned" in line})
    assert sorted(answer["worker_pids"]) == pids == sorted(row["pid"] for row in answer["workers"]), answer
    assert answer["experiments"] == {"active": 1} and answer["uptime_s"] > 0
    rows = home.ask("slots")["slots"]
    assert [(row["name"], row["state"], row["experiment"]) for row in rows] == [("cpu:0", "busy", 1),
                                                                                ("cpu:1", "busy", 1)]
    assert json.loads(home.flexp("status", "--json").stdout)["pid"] == home.pid()


@test
def down_checkpoints_and_up_goes_on(home):
    gate = home.file("gate")
    home.create(trials=3, rounds=6, script={"gate": gate, "gate_round": 3}, concurrent=3)
    wait_for("three rounds", lambda: home.sql("SELECT count(*) FROM v_reports WHERE unit = 3") == [(4,)])
    home.flexp("down")
    assert not home.processes()
    assert home.sql("SELECT state FROM experiments") == [("active",)]
    assert [run[1] for run in home.runs()] == ["preempted"] * 2, home.runs()
    open(gate, "w", encoding="utf-8").close()
    home.up()
    home.wait_end()
    assert set(home.restarts().values()) == {0}
    check_acknowledged(home)


@test
def down_does_not_wait_for_deaf_workers_and_they_cost_no_restart(home):
    home.env["FLEXP_DOWN_MS"] = "500"
    home.create(trials=2, script={"deaf": True, "gate": home.file("gate"), "gate_round": 2})
    wait_for("a checkpoint each", lambda: home.sql("SELECT count(*) FROM checkpoints") == [(2,)])
    started = time.monotonic()
    home.flexp("down")
    assert time.monotonic() - started < 30 and not home.processes()
    open(home.file("gate"), "w", encoding="utf-8").close()
    home.up()
    home.wait_end()
    assert home.restarts() == {1: 0, 2: 0}
    assert [run[1] for run in home.runs()][:2] == ["orchestrator_lost"] * 2


@test
def sigterm_is_down_and_sighup_is_nothing(home):
    home.create(trials=1, script={"gate": home.file("gate")})
    pid = home.pid()
    path = home.socket()
    os.kill(pid, signal.SIGHUP)
    assert home.ask("status")["pid"] == pid
    os.kill(pid, signal.SIGTERM)
    wait_for("the end", lambda: not home.processes(), 20)
    assert home.sql("SELECT state FROM experiments") == [("active",)]
    assert not os.path.exists(path)


@test
def an_orchestrator_killed_dead_leaves_nothing_running_and_loses_nothing(home):
    gate, pids = home.file("gate"), home.file("pids")
    home.create(trials=4, rounds=6, concurrent=4,
                script={"gate": gate, "gate_round": 3, "linger": pids, "trials": {"1": {"at": {"2": "linger"}}}})
    wait_for("three rounds", lambda: home.sql("SELECT count(*) FROM v_reports WHERE unit = 3") == [(4,)])
    home.kill9()
    open(gate, "w", encoding="utf-8").close()
    home.up()
    done = home.wait_end()
    assert done["best_trial_id"] == 4 and set(home.restarts().values()) == {0}, done
    assert "orchestrator_lost" in [run[1] for run in home.runs()]
    check_acknowledged(home)


@test
def kills_at_every_failpoint_lose_nothing(home):
    points = ["during_create", "before_commit:3", "before_commit:9", "after_commit_before_effects:2",
              "after_commit_before_effects:11", "after_assign", "after_assign:2", "in_journal:2", "before_delete",
              "after_delete"]
    for number, point in enumerate(points, 1):
        done = home.flexp("create", "--json", home.config(trials=3, rounds=5, concurrent=3), check=False,
                          FLEXP_FAILPOINT=point)
        experiment = json.loads(done.stdout)["id"] if done.returncode == 0 else None
        wait_for(f"the kill at {point}", lambda: not home.pid())
        wait_for("every process to end", lambda: not home.processes(), 20)
        home.up()
        stored = home.sql("SELECT id FROM experiments WHERE state != 'completed'")
        if point == "during_create":
            assert experiment is None and not stored, f"{point}: {done.stdout} {stored}"
        for (living,) in stored:
            assert home.wait_end(living)["best_trial_id"] == 3, point
            check_acknowledged(home)
            assert set(home.restarts(living).values()) == {0}, point
        home.flexp("down")
        if number == len(points):
            assert len(home.sql("SELECT id FROM experiments")) >= len(points) - 3


@test
def supervisors_killed_dead_leave_nothing_running(home):
    pids = home.file("pids")
    home.create(trials=1, script={"linger": pids, "at": {"2": "linger"}, "tries": 1, "gate": home.file("gate"),
                                  "gate_round": 1})
    wait_for("the children", lambda: os.path.exists(pids) and len(open(pids, encoding="utf-8").read().split()) == 3)
    worker = home.ask("status")["worker_pids"][0]
    with open(f"/proc/{worker}/stat", encoding="utf-8") as file:
        supervisor = int(file.read().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    left = [worker] + [int(line) for line in open(pids, encoding="utf-8").read().split()]
    wait_for("all of them to die", lambda: not any(alive(pid) for pid in left), 20)
    open(home.file("gate"), "w", encoding="utf-8").close()
    home.wait_end()
    assert home.runs()[0][1] == "lost", home.runs()


@test
def only_one_orchestrator_holds_a_home(home):
    first = home.up()
    done = subprocess.run([FLEXP, "up", "--foreground"], env=home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 3 and f"pid {first}" in done.stderr, done.stderr
    assert home.pid() == first and home.ask("status")["pid"] == first


@test
def the_socket_is_private_and_one_left_behind_is_replaced(home):
    home.up()
    path = home.socket()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    home.kill9()
    assert os.path.exists(path)
    home.up()
    assert home.socket() == path and home.ask("status")["home"] == home.path
    # a client whose environment names another runtime folder finds it too
    other = home.file("runtime")
    os.mkdir(other, 0o700)
    assert json.loads(home.flexp("status", "--json", XDG_RUNTIME_DIR=other).stdout)["pid"] == home.pid()
    home.flexp("down")
    assert not os.path.exists(path)


@test
def a_socket_folder_of_another_is_refused(home):
    folder = home.file("runtime")
    os.mkdir(folder, 0o700)
    home.env["XDG_RUNTIME_DIR"] = folder
    home.up()
    assert home.socket().startswith(folder)
    home.flexp("down")


@test
def two_homes_never_share_a_core_and_the_second_waits_its_turn(home):
    gate = home.file("gate")
    home.env["FLEXP_IDLE_MS"] = "300"
    home.create(trials=2, script={"gate": gate})
    wait_for("two to run", lambda: home.describe()["trials"]["running"] == 2)
    with Home(cores=2, leases=home.leases) as other:
        other.create(trials=2)
        waiting = wait_for("the wait", lambda: other.ask("status")["waiting"])
        assert home.path in waiting and f"pid {home.pid()}" in waiting, waiting
        assert waiting in other.flexp("status").stdout
        told = other.file("told")
        with open(told, "w", encoding="utf-8") as out:
            follower = subprocess.Popen([FLEXP, "wait", "1", "-f"], env=other.env, stdout=out, stderr=out)
        wait_for("its telling so", lambda: waiting in open(told, encoding="utf-8").read(), 20)
        rows = other.ask("slots")["slots"]
        assert all(row["state"] == "taken" and home.path in row["holder"] for row in rows), rows
        assert other.describe()["trials"]["running"] == 0
        open(gate, "w", encoding="utf-8").close()
        home.wait_end()
        other.wait_end()
        assert follower.wait(DEADLINE_S) == 0
        overlap = [(a, b) for a in home.sql("SELECT slots, started_us, ended_us FROM runs")
                   for b in other.sql("SELECT slots, started_us, ended_us FROM runs")
                   if a[0] == b[0] and a[1] < b[2] and b[1] < a[2]]
        assert not overlap, overlap


@test
def slots_asked_for_are_the_slots_there_are(home):
    home.up("--slots", "1")
    assert home.ask("status")["slots"] == 1
    home.create(trials=2)
    home.wait_end()
    assert {row[0] for row in home.sql("SELECT slots FROM runs")} == {'["cpu:0"]'}
    home.flexp("down")
    done = home.flexp("up", "--slots", "3", check=False)
    assert done.returncode and "may use 2 cores" in done.stderr, done.stderr
    done = home.flexp("up", "--slots", "gpu", check=False)
    assert done.returncode and "no GPU" in done.stderr, done.stderr


@test
def a_store_that_cannot_write_ends_it_loudly_and_nothing_acknowledged_is_lost(home):
    home.create(trials=2, rounds=100000, script={"round_ms": 5})
    wait_for("reports", lambda: home.sql("SELECT count(*) FROM v_reports")[0][0] > 20)
    client = home.client()
    home.limit_files(200 << 10)  # more than its log has, less than its write-ahead log will
    wait_for("its end", lambda: not home.processes(), 30)
    try:
        client.ask("list")
        raise AssertionError("it still answers")
    except (ConnectionError, OSError):
        pass
    assert "the orchestrator stops" in home.log() and "commit failed" in home.log(), home.log()
    done = home.flexp("describe", "1", check=False)
    assert done.returncode == 0, done.stderr
    home.up()
    home.flexp("kill", "1")
    home.wait_end(1, "canceled")
    check_acknowledged(home)


@test
def a_program_named_by_a_relative_path_runs_where_it_was_created(home):
    folder = home.file("project")
    os.mkdir(folder)
    os.symlink(os.path.join(TOP, "tests", "integration", "scripted_worker.py"), os.path.join(folder, "train.py"))
    path = home.config(trials=1)
    with open(path, encoding="utf-8") as file:
        text = file.read().replace(os.path.join(TOP, "tests", "integration", "scripted_worker.py"), "train.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    home.flexp("create", path, cwd=folder)
    home.wait_end()
    assert home.events(trial=1)[0]["cwd"] == folder


@test
def an_experiment_whose_journal_does_not_replay_is_set_aside_and_the_others_go_on(home):
    gate = home.file("gate")
    home.create(trials=2, script={"gate": gate, "gate_round": 1})
    home.create(trials=2, script={"gate": gate, "gate_round": 1})
    wait_for("both to be heard",
             lambda: home.sql("SELECT count(*) FROM runs WHERE experiment = 1 AND last_us > started_us") == [(2,)])
    home.kill9()
    base = sqlite3.connect(os.path.join(home.path, "flexp.db"))
    for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        base.execute(f"DROP TRIGGER {name}")
    assert base.execute("UPDATE journal SET body = replace(body, '0.1', '0.2') WHERE experiment = 1"
                        " AND kind = 'operations' AND idx = 2").rowcount == 1
    base.commit()
    base.close()
    open(gate, "w", encoding="utf-8").close()
    home.up()
    home.wait_end(2)
    assert home.state(1) == "active"
    problems = home.ask("status")["problems"]
    assert [row["experiment"] for row in problems] == [1] and "computed" in problems[0]["text"], problems
    assert "experiment 1 cannot go on" in home.flexp("status").stdout
    for ask in (["pause"], ["activate"], ["archive", True], ["delete"], ["set", "resources.priority", "3"]):
        names = {"archive": ["archived"], "set": ["key", "value"]}.get(ask[0], [])
        refused("conflict", "computed", home.ask, ask[0], experiment=1, **dict(zip(names, ask[1:])))
    assert "`flexp kill 1` ends it" in home.flexp("delete", "1", "--yes", check=False).stderr
    home.flexp("kill", "1")
    assert home.state(1) == "canceled" and home.ask("status")["problems"] == []
    assert home.sql("SELECT state, ended IS NOT NULL, run_seconds > 0 FROM v_trials WHERE experiment = 1") == 2 * [
        ("canceled", 1, 1)]
    assert [row[1] for row in home.runs(1)] == 2 * ["orchestrator_lost"], home.runs(1)
    assert home.sql("SELECT run_seconds > 0, slot_seconds > 0 FROM v_experiments WHERE id = 1") == [(1, 1)]
    home.kill9()
    home.up()
    assert home.ask("status")["problems"] == []
    home.flexp("delete", "1", "--yes")
    wait_for("the rows to go", lambda: home.sql("SELECT id FROM experiments") == [(2,)])
    assert home.sql("PRAGMA foreign_key_check") == []


@test
def warm_workers_make_room_for_trials_of_another_shape(home):
    home.create(trials=2)
    home.wait_end(1)
    started = time.monotonic()
    home.create(trials=1, resources={"slots_per_trial": 2})
    home.wait_end(2)
    home.create(trials=2)
    home.wait_end(3)
    assert time.monotonic() - started < 20
    assert len({line["pid"] for line in home.events() if "assigned" in line}) >= 4


@test
def memory_is_flat_over_trials(home):
    home.create(trials=500, concurrent=4, rounds=1, script={"round_ms": 0, "trace": None})

    def resident_at(done):
        query = "SELECT count(*) FROM trials WHERE state = 'completed'"
        wait_for(f"{done} trials", lambda: home.sql(query)[0][0] >= done)
        with open(f"/proc/{home.pid()}/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * 4096

    early = resident_at(150)
    late = resident_at(500)
    home.wait_end()
    assert late - early < 8 << 20, f"{early} bytes after 150 trials, {late} after 500"


if __name__ == "__main__":
    sys.exit(run_tests())
