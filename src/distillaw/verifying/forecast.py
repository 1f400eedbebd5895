"""What each forecaster says of design points that nobody has run: laws by themselves, and `plan` with all it knows.

Intervals are of a single new run: `FitResult.predict` has parameters, misfit and noise; the gains of `plan` have the
doubt of their sources, to which the seed noise of the two runs is added here. Losses by law, gains and choices by plan.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist

import numpy as np

from distillaw.errors import DistillawError
from distillaw.fitting.query import predict_student
from distillaw.fitting.result import FitResult
from distillaw.laws.base import Box
from distillaw.laws.published import PublishedLaw
from distillaw.planning.api import plan
from distillaw.planning.evidence import Evidence
from distillaw.planning.measured import study_seed_noise
from distillaw.planning.paired import study_teacher
from distillaw.planning.situation import Teacher
from distillaw.planning.verdict import Verdict
from distillaw.planning.voices import efolds_outside
from distillaw.runs.record import StudyRecord
from distillaw.verifying.frozen import FrozenChoice, FrozenPrediction, PredictedPoint

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Levels at which every interval is frozen, for the calibration."""
CONSENSUS = "consensus"
_NAMES = {"measured": "paired runs", "fitted": "laws of the study"}
"""Kinds of evidence that are scored by themselves besides the consensus, and what they are called."""
_SEED = 7
"""Of the draws: any number, but the same one, so that the same evidence freezes the same file."""


def law_losses(
    name: str, law: FitResult | PublishedLaw, points: Sequence[PredictedPoint], levels: Sequence[float]
) -> tuple[list[FrozenPrediction], str]:
    """The losses that a law predicts for the design points it is made for, or why there are none.

    A fitted supervised law speaks of design points without a teacher, a fitted distillation law of those with one, a
    published one of both as far as it has both halves.
    """
    if isinstance(law, FitResult):
        if not law.is_usable or law.curve is None:
            return [], f"{law.status.name}: {law.remedy or law.status.value}"
        if law.curve.form in ("capacity-gap", "pruned"):
            return [], f"a {law.curve.form} law says nothing of the losses of random starts"
        points = [point for point in points if point.is_distilled == law.curve.is_student]
    found = []
    for point in points:
        try:
            found.append(_law_loss(name, law, point, levels))
        except DistillawError as error:
            return [], str(error)
    return found, "" if found else "none of the cells is of its kind"


def _law_loss(
    name: str, law: FitResult | PublishedLaw, point: PredictedPoint, levels: Sequence[float]
) -> FrozenPrediction:
    asked = {"student_params": point.params, "student_tokens": point.tokens, "teacher_loss": point.teacher_loss}
    answers = {level: predict_student(name, law, **asked, level=level) for level in levels}  # type: ignore[arg-type]
    first = next(iter(answers.values()))
    intervals = {level: tuple(a["interval"]) for level, a in answers.items() if a["interval"] is not None}  # type: ignore[arg-type]
    return FrozenPrediction(
        by=name,
        quantity="loss",
        point=point,
        mean=float(first["student_loss"]),  # type: ignore[arg-type]
        intervals=intervals,  # type: ignore[arg-type]
        inside_range=bool(first["inside_range"]),
        efolds_outside=efolds_outside(law_range(law, point), _coords(point)),
    )


def law_range(law: FitResult | PublishedLaw, point: PredictedPoint) -> Box:
    """The box of the runs behind the half of a law that speaks of this design point, in a student's coordinates."""
    if isinstance(law, FitResult):
        box = law.fitted_range
    else:
        half = law.distillation if point.is_distilled else law.supervised
        box = Box() if half is None else half.range
    names = {"params": "student_params", "tokens": "student_tokens"}
    return Box.of({names.get(name, name): (low, high) for name, low, high in box.bounds})


def _coords(point: PredictedPoint) -> dict[str, list[float]]:
    known = {"student_params": [point.params], "student_tokens": [point.tokens]}
    return known | ({} if point.teacher_loss is None else {"teacher_loss": [point.teacher_loss]})


def plan_forecasts(
    record: StudyRecord, points: Sequence[PredictedPoint], levels: Sequence[float]
) -> tuple[list[FrozenPrediction], list[FrozenChoice], dict[str, str]]:
    """Gains, best teachers and losses as `plan` sees them; the first level is that of the losses.

    Returns:
        Predictions, choices, and by student why there are none.
    """
    predictions: list[FrozenPrediction] = []
    choices: list[FrozenChoice] = []
    silent: dict[str, str] = {}
    for group in _students(points):
        distilled = [point for point in group if point.is_distilled and point.teacher]
        if not distilled:
            continue
        name = f"{CONSENSUS} at {group[0].params:.6g} parameters, {group[0].tokens:.6g} tokens"
        try:
            verdict = plan(
                group[0].params,
                student_tokens=group[0].tokens,
                study=record,
                level=levels[0],
                teachers=[
                    study_teacher(record, point.teacher)
                    if point.teacher in record.teachers
                    else Teacher(name=point.teacher, loss=point.teacher_loss, run_id=point.teacher)
                    for point in distilled
                ],
                with_flips=False,
            )
        except DistillawError as error:
            silent[name] = str(error)
            continue
        size = verdict.situation.student_params
        if size is None or not PredictedPoint(params=size, tokens=group[0].tokens).is_same(group[0].supervised):
            silent[name] = f"plan takes {size:.6g} parameters for the same size; ask it for other sizes"
        elif not verdict.headline.is_decisive:
            silent[name] = f"no source may decide there: {verdict.headline.status}: {verdict.headline.note}"
        else:
            found = _Plan(record, verdict, group, levels)
            predictions += [*found.losses(), *found.gains()]
            choices += found.choices()
    return predictions, choices, silent


def _students(points: Sequence[PredictedPoint]) -> list[list[PredictedPoint]]:
    """Design points by student size and tokens."""
    groups: list[list[PredictedPoint]] = []
    for point in points:
        for group in groups:
            if group[0].supervised.is_same(point.supervised):
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


class _Plan:
    """One verdict of `plan`, read as forecasts of single runs."""

    def __init__(
        self, record: StudyRecord, verdict: Verdict, group: Sequence[PredictedPoint], levels: Sequence[float]
    ) -> None:
        self._verdict, self._levels = verdict, levels
        self._cells = {point.teacher: point for point in group}
        first = group[0]
        assert verdict.headline.pretrain is not None
        noise = study_seed_noise(
            record, student_params=first.params, tokens=first.tokens, loss=verdict.headline.pretrain.loss.mean
        )
        self._seed_sd = noise.sd
        runs = record.students
        coords = {"student_params": [r.params for r in runs], "student_tokens": [r.tokens for r in runs]}
        self._range = Box.of({name: (float(min(v)), float(max(v))) for name, v in coords.items() if v})

    def losses(self) -> Iterator[FrozenPrediction]:
        """Of the consensus, at the first level: its interval widened by the seed noise of one run."""
        level = self._levels[0]
        spread = NormalDist().inv_cdf(0.5 + level / 2) * self._seed_sd
        for row in self._verdict.strategies:
            point = self._cells.get((row.teacher.run_id or "") if row.teacher else "")
            if point is None or row.kind not in ("pretrain", "distil"):
                continue
            mean, low, high = row.loss.mean, row.loss.lower, row.loss.upper
            ends = (mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread))
            yield self._prediction(CONSENSUS, "loss", point, mean, {level: ends})

    def gains(self) -> Iterator[FrozenPrediction]:
        """Of the consensus and of the sources behind it."""
        for name, points, draws in self._sources():
            for j, point in enumerate(points):
                own = draws[:, j]
                tails = {level: 50 * (1 - level) for level in self._levels}
                ends = {level: np.percentile(own, [tail, 100 - tail]).tolist() for level, tail in tails.items()}
                intervals = {level: (low, high) for level, (low, high) in ends.items()}
                positive = (np.count_nonzero(own > 0) + 0.5) / (len(own) + 1)
                yield self._prediction(name, "gain", point, float(own.mean()), intervals, float(positive))

    def choices(self) -> Iterator[FrozenChoice]:
        """The best of two or more teachers."""
        for name, points, draws in self._sources():
            if len(points) > 1:
                share = np.bincount(draws.argmax(1), minlength=len(points)) / len(draws)
                yield FrozenChoice(by=name, points=points, probabilities=[float(p) for p in share])

    def _sources(self) -> Iterator[tuple[str, list[PredictedPoint], np.ndarray]]:
        """Name, design points, and draws of the measured gain of one pair of runs, shape (R, design points)."""
        yield (CONSENSUS, *self._drawn(self._verdict.headline))
        for evidence in self._verdict.evidence:
            if evidence.kind in _NAMES and evidence.is_informative:
                yield (_NAMES[evidence.kind], *self._drawn(evidence))

    def _drawn(self, evidence: Evidence) -> tuple[list[PredictedPoint], np.ndarray]:
        assert evidence.posterior is not None
        own = [
            (j, self._cells[row.teacher.run_id])
            for j, row in enumerate(evidence.alternatives)
            if row.kind == "distil" and row.teacher is not None and row.teacher.run_id in self._cells
        ]
        draws = evidence.posterior.draws[:, [j for j, _ in own]]
        rng = np.random.default_rng(_SEED)  # the run without a teacher is one for all of them
        noise = rng.normal(size=(len(draws), 1)) - rng.normal(size=draws.shape)
        return [point for _, point in own], draws + self._seed_sd * noise

    def _prediction(
        self,
        by: str,
        quantity: str,
        point: PredictedPoint,
        mean: float,
        intervals: Mapping[float, tuple[float, float]],
        probability: float | None = None,
    ) -> FrozenPrediction:
        outside = efolds_outside(self._range, _coords(point))
        return FrozenPrediction(
            by=by,
            quantity=quantity,
            point=point,
            mean=mean,
            intervals=intervals,
            inside_range=not outside,
            efolds_outside=outside,
            probability_positive=probability,
        )
