"""Truths outside the form of every law that the package fits: for `verdict.run --outside`.

speed-up      a teacher is worth more tokens: L(N, s D), s from 1 to 4 as the teacher gets better; students beat it
mixture       the student closes a share of the gap to its teacher, fading as exp(-D / (tau 20 N)); a worse one harms
teacher size  a teacher more than k times the student costs c per e-fold, whatever its loss
break         as the surrogate up to the runs; beyond their compute a gain shrinks as its power -delta

Each on a surface of truths.py with its fields, so that every arm is moved from the form besides.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.verdict.truths import TRUTHS, Truth, draw_truth

OUTSIDE = ("speed-up", "mixture", "teacher size", "break")


@dataclass(frozen=True)
class Outside:
    """A truth whose teachers do something else."""

    name: str
    truth: Truth
    first: float
    second: float
    compute: float
    """6 N D of the largest run."""

    def alone(self, N, D):
        """Expected loss without a teacher, nats/token."""
        return self.truth.alone(N, D)

    def taught(self, N, D, L_T, N_T):
        """Expected loss after distillation from a teacher of loss L_T and N_T parameters, nats/token."""
        alone = self.truth.alone(N, D)
        if self.name == "speed-up":
            better = 1 / (1 + np.exp(-np.log(alone / L_T) / self.second))
            return np.maximum(self.truth.alone(N, D * (1 + self.first * better)), 0.97 * L_T)
        if self.name == "mixture":
            share = self.first * np.exp(-D / (20 * N * self.second))
            return alone - np.where(L_T < alone, share, 0.3) * (alone - L_T)
        taught = self.truth.taught(N, D, L_T)
        if self.name == "teacher size":
            return taught * (1 + self.first * np.maximum(np.log(N_T / N / self.second), 0.0))
        beyond = np.maximum(6 * N * D / self.compute, 1.0)
        return np.where(taught < alone, alone - (alone - taught) * beyond**-self.first, taught)


def draw_outside(name, *, largest, budget, rng, in_place):
    """As `truths.draw_truth`, for a study whose largest runs have `largest` parameters on `budget` tokens."""
    truth = draw_truth(str(rng.choice(TRUTHS)), largest=largest, rng=rng, in_place=in_place)
    ends = {
        "speed-up": ((0.5, 3.0), (0.02, 0.08)),
        "mixture": ((0.3, 0.8), (1.0, 5.0)),
        "teacher size": ((0.005, 0.03), (4.0, 10.0)),
        "break": ((0.2, 0.6), (0.0, 1.0)),
    }[name]
    first, second = (float(rng.uniform(*pair)) for pair in ends)
    return Outside(name, truth, first, second, 6 * largest * budget)
