"""What the folder of a study holds, and what its cells say together, with 95 % intervals.

    large_batch.json            spec, data, machine, command, cells
    landscape.json              the test of alpha, where it was asked for
    cells/<name>/result.json    one finished cell; checkpoint.pt beside it while it runs
    report.html

Two sources of noise are added up: seeds (another start, another order) and test images (another test set); both are
paired, because cells of one seed share start and order, and all cells share the test set. The t distribution has
Satterthwaite's degrees of freedom (runs/paired.py). With several comparisons, `is_significant` is Holm's: at most 5 %
of such studies call any difference real that is none. Needs no torch: the report reads this.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr

from distillaw.errors import CacheError, DataError
from distillaw.large_batch.diffusion import FEWEST_POINTS, DiffusionFit, fit_diffusion
from distillaw.large_batch.images.spec import COLUMNS, STAGES, ImageStudy, column_of, walk_name
from distillaw.runs.config import from_table
from distillaw.runs.files import read_json
from distillaw.runs.paired import (
    DocumentScores,
    PairedDifference,
    clustered_cov,
    fieller_interval,
    paired_over_seeds,
    t_interval,
    t_quantile,
)

RECORD = "large_batch.json"
LANDSCAPE = "landscape.json"
CELLS = "cells"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One study on disk."""

    folder: Path
    study: ImageStudy
    info: dict[str, Any]
    """The whole of the record file."""
    results: tuple[dict[str, Any], ...]
    """Of finished and diverged cells, in the order planned."""
    missing: tuple[str, ...]
    """Cells without a result, as `column seed`."""

    def done(self, column: str) -> dict[int, dict[str, Any]]:
        """Seed to result, of the column's finished cells."""
        return {r["seed"]: r for r in self.results if r["column"] == column and r["state"] == "done"}

    @property
    def diverged(self) -> Sequence[dict[str, Any]]:
        """Cells whose loss was not finite."""
        return [r for r in self.results if r["state"] == "diverged"]


def read_record(folder: Path) -> ImageRecord:
    """Read the folder of a study, finished or not; CacheError: no such study, or a damaged file."""
    file = folder / RECORD
    if not file.exists():
        raise CacheError(
            f"{folder}: no {RECORD}, so no large-batch study; "
            f"`distillaw large-batch run SPEC.toml --data PATH --out {folder}` makes one"
        )
    info = read_json(file)
    results, missing = [], []
    for cell in info["cells"]:
        path = folder / CELLS / cell["folder"] / "result.json"
        if path.exists():
            results.append(read_json(path))
        else:
            missing.append(f"{cell['column']} seed {cell['seed']}")
    return ImageRecord(
        folder=folder,
        study=from_table(ImageStudy, info["spec"], RECORD),
        info=info,
        results=tuple(results),
        missing=tuple(missing),
    )


LEVEL = 0.95
"""Of every interval: what Holm's 5 % goes with."""
OTHERS = (("SB", "+RA"), ("LB", "RA alone"), ("SB", "RA alone"), ("RA alone", "+RA"), ("LB", "noise"), ("+LR", "noise"))
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
    """A score for each column that has a finished cell, in the paper's order; `paper` is what it prints."""
    return [_score(record, column, paper) for column in COLUMNS if record.done(column)]


def _score(record: ImageRecord, column: str, paper: Mapping[str, float]) -> ColumnScore:
    results = record.done(column)
    accuracy = tuple(float(result["accuracy"]) for result in results.values())
    wrong = [scores_of(result) for result in results.values()]
    perfect = [replace(scores, loss_sum=np.zeros_like(scores.loss_sum)) for scores in wrong]
    error = _interval(paired_over_seeds(list(zip(wrong, perfect, strict=True))))
    closed, closed_interval = _closed(record, column)

    def mean(key: str) -> float:
        return float(np.mean([float(result[key]) for result in results.values()]))

    return ColumnScore(
        column=column,
        accuracy=accuracy,
        mean=float(np.mean(accuracy)),
        interval=None if error is None else (100 - error[1], 100 - error[0]),
        seed_spread=float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
        train=mean("train_accuracy"),
        fresh=mean("fresh_accuracy"),
        seconds=mean("cpu_seconds"),
        paper=paper.get(column),
        closed=closed,
        closed_interval=closed_interval,
    )


def score_gains(record: ImageRecord, paper: Mapping[str, float]) -> list[Gain]:
    """Stages first, each against the one before, then the other comparisons, as far as both sides finished.

    Significant by Holm 1979: from the smallest p up, each against 5 % over the number still standing, until one fails.
    """
    stages = [column for column in STAGES if record.done(column)]
    gains = [_gain(record, *pair, paper) for pair in (*pairwise(stages), *OTHERS)]
    gains = [gain for gain in gains if gain is not None]
    tested = sorted((gain.p, i) for i, gain in enumerate(gains) if gain.p is not None)
    for rank, (p, i) in enumerate(tested):
        if p > (1 - LEVEL) / (len(tested) - rank):
            break
        gains[i] = replace(gains[i], is_significant=True)
    return gains


def _gain(record: ImageRecord, before: str, after: str, paper: Mapping[str, float]) -> Gain | None:
    old, new = record.done(before), record.done(after)
    seeds = sorted(old.keys() & new.keys())
    if not seeds:
        return None
    found = paired_over_seeds([(scores_of(old[seed]), scores_of(new[seed])) for seed in seeds])
    p = None
    if found.seeds > 1:
        p = float(found.mean == 0) if found.se == 0 else 2 * float(stdtr(found.dof, -abs(found.mean) / found.se))
    return Gain(
        before=before,
        after=after,
        mean=100 * found.mean,
        interval=_interval(found),
        se_seeds=None if found.se_seeds is None else 100 * found.se_seeds,
        se_images=100 * found.se_documents,
        p=p,
        is_significant=False,
        seeds=len(seeds),
        paper=paper[after] - paper[before] if before in paper and after in paper else None,
    )


def scores_of(result: Mapping[str, Any]) -> DocumentScores:
    """A cell's errors, test image by test image: 1 where it is wrong; DataError: images that the test set has not."""
    count = int(result["test_images"])
    wrong = np.array(result["wrong"], dtype=np.int64)
    if len(wrong) and not 0 <= wrong.min() <= wrong.max() < count:
        raise DataError(f"{result['column']} seed {result['seed']}: wrong images beyond the {count} of the test set")
    errors = np.zeros(count)
    errors[wrong] = 1.0
    return DocumentScores(document=np.arange(count), tokens=np.ones(count, np.int64), loss_sum=errors)


def _interval(difference: PairedDifference) -> tuple[float, float] | None:
    """In points; None for one seed, whose training noise cannot be seen."""
    if difference.seeds < 2:
        return None
    low, high = difference.interval(LEVEL)
    return 100 * low, 100 * high


def _closed(record: ImageRecord, column: str) -> tuple[float | None, tuple[float, float] | None]:
    """(column - LB) / (SB - LB) with its interval."""
    sides = [record.done(each) for each in ("LB", column, "SB")]
    seeds = sorted(set.intersection(*map(set, sides)))
    if not seeds or column in ("SB", "LB"):
        return None, None
    scores = [[scores_of(side[seed]) for side in sides] for seed in seeds]
    parts = np.array([[lb.loss_sum - x.loss_sum, lb.loss_sum - sb.loss_sum] for lb, x, sb in scores])
    per_seed = parts.mean(2)  # of (seeds, 2, images)
    top, bottom = map(float, per_seed.mean(0))
    if bottom == 0:
        return None, None
    if len(seeds) < 2:
        return top / bottom, None
    tokens = np.ones(parts.shape[2], np.int64)
    cov = np.cov(per_seed.T) / len(seeds) + clustered_cov(parts.mean(0).T, tokens)
    # degrees of freedom of the gap, so that a share has an end exactly where the gap's own interval leaves out zero
    dof = paired_over_seeds([(lb, sb) for lb, _, sb in scores]).dof
    return top / bottom, fieller_interval(top, bottom, cov, t=t_quantile(0.5 + LEVEL / 2, dof))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over seeds with its t interval."""

    value: float
    interval: tuple[float, float] | None
    """None for one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWalk:
    """One batch size, before or after the correction."""

    batch: int
    is_corrected: bool
    column: str
    """Whose cells these are."""
    last_step: int
    slope: Mean
    """b of a + b ln t."""
    power: Mean
    """p of c t^p."""
    end: Mean
    """Distance at the last step of the phase."""
    first_tensor_slope: Mean
    """b for the first tensor alone, which is what the released code logs."""
    curves: Mapping[int, tuple[tuple[int, float], ...]]
    """Seed to (step, ||w_t - w_0||) of the window, all parameters."""
    fits: Mapping[int, DiffusionFit]

    @property
    def log_wins(self) -> int:
        """Seeds where a + b ln t has the smaller sum of squares."""
        return sum(fit.better == "log" for fit in self.fits.values())


def read_walks(record: ImageRecord) -> list[ImageWalk]:
    """The walks of all batch sizes that have finished cells, by batch, before and then after."""
    batches = sorted(record.study.diffusion.batches)
    found = (_walk(record, batch, corrected) for corrected in (False, True) for batch in batches)
    return [walk for walk in found if walk is not None]


def slope_ratio(walks: Sequence[ImageWalk], *, corrected: bool) -> Mean | None:
    """Slope of the largest batch over that of the smallest, paired over seeds (mean of logarithms)."""
    group = [walk for walk in walks if walk.is_corrected == corrected]
    if len(group) < 2:
        return None
    small, large = group[0].fits, group[-1].fits
    seeds = sorted(small.keys() & large.keys())
    if not seeds or any(small[s].b <= 0 or large[s].b <= 0 for s in seeds):
        return None
    logs = _mean_over_seeds([math.log(large[seed].b / small[seed].b) for seed in seeds])
    interval = None if logs.interval is None else (math.exp(logs.interval[0]), math.exp(logs.interval[1]))
    return Mean(value=math.exp(logs.value), interval=interval)


def _walk(record: ImageRecord, batch: int, corrected: bool) -> ImageWalk | None:
    study, first = record.study, record.study.diffusion.first_step
    column = column_of(study, batch, corrected=corrected) or walk_name(batch, corrected=corrected)
    curves, fits, firsts = {}, {}, []
    for seed, result in record.done(column).items():
        total, tensor = (_points(result, name, first) for name in ("total", "first"))
        try:
            fits[seed], fit_first = (fit_diffusion(*zip(*points, strict=True)) for points in (total, tensor))
        except DataError:
            continue  # too few steps for two curves; said by `too_short`
        curves[seed] = tuple(total)
        firsts.append(fit_first.b)
    if not fits:
        return None
    return ImageWalk(
        batch=batch,
        is_corrected=corrected,
        column=column,
        curves=curves,
        fits=fits,
        slope=_mean_over_seeds([fit.b for fit in fits.values()]),
        power=_mean_over_seeds([fit.p for fit in fits.values()]),
        end=_mean_over_seeds([curve[-1][1] for curve in curves.values()]),
        first_tensor_slope=_mean_over_seeds(firsts),
        last_step=max(fit.last_step for fit in fits.values()),
    )


def too_short(record: ImageRecord) -> list[str]:
    """Columns whose first phase has too few points for a fit."""
    first = record.study.diffusion.first_step
    done = (result for result in record.results if result["state"] == "done")
    return sorted({str(r["column"]) for r in done if len(_points(r, "total", first)) < FEWEST_POINTS})


def _points(result: Mapping[str, Any], name: str, first: int) -> list[tuple[int, float]]:
    """(step, distance) of the first phase."""
    curves, last = result["curves"], int(result["first_phase"])
    walked = zip(curves["steps"], curves["distances"].get(name, ()), strict=True)
    return [(t, d) for t, d in walked if first <= t <= last]


def _mean_over_seeds(values: Sequence[float]) -> Mean:
    mean = float(np.mean(values))
    if len(values) < 2:
        return Mean(value=mean, interval=None)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Mean(value=mean, interval=t_interval(mean, error, len(values) - 1, LEVEL))
