"""CIFAR-10 and CIFAR-100 as published: pickled batches ("python version") and binary batches.

A pickle can run any code when it is read. Here it can only build numpy arrays and plain values: whatever else it names
is refused before it is called.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.errors import DataError
from distillaw.images.dataset import ImageData, ImageSet, image_set
from distillaw.runs.files import read_bytes, require_file

PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The files of one release."""

    format: str
    classes: int
    train: tuple[str, ...]
    test: str
    label_key: bytes = b""
    """In pickles."""
    label_bytes: int = 0
    """Before each binary image; the last is the class."""


LAYOUTS = (
    _Layout(format="CIFAR-10 pickles", classes=10, train=tuple(f"data_batch_{i}" for i in range(1, 6)),
            test="test_batch", label_key=b"labels"),
    _Layout(format="CIFAR-10 binary", classes=10, train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            test="test_batch.bin", label_bytes=1),
    _Layout(format="CIFAR-100 pickles", classes=100, train=("train",), test="test", label_key=b"fine_labels"),
    _Layout(format="CIFAR-100 binary", classes=100, train=("train.bin",), test="test.bin", label_bytes=2),
)  # fmt: skip


def read(folder: Path) -> ImageData | None:
    """The data of a CIFAR folder; None where it is none.

    Raises:
        DataError: batches missing, truncated, or not what they should be.
    """
    for layout in LAYOUTS:
        if (folder / layout.train[0]).is_file():
            missing = [name for name in (*layout.train, layout.test) if not (folder / name).is_file()]
            if missing:
                raise DataError(
                    f"{folder}: {layout.format}, but {', '.join(missing)} missing; unpack it again"
                )
            train = _joined([_batch(folder / name, layout) for name in layout.train])
            test = _batch(folder / layout.test, layout)
            return ImageData(train=train, test=test, classes=layout.classes, format=layout.format)
    return None


def _joined(parts: Sequence[ImageSet]) -> ImageSet:
    return ImageSet(images=np.concatenate([part.images for part in parts]),
                    labels=np.concatenate([part.labels for part in parts]))  # fmt: skip


def _batch(path: Path, layout: _Layout) -> ImageSet:
    pixels, labels = _binary(path, layout) if layout.label_bytes else _pickled(path, layout)
    return image_set(pixels.reshape(-1, 3, 32, 32), labels, where=str(path))


def _binary(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(read_bytes(path), np.uint8)
    row = layout.label_bytes + PIXELS
    if not len(raw) or len(raw) % row:
        raise DataError(
            f"{path}: {len(raw)} bytes, not a multiple of {row} ({layout.format}): truncated or damaged"
        )
    rows = raw.reshape(-1, row)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1]


def _pickled(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(path)
    if not isinstance(batch, dict) or not {b"data", layout.label_key} <= set(batch):
        raise DataError(f"{path}: no data and {layout.label_key.decode()} in it; it is not {layout.format}")
    pixels = batch[b"data"]
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise DataError(
            f"{path}: data of shape {getattr(pixels, 'shape', None)}; rows of {PIXELS} pixels expected"
        )
    try:
        labels = np.asarray(batch[layout.label_key], dtype=np.int64)
    except (TypeError, ValueError):
        raise DataError(f"{path}: its labels are no list of whole numbers") from None
    return pixels, labels


def read_pickle(path: Path) -> Any:
    """A pickle of plain values and numpy arrays; text of Python 2 comes as bytes.

    Raises:
        DataError: it is no pickle, is truncated, or names anything that could run code.
    """
    try:
        with require_file(path).open("rb") as stream:
            return _ArraysOnly(stream, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from None


class _ArraysOnly(pickle.Unpickler):
    """Knows the names that arrays are pickled with, in numpy 1 and 2, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise DataError(
                f"the pickle names {module}.{name}, which no batch of images needs; it was not run. Get the file again "
                "from its source"
            )
        return known


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 pickles bytes as."""
    return text.encode(encoding)


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
