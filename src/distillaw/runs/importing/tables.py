"""CSV, JSON lines and Parquet: a table of runs (a row each, or several rows a run), or the log of a single run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError
from distillaw.runs.files import content_hash, file_sha256
from distillaw.runs.importing.log import Log, gather, number
from distillaw.runs.importing.names import GROUP_NAMES, RUN_NAMES, STEP_NAMES, find_column, first_of, usual
from distillaw.runs.select import select

LAYOUTS = ("auto", "runs", "log")
_PLAIN_STEMS = {"metrics", "log", "logs", "history", "train", "train_log", "training_log", "eval"}
"""File names that say nothing of the run; the folder does."""
Columns = Mapping[str, Sequence[object]]


def read_runs_table(
    file: Path, columns: Columns, *, told: Mapping[str, str], where: Mapping[str, str], layout: str
) -> tuple[list[Log], str]:
    """One log per run of a table, and what the table was taken for.

    Args:
        file: where it comes from.
        columns: as `read_columns` gives them.
        told: {our name: column} of the user; `run` names the run of each row.
        where: {column: value}, to take some rows only.
        layout: `runs`, `log` (the file is one run's log) or `auto`.

    Raises:
        ConfigError: layout is unknown.
        DataError: no row satisfies `where`.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout: unknown {layout!r}; known: {', '.join(LAYOUTS)}")
    index = select(_comparable(columns), where) if where else range(len(next(iter(columns.values()))))
    rows = [{name: values[i] for name, values in columns.items()} for i in index]
    if layout == "log" or (layout == "auto" and _is_one_run(rows, told)):
        name = file.parent.name if file.stem.lower() in _PLAIN_STEMS else file.stem
        log = _log(file, name, list(enumerate(rows)), file_sha256(file))
        return [replace(log, in_time=True)], f"the log of one run, {len(rows)} rows"
    run = _run_column(columns, told)
    parts: dict[str, list[tuple[int, dict[str, object]]]] = {}
    for i, row in enumerate(rows):
        named = None if run is None else row[run]
        missing = named is None or named == "" or named != named
        parts.setdefault(f"row {index[i] + 1}" if missing else str(named), []).append((i, row))
    sha256 = file_sha256(file)
    logs = [_log(file, name, part, sha256) for name, part in parts.items()]
    by = f" by column {run}" if len(logs) < len(rows) else ""
    return logs, f"{len(rows)} rows of {len(logs)} runs{by}"


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
        numbers = [number(v) for v in values]
        if all(x is not None or v in (None, "") for x, v in zip(numbers, values, strict=True)):
            found[name] = np.array([np.nan if x is None else x for x in numbers])
        else:
            found[name] = np.array([str(v) for v in values], dtype=object)
    return found


def _is_one_run(rows: Sequence[Mapping[str, object]], told: Mapping[str, str]) -> bool:
    """True if steps only grow, no column names a run, and the size of the model never changes."""
    if len(rows) < 2 or _run_column(rows[0], told) is not None:
        return False
    step = told.get("step") or first_of(STEP_NAMES, rows[0])
    if step is None:
        return False
    steps = [x for row in rows if (x := number(row.get(step))) is not None]
    sizes = usual("params", rows[0]) + ([told["params"]] if "params" in told else [])
    constant = all(len({str(row.get(size)) for row in rows} - {"", "None"}) <= 1 for size in sizes)
    return constant and len(steps) > 1 and all(b >= a for a, b in pairwise(steps))


def _log(file: Path, name: str, rows: list[tuple[int, dict[str, object]]], sha256: str) -> Log:
    """A run of some rows; it is known by what stands in them, wherever the file lies.

    What a lone row says never changes: all of it is constant, and there is no history.
    """
    content = [[str(value) for value in row.values()] for _, row in rows]
    constants: dict[str, object] = dict(rows[0][1]) if len(rows) == 1 else {}
    differs = []
    for column in rows[0][1] if len(rows) > 1 else ():
        values = {str(row[column]): row[column] for _, row in rows}
        if len(values) == 1:
            constants[column] = next(iter(values.values()))
        elif all(number(value) is None for value in values.values()):
            differs.append(column)
    return Log(
        kind="table", source=file, name=name, identity=("table", content_hash(content)),
        history=gather(rows) if len(rows) > 1 else {}, constants=constants, sha256=sha256, in_time=False,
        trouble=_trouble(constants), differs=tuple(differs), aliases=(f"{file.stem}/{name}",),
    )  # fmt: skip


def _trouble(constants: Mapping[str, object]) -> str:
    """A table may say itself that a run is not done."""
    state = next((str(v).lower() for k, v in constants.items() if k.lower() in ("state", "status")), "")
    return f"its state is {state!r}" if state in ("failed", "crashed", "killed", "running", "planned") else ""
