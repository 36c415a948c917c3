#!/usr/bin/env python3
"""The verbs that read: trials sorted, grouped and as CSV, metrics, explain, completion, the man page.

Prints TAP. SPDX-License-Identifier: Apache-2.0
"""
import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys

from server_home import FLEXP, TOP, run_tests, test


def table(home, *arguments):
    return list(csv.DictReader(io.StringIO(home.flexp(*arguments, "--csv").stdout)))


def sweep(home, trials=6):
    home.create(trials=trials, rounds=3, concurrent=2)
    home.wait_end()


@test
def trials_are_sorted_by_any_column(home):
    sweep(home)
    best = [float(row["best"]) for row in table(home, "trials", "1")]
    assert len(best) == 6 and best == sorted(best, reverse=True), best
    for key, name in (("lr", "lr"), ("trial", "trial"), ("latest_unit", "latest_unit"), ("started", "started")):
        rows = [row[name] for row in table(home, "trials", "1", "--sort-by", key)]
        number = float if name in ("lr", "trial") else str
        assert rows == sorted(rows, key=number), (key, rows)
        turned = [row[name] for row in table(home, "trials", "1", "--sort-by", "-" + key)]
        assert turned == sorted(rows, key=number, reverse=True), (key, turned)
    by_metric = [row["trial"] for row in table(home, "trials", "1", "--sort-by", "validation_accuracy")]
    assert by_metric == [row["trial"] for row in table(home, "trials", "1")]
    answer = json.loads(home.flexp("trials", "1", "--sort-by", "lr", "--json").stdout)
    values = [row["hyperparameters"]["lr"] for row in answer["trials"]]
    assert answer["schema_version"] == 1 and values == sorted(values)


@test
def what_cannot_be_sorted_by_is_named(home):
    sweep(home, 2)
    done = home.flexp("trials", "1", "--sort-by", "lrr", check=False)
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr == "flexp: there is no column or hyperparameter 'lrr': did you mean 'lr'?\n", done.stderr
    done = home.flexp("trials", "1", "--group-by", "batch", check=False)
    assert done.returncode == 2 and "the hyperparameters are lr" in done.stderr, done.stderr
    done = home.flexp("trials", "1", "--sort-by", "nonsense", check=False)
    assert done.returncode == 2 and "columns are trial, state, reason, best, " in done.stderr, done.stderr
    assert "the hyperparameters are lr\n" in done.stderr, done.stderr
    for pair in (("--csv", "--json"), ("--sort-by", "lr", "--group-by", "lr")):
        assert home.flexp("trials", "1", *pair, check=False).returncode == 2


@test
def trials_are_grouped_by_value_and_in_ranges(home):
    sweep(home)
    rows = table(home, "trials", "1", "--group-by", "lr")
    assert len(rows) == 6 and all(row["trials"] == "1" and row["best"] == row["worst"] for row in rows), rows
    home.create(trials=30, rounds=1, concurrent=2)
    home.wait_end(2)
    answer = json.loads(home.flexp("trials", "2", "--group-by", "lr", "--json").stdout)
    groups = answer["groups"]
    assert len(groups) == 5 and [group["trials"] for group in groups] == [6] * 5, groups
    assert all(a["to"] < b["from"] for a, b in zip(groups, groups[1:]))
    trials = {row["trial"]: row for row in table(home, "trials", "2")}
    for group in groups:
        inside = [float(row["best"]) for row in trials.values() if group["from"] <= float(row["lr"]) <= group["to"]]
        assert group["best"] == max(inside) and group["worst"] == min(inside), group
        assert abs(group["mean"] - sum(inside) / len(inside)) < 1e-12
        assert float(trials[str(group["best_trial"])]["best"]) == group["best"]
    shown = home.flexp("trials", "2", "--group-by", "lr").stdout.split("\n")
    assert shown[0].split() == ["lr", "TRIALS", "BEST", "MEAN", "WORST", "BEST", "TRIAL"] and len(shown) == 7, shown


@test
def metrics_stand_side_by_side_for_each_unit(home):
    sweep(home, 1)
    rows = table(home, "metrics", "1/1")
    assert [row["unit"] for row in rows] == ["1", "2", "3"], rows
    assert [float(row["train_loss"]) for row in rows] == [1, 0.5, 1 / 3]
    assert float(rows[2]["validation_accuracy"]) == 0.5 * 3 / 4, rows
    assert list(rows[0]) == ["unit", "validation_accuracy", "train_loss"], rows[0]
    clients = table(home, "metrics", "1/1", "--client")
    assert [(row["unit"], row["client"]) for row in clients] == [("1", "0"), ("2", "0"), ("3", "0")], clients
    assert list(table(home, "metrics", "1/1", "--name", "train_loss")[0]) == ["unit", "train_loss"]
    answer = json.loads(home.flexp("metrics", "1/1", "--client", "--json").stdout)
    assert answer["schema_version"] == 1 and {row["client"] for row in answer["metrics"]} == {0}
    assert home.flexp("metrics", "1/1", "--client", "--name", "validation_accuracy").stdout == (
        "Trial 1/1 has no values of clients for validation_accuracy; it has them for train_loss\n")
    done = home.flexp("metrics", "1/1", "--name", "train_los", check=False)
    assert done.returncode == 2 and "it has train_loss, validation_accuracy" in done.stderr, done.stderr


@test
def explain_says_what_the_tables_say(home):
    text = home.flexp("explain", "searcher.divisor").stdout
    assert "above 1 to 1000" in text and "default  4" in text and "example  divisor: 4" in text, text
    answer = json.loads(home.flexp("explain", "training", "--json").stdout)
    keys = {row["key"]: row for row in answer["keys"]}
    assert keys["training.optimizer"]["default"] == "sgd" and answer["schema_version"] == 1, answer
    assert "required" in home.flexp("explain", "searcher.metric").stdout
    assert "kernel" in home.flexp("explain", "conv2d").stdout
    done = home.flexp("explain", "searcher.max_trails", check=False)
    assert done.returncode == 2 and "did you mean 'searcher.max_trials'" in done.stderr, done.stderr
    done = home.flexp("explain", "environment", check=False)
    assert done.returncode == 2, "a key that means nothing here is no key"


@test
def every_key_of_the_documentation_is_explained(home):
    section, missing = "", []
    with open(os.path.join(TOP, "docs", "config.md"), encoding="utf-8") as file:
        lines = file.read().split("\n## Keys\n")[1].split("\n## ")[0].split("\n")
    for line in lines:
        if line.startswith("### "):
            section = "" if line == "### The file" else line[4:] + "."
        found = re.match(r"\| `([a-z0-9_]+)` \|", line)
        if found and home.flexp("explain", section + found[1], check=False).returncode:
            missing.append(section + found[1])
    assert not missing, missing


def bash(script):
    return subprocess.run(["bash", "-c", script], check=True, text=True, stdout=subprocess.PIPE, cwd=TOP,
                          env={**os.environ, "PATH": os.path.dirname(FLEXP) + ":" + os.environ["PATH"]}).stdout.split()


def complete(line):
    words = " ".join(f"'{word}'" for word in line.split(" "))
    return bash(f"source <(flexp completion bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
                "_flexp; printf '%s\\n' \"${COMPREPLY[@]}\"")


@test
def bash_completes_verbs_options_files_and_numbers(home):
    assert complete("flexp desc") == ["describe"]
    assert {"describe", "logs", "kill"} <= set(complete("flexp trial "))
    assert complete("flexp trials --gro") == ["--group-by"]
    assert complete("flexp trial logs --fol") == ["--follow"]
    assert complete("flexp create configs/quick") == ["configs/quickstart.yaml"]
    sweep(home, 1)
    os.environ["FLEXP_HOME"] = home.path
    try:
        assert complete("flexp describe ") == ["1"]
        assert complete("flexp trial describe ") == ["1/"]
        assert complete("flexp trial describe 1/") == ["1/1"]
        assert complete("flexp trial kill 1") == ["1/"]
        assert {"best", "trained", "lr"} <= set(complete("flexp trials 1 --sort-by "))
        assert complete("flexp trials --group-by ") == ["lr"]
        assert complete("flexp metrics 1/1 --name val") == ["validation_accuracy"]
        assert complete("flexp metrics --name ") == [], "of no trial"
    finally:
        del os.environ["FLEXP_HOME"]
    assert complete(f"flexp --home {home.path} describe ") == ["1"]
    assert complete("flexp up --slots ") == ["cpu", "gpu"]
    assert complete("flexp data fetch ") == ["cifar10", "mnist", "fashion_mnist"]
    assert complete("flexp explain sear") == ["searcher"]
    assert "searcher.max_trials" in complete("flexp explain searcher.max")
    assert complete("flexp plot -o configs/quick") == ["configs/quickstart.yaml"]
    assert complete("flexp wait 1 --timeout ") == []
    answer = json.loads(home.flexp("completion", "bash", "--json").stdout)
    assert answer["schema_version"] == 1 and answer["script"] == home.flexp("completion", "bash").stdout
    done = home.flexp("completion", "fish", check=False)
    assert done.returncode == 2 and "flexp completion bash" in done.stderr


@test
def the_man_page_names_every_verb_and_option(home):
    page = home.flexp("help", "man").stdout
    verbs = json.loads(home.flexp("help", "--json").stdout)["verbs"]
    for verb in verbs:
        assert f".SS flexp {verb['name']} " in page, verb["name"]
        for option in verb["options"]:
            assert "\\-\\-" + option["name"].replace("-", "\\-") in page, option["name"]
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-Tascii", "-ww"], input=page, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=True)
        assert not done.stderr and "flexp create" in done.stdout, done.stderr


@test
def colours_are_for_terminals_that_want_them(home):
    sweep(home, 1)
    assert "\033" not in home.flexp("trials", "1").stdout

    def on_terminal(**env):
        master, slave = pty.openpty()
        subprocess.run([FLEXP, "trials", "1"], env={**home.env, "TERM": "xterm", **env}, stdin=slave, stdout=slave,
                       stderr=slave, check=True)
        os.close(slave)
        text = os.read(master, 65536).decode()
        os.close(master)
        return text

    assert "\033[" in on_terminal()
    assert "\033" not in on_terminal(NO_COLOR="1")
    assert "\033" not in on_terminal(TERM="dumb")


if __name__ == "__main__":
    sys.exit(run_tests())
