"""What a prediction is about, and the runs that answer it: rows of a run table, joined by size, tokens and teacher.

A design point is one student size, token budget and teacher (or none); `[[cells]]` of study files and tables call it a
cell. Its measurement is the mean over the seeds that were run. Tuning runs and controls (runs that differ from the grid
in more than size, tokens, teacher and seed) never count.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillaw.fitting.columns import match_columns, unit_scale
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
    size = len(data[str(found["params"])])

    def number(name: str, i: int) -> float:
        column = found[name]
        return math.nan if column is None else _number(data[column][i])

    def word(column: str, i: int) -> str:
        return _word(data[column][i]) if column in data else ""

    runs = []
    for i in range(size):
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
