"""Questions of free student size under a given compute, against the rule of 20 tokens per parameter.

Each is asked twice: for training alone, and with serving in the bill, as many tokens as cost what training costs.
"""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.verdict.studies import LEAST_RATIO, Choice, Question, make_question, true_loss

FACTORS = (10, 1000)
"""Compute in units of the largest pilot's."""
RATIO = 20.0


@dataclass(frozen=True)
class SizeQuestion(Question):
    """The compute is given (twice that of `params` on `tokens` where it is served), and the student's size is not."""

    serving: float = 0.0
    """Tokens that the student will serve."""

    @property
    def compute(self):
        """FLOP of training alone on `tokens`, and of serving."""
        return super().compute + self.forward(self.params) * self.serving

    @property
    def arguments(self):
        """For `distillaw.plan`."""
        return super().arguments | {"student_params": None, "inference_tokens": self.serving or None}

    def affordable(self, params, teacher):
        """As of any question, after serving."""
        left = super().affordable(params, teacher)
        each = 3 * self.forward(params) + (0 if teacher is None else self.forward(teacher.params))
        left = 0.0 if left is None else left - self.forward(params) * self.serving / each
        return left if left > LEAST_RATIO * params else None

    def choices(self):
        """Size by the rule; then pretraining, and every teacher that the bill allows."""
        size = size_by_ratio(RATIO, self)
        tokens = [(t, self.affordable(size, t)) for t in (None, *self.teachers)]
        return [Choice(size, d, t) for t, d in tokens if d is not None]

    def best_loss(self, truth):
        """Over a dense grid of sizes, alone and with every teacher."""
        sizes = self.params * np.geomspace(0.02, 50, 160)
        found = [Choice(n, d, t) for t in (None, *self.teachers) for n in sizes if (d := self.affordable(n, t))]
        return min(true_loss(truth, choice) for choice in found)


def size_by_ratio(ratio, question):
    """N that trains on `ratio` tokens per parameter and serves for the whole compute."""
    sizes = question.params * np.geomspace(1e-3, 1e3, 600)
    spent = [question.forward(float(n)) * (3 * ratio * n + question.serving) for n in sizes]
    return float(sizes[np.argmin(np.abs(np.log(np.array(spent) / question.compute)))])


def make_size_questions(truth, study, rng):
    """Two per factor, alone and served: the largest pilot's compute times it, at that pilot's tokens per parameter."""
    found = []
    for factor in FACTORS:
        step = round(factor**0.5)
        plain = replace(make_question(truth, study, rng, step, "both"), payer="inference", served=1)
        known = vars(plain) | {"factor": factor, "axis": "compute"}
        found += [SizeQuestion(**known), SizeQuestion(**known, serving=3 * plain.tokens)]
    return found
