"""Is this the right law for these runs? What residuals show that noise cannot.

Residuals of independent runs (means over the rows of a group) are looked at in three ways, each strict enough that of
3,000 tables of a true law with Student's noise five are taken for misfits (tests/fitting/test_misfit.py):

trend   along compute, size, tokens, tokens per parameter, teacher's loss or teacher's size: far fewer changes of sign
        than by chance (Wald and Wolfowitz 1940) where a cubic explains most of the variance
modes   two groups of runs with a gap between them, among all or among the smallest third: two recipes, two units,
        two ways of counting parameters
break   the last levels of compute lie off the law of all the others (of runs that count at least half, as for trends)

A law is always wrong by more than seeds are noisy (docs/fitting.md); that alone is no misfit.
"""

from typing import NamedTuple

import numpy as np

from distillaw.fitting.estimate import robust_scale
from distillaw.laws.base import Array

FEWEST = 16
"""Independent runs; below, the three cannot tell."""
FEW_SIGNS, EXPLAINED = -4.0, 0.6
"""Standardised number of runs of one sign, and share of the variance that a cubic explains: beyond both, a trend."""
GAP, SIDE = 5.0, 0.25
"""Distance of two modes in standard deviations within (a normal split in two has 2.7), and least share of either."""
LAST, OFF, BY = 1 / 6, 6.0, 2.0
"""Share of the runs that are last; standard errors, and robust standard deviations of a run, that they lie off by."""


class Misfit(NamedTuple):
    """What was seen."""

    text: str
    """In words, with its values."""
    of_table: bool
    """Two tables in one, of which no law can be right; else the law is wrong, by what its hold-outs show too."""


def find_misfit(resid: Array, *, extent: Array, weight: Array, group: np.ndarray) -> Misfit | None:
    """What is seen; None where nothing is.

    Args:
        resid: ln predicted - ln observed, (n,).
        extent: compute, parameters, tokens of each row and, where there are any, teacher's loss and size, (n, 3 to 5);
            NaN without a teacher.
        weight: of each row.
        group: independent run of each row.
    """
    everything = _by_run(resid, extent, group)
    if len(everything[0]) < FEWEST:
        return None
    r, params = everything[0], everything[2]
    small = params <= np.quantile(params, 1 / 3)  # embeddings in some counts are a matter of small models
    if robust_scale(r) < 1e-9:
        return None
    if seen := _modes(r) or _modes(r[small]):
        return Misfit(seen, of_table=True)
    keep = weight >= 0.5 * weight.max()
    r, compute, params, tokens, *teacher = _by_run(resid[keep], extent[keep], group[keep])
    if len(r) < FEWEST:
        return None
    named = {"compute": compute, "params": params, "tokens": tokens, "tokens per parameter": tokens - params}
    named |= dict(zip(("the teacher's loss", "the teacher's size"), teacher, strict=False))
    seen = _break(r, compute, robust_scale(r)) or _trend(r, named)
    return Misfit(seen, of_table=False) if seen else None


def _by_run(resid: Array, extent: Array, group: np.ndarray) -> list[Array]:
    """Means over the rows of each run: residual, and the ln of each column of `extent`."""
    _, member = np.unique(group, return_inverse=True)
    size = np.bincount(member)
    return [np.bincount(member, column) / size for column in (resid, *np.log(extent).T)]


def _modes(r: Array) -> str | None:
    """The split of the sorted residuals in two with the least variance within."""
    ordered, n = np.sort(r), len(r)
    least = max(int(np.ceil(SIDE * n)), 4)
    if n < FEWEST:
        return None
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    at = np.arange(least, n - least + 1)
    low, high = sums[at - 1] / at, (sums[-1] - sums[at - 1]) / (n - at)
    within = (squares[-1] - at * low**2 - (n - at) * high**2) / (n - 2)
    i = int(np.argmin(within))
    apart = (high - low)[i] / np.sqrt(max(within[i], 1e-300))
    if apart < GAP:
        return None
    return (
        f"residuals have two modes, {at[i]} runs around {100 * low[i]:+.2g} % and {n - at[i]} around "
        f"{100 * high[i]:+.2g} %: two recipes, units or ways of counting parameters in one table"
    )


def _break(r: Array, compute: Array, noise: float) -> str | None:
    order = np.argsort(compute, kind="stable")
    num = max(round(LAST * len(r)), 4)
    last, rest = r[order[-num:]], r[order[:-num]]
    off = float(last.mean() - np.median(rest))
    if abs(off) < OFF * robust_scale(rest) / np.sqrt(num) or abs(off) < BY * robust_scale(rest):
        return None
    side = "below" if off > 0 else "above"
    return (
        f"the {num} runs of the largest compute lie {100 * abs(off):.2g} % {side} the law of the others, whose "
        f"residuals scatter by {100 * noise:.2g} %: a break"
    )


def _trend(r: Array, axes: dict[str, Array]) -> str | None:
    for name, x in axes.items():
        known = np.isfinite(x)  # runs without a teacher have no place along its axes
        n = int(known.sum())
        if n < FEWEST or np.ptp(x[known]) < 1e-6:
            continue
        own, x = r[known], x[known]
        sign = own > np.median(own)
        num, other = int(sign.sum()), int((~sign).sum())
        expected = 2 * num * other / n + 1
        sd = np.sqrt((expected - 1) * (expected - 2) / (n - 1))
        order = np.argsort(x, kind="stable")
        runs = 1 + int((sign[order][1:] != sign[order][:-1]).sum())
        z = (runs - expected) / sd
        cubic = np.vander((x - x.mean()) / x.std(), 4)
        left = own - cubic @ np.linalg.lstsq(cubic, own, rcond=None)[0]
        explained = 1 - float(left.var() / own.var())
        if z < FEW_SIGNS and explained > EXPLAINED:
            return (
                f"residuals follow {name}: their sign changes {runs - 1} times in {n} runs ({expected - 1:.0f} by "
                f"chance), and a curve explains {100 * explained:.0f} % of their variance"
            )
    return None
