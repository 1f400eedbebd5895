"""What a path holds, and its runs: tables, trackers' logs, study folders, told by the files and not by the user.

A CSV, JSON lines or Parquet file is a table of runs (a row each, or several rows a run), or the log of a single run.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, DataError
from distillaw.runs.files import content_hash, file_sha256
from distillaw.runs.importing.log import Log, Series
from distillaw.runs.importing.names import GROUP_NAMES, RUN_NAMES, STEP_NAMES, find_column, first_of, usual
from distillaw.runs.importing.table import Array, Columns, ImportedRows, numbers, rows_of
from distillaw.runs.importing.trackers import PATTERN, is_export, read_tensorboard, read_trackio, read_wandb
from distillaw.runs.table import read_columns, select

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_OWN = set("run_id group role purpose params tokens teacher_run teacher_loss lambda init loss".split())
"""Columns by which a table of this package is known."""


LAYOUTS = ("auto", "runs", "log")
_PLAIN_STEMS = {"metrics", "log", "logs", "history", "train", "train_log", "training_log", "eval"}
"""File names that say nothing of the run; the folder does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneRuns:
    """The runs of a table that have one row each: what a lone row says never changes, so none has a history."""

    source: Path
    sha256: str
    names: Sequence[str]
    places: NDArray[np.int64]
    """Which of the table's runs each is."""
    digests: Sequence[str]
    """Hash of what stands in each row."""
    troubles: Sequence[str]
    """Of each why it is no finished run; empty where nothing says so."""
    columns: Columns

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.names)

    def column(self, name: str) -> Sequence[object]:
        """A column; None in every row where there is no such column."""
        return self.columns[name] if name in self.columns else [None] * len(self)

    def with_constants(self, values: Mapping[str, Mapping[str, object]]) -> "LoneRuns":
        """The same runs with settings by run name, which replace those of the table."""
        columns = {name: list(column) for name, column in self.columns.items()}
        for i, run in enumerate(self.names):
            for name, value in values.get(run, {}).items():
                if name not in columns:
                    columns[name] = [None] * len(self)
                columns[name][i] = value
        return replace(self, columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """One path and the runs in it, or the rows of a run table of this package."""

    path: Path
    kind: str
    """`wandb`, `trackio`, `tensorboard`, `table` or `study`."""
    taken_for: str
    logs: tuple[Log, ...] = ()
    lone: LoneRuns | None = None
    rows: ImportedRows | None = None

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


def open_source(path: Path, *, told: Mapping[str, str], where: Mapping[str, str], layout: str) -> RunSource:
    """Read one path.

    Args:
        told: {our name: column}, where the user said so.
        layout: of tables: `runs`, `log` (the file is one run's log) or `auto`.
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
        return _runs_table(path, columns, told=told, where=where, layout=layout)
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
            raise DataError(
                f"{path}: unknown kind of file. Known: {', '.join(TABLES)}, run-*.wandb (W&B), *.db "
                "(trackio), *tfevents* (TensorBoard), a study folder"
            )
        return kind, [path]
    if (path / "runs.parquet").is_file() or any(path.glob("runs/*/result.json")):
        return "study", [path]
    events = (f for f in sorted(path.rglob(PATTERN)) if not any(f.parent.parent.glob("run-*.wandb")))
    found = {
        "wandb": sorted(path.rglob("run-*.wandb")),
        "tensorboard": list(events),
        "trackio": [f for f in sorted(path.glob("*.db")) if _kind_of_file(f)],
    }
    kinds = [kind for kind, files in found.items() if files]
    if not kinds:
        tables = [f.relative_to(path).as_posix() for f in sorted(path.rglob("*")) if f.suffix in TABLES]
        hint = f"; name its tables themselves, e.g. {path / tables[0]}" if tables else ""
        raise DataError(f"{path}: no W&B, trackio or TensorBoard logs and no study in this folder{hint}")
    if len(kinds) > 1:
        raise DataError(
            f"{path}: holds logs of {' and '.join(kinds)}, perhaps of the same runs; name one of them, "
            f"e.g. {found[kinds[0]][0].parent}"
        )
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


def _of_logs(path: Path, kind: str, logs: list[Log], where: Mapping[str, str]) -> RunSource:
    taken_for = f"{len(logs)} runs"
    if where:
        columns = dict.fromkeys(name for log in logs for name in log.constants)
        table = {name: [log.constants.get(name) for log in logs] for name in columns}
        logs = [logs[i] for i in select(_comparable(table), where)]
        taken_for = f"{len(logs)} of {taken_for}"
    return RunSource(path=path, kind=kind, taken_for=taken_for, logs=tuple(logs))


def _own_table(path: Path, columns: Columns, where: Mapping[str, str]) -> RunSource:
    rows = rows_of(columns)
    if where:
        rows = rows.take(select(_comparable(columns), where))
    rows = rows.with_origin("study", str(path))
    taken_for = f"{len(rows)} rows of a run table of this package"
    return RunSource(path=path, kind="study", taken_for=taken_for, rows=rows)


def with_details(
    source: RunSource, details: Mapping[str, Mapping[str, object]], fixed: Mapping[str, object]
) -> RunSource:
    """The source with settings by run name (`--details`) and settings of all runs (`--set`)."""
    if not details and not fixed:
        return source
    settings = {run: {**details.get(run, {}), **fixed} for run in source.runs}
    logs = tuple(log.with_constants(settings[log.name]) for log in source.logs)
    return replace(source, logs=logs, lone=source.lone and source.lone.with_constants(settings))


def _runs_table(
    file: Path, columns: Columns, *, told: Mapping[str, str], where: Mapping[str, str], layout: str
) -> RunSource:
    """The runs of a table: logs of those of several rows, or of the one run whose log it is."""
    if layout not in LAYOUTS:
        raise ConfigError(f"layout: unknown {layout!r}; known: {', '.join(LAYOUTS)}")
    index: Sequence[int] = range(len(next(iter(columns.values()))))
    if where:
        index = select(_comparable(columns), where).tolist()
        columns = {name: [values[i] for i in index] for name, values in columns.items()}
    size, sha256 = len(index), file_sha256(file)
    parsed = _Parsed(columns)
    if layout == "log" or (layout == "auto" and _is_one_run(columns, told)):
        name = file.parent.name if file.stem.lower() in _PLAIN_STEMS else file.stem
        log = _log(file, name, parsed, list(range(size)), sha256)
        taken_for = f"the log of one run, {size} rows"
        return RunSource(path=file, kind="table", taken_for=taken_for, logs=(replace(log, in_time=True),))
    run = _run_column(columns, told)
    arms = columns.get(find_column(told.get("arm", "arm"), list(columns)) or "", [None] * size)
    parts: dict[tuple[str, object], list[int]] = {}
    for i, named in enumerate(zip(_run_names(columns, run, index), arms, strict=True)):
        parts.setdefault(named, []).append(i)
    by = f" by column {run}" if len(parts) < size else ""
    several = [(name, rows) for (name, _), rows in parts.items() if len(rows) > 1]
    logs = tuple(_log(file, name, parsed, rows, sha256) for name, rows in several)
    lone, taken_for = _lone(file, columns, parts, sha256), f"{size} rows of {len(parts)} runs{by}"
    return RunSource(path=file, kind="table", taken_for=taken_for, logs=logs, lone=lone)


def _run_names(columns: Columns, run: str | None, index: Sequence[int]) -> Iterator[str]:
    """Of each row the run that it names, or its own number in the file."""
    for i, named in zip(index, [None] * len(index) if run is None else columns[run], strict=True):
        missing = named is None or named == "" or named != named
        yield f"row {i + 1}" if missing else str(named)


def _lone(
    file: Path, columns: Columns, parts: Mapping[tuple[str, object], Sequence[int]], sha256: str
) -> LoneRuns | None:
    """The parts of one row each; a part is a run in one arm."""
    found = [(place, name, rows[0]) for place, ((name, _), rows) in enumerate(parts.items()) if len(rows) == 1]
    if not found:
        return None
    places, names, rows = zip(*found, strict=True)
    if len(rows) < len(next(iter(columns.values()))):
        columns = {name: [values[i] for i in rows] for name, values in columns.items()}
    shown = [list(map(str, values)) for values in columns.values()]
    digests = [content_hash([row]) for row in zip(*shown, strict=True)]
    states = next((values for name, values in columns.items() if name.lower() in _STATES), [""] * len(names))
    return LoneRuns(
        source=file,
        sha256=sha256,
        names=names,
        places=np.array(places),
        digests=digests,
        troubles=[_trouble(state) for state in states],
        columns=columns,
    )


def _run_column(columns: Iterable[str], told: Mapping[str, str]) -> str | None:
    """The column that names the run of each row, as told or as usual, else that of its group; None without any."""
    known = list(columns)
    asked = told.get("run", "")
    if asked.lower() == "none":
        return None
    for name in (asked, first_of(RUN_NAMES, known), told.get("group"), first_of(GROUP_NAMES, known)):
        if name and (column := find_column(name, known)) is not None:
            return column
    return None


def _comparable(columns: Columns) -> dict[str, np.ndarray]:
    """Columns whose numbers compare as numbers."""
    found = {}
    for name, values in columns.items():
        read, present = numbers(values)
        if all(there or value in (None, "") for there, value in zip(present, values, strict=True)):
            found[name] = read
        else:
            found[name] = np.array([str(v) for v in values], dtype=object)
    return found


def _is_one_run(columns: Columns, told: Mapping[str, str]) -> bool:
    """True if steps only grow, no column names a run, and the size of the model never changes."""
    if len(next(iter(columns.values()))) < 2 or _run_column(columns, told) is not None:
        return False
    step = told.get("step") or first_of(STEP_NAMES, columns)
    if step is None or step not in columns:
        return False
    steps, present = numbers(columns[step])
    steps = steps[present]
    sizes = usual("params", columns) + ([told["params"]] if "params" in told else [])
    constant = all(len(set(map(str, columns.get(size, ()))) - {"", "None"}) <= 1 for size in sizes)
    return constant and len(steps) > 1 and bool((np.diff(steps) >= 0).all())


class _Parsed:
    """A table with the numbers of its columns, read once for all runs."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    @cached_property
    def numbers(self) -> dict[str, tuple[Array, NDArray[np.bool_]]]:
        """Of each column the numbers, and where there is one."""
        return {name: numbers(values) for name, values in self.columns.items()}


def _log(file: Path, name: str, table: _Parsed, rows: list[int], sha256: str) -> Log:
    """A run of some rows; it is known by what stands in them, wherever the file lies.

    What a lone row says never changes: all of it is constant, and there is no history.
    """
    index = np.array(rows)
    shown = {column: [str(values[i]) for i in rows] for column, values in table.columns.items()}
    constants: dict[str, object] = {}
    history: dict[str, Series] = {}
    differs = []
    for column, cells in shown.items():
        if len(set(cells)) == 1:
            constants[column] = table.columns[column][rows[0]]
        if len(rows) == 1:
            continue
        values, present = (part[index] for part in table.numbers[column])
        if present.any():
            history[column] = Series(index[present].astype(np.float64), values[present])
        elif column not in constants:
            differs.append(column)
    state = next((value for column, value in constants.items() if column.lower() in _STATES), "")
    history = dict(sorted(history.items(), key=lambda named: named[1].at[0]))  # in the order met
    return Log(
        kind="table",
        source=file,
        name=name,
        identity=("table", content_hash(list(zip(*shown.values(), strict=True)))),
        history=history,
        constants=constants,
        sha256=sha256,
        in_time=False,
        trouble=_trouble(state),
        differs=tuple(differs),
        aliases=(f"{file.stem}/{name}",),
    )


_STATES = ("state", "status")


def _trouble(state: object) -> str:
    """A table may say itself that a run is not done."""
    said = str(state).lower()
    return f"its state is {said!r}" if said in ("failed", "crashed", "killed", "running", "planned") else ""
