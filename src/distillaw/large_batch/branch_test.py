"""The branch test: up to which batch a checkpoint learns as much per token as with any smaller one.

    e_k = L_k - min_{j<k} L_j      what batch k B costs against the best smaller one, nats per token
    k*  = the largest k with e_k <= tolerance,      B* = k* B

L_k is the loss after one window of tokens from one checkpoint (Merrill et al. 2025, arXiv 2505.23971: one run per k,
0.01 nats). Here each k is run with the same few data orders, so the tolerance can be the measured noise of a run and
every answer has a probability:

    L_ks = mu_k + a_s + e_ks,     e ~ N(0, sigma^2),     sigma^2 with (K - 1)(S - 1) degrees of freedom

a_s is what all batches share that read the text in order s. Draws of (mu, sigma) given the losses, with the covariance
of the held-out documents added to mu, are pushed through the rule. What runs the branches is sweep/branching.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, DataError

SEED_MULTIPLE = 2.0
"""The measured tolerance in standard deviations of one run over data orders: our choice, for a loss that most other
orders of the same text would have given as well."""
DRAWS = 4000
"""Of the truths given the losses: probabilities are then known to 0.8 % (one standard error)."""


class BranchStatus(Enum):
    """How far a branch test has decided; the value says what to do."""

    BRACKETED = "decided on this grid: the largest batch that passes and the smallest that fails are known"
    NONE_FAILS = "no batch fails: B* has a lower bound only; add larger multiples"
    FIRST_FAILS = "the smallest multiple above the first fails already: an upper bound only; add smaller multiples"
    NOTHING_TO_COMPARE = "fewer than two batches ended with a finite loss; lower the rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """The losses of one checkpoint's branches."""

    multiples: tuple[float, ...]
    """k, ascending."""
    losses: NDArray[np.float64]
    """L_ks, nats per token, shape (k, orders); NaN where a branch diverged, and then its k fails."""

    def __post_init__(self) -> None:
        shape = self.losses.shape
        if len(shape) != 2 or shape[0] != len(self.multiples) or shape[0] < 2 or shape[1] < 1:
            raise DataError(
                f"losses of shape {shape} for {len(self.multiples)} multiples: give (multiples, orders), at least two "
                "multiples and one order"
            )
        if self.multiples[0] <= 0 or any(b <= a for a, b in pairwise(self.multiples)):
            raise DataError(f"multiples {self.multiples}: positive and ascending, e.g. 1, 2, 4, 8")

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which multiples survived in every order, shape (k,)."""
        return np.asarray(np.isfinite(self.losses).all(1))

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean over orders, infinite where a branch diverged, shape (k,)."""
        return np.where(self.finite, np.where(np.isfinite(self.losses), self.losses, 0.0).mean(1), np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderNoise:
    """What the order of the data does to the loss of one branch, beyond what all branches of that order share."""

    sd: float
    """Standard deviation of one branch, nats per token; NaN where it cannot be seen."""
    dof: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchVerdict:
    """What a branch test came to; batches in multiples of the checkpoint's own."""

    status: BranchStatus
    largest: float | None
    """k*."""
    fails_from: float | None
    """The next multiple, which fails; None: none does."""
    between: float | None
    """Where the excess meets the tolerance, interpolated in log k between the two; k* itself where none fails."""
    interval: tuple[float, float | None]
    """Of `between`; no upper end where the largest multiple passes too often."""
    probability: tuple[float, ...]
    """That k* is this multiple, one of each."""
    excess: tuple[float, ...]
    """e_k; 0 for the first, infinite for a diverged one."""
    excess_interval: tuple[tuple[float, float], ...]
    fails: tuple[float, ...]
    """Probability that a multiple fails, one of each."""
    passes_after_failing: tuple[float, ...]
    """Multiples below k* that fail: the losses do not rise steadily."""
    tolerance: float
    is_measured: bool
    """Whether the tolerance is the seed noise."""
    noise: OrderNoise
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two branch tests: by how many doublings the second's critical batch is larger."""

    between: tuple[float, float]
    """Where each excess meets its tolerance, as multiples of the batch; a bound where a test is not bracketed."""
    doublings: float
    """From the first to the second of these."""
    interval: tuple[float | None, float | None]
    """None: that end is not bounded, since in one test no batch fails there, or the first that could does."""
    larger: float
    """Probability that the second is larger by half a doubling at least."""
    smaller: float
    """... smaller by as much."""
    tolerance: float | tuple[float, float]
    level: float

    @property
    def word(self) -> str:
        """The answer at `level`, one-sided."""
        sure, (low, high) = 0.5 + self.level / 2, self.interval
        if self.larger >= sure and low is not None:
            return "larger"
        if self.smaller >= sure and high is not None:
            return "smaller"
        if low is None or high is None:
            return "undecided: not both are bracketed by the grid"
        return "alike within a doubling" if -1 < low and high < 1 else "not told apart"


def order_noise(branches: Branches) -> OrderNoise:
    """Sigma of the additive model, from what orders and batches do jointly."""
    kept = branches.losses[branches.finite]
    dof = (len(kept) - 1) * (kept.shape[1] - 1)
    if dof < 1:
        return OrderNoise(sd=math.nan, dof=0)
    residual = kept - kept.mean(1, keepdims=True) - kept.mean(0, keepdims=True) + kept.mean()
    return OrderNoise(sd=float(np.sqrt((residual**2).sum() / dof)), dof=dof)


def decide(
    branches: Branches,
    *,
    tolerance: float | None = None,
    document_cov: NDArray[np.float64] | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> BranchVerdict:
    """The critical batch on the grid of multiples, and how sure it is.

    Args:
        tolerance: nats per token; None takes `SEED_MULTIPLE` times the measured noise of one branch.
        document_cov: covariance of the means over the held-out documents, shape (k, k); None leaves it out.

    Raises:
        ConfigError: a negative tolerance, or none with a single order.
    """
    noise = order_noise(branches)
    _check(tolerance, [noise], level)
    ((mu, sd),) = _draw([branches], document_cov, seed)
    wanted = SEED_MULTIPLE * noise.sd if tolerance is None else tolerance
    limits = SEED_MULTIPLE * sd if tolerance is None else np.full(DRAWS, tolerance)
    excess, drawn = excess_over_smaller(branches.means), excess_over_smaller(mu)
    place, places = _last_passing(excess, wanted), _last_passing(drawn, limits)
    grid, tail = np.log2(branches.multiples), (1 - level) / 2
    met = _between(grid, drawn, limits)
    low, high = np.quantile(met, [tail, 1 - tail])
    passes, count = excess <= wanted, len(branches.multiples)
    top = None if place < 0 else branches.multiples[place]
    return BranchVerdict(
        status=_status(branches, int(place)),
        largest=top,
        fails_from=branches.multiples[place + 1] if -1 < place < count - 1 else None,
        between=None if top is None else float(2 ** _between(grid, excess, wanted)),
        interval=(float(2**low), None if (met >= grid[-1]).mean() > tail else float(2**high)),
        probability=tuple(float((places == i).mean()) for i in range(count)),
        excess=tuple(map(float, excess)),
        excess_interval=_bounds(drawn, level),
        fails=tuple(map(float, (drawn > limits[:, None]).mean(0))),
        passes_after_failing=tuple(k for i, k in enumerate(branches.multiples[: max(place, 0)]) if not passes[i]),
        tolerance=wanted,
        is_measured=tolerance is None,
        noise=noise,
        level=level,
    )


def compare(
    first: Branches,
    second: Branches,
    *,
    tolerance: float | tuple[float, float] | None = None,
    document_cov: NDArray[np.float64] | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Comparison:
    """By how many doublings the second critical batch is larger than the first.

    Args:
        first, second: with multiples of one batch.
        tolerance: nats per token, one for both or one of each; None takes `SEED_MULTIPLE` times the larger of the two
            measured noises for both.
        document_cov: of the first's means and then the second's, shape (k1 + k2, k1 + k2): they share the documents.

    Raises:
        ConfigError: as `decide`.
        DataError: a test without a finite loss.
    """
    both, noises = (first, second), [order_noise(first), order_noise(second)]
    given = tolerance if isinstance(tolerance, tuple) else (tolerance, tolerance)
    for each in given:
        _check(each, noises, level)
    if not (first.finite.any() and second.finite.any()):
        raise DataError("a branch test in which every branch diverged cannot be compared; lower the rate")
    drawn = _draw(both, document_cov, seed)
    noise = SEED_MULTIPLE * max(each.sd for each in noises)
    noise_drawn = SEED_MULTIPLE * np.maximum(drawn[0][1], drawn[1][1])
    grids = [np.log2(branches.multiples) for branches in both]
    at, met = [], []
    for x, branches, (mu, _), own in zip(grids, both, drawn, given, strict=True):
        at.append(_between(x, excess_over_smaller(branches.means), noise if own is None else own))
        limit = noise_drawn if own is None else np.full(DRAWS, own)
        met.append(_between(x, excess_over_smaller(mu), limit))
    steps, tail = met[1] - met[0], (1 - level) / 2
    below = [(m < x[1]).mean() > tail for m, x in zip(met, grids, strict=True)]
    above = [(m >= x[-1]).mean() > tail for m, x in zip(met, grids, strict=True)]
    low, high = np.quantile(steps, [tail, 1 - tail])
    return Comparison(
        between=(float(2 ** at[0]), float(2 ** at[1])),
        doublings=float(at[1] - at[0]),
        interval=(None if above[0] or below[1] else float(low), None if above[1] or below[0] else float(high)),
        larger=float((steps >= 0.5).mean()),
        smaller=float((steps <= -0.5).mean()),
        tolerance=noise if tolerance is None else tolerance,
        level=level,
    )


def excess_over_smaller(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """e_k along the last axis: 0 for the first finite loss, infinite where the loss is."""
    best = np.minimum.accumulate(means, axis=-1)
    before = np.concatenate([np.full_like(means[..., :1], np.inf), best[..., :-1]], axis=-1)
    lost = np.isinf(means)
    return np.where(lost, np.inf, np.where(np.isinf(before), 0.0, np.where(lost, 0.0, means) - before))


def smooth(losses: Sequence[float], *, memory: float = 0.5) -> float:
    """The last value of the exponential moving average m <- memory m + (1 - memory) x that starts at the first loss.

    Raises:
        DataError: no losses.
    """
    if not losses:
        raise DataError("no losses to smooth")
    return float(reduce(lambda value, loss: memory * value + (1 - memory) * loss, losses))


def _draw(
    every: Sequence[Branches], document_cov: NDArray[np.float64] | None, seed: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Possible truths given the losses: (mu, shape (DRAWS, k); sigma, shape (DRAWS,), NaN with one order)."""
    rng = np.random.default_rng(seed)
    sizes = [len(branches.multiples) for branches in every]
    shared = np.zeros((DRAWS, sum(sizes)))
    if document_cov is not None:
        values, vectors = np.linalg.eigh(document_cov)
        shared = rng.standard_normal(shared.shape) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    drawn = []
    for branches, documents in zip(every, np.split(shared, np.cumsum(sizes)[:-1], axis=1), strict=True):
        noise = order_noise(branches)
        normal, sd = rng.standard_normal(documents.shape), np.full(DRAWS, np.nan)
        if noise.dof:
            sd = noise.sd * np.sqrt(noise.dof / rng.chisquare(noise.dof, DRAWS))
        own = np.nan_to_num(sd)[:, None] / math.sqrt(branches.losses.shape[1]) * normal
        drawn.append((branches.means + documents + own, sd))
    return drawn


def _last_passing(excess: NDArray[np.float64], limit: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """Index of the last that passes along the last axis; -1 where none does."""
    passes = excess <= np.asarray(limit)[..., None]
    return np.where(passes.any(-1), passes.shape[-1] - 1 - np.argmax(passes[..., ::-1], axis=-1), -1)


def _between(
    x: NDArray[np.float64], excess: NDArray[np.float64], limit: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Where the excess meets the limit after the last that passes, in the unit of x; at the grid's end its x."""
    last, top = np.maximum(_last_passing(excess, limit), 0), len(x) - 1
    following = np.minimum(last + 1, top)
    here = np.take_along_axis(excess, last[..., None], -1)[..., 0]
    there = np.take_along_axis(excess, following[..., None], -1)[..., 0]
    rises = np.isfinite(there) & (following > last) & (there > here)
    run = np.where(rises, there, 1.0) - np.where(rises, here, 0.0)
    share = np.where(rises, np.clip((limit - np.where(rises, here, 0.0)) / run, 0, 1), 0.0)
    return x[last] + share * (x[following] - x[last])


def _bounds(drawn: NDArray[np.float64], level: float) -> tuple[tuple[float, float], ...]:
    tail = (1 - level) / 2
    ends = [
        np.quantile(column, [tail, 1 - tail]) if np.isfinite(column).all() else (np.inf, np.inf) for column in drawn.T
    ]
    return tuple((float(low), float(high)) for low, high in ends)


def _status(branches: Branches, place: int) -> BranchStatus:
    if branches.finite.sum() < 2 and (place < 0 or not branches.finite[0]):
        return BranchStatus.NOTHING_TO_COMPARE
    if place == len(branches.multiples) - 1:
        return BranchStatus.NONE_FAILS
    return BranchStatus.FIRST_FAILS if place == 0 else BranchStatus.BRACKETED


def _check(tolerance: float | None, noises: Sequence[OrderNoise], level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level = {level:g}: it must lie in (0, 1), e.g. 0.9")
    if tolerance is None and not all(noise.dof for noise in noises):
        raise ConfigError(
            "a tolerance from the seed noise needs two data orders at least and two batches that do not diverge. Run "
            "more orders (--orders 3), or give a tolerance in nats per token (--tolerance 0.01)"
        )
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ConfigError(f"tolerance = {tolerance:g}: nats per token, finite and not negative, e.g. 0.01")
