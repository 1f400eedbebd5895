"""How far runs may lie from the laws' family: misfit that is smooth in scale, and noise of seeds and held-out text.

    ln loss = family + misfit(arm, N, D) + seed(N, seed) + trunk(N, seed, arm) + run + text(arm)

Misfit is a Gaussian process, the same for every run of a cell; it is what extrapolation is uncertain by even without
noise. Shape suffixes: R run, A arm.
"""

import math
from dataclasses import dataclass

import numpy as np

from distillaw.laws.base import Array

MISFIT = 0.008
"""Standard deviation of the misfit of one arm, ln loss."""
SHARED_MISFIT = 0.5
"""Share of its variance that all arms have in common."""
SPREAD = 3.0
"""E-folds of N or D over which it keeps its value."""
TEACHER_SPREAD = 0.25
"""The same in ln L_T."""
OTHER_TEACHER = 0.5
"""Of what an arm's misfit has to itself, what another teacher of the same loss shares."""
SEED = 0.003
"""Seed noise of one run, ln loss, before seeds are compared; SEED_WEIGHT degrees of freedom strong."""
SEED_WEIGHT = 4.0
SHARED_SEED, TRUNK = 0.5, 0.35
"""Shares of the seed noise's variance that all arms of one seed and size, and all branches of one trunk, share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Where runs were or will be, one entry per run; arm 0 has no teacher."""

    log_params: Array
    log_tokens: Array
    arm: np.ndarray
    seed: np.ndarray

    def join(self, other: "Cells") -> "Cells":
        """These, then the others."""
        return Cells(**{name: np.concatenate([getattr(self, name), getattr(other, name)])
                        for name in ("log_params", "log_tokens", "arm", "seed")})  # fmt: skip


def misfit_cov(one: Cells, other: Cells, log_teacher_losses: Array, *, scale: float = 1.0) -> Array:
    """Covariance of the misfit between runs of two lists, (R, R').

    Args:
        one: runs.
        other: runs.
        log_teacher_losses: ln L_T by candidate.
        scale: of the standard deviation.
    """
    away = np.hypot(one.log_params[:, None] - other.log_params, one.log_tokens[:, None] - other.log_tokens)
    steps = math.sqrt(3) * away / SPREAD
    smooth = (1 + steps) * np.exp(-steps)  # Matern 3/2
    t = np.concatenate(
        [[np.inf], log_teacher_losses]
    )  # arm 0 has nothing of its own in common with any other
    same = one.arm[:, None] == other.arm
    with np.errstate(invalid="ignore"):
        apart = np.abs(t[one.arm][:, None] - t[other.arm]) / TEACHER_SPREAD
    alike = np.where(same, 1.0, OTHER_TEACHER * np.exp(-np.where(np.isfinite(apart), apart, np.inf)))
    return (scale * MISFIT) ** 2 * smooth * (SHARED_MISFIT + (1 - SHARED_MISFIT) * alike)


def seed_cov(cells: Cells, sd: float, text_se: Array) -> Array:
    """Covariance of the noise of runs, (R, R).

    Args:
        cells: the runs.
        sd: seed noise of one run, ln loss.
        text_se: by arm, error of its gain from the choice of held-out documents, ln loss.
    """
    pair = (cells.log_params[:, None] == cells.log_params) & (cells.seed[:, None] == cells.seed)
    arm = cells.arm[:, None] == cells.arm
    own = (1 - SHARED_SEED - TRUNK) * np.eye(len(cells.arm))
    seeds = sd**2 * (SHARED_SEED * pair + TRUNK * (pair & arm) + own)
    return seeds + np.where(arm, text_se[cells.arm][:, None] ** 2, 0.0)


def seed_sd(log_losses: Array, cells: Cells) -> float:
    """Seed noise of one run, from what was repeated with other seeds; the assumed one where nothing was.

    What all arms of a seed share drops out of the gains, and out of this, so the rest is scaled up to the whole.
    Branches of one trunk repeat each other: a size counts once, with the mean over its budgets.
    """
    squares, dof = SEED_WEIGHT * SEED**2 * (1 - SHARED_SEED), SEED_WEIGHT
    for params in np.unique(cells.log_params):
        found = [_rest(log_losses, cells, (cells.log_params == params) & (cells.log_tokens == tokens))
                 for tokens in np.unique(cells.log_tokens[cells.log_params == params])]  # fmt: skip
        seen = [(square, n) for square, n in found if n > 0]
        if seen:
            n = float(np.mean([n for _, n in seen]))
            squares += n * float(np.mean([square / n for square, n in seen]))
            dof += n
    return float(np.sqrt(squares / dof / (1 - SHARED_SEED)))


def _rest(log_losses: Array, cells: Cells, here: np.ndarray) -> tuple[float, int]:
    """Sum of squares of a cell's runs beside the means of its arms and of its seeds, and its degrees of freedom."""
    arms, seeds = np.unique(cells.arm[here]), np.unique(cells.seed[here])
    table = np.full((len(arms), len(seeds)), np.nan)
    table[np.searchsorted(arms, cells.arm[here]), np.searchsorted(seeds, cells.seed[here])] = log_losses[here]
    full = table[:, ~np.isnan(table).any(axis=0)]
    rest = full - full.mean(0) - full.mean(1, keepdims=True) + full.mean() if full.size else full
    return float((rest**2).sum()), max(len(arms) - 1, 0) * max(full.shape[1] - 1, 0)
