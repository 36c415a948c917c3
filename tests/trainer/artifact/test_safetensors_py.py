#!/usr/bin/env python3
"""The model.safetensors that an experiment leaves, opened by the format's own library: names, shapes, finite values.
Prints TAP.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
FLEXP = os.environ.get("FLEXP_BIN", os.path.join(TOP, "build", "flexp"))
CONFIG = """
name: tensors
hyperparameters: {}
searcher: {name: single, metric: validation_accuracy, max_length: {rounds: 2}}
data: {source: synthetic, synthetic: {samples: 300, test_samples: 60, classes: 4, channels: 3, size: 12}}
model:
  layers:
    - conv2d: {filters: 6, kernel: 3, padding: same}
    - batch_norm
    - relu
    - max_pool2d: 2
    - flatten
    - dense: {units: 5, activation: relu}
    - dense: {units: classes}
training: {learning_rate: 0.05, batch_size: 16}
federation: {clients: 3, clients_per_round: 2, local_epochs: 1}
"""
# Index of the layer, as PyTorch's nn.Sequential has it: an activation beside a layer's units is a layer of its own there.
SHAPES = {
    "0.weight": [6, 3, 3, 3], "0.bias": [6],
    "1.weight": [6], "1.bias": [6], "1.running_mean": [6], "1.running_var": [6],
    "5.weight": [5, 6 * 6 * 6], "5.bias": [5],
    "7.weight": [4, 5], "7.bias": [4],
}


def skip(name, reason):
    print(f"1..1\nok 1 - {name} # SKIP {reason}")
    sys.exit(0)


def train(folder):
    env = dict(os.environ, FLEXP_HOME=os.path.join(folder, "results"))
    env.pop("FLEXP_DATA", None)
    config = os.path.join(folder, "tensors.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG)
    try:
        done = subprocess.run([FLEXP, "create", "-f", config], cwd=folder, env=env, capture_output=True,
                              stdin=subprocess.DEVNULL, text=True, timeout=300, check=False)
    finally:
        subprocess.run([FLEXP, "down"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise AssertionError(f"flexp create ended with {done.returncode}: {(done.stdout + done.stderr)[-800:]}")
    return os.path.join(env["FLEXP_HOME"], "experiments", "1", "trials", "1")


def main():
    try:
        import numpy
        from safetensors import safe_open
    except ImportError as error:
        skip("safetensors_opens_the_model", f"Python has no module {error.name}")
    with tempfile.TemporaryDirectory() as folder:
        trial = train(folder)
        with safe_open(os.path.join(trial, "model.safetensors"), framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        with open(os.path.join(trial, "result.json"), encoding="utf-8") as file:
            result = json.load(file)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    floats = [tensor for tensor in tensors.values() if tensor.dtype.kind == "f"]
    tests = [
        ("tensors_have_the_names_and_shapes_that_pytorch_gives_them", shapes == SHAPES, shapes),
        ("weights_are_float32_and_finite",
         len(floats) == len(SHAPES) and all(t.dtype == numpy.float32 and numpy.isfinite(t).all() for t in floats),
         {name: str(t.dtype) for name, t in tensors.items()}),
        ("weights_were_trained", all(numpy.abs(tensors[name]).max() > 0 for name in SHAPES if "weight" in name)
         and numpy.abs(tensors["1.running_mean"]).max() > 0 and (tensors["1.running_var"] > 0).all(), ""),
        ("metadata_are_strings", all(isinstance(value, str) for value in metadata.values()), metadata),
        ("result_json_names_the_file", "model.safetensors" in json.dumps(result), result),
    ]
    print(f"1..{len(tests)}")
    for number, (name, ok, shown) in enumerate(tests, 1):
        if not ok:
            print(f"# {shown}")
        print(f"{'ok' if ok else 'not ok'} {number} - {name}")
    return 0 if all(test[1] for test in tests) else 1


sys.exit(main())
