"""Freeze predictions of design points that nobody has run: typed ones, or all that a study file still has to train.

Nothing here trains; a study fits its laws again, on the runs it has now. How they are scored is in scorecard.py.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distillaw.controls.api import check_design, doubted_law
from distillaw.errors import CacheError, ConfigError
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import fit_families, fit_laws
from distillaw.laws.published import PublishedLaw
from distillaw.quantities import did_you_mean, format_count, parse_count
from distillaw.runs.files import content_hash, read_json
from distillaw.runs.record import read_study
from distillaw.runs.spec import leading_arm, serves_laws
from distillaw.runs.store import StudyFolder
from distillaw.shapes import count_non_embedding, shape_for_params
from distillaw.sweep.checks import load_study
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import ReadyJobs, TrunkJob
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.study import read_progress, stored_facts
from distillaw.verifying.forecast import LEVELS, law_losses, plan_forecasts
from distillaw.verifying.frozen import (
    KIND,
    SAME,
    SCHEMA_VERSION,
    Frozen,
    FrozenChoice,
    FrozenPrediction,
    PredictedPoint,
    TableRun,
    point_json,
    predictions_folder,
    read_frozen,
    read_runs,
    seen_runs,
    write_frozen,
)
from distillaw.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """What freezing gave."""

    frozen: Frozen
    is_new: bool
    """False where the same predictions had been frozen before."""
    silent: Mapping[str, str]
    """Forecaster -> why it says nothing."""


def freeze_study(
    source: str | Path,
    points: Sequence[PredictedPoint],
    *,
    laws: Sequence[str] = (),
    level: float = 0.9,
    after_the_fact: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Freeze:
    """Freeze what every law says of design points that have not been run.

    Args:
        source: a study folder, or a table of runs (then by laws alone: `plan` needs a study).
        points: what to predict. Teachers must be trained: their losses are part of the question.
        laws: files of `distillaw fit --out` or names of published laws, instead of all laws of the study.
        level: of the intervals that hits are counted with.
        after_the_fact: predict design points that have been measured, too; they are marked and never counted.
        columns: {our name: column of the table}.

    Raises:
        ConfigError: nothing to predict, a design point that is measured already, or no law that could predict.
        DataError, CacheError: the runs cannot be read.
        RunError: the predictions that are there were tampered with, or cannot be written.
    """
    source = Path(source)
    if not 0.5 <= level < 1:
        raise ConfigError(f"level = {level}: intervals cover between 0.5 and 1, e.g. 0.9")
    runs = known_runs(source, columns)
    asked = _distinct(points)
    seen = [point for point in asked if seen_runs(point, runs)]
    if seen and not after_the_fact:
        raise ConfigError(
            f"{len(seen)} of {len(asked)} cells have been run already, e.g. {describe(seen[0])} "
            f"({seen_runs(seen[0], runs)[0]}); a prediction of what is known proves nothing. Leave them out, or freeze "
            "them with --after-the-fact: marked, never counted"
        )
    levels = [level, *(other for other in LEVELS if other != level)]
    forecasts = _Forecasts(source, asked, levels, laws, columns)
    if not forecasts.predictions:
        said = "; ".join(f"{name}: {why}" for name, why in forecasts.silent.items())
        raise ConfigError(f"{source}: no law predicts any of the {len(asked)} cells ({said})")
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "study": source.resolve().name,
        "table": source.name if source.is_file() else None,
        "version": __version__,
        "level": level,
        "columns": dict(columns or {}),
        "known_runs": {r.run_id: r.loss if math.isfinite(r.loss) else None for r in runs},  # JSON has no NaN
        "forecasters": forecasts.described,
        "silent": forecasts.silent,
        "cells": [{**point_json(point), "after_the_fact": point in seen} for point in asked],
        "predictions": [replace(p, after_the_fact=p.point in seen).to_json() for p in forecasts.predictions],
        "choices": [replace(c, after_the_fact=any(x in seen for x in c.points)).to_json() for c in forecasts.choices],
    }
    frozen, is_new = write_frozen(predictions_folder(source), content)
    return Freeze(frozen=frozen, is_new=is_new, silent=forecasts.silent)


def missing_points(source: str | Path, points: Sequence[PredictedPoint]) -> list[PredictedPoint]:
    """Those of the design points that no intact file has predicted before they were run."""
    intact = [one for one in read_frozen(predictions_folder(Path(source))) if one.is_intact]
    said = [p for one in intact for p in one.predictions if p.quantity == "loss" and not p.after_the_fact]
    return [point for point in points if not any(point.is_same(p.point) for p in said)]


def describe(point: PredictedPoint) -> str:
    """A design point in words."""
    teacher = "alone"
    if point.is_distilled:
        teacher = f"from {point.teacher or f'a teacher of loss {point.teacher_loss:.4f}'}"
    return f"{point.params:,.0f} parameters on {point.tokens:,.0f} tokens {teacher}"


def known_runs(source: Path, columns: Mapping[str, str] | None = None) -> list[TableRun]:
    """The rows of the table and, in a study folder, finished runs that the table does not have yet."""
    runs = read_runs(source, columns=columns)
    if source.is_dir() and (source / "runs.parquet").is_file() and (source / "runs").is_dir():
        there = {run.run_id for run in runs}
        if any(path.parent.name not in there for path in source.glob("runs/*/result.json")):
            runs += [run for run in read_runs(source / "runs") if run.run_id not in there]
    return runs


def _distinct(points: Sequence[PredictedPoint]) -> list[PredictedPoint]:
    found: list[PredictedPoint] = []
    for point in points:
        numbers = {"params": point.params, "tokens": point.tokens, "teacher_loss": point.teacher_loss}
        for name, value in numbers.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"cell {name} = {value}: it must be positive and finite")
        if min(point.params, point.tokens) < 1:
            raise ConfigError(f"{describe(point)}: parameters and tokens are counted, so there is at least one")
        if not any(point.is_same(other) for other in found):
            found.append(point)
    if not found:
        raise ConfigError("no cell to predict: name some with --cells params=..,tokens=..[,teacher=..]")
    return found


class _Forecasts:
    """Everything that is said of the design points, by whom, and who is silent."""

    def __init__(
        self,
        source: Path,
        points: Sequence[PredictedPoint],
        levels: Sequence[float],
        laws: Sequence[str],
        columns: Mapping[str, str] | None,
    ) -> None:
        self.predictions: list[FrozenPrediction] = []
        self.choices: list[FrozenChoice] = []
        self.described: list[dict[str, object]] = []
        self.silent: dict[str, str] = {}
        fitted: Mapping[str, FitResult | PublishedLaw]
        if laws:
            fitted = {Path(name).stem if Path(name).is_file() else name: load_law(name) for name in laws}
        elif source.is_dir():  # a study keeps its laws in laws/, where `plan` finds them
            controls = check_design(read_study(source))
            fitted, self.silent = fit_laws(source, mark=lambda fit: doubted_law(fit, controls))
        else:
            fitted, self.silent = fit_families(source, columns=columns)
        ids = {run.row: run.run_id for run in read_runs(source, columns=columns)}
        for name, law in fitted.items():
            found, why = law_losses(name, law, points, levels)
            if why:
                self.silent[name] = why
            else:
                self.predictions += found
                self.described.append(_describe_law(name, law, None if laws else ids))
        if not source.is_dir() or laws:
            return
        try:
            record = read_study(source)
        except CacheError as error:
            self.silent["consensus"] = str(error)
            return
        predictions, self.choices, silent = plan_forecasts(record, points, levels)
        self.predictions += predictions
        self.silent |= silent


def _describe_law(name: str, law: FitResult | PublishedLaw, ids: Mapping[int, str] | None) -> dict[str, object]:
    """What is needed to know a law again: its numbers, its status, and the runs it was fitted on."""
    if isinstance(law, PublishedLaw):
        return {"name": name, "family": "published", "status": "PUBLISHED", "runs": None}
    document = {k: v for k, v in law.to_json().items() if k != "seconds"}
    return {
        "name": name,
        "family": law.family,
        "status": law.status.name,
        "coefficients": law.params,
        "range": {k: list(v) for k, v in law.fitted_range.as_dict().items()},
        "num_rows": law.nobs,
        "num_groups": law.ngroups,
        "law_sha256": content_hash(document, digits=64),
        "intervals": law.calibration.label,
        "runs": None if ids is None else [ids[int(i)] for i in law.fitted_rows],
    }


Say = Callable[[str], None]
_KEYS = ("params", "tokens", "teacher", "teacher_loss")
_NEAR = 0.25
"""Sizes are known by round names: 388,080 parameters as 0.4M."""


def typed_points(
    typed: Iterable[Mapping[str, str]], source: Path, runs: Sequence[TableRun], say: Say = lambda line: None
) -> list[PredictedPoint]:
    """The design points of `params=0.4M,tokens=1.8M,teacher=0.8M@4M` and the like.

    Args:
        typed: {key: value} of each. `teacher` is `none` (the default), `all` (none and every teacher), a run id or
            SIZE@TOKENS; or `teacher_loss` stands for it.

    Raises:
        ConfigError: a text that cannot be read, or a teacher that is not in the table.
    """
    points: list[PredictedPoint] = []
    for asked in typed:
        if unknown := next((key for key in asked if key not in _KEYS), None):
            near = did_you_mean(unknown, _KEYS)
            raise ConfigError(f"--cells: unknown {unknown!r}{near}; known: {', '.join(_KEYS)}")
        if not {"params", "tokens"} <= asked.keys() or {"teacher", "teacher_loss"} <= asked.keys():
            words = ",".join(f"{key}={value}" for key, value in asked.items())
            raise ConfigError(
                f"--cells {words}: give params=..,tokens=.. and one of teacher=.., teacher_loss=.. or neither"
            )
        params = _exact_size(parse_count(asked["params"], name="--cells params"), source, runs, say)
        tokens = parse_count(asked["tokens"], name="--cells tokens")
        for name, loss in _asked_teachers(asked, runs):
            points.append(PredictedPoint(params=params, tokens=tokens, teacher=name, teacher_loss=loss))
    return points


def _exact_size(params: float, source: Path, runs: Sequence[TableRun], say: Say) -> float:
    """The exact count of a size: one of the table, else the shape that the study derives, else as typed."""
    sizes = sorted({run.point.params for run in runs})
    if same := [size for size in sizes if abs(size / params - 1) < SAME]:
        return min(same, key=lambda size: abs(size - params))
    if (source / "study.json").is_file():
        info = read_json(source / "study.json")
        spec, data = info.get("spec"), info.get("data")
        training = spec.get("training") if isinstance(spec, Mapping) else None
        if isinstance(training, Mapping) and isinstance(data, Mapping):
            own = {key: training[key] for key in ("context", "head_dim", "aspect")}
            return float(count_non_embedding(shape_for_params(params, vocab=int(data["vocab_size"]), **own)))
    if near := [size for size in sizes if abs(size / params - 1) < _NEAR]:
        others = ", ".join(f"{size:,.0f}" for size in near)
        say(
            f"warning: no run has {params:,.0f} parameters; {others} is another size, and its runs will not answer "
            "this prediction"
        )
    return params


def table_teachers(runs: Iterable[TableRun]) -> dict[str, float]:
    """Teacher, as runs name it -> its loss; every teacher that was trained or that a student had."""
    found: dict[str, float] = {}
    for run in runs:
        if run.role == "teacher" and run.purpose != "tuning":
            found[run.run_id] = run.loss
    for run in runs:
        if run.point.teacher and run.point.teacher_loss is not None:
            found.setdefault(run.point.teacher, run.point.teacher_loss)
    return found


def _asked_teachers(asked: Mapping[str, str], runs: Sequence[TableRun]) -> list[tuple[str, float | None]]:
    """(name, loss) of the teachers of one text; ("", None) is none."""
    if "teacher_loss" in asked:
        return [("", parse_count(asked["teacher_loss"], name="--cells teacher_loss"))]
    known = table_teachers(runs)
    name = asked.get("teacher", "none")
    if name == "none":
        return [("", None)]
    if name == "all":
        return [("", None), *known.items()]
    if name in known:
        return [(name, known[name])]
    trained = {run.run_id: run.point for run in runs if run.run_id in known}
    matching = [run_id for run_id, point in trained.items() if _is_labelled(name, point)]
    if len(matching) == 1:
        return [(matching[0], known[matching[0]])]
    labels = {i: f"{format_count(point.params)}@{format_count(point.tokens)}" for i, point in trained.items()}
    shown = ", ".join(labels.get(one, one) for one in known) or "none is trained yet"
    raise ConfigError(
        f"--cells teacher={name}: {'several' if matching else 'no'} trained teachers are meant; there are: {shown}. "
        "Name one by its run id or SIZE@TOKENS; a teacher must be trained before its students are predicted"
    )


def _is_labelled(name: str, point: PredictedPoint) -> bool:
    """Whether `0.8M@4M`, or `0.8M` alone, may mean this teacher."""
    size, _, tokens = name.partition("@")
    try:
        near = abs(parse_count(size) / point.params - 1) < _NEAR
        return near and (not tokens or abs(parse_count(tokens) / point.tokens - 1) < SAME)
    except ConfigError:
        return False


def study_points(
    study: Path,
    folder: Path,
    runs: Sequence[TableRun],
    *,
    holdout: bool,
    corpus: str | None,
    say: Say = lambda line: None,
) -> list[PredictedPoint]:
    """The design points of a study file that have not been run in its folder.

    Args:
        holdout: only those that are held out.
        corpus: the text, where the file names none.

    Raises:
        ConfigError: nothing is left to predict, or rates or teachers are not known yet.
    """
    data = read_json(folder / "study.json").get("data")
    if not isinstance(data, Mapping):
        raise ConfigError(f"{folder}: study.json does not say what text it is of; run the study up to its teachers")
    ready = _ready(load_study(study, corpus=corpus or str(data.get("corpus") or "") or None), folder)
    points = [point for point in job_points(ready.jobs, runs, holdout=holdout) if not seen_runs(point, runs)]
    for reason in ready.waiting:
        say(f"not predicted: {reason}")
    if not points:
        what = "held-out students" if holdout else "students that are not trained yet"
        raise ConfigError(f"{study}: no {what} whose teachers are trained; see `distillaw study show {study}`")
    return points


def freeze_holdout(spec: StudySpec, folder: Path, say: Say = lambda line: None) -> None:
    """Between two calls of `run_study`: freeze what is held out and not frozen yet, once everything else is trained.

    Raises:
        ConfigError: no law or plan has anything to say of a held-out student.
        RunError: predictions that are there were tampered with.
    """
    runs = known_runs(folder)
    missing = missing_points(folder, job_points(_ready(spec, folder).jobs, runs, holdout=True))
    left = [point for point in missing if not seen_runs(point, runs)]
    if len(left) < len(missing):
        say(f"{len(missing) - len(left)} held-out students were run before they were predicted: they do not count")
    if left:
        found = freeze_study(folder, left)
        say(f"frozen: predictions of {len(left)} held-out students, {found.frozen.path}\nhash    {found.frozen.hash}")


def _ready(spec: StudySpec, folder: Path) -> ReadyJobs:
    """The study's jobs as far as what is on disk decides them."""
    study = StudyFolder(folder)
    facts = stored_facts(study)
    assert facts is not None, "callers have read study.json"
    return Planner(spec, facts, read_progress(study)).ready_jobs()


def job_points(jobs: Iterable[TrunkJob], runs: Sequence[TableRun], *, holdout: bool) -> list[PredictedPoint]:
    """The design points that jobs will measure, of one arm (`leading_arm`), whose seeds share one.

    Controls and searches are none.
    """
    jobs, teachers = list(jobs), table_teachers(runs)
    students = [job.trunk for job in jobs if job.trunk.role == "student" and serves_laws(job.trunk.purpose)]
    arm = leading_arm(trunk.start_arm for trunk in students) if students else ""
    purposes = ("holdout",) if holdout else ("holdout", "grid")
    points: list[PredictedPoint] = []
    for job in jobs:
        trunk = job.trunk
        if trunk.role != "student" or trunk.purpose not in purposes or trunk.start_arm != arm:
            continue
        if arm == "pruned" and not trunk.teacher_run:  # one for each model to cut from: no point of laws
            continue
        if trunk.teacher_run and trunk.teacher_run not in teachers:
            raise ConfigError(
                f"teacher {trunk.teacher_run}: its loss is not known yet; train it (or one student from it) before "
                "predictions are frozen"
            )
        loss = teachers[trunk.teacher_run] if trunk.teacher_run else None
        for tokens in job.budgets:
            size, name = float(trunk.params), trunk.teacher_run or ""
            point = PredictedPoint(params=size, tokens=float(tokens), teacher=name, teacher_loss=loss)
            if not any(point.is_same(other) for other in points):
                points.append(point)
    return points
