"""Images as files: train/CLASS/*.png and test/CLASS/*.png, classes in the order of their names.

Needs Pillow. A folder `test` may also be called `val`, `valid` or `validation`. Images must be of one size; they are
grey if all are, else RGB.
"""

from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError, DataError
from distillaw.images.dataset import ImageData, ImageSet, image_set
from distillaw.runs.files import require_file

SUFFIXES = (".png", ".jpg", ".jpeg")
TEST_NAMES = ("test", "val", "valid", "validation")


def read(folder: Path) -> ImageData | None:
    """The data of a folder with `train` and `test` inside; None where there are none.

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
    parts = [_read_split(part, classes) for part in (folder / "train", test)]
    is_grey = all((images == images[..., :1]).all() for images, _ in parts)
    train, test_set = (_as_set(images, labels, is_grey, folder) for images, labels in parts)
    return ImageData(train=train, test=test_set, classes=len(classes), format="image folders")


def _as_set(images: np.ndarray, labels: np.ndarray, is_grey: bool, folder: Path) -> ImageSet:
    kept = images[..., :1] if is_grey else images
    return image_set(np.ascontiguousarray(kept.transpose(0, 3, 1, 2)), labels, where=str(folder))


def _read_split(folder: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(images N x H x W x 3, labels) of one of the two folders."""
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).glob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(f"{folder}: no {' or '.join(SUFFIXES)} in its class folders")
    images = [_read_image(file) for file, _ in files]
    for (file, _), image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{file}: {image.shape[1]} x {image.shape[0]} pixels, the first image has {images[0].shape[1]} x "
                f"{images[0].shape[0]}; bring all to one size"
            )
    return np.stack(images), np.array([label for _, label in files])


def _read_image(path: Path) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ConfigError("reading images from folders needs Pillow: pip install pillow") from None
    try:
        with Image.open(require_file(path)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from None
