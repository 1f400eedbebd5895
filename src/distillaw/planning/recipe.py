"""What the recipe of the distillation does to a gain by published laws, as far as anything is known of it.

Published laws are of one recipe: the whole vocabulary, forward KL, temperature 1, the teacher's term alone. Runs and
fits of the user's own are of the user's recipe and are left as they are.

    weight w       positive gains times w, negative times w^3     worlds study: 0.53 and 0.54, and 0.1, at w = 0.5
    tuned weight   nothing is lost, and `PICKED` is gained        a weight near 0 is pretraining; the best of several
    temperature    positive gains times 0.8 above 1.5             0.73 and 0.90 at 2, exact teacher
    top-k, top-p   positive gains times what outcomes taught      docs/retrodiction.md
    divergence     unknown: said, not counted
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
FEW_IDS = 0.5
"""ln k / ln V up to which targets of k ids are as cut as in published outcomes, which have 1 to 64 ids of 1,024 to 152k
(at most the square root of the vocabulary). From there to the whole vocabulary what is lost fades in ln k: judged."""
MUCH_MASS = 0.1
"""Mass cut away from which on `top_p` counts as those outcomes do; below it in proportion: judged, none has it."""
DIVERGENCES = ("forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl")
"""That the package trains with (distill/divergences.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the student learns from its teacher; the defaults are the recipe of published laws."""

    weight: float = 1.0
    """Lambda, of the teacher's term; the text's next token has 1 - lambda."""
    is_tuned: bool = False
    """Whether several weights are tried and the best is kept; `weight` is then 1, the one that a gain is largest at."""
    temperature: float = 1.0
    top_k: int | None = None
    """Most likely ids that a target keeps; None is the whole vocabulary."""
    top_p: float | None = None
    """Mass of the most likely ids that a target keeps; None is all of it."""
    divergence: str = "forward-kl"

    def __post_init__(self) -> None:
        """Refuse what is no recipe."""
        if not 0 < self.weight <= 1:
            raise ConfigError(say("recipe weight", weight=self.weight))
        if not 0.1 <= self.temperature <= 20:
            raise ConfigError(say("recipe temperature", temperature=self.temperature))
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(say("recipe top k", count=self.top_k))
        if self.top_p is not None and not 0 < self.top_p < 1:
            raise ConfigError(say("recipe top p", mass=self.top_p))
        if self.divergence not in DIVERGENCES:
            raise ConfigError(
                say("recipe divergence", divergence=self.divergence, known=", ".join(DIVERGENCES))
            )
        if self.is_truncated and self.divergence == "reverse-kl":
            raise ConfigError(say("recipe infinite"))

    @property
    def is_usual(self) -> bool:
        """Whether it is that of published laws."""
        return self == Recipe()

    @property
    def is_truncated(self) -> bool:
        """Whether targets leave out a part of the vocabulary."""
        return self.top_k is not None or self.top_p is not None

    @property
    def softened(self) -> float:
        """Share of a positive gain that the temperature leaves."""
        return SOFTENED if self.temperature > SOFT else 1.0

    @property
    def lost(self) -> float:
        """Share of a negative gain that the weight leaves."""
        return 0.0 if self.is_tuned else self.weight**INSURED

    @property
    def picked(self) -> float:
        """Gain, as a share of the loss, from keeping the best of several runs."""
        return PICKED if self.is_tuned else 0.0

    def truncation(self, vocab: int) -> float:
        """How cut targets are: 0 of the whole vocabulary, 1 as in published outcomes."""
        by_ids = (
            0.0
            if self.top_k is None
            else (1 - math.log(self.top_k) / math.log(max(vocab, 2))) / (1 - FEW_IDS)
        )
        by_mass = 0.0 if self.top_p is None else (1 - self.top_p) / MUCH_MASS
        return min(max(by_ids, by_mass, 0.0), 1.0)

    def gained(self, doubt: Learnt, vocab: int) -> float:
        """Share of a positive gain."""
        return self.weight * self.softened * (1 + self.truncation(vocab) * (doubt.truncated - 1))

    def truncated_sd(self, doubt: Learnt, vocab: int) -> float:
        """Standard deviation, as a share of the loss, that cut targets add at the full weight."""
        return doubt.truncated_sd * self.truncation(vocab)

    def lines(self, doubt: Learnt, vocab: int) -> list[str]:
        """What was made of it, and what could not be."""
        if self.is_usual:
            return []
        found = [say("recipe counts", gained=100 * self.gained(doubt, vocab), lost=100 * self.lost)]
        if self.is_tuned:
            found.append(say("recipe tuned", gain=100 * PICKED))
        if self.is_truncated:
            found.append(say("recipe truncated", sd=100 * self.truncated_sd(doubt, vocab)))
        if self.divergence != "forward-kl":
            found.append(say("recipe unknown", divergence=self.divergence))
        if self.temperature != 1 and self.temperature <= SOFT:
            found.append(say("recipe between", temperature=self.temperature))
        return found
