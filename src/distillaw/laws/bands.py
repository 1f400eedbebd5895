"""The interval of a prediction from a published law, or why there is none.

A paper prints coefficients, seldom an error of its predictions, and intervals of single coefficients without
their correlations say nothing about the loss. So the band is what the record states: an error reported by the
paper or measured on the public runs, around the loss, or around the span of sets that contradict each other.
Outside the fitted range nothing is known of the error, and there is no band. Fitted laws bring their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from distillaw.laws.published import PredictionError, PublishedLaw, published

_STATED_LEVEL = 0.9
"""Coverage that the half widths in the records stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An interval and what it means; without one, `meaning` says why."""

    interval: tuple[float, float] | None
    meaning: str


def published_band(
    law: PublishedLaw, *, part: str, coords: Mapping[str, float], is_inside: bool, level: float = 0.9
) -> Band:
    """The band of one prediction.

    Args:
        law: the law that predicted.
        part: supervised, repeated or distillation: what was evaluated.
        coords: keyword arguments of that part.
        is_inside: whether the prediction lies in the fitted range.
        level: coverage wanted; other levels than 0.9 assume a normal error.
    """
    error = next(
        (e for e in law.record.errors if e.part == ("supervised" if part == "repeated" else part)), None
    )
    if error is None:
        return Band(
            interval=None, meaning=f"{law.name} states no error of its predictions, only point values"
        )
    if not is_inside:
        return Band(
            interval=None,
            meaning=f"outside the range of the runs behind {law.name}, where the error of its predictions is unknown",
        )
    quantile = NormalDist().inv_cdf
    half = error.relative * quantile((1 + level) / 2) / quantile((1 + _STATED_LEVEL) / 2)
    losses = [float(getattr(one, part)(**coords)) for one in (law, *map(published, error.span))]
    return Band(
        interval=(min(losses) * (1 - half), max(losses) * (1 + half)),
        meaning=_meaning(law, error, half, level),
    )


def _meaning(law: PublishedLaw, error: PredictionError, half: float, level: float) -> str:
    around = f"the span of {', '.join((law.name, *error.span))}" if error.span else "the point value"
    scaled = (
        "" if level == _STATED_LEVEL else f", scaled from 90 % to {100 * level:g} % as for a normal error"
    )
    return f"{100 * half:.2g} % around {around}{scaled}: {error.source}"
