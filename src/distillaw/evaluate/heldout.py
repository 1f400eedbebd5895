"""Held-out loss of a model, document by document: the number every law and verdict is about.

Each document is scored from its first token (after an end-of-text token) in windows of the training context;
nothing is seen across documents. Sums per document are kept, because tokens of one document are correlated:
standard errors are clustered by document (runs/paired.py), several times the naive ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from distillaw.runs.paired import clustered_cov

IGNORE = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutLoss:
    """Per-document sums over the held-out text."""

    tokens: np.ndarray
    """Scored tokens of each document, int64, shape (documents,)."""
    loss_sum: np.ndarray
    """Sum of -ln p(next token), nats, float64, shape (documents,)."""

    @property
    def loss(self) -> float:
        """Nats per token over all documents."""
        return float(self.loss_sum.sum() / self.tokens.sum())

    @property
    def loss_se(self) -> float:
        """Standard error of `loss`, clustered by document (runs/paired.py has the formula)."""
        return float(np.sqrt(clustered_cov(self.loss_sum[:, None], self.tokens)[0, 0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutSet:
    """Held-out documents cut into windows, ready to score."""

    inputs: torch.Tensor
    """Token ids, int64, shape (windows, context); padding is token 0 and never scored."""
    labels: torch.Tensor
    """Next tokens, IGNORE where there is none, shape (windows, context)."""
    document: np.ndarray
    """Document of each window, shape (windows,)."""
    num_documents: int


def make_heldout(documents: list[np.ndarray], *, context: int) -> HeldoutSet:
    """Cut documents (each starting with end-of-text) into windows of `context` predictions."""
    inputs, labels, owner = [], [], []
    for index, ids in enumerate(documents):
        for start in range(0, len(ids) - 1, context):
            piece = ids[start : start + context + 1]
            given, wanted = np.zeros(context, np.int64), np.full(context, IGNORE, np.int64)
            given[: len(piece) - 1], wanted[: len(piece) - 1] = piece[:-1], piece[1:]
            inputs.append(given)
            labels.append(wanted)
            owner.append(index)
    return HeldoutSet(
        inputs=torch.from_numpy(np.stack(inputs)), labels=torch.from_numpy(np.stack(labels)),
        document=np.array(owner), num_documents=len(documents),
    )  # fmt: skip


@torch.no_grad()
def score_heldout(model: torch.nn.Module, heldout: HeldoutSet, *, batch_windows: int = 16) -> HeldoutLoss:
    """Score every held-out document with a causal language model in eval mode.

    Padding sits at the end of a window, so causal attention never lets a scored token see it.
    """
    was_training = model.training
    model.eval()
    loss_sum = np.zeros(heldout.num_documents)
    tokens = np.zeros(heldout.num_documents, np.int64)
    for first in range(0, len(heldout.inputs), batch_windows):
        rows = slice(first, first + batch_windows)
        labels = heldout.labels[rows]
        logits = model(input_ids=heldout.inputs[rows], use_cache=False).logits.float()
        flat = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
        )
        losses = flat.view(labels.shape)
        np.add.at(loss_sum, heldout.document[rows], losses.double().sum(1).numpy())
        np.add.at(tokens, heldout.document[rows], (labels != IGNORE).sum(1).numpy())
    model.train(was_training)
    return HeldoutLoss(tokens=tokens, loss_sum=loss_sum)
