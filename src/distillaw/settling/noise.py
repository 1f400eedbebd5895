"""How far runs may lie from the laws' family: smooth misfit, noise of seeds and held-out text, and what rates may cost.

    ln loss = family + misfit(arm, N, D) + seed(N, seed) + trunk(N, seed, arm) + run + text(arm) + e_kind s_kind(D)

Misfit is a Gaussian process, the same for every run of a design point; it is what extrapolation is uncertain by even
without noise. e_kind ~ N(0, 1) is one for all supervised runs and one for all distilled ones: no arm is known to be
at its best rate, and the arms not alike. s is the root mean square of c x^2 over the loss, where x is how far the
arm's rate lies from its best one, in octaves: what the search's lattice leaves open at the budgets that it checked,
growing beyond them with what is not known of how the best rate moves with tokens (planning/ has the same for a
finished study). What grows like that shows in the longer pilots too, so they narrow it; a rate that suits all pilots
and suddenly no longer is not foreseen. Shape suffixes: R run, A arm.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.laws.base import Array
from distillaw.laws.rates import FALL, LATTICE
from distillaw.planning.arms import STEEPNESS

MISFIT = 0.008
"""Standard deviation of the misfit of one arm, ln loss; chosen by how often intervals held on simulated surfaces
(docs/settle-benchmark.md), as were the five constants below."""
SHARED_MISFIT = 0.5
"""Share of its variance that all arms have in common."""
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
"""Shares of the seed noise's variance that all arms of one seed and size, and all branches of one trunk, share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignPoints:
    """Where runs were or will be, one entry per run; arm 0 has no teacher."""

    log_params: Array
    log_tokens: Array
    arm: np.ndarray
    seed: np.ndarray

    @classmethod
    def at(cls, params: ArrayLike, tokens: ArrayLike, arm: ArrayLike, seed: ArrayLike = 0) -> "DesignPoints":
        """Runs of N parameters on D tokens; one number stands for all."""
        params, tokens, arm, seed = np.broadcast_arrays(params, tokens, arm, seed)
        arm, seed = arm.astype(np.int64), seed.astype(np.int64)
        return cls(log_params=np.log(params), log_tokens=np.log(tokens), arm=arm, seed=seed)

    def join(self, other: "DesignPoints") -> "DesignPoints":
        """These, then the others."""
        names = ("log_params", "log_tokens", "arm", "seed")
        parts = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return DesignPoints(**{name: np.concatenate(part) for name, part in parts.items()})


def misfit_cov(
    one: DesignPoints, other: DesignPoints, log_teacher_losses: Array, *, scale: float = 1.0
) -> Array:
    """Covariance of the misfit between runs of two lists, (R, R').

    Args:
        one: runs.
        other: runs.
        log_teacher_losses: ln L_T by candidate.
        scale: of the standard deviation.
    """
    away = np.hypot(one.log_params[:, None] - other.log_params, one.log_tokens[:, None] - other.log_tokens)
    steps = math.sqrt(3) * away / SPREAD
    smooth = (1 + steps) * np.exp(-steps)  # Matern 3/2
    t = np.concatenate(
        [[np.inf], log_teacher_losses]
    )  # arm 0 has nothing of its own in common with any other
    same = one.arm[:, None] == other.arm
    with np.errstate(invalid="ignore"):
        apart = np.abs(t[one.arm][:, None] - t[other.arm]) / TEACHER_SPREAD
    alike = np.where(same, 1.0, OTHER_TEACHER * np.exp(-np.where(np.isfinite(apart), apart, np.inf)))
    return (scale * MISFIT) ** 2 * smooth * (SHARED_MISFIT + (1 - SHARED_MISFIT) * alike)


def seed_cov(points: DesignPoints, sd: float, text_se: Array) -> Array:
    """Covariance of the noise of runs, (R, R).

    Args:
        points: the runs.
        sd: seed noise of one run, ln loss.
        text_se: by arm, error of its gain from the choice of held-out documents, ln loss.
    """
    pair = (points.log_params[:, None] == points.log_params) & (points.seed[:, None] == points.seed)
    arm = points.arm[:, None] == points.arm
    own = (1 - SHARED_SEED - TRUNK) * np.eye(len(points.arm))
    seeds = sd**2 * (SHARED_SEED * pair + TRUNK * (pair & arm) + own)
    return seeds + np.where(arm, text_se[points.arm][:, None] ** 2, 0.0)


def seed_sd(log_losses: Array, points: DesignPoints) -> float:
    """Seed noise of one run, from what was repeated with other seeds; the assumed one where nothing was.

    What all arms of a seed share drops out of the gains, and out of this, so the rest is scaled up to the whole.
    Branches of one trunk repeat each other: a size counts once, with the mean over its budgets.
    """
    squares, dof = SEED_WEIGHT * SEED**2 * (1 - SHARED_SEED), SEED_WEIGHT
    for params in np.unique(points.log_params):
        found = [
            _rest(log_losses, points, (points.log_params == params) & (points.log_tokens == tokens))
            for tokens in np.unique(points.log_tokens[points.log_params == params])
        ]
        seen = [(square, n) for square, n in found if n > 0]
        if seen:
            n = float(np.mean([n for _, n in seen]))
            squares += n * float(np.mean([square / n for square, n in seen]))
            dof += n
    return float(np.sqrt(squares / dof / (1 - SHARED_SEED)))


def _rest(log_losses: Array, points: DesignPoints, here: np.ndarray) -> tuple[float, int]:
    """Sum of squares of a design point's runs beside the means of its arms and seeds, and its degrees of freedom."""
    arms, seeds = np.unique(points.arm[here]), np.unique(points.seed[here])
    table = np.full((len(arms), len(seeds)), np.nan)
    table[np.searchsorted(arms, points.arm[here]), np.searchsorted(seeds, points.seed[here])] = log_losses[
        here
    ]
    full = table[:, ~np.isnan(table).any(axis=0)]
    rest = full - full.mean(0) - full.mean(1, keepdims=True) + full.mean() if full.size else full
    return float((rest**2).sum()), max(len(arms) - 1, 0) * max(full.shape[1] - 1, 0)


UNSEARCHED = 1.0
"""Octaves: standard deviation of the best rate around one that nobody searched for this text."""
WORST = 0.1
"""Of the ln loss: beyond it a rate is known to be wrong, not how wrong, and nothing can be decided by either arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCheck:
    """What was done for the rate of one kind of arm."""

    searched: float | None = None
    """Tokens of the runs that the rate was searched with; None: nobody searched."""
    checked: float | None = None
    """Tokens up to which the rate's fall was searched too; None: the rate does not fall, and nobody looked."""
    steepness: float | None = None
    """Nats per squared octave off the best rate, as the search shows it."""

    def octaves(self, kind: str, tokens: float, *, first: float) -> tuple[float, float]:
        """Mean and variance of the octaves from the best rate up to the arm's own.

        Args:
            kind: `alone` or `taught`, as planning's table of steepness has them.
            tokens: of the run.
            first: tokens of the shortest pilot, that an unsearched rate is taken to be meant for.
        """
        mean, sd = FALL["taught" if kind == "taught" else "text"]
        away = math.log2(tokens / (self.searched or first))
        if self.searched is None or self.checked is None or self.checked <= self.searched:
            around = UNSEARCHED if self.searched is None else LATTICE
            return mean * away, around**2 + (sd * away) ** 2
        # two places with an error each; beyond the second the line through them, held by what is known of exponents
        span = math.log2(self.checked / self.searched)
        if away <= span:
            return 0.0, LATTICE**2
        slope = 1 / (sd**-2 + span**2 / (2 * LATTICE**2))
        return 0.0, LATTICE**2 + slope * (away - span) ** 2

    def cost(self, kind: str, tokens: float, *, first: float) -> float:
        """Root mean square of what the rate may cost a run, nats/token."""
        mean, var = self.octaves(kind, tokens, first=first)
        c = STEEPNESS[kind] if self.steepness is None else self.steepness
        if self.checked is None or tokens > self.checked:
            c = max(c, STEEPNESS[kind])
        return c * math.sqrt(mean**4 + 6 * mean**2 * var + 3 * var**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was done for the rates of both kinds of arms."""

    supervised: RateCheck
    distilled: RateCheck

    def cost(self, arm: int, tokens: float, *, first: float) -> float:
        """Root mean square of what the rate may cost a run of an arm (0: no teacher), nats/token."""
        if arm == 0:
            return self.supervised.cost("alone", tokens, first=first)
        return self.distilled.cost("taught", tokens, first=first)


def rate_cov(rates: Rates, one: DesignPoints, other: DesignPoints, *, first: float, loss: float) -> Array:
    """Covariance of what rates cost, ln loss, between runs of two lists, (R, R').

    Args:
        rates: what was searched.
        one: runs.
        other: runs.
        first: tokens of the shortest pilot.
        loss: that costs are shares of, nats/token.
    """
    sd_one, sd_other = (_sd(rates, points, first, loss) for points in (one, other))
    is_same = (one.arm > 0)[:, None] == (other.arm > 0)
    return np.where(is_same, sd_one[:, None] * sd_other, 0.0)


def _sd(rates: Rates, points: DesignPoints, first: float, loss: float) -> Array:
    runs = zip(points.arm, points.log_tokens, strict=True)
    costs = [rates.cost(int(arm), math.exp(t), first=first) for arm, t in runs]
    return np.minimum(np.array(costs) / loss, WORST)
