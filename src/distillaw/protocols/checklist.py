"""Which controls a study file has, read from the file alone: what is planned, not what came out.

The names are those under which the controls of a finished study are reported.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distillaw.accounting.flops import forward_flops
from distillaw.fitting.prior_laws import prior_laws
from distillaw.protocols.expectations import Prospect
from distillaw.protocols.scale import EMBEDDING_SHARE, STEPS, embedding_share
from distillaw.quantities import format_count, parse_count
from distillaw.sweep.cost import StudyCost
from distillaw.sweep.spec import NONE, DesignSpec, StudySpec

SEEDS = 5
STRONG, WEAK = 0.65, 1.05
"""Teachers should reach from much stronger than the student to a little weaker than it is alone."""
_NEAR = 0.03
"""Losses within 3 % by the guess are meant to be equal; shares of tokens likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One control: whether the file has it, and in what form."""

    name: str
    is_there: bool
    words: str


def checklist(
    spec: StudySpec, cost: StudyCost, expected: Prospect | None, text: float | None
) -> list[Planned]:
    """The controls of a study, those that its question does not need left out.

    Args:
        spec: the study.
        cost: its jobs.
        expected: what it would identify.
        text: tokens of each half of its text, where known.
    """
    out = [
        _tuning(spec),
        _horizon(spec),
        _steps(spec),
        _single_epoch(spec, text),
        _seeds(spec),
        _embedding(spec, cost),
    ]
    if any(not teacher.is_control for teacher in spec.teachers):
        out += [
            _union(spec),
            _seen(spec),
            _equal_flop(spec, cost),
            _strength(expected),
            _pairs(cost),
            _knobs(spec),
        ]
    held = [cells for cells in spec.cells if cells.holdout]
    return [*out, Planned(name="hold-out", is_there=bool(held), words="trained after predictions are frozen")]


def _tuning(spec: StudySpec) -> Planned:
    what = "rate and batch" if spec.tuning.batch else "rate (the batch stays)"
    return Planned(name="tuning", is_there=spec.tuning.enabled, words=f"{what} searched, both arms")


def _horizon(spec: StudySpec) -> Planned:
    where = " and ".join(spec.far_sizes())
    is_there = spec.tuning.enabled and bool(where)
    words = f"the rate of every arm searched at the largest budget too, at {where or 'no size'}"
    return Planned(name="horizon", is_there=is_there, words=words)


def _steps(spec: StudySpec) -> Planned:
    steps = min(spec.students.tokens) // spec.batch_tokens
    return Planned(
        name="steps",
        is_there=steps >= STEPS,
        words=f"{steps:,} steps at the smallest budget ({STEPS} wanted)",
    )


def _single_epoch(spec: StudySpec, text: float | None) -> Planned:
    needed = spec.longest()
    longest = ", ".join(f"{format_count(tokens)} {name}" for name, tokens in sorted(needed.items()))
    if text is None:
        return Planned(
            name="single-epoch",
            is_there=True,
            words=f"checked when it starts; needs {longest} tokens of text",
        )
    holds = all(tokens <= (2 * text if name == "union" else text) for name, tokens in needed.items())
    return Planned(name="single-epoch", is_there=holds,
                   words=f"needs {longest} tokens; each half of the text has about {format_count(text)}")  # fmt: skip


def _seeds(spec: StudySpec) -> Planned:
    places = {
        (one.params, tokens): one.seeds
        for one in spec.replicates
        for tokens in one.tokens or spec.students.tokens
    }
    enough = [place for place, seeds in places.items() if seeds >= SEEDS]
    most = max(places.values(), default=1)
    return Planned(name="seeds", is_there=len(enough) >= 2,
                   words=f"{most} seeds on {len(places)} cells ({SEEDS} on 2 wanted)")  # fmt: skip


def _embedding(spec: StudySpec, cost: StudyCost) -> Planned:
    smallest = min(map(parse_count, spec.students.params))
    share = embedding_share(smallest, cost.jobs[0].trunk.vocab_size, spec.training)
    words = f"one embedding matrix is {share:.0%} of the smallest student ({EMBEDDING_SHARE:.0%} at most)"
    return Planned(name="embedding", is_there=share <= EMBEDDING_SHARE + 0.005, words=words)


def _alone(cells: Iterable[DesignSpec]) -> list[DesignSpec]:
    return [one for one in cells if NONE in one.teachers or not one.teachers]


def _union(spec: StudySpec) -> Planned:
    is_there = any(cells.split == "union" for cells in _alone(spec.cells))
    return Planned(
        name="union", is_there=is_there, words="the student alone on its own and its teacher's text"
    )


def _seen(spec: StudySpec) -> Planned:
    controls = {t.label for t in spec.teachers if t.is_control}
    is_there = any(controls & set(cells.teachers) for cells in spec.cells)
    return Planned(
        name="seen-text", is_there=is_there, words="a teacher that has read the student's own text"
    )


def _equal_flop(spec: StudySpec, cost: StudyCost) -> Planned:
    """Whether the student alone was given, somewhere, the FLOP of distilling it and training one of its teachers."""
    trained = {run: (j.trunk, t) for j in cost.jobs if j.trunk.role == "teacher"
               for run, t in zip(j.run_ids, j.budgets, strict=True)}  # fmt: skip
    alone = {
        (j.trunk.params, t)
        for j in cost.jobs
        for t in j.budgets
        if j.trunk.role == "student" and j.trunk.arm == "supervised"
    }
    for job in cost.jobs:
        trunk = job.trunk
        if trunk.teacher_run not in trained or trunk.purpose != "grid":
            continue
        teacher, read = trained[trunk.teacher_run]
        own, other = forward_flops(trunk.shape).total, forward_flops(teacher.shape).total
        for tokens in job.budgets:
            bill = tokens * (1 + other / (3 * own)) + read * other / own
            if any(n == trunk.params and abs(t / bill - 1) < 2 * _NEAR for n, t in alone):
                return Planned(
                    name="equal-flop", is_there=True, words="the student alone for the FLOP of both trainings"
                )
    return Planned(
        name="equal-flop", is_there=False, words="the student alone for the FLOP of both trainings"
    )


def _strength(expected: Prospect | None) -> Planned:
    if expected is None or expected.ratios is None:
        return Planned(name="strong-teachers", is_there=False, words="no teacher whose loss can be guessed")
    low, high = expected.ratios
    reaches = low <= STRONG + _NEAR and high >= WEAK - _NEAR
    words = f"L_T / loss alone from {low:.2f} to {high:.2f} by the guess ({STRONG} to {WEAK} wanted)"
    return Planned(name="strong-teachers", is_there=reaches, words=words)


def _pairs(cost: StudyCost) -> Planned:
    """Teachers of different size whose guessed losses are equal."""
    students = np.array([float(j.trunk.params) for j in cost.jobs if j.trunk.role == "student"])
    law = prior_laws(students)["surrogate-s2"].supervised
    assert law is not None
    trained = [
        (float(j.trunk.params), t)
        for j in cost.jobs
        if j.trunk.role == "teacher" and j.trunk.split == "teacher"
        for t in j.budgets
    ]
    losses = [float(law(params=n, tokens=t)) for n, t in trained]
    count = sum(
        abs(one / other - 1) < _NEAR and not 1 / 1.3 < n / m < 1.3
        for (n, _), one in zip(trained, losses, strict=True)
        for (m, _), other in zip(trained, losses, strict=True)
        if n < m
    )
    return Planned(
        name="pairs",
        is_there=count > 0,
        words=f"teachers with equal loss and different size: {count}",
    )


def _knobs(spec: StudySpec) -> Planned:
    found = {}
    for setting in ("distill_weight", "temperature"):
        found[setting] = {(size, tokens) for cells in spec.cells if setting in cells.training
                          for size in cells.params or spec.students.params for tokens in cells.tokens}  # fmt: skip
    is_there = all(len(places) >= 2 for places in found.values())
    return Planned(name="lambda", is_there=is_there, words="lambda and temperature beside 1 on two cells")
