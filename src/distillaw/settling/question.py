"""What `settle` is asked and what its pilots cost: target, candidates, budget; stages, their runs, and their FLOP.

A trunk is kept at its last branch point. A longer budget goes on from there; a shorter one has the trunk start over
(train/trunk.py). Trunks of one seed read one text, so a teacher's forward pass serves all of its students that are
trained together.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distillaw.settling.noise import Rates

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


def stage_flops(question: PilotQuestion, stage: Stage) -> float:
    """What a stage costs: a trunk with a cooled branch per budget, for every seed and candidate and for none."""
    tokens = trunk_tokens(stage.tokens, question.cooldown)
    training = sum(question.size(label).flops for label in stage.labels) * (1 + len(stage.candidates))
    teaching = sum(question.candidate(name).flops for name in stage.candidates)
    return len(stage.seeds) * tokens * (training + teaching)


def runs_of(question: PilotQuestion, stage: Stage, runs: Sequence[PilotRun]) -> list[PilotRun]:
    """Those runs that a stage consists of."""
    sizes = {question.size(label).params for label in stage.labels}
    arms = (NONE, *stage.candidates)
    return [
        run
        for run in runs
        if run.params in sizes
        and run.tokens in stage.tokens
        and run.seed in stage.seeds
        and run.candidate in arms
    ]


def trunk_tokens(tokens: Sequence[float], cooldown: float) -> float:
    """Tokens that a trunk with a branch per budget is trained on."""
    return (1 - cooldown) * max(tokens) + cooldown * sum(tokens)


Trunk = tuple[str, str, int]
"""Size, candidate or `NONE`, seed."""
Made = Mapping[Trunk, frozenset[int]]
"""The budgets that each trunk has runs at."""


def made_by(question: PilotQuestion, runs: Sequence[PilotRun]) -> Made:
    """The trunks of some runs; runs of a size that the question does not know are nobody's trunk."""
    labels = {size.params: size.label for size in question.sizes}
    found: dict[Trunk, set[int]] = {}
    for run in runs:
        if run.params in labels:
            found.setdefault((labels[run.params], run.candidate, run.seed), set()).add(round(run.tokens))
    return {trunk: frozenset(tokens) for trunk, tokens in found.items()}


def wanted_by(stages: Iterable[Stage]) -> Made:
    """The trunks of some stages."""
    found: dict[Trunk, set[int]] = {}
    for stage in stages:
        for label in stage.labels:
            for name in (NONE, *stage.candidates):
                for seed in stage.seeds:
                    found.setdefault((label, name, seed), set()).update(stage.tokens)
    return {trunk: frozenset(tokens) for trunk, tokens in found.items()}


def joined(one: Made, other: Made) -> Made:
    """The budgets of both."""
    return {trunk: one.get(trunk, frozenset()) | other.get(trunk, frozenset()) for trunk in {*one, *other}}


def extra_flops(question: PilotQuestion, made: Made, wanted: Made) -> float:
    """FLOP of training what is wanted beside what exists, all of it together; runs that exist are free.

    Args:
        question: knows what a token costs.
        made: runs that exist.
        wanted: runs to make.
    """
    total = 0.0
    read: dict[tuple[str, int], list[tuple[float, float]]] = {}
    cooled: dict[tuple[str, int], set[int]] = {}
    for (label, name, seed), budgets in wanted.items():
        have = made.get((label, name, seed), frozenset())
        new = budgets - have
        if not new:
            continue
        begin, end = _stretch(have, new, question.cooldown)
        total += question.size(label).flops * (end - begin + question.cooldown * sum(new))
        if name != NONE:
            read.setdefault((name, seed), []).append((begin, end))
            cooled.setdefault((name, seed), set()).update(new)
    for (name, seed), stretches in read.items():
        tokens = _covered(stretches) + question.cooldown * sum(cooled[name, seed])
        total += question.candidate(name).flops * tokens
    return total


def _stretch(have: frozenset[int], new: frozenset[int], cooldown: float) -> tuple[float, float]:
    """Tokens between which a trunk is trained at constant rate."""
    last = max(have, default=0)
    begin = last if last <= min(new) else 0
    return (1 - cooldown) * begin, (1 - cooldown) * max(new)


def _covered(stretches: Sequence[tuple[float, float]]) -> float:
    """Length of the union of some stretches."""
    total, reached = 0.0, 0.0
    for begin, end in sorted(stretches):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
