"""How far weights wander in the first phase: curves and fits for each batch size, before and after LR + GBN.

The window is the phase of the first, constant rate; a fit never crosses a drop. Slopes are compared by their spread
over seeds: errors of one curve's fit are too small, because its points are correlated (regime/diffusion.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillaw.errors import DataError
from distillaw.images.columns import column_of, walk_name
from distillaw.images.record import ImageRecord
from distillaw.images.summary import LEVEL
from distillaw.regime.diffusion import FEWEST_POINTS, DiffusionFit, fit_diffusion
from distillaw.runs.paired import t_quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over seeds with its t interval."""

    value: float
    interval: tuple[float, float] | None
    """None for one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One batch size, before or after the correction."""

    batch: int
    is_corrected: bool
    column: str
    """Whose cells these are."""
    curves: Mapping[int, tuple[tuple[int, float], ...]]
    """Seed to (step, ||w_t - w_0||) of the window, all parameters."""
    fits: Mapping[int, DiffusionFit]
    slope: Mean
    """b of a + b ln t."""
    power: Mean
    """p of c t^p."""
    end: Mean
    """Distance at the last step of the phase."""
    first_tensor_slope: Mean
    """b for the first tensor alone, which is what the released code logs."""
    last_step: int

    @property
    def log_wins(self) -> int:
        """Seeds where a + b ln t has the smaller sum of squares."""
        return sum(fit.better == "log" for fit in self.fits.values())


def read_walks(record: ImageRecord) -> list[Walk]:
    """The walks of all batch sizes that have finished cells, by batch, before and then after."""
    study, found = record.study, []
    for corrected in (False, True):
        for batch in sorted(study.diffusion.batches):
            column = column_of(study, batch, corrected=corrected) or walk_name(batch, corrected=corrected)
            walk = _walk(batch, corrected, column, record)
            if walk is not None:
                found.append(walk)
    return sorted(found, key=lambda walk: (walk.is_corrected, walk.batch))


def slope_ratio(walks: Sequence[Walk], *, corrected: bool) -> Mean | None:
    """Slope of the largest batch over that of the smallest, paired over seeds (mean of logarithms)."""
    group = [walk for walk in walks if walk.is_corrected == corrected]
    if len(group) < 2:
        return None
    small, large = group[0].fits, group[-1].fits
    seeds = sorted(set(small) & set(large))
    if not seeds or any(small[s].b <= 0 or large[s].b <= 0 for s in seeds):
        return None
    logs = _mean([math.log(large[seed].b / small[seed].b) for seed in seeds])
    interval = None if logs.interval is None else (math.exp(logs.interval[0]), math.exp(logs.interval[1]))
    return Mean(value=math.exp(logs.value), interval=interval)


def _walk(batch: int, corrected: bool, column: str, record: ImageRecord) -> Walk | None:
    first = record.study.diffusion.first_step
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
    return Walk(
        batch=batch, is_corrected=corrected, column=column, curves=curves, fits=fits,
        slope=_mean([fit.b for fit in fits.values()]), power=_mean([fit.p for fit in fits.values()]),
        end=_mean([curve[-1][1] for curve in curves.values()]), first_tensor_slope=_mean(firsts),
        last_step=max(fit.last_step for fit in fits.values()),
    )  # fmt: skip


def too_short(record: ImageRecord) -> list[str]:
    """Columns whose first phase has too few points for a fit."""
    first = record.study.diffusion.first_step
    done = [result for result in record.results if result["state"] == "done"]
    return sorted({str(r["column"]) for r in done if len(_points(r, "total", first)) < FEWEST_POINTS})


def _points(result: Mapping[str, Any], name: str, first: int) -> list[tuple[int, float]]:
    """(step, distance) of the first phase."""
    curves = result["curves"]
    last = int(result["first_phase"])
    return [
        (t, d)
        for t, d in zip(curves["steps"], curves["distances"].get(name, ()), strict=True)
        if first <= t <= last
    ]


def _mean(values: Sequence[float]) -> Mean:
    mean = float(np.mean(values))
    if len(values) < 2:
        return Mean(value=mean, interval=None)
    half = (
        t_quantile(0.5 + LEVEL / 2, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    )
    return Mean(value=mean, interval=(mean - half, mean + half))
