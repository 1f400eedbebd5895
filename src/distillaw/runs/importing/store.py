"""Imported rows on disk: FOLDER/runs.parquet or TABLE.parquet, and beside it the record of every import.

An import never writes into the folder of a study that trains: `study run` makes runs.parquet anew from its own run
folders, and runs that were not scored on the same documents must not stand beside its pairs as if they had been. To fit
both, import the study's folder and the logs into a third folder; the study stays as it is.

Importing again changes nothing but what has changed: a logged run replaces its own earlier rows, a table all rows it
gave before, and a run that is met twice is taken once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.runs.files import read_json, write_json, write_with
from distillaw.runs.importing.columns import KEYS, Rows, rows_of
from distillaw.runs.lock import locked
from distillaw.runs.places import GENERATOR, check_file, check_folder, claim_folder, refuse_no_file
from distillaw.runs.seals import check_table, write_table

RECORD = "import.json"
"""In a folder; TABLE.import.json beside a table."""


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

    rows: Rows
    added: int
    updated: int
    unchanged: int
    removed: int


def save(target: Target, rows: Rows, record: Mapping[str, object]) -> Merged:
    """Merge rows into the table at the target and append to its record.

    Raises:
        UnitError: the table's parameters are counted otherwise.
        RunError: another import is writing there, or the disk is full.
    """
    if target.record.name == RECORD:
        claim_folder(target.record.parent)
    with locked(target.table.with_name(f".{target.table.name}.lock"), str(target.table)):
        before = read_rows(target.table) if target.table.exists() else Rows.of(0, {})
        merged = merge(before, rows)
        check_conventions(merged.rows)
        table = merged.rows.to_arrow()
        write_with(target.table, lambda path: write_table(table, path), known=True)
        earlier = read_json(target.record)["imports"] if target.record.exists() else []
        assert isinstance(earlier, list)
        write_json(
            target.record, {"schema_version": 1, "generator": GENERATOR, "imports": [*earlier, dict(record)]}
        )
    return merged


def merge(before: Rows, rows: Rows) -> Merged:
    """Earlier rows and new ones: of the same run the new ones count, of the same table too."""
    is_table = np.array([kind in ("table", "study") for kind in rows["source_kind"]], dtype=bool)
    tables, runs = set(rows["source"][is_table]), set(rows["source_id"])
    old = {key: i for i, key in enumerate(before["run_id"])}
    again = np.array([old.get(key, -1) for key in rows["run_id"]], dtype=np.int64)
    replaced = set(rows["run_id"])
    kept = [
        i for i, (key, source_id, source) in enumerate(zip(*(before[n] for n in _WHERE_FROM), strict=True))
        if key not in replaced and source_id not in runs and source not in tables
    ]  # fmt: skip
    known = again >= 0
    same = _num_same(before.take(again[known]), rows.take(known))
    updated = int(known.sum()) - same
    merged = Rows.joined([before.take(kept), rows])
    order = sorted(range(len(merged)), key=merged["run_id"].__getitem__)
    return Merged(
        rows=merged.take(order), added=int((~known).sum()),
        updated=updated, unchanged=same, removed=len(before) - len(kept) - same - updated,
    )  # fmt: skip


_WHERE_FROM = ("run_id", "source_id", "source")


def _num_same(old: Rows, new: Rows) -> int:
    """Rows that say the same but for the place they were read from: a file that moved or grew does not change a run."""
    same = np.ones(len(old), dtype=bool)
    for key in KEYS:
        if key in ("source", "source_sha256"):
            continue
        a, b = old[key], new[key]
        same &= (a == b) if a.dtype == object else (a == b) | (np.isnan(a) & np.isnan(b))
    return int(same.sum())


def check_conventions(rows: Rows) -> None:
    """Refuse a table of two parameter conventions.

    Raises:
        UnitError: names a source of each.
    """
    said = [convention or "non-embedding" for convention in rows["params_convention"]]
    sources = dict(zip(said, rows["source"], strict=True))
    if len(sources) > 1:
        raise UnitError(
            f"parameters are non-embedding in {sources['non-embedding']} and totals in {sources['total']}: one table "
            "holds one convention. Convert the totals (--vocab V with the column width), or import into two tables"
        )


def read_rows(table: Path) -> Rows:
    """The rows of an imported table.

    Raises:
        DataError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return rows_of(check_table(pq.read_table(table), table).to_pydict())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{table}: cannot be read ({error}); delete it to import anew") from None
