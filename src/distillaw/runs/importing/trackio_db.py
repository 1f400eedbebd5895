"""trackio projects: a SQLite file per project (`~/.cache/huggingface/trackio/PROJECT.db`) or its Parquet export.

The schema is documented (huggingface.co/docs/trackio/storage_schema), so the standard library's sqlite3 reads it.
trackio does not record whether a run ended or crashed.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from distillaw.errors import DataError
from distillaw.runs.importing.log import Log, flatten, gather, sha256_of_files
from distillaw.runs.reading import parse_json, require_file
from distillaw.runs.table import read_columns

_EXPORT = {"run_name", "step", "timestamp"}
_FRAME = ("id", "run_id", "run_name", "step", "timestamp", "log_id", "space_id")
Rows = list[dict[str, object]]


def read_trackio(file: Path) -> list[Log]:
    """One log per run of a project.

    Raises:
        DataError: not a trackio database, or nothing logged in it.
    """
    metrics, configs, parts = _from_parquet(file) if file.suffix == ".parquet" else _from_database(file)
    if not metrics:
        raise DataError(f"{file}: a trackio project without logged metrics")
    runs: dict[str, Rows] = {}
    for row in metrics:
        runs.setdefault(_run_key(row), []).append(row)
    settings = {_run_key(row): row for row in configs}
    sha256 = sha256_of_files(parts)
    return [_log(file, key, rows, settings.get(key, {}), sha256) for key, rows in runs.items()]


def _log(file: Path, key: str, rows: Rows, settings: Mapping[str, object], sha256: str) -> Log:
    """One run; what trackio would not have written is a run in trouble, which keeps no other out."""
    try:
        history = gather((float(str(row["step"])), flatten(_payload(row, "metrics"))) for row in rows)
        constants, trouble = flatten(_payload(settings, "config")), ""
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        history, constants, trouble = {}, {}, f"damaged: {error!r}"
    return Log(
        kind="trackio", source=file, name=str(rows[0].get("run_name")), identity=("trackio", file.stem, key),
        history=history, constants=constants, steps=True, trouble=trouble, sha256=sha256, aliases=(key,),
    )  # fmt: skip


def is_export(columns: Iterable[str]) -> bool:
    """True for the columns of trackio's Parquet export."""
    return set(columns) >= _EXPORT


def _run_key(row: Mapping[str, object]) -> str:
    return str(row.get("run_id") or row.get("run_name"))


def _payload(row: Mapping[str, object], name: str) -> dict[str, object]:
    """What was logged: one JSON column in the database, columns of their own in the export."""
    value = row.get(name)
    if isinstance(value, bytes | str):
        return parse_json(value)
    return {
        key: entry for key, entry in row.items() if key not in (*_FRAME, "created_at") and entry is not None
    }


def _from_database(file: Path) -> tuple[Rows, Rows, list[Path]]:
    journal = require_file(file).with_name(file.name + "-wal")
    pending = journal.exists() and journal.stat().st_size > 0
    # without a journal the file can be read where nothing may be written; with one, SQLite must see both
    uri = f"{file.resolve().as_uri()}?mode=ro{'' if pending else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as base:
            base.row_factory = sqlite3.Row
            _require_tables(file, base)
            metrics = [dict(row) for row in base.execute("SELECT * FROM metrics ORDER BY id")]
            configs = [dict(row) for row in base.execute("SELECT * FROM configs")]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a trackio database that can be read ({error})") from None
    return metrics, configs, [file, journal] if pending else [file]


def _require_tables(file: Path, base: sqlite3.Connection) -> None:
    """A view could run anything, for ever; trackio writes tables."""
    kinds = dict(base.execute("SELECT name, type FROM sqlite_master").fetchall())
    for name in ("metrics", "configs"):
        if kinds.get(name) != "table":
            raise DataError(
                f"{file}: not a trackio database: {name} is {kinds.get(name, 'not there')}, not a table"
            )


def _from_parquet(file: Path) -> tuple[Rows, Rows, list[Path]]:
    parts = [file, *(f for f in (file.with_name(f"{file.stem}_configs.parquet"),) if f.exists())]
    metrics, *configs = [_rows(part) for part in parts]
    return metrics, configs[0] if configs else [], parts


def _rows(file: Path) -> Rows:
    columns = read_columns(file)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
