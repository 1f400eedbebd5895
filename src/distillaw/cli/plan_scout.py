"""The teachers of `distillaw plan --scout`: those that the study trained, and others measured on the text given.

What a study trained keeps the loss it has there: it is of the documents that the study's runs and laws speak of.
Others must have the study's tokenizer, or one among themselves; that is looked at before anything is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.output import Output
from distillaw.cli.plan_options import ScoutOptions
from distillaw.errors import CacheError, ConfigError, VocabularyError
from distillaw.runs.files import read_json

if TYPE_CHECKING:
    from distillaw.evaluate.scout import ScoutedTeacher
    from distillaw.planning.situation import Teacher
    from distillaw.runs.record import StudyRecord

_SAME_MODEL = 0.02
"""A folder named like a known model is that model if its parameters agree within this share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scouted:
    """Teachers, and what else measuring them has told."""

    teachers: "tuple[Teacher, ...]" = ()
    vocab: int | None = None
    """Of the tokenizer of those that were measured."""
    warnings: tuple[str, ...] = ()


def check_scouting(asked: ScoutOptions) -> None:
    """Refuse options that do not go together, before anything else is done.

    Raises:
        ConfigError: an option that does nothing without --scout, or a number of --scout-tokens too few or too many.
    """
    if asked.scout:
        if asked.scout_tokens and len(asked.scout_tokens) != len(asked.scout):
            raise ConfigError(
                f"--scout-tokens has {len(asked.scout_tokens)} values for {len(asked.scout)} models: one each"
            )
        return
    default = ScoutOptions()
    for option in (
        "text",
        "text_column",
        "scout_tokens",
        "max_bytes",
        "max_document_chars",
        "section_chars",
        "scout_out",
    ):
        if getattr(asked, option) != getattr(default, option):
            raise ConfigError(
                f"--{option.replace('_', '-')} is for --scout: name the model folders, --scout DIR [DIR ...]"
            )


def scouted(asked: ScoutOptions, record: "StudyRecord | None", output: Output) -> Scouted:
    """Teachers in the order given.

    Args:
        asked: as typed; checked.
        record: the study, if one was named.
        output: takes notes.

    Raises:
        ConfigError: no --text for what must be measured, or a text or model that cannot be.
        VocabularyError: models of several tokenizers, or of another than the study's.
    """
    models = asked.scout or []
    known = {model: run for model in models if (run := _run_of(model)) and record and run in record.teachers}
    others = [model for model in models if model not in known]
    if others and asked.text is None:
        raise ConfigError("--scout measures models on your text: give it, --text FILE or FOLDER")
    found = _measured(others, asked, record, output) if others else {}
    tokens = dict(zip(models, asked.scout_tokens or [None] * len(models), strict=True))
    from distillaw.planning.paired import study_teacher

    teachers = []
    for model in models:
        if model in known:
            assert record is not None
            teachers.append(study_teacher(record, known[model]))
            output.step(f"{model}: a teacher of the study, of loss {teachers[-1].loss:.3f} there")
        else:
            teachers.append(_as_teacher(found[model], tokens[model]))
    names = ", ".join(Path(model).name for model in others)
    apart = (
        f"{names}: measured on {asked.text}, the study's runs on its own held-out documents; where the two are "
        "not alike, the teacher's loss is of another text"
    )
    vocab = next((each.vocab for each in found.values()), None)
    return Scouted(
        teachers=tuple(teachers), vocab=vocab, warnings=(apart,) if record is not None and others else ()
    )


def _run_of(model: str) -> str | None:
    """The run that a folder holds, if a study or `distillaw train` wrote it."""
    run = _result(model).get("run_id")
    return None if run is None else str(run)


def _result(model: str) -> dict:
    path = Path(model) / "result.json"
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except CacheError:
        return {}


def _measured(
    models: Sequence[str], asked: ScoutOptions, record: "StudyRecord | None", output: Output
) -> "dict[str, ScoutedTeacher]":
    from distillaw.cli.teachers import check_inputs, measure
    from distillaw.data.corpus import Reading

    assert asked.text is not None
    reading = Reading(
        text_column=asked.text_column,
        max_document_chars=asked.max_document_chars,
        section_chars=asked.section_chars,
    )
    check_inputs(models, asked.text, reading)
    _check_tokenizers(models, asked.text, record)
    found = measure(
        models, asked.text, reading, max_bytes=asked.max_bytes, out=asked.scout_out, output=output
    )
    return dict(zip(models, found, strict=True))


def _check_tokenizers(models: Sequence[str], text: str, record: "StudyRecord | None") -> None:
    """One tokenizer: the study's where there is one."""
    from distillaw.data.tokenizer import tokenizer_hash
    from distillaw.models.source import locate

    hashes = {model: tokenizer_hash(locate(model).tokenizer()) for model in models}
    if len(set(hashes.values())) > 1:
        raise VocabularyError(
            f"the models have {len(set(hashes.values()))} tokenizers: nats/token of one are not those of another, and "
            "logits are distilled only into the teacher's own vocabulary. Compare them in bits per byte (distillaw "
            f"scout {' '.join(models)} --text {text}), then plan with those of one tokenizer"
        )
    manifest = record.folder / "data" / "manifest.json" if record is not None else None
    if manifest is None or not manifest.is_file():
        return
    own = read_json(manifest).get("tokenizer_hash")
    if own is not None and own != hashes[models[0]]:
        raise VocabularyError(
            f"{models[0]}: its tokenizer is not the study's ({hashes[models[0]]} against {own}): nats/token of one are "
            "not those of the other. Plan without --study, or run the study with this tokenizer (data.tokenizer)"
        )


def _as_teacher(found: "ScoutedTeacher", tokens: float | None) -> "Teacher":
    from distillaw.planning.situation import Teacher

    return Teacher(
        name=Path(found.name).name,
        params=float(found.params),
        loss=found.nats_per_token,
        loss_se=found.nats_per_token_se,
        tokenizer=found.tokenizer,
        tokens=_tokens_known(found) if tokens is None else tokens,
    )


def _tokens_known(found: "ScoutedTeacher") -> float | None:
    """Tokens that a run's result or the table of real models tells; none where distillation or tuning came in."""
    from distillaw.accounting.families import model

    result = _result(found.name)
    if result:
        return None if result.get("teacher_run") else float(result["tokens"]) if "tokens" in result else None
    for name in (found.name, Path(found.name).name):
        try:
            real = model(name)
        except ConfigError:
            continue
        is_same = abs(real.params / found.params - 1) < _SAME_MODEL
        return real.tokens if is_same and not (real.distilled or real.post_trained) else None
    return None
