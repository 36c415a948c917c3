#!/usr/bin/env python3
"""flexp's CUDA backend beside PyTorch on one machine, in one run.

compare.py [--trainer build/flexp-trainer] [--json FILE] [--quick] [--pfl-rounds N]

Prints a row for each (network, precision): images/s of PyTorch eager and of torch.compile with CUDA graphs, of flexp with one
model and with 16 packed, and the ratios; then the federated benchmark of 1,500 rounds beside a plain PyTorch loop, client
after client, timed over N rounds. PyTorch has its data on the GPU as uint8 and gathers and normalises there, without
augmentation (which flexp does); channels-last; medians of several repeats after warm-up, by CUDA events.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

BATCH = 64


def bench_cnn(nn):
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10))


def seed_cnn(nn):
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(), nn.Linear(64 * 16 * 16, 128), nn.ReLU(),
                         nn.Dropout(0.5), nn.Linear(128, 10))


def pfl_cnn(nn):
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
                         nn.Flatten(), nn.Linear(64 * 14 * 14, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))


class Torch:
    def __init__(self):
        import torch
        self.torch = torch
        self.images = torch.randint(0, 256, (50000, 3, 32, 32), dtype=torch.uint8, device="cuda")
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (50000,), device="cuda")

    def precision(self, name):
        self.torch.backends.cuda.matmul.allow_tf32 = self.torch.backends.cudnn.allow_tf32 = name == "tf32"
        self.torch.backends.cudnn.benchmark = True
        self.autocast = name == "bf16"

    def step_function(self, make, momentum, lr, compiled):
        torch = self.torch
        model = make(torch.nn).cuda().to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, foreach=True)

        def loss_of(index):
            x = self.images[index].float().div_(255).sub_(0.5).div_(0.25)
            with torch.autocast("cuda", torch.bfloat16, enabled=self.autocast):
                return torch.nn.functional.cross_entropy(model(x).float(), self.labels[index])

        if compiled:
            loss_of = torch.compile(loss_of, mode="reduce-overhead")

        def step(index):
            optimizer.zero_grad(set_to_none=True)
            loss_of(index).backward()
            optimizer.step()

        return model, step

    def images_per_second(self, make, precision, compiled, steps, repeats):
        torch = self.torch
        self.precision(precision)
        _, step = self.step_function(make, 0.9, 1e-3, compiled)
        indexes = [torch.randint(0, 50000, (BATCH,), device="cuda") for _ in range(steps)]
        times = []
        for repeat in range(repeats + 2):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for index in indexes:
                step(index)
            end.record()
            torch.cuda.synchronize()
            if repeat >= 2:
                times.append(begin.elapsed_time(end) / 1000)
        return BATCH * steps / statistics.median(times)

    def pfl_seconds(self, precision, rounds):
        """A plain loop: 50 clients of 50 images one after another, batches of 10, plain mean; scaled to 1,500 rounds."""
        torch = self.torch
        self.precision(precision)
        model, step = self.step_function(pfl_cnn, 0, 0.1, False)
        weights = [p.detach().clone() for p in model.parameters()]
        began = 0
        for repeat in range(rounds + 1):
            if repeat == 1:
                torch.cuda.synchronize()
                began = time.monotonic()
            total = [torch.zeros_like(w) for w in weights]
            for client in torch.randint(0, 1000, (50,)).tolist():
                with torch.no_grad():
                    torch._foreach_copy_(list(model.parameters()), weights)
                order = torch.randperm(50, device="cuda") + 50 * client
                for i in range(0, 50, 10):
                    step(order[i:i + 10])
                with torch.no_grad():
                    torch._foreach_add_(total, list(model.parameters()), alpha=1 / 50)
            weights = total
        torch.cuda.synchronize()
        return (time.monotonic() - began) / rounds * 1500


def flexp_rows(trainer, quick):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "timings.json")
        subprocess.run([trainer, "selftest", "--backend", "cuda", "--no-checks", "--quick-bench" if quick else "--bench",
                        "--json", path], check=True)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--trainer", default=os.path.join("build", "flexp-trainer"))
    options.add_argument("--json")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--pfl-rounds", type=int, default=3)
    options = options.parse_args()
    ours = flexp_rows(options.trainer, options.quick)
    timings, theirs = ours["timings"], {}
    torch = Torch()
    steps, repeats = (50, 3) if options.quick else (200, 7)
    print(f"\n{ours['gpu']}, {ours['isa']}, PyTorch {torch.torch.__version__}, images/s, batch {BATCH}")
    print(f"{'':24}{'eager':>12}{'compile':>12}{'flexp':>12}{'/eager':>8}{'/compile':>10}{'flexp x16':>12}{'x16/x1':>8}")
    for name, make in (("bench_cnn", bench_cnn), ("seed_cnn", seed_cnn)):
        for precision in ("fp32", "tf32", "bf16"):
            eager = torch.images_per_second(make, precision, False, steps, repeats)
            try:
                compiled = torch.images_per_second(make, precision, True, steps, repeats)
            except Exception as why:  # no compiler on the machine, say: the row has eager alone
                print(f"# torch.compile: {str(why).splitlines()[0][:100]}", file=sys.stderr)
                compiled = float("nan")
            theirs[f"{name} {precision}"] = {"eager": eager, "compile": compiled}
            one = timings.get(f"{name} {precision} batch {BATCH} replicas 1, images/s", float("nan"))
            many = timings.get(f"{name} {precision} batch {BATCH} replicas 16, images/s", float("nan"))
            print(f"{name + ' ' + precision:24}{eager:12.0f}{compiled:12.0f}{one:12.0f}{one / eager:8.2f}{one / compiled:10.2f}"
                  f"{many:12.0f}{many / one:8.2f}", flush=True)
    for precision in ("fp32", "tf32", "bf16"):
        loop = torch.pfl_seconds(precision, options.pfl_rounds)
        theirs[f"pfl loop {precision}"] = loop
        rounds = 30 if options.quick else 1500
        mine = timings.get(f"pfl-research's benchmark {precision}, {rounds} rounds, s", float("nan")) * 1500 / rounds
        print(f"federated, 1,500 rounds, {precision}: plain PyTorch loop {loop:.1f} s (from {options.pfl_rounds} rounds), "
              f"flexp {mine:.2f} s, {loop / mine:.1f} times")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"flexp": ours, "pytorch": theirs, "pytorch_version": torch.torch.__version__}, out, indent=1)


if __name__ == "__main__":
    main()
