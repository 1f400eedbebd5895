"""Batches are what the settings say, image by image."""

import numpy as np
import pytest
import torch
from tiny_images import tiny_data

from distillaw.large_batch.images.spec import DataSettings
from distillaw.large_batch.images.train import Feed

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
