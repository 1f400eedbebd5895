"""Batches are what the settings say, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_images import tiny_data, tiny_study

from distillaw.errors import DataError
from distillaw.large_batch.images.image_files import load_images, read_square
from distillaw.large_batch.images.spec import Batches, DataSettings, Optimizer, Schedule, plan_cells
from distillaw.large_batch.images.train import CellRun, Feed, FileFeed, make_feeds

DATA = tiny_data(train=20, channels=2)


def test_order_does_not_depend_on_the_batch_and_every_image_comes_once():
    feed = Feed(DATA.train, DataSettings(), device="cpu")
    draws = feed.draws(seed=3, epoch=7)
    by_four = torch.cat([feed.batch(draws, start, 4)[0] for start in range(0, 20, 4)])
    by_ten = torch.cat([feed.batch(draws, start, 10)[0] for start in range(0, 20, 10)])
    assert torch.equal(by_four, by_ten) and sorted(draws.order.tolist()) == list(range(20))
    assert torch.equal(draws.order, feed.draws(seed=3, epoch=7).order)
    assert not torch.equal(draws.order, feed.draws(seed=3, epoch=8).order)


def test_crops_and_flips_are_those_of_the_padded_image():
    settings = DataSettings(pad=2, flip=True, mean=(0.1, 0.2), std=(0.5, 0.25))
    feed = Feed(DATA.train, settings, device="cpu")
    draws = feed.draws(seed=0, epoch=0)
    images, labels = feed.batch(draws, 0, 20)
    assert set(draws.rows.tolist()) > {0, 4} and draws.flips.any() and not draws.flips.all()
    for image, label, index in zip(images, labels, draws.order.tolist(), strict=True):
        padded = np.pad(DATA.train.images[index], ((0, 0), (2, 2), (2, 2))) / 255
        row, column = int(draws.rows[index]), int(draws.columns[index])
        crop = padded[:, row : row + 6, column : column + 6]
        crop = crop[:, :, ::-1] if draws.flips[index] else crop
        wanted = (crop - np.array([0.1, 0.2])[:, None, None]) / np.array([0.5, 0.25])[:, None, None]
        np.testing.assert_allclose(image, wanted, atol=1e-6)
        assert int(label) == DATA.train.labels[index]


@pytest.mark.parametrize("pad", [0, 3])
def test_plain_images_are_as_the_file_has_them(pad):
    feed = Feed(DATA.train, DataSettings(pad=pad, flip=True), device="cpu")
    images, labels = feed.plain(5, 4)
    np.testing.assert_allclose(images, (DATA.train.images[5:9] / 255 - 0.5) / 0.5, atol=1e-6)
    assert labels.tolist() == DATA.train.labels[5:9].tolist()


SQUARES = DataSettings(resize=12, crop=8, flip=True, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))


def photos(folder, count=12):
    """Two classes of photographs, wide and tall."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(count):
            size = (20 + i, 15, 3) if i % 3 else (14, 40 - i, 3)
            place = folder / split / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(place / f"{i:02}.JPEG")
    return folder


def test_photographs_stay_files_and_are_scaled_cropped_and_mirrored(tmp_path):
    data = load_images(photos(tmp_path), crop=8)
    assert data.shape == (3, 8, 8) and data.classes == 2 and len(data.test) == 12
    feed = FileFeed(data.train, SQUARES, device="cpu")
    draws = feed.draws(seed=0, epoch=0)
    by_four = torch.cat([feed.batch(draws, start, 4)[0] for start in range(0, 12, 4)])
    images, labels = feed.batch(draws, 0, 12)
    assert torch.equal(by_four, images) and draws.flips.any() and not draws.flips.all()
    for image, label, i in zip(images, labels, draws.order.tolist(), strict=True):
        with Image.open(data.train.files[i]) as photo:
            wide, tall = (round(12 * side / min(photo.size)) for side in photo.size)
            scaled = np.asarray(photo.resize((wide, tall), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        top, left = round(float(draws.rows[i]) * (tall - 8)), round(float(draws.columns[i]) * (wide - 8))
        square = scaled[:, top : top + 8, left : left + 8]
        square = square[:, :, ::-1] if draws.flips[i] else square
        wanted = (square / 255 - np.array(SQUARES.mean)[:, None, None]) / np.array(SQUARES.std)[:, None, None]
        np.testing.assert_allclose(image, wanted, atol=1e-5)
        assert int(label) == data.train.labels[i]
    middle = read_square(data.train.files[0], resize=12, crop=8, down=0.5, right=0.5, flip=False)
    wanted = (middle / 255 - np.array(SQUARES.mean)[:, None, None]) / np.array(SQUARES.std)[:, None, None]
    np.testing.assert_allclose(feed.plain(0, 5)[0][0], wanted, atol=1e-5)


def test_a_cell_reads_photographs_and_a_truncated_one_stops_it_by_name(tmp_path):
    data = load_images(photos(tmp_path), crop=8)
    study = tiny_study(
        data=SQUARES, batches=Batches(small=4, large=8), schedule=Schedule(epochs=2), optimizer=Optimizer()
    )
    run = CellRun(study, plan_cells(study, images=12)[0], make_feeds(data, study, "cpu"))
    losses = [float(run.advance()) for _ in range(6)]
    assert np.isfinite(losses).all()
    for file in data.train.files:
        file.write_bytes(file.read_bytes()[:-200])  # the header stays whole
    load_images(tmp_path, crop=8)
    run = CellRun(study, plan_cells(study, images=12)[0], make_feeds(data, study, "cpu"))
    with pytest.raises(DataError, match=r"\.JPEG: not a readable image .*same command goes on"):
        run.advance()
    for file in data.train.files[:5]:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"5 of 24 images cannot be read: .*; and 2 more\. .*nothing was trained"):
        load_images(tmp_path, crop=8)
