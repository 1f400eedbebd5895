"""Published laws asked below the range they were fitted on, at the user's own ratio of teacher's to student's loss.

    gain / L_S = share g(L_T / L_S) + error,    share 1 where the laws make a loss of the ratio, g < 0

Where they make a gain of it, share is 1 in the range and `Transfer.share` +- `share_sd` from ten times
below it on. Between the two ends nobody measured: there b, the e-folds outside over ln 10, is the odds that
the share is already that of students far below, and else it is 1. So the doubt is largest on the way.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.laws.base import Array, Box

RATIO = "loss_ratio"
"""Name of L_T / L_S in `Transfer.seen`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What became of the gains that laws make of a ratio of losses, of students far below their range."""

    share: float
    """Of a gain that the laws predict."""
    share_sd: float
    """Standard deviation of that share from one text and recipe to another."""
    left_sd: float
    """Standard deviation of what single gains have beside it, as a share of the loss. Where the student's own loss is
    not known as well as that, nothing is decided: of calls beside runs on a quarter of the tokens most were wrong."""
    seen: Box
    """What was run: student_params, student_tokens, tokens_per_param and `RATIO`."""

    def mean(self, beyond: float) -> float:
        """Share of a gain that is expected, `beyond` from 0 (in range) to 1."""
        return 1 - (1 - self.share) * beyond

    def sd(self, beyond: float) -> float:
        """Standard deviation of that share: of 1 with odds 1 - b, else of `share` +- `share_sd`."""
        return math.sqrt(beyond * self.share_sd**2 + beyond * (1 - beyond) * (1 - self.share) ** 2)

    def kept(self, gain: Array, beyond: float) -> Array:
        """Share of gains that laws predict, in their shape: what a teacher costs, it costs whole."""
        return np.where(gain > 0, self.mean(beyond), 1.0)

    def admits(self, law: Box, coords: Mapping[str, ArrayLike], ratio: float) -> bool:
        """Whether students and ratios like these were run, or lie between those that were and the law's range.

        Args:
            law: the law's range.
            coords: of the students asked about.
            ratio: L_T / L_S.
        """
        tops = law.as_dict()
        between = {
            name: (low, max(high, tops.get(name, (low, high))[1])) for name, low, high in self.seen.bounds
        }
        return bool(Box.of(between).inside({**coords, RATIO: ratio}).all())


SEEN_BELOW = Transfer(
    share=0.35,
    share_sd=0.25,
    left_sd=0.02,
    seen=Box.of(
        {
            "student_params": (25_248, 664_800),
            "student_tokens": (39_936, 3_279_872),
            "tokens_per_param": (0.308, 39.4),
            RATIO: (0.719, 1.167),
        }
    ),
)
"""Of 390 distilled runs in three studies of this tree, four texts, one laboratory (benchmarks/verdict/baselines.py; the
numbers were chosen on these very runs): shares of 0.53, 0.54, 0.19 and 0.17, hence the mean and what the next text may
differ by; beside them single gains had up to 0.020 of the loss. Where the laws made a loss of it 40 runs had 1.02, 1.04
and 0.93 of that."""
