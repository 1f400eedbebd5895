"""Loss and calibration of a model, against data and against its teacher, in the same forward passes.

Against data a model is calibrated if what it says with probability p comes true p of the time. Against a teacher there
are several questions, and Busbridge et al. 2025 (arXiv:2502.08606v2, calibration section)
answer three of them; `Against` names ours and theirs. No more logits exist at a time than in heldout.py.
Shape suffixes: N scored token, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from distillaw.evaluate.ece import BINS, BinSums, calibration_error
from distillaw.evaluate.heldout import (
    BATCH_WINDOWS,
    IGNORE,
    HeldoutLoss,
    HeldoutSet,
    logits_rows,
    scored_logits,
    scoring,
)
from distillaw.evaluate.windows import window_batches
from distillaw.models.oracle import AnyTeacher
from distillaw.models.teacher import Teacher
from distillaw.runs.paired import clustered_cov

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AGAINST_TEACHER = {
    "teacher": "the teacher's probability of the student's choice",
    "teacher_top1": "whether the teacher's first choice is the student's",
    "teacher_confidence": "the teacher's own confidence, binned by the student's",
    "teacher_confidence_teacher_bins": "the teacher's own confidence, binned by it",
}
"""What the student's top-1 confidence is held against. The last three are those of Busbridge et al. 2025."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedScores:
    """What one pass over a text gives of a model, by document."""

    heldout: HeldoutLoss
    data: BinSums
    """Confidence of the model's first choice, and whether it came."""
    against: dict[str, BinSums]
    """By key of AGAINST_TEACHER; empty without a teacher."""
    teacher: HeldoutLoss | None
    teacher_data: BinSums | None
    """The teacher's own calibration against data."""
    kl_sum: np.ndarray | None
    """Sum of KL(teacher || student) of each document, nats, float64, shape (documents,)."""

    def from_teacher(self) -> dict[str, float]:
        """KL(teacher || student) per token, nats, with its standard error over documents; empty without a teacher."""
        if self.kl_sum is None:
            return {}
        tokens = self.heldout.tokens
        return {
            "kl_from_teacher": float(self.kl_sum.sum() / tokens.sum()),
            "kl_from_teacher_se": float(np.sqrt(clustered_cov(self.kl_sum[:, None], tokens)[0, 0])),
        }

    def record(self) -> dict[str, object]:
        """Every calibration error with its standard error and floor, and the reliability diagrams, as JSON has them."""
        sums: dict[str, BinSums] = {"data": self.data, **self.against}
        if self.teacher_data is not None:
            sums["of_teacher"] = self.teacher_data
        errors = {name: asdict(calibration_error(each)) for name, each in sums.items()}
        flat = {
            f"ece_{name}{suffix}": error[key]
            for name, error in errors.items()
            for suffix, key in (("", "ece"), ("_se", "se"), ("_floor", "floor"), ("_gap", "gap"))
        }
        return {**flat, "bins": self.data.count.shape[1], "meaning": {name: _MEANING[name] for name in errors},
                "diagrams": {name: error["bins"] for name, error in errors.items()}}  # fmt: skip


_MEANING = {
    "data": "whether the first choice came",
    "of_teacher": "the teacher itself against data",
} | AGAINST_TEACHER


@torch.no_grad()
def score_calibration(
    model: Teacher,
    documents: Sequence[np.ndarray],
    *,
    context: int,
    stride: int,
    teacher: Teacher | None = None,
    bins: int = BINS,
    seen: Callable[[int], None] = lambda tokens: None,
) -> CalibratedScores:
    """Score documents, every token after the first once.

    Args:
        model: loaded as a teacher is, so that its head is verified.
        documents: token ids of each, the start token first.
        context: tokens a window sees.
        stride: tokens scored by each window after the first of a document.
        teacher: over the same vocabulary; None: calibration against data only.
        bins: of equal width.
        seen: told the tokens of each batch.
    """
    tally = _Tally(len(documents), bins, with_teacher=teacher is not None)
    for batch in window_batches(documents, context=context, stride=stride):
        _score_batch(model, teacher, batch, tally)
        seen(int((batch.labels != IGNORE).sum()))
    return tally.result()


@torch.no_grad()
def score_calibrated(
    model: "PreTrainedModel", heldout: HeldoutSet, *, teacher: AnyTeacher | None = None, bins: int = BINS
) -> CalibratedScores:
    """The losses of `score_heldout`, and calibration from the same logits.

    Args:
        model: a student, training or not.
        heldout: windows of the held-out documents.
        teacher: over the same vocabulary; None: calibration against data only.
        bins: of equal width.
    """
    tally = _Tally(heldout.num_documents, bins, with_teacher=teacher is not None)
    with scoring(model):
        for batch in heldout.batches(BATCH_WINDOWS):
            _score_batch(model, teacher, batch, tally)
    return tally.result()


def _score_batch(
    model: "PreTrainedModel | Teacher", teacher: AnyTeacher | None, batch: HeldoutSet, tally: "_Tally"
) -> None:
    scored_BT = batch.labels != IGNORE
    labels_N = batch.labels[scored_BT]
    document_N = np.repeat(batch.document, scored_BT.sum(1).numpy())
    rows = min(logits_rows(each) for each in (model, teacher) if each is not None)
    pieces = scored_logits(model, batch.inputs, scored_BT, rows=rows)
    taught = None if teacher is None else scored_logits(teacher, batch.inputs, scored_BT, rows=rows)
    done = 0
    for logits_NV in pieces:
        part = slice(done, done + len(logits_NV))
        done = part.stop
        logp_NV = torch.log_softmax(logits_NV.float(), dim=-1)
        theirs_NV = None if taught is None else torch.log_softmax(next(taught).float(), dim=-1)
        tally.add(document_N[part], labels_N[part], logp_NV, theirs_NV)


class _Tally:
    """Sums by document, filled piece by piece."""

    def __init__(self, documents: int, bins: int, *, with_teacher: bool) -> None:
        self.tokens = np.zeros(documents, np.int64)
        self.loss, self.teacher_loss, self.kl = (np.zeros(documents) for _ in range(3))
        self.with_teacher = with_teacher
        self.data, self.teacher_data = (BinSums.zeros(documents, bins) for _ in range(2))
        self.against = {name: BinSums.zeros(documents, bins) for name in AGAINST_TEACHER if with_teacher}

    def add(
        self,
        document: np.ndarray,
        labels: torch.Tensor,
        logp_NV: torch.Tensor,
        theirs_NV: torch.Tensor | None,
    ) -> None:
        labels = labels.to(logp_NV.device)
        top, choice = logp_NV.max(-1)
        said, hit = _numbers(top.exp()), _numbers(choice == labels)
        np.add.at(self.tokens, document, 1)
        np.add.at(self.loss, document, -_numbers(_of(logp_NV, labels)))
        self.data.add(document, said, said, hit)
        if theirs_NV is None:
            return
        theirs_NV = theirs_NV.to(logp_NV.device)
        top, their_choice = theirs_NV.max(-1)
        they_said = _numbers(top.exp())
        np.add.at(self.teacher_loss, document, -_numbers(_of(theirs_NV, labels)))
        np.add.at(self.kl, document, _numbers((theirs_NV.exp() * (theirs_NV - logp_NV)).nansum(-1)))
        self.teacher_data.add(document, they_said, they_said, _numbers(their_choice == labels))
        self.against["teacher"].add(document, said, said, _numbers(_of(theirs_NV, choice).exp()))
        self.against["teacher_top1"].add(document, said, said, _numbers(their_choice == choice))
        self.against["teacher_confidence"].add(document, said, said, they_said)
        self.against["teacher_confidence_teacher_bins"].add(document, they_said, said, they_said)

    def result(self) -> CalibratedScores:
        taught = self.with_teacher
        return CalibratedScores(
            heldout=HeldoutLoss(tokens=self.tokens, loss_sum=self.loss), data=self.data, against=self.against,
            teacher=HeldoutLoss(tokens=self.tokens, loss_sum=self.teacher_loss) if taught else None,
            teacher_data=self.teacher_data if taught else None, kl_sum=self.kl if taught else None,
        )  # fmt: skip


def _of(logp_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    return logp_NV.gather(-1, ids_N[:, None])[:, 0]


def _numbers(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
