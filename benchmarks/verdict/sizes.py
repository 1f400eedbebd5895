"""Questions of free student size under a given compute, against the rule of 20 tokens per parameter."""

from dataclasses import replace

import numpy as np

from benchmarks.verdict.studies import Choice, Question, forward, make_question, true_loss

FACTORS = (10, 1000)
"""Compute in units of the largest pilot's."""
RATIO = 20.0


class SizeQuestion(Question):
    """The compute is given (that of `params` on `tokens`), and the student's size is not."""

    @property
    def arguments(self):
        """For `distillaw.plan`."""
        return super().arguments | {"student_params": None}

    def choices(self):
        """Size by the rule; then pretraining, and every teacher that the bill allows."""
        size = size_by_ratio(self.compute, RATIO, self)
        tokens = [(t, self.affordable(size, t)) for t in (None, *self.teachers)]
        return [Choice(size, d, t) for t, d in tokens if d is not None]

    def best_loss(self, truth):
        """Over a dense grid of sizes, alone and with every teacher."""
        sizes = self.params * np.geomspace(0.02, 50, 160)
        found = [
            Choice(n, d, t) for t in (None, *self.teachers) for n in sizes if (d := self.affordable(n, t))
        ]
        return min(true_loss(truth, choice) for choice in found)


def size_by_ratio(compute, ratio, question):
    """N with 3 F(N) ratio N = compute."""
    sizes = question.params * np.geomspace(1e-3, 1e3, 600)
    spent = [3 * forward(float(n), question.vocab, question.context) * ratio * n for n in sizes]
    return float(sizes[np.argmin(np.abs(np.log(np.array(spent) / compute)))])


def make_size_questions(truth, study, rng):
    """One question per factor: the largest pilot's compute times it, at that pilot's tokens per parameter."""
    found = []
    for factor in FACTORS:
        step = round(factor**0.5)
        plain = replace(make_question(truth, study, rng, step, "both"), payer="inference", served=1)
        found.append(SizeQuestion(**{**vars(plain), "factor": factor, "axis": "compute"}))
    return found
