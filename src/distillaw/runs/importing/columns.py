"""Runs as columns, in the table that they come from and in the one that they become.

A column of numbers is float64, missing = NaN; one of texts holds str, missing = None. `Rows` has all columns of the
run table, and `aliases`: tuples of other names by which a row may be named as a teacher.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import DataError
from distillaw.runs.importing.log import number
from distillaw.runs.store import RESULT_KEYS, column_types

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]
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
    return {
        **ours,
        "supervised_loss": "double",
        **dict.fromkeys((*PROVENANCE, "params_convention"), "string"),
    }


def texts(values: Iterable[object]) -> NDArray:
    """A column of texts; what is empty, NaN or None is missing."""
    return objects(
        [None if value is None or value == "" or value != value else str(value) for value in values]
    )


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
        with contextlib.suppress(
            ValueError, OverflowError
        ):  # words and counts such as 124M are read one by one
            return np.array(values, dtype=np.float64), np.ones(len(values), dtype=bool)
    found = [read(value) for value in values]
    return np.array(found, dtype=np.float64), np.array([x is not None for x in found], dtype=bool)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the run table."""

    columns: dict[str, NDArray]

    @classmethod
    def of(cls, count: int, columns: Mapping[str, NDArray]) -> "Rows":
        """So many rows with these columns, counts rounded; the others are missing."""
        found = {}
        for key in KEYS:
            kind = types()[key]
            if key not in columns:
                found[key] = (
                    np.full(count, None, dtype=object) if kind == "string" else np.full(count, np.nan)
                )
            else:
                found[key] = np.rint(columns[key]) if kind == "int64" else columns[key]
        return cls({**found, "aliases": columns.get("aliases", objects([()] * count))})

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """All rows of the parts, in order."""
        if not parts:
            return cls.of(0, {})
        return cls(
            {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.columns["run_id"])

    def __getitem__(self, name: str) -> NDArray:
        """A column."""
        return self.columns[name]

    @property
    def num_taught(self) -> int:
        """Rows with a teacher's loss."""
        return int(np.count_nonzero(~np.isnan(self["teacher_loss"])))

    @property
    def num_groups(self) -> int:
        """Independent runs among the rows."""
        return len({group or run for group, run in zip(self["group"], self["run_id"], strict=True)})

    def take(self, index: NDArray | Sequence[int]) -> "Rows":
        """Some of the rows, by mask or indices."""
        index = np.asarray(index, dtype=None if len(index) else np.int64)
        return Rows({name: column[index] for name, column in self.columns.items()})

    def with_columns(self, **columns: NDArray) -> "Rows":
        """The same rows with other values."""
        return Rows({**self.columns, **columns})

    def with_origin(self, kind: str, source: str) -> "Rows":
        """Rows of a run table, which keep their ids; those that were imported into it keep their origin."""

        def filled(name: str, values: Sequence[object]) -> NDArray:
            return objects([own or other for own, other in zip(self[name], values, strict=True)])

        size, runs = len(self), self["run_id"].tolist()
        return self.with_columns(
            source_kind=filled("source_kind", [kind] * size), source=filled("source", [source] * size),
            source_run=filled("source_run", runs), source_id=filled("source_id", runs),
            params_convention=filled("params_convention", ["non-embedding"] * size),
        )  # fmt: skip

    def plain(self, name: str) -> list:
        """A column as Python values with None for what is missing: what can be compared and be a key."""
        column = self[name]
        if column.dtype == object:
            return column.tolist()
        return [None if value != value else value for value in column.tolist()]

    def to_arrow(self) -> "pa.Table":
        """The table as it is written.

        Raises:
            DataError: a count that no whole number of 64 bits can hold.
        """
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


def rows_of(table: Columns) -> Rows:
    """The rows of a run table of this package, however its file writes numbers."""
    count = len(next(iter(table.values()), ()))
    return Rows.of(count, {
        key: texts(table[key]) if types()[key] == "string" else numbers(table[key])[0]
        for key in KEYS if key in table
    })  # fmt: skip
