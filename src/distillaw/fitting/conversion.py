"""Total parameters to non-embedding ones, students and teachers alike, so that a law never mixes two counts.

    N = N_total - matrices x vocabulary x width        matrices: 1 tied (or one counted), 2 untied

The laws of this package are of non-embedding parameters (interface contract). A table of totals is either
fitted in that convention, and the law says so, or converted here from the widths of its own columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.fitting.problem import Observations
from distillaw.laws.base import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What has to be subtracted: the columns with the widths, the vocabulary, how many matrices are counted."""

    vocab: float
    width: str | None = None
    """Column with the model width; by default `width`."""
    teacher_width: str | None = None
    """Column with the teacher's width; by default `teacher_width`."""
    matrices: int = 1
    """Vocabulary x width matrices in the total: 1 with tied embeddings, 2 without."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.vocab) and self.vocab >= 1):
            raise ConfigError(
                f"vocab: got {self.vocab}; give the number of entries of the vocabulary, e.g. 50304"
            )
        if self.matrices not in (1, 2):
            raise ConfigError(
                f"matrices: got {self.matrices}; 1 with tied embeddings, 2 with an output head of its own"
            )


def to_non_embedding(
    rows: Observations, table: Mapping[str, ArrayLike], embedding: Embedding, *, needs_teachers: bool
) -> Observations:
    """The rows with non-embedding counts, and a note that says what was subtracted.

    Args:
        rows: rows whose `params` are totals.
        table: the table they come from, for the columns with the widths.
        embedding: what to subtract.
        needs_teachers: the law depends on the teachers' sizes. Where it does not and their width is not known,
            the sizes are set aside rather than left in the other convention.

    Raises:
        ConfigError: the rows are not totals, or no column holds the width.
        DataError: a width is missing or not positive.
        UnitError: a count is smaller than its embedding, or the teachers' width is needed and not there.
    """
    if rows.convention != "total":
        raise ConfigError("vocab: only total parameters are converted; add --params-convention total")
    size = embedding.matrices * embedding.vocab
    width = _find(table, embedding.width, "width")
    if width is None:
        raise ConfigError(
            f"width: no column with the model width; the table has: {', '.join(map(str, table))}. "
            f"Say --width COLUMN"
        )
    times = "" if embedding.matrices == 1 else "2 x "
    params = rows.params - size * _widths(table, width, rows.row)
    _check_left("params", params, rows.params, rows.row)
    notes = [f"parameters are non-embedding: total - {times}{embedding.vocab:.0f} x {width}"]
    teachers, note = _teachers(rows, table, embedding, size=size, needed=needs_teachers)
    return replace(
        rows, params=params, teacher_params=teachers, convention="non-embedding",
        notes=(*notes, *note, *rows.notes),
    )  # fmt: skip


def _teachers(
    rows: Observations, table: Mapping[str, ArrayLike], embedding: Embedding, *, size: float, needed: bool
) -> tuple[Array, tuple[str, ...]]:
    known = np.isfinite(rows.teacher_params)
    column = _find(table, embedding.teacher_width, "teacher_width")
    if not known.any():
        return rows.teacher_params, ()
    if column is None and needed:
        raise UnitError(
            "teacher_params are total parameters too, and no column holds the teachers' width: say --teacher-width "
            "COLUMN, give teacher_params without the embedding and --params-convention non-embedding, or fit all in "
            "totals (leave --vocab out)"
        )
    if column is None:
        return np.full(len(rows), np.nan), (
            "teacher_params are set aside: this law does not use them, and without --teacher-width they would stay "
            "total parameters",
        )
    left = rows.teacher_params.copy()
    left[known] -= size * _widths(table, column, rows.row[known])
    _check_left("teacher_params", left[known], rows.teacher_params[known], rows.row[known])
    return left, (f"teacher_params likewise, from {column}",)


def _find(table: Mapping[str, ArrayLike], named: str | None, default: str) -> str | None:
    if named is not None:
        if named not in table:
            raise DataError(f"width: no column {named!r}; the table has: {', '.join(map(str, table))}")
        return named
    return next((str(name) for name in table if str(name).lower() == default), None)


def _widths(table: Mapping[str, ArrayLike], column: str, row: NDArray[np.int64]) -> Array:
    raw = np.asarray(table[column])[row]
    try:
        values = np.array([np.nan if v is None or v == "" else v for v in raw], dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"column {column!r} holds text; it must be the model width, e.g. 1024") from None
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{column} in row {int(row[i]) + 1} (index {int(row[i])}) is {values[i]}; the width of every model is "
            f"needed to convert its parameters. Fill it in or remove that row"
        )
    return values


def _check_left(name: str, left: Array, total: Array, row: NDArray[np.int64]) -> None:
    bad = np.flatnonzero(left <= 0)
    if len(bad):
        i = int(bad[0])
        raise UnitError(
            f"{name} in row {int(row[i]) + 1}: {total[i]:.4g} parameters are fewer than the embedding (vocabulary x "
            f"width); the column does not hold total parameters, or --vocab is wrong"
        )
