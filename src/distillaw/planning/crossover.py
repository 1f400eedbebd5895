"""Tokens at which training without a teacher catches up: always a band, with the share that never crosses.

The two losses differ by little over decades of tokens, so a crossing is ill-conditioned (spec laws.md section 11):
a single number would be worth nothing.
"""

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """Tokens at which training without a teacher catches up, as a band over draws."""

    lower: float | None
    median: float | None
    upper: float | None
    """None where that share of the draws has no crossover in the range searched."""
    share_none: float
    searched: tuple[float, float]
    source: str

    def to_json(self) -> dict[str, object]:
        """The band, and the share of draws without a crossover."""
        return {"lower": self.lower, "median": self.median, "upper": self.upper, "share_none": self.share_none,
                "searched": list(self.searched), "source": self.source}  # fmt: skip


def crossings(tokens: Array, gains: Array) -> Array:
    """First tokens at which a positive gain turns to nothing, by row; infinite where it never does.

    Between grid points the gain is taken as straight in ln tokens. A gain that is never positive has crossed
    before the grid begins: its first point.
    """
    x = np.log(tokens)
    out = np.full(len(gains), np.inf)
    for row, gain in enumerate(gains):
        if gain[0] <= 0:
            rising = np.flatnonzero(gain > 0)
            if not len(rising):
                out[row] = tokens[0]
                continue
            start = int(rising[0])
        else:
            start = 0
        falls = np.flatnonzero((gain[start:-1] > 0) & (gain[start + 1 :] <= 0))
        if len(falls):
            i = start + int(falls[0])
            out[row] = math.exp(x[i] + (x[i + 1] - x[i]) * gain[i] / (gain[i] - gain[i + 1]))
    return out


def band_of(crossed: Array, searched: tuple[float, float], source: str, level: float) -> Crossover:
    """The band of crossovers over draws; an end that lies at infinity is None."""
    tail = (1 - level) / 2
    ends = np.quantile(crossed, [tail, 0.5, 1 - tail], method="inverted_cdf")
    lower, median, upper = (float(e) if math.isfinite(e) else None for e in ends)
    return Crossover(lower=lower, median=median, upper=upper, share_none=float(np.isinf(crossed).mean()),
                     searched=searched, source=source)  # fmt: skip
