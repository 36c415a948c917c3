"""PyTorch's side of compare.py: training steps of one model, and the federated benchmark client after client.

Data are on the GPU as uint8; batches are gathered and normalised there, without augmentation (which flexp does); networks
and images channels-last. SPDX-License-Identifier: Apache-2.0
"""
import statistics
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
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
                        nn.Flatten(), nn.Linear(64 * 14 * 14, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    for module in net:
        if hasattr(module, "weight"):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return net


NETS = {"bench_cnn": bench_cnn, "seed_cnn": seed_cnn}


class Torch:
    def __init__(self, device="cuda"):
        import torch
        self.torch, self.device = torch, torch.device(device)
        images = torch.randint(0, 256, (50000, 3, 32, 32), dtype=torch.uint8)
        self.use((images, torch.randint(0, 10, (50000,))))

    def use(self, *splits):
        """Training and test split: images (n x 3 x 32 x 32, uint8) and labels."""
        torch = self.torch
        self.splits = [(images.to(self.device).contiguous(memory_format=torch.channels_last), labels.to(self.device))
                       for images, labels in splits]
        values = [chunk.float() / 255 for chunk in self.splits[0][0].split(5000)]
        mean = torch.stack([chunk.mean((0, 2, 3)) for chunk in values]).mean(0)
        square = torch.stack([(chunk ** 2).mean((0, 2, 3)) for chunk in values]).mean(0)
        self.mean, self.deviation = (value.view(1, 3, 1, 1) for value in (mean, (square - mean ** 2).sqrt()))

    def precision(self, name):
        torch = self.torch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        torch.backends.cudnn.benchmark = True
        self.autocast = name == "bf16"

    def wait(self):
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def logits(self, model, split, index):
        torch = self.torch
        x = (self.splits[split][0][index].float().div_(255) - self.mean) / self.deviation
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return model(x).float()

    def make(self, net):
        return net(self.torch.nn).to(self.device).to(memory_format=self.torch.channels_last)

    def step_function(self, model, momentum, lr, compiled):
        torch = self.torch
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, foreach=True)

        def loss_of(index):
            return torch.nn.functional.cross_entropy(self.logits(model, 0, index), self.splits[0][1][index])

        if compiled:
            loss_of = torch.compile(loss_of, mode="reduce-overhead")

        def step(index):
            optimizer.zero_grad(set_to_none=True)
            loss_of(index).backward()
            optimizer.step()

        return step

    def images_per_second(self, net, precision, compiled, steps, repeats):
        torch = self.torch
        self.precision(precision)
        step = self.step_function(self.make(net), 0.9, 1e-3, compiled)
        indexes = [torch.randint(0, 50000, (BATCH,), device=self.device) for _ in range(steps)]
        times = []
        for repeat in range(repeats + 2):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for index in indexes:
                step(index)
            end.record()
            self.wait()
            if repeat >= 2:
                times.append(begin.elapsed_time(end) / 1000)
        return BATCH * steps / statistics.median(times)

    def captured(self, step, index):
        """The step as a CUDA graph that reads `index`; on another device the step itself."""
        torch = self.torch
        if self.device.type != "cuda":
            return lambda: step(index)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(index)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(index)
        return graph.replay

    def federated(self, precision, rounds, seed, setting, captured):
        """A loop over clients: seconds, counts of steps and evaluations, final accuracy (None where there is no test split).
        captured: a step is a CUDA graph, so that many rounds end in time; else it is the plain loop."""
        torch = self.torch
        torch.manual_seed(seed)
        self.precision(precision)
        model = self.make(pfl_cnn)
        first = weights = [p.detach().clone() for p in model.parameters()]
        batch, own = setting.batch, setting.images
        index = torch.arange(batch, device=self.device)
        step = self.step_function(model, 0, setting.learning_rate, False)
        one = self.captured(step, index) if captured else None
        order = torch.randperm(len(self.splits[0][1]), device=self.device)
        steps = evaluations = 0
        accuracy = began = None
        for number in range(rounds + 1):  # the first warms up, and is undone
            if number == 1:
                self.wait()
                began, steps, evaluations = time.monotonic(), 0, 0
                weights = first
            total = [torch.zeros_like(w) for w in weights]
            for client in torch.randperm(setting.clients)[:setting.cohort].tolist():
                with torch.no_grad():
                    torch._foreach_copy_(list(model.parameters()), weights)
                mine = order[client * own:(client + 1) * own][torch.randperm(own, device=self.device)]
                for at in range(0, own, batch):
                    if captured:
                        index.copy_(mine[at:at + batch])
                        one()
                    else:
                        step(mine[at:at + batch])
                    steps += 1
                with torch.no_grad():
                    torch._foreach_add_(total, list(model.parameters()), alpha=1 / setting.cohort)
            weights = total
            if number % setting.evaluate_every == 0 and len(self.splits) > 1:
                accuracy = self.accuracy(model, weights)
                evaluations += 1
        self.wait()
        return {"seconds": time.monotonic() - began, "steps": steps, "evaluations": evaluations, "accuracy": accuracy}

    def accuracy(self, model, weights):
        torch = self.torch
        labels = self.splits[1][1]
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), weights)
            model.eval()
            right = sum(int((self.logits(model, 1, index).argmax(1) == labels[index]).sum())
                        for index in torch.arange(len(labels), device=self.device).split(1000))
            model.train()
        return right / len(labels)
