"""The gains that a study measured: runs with and without a teacher in pairs, at one design point or at all.

`measure_gain` gives the posterior that a verdict rests on; `design_points` all that was run, which figures, key numbers
and tables of a report read, so that they cannot disagree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import DataError
from distillaw.planning.arms import ArmPoint, MeasuredArm, student_arms
from distillaw.planning.evidence import Interval
from distillaw.planning.gains import (
    ASSUMED_DOF,
    ASSUMED_SEED_SD,
    DRAWS,
    LEAST_SEED_SHARE,
    SHARED_SEED_VARIANCE,
    TEACHER_SPREAD,
    GainPosterior,
    RunNoise,
    document_part,
    gain_dof,
    gain_posterior,
    seed_covariance,
)
from distillaw.runs.paired import check_same_documents, clustered_cov, seed_noise, t_quantile
from distillaw.runs.record import Run, StudyRecord, is_near

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MeasuredGain:
    """Gains of several teachers over no teacher, as measured, with everything that qualifies them."""

    baseline: ArmPoint
    candidates: Sequence[ArmPoint]
    posterior: GainPosterior
    noise: RunNoise
    documents: Array
    """Covariance of the gains over documents alone, shape (candidates, candidates)."""
    seeds: Array
    """The same over seeds alone."""
    is_paired: bool
    """False where per-document losses were missing and losses were compared as if independent."""

    def interval(self, candidate: int, level: float) -> Interval:
        """The gain as measured, the difference of the two losses, with its interval.

        The posterior's draws are pulled towards each other, for choosing among teachers; this is not.
        """
        mean, se = float(self.posterior.estimate[candidate]), float(self.posterior.se[candidate])
        half = t_quantile(0.5 + level / 2, self.posterior.dof) * se
        return Interval(mean=mean, lower=mean - half, upper=mean + half)

    def document_se(self, candidate: int) -> float:
        """The part of a gain's standard error that more held-out text would reduce, nats/token."""
        return float(np.sqrt(self.documents[candidate, candidate]))

    def paired_se(self, candidate: int) -> float:
        """Its standard error over documents and seeds, without what is not known of rates and curves, nats/token."""
        return float(np.sqrt((self.documents + self.seeds)[candidate, candidate]))


Repeated = Mapping[tuple[str, int], Run]
"""Runs of one cell by (teacher, seed)."""


def study_seed_noise(record: StudyRecord, *, student_params: float, tokens: float, loss: float) -> RunNoise:
    """Seed noise for one cell: measured there, borrowed from other cells of the study, or assumed.

    Branches of one trunk share their luck, so each student size contributes one cell, the one nearest in
    tokens. Fewer than two degrees of freedom at the cell itself are pooled with the rest of the study, and what is
    assumed where nothing was repeated counts beside them: a repeat or two cannot know less than none.
    """
    sd = ASSUMED_SEED_SD * loss

    def with_assumed(variance: float, dof: float) -> float:
        """Variance of both together, by degrees of freedom."""
        return (dof * variance + ASSUMED_DOF * sd**2) / (dof + ASSUMED_DOF)

    nearest = {}
    for size, repeated in record.repeated_budgets.items():
        budget = min(repeated, key=lambda b: abs(math.log(b / tokens)))
        nearest[size, budget] = record.student_cells[size][budget]
    own = [cell for (size, b), cell in nearest.items() if is_near(size, student_params) and is_near(b, tokens)]
    for used, source, needed in ((own, "cell", 2), (list(nearest.values()), "study", 1)):
        variance, dof = seed_noise([_losses(cell) for cell in used])
        if dof >= needed:
            both = seed_noise([_losses(cell) for cell in used], paired=False)[0]
            seen = with_assumed(variance, dof)
            pure = max(seen - _document_part(used), LEAST_SEED_SHARE * seen)
            return RunNoise(
                sd=math.sqrt(pure),
                seen=math.sqrt(seen),
                dof=dof + ASSUMED_DOF,
                source=source,
                shared=math.sqrt(max(both - variance, SHARED_SEED_VARIANCE * seen)),
            )
    variance, dof = record.arm_noise
    if dof:
        seen = math.sqrt(with_assumed(variance, dof))
        return RunNoise(sd=seen, seen=seen, dof=dof + ASSUMED_DOF, source="arm")
    return RunNoise(sd=sd, seen=sd, dof=ASSUMED_DOF, source="assumed", shared=math.sqrt(SHARED_SEED_VARIANCE) * sd)


def _losses(cell: Repeated) -> dict[tuple[str, int], float]:
    return {name: run.loss for name, run in cell.items()}


def _document_part(cells: Sequence[Repeated]) -> float:
    """The share of the seed variance that is the documents', 0 where losses by document are missing."""
    found, tokens = [], None
    for cell in cells:
        scores = [run.scores for run in cell.values()]
        kept = [s for s in scores if s is not None]
        if len(kept) < len(scores):
            return 0.0
        tokens = kept[0].tokens
        if any(len(s.tokens) != len(tokens) for s in kept):
            return 0.0
        found.append((list(cell), np.stack([s.loss_sum for s in kept])))
    return document_part(found, tokens) if tokens is not None else 0.0


def measure_gain(
    record: StudyRecord,
    baseline: ArmPoint,
    candidates: Sequence[ArmPoint],
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> MeasuredGain | None:
    """Posterior gains of the candidates over the baseline; None where nothing can be compared.

    A gain is the difference of the two arms' losses, each the mean over all its seeds, so that a table's losses and
    gains agree; what the seeds that only one of them has would have done to both is in the covariance. A candidate
    without a common seed is left out.
    """
    candidates = [c for c in candidates if c.seeds & baseline.seeds]
    if not candidates:
        return None
    loss = baseline.mean_loss
    gain = np.array([loss - c.mean_loss for c in candidates], dtype=np.float64)
    size = baseline.arm.runs[max(baseline.arm.runs)]
    noise = study_seed_noise(record, student_params=next(iter(size.values())).params, tokens=baseline.tokens, loss=loss)
    documents, count = _document_covariance(baseline, candidates)
    cov = documents + seed_covariance(_weighted(baseline), [_weighted(c) for c in candidates], noise)
    rates = np.array([c.rate_sd for c in candidates])  # one search for all teachers, so one error
    beyond = np.outer(rates, rates) + np.diag([c.curve_sd**2 for c in candidates]) + baseline.sd**2
    top = int(np.argmax(gain))
    dof = gain_dof(
        float(documents[top, top]), count, float((cov - documents)[top, top]), noise, curves=float(beyond[top, top])
    )
    posterior = gain_posterior(
        gain, cov + beyond, dof=dof, spread=_teacher_spread(candidates, loss), rng=rng, draws=draws
    )
    return MeasuredGain(
        baseline=baseline,
        candidates=tuple(candidates),
        posterior=posterior,
        noise=noise,
        documents=documents,
        seeds=cov - documents,
        is_paired=_has_scores(baseline, candidates),
    )


def _teacher_spread(candidates: Sequence[ArmPoint], loss: float) -> float:
    """Scale of the prior on how much teachers differ, nats/token; beyond the budgets run, as much as at the last one.

    What is drawn on is known so badly that a scale of noise alone would pull a good teacher half way to a bad one,
    though runs have told them apart: it would be worth less for the company it keeps.
    """
    ends = [c.ends[max(c.ends)].values() for c in candidates if c.basis == "extrapolated"]
    seen = float(np.std([np.mean([run.loss for run in end]) for end in ends])) if ends else 0.0
    return max(TEACHER_SPREAD * loss, seen)


def _weighted(point: ArmPoint) -> dict[int, float]:
    """How much of each seed's luck is in the point's mean loss."""
    return dict.fromkeys(point.seeds, math.sqrt(point.seed_factor) / len(point.seeds))


def _has_scores(baseline: ArmPoint, candidates: Sequence[ArmPoint]) -> bool:
    """True if every run that is needed kept its losses by document, and all of the same documents."""
    used = [runs[s].scores for point in (baseline, *candidates) for runs in point.ends.values() for s in point.seeds]
    kept = [scores for scores in used if scores is not None]
    if len(kept) < len(used):
        return False
    try:
        check_same_documents(kept)
    except DataError:
        return False
    return True


def _document_covariance(baseline: ArmPoint, candidates: Sequence[ArmPoint]) -> tuple[Array, int]:
    """Covariance of the gains over documents, and the number of documents."""
    if not _has_scores(baseline, candidates):
        own = _mean_se(baseline) ** 2
        return np.diag([_mean_se(c) ** 2 for c in candidates]) + own, 30
    alone, *taught = (
        np.mean([point.sums(s) for s in sorted(point.seeds)], axis=0)  # type: ignore[type-var]
        for point in (baseline, *candidates)
    )
    scores = next(iter(baseline.ends.values()))[min(baseline.seeds)].scores
    assert scores is not None
    columns = [alone - own for own in taught]
    return clustered_cov(np.stack(columns, axis=1), scores.tokens), len(scores.tokens)


def _mean_se(point: ArmPoint) -> float:
    """Standard error over documents of the point's mean loss; shared documents, so seeds do not average it."""
    found = [run.loss_se for runs in point.ends.values() for run in runs.values() if math.isfinite(run.loss_se)]
    return float(np.mean(found)) if found else 0.01 * point.loss(min(point.seeds))


def loss_interval(point: ArmPoint, noise: RunNoise, *, level: float) -> Interval:
    """The point's loss: held-out sampling and seeds; wider than any paired gain."""
    mean = point.mean_loss
    documents = _mean_se(point) ** 2
    seeds = (noise.sd**2 + noise.shared**2) * point.seed_factor / len(point.seeds)
    half = t_quantile(0.5 + level / 2, gain_dof(documents, 60, seeds, noise, curves=point.sd**2))
    half *= math.sqrt(documents + seeds + point.sd**2)
    return Interval(mean=mean, lower=mean - half, upper=mean + half)


LEVEL = 0.9
"""Of intervals, as everywhere unless something else is asked."""
TABLE_DRAWS = 4000
"""For a table of every design point, of which a verdict needs one: a share is known to 0.8 % (sd)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilledPoint:
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
class MeasuredGap:
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
class MeasuredPoint:
    """One student size and token budget."""

    label: str
    """The student's size as the study names it."""
    params: int
    tokens: int
    alone: float
    """Mean loss without a teacher, nats/token."""
    alone_seeds: Sequence[float]
    taught: Sequence[DistilledPoint]
    """Worst teacher first."""
    noise: RunNoise
    is_paired: bool = True
    """False where losses were compared as if independent: their losses by document are missing."""
    gap: MeasuredGap | None = None
    """None with fewer than three teachers, or where the strongest teacher is the best."""

    @property
    def best(self) -> DistilledPoint | None:
        """The teacher with the highest posterior gain."""
        return next((t for t in self.taught if t.is_best), None)

    @property
    def seed_half(self) -> float:
        """Half width of the interval of the mean loss without a teacher over seeds alone."""
        return t_quantile(0.5 + LEVEL / 2, self.noise.dof) * self.noise.sd / np.sqrt(len(self.alone_seeds))


def design_points(record: StudyRecord) -> list[MeasuredPoint]:
    """Every cell that was run without a teacher, by size and tokens; teachers where they were run."""
    cells = []
    rng = np.random.default_rng(0)
    for size in sorted({run.params for run in record.students}):
        arms = student_arms(record, size)
        if arms and arms[0].teacher is None:
            cells += [_cell(record, arms, budget, rng) for budget in sorted(arms[0].runs)]
    return cells


def _cell(record: StudyRecord, arms: Sequence[MeasuredArm], budget: int, rng: np.random.Generator) -> MeasuredPoint:
    baseline = arms[0].at(budget)
    assert baseline is not None
    points = [p for arm in arms[1:] if budget in arm.runs and (p := arm.at(budget)) is not None]
    gain = measure_gain(record, baseline, points, rng=rng, draws=TABLE_DRAWS)
    run = next(iter(arms[0].runs[budget].values()))
    noise = study_seed_noise(record, student_params=run.params, tokens=budget, loss=baseline.mean_loss)
    return MeasuredPoint(
        label=run.label,
        params=run.params,
        tokens=budget,
        alone=baseline.mean_loss,
        alone_seeds=_seeds(baseline),
        taught=tuple(_taught(gain)) if gain else (),
        noise=noise,
        gap=_gap(gain) if gain else None,
        is_paired=gain.is_paired if gain else True,
    )


def _gap(gain: MeasuredGain) -> MeasuredGap | None:
    teachers = [point.arm.teacher for point in gain.candidates]
    losses = [teacher.loss for teacher in teachers if teacher is not None]
    best, strongest = gain.posterior.best, int(np.argmin(losses))
    if len(losses) < 3 or best == strongest:
        return None
    depth = gain.posterior.draws[:, best] - gain.posterior.draws[:, strongest]
    names = [point.arm.name for point in gain.candidates]
    return MeasuredGap(best=names[best], strongest=names[strongest], depth=float(depth.mean()), sd=float(depth.std()))


def _taught(gain: MeasuredGain) -> list[DistilledPoint]:
    posterior = gain.posterior
    quantile, share = t_quantile(0.5 + LEVEL / 2, posterior.dof), posterior.share_best()
    found = []
    for j, point in enumerate(gain.candidates):
        teacher = point.arm.teacher
        assert teacher is not None
        se = float(posterior.se[j])
        found.append(
            DistilledPoint(
                teacher=point.arm.name,
                teacher_run=teacher.run_id,
                teacher_loss=teacher.loss,
                loss=point.mean_loss,
                seeds=_seeds(point),
                gain=float(posterior.estimate[j]),
                se=se,
                half=quantile * se,
                is_best=j == posterior.best,
                share_best=float(share[j]),
            )
        )
    return found


def _seeds(point: ArmPoint) -> list[float]:
    return [point.loss(seed) for seed in sorted(point.seeds)]
