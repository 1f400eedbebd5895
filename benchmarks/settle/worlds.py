"""Decisions in worlds: finished studies answer the pilots, and the largest student that was trained is the target."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from distillaw.laws.rates import LATTICE, Optimum, fit_rate_law
from distillaw.planning.situation import Teacher
from distillaw.runs.paired import paired_difference, seed_noise
from distillaw.runs.record import Run, StudyRecord, budget_text, read_study
from distillaw.settling.noise import KINDS, RateCheck, Rates
from distillaw.settling.question import NONE, Candidate, PilotQuestion, PilotRun, Size, Stage, stage_flops
from distillaw.sweep.tuning import ArmRates

MARGIN = 0.0025
"""Regret that does not matter, as a share of the loss, as in decisions.py."""
TARGETS = 3
"""Decisions are about the largest student at its this many largest budgets."""
OF_ALL = 1.0
"""Pilots may cost this share of training the target with every candidate and with none: there is no 2 % to be had where
the target is 4 times a pilot."""
AT_TARGET = 0.25
"""Pilots of the target's own size have at most this share of its tokens."""
ASSUMED_NOISE = 0.002
"""Seed noise of one run beyond what is common to its seed, as a share of the loss, where nothing was repeated."""
LIKELY = 1.645
"""Standard errors of a measured truth that are granted."""


@dataclass(frozen=True)
class World:
    """A study folder by cell."""

    record: StudyRecord

    @cached_property
    def cells(self) -> dict[tuple[str, int], dict[tuple[str, int], Run]]:
        """(size, tokens) -> (teacher or `NONE`, seed) -> run."""
        found: dict = {}
        for run in self.record.students:
            found.setdefault((run.label, run.tokens), {})[run.teacher_run or NONE, run.seed] = run
        return found

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Ascending."""
        runs = {run.label: run for run in self.record.students}
        found = [
            Size(label=label, params=float(run.params), flops=run.number("train_flops") / run.tokens)
            for label, run in runs.items()
        ]
        return tuple(sorted(found, key=lambda size: size.params))

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Teachers of the students; best loss first."""
        runs = {run.teacher_run: run for run in self.record.students if run.teacher_run}
        found = [
            Candidate(name=name, loss=run.number("teacher_loss"), flops=run.number("teacher_flops") / run.tokens)
            for name, run in runs.items()
        ]
        return tuple(sorted(found, key=lambda c: c.loss))

    @cached_property
    def noise(self) -> float:
        """Seed noise of one run beyond what is common to its seed, as a share of the loss."""
        cells = [{key: math.log(run.loss) for key, run in cell.items()} for cell in self.cells.values()]
        variance, dof = seed_noise([cell for cell in cells if len({seed for _, seed in cell}) > 1])
        return math.sqrt(variance) if dof else ASSUMED_NOISE

    def losses(self, label, tokens):
        """Mean loss over seeds by teacher."""
        cell = self.cells[label, tokens]
        return {
            name: float(np.mean([run.loss for (other, _), run in cell.items() if other == name]))
            for name in dict.fromkeys(name for name, _ in cell)
        }


@dataclass(frozen=True)
class WorldDecision:
    """The same as a simulated decision, with measured truths."""

    world: str
    key: str
    number: int
    kind: str
    scale: str
    source: World
    question: PilotQuestion
    losses: dict[str, float]
    """Measured at the target by candidate, `NONE` first, nats/token."""

    @property
    def family(self) -> str:
        """No surrogate is its truth."""
        return self.world

    @property
    def doubt(self) -> float:
        """By how much a measured difference at the target may be off, nats/token."""
        return LIKELY * math.sqrt(2) * self.source.noise * self.losses[NONE]

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The candidates; an oracle has no size."""
        known = self.source.record.teachers
        return tuple(
            Teacher(
                name=c.name,
                loss=c.loss,
                run_id=c.name,
                params=float(known[c.name].params) if c.name in known else None,
                tokens=float(known[c.name].tokens) if c.name in known else None,
            )
            for c in self.question.candidates
        )

    def cell(self, label, tokens, names, seeds):
        """Runs of a cell by (name, seed); those of the target's own size only where they are small enough."""
        if label == self.question.target.label and tokens > AT_TARGET * self.question.tokens:
            return {}
        runs = self.source.cells.get((label, tokens), {})
        found = {(n, s): runs[n, s] for s in seeds for n in (NONE, *names) if (n, s) in runs}
        whole = [s for s in seeds if all((n, s) in found for n in (NONE, *names))]
        return {key: run for key, run in found.items() if key[1] in whole}

    def runner(self) -> "Replay":
        """For loop.py."""
        return Replay(self)

    def one_pilot(self, flops):
        """Runs of the dearest cell of every candidate for at most so many FLOP, or of the cheapest."""
        names = tuple(c.name for c in self.question.candidates)
        runner = Replay(self)
        stages = [
            Stage(size=label, tokens=(tokens,), candidates=names, seeds=(0,)) for label, tokens in self.source.cells
        ]
        known = sorted((stage for stage in stages if runner.rows(stage)), key=lambda s: stage_flops(self.question, s))
        paid = [stage for stage in known if stage_flops(self.question, stage) <= flops]
        return runner.rows((paid or known[:1])[-1]) if known else []

    def study(self, runs) -> "PilotStudy":
        """The pilots as plan and fit read them."""
        return PilotStudy(self, {run.run_id for run in runs})


class Replay:
    """Answers stages from the finished study: as asked where it can, from the nearest cells that are new otherwise."""

    def __init__(self, decision: WorldDecision):
        self.decision = decision
        self.done: set[str] = set()
        self.spent = 0.0

    def __call__(self, asked: Stage) -> tuple[Stage, list[PilotRun]]:
        """The stage that was run instead, and its runs; none where nothing new is affordable."""
        for stage in (self._rounded(asked), *self._near(asked)):
            cost = stage_flops(self.decision.question, stage) if stage.tokens and stage.seeds else math.inf
            new = [run for run in self.rows(stage) if run.run_id not in self.done]
            if new and self.spent + cost <= self.decision.question.budget:
                self.done |= {run.run_id for run in new}
                self.spent += cost
                return stage, new
        return asked, []

    def rows(self, stage: Stage) -> list[PilotRun]:
        """Runs of a stage whose cells exist."""
        return [
            self._pilot(key, run, cell)
            for label in stage.labels
            for tokens in stage.tokens
            for cell in [self.decision.cell(label, tokens, stage.candidates, stage.seeds)]
            for key, run in cell.items()
        ]

    def _pilot(self, key, run, cell):
        name, seed = key
        alone = cell[NONE, seed]
        is_scored = alone.scores is not None and run.scores is not None
        se = paired_difference(alone.scores, run.scores).se_documents if is_scored else math.nan
        return PilotRun(
            candidate=name,
            params=float(run.params),
            tokens=float(run.tokens),
            seed=seed,
            loss=run.loss,
            gain_se=0.0 if name == NONE else se,
            run_id=run.run_id,
        )

    def _rounded(self, asked: Stage) -> Stage:
        """Tokens rounded down to budgets of the table, seeds to those that were run."""
        budgets = sorted(tokens for label, tokens in self.decision.source.cells if label == asked.size)
        tokens = {max((b for b in budgets if b <= 1.02 * t), default=budgets[0]) for t in asked.tokens}
        kept = [t for t in sorted(tokens) if self.decision.cell(asked.size, t, asked.candidates, asked.seeds)]
        have = [self.decision.cell(asked.size, t, asked.candidates, asked.seeds) for t in kept]
        seeds = [s for s in asked.seeds if have and all((NONE, s) in cell for cell in have)]
        also = [
            label for label in asked.also if any(self.decision.cell(label, t, asked.candidates, seeds) for t in kept)
        ]
        return replace(asked, also=tuple(also), tokens=tuple(kept), seeds=tuple(seeds))

    def _near(self, asked: Stage) -> list[Stage]:
        """Single cells, nearest in cost first; the size asked for before others."""
        question = self.decision.question
        goal = stage_flops(question, asked)
        found = []
        for label, tokens in self.decision.source.cells:
            for seed in sorted({s for _, s in self.decision.source.cells[label, tokens]}):
                stage = replace(asked, size=label, also=(), tokens=(tokens,), seeds=(seed,))
                found.append((label != asked.size, abs(math.log(stage_flops(question, stage) / goal)), seed, stage))
        return [stage for *_, stage in sorted(found, key=lambda entry: entry[:3])]


@dataclass(frozen=True)
class PilotStudy:
    """Some runs of a world's study, as a table and as a record."""

    decision: WorldDecision
    run_ids: set[str]

    @cached_property
    def runs(self) -> list[Run]:
        """Teachers among the candidates, and the pilots."""
        names = {c.name for c in self.decision.question.candidates}
        return [run for run in self.decision.source.record.runs if run.run_id in self.run_ids | names]

    @property
    def table(self) -> dict[str, np.ndarray]:
        """For `distillaw.fit`."""
        table = {key: np.array([run.row[key] for run in self.runs]) for key in ("params", "tokens", "loss", "group")}
        return table | {"teacher_loss": np.array([run.number("teacher_loss") for run in self.runs])}

    def record(self) -> StudyRecord:
        """For `distillaw.plan`."""
        return replace(self.decision.source.record, runs=self.runs)


def world_decisions(folder: Path) -> Iterator[WorldDecision]:
    """The decisions of a study folder."""
    return world_decisions_of(World(read_study(folder)), folder.name)


def world_decisions_of(world: World, name: str) -> Iterator[WorldDecision]:
    """Every single candidate, every pair and all of them, at the largest budgets of the largest student."""
    largest = world.sizes[-1]
    budgets = sorted(tokens for label, tokens in world.cells if label == largest.label)[-TARGETS:]
    number = 0
    for tokens in budgets:
        losses = world.losses(largest.label, tokens)
        known = [c for c in world.candidates if c.name in losses]
        for kind, group in subsets(known):
            number += 1
            question = make_question(world, largest, tokens, group, losses[NONE])
            mine = {c: losses[c] for c in (NONE, *(c.name for c in group))}
            yield WorldDecision(name, f"{name}-{number}", number, kind, budget_text(tokens), world, question, mine)


def subsets(candidates):
    """What users have: one teacher, two, or many."""
    for count, kind in ((1, "one"), (2, "two"), (len(candidates), "all")):
        if count < len(candidates) or kind == "all":
            yield from ((kind, group) for group in combinations(candidates, count))


def make_question(world, target, tokens, group, alone):
    """What `settle` is asked; pilots have the sizes of the table."""
    budgets = sorted(tokens for _, tokens in world.cells)
    smallest = world.sizes[0].params
    rates = Rates(**{arm: searched(arm, smallest, budgets[0]) for arm in KINDS})
    return PilotQuestion(
        target=target,
        tokens=float(tokens),
        candidates=group,
        margin=MARGIN * alone,
        sizes=world.sizes,
        budget=OF_ALL * (1 + len(group)) * target.flops * tokens,
        least_tokens=budgets[0],
        batch_tokens=int(world.record.students[0].number("batch_tokens")),
        rates=rates,
    )


def searched(arm, params, tokens):
    """As `settle` would: one rate for all, searched at the smallest size and budget."""
    start = Optimum(params=params, tokens=float(tokens), octaves=0.0, sd=LATTICE)
    law = fit_rate_law([start], arm=KINDS[arm][0], params=start.params, tokens=start.tokens)
    return RateCheck(arm=arm, rates=ArmRates(start=1.0, near=tokens, far=tokens), law=law)
