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
from distillaw.fitting.design import Basis, Design, targets
from distillaw.fitting.observations import Observations, observe
from distillaw.fitting.query import load_law
from distillaw.fitting.result import MOST_TEACHERS, FitResult
from distillaw.fitting.uncertainty import DesignPoints, guessed_belief, guessed_curve, scaled_to
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.runs.table import naming, read_table

NOISE = 0.003
"""Spread of one run in ln L that a guess assumes: 0.3 % of the loss."""
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
    level: float = 0.9,
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
        level: coverage of the interval.
        most: runs proposed at most.

    Raises:
        FitError: the runs carry no law, and no guess was given.
        ConfigError: the question is incomplete, or the budget buys nothing.
        DataError: the table cannot be used.
    """
    guessed = None if guess is None else _named(guess)
    points = targets(target, against)
    taught = any(each.taught.any() for each in points)
    if isinstance(source, str) and source in laws_available():
        basis = _from_guess(published(source), None, points, noise, taught)
    elif isinstance(source, FitResult) or (isinstance(source, str | Path) and Path(source).suffix == ".json"):
        basis = _from_fit(_loaded(source), None, params_convention)
    else:
        table = read_table(source) if isinstance(source, str | Path) else source
        options = {"columns": columns, "group": group, "unit": unit, "params_convention": params_convention}
        with naming(source):
            rows = observe(table, where=where, **options)
        family = family or ("distillation-reduced" if taught else "supervised")
        result = fit(table, family=family, bootstrap=bootstrap, level=level, where=where, **options)
        basis = _from_rows(result, rows, guessed, points, noise, taught)
    return basis.design(target=target, budget=budget, against=against, candidates=candidates, level=level, most=most)


def _loaded(source: FitResult | str | Path) -> FitResult:
    law = source if isinstance(source, FitResult) else load_law(str(source))
    assert isinstance(law, FitResult)  # published names do not end in .json
    return law


def _named(guess: str) -> PublishedLaw:
    law = load_law(guess)
    if isinstance(law, PublishedLaw):
        return law
    raise ConfigError(f"guess: {guess!r} is a fitted law; give that file as the source instead")


def _from_rows(
    result: FitResult,
    rows: Observations,
    guess: PublishedLaw | None,
    points: list[DesignPoints],
    noise: float,
    taught: bool,
) -> Basis:
    if result.is_usable:
        return _from_fit(result, rows, rows.convention)
    if guess is None:
        raise FitError(
            f"next runs: {result.family} is {result.status.name}. {result.remedy} To design from a published law and "
            f"the runs so far, add --guess NAME, e.g. --guess surrogate-s2 (`distillaw laws` lists them)"
        )
    return _from_guess(guess, rows, points, noise, taught)


def _from_fit(result: FitResult, rows: Observations | None, convention: str | None) -> Basis:
    asked = convention or "non-embedding"
    if result.params_convention != asked:
        raise UnitError(
            f"the law counts {result.params_convention} parameters, the question {asked} ones; say "
            f"--params-convention {result.params_convention} and give such counts"
        )
    return result.basis(None if rows is None else _teachers(rows))


def _from_guess(
    law: PublishedLaw, rows: Observations | None, points: list[DesignPoints], noise: float, taught: bool
) -> Basis:
    """A published law in the user's own losses, informed by the runs made."""
    around = points[0]
    made = None
    if rows is not None:
        made = around = DesignPoints(params=rows.params, tokens=rows.tokens, teacher_loss=rows.teacher_loss)
    curve = guessed_curve(law, around=around, taught=taught)
    label = f"guessed from {law.name}, noise {100 * noise:.2g} %"
    if made is not None and rows is not None:
        curve = scaled_to(curve, made, rows.loss)
        usable = np.ones(len(made), dtype=bool) if taught else ~made.taught
        made = made.rows(usable)
        label += f", moved to the level of the runs and informed by {len(made)} of them"
    belief = guessed_belief(curve, noise=noise, runs=made)
    ranges = {} if rows is None else rows.box(students=False).as_dict()
    known = [] if rows is None else _teachers(rows)
    own = np.exp(belief.log_loss(replace(points[0], teacher_loss=np.full(len(points[0]), np.nan))))
    teachers = known or [(float(own.mean() * ratio), None) for ratio in _RATIOS]
    return Basis(belief=belief, label=label, ranges=ranges, teachers=teachers)


def _teachers(rows: Observations) -> list[tuple[float, float | None]]:
    """(loss, size) of some teachers of the runs, from best to worst."""
    taught = np.isfinite(rows.teacher_loss)
    pairs = np.unique(np.column_stack([rows.teacher_loss, np.nan_to_num(rows.teacher_params)])[taught], axis=0)
    picked = (
        pairs[np.unique(np.linspace(0, len(pairs) - 1, MOST_TEACHERS).round().astype(int))] if len(pairs) else pairs
    )
    return [(float(loss), float(size) or None) for loss, size in picked]
