#!/usr/bin/env python3
"""Writes optimizers.txt and schedules.txt (PyTorch) and metrics.txt (scikit-learn) beside itself. Run once; the numbers are
committed, the tests read them and need neither library.

    python3 tests/golden/trainer/make_goldens.py
SPDX-License-Identifier: Apache-2.0
"""
import os
import random

import numpy
import sklearn
import sklearn.metrics
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
N, STEPS = 12, 6


def weight(i):
    return (i - 5) / 7


def gradient(i, t):
    return ((i * 7 + t * 3) % 11 - 5) / 9


def optimizers():
    cases = [
        ("sgd", dict(lr=0.1)), ("sgd", dict(lr=0.1, weight_decay=0.01)), ("sgd", dict(lr=0.05, momentum=0.9)),
        ("sgd", dict(lr=0.05, momentum=0.9, weight_decay=0.01)), ("sgd", dict(lr=0.05, momentum=0.9, nesterov=True)),
        ("sgd", dict(lr=0.05, momentum=0.5, weight_decay=0.1, nesterov=True)), ("adam", dict(lr=0.01)),
        ("adam", dict(lr=0.01, weight_decay=0.1)), ("adam", dict(lr=0.1, betas=(0.8, 0.99), eps=1e-3)),
        ("adamw", dict(lr=0.01, weight_decay=0.1)), ("adamw", dict(lr=0.1, betas=(0.5, 0.9), weight_decay=0.01)),
    ]
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    with open(os.path.join(HERE, "optimizers.txt"), "w") as out:
        out.write(f"# PyTorch {torch.__version__.split('+')[0]}: name lr momentum weight_decay nesterov beta1 beta2 eps, then "
                  f"{N} weights after each of {STEPS} steps\n# w[i] = (i - 5) / 7; at step t = 0.. g[i] = ((7 i + 3 t) mod 11 - 5) / 9\n")
        for name, settings in cases:
            if name != "sgd":
                settings.setdefault("weight_decay", 0)
            w = torch.tensor([weight(i) for i in range(N)], requires_grad=True)
            optimizer = make[name]([w], foreach=False, **settings)
            b1, b2 = settings.get("betas", (0.9, 0.999))
            out.write(f"case {name} {settings['lr']} {settings.get('momentum', 0)} {settings.get('weight_decay', 0)} "
                      f"{int(settings.get('nesterov', False))} {b1} {b2} {settings.get('eps', 1e-8)}\n")
            for t in range(STEPS):
                w.grad = torch.tensor([gradient(i, t) for i in range(N)])
                optimizer.step()
                out.write(" ".join(f"{v:.9g}" for v in w.detach().tolist()) + "\n")


def schedules():
    """Without warm-up, PyTorch's schedulers stepped once a unit."""
    w = torch.nn.Parameter(torch.zeros(1))
    cases = [
        ("constant 0.1 10 0.1 0.99 0 40", lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
        ("step 0.1 10 0.1 0.99 0 40", lambda o: torch.optim.lr_scheduler.StepLR(o, 10, 0.1)),
        ("step 0.2 3 0.5 0.99 0 40", lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5)),
        ("exponential 0.1 10 0.1 0.9 0 40", lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
        ("cosine 0.1 10 0.1 0.99 0 40", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40)),
        ("cosine 0.4 10 0.1 0.99 0.25 40", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.1)),
    ]
    with open(os.path.join(HERE, "schedules.txt"), "w") as out:
        out.write(f"# PyTorch {torch.__version__.split('+')[0]}: type base every factor decay final_fraction length, then the rate at "
                  "units 0 .. 39\n")
        for text, make in cases:
            optimizer = torch.optim.SGD([w], lr=float(text.split()[1]))
            scheduler = make(optimizer)
            rates = []
            for _ in range(40):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            out.write(f"case {text}\n" + " ".join(f"{r:.12g}" for r in rates) + "\n")


def metrics():
    rng = random.Random(1)
    with open(os.path.join(HERE, "metrics.txt"), "w") as out:
        out.write(f"# scikit-learn {sklearn.__version__}, macro over the labels that occur, zero_division=0: classes n, labels, "
                  "predictions, then accuracy f1 precision recall\n")
        for classes, n, occurring, predicted in [(2, 30, 2, 2), (10, 200, 10, 10), (10, 40, 10, 10), (10, 60, 4, 10),
                                                 (10, 60, 10, 3), (5, 1, 5, 5), (3, 20, 1, 3), (7, 50, 3, 1)]:
            y = [rng.randrange(occurring) for _ in range(n)]
            p = [label if rng.random() < 0.5 and label < predicted else rng.randrange(predicted) for label in y]
            p_, r_, f_, _ = sklearn.metrics.precision_recall_fscore_support(y, p, labels=sorted(set(y)), average="macro",
                                                                           zero_division=0)
            out.write(f"case {classes} {n}\n" + " ".join(map(str, y)) + "\n" + " ".join(map(str, p)) + "\n")
            out.write(f"{numpy.mean(numpy.array(y) == numpy.array(p)):.15g} {f_:.15g} {p_:.15g} {r_:.15g}\n")


optimizers()
schedules()
metrics()
