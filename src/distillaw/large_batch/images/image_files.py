"""Labelled images, checked once: whatever the file was, the rest sees uint8 images and whole-number labels.

    .npz      x_train, y_train, x_test, y_test (Keras), or train_images, train_labels, test_images, test_labels
    idx       train-images-idx3-ubyte and its three companions, plain or .gz, as MNIST is published
    CIFAR     data_batch_1 .. or train (pickles), data_batch_1.bin .. or train.bin
    folders   train/CLASS/*.png and test/CLASS/*.png, classes in the order of their names; needs Pillow
    Parquet   train*.parquet and test*.parquet, there or in data/, as image data sets of Hugging Face are: a column of
              images (PNG or JPEG bytes, or a struct that holds them) and one of labels; needs Pillow
    Arrow     train/*.arrow and test/*.arrow, as `save_to_disk` of Hugging Face writes them, with the same columns

All are decoded once and kept in memory, but for folders whose images are to be resized (ImageNet): those stay files,
of which only the headers are looked at before training. What cannot be read is counted and named before anything runs.

A pickle can run any code when it is read. Here it can only build numpy arrays and plain values: whatever else it names
is refused before it is called. Legend: N images, C channels, H rows, W columns.
"""

import gzip
import hashlib
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from distillaw.errors import ConfigError, DataError
from distillaw.runs.files import read_bytes, require_file

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

    def first(self, count: int) -> "ImageSet":
        """The first so many."""
        return ImageSet(images=self.images[:count], labels=self.labels[:count])

    def hashed(self) -> bytes:
        """All pixels and labels, as SHA-256."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """Images that stay in their files, with their classes."""

    files: tuple[Path, ...]
    labels: np.ndarray
    """int64, shape (N,), from 0."""

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def first(self, count: int) -> "FileSet":
        """The first so many."""
        return FileSet(files=self.files[:count], labels=self.labels[:count])

    def hashed(self) -> bytes:
        """Names, sizes in bytes and labels, as SHA-256: reading all would take as long as an epoch."""
        digest = hashlib.sha256(self.labels.tobytes())
        for file in self.files:
            digest.update(f"{file.parent.name}/{file.name}:{file.stat().st_size}\n".encode())
        return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """What is trained on and what is tested on."""

    train: ImageSet | FileSet
    test: ImageSet | FileSet
    classes: int
    format: str
    """Which kind of file it came from, for the record."""
    crop: int = 0
    """Side of the squares that files are read as; 0: all is in memory."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what a network sees."""
        if isinstance(self.train, FileSet):
            return 3, self.crop, self.crop
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def first(self, count: int, *, test: int = 0) -> "ImageData":
        """With the first so many training and test images only; 0: all.

        Raises:
            ConfigError: fewer are there, or classes would be missing.
        """
        found = self
        for name, part, wanted in (("train", self.train, count), ("test", self.test, test)):
            if wanted:
                if not 1 <= wanted <= len(part):
                    raise ConfigError(f"{name}_images = {wanted}: the data have {len(part)}; 0 takes all")
                found = replace(found, **{name: part.first(wanted)})
        return found if found is self else checked(found)

    def fingerprint(self) -> str:
        """SHA-256 of what both sets hold, shortened: runs on other data are other runs."""
        return hashlib.sha256(self.train.hashed() + self.test.hashed()).hexdigest()[:16]


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
        raise DataError(f"{where}: images of shape {images.shape}; expected N x H x W, grey or RGB, at least one")
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
    if isinstance(data.train, FileSet) or isinstance(data.test, FileSet):
        return data
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


BILINEAR = 2
"""`PIL.Image.Resampling.BILINEAR`, without importing Pillow where no image needs it."""
PIXELS = 3 * 32 * 32
"""Bytes of one picture of CIFAR-10 (Krizhevsky 2009)."""


@dataclass(frozen=True, slots=True)
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


_TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = (
    _Layout("CIFAR-10 pickles", 10, _TEN, "test_batch", label_key=b"labels"),
    _Layout("CIFAR-10 binary", 10, tuple(f"{n}.bin" for n in _TEN), "test_batch.bin", label_bytes=1),
    _Layout("CIFAR-100 pickles", 100, ("train",), "test", label_key=b"fine_labels"),
    _Layout("CIFAR-100 binary", 100, ("train.bin",), "test.bin", label_bytes=2),
)


def _cifar(folder: Path) -> ImageData | None:
    """The data of a CIFAR folder; None where it is none.

    Raises:
        DataError: batches missing, truncated, or not what they should be.
    """
    for layout in LAYOUTS:
        if (folder / layout.train[0]).is_file():
            missing = [name for name in (*layout.train, layout.test) if not (folder / name).is_file()]
            if missing:
                raise DataError(f"{folder}: {layout.format}, but {', '.join(missing)} missing; unpack it again")
            read = _binary if layout.label_bytes else _pickled
            *parts, test = (read(folder / name, layout) for name in (*layout.train, layout.test))
            train = ImageSet(
                images=np.concatenate([part.images for part in parts]),
                labels=np.concatenate([part.labels for part in parts]),
            )
            return ImageData(train=train, test=test, classes=layout.classes, format=layout.format)
    return None


def _binary(path: Path, layout: _Layout) -> ImageSet:
    raw = np.frombuffer(read_bytes(path), np.uint8)
    row = layout.label_bytes + PIXELS
    if not len(raw) or len(raw) % row:
        raise DataError(f"{path}: {len(raw)} bytes, not a multiple of {row} ({layout.format}): truncated or damaged")
    rows = raw.reshape(-1, row)
    pixels, labels = rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1]
    return image_set(pixels.reshape(-1, 3, 32, 32), labels, where=str(path))


def _pickled(path: Path, layout: _Layout) -> ImageSet:
    batch = read_pickle(path)
    if not isinstance(batch, dict) or not {b"data", layout.label_key} <= set(batch):
        raise DataError(f"{path}: no data and {layout.label_key.decode()} in it; it is not {layout.format}")
    pixels = batch[b"data"]
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise DataError(f"{path}: data of shape {getattr(pixels, 'shape', None)}; rows of {PIXELS} pixels expected")
    given = batch[layout.label_key]
    try:
        labels = np.asarray(given, dtype=np.int64)
    except (TypeError, ValueError):
        lacking = [i for i, label in enumerate(given if isinstance(given, list) else [given]) if type(label) is not int]
        if not lacking:
            raise DataError(f"{path}: its labels are no list of whole numbers") from None
        raise DataError(
            f"{path}: {len(lacking)} labels are no whole numbers, the first that of image {lacking[0]}; get the file "
            "again: nothing was trained"
        ) from None
    return image_set(pixels.reshape(-1, 3, 32, 32), labels, where=str(path))


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


SUFFIXES = (".png", ".jpg", ".jpeg")
TEST_NAMES = ("test", "val", "valid", "validation")


def _folders(folder: Path, *, crop: int = 0) -> ImageData | None:
    """The data of a folder with `train` and `test` inside; None where there are none.

    With `crop` images stay files, to be read as squares of that side.

    Raises:
        ConfigError: Pillow is not installed.
        DataError: no images, an image that cannot be read or is of another size, a class of the test set that is not
            in the training set.
    """
    test = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if not (folder / "train").is_dir() or test is None:
        return None
    classes = sorted(entry.name for entry in (folder / "train").iterdir() if entry.is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder / 'train'}: {len(classes)} class folders; at least two are needed")
    strange = sorted({entry.name for entry in test.iterdir() if entry.is_dir()} - set(classes))
    if strange:
        raise DataError(f"{test / strange[0]}: a class that {folder / 'train'} does not have")
    parts = [_files(part, classes) for part in (folder / "train", test)]
    if not crop:
        decoded = [(_stacked([(str(file), file) for file in part.files]), part.labels) for part in parts]
        return _decoded(decoded, where=folder, format="image folders", classes=len(classes))
    files = [file for part in parts for file in part.files]
    with ThreadPoolExecutor(READERS) as pool:
        _refuse_broken(list(filter(None, pool.map(_header_fault, files))), len(files))
    train, test = parts
    return ImageData(train=train, test=test, classes=len(classes), format="image folders, read as needed", crop=crop)


def _decoded(parts: list[tuple[np.ndarray, np.ndarray]], *, where: Path, format: str, classes: int = 0) -> ImageData:
    """The data of (images N x H x W x 3, labels) of both splits; grey where all of them are."""
    channels = 1 if all((images == images[..., :1]).all() for images, _ in parts) else 3
    turned = [(np.ascontiguousarray(images[..., :channels].transpose(0, 3, 1, 2)), labels) for images, labels in parts]
    return _both(turned, where=where, format=format, classes=classes)


def _both(parts: list[tuple[np.ndarray, np.ndarray]], *, where: Path, format: str, classes: int = 0) -> ImageData:
    """The data of (images, labels) of training and test; as many classes as its labels say, where none are given."""
    train, test = (image_set(images, labels, where=str(where)) for images, labels in parts)
    return ImageData(train=train, test=test, classes=classes or int(train.labels.max()) + 1, format=format)


def _files(folder: Path, classes: list[str]) -> FileSet:
    """The images of one of the two folders."""
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).glob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(f"{folder}: no {' or '.join(SUFFIXES)} in its class folders")
    labels = np.array([label for _, label in files], dtype=np.int64)
    return FileSet(files=tuple(file for file, _ in files), labels=labels)


NAMED = 3
"""Broken images that a message names; it counts the others."""


def _refuse(found: Sequence[str], total: int, what: str, way_out: str) -> None:
    """DataError: some of so many images have a fault."""
    if found:
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        named = "; ".join(found[:NAMED])
        raise DataError(f"{len(found)} of {total:,} images {what}: {named}{more}. {way_out}; nothing was trained")


def _refuse_broken(found: Sequence[str], total: int) -> None:
    _refuse(found, total, "cannot be read", "Get them again or take them out")


def _stacked(sources: Sequence[tuple[str, Path | bytes]]) -> np.ndarray:
    """Images of one size, N x H x W x 3; DataError: some cannot be read, or are of another size than the first."""
    images: list[np.ndarray] = []
    broken, odd = [], []
    for where, source in sources:
        try:
            with _opened(source, where) as opened:
                image = np.asarray(opened.convert("RGB"))
        except DataError as error:
            broken.append(str(error))
            continue
        if images and image.shape != images[0].shape:
            odd.append(f"{where}: {image.shape[1]} x {image.shape[0]}")
        else:
            images.append(image)
    _refuse_broken(broken, len(sources))
    first = f"{images[0].shape[1]} x {images[0].shape[0]}"
    way_out = "Bring all to one size, or, of image folders, let [data] resize do it"
    _refuse(odd, len(sources), f"are of another size than the first, {first}", way_out)
    return np.stack(images)


READERS = 16
"""Threads that open image files; Pillow decodes without the interpreter's lock, so more than a machine's cores wait."""


@contextmanager
def _opened(source: Path | bytes, where: object, way_out: str = "") -> Iterator[Any]:
    """A file, or its bytes, as Pillow's image, which messages call `where`; DataError: it is no image."""
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("reading PNG and JPEG images needs Pillow: pip install pillow") from None
    try:
        with Image.open(require_file(source) if isinstance(source, Path) else io.BytesIO(source)) as image:
            yield image
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: not a readable image ({error}){way_out}") from None


def _header_fault(file: Path) -> str:
    """What is wrong with a file's header. Pixels are seen in training alone: decoding all takes an epoch."""
    try:
        with _opened(file, file):
            return ""
    except DataError as error:
        return str(error)


def read_square(file: Path, *, resize: int, crop: int, down: float, right: float, flip: bool) -> np.ndarray:
    """A square of an image whose shorter side was scaled to `resize` (bilinear), uint8, shape (3, crop, crop).

    Args:
        file: the image.
        resize: pixels of the shorter side.
        crop: pixels of the square's side, at most `resize`.
        down: where the square lies, 0 at the top to 1 at the bottom.
        right: the same from the left.
        flip: whether it is mirrored.

    Raises:
        DataError: not a readable image.
    """
    with _opened(file, file, "; get it again: the same command goes on") as image:
        image.draft("RGB", (2 * resize, 2 * resize))  # a JPEG far too large is decoded at half or a quarter
        scale = resize / min(image.size)
        width, height = (max(resize, round(side * scale)) for side in image.size)
        scaled = image.convert("RGB").resize((width, height), BILINEAR)
    left, top = round(right * (width - crop)), round(down * (height - crop))
    pixels = np.asarray(scaled.crop((left, top, left + crop, top + crop))).transpose(2, 0, 1)
    return pixels[:, :, ::-1] if flip else pixels


IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


def _tables(folder: Path) -> ImageData | None:
    """The data of a folder of Parquet or Arrow files, one or several of each split; None where it is none.

    Raises:
        DataError: a column is missing, a row has no image or no label, an image cannot be read or is of another size.
    """
    for kind, place, pattern in (
        ("Parquet", folder, "{}*.parquet"),
        ("Parquet", folder / "data", "{}*.parquet"),
        ("Arrow", folder, "{}/*.arrow"),
    ):
        train, test = (
            sorted(file for name in names for file in place.glob(pattern.format(name)))
            for names in (("train",), TEST_NAMES)
        )
        if train and not test:
            others = " or ".join(pattern.format(name) for name in TEST_NAMES)
            raise DataError(f"{place}: {pattern.format('train')}, but no {others} beside it")
        if train:
            return _decoded([_read_tables(files) for files in (train, test)], where=place, format=kind)
    return None


def _read_tables(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(images N x H x W x 3, labels) of one split."""
    columns = [(file, *_columns(file)) for file in files]
    images = _stacked(
        [(f"{file}: row {row}", data.as_py()) for file, pictures, _ in columns for row, data in enumerate(pictures)]
    )
    return images, np.concatenate([labels.to_numpy(zero_copy_only=False) for *_, labels in columns])


def _columns(file: Path) -> tuple[Any, Any]:
    """(encoded images, labels) of a file, complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        path = require_file(file)
        table = pq.read_table(path) if file.suffix == ".parquet" else pa.ipc.open_stream(str(path)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable {file.suffix[1:].title()} file ({error})") from None
    found = []
    for known in (IMAGE_COLUMNS, LABEL_COLUMNS):
        name = next((column for column in known if column in table.column_names), None)
        if name is None:
            raise DataError(f"{file}: has columns {', '.join(table.column_names)}; none is called {' or '.join(known)}")
        values = table[name].combine_chunks()
        if known is IMAGE_COLUMNS and pa.types.is_struct(values.type):
            values = values.field("bytes")
        if not len(values) or values.null_count:
            row = values.is_null().index(True).as_py() if len(values) else 0
            raise DataError(f"{file}: row {row} has no {name} ({values.null_count} of {len(values)} have none)")
        found.append(values)
    return found[0], found[1]


NPZ_KEYS = (("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels"))
IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IDX_UBYTE = 8
"""Third byte of an idx file that holds unsigned bytes; the fourth is the number of dimensions."""


def load_images(path: Path, *, crop: int = 0) -> ImageData:
    """Read labelled images in any of the formats above.

    Args:
        path: an .npz file, or a folder in one of the other formats; CIFAR's own folder may lie inside it.
        crop: of image folders: leave the files where they are, to be read as squares of that side; 0: keep all.

    Raises:
        ConfigError: `crop` for another format.
        DataError: nothing there, no known format, a file that is damaged or holds something else.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; --data names an .npz file or a folder of images")
    if crop:
        found = None if path.is_file() else _folders(path, crop=crop)
        if found is None:
            raise ConfigError(f"{path}: [data] resize is for image folders, train/CLASS/*.jpg beside val/CLASS/*.jpg")
        return checked(found)
    if path.is_file():
        return checked(_npz(path))
    inside = [path, *sorted(p for p in path.iterdir() if p.is_dir() and p.name.startswith("cifar-"))]
    known = (found for folder in inside if (found := _cifar(folder)) is not None)
    found = next(known, None) or _idx(path) or _tables(path) or _folders(path)
    if found is None:
        raise DataError(
            f"{path}: no known format: expected MNIST's {IDX_STEMS[0]}, CIFAR's data_batch_1 or data_batch_1.bin, "
            "train*.parquet beside test*.parquet, train/*.arrow beside test/*.arrow, or train/CLASS/*.png beside "
            "test/CLASS/*.png (an archive must be unpacked first)"
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
        raise DataError(f"{path}: holds {', '.join(names[:6]) or 'no archive'}; expected {', '.join(NPZ_KEYS[0])}")
    return _both([(arrays[0], arrays[1]), (arrays[2], arrays[3])], where=path, format="npz")


def _idx_file(folder: Path, stem: str) -> Path | None:
    """The file as published, or as some tools unpack it (a dot for the last dash), plain or compressed."""
    stems = (stem, stem.replace("-idx", ".idx"))
    return next((f for s in stems for e in ("", ".gz") if (f := folder / (s + e)).is_file()), None)


def _idx(folder: Path) -> ImageData | None:
    files = {stem: _idx_file(folder, stem) for stem in IDX_STEMS}
    if files[IDX_STEMS[0]] is None:
        return None
    missing = [stem for stem, file in files.items() if file is None]
    if missing:
        raise DataError(f"{folder}: {missing[0]} is missing; MNIST is four files")
    arrays = [_read_idx(file, dims=3 if "images" in stem else 1) for stem, file in files.items() if file]
    return _both([(arrays[0], arrays[1]), (arrays[2], arrays[3])], where=folder, format="idx")


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
