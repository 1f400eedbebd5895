"""What a user has and asks, simulated from a truth: a pilot study with its noise, and questions beyond it."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distillaw.accounting.family import FixedAspect
from distillaw.planning.situation import Teacher
from distillaw.runs.record import Run, StudyRecord
from distillaw.shapes import ASPECT

SCALES = {
    # name: (largest student, vocabulary, context)
    "pocket": (4e5, 1024, 128),
    "small": (1e7, 16384, 512),
    "pilot": (1e8, 32768, 2048),
    "large": (1e9, 32768, 4096),
}
IN_PLACE = ("pilot", "large")
"""Scales that published laws reach."""
DISTANCES = (1, 3, 10, 30)
"""How far beyond the largest pilot a question may lie, in N, in D or in both; 1 is interpolation."""
OF_COMPUTE = (1, 4, 10, 30)
"""The same, in compute."""
AXES = ("N", "D", "both")
AT_A_PILOT = 0.5
"""Share of the interpolating questions that concern a size and teachers of the study itself."""
LEAST_RATIO = 0.1
"""Tokens per parameter below which nothing is called training."""
HELD_OUT = 5e-4
"""Standard error of a loss from the held-out text, as a share of it."""
SHARED_NOISE, TRUNK_NOISE = 0.5, 0.35
"""Shares of the seed noise's variance that all runs of one seed and size have in common, and all of one trunk."""


@dataclass(frozen=True)
class Study:
    """Runs as a table for `distillaw.fit`, and what is known of their design."""

    table: dict
    sizes: np.ndarray
    budgets: np.ndarray
    teachers: tuple
    """Teachers with measured losses."""
    vocab: int
    context: int

    @property
    def edge(self):
        """(N, D) of the largest pilot."""
        return self.sizes[-1], self.budgets[-1]

    def record(self):
        """The same runs as the study folder they would lie in; held-out text is taken as plenty."""
        rows = [dict(zip(self.table, values, strict=True)) for values in zip(*self.table.values(), strict=True)]
        return StudyRecord(
            folder=Path("simulated"),
            info={},
            runs=[self._run(i, row) for i, row in enumerate(rows)],
            unfinished=(),
            tuning={},
            problems=(),
        )

    def _run(self, i, row):
        flop = 3 * forward(row["params"], self.vocab, self.context)
        teacher = next((t for t in self.teachers if t.name == row["teacher"]), None)
        own = next((t for t in self.teachers if t.loss == row["loss"]), None)
        known = {
            "run_id": own.run_id if own else f"run-{i}",
            "role": "teacher" if own else "student",
            "purpose": "teacher" if own else "grid",
            "arm": "distilled" if teacher else "supervised",
            "params": int(row["params"]),
            "tokens": int(row["tokens"]),
            "loss": float(row["loss"]),
            "loss_se": HELD_OUT * float(row["loss"]),
            "seed": int(row["seed"]),
            "vocab_size": self.vocab,
            "context": self.context,
            "train_flops": flop * row["tokens"],
            "teacher_run": None,
            "teacher_flops": 0.0,
        }
        if teacher is not None:
            logits = forward(teacher.params, self.vocab, self.context)
            known |= {
                "teacher_run": teacher.run_id,
                "teacher_loss": teacher.loss,
                "teacher_params": teacher.params,
                "teacher_tokens": teacher.tokens,
                "teacher_flops": logits * row["tokens"],
            }
        return Run(row=known, folder=None)

    def largest_cell(self):
        """At the largest pilot: loss without a teacher, and loss by teacher (mean over seeds)."""
        t = self.table
        here = (t["params"] == self.sizes[-1]) & (t["tokens"] == self.budgets[-1])
        alone = float(t["loss"][here & (t["teacher"] == "")].mean())
        taught = {x: float(t["loss"][here & (t["teacher"] == x.name)].mean()) for x in self.teachers}
        return alone, taught


class Choice(NamedTuple):
    """One thing that could be done: a student, its tokens, a teacher or none."""

    params: float
    tokens: float
    teacher: Teacher | None


def true_loss(truth, choice):
    """Expected loss of a choice, nats/token."""
    if choice.teacher is None:
        return float(truth.alone(choice.params, choice.tokens))
    return float(truth.taught(choice.params, choice.tokens, choice.teacher.loss, choice.teacher.params))


@dataclass(frozen=True)
class Question:
    """One decision: target, candidate teachers, who pays, and how far beyond the pilots it lies."""

    params: float
    tokens: float
    teachers: tuple
    payer: str
    """`equal tokens`, or a cost scenario at the compute of training alone on `tokens`."""
    served: int
    """Students that share the bill of the teacher's training."""
    vocab: int
    context: int
    factor: int
    axis: str

    @property
    def compute(self):
        """FLOP of training alone on `tokens`."""
        return 3 * self.forward(self.params) * self.tokens

    @property
    def arguments(self):
        """For `distillaw.plan`."""
        equal_tokens = self.payer == "equal tokens"
        return {
            "student_params": self.params,
            "student_tokens": self.tokens if equal_tokens else None,
            "compute": None if equal_tokens else self.compute,
            "teachers": list(self.teachers),
            "scenario": "best-case" if equal_tokens else self.payer,
            "students_served": self.served,
            "vocab": self.vocab,
            "context": self.context,
        }

    def forward(self, params):
        """F(N), FLOP per token."""
        return forward(params, self.vocab, self.context)

    def choices(self):
        """Pretraining, then every teacher that the bill allows."""
        tokens = [(t, self.tokens_for(t)) for t in (None, *self.teachers)]
        return [Choice(self.params, d, t) for t, d in tokens if d is not None]

    def tokens_for(self, teacher):
        """Tokens of the student under the bill; None where it pays for none."""
        return self.tokens if self.payer == "equal tokens" else self.affordable(self.params, teacher)

    def affordable(self, params, teacher):
        """Tokens that `compute` buys a student of this size; None below LEAST_RATIO."""
        left, each = self.compute, 3 * self.forward(params)
        if teacher is not None and self.payer == "pretraining":
            left -= 3 * self.forward(teacher.params) * teacher.tokens / self.served
        elif teacher is not None:
            each += self.forward(teacher.params)
        return left / each if left > LEAST_RATIO * params * each else None

    def best_loss(self, truth):
        """The lowest expected loss that any choice reaches."""
        return min(true_loss(truth, choice) for choice in self.choices())


@cache
def forward(params, vocab, context):
    """F(N), FLOP per token, of the package's own shapes below 50M and of the paper's above."""
    family = FixedAspect(aspect=ASPECT if params < 5e7 else 128.0)
    return float(family.forward_flops(params, context=context, vocab=vocab))


class Noise:
    """Seed noise: a part common to all runs of one size and seed, a part of the trunk, a part of the run."""

    def __init__(self, rng, sd):
        self.rng, self.sd = rng, sd
        self.of_pair = cache(lambda size, seed: self._normal(SHARED_NOISE))
        self.of_trunk = cache(lambda size, seed, teacher: self._normal(TRUNK_NOISE))

    def _normal(self, share):
        return self.sd * np.sqrt(share) * self.rng.standard_normal()

    def factor(self, size, seed, teacher):
        """What the loss of one run is multiplied with."""
        own = self._normal(1 - SHARED_NOISE - TRUNK_NOISE)
        return float(np.exp(self.of_pair(size, seed) + self.of_trunk(size, seed, teacher) + own))


def make_study(truth, scale, rng):
    """2-4 sizes, 2-4 budgets, 3-5 teachers from 0.65 to 1.05 of the students' losses, seeds in a cell or two."""
    largest, vocab, context = SCALES[scale]
    sizes = ladder(largest, rng.uniform(1.8, 3.0), rng.integers(2, 5))
    budgets = ladder(largest * rng.uniform(5, 40), rng.uniform(2.5, 3.5), rng.integers(2, 5))
    noise = Noise(rng, rng.uniform(0.002, 0.004))
    middle = float(truth.alone(sizes[len(sizes) // 2], budgets[len(budgets) // 2]))
    ratios = np.linspace(rng.uniform(0.66, 0.78), rng.uniform(0.97, 1.05), rng.integers(3, 6))
    found = teachers_near(truth, middle * ratios, largest, noise, rng)
    teachers = [replace(t, run_id=f"teacher-{t.name}") for t in found]
    rows = [run(truth, noise, t.params, t.tokens, None, 0) | {"loss": t.loss, "group": t.run_id} for t in teachers]
    repeated = [(sizes[-1], budgets[0]), (sizes[0], budgets[-1])][: rng.integers(1, 3)]
    for size in sizes:
        for teacher in (None, *teachers):
            for budget in budgets:
                seeds = 3 if (size, budget) in repeated and teacher in (None, teachers[0]) else 1
                rows += [run(truth, noise, size, budget, teacher, seed) for seed in range(seeds)]
    table = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    if rng.random() < 0.5:  # every budget trained on its own instead of branched from one trunk
        table["group"] = np.arange(len(rows)).astype(str)
    return Study(table, sizes, budgets, tuple(teachers), vocab, context)


def ladder(top, step, count):
    """Whole numbers, each `step` times the one before, up to `top`."""
    return np.round(top / float(step) ** np.arange(count)[::-1])


def run(truth, noise, size, budget, teacher, seed):
    """One row of a study's table."""
    name = teacher.name if teacher else ""
    if teacher:
        mean = truth.taught(size, budget, teacher.loss, teacher.params)
    else:
        mean = truth.alone(size, budget)
    return {
        "params": size,
        "tokens": budget,
        "loss": float(mean) * noise.factor(size, seed, name),
        "teacher": name,
        "teacher_loss": teacher.loss if teacher else np.nan,
        "seed": seed,
        "group": f"{size:g}-{name}-{seed}",
    }


def teachers_near(truth, losses, student, noise, rng):
    """Real teachers (size, tokens, measured loss) near the given losses, the largest at most 100 times the student."""
    found = []
    for i, loss in enumerate(losses):
        ratio = np.exp(rng.uniform(np.log(15), np.log(60)))
        sizes = student * np.geomspace(0.1, 100, 400)
        curve = truth.alone(sizes, ratio * sizes)
        size = float(np.round(sizes[np.argmin(np.abs(curve - loss))]))
        measured = float(truth.alone(size, ratio * size)) * noise.factor(size, f"teacher-{i}", "")
        found.append(Teacher(name=f"T{i}", params=size, tokens=ratio * size, loss=measured))
    return found


def make_questions(truth, study, rng, count, distances=DISTANCES, of_compute=False):
    """Questions at every distance in turn, of each of N and D or of their product; bills too small are drawn again."""
    found = []
    while len(found) < count:
        factor, axis = distances[len(found) % len(distances)], AXES[rng.integers(3)]
        question = make_question(truth, study, rng, factor, axis, of_compute=of_compute)
        if len(question.choices()) > 1:
            found.append(question)
    return found


def make_question(truth, study, rng, factor, axis, *, of_compute=False):
    """One question: target, candidate teachers, and who pays."""
    N, D = study.edge
    at_a_pilot = factor == 1 and rng.random() < AT_A_PILOT
    if factor == 1:
        N = rng.choice(study.sizes) if at_a_pilot else np.exp(rng.uniform(*np.log(study.sizes[[0, -1]])))
        D = np.exp(rng.uniform(*np.log(study.budgets[[0, -1]])))
    each = factor**0.5 if of_compute and axis == "both" else factor
    N, D = N * (each if axis != "D" else 1), D * (each if axis != "N" else 1)
    D = max(D, 1.5 * N)
    ratios = np.sort(rng.uniform(0.65, 1.05, rng.integers(2, 6)))
    noise = Noise(rng, rng.uniform(0.002, 0.004))
    teachers = teachers_near(truth, float(truth.alone(N, D)) * ratios, N, noise, rng)
    teachers = study.teachers if at_a_pilot else tuple(teachers)
    payer = str(rng.choice(["equal tokens", "inference", "pretraining"]))
    served = int(rng.choice([3, 30, 300])) if payer == "pretraining" else 1
    return Question(float(N), float(D), teachers, payer, served, study.vocab, study.context, factor, axis)
