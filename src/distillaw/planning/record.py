"""What a study folder holds, read once: runs that are done, runs that are not, searches, laws, provenance.

The run folders are the truth; `runs.parquet`, where it exists, says which of them belong to the present study
file and what each served for. Anything missing or damaged is noted in `problems` and the rest is used: a report
of half a study is better than none.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.errors import CacheError, DataError
from distillaw.quantities import format_count
from distillaw.runs.files import read_json
from distillaw.runs.paired import DocumentScores, read_scores
from distillaw.runs.spec import serves_laws

if TYPE_CHECKING:
    from distillaw.fitting.result import FitResult

SAME_SIZE = 0.25
"""Sizes that differ by less than this share are one size: shapes come in steps, so `0.1M` may be 92k exactly."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run: its result and, on demand, its held-out losses by document."""

    row: Mapping[str, object]
    folder: Path | None

    @property
    def run_id(self) -> str:
        """Name of the run and of its folder."""
        return str(self.row["run_id"])

    @property
    def params(self) -> int:
        """Non-embedding parameters."""
        return int(self.row["params"])  # type: ignore[call-overload]

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return int(self.row["tokens"])  # type: ignore[call-overload]

    @property
    def seed(self) -> int:
        """Seed of initialisation and data order."""
        return int(self.row["seed"])  # type: ignore[call-overload]

    @property
    def loss(self) -> float:
        """Held-out loss, nats/token."""
        return self.number("loss")

    @property
    def loss_se(self) -> float:
        """Its standard error over documents, nats/token; NaN where it was not written."""
        return self.number("loss_se")

    @property
    def teacher_run(self) -> str | None:
        """Run id of the teacher; None if trained on the data alone."""
        value = self.row.get("teacher_run")
        return None if value is None or value == "" else str(value)

    @cached_property
    def label(self) -> str:
        """The size as the study names it, e.g. `0.3M`."""
        spec = self.folder / "spec.json" if self.folder else None
        if spec is not None and spec.exists():
            try:
                return str(read_json(spec).get("label") or format_count(self.params))
            except CacheError:
                pass
        return format_count(self.params)

    @property
    def purpose(self) -> str:
        """`teacher`, `grid`, `tuning`, `holdout` or `control:NAME`."""
        return str(self.row.get("purpose") or ("teacher" if self.row.get("role") == "teacher" else "grid"))

    @property
    def branch_lr(self) -> float:
        """The rate its cooldown began at; of runs that do not say, their peak: it did not fall."""
        rate = self.number("branch_lr")
        return self.number("peak_lr") if math.isnan(rate) else rate

    def number(self, key: str) -> float:
        """A numeric entry of the row; NaN where it is missing."""
        value = self.row.get(key)
        return float(value) if isinstance(value, int | float) else math.nan

    @cached_property
    def scores(self) -> DocumentScores | None:
        """Per-document losses, or None where they were not kept, cannot be read, or are of one document alone."""
        if self.folder is None or not (self.folder / "heldout.parquet").exists():
            return None
        try:
            scores = read_scores(self.folder / "heldout.parquet")
        except (CacheError, DataError):
            return None
        return scores if len(scores.tokens) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedRun:
    """A run without a result: failed, still running, or only planned."""

    run_id: str
    state: str
    error: str


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study folder in memory."""

    folder: Path
    info: Mapping[str, object]
    """study.json; empty where it is missing."""
    runs: Sequence[Run]
    unfinished: Sequence[UnfinishedRun]
    tuning: Mapping[str, object]
    """tuning.json; empty where it is missing."""
    problems: Sequence[str]
    """What could not be read, one sentence each."""

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.info.get("name") or self.folder.name)

    @property
    def students(self) -> list[Run]:
        """Finished students of the grid (not of searches and controls), in a fixed order."""
        return [run for run in self.runs if run.row.get("role") == "student" and serves_laws(run.purpose)]

    @property
    def every_teacher(self) -> dict[str, Run]:
        """Finished teachers by run id, worst loss first."""
        found = [run for run in self.runs if run.row.get("role") == "teacher" and serves_laws(run.purpose)]
        return {run.run_id: run for run in sorted(found, key=lambda run: -run.loss)}

    @property
    def teachers(self) -> dict[str, Run]:
        """Those among which one chooses: not those that have read their students' text (a control)."""
        return {name: run for name, run in self.every_teacher.items() if run.row.get("split") != "student"}

    @property
    def target(self) -> tuple[float, float] | None:
        """(student_params, student_tokens) that the study was made to decide on."""
        target = self.info.get("target")
        if (
            not isinstance(target, Mapping)
            or not target.get("student_params")
            or not target.get("student_tokens")
        ):
            return None
        return float(target["student_params"]), float(target["student_tokens"])

    @cached_property
    def laws(self) -> "dict[str, FitResult]":
        """Fits stored in laws/*.json by file stem; unreadable ones are left out."""
        return dict(self._read_laws())

    def _read_laws(self) -> "Iterator[tuple[str, FitResult]]":
        from distillaw.fitting.result import FitResult

        for path in sorted((self.folder / "laws").glob("*.json")):
            if not path.name.endswith(".error.json"):
                with contextlib.suppress(DataError, OSError, KeyError, TypeError, ValueError):
                    yield path.stem, FitResult.load(path)

    @cached_property
    def law_errors(self) -> dict[str, str]:
        """Why a family was not fitted, by family."""
        found = {}
        for path in sorted((self.folder / "laws").glob("*.error.json")):
            with contextlib.suppress(CacheError):
                found[path.name.removesuffix(".error.json")] = str(read_json(path).get("error", ""))
        return found


def read_study(folder: Path) -> StudyRecord:
    """Read a study folder, whatever state it is in.

    Raises:
        CacheError: there is no such folder, or nothing in it is a study.
    """
    folder = Path(folder)
    if folder.is_file():
        raise CacheError(
            f"{folder}: a file, not the folder of a study; name the folder `study run` or `recipe` wrote"
        )
    if not folder.is_dir():
        raise CacheError(f"{folder}: no such folder; `distillaw study run STUDY.toml` makes one")
    problems: list[str] = []
    runs, unfinished = _read_runs(folder, problems)
    info = _read_optional(folder / "study.json", problems)
    if not info and not runs and not unfinished:
        raise CacheError(
            f"{folder}: not a study folder (no study.json, no runs/); name the folder `study run` or `recipe` wrote"
        )
    return StudyRecord(
        folder=folder, info=info, runs=runs, unfinished=unfinished,
        tuning=_read_optional(folder / "tuning.json", problems), problems=tuple(problems),
    )  # fmt: skip


def _read_optional(path: Path, problems: list[str]) -> Mapping[str, object]:
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except CacheError as error:
        problems.append(str(error))
        return {}


def _read_runs(folder: Path, problems: list[str]) -> tuple[list[Run], list[UnfinishedRun]]:
    """Finished and unfinished runs, each sorted by run id."""
    done, unfinished = [], []
    for path in sorted((folder / "runs").glob("*/")):
        if (path / "result.json").exists():
            row = _read_optional(path / "result.json", problems)
            if row and isinstance(row.get("loss"), int | float) and math.isfinite(float(row["loss"])):  # type: ignore[arg-type]
                done.append(Run(row={"run_id": path.name, **row}, folder=path))
            elif row:
                problems.append(f"{path.name}: its result has no finite loss; it is left out")
        elif (path / "status.json").exists():
            status = _read_optional(path / "status.json", problems)
            state, error = str(status.get("state", "unknown")), str(status.get("error") or "")
            unfinished.append(UnfinishedRun(run_id=path.name, state=state, error=error))
    return _of_this_study(folder, done, problems), unfinished


def _of_this_study(folder: Path, done: list[Run], problems: list[str]) -> list[Run]:
    """The runs that the table names, with their purpose in this study; all of them where there is no table."""
    if not (folder / "runs.parquet").exists():
        return done
    try:
        table = {str(row["run_id"]): row for row in _read_table(folder / "runs.parquet")}
    except (OSError, KeyError, ValueError) as error:
        problems.append(f"runs.parquet: cannot be read ({error}); the run folders are used as they are")
        return done
    if not done:
        problems.append(
            "no run folders came along; losses are taken from runs.parquet, so nothing can be paired"
        )
        return [Run(row=row, folder=None) for row in table.values()]
    kept = [Run(row={**run.row, "purpose": table[run.run_id].get("purpose")}, folder=run.folder)
            for run in done if run.run_id in table]  # fmt: skip
    if others := len(done) - len(kept):
        problems.append(f"{others} finished runs do not belong to the present study file; they are left out")
    if missing := len(table.keys() - {run.run_id for run in done}):
        problems.append(f"{missing} runs of runs.parquet have no readable folder; they are left out")
    return kept


def _read_table(path: Path) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    return sorted(pq.read_table(path).to_pylist(), key=lambda row: str(row["run_id"]))


def is_near(value: float, wanted: float, *, within: float = SAME_SIZE) -> bool:
    """True if two positive numbers differ by less than the share `within`, in logarithm."""
    return abs(math.log(value / wanted)) < math.log1p(within)


def budget_text(tokens: float) -> str:
    """A token budget by the round number it was meant to be: whole batches make 80k into 79,872."""
    nominal = float(f"{tokens:.2g}")
    return format_count(nominal if is_near(tokens, nominal, within=0.01) else tokens)
