"""What the study's own fitted laws say of a situation: bootstrap draws of both losses, paired by replicate."""

from collections.abc import Sequence

import numpy as np

from distillaw.errors import DataError, FitError
from distillaw.fitting.result import FitResult, Prediction
from distillaw.planning.crossover import Crossover, band_of, crossings
from distillaw.planning.evidence import Evidence, Interval, law_strategy
from distillaw.planning.gains import GainPosterior
from distillaw.planning.record import StudyRecord
from distillaw.planning.situation import Situation, Teacher

SOURCE = "laws fitted on this study"
DECISIVE = ("CONVERGED", "AT_BOUND", "SEED_NOISE_UNKNOWN")
"""Only such a fit may carry a verdict; one whose parameters the runs do not separate is shown, no more."""
Plans = Sequence[tuple[Teacher, float]]
"""Teachers with the tokens that the student can be given from each."""


def fitted_evidence(
    situation: Situation, record: StudyRecord, teachers: Sequence[Teacher], *, level: float
) -> Evidence:
    """The study's own distillation fit with the supervised fit behind it; silent unless both are usable."""
    fit = record.laws.get("distillation-reduced")
    if fit is None:
        return _silent("NOT_FITTED", record.law_errors.get("distillation-reduced", "no law was fitted"))
    if not fit.is_usable:
        return _silent(fit.status.name, fit.remedy or fit.status.value)
    if fit.params_convention != "non-embedding":
        return _silent(
            "OTHER_CONVENTION",
            f"the law counts {fit.params_convention} parameters, a plan non-embedding ones",
        )
    if fit.curve is None or fit.curve.behind is None:
        supervised = record.laws.get("supervised")
        why = supervised.remedy if supervised is not None else "fit one from more runs without a teacher"
        return _silent("NO_SUPERVISED_LAW", f"no law for training alone, so no gain: {why}")
    plans = [(t, d) for t in teachers if t.loss is not None and (d := situation.tokens_for(t)) is not None]
    own = situation.tokens_for(None)
    if not plans or own is None:
        return _silent("NO_TEACHER", "no teacher with a known loss can be paid for")
    try:
        return _from_fit(situation, fit, plans, own, level=level)
    except (FitError, DataError) as error:
        return _silent(fit.status.name, str(error))


def _from_fit(situation: Situation, fit: FitResult, plans: Plans, own: float, *, level: float) -> Evidence:
    N = situation.student_params
    coords = {
        "student_params": np.full(len(plans), N), "student_tokens": np.array([d for _, d in plans]),
        "teacher_loss": np.array([t.loss for t, _ in plans]),
    }  # fmt: skip
    distilled = fit.draws(**coords)
    alone = fit.supervised_draws(params=N, tokens=own)
    predicted = fit.predict(level=level, **coords)
    draws = alone - distilled
    posterior = GainPosterior(draws=draws, estimate=np.median(draws, 0), se=draws.std(0))
    inside = bool(np.atleast_1d(predicted.inside_range)[posterior.best])
    share = posterior.share_best()
    rows = tuple(
        law_strategy(
            situation,
            t,
            d,
            _predicted(predicted, j),
            teacher_loss=t.loss,
            gain=Interval.of(draws[:, j], level),
            share_best=float(share[j]),
        )
        for j, (t, d) in enumerate(plans)
    )
    pretrain = law_strategy(situation, None, own, Interval.of(alone[:, 0], level))
    note = f"{fit.nobs} rows in {fit.ngroups} independent runs" + ("" if inside else ", outside their range")
    best, tokens = plans[posterior.best]
    return Evidence(
        source=SOURCE, kind="fitted", status=fit.status.name, note=note,
        is_decisive=inside and fit.status.name in DECISIVE, inside_range=inside, pretrain=pretrain,
        distil=rows, posterior=posterior, noise=float(posterior.se[posterior.best]),
        warnings=() if inside else ("outside the range of the study's own fits",),
        crossover=_fit_crossover(fit, N, tokens, best.loss or 0.0, level),
    )  # fmt: skip


def _fit_crossover(fit: FitResult, N: float, tokens: float, teacher_loss: float, level: float) -> Crossover:
    grid = tokens * np.geomspace(0.1, 100, 61)
    gains = fit.supervised_draws(params=np.full(61, N), tokens=grid) - fit.draws(
        noise=False,
        student_params=np.full(61, N),
        student_tokens=grid,
        teacher_loss=np.full(61, teacher_loss),
    )
    return band_of(crossings(grid, gains), (float(grid[0]), float(grid[-1])), SOURCE, level)


def _predicted(prediction: Prediction, j: int) -> Interval:
    pick = [float(np.atleast_1d(v)[j]) for v in (prediction.mean, prediction.lower, prediction.upper)]
    return Interval(mean=pick[0], lower=pick[1], upper=pick[2])


def _silent(status: str, note: str) -> Evidence:
    return Evidence(source=SOURCE, kind="fitted", status=status, note=note)
