"""Documents of token ids cut into windows of a context, every prediction scored exactly once.

A window sees at most `context` tokens of its own document. With `stride` equal to the context they do not overlap: a
token sees half a context on average, as in training. A smaller stride scores the last `stride` tokens of each window
after the first, so that each sees at least context - stride tokens, at context / stride times the cost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from distillaw.evaluate.heldout import IGNORE, HeldoutLoss, HeldoutSet, score_heldout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distillaw.models.oracle import AnyTeacher

BATCH_TOKENS = 4096
"""Positions of one forward pass."""


@dataclass(frozen=True, slots=True)
class _Window:
    document: int
    start: int
    """First token it sees."""
    scored: int
    """First token it scores (as a target)."""
    end: int
    """Last token it scores."""

    @property
    def length(self) -> int:
        return self.end - self.start


def window_batches(documents: Sequence[np.ndarray], *, context: int, stride: int) -> Iterator[HeldoutSet]:
    """Windows of similar length together, longest first, so that little is padded and memory fails early.

    Args:
        documents: token ids of each, the start token first; every later token is scored once.
        context: tokens a window may see, >= 1.
        stride: tokens scored by each window after the first of a document, 1 to context.

    Yields:
        Sets of windows of at most BATCH_TOKENS positions (one window at least); document numbers are those of
        `documents`.
    """
    windows = sorted(_windows(documents, context, stride), key=lambda each: -each.length)
    first = 0
    while first < len(windows):
        batch = windows[first : first + max(1, BATCH_TOKENS // windows[first].length)]
        first += len(batch)
        yield _filled(batch, documents)


def score_documents(
    model: "PreTrainedModel | AnyTeacher",
    documents: Sequence[np.ndarray],
    *,
    context: int,
    stride: int,
    seen: Callable[[int], None] = lambda tokens: None,
) -> HeldoutLoss:
    """Loss sums of documents, every token after the first scored once.

    Args:
        model: in eval mode.
        documents: as in `window_batches`.
        context: as there.
        stride: as there.
        seen: told the tokens of each batch when it is scored.
    """
    loss_sum, tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    for batch in window_batches(documents, context=context, stride=stride):
        found = score_heldout(model, batch, batch_windows=len(batch.inputs))
        loss_sum, tokens = loss_sum + found.loss_sum, tokens + found.tokens
        seen(int(found.tokens.sum()))
    return HeldoutLoss(tokens=tokens, loss_sum=loss_sum)


def _windows(documents: Sequence[np.ndarray], context: int, stride: int) -> Iterator[_Window]:
    for index, ids in enumerate(documents):
        last = len(ids) - 1
        done, end = 0, min(context, last)
        while done < last:
            yield _Window(index, max(0, end - context), done + 1, end)
            done, end = end, min(end + stride, last)


def _filled(batch: list[_Window], documents: Sequence[np.ndarray]) -> HeldoutSet:
    width = batch[0].length
    inputs = np.zeros((len(batch), width), np.int64)
    labels = np.full((len(batch), width), IGNORE, np.int64)
    for row, window in enumerate(batch):
        ids = documents[window.document]
        inputs[row, : window.length] = ids[window.start : window.end]
        labels[row, window.scored - 1 - window.start : window.length] = ids[window.scored : window.end + 1]
    return HeldoutSet(
        inputs=torch.from_numpy(inputs), labels=torch.from_numpy(labels),
        document=np.array([window.document for window in batch]), num_documents=len(documents),
    )  # fmt: skip
