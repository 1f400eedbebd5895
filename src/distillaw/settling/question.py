"""What `settle` is asked, and what it sees: a target, candidate teachers, a budget, pilots and their runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distillaw.settling.rates import Rates

NONE = ""
"""The candidate that is always there: no teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A teacher that exists."""

    name: str
    loss: float
    """On the held-out text, nats/token."""
    flops: float
    """Of one forward pass, FLOP per token; 0 where stored targets are at hand."""
    params: float | None = None
    """Non-embedding parameters, if it was trained on the target's text and recipe; then its loss says what a student
    of that size reaches alone."""
    tokens: float | None = None
    """Tokens it was trained on, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A student that can be trained."""

    label: str
    """As study files name it, e.g. "0.1M"."""
    params: float
    """Non-embedding parameters, as counted."""
    flops: float
    """Of training, FLOP per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Distil the target from one of the candidates, or pretrain it?"""

    target: Size
    tokens: float
    """The target's training tokens, the same with every teacher and with none."""
    candidates: tuple[Candidate, ...]
    budget: float
    """FLOP that pilots may cost together, teachers' forward passes included."""
    margin: float
    """Regret that does not matter, nats/token."""
    sizes: tuple[Size, ...]
    """Sizes that pilots may have, ascending, none above the target."""
    least_tokens: int
    """Tokens below which a pilot says nothing."""
    batch_tokens: int
    """Tokens of pilots are multiples of it."""
    level: float = 0.9
    """Of the interval sequence: the chance that a stated bound ever fails is 1 - level."""
    spent: float = 0.0
    """FLOP already spent (on the search for learning rates); counts against the budget."""
    cooldown: float = 0.2
    """Share of a budget that is trained again in its branch."""
    rates: Rates | None = None
    """What was done for the rate of pilots and target; None takes every arm to be at its best."""

    @property
    def arms(self) -> list[str]:
        """The choices: `NONE`, then the candidates."""
        return [NONE, *(c.name for c in self.candidates)]

    @property
    def target_flops(self) -> float:
        """Training the target once without a teacher."""
        return self.target.flops * self.tokens

    def candidate(self, name: str) -> Candidate:
        """By name."""
        return next(c for c in self.candidates if c.name == name)

    def size(self, label: str) -> Size:
        """By label."""
        return next(s for s in self.sizes if s.label == label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Pilots that are run together: some sizes, some budgets, no teacher and the candidates still in, some seeds."""

    size: str
    """Label of the largest."""
    also: tuple[str, ...] = ()
    """Smaller sizes trained beside it: they read the same text, so the teachers' forward passes are paid once."""
    tokens: tuple[int, ...]
    """Ascending; one trunk with a cooled branch at each."""
    candidates: tuple[str, ...]
    """Names; `NONE` is run in any case and not listed."""
    seeds: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All sizes."""
        return (self.size, *self.also)


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotRun:
    """A finished run of a stage."""

    candidate: str
    """Name, or `NONE`."""
    params: float
    tokens: float
    seed: int
    loss: float
    """Nats/token on the held-out text; `inf` where training diverged."""
    gain_se: float = math.nan
    """Standard error of (loss without a teacher - this loss) over held-out documents, both with this seed."""
    run_id: str = ""


def stage_flops(question: Question, stage: Stage) -> float:
    """What a stage costs: a trunk with a cooled branch per budget, for every seed and candidate and for none."""
    tokens = trunk_tokens(stage.tokens, question.cooldown)
    training = sum(question.size(label).flops for label in stage.labels) * (1 + len(stage.candidates))
    teaching = sum(question.candidate(name).flops for name in stage.candidates)
    return len(stage.seeds) * tokens * (training + teaching)


def runs_of(question: Question, stage: Stage, runs: Sequence[PilotRun]) -> list[PilotRun]:
    """Those runs that a stage consists of."""
    sizes = {question.size(label).params for label in stage.labels}
    arms = (NONE, *stage.candidates)
    return [run for run in runs if run.params in sizes and run.tokens in stage.tokens
            and run.seed in stage.seeds and run.candidate in arms]  # fmt: skip


def trunk_tokens(tokens: Sequence[float], cooldown: float) -> float:
    """Tokens that a trunk with a branch per budget is trained on."""
    return (1 - cooldown) * max(tokens) + cooldown * sum(tokens)
