"""The best learning rate over sizes and tokens, from searches at a few of them and what is known of others.

    log2 rate*(N, D) = a + s n - q d + i n d,    n = log2(N / N_0), d = log2(D / D_0)

The rate is that of width 64 (train/optim.py), N the non-embedding parameters, D the tokens of a whole run, its cooldown
included. One search leaves a minimum open by tenths of an octave; divided by the few octaves between its budgets, that
is no exponent to go by: in the quickstart a fall of 0.96 was read off a ratio of 2.5 and two hundredths of a nat, and
the teacher that was trained by it lost 0.08 nats. So s, q and i have priors, and every search counts by what it is
worth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

NOISE = 0.003
"""Standard deviation of what chance does to the loss of one run beside another of the same seed, over the loss: seeds
of one cell differ by 0.002 of it in the quickstart and by 0.007 in the open table (docs/open-runs.md)."""
FORM = 0.1
"""Octaves by which the lowest point of a parabola through halves and doubles misses the minimum, whatever the noise:
the standard error between two seeds in docs/mup.md is 0.1 to 0.2."""
LATTICE = 12**-0.5
"""Standard deviation, octaves, of the best rate around the best of halves and doubles: uniform within half a step."""
UNKNOWN = 1.0
"""Octaves, of an optimum that lies at an end of what was tried."""
LEAST = 0.25
"""Octaves from the lowest loss that rates on either side must lie away to bracket it: a trunk between two rates of a
lattice of halves is bracketed by them wherever it lies."""
NEAR = 1.3
"""Octaves from the lowest loss within which a parabola is drawn: the next point of a lattice of halves, not a cliff."""
MISFIT = 9.0
"""In `NOISE`, how far below the parabola a loss two octaves off must lie for the curve to be none: two standard
deviations, sqrt(3^2 + 3^2 + 1 + 1) = 4.5 of it each, of three runs drawn on to there and the run itself."""
SIZE = (-0.08, 0.12)
"""Prior of s. Over width the best rate drifts by -0.15 +- 0.08 octaves per doubling, which is two of N, over layers
by 0.06 +- 0.11 (docs/mup.md); six pairs of sizes of the open and the pocket study have -0.32 to -0.02 for one of N.
Since measured at equal tokens (`benchmarks.rates.drift`): -0.12 +- 0.09 in a new text alone, by 14 groups of searches
in ten texts and worlds, -0.04 +- 0.11 from a teacher, by five in four; so it stays."""
FALL = {"text": (0.32, 0.3), "taught": (0.15, 0.15)}
"""Prior of q. From text 0.32 in Bjorck et al. 2025 (arXiv 2409.19913), 0.51 in Shen et al. 2024 (arXiv 2408.13359),
about 0.25 in DeepSeek-AI 2024 (arXiv 2401.02954: C^-0.125, N and D growing alike); here 0.17 and 0.22 in the open
study, 0.25 and more on technical documents, 1.2 in a study of 6k to 24k tokens. Taught: 0.09 twice, 0.25 twice, 0.34
there (docs/rates.md)."""
BOTH = (-0.05, 0.1)
"""Prior of i: on technical documents models three doublings larger fall with q 0.4 more (-0.14; docs/rates.md), in the
open study, 1.9 doublings apart, with 0.05 +- 0.1 more; Bjorck et al. find one q for all sizes. Four texts that were
searched at two sizes and two budgets have +0.03 +- 0.09 (`benchmarks.rates.drift`)."""
CAUTION = 0.5
"""Standard deviations by which a rate that nobody tried is set below the best one that is foreseen: at twice the best
rate long runs lose several times what they lose at half of it (docs/rates.md)."""


class Lowest(NamedTuple):
    """The lowest point of a parabola through the losses at rates on both sides of the best."""

    octaves: float
    sd: float
    """Standard deviation of the octaves."""
    steepness: float
    """Root mean square of the second-order coefficient, nats per squared octave."""
    excess: float
    """What the best of the rates tried loses against it, nats."""


class _Parabola(NamedTuple):
    best: float
    """Octaves of the lowest loss: where the parabola's own count begins."""
    c: float
    slope: float
    cov: np.ndarray
    """Of c and slope, shape (2, 2)."""


def _parabola(octaves: ArrayLike, losses: ArrayLike) -> _Parabola | None:
    """Through the lowest loss and its neighbours; None unless some lie `LEAST` away or more on either side."""
    x, y = np.asarray(octaves, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    best = int(np.argmin(y))
    near = np.isfinite(y) & (np.abs(x - x[best]) < NEAR)
    off = (x - x[best])[near]
    if not math.isfinite(y[best]) or off.min() > -LEAST or off.max() < LEAST:
        return None
    design = np.stack([off**2, off, np.ones_like(off)], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    c, slope, _ = inverse @ design.T @ y[near]
    return _Parabola(float(x[best]), float(c), float(slope), (NOISE * y[best]) ** 2 * inverse[:2, :2])


def excess(octaves: ArrayLike, losses: ArrayLike, own: float) -> float:
    """Root mean square of what a rate loses against the best one where rates on both sides were tried, nats.

        e = c x^2 + b x + b^2 / 4c,    x: octaves from the lowest loss to the rate

    A flat curve leaves its lowest point open and costs little all the same: b and c err together.

    Args:
        octaves: log2 of the rates that were tried.
        losses: at each, nats/token.
        own: log2 of the rate in question.

    Returns:
        inf where the curve has no bottom between the rates.
    """
    found = _parabola(octaves, losses)
    if found is None or found.c <= 0:
        return math.inf
    _, c, b, cov = found
    x = own - found.best
    mean = c * x**2 + b * x + b**2 / (4 * c) + cov[1, 1] / (4 * c)
    slope = np.array([x**2 - b**2 / (4 * c**2), x + b / (2 * c)])
    form = math.sqrt(3) * c * FORM**2
    return math.sqrt(mean**2 + float(slope @ cov @ slope) + 2 * (cov[1, 1] / (4 * c)) ** 2 + form**2)


def lowest(octaves: ArrayLike, losses: ArrayLike) -> Lowest | None:
    """Where the loss over rates is lowest: a parabola, held by what a lattice of halves would say without it.

    A curve that is flat up to a cliff has a sharp parabola at the cliff's edge, and its best rate anywhere on the flat.
    Where a rate further off is too good for the parabola, every rate that was tried stands for its neighbourhood, with
    the chance that its loss is no worse than the lowest.

    Args:
        octaves: log2 of the rates.
        losses: at each, nats/token; inf where training diverged.

    Returns:
        None unless rates `LEAST` octaves away or more lie on either side of the best.
    """
    found = _parabola(octaves, losses)
    if found is None:
        return None
    best, c, slope, cov = found
    vertex, var = 0.0, math.inf
    if c > 0:
        vertex = float(np.clip(-slope / (2 * c), -1.0, 1.0))
        jacobian = np.array([-vertex / c, -1 / (2 * c)])
        var = float(jacobian @ cov @ jacobian) + FORM**2
    kept = 1 / (1 + var / LATTICE**2)
    place = kept * vertex
    where, sd = place, LATTICE * math.sqrt(1 - kept)
    off, rise = np.asarray(octaves, dtype=np.float64) - best, np.asarray(losses) / np.min(losses) - 1
    if np.any((np.abs(off) >= NEAR) & (rise < (c * off**2 + slope * off) / np.min(losses) - MISFIT * NOISE)):
        share = np.array([math.erfc(each / (2 * NOISE)) for each in rise])  # two runs, with noise each
        share, top = share / share.sum(), int(np.argmin(rise))
        off[top], own = place, np.where(np.arange(len(off)) == top, sd, LATTICE)
        where = float(share @ off)
        sd = math.sqrt(share @ (own**2 + (off - where) ** 2))
    return Lowest(best + where, sd, math.sqrt(max(c, 0.0) ** 2 + cov[0, 0]), max(c, 0.0) * place**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The best rate at one size and number of tokens, as a search found it."""

    params: float
    tokens: float
    octaves: float
    """log2 of the best rate."""
    sd: float
    """Octaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLaw:
    """What is believed of the best rate of one arm: normal in (a, s, q, i)."""

    params: float
    """N_0."""
    tokens: float
    """D_0."""
    mean: tuple[float, ...]
    """Of (a, s, q, i)."""
    cov: tuple[tuple[float, ...], ...]
    """Four rows of four."""

    def octaves(self, params: float, tokens: float) -> tuple[float, float]:
        """Mean and standard deviation of log2 of the best rate at a size and a number of tokens."""
        row = _row(params / self.params, tokens / self.tokens)
        return float(row @ np.array(self.mean)), math.sqrt(row @ np.array(self.cov) @ row)

    def chosen(self, params: float, tokens: float) -> float:
        """log2 of the rate to train with where nobody tried any."""
        mean, sd = self.octaves(params, tokens)
        return mean - CAUTION * sd


def _row(size: float, length: float) -> np.ndarray:
    n, d = math.log2(size), math.log2(length)
    return np.array([1.0, n, -d, n * d])


def fit_rate_law(found: Sequence[Optimum], *, arm: str, params: float, tokens: float) -> RateLaw:
    """The posterior of the rate law given searches.

    Args:
        found: what the searches of the arm found; one at least, since nothing is known of a beforehand.
        arm: `text` or `taught`: which prior the fall has.
        params: N_0.
        tokens: D_0.
    """
    priors = np.array([SIZE, FALL[arm], BOTH])
    rows = [_row(one.params / params, one.tokens / tokens) for one in found]
    sds = np.array([*(one.sd for one in found), *priors[:, 1]])
    values = np.array([*(one.octaves for one in found), *priors[:, 0]])
    design = np.array([*rows, *np.eye(4)[1:]]) / sds[:, None]
    cov = np.linalg.inv(design.T @ design)
    mean = cov @ design.T @ (values / sds)
    return RateLaw(params=params, tokens=tokens, mean=tuple(mean.tolist()), cov=tuple(map(tuple, cov.tolist())))
