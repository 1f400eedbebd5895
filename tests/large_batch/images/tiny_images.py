"""Images and studies that train in a second: blurred patches, one place per class."""

import numpy as np

from distillaw.large_batch.images.image_files import ImageData, ImageSet
from distillaw.large_batch.images.spec import (
    COLUMNS,
    Batches,
    DataSettings,
    DiffusionSpec,
    Drop,
    ImageStudy,
    NetworkSpec,
    Optimizer,
    Schedule,
)


def tiny_data(*, train=120, test=60, channels=1, size=6, classes=3):
    generator = np.random.default_rng(1)

    def part(count):
        labels = np.arange(count) % classes
        images = generator.integers(0, 120, (count, channels, size, size))
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 2] += 60
        return ImageSet(images=images.astype(np.uint8), labels=labels)

    return ImageData(train=part(train), test=part(test), classes=classes, format="made")


def tiny_study(**changes):
    usual = {
        "name": "tiny",
        "network": NetworkSpec(kind="f1", width=8, depth=2),
        "batches": Batches(small=10, large=40),
        "schedule": Schedule(epochs=4, drops=(Drop(epoch=2, factor=0.1),)),
        "columns": COLUMNS,
        "seeds": 2,
        "data": DataSettings(pad=1, flip=True),
        "optimizer": Optimizer(),
        "diffusion": DiffusionSpec(),
    }
    return ImageStudy(**usual | changes)


def write_npz(path, data):
    """As the loaders read it."""
    np.savez(
        path,
        x_train=data.train.images[:, 0],
        y_train=data.train.labels,
        x_test=data.test.images[:, 0],
        y_test=data.test.labels,
    )
    return path


TOML = """
name = "tiny"
paper = "F1"
columns = ["SB", "LB", "+LR", "+GBN", "+RA"]
seeds = 2
[network]
kind = "f1"
width = 8
depth = 2
[batches]
small = 10
large = 40
[schedule]
epochs = 6
drops = [{ epoch = 4, factor = 0.1 }]
[diffusion]
batches = [10, 20, 40]
"""
