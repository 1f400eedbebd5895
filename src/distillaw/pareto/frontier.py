"""The frontier of score against compute, and the place of one model with its uncertainty. Torch-free.

    staircase   the models that no other beats at equal or less compute
    hull        of these, the corners of the upper concave hull over log compute: what mixtures of budgets could reach

Which of the two is drawn is always said. Published frontiers are often smooth lines drawn by eye; these are not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distillaw.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePoint:
    """One model."""

    name: str
    compute: float
    """FLOP on one axis, the same for all points of a picture."""
    score: float
    """Larger is better."""
    se: float | None = None
    """Standard error of the score; None where nothing is known of it."""
    is_own: bool = False
    is_chat: bool = False
    """Tuned to follow instructions; scored on the same tests as base models."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPlace:
    """Where a model stands among others."""

    best: ScorePoint | None
    """The best of the others at no more compute; None where all others cost more."""
    ahead: float | None
    """Score minus that of `best`."""
    ahead_se: float | None
    """Standard error of `ahead`, of what is known of both scores."""
    probability: float | None
    """That it is ahead of `best`: the normal distribution of `ahead`; None where no error is known."""
    cheapest: ScorePoint | None
    """The cheapest other that scores at least as much; None where none does."""


def staircase(points: Sequence[ScorePoint]) -> list[ScorePoint]:
    """The points that no other beats: less or equal compute and at least the score; ascending.

    Raises:
        DataError: a compute or score that is not finite, or a compute not above 0.
    """
    _check(points)
    frontier: list[ScorePoint] = []
    for point in sorted(points, key=lambda p: (p.compute, -p.score)):
        if not frontier or point.score > frontier[-1].score:
            frontier.append(point)
    return frontier


def hull(points: Sequence[ScorePoint]) -> list[ScorePoint]:
    """The corners of the upper-left concave hull over the logarithm of compute; ascending.

    Raises:
        DataError: as `staircase`.
    """
    corners: list[ScorePoint] = []
    for point in staircase(points):
        while len(corners) >= 2 and _is_below(corners[-1], corners[-2], point):
            corners.pop()
        corners.append(point)
    return corners


FRONTIERS = {"staircase": staircase, "hull": hull}
"""By the name that `--frontier` takes."""


def place(point: ScorePoint, others: Sequence[ScorePoint]) -> FrontierPlace:
    """Where a point stands among others; a point of its own name does not count.

    Raises:
        DataError: as `staircase`.
    """
    _check([point, *others])
    others = [other for other in others if other.name != point.name]
    cheaper = [other for other in others if other.compute <= point.compute]
    best = max(cheaper, key=lambda other: other.score, default=None)
    reached = [other for other in others if other.score >= point.score]
    cheapest = min(reached, key=lambda other: other.compute, default=None)
    if best is None:
        return FrontierPlace(best=None, ahead=None, ahead_se=None, probability=None, cheapest=cheapest)
    ahead = point.score - best.score
    known = [se for se in (point.se, best.se) if se is not None]
    se = math.hypot(*known) if known else None
    probability = None if not se else 0.5 * math.erfc(-ahead / (se * math.sqrt(2)))
    return FrontierPlace(best=best, ahead=ahead, ahead_se=se, probability=probability, cheapest=cheapest)


def _is_below(middle: ScorePoint, left: ScorePoint, right: ScorePoint) -> bool:
    """Whether a corner lies on or under the line through its neighbours."""
    share = math.log(middle.compute / left.compute) / math.log(right.compute / left.compute)
    return middle.score <= left.score + share * (right.score - left.score)


def _check(points: Sequence[ScorePoint]) -> None:
    for point in points:
        if not (math.isfinite(point.score) and math.isfinite(point.compute) and point.compute > 0):
            raise DataError(
                f"{point.name}: compute {point.compute:g} FLOP, score {point.score:g}; a point needs a finite score "
                "and a finite compute above 0"
            )


def place_words(point: ScorePoint, points: Sequence[ScorePoint]) -> str:
    """Where one model stands, in a sentence with its uncertainty."""
    found = place(point, points)
    if found.best is None:
        return f"{point.name}: no other model here costs as little, so nothing is said of its place"
    said = f"{point.name}: {_versus(found)}"
    if found.cheapest is not None:
        ratio = found.cheapest.compute / point.compute
        said += f"; as good at {_times(ratio)} its compute: {found.cheapest.name}"
    return said


def _versus(found: FrontierPlace) -> str:
    assert found.best is not None and found.ahead is not None
    side = "ahead of" if found.ahead > 0 else "behind"
    error = sure = ""
    if found.ahead_se is not None and found.probability is not None:
        error, sure = f" ± {found.ahead_se:.2g}", f" (probability to be ahead {_chance(found.probability)})"
    return f"{abs(found.ahead):.3g}{error} {side} the best at no more compute, {found.best.name}{sure}"


def _times(ratio: float) -> str:
    """A ratio to two digits: 0.35 times, 1/2,000 of, 80,000,000 times."""
    if ratio < 0.01:
        return f"1/{float(f'{1 / ratio:.2g}'):,.0f} of"
    return f"{float(f'{ratio:.2g}'):,.0f} times" if ratio >= 100 else f"{ratio:.2g} times"


def _chance(probability: float) -> str:
    """Per cent; what rounds to certainty is not said to be certain."""
    return (
        "over 99 %" if probability > 0.995 else "under 1 %" if probability < 0.005 else f"{probability:.0%}"
    )
