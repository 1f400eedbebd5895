"""What `settle` is asked and what its pilots cost: target, candidates, budget; stages, their runs, and their FLOP.

Budgets of one rate share a trunk, others have one each (docs/rates.md). A trunk is kept at its last branch point: a
longer budget of its rate goes on from there; a shorter one has it start over (train/trunk.py). Trunks of one seed read
one text, so a teacher's forward pass serves all of its students that are trained together.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
from numpy.typing import ArrayLike

from distillaw.runs.spec import executed_tokens
from distillaw.settling.noise import PilotPoints, Rates

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
class PilotQuestion:
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
    """Of intervals and bounds: the chance that one that is stated when one stops fails is 1 - level."""
    spent: float = 0.0
    """FLOP already spent (on the search for learning rates); counts against the budget."""
    cooldown: float = 0.2
    """Share of a budget that is trained again in its branch."""
    rates: Rates | None = None
    """The rates of pilots, and what was done for them and the target's; None takes every arm to be at its best."""
    has_one_rate: bool = False
    """Whether all budgets of an arm and size have one rate, where `rates` does not say; else each has its own."""

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

    def rate(self, arm: int, params: float, tokens: float) -> float:
        """What runs of an arm (0: no teacher), size and seed that share a trunk have in common.

        Their rate; where no rate is known, one number for all or the tokens themselves (`has_one_rate`).
        """
        if self.rates is not None:
            return self.rates.of(arm).rates.at(params, round(tokens))
        return 0.0 if self.has_one_rate else tokens

    def points(self, places: Iterable[tuple[float, float, int]], seed: ArrayLike = 0) -> PilotPoints:
        """Runs as points: size, tokens and arm of each."""
        found = list(places)
        rates = [self.rate(arm, params, tokens) for params, tokens, arm in found]
        params, tokens, arm = np.array(found, dtype=np.float64).reshape(-1, 3).T
        return PilotPoints.at(params, tokens, arm, seed, rates)

    def places(self, stage: "Stage") -> list[tuple[float, float, int]]:
        """Size, tokens and arm of every run of a stage, one seed: no teacher, then its candidates."""
        arms = [self.arms.index(name) for name in (NONE, *stage.candidates)]
        return [
            (self.size(label).params, float(tokens), arm)
            for label in stage.labels
            for tokens in stage.tokens
            for arm in arms
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Pilots that are run together: some sizes, some budgets, no teacher and the candidates still in, some seeds."""

    size: str
    """Label of the largest."""
    also: tuple[str, ...] = ()
    """Smaller sizes trained beside it: they read the same text, so the teachers' forward passes are paid once."""
    tokens: tuple[int, ...]
    """Ascending."""
    candidates: tuple[str, ...]
    """Names; `NONE` is run in any case and not listed."""
    seeds: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All sizes."""
        return (self.size, *self.also)

    @property
    def runs(self) -> Iterator[tuple[str, str, int, int]]:
        """Size, candidate or `NONE`, seed and tokens of every run."""
        return product(self.labels, (NONE, *self.candidates), self.seeds, self.tokens)


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


def stage_flops(question: PilotQuestion, stage: Stage) -> float:
    """What a stage costs by itself, with every seed and candidate and with none."""
    return extra_flops(question, {}, wanted_by(question, [stage]))


def runs_of(question: PilotQuestion, stage: Stage, runs: Sequence[PilotRun]) -> list[PilotRun]:
    """Those runs that a stage consists of."""
    wanted = {(question.size(label).params, *rest) for label, *rest in stage.runs}
    return [run for run in runs if (run.params, run.candidate, run.seed, run.tokens) in wanted]


Trunk = tuple[str, str, int, float]
"""Size, candidate or `NONE`, seed, and `PilotQuestion.rate`."""
Made = Mapping[Trunk, frozenset[int]]
"""The budgets that each trunk has runs at."""


def made_by(question: PilotQuestion, runs: Iterable[PilotRun]) -> Made:
    """The trunks of some runs; runs of a size that the question does not know are nobody's trunk."""
    labels = {size.params: size.label for size in question.sizes}
    known = [run for run in runs if run.params in labels]
    return _trunks(question, ((labels[r.params], r.candidate, r.seed, round(r.tokens)) for r in known))


def wanted_by(question: PilotQuestion, stages: Iterable[Stage]) -> Made:
    """The trunks of some stages."""
    return _trunks(question, chain.from_iterable(stage.runs for stage in stages))


def _trunks(question: PilotQuestion, runs: Iterable[tuple[str, str, int, int]]) -> Made:
    """By size, candidate, seed and tokens of each run."""
    found: dict[Trunk, frozenset[int]] = {}
    arms, params = question.arms, {size.label: size.params for size in question.sizes}
    for label, name, seed, tokens in runs:
        trunk = label, name, seed, question.rate(arms.index(name), params[label], tokens)
        found[trunk] = found.get(trunk, frozenset()) | {tokens}
    return found


def joined(one: Made, other: Made) -> Made:
    """The budgets of both."""
    return {trunk: one.get(trunk, frozenset()) | other.get(trunk, frozenset()) for trunk in {*one, *other}}


def extra_flops(question: PilotQuestion, made: Made, wanted: Made) -> float:
    """FLOP of training what is wanted beside what exists, all of it together; runs that exist are free.

    As `sweep.cost.jobs_cost` counts: a teacher is read once per seed, as far as the longest of its students' trunks.

    Args:
        made: runs that exist.
        wanted: runs to make.
    """
    total, read = 0.0, dict[tuple[str, int], float]()
    training = {size.label: size.flops for size in question.sizes}
    for trunk, budgets in wanted.items():
        label, name, seed, _ = trunk
        have = made.get(trunk, frozenset())
        if new := budgets - have:  # the way to the longest, and every cooldown
            last = max(have, default=0)
            tokens = executed_tokens(new, question.cooldown, reached=last if last <= min(new) else 0)
            total += training[label] * tokens
            if name != NONE:
                read[name, seed] = max(read.get((name, seed), 0.0), tokens)
    return total + sum(question.candidate(name).flops * tokens for (name, _), tokens in read.items())
