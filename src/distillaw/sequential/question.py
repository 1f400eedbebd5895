"""From a study file, a study folder or a table of runs to the question that `study next` answers, and its runs."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.errors import ConfigError
from distillaw.fitting.observations import Observations, observe
from distillaw.laws.published import laws_available, published
from distillaw.planning.decision import MARGIN
from distillaw.planning.situation import check_ratio
from distillaw.quantities import format_count, parse_count
from distillaw.runs.config import from_table
from distillaw.runs.paired import paired_difference
from distillaw.runs.record import Run, StudyRecord, read_study
from distillaw.runs.table import naming, read_table
from distillaw.settling.question import NONE, Candidate, PilotQuestion, PilotRun, Size, extra_flops, made_by
from distillaw.settling.spec import LEAST_PARAMS, halves, student_size, whole
from distillaw.sweep.spec import StudySpec, TeacherSpec

HALVINGS = 7
"""Of the target, down to the smallest student that is proposed."""
LEAST_BATCHES = 40
"""Steps below which a run says little."""
GUESS = "surrogate-s2"
"""The law whose losses, moved to the level of the runs, stand for teachers that are not trained yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A question with its evidence."""

    question: PilotQuestion
    runs: tuple[PilotRun, ...]
    spec: StudySpec | None
    """The study, if it is one: its labels are those of sizes and teachers; None for a table."""
    record: StudyRecord | None = None
    """Its folder, where there is one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Run or folder of a teacher -> label."""
    untrained: tuple[str, ...] = ()
    """Teachers whose losses are guesses."""
    notes: tuple[str, ...] = ()

    @property
    def spent(self) -> float:
        """FLOP of the runs."""
        return extra_flops(self.question, {}, made_by(self.question, self.runs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What flags say of the target; None or empty takes what the study says."""

    params: str | None
    tokens: str | None
    margin: float | None
    losses: Mapping[str, float]
    """Teacher's label -> loss, where the user knows it."""


Columns = Mapping[str, np.ndarray]


def pose(
    source: str, asked: Asked, *, where: Mapping[str, str] | None = None, **read: Any
) -> tuple[Setup | None, Columns | None]:
    """The decision that a source poses, and its table, if it is one; no decision: a law, or runs without teachers.

    Args:
        source: a study file or folder, a table of runs, or a law.
        asked: what flags say.
        where: columns and values of the rows of a table to learn from; all by default.
        read: how a table's columns are read, as `fitting.observations.observe` takes it.
    """
    if asked.margin is not None and not asked.margin >= 0:
        raise ConfigError(f"--margin {asked.margin:g}: regret that does not matter, nats/token, 0 or more")
    path = Path(source)
    if source in laws_available() or path.suffix == ".json":
        return None, None
    if path.suffix == ".toml" or (path / "study.json").is_file():
        return _checked(setup_of_study(path, asked)), None
    table = read_table(path)
    with naming(source):
        rows = observe(table, where=where, **read)
    if not (rows.teacher_loss > 0).any():
        return None, table
    setup = setup_of_table(rows, asked)
    if path.is_dir() and not where:  # imported runs: what `plan` says of them is the answer
        record = read_study(path)
        labels = {run.run_id: _teacher_name(run.loss, run.number("params")) for run in record.every_teacher.values()}
        setup = replace(setup, record=record, labels=labels)
    return _checked(setup), table


def _checked(setup: Setup) -> Setup:
    """Refuse a target that `plan` would refuse."""
    check_ratio(setup.question.target.params, setup.question.tokens)
    return setup


def setup_of_study(source: Path, asked: Asked) -> Setup:
    """The question of a study file or folder.

    Raises:
        ConfigError: no target, no teacher, or a teacher of unknown loss.
        CacheError: the folder is no study.
    """
    spec, record, vocab = _opened(source)
    target_params = asked.params or (spec.target.params if spec.target else None)
    target_tokens = (
        parse_count(asked.tokens, name="--tokens") if asked.tokens else (spec.target.tokens if spec.target else None)
    )
    if target_params is None or target_tokens is None:
        raise ConfigError(f"{source} names no target: give --student 1M --tokens 20M, or a [target] table")
    target = student_size(spec, target_params, vocab)
    students = [] if record is None else [run for run in record.students if run.purpose == "grid"]
    found, names, untrained = _teachers(spec, record, students, asked.losses, vocab)
    candidates = tuple(sorted(found, key=lambda c: c.loss))
    if not candidates:
        raise ConfigError(
            f"{source} has no [[teachers]]: nothing to choose between; to sharpen a prediction, add --predict"
        )
    batch = int(students[0].number("batch_tokens")) if students else spec.batch_tokens
    question = PilotQuestion(
        target=target,
        tokens=float(target_tokens),
        candidates=candidates,
        budget=math.inf,
        margin=MARGIN * min(c.loss for c in candidates) if asked.margin is None else asked.margin,
        sizes=_sizes(spec, target, students, vocab),
        least_tokens=whole(max(LEAST_BATCHES * batch, 2 * spec.training.warmup_tokens), batch),
        batch_tokens=batch,
        cooldown=spec.training.cooldown,
        has_one_rate=not spec.tuning.enabled or spec.tuning.horizon == "none",
    )
    return Setup(
        question=question,
        runs=tuple(_pilots(students, names, spec.seed)),
        spec=spec,
        untrained=untrained,
        record=record,
        labels=names,
    )


def _opened(source: Path) -> tuple[StudySpec, StudyRecord | None, int]:
    """The study, its runs if there are any, and its vocabulary."""
    from distillaw.sweep.checks import load_study
    from distillaw.sweep.cost import study_vocab

    if source.is_file():
        spec = load_study(source, corpus=None)
        return spec, None, study_vocab(spec)
    record = read_study(source)
    if not record.info.get("spec"):
        raise ConfigError(f"{source}/study.json does not hold the study it was made from; give the study's TOML file")
    spec = from_table(StudySpec, record.info["spec"], f"{source}/study.json:")
    data = record.info.get("data")
    vocab = data.get("vocab_size") if isinstance(data, Mapping) else None
    return spec, record, int(vocab) if vocab else study_vocab(spec)


def _sizes(spec: StudySpec, target: Size, students: Sequence[Run], vocab: int) -> tuple[Size, ...]:
    """The sizes that were run, the target, and its halves where no size is near; ascending."""
    known = {run.label: student_size(spec, run.label, vocab) for run in students}
    found = {size.params: size for size in [target, *known.values()] if size.params <= target.params}
    for size in halves(spec, target, vocab, max(LEAST_PARAMS, parse_count(target.label) / 2**HALVINGS)):
        nominal = parse_count(size.label)
        if not any(abs(math.log(params / nominal)) < math.log(2) / 3 for params in found):
            found.setdefault(size.params, size)
    return tuple(found[params] for params in sorted(found))


def _teachers(
    spec: StudySpec, record: StudyRecord | None, students: Sequence[Run], losses: Mapping[str, float], vocab: int
) -> tuple[list[Candidate], dict[str, str], tuple[str, ...]]:
    """Candidates, {their run or folder: label}, and those whose losses are guesses."""
    unknown = sorted(set(losses) - set(spec.teacher_labels()))
    if unknown:
        raise ConfigError(f"--teacher {unknown[0]}=...: the study's teachers are {', '.join(spec.teacher_labels())}")
    trained = {} if record is None else record.teachers
    guess = _guess([run for run in [*students, *trained.values()] if not run.teacher_run])
    found, names, untrained = [], {}, []
    for teacher in spec.teachers:
        if teacher.split != "teacher":  # a control: it has read what its students read
            continue
        run = next((r for r in trained.values() if _is_of(r, teacher)), None)
        source = run.run_id if run else teacher.source
        names[source] = teacher.label
        if teacher.path:
            distilled = next((r for r in students if r.teacher_run == source), None)
            found.append(_external(spec, teacher, distilled, losses.get(teacher.label)))
        else:
            size = student_size(spec, teacher.params, vocab)
            loss = losses.get(teacher.label) or (run.loss if run else None)
            if loss is None:
                untrained.append(teacher.label)
                loss = guess(size.params, teacher.tokens)
            at = (size.params, float(teacher.tokens)) if run else (None, None)  # it says what its size reaches alone
            flops = size.flops / TRAINING_FACTOR
            found.append(Candidate(name=teacher.label, loss=loss, flops=flops, params=at[0], tokens=at[1]))
    return found, names, tuple(untrained)


def _external(spec: StudySpec, teacher: TeacherSpec, distilled: Run | None, loss: float | None) -> Candidate:
    """A teacher from outside; a student of it knows its loss and price."""
    loss = loss or (distilled.number("teacher_loss") if distilled else None)
    if loss is None:
        raise ConfigError(
            f"the loss of the teacher {teacher.label} is not known yet: give --teacher {teacher.label}=LOSS, in "
            "nats/token on the study's held-out text"
        )
    if distilled:
        flops = distilled.number("teacher_flops") / distilled.tokens
    else:
        from distillaw.settling.pilots import teacher_costs  # looks into models: torch

        flops = teacher_costs(spec)[teacher.source]
    return Candidate(name=teacher.label, loss=loss, flops=flops)


def _is_of(run: Run, teacher: TeacherSpec) -> bool:
    """Whether a finished teacher is the one that the study file names."""
    if not teacher.params or str(run.row.get("split") or "teacher") != teacher.split:
        return False
    return run.label == teacher.params and nominal_tokens(run) == teacher.tokens


def _guess(supervised: Sequence[Run]) -> Callable[[float, float], float]:
    """Losses of a published law, moved to the level of the runs without a teacher."""
    law = published(GUESS).supervised
    assert law is not None, f"{GUESS} has a supervised law"
    off = [math.log(run.loss / float(law(params=run.params, tokens=run.tokens))) for run in supervised]
    level = math.exp(float(np.mean(off))) if off else 1.0
    return lambda params, tokens: level * float(law(params=params, tokens=tokens))


def nominal_tokens(run: Run) -> int:
    """The budget as the study asked for it: what was trained on is whole batches."""
    found = re.search(r"-(\d+)t$", run.run_id)
    return int(found.group(1)) if found else run.tokens


def _pilots(students: Sequence[Run], names: Mapping[str, str], first_seed: int) -> Iterator[PilotRun]:
    """The runs of known teachers and of none."""
    alone = {(run.label, nominal_tokens(run), run.seed): run for run in students if not run.teacher_run}
    for run in students:
        name = names.get(run.teacher_run, None) if run.teacher_run else NONE
        if name is None:
            continue
        pair = alone.get((run.label, nominal_tokens(run), run.seed))
        se = math.nan
        if name and pair is not None and pair.scores is not None and run.scores is not None:
            se = paired_difference(pair.scores, run.scores).se_documents
        yield PilotRun(
            candidate=name,
            params=float(run.params),
            tokens=float(nominal_tokens(run)),
            seed=run.seed - first_seed,
            loss=run.loss,
            gain_se=se,
            run_id=run.run_id,
        )


def with_budget(setup: Setup, budget: float) -> Setup:
    """The same question with a budget beside what was spent."""
    return replace(setup, question=replace(setup.question, budget=setup.spent + budget, spent=setup.spent))


FLOPS = 6.0
"""Of training, per parameter and token; a teacher's forward pass takes a third."""
UNPRICED = "teachers' forward passes are not counted: teacher_params is missing in some rows"


def setup_of_table(rows: Observations, asked: Asked) -> Setup:
    """The question of a table of runs (`fitting.observations.Observations`): every teacher in it is a candidate.

    FLOP are 6 N D, and 2 N_T D for a teacher of known size.

    Raises:
        ConfigError: no target, no teacher.
    """
    if asked.params is None or asked.tokens is None:
        raise ConfigError("name the student in question: --student 7B --tokens 1T")
    params, tokens = (parse_count(asked.params, name="--student"), parse_count(asked.tokens, name="--tokens"))
    distilled = np.isfinite(rows.teacher_loss)
    pairs = zip(rows.teacher_loss[distilled], np.nan_to_num(rows.teacher_params[distilled]), strict=True)
    known = sorted({(float(loss), float(size)) for loss, size in pairs})
    named = {(loss, size): _teacher_name(loss, size) for loss, size in known}
    candidates = tuple(Candidate(name=named[key], loss=key[0], flops=FLOPS / 3 * key[1]) for key in known)
    sizes = sorted({params / 2**k for k in range(HALVINGS + 1)} | {float(n) for n in rows.params if n <= params})
    unit = 10 ** max(0, math.floor(math.log10(min(tokens, float(rows.tokens.min())))) - 2)
    question = PilotQuestion(
        target=_plain(params),
        tokens=tokens,
        candidates=candidates,
        budget=math.inf,
        margin=MARGIN * min(c.loss for c in candidates) if asked.margin is None else asked.margin,
        sizes=tuple(_plain(n) for n in sizes),
        least_tokens=whole(min(float(rows.tokens.min()), tokens / 1000), unit),
        batch_tokens=unit,
    )
    notes = () if all(size for _, size in known) else (UNPRICED,)
    return Setup(question=question, runs=tuple(_table_runs(rows, named)), spec=None, notes=notes)


def _plain(params: float) -> Size:
    return Size(label=format_count(params, digits=4), params=params, flops=FLOPS * params)


def _teacher_name(loss: float, size: float) -> str:
    return f"{format_count(size)} teacher of {loss:.4g}" if size else f"teacher of {loss:.4g}"


def _table_runs(rows: Observations, named: Mapping[tuple[float, float], str]) -> Iterator[PilotRun]:
    """The rows, repeats of a cell counted as seeds."""
    seen: dict[tuple[float, float, str], int] = {}
    sizes = np.nan_to_num(rows.teacher_params)
    for N, D, loss, teacher, size in zip(rows.params, rows.tokens, rows.loss, rows.teacher_loss, sizes, strict=True):
        name = named[float(teacher), float(size)] if np.isfinite(teacher) else NONE
        cell = (float(N), float(D), name)
        seen[cell] = seen.get(cell, -1) + 1
        yield PilotRun(candidate=name, params=float(N), tokens=float(D), seed=seen[cell], loss=float(loss))
