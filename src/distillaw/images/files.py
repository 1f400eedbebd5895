"""Where images lie and in which format: one path in, checked arrays out.

.npz             x_train, y_train, x_test, y_test (Keras), or train_images, train_labels, test_images, test_labels
idx              train-images-idx3-ubyte and its three companions, plain or .gz, as MNIST is published
CIFAR            data_batch_1 .. or train (pickles), data_batch_1.bin .. or train.bin (cifar.py)
folders          train/CLASS/*.png and test/CLASS/*.png (folders.py)
"""

import gzip
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from distillaw.errors import DataError
from distillaw.images import cifar, folders
from distillaw.images.dataset import ImageData, ImageSet, checked, image_set
from distillaw.runs.files import read_bytes, require_file

NPZ_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
IDX_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_UBYTE = 8
"""Third byte of an idx file that holds unsigned bytes; the fourth is the number of dimensions."""


def load_images(path: Path) -> ImageData:
    """Read labelled images in any of the formats above.

    Args:
        path: an .npz file, or a folder in one of the other formats; CIFAR's own folder may lie inside it.

    Raises:
        DataError: nothing there, no known format, a file that is damaged or holds something else.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; --data names an .npz file or a folder of images")
    if path.is_file():
        return checked(_npz(path))
    inside = [path, *sorted(p for p in path.iterdir() if p.is_dir() and p.name.startswith("cifar-"))]
    for folder in inside:
        found = cifar.read(folder)
        if found is not None:
            return checked(found)
    if _idx_file(path, IDX_STEMS[0]) is not None:
        return checked(_idx(path))
    found = folders.read(path)
    if found is None:
        raise DataError(
            f"{path}: no known format: expected MNIST's {IDX_STEMS[0]}, CIFAR's data_batch_1 or data_batch_1.bin, or "
            "train/CLASS/*.png beside test/CLASS/*.png (an archive must be unpacked first)"
        )
    return checked(found)


def _npz(path: Path) -> ImageData:
    try:
        with require_file(path).open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            names = archive.files if isinstance(archive, NpzFile) else []
            keys = next((keys for keys in NPZ_KEYS if set(keys) <= set(names)), ())
            arrays = [archive[key] for key in keys]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz archive of plain arrays ({error})") from None
    if not arrays:
        raise DataError(
            f"{path}: holds {', '.join(names[:6]) or 'no archive'}; expected {', '.join(NPZ_KEYS[0])}"
        )
    return _data(arrays, where=str(path), format="npz")


def _idx_file(folder: Path, stem: str) -> Path | None:
    """The file as published, or as some tools unpack it (a dot for the last dash), plain or compressed."""
    stems = (stem, stem.replace("-idx", ".idx"))
    return next((f for s in stems for e in ("", ".gz") if (f := folder / (s + e)).is_file()), None)


def _idx(folder: Path) -> ImageData:
    files = {stem: _idx_file(folder, stem) for stem in IDX_STEMS}
    missing = [stem for stem, file in files.items() if file is None]
    if missing:
        raise DataError(f"{folder}: {missing[0]} is missing; MNIST is four files")
    arrays = [_read_idx(file, dims=3 if "images" in stem else 1) for stem, file in files.items() if file]
    return _data(arrays, where=str(folder), format="idx")


def _read_idx(path: Path, *, dims: int) -> np.ndarray:
    """One idx file: two zero bytes, type, number of dimensions, their sizes as big-endian int32, then the bytes."""
    try:
        raw = gzip.decompress(read_bytes(path)) if path.suffix == ".gz" else read_bytes(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    expected = bytes((0, 0, IDX_UBYTE, dims))
    if raw[:4] != expected:
        raise DataError(
            f"{path}: begins with {raw[:4].hex()}, an idx file of {dims}-dimensional bytes with {expected.hex()}"
        )
    header = 4 + 4 * dims
    shape = tuple(int(size) for size in np.frombuffer(raw[4:header], ">u4")) if len(raw) >= header else ()
    if len(shape) != dims or len(raw) - header != math.prod(shape):
        raise DataError(
            f"{path}: {len(raw)} bytes, its header says {' x '.join(map(str, shape)) or 'nothing'}: it is "
            "truncated or damaged"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _data(arrays: list[np.ndarray], *, where: str, format: str) -> ImageData:
    train, test = (image_set(images, labels, where=where) for images, labels in (arrays[:2], arrays[2:]))
    return ImageData(train=train, test=test, classes=_classes(train), format=format)


def _classes(train: ImageSet) -> int:
    """As many as the largest training label says; `checked` then wants an image of each."""
    return int(train.labels.max()) + 1
