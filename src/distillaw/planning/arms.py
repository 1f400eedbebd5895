"""The arms of a study as curves over tokens, and what is not known of their learning rates.

An arm is one student size with one teacher (or none); its token budgets are points on a curve. Between two that were
run losses are interpolated, document by document, so that pairing survives: straight in ln (loss - floor) over ln
tokens, since in the open runs L_S - L_T is a power of the tokens within 1 % of the loss (docs/open-runs.md). Up to a
factor 10 beyond the largest the curve is drawn on (`draw_on`); further out there is no answer here, but laws.

How much of an arm's loss may be its rate's fault is told by runs at other rates:

    excess = c x^2,   x ~ N(m, v): octaves from the best rate up to the run's,
    E[excess^2] = c^2 (m^4 + 6 m^2 v + 3 v^2)

Where rates on both sides were tried, a parabola tells c and the best rate; from there to the question goes the law of
laws/rates.py. It widens a gain and does not move it, which was no better in simulated studies (docs/rates.md).

Beyond its budgets an arm is a power law above a floor, as far as its runs do not say by a prior:

    L(D) = L_k (phi + (1 - phi) (D / D_k)^-beta)        D_k: the largest budget that was run

Two or three budgets say little of floor and exponent apart. So both have priors, learnt on curves of other people and
of our own: one for students of text, one for students of a teacher, whose floor is their teacher's loss. No curve is
exactly of this form, so that budgets count the less the further they lie from the largest one, and the interval grows
by the same drift (benchmarks/fits/paired_extrapolation.py chooses and judges; docs/verdict.md has the tables).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillaw.laws.rates import LATTICE, Optimum, excess, fit_rate_law, lowest
from distillaw.runs.record import Run, StudyRecord, budget_text, is_near

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePrior:
    """What is known of curves of one kind before any run."""

    floor: tuple[float, float]
    """Of text: mean and standard deviation of logit(phi) at `MANY` tokens per parameter. From a teacher: of ln(floor /
    teacher's loss), Student's t with three degrees of freedom."""
    rise: float = 0.0
    """Of the mean of logit(phi) per e-fold of tokens per parameter: of few tokens most is still to be learnt."""
    exponent: tuple[float, float]
    """Mean and standard deviation of ln beta."""
    drift: float
    """Standard deviation by which a curve leaves the form, in ln L per e-fold of tokens from the largest budget."""


TEXT = CurvePrior(floor=(1.5, 1.2), rise=0.5, exponent=(math.log(0.3), 0.6), drift=0.015)
TAUGHT = CurvePrior(floor=(0.0, 0.01), exponent=(math.log(0.7), 0.8), drift=0.006)
MANY = 20.0
NOISE = 0.003
"""Standard deviation of ln L of one run, as is assumed of seeds (planning/gains.py)."""
PAST = 0.5
"""Of the drift: what counts against budgets below the largest; floor and exponent follow the past, not what comes."""
SHORT = 5e5
"""Tokens: a curve that ends there drifts twice as much from there on, an earlier one up to three times. The first
hundred thousands of tokens are no power law yet: losses fall faster after them than before (open study: by 6 to 9 %
an e-fold up to 410k tokens, by 10 to 11 % up to 820k)."""
_PHI = np.linspace(0.02, 0.99, 40)[:, None]
_BETA = np.geomspace(0.03, 3.0, 44)


class Drawn(NamedTuple):
    """A curve at a budget beyond its runs."""

    loss: float
    """nats/token."""
    sd: float
    """Standard deviation of what the runs leave open of the curve, nats/token; noise of the run itself is not in it."""
    slopes: tuple[float, ...]
    """d loss / d loss of each run."""
    floor: float
    """What the loss is taken to approach, posterior mean, nats/token."""


def draw_on(
    budgets: Sequence[float], losses: Sequence[float], tokens: float, *, params: float, teacher_loss: float | None
) -> Drawn:
    """The loss at more tokens than any run had.

    Args:
        budgets: tokens of each run, ascending, shape (K,).
        losses: nats/token, shape (K,).
        tokens: asked about.
        params: the student's.
        teacher_loss: nats/token; None of a student that learns from text, or from text as well.
    """
    ends, step = len(losses), 1e-4
    x, ahead = np.log(np.asarray(budgets) / budgets[-1]), math.log(tokens / budgets[-1])
    y = np.log(np.asarray(losses)) + step * np.vstack([np.zeros(ends), np.eye(ends), -np.eye(ends)])
    mean, sd, floor = _posterior(x, y, ahead, budgets[-1], budgets[-1] / params, teacher_loss)
    loss = math.exp(mean[0])
    slopes = (mean[1 : ends + 1] - mean[ends + 1 :]) / (2 * step) * loss / np.asarray(losses)
    return Drawn(loss, sd * loss, tuple(slopes.tolist()), floor)


def _posterior(
    x: Array, y: Array, ahead: float, longest: float, per_param: float, teacher_loss: float | None
) -> tuple[Array, float, float]:
    """Means of ln L for every row of y (ln of the losses, shape (B, K)), and sd and floor for the first."""
    prior = TEXT if teacher_loss is None else TAUGHT
    weight = 1 / (NOISE**2 + (PAST * prior.drift * x) ** 2)
    apart = y[:, None, None, :] - _shape(x)  # (B, phi, beta, K)
    level = apart @ (weight / weight.sum())
    fit = -0.5 * ((apart - level[..., None]) ** 2 @ weight)
    fit = fit + _log_prior(prior, y[:, -1], per_param, teacher_loss)
    p = np.exp(fit - fit.max(axis=(1, 2), keepdims=True))
    p /= p.sum(axis=(1, 2), keepdims=True)
    at = level + _shape(np.array([ahead]))[..., 0]
    mean = (p * at).sum(axis=(1, 2))
    drift = prior.drift * (1 + min(SHORT / longest, 2.0)) * ahead
    variance = float((p[0] * (at[0] - mean[0]) ** 2).sum()) + drift**2
    return mean, math.sqrt(variance), float((p[0] * _PHI * np.exp(level[0])).sum())


def _shape(x: Array) -> Array:
    """ln (L / L_k) at ln(D / D_k) = x, shape (phi, beta, len(x))."""
    return np.log(_PHI[..., None] + (1 - _PHI[..., None]) * np.exp(-_BETA[:, None] * x))


def _log_prior(prior: CurvePrior, last: Array, per_param: float, teacher_loss: float | None) -> Array:
    """Up to a constant, shape (B, phi, beta)."""
    mean, sd = prior.floor
    if teacher_loss is None:
        z = (np.log(_PHI / (1 - _PHI)) - mean - prior.rise * math.log(per_param / MANY)) / sd
        floor = -0.5 * z**2 - np.log(_PHI * (1 - _PHI))
        floor = np.broadcast_to(floor, (len(last), *floor.shape))
    else:
        z = (np.log(_PHI / teacher_loss) + last[:, None, None] - mean) / sd
        floor = -2 * np.log1p(z**2 / 3)
    middle, width = prior.exponent
    return floor - 0.5 * ((np.log(_BETA) - middle) / width) ** 2


STEEPNESS = {"alone": 0.15, "taught": 0.02}
"""c where no run shows it, nats per squared octave. Alone 0.03 to 0.05 at the budgets of searches, 0.09 and 0.10 at
four times them (open and pocket study); with the drift above 0.15 makes what lone students lost at 6 to 16 times the
budget of their search, 0.08, 0.31, 0.38 and 0.67 nats, one standard deviation (rms). Distilled 0.06, beyond 0.016."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUncertainty:
    """What is not known of the rate of one arm."""

    params: int
    rates: Mapping[int, float]
    """log2 of the arm's own rate by budget."""
    brackets: Sequence[tuple[Optimum, float]]
    """Where rates on both sides were tried: the best one, and c."""
    kind: str
    """`alone` or `taught`."""
    curves: Mapping[int, Sequence[tuple[Sequence[float], Sequence[float]]]]
    """Budget -> (log2 of the rates, losses) of runs of the arm's own size that differ in the rate alone."""

    @property
    def is_checked(self) -> bool:
        """Whether rates on both sides were tried at any budget."""
        return bool(self.brackets)

    @property
    def checked(self) -> float:
        """Largest budget at which they were; else the arm's smallest."""
        return max((one.tokens for one, _ in self.brackets), default=float(min(self.rates)))

    def reaches(self, tokens: float) -> bool:
        """Whether the rate was checked at less than a doubling from this budget."""
        return self.is_checked and tokens < 2 * self.checked

    def at(self, tokens: float) -> float:
        """Root mean square of what the rate may cost at a budget, nats/token."""
        m, v = self.octaves(tokens)
        foreseen = self.steepness(tokens) * math.sqrt(m**4 + 6 * m**2 * v + 3 * v**2)
        tried = self.curves.get(int(tokens), ())
        return min([foreseen, *(excess(octaves, losses, self._own(tokens)) for octaves, losses in tried)])

    def steepness(self, tokens: float) -> float:
        """Root mean square of c: as measured at the largest budget checked, beyond it no less than usual."""
        found, usual = [c for one, c in self.brackets if one.tokens == self.checked], STEEPNESS[self.kind]
        if not found:
            return usual
        mean = float(np.mean(found))
        return mean if self.reaches(tokens) else max(mean, usual)

    def octaves(self, tokens: float) -> tuple[float, float]:
        """Mean and variance of the octaves from the best rate up to the arm's own."""
        searched = min(self.rates)
        start = Optimum(params=self.params, tokens=searched, octaves=self.rates[searched], sd=LATTICE)
        found = [one for one, _ in self.brackets] or [start]
        arm = "taught" if self.kind == "taught" else "text"
        mean, sd = fit_rate_law(found, arm=arm, params=self.params, tokens=tokens).octaves(self.params, tokens)
        return self._own(tokens) - mean, sd**2

    def _own(self, tokens: float) -> float:
        """log2 of the arm's rate at a budget, on the straight line of the two nearest where it was not run."""
        budgets = sorted(self.rates)
        if len(budgets) == 1 or tokens in self.rates:
            return self.rates.get(int(tokens), self.rates[budgets[-1]])
        high = min(max(int(np.searchsorted(budgets, tokens)), 1), len(budgets) - 1)
        low, up = budgets[high - 1], budgets[high]
        share = math.log(tokens / low) / math.log(up / low)
        return (1 - share) * self.rates[low] + share * self.rates[up]


def rate_uncertainty(
    record: StudyRecord, budgets: Mapping[int, Mapping[int, Run]], *, has_teacher: bool
) -> RateUncertainty | None:
    """What is not known of the rates of an arm; None where its runs do not say their rates.

    Args:
        record: all runs, those of searches and controls included.
        budgets: the arm's own runs: tokens -> seed -> run.
        has_teacher: whether it has a teacher; students of any teacher then speak for it.
    """
    own = [run for seeds in budgets.values() for run in seeds.values()]
    if not all(run.branch_lr > 0 for run in own):
        return None
    kind, found = "taught" if has_teacher else "alone", _curves(record, has_teacher=has_teacher)
    curves: dict[int, list[tuple[list[float], list[float]]]] = {}
    for runs in found:
        if runs[0].params == own[0].params:
            curve = [math.log2(run.branch_lr) for run in runs], [run.loss for run in runs]
            curves.setdefault(int(runs[0].tokens), []).append(curve)
    return RateUncertainty(
        params=own[0].params,
        kind=kind,
        rates={tokens: math.log2(seeds[min(seeds)].branch_lr) for tokens, seeds in budgets.items()},
        brackets=[b for runs in found if (b := _bracket(runs)) is not None],
        curves=curves,
    )


def _curves(record: StudyRecord, *, has_teacher: bool) -> list[list[Run]]:
    """Runs that differ in nothing but their rate, one of the grid among them, one seed each."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    grid, arms = {run.run_id for run in record.students}, {run.arm for run in record.students}
    for run in record.runs:
        if run.row.get("role") != "student" or run.arm not in arms:
            continue
        if bool(run.teacher_run) == has_teacher and run.branch_lr > 0:
            key = run.params, run.tokens, run.teacher_run, run.start_run, run.seed, *run.recipe
            groups.setdefault(key, []).append(run)
    return [runs for runs in groups.values() if any(run.run_id in grid for run in runs)]


def _bracket(runs: Sequence[Run]) -> tuple[Optimum, float] | None:
    """The best rate and c; None unless rates on both sides were tried."""
    found = lowest([math.log2(run.branch_lr) for run in runs], [run.loss for run in runs])
    if found is None:
        return None
    one = Optimum(params=runs[0].params, tokens=runs[0].tokens, octaves=found.octaves, sd=found.sd)
    return one, found.steepness


NO_TEACHER = "no teacher"
REACH = 10.0
"""How far beyond its largest budget an arm is extrapolated: as far as curves were tried (docs/verdict.md)."""


@dataclass(frozen=True, kw_only=True)
class MeasuredArm:
    """One student size with one teacher or none: its runs by token budget and seed."""

    name: str
    teacher: Run | None
    runs: Mapping[int, Mapping[int, Run]]
    """tokens -> seed -> run."""
    rate: RateUncertainty | None = None
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

    @property
    def teacher_loss(self) -> float | None:
        """What its students approach with tokens, nats/token; None without a teacher, or where text teaches too."""
        run = self._any()
        if self.teacher is None or run.row.get("lambda", 1.0) != 1.0:
            return None
        return run.number("teacher_loss")

    @cached_property
    def floor(self) -> float:
        """What the curve is taken to approach, nats/token; of the first seed."""
        curve = {b: runs[min(runs)].loss for b, runs in self.runs.items()}
        return self.draw_on(list(curve), list(curve.values()), max(curve)).floor

    def draw_on(self, budgets: Sequence[float], losses: Sequence[float], tokens: float) -> Drawn:
        """The arm's curve through losses at its budgets (ascending), at the largest of them or beyond."""
        params = self._any().params
        return draw_on(budgets, losses, tokens, params=params, teacher_loss=self.teacher_loss)

    def _any(self) -> Run:
        return next(iter(self.runs[max(self.runs)].values()))

    def at(self, tokens: float) -> "ArmPoint | None":
        """The arm at a token budget: measured, interpolated, extrapolated up to `REACH`, or None."""
        for budget, seeds in self.runs.items():
            if is_near(budget, tokens, within=0.01):
                return ArmPoint(arm=self, tokens=float(budget), ends={budget: seeds})
        budgets = sorted(self.runs)
        if len(budgets) < 2 or not budgets[0] < tokens <= REACH * budgets[-1]:
            return None
        high = next((i for i, b in enumerate(budgets) if b > tokens), len(budgets) - 1)
        near = budgets[high - 1 : high + 1]
        common = set.intersection(*(set(self.runs[b]) for b in near))
        if not common:
            return None
        if tokens > budgets[-1]:  # the whole curve, as far as these seeds ran it
            near = [b for b in budgets if common <= self.runs[b].keys()]
        return ArmPoint(arm=self, tokens=tokens, ends={b: {s: self.runs[b][s] for s in sorted(common)} for b in near})


@dataclass(frozen=True, kw_only=True)
class ArmPoint:
    """An arm at one token budget."""

    arm: MeasuredArm
    tokens: float
    ends: Mapping[int, Mapping[int, Run]]
    """The budgets that speak for it, ascending, with the same seeds: itself where it was run, its two neighbours, or
    all below it."""

    @property
    def seeds(self) -> frozenset[int]:
        """Seeds known at this point."""
        return frozenset(next(iter(self.ends.values())))

    @property
    def basis(self) -> str:
        """`measured`, `interpolated` or `extrapolated`."""
        if len(self.ends) == 1:
            return "measured"
        return "interpolated" if self.tokens < max(self.ends) else "extrapolated"

    def loss(self, seed: int) -> float:
        """Loss of one seed, nats/token; at a budget that was run, the measured one to the last digit."""
        return self._drawn[seed].loss

    @cached_property
    def _drawn(self) -> dict[int, Drawn]:
        """Loss, doubt, and slope in the loss of each end, by seed."""
        return {seed: self._draw([runs[seed].loss for runs in self.ends.values()]) for seed in self.seeds}

    def _draw(self, losses: list[float]) -> Drawn:
        if len(losses) == 1:
            return Drawn(losses[0], 0.0, (1.0,), 0.0)
        budgets = list(self.ends)
        if self.basis == "extrapolated":
            return self.arm.draw_on(budgets, losses, self.tokens)
        floor = min(self.arm.floor, 0.99 * min(losses))
        share = math.log(self.tokens / budgets[0]) / math.log(budgets[1] / budgets[0])
        weights = (1 - share, share)
        above = math.exp(sum(w * math.log(loss - floor) for w, loss in zip(weights, losses, strict=True)))
        straight = sum(w * loss for w, loss in zip(weights, losses, strict=True))
        slopes = tuple(w * above / (loss - floor) for w, loss in zip(weights, losses, strict=True))
        return Drawn(floor + above, abs(straight - floor - above), slopes, floor)

    @property
    def seed_factor(self) -> float:
        """What the curve makes of one run's seed variance: the sum of squared slopes in its ends, never below 1."""
        return max(1.0, sum(slope**2 for slope in self._drawn[min(self.seeds)].slopes))

    def sums(self, seed: int) -> Array | None:
        """Loss sums by document of one seed, nats; their total is `loss` exactly. None where not kept."""
        drawn, runs = self._drawn[seed], [runs[seed] for runs in self.ends.values()]
        # to first order an end's documents enter with d loss / d end; what is left falls on every token alike
        rest = drawn.loss - sum(slope * run.loss for slope, run in zip(drawn.slopes, runs, strict=True))
        total = np.float64(0)
        for slope, run in zip(drawn.slopes, runs, strict=True):
            scores = run.scores
            if scores is None:
                return None
            total = total + slope * scores.loss_sum + rest / len(runs) * scores.tokens
        return np.asarray(total)

    @property
    def sd(self) -> float:
        """Standard deviation of what is not known of the curve and the rate, nats."""
        return math.hypot(self.curve_sd, self.rate_sd)

    @property
    def rate_sd(self) -> float:
        """What the rate may cost, nats (root mean square); 0 where it is not known."""
        return 0.0 if self.arm.rate is None else self.arm.rate.at(self.tokens)

    @property
    def curve_sd(self) -> float:
        """Standard deviation of what lies between or beyond the budgets that were run, nats.

        Between them, the distance of the curve from a straight line; beyond them, the posterior's (`draw_on`).
        """
        return self._drawn[min(self.seeds)].sd

    @property
    def mean_loss(self) -> float:
        """Mean over seeds, nats/token."""
        return float(np.mean([self.loss(seed) for seed in sorted(self.seeds)]))

    @property
    def run_ids(self) -> list[str]:
        """The runs behind this point."""
        return sorted(run.run_id for runs in self.ends.values() for run in runs.values())


def student_arms(record: StudyRecord, student_params: float) -> list[MeasuredArm]:
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
        MeasuredArm(
            name=teacher_name(record, t) if t else NO_TEACHER,
            teacher=_teacher(record, t, found[t]),
            runs={budget: dict(sorted(found[t][budget].items())) for budget in sorted(found[t])},
            rate=rate_uncertainty(record, found[t], has_teacher=bool(t)),
        )
        for t in order
    ]


class RateDoubt(NamedTuple):
    """What the runs behind a law may have lost to their learning rates, nats (root mean square)."""

    alone: float = 0.0
    taught: float = 0.0
    checked: float | None = None
    """Largest budget at which the less checked arm's rate was; None: near enough, or no run says its rate."""

    @property
    def sd(self) -> float:
        """Of a gain."""
        return math.hypot(self.alone, self.taught)


@lru_cache(maxsize=512)
def rate_doubt(record: StudyRecord, student_params: float, tokens: float) -> RateDoubt:
    """Of the students of the nearest size, at the nearest budget they were run on: a law goes on from there.

    A law is as good as its runs: of students whose rate suits their shortest budget alone it learns what that cost.
    """
    size = min(record.students_by_size, key=lambda n: abs(math.log(n / student_params)), default=None)
    doubts: dict[bool, list[tuple[float, float | None]]] = {False: [(0.0, None)], True: [(0.0, None)]}
    for arm in _arms_of(record, size) if size else ():
        if arm.rate is not None:
            budget = float(np.clip(tokens, min(arm.runs), max(arm.runs)))
            checked = None if arm.rate.reaches(budget) else arm.rate.checked
            doubts[arm.teacher is not None].append((arm.rate.at(budget), checked))
    alone, taught = max(doubts[False]), max(doubts[True])
    return RateDoubt(alone[0], taught[0], min((c for _, c in (alone, taught) if c is not None), default=None))


@lru_cache(maxsize=32)
def _arms_of(record: StudyRecord, size: int) -> tuple[MeasuredArm, ...]:
    return tuple(student_arms(record, size))


def _teacher(record: StudyRecord, teacher_run: str, budgets: Mapping[int, Mapping[int, Run]]) -> Run | None:
    """The teacher's own run; where it is not in the study, what the student's row says of it."""
    if not teacher_run:
        return None
    if teacher_run in record.teachers:
        return record.teachers[teacher_run]
    row = next(iter(next(iter(budgets.values())).values())).row
    known = {"params": row.get("teacher_params"), "tokens": row.get("teacher_tokens"), "loss": row.get("teacher_loss")}
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
    return f"{run.label} teacher" if len(same) == 1 else f"{run.label} teacher ({budget_text(run.tokens)} tokens)"
