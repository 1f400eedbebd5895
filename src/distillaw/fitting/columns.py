"""Reading a table's columns: which column is what, in which unit, and numbers that name a bad cell.

No rows are chosen here and nothing is grouped (`observations.py`).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.laws.base import Array
from distillaw.quantities import LARGEST, did_you_mean

_ALIASES = {
    "params": ("params", "student_params", "n", "non_embedding_params"),
    "tokens": ("tokens", "student_tokens", "d"),
    "loss": ("loss", "student_loss", "final_loss", "val_loss"),
    "teacher_loss": ("teacher_loss",),
    "supervised_loss": ("supervised_loss",),
    "teacher_params": ("teacher_params",),
    "loss_se": ("loss_se",),
    "group": ("group", "run_name", "trunk"),
    "weight": ("weight",),
    "width": ("width",),
    "teacher_width": ("teacher_width",),
}
_UNITS = {"nats": 1.0, "bits": float(np.log(2)), "bits-per-byte": 1.0, "bits-per-character": 1.0}
"""Nats in one of a table's units; what is not of a token is fitted as it is."""
_OTHER_UNIT_WORDS = ("bit", "bpb", "bpc", "ppl", "perplexity")


def as_column(name: object, values: ArrayLike) -> NDArray:
    """The values as a one-dimensional array."""
    column = np.asarray(values)
    if column.ndim != 1:
        raise DataError(f"column {name!r} has shape {column.shape}; each column must be one-dimensional")
    return column


def match_columns(table: Mapping, columns: Mapping[str, str], group: str | None) -> dict[str, str | None]:
    """Our names to the columns of the table, by what was asked or by known aliases."""
    known = {"student_params": "params", "student_tokens": "tokens", "student_loss": "loss"}
    wanted = {known.get(name, name): column for name, column in columns.items()}
    for name, column in wanted.items():
        if name not in _ALIASES:
            raise ConfigError(
                f"columns: unknown name {name!r}{did_you_mean(name, _ALIASES)}; known: {', '.join(_ALIASES)}"
            )
        if column not in table:
            raise DataError(f"no column {column!r}{did_you_mean(column, table)}; the table has: {', '.join(table)}")
    if group is not None and group.lower() != "none":
        if group not in table:
            raise DataError(
                f"group: no column {group!r}{did_you_mean(group, table)}; the table has: {', '.join(table)}"
            )
        wanted["group"] = group
    lowered = {column.lower(): column for column in reversed(list(table))}
    found: dict[str, str | None] = {}
    for name, aliases in _ALIASES.items():
        found[name] = wanted.get(name) or next((lowered[alias] for alias in aliases if alias in lowered), None)
    if group is not None and group.lower() == "none":
        found["group"] = None
    for name in ("params", "tokens", "loss"):
        if found[name] is None:
            total = name == "params" and "total_params" in lowered
            hint = ". total_params counts the embedding too: add --params-convention total" if total else ""
            raise DataError(
                f"no column for {name}; the table has: {', '.join(table)}. Say which it is with "
                f"--columns {name}=COLUMN (Python: columns={{'{name}': 'COLUMN'}}){hint}"
            )
    return found


def unit_scale(loss_column: str | None, table: Mapping[str, NDArray], unit: str | None) -> float:
    """Factor from the table's losses to the unit that is fitted; refused where the unit is not clear."""
    if unit is not None and unit not in _UNITS:
        raise ConfigError(f"unit: unknown {unit!r}{did_you_mean(unit, _UNITS)}; known: {', '.join(_UNITS)}")
    for name in ("loss_unit", "unit", "params_convention", "tokenizer"):
        values = {str(v) for v in table.get(name, ())}
        if len(values) > 1:
            raise UnitError(f"column {name!r} mixes {', '.join(sorted(values))}; fit one at a time, or convert first")
    stated = {str(v).lower() for name in ("loss_unit", "unit") for v in table.get(name, ())} - {"nats", "nats/token"}
    looks_other = any(word in (loss_column or "").lower() for word in _OTHER_UNIT_WORDS) or stated
    if looks_other and unit is None:
        raise UnitError(
            f"column {loss_column!r} does not look like nats per token{f' (unit {stated.pop()})' if stated else ''}. "
            f"Say --unit bits (converted), --unit bits-per-byte or --unit bits-per-character (fitted as they are), "
            f"or --unit nats if it is nats after all"
        )
    return _UNITS[unit or "nats"]


def read_numbers(name: str, column: str | None, table: Mapping[str, NDArray], index: NDArray, *, needed: bool) -> Array:
    """The column as positive finite floats, NaN where it is absent or not needed and empty; a bad cell is named."""
    if column is None:
        return np.full(len(index), np.nan)
    raw = table[column][index]
    try:
        values = np.array([np.nan if v is None else v for v in raw] if raw.dtype == object else raw, dtype=np.float64)
    except (TypeError, ValueError):
        for i, v in zip(index, raw, strict=True):
            try:
                float(v if v is not None else "nan")
            except (TypeError, ValueError):
                raise DataError(
                    f"{_place(name, column, i)} is {str(v)!r}, which is not a number; write plain numbers such as "
                    f"140000000 or 1.4e8, and correct or remove that row"
                ) from None
        raise
    with np.errstate(invalid="ignore"):
        usable = (values > 1 / LARGEST if needed else values >= 0) & (values < LARGEST)
    bad = ~usable if needed else ~np.isnan(values) & ~usable
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        more = f" ({int(bad.sum()) - 1} more like it)" if bad.sum() > 1 else ""
        raise DataError(
            f"{_place(name, column, index[i])} is {values[i]}; it must be positive and finite (below {LARGEST:g})"
            f"{more}. Correct or remove that row"
        )
    return values


def _place(name: str, column: str, i: int) -> str:
    what = name if name == column else f"{name} (column {column!r})"
    return f"{what} in row {int(i) + 1} (index {int(i)})"


def read_weights(
    weights: ArrayLike | None, column: str | None, table: Mapping[str, NDArray], index: NDArray, size: int
) -> Array:
    """Weights with mean 1 from the argument, the column, or none."""
    if weights is not None:
        given = as_column("weights", weights)
        if len(given) != size:
            raise DataError(f"weights: {len(given)} values for {size} rows")
        table, column = {"weights": given}, "weights"
    if column is None:
        return np.ones(len(index))
    values = read_numbers("weight", column, table, index, needed=True)
    return values / values.mean()
