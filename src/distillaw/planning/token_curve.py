"""How the loss of one student goes on with tokens: a power law above a floor, as far as its runs do not say by a prior.

    L(D) = L_k (phi + (1 - phi) (D / D_k)^-beta)        D_k: the largest budget that was run

Two or three budgets say little of floor and exponent apart, and that decides how far the loss falls in ten times the
tokens. So both have priors, learnt on curves of other people and of our own, and the prediction is the posterior's: one
prior for students of text, one for students of a teacher, whose floor is their teacher's loss. No curve is exactly of
this form, so that budgets count the less the further they lie from the largest one, and the interval grows by the same
drift with the distance (benchmarks/fits/paired_extrapolation.py chooses and judges; docs/verdict.md has the tables).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePrior:
    """What is known of curves of one kind before any run."""

    floor: tuple[float, float]
    """Of text: mean and standard deviation of logit(phi) at `MANY` tokens per parameter. From a teacher: of ln(floor /
    teacher's loss), Student's t with three degrees of freedom."""
    rise: float = 0.0
    """Of the mean of logit(phi) per e-fold of tokens per parameter: of few tokens most is still to be learnt."""
    exponent: tuple[float, float]
    """Mean and standard deviation of ln beta."""
    drift: float
    """Standard deviation by which a curve leaves the form, in ln L per e-fold of tokens from the largest budget."""


TEXT = CurvePrior(floor=(1.5, 1.2), rise=0.5, exponent=(math.log(0.3), 0.6), drift=0.015)
TAUGHT = CurvePrior(floor=(0.0, 0.01), exponent=(math.log(0.7), 0.8), drift=0.006)
MANY = 20.0
NOISE = 0.003
"""Standard deviation of ln L of one run, as is assumed of seeds (planning/gains.py)."""
PAST = 0.5
"""Of the drift: what counts against budgets below the largest; floor and exponent follow the past, not what comes."""
SHORT = 5e5
"""Tokens: a curve that ends there drifts twice as much from there on, an earlier one up to three times. The first
hundred thousands of tokens are no power law yet: losses fall faster after them than before (open study: by 6 to 9 %
an e-fold up to 410k tokens, by 10 to 11 % up to 820k)."""
_PHI = np.linspace(0.02, 0.99, 40)[:, None]
_BETA = np.geomspace(0.03, 3.0, 44)


class Drawn(NamedTuple):
    """A curve at a budget beyond its runs."""

    loss: float
    """nats/token."""
    sd: float
    """Standard deviation of what the runs leave open of the curve, nats/token; noise of the run itself is not in it."""
    slopes: tuple[float, ...]
    """d loss / d loss of each run."""
    floor: float
    """What the loss is taken to approach, posterior mean, nats/token."""


def draw_on(
    budgets: Sequence[float],
    losses: Sequence[float],
    tokens: float,
    *,
    params: float,
    teacher_loss: float | None,
) -> Drawn:
    """The loss at more tokens than any run had.

    Args:
        budgets: tokens of each run, ascending, shape (K,).
        losses: nats/token, shape (K,).
        tokens: asked about.
        params: the student's.
        teacher_loss: nats/token; None of a student that learns from text, or from text as well.
    """
    ends, step = len(losses), 1e-4
    x, ahead = np.log(np.asarray(budgets) / budgets[-1]), math.log(tokens / budgets[-1])
    y = np.log(np.asarray(losses)) + step * np.vstack([np.zeros(ends), np.eye(ends), -np.eye(ends)])
    mean, sd, floor = _posterior(x, y, ahead, budgets[-1], budgets[-1] / params, teacher_loss)
    loss = math.exp(mean[0])
    slopes = (mean[1 : ends + 1] - mean[ends + 1 :]) / (2 * step) * loss / np.asarray(losses)
    return Drawn(loss, sd * loss, tuple(slopes.tolist()), floor)


def _posterior(
    x: Array, y: Array, ahead: float, longest: float, per_param: float, teacher_loss: float | None
) -> tuple[Array, float, float]:
    """Means of ln L for every row of y (ln of the losses, shape (B, K)), and sd and floor for the first."""
    prior = TEXT if teacher_loss is None else TAUGHT
    weight = 1 / (NOISE**2 + (PAST * prior.drift * x) ** 2)
    apart = y[:, None, None, :] - _shape(x)  # (B, phi, beta, K)
    level = apart @ (weight / weight.sum())
    fit = -0.5 * ((apart - level[..., None]) ** 2 @ weight)
    fit = fit + _log_prior(prior, y[:, -1], per_param, teacher_loss)
    p = np.exp(fit - fit.max(axis=(1, 2), keepdims=True))
    p /= p.sum(axis=(1, 2), keepdims=True)
    at = level + _shape(np.array([ahead]))[..., 0]
    mean = (p * at).sum(axis=(1, 2))
    drift = prior.drift * (1 + min(SHORT / longest, 2.0)) * ahead
    variance = float((p[0] * (at[0] - mean[0]) ** 2).sum()) + drift**2
    return mean, math.sqrt(variance), float((p[0] * _PHI * np.exp(level[0])).sum())


def _shape(x: Array) -> Array:
    """ln (L / L_k) at ln(D / D_k) = x, shape (phi, beta, len(x))."""
    return np.log(_PHI[..., None] + (1 - _PHI[..., None]) * np.exp(-_BETA[:, None] * x))


def _log_prior(prior: CurvePrior, last: Array, per_param: float, teacher_loss: float | None) -> Array:
    """Up to a constant, shape (B, phi, beta)."""
    mean, sd = prior.floor
    if teacher_loss is None:
        z = (np.log(_PHI / (1 - _PHI)) - mean - prior.rise * math.log(per_param / MANY)) / sd
        floor = -0.5 * z**2 - np.log(_PHI * (1 - _PHI))
        floor = np.broadcast_to(floor, (len(last), *floor.shape))
    else:
        z = (np.log(_PHI / teacher_loss) + last[:, None, None] - mean) / sd
        floor = -2 * np.log1p(z**2 / 3)
    middle, width = prior.exponent
    return floor - 0.5 * ((np.log(_BETA) - middle) / width) ** 2
