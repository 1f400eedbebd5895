"""Some rows of a table: other people's files often hold several training sets or validation sets at once."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.fitting.problem import Observations
from distillaw.quantities import did_you_mean


def select(table: Mapping[str, ArrayLike], where: Mapping[str, str]) -> NDArray[np.int64]:
    """Indices of the rows that satisfy every condition.

    Args:
        table: columns of equal length.
        where: {column: value}; a value is compared as text, `*` and `?` stand for anything, and in a column of
            numbers as a number.

    Raises:
        DataError: no such column, or no row is left (says which values the column has).
    """
    size = len(np.asarray(next(iter(table.values()), ())))
    keep = np.ones(size, dtype=bool)
    for column, wanted in where.items():
        if column not in table:
            names = [str(name) for name in table]
            raise DataError(
                f"where: no column {column!r}{did_you_mean(column, names)}; the table has: {', '.join(names)}"
            )
        here = _matches(np.asarray(table[column]), wanted)
        if not (keep & here).any():
            seen = sorted({str(value) for value in np.asarray(table[column])[keep]})
            shown = ", ".join(seen[:8]) + (f" and {len(seen) - 8} more" if len(seen) > 8 else "")
            raise DataError(f"where: no row has {column} = {wanted!r}; it has: {shown}")
        keep &= here
    return np.flatnonzero(keep)


def observe_where(
    table: Mapping[str, ArrayLike], weights: ArrayLike | None, where: Mapping[str, str],
    observed: Callable[[Mapping[str, ArrayLike], ArrayLike | None], Observations],
) -> Observations:  # fmt: skip
    """The checked rows of a selection, numbered as in the whole table.

    Args:
        table: the whole table.
        weights: weight per row of it, or None.
        where: as in `select`.
        observed: turns a table and its weights into checked rows.
    """
    index = select(table, where)
    part = {str(name): np.asarray(values)[index] for name, values in table.items()}
    chosen = " and ".join(f"{column} = {value}" for column, value in where.items())
    try:
        rows = observed(part, None if weights is None else np.asarray(weights)[index])
    except DataError as error:
        raise DataError(f"{error} (counting the {len(index)} rows with {chosen})") from None
    return replace(rows, row=index[rows.row], notes=(f"only rows with {chosen}", *rows.notes))


def _matches(values: NDArray, wanted: str) -> NDArray[np.bool_]:
    if values.dtype != object and values.dtype.kind in "fiu":
        try:
            return values == float(wanted)
        except ValueError:
            return np.zeros(len(values), dtype=bool)
    return np.array([str(value) == wanted or fnmatchcase(str(value), wanted) for value in values], dtype=bool)
