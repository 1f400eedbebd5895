"""What the cells of a study say together: means, paired differences, shares of the gap, all with 95 % intervals.

Two sources of noise are added up: seeds (another start, another order) and test images (another test set); both are
paired, because cells of one seed share start and order, and all cells share the test set. The t distribution has
Satterthwaite's degrees of freedom (runs/paired.py). With several comparisons, `is_significant` is Holm's: at most 5 %
of such studies call any difference real that is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import stdtr

from distillaw.errors import DataError
from distillaw.images.ratio import share_interval
from distillaw.images.record import ImageRecord
from distillaw.images.spec import COLUMNS, STAGES
from distillaw.runs.paired import (
    DocumentScores,
    PairedDifference,
    clustered_cov,
    paired_over_seeds,
    t_quantile,
)

LEVEL = 0.95
OTHERS = (("SB", "+RA"), ("LB", "RA alone"), ("SB", "RA alone"), ("RA alone", "+RA"))
"""Comparisons besides the stages: (from, to)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnScore:
    """One column over seeds; accuracies in per cent."""

    column: str
    accuracy: tuple[float, ...]
    """By seed, of those that finished."""
    mean: float
    interval: tuple[float, float] | None
    """Seeds and test images; None for one seed."""
    seed_spread: float | None
    """Standard deviation over seeds, points."""
    train: float
    """Mean accuracy on the training images, as they are."""
    fresh: float
    """Mean test accuracy with re-estimated running statistics."""
    seconds: float
    """Mean CPU seconds of a cell."""
    paper: float | None
    closed: float | None
    """Share of the gap SB - LB."""
    closed_interval: tuple[float, float] | None
    """Fieller's; None where the gap itself is not distinct from zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much one column is above another, in points of accuracy, paired."""

    before: str
    after: str
    mean: float
    interval: tuple[float, float] | None
    se_seeds: float | None
    se_images: float
    p: float | None
    """Two-sided; None for one seed."""
    is_significant: bool
    """After Holm's correction over all comparisons of the study."""
    seeds: int
    paper: float | None
    """The paper's difference, points."""


def score_columns(record: ImageRecord, paper: Mapping[str, float]) -> list[ColumnScore]:
    """A score for each column that has a finished cell, in the paper's order.

    Args:
        record: the study.
        paper: column to the printed accuracy; empty: none.
    """
    found = {column: record.done(column) for column in COLUMNS if column in record.study.columns}
    return [_score(column, results, found, paper) for column, results in found.items() if results]


def score_gains(record: ImageRecord, paper: Mapping[str, float]) -> list[Gain]:
    """Stages first, each against the one before, then the other comparisons, as far as both sides finished."""
    stages = [column for column in STAGES if record.done(column)]
    pairs = [*pairwise(stages), *OTHERS]
    gains = [_gain(record, before, after, paper) for before, after in pairs]
    return _holm([gain for gain in gains if gain is not None])


def scores_of(result: Mapping[str, Any]) -> DocumentScores:
    """A cell's errors, test image by test image: 1 where it is wrong.

    Raises:
        DataError: the result names images that the test set does not have.
    """
    count = int(result["test_images"])
    wrong = np.array(result["wrong"], dtype=np.int64)
    if len(wrong) and not 0 <= wrong.min() <= wrong.max() < count:
        raise DataError(
            f"{result['column']} seed {result['seed']}: wrong images beyond the {count} of the test set"
        )
    errors = np.zeros(count)
    errors[wrong] = 1.0
    return DocumentScores(document=np.arange(count), tokens=np.ones(count, np.int64), loss_sum=errors)


def _score(
    column: str, results: Mapping[int, Mapping[str, Any]], found: Mapping[str, Mapping[int, Mapping[str, Any]]],
    paper: Mapping[str, float],
) -> ColumnScore:  # fmt: skip
    accuracy = tuple(float(result["accuracy"]) for result in results.values())
    perfect = [
        replace(scores_of(result), loss_sum=np.zeros(int(result["test_images"])))
        for result in results.values()
    ]
    error = paired_over_seeds(list(zip(map(scores_of, results.values()), perfect, strict=True)))
    closed, closed_interval = _closed(results, found.get("SB", {}), found.get("LB", {}))
    return ColumnScore(
        column=column, accuracy=accuracy, mean=float(np.mean(accuracy)),
        interval=_flipped(_interval(error)), seed_spread=float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
        train=_mean(results, "train_accuracy"), fresh=_mean(results, "fresh_accuracy"),
        seconds=_mean(results, "cpu_seconds"), paper=paper.get(column), closed=closed, closed_interval=closed_interval,
    )  # fmt: skip


def _mean(results: Mapping[int, Mapping[str, Any]], key: str) -> float:
    return float(np.mean([float(result[key]) for result in results.values()]))


def _interval(difference: PairedDifference) -> tuple[float, float] | None:
    """In points; None for one seed, whose training noise cannot be seen."""
    if difference.seeds < 2:
        return None
    low, high = difference.interval(LEVEL)
    return 100 * low, 100 * high


def _flipped(error: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if error is None else (100 - error[1], 100 - error[0])


def _gain(record: ImageRecord, before: str, after: str, paper: Mapping[str, float]) -> Gain | None:
    old, new = record.done(before), record.done(after)
    seeds = sorted(set(old) & set(new))
    if not seeds:
        return None
    found = paired_over_seeds([(scores_of(old[seed]), scores_of(new[seed])) for seed in seeds])
    printed = paper[after] - paper[before] if before in paper and after in paper else None
    return Gain(
        before=before, after=after, mean=100 * found.mean, interval=_interval(found),
        se_seeds=None if found.se_seeds is None else 100 * found.se_seeds, se_images=100 * found.se_documents,
        p=_p_value(found), is_significant=False, seeds=len(seeds), paper=printed,
    )  # fmt: skip


def _p_value(found: PairedDifference) -> float | None:
    if found.seeds < 2:
        return None
    if found.se == 0:
        return 1.0 if found.mean == 0 else 0.0
    return 2 * float(stdtr(found.dof, -abs(found.mean) / found.se))


def _holm(gains: Sequence[Gain]) -> list[Gain]:
    """Holm 1979: from the smallest p up, each against 5 % over the number still standing, until one fails."""
    tested = sorted((g.p, i) for i, g in enumerate(gains) if g.p is not None)
    significant = set()
    for rank, (p, place) in enumerate(tested):
        if p > (1 - LEVEL) / (len(tested) - rank):
            break
        significant.add(place)
    return [replace(gain, is_significant=i in significant) for i, gain in enumerate(gains)]


def _closed(
    own: Mapping[int, Mapping[str, Any]],
    small: Mapping[int, Mapping[str, Any]],
    large: Mapping[int, Mapping[str, Any]],
) -> tuple[float | None, tuple[float, float] | None]:
    """(column - LB) / (SB - LB) with its interval."""
    seeds = sorted(set(own) & set(small) & set(large))
    if not seeds or own is small or own is large:
        return None, None
    scores = [[scores_of(side[seed]) for side in (large, own, small)] for seed in seeds]
    parts = np.array([[lb.loss_sum - x.loss_sum, lb.loss_sum - sb.loss_sum] for lb, x, sb in scores])
    per_seed = parts.mean(2)  # of (seeds, 2, images)
    top, bottom = per_seed.mean(0)
    if bottom == 0:
        return None, None
    if len(seeds) < 2:
        return float(top / bottom), None
    tokens = np.ones(parts.shape[2], np.int64)
    cov = np.cov(per_seed.T) / len(seeds) + clustered_cov(parts.mean(0).T, tokens)
    # degrees of freedom of the gap, so that a share has an end exactly where the gap's own interval leaves out zero
    dof = paired_over_seeds([(lb, sb) for lb, _, sb in scores]).dof
    t = t_quantile(0.5 + LEVEL / 2, dof)
    return float(top / bottom), share_interval(float(top), float(bottom), cov, t)
