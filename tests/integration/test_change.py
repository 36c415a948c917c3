#!/usr/bin/env python3
"""The verbs that change what there is: archive, delete, set, trial test. A delete that is killed goes on.

Prints TAP. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pty
import subprocess
import sys

from server_home import FLEXP, Home, refused, run_tests, test, wait_for

TRAINED = """
name: trained
hyperparameters: {lr: {type: log, minval: -2, maxval: -1}}
searcher: {name: random, metric: validation_accuracy, time_metric: rounds, max_time: 2, max_trials: 2}
data: {source: synthetic, synthetic: {samples: 600, test_samples: 100}}
model: {layers: [flatten, {dense: {units: classes}}]}
training: {learning_rate: $lr, batch_size: 50}
federation: {clients: 2}
checkpoint_storage: {save_trial_best: %d, save_trial_latest: 0}
"""


def ids(home, *arguments):
    return [row["id"] for row in json.loads(home.flexp("list", "--json", *arguments).stdout)["experiments"]]


def counts(home, experiment):
    tables = {"trials": "experiment", "runs": "experiment", "journal": "experiment", "logs": "experiment",
              "experiment_configs": "experiment", "experiments": "id"}
    return {name: home.sql(f"SELECT count(*) FROM {name} WHERE {column} = ?", experiment)[0][0]
            for name, column in tables.items()}


def ended(home, **settings):
    experiment = home.create(trials=3, rounds=2, **settings)
    home.wait_end(experiment)
    return experiment


@test
def archived_experiments_are_left_out_of_the_list(home):
    ended(home)
    ended(home)
    assert home.flexp("archive", "1").stdout == "Archived experiment 1: `flexp list --all` shows it\n"
    assert ids(home) == [2] and ids(home, "--all") == [1, 2]
    assert "1 older or archived: flexp list --all" in home.flexp("list").stdout
    assert home.describe(1)["archived"] is True and home.sql("SELECT archived FROM v_experiments") == [(1,), (0,)]
    home.kill9()
    assert ids(home) == [2]
    home.flexp("unarchive", "1")
    assert ids(home) == [1, 2]
    done = home.flexp("archive", "7", check=False)
    assert done.returncode == 2 and "there is no experiment 7" in done.stderr, done.stderr
    done = home.flexp("archive", "1", "2", "7", check=False)
    assert done.returncode == 2 and done.stdout == "" and "nothing was archived" in done.stderr, done
    assert ids(home) == [1, 2], "all or nothing"
    assert json.loads(home.flexp("archive", "1", "2", "--json").stdout)["archived"] == [1, 2]


@test
def only_what_has_ended_is_archived_or_deleted(home):
    gate = home.file("gate")
    home.create(script={"gate": gate})
    home.wait_event(assigned=1)
    for verb in (["archive", "1"], ["delete", "1", "--yes"]):
        done = home.flexp(*verb, check=False)
        assert done.returncode == 2 and "when it has ended" in done.stderr and "flexp cancel 1" in done.stderr, done
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()


@test
def deleting_asks_and_takes_rows_and_files(home):
    ended(home)
    ended(home)
    others = counts(home, 2)
    done = home.flexp("delete", "1", check=False)
    assert done.returncode == 2 and "flexp delete 1 --yes" in done.stderr, done
    assert ids(home) == [1, 2]

    def answer(text):
        master, slave = pty.openpty()
        process = subprocess.Popen([FLEXP, "delete", "1"], env=home.env, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        shown = ""
        while "[y/N]" not in shown:
            shown += os.read(master, 4096).decode()
        os.write(master, text)
        code = process.wait(30)
        os.close(master)
        return code, shown

    code, shown = answer(b"n\n")
    assert code == 2 and ids(home) == [1, 2], (code, shown)
    assert 'Delete experiment 1 "scripted" with 3 trials and ' in shown and "of files? [y/N]" in shown, shown
    assert answer(b"y\n")[0] == 0
    assert ids(home, "--all") == [2] and not home.sql("SELECT * FROM v_experiments WHERE id = 1")
    wait_for("the rows to go", lambda: not any(counts(home, 1).values()))
    assert not os.path.exists(os.path.join(home.path, "experiments", "1"))
    assert counts(home, 2) == others and os.path.isdir(os.path.join(home.path, "experiments", "2"))
    assert home.sql("PRAGMA foreign_key_check") == [] and home.sql("PRAGMA quick_check") == [("ok",)]
    done = home.flexp("describe", "1", check=False)
    assert done.returncode == 2 and "there is no experiment 1: it was deleted" in done.stderr, done.stderr


@test
def numbers_of_the_deleted_are_never_given_out_again(home):
    ended(home)
    ended(home)
    highest = home.sql("SELECT max(id) FROM runs")[0][0]
    home.flexp("delete", "2", "--yes")
    wait_for("the rows to go", lambda: not any(counts(home, 2).values()))
    home.flexp("down")
    assert ended(home) == 3
    assert home.sql("SELECT min(id) FROM runs WHERE experiment = 3")[0][0] > highest


@test
def a_delete_that_is_asked_for_twice_at_once_is_done_once(home):
    ended(home)
    pid, client = home.pid(), home.client()
    client.link.sendall(b"".join(json.dumps({"id": i, "request": "delete", "arguments": {"experiment": 1}}).encode() +
                                 b"\n" for i in (1, 2, 3)))
    answers = {line["id"]: line for line in (client.line() for _ in range(3))}
    assert sorted(answers) == [1, 2, 3] and answers[1]["ok"], answers
    for line in answers.values():  # the first may be on disk before the next is read: that one finds nothing
        assert line["answer"] == {"experiment": 1} if line["ok"] else \
            line["error"]["text"] == "there is no experiment 1: it was deleted", line
    client.close()
    wait_for("the rows to go", lambda: not any(counts(home, 1).values()))
    assert home.pid() == pid and home.sql("SELECT experiment FROM deleted") == [(1,)]
    assert home.log().count("experiment 1 goes") == 1 and home.log().count("experiment 1 is deleted") == 1, home.log()


def interrupted(failpoint):
    with Home(FLEXP_FAILPOINT=failpoint) as home:
        ended(home)
        ended(home)
        before = counts(home, 2)
        home.flexp("delete", "1", "--yes", check=False)
        wait_for("it to be killed", lambda: home.pid() is None)
        assert ids(home, "--all") == [2]
        home.env.pop("FLEXP_FAILPOINT")
        home.up()
        wait_for("the rows to go", lambda: not any(counts(home, 1).values()))
        assert not os.path.exists(os.path.join(home.path, "experiments", "1"))
        assert counts(home, 2) == before and home.sql("PRAGMA foreign_key_check") == []
        assert home.sql("SELECT experiment FROM deleted") == [(1,)]


@test
def a_delete_killed_before_its_files_goes_on_at_the_next_start(_home):
    interrupted("before_erase")


@test
def a_delete_killed_between_its_rows_goes_on_at_the_next_start(_home):
    interrupted("in_erase:2")


@test
def files_of_deleted_checkpoints_left_by_a_crash_are_collected(home):
    home.create(trials=2, rounds=6)
    home.wait_end()
    [(path,)] = home.sql("SELECT path FROM v_checkpoints WHERE deleted IS NOT NULL ORDER BY checkpoint LIMIT 1")
    left, aside = os.path.join(home.path, path), os.path.join(home.path, "deleted", "1")
    wait_for("what was set aside to go", lambda: not os.listdir(os.path.dirname(aside)))
    home.kill9()
    assert not os.path.exists(left)
    for name in (left, aside):
        with open(name, "w", encoding="utf-8") as out:
            out.write("left by a crash")
    home.up()
    assert not os.path.exists(left) and not os.path.exists(aside)  # before anything runs


@test
def a_higher_priority_takes_the_slots(_home):
    with Home(cores=1) as home:
        home.create(script={"round_ms": 20}, trials=1, rounds=2000)
        home.wait_event(assigned=1)
        second = home.create(script={"round_ms": 5}, trials=1, rounds=4, resources={"priority": 50})
        assert home.describe(second)["trials"]["queued"] == 1
        home.flexp("set", "priority", str(second), "10")
        home.wait_end(second)
        assert home.state(1) == "active" and ("preempted" in [row[1] for row in home.runs(1)])
        assert home.restarts(1) == {1: 0}
        home.flexp("kill", "1")


@test
def what_is_set_is_shown_journalled_and_survives_a_kill(home):
    gate = home.file("gate")
    home.create(script={"gate": gate, "gate_round": 1}, rounds=3)
    home.wait_event(assigned=1)
    home.flexp("set", "weight", "1", "2.5")
    home.flexp("set", "max-slots", "1", "1")
    home.flexp("set", "priority", "1", "7")
    home.flexp("set", "description", "1", "second, wider")
    for mistake, text in ((("priority", "x"), "resources.priority must be"), (("weight", "0"), "resources.weight must be"),
                          (("max-slots", "1.5"), "resources.max_slots must be"),
                          (("weight", "nan"), "resources.weight must be a number, got nan\n"),
                          (("weight", "1e999"), "resources.weight must be a number, got 1e999\n"),
                          (("weight", "-1"), "set weight takes no negative number")):
        done = home.flexp("set", mistake[0], "1", mistake[1], check=False)
        assert done.returncode == 2 and text in done.stderr, done.stderr
    home.kill9()
    home.up()
    found = home.describe(1)
    assert found["config"]["resources"]["weight"] == 2.5 and found["config"]["resources"]["max_slots"] == 1, found
    assert found["config"]["resources"]["priority"] == 7 and found["description"] == "second, wider"
    assert "weight" not in found["config_text"]
    changes = [json.loads(row[0]) for row in
               home.sql("SELECT body FROM v_journal WHERE experiment = 1 AND kind = 'config_changed' ORDER BY idx")]
    assert [change["key"] for change in changes] == ["resources.weight", "resources.max_slots", "resources.priority",
                                                     "description"], changes
    open(gate, "w", encoding="utf-8").close()
    home.wait_end()
    home.flexp("set", "description", "1", "it is over")
    assert home.describe(1)["description"] == "it is over"
    done = home.flexp("set", "priority", "1", "3", check=False)
    assert done.returncode == 2 and "only its description" in done.stderr, done.stderr


def trained(home, keep):
    path = home.file("trained.yaml")
    with open(path, "w", encoding="utf-8") as out:
        out.write(TRAINED % keep)
    home.flexp("create", path)
    home.wait_end()
    best = home.describe(1)["best_trial_id"]
    return best, 3 - best


@test
def any_trial_can_be_tested_once(home):
    best, other = trained(home, 1)
    answer = json.loads(home.flexp("trial", "test", f"1/{other}", "--json").stdout)
    assert answer["computed"] and 0 <= answer["test_metrics"]["test_accuracy"] <= 1, answer
    again = json.loads(home.flexp("trial", "test", f"1/{other}", "--json").stdout)
    assert not again["computed"] and again["test_metrics"] == answer["test_metrics"]
    rows = home.sql("SELECT by, value FROM v_tests WHERE trial = ? AND name = 'test_accuracy'", other)
    assert rows == [("request", answer["test_metrics"]["test_accuracy"])], rows
    told = home.flexp("trial", "test", f"1/{best}")
    assert "recorded values" in told.stderr and "accuracy" in told.stdout, told
    assert home.describe(1)["test_metrics"]["test_accuracy"] == json.loads(
        home.flexp("trial", "test", f"1/{best}", "--json").stdout)["test_metrics"]["test_accuracy"]
    assert "on request" in home.flexp("trial", "describe", f"1/{other}").stdout


@test
def what_cannot_be_tested_is_said(home):
    _, other = trained(home, 0)
    done = home.flexp("trial", "test", f"1/{other}", check=False)
    assert done.returncode == 2 and "save_trial_best: 1 keeps it" in done.stderr, done.stderr
    second = ended(home)
    best = home.describe(second)["best_trial_id"]
    done = home.flexp("trial", "test", f"{second}/{best}", check=False)
    assert done.returncode != 0 and 'lacks the capability "evaluate"' in done.stderr, done.stderr
    assert home.flexp("trial", "test", "1/99", check=False).returncode == 2


@test
def a_test_result_at_no_unit_is_refused(home):
    ended(home)
    pid = home.pid()
    for unit in ("nan", "inf", "1e999", "-1", "", "2 rounds"):
        refused("bad_input", f'unit must be a finite number from 0, not "{unit}"', home.ask, "record_test",
                experiment=1, trial=1, unit=unit, metrics={"test_accuracy": 0.5})
    home.ask("record_test", experiment=1, trial=1, unit="2", metrics={"test_accuracy": 0.5})
    assert home.sql("SELECT unit, value FROM v_tests") == [(2.0, 0.5)] and home.pid() == pid


if __name__ == "__main__":
    sys.exit(run_tests())
