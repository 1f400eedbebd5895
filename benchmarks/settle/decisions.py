"""Decisions whose truth is known: a loss surface, a target on it, candidate teachers, and pilots drawn from it."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from benchmarks.settle.rules import one_stage
from benchmarks.verdict.studies import HELD_OUT, SCALES, SHARED_NOISE, Noise, forward, teachers_near
from benchmarks.verdict.truths import TRUTHS, Truth, draw_truth
from distillaw.planning.situation import Teacher
from distillaw.settling.question import NONE, Candidate, PilotQuestion, PilotRun, Size, Stage

SEED = 20261209
KINDS = ("spread", "near-tie", "spread", "worse")
"""Candidates from 0.65 to 1.05 of what the target reaches alone; within 2 % of one another; none better than it."""
BUDGET = 0.02
"""Of pilots, as a share of the target's training FLOP."""
MARGINS = (0.0025, 0.01, 0.025)
"""Regret that does not matter, as a share of the target's loss; by turns."""
SAME_TEXT = 0.5
"""Share of decisions whose teachers were trained on the target's text and recipe, so that their losses say more."""
SMALLEST, STEPS_DOWN = 10_000, 7
"""The ladder of pilots: halves of the target, down to 1/128 of it or to this many parameters."""
LARGEST_PILOT = 16
"""Pilots that the budget buys are smaller than the target by this factor or more: there the surface is at home."""
STORED_ABOVE = 10
"""Teachers larger than this many targets come with stored targets: nobody runs them for one student."""
ALL_STORED = 0.5
"""Share of decisions in which all teachers do; elsewhere their forward passes are paid for."""
PAIRED_HELD_OUT = 0.4
"""Standard error of a gain from held-out text, as a share of that of a loss: most of it cancels in pairs."""
DIVERGES = 0.05
"""Chance that the runs of one trunk diverge, in every 17th decision."""


class Arm(NamedTuple):
    """A choice as the rules of benchmarks/verdict/rules.py see it."""

    name: str
    teacher: Teacher | None


@dataclass(frozen=True)
class Decision:
    """A question whose answer is known, and the pilots that can be run for it."""

    number: int
    kind: str
    scale: str
    truth: Truth
    question: PilotQuestion
    teachers: tuple[Teacher, ...]
    """The candidates with their sizes, in the same order."""
    vocab: int
    context: int
    noise: "KeyedNoise"
    diverges: float

    @property
    def family(self) -> str:
        """Of the surface."""
        return self.truth.name

    @cached_property
    def losses(self) -> dict[str, float]:
        """Expected loss at the target by candidate, `NONE` first, nats/token."""
        return self._expected(self.question.target.params, self.question.tokens)

    def _expected(self, params, tokens):
        taught = {t.name: float(self.truth.taught(params, tokens, t.loss)) for t in self.teachers}
        return {NONE: float(self.truth.alone(params, tokens))} | taught

    def run(self, stage: Stage) -> tuple[Stage, list[PilotRun]]:
        """The stage as it was run, and its runs."""
        names = (NONE, *stage.candidates)
        cells = [(size, tokens) for size in map(self.question.size, stage.labels) for tokens in stage.tokens]
        return stage, [
            self._pilot(name, size, tokens, seed) for size, tokens in cells for seed in stage.seeds for name in names
        ]

    def runner(self):
        """For loop.py."""
        return self.run

    def one_pilot(self, flops):
        """Runs of one pilot of every candidate for at most so many FLOP."""
        return self.run(one_stage(self.question, flops))[1]

    def _pilot(self, name, size, tokens, seed):
        loss = self._expected(size.params, tokens)[name]
        se = PAIRED_HELD_OUT * HELD_OUT * loss
        seen = loss * self.noise.factor(size.params, seed, name, tokens) + se * self.noise.of_text(size.params, name)
        if self.noise.chance(size.params, seed, name) < self.diverges:
            seen = math.inf
        return PilotRun(
            candidate=name,
            params=size.params,
            tokens=tokens,
            seed=seed,
            loss=seen,
            gain_se=se,
            run_id=f"{size.label}-{name or 'alone'}-s{seed}-{tokens}t",
        )


class KeyedNoise(Noise):
    """Seed noise of runs with a trunk each, every number drawn from what it belongs to: the order of pilots and the
    constants under test do not change what a pilot gives.
    """  # noqa: D205

    def __init__(self, number, sd):
        super().__init__(None, sd)
        self.number = number

    def factor(self, size, seed, teacher, tokens):
        """What the loss of one run is multiplied with."""
        parts = [(SHARED_NOISE, (size, seed)), (1 - SHARED_NOISE, (size, seed, teacher, tokens))]
        return float(np.exp(sum(self.sd * np.sqrt(share) * self._rng(*key).standard_normal() for share, key in parts)))

    def of_text(self, size, teacher):
        """Error of the held-out text in a loss, in units of its paired standard error: no seed changes it."""
        return float(self._rng("text", size, teacher).standard_normal())

    def chance(self, *key):
        """Uniform."""
        return float(self._rng("chance", *key).random())

    def _rng(self, *key):
        return np.random.default_rng([SEED, self.number, *repr(key).encode()])


def draw_decision(number: int) -> Decision:
    """Decision of this number, with its own truth: families, scales and kinds take turns."""
    rng = np.random.default_rng([SEED, number])
    family, kind = TRUTHS[number % len(TRUTHS)], KINDS[number // 4 % len(KINDS)]
    scale = list(SCALES)[(number // 4 + number // 16) % len(SCALES)]
    largest, vocab, context = SCALES[scale]
    params = float(np.round(largest * np.exp(rng.uniform(-0.7, 0.7))))
    tokens = params * np.exp(rng.uniform(np.log(5), np.log(100)))
    truth = draw_truth(family, largest=params / LARGEST_PILOT, rng=rng, in_place=False)
    sd = rng.uniform(0.002, 0.004)
    alone = float(truth.alone(params, tokens))
    found = teachers_near(truth, alone * draw_ratios(kind, rng), params, Noise(rng, sd), rng)
    teachers = tuple(replace(t, run_id=f"teacher-{t.name}") for t in found)
    above = 0 if rng.random() < ALL_STORED else STORED_ABOVE
    kin = rng.random() < SAME_TEXT
    margin = MARGINS[number // 2 % len(MARGINS)] * alone
    question = make_question(params, tokens, margin, teachers, vocab, context, above, kin)
    return Decision(
        number,
        kind,
        scale,
        truth,
        question,
        teachers,
        vocab,
        context,
        KeyedNoise(number, sd),
        DIVERGES if number % 17 == 7 else 0.0,
    )


def draw_ratios(kind, rng):
    """Losses of 1 to 5 teachers over that of the target alone, ascending."""
    count = int(rng.integers(1, 6))
    if kind == "worse":
        return np.sort(rng.uniform(1.0, 1.15, count))
    if kind == "near-tie":
        return np.sort(rng.uniform(0.8, 1.0) * rng.uniform(0.98, 1.0, max(count, 2)))
    return np.sort(rng.uniform(0.65, 1.05, count))


def make_question(params, tokens, margin, teachers, vocab, context, above, kin):
    """What `settle` is asked."""

    def size(n):
        return Size(label=f"{n:.0f}", params=float(n), flops=3 * forward(float(n), vocab, context))

    ladder = [np.round(params / 2**k) for k in range(STEPS_DOWN, -1, -1) if params / 2**k >= SMALLEST]
    batch = int(2 ** np.round(np.log2(tokens / 40_000)))
    prices = [0.0 if t.params > above * params else forward(t.params, vocab, context) for t in teachers]
    return PilotQuestion(
        target=size(params),
        tokens=tokens,
        margin=margin,
        candidates=tuple(
            Candidate(
                name=t.name,
                loss=t.loss,
                flops=price,
                params=t.params if kin else None,
                tokens=t.tokens if kin else None,
            )
            for t, price in zip(teachers, prices, strict=True)
        ),
        budget=BUDGET * size(params).flops * tokens,
        sizes=tuple(size(n) for n in ladder),
        least_tokens=40 * batch,
        batch_tokens=batch,
    )


def arms(teachers) -> list[Arm]:
    """The choices, no teacher first."""
    return [Arm(NONE, None), *(Arm(t.name, t) for t in teachers)]
