"""Batches on the device, and how good a network is on them.

The order of an epoch, its crops and flips come from (seed, epoch) alone: a resumed run draws them again and goes on
inside the epoch. Draws are made on the CPU, so that they are the same on every device. Legend: N images, B of a batch,
C channels, H rows, W columns, K classes.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from distillaw.large_batch.images.image_files import ImageSet
from distillaw.large_batch.images.spec import DataSettings


def seed_of(*key: int) -> int:
    """One well-mixed seed from several whole numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The random choices of one epoch, on the device; each of shape (N,)."""

    order: Tensor
    rows: Tensor
    """First row of the crop, 0 .. 2 pad."""
    columns: Tensor
    flips: Tensor


class Feed:
    """One set of images on the device as bytes."""

    def __init__(self, images: ImageSet, settings: DataSettings, *, device: torch.device | str) -> None:
        """Move the images there, padded.

        Args:
            images: labelled images.
            settings: crop, flip and normalisation.
            device: where they are kept and batches come from.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(images.images)).to(device)
        height, width = pixels.shape[2:]
        self._pad, self._flip = settings.pad, settings.flip
        self._pixels_NCHW = functional.pad(pixels, (self._pad,) * 4)
        # every possible crop as a view: (N, C, 2 pad + 1, 2 pad + 1, H, W)
        self._crops = self._pixels_NCHW.unfold(2, height, 1).unfold(3, width, 1)
        self._labels_N = torch.from_numpy(np.array(images.labels)).to(device)
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (settings.mean, settings.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        """N."""
        return len(self._labels_N)

    def draws(self, *, seed: int, epoch: int) -> Draws:
        """The random choices of an epoch; the order does not depend on the batch size."""
        generator = torch.Generator().manual_seed(seed_of(seed, epoch))
        count, device = len(self), self._labels_N.device
        order = torch.randperm(count, generator=generator)
        row, column = torch.randint(0, 2 * self._pad + 1, (2, count), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5
        return Draws(
            order=order.to(device), rows=row.to(device), columns=column.to(device), flips=flip.to(device)
        )

    def batch(self, draws: Draws, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images B..., normalised float32 (B, C, H, W), and labels (B,), as they are trained on."""
        index_B = draws.order[start : start + size]
        if self._pad:
            images = self._crops[index_B, :, draws.rows[index_B], draws.columns[index_B]]
        else:
            images = self._pixels_NCHW[index_B]
        if self._flip:
            images = torch.where(draws.flips[index_B].view(-1, 1, 1, 1), images.flip(-1), images)
        return self._normal(images), self._labels_N[index_B]

    def plain(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """The same in file order, neither cropped nor flipped."""
        part = slice(start, start + size)
        return self._normal(self._crops[part, :, self._pad, self._pad]), self._labels_N[part]

    def _normal(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.float().mul_(self._scale).add_(self._shift)


SCORED_AT_ONCE = 1000
"""Images; results do not depend on it but for rounding."""
ESTIMATION_EPOCH = 2**31
"""Names the draws that statistics are estimated on; no training epoch is so late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """Of one network on one set."""

    loss: float
    """Nats per image."""
    wrong: tuple[int, ...]
    """Places of the images that it gets wrong."""
    images: int

    @property
    def accuracy(self) -> float:
        """Per cent."""
        return 100 * (self.images - len(self.wrong)) / self.images


@torch.no_grad()
def score(model: nn.Module, feed: Feed) -> ImageScore:
    """Loss and errors in evaluation mode, in file order; the mode is put back."""
    was_training = model.training
    model.eval()
    losses, wrong = [], []
    for images_BCHW, labels_B in _plain(feed):
        logits_BK = model(images_BCHW)
        losses.append(functional.cross_entropy(logits_BK, labels_B, reduction="sum"))
        wrong.append(logits_BK.argmax(1) != labels_B)
    model.train(was_training)
    places = torch.cat(wrong).nonzero().view(-1).tolist()
    return ImageScore(
        loss=float(torch.stack(losses).sum()) / len(feed), wrong=tuple(places), images=len(feed)
    )


@torch.no_grad()
def with_fresh_statistics(model: nn.Module, feed: Feed, *, seed: int) -> nn.Module:
    """A copy whose running statistics are averages over all training images, cropped and flipped as in training.

    Statistics of few updates lag behind the weights; this tells that from bad weights.
    """
    fresh = copy.deepcopy(model)
    draws = feed.draws(seed=seed, epoch=ESTIMATION_EPOCH)
    starts = range(0, len(feed) - 1, SCORED_AT_ONCE)  # a last batch of one image would have no variance
    update_bn((feed.batch(draws, start, SCORED_AT_ONCE)[0] for start in starts), fresh)
    return fresh


def _plain(feed: Feed) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(feed), SCORED_AT_ONCE):
        yield feed.plain(start, SCORED_AT_ONCE)
