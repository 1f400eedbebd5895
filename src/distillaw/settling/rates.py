"""What the rates of pilots and target may cost: no arm is known to be at its best one, and the arms not alike.

    ln loss = ... + e_kind s_kind(D),    e ~ N(0, 1), one for all runs alone and one for all taught ones

s is the root mean square of c x^2 over the loss, where x is how far the arm's rate lies from its best one, in octaves:
what the search's lattice leaves open at the budgets that it checked, growing beyond them with what is not known of how
the best rate moves with tokens (planning/arms.py has the same for a finished study). What grows like that shows
in the longer pilots too, so they narrow it; a rate that suits all pilots and suddenly no longer is not foreseen.
"""

import math
from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array
from distillaw.laws.rates import FALL, LATTICE
from distillaw.planning.arms import STEEPNESS
from distillaw.settling.noise import Cells

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
            kind: `alone` or `taught`.
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

    alone: RateCheck
    taught: RateCheck

    def cost(self, arm: int, tokens: float, *, first: float) -> float:
        """Root mean square of what the rate may cost a run of an arm (0: no teacher), nats/token."""
        if arm == 0:
            return self.alone.cost("alone", tokens, first=first)
        return self.taught.cost("taught", tokens, first=first)


def rate_cov(rates: Rates, one: Cells, other: Cells, *, first: float, loss: float) -> Array:
    """Covariance of what rates cost, ln loss, between runs of two lists, (R, R').

    Args:
        rates: what was searched.
        one: runs.
        other: runs.
        first: tokens of the shortest pilot.
        loss: that costs are shares of, nats/token.
    """
    sd_one, sd_other = (_sd(rates, cells, first, loss) for cells in (one, other))
    is_same = (one.arm > 0)[:, None] == (other.arm > 0)
    return np.where(is_same, sd_one[:, None] * sd_other, 0.0)


def _sd(rates: Rates, cells: Cells, first: float, loss: float) -> Array:
    runs = zip(cells.arm, cells.log_tokens, strict=True)
    costs = [rates.cost(int(arm), math.exp(t), first=first) for arm, t in runs]
    return np.minimum(np.array(costs) / loss, WORST)
