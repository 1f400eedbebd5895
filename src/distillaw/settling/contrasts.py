"""Bounds on how much one choice loses against another at the target, valid at any look.

With K candidates an error that matters is always about the best choice b: that it seems worse than some other choice by
more than it is. Those are K comparisons, one-sided, each at (1 - level) / K; no other error leads to a false stop.
Shape suffixes: M member, A arm (0: no teacher).
"""

from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array
from distillaw.settling.belief import Belief
from distillaw.settling.confidence import look_alpha, quantile
from distillaw.settling.noise import Cells
from distillaw.settling.question import Question

SEED = 1
"""Of the draws; the same at every look, so that bounds move with data alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrasts:
    """Losses at the target and bounds on their differences, nats/token."""

    losses_MA: Array  # noqa: N815 - an array
    reach: float
    """Standard deviations of a one-sided bound, at this look, for all K comparisons together."""
    reach_alone: float
    """The same for one interval by itself, two-sided."""

    @property
    def mean_AA(self) -> Array:  # noqa: N802
        """Loss of a - loss of b."""
        mean_A = self.losses_MA.mean(0)
        return mean_A[:, None] - mean_A

    @property
    def sd_AA(self) -> Array:  # noqa: N802
        """Standard deviations of the same."""
        return (self.losses_MA[:, :, None] - self.losses_MA[:, None, :]).std(0)

    @property
    def upper_AA(self) -> Array:  # noqa: N802
        """Upper bounds on the same; minus its transpose are the lower ones."""
        return self.mean_AA + self.reach * self.sd_AA

    def regret(self, arms: list[int]) -> Array:
        """Upper bound on what each of `arms` loses against the best of them; at least 0."""
        return np.maximum(self.upper_AA[np.ix_(arms, arms)].max(axis=1), 0.0)


def target_cells(question: Question) -> Cells:
    """The target under every arm."""
    arms = 1 + len(question.candidates)
    return Cells(log_params=np.full(arms, np.log(question.target.params)),
                 log_tokens=np.full(arms, np.log(question.tokens)),
                 arm=np.arange(arms), seed=np.zeros(arms, dtype=np.int64))  # fmt: skip


def contrasts(belief: Belief, look: int) -> Contrasts:
    """What a belief says of the target.

    Args:
        belief: after some stages.
        look: how many.
    """
    losses_MA = np.exp(belief.ask(target_cells(belief.question), np.random.default_rng(SEED)))
    alpha = look_alpha(1 - belief.question.level, max(look, 1))
    return Contrasts(losses_MA=losses_MA, reach=quantile(alpha / max(losses_MA.shape[1] - 1, 1)),
                     reach_alone=quantile(alpha / 2))  # fmt: skip
