"""What is predicted, the runs that answer it, and the files of frozen predictions: append-only, hashed, chained.

A design point is one student size, token budget and teacher (or none); `[[cells]]` of study files and tables call it a
cell. Its measurement is the mean over the seeds that were run. Tuning runs and controls (runs that differ from the grid
in more than size, tokens, teacher and seed) never count. Files: predictions/2026-11-21-3f9c0a1b2d.json.

The hash is SHA-256 of the canonical JSON (sorted keys, no spaces, full float precision) of everything but itself. It
shows that a file was changed, and the chain that one is missing; neither proves *when* a file was made. For that the
hash must have been put where others saw it: a commit, an e-mail, a page.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.errors import CacheError, RunError
from distillaw.fitting.observations import arms_in, match_columns, unit_scale, usual_arm
from distillaw.runs.files import content_hash, read_json, write_json
from distillaw.runs.lock import held
from distillaw.runs.spec import serves_laws
from distillaw.runs.table import read_table

SAME = 0.01
"""Sizes and budgets that differ by less than this share are one: budgets are rounded to whole batches."""
SAME_LOSS = 1e-3
"""The same for the losses of teachers that have no name."""
CONDITIONS = ("lambda", "temperature", "init", "split")
"""Columns in which the runs of one design point may not differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedPoint:
    """One student size and token budget, without a teacher or from one."""

    params: float
    """N_S, non-embedding parameters."""
    tokens: float
    """D_S."""
    teacher: str = ""
    """Run id or path of the teacher, as the run table names it; empty for none, or for one without a name."""
    teacher_loss: float | None = None
    """L_T, nats/token; None trains on the data alone."""

    @property
    def is_distilled(self) -> bool:
        """Whether there is a teacher."""
        return self.teacher_loss is not None

    @property
    def supervised(self) -> "PredictedPoint":
        """The same student without a teacher."""
        return PredictedPoint(params=self.params, tokens=self.tokens)

    def is_same(self, other: "PredictedPoint") -> bool:
        """Whether both are one design point."""
        if not (_near(self.params, other.params, SAME) and _near(self.tokens, other.tokens, SAME)):
            return False
        if self.teacher_loss is None or other.teacher_loss is None:
            return self.is_distilled == other.is_distilled
        if self.teacher and other.teacher:
            return self.teacher == other.teacher
        return _near(self.teacher_loss, other.teacher_loss, SAME_LOSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRun:
    """One row of a run table."""

    run_id: str
    point: PredictedPoint
    loss: float
    """Nats/token; NaN where none was measured."""
    seed: str
    role: str
    purpose: str
    conditions: tuple[str, ...]
    """Values of `CONDITIONS`, as text."""
    row: int
    """Of the whole table, from 0: runs of other starts are left out of the list, but laws count rows."""

    @property
    def is_student(self) -> bool:
        """Whether it is a student like those that are predicted: no control; a search's run has the same settings."""
        return self.role != "teacher" and (self.purpose == "tuning" or serves_laws(self.purpose))

    @property
    def answers(self) -> bool:
        """Whether it may be the measurement of a design point."""
        return self.is_student and self.purpose != "tuning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The runs of one design point, or why they are no measurement."""

    loss: float
    """Mean over seeds, nats/token; NaN where `problem` says why."""
    runs: Sequence[TableRun]
    problem: str = ""

    @property
    def by_seed(self) -> dict[str, float]:
        """Seed -> loss."""
        return {run.seed: run.loss for run in self.runs}


def read_runs(table: str | Path, *, columns: Mapping[str, str] | None = None) -> list[TableRun]:
    """The rows of a run table.

    Args:
        table: a study folder, or a file that `distillaw.fit` reads. Rows without a run_id go by their number.
        columns: {our name: column of the table}.

    Raises:
        DataError: it cannot be read, or has no column for size, tokens or loss.
        UnitError: the losses do not look like nats per token.
    """
    data = read_table(table)
    found = match_columns(data, dict(columns or {}), None)
    unit_scale(found["loss"], data, None)

    def number(name: str, i: int) -> float:
        column = found[name]
        return math.nan if column is None else _number(data[column][i])

    def word(column: str, i: int) -> str:
        return _word(data[column][i]) if column in data else ""

    runs = []
    arms = arms_in(data)
    kept = arms == usual_arm(data, arms)  # those that laws are fitted on
    if "role" in data:
        kept |= np.asarray(data["role"], dtype=object) == "teacher"
    for i in np.flatnonzero(kept).tolist():
        run_id, loss = word("run_id", i) or f"row {i + 1}", number("teacher_loss", i)
        point = PredictedPoint(
            params=number("params", i),
            tokens=number("tokens", i),
            teacher=word("teacher_run", i),
            teacher_loss=None if math.isnan(loss) else loss,
        )
        run = TableRun(
            run_id=run_id,
            seed=word("seed", i) or run_id,
            role=word("role", i),
            purpose=word("purpose", i),
            conditions=tuple(word(name, i) for name in CONDITIONS),
            loss=number("loss", i),
            point=point,
            row=i,
        )
        runs.append(run)
    return runs


def measure(point: PredictedPoint, runs: Iterable[TableRun]) -> Measurement | None:
    """What the runs of a design point came to; None where there are none.

    Not a measurement: a loss that is not a number, and runs that mix settings.
    """
    own = [run for run in runs if run.answers and point.is_same(run.point)]
    if not own:
        return None
    bad = [run for run in own if not (math.isfinite(run.loss) and run.loss > 0)]
    if bad:
        return Measurement(loss=math.nan, runs=own, problem=f"{bad[0].run_id}: its loss is {bad[0].loss}")
    for k, name in enumerate(CONDITIONS):
        if len(values := sorted({run.conditions[k] for run in own})) > 1:
            return Measurement(loss=math.nan, runs=own, problem=f"its runs mix {name} = {', '.join(values)}")
    return Measurement(loss=float(np.mean([run.loss for run in own])), runs=own)


def seen_runs(point: PredictedPoint, runs: Iterable[TableRun]) -> list[str]:
    """The runs that give away something of a design point: any of it, tuning runs too."""
    return [run.run_id for run in runs if run.is_student and point.is_same(run.point)]


def _near(a: float, b: float, within: float) -> bool:
    return a > 0 and b > 0 and abs(math.log(a / b)) < math.log1p(within)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _word(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


KIND = "distillaw frozen predictions"
SCHEMA_VERSION = 1
"""Of these files: raised when what their keys mean changes."""
_STAMPS = ("frozen_at", "number", "previous", "hash")
"""What differs between two freezes of the same predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPrediction:
    """What one forecaster says of one design point: the loss of one run, or its gain over no teacher."""

    by: str
    """The law, or `consensus`, `paired runs`, `laws of the study` as `plan` weighs them."""
    quantity: str
    """`loss`, or `gain`: the loss of the same student without a teacher minus this one's."""
    point: PredictedPoint
    mean: float
    """Nats/token."""
    intervals: Mapping[float, tuple[float, float]]
    """Level -> (lower, upper) of a single new run; empty where the forecaster states no error."""
    inside_range: bool
    """Whether the design point lies in the range of the runs behind the forecaster."""
    efolds_outside: Mapping[str, float]
    """Coordinate -> e-folds beyond that range: ln(N / N_max), ln(D / D_max), ten times that of the teacher's loss."""
    probability_positive: float | None = None
    """Of a positive gain."""
    after_the_fact: bool = False
    """The design point had been measured already: shown, never counted."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; levels become text, and the point's entries stand among the others."""
        row = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "point"}
        intervals = {f"{level:g}": list(ends) for level, ends in self.intervals.items()}
        return {**row, **point_json(self.point), "intervals": intervals}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "FrozenPrediction":
        """The prediction that `to_json` wrote."""
        known: dict[str, Any] = {field.name: row[field.name] for field in fields(cls) if field.name != "point"}
        known["intervals"] = {float(level): (low, high) for level, (low, high) in row["intervals"].items()}
        return cls(point=point_from_json(row), **known)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenChoice:
    """Which of several teachers will be the best for one student and token budget."""

    by: str
    points: Sequence[PredictedPoint]
    """One per teacher."""
    probabilities: Sequence[float]
    """Of each to have the lowest loss."""
    after_the_fact: bool = False

    @property
    def best(self) -> int:
        """The likeliest."""
        return max(range(len(self.points)), key=lambda j: self.probabilities[j])

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        cells, shares = [point_json(point) for point in self.points], list(self.probabilities)
        return {"by": self.by, "cells": cells, "probabilities": shares, "after_the_fact": self.after_the_fact}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "FrozenChoice":
        """The choice that `to_json` wrote."""
        points = [point_from_json(point) for point in row["cells"]]
        return cls(points=points, **{key: row[key] for key in ("by", "probabilities", "after_the_fact")})


def point_json(point: PredictedPoint) -> dict[str, object]:
    """A design point as plain JSON values."""
    return {**asdict(point), "teacher": point.teacher or None}


def point_from_json(row: Mapping[str, Any]) -> PredictedPoint:
    """The design point that `point_json` wrote, among whatever else."""
    known: dict[str, Any] = {field.name: row[field.name] for field in fields(PredictedPoint)}
    known["teacher"] = row["teacher"] or ""
    return PredictedPoint(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """One file of frozen predictions."""

    path: Path
    document: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """As the file states it."""
        return str(self.document.get("hash"))

    @property
    def is_intact(self) -> bool:
        """Whether the content is the one that was hashed."""
        return self.hash == document_hash(self.document)

    @property
    def level(self) -> float:
        """Of the intervals that hits are counted with."""
        return float(self.document["level"])

    @property
    def known(self) -> dict[str, float | None]:
        """Run id -> loss of every run there was when the predictions were frozen; None for no finite loss."""
        return dict(self.document["known_runs"])

    @property
    def predictions(self) -> list[FrozenPrediction]:
        """All of them."""
        return [FrozenPrediction.from_json(row) for row in self.document["predictions"]]

    @property
    def choices(self) -> list[FrozenChoice]:
        """All of them."""
        return [FrozenChoice.from_json(row) for row in self.document["choices"]]


def document_hash(document: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of everything but `hash`."""
    return content_hash({k: v for k, v in document.items() if k != "hash"}, digits=64)


def predictions_folder(source: Path) -> Path:
    """Where the predictions of a study folder, or of a table of runs, lie."""
    return source / "predictions" if source.is_dir() else source.with_suffix(".predictions")


def frozen_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as frozen predictions are, by a date."""
    return sorted(folder.glob("[0-9]*.json"))


def read_frozen(folder: Path) -> list[Frozen]:
    """Every file of frozen predictions in a folder, oldest first; tampered ones too."""
    found = []
    for path in frozen_files(folder):
        document = read_json(path)
        if document.get("kind") != KIND or not isinstance(document.get("number"), int):
            raise CacheError(f"{path}: not a file of frozen predictions; move it out of {folder}")
        if document.get("schema_version") != SCHEMA_VERSION:
            raise CacheError(
                f"{path}: schema_version {document.get('schema_version')}, this version reads {SCHEMA_VERSION}"
            )
        found.append(Frozen(path=path, document=document))
    return sorted(found, key=lambda one: (one.document["number"], one.path.name))


def chain_problems(files: Sequence[Frozen]) -> list[str]:
    """What is wrong with a folder's files, oldest first: changed, dropped, or forked."""
    found = [
        f"TAMPERED: {one.path.name} states hash {one.hash[:10]}, its content has "
        f"{document_hash(one.document)[:10]}; none of its predictions count"
        for one in files
        if not one.is_intact
    ]
    for before, one in zip([None, *files], files, strict=False):
        asked = one.document.get("previous")
        there = None if before is None else before.hash
        if asked != there:
            found.append(
                f"BROKEN CHAIN: {one.path.name} follows {str(asked)[:10]}, but the file before it is "
                f"{'missing' if there is None else there[:10]}: one was dropped, changed or added"
            )
    return found


def write_frozen(folder: Path, content: Mapping[str, object]) -> tuple[Frozen, bool]:
    """Append a file, or find the one that has the same content: everything but time, number and hashes.

    Returns:
        The file, and whether it is new.
    """
    with held(folder, f"the predictions in {folder}"):
        files = read_frozen(folder)
        if problems := chain_problems(files):
            raise RunError(f"{folder}: {problems[0]}. Nothing is added to a broken chain; restore the file from a copy")
        for one in files:
            undated = {key: value for key, value in one.document.items() if key not in _STAMPS}
            if content_hash(undated) == content_hash(dict(content)):
                return one, False
        document: dict[str, object] = {
            **content,
            "number": len(files) + 1,
            "previous": files[-1].hash if files else None,
            "frozen_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        document["hash"] = document_hash(document)
        path = folder / f"{str(document['frozen_at'])[:10]}-{str(document['hash'])[:10]}.json"
        write_json(path, document, is_ours=False)  # it has a hash of its own, that the next file names
        path.chmod(0o444)
        return Frozen(path=path, document=document), True
