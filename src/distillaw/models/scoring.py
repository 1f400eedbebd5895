"""Held-out loss of a model, document by document: the number every law and verdict is about.

Each document is scored from its first token (after an end-of-text token) in windows of a context; nothing is seen
across documents. With `stride` equal to the context windows do not overlap: a token sees half a context on average, as
in training. A smaller stride scores the last `stride` tokens of each window after the first, so that each sees at least
context - stride tokens, at context / stride times the cost. Sums per document are kept, because tokens of one document
are correlated: standard errors are clustered by document (runs/paired.py), several times the naive ones.
Shape suffixes: B window, T position, N scored token, D hidden width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.teacher import AnyTeacher, OracleTeacher, apply_head, head_of, hidden_states
from distillaw.runs.paired import DocumentScores

if TYPE_CHECKING:
    from transformers import PreTrainedModel


IGNORE = -100
"""The label that torch's cross-entropy leaves out."""
SCORED_DOCUMENTS = 40
"""Of a text that measures a changed model, at most: over fewer than thirty an error is itself uncertain."""
SCORED_CONTEXT = 512
"""Tokens of a window there: that of the reference recipe (MiniMA, arXiv 2311.07052)."""
BYTES_PER_TOKEN = 8.0
"""Generous: text that is read for so many tokens."""
BATCH_POSITIONS = 1 << 14
"""Of windows that a model sees at a time, unless one has more: at a context of 8k sixteen windows would take 7.5 GB in
float32 for each activation of an 8B student's MLP."""
LOGITS_AT_ONCE = 1 << 20
"""Largest number of logits held while scoring: 4 MiB of float32, whatever the vocabulary; larger is not faster."""


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

    def batches(self, windows: int) -> "Iterator[HeldoutSet]":
        """The same windows in order, so many at a time, fewer where they are long (BATCH_POSITIONS)."""
        windows = max(1, min(windows, BATCH_POSITIONS // self.inputs.shape[1]))
        for first in range(0, len(self.inputs), windows):
            rows = slice(first, first + windows)
            yield replace(self, inputs=self.inputs[rows], labels=self.labels[rows], document=self.document[rows])


BATCH_WINDOWS = 16
"""Windows a model sees at a time."""


@contextmanager
def scoring(model: "PreTrainedModel | AnyTeacher") -> Iterator[None]:
    """A student that trains is in eval mode for as long; teachers always are."""
    student = None if isinstance(model, AnyTeacher) or not model.training else model
    if student is not None:
        student.eval()
    yield
    if student is not None:
        student.train()


def make_heldout(documents: list[np.ndarray], *, context: int) -> HeldoutSet:
    """Cut documents (each starting with end-of-text) into windows of `context` predictions."""
    windows = [
        _Window(index, start, start + 1, min(start + context, len(ids) - 1))
        for index, ids in enumerate(documents)
        for start in range(0, len(ids) - 1, context)
    ]
    return _filled(windows, documents, context)


@torch.no_grad()
def score_heldout(
    model: "PreTrainedModel | AnyTeacher",
    heldout: HeldoutSet,
    *,
    batch_windows: int = BATCH_WINDOWS,
    ranks: Ranks = ALONE,
) -> DocumentScores:
    """Score every held-out document with a causal language model in eval mode; ranks share the windows.

    Padding sits at the end of a window, so causal attention never lets a scored token see it. A teacher is scored over
    the study's tokens alone. Logits exist for a few hundred tokens at a time (LOGITS_AT_ONCE).
    """
    loss_sum = np.zeros(heldout.num_documents)
    tokens = np.zeros(heldout.num_documents, np.int64)
    with scoring(model):
        for batch, counts in ranks.rounds(list(heldout.batches(batch_windows))):
            scored_BT = batch.labels != IGNORE
            losses_BT = torch.zeros(batch.labels.shape, dtype=torch.float64)
            losses_BT[scored_BT] = _token_losses(model, batch, scored_BT).double().cpu()
            if counts:
                np.add.at(loss_sum, batch.document, losses_BT.sum(1).numpy())
                np.add.at(tokens, batch.document, scored_BT.sum(1).numpy())
    return DocumentScores.numbered(tokens=ranks.summed(tokens), loss_sum=ranks.summed(loss_sum))


def scored_logits(
    model: "PreTrainedModel | AnyTeacher", inputs_BT: torch.Tensor, scored_BT: torch.Tensor, *, rows: int | None = None
) -> Iterator[torch.Tensor]:
    """Logits of the scored positions in order, in pieces of shape (N, V): at most LOGITS_AT_ONCE numbers at a time.

    Args:
        rows: positions of a piece, to go in step with another model; None: as many as `logits_rows` says.
    """
    inputs_BT, scored_BT = inputs_BT.to(model.device), scored_BT.to(model.device)
    rows = logits_rows(model) if rows is None else rows
    if isinstance(model, AnyTeacher) and model.head is None:
        yield from model.logits(inputs_BT)[scored_BT].split(rows)
        return
    assert not isinstance(model, OracleTeacher), "an oracle has no head"
    is_teacher = isinstance(model, AnyTeacher)
    hidden_BTD, head = (
        (model.hidden(inputs_BT), model.head) if is_teacher else (hidden_states(model, inputs_BT), head_of(model))
    )
    assert head is not None, "without a head it was scored by its logits"
    for hidden_ND in hidden_BTD[scored_BT].split(rows):
        yield apply_head(head, hidden_ND)


def logits_rows(model: "PreTrainedModel | AnyTeacher") -> int:
    """Positions whose logits are held at a time."""
    if isinstance(model, AnyTeacher):
        vocab = model.vocab_size if model.head is None else len(model.head.weight)
    else:
        vocab = len(head_of(model).weight)
    return max(LOGITS_AT_ONCE // vocab, 64)


def _token_losses(model: "PreTrainedModel | AnyTeacher", batch: HeldoutSet, scored_BT: torch.Tensor) -> torch.Tensor:
    """-ln p(label) of the scored tokens, float32, shape (scored,)."""
    labels_N = batch.labels.to(model.device)[scored_BT.to(model.device)]
    losses, done = [torch.zeros(0, device=model.device)], 0
    for logits_NV in scored_logits(model, batch.inputs, scored_BT):
        labels = labels_N[done : done + len(logits_NV)]
        losses.append(functional.cross_entropy(logits_NV.float(), labels, reduction="none"))
        done += len(labels)
    return torch.cat(losses)


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
        yield _filled(batch, documents, batch[0].length)


def score_documents(
    model: "PreTrainedModel | AnyTeacher",
    documents: Sequence[np.ndarray],
    *,
    context: int,
    stride: int,
    seen: Callable[[int], None] = lambda tokens: None,
    ranks: Ranks = ALONE,
) -> DocumentScores:
    """Loss sums of documents, every token after the first scored once; further arguments as of `score_batches`."""
    batches = window_batches(documents, context=context, stride=stride)
    return score_batches(model, batches, len(documents), seen=seen, ranks=ranks)


def score_batches(
    model: "PreTrainedModel | AnyTeacher",
    batches: Iterable[HeldoutSet],
    documents: int,
    *,
    seen: Callable[[int], None] = lambda tokens: None,
    ranks: Ranks = ALONE,
) -> DocumentScores:
    """Loss sums of so many documents.

    Args:
        batches: their windows, each a forward pass.
        seen: told the tokens of each batch when it is scored.
        ranks: processes that share the batches, each with the whole model.
    """
    loss_sum, tokens = np.zeros(documents), np.zeros(documents, np.int64)
    for batch in ranks.part(list(batches)):
        found = score_heldout(model, batch, batch_windows=len(batch.inputs))
        loss_sum, tokens = loss_sum + found.loss_sum, tokens + found.tokens
        seen(int(found.tokens.sum()))
    return DocumentScores.numbered(tokens=ranks.summed(tokens), loss_sum=ranks.summed(loss_sum))


def _windows(documents: Sequence[np.ndarray], context: int, stride: int) -> Iterator[_Window]:
    for index, ids in enumerate(documents):
        last = len(ids) - 1
        done, end = 0, min(context, last)
        while done < last:
            yield _Window(index, max(0, end - context), done + 1, end)
            done, end = end, min(end + stride, last)


def _filled(batch: list[_Window], documents: Sequence[np.ndarray], width: int) -> HeldoutSet:
    inputs = np.zeros((len(batch), width), np.int64)
    labels = np.full((len(batch), width), IGNORE, np.int64)
    for row, window in enumerate(batch):
        ids = documents[window.document]
        inputs[row, : window.length] = ids[window.start : window.end]
        labels[row, window.scored - 1 - window.start : window.length] = ids[window.scored : window.end + 1]
    return HeldoutSet(
        inputs=torch.from_numpy(inputs),
        labels=torch.from_numpy(labels),
        document=np.array([window.document for window in batch]),
        num_documents=len(documents),
    )
