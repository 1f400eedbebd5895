"""What every law shares: checked inputs in log space, and the box in which a law was fitted.

Nothing here knows an equation. Inputs are checked once at the boundary, so that the equations below can
be read as written in the papers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import DataError
from distillaw.quantities import times

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Mask: TypeAlias = NDArray[np.bool_]

COORDINATES = {
    "params": "size",
    "student_params": "student size",
    "student_tokens": "tokens",
    "teacher_params": "teacher size",
    "teacher_tokens": "teacher tokens",
    "teacher_loss": "teacher loss",
    "start_params": "size of what was cut",
    "start_tokens": "tokens of what was cut",
    "kept": "share that is kept",
    "tokens_per_param": "tokens per parameter",
    "unique_tokens": "distinct tokens",
    "compute": "compute",
}
"""Coordinate -> what people call it; the others are called by their names."""
OUTSIDE = {
    "below range": "{what} {value:.4g} is below the fitted range [{low:.4g}, {high:.4g}], {off}x",
    "above range": "{what} {value:.4g} is above the fitted range [{low:.4g}, {high:.4g}], {off}x",
}
"""What is said of a coordinate outside a range; `off` is by what factor."""
_DERIVED = ("tokens_per_param", "compute")


def log_positive(name: str, value: ArrayLike) -> Array:
    """ln(value) as float64 after checking that every entry is positive and finite.

    Args:
        name: what the value is, for the message.
        value: scalar or array of any shape.

    Raises:
        DataError: an entry is not a number, not finite or not positive (first offender named).
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: got {value!r}; it must be a number or an array of numbers") from None
    bad = ~(np.isfinite(array) & (array > 0))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        raise DataError(f"{name}{where}: got {array[bad].flat[0]}; it must be positive and finite")
    return np.log(array)


def log_or_unlimited(name: str, value: ArrayLike | None) -> Array:
    """ln(value), checked; for None, which stands for as much as one likes, 1e9: any power of it is 0 to rounding."""
    return np.asarray(1e9) if value is None else log_positive(name, value)


EDGE = 1e-3
"""Share of a bound by which a coordinate may lie beyond it and count as inside: budgets are whole batches, so runs for
1M tokens end at 999,936, and a question of 1M is one about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The box of coordinates in which a law was fitted; outside it a prediction is an extrapolation."""

    bounds: tuple[tuple[str, float, float], ...] = ()
    """(coordinate, lowest, highest); `tokens_per_param` and `compute` (6 N D) are derived coordinates."""

    @classmethod
    def of(cls, bounds: Mapping[str, tuple[float, float]]) -> "Box":
        """A box from {coordinate: (lowest, highest)}."""
        return cls(bounds=tuple((name, float(low), float(high)) for name, (low, high) in bounds.items()))

    def as_dict(self) -> dict[str, tuple[float, float]]:
        """{coordinate: (lowest, highest)}."""
        return {name: (low, high) for name, low, high in self.bounds}

    def inside(self, coords: Mapping[str, ArrayLike]) -> NDArray[np.bool_]:
        """True where every coordinate that the box names and `coords` holds lies in the box.

        An empty box contains nothing: a law with no stated range is always extrapolated.
        """
        coords = _with_derived(coords)
        shape = np.broadcast_shapes(*(np.shape(v) for v in coords.values()))
        inside = np.full(shape, bool(self.bounds))
        for name, low, high in self.bounds:
            if name in coords:
                value = np.asarray(coords[name], dtype=np.float64)
                inside &= (value >= low * (1 - EDGE)) & (value <= high * (1 + EDGE))
        return inside

    def complaints(self, coords: Mapping[str, ArrayLike]) -> list[str]:
        """One line per coordinate outside the box: which, which way, and by what factor."""
        coords = _with_derived(coords)
        lines = []
        for name, low, high in self.bounds:
            if name not in coords:
                continue
            said, value = COORDINATES.get(name, name), np.asarray(coords[name], dtype=np.float64)
            say = partial(_outside, what=said, low=low, high=high)
            if (smallest := float(value.min())) < low * (1 - EDGE):
                lines.append(say("below", smallest, low / smallest))
            if (largest := float(value.max())) > high * (1 + EDGE):
                lines.append(say("above", largest, largest / high))
        return lines


def _outside(side: str, value: float, off: float, **where: str | float) -> str:
    return OUTSIDE[f"{side} range"].format(value=value, off=times(off), **where)


def _with_derived(coords: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """The coordinates as arrays, with tokens per parameter and 6 N D added where both are known."""
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in coords.items()}
    params = arrays.get("params", arrays.get("student_params"))
    tokens = arrays.get("tokens", arrays.get("student_tokens"))
    if params is not None and tokens is not None:
        with np.errstate(all="ignore"):
            arrays.setdefault(_DERIVED[0], tokens / params)
            arrays.setdefault(_DERIVED[1], 6 * params * tokens)
    return arrays
