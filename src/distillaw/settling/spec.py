"""What a settlement is asked: a TOML file, flags, or both; checked before anything is read or trained."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillaw.accounting.architecture import count_params
from distillaw.accounting.flops import TRAINING_FACTOR, forward_flops
from distillaw.data.prepare import DataSpec, read_spec
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, parse_count
from distillaw.runs.config import from_table, read_toml
from distillaw.runs.places import check_name
from distillaw.runs.spec import Recipe
from distillaw.runs.store import StudyFolder
from distillaw.settling.question import Size
from distillaw.sweep.spec import StudySpec, TargetSpec, TeacherSpec
from distillaw.worlds.spec import load_world

TEACHER_SHARE = 0.001
"""Of a world's text: the teachers exist, so hardly any is kept for training them; none at all cannot be split off."""
LEAST_PARAMS = 10_000
"""The smallest student that is proposed: three layers of one head, the narrowest there is (shapes.py); a
layer less is a third of the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleTable:
    """The [settle] table: what may be spent, and what is good enough."""

    budget: str = "2%"
    """Share of training the target once, or FLOP."""
    margin: float = 0.0
    """Regret that does not matter, nats/token; 0 takes 0.25 % of the best teacher's loss."""
    level: float = 0.9
    """Chance that what is said holds, whenever one stops."""
    least_params: str = ""
    """Smallest pilot; empty takes 10k or the target over 128, whichever is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleSpec:
    """The whole file: a study's text, recipe and teachers, and what is to be settled."""

    name: str = "settle"
    like: str = ""
    """A study's folder whose text, splits and tokenizer are taken instead of [data]."""
    data: DataSpec = field(default_factory=DataSpec)
    training: Recipe = field(default_factory=Recipe)
    teachers: tuple[TeacherSpec, ...] = ()
    target: TargetSpec = field(default_factory=lambda: TargetSpec(params="", tokens=0))
    """`read_settle` refuses a question without one."""
    settle: SettleTable = field(default_factory=SettleTable)
    batch_tokens: int = 1024
    """Batch of every pilot, tokens: that of the target."""
    peak_lr: float = 8e-3
    """Peak rate at width 64; the search starts here."""
    seed: int = 0


def read_settle(
    path: Path | None = None,
    *,
    corpus: str | None = None,
    world: str | None = None,
    like: str | None = None,
    student_params: str | None = None,
    student_tokens: str | None = None,
    teacher: Sequence[str] | None = None,
    budget: str | None = None,
    margin: float | None = None,
    level: float | None = None,
) -> SettleSpec:
    """The question from a file, flags on top; the flags are those of `distillaw settle`.

    Raises:
        ConfigError: unknown keys, contradictions, or something without which nothing can be settled.
    """
    if margin is not None and not margin > 0:
        raise ConfigError(f"--margin {margin:g}: it is a loss in nats/token and must be positive, e.g. 0.01")
    table = {} if path is None else read_toml(path)
    spec = SettleSpec() if path is None else _from_file(path, table)
    given = {"budget": budget, "margin": margin, "level": level}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    teachers = (*spec.teachers, *(TeacherSpec(path=name) for name in teacher or ()))
    params, tokens = student_params or spec.target.params, student_tokens or spec.target.tokens
    if not params or not tokens:
        raise ConfigError(
            "settle: the target is missing: which student is it about? Give --student 0.3M and --tokens "
            "5M, or a [target] table with params and tokens"
        )
    parse_count(params, name="--student" if student_params else "[target] params")
    count = parse_count(tokens, name="--tokens" if student_tokens else "[target] tokens")
    target = TargetSpec(params=params, tokens=round(count))
    spec = replace(spec, teachers=teachers, settle=replace(spec.settle, **asked), target=target)
    like = like or spec.like or None
    texts = {"--world": world, "--corpus": corpus, "--like": like}
    named = [f"{flag} {value}" for flag, value in texts.items() if value is not None]
    if len(named) > 1 or (like and "data" in table):
        named += ["[data]"] * ("data" in table)
        raise ConfigError(f"{' and '.join(named)}: the text is one of them; drop one")
    if not named and path is None:
        raise ConfigError(
            "settle: on which text? Give --like STUDY, --corpus PATH, --world NAME, or a file with [data]"
        )
    if like:
        spec = replace(spec, like=str(like), data=_text_of(Path(like)))
    elif corpus is not None:
        spec = replace(spec, data=replace(spec.data, corpus=corpus, world=None))
    elif world is not None:
        spec = replace(spec, data=_text_of_world(world, target.tokens))
    check_name(spec.name, "name =")
    _check(spec)
    return spec


def _from_file(path: Path, table: dict[str, Any]) -> SettleSpec:
    if "students" in table:
        raise ConfigError(
            f"{path} describes a study ([students]): run it with `distillaw study run {path}`. A settlement asks about "
            "one student: `distillaw settle --like FOLDER_OF_THAT_STUDY --student 0.3M --tokens 5M --teacher RUN`"
        )
    asked = table.get("settle")
    if isinstance(asked, dict) and isinstance(asked.get("budget"), int | float):  # budget = 1e13
        table = table | {"settle": asked | {"budget": repr(asked["budget"])}}
    return from_table(SettleSpec, table, f"{path}:")


def _text_of_world(name: str, target_tokens: float) -> DataSpec:
    """Students' text, as much as the target will read."""
    world = load_world(name)
    return DataSpec(
        world=world,
        world_tokens=round(target_tokens / (1 - TEACHER_SHARE)),
        teacher_share=TEACHER_SHARE,
        validation_documents=200,
        validation_tokens_per_document=min(512, world.document_tokens),
    )


def _text_of(study: Path) -> DataSpec:
    """The text of a study."""
    data = StudyFolder(study).data
    if not (data / "manifest.json").is_file():
        raise ConfigError(
            f"--like {study}: no study's folder with prepared text ({data / 'manifest.json'} is missing); name the "
            "folder that study run or train wrote"
        )
    return read_spec(data)


def _check(spec: SettleSpec) -> None:
    if not spec.teachers:
        raise ConfigError(
            "settle: no candidate teacher: give --teacher PATH for each (a model folder, a GGUF file, or an oracle "
            "of the world), or [[teachers]] entries with path; without a teacher is a candidate in any case"
        )
    seen: dict[str, str] = {}
    for teacher in spec.teachers:
        path, name = teacher.path, Path(teacher.path or "").name
        if not path:
            raise ConfigError(
                f"[[teachers]] params = {teacher.params!r}: settle compares teachers that exist. Train it first "
                "(distillaw train, or a study), then give path = its run's folder, e.g. out/NAME/runs/RUN"
            )
        if name in ("", "..", "none"):
            raise ConfigError(
                f"teacher {path!r}: candidates are known by the last part of their path, and {name!r} is no name for "
                "one; give the folder by a name of its own, e.g. ../teachers/mine"
            )
        if seen.setdefault(name, path) != path:
            raise ConfigError(
                f"teachers {seen[name]!r} and {path!r} are both called {name!r}: candidates are known by the last part "
                "of their path; rename or link one of the folders"
            )
    table = spec.settle
    if table.margin < 0:
        raise ConfigError(
            f"[settle] margin = {table.margin:g}: it is a loss in nats/token and must be positive; 0 takes 0.25 % of "
            "the best teacher's loss"
        )
    if not 0.5 <= table.level <= 0.999:
        raise ConfigError(f"level = {table.level:g} must lie in [0.5, 0.999]: the chance that the bounds hold")
    budget_flops(table.budget, 1.0)


def budget_flops(text: str, target_flops: float) -> float:
    """A budget in FLOP from `2%` (of training the target once) or `1e13`."""
    name = f"budget {text!r} (a share such as 2%, or FLOP such as 1e13)"
    share = text.strip().removesuffix("%")
    if share == text.strip():
        return parse_count(text, name=name)
    return parse_count(share, name=name) / 100 * target_flops


def halves(study: StudySpec, target: Size, vocab: int, least: float) -> Iterator[Size]:
    """The target's half and its halves, down to so many parameters."""
    nominal = parse_count(target.label)
    while (nominal := nominal / 2) >= least * 0.99:
        try:
            yield student_size(study, format_count(nominal), vocab)
        except ConfigError:  # no shape is near: smaller ones have none either
            return


def whole(tokens: float, batch: int) -> int:
    """Tokens as whole batches, rounded up."""
    return -(-math.ceil(tokens) // batch) * batch


def student_size(study: StudySpec, label: str, vocab: int) -> Size:
    """A student of a study as pilots are counted: parameters without embeddings, FLOP of training per token."""
    shape = study.shape(label, vocab)
    flops = TRAINING_FACTOR * forward_flops(shape).total
    return Size(label=label, params=float(count_params(shape).non_embedding), flops=flops)
