"""The networks that compare.py measures, as `model` sections of an experiment file, and the same ones in PyTorch.

SPDX-License-Identifier: Apache-2.0
"""


def conv(filters, kernel=3, padding="same", **more):
    return {"conv2d": dict(filters=filters, kernel=kernel, padding=padding, **more)}


RELU = {"activation": "relu"}
POOL = {"max_pool2d": 2}
LAST = {"dense": "classes"}


def dense(units):
    return {"dense": dict(units=units, **RELU)}


def basic_block(filters, stride, widens):
    """He et al. 2016, with group norm (Wu, He 2018) in place of batch norm: 32 groups."""
    norm = {"group_norm": 32}
    block = {"layers": [conv(filters, padding=1, stride=stride, bias=False), norm, "relu",
                        conv(filters, padding=1, bias=False), norm], "activation": "relu"}
    if widens:
        block["shortcut"] = [conv(filters, 1, "valid", stride=stride, bias=False), norm]
    return {"residual": block}


def resnet18():
    layers = [conv(64, padding=1, bias=False), {"group_norm": 32}, "relu"]
    for stage, filters in enumerate((64, 128, 256, 512)):
        layers += [basic_block(filters, 2 if stage else 1, stage > 0), basic_block(filters, 1, False)]
    return layers + ["global_avg_pool2d", LAST]


# The presets of the same names, spelled out.
LAYERS = {
    "bench_cnn": [conv(32, **RELU), POOL, conv(64, **RELU), POOL, "flatten", dense(128), LAST],
    "seed_cnn": [conv(32, **RELU), conv(64, **RELU), POOL, {"dropout": 0.25}, "flatten", dense(128), {"dropout": 0.5}, LAST],
    "pfl_cnn": [conv(32, 3, "valid", **RELU), conv(64, 3, "valid", **RELU), POOL, {"dropout": 0.25}, "flatten", dense(128),
                {"dropout": 0.5}, LAST],
    "lenet": [conv(6, 5, "valid", **RELU), POOL, conv(16, 5, "valid", **RELU), POOL, "flatten", dense(120), dense(84), LAST],
    "mcmahan_cnn": [conv(32, 5, **RELU), POOL, conv(64, 5, **RELU), POOL, "flatten", dense(512), LAST],
    "resnet18": resnet18(),
}


def without_dropout(layers):
    return [layer for layer in layers if not (isinstance(layer, dict) and "dropout" in layer)]


def split_layer(layer):
    name, spec = (layer, {}) if isinstance(layer, str) else next(iter(layer.items()))
    short = {"max_pool2d": "size", "dense": "units", "dropout": "rate", "group_norm": "groups"}
    return name, spec if isinstance(spec, dict) else {short[name]: spec}


def torch_net(torch, layers, shape, classes):
    """An nn.Module of these layers; its parameters stand in the order of flexp's. shape: channels, height, width."""
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self, branch, shortcut, relu):
            super().__init__()
            self.branch, self.shortcut, self.relu = branch, shortcut, relu

        def forward(self, x):
            y = self.branch(x) + (self.shortcut(x) if self.shortcut is not None else x)
            return torch.relu_(y) if self.relu else y

    def build(layers, shape):
        modules = []
        for layer in layers:
            name, spec = split_layer(layer)
            if name == "conv2d":
                kernel, stride, padding = spec["kernel"], spec.get("stride", 1), spec["padding"]
                pad = {"same": kernel // 2, "valid": 0}.get(padding, padding)
                modules.append(nn.Conv2d(shape[0], spec["filters"], kernel, stride, pad, bias=spec.get("bias", True)))
                shape = (spec["filters"], *((size + 2 * pad - kernel) // stride + 1 for size in shape[1:]))
            elif name == "max_pool2d":
                modules.append(nn.MaxPool2d(spec["size"]))
                shape = (shape[0], shape[1] // spec["size"], shape[2] // spec["size"])
            elif name == "group_norm":
                modules.append(nn.GroupNorm(spec["groups"], shape[0]))
            elif name == "dropout":
                modules.append(nn.Dropout(spec["rate"]))
            elif name == "relu":
                modules.append(nn.ReLU(inplace=True))
            elif name == "flatten":
                modules.append(nn.Flatten())
                shape = (shape[0] * shape[1] * shape[2],)
            elif name == "global_avg_pool2d":
                modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
                shape = (shape[0],)
            elif name == "dense":
                units = classes if spec["units"] == "classes" else spec["units"]
                modules.append(nn.Linear(shape[0], units))
                shape = (units,)
            elif name == "residual":
                branch, after = build(spec["layers"], shape)
                shortcut = build(spec["shortcut"], shape)[0] if "shortcut" in spec else None
                modules.append(Residual(branch, shortcut, spec.get("activation") == "relu"))
                shape = after
            else:
                raise ValueError(f"no PyTorch form of {name}")
            if name != "residual" and spec.get("activation") == "relu":
                modules.append(nn.ReLU(inplace=True))
        return nn.Sequential(*modules), shape

    return build(layers, shape)[0]


def load_weights(torch, net, params, values):
    """Sets the network's parameters from flexp's flat array (numpy); params as `step weights` prints them."""
    tensors = list(net.parameters())
    if [list(tensor.shape) for tensor in tensors] != [param["shape"] for param in params]:
        raise AssertionError("the parameters' shapes differ")
    with torch.no_grad():
        for param, tensor in zip(params, tensors):
            part = values[param["offset"]:param["offset"] + param["size"]].reshape(param["shape"])
            tensor.copy_(torch.from_numpy(part.copy()))
