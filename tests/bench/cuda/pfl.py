"""pfl-research's CIFAR-10 benchmark (arXiv 2404.06430): 1,000 clients of 50 images, cohorts of 50, one local epoch in batches
of 10, SGD 0.1, plain mean, central evaluation on the test split every 10 rounds, 1,500 rounds. By flexp as a user runs it, and
by pfl-research itself. SPDX-License-Identifier: Apache-2.0
"""
import dataclasses
import json
import os
import pickle
import re
import sqlite3
import subprocess
import sys
import time


@dataclasses.dataclass
class Setting:
    clients: int = 1000
    images: int = 50
    cohort: int = 50
    batch: int = 10
    learning_rate: float = 0.1
    evaluate_every: int = 10
    rounds: int = 1500


class Failed(Exception):
    pass


def experiment(setting, data, precision, seed, slot_type):
    return {"name": f"pfl-{precision}-{seed}", "reproducibility": {"experiment_seed": seed},
            "searcher": {"name": "single", "metric": "validation_accuracy", "time_metric": "rounds", "max_time": setting.rounds},
            "resources": {"slots_per_trial": 1, "slot_type": slot_type},
            "data": {"source": "cifar10", "path": data, "validation": "official_test"},
            "model": {"preset": "pfl_cnn"},
            "training": {"optimizer": "sgd", "learning_rate": setting.learning_rate, "batch_size": setting.batch,
                         "precision": precision, "validation_period": setting.evaluate_every},
            "federation": {"clients": setting.clients, "clients_per_round": setting.cohort, "local_epochs": 1,
                           "partition": "iid", "client_validation_fraction": 0,
                           "strategy": {"name": "fedavg", "weighting": "uniform"}}}


def flexp_run(home, setting, data, precision, seed, slot_type="cuda"):
    """One experiment. Seconds: from the first round's report to the last, and of the whole run. Its counts are the trial's own."""
    path = home.write(f"pfl-{precision}-{seed}.yaml", json.dumps(experiment(setting, data, precision, seed, slot_type)))
    number = json.loads(home.flexp("create", path, "--json").stdout)["id"]
    home.flexp("wait", str(number), check=False)
    described = json.loads(home.flexp("describe", str(number), "--json").stdout)
    if described["state"] != "completed" or not described["top"]:
        raise Failed(f"flexp's experiment ended {described['state']}: {described.get('reason')}")
    with sqlite3.connect(f"file:{home.path}/flexp.db?mode=ro", uri=True) as store:
        steps, evaluations = store.execute(
            "SELECT max(batches), count(*) FILTER (WHERE kind = 'validation') FROM v_reports WHERE experiment = ?",
            (number,)).fetchone()
        rounds = store.execute("SELECT max(epoch_seconds) - min(epoch_seconds) FROM v_metrics WHERE experiment = ?",
                               (number,)).fetchone()[0]
        whole = store.execute("SELECT sum(seconds) FROM v_runs WHERE experiment = ?", (number,)).fetchone()[0]
    return {"seconds": rounds, "run_seconds": whole, "steps": steps, "evaluations": evaluations,
            "accuracy": described["top"][0]["latest_metric"]}


# pfl-research

def write_pickles(folder, train, test):
    for name, (images, labels) in (("train", train), ("test", test)):
        with open(os.path.join(folder, f"cifar10_{name}.p"), "wb") as out:
            pickle.dump((images.permute(0, 2, 3, 1).numpy(), labels.numpy().reshape(-1, 1)), out)


def why_not(checkout):
    if not checkout:
        return "no --pfl-research: a checkout of github.com/apple/pfl-research"
    if not os.path.exists(os.path.join(checkout, "benchmarks/image_classification/pytorch/train.py")):
        return f"{checkout} has no benchmarks/image_classification/pytorch/train.py"
    done = subprocess.run([sys.executable, "-c", "import pfl, pfl.model.pytorch"], cwd=checkout, capture_output=True, text=True,
                          check=False, env=dict(os.environ, PYTHONPATH=checkout))
    return f"it cannot be imported: {done.stderr.strip().splitlines()[-1]}" if done.returncode else None


def run_rounds(checkout, data, processes, rounds):
    """Seconds of a whole run of so many rounds."""
    benchmarks = os.path.join(checkout, "benchmarks")
    with open(os.path.join(benchmarks, "image_classification/configs/baseline.yaml"), encoding="utf-8") as file:
        config = file.read()
    for key, value in (("data_path", data), ("central_num_iterations", rounds)):
        config, found = re.subn(rf"(?m)^{key}:.*$", f"{key}: {value}", config)
        if found != 1:
            raise Failed(f"pfl-research's baseline.yaml has no single {key}")
    path = os.path.join(data, f"{processes}-{rounds}.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(config)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1",
                           f"--nproc_per_node={processes}", os.path.join(benchmarks, "image_classification/pytorch/train.py"),
                           "--args_config", path], cwd=data, capture_output=True, text=True, check=False,
                          env=dict(os.environ, PYTHONPATH=f"{benchmarks}:{checkout}"))
    if done.returncode:
        raise Failed(f"pfl-research with {processes} processes: {done.stderr.strip()[-400:]}")
    return time.monotonic() - began


def research_seconds(checkout, data, setting, rounds, counts=(1, 2, 5)):
    """By number of processes: seconds for all rounds, from the difference of a long and a short run, so that start-up and
    the reading of data are no part of it."""
    times = {}
    for processes in counts:
        short = run_rounds(checkout, data, processes, setting.evaluate_every)
        long = run_rounds(checkout, data, processes, setting.evaluate_every + rounds)
        times[processes] = (long - short) / rounds * setting.rounds
    return times
