"""`distillaw study next --predict`: from runs (or a law, or a guess) and a target to the runs worth making next.

The design itself is `design.py`; here a source becomes a belief with candidate runs: a table is fitted, a fit is
taken as it is, and where the runs do not carry a law a published one is the guess, informed by the runs so far.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError, FitError, UnitError
from distillaw.fitting.api import fit
from distillaw.fitting.design import Design, candidate_grid, propose
from distillaw.fitting.observations import Observations, observe
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.fitting.uncertainty import DesignPoints, LinearBelief, guessed_belief, guessed_curve, scaled_to
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.runs.table import naming, read_table

NOISE = 0.003
"""Spread of one run in ln L that a guess assumes: 0.3 % of the loss."""
MOST_TEACHERS = 6
"""Teachers offered to a design at most: the best, the worst and evenly between; a sixth tells two breaks apart."""
_RATIOS = (0.7, 0.8, 0.9, 1.0)
"""Teacher's loss over the student's own, where no teacher is known: the range that shows c0, kappa and f1."""


def next_runs(
    source: FitResult | Mapping[str, ArrayLike] | str | Path,
    *,
    target: Mapping[str, ArrayLike],
    budget: float,
    against: Mapping[str, ArrayLike] | None = None,
    candidates: Mapping[str, ArrayLike] | None = None,
    guess: str | None = None,
    noise: float = NOISE,
    family: str | None = None,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    where: Mapping[str, str] | None = None,
    unit: str | None = None,
    params_convention: str | None = None,
    bootstrap: int = 400,
    level: float | None = None,
    most: int = 40,
) -> Design:
    """The runs that shrink a target's uncertainty most per FLOP, and what each budget is expected to buy.

    Args:
        source: runs (columns in memory, a CSV, Parquet or JSON lines file, a study folder), a fitted law (a
            FitResult or its JSON file), or the name of a published law as a guess without runs.
        target: params, tokens and, for a distilled student, teacher_loss (and teacher_params) of the prediction.
        budget: FLOP, or the unit of the candidates' own cost.
        against: another allocation, with a teacher where the target has one: what shrinks is the difference.
        candidates: runs that could be made (`design.propose`); by default sizes and tokens in factors of two
            from the smallest run to the target, with every teacher of the runs.
        guess: published law to design from where the runs do not carry a law.
        noise: spread of one run's ln loss that the guess assumes.
        family: law to fit to a table; by default supervised, or distillation-reduced for a distilled target.
        columns: as in `fit`, like the next five.
        group: column that names the independent run.
        where: {column: value}, to learn from some rows only.
        unit: of the losses.
        params_convention: of the params column and of the target.
        bootstrap: replicates of the fit.
        level: coverage of the interval; None: that of the fitted law, 0.9 where there is none.
        most: runs proposed at most.

    Raises:
        FitError: the runs carry no law, and no guess was given.
        ConfigError: the question is incomplete, or the budget buys nothing.
        DataError: the table cannot be used, or a law's file is not there.
        UnitError: the law counts other parameters than the question.
    """
    guessed = None if guess is None else load_law(guess)
    if isinstance(guessed, FitResult):
        raise ConfigError(f"guess: {guess!r} is a fitted law; give that file as the source instead")
    points = [DesignPoints.of(target, what="target")]
    points += [] if against is None else [DesignPoints.of(against, what="against")]
    taught = any(each.taught.any() for each in points)
    law = rows = None
    if isinstance(source, str) and source in laws_available():
        guessed = published(source)
    elif isinstance(source, FitResult) or (isinstance(source, str | Path) and Path(source).suffix == ".json"):
        law = source if isinstance(source, FitResult) else FitResult.load(source)
        _refuse_mixed(law, params_convention or "non-embedding")
    else:
        table = read_table(source) if isinstance(source, str | Path) else source
        options = {"columns": columns, "group": group, "unit": unit, "params_convention": params_convention}
        with naming(source):
            rows = observe(table, where=where, **options)
        family = family or ("distillation-reduced" if taught else "supervised")
        law = fit(table, family=family, bootstrap=bootstrap, level=level or 0.9, where=where, **options)
        if not law.is_usable and guessed is None:
            raise FitError(
                f"next runs: {law.family} is {law.status.name}. {law.remedy} To design from a published law and the "
                f"runs so far, add --guess NAME, e.g. --guess surrogate-s2 (`distillaw laws` lists them)"
            )
    teachers: Teachers = [] if rows is None else _teachers(rows)
    if law is not None and (rows is None or law.is_usable):
        belief, ranges = law.belief(), law.fitted_range.as_dict()
        basis = f"{law.family}: {law.status.name}, {law.nobs} rows in {law.ngroups} independent runs"
        losses = np.linspace(*ranges["teacher_loss"], MOST_TEACHERS) if "teacher_loss" in ranges else ()
        teachers = [(float(loss), None) for loss in losses] if rows is None else teachers
    else:
        assert guessed is not None
        belief, basis = _guess(guessed, rows, points[0], noise, taught)
        ranges = {} if rows is None else rows.box().as_dict()
        own = np.exp(belief.log_loss(replace(points[0], teacher_loss=np.full(len(points[0]), np.nan))))
        teachers = teachers or [(float(own.mean() * ratio), None) for ratio in _RATIOS]
    if candidates is None:
        teachers = _with(teachers, target) if taught else []
        candidates = candidate_grid(ranges, target=points, budget=budget, teachers=teachers)
    return propose(
        belief,
        target=target,
        candidates=candidates,
        budget=budget,
        against=against,
        level=level or (0.9 if law is None else law.level),
        most=most,
        basis=basis,
    )


def _refuse_mixed(law: FitResult, asked: str) -> None:
    if law.params_convention != asked:
        raise UnitError(
            f"the law counts {law.params_convention} parameters, the question {asked} ones; say "
            f"--params-convention {law.params_convention} and give such counts"
        )


def _guess(
    law: PublishedLaw, rows: Observations | None, around: DesignPoints, noise: float, taught: bool
) -> tuple[LinearBelief, str]:
    """A published law in the user's own losses, informed by the runs made, and what to call it."""
    label = f"guessed from {law.name}, noise {100 * noise:.2g} %"
    if rows is None:
        return guessed_belief(guessed_curve(law, around=around, taught=taught), noise=noise), label
    made = DesignPoints(params=rows.params, tokens=rows.tokens, teacher_loss=rows.teacher_loss)
    curve = scaled_to(guessed_curve(law, around=made, taught=taught), made, rows.loss)
    made = made if taught else made.rows(~made.taught)
    label += f", moved to the level of the runs and informed by {len(made)} of them"
    return guessed_belief(curve, noise=noise, runs=made), label


Teachers = list[tuple[float, float | None]]
"""(loss, size or None) of each."""


def _teachers(rows: Observations) -> Teachers:
    """Some teachers of the runs, from best to worst."""
    taught = np.isfinite(rows.teacher_loss)
    pairs = np.unique(np.column_stack([rows.teacher_loss, np.nan_to_num(rows.teacher_params)])[taught], axis=0)
    picked = np.unique(np.linspace(0, max(len(pairs) - 1, 0), MOST_TEACHERS).round().astype(int))
    return [(float(loss), float(size) or None) for loss, size in (pairs[picked] if len(pairs) else pairs)]


def _with(teachers: Teachers, target: Mapping[str, ArrayLike]) -> Teachers:
    """The teachers and the target's own."""
    loss, size = target.get("teacher_loss"), target.get("teacher_params")
    if loss is None or np.ndim(loss) or any(abs(known / float(loss) - 1) < 1e-9 for known, _ in teachers):  # type: ignore[arg-type]
        return teachers
    return [*teachers, (float(loss), None if size is None else float(size))]  # type: ignore[arg-type]
