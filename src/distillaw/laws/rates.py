"""The best learning rate over sizes and tokens, from searches at a few of them and what is known of others.

    log2 rate*(N, D) = a + s log2(N / N_0) - q log2(D / D_0)

The rate is that of width 64 (train/optim.py), N the non-embedding parameters, D the tokens at which a budget branches
off. One search leaves a minimum open by tenths of an octave; divided by the few octaves between its budgets, that is
no exponent to go by: in the quickstart a fall of 0.96 was read off a ratio of 2.5 and two hundredths of a nat, and the
teacher that was trained by it lost 0.08 nats. So s and q have priors, and every search counts by what it is worth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NOISE = 0.003
"""Standard deviation of what chance does to the loss of one run beside another of the same seed, over the loss: seeds
of one cell differ by 0.002 of it in the quickstart and by 0.007 in the open table (docs/open-runs.md)."""
FORM = 0.1
"""Octaves by which the lowest point of a parabola through three halves misses the minimum, whatever the noise: the
standard error between two seeds in docs/mup.md is 0.1 to 0.2."""
UNKNOWN = 1.0
"""Octaves, of an optimum that lies at an end of what was tried, or of a curve without a bottom."""
SIZE = (-0.05, 0.08)
"""Prior of s: over width the best rate drifts by -0.15 +- 0.08 octaves per doubling, over layers by 0.06 +- 0.11
(docs/mup.md); a doubling of N is half a doubling of width."""
FALL = {"text": (0.32, 0.2), "taught": (0.1, 0.2)}
"""Prior of q. From text: 0.32 in Bjorck et al. 2025 (arXiv 2409.19913), 0.51 in Shen et al. 2024 (arXiv 2408.13359),
about 0.25 in DeepSeek-AI 2024 (arXiv 2401.02954: C^-0.125, N and D growing alike). From a teacher: docs/rates.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The lowest point of a loss over rates, at one size and number of tokens."""

    params: float
    tokens: float
    octaves: float
    """log2 of the best rate."""
    sd: float
    """Octaves."""


class Lowest(NamedTuple):
    """The lowest point of a parabola through the losses at three rates an octave apart, the middle one the best."""

    octaves: float
    """From the middle, at most half a step."""
    sd: float
    """Standard deviation of the octaves."""
    excess: float
    """What the middle loses against it, as a share of its loss."""


def lowest(losses: Sequence[float]) -> Lowest:
    """The lowest point of the parabola through three losses."""
    left, right = losses[0] - losses[1], losses[2] - losses[1]
    if not math.isfinite(left + right) or left + right <= 0:
        return Lowest(0.0, UNKNOWN, 0.0)
    place = float(np.clip((left - right) / (2 * (left + right)), -0.5, 0.5))
    noise = NOISE * losses[1] * math.sqrt(2) / (2 * (left + right))
    return Lowest(place, min(math.hypot(noise, FORM), UNKNOWN), (left + right) / 2 * place**2 / losses[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLaw:
    """What is believed of the best rate of one arm: normal in (a, s, q)."""

    params: float
    """N_0."""
    tokens: float
    """D_0."""
    mean: np.ndarray
    """Of (a, s, q), shape (3,)."""
    cov: np.ndarray
    """Shape (3, 3)."""

    def octaves(self, params: float, tokens: float) -> tuple[float, float]:
        """Mean and standard deviation of log2 of the best rate at a size and a number of tokens."""
        row = self._row(params, tokens)
        return float(row @ self.mean), float(math.sqrt(row @ self.cov @ row))

    def _row(self, params: float, tokens: float) -> np.ndarray:
        return np.array([1.0, math.log2(params / self.params), -math.log2(tokens / self.tokens)])


def fit_rate_law(found: Sequence[Optimum], *, arm: str) -> RateLaw:
    """The posterior of the rate law given searches; at least one is needed.

    Args:
        found: what the searches of the arm found; the first is where a is anchored.
        arm: `text` or `taught`: which prior the fall has.
    """
    params, tokens = found[0].params, found[0].tokens
    (drift, drift_sd), (fall, fall_sd) = SIZE, FALL[arm]
    rows = [[1.0, math.log2(one.params / params), -math.log2(one.tokens / tokens)] for one in found]
    design = (
        np.array([*rows, [0, 1, 0], [0, 0, 1]])
        / np.array([*(one.sd for one in found), drift_sd, fall_sd])[:, None]
    )
    values = np.array([*(one.octaves / one.sd for one in found), drift / drift_sd, fall / fall_sd])
    cov = np.linalg.inv(design.T @ design)
    return RateLaw(params=params, tokens=tokens, mean=cov @ design.T @ values, cov=cov)
