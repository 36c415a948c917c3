#!/usr/bin/env python3
"""Does it learn as well? Test accuracy after some epochs over some seeds: flexp, as a user runs it, and PyTorch.

    tests/bench/cpu/accuracy.py --data ARCHIVE [--seeds 5] [--epochs 10] [--images 10000] [--net bench_cnn]

ARCHIVE holds pictures as {train,test}/CLASS/NAME (source images), or is CIFAR-10's binary version with --source cifar10. All
sides train on the first --images of its training split, in an order drawn once, and are tested on as many as --test-images
of its test split, with the same pixels: they are written as one CIFAR-10 folder of binary batches. Crop with a border of 4 and
flip, SGD with momentum, He-uniform start, batch 32. flexp is run for each training.precision that it knows.

Two means that differ by less than two standard errors of the difference are called equal; MISS where flexp's is lower than
that. Takes minutes: each run has one core. Writes build/bench/accuracy.json. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import concurrent.futures
import json
import math
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import compare  # noqa: E402
import nets  # noqa: E402

FLEXP = os.environ.get("FLEXP_BIN", os.path.join(compare.TOP, "build/flexp"))
TRAINING = {"learning_rate": 0.01, "momentum": 0.9, "batch_size": 32}
PRECISIONS = ("fp32", "fp32_strict")
BATCH_FILES = [f"data_batch_{i}.bin" for i in range(1, 6)]


def prepare(options, scratch):
    """A folder of CIFAR-10's binary version, holding the images that all train on and are tested on."""
    import numpy
    if not os.path.exists(options.data):
        sys.exit(f"accuracy.py: {options.data}: no such file")
    request, raw = os.path.join(scratch, "request.json"), os.path.join(scratch, "raw")
    with open(request, "w", encoding="utf-8") as file:
        json.dump({"sections": {"data": {"source": options.source, "path": os.path.abspath(options.data)},
                                "model": {"layers": nets.LAYERS[options.net]}, "training": TRAINING},
                   "batch": 32, "cores": [-1], "cache": os.path.join(compare.FOLDER, "cache")}, file)
    shape = json.loads(compare.Bench.step("data", request, raw))
    values = numpy.fromfile(raw, "uint8")
    os.unlink(raw)
    size, draw, at, parts = math.prod(shape["shape"]), numpy.random.default_rng(1), 0, {}
    for split, wanted in (("train", options.images), ("test", options.test_images)):
        n = shape[split]
        images, labels = values[at:at + n * size].reshape(n, *shape["shape"]), values[at + n * size:at + n * (size + 1)]
        at += n * (size + 1)
        chosen = draw.permutation(n)[:wanted]
        planes = images[chosen].transpose(0, 3, 1, 2).reshape(len(chosen), -1)
        parts[split] = numpy.concatenate([labels[chosen][:, None], planes], axis=1)
    folder = os.path.join(scratch, "cifar")
    os.mkdir(folder)
    for name, part in zip(BATCH_FILES, numpy.array_split(parts["train"], len(BATCH_FILES))):
        part.tofile(os.path.join(folder, name))
    parts["test"].tofile(os.path.join(folder, "test_batch.bin"))
    return folder, {split: len(part) for split, part in parts.items()}


# flexp

class Flexp:
    def __init__(self, scratch, cores):
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("FLEXP_")}
        self.env.update(FLEXP_HOME=os.path.join(scratch, "home"), FLEXP_LEASES=os.path.join(scratch, "leases"),
                        FLEXP_CORES=str(cores))
        self.scratch = scratch

    def __call__(self, *arguments):
        done = subprocess.run([FLEXP, *arguments], env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise compare.Failed(f"flexp {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def precisions(self):
        words = self("explain", "training.precision").replace(",", " ").split()
        return [precision for precision in PRECISIONS if precision in words]

    def run(self, options, data, precision):
        """Final test accuracy of each seed: one experiment each, as many at once as there are cores."""
        started = []
        for seed in range(1, options.seeds + 1):
            path = os.path.join(self.scratch, f"{precision}-{seed}.yaml")
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"name": f"accuracy-{precision}-{seed}", "reproducibility": {"experiment_seed": seed},
                           "searcher": {"name": "single", "metric": "validation_accuracy", "time_metric": "rounds",
                                        "max_time": options.epochs},
                           "data": {"source": "cifar10", "path": data, "validation": "official_test",
                                    "augment": {"random_crop": 4, "horizontal_flip": True}},
                           "model": {"layers": nets.LAYERS[options.net], "init": "he_uniform"},
                           "training": dict(TRAINING, precision=precision)}, file)
            started.append(json.loads(self("create", path, "--json"))["id"])
        found = []
        for number in started:
            self("wait", str(number))
            trial = json.loads(self("describe", str(number), "--json"))["top"][0]
            found.append(trial["latest_metric"])
        return found


# PyTorch

def run_torch(options, data, scratch, python, env):
    cores = queue.Queue()
    for core in compare.cores_of_machine():
        cores.put(core)

    def one(seed):
        core = cores.get()
        try:
            path = os.path.join(scratch, f"torch-{seed}.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"layers": nets.LAYERS[options.net], "data": data, "batch": 32, "cores": [core], "threads": 1,
                           "augment": True, "training": TRAINING, "epochs": options.epochs, "seed": seed}, file)
            done = subprocess.run([python, os.path.join(HERE, "torch_step.py"), "accuracy", path], capture_output=True,
                                  text=True, check=False, env=dict(os.environ, **env))
            if done.returncode:
                raise compare.Failed(done.stderr.strip()[-500:])
            return json.loads(done.stdout)["accuracy"]
        finally:
            cores.put(core)

    with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
        return list(pool.map(one, range(1, options.seeds + 1)))


def mean_and_error(values):
    return statistics.mean(values), (statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--data", required=True, help="archive or folder of images")
    options.add_argument("--source", choices=["images", "cifar10"], default="images")
    options.add_argument("--net", choices=sorted(nets.LAYERS), default="bench_cnn")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--images", type=int, default=10000)
    options.add_argument("--test-images", type=int, default=10000)
    options = options.parse_args()
    os.makedirs(compare.FOLDER, exist_ok=True)
    python, version = compare.python_with_torch()
    results, failed = {}, 0
    with tempfile.TemporaryDirectory(dir=compare.FOLDER) as scratch:
        data, counts = prepare(options, scratch)
        flexp = Flexp(scratch, len(compare.cores_of_machine()))
        print(f"{options.net}, {counts['train']} images, {options.epochs} epochs, {options.seeds} seeds, "
              f"{counts['test']} test images; PyTorch {version}\n", flush=True)
        sides = [("PyTorch", lambda: run_torch(options, data, scratch, python, compare.PEER_ENV))]
        sides += [(f"flexp {precision}", lambda precision=precision: flexp.run(options, data, precision))
                  for precision in flexp.precisions()]
        try:
            for name, run in sides:
                began = time.monotonic()
                try:
                    values = run()
                except (compare.Failed, ValueError, KeyError) as why:
                    print(f"{name:<18} FAILED: {why}", flush=True)
                    failed += 1
                    continue
                mean, error = mean_and_error(values)
                line = f"{name:<18} {mean:.2%} +- {error:.2%}  ({', '.join(f'{value:.2%}' for value in values)})"
                for other, before in results.items():
                    apart = mean - before["mean"]
                    noise = 2 * math.hypot(error, before["error"])
                    word = "equal" if abs(apart) <= noise else "better" if apart > 0 else "worse  MISS"
                    line += f"; {apart:+.2%} from {other}, noise {noise:.2%}: {word}"
                results[name] = {"mean": mean, "error": error, "values": values, "seconds": time.monotonic() - began}
                print(f"{line}; {results[name]['seconds']:.0f} s", flush=True)
        finally:
            subprocess.run([FLEXP, "down"], env=flexp.env, capture_output=True, check=False)
            shutil.rmtree(os.path.join(scratch, "home"), ignore_errors=True)
    with open(os.path.join(compare.FOLDER, "accuracy.json"), "w", encoding="utf-8") as file:
        json.dump({"net": options.net, "counts": counts, "epochs": options.epochs, "torch": version, "sides": results}, file,
                  indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
