"""What a study measured at the target: the runs with and without a teacher, paired, at equal tokens or compute.

An arm is one student size with one teacher (or none); its token budgets are points on a curve. At a budget
that was run the losses are the measured ones; between two budgets they are interpolated, document by document, so
that pairing survives; up to a factor 3 beyond the largest the line is drawn on, with a doubt that grows. Further
out there is no answer here: that is what laws are for.

The line is straight in ln (loss - floor) over ln tokens. A student's floor is nearly its teacher's loss: in the open
runs L_S - L_T is a power of the tokens within 1 % of the loss (docs/open-runs.md), as in every form of the law.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import DataError
from distillaw.planning.evidence import Interval
from distillaw.planning.gains import (
    ASSUMED_DOF,
    ASSUMED_SEED_SD,
    DRAWS,
    LEAST_SEED_SHARE,
    SHARED_SEED_VARIANCE,
    TEACHER_SPREAD,
    GainPosterior,
    SeedNoise,
    document_part,
    gain_dof,
    gain_posterior,
    seed_covariance,
)
from distillaw.planning.rate_doubt import RateDoubt, rate_doubt
from distillaw.runs.paired import check_same_documents, clustered_cov, seed_noise, t_quantile
from distillaw.runs.record import Run, StudyRecord, budget_text, is_near

Array = NDArray[np.float64]
ALONE = "no teacher"
REACH = 3.0
"""How far beyond its largest budget an arm is extrapolated."""
EXTRAPOLATION_DOUBT = 0.3
"""Standard deviation of an extrapolated change of the loss, as a share of that change, beside seed noise. Two budgets
and a third up to 3.4 times the larger, rms of the miss as a share of the change: without a teacher 0.19 in Farseer's
grid, 0.47 in that of Gadre et al. (2024), 0.28, 0.15 and 0.31 in the open runs, the pocket study and the worlds; with
one 0.20, 0.22 and 0.51 in the last three; 0.32 over all eight (benchmarks/fits/paired_extrapolation.py)."""
TAUGHT_FLOOR = 0.99
"""Floor of a student's loss, as a share of its teacher's: nearly where students end in the open runs."""
ALONE_FLOOR = 0.7
"""The same without a teacher, as a share of the lowest loss seen: what text and size leave. At 0.4 the line was too
low by 53 millinats (Gadre et al.) and 25 (open runs), at 0.7 by 35 and 6 too high, at 0.9 by 55 (same script)."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One student size with one teacher or none: its runs by token budget and seed."""

    name: str
    teacher: Run | None
    runs: Mapping[int, Mapping[int, Run]]
    """tokens -> seed -> run."""
    rate: RateDoubt | None = None
    """What is not known of its learning rate; None where its runs do not say theirs."""

    @property
    def student_flop_per_token(self) -> float:
        """3 F(N_S), as the runs counted it."""
        run = self._any()
        return run.number("train_flops") / run.tokens

    @property
    def logit_flop_per_token(self) -> float:
        """F(N_T), as the runs counted it; 0 without a teacher."""
        run = self._any()
        return run.number("teacher_flops") / run.tokens if self.teacher else 0.0

    @cached_property
    def floor(self) -> float:
        """What the loss is taken to approach with tokens, nats/token.

        Students that have come within 0.5 % of the teacher's floor, or are taught by labels too, are not held by it.
        """
        least = min(run.loss for seeds in self.runs.values() for run in seeds.values())
        if self.teacher is not None and self._any().row.get("lambda", 1.0) == 1.0:
            floor = TAUGHT_FLOOR * self._any().number("teacher_loss")
            if least > 1.005 * floor:
                return floor
        return ALONE_FLOOR * least

    @property
    def seconds_per_token(self) -> float:
        """Measured training time per token; NaN where it was not recorded."""
        run = self._any()
        return run.number("seconds") / run.tokens

    def _any(self) -> Run:
        return next(iter(self.runs[max(self.runs)].values()))

    def at(self, tokens: float) -> "ArmPoint | None":
        """The arm at a token budget: measured, interpolated, extrapolated up to `REACH`, or None."""
        for budget, seeds in self.runs.items():
            if is_near(budget, tokens, within=0.01):
                return ArmPoint(arm=self, tokens=float(budget), parts=((1.0, seeds),))
        budgets = sorted(self.runs)
        if len(budgets) < 2 or not budgets[0] < tokens <= REACH * budgets[-1]:
            return None
        high = min(next((i for i, b in enumerate(budgets) if b > tokens), len(budgets) - 1), len(budgets) - 1)
        ends = [self.runs[budgets[high - 1]], self.runs[budgets[high]]]
        common = sorted(ends[0].keys() & ends[1].keys())
        if not common:
            return None
        share = math.log(tokens / budgets[high - 1]) / math.log(budgets[high] / budgets[high - 1])
        parts = tuple(
            (w, {s: end[s] for s in common}) for w, end in zip((1 - share, share), ends, strict=True)
        )
        return ArmPoint(arm=self, tokens=tokens, parts=parts)


@dataclass(frozen=True, kw_only=True)
class ArmPoint:
    """An arm at one token budget."""

    arm: Arm
    tokens: float
    parts: Sequence[tuple[float, Mapping[int, Run]]]
    """One budget with weight 1, or two with weights that sum to 1 (one is negative in an extrapolation)."""

    @property
    def seeds(self) -> frozenset[int]:
        """Seeds known at this point."""
        return frozenset(self.parts[0][1])

    def loss(self, seed: int) -> float:
        """Loss of one seed, nats/token; at a budget that was run, the measured one to the last digit."""
        if self.basis == "measured":
            return self.parts[0][1][seed].loss
        floor = self.arm.floor
        logs = (weight * math.log(runs[seed].loss - floor) for weight, runs in self.parts)
        return floor + math.exp(sum(logs))

    def _shares(self, seed: int) -> list[float]:
        """Slope of the loss in the loss of each end."""
        if self.basis == "measured":
            return [1.0]
        floor, loss = self.arm.floor, self.loss(seed)
        return [weight * (loss - floor) / (runs[seed].loss - floor) for weight, runs in self.parts]

    @property
    def seed_factor(self) -> float:
        """What the line makes of one run's seed variance: the sum of squared shares of its ends, never below 1."""
        return max(1.0, sum(share**2 for share in self._shares(min(self.seeds))))

    def sums(self, seed: int) -> Array | None:
        """Loss sums by document of one seed, nats; their total is `loss` exactly. None where not kept."""
        loss, shares = self.loss(seed), self._shares(seed)
        # to first order an end's documents enter with d loss / d end; what is left falls on every token alike
        rest = loss - sum(
            share * runs[seed].loss for share, (_, runs) in zip(shares, self.parts, strict=True)
        )
        total = np.float64(0)
        for share, (_, runs) in zip(shares, self.parts, strict=True):
            scores = runs[seed].scores
            if scores is None:
                return None
            total = total + share * scores.loss_sum + rest / len(shares) * scores.tokens
        return np.asarray(total)

    @property
    def basis(self) -> str:
        """`measured`, `interpolated` or `extrapolated`."""
        if len(self.parts) == 1:
            return "measured"
        return "interpolated" if self.parts[0][0] > 0 else "extrapolated"

    @property
    def doubt(self) -> float:
        """Standard deviation of the curve's doubt and the rate's, nats."""
        return math.hypot(self.curve_doubt, self.rate_doubt)

    @property
    def rate_doubt(self) -> float:
        """What the rate may cost, nats (root mean square); 0 where it is not known."""
        return 0.0 if self.arm.rate is None else self.arm.rate.at(self.tokens)

    @property
    def curve_doubt(self) -> float:
        """Standard deviation of what lies between or beyond the budgets that were run, nats.

        Between them, the distance of the curve from a straight line; beyond them, a share of the change.
        """
        seed = min(self.seeds)
        if self.basis == "extrapolated":
            return EXTRAPOLATION_DOUBT * abs(self.loss(seed) - self.parts[1][1][seed].loss)
        return abs(sum(weight * runs[seed].loss for weight, runs in self.parts) - self.loss(seed))

    @property
    def mean_loss(self) -> float:
        """Mean over seeds, nats/token."""
        return float(np.mean([self.loss(seed) for seed in sorted(self.seeds)]))

    @property
    def run_ids(self) -> list[str]:
        """The runs behind this point."""
        return sorted(run.run_id for _, runs in self.parts for run in runs.values())


@dataclass(frozen=True, kw_only=True)
class MeasuredGain:
    """Gains of several teachers over no teacher, as measured, with everything that qualifies them."""

    baseline: ArmPoint
    candidates: Sequence[ArmPoint]
    posterior: GainPosterior
    noise: SeedNoise
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
        """Its standard error over documents and seeds, without the doubt of rates and curves, nats/token."""
        return float(np.sqrt((self.documents + self.seeds)[candidate, candidate]))


def student_arms(record: StudyRecord, student_params: float) -> list[Arm]:
    """The arms of the student size nearest to the target (within 25 %), the one without a teacher first."""
    if student_params in record.students_by_size:
        sizes = [int(student_params)]
    else:
        sizes = [size for size in record.students_by_size if is_near(size, student_params)]
    if not sizes:
        return []
    size = min(sizes, key=lambda n: abs(math.log(n / student_params)))
    found: dict[str, dict[int, dict[int, Run]]] = {}
    for run in record.students_by_size[size]:
        found.setdefault(run.teacher_run or "", {}).setdefault(run.tokens, {})[run.seed] = run
    order = sorted(found, key=lambda t: (t != "", -_teacher_loss(record, t)))
    return [
        Arm(name=teacher_name(record, t) if t else ALONE, teacher=_teacher(record, t, found[t]),
            runs={budget: dict(sorted(found[t][budget].items())) for budget in sorted(found[t])},
            rate=rate_doubt(record, found[t], is_taught=bool(t)))
        for t in order
    ]  # fmt: skip


def _teacher(record: StudyRecord, teacher_run: str, budgets: Mapping[int, Mapping[int, Run]]) -> Run | None:
    """The teacher's own run; where it is not in the study, what the student's row says of it."""
    if not teacher_run:
        return None
    if teacher_run in record.teachers:
        return record.teachers[teacher_run]
    row = next(iter(next(iter(budgets.values())).values())).row
    known = {
        "params": row.get("teacher_params"),
        "tokens": row.get("teacher_tokens"),
        "loss": row.get("teacher_loss"),
    }
    return Run(row={"run_id": teacher_run, "role": "teacher", "seed": 0, **known}, folder=None)


def _teacher_loss(record: StudyRecord, teacher_run: str) -> float:
    if not teacher_run:
        return math.inf
    if teacher_run in record.teachers:
        return record.teachers[teacher_run].loss
    return record.told_losses.get(teacher_run, math.inf)


def teacher_name(record: StudyRecord, teacher_run: str) -> str:
    """How people say it: the teacher by its size and, where sizes repeat, its tokens; controls by their text too."""
    teachers = record.every_teacher
    if teacher_run not in teachers:
        return teacher_run.rstrip("/").split("/")[-1]
    run = teachers[teacher_run]
    if teacher_run not in record.teachers:
        return f"{run.label} teacher ({budget_text(run.tokens)} tokens of the students' text)"
    same = [t for t in record.teachers.values() if t.label == run.label]
    return (
        f"{run.label} teacher"
        if len(same) == 1
        else f"{run.label} teacher ({budget_text(run.tokens)} tokens)"
    )


Repeated = Mapping[tuple[str, int], Run]
"""Runs of one cell by (teacher, seed)."""


def study_seed_noise(record: StudyRecord, *, student_params: float, tokens: float, loss: float) -> SeedNoise:
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
    own = [
        cell for (size, b), cell in nearest.items() if is_near(size, student_params) and is_near(b, tokens)
    ]
    for used, source, needed in ((own, "cell", 2), (list(nearest.values()), "study", 1)):
        variance, dof = seed_noise([_losses(cell) for cell in used])
        if dof >= needed:
            both = seed_noise([_losses(cell) for cell in used], paired=False)[0]
            seen = with_assumed(variance, dof)
            pure = max(seen - _document_part(used), LEAST_SEED_SHARE * seen)
            return SeedNoise(sd=math.sqrt(pure), seen=math.sqrt(seen), dof=dof + ASSUMED_DOF, source=source,
                             shared=math.sqrt(max(both - variance, SHARED_SEED_VARIANCE * seen)))  # fmt: skip
    variance, dof = record.arm_noise
    if dof:
        seen = math.sqrt(with_assumed(variance, dof))
        return SeedNoise(sd=seen, seen=seen, dof=dof + ASSUMED_DOF, source="arm")
    return SeedNoise(
        sd=sd, seen=sd, dof=ASSUMED_DOF, source="assumed", shared=math.sqrt(SHARED_SEED_VARIANCE) * sd
    )


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
    noise = study_seed_noise(
        record, student_params=next(iter(size.values())).params, tokens=baseline.tokens, loss=loss
    )
    documents, count = _document_covariance(baseline, candidates)
    cov = documents + seed_covariance(_weighted(baseline), [_weighted(c) for c in candidates], noise)
    rates = np.array([c.rate_doubt for c in candidates])  # one search for all teachers, so one error
    doubt = np.outer(rates, rates) + np.diag([c.curve_doubt**2 for c in candidates]) + baseline.doubt**2
    top = int(np.argmax(gain))
    dof = gain_dof(float(documents[top, top]), count, float((cov - documents)[top, top]), noise,
                   doubt=float(doubt[top, top]))  # fmt: skip
    posterior = gain_posterior(gain, cov + doubt, dof=dof, spread=TEACHER_SPREAD * loss, rng=rng, draws=draws)
    return MeasuredGain(
        baseline=baseline, candidates=tuple(candidates), posterior=posterior, noise=noise, documents=documents,
        seeds=cov - documents, is_paired=_has_scores(baseline, candidates),
    )  # fmt: skip


def _weighted(point: ArmPoint) -> dict[int, float]:
    """How much of each seed's luck is in the point's mean loss."""
    return dict.fromkeys(point.seeds, math.sqrt(point.seed_factor) / len(point.seeds))


def _has_scores(baseline: ArmPoint, candidates: Sequence[ArmPoint]) -> bool:
    """True if every run that is needed kept its losses by document, and all of the same documents."""
    used = [
        runs[s].scores for point in (baseline, *candidates) for _, runs in point.parts for s in point.seeds
    ]
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
    alone, *taught = (np.mean([point.sums(s) for s in sorted(point.seeds)], axis=0)  # type: ignore[type-var]
                      for point in (baseline, *candidates))  # fmt: skip
    scores = baseline.parts[0][1][min(baseline.seeds)].scores
    assert scores is not None
    columns = [alone - own for own in taught]
    return clustered_cov(np.stack(columns, axis=1), scores.tokens), len(scores.tokens)


def _mean_se(point: ArmPoint) -> float:
    """Standard error over documents of the point's mean loss; shared documents, so seeds do not average it."""
    found = [run.loss_se for _, runs in point.parts for run in runs.values() if math.isfinite(run.loss_se)]
    return float(np.mean(found)) if found else 0.01 * point.loss(min(point.seeds))


def loss_interval(point: ArmPoint, noise: SeedNoise, *, level: float) -> tuple[float, float, float]:
    """(mean, lower, upper) of the point's loss: held-out sampling and seeds; wider than any paired gain."""
    mean = point.mean_loss
    documents = _mean_se(point) ** 2
    seeds = (noise.sd**2 + noise.shared**2) * point.seed_factor / len(point.seeds)
    half = t_quantile(0.5 + level / 2, gain_dof(documents, 60, seeds, noise, doubt=point.doubt**2))
    half *= math.sqrt(documents + seeds + point.doubt**2)
    return mean, mean - half, mean + half
