"""The measured cells of a study: one student size and token budget, without a teacher and from each.

The figures, the key numbers and the tables of a report all read these objects, so they cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.planning.gains import SeedNoise
from distillaw.planning.measured import (
    Arm,
    ArmPoint,
    MeasuredGain,
    measure_gain,
    student_arms,
    study_seed_noise,
)
from distillaw.runs.paired import t_quantile
from distillaw.runs.record import StudyRecord

LEVEL = 0.9
DRAWS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """One teacher's students in a cell."""

    teacher: str
    teacher_run: str
    teacher_loss: float
    loss: float
    """Mean over seeds, nats/token."""
    seeds: Sequence[float]
    gain: float
    """Over no teacher, as measured (not shrunk), nats/token."""
    se: float
    """Its standard error, seeds and documents."""
    half: float
    """Half width of the gain's interval."""
    is_best: bool
    share_best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How much worse the strongest teacher is than the best one: the depth of the U's right arm."""

    best: str
    strongest: str
    depth: float
    """Student loss from the strongest teacher minus that from the best, shrunk, nats/token."""
    sd: float

    @property
    def is_established(self) -> bool:
        """Deeper than two standard deviations: a U is claimed only then."""
        return self.depth > 2 * self.sd


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One student size and token budget."""

    label: str
    """The student's size as the study names it."""
    params: int
    tokens: int
    alone: float
    """Mean loss without a teacher, nats/token."""
    alone_seeds: Sequence[float]
    taught: Sequence[Taught]
    """Worst teacher first."""
    noise: SeedNoise
    is_paired: bool = True
    """False where losses were compared as if independent: their losses by document are missing."""
    gap: Gap | None = None
    """None with fewer than three teachers, or where the strongest teacher is the best."""

    @property
    def best(self) -> Taught | None:
        """The teacher with the highest posterior gain."""
        return next((t for t in self.taught if t.is_best), None)

    @property
    def seed_half(self) -> float:
        """Half width of the interval of the mean loss without a teacher over seeds alone."""
        return t_quantile(0.5 + LEVEL / 2, self.noise.dof) * self.noise.sd / np.sqrt(len(self.alone_seeds))


def measured_cells(record: StudyRecord) -> list[Cell]:
    """Every cell that was run without a teacher, by size and tokens; teachers where they were run."""
    cells = []
    rng = np.random.default_rng(0)
    for size in sorted({run.params for run in record.students}):
        arms = student_arms(record, size)
        if arms and arms[0].teacher is None:
            cells += [_cell(record, arms, budget, rng) for budget in sorted(arms[0].runs)]
    return cells


def _cell(record: StudyRecord, arms: Sequence[Arm], budget: int, rng: np.random.Generator) -> Cell:
    baseline = arms[0].at(budget)
    assert baseline is not None
    points = [p for arm in arms[1:] if budget in arm.runs and (p := arm.at(budget)) is not None]
    gain = measure_gain(record, baseline, points, rng=rng, draws=DRAWS)
    run = next(iter(arms[0].runs[budget].values()))
    noise = study_seed_noise(record, student_params=run.params, tokens=budget, loss=baseline.mean_loss)
    return Cell(
        label=run.label, params=run.params, tokens=budget, alone=baseline.mean_loss, alone_seeds=_seeds(baseline),
        taught=tuple(_taught(gain)) if gain else (), noise=noise, gap=_gap(gain) if gain else None,
        is_paired=gain.is_paired if gain else True,
    )  # fmt: skip


def _gap(gain: MeasuredGain) -> Gap | None:
    teachers = [point.arm.teacher for point in gain.candidates]
    losses = [teacher.loss for teacher in teachers if teacher is not None]
    best, strongest = gain.posterior.best, int(np.argmin(losses))
    if len(losses) < 3 or best == strongest:
        return None
    depth = gain.posterior.draws[:, best] - gain.posterior.draws[:, strongest]
    names = [point.arm.name for point in gain.candidates]
    return Gap(best=names[best], strongest=names[strongest], depth=float(depth.mean()), sd=float(depth.std()))


def _taught(gain: MeasuredGain) -> list[Taught]:
    posterior = gain.posterior
    quantile, share = t_quantile(0.5 + LEVEL / 2, posterior.dof), posterior.share_best()
    found = []
    for j, point in enumerate(gain.candidates):
        teacher = point.arm.teacher
        assert teacher is not None
        found.append(
            Taught(teacher=point.arm.name, teacher_run=teacher.run_id, teacher_loss=teacher.loss, loss=point.mean_loss,
                   seeds=_seeds(point), gain=float(posterior.estimate[j]), se=float(posterior.se[j]),
                   half=quantile * float(posterior.se[j]), is_best=j == posterior.best, share_best=float(share[j]))
        )  # fmt: skip
    return found


def _seeds(point: ArmPoint) -> list[float]:
    return [point.loss(seed) for seed in sorted(point.seeds)]
