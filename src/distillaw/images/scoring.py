"""How good a network is: loss and wrong images, with the running statistics it has or with freshly estimated ones."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from distillaw.images.feed import Feed

SCORED_AT_ONCE = 1000
"""Images; results do not depend on it but for rounding."""
ESTIMATION_EPOCH = 2**31
"""Names the draws that statistics are estimated on; no training epoch is so late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
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
def score(model: nn.Module, feed: Feed) -> Score:
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
    return Score(loss=float(torch.stack(losses).sum()) / len(feed), wrong=tuple(places), images=len(feed))


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
