"""The gradient noise scale from gradient norms at two batch sizes, which accumulation or data parallelism give free.

    |G|^2     = ( B |g_B|^2 - b |g_b|^2 ) / ( B - b )            G the true gradient
    tr(Sigma) = ( |g_b|^2 - |g_B|^2 ) / ( 1/b - 1/B )            Sigma the covariance of one sample's gradient
    B_simple  = tr(Sigma) / |G|^2                                samples or tokens, the unit of b and B

Both are unbiased for each step, and noisy (even negative), so they are averaged apart and divided afterwards
(McCandlish et al. 2018, arXiv 1812.06162, appendix A). A diagnostic to log, not a decision: Merrill et al. 2025
(arXiv 2505.23971) find that it underestimates the critical batch by orders of magnitude. What measures the norms in a
torch loop is large_batch/instruments.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, DataError
from distillaw.runs.paired import fieller_interval, t_quantile

MOST_BLOCKS = 20
"""Neighbouring steps resemble each other: errors are taken between so many blocks of steps."""
FEWEST_STEPS = 8
"""Four blocks of two: an error of three degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseScale:
    """The noise scale over a stretch of steps, with its interval."""

    value: float | None
    """B_simple; None where the mean |G|^2 came out at zero or below: more steps, or a larger B, are needed."""
    low: float
    high: float | None
    """None: no upper end, since |G|^2 is not distinguishable from zero."""
    level: float
    grad_sq: float
    grad_sq_se: float
    trace: float
    trace_se: float
    steps: int
    blocks: int


def two_batch(small_sq: float, big_sq: float, *, small: float, big: float) -> tuple[float, float]:
    """(|G|^2, tr Sigma) from one pair of squared gradient norms; each unbiased, either may be negative.

    Args:
        small_sq: |g_b|^2, the mean over the micro-batches (or ranks) of the step.
        big_sq: |g_B|^2 of the whole batch, before clipping.
        small: b, > 0.
        big: B, > b.

    Raises:
        ConfigError: batches that are not 0 < b < B.
        DataError: a norm that is negative or not finite.
    """
    if not 0 < small < big < math.inf:
        raise ConfigError(
            f"batches {small:g} and {big:g}: the estimator needs 0 < small < big. One micro-batch per step on one "
            "device gives a single size: accumulate over at least two"
        )
    for name, value in (("small_sq", small_sq), ("big_sq", big_sq)):
        if not 0 <= value < math.inf:
            raise DataError(f"{name} = {value:g}: a squared norm is finite and not negative")
    return (big * big_sq - small * small_sq) / (big - small), (small_sq - big_sq) / (1 / small - 1 / big)


def noise_scale(
    small_sq: Sequence[float], big_sq: Sequence[float], *, small: float, big: float, level: float = 0.95
) -> NoiseScale:
    """The noise scale over steps, with Fieller's interval for a ratio of means.

    Args:
        small_sq: |g_b|^2 of each step, shape (steps,).
        big_sq: |g_B|^2 of the same steps.
        small: b.
        big: B.
        level: of the interval.

    Returns:
        Standard errors are those of the means of up to `MOST_BLOCKS` blocks of neighbouring steps.

    Raises:
        ConfigError: as `two_batch`; a level outside (0, 1).
        DataError: as `two_batch`; fewer than `FEWEST_STEPS` steps or lists of different length.
    """
    if len(small_sq) != len(big_sq) or len(small_sq) < FEWEST_STEPS:
        raise DataError(
            f"{len(small_sq)} and {len(big_sq)} norms: give as many of both, of at least {FEWEST_STEPS} steps"
        )
    if not 0 < level < 1:
        raise ConfigError(f"level = {level:g}: it must lie in (0, 1), e.g. 0.95")
    pairs = np.array([two_batch(s, b, small=small, big=big) for s, b in zip(small_sq, big_sq, strict=True)])
    blocks = np.array([part.mean(0) for part in np.array_split(pairs, min(MOST_BLOCKS, len(pairs) // 2))])
    grad_sq, trace = pairs.mean(0)
    cov = np.cov(blocks.T) / len(blocks)
    t = t_quantile(0.5 + level / 2, len(blocks) - 1)
    low, high = _ends(float(trace), float(grad_sq), cov[::-1, ::-1], t=t)
    return NoiseScale(
        value=float(trace / grad_sq) if grad_sq > 0 and trace > 0 else (0.0 if grad_sq > 0 else None),
        low=low,
        high=high,
        level=level,
        grad_sq=float(grad_sq),
        grad_sq_se=math.sqrt(cov[0, 0]),
        trace=float(trace),
        trace_se=math.sqrt(cov[1, 1]),
        steps=len(pairs),
        blocks=len(blocks),
    )


def _ends(trace: float, grad_sq: float, cov: NDArray[np.float64], *, t: float) -> tuple[float, float | None]:
    """Of the noise scale, which is not negative; `cov` is that of (trace, grad_sq)."""
    ends = fieller_interval(trace, grad_sq, cov, t=t)
    if ends is not None and grad_sq > 0:
        return max(0.0, ends[0]), max(0.0, ends[1])
    inverse = fieller_interval(grad_sq, trace, cov[::-1, ::-1], t=t)  # zero is within: no upper end
    if inverse is not None and trace > 0 and inverse[1] > 0:
        return 1 / inverse[1], None
    return 0.0, None


def moved(means: tuple[float, float], pair: tuple[float, float], *, memory: float) -> tuple[float, float]:
    """Moving averages of (|G|^2, tr Sigma) with one step's pair taken in; they begin at zero, which `ratio` cancels."""
    grad_sq, trace = (memory * old + (1 - memory) * new for old, new in zip(means, pair, strict=True))
    return grad_sq, trace


def ratio(means: tuple[float, float]) -> float | None:
    """tr(Sigma)/|G|^2 of averages; None while either is not above zero."""
    grad_sq, trace = means
    return trace / grad_sq if grad_sq > 0 and trace > 0 else None


@dataclass(slots=True, kw_only=True)
class NoiseLog:
    """What a loop adds to at every step: a live value by moving averages, and the record for `noise_scale`."""

    small: float
    big: float
    memory: float = 0.99
    """Weight of the past in the moving averages, in [0, 1)."""
    small_sq: list[float] = field(default_factory=list)
    big_sq: list[float] = field(default_factory=list)
    _means: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.memory < 1:
            raise ConfigError(f"memory = {self.memory:g}: it must lie in [0, 1)")
        two_batch(0.0, 0.0, small=self.small, big=self.big)

    def add(self, *, small_sq: float, big_sq: float) -> None:
        """One step's squared norms; DataError: as `two_batch`."""
        pair = two_batch(small_sq, big_sq, small=self.small, big=self.big)
        self.small_sq.append(small_sq)
        self.big_sq.append(big_sq)
        self._means = moved(self._means, pair, memory=self.memory)

    @property
    def value(self) -> float | None:
        """tr(Sigma)/|G|^2 of the moving averages; None while either is not above zero."""
        return ratio(self._means)

    def estimate(self, *, last: int | None = None, level: float = 0.95) -> NoiseScale:
        """`noise_scale` over the last so many steps, or all."""
        first = 0 if last is None else max(0, len(self.small_sq) - last)
        return noise_scale(self.small_sq[first:], self.big_sq[first:], small=self.small, big=self.big, level=level)
