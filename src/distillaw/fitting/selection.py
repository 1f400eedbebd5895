"""A fit on some rows of a table, which keep the numbers they have in the whole of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import DataError
from distillaw.fitting.problem import Observations
from distillaw.runs.table import select


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
