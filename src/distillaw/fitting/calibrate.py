"""How wrong the law is where it has not been tried: the misspecification term of prediction intervals.

Bootstrap intervals alone cover about half of held-out large runs, because the misfit is systematic
(docs/fitting.md). So s_total^2 = s_param^2 + s_noise^2 + s_model(x)^2 with x how far beyond the fitted runs along each
axis, and s_model(x) = m0 + max_a m_a u_a x_a learnt from hold-outs within the data: fit most of the runs, predict those
beyond with the same law and settings. u_a says how few levels the fit had along the axis (`uncertainty.unsure`): cuts
that leave three sizes err more per decade than the fit to all of them.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillaw.fitting.estimate import Estimate, cluster_weights, refit
from distillaw.fitting.problem import Problem
from distillaw.fitting.uncertainty import (
    AXES,
    DEFAULT_AT_EDGE,
    DEFAULT_PER_DECADE,
    DEFAULT_PER_EXCESS,
    DEFAULT_PER_LOSS,
    Calibration,
    num_levels,
    outside,
    unsure,
)
from distillaw.laws.base import Array

CUTS = (
    *((0, share) for share in (0.4, 0.5, 0.6, 0.7, 0.8)),
    *((axis, share) for axis in (1, 2) for share in (0.6, 0.8)),
    *((3, share) for share in (0.75, -0.75)),
    (1, -0.75),
)
"""(axis of `extent_of`, share of the runs that are fitted, smallest first; negative: largest first) to predict the
others: fewer fix no law, more leave nothing to predict. The last three, teachers and the smallest students, are tried
where there are teachers."""
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
_TIED, _FREE = 0.5, 0.7
"""Spread of ln of the slopes along compute, size and tokens about one of their own; of that one about its default."""
_UNITS = np.array([1, 1, 1, 1, *(x / DEFAULT_PER_DECADE for x in (DEFAULT_PER_LOSS, DEFAULT_PER_EXCESS))])
"""Slopes of `AXES` in those of `_SLOPES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOuts:
    """Predictions of runs beyond each cut, pooled over the cuts."""

    error: Array
    """ln predicted - ln observed."""
    s_param: Array
    beyond: Array
    """How far outside the fitted runs along each of `AXES`, (n, 6) (`uncertainty.outside`)."""
    unsure: Array
    """What the levels that were fitted there make of it, (n, 6) (`uncertainty.unsure`)."""
    cut: NDArray[np.int64]

    @property
    def decades(self) -> Array:
        """Beyond in compute, size or tokens, whichever is most, (n,)."""
        return self.beyond[:, :3].max(axis=1)


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
        fitted: the full fit; its threshold and prior are kept.
        extent: of each row, (n, 5) (`uncertainty.extent_of`).
        scored: rows whose prediction counts.
        replicates: of the bootstrap; 0 where only errors are asked for.
    """
    codes, member = np.unique(problem.group, return_inverse=True)
    member = member.reshape(-1)
    found, seen = [], set()
    has_teachers = np.isfinite(extent[:, 3]).any()
    for i, (axis, share) in enumerate(CUTS):
        if not has_teachers and (axis == 3 or share < 0):
            continue
        largest = np.full(len(codes), -np.inf)
        value = np.log(extent[:, axis]) * np.sign(share)
        np.fmax.at(largest, member, value)  # runs without a teacher stay below
        ordered = np.sort(largest[np.isfinite(largest)])
        num_below = round(abs(share) * len(ordered))
        if axis == 0:
            few = np.argsort(np.argsort(largest, kind="stable"), kind="stable") < num_below
        else:  # whole levels: a size is above or below
            few = largest < ordered[num_below] - 1e-6
        below = few[member]
        if few.sum() < problem.num_free + 3 or not (~below & scored).any() or few.tobytes() in seen:
            continue
        seen.add(few.tobytes())
        weights = np.zeros((replicates + 1, len(below)))
        weights[0, below] = 1.0
        weights[1:, below] = cluster_weights(problem.group[below], replicates, rng)
        theta, _ = refit(problem, fitted, weights * problem.weight, rng=rng, restarts=0, iterations=40)
        above = ~below & scored
        value = problem.model.value(theta)[:, above]
        low, top = (end(extent[below], axis=0) for end in (np.fmin.reduce, np.fmax.reduce))
        beyond = outside(extent[above], top, low)
        one = HoldOuts(
            error=value[0] - problem.y[above],
            s_param=value[1:].std(axis=0) if replicates else np.zeros(value.shape[1]),
            beyond=beyond,
            unsure=np.repeat(unsure(num_levels(extent[below]))[None], len(beyond), axis=0),
            cut=np.full(len(beyond), i),
        )
        found.append(one)
    if not found:
        return None
    return HoldOuts(**{name: np.concatenate([getattr(f, name) for f in found]) for name in HoldOuts.__slots__})


def held_out_error(held: HoldOuts | None) -> float | None:
    """Geometric mean over the cuts of the root mean square errors, in ln L: early cuts err more, all count alike."""
    if held is None:
        return None
    squares = [float((held.error[held.cut == i] ** 2).mean()) for i in np.unique(held.cut)]
    return float(np.exp(np.log(np.maximum(squares, 1e-20)).mean() / 2))


def calibrate_term(held: HoldOuts | None, *, noise: float, level: float, levels: Array | None = None) -> Calibration:
    """The misspecification term that makes held-out rows fall inside their intervals as often as nominal.

    Student-t likelihood over grids of m0 and of a slope for each axis, with log-normal priors around the defaults,
    since the rows above one cut err together; slopes of compute, size and tokens are tied to one of their own. The
    roots of the posterior mean squares are used, so that little evidence widens the interval; then all are raised, up
    to threefold, until the nominal share is reached.

    Args:
        noise: of one run, in ln L.
        levels: of all the runs (`uncertainty.num_levels`); None: plenty.
    """
    few = np.ones(len(AXES)) if levels is None else unsure(levels)
    default = Calibration(nominal=level)
    if held is None:
        return _calibration(default.at_edge, DEFAULT_PER_DECADE * few, nominal=level)
    base = held.s_param**2 + noise**2
    per_cut = np.bincount(held.cut, minlength=len(CUTS))[held.cut]
    shares = np.array([abs(share) for _, share in CUTS])
    late = (shares[held.cut] / 0.8) ** _LATE
    weight = np.minimum(1.0, _WORTH / per_cut) * late
    far = held.beyond * held.unsure * _UNITS
    scale = base + (_EDGES[:, None, None] + _SLOPES[:, None] * far.max(axis=1)) ** 2  # (edges, slopes, n)
    each = -(np.log(scale) / 2 + 3.0 * np.log1p(held.error**2 / scale / 5.0)) * weight
    along = far.argmax(axis=1)
    likelihood = np.stack([each[:, :, along == a].sum(axis=2) for a in range(len(AXES))])
    at_edge, slopes = _posterior(likelihood)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    spread = at_edge + (slopes * far).max(axis=1)

    def share(factor: float, weights: Array | None = None) -> float:
        inside = np.abs(held.error) <= z * np.sqrt(base + (factor * spread) ** 2)
        return float(np.average(inside, weights=weights))

    has_teachers = levels is None or levels[3] > 0
    reached = held.beyond[:, :4].max(axis=0).tolist()
    factor = next((f for f in np.linspace(1.0, 3.0, 21) if share(f, late) >= level), 3.0)
    return _calibration(
        factor * at_edge,
        factor * slopes * few,
        num_held_out=len(held.error),
        tried=None if has_teachers else reached,
        max_decades=float(held.decades.max()),
        nominal=level,
        obtained=share(factor),
        obtained_without=share(0.0),
        error=float(np.sqrt((held.error**2).mean())),
    )


def _calibration(at_edge: float, slopes: Array, **found: Any) -> Calibration:
    names = ("per_decade", "per_params", "per_tokens", "per_smaller", "per_loss", "per_excess")
    found |= zip(names, (float(x) for x in slopes * _UNITS), strict=True)
    return Calibration(at_edge=float(at_edge), **found)


def _posterior(likelihood: Array) -> tuple[float, Array]:
    """Roots of the posterior mean squares of m0 and of the slopes, from ln likelihoods (axis, m0, slope)."""
    log = np.log(_SLOPES)
    centre = np.log(DEFAULT_PER_DECADE)
    tied = np.exp(-(((log[:, None] - log) / _TIED) ** 2) / 2)  # slope by the one they have in common
    free = np.repeat(np.exp(-(((log - centre) / _FREE) ** 2) / 2)[:, None], len(log), axis=1)
    prior = np.stack([tied, tied, tied, free, free, free])
    prior /= prior.sum(axis=1, keepdims=True)
    top = likelihood.max(axis=2, keepdims=True)
    joint = np.exp(likelihood - top)[:, :, :, None] * prior[:, None]  # (axis, m0, slope, common)
    evidence = joint.sum(axis=2)
    both = (np.log(evidence) + top).sum(axis=0)
    both -= (np.log(_EDGES / DEFAULT_AT_EDGE)[:, None] ** 2 + ((log - centre) / _FREE) ** 2) / 2
    both = np.exp(both - both.max())
    both /= both.sum()  # (m0, common)
    of_slope = (joint / evidence[:, :, None] * both[:, None]).sum(axis=(1, 3))
    return float(np.sqrt(both.sum(axis=1) @ _EDGES**2)), np.sqrt(of_slope @ _SLOPES**2)


def by_decade(held: HoldOuts, calibration: Calibration, *, noise: float, levels: Array) -> list[dict[str, float]]:
    """The held-out predictions by how far beyond the fitted runs they lie, in decades of compute.

    Each entry: `from` and `to` (decades), `num` predictions, `error` (root mean square, in ln L), `inside` the
    interval with the misspecification term, `inside_without` it, and the mean half width `half_width` (ln L).
    """
    z, few = NormalDist().inv_cdf(0.5 + calibration.nominal / 2), unsure(levels)
    without = z * np.hypot(held.s_param, noise)
    reached = replace(calibration, tried=None)  # all of these were tried
    half = np.hypot(without, z * reached.spread(held.beyond * held.unsure / few))
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
            "axis": (*AXES[:3], "teacher_loss")[CUTS[i][0]],
            "share": CUTS[i][1],
            "num": int((held.cut == i).sum()),
            "mean_square": float((held.error[held.cut == i] ** 2).mean()),
        }
        for i in np.unique(held.cut)
    ]
