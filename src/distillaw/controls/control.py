"""One control: what it guards against, whether it holds, the numbers that decided it, and what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["passed", "failed", "undecided", "not done", "not applicable"]
"""`undecided`: the runs exist, and their noise or their number does not allow an answer."""
STATUSES: tuple[Status, ...] = ("failed", "undecided", "not done", "passed", "not applicable")
"""Worst first."""
LEVEL = 0.9
"""Of every interval here: a control passes where the whole interval is on the right side of its limit."""

# What designs are made for (protocols/) and finished studies are held to.
LEAST_STEPS = 800
"""Optimiser steps of the smallest budget: its cooldown, a fifth of them, then has 160 and comes after the warm-up."""
LEAST_SEEDS, LEAST_POINTS = 5, 2
"""Seeds of a repeated design point: with 4 degrees of freedom the 90 % quantile of t is 2.1, with 2 it is 2.9. Points:
so that noise is seen at two sizes."""
EMBEDDING_SHARE = 0.30
"""Of the non-embedding parameters, for one embedding matrix: where embeddings are larger, exponents depend on whether
they are counted (Pearce and Song 2024, arXiv 2406.12907)."""
STRONG, WEAK = 0.65, 1.05
"""Teacher loss over the student's own: from much stronger than the student to a little weaker than it is alone. From
0.80 to 1.05 and with 1 % noise the optimum of made-up laws is not found again."""
C0_GOAL, RATIO_GOAL = 0.3, 0.03
"""Standard errors. c0: an eighth of the published 2.5 (Busbridge et al. 2025, arXiv 2502.08606, Table 6). Best L_T over
the student's own loss: a choice, half of what one more doubling of a teacher changes at the sizes of small studies."""

Concern: TypeAlias = Literal["laws", "gains"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One control: what is the same in every study, and by `answer` how one study stands."""

    name: str
    guards: str
    """What goes wrong, unseen, without it."""
    status: Status = "not done"
    found: str = ""
    """The answer with its numbers, in words."""
    remedy: str
    """What to do; empty where it passed or does not apply."""
    concerns: tuple[Concern, ...] = ("laws", "gains")
    """What is in doubt where it fails: constants of laws, or what measured gains mean."""
    numbers: Mapping[str, object] = field(default_factory=dict)
    """The answer with its numbers, for programs; losses in nats/token."""

    def answer(self, status: Status, found: str, **numbers: object) -> "Control":
        """The control of one study, its remedy only where there is something to do."""
        remedy = "" if status in ("passed", "not applicable") else self.remedy
        return replace(self, status=status, found=found, remedy=remedy, numbers=numbers)


def below(low: float, high: float, limit: float) -> Status:
    """Whether a quantity known to lie in [low, high] stays below a limit."""
    return "passed" if high <= limit else "failed" if low > limit else "undecided"


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of several answers; without any, `not done`."""
    return min(statuses, key=STATUSES.index, default="not done")
