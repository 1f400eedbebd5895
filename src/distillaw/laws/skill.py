"""From loss to skill: a task's score as a sigmoid in held-out loss, and how little is known of it.

    score(L) = floor + (1 - floor) / (1 + exp((L - L0) / w))

A sigmoid between what models without skill score and everything right; of the task's own loss it is the second step of
Bhagia et al. 2024 (arXiv 2412.04403), of held-out loss the form beside the exponential of Gadre et al. 2024 (arXiv
2403.08540). L0, where half of what can be won is won, w (nats/token) and the floor belong to a training corpus, its
tokenizer, the text the loss was measured on and the prompts: between corpora L0 differs by half a nat. So a law is a
distribution of (L0, ln w, floor) over corpora (benchmarks/fits/skill_law.py), with the scatter between models of one
loss. Losses of an unknown corpus give wide intervals, and one score that was measured at a known loss narrows them
(`anchored`).

`data/skill.json` holds the laws (`python -m benchmarks.fits.skill`). Whether a distilled student has the skill of
another of its loss is not known: nobody has published runs that say so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any

import numpy as np

from distillaw.errors import ConfigError
from distillaw.laws.base import Array, Box
from distillaw.quantities import did_you_mean, parse_count

POINTS = 2048
"""Points of the intervals, the same for every law: an additive recurrence in six dimensions (Roberts 2018)."""
_GROWTH = 1.1347241384015194
"""Root of x^7 = x + 1, whose powers make the recurrence fill a six-dimensional cube evenly."""
STEEPEST = 4.0
"""Bound on |ln w|, w in nats: beyond it a curve is a step or flat."""
_LAW, _MODEL, _INPUT = slice(0, 3), (3, 4), 5
"""Dimensions: the corpus, scatter of two models, the loss itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillScore:
    """A predicted score or difference of scores, shares of 1; of a model that would be measured."""

    median: float
    lower: float
    upper: float
    at_chance: bool
    """Whether the interval covers chance; of a difference, zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillLaw:
    """One task's law."""

    task: str
    chance: float
    """Score of guessing."""
    status: str
    """CONVERGED, or WEAKLY_IDENTIFIED where differences on a corpus left out are told no better than by a line or as
    none, until one score is known there."""
    centre: tuple[float, float, float]
    """Mean over corpora of L0 (nats/token), ln(1 / w) and floor."""
    covariance: tuple[tuple[float, float, float], ...]
    """Of the same between corpora."""
    scatter: float
    """Standard deviation of models of one corpus and loss, sampling of the questions included."""
    corpora: tuple[str, ...]
    freedom: int
    """Of the Student's t over corpora: collections of runs less one."""
    models: int
    losses: tuple[float, float]
    """Range of the runs, nats/token."""
    anchors: tuple[tuple[float, float], ...] = ()
    """(loss, score) pairs that were measured on the corpus asked about."""

    def anchored(self, *pairs: tuple[float, float]) -> "SkillLaw":
        """The law of the corpus on which models of these losses had these scores.

        Raises:
            ConfigError: a loss that is not positive or a score outside 0 to 1.
        """
        for loss, score in pairs:
            if not (0 < loss < 50 and 0 <= score <= 1):
                raise ConfigError(
                    f"{self.task}: a score of {score:g} at a loss of {loss:g}; a score is a share between 0 and 1, a "
                    "loss is in nats/token: 3.1=0.62"
                )
        return replace(self, anchors=(*self.anchors, *pairs))

    def score(self, loss: Sequence[float], level: float = 0.9) -> SkillScore:
        """The score at a loss.

        Args:
            loss: its (mean, lower, upper) at `level`, nats/token.
            level: of the intervals.
        """
        theta, weights = _corpus(self)
        at = _curve(theta, _split(loss, level))
        return _score(at + self.scatter * _normal(_MODEL[0]), weights, level, self.chance)

    def gain(self, loss: Sequence[float], gain: Sequence[float], level: float = 0.9) -> SkillScore:
        """What a gain in loss is worth: score at `loss - gain` minus that at `loss`, of two measured models.

        Args:
            loss: (mean, lower, upper) of the model that is improved upon, nats/token.
            gain: (mean, lower, upper), nats/token.
            level: of the intervals.
        """
        theta, weights = _corpus(self)
        base = np.full(POINTS, loss[0])
        at = _curve(theta, base - _split(gain, level)) - _curve(theta, base)
        noise = self.scatter * (_normal(_MODEL[0]) - _normal(_MODEL[1]))
        return _score(at + noise, weights, level, 0.0)

    @property
    def box(self) -> Box:
        """Where runs were."""
        return Box.of({"loss": self.losses})


@cache
def _corpus(law: SkillLaw) -> tuple[Array, Array]:
    """(L0, ln 1/w, floor) of a corpus not seen, (3, POINTS), and what the anchors leave of each, (POINTS,), sum 1."""
    from scipy.special import stdtrit  # heavy, and a plan without a task needs none of it

    root = np.linalg.cholesky(np.array(law.covariance) * (1 + 1 / (law.freedom + 1)))
    theta = np.array(law.centre)[:, None] + root @ stdtrit(law.freedom, _cube()[_LAW])
    log = np.zeros(POINTS)
    for loss, score in law.anchors:
        log -= 0.5 * ((_curve(theta, np.full(POINTS, loss)) - score) / law.scatter) ** 2
    weights = np.exp(log - log.max())
    return theta, weights / weights.sum()


def _curve(theta: Array, loss: Array) -> Array:
    from scipy.special import expit

    halfway, steepness, floor = theta
    return floor + (1 - floor) * expit((halfway - loss) * np.exp(np.clip(steepness, -STEEPEST, STEEPEST)))


@cache
def _cube() -> Array:
    step = _GROWTH ** -np.arange(1.0, 7.0)
    return (0.5 + np.outer(step, np.arange(POINTS))) % 1


def _normal(dimension: int) -> Array:
    from scipy.special import ndtri

    return ndtri(_cube()[dimension])


def _split(interval: Sequence[float], level: float) -> Array:
    """Draws of a quantity with its interval: a normal half of its own on either side of the mean."""
    mean, lower, upper = interval
    z = _normal(_INPUT) / NormalDist().inv_cdf(0.5 + level / 2)
    return mean + z * np.where(z > 0, upper - mean, mean - lower)


def _score(draws: Array, weights: Array, level: float, chance: float) -> SkillScore:
    order = np.argsort(draws)
    cumulated = np.cumsum(weights[order])
    tail = (1 - level) / 2
    lower, median, upper = (float(draws[order[np.searchsorted(cumulated, q)]]) for q in (tail, 0.5, 1 - tail))
    return SkillScore(median=median, lower=lower, upper=upper, at_chance=lower <= chance <= upper)


@cache
def skill_laws() -> Mapping[str, SkillLaw]:
    """The laws by task."""
    record = json.loads((files("distillaw.laws") / "data" / "skill.json").read_text(encoding="utf-8"))
    return {task: read_skill(task, law) for task, law in record["laws"].items()}


def read_skill(task: str, law: dict) -> SkillLaw:
    """A law from its record, which is its fields by name."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in law.items()}
    return SkillLaw(task=task, **fields | {"covariance": tuple(map(tuple, law["covariance"]))})


def skill_law(task: str) -> SkillLaw:
    """The law of one task.

    Raises:
        ConfigError: no law of this name; says which there are.
    """
    laws = skill_laws()
    if task not in laws:
        raise ConfigError(
            f"no law from loss to {task}{did_you_mean(task, laws)}: there are {', '.join(laws)}; of other tasks public "
            "runs have no score above chance, or none beside a loss"
        )
    return laws[task]


def told_skill(task: str | None, score_at: Sequence[str] | None) -> SkillLaw | None:
    """The law of a task, told the scores that were measured; None where no task was asked for.

    Args:
        task: one of `skill_laws`.
        score_at: LOSS=SCORE pairs, nats/token and a share of 1 or per cent with its sign.

    Raises:
        ConfigError: no such task, a pair that is none, or scores without a task.
    """
    if task is not None:
        return skill_law(task).anchored(*(_pair(said) for said in score_at or ()))
    if score_at:
        raise ConfigError(f"--score-at {score_at[0]} does nothing here: it belongs to --metric, e.g. --metric arc_easy")
    return None


def _pair(said: str) -> tuple[float, float]:
    loss, _, score = said.partition("=")
    try:
        share = float(score.rstrip("% ")) / (100 if score.strip().endswith("%") else 1)
        return parse_count(loss, name="--score-at"), share
    except ValueError:
        raise ConfigError(
            f"--score-at {said}: it is LOSS=SCORE, nats/token and a share of 1, e.g. 3.1=0.62 or 3.1=62%"
        ) from None
