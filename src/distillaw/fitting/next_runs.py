"""`distillaw study next --predict`: from runs (or a law, or a guess) and a target to the runs worth making next.

The design itself is `design.py`; here a source becomes a belief with candidate runs: a table is fitted, a fit is
taken as it is, and where the runs do not carry a law a published one is the guess, informed by the runs so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError, FitError, UnitError
from distillaw.fitting.api import fit
from distillaw.fitting.design import BUDGETS, Design, propose
from distillaw.fitting.guess import guessed_curve, scaled_to
from distillaw.fitting.problem import Observations, observe
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.fitting.selection import observe_where
from distillaw.fitting.uncertainty import Belief, Cells, fitted_belief, guessed_belief
from distillaw.laws.base import Array
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.runs.table import naming, read_table

NOISE = 0.003
"""Spread of one run in ln L that a guess assumes: 0.3 % of the loss."""
_MOST = BUDGETS[-1]
_TEACHERS = 6
"""Teachers offered at most: the best, the worst and evenly between."""
_RATIOS = (0.7, 0.8, 0.9, 1.0)
"""Teacher's loss over the student's own, where no teacher is known: the range that shows c0, kappa and f1."""
Teachers = Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    """What a source amounts to."""

    belief: Belief
    label: str
    ranges: Mapping[str, tuple[float, float]]
    teachers: Teachers


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
    aim = Cells.of(target, what="target")
    points = [aim] if against is None else [aim, Cells.of(against, what="against")]
    taught = bool(np.concatenate([cells.taught for cells in points]).any())
    if isinstance(source, str) and source in laws_available():
        basis = _from_guess(published(source), None, points, noise, taught)
    elif isinstance(source, FitResult) or (isinstance(source, str | Path) and Path(source).suffix == ".json"):
        basis = _from_fit(_loaded(source), None, params_convention)
    else:
        table = read_table(source) if isinstance(source, str | Path) else source
        options = {"columns": columns, "group": group, "unit": unit, "params_convention": params_convention}
        with naming(source):
            rows = (
                observe_where(table, None, where, lambda part, _: observe(part, **options))
                if where
                else observe(table, **options)
            )
        family = family or ("distillation-reduced" if taught else "supervised")
        result = fit(table, family=family, bootstrap=bootstrap, level=level, where=where, **options)
        basis = _from_rows(result, rows, guessed, points, noise, taught)
    if candidates is None:
        arms = basis.teachers if taught else ()
        candidates = candidate_grid(basis.ranges, target=points, budget=budget, teachers=_with(arms, target))
    design = propose(basis.belief, target=target, candidates=candidates, budget=budget, against=against, level=level,
                     most=most)  # fmt: skip
    return replace(design, basis=basis.label)


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
    points: list[Cells],
    noise: float,
    taught: bool,
) -> _Basis:
    if result.is_usable:
        return _from_fit(result, rows, rows.convention)
    if guess is None:
        raise FitError(
            f"next runs: {result.family} is {result.status.name}. {result.remedy} To design from a published law and "
            f"the runs so far, add --guess NAME, e.g. --guess surrogate-s2 (`distillaw laws` lists them)"
        )
    return _from_guess(guess, rows, points, noise, taught)


def _from_fit(result: FitResult, rows: Observations | None, convention: str | None) -> _Basis:
    asked = convention or "non-embedding"
    if result.params_convention != asked:
        raise UnitError(
            f"the law counts {result.params_convention} parameters, the question {asked} ones; say "
            f"--params-convention {result.params_convention} and give such counts"
        )
    ranges = result.fitted_range.as_dict()
    losses = np.linspace(*ranges["teacher_loss"], _TEACHERS) if "teacher_loss" in ranges else []
    label = f"{result.family}: {result.status.name}, {result.nobs} rows in {result.ngroups} independent runs"
    return _Basis(
        belief=fitted_belief(result), label=label, ranges=ranges,
        teachers=[(float(loss), None) for loss in losses] if rows is None else _teachers(rows),
    )  # fmt: skip


def _from_guess(
    law: PublishedLaw, rows: Observations | None, points: list[Cells], noise: float, taught: bool
) -> _Basis:
    """A published law in the user's own losses, informed by the runs made."""
    around = points[0]
    made = None
    if rows is not None:
        made = around = Cells(params=rows.params, tokens=rows.tokens, teacher_loss=rows.teacher_loss)
    curve = guessed_curve(law, around=around, taught=taught)
    label = f"guessed from {law.name}, noise {100 * noise:.2g} %"
    if made is not None and rows is not None:
        curve = scaled_to(curve, made, rows.loss)
        usable = np.ones(len(made), dtype=bool) if taught else ~made.taught
        made = Cells(**{name: getattr(made, name)[usable] for name in Cells.__slots__})
        label += f", moved to the level of the runs and informed by {len(made)} of them"
    belief = guessed_belief(curve, noise=noise, runs=made)
    ranges = {} if rows is None else rows.box(students=False).as_dict()
    known = [] if rows is None else _teachers(rows)
    own = np.exp(belief.log_loss(replace(points[0], teacher_loss=np.full(len(points[0]), np.nan))))
    return _Basis(belief=belief, label=label, ranges=ranges,
                  teachers=known or [(float(own.mean() * ratio), None) for ratio in _RATIOS])  # fmt: skip


def _teachers(rows: Observations) -> list[tuple[float, float | None]]:
    """(loss, size) of some teachers of the runs, from best to worst."""
    taught = np.isfinite(rows.teacher_loss)
    pairs = np.unique(
        np.column_stack([rows.teacher_loss, np.nan_to_num(rows.teacher_params)])[taught], axis=0
    )
    picked = (
        pairs[np.unique(np.linspace(0, len(pairs) - 1, _TEACHERS).round().astype(int))]
        if len(pairs)
        else pairs
    )
    return [(float(loss), float(size) or None) for loss, size in picked]


def _with(teachers: Teachers, target: Mapping[str, ArrayLike]) -> Teachers:
    """The teachers and the target's own."""
    loss, size = target.get("teacher_loss"), target.get("teacher_params")
    if loss is None or np.ndim(loss) or any(abs(known / float(loss) - 1) < 1e-9 for known, _ in teachers):  # type: ignore[arg-type]
        return teachers
    return [*teachers, (float(loss), None if size is None else float(size))]  # type: ignore[arg-type]


def candidate_grid(
    fitted: Mapping[str, tuple[float, float]],
    *,
    target: Sequence[Cells],
    budget: float,
    teachers: Sequence[tuple[float, float | None]] = (),
) -> dict[str, NDArray]:
    """Runs one could make: sizes and tokens in factors of two from the smallest run to the target, all teachers.

    Args:
        fitted: range of the runs made, {coordinate: (lowest, highest)} as in `FitResult.fitted_range`.
        target: the target and the alternative.
        budget: cells above ten times it are left out.
        teachers: (loss, size or None) of each teacher; without any, runs without a teacher alone.
    """
    low, high = {}, {}
    for name in ("params", "tokens"):
        asked = np.concatenate([getattr(cells, name) for cells in target])
        made = fitted.get(f"student_{name}", fitted.get(name, (asked.min() / 64, asked.max() / 8)))
        low[name], high[name] = min(made[0], asked.min()), max(made[1], asked.max())
    ratio = fitted.get("tokens_per_param", (5.0, 100.0))
    ratios = np.concatenate([cells.tokens / cells.params for cells in target])
    N, D = (v.ravel() for v in np.meshgrid(*(_doublings(low[k], high[k]) for k in ("params", "tokens"))))
    keep = (D / N >= min(ratio[0], ratios.min()) / 2) & (D / N <= 2 * max(ratio[1], ratios.max()))
    keep &= 6 * N * D <= _MOST * budget
    if not keep.any():
        raise ConfigError(
            f"budget: {budget:.3g} FLOP buys none of the candidate runs; the cheapest costs {(6 * N * D).min():.3g}"
        )
    arms = [(np.nan, None), *teachers]
    return {
        "params": np.tile(N[keep], len(arms)), "tokens": np.tile(D[keep], len(arms)),
        "teacher_loss": np.repeat([loss for loss, _ in arms], keep.sum()),
        "teacher_params": np.repeat([np.nan if size is None else size for _, size in arms], keep.sum()),
    }  # fmt: skip


def _doublings(low: float, high: float) -> Array:
    """Factors of two from low up to high, to two digits as people write them."""
    steps = low * 2.0 ** np.arange(int(np.floor(np.log2(high / low) + 1e-9)) + 1)
    return np.unique([float(f"{value:.2g}") for value in (*steps, high)])
