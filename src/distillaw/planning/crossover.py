"""Tokens at which training without a teacher catches up: always a band, with the share that never crosses.

The two losses differ by little over decades of tokens, so a crossing is ill-conditioned (docs/concepts.md):
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
    """None where an end lies outside the range searched: before it, if `share_before` reaches that far, else beyond."""
    share_none: float
    """Draws in which training without a teacher does not catch up within the range."""
    share_before: float
    """Draws in which it is ahead all along: what crossing there may be lies before the range."""
    searched: tuple[float, float]
    source: str

    def to_json(self) -> dict[str, object]:
        """The band, and the share of draws without a crossover."""
        return {"lower": self.lower, "median": self.median, "upper": self.upper, "share_none": self.share_none,
                "share_before": self.share_before, "searched": list(self.searched), "source": self.source}  # fmt: skip


def crossings(tokens: Array, gains: Array) -> Array:
    """First tokens at which a positive gain turns to nothing, by row; infinite where it never does.

    Between grid points the gain is taken as straight in ln tokens. A gain that is never positive gives 0: if it ever
    was, that was before the grid begins.
    """
    x = np.log(tokens)
    out = np.full(len(gains), np.inf)
    for row, gain in enumerate(gains):
        if gain[0] <= 0:
            rising = np.flatnonzero(gain > 0)
            if not len(rising):
                out[row] = 0.0
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
    """The band of crossovers over draws; an end that lies outside the range searched is None."""
    tail = (1 - level) / 2
    ends = np.quantile(crossed, [tail, 0.5, 1 - tail], method="inverted_cdf")
    lower, median, upper = (float(e) if 0 < e < math.inf else None for e in ends)
    return Crossover(lower=lower, median=median, upper=upper, share_none=float(np.isinf(crossed).mean()),
                     share_before=float((crossed == 0).mean()), searched=searched, source=source)  # fmt: skip
