#!/usr/bin/env python3
"""configs/quickstart.yaml, which `make demo` runs: the sweep ends well, finds what is to be found, and wastes little on the rest.
Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sqlite3
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLEXP = os.environ.get("FLEXP_BIN", os.path.join(TOP, "build", "flexp"))


def run_demo(folder):
    env = dict(os.environ, FLEXP_HOME=os.path.join(folder, "results"))
    env.pop("FLEXP_DATA", None)
    try:
        done = subprocess.run([FLEXP, "create", "-f", "configs/quickstart.yaml"], cwd=TOP, env=env, capture_output=True,
                              stdin=subprocess.DEVNULL, text=True, timeout=600, check=False)
        describe = subprocess.run([FLEXP, "describe", "1", "--json"], env=env, capture_output=True, text=True, check=True)
        with open(os.path.join(env["FLEXP_HOME"], "experiments/1/trials",
                               str(json.loads(describe.stdout)["best_trial_id"]), "result_test.json"),
                  encoding="utf-8") as file:
            result = json.load(file)
        with sqlite3.connect(f"file:{env['FLEXP_HOME']}/flexp.db?mode=ro", uri=True) as db:
            last = dict(db.execute(
                "SELECT t.number, m.value FROM metrics m JOIN names n ON n.id = m.name JOIN trials t ON t.id = m.trial"
                " WHERE n.name = 'validation_accuracy' AND m.client = -1 AND m.value IS NOT NULL ORDER BY m.unit"))
        return done, json.loads(describe.stdout), result, last
    finally:
        subprocess.run([FLEXP, "down"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main():
    with tempfile.TemporaryDirectory() as folder:
        done, describe, result, last = run_demo(folder)
    best = describe["test_metrics"]["test_accuracy"]
    output = done.stdout
    tests = [
        ("the_demo_completes", done.returncode == 0 and describe["state"] == "completed", done.stderr[-500:]),
        ("it_has_16_trials_and_10_clients", describe["trials"]["total"] == 16
         and describe["config"]["federation"]["clients"] == 10, describe["trials"]),
        ("the_best_trial_passes_90_percent_on_test", best > 0.90, best),
        ("the_worst_is_at_least_20_points_lower", min(last.values()) <= describe["best_validation_metrics"]
         ["validation_accuracy"] - 0.20, last),
        ("at_least_8_trials_are_stopped_early", describe["trials"]["stopped"] >= 8, describe["trials"]),
        ("test_metrics_are_of_the_test_split", result["split"] == "test" and result["num_samples"] == 2000
         and abs(result["accuracy"] - best) < 1e-12, result["split"]),
        ("piped_output_is_plain_lines_that_end_with_the_best_trial_and_what_to_type_next",
         "\x1b" not in output and "\r" not in output and "Best trial 1/" in output and "flexp describe 1" in
         output.strip().splitlines()[-1], output[-500:]),
    ]
    print(f"# best {best:.3f} on test, trials {describe['trials']}")
    print(f"1..{len(tests)}")
    for number, (name, ok, shown) in enumerate(tests, 1):
        if not ok:
            print(f"# {shown}")
        print(f"{'ok' if ok else 'not ok'} {number} - {name}")
    return 0 if all(test[1] for test in tests) else 1


sys.exit(main())
