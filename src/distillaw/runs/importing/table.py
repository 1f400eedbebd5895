"""Runs as columns, and the table that an import makes or extends: FOLDER/runs.parquet or TABLE.parquet.

A column of numbers is float64, missing = NaN; one of texts holds str, missing = None. `Rows` has all columns of the
run table, and `aliases`: tuples of other names by which a row may be named as a teacher. Beside the table lies a record
of where each row came from; importing again changes nothing but what has changed.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.runs.files import check_table, read_json, write_json, write_table, write_with
from distillaw.runs.importing.log import number
from distillaw.runs.importing.names import Array
from distillaw.runs.lock import locked
from distillaw.runs.places import GENERATOR, check_file, check_folder, claim_folder, refuse_no_file
from distillaw.runs.store import RESULT_KEYS, column_types

if TYPE_CHECKING:
    import pyarrow as pa


Columns = Mapping[str, Sequence[object]]
PROVENANCE = ("source_kind", "source", "source_run", "source_id", "source_sha256")
KEYS = (*RESULT_KEYS, "supervised_loss", "params_convention", *PROVENANCE)
"""Columns of an imported table, in order."""
_WHOLE = 2.0**63
"""From here on a whole number has no place in the table."""


@cache
def types() -> dict[str, str]:
    """`int64`, `double` or `string` of every column of the table."""
    ours = {key: str(kind) for key, kind in column_types().items()}
    return {**ours, "supervised_loss": "double", **dict.fromkeys((*PROVENANCE, "params_convention"), "string")}


def texts(values: Iterable[object]) -> NDArray:
    """A column of texts; what is empty, NaN or None is missing."""
    return objects([None if each is None or each == "" or each != each else str(each) for each in values])


def objects(values: Sequence[object]) -> NDArray:
    """A column of anything; numpy would make two dimensions of tuples."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def numbers(
    values: Sequence[object], read: Callable[[object], float | None] = number
) -> tuple[Array, NDArray[np.bool_]]:
    """The numbers of a column, NaN and infinity included, and where there is one."""
    if {*map(type, values)} <= {str, int, float}:
        with contextlib.suppress(ValueError, OverflowError):  # words and counts such as 124M are read one by one
            return np.array(values, dtype=np.float64), np.ones(len(values), dtype=bool)
    found = [read(value) for value in values]
    return np.array(found, dtype=np.float64), np.array([x is not None for x in found], dtype=bool)


@dataclass(frozen=True, slots=True)
class ImportedRows:
    """Rows of the run table."""

    columns: dict[str, NDArray]

    @classmethod
    def of(cls, count: int, columns: Mapping[str, NDArray]) -> "ImportedRows":
        """So many rows with these columns, counts rounded; the others are missing."""
        found = {}
        for key in KEYS:
            kind = types()[key]
            if key in columns:
                found[key] = np.rint(columns[key]) if kind == "int64" else columns[key]
            else:
                found[key] = objects([None] * count) if kind == "string" else np.full(count, np.nan)
        return cls({**found, "aliases": columns.get("aliases", objects([()] * count))})

    @classmethod
    def joined(cls, parts: Sequence["ImportedRows"]) -> "ImportedRows":
        """All rows of the parts, in order."""
        if not parts:
            return cls.of(0, {})
        names = parts[0].columns
        return cls({name: np.concatenate([part.columns[name] for part in parts]) for name in names})

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.columns["run_id"])

    def __getitem__(self, name: str) -> NDArray:
        """A column."""
        return self.columns[name]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """What names each row: a run that serves two arms has a row in each."""
        return [(run, arm or "") for run, arm in zip(self["run_id"], self["arm"], strict=True)]

    @property
    def num_taught(self) -> int:
        """Rows with a teacher's loss."""
        return int(np.count_nonzero(~np.isnan(self["teacher_loss"])))

    @property
    def num_groups(self) -> int:
        """Independent runs among the rows."""
        return len({group or run for group, run in zip(self["group"], self["run_id"], strict=True)})

    def take(self, index: NDArray | Sequence[int]) -> "ImportedRows":
        """Some of the rows, by mask or indices."""
        index = np.asarray(index, dtype=None if len(index) else np.int64)
        return ImportedRows({name: column[index] for name, column in self.columns.items()})

    def with_columns(self, **columns: NDArray) -> "ImportedRows":
        """The same rows with other values."""
        return ImportedRows({**self.columns, **columns})

    def with_origin(self, kind: str, source: str) -> "ImportedRows":
        """Rows of a run table, which keep their ids; those that were imported into it keep their origin."""

        def filled(name: str, values: Sequence[object]) -> NDArray:
            return objects([own or other for own, other in zip(self[name], values, strict=True)])

        size, runs = len(self), self["run_id"].tolist()
        return self.with_columns(
            source_kind=filled("source_kind", [kind] * size),
            source=filled("source", [source] * size),
            source_run=filled("source_run", runs),
            source_id=filled("source_id", runs),
            params_convention=filled("params_convention", ["non-embedding"] * size),
        )

    def plain(self, name: str) -> list:
        """A column as Python values with None for what is missing: what can be compared and be a key."""
        column = self[name]
        if column.dtype == object:
            return column.tolist()
        return [None if value != value else value for value in column.tolist()]

    def to_arrow(self) -> "pa.Table":
        """The table as it is written."""
        import pyarrow as pa

        kinds = {"int64": pa.int64(), "double": pa.float64(), "string": pa.string()}
        columns = {}
        for key in KEYS:
            column, kind = self[key], types()[key]
            if kind == "string":
                columns[key] = pa.array(column, kinds[kind])
                continue
            missing = np.isnan(column)
            if kind == "int64":
                if (large := np.abs(column) >= _WHOLE).any():
                    i = int(np.flatnonzero(large)[0])
                    raise DataError(
                        f"{self['source_run'][i]}: {key} is {column[i]:g}; whole numbers go up to {_WHOLE:.3g}. "
                        "Correct or remove that row"
                    )
                column = np.where(missing, 0, column).astype(np.int64)
            columns[key] = pa.array(column, kinds[kind], mask=missing)
        return pa.table(columns)


def rows_of(table: Columns) -> ImportedRows:
    """The rows of a run table of this package, however its file writes numbers."""
    count = len(next(iter(table.values()), ()))
    columns: dict[str, NDArray] = {}
    for key in KEYS:
        if key in table:
            columns[key] = texts(table[key]) if types()[key] == "string" else numbers(table[key])[0]
    return ImportedRows.of(count, columns)


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
            marks = ("study.json", "settle.json", "runs", "trunks")
            if trained := next((name for name in marks if (out / name).exists()), None):
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

    rows: ImportedRows
    added: int
    updated: int
    unchanged: int
    removed: int


def save(target: Target, rows: ImportedRows, record: Mapping[str, object]) -> Merged:
    """Merge rows into the table at the target and append to its record.

    Raises:
        UnitError: the table's parameters are counted otherwise.
        RunError: another import is writing there, or the disk is full.
    """
    if target.record.name == RECORD:
        claim_folder(target.record.parent)
    with locked(target.table.with_name(f".{target.table.name}.lock"), str(target.table)):
        before = read_rows(target.table) if target.table.exists() else ImportedRows.of(0, {})
        merged = merge(before, rows)
        check_conventions(merged.rows)
        table = merged.rows.to_arrow()
        write_with(target.table, lambda path: write_table(table, path), known=True)
        earlier = read_json(target.record)["imports"] if target.record.exists() else []
        assert isinstance(earlier, list)
        imports = [*earlier, dict(record)]
        write_json(target.record, {"schema_version": 1, "generator": GENERATOR, "imports": imports})
    return merged


def merge(before: ImportedRows, rows: ImportedRows) -> Merged:
    """Earlier rows and new ones: of the same run the new ones count, of the same table too."""
    is_table = np.array([kind in ("table", "study") for kind in rows["source_kind"]], dtype=bool)
    tables, runs = set(rows["source"][is_table]), set(rows["source_id"])
    old = {key: i for i, key in enumerate(before.keys)}
    again = np.array([old.get(key, -1) for key in rows.keys], dtype=np.int64)
    replaced = set(rows.keys)
    origins = zip(before.keys, before["source_id"], before["source"], strict=True)
    kept = [
        i
        for i, (key, source_id, source) in enumerate(origins)
        if key not in replaced and source_id not in runs and source not in tables
    ]
    known = again >= 0
    same = _num_same(before.take(again[known]), rows.take(known))
    updated = int(known.sum()) - same
    merged = ImportedRows.joined([before.take(kept), rows])
    order = sorted(range(len(merged)), key=merged.keys.__getitem__)
    return Merged(
        rows=merged.take(order),
        added=int((~known).sum()),
        updated=updated,
        unchanged=same,
        removed=len(before) - len(kept) - same - updated,
    )


def _num_same(old: ImportedRows, new: ImportedRows) -> int:
    """Rows that say the same but for the place they were read from: a file that moved or grew does not change a run."""
    same = np.ones(len(old), dtype=bool)
    for key in KEYS:
        if key in ("source", "source_sha256"):
            continue
        a, b = old[key], new[key]
        same &= (a == b) if a.dtype == object else (a == b) | (np.isnan(a) & np.isnan(b))
    return int(same.sum())


def check_conventions(rows: ImportedRows) -> None:
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


def read_rows(table: Path) -> ImportedRows:
    """The rows of an imported table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return rows_of(check_table(pq.read_table(table), table).to_pydict())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{table}: cannot be read ({error}); delete it to import anew") from None
