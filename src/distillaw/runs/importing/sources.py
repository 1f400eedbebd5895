"""What a path holds, and its runs. Kinds are told by the files themselves, not by the user."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distillaw.errors import DataError
from distillaw.runs.importing.columns import Columns, Rows, rows_of
from distillaw.runs.importing.log import Log
from distillaw.runs.importing.tables import LoneRuns, read_runs_table
from distillaw.runs.importing.tensorboard_log import PATTERN, read_tensorboard
from distillaw.runs.importing.trackio_db import is_export, read_trackio
from distillaw.runs.importing.wandb_log import read_wandb
from distillaw.runs.select import select
from distillaw.runs.table import read_columns

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_OWN = {
    "run_id",
    "group",
    "role",
    "purpose",
    "params",
    "tokens",
    "teacher_run",
    "teacher_loss",
    "lambda",
    "init",
    "loss",
}
"""Columns by which a table of this package is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One path and the runs in it, or the rows of a run table of this package."""

    path: Path
    kind: str
    """`wandb`, `trackio`, `tensorboard`, `table` or `study`."""
    taken_for: str
    logs: tuple[Log, ...] = ()
    lone: LoneRuns | None = None
    rows: Rows | None = None

    @property
    def columns(self) -> list[str]:
        """Everything that some run has, in the order met."""
        names = {place: log.names for place, log in self.placed_logs()}
        if self.lone is not None:
            names[int(self.lone.places[0])] = list(self.lone.columns)
        return list(dict.fromkeys(name for place in sorted(names) for name in names[place]))

    @property
    def runs(self) -> list[str]:
        """Names of the runs."""
        names = {place: log.name for place, log in self.placed_logs()}
        if self.lone is not None:
            names |= zip(self.lone.places.tolist(), self.lone.names, strict=True)
        return [names[place] for place in sorted(names)]

    def placed_logs(self) -> list[tuple[int, Log]]:
        """The logs, each with its place among all runs."""
        total = len(self.logs) + (0 if self.lone is None else len(self.lone))
        free = np.ones(total, dtype=bool)
        if self.lone is not None:
            free[self.lone.places] = False
        return list(zip(np.flatnonzero(free).tolist(), self.logs, strict=True))


def open_source(path: Path, *, told: Mapping[str, str], where: Mapping[str, str], layout: str) -> Source:
    """Read one path.

    Args:
        path: a file or folder.
        told: {our name: column}, where the user said so.
        where: {column: value}; only runs (rows of a table) with these.
        layout: of tables, see `tables.py`.

    Raises:
        DataError: nothing is there, nothing known, several kinds at once, or it cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    kind, files = _what(path)
    if kind == "table":
        columns = read_columns(files[0])
        if is_export(columns) and told.get("run") not in columns:
            return _of_logs(path, "trackio", read_trackio(path), where)
        if not told and set(columns) >= _OWN:
            return _own_table(path, columns, where)
        table = read_runs_table(path, columns, told=told, where=where, layout=layout)
        return Source(
            path=path, kind="table", taken_for=table.taken_for, logs=tuple(table.logs), lone=table.lone
        )
    if kind == "study":
        return _own_table(path, read_columns(path), where)
    if kind == "wandb":
        return _of_logs(path, kind, read_wandb(files), where)
    if kind == "trackio":
        return _of_logs(path, kind, [log for file in files for log in read_trackio(file)], where)
    return _of_logs(path, kind, read_tensorboard(files, path if path.is_dir() else path.parent), where)


def _what(path: Path) -> tuple[str, list[Path]]:
    """The kind of a path and the files that hold its runs."""
    if path.is_file():
        kind = _kind_of_file(path)
        if kind is None:
            raise DataError(f"{path}: unknown kind of file. Known: {', '.join(TABLES)}, run-*.wandb (W&B), *.db "
                            "(trackio), *tfevents* (TensorBoard), a study folder")  # fmt: skip
        return kind, [path]
    if (path / "runs.parquet").is_file() or any(path.glob("runs/*/result.json")):
        return "study", [path]
    found = {
        "wandb": sorted(path.rglob("run-*.wandb")),
        "tensorboard": [
            f for f in sorted(path.rglob(PATTERN)) if not any(f.parent.parent.glob("run-*.wandb"))
        ],
        "trackio": [f for f in sorted(path.glob("*.db")) if _kind_of_file(f)],
    }
    kinds = [kind for kind, files in found.items() if files]
    if not kinds:
        tables = [f.relative_to(path).as_posix() for f in sorted(path.rglob("*")) if f.suffix in TABLES]
        hint = f"; name its tables themselves, e.g. {path / tables[0]}" if tables else ""
        raise DataError(f"{path}: no W&B, trackio or TensorBoard logs and no study in this folder{hint}")
    if len(kinds) > 1:
        raise DataError(f"{path}: holds logs of {' and '.join(kinds)}, perhaps of the same runs; name one of them, "
                        f"e.g. {found[kinds[0]][0].parent}")  # fmt: skip
    return kinds[0], found[kinds[0]]


def _kind_of_file(file: Path) -> str | None:
    if file.suffix.lower() in TABLES:
        return "table"
    if file.suffix == ".wandb":
        return "wandb"
    if "tfevents" in file.name:
        return "tensorboard"
    with file.open("rb") as stream:
        return "trackio" if stream.read(15) == b"SQLite format 3" else None


def _of_logs(path: Path, kind: str, logs: list[Log], where: Mapping[str, str]) -> Source:
    taken_for = f"{len(logs)} runs"
    if where:
        columns = dict.fromkeys(name for log in logs for name in log.constants)
        table = {name: _values([log.constants.get(name) for log in logs]) for name in columns}
        logs = [logs[i] for i in select(table, where)]
        taken_for = f"{len(logs)} of {taken_for}"
    return Source(path=path, kind=kind, taken_for=taken_for, logs=tuple(logs))


def _values(values: list[object]) -> np.ndarray:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=np.float64)
    return np.array([str(v) for v in values], dtype=object)


def _own_table(path: Path, columns: Columns, where: Mapping[str, str]) -> Source:
    rows = rows_of(columns)
    if where:
        rows = rows.take(select({name: _values(list(values)) for name, values in columns.items()}, where))
    rows = rows.with_origin("study", str(path))
    return Source(
        path=path, kind="study", taken_for=f"{len(rows)} rows of a run table of this package", rows=rows
    )


def with_details(
    source: Source, details: Mapping[str, Mapping[str, object]], fixed: Mapping[str, object]
) -> Source:
    """The source with settings by run name (`--details`) and settings of all runs (`--set`)."""
    if not details and not fixed:
        return source
    settings = {run: {**details.get(run, {}), **fixed} for run in source.runs}
    logs = tuple(log.with_constants(settings[log.name]) for log in source.logs)
    return replace(source, logs=logs, lone=source.lone and source.lone.with_constants(settings))
