"""Imported rows on disk: FOLDER/runs.parquet or TABLE.parquet, and beside it the record of every import.

An import never writes into the folder of a study that trains: `study run` makes runs.parquet anew from its own run
folders, and runs that were not scored on the same documents must not stand beside its pairs as if they had been. To fit
both, import the study's folder and the logs into a third folder; the study stays as it is.

Importing again changes nothing but what has changed: a logged run replaces its own earlier rows, a table all rows it
gave before, and a run that is met twice is taken once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.runs.files import read_json, write_json, write_with
from distillaw.runs.importing.rows import Row
from distillaw.runs.lock import locked
from distillaw.runs.places import GENERATOR, check_file, check_folder, claim_folder, refuse_no_file
from distillaw.runs.seals import check_table, write_table
from distillaw.runs.store import RESULT_KEYS, column_types

RECORD = "import.json"
"""In a folder; TABLE.import.json beside a table."""
PROVENANCE = ("source_kind", "source", "source_run", "source_id", "source_sha256")
_EXTRA = ("supervised_loss", "params_convention")
KEYS = (*RESULT_KEYS, *_EXTRA, *PROVENANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an import goes."""

    table: Path
    record: Path

    @classmethod
    def of(cls, out: Path) -> "Target":
        """The files behind `--out`, a .parquet file or a folder.

        Raises:
            ConfigError: a folder or table that something else has written.
        """
        if out.suffix == ".parquet":
            target = cls(table=out, record=out.with_suffix(".import.json"))
        elif out.suffix:
            raise ConfigError(f"--out {out}: give a folder, or a table ending in .parquet")
        else:
            target = cls(table=out / "runs.parquet", record=out / RECORD)
            trained = next(
                (n for n in ("study.json", "settle.json", "runs", "trunks") if (out / n).exists()), None
            )
            if trained is not None:
                raise ConfigError(
                    f"--out {out}: that folder trains its own runs ({trained} lies in it) and makes its runs.parquet "
                    f"from them. Import into a folder of its own; to have both, name this one as a source: distillaw "
                    f"study import {out} OTHER... --out NEW"
                )
        if target.table.exists() and not target.record.exists():
            raise ConfigError(
                f"--out {target.table}: it was not written by an import (no {target.record.name} beside it) and is "
                "left alone; choose another place"
            )
        check_file(target.record)
        if out.suffix:
            refuse_no_file(target.table)
        else:
            check_folder(out)
        return target


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What an import did to the table."""

    rows: Sequence[Row]
    added: int
    updated: int
    unchanged: int
    removed: int


def save(target: Target, rows: Sequence[Row], record: Mapping[str, object]) -> Merged:
    """Merge rows into the table at the target and append to its record.

    Raises:
        UnitError: the table's parameters are counted otherwise.
        RunError: another import is writing there, or the disk is full.
    """
    if target.record.name == RECORD:
        claim_folder(target.record.parent)
    with locked(target.table.with_name(f".{target.table.name}.lock"), str(target.table)):
        before = read_rows(target.table) if target.table.exists() else []
        merged = merge(before, rows)
        check_conventions(merged.rows)
        write_with(target.table, lambda path: _write(path, merged.rows), known=True)
        earlier = read_json(target.record)["imports"] if target.record.exists() else []
        assert isinstance(earlier, list)
        write_json(
            target.record, {"schema_version": 1, "generator": GENERATOR, "imports": [*earlier, dict(record)]}
        )
    return merged


def merge(before: Sequence[Row], rows: Sequence[Row]) -> Merged:
    """Earlier rows and new ones: of the same run the new ones count, of the same table too."""
    tables = {row["source"] for row in rows if row["source_kind"] in ("table", "study")}
    runs = {row["source_id"] for row in rows}
    old = {str(row["run_id"]): row for row in before}
    new = {str(row["run_id"]): typed(row) for row in rows}
    kept = [
        row for key, row in old.items()
        if key not in new and row["source_id"] not in runs and row["source"] not in tables
    ]  # fmt: skip
    same = sum(_measured(old[key]) == _measured(row) for key, row in new.items() if key in old)
    updated = sum(key in old for key in new) - same
    return Merged(
        rows=sorted([*kept, *new.values()], key=lambda row: str(row["run_id"])), added=len(new) - same - updated,
        updated=updated, unchanged=same, removed=len(old) - len(kept) - same - updated,
    )  # fmt: skip


def _measured(row: Row) -> Row:
    """A row without the place it was read from: a file that moved or grew does not change a run."""
    return {key: value for key, value in row.items() if key not in ("source", "source_sha256")}


def check_conventions(rows: Sequence[Row]) -> None:
    """Refuse a table of two parameter conventions.

    Raises:
        UnitError: names a source of each.
    """
    sources = {str(row.get("params_convention") or "non-embedding"): str(row["source"]) for row in rows}
    if len(sources) > 1:
        raise UnitError(
            f"parameters are non-embedding in {sources['non-embedding']} and totals in {sources['total']}: one table "
            "holds one convention. Convert the totals (--vocab V with the column width), or import into two tables"
        )


def read_rows(table: Path) -> list[Row]:
    """The rows of an imported table.

    Raises:
        DataError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return check_table(pq.read_table(table), table).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{table}: cannot be read ({error}); delete it to import anew") from None


def typed(row: Row) -> Row:
    """The columns that are kept, as they come back from disk."""
    whole = _whole_columns()
    found: Row = dict.fromkeys(KEYS)
    for key, value in row.items():
        if key in found and value is not None:
            is_number = isinstance(value, int | float)
            found[key] = value if not is_number else round(value) if key in whole else float(value)
    return found


@cache
def _column_types() -> dict[str, object]:
    import pyarrow as pa

    return {**column_types(), "supervised_loss": pa.float64(),
            **dict.fromkeys((*PROVENANCE, "params_convention"), pa.string())}  # fmt: skip


@cache
def _whole_columns() -> frozenset[str]:
    return frozenset(key for key, kind in _column_types().items() if kind == "int64")


def _write(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa

    types = _column_types()
    write_table(pa.table({key: pa.array([row[key] for row in rows], types[key]) for key in KEYS}), path)  # type: ignore[arg-type]
