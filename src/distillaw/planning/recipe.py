"""What the recipe of the distillation does to a gain by published laws, as far as anything is known of it.

Published laws are of one recipe: the whole vocabulary, forward KL, temperature 1, the teacher's term alone. Runs and
fits of the user's own are of the user's recipe and are left as they are.

    weight w       positive gains times w, negative times w^3     worlds study: 0.53 and 0.54, and 0.1, at w = 0.5
    tuned weight   nothing is lost, and `PICKED` is gained        a weight near 0 is pretraining; the best of several
    none said      1 with the share of practice that leaves the text's term out, else well chosen: then nothing is lost
    temperature    positive gains times 0.8 above 1.5             0.73 and 0.90 at 2, exact teacher
    top-k, top-p   positive gains times what outcomes taught      docs/retrodiction.md
    divergence     unknown: said, not counted
    schedule       what ends on the text alone loses nothing, and keeps between none and all of a gain
    own or sampled text    unknown: laws and outcomes do not decide
"""

import math
from dataclasses import dataclass

from distillaw.errors import ConfigError
from distillaw.planning.learnt import Learnt
from distillaw.planning.phrases import say

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
"""Share of a gain that is left where the run ends on the text alone: anything from none to all, evenly. Bounds, not a
measurement; the one project that tried it had 15 % with the teacher in the first third, 65 % in the last
(github:dl1683/moonshot-llm-genome, which taught nothing here)."""
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
class Recipe:
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
        return self == Recipe(is_said=self.is_said)

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
