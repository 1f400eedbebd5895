"""The paper's networks in plain PyTorch, sized and initialised as its released code does.

    f1             5 hidden layers of 512, batch norm after each (Keskar et al. 2017, F1)
    shallow        two 5x5 convolutions of 64, then 384 and 192 units with dropout (C1; C3 on a hundred classes)
    resnet         basic blocks, 16-32-64 channels, 7 blocks a stage for depth 44; shortcuts by 1x1 convolution and norm
    wide-resnet    the same with 2 blocks a stage for depth 16, channels times 4, the stem's too, post-activation
    alexnet        five convolutions, two hidden layers of 4096, norms everywhere (Krizhevsky 2014, arXiv 1404.5997)
    vgg            3x3 convolutions with norms in five stages of 64 to 512, each halved; 512 units with dropout on top

Layers, widths, paddings and where norms stand are the code's (github.com/eladhoffer/bigBatch, models/). It has no VGG:
this is configuration A, B, D or E of Simonyan and Zisserman 2014 (arXiv 1409.1556) with norms and a head
for small images.
Legend: B images, C channels, H rows, W columns, K classes.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillaw.errors import ConfigError
from distillaw.large_batch.images.spec import NetworkSpec

F1_WIDTH, F1_DEPTH = 512, 5
RESNET_DEPTH, WIDE_DEPTH, WIDE_FACTOR = 44, 16, 4
"""As published: F1 of Keskar et al. 2017 (arXiv 1609.04836), the others of the paper's released code."""
VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth to convolutions per stage (arXiv 1409.1556, Table 1: A, B, D, E)."""


class ImageShape(NamedTuple):
    """What goes in and what comes out."""

    channels: int
    height: int
    width: int
    classes: int


def build_network(spec: NetworkSpec, shape: ImageShape, *, seed: int, dropout: torch.Generator) -> nn.Module:
    """A fresh network on the CPU; the same seed gives the same weights on every machine.

    `dropout` draws the masks of networks that have any; it must live where the network will.

    Raises:
        ConfigError: a depth that the family does not have, images too small for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.kind == "f1":
            return F1(shape, width=spec.width or F1_WIDTH, depth=spec.depth or F1_DEPTH)
        if spec.kind == "shallow":
            return Shallow(shape, dropout=dropout)
        if spec.kind == "alexnet":
            return AlexNet(shape, dropout=dropout)
        if spec.kind == "vgg":
            return VGG(shape, depth=spec.depth or 16, dropout=dropout)
        if spec.kind == "resnet":
            blocks = _blocks(spec.depth or RESNET_DEPTH, outside=2)
            return ResNet(shape, factor=1, blocks=blocks)
        factor, blocks = spec.width or WIDE_FACTOR, _blocks(spec.depth or WIDE_DEPTH, outside=4)
        return ResNet(shape, factor=factor, blocks=blocks)


def count_params(model: nn.Module) -> int:
    """All of them, norms and biases included."""
    return sum(p.numel() for p in model.parameters())


def _blocks(depth: int, *, outside: int) -> int:
    """Blocks of each of the three stages: depth = 6 blocks + those outside."""
    blocks, rest = divmod(depth - outside, 6)
    if blocks < 1 or rest:
        raise ConfigError(f"[network] depth = {depth}: this family has 6 n + {outside} layers, e.g. {6 * 2 + outside}")
    return blocks


class F1(nn.Module):
    """A multilayer perceptron with batch norm after every hidden layer."""

    def __init__(self, shape: ImageShape, *, width: int, depth: int) -> None:
        super().__init__()
        sizes = [shape.channels * shape.height * shape.width, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.head = nn.Linear(width, shape.classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        x = images_BCHW.flatten(1)
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            x = functional.relu(norm(linear(x)))
        return self.head(x)


class Dropout(nn.Module):
    """Dropout of one half whose masks come from a generator of its own, so that a resumed run draws the same."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Half of the values, doubled; in evaluation all of them."""
        if not self.training:
            return x
        return x * torch.randint(0, 2, x.shape, generator=self._generator, device=x.device).to(x.dtype) * 2


class Shallow(nn.Module):
    """C1 and C3: two convolutions, two hidden layers."""

    def __init__(self, shape: ImageShape, *, dropout: torch.Generator) -> None:
        super().__init__()
        flat = 64 * _flat(shape, smallest=7, halvings=2, network="shallow")
        self.conv1, self.conv2 = _conv(shape.channels, 64, 5), _conv(64, 64, 5)
        self.norm1, self.norm2 = nn.BatchNorm2d(64), nn.BatchNorm2d(64)
        self.fc1, self.fc2 = nn.Linear(flat, 384, bias=False), nn.Linear(384, 192, bias=False)
        self.norm3, self.norm4 = nn.BatchNorm1d(384), nn.BatchNorm1d(192)
        self.drop1, self.drop2 = Dropout(dropout), Dropout(dropout)
        self.head = nn.Linear(192, shape.classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        x = images_BCHW
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = functional.relu(norm(functional.max_pool2d(conv(x), 3, stride=2)))
        x = self.drop1(functional.relu(self.norm3(self.fc1(x.flatten(1)))))
        return self.head(self.drop2(functional.relu(self.norm4(self.fc2(x)))))


class AlexNet(nn.Module):
    """The one-tower AlexNet with batch norm after every layer but the last."""

    def __init__(self, shape: ImageShape, *, dropout: torch.Generator) -> None:
        super().__init__()
        maps = ImageShape(shape.channels, (shape.height - 7) // 4 + 1, (shape.width - 7) // 4 + 1, shape.classes)
        flat = 256 * _flat(maps, smallest=15, halvings=3, network="alexnet, after its first convolution")
        stem = nn.Conv2d(shape.channels, 64, 11, stride=4, padding=2, bias=False)
        self.features = nn.Sequential(
            *(stem, nn.MaxPool2d(3, 2), nn.BatchNorm2d(64), nn.ReLU()),
            *(_conv(64, 192, 5), nn.MaxPool2d(3, 2), nn.ReLU(), nn.BatchNorm2d(192)),
            *(_conv(192, 384, 3), nn.ReLU(), nn.BatchNorm2d(384)),
            *(_conv(384, 256, 3), nn.ReLU(), nn.BatchNorm2d(256)),
            *(_conv(256, 256, 3), nn.MaxPool2d(3, 2), nn.ReLU(), nn.BatchNorm2d(256)),
        )
        hidden = 4096
        self.classifier = nn.Sequential(
            *(nn.Linear(flat, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), Dropout(dropout)),
            *(nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), Dropout(dropout)),
            nn.Linear(hidden, shape.classes),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        return self.classifier(self.features(images_BCHW).flatten(1))


class VGG(nn.Module):
    """Stages of 3x3 convolutions with batch norm, each ended by 2x2 pooling; one hidden layer."""

    def __init__(self, shape: ImageShape, *, depth: int, dropout: torch.Generator) -> None:
        super().__init__()
        if depth not in VGG_STAGES:
            raise ConfigError(f"[network] depth = {depth}: vgg has {', '.join(map(str, VGG_STAGES))} layers")
        if min(shape.height, shape.width) < 32:
            raise ConfigError(f"vgg: images of {shape.height} x {shape.width} are halved five times; at least 32 x 32")
        layers: list[nn.Module] = []
        before = shape.channels
        for count, after in zip(VGG_STAGES[depth], (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                layers += [_conv(before, after, 3), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = 512 * (shape.height // 32) * (shape.width // 32)
        self.fc, self.norm, self.drop = (nn.Linear(flat, 512, bias=False), nn.BatchNorm1d(512), Dropout(dropout))
        self.head = nn.Linear(512, shape.classes)
        _he_fan_out(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        x = self.fc(self.features(images_BCHW).flatten(1))
        return self.head(self.drop(functional.relu(self.norm(x))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, activation after the sum."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(before, after, 3, stride=stride), nn.BatchNorm2d(after)
        self.conv2, self.norm2 = _conv(after, after, 3), nn.BatchNorm2d(after)
        same = before == after and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Sequential(_conv(before, after, 1, stride=stride), nn.BatchNorm2d(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps, shape (B, C, H, W)."""
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of blocks over a 3x3 stem, 16-32-64 channels times `factor`, mean over the map, one linear layer."""

    def __init__(self, shape: ImageShape, *, factor: int, blocks: int) -> None:
        super().__init__()
        channels = [factor * base for base in (16, 32, 64)]
        self.stem, self.norm = _conv(shape.channels, channels[0], 3), nn.BatchNorm2d(channels[0])
        stages = []
        for stage, (before, after) in enumerate(zip([channels[0], *channels], channels, strict=False)):
            first = ResidualBlock(before, after, stride=2 if stage else 1)
            stages.append(nn.Sequential(first, *(ResidualBlock(after, after, stride=1) for _ in range(blocks - 1))))
        self.stage1, self.stage2, self.stage3 = stages
        self.head = nn.Linear(channels[-1], shape.classes)
        _he_fan_out(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        x = functional.relu(self.norm(self.stem(images_BCHW)))
        return self.head(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))


def _flat(shape: ImageShape, *, smallest: int, halvings: int, network: str) -> int:
    """Places of the map after so many 3x3 poolings of stride 2 without padding; ConfigError: none are left."""
    if min(shape.height, shape.width) < smallest:
        raise ConfigError(f"{network}: maps of {shape.height} x {shape.width}; it needs {smallest} x {smallest}")
    sides = [shape.height, shape.width]
    for _ in range(halvings):
        sides = [(side - 1) // 2 for side in sides]
    return math.prod(sides)


def _conv(before: int, after: int, size: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


def _he_fan_out(model: nn.Module) -> None:
    """Convolutions as He et al. 2015 (arXiv 1502.01852) start them, by outputs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
