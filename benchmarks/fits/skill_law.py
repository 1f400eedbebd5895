"""A skill law from runs that have a held-out loss and a task's score, by corpus (laws/skill.py has the equation).

Corpora are drawn from a normal distribution of (L0, ln 1/w, floor), models of one loss scatter around their corpus's
curve. A collection of runs counts once, however many corpora it has. All is estimated by EM with a Gauss-Newton
approximation of every corpus's posterior (Laird & Ware 1982; Lindstrom & Bates 1990 for curves): a corpus of few or
narrow runs says little and borrows the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import expit

from distillaw.errors import DataError
from distillaw.laws.base import Array
from distillaw.laws.skill import SkillLaw

START = np.array([2.8, 0.7, 0.0])
SPREAD = np.array([0.5, 0.5, 0.05])
"""Where EM begins: L0, ln 1/w, floor above chance."""
LEAST = np.array([0.05, 0.05, 0.005])
"""Spread between corpora below which it is not believed: keeps a covariance of few from collapsing."""
ROUNDS, CLOSE = 100, 1e-3
"""EM stops here, or once no coefficient of the centre moves by more (nats; the floor is a share)."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Of one corpus: losses in nats/token and scores as shares, both (n,)."""

    loss: Array
    score: Array


Corpora: TypeAlias = Mapping[tuple[str, str], Runs]
"""By (collection, corpus)."""


def fit_skill(task: str, corpora: Corpora, *, chance: float, status: str = "CONVERGED") -> SkillLaw:
    """The law of a task.

    Args:
        task: its name.
        corpora: runs; rows that belong together (checkpoints of one run) should be few.
        chance: score of guessing, near which the floor is sought.
        status: what is known of the law's worth, judged by whoever left corpora out.

    Raises:
        DataError: fewer than two collections, or a loss or score that is none.
    """
    collections = [collection for collection, _ in corpora]
    count = len(set(collections))
    if count < 2:
        raise DataError(f"{task}: runs of {count} collection; how far collections differ takes at least two")
    for name, runs in corpora.items():
        bad = ~(np.isfinite(runs.loss) & (runs.loss > 0) & (runs.score >= 0) & (runs.score <= 1))
        if bad.any():
            j = int(bad.argmax())
            raise DataError(f"{task}, {name}: loss {runs.loss[j]}, score {runs.score[j]}; a score is a share of 1")
    share = np.array([1 / (count * collections.count(name)) for name in collections])
    centre, covariance, scatter = START + np.array([0, 0, chance]), np.diag(SPREAD**2), 0.02
    found = [centre] * len(corpora)
    for _ in range(ROUNDS):
        before = centre
        prior = np.linalg.inv(covariance).astype(np.float64)
        fits = [
            _posterior(runs, start, centre, prior, scatter) for runs, start in zip(corpora.values(), found, strict=True)
        ]
        found = [fit[0] for fit in fits]
        centre = share @ np.array(found)
        away = np.array(found) - centre
        between = (away.T * share) @ away * count / (count - 1)
        covariance = between + np.tensordot(share, [fit[1] for fit in fits], 1) + np.diag(LEAST**2)
        scatter = float(np.sqrt(sum(fit[2] for fit in fits) / sum(fit[3] for fit in fits)))
        if np.abs(centre - before).max() < CLOSE:
            break
    losses = np.concatenate([runs.loss for runs in corpora.values()])
    return SkillLaw(
        task=task,
        chance=chance,
        status=status,
        centre=tuple(centre.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        scatter=scatter,
        corpora=tuple(": ".join(name) for name in corpora),
        freedom=count - 1,
        models=len(losses),
        losses=(float(losses.min()), float(losses.max())),
    )


def _posterior(
    runs: Runs, theta: Array, centre: Array, prior: Array, scatter: float
) -> tuple[Array, Array, float, float]:
    """A corpus's parameters, their covariance, its sum of squares and its degrees of freedom."""

    def at(theta: Array) -> tuple[Array, Array, float]:
        steep = np.exp(theta[1])
        shape = expit((theta[0] - runs.loss) * steep)
        slope = (1 - theta[2]) * shape * (1 - shape) * steep
        misfit = theta[2] + (1 - theta[2]) * shape - runs.score
        away = theta - centre
        objective = misfit @ misfit / scatter**2 + away @ prior @ away
        return misfit, np.stack([slope, slope * (theta[0] - runs.loss), 1 - shape], axis=1), objective

    misfit, jacobian, objective = at(theta)
    for _ in range(20):
        precision = jacobian.T @ jacobian / scatter**2 + prior
        step = -np.linalg.solve(precision, jacobian.T @ misfit / scatter**2 + prior @ (theta - centre))
        for _ in range(10):
            ahead = at(theta + step)
            if ahead[2] <= objective:
                break
            step /= 2
        else:
            break
        gained, theta = objective - ahead[2], theta + step
        misfit, jacobian, objective = ahead
        if gained < 1e-6:
            break
    inverse = np.linalg.inv(jacobian.T @ jacobian / scatter**2 + prior).astype(np.float64)
    used = float(np.trace(jacobian @ inverse @ jacobian.T)) / scatter**2
    return theta, inverse, float(misfit @ misfit), len(runs.loss) - used
