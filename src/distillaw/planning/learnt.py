"""What published outcomes taught: how much of a gain by published laws is had, and how far it may be off.

    gain = (f share g+ + lost h g- + repeated + w compute) L + error,   error ~ t4 with standard deviation sd L
    share = 1 - (1 - realised) b,   b = min(e / ln 10, 1)
    h = 1 - b where the teacher's loss is below the student's and both sides have the same tokens, else 1
    sd = hypot(SEEDS, w at_home, w per_gain b g+, w truncated_sd, repeated_sd)

g: gain by the law as a share of the loss, g+ and g- its positive and negative part; e: e-folds outside the law's range
in the worst coordinate; w: weight of the teacher's term; f and lost: what the recipe leaves (recipe.py); repeated: on
text read often; compute: where both sides have the same FLOP or hours. Negative gains of weak teachers are had in
full: students far outside lost nearly all of what laws say of them (three studies); those of strong ones are what laws
make of a capacity gap that no run so far outside has shown.
Sources differ in how far off a law is of them, by a factor of 1.8 either way, and nobody knows what a new one is like:
the doubts are as wide as the t4 whose central 90 % are those of all such sources together (1.3 times the usual one's).
Between students of one cut `begun` of either is counted: the head starts of cuts were measured on students a
ten-thousandth of the size. `python -m benchmarks.outcomes.learn` fits the numbers to the table of outcomes and to our
own studies (docs/retrodiction.md), with an effect common to the rows of a source; and without each source once, so that
the table's rows are answered by what other sources taught.

A published law may also be asked below its range at the user's own ratio of teacher's to student's loss (`Transfer`):

    gain / L_S = share g(L_T / L_S) + error,    share 1 where the laws make a loss of the ratio, g < 0

Where they make a gain of it, share is 1 in the range and `Transfer.share` +- `share_sd` from ten times
below it on. Between the two ends nobody measured: there b, the e-folds outside over ln 10, is the odds that
the share is already that of students far below, and else it is 1. So the doubt is largest on the way.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from numpy.typing import ArrayLike

from distillaw.laws.base import Box

SEEDS = 0.0042
"""Of the loss: what seeds do to a difference of two runs (0.3 % of each, `gains.ASSUMED_SEED_SD`)."""
FAR = math.log(10)
"""E-folds outside a range from which on nothing more is lost of a gain: our own studies lie five to seven outside."""
REPEATS = (4.0, 5.7)
"""Passes over the data up to which repeats are worth nearly as much as fresh tokens (Muennighoff et al. 2023,
arXiv:2305.16264); beyond, a teacher helps as a regulariser, and laws of fresh tokens do not know it. And those from
which on outcomes say how much: the fewest above four of any published row (of two sources that are only asked; those
that taught it have 9.6 and more). Between the two nobody measured, and the way in ln passes is the odds that it is so
already."""

FEWEST_PER_PARAM = 0.3
"""Tokens per parameter from which published laws may decide. The shortest runs of our studies have 0.31; below, the
outcomes that teach went the other way (github:Haddley/minigpt-series at 0.05 and 0.02): so early it counts how many
updates there were, of which laws know nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """Shares of the loss, or of a gain; the names of the head of this file."""

    realised: float
    at_home: float
    per_gain: float
    truncated: float
    """Share of a positive gain that truncated targets (the k most likely ids) leave of it; below 0 they do harm."""
    truncated_sd: float
    repeated: float
    """Gain by any teacher on text that is read `REPEATS[1]` times or more."""
    repeated_sd: float
    compute: float
    """Gain, whatever the teacher, where both sides have the same FLOP or hours."""
    begun: float
    """Share of a gain between students of one cut that is counted."""
    points: float
    """Gain, as a share of the loss, that scores of tasks show beside the loss's own."""
    common: float
    """Share of the error, as variance, that all teachers of a student have in common."""
    alone: float
    """Share of practice with the teacher's term alone (weight 1) from random weights: of the sources that say theirs,
    (k + 1/2) / (n + 1)."""
    alone_of_cuts: float
    """The same of students that begin as a cut."""

    @property
    def of_runs(self) -> "Learnt":
        """Beside the user's own runs or fits, whose recipe is that of the runs: the teacher's term alone."""
        return replace(self, alone=1.0, alone_of_cuts=1.0)

    def alone_of(self, start: str) -> float:
        """Share of practice with the teacher's term alone, by what students begin from."""
        return self.alone_of_cuts if start == "pruned" else self.alone

    def beyond(self, outside: Mapping[str, float]) -> float:
        """How far outside a law's range, from 0 to 1, by e-folds outside by coordinate."""
        return min(max(outside.values(), default=0.0) / FAR, 1.0)

    def repeats_sd(self, often: float) -> float:
        """Standard deviation of the gain by repeats, as a share of the loss; `often` from 0 to 1 are the odds of it."""
        return math.sqrt(often * self.repeated_sd**2 + often * (1 - often) * self.repeated**2)

    def share(self, outside: Mapping[str, float]) -> float:
        """Of a positive gain, whatever the recipe."""
        return 1 - (1 - self.realised) * self.beyond(outside)


@cache
def learnt(without: str = "") -> Learnt:
    """What all sources taught, or all but one; a source that taught nothing leaves it as it is."""
    found = json.loads(files("distillaw.outcomes").joinpath("learnt.json").read_text(encoding="utf-8"))
    return Learnt(**(found["without"].get(without) or found["all"]))


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

    def admits(self, law: Box, coords: Mapping[str, ArrayLike], ratio: float) -> bool:
        """Whether students and L_T / L_S like these were run, or lie between those that were and the law's range."""
        tops = law.as_dict()
        between = {name: (low, max(high, tops.get(name, (low, high))[1])) for name, low, high in self.seen.bounds}
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
