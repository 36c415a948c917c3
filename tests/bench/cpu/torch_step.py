#!/usr/bin/env python3
"""The peer of step.c: the same training steps in PyTorch, as fast as we know how to have it.

    torch_step.py serve  REQUEST      a line when it is ready, then one for each line `run SECONDS` of standard input
    torch_step.py losses REQUEST      the losses of consecutive batches in order, from flexp's starting weights
    torch_step.py accuracy REQUEST    test accuracy after {"epochs"} from {"seed"}; "data" is a CIFAR-10 folder there

REQUEST is a file of JSON: {"layers", "data" (file of `step data`), "data_shape" (what that printed), "batch", "cores",
"threads", "augment", "training": {learning_rate, momentum}, "candidates": [[eager or compile, contiguous or channels_last],
...], "seconds", "clock" (seconds or cpu_seconds), and for losses "weights", "params", "steps"}. serve tries every candidate
and goes on with the fastest; one that does not work here (torch.compile wants a C++ compiler) is told of and left out.

What is done for PyTorch's speed: denormals flushed, malloc told to keep its memory (compare.py sets the environment), as
many threads as cores, no DataLoader, ReLU in place, gradients set to None, the fused form of the optimizer, no .item() in the
loop, torch.compile with static shapes over forward and loss. Augmentation is one gather per batch from an array of padded
images and their mirror images, with an epoch's random numbers drawn at once; normalisation is one multiply-add in the
network's memory format. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys
import time


def limit_to(cores):
    """Before torch is imported: its libraries count cores when they are loaded."""
    if cores and min(cores) >= 0:
        os.sched_setaffinity(0, cores)


REQUEST = {}
if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as request_file:
        REQUEST = json.load(request_file)
    limit_to(REQUEST.get("cores"))

import numpy  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import nets  # noqa: E402

PADDING = 4


def say(**answer):
    print(json.dumps(answer), flush=True)


def read_data(path, shape, split="train"):
    """(uint8 images in NHWC, int64 labels) of a file that `step data` wrote."""
    size = int(numpy.prod(shape["shape"]))
    raw = numpy.fromfile(path, "uint8")
    first = 0 if split == "train" else shape["train"] * (size + 1)
    n = shape[split]
    images = raw[first:first + n * size].reshape(n, *shape["shape"])
    labels = raw[first + n * size:first + n * (size + 1)].astype("int64")
    return images, labels


class Batches:
    """uint8 images in memory to normalised, augmented batches: an endless stream of shuffled epochs."""

    def __init__(self, images, labels, mean, std, batch, augment, channels_last, seed=1):
        n, height, width, channels = images.shape
        pad = PADDING if augment else 0
        self.n, self.batch, self.augment = n, batch, augment
        self.draw = numpy.random.default_rng(seed)
        self.labels = torch.from_numpy(labels)
        padded = numpy.zeros((n, 2 if augment else 1, height + 2 * pad, width + 2 * pad, channels), "uint8")
        padded[:, 0, pad:pad + height, pad:pad + width] = images
        if augment:
            padded[:, 1, pad:pad + height, pad:pad + width] = images[:, :, ::-1]
        self.channels_last = channels_last
        scale, shift = 1 / (255 * numpy.asarray(std)), -numpy.asarray(mean) / numpy.asarray(std)
        plane = numpy.ones((height, width, channels))
        factors = [(plane * value).astype("float32") for value in (scale, shift)]
        if channels_last:
            windows = numpy.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
            self.windows = windows.transpose(0, 1, 2, 3, 5, 6, 4)  # n, flip, dy, dx, height, width, channels
        else:
            padded = numpy.ascontiguousarray(padded.transpose(0, 1, 4, 2, 3))
            windows = numpy.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(3, 4))
            self.windows = windows.transpose(0, 1, 3, 4, 2, 5, 6)  # n, flip, dy, dx, channels, height, width
            factors = [numpy.ascontiguousarray(factor.transpose(2, 0, 1)) for factor in factors]
        self.scale, self.shift = map(torch.from_numpy, factors)
        self.at = self.n

    def next(self):
        if self.at + self.batch > self.n:
            order = self.draw.permutation(self.n)
            turns = 2 * PADDING + 1
            zero = numpy.zeros(self.n, "int64")
            drawn = (self.draw.integers(0, 2, self.n), self.draw.integers(0, turns, self.n),
                     self.draw.integers(0, turns, self.n)) if self.augment else (zero, zero, zero)
            self.index, self.at = (order, *drawn), 0
            self.order = torch.from_numpy(order)
        part = slice(self.at, self.at + self.batch)
        self.at += self.batch
        pixels = torch.from_numpy(self.windows[tuple(axis[part] for axis in self.index)])
        x = torch.addcmul(self.shift, pixels.to(torch.float32), self.scale)
        return (x.permute(0, 3, 1, 2) if self.channels_last else x), self.labels[self.order[part]]


def optimizer_of(net, training):
    return torch.optim.SGD(net.parameters(), training["learning_rate"], training.get("momentum", 0), fused=True)


class Trainer:
    def __init__(self, request, mode, memory_format):
        shape = request["data_shape"]
        height, width, channels = shape["shape"]
        torch.manual_seed(1)
        channels_last = memory_format == "channels_last"
        net = nets.torch_net(torch, request["layers"], (channels, height, width), request.get("classes", 10)).train()
        if channels_last:
            net = net.to(memory_format=torch.channels_last)
        images, labels = read_data(request["data"], shape)
        self.batches = Batches(images, labels, shape["mean"], shape["std"], request["batch"], request["augment"], channels_last)
        self.optimizer = optimizer_of(net, request["training"])
        self.total = torch.zeros(())
        self.batch = request["batch"]

        def loss_of(x, y):
            return torch.nn.functional.cross_entropy(net(x), y)

        self.loss_of = torch.compile(loss_of, dynamic=False) if mode == "compile" else loss_of

    def step(self):
        x, y = self.batches.next()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(x, y)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def run(self, seconds):
        steps, began, cpu_began = 0, time.perf_counter(), time.process_time()
        while True:
            self.step()
            steps += 1
            took = time.perf_counter() - began
            if took >= seconds:
                return {"images": steps * self.batch, "seconds": took, "cpu_seconds": time.process_time() - cpu_began}


def choose(request):
    """The fastest candidate, tried in turns so that a neighbour's noise hits all alike."""
    trainers, rates, failed = {}, {}, {}
    for mode, memory_format in request["candidates"]:
        name = f"{mode}, {memory_format}"
        try:
            trainer = Trainer(request, mode, memory_format)
            for _ in range(3):
                trainer.step()
            trainers[name], rates[name] = trainer, []
        except Exception as why:  # pylint: disable=broad-except  # whatever torch.compile raises where it cannot work
            failed[name] = str(why).strip().splitlines()[0][:200] if str(why).strip() else type(why).__name__
    if len(trainers) > 1:
        for _ in range(3):
            for name, trainer in trainers.items():
                took = trainer.run(request["seconds"])
                rates[name].append(took["images"] / took[request.get("clock", "seconds")])
    best = max(trainers, key=lambda name: sorted(rates[name])[len(rates[name]) // 2] if rates[name] else 0)
    return best, trainers[best], {name: sorted(rate)[len(rate) // 2] if rate else None for name, rate in rates.items()}, failed


def serve(request):
    name, trainer, rates, failed = choose(request)
    say(torch=torch.__version__, candidate=name, rates=rates, failed=failed, threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability())
    for line in sys.stdin:
        say(**trainer.run(float(line.split()[1])))


def curve(request, memory_format, off):
    shape = request["data_shape"]
    height, width, channels = shape["shape"]
    net = nets.torch_net(torch, request["layers"], (channels, height, width), request.get("classes", 10)).train()
    weights = numpy.fromfile(request["weights"], "float32")
    weights *= (1 + numpy.random.default_rng(1).uniform(-off, off, weights.size)).astype("float32")
    nets.load_weights(torch, net, request["params"], weights)
    net = net.to(memory_format=memory_format)
    images, labels = read_data(request["data"], shape)
    x = torch.from_numpy(images.astype("float32") / 255)
    x = ((x - torch.tensor(shape["mean"])) / torch.tensor(shape["std"])).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=memory_format)
    y = torch.from_numpy(labels)
    optimizer = optimizer_of(net, request["training"])
    batch, found = request["batch"], []
    whole = shape["train"] // batch * batch
    for step in range(request["steps"]):
        first = step * batch % whole
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(x[first:first + batch]), y[first:first + batch])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def losses(request):
    """And once more in the other memory format, from weights that are off by a rounding: how far two runs in fp32 part that
    are both right."""
    say(losses=curve(request, torch.contiguous_format, 0), again=curve(request, torch.channels_last, 6e-8))


def read_cifar(folder, names):
    records = numpy.concatenate([numpy.fromfile(os.path.join(folder, name), "uint8").reshape(-1, 3073) for name in names])
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0].astype("int64")


def he_uniform(net):
    """As flexp starts: He et al. 2015, biases zero."""
    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


def accuracy(request):
    images, labels = read_cifar(request["data"], [f"data_batch_{i}.bin" for i in range(1, 6)])
    test_images, test_labels = read_cifar(request["data"], ["test_batch.bin"])
    mean, std = (images / 255).mean((0, 1, 2)), (images / 255).std((0, 1, 2))
    torch.manual_seed(request["seed"])
    net = nets.torch_net(torch, request["layers"], (3, 32, 32), 10).train().to(memory_format=torch.channels_last)
    he_uniform(net)
    batches = Batches(images, labels, mean, std, request["batch"], request["augment"], True, request["seed"])
    optimizer = optimizer_of(net, request["training"])
    for _ in range(request["epochs"] * (len(images) // request["batch"])):
        x, y = batches.next()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.eval()
    right = 0
    with torch.no_grad():
        for at in range(0, len(test_images), 100):
            x = ((test_images[at:at + 100] / 255 - mean) / std).astype("float32")
            found = net(torch.from_numpy(x).permute(0, 3, 1, 2)).argmax(1).numpy()
            right += int((found == test_labels[at:at + 100]).sum())
    say(accuracy=right / len(test_images))


def main():
    torch.set_num_threads(REQUEST.get("threads", 1))
    torch.set_flush_denormal(True)
    {"serve": serve, "losses": losses, "accuracy": accuracy}[sys.argv[1]](REQUEST)


if __name__ == "__main__":
    main()
