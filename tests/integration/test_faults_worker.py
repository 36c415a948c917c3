#!/usr/bin/env python3
"""Workers that speak nonsense, half a line, too much, of others' runs, or nothing: each costs its own trial one run and says
why; the trial goes on, and no other trial notices.

Drives the real program with the scripted worker. Prints TAP. Arguments: names of tests, for these alone.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sqlite3
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server_home import run_tests, test, wait_for  # noqa: E402


def report(**fields):
    body = {"op": "report", "run": "$RUN", "seq": "$SEQ", "kind": "training", "units": {"rounds": 1}, **fields}
    return "say:" + json.dumps(body).replace('"$RUN"', "$RUN").replace('"$SEQ"', "$SEQ")


NONSENSE = [  # (action, what is said of it)
    ("garbled:hello?", "not JSON"),
    ("garbled:{\"op\": \"report\", ", "not JSON"),
    ("garbled:null", "no message"),
    ("garbled:[1, 2]", "an object with a string \"op\""),
    ("garbled:{\"op\": 5}", "an object with a string \"op\""),
    ("garbled:" + "[" * 100000, "not JSON"),
    ("garbled:{\"op\":\"progress\",\"run\":$RUN,\"units\":{\"rounds\":NaN}}", "not JSON"),
    ("garbled:{\"op\":\"progress\",\"run\":$RUN,\"units\":{\"rounds\":1e999}}", "not JSON"),
    ("raw:00010203fffe0a", "not JSON"),
    ("raw:7b226f70223a22ff227d0a", "not JSON"),  # not UTF-8
    ("raw:" + "00" * 5000 + "0a", "not JSON"),
    ("long:17000000", "more than 16 MiB"),
    ("garbled:{\"op\":\"log\",\"run\":$RUN,\"text\":\"\\u0000\"}", "not JSON"),
    ("garbled:{\"op\": \"dance\"}", "unknown operation \"dance\""),
    ("garbled:{\"op\": \"assign\", \"run\": 1}", "unknown operation \"assign\""),
    ("garbled:{\"op\":\"hello\",\"version\":1,\"pid\":1}", "hello twice"),
    (report(seq=77), "seq 77 after"),
    (report(seq=0), "seq must be from 1"),
    (report(seq=-3), "seq must be from 1"),
    (report(seq="1"), "field \"seq\" must be an integer"),
    (report(kind="guess"), "kind must be training, validation or test"),
    (report(kind="test"), "from a run that trains"),
    (report(units={}), "units needs \"rounds\""),
    (report(units={"rounds": "NaN"}), "must be a finite number from 0"),
    (report(units={"rounds": -1}), "must be a finite number from 0"),
    (report(metrics={"loss": "low"}), "must be a number or one of"),
    (report(metrics=[1]), "field \"metrics\" must be an object"),
    (report(clients=[{"client": "a"}]), "must be an integer"),
    (report(op="checkpoint", path="../../../x"), "must be relative to trial_dir"),
    (report(op="checkpoint", path="/etc/passwd"), "must be relative to trial_dir"),
    (report(op="done", reason="bored"), "reason must be length"),
    (report(op="done", reason="preempted"), "that was not told to"),
    (report(op="done", reason="evaluated"), "from a run that trains"),
]
HARMLESS = [  # what is borne
    report(seq=1),                                       # again: acknowledged, not stored twice
    report(run=99999, seq=1),                            # of nobody's run: released
    report(metrics={"train_loss": "NaN", "other": "-Infinity"}),
    "drip:" + json.dumps({"op": "progress", "run": 0, "units": {}}),
    "spam:100000",
    "garbled:" + json.dumps({"op": "heartbeat", "rank": 0, "filler": "x" * 15000000}),  # unknown fields are ignored
    "garbled:" + json.dumps({"op": "log", "run": 0, "level": "shout", "text": "\u001b[31m\u0007"}),
]


def run_all(home, actions, **keys):
    trials = {str(i): {"at": {"2": action}, "tries": 1} for i, action in enumerate(actions, 1)}
    home.create(trials=len(actions), rounds=4, concurrent=4, script={"round_ms": 1, "trials": trials}, **keys)
    return home.wait_end()


@test
def nonsense_costs_one_run_is_named_and_harms_no_other_trial(home):
    home.env["FLEXP_CORES"] = "4"
    done = run_all(home, [action for action, _ in NONSENSE], max_restarts=1)
    assert done["trials"]["completed"] == len(NONSENSE), done["trials"]
    for trial, (action, text) in enumerate(NONSENSE, 1):
        runs = home.runs(trial=trial)
        assert [run[1] for run in runs] == ["lost_protocol", "stopped"], (action[:80], runs)
        assert text in runs[0][2], (action[:80], runs[0][2])
        assert len(runs[0][2]) < 3000, (action[:80], len(runs[0][2]))
    assert set(home.restarts().values()) == {1}, home.restarts()
    assert home.sql("SELECT count(*) FROM v_metrics WHERE name = 'validation_accuracy'") == [(4 * len(NONSENSE),)]


@test
def what_can_be_borne_is_borne(home):
    actions = [action for action in HARMLESS if action is not HARMLESS[2]]
    done = run_all(home, actions, max_restarts=0)
    assert done["trials"]["completed"] == len(actions), (done["trials"], home.runs())
    assert [run[1] for run in home.runs()] == ["stopped"] * len(actions), home.runs()
    assert home.sql("SELECT count(*) FROM v_metrics WHERE name = 'validation_accuracy'") == [(4 * len(actions),)]
    assert home.sql("SELECT count(*) FROM reports") == [(2 * 4 * len(actions),)]


@test
def values_that_are_not_finite_are_stored_as_such(home):
    home.create(trials=1, rounds=2, script={"at": {"2": HARMLESS[2]}, "tries": 1}, max_restarts=1)
    home.wait_end()
    rows = home.sql("SELECT name, value, status FROM v_metrics WHERE name IN ('train_loss', 'other') AND unit = 1")
    assert ("other", None, "-Infinity") in rows, rows


@test
def half_a_line_and_then_silence_is_silence(home):
    home.env["FLEXP_SILENT_MS"] = "1500"
    home.create(trials=2, script={"trials": {"1": {"at": {"2": "part:{\"op\": \"heartb"}, "tries": 1}}})
    home.wait_end()
    runs = home.runs(trial=1)
    assert [run[1] for run in runs] == ["silent", "stopped"] and "said nothing" in runs[0][2], runs
    assert [run[1] for run in home.runs(trial=2)] == ["stopped"]


@test
def a_program_that_leaves_when_it_has_said_how_its_run_ended_is_not_blamed(home):
    """Its last word waits for its commit, which another writer holds up, and it is gone before."""
    gate = home.file("gate")
    home.create(trials=2, rounds=4, script={"gate": gate, "gate_round": 1, "capabilities": [], "leave": True,
                                            "trials": {"1": {"at": {"3": "converged"}},
                                                       "2": {"at": {"3": "failed:non_finite"}}}})
    wait_for("both to report", lambda: home.sql("SELECT count(*) FROM reports")[0][0] == 4)
    pids = home.ask("status")["worker_pids"]
    assert len(pids) == 2
    other = sqlite3.connect(os.path.join(home.path, "flexp.db"), timeout=20)
    other.execute("BEGIN IMMEDIATE")
    open(gate, "w", encoding="utf-8").close()
    wait_for("the workers to be gone", lambda: not set(pids) & set(home.ask("status")["worker_pids"]))
    other.rollback()
    other.close()
    home.wait_end()
    assert "exit code 0" not in home.log(), home.log()
    assert [row[:2] for row in home.runs()] == [(1, "converged"), (2, "non_finite")], home.runs()


@test
def a_misspelt_reason_is_told_of_and_a_reason_of_its_own_is_not(home):
    home.create(trials=2, max_restarts=0, script={"trials": {"1": {"at": {"1": "failed:memory-in-use"}},
                                                             "2": {"at": {"1": "failed:no_licence"}}}})
    wait_for("both to fail", lambda: sorted(str(row[1]) for row in home.runs()) == ["memory-in-use", "no_licence"])
    said = '"memory-in-use" is no reason of the trial protocol and is taken as error; did you mean memory_in_use?'
    wait_for("the log to tell", lambda: home.log().count(said) == 1)
    assert home.log().count("is no reason") == 1, home.log()


sys.exit(run_tests())
