"""What published outcomes taught: how much of a gain by published laws is had, and how far it may be off.

    gain = (f share g+ + lost h g- + repeated + w compute) L + error,   error ~ t4 with standard deviation sd L
    share = 1 - (1 - realised) b,   b = min(e / ln 10, 1)
    h = 1 - b where the teacher's loss is below the student's and both sides have the same tokens, else 1
    sd = hypot(SEEDS, w at_home, w per_gain b g+, w truncated_sd, repeated_sd)

g: gain by the law as a share of the loss, g+ and g- its positive and negative part; e: e-folds outside the law's range
in the worst coordinate; w: weight of the teacher's term; f and lost: what the recipe leaves; repeated: on
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

What the recipe of the distillation does to such a gain (`TeachingRecipe`). Published laws are of one recipe: the whole
vocabulary, forward KL, temperature 1, the teacher's term alone. Runs and fits of the user's own are of the user's
recipe and are left as they are.

    weight w       positive gains times w, negative times w^3     worlds study: 0.53 and 0.54, and 0.1, at w = 0.5
    tuned weight   nothing is lost, and `PICKED` is gained        a weight near 0 is pretraining; the best of several
    none said      1 with the share of practice that leaves the text's term out, else well chosen: then nothing is lost
    temperature    positive gains times 0.8 above 1.5             0.73 and 0.90 at 2, exact teacher
    top-k, top-p   positive gains times what outcomes taught      docs/retrodiction.md
    divergence     unknown: said, not counted
    schedule       what ends on the text alone loses nothing, and keeps between none and all of a gain
    own or sampled text    unknown: laws and outcomes do not decide
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from numpy.typing import ArrayLike

from distillaw.errors import ConfigError
from distillaw.laws.base import Box
from distillaw.planning.phrases import say

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


INSURED = 3.0
"""Power of the weight by which harm shrinks: at a half a tenth was left (docs/worlds-study.md)."""
PICKED = 0.0035
"""Of the loss: what the best of five runs is ahead of their mean by luck, 1.16 standard deviations of seeds (0.3 %)."""
SOFTENED = 0.8
"""Share of a gain left at temperature 2 (docs/worlds-study.md: 0.73 on 75k, 0.90 on 300k tokens)."""
SOFT = 1.5
"""Temperature from which on that share counts; between 1 and 2 nothing was measured."""
READINGS = 16
"""Of a weight that was not said: shares of practice are known to no better than this."""
HELD, HELD_SD = 0.5, 0.29
"""Share of a gain that is left where the run ends on the text alone: anything from none to all, evenly. Bounds: our own
students kept 0.11 to 1.29, by how near they ended to their teacher (benchmarks/results/handover.json); the one project
that tried it had 15 % with the teacher in the first third, 65 % in the last (github:dl1683/moonshot-llm-genome, which
taught nothing here)."""
FEW_IDS = 0.5
"""ln k / ln V up to which targets of k ids are as cut as in published outcomes, which have 1 to 64 ids of 1,024 to 152k
(at most the square root of the vocabulary). From there to the whole vocabulary what is lost fades in ln k: judged."""
MUCH_MASS = 0.1
"""Mass cut away from which on `top_p` counts as those outcomes do; below it in proportion: judged, none has it."""
SCHEDULES = ("constant", "first", "annealed")
"""When the teacher's term acts: all along; at first, before the text alone; with a weight that falls to nothing."""
POLICIES = ("off", "on", "sequence")
"""Whose text the student learns on: the data's, its own samples, or the teacher's samples."""
DIVERGENCES = ("forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl")
"""That the package trains with (distill/divergences.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachingRecipe:
    """How the student learns from its teacher; the defaults are the recipe of published laws."""

    weight: float = 1.0
    """Lambda, of the teacher's term; the text's next token has 1 - lambda."""
    is_said: bool = True
    """Whether anybody named the weight; if not, it is 1, the one that a gain is largest at, or one well chosen."""
    is_tuned: bool = False
    """Whether several weights are tried and the best is kept; `weight` is then 1, the one that a gain is largest at."""
    temperature: float = 1.0
    top_k: int | None = None
    """Most likely ids that a target keeps; None is the whole vocabulary."""
    top_p: float | None = None
    """Mass of the most likely ids that a target keeps; None is all of it."""
    divergence: str = "forward-kl"
    schedule: str = "constant"
    """One of `SCHEDULES`."""
    policy: str = "off"
    """One of `POLICIES`."""

    def __post_init__(self) -> None:
        """Refuse what is no recipe."""
        if not 0 < self.weight <= 1:
            raise ConfigError(say("recipe weight", weight=self.weight))
        if not 0.1 <= self.temperature <= 20:
            raise ConfigError(say("recipe temperature", temperature=self.temperature))
        if self.top_k is not None and not (self.top_k >= 1 and float(self.top_k).is_integer()):
            raise ConfigError(say("recipe top k", count=self.top_k))
        if self.top_p is not None and not 0 < self.top_p < 1:
            raise ConfigError(say("recipe top p", mass=self.top_p))
        for name, known in (("divergence", DIVERGENCES), ("schedule", SCHEDULES), ("policy", POLICIES)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(say("recipe word", name=name, value=value, known=", ".join(known)))
        if self.is_truncated and self.divergence == "reverse-kl":
            raise ConfigError(say("recipe infinite"))
        if self.is_said and self.weight == 1 and not self.is_tuned and self.schedule == "annealed":
            raise ConfigError(say("recipe annealed"))
        if self.policy == "sequence" and (self.is_truncated or self.temperature != 1):
            raise ConfigError(say("recipe sampled"))

    @property
    def is_usual(self) -> bool:
        """Whether it is that of published laws, as far as it was said."""
        return self == TeachingRecipe(is_said=self.is_said)

    @property
    def problem(self) -> str:
        """The phrase that says why nothing here can judge it; empty where laws and outcomes do."""
        return {"on": "policy on", "sequence": "policy sequence"}.get(self.policy, "")

    @property
    def is_handed_over(self) -> bool:
        """Whether the run ends on the text alone."""
        return self.schedule != "constant"

    @property
    def is_truncated(self) -> bool:
        """Whether targets leave out a part of the vocabulary."""
        return self.top_k is not None or self.top_p is not None

    def readings(self, doubt: Learnt, start: str) -> tuple[float, ...]:
        """Shares of a negative gain that the weight leaves, each as likely as the others.

        One where the weight was said. Else it is 1, and all is lost, or well chosen, and nothing is.
        """
        if self.is_tuned or self.is_handed_over:
            return (0.0,)
        if self.is_said or doubt.alone_of(start) == 1:
            return (self.weight**INSURED,)
        alone = round(READINGS * doubt.alone_of(start))
        return (1.0,) * alone + (0.0,) * (READINGS - alone)

    @property
    def held_sd(self) -> float:
        """Standard deviation of the share of a positive gain that the schedule leaves, as a share of itself."""
        return HELD_SD / HELD if self.is_handed_over else 0.0

    @property
    def picked(self) -> float:
        """Gain, as a share of the loss, from keeping the best of several runs."""
        return PICKED if self.is_tuned else 0.0

    def truncation(self, vocab: int) -> float:
        """How cut targets are: 0 of the whole vocabulary, 1 as in published outcomes."""
        by_ids = 0.0 if self.top_k is None else (1 - math.log(self.top_k) / math.log(max(vocab, 2))) / (1 - FEW_IDS)
        by_mass = 0.0 if self.top_p is None else (1 - self.top_p) / MUCH_MASS
        return min(max(by_ids, by_mass, 0.0), 1.0)

    @property
    def kept(self) -> float:
        """Share of a positive gain that temperature and schedule leave."""
        return (SOFTENED if self.temperature > SOFT else 1.0) * (HELD if self.is_handed_over else 1.0)

    def gained(self, doubt: Learnt, vocab: int) -> float:
        """Share of a positive gain that weight, temperature, schedule and truncation leave."""
        return self.weight * self.kept * (1 + self.truncation(vocab) * (doubt.truncated - 1))

    def truncated_sd(self, doubt: Learnt, vocab: int) -> float:
        """Standard deviation, as a share of the loss, that cut targets add at the full weight."""
        return doubt.truncated_sd * self.truncation(vocab)

    def lines(self, doubt: Learnt, vocab: int, start: str) -> list[str]:
        """What was made of it, and what could not be."""
        readings = self.readings(doubt, start)
        share = 100 * sum(readings) / len(readings)
        unsaid = [say(f"recipe unsaid {start}", share=share)] if len(readings) > 1 else []
        if self.is_usual:
            return unsaid
        counted = {"gained": 100 * self.gained(doubt, vocab), "lost": share}
        found = [*unsaid, say("recipe counts", **counted)]
        if self.is_tuned:
            found.append(say("recipe tuned", gain=100 * PICKED))
        if self.is_handed_over:
            found.append(say("recipe handed over", held=100 * HELD, sd=100 * HELD_SD))
        if self.is_truncated:
            found.append(say("recipe truncated", sd=100 * self.truncated_sd(doubt, vocab)))
        if self.divergence != "forward-kl":
            found.append(say("recipe unknown", divergence=self.divergence))
        if self.temperature != 1 and self.temperature <= SOFT:
            found.append(say("recipe between", temperature=self.temperature))
        return found
