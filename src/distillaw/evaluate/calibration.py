"""Held-out loss, bits per byte and calibration of a model on a text, against data and against its teacher.

Against data a model is calibrated if what it says with probability p comes true p of the time:

    ECE = sum_m |S_m| / T,   S_m = sum of (outcome - confidence) over the tokens of bin m,   T tokens in all

which is sum_m |B_m|/T |mean outcome - mean confidence| with equal-width bins of the confidence (Guo et al. 2017,
arXiv:1706.04599, Eq. 3; Busbridge et al. 2025, arXiv:2502.08606v2, calibration section: 21 bins). Tokens of one
document are correlated, so everything is summed by document. Against a teacher there are several questions, of which
Busbridge et al. answer three; AGAINST_TEACHER names ours and theirs. Loss and calibration come from the same forward
passes, and no more logits exist at a time than in models/scoring.py. Shape suffixes: N scored token, V vocabulary,
D document, M bin.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillaw.data.corpus import Excerpt
from distillaw.data.tokenizer import encode_to_score
from distillaw.errors import DataError
from distillaw.evaluate.wishes import BINS
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.scoring import IGNORE, HeldoutSet, logits_rows, scored_logits, scoring, window_batches
from distillaw.models.source import ModelSource
from distillaw.models.teacher import AnyTeacher, ModelTeacher, load_teacher
from distillaw.quantities import bits_per_byte, format_count
from distillaw.runs.pace import Telling
from distillaw.runs.paired import DocumentScores, clustered_cov, clustered_se

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class BinSums:
    """Sums over the tokens of each document and bin, float64, shape (documents, bins)."""

    count: NDArray[np.float64]
    confidence: NDArray[np.float64]
    outcome: NDArray[np.float64]

    @classmethod
    def zeros(cls, documents: int, bins: int = BINS) -> "BinSums":
        """Nothing counted yet."""
        return cls(**{name: np.zeros((documents, bins)) for name in ("count", "confidence", "outcome")})

    def add(
        self,
        document: NDArray[np.int64],
        by: NDArray[np.float64],
        confidence: NDArray[np.float64],
        outcome: NDArray[np.float64],
    ) -> None:
        """Count tokens, shapes (n,), whose `by` in [0, 1] puts them into bins; an outcome is 0, 1 or a probability."""
        bins = self.count.shape[1]
        cell = document, np.minimum((by * bins).astype(np.int64), bins - 1)
        np.add.at(self.count, cell, 1.0)
        np.add.at(self.confidence, cell, confidence)
        np.add.at(self.outcome, cell, outcome)


def calibration_error(sums: BinSums) -> dict[str, Any]:
    """ECE of counted tokens with what it takes to read it, all in shares of 1.

    se^2 = clustered variance of sum_d v_d / sum_d t_d,  v_d = sum_m sign(S_m) S_dm
    floor = sum_m sqrt(2 / pi) se(S_m / T)               (mean of |x| for a normal x around 0)

    Returns:
        ece; se, clustered by document (delta method at the signs of the bins' gaps); floor, the ECE expected of perfect
        calibration with so few tokens, whose bins differ by chance alone; gap, mean outcome minus mean confidence
        (negative: overconfident); bins, the reliability diagram: tokens, mean confidence and mean outcome of each bin
        that has tokens.
    """
    tokens_D = sums.count.sum(1)
    gap_DM = sums.outcome - sums.confidence
    gap_M = gap_DM.sum(0)
    value_D = gap_DM @ np.sign(gap_M)
    total = tokens_D.sum()
    count_M, confidence_M, outcome_M = (each.sum(0) for each in (sums.count, sums.confidence, sums.outcome))
    cov = clustered_cov(gap_DM, tokens_D)  # type: ignore[arg-type]  # whole numbers in floats
    return {
        "ece": float(value_D.sum() / total),
        "se": clustered_se(value_D, tokens_D),  # type: ignore[arg-type]
        "floor": float(np.sqrt(2 / np.pi) * np.sqrt(np.diag(cov)).sum()),
        "gap": float(gap_M.sum() / total),
        "bins": [
            {
                "bin": float(m),
                "tokens": float(count_M[m]),
                "confidence": float(confidence_M[m] / count_M[m]),
                "outcome": float(outcome_M[m] / count_M[m]),
            }
            for m in np.flatnonzero(count_M)
        ],
    }


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

    heldout: DocumentScores
    data: BinSums
    """Confidence of the model's first choice, and whether it came."""
    against: dict[str, BinSums]
    """By key of AGAINST_TEACHER; empty without a teacher."""
    teacher: DocumentScores | None = None
    teacher_data: BinSums | None = None
    """The teacher's own calibration against data."""
    kl_sum: np.ndarray | None = None
    """Sum of KL(teacher || student) of each document, nats, float64, shape (documents,)."""

    @classmethod
    def empty(cls, documents: int, bins: int, *, with_teacher: bool) -> "CalibratedScores":
        """Nothing scored yet."""

        def scores() -> DocumentScores:
            return DocumentScores.numbered(tokens=np.zeros(documents, np.int64), loss_sum=np.zeros(documents))

        return cls(
            heldout=scores(),
            data=BinSums.zeros(documents, bins),
            against={name: BinSums.zeros(documents, bins) for name in AGAINST_TEACHER if with_teacher},
            teacher=scores() if with_teacher else None,
            teacher_data=BinSums.zeros(documents, bins) if with_teacher else None,
            kl_sum=np.zeros(documents) if with_teacher else None,
        )

    def add(
        self, document: np.ndarray, labels: torch.Tensor, logp_NV: torch.Tensor, theirs_NV: torch.Tensor | None
    ) -> None:
        """Count the tokens of a piece of the logits; `document` and `labels` of each, shape (N,)."""
        labels = labels.to(logp_NV.device)
        top, choice = logp_NV.max(-1)
        said, hit = _numbers(top.exp()), _numbers(choice == labels)
        np.add.at(self.heldout.tokens, document, 1)
        np.add.at(self.heldout.loss_sum, document, -_numbers(_of(logp_NV, labels)))
        self.data.add(document, said, said, hit)
        if theirs_NV is None:
            return
        assert self.teacher is not None and self.teacher_data is not None and self.kl_sum is not None
        theirs_NV = theirs_NV.to(logp_NV.device)
        top, their_choice = theirs_NV.max(-1)
        they_said = _numbers(top.exp())
        np.add.at(self.teacher.tokens, document, 1)
        np.add.at(self.teacher.loss_sum, document, -_numbers(_of(theirs_NV, labels)))
        np.add.at(self.kl_sum, document, _numbers((theirs_NV.exp() * (theirs_NV - logp_NV)).nansum(-1)))
        self.teacher_data.add(document, they_said, they_said, _numbers(their_choice == labels))
        self.against["teacher"].add(document, said, said, _numbers(_of(theirs_NV, choice).exp()))
        self.against["teacher_top1"].add(document, said, said, _numbers(their_choice == choice))
        self.against["teacher_confidence"].add(document, said, said, they_said)
        self.against["teacher_confidence_teacher_bins"].add(document, they_said, said, they_said)

    def summed(self, ranks: Ranks) -> "CalibratedScores":
        """The same over all ranks, each of which has scored a part."""
        if ranks.world == 1:
            return self
        scores = [each for each in (self.heldout, self.teacher) if each is not None]
        sums = [each for each in (self.data, self.teacher_data, *self.against.values()) if each is not None]
        arrays = [array for each in scores for array in (each.tokens, each.loss_sum)]
        arrays += [array for each in sums for array in (each.count, each.confidence, each.outcome)]
        for array in arrays if self.kl_sum is None else [*arrays, self.kl_sum]:
            array[...] = ranks.summed(array)
        return self

    def from_teacher(self) -> dict[str, float]:
        """KL(teacher || student) per token, nats, with its standard error over documents; empty without a teacher."""
        if self.kl_sum is None:
            return {}
        tokens = self.heldout.tokens
        return {
            "kl_from_teacher": float(self.kl_sum.sum() / tokens.sum()),
            "kl_from_teacher_se": clustered_se(self.kl_sum, tokens),
        }

    def record(self) -> dict[str, object]:
        """Every calibration error with its standard error and floor, and the reliability diagrams, as JSON has them."""
        sums: dict[str, BinSums] = {"data": self.data, **self.against}
        if self.teacher_data is not None:
            sums["of_teacher"] = self.teacher_data
        errors = {name: calibration_error(each) for name, each in sums.items()}
        flat = {
            f"ece_{name}{suffix}": error[key]
            for name, error in errors.items()
            for suffix, key in (("", "ece"), ("_se", "se"), ("_floor", "floor"), ("_gap", "gap"))
        }
        return {
            **flat,
            "bins": self.data.count.shape[1],
            "meaning": {name: _MEANING[name] for name in errors},
            "diagrams": {name: error["bins"] for name, error in errors.items()},
        }


_MEANING = {"data": "whether the first choice came", "of_teacher": "the teacher itself against data"} | AGAINST_TEACHER


@torch.no_grad()
def score_calibrated(
    model: "PreTrainedModel | ModelTeacher",
    batches: Iterable[HeldoutSet],
    documents: int,
    *,
    teacher: AnyTeacher | None = None,
    bins: int = BINS,
    seen: Callable[[int], None] = lambda tokens: None,
    ranks: Ranks = ALONE,
) -> CalibratedScores:
    """The losses of `score_heldout`, and calibration from the same logits.

    Args:
        batches: windows of the documents, each a forward pass.
        documents: how many there are.
        seen: told the tokens of each batch when it is scored.
        ranks: processes that share the windows; all call this.
    """
    found, again = (CalibratedScores.empty(documents, bins, with_teacher=teacher is not None) for _ in range(2))
    rows = min(logits_rows(each) for each in (model, teacher) if each is not None)
    with scoring(model):
        for batch, counts in ranks.rounds(list(batches)):
            scored_BT = batch.labels != IGNORE
            labels_N = batch.labels[scored_BT]
            document_N = np.repeat(batch.document, scored_BT.sum(1).numpy())
            theirs = None if teacher is None else scored_logits(teacher, batch.inputs, scored_BT, rows=rows)
            done = 0
            for logits_NV in scored_logits(model, batch.inputs, scored_BT, rows=rows):
                part = slice(done, done + len(logits_NV))
                done = part.stop
                logp_NV = torch.log_softmax(logits_NV.float(), dim=-1)
                theirs_NV = None if theirs is None else torch.log_softmax(next(theirs).float(), dim=-1)
                (found if counts else again).add(document_N[part], labels_N[part], logp_NV, theirs_NV)
            seen(ranks.world * len(labels_N))
    return found.summed(ranks)


def _of(logp_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    return logp_NV.gather(-1, ids_N[:, None])[:, 0]


def _numbers(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


CONTEXT = 1024
"""Tokens a window sees unless said otherwise, or what the shortest model allows."""


def score_text(
    model: ModelTeacher,
    tokenizer,
    teacher: ModelSource | None,
    excerpt: Excerpt,
    *,
    context: int,
    bins: int,
    say: Callable[[str], None],
    ranks: Ranks = ALONE,
    dtype: torch.dtype | None = None,
) -> dict[str, object]:
    """Score a model, and its teacher beside it, on the documents of an excerpt.

    Returns:
        `heldout` and `calibration` of evaluation.json, and the sums of each document.
    """
    ids = encode_to_score(model.name, tokenizer, excerpt.documents)
    how = {"context": context, "dtype": dtype, "ranks": ranks}
    taught_by = None if teacher is None else load_teacher(teacher, tokenizer, **how)
    total = sum(len(each) - 1 for each in ids)
    beside = f", {teacher.name} beside it" if teacher is not None else ""
    say(f"{model.name}: {len(ids)} documents, {format_count(total)} tokens in windows of {context}{beside}")
    seen = Telling(model.name, total, "tokens", say).advance
    batches = window_batches(ids, context=context, stride=context)
    scores = score_calibrated(model, batches, len(ids), teacher=taught_by, bins=bins, seen=seen, ranks=ranks)
    if not np.isfinite(scores.heldout.loss_sum).all():
        raise DataError(f"{model.name}: its loss is not finite on {excerpt.text_hash}: damaged weights?")
    sizes = np.array(excerpt.bytes_per_document, dtype=np.int64)
    tokens, loss_sum = scores.heldout.tokens.tolist(), scores.heldout.loss_sum.tolist()
    return {
        "heldout": _heldout(scores, sizes, context),
        "calibration": scores.record(),
        "per_document": {"tokens": tokens, "bytes": sizes.tolist(), "loss_sum": loss_sum},
    }


def _heldout(scores: CalibratedScores, sizes: np.ndarray, context: int) -> dict[str, object]:
    heldout = scores.heldout
    bytes_per_token = float(sizes.sum() / heldout.tokens.sum())
    found: dict[str, object] = {
        "loss": heldout.loss,
        "loss_se": heldout.loss_se,
        "bits_per_byte": bits_per_byte(heldout.loss, bytes_per_token=bytes_per_token),
        "bits_per_byte_se": clustered_se(heldout.loss_sum, sizes) / math.log(2),
        "tokens": int(heldout.tokens.sum()),
        "bytes": int(sizes.sum()),
        "documents": len(sizes),
        "context": context,
    }
    if scores.teacher is not None:
        lost = heldout.loss_sum - scores.teacher.loss_sum
        found |= {
            "teacher_loss": scores.teacher.loss,
            "teacher_loss_se": scores.teacher.loss_se,
            "behind_teacher": heldout.loss - scores.teacher.loss,
            "behind_teacher_se": clustered_se(lost, heldout.tokens),
            **scores.from_teacher(),
        }
    return found
