"""Runs far above the best of their compute say little about the frontier: their weights, chosen by hold-outs.

excess  e_i = ln L_i - min of ln L_j over the runs j within a factor of two of its compute
weight  w_i = 1 / (1 + (e_i / tau)^2)

A law is wrong by more where a run is badly allocated (a large model on few tokens, a tiny one on very many), and such
runs pull it away from those that extrapolations are about. tau is the one of `SCALES` whose fits to the smaller runs
predict the larger ones best; none where weights do not help (docs/fitting.md, "Weights").
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from distillaw.fitting.observations import Observations
from distillaw.laws.base import Array

LEVEL = float(np.log(2))
"""Runs whose ln compute differs by less are one level."""
SCALES = (0.1, 0.05)
"""Of the excess, in ln L: 5 % above the best of its level counts half."""


def excess(rows: Observations) -> Array:
    """ln L above the best run of about the same compute, (n,)."""
    y, c = np.log(rows.loss), np.log(rows.compute)
    order = np.argsort(c, kind="stable")
    first = np.searchsorted(c[order], c - LEVEL, side="left")
    last = np.searchsorted(c[order], c + LEVEL, side="right")
    ordered = y[order]
    return np.array([y[i] - ordered[a:b].min() for i, (a, b) in enumerate(zip(first, last, strict=True))])


def weighted(rows: Observations, tau: float) -> Observations:
    """The rows with weights of their excess over their own."""
    return replace(rows, weight=rows.weight / (1 + (excess(rows) / tau) ** 2))


def choose_weights(
    rows: Observations, error: Callable[[Observations], float | None]
) -> tuple[Observations, float | None]:
    """The rows as they are or weighted, whichever predicts larger runs best, and the scale.

    Args:
        rows: of one law without a teacher.
        error: of rows, the held-out error of fits to their smaller runs; None where there are too few.
    """
    least = error(rows)
    if least is None:
        return rows, None
    best, chosen = rows, None
    for tau in SCALES:
        candidate = weighted(rows, tau)
        found = error(candidate)
        if found is not None and found < least:
            best, chosen, least = candidate, tau, found
    return best, chosen
