"""Freeze predictions of design points that nobody has run, and ask whether design points are frozen.

    freeze_study(folder, design points)      what every law and `plan` say of them, in a file with a hash
    is_frozen(folder, design points)         whether an intact file has predicted all of them before they were run

How they are scored is in scoring.py. Nothing here trains; a study fits its laws again, on the runs it has now.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distillaw.controls.api import check_design, doubted_law
from distillaw.errors import CacheError, ConfigError
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import fit_families, fit_laws
from distillaw.laws.published import PublishedLaw
from distillaw.runs.files import content_hash
from distillaw.runs.record import read_study
from distillaw.verifying.design_points import PredictedPoint, TableRun, read_runs, seen_runs
from distillaw.verifying.forecast import LEVELS, law_losses, plan_forecasts
from distillaw.verifying.frozen import (
    KIND,
    SCHEMA_VERSION,
    Frozen,
    FrozenChoice,
    FrozenPrediction,
    finite_or_none,
    frozen_points,
    point_json,
    predictions_folder,
    read_frozen,
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
        "known_runs": {r.run_id: finite_or_none(r.loss) for r in runs},
        "forecasters": forecasts.described,
        "silent": forecasts.silent,
        "cells": [{**point_json(point), "after_the_fact": point in seen} for point in asked],
        "predictions": [replace(p, after_the_fact=p.point in seen).to_json() for p in forecasts.predictions],
        "choices": [
            replace(c, after_the_fact=any(x in seen for x in c.points)).to_json() for c in forecasts.choices
        ],
    }
    frozen, is_new = write_frozen(predictions_folder(source), content)
    return Freeze(frozen=frozen, is_new=is_new, silent=forecasts.silent)


def missing_points(source: str | Path, points: Sequence[PredictedPoint]) -> list[PredictedPoint]:
    """Those of the design points that no intact file has predicted before they were run."""
    done = frozen_points(read_frozen(predictions_folder(Path(source))))
    return [point for point in points if not any(point.is_same(other) for other in done)]


def is_frozen(source: str | Path, points: Sequence[PredictedPoint]) -> bool:
    """Whether every design point has been predicted before it was run, in a file that is intact."""
    return not missing_points(source, points)


def describe(point: PredictedPoint) -> str:
    """A design point in words."""
    teacher = (
        f"from {point.teacher or f'a teacher of loss {point.teacher_loss:.4f}'}"
        if point.is_distilled
        else "alone"
    )
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
            raise ConfigError(
                f"{describe(point)}: parameters and tokens are counted, so there is at least one"
            )
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
        else:
            fitted = self._fit(source, columns)
        ids = [run.run_id for run in read_runs(source, columns=columns)]
        for name, law in fitted.items():
            found, why = law_losses(name, law, points, levels)
            if why:
                self.silent[name] = why
            else:
                self.predictions += found
                self.described.append(_describe_law(name, law, None if laws else ids))
        if source.is_dir() and not laws:
            self._ask_plan(source, points, levels)

    def _fit(self, source: Path, columns: Mapping[str, str] | None) -> dict[str, FitResult]:
        """The laws on the runs there are now; a study keeps them in laws/, where `plan` finds them."""
        if source.is_dir():
            controls = check_design(read_study(source))
            fits, errors = fit_laws(source, mark=lambda fit: doubted_law(fit, controls))
        else:
            fits, errors = fit_families(source, columns=columns)
        self.silent |= errors
        return fits

    def _ask_plan(self, source: Path, points: Sequence[PredictedPoint], levels: Sequence[float]) -> None:
        try:
            record = read_study(source)
        except CacheError as error:
            self.silent["consensus"] = str(error)
            return
        predictions, self.choices, silent = plan_forecasts(record, points, levels)
        self.predictions += predictions
        self.silent |= silent


def _describe_law(name: str, law: FitResult | PublishedLaw, ids: Sequence[str] | None) -> dict[str, object]:
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
