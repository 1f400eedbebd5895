"""What all sources say together: one belief per option, wider where they disagree.

A source's belief about a gain is a mixture of Student t densities: a centre per member of its ensemble, a scale for
what the ensemble does not show, few degrees of freedom because that scale is itself uncertain. Sources are taken as
independent witnesses of one true gain, so their densities are multiplied. Where they agree the product is narrower
than each; where they disagree by more than their scales the heavy tails leave it wide, even with two humps: an
outlying law is outvoted, never averaged in (O'Hagan 1979, J. R. Statist. Soc. B 41:358: t tails reject outliers).

Draws for several options are put together with the order of the most trusted source's draws, so that options which
move together there still do (the Schaake shuffle; Clark et al. 2004, J. Hydrometeor. 5:243).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array

LAW_DOF = 4.0
"""Degrees of freedom of a law's doubt: its size is known to a factor of about two."""
LAW_SCALE = 1.6449 / 2.1318
"""Scale of a t kernel with LAW_DOF whose central 90 % are as wide as those of a normal of standard deviation 1."""
_POINTS = 2001


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A mixture of t densities over the gain of one option, nats/token."""

    centres: Array
    """(m,)."""
    scale: float
    """Of the t kernel."""
    dof: float

    @classmethod
    def of_law(cls, centres: Array, sd: float) -> "Belief":
        """By member of an ensemble, with the standard deviation that the ensemble does not show."""
        return cls(centres=centres, scale=LAW_SCALE * sd, dof=LAW_DOF)

    def log_density(self, grid: Array) -> Array:
        """Ln density up to a constant on a grid of gains, shape of the grid."""
        z = (grid[:, None] - self.centres) / self.scale
        logs = -(self.dof + 1) / 2 * np.log1p(z**2 / self.dof)
        top = logs.max(1, keepdims=True)
        return top[:, 0] + np.log(np.exp(logs - top).mean(1))

    def span(self) -> tuple[float, float]:
        """Where nearly all of it lies."""
        return float(self.centres.min() - 12 * self.scale), float(self.centres.max() + 12 * self.scale)


def agreed_draws(beliefs: Sequence[Belief], order: Array, weights: Sequence[float] | None = None) -> Array:
    """Draws of the gain that several sources agree on, in the order of given draws.

    Args:
        beliefs: what each source believes of this option.
        order: draws of the most trusted source, shape (R,); the result has the same ranks.
        weights: powers of the densities; 1 for a full witness.

    Returns:
        (R,), quantiles of the product density at (k + 1/2) / R.
    """
    ends = [b.span() for b in beliefs]
    grid = np.linspace(min(e[0] for e in ends), max(e[1] for e in ends), _POINTS)
    grid = _refined(beliefs, grid)
    powers = np.ones(len(beliefs)) if weights is None else np.asarray(weights, dtype=np.float64)
    logs = np.sum([w * b.log_density(grid) for w, b in zip(powers, beliefs, strict=True)], axis=0)
    density = np.exp(logs - logs.max())
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    probability = (np.arange(len(order)) + 0.5) / len(order)
    quantiles = np.interp(probability, mass / mass[-1], grid)
    return quantiles[np.argsort(np.argsort(order))]


def _refined(beliefs: Sequence[Belief], grid: Array) -> Array:
    """The grid with points close together around the narrowest belief, which the wide ones would step over."""
    finest = min(beliefs, key=lambda b: b.scale)
    middle = float(np.median(finest.centres))
    reach = 8 * (finest.scale + float(finest.centres.std()))
    return np.union1d(grid, np.linspace(middle - reach, middle + reach, _POINTS))
