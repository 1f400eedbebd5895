"""How far runs may lie from the laws' family: smooth misfit, noise of seeds and held-out text, and what rates may cost.

    ln loss = family + misfit(arm, N, D) + seed(N, seed) + trunk + run + text(arm) + rate(kind, N, D)

Misfit is a Gaussian process, the same for every run of a design point; it is what extrapolation is uncertain by even
without noise. Trunk is what budgets of one size, seed, arm and rate share. No arm is known to be at its best rate, and
supervised and distilled ones are not alike: x octaves off, a rate costs c x^2, and x is what the search's rate law
leaves open, more and more beyond its budgets and sizes (planning/ has the same for a finished study). Between runs of
a kind it has the second moments E[c^2 x^2 y^2]: a target shares what its rate costs with a pilot as far as both are
off by the same octaves, and pilots that lost nothing tell no more than that. What grows alike shows in the longer
pilots too, so they narrow it. Shape suffixes: R run, A arm.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from distillaw.laws.base import Array
from distillaw.laws.rates import Optimum, RateLaw, fit_rate_law
from distillaw.planning.arms import STEEPNESS
from distillaw.sweep.tuning import ArmRates

MISFITS = {0.004: 0.14, 0.008: 0.29, 0.016: 0.36, 0.032: 0.21}
"""Standard deviation of the misfit of one arm, ln loss -> how likely it is before any pilot. Learnt from the tables of
trained runs in this tree (`benchmarks.settle.misfit`) with half of it shared and rates that only tokens move. Learnt
anew since, most likely is 0.8 % in two worlds, 0.8 to 1.6 % in the pocket and the open study, 3.2 % in that of the
capacity gap, and the chances are 0.07, 0.61, 0.11 and 0.21; those before were kept, since they are what was judged."""
SHARED_MISFIT = 0.7
"""Share of its variance that all arms have in common, learnt likewise (0.58 to 0.82): the misfit of a gain is 0.5 to
0.9 of a loss's. The four constants below were chosen by how often intervals held on simulated surfaces
(docs/settle-benchmark.md)."""
SPREAD = 3.0
"""E-folds of N or D over which it keeps its value."""
TEACHER_SPREAD = 0.25
"""The same in ln L_T."""
OTHER_TEACHER = 0.5
"""Of what an arm's misfit has to itself, what another teacher of the same loss shares."""
SEED = 0.003
"""Seed noise of one run, ln loss, before seeds are compared; SEED_WEIGHT degrees of freedom strong."""
SEED_WEIGHT = 4.0
"""Of the assumed seed noise: repeats of one stage outweigh it."""
SHARED_SEED, TRUNK = 0.5, 0.35
"""Shares of the seed noise's variance that all arms of one seed and size, and all budgets of one trunk, share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotPoints:
    """Where runs were or will be, one entry per run; arm 0 has no teacher."""

    log_params: Array
    log_tokens: Array
    arm: np.ndarray
    seed: np.ndarray
    rate: np.ndarray
    """Runs of one size, arm, seed and rate are of one trunk."""

    @classmethod
    def at(
        cls, params: ArrayLike, tokens: ArrayLike, arm: ArrayLike, seed: ArrayLike = 0, rate: ArrayLike | None = None
    ) -> "PilotPoints":
        """Runs of N parameters on D tokens; one number stands for all. Without rates no two budgets share a trunk."""
        rate = tokens if rate is None else rate
        params, tokens, arm, seed, rate = np.broadcast_arrays(params, tokens, arm, seed, rate)
        arm, seed = arm.astype(np.int64), seed.astype(np.int64)
        return cls(log_params=np.log(params), log_tokens=np.log(tokens), arm=arm, seed=seed, rate=rate)

    def join(self, other: "PilotPoints") -> "PilotPoints":
        """These, then the others."""
        names = [field.name for field in fields(self)]
        parts = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return PilotPoints(**{name: np.concatenate(part) for name, part in parts.items()})

    @property
    def trunks(self) -> np.ndarray:
        """Which trunk each run is of, numbered."""
        keys = np.stack([self.log_params, self.arm, self.seed, self.rate], axis=1)
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def misfit_cov(one: PilotPoints, other: PilotPoints, log_teacher_losses: Array, *, sd: float) -> Array:
    """Covariance of the misfit between runs of two lists, (R, R'); `sd` is that of one arm, ln loss."""
    away = np.hypot(one.log_params[:, None] - other.log_params, one.log_tokens[:, None] - other.log_tokens)
    steps = math.sqrt(3) * away / SPREAD
    smooth = (1 + steps) * np.exp(-steps)  # Matern 3/2
    t = np.concatenate([[np.inf], log_teacher_losses])  # arm 0 has nothing of its own in common with any other
    same = one.arm[:, None] == other.arm
    with np.errstate(invalid="ignore"):
        apart = np.abs(t[one.arm][:, None] - t[other.arm]) / TEACHER_SPREAD
    alike = np.where(same, 1.0, OTHER_TEACHER * np.exp(-np.where(np.isfinite(apart), apart, np.inf)))
    return sd**2 * smooth * (SHARED_MISFIT + (1 - SHARED_MISFIT) * alike)


def seed_cov(points: PilotPoints, sd: float, text_se: Array) -> Array:
    """Covariance of the noise of runs, (R, R).

    Args:
        sd: seed noise of one run, ln loss.
        text_se: by arm, error of its gain from the choice of held-out documents, ln loss.
    """
    pair = (points.log_params[:, None] == points.log_params) & (points.seed[:, None] == points.seed)
    arm = points.arm[:, None] == points.arm
    own = (1 - SHARED_SEED - TRUNK) * np.eye(len(points.arm))
    trunks = points.trunks
    seeds = sd**2 * (SHARED_SEED * pair + TRUNK * (trunks[:, None] == trunks) + own)
    return seeds + np.where(arm, text_se[points.arm][:, None] ** 2, 0.0)


def seed_sd(log_losses: Array, points: PilotPoints) -> float:
    """Seed noise of one run, from what was repeated with other seeds; the assumed one where nothing was.

    What all arms of a seed share drops out of the gains, and out of this, so the rest is scaled up to the whole.
    Budgets of one trunk repeat each other: a size counts as often as it has budgets with trunks of their own.
    """
    squares, dof = SEED_WEIGHT * SEED**2 * (1 - SHARED_SEED), SEED_WEIGHT
    for params in np.unique(points.log_params):
        mine = points.log_params == params
        own = len(np.unique(points.trunks[mine])) / mine.sum()
        for tokens in np.unique(points.log_tokens[mine]):
            square, n = _rest(log_losses, points, mine & (points.log_tokens == tokens))
            squares += own * square
            dof += own * n
    return float(np.sqrt(squares / dof / (1 - SHARED_SEED)))


def _rest(log_losses: Array, points: PilotPoints, here: np.ndarray) -> tuple[float, int]:
    """Sum of squares of a design point's runs beside the means of its arms and seeds, and its degrees of freedom."""
    arms, seeds = np.unique(points.arm[here]), np.unique(points.seed[here])
    table = np.full((len(arms), len(seeds)), np.nan)
    table[np.searchsorted(arms, points.arm[here]), np.searchsorted(seeds, points.seed[here])] = log_losses[here]
    full = table[:, ~np.isnan(table).any(axis=0)]
    rest = full - full.mean(0) - full.mean(1, keepdims=True) + full.mean() if full.size else full
    return float((rest**2).sum()), max(len(arms) - 1, 0) * max(full.shape[1] - 1, 0)


UNSEARCHED = 1.0
"""Octaves: standard deviation of the best rate around one that nobody searched for this text."""
WORST = 0.1
"""Of the ln loss: beyond it a rate is known to be wrong, not how wrong, and nothing can be decided by either arm."""
SIZES = 3.0
"""Doublings of size over which the best rate goes on drifting: pairs of sizes that were searched are 1 to 4 apart, and
over the 6 of docs/mup.md it moved by no more than over these (`benchmarks.rates.drift`)."""
KINDS = {"supervised": ("text", "alone"), "distilled": ("taught", "taught")}
"""Arms of a search, as laws/rates.py and planning's table of steepness have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCheck:
    """The rates of one kind of arm, and what was done for them."""

    arm: str
    """`supervised` or `distilled`."""
    rates: ArmRates
    """With which pilots are trained."""
    law: RateLaw
    """What is known of the best rates."""
    checked: float | None = None
    """Largest budget at which rates on both sides were tried; None: nobody looked beyond the search's."""
    steepness: float | None = None
    """Nats per squared octave off the best rate, as the search shows it."""

    @classmethod
    def unsearched(cls, arm: str, rate: float, params: float, tokens: float) -> "RateCheck":
        """One rate for all runs, which nobody has searched; it is taken to be meant for that size and budget."""
        start = Optimum(params=params, tokens=tokens, octaves=math.log2(rate), sd=UNSEARCHED)
        law = fit_rate_law([start], arm=KINDS[arm][0], params=start.params, tokens=tokens)
        return cls(arm=arm, rates=ArmRates(start=rate), law=law)

    @property
    def searched(self) -> int | None:
        """Tokens of the runs that the rate was searched with; None: nobody searched."""
        return self.rates.near or None

    @property
    def reach(self) -> float:
        """Tokens up to which rates on both sides were tried."""
        return self.checked or self.searched or 0.0

    def rate(self, tokens: float) -> float:
        """Of the smallest pilots at so many tokens, at width 64."""
        return self.rates.at(self.law.params, round(tokens))

    def octaves(self, params: ArrayLike, tokens: ArrayLike) -> tuple[Array, Array]:
        """How far an arm's rate lies above its best one: means, and what standard normal numbers add, (R,) and (R, 4).

        Sizes move the best rate as they do at equal tokens, whatever the tokens: their interaction, for which the law
        has a prior alone, would be octaves at far targets. A rate that a law chose for a larger size is taken to be as
        near its best as the smallest size's: the caution that grows with sizes is not counted.
        """
        n = np.clip(np.log2(np.asarray(params) / self.law.params), -SIZES, SIZES)
        d = np.log2(np.asarray(tokens) / self.law.tokens)
        start, drift, fall, _ = self.law.mean
        own = np.array([math.log2(self.rate(each)) for each in np.asarray(tokens, dtype=np.float64).tolist()])
        rows = np.stack([np.ones_like(n), n, -d, np.zeros_like(n)], axis=1)
        mean = own - start + fall * d - (drift * n if self.rates.law is None else 0.0)
        return mean, rows @ np.linalg.cholesky(np.array(self.law.cov))

    def excess(self, tokens: ArrayLike) -> Array:
        """Nats per squared octave at so many tokens, (R,)."""
        usual = STEEPNESS[KINDS[self.arm][1]]
        c = usual if self.steepness is None else self.steepness
        is_checked = np.asarray(tokens) <= (self.checked or 0.0)
        return np.where(is_checked, c, max(c, usual))

    def cost(self, params: float, tokens: float) -> float:
        """Root mean square of what the rate may cost a run, nats/token."""
        mean, spread = self.octaves([params], [tokens])
        return float(self.excess(tokens) * _usual_square(mean, spread)[0])


def _squares(one: Array, one_spread: Array, other: Array, other_spread: Array) -> Array:
    """E[x^2 y^2] of normal x and y, given their means and what standard normal numbers add, (R, R')."""
    both = one_spread @ other_spread.T
    x, y = one**2 + (one_spread**2).sum(1), other**2 + (other_spread**2).sum(1)
    return np.outer(x, y) + 4 * np.outer(one, other) * both + 2 * both**2


def _usual_square(mean: Array, spread: Array) -> Array:
    """Root mean square of x^2: the root of the diagonal of `_squares`, (R,)."""
    var = (spread**2).sum(1)
    return np.sqrt(mean**4 + 6 * mean**2 * var + 3 * var**2)


class Rates(NamedTuple):
    """The rates of both kinds of arms."""

    supervised: RateCheck
    distilled: RateCheck

    def of(self, arm: int) -> RateCheck:
        """Of an arm by number, 0: no teacher."""
        return self.distilled if arm else self.supervised


def rate_cov(rates: Rates, one: PilotPoints, other: PilotPoints, *, loss: float) -> Array:
    """Second moments of what rates cost, as shares of a loss in nats/token, between runs of two lists, (R, R').

    Runs share what their rates cost as far as the law says that they are off by the same octaves; no run's is above
    `WORST`.
    """
    found = np.zeros((len(one.arm), len(other.arm)))
    for is_taught, check in enumerate(rates):
        parts = [_costs(check, points, (points.arm > 0) == is_taught, loss) for points in (one, other)]
        (own, mean, spread), (others, other_mean, other_spread) = parts
        found += own[:, None] * others * _squares(mean, spread, other_mean, other_spread)
    return found


def _costs(check: RateCheck, points: PilotPoints, is_mine: np.ndarray, loss: float) -> tuple[Array, Array, Array]:
    """c of every run over the loss, 0 of other arms' and less where it may cost more than `WORST`; its octaves."""
    tokens = np.exp(points.log_tokens)
    mean, spread = check.octaves(np.exp(points.log_params), tokens)
    c = check.excess(tokens) / loss
    return is_mine * c * np.minimum(1.0, WORST / (c * _usual_square(mean, spread))), mean, spread
