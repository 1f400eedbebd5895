"""Some rows of a table: other people's files often hold several training sets or validation sets at once."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
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


def _matches(values: NDArray, wanted: str) -> NDArray[np.bool_]:
    if values.dtype != object and values.dtype.kind in "fiu":
        try:
            return values == float(wanted)
        except ValueError:
            return np.zeros(len(values), dtype=bool)
    return np.array([str(value) == wanted or fnmatchcase(str(value), wanted) for value in values], dtype=bool)
