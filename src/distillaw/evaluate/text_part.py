"""Held-out loss, bits per byte and calibration of a model on a text, as evaluation.json has them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillaw.data.corpus import WHOLE, Reading
from distillaw.data.tokenizer import encode_documents, start_token
from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.calibration import CalibratedScores, score_calibration
from distillaw.evaluate.ece import BINS
from distillaw.evaluate.excerpt import Excerpt, read_excerpt
from distillaw.models.source import ModelSource, check_config, context_of
from distillaw.models.teacher import Teacher, load_teacher
from distillaw.quantities import bits_per_byte, format_count
from distillaw.runs.pace import Telling
from distillaw.runs.paired import clustered_cov

CONTEXT = 1024
"""Tokens a window sees unless said otherwise, or what the shortest model allows."""
MAX_BYTES = 2e6


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWishes:
    """On what text a model is scored, and how."""

    text: str | Path
    """A file, a folder or a corpus, as `read_documents` takes it."""
    reading: Reading = WHOLE
    max_bytes: float | None = MAX_BYTES
    """UTF-8 bytes read at most, by whole documents chosen by hash; None: all."""
    context: int | None = None
    """None: CONTEXT, or what the shortest model allows."""
    bins: int = BINS

    def excerpt(self) -> Excerpt:
        """The documents that are scored."""
        if self.bins < 1:
            raise ConfigError(f"--bins {self.bins}: at least one; 21 is usual")
        return read_excerpt(self.text, self.reading, max_bytes=self.max_bytes)


def settle_context(wishes: TextWishes, models: list[ModelSource]) -> int:
    """One context for model and teacher.

    Raises:
        ConfigError: longer than one of them allows.
    """
    if wishes.context is not None and wishes.context < 1:
        raise ConfigError(f"--context {wishes.context}: a window sees at least one token; 1024 is usual")
    for source in models:
        check_config(source, context=wishes.context)
    limits = [limit for source in models if (limit := context_of(source.config())) is not None]
    return wishes.context or min([CONTEXT, *limits])


def score_text(
    model: Teacher,
    tokenizer,
    teacher: ModelSource | None,
    excerpt: Excerpt,
    *,
    context: int,
    bins: int,
    device: str,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Score a model, and its teacher beside it, on the documents of an excerpt.

    Returns:
        `heldout` and `calibration` of evaluation.json, and the sums of each document.

    Raises:
        DataError: a loss is not finite.
        VocabularyError: the teacher has another vocabulary.
    """
    encoded = encode_documents(tokenizer, excerpt.documents)
    start = start_token(model.name, tokenizer)
    ids = [np.array([start, *each], dtype=np.int64) for each in encoded]
    taught = None if teacher is None else load_teacher(teacher, tokenizer, context=context, device=device)
    total = sum(map(len, encoded))
    beside = f", {teacher.name} beside it" if teacher is not None else ""
    say(f"{model.name}: {len(ids)} documents, {format_count(total)} tokens in windows of {context}{beside}")
    scores = score_calibration(model, ids, context=context, stride=context, teacher=taught, bins=bins,
                               seen=Telling(model.name, total, "tokens", say).add)  # fmt: skip
    if not np.isfinite(scores.heldout.loss_sum).all():
        raise DataError(f"{model.name}: its loss is not finite on {excerpt.text_hash}: damaged weights?")
    sizes = np.array(excerpt.bytes_per_document, dtype=np.int64)
    return {
        "heldout": _heldout(scores, sizes, context), "calibration": scores.record(),
        "per_document": {"tokens": scores.heldout.tokens.tolist(), "bytes": sizes.tolist(),
                         "loss_sum": scores.heldout.loss_sum.tolist()},
    }  # fmt: skip


def _heldout(scores: CalibratedScores, sizes: np.ndarray, context: int) -> dict[str, object]:
    heldout = scores.heldout
    per_byte = np.sqrt(clustered_cov(heldout.loss_sum[:, None], sizes)[0, 0])
    found: dict[str, object] = {
        "loss": heldout.loss, "loss_se": heldout.loss_se,
        "bits_per_byte": bits_per_byte(heldout.loss, bytes_per_token=float(sizes.sum() / heldout.tokens.sum())),
        "bits_per_byte_se": float(per_byte / np.log(2)), "tokens": int(heldout.tokens.sum()),
        "bytes": int(sizes.sum()), "documents": len(sizes), "context": context,
    }  # fmt: skip
    if scores.teacher is not None:
        lost = (heldout.loss_sum - scores.teacher.loss_sum)[:, None]
        found |= {
            "teacher_loss": scores.teacher.loss,
            "teacher_loss_se": scores.teacher.loss_se,
            "behind_teacher": heldout.loss - scores.teacher.loss,
            "behind_teacher_se": float(np.sqrt(clustered_cov(lost, heldout.tokens)[0, 0])),
            **scores.from_teacher(),
        }
    return found
