"""Labelled images as arrays, checked once: whatever the file was, the rest sees uint8 images and whole-number labels.

Files are read in files.py, cifar.py and folders.py. Legend: N images, C channels, H rows, W columns.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from distillaw.errors import ConfigError, DataError

MOST_CLASSES = 1000
"""More is taken for a column that holds no labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images with their classes."""

    images: np.ndarray
    """uint8, shape (N, C, H, W)."""
    labels: np.ndarray
    """int64, shape (N,), from 0."""

    def __len__(self) -> int:
        """N."""
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """What is trained on and what is tested on."""

    train: ImageSet
    test: ImageSet
    classes: int
    format: str
    """Which kind of file it came from, for the record."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def first(self, count: int) -> "ImageData":
        """With the first so many training images only; 0: all.

        Raises:
            ConfigError: fewer are there, or classes would be missing.
        """
        if not count:
            return self
        if not 1 <= count <= len(self.train):
            raise ConfigError(f"train_images = {count}: the data have {len(self.train)}; 0 takes all")
        train = ImageSet(images=self.train.images[:count], labels=self.train.labels[:count])
        return checked(replace(self, train=train))

    def fingerprint(self) -> str:
        """SHA-256 of all pixels and labels, shortened: runs on other data are other runs."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(repr(part.images.shape).encode())
            digest.update(part.images.tobytes())
            digest.update(part.labels.tobytes())
        return digest.hexdigest()[:16]


def image_set(images: np.ndarray, labels: np.ndarray, *, where: str) -> ImageSet:
    """Arrays as a file held them, brought to one form.

    Args:
        images: uint8, shape (N, H, W), (N, H, W, C) with C of 1 or 3, or (N, C, H, W).
        labels: whole numbers, shape (N,) or (N, 1).
        where: the file, for messages.

    Raises:
        DataError: another type or shape, counts that differ, labels below 0.
    """
    if images.dtype != np.uint8:
        raise DataError(f"{where}: images of type {images.dtype}; 8-bit pixels (uint8, 0 to 255) are read")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise DataError(
            f"{where}: images of shape {images.shape}; expected N x H x W, grey or RGB, at least one"
        )
    labels = labels.reshape(-1)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of type {labels.dtype}; whole numbers are read")
    if len(labels) != len(images):
        raise DataError(f"{where}: {len(images)} images and {len(labels)} labels: one label for each image")
    return ImageSet(images=images, labels=labels.astype(np.int64))


def checked(data: ImageData) -> ImageData:
    """The data, if they can be learned from.

    Raises:
        DataError: labels out of range, a class without training images, test images of another shape, images that are
            all the same.
    """
    for name, part in (("training", data.train), ("test", data.test)):
        low, high = int(part.labels.min()), int(part.labels.max())
        if low < 0 or high >= data.classes:
            raise DataError(
                f"{name} labels from {low} to {high}: they must lie in 0 to {data.classes - 1} "
                f"({data.classes} classes in {data.format} data)"
            )
    if not 2 <= data.classes <= MOST_CLASSES:
        raise DataError(f"{data.classes} classes: 2 to {MOST_CLASSES} can be told apart here")
    absent = sorted(set(range(data.classes)) - set(np.unique(data.train.labels).tolist()))
    if absent:
        raise DataError(
            f"no training image of class {absent[0]}"
            + (f" and {len(absent) - 1} more classes" if len(absent) > 1 else "")
            + f" of {data.classes}: the labels are not 0, 1, 2, ... or too few images were taken"
        )
    if data.train.images.shape[1:] != data.test.images.shape[1:]:
        raise DataError(
            f"training images of shape {data.train.images.shape[1:]}, test images of {data.test.images.shape[1:]}: "
            "they must be of one size"
        )
    if data.train.images.min() == data.train.images.max():
        raise DataError(
            f"every training pixel is {int(data.train.images.min())}: images without variance teach nothing and leave "
            "batch norm nothing to normalise"
        )
    return data
