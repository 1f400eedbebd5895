"""What the verdict should be after a stage, before it is run; and where along the tokens it holds.

Shape suffixes: K outcome of the stage, J draw of what stays unknown, A arm (0: no teacher), T token budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array
from distillaw.planning.evidence import Interval
from distillaw.settling.noise import Cells
from distillaw.settling.standing import Standing
from distillaw.settling.value import Outlook

SEED = 3
"""Of the draws."""
OUTCOMES, REST = 300, 300
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the target's tokens, at which the gain is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The choice that leads, as it is or as it should be after a stage."""

    regret: float
    """Expected, nats/token."""
    probability: float
    """That it is the best choice."""
    settled: float
    """Chance that bounds on all other choices are within the margin."""

    def to_json(self) -> dict[str, float]:
        """A row."""
        return {"expected_regret": self.regret, "probability_best": self.probability,
                "probability_settled": self.settled}  # fmt: skip


def expect(outlook: Outlook, now: Standing) -> Expected:
    """The verdict after the stages of an outlook, averaged over what they may show.

    Args:
        outlook: before any stage (`Outlook.of`) for the present, or after some.
        now: knows the margin, and how many standard deviations a bound has.
    """
    arms = np.array(outlook.arms)
    count, rng = len(outlook.mean_A), np.random.default_rng(SEED)
    means_KA = outlook.mean_A[arms] + _normal(outlook.moved_AA[np.ix_(arms, arms)], OUTCOMES, rng)
    left_AA = outlook.cov[:count, :count][np.ix_(arms, arms)]
    rest_JA = _normal(left_AA, REST, rng)
    leader_K = means_KA.argmin(1)
    losses_KJA = means_KA[:, None, :] + rest_JA
    right_KJ = losses_KJA.argmin(2) == leader_K[:, None]
    variance_A = np.diag(left_AA)
    sd_AA = np.sqrt(np.maximum(variance_A[:, None] + variance_A - 2 * left_AA, 0.0))
    behind_KA = np.take_along_axis(means_KA, leader_K[:, None], axis=1) - means_KA
    bound_K = (behind_KA + now.bounds.reach * sd_AA[leader_K]).max(1)
    return Expected(regret=outlook.stake - outlook.worth_so_far, probability=float(right_KJ.mean()),
                    settled=float((bound_K <= now.belief.question.margin).mean()))  # fmt: skip


def gains_by_tokens(now: Standing, name: str, factors: Sequence[float] = FACTORS) -> list[dict[str, float]]:
    """The gain of a candidate over no teacher at the target's size, by token budget, each with its interval.

    Only among the budgets that were run, and at the target: outside them the forms give numbers that no run holds back.

    Args:
        now: what is believed, from some runs.
        name: of the candidate.
        factors: of the target's tokens.
    """
    question = now.belief.question
    run_T = np.exp(now.belief.measured.log_tokens)
    near = [
        f
        for f in factors
        if f == 1 or run_T.min() <= f * question.tokens * (1 + 1e-9) <= run_T.max() * (1 + 2e-9)
    ]
    tokens_T = question.tokens * np.array(near)
    arm = np.repeat([0, question.arms.index(name)], len(near))
    cells = Cells(log_params=np.full(len(arm), np.log(question.target.params)), log_tokens=np.log(np.tile(tokens_T, 2)),
                  arm=arm, seed=np.zeros_like(arm))  # fmt: skip
    losses = np.exp(now.belief.ask(cells, np.random.default_rng(SEED)))
    gains_MT = losses[:, : len(near)] - losses[:, len(near) :]
    return [
        _row(tokens, Interval.of(gain, question.level))
        for tokens, gain in zip(tokens_T, gains_MT.T, strict=True)
    ]


def _row(tokens: float, gain: Interval) -> dict[str, float]:
    return {"tokens": float(tokens), "gain": gain.mean, "lower": gain.lower, "upper": gain.upper}


def _normal(cov: Array, draws: int, rng: np.random.Generator) -> Array:
    values, vectors = np.linalg.eigh(cov)
    return rng.standard_normal((draws, len(cov))) @ (vectors * np.sqrt(np.maximum(values, 0))).T
