"""How wrong the law is where it has not been tried: the misspecification term of prediction intervals.

Bootstrap intervals alone cover about half of held-out large runs, because the misfit is systematic
(docs/fitting.md). So s_total^2 = s_param^2 + s_noise^2 + s_model(h)^2 with h the decades of compute
beyond the fitted runs, and s_model(h) = m0 + m1 h chosen from compute-ordered hold-outs within the data: fit
the smallest 40 to 80 % of the runs, predict the rest with the same law and settings.
"""

from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from distillaw.fitting.estimate import Estimate, cluster_weights, refit
from distillaw.fitting.problem import Problem
from distillaw.fitting.uncertainty import (
    DEFAULT_AT_EDGE,
    DEFAULT_PER_DECADE,
    Calibration,
    decades_beyond,
)
from distillaw.laws.base import Array

CUTS = (
    *((0, share) for share in (0.4, 0.5, 0.6, 0.7, 0.8)),
    *((axis, share) for axis in (1, 2) for share in (0.6, 0.8)),
)
"""(axis of `extent_of`, share of the runs that are fitted, smallest first) to predict the others: fewer fix no law,
more leave nothing to predict."""
AXES = ("compute", "params", "tokens")
REPLICATES = 30
"""Bootstrap replicates per cut, for s_param there."""
_LATE = 3.0
"""Power of the share fitted with which a cut counts: fits to few small runs err more per decade than those to most."""
_DECADES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, float("inf"))
"""Ends of the rows of the table by decade."""
_WORTH = 2.0
"""Independent observations that the rows above one cut are worth: they err together, and the cuts overlap."""
_EDGES = np.geomspace(2e-4, 0.03, 12)
_SLOPES = np.geomspace(5e-4, 0.1, 16)
"""Of s_model: from a tenth of the defaults or less to ten times or more, on grids finer than the prior is wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOuts:
    """Predictions of runs beyond each cut, pooled over the cuts."""

    error: Array
    """ln predicted - ln observed."""
    s_param: Array
    decades: Array
    """log10 of the row's compute over the largest fitted one."""
    cut: NDArray[np.int64]


def hold_out(
    problem: Problem,
    fitted: Estimate,
    extent: Array,
    *,
    rng: np.random.Generator,
    scored: NDArray[np.bool_],
    replicates: int = REPLICATES,
) -> HoldOuts | None:
    """Hold-outs of the largest independent runs on each axis; None where no cut leaves enough on both sides.

    Args:
        problem: the law and the rows.
        fitted: the full fit; its threshold and prior are kept.
        extent: of each row, (n, 3) (`uncertainty.extent_of`).
        rng: for the bootstrap at each cut.
        scored: rows whose prediction counts.
        replicates: of the bootstrap; 0 where only errors are asked for.
    """
    codes, member = np.unique(problem.group, return_inverse=True)
    member = member.reshape(-1)
    found, seen = [], set()
    for i, (axis, share) in enumerate(CUTS):
        largest = np.zeros(len(codes))
        np.maximum.at(largest, member, extent[:, axis])
        num_below = round(share * len(codes))
        if axis == 0:
            few = np.argsort(np.argsort(largest, kind="stable"), kind="stable") < num_below
        else:  # whole levels: a size is above or below
            few = largest < np.sort(largest)[num_below] * (1 - 1e-6)
        below = few[member]
        if few.sum() < problem.num_free + 3 or not (~below & scored).any() or few.tobytes() in seen:
            continue
        seen.add(few.tobytes())
        found.append(_predict_above(problem, fitted, extent, below, scored, i, rng, replicates))
    if not found:
        return None
    return HoldOuts(
        **{name: np.concatenate([getattr(f, name) for f in found]) for name in HoldOuts.__slots__}
    )


def _predict_above(
    problem: Problem,
    fitted: Estimate,
    extent: Array,
    below: NDArray[np.bool_],
    scored: NDArray[np.bool_],
    cut: int,
    rng: np.random.Generator,
    replicates: int,
) -> HoldOuts:
    weights = np.zeros((replicates + 1, len(below)))
    weights[0, below] = 1.0
    weights[1:, below] = cluster_weights(problem.group[below], replicates, rng)
    theta, _ = refit(problem, fitted, weights * problem.weight, rng=rng, restarts=0, iterations=40)
    above = ~below & scored
    value = problem.model.value(theta)[:, above]
    return HoldOuts(
        error=value[0] - problem.y[above],
        s_param=value[1:].std(axis=0) if replicates else np.zeros(value.shape[1]),
        decades=decades_beyond(extent[above], extent[below].max(axis=0)),
        cut=np.full(int(above.sum()), cut),
    )


def held_out_error(held: HoldOuts | None) -> float | None:
    """Geometric mean over the cuts of the root mean square errors, in ln L: early cuts err more, all count alike."""
    if held is None:
        return None
    squares = [float((held.error[held.cut == i] ** 2).mean()) for i in np.unique(held.cut)]
    return float(np.exp(np.log(np.maximum(squares, 1e-20)).mean() / 2))


def calibrate_term(held: HoldOuts | None, *, noise: float, level: float) -> Calibration:
    """The misspecification term that makes held-out rows fall inside their intervals as often as nominal.

    Student-t likelihood over a grid of (m0, m1) with a log-normal prior around the default, since the rows
    above a cut err together. The root of the posterior mean square is used, so that little evidence widens the
    interval; then both terms are raised, up to threefold, until the nominal share is reached.
    """
    if held is None:
        return Calibration(nominal=level)
    base = held.s_param**2 + noise**2
    per_cut = np.bincount(held.cut, minlength=len(CUTS))[held.cut]
    shares = np.array([share for _, share in CUTS])
    late = (shares[held.cut] / shares.max()) ** _LATE
    weight = np.minimum(1.0, _WORTH / per_cut) * late
    edge, slope = (v.ravel() for v in np.meshgrid(_EDGES, _SLOPES, indexing="ij"))
    scale = np.sqrt(base + (edge[:, None] + slope[:, None] * held.decades) ** 2)
    likelihood = -(np.log(scale) + 3.0 * np.log1p((held.error / scale) ** 2 / 5.0)) @ weight
    prior = (np.log(edge / DEFAULT_AT_EDGE) ** 2 + 2 * np.log(slope / DEFAULT_PER_DECADE) ** 2) / 2
    log_posterior = likelihood - prior
    posterior = np.exp(log_posterior - log_posterior.max())
    posterior /= posterior.sum()
    at_edge, per_decade = (float(np.sqrt(posterior @ v**2)) for v in (edge, slope))
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def share(factor: float, weights: Array | None = None) -> float:
        spread = factor * (at_edge + per_decade * held.decades)
        return float(np.average(np.abs(held.error) <= z * np.sqrt(base + spread**2), weights=weights))

    factor = next((f for f in np.linspace(1.0, 3.0, 21) if share(f, late) >= level), 3.0)
    return Calibration(
        at_edge=float(factor * at_edge),
        per_decade=float(factor * per_decade),
        num_held_out=len(held.error),
        max_decades=float(held.decades.max()),
        nominal=level,
        obtained=share(factor),
        obtained_without=share(0.0),
        error=float(np.sqrt((held.error**2).mean())),
    )


def by_decade(held: HoldOuts, calibration: Calibration, *, noise: float) -> list[dict[str, float]]:
    """The held-out predictions by how far beyond the fitted runs they lie, in decades of compute.

    Each entry: `from` and `to` (decades), `num` predictions, `error` (root mean square, in ln L), `inside` the
    interval with the misspecification term, `inside_without` it, and the mean half width `half_width` (ln L).
    """
    z = NormalDist().inv_cdf(0.5 + calibration.nominal / 2)
    without = z * np.hypot(held.s_param, noise)
    half = np.hypot(without, z * calibration.spread(held.decades))
    size, table = np.abs(held.error), []
    for low, high in pairwise(_DECADES):
        here = (held.decades >= low) & (held.decades < high)
        if here.any():
            row = {"from": low, "to": min(high, float(held.decades.max())), "num": int(here.sum())}
            row["error"] = float(np.sqrt((held.error[here] ** 2).mean()))
            row["inside"] = float((size <= half)[here].mean())
            row["inside_without"] = float((size <= without)[here].mean())
            table.append(row | {"half_width": float(half[here].mean())})
    return table


def by_cut(held: HoldOuts) -> list[dict[str, float]]:
    """Held-out error of each cut: `share` of the runs fitted, `num` predictions, `mean_square` error in ln L.

    Laws with more parameters lack the earliest cuts; only cuts that both have compare two laws.
    """
    return [
        {
            "axis": AXES[CUTS[i][0]],
            "share": CUTS[i][1],
            "num": int((held.cut == i).sum()),
            "mean_square": float((held.error[held.cut == i] ** 2).mean()),
        }
        for i in np.unique(held.cut)
    ]
