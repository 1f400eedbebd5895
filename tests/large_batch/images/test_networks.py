"""Sizes against arithmetic, seeds against themselves."""

from itertools import pairwise

import pytest
import torch

from distillaw.errors import ConfigError
from distillaw.large_batch.images.networks import ImageShape, build_network, count_params
from distillaw.large_batch.images.spec import NetworkSpec

MNIST, CIFAR = ImageShape(1, 28, 28, 10), ImageShape(3, 32, 32, 10)


def build(shape, *, seed=0, **spec):
    return build_network(NetworkSpec(**spec), shape, seed=seed, dropout=torch.Generator().manual_seed(0))


def residual_params(channels, blocks, classes):
    """Stem, blocks with two norms, a 1x1 shortcut with norm wherever shapes change, head."""
    before = channels[0]
    total = 3 * before * 9 + 2 * before
    for stage, width in enumerate(channels):
        for block in range(blocks):
            total += 9 * before * width + 9 * width * width + 4 * width
            if block == 0 and (stage or before != width):
                total += before * width + 2 * width
            before = width
    return total + (before + 1) * classes


def test_sizes_are_the_papers():
    f1 = 784 * 512 + 512 + 4 * (512 * 512 + 512) + 5 * 2 * 512 + 512 * 10 + 10
    assert count_params(build(MNIST, kind="f1")) == f1
    resnet = count_params(build(CIFAR, kind="resnet"))
    assert resnet == residual_params((16, 32, 64), 7, 10) and round(resnet / 1e6, 2) == 0.66
    wide = count_params(build(ImageShape(3, 32, 32, 100), kind="wide-resnet"))
    assert wide == residual_params((64, 128, 256), 2, 100) and round(wide / 1e6, 1) == 2.8
    convolutions = 25 * 3 * 64 + 25 * 64 * 64 + 4 * 64
    shallow = convolutions + 64 * 7 * 7 * 384 + 384 * 192 + 2 * (384 + 192) + 192 * 10 + 10
    assert count_params(build(CIFAR, kind="shallow")) == shallow
    convolutions = [(121, 3, 64), (25, 64, 192), (9, 192, 384), (9, 384, 256), (9, 256, 256)]
    alexnet = sum(taps * a * b + 2 * b for taps, a, b in convolutions)
    alexnet += 256 * 6 * 6 * 4096 + 4096**2 + 4 * 4096 + 4097 * 1000
    with torch.device("meta"):
        assert count_params(build(ImageShape(3, 224, 224, 1000), kind="alexnet")) == alexnet
    widths = [3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    vgg = sum(9 * a * b + 2 * b for a, b in pairwise(widths)) + 512 * 512 + 2 * 512 + 512 * 10 + 10
    assert count_params(build(CIFAR, kind="vgg")) == vgg


SMALL = (
    {"kind": "f1", "width": 8},
    {"kind": "shallow"},
    {"kind": "resnet", "depth": 8},
    {"kind": "wide-resnet", "depth": 10, "width": 1},
    {"kind": "vgg", "depth": 11},
)


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec["kind"])
def test_the_seed_settles_the_weights_and_nothing_else_changes(spec):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (build(CIFAR, seed=seed, **spec) for seed in (0, 0, 1))
    assert torch.rand(1) == expected, "the global generator was left alone"
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert first.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_residual_convolutions_start_as_he_has_it():
    weight = build(CIFAR, kind="resnet").stage3[1].conv1.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


def test_dropout_halves_and_is_silent_in_evaluation():
    from distillaw.large_batch.images.networks import Dropout

    layer, ones = Dropout(torch.Generator().manual_seed(0)), torch.ones(200, 100)
    out = layer.train()(ones)
    assert set(out.unique().tolist()) == {0.0, 2.0} and float(out.mean()) == pytest.approx(1, abs=0.03)
    assert layer.eval()(ones) is ones


def test_sizes_that_no_network_has():
    with pytest.raises(ConfigError, match="6 n \\+ 2"):
        build(CIFAR, kind="resnet", depth=45)
    with pytest.raises(ConfigError, match="3 x 3; it needs 7 x 7"):
        build(ImageShape(1, 3, 3, 10), kind="shallow")
