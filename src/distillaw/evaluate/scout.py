"""Candidate teachers measured on the user's own text, in bits per byte, so that tokenizers do not matter.

Every candidate reads the same whole documents in windows of the same context, each document from its first token on:
that one follows the model's start token, which is the one its tokenizer puts first, or else its end-of-text token. All
bytes of a document are scored once, and the unit of errors is the document: sums of -ln p over bytes of UTF-8.
Candidates are compared in pairs on the same documents.
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillaw.accounting.families import model as named_model
from distillaw.data.corpus import WHOLE, Excerpt, Reading, read_excerpt
from distillaw.data.tokenizer import encode_to_score, tokenizer_hash
from distillaw.errors import ConfigError, DistillawWarning, VocabularyError
from distillaw.evaluate.calibration import CONTEXT
from distillaw.models.scoring import score_documents
from distillaw.models.source import ModelSource, check_config, fingerprint, locate, settle_context
from distillaw.models.teacher import load_teacher
from distillaw.quantities import bits_per_byte, format_bytes, format_count
from distillaw.runs.files import content_hash, read_json, write_json
from distillaw.runs.pace import Telling
from distillaw.runs.paired import DocumentScores, PairedDifference, clustered_se, in_bits, paired_difference
from distillaw.runs.places import check_folder, claim_folder
from distillaw.runs.store import run_result

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Of the stored results; part of their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutedTeacher:
    """One candidate, measured."""

    name: str
    fingerprint: str
    params: int
    """N, non-embedding."""
    total_params: int
    vocab: int
    """Entries of its tokenizer."""
    tokenizer: str
    """Hash of the token-to-id map."""
    same_tokenizer_as: tuple[str, ...]
    """The other candidates with this token-to-id map."""
    context: int
    stride: int
    text_hash: str
    tokens_per_document: np.ndarray
    """Scored tokens, int64, shape (documents,)."""
    scores: DocumentScores
    """Sums of -ln p, in nats, with the document's bytes as its `tokens`: losses of it are nats per byte."""
    seconds: float
    """Of loading and scoring, when it was measured."""
    is_cached: bool
    """True if an earlier run had measured it."""

    @property
    def documents(self) -> int:
        """Documents scored."""
        return len(self.tokens_per_document)

    @property
    def tokens(self) -> int:
        """Tokens scored."""
        return int(self.tokens_per_document.sum())

    @property
    def bytes(self) -> int:
        """Bytes of UTF-8 scored."""
        return int(self.scores.tokens.sum())

    @property
    def bytes_per_token(self) -> float:
        """How much text a token of its tokenizer stands for, on this text."""
        return self.bytes / self.tokens

    @property
    def nats_per_token(self) -> float:
        """Its loss over its own tokens: what a law of its tokenizer speaks of."""
        return float(self.scores.loss_sum.sum() / self.tokens)

    @property
    def nats_per_token_se(self) -> float:
        """Standard error, clustered by document."""
        return clustered_se(self.scores.loss_sum, self.tokens_per_document)

    @property
    def bits_per_byte(self) -> float:
        """Its loss in the unit that all tokenizers share."""
        return bits_per_byte(self.nats_per_token, bytes_per_token=self.bytes_per_token)

    @property
    def bits_per_byte_se(self) -> float:
        """Standard error, clustered by document."""
        return self.scores.loss_se / math.log(2)


def scout_teachers(
    paths: Sequence[str | Path],
    text: str | Path,
    reading: Reading = WHOLE,
    *,
    max_bytes: float | None = None,
    context: int | None = None,
    stride: int | None = None,
    out: Path | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda message: None,
) -> list[ScoutedTeacher]:
    """Measure candidate teachers on a text.

    Args:
        reading: what is read of each document.
        max_bytes: bytes of text read at most, by whole documents; None: all.
        context: tokens a window sees; None: CONTEXT, or what the shortest candidate allows.
        stride: tokens scored by each window after the first of a document; None: the context (no overlap).
        out: folder where each candidate's result is kept and found again; None keeps nothing.

    Raises:
        CacheError: no model at a path, or a stored result is damaged.
        ConfigError: a model twice, no causal model, a context or stride out of range, a budget too small.
        DataError: a text that cannot be read, or of fewer than two documents.
        VocabularyError: a model with fewer rows than tokens.
    """
    if out is not None:
        check_folder(out)
    sources = [locate(path) for path in paths]
    context, stride = _settle_windows(sources, context, stride)
    excerpt = read_excerpt(text, reading, max_bytes=max_bytes)
    size = sum(excerpt.bytes_per_document)
    say(f"{text}: {len(excerpt.documents)} documents, {format_bytes(size)}, hash {excerpt.text_hash}")
    results = []
    for source in sources:
        key = {
            "model": fingerprint(source),
            "text": excerpt.text_hash,
            "context": context,
            "stride": stride,
            "device": device.partition(":")[0],
            "format": FORMAT,
        }
        file = None if out is None else out / f"{key['model']}-{content_hash(key)}.json"
        is_cached = file is not None and file.exists()
        if file is not None and is_cached:
            say(f"{source.name}: measured before, {file}")
            record = read_json(file)
        else:
            record = key | _measure(source, excerpt, context, stride, device, say)
            if out is not None and file is not None:
                claim_folder(out)
                write_json(file, record)
        results.append(_restored(source.name, record, excerpt, is_cached=is_cached))
    return [
        replace(a, same_tokenizer_as=tuple(b.name for b in results if b is not a and b.tokenizer == a.tokenizer))
        for a in results
    ]


def difference(first: ScoutedTeacher, second: ScoutedTeacher) -> PairedDifference:
    """Bits per byte of `first` minus those of `second` on the same documents; negative if the first is better.

    Raises:
        DataError: measured on different documents.
    """
    return in_bits(paired_difference(first.scores, second.scores))


def scout_record(found: Sequence[ScoutedTeacher]) -> dict[str, object]:
    """What `distillaw scout --json` says: the text, every candidate, every pair."""
    one = found[0]
    text = {"documents": one.documents, "bytes": one.bytes, "hash": one.text_hash}
    teachers = [
        {name: getattr(each, name) for name in _TOLD}
        | {"same_tokenizer_as": list(each.same_tokenizer_as), "seconds": each.seconds, "cached": each.is_cached}
        for each in found
    ]
    differences = []
    for second, first in combinations(found, 2):
        gap = difference(first, second)
        told = {"first": first.name, "second": second.name, "bits_per_byte": gap.mean, "se": gap.se}
        differences.append(told | {"level": 0.9, "interval": list(gap.interval(0.9))})
    windows = {"context": one.context, "stride": one.stride}
    return {"text": text | windows, "teachers": teachers, "differences": differences}


_TOLD = (
    "name fingerprint params total_params bits_per_byte bits_per_byte_se nats_per_token nats_per_token_se "
    "bytes_per_token tokens vocab tokenizer"
).split()


_SAME_MODEL = 0.02
"""A folder named like a known model is that model if its parameters agree within this share."""


def trained_tokens(found: ScoutedTeacher) -> float | None:
    """Tokens that a run's result or the table of real models tells; none where distillation or tuning came in."""
    if result := run_result(found.name):
        return None if result.get("teacher_run") else float(result["tokens"]) if "tokens" in result else None
    for name in (found.name, Path(found.name).name):
        try:
            real = named_model(name)
        except ConfigError:
            continue
        is_same = abs(real.params / found.params - 1) < _SAME_MODEL
        return real.tokens if is_same and not (real.distilled or real.post_trained) else None
    return None


def check_tokenizers(models: Sequence[str], text: str, study: Path | None) -> None:
    """Refuse models of several tokenizers, or of another than a study's, before any is measured.

    Raises:
        VocabularyError: losses per token that would be of different tokens.
    """
    hashes = {name: tokenizer_hash(locate(name).tokenizer()) for name in models}
    if len(set(hashes.values())) > 1:
        raise VocabularyError(
            f"the models have {len(set(hashes.values()))} tokenizers: nats/token of one are not those of another, and "
            "logits are distilled only into the teacher's own vocabulary. Compare them in bits per byte (distillaw "
            f"scout {' '.join(models)} --text {text}), then plan with those of one tokenizer"
        )
    manifest = None if study is None else study / "data" / "manifest.json"
    if manifest is None or not manifest.is_file():
        return
    own = read_json(manifest).get("tokenizer_hash")
    if own is not None and own != hashes[models[0]]:
        raise VocabularyError(
            f"{models[0]}: its tokenizer is not the study's ({hashes[models[0]]} against {own}): nats/token of one are "
            "not those of the other. Plan without --study, or run the study with this tokenizer (data.tokenizer)"
        )


def _settle_windows(sources: Sequence[ModelSource], context: int | None, stride: int | None) -> tuple[int, int]:
    """One context for all candidates, so that none sees more than another; checked before anything is loaded."""
    if not sources:
        raise ConfigError("no candidate given; name at least one model, e.g. models/SmolLM2-135M")
    folders = [str(source.folder.resolve() / (source.gguf_file or "")) for source in sources]
    twice = {source.name for source, each in zip(sources, folders, strict=True) if folders.count(each) > 1}
    if twice:
        raise ConfigError(f"{', '.join(sorted(twice))}: the same model is given twice; name each once")
    for source in sources:
        check_config(source, context=None)
    context = settle_context(sources, context, CONTEXT)
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"--stride {stride}: it lies between 1 and the context, {context}; half of it is usual")
    return context, stride


def _measure(
    source: ModelSource, excerpt: Excerpt, context: int, stride: int, device: str, say: Callable[[str], None]
) -> dict[str, object]:
    """What is stored of one candidate: sums over the tokens of each document, and its sizes."""
    began = time.monotonic()
    tokenizer = source.tokenizer()
    ids = encode_to_score(source.name, tokenizer, excerpt.documents)
    _check_round_trip(source.name, tokenizer, excerpt.documents, [each[1:].tolist() for each in ids])
    teacher = load_teacher(source, tokenizer, context=context, device=device)
    tokens = np.array([len(each) - 1 for each in ids], dtype=np.int64)
    total = int(tokens.sum())
    say(f"{source.name}: {format_count(total)} tokens")
    progress = Telling(source.name, total, "tokens", say)
    scored = score_documents(teacher, ids, context=context, stride=stride, seen=progress.advance)
    assert progress.done == total
    return {
        "params": teacher.params,
        "total_params": teacher.total_params,
        "vocab": len(tokenizer),
        "tokenizer": tokenizer_hash(tokenizer),
        "start_token": int(ids[0][0]),
        "seconds": time.monotonic() - began,
        "tokens_per_document": tokens.tolist(),
        "loss_sum": scored.loss_sum.tolist(),
    }


def _check_round_trip(
    name: str, tokenizer: "PreTrainedTokenizerBase", documents: list[str], encoded: list[list[int]]
) -> None:
    """A tokenizer that loses text (lower case, unknown characters) makes its model look better than it is."""
    decoded = tokenizer.batch_decode(encoded, clean_up_tokenization_spaces=False)
    lossy = sum(back.strip() != text.strip() for back, text in zip(decoded, documents, strict=True))
    if lossy:
        warnings.warn(
            f"{name}: its tokenizer does not give back {lossy} of {len(documents)} documents as they were; what it "
            "drops costs nothing, so that its bits per byte are too low",
            DistillawWarning,
            stacklevel=4,
        )


def _restored(name: str, record: dict, excerpt: Excerpt, *, is_cached: bool) -> ScoutedTeacher:
    sizes = np.array(excerpt.bytes_per_document, dtype=np.int64)
    same = ("params", "total_params", "vocab", "tokenizer", "context", "stride", "seconds")
    return ScoutedTeacher(
        name=name,
        fingerprint=record["model"],
        same_tokenizer_as=(),
        text_hash=record["text"],
        scores=DocumentScores.numbered(tokens=sizes, loss_sum=np.array(record["loss_sum"], dtype=np.float64)),
        tokens_per_document=np.array(record["tokens_per_document"], dtype=np.int64),
        is_cached=is_cached,
        **{key: record[key] for key in same},
    )
